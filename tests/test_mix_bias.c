/* test_mix_bias.c - what the attention mixer adds to scores and hides by position: ALiBi, biases of keys and
   the choice of the largest, runs of positions; the lsh mixer. Against naive double versions over random
   shapes; cuts and instruction sets give the same bits; wrong parameters are refused. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "check.h"
#include <math.h>
#include <stdlib.h>

static uint32_t seed = 4242;
static uint32_t draw(uint32_t n) { seed = seed * 1664525u + 1013904223u; return (seed >> 8) % n; }
static float uniform(void) { return (float)draw(65536) / 32768.0f - 1.0f; }

typedef struct shape {
    int32_t heads, kv, dim, rows, chunk, before, key_bias, most, has_slopes;
    double  rounded;
} shape;

static int32_t row_width(const shape *s) { return (s->heads + 2 * s->kv) * s->dim + s->key_bias * s->kv; }

static double bf16(double v) { return (double)sqm__bf16_to_f32(sqm__f32_to_bf16((float)v)); }

/* How many visible keys have a larger bias than key j? Biases differ, so that there are no ties. */
static int32_t rank_of(const float *in, const shape *s, int32_t g, int32_t first, int32_t t, int32_t j)
{
    const int32_t width = row_width(s), at = width - s->kv + g;
    int32_t rank = 0;
    for (int32_t k = first; k <= t; k++) rank += in[k * width + at] > in[j * width + at];
    return rank;
}

static void naive(float *out, const float *in, const shape *s, const float *slopes)
{
    const int32_t width = row_width(s);
    for (int32_t t = 0; t < s->rows; t++)
        for (int32_t h = 0; h < s->heads; h++) {
            const int32_t g = h / (s->heads / s->kv);
            const int32_t first = s->chunk &&
                t / s->chunk > s->before ? (t / s->chunk - s->before) * s->chunk : 0;
            double sum = 0.0, acc[64] = { 0.0 };
            for (int32_t j = first; j <= t; j++) {
                double score = 0.0;
                if (s->most && rank_of(in, s, g, first, t, j) >= s->most) continue;
                for (int32_t i = 0; i < s->dim; i++)
                    score += (double)in[t * width + h * s->dim + i] *
                             (double)in[j * width + (s->heads + g) * s->dim + i];
                score *= 0.5;
                if (s->has_slopes && s->rounded != 0.0)
                    score += s->rounded * (bf16((double)slopes[h] * bf16(j)) -
                                           bf16((double)slopes[h] * bf16(t)));
                else if (s->has_slopes) score -= (double)slopes[h] * (t - j);
                if (s->key_bias) score += (double)in[j * width + width - s->kv + g];
                sum += exp(score);
                for (int32_t i = 0; i < s->dim; i++)
                    acc[i] += exp(score) * (double)in[j * width + (s->heads + s->kv + g) * s->dim + i];
            }
            for (int32_t i = 0; i < s->dim; i++)
                out[(t * s->heads + h) * s->dim + i] = (float)(acc[i] / sum);
        }
}

static int32_t fill_params(sqm_param *p, const shape *s, const sqm_tensor *const *slopes)
{
    const char *const keys[] = { "heads", "kv_heads", "head_dim", "scale", "chunk", "before", "key_bias",
                                 "most",
                                 "rounded", "slopes" };
    const double values[] = { s->heads, s->kv, s->dim, 0.5, s->chunk, s->before, s->key_bias, s->most,
                              s->rounded, 0.0 };
    memset(p, 0, 10 * sizeof(*p));
    for (int i = 0; i < 10; i++) { p[i].key = keys[i]; p[i].number = values[i]; }
    p[9].tensors = slopes;
    p[9].n_tensors = 1;
    return s->has_slopes ? 10 : 9;
}

typedef struct bench {
    uint8_t bound[256];
    float   slopes[16], *in, *want, *got;
    void   *state, *scratch;
    size_t  n_out, state_bytes, scratch_bytes;
    int32_t width, out_width;
} bench;

static void bench_open(bench *b, const shape *s)
{
    const sqm_mixer *mixer = sqm_mixer_attention();
    const sqm_tensor slopes = sqm_tensor_1d(b->slopes, SQM_F32, s->heads);
    const sqm_tensor *list = &slopes;
    sqm_param params[10];
    sqm_error err;
    b->width = row_width(s);
    for (int i = 0; i < 16; i++) b->slopes[i] = (float)bf16(0.05 * (double)draw(20));
    CHECK(mixer->bound_bytes <= sizeof(b->bound));
    CHECK(mixer->bind(b->bound, params, fill_params(params, s, &list), b->width, &b->out_width,
                      &err) == SQM_OK);
    CHECK(b->out_width == s->heads * s->dim);
    b->n_out = (size_t)s->rows * (size_t)b->out_width;
    b->in = (float *)malloc((size_t)s->rows * (size_t)b->width * 4);
    b->want = (float *)malloc(b->n_out * 4);
    b->got = (float *)malloc(b->n_out * 4);
    for (int32_t i = 0; i < s->rows * b->width; i++) b->in[i] = uniform() + 1e-5f * uniform();
    naive(b->want, b->in, s, b->slopes);
    b->state_bytes = mixer->state_bytes(b->bound, s->rows, s->rows, SQM_F32);
    b->scratch_bytes = mixer->scratch_bytes(b->bound, s->rows, s->rows, 1) + b->state_bytes + 64;
    b->state = malloc(b->state_bytes);
    b->scratch = malloc(b->scratch_bytes);
}
static void bench_close(bench *b)
{
    free(b->in);
    free(b->want);
    free(b->got);
    free(b->state);
    free(b->scratch);
}

static void test_shape(const shape *s)
{
    static const sqm_isa isas[] = { SQM_ISA_SCALAR, SQM_ISA_AVX2, SQM_ISA_AVX512, SQM_ISA_NEON };
    const sqm_mixer *mixer = sqm_mixer_attention();
    sqm_span span = { NULL, 0, 0, 0, 0 };
    sqm_exec x;
    bench b;
    float *first;
    bench_open(&b, s);
    first = (float *)malloc(b.n_out * 4);
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, b.scratch, b.scratch_bytes) == SQM_OK);
    span.rows = span.total = s->rows;
    CHECK(mixer->forward(b.bound, &x, first, b.in, &span, 1) == SQM_OK);
    CHECK_CLOSE(first, b.want, b.n_out, 3e-5, "attention with biases");
    for (int i = 0; i < 4; i++) {
        const int32_t most = 1 + (int32_t)draw(70);
        if (!sqm_cpu_has(isas[i])) continue;
        CHECK(sqm_exec_init(&x, isas[i], 1, b.scratch, b.scratch_bytes) == SQM_OK);
        mixer->reset(b.bound, b.state, b.state_bytes, s->rows, s->rows, SQM_F32);
        span.state = b.state;
        for (int32_t t = 0; t < s->rows; t += span.rows) {
            span.position = t;
            span.rows = 1 + (int32_t)draw((uint32_t)most);
            if (span.rows > s->rows - t) span.rows = s->rows - t;
            span.total = t + span.rows;
            CHECK(mixer->forward(b.bound, &x, b.got + (size_t)t * (size_t)b.out_width,
                                 b.in + (size_t)t * (size_t)b.width, &span, 1) == SQM_OK);
        }
        CHECK(memcmp(first, b.got, b.n_out * 4) == 0);
    }
    free(first);
    bench_close(&b);
}

static void test_refusals(void)
{
    shape s = { 2, 1, 4, 1, 0, 0, 0, 0, 0, 0.0 };
    uint8_t bound[256];
    sqm_param p[10];
    sqm_error err;
    int32_t out;
    float three[3] = { 0.0f };
    const sqm_tensor slopes = sqm_tensor_1d(three, SQM_F32, 3);
    const sqm_tensor *list = &slopes;
    const sqm_mixer *mixer = sqm_mixer_attention();
    s.most = 3;
    CHECK(mixer->bind(bound, p, fill_params(p, &s, NULL), 16, &out, &err) == SQM_E_SHAPE &&
          strstr(err.text, "most = 3"));
    s.most = 0; s.before = 1;
    CHECK(mixer->bind(bound, p, fill_params(p, &s, NULL), 16, &out, &err) == SQM_E_SHAPE &&
          strstr(err.text, "before = 1"));
    s.before = 0; s.key_bias = 1;
    CHECK(mixer->bind(bound, p, fill_params(p, &s, NULL), 16, &out, &err) == SQM_E_SHAPE);
    CHECK(mixer->bind(bound, p, fill_params(p, &s, NULL), 17, &out, &err) == SQM_OK);
    s.key_bias = 0; s.has_slopes = 1;
    CHECK(mixer->bind(bound, p, fill_params(p, &s, &list), 16, &out, &err) == SQM_E_SHAPE &&
          strstr(err.text, "slopes must be 2"));
}

/* ---- equal biases -------------------------------------------------------------------------------------- */
/* However equal numbers are ordered, the chosen ones are as many as asked for and none is larger outside. */
static void test_select(void)
{
    float value[200], kept[200];
    int32_t place[200];
    for (int round = 0; round < 300; round++) {
        const int32_t n = 2 + (int32_t)draw(190), most = 1 + (int32_t)draw((uint32_t)n - 1);
        sqm__ranked q;
        float least = 3e38f;
        for (int32_t i = 0; i < n; i++) { kept[i] = value[i] = (float)draw(1 + draw(30)); place[i] = i; }
        q.value = value;
        q.place = place;
        sqm__quickselect(q, n, most);
        for (int32_t i = 0; i < n; i++) CHECK(value[i] == kept[place[i]]);
        for (int32_t i = 0; i < most; i++) if (value[i] < least) least = value[i];
        for (int32_t i = most; i < n; i++) CHECK(value[i] <= least);
    }
}

/* ---- lsh ----------------------------------------------------------------------------------------------- */
enum { DIM = 6, HEADS = 2, CHUNK = 8, BUCKETS = 6, MOST = 100 };

static int32_t bucket_of(const float *x, const float *rotations, int32_t h, int32_t r, int32_t rounds)
{
    int32_t best = 0;
    double top = -1e30;
    for (int32_t k = 0; k < BUCKETS; k++) {
        double v = 0.0;
        for (int32_t i = 0; i < DIM; i++)
            v += (double)x[i] * (double)rotations[((h * DIM + i) * rounds + r) * (BUCKETS / 2)
                                                  + k % (BUCKETS / 2)];
        if (k >= BUCKETS / 2) v = -v;
        if (v > top) { top = v; best = k; }
    }
    return best;
}

/* One row: sums over all rounds are one sum, for softmax over rounds weighs by their sums. */
static void naive_lsh_row(float *out, const float *in, const int32_t *order, int32_t slot, int32_t slots,
                          int32_t h,
                          double *sum)
{
    const int32_t width = 2 * HEADS * DIM, row = order[slot], here = slot / CHUNK, n = slots / CHUNK;
    for (int32_t side = -1; side <= 0; side++)
        for (int32_t k = 0; k < CHUNK; k++) {
            const int32_t j = order[(here + side + n) % n * CHUNK + k];
            const float *x = in + row * width + h * DIM, *y = in + j * width + h * DIM;
            double s = 0.0, square = 0.0, e;
            for (int32_t i = 0; i < DIM; i++) {
                s += (double)x[i] * (double)y[i];
                square += (double)y[i] * (double)y[i];
            }
            if (j >= row) continue;
            e = exp(s / sqrt(square / DIM + 1e-6) / sqrt((double)DIM));
            *sum += e;
            for (int32_t i = 0; i < DIM; i++) out[i] += (float)(e * (double)y[HEADS * DIM + i]);
        }
}

static void naive_lsh(float *out, const float *in, const float *rotations, int32_t rows, int32_t rounds)
{
    int32_t order[4 * MOST], at;
    for (int32_t h = 0; h < HEADS; h++) {
        at = 0;
        for (int32_t r = 0; r < rounds; r++)
            for (int32_t k = 0; k < BUCKETS; k++)
                for (int32_t t = 0; t < rows; t++)
                    if (bucket_of(in + t * 2 * HEADS * DIM + h * DIM, rotations, h, r,
                                  rounds) == k) order[at++] = t;
        for (int32_t t = 0; t < rows; t++) {
            double sum = 0.0;
            float acc[DIM] = { 0.0f };
            for (int32_t slot = 0; slot < at; slot++)
                if (order[slot] == t) naive_lsh_row(acc, in, order, slot, at, h, &sum);
            for (int32_t i = 0; i < DIM; i++)          /* a row that meets nobody before it sees itself     */
                out[(t * HEADS + h) * DIM + i] = sum > 0.0 ? (float)((double)acc[i] / sum)
                    : in[t * 2 * HEADS * DIM + (HEADS + h) * DIM + i];
        }
    }
}

static void test_lsh(int32_t rows, int32_t rounds)
{
    static float in[MOST * 2 * HEADS * DIM], want[MOST * HEADS * DIM], got[MOST * HEADS * DIM];
    static float rotations[HEADS * DIM * 4 * BUCKETS / 2];
    const char *const keys[] = { "heads", "head_dim", "chunk", "before", "rounds", "buckets", "causal",
                                 "rotations" };
    const double values[] = { HEADS, DIM, CHUNK, 1, rounds, BUCKETS, 1, 0 };
    const sqm_tensor t = sqm_tensor_1d(rotations, SQM_F32, HEADS * DIM * rounds * BUCKETS / 2);
    const sqm_tensor *list = &t;
    const sqm_mixer *mixer = sqm_mixer_lsh();
    uint8_t bound[256];
    sqm_param p[8];
    sqm_span span = { NULL, 0, 0, 0, 0 };
    sqm_exec x;
    sqm_error err;
    int32_t out_width;
    void *scratch;
    size_t bytes;
    memset(p, 0, sizeof(p));
    for (int i = 0; i < 8; i++) { p[i].key = keys[i]; p[i].number = values[i]; }
    p[7].tensors = &list;
    p[7].n_tensors = 1;
    for (size_t i = 0; i < sizeof(in) / 4; i++) in[i] = uniform();
    for (size_t i = 0; i < sizeof(rotations) / 4; i++) rotations[i] = uniform();
    CHECK(mixer->bound_bytes <= sizeof(bound));
    CHECK(mixer->bind(bound, p, 8, 2 * HEADS * DIM, &out_width, &err) == SQM_OK && out_width == HEADS * DIM);
    bytes = mixer->scratch_bytes(bound, rows, rows, 1) + 64;
    scratch = malloc(bytes);
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, scratch, bytes) == SQM_OK);
    span.rows = span.total = rows;
    CHECK(mixer->forward(bound, &x, got, in, &span, 1) == SQM_OK);
    naive_lsh(want, in, rotations, rows, rounds);
    CHECK_CLOSE(got, want, (size_t)rows * HEADS * DIM, rounds > 1 ? 6e-3 : 3e-5, "lsh");   /* see Traps */
    span.position = 1;
    CHECK(mixer->forward(bound, &x, got, in, &span, 1) == SQM_E_ARGUMENT);
    p[5].number = 5;
    CHECK(mixer->bind(bound, p, 8, 2 * HEADS * DIM, &out_width, &err) == SQM_E_SHAPE);
    CHECK(mixer->bind(bound, p, 7, 2 * HEADS * DIM, &out_width, &err) == SQM_E_SHAPE);
    free(scratch);
}

int main(void)
{
    for (int i = 0; i < 120; i++) {
        shape s;
        memset(&s, 0, sizeof(s));
        s.kv = 1 + (int32_t)draw(3);
        s.heads = s.kv * (1 + (int32_t)draw(4));
        s.dim = 1 + (int32_t)draw(20);
        s.rows = 1 + (int32_t)draw(200);
        s.has_slopes = (int32_t)draw(2);
        s.rounded = draw(3) ? 0.0 : 0.7;
        if (!s.has_slopes) s.rounded = 0.0;
        s.key_bias = (int32_t)draw(2);
        s.most = s.key_bias && draw(2) ? 1 + (int32_t)draw(60) : 0;
        s.chunk = draw(2) ? 1 + (int32_t)draw(70) : 0;
        s.before = s.chunk ? (int32_t)draw(3) : 0;
        test_shape(&s);
    }
    test_select();
    test_refusals();
    for (int32_t rounds = 1; rounds <= 3; rounds++)
        for (int32_t chunks = 3; chunks <= 12; chunks += 3) test_lsh(chunks * CHUNK, rounds);
    return check_report("test_mix_bias");
}
