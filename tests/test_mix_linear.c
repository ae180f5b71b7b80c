/* test_mix_linear.c - linear attention and its kin (running softmax, sLSTM, token shift, pooling) and the
   row ops
   that feed them, against naive double versions over random shapes; cuts, batches, threads and instruction
   sets
   give the same bits; wrong parameters are refused with a message. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "check.h"
#ifndef TEST_TMP
#define TEST_TMP ""
#endif
#include <math.h>
#include <stdlib.h>

static uint32_t seed = 777;
static uint32_t draw(uint32_t n) { seed = seed * 1664525u + 1013904223u; return (seed >> 8) % n; }
static float uniform(void) { return (float)draw(65536) / 32768.0f - 1.0f; }
static void *grab(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p) exit(2);
    return p;
}

/* ---- a bound mixer with rows and the scalar pass's result ---------------------------------------------- */
enum { MAX_PARAMS = 24 };
typedef struct rig {
    const sqm_mixer  *mixer;
    sqm_param         params[MAX_PARAMS];
    sqm_tensor        tensors[MAX_PARAMS];
    const sqm_tensor *lists[MAX_PARAMS];
    int32_t           n_params, width, out_width, rows;
    void             *bound, *scratch;
    size_t            scratch_bytes;
    float            *in, *want;
} rig;

static void rig_open(rig *r, const sqm_mixer *mixer, int32_t width, int32_t rows)
{
    memset(r, 0, sizeof(*r));
    r->mixer = mixer;
    r->width = width;
    r->rows = rows;
    r->in = (float *)grab((size_t)rows * (size_t)width * sizeof(float));
    for (int32_t i = 0; i < rows * width; i++) r->in[i] = uniform();
}
static void rig_number(rig *r, const char *key, double value)
{
    r->params[r->n_params].key = key;
    r->params[r->n_params++].number = value;
}
static void rig_word(rig *r, const char *key, const char *word)
{
    r->params[r->n_params].key = key;
    r->params[r->n_params++].text = word;
}
static float *rig_vector(rig *r, const char *key, int32_t n, float scale, float offset)
{
    const int32_t i = r->n_params++;
    float *values = (float *)grab((size_t)n * sizeof(float));
    for (int32_t k = 0; k < n; k++) values[k] = offset + scale * uniform();
    r->tensors[i] = sqm_tensor_1d(values, SQM_F32, n);
    r->lists[i] = &r->tensors[i];
    r->params[i].key = key;
    r->params[i].tensors = &r->lists[i];
    r->params[i].n_tensors = 1;
    return values;
}
static void rig_close(rig *r)
{
    for (int32_t i = 0; i < r->n_params; i++)
        if (r->params[i].tensors) free((void *)(uintptr_t)r->tensors[i].data);
    free(r->bound); free(r->scratch); free(r->in); free(r->want);
}
static sqm_exec rig_exec(const rig *r, sqm_isa isa, int32_t threads)
{
    sqm_exec x;
    CHECK(sqm_exec_init(&x, isa, threads, r->scratch, r->scratch_bytes) == SQM_OK);
    return x;
}
static sqm_result rig_feed(const rig *r, sqm_exec *x, float *out, void *state, int32_t at, int32_t rows)
{
    sqm_span span;
    memset(&span, 0, sizeof(span));
    span.state = state;
    span.rows = rows;
    span.position = at;
    span.total = at + rows;
    return r->mixer->forward(r->bound, x, out, r->in + (size_t)at * (size_t)r->width, &span, 1);
}
static void *rig_state(const rig *r)
{
    const size_t bytes = r->mixer->state_bytes(r->bound, r->rows, r->rows, SQM_F32);
    void *state = grab(bytes);
    r->mixer->reset(r->bound, state, bytes, r->rows, r->rows, SQM_F32);
    return state;
}
/* Binds, makes room for 5 threads and a state, runs the scalar pass. */
static int rig_bind(rig *r)
{
    sqm_error err;
    sqm_exec x;
    r->bound = grab(r->mixer->bound_bytes);
    if (r->mixer->bind(r->bound, r->params, r->n_params, r->width, &r->out_width, &err) != SQM_OK) {
        printf("bind: %s\n", err.text);
        CHECK(err.code == SQM_OK);
        return 0;
    }
    r->scratch_bytes = r->mixer->scratch_bytes(r->bound, 4 * r->rows, 4 * r->rows, 5) +
                       r->mixer->state_bytes(r->bound, r->rows, r->rows, SQM_F32) + 256;
    r->scratch = grab(r->scratch_bytes);
    r->want = (float *)grab((size_t)r->rows * (size_t)r->out_width * sizeof(float));
    x = rig_exec(r, SQM_ISA_SCALAR, 1);
    CHECK(rig_feed(r, &x, r->want, NULL, 0, r->rows) == SQM_OK);
    return 1;
}

static void check_cuts(const rig *r, sqm_exec *x, int32_t most)
{
    const size_t n = (size_t)r->rows * (size_t)r->out_width;
    float *got = (float *)grab(n * sizeof(float));
    void *state = rig_state(r), *copy = rig_state(r);
    for (int32_t t = 0, rows; t < r->rows; t += rows) {
        void *swap = copy;
        memcpy(copy, state, r->mixer->used_bytes(r->bound, state, t));    /* a state may move           */
        copy = state;
        state = swap;
        rows = 1 + (int32_t)draw((uint32_t)most);
        if (rows > r->rows - t) rows = r->rows - t;
        CHECK(rig_feed(r, x, got + (size_t)t * (size_t)r->out_width, state, t, rows) == SQM_OK);
    }
    CHECK(memcmp(got, r->want, n * sizeof(float)) == 0);
    free(state); free(copy); free(got);
}
static void run_backwards(void *user, sqm_task fn, void *arg, int32_t n)
{
    (void)user;
    for (int32_t i = n - 1; i >= 0; i--) fn(arg, i);
}
/* Four sequences in one call, later parts of them, one without state, in another order. */
static void check_batch(const rig *r)
{
    enum { N = 4 };
    const int causal = (r->mixer->flags & SQM_MIXER_CAUSAL) != 0;
    float *in = (float *)grab((size_t)r->rows * (size_t)r->width * N * sizeof(float));
    float *out = (float *)grab((size_t)r->rows * (size_t)r->out_width * N * sizeof(float));
    sqm_span spans[N];
    sqm_exec x = rig_exec(r, SQM_ISA_AUTO, 3);
    int32_t first = 0;
    memset(spans, 0, sizeof(spans));
    for (int i = N - 1; i >= 0; i--) {
        const int32_t past = causal && i != 2 ? (int32_t)draw((uint32_t)r->rows) : 0;
        sqm_span *s = &spans[i];
        s->rows = causal ? 1 + (int32_t)draw((uint32_t)(r->rows - past)) : r->rows;
        s->state = causal && i != 2 ? rig_state(r) : NULL;
        s->first_row = first;
        s->position = past;
        s->total = past + s->rows;
        if (past) CHECK(rig_feed(r, &x, out, s->state, 0, past) == SQM_OK);
        memcpy(in + (size_t)first * (size_t)r->width, r->in + (size_t)past * (size_t)r->width,
               (size_t)s->rows * (size_t)r->width * sizeof(float));
        first += s->rows;
    }
    CHECK(r->mixer->forward(r->bound, &x, out, in, spans, N) == SQM_OK);
    for (int i = 0; i < N; i++) {
        CHECK(memcmp(out + (size_t)spans[i].first_row * (size_t)r->out_width,
                     r->want + (size_t)spans[i].position * (size_t)r->out_width,
                     (size_t)spans[i].rows * (size_t)r->out_width * sizeof(float)) == 0);
        free(spans[i].state);
    }
    free(in); free(out);
}
/* One result: every instruction set, thread count, cut and batch. */
static void rig_check(const rig *r, const double *naive, double tolerance, const char *what)
{
    static const sqm_isa isas[] = { SQM_ISA_SCALAR, SQM_ISA_AVX2, SQM_ISA_AVX512, SQM_ISA_NEON };
    const size_t n = (size_t)r->rows * (size_t)r->out_width;
    float *values = (float *)grab(n * sizeof(float));
    sqm_parallel pool;
    for (size_t i = 0; i < n; i++) values[i] = (float)naive[i];
    CHECK_CLOSE(r->want, values, n, tolerance, what);
    memset(&pool, 0, sizeof(pool));
    pool.run = run_backwards;
    pool.threads = 5;
    for (int i = 0; i < 4; i++) {
        if (!sqm_cpu_has(isas[i])) continue;
        for (int threads = 1; threads < 6; threads += 4) {
            sqm_exec x = rig_exec(r, isas[i], threads);
            x.parallel = threads > 1 ? &pool : NULL;
            CHECK(rig_feed(r, &x, values, NULL, 0, r->rows) == SQM_OK);
            CHECK(memcmp(values, r->want, n * sizeof(float)) == 0);
            if (!(r->mixer->flags & SQM_MIXER_CAUSAL)) continue;
            check_cuts(r, &x, 1);
            check_cuts(r, &x, r->rows);
            check_cuts(r, &x, 5);
        }
    }
    check_batch(r);
    free(values);
}
static void refused(rig *r, const char *text, int line)
{
    sqm_error err;
    int32_t out;
    void *bound = grab(r->mixer->bound_bytes);
    const sqm_result got = r->mixer->bind(bound, r->params, r->n_params, r->width, &out, &err);
    if (got == SQM_OK || !strstr(err.text, text))
        printf("line %d: %s \"%s\", expected \"%s\"\n", line, sqm_result_name(got),
               got == SQM_OK ? "" : err.text, text);
    CHECK(got != SQM_OK && err.code == got && strstr(err.text, text));
    free(bound);
    rig_close(r);
}
#define REFUSED(r, text) refused(r, text, __LINE__)

/* ---- linear attention ---------------------------------------------------------------------------------- */
enum { NONE, SCALAR, VECTOR, VALUE, HEAD, CHANNEL };   /* decays: HEAD, CHANNEL: constant                   */
typedef struct shape {
    int32_t heads, q, k, v, decay_heads, key_dim, v_dim, steps, rows;
    int     update, decay, gate, pre, bonus, normalizer, log_gates;
} shape;

static double dot(const double *a, size_t step, const float *b, int32_t n)
{
    double sum = 0.0;
    for (int32_t i = 0; i < n; i++) sum += a[(size_t)i * step] * (double)b[i];
    return sum;
}

typedef struct naive_row { const float *q, *k, *v, *a, *b; double d[64], dv[64], g, bonus; } naive_row;

/* What one update of row t sees in head h */
static naive_row naive_open(const rig *r, const shape *s, int32_t t, int32_t h, int32_t step,
                            const float *factors,
                            const float *bonus)
{
    const float *row = r->in + t * r->width;
    const int32_t K = s->key_dim, V = s->v_dim, kn = s->steps * s->k * K;
    const int32_t at_k = s->q * K, at_v = at_k + kn, at_d = at_v + s->steps * s->v * V;
    const int32_t each = s->decay == VECTOR ? K : s->decay == VALUE ? V : 1;
    const int32_t dn = s->decay > NONE && s->decay < HEAD ? s->decay_heads * each : 0;
    const int32_t at_g = at_d + dn, at_a = at_g + (s->gate ? s->steps * s->heads : 0);
    const int32_t k_at = (step * s->k + h / (s->heads / s->k)) * K;
    naive_row n;
    memset(&n, 0, sizeof(n));
    n.q = row + h / (s->heads / s->q) * K;
    n.k = row + at_k + k_at;
    n.v = row + at_v + (step * s->v + h / (s->heads / s->v)) * V;
    n.a = row + at_a + k_at;
    n.b = row + at_a + kn + k_at;
    n.g = s->gate ? (double)row[at_g + step * s->heads + h] : 1.0;
    for (int32_t j = 0; j < V; j++)
        n.dv[j] = s->decay == VALUE ? (double)row[at_d + h / (s->heads / s->decay_heads) * each + j] : 1.0;
    for (int32_t i = 0; i < K; i++)
        n.d[i] = step || s->decay == NONE || s->decay == VALUE ? 1.0 : s->decay == HEAD ? (double)factors[h]
            : s->decay == CHANNEL ? (double)factors[h * K + i]
            : (double)row[at_d + h / (s->heads / s->decay_heads) * each + (each > 1 ? i : 0)];
    for (int32_t i = 0; bonus && i < K; i++) n.bonus += (double)(n.q[i] * n.k[i]) * (double)bonus[h * K + i];
    return n;
}

static void naive_update(double *S, double *z, const naive_row *n, const shape *s)
{
    for (int32_t j = 0; j < s->v_dim; j++) {
        double seen = 0.0, value = (double)n->v[j];
        if (s->update == 2) seen = dot(S + j, 64, n->a, s->key_dim);
        for (int32_t i = 0; i < s->key_dim; i++) S[i * 64 + j] *= n->d[i] * n->dv[j];
        if (s->update == 1) value -= dot(S + j, 64, n->k, s->key_dim);
        for (int32_t i = 0; i < s->key_dim; i++)
            S[i * 64 + j] += n->g * (double)n->k[i] * value + (s->update == 2 ? (double)n->b[i] * seen : 0.0);
    }
    for (int32_t i = 0; i < s->key_dim; i++) z[i] = n->d[i] * z[i] + n->g * (double)n->k[i];
}

static void naive_linear(double *out, const rig *r, const shape *s, const float *factors, const float *bonus)
{
    const double scale = 0.7, eps = 0.01;
    static double S[64 * 64], z[64];
    for (int32_t h = 0; h < s->heads; h++) {
        double m = 0.0;
        for (int i = 0; i < 64 * 64; i++) S[i] = 0.0;
        for (int i = 0; i < 64; i++) z[i] = s->normalizer == 1 ? 0.5 : 0.0;
        for (int32_t t = 0; t < s->rows; t++) {
            double *to = out + (t * s->heads + h) * s->v_dim, den = 1.0;
            naive_row n;
            for (int32_t step = 0; step < s->steps; step++) {
                n = naive_open(r, s, t, h, step, factors, bonus);
                if (s->log_gates) {
                    const double now = n.d[0] + m > n.g ? n.d[0] + m : n.g, d = exp(n.d[0] + m - now);
                    n.g = exp(n.g - now);
                    for (int32_t i = 0; i < s->key_dim; i++) n.d[i] = d;
                    m = now;
                }
                for (int32_t j = 0; s->pre && j < s->v_dim; j++)
                    to[j] = scale * (dot(S + j, 64, n.q, s->key_dim) + n.bonus * (double)n.v[j]);
                naive_update(S, z, &n, s);
            }
            if (s->pre) continue;
            if (s->normalizer) den = scale * dot(z, 1, n.q, s->key_dim);
            if (s->normalizer == 2) den = fabs(den) > exp(-m) ? fabs(den) : exp(-m);
            if (s->normalizer) den += eps;
            for (int32_t j = 0; j < s->v_dim; j++) to[j] = scale * dot(S + j, 64, n.q, s->key_dim) / den;
        }
    }
}

static void linear_params(rig *r, const shape *s)
{
    static const char *const updates[] = { "add", "delta", "dplr" }, *const decays[] = { "none", "scalar",
        "vector",
                                                                                       "value" };
    static const char *const normalizers[] = { "none", "sum", "max" };
    rig_number(r, "heads", s->heads);
    rig_number(r, "q_heads", s->q);
    rig_number(r, "k_heads", s->k);
    rig_number(r, "v_heads", s->v);
    rig_number(r, "decay_heads", s->decay_heads);
    rig_number(r, "key_dim", s->key_dim);
    rig_number(r, "v_dim", s->v_dim);
    rig_number(r, "steps", s->steps);
    rig_number(r, "gate", s->gate);
    rig_number(r, "log_gates", s->log_gates);
    rig_number(r, "scale", 0.7);
    rig_number(r, "eps", 0.01);
    rig_number(r, "key_start", s->normalizer == 1 ? 0.5 : 0.0);
    rig_word(r, "update", updates[s->update]);
    rig_word(r, "decay", decays[s->decay > VALUE ? 0 : s->decay]);
    rig_word(r, "read", s->pre ? "pre" : "post");
    rig_word(r, "normalizer", normalizers[s->normalizer]);
}
static int32_t linear_width(const shape *s)
{
    const int32_t k = s->steps * s->k * s->key_dim;
    return s->q * s->key_dim + k + s->steps * s->v * s->v_dim +
           (s->decay == SCALAR ? 1 : s->decay == VECTOR ? s->key_dim : s->decay == VALUE ? s->v_dim : 0) *
           s->decay_heads +
           (s->gate ? s->steps * s->heads : 0) + (s->update == 2 ? 2 * k : 0);
}
/* Rows that keep the recurrence tame: short keys, decays in (0.5, 1), positive q and k under a normalizer. */
static void linear_rows(rig *r, const shape *s)
{
    const int32_t keys = s->q * s->key_dim + s->steps * s->k * s->key_dim,
        at_d = keys + s->steps * s->v * s->v_dim;
    const int32_t dn = s->decay_heads * (s->decay == SCALAR ? 1 : s->decay == VECTOR ? s->key_dim
                                         : s->decay == VALUE ? s->v_dim : 0);
    for (int32_t t = 0; t < s->rows; t++) {
        float *row = r->in + t * r->width;
        for (int32_t i = 0; i < r->width; i++) {
            if (i < keys) row[i] *= 1.0f / sqrtf((float)s->key_dim);
            if (i < keys && s->normalizer == 1) row[i] = fabsf(row[i]);
            if (i >= at_d && i < at_d + dn)
                row[i] = s->log_gates ? 3.0f * (row[i] - 1.0f) : 0.75f + 0.25f * row[i];
            if (i >= at_d + dn && s->gate && i < at_d + dn + s->steps * s->heads)
                row[i] = s->log_gates ? 6.0f * row[i] : 0.5f + 0.5f * row[i];
            if (s->update == 2 && i >= at_d + dn + (s->gate ? s->steps * s->heads : 0))
                row[i] *= 0.7f / sqrtf((float)s->key_dim);
        }
    }
}
static void test_linear(const shape *s)
{
    const float *factors = NULL, *bonus = NULL;
    double *naive;
    rig r;
    rig_open(&r, sqm_mixer_linear_attention(), linear_width(s), s->rows);
    linear_rows(&r, s);
    linear_params(&r, s);
    if (s->decay == HEAD) factors = rig_vector(&r, "factors", s->heads, 0.2f, 0.8f);
    if (s->decay == CHANNEL) factors = rig_vector(&r, "factors", s->heads * s->key_dim, 0.2f, 0.8f);
    if (s->bonus) bonus = rig_vector(&r, "bonus", s->heads * s->key_dim, 1.0f, 0.0f);
    if (rig_bind(&r)) {
        CHECK(r.out_width == s->heads * s->v_dim);
        naive = (double *)grab((size_t)(s->rows * r.out_width) * sizeof(double));
        naive_linear(naive, &r, s, factors, bonus);
        rig_check(&r, naive, 5e-6, "linear attention");
        free(naive);
    }
    rig_close(&r);
}

static void test_linear_shapes(void)
{
    static const int32_t dims[] = { 1, 5, 8, 16, 17, 33, 48, 64 };
    for (int i = 0; i < 60; i++) {
        shape s;
        memset(&s, 0, sizeof(s));
        s.k = s.q = s.decay_heads = 1 + (int32_t)draw(2);
        s.heads = s.v = s.k * (1 + (int32_t)draw(2));
        if (draw(3) == 0) { s.q = s.k = s.heads; s.v = 1; }
        s.key_dim = dims[draw(8)];
        s.v_dim = dims[draw(8)];
        s.rows = 1 + (int32_t)draw(20);
        s.update = i % 3;
        s.steps = i % 4 == 3 ? 1 + (int32_t)draw(3) : 1;
        s.decay = (int)draw(6);
        if (s.steps > 1 && (s.decay == VECTOR || s.decay == CHANNEL)) s.decay = SCALAR;
        if (s.decay == VALUE && (s.update || s.steps > 1)) s.decay = SCALAR;
        s.gate = (int)draw(2);
        if (s.update == 0 && s.steps == 1 && s.decay != VALUE) {
            if (i % 2) s.normalizer = 1;
            else { s.pre = 1; s.bonus = (int)draw(2); }
        }
        test_linear(&s);
    }
    /* exponential gates                                                  */
    for (int i = 0; i < 6; i++) {
        shape s;
        memset(&s, 0, sizeof(s));
        s.heads = s.q = s.k = s.v = s.decay_heads = 1 + (int32_t)draw(3);
        s.key_dim = dims[draw(8)];
        s.v_dim = dims[draw(8)];
        s.rows = 1 + (int32_t)draw(20);
        s.steps = s.gate = s.log_gates = 1;
        s.decay = SCALAR;
        s.normalizer = i % 3;
        test_linear(&s);
    }
}

static void test_linear_refused(void)
{
    rig r;
    static const struct { const char *key,
                          *word; double number; int32_t width; const char *text; } cases[] = {
        { "heads", NULL, 0.0, 96, "heads = 0" },
        { "key_dim", NULL, 0.0, 96, "key_dim = 0" },
        { "q_heads", NULL, 3.0, 96, "cannot share" },
        { "steps", NULL, 65.0, 96, "steps = 65" },
        { "scale", NULL, 1e40, 96, "scale = 1e40 is out of range" },
        { "update", "subtract", 0.0, 96, "subtract" },
        { "decay", "scalar", 0.0, 96, "need rows of 100 columns, not 96" },
        { "normalizer", "max", 0.0, 96, "log_gates" },
        { "log_gates", NULL, 1.0, 96, "log_gates goes with" },
        { NULL, NULL, 0.0, 95, "not 95" }
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        rig_open(&r, sqm_mixer_linear_attention(), cases[i].width, 1);
        if (!cases[i].key || strcmp(cases[i].key, "heads")) rig_number(&r, "heads", 4);
        if (!cases[i].key || strcmp(cases[i].key, "key_dim")) rig_number(&r, "key_dim", 8);
        if (cases[i].word) rig_word(&r, cases[i].key, cases[i].word);
        else if (cases[i].key) rig_number(&r, cases[i].key, cases[i].number);
        refused(&r, cases[i].text, __LINE__);
    }
    rig_open(&r, sqm_mixer_linear_attention(), 96, 1);
    rig_number(&r, "heads", 4); rig_number(&r, "key_dim", 8);
    rig_vector(&r, "bonus", 32, 1.0f, 0.0f);
    REFUSED(&r, "a bonus needs read=pre");
    rig_open(&r, sqm_mixer_linear_attention(), 96, 1);
    rig_number(&r, "heads", 4); rig_number(&r, "key_dim", 8);
    rig_vector(&r, "factors", 5, 1.0f, 0.0f);
    REFUSED(&r, "factors must be 32");
    rig_open(&r, sqm_mixer_linear_attention(), 100, 1);
    rig_number(&r, "heads", 4); rig_number(&r, "key_dim", 8); rig_word(&r, "decay", "scalar");
    rig_vector(&r, "factors", 4, 1.0f, 0.0f);
    REFUSED(&r, "exclude each other");
    rig_open(&r, sqm_mixer_linear_attention(), 96, 1);
    rig_number(&r, "heads", 4); rig_number(&r, "key_dim", 8); rig_word(&r, "update", "delta"); rig_word(&r,
        "read", "pre");
    REFUSED(&r, "read=pre goes with");
    rig_open(&r, sqm_mixer_linear_attention_whole(), 96, 1);
    rig_number(&r, "heads", 4); rig_number(&r, "key_dim", 8); rig_word(&r, "update", "delta");
    REFUSED(&r, "linear_attention_whole has no");
}

/* ---- every row sees all rows --------------------------------------------------------------------------- */
static void test_whole(int32_t heads, int32_t K, int32_t V, int32_t rows, int normalized)
{
    double *naive;
    rig r;
    rig_open(&r, sqm_mixer_linear_attention_whole(), heads * (2 * K + V), rows);
    rig_number(&r, "heads", heads);
    rig_number(&r, "key_dim", K);
    rig_number(&r, "v_dim", V);
    rig_number(&r, "scale", 0.7);
    if (normalized) { rig_word(&r, "normalizer", "sum"); rig_number(&r, "eps", 0.01); }
    for (int32_t t = 0; normalized && t < rows; t++)
        for (int32_t i = 0; i < 2 * heads * K; i++) r.in[t * r.width + i] = fabsf(r.in[t * r.width + i]);
    naive = (double *)grab((size_t)(rows * heads * V) * sizeof(double));
    for (int32_t t = 0; t < rows; t++)
        for (int32_t h = 0; h < heads; h++) {
            double den = 0.01;
            for (int32_t u = 0; u < rows; u++) {
                double score = 0.0;
                for (int32_t i = 0; i < K; i++)
                    score += 0.7 * (double)r.in[t * r.width + h * K + i] * (double)r.in[u * r.width +
                        (heads + h) * K + i];
                den += score;
                for (int32_t j = 0; j < V; j++)
                    naive[(t * heads + h) * V + j] += score * (double)r.in[u * r.width + 2 * heads * K +
                        h * V + j];
            }
            for (int32_t j = 0; normalized && j < V; j++) naive[(t * heads + h) * V + j] /= den;
        }
    if (rig_bind(&r)) rig_check(&r, naive, 5e-6, "linear attention, whole");
    free(naive);
    rig_close(&r);
}

/* ---- running softmax ----------------------------------------------------------------------------------- */
static void test_running(int32_t heads, int32_t V, int32_t rows, int decayed, int bonus)
{
    const float *d = NULL, *b = NULL;
    double *naive;
    rig r;
    rig_open(&r, sqm_mixer_running_softmax(), heads * (1 + V), rows);
    rig_number(&r, "heads", heads);
    rig_number(&r, "v_dim", V);
    if (decayed) d = rig_vector(&r, "decay", heads, 0.4f, -0.5f);
    if (bonus) b = rig_vector(&r, "bonus", heads, 1.0f, 0.0f);
    naive = (double *)grab((size_t)(rows * heads * V) * sizeof(double));
    for (int32_t t = 0; t < rows; t++)
        for (int32_t i = 0; i < heads; i++) r.in[t * r.width + i] *= 8.0f;
    for (int32_t t = 0; t < rows; t++)
        for (int32_t h = 0; h < heads; h++) {
            double sum = 0.0;
            for (int32_t u = 0; u <= t; u++) {
                const double past = bonus ? (u == t ? 0.0 : t - 1 - u) : t - u;
                const double w = exp((double)r.in[u * r.width + h] + (d ? past * (double)d[h] : 0.0) +
                                     (b && u == t ? (double)b[h] : 0.0));
                sum += w;
                for (int32_t j = 0; j < V; j++)
                    naive[(t * heads + h) * V + j] += w * (double)r.in[u * r.width + heads + h * V + j];
            }
            for (int32_t j = 0; j < V; j++) naive[(t * heads + h) * V + j] /= sum;
        }
    if (rig_bind(&r)) rig_check(&r, naive, 3e-6, "running softmax");
    free(naive);
    rig_close(&r);
}

/* p and r of weights=1 rebuild the softmax: value_t = r value_(t-1) + p v_t */
static void test_weights(int32_t heads, int32_t rows)
{
    double *naive;
    rig r;
    rig_open(&r, sqm_mixer_running_softmax(), heads, rows);
    rig_number(&r, "heads", heads);
    rig_number(&r, "weights", 1);
    naive = (double *)grab((size_t)(rows * 2 * heads) * sizeof(double));
    for (int32_t h = 0; h < heads; h++) {
        double sum = 0.0;
        for (int32_t t = 0; t < rows; t++) {
            const double e = exp((double)(r.in[t * heads + h] *= 8.0f));
            naive[(t * 2 + 1) * heads + h] = sum / (sum + e);
            sum += e;
            naive[t * 2 * heads + h] = e / sum;
        }
    }
    if (rig_bind(&r)) rig_check(&r, naive, 3e-6, "weights of a running softmax");
    free(naive);
    rig_close(&r);
}

/* ---- ridge --------------------------------------------------------------------------------------------- */
/* The solution must satisfy the equations, in double. */
static void test_ridge(int32_t heads, int32_t n, int32_t rows)
{
    const float *lambda;
    double *naive, *H, worst = 0.0;
    rig r;
    rig_open(&r, sqm_mixer_ridge(), 2 * heads * (n + 1), rows);
    rig_number(&r, "heads", heads);
    rig_number(&r, "dim", n);
    lambda = rig_vector(&r, "lambda", heads * n, 0.4f, 0.6f);
    for (int32_t t = 0; t < rows; t++)
        for (int32_t i = 2 * heads * n; i < r.width; i++) r.in[t * r.width + i] = 0.6f +
            0.4f * r.in[t * r.width + i];
    if (rig_bind(&r)) {
        H = (double *)grab((size_t)(n * n) * sizeof(double));
        naive = (double *)grab((size_t)(rows * heads * n) * sizeof(double));
        for (int32_t i = 0; i < rows * heads * n; i++) naive[i] = (double)r.want[i];
        for (int32_t h = 0; h < heads; h++) {
            for (int32_t i = 0; i < n * n; i++) H[i] = 0.0;
            for (int32_t t = 0; t < rows; t++) {
                const float *row = r.in + t * r.width, *q = row + h * n, *k = q + heads * n;
                const float *x = r.want + (t * heads + h) * n;
                for (int32_t i = 0; i < n; i++) {
                    double sum = -(double)q[i] + (double)(lambda[h * n + i] * x[i]);
                    for (int32_t j = 0; j < n; j++) {
                        H[i * n + j] = (double)row[2 * heads * n + h] * H[i * n + j] +
                            (double)row[2 * heads * n + heads + h] * (double)k[i] * (double)k[j];
                        sum += H[i * n + j] * (double)x[j];
                    }
                    worst = fabs(sum) > worst ? fabs(sum) : worst;
                }
            }
        }
        CHECK(worst < 1e-5);
        rig_check(&r, naive, 0.0, "ridge");
        free(naive); free(H);
    }
    rig_close(&r);
}

/* ---- sLSTM --------------------------------------------------------------------------------------------- */
static double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
static void test_slstm(int32_t heads, int32_t d, int32_t rows)
{
    const int32_t n = heads * d;
    const float *w;
    double *naive, *y, *c, *norm, *m, raw[4];
    rig r;
    rig_open(&r, sqm_mixer_slstm(), 4 * n, rows);
    rig_number(&r, "heads", heads);
    w = rig_vector(&r, "w", heads * 4 * d * d, 0.5f, 0.0f);
    naive = (double *)grab((size_t)(rows * n) * sizeof(double));
    y = (double *)grab((size_t)(4 * n) * sizeof(double));
    c = y + n; norm = c + n; m = norm + n;
    for (int32_t t = 0; t < rows; t++) {
        for (int32_t h = 0; h < heads; h++)
            for (int32_t o = 0; o < d; o++) {
                double kept, now, f, e;
                for (int32_t g = 0; g < 4; g++) {
                    raw[g] = (double)r.in[t * 4 * n + g * n + h * d + o];
                    for (int32_t i = 0; i < d; i++) raw[g] += (double)w[((h * 4 + g) * d + i) * d +
                        o] * y[h * d + i];
                }
                kept = m[h * d + o] - log1p(exp(-raw[1]));
                now = t == 0 || raw[0] > kept ? raw[0] : kept;
                f = exp(kept - now) < 1.0 ? exp(kept - now) : 1.0;
                e = exp(raw[0] - now);
                c[h * d + o] = f * c[h * d + o] + e * tanh(raw[2]);
                norm[h * d + o] = f * norm[h * d + o] + e;
                m[h * d + o] = now;
                naive[t * n + h * d + o] = sigmoid(raw[3]) * c[h * d + o] / norm[h * d + o];
            }
        for (int32_t i = 0; i < n; i++) y[i] = naive[t * n + i];
    }
    if (rig_bind(&r)) rig_check(&r, naive, 5e-6, "slstm");
    free(naive); free(y);
    rig_close(&r);
}

/* ---- token shift and pooling --------------------------------------------------------------------------- */
static void test_shift(int32_t width, int32_t mixes, int weighted, int dynamic, int32_t rows)
{
    const float *w = NULL;
    double *naive;
    rig r;
    rig_open(&r, sqm_mixer_shift(), dynamic ? width * (1 + mixes) : width, rows);
    rig_number(&r, "mixes", mixes);
    rig_number(&r, "dynamic", dynamic);
    if (weighted) w = rig_vector(&r, "w", width * mixes, 1.0f, 0.0f);
    naive = (double *)grab((size_t)(rows * mixes * width) * sizeof(double));
    for (int32_t t = 0; t < rows; t++)
        for (int32_t i = 0; i < mixes * width; i++) {
            const float *row = r.in + t * r.width;
            const double x = (double)row[i % width], last = t ? (double)row[i % width - r.width] : 0.0;
            const double part = !weighted &&
                !dynamic ? 1.0 : (w ? (double)w[i] : 0.0) + (dynamic ? (double)row[width + i] : 0.0);
            naive[t * mixes * width + i] = x + (last - x) * part;
        }
    if (rig_bind(&r)) rig_check(&r, naive, 1e-6, "shift");
    free(naive);
    rig_close(&r);
}
static void test_pool(const char *kind, int32_t width, int32_t groups, int32_t rows)
{
    const int32_t each = width / groups;
    double *naive;
    rig r;
    rig_open(&r, sqm_mixer_pool(), width, rows);
    rig_word(&r, "kind", kind);
    rig_number(&r, "groups", groups);
    naive = (double *)grab((size_t)(rows * groups) * sizeof(double));
    for (int32_t g = 0; g < groups; g++) {
        double sum = 0.0, most = -1e9;
        for (int32_t t = 0; t < rows; t++)
            for (int32_t i = g * each; i < (g + 1) * each; i++) {
                sum += (double)r.in[t * width + i];
                if ((double)r.in[t * width + i] > most) most = (double)r.in[t * width + i];
            }
        for (int32_t t = 0; t < rows; t++)
            naive[t * groups + g] = kind[1] == 'a' ? most : kind[0] == 's' ? sum : sum / rows / each;
    }
    if (rig_bind(&r)) rig_check(&r, naive, 3e-6, "pool");
    free(naive);
    rig_close(&r);
}
static void test_others_refused(void)
{
    rig r;
    rig_open(&r, sqm_mixer_running_softmax(), 10, 1);
    rig_number(&r, "heads", 3); rig_number(&r, "v_dim", 2);
    REFUSED(&r, "do not fit rows of 10");
    rig_open(&r, sqm_mixer_running_softmax(), 3, 1);
    rig_number(&r, "heads", 3); rig_number(&r, "weights", 1); rig_number(&r, "v_dim", 2);
    REFUSED(&r, "weights=1 goes with");
    rig_open(&r, sqm_mixer_ridge(), 20, 1);
    rig_number(&r, "heads", 2); rig_number(&r, "dim", 4);
    REFUSED(&r, "needs lambda=");
    rig_open(&r, sqm_mixer_ridge(), 21, 1);
    rig_number(&r, "heads", 2); rig_number(&r, "dim", 4);
    REFUSED(&r, "do not fit rows of 21");
    rig_open(&r, sqm_mixer_slstm(), 10, 1);
    rig_number(&r, "heads", 2);
    REFUSED(&r, "not four gates");
    rig_open(&r, sqm_mixer_slstm(), 16, 1);
    rig_number(&r, "heads", 2);
    REFUSED(&r, "needs recurrent weights");
    rig_open(&r, sqm_mixer_shift(), 10, 1);
    rig_number(&r, "mixes", 2); rig_number(&r, "dynamic", 1);
    REFUSED(&r, "not a row and 2 mixes");
    rig_open(&r, sqm_mixer_shift(), 10, 1);
    rig_number(&r, "mixes", 2);
    REFUSED(&r, "need weights");
    rig_open(&r, sqm_mixer_pool(), 10, 1);
    rig_number(&r, "groups", 3);
    REFUSED(&r, "divide into 3 groups");
    rig_open(&r, sqm_mixer_pool(), 10, 1);
    rig_word(&r, "kind", "median");
    REFUSED(&r, "median");
}

/* ---- ops of recipes ------------------------------------------------------------------------------------ */
enum { ROWS = 9 };
/* Runs `lines` over rows [ROWS, width] with vectors "w" [n_w] and a matrix "m" [5, 7]; NULL: refused, err
   says why. */
static float *run_lines(const char *lines, int32_t width, const float *rows, const float *w, int32_t n_w,
                        const float *matrix, int32_t *out_width, sqm_error *err)
{
    const char *path = TEST_TMP "test_mix_linear.sqm";
    const int32_t sizes[2] = { 5, 7 };
    uint8_t panels[7 * 64];
    char text[600];
    sqm_writer *writer = sqm_writer_open(path, err);
    sqm_session_config config;
    sqm_session *s;
    sqm_model *m;
    sqm_model_info info;
    float *out;
    snprintf(text, sizeof(text), "input r0 rows width=%d\n%shead logits r1\n", (int)width, lines);
    sqm_writer_declare(writer, "w", SQM_F32, SQM_ROWS, 1, &n_w);
    sqm_writer_declare(writer, "m", SQM_F32, SQM_PANELS, 2, sizes);
    sqm_writer_recipe(writer, text);
    CHECK(sqm_pack(panels, sizeof(panels), SQM_F32, matrix, 5, 7, NULL, err) == SQM_OK);
    sqm_writer_data(writer, w, (size_t)n_w * sizeof(float));
    sqm_writer_data(writer, panels, sizeof(panels));
    if (sqm_writer_close(writer, err) != SQM_OK) return NULL;
    m = sqm_load_file(path, NULL, err);
    remove(path);
    if (!m) return NULL;
    memset(&config, 0, sizeof(config));
    config.max_context = 64;
    s = sqm_session_create(m, &config, err);
    sqm_model_get_info(m, &info);
    *out_width = info.vocab_size;
    out = (float *)grab(ROWS * (size_t)info.vocab_size * sizeof(float));
    CHECK(s && sqm_feed_rows_all(s, 0, rows, ROWS, out) == SQM_OK);
    sqm_session_free(s);
    sqm_model_free(m);
    return out;
}

static float rows_of_ops[ROWS * 24], vector_of_ops[96], matrix_of_ops[5 * 7];
static const float *R(int32_t t) { return rows_of_ops + t * 24; }

static void check_lines(const char *lines, int32_t width, int32_t n_w, double (*want)(int32_t t, int32_t i),
                        double tol)
{
    sqm_error err;
    int32_t n = 0;
    float *got = run_lines(lines, 24, rows_of_ops, vector_of_ops, n_w, matrix_of_ops, &n, &err), *all;
    if (!got) { printf("%s: %s\n", lines, err.text); CHECK(got != NULL); return; }
    CHECK(n == width);
    all = (float *)grab((size_t)(ROWS * n) * sizeof(float));
    for (int32_t t = 0; t < ROWS; t++)
        for (int32_t i = 0; i < n; i++) all[t * n + i] = (float)want(t, i);
    CHECK_CLOSE(got, all, ROWS * n, tol, lines);
    free(got); free(all);
}
/* groups of 4 columns from 8 on, scale 2               */
static double want_softmax(int32_t t, int32_t i)
{
    double sum = 0.0;
    if (i < 8) return (double)R(t)[i];
    for (int32_t j = i / 4 * 4; j < i / 4 * 4 + 4; j++) sum += exp(2.0 * (double)R(t)[j]);
    return exp(2.0 * (double)R(t)[i]) / sum;
}
static double want_sum(int32_t t, int32_t g)
{
    double sum = 0.0;
    for (int32_t j = g * 6; j < g * 6 + 6; j++) sum += (double)R(t)[j];
    return sum;
}
static double want_mean(int32_t t, int32_t g) { return want_sum(t, g) / 6.0; }
static double want_max(int32_t t, int32_t g)
{
    double most = -1e9;
    for (int32_t j = g * 6; j < g * 6 + 6; j++) most = (double)R(t)[j] > most ? (double)R(t)[j] : most;
    return most;
}
static double want_mirror(int32_t t, int32_t i)
{
    const int32_t g = i / 16, at = i % 16;
    return at < 8 ? (double)R(t)[g * 8 + at] : -(double)R(t)[g * 8 + at - 8];
}
static double want_clip(int32_t t, int32_t i)
{
    const double x = (double)R(t)[i];
    return i < 3 || i >= 20 ? x : x < -0.25 ? -0.25 : x > 0.5 ? 0.5 : x;
}
/* 3 groups of 8 -> 4                                    */
static double want_blocks(int32_t t, int32_t o)
{
    double sum = 0.0;
    for (int32_t i = 0; i < 8; i++)
        sum += (double)R(t)[o / 4 * 8 + i] * (double)vector_of_ops[(o / 4 * 8 + i) * 4 + o % 4];
    return sum;
}
static double want_shared(int32_t t, int32_t o)
{
    double sum = 0.0;
    for (int32_t i = 0; i < 8; i++) sum += (double)R(t)[o / 4 * 8 + i] * (double)vector_of_ops[i * 4 + o % 4];
    return sum;
}
/* 6 groups of 4: 1 + 4 + 10                             */
static double want_monomials(int32_t t, int32_t i)
{
    const float *x = R(t) + i / 15 * 4;
    int32_t k = i % 15 - 5;
    if (i % 15 == 0) return 1.0;
    if (i % 15 < 5) return (double)x[i % 15 - 1];
    for (int32_t a = 0; a < 4; a++)
        for (int32_t b = a; b < 4; b++)
            if (k-- == 0) return (double)x[a] * (double)x[b];
    return 0.0;
}
static double want_wide_mul(int32_t t, int32_t i) { return (double)R(t)[i] * want_sum(t, i / 6); }
static double want_wide_add(int32_t t, int32_t i) { return (double)R(t)[i] + want_sum(t, i / 6); }
/* columns 4 .. 11 through exp, then 2 x, then + w        */
static double want_columns(int32_t t, int32_t i)
{
    return i < 4 || i >= 12 ? (double)R(t)[i] : 2.0 * exp((double)R(t)[i]) + (double)vector_of_ops[i - 4];
}
static double want_linear_from(int32_t t, int32_t o)
{
    double sum = 0.0;
    for (int32_t i = 0; i < 7; i++) sum += (double)R(t)[11 + i] * (double)matrix_of_ops[o * 7 + i];
    return sum;
}
static double want_norm_sum(int32_t t, int32_t i)
{
    double sum = 0.0;
    for (int32_t j = i / 8 * 8; j < i / 8 * 8 + 8; j++) sum += exp((double)R(t)[j]);
    return exp((double)R(t)[i]) / (sum + 0.5);
}
/* heads of 8, their last 4 channels, position t / 2 % 3  */
static double want_rope(int32_t t, int32_t i)
{
    const int32_t at = i % 8 - 4, pair = at & ~1, h = i / 8 * 8 + 4;
    const double phase = at < 0 ? 0.0 : (double)(t / 2 % 3) * (double)vector_of_ops[pair / 2];
    if (at < 0) return (double)R(t)[i];
    return at % 2 ? (double)R(t)[h + pair + 1] * cos(phase) + (double)R(t)[h + pair] * sin(phase)
                  : (double)R(t)[h + pair] * cos(phase) - (double)R(t)[h + pair + 1] * sin(phase);
}

static void test_ops(void)
{
    for (int i = 0; i < ROWS * 24; i++) rows_of_ops[i] = uniform();
    for (int i = 0; i < 96; i++) vector_of_ops[i] = uniform();
    for (int i = 0; i < 35; i++) matrix_of_ops[i] = uniform();
    check_lines("softmax r0 r0 first=8 groups=4 scale=2\ncopy r1 r0\n", 24, 1, want_softmax, 1e-6);
    check_lines("reduce r1 r0 kind=sum groups=4\n", 4, 1, want_sum, 1e-6);
    check_lines("reduce r1 r0 kind=mean groups=4\n", 4, 1, want_mean, 1e-6);
    check_lines("reduce r1 r0 kind=max groups=4\n", 4, 1, want_max, 0.0);
    check_lines("mirror r1 r0 groups=3\n", 48, 1, want_mirror, 0.0);
    check_lines("clip r0 r0 low=-0.25 high=0.5 first=3 count=17\ncopy r1 r0\n", 24, 1, want_clip, 0.0);
    check_lines("blocks r1 r0 w=@w out=4 groups=3\n", 12, 96, want_blocks, 1e-6);
    check_lines("blocks r1 r0 w=@w out=4 groups=3 shared=1\n", 12, 32, want_shared, 1e-6);
    check_lines("monomials r1 r0 groups=6\n", 90, 1, want_monomials, 1e-6);
    check_lines("reduce r2 r0 kind=sum groups=4\nmul r1 r0 r2\n", 24, 1, want_wide_mul, 1e-6);
    check_lines("reduce r2 r0 kind=sum groups=4\nadd r0 r0 r2\ncopy r1 r0\n", 24, 1, want_wide_add, 1e-6);
    check_lines("act r0 r0 kind=exp first=4 count=8\nscale r0 r0 by=2 first=4 count=8\n"
                "affine r0 r0 b=@w first=4 count=8\ncopy r1 r0\n", 24, 8, want_columns, 1e-6);
    check_lines("linear r1 r0 w=@m first=11\n", 5, 1, want_linear_from, 1e-6);
    check_lines("act r0 r0 kind=exp\nnorm r1 r0 kind=sum eps=0.5 groups=3\n", 24, 1, want_norm_sum, 1e-6);
    check_lines("rope r0 r0 first=4 heads=3 head_dim=8 dims=4 style=interleaved freq=@w divide=2 period=3\n"
                "copy r1 r0\n",
                24, 2, want_rope, 1e-6);
}
static void test_ops_refused(void)
{
    static const struct { const char *lines, *text; int32_t n_w; } cases[] = {
        { "softmax r1 r0 groups=5\n", "24 columns do not divide into 5 groups", 1 },
        { "softmax r1 r0 first=2\n", "only some columns in another register", 1 },
        { "act r0 r0 kind=exp first=20 count=5\ncopy r1 r0\n", "count = 5", 1 },
        { "reduce r1 r0 kind=median\n", "median", 1 },
        { "reduce r0 r0 kind=sum\ncopy r1 r0\n", "cannot work in place", 1 },
        { "clip r1 r0 low=2 high=1\n", "low <= high", 1 },
        { "blocks r1 r0 out=4 groups=3\n", "need w=", 96 },
        { "blocks r1 r0 w=@w out=4 groups=3\n", "w must be 96", 95 },
        { "reduce r2 r0 kind=sum groups=4\nmul r1 r2 r0\n", "r2 has 4 columns, r0 has 24", 1 },
        { "copy r2 r0 count=5\nadd r1 r0 r2\n", "r0 has 24 columns, r2 has 5", 1 },
        { "linear r1 r0 w=@m first=18\n", "6 columns from first= on", 1 },
        { "linear r1 r0 w=@m\n", "the rows have 24 columns", 1 },
        { "affine r0 r0 w=@w first=4 count=8\ncopy r1 r0\n", "w must be 8", 7 }
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        sqm_error err;
        int32_t n;
        float *got = run_lines(cases[i].lines, 24, rows_of_ops, vector_of_ops, cases[i].n_w, matrix_of_ops,
                               &n, &err);
        CHECK(!got);
        if (got) printf("accepted: %s", cases[i].lines);
        else if (!strstr(err.text, cases[i].text)) printf("\"%s\", expected \"%s\"\n", err.text,
                                                          cases[i].text);
        CHECK(!got && strstr(err.text, cases[i].text));
        free(got);
    }
}

int main(void)
{
    test_linear_shapes();
    test_linear_refused();
    test_whole(1, 3, 5, 1, 1);
    test_whole(3, 16, 33, 40, 1);
    test_whole(2, 17, 16, 30, 0);
    test_running(3, 5, 20, 0, 0);
    test_running(40, 1, 25, 1, 1);
    test_running(7, 20, 9, 1, 0);
    test_running(1, 16, 9, 0, 1);
    test_weights(37, 12);
    test_ridge(3, 5, 12);
    test_ridge(1, 16, 30);
    test_slstm(3, 6, 20);
    test_slstm(2, 20, 9);
    test_shift(20, 1, 0, 0, 9);
    test_shift(33, 3, 1, 0, 12);
    test_shift(16, 5, 1, 1, 7);
    test_shift(5, 2, 0, 1, 7);
    test_pool("mean", 24, 24, 9);
    test_pool("max", 24, 3, 9);
    test_pool("sum", 20, 2, 1);
    test_others_refused();
    test_ops();
    test_ops_refused();
    return check_report("test_mix_linear");
}
