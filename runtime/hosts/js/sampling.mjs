// Sampling of a token from logits and a uniform by the rules in docs/formats.md, which compute in float64 as JavaScript does.

import { HostError, shown } from './errors.mjs';

const MIN_TEMPERATURE = 1e-6;

export const DEFAULTS = {
  maxNewTokens: 200,
  doSample: true, // false: greedy, the other settings have no effect
  temperature: 1, // 0: greedy
  topK: 0, // 0: all
  topP: 1, // 1: all
  seed: 0n, // a BigInt: it has 64 bits
};

/** Return `settings` with defaults, temperature 0 as greedy; throws a HostError that names a setting out of range. */
export function checkSettings(settings = {}) {
  const all = { ...DEFAULTS, ...settings };
  const unknown = Object.keys(all).filter((name) => !Object.hasOwn(DEFAULTS, name));
  if (unknown.length) {
    throw new HostError(`settings: no ${unknown.join(', ')}; there are ${Object.keys(DEFAULTS).join(', ')}`);
  }
  const { maxNewTokens, doSample, temperature, topK, topP, seed } = all;
  const need = (name, good, what) => {
    if (!good) throw new HostError(`${name}: got ${shown(all[name])}, needs ${what}`);
  };
  need('maxNewTokens', Number.isSafeInteger(maxNewTokens) && maxNewTokens >= 1, 'a whole number of at least 1');
  need('doSample', typeof doSample === 'boolean', 'true or false');
  const divides = Number.isFinite(temperature) && (temperature === 0 || temperature >= MIN_TEMPERATURE);
  need('temperature', divides, '0, which is greedy, or a number from 1e-06');
  need('topK', Number.isSafeInteger(topK) && topK >= 0, 'a whole number of at least 0');
  need('topP', typeof topP === 'number' && topP >= 0 && topP <= 1, 'a number from 0 to 1');
  need('seed', typeof seed === 'bigint' && seed >= 0n && seed < 2n ** 64n, 'a BigInt from 0 to 2^64 - 1');
  return temperature === 0 ? { ...all, doSample: false, temperature: 1 } : all;
}

/** Return the lowest index of the maximum. */
function largest(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

/** Return a mask of the kept tokens: the topK largest, and among them the smallest set with probability topP. */
function kept(scores, top, { topK, topP }) {
  // sorting numbers takes a fraction of the time of sorting indices; ties have equal weights, so their order is irrelevant
  const falling = scores.slice().sort().reverse();
  const largest = topK > 0 ? falling.subarray(0, topK) : falling;
  let count = largest.length;
  if (topP < 1) {
    const weights = largest.map((score) => Math.exp(score - top));
    const limit = topP * weights.reduce((sum, weight) => sum + weight, 0);
    let before = weights[0];
    for (count = 1; count < weights.length && before < limit; count++) before += weights[count];
  }
  const least = largest[count - 1];
  let ties = count - largest.indexOf(least); // among tokens of the lowest kept score, those of the lowest indices are kept
  return scores.map((score) => (score > least || (score === least && ties-- > 0) ? 1 : 0));
}

/** Return the token for one row of logits (V) and a uniform `u` in [0, 1), which greedy ignores. */
export function choose(logits, settings, u) {
  const V = logits.length;
  const best = largest(logits);
  if (!Number.isFinite(logits[best]) || logits.some(Number.isNaN)) {
    throw new HostError("the model's logits are not finite; its weights are damaged");
  }
  if (!settings.doSample) return best;
  const scores = new Float64Array(logits);
  for (let i = 0; i < V; i++) scores[i] /= settings.temperature;
  const stays = settings.topK > 0 || settings.topP < 1 ? kept(scores, scores[best], settings) : null;
  const cdf = new Float64Array(V);
  let sum = 0;
  let last = best;
  for (let i = 0; i < V; i++) {
    const weight = stays === null || stays[i] ? Math.exp(scores[i] - scores[best]) : 0;
    sum += weight;
    cdf[i] = sum;
    if (weight > 0) last = i;
  }
  const index = cdf.findIndex((cumulative) => cumulative > u * sum);
  return index < 0 ? last : index; // no index if u·sum was rounded up to sum
}
