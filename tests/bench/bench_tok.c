/* Tokenizes a text and prints what it took; run by compare_tokenizers.py.
     cc -O2 bench_tok.c -o bench_tok -lm;   bench_tok TOKENIZER TEXT [IDS]
   Prints bytes, tokens, and the best seconds of several runs; IDS: the ids as int32, to compare. */
#define SEQMODEL_IMPLEMENTATION
#include "../../seqmodel.h"
#include "../../tools/tok_import.h"
#include <stdio.h>
#include <time.h>

static double seconds(void)
{
    return (double)clock() / CLOCKS_PER_SEC;
}

int main(int argc, char **argv)
{
    conv_env env;
    tok_blob blob;
    sqm_model model;
    sqm_error err;
    const conv_file *text;
    int32_t *ids, n = 0;
    double best = 1e9, from = seconds();
    conv_env_open(&env);
    memset(&model, 0, sizeof model);
    if (argc < 3 || !tok_from_file(&env, argv[1], &blob) || !(text = conv_open(&env, argv[2]))) {
        fprintf(stderr, "%s\n", argc < 3 ? "usage: bench_tok TOKENIZER TEXT [IDS]" : env.error);
        return 1;
    }
    printf("load %.2f s, %.1f MB\n", seconds() - from, (double)blob.bytes / 1e6);
    if (sqm__tok_open(&model.tok, blob.data, (size_t)blob.bytes, &err) != SQM_OK) return 1;
    model.has_tok = 1;
    ids = (int32_t *)malloc(sizeof *ids * (size_t)(2 * text->bytes + 64));
    for (int run = 0; run < 5 && ids; run++) {
        from = seconds();
        n = sqm_tokenize(&model, (const char *)text->data, (size_t)text->bytes, SQM_TOKENS_BARE, ids,
                         (int32_t)(2 * text->bytes + 64), &err);
        if (n < 0) { fprintf(stderr, "%s\n", err.text); return 1; }
        if (seconds() - from < best) best = seconds() - from;
    }
    printf("%llu %d %.6f\n", (unsigned long long)text->bytes, (int)n, best);
    if (argc > 3 && ids) {
        FILE *f = fopen(argv[3], "wb");
        if (!f || fwrite(ids, sizeof *ids, (size_t)n, f) != (size_t)n || fclose(f)) return 1;
    }
    conv_env_close(&env);
    free(ids);
    return 0;
}
