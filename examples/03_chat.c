/* Shows a conversation: the state stays between turns, so a turn costs only its own tokens.
   Build  cc -O2 03_chat.c -o chat -lm          (seqmodel.h is one directory up; -fopenmp: all processors)
   Run    ./chat MODEL.sqm [--system TEXT] [--temp T] [--frame KEY=TEXT]... [--show 1]
   Prints the answers to the lines typed; /reset begins anew, /quit ends; --show prints what is fed.
   The frame around questions and answers comes from the file, if sqm-convert knew the template. By hand:
     --frame 'user=<|user|>\n%s<|end|>\n' --frame 'reply=<|assistant|>\n' --frame 'end=<|end|>\n'
   keys: begin, system, default (system text), first (question after a system text), user, reply, end, and
   stop (a text that ends answers); %s is the text, {bos} {eos} are tokens. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BEGIN, SYSTEM, DEFAULT, FIRST, USER, REPLY, END, STOP, N_KEYS };
static const char *const keys[] = {"begin", "system", "default", "first", "user", "reply", "end", "stop"};
typedef struct chat { sqm_session *session; sqm_sampler sampler; const char *system; char part[N_KEYS][2048];
                      int has[N_KEYS], show, reason; } chat;
static char prompt[1 << 18];

static int show(void *out, const char *text, int32_t bytes)
{
    return fwrite(text, 1, (size_t)bytes, (FILE *)out) != (size_t)bytes || fflush((FILE *)out) != 0;
}

/* Takes KEY=TEXT; \n is a new line, {bos} and {eos} are tokens. Returns 0 when the key is not known. */
static int set_part(chat *c, const char *line, size_t n)
{
    const sqm_model *m = sqm_session_model(c->session);
    for (int k = 0; k < N_KEYS; k++) {
        size_t i = strlen(keys[k]), at = 0;
        if (n <= i || strncmp(line, keys[k], i) != 0 || line[i] != '=') continue;
        for (i++; i < n && at < sizeof(c->part[k]) - 64; i++) {
            const int bos = strncmp(line + i, "{bos}", 5) == 0, eos = strncmp(line + i, "{eos}", 5) == 0;
            if (bos || eos) {
                const int32_t id = sqm_token_find(m, bos ? "bos" : "eos");
                const int32_t bytes = sqm_token_text(m, id, 1, c->part[k] + at, 60);
                at += (size_t)(bytes < 60 ? bytes : 60);
                i += 4;
            } else if (line[i] == '\\' && i + 1 < n) c->part[k][at++] = line[++i] == 'n' ? '\n' : line[i];
            else c->part[k][at++] = line[i];
        }
        c->part[k][at] = 0;
        return c->has[k] = 1;
    }
    return 0;
}

/* Appends part k with the text in place of its %s. */
static void add(const chat *c, int k, const char *text)
{
    const char *hole = text ? strstr(c->part[k], "%s") : NULL;
    const size_t n = strlen(prompt), before = hole ? (size_t)(hole - c->part[k]) : strlen(c->part[k]);
    snprintf(prompt + n, sizeof(prompt) - n, "%.*s%s%s", (int)before, c->part[k], text && hole ? text : "",
             hole ? hole + 2 : "");
}

/* Does a text hold texts of special tokens, which would end a turn or begin another? */
static int has_special(const chat *c, const char *text)
{
    static int32_t ids[1 << 16];
    const sqm_model *m = sqm_session_model(c->session);
    const uint32_t flags = SQM_TOKENS_BARE | SQM_TOKENS_CONTROL;
    const int32_t n = sqm_tokenize(m, text, strlen(text), flags, ids, 1 << 16, NULL);
    for (int32_t i = 0; i < n && i < 1 << 16; i++)
        if (sqm_token_text(m, ids[i], 0, NULL, 0) == 0 && sqm_token_text(m, ids[i], 1, NULL, 0) > 0) return 1;
    return n < 0 || n > 1 << 16;
}

/* Answers one line. Returns 0 when the output is gone. */
static int answer(chat *c, const char *line)
{
    const char *const stops[2] = {c->part[STOP], NULL}, *system = c->system ? c->system : c->part[DEFAULT];
    const int first = sqm_position(c->session, 0) == 0, with_system = c->system || c->has[DEFAULT];
    sqm_generate_options options = {NULL, 1000, NULL, SQM_TOKENS_BARE | SQM_TOKENS_CONTROL, 0};
    sqm_generate_stats stats = {0, 0, 0};
    options.sampler = &c->sampler;
    options.stop = c->has[STOP] ? stops : NULL;
    prompt[0] = 0;
    if (first) add(c, BEGIN, NULL);
    else if (c->reason != SQM_END_STOP_TEXT) add(c, END, NULL);
    if (first && with_system) add(c, SYSTEM, system);
    add(c, first && with_system && c->has[FIRST] ? FIRST : USER, line);
    add(c, REPLY, NULL);
    if (c->show) printf("[%s]\n", prompt);
    const sqm_result result = sqm_generate(c->session, 0, prompt, &options, show, stdout, &stats);
    c->reason = stats.reason;
    putchar('\n');
    if (result < 0) printf("(%s)\n", sqm_session_error(c->session)->text);
    if (result == SQM_E_LIMIT || (result == SQM_OK && stats.reason == SQM_END_CONTEXT))
        printf("(the context of %d tokens is full: /reset begins anew)\n", (int)sqm_max_context(c->session));
    if (c->show) printf("[%d tokens fed, %d new]\n", (int)stats.prompt_tokens, (int)stats.new_tokens);
    return result != SQM_STOPPED;
}

static void converse(chat *c)
{
    static char line[1 << 16];
    for (;;) {
        printf("> ");
        fflush(stdout);
        if (!fgets(line, sizeof(line), stdin) || strcmp(line, "/quit\n") == 0) return;
        line[strcspn(line, "\n")] = 0;
        if (strcmp(line, "/reset") == 0) (void)sqm_reset(c->session, 0);
        else if (has_special(c, line)) printf("(this holds the text of a special token of the model)\n");
        else if (line[0] && !answer(c, line)) return;
    }
}

static int usage(const char *what)
{
    fprintf(stderr, "chat: %s\n"
            "usage: chat MODEL.sqm [--system TEXT] [--temp T] [--frame KEY=TEXT]... [--show 1]\n"
            "A frame by hand:\n"
            "  --frame 'user=<|user|>\\n%%s<|end|>\\n' --frame 'reply=<|assistant|>\\n' "
            "--frame 'end=<|end|>\\n'\n"
            "For a model without turns:\n"
            "  --frame 'user=User: %%s\\n' --frame reply=Assistant: --frame 'end=\\n' "
            "--frame 'stop=\\nUser:'\n", what);
    return 2;
}

int main(int argc, char **argv)
{
    static chat c;
    sqm_error err;
    sqm_session_config config;
    sqm_model_info info;
    int ok = argc > 1 && argc % 2 == 0;
    if (!ok) return usage("a model, then options with a value each");
    memset(&config, 0, sizeof(config));
    c.sampler.temperature = 0.7f;
    c.sampler.top_p = 0.9f;
    sqm_model *model = sqm_load_file(argv[1], NULL, &err);
    if (!model) { fprintf(stderr, "chat: %s\n", err.text); return 1; }
    sqm_model_get_info(model, &info);
    config.max_context = info.max_context > 0 && info.max_context < 4096 ? info.max_context : 4096;
    c.session = sqm_session_create(model, &config, &err);
    if (!c.session) { fprintf(stderr, "chat: %s\n", err.text); sqm_model_free(model); return 1; }
    for (const char *p = sqm_model_meta(model, "chat"); p && *p; p += strcspn(p, "\n"), p += *p == '\n')
        (void)set_part(&c, p, strcspn(p, "\n"));
    for (int i = 2; i + 1 < argc && ok; i += 2) {
        char *end = NULL;
        if (strcmp(argv[i], "--system") == 0) c.system = argv[i + 1];
        else if (strcmp(argv[i], "--frame") == 0) ok = set_part(&c, argv[i + 1], strlen(argv[i + 1]));
        else if (strcmp(argv[i], "--show") == 0) c.show = 1;
        else if (strcmp(argv[i], "--temp") == 0) c.sampler.temperature = (float)strtod(argv[i + 1], &end);
        else ok = 0;
        ok = ok && !(end && *end) && c.sampler.temperature >= 0 && c.sampler.temperature < 100;
    }
    int status = 0;
    if (!ok) status = usage("an option is not known");
    else if (!c.has[USER]) status = usage(sqm_model_meta(model, "chat_template") ?
        "the chat template of this model is not known" : "this model has no chat template");
    else if (c.system && !c.has[SYSTEM]) status = usage("this model knows no system text");
    else converse(&c);
    sqm_session_free(c.session);
    sqm_model_free(model);
    return status;
}
