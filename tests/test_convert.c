/* The converter on checkpoints made here: good ones of every format, then the same damaged in every way. A
   refused checkpoint must be named in the error and leave no file. Needs POSIX directories.                */
#define _POSIX_C_SOURCE 200809L
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "../tools/convert.h"
#include "check.h"
#include "toy_checkpoint.h"

static char out_path[128];

/* ---- running ------------------------------------------------------------------------------------------- */
static int file_exists(const char *path) { FILE *f = fopen(path, "rb"); if (f) fclose(f); return f != NULL; }

/* Converts; checks that a file is there exactly when it went well.                                         */
static int run(const char *name, convert_report *report, conv_target target)
{
    convert_options o;
    char in[160], temporary[160];
    int ok;
    memset(&o, 0, sizeof o);
    o.target = target;
    snprintf(in, sizeof in, "%s", path_of(name));
    remove(out_path);
    ok = convert_checkpoint(in, out_path, &o, report);
    CHECK(file_exists(out_path) == ok);
    CHECK(ok ? !report->error[0] : report->error[0] != 0);
    snprintf(temporary, sizeof temporary, "%s.tmp", out_path);
    CHECK(!file_exists(temporary));
    return ok;
}

/* The conversion must fail and the error must hold all of `words` (separated by '|').                      */
static void refuse(const char *name, const char *words, int line)
{
    convert_report report;
    char copy[200];
    const int ok = run(name, &report, CONV_KEEP);
    if (check_note(!ok, __FILE__, line)) printf("converted, but should have been refused: %s\n", words);
    snprintf(copy, sizeof copy, "%s", words);
    for (char *w = copy, *end; w; w = end) {
        end = strchr(w, '|');
        if (end) *end++ = 0;
        if (check_note(strstr(report.error, w) != NULL, __FILE__, line))
            printf("\"%s\" does not say \"%s\"\n", report.error, w);
    }
}
#define REFUSE(name, words) refuse((name), (words), __LINE__)

/* Weights of the output against the values of the checkpoint.                                              */
static void check_output(int line)
{
    static const struct { const char *out; int t; } pairs[] = {
        { "embed", 0 }, { "l0.attn_norm", 1 }, { "l0.q", 2 }, { "l0.k", 3 }, { "l0.v", 4 }, { "l0.o", 5 },
        { "l0.ffn_norm", 6 }, { "l0.gate", 7 }, { "l0.up", 8 }, { "l0.down", 9 }, { "norm", 10 },
        { "head", 11 }
    };
    sqm_error err;
    sqm_model *m = sqm_load_file(out_path, NULL, &err);
    float values[VOCAB * FFN];
    if (check_note(m != NULL, __FILE__, line)) printf("%s\n", err.text);
    for (size_t i = 0; m && i < sizeof pairs / sizeof *pairs; i++) {
        sqm_tensor t;
        const int n = count_of(&model_tensors[pairs[i].t]);
        int same = 0;
        if (sqm_model_find_tensor(m, pairs[i].out, &t) == SQM_OK &&
            sqm_tensor_values(values, (size_t)n, &t, &err) == SQM_OK) {
            while (same < n && values[same] == value_of(pairs[i].t, same)) same++;
        }
        if (check_note(same == n, __FILE__, line)) printf("%s differs from the checkpoint\n", pairs[i].out);
    }
    sqm_model_free(m);
}

static void accept_file(const char *name, int line)
{
    convert_report report;
    const int ok = run(name, &report, CONV_KEEP);
    if (check_note(ok, __FILE__, line)) printf("%s: %s\n", name, report.error);
    if (ok) check_output(line);
}
#define ACCEPT(name) accept_file((name), __LINE__)

/* ---- tests --------------------------------------------------------------------------------------------- */
static void test_good_checkpoints(void)
{
    buffer b = { NULL, 0, 0 };
    convert_report report;
    save_config("");
    make_safetensors(&b, -1, "");
    save("model.safetensors", b.at, b.n);
    ACCEPT("");
    ACCEPT("model.safetensors");
    for (int t = 0; t <= (int)CONV_KEEP; t++) CHECK(run("model.safetensors", &report, (conv_target)t));
    make_torch(&b);
    save("a.pth", b.at, b.n);
    ACCEPT("a.pth");
    make_torch_old(&b);
    save("a.pth", b.at, b.n);
    ACCEPT("a.pth");
    make_npz(&b, -1, "");
    save("a.npz", b.at, b.n);
    ACCEPT("a.npz");
    make_gguf(&b, 0, 0, NULL, 0, 0);
    save("a.gguf", b.at, b.n);
    ACCEPT("a.gguf");
    make_llama2c(&b);
    save("a.bin", b.at, b.n);
    ACCEPT("a.bin");
    clear(&b);
}

static void test_output_is_deterministic(void)
{
    buffer b = { NULL, 0, 0 };
    convert_report report;
    char *first, *second;
    size_t n = 0, m = 0;
    const char *why;
    make_safetensors(&b, -1, "");
    save("model.safetensors", b.at, b.n);
    CHECK(run("model.safetensors", &report, CONV_TO_Q8));
    first = json_read_bytes(out_path, 1 << 20, &n, &why);
    CHECK(run("model.safetensors", &report, CONV_TO_Q8));
    second = json_read_bytes(out_path, 1 << 20, &m, &why);
    CHECK(first && second && n == m && memcmp(first, second, n) == 0);
    free(first);
    free(second);
    clear(&b);
}

static void test_configurations(void)
{
    buffer b = { NULL, 0, 0 };
    make_safetensors(&b, -1, "");
    save("model.safetensors", b.at, b.n);
    save_config(", \"use_flux_capacitor\": 3");          REFUSE("", "use_flux_capacitor");
    save_config(", \"unknown_but_null\": null");         ACCEPT("");
    save_config(", \"rope_scaling\": {\"rope_type\": \"spiral\", \"factor\": 2.0}");   REFUSE("", "spiral");
    save_config(", \"rope_scaling\": {\"rope_type\": \"factors\", \"factor\": 2.0}");
    REFUSE("", "\"factors\" is not known");
    save_config(", \"rope_scaling\": {\"rope_type\": \"linear\"}");
    REFUSE("", "linear|factor");
    save_config(", \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": -1}");    REFUSE("", "factor");
    save_config(", \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 2, \"twist\": 1}");
    REFUSE("", "twist");
    save_config(", \"rope_scaling\": {\"rope_type\": \"longrope\", \"factor\": 2, \"short_factor\": [1]}");
    REFUSE("", "short_factor");
    save_config(", \"head_dim\": 0");                    REFUSE("", "head_dim");
    save_config(", \"head_dim\": 2.5");                  REFUSE("", "head_dim");
    save_config(", \"head_dim\": 8");                    REFUSE("", "q_proj|[8, 8]|[16, 8]");
    save_config(", \"head_dim\": 268435456");            REFUSE("", "heads");
    save_config(", \"head_dim\": 67108864");             REFUSE("", "rotary positions over 67108864");
    save_config(", \"attention_bias\": true");           REFUSE("", "q_proj.bias|missing");
    save_config(", \"attention_bias\": \"yes\"");        REFUSE("", "attention_bias");
    save_config(", \"hidden_size\": 8");                 REFUSE("", "hidden_size");
    save_config(", \"is_encoder_decoder\": true");       REFUSE("", "is_encoder_decoder");
    save_config("");
    save_text("config.json", "{\"model_type\": \"llama\"}");  REFUSE("", "missing");
    save_text("config.json", "{\"model_type\": \"warp\"}");   REFUSE("", "warp|llama|gpt2");
    save_text("config.json", "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForTelepathy\"]}");
    REFUSE("", "LlamaForTelepathy");
    save_text("config.json", "{\"model_type\": 3}");          REFUSE("", "model_type");
    save_text("config.json", "[]");                           REFUSE("", "object");
    save_text("config.json", "{\"model_type");                REFUSE("", "config.json");
    save_text("config.json", "");                             REFUSE("model.safetensors", "config.json");
    save_config("");
    clear(&b);
}

/* Two factors of attention for two lengths stand in the recipe; the same one does not stand there twice. */
static void test_rope_of_two_lengths(void)
{
    static const char rope[] = ", \"rope_scaling\": {\"rope_type\": \"longrope\", \"short_factor\": [1, 1.5],"
        " \"long_factor\": [2, 3], \"original_max_position_embeddings\": 16, \"short_mscale\": 1.25,"
        " \"long_mscale\": %s}";
    convert_report report;
    char text[400];
    for (int same = 0; same < 2; same++) {
        sqm_error err;
        sqm_model *m;
        int found = 0;
        snprintf(text, sizeof text, rope, same ? "1.25" : "1.5");
        save_config(text);
        CHECK(run("", &report, CONV_KEEP));
        m = sqm_load_file(out_path, NULL, &err);
        for (int32_t i = 0; m && i < m->file.n_ops; i++) {
            sqm__op_text(&m->file, i, text, sizeof text);
            found += strstr(text, "attn_factor=1.25") && (strstr(text, "attn_long=1.5") == NULL) == same;
        }
        CHECK(found == 1);
        sqm_model_free(m);
    }
    snprintf(text, sizeof text, rope, "-1");
    save_config(text);
    REFUSE("", "long_mscale");
    save_config("");
}

static void test_wrong_tensors(void)
{
    buffer b = { NULL, 0, 0 };
    make_safetensors(&b, 4, "");
    save("model.safetensors", b.at, b.n);
    REFUSE("", "v_proj.weight|missing");
    make_safetensors(&b, -1, "model.layers.0.self_attn.mystery");
    save("model.safetensors", b.at, b.n);
    REFUSE("", "mystery|[4]");
    make_safetensors(&b, -1, "model.layers.0.self_attn.rotary_emb.inv_freq");
    save("model.safetensors", b.at, b.n);
    ACCEPT("");
    clear(&b);
}

/* A safetensors file with the given header text and `data` zero bytes.                                     */
static void save_header(const char *text, size_t data)
{
    buffer b = { NULL, 0, 0 };
    put_int(&b, strlen(text), 8);
    put_text(&b, text);
    while (data--) put_int(&b, 0, 1);
    save("h.safetensors", b.at, b.n);
    clear(&b);
}

static void test_safetensors_headers(void)
{
    char *deep = (char *)malloc(300001);
    buffer b = { NULL, 0, 0 };
    save("h.safetensors", "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    REFUSE("h.safetensors", "h.safetensors|header");
    save("h.safetensors", "\x05", 1);                                    REFUSE("h.safetensors", "too short");
    save_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 9]}}", 8);
    REFUSE("h.safetensors", "a|9");
    save_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [4], \"data_offsets\": [0, 16]}}", 8);
    REFUSE("h.safetensors", "tensor a");
    save_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [8, 0]}}", 8);
    REFUSE("h.safetensors", "tensor a");
    save_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [-2], \"data_offsets\": [0, 8]}}", 8);
    REFUSE("h.safetensors", "tensor a");
    save_header("{\"a\": {\"dtype\": \"F99\", \"shape\": [2], \"data_offsets\": [0, 8]}}", 8);
    REFUSE("h.safetensors", "F99");
    save_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [2]}}", 8);
    REFUSE("h.safetensors", "data_offsets");
    save_header("{\"a\": 5}", 8);
    REFUSE("h.safetensors", "tensor a");
    save_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [4294967296, 4294967296, 4],"
                " \"data_offsets\": [0, 0]}}", 0);
    REFUSE("h.safetensors", "tensor a");
    save_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [4294967296, 4294967296, 0],"
                " \"data_offsets\": [0, 0]}}", 0);
    REFUSE("h.safetensors", "more elements than there can be");
    save_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [1,1,1,1,1,1,1,1,1], \"data_offsets\": [0, 4]}}", 4);
    REFUSE("h.safetensors", "tensor a");
    save_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]},"
                " \"b\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 4);
    REFUSE("h.safetensors", "overlap");
    save_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 8]}}", 8);
    REFUSE("h.safetensors", "hole");
    save_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 8);
    REFUSE("h.safetensors", "end");
    save_header("{\"a\\u0000b\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 4);
    REFUSE("h.safetensors", "NUL");
    save_header("{\"\\u001b[2J\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 4);
    REFUSE("h.safetensors", "missing");
    memset(deep, '[', 300000);
    deep[300000] = 0;
    save_header(deep, 4);
    REFUSE("h.safetensors", "deep");
    save_header("", 0);
    REFUSE("h.safetensors", "JSON");
    free(deep);
    clear(&b);
}

/* ---- 8-bit and 4-bit floats with scales ---------------------------------------------------------------- */
/* A source of one safetensors file with this header and these bytes. */
static void open_packed(conv *c, const char *header, const uint8_t *data, size_t n)
{
    buffer b = { NULL, 0, 0 };
    put_int(&b, strlen(header), 8);
    put_text(&b, header);
    put(&b, data, n);
    save("h.safetensors", b.at, b.n);
    clear(&b);
    memset(c, 0, sizeof *c);
    c->env = (conv_env *)calloc(1, sizeof *c->env);
    if (!c->env) abort();
    c->source.env = c->env;
    CHECK(conv_read_safetensors(&c->source, path_of("h.safetensors")));
}
static void close_packed(conv *c)
{
    conv_source_close(&c->source);
    conv_env_close(c->env);
    free(c->env);
}

/* 15 times the number 1 in FP8 with `scales` floats beside it (0: eight that are none of its scales), and
   blocks of this size; words NULL: it must work. */
static void try_fp8(const char *shape, const char *scale_shape, int scales, const char *size,
                    const char *words)
{
    uint8_t data[15 + 4 * 8];
    char header[300], config[200];
    conv c;
    json_doc doc;
    uint8_t seen[4] = { 0 };
    memset(data, 0x38, 15);
    for (int i = 0; i < 8; i++) {
        const float f = (float)(i + 1);
        memcpy(data + 15 + 4 * i, &f, 4);
    }
    snprintf(header, sizeof header,
             "{\"a\": {\"dtype\": \"F8_E4M3\", \"shape\": %s, \"data_offsets\": [0, 15]},"
             " \"%s\": {\"dtype\": \"F32\", \"shape\": %s, \"data_offsets\": [15, %d]}}", shape,
             scales ? "a_scale_inv" : "b", scale_shape, 15 + 4 * (scales ? scales : 8));
    snprintf(config, sizeof config, "{\"quantization_config\": {\"quant_method\": \"fp8\","
             " \"weight_block_size\": %s}}", size);
    open_packed(&c, header, data, 15 + 4 * (size_t)(scales ? scales : 8));
    CHECK(json_parse(&doc, config, strlen(config)));
    c.config = doc.root;
    c.config_seen = seen;
    conv_fp8(&c);
    if (words) {
        if (check_note(c.env->failed && strstr(c.env->error, words), __FILE__, __LINE__))
            printf("\"%s\" does not say \"%s\"\n", c.env->error, words);
    } else {
        const float *values = conv_read(&c, "a", 15);
        CHECK(values != NULL);
        for (int i = 0; values && i < 15; i++) CHECK(values[i] == (float)(i / 5 / 2 * 2 + i % 5 / 3 + 1));
    }
    json_free(&doc);
    close_packed(&c);
}

static void test_fp8(void)
{
    try_fp8("[3, 5]", "[2, 2]", 4, "[2, 3]", NULL);                     /* blocks that stick out            */
    try_fp8("[3, 5]", "[4]", 4, "[2, 3]", "scales of shape [4]");
    try_fp8("[3, 5]", "[2, 3]", 6, "[2, 3]", "scales of shape [2, 3]");
    try_fp8("[3, 5]", "[1, 1]", 1, "[2, 3]", "scales of shape [1, 1]");
    try_fp8("[15]", "[2, 2]", 4, "[2, 3]", "shape [15]");
    try_fp8("[1, 3, 5]", "[2, 2]", 4, "[2, 3]", "shape [1, 3, 5]");
    try_fp8("[3, 5]", "[8]", 0, "[2, 3]", "a_scale_inv is missing");
    try_fp8("[3, 5]", "[2, 2]", 4, "[2]", "weight_block_size");
    try_fp8("[3, 5]", "[2, 2]", 4, "[0, -3]", "weight_block_size");
    try_fp8("[3, 5]", "[2, 2]", 4, "null", "weight_block_size");
    try_fp8("[3, 5]", "[2, 2]", 4, "[1e300, 3]", "weight_block_size");
}

/* Blocks and scales of these types and shapes, for two rows of 64 values; words NULL: it must work. */
static void try_mxfp4(const char *blocks, const char *scales, const char *type, const char *words)
{
    uint8_t data[64 + 4];
    char header[300];
    conv c;
    for (int i = 0; i < 64; i++) data[i] = (uint8_t)(i % 8 | (i % 8 + 8) << 4);        /* x, then -x        */
    for (int i = 0; i < 4; i++) data[64 + i] = (uint8_t)(126 + i);     /* 1/2, 1, 2, 4                     */
    snprintf(header, sizeof header,
             "{\"a_blocks\": {\"dtype\": \"%s\", \"shape\": %s, \"data_offsets\": [0, 64]},"
             " \"a_scales\": {\"dtype\": \"U8\", \"shape\": %s, \"data_offsets\": [64, 68]}}",
             type, blocks, scales);
    open_packed(&c, header, data, sizeof data);
    if (words) {
        CHECK(!conv_mxfp4(&c, "a"));
        if (check_note(c.env->failed && strstr(c.env->error, words), __FILE__, __LINE__))
            printf("\"%s\" does not say \"%s\"\n", c.env->error, words);
    } else {
        static const float numbers[8] = { 0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f };
        const conv_tensor *t;
        float row[64];
        CHECK(conv_mxfp4(&c, "a"));
        t = conv_source_find(&c.source, "a");
        CHECK(t && t->ndim == 2 && t->shape[0] == 2 && t->shape[1] == 64);
        for (int r = 0; t && r < 2; r++) {
            conv_mxfp4_row(row, conv_tensor_data(&c.source, t), t, r);
            for (int i = 0; i < 64; i++) {
                const float scale = 0.5f * (float)(1 << (2 * r + i / 32));
                CHECK(row[i] == numbers[i / 2 % 8] * (i % 2 ? -scale : scale));
            }
        }
        CHECK(!conv_mxfp4(&c, "absent") && !c.env->failed);
    }
    close_packed(&c);
}

static void test_mxfp4(void)
{
    try_mxfp4("[2, 2, 16]", "[2, 2]", "U8", NULL);
    try_mxfp4("[2, 2, 16]", "[2, 2]", "I8", "a_scales");
    try_mxfp4("[4, 16]", "[2, 2]", "U8", "a_scales");
    try_mxfp4("[2, 2, 16]", "[4]", "U8", "a_scales");
    try_mxfp4("[2, 2, 16]", "[4, 1]", "U8", "a_scales");
    try_mxfp4("[2, 4, 8]", "[2, 2]", "U8", "a_scales");
    try_mxfp4("[2, 4, 8]", "[2, 2, 1]", "U8", "a_scales");
    try_mxfp4("[64]", "[4]", "U8", "a_scales");
}

static void test_shards(void)
{
    static const char bad[] = "{\"weight_map\": {\"x\": \"../../etc/passwd\"}}";
    static const char gone[] = "{\"weight_map\": {\"x\": \"nowhere.safetensors\"}}";
    static const char other[] = "{\"weight_map\": {\"x\": \"model.safetensors\"}}";
    buffer b = { NULL, 0, 0 };
    make_safetensors(&b, -1, "");
    save("model.safetensors", b.at, b.n);
    save_text("i.safetensors.index.json", bad);      REFUSE("i.safetensors.index.json", "etc/passwd");
    save_text("i.safetensors.index.json", gone);    REFUSE("i.safetensors.index.json", "nowhere");
    save_text("i.safetensors.index.json", other);  REFUSE("i.safetensors.index.json", "tensor x");
    save_text("i.safetensors.index.json", "{}");
    REFUSE("i.safetensors.index.json", "weight_map");
    clear(&b);
}

static void try_pickle(const char *text, size_t n, const char *words, int line)
{
    buffer pickle = { NULL, 0, 0 }, file = { NULL, 0, 0 };
    put(&pickle, text, n);
    make_zip(&file, &pickle, 0);
    save("p.pth", file.at, file.n);
    refuse("p.pth", words, line);
    clear(&pickle);
    clear(&file);
}
#define PICKLE(text, words) try_pickle((text), sizeof(text) - 1, (words), __LINE__)

static void test_pickles(void)
{
    PICKLE("\x80\x02" "cos\nsystem\n(X\x02\0\0\0lstR.", "os.system");
    PICKLE("\x80\x04\x8c\x08" "builtins\x8c\x04" "eval\x93.", "builtins.eval");
    PICKLE("\x80\x02" "ctorch._utils\n_rebuild_tensor_v2\n)R.", "wrong arguments");
    PICKLE("\x80\x02" "ctorch\nFloatStorage\n)R.", "storage type");
    PICKLE("\x80\x02}.", "no dictionary of tensors");
    PICKLE("\x80\x02N", "ends inside");
    PICKLE("\x80\x02X\xff\xff\xff\xff" "a.", "ends inside");
    PICKLE("\x80\x02R.", "stack is empty");
    PICKLE("\x80\x02u.", "mark");
    PICKLE("\x80\x02" "e.", "mark");
    PICKLE("\x80\x02\x87.", "stack is empty");
    PICKLE("\x80\x02" "h\x05.", "memo");
    PICKLE("\x80\x02Nr\xff\xff\xff\x7f.", "memo");
    PICKLE("\x80\x02(((((.", "one value");
    PICKLE("\x80\x02\xfe.", "unknown operation");
    PICKLE("\x80\x09N.", "protocol");
    PICKLE("\x80\x02](N(Ne.", "no list");
    PICKLE("\x80\x02NQ.", "wrong kind");
    PICKLE("\x80\x02)Q.", "persistent id");
    PICKLE("\x80\x02}(X\x01\0\0\0kX\x01\0\0\0vX\x01\0\0\0wu.", "without a value");
    PICKLE("i", "unknown operation");
}

static void test_zips(void)
{
    buffer pickle = { NULL, 0, 0 }, file = { NULL, 0, 0 };
    pickle_model(&pickle, 0);
    make_zip(&file, &pickle, 1 << 20);
    save("z.pth", file.at, file.n);
    REFUSE("z.pth", "archive/data/2");
    make_zip(&file, &pickle, 0);
    save("z.pth", file.at, file.n - 30);
    REFUSE("z.pth", "directory");
    file.at[file.n - 12] = 0xff;                       /* entries in the directory                          */
    save("z.pth", file.at, file.n);
    REFUSE("z.pth", "z.pth");
    make_zip(&file, &pickle, 0);
    file.at[60] ^= 1;                                  /* inside data.pkl                                   */
    save("z.pth", file.at, file.n);
    REFUSE("z.pth", "data.pkl|checksum");
    clear(&pickle);
    clear(&file);
}

static void test_npzs(void)
{
    static const struct { const char *dictionary, *text; } cases[] = {
        { "{'descr': '<f4', 'fortran_order': True, 'shape': (8,), }", "row-major" },
        { "{'descr': '>f4', 'fortran_order': False, 'shape': (8,), }", "element type" },
        { "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (8,), }", "element type" },
        { "{'descr': '<f4', 'fortran_order': False, 'shape': (9,), }", "needs 36" },
        { "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 8), }", "shape" },
        { "{'descr': '<f4', 'fortran_order': False, 'shape': (8", "shape" },
        { "{'descr': '<f4', 'fortran_order': False, 'shape': 8, }", "shape" },
        { "{'descr': '<f4', 'fortran_order': False, }", "shape" },
        { "", "element type" }
    };
    buffer b = { NULL, 0, 0 };
    zip_writer z;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        make_npz(&b, 1, cases[i].dictionary);
        save("n.npz", b.at, b.n);
        REFUSE("n.npz", cases[i].text);
    }
    make_npz(&b, -1, "");
    b.at[200] ^= 1;
    save("n.npz", b.at, b.n);
    REFUSE("n.npz", "checksum");
    memset(&z, 0, sizeof z);
    put_text(&b, "text");
    zip_add(&z, "readme.txt", &b, b.n);
    zip_end(&z, &b);
    save("n.npz", b.at, b.n);
    REFUSE("n.npz", "no array");
    clear(&b);
}

static void test_ggufs(void)
{
    buffer b = { NULL, 0, 0 };
    make_gguf(&b, (uint64_t)1 << 60, 0, NULL, 0, 0);
    save("g.gguf", b.at, b.n);
    REFUSE("g.gguf", "tensors");
    make_gguf(&b, 0, (uint64_t)1 << 60, NULL, 0, 0);
    save("g.gguf", b.at, b.n);
    REFUSE("g.gguf", "keys");
    make_gguf(&b, 0, 0, NULL, 0, 0);
    for (int i = 0; i < 70000; i++) put_int(&b, 0, 1);
    save("g.gguf", b.at, b.n);                               REFUSE("g.gguf", "after its last tensor");
    make_gguf(&b, 0, 0, "llama.mystery", 0, 0);
    save("g.gguf", b.at, b.n);
    REFUSE("g.gguf", "llama.mystery");
    make_gguf(&b, 0, 0, "llama.expert_count", 0, 0);
    save("g.gguf", b.at, b.n);
    REFUSE("g.gguf", "expert_used_count");
    make_gguf(&b, 0, 0, "general.alignment", 0, 0);
    save("g.gguf", b.at, b.n);
    REFUSE("g.gguf", "alignment");
    make_gguf(&b, 0, 0, "split.count", 0, 0);
    save("g.gguf", b.at, b.n);
    REFUSE("g.gguf", "split.count");
    make_gguf(&b, 0, 0, NULL, (uint64_t)1 << 63, 0);
    save("g.gguf", b.at, b.n);
    REFUSE("g.gguf", "output.weight");
    make_gguf(&b, 0, 0, NULL, 33, 0);
    save("g.gguf", b.at, b.n);
    REFUSE("g.gguf", "output.weight");
    make_gguf(&b, 0, 0, NULL, 32, 0);
    save("g.gguf", b.at, b.n);
    REFUSE("g.gguf", "overlap");
    make_gguf(&b, 0, 0, NULL, 0, 12);
    save("g.gguf", b.at, b.n);
    REFUSE("g.gguf", "attn_q");
    make_gguf(&b, 0, 0, NULL, 0, 99);
    save("g.gguf", b.at, b.n);
    REFUSE("g.gguf", "attn_q|99");
    make_gguf(&b, 0, 0, NULL, 0, 0);
    b.at[4] = 9;
    save("g.gguf", b.at, b.n);
    REFUSE("g.gguf", "version 9");
    clear(&b);
}

static void test_strange_files(void)
{
    buffer b = { NULL, 0, 0 };
    save("s.bin", "hello, I am no checkpoint", 25);          REFUSE("s.bin", "s.bin");
    save("s.bin", "", 0);                                    REFUSE("s.bin", "s.bin");
    REFUSE("not_there.gguf", "not_there.gguf");
    make_llama2c(&b);
    save("s.bin", b.at, b.n - 4);                            REFUSE("s.bin", "llama2.c");
    clear(&b);
}

/* Every truncation and every flipped byte: refused or converted, never a crash; at most `limit` bytes in.  */
static void damage(const char *name, const buffer *whole, size_t limit)
{
    convert_report report;
    long converted = 0;
    uint8_t *copy = (uint8_t *)malloc(whole->n);
    if (!copy) abort();
    for (size_t n = 0; n < whole->n && n < limit; n += 3) {
        save(name, whole->at, n);
        converted += run(name, &report, CONV_KEEP);
    }
    CHECK(converted == 0);
    for (size_t i = 0; i < whole->n && i < limit; i++) {
        memcpy(copy, whole->at, whole->n);
        copy[i] ^= (uint8_t)(1u << i % 8);
        if (i % 4 == 3) copy[i] = 0xff;
        save(name, copy, whole->n);
        run(name, &report, CONV_KEEP);
    }
    free(copy);
}

static void test_damaged_checkpoints(void)
{
    buffer b = { NULL, 0, 0 };
    save_config("");
    make_safetensors(&b, -1, "");
    damage("d.safetensors", &b, 1700);
    make_torch(&b);
    damage("d.pth", &b, 3000);
    make_torch_old(&b);
    damage("d.pth", &b, 3000);
    make_npz(&b, -1, "");
    damage("d.npz", &b, 1500);
    make_gguf(&b, 0, 0, NULL, 0, 0);
    damage("d.gguf", &b, 1400);
    make_llama2c(&b);
    damage("d.bin", &b, 60);
    clear(&b);
}

static void clean_up(void)
{
    static const char *const names[] = { "config.json", "model.safetensors", "a.pth", "a.gguf", "a.bin",
                                         "h.safetensors", "i.safetensors.index.json", "p.pth", "z.pth",
                                         "g.gguf", "s.bin", "d.safetensors", "d.pth", "d.gguf", "d.bin",
                                         "a.npz", "n.npz", "d.npz", NULL };
    remove(out_path);
    for (int i = 0; names[i]; i++) remove(path_of(names[i]));
    remove(root);
}

int main(void)
{
    if (!make_root()) return 1;
    snprintf(out_path, sizeof out_path, "%s/out.sqm", root);
    test_good_checkpoints();
    test_output_is_deterministic();
    test_configurations();
    test_rope_of_two_lengths();
    test_wrong_tensors();
    test_safetensors_headers();
    test_fp8();
    test_mxfp4();
    test_shards();
    test_pickles();
    test_zips();
    test_npzs();
    test_ggufs();
    test_strange_files();
    test_damaged_checkpoints();
    clean_up();
    return check_report("test_convert");
}
