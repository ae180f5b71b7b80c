/* test_mix_memory.c - memories that learn while they read, memory caching, memory as context, the exponential
   kernel's memory and codebook attention against naive double versions over random shapes. Cuts, batches,
   copies of states, threads and instruction sets give the same bits; wrong parameters are refused with a
   message. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "check.h"
#include <math.h>
#include <stdlib.h>

static uint32_t seed = 4321;
static uint32_t draw(uint32_t n) { seed = seed * 1664525u + 1013904223u; return (seed >> 8) % n; }
static float uniform(float low, float high) { return low + (high - low) * (float)draw(65536) / 65536.0f; }
static float *floats(size_t n)
{
    float *p = (float *)calloc(n ? n : 1, sizeof(float));
    if (!p) exit(2);
    return p;
}
static double *doubles(size_t n)
{
    double *p = (double *)calloc(n ? n : 1, sizeof(double));
    if (!p) exit(2);
    return p;
}
static void fill(float *p, size_t n, float low, float high) { while (n--) *p++ = uniform(low, high); }

/* ---- a bound mixer and its rows ------------------------------------------------------------------------ */
enum { MAX_PARAMS = 40 };
typedef struct bench {
    const sqm_mixer  *mixer;
    sqm_param         params[MAX_PARAMS];
    int32_t           n_params, width, out_width, rows;
    sqm_tensor        tensors[MAX_PARAMS];
    const sqm_tensor *lists[MAX_PARAMS];
    int32_t           n_tensors;
    uint64_t          bound[160];
    float            *in, *want;                       /* want: the scalar pass, all rows at once */
    size_t            n;                               /* floats of the output */
    void             *scratch;
    size_t            scratch_bytes;
} bench;

static void number(bench *b, const char *key, double v)
{
    sqm_param *p = &b->params[b->n_params++];
    memset(p, 0, sizeof(*p));
    p->key = key;
    p->number = v;
}
static void word(bench *b, const char *key, const char *text)
{
    number(b, key, 0.0);
    b->params[b->n_params - 1].text = text;
}
/* The next tensor of the list that `key` began (or begins) */
static void tensor(bench *b, const char *key, sqm_tensor t)
{
    const int32_t i = b->n_tensors++;
    sqm_param *last = b->n_params ? &b->params[b->n_params - 1] : NULL;
    b->tensors[i] = t;
    b->lists[i] = t.data ? &b->tensors[i] : NULL;
    if (last && last->tensors && strcmp(last->key, key) == 0) { last->n_tensors++; return; }
    number(b, key, 0.0);
    b->params[b->n_params - 1].tensors = &b->lists[i];
    b->params[b->n_params - 1].n_tensors = 1;
}
static void *kept_panels[512];                         /* freed by main */
static int n_kept;
/* panels of rows [rows, cols] */
static sqm_tensor panels_2d(const float *data, int32_t rows, int32_t cols)
{
    const sqm_tensor shape = sqm_tensor_2d(NULL, SQM_F32, SQM_PANELS, rows, cols);
    const size_t bytes = sqm_tensor_bytes(SQM_F32, SQM_PANELS, 2, shape.shape);
    void *to = malloc(bytes);
    CHECK(n_kept < 512);
    kept_panels[n_kept++] = to;
    CHECK(to && sqm_pack(to, bytes, SQM_F32, data, rows, cols, NULL, NULL) == SQM_OK);
    return sqm_tensor_2d(to, SQM_F32, SQM_PANELS, rows, cols);
}

static sqm_exec bench_exec(const bench *b, sqm_isa isa, int32_t threads)
{
    sqm_exec x;
    CHECK(sqm_exec_init(&x, isa, threads, b->scratch, b->scratch_bytes) == SQM_OK);
    return x;
}
static sqm_result bench_feed(const bench *b, sqm_exec *x, float *out, void *state, int32_t at, int32_t rows)
{
    sqm_span span = { NULL, 0, 0, 0, 0 };
    span.state = state;
    span.position = at;
    span.rows = rows;
    span.total = at + rows;
    return b->mixer->forward(b->bound, x, out, b->in + (size_t)at * (size_t)b->width, &span, 1);
}
static void *bench_state(const bench *b)
{
    const size_t bytes = b->mixer->state_bytes(b->bound, b->rows, b->rows, SQM_F32);
    void *state = malloc(bytes + 1);
    if (!state) exit(2);
    memset(state, 0xff, bytes);         /* reset must not count on zeros */
    b->mixer->reset(b->bound, state, bytes, b->rows, b->rows, SQM_F32);
    CHECK(b->mixer->used_bytes(b->bound, state, 0) <= b->mixer->used_bytes(b->bound, state, b->rows));
    CHECK(b->mixer->used_bytes(b->bound, state, b->rows) <= bytes);
    return state;
}
/* Binds; b->in, b->rows and b->width are set. Feeds everything at once by the scalar pass. */
static void bench_open(bench *b)
{
    sqm_error err;
    sqm_exec x;
    memset(&err, 0, sizeof(err));
    CHECK(b->mixer->bound_bytes <= sizeof(b->bound));
    if (b->mixer->bind(b->bound, b->params, b->n_params, b->width, &b->out_width, &err) != SQM_OK) {
        printf("bind: %s\n", err.text);
        CHECK(0);
        exit(1);
    }
    b->n = (size_t)b->rows * (size_t)b->out_width;
    b->want = floats(b->n);
    b->scratch_bytes = b->mixer->scratch_bytes(b->bound, b->rows, b->rows, 5) + 128 +
                       b->mixer->state_bytes(b->bound, b->rows, b->rows, SQM_F32);
    b->scratch = malloc(b->scratch_bytes);
    x = bench_exec(b, SQM_ISA_SCALAR, 1);
    CHECK(bench_feed(b, &x, b->want, NULL, 0, b->rows) == SQM_OK);
}
static void bench_close(bench *b)
{
    free(b->in);
    free(b->want);
    free(b->scratch);
}

static void run_backwards(void *user, sqm_task fn, void *arg, int32_t n)
{
    ++*(int32_t *)user;
    for (int32_t i = n - 1; i >= 0; i--) fn(arg, i);
}
/* Random pieces of at most `most` rows; halfway the state moves to other memory, as fork and load do. */
static void check_pieces(const bench *b, sqm_exec *x, int32_t most)
{
    float *got = floats(b->n);
    void *state = bench_state(b), *other = bench_state(b);
    int moved = 0;
    for (int32_t t = 0, rows; t < b->rows; t += rows) {
        rows = 1 + (int32_t)draw((uint32_t)most);
        if (rows > b->rows - t) rows = b->rows - t;
        if (t >= b->rows / 2 && !moved) {
            memcpy(other, state, b->mixer->used_bytes(b->bound, state, t));
            moved = 1;
        }
        CHECK(bench_feed(b, x, got + (size_t)t * (size_t)b->out_width, moved ? other : state, t, rows) ==
              SQM_OK);
    }
    CHECK(memcmp(got, b->want, b->n * 4) == 0);
    free(state); free(other); free(got);
}
/* Three sequences in one call: one of them from its middle, one without state. */
static void check_spans(const bench *b)
{
    const int32_t rows[3] = { b->rows - b->rows / 3, b->rows, b->rows / 2 + 1 };
    const int32_t past[3] = { b->rows / 3, 0, 0 };
    float *in = floats((size_t)(3 * b->rows) * (size_t)b->width), *out = floats(3 * b->n);
    sqm_exec x = bench_exec(b, SQM_ISA_AUTO, 3);
    sqm_span spans[3];
    int32_t first = 0;
    for (int i = 0; i < 3; i++) {
        spans[i].state = i == 1 ? NULL : bench_state(b);
        spans[i].first_row = first;
        spans[i].rows = rows[i];
        spans[i].position = past[i];
        spans[i].total = past[i] + rows[i];
        if (past[i]) CHECK(bench_feed(b, &x, out, spans[i].state, 0, past[i]) == SQM_OK);
        memcpy(in + (size_t)first * (size_t)b->width, b->in + (size_t)past[i] * (size_t)b->width,
               (size_t)rows[i] * (size_t)b->width * 4);
        first += rows[i];
    }
    CHECK(b->mixer->forward(b->bound, &x, out, in, spans, 3) == SQM_OK);
    for (int i = 0; i < 3; i++) {
        CHECK(memcmp(out + (size_t)spans[i].first_row * (size_t)b->out_width,
                     b->want + (size_t)past[i] * (size_t)b->out_width,
                     (size_t)(rows[i] * b->out_width) * 4) == 0);
        free(spans[i].state);
    }
    free(in); free(out);
}
static void check_scratch(const bench *b)
{
    uint8_t *aligned = (uint8_t *)b->scratch + (64 - (uintptr_t)b->scratch % 64) % 64;
    float *out = floats(b->n);
    size_t need;
    sqm_exec x;
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, NULL, 0) == SQM_OK);
    CHECK(bench_feed(b, &x, out, NULL, 0, b->rows) == SQM_E_MEMORY && strstr(x.error.text, b->mixer->name));
    need = (size_t)x.error.value;
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, aligned, need - 1) == SQM_OK);
    CHECK(bench_feed(b, &x, out, NULL, 0, b->rows) == SQM_E_MEMORY && (size_t)x.error.value == need);
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, aligned, need) == SQM_OK);
    CHECK(bench_feed(b, &x, out, NULL, 0, b->rows) == SQM_OK && memcmp(out, b->want, b->n * 4) == 0);
    CHECK(bench_feed(b, &x, out, NULL, 3, 1) == SQM_E_ARGUMENT && strstr(x.error.text, "position"));
    free(out);
}
static void check_everywhere(const bench *b)
{
    static const sqm_isa isas[] = { SQM_ISA_SCALAR, SQM_ISA_AVX2, SQM_ISA_AVX512, SQM_ISA_NEON };
    const int whole = (b->mixer->flags & SQM_MIXER_WHOLE_ONLY) != 0;
    float *got = floats(b->n);
    sqm_parallel pool;
    int32_t calls = 0;
    sqm_exec x;
    for (int i = 0; i < 4; i++) {
        if (!sqm_cpu_has(isas[i])) continue;
        x = bench_exec(b, isas[i], 1);
        CHECK(bench_feed(b, &x, got, NULL, 0, b->rows) == SQM_OK && memcmp(got, b->want, b->n * 4) == 0);
        if (!whole) for (int32_t most = 1; most < 40; most += 19) check_pieces(b, &x, most);
    }
    pool.run = run_backwards;
    pool.user = &calls;
    pool.threads = 5;
    x = bench_exec(b, SQM_ISA_AUTO, 5);
    CHECK(bench_feed(b, &x, got, NULL, 0, b->rows) == SQM_OK && memcmp(got, b->want, b->n * 4) == 0);
    x.parallel = &pool;
    CHECK(bench_feed(b, &x, got, NULL, 0, b->rows) == SQM_OK && memcmp(got, b->want, b->n * 4) == 0);
    if (!whole) check_pieces(b, &x, 17);
    if (!whole) check_spans(b);
    check_scratch(b);
    free(got);
}

/* ---- the naive memory ---------------------------------------------------------------------------------- */
typedef struct spec {
    int32_t heads, dim, v_dim, hidden, rows, window, chunk;
    int     kind, loss, update, act, residual, bias, rate, retain, weights;    /* as in [MIX.memory] */
    int     absolute;                                  /* kernel=abs */
    int32_t width;                                     /* of a row */
    float  *start[3], *gain, *shift, *steps;           /* start: in, gate, out */
} spec;

static double act_of(int kind, double x)
{
    switch (kind) {
    case SQM_ACT_SILU:      return x / (1.0 + exp(-x));
    case SQM_ACT_GELU:      return 0.5 * x * (1.0 + erf(x * 0.70710678118654752));
    case SQM_ACT_GELU_TANH: return 0.5 * x * (1.0 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
    case SQM_ACT_QUICK_GELU: return x / (1.0 + exp(-1.702 * x));
    case SQM_ACT_RELU:      return x > 0.0 ? x : 0.0;
    case SQM_ACT_RELU2:     return x > 0.0 ? x * x : 0.0;
    case SQM_ACT_SIGMOID:   return 1.0 / (1.0 + exp(-x));
    case SQM_ACT_TANH:      return tanh(x);
    default:                return x;
    }
}
static double slope_of(int kind, double x)             /* by a difference: the corner of relu is never hit */
{
    const double step = 1e-6;
    return (act_of(kind, x + step) - act_of(kind, x - step)) / (2.0 * step);
}

typedef struct net {                                   /* one head's matrices, row-major, bias rows last */
    int32_t rows[3], cols[3];
    double *w[3];                                      /* in, gate, out; NULL: none */
} net;
static net net_new(const spec *s)
{
    net n;
    memset(&n, 0, sizeof(n));
    for (int i = 0; i < 3; i++) {
        if ((i == 0 && s->kind == 0) || (i == 1 && s->kind < 2)) continue;
        n.rows[i] = (i == 2 && s->kind ? s->hidden : s->dim) + s->bias;
        n.cols[i] = i == 2 ? s->v_dim : s->hidden;
        n.w[i] = doubles((size_t)(n.rows[i] * n.cols[i]));
    }
    return n;
}
static void net_free(net *n) { for (int i = 0; i < 3; i++) free(n->w[i]); }
static void net_mix(net *to, const net *from, double keep, double take)
{
    for (int i = 0; i < 3; i++)
        for (int32_t j = 0; j < to->rows[i] * to->cols[i]; j++)
            to->w[i][j] = keep * to->w[i][j] + take * from->w[i][j];
}
static void net_start(net *n, const spec *s, int32_t h)
{
    for (int i = 0; i < 3; i++)
        for (int32_t j = 0; n->w[i] && j < n->rows[i] * n->cols[i]; j++)
            n->w[i][j] = s->start[i] ? (double)s->start[i][h * n->rows[i] * n->cols[i] + j] : 0.0;
}

typedef struct trace { double x[64], z[64], u[64], h[64], y[64]; } trace;
static void layer(double *y, const double *w, int32_t rows, int32_t cols, const double *x)
{
    for (int32_t c = 0; c < cols; c++) {
        y[c] = 0.0;
        for (int32_t r = 0; r < rows; r++) y[c] += x[r] * w[r * cols + c];
    }
}
static void net_read(const spec *s, const net *n, const double *x, trace *t)
{
    memcpy(t->x, x, (size_t)s->dim * sizeof(double));
    t->x[s->dim] = 1.0;
    if (n->w[0]) {
        layer(t->z, n->w[0], n->rows[0], n->cols[0], t->x);
        if (n->w[1]) layer(t->u, n->w[1], n->rows[1], n->cols[1], t->x);
        for (int32_t i = 0; i < s->hidden; i++) t->h[i] = act_of(s->act, t->z[i]) * (n->w[1] ? t->u[i] : 1.0);
        t->h[s->hidden] = 1.0;
    }
    layer(t->y, n->w[2], n->rows[2], n->cols[2], n->w[0] ? t->h : t->x);
    for (int32_t i = 0; s->residual && i < s->v_dim; i++) t->y[i] += x[i];
}
static void normed(const spec *s, int32_t h, const double *z, double *y, double *inverse)
{
    double mean = 0.0, squares = 0.0;
    for (int32_t i = 0; i < s->v_dim; i++) mean += z[i] / s->v_dim;
    for (int32_t i = 0; i < s->v_dim; i++) squares += (z[i] - mean) * (z[i] - mean) / s->v_dim;
    *inverse = 1.0 / sqrt(squares + 1e-6);
    for (int32_t i = 0; i < s->v_dim; i++) y[i] = (z[i] - mean) * *inverse;
    (void)h;
}
/* g += weight * gradient of the loss of (x, v) at n */
static void net_gradient(const spec *s, const net *n, int32_t h, const double *x, const double *v,
                         double weight, net *g)
{
    double e[64], hat[64], inverse, sum = 0.0, dot = 0.0, back[64];
    trace t;
    net_read(s, n, x, &t);
    normed(s, h, t.y, hat, &inverse);
    for (int32_t i = 0; i < s->v_dim; i++) {
        if (s->loss == 1) e[i] = -v[i];
        else if (s->loss == 0) e[i] = 2.0 * (t.y[i] - v[i]);
        else {
            const double gain = (double)s->gain[h * s->v_dim + i];
            e[i] = (gain * hat[i] + (double)s->shift[h * s->v_dim + i] - (v[i] - x[i])) * gain;
            sum += e[i];
            dot += e[i] * hat[i];
        }
    }
    for (int32_t i = 0; s->loss == 2 && i < s->v_dim; i++)
        e[i] = (e[i] - (sum + hat[i] * dot) / s->v_dim) * inverse;
    for (int32_t r = 0; r < n->rows[2]; r++)
        for (int32_t c = 0; c < s->v_dim; c++)
            g->w[2][r * s->v_dim + c] += weight * (n->w[0] ? t.h[r] : t.x[r]) * e[c];
    for (int32_t i = 0; n->w[0] && i < s->hidden; i++) {
        back[i] = 0.0;
        for (int32_t c = 0; c < s->v_dim; c++) back[i] += e[c] * n->w[2][i * s->v_dim + c];
    }
    for (int32_t r = 0; r < n->rows[0]; r++)
        for (int32_t i = 0; i < s->hidden; i++) {
            g->w[0][r * s->hidden + i] += weight * t.x[r] * back[i] * (n->w[1] ? t.u[i] : 1.0) *
                                          slope_of(s->act, t.z[i]);
            if (n->w[1]) g->w[1][r * s->hidden + i] += weight * t.x[r] * back[i] * act_of(s->act, t.z[i]);
        }
}
static void newton(double *to, const double *from, int32_t rows, int32_t cols)
{
    double *a = doubles((size_t)(rows * rows)), *b = doubles((size_t)(rows * rows));
    double *x = doubles((size_t)(rows * cols));
    double squares = 0.0;
    for (int32_t i = 0; i < rows * cols; i++) squares += from[i] * from[i];
    for (int32_t i = 0; i < rows * cols; i++) to[i] = from[i] / (sqrt(squares) + 1e-7);
    for (int step = 0; step < 5; step++) {
        for (int32_t i = 0; i < rows * rows; i++) {
            a[i] = 0.0;
            for (int32_t c = 0; c < cols; c++) a[i] += to[i / rows * cols + c] * to[i % rows * cols + c];
        }
        for (int32_t i = 0; i < rows * rows; i++) {
            b[i] = -4.7750 * a[i];
            for (int32_t k = 0; k < rows; k++)
                b[i] += 2.0315 * a[i / rows * rows + k] * a[k * rows + i % rows];
        }
        for (int32_t i = 0; i < rows * cols; i++) {
            x[i] = 3.4445 * to[i];
            for (int32_t k = 0; k < rows; k++) x[i] += b[i / cols * rows + k] * to[k * cols + i % cols];
        }
        memcpy(to, x, (size_t)(rows * cols) * sizeof(double));
    }
    free(a); free(b); free(x);
}

/* Where a part of a row begins: q k v rate retain momentum weights, and its end */
static int32_t column(const spec *s, int part, int32_t h)
{
    const int momentum = s->update == 1 || s->update == 3;
    const int32_t sizes[8] = { s->dim, s->dim, s->v_dim, s->rate, s->retain, momentum,
                               s->weights ? s->window : 0, 0 };
    int32_t at = 0;
    for (int i = 0; i < part; i++) at += s->heads * sizes[i];
    return at + h * sizes[part];
}
typedef struct learner { net m, sum, anchor, read; } learner;       /* read: what the last token reads */
static void to_doubles(double *d, const float *f, int32_t n) { while (n--) *d++ = (double)*f++; }

/* Token t of head h, `age` tokens after a start */
static void learn(const spec *s, learner *l, const float *in, int32_t h, int32_t t, int32_t age)
{
    const float *row = in + (size_t)t * (size_t)s->width;
    const double rate = s->rate ? (double)row[column(s, 3, h)] : 1.0;
    const double retain = s->retain ? (double)row[column(s, 4, h)] : 1.0;
    const double momentum = s->update == 1 || s->update == 3 ? (double)row[column(s, 5, h)] : 1.0;
    net g = net_new(s);
    if (age % s->chunk == 0) net_mix(&l->anchor, &l->m, 0.0, 1.0);
    for (int32_t lag = 0; lag < s->window && lag <= age; lag++) {
        const float *pair = in + (size_t)(t - lag) * (size_t)s->width;
        double x[64], v[64];
        to_doubles(x, pair + column(s, 1, h), s->dim);
        to_doubles(v, pair + column(s, 2, h), s->v_dim);
        net_gradient(s, &l->anchor, h, x, v, s->weights ? (double)row[column(s, 6, h) + lag] : 1.0, &g);
    }
    if (s->update == 0) net_mix(&l->m, &g, retain, -rate);
    if (s->update == 1 || s->update == 3) net_mix(&l->sum, &g, momentum, s->update == 1 ? -rate : -1.0);
    if (s->update == 1) net_mix(&l->m, &l->sum, retain, 1.0);
    if (s->update == 3) {
        for (int i = 0; i < 3; i++) if (g.w[i]) newton(g.w[i], l->sum.w[i], g.rows[i], g.cols[i]);
        net_mix(&l->m, &g, retain, rate);
    }
    if (s->update == 2) {
        net_mix(&l->sum, &g, age % s->chunk ? 1.0 : 0.0, -rate);
        net_mix(&l->m, &l->anchor, 0.0, 1.0);
        net_mix(&l->m, &l->sum, 1.0, s->steps ? (double)s->steps[age % s->chunk] : 1.0);
    }
    net_free(&g);
}
static void read_at(const spec *s, const net *n, const float *row, int32_t h, double *y)
{
    double q[64], hat[64], inverse;
    trace t;
    to_doubles(q, row + column(s, 0, h), s->dim);
    net_read(s, n, q, &t);
    normed(s, h, t.y, hat, &inverse);
    for (int32_t i = 0; i < s->v_dim; i++)
        y[i] = s->loss != 2 ? t.y[i] : q[i] + hat[i] * (double)s->gain[h * s->v_dim + i] +
                                       (double)s->shift[h * s->v_dim + i];
}
static learner learner_new(const spec *s)
{
    learner l;
    l.m = net_new(s); l.sum = net_new(s); l.anchor = net_new(s); l.read = net_new(s);
    return l;
}
static void learner_free(learner *l)
{
    net_free(&l->m); net_free(&l->sum); net_free(&l->anchor); net_free(&l->read);
}

/* ---- memory -------------------------------------------------------------------------------------------- */
static const char *const kinds[] = { "linear", "mlp", "gated" }, *const losses[] = { "l2", "dot", "norm" };
/* by sqm_act, as far as they are drawn */
static const char *const acts[] = { "none", "silu", "gelu", "gelu_tanh", "relu", "relu2", "quick_gelu",
                                    "sigmoid", "tanh" };
static const char *const updates[] = { "descent", "momentum", "sum", "muon" };

static spec spec_draw(int i)
{
    spec s;
    memset(&s, 0, sizeof(s));
    s.heads = 1 + (int32_t)draw(3);
    s.dim = 1 + (int32_t)draw(20);
    s.v_dim = 1 + (int32_t)draw(20);
    s.hidden = 1 + (int32_t)draw(24);
    s.rows = 30 + (int32_t)draw(20);
    s.kind = i % 3;
    s.update = i / 3 % 4;
    s.loss = i / 12 % 3;
    s.act = 1 + (int)draw(8);
    s.window = draw(2) ? 1 + (int32_t)draw(5) : 1;
    s.chunk = draw(2) ? 1 + (int32_t)draw(9) : 1;
    s.bias = s.update == 3 ? 0 : (int)draw(2);
    s.residual = s.kind && draw(2);
    s.rate = s.update == 3 || draw(4) > 0;
    s.retain = s.update != 2 && draw(4) > 0;
    s.weights = !s.rate || draw(4) > 0;
    if (s.residual || s.loss == 2) s.v_dim = s.dim = 4 + s.dim;
    if (s.loss == 1 || !s.rate || s.update == 3) s.rows = 24;
    if (s.loss == 2) {                                 /* a constant output has no direction to normalise */
        s.hidden += 4;
        if (s.act == SQM_ACT_RELU || s.act == SQM_ACT_RELU2) s.act = SQM_ACT_GELU;
    }
    return s;
}
static void spec_fill(spec *s)
{
    for (int i = 0; i < 3; i++) {
        net n = net_new(s);
        const size_t count = (size_t)(s->heads * n.rows[i] * n.cols[i]);
        if (n.w[i]) { s->start[i] = floats(count); fill(s->start[i], count, -0.4f, 0.4f); }
        net_free(&n);
    }
    s->gain = floats((size_t)(s->heads * s->v_dim));
    s->shift = floats((size_t)(s->heads * s->v_dim));
    s->steps = floats((size_t)s->chunk);
    fill(s->gain, (size_t)(s->heads * s->v_dim), 0.5f, 1.5f);
    fill(s->shift, (size_t)(s->heads * s->v_dim), -0.2f, 0.2f);
    fill(s->steps, (size_t)s->chunk, 0.2f, 1.0f);
    s->width = column(s, 7, 0);
}
static void spec_free(spec *s)
{
    for (int i = 0; i < 3; i++) free(s->start[i]);
    free(s->gain); free(s->shift); free(s->steps);
}
/* Rows with keys and queries of length about 1, and gates at which nothing diverges */
static void spec_rows(const spec *s, float *in, int32_t stride)
{
    const float reach = 1.0f / sqrtf((float)s->dim), fast = s->update == 3 ? 0.05f : 0.02f;
    for (int32_t t = 0; t < s->rows; t++, in += stride) {
        fill(in, (size_t)(2 * s->heads * s->dim), -reach, reach);
        fill(in + column(s, 2, 0), (size_t)(s->heads * s->v_dim), -1.0f, 1.0f);
        if (s->rate) fill(in + column(s, 3, 0), (size_t)s->heads, 0.0f, fast);
        if (s->retain) fill(in + column(s, 4, 0), (size_t)s->heads, 0.8f, 1.0f);
        if (s->update == 1 || s->update == 3) fill(in + column(s, 5, 0), (size_t)s->heads, 0.2f, 0.8f);
        if (s->weights)
            fill(in + column(s, 6, 0), (size_t)(s->heads * s->window), 0.0f, s->rate ? 1.0f : 0.02f);
    }
}
static void spec_params(bench *b, const spec *s)
{
    net n = net_new(s);
    number(b, "heads", s->heads);
    number(b, "head_dim", s->dim);
    number(b, "v_dim", s->v_dim);
    word(b, "memory", kinds[s->kind]);
    word(b, "loss", losses[s->loss]);
    word(b, "update", updates[s->update]);
    word(b, "act", acts[s->act]);
    if (s->kind) number(b, "hidden", s->hidden);
    number(b, "residual", s->residual);
    number(b, "bias", s->bias);
    number(b, "window", s->window);
    number(b, "chunk", s->chunk);
    number(b, "rate", s->rate);
    number(b, "retain", s->retain);
    number(b, "weights", s->weights);
    if (s->update == 2) tensor(b, "steps", sqm_tensor_1d(s->steps, SQM_F32, s->chunk));
    if (s->loss == 2) {
        tensor(b, "norm", sqm_tensor_1d(s->gain, SQM_F32, s->heads * s->v_dim));
        tensor(b, "norm_b", sqm_tensor_1d(s->shift, SQM_F32, s->heads * s->v_dim));
    }
    for (int i = 0; i < 3; i++)
        if (n.w[i])
            tensor(b, "start", sqm_tensor_2d(s->start[i], SQM_F32, SQM_ROWS, s->heads * n.rows[i],
                                             n.cols[i]));
    net_free(&n);
}
/* The floats that the documentation promises, see table */
static int32_t pad16(int32_t n) { return (n + 15) / 16 * 16; }
static size_t pad(int32_t n) { return (size_t)pad16(n); }
static size_t spec_weights(const spec *s)
{
    const int32_t in = s->dim + s->bias, out = (s->kind ? s->hidden : s->dim) + s->bias;
    return (size_t)s->kind * (size_t)in * pad(s->hidden) + (size_t)out * pad(s->v_dim);
}
static size_t spec_floats(const spec *s)
{
    const size_t copies = 1u + (s->update != 0) + (s->chunk > 1 && s->update != 2);
    return (size_t)s->heads * (copies * spec_weights(s) + pad((s->window - 1) * (s->dim + s->v_dim)));
}
static void check_state(const bench *b, int32_t context, size_t floats_wanted)
{
    CHECK(b->mixer->state_bytes(b->bound, context, 8, SQM_F32) == floats_wanted * sizeof(float));
}
static void test_memory(int i)
{
    spec s = spec_draw(i);
    bench b;
    float *naive;
    spec_fill(&s);
    memset(&b, 0, sizeof(b));
    b.mixer = sqm_mixer_memory();
    b.rows = s.rows;
    b.width = s.width;
    b.in = floats((size_t)(s.rows * s.width));
    spec_rows(&s, b.in, s.width);
    spec_params(&b, &s);
    bench_open(&b);
    naive = floats(b.n);
    for (int32_t h = 0; h < s.heads; h++) {
        learner l = learner_new(&s);
        net_start(&l.m, &s, h);
        for (int32_t t = 0; t < s.rows; t++) {
            double y[64];
            learn(&s, &l, b.in, h, t, t);
            read_at(&s, &l.m, b.in + (size_t)t * (size_t)s.width, h, y);
            for (int32_t j = 0; j < s.v_dim; j++) naive[(t * s.heads + h) * s.v_dim + j] = (float)y[j];
        }
        learner_free(&l);
    }
    check_state(&b, 1000, spec_floats(&s));
    CHECK_CLOSE(b.want, naive, b.n, s.update == 3 ? 3e-3 : s.loss == 2 ? 1e-4 : 2e-5, kinds[s.kind]);
    check_everywhere(&b);
    free(naive);
    bench_close(&b);
    spec_free(&s);
}

/* ---- memory caching ------------------------------------------------------------------------------------ */
static const char *const combines[] = { "sum", "softmax", "soup", "mean" };
typedef struct cache { int32_t segment, top, pool; int combine, fresh; } cache;

/* What the memories of finished segments (and the running one, last) weigh for token t */
static void shares(const cache *c, const float *in, int32_t width, int32_t t, double *g)
{
    const int32_t kept = t / c->segment, at = width - 2 * c->pool;
    const float *u = in + (size_t)t * (size_t)width + at + c->pool;
    double largest = -1e300, sum = 0.0, limit = -1e300;
    for (int32_t i = 0; i <= kept; i++) {
        const int32_t last = i < kept ? (i + 1) * c->segment : t + 1;
        g[i] = 0.0;
        for (int32_t j = 0; j < c->pool; j++) {
            double mean = 0.0;
            for (int32_t p = i * c->segment; p < last; p++)
                mean += (double)in[(size_t)p * (size_t)width + (size_t)(at + j)] / (last - i * c->segment);
            g[i] += (double)u[j] * mean;
        }
    }
    for (int32_t i = 0; c->top && kept > c->top && i < kept; i++) {
        int32_t above = 0;
        for (int32_t j = 0; j < kept; j++) above += g[j] > g[i];
        if (above == c->top - 1) limit = g[i];
    }
    for (int32_t i = 0; i <= kept; i++) if (g[i] > largest) largest = g[i];
    for (int32_t i = 0; i <= kept; i++) {
        if (c->combine == 0) g[i] = 1.0;
        else if (c->combine == 3) g[i] = 1.0 / (kept + 1);
        else { g[i] = i < kept && g[i] < limit ? 0.0 : exp(g[i] - largest); sum += g[i]; }
    }
    for (int32_t i = 0; c->combine == 1 || c->combine == 2 ? i <= kept : 0; i++) g[i] /= sum;
}
static void naive_caching(const spec *s, const cache *c, const float *in, int32_t h, float *out)
{
    learner l = learner_new(s);
    net kept[32];
    int32_t n = 0;
    net_start(&l.m, s, h);
    for (int32_t t = 0; t < s->rows; t++) {
        const float *row = in + (size_t)t * (size_t)s->width;
        double g[33], y[64], sum[64] = { 0.0 };
        learn(s, &l, in, h, t, t % c->segment);
        shares(c, in, s->width, t, g);
        net_mix(&l.read, &l.m, 0.0, c->combine < 2 ? 1.0 : g[n]);
        for (int32_t i = 0; i <= n; i++) {
            if (c->combine >= 2) { if (i < n) net_mix(&l.read, &kept[i], 1.0, g[i]); continue; }
            read_at(s, i < n ? &kept[i] : &l.m, row, h, y);
            for (int32_t j = 0; j < s->v_dim; j++) sum[j] += g[i] * y[j];
        }
        if (c->combine >= 2) read_at(s, &l.read, row, h, sum);
        for (int32_t j = 0; j < s->v_dim; j++) out[(t * s->heads + h) * s->v_dim + j] = (float)sum[j];
        if (t % c->segment < c->segment - 1) continue;
        kept[n] = net_new(s);
        net_mix(&kept[n++], &l.m, 0.0, 1.0);
        if (c->fresh) net_start(&l.m, s, h);
        net_mix(&l.sum, &l.sum, 0.0, 0.0);
    }
    while (n--) net_free(&kept[n]);
    learner_free(&l);
}
static void test_caching(int i)
{
    spec s = spec_draw(i * 7);
    cache c;
    bench b;
    float *naive;
    memset(&c, 0, sizeof(c));
    c.combine = i % 4;
    c.fresh = (int)draw(2);
    if (c.combine >= 2 && s.update == 2) { s.update = 1; s.retain = 0; }
    if (s.update == 3) s.update = 0;                   /* its own noise would hide what is tested here */
    c.segment = s.chunk * (1 + (int32_t)draw(6));
    if (c.segment < 3) c.segment = 3 * s.chunk;
    c.top = c.combine == 1 && draw(2) ? 1 + (int32_t)draw(3) : 0;
    c.pool = c.combine == 1 || c.combine == 2 ? 1 + (int32_t)draw(20) : 0;
    spec_fill(&s);
    s.width += 2 * c.pool;
    memset(&b, 0, sizeof(b));
    b.mixer = sqm_mixer_memory_caching();
    b.rows = s.rows;
    b.width = s.width;
    b.in = floats((size_t)(s.rows * s.width));
    fill(b.in, (size_t)(s.rows * s.width), -1.0f, 1.0f);
    spec_rows(&s, b.in, s.width);
    spec_params(&b, &s);
    number(&b, "segment", c.segment);
    word(&b, "combine", combines[c.combine]);
    number(&b, "fresh", c.fresh);
    if (c.top) number(&b, "top", c.top);
    if (c.pool) number(&b, "pool", c.pool);
    bench_open(&b);
    naive = floats(b.n);
    for (int32_t h = 0; h < s.heads; h++) naive_caching(&s, &c, b.in, h, naive);
    check_state(&b, 1000, spec_floats(&s) + pad(c.pool) + (size_t)(1000 / c.segment) *
                (pad(c.pool) + (size_t)s.heads * spec_weights(&s)));
    CHECK_CLOSE(b.want, naive, b.n, s.loss == 2 ? 1e-4 : 3e-5, combines[c.combine]);
    check_everywhere(&b);
    free(naive);
    bench_close(&b);
    spec_free(&s);
}

/* ---- memory as context --------------------------------------------------------------------------------- */
enum { CONTEXT_PERSISTENT = 2, CONTEXT_SEGMENT = 7 };
typedef struct maps { float *persistent, *attend[4], *learn, *bias; } maps;    /* learn [columns, width] */

static void map(double *y, const float *w, const float *bias, const double *x, int32_t rows, int32_t cols)
{
    for (int32_t r = 0; r < rows; r++) {
        y[r] = bias ? (double)bias[r] : 0.0;
        for (int32_t c = 0; c < cols; c++) y[r] += (double)w[r * cols + c] * x[c];
    }
}
/* Columns of one row, from y: normalised q and k, gates */
static void context_row(const spec *s, const maps *m, const double *y, float *row)
{
    const int32_t width = s->heads * s->v_dim, keys = s->heads * s->dim, gates = column(s, 3, 0);
    double all[256];
    map(all, m->learn, m->bias, y, s->width, width);
    for (int part = 0; part < 2; part++) {
        double squares = 1e-6;
        for (int32_t i = 0; i < keys; i++) squares += all[part * keys + i] * all[part * keys + i];
        for (int32_t i = 0; i < keys; i++) all[part * keys + i] /= sqrt(squares);
    }
    for (int32_t i = gates; i < s->width; i++)
        all[i] = i < gates + s->heads ? log1p(exp(all[i])) : 1.0 / (1.0 + exp(-all[i]));
    for (int32_t i = 0; i < s->width; i++) row[i] = (float)all[i];
}
/* y of row i of z, whose earlier rows it sees */
static void context_attend(const maps *m, double (*z)[64], int32_t i, int32_t width, double *y)
{
    double q[64], k[64], v[64], sum = 0.0, mean[64] = { 0.0 };
    map(q, m->attend[0], NULL, z[i], width, width);
    for (int32_t j = 0; j <= i; j++) {
        double score = 0.0;
        map(k, m->attend[1], NULL, z[j], width, width);
        map(v, m->attend[2], NULL, z[j], width, width);
        for (int32_t c = 0; c < width; c++) score += q[c] * k[c];
        score = exp(score / sqrt((double)width));
        sum += score;
        for (int32_t c = 0; c < width; c++) mean[c] += score * v[c];
    }
    for (int32_t c = 0; c < width; c++) mean[c] /= sum;
    map(y, m->attend[3], NULL, mean, width, width);
}
static void naive_context(const spec *s, const maps *m, const float *in, float *out)
{
    const int32_t width = s->heads * s->v_dim;
    float *rows = floats((size_t)(s->rows * s->width));
    double z[CONTEXT_PERSISTENT + 2 * CONTEXT_SEGMENT][64], y[CONTEXT_SEGMENT][64], seen[64];
    learner l[3];
    for (int32_t h = 0; h < s->heads; h++) { l[h] = learner_new(s); net_start(&l[h].m, s, h); }
    for (int32_t at = 0, n; at < s->rows; at += n) {
        n = s->rows - at < CONTEXT_SEGMENT ? s->rows - at : CONTEXT_SEGMENT;
        for (int32_t i = 0; i < CONTEXT_PERSISTENT; i++) to_doubles(z[i], m->persistent + i * width, width);
        for (int32_t i = 0; i < n; i++) {
            double *to = z[CONTEXT_PERSISTENT + n + i];
            to_doubles(to, in + (size_t)((at + i) * width), width);
            context_row(s, m, to, rows + (size_t)((at + i) * s->width));
            for (int32_t h = 0; h < s->heads; h++)
                read_at(s, &l[h].m, rows + (size_t)((at + i) * s->width), h,
                        z[CONTEXT_PERSISTENT + i] + h * s->v_dim);
        }
        for (int32_t i = 0; i < n; i++) {
            context_attend(m, z, CONTEXT_PERSISTENT + n + i, width, y[i]);
            context_row(s, m, y[i], rows + (size_t)((at + i) * s->width));
        }
        for (int32_t h = 0; h < s->heads; h++)
            for (int32_t i = 0; i < n; i++) learn(s, &l[h], rows, h, at + i, at + i);
        for (int32_t i = 0; i < n; i++)
            for (int32_t h = 0; h < s->heads; h++) {
                read_at(s, &l[h].m, rows + (size_t)((at + i) * s->width), h, seen);
                for (int32_t j = 0; j < s->v_dim; j++)
                    out[(at + i) * width + h * s->v_dim + j] = (float)(seen[j] * y[i][h * s->v_dim + j]);
            }
    }
    for (int32_t h = 0; h < s->heads; h++) learner_free(&l[h]);
    free(rows);
}
static void test_context(int i)
{
    spec s = spec_draw(3 + 12 * (i % 2) + i % 3);      /* momentum */
    maps m;
    bench b;
    float *naive;
    int32_t width;
    s.weights = 0;
    s.rate = s.retain = 1;
    s.dim = s.v_dim = 5;
    spec_fill(&s);
    width = s.heads * s.v_dim;
    m.persistent = floats((size_t)(CONTEXT_PERSISTENT * width));
    fill(m.persistent, (size_t)(CONTEXT_PERSISTENT * width), -1.0f, 1.0f);
    memset(&b, 0, sizeof(b));
    b.mixer = sqm_mixer_memory_context();
    b.rows = s.rows;
    b.width = width;
    b.in = floats((size_t)(s.rows * width));
    fill(b.in, (size_t)(s.rows * width), -1.0f, 1.0f);
    spec_params(&b, &s);
    number(&b, "segment", CONTEXT_SEGMENT);
    tensor(&b, "persistent", sqm_tensor_2d(m.persistent, SQM_F32, SQM_ROWS, CONTEXT_PERSISTENT, width));
    for (int k = 0; k < 4; k++) {
        m.attend[k] = floats((size_t)(width * width));
        fill(m.attend[k], (size_t)(width * width), -0.5f, 0.5f);
        tensor(&b, "attend", panels_2d(m.attend[k], width, width));
    }
    m.learn = floats((size_t)(s.width * width));
    m.bias = floats((size_t)s.width);
    fill(m.learn, (size_t)(s.width * width), -0.3f, 0.3f);
    fill(m.bias + column(&s, 3, 0), (size_t)s.heads, -5.0f, -4.0f);        /* small rates */
    tensor(&b, "learn", panels_2d(m.learn, s.heads * s.dim, width));
    tensor(&b, "learn", panels_2d(m.learn + s.heads * s.dim * width, s.width - s.heads * s.dim, width));
    tensor(&b, "learn_b", sqm_tensor_1d(NULL, SQM_F32, 1));
    tensor(&b, "learn_b", sqm_tensor_1d(m.bias + s.heads * s.dim, SQM_F32, s.width - s.heads * s.dim));
    bench_open(&b);
    naive = floats(b.n);
    naive_context(&s, &m, b.in, naive);
    check_state(&b, 1000, 0);
    CHECK_CLOSE(b.want, naive, b.n, 2e-5, "context");
    check_everywhere(&b);
    free(naive); free(m.persistent); free(m.learn); free(m.bias);
    for (int k = 0; k < 4; k++) free(m.attend[k]);
    bench_close(&b);
    spec_free(&s);
}

/* ---- the exponential kernel ---------------------------------------------------------------------------- */
static void naive_kernel(const spec *s, const float *in, int32_t h, float *out)
{
    double *u = doubles((size_t)(s->rows * s->v_dim));
    for (int32_t t = 0; t < s->rows; t++) {
        const float *row = in + (size_t)t * (size_t)s->width;
        const double rate = s->rate ? (double)row[column(s, 3, h)] : 1.0;
        const double retain = s->retain ? (double)row[column(s, 4, h)] : 1.0;
        double change[8][64];
        for (int32_t lag = 0; lag < s->window && lag <= t; lag++) {
            const double weight = rate * (s->weights ? (double)row[column(s, 6, h) + lag] : 1.0);
            double v[64], k[64], other[64];
            to_doubles(v, in + (size_t)((t - lag) * s->width + column(s, 2, h)), s->v_dim);
            to_doubles(k, in + (size_t)((t - lag) * s->width + column(s, 1, h)), s->dim);
            for (int32_t j = 0; j < t && s->loss == 0; j++) {
                double dot = 0.0;
                to_doubles(other, in + (size_t)(j * s->width + column(s, 1, h)), s->dim);
                for (int32_t i = 0; i < s->dim; i++) dot += k[i] * other[i];
                for (int32_t i = 0; i < s->v_dim; i++)
                    v[i] -= (s->absolute ? fabs(dot) : exp(dot)) * u[j * s->v_dim + i];
            }
            for (int32_t i = 0; i < s->v_dim; i++)
                change[lag][i] = weight * v[i] * (s->loss == 0 ? 2.0 : 1.0);
        }
        for (int32_t i = 0; i < t * s->v_dim; i++) u[i] *= retain;
        for (int32_t lag = 0; lag < s->window && lag <= t; lag++)
            for (int32_t i = 0; i < s->v_dim; i++) u[(t - lag) * s->v_dim + i] += change[lag][i];
        for (int32_t i = 0; i < s->v_dim; i++) {
            double y = 0.0;
            for (int32_t j = 0; j <= t; j++) {
                double dot = 0.0;
                for (int32_t k = 0; k < s->dim; k++)
                    dot += (double)row[column(s, 0, h) + k] * (double)in[j * s->width + column(s, 1, h) + k];
                y += (s->absolute ? fabs(dot) : exp(dot)) * u[j * s->v_dim + i];
            }
            out[(t * s->heads + h) * s->v_dim + i] = (float)y;
        }
    }
    free(u);
}
static void test_kernel(int i)
{
    spec s = spec_draw(0);
    bench b;
    float *naive;
    s.loss = i % 2;
    s.absolute = i % 4 == 3;            /* without the correction of errors, which can grow */
    s.bias = s.residual = 0;
    s.rows = 120 + (int32_t)draw(20);
    s.width = column(&s, 7, 0);
    memset(&b, 0, sizeof(b));
    b.mixer = sqm_mixer_kernel_memory();
    b.rows = s.rows;
    b.width = s.width;
    b.in = floats((size_t)(s.rows * s.width));
    spec_rows(&s, b.in, s.width);
    number(&b, "heads", s.heads);
    number(&b, "head_dim", s.dim);
    number(&b, "v_dim", s.v_dim);
    number(&b, "window", s.window);
    word(&b, "loss", losses[s.loss]);
    word(&b, "kernel", s.absolute ? "abs" : "exp");
    number(&b, "rate", s.rate = 1);
    number(&b, "retain", s.retain);
    number(&b, "weights", s.weights);
    free(b.in);
    b.width = s.width = column(&s, 7, 0);
    b.in = floats((size_t)(s.rows * s.width));
    spec_rows(&s, b.in, s.width);
    bench_open(&b);
    naive = floats(b.n);
    for (int32_t h = 0; h < s.heads; h++) naive_kernel(&s, b.in, h, naive);
    check_state(&b, 1000, (size_t)s.heads * (pad((s.window - 1) * (s.dim + s.v_dim)) +
                                             16 * 64 * ((size_t)s.dim + pad(s.v_dim))));
    CHECK_CLOSE(b.want, naive, b.n, 2e-5, "kernel memory");
    check_everywhere(&b);
    free(naive);
    bench_close(&b);
}

/* ---- codebook ------------------------------------------------------------------------------------------ */
typedef struct book {
    int32_t heads, dim, v_dim, codes, near, block, rows, width;
    float  *words, *half, *relative, *bias;            /* padded to 16 rows a head */
} book;

static double product(const float *a, const float *b, int32_t n)
{
    double sum = 0.0;
    for (int32_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}
/* All tokens, near or far: the caches of the mixer change nothing but the cost. */
static void naive_codebook(const book *c, const float *in, int32_t h, float *out)
{
    const float *words = c->words + (size_t)(h * pad16(c->codes) * c->dim);
    int32_t codes[256];
    for (int32_t t = 0; t < c->rows; t++) {
        const float *row = in + (size_t)t * (size_t)c->width;
        const float *q = row + h * c->dim, *k = q + c->heads * c->dim;
        const int32_t start = c->block ? (t / c->block - 1) * c->block : t - c->near + 1;
        double sum = 0.0, mean[64] = { 0.0 }, best = 1e300;
        for (int32_t s = 0; s < c->codes; s++) {
            const double d = product(words + s * c->dim, words + s * c->dim, c->dim) -
                             2.0 * product(k, words + s * c->dim, c->dim);
            if (d < best) { best = d; codes[t] = s; }
        }
        for (int32_t j = 0; j <= t; j++) {
            const float *v = in + (size_t)j * (size_t)c->width + 2 * c->heads * c->dim + h * c->v_dim;
            double score = product(q, words + codes[j] * c->dim, c->dim), e;
            if (j >= start && c->relative)
                score += product(q, c->relative + (size_t)((h * pad16(c->near) + t - j) * c->dim), c->dim);
            if (j >= start && c->bias) score += (double)c->bias[h * c->near + t - j];
            e = exp(score);
            sum += e;
            for (int32_t i = 0; i < c->v_dim; i++) mean[i] += e * (double)v[i];
        }
        for (int32_t i = 0; i < c->v_dim; i++)
            out[(t * c->heads + h) * c->v_dim + i] = (float)(mean[i] / sum);
    }
}
static void test_codebook(int i)
{
    book c;
    bench b;
    float *naive;
    memset(&c, 0, sizeof(c));
    c.heads = 1 + (int32_t)draw(3);
    c.dim = 1 + (int32_t)draw(20);
    c.v_dim = 1 + (int32_t)draw(20);
    c.codes = 1 + (int32_t)draw(24);
    c.block = i % 2 ? 1 + (int32_t)draw(12) : 0;
    c.near = c.block ? 2 * c.block : 1 + (int32_t)draw(20);
    c.rows = 60 + (int32_t)draw(30);
    c.width = c.heads * (2 * c.dim + c.v_dim);
    c.words = floats((size_t)(c.heads * pad16(c.codes) * c.dim));
    c.half = floats((size_t)(c.heads * pad16(c.codes)));
    /* padding rows as well: unused */
    fill(c.words, (size_t)(c.heads * pad16(c.codes) * c.dim), -1.0f, 1.0f);
    for (int32_t s = 0; s < c.heads * pad16(c.codes); s++)
        c.half[s] = (float)(0.5 * product(c.words + s * c.dim, c.words + s * c.dim, c.dim));
    if (i % 3) {
        c.bias = floats((size_t)(c.heads * c.near));
        fill(c.bias, (size_t)(c.heads * c.near), -1.0f, 1.0f);
    }
    if (i % 4) {
        const size_t n = (size_t)(c.heads * pad16(c.near) * c.dim);
        c.relative = floats(n);
        fill(c.relative, n, -1.0f, 1.0f);
    }
    memset(&b, 0, sizeof(b));
    b.mixer = sqm_mixer_codebook();
    b.rows = c.rows;
    b.width = c.width;
    b.in = floats((size_t)(c.rows * c.width));
    fill(b.in, (size_t)(c.rows * c.width), -1.0f, 1.0f);
    number(&b, "heads", c.heads);
    number(&b, "head_dim", c.dim);
    number(&b, "v_dim", c.v_dim);
    number(&b, "codes", c.codes);
    number(&b, "near", c.near);
    number(&b, "block", c.block);
    tensor(&b, "codebook", panels_2d(c.words, c.heads * pad16(c.codes), c.dim));
    tensor(&b, "half", sqm_tensor_1d(c.half, SQM_F32, c.heads * pad16(c.codes)));
    if (c.relative) tensor(&b, "relative", panels_2d(c.relative, c.heads * pad16(c.near), c.dim));
    if (c.bias) tensor(&b, "bias", sqm_tensor_1d(c.bias, SQM_F32, c.heads * c.near));
    bench_open(&b);
    naive = floats(b.n);
    for (int32_t h = 0; h < c.heads; h++) naive_codebook(&c, b.in, h, naive);
    check_state(&b, 1000, (size_t)c.heads * (pad(c.codes) + pad(c.near) +
                                             pad(c.v_dim + 1) * (size_t)(c.codes + c.near)));
    CHECK_CLOSE(b.want, naive, b.n, 1e-5, "codebook");
    check_everywhere(&b);
    free(naive); free(c.words); free(c.half); free(c.relative); free(c.bias);
    bench_close(&b);
}

/* ---- wrong parameters ---------------------------------------------------------------------------------- */
static float some[4096];
static void base(bench *b, const sqm_mixer *mixer)
{
    memset(b, 0, sizeof(*b));
    b->mixer = mixer;
    number(b, "heads", 2);
    number(b, "head_dim", 4);
    b->width = 2 * 12 + 4;                             /* rate, retain */
}
/* The parameter `key` becomes v (or the word `text`), whether it was there or not. */
static void set(bench *b, const char *key, double v, const char *text)
{
    for (int32_t i = 0; i < b->n_params; i++)
        if (strcmp(b->params[i].key, key) == 0) {
            b->params[i].number = v;
            b->params[i].text = text;
            b->params[i].tensors = NULL;
            return;
        }
    number(b, key, v);
    b->params[b->n_params - 1].text = text;
}
static void refused(bench *b, const char *text, int line)
{
    int32_t out = 0;
    sqm_error err;
    sqm_result got;
    memset(&err, 0, sizeof(err));
    got = b->mixer->bind(b->bound, b->params, b->n_params, b->width, &out, &err);
    if (got >= 0 || !strstr(err.text, text))
        printf("line %d: %s \"%s\", expected \"%s\"\n", line, sqm_result_name(got), err.text, text);
    CHECK(got < 0 && err.code == got && strstr(err.text, text));
}
static void accepted(bench *b, int line)
{
    int32_t out = 0;
    sqm_error err;
    const sqm_result got = b->mixer->bind(b->bound, b->params, b->n_params, b->width, &out, &err);
    if (got != SQM_OK) printf("line %d: %s\n", line, err.text);
    CHECK(got == SQM_OK && out == 8);
}
#define REFUSED(mixer, key, v, word, text) \
    do { bench b_; base(&b_, mixer); set(&b_, key, v, word); refused(&b_, text, __LINE__); } while (0)

static void test_memory_refusals(void)
{
    const sqm_mixer *memory = sqm_mixer_memory();
    bench b;
    base(&b, memory);
    accepted(&b, __LINE__);
    b.width = 29;
    refused(&b, "2 heads of 4 and 4 with its gates reads rows of 28, not of 29", __LINE__);
    REFUSED(memory, "heads", 0, NULL, "heads = 0");
    REFUSED(memory, "head_dim", 1.5, NULL, "head_dim = 1");
    REFUSED(memory, "v_dim", -1, NULL, "v_dim = -1");
    REFUSED(memory, "memory", 0, "deep", "memory = 'deep'");
    REFUSED(memory, "loss", 0, "l1", "loss = 'l1'");
    REFUSED(memory, "update", 0, "adam", "update = 'adam'");
    REFUSED(memory, "act", 0, "exp", "act = 'exp'");
    REFUSED(memory, "memory", 0, "mlp", "hidden = 0 must be a whole number from 1");
    REFUSED(memory, "hidden", 8, NULL, "hidden = 8 must be a whole number from 0 to 0");
    REFUSED(memory, "window", 0, NULL, "window = 0");
    REFUSED(memory, "window", 4097, NULL, "window = 4097");
    REFUSED(memory, "chunk", 0, NULL, "chunk = 0");
    REFUSED(memory, "rate", 2, NULL, "rate = 2");
    REFUSED(memory, "bias", -1, NULL, "bias = -1");
    REFUSED(memory, "loss", 0, "norm", "norm=");
    base(&b, memory);
    number(&b, "v_dim", 5);
    number(&b, "residual", 1);
    refused(&b, "need v_dim = head_dim, not 5 and 4", __LINE__);
    base(&b, memory);
    word(&b, "update", "sum");
    number(&b, "retain", 1);
    refused(&b, "retain = 1 must be a whole number from 0 to 0", __LINE__);
    base(&b, memory);
    tensor(&b, "steps", sqm_tensor_1d(some, SQM_F32, 1));
    refused(&b, "update=sum only", __LINE__);
    base(&b, memory);
    tensor(&b, "start", sqm_tensor_2d(some, SQM_F32, SQM_ROWS, 2 * 4, 4));
    accepted(&b, __LINE__);
    tensor(&b, "start", sqm_tensor_2d(some, SQM_F32, SQM_ROWS, 2 * 4, 4));
    refused(&b, "start has 2 matrices, this memory has 1", __LINE__);
    base(&b, memory);
    tensor(&b, "start", sqm_tensor_2d(some, SQM_F32, SQM_ROWS, 2 * 4, 5));
    refused(&b, "matrix 0 must be float32 [2 x 4, 4]", __LINE__);
    base(&b, memory);
    number(&b, "bias", 1);
    tensor(&b, "start", sqm_tensor_2d(some, SQM_F32, SQM_ROWS, 2 * 4, 4));
    refused(&b, "must be float32 [2 x 5, 4]", __LINE__);
    base(&b, memory);
    set(&b, "head_dim", 65536, NULL);
    word(&b, "memory", "mlp");
    number(&b, "hidden", 1 << 20);
    refused(&b, "65536 x 1048576 is too large", __LINE__);
    base(&b, memory);
    number(&b, "window", 4096);
    set(&b, "head_dim", 16000, NULL);
    refused(&b, "window of 4096 is too long", __LINE__);
}
static void test_caching_refusals(void)
{
    const sqm_mixer *caching = sqm_mixer_memory_caching();
    bench b;
    base(&b, caching);
    refused(&b, "pool = 0", __LINE__);
    number(&b, "pool", 3);
    refused(&b, "28 columns and 2 x 3 pooled ones", __LINE__);
    b.width += 6;
    accepted(&b, __LINE__);
    number(&b, "chunk", 7);
    refused(&b, "segment = 256 must be a multiple of chunk = 7", __LINE__);
    REFUSED(caching, "segment", 0, NULL, "segment = 0");
    REFUSED(caching, "combine", 0, "max", "combine = 'max'");
    base(&b, caching);
    word(&b, "combine", "sum");
    accepted(&b, __LINE__);
    number(&b, "top", 2);
    refused(&b, "top = 2", __LINE__);
    base(&b, caching);
    word(&b, "combine", "mean");
    word(&b, "memory", "mlp");
    word(&b, "update", "sum");
    number(&b, "hidden", 8);
    refused(&b, "deep memories combine into one only without update=sum", __LINE__);
}
static void test_kernel_refusals(void)
{
    const sqm_mixer *kernel = sqm_mixer_kernel_memory();
    bench b;
    base(&b, kernel);
    accepted(&b, __LINE__);
    REFUSED(kernel, "window", 1025, NULL, "window = 1025");
    REFUSED(kernel, "loss", 0, "norm", "loss = 'norm'");
    REFUSED(kernel, "kernel", 0, "cos", "kernel = 'cos'");
    REFUSED(kernel, "rate", 0, NULL, "reads rows of 26, not of 28");
}
static void test_codebook_refusals(void)
{
    bench b;
    base(&b, sqm_mixer_codebook());
    b.width = 24;
    refused(&b, "codes = 0", __LINE__);
    number(&b, "codes", 5);
    refused(&b, "near = 0", __LINE__);
    number(&b, "near", 3);
    refused(&b, "needs codebook= and half=", __LINE__);
    tensor(&b, "half", sqm_tensor_1d(some, SQM_F32, 32));
    tensor(&b, "codebook", panels_2d(some, 32, 4));
    accepted(&b, __LINE__);
    number(&b, "block", 2);
    refused(&b, "near = 3 must be a whole number from 4 to 4", __LINE__);
    b.n_params--;
    tensor(&b, "relative", panels_2d(some, 31, 4));
    refused(&b, "relative must be float panels [32, 4]", __LINE__);
    b.n_params--;
    b.width = 25;
    refused(&b, "do not fit rows of 25", __LINE__);
}
static void test_context_refusals(void)
{
    bench b;
    base(&b, sqm_mixer_memory_context());
    b.width = 8;
    refused(&b, "attend= must be four weights", __LINE__);
    for (int i = 0; i < 4; i++) tensor(&b, "attend", panels_2d(some, 8, 8));
    refused(&b, "learn= must be 1 to 8 weights", __LINE__);
    tensor(&b, "learn", panels_2d(some, 28, 8));
    refused(&b, "the first weight of 28", __LINE__);
    b.n_params--;
    tensor(&b, "learn", panels_2d(some, 8, 8));
    tensor(&b, "learn", panels_2d(some, 20, 8));
    accepted(&b, __LINE__);
    set(&b, "heads", 3, NULL);
    refused(&b, "memory of 3 heads of 4 cannot stand beside rows of 8", __LINE__);
    set(&b, "heads", 2, NULL);
    number(&b, "attend_heads", 3);
    refused(&b, "do not fit 3 heads", __LINE__);
    b.n_params--;
    number(&b, "segment", 65536);
    accepted(&b, __LINE__);
    set(&b, "window", 4096, NULL);
    set(&b, "weights", 0, NULL);
    accepted(&b, __LINE__);
    set(&b, "segment", 65537, NULL);
    refused(&b, "segment = 65537", __LINE__);
}

int main(void)
{
    /* the same cases in every build */
    for (int i = 0; i < 72; i++) { seed = (uint32_t)i; test_memory(i); }
    for (int i = 0; i < 24; i++) { seed = (uint32_t)(100 + i); test_caching(i); }
    for (int i = 0; i < 6; i++) { seed = (uint32_t)(200 + i); test_context(i); }
    for (int i = 0; i < 10; i++) { seed = (uint32_t)(300 + i); test_kernel(i); }
    for (int i = 0; i < 24; i++) { seed = (uint32_t)(400 + i); test_codebook(i); }
    test_memory_refusals();
    test_caching_refusals();
    test_kernel_refusals();
    test_codebook_refusals();
    test_context_refusals();
    while (n_kept) free(kept_panels[--n_kept]);
    return check_report("test_mix_memory");
}
