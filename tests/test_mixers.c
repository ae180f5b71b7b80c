/* test_mixers.c - what holds for every mixer. tools/MIXERS.md agrees with the code: names, keys, and sizes
   of states that its expressions give for mixers bound at several shapes. And bad configurations: every
   parameter of every mixer is bent in turn (numbers out of range, words, tensors of another shape or type,
   rows of another width); binding refuses with a message, or what it accepts runs. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "samples.h"
#include <math.h>

/* A few rows, with and without a state, if that is no matter of gigabytes */
static void rig_run(const rig *r)
{
    enum { ROWS = 4, LIMIT = 1 << 22 };
    const size_t state_bytes = r->mixer->state_bytes(r->bound, 8, ROWS, SQM_F32);
    const size_t scratch_bytes = r->mixer->scratch_bytes(r->bound, 8, ROWS, 1);
    float *in, *out;
    uint8_t *state, *scratch;
    sqm_exec x;
    if (state_bytes > LIMIT || scratch_bytes > LIMIT || r->width > 4096 || r->out > 1 << 20) return;
    in = (float *)calloc((size_t)(r->width * ROWS) + 1, sizeof(float));
    out = (float *)calloc((size_t)r->out * ROWS + 1, sizeof(float));
    state = (uint8_t *)calloc(state_bytes + 1, 1);
    scratch = (uint8_t *)calloc(scratch_bytes + state_bytes + 192, 1);
    for (int32_t i = 0; i < r->width * ROWS; i++) in[i] = values[i % 999];
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, scratch, scratch_bytes + state_bytes + 192) == SQM_OK);
    r->mixer->reset(r->bound, state, state_bytes, 8, ROWS, SQM_F32);
    for (int kept = 0; kept < 2; kept++) {
        sqm_span span = { NULL, 0, ROWS, 0, ROWS };
        if (kept && state_bytes) span.state = state;
        CHECK(r->mixer->forward(r->bound, &x, out, in, &span, 1) == SQM_OK);
    }
    free(in); free(out); free(state); free(scratch);
}

/* ---- bad configurations -------------------------------------------------------------------------------- */
/* Keys whose numbers are no counts */
static int is_real(const char *key)
{
    static const char *const reals[] = { "scale", "softcap", "eps", "key_start", "dt_min", "dt_max",
        "a_floor", "tau", "threshold", "rest", "rounded" };
    for (size_t i = 0; i < sizeof(reals) / sizeof(reals[0]); i++)
        if (strcmp(reals[i], key) == 0) return 1;
    return 0;
}
/* Binds what was bent. must: it has to be refused. word: what the message must hold, or NULL */
static void bent(rig *r, const char *what, int must, const char *word)
{
    sqm_error err;
    const sqm_result got = rig_bind(r, &err);
    const int named = !word || strstr(err.text, word);
    if (got == SQM_OK ? must : err.code != got || err.text[0] == 0 || !named)
        printf("%s, %s: %s \"%s\"\n", r->s->mixer, what, sqm_result_name(got), err.text);
    CHECK(got == SQM_OK ? !must : err.code == got && err.text[0] && named);
    if (got == SQM_OK) rig_run(r);
}
static void bend_number(const sample *s, int32_t i)
{
    const double inf = HUGE_VAL, numbers[] = { 0, -1, 0.5, 1, 2, 3, 5, 7, 64, 65535, 1e6, 2147483647.0,
        2147483648.0, 1e200, -1e200, inf, -inf, inf - inf };
    rig r;
    char what[80];
    rig_open(&r, s);
    if (r.params[i].tensors) return;
    for (size_t k = 0; k < sizeof(numbers) / sizeof(numbers[0]); k++) {
        const double v = numbers[k];
        const int whole = v >= 0 && v < 2147483647.5 && v == floor(v);
        rig_open(&r, s);
        snprintf(what, sizeof(what), "%.40s = %g", r.params[i].key, v);
        r.params[i].number = v;
        if (r.params[i].text) {
            r.params[i].text = NULL;
            bent(&r, what, 1, NULL);
        } else if (is_real(r.params[i].key)) bent(&r, what, !(v >= -1e30 && v <= 1e30), r.params[i].key);
        else bent(&r, what, !whole, whole ? NULL : r.params[i].key);
    }
    rig_open(&r, s);
    r.params[i].text = "nonsense";
    bent(&r, "a word that it does not know", 1, "nonsense");
    rig_open(&r, s);
    r.params[i].text = NULL;
    r.params[i].tensors = &r.lists[MAX_TENSORS - 1];
    r.params[i].n_tensors = 1;
    r.lists[MAX_TENSORS - 1] = &r.tensors[MAX_TENSORS - 1];
    r.tensors[MAX_TENSORS - 1] = sqm_tensor_1d(values, SQM_F32, 4);
    bent(&r, "a tensor instead of a number or word", 1, r.params[i].key);
}
static void bend_tensor(const sample *s, int32_t i)
{
    rig r;
    rig_open(&r, s);
    if (!r.params[i].tensors) return;
    for (int32_t t = 0; t < r.params[i].n_tensors; t++)
        for (int bend = 0; bend < 9; bend++) {
            const size_t at = (size_t)(r.params[i].tensors - r.lists) + (size_t)t;
            static const char *const names[] = { "no tensor", "float16", "another layout", "one row more",
                "one row less", "one column more", "one column less", "no rows", "another number of axes" };
            char what[80];
            rig_open(&r, s);
            if (!r.lists[at]) continue;
            if (bend == 0) r.lists[at] = NULL;
            if (bend == 1) r.tensors[at].dtype = SQM_F16;
            if (bend == 2) r.tensors[at].layout = r.tensors[at].layout == SQM_ROWS ? SQM_PANELS : SQM_ROWS;
            if (bend == 3) r.tensors[at].shape[0]++;
            if (bend == 4) r.tensors[at].shape[0]--;
            if (bend == 5) r.tensors[at].shape[1]++;
            if (bend == 6) r.tensors[at].shape[1]--;
            if (bend == 7) r.tensors[at].shape[0] = 0;
            if (bend == 8) r.tensors[at].ndim = r.tensors[at].ndim == 1 ? 2 : 1;
            snprintf(what, sizeof(what), "%.30s: %s", r.params[i].key, names[bend]);
            if (r.tensors[at].ndim == 1 && (bend == 5 || bend == 6)) continue;
            bent(&r, what, bend == 2 || bend == 7 || bend == 8, NULL);
        }
    rig_open(&r, s);
    r.params[i].n_tensors++;
    r.lists[MAX_TENSORS - 1] = NULL;
    bent(&r, "a tensor too many", 1, NULL);
    rig_open(&r, s);
    r.params[i].tensors = NULL;
    r.params[i].n_tensors = 0;
    bent(&r, "a number instead of a tensor", 1, NULL);
}
static void test_bent(void)
{
    static const int32_t widths[] = { 1, -1, 7, 1000, 1 << 20, (1 << 30) - 1 };
    for (size_t k = 0; k < N_SAMPLES; k++) {
        const sample *s = &samples[k];
        rig r;
        rig_open(&r, s);
        bent(&r, "as it is", 0, NULL);
        for (int32_t i = 0; i < r.n_params; i++) {
            bend_number(s, i);
            bend_tensor(s, i);
            rig_open(&r, s);
            r.params[i] = r.params[--r.n_params];
            bent(&r, "a parameter less", 0, NULL);
        }
        for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
            rig_open(&r, s);
            r.width = widths[i] < 2 ? r.width + widths[i] : widths[i];
            if (r.width > 0) bent(&r, "rows of another width", 0, NULL);
        }
    }
}

/* The configurations that the files of models get wrong, and the numbers in the messages */
static void refuses(int index, const char *key, double number, const char *text)
{
    rig r;
    sqm_error err;
    int32_t i = 0;
    rig_open(&r, &samples[index]);
    while (i < r.n_params && strcmp(r.params[i].key, key) != 0) i++;
    if (i == r.n_params) r.params[r.n_params++].key = key;
    r.params[i].number = number;
    CHECK(rig_bind(&r, &err) < 0);
    if (!strstr(err.text, text)) printf("\"%s\", expected \"%s\"\n", err.text, text);
    CHECK(strstr(err.text, text));
}
static int sample_of(const char *mixer)
{
    int i = 0;
    while (strcmp(samples[i].mixer, mixer) != 0) i++;
    return i;
}
static void test_messages(void)
{
    refuses(sample_of("ssd"), "state", 0, "state = 0 must be a whole number from 1 to 65536");
    refuses(sample_of("ssd"), "groups", 3, "4 heads do not divide into 3 groups");
    refuses(sample_of("ssd"), "dt_max", 0.0005, "dt_min = 0.001 and dt_max = 0.0005 must be 0 <= dt_min <= "
      "dt_max");
    refuses(sample_of("ssd"), "dt_min", -0.25, "dt_min = -0.25 and dt_max = 10");
    refuses(sample_of("ssd"), "head_dim", 8.5, "head_dim = 8.5 must be a whole number");
    refuses(sample_of("scan"), "groups", 3, "8 channels do not divide into 3 groups");
    refuses(sample_of("scan"), "dt_min", 1e10, "dt_min = 1e10 and dt_max = 0.5");
    refuses(sample_of("trapezoid"), "groups", 3, "4 heads do not divide into 3 groups");
    refuses(sample_of("trapezoid"), "state", 0, "state = 0");
    refuses(sample_of("linear_attention"), "k_heads", 3, "k_heads = 3 must be a whole number from 1 to 2");
    refuses(sample_of("conv"), "dilation", 0, "dilation = 0 must be a whole number from 1");
    refuses(sample_of("conv_whole"), "across", 2, "9 taps, 2 across: a centred conv needs odd sizes");
    refuses(sample_of("spike"), "tau", 0.999, "tau = 0.999 must be from 1 to 1e30");
    refuses(sample_of("attention"), "softcap", -12345678, "softcap = -1.23457e7 must not be negative");
    refuses(sample_of("attention") + 1, "sums", 2, "sums = 2");
    refuses(sample_of("attention"), "sums", 1, "sums=1 does not go with sinks");
    refuses(sample_of("window"), "size", -1e300, "size = -1e300 must be");
    refuses(sample_of("legs"), "order", 1e6, "order = 1000000 must be a whole number from 1 to 256");
}

/* ---- expressions of the page --------------------------------------------------------------------------- */
typedef struct expression {
    const rig  *r;
    const char *at, *text;              /* text: all of it, for the definitions behind semicolons */
    int64_t     context, batch;
    int         failed, depth;
} expression;
static int64_t read_sum(expression *e);

static void skip(expression *e) { while (*e->at == ' ') e->at++; }
static int take(expression *e, const char *word)
{
    skip(e);
    if (strncmp(e->at, word, strlen(word)) != 0) return 0;
    e->at += strlen(word);
    return 1;
}
static void read_word(expression *e, char word[40])
{
    int n = 0;
    skip(e);
    while (n < 39 && (*e->at == '_' || (*e->at >= 'a' && *e->at <= 'z') || (*e->at >= 'A' && *e->at <= 'Z') ||
                      (n && *e->at >= '0' && *e->at <= '9'))) word[n++] = *e->at++;
    word[n] = 0;
    if (n == 0) e->failed = 1;
}
static const sqm_param *param(const expression *e, const char *key)
{
    return sqm__param(e->r->params, e->r->n_params, key);
}
/* A function of names: rows, cols, has, is */
static int64_t read_names(expression *e, const char *function)
{
    char key[40], word[40] = "";
    const sqm_param *p;
    const sqm_tensor *t;
    read_word(e, key);
    if (take(e, ",")) read_word(e, word);
    if (!take(e, ")") || sqm__word_index(e->r->mixer->keys, key) < 0) e->failed = 1;
    p = param(e, key);
    t = p && p->tensors ? p->tensors[0] : NULL;
    if (strcmp(function, "has") == 0) return p != NULL;
    if (strcmp(function, "rows") == 0) return t ? t->shape[0] : 0;
    if (strcmp(function, "cols") == 0) return t ? t->shape[1] : 0;
    if (!p || !p->text) e->failed = 1;  /* samples say their words */
    return p && p->text && strcmp(p->text, word) == 0;
}
static int64_t read_call(expression *e, const char *name)
{
    int64_t v[3] = { 0, 0, 0 }, power = 1;
    int n = 0;
    do { if (n < 3) v[n++] = read_sum(e); } while (take(e, ","));
    if (!take(e, ")")) e->failed = 1;
    while (power < v[0]) power *= 2;
    if (strcmp(name, "pad") == 0 && n == 1) return (v[0] + 15) / 16 * 16;
    if (strcmp(name, "power") == 0 && n == 1) return power;
    if (strcmp(name, "ceil") == 0 && n == 2 && v[1]) return (v[0] + v[1] - 1) / v[1];
    if (strcmp(name, "min") == 0 && n == 2) return v[0] < v[1] ? v[0] : v[1];
    if (strcmp(name, "max") == 0 && n == 2) return v[0] > v[1] ? v[0] : v[1];
    if (strcmp(name, "if") == 0 && n == 3) return v[0] ? v[1] : v[2];
    e->failed = 1;
    return 0;
}
/* A number of the mixer or the session, or a definition behind a semicolon */
static int64_t read_name(expression *e, const char *name)
{
    const sqm_param *p = param(e, name);
    const char *back = e->at, *def;
    char start[48];
    int64_t v = 0;
    if (strcmp(name, "width") == 0) return e->r->width;
    if (strcmp(name, "out") == 0) return e->r->out;
    if (strcmp(name, "context") == 0) return e->context;
    if (strcmp(name, "batch") == 0) return e->batch;
    if (sqm__word_index(e->r->mixer->keys, name) >= 0) return p ? (int64_t)p->number : 0;
    snprintf(start, sizeof(start), "; %.39s = ", name);
    def = strstr(e->text, start);
    if (!def || e->depth > 3) { e->failed = 1; return 0; }
    e->at = def + strlen(start);
    e->depth++;
    v = read_sum(e);
    e->depth--;
    e->at = back;
    return v;
}
static int64_t read_factor(expression *e)
{
    char name[40];
    int64_t v;
    skip(e);
    if (take(e, "(")) {
        v = read_sum(e);
        if (take(e, "==")) v = v == read_sum(e);
        else if (take(e, ">")) v = v > read_sum(e);
        if (!take(e, ")")) e->failed = 1;
        return v;
    }
    if (*e->at >= '0' && *e->at <= '9') {
        for (v = 0; *e->at >= '0' && *e->at <= '9'; e->at++) v = v * 10 + *e->at - '0';
        return v;
    }
    read_word(e, name);
    if (e->failed || !take(e, "(")) return e->failed ? 0 : read_name(e, name);
    if (strcmp(name, "rows") == 0 || strcmp(name, "cols") == 0 || strcmp(name, "has") == 0 ||
        strcmp(name, "is") == 0)
        return read_names(e, name);
    return read_call(e, name);
}
static int64_t read_product(expression *e)
{
    int64_t v = read_factor(e);
    for (;;) {
        if (take(e, "*")) v *= read_factor(e);
        else if (take(e, "/")) { const int64_t by = read_factor(e); v = by ? v / by : (e->failed = 1); }
        else return v;
    }
}
static int64_t read_sum(expression *e)
{
    int64_t v = read_product(e);
    for (;;) {
        if (take(e, "+")) v += read_product(e);
        else if (take(e, "-")) v -= read_product(e);
        else return v;
    }
}
/* The value of an expression of the page; -1: not understood */
static int64_t evaluate(const rig *r, const char *text, int64_t context, int64_t batch)
{
    expression e;
    int64_t v;
    memset(&e, 0, sizeof(e));
    e.r = r;
    e.at = e.text = text;
    e.context = context;
    e.batch = batch;
    v = read_sum(&e);
    skip(&e);
    if (e.failed || (*e.at && *e.at != ';')) {
        printf("%s: cannot read \"%s\" from \"%.20s\" on\n", r->s->mixer, text, e.at);
        return -1;
    }
    return v;
}

/* ---- the page ------------------------------------------------------------------------------------------ */
static char page[1 << 16];
static void read_page(void)
{
    FILE *f = fopen("tools/MIXERS.md", "rb");
    if (!f) { printf("tools/MIXERS.md: not found; run this from the top of the source\n"); exit(77); }
    page[fread(page, 1, sizeof(page) - 1, f)] = 0;
    fclose(f);
}
/* Column `column` (from 1) of the row that begins with | `name` | after `heading`; 0: there is none */
static int cell(char *to, size_t room, const char *heading, const char *name, int column)
{
    char start[80];
    const char *at = strstr(page, heading), *end;
    snprintf(start, sizeof(start), "\n| `%.60s` |", name);
    at = at ? strstr(at, start) : NULL;
    if (!at) return 0;
    for (at++; *at && column; at++)
        if (*at == '|' && at[-1] != '\\') column--;
    for (end = at; *end && *end != '\n' && !(*end == '|' && end[-1] != '\\'); end++) {}
    while (*at == ' ') at++;
    snprintf(to, room, "%.*s", (int)(end - at), at);
    return 1;
}
/* What stands between the first pair of backquotes */
static int quoted(char *to, size_t room, const char *text)
{
    const char *at = strchr(text, '`'), *end = at ? strchr(at + 1, '`') : NULL;
    if (!end) return 0;
    snprintf(to, room, "%.*s", (int)(end - at - 1), at + 1);
    return 1;
}
/* Every key is named in backquotes and nothing else is. */
static void check_keys(const char *name, const char *keys, const char *text)
{
    char copy[600], word[80];
    snprintf(copy, sizeof(copy), "%s", keys);
    for (const char *key = strtok(copy, " "); key; key = strtok(NULL, " ")) {
        snprintf(word, sizeof(word), "`%.60s`", key);
        if (!strstr(text, word)) printf("MIXERS.md, %s: no word about %s\n", name, key);
        CHECK(strstr(text, word));
    }
    for (const char *at = strchr(text, '`'); at; at = strchr(at + 1, '`')) {
        const size_t n = strcspn(at + 1, "`");
        snprintf(word, sizeof(word), "%.*s", (int)n, at + 1);
        if (sqm__word_index(keys, word) < 0) printf("MIXERS.md, %s: has no key %s\n", name, word);
        CHECK(sqm__word_index(keys, word) >= 0);
        at += n + 1;
    }
}
static void check_sizes(const char *name)
{
    static const int32_t contexts[][2] = { { 1, 1 }, { 63, 7 }, { 64, 64 }, { 1000, 130 }, { 4097, 4097 } };
    char text[1200], state[1200], grows[1200];
    int seen = 0;
    CHECK(cell(text, sizeof(text), "## Mixers", name, 3) && quoted(state, sizeof(state), text));
    CHECK(cell(text, sizeof(text), "## Mixers", name, 4) && quoted(grows, sizeof(grows), text));
    for (size_t k = 0; k < N_SAMPLES; k++) {
        rig r;
        sqm_error err;
        if (strcmp(samples[k].mixer, name) != 0) continue;
        seen = 1;
        rig_open(&r, &samples[k]);
        if (rig_bind(&r, &err) != SQM_OK) printf("%s: %s\n", samples[k].params, err.text);
        CHECK(err.code == SQM_OK);
        if (err.code != SQM_OK) continue;
        for (size_t i = 0; i < sizeof(contexts) / sizeof(contexts[0]); i++) {
            const int32_t context = contexts[i][0], batch = contexts[i][1];
            const size_t bytes = r.mixer->state_bytes(r.bound, context, batch, SQM_F32);
            const int64_t want = (int64_t)(bytes / sizeof(float));
            const int64_t got = evaluate(&r, state, context, batch);
            if (got != want)
                printf("MIXERS.md, %s: state of %ld floats, the code has %ld (sample %s, context %d)\n", name,
                       (long)got, (long)want, samples[k].params, (int)context);
            CHECK(got == want);
        }
        {                               /* 30 is a multiple of all samples' segments */
            const int32_t many = 64 * 30 * 2;
            const size_t more = r.mixer->state_bytes(r.bound, 3 * many, 8, SQM_F32) -
                                r.mixer->state_bytes(r.bound, 2 * many, 8, SQM_F32);
            const int64_t unit = evaluate(&r, grows, many, 8);
            const int64_t exact = (int64_t)(more / sizeof(float)) / many;
            if (exact != unit) printf("MIXERS.md, %s: grows by %ld, the code by %ld\n", name, (long)unit,
                                      (long)exact);
            CHECK(exact == unit && (unit > 0) == (more > 0));
            CHECK(!more || (r.mixer->flags & SQM_MIXER_STATE_GROWS));
        }
    }
    if (!seen) printf("test_mixers.c has no sample of %s\n", name);
    CHECK(seen);
}
static int count_rows(const char *heading)
{
    const char *at = strstr(page, heading), *end = at ? strstr(at + 3, "\n## ") : NULL;
    int n = 0;
    for (at = at ? strstr(at, "\n| `") : NULL; at && (!end || at < end); at = strstr(at + 1, "\n| `")) n++;
    return n;
}
static void test_page(void)
{
    char text[1200];
    int n = 0;
    for (const sqm_mixer *const *m = sqm_all_mixers(); *m; m++, n++) {
        const int found = cell(text, sizeof(text), "## Mixers", (*m)->name, 7);
        if (!found) printf("MIXERS.md has no mixer %s\n", (*m)->name);
        CHECK(found);
        if (!found) continue;
        check_keys((*m)->name, (*m)->keys, text);
        check_sizes((*m)->name);
    }
    CHECK(count_rows("## Mixers") == n);
    for (int i = 0; i + 1 < SQM__OP_COUNT; i++) {
        const int found = cell(text, sizeof(text), "## Ops", sqm__ops[i]->name, 3);
        if (!found) printf("MIXERS.md has no op %s\n", sqm__ops[i]->name);
        CHECK(found);
        if (found) check_keys(sqm__ops[i]->name, sqm__ops[i]->keys, text);
    }
    CHECK(count_rows("## Ops") == SQM__OP_COUNT - 1);
}

int main(void)
{
    fill_values();
    read_page();
    test_page();
    test_messages();
    test_bent();
    return check_report("test_mixers");
}
