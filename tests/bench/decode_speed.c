/* Times what steers and speeds up decoding: masks of a grammar, and guesses where a text is repeated.
   Build  cc -O2 tests/bench/decode_speed.c -o decode_speed -lm
   Run    ./decode_speed MODEL.sqm [TEXT_FILE [NEW_TOKENS]]
   Prints, in processor time, how long a JSON grammar takes to make, its masks along a JSON text, met for the
   first and for the second time; with a file, tokens a second of text that goes on after twice its text,
   without and with look-up, and whether both are the same. */
#define _POSIX_C_SOURCE 200112L
#define SEQMODEL_IMPLEMENTATION
#include "../../seqmodel.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void masks(const sqm_model *m)
{
    static const char json[] =
        "{\"name\": \"Ada \\u00e9\", \"list\": [1, 2.5e3, {\"a\": [true, null]}], \"x\": {}}";
    sqm_error err;
    double start = now();
    sqm_grammar *g = sqm_grammar_create(m, sqm_json_grammar(), NULL, &err);
    if (!g) { printf("%s\n", err.text); return; }
    printf("grammar: %.1f ms, %.1f MB\n", 1e3 * (now() - start),
           1e-6 * (double)sqm_grammar_size(m, sqm_json_grammar(), NULL, NULL));
    for (int round = 1; round <= 2; round++) {
        double sum = 0.0, most = 0.0;
        (void)sqm_grammar_reset(g, 0);
        for (const char *p = json; ; p++) {
            start = now();
            (void)sqm_grammar_mask(g, 0, &err);
            const double one = now() - start;
            sum += one;
            if (one > most) most = one;
            if (!*p || sqm_grammar_accept_text(g, 0, p, 1, &err) != SQM_OK) break;
        }
        printf("masks, round %d: %.0f/s, slowest %.2f ms\n", round, (double)sizeof(json) / sum, 1e3 * most);
    }
    sqm_grammar_free(g);
}

typedef struct heard { char text[1 << 16]; size_t bytes; double first; } heard;
static int hear(void *user, const char *text, int32_t bytes)
{
    heard *h = (heard *)user;
    if (h->bytes == 0) h->first = now();
    if (h->bytes + (size_t)bytes > sizeof(h->text)) return 1;
    memcpy(h->text + h->bytes, text, (size_t)bytes);
    h->bytes += (size_t)bytes;
    return 0;
}
static void guesses(sqm_session *s, const char *prompt, int32_t n)
{
    static heard h[2];
    for (int k = 0; k < 2; k++) {
        sqm_generate_options o;
        sqm_generate_stats stats;
        memset(&o, 0, sizeof(o));
        o.max_tokens = n;
        o.speculator = k ? sqm_speculator_create(s, NULL, NULL) : NULL;
        (void)sqm_reset(s, 0);
        if (sqm_generate(s, 0, prompt, &o, hear, &h[k], &stats) < 0)
            printf("%s\n", sqm_session_error(s)->text);
        printf("%s: %d tokens, %.1f/s", k ? "look-up" : "plain", (int)stats.new_tokens,
               stats.new_tokens / (now() - h[k].first + 1e-9));
        if (k)
            printf(", %d of %d guesses right, %d feeds", (int)stats.accepted, (int)stats.guessed,
                   (int)stats.feeds);
        putchar('\n');
        sqm_speculator_free(o.speculator);
    }
    const int same = h[0].bytes == h[1].bytes && memcmp(h[0].text, h[1].text, h[0].bytes) == 0;
    puts(same ? "same text" : "OTHER TEXT");
}

int main(int argc, char **argv)
{
    static char text[1 << 16];
    sqm_error err;
    sqm_session_config config;
    sqm_model *m = argc > 1 ? sqm_load_file(argv[1], NULL, &err) : NULL;
    if (!m) {
        fputs(argc > 1 ? err.text : "usage: decode_speed MODEL.sqm [TEXT_FILE [NEW_TOKENS]]\n", stderr);
        return 1;
    }
    masks(m);
    FILE *f = argc > 2 ? fopen(argv[2], "rb") : NULL;
    if (f) {
        const size_t n = fread(text, 1, sizeof(text) / 2 - 2, f);
        fclose(f);
        text[n] = '\n';                                /* twice, with a new line between */
        memcpy(text + n + 1, text, n);
        memset(&config, 0, sizeof(config));
        config.threads = 1;
        sqm_session *s = sqm_session_create(m, &config, &err);
        if (s) guesses(s, text, argc > 3 ? atoi(argv[3]) : 200);
        else printf("%s\n", err.text);
        sqm_session_free(s);
    }
    sqm_model_free(m);
    return 0;
}
