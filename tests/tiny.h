/* tiny.h: tokenizers of a few texts and random models of a few tokens, written with the library's own writer.
   Include after the implementation of seqmodel.h and check.h. */
#ifndef TINY_H
#define TINY_H
#ifndef TEST_TMP
#define TEST_TMP ""
#endif

typedef struct blob_writer { uint8_t data[16384]; size_t used; } blob_writer;

static inline void add_array(blob_writer *b, int number, const void *items, size_t n, size_t item_bytes)
{
    const uint32_t entry[2] = {(uint32_t)b->used, (uint32_t)n};
    memcpy(b->data + sizeof(sqm__tok_header) + 8 * (size_t)number, entry, sizeof(entry));
    CHECK(b->used + n * item_bytes <= sizeof(b->data));
    memcpy(b->data + b->used, items, n * item_bytes);
    b->used = (b->used + n * item_bytes + 3) / 4 * 4;
}

/* The special tokens as texts that are found in other texts, sorted. */
static inline void add_specials(blob_writer *b, const char *const *pieces, int32_t n)
{
    static char strings[256];
    sqm__tok_added added[8];
    uint32_t first[257], used = 0;
    CHECK(n <= 8);
    for (int32_t i = 0; i < n; i++) {
        const uint32_t bytes = (uint32_t)strlen(pieces[i]);
        int32_t at = i;
        for (; at > 0 && strcmp(strings + added[at - 1].first, pieces[i]) > 0; at--)
            added[at] = added[at - 1];
        memcpy(strings + used, pieces[i], bytes + 1);
        added[at].first = used;
        added[at].bytes = bytes;
        added[at].id = i;
        added[at].flags = SQM__ADDED_SPECIAL;
        used += bytes + 1;
    }
    for (uint32_t byte = 0, at = 0; byte < 257; byte++) {
        while (at < (uint32_t)n && (uint8_t)strings[added[at].first] < byte) at++;
        first[byte] = at;
    }
    add_array(b, SQM__A_STRINGS, strings, used, 1);
    add_array(b, SQM__A_ADDED, added, (size_t)n, sizeof(added[0]));
    add_array(b, SQM__A_ADDED_FIRST, first, 257, 4);
}

/* A tokenizer that reads single bytes. Piece 0 begins a text, 1 ends it; the first n_special are special.
   strip: it drops a space at a text's start. */
static inline void make_tokenizer(blob_writer *b, const char *const *pieces, int32_t n, int32_t n_special,
                                  int strip)
{
    const int32_t begin = 0, end = 1;
    sqm__tok_header h;
    sqm__tok_step decoder;
    static uint32_t offsets[1025];
    static uint8_t types[1024];
    static char text[8192];
    int32_t chars[256];
    memset(b, 0, sizeof(*b));
    memset(&h, 0, sizeof(h));
    memset(&decoder, 0, sizeof(decoder));
    memset(chars, 0xff, sizeof(chars));
    for (int32_t i = 0; i < n; i++) {
        const size_t bytes = strlen(pieces[i]);
        memcpy(text + offsets[i], pieces[i], bytes);
        types[i] = i < n_special ? SQM__TOKEN_SPECIAL : SQM__TOKEN_NORMAL;
        offsets[i + 1] = offsets[i] + (uint32_t)bytes;
        if (bytes == 1) chars[(uint8_t)pieces[i][0]] = i;
    }
    h.version = SQM__TOK_VERSION;
    h.kind = SQM__TOK_BYTES;
    h.n_tokens = n;
    h.max_token_bytes = 16;
    h.role[0] = begin; h.role[1] = end; h.role[2] = h.role[3] = h.model_unk = -1;
    h.word_class = h.space_class = 0xffffffffu;
    h.n_arrays = SQM__A_COUNT;
    memcpy(b->data, &h, sizeof(h));
    b->used = sizeof(h) + 8 * SQM__A_COUNT;
    decoder.kind = SQM__DECODE_STRIP;
    decoder.flags = 1;
    decoder.a = ' ';
    add_array(b, SQM__A_OFFSETS, offsets, (size_t)n + 1, 4);
    add_array(b, SQM__A_TEXT, text, offsets[n], 1);
    add_array(b, SQM__A_ATTRIBUTES, types, (size_t)n, 1);
    add_array(b, SQM__A_CHARS, chars, 256, 4);
    add_array(b, SQM__A_ENDS, &end, 1, 4);
    add_array(b, SQM__A_PREFIX, &begin, 1, 4);
    add_specials(b, pieces, n_special);
    add_array(b, SQM__A_DECODERS, &decoder, strip ? 1 : 0, sizeof(decoder));
}

static inline void write_panels(sqm_writer *w, const float *values, int32_t rows, int32_t cols)
{
    static float packed[64 * 64];
    sqm_error err;
    const int32_t shape[2] = {rows, cols};
    const size_t bytes = sqm_tensor_bytes(SQM_F32, SQM_PANELS, 2, shape);
    CHECK(bytes <= sizeof(packed));
    CHECK(sqm_pack(packed, sizeof(packed), SQM_F32, values, rows, cols, NULL, &err) == SQM_OK);
    sqm_writer_data(w, packed, bytes);
}

/* ---- models with random weights ---- */
enum { TINY_DIM = 16, TINY_CONTEXT = 200 };
/* What mixes; may be combined. TINY_LONG: rotary frequencies that depend on the length beyond 40 tokens.
   TINY_PLAIN: with the attention for small programs. */
enum { TINY_ATTENTION = 1, TINY_WINDOW = 2, TINY_RECURRENT = 4, TINY_LONG = 8, TINY_PLAIN = 16 };
static const struct { const char *name; int32_t rows; float size; } tiny_tensors[] = {
    {"embed", 0, 1.0f}, {"w", TINY_DIM, 0.3f}, {"o", TINY_DIM, 0.4f}, {"q", 3 * TINY_DIM, 0.8f},
    {"p", TINY_DIM, 0.5f}};

/* A model of the pieces' tokens: the same seed gives the same weights. */
static inline sqm_model *tiny_model(const char *const *pieces, int32_t n, int32_t n_special, int strip,
                                    int mixes, uint64_t seed)
{
    const char *const file = TEST_TMP "tiny.tmp.sqm";
    static blob_writer blob;
    static const float freq[4] = {1.0f, 0.5f, 0.2f, 0.1f};
    const int32_t freq_dims = 4;
    char recipe[1024];
    uint64_t rng[2] = {seed, 77};
    sqm_error err;
    sqm_writer *w = sqm_writer_open(file, &err);
    const char *const long_rope = "linear r1 r0 w=@q\n"
                                  "rope r1 r1 heads=4 head_dim=8 dims=8 style=half freq=@freq ntk_factor=4 "
                                  "ntk_length=40\n"
                                  "mix r2 r1 attention heads=2 head_dim=8 scale=0.4\n"
                                  "linear r0 r2 w=@p add=1\n";
    const char *const attention = "linear r1 r0 w=@q\nmix r2 r1 attention heads=2 head_dim=8 scale=0.4";
    sqm_writer_meta(w, "max_context", "200");
    make_tokenizer(&blob, pieces, n, n_special, strip);
    sqm_writer_tokenizer(w, blob.data, blob.used);
    for (int i = 0; i < 5; i++) {
        const int32_t shape[2] = {tiny_tensors[i].rows ? tiny_tensors[i].rows : n, TINY_DIM};
        sqm_writer_declare(w, tiny_tensors[i].name, SQM_F32, SQM_PANELS, 2, shape);
    }
    sqm_writer_declare(w, "freq", SQM_F32, SQM_ROWS, 1, &freq_dims);
    snprintf(recipe, sizeof(recipe), "embed r0 tokens w=@embed\n%s%s%s%s%s%s%s"
             "head logits r0 w=@embed\n",
             mixes & TINY_ATTENTION ? attention : "",
             mixes & TINY_ATTENTION ? "\nlinear r0 r2 w=@p add=1\n" : "",
             mixes & TINY_WINDOW ? attention : "",
             mixes & TINY_WINDOW ? " window=6\nlinear r0 r2 w=@p add=1\n" : "",
             mixes & TINY_LONG ? long_rope : "",
             mixes & TINY_RECURRENT ? "mix r1 r0 rnn w=@w act=tanh\n" : "",
             mixes & TINY_RECURRENT ? "linear r0 r1 w=@o add=1\n" : "");
    sqm_writer_recipe(w, recipe);
    for (int i = 0; i < 5; i++) {
        static float values[64 * TINY_DIM];
        const int32_t rows = tiny_tensors[i].rows ? tiny_tensors[i].rows : n;
        for (int32_t k = 0; k < rows * TINY_DIM; k++)
            values[k] = tiny_tensors[i].size * ((float)sqm__random_below(rng, 20001) / 10000.0f - 1.0f);
        write_panels(w, values, rows, TINY_DIM);
    }
    sqm_writer_data(w, freq, sizeof(freq));
    CHECK(sqm_writer_close(w, &err) == SQM_OK);
    const sqm_mixer *const plain[] = {sqm_mixer_attention_plain(), NULL};
    sqm_open_options options;
    memset(&options, 0, sizeof(options));
    if (mixes & TINY_PLAIN) options.mixers = plain;
    sqm_model *m = sqm_load_file(file, &options, &err);
    if (!m) printf("%s\n", err.text);
    CHECK(m != NULL);
    remove(file);
    return m;
}
#endif
