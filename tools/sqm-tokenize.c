/* sqm-tokenize: text on stdin -> token ids on stdout, one line; --decode: ids on stdin -> text on stdout.
   Build: cc -O2 tools/sqm-tokenize.c -o sqm-tokenize -lm                                                   */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "tok_import.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(_WIN32)
#  include <fcntl.h>
#  include <io.h>
#endif

static const char help[] =
    "usage: sqm-tokenize FILE [--bare] [--plain] [--control] < TEXT > IDS\n"
    "       sqm-tokenize FILE --decode < IDS > TEXT\n"
    "\n"
    "FILE is a .sqm, or a tokenizer as published: tokenizer.json, tekken.json, SentencePiece's .model,\n"
    ".tiktoken, .gguf, tokenizer.bin of llama2.c, RWKV's vocabulary; \"bytes\": one token a byte.\n"
    "Ids are decimal numbers in one line, with a space between. Text is taken and given back byte for byte.\n"
    "\n"
    "--bare     without the begin and end tokens that the model's template adds\n"
    "--plain    read texts like <|im_end|> as text, not as special tokens\n"
    "--control  read as special tokens also those that SentencePiece and tiktoken never see in texts\n"
    "--decode   ids to text; special tokens give their own text\n"
    "\n"
    "Exit status: 0 done, 1 the file or the input cannot be used, 2 wrong usage.\n";

static int fail(const char *what, const char *detail)
{
    fprintf(stderr, "sqm-tokenize: %s%s\n", what, detail);
    return 1;
}

static int usage_error(const char *what, const char *detail)
{
    fail(what, detail);
    fprintf(stderr, "sqm-tokenize --help says more\n");
    return 2;
}

/* All of stdin, with one NUL after it; NULL: it could not be read or does not fit in memory.               */
static char *read_input(size_t *bytes)
{
    char *text = NULL;
    size_t used = 0, room = 65536;
    for (;;) {
        char *more = (char *)realloc(text, room + 1);
        if (!more) break;
        text = more;
        used += fread(text + used, 1, room - used, stdin);
        if (ferror(stdin)) break;
        if (used < room) {
            text[used] = 0;
            *bytes = used;
            return text;
        }
        if (room > (size_t)-1 / 4) break;
        room *= 2;
    }
    free(text);
    return NULL;
}

static int encode(const sqm_model *m, const char *text, size_t bytes, uint32_t flags)
{
    sqm_error err;
    const int32_t n = sqm_tokenize(m, text, bytes, flags, NULL, 0, &err);
    int32_t *ids;
    if (n < 0) return fail(err.text, "");
    ids = (int32_t *)malloc(((size_t)n + 1) * sizeof *ids);
    if (!ids) return fail("no memory for the ids", "");
    if (sqm_tokenize(m, text, bytes, flags, ids, n, &err) != n) {
        free(ids);
        return fail(err.text, "");
    }
    for (int32_t i = 0; i < n; i++) printf(i ? " %d" : "%d", (int)ids[i]);
    putchar('\n');
    free(ids);
    return 0;
}

/* Numbers separated by white space or commas. Returns how many, -1 after a message.                        */
static int32_t parse_ids(const char *text, size_t bytes, int32_t *ids)
{
    int32_t n = 0;
    for (size_t at = 0; at < bytes;) {
        int64_t v = 0;
        size_t first;
        if (text[at] == ',' || text[at] == ' ' || (text[at] >= '\t' && text[at] <= '\r')) { at++; continue; }
        for (first = at; at < bytes && text[at] >= '0' && text[at] <= '9' && v <= INT32_MAX; at++)
            v = v * 10 + (text[at] - '0');
        if (at == first || v > INT32_MAX || n == INT32_MAX) {
            fprintf(stderr, "sqm-tokenize: byte %lu of the input is no token id\n", (unsigned long)first);
            return -1;
        }
        ids[n++] = (int32_t)v;
    }
    return n;
}

static int decode(const sqm_model *m, const char *text, size_t bytes)
{
    int32_t *ids = (int32_t *)malloc((bytes / 2 + 1) * sizeof *ids);     /* digit and separator */
    int32_t n, room;
    char *out;
    if (!ids) return fail("no memory for the ids", "");
    n = parse_ids(text, bytes, ids);
    room = n < 0 ? -1 : sqm_detokenize(m, ids, n, 1, NULL, 0);
    out = room < 0 ? NULL : (char *)malloc((size_t)room + 1);
    if (out) {
        sqm_detokenize(m, ids, n, 1, out, room);
        fwrite(out, 1, (size_t)room, stdout);
    } else if (n >= 0) {
        fail("the text is too long", "");
    }
    free(out);
    free(ids);
    return out == NULL;
}

/* A model that is nothing but the tokenizer of this file; NULL with env's error. */
static sqm_model *open_tokenizer(conv_env *env, const char *path, sqm_model *m)
{
    tok_blob blob = { NULL, 0 };
    sqm_error err;
    memset(m, 0, sizeof *m);
    if (!tok_from_file(env, path, &blob)) return NULL;
    if (!blob.bytes) { conv_fail(env, "%s: there is no tokenizer in this file", path); return NULL; }
    if (sqm__tok_open(&m->tok, blob.data, (size_t)blob.bytes, &err) != SQM_OK) {
        conv_fail(env, "%s: %s", path, err.text);
        return NULL;
    }
    m->has_tok = 1;
    return m;
}

int main(int argc, char **argv)
{
    const char *path = NULL;
    uint32_t flags = 0;
    int is_decode = 0, status;
    sqm_model *m, direct;
    conv_env env;
    sqm_model_info info;
    sqm_error err;
    char *text;
    size_t bytes = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) { fputs(help, stdout); return 0; }
        if (strcmp(argv[i], "--decode") == 0) is_decode = 1;
        else if (strcmp(argv[i], "--bare") == 0) flags |= SQM_TOKENS_BARE;
        else if (strcmp(argv[i], "--plain") == 0) flags |= SQM_TOKENS_PLAIN;
        else if (strcmp(argv[i], "--control") == 0) flags |= SQM_TOKENS_CONTROL;
        else if (argv[i][0] == '-' && argv[i][1]) return usage_error("unknown option ", argv[i]);
        else if (path) return usage_error("more than one file: ", argv[i]);
        else path = argv[i];
    }
    if (!path) return usage_error("the file is missing", "");
#if defined(_WIN32)
    _setmode(_fileno(stdin), _O_BINARY);
    _setmode(_fileno(stdout), _O_BINARY);
#endif
    conv_env_open(&env);
    if (conv_ends_with(path, ".sqm")) {
        m = sqm_load_file(path, NULL, &err);
        if (!m) return fail(err.text, "");
    } else {
        m = open_tokenizer(&env, path, &direct);
    }
    if (!m) return fail(env.error, "");
    sqm_model_get_info(m, &info);
    text = info.has_tokenizer ? read_input(&bytes) : NULL;
    if (!info.has_tokenizer) status = fail(path, ": there is no tokenizer in this file");
    else if (!text) status = fail("the input cannot be read", "");
    else status = is_decode ? decode(m, text, bytes) : encode(m, text, bytes, flags);
    free(text);
    if (m != &direct) sqm_model_free(m);
    conv_env_close(&env);
    if (fflush(stdout) != 0 || ferror(stdout)) return fail("the output cannot be written", "");
    return status;
}
