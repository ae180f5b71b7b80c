/* sqm-info: says what is in a weight file, and how much memory running it takes.
   Build: cc -O2 tools/sqm-info.c -o sqm-info -lm                                                          */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "eval_common.h"
#include "target_types.h"

static const char help[] =
    "usage: sqm-info FILE.sqm [options]\n"
    "\n"
    "Prints notes, sizes, tokenizer, exact memory of a session and the recipe of a weight file.\n"
    "--tensors       also every tensor: name, type, shape, offset, bytes\n"
    "--recipe        only the recipe\n"
    "--meta KEY      only the note of that name, as it is (for example chat_template)\n"
    "--verify        only check: every offset and size, all checksums, no name twice\n"
    "\n"
    "Memory of a session is printed for the defaults and, if one of these is given, for\n"
    "-c N            tokens a sequence may reach\n"
    "-b N            rows computed at once\n"
    "-s N            sequences\n"
    "--threads N\n"
    "--kv f32|f16|q8|q4 type of attention caches\n"
    "--exact         with SQM_EXACT\n"
    "--target T      only the memory on that machine, exact, as macros of a C header: MODEL_BYTES for\n"
    "                sqm_open, SESSION_BYTES for sqm_session_init. T: cortex-m..., rv32 or host. One\n"
    "                thread, unless --threads says otherwise\n"
    "\n"
    "Exit status: 0 fine, 1 the file is damaged or cannot be run by this version, 2 wrong usage.\n";

typedef struct info_options {
    const char        *path, *meta, *target;
    int                tensors, recipe, verify, custom;
    sqm_session_config config;
} info_options;

/* ---- printing ------------------------------------------------------------------------------------------ */
/* 1234567 as "1,234,567"; dst [32]. */
static const char *grouped(char *dst, uint64_t v)
{
    char digits[24];
    const int n = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)v);
    int used = 0;
    for (int i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0) dst[used++] = ',';
        dst[used++] = digits[i];
    }
    dst[used] = 0;
    return dst;
}

/* Text on one line: control characters become blanks, long ones are cut and say how long they are. */
static void print_short(const char *text)
{
    const size_t n = strlen(text), room = 80;
    for (size_t i = 0; i < n && i < room; i++) {
        const unsigned char c = (unsigned char)text[i];
        putchar(c < 32 || c == 127 ? ' ' : c);
    }
    if (n > room) printf(" ... (%lu bytes)", (unsigned long)n);
    putchar('\n');
}

/* Text as it is, except for control characters other than tab and newline, which could upset a terminal. */
static void print_whole(const char *text)
{
    for (; *text; text++) {
        const unsigned char c = (unsigned char)*text;
        putchar((c < 32 && c != '\n' && c != '\t') || c == 127 ? '?' : c);
    }
    putchar('\n');
}

static void print_file(const sqm__file *f, const char *path)
{
    char bytes[32];
    const sqm__file_header *h = (const sqm__file_header *)(const void *)f->image;
    printf("file           %s\n", path);
    printf("size           %s bytes, format %d.%d\n", grouped(bytes, f->bytes), h->major, h->minor);
    for (int32_t i = 0; i < f->n_meta; i++) {
        printf("%-14s ", sqm__file_text(f, f->meta[i].key));
        print_short(sqm__file_text(f, f->meta[i].value));
    }
}

static uint64_t count_values(const sqm__file_tensor *t)        /* cannot wrap: opening checked the bytes */
{
    return (uint64_t)t->shape[0] * (uint64_t)t->shape[1] * (uint64_t)t->shape[2] * (uint64_t)t->shape[3];
}

/* One line for each element type. */
static void print_weights(const sqm__file *f)
{
    uint64_t all = 0, all_bytes = 0;
    char a[32], b[32];
    for (size_t d = 0; d < sizeof(sqm__dtypes) / sizeof(sqm__dtypes[0]); d++) {
        uint64_t values = 0, bytes = 0;
        int32_t n = 0;
        for (int32_t i = 0; i < f->n_tensors; i++) {
            if (f->tensors[i].dtype != sqm__dtypes[d].dtype) continue;
            n++;
            values += count_values(&f->tensors[i]);
            bytes += f->tensors[i].bytes;
        }
        if (n) {
            printf("weights        %-4s  %6d tensors  %15s values  %15s bytes\n", sqm__dtypes[d].name, (int)n,
                   grouped(a, values), grouped(b, bytes));
        }
        all += values;
        all_bytes += bytes;
    }
    printf("weights        all   %6d tensors  %15s values  %15s bytes\n", (int)f->n_tensors, grouped(a, all),
           grouped(b, all_bytes));
}

static void print_tensors(const sqm__file *f)
{
    for (int32_t i = 0; i < f->n_tensors; i++) {
        const sqm__file_tensor *t = &f->tensors[i];
        char shape[64];
        int used = 0;
        for (int d = 0; d < t->ndim; d++) {
            used += snprintf(shape + used, sizeof(shape) - (size_t)used, d ? ",%d" : "[%d", (int)t->shape[d]);
        }
        printf("tensor  %-40s %-4s %-6s %s]  at %llu, %llu bytes\n", sqm__file_text(f, t->name),
               sqm_dtype_name((sqm_dtype)t->dtype), t->layout == SQM_PANELS ? "panels" : "rows", shape,
               (unsigned long long)t->offset, (unsigned long long)t->bytes);
    }
}

static int print_recipe(const sqm__file *f)
{
    for (int32_t i = 0; i < f->n_ops; i++) {
        const size_t n = sqm__op_text(f, i, NULL, 0);
        char *line = (char *)malloc(n + 1);
        if (!line) {
            fprintf(stderr, "sqm-info: no memory for op %d\n", (int)i);
            return 1;
        }
        (void)sqm__op_text(f, i, line, n + 1);
        puts(line);
        free(line);
    }
    return 0;
}

/* ---- what the runtime makes of it ---------------------------------------------------------------------- */
static void print_model(const sqm_model *m, const sqm__file *f)
{
    char parameters[32];
    sqm_model_info info;
    sqm_model_get_info(m, &info);
    printf("model          dim %d, vocabulary %d, context ", (int)info.dim, (int)info.vocab_size);
    if (info.max_context) printf("%d", (int)info.max_context); else printf("unlimited");
    printf(", %s parameters, %d ops\n", grouped(parameters, info.parameters), (int)info.n_ops);
    for (int32_t i = 0; i < f->n_ops; i++) {           /* each mixer's name where it first appears */
        int32_t n = 0, seen = 0;
        if (!f->ops[i].mixer) continue;
        for (int32_t k = 0; k < f->n_ops; k++) {
            if (f->ops[k].mixer != f->ops[i].mixer) continue;
            n++;
            if (k < i) seen = 1;
        }
        if (!seen) printf("mixers         %d x %s\n", (int)n, sqm__file_text(f, f->ops[i].mixer));
    }
}

static void print_quoted(const char *text, int32_t n)
{
    printf(" \"");
    for (int32_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)text[i];
        if (c == '\n') printf("\\n"); else putchar(c < 32 || c == 127 ? '?' : c);
    }
    printf("\"");
}

static void print_tokenizer(const sqm_model *m)
{
    static const char *const roles[] = { "bos", "eos", "unk", "pad" };
    if (!m->has_tok) {
        printf("tokenizer      none\n");
        return;
    }
    printf("tokenizer      %d tokens", (int)sqm__tok_count(&m->tok));
    for (int i = 0; i < 4; i++) {
        char text[64];
        const int32_t id = sqm_token_find(m, roles[i]);
        if (id < 0) continue;
        const int32_t n = sqm_token_text(m, id, 1, text, (int32_t)sizeof(text));
        printf(", %s %d", roles[i], (int)id);
        if (n > 0 && n <= (int32_t)sizeof(text)) print_quoted(text, n);
    }
    printf("\n");
}

/* Prints the exact size of a session; 0: it cannot exist. */
static int print_session(const sqm_model *m, const sqm_session_config *c, const char *what)
{
    char bytes[32];
    sqm_error err;
    const size_t size = sqm_session_size(m, c, &err);
    if (!size) {
        fprintf(stderr, "sqm-info: session: %s\n", err.text);
        return 0;
    }
    printf("memory         session (%s) %s bytes\n", what, grouped(bytes, size));
    return 1;
}

static int print_memory(const sqm_model *m, const sqm__file *f, const info_options *o)
{
    char bytes[32], what[120];
    sqm_open_options open_options;
    memset(&open_options, 0, sizeof(open_options));
    open_options.mixers = sqm_all_mixers();
    open_options.ops = sqm_all_ops();
    printf("memory         model %s bytes besides the file\n",
           grouped(bytes, sqm_open_size(f->image, f->bytes, &open_options, NULL)));
    if (!print_session(m, NULL, "defaults")) return 1;
    if (!o->custom) return 0;
    int used = 0;
    const int32_t numbers[4] = { o->config.max_context, o->config.max_batch, o->config.n_sequences,
                                 o->config.threads };
    static const char *const names[4] = { "context", "batch", "sequences", "threads" };
    for (int i = 0; i < 4; i++) {
        if (!numbers[i]) continue;
        used += snprintf(what + used, sizeof(what) - (size_t)used, "%s %d, ", names[i], (int)numbers[i]);
    }
    snprintf(what + used, sizeof(what) - (size_t)used, "kv %s%s", eval_kv_names[o->config.kv],
             o->config.precision == SQM_EXACT ? ", exact" : "");
    return !print_session(m, &o->config, what);
}

/* ---- memory of other machines -------------------------------------------------------------------------- */
enum { MAX_TARGET_SIZES = 100 };
static const struct { const char *name; uint32_t sizes[MAX_TARGET_SIZES]; } targets[] = {
#include "target_sizes.h"
};

/* "cortex-m7" is a "cortex-m" */
static const uint32_t *find_target(const char *name)
{
    for (size_t i = 0; i < sizeof(targets) / sizeof(targets[0]); i++)
        if (strncmp(name, targets[i].name, strlen(targets[i].name)) == 0) return targets[i].sizes;
    return NULL;
}

/* Prints the exact sizes of model and session as macros; returns the exit status. */
static int print_target(const sqm__file *f, const info_options *o)
{
#define COUNT(type) 1 +
#define BOUND(mixer, type) { #mixer, 0 },
    enum { N_MODEL = TARGET_MODEL_TYPES(COUNT) 0, N_SESSION = TARGET_SESSION_TYPES(COUNT) 0 };
    sqm__bound_size bound[] = { TARGET_MIXERS(BOUND) { NULL, 0 } };
    const uint32_t *s = find_target(o->target), *t = s + N_MODEL, *b = t + N_SESSION;
    sqm__model_sizes model = { s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], bound };
    const sqm__session_sizes session = { t[0], t[1], t[2], t[3] };
    sqm_session_config config = o->config;
    sqm_open_options all;
    sqm_error err;
    size_t model_bytes, bare_bytes, session_bytes, n = 0;
    sqm_model *m = sqm_load_memory(f->image, f->bytes, NULL, &err);
    for (; bound[n].mixer; n++) bound[n].bytes = b[n];
    memset(&all, 0, sizeof(all));
    all.mixers = sqm_all_mixers();
    all.ops = sqm_all_ops();
    if (config.threads == 0) config.threads = 1;
    model_bytes = m ? sqm__model_size(f->image, f->bytes, &all, &model, &err) : 0;
    model.model = b[n];                 /* without a tokenizer */
    bare_bytes = m ? sqm__model_size(f->image, f->bytes, &all, &model, &err) : 0;
    session_bytes = model_bytes ? sqm__session_size(m, &config, &session, &err) : 0;
    if (session_bytes)
        printf("#ifdef SEQMODEL_NO_TOKENIZER\n#  define MODEL_BYTES %lu\n#else\n#  define MODEL_BYTES %lu\n"
               "#endif\n#define SESSION_BYTES %lu\n", (unsigned long)bare_bytes, (unsigned long)model_bytes,
               (unsigned long)session_bytes);
    else fprintf(stderr, "sqm-info: %s: %s\n", o->path, err.text);
    sqm_model_free(m);
    return session_bytes == 0;
#undef COUNT
#undef BOUND
}

/* ---- verification -------------------------------------------------------------------------------------- */
static int compare_hashes(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* A tensor whose name an earlier one has; -1: none; -2: no memory. Sorts by hash, compares equal ones. */
static int32_t find_duplicate(const sqm__file *f)
{
    const size_t n = (size_t)f->n_tensors;
    uint64_t *keys = (uint64_t *)malloc((n + 1) * sizeof(uint64_t));
    int32_t found = -1;
    if (!keys) return -2;
    for (size_t i = 0; i < n; i++) keys[i] = (uint64_t)f->tensors[i].name_hash << 32 | i;
    qsort(keys, n, sizeof(uint64_t), compare_hashes);
    for (size_t i = 1; i < n && found < 0; i++) {
        for (size_t k = i; k > 0 && keys[k - 1] >> 32 == keys[i] >> 32 && found < 0; k--) {
            const char *a = sqm__file_text(f, f->tensors[(uint32_t)keys[i]].name);
            const char *b = sqm__file_text(f, f->tensors[(uint32_t)keys[k - 1]].name);
            if (strcmp(a, b) == 0) found = (int32_t)(uint32_t)keys[i];
        }
    }
    free(keys);
    return found;
}

static int verify(const sqm__file *f, const char *path)
{
    sqm__file again;
    sqm_error err;
    int32_t unchecked = 0;
    if (sqm__file_open(&again, f->image, f->bytes, SQM_OPEN_VERIFY, &err) != SQM_OK) {
        fprintf(stderr, "sqm-info: %s: %s\n", path, err.text);
        return 1;
    }
    const int32_t twice = find_duplicate(f);
    if (twice != -1) {
        fprintf(stderr, "sqm-info: %s: %s%s\n", path,
                twice < 0 ? "no memory to compare names" : "two tensors named ",
                twice < 0 ? "" : sqm__file_text(f, f->tensors[twice].name));
        return 1;
    }
    for (int32_t i = 0; i < f->n_tensors; i++) unchecked += f->tensors[i].crc == 0;
    printf("%s: index and %d tensors are as they were written\n", path, (int)(f->n_tensors - unchecked));
    if (unchecked) printf("%s: %d tensors have no checksum\n", path, (int)unchecked);
    return 0;
}

/* ---- main ---------------------------------------------------------------------------------------------- */
static int print_all(const sqm__file *f, const info_options *o)
{
    sqm_error err;
    int status = 0;
    print_file(f, o->path);
    print_weights(f);
    sqm_model *m = sqm_load_memory(f->image, f->bytes, NULL, &err);
    if (m) {
        print_model(m, f);
        print_tokenizer(m);
        status = print_memory(m, f, o);
        sqm_model_free(m);
    } else {
        fprintf(stderr, "sqm-info: %s: cannot be run: %s\n", o->path, err.text);
        status = 1;
    }
    if (o->tensors) print_tensors(f);
    printf("recipe\n");
    return print_recipe(f) ? 1 : status;
}

static int show(const info_options *o)
{
    sqm__file f;
    sqm_error err;
    size_t bytes;
    int status = 0;
    void *image = sqm__map_file(o->path, &bytes, &err);
    if (!image) {
        fprintf(stderr, "sqm-info: %s\n", err.text);
        return 1;
    }
    if (sqm__file_open(&f, image, bytes, 0, &err) != SQM_OK) {
        fprintf(stderr, "sqm-info: %s: %s\n", o->path, err.text);
        status = 1;
    } else if (o->target) {
        status = print_target(&f, o);
    } else if (o->verify) {
        status = verify(&f, o->path);
    } else if (o->meta) {
        const char *value = sqm__file_find_meta(&f, o->meta);
        if (value) print_whole(value);
        else fprintf(stderr, "sqm-info: %s has no note '%s'\n", o->path, o->meta);
        status = value == NULL;
    } else {
        status = o->recipe ? print_recipe(&f) : print_all(&f, o);
    }
    sqm__unmap_file(image, bytes);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "sqm-info: cannot write the output\n");
        return 1;
    }
    return status;
}

static int parse(info_options *o, int argc, char **argv)
{
    memset(o, 0, sizeof(*o));
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        int32_t *number = strcmp(a, "-c") == 0 ? &o->config.max_context :
                          strcmp(a, "-b") == 0 ? &o->config.max_batch :
                          strcmp(a, "-s") == 0 ? &o->config.n_sequences :
                          strcmp(a, "--threads") == 0 ? &o->config.threads : NULL;
        if (number) {
            if (!value || !eval_parse_int(value, 1, INT32_MAX, number)) {
                fprintf(stderr, "sqm-info: %s needs a positive number\n", a);
                return 0;
            }
            o->custom = 1;
            i++;
        } else if (strcmp(a, "--kv") == 0) {
            if (!value || !eval_parse_kv(value, &o->config.kv)) {
                fprintf(stderr, "sqm-info: --kv needs f32, f16, q8 or q4\n");
                return 0;
            }
            o->custom = 1;
            i++;
        } else if (strcmp(a, "--meta") == 0) {
            if (!value) { fprintf(stderr, "sqm-info: --meta needs the name of a note\n"); return 0; }
            o->meta = value;
            i++;
        } else if (strcmp(a, "--target") == 0) {
            if (!value || !find_target(value)) {
                fprintf(stderr, "sqm-info: --target needs cortex-m..., rv32 or host\n");
                return 0;
            }
            o->target = value;
            i++;
        } else if (strcmp(a, "--exact") == 0) {
            o->config.precision = SQM_EXACT;
            o->custom = 1;
        } else if (strcmp(a, "--tensors") == 0) { o->tensors = 1;
        } else if (strcmp(a, "--recipe") == 0) { o->recipe = 1;
        } else if (strcmp(a, "--verify") == 0) { o->verify = 1;
        } else if (a[0] == '-' || o->path) {
            fprintf(stderr, "sqm-info: unexpected '%s'; see sqm-info --help\n", a);
            return 0;
        } else { o->path = a; }
    }
    if (!o->path) fprintf(stderr, "%s", help);
    return o->path != NULL;
}

int main(int argc, char **argv)
{
    info_options o;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(help, stdout);
            return 0;
        }
    }
    return parse(&o, argc, argv) ? show(&o) : 2;
}
