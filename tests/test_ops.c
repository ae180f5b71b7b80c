/* test_ops.c - the operations on float32 rows against plain double code, their argument checks, work in
   place,
   and a caller's thread pool, which must not change a bit. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "check.h"
#include <math.h>
#include <stdlib.h>

enum { SCRATCH = 1 << 21 };
static uint8_t *scratch;
static uint32_t seed = 2024;
static int32_t draw(int32_t n)
{
    seed = seed * 1664525u + 1013904223u;
    return (int32_t)((seed >> 8) % (uint32_t)n);
}
static float uniform(void) { return (float)draw(65536) / 32768.0f - 1.0f; }

static float *random_floats(size_t n, float scale)
{
    float *values = (float *)malloc((n + 1) * sizeof(float));
    for (size_t i = 0; i < n; i++) values[i] = scale * uniform();
    return values;
}

static sqm_exec make(sqm_isa isa, int32_t threads)
{
    sqm_exec x;
    CHECK(sqm_exec_init(&x, isa, threads, scratch, SCRATCH) == SQM_OK);
    return x;
}

/* The call was refused with this code and a message that holds this text. */
static void refused(const sqm_exec *x, sqm_result got, sqm_result want, const char *text, int line)
{
    const int ok = got == want && x->error.code == want && strstr(x->error.text, text) != NULL;
    if (!ok) printf("line %d: %s \"%s\", expected %s with \"%s\"\n", line, sqm_result_name(got),
                    x->error.text,
                    sqm_result_name(want), text);
    CHECK(ok);
}
#define REFUSED(call, code, text) refused(&x, (call), (code), (text), __LINE__)

/* ---- execution context --------------------------------------------------------------------------------- */
static void test_exec(void)
{
    static const sqm_isa isas[] = { SQM_ISA_AVX2, SQM_ISA_AVX512, SQM_ISA_NEON, SQM_ISA_WASM };
    const size_t size = sqm_exec_scratch_size(3, 40, 2);
    sqm_exec x;
    REFUSED(sqm_exec_init(&x, SQM_ISA_AUTO, -1, scratch, SCRATCH), SQM_E_ARGUMENT, "-1 threads");
    REFUSED(sqm_exec_init(&x, SQM_ISA_AUTO, 1025, scratch, SCRATCH), SQM_E_ARGUMENT, "1025");
    for (int i = 0; i < 4; i++)
        if (!sqm_cpu_has(isas[i]))
            REFUSED(sqm_exec_init(&x, isas[i], 1, scratch, SCRATCH), SQM_E_UNSUPPORTED,
                    sqm_isa_name(isas[i]));
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 0, NULL, 0) == SQM_OK && x.threads == 1 && x.precision == SQM_FAST);
    CHECK(sqm_exec_init(&x, SQM_ISA_SCALAR, 1024, scratch, SCRATCH) == SQM_OK && x.threads == 1024);
    CHECK(sqm_exec_scratch_size(0, 40, 2) == 0 && sqm_exec_scratch_size(3, 0, 2) == 0);
    CHECK(size > 0 && sqm_exec_scratch_size(3, 40, 0) == sqm_exec_scratch_size(3, 40, 1));
    CHECK(sqm_exec_scratch_size(4, 40, 2) >= size && sqm_exec_scratch_size(3, 140, 2) > size);
}

/* Scratch of the published size is enough wherever it starts; one byte less than needed is refused. */
static void test_scratch(void)
{
    const size_t size = sqm_exec_scratch_size(3, 40, 2);
    float *a = random_floats(3 * 40, 1.0f), *weights = random_floats(5 * 40, 1.0f);
    float *freq = random_floats(8, 1.0f);
    float y[15];
    const int32_t shape[2] = { 5, 40 };
    const size_t bytes = sqm_tensor_bytes(SQM_Q8, SQM_PANELS, 2, shape);
    void *panels = malloc(bytes);
    const sqm_tensor w = sqm_tensor_2d(panels, SQM_Q8, SQM_PANELS, 5, 40);
    sqm_exec x = make(SQM_ISA_AUTO, 1);
    uint8_t *aligned;
    size_t need;
    CHECK(sqm_pack(panels, bytes, SQM_Q8, weights, 5, 40, NULL, &x.error) == SQM_OK);
    for (size_t at = 0; at < 70; at += 7) {
        uint8_t *memory = scratch + at;
        memset(scratch, 0x5a, size + 256);
        CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 2, memory, size) == SQM_OK);
        CHECK(sqm_matmul(&x, y, a, 3, &w, NULL) == SQM_OK);
        for (size_t i = at + size; i < size + 256; i++) CHECK(scratch[i] == 0x5a);
        for (size_t i = 0; i < at; i++) CHECK(scratch[i] == 0x5a);
    }
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 2, NULL, 0) == SQM_OK);
    REFUSED(sqm_matmul(&x, y, a, 3, &w, NULL), SQM_E_MEMORY, "scratch");
    need = (size_t)x.error.value;
    CHECK(need > 0 && need <= size);
    aligned = scratch + (64 - (uintptr_t)scratch % 64) % 64;
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 2, aligned, need - 1) == SQM_OK);
    REFUSED(sqm_matmul(&x, y, a, 3, &w, NULL), SQM_E_MEMORY, "scratch");
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 2, aligned, need) == SQM_OK);
    CHECK(sqm_matmul(&x, y, a, 3, &w, NULL) == SQM_OK);
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, aligned, 63) == SQM_OK);
    REFUSED(sqm_rope(&x, a, 1, 40, 0, 1, 40, 16, SQM_ROPE_HALF, freq, 1.0f, NULL, 0), SQM_E_MEMORY,
            "64 bytes");
    free(a); free(weights); free(freq); free(panels);
}

/* ---- products ------------------------------------------------------------------------------------------ */
/* The largest error the formats allow: rounding of sums, and of activations to 8 bits in groups of 32. */
static double product_bound(const float *a, const float *w, int32_t cols, int rounded)
{
    double bound = 1e-30;
    for (int32_t first = 0; first < cols; first += 32) {
        const int32_t end = first + 32 < cols ? first + 32 : cols;
        double largest = 0.0, weights = 0.0;
        for (int32_t i = first; i < end; i++) {
            if (fabs((double)a[i]) > largest) largest = fabs((double)a[i]);
            weights += fabs((double)w[i]);
            bound += 2e-6 * fabs((double)a[i] * (double)w[i]);
        }
        if (rounded) bound += largest * weights / 250.0;
    }
    return bound;
}

static void check_product(const float *y, const float *a, int32_t n, const sqm_tensor *w, const float *bias,
                          int rounded)
{
    const int32_t rows = w->shape[0], cols = w->shape[1];
    float *row = (float *)malloc((size_t)cols * sizeof(float));
    sqm_error err;
    for (int32_t r = 0; r < rows; r++) {
        CHECK(sqm_tensor_row(row, w, r, &err) == SQM_OK);
        for (int32_t t = 0; t < n; t++) {
            double want = bias ? (double)bias[r] : 0.0, bound;
            for (int32_t i = 0; i < cols; i++) want += (double)a[t * cols + i] * (double)row[i];
            bound = product_bound(a + t * cols, row, cols, rounded) + 1e-6 * fabs(want);
            CHECK(fabs((double)y[t * rows + r] - want) <= bound);
        }
    }
    free(row);
}

static void test_matmul(sqm_dtype dtype, int32_t n, int32_t rows, int32_t cols, int with_bias)
{
    static const sqm_isa isas[] = { SQM_ISA_SCALAR, SQM_ISA_AVX2, SQM_ISA_AVX512, SQM_ISA_NEON };
    const int32_t shape[2] = { rows, cols };
    const size_t bytes = sqm_tensor_bytes(dtype, SQM_PANELS, 2, shape), n_out = (size_t)n * (size_t)rows;
    float *a = random_floats((size_t)n * (size_t)cols, 2.0f);
    float *source = random_floats((size_t)rows * (size_t)cols, 1.0f);
    float *bias = random_floats((size_t)rows, 3.0f), *y = random_floats(n_out, 1.0f);
    float *first = random_floats(n_out, 1.0f);
    void *panels = malloc(bytes);
    const sqm_tensor w = sqm_tensor_2d(panels, dtype, SQM_PANELS, rows, cols);
    sqm_error err;
    CHECK(sqm_pack(panels, bytes, dtype, source, rows, cols, NULL, &err) == SQM_OK);
    for (int exact = 0; exact < 2; exact++)
        for (int i = 0; i < 4; i++) {
            sqm_exec x;
            if (!sqm_cpu_has(isas[i])) continue;
            x = make(isas[i], 1 + draw(3));
            x.precision = exact ? SQM_EXACT : SQM_FAST;
            y[n_out] = -7.0f;
            CHECK(sqm_matmul(&x, y, a, n, &w, with_bias ? bias : NULL) == SQM_OK);
            CHECK(y[n_out] == -7.0f);                   /* nothing behind the last row                      */
            if (i == 0) {
                check_product(y, a, n, &w, with_bias ? bias : NULL, !exact && dtype >= SQM_Q8);
                memcpy(first, y, n_out * sizeof(float));
            }
            CHECK(memcmp(first, y, n_out * sizeof(float)) == 0);
        }
    free(a); free(source); free(bias); free(y); free(first); free(panels);
}

static void test_matmul_arguments(void)
{
    float a[64] = { 0.0f }, y[32], panels[16 * 32] = { 0.0f };
    sqm_tensor w = sqm_tensor_2d(panels, SQM_F32, SQM_PANELS, 16, 32);
    sqm_exec x = make(SQM_ISA_AUTO, 1);
    CHECK(sqm_matmul(&x, y, a, 2, &w, NULL) == SQM_OK);
    REFUSED(sqm_matmul(&x, y, a, 0, &w, NULL), SQM_E_ARGUMENT, "n = 0");
    REFUSED(sqm_matmul(&x, y, a, -3, &w, NULL), SQM_E_ARGUMENT, "n = -3");
    REFUSED(sqm_matmul(&x, NULL, a, 1, &w, NULL), SQM_E_ARGUMENT, "matmul");
    REFUSED(sqm_matmul(&x, y, NULL, 1, &w, NULL), SQM_E_ARGUMENT, "matmul");
    REFUSED(sqm_matmul(&x, y, a, 1, NULL, NULL), SQM_E_SHAPE, "panels");
    w.layout = SQM_ROWS;
    REFUSED(sqm_matmul(&x, y, a, 1, &w, NULL), SQM_E_SHAPE, "panels");
    w = sqm_tensor_2d(NULL, SQM_F32, SQM_PANELS, 16, 32);
    REFUSED(sqm_matmul(&x, y, a, 1, &w, NULL), SQM_E_SHAPE, "panels");
    w = sqm_tensor_1d(panels, SQM_F32, 16);
    REFUSED(sqm_matmul(&x, y, a, 1, &w, NULL), SQM_E_SHAPE, "panels");
    w = sqm_tensor_2d(panels, SQM_Q4K, SQM_PANELS, 16, 32);
    REFUSED(sqm_matmul(&x, y, a, 1, &w, NULL), SQM_E_SHAPE,
            "q4k weights need a multiple of 256 columns, not 32");
}

/* ---- norms, softmax ------------------------------------------------------------------------------------ */
static void normalize_double(float *y, const float *a, int32_t dim, sqm_norm kind, const float *gain,
                             const float *bias, double eps)
{
    double mean = 0.0, sum = 0.0, factor;
    for (int32_t i = 0; i < dim && kind == SQM_NORM_LAYER; i++) mean += (double)a[i] / dim;
    for (int32_t i = 0; i < dim; i++) sum += ((double)a[i] - mean) * ((double)a[i] - mean);
    factor = 1.0 / sqrt((kind == SQM_NORM_L2 ? sum : sum / dim) + eps);
    for (int32_t i = 0; i < dim; i++)
        y[i] = (float)(((double)a[i] - mean) * factor * (gain ? (double)gain[i] : 1.0) +
                       (bias ? (double)bias[i] : 0.0));
}

static void test_normalize(int32_t n, int32_t dim, sqm_norm kind, int with_gain, int with_bias)
{
    const size_t all = (size_t)n * (size_t)dim;
    float *a = random_floats(all, 5.0f), *gain = random_floats((size_t)dim, 2.0f);
    float *bias = random_floats((size_t)dim, 1.0f);
    float *y = random_floats(all, 1.0f), *want = random_floats(all, 1.0f);
    const float *g = with_gain ? gain : NULL, *b = with_bias ? bias : NULL;
    sqm_exec x = make(SQM_ISA_AUTO, 1);
    for (int32_t t = 0; t < n; t++)
        normalize_double(want + t * dim, a + t * dim, dim, kind, g, b, 1e-5);
    CHECK(sqm_normalize(&x, y, a, n, dim, kind, g, b, 1e-5f) == SQM_OK);
    CHECK_CLOSE(y, want, all, 1e-5, "normalize");
    CHECK(sqm_normalize(&x, a, a, n, dim, kind, g, b, 1e-5f) == SQM_OK);
    CHECK(memcmp(a, y, all * sizeof(float)) == 0);      /* in place                                         */
    free(a); free(gain); free(bias); free(y); free(want);
}

static void test_softmax(int32_t n, int32_t dim, float scale, float range)
{
    const size_t all = (size_t)n * (size_t)dim;
    float *a = random_floats(all, range), *y = random_floats(all, 1.0f), *want = random_floats(all, 1.0f);
    sqm_exec x = make(SQM_ISA_AUTO, 1);
    for (int32_t t = 0; t < n; t++) {
        const float *row = a + t * dim;
        double top = -1e300, sum = 0.0;
        for (int32_t i = 0; i < dim; i++) {
            /* the kernel scales in float32 */
            const volatile float scaled = row[i] * scale;
            if ((double)scaled > top) top = (double)scaled;
        }
        for (int32_t i = 0; i < dim; i++) {
            const volatile float scaled = row[i] * scale;
            sum += exp((double)scaled - top);
        }
        for (int32_t i = 0; i < dim; i++) {
            const volatile float scaled = row[i] * scale;
            want[t * dim + i] = (float)(exp((double)scaled - top) / sum);
        }
    }
    CHECK(sqm_softmax(&x, y, a, n, dim, scale) == SQM_OK);
    CHECK_CLOSE(y, want, all, range > 100.0f ? 1e-4 : 2e-6, "softmax");
    CHECK(sqm_softmax(&x, a, a, n, dim, scale) == SQM_OK);
    CHECK(memcmp(a, y, all * sizeof(float)) == 0);
    free(a); free(y); free(want);
}

static void test_row_arguments(void)
{
    float a[8] = { 1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f, 7.0f, 8.0f }, y[8], zero[8] = { 0.0f };
    sqm_exec x = make(SQM_ISA_AUTO, 1);
    REFUSED(sqm_normalize(&x, y, a, 0, 8, SQM_NORM_RMS, NULL, NULL, 1e-5f), SQM_E_ARGUMENT, "n = 0");
    REFUSED(sqm_normalize(&x, y, a, 1, -8, SQM_NORM_RMS, NULL, NULL, 1e-5f), SQM_E_ARGUMENT, "dim = -8");
    REFUSED(sqm_normalize(&x, y, NULL, 1, 8, SQM_NORM_RMS, NULL, NULL, 1e-5f), SQM_E_ARGUMENT, "n = 1");
    REFUSED(sqm_normalize(&x, y, a, 1, 8, (sqm_norm)99, NULL, NULL, 1e-5f), SQM_E_ARGUMENT, "norm 99");
    REFUSED(sqm_softmax(&x, y, a, -1, 8, 1.0f), SQM_E_ARGUMENT, "n = -1");
    REFUSED(sqm_softmax(&x, NULL, a, 1, 8, 1.0f), SQM_E_ARGUMENT, "dim = 8");
    REFUSED(sqm_glu(&x, y, a, 1, 0, SQM_ACT_SILU), SQM_E_ARGUMENT, "dim = 0");
    REFUSED(sqm_glu(&x, y, a, 1, 4, SQM_ACT_COUNT), SQM_E_ARGUMENT, "is unknown");
    REFUSED(sqm_activate(&x, y, a, 8, SQM_ACT_COUNT), SQM_E_ARGUMENT, "is unknown");
    REFUSED(sqm_activate(&x, y, NULL, 8, SQM_ACT_SILU), SQM_E_ARGUMENT, "no data");
    REFUSED(sqm_activate(&x, NULL, a, 8, SQM_ACT_SILU), SQM_E_ARGUMENT, "no data");
    y[0] = 3.0f;
    CHECK(sqm_activate(&x, y, a, 0, SQM_ACT_SILU) == SQM_OK && y[0] == 3.0f);
    for (int kind = 0; kind < 3; kind++) {              /* eps keeps rows of zeros finite                   */
        CHECK(sqm_normalize(&x, y, zero, 1, 8, (sqm_norm)kind, NULL, NULL, 1e-6f) == SQM_OK);
        CHECK(memcmp(y, zero, sizeof(y)) == 0);
    }
}

/* ---- activations --------------------------------------------------------------------------------------- */
static double act_double(sqm_act kind, double v)
{
    const double logistic = 1.0 / (1.0 + exp(-v));
    switch (kind) {
    case SQM_ACT_SILU:       return v * logistic;
    case SQM_ACT_GELU:       return v * 0.5 * erfc(-v / 1.4142135623730951);
    case SQM_ACT_GELU_TANH:  return v * 0.5 * (1.0 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
    case SQM_ACT_RELU:       return v > 0.0 ? v : 0.0;
    case SQM_ACT_RELU2:      return v > 0.0 ? v * v : 0.0;
    case SQM_ACT_QUICK_GELU: return v / (1.0 + exp(-1.702 * v));
    case SQM_ACT_SIGMOID:    return logistic;
    case SQM_ACT_TANH:       return tanh(v);
    case SQM_ACT_EXP:        return exp(v);
    case SQM_ACT_SOFTPLUS:   return v > 30.0 ? v : log1p(exp(v));
    case SQM_ACT_LOG_SIGMOID: return v < -30.0 ? v : -log1p(exp(-v));
    case SQM_ACT_ELU1:       return v > 0.0 ? v + 1.0 : exp(v);
    case SQM_ACT_LOG:        return v > 0.0 ? log(v) : -3.0e38;
    case SQM_ACT_SQRT:       return v > 0.0 ? sqrt(v) : 0.0;
    default:                 return v;
    }
}

static void test_activations(void)
{
    enum { N = 3 * 67 };
    float *a = random_floats(2 * N, 12.0f), y[N], want[N], place[2 * N];
    sqm_exec x = make(SQM_ISA_AUTO, 1);
    for (int kind = 0; kind < SQM_ACT_COUNT; kind++) {
        for (int i = 0; i < N; i++) want[i] = (float)act_double((sqm_act)kind, (double)a[i]);
        CHECK(sqm_activate(&x, y, a, N, (sqm_act)kind) == SQM_OK);
        CHECK_CLOSE(y, want, N, 3e-6, "activate");
        memcpy(place, a, sizeof(place));
        CHECK(sqm_activate(&x, place, place, N, (sqm_act)kind) == SQM_OK);
        CHECK(memcmp(place, y, sizeof(y)) == 0);
        for (int t = 0; t < 3; t++)
            for (int i = 0; i < 67; i++)
                want[t * 67 + i] = (float)(act_double((sqm_act)kind, (double)a[t * 134 + i]) *
                                           (double)a[t * 134 + 67 + i]);
        CHECK(sqm_glu(&x, y, a, 3, 67, (sqm_act)kind) == SQM_OK);
        CHECK_CLOSE(y, want, N, 3e-6, "glu");
    }
    free(a);
}

/* ---- rotary positions ---------------------------------------------------------------------------------- */
typedef struct rope_case {
    int32_t        n, first, heads, head_dim, dims, after, last;
    sqm_rope_style style;
    float          factor;
} rope_case;

static void test_rope(const rope_case *c)
{
    const int32_t stride = c->first + c->heads * c->head_dim + c->after, half = c->dims / 2;
    const size_t all = (size_t)c->n * (size_t)stride;
    float *rows = random_floats(all, 1.0f), *want = random_floats(all, 1.0f);
    float *freq = random_floats((size_t)half, 1.0f);
    int32_t *positions = (int32_t *)malloc((size_t)c->n * sizeof(int32_t));
    sqm_exec x = make(SQM_ISA_AUTO, 1);
    memcpy(want, rows, all * sizeof(float));
    for (int32_t i = 0; i < half; i++) freq[i] = (float)pow(10000.0, -2.0 * i / c->dims);
    for (int32_t t = 0; t < c->n; t++) positions[t] = t == 0 ? c->last : draw(c->last + 1);
    for (int32_t t = 0; t < c->n; t++)
        for (int32_t h = 0; h < c->heads; h++)
            for (int32_t i = 0; i < half; i++) {
                const volatile float phase = (float)positions[t] * freq[i];
                const double cosine = cos((double)phase) * (double)c->factor,
                    sine = sin((double)phase) * (double)c->factor;
                const int32_t at = t * stride + c->first + h * c->head_dim;
                const int32_t one = at + (c->style == SQM_ROPE_HALF ? i : 2 * i);
                const int32_t two = c->style == SQM_ROPE_HALF ? one + half : one + 1;
                want[one] = (float)((double)rows[one] * cosine - (double)rows[two] * sine);
                want[two] = (float)((double)rows[two] * cosine + (double)rows[one] * sine);
            }
    CHECK(sqm_rope(&x, rows, c->n, stride, c->first, c->heads, c->head_dim, c->dims, c->style, freq,
                   c->factor,
                   positions, 77) == SQM_OK);
    CHECK_CLOSE(rows, want, all, 4e-7, "rope");
    for (int32_t t = 0; t < c->n; t++)                  /* other columns are not touched                    */
        for (int32_t i = 0; i < stride; i++) {
            const int32_t channel = i - c->first;
            if (channel < 0 || channel >= c->heads * c->head_dim || channel % c->head_dim >= c->dims)
                CHECK(check_bits(rows[t * stride + i]) == check_bits(want[t * stride + i]));
        }
    for (int32_t t = 0; t < c->n; t++) positions[t] = c->last + t;      /* NULL counts from first_position  */
    memcpy(want, rows, all * sizeof(float));
    CHECK(sqm_rope(&x, rows, c->n, stride, c->first, c->heads, c->head_dim, c->dims, c->style, freq,
                   c->factor,
                   positions, 0) == SQM_OK);
    CHECK(sqm_rope(&x, want, c->n, stride, c->first, c->heads, c->head_dim, c->dims, c->style, freq,
                   c->factor,
                   NULL, c->last) == SQM_OK);
    CHECK(memcmp(rows, want, all * sizeof(float)) == 0);
    free(rows); free(want); free(freq); free(positions);
}

#define ROPE(rows, n, first, heads, dims, freq) \
    sqm_rope(&x, rows, n, 20, first, heads, 8, dims, SQM_ROPE_HALF, freq, 1.0f, NULL, 0)
static void test_rope_arguments(void)
{
    float rows[40] = { 0.0f }, freq[4] = { 1.0f, 0.5f, 0.25f, 0.125f };
    sqm_exec x = make(SQM_ISA_AUTO, 1);
    CHECK(sqm_rope(&x, rows, 2, 20, 4, 2, 8, 8, SQM_ROPE_HALF, freq, 1.0f, NULL, 0) == SQM_OK);
    REFUSED(ROPE(rows, 2, 5, 2, 8, freq), SQM_E_ARGUMENT, "rows of 20");
    REFUSED(ROPE(rows, 2, -1, 2, 8, freq), SQM_E_ARGUMENT, "rope");
    REFUSED(ROPE(rows, 2, 0, 2, 7, freq), SQM_E_ARGUMENT, "7 of 8");
    REFUSED(ROPE(rows, 2, 0, 2, 10, freq), SQM_E_ARGUMENT, "10 of 8");
    REFUSED(ROPE(rows, 2, 0, 2, 0, freq), SQM_E_ARGUMENT, "0 of 8");
    REFUSED(ROPE(rows, 2, 0, 0, 8, freq), SQM_E_ARGUMENT, "0 heads");
    REFUSED(ROPE(rows, 0, 0, 2, 8, freq), SQM_E_ARGUMENT, "rope");
    REFUSED(ROPE(NULL, 2, 0, 2, 8, freq), SQM_E_ARGUMENT, "rope");
    REFUSED(ROPE(rows, 2, 0, 2, 8, NULL), SQM_E_ARGUMENT, "rope");
    REFUSED(ROPE(rows, 1, 0, INT32_MAX, 8, freq), SQM_E_ARGUMENT, "rope");
}

/* ---- a caller's pool ----------------------------------------------------------------------------------- */
typedef struct pool { int32_t calls, pieces; } pool;
static void run_backwards(void *user, sqm_task fn, void *arg, int32_t n)
{
    pool *p = (pool *)user;
    p->calls++;
    if (n > p->pieces) p->pieces = n;
    for (int32_t i = n - 1; i >= 0; i--) fn(arg, i);
}

/* All operations on the same rows, one after another in out. */
static void run_all(sqm_exec *x, float *out, const float *a, int32_t n, int32_t dim, const sqm_tensor *w)
{
    const size_t all = (size_t)n * (size_t)dim;
    CHECK(sqm_matmul(x, out, a, n, w, NULL) == SQM_OK);
    CHECK(sqm_normalize(x, out + all, a, n, dim, SQM_NORM_LAYER, a, a + dim, 1e-5f) == SQM_OK);
    CHECK(sqm_softmax(x, out + 2 * all, a, n, dim, 1.5f) == SQM_OK);
    CHECK(sqm_glu(x, out + 3 * all, a, n, dim / 2, SQM_ACT_SILU) == SQM_OK);
}

static void test_parallel(sqm_dtype dtype, sqm_precision precision)
{
    enum { N = 90, DIM = 256 };
    const int32_t shape[2] = { DIM, DIM };
    const size_t all = (size_t)N * DIM, bytes = sqm_tensor_bytes(dtype, SQM_PANELS, 2, shape);
    float *a = random_floats(all, 1.0f), *source = random_floats((size_t)DIM * DIM, 1.0f);
    float *serial = (float *)calloc(4 * all, sizeof(float)), *other = (float *)calloc(4 * all, sizeof(float));
    void *panels = malloc(bytes);
    const sqm_tensor w = sqm_tensor_2d(panels, dtype, SQM_PANELS, DIM, DIM);
    pool counts = { 0, 0 };
    sqm_parallel parallel;
    sqm_exec x = make(SQM_ISA_AUTO, 1);
    CHECK(sqm_pack(panels, bytes, dtype, source, DIM, DIM, NULL, &x.error) == SQM_OK);
    x.precision = precision;
    run_all(&x, serial, a, N, DIM, &w);
    for (int32_t threads = 2; threads <= 7; threads++) {
        x = make(SQM_ISA_AUTO, threads);
        x.precision = precision;
        if (threads > 3) {                              /* 2 and 3: OpenMP's where it is compiled in        */
            parallel.run = run_backwards;
            parallel.user = &counts;
            parallel.threads = threads;
            x.parallel = &parallel;
        }
        memset(other, 0, 4 * all * sizeof(float));
        run_all(&x, other, a, N, DIM, &w);
        CHECK(memcmp(serial, other, 4 * all * sizeof(float)) == 0);
    }
    CHECK(counts.calls >= 4 * 4 && counts.pieces > 1 && counts.pieces <= 7);
    free(a); free(source); free(serial); free(other); free(panels);
}

/* ---- all ----------------------------------------------------------------------------------------------- */
static void test_products(void)
{
    static const sqm_dtype dtypes[] = { SQM_F32, SQM_F16, SQM_BF16, SQM_Q8, SQM_Q4, SQM_Q4M };
    for (int i = 0; i < 6; i++) {
        test_matmul(dtypes[i], 1, 1, 1, 1);
        test_matmul(dtypes[i], 1, 16, 32, 0);
        for (int k = 0; k < 12; k++) test_matmul(dtypes[i], 1 + draw(20), 1 + draw(50), 1 + draw(150), k % 2);
    }
}

static void test_rows(void)
{
    static const int32_t dims[] = { 1, 2, 7, 16, 33, 100, 257 };
    for (int d = 0; d < 7; d++) {
        for (int kind = 0; kind < 12; kind++)
            test_normalize(1 + draw(5), dims[d], (sqm_norm)(kind % 3), kind / 3 % 2, kind / 6);
        test_softmax(1 + draw(5), dims[d], 1.0f, 4.0f);
        test_softmax(1 + draw(5), dims[d], 0.125f, 20.0f);
        test_softmax(2, dims[d], -1.0f, 3000.0f);
    }
}

static void test_ropes(void)
{
    static const int32_t last[] = { 0, 9, 1000, 100000 };
    for (int i = 0; i < 80; i++) {
        rope_case c;
        c.n = 1 + draw(6);
        c.first = draw(10);
        c.heads = 1 + draw(4);
        c.dims = 2 * (1 + draw(20));
        c.head_dim = c.dims + draw(3) * draw(9);
        c.after = draw(5);
        c.last = last[i % 4];
        c.style = i / 4 % 2 ? SQM_ROPE_INTERLEAVED : SQM_ROPE_HALF;
        c.factor = i % 3 ? 1.0f : 1.1386294f;
        test_rope(&c);
    }
}

int main(void)
{
    scratch = (uint8_t *)malloc(SCRATCH);
    test_exec();
    test_scratch();
    test_products();
    test_matmul_arguments();
    test_rows();
    test_row_arguments();
    test_activations();
    test_ropes();
    test_rope_arguments();
    test_parallel(SQM_F32, SQM_EXACT);
    test_parallel(SQM_Q8, SQM_FAST);
    free(scratch);
    return check_report("test_ops");
}
