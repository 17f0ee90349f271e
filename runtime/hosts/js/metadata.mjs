// Metadata of an exported file. JavaScript runtimes do not expose the metadata of an ONNX file, so it is parsed from the
// bytes: a ModelProto is a list of fields, and field 14 (metadata_props) contains one key and one value.

import { HostError, shown } from './errors.mjs';

const FORMAT_VERSIONS = ['1', '2'];
const TASK = 'next_token'; // the only task of these modules
const SAMPLING_VERSION = '1';
const METADATA_PROPS = 14;
const MAX_VARINT = 10; // bytes

// Inputs and outputs of each form, frozen in the format.
const STEP = { inputs: ['tokens', 'state'], outputs: ['logits', 'next_state'] };
const GENERATE = {
  inputs: [...STEP.inputs, 'lengths', 'uniforms', 'temperature', 'top_k', 'top_p', 'end_token'],
  outputs: ['written', 'final_state'],
};
export const FORMS = {
  step: STEP,
  generate: GENERATE,
  both: { inputs: GENERATE.inputs, outputs: [...STEP.outputs, ...GENERATE.outputs] },
};

/** Yield [number, bytes] of the length-delimited fields of a protobuf message; other fields are skipped. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let i = 0; i < MAX_VARINT; i++) {
      if (at >= bytes.length) break;
      const byte = bytes[at++];
      value += (byte & 0x7f) * 2 ** (7 * i); // no shift: a length may exceed 32 bits
      if (byte < 0x80) return value;
    }
    throw new HostError('damaged');
  };
  while (at < bytes.length) {
    const tag = varint();
    const number = Math.floor(tag / 8);
    const kind = tag % 8; // 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes
    if (kind === 0) {
      varint();
      continue;
    }
    const length = kind === 2 ? varint() : { 1: 8, 5: 4 }[kind];
    if (number === 0 || length === undefined || at + length > bytes.length) throw new HostError('damaged');
    if (kind === 2) yield [number, bytes.subarray(at, at + length)];
    at += length;
  }
}

/** Return the metadata of an ONNX file as a Map of texts. */
export function readMetadata(bytes, where = 'model') {
  const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  const found = new Map();
  try {
    for (const [number, entry] of fields(bytes)) {
      if (number !== METADATA_PROPS) continue;
      const { 1: key, 2: value } = Object.fromEntries(fields(entry));
      found.set(key ? text.decode(key) : '', value ? text.decode(value) : '');
    }
  } catch {
    throw new HostError(`${where}: not an ONNX file, or a damaged one`);
  }
  return found;
}

// Keys of format 2. A file with another one was written by a later release, in which the known ones may mean something else.
const KEYS = {
  spec: ['inputs', 'core', 'head'],
  input: ['kind', 'name', 'size', 'embedding_size'],
  core: ['cell', 'hidden_size', 'num_layers', 'bidirectional', 'dropout'],
  head: ['kind', 'vocab_size', 'tie_weights'],
  preprocessing: ['tokens'],
  rule: ['tokenizer'],
  tokenizer: ['level', 'vocabulary', 'unknown', 'lowercase', 'normalize', 'punctuation', 'merges'],
};

/** Check that a part of the metadata has no unknown key. */
function checkKeys(part, object, where) {
  const unknown = Object.keys(object).find((key) => !KEYS[part].includes(key));
  if (unknown !== undefined) throw new HostError(`${where}: its ${part} has the unknown key ${shown(unknown)}`);
}

/** Return config and tokenizer of format 1. */
const describedBefore = (object) => ({ config: object('config'), tokenizer: object('tokenizer') });

/** Return config and tokenizer of format 2, whose spec lists inputs, core and head of any model. */
function described(object, where) {
  const spec = object('spec');
  const preprocessing = object('preprocessing');
  const { inputs, core, head } = spec;
  const rule = preprocessing.tokens;
  const tokenizer = rule?.tokenizer;
  if (inputs?.length !== 1 || !core || !head) throw new HostError(`${where}: its unrolled.spec is damaged`);
  if (!tokenizer) throw new HostError(`${where}: its unrolled.preprocessing has no tokenizer for tokens`);
  const parts = { spec, input: inputs[0], core, head, preprocessing, rule, tokenizer };
  for (const [part, value] of Object.entries(parts)) checkKeys(part, value, where);
  const { cell, hidden_size, num_layers, dropout } = core;
  const { embedding_size } = inputs[0];
  const { vocab_size, tie_weights } = head;
  const config = { cell, vocab_size, embedding_size, hidden_size, num_layers, dropout, tie_weights };
  return { config, tokenizer };
}

/**
 * Parse and check the metadata of an exported file:
 * `{form, config, tokenizer, stateShape: [S, L, H], training, digest, golden}`.
 */
export function parseMetadata(metadata, where = 'model') {
  const get = (key, otherwise) => {
    const value = metadata.get(`unrolled.${key}`) ?? otherwise;
    if (value === undefined) throw new HostError(`${where}: its metadata has no unrolled.${key}`);
    return value;
  };
  const object = (key) => {
    try {
      const value = JSON.parse(get(key));
      if (typeof value === 'object' && value !== null) return value;
    } catch (error) {
      if (error instanceof HostError) throw error;
    }
    throw new HostError(`${where}: its unrolled.${key} is damaged`);
  };
  if (!metadata.has('unrolled.format_version')) {
    throw new HostError(
      `${where}: not one of unrolled's exported files; its metadata has no unrolled.format_version`,
    );
  }
  const version = get('format_version');
  if (!FORMAT_VERSIONS.includes(version)) {
    throw new HostError(`${where}: export format ${shown(version)}; this host reads ${FORMAT_VERSIONS.join(' and ')}`);
  }
  const task = version === '1' ? TASK : get('task');
  if (task !== TASK) {
    throw new HostError(`${where}: its task is ${shown(task)}; this host writes texts, the task ${TASK}`);
  }
  const sampling = get('sampling', '1');
  if (sampling !== SAMPLING_VERSION) {
    throw new HostError(`${where}: sampling rules ${shown(sampling)}; this host follows ${SAMPLING_VERSION}`);
  }
  const form = get('form', 'step');
  if (!Object.hasOwn(FORMS, form)) {
    throw new HostError(`${where}: form ${shown(form)}; known are ${Object.keys(FORMS).join(', ')}`);
  }
  const { config, tokenizer } = version === '1' ? describedBefore(object) : described(object, where);
  if (tokenizer.vocabulary?.length !== config.vocab_size) {
    const size = tokenizer.vocabulary?.length;
    throw new HostError(`${where}: the tokenizer has ${size} tokens, the model ${config.vocab_size}`);
  }
  const shape = object('state').shape;
  const sizes = Array.isArray(shape) && shape.length === 4 ? [shape[0], shape[1], shape[3]] : [];
  if (!sizes.length || !sizes.every((size) => Number.isInteger(size) && size > 0)) {
    throw new HostError(`${where}: its unrolled.state is damaged`);
  }
  return {
    form,
    config,
    tokenizer,
    stateShape: sizes,
    training: object('training'),
    digest: get('checkpoint_digest'),
    golden: object('golden'),
  };
}
