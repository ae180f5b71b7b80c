/* Shows a conversation: the state stays between turns, so a turn costs only its own tokens.
   Build  cc -O2 chat.c -o chat -lm          (seqmodel.h is one directory up; -fopenmp: all processors)
   Run    ./chat MODEL.sqm [--system TEXT] [--template NAME] [--temp T]
   Prints the answers to the lines typed; /reset begins anew, /quit ends. NAME is one of the table below;
   without it the chat template in the file is recognised by its markers. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* First turn with a system text: system[0] TEXT system[1] user text reply; else: user[0] text user[1];
   between an answer and the next turn: close. Without a marker stop_text ends an answer and opens a turn. */
static const struct { const char *name, *marker, *system[2], *user[2], *close; } templates[] = {
    {"chatml", "<|im_start|>", {"<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n"},
     {"<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"}, "<|im_end|>\n"},
    {"llama3", "<|start_header_id|>", {"<|start_header_id|>system<|end_header_id|>\n\n",
     "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"},
     {"<|start_header_id|>user<|end_header_id|>\n\n",
      "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"}, "<|eot_id|>"},
    {"gemma", "<start_of_turn>", {"<start_of_turn>user\n", "\n\n"},
     {"<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"}, "<end_of_turn>\n"},
    {"phi3", "<|end|>", {"<|system|>\n", "<|end|>\n<|user|>\n"},
     {"<|user|>\n", "<|end|>\n<|assistant|>\n"}, "<|end|>\n"},
    {"zephyr", "<|user|>", {"<|system|>\n", "</s>\n<|user|>\n"},
     {"<|user|>\n", "</s>\n<|assistant|>\n"}, "</s>\n"},
    {"llama2", "[INST]", {"[INST] <<SYS>>\n", "\n<</SYS>>\n\n"}, {"[INST] ", " [/INST]"}, "</s><s>"},
    {"plain", NULL, {"", "\nUser: "}, {"User: ", "\nAssistant:"}, "\n"}
};
static const char *const stop_text[] = {"\nUser:", NULL};
enum { N_TEMPLATES = sizeof(templates) / sizeof(templates[0]) };

static int show(void *out, const char *text, int32_t bytes)
{
    return fwrite(text, 1, (size_t)bytes, (FILE *)out) != (size_t)bytes || fflush((FILE *)out) != 0;
}

static int find_template(const char *name, const char *text)
{
    for (int i = 0; i < N_TEMPLATES; i++)
        if (name ? strcmp(name, templates[i].name) == 0 :
            text && templates[i].marker && strstr(text, templates[i].marker)) return i;
    return -1;
}

/* Answers one line. Returns 0 when the output is gone. */
static int answer(sqm_session *session, int t, const char *system, const char *line, sqm_sampler *sampler,
                  sqm_generate_stats *stats)
{
    static char prompt[1 << 18];
    const int first = sqm_position(session, 0) == 0, opened = stats->reason == SQM_END_STOP_TEXT;
    sqm_generate_options options = {NULL, 1000, NULL, 0, 0};     /* tokens an answer */
    options.sampler = sampler;
    options.stop = templates[t].marker ? NULL : stop_text;
    if (first && system)
        snprintf(prompt, sizeof(prompt), "%s%s%s%s%s", templates[t].system[0], system, templates[t].system[1],
                 line, templates[t].user[1]);
    else
        snprintf(prompt, sizeof(prompt), "%s%s%s%s", first || opened ? "" : templates[t].close,
                 opened ? "" : templates[t].user[0], line, templates[t].user[1]);
    const sqm_result result = sqm_generate(session, 0, prompt, &options, show, stdout, stats);
    putchar('\n');
    if (result < 0) printf("(%s)\n", sqm_session_error(session)->text);
    if (result == SQM_E_LIMIT || (result == SQM_OK && stats->reason == SQM_END_CONTEXT))
        printf("(the context of %d tokens is full: /reset begins anew)\n", (int)sqm_max_context(session));
    return result != SQM_STOPPED;
}

static void converse(sqm_session *session, int t, const char *system, sqm_sampler *sampler)
{
    static char line[1 << 16];
    sqm_generate_stats stats = {0, 0, SQM_END_MODEL};
    for (;;) {
        printf("> ");
        fflush(stdout);
        if (!fgets(line, sizeof(line), stdin) || strcmp(line, "/quit\n") == 0) return;
        line[strcspn(line, "\n")] = 0;
        if (strcmp(line, "/reset") == 0) {
            (void)sqm_reset(session, 0);
            stats.reason = SQM_END_MODEL;
        } else if (line[0] && !answer(session, t, system, line, sampler, &stats)) return;
    }
}

int main(int argc, char **argv)
{
    const char *name = NULL, *system = NULL;
    char *end = NULL;
    sqm_error err;
    sqm_session_config config;
    sqm_model_info info;
    sqm_sampler sampler;
    int wrong = argc < 2 || argc % 2 != 0;
    memset(&config, 0, sizeof(config));
    memset(&sampler, 0, sizeof(sampler));
    sampler.temperature = 0.7f;
    sampler.top_p = 0.9f;
    for (int i = 2; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--system") == 0) system = argv[i + 1];
        else if (strcmp(argv[i], "--template") == 0) name = argv[i + 1];
        else if (strcmp(argv[i], "--temp") == 0) sampler.temperature = (float)strtod(argv[i + 1], &end);
        else wrong = 1;
        if ((end && *end) || !(sampler.temperature >= 0 && sampler.temperature < 100)) wrong = 1;
    }
    if (wrong) fprintf(stderr, "usage: chat MODEL.sqm [--system TEXT] [--template NAME] [--temp T]\n");
    if (wrong) return 2;
    sqm_model *model = sqm_load_file(argv[1], NULL, &err);
    if (!model) { fprintf(stderr, "chat: %s\n", err.text); return 1; }
    const int t = find_template(name, sqm_model_meta(model, "chat_template"));
    sqm_model_get_info(model, &info);
    config.max_context = info.max_context > 0 && info.max_context < 4096 ? info.max_context : 4096;
    sqm_session *session = t < 0 ? NULL : sqm_session_create(model, &config, &err);
    if (t < 0)
        fprintf(stderr, "chat: unknown template: --template chatml|llama2|llama3|gemma|phi3|zephyr|plain\n");
    else if (!session) fprintf(stderr, "chat: %s\n", err.text);
    else converse(session, t, system, &sampler);
    sqm_session_free(session);
    sqm_model_free(model);
    return t < 0 ? 2 : session == NULL;
}
