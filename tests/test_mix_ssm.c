/* test_mix_ssm.c - convolutions and state-space mixers against naive double versions over random shapes;
   cuts, batches, moved states, threads and instruction sets give the same bits; wrong parameters are refused
   with a message. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "check.h"
#include <math.h>
#include <stdlib.h>

static uint32_t seed = 2024;
static uint32_t draw(uint32_t n) { seed = seed * 1664525u + 1013904223u; return (seed >> 8) % n; }
static float uniform(void) { return (float)draw(65536) / 32768.0f - 1.0f; }

/* ---- a bound mixer with its tensors, rows and results -------------------------------------------------- */
enum { MAX_PARAMS = 24 };
typedef struct rig {
    const sqm_mixer  *mixer;
    sqm_param         params[MAX_PARAMS];
    sqm_tensor        tensors[MAX_PARAMS];
    const sqm_tensor *lists[MAX_PARAMS];
    int32_t           n_params, width, out_width, rows;
    void             *bound, *scratch;
    size_t            scratch_bytes;
    float            *in, *want;        /* want: the scalar pass, all rows at once, without state */
} rig;

static void rig_open(rig *r, const sqm_mixer *mixer, int32_t width, int32_t rows)
{
    memset(r, 0, sizeof(*r));
    r->mixer = mixer;
    r->width = width;
    r->rows = rows;
    r->in = (float *)malloc((size_t)rows * (size_t)width * sizeof(float));
    for (int32_t i = 0; i < rows * width; i++) r->in[i] = uniform();
}
static sqm_param *rig_param(rig *r, const char *key)
{
    sqm_param *p = &r->params[r->n_params++];
    memset(p, 0, sizeof(*p));
    p->key = key;
    return p;
}
static void rig_number(rig *r, const char *key, double value) { rig_param(r, key)->number = value; }
static void rig_word(rig *r, const char *key, const char *word) { rig_param(r, key)->text = word; }
/* A tensor of rows x cols (cols 0: a vector), uniform in offset +- scale; the rig owns it. Its values. */
static float *rig_tensor(rig *r, const char *key, int32_t rows, int32_t cols, float scale, float offset)
{
    const int32_t i = r->n_params, n = rows * (cols ? cols : 1);
    float *values = (float *)malloc((size_t)n * sizeof(float));
    sqm_param *p = rig_param(r, key);
    for (int32_t k = 0; k < n; k++) values[k] = offset + scale * uniform();
    r->tensors[i] = cols ? sqm_tensor_2d(values, SQM_F32, SQM_ROWS, rows, cols)
                         : sqm_tensor_1d(values, SQM_F32, rows);
    r->lists[i] = &r->tensors[i];
    p->tensors = &r->lists[i];
    p->n_tensors = 1;
    return values;
}
/* The same in panels; value of (i, k) by panel_at. */
static float *rig_panels(rig *r, const char *key, int32_t rows, int32_t cols, float scale, float offset)
{
    const int32_t padded = (rows + 15) / 16 * 16;
    float *values = rig_tensor(r, key, padded, cols, scale, offset);
    for (int32_t i = rows; i < padded; i++)
        for (int32_t k = 0; k < cols; k++) values[(i / 16 * cols + k) * 16 + i % 16] = 0.0f;
    r->tensors[r->n_params - 1] = sqm_tensor_2d(values, SQM_F32, SQM_PANELS, rows, cols);
    return values;
}
static double panel_at(const float *values, int32_t cols, int32_t i, int32_t k)
{
    return (double)values[(i / 16 * cols + k) * 16 + i % 16];
}
static void rig_close(rig *r)
{
    for (int32_t i = 0; i < r->n_params; i++) {
        float *values;
        if (!r->lists[i]) continue;
        memcpy(&values, &r->tensors[i].data, sizeof(values));
        free(values);
    }
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
    span.position = at;
    span.rows = rows;
    span.total = at + rows;
    return r->mixer->forward(r->bound, x, out, r->in + (size_t)at * (size_t)r->width, &span, 1);
}

/* Binds and computes want. */
static int rig_bind(rig *r)
{
    sqm_error err;
    sqm_exec x;
    memset(&err, 0, sizeof(err));
    r->bound = malloc(r->mixer->bound_bytes);
    if (r->mixer->bind(r->bound, r->params, r->n_params, r->width, &r->out_width, &err) != SQM_OK) {
        printf("%s\n", err.text);
        CHECK(0);
        return 0;
    }
    r->scratch_bytes = r->mixer->scratch_bytes(r->bound, r->rows, r->rows, 8) + 128;
    r->scratch = malloc(r->scratch_bytes);
    r->want = (float *)malloc((size_t)r->rows * (size_t)r->out_width * sizeof(float));
    x = rig_exec(r, SQM_ISA_SCALAR, 1);
    CHECK(rig_feed(r, &x, r->want, NULL, 0, r->rows) == SQM_OK);
    return 1;
}

static void *rig_state(const rig *r)
{
    const size_t bytes = r->mixer->state_bytes(r->bound, r->rows, r->rows, SQM_F32);
    void *state = malloc(bytes + 1);
    memset(state, 0x7f, bytes);         /* reset must not count on zeros */
    r->mixer->reset(r->bound, state, bytes, r->rows, r->rows, SQM_F32);
    CHECK(r->mixer->used_bytes(r->bound, state, 0) >= r->mixer->header_bytes);
    CHECK(r->mixer->used_bytes(r->bound, state, r->rows) <= bytes);
    return state;
}

/* Random cuts of at most `most` rows; in between the state moves to another place. */
static void check_cuts(const rig *r, sqm_exec *x, int32_t most)
{
    const size_t n = (size_t)r->rows * (size_t)r->out_width;
    float *got = (float *)malloc(n * sizeof(float));
    void *state = rig_state(r);
    for (int32_t t = 0, rows; t < r->rows; t += rows) {
        void *moved = rig_state(r);
        rows = 1 + (int32_t)draw((uint32_t)most);
        if (rows > r->rows - t) rows = r->rows - t;
        memcpy(moved, state, r->mixer->used_bytes(r->bound, state, t));
        free(state);
        state = moved;
        CHECK(rig_feed(r, x, got + (size_t)t * (size_t)r->out_width, state, t, rows) == SQM_OK);
    }
    CHECK(memcmp(got, r->want, n * sizeof(float)) == 0);
    free(state);
    free(got);
}

static void run_backwards(void *user, sqm_task fn, void *arg, int32_t n)
{
    (void)user;
    for (int32_t i = n - 1; i >= 0; i--) fn(arg, i);
}

/* Several sequences in one call, rows in another order, one without state. */
static void check_batch(const rig *r)
{
    enum { N = 4 };
    const int causal = (r->mixer->flags & SQM_MIXER_CAUSAL) != 0;
    float *in = (float *)malloc((size_t)r->rows * (size_t)r->width * N * sizeof(float));
    float *out = (float *)malloc((size_t)r->rows * (size_t)r->out_width * N * sizeof(float));
    sqm_span spans[N];
    sqm_exec x = rig_exec(r, SQM_ISA_AUTO, 3);
    int32_t first = 0;
    for (int i = N - 1; i >= 0; i--) {
        const int32_t past = causal && i != 2 ? (int32_t)draw((uint32_t)r->rows) : 0;
        const int32_t rows = causal ? 1 + (int32_t)draw((uint32_t)(r->rows - past)) : r->rows;
        memset(&spans[i], 0, sizeof(spans[i]));
        spans[i].state = causal && i != 2 ? rig_state(r) : NULL;
        spans[i].first_row = first;
        spans[i].rows = rows;
        spans[i].position = past;
        spans[i].total = past + rows;
        if (past) CHECK(rig_feed(r, &x, out, spans[i].state, 0, past) == SQM_OK);
        memcpy(in + (size_t)first * (size_t)r->width, r->in + (size_t)past * (size_t)r->width,
               (size_t)rows * (size_t)r->width * sizeof(float));
        first += rows;
    }
    CHECK(r->mixer->forward(r->bound, &x, out, in, spans, N) == SQM_OK);
    for (int i = 0; i < N; i++) {
        CHECK(memcmp(out + (size_t)spans[i].first_row * (size_t)r->out_width,
                     r->want + (size_t)spans[i].position * (size_t)r->out_width,
                     (size_t)spans[i].rows * (size_t)r->out_width * sizeof(float)) == 0);
        free(spans[i].state);
    }
    free(in);
    free(out);
}

/* One result: every instruction set, thread count, cut and batch. */
static void rig_check(const rig *r, const double *naive, double tolerance, const char *what)
{
    static const sqm_isa isas[] = { SQM_ISA_SCALAR, SQM_ISA_AVX2, SQM_ISA_AVX512, SQM_ISA_NEON };
    const size_t n = (size_t)r->rows * (size_t)r->out_width;
    float *values = (float *)malloc(n * sizeof(float));
    sqm_parallel pool;
    sqm_exec x;
    for (size_t i = 0; i < n; i++) values[i] = (float)naive[i];
    CHECK_CLOSE(r->want, values, n, tolerance, what);
    memset(&pool, 0, sizeof(pool));
    pool.run = run_backwards;
    pool.threads = 5;
    for (int i = 0; i < 4; i++) {
        if (!sqm_cpu_has(isas[i])) continue;
        for (int threads = 1; threads < 6; threads += 4) {
            x = rig_exec(r, isas[i], threads);
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

/* ---- wrong parameters ---------------------------------------------------------------------------------- */
static void refused(rig *r, const char *text, int line)
{
    sqm_error err;
    sqm_result got;
    int32_t out;
    void *bound = malloc(r->mixer->bound_bytes);
    memset(&err, 0, sizeof(err));
    got = r->mixer->bind(bound, r->params, r->n_params, r->width, &out, &err);
    if (got == SQM_OK || !strstr(err.text, text))
        printf("line %d: %s \"%s\", expected \"%s\"\n", line, sqm_result_name(got), err.text, text);
    CHECK(got != SQM_OK && err.code == got && strstr(err.text, text));
    free(bound);
    rig_close(r);
}
#define REFUSED(r, text) refused(r, text, __LINE__)

/* ---- convolution --------------------------------------------------------------------------------------- */
static double silu(double x) { return x / (1.0 + exp(-x)); }

typedef struct conv_shape {
    int32_t width, first, channels, taps, dilation, future, columns, across, rows;
} conv_shape;

static void test_conv(const conv_shape *s, int whole, int biased)
{
    rig r;
    const float *w, *b = NULL;
    double *naive;
    rig_open(&r, whole ? sqm_mixer_conv_whole() : sqm_mixer_conv(), s->width, s->rows);
    w = rig_tensor(&r, "w", s->taps, s->channels, 1.0f, 0.0f);
    if (biased) b = rig_tensor(&r, "b", s->channels, 0, 1.0f, 0.0f);
    if (biased) rig_word(&r, "act", "silu");
    if (biased) rig_number(&r, "rest", 1);
    rig_number(&r, "first", s->first);
    rig_number(&r, "dilation", s->dilation);
    if (whole && s->columns) rig_number(&r, "columns", s->columns);
    if (whole && s->columns) rig_number(&r, "across", s->across);
    if (whole && s->future >= 0) rig_number(&r, "future", s->future);
    if (!rig_bind(&r)) return;
    CHECK(r.out_width == (biased ? s->width - s->first : s->channels));
    naive = (double *)malloc((size_t)(s->rows * r.out_width) * sizeof(double));
    for (int32_t t = 0; t < s->rows; t++)
        for (int32_t c = 0; c < s->channels; c++) {
            double sum = b ? (double)b[c] : 0.0;
            for (int32_t k = 0; k < s->taps; k++) {
                const int32_t future = !whole ? 0 : s->future < 0 ? s->taps / 2 : s->future;
                int32_t at = t + (k - s->taps + 1 + future) * s->dilation;
                if (whole && s->columns) {
                    const int32_t up = k / s->across - s->taps / s->across / 2;
                    const int32_t y = t / s->columns + up * s->dilation;
                    const int32_t x = t % s->columns + (k % s->across - s->across / 2) * s->dilation;
                    at = x < 0 || x >= s->columns || y < 0 ? -1 : y * s->columns + x;
                }
                if (at < 0 || at >= s->rows) continue;
                sum += (double)w[k * s->channels + c] * (double)r.in[at * s->width + s->first + c];
            }
            naive[t * r.out_width + c] = biased ? silu(sum) : sum;
        }
    for (int32_t t = 0; t < s->rows; t++)
        for (int32_t c = s->channels; c < r.out_width; c++)
            naive[t * r.out_width + c] = (double)r.in[t * s->width + s->first + c];
    rig_check(&r, naive, 2e-6, "conv");
    free(naive);
    rig_close(&r);
}

static void test_convs(void)
{
    static const conv_shape causal[] = {
        { 16, 0, 16, 4, 1, 0, 0, 0, 40 }, { 50, 7, 37, 4, 1, 0, 0, 0, 23 }, { 3, 0, 3, 1, 1, 0, 0, 0, 5 },
        { 20, 2, 18, 3, 4, 0, 0, 0, 30 }, { 5, 0, 5, 64, 1, 0, 0, 0, 70 }, { 33, 1, 32, 2, 1, 0, 0, 0, 1 }
    };
    static const conv_shape whole[] = {
        { 24, 3, 20, 7, 1, -1, 0, 0, 33 }, { 24, 3, 20, 7, 1, -1, 0, 0, 2 }, { 8, 0, 8, 4, 2, 1, 0, 0, 19 },
        { 19, 1, 17, 9, 1, -1, 5, 3, 30 }, { 4, 0, 4, 15, 2, -1, 7, 5, 42 }, { 2, 0, 2, 9, 1, -1, 1, 3, 1 }
    };
    for (size_t i = 0; i < sizeof(causal) / sizeof(causal[0]); i++) test_conv(&causal[i], 0, (int)i % 2);
    for (size_t i = 0; i < sizeof(whole) / sizeof(whole[0]); i++) test_conv(&whole[i], 1, (int)i % 2);
}

static rig *conv_rig(rig *r, int whole, int32_t width, int32_t taps, int32_t channels)
{
    rig_open(r, whole ? sqm_mixer_conv_whole() : sqm_mixer_conv(), width, 1);
    (void)rig_tensor(r, "w", taps, channels, 1.0f, 0.0f);
    return r;
}
static void test_conv_refusals(void)
{
    rig r;
    rig_open(&r, sqm_mixer_conv(), 8, 1);
    REFUSED(&r, "needs its weights");
    REFUSED(conv_rig(&r, 0, 8, 65, 8), "conv of 65 taps: at most 64");
    REFUSED(conv_rig(&r, 0, 8, 4, 9), "9 channels from column 0 does not fit rows of 8");
    rig_number(conv_rig(&r, 0, 8, 4, 8), "first", 1);
    REFUSED(&r, "8 channels from column 1");
    (void)rig_tensor(conv_rig(&r, 0, 8, 4, 8), "b", 7, 0, 1.0f, 0.0f);
    REFUSED(&r, "b must be 8 float32 values, has 7");
    rig_word(conv_rig(&r, 0, 8, 4, 8), "act", "slu");
    REFUSED(&r, "act = 'slu' is unknown");
    rig_number(conv_rig(&r, 0, 8, 4, 8), "dilation", 0);
    REFUSED(&r, "dilation = 0");
    REFUSED(conv_rig(&r, 1, 8, 4, 8), "4 taps, 4 across: a centred conv needs odd sizes");
    rig_number(conv_rig(&r, 1, 8, 9, 8), "columns", 5);
    rig_number(&r, "across", 2);
    REFUSED(&r, "9 taps, 2 across");
    rig_number(conv_rig(&r, 1, 8, 9, 8), "future", 9);
    REFUSED(&r, "future = 9");
    rig_open(&r, sqm_mixer_conv(), 8, 1);
    (void)rig_tensor(&r, "w", 8, 0, 1.0f, 0.0f);
    REFUSED(&r, "w must be one matrix");
}

/* ---- orders of a scan ---------------------------------------------------------------------------------- */
/* The rows of n in the order of a scan, from the definition: sort by (column, line) or count. */
static void naive_order(int32_t *rows, const char *order, int32_t n, int32_t columns)
{
    int32_t used = 0;
    if (order[0] == 'd' || order[0] == 'u') {
        for (int32_t x = 0; x < columns; x++)
            for (int32_t y = 0; y * columns + x < n; y++) rows[used++] = y * columns + x;
    } else {
        for (int32_t t = 0; t < n; t++) rows[used++] = t;
    }
    CHECK(used == n);
    if (order[0] == 'b' || order[0] == 'u')
        for (int32_t t = 0; t < n / 2; t++) {
            const int32_t other = rows[n - 1 - t];
            rows[n - 1 - t] = rows[t];
            rows[t] = other;
        }
}

/* ---- diagonal scan ------------------------------------------------------------------------------------- */
static double softplus(double x) { return x > 20.0 ? x : log1p(exp(x)); }

typedef struct scan_shape {
    int32_t     channels, n, groups, rows, is_complex, constant, fixed;  /* constant: b, c; fixed: decay= */
    const char *input, *order;                                           /* order NULL: the causal mixer */
    int32_t     columns;
} scan_shape;

typedef struct scan_weights { const float *a, *b, *c, *d, *bias, *init; } scan_weights;

/* One channel of the definition in double, over the rows in their order */
static void naive_channel(double *y, const rig *r, const scan_shape *s, const scan_weights *w, int32_t c,
                          const int32_t *order)
{
    const int32_t parts = s->n * (s->is_complex ? 2 : 1), gap = s->is_complex ? s->n : 0;
    const int32_t b_at = s->channels * 2, c_at = b_at + s->groups * parts;
    const int32_t group = c / (s->channels / s->groups) * parts;
    double h[64];
    for (int32_t k = 0; k < parts; k++) h[k] = w->init ? (double)w->init[c * parts + k] : 0.0;
    for (int32_t i = 0; i < s->rows; i++) {
        const float *row = r->in + order[i] * r->width;
        double x = (double)row[c], raw = (double)row[s->channels + c] + (double)w->bias[c], sum = 0.0;
        double dt = s->fixed ? 0.0 : softplus(raw);
        if (dt > 1.5) dt = 1.5;
        for (int32_t k = 0; k < s->n; k++) {
            const int32_t j = k + gap;  /* of the imaginary part */
            const double a = panel_at(w->a, parts, c, k);
            const double turn = s->is_complex ? dt * panel_at(w->a, parts, c, j) : 0.0;
            const double size = s->fixed ? 1.0 + a : exp(dt * a);
            const double re = size * cos(turn), im = size * sin(turn);
            const double br = s->constant ? panel_at(w->b, parts, c, k) : (double)row[b_at + group + k];
            const double cr = s->constant ? panel_at(w->c, parts, c, k) : (double)row[c_at + group + k];
            const double bi = s->constant ? panel_at(w->b, parts, c, j) : (double)row[b_at + group + j];
            const double ci = s->constant ? panel_at(w->c, parts, c, j) : (double)row[c_at + group + j];
            const double h0 = h[k], h1 = s->is_complex ? h[j] : 0.0;
            const double in = s->input[0] == 's' ? dt * x : s->input[0] == 'o' || order[i] == 0 ? x
                : sqrt(1.0 - exp(2.0 * dt * a)) * x;
            h[k] = re * h0 - im * h1 + in * br;
            if (s->is_complex) h[j] = re * h1 + im * h0 + in * bi;
            sum += s->is_complex ? 2.0 * (h[k] * cr - h[j] * ci) : h[k] * cr;
        }
        y[order[i] * s->channels + c] = sum + (w->d ? (double)w->d[c] * x : 0.0);
    }
}

static void test_scan(const scan_shape *s, int extras)
{
    const int32_t parts = s->n * (s->is_complex ? 2 : 1);
    const int32_t width = s->channels * 2 + (s->constant ? 0 : 2 * s->groups * parts) + 3;
    int32_t order[256];
    double *naive = (double *)malloc((size_t)(s->rows * s->channels) * sizeof(double));
    scan_weights w;
    rig r;
    memset(&w, 0, sizeof(w));
    rig_open(&r, s->order ? sqm_mixer_scan_whole() : sqm_mixer_scan(), width, s->rows);
    if (s->is_complex) rig_number(&r, "complex", 1);
    w.a = rig_panels(&r, s->fixed ? "decay" : "a", s->channels, parts, 0.4f, -0.5f);
    if (s->constant) w.b = rig_panels(&r, "b", s->channels, parts, 1.0f, 0.0f);
    if (s->constant) w.c = rig_panels(&r, "c", s->channels, parts, 1.0f, 0.0f);
    if (extras) w.d = rig_tensor(&r, "d", s->channels, 0, 1.0f, 0.0f);
    if (extras) w.init = rig_tensor(&r, "init", s->channels, parts, 1.0f, 0.0f);
    w.bias = rig_tensor(&r, "dt_bias", s->channels, 0, 1.0f, -1.0f);
    if (s->groups > 1) rig_number(&r, "groups", s->groups);
    if (!s->fixed) rig_number(&r, "dt_max", 1.5);
    rig_word(&r, "input", s->input);
    if (s->order) rig_word(&r, "order", s->order);
    if (s->order && s->columns) rig_number(&r, "columns", s->columns);
    if (!rig_bind(&r)) return;
    naive_order(order, s->order ? s->order : "forward", s->rows, s->columns);
    for (int32_t c = 0; c < s->channels; c++) naive_channel(naive, &r, s, &w, c, order);
    rig_check(&r, naive, 4e-6, "scan");
    free(naive);
    rig_close(&r);
}

static void test_scans(void)
{
    static const scan_shape shapes[] = {
        { 32, 16, 1, 70, 0, 0, 0, "step", NULL, 0 }, { 37, 5, 1, 20, 0, 0, 0, "step", NULL, 0 },
        { 12, 7, 3, 20, 0, 0, 0, "step", NULL, 0 }, { 64, 3, 2, 9, 0, 0, 0, "step", NULL, 0 },
        { 5, 3, 1, 21, 1, 0, 0, "step", NULL, 0 }, { 18, 2, 1, 21, 1, 1, 0, "one", NULL, 0 },
        { 20, 4, 1, 30, 0, 1, 1, "one", NULL, 0 }, { 40, 1, 1, 33, 0, 1, 0, "root", NULL, 0 },
        { 20, 4, 1, 1, 0, 1, 0, "step", NULL, 0 }, { 9, 4, 3, 17, 1, 0, 0, "step", NULL, 0 },
        { 21, 4, 1, 30, 0, 0, 0, "step", "backward", 0 }, { 21, 4, 3, 30, 0, 0, 0, "step", "down", 7 },
        { 21, 4, 1, 28, 0, 0, 0, "step", "up", 7 }, { 5, 2, 1, 3, 0, 0, 0, "step", "up", 7 },
        { 16, 2, 1, 12, 0, 1, 1, "one", "backward", 0 }, { 3, 2, 1, 12, 0, 0, 0, "step", "down", 1 }
    };
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) test_scan(&shapes[i], i % 3 != 1);
}

static rig *scan_rig(rig *r, int whole, int32_t width)
{
    rig_open(r, whole ? sqm_mixer_scan_whole() : sqm_mixer_scan(), width, 1);
    (void)rig_panels(r, "a", 8, 4, 1.0f, 0.0f);
    return r;
}
static void test_scan_refusals(void)
{
    rig r;
    rig_open(&r, sqm_mixer_scan(), 24, 1);
    REFUSED(&r, "either a= or decay=");
    (void)rig_panels(scan_rig(&r, 0, 24), "decay", 8, 4, 1.0f, 0.0f);
    REFUSED(&r, "either a= or decay=");
    REFUSED(scan_rig(&r, 0, 23), "c_at: 4 columns from column 20 on do not fit rows of 23");
    REFUSED(scan_rig(&r, 0, 7), "x_at: 8 columns");
    rig_number(scan_rig(&r, 0, 24), "b_at", 21);
    REFUSED(&r, "b_at: 4 columns from column 21");
    rig_number(scan_rig(&r, 0, 24), "groups", 3);
    REFUSED(&r, "8 channels do not divide into 3 groups");
    (void)rig_panels(scan_rig(&r, 0, 24), "b", 8, 4, 1.0f, 0.0f);
    REFUSED(&r, "both b= and c=");
    (void)rig_panels(scan_rig(&r, 0, 24), "b", 8, 5, 1.0f, 0.0f);
    REFUSED(&r, "b is [8, 5], expected [8, 4]");
    (void)rig_tensor(scan_rig(&r, 0, 24), "b", 8, 4, 1.0f, 0.0f);
    REFUSED(&r, "b must be one float32 matrix in panels");
    (void)rig_tensor(scan_rig(&r, 0, 24), "init", 4, 8, 1.0f, 0.0f);
    REFUSED(&r, "init is [4, 8], expected [8, 4]");
    (void)rig_tensor(scan_rig(&r, 0, 24), "d", 9, 0, 1.0f, 0.0f);
    REFUSED(&r, "d must be 8 float32 values, has 9");
    rig_word(scan_rig(&r, 0, 24), "input", "root");
    REFUSED(&r, "this input does not go with 4 states");
    rig_word(scan_rig(&r, 0, 24), "input", "half");
    REFUSED(&r, "input = 'half' is unknown");
    rig_number(scan_rig(&r, 0, 24), "dt_min", 3);
    rig_number(&r, "dt_max", 2);
    REFUSED(&r, "dt_min <= dt_max");
    rig_number(scan_rig(&r, 0, 24), "complex", 2);
    REFUSED(&r, "complex = 2");
    rig_word(scan_rig(&r, 1, 24), "order", "down");
    REFUSED(&r, "order = down or up needs columns=");
    rig_open(&r, sqm_mixer_scan(), 24, 1);
    (void)rig_panels(&r, "a", 8, 3, 1.0f, 0.0f);
    rig_number(&r, "complex", 1);
    REFUSED(&r, "complex state of 3 numbers");
}

/* A state that decays by 1e-7 a step must still do so after many: e^v - 1 is not rounded to e^v. */
static void test_scan_slow(void)
{
    enum { ROWS = 20000 };
    double want = 1.0, worst = 0.0;
    rig r;
    float *a, *init, *values;
    rig_open(&r, sqm_mixer_scan(), 4, ROWS);
    a = rig_panels(&r, "a", 1, 1, 0.0f, 0.0f);
    a[0] = -1.0f;
    init = rig_tensor(&r, "init", 1, 1, 0.0f, 0.0f);
    init[0] = 1.0f;
    rig_word(&r, "dt_act", "none");
    for (int32_t t = 0; t < ROWS; t++) {
        r.in[4 * t] = 0.0f;             /* x, dt, B, C */
        r.in[4 * t + 1] = 1.1e-7f;
        r.in[4 * t + 2] = r.in[4 * t + 3] = 1.0f;
    }
    if (!rig_bind(&r)) return;
    values = r.want;
    for (int32_t t = 0; t < ROWS; t++) {
        want *= exp(-(double)1.1e-7f);
        if (fabs((double)values[t] - want) > worst) worst = fabs((double)values[t] - want);
    }
    CHECK(worst < 3e-4);                /* with a rounded e^v the state would not move, or twice as fast */
    rig_close(&r);
}

/* ---- matrix state -------------------------------------------------------------------------------------- */
typedef struct ssd_shape {
    int32_t     heads, dim, n, groups, rows, shift;
    const char *order;
} ssd_shape;

static void naive_head(double *y, const rig *r, const ssd_shape *s, const float *a, const float *d,
                       const float *bias, const float *init, int32_t h, const int32_t *order)
{
    const int32_t channels = s->heads * s->dim, b_at = channels, c_at = b_at + s->groups * s->n;
    const int32_t dt_at = c_at + s->groups * s->n, group = h / (s->heads / s->groups) * s->n;
    double *state = (double *)malloc((size_t)(s->dim * s->n) * sizeof(double));
    for (int32_t i = 0; i < s->dim * s->n; i++) state[i] = init ? (double)init[h * s->dim * s->n + i] : 0.0;
    for (int32_t i = 0; i < s->rows; i++) {
        const float *row = r->in + order[i] * r->width;
        double dt = softplus((double)row[dt_at + h] + (double)bias[h]);
        if (dt < 0.1) dt = 0.1;
        for (int32_t p = 0; p < s->dim; p++) {
            const double x = (double)row[h * s->dim + p];
            double sum = 0.0;
            for (int32_t k = 0; k < s->n; k++) {
                double *cell = &state[p * s->n + k];
                *cell = exp(dt * (double)a[h]) * *cell + dt * x * (double)row[b_at + group + k];
                sum += *cell * (double)row[c_at + group + k];
            }
            if (d) sum += (double)d[h * s->dim + p] * x;
            if (s->shift && i == 0) y[order[i] * channels + h * s->dim + p] = 0.0;
            if (i + s->shift < s->rows) y[order[i + s->shift] * channels + h * s->dim + p] = sum;
        }
    }
    free(state);
}

static void test_ssd(const ssd_shape *s, int extras)
{
    const int32_t channels = s->heads * s->dim, width = channels + 2 * s->groups * s->n + s->heads;
    int32_t order[256];
    double *naive = (double *)malloc((size_t)(s->rows * channels) * sizeof(double));
    const float *a, *d = NULL, *bias, *init = NULL;
    rig r;
    rig_open(&r, s->order ? sqm_mixer_ssd_whole() : sqm_mixer_ssd(), width, s->rows);
    rig_number(&r, "heads", s->heads);
    rig_number(&r, "head_dim", s->dim);
    rig_number(&r, "state", s->n);
    rig_number(&r, "groups", s->groups);
    rig_number(&r, "dt_min", 0.1);
    a = rig_tensor(&r, "a", s->heads, 0, 0.5f, -0.6f);
    bias = rig_tensor(&r, "dt_bias", s->heads, 0, 1.0f, -1.0f);
    if (extras) init = rig_tensor(&r, "init", channels, s->n, 1.0f, 0.0f);
    if (extras && !s->shift) d = rig_tensor(&r, "d", channels, 0, 1.0f, 0.0f);
    if (s->order) rig_word(&r, "order", s->order);
    if (s->order) rig_number(&r, "columns", 5);
    if (s->order) rig_number(&r, "shift", s->shift);
    if (!rig_bind(&r)) return;
    naive_order(order, s->order ? s->order : "forward", s->rows, 5);
    for (int32_t h = 0; h < s->heads; h++) naive_head(naive, &r, s, a, d, bias, init, h, order);
    rig_check(&r, naive, 1e-5, "ssd");
    free(naive);
    rig_close(&r);
}

static void test_ssds(void)
{
    static const ssd_shape shapes[] = {
        { 3, 64, 32, 1, 70, 0, NULL }, { 6, 5, 7, 3, 28, 0, NULL }, { 2, 16, 32, 2, 100, 0, NULL },
        { 2, 37, 3, 1, 12, 0, NULL }, { 1, 1, 1, 1, 1, 0, NULL }, { 4, 8, 13, 1, 130, 0, "forward" },
        { 4, 8, 13, 2, 130, 1, "forward" }, { 4, 80, 5, 1, 23, 1, "backward" },
        { 2, 3, 4, 1, 1, 1, "backward" }, { 2, 3, 4, 1, 23, 0, "down" }, { 2, 3, 4, 1, 25, 0, "up" }
    };
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) test_ssd(&shapes[i], i % 2 == 0);
}

static rig *ssd_rig(rig *r, int whole, int32_t width, int32_t heads, int32_t groups)
{
    rig_open(r, whole ? sqm_mixer_ssd_whole() : sqm_mixer_ssd(), width, 1);
    rig_number(r, "heads", heads);
    rig_number(r, "head_dim", 8);
    rig_number(r, "state", 5);
    rig_number(r, "groups", groups);
    (void)rig_tensor(r, "a", heads > 0 ? heads : 1, 0, 1.0f, 0.0f);
    return r;
}
static void test_ssd_refusals(void)
{
    rig r;
    REFUSED(ssd_rig(&r, 0, 46, 0, 1), "heads = 0");
    REFUSED(ssd_rig(&r, 0, 46, 4, 3), "4 heads do not divide into 3 groups");
    REFUSED(ssd_rig(&r, 0, 45, 4, 1), "dt_at: 4 columns from column 42");
    REFUSED(ssd_rig(&r, 0, 46, 1 << 16, 1), "x_at: 524288 columns");
    (void)rig_tensor(ssd_rig(&r, 0, 46, 4, 1), "d", 4, 0, 1.0f, 0.0f);
    REFUSED(&r, "d must be 32 float32 values, has 4");
    (void)rig_tensor(ssd_rig(&r, 0, 46, 4, 1), "init", 32, 6, 1.0f, 0.0f);
    REFUSED(&r, "init is [32, 6], expected [32, 5]");
    rig_word(ssd_rig(&r, 1, 46, 4, 1), "order", "sideways");
    REFUSED(&r, "order = 'sideways' is unknown");
    rig_number(ssd_rig(&r, 1, 46, 4, 1), "shift", 1);
    (void)rig_tensor(&r, "d", 32, 0, 1.0f, 0.0f);
    REFUSED(&r, "shift goes neither with d=");
    rig_open(&r, sqm_mixer_ssd(), 46, 1);
    rig_number(&r, "heads", 4);
    rig_number(&r, "head_dim", 8);
    REFUSED(&r, "state = 0");
    rig_open(&r, sqm_mixer_ssd(), 46, 1);
    rig_number(&r, "heads", 4);
    rig_number(&r, "head_dim", 8);
    rig_number(&r, "state", 5);
    REFUSED(&r, "ssd needs a=");
}

/* ---- trapezoidal rule ---------------------------------------------------------------------------------- */
typedef struct trap_shape {
    int32_t heads, dim, n, groups, rank, angles, rows, half, soft;
} trap_shape;
typedef struct trap_weights { const float *dt_bias, *b_bias, *c_bias, *mix, *d; } trap_weights;

/* One head's key or query of a row: bias, then the pairs turn */
static void naive_turn(double *to, const trap_shape *s, const float *from, const float *bias,
                       const double *angle)
{
    for (int32_t i = 0; i < s->n; i++) to[i] = (double)from[i] + (double)bias[i];
    for (int32_t i = 0; i < s->angles; i++) {
        double *a = to + (s->half ? i : 2 * i), *b = s->half ? a + s->n / 2 : a + 1;
        const double first = *a, second = *b;
        *a = first * cos(angle[i]) - second * sin(angle[i]);
        *b = first * sin(angle[i]) + second * cos(angle[i]);
    }
}
static void naive_trapezoid(double *y, const rig *r, const trap_shape *s, const trap_weights *w, int32_t h)
{
    const int32_t channels = s->heads * s->dim, keys = s->rank * s->groups * s->n, b_at = channels;
    const int32_t dt_at = b_at + 2 * keys, g = h / (s->heads / s->groups);
    double state[16 * 24], past_k[4][24], past_v[4][16], angle[12];
    memset(state, 0, sizeof(state)); memset(past_k, 0, sizeof(past_k));
    memset(past_v, 0, sizeof(past_v)); memset(angle, 0, sizeof(angle));
    for (int32_t t = 0; t < s->rows; t++) {
        const float *row = r->in + t * r->width;
        const double dt = softplus((double)row[dt_at + h] + (double)w->dt_bias[h]);
        const double raw = (double)row[dt_at + s->heads + h];
        const double size = s->soft ? softplus(raw) : raw >= 0.0 ? 1.0 + raw : 1.0 / (1.0 - raw);
        const double decay = exp(-(size > 0.05 ? size : 0.05) * dt);
        const double now = 1.0 / (1.0 + exp(-(double)row[dt_at + 2 * s->heads + h]));
        double k[4][24], q[4][24], v[4][16];
        for (int32_t i = 0; i < s->angles; i++)
            angle[i] += 3.14159265358979 * tanh((double)row[dt_at + 3 * s->heads + i]) * dt;
        for (int32_t j = 0; j < s->rank; j++) {
            const int32_t key = b_at + (j * s->groups + g) * s->n, bias = (h * s->rank + j) * s->n;
            naive_turn(k[j], s, row + key, w->b_bias + bias, angle);
            naive_turn(q[j], s, row + key + keys, w->c_bias + bias, angle);
            for (int32_t p = 0; p < s->dim; p++)
                v[j][p] = (double)row[h * s->dim + p] * (double)w->mix[(h * s->rank + j) * s->dim + p];
        }
        for (int32_t p = 0; p < s->dim; p++)
            for (int32_t i = 0; i < s->n; i++) {
                double *cell = &state[p * s->n + i];
                *cell *= decay;
                for (int32_t j = 0; j < s->rank; j++) {
                    *cell += (1.0 - now) * dt * decay * past_v[j][p] * past_k[j][i];
                    *cell += now * dt * v[j][p] * k[j][i];
                }
            }
        for (int32_t j = 0; j < s->rank; j++)
            for (int32_t p = 0; p < s->dim; p++) {
                double sum = (double)w->d[h * s->dim + p] * v[j][p];
                for (int32_t i = 0; i < s->n; i++) sum += state[p * s->n + i] * q[j][i];
                y[(t * s->rank + j) * channels + h * s->dim + p] = sum;
            }
        memcpy(past_k, k, sizeof(k));
        memcpy(past_v, v, sizeof(v));
    }
}

static void trap_rig(rig *r, const trap_shape *s, int32_t width, trap_weights *w)
{
    const int32_t all = s->heads * s->rank;
    rig_open(r, sqm_mixer_trapezoid(), width, s->rows);
    rig_number(r, "heads", s->heads);
    rig_number(r, "head_dim", s->dim);
    rig_number(r, "state", s->n);
    rig_number(r, "groups", s->groups);
    rig_number(r, "rank", s->rank);
    rig_number(r, "angles", s->angles);
    rig_number(r, "a_floor", 0.05);
    rig_word(r, "style", s->half ? "half" : "interleaved");
    rig_word(r, "a_act", s->soft ? "softplus" : "heavy_tail");
    w->dt_bias = rig_tensor(r, "dt_bias", s->heads, 0, 1.0f, -1.0f);
    w->b_bias = rig_tensor(r, "b_bias", all * s->n, 0, 1.0f, 0.0f);
    w->c_bias = rig_tensor(r, "c_bias", all * s->n, 0, 1.0f, 0.0f);
    w->mix = rig_tensor(r, "mix", all * s->dim, 0, 1.0f, 0.0f);
    w->d = rig_tensor(r, "d", s->heads * s->dim, 0, 1.0f, 0.0f);
}
static void test_trapezoids(void)
{
    static const trap_shape shapes[] = {
        { 4, 8, 16, 1, 1, 4, 90, 0, 0 }, { 4, 5, 10, 2, 1, 5, 20, 0, 1 }, { 2, 16, 24, 1, 4, 6, 70, 1, 0 },
        { 6, 3, 7, 3, 2, 0, 11, 1, 0 }, { 1, 1, 1, 1, 1, 0, 1, 0, 0 }
    };
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        const trap_shape *s = &shapes[i];
        const int32_t width = s->heads * s->dim + 2 * s->rank * s->groups * s->n + 3 * s->heads + s->angles;
        double *naive = (double *)malloc((size_t)(s->rows * s->rank * s->heads * s->dim) * sizeof(double));
        trap_weights w;
        rig r;
        trap_rig(&r, s, width, &w);
        if (!rig_bind(&r)) return;
        for (int32_t h = 0; h < s->heads; h++) naive_trapezoid(naive, &r, s, &w, h);
        rig_check(&r, naive, 2e-5, "trapezoid");
        free(naive);
        rig_close(&r);
    }
}
static void test_trapezoid_refusals(void)
{
    const trap_shape good = { 4, 8, 16, 2, 2, 4, 1, 0, 0 };
    trap_shape s = good;
    trap_weights w;
    rig r;
    s.groups = 3;
    trap_rig(&r, &s, 300, &w);
    REFUSED(&r, "4 heads do not divide into 3 groups");
    s = good;
    s.angles = 9;
    trap_rig(&r, &s, 300, &w);
    REFUSED(&r, "angles = 9");
    s = good;
    s.rank = 5;
    trap_rig(&r, &s, 300, &w);
    REFUSED(&r, "rank = 5");
    trap_rig(&r, &good, 175, &w);
    REFUSED(&r, "angle_at: 4 columns from column 172 on do not fit rows of 175");
    trap_rig(&r, &good, 176, &w);
    r.params[8].text = "linear";
    REFUSED(&r, "a_act = 'linear' is unknown");
}

int main(void)
{
    test_convs();
    test_conv_refusals();
    test_scans();
    test_scan_slow();
    test_scan_refusals();
    test_ssds();
    test_ssd_refusals();
    test_trapezoids();
    test_trapezoid_refusals();
    return check_report("test_mix_ssm");
}
