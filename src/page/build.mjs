/**
 * Puts the page together in dist/src/page. The compiled modules are there already; this adds CSS, and HTML with that of each view (it lies
 * beside its code), names every module in the head so that the browser asks for all of them at once, and writes each file
 * compressed beside itself.
 */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';

const from = fileURLToPath(new URL('.', import.meta.url));
const to = fileURLToPath(new URL('../../dist/src/page/', import.meta.url));

const sources = readdirSync(from, { recursive: true, encoding: 'utf8' });
const modules = sources.filter((file) => file.endsWith('.ts')).map((file) => file.replace(/\.ts$/, '.js'));
const copied = sources.filter((file) => /\.(css|svg)$/.test(file));

// What is left of modules that were renamed or deleted would be served for ever.
for (const file of readdirSync(to, { recursive: true, encoding: 'utf8', withFileTypes: true })) {
  const path = `${file.parentPath}/${file.name}`;
  if (file.isFile() && !modules.includes(path.slice(to.length).replace(/^\//, ''))) rmSync(path);
}

for (const file of copied) writeFileSync(to + file, readFileSync(from + file));
const html = readFileSync(`${from}index.html`, 'utf8').replace(/<!-- include (.*) -->/g, (_, file) =>
  readFileSync(from + file, 'utf8'),
);
const preloads = modules.map((file) => `<link rel="modulepreload" href="page/${file}" />`).join('\n    ');
writeFileSync(`${to}index.html`, html.replace('<!-- modules -->', preloads));

for (const file of [...modules, ...copied, 'index.html']) {
  const content = readFileSync(to + file);
  const best = { params: { [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY } };
  writeFileSync(`${to + file}.br`, brotliCompressSync(content, best));
  writeFileSync(`${to + file}.gz`, gzipSync(content, { level: 9 }));
}
