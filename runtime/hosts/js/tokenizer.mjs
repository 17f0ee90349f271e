// Text to ids and back, by Unicode code points or by words.

import { HostError, shown } from './errors.mjs';

const UNK = '<unk>';
const BOS = '<bos>';
const EOS = '<eos>';
const SPECIALS = [UNK, BOS, EOS];
const UNKNOWN = ['error', 'replace', 'skip'];

// Python's \w and \s. JavaScript's \w is ASCII, and its \s has U+FEFF but not U+001C to U+001F and U+0085.
const LETTER = '\\p{L}\\p{N}_';
const SPACE = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';
const WORD = `[${LETTER}]+(?:['’][${LETTER}]+)*`;
const WORDS = new RegExp(WORD, 'gu');
const WORDS_AND_MARKS = new RegExp(`${WORD}|[^${LETTER}${SPACE}]`, 'gu');
const NO_SPACE_BEFORE = new Set([...',.;:!?)]}']);
const NO_SPACE_AFTER = new Set([...'([{']);

/** Lower case that does not depend on the neighbours: toLowerCase writes Σ as ς at the end of a word. */
const lower = (text) => text.replaceAll('Σ', 'σ').toLowerCase();

const LEVELS = {
  char: { what: 'character', split: (text) => Array.from(text) }, // an array of code points, not of UTF-16 units
  word: { what: 'word', split: (text, { punctuation }) => text.match(punctuation ? WORDS_AND_MARKS : WORDS) ?? [] },
};

export class Tokenizer {
  /** From the parsed `unrolled.tokenizer`. */
  constructor(description, where = 'model') {
    const { level, vocabulary, unknown, lowercase = false, punctuation = false } = description;
    const good =
      Object.hasOwn(LEVELS, level) &&
      UNKNOWN.includes(unknown) &&
      Array.isArray(vocabulary) &&
      vocabulary.every((token) => typeof token === 'string' && token !== '') &&
      new Set(vocabulary).size === vocabulary.length &&
      (unknown !== 'replace' || vocabulary.includes(UNK));
    if (!good) throw new HostError(`${where}: its unrolled.tokenizer is damaged`);
    Object.assign(this, { level, vocabulary, unknown, lowercase, punctuation });
    this.ids = new Map(vocabulary.map((token, id) => [token, id]));
    [this.unkId, this.bosId, this.eosId] = SPECIALS.map((token) => this.ids.get(token)); // undefined: has none
  }

  /** Ids of a text. */
  encode(text) {
    const { what, split } = LEVELS[this.level];
    const ids = [];
    for (const token of split(this.lowercase ? lower(text) : text, this)) {
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

  /** Ids of a prompt, at least one, behind <bos> where the vocabulary has it. */
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

  /** What begins a text when nobody said: nothing behind a <bos>, else a line end, else the first token. */
  startPrompt() {
    if (this.bosId !== undefined) return '';
    if (this.ids.has('\n')) return '\n';
    return this.vocabulary.find((token) => !SPECIALS.includes(token)) ?? '';
  }

  /** A function from the next id of a text to what it adds: the pieces, joined, are what `decode` gives. */
  decoder() {
    let glue = true; // whether the next word follows without a space
    return (id) => {
      const token = this.vocabulary[id];
      if (token === undefined) throw new HostError(`decode: id ${id} is outside the vocabulary`);
      if (token === BOS || token === EOS) return '';
      const space = this.level === 'word' && !glue && !NO_SPACE_BEFORE.has(token) ? ' ' : '';
      glue = NO_SPACE_AFTER.has(token);
      return space + token;
    };
  }

  /** The text of ids. */
  decode(ids) {
    return Array.from(ids, this.decoder()).join('');
  }
}
