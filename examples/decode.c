/* Shows what can steer or speed up decoding: grammars, banned texts, biases, beam search, speculation.
   Build  cc -O2 decode.c -o decode -lm       (seqmodel.h is one directory up; -fopenmp: all processors)
   Run    ./decode MODEL.sqm "Describe a cat as JSON: " --json          an object or array, nothing else
          ./decode MODEL.sqm "Is rain wet? Answer: " --rules 'root ::= "yes" | "no"'    (--grammar FILE: a file)
          ./decode MODEL.sqm "Once upon a time" --ban king --bias 12=-3              texts, a token's logit
          ./decode MODEL.sqm "Once upon a time" --beams 4 --length 1 -n 20           the most probable texts
          ./decode MODEL.sqm "$(cat code.c) Again:" --lookup 8          the same text as without, but faster
          ./decode MODEL.sqm "Once upon a time" --draft SMALL.sqm       guesses of a model with the same tokens
   Options  -n N tokens (200), --temp T (0). Prints the text, or the beams with their log probabilities. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_BEAMS = 16, MOST_BIASES = 32 };
static const char *rules, *banned[17], *draft;
static char file_text[1 << 16];
static sqm_bias biases[MOST_BIASES];
static int32_t n_biases, n_banned, beams, lookup, most = 200;
static float temperature, length_power;

static int show(void *user, const char *text, int32_t bytes)
{
    (void)user;
    return fwrite(text, 1, (size_t)bytes, stdout) != (size_t)bytes || fflush(stdout) != 0;
}

/* Takes an option and its value. Returns 0 when they are not understood. */
static int take_option(const char *name, const char *value)
{
    FILE *f;
    if (strcmp(name, "--rules") == 0) rules = value;
    else if (strcmp(name, "--ban") == 0 && n_banned < 16) banned[n_banned++] = value;
    else if (strcmp(name, "--draft") == 0) draft = value;
    else if (strcmp(name, "--lookup") == 0) lookup = atoi(value);
    else if (strcmp(name, "--beams") == 0) beams = atoi(value);
    else if (strcmp(name, "--length") == 0) length_power = (float)atof(value);
    else if (strcmp(name, "-n") == 0) most = atoi(value);
    else if (strcmp(name, "--temp") == 0) temperature = (float)atof(value);
    else if (strcmp(name, "--bias") == 0 && strchr(value, '=') && n_biases < MOST_BIASES) {
        biases[n_biases].token = atoi(value);
        biases[n_biases++].bias = (float)atof(strchr(value, '=') + 1);
    } else if (strcmp(name, "--grammar") == 0 && (f = fopen(value, "rb")) != NULL) {
        file_text[fread(file_text, 1, sizeof(file_text) - 1, f)] = 0;
        fclose(f);
        rules = file_text;
    } else return 0;
    return beams >= 0 && beams <= MOST_BEAMS;
}

static sqm_result search(sqm_session *s, sqm_grammar *grammar, const char *prompt)
{
    static int32_t tokens[4096];
    static char text[1 << 16];
    sqm_beam_options o;
    sqm_beam best[MOST_BEAMS];
    int32_t found = 0;
    const sqm_model *m = sqm_session_model(s);
    const int32_t n = sqm_tokenize(m, prompt, strlen(prompt), 0, tokens, 4096, NULL);
    memset(&o, 0, sizeof(o));
    o.n_beams = o.n_best = beams;
    o.max_tokens = most;
    o.length_power = length_power;
    o.biases = biases;
    o.n_biases = n_biases;
    o.grammar = grammar;
    const size_t bytes = sqm_beam_size(s, &o, NULL);
    void *memory = malloc(bytes);
    sqm_result r = n > 0 && n <= 4096 && memory ? sqm_feed(s, 0, tokens, n) : SQM_E_ARGUMENT;
    if (r == SQM_OK) r = sqm_beam_search(s, 0, &o, memory, bytes, best, &found);
    for (int32_t i = 0; i < found; i++) {
        const int32_t length = sqm_detokenize(m, best[i].tokens, best[i].n_tokens, 0, text, sizeof(text));
        printf("%8.3f%s  %.*s\n", best[i].log_prob, best[i].ended ? "" : "...", (int)length, text);
    }
    free(memory);
    return r;
}

int main(int argc, char **argv)
{
    sqm_error err = {SQM_OK, 0, 0, ""};
    sqm_session_config config;
    sqm_grammar_config follow;
    sqm_speculator_config guess;
    sqm_generate_options o;
    sqm_generate_stats stats;
    sqm_sampler sampler;
    for (int i = 3; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) rules = sqm_json_grammar();
        else if (i + 1 == argc || !take_option(argv[i], argv[i + 1])) argc = 0;
        else i++;
    }
    if (argc < 3) { fputs("usage: decode MODEL.sqm PROMPT [options], see the source\n", stderr); return 2; }
    memset(&config, 0, sizeof(config));
    memset(&follow, 0, sizeof(follow));
    memset(&guess, 0, sizeof(guess));
    memset(&o, 0, sizeof(o));
    memset(&sampler, 0, sizeof(sampler));
    config.n_sequences = beams + 2;                    /* the prompt's, the beams, one to go back to */
    follow.n_sequences = beams > 0 ? beams : 1;
    follow.banned = banned;
    sqm_model *model = sqm_load_file(argv[1], NULL, &err), *small = draft ? sqm_load_file(draft, NULL, &err) : NULL;
    sqm_model_info info;
    if (model) sqm_model_get_info(model, &info);
    if (model) config.max_context = info.max_context > 0 && info.max_context < 4096 ? info.max_context : 4096;
    sqm_session *s = model ? sqm_session_create(model, &config, &err) : NULL;
    config.n_sequences = 2;
    guess.draft = small ? sqm_session_create(small, &config, &err) : NULL;
    guess.spare = guess.draft_spare = 1;
    guess.n_guesses = lookup;
    sampler.temperature = temperature;
    sampler.biases = biases;
    sampler.n_biases = n_biases;
    o.sampler = &sampler;
    o.max_tokens = most;
    if (s && (rules || n_banned)) o.grammar = sqm_grammar_create(model, rules, &follow, &err);
    if (s && (lookup || guess.draft)) o.speculator = sqm_speculator_create(s, &guess, &err);
    if (err.code == SQM_OK && (beams ? search(s, o.grammar, argv[2])
                               : sqm_generate(s, 0, argv[2], &o, show, NULL, &stats)) < 0) err = *sqm_session_error(s);
    if (err.code == SQM_OK && o.speculator)
        printf("\n(%d tokens in %d feeds: %d of %d guesses were right)", (int)stats.new_tokens, (int)stats.feeds,
               (int)stats.accepted, (int)stats.guessed);
    putchar('\n');
    if (err.code != SQM_OK) fprintf(stderr, "decode: %s\n", err.text);
    sqm_speculator_free(o.speculator);
    sqm_grammar_free(o.grammar);
    sqm_session_free(guess.draft);
    sqm_session_free(s);
    sqm_model_free(small);
    sqm_model_free(model);
    return err.code != SQM_OK;
}
