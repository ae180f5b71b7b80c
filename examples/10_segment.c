/* Shows a model that reads a whole text in both directions (a bidirectional Mamba): it labels every byte of a
   file with the language that it is written in.
   Build  cc -O2 10_segment.c -o segment -lm    (seqmodel.h is one directory up; -fopenmp: all processors)
   Model  pip download --no-deps typeseg==0.2.7 && unzip -q typeseg*.whl
          sqm-convert typeseg/data/mamba_al.npz -o typeseg.sqm
   Run    ./segment typeseg.sqm page.html [--bytes]
   Prints the parts of the file: line and column, length, label, beginning. --bytes: each byte's label. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* Long files are read in pieces of WINDOW bytes; MARGIN bytes on both sides of a piece are its context. */
enum { WINDOW = 8192, MARGIN = 1024, LONGEST = WINDOW + 2 * MARGIN, SHORT_RUN = 3 };

static void stop_if(int wrong, const char *what, const char *text)
{
    if (wrong) { fprintf(stderr, "segment: %s: %s\n", what, text); exit(1); }
}

static unsigned char *read_file(const char *path, long *n)
{
    FILE *f = fopen(path, "rb");
    stop_if(!f || fseek(f, 0, SEEK_END) != 0 || (*n = ftell(f)) < 1, path, "cannot be read, or is empty");
    rewind(f);
    unsigned char *text = (unsigned char *)malloc((size_t)*n);
    stop_if(!text || fread(text, 1, (size_t)*n, f) != (size_t)*n, path, "cannot be read");
    fclose(f);
    return text;
}

/* The model knows printable ASCII, tab, line ends, and one sign for everything else. */
static int32_t token_of(unsigned char byte)
{
    return (byte >= 32 && byte < 127) || byte == '\t' || byte == '\n' || byte == '\r' ? byte : 0xa4;
}

/* The best label of each of n bytes. scores [LONGEST, classes] is work memory. */
static void label_text(int32_t *label, const unsigned char *text, long n, sqm_session *s, float *scores,
                       int32_t classes)
{
    static int32_t tokens[LONGEST];
    for (long start = 0; start < n; start += WINDOW) {
        const long from = start > MARGIN ? start - MARGIN : 0, end = start + WINDOW < n ? start + WINDOW : n;
        const long to = end + MARGIN < n ? end + MARGIN : n;
        for (long i = from; i < to; i++) tokens[i - from] = token_of(text[i]);
        sqm_reset(s, 0);
        stop_if(sqm_feed_all(s, 0, tokens, (int32_t)(to - from), scores), "text", sqm_session_error(s)->text);
        for (long i = start; i < end; i++) {
            const float *row = scores + (size_t)(i - from) * (size_t)classes;
            label[i] = 0;
            for (int32_t k = 1; k < classes; k++) if (row[k] > row[label[i]]) label[i] = k;
        }
    }
}

/* White space belongs to what stands before it; very short runs join the run before them. */
static void smooth(int32_t *label, const unsigned char *text, long n)
{
    for (long i = 1; i < n; i++) if (memchr(" \t\n\r", text[i], 4)) label[i] = label[i - 1];
    for (long i = 1, end; i < n; i = end) {
        for (end = i + 1; end < n && label[end] == label[i];) end++;
        for (long k = i; end - i < SHORT_RUN && k < end; k++) label[k] = label[i - 1];
    }
}

/* Prints line k of the model's list of labels; returns how many characters that were. */
static int print_label(const char *labels, int32_t k)
{
    while (k > 0 && *labels) if (*labels++ == '\n') k--;
    return printf("%.*s", (int)strcspn(labels, "\n"), labels);
}
static void print_parts(const int32_t *label, const unsigned char *text, long n, const char *labels)
{
    long line = 1, column = 1;
    for (long i = 0, end; i < n; i = end) {
        int used = printf("%5ld:%-4ld", line, column);
        for (end = i; end < n && label[end] == label[i]; end++) {
            column = text[end] == '\n' ? 1 : column + 1;
            line += text[end] == '\n';
        }
        used += printf("%7ld  ", end - i) + print_label(labels, label[i]);
        printf("%*s", used < 42 ? 42 - used : 1, "");
        for (long k = i, shown = 0; k < end && shown < 60; k++)
            if (text[k] > ' ' || shown) shown += printf("%c", text[k] > 31 && text[k] < 127 ? text[k] : ' ');
        printf("\n");
    }
}

int main(int argc, char **argv)
{
    const int every = argc == 4 && strcmp(argv[3], "--bytes") == 0;
    sqm_session_config config;
    sqm_model_info info;
    sqm_error err;
    stop_if(argc != 3 && !every, "usage", "segment MODEL.sqm FILE [--bytes]");
    memset(&config, 0, sizeof config);
    config.max_context = config.max_batch = LONGEST;   /* the whole piece at once */
    sqm_model *model = sqm_load_file(argv[1], NULL, &err);
    sqm_session *session = model ? sqm_session_create(model, &config, &err) : NULL;
    stop_if(!session, argv[1], err.text);
    const char *labels = sqm_model_meta(model, "labels");
    stop_if(!labels, argv[1], "the model has no labels");
    long n = 0;
    sqm_model_get_info(model, &info);
    unsigned char *text = read_file(argv[2], &n);
    float *scores = (float *)malloc((size_t)LONGEST * (size_t)info.vocab_size * sizeof(float));
    int32_t *label = (int32_t *)malloc((size_t)n * sizeof(int32_t));
    stop_if(!scores || !label, argv[2], "no memory");
    label_text(label, text, n, session, scores, info.vocab_size);
    if (!every) { smooth(label, text, n); print_parts(label, text, n, labels); }
    for (long i = 0; every && i < n; i++) { print_label(labels, label[i]); printf("\n"); }
    free(scores);
    free(label);
    free(text);
    sqm_session_free(session);
    sqm_model_free(model);
    return 0;
}
