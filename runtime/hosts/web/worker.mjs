// The worker of the page: loads runtime and model and generates; the page renders. Messages in:
// {write, id, prompt, settings} and {stop}; out: {loading}, {ready}, {tokens}, {done}, {failed}, each named by `kind`.

import { HostError } from './js/errors.mjs';
import { Model } from './js/model.mjs';
import { uniform } from './js/philox.mjs';
import { checkSettings, choose } from './js/sampling.mjs';

const MODEL = 'model.onnx';
const RUNTIME = 'ort/ort.wasm.bundle.min.mjs';
const WASM = 'ort/ort-wasm-simd-threaded.wasm';
const TOP = 5; // alternatives shown for each token
const FLUSH_MS = 40; // interval of sending tokens to the page and of handling messages
const FIRST_PROMPTS = ['The ', 'the ', 'The', 'the'];

let model = null;
let writing = null; // id of the text in progress

/** Fetch a file of the page's folder as bytes, sending {loading} messages meanwhile. */
async function fetchBytes(name, missing) {
  let response;
  try {
    response = await fetch(name);
  } catch {
    throw new HostError(`${name}: cannot be fetched; is the server still running?`);
  }
  if (!response.ok) throw new HostError(`${name}: ${missing} (the server says ${response.status})`);
  const total = Number(response.headers.get('content-length')) || 0;
  const parts = [];
  let loaded = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    loaded += value.length;
    postMessage({ kind: 'loading', name, loaded, total });
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function loadRuntime() {
  const missing = 'is not in this folder; `unrolled export RUN --format web` puts it there';
  const wasm = await fetchBytes(WASM, missing);
  let ort;
  try {
    ort = await import(`./${RUNTIME}`);
  } catch {
    throw new HostError(`${RUNTIME}: ${missing}`);
  }
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = wasm; // so that onnxruntime fetches nothing itself
  return ort;
}

/** Return the description of the model for the page. */
function describe(bytes) {
  const { tokenizer, config, training, digest } = model;
  return {
    config,
    training,
    digest,
    bytes,
    V: model.V,
    level: tokenizer.level,
    startPrompt: tokenizer.startPrompt(),
    firstPrompt: FIRST_PROMPTS.find(readable) ?? tokenizer.startPrompt(),
  };
}

/** Return whether the vocabulary covers a prompt. */
function readable(prompt) {
  try {
    return !model.tokenizer.encode(prompt).includes(model.tokenizer.unkId);
  } catch {
    return false;
  }
}

async function load() {
  const [ort, bytes] = await Promise.all([
    loadRuntime(),
    fetchBytes(MODEL, 'is not in this folder; `unrolled export RUN --format web` writes it'),
  ]);
  const opened = await Model.open(ort, bytes, { where: MODEL, session: { executionProviders: ['wasm'] } });
  if (opened.form === 'generate') {
    throw new HostError(`${MODEL}: its form generate shows no probabilities; export the form step or both`);
  }
  model = opened;
  postMessage({ kind: 'ready', about: describe(bytes.length) });
}

/** Describe the choice of `token` at temperature 1: its surprise in bits, its rank, and the most probable tokens. */
function inspect(logits, token) {
  let largest = -Infinity;
  for (const logit of logits) if (logit > largest) largest = logit;
  let sum = 0;
  let place = 1;
  const top = []; // ids by descending logit, ties by ascending id
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id];
    sum += Math.exp(logit - largest);
    if (logit > logits[token]) place++;
    if (top.length === TOP && logit <= logits[top[TOP - 1]]) continue;
    let at = top.length;
    while (at > 0 && logit > logits[top[at - 1]]) at--;
    top.splice(at, 0, id);
    if (top.length > TOP) top.pop();
  }
  const probability = (id) => Math.exp(logits[id] - largest) / sum;
  return {
    bits: (Math.log(sum) + largest - logits[token]) / Math.LN2,
    p: probability(token),
    place,
    top: top.map((id) => ({ text: model.tokenizer.show(id), p: probability(id), chosen: id === token })),
  };
}

/** Yield to pending messages; a timer would wait four milliseconds. */
const breathe = (() => {
  const { port1, port2 } = new MessageChannel();
  let resume;
  port1.onmessage = () => resume();
  return () =>
    new Promise((resolve) => {
      resume = resolve;
      port2.postMessage(null);
    });
})();

/** Generate after a prompt as `Model.generate` does for row 0, and keep the logits of each step. */
async function write({ id, prompt, settings }) {
  const checked = checkSettings(settings);
  const { tokenizer, V } = model;
  const ids = tokenizer.encodePrompt(prompt);
  const streamer = tokenizer.streamer();
  const behind = tokenizer.streamer(); // fed with the prompt, so that pieces continue it
  ids.forEach(behind.feed);
  const began = performance.now();
  const spent = () => (performance.now() - began) / 1000;
  let flushed = began;
  let tokens = [];
  let count = 0;
  let reason = null;
  const flush = () => {
    postMessage({ kind: 'tokens', id, tokens, count, seconds: spent() });
    tokens = [];
    flushed = performance.now();
  };

  let { logits, state } = await model.step(ids, model.startState());
  while (reason === null) {
    const last = logits.subarray(logits.length - V);
    const token = choose(last, checked, uniform(checked.seed, 0, count));
    count++;
    const eos = token === tokenizer.endId;
    const text = streamer.feed(token);
    const gap = count === 1 && behind.feed(token) !== text && !/\s$/.test(prompt);
    if (eos) reason = 'eos';
    else if (count === checked.maxNewTokens) reason = 'length';
    const rest = reason === null ? '' : streamer.flush();
    tokens.push({ text: text + rest, gap, token: tokenizer.show(token), eos, ...inspect(last, token) });
    if (reason === null) ({ logits, state } = await model.step([token], state));
    if (reason === null && performance.now() - flushed > FLUSH_MS) {
      flush();
      await breathe();
      if (writing !== id) return; // stopped, or superseded by another text
    }
  }
  flush();
  postMessage({ kind: 'done', id, reason });
}

const fail = (error, id = null) =>
  postMessage({ kind: 'failed', id, message: error instanceof HostError ? error.message : String(error) });

let turn = load().catch(fail); // a queue: the session cannot run two steps at once
onmessage = ({ data }) => {
  if (data.kind === 'stop') writing = null;
  if (data.kind !== 'write') return;
  writing = data.id;
  turn = turn.then(async () => {
    if (model === null || writing !== data.id) return; // superseded by a newer text
    try {
      await write(data);
    } catch (error) {
      fail(error, data.id);
    }
  });
};
