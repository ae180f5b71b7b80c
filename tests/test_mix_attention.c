/* test_mix_attention.c - the attention mixer against a naive double version over random shapes; cuts,
   batches, rings,
   threads and instruction sets give the same bits; wrong parameters are refused with a message. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "check.h"
#include <math.h>
#include <stdlib.h>

static uint32_t seed = 12345;
static uint32_t draw(uint32_t n) { seed = seed * 1664525u + 1013904223u; return (seed >> 8) % n; }
static float uniform(void) { return (float)draw(65536) / 32768.0f - 1.0f; }

typedef struct shape {
    int32_t heads, kv, dim, v_dim, window, rows;
    float   softcap;
    int     sinks;
    int32_t keep;
    int     sums;                       /* rows out have the sums of exponentials behind the heads */
} shape;
static int32_t out_columns(const shape *s) { return s->heads * (s->v_dim + s->sums); }

static void naive(float *out, const float *in, const shape *s, const float *sinks)
{
    const int32_t width = (s->heads + s->kv) * s->dim + s->kv * s->v_dim;
    for (int32_t t = 0; t < s->rows; t++)
        for (int32_t h = 0; h < s->heads; h++) {
            const int32_t g = h / (s->heads / s->kv), first = s->window && t >= s->window ? t - s->window + 1
                : 0;
            double sum = s->sinks ? exp((double)sinks[h]) : 0.0, acc[64] = { 0.0 }, most = -1e30;
            for (int32_t j = 0; j <= t; j++) {
                double score = 0.0, e;
                if (j < first && j >= s->keep) continue;
                for (int32_t i = 0; i < s->dim; i++)
                    score += (double)in[t * width + h * s->dim + i] * (double)in[j * width + (s->heads +
                            g) * s->dim + i];
                score *= 0.5;
                if (s->softcap > 0.0f) score = (double)s->softcap * tanh(score / (double)s->softcap);
                if (score > most) most = score;
                e = exp(score);
                sum += e;
                for (int32_t i = 0; i < s->v_dim; i++)
                    acc[i] += e * (double)in[j * width + (s->heads + s->kv) * s->dim + g * s->v_dim + i];
            }
            for (int32_t i = 0; i < s->v_dim; i++) out[t * out_columns(s) + h * s->v_dim + i] =
                (float)(acc[i] / sum);
            if (s->sums) out[t * out_columns(s) + s->heads * s->v_dim + h] = (float)(sum * exp(-most));
        }
}

static int32_t fill_params(sqm_param *p, const shape *s, const sqm_tensor *const *sinks)
{
    const char *const keys[] = { "heads", "kv_heads", "head_dim", "v_dim", "window", "softcap", "scale",
        "keep", "sums" };
    const double values[] = { s->heads, s->kv, s->dim, s->v_dim, s->window, (double)s->softcap, 0.5, s->keep,
        s->sums };
    memset(p, 0, 9 * sizeof(*p));
    for (int i = 0; i < 9; i++) { p[i].key = keys[i]; p[i].number = values[i]; }
    if (!s->sinks) return 9;
    p[8].key = "sinks";
    p[8].tensors = sinks;
    p[8].n_tensors = 1;
    return 9;
}

static void test_shape(const shape *s)
{
    const sqm_mixer *mixer = sqm_mixer_attention();
    const int32_t width = (s->heads + s->kv) * s->dim + s->kv * s->v_dim;
    const size_t n_in = (size_t)s->rows * (size_t)width, n_out =
        (size_t)s->rows * (size_t)out_columns(s);
    float *in = (float *)malloc(n_in * 4), *want = (float *)malloc(n_out * 4), *got =
        (float *)malloc(n_out * 4);
    float *cut = (float *)malloc(n_out * 4), sinks[16];
    const sqm_tensor sink = sqm_tensor_1d(sinks, SQM_F32, s->heads);
    const sqm_tensor *list = &sink;
    uint8_t bound[256];
    sqm_param params[9];
    sqm_exec x;
    sqm_error err;
    size_t state_bytes, scratch_bytes;
    void *state, *scratch;
    int32_t out_width = 0;
    for (size_t i = 0; i < n_in; i++) in[i] = uniform();
    for (int i = 0; i < 16; i++) sinks[i] = uniform();
    naive(want, in, s, sinks);
    CHECK(mixer->bound_bytes <= sizeof(bound));
    CHECK(mixer->bind(bound, params, fill_params(params, s, &list), width, &out_width, &err) == SQM_OK);
    CHECK(out_width == out_columns(s));
    state_bytes = mixer->state_bytes(bound, s->rows, s->rows, SQM_F32);
    scratch_bytes = mixer->scratch_bytes(bound, s->rows, s->rows, 1) + state_bytes + 64;
    state = malloc(state_bytes);
    scratch = malloc(scratch_bytes);
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, scratch, scratch_bytes) == SQM_OK);
    for (int with_state = 0; with_state < 2; with_state++) {
        sqm_span span = { NULL, 0, 0, 0, 0 };
        span.rows = span.total = s->rows;
        if (with_state) { mixer->reset(bound, state, state_bytes, s->rows, s->rows, SQM_F32); span.state =
            state; }
        CHECK(mixer->forward(bound, &x, got, in, &span, 1) == SQM_OK);
        CHECK_CLOSE(got, want, n_out, 3e-6, "attention");
    }
    mixer->reset(bound, state, state_bytes, s->rows, s->rows, SQM_F32);
    for (int32_t t = 0; t < s->rows;) {
        sqm_span span = { NULL, 0, 0, 0, 0 };
        span.state = state;
        span.position = t;
        span.total = s->rows;
        span.rows = 1 + (int32_t)draw((uint32_t)(s->rows - t));
        CHECK(mixer->forward(bound, &x, cut + (size_t)t * (size_t)out_width, in + (size_t)t * (size_t)width,
                             &span, 1) == SQM_OK);
        t += span.rows;
    }
    CHECK(memcmp(got, cut, n_out * 4) == 0);
    free(in); free(want); free(got); free(cut); free(state); free(scratch);
}

/* ---- one result everywhere ----------------------------------------------------------------------------- */
/* a bound mixer, rows, and their result as one sequence without state */
typedef struct bench {
    uint8_t    bound[256];
    sqm_tensor sink;
    float      sinks[16], *in, *want;
    int32_t    width, out_width, rows;
    void      *scratch;
    size_t     scratch_bytes;
} bench;

static sqm_result bench_feed(const bench *b, sqm_exec *x, float *out, void *state, int32_t at, int32_t rows)
{
    sqm_span span = { NULL, 0, 0, 0, 0 };
    span.state = state;
    span.position = at;
    span.rows = rows;
    span.total = at + rows;
    return sqm_mixer_attention()->forward(b->bound, x, out, b->in + (size_t)at * (size_t)b->width, &span, 1);
}

static sqm_exec bench_exec(const bench *b, sqm_isa isa, int32_t threads)
{
    sqm_exec x;
    CHECK(sqm_exec_init(&x, isa, threads, b->scratch, b->scratch_bytes) == SQM_OK);
    return x;
}

/* Values are multiples of 1/1024 times range: with range 1 exact in float16. */
static void bench_open(bench *b, const shape *s, float range)
{
    const sqm_tensor *list = &b->sink;
    const sqm_mixer *mixer = sqm_mixer_attention();
    sqm_param params[9];
    sqm_error err;
    sqm_exec x;
    size_t n;
    b->width = (s->heads + s->kv) * s->dim + s->kv * s->v_dim;
    b->rows = s->rows;
    n = (size_t)b->rows * (size_t)b->width;
    b->in = (float *)malloc(n * 4);
    for (size_t i = 0; i < n; i++) b->in[i] = range * ((float)draw(2048) / 1024.0f - 1.0f);
    for (int i = 0; i < 16; i++) b->sinks[i] = uniform();
    b->sink = sqm_tensor_1d(b->sinks, SQM_F32, s->heads);
    CHECK(mixer->bind(b->bound, params, fill_params(params, s, &list), b->width, &b->out_width,
                      &err) == SQM_OK);
    b->want = (float *)malloc((size_t)b->rows * (size_t)b->out_width * 4);
    b->scratch_bytes = mixer->scratch_bytes(b->bound, b->rows, b->rows, 8) + 64 +
                       mixer->state_bytes(b->bound, b->rows, b->rows, SQM_F32);
    b->scratch = malloc(b->scratch_bytes);
    x = bench_exec(b, SQM_ISA_SCALAR, 1);
    CHECK(bench_feed(b, &x, b->want, NULL, 0, b->rows) == SQM_OK);
}
static void bench_close(bench *b) { free(b->in); free(b->want); free(b->scratch); }

static void *bench_state(const bench *b, int32_t max_batch, sqm_dtype dtype)
{
    const sqm_mixer *mixer = sqm_mixer_attention();
    const size_t bytes = mixer->state_bytes(b->bound, b->rows, max_batch, dtype);
    void *state = malloc(bytes);
    memset(state, 0xff, bytes);         /* reset must not count on zeros                                    */
    mixer->reset(b->bound, state, bytes, b->rows, max_batch, dtype);
    CHECK(mixer->used_bytes(b->bound, state, 0) >= mixer->header_bytes);
    CHECK(mixer->used_bytes(b->bound, state, b->rows) <= bytes);
    return state;
}

static void run_backwards(void *user, sqm_task fn, void *arg, int32_t n)
{
    int32_t *calls = (int32_t *)user;
    ++*calls;
    for (int32_t i = n - 1; i >= 0; i--) fn(arg, i);
}

/* Pieces of at most max_batch rows; with a window the state is a ring that wraps. */
static void check_pieces(const bench *b, sqm_exec *x, int32_t max_batch, sqm_dtype dtype, double tolerance)
{
    const size_t n = (size_t)b->rows * (size_t)b->out_width;
    float *got = (float *)malloc(n * 4);
    void *state = bench_state(b, max_batch, dtype);
    for (int32_t t = 0, rows; t < b->rows; t += rows) {
        rows = 1 + (int32_t)draw((uint32_t)max_batch);
        if (rows > b->rows - t) rows = b->rows - t;
        CHECK(bench_feed(b, x, got + (size_t)t * (size_t)b->out_width, state, t, rows) == SQM_OK);
    }
    if (tolerance > 0.0) CHECK_CLOSE(got, b->want, n, tolerance, "pieces");
    else CHECK(memcmp(got, b->want, n * 4) == 0);
    free(state);
    free(got);
}

static void test_pieces(const shape *s)
{
    static const sqm_isa isas[] = { SQM_ISA_SCALAR, SQM_ISA_AVX2, SQM_ISA_AVX512, SQM_ISA_NEON };
    static const int32_t batches[] = { 1, 13, 100 };
    sqm_parallel pool;
    int32_t calls = 0;
    sqm_exec x;
    bench b;
    bench_open(&b, s, 1.0f);
    for (int i = 0; i < 4; i++) {
        if (!sqm_cpu_has(isas[i])) continue;
        x = bench_exec(&b, isas[i], 1);
        for (int k = 0; k < 3; k++) check_pieces(&b, &x, batches[k], SQM_F32, 0.0);
        check_pieces(&b, &x, 50, SQM_F16, 0.0);         /* these inputs are exact in float16                */
    }
    pool.run = run_backwards;
    pool.user = &calls;
    pool.threads = 5;
    x = bench_exec(&b, SQM_ISA_AUTO, 5);
    check_pieces(&b, &x, 100, SQM_F32, 0.0);            /* OpenMP where it is compiled in                   */
    x.parallel = &pool;
    check_pieces(&b, &x, 100, SQM_F32, 0.0);
    CHECK(bench_feed(&b, &x, b.want, NULL, 0, b.rows) == SQM_OK && calls > 0);
    bench_close(&b);
    bench_open(&b, s, 0.73f);
    x = bench_exec(&b, SQM_ISA_AUTO, 1);
    check_pieces(&b, &x, 33, SQM_F16, 4e-3);
    bench_close(&b);
}

/* Codes: near what floats give, the same bits for all instruction sets and pieces */
static void test_codes(const shape *s)
{
    static const sqm_isa isas[] = { SQM_ISA_SCALAR, SQM_ISA_AVX2, SQM_ISA_AVX512, SQM_ISA_NEON };
    static const struct { sqm_dtype dtype; double tolerance; } kinds[] = {
        { SQM_I8, 0.02 }, { SQM_Q4, 0.3 }
    };
    bench b;
    float *exact;
    bench_open(&b, s, 0.73f);
    exact = b.want;
    b.want = (float *)malloc((size_t)b.rows * (size_t)b.out_width * 4);
    for (int k = 0; k < 2; k++) {
        sqm_exec x = bench_exec(&b, SQM_ISA_SCALAR, 1);
        void *state = bench_state(&b, b.rows, kinds[k].dtype);
        CHECK(bench_feed(&b, &x, b.want, state, 0, b.rows) == SQM_OK);
        CHECK_CLOSE(b.want, exact, (size_t)b.rows * (size_t)b.out_width, kinds[k].tolerance, "codes");
        free(state);
        for (int i = 0; i < 4; i++) {
            if (!sqm_cpu_has(isas[i])) continue;
            x = bench_exec(&b, isas[i], 1);
            check_pieces(&b, &x, 1, kinds[k].dtype, 0.0);
            check_pieces(&b, &x, 50, kinds[k].dtype, 0.0);
        }
    }
    free(exact);
    bench_close(&b);
}

/* Sequences of other lengths, one of them without state, in one call and in another order of rows. */
static void test_spans(const shape *s)
{
    enum { N = 4 };
    static const int32_t past[N] = { 70, 0, 0, 129 }, rows[N] = { 1, 40, 65, 30 };
    const sqm_mixer *mixer = sqm_mixer_attention();
    float *in, *out, *alone;
    sqm_span spans[N];
    int32_t first = 0;
    sqm_exec x;
    bench b;
    bench_open(&b, s, 1.0f);
    in = (float *)malloc(200 * (size_t)b.width * 4);
    out = (float *)malloc(200 * (size_t)b.out_width * 4);
    alone = (float *)malloc(200 * (size_t)b.out_width * 4);
    for (int without = 0; without < N; without++) {     /* which one has no state                           */
        if (past[without]) continue;
        x = bench_exec(&b, SQM_ISA_AUTO, 3);
        first = 0;
        for (int i = N - 1; i >= 0; i--) {
            spans[i].state = i == without ? NULL : bench_state(&b, b.rows, SQM_F32);
            spans[i].first_row = first;
            spans[i].rows = rows[i];
            spans[i].position = past[i];
            spans[i].total = past[i] + rows[i];
            if (past[i]) CHECK(bench_feed(&b, &x, alone, spans[i].state, 0, past[i]) == SQM_OK);
            memcpy(in + (size_t)first * (size_t)b.width, b.in + (size_t)past[i] * (size_t)b.width,
                   (size_t)rows[i] * (size_t)b.width * 4);
            first += rows[i];
        }
        CHECK(mixer->forward(b.bound, &x, out, in, spans, N) == SQM_OK);
        for (int i = 0; i < N; i++) {
            const size_t n = (size_t)rows[i] * (size_t)b.out_width;
            CHECK(memcmp(out + (size_t)spans[i].first_row * (size_t)b.out_width,
                         b.want + (size_t)past[i] * (size_t)b.out_width, n * 4) == 0);
            free(spans[i].state);
        }
    }
    free(in); free(out); free(alone);
    bench_close(&b);
}

/* Scores of thousands: without subtracting the largest they would overflow. */
static void test_large(void)
{
    const shape s = { 1, 1, 16, 16, 0, 70, 0.0f, 1, 0, 0 };
    bench b;
    sqm_exec x;
    bench_open(&b, &s, 60.0f);
    x = bench_exec(&b, SQM_ISA_AUTO, 1);
    for (int32_t t = 0; t < s.rows; t++)
        for (int32_t i = 0; i < 16; i++) {
            const float v = b.want[t * 16 + i];
            CHECK(v >= -60.0f && v <= 60.0f);
        }
    check_pieces(&b, &x, 9, SQM_F32, 0.0);
    bench_close(&b);
}

static void test_scratch(void)
{
    const shape s = { 4, 2, 9, 7, 0, 70, 0.0f, 0, 0, 0 };
    bench b;
    sqm_exec x;
    float *out;
    void *state;
    uint8_t *aligned;
    bench_open(&b, &s, 1.0f);
    out = (float *)malloc((size_t)b.rows * (size_t)b.out_width * 4);
    state = bench_state(&b, b.rows, SQM_F32);
    aligned = (uint8_t *)b.scratch + (64 - (uintptr_t)b.scratch % 64) % 64;
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, NULL, 0) == SQM_OK);
    for (int i = 0; i < 2; i++) {
        void *to = i ? state : NULL;
        size_t need;
        CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, NULL, 0) == SQM_OK);
        CHECK(bench_feed(&b, &x, out, to, 0, b.rows) == SQM_E_MEMORY &&
              strstr(x.error.text, "attention needs"));
        need = (size_t)x.error.value;
        CHECK(need >= sqm_mixer_attention()->scratch_bytes(b.bound, b.rows, b.rows, 1) &&
              need + 64 <= b.scratch_bytes);
        CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, aligned, need - 1) == SQM_OK);
        CHECK(bench_feed(&b, &x, out, to, 0, b.rows) == SQM_E_MEMORY && x.error.value == need);
        CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, aligned, need) == SQM_OK);
        CHECK(bench_feed(&b, &x, out, to, 0, b.rows) == SQM_OK);
        CHECK(memcmp(out, b.want, (size_t)b.rows * (size_t)b.out_width * 4) == 0);
    }
    x = bench_exec(&b, SQM_ISA_AUTO, 1);
    CHECK(bench_feed(&b, &x, out, NULL, 3, 5) == SQM_E_ARGUMENT && strstr(x.error.text, "position 0, not 3"));
    free(out); free(state);
    bench_close(&b);
}

/* ---- wrong parameters ---------------------------------------------------------------------------------- */
static void refused(const sqm_param *p, int32_t n, int32_t width, const char *text, int line)
{
    uint8_t bound[256];
    int32_t out = 0;
    sqm_error err;
    sqm_result got;
    memset(&err, 0, sizeof(err));
    got = sqm_mixer_attention()->bind(bound, p, n, width, &out, &err);
    if (got != SQM_E_SHAPE || !strstr(err.text, text))
        printf("line %d: %s \"%s\", expected \"%s\"\n", line, sqm_result_name(got), err.text, text);
    CHECK(got == SQM_E_SHAPE && err.code == got && strstr(err.text, text));
}
#define REFUSED(p, n, width, text) refused(p, n, width, text, __LINE__)

static void test_refusals(void)
{
    const shape good = { 4, 2, 8, 8, 0, 1, 0.0f, 0, 0, 0 }, none = { 0, 2, 8, 8, 0, 1, 0.0f, 0, 0, 0 };
    float values[4] = { 0.0f };
    sqm_tensor sinks = sqm_tensor_1d(values, SQM_F32, 4);
    const sqm_tensor *list = &sinks;
    uint8_t bound[256];
    sqm_param p[9];
    sqm_error err;
    int32_t out;
    shape s = good;
    CHECK(sqm_mixer_attention()->bind(bound, p, fill_params(p, &s, NULL), 64, &out, &err) == SQM_OK &&
          out == 32);
    REFUSED(p, 8, 65, "rows of 65");
    REFUSED(p, 8, 63, "4 + 2 x 2 heads of 8");
    REFUSED(p, fill_params(p, &none, NULL), 64, "heads = 0");
    s.kv = 3;
    REFUSED(p, fill_params(p, &s, NULL), 80, "4 heads cannot share 3");
    s.kv = 8;
    REFUSED(p, fill_params(p, &s, NULL), 128, "kv_heads = 8 must be a whole number from 1 to 4");
    s = good; s.window = -1;
    REFUSED(p, fill_params(p, &s, NULL), 64, "window = -1");
    s = good; s.keep = 3;
    REFUSED(p, fill_params(p, &s, NULL), 64, "keep = 3 must be a whole number from 0 to 0");
    s = good; s.dim = 0;
    REFUSED(p, fill_params(p, &s, NULL), 16, "head_dim = 0");
    s = good; s.v_dim = -8;
    REFUSED(p, fill_params(p, &s, NULL), 64, "v_dim = -8");
    s = good; s.softcap = -1.0f;
    REFUSED(p, fill_params(p, &s, NULL), 64, "softcap");
    s = good; s.sinks = 1;
    CHECK(sqm_mixer_attention()->bind(bound, p, fill_params(p, &s, &list), 64, &out, &err) == SQM_OK);
    sinks.shape[0] = 3;
    REFUSED(p, 9, 64, "sinks must be 4 float32 values, has 3");
    sinks.shape[0] = 4;
    sinks.dtype = SQM_F16;
    REFUSED(p, 9, 64, "sinks");
    list = NULL;
    REFUSED(p, 9, 64, "sinks must be one tensor");
    (void)fill_params(p, &good, NULL);
    p[0].number = 2.5;
    REFUSED(p, 8, 64, "heads = 2.5 must be a whole number");
    p[0].number = 1e300;
    REFUSED(p, 8, 64, "heads");
    p[0].number = 4.0;
    p[6].number = 1e200;
    REFUSED(p, 8, 64, "scale = 1e200 is out of range");
    s = good; s.sums = 2;
    REFUSED(p, fill_params(p, &s, NULL), 64, "sums = 2");
}

static void test_all_pieces(void)
{
    for (int i = 0; i < 8; i++) {
        shape s;
        s.kv = 1 + (int32_t)draw(3);
        s.heads = s.kv * (1 + (int32_t)draw(4));
        s.dim = 1 + (int32_t)draw(24);
        s.v_dim = 1 + (int32_t)draw(24);
        s.window = i % 3 ? 1 + (int32_t)draw(90) : 0;
        s.rows = 160 + (int32_t)draw(50);
        s.softcap = i % 2 ? 1.5f : 0.0f;
        s.sinks = i / 2 % 2;
        s.sums = i == 0 || i == 5;
        s.keep = s.window && i % 2 ? (int32_t)draw(70) : 0;
        test_pieces(&s);
        test_codes(&s);
        test_spans(&s);
    }
}

int main(void)
{
    for (int i = 0; i < 150; i++) {
        shape s;
        s.kv = 1 + (int32_t)draw(3);
        s.heads = s.kv * (1 + (int32_t)draw(4));
        s.dim = 1 + (int32_t)draw(40);
        s.v_dim = 1 + (int32_t)draw(40);
        s.window = draw(2) ? 1 + (int32_t)draw(100) : 0;
        s.rows = 1 + (int32_t)draw(200);
        s.softcap = draw(2) ? 1.5f : 0.0f;
        s.sinks = (int)draw(2);
        s.sums = !s.sinks && i % 3 == 0;
        s.keep = s.window && draw(2) ? (int32_t)draw(100) : 0;
        test_shape(&s);
    }
    test_all_pieces();
    test_large();
    test_scratch();
    test_refusals();
    return check_report("test_mix_attention");
}
