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

/* Codewords [heads, codes, dim] as the codebook mixer wants them: rows padded to multiples of 16 for each head,
   and half their squared lengths. book [heads * pad16(codes), dim], half [heads * pad16(codes)]. */
static PREP_UNUSED void prep_codebook(float *book, float *half, const double *words, int32_t heads, int32_t codes,
                                      int32_t dim)
{
    const int32_t pad = (codes + 15) / 16 * 16;
    memset(book, 0, (size_t)(heads * pad) * (size_t)dim * sizeof(float));
    memset(half, 0, (size_t)(heads * pad) * sizeof(float));
    for (int32_t i = 0; i < heads * codes; i++) {
        const size_t row = (size_t)(i / codes * pad + i % codes);
        double squares = 0.0;
        for (int32_t j = 0; j < dim; j++) {
            const double word = words[(size_t)i * (size_t)dim + (size_t)j];
            book[row * (size_t)dim + (size_t)j] = (float)word;
            squares += word * word;
        }
        half[row] = (float)(0.5 * squares);
    }
}

/* Transformer-VQ: r_d = W_r sinusoid(d) dim^-1/4 for distances d < near, sinusoid: sines, then cosines, of d by
   wave lengths up to lambda. relative [heads * pad16(near), dim]; bias [heads, near] = (v - u) . r_d dim^-1/4, so
   that the mixer needs only queries with u: (q + v) . r = (q + u) . r + (v - u) . r.
   r_proj [heads * dim, width]; u, v [heads * dim]. */
static PREP_UNUSED void prep_vq_relative(float *relative, float *bias, const float *r_proj, const float *u,
                                         const float *v, int32_t heads, int32_t dim, int32_t near, int32_t width,
                                         double lambda)
{
    const int32_t pad = (near + 15) / 16 * 16, half = width / 2;
    const double scale = pow((double)dim, -0.25);
    memset(relative, 0, (size_t)(heads * pad) * (size_t)dim * sizeof(float));
    for (int32_t h = 0; h < heads; h++)
        for (int32_t d = 0; d < near; d++) {
            double shift = 0.0;
            for (int32_t j = h * dim; j < (h + 1) * dim; j++) {
                const float *row = r_proj + (size_t)j * (size_t)width;
                double r = 0.0;
                for (int32_t i = 0; i < half; i++) {
                    const double angle = d / pow(lambda, 2.0 * i / width);
                    r += (double)row[i] * sin(angle) + (double)row[half + i] * cos(angle);
                }
                relative[(size_t)(h * pad + d) * (size_t)dim + (size_t)(j - h * dim)] = (float)(r * scale);
                shift += ((double)v[j] - (double)u[j]) * scale * r * scale;
            }
            bias[(size_t)h * (size_t)near + (size_t)d] = (float)shift;
        }
}

#endif /* PREP_MEMORY_H_INCLUDED */
