// Worker process that runs exported graphs in onnxruntime-node or onnxruntime-web.
//
//     node graph_process.mjs FOLDER        the folder of the npm package
//
// It speaks the protocol of unrolled.engine.processes: sends its version first, then answers each job by its outputs or error.
import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';

const folder = process.argv[2];
const { name, version } = JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8'));
const file = name === 'onnxruntime-web' ? 'dist/ort.wasm.bundle.min.mjs' : 'dist/index.js';
const module = await import(pathToFileURL(path.join(folder, file)));
const ort = module.InferenceSession ? module : module.default;
if (name === 'onnxruntime-web') ort.env.wasm.numThreads = 1;
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

const ARRAYS = { float32: Float32Array, float64: Float64Array, int64: BigInt64Array };
const unpack = ({ dtype, shape, base64 }) =>
  new ort.Tensor(dtype, new ARRAYS[dtype](Uint8Array.from(Buffer.from(base64, 'base64')).buffer), shape);
const pack = ({ type, dims, data }) => ({
  dtype: type,
  shape: [...dims],
  base64: Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64'),
});
const mapped = (values, change) =>
  Object.fromEntries(Object.entries(values).map(([key, value]) => [key, change(value)]));

say({ version });
for await (const line of readline.createInterface({ input: process.stdin })) {
  const job = JSON.parse(line);
  try {
    const session = await ort.InferenceSession.create(new Uint8Array(fs.readFileSync(job.path)));
    const outputs = [];
    for (const inputs of job.inputs) outputs.push(mapped(await session.run(mapped(inputs, unpack)), pack));
    await session.release();
    say({ outputs });
  } catch (error) {
    say({ error: { type: error.name ?? 'Error', message: String(error.message ?? error) } });
  }
}
