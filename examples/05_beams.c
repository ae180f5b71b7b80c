/* Shows beam search: not one token after another, but the most probable texts as a whole.
   Build  cc -O2 05_beams.c -o beams -lm         (seqmodel.h is one directory up; -fopenmp: all processors)
   Run    ./beams MODEL.sqm "Once upon a time" [BEAMS [TOKENS [LENGTH_POWER]]]        (4, 20, 1)
   Prints the texts found, best first, with log probability and score; "..." where TOKENS cut one off. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_BEAMS = 32, MOST_TOKENS = 1000 };

static sqm_result search(sqm_session *s, const char *prompt, const sqm_beam_options *o)
{
    static int32_t tokens[4096];
    static char text[1 << 16];
    const sqm_model *m = sqm_session_model(s);
    sqm_beam best[MOST_BEAMS];
    int32_t found = 0;
    const int32_t n = sqm_tokenize(m, prompt, strlen(prompt), 0, tokens, 4096, NULL);
    const size_t bytes = sqm_beam_size(s, o, NULL);
    void *memory = malloc(bytes);
    sqm_result r = memory && n > 0 && n <= 4096 ? sqm_feed(s, 0, tokens, n) : SQM_E_ARGUMENT;
    if (r == SQM_OK) r = sqm_beam_search(s, 0, o, memory, bytes, best, &found);
    for (int32_t i = 0; i < found; i++) {
        const sqm_beam *b = &best[i];
        const int32_t length = sqm_detokenize(m, b->tokens, b->n_tokens, 0, text, (int32_t)sizeof(text));
        printf("%8.3f %8.4f  %.*s%s\n", b->log_prob, b->score, (int)length, text, b->ended ? "" : "...");
    }
    free(memory);
    return r;
}

int main(int argc, char **argv)
{
    sqm_error err = {SQM_OK, 0, 0, ""};
    sqm_session_config config;
    sqm_beam_options o;
    memset(&config, 0, sizeof(config));
    memset(&o, 0, sizeof(o));
    o.n_beams = o.n_best = argc > 3 ? atoi(argv[3]) : 4;
    o.max_tokens = argc > 4 ? atoi(argv[4]) : 20;
    o.length_power = argc > 5 ? (float)atof(argv[5]) : 1.0f;
    const int beams_fit = o.n_beams >= 1 && o.n_beams <= MOST_BEAMS;
    if (argc < 3 || !beams_fit || o.max_tokens < 1 || o.max_tokens > MOST_TOKENS) {
        fputs("usage: beams MODEL.sqm PROMPT [BEAMS [TOKENS [LENGTH_POWER]]]\n", stderr);
        return 2;
    }
    config.n_sequences = 1 + o.n_beams;                /* 0 keeps the prompt, the others are the beams */
    sqm_model *model = sqm_load_file(argv[1], NULL, &err);
    sqm_model_info info;
    if (model) sqm_model_get_info(model, &info);
    if (model) config.max_context = info.max_context > 0 && info.max_context < 2048 ? info.max_context : 2048;
    sqm_session *session = model ? sqm_session_create(model, &config, &err) : NULL;
    if (session && search(session, argv[2], &o) < 0) err = *sqm_session_error(session);
    if (err.code != SQM_OK) fprintf(stderr, "beams: %s\n", err.text);
    sqm_session_free(session);
    sqm_model_free(model);
    return err.code != SQM_OK;
}
