// Philox4x32-10: random numbers as a pure function of a key and a counter.
// Source: J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC11.

const ROUNDS = 10;
const MULTIPLIERS = [0xd2511f53, 0xcd9e8d57];
const WEYL = [0x9e3779b9, 0xbb67ae85]; // added to the key after every round

/** Return the high and low word of the product of two words; from 16-bit halves, because a number has 53 bits. */
function multiply(a, b) {
  const low = (a & 0xffff) * b; // < 2^48
  const high = (a >>> 16) * b + Math.floor(low / 0x10000); // < 2^49: the product without its last 16 bits
  return [Math.floor(high / 0x10000) >>> 0, ((high % 0x10000) * 0x10000 + (low % 0x10000)) >>> 0];
}

/** Return four random words for a counter of four words and a key of two. */
export function philox4x32(counter, key) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < ROUNDS; round++) {
    const [high0, low0] = multiply(MULTIPLIERS[0], c0);
    const [high1, low1] = multiply(MULTIPLIERS[1], c2);
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + WEYL[0]) >>> 0;
    k1 = (k1 + WEYL[1]) >>> 0;
  }
  return [c0, c1, c2, c3];
}

const words = (number) => [number % 2 ** 32, Math.floor(number / 2 ** 32)]; // low, high

/** Return the uniform in [0, 1) with 53 random bits for a step of a row; `seed` is a BigInt from 0 to 2^64 - 1. */
export function uniform(seed, row, step) {
  const key = [Number(seed & 0xffffffffn), Number(seed >> 32n)];
  const [x0, x1] = philox4x32([...words(step), ...words(row)], key);
  return ((x0 >>> 5) * 2 ** 26 + (x1 >>> 6)) / 2 ** 53;
}
