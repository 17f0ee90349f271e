// From logits and a uniform to a token, by the rules in export/README.md. Numbers in JavaScript are float64, as those are.

import { HostError, shown } from './errors.mjs';

const MIN_TEMPERATURE = 1e-6;

export const DEFAULTS = {
  maxNewTokens: 200,
  doSample: true, // false: greedy, whatever the rest says
  temperature: 1, // 0: greedy
  topK: 0, // 0: all
  topP: 1, // 1: all
  seed: 0n, // a BigInt: it has 64 bits
};

/** `settings` with the defaults filled in, temperature 0 as greedy; HostError says which one is out of its range. */
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

/** The lowest index among the largest. */
function largest(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

/** Whether each token stays: among the topK largest, and among them the fewest that make up topP. */
function kept(scores, top, { topK, topP }) {
  // sorting numbers takes a fraction of sorting indices by them; equal scores weigh the same, whichever of them comes first
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
  let ties = count - largest.indexOf(least); // of the tokens of the least score those of the lowest indices
  return scores.map((score) => (score > least || (score === least && ties-- > 0) ? 1 : 0));
}

/** The token for one row of logits (V) and a uniform `u` in [0, 1), which greedy does not need. */
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
  return index < 0 ? last : index; // none where u·sum was rounded up to sum
}
