// Byte-pair tokenizer: text to ids and back by the rules of docs/formats.md.

// White space by the definition of \s in Python: JavaScript's includes U+FEFF, but not U+001C to U+001F and U+0085.
export const SPACE = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';
const LETTER = 'A-Z_a-z\\xc0-\\u167f\\u1681-\\u1fff\\u200b-\\u200f\\u2070-\\u2fff\\u3040-\\u{10ffff}';
const WORDS = new RegExp(
  `[ '’]?[${LETTER}]{1,64}| ?[0-9]{1,64}| ?[^${LETTER}0-9${SPACE}]{1,64}|[${SPACE}]{1,64}(?![^${SPACE}])|[${SPACE}]{1,64}`,
  'gu',
);

// The printable character that stands for a byte: itself if printable, else one from U+0100 on.
const SIGNS = [];
for (let byte = 0, hidden = 0x100; byte < 256; byte++) {
  const seen = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  SIGNS.push(String.fromCharCode(seen ? byte : hidden++));
}
const BYTES = new Map(SIGNS.map((sign, byte) => [sign, byte]));

export class BytePairs {
  /** `silent`: tokens without text. Throws a TypeError if vocabulary and merges do not form byte pairs. */
  constructor(vocabulary, merges, silent) {
    const ids = new Map(vocabulary.map((token, id) => [token, id]));
    const bytesOf = (token) => Uint8Array.from(token, (sign) => idOf(BYTES, sign));
    this.V = vocabulary.length;
    this.byteIds = SIGNS.map((sign) => idOf(ids, sign));
    this.bytes = vocabulary.map((token) => (silent.includes(token) ? new Uint8Array(0) : bytesOf(token)));
    this.joined = merges.map(([left, right]) => idOf(ids, vocabulary[left] + vocabulary[right]));
    this.ranks = new Map(merges.map(([left, right], rank) => [left * this.V + right, rank]));
  }

  /** Return the ids of a text. */
  encode(text) {
    return (text.match(WORDS) ?? []).flatMap((word) => this.#encodeWord(word));
  }

  /** Apply merges until none is left: the first in the list, the leftmost among equal ones. */
  #encodeWord(word) {
    const ids = Array.from(new TextEncoder().encode(word), (byte) => this.byteIds[byte]);
    for (;;) {
      let best = Infinity;
      let at = -1;
      for (let i = 0; i + 1 < ids.length; i++) {
        const rank = this.ranks.get(ids[i] * this.V + ids[i + 1]) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return ids;
      ids.splice(at, 2, this.joined[best]);
    }
  }

  /** Return a decoder of ids one by one; bytes of an incomplete character are held back. */
  streamer() {
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
    return { feed: (id) => decoder.decode(this.bytes[id], { stream: true }), flush: () => decoder.decode() };
  }

  /** Return a token for display: its text, or its bytes if they are not whole characters. */
  show(id) {
    try {
      return new TextDecoder('utf-8', { ignoreBOM: true, fatal: true }).decode(this.bytes[id]);
    } catch {
      return Array.from(this.bytes[id], (byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('');
    }
  }
}

function idOf(map, key) {
  const id = map.get(key);
  if (id === undefined) throw new TypeError(`no ${key}`);
  return id;
}
