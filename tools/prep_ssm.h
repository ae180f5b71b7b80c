/* prep_ssm.h: state-space blocks as recipe lines and tensors, from the weights of a checkpoint: Mamba-1, -2
   and -3, Hydra, Vim, VMamba, MEGA's EMA. Used by the mappings in arch/ssm.h and by sqm-vectors alike.

   What the library takes ready is computed here in double precision: A = -exp(A_log), decays of averages.
   A block reads its rows in register `src` and writes `dst` (adds to it when `add`); it works in r2 .. r9. */
#ifndef PREP_SSM_H_INCLUDED
#define PREP_SSM_H_INCLUDED
#include "conv_decoder.h"

typedef struct ssm_names {            /* tensors of a block; weights end in .weight, biases in .bias        */
    const char *in_proj, *conv1d, *x_proj, *dt_proj, *dt_bias, *a, *d, *norm, *out_proj;
    int         a_is_log;             /* A = -exp(a)                                                        */
} ssm_names;
static CONV_UNUSED const ssm_names ssm_official = {
    "in_proj", "conv1d", "x_proj", "dt_proj", "dt_bias", "A_log", "D", "norm", "out_proj", 1
};
static CONV_UNUSED const ssm_names ssm_vim_backward = {
    "in_proj", "conv1d_b", "x_proj_b", "dt_proj_b", "dt_bias", "A_b_log", "D_b", "norm", "out_proj", 1
};
static CONV_UNUSED const ssm_names ssm_llamacpp = {
    "ssm_in", "ssm_conv1d", "ssm_x", "ssm_dt", "ssm_dt.bias", "ssm_a", "ssm_d", "ssm_norm", "ssm_out", 0
};

typedef struct ssm_block {
    const ssm_names *names;
    const char *in, *out;             /* what stands before its tensors' names: checkpoint, output          */
    int32_t     dim;                  /* columns of src and dst                                             */
    int         src, dst, add;
    double      scale;                /* of the result                                                      */
} ssm_block;

static CONV_UNUSED const char *ssm_in(conv *c, const ssm_block *b, const char *name)
{
    return conv_format(c->env, "%s%s", b->in, name);
}
static CONV_UNUSED const char *ssm_out(conv *c, const ssm_block *b, const char *name)
{
    return conv_format(c->env, "%s%s", b->out, name);
}
static CONV_UNUSED const char *ssm_weight(conv *c, const ssm_block *b, const char *name)
{
    return conv_format(c->env, "%s%s.weight", b->in, name);
}

/* A weight and, where the checkpoint has one, its bias.                                                    */
static CONV_UNUSED conv_part ssm_part(conv *c, const ssm_block *b, const char *name, int64_t rows,
                                      int64_t cols)
{
    conv_decoder d;
    memset(&d, 0, sizeof d);
    d.weight_suffix = ".weight";
    return conv_part_of(c, &d, ssm_out(c, b, name), ssm_in(c, b, name), rows, cols, CONV_BIAS_IF_PRESENT);
}

static CONV_UNUSED void ssm_put_linear(conv *c, const ssm_block *b, int dst, int src, const char *name,
                                       int64_t rows, int64_t cols, int add)
{
    const conv_part p = ssm_part(c, b, name, rows, cols);
    conv_put_linear(c, dst, src, &p, 1, 1.0, add);
}
/* The last map of a block                                                                                  */
static CONV_UNUSED void ssm_put_out(conv *c, const ssm_block *b, int src, const char *name, int64_t cols)
{
    const conv_part p = ssm_part(c, b, name, b->dim, cols);
    conv_put_linear(c, b->dst, src, &p, 1, b->scale, b->add);
}

/* ---- small tensors ------------------------------------------------------------------------------------- */
/* n values that a mapping computes; a single 0 after an error, so that callers need no check.              */
static CONV_UNUSED float *ssm_values(conv *c, int64_t n)
{
    static float nothing;
    float *values = c->env->failed ? NULL : (float *)conv_alloc(c->env, (uint64_t)n, sizeof(float));
    return values ? values : &nothing;
}

/* dst [cols, rows] = src [rows, cols]: taps of a convolution stand before its channels.                    */
static CONV_UNUSED float *ssm_transposed(conv *c, const float *src, int32_t rows, int32_t cols, int reverse)
{
    float *dst = ssm_values(c, (int64_t)rows * cols);
    if (!src || c->env->failed) return dst;
    for (int32_t i = 0; i < rows; i++)
        for (int32_t k = 0; k < cols; k++)
            dst[(int64_t)(reverse ? cols - 1 - k : k) * rows + i] = src[(int64_t)i * cols + k];
    return dst;
}

/* A from the checkpoint's tensor, which may hold A_log                                                     */
static CONV_UNUSED float *ssm_rates(conv *c, const float *src, int64_t n, int is_log)
{
    float *a = ssm_values(c, n);
    for (int64_t i = 0; src && !c->env->failed && i < n; i++)
        a[i] = is_log ? (float)-exp((double)src[i]) : src[i];
    return a;
}

/* n values, each `times` times                                                                             */
static CONV_UNUSED float *ssm_repeated(conv *c, const float *src, int32_t n, int32_t times)
{
    float *dst = ssm_values(c, (int64_t)n * times);
    for (int64_t i = 0; src && !c->env->failed && i < (int64_t)n * times; i++) dst[i] = src[i / times];
    return dst;
}

/* A vector of the checkpoint as it is; its name in the recipe.                                             */
static CONV_UNUSED const char *ssm_vector(conv *c, const ssm_block *b, const char *name, int32_t n)
{
    return conv_make(c, ssm_out(c, b, name), CONV_VECTOR, conv_flat(conv_take(c, ssm_in(c, b, name), n, 0)));
}

/* ---- parts of blocks ----------------------------------------------------------------------------------- */
typedef struct ssm_conv {
    const char *name, *act;           /* name.weight [channels, 1, taps], name.bias or none                 */
    int32_t     channels, taps, first;
    int32_t     rest;                 /* the columns behind pass through                                    */
    int32_t     whole, backward;      /* whole: centred; backward: causal in reversed time                  */
} ssm_conv;

static CONV_UNUSED void ssm_put_conv(conv *c, const ssm_block *b, int dst, int src, const ssm_conv *k)
{
    const char *weight = ssm_out(c, b, k->name);
    const char *bias = ssm_in(c, b, conv_format(c->env, "%s.bias", k->name));
    const float *w = conv_read(c, ssm_weight(c, b, k->name), (int64_t)k->channels * k->taps);
    conv_make_rows(c, weight, ssm_transposed(c, w, k->channels, k->taps, k->backward), k->taps, k->channels);
    conv_put(c, "mix r%d r%d conv%s w=@%s", dst, src, k->whole || k->backward ? "_whole" : "", weight);
    if (conv_has(c, bias))
        conv_put(c, " b=@%s", conv_make(c, conv_format(c->env, "%s.bias", weight), CONV_VECTOR,
                                        conv_take(c, bias, k->channels, 0)));
    if (k->backward) conv_put(c, " future=%d", k->taps - 1);
    if (k->first) conv_put(c, " first=%d", k->first);
    if (k->rest) conv_put(c, " rest=1");
    if (k->act) conv_put(c, " act=%s", k->act);
    conv_line(c, "%s", "");
}

/* Limits of the step size, where they are not those of every softplus.                                     */
static CONV_UNUSED void ssm_put_limits(conv *c, double low, double high)
{
    conv_put_real(c, "dt_min", low, 0.0);
    if (high < 1e30) conv_put_real(c, "dt_max", high, 0.0);
}

/* ---- Mamba-1 ------------------------------------------------------------------------------------------- */
typedef struct ssm_selective {        /* x_proj, dt_proj and the scan                                       */
    int32_t     inner, state, rank;
    int32_t     x_at, wide;           /* of wide columns those from x_at on; wide 0: all of inner           */
    conv_view   x_proj, dt_proj;      /* [rank + 2 state, inner], [inner, rank]                             */
    const char *out;                  /* before the names of its output tensors                             */
    const float *dt_bias, *a, *d;
    const char *norms[3];             /* checkpoint's weights of the norms of dt, B and C                   */
    double      norm_eps;             /* > 0: there are such norms; norms NULL: without weights             */
    const char *mixer;                /* "scan", "scan_whole order=..."                                     */
} ssm_selective;

static CONV_UNUSED void ssm_put_selective_norms(conv *c, const ssm_selective *s)
{
    static const char *const outs[] = { "dt_norm", "b_norm", "c_norm" };
    for (int i = 0; i < 3; i++) {
        const int32_t first = i ? s->rank + (i - 1) * s->state : 0, count = i ? s->state : s->rank;
        conv_put(c, "norm r4 r4 kind=rms first=%d count=%d eps=%s", first, count, conv_real(c, s->norm_eps));
        if (s->norms[i])
            conv_put(c, " w=@%s", conv_make(c, conv_format(c->env, "%s%s", s->out, outs[i]), CONV_VECTOR,
                                            conv_take(c, s->norms[i], count, 0)));
        conv_line(c, "%s", "");
    }
}

/* r3 [inner] -> r8 [inner]; r4 dt|B|C, r5 dt, r6 x|dt, r7 x|dt|(dt)|B|C                                    */
static CONV_UNUSED void ssm_put_selective(conv *c, const ssm_selective *s)
{
    const char *out[5];
    static const char *const names[] = { "x_proj", "dt_proj", "A", "D", "dt_bias" };
    const int32_t dt_at = s->wide ? s->wide : s->inner, b_at = dt_at + s->inner + s->rank;
    for (int i = 0; i < 5; i++) out[i] = conv_format(c->env, "%s%s", s->out, names[i]);
    conv_put(c, "linear r4 r3 w=@%s", conv_make(c, out[0], CONV_MATRIX, s->x_proj));
    if (s->wide) conv_put(c, " first=%d", s->x_at);
    conv_line(c, "%s", "");
    if (s->norm_eps > 0.0) ssm_put_selective_norms(c, s);
    conv_line(c, "linear r5 r4 w=@%s first=0", conv_make(c, out[1], CONV_MATRIX, s->dt_proj));
    conv_line(c, "cat r6 r3 r5\ncat r7 r6 r4");
    conv_make_panels(c, out[2], s->a, s->inner, s->state);
    conv_make_values(c, out[3], s->d, s->inner);
    conv_make_values(c, out[4], s->dt_bias, s->inner);
    conv_put(c, "mix r8 r7 %s a=@%s d=@%s dt_bias=@%s dt_at=%d b_at=%d c_at=%d", s->mixer, out[2], out[3],
             out[4], dt_at, b_at, b_at + s->state);
    if (s->x_at) conv_put(c, " x_at=%d", s->x_at);
    conv_line(c, "%s", "");
}

typedef struct ssm_mamba1 {
    int32_t     inner, state, rank, taps;
    const char *act;                  /* of the convolution; the gate is silu                               */
    const char *norms[3];             /* see ssm_selective                                                  */
    double      norm_eps;
} ssm_mamba1;

/* r2 [x | ...] -> r8: convolution and scan of one direction                                               */
static CONV_UNUSED void ssm_put_mamba1_direction(conv *c, const ssm_block *b, const ssm_mamba1 *m,
                                                 int backward)
{
    const ssm_names *names = b->names;
    ssm_selective s;
    ssm_conv k;
    memset(&k, 0, sizeof k);
    memset(&s, 0, sizeof s);
    k.name = names->conv1d;
    k.act = m->act;
    k.channels = m->inner;
    k.taps = m->taps;
    k.backward = backward;
    ssm_put_conv(c, b, 3, 2, &k);
    s.inner = m->inner;
    s.state = m->state;
    s.rank = m->rank;
    s.out = ssm_out(c, b, backward ? "back." : "");
    s.x_proj = conv_take(c, ssm_weight(c, b, names->x_proj), m->rank + 2 * (int64_t)m->state, m->inner);
    s.dt_proj = conv_take(c, ssm_weight(c, b, names->dt_proj), m->inner, m->rank);
    s.dt_bias = conv_read(c, ssm_in(c, b, conv_format(c->env, "%s.bias", names->dt_proj)), m->inner);
    s.a = ssm_rates(c, conv_read(c, ssm_in(c, b, names->a), (int64_t)m->inner * m->state),
                    (int64_t)m->inner * m->state, names->a_is_log);
    s.d = conv_read(c, ssm_in(c, b, names->d), m->inner);
    memcpy(s.norms, m->norms, sizeof s.norms);
    s.norm_eps = m->norm_eps;
    s.mixer = backward ? "scan_whole order=backward" : "scan";
    ssm_put_selective(c, &s);
}

/* in_proj rows [x | z]                                                                                     */
static CONV_UNUSED void ssm_put_mamba1(conv *c, const ssm_block *b, const ssm_mamba1 *m)
{
    ssm_put_linear(c, b, 2, b->src, b->names->in_proj, 2 * (int64_t)m->inner, b->dim, 0);
    ssm_put_mamba1_direction(c, b, m, 0);
    conv_line(c, "gate r8 r8 r2 act=silu first=%d", m->inner);
    ssm_put_out(c, b, 8, b->names->out_proj, m->inner);
}

/* Vim: a second direction over the same in_proj; the gate is the same for both.                            */
static CONV_UNUSED void ssm_put_vim(conv *c, const ssm_block *b, const ssm_mamba1 *m, int halve)
{
    ssm_block back = *b;
    back.names = &ssm_vim_backward;
    ssm_put_linear(c, b, 2, b->src, "in_proj", 2 * (int64_t)m->inner, b->dim, 0);
    ssm_put_mamba1_direction(c, b, m, 0);
    conv_line(c, "copy r9 r8");
    ssm_put_mamba1_direction(c, &back, m, 1);
    conv_line(c, "add r8 r8 r9\ngate r8 r8 r2 act=silu first=%d", m->inner);
    if (halve) conv_line(c, "scale r8 r8 by=0.5");
    ssm_put_out(c, b, 8, "out_proj", m->inner);
    if (conv_has(c, ssm_in(c, b, "gamma")))
        conv_line(c, "affine r%d r%d w=@%s", b->dst, b->dst, ssm_vector(c, b, "gamma", b->dim));
}

/* ---- VMamba: four scans over a picture of `columns` columns -------------------------------------------- */
typedef struct ssm_ss2d { int32_t inner, state, rank, columns, gated; } ssm_ss2d;

/* Row-major, column-major and both reversed: the orders of the four scans                                  */
static const char *const ssm_cross_orders[4] = { "forward", "down", "backward", "up" };

static CONV_UNUSED void ssm_put_ss2d_scan(conv *c, const ssm_block *b, const ssm_ss2d *m, int k)
{
    const int64_t rows = m->rank + 2 * (int64_t)m->state, inner = m->inner, at = k * inner;
    ssm_selective s;
    memset(&s, 0, sizeof s);
    s.inner = m->inner;
    s.state = m->state;
    s.rank = m->rank;
    s.out = conv_format(c->env, "%sscan%d.", b->out, k);
    s.x_proj = conv_rows(c, conv_take(c, ssm_in(c, b, "x_proj_weight"), 4 * rows, inner), k * rows, rows,
                         rows, rows);
    s.dt_proj = conv_rows(c, conv_take(c, ssm_in(c, b, "dt_projs_weight"), 4 * inner, m->rank), at, inner,
                          inner, inner);
    s.dt_bias = conv_read(c, ssm_in(c, b, "dt_projs_bias"), 4 * inner);
    s.a = ssm_rates(c, conv_read(c, ssm_in(c, b, "A_logs"), 4 * inner * m->state), 4 * inner * m->state, 1);
    s.d = conv_read(c, ssm_in(c, b, "Ds"), 4 * inner);
    if (c->env->failed) return;
    s.dt_bias += at;
    s.a += at * m->state;
    s.d += at;
    s.mixer = conv_format(c->env, "scan_whole order=%s columns=%d", ssm_cross_orders[k], m->columns);
    ssm_put_selective(c, &s);
    conv_line(c, k ? "add r9 r9 r8" : "copy r9 r8");
}
static CONV_UNUSED void ssm_put_ss2d(conv *c, const ssm_block *b, const ssm_ss2d *m)
{
    const char *taps = ssm_out(c, b, "conv2d");
    const float *w = conv_read(c, ssm_weight(c, b, "conv2d"), (int64_t)m->inner * 9);
    ssm_put_linear(c, b, 2, b->src, "in_proj", (m->gated ? 2 : 1) * (int64_t)m->inner, b->dim, 0);
    conv_make_rows(c, taps, ssm_transposed(c, w, m->inner, 9, 0), 9, m->inner);
    conv_put(c, "mix r3 r2 conv_whole w=@%s across=3 columns=%d act=silu", taps, m->columns);
    if (conv_has(c, ssm_in(c, b, "conv2d.bias")))
        conv_put(c, " b=@%s", ssm_vector(c, b, "conv2d.bias", m->inner));
    conv_line(c, "%s", "");
    for (int k = 0; k < 4; k++) ssm_put_ss2d_scan(c, b, m, k);
    conv_line(c, "norm r9 r9 kind=layer w=@%s b=@%s eps=1e-05", ssm_vector(c, b, "out_norm.weight", m->inner),
              ssm_vector(c, b, "out_norm.bias", m->inner));
    if (m->gated) conv_line(c, "gate r9 r9 r2 act=silu first=%d", m->inner);
    ssm_put_out(c, b, 9, "out_proj", m->inner);
}

/* ---- Mamba-2 ------------------------------------------------------------------------------------------- */
typedef struct ssm_mamba2 {
    int32_t     inner, heads, head_dim, groups, state, taps;
    int32_t     mlp;                  /* channels of the gated part beside the states                       */
    int32_t     norm_groups;          /* 0: no norm, only the gate                                          */
    int32_t     norm_before_gate, d_per_channel;
    double      norm_eps, dt_low, dt_high;
    const char *act;                  /* of the convolution; the gate is silu                               */
    const float *multipliers;         /* of the columns that in_proj makes, or NULL                         */
} ssm_mamba2;

static CONV_UNUSED int64_t ssm_mamba2_rows(const ssm_mamba2 *m)          /* of in_proj                      */
{
    return 2 * (int64_t)m->mlp + 2 * (int64_t)m->inner + 2 * (int64_t)m->groups * m->state + m->heads;
}

/* Products of sizes are computed in int32_t below: widths past 2^28 are refused here.                     */
static CONV_UNUSED int ssm_fits(conv *c, int64_t columns, int32_t groups, int32_t state)
{
    if (!c->env->failed && ((int64_t)groups * state > 1 << 28 || columns > 1 << 28))
        conv_fail(c->env, "config.json: a block of %lld columns is too wide", (long long)columns);
    return !c->env->failed;
}

/* r2 [z0 | x0 | z | x B C | dt] -> r4: convolution and states                                              */
static CONV_UNUSED void ssm_put_mamba2_states(conv *c, const ssm_block *b, const ssm_mamba2 *m)
{
    const ssm_names *names = b->names;
    const char *a = ssm_out(c, b, "A"), *d = ssm_out(c, b, "D"), *dt_bias = ssm_out(c, b, "dt_bias");
    const int32_t n_d = m->d_per_channel ? m->inner : m->heads;
    ssm_conv k;
    memset(&k, 0, sizeof k);
    k.name = names->conv1d;
    k.act = m->act;
    k.channels = m->inner + 2 * m->groups * m->state;
    k.taps = m->taps;
    k.first = 2 * m->mlp + m->inner;
    k.rest = 1;
    ssm_put_conv(c, b, 3, 2, &k);
    conv_make_values(c, a, ssm_rates(c, conv_read(c, ssm_in(c, b, names->a), m->heads), m->heads,
                                     names->a_is_log), m->heads);
    conv_make_values(c, d, ssm_repeated(c, conv_read(c, ssm_in(c, b, names->d), n_d), n_d, m->inner / n_d),
                     m->inner);
    conv_make(c, dt_bias, CONV_VECTOR, conv_take(c, ssm_in(c, b, names->dt_bias), m->heads, 0));
    conv_put(c, "mix r4 r3 ssd heads=%d head_dim=%d state=%d groups=%d a=@%s d=@%s dt_bias=@%s", m->heads,
             m->head_dim, m->state, m->groups, a, d, dt_bias);
    ssm_put_limits(c, m->dt_low, m->dt_high);
    conv_line(c, "%s", "");
}
static CONV_UNUSED void ssm_put_mamba2_norm(conv *c, const ssm_block *b, const ssm_mamba2 *m)
{
    const int32_t first = 2 * m->mlp;
    const float *w;
    if (!m->norm_before_gate || !m->norm_groups) conv_line(c, "gate r4 r4 r2 act=silu first=%d", first);
    if (!m->norm_groups) return;
    w = conv_read(c, ssm_weight(c, b, b->names->norm), m->inner);
    conv_line(c, "norm r4 r4 kind=rms w=@%s groups=%d eps=%s",
              conv_make_values(c, ssm_out(c, b, "gated_norm"), w, m->inner), m->norm_groups,
              conv_real(c, m->norm_eps));
    if (m->norm_before_gate) conv_line(c, "gate r4 r4 r2 act=silu first=%d", first);
}
static CONV_UNUSED void ssm_put_mamba2(conv *c, const ssm_block *b, const ssm_mamba2 *m)
{
    if (!ssm_fits(c, ssm_mamba2_rows(m), m->groups, m->state)) return;
    ssm_put_linear(c, b, 2, b->src, b->names->in_proj, ssm_mamba2_rows(m), b->dim, 0);
    if (m->multipliers)
        conv_line(c, "affine r2 r2 w=@%s", conv_make_values(c, ssm_out(c, b, "multipliers"), m->multipliers,
                                                            (int32_t)ssm_mamba2_rows(m)));
    ssm_put_mamba2_states(c, b, m);
    ssm_put_mamba2_norm(c, b, m);
    if (m->mlp)
        conv_line(c, "copy r5 r2 first=%d count=%d\ngate r5 r5 r2 act=silu\ncat r6 r5 r4", m->mlp, m->mlp);
    ssm_put_out(c, b, m->mlp ? 6 : 4, b->names->out_proj, m->mlp + (int64_t)m->inner);
}

/* ---- Mamba-3 ------------------------------------------------------------------------------------------- */
typedef struct ssm_mamba3 {
    int32_t     inner, heads, head_dim, groups, state, angles, rank, mimo, out_norm;
    double      a_floor;
    const char *a_act;
} ssm_mamba3;

/* [heads, rank, head_dim] -> [rank, heads x head_dim]                                                      */
static CONV_UNUSED const char *ssm_put_ranks(conv *c, const ssm_block *b, const ssm_mamba3 *m,
                                             const char *name)
{
    const float *src = conv_read(c, ssm_in(c, b, name), (int64_t)m->rank * m->inner);
    float *dst = ssm_values(c, (int64_t)m->rank * m->inner);
    for (int32_t i = 0; src && !c->env->failed && i < m->rank * m->inner; i++)
        dst[i] = src[(i % m->inner / m->head_dim * m->rank + i / m->inner) * m->head_dim + i % m->head_dim];
    return conv_make_values(c, ssm_out(c, b, name), dst, m->rank * m->inner);
}

/* r2 [z x B C dt A trap angle] -> r3 [rank][inner]                                                         */
static CONV_UNUSED void ssm_put_mamba3_states(conv *c, const ssm_block *b, const ssm_mamba3 *m)
{
    const int32_t keys = m->rank * m->groups * m->state, b_at = 2 * m->inner, dt_at = b_at + 2 * keys;
    const int32_t n = m->heads * m->rank * m->state;
    const char *d = ssm_out(c, b, "D");
    conv_line(c, "norm r2 r2 kind=rms first=%d count=%d groups=%d w=@%s eps=1e-05", b_at, keys,
              m->rank * m->groups, ssm_vector(c, b, "B_norm.weight", m->state));
    conv_line(c, "norm r2 r2 kind=rms first=%d count=%d groups=%d w=@%s eps=1e-05", b_at + keys, keys,
              m->rank * m->groups, ssm_vector(c, b, "C_norm.weight", m->state));
    conv_make_values(c, ssm_out(c, b, "B_bias"), conv_read(c, ssm_in(c, b, "B_bias"), n), n);
    conv_make_values(c, ssm_out(c, b, "C_bias"), conv_read(c, ssm_in(c, b, "C_bias"), n), n);
    conv_make_values(c, d, ssm_repeated(c, conv_read(c, ssm_in(c, b, "D"), m->heads), m->heads, m->head_dim),
                     m->inner);
    conv_put(c, "mix r3 r2 trapezoid heads=%d head_dim=%d state=%d groups=%d rank=%d angles=%d", m->heads,
             m->head_dim, m->state, m->groups, m->rank, m->angles);
    conv_put(c, " style=%s a_act=%s a_floor=%s", m->mimo ? "half" : "interleaved", m->a_act,
             conv_real(c, m->a_floor));
    conv_put(c, " dt_bias=@%s d=@%s b_bias=@%s c_bias=@%s", ssm_vector(c, b, "dt_bias", m->heads), d,
             ssm_out(c, b, "B_bias"), ssm_out(c, b, "C_bias"));
    if (m->mimo) {
        const int32_t wide = m->rank * m->inner;
        const float *mix = conv_read(c, ssm_in(c, b, "mimo_x"), wide);
        conv_put(c, " mix=@%s", conv_make_values(c, ssm_out(c, b, "mimo_x"), mix, wide));
    }
    conv_line(c, " x_at=%d b_at=%d c_at=%d dt_at=%d", m->inner, b_at, b_at + keys, dt_at);
}

/* The gate z for every rank: r4 = [z ... z] * mimo_z                                                       */
static CONV_UNUSED void ssm_put_mamba3_gates(conv *c, const ssm_block *b, const ssm_mamba3 *m)
{
    int now = 4, next = 5;
    conv_line(c, "copy r4 r2 count=%d", m->inner);
    conv_line(c, "copy r6 r4");
    for (int32_t i = 1; i < m->rank; i++) {
        const int other = now;
        conv_line(c, "cat r%d r%d r6", next, now);
        now = next;
        next = other;
    }
    if (m->mimo) conv_line(c, "affine r4 r%d w=@%s", now, ssm_put_ranks(c, b, m, "mimo_z"));
}
static CONV_UNUSED void ssm_put_mamba3(conv *c, const ssm_block *b, const ssm_mamba3 *m)
{
    int64_t keys;
    if (!ssm_fits(c, (int64_t)m->heads * m->state, m->groups, m->state)) return;
    keys = (int64_t)m->groups * m->state * m->rank;
    if (!ssm_fits(c, keys + (int64_t)m->heads * m->state * m->rank, 1, m->state) ||
        !ssm_fits(c, (int64_t)m->rank * m->inner, 1, m->state)) return;
    ssm_put_linear(c, b, 2, b->src, "in_proj", 2 * (int64_t)m->inner + 2 * keys + 3 * (int64_t)m->heads +
                   m->angles, b->dim, 0);
    ssm_put_mamba3_states(c, b, m);
    if (m->out_norm) {
        const float *w = conv_read(c, ssm_weight(c, b, "norm"), m->inner);
        float *all = ssm_values(c, (int64_t)m->rank * m->inner);
        for (int32_t i = 0; w && !c->env->failed && i < m->rank * m->inner; i++) all[i] = w[i % m->inner];
        conv_line(c, "norm r3 r3 kind=rms groups=%d w=@%s eps=1e-05", m->rank * m->heads,
                  conv_make_values(c, ssm_out(c, b, "norm"), all, m->rank * m->inner));
    }
    if (m->mimo) ssm_put_mamba3_gates(c, b, m);
    conv_line(c, "gate r3 r3 r%d act=silu", m->mimo ? 4 : 2);
    if (m->mimo) conv_line(c, "affine r3 r3 w=@%s", ssm_put_ranks(c, b, m, "mimo_o"));
    for (int32_t i = 0; m->mimo && i < m->rank; i++) {
        conv_line(c, "copy r%d r3 first=%d count=%d", i ? 8 : 7, i * m->inner, m->inner);
        if (i) conv_line(c, "add r7 r7 r8");
    }
    ssm_put_out(c, b, m->mimo ? 7 : 3, "out_proj", m->inner);
}

/* ---- Hydra --------------------------------------------------------------------------------------------- */
typedef struct ssm_hydra {
    int32_t inner, heads, head_dim, groups, state, taps;
    double  dt_low, dt_high;
} ssm_hydra;

/* r3 [x Bf Cf Bb Cb dt_f dt_b] -> r4 + r5: two shifted passes                                              */
static CONV_UNUSED void ssm_put_hydra_pass(conv *c, const ssm_block *b, const ssm_hydra *m, int backward)
{
    const int32_t keys = m->groups * m->state, b_at = m->inner + (backward ? 2 * keys : 0);
    conv_put(c, "mix r%d r3 ssd_whole heads=%d head_dim=%d state=%d groups=%d a=@%s dt_bias=@%s shift=1",
             backward ? 5 : 4, m->heads, m->head_dim, m->state, m->groups, ssm_out(c, b, "A"),
             ssm_out(c, b, "dt_bias"));
    if (conv_has(c, ssm_in(c, b, "init_states"))) conv_put(c, " init=@%s", ssm_out(c, b, "init"));
    ssm_put_limits(c, m->dt_low, m->dt_high);
    conv_line(c, " b_at=%d c_at=%d dt_at=%d order=%s", b_at, b_at + keys,
              m->inner + 4 * keys + (backward ? m->heads : 0), backward ? "backward" : "forward");
}
static CONV_UNUSED void ssm_put_hydra(conv *c, const ssm_block *b, const ssm_hydra *m)
{
    const int32_t keys = m->groups * m->state;
    const char *init = ssm_in(c, b, "init_states");
    ssm_conv k;
    memset(&k, 0, sizeof k);
    k.name = "conv1d";
    k.act = "silu";
    k.channels = m->inner + 4 * keys;
    k.taps = m->taps;
    k.first = m->inner;
    k.rest = k.whole = 1;
    ssm_put_linear(c, b, 2, b->src, "in_proj", 2 * (int64_t)m->inner + 4 * (int64_t)keys +
                   2 * (int64_t)m->heads, b->dim, 0);
    ssm_put_conv(c, b, 3, 2, &k);
    conv_make_values(c, ssm_out(c, b, "A"),
                     ssm_rates(c, conv_read(c, ssm_in(c, b, "A_log"), m->heads), m->heads, 1), m->heads);
    ssm_vector(c, b, "dt_bias", m->heads);
    if (conv_has(c, init))
        conv_make_rows(c, ssm_out(c, b, "init"), conv_read(c, init, (int64_t)m->inner * m->state), m->inner,
                       m->state);
    ssm_put_hydra_pass(c, b, m, 0);
    ssm_put_hydra_pass(c, b, m, 1);
    conv_line(c, "add r4 r4 r5\ncopy r5 r3 count=%d", m->inner);           /* diagonal: x (fc_D x + D)      */
    conv_line(c, "linear r6 r5 w=@%s b=@%s",
              conv_make(c, ssm_out(c, b, "fc_D"), CONV_MATRIX,
                        conv_take(c, ssm_weight(c, b, "fc_D"), m->heads, m->inner)),
              ssm_vector(c, b, "D", m->heads));
    conv_line(c, "mul r5 r5 r6\nadd r4 r4 r5");
    conv_line(c, "norm r4 r4 kind=rms w=@%s eps=1e-05\ngate r4 r4 r2 act=silu",
              ssm_vector(c, b, "norm.weight", m->inner));
    ssm_put_out(c, b, 4, "out_proj", m->inner);
}

/* ---- MEGA: damped exponential moving average ----------------------------------------------------------- */
static CONV_UNUSED double ssm_sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

/* One direction: rows `first` .. first + dim of the parameters. r1 -> dst                                  */
static CONV_UNUSED void ssm_put_ema(conv *c, const ssm_block *b, int32_t states, int32_t rows, int32_t first,
                                    int dst)
{
    const int64_t n = (int64_t)b->dim * states, at = (int64_t)first * states, all = (int64_t)rows * states;
    const float *delta = conv_read(c, ssm_in(c, b, "delta"), all);
    const float *alpha = conv_read(c, ssm_in(c, b, "alpha"), all);
    const float *beta = conv_read(c, ssm_in(c, b, "beta"), all);
    const float *gamma = conv_read(c, ssm_in(c, b, "gamma"), all);
    float *decay = ssm_values(c, n), *in = ssm_values(c, n), *out = ssm_values(c, n);
    const char *names[3];
    if (c->env->failed) return;
    for (int64_t i = 0; i < n; i++) {
        const double p = ssm_sigmoid((double)delta[at + i]);
        decay[i] = (float)-(p * ssm_sigmoid((double)alpha[at + i]));       /* q - 1                         */
        in[i] = (float)(p * (double)beta[at + i]);
        out[i] = (float)((double)gamma[at + i] * sqrt(1.0 / states));
    }
    names[0] = conv_make_panels(c, conv_format(c->env, "%sdecay%d", b->out, first), decay, b->dim, states);
    names[1] = conv_make_panels(c, conv_format(c->env, "%sin%d", b->out, first), in, b->dim, states);
    names[2] = conv_make_panels(c, conv_format(c->env, "%sout%d", b->out, first), out, b->dim, states);
    conv_put(c, "mix r%d r%d scan%s decay=@%s b=@%s c=@%s", dst, b->src,
             first ? "_whole order=backward" : "", names[0], names[1], names[2]);
    if (!first) conv_put(c, " d=@%s", ssm_vector(c, b, "omega", b->dim));
    conv_line(c, "%s", "");
}
static CONV_UNUSED void ssm_put_mega_ema(conv *c, const ssm_block *b, int32_t states, int bidirectional)
{
    const int32_t rows = bidirectional ? 2 * b->dim : b->dim;
    ssm_put_ema(c, b, states, rows, 0, b->dst);
    if (bidirectional) {
        ssm_put_ema(c, b, states, rows, b->dim, 3);
        conv_line(c, "add r%d r%d r3", b->dst, b->dst);
    }
    conv_line(c, "act r%d r%d kind=silu", b->dst, b->dst);
}

#endif /* PREP_SSM_H_INCLUDED */
