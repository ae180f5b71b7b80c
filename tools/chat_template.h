/* chat_template.h: recognises the chat template of a model (a Jinja program) and describes it as texts that
   sqm_chat puts together. One line a text, KEY=TEXT, with \n for a new line and \\ for a backslash:
     begin    before everything                        system   around the system text, %s
     default  the system text when none is given       first    around the first question after a system text
     user     around a question, %s                    reply    before an answer
     end      after an answer, before the next question
   {bos} and {eos} stand for the model's own tokens. An empty `default`: there always is a system part.
   A template that is not known gets no description: build/chat says then how to give one. */
#ifndef CHAT_TEMPLATE_H_INCLUDED
#define CHAT_TEMPLATE_H_INCLUDED
#include "conv_base.h"

/* markers, parted by tabs: all are in the template, and `without` is not. The first that fits counts. */
typedef struct chat_family {
    const char *name, *markers, *without, *system, *first, *user, *reply, *end;
} chat_family;

#define CHAT_FW "\xEF\xBD\x9C"        /* U+FF5C, in the tokens of DeepSeek */
#define CHAT_MARK "\xE2\x96\x81"

static const chat_family chat_families[] = {
    { "phi4", "<|im_start|>\t<|im_sep|>", NULL, "<|im_start|>system<|im_sep|>%s<|im_end|>", NULL,
      "<|im_start|>user<|im_sep|>%s<|im_end|>", "<|im_start|>assistant<|im_sep|>", "<|im_end|>" },
    { "chatml", "<|im_start|>\t<|im_end|>", NULL, "<|im_start|>system\\n%s<|im_end|>\\n", NULL,
      "<|im_start|>user\\n%s<|im_end|>\\n", "<|im_start|>assistant\\n", "<|im_end|>\\n" },
    { "llama3", "<|start_header_id|>\t<|eot_id|>", NULL,
      "<|start_header_id|>system<|end_header_id|>\\n\\n%s<|eot_id|>", NULL,
      "<|start_header_id|>user<|end_header_id|>\\n\\n%s<|eot_id|>",
      "<|start_header_id|>assistant<|end_header_id|>\\n\\n", "<|eot_id|>" },
    { "llama4", "<|header_start|>\t<|eot|>", NULL,
      "<|header_start|>system<|header_end|>\\n\\n%s<|eot|>", NULL,
      "<|header_start|>user<|header_end|>\\n\\n%s<|eot|>", "<|header_start|>assistant<|header_end|>\\n\\n",
      "<|eot|>" },
    { "gemma", "<start_of_turn>\t<end_of_turn>", NULL, "<start_of_turn>user\\n%s\\n\\n", "%s<end_of_turn>\\n",
      "<start_of_turn>user\\n%s<end_of_turn>\\n", "<start_of_turn>model\\n", "<end_of_turn>\\n" },
    { "deepseek3", "<" CHAT_FW "User" CHAT_FW ">\t<" CHAT_FW "Assistant" CHAT_FW ">", NULL, "%s", NULL,
      "<" CHAT_FW "User" CHAT_FW ">%s", "<" CHAT_FW "Assistant" CHAT_FW ">", "{eos}" },
    { "deepseek2", "User: \tAssistant:\teos_token", "[INST]", "%s\\n\\n", NULL, "User: %s\\n\\n",
      "Assistant:", "{eos}" },
    { "llama2", "[INST]\t<<SYS>>", NULL, "[INST] <<SYS>>\\n%s\\n<</SYS>>\\n\\n", "%s [/INST]",
      "[INST] %s [/INST]", "", "{eos}{bos}" },
    { "mistral7", "[INST]\t[SYSTEM_PROMPT]", NULL, "[SYSTEM_PROMPT]%s[/SYSTEM_PROMPT]", NULL,
      "[INST]%s[/INST]", "", "{eos}" },
    { "mistral", "[INST]\t[/INST]", NULL, "[INST]%s\\n\\n", "%s[/INST]", "[INST]%s[/INST]", "", "{eos}" },
    { "phi3", "<|user|>\t<|end|>", NULL, "<|system|>\\n%s<|end|>\\n", NULL, "<|user|>\\n%s<|end|>\\n",
      "<|assistant|>\\n", "<|end|>\\n" },
    { "zephyr", "<|user|>\teos_token\t<|system|>", "<|end|>", "<|system|>\\n%s{eos}\\n", NULL,
      "<|user|>\\n%s{eos}\\n", "<|assistant|>\\n", "{eos}\\n" },
    { "granite", "<|start_of_role|>\t<|end_of_role|>", NULL,
      "<|start_of_role|>system<|end_of_role|>%s<|end_of_text|>\\n", NULL,
      "<|start_of_role|>user<|end_of_role|>%s<|end_of_text|>\\n", "<|start_of_role|>assistant<|end_of_role|>",
      "<|end_of_text|>\\n" },
    { "command-r", "<|START_OF_TURN_TOKEN|>\t<|CHATBOT_TOKEN|>", "<|START_RESPONSE|>",
      "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>%s<|END_OF_TURN_TOKEN|>", NULL,
      "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>%s<|END_OF_TURN_TOKEN|>",
      "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>" }
};

static int chat__has_all(const char *text, const char *markers)
{
    while (*markers) {
        char one[64];
        const size_t n = strcspn(markers, "\t");
        if (n >= sizeof one) return 0;
        memcpy(one, markers, n);
        one[n] = 0;
        if (!strstr(text, one)) return 0;
        markers += n + (markers[n] != 0);
    }
    return 1;
}

static const chat_family *chat_recognise(const char *text)
{
    for (size_t i = 0; i < sizeof chat_families / sizeof *chat_families; i++) {
        const chat_family *f = &chat_families[i];
        if (chat__has_all(text, f->markers) && !(f->without && strstr(text, f->without))) return f;
    }
    return NULL;
}

/* The system text that a ChatML template puts where none is given: between its marks in one literal. */
static const char *chat__default_system(conv_env *env, const char *text)
{
    static const char mark[] = "<|im_start|>system";
    for (const char *at = strstr(text, mark); at; at = strstr(at + 1, mark)) {
        const char *from = at + sizeof mark - 1, *to = strstr(from, "<|im_end|>");
        if (*from == '\n') from++;
        else if (from[0] == '\\' && from[1] == 'n') from += 2;
        if (!to || to <= from || to - from > 2000) continue;
        if (memchr(from, '\'', (size_t)(to - from)) || memchr(from, '{', (size_t)(to - from)) ||
            memchr(from, '"', (size_t)(to - from)) || memchr(from, '\n', (size_t)(to - from))) continue;
        return conv_copy_text(env, from, (size_t)(to - from));
    }
    return NULL;
}

/* Mistral's versions differ in the spaces around the marks; what is quoted in the template decides. */
static const char *chat__mistral(conv_env *env, const char *text, const char *frame)
{
    const int before = strstr(text, "[INST] ") != NULL, after = strstr(text, " [/INST]") != NULL;
    char out[80];
    size_t n = 0;
    for (; *frame && n < sizeof out - 12; ) {
        if (strncmp(frame, "[/INST]", 7) == 0) {
            if (after) out[n++] = ' ';
            memcpy(out + n, frame, 7);
            n += 7;
            frame += 7;
        } else if (strncmp(frame, "[INST]", 6) == 0) {
            memcpy(out + n, frame, 6);
            n += 6;
            frame += 6;
            if (before) out[n++] = ' ';
        } else {
            out[n++] = *frame++;
        }
    }
    return conv_copy_text(env, out, n);
}

/* The description, or NULL: not known. *family: its name. */
static CONV_UNUSED const char *chat_describe(conv_env *env, const char *text, const char **family)
{
    const chat_family *f = chat_recognise(text);
    const int is_mistral = f && strncmp(f->name, "mistral", 7) == 0;
    const int is_dated = f && strcmp(f->name, "llama3") == 0 && strstr(text, "Cutting Knowledge Date");
    const int has_begin = strstr(text, "bos_token") != NULL || strstr(text, "<|begin_of_text|>") != NULL ||
                          strstr(text, "<s>") != NULL;
    const char *defaults = NULL, *system, *first, *user, *reply;
    *family = f ? f->name : NULL;
    if (!f) return NULL;
    system = f->system;
    first = f->first ? f->first : f->user;
    user = f->user;
    reply = f->reply;
    if (strcmp(f->name, "chatml") == 0) defaults = chat__default_system(env, text);
    if (is_mistral) {
        system = chat__mistral(env, text, system);
        first = chat__mistral(env, text, first);
        user = chat__mistral(env, text, user);
    }
    if (is_dated) {                                    /* the date that the template has if none is given */
        system = "<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n"
                 "Today Date: 26 Jul 2024\\n\\n%s<|eot_id|>";
        defaults = "";
    }
    if (strcmp(f->name, "deepseek3") == 0 && strstr(text, "Assistant" CHAT_FW "><think>\\n"))
        reply = "<" CHAT_FW "Assistant" CHAT_FW "><think>\\n";
    if (strstr(text, "System role not supported")) system = NULL;
    return conv_format(env, "%s%s%s%s%s%s%sfirst=%s\nuser=%s\nreply=%s\nend=%s\n",
                       has_begin ? "begin={bos}\n" : "", system ? "system=" : "", system ? system : "",
                       system ? "\n" : "", defaults ? "default=" : "", defaults ? defaults : "",
                       defaults ? "\n" : "", first, user, reply, f->end);
}

#endif /* CHAT_TEMPLATE_H_INCLUDED */
