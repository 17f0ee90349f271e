// Text to ids and back, by Unicode code points, words or byte pairs.

import { BytePairs, SPACE } from './bpe.mjs';
import { HostError, shown } from './errors.mjs';

const UNK = '<unk>';
const BOS = '<bos>';
const EOS = '<eos>';
const SPECIALS = [UNK, BOS, EOS];
const UNKNOWN = ['error', 'replace', 'skip'];

const LETTER = '\\p{L}\\p{N}_'; // \w of Python; that of JavaScript is ASCII only
const WORD = `[${LETTER}]+(?:['’][${LETTER}]+)*`;
const WORDS = new RegExp(WORD, 'gu');
const WORDS_AND_MARKS = new RegExp(`${WORD}|[^${LETTER}${SPACE}]`, 'gu');
const NO_SPACE_BEFORE = new Set([...',.;:!?)]}']);
const NO_SPACE_AFTER = new Set([...'([{']);

/** Lower case independent of neighbouring characters: toLowerCase turns Σ into ς at the end of a word. */
const lower = (text) => text.replaceAll('Σ', 'σ').toLowerCase();

const LEVELS = {
  char: { what: 'character', split: (text) => Array.from(text) }, // an array of code points, not of UTF-16 units
  word: { what: 'word', split: (text, { punctuation }) => text.match(punctuation ? WORDS_AND_MARKS : WORDS) ?? [] },
  bpe: {}, // see BytePairs
};

export class Tokenizer {
  /** Construct from the parsed `unrolled.tokenizer`. */
  constructor(description, where = 'model') {
    const { level, vocabulary, unknown, lowercase = false, punctuation = false, merges = [] } = description;
    const good =
      Object.hasOwn(LEVELS, level) &&
      UNKNOWN.includes(unknown) &&
      Array.isArray(vocabulary) &&
      vocabulary.every((token) => typeof token === 'string' && token !== '') &&
      new Set(vocabulary).size === vocabulary.length &&
      (unknown !== 'replace' || vocabulary.includes(UNK));
    const damaged = new HostError(`${where}: its unrolled.tokenizer is damaged`);
    if (!good) throw damaged;
    Object.assign(this, { level, vocabulary, unknown, lowercase, punctuation });
    this.ids = new Map(vocabulary.map((token, id) => [token, id]));
    [this.unkId, this.bosId, this.eosId] = SPECIALS.map((token) => this.ids.get(token)); // undefined: not in the vocabulary
    try {
      this.pairs = level === 'bpe' ? new BytePairs(vocabulary, merges, [BOS, EOS]) : null;
    } catch (error) {
      throw error instanceof TypeError ? damaged : error;
    }
  }

  /** Return the ids of a text. */
  encode(text) {
    const { what, split } = LEVELS[this.level];
    const cleaned = this.lowercase ? lower(text) : text;
    if (this.pairs) return this.pairs.encode(cleaned);
    const ids = [];
    for (const token of split(cleaned, this)) {
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
    if (this.pairs || this.ids.has('\n')) return '\n';
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

  /** Return a token for display. */
  show(id) {
    const token = this.vocabulary[id];
    return this.pairs && !SPECIALS.includes(token) ? this.pairs.show(id) : token;
  }

  #joiner() {
    let glue = true; // whether the next word follows without a space
    return (id) => {
      const token = this.vocabulary[id];
      if (token === BOS || token === EOS) return '';
      const space = this.level === 'word' && !glue && !NO_SPACE_BEFORE.has(token) ? ' ' : '';
      glue = NO_SPACE_AFTER.has(token);
      return space + token;
    };
  }
}
