/* sqm-embed: writes a weight file as a C array, for flash or a program without files.
   Build: cc -O2 tools/sqm-embed.c -o sqm-embed -lm                                                        */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <errno.h>

static const char help[] =
    "usage: sqm-embed FILE.sqm -o OUT.h [-n NAME]\n"
    "\n"
    "Writes FILE.sqm as `static const unsigned char NAME[]`, aligned to 64 bytes; sizeof(NAME) is its size.\n"
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

static void write_head(FILE *out, const char *name, size_t bytes)
{
    char guard[MAX_NAME];
    size_t n = 0;
    for (; name[n]; n++) guard[n] = name[n] >= 'a' && name[n] <= 'z' ? (char)(name[n] - 'a' + 'A') : name[n];
    guard[n] = 0;
    fprintf(out, "/* A weight file of seqmodel.h, written by sqm-embed. Include it in one source file and\n"
                 "   open it in place: sqm_open(&model, %s, sizeof(%s), ...); */\n", name, name);
    fprintf(out, "#ifndef %s_H_INCLUDED\n#define %s_H_INCLUDED\n", guard, guard);
    fprintf(out, "#if defined(__cplusplus) && __cplusplus >= 201103L\nalignas(64)\n"
                 "#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L\n_Alignas(64)\n"
                 "#elif defined(__GNUC__)\n__attribute__((aligned(64)))\n"
                 "#elif defined(_MSC_VER)\n__declspec(align(64))\n#endif\n");
    fprintf(out, "static const unsigned char %s[%lu] = {\n", name, (unsigned long)bytes);
}

/* Returns 0 when something could not be written. */
static int write_array(FILE *out, const char *name, const uint8_t *data, size_t bytes)
{
    size_t column = 0;
    write_head(out, name, bytes);
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
static int write_header(const char *path, const char *name, const uint8_t *data, size_t bytes)
{
    const size_t n = strlen(path);
    char *part = (char *)malloc(n + 6);
    FILE *out = NULL;
    int good = 0;
    if (strcmp(path, "-") == 0) {
        good = write_array(stdout, name, data, bytes);
    } else if (part) {
        memcpy(part, path, n);
        memcpy(part + n, ".part", 6);
        out = fopen(part, "wb");
    }
    if (out) {
        good = write_array(out, name, data, bytes);
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
        status = write_header(out, name, f.image, bytes);
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
