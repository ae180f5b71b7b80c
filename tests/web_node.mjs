// The module of `make web` under node: texts and logits are those of the native programs, byte for byte.
//   node tests/web_node.mjs BUILD MODEL.sqm            (run by tests/web.sh)
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import assert from 'node:assert/strict';

const [build, model] = process.argv.slice(2).map(path => resolve(path));
const SeqModel = createRequire(import.meta.url)(join(build, 'web', 'seqmodel.js'));
const engine = await SeqModel.load(readFileSync(join(build, 'web', 'seqmodel.wasm')));
const file = readFileSync(model);
const write = async (prompt, options) => {
    let text = '';
    for await (const piece of engine.generate(prompt, options)) text += piece;
    return text;
};

// the text of a prompt and a seed
const { name, parameters, context, vocabulary } = engine.open(file);
assert.ok(name.length > 0 && parameters > 800000 && parameters < 900000 && vocabulary === 256);
for (const [prompt, temperature, seed] of [['ROMEO:', 0.8, 7], ['JULIET:\nO', 1.1, 4294967295], ['caf\u00e9', 0, 1]]) {
    const native = execFileSync(join(build, 'generate'),
                                [model, prompt, '-n', '300', '--temp', temperature, '--seed', seed]).toString();
    assert.equal(await write(prompt, { tokens: 300, temperature, seed }) + '\n', native);
}

// the logits after a prompt
const ids = readFileSync('tests/data/shakespeare.ids', 'utf8').trim().split(/\s+/);
const work = mkdtempSync(join(tmpdir(), 'web-'));
try {
    execFileSync(join(build, 'sqm-eval'), [model, '--ids', 'tests/data/shakespeare.ids', '--logits', join(work, 'l')]);
    await write(String.fromCharCode(...ids), { tokens: 0 });
    const all = readFileSync(join(work, 'l'));
    assert.deepEqual(Buffer.from(engine.logits().buffer), all.subarray(all.length - 4 * 256));
} finally {
    rmSync(work, { recursive: true });
}

// what cannot be done is said, and the next file opens all the same; files that are replaced are given back
assert.throws(() => engine.open(new Uint8Array(0)), /0 bytes/);
assert.throws(() => engine.open(new TextEncoder().encode('x'.repeat(500))), /not a .sqm weight file/);
assert.throws(() => engine.open(file.subarray(0, 5000)), /truncated/);
await assert.rejects(write('ROMEO:'), /truncated/);
for (let i = 0; i < 100; i++) engine.open(file);
assert.ok(engine.c.memory.buffer.byteLength < 30e6);
await assert.rejects(write(''), /beginning|token/);
await assert.rejects(write('x'.repeat(context + 1)), new RegExp(context));
