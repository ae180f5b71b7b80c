/* test_mix_select.c - chosen keys: the mixers select and compress, attention whose values are columns of its
   keys, that reads entries, or the keys that a row lists; the ops combine, sinkhorn and pick. Each against a
   naive double version over random shapes; cuts, threads, instruction sets and copies of a state give the
   same bits; wrong parameters are refused with a message. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "check.h"
#include <math.h>
#include <stdlib.h>
#ifndef TEST_TMP
#define TEST_TMP ""
#endif

static uint32_t seed = 4242;
static int32_t draw(int32_t n)
{
    seed = seed * 1664525u + 1013904223u;
    return (int32_t)((seed >> 8) % (uint32_t)n);
}
static float uniform(void) { return (float)draw(65536) / 32768.0f - 1.0f; }
static float *grab(size_t n)
{
    float *p = (float *)malloc((n ? n : 1) * sizeof(float));
    if (!p) exit(1);
    return p;
}

/* ---- a mixer under test -------------------------------------------------------------------------------- */
typedef struct rig {
    const sqm_mixer  *mixer;
    sqm_param         params[16];
    sqm_tensor        tensor;
    const sqm_tensor *list;
    int32_t           n_params, width, out_width, rows;
    float            *in, *want;        /* want: the result as one sequence, on the scalar pass */
    void             *scratch;
    size_t            scratch_bytes;
    union { uint8_t bytes[512]; double align; } bound;
} rig;

static void rig_open(rig *r, const sqm_mixer *mixer, int32_t width, int32_t rows)
{
    memset(r, 0, sizeof(*r));
    r->mixer = mixer;
    r->width = width;
    r->rows = rows;
}
static void rig_number(rig *r, const char *key, double value)
{
    r->params[r->n_params].key = key;
    r->params[r->n_params++].number = value;
}
static void rig_vector(rig *r, const char *key, const float *values, int32_t n)
{
    sqm_param *p = &r->params[r->n_params++];
    r->tensor = sqm_tensor_1d(values, SQM_F32, n);
    r->list = &r->tensor;
    p->key = key;
    p->tensors = &r->list;
    p->n_tensors = 1;
}
static sqm_result rig_feed(const rig *r, sqm_isa isa, int32_t threads, float *out, void *state, int32_t at,
                           int32_t rows)
{
    sqm_span span;
    sqm_exec x;
    CHECK(sqm_exec_init(&x, isa, threads, r->scratch, r->scratch_bytes) == SQM_OK);
    memset(&span, 0, sizeof(span));
    span.state = state;
    span.position = at;
    span.rows = rows;
    span.total = at + rows;
    return r->mixer->forward(r->bound.bytes, &x, out, r->in + (size_t)at * (size_t)r->width, &span, 1);
}
/* Binds, fills the input (the caller's, or random) and runs it whole. */
static void rig_start(rig *r, float *in)
{
    sqm_error err;
    const size_t n = (size_t)r->rows * (size_t)r->width;
    const sqm_result bound = r->mixer->bind(r->bound.bytes, r->params, r->n_params, r->width, &r->out_width,
                                            &err);
    if (bound != SQM_OK) { printf("%s: %s\n", r->mixer->name, err.text); exit(1); }
    CHECK(r->mixer->bound_bytes <= sizeof(r->bound));
    r->in = in ? in : grab(n);
    for (size_t i = 0; !in && i < n; i++) r->in[i] = uniform();
    r->want = grab((size_t)r->rows * (size_t)r->out_width);
    r->scratch_bytes = r->mixer->scratch_bytes(r->bound.bytes, r->rows, r->rows, 4) + 128 +
                       r->mixer->state_bytes(r->bound.bytes, r->rows, r->rows, SQM_F32);
    r->scratch = malloc(r->scratch_bytes);
    CHECK(rig_feed(r, SQM_ISA_SCALAR, 1, r->want, NULL, 0, r->rows) == SQM_OK);
}
static void *rig_state(const rig *r, int32_t max_batch, sqm_dtype dtype, size_t *bytes)
{
    const size_t n = r->mixer->state_bytes(r->bound.bytes, r->rows, max_batch, dtype);
    void *state = malloc(n + 64);
    memset(state, 0xff, n);             /* reset must not count on zeros */
    r->mixer->reset(r->bound.bytes, state, n, r->rows, max_batch, dtype);
    *bytes = n;
    return state;
}
/* In pieces of at most max_batch rows, with a move to a fresh state in between; tolerance 0: the same bits */
static void rig_pieces(const rig *r, sqm_isa isa, int32_t threads, int32_t max_batch, sqm_dtype dtype,
                       double tolerance)
{
    const size_t n = (size_t)r->rows * (size_t)r->out_width;
    float *got = grab(n);
    size_t bytes;
    void *state = rig_state(r, max_batch, dtype, &bytes);
    for (int32_t t = 0, rows; t < r->rows; t += rows) {
        void *copy = rig_state(r, max_batch, dtype, &bytes);
        const size_t used = r->mixer->used_bytes(r->bound.bytes, state, t);
        CHECK(used <= bytes && used >= r->mixer->header_bytes);
        memcpy(copy, state, used);
        free(state);
        state = copy;
        rows = 1 + draw(max_batch);
        if (rows > r->rows - t) rows = r->rows - t;
        CHECK(rig_feed(r, isa, threads, got + (size_t)t * (size_t)r->out_width, state, t, rows) == SQM_OK);
    }
    if (tolerance > 0.0) CHECK_CLOSE(got, r->want, n, tolerance, r->mixer->name);
    else CHECK(memcmp(got, r->want, n * sizeof(float)) == 0);
    free(got); free(state);
}
static void rig_all_pieces(const rig *r)
{
    static const sqm_isa isas[] = { SQM_ISA_SCALAR, SQM_ISA_AVX2, SQM_ISA_AVX512, SQM_ISA_NEON };
    for (int i = 0; i < 4; i++) {
        if (!sqm_cpu_has(isas[i])) continue;
        rig_pieces(r, isas[i], 1, 1, SQM_F32, 0.0);
        rig_pieces(r, isas[i], 4, 40, SQM_F32, 0.0);
    }
    rig_pieces(r, SQM_ISA_AUTO, 3, r->rows, SQM_F32, 0.0);
}
static void rig_close(rig *r) { free(r->in); free(r->want); free(r->scratch); }

static void refused(rig *r, const char *text, int line)
{
    sqm_error err;
    sqm_result got;
    memset(&err, 0, sizeof(err));
    got = r->mixer->bind(r->bound.bytes, r->params, r->n_params, r->width, &r->out_width, &err);
    if (got == SQM_OK || !strstr(err.text, text))
        printf("line %d: %s \"%s\", expected \"%s\"\n", line, sqm_result_name(got), err.text, text);
    CHECK(got != SQM_OK && err.code == got && strstr(err.text, text));
}
#define REFUSED(r, text) refused((r), (text), __LINE__)

/* ---- attention ----------------------------------------------------------------------------------------- */
typedef struct shape {
    int32_t heads, kv, dim, v_dim, window, shared, every, selected, sinks, rows;
} shape;
static int32_t row_of(const shape *s) { return s->kv * s->dim + (s->shared ? 0 : s->kv * s->v_dim); }
static int32_t width_of(const shape *s)
{
    return s->heads * s->dim + row_of(s) * (s->every ? 2 : 1) + s->selected;
}
static void attention_open(rig *r, const shape *s, const float *sinks)
{
    rig_open(r, sqm_mixer_attention(), width_of(s), s->rows);
    rig_number(r, "heads", s->heads); rig_number(r, "kv_heads", s->kv);
    rig_number(r, "head_dim", s->dim); rig_number(r, "v_dim", s->v_dim);
    rig_number(r, "window", s->window); rig_number(r, "scale", 0.5);
    rig_number(r, "shared", s->shared); rig_number(r, "every", s->every);
    rig_number(r, "selected", s->selected);
    if (s->sinks) rig_vector(r, "sinks", sinks, s->heads);
}
/* Rows of random numbers whose lists name random keys, ascending, of those that the row may see */
static float *attention_rows(const shape *s)
{
    const int32_t width = width_of(s);
    float *in = grab((size_t)(s->rows * width));
    for (int32_t i = 0; i < s->rows * width; i++) in[i] = uniform();
    for (int32_t t = 0; s->selected && t < s->rows; t++) {
        float *list = in + (size_t)(t + 1) * (size_t)width - s->selected;
        const int32_t seen = s->every ? (t + 1) / s->every : t + 1;
        int32_t n = 0;
        for (int32_t key = 0; key < seen && n < s->selected; key++)
            if (seen - key <= s->selected - n || draw(seen) < s->selected) list[n++] = (float)key;
        while (n < s->selected) list[n++] = -1.0f;
    }
    return in;
}
/* The exponential of one score, added to sum and to acc with its value */
static void add_key(double *acc, double *sum, const float *q, const float *k, const float *v, const shape *s)
{
    double score = 0.0, e;
    for (int32_t i = 0; i < s->dim; i++) score += (double)q[i] * (double)k[i];
    e = exp(0.5 * score);
    *sum += e;
    for (int32_t i = 0; i < s->v_dim; i++) acc[i] += e * (double)v[i];
}
static void naive_attention(float *out, const float *in, const shape *s, const float *sinks)
{
    const int32_t width = width_of(s), q = s->heads * s->dim;
    for (int32_t t = 0; t < s->rows; t++)
        for (int32_t h = 0; h < s->heads; h++) {
            const int32_t g = h / (s->heads / s->kv), v_at = s->shared ? g * s->dim
                : s->kv * s->dim + g * s->v_dim;
            const float *row = in + t * width, *list = row + width - s->selected;
            double sum = s->sinks ? exp((double)sinks[h]) : 0.0, acc[64] = { 0.0 };
            for (int32_t j = 0; j <= t; j++) {
                const float *key = in + j * width + q;
                int counts = !s->window || t - j < s->window;
                for (int32_t i = 0; s->selected && !s->every && i <= s->selected; i++) {
                    counts = i < s->selected && (int32_t)list[i] == j;
                    if (counts) break;
                }
                if (counts) add_key(acc, &sum, row + h * s->dim, key + g * s->dim, key + v_at, s);
            }
            for (int32_t j = 0; s->every && j < (t + 1) / s->every; j++) {
                const float *key = in + ((j + 1) * s->every - 1) * width + q + row_of(s);
                int counts = !s->selected;
                for (int32_t i = 0; i < s->selected; i++) counts |= (int32_t)list[i] == j;
                if (counts) add_key(acc, &sum, row + h * s->dim, key + g * s->dim, key + v_at, s);
            }
            for (int32_t i = 0; i < s->v_dim; i++)
                out[(t * s->heads + h) * s->v_dim + i] = (float)(acc[i] / sum);
        }
}
static shape random_shape(void)
{
    shape s;
    memset(&s, 0, sizeof(s));
    s.kv = 1 + draw(2);
    s.heads = s.kv * (1 + draw(30));
    s.dim = 1 + draw(40);
    s.v_dim = 1 + draw(s.dim);
    s.shared = draw(2);
    s.every = draw(2) ? 1 + draw(9) : 0;
    s.selected = draw(2) ? 1 + draw(100) : 0;
    s.window = (s.every || !s.selected) && draw(2) ? 1 + draw(90) : 0;
    s.sinks = draw(2);
    s.rows = 100 + draw(80);
    return s;
}
static void test_attention(void)
{
    for (int round = 0; round < 30; round++) {
        const shape s = random_shape();
        float sinks[64], *out;
        rig r;
        for (int i = 0; i < 64; i++) sinks[i] = uniform();
        attention_open(&r, &s, sinks);
        rig_start(&r, attention_rows(&s));
        out = grab((size_t)(r.rows * r.out_width));
        naive_attention(out, r.in, &s, sinks);
        CHECK_CLOSE(r.want, out, r.rows * r.out_width, 3e-6, "attention");
        if (round < 10) rig_all_pieces(&r);
        rig_pieces(&r, SQM_ISA_AUTO, 1, 33, SQM_F16, 4e-3);
        rig_pieces(&r, SQM_ISA_AUTO, 1, 33, SQM_I8, 0.1);
        rig_pieces(&r, SQM_ISA_AUTO, 1, 33, SQM_Q4, 1.0);
        free(out);
        rig_close(&r);
    }
}
/* Shared values are the same bits as those columns given as values; so is a list of all keys. */
static void test_attention_twins(void)
{
    for (int round = 0; round < 6; round++) {
        const shape s = { 24, 1, 32, 20, 0, 1, 0, 0, 0, 90 };
        shape full = s, listed = s;
        float *in = attention_rows(&s), *other;
        const int32_t q = s.heads * s.dim;
        rig a, b;
        full.shared = 0;
        listed.selected = 90;
        attention_open(&a, &s, NULL);
        rig_start(&a, in);
        other = grab((size_t)(s.rows * width_of(&full)));
        for (int32_t t = 0; t < s.rows; t++) {
            memcpy(other + t * width_of(&full), in + t * a.width, (size_t)a.width * sizeof(float));
            memcpy(other + t * width_of(&full) + a.width, in + t * a.width + q, 20 * sizeof(float));
        }
        attention_open(&b, &full, NULL);
        rig_start(&b, other);
        CHECK(memcmp(a.want, b.want, (size_t)(s.rows * a.out_width) * sizeof(float)) == 0);
        CHECK(a.mixer->state_bytes(a.bound.bytes, 64, 1, SQM_F16) - 64 ==
              (a.mixer->state_bytes(b.bound.bytes, 64, 1, SQM_F16) - 64) / 2);
        rig_close(&b);
        other = grab((size_t)(s.rows * width_of(&listed)));
        for (int32_t t = 0; t < s.rows; t++) {
            float *row = other + t * width_of(&listed);
            memcpy(row, in + t * a.width, (size_t)a.width * sizeof(float));
            for (int32_t i = 0; i < 90; i++) row[a.width + i] = i <= t ? (float)i : -1.0f;
        }
        attention_open(&b, &listed, NULL);
        rig_start(&b, other);
        CHECK(memcmp(a.want, b.want, (size_t)(s.rows * a.out_width) * sizeof(float)) == 0);
        rig_close(&b);
        rig_close(&a);
    }
}
/* Lists that name what does not exist are no harm: such items count as none. */
static void test_attention_bad_lists(void)
{
    const shape s = { 4, 1, 16, 16, 0, 1, 0, 8, 1, 40 };
    const float bad[8] = { -1.0f, 1e30f, -1e30f, 40.0f, (float)NAN, (float)INFINITY, 39.5f, 0.0f };
    float sinks[4] = { 0.0f };
    float *in = attention_rows(&s);
    rig r;
    for (int32_t t = 0; t < s.rows; t++) memcpy(in + (t + 1) * width_of(&s) - 8, bad, sizeof(bad));
    attention_open(&r, &s, sinks);
    rig_start(&r, in);
    rig_pieces(&r, SQM_ISA_AUTO, 1, 7, SQM_F32, 0.0);
    for (int32_t i = 0; i < r.rows * r.out_width; i++) CHECK(fabs((double)r.want[i]) <= 1.0);
    rig_close(&r);
}
static void test_attention_refusals(void)
{
    shape s = { 4, 2, 8, 8, 0, 1, 0, 0, 0, 1 };
    rig r;
    s.v_dim = 9;
    attention_open(&r, &s, NULL);
    REFUSED(&r, "9 columns of values cannot be in keys of 8");
    s.v_dim = 8; s.selected = 4; s.window = 5;
    attention_open(&r, &s, NULL);
    REFUSED(&r, "exclude each other");
    s.every = 3;
    attention_open(&r, &s, NULL);
    r.width++;
    REFUSED(&r, "does not fit rows of");
    s.every = -1;
    attention_open(&r, &s, NULL);
    REFUSED(&r, "every = -1");
}

/* ---- select -------------------------------------------------------------------------------------------- */
static void naive_select(float *out, const rig *r, int32_t heads, int32_t dim, int32_t k, int32_t every)
{
    double *score = (double *)malloc((size_t)r->rows * sizeof(double));
    for (int32_t t = 0; t < r->rows; t++) {
        const float *row = r->in + t * r->width;
        const int32_t n = (t + 1) / every;
        int32_t n_out = 0;
        for (int32_t j = 0; j < n; j++) {
            const float *key = r->in + ((j + 1) * every) * r->width - dim;
            score[j] = 0.0;
            for (int32_t h = 0; h < heads; h++) {
                double dot = 0.0;
                for (int32_t i = 0; i < dim; i++) dot += (double)row[h * dim + i] * (double)key[i];
                if (dot > 0.0) score[j] += dot * (double)row[heads * dim + h];
            }
        }
        for (int32_t j = 0; j < n; j++) {
            int32_t better = 0;
            for (int32_t i = 0; i < n; i++) better += score[i] > score[j] || (score[i] == score[j] && i < j);
            if (better < k) out[t * k + n_out++] = (float)j;
        }
        while (n_out < k) out[t * k + n_out++] = -1.0f;
    }
    free(score);
}
/* Small whole numbers, so that scores are exact and often equal */
static void test_select(void)
{
    for (int round = 0; round < 30; round++) {
        const int32_t heads = 1 + draw(6), dim = 1 + draw(20), k = 1 + draw(90);
        const int32_t every = 1 + draw(3) * draw(3);
        rig r;
        float *out;
        rig_open(&r, sqm_mixer_select(), heads * (dim + 1) + dim, 60 + draw(120));
        rig_number(&r, "heads", heads); rig_number(&r, "head_dim", dim);
        rig_number(&r, "k", k); rig_number(&r, "every", every);
        out = grab((size_t)(r.rows * r.width));
        for (int32_t i = 0; i < r.rows * r.width; i++) out[i] = (float)(draw(5) - 2);
        rig_start(&r, out);
        CHECK(r.out_width == k);
        out = grab((size_t)(r.rows * k));
        naive_select(out, &r, heads, dim, k, every);
        CHECK(memcmp(out, r.want, (size_t)(r.rows * k) * sizeof(float)) == 0);
        if (round < 8) rig_all_pieces(&r);
        rig_pieces(&r, SQM_ISA_AUTO, 1, 20, SQM_F16, 0.0);     /* the keys are exact in float16 */
        free(out);
        rig_close(&r);
    }
}
static void test_select_refusals(void)
{
    rig r;
    rig_open(&r, sqm_mixer_select(), 30, 1);
    rig_number(&r, "heads", 2); rig_number(&r, "head_dim", 9); rig_number(&r, "k", 4);
    REFUSED(&r, "do not fit rows of 30");
    r.params[2].number = 0;
    REFUSED(&r, "k = 0");
    r.width = 29;
    r.params[2].number = 4;
    rig_start(&r, NULL);
    CHECK(r.mixer->state_bytes(r.bound.bytes, 1 << 30, 1, SQM_F32) == (size_t)-1);
    rig_close(&r);
}

/* ---- compress ------------------------------------------------------------------------------------------ */
static void naive_compress(float *out, const rig *r, int32_t size, int32_t overlap, int32_t width,
                           const float *bias)
{
    const int32_t part = width * (1 + overlap);
    memset(out, 0, (size_t)(r->rows * width) * sizeof(float));
    for (int32_t t = size - 1; t < r->rows; t += size)
        for (int32_t c = 0; c < width; c++) {
            double sum = 0.0, y = 0.0;
            for (int32_t j = t - size * (1 + overlap) + 1; j <= t; j++) {
                const int32_t at = c + (overlap && j > t - size ? width : 0);
                double e;
                if (j < 0) continue;
                e = exp((double)r->in[j * r->width + part + at] +
                        (bias ? (double)bias[j % size * part + at] : 0.0));
                sum += e;
                y += e * (double)r->in[j * r->width + at];
            }
            out[t * width + c] = (float)(y / sum);
        }
}
static void test_compress(void)
{
    for (int round = 0; round < 24; round++) {
        const int32_t size = 1 + draw(12), overlap = draw(2), width = 1 + draw(30);
        const int32_t part = width * (1 + overlap);
        float *bias = grab((size_t)(size * part)), *out;
        rig r;
        rig_open(&r, sqm_mixer_compress(), 2 * part, 40 + draw(40));
        rig_number(&r, "size", size); rig_number(&r, "overlap", overlap);
        for (int32_t i = 0; i < size * part; i++) bias[i] = 2.0f * uniform();
        if (round % 3) rig_vector(&r, "bias", bias, size * part);
        rig_start(&r, NULL);
        CHECK(r.out_width == width);
        out = grab((size_t)(r.rows * width));
        naive_compress(out, &r, size, overlap, width, round % 3 ? bias : NULL);
        CHECK_CLOSE(r.want, out, r.rows * width, 2e-6, "compress");
        if (round < 8) rig_all_pieces(&r);
        free(out); free(bias);
        rig_close(&r);
    }
}
static void test_compress_refusals(void)
{
    static const float bias[12] = { 0.0f };
    rig r;
    rig_open(&r, sqm_mixer_compress(), 10, 1);
    rig_number(&r, "size", 4); rig_number(&r, "overlap", 1);
    REFUSED(&r, "rows of 10 columns are not 2 values and weights");
    r.width = 12;
    rig_vector(&r, "bias", bias, 12);
    REFUSED(&r, "bias must be 24 float32 values, has 12");
    r.params[0].number = 0;
    REFUSED(&r, "size = 0");
}

/* ---- ops ----------------------------------------------------------------------------------------------- */
enum { OP_ROWS = 7, OP_WIDTH = 24, APART = 3, APART_ROWS = 21 };
/* Runs lines that read r0 and end in r1 over rows [OP_ROWS, width]; NULL: refused, err says why. With a type:
   weights m0, m1, m2 [21, width / 3] of it, from `values`. */
static float *run_lines(const char *lines, const float *rows, int32_t width, sqm_dtype type,
                        const float *values, int32_t *out_width, sqm_error *err)
{
    const char *path = TEST_TMP "test_mix_select.sqm";
    const int32_t sizes[2] = { APART_ROWS, width / APART };
    const size_t n = (size_t)(sizes[0] * sizes[1]), bytes = sqm_tensor_bytes(type, SQM_PANELS, 2, sizes);
    char text[600], name[8];
    sqm_writer *writer = sqm_writer_open(path, err);
    sqm_session_config config;
    sqm_session *s;
    sqm_model *m;
    sqm_model_info info;
    float *out;
    snprintf(text, sizeof(text), "input r0 rows width=%d\n%shead logits r1\n", (int)width, lines);
    for (int i = 0; values && i < APART; i++) {
        snprintf(name, sizeof(name), "m%d", i);
        sqm_writer_declare(writer, name, type, SQM_PANELS, 2, sizes);
    }
    sqm_writer_recipe(writer, text);
    for (size_t i = 0; values && i < APART; i++) {
        void *packed = malloc(bytes);
        CHECK(sqm_pack(packed, bytes, type, values + i * n, sizes[0], sizes[1], NULL, err) == SQM_OK);
        sqm_writer_data(writer, packed, bytes);
        free(packed);
    }
    if (sqm_writer_close(writer, err) != SQM_OK) return NULL;
    m = sqm_load_file(path, NULL, err);
    remove(path);
    if (!m) return NULL;
    memset(&config, 0, sizeof(config));
    config.max_context = 64;
    s = sqm_session_create(m, &config, err);
    sqm_model_get_info(m, &info);
    *out_width = info.vocab_size;
    out = grab(OP_ROWS * (size_t)info.vocab_size);
    CHECK(s && sqm_feed_rows_all(s, 0, rows, OP_ROWS, out) == SQM_OK);
    sqm_session_free(s);
    sqm_model_free(m);
    return out;
}
/* One line with weights apart is one line a weight, bit by bit, whatever the type. */
static void test_apart(void)
{
    static const struct { sqm_dtype type; int32_t width; } cases[] = {
        { SQM_F32, 3 * 11 }, { SQM_F32, 3 * 64 }, { SQM_Q8, 3 * 32 }, { SQM_Q8, 3 * 40 }, { SQM_Q4, 3 * 64 }
    };
    static const char *const precise[2] = { "", " precise=1" };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]) * 2; i++) {
        const int32_t width = cases[i / 2].width, each = width / APART;
        float *rows = grab((size_t)(OP_ROWS * width)), *values = grab((size_t)(APART_ROWS * width)), *a, *b;
        char text[300];
        sqm_error err;
        int32_t n = 0, n2 = 0;
        for (int32_t k = 0; k < OP_ROWS * width; k++) rows[k] = uniform();
        for (int32_t k = 0; k < APART_ROWS * width; k++) values[k] = uniform();
        snprintf(text, sizeof(text), "linear r1 r0 w=@m0,@m1,@m2 apart=1%s\n", precise[i % 2]);
        a = run_lines(text, rows, width, cases[i / 2].type, values, &n, &err);
        snprintf(text, sizeof(text), "linear r2 r0 w=@m0 first=0%s\nlinear r3 r0 w=@m1 first=%d%s\n"
                 "linear r4 r0 w=@m2 first=%d%s\ncat r5 r2 r3\ncat r1 r5 r4\n", precise[i % 2], (int)each,
                 precise[i % 2], (int)(2 * each), precise[i % 2]);
        b = run_lines(text, rows, width, cases[i / 2].type, values, &n2, &err);
        CHECK(a && b && n == APART * APART_ROWS && n2 == n);
        if (a && b) CHECK(memcmp(a, b, (size_t)(OP_ROWS * n) * sizeof(float)) == 0);
        free(a); free(b);
        a = run_lines("copy r2 r0 first=1\nlinear r1 r2 w=@m0,@m1,@m2 apart=1\n", rows, width,
                      cases[i / 2].type, values, &n, &err);
        CHECK(!a && strstr(err.text, "weight 0 is [21"));
        free(a); free(rows); free(values);
    }
}
static void check_lines(const char *lines, const float *rows, const float *want, int32_t width, double tol)
{
    sqm_error err;
    int32_t n = 0;
    float *got = run_lines(lines, rows, OP_WIDTH, SQM_F32, NULL, &n, &err);
    if (!got) { printf("%s: %s\n", lines, err.text); CHECK(got != NULL); return; }
    CHECK(n == width);
    CHECK_CLOSE(got, want, OP_ROWS * n, tol, lines);
    free(got);
}
static void refuse_lines(const char *lines, const float *rows, const char *text)
{
    sqm_error err;
    int32_t n;
    float *got = run_lines(lines, rows, OP_WIDTH, SQM_F32, NULL, &n, &err);
    if (got || !strstr(err.text, text)) printf("%s: \"%s\", expected \"%s\"\n", lines, err.text, text);
    CHECK(!got && strstr(err.text, text));
    free(got);
}
/* 3 groups of 4 columns by the [3, 2] matrix in columns 14 to 19; once more added to itself */
static void want_combine(float *want, const float *rows, float times)
{
    for (int32_t t = 0; t < OP_ROWS; t++)
        for (int32_t i = 0; i < 8; i++) {
            const float *row = rows + t * OP_WIDTH;
            double sum = 0.0;
            for (int32_t j = 0; j < 3; j++)
                sum += (double)row[14 + j * 2 + i / 4] * (double)row[j * 4 + i % 4];
            want[t * 8 + i] = (float)sum * times;
        }
}
/* The 3 x 3 matrix of exponentials in columns 2 to 10, 4 iterations, eps 0.01 */
static void want_sinkhorn(float *want, const float *rows)
{
    for (int32_t t = 0; t < OP_ROWS; t++) {
        double m[3][3];
        for (int32_t i = 0; i < 24; i++) want[t * 24 + i] = rows[t * 24 + i];
        for (int32_t i = 0; i < 9; i++) m[i / 3][i % 3] = exp((double)rows[t * 24 + 2 + i]);
        for (int half = 0; half < 7; half++)
            for (int a = 0; a < 3; a++) {
                double sum = 0.01;
                for (int b = 0; b < 3; b++) sum += half % 2 ? m[a][b] : m[b][a];
                for (int b = 0; b < 3; b++) *(half % 2 ? &m[a][b] : &m[b][a]) /= sum;
            }
        for (int32_t i = 0; i < 9; i++) want[t * 24 + 2 + i] = (float)m[i / 3][i % 3];
    }
}
static void test_ops(void)
{
    float rows[OP_ROWS * OP_WIDTH], want[OP_ROWS * OP_WIDTH];
    for (int i = 0; i < OP_ROWS * OP_WIDTH; i++) rows[i] = uniform();
    want_combine(want, rows, 1.0f);
    check_lines("copy r2 r0 first=0 count=12\ncombine r1 r2 r0 out=2 groups=3 first=14\n", rows, want, 8,
                1e-6);
    want_combine(want, rows, 2.0f);
    check_lines("copy r2 r0 first=0 count=12\ncombine r1 r2 r0 out=2 groups=3 first=14\n"
                "combine r1 r2 r0 out=2 groups=3 first=14 add=1\n", rows, want, 8, 1e-6);
    want_sinkhorn(want, rows);
    check_lines("copy r1 r0\nact r1 r1 kind=exp first=2 count=9\n"
                "sinkhorn r1 r1 n=3 iterations=4 first=2 eps=0.01\n", rows, want, 24, 1e-6);
    for (int32_t t = 0; t < OP_ROWS; t++) {
        float *list = rows + t * OP_WIDTH + 20;
        list[0] = (float)(t % 5); list[1] = 7.0f; list[2] = t ? 7.0f : -1.0f; list[3] = t % 2 ? 1e20f : 99.0f;
        for (int32_t i = 0; i < 10; i++)
            want[t * 10 + i] = (float)((i == t % 5) + (i == 7) * (t ? 2 : 1)) * rows[t * OP_WIDTH + i];
    }
    check_lines("copy r2 r0 first=0 count=10\ncopy r3 r0 first=20 count=4\npick r1 r2 r3\n", rows, want, 10,
                0.0);
    for (int32_t t = 0; t < OP_ROWS; t++)              /* [4 | 3] of each of two groups */
        for (int32_t i = 0; i < 14; i++)
            want[t * 14 + i] = rows[t * OP_WIDTH + (i % 7 < 4 ? i / 7 * 4 + i % 7
                                                    : 10 + i / 7 * 3 + i % 7 - 4)];
    check_lines("copy r2 r0 first=0 count=8\ncopy r3 r0 first=10 count=6\ncat r1 r2 r3 groups=2\n", rows,
                want, 14, 0.0);
    refuse_lines("copy r2 r0 first=0 count=8\ncat r1 r2 r0 groups=3\n", rows, "do not divide into 3 groups");
    refuse_lines("copy r2 r0 first=0 count=12\ncombine r1 r2 r0 out=3 groups=3 first=16\n", rows, "combine");
    refuse_lines("copy r1 r0\ncombine r1 r1 r0 out=2\n", rows, "combine");
    refuse_lines("copy r1 r0\nsinkhorn r1 r1 n=4 iterations=2 first=9\n", rows, "a matrix of 4 rows");
    refuse_lines("copy r1 r0\nsinkhorn r1 r1 n=4 iterations=0\n", rows, "iterations = 0");
    refuse_lines("copy r1 r0\npick r1 r1 r0\n", rows, "in place");
    refuse_lines("copy r1 r0\ncopy r1 r1 first=0 count=5\n", rows, "copy onto itself");
}

int main(void)
{
    test_attention();
    test_attention_twins();
    test_attention_bad_lists();
    test_attention_refusals();
    test_select();
    test_select_refusals();
    test_compress();
    test_compress_refusals();
    test_ops();
    test_apart();
    return check_report("test_mix_select");
}
