/* Shows models of different kinds side by side: what they write, how well they predict a text that none was
   trained on, and what a long text costs them. Nothing here depends on the architecture.
   Build  cc -O2 11_compare.c -o compare -lm    (seqmodel.h is one directory up)
   Run    ./compare [--text FILE] [MODEL.sqm ...]       without models: in the repository, the bundled ones
   Prints a row a model: thousand parameters, size, loss in pieces of 512 tokens, tokens/s of a processor and
   size of the state at 100 and 10,000 tokens (dashes: not made for it); what each writes after a prompt. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PIECE = 512, TIMED = 48, ROUNDS = 4, LONG = 10000, MOST = LONG + TIMED * ROUNDS, MAX_TEXT = 1 << 18 };
static const char *const bundled[] = {
    "examples/models/transformer.sqm", "examples/models/shakespeare.sqm", "examples/models/hybrid.sqm",
    "examples/models/gated_deltanet.sqm", "examples/models/rwkv7.sqm", "examples/models/mamba2.sqm",
    "examples/models/mamba.sqm" };
static char text[MAX_TEXT]; static int32_t tokens[MAX_TEXT];           /* what the models are to predict */

/* Mean of -log p over all tokens but the first of each piece; -1: an error. logits [PIECE, n_vocab]: room */
static double mean_loss(sqm_session *s, int32_t n, float *logits, int32_t n_vocab)
{
    double sum = 0;
    int32_t scored = 0;
    for (int32_t at = 0; at < n; at += PIECE) {
        const int32_t piece = n - at < PIECE ? n - at : PIECE;
        sqm_reset(s, 0);
        if (sqm_feed_all(s, 0, tokens + at, piece, logits) != SQM_OK) return -1;
        for (int32_t t = 0; t + 1 < piece; t++, scored++) {
            const float *row = logits + (size_t)t * (size_t)n_vocab;
            double total = 0;
            for (int32_t i = 0; i < n_vocab; i++) total += exp((double)row[i]);
            sum += log(total) - (double)row[tokens[at + t + 1]];
        }
    }
    return sum / scored;
}

/* Reads on until `depth` tokens are read and prints the state's size and the speed of those that follow. */
static void print_cost(sqm_session *s, int32_t depth, int32_t n)
{
    double best = 1e9;                                 /* ticks for TIMED tokens, the fastest of the rounds */
    sqm_result r = sqm_max_context(s) < depth + TIMED * ROUNDS ? SQM_E_LIMIT : SQM_OK;
    for (int32_t left; r == SQM_OK && (left = depth - sqm_position(s, 0)) > 0; )
        r = sqm_feed(s, 0, tokens, left < n ? left : n);
    const double state = (double)sqm_state_size(s, 0);
    for (int i = 0; i < ROUNDS; i++) {
        const clock_t start = clock();
        for (int32_t t = 0; t < TIMED && r == SQM_OK; t++) r = sqm_feed(s, 0, tokens + t, 1);
        best = fmin(best, (double)(clock() - start) + 1);
    }
    if (r == SQM_OK) printf(" %10.0f %7.1f", TIMED * (double)CLOCKS_PER_SEC / best, 1e-3 * state);
    else printf(" %10s %7s", "-", "-");
}

static void print_figures(sqm_session *s, const sqm_model_info *m, int32_t bytes)
{
    const int32_t n = sqm_tokenize(sqm_session_model(s), text, (size_t)bytes, 0, tokens, MAX_TEXT, NULL);
    float *logits = (float *)malloc(PIECE * (size_t)m->vocab_size * sizeof(*logits));
    printf(" %7.0f %7.0f", 1e-3 * (double)m->parameters, 1e-3 * (double)m->weight_bytes);
    if (logits && n > PIECE && n <= MAX_TEXT && m->n_tokens <= m->vocab_size) {
        printf(" %9.4f", mean_loss(s, n, logits, m->vocab_size) * n / bytes);
        sqm_reset(s, 0);
        print_cost(s, 100, n);
        print_cost(s, LONG, n);
    }
    free(logits);
}

static int show(void *user, const char *bytes, int32_t n)
{
    for (int32_t i = 0; i < n; i++) fputc(bytes[i] == '\n' ? '/' : bytes[i], (FILE *)user);
    return ferror((FILE *)user);
}

/* A row of the table, or a line of the model's own text. Returns 1 on an error. */
static int print_row(const char *path, int32_t bytes, sqm_generate_options *writes)
{
    const char *const slash = strrchr(path, '/');
    sqm_session_config config = {MOST, 0, 1, 1, SQM_ISA_AUTO, SQM_FAST, SQM_KV_AUTO, NULL};
    sqm_model_info info;
    sqm_error err;
    sqm_model *m = sqm_load_file(path, NULL, &err);
    if (m) sqm_model_get_info(m, &info);
    if (m && info.max_context && info.max_context < MOST) config.max_context = info.max_context;
    sqm_session *s = m ? sqm_session_create(m, &config, &err) : NULL;
    if (s) {
        printf("%-20s", slash ? slash + 1 : path);
        if (writes) sqm_generate(s, 0, "JULIET:\n", writes, show, stdout, NULL);
        else print_figures(s, &info, bytes);
        putchar('\n');
    } else fprintf(stderr, "compare: %s\n", err.text);
    sqm_session_free(s);
    sqm_model_free(m);
    return s == NULL;
}

int main(int argc, char **argv)
{
    const int named = argc > 2 && strcmp(argv[1], "--text") == 0, first = named ? 3 : 1;
    const char *const path = named ? argv[2] : "examples/models/heldout.txt";
    const int n = argc > first ? argc - first : (int)(sizeof(bundled) / sizeof(bundled[0]));
    int failed = 0;
    FILE *f = fopen(path, "rb");
    const int32_t bytes = f ? (int32_t)fread(text, 1, sizeof(text), f) : 0;
    if (bytes <= PIECE || fclose(f) != 0) { fprintf(stderr, "compare: no text in %s\n", path); return 1; }
    printf("%-20s %7s %7s %9s %10s %7s %10s %7s\n", "model", "params", "KB", "nats/byte", "at 100: /s", "KB",
           "10,000: /s", "KB");
    for (int i = 0; i < 2 * n; i++) {
        sqm_sampler sampler = {0.7f, 0, 0, 0, 0, 0, 0, 0, 0, {0, 0}};
        sqm_generate_options options = {&sampler, 84, NULL, 0, 0};
        sqm_sampler_seed(&sampler, 1);
        const char *const model = argc > first ? argv[first + i % n] : bundled[i % n];
        failed |= print_row(model, bytes, i < n ? NULL : &options);
    }
    return failed;
}
