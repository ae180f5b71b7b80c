/* Shows states: one prompt is read once, forked into three sequences that go different ways, and saved, so
   that another session continues where this one stood without reading the prompt again.
   Build  cc -O2 06_state.c -o state -lm        (seqmodel.h is one directory up; -fopenmp: all processors)
   Run    ./state MODEL.sqm ["Once upon a time"]
   Prints three continuations, then the first one again out of the saved state. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEQUENCES = 3, NEW_TOKENS = 40 };

static int show(void *user, const char *text, int32_t bytes)
{
    (void)user;
    return fwrite(text, 1, (size_t)bytes, stdout) != (size_t)bytes;
}

/* Continues a sequence; the same seed gives the same continuation. */
static sqm_result go_on(sqm_session *s, int32_t seq, uint64_t seed)
{
    sqm_sampler sampler;
    sqm_generate_options options;
    memset(&options, 0, sizeof(options));
    memset(&sampler, 0, sizeof(sampler));
    sampler.temperature = 0.9f;
    sampler.top_p = 0.95f;
    sqm_sampler_seed(&sampler, seed);
    options.sampler = &sampler;
    options.max_tokens = NEW_TOKENS;
    printf("\n(%d)", (int)seed);
    return sqm_generate(s, seq, NULL, &options, show, NULL, NULL);
}

/* Reads the prompt into sequence 0 and nothing behind it, as sqm_generate would. */
static sqm_result read_prompt(sqm_session *s, const char *prompt)
{
    int32_t tokens[512];
    const int32_t n = sqm_tokenize(sqm_session_model(s), prompt, strlen(prompt), 0, tokens, 512, NULL);
    if (n < 1 || n > 512) return SQM_E_ARGUMENT;
    return sqm_feed(s, 0, tokens, n);
}

static sqm_result run(sqm_session *s, sqm_session *other, const char *prompt)
{
    sqm_result r = read_prompt(s, prompt);
    const size_t bytes = sqm_state_size(s, 0);
    void *saved = r == SQM_OK ? malloc(bytes) : NULL;
    if (saved) r = sqm_state_save(s, 0, saved, bytes);
    for (int32_t seq = 1; seq < SEQUENCES && r == SQM_OK; seq++) r = sqm_fork(s, 0, seq);
    for (int32_t seq = 0; seq < SEQUENCES && r == SQM_OK; seq++) r = go_on(s, seq, (uint64_t)seq + 1);
    printf("\n\nout of %lu saved bytes:", (unsigned long)bytes);
    if (saved && r == SQM_OK) r = sqm_state_load(other, 0, saved, bytes);
    if (saved && r == SQM_OK) r = go_on(other, 0, 1);
    putchar('\n');
    free(saved);
    return r;
}

int main(int argc, char **argv)
{
    const char *prompt = argc > 2 ? argv[2] : "Once upon a time";
    sqm_error err;
    sqm_session_config config;
    memset(&config, 0, sizeof(config));
    config.n_sequences = SEQUENCES;
    if (argc < 2) { fprintf(stderr, "usage: state MODEL.sqm [\"prompt\"]\n"); return 2; }
    sqm_model *model = sqm_load_file(argv[1], NULL, &err);
    sqm_session *session = model ? sqm_session_create(model, &config, &err) : NULL;
    config.n_sequences = 1;
    sqm_session *other = session ? sqm_session_create(model, &config, &err) : NULL;
    int status = 1;
    if (!other) fprintf(stderr, "state: %s\n", err.text);
    else {
        printf("%s", prompt);
        status = run(session, other, prompt) < 0;
        if (status) fprintf(stderr, "state: %s\n", sqm_session_error(session)->text);
    }
    sqm_session_free(other);
    sqm_session_free(session);
    sqm_model_free(model);
    return status;
}
