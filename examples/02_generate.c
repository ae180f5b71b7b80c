/* Shows every setting of text generation, as a command-line program.
   Build  cc -O2 02_generate.c -o generate -lm   (seqmodel.h is one directory up; -fopenmp: all processors)
   Run    ./generate MODEL.sqm "Once upon a time" -n 100 --temp 0.8 --top-p 0.95 --seed 7 --stats
   Prints the continuation on stdout as it comes. Exit status: 0 done, 1 an error, 2 wrong arguments. */
#define _POSIX_C_SOURCE 200112L                        /* clock_gettime, also with -std=c99 */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char usage[] =
    "usage: generate MODEL.sqm \"prompt\" [options]\n"
    "  -n N         tokens to make at most (256; 0: until the model ends or the context is full)\n"
    "  --temp T     temperature (0.8; 0: always the most probable token);  --repeat-penalty R  (1: none)\n"
    "  --top-k K    only the K most probable (0: all);  --typical P  locally typical ones (1: all)\n"
    "  --top-p P    only the best that together have P (0.95);  --min-p P  with P times the best's (0)\n"
    "  --seed S     the same seed gives the same text (1);  --stop TEXT  end before it, up to 16 times\n"
    "  --ctx N      tokens of context (the model's own, at most 4096);  --threads N  (all)\n"
    "  --isa X      scalar, avx2, avx512, neon (the best);  --exact  no 8-bit activations\n"
    "  --echo  --special  --stats    print the prompt, special tokens, speed and memory (on stderr)\n";

typedef struct settings {
    sqm_session_config   config;
    sqm_generate_options options;
    sqm_sampler          sampler;
    const char          *stop[17];
    int32_t              stops, echo, stats;
    double               first;                        /* when the first text came */
} settings;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int show(void *user, const char *text, int32_t bytes)
{
    settings *const s = (settings *)user;
    if (s->first <= 0) s->first = seconds();
    return fwrite(text, 1, (size_t)bytes, stdout) != (size_t)bytes || fflush(stdout) != 0;
}

/* Takes the option at[0], and at[1] if it has a value (most > 0). Returns how many; 0: not understood. */
static int take_option(settings *s, char **at)
{
    const struct { const char *name; int32_t *whole; float *real; double most; } options[] = {
        {"-n", &s->options.max_tokens, NULL, 1e9},    {"--temp", NULL, &s->sampler.temperature, 100},
        {"--top-k", &s->sampler.top_k, NULL, 1e9},    {"--top-p", NULL, &s->sampler.top_p, 1},
        {"--min-p", NULL, &s->sampler.min_p, 1},      {"--typical", NULL, &s->sampler.typical_p, 1},
        {"--ctx", &s->config.max_context, NULL, 1e9}, {"--seed", NULL, NULL, 9e15},
        {"--threads", &s->config.threads, NULL, 1e4}, {"--special", &s->options.keep_special, NULL, 0},
        {"--echo", &s->echo, NULL, 0},                {"--stats", &s->stats, NULL, 0},
        {"--repeat-penalty", NULL, &s->sampler.repeat_penalty, 99}};
    if (strcmp(at[0], "--exact") == 0) { s->config.precision = SQM_EXACT; return 1; }
    if (at[1] && strcmp(at[0], "--stop") == 0 && s->stops < 16) { s->stop[s->stops++] = at[1]; return 2; }
    for (int i = 0; at[1] && strcmp(at[0], "--isa") == 0 && i <= SQM_ISA_NEON; i++)
        if (strcmp(at[1], sqm_isa_name((sqm_isa)i)) == 0) { s->config.isa = (sqm_isa)i; return 2; }
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        char *end;
        if (strcmp(at[0], options[i].name) != 0) continue;
        if (options[i].most <= 0) return *options[i].whole = 1;
        const double v = at[1] ? strtod(at[1], &end) : -1;
        if (!(v >= 0 && v <= options[i].most) || end == at[1] || *end) return 0;
        if (!options[i].real && v > (double)(int64_t)v) return 0;
        if (options[i].real) *options[i].real = (float)v;
        else if (options[i].whole) *options[i].whole = (int32_t)v;
        else sqm_sampler_seed(&s->sampler, (uint64_t)v);
        return 2;
    }
    return 0;
}

static int run(settings *s, sqm_session *session, const char *prompt)
{
    sqm_generate_stats stats;
    if (s->echo) fputs(prompt, stdout);
    const double start = seconds();
    const sqm_result result = sqm_generate(session, 0, prompt, &s->options, show, s, &stats);
    const double end = seconds(), first = s->first > 0 ? s->first : end;
    putchar('\n');
    if (result < 0) fprintf(stderr, "generate: %s\n", sqm_session_error(session)->text);
    if (s->stats)
        fprintf(stderr, "prompt %d tokens, %.1f/s; text %d tokens, %.1f/s; session %.1f MB\n",
                (int)stats.prompt_tokens, stats.prompt_tokens / (first - start + 1e-9),
                (int)stats.new_tokens, stats.new_tokens / (end - first + 1e-9),
                1e-6 * (double)sqm_session_size(sqm_session_model(session), &s->config, NULL));
    return result < 0;
}

int main(int argc, char **argv)
{
    static settings s;
    sqm_error err;
    sqm_model_info info;
    s.sampler.temperature = 0.8f;
    s.sampler.top_p = 0.95f;
    sqm_sampler_seed(&s.sampler, 1);
    s.options.sampler = &s.sampler;
    s.options.stop = s.stop;
    s.options.max_tokens = 256;
    const int help = argc > 1 && strcmp(argv[1], "--help") == 0;
    if (help || argc < 3) { fputs(usage, help ? stdout : stderr); return help ? 0 : 2; }
    for (int i = 3, taken = 1; i < argc; i += taken) {
        taken = take_option(&s, argv + i);
        if (taken == 0) return fprintf(stderr, "generate: wrong option or value at %s\n", argv[i]), 2;
    }
    sqm_model *model = sqm_load_file(argv[1], NULL, &err);
    if (model) sqm_model_get_info(model, &info);
    if (model && s.config.max_context == 0)
        s.config.max_context = info.max_context > 0 && info.max_context < 4096 ? info.max_context : 4096;
    sqm_session *session = model ? sqm_session_create(model, &s.config, &err) : NULL;
    if (!session) fprintf(stderr, "generate: %s\n", err.text);
    const int status = session ? run(&s, session, argv[2]) : 1;
    sqm_session_free(session);
    sqm_model_free(model);
    return status;
}
