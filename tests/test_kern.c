/* test_kern.c - every pass of this machine against the scalar one, bit for bit: products of all weight
   types, exact and with
   8-bit activations, any number of tokens; rows; elementary functions also against the C library. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "check.h"
#include <math.h>
#include <stdlib.h>

static uint64_t seed = 0x9e3779b97f4a7c15u;
static uint32_t random_bits(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 32);
}
static float uniform(void) { return (float)((double)random_bits() / 2147483648.0 - 1.0); }

/* The kernels of a pass; a build with a single one has no table that its library uses. */
static const sqm__calls *calls_of(sqm_isa isa)
{
    const sqm__kernels *k = sqm__kernels_of(isa);
    return k && !k->calls ? &sqm__table_scalar : k ? k->calls : NULL;
}

static const sqm_isa isas[] = { SQM_ISA_AVX2, SQM_ISA_AVX512, SQM_ISA_NEON, SQM_ISA_WASM };

/* ---- products
   ------------------------------------------------------------------------------------------------------ */
enum { MAX_TOKENS = 71 };
typedef struct problem { int32_t rows, cols; uint8_t *panels; size_t bytes; sqm_dtype dtype; float *x, *bias;
} problem;

/* planes: 0 exact, 1 and 2: activations in 8 and in 16 bits */
static void run_product(float *y, const problem *p, sqm_isa isa, int32_t tokens, int planes, int add)
{
    const sqm__kernels *k = sqm__kernels_of(isa);
    const size_t groups = (size_t)sqm__ceil_div(p->cols, SQM__GROUP);
    const size_t tile = tokens == 1 ? 1 : (size_t)k->tile, n = groups * sqm__align_up((size_t)tokens, tile);
    const size_t plane = planes == 2 ? n * SQM__GROUP : 0;
    int8_t *codes = (int8_t *)calloc(n * 2, SQM__GROUP);
    float *scales = (float *)calloc(n, 4);
    float *work = (float *)malloc(SQM__WORK_FLOATS * sizeof(float));
    int32_t *sums = (int32_t *)calloc(n, 8);
    sqm__gemm g;
    for (size_t t = 0; t < (size_t)tokens; t++) {
        const size_t at = t / tile * groups * tile + t % tile;
        calls_of(isa)->quantize(codes + at * SQM__GROUP, scales + at, sums + 2 * at, tile, plane,
                    p->x + t * (size_t)p->cols, p->cols);
    }
    for (int32_t i = 0; i < tokens * p->rows; i++) y[i] = (float)(i % 7);
    g.y = y; g.x = p->x; g.codes = planes ? codes : NULL; g.code_scales = scales; g.code_sums = sums;
    g.plane = plane; g.tile = (int32_t)tile;
    g.panels = p->panels; g.panel_bytes = (size_t)sqm__panel_bytes(p->dtype, p->cols);
    g.y_stride = (size_t)p->rows; g.x_stride = (size_t)p->cols; g.bias = p->bias; g.scale = 0.75f;
    g.add = add;
    g.n_tokens = tokens; g.n_rows = p->rows; g.n_cols = p->cols; g.dtype = p->dtype;
    calls_of(isa)->gemm(&g, 0, sqm__ceil_div(p->rows, SQM__LANES), work);
    free(codes); free(scales); free(sums); free(work);
}

/* The same in double from the format's own values. Rounding |x| <= 1 to 8 bits may cost sum |w| / 254. */
static void check_against_double(const problem *p, const float *y, int32_t tokens, int planes,
                                 const char *what)
{
    float *w = (float *)malloc((size_t)p->cols * sizeof(float)), *expected =
        (float *)malloc((size_t)tokens * sizeof(float));
    const sqm_tensor t = sqm_tensor_2d(p->panels, p->dtype, SQM_PANELS, p->rows, p->cols);
    float *column = (float *)malloc((size_t)tokens * sizeof(float));
    for (int32_t r = 0; r < p->rows; r++) {
        double size = 0.0;
        CHECK(sqm_tensor_row(w, &t, r, NULL) == SQM_OK);
        for (int32_t k = 0; k < p->cols; k++) size += fabs((double)w[k]);
        for (int32_t i = 0; i < tokens; i++) {
            double sum = 0.0;
            for (int32_t k = 0; k < p->cols;
                 k++) sum += (double)w[k] * (double)p->x[(size_t)i * (size_t)p->cols + (size_t)k];
            expected[i] = (float)((sum + (double)p->bias[r]) * 0.75);
            column[i] = y[i * p->rows + r];
        }
        CHECK_CLOSE(column, expected, tokens,
                    2e-5 + 0.75 * size * (planes == 0 ? 0.0 : planes == 1 ? 1 / 254.0 : 1 / 65024.0), what);
    }
    free(w); free(expected); free(column);
}

static void check_problem(const problem *p)
{
    static const int32_t counts[] = { 1, 2, 3, 5, 8, 13, 64, MAX_TOKENS };
    const size_t n = (size_t)MAX_TOKENS * (size_t)p->rows;
    float *scalar = (float *)malloc(n * sizeof(float)), *other = (float *)malloc(n * sizeof(float));
    for (int planes = 0; planes < (p->dtype < SQM_Q8 ? 1 : 3); planes++) {
        for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
            const size_t bytes = (size_t)counts[c] * (size_t)p->rows * sizeof(float);
            run_product(scalar, p, SQM_ISA_SCALAR, counts[c], planes, (int)(c & 1));
            if (c == 2) check_against_double(p, scalar, 3, planes, sqm_dtype_name(p->dtype));
            for (size_t i = 0; i < sizeof(isas) / sizeof(isas[0]); i++) {
                if (!sqm_cpu_has(isas[i])) continue;
                run_product(other, p, isas[i], counts[c], planes, (int)(c & 1));
                if (memcmp(scalar, other, bytes))
                    printf("%s %s %d tokens, %s:\n", sqm_isa_name(isas[i]), sqm_dtype_name(p->dtype),
                           (int)counts[c],
                           planes == 0 ? "exact" : planes == 1 ? "8 bits" : "16 bits");
                CHECK(memcmp(scalar, other, bytes) == 0);
            }
        }
    }
    free(scalar); free(other);
}

/* Fills the weights: packed from floats where this library quantises, else from random GGUF blocks with
   tame scales. */
static void test_products(sqm_dtype dtype, uint32_t ggml_type, size_t block_bytes, int32_t rows, int32_t cols)
{
    const int32_t shape[2] = { rows, cols };
    problem p;
    p.rows = rows; p.cols = cols; p.dtype = dtype;
    p.bytes = sqm_tensor_bytes(dtype, SQM_PANELS, 2, shape);
    p.panels = (uint8_t *)malloc(p.bytes);
    p.x = (float *)malloc((size_t)MAX_TOKENS * (size_t)cols * sizeof(float));
    p.bias = (float *)malloc((size_t)rows * sizeof(float));
    for (int32_t i = 0; i < MAX_TOKENS * cols; i++) p.x[i] = uniform();
    for (int32_t i = 0; i < rows; i++) p.bias[i] = uniform();
    if (ggml_type == UINT32_MAX) {
        float *w = (float *)malloc((size_t)rows * (size_t)cols * sizeof(float));
        for (int32_t i = 0; i < rows * cols; i++) w[i] = uniform();
        CHECK(sqm_pack(p.panels, p.bytes, dtype, w, rows, cols, NULL, NULL) == SQM_OK);
        free(w);
    } else {
        const size_t per_block = dtype >= SQM_Q2K ? 256 : 32, n = (size_t)rows * (size_t)cols / per_block;
        uint8_t *blocks = (uint8_t *)malloc(n * block_bytes);
        size_t bytes = p.bytes;
        sqm_dtype found;
        for (size_t i = 0; i < n * block_bytes; i++) blocks[i] = (uint8_t)random_bits();
        /* f16 scales of 2^-9 .. 2^-6, wherever the format keeps them */
        for (size_t i = 0; i < n; i++) {
            uint8_t *b = blocks + i * block_bytes;
            const size_t at = dtype == SQM_Q6K ? 208 : dtype == SQM_Q3K ? 108 : dtype == SQM_Q2K ? 80 : 0;
            const int two = dtype == SQM_Q2K || dtype == SQM_Q4K || dtype == SQM_Q5K || dtype == SQM_Q5M;
            for (int j = 0; j <= two; j++) b[at + 1 + 2 * (size_t)j] = (uint8_t)(0x14 + random_bits() % 12);
        }
        CHECK(sqm_pack_ggml(p.panels, &bytes, &found, ggml_type, blocks, n * block_bytes, rows, cols,
                            NULL) == SQM_OK);
        CHECK(found == dtype && bytes == p.bytes);
        free(blocks);
    }
    check_problem(&p);
    free(p.panels); free(p.x); free(p.bias);
}

/* ---- elementary functions
   --------------------------------------------------------------------------------------------- */
static double reference(int kind, double x)
{
    switch (kind) {
    case SQM_ACT_SILU:       return x / (1.0 + exp(-x));
    case SQM_ACT_GELU:       return 0.5 * x * erfc(-x * 0.70710678118654752);
    case SQM_ACT_GELU_TANH:  return 0.5 * x * (1.0 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
    case SQM_ACT_RELU:       return x > 0.0 ? x : 0.0;
    case SQM_ACT_RELU2:      return x > 0.0 ? x * x : 0.0;
    case SQM_ACT_QUICK_GELU: return x / (1.0 + exp(-1.702 * x));
    case SQM_ACT_SIGMOID:    return 1.0 / (1.0 + exp(-x));
    case SQM_ACT_TANH:       return tanh(x);
    case SQM_ACT_EXP:        return exp(x);
    case SQM_ACT_SOFTPLUS:   return x > 0.0 ? x + log1p(exp(-x)) : log1p(exp(x));
    case SQM_ACT_LOG_SIGMOID: return x > 0.0 ? -log1p(exp(-x)) : x - log1p(exp(x));
    case SQM_ACT_ELU1:       return x > 0.0 ? x + 1.0 : exp(x);
    case SQM_ACT_LOG:        return x > 0.0 ? log(x) : -3.0e38;
    case SQM_ACT_SQRT:       return x > 0.0 ? sqrt(x) : 0.0;
    default:                 return x;
    }
}
static void test_functions(void)
{
    enum { N = 4003 };
    static float x[N], y[N], expected[N], other[N];
    for (int i = 0; i < N; i++) x[i] = (float)(i - N / 2) * (i % 3 == 0 ? 0.04f : i % 3 == 1 ? 0.005f
                                                             : 1e-5f);
    for (int kind = 0; kind < SQM_ACT_COUNT; kind++) {
        calls_of(SQM_ISA_SCALAR)->activate(y, x, N, kind);
        for (int i = 0; i < N; i++) expected[i] = (float)reference(kind, (double)x[i]);
        CHECK_CLOSE(y, expected, N, 6e-7, "activation");
        for (size_t i = 0; i < sizeof(isas) / sizeof(isas[0]); i++) {
            if (!sqm_cpu_has(isas[i])) continue;
            calls_of(isas[i])->activate(other, x, N, kind);
            CHECK(memcmp(y, other, sizeof(y)) == 0);
        }
    }
}

/* ---- rows: lengths around the vector width, all passes
   ---------------------------------------------------------------- */
static void test_rows(void)
{
    enum { N = 100 };
    float x[N], gain[N], bias[N], y[N], other[N];
    for (int i = 0; i < N; i++) { x[i] = 3.0f * uniform(); gain[i] = uniform(); bias[i] = uniform(); }
    for (int32_t n = 1; n <= N; n++) {
        const sqm__calls *scalar = calls_of(SQM_ISA_SCALAR);
        for (size_t i = 0; i < sizeof(isas) / sizeof(isas[0]); i++) {
            const sqm__calls *k = calls_of(isas[i]);
            const size_t bytes = (size_t)n * sizeof(float);
            if (!k) continue;
            for (int kind = SQM_NORM_RMS; kind <= SQM_NORM_L2; kind++) {
                scalar->normalize(y, x, n, kind, gain, bias, 1e-5f);
                k->normalize(other, x, n, kind, gain, bias, 1e-5f);
                CHECK(memcmp(y, other, bytes) == 0);
            }
            scalar->softmax(y, x, n, 1.5f);
            k->softmax(other, x, n, 1.5f);
            CHECK(memcmp(y, other, bytes) == 0);
            scalar->softcap(y, x, (size_t)n, 2.0f);
            k->softcap(other, x, (size_t)n, 2.0f);
            CHECK(memcmp(y, other, bytes) == 0);
            scalar->glu(y, x, gain, (size_t)n, SQM_ACT_SILU);
            k->glu(other, x, gain, (size_t)n, SQM_ACT_SILU);
            CHECK(memcmp(y, other, bytes) == 0);
        }
    }
}

/* The fused multiply-adds in doubles and in integers are the hardware's; the C library's is exact too. */
static void test_fma(void)
{
    for (int i = 0; i < 200000; i++) {
        const float a = sqm__float((random_bits() & 0x81ffffffu) | 0x3e000000u),
            b = sqm__float((random_bits() & 0x81ffffffu) | 0x3e000000u);
        float c = sqm__float((random_bits() & 0x83ffffffu) | 0x3c000000u);
        if (i % 4 == 0) c = -a * b;
        CHECK(sqm__bits(sqm__fma(a, b, c)) == sqm__bits(fmaf(a, b, c)));
        CHECK(sqm__bits(sqm__fma_integers(a, b, c)) == sqm__bits(fmaf(a, b, c)));
    }
    for (int i = 0; i < 200000; i++) {                 /* any bits: denormal, infinite, near 0 and overflow */
        const float a = sqm__float(random_bits()), b = sqm__float(random_bits());
        const float c = sqm__float(i % 8 ? random_bits() : sqm__bits(-(a * b)));
        const float here = sqm__fma_integers(a, b, c), there = fmaf(a, b, c);
        CHECK(sqm__bits(here) == sqm__bits(there) || (here != here && there != there));
    }
    for (uint32_t exponent = 0; exponent < 256; exponent++) {      /* denormal and infinite ones too */
        const float a = sqm__float(exponent << 23 | 0x80000000u), b = 1.0f + (float)(exponent & 7u) / 8.0f;
        const float c = sqm__float((exponent > 60 ? exponent - 25 : exponent) << 23);
        CHECK(sqm__bits(sqm__fma(a, b, c)) == sqm__bits(fmaf(a, b, c)));
        CHECK(sqm__bits(sqm__fma(1.5f, b, a)) == sqm__bits(fmaf(1.5f, b, a)));
    }
}

int main(void)
{
    const uint32_t own = UINT32_MAX;
    static const sqm_dtype packed[] = { SQM_F32, SQM_F16, SQM_BF16, SQM_Q8, SQM_Q4, SQM_Q4M };
    for (size_t i = 0; i < sizeof(packed) / sizeof(packed[0]); i++) {
        test_products(packed[i], own, 0, 33, 70);
        test_products(packed[i], own, 0, 128, 288);
        test_products(packed[i], own, 0, 1, 1);
    }
    /* codes of -128 too */
    test_products(SQM_Q8, 8, 34, 20, 96);
    test_products(SQM_Q5, 6, 22, 20, 96);
    test_products(SQM_Q5M, 7, 24, 20, 96);
    test_products(SQM_IQ4, 20, 18, 20, 96);
    test_products(SQM_Q2K, 10, 84, 20, 512);
    test_products(SQM_Q3K, 11, 110, 20, 512);
    test_products(SQM_Q4K, 12, 144, 20, 512);
    test_products(SQM_Q5K, 13, 176, 20, 512);
    test_products(SQM_Q6K, 14, 210, 20, 512);
    test_functions();
    test_rows();
    test_fma();
    return check_report("test_kern");
}
