// The page: loads the model in a worker, sends it prompt and settings, and displays the generated text.

import { Controls, fromHash, toHash } from './controls.mjs';
import { TextView } from './text.mjs';

const CELLS = { rnn: 'RNN', rnn_relu: 'RNN (ReLU)', gru: 'GRU', lstm: 'LSTM' };
const LEVELS = { char: 'characters', word: 'words', whitespace: 'words', bpe: 'byte pairs' };
const ENDS = { length: 'reached its length', eos: 'the model ended it', stop: 'stopped' };
const TYPING_MS = 160; // without typing before a change starts generation

const $ = (id) => document.getElementById(id);
const prompt = $('prompt');
const view = new TextView($('text'), {
  root: $('inspector'),
  body: $('inspector-body'),
  hint: $('inspector-hint'),
  close: $('inspector-close'),
});
const whole = (n) => n.toLocaleString('en');

let about = null; // description of the model, null until it is loaded
let controls = null;
let current = { id: 0, prompt: '', busy: false, shown: true, count: 0, seconds: 0, reason: null };
let timer = null;

// ---------------------------------------------------------------- the worker

const worker = new Worker('worker.mjs', { type: 'module' });
const handlers = {
  loading: showLoading,
  ready: showModel,
  tokens: showTokens,
  done: ({ id, reason }) => id === current.id && finish(reason),
  failed: showFailure,
};
worker.onmessage = ({ data }) => handlers[data.kind](data);
worker.onerror = (event) => {
  event.preventDefault();
  showFailure({ message: event.message || 'worker.mjs: does not load; is the whole export in this folder?', id: null });
};

const sizes = new Map(); // of the files that are loading
function showLoading({ name, loaded, total }) {
  sizes.set(name, { loaded, total });
  const all = [...sizes.values()];
  const sum = (key) => all.reduce((total_, file) => total_ + file[key], 0);
  if (all.every((file) => file.total)) $('loaded').value = sum('loaded') / sum('total');
}

// ---------------------------------------------------------------- the model

function facts() {
  const { training, V, level, bytes } = about;
  const { corpus = {}, result = {} } = training;
  const score = result.best ?? result.last ?? {};
  const some = (value, write) => (typeof value === 'number' ? write(value) : null);
  const rows = [
    ['Vocabulary', `${whole(V)} ${LEVELS[level]}`],
    ['Corpus', some(corpus.characters, (n) => `${whole(n)} characters`)],
    ['Training', some(result.epochs, (n) => `${n < 10 ? n.toFixed(1) : whole(Math.round(n))} epochs`)],
    ['Validation loss', some(score.loss, (loss) => loss.toFixed(3))],
    ['Perplexity', some(score.perplexity, (perplexity) => perplexity.toFixed(2))],
    ['File', `${(bytes / 2 ** 20).toFixed(1)} MB`],
  ];
  return rows.filter(([, value]) => value !== null);
}

function showModel({ about: found }) {
  about = found;
  const { config, training } = about;
  const name = `${CELLS[config.cell] ?? config.cell} ${config.num_layers} × ${config.hidden_size}`;
  const corpus = training.corpus?.name;
  $('model-name').replaceChildren(name, ...(corpus ? [', after reading ', emphasised(corpus)] : []));
  document.title = `${name} · unrolled`;
  $('progress').hidden = true;
  $('facts').replaceChildren(...facts().map(([term, value]) => fact(term, value)));
  view.measure(about.V);
  $('legend').hidden = false;
  $('legend-note').textContent = `${view.most.toFixed(1)} bits are a blind guess`;
  $('legend').setAttribute(
    'aria-label',
    `Tint: surprise from 0 bits, expected, to ${view.most.toFixed(1)} bits, as surprising as a blind guess`,
  );
  controls = new Controls($('controls'), about.V, changed);
  for (const id of ['prompt', 'go', 'copy', 'link']) $(id).disabled = false;
  prompt.placeholder = about.startPrompt === '\n' ? 'Empty: begins behind a line break' : 'Empty: begins by itself';
  readAddress();
}

function emphasised(text) {
  const made = document.createElement('em');
  made.textContent = text;
  return made;
}

function fact(term, value) {
  const group = document.createElement('div');
  const [name, content] = ['dt', 'dd'].map((tag) => document.createElement(tag));
  name.textContent = term;
  content.textContent = value;
  group.append(name, content);
  return group;
}

// ---------------------------------------------------------------- writing

/** Handle a change of prompt or settings: store them in the URL and generate after a pause. */
function changed() {
  fitPrompt();
  $('settings-summary').textContent = controls.summary();
  clearTimeout(timer);
  timer = setTimeout(() => {
    keepAddress();
    if ($('live').checked) write();
  }, TYPING_MS);
}

function write() {
  clearTimeout(timer);
  if (about === null) return;
  keepAddress();
  let settings;
  try {
    settings = controls.settings();
  } catch (error) {
    stop();
    showError(error.message);
    return;
  }
  const text = prompt.value || about.startPrompt;
  // the old text stays on the page until the first token of the new one arrives
  current = { id: current.id + 1, prompt: prompt.value, busy: true, shown: false, count: 0, seconds: 0, reason: null };
  worker.postMessage({ kind: 'write', id: current.id, prompt: text, settings });
  showBusy(true);
}

function stop() {
  clearTimeout(timer);
  if (!current.busy) return;
  worker.postMessage({ kind: 'stop' });
  current.busy = false;
  if (current.shown) finish('stop');
  else showBusy(false);
}

function showTokens({ id, tokens, count, seconds }) {
  if (id !== current.id || !current.busy) return; // message of a stopped text
  if (!current.shown) {
    view.begin(current.prompt);
    current.shown = true;
    showError(null);
  }
  view.add(tokens);
  Object.assign(current, { count, seconds });
  report();
}

function finish(reason) {
  current.busy = false;
  current.reason = reason;
  showBusy(false);
  report();
  $('status').textContent = `${whole(current.count)} tokens written, ${ENDS[reason]}.`;
}

function report() {
  const { count, seconds, reason } = current;
  const bits = view.meanBits();
  const parts = [
    `${whole(count)} ${count === 1 ? 'token' : 'tokens'}`,
    seconds > 0 && `${whole(Math.round(count / seconds))} tokens/s`,
    `${bits.toFixed(2)} bits each`,
    reason && ENDS[reason],
  ];
  $('report').replaceChildren(
    ...parts.filter(Boolean).map((part) => Object.assign(document.createElement('span'), { textContent: part })),
  );
}

function showBusy(busy) {
  $('stop').disabled = !busy;
  $('text').setAttribute('aria-busy', String(busy));
  document.documentElement.classList.toggle('busy', busy);
}

function showFailure({ message, id }) {
  if (id !== null && id !== current.id) return; // message of a superseded text
  if (id === null && about === null) {
    $('progress').hidden = true;
    $('model-name').textContent = 'No model';
  }
  current.busy = false;
  showBusy(false);
  showError(message);
}

function showError(message) {
  $('error').hidden = message === null;
  $('error').textContent = message ?? '';
  prompt.toggleAttribute('aria-invalid', Boolean(message?.startsWith('the vocabulary')));
}

// ---------------------------------------------------------------- the URL

function keepAddress() {
  const hash = toHash(prompt.value, controls.texts());
  if (hash !== location.hash) history.replaceState(null, '', hash);
}

function readAddress() {
  const { prompt: given, texts } = fromHash(location.hash);
  prompt.value = given ?? about.firstPrompt;
  controls.setTexts(texts);
  $('settings-summary').textContent = controls.summary();
  fitPrompt();
  write();
}

// ---------------------------------------------------------------- keys, buttons, view

function fitPrompt() {
  prompt.style.height = 'auto';
  prompt.style.height = `${prompt.scrollHeight + prompt.offsetHeight - prompt.clientHeight}px`; // including the border
}

async function copy(button, text) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = 'Copied';
  } catch {
    button.textContent = 'Not allowed';
  }
  setTimeout(() => (button.textContent = label), 1500);
}

/** A toggle button whose state is stored for the next visit; `initial.matches` is its state before the first click. */
function toggle(id, initial, apply) {
  const button = $(id);
  const set = (on) => {
    button.setAttribute('aria-pressed', String(on));
    apply(on);
  };
  let kept = null;
  try {
    kept = localStorage.getItem(`unrolled.${id}`);
  } catch {
    // no storage: the choice is lost with the page
  }
  set(kept === null ? initial.matches : kept === 'true');
  initial.addEventListener?.('change', () => kept === null && set(initial.matches));
  button.addEventListener('click', () => {
    const on = button.getAttribute('aria-pressed') !== 'true';
    set(on);
    kept = String(on);
    try {
      localStorage.setItem(`unrolled.${id}`, String(on));
    } catch {
      // no storage: nothing to remove or keep
    }
  });
}

const root = document.documentElement;
const dark = matchMedia('(prefers-color-scheme: dark)');
toggle('theme', dark, (on) => (root.dataset.theme = on ? 'dark' : 'light'));
toggle('tint', { matches: true }, (on) => root.classList.toggle('plain', !on));
toggle('mono', { matches: false }, (on) => root.classList.toggle('mono', on));
root.classList.add('alive');

const narrow = matchMedia('(max-width: 60rem)');
const fold = () => ($('settings').open = !narrow.matches);
narrow.addEventListener('change', fold);
fold();

$('form').addEventListener('submit', (event) => {
  event.preventDefault();
  write();
});
$('stop').addEventListener('click', stop);
$('copy').addEventListener('click', (event) => copy(event.target, view.text()));
$('link').addEventListener('click', (event) => copy(event.target, location.href));
prompt.addEventListener('input', changed);
addEventListener('hashchange', () => about && readAddress());
addEventListener('keydown', (event) => {
  if (event.isComposing) return;
  const { target, key } = event;
  if (key === 'Escape') {
    if (current.busy) stop();
    else view.close();
  } else if (key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    write();
  } else if (key === 'Enter' && !event.shiftKey && (target === prompt || target.closest?.('#controls .row input'))) {
    event.preventDefault();
    write();
  }
});
