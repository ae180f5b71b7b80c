/* Fuzz target of tokenizers (see fuzz.h): the blob of a weight file, and every tokenizer file that is
   imported. The first bytes of an input are a text; what opens must encode and decode it within its memory,
   to ids that exist. */
#define _POSIX_C_SOURCE 200809L
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "../tools/convert.h"
#include "toy_checkpoint.h"
#include "fuzz.h"

static void use_tokenizer(const sqm_model *m, const char *text, size_t n, uint32_t flags)
{
    enum { CAP = 512 };
    const size_t need = sqm_tokenize_size(m, n);
    void *memory = need && need < (size_t)1 << 26 ? malloc(need) : NULL;       /* exact: overruns show */
    int32_t ids[CAP], count;
    sqm_error err;
    char out[64];
    count = sqm_tokenize_in(m, text, n, flags, ids, CAP, memory, memory ? need : 0, &err);
    for (int32_t i = 0; i < count && i < CAP; i++) {
        if (ids[i] < 0 || ids[i] >= sqm__tok_count(&m->tok)) abort();
    }
    if (count > CAP) count = CAP;
    if (count > 0 && sqm_detokenize(m, ids, count, 1, NULL, 0) != sqm_detokenize(m, ids, count, 1, out, 64))
        abort();
    if (count > 0) (void)sqm_token_text(m, ids[0], 0, out, 64);
    free(memory);
}

static void use_blob(const void *blob, size_t bytes, const char *text, size_t n)
{
    char name[256];
    sqm_model m;
    sqm_error err;
    memset(&m, 0, sizeof m);
    if (sqm__tok_open(&m.tok, blob, bytes, &err) != SQM_OK) return;
    m.has_tok = 1;
    for (uint32_t flags = 0; flags < 4; flags++) use_tokenizer(&m, text, n, flags);
    memcpy(name, text, n);
    name[n] = 0;
    (void)sqm_token_find(&m, name);
}

/* Input: one byte, the length of the text; the text; the file. Returns the length. */
static size_t text_bytes(const uint8_t *data, size_t size) { return data[0] < size - 1 ? data[0] : 0; }

static void run_blob(const uint8_t *data, size_t size)
{
    size_t n;
    uint8_t *blob;
    if (size < 2) return;
    n = text_bytes(data, size);
    blob = fuzz_copy(data + 1 + n, size - 1 - n);      /* aligned */
    use_blob(blob, size - 1 - n, (const char *)data + 1, n);
    free(blob);
}

/* A zero byte parts a file from its tokenizer_config.json. */
static void run_file(const char *name, const uint8_t *data, size_t size)
{
    conv_env env;
    tok_blob blob = { NULL, 0 };
    const uint8_t *file, *end;
    size_t n, bytes;
    if (size < 2) return;
    if (!*root && !make_root()) exit(2);
    n = text_bytes(data, size);
    file = data + 1 + n;
    bytes = size - 1 - n;
    end = conv_ends_with(name, ".json") ? (const uint8_t *)memchr(file, 0, bytes) : NULL;
    save(name, file, end ? (size_t)(end - file) : bytes);
    if (end) save("tokenizer_config.json", end + 1, bytes - (size_t)(end + 1 - file));
    conv_env_open(&env);
    if (tok_from_file(&env, path_of(name), &blob) && blob.bytes)
        use_blob(blob.data, (size_t)blob.bytes, (const char *)data + 1, n);
    conv_env_close(&env);
    if (end) remove(path_of("tokenizer_config.json"));
}
static void run_hf(const uint8_t *data, size_t size) { run_file("tokenizer.json", data, size); }
static void run_spm(const uint8_t *data, size_t size) { run_file("tokenizer.model", data, size); }
static void run_tiktoken(const uint8_t *data, size_t size) { run_file("x.tiktoken", data, size); }
static void run_rwkv(const uint8_t *data, size_t size) { run_file("vocab.txt", data, size); }
static void run_llama2c(const uint8_t *data, size_t size) { run_file("tokenizer.bin", data, size); }

/* ---- seeds --------------------------------------------------------------------------------------------- */
static const char *const fixtures[] = { "tests/data/tok_bytes.json", "tests/data/tok_prefix.json",
    "tests/data/tok_spm.json", "tests/data/tok_meta.json", "tests/data/tok_split.json",
    "tests/data/tok_word.json", "tests/data/tok_unigram.json", "tests/data/tok_forms.json",
    "tests/data/tok_tekken.json", "tests/data/tok_piece_bpe.model", "tests/data/tok_piece_unigram.model",
    "tests/data/tok512.bin" };
enum { N_FIXTURES = sizeof fixtures / sizeof fixtures[0] };
static const char seed_text[] = " The  12 foo's <|end|>\n<tool>e\xCC\x81\xEA\xB0\x81\xE2\x96\x81\xFF<mask>!";


static void put_seed(const char *name, const void *file, size_t n, const char *config)
{
    buffer b = { NULL, 0, 0 };
    put_int(&b, sizeof seed_text - 1, 1);
    put_text(&b, seed_text);
    put(&b, file, n);
    if (*config) put_int(&b, 0, 1);
    put_text(&b, config);
    fuzz_seed(name, b.at, b.n);
    clear(&b);
}

/* Those of the fixtures whose names end so; as they are, or as the blobs that they become. */
static void seed_fixtures(const char *end, int as_blob)
{
    for (size_t i = 0; i < N_FIXTURES; i++) {
        size_t n;
        uint8_t *file = conv_ends_with(fixtures[i], end) ? fuzz_read(fixtures[i], &n) : NULL;
        conv_env env;
        tok_blob blob = { NULL, 0 };
        if (!file) continue;
        conv_env_open(&env);
        if (!as_blob) put_seed(conv_base_name(fixtures[i]), file, n, "");
        else if (tok_from_file(&env, fixtures[i], &blob))
            put_seed(conv_base_name(fixtures[i]), blob.data, (size_t)blob.bytes, "");
        conv_env_close(&env);
        free(file);
    }
}
static void seed_blob(void) { seed_fixtures("", 1); }
static void seed_spm(void) { seed_fixtures(".model", 0); }
static void seed_llama2c(void) { seed_fixtures(".bin", 0); }

/* Small ones besides, of what the fixtures do not have. */
static void seed_hf(void)
{
    static const char small[] =
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"<s>\": 3},"
        " \"merges\": [\"a b\"], \"byte_fallback\": true, \"unk_token\": \"a\", \"ignore_merges\": true,"
        " \"continuing_subword_prefix\": \"\"}, \"added_tokens\": [{\"id\": 3, \"content\": \"<s>\","
        " \"special\": true, \"lstrip\": true}], \"normalizer\": {\"type\": \"Sequence\", \"normalizers\":"
        " [{\"type\": \"NFKC\"}, {\"type\": \"Replace\", \"pattern\": {\"Regex\": \"a{2,}|[b-z]+$\"},"
        " \"content\": \" \"}]}, \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\":"
        " {\"Regex\": \"(?i:'s)| ?\\\\p{L}+|\\\\s+(?!\\\\S)\"}, \"behavior\": \"Isolated\","
        " \"invert\": false}, \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\":"
        " [{\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\","
        " \"type_id\": 0}}], \"pair\": [], \"special_tokens\": {\"<s>\": {\"id\": \"<s>\", \"ids\": [3],"
        " \"tokens\": [\"<s>\"]}}}, \"decoder\": {\"type\": \"Sequence\", \"decoders\":"
        " [{\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, {\"type\": \"Strip\", \"content\": \" \","
        " \"start\": 1, \"stop\": 0}]}}";
    static const char config[] =
        "{\"bos_token\": \"<s>\", \"eos_token\": {\"content\": \"b\"}, \"add_bos_token\": true,"
        " \"added_tokens_decoder\": {\"5\": {\"content\": \"<x>\", \"special\": true}}}";
    seed_fixtures(".json", 0);
    put_seed("small", small, sizeof small - 1, config);
}
static void seed_tiktoken(void)
{
    static const char file[] = "IQ== 0\nIg== 1\nISI= 2\nIyQ= 3\r\n";
    put_seed("small", file, sizeof file - 1, "");
}
static void seed_rwkv(void)
{
    static const char file[] = "1 '\\x00' 1\n2 'a' 1\n3 \"it's\" 4\n4 b'\\xe4\\xb8' 2\n"
                               "5 '\\u4e2d\\n' 4\n7 '\\\\' 1\n";
    put_seed("small", file, sizeof file - 1, "");
}

static const fuzz_reader *fuzz_readers(void)
{
    static const fuzz_reader readers[] = {
        { "tokenizer-blob", run_blob, seed_blob }, { "tokenizer-json", run_hf, seed_hf },
        { "sentencepiece", run_spm, seed_spm }, { "tiktoken", run_tiktoken, seed_tiktoken },
        { "rwkv-vocabulary", run_rwkv, seed_rwkv }, { "llama2c-tokenizer", run_llama2c, seed_llama2c },
        { NULL, NULL, NULL }
    };
    return readers;
}
