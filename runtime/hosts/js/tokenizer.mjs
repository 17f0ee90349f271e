// Text to ids and back, by Unicode code points, words, white space or byte pairs, by the rules of docs/formats.md.

import { BytePairs, SPACE } from './bpe.mjs';
import { HostError, shown } from './errors.mjs';

const UNK = '<unk>';
const BOS = '<bos>';
const EOS = '<eos>';
const SPECIALS = [UNK, BOS, EOS];
const UNKNOWN = ['error', 'replace', 'skip'];
const NORMALIZATIONS = ['none', 'NFC', 'NFD', 'NFKC', 'NFKD'];

const LETTER = '\\p{L}\\p{N}_'; // \w of Python; that of JavaScript is ASCII only
const CONTINUED = '[\\p{M}\\u200c\\u200d]'; // combining marks and joiners
const NOT_SPACES = new RegExp(`[^${SPACE}]+`, 'gu');
const HAS_SPACE = new RegExp(`[${SPACE}]`, 'u');
const ENDS_IN_SPACE = new RegExp(`[${SPACE}]$`, 'u');
const NO_SPACE_BEFORE = new Set([...',.;:!?)]}']);
const NO_SPACE_AFTER = new Set([...'([{']);

/** Return the pattern of a word, and of a punctuation mark if those are kept; `continued`: marks and joiners continue both. */
function wordPattern(punctuation, continued) {
  const letters = continued ? `[${LETTER}]+(?:${CONTINUED}+[${LETTER}]*)*` : `[${LETTER}]+`;
  const word = `${letters}(?:['’]${letters})*`;
  const mark = `[^${LETTER}${SPACE}]${continued ? `${CONTINUED}*` : ''}`;
  return new RegExp(punctuation ? `${word}|${mark}` : word, 'gu');
}

/** Lower case independent of neighbouring characters: toLowerCase turns Σ into ς at the end of a word. */
const lower = (text) => text.replaceAll('Σ', 'σ').toLowerCase();

/** Return a function that prepares texts: normalise, lower-case, and normalise the lower case. */
function preparation(form, lowercase) {
  const normalized = form === 'none' ? (text) => text : (text) => text.normalize(form);
  return lowercase ? (text) => normalized(lower(normalized(text))) : normalized;
}

const LEVELS = {
  char: { what: 'character', split: (text) => Array.from(text) }, // an array of code points, not of UTF-16 units
  word: { what: 'word', split: (text, { pattern }) => text.match(pattern) ?? [] },
  whitespace: {
    what: 'word',
    split: (text, { keepsLines }) => (keepsLines ? text.replaceAll('\n', ` ${EOS} `) : text).match(NOT_SPACES) ?? [],
  },
  bpe: {}, // see BytePairs
};

export class Tokenizer {
  /** Construct from the parsed description in the metadata. */
  constructor(description, where = 'model') {
    const { level, vocabulary, unknown, lowercase = false, punctuation = false, merges = [] } = description;
    const { normalize = 'none' } = description;
    const good =
      Object.hasOwn(LEVELS, level) &&
      UNKNOWN.includes(unknown) &&
      NORMALIZATIONS.includes(normalize) &&
      Array.isArray(vocabulary) &&
      vocabulary.every((token) => typeof token === 'string' && token !== '') &&
      new Set(vocabulary).size === vocabulary.length &&
      (level !== 'whitespace' || !vocabulary.some((token) => HAS_SPACE.test(token))) &&
      (unknown !== 'replace' || vocabulary.includes(UNK));
    const damaged = new HostError(`${where}: its tokenizer is damaged`);
    if (!good) throw damaged;
    Object.assign(this, { level, vocabulary, unknown });
    this.prepare = preparation(normalize, lowercase);
    this.pattern = wordPattern(punctuation, normalize !== 'none');
    this.ids = new Map(vocabulary.map((token, id) => [token, id]));
    [this.unkId, this.bosId, this.eosId] = SPECIALS.map((token) => this.ids.get(token)); // undefined: not in the vocabulary
    this.keepsLines = level === 'whitespace' && this.eosId !== undefined && this.bosId === undefined; // <eos> is a line end
    this.endId = this.keepsLines ? undefined : this.eosId; // ends a generated text
    try {
      this.pairs = level === 'bpe' ? new BytePairs(vocabulary, merges, [BOS, EOS]) : null;
    } catch (error) {
      throw error instanceof TypeError ? damaged : error;
    }
  }

  /** Return the ids of a text. */
  encode(text) {
    const { what, split } = LEVELS[this.level];
    const prepared = this.prepare(text);
    if (this.pairs) return this.pairs.encode(prepared);
    const ids = [];
    for (const token of split(prepared, this)) {
      const id = this.ids.get(token) ?? (this.unknown === 'replace' ? this.unkId : undefined);
      if (id !== undefined) ids.push(id);
      else if (this.unknown === 'error') {
        const point = token.codePointAt(0).toString(16).toUpperCase().padStart(4, '0');
        const code = this.level === 'char' ? ` (U+${point})` : '';
        throw new HostError(`the vocabulary has no ${what} ${shown(token)}${code}; leave it out`);
      }
    }
    return ids;
  }

  /** Return the ids of a prompt, at least one; they begin with <bos> if the vocabulary has it. */
  encodePrompt(prompt) {
    const ids = this.encode(prompt);
    if (this.bosId !== undefined) ids.unshift(this.bosId);
    if (ids.length === 0) {
      throw new HostError(
        `prompt: ${shown(prompt)} has no token to start from; begin with some, for instance ${shown(this.startPrompt())}`,
      );
    }
    return ids;
  }

  /** Return the default prompt: empty after a <bos>, else a line end, else the first token. */
  startPrompt() {
    if (this.bosId !== undefined) return '';
    if (this.pairs || this.keepsLines || this.ids.has('\n')) return '\n';
    return this.vocabulary.find((token) => !SPECIALS.includes(token)) ?? '';
  }

  /**
   * Return a decoder of ids one by one: `feed(id)` returns the text that the id adds, in whole characters, and `flush()`
   * the held-back rest at the end. The joined pieces equal the result of `decode`.
   */
  streamer() {
    const { feed, flush } = this.pairs ? this.pairs.streamer() : { feed: this.#joiner(), flush: () => '' };
    return {
      feed: (id) => {
        if (this.vocabulary[id] === undefined) throw new HostError(`decode: id ${id} is outside the vocabulary`);
        return feed(id);
      },
      flush,
    };
  }

  /** Return the text of ids. */
  decode(ids) {
    const { feed, flush } = this.streamer();
    return Array.from(ids, feed).join('') + flush();
  }

  /** Return the white space between a prompt and the text generated after it. */
  separator(prompt, text) {
    if (prompt === '' || text === '') return '';
    if (this.level === 'whitespace') return ENDS_IN_SPACE.test(prompt) || text.startsWith('\n') ? '' : ' ';
    return this.level === 'word' ? ' ' : '';
  }

  /** Return a token for display. */
  show(id) {
    const token = this.#text(id);
    return this.pairs && !SPECIALS.includes(token) ? this.pairs.show(id) : token;
  }

  /** Return a token, or the line end that it stands for. */
  #text(id) {
    return this.keepsLines && id === this.eosId ? '\n' : this.vocabulary[id];
  }

  /** Return a function of ids one by one, which returns the text that each adds: the token and the space before it. */
  #joiner() {
    let glue = true; // whether the next word follows without a space
    const { level, keepsLines } = this;
    const lineEnd = new Set(keepsLines ? '\n' : '');
    const [before, after] = level === 'word' ? [NO_SPACE_BEFORE, NO_SPACE_AFTER] : [lineEnd, lineEnd]; // tokens without a space
    return (id) => {
      const token = this.#text(id);
      if (token === BOS || token === EOS) return '';
      if (level === 'char') return token;
      const space = glue || before.has(token) ? '' : ' ';
      glue = after.has(token);
      return space + token;
    };
  }
}
