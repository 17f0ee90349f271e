// A model file of any form, run by an onnxruntime for JavaScript that the caller passes in (onnxruntime-node, -web).
// Letters: T time, B rows, V vocabulary, S states, L layers, H hidden units. Arrays are flat, time outermost.

import { HostError } from './errors.mjs';
import { FORMS, parseMetadata, readMetadata } from './metadata.mjs';
import { uniform } from './philox.mjs';
import { checkSettings, choose } from './sampling.mjs';
import { Tokenizer } from './tokenizer.mjs';

const CHUNK = 32; // tokens per call of the generate form, so that text can be shown while it grows

const firstLine = (error) => String(error?.message ?? error).split('\n')[0];

export class Model {
  /**
   * Open the bytes (Uint8Array) of an .onnx file.
   * `where` names it in errors; `session` goes to `ort.InferenceSession.create`.
   */
  static async open(ort, bytes, { where = 'model', session = {} } = {}) {
    const info = parseMetadata(readMetadata(bytes, where), where);
    const tokenizer = new Tokenizer(info.tokenizer, where);
    let opened;
    try {
      opened = await ort.InferenceSession.create(bytes, { logSeverityLevel: 4, ...session });
    } catch (error) {
      throw new HostError(`${where}: not an ONNX file that onnxruntime can load (${firstLine(error)})`);
    }
    const { inputs, outputs } = FORMS[info.form];
    const has = new Set([...opened.inputNames, ...opened.outputNames]);
    const missing = [...inputs, ...outputs].filter((name) => !has.has(name));
    if (missing.length) {
      throw new HostError(`${where}: has no ${missing.join(', ')}, which its form ${info.form} needs`);
    }
    return new Model(ort, opened, info, tokenizer, where);
  }

  /** Private: use `Model.open`. */
  constructor(ort, session, info, tokenizer, where) {
    Object.assign(this, { ort, session, where, ...info, tokenizer });
    this.V = info.config.vocab_size;
  }

  /** Return the zero state (S, L, B, H). */
  startState(B = 1) {
    const [S, L, H] = this.stateShape;
    return new this.ort.Tensor('float32', new Float32Array(S * L * B * H), [S, L, B, H]);
  }

  /**
   * Read tokens (T·B numbers, T ≥ 1) from a state of B rows: `{logits: Float32Array (T·B·V), state}`.
   * Not for files of form generate, which have no logits output.
   */
  async step(tokens, state) {
    if (this.form === 'generate') throw new HostError(`${this.where}: a file of form generate shows no logits`);
    const B = state.dims[2];
    const T = tokens.length / B;
    const feeds = { tokens: this.#int64(tokens, [T, B]), state };
    if (this.form === 'both') {
      feeds.lengths = this.#int64(Array(B).fill(T), [B]);
      feeds.uniforms = new this.ort.Tensor('float64', new Float64Array(0), [0, B]);
      Object.assign(feeds, this.#settings(1, 0, 1, -1));
    }
    const { logits, next_state: moved } = await this.#run(feeds, ['logits', 'next_state']);
    return { logits: logits.data, state: moved };
  }

  /**
   * Let the graph read tokens (T·B, row b valid for its first `lengths[b]`) and write one token a row for each row of
   * `uniforms` (Float64Array, N·B): `{written: number[] (n·B), state}`, n ≤ N. Not for files of form step.
   */
  async write(tokens, lengths, state, uniforms, settings) {
    if (this.form === 'step') throw new HostError(`${this.where}: a file of form step writes no texts by itself`);
    const B = state.dims[2];
    const { doSample, temperature, topK, topP } = checkSettings(settings);
    const end = this.tokenizer.endId ?? -1;
    const feeds = {
      tokens: this.#int64(tokens, [tokens.length / B, B]),
      lengths: this.#int64(lengths, [B]),
      state,
      uniforms: new this.ort.Tensor('float64', uniforms, [uniforms.length / B, B]),
      ...(doSample ? this.#settings(temperature, topK, topP, end) : this.#settings(1, 1, 1, end)),
    };
    const { written, final_state: moved } = await this.#run(feeds, ['written', 'final_state']);
    if (!moved.data.every(Number.isFinite)) {
      throw new HostError(`${this.where}: the model's state is not finite; its weights are damaged`);
    }
    return { written: Array.from(written.data, Number), state: moved };
  }

  /**
   * Generate after prompts (texts) in one batch; row b uses the draws of index b. Yields `{row, token, text, reason}` for
   * each drawn token: `text` is what it adds to the text of the row; `reason` is null, or "eos" or "length" on the last
   * token of the row.
   */
  async *generate(prompts, settings) {
    const checked = checkSettings(settings);
    const encoded = prompts.map((prompt) => this.tokenizer.encodePrompt(prompt));
    const rows = encoded.map(() => ({ streamer: this.tokenizer.streamer(), reason: null }));
    const draws = this.form === 'generate' ? this.#drawInside(encoded, checked) : this.#drawHere(encoded, checked);
    let step = 0;
    for await (const tokens of draws) {
      step++;
      for (const [b, row] of rows.entries()) {
        if (row.reason !== null) continue;
        const token = tokens[b];
        if (token === this.tokenizer.endId) row.reason = 'eos';
        else if (step === checked.maxNewTokens) row.reason = 'length';
        const text = row.streamer.feed(token) + (row.reason === null ? '' : row.streamer.flush());
        yield { row: b, token, text, reason: row.reason };
      }
      if (rows.every((row) => row.reason !== null)) return;
    }
  }

  /** Release the runtime's session. */
  async close() {
    await this.session.release();
  }

  /** Yield the tokens (B) of each step, drawn here. Rows that have ended are stepped too, and ignored by the caller. */
  async *#drawHere(prompts, settings) {
    const { V } = this;
    let { logits, state } = await this.#read(prompts);
    for (let step = 0; ; step++) {
      const tokens = prompts.map((_, b) =>
        choose(logits.subarray(b * V, (b + 1) * V), settings, uniform(settings.seed, b, step)),
      );
      yield tokens;
      ({ logits, state } = await this.step(tokens, state));
    }
  }

  /** Return the last logits (B·V) and the state of B prompts; each distinct prompt is read once. */
  async #read(prompts) {
    const { V } = this;
    const B = prompts.length;
    const H = this.stateShape.at(-1);
    const logits = new Float32Array(B * V);
    const state = this.startState(B);
    const seen = new Map();
    for (const [b, ids] of prompts.entries()) {
      const key = ids.join();
      if (!seen.has(key)) {
        const read = await this.step(ids, this.startState(1));
        seen.set(key, { logits: read.logits.slice(-V), state: read.state.data });
      }
      const one = seen.get(key);
      logits.set(one.logits, b * V);
      for (let layer = 0; layer * H < one.state.length; layer++) {
        state.data.set(one.state.subarray(layer * H, (layer + 1) * H), (layer * B + b) * H);
      }
    }
    return { logits, state };
  }

  /** Yield the tokens (B) of each step, drawn in the graph, several steps per call. */
  async *#drawInside(prompts, settings) {
    const B = prompts.length;
    const T = Math.max(...prompts.map((ids) => ids.length));
    let tokens = Array.from({ length: T * B }, (_, i) => prompts[i % B][Math.floor(i / B)] ?? 0);
    let lengths = prompts.map((ids) => ids.length);
    let state = this.startState(B);
    for (let step = 0; step < settings.maxNewTokens; step += CHUNK) {
      const N = Math.min(CHUNK, settings.maxNewTokens - step);
      const draw = (_, i) => uniform(settings.seed, i % B, step + Math.floor(i / B));
      const uniforms = Float64Array.from({ length: N * B }, draw);
      const result = await this.write(tokens, lengths, state, uniforms, settings);
      for (let at = 0; at < result.written.length; at += B) yield result.written.slice(at, at + B);
      // the last tokens are drawn, but not read yet
      [tokens, lengths, state] = [result.written.slice(-B), Array(B).fill(1), result.state];
    }
  }

  #int64(values, dims) {
    return new this.ort.Tensor('int64', BigInt64Array.from(values, BigInt), dims);
  }

  #settings(temperature, topK, topP, endToken) {
    const float64 = (value) => new this.ort.Tensor('float64', Float64Array.of(value), []);
    return {
      temperature: float64(temperature),
      top_p: float64(topP),
      top_k: this.#int64([topK], []),
      end_token: this.#int64([endToken], []),
    };
  }

  async #run(feeds, outputs) {
    try {
      return await this.session.run(feeds, outputs);
    } catch (error) {
      throw new HostError(`${this.where}: the graph does not run (${firstLine(error)})`);
    }
  }
}
