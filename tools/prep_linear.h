/* prep_linear.h: layers of the linear-attention family as recipe lines and tensors, from the weights of a
   checkpoint; for sqm-convert (arch/linear.h) and sqm-vectors (vec_linear.h). What a checkpoint holds in
   another
   form than the mixers want - logarithms of decays, interleaved rows, convolution kernels - is computed
   here, in
   double precision.

   A lin_layer says what a layer consists of; lin_put writes it from rows in register `src` and returns the
   register
   that holds the result before the output projection. Registers: r2 projections, r3 after the convolution,
   r4, r5
   gates, r6, r9 parts put together, r7 result, r8 output gate.
         */
#ifndef PREP_LINEAR_H_INCLUDED
#define PREP_LINEAR_H_INCLUDED
#include <math.h>
#include "conv_decoder.h"

typedef struct lin_name { const char *usual, *here; } lin_name;

typedef struct lin {                  /* where a layer's tensors come from and go to                        */
    conv       *c;
    const char *from, *weight;        /* a tensor is called from NAME weight, or from NAME                  */
    const char *out;                  /* and becomes out NAME                                               */
    int         rwkv_cpp;             /* RWKV: decays as rwkv.cpp stores them, inner maps as [out, in]      */
    int         gguf;                 /* RWKV-6: inner maps of the mixes as [out, in] too                   */
    const lin_name *names;            /* names that are others in this format, up to NULL; or NULL          */
} lin;

/* ---- tensors ------------------------------------------------------------------------------------------- */
static CONV_UNUSED const char *lin_named(const lin *l, const char *name)
{
    for (const lin_name *n = l->names; n && n->usual; n++)
        if (strcmp(n->usual, name) == 0) return conv_format(l->c->env, "%s%s", l->from, n->here);
    return conv_format(l->c->env, "%s%s", l->from, name);
}
static CONV_UNUSED const char *lin_in(const lin *l, const char *name)
{
    const char *bare = lin_named(l, name);
    const char *full = conv_format(l->c->env, "%s%s", bare, l->weight);
    return conv_has(l->c, bare) && !conv_has(l->c, full) ? bare : full;
}
static CONV_UNUSED const char *lin_out(const lin *l, const char *name)
{
    return conv_format(l->c->env, "%s%s", l->out, name);
}
static CONV_UNUSED int lin_has(const lin *l, const char *name) { return conv_has(l->c, lin_in(l, name)); }
/* Size `axis` of its shape (negative: from the last one); 1 when there is none                             */
static CONV_UNUSED int32_t lin_size(const lin *l, const char *name, int32_t axis)
{
    const conv_tensor *t = conv_source_find(&l->c->source, lin_in(l, name));
    const int32_t at = t && axis < 0 ? t->ndim + axis : axis;
    return t && at >= 0 && at < t->ndim && t->shape[at] <= INT32_MAX ? (int32_t)t->shape[at] : 1;
}

/* The weight [rows, cols] of a linear map, with its bias where there is one.                               */
static CONV_UNUSED conv_part lin_part(const lin *l, const char *name, int64_t rows, int64_t cols)
{
    const char *bias = conv_format(l->c->env, "%s.bias", lin_named(l, name));
    conv_part p;
    memset(&p, 0, sizeof p);
    p.out = lin_out(l, name);
    p.weight = conv_take(l->c, lin_in(l, name), rows, cols);
    p.has_bias = conv_has(l->c, bias);
    if (p.has_bias) p.bias = conv_take(l->c, bias, rows, 0);
    return p;
}
/* The same stored as [cols, rows].                                                                         */
static CONV_UNUSED conv_part lin_part_transposed(const lin *l, const char *name, int64_t rows, int64_t cols)
{
    conv_part p = lin_part(l, name, cols, rows);
    p.weight = conv_transposed(p.weight);
    return p;
}

/* All values of a tensor of any shape, of which there must be n.                                           */
static CONV_UNUSED conv_view lin_flat(const lin *l, const char *name, int64_t n)
{
    const char *full = lin_in(l, name);
    conv_tensor *t = conv_source_find(&l->c->source, full);
    int64_t found = 1;
    conv_view v;
    memset(&v, 0, sizeof v);
    v.rows = v.block = v.stride = n;
    v.cols = v.vector = 1;
    v.scale = 1.0;
    for (int32_t i = 0; t && i < t->ndim; i++) found *= t->shape[i];     /* fits: see conv_source_add       */
    if (!t) conv_fail(l->c->env, "tensor %.200s is missing in the checkpoint", full);
    else if (found != n)
        conv_fail(l->c->env, "tensor %.200s has shape %s, expected %lld values", full,
                  conv_shape_text(l->c->env, t->shape, t->ndim), (long long)n);
    if (l->c->env->failed) return v;
    t->used = 1;
    v.tensor = t;
    return v;
}
/* The same as an output tensor; its name.                                                                  */
static CONV_UNUSED const char *lin_vector(const lin *l, const char *name, int64_t n)
{
    return conv_make(l->c, lin_out(l, name), CONV_VECTOR, lin_flat(l, name, n));
}
/* The same as numbers in memory; NULL after an error.                                                      */
static CONV_UNUSED float *lin_read(const lin *l, const char *name, int64_t n)
{
    return conv_read(l->c, lin_in(l, name), n);
}
static CONV_UNUSED float *lin_floats(const lin *l, int64_t n)
{
    return (float *)conv_alloc(l->c->env, (uint64_t)n, sizeof(float));
}
/* Values that were computed as the output tensor `name`.                                                   */
static CONV_UNUSED const char *lin_values(const lin *l, const char *name, const float *values, int64_t n)
{
    return conv_make_values(l->c, lin_out(l, name), values, (int32_t)n);
}
/* dst[i * each ...] = f(src[i]): a value a head for each of its channels.                                  */
static CONV_UNUSED float *lin_spread(const lin *l, const float *src, int64_t heads, int64_t each,
                                     double (*f)(double))
{
    float *dst = lin_floats(l, heads * each);
    for (int64_t i = 0; dst && src && i < heads * each; i++) dst[i] = (float)f((double)src[i / each]);
    return dst;
}

/* ---- parts of layers ----------------------------------------------------------------------------------- */
/* linear rD rS of one part                                                                                 */
static CONV_UNUSED void lin_linear(const lin *l, int dst, int src, conv_part p)
{
    conv_put_linear(l->c, dst, src, &p, 1, 1.0, 0);
}
/* Two maps with nothing between them: rD = W1 (W0 rS), over r4                                             */
static CONV_UNUSED void lin_low_rank(const lin *l, int dst, int src, conv_part inner, conv_part outer)
{
    lin_linear(l, 4, src, inner);
    lin_linear(l, dst, 4, outer);
}

/* mix rD rS conv with kernels [channels, 1, taps] of up to three tensors, whose channels stand side by side
   from column 0 on. Only their sum must be right: transformers cuts the kernels of OLMo hybrid in thirds.
   biases: NAME with .weight replaced by .bias, when it is there.                                           */
static CONV_UNUSED void lin_conv(const lin *l, int dst, int src, const char *const *names,
                                 const int64_t *channels, int n, int32_t taps, const char *act)
{
    int64_t all = 0, found = 0, at = 0;
    float *kernel, *bias;
    int biases = 0;
    for (int i = 0; i < n; i++) {
        all += channels[i];
        found += lin_size(l, names[i], 0);
    }
    kernel = lin_floats(l, all * taps);
    bias = lin_floats(l, all);
    for (int i = 0; kernel && bias && i < n; i++) {
        const int64_t rows = found == all ? lin_size(l, names[i], 0) : channels[i];
        const float *from = lin_read(l, names[i], rows * taps);
        const char *end = strstr(names[i], ".weight");
        const char *name = conv_format(l->c->env, "%.*s.bias",
                                       (int)(end ? end - names[i] : (int)strlen(names[i])), names[i]);
        const float *b = conv_has(l->c, conv_format(l->c->env, "%s%s", l->from, name))
            ? lin_read(l, name, rows) : NULL;
        for (int64_t j = 0; from && j < rows; j++) {
            for (int32_t k = 0; k < taps; k++) kernel[k * all + at + j] = from[j * taps + k];
            if (b) bias[at + j] = b[j];
        }
        at += rows;
        biases |= b != NULL;
    }
    conv_put(l->c, "mix r%d r%d conv w=@%s", dst, src,
             conv_make_rows(l->c, lin_out(l, "conv"), kernel, taps, (int32_t)all));
    if (biases) conv_put(l->c, " b=@%s", lin_values(l, "conv.bias", bias, all));
    conv_line(l->c, " act=%s", act);
}

/* ---- decays: what is in columns [first, first + n) of rR becomes factors --------------------------------
   */
static double lin_minus_exp(double x) { return -exp(x); }
static double lin_exp(double x) { return exp(x); }

/* sigmoid(x)^(1 / normalizer)                                                                              */
static CONV_UNUSED void lin_decay_sigmoid(const lin *l, int reg, int64_t first, int64_t n, double normalizer)
{
    const char *cut = conv_format(l->c->env, "first=%d count=%d", (int)first, (int)n);
    conv_line(l->c, "act r%d r%d kind=log_sigmoid %s", reg, reg, cut);
    conv_line(l->c, "scale r%d r%d by=%s %s", reg, reg, conv_real(l->c, 1.0 / normalizer), cut);
    conv_line(l->c, "act r%d r%d kind=exp %s", reg, reg, cut);
}
/* e^(-e^A_log softplus(x + dt_bias)): A_log of each head, dt_bias of each column; A_log [heads], n = heads *
   each */
static CONV_UNUSED void lin_decay_softplus(const lin *l, int reg, int64_t first, int64_t heads, int64_t each,
                                           const char *a_log, const char *dt_bias)
{
    const char *cut = conv_format(l->c->env, "first=%d count=%d", (int)first, (int)(heads * each));
    const float *a = lin_spread(l, lin_read(l, a_log, heads), heads, each, lin_minus_exp);
    conv_line(l->c, "affine r%d r%d b=@%s %s", reg, reg, lin_vector(l, dt_bias, heads * each), cut);
    conv_line(l->c, "act r%d r%d kind=softplus %s", reg, reg, cut);
    conv_line(l->c, "affine r%d r%d w=@%s %s", reg, reg, lin_values(l, "decay", a, heads * each), cut);
    conv_line(l->c, "act r%d r%d kind=exp %s", reg, reg, cut);
}
/* e^(bound * sigmoid(e^A_log (x + dt_bias))), bound < 0                                                    */
static CONV_UNUSED void lin_decay_bounded(const lin *l, int reg, int64_t first, int64_t heads, int64_t each,
                                          const char *a_log, const char *dt_bias, double bound)
{
    const char *cut = conv_format(l->c->env, "first=%d count=%d", (int)first, (int)(heads * each));
    const float *a = lin_spread(l, lin_read(l, a_log, heads), heads, each, lin_exp);
    const float *b = lin_read(l, dt_bias, heads * each);
    float *shift = lin_floats(l, heads * each);
    for (int64_t i = 0; a && b && shift &&
         i < heads * each; i++) shift[i] = (float)((double)a[i] * (double)b[i]);
    conv_put(l->c, "affine r%d r%d w=@%s", reg, reg, lin_values(l, "decay", a, heads * each));
    conv_line(l->c, " b=@%s %s", lin_values(l, "decay.bias", shift, heads * each), cut);
    conv_line(l->c, "act r%d r%d kind=sigmoid %s", reg, reg, cut);
    conv_line(l->c, "scale r%d r%d by=%s %s", reg, reg, conv_real(l->c, bound), cut);
    conv_line(l->c, "act r%d r%d kind=exp %s", reg, reg, cut);
}

/* ---- a layer as data ----------------------------------------------------------------------------------- */
typedef enum lin_map {                /* what queries and keys go through, head by head                     */
    LIN_MAP_NONE, LIN_MAP_L2, LIN_MAP_SUM
} lin_map;
typedef enum lin_decay { LIN_DECAY_NONE, LIN_DECAY_FIXED, LIN_DECAY_SIGMOID, LIN_DECAY_SOFTPLUS,
                         LIN_DECAY_BOUNDED } lin_decay;
typedef enum lin_norm { LIN_NORM_NONE, LIN_NORM_HEAD, LIN_NORM_ALL } lin_norm;

typedef struct lin_layer {
    int32_t     dim, heads, q_heads, k_heads, v_heads, key_dim, v_dim, steps;      /* 0: as heads, 1        */
    conv_part   q, k, v;              /* projections                                                        */
    const char *conv[3];              /* names of the kernels of q, k, v, or of all together; NULL: none    */
    int32_t     n_conv, taps;
    const char *qk_act, *v_act;       /* after projection or convolution; NULL: none                        */
    lin_map     map;
    const conv_rope *rope;
    lin_decay   decay;
    int32_t     decay_heads, decay_is_vector;
    conv_part   decay_inner, decay_outer;    /* low rank; inner without weight: from the input itself       */
    const char *a_log, *dt_bias;
    double      decay_number;         /* SIGMOID: the normalizer; BOUNDED: the bound                        */
    const float *factors;             /* FIXED: [heads]                                                     */
    int         parallel_scale;       /* FIXED: divide as torchscale's parallel form does                   */
    const char *update;               /* NULL: add                                                          */
    conv_part   beta;                 /* strength of the update, sigmoid times beta_scale; no weight: none  */
    double      beta_scale, scale;    /* 0: 1; 0: key_dim^-1/2                                              */
    const char *more;                 /* further words of the mixer's line                                  */
    lin_norm    norm;
    const char *norm_weight;          /* NULL: without                                                      */
    double      norm_eps;
    conv_part   gate, gate_inner;     /* output gate: no weight: none                                       */
    const char *gate_act;
} lin_layer;

/* act, map and rope of queries and keys in rR                                                              */
static CONV_UNUSED void lin_put_maps(const lin *l, const lin_layer *y, int reg, int acted)
{
    const int32_t q = y->q_heads * y->key_dim, k = y->steps * y->k_heads * y->key_dim;
    if (y->qk_act && !acted) conv_line(l->c, "act r%d r%d kind=%s first=0 count=%d", reg, reg, y->qk_act,
                                       q + k);
    if (y->v_act && !acted)
        conv_line(l->c, "act r%d r%d kind=%s first=%d count=%d", reg, reg, y->v_act, q + k,
                  y->steps * y->v_heads * y->v_dim);
    if (y->map != LIN_MAP_NONE)
        conv_line(l->c, "norm r%d r%d kind=%s eps=%s first=0 count=%d groups=%d", reg, reg,
                  y->map == LIN_MAP_L2 ? "l2" : "sum", y->map == LIN_MAP_L2 ? "1e-6" : "0", q + k,
                  (q + k) / y->key_dim);
    if (y->rope) {
        if (!conv_made(l->c, y->rope->name)) conv_make_values(l->c, y->rope->name, y->rope->freq,
                                                              y->rope->dims / 2);
        conv_line(l->c, "rope r%d r%d first=0 heads=%d head_dim=%d dims=%d style=%s freq=@%s", reg, reg,
                  (q + k) / y->key_dim, y->key_dim, y->rope->dims, y->rope->style, y->rope->name);
    }
}

static int lin__has(const conv_part *p) { return p->weight.tensor != NULL; }

/* The decay's columns in rR from `at` on, from logits to factors.                                          */
static void lin__decay(const lin *l, const lin_layer *y, int reg, int32_t at)
{
    const int32_t each = y->decay_is_vector ? y->key_dim : 1;
    if (y->decay == LIN_DECAY_SIGMOID) lin_decay_sigmoid(l, reg, at, y->decay_heads * each, y->decay_number);
    if (y->decay == LIN_DECAY_SOFTPLUS)
        lin_decay_softplus(l, reg, at, y->decay_heads, each, y->a_log, y->dt_bias);
    if (y->decay == LIN_DECAY_BOUNDED)
        lin_decay_bounded(l, reg, at, y->decay_heads, each, y->a_log, y->dt_bias, y->decay_number);
}
static void lin__beta(const lin *l, const lin_layer *y, int reg, int32_t at)
{
    const char *cut = conv_format(l->c->env, "first=%d count=%d", at, y->steps * y->heads);
    conv_line(l->c, "act r%d r%d kind=sigmoid %s", reg, reg, cut);
    if (y->beta_scale != 1.0) conv_line(l->c, "scale r%d r%d by=%s %s", reg, reg, conv_real(l->c,
        y->beta_scale), cut);
}

/* q | k | v | decay | beta; returns the register. *gate_at: column of the output gate in r2, -1: not there */
static int lin__rows(const lin *l, const lin_layer *y, int src, int32_t *gate_at)
{
    const int32_t q = y->q_heads * y->key_dim, k = y->steps * y->k_heads * y->key_dim;
    const int32_t v = y->steps * y->v_heads * y->v_dim, n_beta = lin__has(&y->beta) ? y->steps * y->heads : 0;
    const int32_t n_decay = y->decay > LIN_DECAY_FIXED ? y->decay_heads * (y->decay_is_vector
                                                                           ? y->key_dim : 1) : 0;
    const int low_rank = n_decay && lin__has(&y->decay_inner);
    const int one_act = y->n_conv && y->qk_act && y->v_act && strcmp(y->qk_act, y->v_act) == 0;
    int32_t at = q + k + v, columns = at;
    conv_part parts[6];
    int n = 0, rows = 2;
    parts[n++] = y->q;
    parts[n++] = y->k;
    parts[n++] = y->v;
    if (n_decay && !low_rank) { parts[n++] = y->decay_outer; columns += n_decay; }
    if (n_beta) { parts[n++] = y->beta; columns += n_beta; }
    *gate_at = -1;
    if (y->n_conv && lin__has(&y->gate) &&
        !lin__has(&y->gate_inner)) { parts[n++] = y->gate; *gate_at = columns; }
    conv_put_linear(l->c, 2, src, parts, n, 1.0, 0);
    if (y->n_conv) {
        const int64_t separate[3] = { q, k, v }, together[1] = { q + k + v };
        lin_conv(l, 3, 2, y->conv, y->n_conv == 1 ? together : separate, y->n_conv, y->taps,
                 one_act ? y->v_act : "none");
        rows = 3;
    }
    lin_put_maps(l, y, rows, one_act);
    if (n_decay && !low_rank) lin__decay(l, y, 2, at);
    if (n_beta) lin__beta(l, y, 2, at + (low_rank ? 0 : n_decay));
    if (low_rank) {                   /* behind q | k | v, before what the first map made                   */
        lin_low_rank(l, 5, src, y->decay_inner, y->decay_outer);
        lin__decay(l, y, 5, 0);
        if (rows == 2 && n_beta) {
            conv_line(l->c, "copy r3 r2 first=0 count=%d", at);
            rows = 3;
        }
        conv_line(l->c, "cat r6 r%d r5", rows);
        rows = 6;
    }
    if (rows == 2 || columns == at) return rows;
    conv_line(l->c, "copy r5 r2 first=%d count=%d", at, columns - at);
    conv_line(l->c, "cat r9 r%d r5", rows);
    return 9;
}

/* Puts 1 for what the caller left at 0.                                                                    */
static void lin__defaults(lin_layer *y)
{
    if (!y->q_heads) y->q_heads = y->heads;
    if (!y->k_heads) y->k_heads = y->heads;
    if (!y->v_heads) y->v_heads = y->heads;
    if (!y->decay_heads) y->decay_heads = y->heads;
    if (!y->steps) y->steps = 1;
    if (y->beta_scale == 0.0) y->beta_scale = 1.0;
    if (y->scale == 0.0) y->scale = 1.0 / sqrt((double)y->key_dim);
}

static CONV_UNUSED void lin_put_mixer(const lin *l, const lin_layer *y, int dst, int src)
{
    conv_put(l->c, "mix r%d r%d linear_attention heads=%d key_dim=%d v_dim=%d", dst, src, y->heads,
             y->key_dim,
             y->v_dim);
    if (y->q_heads != y->heads) conv_put(l->c, " q_heads=%d", y->q_heads);
    if (y->k_heads != y->heads) conv_put(l->c, " k_heads=%d", y->k_heads);
    if (y->v_heads != y->heads) conv_put(l->c, " v_heads=%d", y->v_heads);
    if (y->steps > 1) conv_put(l->c, " steps=%d", y->steps);
    if (y->update) conv_put(l->c, " update=%s", y->update);
    if (y->decay == LIN_DECAY_FIXED) {
        conv_put(l->c, " factors=@%s", lin_values(l, "factors", y->factors, y->heads));
    } else if (y->decay) {
        if (y->decay_heads != y->heads) conv_put(l->c, " decay_heads=%d", y->decay_heads);
        conv_put(l->c, " decay=%s", y->decay_is_vector ? "vector" : "scalar");
    }
    if (lin__has(&y->beta)) conv_put(l->c, " gate=1");
    if (y->more) conv_put(l->c, " %s", y->more);
    conv_put_real(l->c, "scale", y->scale, 1.0);
    conv_line(l->c, "%s", "");
}

/* What torchscale's parallel form of retention divides rows by, which only an epsilon of the norm can see:
   m = sum_j factor^(t-j);   o / sqrt(m) / clip(sum_j |s_tj| / sqrt(m), 1, 5e4),   s_tj: decayed scores.
   r7 /= that; the q | k that made it stand at the start of rS                                              */
static CONV_UNUSED void lin_put_parallel_scale(const lin *l, const lin_layer *y, int src)
{
    const int32_t h = y->heads, qk = (y->q_heads + y->k_heads) * y->key_dim;
    float *ones = lin_floats(l, 2 * (int64_t)h), *nothing = lin_floats(l, 2 * (int64_t)h);
    for (int32_t i = 0; ones && nothing && i < 2 * h; i++) ones[i] = i < h ? 1.0f : y->factors[i - h];
    if (y->q_heads != h || y->k_heads != h || y->v_heads != h)
        conv_fail(l->c->env, "the parallel form's scale needs as many heads of q and k as of v");
    conv_line(l->c, "# sums of absolute scores: values 1, coefficients that decay");
    conv_line(l->c, "copy r4 r%d first=0 count=%d", src, 2 * h);
    conv_put(l->c, "affine r4 r4 w=@%s", lin_values(l, "nothing", nothing, 2 * (int64_t)h));
    conv_line(l->c, " b=@%s", lin_values(l, "ones", ones, 2 * (int64_t)h));
    conv_line(l->c, "copy r5 r%d first=0 count=%d", src, qk);
    conv_line(l->c, "cat r6 r5 r4");
    conv_line(l->c, "mix r5 r6 kernel_memory heads=%d head_dim=%d v_dim=1 loss=dot kernel=abs rate=0", h,
              y->key_dim);
    conv_line(l->c, "scale r5 r5 by=%s", conv_real(l->c, y->scale));
    conv_line(l->c, "copy r6 r4 first=0 count=1");
    conv_line(l->c, "cat r4 r6 r6");
    conv_line(l->c, "cat r9 r4 r6");
    conv_line(l->c, "mix r6 r9 linear_attention heads=%d key_dim=1 v_dim=1 q_heads=1 k_heads=1 v_heads=1 "
              "factors=@%s", h, lin_out(l, "factors"));
    conv_line(l->c, "# by logarithms: the roots, then the clipped quotient");
    conv_line(l->c, "act r6 r6 kind=log");
    conv_line(l->c, "scale r6 r6 by=-0.5");
    conv_line(l->c, "act r5 r5 kind=log");
    conv_line(l->c, "add r5 r5 r6");
    conv_line(l->c, "clip r5 r5 low=0 high=%s", conv_real(l->c, log(5e4)));
    conv_line(l->c, "scale r5 r5 by=-1");
    conv_line(l->c, "add r5 r5 r6");
    conv_line(l->c, "act r5 r5 kind=exp");
    conv_line(l->c, "mul r7 r7 r5");
}

/* Norm and output gate of the result in r7                                                                 */
static CONV_UNUSED void lin_put_end(const lin *l, const lin_layer *y, int src, int32_t gate_at)
{
    if (y->norm) {
        conv_put(l->c, "norm r7 r7 kind=rms eps=%s", conv_real(l->c, y->norm_eps));
        if (y->norm_weight)
            conv_put(l->c, " w=@%s", lin_vector(l, y->norm_weight, y->norm == LIN_NORM_HEAD ? y->v_dim
                                                : (int64_t)y->heads * y->v_dim));
        conv_line(l->c, "%s", y->norm == LIN_NORM_HEAD ? conv_format(l->c->env, " groups=%d", y->heads) : "");
    }
    if (!lin__has(&y->gate)) return;
    if (gate_at >= 0) {
        conv_line(l->c, "gate r7 r7 r2 act=%s first=%d", y->gate_act, gate_at);
        return;
    }
    if (lin__has(&y->gate_inner)) lin_low_rank(l, 8, src, y->gate_inner, y->gate);
    else lin_linear(l, 8, src, y->gate);
    conv_line(l->c, "gate r7 r7 r8 act=%s", y->gate_act);
}

/* From rS to the layer's result before the output projection, in r7                                        */
static CONV_UNUSED int lin_put(const lin *l, lin_layer *y, int src)
{
    int32_t gate_at;
    int rows;
    lin__defaults(y);
    rows = lin__rows(l, y, src, &gate_at);
    lin_put_mixer(l, y, 7, rows);
    if (y->parallel_scale) lin_put_parallel_scale(l, y, rows);
    lin_put_end(l, y, src, gate_at);
    return 7;
}

/* ---- fixed decays -------------------------------------------------------------------------------------- */
/* RetNet: 1 - 2^(-5 - h)                                                                                   */
static CONV_UNUSED const float *lin_retention(const lin *l, int32_t heads)
{
    float *f = lin_floats(l, heads);
    for (int32_t h = 0; f && h < heads; h++) f[h] = (float)(1.0 - pow(2.0, -5.0 - h));
    return f;
}
/* Lightning attention: e^-slope, slope = 2^(-8 (h + 1) / H) (1 - l / (L - 1 + 1e-5) + 1e-5)                */
static CONV_UNUSED const float *lin_lightning(const lin *l, int32_t heads, int32_t layer, int32_t layers)
{
    float *f = lin_floats(l, heads);
    for (int32_t h = 0; f && h < heads; h++)
        f[h] = (float)exp(-pow(2.0, -8.0 * (h + 1) / heads) * (1.0 - layer / (layers - 1 + 1e-5) + 1e-5));
    return f;
}

/* ---- packed projections -------------------------------------------------------------------------------- */
/* Rows first, first + 1 ... of a part as a part of its own, called NAME; see conv_rows.                    */
static CONV_UNUSED conv_part lin_rows(const lin *l, conv_part p, const char *name, int64_t first,
                                      int64_t block,
                                      int64_t stride, int64_t count)
{
    return conv_part_rows(l->c, p, lin_out(l, name), first, block, stride, count);
}
/* Qwen3-Next: for each key head its q | k | v of its value heads | z of them; b | a of them                */
static CONV_UNUSED void lin_qwen3_next(const lin *l, lin_layer *y, const char *qkvz, const char *ba)
{
    const int64_t group = y->v_heads / y->k_heads, k = y->key_dim, v = group * y->v_dim, step = 2 * k + 2 * v;
    const conv_part all = lin_part(l, qkvz, y->k_heads * step, y->dim);
    const conv_part gates = lin_part(l, ba, 2 * (int64_t)y->v_heads, y->dim);
    y->q = lin_rows(l, all, "q", 0, k, step, y->k_heads * k);
    y->k = lin_rows(l, all, "k", k, k, step, y->k_heads * k);
    y->v = lin_rows(l, all, "v", 2 * k, v, step, y->k_heads * v);
    y->gate = lin_rows(l, all, "z", 2 * k + v, v, step, y->k_heads * v);
    y->beta = lin_rows(l, gates, "b", 0, group, 2 * group, y->v_heads);
    y->decay_outer = lin_rows(l, gates, "a", group, group, 2 * group, y->v_heads);
}
/* For each head its q | k | v                                                                              */
static CONV_UNUSED void lin_packed_heads(const lin *l, lin_layer *y, const char *qkv)
{
    const int64_t d = y->key_dim, n = (int64_t)y->heads * d;
    const conv_part all = lin_part(l, qkv, 3 * n, y->dim);
    y->q = lin_rows(l, all, "q", 0, d, 3 * d, n);
    y->k = lin_rows(l, all, "k", d, d, 3 * d, n);
    y->v = lin_rows(l, all, "v", 2 * d, d, 3 * d, n);
}

/* ---- HGRN2: the forget gate is decay and key
   --------------------------------------------------------------- */
/* decay f = b + (1 - b) sigmoid(x), key 1 - f = (1 - b) sigmoid(-x); bound: b of each column, NULL: 0      */
static CONV_UNUSED int lin_put_hgrn2(const lin *l, lin_layer *y, conv_part forget, const float *bound,
                                     int src)
{
    const int32_t n = y->heads * y->key_dim;
    conv_part parts[3];
    lin__defaults(y);
    parts[0] = y->q;
    parts[1] = forget;
    parts[2] = y->v;
    conv_put_linear(l->c, 2, src, parts, 3, 1.0, 0);
    conv_line(l->c, "act r2 r2 kind=silu first=0 count=%d", n);
    conv_line(l->c, "copy r5 r2 first=%d count=%d", n, n);
    conv_line(l->c, "act r5 r5 kind=sigmoid");
    conv_line(l->c, "scale r2 r2 by=-1 first=%d count=%d", n, n);
    conv_line(l->c, "act r2 r2 kind=sigmoid first=%d count=%d", n, n);
    if (bound) {
        float *rest = lin_floats(l, n);
        const char *name;
        for (int32_t i = 0; rest && i < n; i++) rest[i] = (float)(1.0 - (double)bound[i]);
        name = lin_values(l, "rest", rest, n);
        conv_line(l->c, "affine r2 r2 w=@%s first=%d count=%d", name, n, n);
        conv_line(l->c, "affine r5 r5 w=@%s b=@%s", name, lin_values(l, "bound", bound, n));
    }
    conv_line(l->c, "cat r6 r2 r5");
    y->decay = LIN_DECAY_SIGMOID;     /* only says that there are columns of decays                         */
    y->decay_is_vector = 1;
    lin_put_mixer(l, y, 7, 6);
    lin_put_end(l, y, src, -1);
    return 7;
}

/* ---- feature maps -------------------------------------------------------------------------------------- */
/* Taylor: phi(q) . phi(k) = 1 + s + s^2 / 2, s = q . k / sqrt(dim): columns of `monomials`                 */
static CONV_UNUSED const float *lin_taylor_scales(const lin *l, int32_t dim, int32_t groups)
{
    const int32_t n = 1 + dim + dim * (dim + 1) / 2;
    float *scales = lin_floats(l, (int64_t)groups * n), *to = scales;
    for (int32_t g = 0; scales && g < groups; g++) {
        *to++ = 1.0f;
        for (int32_t i = 0; i < dim; i++) *to++ = (float)pow(dim, -0.25);
        for (int32_t i = 0; i < dim; i++)
            for (int32_t j = i; j < dim; j++) *to++ = (float)((i == j ? sqrt(0.5) : 1.0) / sqrt((double)dim));
    }
    return scales;
}
static CONV_UNUSED void lin_put_taylor(const lin *l, int dst, int src, int32_t dim, int32_t groups)
{
    const int32_t n = 1 + dim + dim * (dim + 1) / 2;
    conv_line(l->c, "monomials r%d r%d groups=%d", dst, src, groups);
    conv_line(l->c, "affine r%d r%d w=@%s", dst, dst,
              lin_values(l, "taylor", lin_taylor_scales(l, dim, groups), (int64_t)groups * n));
}

/* Performer: M^-1/2 (e^(P x' - |x'|^2 / 2 - c) + eps), x' = x dim^-1/4, of queries and keys, which are all
   of rS.
   official: c is the largest of P x' in the row for queries, in the whole sequence for keys; else 0.
   Result in r2; r3, r4, r5, r6 are used.                                                                   */
static CONV_UNUSED void lin_put_performer(const lin *l, int src, const char *projection, int32_t heads,
                                          int32_t dim,
                                          int32_t features, double eps, int official)
{
    const float *p = lin_read(l, projection, (int64_t)features * dim);
    const int32_t n = 2 * heads * features;
    float *w = lin_floats(l, (int64_t)features * dim), *shift = lin_floats(l, n), *factor = lin_floats(l, n);
    for (int32_t i = 0; p && w && i < dim; i++)
        for (int32_t j = 0; j < features; j++)
            w[i * features + j] = (float)((double)p[j * dim + i] * pow(dim, -0.25));
    for (int32_t i = 0; shift && factor && i < n; i++) {
        factor[i] = (float)pow(features, -0.5);
        shift[i] = (float)(eps * pow(features, -0.5));
    }
    conv_line(l->c, "blocks r2 r%d w=@%s out=%d groups=%d shared=1", src,
              lin_values(l, "projection", w, (int64_t)features * dim), features, 2 * heads);
    conv_line(l->c, "mul r3 r%d r%d", src, src);
    conv_line(l->c, "reduce r4 r3 kind=sum groups=%d", 2 * heads);
    conv_line(l->c, "scale r4 r4 by=%s", conv_real(l->c, -0.5 * pow(dim, -0.5)));
    if (official) {
        conv_line(l->c, "copy r3 r2 first=0 count=%d", n / 2);
        conv_line(l->c, "reduce r5 r3 kind=max groups=%d", heads);
        conv_line(l->c, "copy r3 r2 first=%d count=%d", n / 2, n / 2);
        conv_line(l->c, "mix r6 r3 pool kind=max groups=%d", heads);
        conv_line(l->c, "cat r3 r5 r6");
        conv_line(l->c, "scale r3 r3 by=-1");
        conv_line(l->c, "add r4 r4 r3");
    }
    conv_line(l->c, "add r2 r2 r4");
    conv_line(l->c, "act r2 r2 kind=exp");
    conv_put(l->c, "affine r2 r2 w=@%s", lin_values(l, "factor", factor, n));
    conv_line(l->c, " b=@%s", lin_values(l, "eps", shift, n));
}

/* NaLaFormer: of queries relu(+-q / |q|)^p, p = 3 (0.5 + tanh |q|), of keys relu(+-k^3), head by head;
   queries in rD, keys in rK. r3, r4, r5 are used.                                                          */
static CONV_UNUSED void lin_put_nala(const lin *l, int dst, int dst_key, int src, int32_t heads, int32_t dim)
{
    const int32_t n = heads * dim;
    float *three = lin_floats(l, heads), *half = lin_floats(l, heads);
    for (int32_t h = 0; three && half && h < heads; h++) { three[h] = 3.0f; half[h] = 1.5f; }
    conv_line(l->c, "copy r3 r%d first=0 count=%d", src, n);
    conv_line(l->c, "mul r4 r3 r3");
    conv_line(l->c, "reduce r5 r4 kind=sum groups=%d", heads);
    conv_line(l->c, "act r5 r5 kind=sqrt");
    conv_line(l->c, "act r5 r5 kind=tanh");
    conv_put(l->c, "affine r5 r5 w=@%s", lin_values(l, "three", three, heads));
    conv_line(l->c, " b=@%s", lin_values(l, "half", half, heads));
    conv_line(l->c, "norm r3 r3 kind=l2 eps=1e-30 groups=%d", heads);
    conv_line(l->c, "mirror r%d r3 groups=%d", dst, heads);
    /* of numbers <= 0: so low that e^(p log) is 0 */
    conv_line(l->c, "act r%d r%d kind=log", dst, dst);
    conv_line(l->c, "mul r%d r%d r5", dst, dst);
    conv_line(l->c, "act r%d r%d kind=exp", dst, dst);
    conv_line(l->c, "copy r3 r%d first=%d count=%d", src, n, n);
    conv_line(l->c, "mul r4 r3 r3");
    conv_line(l->c, "mul r3 r3 r4");
    conv_line(l->c, "mirror r%d r3 groups=%d", dst_key, heads);
    conv_line(l->c, "act r%d r%d kind=relu", dst_key, dst_key);
}

/* ---- block-diagonal maps ------------------------------------------------------------------------------- */
/* [groups, out, in] of the checkpoint as `blocks` wants it                                                 */
static CONV_UNUSED const float *lin_blocks(const lin *l, const char *name, int32_t groups, int32_t out,
                                           int32_t in)
{
    const float *w = lin_read(l, name, (int64_t)groups * out * in);
    float *t = lin_floats(l, (int64_t)groups * out * in);
    for (int32_t g = 0; w && t && g < groups; g++)
        for (int32_t o = 0; o < out; o++)
            for (int32_t i = 0; i < in; i++) t[(g * in + i) * out + o] = w[(g * out + o) * in + i];
    return t;
}
static CONV_UNUSED void lin_put_blocks(const lin *l, int dst, int src, const char *name, int32_t groups,
                                       int32_t out,
                                       int32_t in)
{
    conv_line(l->c, "blocks r%d r%d w=@%s out=%d groups=%d", dst, src,
              lin_values(l, name, lin_blocks(l, name, groups, out, in), (int64_t)groups * out * in), out,
                  groups);
}

/* ---- RWKV ---------------------------------------------------------------------------------------------- */
/* The first of two names that the checkpoint has: official and transformers' or fla's                      */
static CONV_UNUSED const char *lin_pick(const lin *l, const char *a, const char *b) { return lin_has(l,
    a) ? a : b; }

/* mix rD rS shift of n rows w = sign * (mix NAME) + add, side by side                                      */
static CONV_UNUSED void lin_shift(const lin *l, int dst, int src, const char *const *names, int n,
                                  int32_t dim,
                                  double sign, double add)
{
    conv_view parts[8];
    for (int i = 0; i < n; i++) {
        parts[i] = lin_flat(l, names[i], dim);
        parts[i].scale = sign;
        parts[i].add = add;
    }
    conv_line(l->c, "mix r%d r%d shift mixes=%d w=@%s", dst, src, n,
              conv_stack(l->c, lin_out(l, conv_format(l->c->env, "shift%d", n)), CONV_VECTOR, parts, n));
}
/* linear rD rS of columns from `first` on                                                                  */
static CONV_UNUSED void lin_linear_from(const lin *l, int dst, int src, conv_part p, int32_t first)
{
    conv_put(l->c, "linear r%d r%d w=@%s", dst, src, conv_make(l->c, p.out, CONV_MATRIX, p.weight));
    if (p.has_bias)
        conv_put(l->c, " b=@%s", conv_make(l->c, conv_format(l->c->env, "%s.bias", p.out), CONV_VECTOR,
                                           p.bias));
    conv_line(l->c, " first=%d", first);
}
/* Two maps with an activation between them                                                                 */
typedef struct lin_pair { conv_part inner, outer; } lin_pair;

/* x @ w1 and @ w2 + bias, both stored [in, out] (by rwkv.cpp: [out, in])                                   */
static CONV_UNUSED lin_pair lin_lora(const lin *l, const char *w1, const char *w2, const char *bias,
                                     int32_t dim,
                                     int32_t out)
{
    const int32_t rank = lin_size(l, w1, l->rwkv_cpp ? 0 : -1);
    lin_pair p;
    p.inner = l->rwkv_cpp ? lin_part(l, w1, rank, dim) : lin_part_transposed(l, w1, rank, dim);
    p.outer = l->rwkv_cpp ? lin_part(l, w2, out, rank) : lin_part_transposed(l, w2, out, rank);
    if (!bias) return p;
    p.outer.has_bias = 1;
    p.outer.bias = lin_flat(l, bias, out);
    return p;
}
/* fla: NAME.lora.0 and NAME.lora.2, whose bias is optional                                                 */
static CONV_UNUSED lin_pair lin_lora_fla(const lin *l, const char *name, int32_t dim, int32_t out)
{
    const char *w1 = conv_format(l->c->env, "%s.lora.0", name), *w2 = conv_format(l->c->env, "%s.lora.2",
                                                                                  name);
    const int32_t rank = lin_size(l, w1, 0);
    lin_pair p;
    p.inner = lin_part(l, w1, rank, dim);
    p.outer = lin_part(l, w2, out, rank);
    return p;
}
/* rD = outer(act(inner(columns of rS from `first` on))), over r4                                           */
static CONV_UNUSED void lin_put_pair(const lin *l, int dst, int src, int32_t first, const lin_pair *p,
                                     const char *act)
{
    lin_linear_from(l, 4, src, p->inner, first);
    if (act) conv_line(l->c, "act r4 r4 kind=%s", act);
    lin_linear(l, dst, 4, p->outer);
}

typedef struct lin_rwkv {
    int32_t dim, heads, head_dim, ffn;
    double  norm_eps;                 /* of the norm over heads                                             */
} lin_rwkv;

/* RWKV-4 from rows in rS to the rows before the output projection, in r7                                   */
static CONV_UNUSED int lin_put_rwkv4(const lin *l, const lin_rwkv *r, int src)
{
    const char *names[3];
    const int32_t n = r->dim;
    const float *w = lin_read(l, "time_decay", n);
    names[0] = lin_pick(l, "time_mix_r", "time_mix_receptance");
    names[1] = lin_pick(l, "time_mix_k", "time_mix_key");
    names[2] = lin_pick(l, "time_mix_v", "time_mix_value");
    lin_shift(l, 3, src, names, 3, n, -1.0, 1.0);
    lin_linear_from(l, 2, 3, lin_part(l, "receptance", n, n), 0);
    lin_linear_from(l, 5, 3, lin_part(l, "key", n, n), n);
    lin_linear_from(l, 6, 3, lin_part(l, "value", n, n), 2 * n);
    conv_line(l->c, "cat r4 r5 r6");
    conv_put(l->c, "mix r7 r4 running_softmax heads=%d", n);
    if (!l->rwkv_cpp) w = lin_spread(l, w, n, 1, lin_minus_exp);
    conv_put(l->c, " decay=@%s", lin_values(l, "decay", w, n));
    conv_line(l->c, " bonus=@%s", lin_vector(l, "time_first", n));
    conv_line(l->c, "gate r7 r7 r2 act=sigmoid");
    return 7;
}
/* Channel mix of RWKV-4 to 6 into r7; v6: mixes are those of the row before                                */
static CONV_UNUSED int lin_put_rwkv_channels(const lin *l, const lin_rwkv *r, int src, int v6)
{
    const int fla = lin_has(l, "key.linear");
    const char *names[2];
    names[0] = fla ? "receptance.mu" : v6 ? "time_maa_r" : lin_pick(l, "time_mix_r", "time_mix_receptance");
    names[1] = fla ? "key.mu" : v6 ? "time_maa_k" : lin_pick(l, "time_mix_k", "time_mix_key");
    lin_shift(l, 3, src, names, 2, r->dim, v6 ? 1.0 : -1.0, v6 ? 0.0 : 1.0);
    lin_linear_from(l, 2, 3, lin_part(l, fla ? "receptance.linear" : "receptance", r->dim, r->dim), 0);
    lin_linear_from(l, 5, 3, lin_part(l, fla ? "key.linear" : "key", r->ffn, r->dim), r->dim);
    conv_line(l->c, "act r5 r5 kind=relu2");
    lin_linear(l, 7, 5, lin_part(l, "value", r->dim, r->ffn));
    conv_line(l->c, "gate r7 r7 r2 act=sigmoid");
    return 7;
}
/* RWKV-7's into r7                                                                                         */
static CONV_UNUSED int lin_put_rwkv7_channels(const lin *l, const lin_rwkv *r, int src)
{
    static const char *const names[1] = { "x_k" };
    lin_shift(l, 3, src, names, 1, r->dim, 1.0, 0.0);
    lin_linear(l, 5, 3, lin_part(l, "key", r->ffn, r->dim));
    conv_line(l->c, "act r5 r5 kind=relu2");
    lin_linear(l, 7, 5, lin_part(l, "value", r->dim, r->ffn));
    return 7;
}

/* Norm over each head of r7, with weights of its own for each channel                                      */
static CONV_UNUSED void lin_rwkv_norm(const lin *l, int32_t heads, int32_t width, double eps, const char *w,
                                      const char *b)
{
    conv_put(l->c, "norm r7 r7 kind=layer eps=%s groups=%d", conv_real(l->c, eps), heads);
    conv_put(l->c, " w=@%s", lin_vector(l, w, width));
    conv_line(l->c, " b=@%s", lin_vector(l, b, width));
}

/* RWKV-5: constant decays of each channel (5.2) or of each head (before, whose bonus is a logarithm); a gate
   in 5.1 and 5.2. Result in r7.                                                                            */
static CONV_UNUSED int lin_put_rwkv5(const lin *l, const lin_rwkv *r, int src)
{
    static const char *const names[4] = { "time_mix_r", "time_mix_k", "time_mix_v", "time_mix_g" };
    const int gated = lin_has(l, "gate"), by_head = !lin_has(l, "time_faaaa");
    const int32_t n = r->dim, each = by_head ? 1 : r->head_dim;
    const float *decay = lin_read(l, "time_decay", (int64_t)r->heads * each);
    const float *bonus = lin_read(l, by_head ? "time_first" : "time_faaaa", (int64_t)r->heads * each);
    float *factors = lin_floats(l, n), *u = lin_floats(l, n);
    for (int32_t i = 0; decay && bonus && factors && u && i < n; i++) {
        const int32_t at = i / (r->head_dim / each);
        factors[i] = l->rwkv_cpp ? decay[at] : (float)exp(-exp((double)decay[at]));
        u[i] = by_head && !l->rwkv_cpp ? (float)exp((double)bonus[at]) : bonus[at];
    }
    lin_shift(l, 3, src, names, gated ? 4 : 3, n, -1.0, 1.0);
    lin_linear_from(l, 2, 3, lin_part(l, "receptance", n, n), 0);
    lin_linear_from(l, 5, 3, lin_part(l, "key", n, n), n);
    lin_linear_from(l, 6, 3, lin_part(l, "value", n, n), 2 * n);
    if (gated) lin_linear_from(l, 8, 3, lin_part(l, "gate", n, n), 3 * n);
    conv_line(l->c, "cat r4 r2 r5");
    conv_line(l->c, "cat r9 r4 r6");
    conv_put(l->c, "mix r7 r9 linear_attention heads=%d key_dim=%d read=pre", r->heads, r->head_dim);
    conv_put(l->c, " factors=@%s", lin_values(l, "factors", factors, n));
    conv_line(l->c, " bonus=@%s", lin_values(l, "bonus", u, n));
    lin_rwkv_norm(l, r->heads, n, r->norm_eps, "ln_x.weight", "ln_x.bias");
    if (gated) conv_line(l->c, "gate r7 r7 r8 act=silu");
    return 7;
}

/* RWKV-6: mixes and decays depend on the row                                                               */
typedef struct lin_rwkv6 {
    int32_t     dim, heads, key_dim, v_dim, rank;
    conv_part   mix_inner;            /* dim -> 5 * rank                                                    */
    const float *mix_outer;           /* [5][rank][dim]                                                     */
    conv_view   mix_base, mixes[5];   /* what the mixes start from, in the order of mix_outer               */
    int32_t     r_at, w_at, k_at, v_at, g_at;          /* their places in it                                */
    conv_part   r, k, v, g;
    lin_pair    w;
    const char *bonus, *norm, *norm_bias;
    double      norm_eps;
    int32_t     gla_heads;            /* heads of keys and values of the form without bonus and norm; or 0  */
} lin_rwkv6;

/* The mixes of official files and of llama.cpp, where they may be one tensor                               */
static CONV_UNUSED void lin_rwkv6_mixes(const lin *l, lin_rwkv6 *x)
{
    static const char *const names[5] = { "time_maa_w", "time_maa_k", "time_maa_v", "time_maa_r",
                                          "time_maa_g" };
    const int64_t n = x->dim, rank = lin_size(l, "time_maa_w2", l->gguf ? 2 : 1);
    const float *outer = lin_read(l, "time_maa_w2", 5 * rank * n);
    float *turned = l->gguf ? lin_floats(l, 5 * rank * n) : NULL;          /* from [5][dim][rank]           */
    for (int64_t i = 0; outer && turned && i < 5 * rank * n; i++)
        turned[(i / (rank * n) * rank + i % rank) * n + i / rank % n] = outer[i];
    x->rank = (int32_t)rank;
    x->mix_outer = l->gguf ? turned : outer;
    x->mix_inner = l->gguf ? lin_part(l, "time_maa_w1", 5 * rank, n)
                           : lin_part_transposed(l, "time_maa_w1", 5 * rank, n);
    x->mix_base = lin_flat(l, "time_maa_x", n);
    for (int i = 0; i < 5; i++)
        x->mixes[i] = lin_has(l, "time_maa") ? conv_rows(l->c, lin_flat(l, "time_maa", 5 * n), i * n, n, n, n)
                                             : lin_flat(l, names[i], n);
    x->w_at = 0; x->k_at = 1; x->v_at = 2; x->r_at = 3; x->g_at = 4;
}
static CONV_UNUSED void lin_rwkv6_official(const lin *l, lin_rwkv6 *x, int32_t dim, int32_t heads,
                                           int32_t gla_heads)
{
    const int32_t width = gla_heads ? dim / heads * gla_heads : dim;       /* of keys and values            */
    memset(x, 0, sizeof *x);
    x->dim = dim;
    x->heads = heads;
    x->gla_heads = gla_heads;
    x->key_dim = x->v_dim = dim / heads;
    lin_rwkv6_mixes(l, x);
    x->r = lin_part(l, "receptance", dim, dim);
    x->k = lin_part(l, "key", width, dim);
    x->v = lin_part(l, "value", width, dim);
    x->g = lin_part(l, "gate", dim, dim);
    x->w = lin_lora(l, "time_decay_w1", "time_decay_w2", "time_decay", dim, dim);
    x->bonus = "time_faaaa";
    x->norm = "ln_x.weight";
    x->norm_bias = "ln_x.bias";
    x->norm_eps = 64e-5;
}
/* r3 the mixed rows, r5 the decays, to r7: keys times 1 - decay, each for several heads of queries         */
static void lin__rwkv6_gla(const lin *l, const lin_rwkv6 *x)
{
    const int32_t n = x->dim, each = x->heads / x->gla_heads;
    conv_line(l->c, "scale r11 r5 by=-1");
    lin_linear_from(l, 2, 3, x->r, x->r_at * n);
    lin_linear_from(l, 6, 3, x->k, x->k_at * n);
    lin_linear_from(l, 8, 3, x->v, x->v_at * n);
    if (each > 1) conv_line(l->c, "copy r9 r6");
    for (int32_t i = 1; i < each; i++)                 /* each head's channels `each` times                 */
        conv_line(l->c, "cat r%d r%d r9 groups=%d", i % 2 ? 10 : 6, i % 2 ? 6 : 10, x->gla_heads);
    if (each % 2 == 0) conv_line(l->c, "copy r6 r10");
    conv_line(l->c, "mul r11 r11 r6\nadd r6 r6 r11");
    conv_line(l->c, "cat r4 r2 r6\ncat r9 r4 r8\ncat r4 r9 r5");
    lin_linear_from(l, 8, 3, x->g, x->g_at * n);
    conv_line(l->c, "mix r7 r4 linear_attention heads=%d v_heads=%d key_dim=%d v_dim=%d decay=vector "
              "read=post scale=%s", x->heads, x->gla_heads, x->key_dim, x->v_dim,
              conv_real(l->c, 1.0 / sqrt((double)x->key_dim)));
    conv_line(l->c, "gate r7 r7 r8 act=sigmoid");
}
static CONV_UNUSED int lin_put_rwkv6(const lin *l, const lin_rwkv6 *x, int src)
{
    const int32_t n = x->dim;
    conv_line(l->c, "mix r3 r%d shift w=@%s", src, conv_make(l->c, lin_out(l, "shift1"), CONV_VECTOR,
                                                             x->mix_base));
    lin_linear(l, 4, 3, x->mix_inner);
    conv_line(l->c, "act r4 r4 kind=tanh");
    conv_put_diagonal(l->c, 5, 4, lin_out(l, "mix_outer"), x->mix_outer, 5, x->rank, n);
    conv_line(l->c, "cat r6 r%d r5", src);
    conv_line(l->c, "mix r3 r6 shift mixes=5 dynamic=1 w=@%s",
              conv_stack(l->c, lin_out(l, "shift5"), CONV_VECTOR, x->mixes, 5));
    lin_put_pair(l, 5, 3, x->w_at * n, &x->w, "tanh");
    conv_line(l->c, "act r5 r5 kind=exp");
    conv_line(l->c, "scale r5 r5 by=-1");
    conv_line(l->c, "act r5 r5 kind=exp");
    if (x->gla_heads) {
        lin__rwkv6_gla(l, x);
        return 7;
    }
    lin_linear_from(l, 2, 3, x->r, x->r_at * n);
    lin_linear_from(l, 8, 3, x->k, x->k_at * n);
    conv_line(l->c, "cat r4 r2 r8");
    lin_linear_from(l, 8, 3, x->v, x->v_at * n);
    conv_line(l->c, "cat r9 r4 r8");
    conv_line(l->c, "cat r4 r9 r5");
    lin_linear_from(l, 8, 3, x->g, x->g_at * n);
    conv_put(l->c, "mix r7 r4 linear_attention heads=%d key_dim=%d v_dim=%d decay=vector read=pre", x->heads,
             x->key_dim, x->v_dim);
    conv_line(l->c, " bonus=@%s", lin_vector(l, x->bonus, (int64_t)x->heads * x->key_dim));
    lin_rwkv_norm(l, x->heads, x->heads * x->v_dim, x->norm_eps, x->norm, x->norm_bias);
    conv_line(l->c, "gate r7 r7 r8 act=silu");
    return 7;
}

/* RWKV-7                                                                                                   */
typedef struct lin_rwkv7 {
    int32_t     dim, heads, head_dim;
    conv_part   r, k, v;
    lin_pair    w, a, v_mix, g;       /* v_mix: of layers after the first                                   */
    const char *norm, *norm_bias;     /* NULL: no norm                                                      */
    double      norm_eps;
    int32_t     no_gate;
} lin_rwkv7;
static CONV_UNUSED void lin_rwkv7_official(const lin *l, lin_rwkv7 *x, int32_t dim, int32_t heads,
                                           int first_layer)
{
    memset(x, 0, sizeof *x);
    x->dim = dim;
    x->heads = heads;
    x->head_dim = dim / heads;
    x->r = lin_part(l, "receptance", dim, dim);
    x->k = lin_part(l, "key", dim, dim);
    x->v = lin_part(l, "value", dim, dim);
    x->w = lin_lora(l, "w1", "w2", "w0", dim, dim);
    x->a = lin_lora(l, "a1", "a2", "a0", dim, dim);
    x->no_gate = !lin_has(l, "g1");
    if (!x->no_gate) x->g = lin_lora(l, "g1", "g2", NULL, dim, dim);
    if (!first_layer) x->v_mix = lin_lora(l, "v1", "v2", "v0", dim, dim);
    x->norm = lin_has(l, "ln_x.weight") ? "ln_x.weight" : NULL;
    x->norm_bias = "ln_x.bias";
    x->norm_eps = 64e-5;
}
/* Values: those of the first layer stay in r10, later layers mix them in                                   */
static void lin__rwkv7_values(const lin *l, const lin_rwkv7 *x, int first_layer)
{
    lin_linear_from(l, 6, 3, x->v, 3 * x->dim);
    if (first_layer) {
        conv_line(l->c, "copy r10 r6");
        return;
    }
    lin_put_pair(l, 5, 3, 3 * x->dim, &x->v_mix, NULL);
    conv_line(l->c, "scale r11 r6 by=-1");
    conv_line(l->c, "add r11 r11 r10");
    conv_line(l->c, "gate r11 r11 r5 act=sigmoid");
    conv_line(l->c, "add r6 r6 r11");
}
/* From rS to r7; r10 holds the values of the first layer, r11 .. r13 are used.                             */
static CONV_UNUSED int lin_put_rwkv7(const lin *l, const lin_rwkv7 *x, int src, int first_layer)
{
    static const char *const names[6] = { "x_r", "x_w", "x_k", "x_v", "x_a", "x_g" };
    const int32_t n = x->dim, mixes = x->no_gate ? 5 : 6;
    const float *k_a = lin_read(l, "k_a", n);
    float *rest = lin_floats(l, n);
    for (int32_t i = 0; k_a && rest && i < n; i++) rest[i] = (float)(1.0 - (double)k_a[i]);
    if (lin_has(l, "x_rwkvag"))       /* in this order, in one tensor                                       */
        conv_line(l->c, "mix r3 r%d shift mixes=%d w=@%s", src, mixes,
                  lin_vector(l, "x_rwkvag", mixes * (int64_t)n));
    else lin_shift(l, 3, src, names, mixes, n, 1.0, 0.0);
    lin_linear_from(l, 2, 3, x->r, 0);
    lin__rwkv7_values(l, x, first_layer);
    if (!x->no_gate) lin_put_pair(l, 8, 3, 5 * n, &x->g, "sigmoid");
    lin_put_pair(l, 11, 3, 4 * n, &x->a, NULL);
    conv_line(l->c, "act r11 r11 kind=sigmoid");
    lin_linear_from(l, 5, 3, x->k, 2 * n);
    conv_line(l->c, "affine r12 r5 w=@%s", lin_vector(l, "k_k", n));
    conv_line(l->c, "norm r12 r12 kind=l2 eps=1e-24 groups=%d", x->heads);
    conv_line(l->c, "# k (1 + (a - 1) k_a)");
    conv_put(l->c, "affine r13 r11 w=@%s", lin_vector(l, "k_a", n));
    conv_line(l->c, " b=@%s", lin_values(l, "k_rest", rest, n));
    conv_line(l->c, "mul r5 r5 r13");
    conv_line(l->c, "cat r4 r2 r5");
    conv_line(l->c, "cat r9 r4 r6");
    lin_put_pair(l, 13, 3, n, &x->w, "tanh");
    conv_line(l->c, "act r13 r13 kind=sigmoid");
    conv_line(l->c, "scale r13 r13 by=-0.6065306597126334");
    conv_line(l->c, "act r13 r13 kind=exp");
    conv_line(l->c, "cat r4 r9 r13");
    conv_line(l->c, "scale r13 r12 by=-1");
    conv_line(l->c, "cat r9 r4 r13");
    conv_line(l->c, "mul r12 r12 r11");
    conv_line(l->c, "cat r4 r9 r12");
    conv_line(l->c, "mix r7 r4 linear_attention heads=%d key_dim=%d decay=vector update=dplr", x->heads,
              x->head_dim);
    if (x->norm) lin_rwkv_norm(l, x->heads, n, x->norm_eps, x->norm, x->norm_bias);
    conv_line(l->c, "# bonus: (r . (k r_k)) v");
    conv_line(l->c, "mul r12 r2 r5");
    conv_line(l->c, "affine r12 r12 w=@%s", lin_vector(l, "r_k", n));
    conv_line(l->c, "reduce r13 r12 kind=sum groups=%d", x->heads);
    conv_line(l->c, "mul r12 r6 r13");
    conv_line(l->c, "add r7 r7 r12");
    if (!x->no_gate) conv_line(l->c, "mul r7 r7 r8");
    return 7;
}

/* The time mix of an official checkpoint from rS to the rows before the output projection                  */
static CONV_UNUSED int lin_put_rwkv(const lin *l, const lin_rwkv *r, int version, int src, int first_layer)
{
    lin_rwkv6 x6;
    lin_rwkv7 x7;
    if (version == 4) return lin_put_rwkv4(l, r, src);
    if (version == 5) return lin_put_rwkv5(l, r, src);
    if (version == 6) {
        lin_rwkv6_official(l, &x6, r->dim, r->heads, 0);
        return lin_put_rwkv6(l, &x6, src);
    }
    lin_rwkv7_official(l, &x7, r->dim, r->heads, first_layer);
    return lin_put_rwkv7(l, &x7, src, first_layer);
}

/* ---- xLSTM --------------------------------------------------------------------------------------------- */
/* mix r7 rS: rows q | k | v | logarithm of the forget gate | input gate                                    */
static CONV_UNUSED void lin_put_mlstm(const lin *l, int src, int32_t heads, int32_t key_dim, int32_t v_dim,
                                      double eps)
{
    conv_line(l->c,
              "mix r7 r%d linear_attention heads=%d key_dim=%d v_dim=%d decay=scalar gate=1 log_gates=1 "
              "normalizer=max eps=%s scale=%s", src, heads, key_dim, v_dim, conv_real(l->c, eps),
              conv_real(l->c, 1.0 / sqrt((double)key_dim)));
}
/* Norm over each head, weights w + plus                                                                    */
static CONV_UNUSED void lin_put_head_norm(const lin *l, const char *name, int32_t heads, int32_t width,
                                          double plus,
                                          double eps)
{
    conv_line(l->c, "norm r7 r7 kind=layer eps=%s groups=%d w=@%s", conv_real(l->c, eps), heads,
              conv_make(l->c, lin_out(l, name), CONV_VECTOR, conv_plus(lin_flat(l, name, width), plus)));
}
/* mLSTM layer of the small xLSTM from rS to r7, before proj_down                                           */
static CONV_UNUSED int lin_put_mlstm_layer(const lin *l, int src, int32_t dim, int32_t inner, int32_t heads,
                                           int32_t block, int32_t taps)
{
    static const char *const kernel[1] = { "conv1d.weight" };
    const int64_t channels[1] = { inner };
    conv_part gates[2];
    lin_linear(l, 2, src, lin_part(l, "proj_up", 2 * (int64_t)inner, dim));
    lin_conv(l, 3, 2, kernel, channels, 1, taps, "silu");
    conv_line(l->c, "copy r4 r2 first=0 count=%d", inner);
    lin_put_blocks(l, 5, 3, "q_proj", inner / block, block, block);
    lin_put_blocks(l, 6, 3, "k_proj", inner / block, block, block);
    conv_line(l->c, "cat r8 r5 r6");
    lin_put_blocks(l, 5, 4, "v_proj", inner / block, block, block);
    conv_line(l->c, "cat r6 r8 r5");
    gates[0] = lin_part(l, "fgate.weight", heads, 3 * (int64_t)inner);
    gates[1] = lin_part(l, "igate.weight", heads, 3 * (int64_t)inner);
    for (int i = 0; i < 2; i++) {
        gates[i].has_bias = 1;
        gates[i].bias = lin_flat(l, i ? "igate.bias" : "fgate.bias", heads);
    }
    conv_put_linear(l->c, 5, 6, gates, 2, 1.0, 0);
    conv_line(l->c, "act r5 r5 kind=log_sigmoid first=0 count=%d", heads);
    conv_line(l->c, "cat r8 r6 r5");
    lin_put_mlstm(l, 8, heads, inner / heads, inner / heads, 1e-6);
    lin_put_head_norm(l, "outnorm", heads, inner, 1.0, 1e-5);
    conv_line(l->c, "affine r3 r3 w=@%s", lin_vector(l, "learnable_skip", inner));
    conv_line(l->c, "add r7 r7 r3");
    conv_line(l->c, "gate r7 r7 r2 act=silu first=%d", inner);
    return 7;
}
/* sLSTM layer from rS to r7. The module fgate feeds the input gate and igate the forget gate.              */
static CONV_UNUSED int lin_put_slstm_layer(const lin *l, int src, int32_t dim, int32_t heads, int32_t taps)
{
    static const char *const kernel[1] = { "conv1d.weight" };
    const int32_t d = dim / heads;
    const int64_t channels[1] = { dim };
    const float *b = lin_read(l, "b", 4 * (int64_t)dim), *r = lin_read(l, "R", (int64_t)heads * 4 * d * d);
    float *bias = lin_floats(l, 4 * (int64_t)dim), *w = lin_floats(l, (int64_t)heads * 4 * d * d);
    for (int32_t h = 0; b && r && bias && w && h < heads; h++)
        for (int32_t g = 0; g < 4; g++)
            for (int32_t o = 0; o < d; o++) {
                bias[(g * heads + h) * d + o] = b[(h * 4 + g) * d + o];
                for (int32_t i = 0; i < d; i++)
                    w[((h * 4 + g) * d + i) * d + o] = r[((h * 4 + g) * d + o) * d + i];
            }
    lin_conv(l, 3, src, kernel, channels, 1, taps, "silu");
    lin_put_blocks(l, 4, 3, "fgate", heads, d, d);
    lin_put_blocks(l, 5, 3, "igate", heads, d, d);
    conv_line(l->c, "cat r6 r4 r5");
    lin_put_blocks(l, 4, src, "zgate", heads, d, d);
    conv_line(l->c, "cat r5 r6 r4");
    lin_put_blocks(l, 4, src, "ogate", heads, d, d);
    conv_line(l->c, "cat r6 r5 r4");
    conv_line(l->c, "affine r6 r6 b=@%s", lin_values(l, "bias", bias, 4 * (int64_t)dim));
    conv_line(l->c, "mix r7 r6 slstm heads=%d w=@%s", heads, lin_values(l, "recurrent", w,
                                                                        (int64_t)heads * 4 * d * d));
    lin_put_head_norm(l, "group_norm", heads, dim, 1.0, 1e-5);
    return 7;
}

/* xLSTM-7B: a whole block on the stream in r0                                                              */
typedef struct lin_xlstm {
    int32_t dim, heads, key_dim, v_dim, ffn;
    double  gate_cap, eps, norm_eps;
} lin_xlstm;
typedef struct lin_xlstm_names {      /* of tensors; gates end with .weight and .bias                       */
    const char *norm, *q, *k, *v, *forget, *input, *output, *head_norm, *out, *ffn_norm, *gate, *up, *down;
} lin_xlstm_names;
static CONV_UNUSED const lin_xlstm_names lin_xlstm_plain_names = {
    "norm_mlstm", "q", "k", "v", "fgate_preact.weight", "igate_preact.weight", "ogate_preact",
        "multihead_norm",
    "out_proj", "norm_ffn", "proj_up_gate", "proj_up", "proj_down"
};
/* A part whose name ends with .weight, and whose bias ends with .bias                                      */
static CONV_UNUSED conv_part lin_part_full(const lin *l, const char *name, int64_t rows, int64_t cols)
{
    const lin bare = { l->c, l->from, "", l->out, 0, 0, NULL };
    const char *end = strstr(name, ".weight");
    conv_part p = lin_part(&bare, name, rows, cols);
    p.has_bias = 1;
    p.bias = lin_flat(&bare, conv_format(l->c->env, "%.*s.bias",
                                         (int)(end ? end - name : (int)strlen(name)), name), rows);
    return p;
}
static CONV_UNUSED void lin_put_xlstm_block(const lin *l, const lin_xlstm *x, const lin_xlstm_names *n)
{
    const int32_t at = x->heads * (2 * x->key_dim + x->v_dim);
    conv_part parts[5];
    conv_line(l->c, "norm r1 r0 kind=rms eps=%s w=@%s", conv_real(l->c, x->norm_eps), lin_vector(l, n->norm,
        x->dim));
    parts[0] = lin_part(l, n->q, (int64_t)x->heads * x->key_dim, x->dim);
    parts[1] = lin_part(l, n->k, (int64_t)x->heads * x->key_dim, x->dim);
    parts[2] = lin_part(l, n->v, (int64_t)x->heads * x->v_dim, x->dim);
    parts[3] = lin_part_full(l, n->forget, x->heads, x->dim);
    parts[4] = lin_part_full(l, n->input, x->heads, x->dim);
    conv_put_linear(l->c, 2, 1, parts, 5, 1.0, 0);
    conv_line(l->c, "softcap r2 r2 cap=%s first=%d count=%d", conv_real(l->c, x->gate_cap), at, 2 * x->heads);
    conv_line(l->c, "act r2 r2 kind=log_sigmoid first=%d count=%d", at, x->heads);
    lin_put_mlstm(l, 2, x->heads, x->key_dim, x->v_dim, x->eps);
    lin_put_head_norm(l, n->head_norm, x->heads, x->heads * x->v_dim, 0.0, x->norm_eps);
    lin_linear(l, 8, 1, lin_part(l, n->output, (int64_t)x->heads * x->v_dim, x->dim));
    conv_line(l->c, "gate r7 r7 r8 act=sigmoid");
    parts[0] = lin_part(l, n->out, x->dim, (int64_t)x->heads * x->v_dim);
    conv_put_linear(l->c, 0, 7, parts, 1, 1.0, 1);
    conv_line(l->c, "norm r1 r0 kind=rms eps=%s w=@%s", conv_real(l->c, x->norm_eps),
              lin_vector(l, n->ffn_norm, x->dim));
    parts[0] = lin_part(l, n->gate, x->ffn, x->dim);
    parts[1] = lin_part(l, n->up, x->ffn, x->dim);
    conv_put_linear(l->c, 5, 1, parts, 2, 1.0, 0);
    conv_line(l->c, "glu r6 r5 act=silu");
    parts[0] = lin_part(l, n->down, x->dim, x->ffn);
    conv_put_linear(l->c, 0, 6, parts, 1, 1.0, 1);
}

/* ---- NaLaFormer: linear attention over pictures -------------------------------------------------------- */
typedef struct lin_nala { int32_t dim, heads, rows, columns, ffn; } lin_nala;

/* mix rD rS conv_whole of columns from `first` on: depthwise, across x across                              */
static CONV_UNUSED void lin_put_picture_conv(const lin *l, const lin_nala *n, int dst, int src,
                                             const char *name,
                                             int32_t first, int32_t channels, int32_t across)
{
    const int32_t taps = across * across;
    const float *w = lin_read(l, name, (int64_t)channels * taps);
    float *t = lin_floats(l, (int64_t)channels * taps);
    for (int32_t i = 0; w && t && i < channels; i++)
        for (int32_t k = 0; k < taps; k++) t[k * channels + i] = w[i * taps + k];
    conv_put(l->c, "mix r%d r%d conv_whole w=@%s", dst, src, conv_make_rows(l->c, lin_out(l, name), t, taps,
                                                                            channels));
    conv_line(l->c, " b=@%s first=%d columns=%d across=%d",
              lin_vector(l, conv_format(l->c->env, "%s.bias", name), channels), first, n->columns, across);
}
static void lin__nala_rope(const lin *l, const lin_nala *n, int reg)
{
    const int32_t d = n->dim / n->heads, half = d / 4;
    const char *name = lin_out(l, "rope");
    for (int axis = 0; axis < 2; axis++)
        conv_line(l->c,
                  "rope r%d r%d first=%d heads=%d head_dim=%d dims=%d style=interleaved freq=@%s %s=%d",
                      reg, reg,
                  axis ? d / 2 : 0, 4 * n->heads, d, 2 * half, name, axis ? "period" : "divide", n->columns);
}
/* From rS to r10. o = phi(q) R^T R (sum phi(k) v) / (phi(q) . sum phi(k) + N 1e-6): the sum below has no
   rotation */
static CONV_UNUSED void lin_put_nala_attention(const lin *l, const lin_nala *n, int src, int prefixed)
{
    const lin own = { l->c, prefixed ? conv_format(l->c->env, "%sattn.", l->from) : l->from, l->weight,
                      l->out, 0, 0, NULL };
    const int32_t d = n->dim / n->heads, half = d / 4;
    float *freq = lin_floats(l, half), *eps = lin_floats(l, n->heads);
    for (int32_t i = 0; freq && i < half; i++) freq[i] = (float)pow(10000.0,
                                                                    half > 1 ? -(double)i / (half - 1) : 0.0);
    for (int32_t h = 0; eps && h < n->heads; h++) eps[h] = 1e-6f;
    lin_values(l, "rope", freq, half);
    lin_linear(&own, 6, src, lin_part(&own, "qkvg", 4 * (int64_t)n->dim, n->dim));
    lin_put_nala(l, 1, 2, 6, n->heads, d);
    conv_line(l->c, "mix r3 r2 pool kind=mean");
    conv_line(l->c, "mul r3 r3 r1");
    conv_line(l->c, "reduce r4 r3 kind=sum groups=%d", n->heads);
    conv_line(l->c, "affine r4 r4 b=@%s", lin_values(l, "eps", eps, n->heads));
    conv_line(l->c, "act r4 r4 kind=log");                         /* 1 / x                                 */
    conv_line(l->c, "scale r4 r4 by=-1");
    conv_line(l->c, "act r4 r4 kind=exp");
    conv_line(l->c, "cat r8 r1 r2");
    lin__nala_rope(l, n, 8);
    conv_line(l->c, "copy r5 r6 first=%d count=%d", 2 * n->dim, n->dim);
    conv_line(l->c, "cat r9 r8 r5");
    conv_line(l->c, "mix r7 r9 linear_attention_whole heads=%d key_dim=%d v_dim=%d scale=%s", n->heads,
              2 * d, d,
              conv_real(l->c, 1.0 / ((double)n->rows * n->columns)));
    conv_line(l->c, "mul r7 r7 r4");
    lin_put_picture_conv(&own, n, 5, 6, "lepe", 2 * n->dim, n->dim, 5);
    conv_line(l->c, "add r7 r7 r5");
    conv_put(l->c, "norm r7 r7 kind=layer eps=1e-5 w=@%s", lin_vector(&own, "ln", n->dim));
    conv_line(l->c, " b=@%s", lin_vector(&own, "ln.bias", n->dim));
    conv_line(l->c, "gate r7 r7 r6 act=silu first=%d", 3 * n->dim);
    lin_linear(&own, 10, 7, lin_part(&own, "out_proj", n->dim, n->dim));
}
static CONV_UNUSED void lin_put_nala_block(const lin *l, const lin_nala *n)
{
    lin_put_picture_conv(l, n, 11, 0, "cpe1", 0, n->dim, 3);
    conv_line(l->c, "add r0 r0 r11");
    conv_put(l->c, "norm r11 r0 kind=layer eps=1e-6 w=@%s", lin_vector(l, "norm1", n->dim));
    conv_line(l->c, " b=@%s", lin_vector(l, "norm1.bias", n->dim));
    lin_put_nala_attention(l, n, 11, 1);
    conv_line(l->c, "add r0 r0 r10");
    lin_put_picture_conv(l, n, 11, 0, "cpe2", 0, n->dim, 3);
    conv_line(l->c, "add r0 r0 r11");
    conv_put(l->c, "norm r11 r0 kind=layer eps=1e-6 w=@%s", lin_vector(l, "norm2", n->dim));
    conv_line(l->c, " b=@%s", lin_vector(l, "norm2.bias", n->dim));
    lin_linear(l, 12, 11, lin_part(l, "ffn.fc1", n->ffn, n->dim));
    conv_line(l->c, "act r12 r12 kind=gelu");
    lin_put_picture_conv(l, n, 13, 12, "ffn.dwconv", 0, n->ffn, 3);
    conv_line(l->c, "add r12 r12 r13");
    lin_linear(l, 10, 12, lin_part(l, "ffn.fc2", n->dim, n->ffn));
    conv_line(l->c, "add r0 r0 r10");
}

#endif /* PREP_LINEAR_H_INCLUDED */
