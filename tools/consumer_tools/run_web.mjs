// onnxruntime-web in node, on WebAssembly: the same protocol as child.py, with .npy read and written here.
import fs from 'node:fs';
import { createRequire } from 'node:module';

const job = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const require = createRequire(`${job.folder}/`);
const ort = require('onnxruntime-web');
const { version } = JSON.parse(fs.readFileSync(`${job.folder}/node_modules/onnxruntime-web/package.json`, 'utf8'));
ort.env.wasm.numThreads = 1;
ort.env.logLevel = 'error';

function rowsOf(path) {
  const bytes = fs.readFileSync(path);
  const start = 10 + bytes.readUInt16LE(8);
  const shape = bytes.toString('latin1', 10, start).match(/\(([\d, ]+)\)/)[1].split(',').filter((s) => s.trim()).map(Number);
  return new ort.Tensor('float32', new Float32Array(bytes.buffer.slice(bytes.byteOffset + start)), shape);
}

function save(path, tensor) {
  const shape = tensor.dims.join(', ') + (tensor.dims.length === 1 ? ',' : '');
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape}), }`;
  const header = text.padEnd(Math.ceil((text.length + 11) / 64) * 64 - 11) + '\n';
  const start = Buffer.from([0x93, 78, 85, 77, 80, 89, 1, 0, header.length & 255, header.length >> 8]);
  fs.writeFileSync(path, Buffer.concat([start, Buffer.from(header), Buffer.from(tensor.data.buffer)]));
}

const rows = rowsOf(job.rows);
for (const file of job.files) {
  const result = { stage: 'load', error: null, release: version, nbytes: null };
  const write = () => fs.writeFileSync(`${file}.${job.key}.json`, JSON.stringify(result));
  write();
  try {
    const session = await ort.InferenceSession.create(fs.readFileSync(file), { executionProviders: ['wasm'] });
    result.stage = 'run';
    write();
    const output = (await session.run({ [session.inputNames[0]]: rows }))[session.outputNames[0]];
    save(`${file}.${job.key}.npy`, output);
    result.stage = 'done';
  } catch (error) {
    result.error = `Error: ${error.message ?? error}`;
  }
  write();
}
