/* toy_checkpoint.h: a Llama of one layer as a checkpoint of every format, written byte by byte: for the tests
   of the converter and as seeds of its fuzzing. After tools/convert.h; needs _POSIX_C_SOURCE 200809L. */
#ifndef TOY_CHECKPOINT_H
#define TOY_CHECKPOINT_H
#include <stdlib.h>
#include <sys/types.h>

static char root[64];                 /* temporary directory                                                */

/* Makes it, in memory where there is such a place: many small files. Returns 0 if it cannot. */
static inline int make_root(void)
{
    const char *places[3] = { getenv("TMPDIR"), "/dev/shm", "/tmp" };
    int made = 0;
    for (int i = 0; i < 3 && !made; i++) {
        if (!places[i] || !places[i][0]) continue;
        snprintf(root, sizeof root, "%.40s/sqm-convert-XXXXXX", places[i]);
        made = mkdtemp(root) != NULL;
    }
    if (!made) printf("cannot make a temporary directory\n");
    return made;
}

/* ---- bytes --------------------------------------------------------------------------------------------- */
typedef struct buffer { uint8_t *at; size_t n, room; } buffer;

static inline void put(buffer *b, const void *p, size_t n)
{
    if (b->n + n > b->room) {
        b->room = (b->n + n) * 2 + 256;
        b->at = (uint8_t *)realloc(b->at, b->room);
        if (!b->at) abort();
    }
    if (n) memcpy(b->at + b->n, p, n);
    b->n += n;
}
static inline void put_text(buffer *b, const char *s) { put(b, s, strlen(s)); }
static inline void put_int(buffer *b, uint64_t v, int n)
{
    for (int i = 0; i < n; i++) {
        const uint8_t c = (uint8_t)(i < 8 ? v >> 8 * i : 0);
        put(b, &c, 1);
    }
}
static inline void clear(buffer *b) { free(b->at); memset(b, 0, sizeof *b); }

static inline const char *path_of(const char *name)
{
    static char path[160];
    snprintf(path, sizeof path, "%s/%s", root, name);
    return path;
}

static inline void save(const char *name, const void *p, size_t n)
{
    FILE *f = fopen(path_of(name), "wb");
    if (!f || fwrite(p, 1, n, f) != n) abort();
    fclose(f);
}

static inline void save_text(const char *name, const char *text) { save(name, text, strlen(text)); }

/* ---- the model: a Llama of one layer ------------------------------------------------------------------- */
enum { DIM = 8, FFN = 12, VOCAB = 10, N_MODEL = 12, MAX_MODEL = 16 };
typedef struct toy { const char *name, *gguf; int32_t rows, cols; } toy;
static const toy model_tensors[N_MODEL] = {
    { "model.embed_tokens.weight", "token_embd.weight", VOCAB, DIM },
    { "model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight", DIM, 0 },
    { "model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight", DIM, DIM },
    { "model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight", DIM / 2, DIM },
    { "model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight", DIM / 2, DIM },
    { "model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight", DIM, DIM },
    { "model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight", DIM, 0 },
    { "model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight", FFN, DIM },
    { "model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight", FFN, DIM },
    { "model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight", DIM, FFN },
    { "model.norm.weight", "output_norm.weight", DIM, 0 },
    { "lm_head.weight", "output.weight", VOCAB, DIM }
};
static const char good_config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": 8,"
    " \"intermediate_size\": 12, \"num_attention_heads\": 2, \"num_key_value_heads\": 1,"
    " \"num_hidden_layers\": 1, \"vocab_size\": 10, \"max_position_embeddings\": 32,"
    " \"rms_norm_eps\": 1e-5, \"hidden_act\": \"silu\", \"rope_theta\": 10000.0%s}";

/* Number i of tensor t, exact in half precision too.                                                       */
static inline float value_of(int t, int i) { return (float)((t * 37 + i * 11) % 61 - 30) / 32.0f; }
static inline int count_of(const toy *t) { return t->rows * (t->cols ? t->cols : 1); }

static inline void save_config(const char *more)
{
    char text[900];
    snprintf(text, sizeof text, good_config, more);
    save("config.json", text, strlen(text));
}

static inline void put_values(buffer *b, int t)
{
    for (int i = 0; i < count_of(&model_tensors[t]); i++) {
        const float v = value_of(t, i);
        put(b, &v, 4);
    }
}

/* ---- safetensors --------------------------------------------------------------------------------------- */
static inline void header_entry(buffer *h, const char *name, const char *dtype, int rows, int cols,
                                size_t first, size_t end)
{
    char text[300];
    snprintf(text, sizeof text,
             cols ? "%s\"%s\": {\"dtype\": \"%s\", \"shape\": [%d, %d], \"data_offsets\": [%zu, %zu]}"
                  : "%s\"%s\": {\"dtype\": \"%s\", \"shape\": [%d%.0d], \"data_offsets\": [%zu, %zu]}",
             h->n > 1 ? ", " : "", name, dtype, rows, cols, first, end);
    put_text(h, text);
}

static inline void join_safetensors(buffer *file, const buffer *header, const buffer *data)
{
    clear(file);
    put_int(file, header->n, 8);
    put(file, header->at, header->n);
    put(file, data->at, data->n);
}

/* skip: a tensor to leave out (-1: none); extra: text of more header entries.                              */
static inline void make_safetensors(buffer *file, int skip, const char *extra)
{
    buffer header = { NULL, 0, 0 }, data = { NULL, 0, 0 };
    put_text(&header, "{");
    for (int t = 0; t < N_MODEL; t++) {
        const size_t first = data.n;
        if (t == skip) continue;
        put_values(&data, t);
        header_entry(&header, model_tensors[t].name, "F32", model_tensors[t].rows, model_tensors[t].cols,
                     first, data.n);
    }
    if (*extra) {
        char text[200];
        const size_t first = data.n;
        put_int(&data, 0, 8);
        put_int(&data, 0, 8);
        snprintf(text, sizeof text,
                 ", \"%s\": {\"dtype\": \"F32\", \"shape\": [4], \"data_offsets\": [%zu, %zu]}", extra, first,
                 data.n);
        put_text(&header, text);
    }
    put_text(&header, "}");
    join_safetensors(file, &header, &data);
    clear(&header);
    clear(&data);
}

/* ---- PyTorch ------------------------------------------------------------------------------------------- */
static inline void pickle_text(buffer *b, const char *s)
{
    put_text(b, "X");
    put_int(b, strlen(s), 4);
    put_text(b, s);
}
static inline void pickle_int(buffer *b, int v) { put_text(b, "J"); put_int(b, (uint32_t)v, 4); }

static inline void pickle_tensor(buffer *b, int t, int old)
{
    const toy *m = &model_tensors[t];
    char key[16];
    snprintf(key, sizeof key, "%d", t);
    put_text(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    pickle_text(b, "storage");
    put_text(b, "ctorch\nFloatStorage\n");
    pickle_text(b, key);
    pickle_text(b, "cpu");
    pickle_int(b, count_of(m));
    put_text(b, old ? "NtQ" : "tQ");
    pickle_int(b, 0);
    pickle_int(b, m->rows);
    if (m->cols) pickle_int(b, m->cols);
    put(b, m->cols ? "\x86" : "\x85", 1);
    if (m->cols) pickle_int(b, m->cols);
    pickle_int(b, 1);
    put(b, m->cols ? "\x86" : "\x85", 1);
    put(b, "\x89" "ccollections\nOrderedDict\n)RtR", 30);
}

static inline void pickle_model(buffer *b, int old)
{
    put(b, "\x80\x02", 2);
    put_text(b, "ccollections\nOrderedDict\n)R(");
    for (int t = 0; t < N_MODEL; t++) {
        pickle_text(b, model_tensors[t].name);
        pickle_tensor(b, t, old);
    }
    put_text(b, "u}");
    pickle_text(b, "_metadata");
    put_text(b, "}sb.");
}

typedef struct zip_writer { buffer file, directory; int n; } zip_writer;

static inline void zip_add(zip_writer *z, const char *name, const buffer *data, size_t claimed)
{
    const uint32_t crc = conv_crc32(data->at, data->n);
    const size_t at = z->file.n;
    put_int(&z->file, 0x04034b50u, 4);
    put_int(&z->file, 20, 10);
    put_int(&z->file, crc, 4);
    put_int(&z->file, data->n, 4);
    put_int(&z->file, data->n, 4);
    put_int(&z->file, strlen(name), 4);
    put_text(&z->file, name);
    put(&z->file, data->at, data->n);
    put_int(&z->directory, 0x02014b50u, 4);
    put_int(&z->directory, 20, 6);
    put_int(&z->directory, 0, 6);
    put_int(&z->directory, crc, 4);
    put_int(&z->directory, claimed, 4);
    put_int(&z->directory, claimed, 4);
    put_int(&z->directory, strlen(name), 2);
    put_int(&z->directory, 0, 12);
    put_int(&z->directory, at, 4);
    put_text(&z->directory, name);
    z->n++;
}

static inline void zip_end(zip_writer *z, buffer *file)
{
    const size_t at = z->file.n;
    put(&z->file, z->directory.at, z->directory.n);
    put_int(&z->file, 0x06054b50u, 8);
    put_int(&z->file, (uint64_t)z->n, 2);
    put_int(&z->file, (uint64_t)z->n, 2);
    put_int(&z->file, z->directory.n, 4);
    put_int(&z->file, at, 4);
    put_int(&z->file, 0, 2);
    clear(file);
    put(file, z->file.at, z->file.n);
    clear(&z->file);
    clear(&z->directory);
}

/* more: what the directory claims beyond the real size of tensor 2's data.                                 */
static inline void make_zip(buffer *file, const buffer *pickle, size_t more)
{
    zip_writer z;
    memset(&z, 0, sizeof z);
    zip_add(&z, "archive/data.pkl", pickle, pickle->n);
    for (int t = 0; t < N_MODEL; t++) {
        buffer data = { NULL, 0, 0 };
        char name[40];
        snprintf(name, sizeof name, "archive/data/%d", t);
        put_values(&data, t);
        zip_add(&z, name, &data, data.n + (t == 2 ? more : 0));
        clear(&data);
    }
    zip_end(&z, file);
}

static inline void make_torch(buffer *file)
{
    buffer pickle = { NULL, 0, 0 };
    pickle_model(&pickle, 0);
    make_zip(file, &pickle, 0);
    clear(&pickle);
}

/* ---- NumPy --------------------------------------------------------------------------------------------- */
/* An array's header with this dictionary, then the values of tensor t. */
static inline void npy_values(buffer *b, const char *dictionary, int t)
{
    clear(b);
    put(b, "\x93NUMPY\x01\x00", 8);
    put_int(b, strlen(dictionary), 2);
    put_text(b, dictionary);
    put_values(b, t);
}
/* The model as arrays; tensor `odd` with another dictionary. */
static inline void make_npz(buffer *file, int odd, const char *dictionary)
{
    zip_writer z;
    memset(&z, 0, sizeof z);
    for (int t = 0; t < N_MODEL; t++) {
        const toy *m = &model_tensors[t];
        buffer array = { NULL, 0, 0 };
        char text[120], name[80];
        snprintf(text, sizeof text,
                 m->cols ? "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }\n"
                 : "{'descr': '<f4', 'fortran_order': False, 'shape': (%d,%.0d), }\n", m->rows, m->cols);
        npy_values(&array, t == odd ? dictionary : text, t);
        snprintf(name, sizeof name, "%s.npy", m->name);
        zip_add(&z, name, &array, array.n);
        clear(&array);
    }
    zip_end(&z, file);
}

static inline void make_torch_old(buffer *file)
{
    clear(file);
    put(file, "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);
    put(file, "\x80\x02M\xe9\x03.", 6);
    put(file, "\x80\x02}.", 4);
    pickle_model(file, 1);
    put(file, "\x80\x02](", 4);
    for (int t = 0; t < N_MODEL; t++) {
        char key[16];
        snprintf(key, sizeof key, "%d", t);
        pickle_text(file, key);
    }
    put_text(file, "e.");
    for (int t = 0; t < N_MODEL; t++) {
        put_int(file, (uint64_t)count_of(&model_tensors[t]), 8);
        put_values(file, t);
    }
}

/* ---- GGUF ---------------------------------------------------------------------------------------------- */
static inline void gguf_name(buffer *b, const char *s) { put_int(b, strlen(s), 8); put_text(b, s); }
static inline void gguf_u32(buffer *b, const char *key, uint32_t v)
{
    gguf_name(b, key);
    put_int(b, GGUF_U32, 4);
    put_int(b, v, 4);
}

/* Counts of the header, one more key and the last tensor's offset can be wrong on purpose (0: right).      */
static inline void make_gguf(buffer *file, uint64_t n_tensors, uint64_t n_keys, const char *more_key,
                      uint64_t wrong_offset, uint32_t wrong_type)
{
    const float eps = 1e-5f;
    size_t offset = 0;
    clear(file);
    put_text(file, "GGUF");
    put_int(file, 3, 4);
    put_int(file, n_tensors ? n_tensors : (uint64_t)N_MODEL, 8);
    put_int(file, n_keys ? n_keys : (more_key ? 9 : 8), 8);
    gguf_name(file, "general.architecture");
    put_int(file, GGUF_STRING, 4);
    gguf_name(file, "llama");
    gguf_u32(file, "llama.context_length", 32);
    gguf_u32(file, "llama.embedding_length", DIM);
    gguf_u32(file, "llama.block_count", 1);
    gguf_u32(file, "llama.feed_forward_length", FFN);
    gguf_u32(file, "llama.attention.head_count", 2);
    gguf_u32(file, "llama.attention.head_count_kv", 1);
    gguf_name(file, "llama.attention.layer_norm_rms_epsilon");
    put_int(file, GGUF_F32, 4);
    put(file, &eps, 4);
    if (more_key) gguf_u32(file, more_key, 7);
    for (int t = 0; t < N_MODEL; t++) {
        const toy *m = &model_tensors[t];
        gguf_name(file, m->gguf);
        put_int(file, m->cols ? 2 : 1, 4);
        if (m->cols) put_int(file, (uint64_t)m->cols, 8);
        put_int(file, (uint64_t)m->rows, 8);
        put_int(file, t == 2 ? wrong_type : 0, 4);
        put_int(file, t == N_MODEL - 1 && wrong_offset ? wrong_offset : offset, 8);
        offset += ((size_t)count_of(m) * 4 + 31) / 32 * 32;
    }
    while (file->n % 32) put_int(file, 0, 1);
    for (int t = 0; t < N_MODEL; t++) {
        const size_t first = file->n;
        put_values(file, t);
        while ((file->n - first) % 32) put_int(file, 0, 1);
    }
}

static inline void make_llama2c(buffer *file)
{
    static const int order[11] = { 0, 1, 2, 3, 4, 5, 6, 7, 9, 8, 10 };
    const int32_t head[7] = { DIM, FFN, 1, 2, 1, -VOCAB, 16 };
    clear(file);
    put(file, head, sizeof head);
    for (int i = 0; i < 11; i++) put_values(file, order[i]);
    for (int i = 0; i < 16 * 4; i++) put_int(file, 0, 4);
    put_values(file, 11);
}
#endif
