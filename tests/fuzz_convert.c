/* Fuzz target of the converter (see fuzz.h): every file format by itself, then whole checkpoints. What a
   reader accepts has its values read; what is converted is loaded and runs a few rows. */
#define _POSIX_C_SOURCE 200809L
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "../tools/convert.h"
#include "samples.h"
#include "toy_checkpoint.h"
#include "fuzz.h"

/* ---- what follows a reader ----------------------------------------------------------------------------- */
/* A directory for the inputs, with the toy model's config.json; made at the first call. */
static void open_root(void)
{
    if (*root) return;
    if (!make_root()) exit(2);
    save_config("");
}

static void run_model(const char *path)
{
    static const int32_t tokens[3] = { 1, 0, 2 };
    static const char text[] = "a <s>\n12";
    int32_t ids[16];
    sqm_session_config c;
    sqm_model_info info;
    sqm_error err;
    sqm_model *m = sqm_load_file(path, NULL, &err);
    sqm_session *s = NULL;
    size_t need;
    if (!m) return;
    memset(&c, 0, sizeof c);
    c.max_context = 8;
    c.max_batch = 4;
    c.threads = 1;
    sqm_model_get_info(m, &info);
    need = sqm_session_size(m, &c, &err);
    if (need && need < (size_t)1 << 24) s = sqm_session_create(m, &c, &err);
    if (s && info.input_width > 0) {
        float *rows = (float *)calloc((size_t)info.input_width * 3, sizeof *rows);
        if (rows) (void)sqm_feed_rows(s, 0, rows, 3);
        free(rows);
    } else if (s) {
        (void)sqm_feed(s, 0, tokens, 3);
    }
    (void)sqm_tokenize(m, text, sizeof text - 1, 0, ids, 16, &err);
    sqm_session_free(s);
    sqm_model_free(m);
}

static void convert(const char *name, conv_target target)
{
    char in[160], out[160];
    convert_options o;
    convert_report report;
    memset(&o, 0, sizeof o);
    o.target = target;
    snprintf(in, sizeof in, "%s", path_of(name));
    snprintf(out, sizeof out, "%s", path_of("out.sqm"));
    if (convert_checkpoint(in, out, &o, &report)) run_model(out);
    else if (!report.error[0]) abort();
    remove(out);
}

/* Opens a file and reads the values of all tensors that are not large. */
typedef int file_reader(conv_source *s, const conv_file *f);
static void read_values(const char *name, file_reader *reader)
{
    conv_env env;
    conv c;
    const conv_file *f;
    conv_env_open(&env);
    memset(&c, 0, sizeof c);
    c.env = c.source.env = &env;
    f = conv_open(&env, path_of(name));
    if (f && reader(&c.source, f)) {
        for (uint64_t i = 0; i < c.source.n; i++) {
            const conv_tensor *t = &c.source.tensors[i];
            uint64_t n = 1;
            for (int32_t k = 0; k < t->ndim; k++) n = conv_times(n, (uint64_t)t->shape[k]);
            if (n < 1 << 16 && t->type <= CONV_GGML) (void)conv_read(&c, t->name, (int64_t)n);
        }
    }
    conv_source_close(&c.source);
    conv_env_close(&env);
}

/* ---- readers of one file ------------------------------------------------------------------------------- */
static int read_safetensors(conv_source *s, const conv_file *f) { return conv_read_safetensors(s, f->path); }
static int read_torch(conv_source *s, const conv_file *f) { return conv_read_torch(s, f->path); }
static int read_gguf(conv_source *s, const conv_file *f)
{
    gguf_file g;
    return gguf_open(&g, s->env, f->path) && gguf_read_tensors(&g, s);
}

/* Values, then the whole way; the size of the input chooses the type of the weights. */
static void run_through(const char *name, file_reader *reader, const uint8_t *data, size_t size)
{
    open_root();
    save(name, data, size);
    read_values(name, reader);
    convert(name, (conv_target)(size % (CONV_KEEP + 1)));
}
static void run_safetensors(const uint8_t *data, size_t size)
{
    run_through("f.safetensors", read_safetensors, data, size);
}
static void run_torch(const uint8_t *data, size_t size) { run_through("f.pth", read_torch, data, size); }
static void run_npz(const uint8_t *data, size_t size) { run_through("f.npz", conv_read_npz, data, size); }
static void run_gguf(const uint8_t *data, size_t size) { run_through("f.gguf", read_gguf, data, size); }
static void run_llama2c(const uint8_t *data, size_t size)
{
    open_root();
    save("f.bin", data, size);
    convert("f.bin", CONV_KEEP);
}
static void run_rwkv(const uint8_t *data, size_t size) { run_through("f.ggml", conv_read_rwkv, data, size); }

/* data.pkl of an archive whose other entries are right */
static void run_pickle(const uint8_t *data, size_t size)
{
    buffer pickle = { NULL, 0, 0 }, file = { NULL, 0, 0 };
    put(&pickle, data, size);
    make_zip(&file, &pickle, 0);
    run_torch(file.at, file.n);
    clear(&pickle);
    clear(&file);
}

/* One array of an archive; checksums are right. */
static void run_npy(const uint8_t *data, size_t size)
{
    buffer array = { NULL, 0, 0 }, file = { NULL, 0, 0 };
    zip_writer z;
    memset(&z, 0, sizeof z);
    put(&array, data, size);
    zip_add(&z, "a.npy", &array, array.n);
    zip_end(&z, &file);
    run_npz(file.at, file.n);
    clear(&array);
    clear(&file);
}

static void run_inflate(const uint8_t *data, size_t size)
{
    enum { MOST = 4096 };
    uint8_t *in = fuzz_copy(data, size), *out = (uint8_t *)malloc(MOST);
    if (!out) exit(2);
    (void)conv_inflate(out, size > 1 ? (size_t)data[1] * 16 : 0, in, size);
    free(out);
    free(in);
}

static void run_index(const uint8_t *data, size_t size)
{
    open_root();
    if (!conv_file_exists(path_of("part.safetensors"))) {
        buffer part = { NULL, 0, 0 };
        make_safetensors(&part, -1, "");
        save("part.safetensors", part.at, part.n);
        clear(&part);
    }
    save("f.safetensors.index.json", data, size);
    convert("f.safetensors.index.json", CONV_KEEP);
}

static void walk(const json_value *v, int depth)
{
    (void)json_int(v, 0);
    (void)json_number(v, 0.0);
    (void)json_bool(v, 0);
    if (strlen(json_text(v, "")) > 1 << 24) abort();
    for (uint32_t i = 0; i < json_count(v) && depth; i++) {
        const json_value *key = json_key_at(v, i);
        if (key && !json_get_bytes(v, key->text, key->n)) abort();
        walk(json_at(v, i), depth - 1);
    }
}
static void run_json(const uint8_t *data, size_t size)
{
    json_doc doc;
    char *text = (char *)fuzz_copy(data, size);
    if (json_parse(&doc, text, size)) walk(doc.root, JSON_DEPTH);
    else if (!doc.error[0]) abort();
    json_free(&doc);
    free(text);
}

static void run_chat(const uint8_t *data, size_t size)
{
    conv_env env;
    const char *family;
    conv_env_open(&env);
    (void)chat_describe(&env, conv_copy_text(&env, data, size), &family);
    conv_env_close(&env);
}

/* ---- whole checkpoints --------------------------------------------------------------------------------- */
/* A safetensors file with this header and as many bytes behind it as it asks for. */
static void save_with_data(const char *name, const char *header, size_t n)
{
    enum { MOST = 1 << 20 };
    buffer file = { NULL, 0, 0 };
    json_doc doc;
    int64_t end = 0;
    if (json_parse(&doc, header, n)) {
        for (uint32_t i = 0; i < json_count(doc.root); i++) {
            const json_value *offsets = json_get(json_at(doc.root, i), "data_offsets");
            const int64_t last = json_int(json_at(offsets, 1), 0);
            if (last > end && last <= MOST) end = last;
        }
    }
    json_free(&doc);
    put_int(&file, n, 8);
    put(&file, header, n);
    for (; end > 0; end -= 16)         /* small numbers, whatever the type */
        put(&file, "<<<<<<<<<<<<<<<<", end < 16 ? (size_t)end : 16);
    save(name, file.at, file.n);
    clear(&file);
}

/* Input: config.json, header of model.safetensors, tokenizer.json, tokenizer_config.json; zeros part them. */
static void run_directory(const uint8_t *data, size_t size)
{
    static const char *const names[] = { "config.json", "model.safetensors", "tokenizer.json",
                                         "tokenizer_config.json" };
    char *text = (char *)fuzz_copy(data, size), *at = text, *end = text + size;
    open_root();
    for (int i = 0; i < 4; i++) {
        char *stop = at < end ? (char *)memchr(at, 0, (size_t)(end - at)) : end;
        const size_t n = (size_t)((stop ? stop : end) - at);
        if (i == 1) save_with_data(names[i], at, n);
        else if (n) save(names[i], at, n);
        else remove(path_of(names[i]));
        at += n + (stop != NULL && stop < end);
    }
    convert("", (conv_target)(size % (CONV_KEEP + 1)));
    free(text);
}

/* ---- seeds --------------------------------------------------------------------------------------------- */
static void seed_made(void (*make)(buffer *), const char *name)
{
    buffer b = { NULL, 0, 0 };
    make(&b);
    fuzz_seed(name, b.at, b.n);
    clear(&b);
}
static void seed_torch(void)
{
    seed_made(make_torch, "zip");
    seed_made(make_torch_old, "old");
}
static void seed_llama2c(void) { seed_made(make_llama2c, "toy"); }
static void make_usual_safetensors(buffer *b) { make_safetensors(b, -1, "more"); }
static void make_usual_npz(buffer *b) { make_npz(b, -1, ""); }
static void make_usual_gguf(buffer *b) { make_gguf(b, 0, 0, "general.alignment", 0, 0); }
static void make_plain_gguf(buffer *b) { make_gguf(b, 0, 0, NULL, 0, 0); }
static void make_pickle(buffer *b) { pickle_model(b, 0); }
static void seed_safetensors(void) { seed_made(make_usual_safetensors, "toy"); }
static void seed_npz(void) { seed_made(make_usual_npz, "toy"); }
static void seed_gguf(void)
{
    seed_made(make_plain_gguf, "toy");
    seed_made(make_usual_gguf, "key");
}
static void seed_pickle(void) { seed_made(make_pickle, "toy"); }
static void seed_npy(void)
{
    buffer b = { NULL, 0, 0 };
    npy_values(&b, "{'descr': '<f4', 'fortran_order': False, 'shape': (8, 8), }\n", 2);
    fuzz_seed("toy", b.at, b.n);
    clear(&b);
}
static void seed_inflate(void)
{
    static const char own_codes[] =
        "\x15\xc1\x01\x0d\x00\x00\x0c\x02\xa0\xfe\x6d\x51\x0b\x7c\x07\x84\x6a\xcd\x8b\x1c";
    fuzz_seed("fixed", "\x4b\x4c\x84\x01\x00", 5);      /* ten times "a": one, and a copy of nine */
    fuzz_seed("stored", "\x01\x03\x00\xfc\xff" "abc", 8);
    fuzz_seed("dynamic", own_codes, sizeof own_codes - 1);
}
static void seed_rwkv(void)
{
    buffer b = { NULL, 0, 0 };
    const uint32_t head[6] = { 0x67676d66u, 101, VOCAB, DIM, 1, 0 };
    for (int i = 0; i < 6; i++) put_int(&b, head[i], 4);
    for (int t = 0; t < 3; t++) {
        const toy *m = &model_tensors[t];
        put_int(&b, m->cols ? 2 : 1, 4);
        put_int(&b, strlen(m->name), 4);
        put_int(&b, 0, 4);
        if (m->cols) put_int(&b, (uint64_t)m->cols, 4);
        put_int(&b, (uint64_t)m->rows, 4);
        put_text(&b, m->name);
        put_values(&b, t);
    }
    fuzz_seed("toy", b.at, b.n);
    clear(&b);
}
static void seed_index(void)
{
    buffer b = { NULL, 0, 0 };
    put_text(&b, "{\"weight_map\": {");
    for (int t = 0; t < N_MODEL; t++) {
        char entry[100];
        snprintf(entry, sizeof entry, "%s\"%s\": \"part.safetensors\"", t ? ", " : "", model_tensors[t].name);
        put_text(&b, entry);
    }
    put_text(&b, "}}");
    fuzz_seed("toy", b.at, b.n);
    clear(&b);
}
static void seed_json(void)
{
    static const char text[] = "{\"a\": [1, -2.5e-3, true, null, \"\\u00e9\\ud83d\\ude00\\n\"],"
                               " \"b\": {\"c\": {}}, \"d\": NaN, \"e\": 1, \"f\": 2, \"g\": 3, \"h\": 4,"
                               " \"i\": 5, \"j\": -Infinity}";
    fuzz_seed("small", text, sizeof text - 1);
    fuzz_seed("config", good_config, sizeof good_config - 1);
}
static void seed_chat(void)
{
    static const char system[] = "<|im_start|>{% if not m %}<|im_start|>system\\nBe kind.<|im_end|>";
    for (size_t i = 0; i < sizeof chat_families / sizeof *chat_families; i++)
        fuzz_seed(chat_families[i].name, chat_families[i].markers, strlen(chat_families[i].markers));
    fuzz_seed("system", system, sizeof system - 1);
}
static void seed_directory(void)
{
    buffer b = { NULL, 0, 0 }, file = { NULL, 0, 0 };
    char config[900];
    snprintf(config, sizeof config, good_config, "");
    make_safetensors(&file, -1, "");
    put(&b, config, strlen(config) + 1);
    put(&b, file.at + 8, (size_t)conv_u64(file.at));
    fuzz_seed("toy", b.at, b.n);
    clear(&b);
    clear(&file);
}

/* A model of one mixer that says its own recipe; its tensors are t0, t1 ... */
static void make_recipe(buffer *b, const sample *s)
{
    rig r;
    buffer header = { NULL, 0, 0 };
    char text[200];
    size_t data = 0;
    int tensor = 0;
    rig_open(&r, s);
    snprintf(text, sizeof text, "{\"model_type\": \"recipe\", \"recipe\": [\"input r0 rows width=%d\","
             " \"mix r1 r0 %s", (int)s->width, s->mixer);
    put_text(b, text);
    put_text(&header, "{");
    for (int32_t i = 0; i < r.n_params; i++) {
        const sqm_param *p = &r.params[i];
        if (p->text || p->tensors) snprintf(text, sizeof text, " %s=%s", p->key, p->text ? p->text : "");
        else snprintf(text, sizeof text, " %s=%.9g", p->key, p->number);
        put_text(b, text);
        for (int32_t k = 0; k < p->n_tensors; k++) {
            const sqm_tensor *t = p->tensors[k];
            snprintf(text, sizeof text, t ? "%s@t%d" : "%s-", k ? "," : "", tensor);
            put_text(b, text);
            if (t) {
                const int32_t cols = t->ndim > 1 ? t->shape[1] : 0;
                const size_t n = (size_t)t->shape[0] * (size_t)(cols ? cols : 1) * 4;
                snprintf(text, sizeof text, "t%d", tensor++);
                header_entry(&header, text, "F32", t->shape[0], cols, data, data + n);
                data += n;
            }
        }
    }
    put_text(b, "\", \"head logits r1\"]}");
    put_int(b, 0, 1);
    put_text(&header, "}");
    put(b, header.at, header.n);
    clear(&header);
}
static void seed_recipe(void)
{
    for (int i = 0; i < N_SAMPLES; i++) {
        buffer b = { NULL, 0, 0 };
        char name[64];
        make_recipe(&b, &samples[i]);
        snprintf(name, sizeof name, "%s-%d", samples[i].mixer, i);
        fuzz_seed(name, b.at, b.n);
        clear(&b);
    }
}

static const fuzz_reader *fuzz_readers(void)
{
    static const fuzz_reader readers[] = {
        { "json", run_json, seed_json }, { "safetensors", run_safetensors, seed_safetensors },
        { "index", run_index, seed_index }, { "pickle", run_pickle, seed_pickle },
        { "torch", run_torch, seed_torch }, { "inflate", run_inflate, seed_inflate },
        { "npy", run_npy, seed_npy }, { "npz", run_npz, seed_npz }, { "gguf", run_gguf, seed_gguf },
        { "llama2c", run_llama2c, seed_llama2c }, { "rwkv", run_rwkv, seed_rwkv },
        { "chat", run_chat, seed_chat }, { "checkpoint", run_directory, seed_directory },
        { "recipe", run_directory, seed_recipe }, { NULL, NULL, NULL }
    };
    return readers;
}
