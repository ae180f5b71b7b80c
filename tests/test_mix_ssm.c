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
/* A tensor of rows x cols (cols 0: a vector), uniform in offset +- scale; the rig owns it. */
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
    rig_number(&r, "first", s->first);
    rig_number(&r, "dilation", s->dilation);
    if (whole && s->columns) rig_number(&r, "columns", s->columns);
    if (whole && s->columns) rig_number(&r, "across", s->across);
    if (whole && s->future >= 0) rig_number(&r, "future", s->future);
    if (!rig_bind(&r)) return;
    CHECK(r.out_width == s->channels);
    naive = (double *)malloc((size_t)(s->rows * s->channels) * sizeof(double));
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
            naive[t * s->channels + c] = biased ? silu(sum) : sum;
        }
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

int main(void)
{
    test_convs();
    test_conv_refusals();
    return check_report("test_mix_ssm");
}
