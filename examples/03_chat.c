/* Shows a conversation: the state stays between turns, so a turn costs only its own tokens.
   Build  cc -O2 03_chat.c -o chat -lm          (seqmodel.h is one directory up; -fopenmp: all processors)
   Run    ./chat MODEL.sqm [--system TEXT] [--temp T] [--frame KEY=TEXT]... [--show 1]
   Prints the answers to the lines typed; /reset begins anew, /quit ends; --show prints what is fed.
   The frame around questions and answers comes from the file, if sqm-convert knew the template. By hand:
     --frame 'user=<|user|>\n%s<|end|>\n' --frame 'reply=<|assistant|>\n' --frame 'end=<|end|>\n'
   keys: begin, system, default (system text), first (question after a system text), user, reply, end, and
   stop (a text that ends answers); %s is the text, {bos} {eos} are tokens. See sqm_chat in seqmodel.h. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct talk { sqm_session *session; sqm_sampler sampler; sqm_chat chat; int show; } talk;

static int show(void *out, const char *text, int32_t bytes)
{
    return fwrite(text, 1, (size_t)bytes, (FILE *)out) != (size_t)bytes || fflush((FILE *)out) != 0;
}

/* Answers one line. Returns 0 when the output is gone. */
static int answer(talk *t, const char *line)
{
    static char prompt[1 << 17];
    sqm_generate_options options;
    sqm_generate_stats stats;
    memset(&options, 0, sizeof(options));
    memset(&stats, 0, sizeof(stats));
    options.sampler = &t->sampler;
    options.max_tokens = 1000;
    const sqm_model *m = sqm_session_model(t->session);
    if (t->show && sqm_chat_prompt(m, &t->chat, line, prompt, (int32_t)sizeof(prompt)) > 0)
        printf("[%s]\n", prompt);
    const sqm_result result = sqm_chat_answer(t->session, 0, &t->chat, line, &options, show, stdout, &stats);
    putchar('\n');
    if (result < 0) printf("(%s)\n", sqm_session_error(t->session)->text);
    if (result == SQM_E_LIMIT || (result == SQM_OK && stats.reason == SQM_END_CONTEXT))
        printf("(the context of %d tokens is full: /reset begins anew)\n", (int)sqm_max_context(t->session));
    if (t->show) printf("[%d tokens fed, %d new]\n", (int)stats.prompt_tokens, (int)stats.new_tokens);
    return result != SQM_STOPPED;
}

static void converse(talk *t)
{
    static char line[1 << 16];
    for (;;) {
        printf("> ");
        fflush(stdout);
        if (!fgets(line, sizeof(line), stdin) || strcmp(line, "/quit\n") == 0) return;
        line[strcspn(line, "\n")] = 0;
        if (strcmp(line, "/reset") == 0) {
            (void)sqm_reset(t->session, 0);
            t->chat.turns = 0;
        } else if (line[0] && !answer(t, line)) {
            return;
        }
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
    static talk t;
    static char frame[1 << 16];                        /* parts given by hand, then those of the file */
    sqm_error err;
    sqm_session_config config;
    sqm_model_info info;
    int ok = argc > 1 && argc % 2 == 0;
    if (!ok) return usage("a model, then options with a value each");
    memset(&config, 0, sizeof(config));
    t.sampler.temperature = 0.7f;
    t.sampler.top_p = 0.9f;
    sqm_model *model = sqm_load_file(argv[1], NULL, &err);
    if (!model) { fprintf(stderr, "chat: %s\n", err.text); return 1; }
    sqm_model_get_info(model, &info);
    config.max_context = info.max_context > 0 && info.max_context < 4096 ? info.max_context : 4096;
    t.session = sqm_session_create(model, &config, &err);
    if (!t.session) { fprintf(stderr, "chat: %s\n", err.text); sqm_model_free(model); return 1; }
    for (int i = 2; i + 1 < argc && ok; i += 2) {
        char *end = NULL;
        const size_t n = strlen(frame);
        if (strcmp(argv[i], "--system") == 0) t.chat.system = argv[i + 1];
        else if (strcmp(argv[i], "--frame") == 0) snprintf(frame + n, sizeof(frame) - n, "%s\n", argv[i + 1]);
        else if (strcmp(argv[i], "--show") == 0) t.show = 1;
        else if (strcmp(argv[i], "--temp") == 0) t.sampler.temperature = (float)strtod(argv[i + 1], &end);
        else ok = 0;
        ok = ok && !(end && *end) && t.sampler.temperature >= 0 && t.sampler.temperature < 100;
    }
    const char *own = sqm_model_meta(model, "chat");
    snprintf(frame + strlen(frame), sizeof(frame) - strlen(frame), "%s", own ? own : "");
    t.chat.frame = frame;
    const int32_t fits = sqm_chat_prompt(model, &t.chat, "", NULL, 0);
    int status = 0;
    if (!ok) status = usage("an option is not known");
    else if (fits < 0 && t.chat.system) status = usage("this model has no frame with a system text");
    else if (fits < 0) status = usage(sqm_model_meta(model, "chat_template") ?
        "the chat template of this model is not known" : "this model has no chat template");
    else converse(&t);
    sqm_session_free(t.session);
    sqm_model_free(model);
    return status;
}
