// seqmodel.wasm (web.c) for JavaScript, in pages and under node. A classic script, so that it also runs from file://
//   const engine = await SeqModel.load(bytesOfTheWasm);
//   engine.open(bytesOfTheModel);                                     throws an Error that says why not
//   for await (const text of engine.generate('ROMEO:', { tokens: 100, temperature: 0.8, topP: 0.95, seed: 1 })) ...
class SeqModel {
    static async load(wasm) {
        const { instance } = await WebAssembly.instantiate(wasm, {});
        instance.exports._initialize();
        return new SeqModel(instance.exports);
    }

    constructor(exports) {
        this.c = exports;
    }

    // Opens a weight file, a Uint8Array, in place of the one before.
    open(file, mostContext = 4096) {
        const at = this.put(file);
        if (!this.c.web_open(at, file.length, mostContext)) throw this.error();
        return { name: this.string(this.c.web_name()), parameters: this.c.web_parameters(),
                 context: this.c.web_context(), vocabulary: this.c.web_vocabulary() };
    }

    // Yields the pieces of a text as they are made, whole characters only. After `slice` milliseconds of work others
    // get their turn. `stats`, an object of the caller's, holds counts and seconds at any time.
    async *generate(prompt, { tokens = 256, temperature = 0.8, topP = 0.95, seed = 1, slice = 20, stats = {} } = {}) {
        const decoder = new TextDecoder();
        const bytes = new TextEncoder().encode(prompt);
        let turn = performance.now();
        const rest = async () => {
            if (performance.now() - turn < slice) return;
            await new Promise(resolve => setTimeout(resolve));
            turn = performance.now();
        };
        Object.assign(stats, { prompt: this.c.web_begin(this.put(bytes), bytes.length, temperature, topP, seed),
                               tokens: 0, promptSeconds: 0, seconds: 0 });
        if (stats.prompt < 1) throw this.error('a text needs a beginning');
        for (let left = stats.prompt; left > 0; await rest()) {
            const start = performance.now();
            left = this.c.web_feed(16);
            stats.promptSeconds += (performance.now() - start) / 1000;
            if (left < 0) throw this.error();
        }
        while (stats.tokens < tokens) {
            const start = performance.now();
            const length = this.c.web_next();
            stats.seconds += (performance.now() - start) / 1000;
            if (length === -1) break;
            if (length < 0) throw this.error('no token can be made');
            stats.tokens++;
            const text = decoder.decode(this.bytes(this.c.web_text(), length), { stream: true });
            if (text) yield text;
            await rest();
        }
        const tail = decoder.decode();
        if (tail) yield tail;
    }

    // The scores of every token to follow, a copy.
    logits() {
        const at = this.c.web_logits();
        return at ? new Float32Array(this.c.memory.buffer, at, this.c.web_vocabulary()).slice() : null;
    }

    // ---- memory of the module
    put(bytes) {
        const at = this.c.web_alloc(Math.max(bytes.length, 1));
        if (!at) throw new Error(`no memory for ${bytes.length} bytes`);
        this.bytes(at, bytes.length).set(bytes);
        return at;
    }

    bytes(at, length) {
        return new Uint8Array(this.c.memory.buffer, at, length);
    }

    string(at) {
        const all = new Uint8Array(this.c.memory.buffer, at);
        return new TextDecoder().decode(all.slice(0, all.indexOf(0)));
    }

    error(otherwise) {
        return new Error(this.string(this.c.web_error()) || otherwise || 'out of memory');
    }
}

if (typeof module !== 'undefined') module.exports = SeqModel;
