/* prep_memory.h: layers with memories that learn while they read, and with codebooks, as recipe lines and
   tensors; for converters and sqm-vectors (vec_memory.h). Written with the parts of prep_linear.h: a `lin`
   says where a layer's tensors come from and go to. What a checkpoint holds in another form than the mixers
   want is computed here, in double precision.

   Registers: r2 projections, r3 after the convolution, r4, r5 parts of it, r6 gates, r7 rows of the mixer, r8
   its result, r9 output gate. */
#ifndef PREP_MEMORY_H_INCLUDED
#define PREP_MEMORY_H_INCLUDED
#include <math.h>
#include "prep_linear.h"

static CONV_UNUSED int32_t mem_pad(int32_t n) { return (n + 15) / 16 * 16; }
static CONV_UNUSED double mem_sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

/* ---- a memory ------------------------------------------------------------------------------------------ */
typedef struct mem_memory {           /* the words of mix ... memory; see [MIX.memory] */
    int32_t     heads, key_dim, v_dim, hidden, window, chunk;          /* chunk 0: 1 */
    const char *kind, *act, *update, *loss;
    int         residual, weights;    /* weights: of the window, also of a window of 1 */
    const char *start;                /* its first weights are tensors start W2, W3, W1, or start W */
    int64_t     sequence, sequences;  /* one of so many that the tensors hold; sequences 0: one */
} mem_memory;

/* Matrix `name` of all heads, [heads * inputs, outputs] in rows */
static void mem__start(const lin *l, const mem_memory *m, const char *name, const char *out, int32_t inputs,
                       int32_t outputs, int first)
{
    const char *from = conv_format(l->c->env, "%s%s%s", l->from, m->start, name);
    const int64_t rows = (int64_t)m->heads * inputs, all = m->sequences ? m->sequences : 1;
    conv_view v = conv_take(l->c, from, all * rows, outputs);
    if (all > 1) v = conv_rows(l->c, v, m->sequence * rows, rows, rows, rows);
    conv_put(l->c, "%s@%s", first ? " start=" : ",", conv_make(l->c, lin_out(l, out), CONV_ROWS, v));
}
/* mix rD rS MIXER with everything that the memory says; conv_line ends the line. */
static CONV_UNUSED void mem_put_mixer(const lin *l, const mem_memory *m, int dst, int src, const char *mixer)
{
    const int deep = strcmp(m->kind, "linear") != 0;
    conv_put(l->c, "mix r%d r%d %s heads=%d head_dim=%d v_dim=%d", dst, src, mixer, m->heads, m->key_dim,
             m->v_dim);
    conv_put(l->c, " memory=%s update=%s loss=%s window=%d weights=%d chunk=%d residual=%d", m->kind,
             m->update, m->loss, m->window, m->weights, m->chunk ? m->chunk : 1, m->residual);
    if (deep) conv_put(l->c, " hidden=%d act=%s", m->hidden, m->act);
    if (deep) mem__start(l, m, "W2", "start.in", m->key_dim, m->hidden, 1);
    if (strcmp(m->kind, "gated") == 0) mem__start(l, m, "W3", "start.gate", m->key_dim, m->hidden, 0);
    mem__start(l, m, deep ? "W1" : "W", "start.out", deep ? m->hidden : m->key_dim, m->v_dim, !deep);
}
static CONV_UNUSED int mem_has_momentum(const mem_memory *m)
{
    return strcmp(m->update, "momentum") == 0 || strcmp(m->update, "muon") == 0;
}

/* Rows of tensor "gates" (per head: retain, rate, momentum, weights) as the mixer wants them: the same gate
   of all heads side by side. Returns how many parts. */
static CONV_UNUSED int mem_gate_parts(const lin *l, const mem_memory *m, int32_t dim, int32_t per_head,
                                      conv_part parts[4])
{
    conv_part all;
    int n = 0;
    memset(&all, 0, sizeof all);
    all.weight = conv_take(l->c, lin_in(l, "gates"), (int64_t)m->heads * per_head, dim);
    all.bias = conv_take(l->c, lin_in(l, "gates_bias"), (int64_t)m->heads * per_head, 0);
    all.has_bias = 1;
    parts[n++] = lin_rows(l, all, "rate", 1, 1, per_head, m->heads);
    parts[n++] = lin_rows(l, all, "retain", 0, 1, per_head, m->heads);
    if (mem_has_momentum(m)) parts[n++] = lin_rows(l, all, "momentum", 2, 1, per_head, m->heads);
    if (m->weights)
        parts[n++] = lin_rows(l, all, "weights", 3, m->window, per_head, (int64_t)m->heads * m->window);
    return n;
}
/* r6 = gates of rS: rates by softplus, the others by sigmoid */
static void mem__gates(const lin *l, const mem_memory *m, int src, int32_t dim)
{
    conv_part parts[4];
    const int n = mem_gate_parts(l, m, dim, 3 + m->window, parts);
    conv_put_linear(l->c, 6, src, parts, n, 1.0, 0);
    conv_line(l->c, "act r6 r6 kind=softplus first=0 count=%d", m->heads);
    conv_line(l->c, "act r6 r6 kind=sigmoid first=%d count=%d", m->heads,
              m->heads * (1 + mem_has_momentum(m) + (m->weights ? m->window : 0)));
}
/* Scales of the columns of op monomials over `groups` of dim columns, so that in each group
   phi(q) . phi(k) = a[0] + a[1] q.k + a[2] (q.k)^2 */
static CONV_UNUSED void mem_monomial_scales(float *to, const float a[3], int32_t dim, int32_t groups)
{
    for (int32_t g = 0; g < groups; g++) {
        *to++ = (float)sqrt((double)a[0]);
        for (int32_t i = 0; i < dim; i++) *to++ = (float)sqrt((double)a[1]);
        for (int32_t i = 0; i < dim; i++)
            for (int32_t j = i; j < dim; j++) *to++ = (float)sqrt((double)a[2] * (i == j ? 1.0 : 2.0));
    }
}
/* q and k in r3, groups of dim columns, become their monomials */
static void mem__monomials(const lin *l, const mem_memory *m, int32_t dim)
{
    const int32_t groups = 2 * m->heads;
    const float *a = lin_read(l, "poly_coef", 3);
    float *scales = lin_floats(l, (int64_t)groups * m->key_dim);
    if (a && scales) mem_monomial_scales(scales, a, dim, groups);
    conv_line(l->c, "copy r4 r3 first=0 count=%d\nmonomials r5 r4 groups=%d", groups * dim, groups);
    conv_line(l->c, "affine r5 r5 w=@%s", lin_values(l, "monomials", scales, (int64_t)groups * m->key_dim));
    conv_line(l->c, "copy r4 r3 first=%d count=%d\ncat r3 r5 r4", groups * dim, m->heads * m->v_dim);
}
/* The layer of Titans, OmegaNet and Atlas: q, k, v = silu(conv(W x)), q and k of length 1 in each head, or
   their monomials; the memory; a norm of each head; an output gate. Returns the register of the result. */
static CONV_UNUSED int mem_put_layer(const lin *l, const mem_memory *m, int src, int32_t dim, int32_t taps,
                                     int monomials)
{
    static const char *const kernels[3] = { "conv_q", "conv_k", "conv_v" };
    const int64_t width = (int64_t)m->heads * m->v_dim, widths[3] = { width, width, width };
    conv_part parts[3];
    parts[0] = lin_part(l, "q_proj", width, dim);
    parts[1] = lin_part(l, "k_proj", width, dim);
    parts[2] = lin_part(l, "v_proj", width, dim);
    conv_put_linear(l->c, 2, src, parts, 3, 1.0, 0);
    lin_conv(l, 3, 2, kernels, widths, 3, taps, "silu");
    conv_line(l->c, "norm r3 r3 kind=l2 eps=1e-6 first=0 count=%d groups=%d", (int)(2 * width), 2 * m->heads);
    if (monomials) mem__monomials(l, m, m->v_dim);
    mem__gates(l, m, src, dim);
    conv_line(l->c, "cat r7 r3 r6");
    mem_put_mixer(l, m, 8, 7, "memory");
    conv_line(l->c, "\nnorm r8 r8 kind=rms eps=1e-5 groups=%d w=@%s", m->heads,
              lin_vector(l, "o_norm", m->v_dim));
    lin_linear(l, 9, src, lin_part(l, "g_proj", width, dim));
    conv_line(l->c, "gate r8 r8 r9 act=silu");
    return 8;
}

/* ---- TTT ----------------------------------------------------------------------------------------------- */
typedef struct mem_ttt {
    int32_t dim, heads, head_dim, hidden, batch;       /* hidden 0: a linear memory; batch: the mini-batch */
    double  base_lr, rope_theta;
    int     gate;
} mem_ttt;

/* First weights [heads, inputs, outputs] with their bias as one more row, whose input is 1 */
static const char *mem__biased(const lin *l, const char *weights, const char *bias, const char *out,
                               int32_t heads, int32_t inputs, int32_t outputs)
{
    const size_t n = (size_t)inputs * (size_t)outputs, o = (size_t)outputs;
    const float *w = lin_read(l, weights, (int64_t)n * heads), *b = lin_read(l, bias, (int64_t)o * heads);
    float *both = lin_floats(l, (int64_t)(n + o) * heads);
    for (size_t h = 0; w && b && both && h < (size_t)heads; h++) {
        memcpy(both + h * (n + o), w + h * n, n * sizeof(float));
        memcpy(both + h * (n + o) + n, b + h * o, o * sizeof(float));
    }
    return conv_make_rows(l->c, lin_out(l, out), both, heads * (inputs + 1), outputs);
}
/* r7 = q | k | v | learning rates of rS; positions start again with each mini-batch */
static void mem__ttt_rows(const lin *l, const mem_ttt *t, int src)
{
    float *freq = lin_floats(l, t->head_dim / 2);
    conv_part parts[3], rate;
    for (int32_t i = 0; freq && i < t->head_dim / 2; i++)
        freq[i] = (float)pow(t->rope_theta, -2.0 * i / t->head_dim);
    parts[0] = lin_part(l, "q_proj", (int64_t)t->heads * t->head_dim, t->dim);
    parts[1] = lin_part(l, "k_proj", (int64_t)t->heads * t->head_dim, t->dim);
    parts[2] = lin_part(l, "v_proj", (int64_t)t->heads * t->head_dim, t->dim);
    conv_put_linear(l->c, 2, src, parts, 3, 1.0, 0);
    conv_line(l->c, "rope r2 r2 first=0 heads=%d head_dim=%d style=interleaved freq=@%s period=%d",
              2 * t->heads, t->head_dim, lin_values(l, "freq", freq, t->head_dim / 2), t->batch);
    memset(&rate, 0, sizeof rate);
    rate.out = lin_out(l, "rate");
    rate.weight = conv_take(l->c, lin_in(l, "lr_weight"), t->heads, t->dim);
    rate.bias = conv_take(l->c, lin_in(l, "lr_bias"), t->heads, 0);
    rate.has_bias = 1;
    lin_linear(l, 6, src, rate);
    conv_line(l->c, "act r6 r6 kind=sigmoid\nscale r6 r6 by=%s\ncat r7 r2 r6",
              conv_real(l->c, t->base_lr / t->head_dim));
}
/* A TTT layer before its output projection; returns the register of the result. */
static CONV_UNUSED int mem_put_ttt(const lin *l, const mem_ttt *t, int src)
{
    const int64_t width = (int64_t)t->heads * t->head_dim;
    const float *learnable = lin_read(l, "learnable_token_idx", t->batch);
    float *steps = lin_floats(l, t->batch);
    for (int32_t i = 0; learnable && steps && i < t->batch; i++)
        steps[i] = (float)fmax(1.0 / (i + 1.0) + (double)learnable[i], 0.0);
    mem__ttt_rows(l, t, src);
    conv_put(l->c, "mix r8 r7 memory heads=%d head_dim=%d bias=1 loss=norm update=sum chunk=%d steps=@%s",
             t->heads, t->head_dim, t->batch, lin_values(l, "steps", steps, t->batch));
    conv_put(l->c, " norm=@%s norm_b=@%s", lin_vector(l, "ttt_norm_weight", width),
             lin_vector(l, "ttt_norm_bias", width));
    if (t->hidden) {
        conv_put(l->c, " memory=mlp act=gelu_tanh hidden=%d start=@%s", t->hidden,
                 mem__biased(l, "W1", "b1", "start.in", t->heads, t->head_dim, t->hidden));
        conv_line(l->c, ",@%s", mem__biased(l, "W2", "b2", "start.out", t->heads, t->hidden, t->head_dim));
    } else {
        conv_line(l->c, " memory=linear start=@%s",
                  mem__biased(l, "W1", "b1", "start.out", t->heads, t->head_dim, t->head_dim));
    }
    conv_put(l->c, "norm r8 r8 kind=layer eps=1e-6 w=@%s", lin_vector(l, "post_norm.weight", width));
    conv_line(l->c, " b=@%s", lin_vector(l, "post_norm.bias", width));
    if (!t->gate) return 8;
    lin_linear(l, 9, src, lin_part(l, "g_proj", width, t->dim));
    conv_line(l->c, "gate r8 r8 r9 act=gelu_tanh");
    return 8;
}

/* ---- memory as context --------------------------------------------------------------------------------- */
/* mix r1 r0 memory_context: attention Q, K, V, out by the names aq, ak, av, ao; persistent rows; the memory
   learns by q_proj, k_proj, v_proj and gates */
static CONV_UNUSED void mem_put_context(const lin *l, const mem_memory *m, int32_t dim, int32_t persistent,
                                        int32_t segment)
{
    static const char *const attend[] = { "aq", "ak", "av", "ao" };
    static const char *const maps[] = { "q_proj", "k_proj", "v_proj" };
    const int64_t widths[3] = { (int64_t)m->heads * m->key_dim, (int64_t)m->heads * m->key_dim,
                                (int64_t)m->heads * m->v_dim };
    conv *c = l->c;
    conv_part parts[4];
    const int n = mem_gate_parts(l, m, dim, 2 + mem_has_momentum(m) + (m->weights ? m->window : 0), parts);
    mem_put_mixer(l, m, 1, 0, "memory_context");
    conv_put(c, " segment=%d persistent=@%s", segment,
             conv_make(c, lin_out(l, "persist"), CONV_ROWS,
                       conv_take(c, lin_in(l, "persist"), persistent, dim)));
    for (int i = 0; i < 4; i++)
        conv_put(c, "%s@%s", i ? "," : " attend=", conv_make(c, lin_out(l, attend[i]), CONV_MATRIX,
                                                             conv_take(c, lin_in(l, attend[i]), dim, dim)));
    for (int i = 0; i < 3; i++)
        conv_put(c, "%s@%s", i ? "," : " learn=",
                 conv_make(c, lin_out(l, maps[i]), CONV_MATRIX,
                           conv_take(c, lin_in(l, maps[i]), widths[i], dim)));
    for (int i = 0; i < n; i++)
        conv_put(c, ",@%s", conv_make(c, parts[i].out, CONV_MATRIX, parts[i].weight));
    conv_put(c, " learn_b=-,-,-");
    for (int i = 0; i < n; i++)
        conv_put(c, ",@%s", conv_make(c, conv_format(c->env, "%s.bias", parts[i].out), CONV_VECTOR,
                                      parts[i].bias));
    conv_line(c, "%s", "");
}

/* ---- gated associative memory: a softmax over a fixed bank is a row by itself, no mixer ---------------- */
/* norm rD rS kind=layer with weight and bias NAME.weight, NAME.bias */
static void mem__layer_norm(const lin *l, int dst, int src, const char *name, int32_t dim)
{
    conv_put(l->c, "norm r%d r%d kind=layer eps=1e-5 w=@%s", dst, src,
             lin_vector(l, conv_format(l->c->env, "%s.weight", name), dim));
    conv_line(l->c, " b=@%s", lin_vector(l, conv_format(l->c->env, "%s.bias", name), dim));
}
/* A whole block, r0 -> r0: kernel of `taps`, bank [slots, dim], weights of maps end in .weight */
static CONV_UNUSED void mem_put_gam(const lin *from, int32_t dim, int32_t taps, int32_t slots, int32_t inner)
{
    static const char *const kernel[1] = { "causal_conv.weight" };
    const int64_t channels[1] = { dim };
    lin own = *from;
    const lin *l = &own;
    conv_part bank, values;
    memset(&bank, 0, sizeof bank);
    bank.out = lin_out(l, "memory_bank");
    bank.weight = conv_take(l->c, conv_format(l->c->env, "%smemory_bank", l->from), slots, dim);
    values = bank;
    values.out = lin_out(l, "memory_values");
    values.weight = conv_transposed(bank.weight);
    own.weight = ".weight";
    mem__layer_norm(l, 1, 0, "ln1", dim);
    lin_conv(l, 2, 1, kernel, channels, 1, taps, "none");
    lin_linear(l, 3, 1, bank);
    conv_line(l->c, "softmax r3 r3");
    lin_linear(l, 4, 3, values);
    lin_linear(l, 5, 1, lin_part(l, "gate", 2 * (int64_t)dim, dim));
    conv_line(l->c, "gate r2 r2 r5 act=sigmoid\nadd r0 r0 r2");
    conv_line(l->c, "gate r4 r4 r5 act=sigmoid first=%d\nadd r0 r0 r4", dim);
    mem__layer_norm(l, 1, 0, "ln2", dim);
    lin_linear(l, 2, 1, lin_part(l, "ffn.0", inner, dim));
    conv_line(l->c, "act r2 r2 kind=gelu");
    lin_linear(l, 3, 2, lin_part(l, "ffn.2", dim, inner));
    conv_line(l->c, "add r0 r0 r3");
}

/* ---- codebooks ----------------------------------------------------------------------------------------- */
/* Codewords [heads, codes, dim] as the codebook mixer wants them: panels with the rows of each head up to a
   multiple of 16, and half their squared lengths. Adds " codes= codebook= half=" to the line. */
static void mem__codebook(const lin *l, const double *words, int32_t heads, int32_t codes, int32_t dim)
{
    const int32_t rows = heads * mem_pad(codes);
    float *book = lin_floats(l, (int64_t)rows * dim), *half = lin_floats(l, rows);
    for (int32_t i = 0; words && book && half && i < heads * codes; i++) {
        const int32_t row = i / codes * mem_pad(codes) + i % codes;
        double squares = 0.0;
        for (int32_t j = 0; j < dim; j++) {
            const double word = words[(size_t)i * (size_t)dim + (size_t)j];
            book[(size_t)row * (size_t)dim + (size_t)j] = (float)word;
            squares += word * word;
        }
        half[row] = (float)(0.5 * squares);
    }
    conv_put(l->c, " codes=%d codebook=@%s", codes,
             conv_make_panels(l->c, lin_out(l, "codebook"), book, rows, dim));
    conv_put(l->c, " half=@%s", lin_values(l, "half", half, rows));
}

typedef struct mem_vq {               /* a Transformer-VQ layer */
    int32_t dim, heads, key_dim, v_dim, codes, memory;                 /* memory: tokens kept exactly */
    double  lambda;                   /* longest wave of the sinusoids */
} mem_vq;

/* r_d = W_r sinusoid(d) key_dim^-1/4, sinusoid: sines, then cosines; and (v - u) . r_d key_dim^-1/4, so that
   one query is enough: (q + v) . r = (q + u) . r + (v - u) . r. Adds " near= relative= bias=" to the line. */
static void mem__vq_relative(const lin *l, const mem_vq *y)
{
    const int32_t near = y->memory + 1, pad = mem_pad(near), half = y->dim / 2, dim = y->key_dim;
    const double scale = pow((double)dim, -0.25);
    const float *w = lin_read(l, "r_proj", (int64_t)y->heads * dim * y->dim);
    const float *u = lin_read(l, "u", (int64_t)y->heads * dim);
    const float *v = lin_read(l, "v", (int64_t)y->heads * dim);
    float *relative = lin_floats(l, (int64_t)y->heads * pad * dim);
    float *bias = lin_floats(l, (int64_t)y->heads * near);
    for (int32_t i = 0; w && u && v && relative && bias && i < y->heads * near; i++) {
        const int32_t h = i / near, d = i % near;
        double shift = 0.0;
        for (int32_t j = h * dim; j < (h + 1) * dim; j++) {
            const float *row = w + (size_t)j * (size_t)y->dim;
            double r = 0.0;
            for (int32_t k = 0; k < half; k++) {
                const double angle = d / pow(y->lambda, 2.0 * k / y->dim);
                r += (double)row[k] * sin(angle) + (double)row[half + k] * cos(angle);
            }
            relative[(size_t)(h * pad + d) * (size_t)dim + (size_t)(j - h * dim)] = (float)(r * scale);
            shift += ((double)v[j] - (double)u[j]) * scale * r * scale;
        }
        bias[i] = (float)shift;
    }
    conv_put(l->c, " near=%d relative=@%s", near,
             conv_make_panels(l->c, lin_out(l, "relative"), relative, y->heads * pad, dim));
    conv_put(l->c, " bias=@%s", lin_values(l, "bias", bias, (int64_t)y->heads * near));
}
/* The layer before its output projection; returns the register of the result. */
static CONV_UNUSED int mem_put_vq(const lin *l, const mem_vq *y, int src)
{
    const int32_t keys = y->heads * y->key_dim, values = y->heads * y->v_dim;
    const float *u = lin_read(l, "u", keys), *sum = lin_read(l, "c_sum", (int64_t)keys * y->codes);
    const float *count = lin_read(l, "c_count", (int64_t)y->heads * y->codes);
    double *words = (double *)conv_alloc(l->c->env, (uint64_t)keys * (uint64_t)y->codes, sizeof(double));
    float *gain = lin_floats(l, 2 * keys), *shift = lin_floats(l, 2 * keys);
    const double scale = pow((double)y->key_dim, -0.25);
    conv_part parts[2];
    for (int32_t i = 0; u && gain && shift && i < 2 * keys; i++) {
        gain[i] = (float)scale;       /* of q and k; u is added to q */
        shift[i] = i < keys ? (float)((double)u[i] * scale) : 0.0f;
    }
    for (int64_t i = 0; sum && count && words && i < (int64_t)keys * y->codes; i++)
        words[i] = (double)sum[i] / fmax((double)count[i / y->key_dim], 0.01);
    conv_put(l->c, "norm r1 r%d kind=rms eps=1e-6 w=@%s", src, lin_vector(l, "input_ln.g", y->dim));
    conv_line(l->c, " b=@%s", lin_vector(l, "input_ln.b", y->dim));
    parts[0] = lin_part(l, "q_proj", keys, y->dim);
    parts[1] = lin_part(l, "kvg_proj", keys + 2 * (int64_t)values, y->dim);
    conv_put_linear(l->c, 2, 1, parts, 2, 1.0, 0);
    conv_put(l->c, "norm r2 r2 kind=rms eps=1e-6 first=0 count=%d groups=%d w=@%s", 2 * keys, 2 * y->heads,
             lin_values(l, "gain", gain, 2 * keys));
    conv_line(l->c, " b=@%s", lin_values(l, "shift", shift, 2 * keys));
    conv_line(l->c, "act r2 r2 kind=silu first=%d count=%d\ncopy r7 r2 count=%d", 2 * keys, values,
              2 * keys + values);
    conv_put(l->c, "mix r8 r7 codebook heads=%d head_dim=%d v_dim=%d", y->heads, y->key_dim, y->v_dim);
    mem__codebook(l, words, y->heads, y->codes, y->key_dim);
    mem__vq_relative(l, y);
    conv_line(l->c, "\ngate r8 r8 r2 act=silu first=%d", 2 * keys + values);
    return 8;
}

/* ---- LongVQ (derived form: the published code could not be had) ---------------------------------------- */
typedef struct mem_longvq {
    int32_t dim, z, v_dim, codes, states, block;       /* z: columns of queries and keys */
} mem_longvq;

/* r2 = silu(moving average of r1 + omega r1):  h = (1 - s(alpha) s(delta)) h + s(alpha) beta x */
static void mem__average(const lin *l, const mem_longvq *y)
{
    const int64_t n = (int64_t)y->dim * y->states;
    const float *delta = lin_read(l, "ema.delta", n), *alpha = lin_read(l, "ema.alpha", n);
    const float *beta = lin_read(l, "ema.beta", n), *gamma = lin_read(l, "ema.gamma", n);
    float *decay = lin_floats(l, n), *in = lin_floats(l, n), *out = lin_floats(l, n);
    for (int64_t i = 0; delta && alpha && beta && gamma && decay && in && out && i < n; i++) {
        decay[i] = (float)-(mem_sigmoid((double)alpha[i]) * mem_sigmoid((double)delta[i]));
        in[i] = (float)(mem_sigmoid((double)alpha[i]) * (double)beta[i]);
        out[i] = (float)((double)gamma[i] / sqrt((double)y->states));
    }
    conv_put(l->c, "mix r2 r1 scan decay=@%s",
             conv_make_panels(l->c, lin_out(l, "decay"), decay, y->dim, y->states));
    conv_put(l->c, " b=@%s", conv_make_panels(l->c, lin_out(l, "in"), in, y->dim, y->states));
    conv_put(l->c, " c=@%s", conv_make_panels(l->c, lin_out(l, "out"), out, y->dim, y->states));
    conv_line(l->c, " d=@%s\nact r2 r2 kind=silu", lin_vector(l, "ema.omega", y->dim));
}
/* r7 = q | k | v: q and k from silu(W_z r2), v from r1 */
static void mem__longvq_rows(const lin *l, const mem_longvq *y)
{
    const float *kq = lin_read(l, "kq", y->z), *mq = lin_read(l, "mq", y->z);
    float *w = lin_floats(l, y->z), *b = lin_floats(l, y->z);
    const double scale = 1.0 / sqrt((double)y->z);
    for (int32_t i = 0; kq && mq && w && b && i < y->z; i++) {
        w[i] = (float)((double)kq[i] * scale);
        b[i] = (float)((double)mq[i] * scale);
    }
    lin_linear(l, 3, 2, lin_part(l, "W_z", y->z, y->dim));
    conv_put(l->c, "act r3 r3 kind=silu\naffine r4 r3 w=@%s", lin_values(l, "q.scale", w, y->z));
    conv_line(l->c, " b=@%s", lin_values(l, "q.shift", b, y->z));
    conv_put(l->c, "affine r5 r3 w=@%s", lin_vector(l, "kk", y->z));
    conv_line(l->c, " b=@%s\ncat r6 r4 r5", lin_vector(l, "mk", y->z));
    lin_linear(l, 3, 1, lin_part(l, "W_v", y->v_dim, y->dim));
    conv_line(l->c, "act r3 r3 kind=silu\ncat r7 r6 r3");
}
/* A whole block, r0 -> r0 */
static CONV_UNUSED void mem_put_longvq(const lin *l, const mem_longvq *y)
{
    const float *book = lin_read(l, "codebook", (int64_t)y->codes * y->z);
    double *words = (double *)conv_alloc(l->c->env, (uint64_t)y->codes * (uint64_t)y->z, sizeof(double));
    for (int64_t i = 0; book && words && i < (int64_t)y->codes * y->z; i++) words[i] = (double)book[i];
    mem__layer_norm(l, 1, 0, "ln", y->dim);
    mem__average(l, y);
    mem__longvq_rows(l, y);
    conv_put(l->c, "mix r8 r7 codebook heads=1 head_dim=%d v_dim=%d block=%d bias=@%s", y->z, y->v_dim,
             y->block, lin_vector(l, "bias", 2 * (int64_t)y->block));
    mem__codebook(l, words, 1, y->codes, y->z);
    conv_line(l->c, "%s", "");
    /* r0 + u (silu(W_h x + U_h (r o)) - r0) */
    lin_linear(l, 3, 2, lin_part(l, "W_r", y->v_dim, y->dim));
    conv_line(l->c, "gate r8 r8 r3 act=silu");
    lin_linear(l, 4, 2, lin_part(l, "W_h", y->dim, y->dim));
    lin_linear(l, 5, 8, lin_part(l, "U_h", y->dim, y->v_dim));
    conv_line(l->c, "add r4 r4 r5\nact r4 r4 kind=silu\nscale r5 r0 by=-1\nadd r4 r4 r5");
    lin_linear(l, 5, 2, lin_part(l, "W_u", y->dim, y->dim));
    conv_line(l->c, "gate r4 r4 r5 act=sigmoid\nadd r0 r0 r4");
}
#endif /* PREP_MEMORY_H_INCLUDED */
