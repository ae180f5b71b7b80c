/* sqm-embed: writes a weight file as a C array, for flash or a program without files.
   Build: cc -O2 tools/sqm-embed.c -o sqm-embed -lm                                                        */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <errno.h>

static const char help[] =
    "usage: sqm-embed FILE.sqm -o OUT.h [-n NAME]\n"
    "\n"
    "Writes FILE.sqm as `static const unsigned char NAME[]`, aligned to 64 bytes; sizeof(NAME) is its size.\n"
    "Macros NAME_OPS and NAME_MIXERS list what sqm_open needs for it, so that a linker drops the rest. If\n"
    "SQM_EMBED_SECTION is defined the array goes to that section of the program: \".qspi\".\n"
    "-o OUT.h   where to; - is the standard output\n"
    "-n NAME    name of the array; default: the file's name with _ for what C does not allow\n"
    "\n"
    "Exit status: 0 done, 1 FILE.sqm is damaged or OUT.h not writable (nothing is left), 2 wrong usage.\n";

enum { MAX_NAME = 100 };

static int is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
static int is_digit(char c) { return c >= '0' && c <= '9'; }

/* "models/tiny-1.5M.sqm" -> "tiny_1_5M_sqm"; dst [MAX_NAME]. */
static void name_from_path(char *dst, const char *path)
{
    const char *base = path;
    size_t n = 0;
    for (const char *p = path; *p; p++) {
        if (*p == '/' || *p == '\\') base = p + 1;
    }
    if (!is_letter(base[0])) { memcpy(dst, "model_", 6); n = 6; }
    for (; *base && n + 1 < MAX_NAME; base++) dst[n++] = is_letter(*base) || is_digit(*base) ? *base : '_';
    dst[n] = 0;
}

static int is_identifier(const char *name)
{
    if (!is_letter(name[0]) || strlen(name) >= MAX_NAME) return 0;
    for (; *name; name++) {
        if (!is_letter(*name) && !is_digit(*name)) return 0;
    }
    return 1;
}

static int has_option(const sqm__file *f, const sqm__file_op *op, const char *name)
{
    for (uint32_t i = 0; i < op->n_params; i++)
        if (strcmp(sqm__file_text(f, f->params[op->first_param + i].key), name) == 0) return 1;
    return 0;
}
/* Whether an attention op, or a rope op, needs more than the small kind of it. */
static int is_plain(const sqm__file *f, const sqm__file_op *op)
{
    const char *keys = sqm_mixer_attention_plain()->keys;
    if (op->op == SQM__OP_ROPE) return !has_option(f, op, "freq_long") && !has_option(f, op, "ntk_factor");
    for (uint32_t i = 0; i < op->n_params; i++)
        if (sqm__word_index(keys, sqm__file_text(f, f->params[op->first_param + i].key)) < 0) return 0;
    return 1;
}
/* The function that registers an op or, with mixers, its mixer; "" when it has none. */
static void function_of(char *dst, size_t room, const sqm__file *f, const sqm__file_op *op, int mixers)
{
    const char *name = mixers ? sqm__file_text(f, op->mixer) : sqm__ops[op->op - 1]->name;
    const char *kind = "";
    if (!mixers && op->op == SQM__OP_ROPE && !is_plain(f, op)) kind = "_dynamic";
    if (mixers && strcmp(name, "attention") == 0 && is_plain(f, op)) kind = "_plain";
    dst[0] = 0;
    if (*name) snprintf(dst, room, "sqm_%s_%s%s()", mixers ? "mixer" : "op", name, kind);
}
/* Each function once, in the order of first use; one that is more than another of its kind comes first. */
static void write_list(FILE *out, const sqm__file *f, const char *macro, const char *what, int mixers)
{
    fprintf(out, "#define %s_%s ", macro, what);
    for (int32_t most = 1; most >= 0; most--)
        for (int32_t i = 0; i < f->n_ops; i++) {
            char name[200], other[200];
            int seen = 0;
            const int small = (f->ops[i].op == SQM__OP_ROPE || f->ops[i].op == SQM__OP_MIX) &&
                              is_plain(f, &f->ops[i]);
            if (f->ops[i].op < 1 || f->ops[i].op >= SQM__OP_COUNT || small == most) continue;
            function_of(name, sizeof(name), f, &f->ops[i], mixers);
            for (int32_t k = 0; k < i && !seen; k++) {
                function_of(other, sizeof(other), f, &f->ops[k], mixers);
                seen = strcmp(name, other) == 0;
            }
            if (name[0] && !seen) fprintf(out, "%s, ", name);
        }
    fprintf(out, "NULL\n");
}

static void write_head(FILE *out, const char *name, const sqm__file *f)
{
    char guard[MAX_NAME];
    size_t n = 0;
    for (; name[n]; n++) guard[n] = name[n] >= 'a' && name[n] <= 'z' ? (char)(name[n] - 'a' + 'A') : name[n];
    guard[n] = 0;
    fprintf(out, "/* A weight file of seqmodel.h, written by sqm-embed. Include it in one source file and\n"
                 "   open it in place: sqm_open(&model, %s, sizeof(%s), ...); */\n", name, name);
    fprintf(out, "#ifndef %s_H_INCLUDED\n#define %s_H_INCLUDED\n", guard, guard);
    write_list(out, f, guard, "OPS", 0);
    write_list(out, f, guard, "MIXERS", 1);
    fprintf(out, "#ifdef SQM_EMBED_SECTION\n__attribute__((section(SQM_EMBED_SECTION)))\n#endif\n");
    fprintf(out, "#if defined(__cplusplus) && __cplusplus >= 201103L\nalignas(64)\n"
                 "#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L\n_Alignas(64)\n"
                 "#elif defined(__GNUC__)\n__attribute__((aligned(64)))\n"
                 "#elif defined(_MSC_VER)\n__declspec(align(64))\n#endif\n");
    fprintf(out, "static const unsigned char %s[%lu] = {\n", name, (unsigned long)f->bytes);
}

/* Returns 0 when something could not be written. */
static int write_array(FILE *out, const char *name, const sqm__file *f)
{
    const uint8_t *data = f->image;
    const size_t bytes = f->bytes;
    size_t column = 0;
    write_head(out, name, f);
    for (size_t i = 0; i < bytes; i++) {
        char text[8];
        const int n = snprintf(text, sizeof(text), "%d%s", data[i], i + 1 < bytes ? "," : "");
        column += (size_t)n;
        if (column > 100 || i + 1 == bytes) { text[n] = '\n'; text[n + 1] = 0; column = 0; }
        if (fputs(text, out) < 0) return 0;
    }
    fprintf(out, "};\n#endif\n");
    return fflush(out) == 0 && !ferror(out);
}

/* Writes to a temporary name first, so that no half file stays. */
static int write_header(const char *path, const char *name, const sqm__file *f)
{
    const size_t n = strlen(path);
    char *part = (char *)malloc(n + 6);
    FILE *out = NULL;
    int good = 0;
    if (strcmp(path, "-") == 0) {
        good = write_array(stdout, name, f);
    } else if (part) {
        memcpy(part, path, n);
        memcpy(part + n, ".part", 6);
        out = fopen(part, "wb");
    }
    if (out) {
        good = write_array(out, name, f);
        if (fclose(out) != 0) good = 0;
#ifdef _WIN32
        if (good) remove(path);                        /* rename does not replace there */
#endif
        if (good && rename(part, path) != 0) good = 0;
        if (!good) remove(part);
    }
    if (!good) fprintf(stderr, "sqm-embed: cannot write '%s': %s\n", path, strerror(errno));
    free(part);
    return good ? 0 : 1;
}

static int embed(const char *in, const char *out, const char *name)
{
    sqm__file f;
    sqm_error err;
    size_t bytes;
    int status = 1;
    void *image = sqm__map_file(in, &bytes, &err);
    if (!image) {
        fprintf(stderr, "sqm-embed: %s\n", err.text);
        return 1;
    }
    if (sqm__file_open(&f, image, bytes, SQM_OPEN_VERIFY, &err) != SQM_OK) {
        fprintf(stderr, "sqm-embed: %s: %s\n", in, err.text);
    } else {
        status = write_header(out, name, &f);
    }
    sqm__unmap_file(image, bytes);
    return status;
}

int main(int argc, char **argv)
{
    const char *in = NULL, *out = NULL, *name = NULL;
    char made[MAX_NAME];
    for (int i = 1; i < argc; i++) {
        const char **value = strcmp(argv[i], "-o") == 0 ? &out : strcmp(argv[i], "-n") == 0 ? &name : NULL;
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(help, stdout);
            return 0;
        }
        if (value && i + 1 < argc) { *value = argv[++i]; continue; }
        if (value || argv[i][0] == '-' || in) {
            fprintf(stderr, "sqm-embed: unexpected '%s'; see sqm-embed --help\n", argv[i]);
            return 2;
        }
        in = argv[i];
    }
    if (!in || !out) {
        fputs(help, stderr);
        return 2;
    }
    if (!name) {
        name_from_path(made, in);
        name = made;
    }
    if (!is_identifier(name)) {
        fprintf(stderr, "sqm-embed: '%s' cannot be the name of an array\n", name);
        return 2;
    }
    return embed(in, out, name);
}
