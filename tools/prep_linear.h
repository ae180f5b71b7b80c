/* prep_linear.h: layers of the linear-attention family as recipe lines and tensors, from the weights of a
   checkpoint; for sqm-convert (arch/linear.h) and sqm-vectors (vec_linear.h). What a checkpoint holds in another
   form than the mixers want - logarithms of decays, interleaved rows, convolution kernels - is computed here, in
   double precision.

   A lin_layer says what a layer consists of; lin_put writes it from rows in register `src` and returns the register
   that holds the result before the output projection. Registers: r2 projections, r3 after the convolution, r4, r5
   gates, r6, r9 parts put together, r7 result, r8 output gate.                                                     */
#ifndef PREP_LINEAR_H_INCLUDED
#define PREP_LINEAR_H_INCLUDED
#include <math.h>
#include "conv_decoder.h"

typedef struct lin {                  /* where a layer's tensors come from and go to                        */
    conv       *c;
    const char *from, *weight;        /* a tensor is called from NAME weight                                */
    const char *out;                  /* and becomes out NAME                                               */
} lin;

/* ---- tensors ------------------------------------------------------------------------------------------- */
static CONV_UNUSED const char *lin_in(const lin *l, const char *name)
{
    return conv_format(l->c->env, "%s%s%s", l->from, name, l->weight);
}
static CONV_UNUSED const char *lin_out(const lin *l, const char *name)
{
    return conv_format(l->c->env, "%s%s", l->out, name);
}
/* Is there a tensor by this name, with or without the ending of weights? */
static CONV_UNUSED int lin_has(const lin *l, const char *name)
{
    return conv_has(l->c, lin_in(l, name)) || conv_has(l->c, conv_format(l->c->env, "%s%s", l->from, name));
}

/* The weight [rows, cols] of a linear map, with its bias where there is one.                               */
static CONV_UNUSED conv_part lin_part(const lin *l, const char *name, int64_t rows, int64_t cols)
{
    const char *bias = conv_format(l->c->env, "%s%s.bias", l->from, name);
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

/* All values of a tensor of any shape, of which there must be n; its name may lack the ending of weights.  */
static CONV_UNUSED conv_view lin_flat(const lin *l, const char *name, int64_t n)
{
    const char *full = conv_has(l->c, lin_in(l, name)) ? lin_in(l, name)
        : conv_format(l->c->env, "%s%s", l->from, name);
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
    const conv_view v = lin_flat(l, name, n);
    float *values = (float *)conv_alloc(l->c->env, (uint64_t)n, sizeof *values);
    const conv_tensor *t = v.tensor;
    const uint8_t *data = values && t ? conv_tensor_data(&l->c->source, t) : NULL;
    int64_t step = 1;
    if (!data) return NULL;
    for (int32_t i = t->ndim - 1; i >= 0; i--) {
        if (t->stride[i] != step && t->shape[i] != 1)
            conv_fail(l->c->env, "tensor %.200s is not stored row by row", t->name);
        step *= t->shape[i];
    }
    if (t->type == CONV_GGML) conv_fail(l->c->env, "tensor %.200s is quantised where it cannot be", t->name);
    if (l->c->env->failed) return NULL;
    conv_values(values, data, n, (int64_t)conv_types[t->type].bytes, t->type);
    return values;
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
   from column 0 on. biases: NAME with .weight replaced by .bias, when it is there.                         */
static CONV_UNUSED void lin_conv(const lin *l, int dst, int src, const char *const *names, const int64_t *channels,
                                 int n, int32_t taps, const char *act)
{
    int64_t all = 0, at = 0;
    float *kernel, *bias;
    int biases = 0;
    for (int i = 0; i < n; i++) all += channels[i];
    kernel = lin_floats(l, all * taps);
    bias = lin_floats(l, all);
    for (int i = 0; kernel && bias && i < n; at += channels[i], i++) {
        const float *from = lin_read(l, names[i], channels[i] * taps);
        const char *base = strstr(names[i], ".weight");
        const char *name = conv_format(l->c->env, "%.*s.bias", (int)(base ? base - names[i] : (int)strlen(names[i])),
                                       names[i]);
        const float *b = conv_has(l->c, conv_format(l->c->env, "%s%s", l->from, name))
            ? lin_read(l, name, channels[i]) : NULL;
        for (int64_t j = 0; from && j < channels[i]; j++) {
            for (int32_t k = 0; k < taps; k++) kernel[k * all + at + j] = from[j * taps + k];
            if (b) bias[at + j] = b[j];
        }
        biases |= b != NULL;
    }
    conv_put(l->c, "mix r%d r%d conv w=@%s", dst, src,
             conv_make_rows(l->c, lin_out(l, "conv"), kernel, taps, (int32_t)all));
    if (biases) conv_put(l->c, " b=@%s", lin_values(l, "conv.bias", bias, all));
    conv_line(l->c, " act=%s", act);
}

/* ---- decays: what is in columns [first, first + n) of rR becomes factors -------------------------------- */
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
/* e^(-e^A_log softplus(x + dt_bias)): A_log of each head, dt_bias of each column; A_log [heads], n = heads * each */
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
    for (int64_t i = 0; a && b && shift && i < heads * each; i++) shift[i] = (float)((double)a[i] * (double)b[i]);
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
    if (y->qk_act && !acted) conv_line(l->c, "act r%d r%d kind=%s first=0 count=%d", reg, reg, y->qk_act, q + k);
    if (y->v_act && !acted)
        conv_line(l->c, "act r%d r%d kind=%s first=%d count=%d", reg, reg, y->v_act, q + k,
                  y->steps * y->v_heads * y->v_dim);
    if (y->map != LIN_MAP_NONE)
        conv_line(l->c, "norm r%d r%d kind=%s eps=%s first=0 count=%d groups=%d", reg, reg,
                  y->map == LIN_MAP_L2 ? "l2" : "sum", y->map == LIN_MAP_L2 ? "1e-6" : "0", q + k,
                  (q + k) / y->key_dim);
    if (y->rope) {
        if (!conv_made(l->c, y->rope->name)) conv_make_values(l->c, y->rope->name, y->rope->freq, y->rope->dims / 2);
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
    if (y->beta_scale != 1.0) conv_line(l->c, "scale r%d r%d by=%s %s", reg, reg, conv_real(l->c, y->beta_scale), cut);
}

/* q | k | v | decay | beta; returns the register. *gate_at: column of the output gate in r2, -1: not there */
static int lin__rows(const lin *l, const lin_layer *y, int src, int32_t *gate_at)
{
    const int32_t q = y->q_heads * y->key_dim, k = y->steps * y->k_heads * y->key_dim;
    const int32_t v = y->steps * y->v_heads * y->v_dim, n_beta = lin__has(&y->beta) ? y->steps * y->heads : 0;
    const int32_t n_decay = y->decay > LIN_DECAY_FIXED ? y->decay_heads * (y->decay_is_vector ? y->key_dim : 1) : 0;
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
    if (y->n_conv && lin__has(&y->gate) && !lin__has(&y->gate_inner)) { parts[n++] = y->gate; *gate_at = columns; }
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
    conv_put(l->c, "mix r%d r%d linear_attention heads=%d key_dim=%d v_dim=%d", dst, src, y->heads, y->key_dim,
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

#endif /* PREP_LINEAR_H_INCLUDED */
