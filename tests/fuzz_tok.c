/* Fuzz entry of [TOK]: the first bytes of the input are a text, the rest is a tokenizer blob; what opens must
   encode and decode without a crash, within its memory, to ids that exist.
     libFuzzer: clang -g -O1 -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER tests/fuzz_tok.c -lm
     plain:     cc tests/fuzz_tok.c -lm;  a.out FILE...  or  a.out --mutate N [FILE.sqm] (N damaged copies of
                the tokenizers in tests/data, and of the file's own) */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "../tools/tok_import.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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

/* Input: one byte text length, text, blob. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const size_t n = size > 1 && data[0] < size - 1 ? data[0] : 0;
    uint8_t *blob;
    sqm_model m;
    sqm_error err;
    if (size < 2) return 0;
    memset(&m, 0, sizeof m);
    blob = (uint8_t *)malloc(size - 1 - n + 1);        /* exact size, aligned */
    if (!blob) return 0;
    memcpy(blob, data + 1 + n, size - 1 - n);
    if (sqm__tok_open(&m.tok, blob, size - 1 - n, &err) == SQM_OK) {
        char name[256];
        m.has_tok = 1;
        for (uint32_t flags = 0; flags < 4; flags++) use_tokenizer(&m, (const char *)data + 1, n, flags);
        memcpy(name, data + 1, n);
        name[n] = 0;
        (void)sqm_token_find(&m, name);
    }
    free(blob);
    return 0;
}

#ifndef FUZZ_LIBFUZZER
static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static size_t random_text(uint8_t *text, uint64_t *state)
{
    static const char *const parts[] = { " ", "the", "  ", "\n", "\t", "12", "<|end|>", "<tool>", "<mask>",
                                         "\xE2\x96\x81", "e\xCC\x81",
                                         "\xCC\xA3", "\xEA\xB0\x81", "\xFF", "'s", "A", "foo", "\xE4\xB8\xAD",
                                             "!", "\xF0\x9F\x98\x80" };
    size_t n = 0;
    while (n < 100 && random_next(state) % 40) {
        const char *part = parts[random_next(state) % (sizeof parts / sizeof *parts)];
        memcpy(text + n, part, strlen(part));
        n += strlen(part);
    }
    return n;
}

/* Extreme numbers where the tables are, bits anywhere, truncation. */
static size_t mutate(uint8_t *data, size_t bytes, uint64_t *state)
{
    static const uint32_t numbers[] = { 0, 1, 2, 3, 16, 255, 256, 65535, 0x7fffffffu, 0x80000000u,
                                        0xffffffffu, 0xfffffffeu };
    for (uint64_t n = random_next(state) % 5; n; n--) {
        const size_t window = random_next(state) % 2 && bytes > 512 ? 512 : bytes;
        const size_t at = (size_t)(random_next(state) % window), even = at / 4 * 4;
        switch (random_next(state) % 6) {
        case 0: case 1: data[at] ^= (uint8_t)(1u << random_next(state) % 8); break;
        case 2: data[at] = (uint8_t)random_next(state); break;
        case 3: case 4:
            if (even + 4 <= bytes)
                memcpy(data + even, &numbers[random_next(state) % (sizeof numbers / sizeof *numbers)], 4);
            break;
        default:
            if (random_next(state) % 32 == 0) return at;
            break;
        }
    }
    return bytes;
}

static void fuzz_blob(const uint8_t *blob, size_t bytes, long rounds)
{
    uint8_t *input = (uint8_t *)malloc(bytes + 300), *copy = (uint8_t *)malloc(bytes + 1);
    uint64_t state = UINT64_C(88172645463325252);
    for (; input && copy && bytes && rounds > 0; rounds--) {
        const size_t text = random_text(input + 1, &state);
        size_t n;
        memcpy(copy, blob, bytes);
        n = mutate(copy, bytes, &state);
        input[0] = (uint8_t)text;
        memcpy(input + 1 + text, copy, n);
        (void)LLVMFuzzerTestOneInput(input, 1 + text + n);
    }
    free(copy);
    free(input);
}

static int fuzz_fixture(const char *path, long rounds)
{
    conv_env env;
    tok_blob blob = { NULL, 0 };
    int ok;
    conv_env_open(&env);
    ok = tok_from_hf(&env, path, &blob);
    if (ok) fuzz_blob(blob.data, (size_t)blob.bytes, rounds);
    else fprintf(stderr, "fuzz_tok: %s\n", env.error);
    conv_env_close(&env);
    return ok;
}

static int run_file(const char *path, int is_model, long rounds)
{
    size_t bytes;
    const char *why;
    char *data = json_read_bytes(path, (size_t)1 << 28, &bytes, &why);
    sqm__file f;
    sqm_error err;
    if (!data) { fprintf(stderr, "fuzz_tok: %s %s\n", path, why); return 0; }
    if (!is_model) (void)LLVMFuzzerTestOneInput((const uint8_t *)data, bytes);
    else if (sqm__file_open(&f, data, bytes, 0, &err) == SQM_OK && f.token_bytes)
        fuzz_blob(f.tokens, f.token_bytes, rounds);
    free(data);
    return 1;
}

int main(int argc, char **argv)
{
    const int mutating = argc > 2 && strcmp(argv[1], "--mutate") == 0;
    const long rounds = mutating ? strtol(argv[2], NULL, 10) : 0;
    int ok = argc > 1;
    for (int i = mutating ? 3 : 1; i < argc; i++) ok = run_file(argv[i], mutating, rounds) && ok;
    if (mutating) {
        static const char *const fixtures[] = { "bytes", "prefix", "spm", "meta", "split", "word", "unigram",
                                                "forms", "tekken" };
        for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++) {
            char path[64];
            snprintf(path, sizeof path, "tests/data/tok_%s.json", fixtures[i]);
            ok = fuzz_fixture(path, rounds) && ok;
        }
    }
    return !ok;
}
#endif
