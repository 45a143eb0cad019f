// What transformers.js gives of a directory that `tmt export --format onnx` wrote, beside what `tmt translate` gives.
//
// Usage, in a folder where `npm install @huggingface/transformers` has been run:
//
//   node .../scripts/check_transformers_js.mjs EXPORT SOURCE.txt EXPECTED.txt [fp32|q8]
//
// EXPECTED.txt is `tmt translate MODEL --beam-size 1` of SOURCE.txt: transformers.js has no beam search. The exit status
// is 1 where a line differs, which with q8 some do.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

const { env, pipeline } = createRequire(join(process.cwd(), "here"))("@huggingface/transformers");
const [directory, source, expected, dtype = "fp32"] = process.argv.slice(2);
const lines = (path) => readFileSync(path, "utf8").replace(/\n$/, "").split("\n");

env.allowRemoteModels = false;
env.localModelPath = "/";
const translate = await pipeline("translation", resolve(directory), { dtype, device: "cpu" });
const sources = lines(source);
const found = [];
for (let i = 0; i < sources.length; i += 16) {
  for (const { translation_text } of await translate(sources.slice(i, i + 16))) found.push(translation_text);
}
const ours = lines(expected);
const different = found.flatMap((text, i) => (text === ours[i] ? [] : [i]));
for (const i of different.slice(0, 5)) console.log(`${i + 1}: ${found[i]}\n${" ".repeat(`${i + 1}`.length)}  ${ours[i]}`);
console.log(`transformers.js ${env.version}, ${dtype}: ${different.length} of ${found.length} lines differ`);
process.exit(different.length > 0 || found.length !== ours.length ? 1 : 0);
