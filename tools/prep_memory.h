/* prep_memory.h: for converters and sqm-vectors: what the memory and codebook mixers want, made from the weights
   of checkpoints, in double precision. Plain arrays in and out; the caller owns all memory. */
#ifndef PREP_MEMORY_H_INCLUDED
#define PREP_MEMORY_H_INCLUDED
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__GNUC__)
#  define PREP_UNUSED __attribute__((unused))
#else
#  define PREP_UNUSED
#endif

/* A projection of gates has per_head rows a head; takes rows first .. first + count - 1 of every head. cols 1: the
   bias. Returns the rows written: the mixer wants the same gate of all heads side by side, and one activation. */
static PREP_UNUSED int32_t prep_gate_rows(float *dst, const float *src, int32_t heads, int32_t per_head,
                                          int32_t first, int32_t count, int32_t cols)
{
    const size_t n = (size_t)count * (size_t)cols;
    for (int32_t h = 0; h < heads; h++)
        memcpy(dst + (size_t)h * n, src + (size_t)(h * per_head + first) * (size_t)cols, n * sizeof(float));
    return heads * count;
}

/* dst [cols, rows] = src [rows, cols]: convolution weights [channels, taps] -> [taps, channels] */
static PREP_UNUSED void prep_transpose(float *dst, const float *src, int32_t rows, int32_t cols)
{
    for (int32_t r = 0; r < rows; r++)
        for (int32_t c = 0; c < cols; c++) dst[(size_t)c * (size_t)rows + (size_t)r] = *src++;
}

/* First weights with a bias: dst [heads, inputs + 1, outputs], the bias as the last row, whose input is 1 */
static PREP_UNUSED void prep_with_bias(float *dst, const float *weights, const float *bias, int32_t heads,
                                       int32_t inputs, int32_t outputs)
{
    const size_t n = (size_t)inputs * (size_t)outputs, o = (size_t)outputs;
    for (size_t h = 0; h < (size_t)heads; h++, dst += n + o) {
        memcpy(dst, weights + h * n, n * sizeof(float));
        memcpy(dst + n, bias + h * o, o * sizeof(float));
    }
}

/* TTT: what the gradient sum is scaled by at token i of a mini-batch: max(1 / (i + 1) + learnable_i, 0) */
static PREP_UNUSED void prep_ttt_steps(float *dst, const float *learnable, int32_t n)
{
    for (int32_t i = 0; i < n; i++) dst[i] = (float)fmax(1.0 / (i + 1.0) + (double)learnable[i], 0.0);
}

/* Scales of the columns of op monomials over `groups` of dim columns, so that phi(q) . phi(k) =
   a[0] + a[1] q.k + a[2] (q.k)^2 in each group. dst [groups * (1 + dim + dim (dim + 1) / 2)] */
static PREP_UNUSED void prep_monomial_scales(float *dst, const float a[3], int32_t dim, int32_t groups)
{
    for (int32_t g = 0; g < groups; g++) {
        *dst++ = (float)sqrt((double)a[0]);
        for (int32_t i = 0; i < dim; i++) *dst++ = (float)sqrt((double)a[1]);
        for (int32_t i = 0; i < dim; i++)
            for (int32_t j = i; j < dim; j++) *dst++ = (float)sqrt((double)a[2] * (i == j ? 1.0 : 2.0));
    }
}

#endif /* PREP_MEMORY_H_INCLUDED */
