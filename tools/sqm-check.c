/* sqm-check: converts cases (directories with config.json, model.safetensors, expected.safetensors and
   meta.json), runs them and compares with what the reference library computed.
   Build: cc -O2 tools/sqm-check.c tools/convert.c -o sqm-check -lm                                         */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "convert_api.h"
#include "conv_safetensors.h"
#include "eval_common.h"

static const char help[] =
    "usage: sqm-check [options] CASE...\n"
    "\n"
    "Prints \"PASS|FAIL|SKIP name max_abs_err tolerance\" for each case and a line that counts them.\n"
    "SKIP: no mapping for the architecture. The tolerance is factor * max(noise_f32 of the case,\n"
    "1e-6 * max|expected|); the tokens of the greedy continuation must be equal.\n"
    "  --factor F    default 20\n"
    "  --split N     feed N tokens a call, continue from the state; default: everything in one call\n"
    "  --threads N   --isa scalar|avx2|avx512|neon   --kv f32|f16|q8|q4\n"
    "  --fast        quantised products may round activations (default: exact)\n"
    "  -t TYPE       f32 f16 bf16 q8 q4 keep: convert to this type\n"
    "  --model FILE  convert this checkpoint instead of the case's own, e.g. a GGUF file of it\n"
    "  --legacy      use config.legacy.json; cases without one are left out\n"
    "  --hash        also print a hash of all logits, for comparing runs bit by bit\n"
    "  --table       instead: for f32, q8 and q4 the bytes of the weights, the logits' error (root of the "
      "sum\n"
    "                of squares over that of the expected ones, all prompts) and the share of rows whose\n"
    "                largest logit is the expected one, as a table; then also q8 and q4 with --fast\n"
    "Exit status: 0 all passed, 1 some did not, 2 wrong usage.\n";

typedef struct check_options {
    double             factor;
    int32_t            split, legacy, hash, table;
    const char        *model;
    conv_target        target;
    sqm_session_config session;
} check_options;

typedef struct check_case {           /* one case while it runs                                             */
    const check_options *o;
    conv_env     env;                 /* of the expected values                                             */
    conv_source  expected;
    double       noise;
    sqm_session *session;
    int32_t      vocab;
    /* of the tensor with the largest error / tolerance */
    double       worst_error, worst_tolerance;
    double       squares, differences;  /* sums over all values: expected^2, (got - expected)^2 */
    int64_t      rows, same;            /* rows compared, and those with the expected largest value */
    uint64_t     bytes;                 /* of the weights                                                   */
    uint64_t     hash;
    char         why[300];
} check_case;

/* ---- expected values ----------------------------------------------------------------------------------- */
static int check_fail(check_case *k, const char *what, const char *detail)
{
    if (!k->why[0]) snprintf(k->why, sizeof k->why, "%s%.250s", what, detail);
    return 0;
}

/* All values of an expected tensor as float32 or int32 in the arena; *n: how many. NULL: there is none.    */
static const void *check_expected(check_case *k, const char *name, conv_type type, int64_t *n)
{
    const conv_tensor *t = conv_source_find(&k->expected, name);
    const uint8_t *data;
    uint8_t *copy;
    *n = 0;
    if (!t || t->type != type || t->ndim < 1) return NULL;
    *n = 1;
    for (int32_t i = 0; i < t->ndim; i++) *n *= t->shape[i];
    data = conv_tensor_data(&k->expected, t);
    copy = (uint8_t *)conv_alloc(&k->env, (uint64_t)*n, 4);
    if (!data || !copy) return NULL;
    memcpy(copy, data, (size_t)*n * 4);
    return copy;
}

/* The tool's hash is over the bits of the results: FNV-1a by words.                                        */
static void check_hash(check_case *k, const float *values, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], 4);
        k->hash = (k->hash ^ bits) * 1099511628211u;
    }
}

/* Compares rows of `got`, chosen by rows [n_rows] (NULL: in order), with the expected [n_rows, vocab].     */
static void check_compare(check_case *k, const float *got, const float *want, const int32_t *rows,
                          int64_t n_rows)
{
    double error = 0.0, largest = 0.0, tolerance;
    for (int64_t r = 0; r < n_rows; r++) {
        const float *a = got + (rows ? rows[r] : r) * (int64_t)k->vocab, *b = want + r * k->vocab;
        int32_t best_a = 0, best_b = 0;
        for (int32_t i = 0; i < k->vocab; i++) {
            const double difference = fabs((double)a[i] - (double)b[i]);
            if (a[i] > a[best_a]) best_a = i;
            if (b[i] > b[best_b]) best_b = i;
            k->squares += (double)b[i] * (double)b[i];
            k->differences += difference * difference;
            if (!(difference <= error)) error = difference == difference ? difference : HUGE_VAL;
            if (fabs((double)b[i]) > largest) largest = fabs((double)b[i]);
        }
        k->rows++;
        k->same += best_a == best_b;
    }
    tolerance = k->o->factor * (k->noise > 1e-6 * largest ? k->noise : 1e-6 * largest);
    if (k->worst_tolerance == 0.0 || error * k->worst_tolerance > k->worst_error * tolerance) {
        k->worst_error = error;
        k->worst_tolerance = tolerance;
    }
}

/* Feeds tokens [n] in pieces of `split` (0: all at once); logits [n, vocab] after each of them.            */
static sqm_result check_pieces(sqm_session *s, const int32_t *tokens, int32_t n, int32_t split, int32_t vocab,
                               float *logits)
{
    const int32_t step = split > 0 ? split : n;
    for (int32_t i = 0; i < n; i += step) {
        const int32_t m = n - i < step ? n - i : step;
        const sqm_result r = sqm_feed_all(s, 0, tokens + i, m, logits + (size_t)i * (size_t)vocab);
        if (r != SQM_OK) return r;
    }
    return SQM_OK;
}

/* ---- running ------------------------------------------------------------------------------------------- */
static int check_feed(check_case *k, const int32_t *ids, int64_t n, float *logits)
{
    sqm_result r = sqm_reset(k->session, 0);
    if (r == SQM_OK) r = check_pieces(k->session, ids, (int32_t)n, k->o->split, k->vocab, logits);
    if (r != SQM_OK) return check_fail(k, "", sqm_session_error(k->session)->text);
    return 1;
}

/* Logits after every token of prompt `tag`; the expected file may hold only some rows of them.             */
static int check_prompt(check_case *k, const char *tag)
{
    int64_t n, n_want, n_rows;
    const int32_t *ids = (const int32_t *)check_expected(k, conv_format(&k->env, "ids_%s", tag), CONV_I32,
                                                         &n);
    const float *want = (const float *)check_expected(k, conv_format(&k->env, "logits_%s", tag), CONV_F32,
                                                      &n_want);
    const int32_t *rows = (const int32_t *)check_expected(k, conv_format(&k->env, "rows_%s", tag), CONV_I32,
                                                          &n_rows);
    float *logits;
    if (!ids || !want) return check_fail(k, "no expected values for prompt ", tag);
    if (!rows) n_rows = n;
    if (n < 1 || n_want != n_rows * k->vocab)
        return check_fail(k, "the expected logits have another vocabulary: prompt ", tag);
    for (int64_t i = 0; rows && i < n_rows; i++) {
        if (rows[i] < 0 || rows[i] >= n) return check_fail(k, "row numbers are out of range: prompt ", tag);
    }
    logits = (float *)conv_alloc(&k->env, (uint64_t)(n * k->vocab), sizeof *logits);
    if (!logits) return check_fail(k, "", k->env.error);
    if (!check_feed(k, ids, n, logits)) return 0;
    check_hash(k, logits, n * k->vocab);
    check_compare(k, logits, want, rows, n_rows);
    return 1;
}

/* Logits before token number `step` of the continuation, in row: by starting over (the length of the whole
   text may change rotary positions), or from the state when --split asks for pieces.                       */
static int check_step(check_case *k, const int32_t *text, int64_t n, int64_t step, float *logits,
                      const float **row)
{
    const int again = k->o->split == 0 || step == 0;
    if (again ? !check_feed(k, text, n, logits) : sqm_feed(k->session, 0, text + n - 1, 1) != SQM_OK)
        return check_fail(k, "", sqm_session_error(k->session)->text);
    *row = again ? logits + (n - 1) * k->vocab : sqm_logits(k->session, 0);
    return *row ? 1 : check_fail(k, "no logits", "");
}

static int check_greedy(check_case *k)
{
    int64_t n, n_more, n_want;
    const int32_t *ids = (const int32_t *)check_expected(k, "ids_37", CONV_I32, &n);
    const int32_t *more = (const int32_t *)check_expected(k, "greedy_37", CONV_I32, &n_more);
    const float *want = (const float *)check_expected(k, "greedy_logits_37", CONV_F32, &n_want);
    int32_t *text = (int32_t *)conv_alloc(&k->env, (uint64_t)(n + n_more), sizeof *text);
    float *logits = (float *)conv_alloc(&k->env, (uint64_t)((n + n_more) * k->vocab), sizeof *logits);
    char detail[80];
    if (!ids || !more || !want || n_want != n_more * k->vocab)
        return check_fail(k, "no expected greedy continuation", "");
    if (!text || !logits) return check_fail(k, "", k->env.error);
    memcpy(text, ids, (size_t)n * sizeof *text);
    for (int64_t i = 0; i < n_more; i++) {
        const float *row = NULL;
        int32_t best = 0;
        if (!check_step(k, text, n + i, i, logits, &row)) return 0;
        check_compare(k, row, want + i * k->vocab, NULL, 1);
        check_hash(k, row, k->vocab);
        for (int32_t j = 1; j < k->vocab; j++) {
            if (row[j] > row[best]) best = j;
        }
        snprintf(detail, sizeof detail, "%d is %d, expected %d", (int)i, (int)best, (int)more[i]);
        if (best != more[i]) return check_fail(k, "greedy token ", detail);
        text[n + i] = best;
    }
    return 1;
}

static int check_run(check_case *k, const sqm_model *m)
{
    sqm_model_info info;
    sqm_error err;
    int ok;
    sqm_model_get_info(m, &info);
    k->vocab = info.vocab_size;
    k->bytes = info.weight_bytes;
    if (k->vocab < 1) return check_fail(k, "the model has no head", "");
    k->session = sqm_session_create(m, &k->o->session, &err);
    if (!k->session) return check_fail(k, "", err.text);
    ok = check_prompt(k, "1") && check_prompt(k, "37") && check_prompt(k, "150") &&
         (k->o->table || check_greedy(k));
    sqm_session_free(k->session);
    return ok && k->worst_error <= k->worst_tolerance;
}

/* ---- a case -------------------------------------------------------------------------------------------- */
static const char *check_temporary(conv_env *env)
{
    const char *directory = getenv("TMPDIR");
    unsigned long id = 0;
#if CONV_HAVE_MMAP
    id = (unsigned long)getpid();
#endif
    return conv_format(env, "%s/sqm-check-%lu.sqm", directory && *directory ? directory : "/tmp", id);
}

static int check_read_expected(check_case *k, const char *path)
{
    json_doc meta;
    const char *file = conv_join_path(&k->env, path, "meta.json");
    k->expected.env = &k->env;
    if (!conv_read_safetensors(&k->expected, conv_join_path(&k->env, path, "expected.safetensors")))
        return check_fail(k, "", k->env.error);
    if (!json_read_file(&meta, file)) return check_fail(k, "meta.json: ", meta.error);
    k->noise = json_number(json_get(meta.root, "noise_f32"), 0.0);
    json_free(&meta);
    return 1;
}

typedef enum check_result { CHECK_PASS, CHECK_FAIL, CHECK_SKIP, CHECK_LEFT_OUT } check_result;

static check_result check_convert_and_run(check_case *k, const char *path)
{
    const char *temporary = check_temporary(&k->env);
    convert_options options;
    convert_report report;
    sqm_model *m;
    sqm_error err;
    int ok;
    memset(&options, 0, sizeof options);
    options.target = k->o->target;
    if (k->o->legacy) {
        options.config = conv_join_path(&k->env, path, "config.legacy.json");
        if (!conv_file_exists(options.config)) return CHECK_LEFT_OUT;
    }
    if (!convert_checkpoint(k->o->model ? k->o->model : path, temporary, &options, &report)) {
        /* the list of known ones */
        if (report.unknown && strchr(report.error, ';')) *strchr(report.error, ';') = 0;
        check_fail(k, "", report.error);
        return report.unknown ? CHECK_SKIP : CHECK_FAIL;
    }
    m = sqm_load_file(temporary, NULL, &err);
    remove(temporary);
    if (!m) { check_fail(k, "", err.text); return CHECK_FAIL; }
    ok = check_read_expected(k, path) && check_run(k, m);
    sqm_model_free(m);
    return ok ? CHECK_PASS : CHECK_FAIL;
}

static check_result check_one(const check_options *o, const char *path)
{
    static const char *const words[] = { "PASS", "FAIL", "SKIP" };
    check_case k;
    check_result r;
    char name[200];
    size_t n;
    memset(&k, 0, sizeof k);
    conv_env_open(&k.env);
    k.o = o;
    k.hash = 14695981039346656037u;
    r = check_convert_and_run(&k, path);
    snprintf(name, sizeof name, "%s", path);
    for (n = strlen(name); n > 1 && name[n - 1] == '/'; n--) name[n - 1] = 0;
    if (r != CHECK_LEFT_OUT) {
        printf("%s %s %.3g %.3g", words[r], conv_base_name(name), k.worst_error, k.worst_tolerance);
        if (o->hash && r != CHECK_SKIP) printf(" hash=%016llx", (unsigned long long)k.hash);
        printf("%s%s\n", k.why[0] ? "  # " : "", k.why);
        fflush(stdout);
    }
    conv_source_close(&k.expected);
    conv_env_close(&k.env);
    return r;
}

/* ---- quantised weights --------------------------------------------------------------------------------- */
/* A row of the table: types, then q8 and q4 with activations rounded as well */
static check_result check_table_row(const check_options *from, const char *path)
{
    static const conv_target targets[] = { CONV_TO_F32, CONV_TO_Q8, CONV_TO_Q4, CONV_TO_Q8, CONV_TO_Q4 };
    uint64_t whole = 1;
    for (int i = 0; i < 5; i++) {
        check_options o = *from;
        check_case k;
        check_result r;
        o.target = targets[i];
        o.session.precision = i > 2 ? SQM_FAST : SQM_EXACT;
        memset(&k, 0, sizeof k);
        conv_env_open(&k.env);
        k.o = &o;
        r = check_convert_and_run(&k, path);
        if (i == 0) printf("| %s |", conv_base_name(path));
        if (i == 0) whole = k.bytes ? k.bytes : 1;
        if (r == CHECK_SKIP || k.rows == 0) printf(" %s\n", k.why[0] ? k.why : "does not run");
        else if (i == 0) printf(" %.0f | %.1e |", (double)k.bytes / 1024.0, sqrt(k.differences / k.squares));
        else if (i < 3)
            printf(" %.0f %% | %.2f %% | %.0f %% |", 100.0 * (double)k.bytes / (double)whole,
                   100.0 * sqrt(k.differences / k.squares), 100.0 * (double)k.same / (double)k.rows);
        else printf(" %.2f %% |%s", 100.0 * sqrt(k.differences / k.squares), i == 4 ? "\n" : "");
        conv_source_close(&k.expected);
        conv_env_close(&k.env);
        if (r == CHECK_SKIP || k.rows == 0) return CHECK_FAIL;
    }
    return CHECK_PASS;
}
static check_result check_table(const check_options *o, const char *path, int first)
{
    if (first)
        printf("| case | f32, KiB | error | q8, size | error | same best | q4, size | error | same best | "
               "q8 fast, error | q4 fast, error |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
    return check_table_row(o, path);
}

/* ---- command line -------------------------------------------------------------------------------------- */
static int parse_value(check_options *o, const char *key, const char *value)
{
    if (strcmp(key, "--model") == 0) return (o->model = value) != NULL;
    if (strcmp(key, "--factor") == 0) return (o->factor = strtod(value, NULL)) > 0.0;
    if (strcmp(key, "--split") == 0) return eval_parse_int(value, 0, 1 << 30, &o->split);
    if (strcmp(key, "--threads") == 0) return eval_parse_int(value, 1, 1024, &o->session.threads);
    if (strcmp(key, "--isa") == 0) return eval_parse_isa(value, &o->session.isa);
    if (strcmp(key, "--kv") == 0) return eval_parse_kv(value, &o->session.kv);
    return strcmp(key, "-t") == 0 && convert_parse_target(value, &o->target);
}

/* 1: read; 0: not a flag.                                                                                  */
static int parse_flag(check_options *o, const char *key)
{
    if (strcmp(key, "--legacy") == 0) o->legacy = 1;
    else if (strcmp(key, "--hash") == 0) o->hash = 1;
    else if (strcmp(key, "--table") == 0) o->table = 1;
    else if (strcmp(key, "--fast") == 0) o->session.precision = SQM_FAST;
    else return 0;
    return 1;
}

int main(int argc, char **argv)
{
    check_options o;
    int counts[4] = { 0, 0, 0, 0 }, cases = 0, done = 0;
    memset(&o, 0, sizeof o);
    o.factor = 20.0;
    o.target = CONV_KEEP;
    o.session.precision = SQM_EXACT;
    for (int pass = 0; pass < 2; pass++) {             /* options may stand anywhere                        */
        for (int i = 1; i < argc; i++) {
            if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
                fputs(help, stdout);
                return 0;
            }
            if (argv[i][0] != '-') {
                if (pass && o.table) counts[check_table(&o, argv[i], done++ == 0)]++;
                else if (pass) counts[check_one(&o, argv[i])]++;
                else cases++;
                continue;
            }
            if (parse_flag(&o, argv[i])) continue;
            if (i + 1 < argc && parse_value(&o, argv[i], argv[i + 1])) { i++; continue; }
            fprintf(stderr, "sqm-check: option %s is not known or its value is wrong; --help says more\n",
                    argv[i]);
            return 2;
        }
        if (cases == 0) { fputs(help, stderr); return 2; }
    }
    if (o.table) return counts[CHECK_FAIL] > 0;
    printf("%d passed, %d failed, %d skipped\n", counts[CHECK_PASS], counts[CHECK_FAIL], counts[CHECK_SKIP]);
    return counts[CHECK_FAIL] + counts[CHECK_SKIP] > 0;
}
