/* Shows what steers decoding, and what makes it faster without changing the text.
   Build  cc -O2 04_decode.c -o decode -lm       (seqmodel.h is one directory up; -fopenmp: all processors)
   Run    ./decode MODEL.sqm "Describe a cat as JSON: " --json                   an object or array, no more
          ./decode MODEL.sqm "Is rain wet? Answer: " --rules 'root ::= "yes" | "no"'      or --grammar FILE
          ./decode MODEL.sqm "Once upon a time" --ban king --ban queen           texts that must not appear
          ./decode MODEL.sqm "Once upon a time" --bias 12=-3 --temp 0.7          added to the logit of a token
          ./decode MODEL.sqm "$(cat code.c) Again:" --lookup 8          guesses where a text is repeated
          ./decode MODEL.sqm "Once upon a time" --draft SMALL.sqm       guesses of a smaller model
   Prints the continuation (-n N: at most N tokens, 200), and how many guesses were right. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct settings {
    const char           *rules, *banned[17], *draft;  /* banned: ends with NULL */
    int32_t               n_banned;
    sqm_sampler           sampler;
    sqm_bias              biases[32];
    sqm_grammar_config    follow;
    sqm_speculator_config guess;
    sqm_generate_options  options;
} settings;

static int show(void *user, const char *text, int32_t bytes)
{
    (void)user;
    return fwrite(text, 1, (size_t)bytes, stdout) != (size_t)bytes || fflush(stdout) != 0;
}

static const char *read_file(const char *path)
{
    static char text[1 << 16];
    FILE *f = fopen(path, "rb");
    if (f) text[fread(text, 1, sizeof(text) - 1, f)] = 0;
    return f && fclose(f) == 0 ? text : NULL;
}

/* Takes an option and its value. Returns 0 when they are not understood. */
static int take_option(settings *s, const char *name, const char *value)
{
    const char *equals = strchr(value, '=');
    if (strcmp(name, "--rules") == 0) s->rules = value;
    else if (strcmp(name, "--grammar") == 0) return (s->rules = read_file(value)) != NULL;
    else if (strcmp(name, "--draft") == 0) s->draft = value;
    else if (strcmp(name, "--lookup") == 0) s->guess.n_guesses = atoi(value);
    else if (strcmp(name, "--temp") == 0) s->sampler.temperature = (float)atof(value);
    else if (strcmp(name, "-n") == 0) s->options.max_tokens = atoi(value);
    else if (strcmp(name, "--ban") == 0 && s->n_banned < 16) s->banned[s->n_banned++] = value;
    else if (strcmp(name, "--bias") == 0 && equals && s->sampler.n_biases < 32) {
        sqm_bias *b = &s->biases[s->sampler.n_biases++];
        b->token = atoi(value);
        b->bias = (float)atof(equals + 1);
    } else return 0;
    return 1;
}

/* Makes what the settings ask for and generates. small: the draft model's session, or NULL. */
static sqm_error run(settings *s, sqm_session *session, sqm_session *small, const char *prompt)
{
    sqm_error err = {SQM_OK, 0, 0, ""};
    sqm_generate_options *const o = &s->options;
    sqm_generate_stats stats;
    s->follow.banned = s->banned;
    s->guess.draft = small;
    s->guess.spare = s->guess.draft_spare = 1;         /* only recurrent models need it */
    s->sampler.biases = s->biases;
    o->sampler = &s->sampler;
    if (s->rules || s->n_banned)
        o->grammar = sqm_grammar_create(sqm_session_model(session), s->rules, &s->follow, &err);
    if (small || s->guess.n_guesses) o->speculator = sqm_speculator_create(session, &s->guess, &err);
    if (err.code == SQM_OK && sqm_generate(session, 0, prompt, o, show, NULL, &stats) < 0)
        err = *sqm_session_error(session);
    putchar('\n');
    if (err.code == SQM_OK && o->speculator)
        printf("(%d tokens in %d feeds: %d of %d guesses were right)\n", (int)stats.new_tokens,
               (int)stats.feeds, (int)stats.accepted, (int)stats.guessed);
    sqm_speculator_free(o->speculator);
    sqm_grammar_free(o->grammar);
    return err;
}

static sqm_session *open_session(const sqm_model *m, sqm_error *err)
{
    sqm_session_config config;
    sqm_model_info info;
    if (!m) return NULL;
    sqm_model_get_info(m, &info);
    memset(&config, 0, sizeof(config));
    config.max_context = info.max_context > 0 && info.max_context < 2048 ? info.max_context : 2048;
    config.n_sequences = 2;
    return sqm_session_create(m, &config, err);
}

int main(int argc, char **argv)
{
    static settings s;
    sqm_error err = {SQM_OK, 0, 0, ""};
    int ok = argc > 2;
    s.options.max_tokens = 200;
    for (int i = 3; i < argc && ok; i++) {
        if (strcmp(argv[i], "--json") == 0) s.rules = sqm_json_grammar();
        else { ok = i + 1 < argc && take_option(&s, argv[i], argv[i + 1]); i++; }
    }
    if (!ok) return fputs("usage: decode MODEL.sqm PROMPT [options], see the top of 04_decode.c\n", stderr), 2;
    sqm_model *model = sqm_load_file(argv[1], NULL, &err);
    sqm_model *draft = s.draft && model ? sqm_load_file(s.draft, NULL, &err) : NULL;
    sqm_session *session = open_session(model, &err), *small = open_session(draft, &err);
    if (err.code == SQM_OK) err = run(&s, session, small, argv[2]);
    if (err.code != SQM_OK) fprintf(stderr, "decode: %s\n", err.text);
    sqm_session_free(small);
    sqm_session_free(session);
    sqm_model_free(draft);
    sqm_model_free(model);
    return err.code != SQM_OK;
}
