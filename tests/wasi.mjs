// Runs a WebAssembly program (WASI) under node:   node tests/wasi.mjs PROGRAM.wasm ARGUMENTS
// Arguments with a slash are taken for paths and made absolute: WASI knows no current directory.
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import process from 'node:process';

process.removeAllListeners('warning');                 // node warns that its WASI is experimental
const { WASI } = await import('node:wasi');
const args = process.argv.slice(2).map(a => a.includes('/') ? resolve(a) : a);
const wasi = new WASI({ version: 'preview1', args, preopens: { '/': '/' }, returnOnExit: true });
const module = await WebAssembly.compile(readFileSync(args[0]));
process.exit(wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject())));
