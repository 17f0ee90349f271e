#!/usr/bin/env node
// Write text with a model file: node generate.mjs model.onnx --prompt "Once upon"

import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';

import { HostError, shown } from '../js/errors.mjs';
import { Model } from '../js/model.mjs';
import { DEFAULTS } from '../js/sampling.mjs';

const HELP = `Usage: node generate.mjs model.onnx [options]

Writes text behind a prompt, with a model file that unrolled exported as ONNX, of any form.

  --prompt TEXT      text to write behind, \\n a line end, \\t a tab; may be repeated
  --tokens N         the most tokens written (${DEFAULTS.maxNewTokens})
  --greedy           always the most probable token, no drawing
  --temperature T    0: greedy; below 1: safer; above 1: more varied (${DEFAULTS.temperature})
  --top-k K          draw from the K most probable tokens; 0: all
  --top-p P          draw from the fewest tokens of this joint probability; 1: all
  --seed S           0 to 2^64 - 1 (${DEFAULTS.seed})
  --count N          texts for each prompt (1)
  --json             texts and tokens as JSON, when all are written
`;

const OPTIONS = {
  prompt: { type: 'string', multiple: true, default: [] },
  tokens: { type: 'string' },
  greedy: { type: 'boolean', default: false },
  temperature: { type: 'string' },
  'top-k': { type: 'string' },
  'top-p': { type: 'string' },
  seed: { type: 'string' },
  count: { type: 'string', default: '1' },
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
};

/** Replace the escapes of a prompt given as an option: \n line end, \t tab, \\ backslash. */
const unescape = (text) => text.replace(/\\([nt\\])/g, (_, letter) => ({ n: '\n', t: '\t', '\\': '\\' })[letter]);

function number(name, text) {
  if (/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text)) return Number(text);
  throw new HostError(`--${name}: got ${shown(text)}, needs a number`);
}

function whole(name, text) {
  if (/^\d+$/.test(text)) return BigInt(text);
  throw new HostError(`--${name}: got ${shown(text)}, needs a whole number, not negative`);
}

/** Convert the options to settings of `Model.generate`. */
function settingsOf(values) {
  const settings = { doSample: !values.greedy };
  const take = (option, name, read) => {
    if (values[option] !== undefined) settings[name] = read(option, values[option]);
  };
  const small = (name, text) => Number(whole(name, text));
  take('tokens', 'maxNewTokens', small);
  take('temperature', 'temperature', number);
  take('top-k', 'topK', small);
  take('top-p', 'topP', number);
  take('seed', 'seed', whole);
  return settings;
}

function parse(argv) {
  try {
    return parseArgs({ args: argv, options: OPTIONS, allowPositionals: true });
  } catch (error) {
    throw new HostError(`${error.message.split('\n')[0]} (--help says what there is)`);
  }
}

async function open(path) {
  let bytes;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw new HostError(`${path}: ${error.code === 'ENOENT' ? 'there is no such file' : error.message}`);
  }
  let ort;
  try {
    ort = await import('onnxruntime-node');
  } catch (error) {
    const reason = error.message.split('\n')[0];
    throw new HostError(`onnxruntime-node does not load; run npm install beside this program (${reason})`);
  }
  return Model.open(ort, bytes, { where: path });
}

/** Prints texts in their order, each while it grows; pieces of later texts are kept until their turn. */
class Printer {
  constructor(prompts, tokenizer) {
    this.tokenizer = tokenizer;
    const line = `${'-'.repeat(40)}\n`;
    this.rows = prompts.map((prompt, b) => ({
      waiting: (b > 0 ? line : '') + prompt,
      prompt, // empty once text follows
      done: false,
    }));
    this.current = 0;
  }

  add(b, text, done) {
    const row = this.rows[b];
    if (text) {
      row.waiting += this.tokenizer.separator(row.prompt, text) + text;
      row.prompt = '';
    }
    row.done = done;
    while (this.current < this.rows.length) {
      const turn = this.rows[this.current];
      process.stdout.write(turn.waiting + (turn.done ? '\n' : ''));
      turn.waiting = '';
      if (!turn.done) return;
      this.current++;
    }
  }
}

async function main(argv) {
  const { values, positionals } = parse(argv);
  if (values.help) return void process.stdout.write(HELP);
  if (positionals.length !== 1) throw new HostError(`needs one model file, got ${positionals.length} (--help says more)`);
  const settings = settingsOf(values);
  const count = Number(whole('count', values.count));
  if (!Number.isSafeInteger(count) || count < 1) throw new HostError(`--count: got ${values.count}, needs at least 1`);
  const model = await open(positionals[0]);
  const typed = values.prompt.length ? values.prompt.map(unescape) : [model.tokenizer.startPrompt()];
  const prompts = typed.flatMap((prompt) => Array(count).fill(prompt));
  const texts = prompts.map((prompt, index) => ({ prompt, text: '', tokens: [], finish_reason: 'length', index }));
  const printer = values.json ? null : new Printer(prompts, model.tokenizer);
  const started = performance.now();
  for await (const { row, token, text, reason } of model.generate(prompts, settings)) {
    texts[row].tokens.push(token);
    texts[row].text += text;
    if (reason) texts[row].finish_reason = reason;
    printer?.add(row, text, reason !== null);
  }
  const seconds = (performance.now() - started) / 1000;
  if (values.json) {
    const tokens = texts.reduce((sum, { tokens: written }) => sum + written.length, 0);
    const speed = { tokens, seconds, tokens_per_s: tokens / seconds };
    process.stdout.write(`${JSON.stringify({ engine: 'onnxruntime-node', form: model.form, ...speed, texts })}\n`);
  }
  await model.close();
}

process.stdout.on('error', () => process.exit()); // the reader closed the pipe, e.g. head
try {
  await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof HostError)) throw error;
  process.stderr.write(`error: ${error.message}\n`);
  process.exitCode = 2;
}
