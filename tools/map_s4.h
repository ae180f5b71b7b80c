/* map_s4.h: linear state spaces, long convolutions and Legendre memories as recipe lines and tensors, from
   the weights of a checkpoint: S4, S4D, DSS, GSS, LRU, S5, Liquid-S4, S4ND, H3, Hyena, LMU, LMUFormer.
   Used by mappings of whole models and by sqm-vectors alike. The mathematics is in prep_s4.h.

   Blocks as in prep_ssm.h: rows in register src, result in dst (added when b->add); r2 .. r9 are theirs.
   After the first error functions do nothing, so pointers are looked at only while c->env->failed is 0. */
#ifndef MAP_S4_H_INCLUDED
#define MAP_S4_H_INCLUDED
#include "prep_ssm.h"
#include "prep_s4.h"

/* How a linear system runs. AUTO: diagonal where float32 holds it, else diagonal plus rank one; TAPS: as a
   long convolution with the first `length` taps. */
typedef enum s4_form { S4_AUTO, S4_DIAGONAL, S4_RANK1, S4_TAPS } s4_form;

/* ---- weights ------------------------------------------------------------------------------------------- */
/* n values of the checkpoint in double; NULL after an error */
static double *s4_read(conv *c, const ssm_block *b, const char *name, int64_t n)
{
    const float *from = conv_read(c, ssm_in(c, b, name), n);
    double *to = from ? prep_doubles(c->env, n) : NULL;
    for (int64_t i = 0; to && i < n; i++) to[i] = (double)from[i];
    return to;
}
/* n complex numbers of a tensor [.., 2] */
static prep_complex *s4_read_pairs(conv *c, const ssm_block *b, const char *name, int64_t n)
{
    const double *from = s4_read(c, b, name, 2 * n);
    prep_complex *to = from ? prep_complexes(c->env, n) : NULL;
    for (int64_t i = 0; to && i < n; i++) to[i] = prep_c(from[2 * i], from[2 * i + 1]);
    return to;
}
/* n complex numbers of two tensors */
static prep_complex *s4_read_parts(conv *c, const ssm_block *b, const char *re, const char *im, int64_t n)
{
    const double *r = s4_read(c, b, re, n), *i = s4_read(c, b, im, n);
    prep_complex *to = r && i ? prep_complexes(c->env, n) : NULL;
    for (int64_t k = 0; to && k < n; k++) to[k] = prep_c(r[k], i[k]);
    return to;
}
static float *s4_floats(conv *c, const double *from, int64_t n)
{
    float *to = ssm_values(c, n);
    for (int64_t i = 0; from && !c->env->failed && i < n; i++) to[i] = (float)from[i];
    return to;
}
/* [channels][states] -> [channels, 2 states]; low: what rounding took */
static float *s4_pairs(conv *c, const prep_complex *from, int64_t n, int low)
{
    float *to = ssm_values(c, 2 * n);
    for (int64_t i = 0; from && !c->env->failed && i < 2 * n; i++) {
        const double v = i % 2 ? from[i / 2].im : from[i / 2].re;
        to[i] = low ? (float)(v - (double)(float)v) : (float)v;
    }
    return to;
}
static const char *s4_panels(conv *c, const ssm_block *b, const char *name, const double *values,
                             int32_t rows,
                             int32_t cols)
{
    return conv_make_panels(c, ssm_out(c, b, name), s4_floats(c, values, (int64_t)rows * cols), rows, cols);
}
/* ones [n, 1], made once: spreads a column over n */
static const char *s4_ones(conv *c, int32_t n)
{
    const char *name = conv_format(c->env, "ones.%d", n);
    float *ones;
    if (conv_made(c, name)) return name;
    ones = ssm_values(c, n);
    for (int32_t i = 0; !c->env->failed && i < n; i++) ones[i] = 1.0f;
    return conv_make_panels(c, name, ones, n, 1);
}
/* taps (1, 0) of n channels: a convolution with them gives the row before */
static const char *s4_late(conv *c, int32_t n)
{
    const char *name = conv_format(c->env, "late.%d", n);
    float *taps;
    if (conv_made(c, name)) return name;
    taps = ssm_values(c, 2 * (int64_t)n);
    for (int32_t i = 0; !c->env->failed && i < 2 * n; i++) taps[i] = i < n ? 1.0f : 0.0f;
    return conv_make_rows(c, name, taps, 2, n);
}

/* ---- mixers -------------------------------------------------------------------------------------------- */
static void s4_put_lti(conv *c, const ssm_block *b, int dst, int src, const char *name, const prep_lti *l)
{
    const prep_complex *const values[] = { l->da, l->da, l->c, l->b, l->p, l->q };
    static const char *const keys[] = { "da", "da_low", "c", "b", "p", "q" };
    const int64_t n = (int64_t)l->channels * l->states;
    if (c->env->failed) return;
    conv_put(c, "mix r%d r%d lti", dst, src);
    for (int i = 0; i < 6; i++) {
        if (!values[i] || (i == 1 && (l->p || !prep_lti_is_delicate(l, 0.0)))) continue;
        conv_put(c, " %s=@%s", keys[i],
                 conv_make_panels(c, ssm_out(c, b, conv_format(c->env, "%s.%s", name, keys[i])),
                                  s4_pairs(c, values[i], n, i == 1), l->channels, 2 * l->states));
    }
    if (l->d)
        conv_put(c, " d=@%s", conv_make_values(c, ssm_out(c, b, conv_format(c->env, "%s.d", name)),
                                               s4_floats(c, l->d, l->channels), l->channels));
    conv_line(c, "%s", "");
}
/* taps [n, channels]; d [channels] or NULL joins the first of them */
static void s4_put_taps(conv *c, const ssm_block *b, int dst, int src, const char *name, double *taps,
                        int32_t n,
                        int32_t channels, const double *d)
{
    for (int32_t i = 0; !c->env->failed && d && i < channels; i++) taps[i] += d[i];
    conv_line(c, "mix r%d r%d long_conv w=@%s", dst, src,
              conv_make_rows(c, ssm_out(c, b, name), s4_floats(c, taps, (int64_t)n * channels), n, channels));
}
/* A system by its own recurrence or by its first `length` taps */
static void s4_put_system(conv *c, const ssm_block *b, int dst, int src, const char *name, const prep_lti *l,
                          s4_form form, int32_t length)
{
    double *taps;
    if (c->env->failed) return;
    if (form != S4_TAPS) { s4_put_lti(c, b, dst, src, name, l); return; }
    taps = prep_doubles(c->env, (int64_t)length * l->channels);
    if (taps && prep_lti_taps(c->env, taps, l, length))
        s4_put_taps(c, b, dst, src, name, taps, length, l->channels, NULL);
}
/* dst = src backwards */
static void s4_put_backward(conv *c, int dst, int src)
{
    conv_line(c, "mix r%d r%d reorder order=backward", dst, src);
}

/* r<src> [n_in] -> dst [dim]: first half of a linear map times the sigmoid of its second half. The halves
   change places: the glu op gates with the first. */
static void s4_put_glu(conv *c, const ssm_block *b, int src, const char *name, int32_t n_in)
{
    const char *w = ssm_out(c, b, name), *bias = ssm_in(c, b, conv_format(c->env, "%s.bias", name));
    const int dst = b->add ? 9 : b->dst;
    conv_view parts[2];
    for (int i = 0; i < 2; i++)
        parts[i] = conv_rows(c, conv_take(c, ssm_weight(c, b, name), 2 * (int64_t)b->dim, n_in),
                             i ? 0 : b->dim, b->dim, b->dim, b->dim);
    conv_put(c, "linear r8 r%d w=@%s", src, conv_stack(c, w, CONV_MATRIX, parts, 2));
    if (conv_has(c, bias)) {
        for (int i = 0; i < 2; i++)
            parts[i] = conv_rows(c, conv_take(c, bias, 2 * (int64_t)b->dim, 0), i ? 0 : b->dim, b->dim,
                                 b->dim, b->dim);
        conv_put(c, " b=@%s", conv_stack(c, conv_format(c->env, "%s.bias", w), CONV_VECTOR, parts, 2));
    }
    conv_line(c, "\nglu r%d r8 act=sigmoid", dst);
    if (b->add) conv_line(c, "add r%d r%d r9", b->dst, b->dst);
}
/* A Dense layer of JAX: kernel [in, out], bias */
static void s4_put_dense(conv *c, const ssm_block *b, int dst, int src, const char *name, int32_t rows,
                         int32_t cols)
{
    const char *w = ssm_out(c, b, name);
    conv_line(c, "linear r%d r%d w=@%s b=@%s", dst, src,
              conv_make(c, w, CONV_MATRIX, conv_transposed(
                  conv_take(c, ssm_in(c, b, conv_format(c->env, "%s.kernel", name)), cols, rows))),
              conv_make(c, conv_format(c->env, "%s.bias", w), CONV_VECTOR,
                        conv_take(c, ssm_in(c, b, conv_format(c->env, "%s.bias", name)), rows, 0)));
}
static void s4_put_layer_norm(conv *c, const ssm_block *b, int dst, int src, const char *weight,
                              const char *bias,
                              const char *eps)
{
    conv_line(c, "norm r%d r%d kind=layer w=@%s b=@%s eps=%s", dst, src, ssm_vector(c, b, weight, b->dim),
              ssm_vector(c, b, bias, b->dim), eps);
}

/* ---- S4 and S4D ---------------------------------------------------------------------------------------- */
typedef struct s4_layer {
    int32_t states, channels, copies; /* states: d_state / 2; channels: kernels a channel; copies: n_ssm */
    s4_form form;
    int32_t length;                   /* of taps, and of the comparison of forms */
} s4_layer;

/* [S, n] of the checkpoint, row h mod S for channel h */
static void s4_spread(prep_complex *to, const prep_complex *from, int32_t channels, int32_t copies, int32_t n)
{
    for (int32_t h = 0; h < channels; h++)
        memcpy(to + (size_t)h * (size_t)n, from + (size_t)(h % copies) * (size_t)n, (size_t)n * sizeof *to);
}
/* One of the layer's kernels: A = -exp(A_real) - i A_imag, dt = exp(inv_dt); C~ is undone. */
static int s4_read_kernel(conv *c, const ssm_block *b, const s4_layer *m, int32_t kernel, prep_s4 *s)
{
    const int32_t h = b->dim, n = m->states;
    const int64_t size = (int64_t)h * n, own = (int64_t)m->copies * n;
    prep_complex *all = s4_read_pairs(c, b, "layer.kernel.C", m->channels * size);
    prep_complex *in = s4_read_pairs(c, b, "layer.kernel.B", own);
    prep_complex *p = s4_read_pairs(c, b, "layer.kernel.P", own);
    prep_complex *a = s4_read_parts(c, b, "layer.kernel.A_real", "layer.kernel.A_imag", own);
    const double *l = s4_read(c, b, "layer.kernel.l_kernel", 1);
    memset(s, 0, sizeof *s);
    s->channels = h;
    s->states = n;
    s->dt = s4_read(c, b, "layer.kernel.inv_dt", h);
    s->a = prep_complexes(c->env, size);
    s->b = prep_complexes(c->env, size);
    s->p = prep_complexes(c->env, size);
    if (c->env->failed) return 0;
    if (h % m->copies) return conv_fail(c->env, "%d channels cannot share %d state matrices", h, m->copies);
    for (int64_t i = 0; i < own; i++) a[i] = prep_c(-exp(a[i].re), -a[i].im);
    for (int32_t i = 0; i < h; i++) s->dt[i] = exp(s->dt[i]);
    s4_spread(s->a, a, h, m->copies, n);
    s4_spread(s->b, in, h, m->copies, n);
    s4_spread(s->p, p, h, m->copies, n);
    s->c = all + (size_t)kernel * (size_t)size;
    s->l_kernel = (int64_t)l[0];
    return prep_s4_plain_c(c->env, s);
}
/* The kernel as a system in the form that was asked for */
static int s4_system(conv *c, const s4_layer *m, const prep_s4 *s, prep_lti *l)
{
    int good = 0;
    if (m->form == S4_AUTO || m->form == S4_DIAGONAL) {
        if (!prep_s4_diagonal(c->env, l, &good, s, m->length)) return 0;
        if (good) return 1;
        if (m->form == S4_DIAGONAL)
            return conv_fail(c->env, "this S4 kernel cannot be made diagonal in float32");
    }
    return prep_s4_rank1(c->env, l, s);
}
/* S4Block: convolution and D, GELU, linear map with a gate. Flattened index: kernel * dim + channel. */
static CONV_UNUSED void s4_put_s4(conv *c, const ssm_block *b, const s4_layer *m)
{
    for (int32_t k = 0; k < m->channels; k++) {
        const double *d = s4_read(c, b, "layer.D", (int64_t)m->channels * b->dim);
        prep_s4 s;
        prep_lti l;
        if (!s4_read_kernel(c, b, m, k, &s) || !s4_system(c, m, &s, &l)) return;
        l.d = prep_doubles(c->env, b->dim);
        if (!l.d || !d) return;
        memcpy(l.d, d + (size_t)k * (size_t)b->dim, (size_t)b->dim * sizeof *d);
        s4_put_system(c, b, k ? 4 : 2, b->src, conv_format(c->env, "kernel%d", k), &l, m->form, m->length);
        if (k) conv_line(c, "cat r3 r2 r4\ncopy r2 r3");
    }
    conv_line(c, "act r2 r2 kind=gelu");
    s4_put_glu(c, b, 2, "output_linear.0", m->channels * b->dim);
}

/* The minimal S4D: A = -exp(log_A_real) + i A_imag, B = 1, zero-order hold, y = 2 Re(C x) + D u. Also
   gives the factor b of each state, which is folded into c: the official state is b times ours. */
static int s4d_system(conv *c, const ssm_block *b, const s4_layer *m, prep_lti *l, prep_complex *factor)
{
    const int32_t n = m->states;
    const int64_t size = (int64_t)b->dim * n;
    const prep_complex *a = s4_read_parts(c, b, "kernel.log_A_real", "kernel.A_imag", size);
    const prep_complex *out = s4_read_pairs(c, b, "kernel.C", size);
    const double *dt = s4_read(c, b, "kernel.log_dt", b->dim);
    double *d = s4_read(c, b, "D", b->dim);
    if (c->env->failed || !prep_lti_open(c->env, l, b->dim, n, 0)) return 0;
    l->d = d;
    for (int64_t i = 0; i < size; i++) {
        prep_complex in = prep_c(1.0, 0.0);
        prep_diagonal(&l->da[i], &in, prep_c(-exp(a[i].re), a[i].im), exp(dt[i / n]), 0);
        l->c[i] = prep_scale(prep_conj(prep_mul(out[i], in)), 2.0);
        if (factor) factor[i] = in;
    }
    return 1;
}
static CONV_UNUSED void s4_put_s4d(conv *c, const ssm_block *b, const s4_layer *m)
{
    prep_lti l;
    if (!s4d_system(c, b, m, &l, NULL)) return;
    s4_put_system(c, b, 2, b->src, "kernel", &l, m->form, m->length);
    conv_line(c, "act r2 r2 kind=gelu");
    s4_put_glu(c, b, 2, "output_linear.0", b->dim);
}

/* ---- DSS, GSS ------------------------------------------------------------------------------------------ */
typedef struct s4_dss {
    int32_t states, bidirectional, softmax, separate;  /* separate: own steps of real and imaginary part */
    double  epsilon;
    int32_t length;                   /* of the sequences it was trained on: softmax normalises over it */
    s4_form form;
} s4_dss;

static int s4_read_dss(conv *c, const ssm_block *b, const s4_dss *m, int32_t kernel, prep_dss *s)
{
    const int32_t n = m->states, steps = m->separate ? 2 : 1;
    const int64_t size = (int64_t)b->dim * n;
    double *dt = s4_read(c, b, "kernel.log_dt", (int64_t)b->dim * steps);
    prep_complex *w = s4_read_pairs(c, b, "kernel.W", size * (m->bidirectional ? 2 : 1));
    memset(s, 0, sizeof *s);
    s->channels = b->dim;
    s->states = n;
    s->epsilon = m->epsilon;
    s->softmax = m->softmax;
    s->length = m->length;
    s->lambda = m->softmax ? s4_read_pairs(c, b, "kernel.Lambda", n)
                           : s4_read_parts(c, b, "kernel.Lambda_log_neg_re", "kernel.Lambda_im", n);
    s->step = prep_doubles(c->env, b->dim);
    s->turn = prep_doubles(c->env, b->dim);
    if (c->env->failed) return 0;
    for (int32_t i = 0; !m->softmax && i < n; i++) s->lambda[i].re = -exp(s->lambda[i].re);
    for (int32_t h = 0; h < b->dim; h++) {
        s->step[h] = exp(dt[h * steps]);
        s->turn[h] = exp(dt[h * steps + steps - 1]);
    }
    s->w = w + (size_t)kernel * (size_t)size;
    return 1;
}
/* One direction: a recurrence unless a state grows or taps were asked for. Softmax kernels depend on the
   length. */
static void s4_put_dss_kernel(conv *c, const ssm_block *b, const s4_dss *m, int32_t kernel, int dst, int src,
                              double *d)
{
    const char *name = conv_format(c->env, "kernel%d", kernel);
    prep_dss s;
    prep_lti l;
    double *taps;
    if (!s4_read_dss(c, b, m, kernel, &s)) return;
    if (m->form != S4_TAPS && prep_dss_lti(c->env, &l, &s)) {
        l.d = d;
        s4_put_lti(c, b, dst, src, name, &l);
        return;
    }
    taps = prep_doubles(c->env, (int64_t)m->length * b->dim);
    if (!taps) return;
    prep_dss_taps(taps, &s, m->length);
    s4_put_taps(c, b, dst, src, name, taps, m->length, b->dim, d);
}
/* The second direction looks at the rows after this one only: one row late, seen from the end. */
static CONV_UNUSED void s4_put_dss(conv *c, const ssm_block *b, const s4_dss *m)
{
    s4_put_dss_kernel(c, b, m, 0, 2, b->src, s4_read(c, b, "D", b->dim));
    if (m->bidirectional) {
        s4_put_backward(c, 3, b->src);
        s4_put_dss_kernel(c, b, m, 1, 4, 3, NULL);
        conv_line(c, "mix r3 r4 conv w=@%s", s4_late(c, b->dim));
        s4_put_backward(c, 4, 3);
        conv_line(c, "add r2 r2 r4");
    }
    conv_line(c, "act r2 r2 kind=gelu\nlinear r%d r2 w=@%s b=@%s%s", b->dst,
              conv_make(c, ssm_out(c, b, "output_linear"), CONV_MATRIX,
                        conv_take(c, ssm_weight(c, b, "output_linear"), b->dim, b->dim)),
              conv_make(c, ssm_out(c, b, "output_linear.bias"), CONV_VECTOR,
                        conv_flat(conv_take(c, ssm_in(c, b, "output_linear.bias"), b->dim, 1))),
              b->add ? " add=1" : "");
}

/* Gated state space: Lambda shared by the channels, dt = 1; the official state is factor times ours. */
typedef struct s4_gss { int32_t channels, states, imag_exp; } s4_gss;
static int s4_gss_system(conv *c, const ssm_block *b, const s4_gss *m, prep_lti *l, prep_complex *factor)
{
    const prep_complex *a = s4_read_parts(c, b, "dss.Lambda_real", "dss.Lambda_imag", m->states);
    const prep_complex *out = s4_read_parts(c, b, "dss.C_real", "dss.C_imag",
                                            (int64_t)m->channels * m->states);
    double *d = s4_read(c, b, "dss.param_D", m->channels);
    if (c->env->failed || !prep_lti_open(c->env, l, m->channels, m->states, 0)) return 0;
    l->d = d;
    for (int64_t i = 0; i < (int64_t)m->channels * m->states; i++) {
        const prep_complex lambda = a[i % m->states];
        prep_complex in = prep_c(1.0, 0.0);
        prep_diagonal(&l->da[i], &in, prep_c(-exp(lambda.re), m->imag_exp ? exp(lambda.im) : lambda.im),
                      1.0, 0);
        l->c[i] = prep_conj(prep_mul(out[i], in));
        if (factor) factor[i] = in;
    }
    return 1;
}
/* dst += W_o (W_g v * u), from src itself: the layer has its norm and its residual in it. */
static CONV_UNUSED void s4_put_gss(conv *c, const ssm_block *b, const s4_gss *m)
{
    ssm_block inner = *b;
    prep_lti l;
    if (!s4_gss_system(c, b, m, &l, NULL)) return;
    inner.dim = m->channels;
    s4_put_layer_norm(c, b, 2, b->src, "norm.weight", "norm.bias", "1e-05");
    ssm_put_linear(c, b, 3, 2, "to_u.0", 4 * (int64_t)b->dim, b->dim, 0);
    ssm_put_linear(c, b, 4, 2, "to_v.0", m->channels, b->dim, 0);
    conv_line(c, "act r3 r3 kind=gelu\nact r4 r4 kind=gelu");
    s4_put_layer_norm(c, &inner, 4, 4, "dss.norm.weight", "dss.norm.bias", "1e-05");
    s4_put_lti(c, b, 5, 4, "dss", &l);
    ssm_put_linear(c, b, 6, 5, "to_gate", 4 * (int64_t)b->dim, m->channels, 0);
    conv_line(c, "mul r6 r6 r3");
    if (!b->add) conv_line(c, "copy r%d r%d", b->dst, b->src);
    ssm_put_linear(c, b, b->dst, 6, "to_out", b->dim, 4 * (int64_t)b->dim, 1);
}

/* ---- LRU and S5: one shared state ---------------------------------------------------------------------- */
/* x = a x + B u, y = Re(C x) factor + D u with `states` complex numbers that all channels share */
typedef struct s4_shared {
    prep_lti      l;                  /* channels: the states; c NULL */
    prep_complex *in, *out, *back;    /* [states][dim], [dim][states]; back: C of the other direction */
    double       *d;                  /* [dim] */
    double        factor;
} s4_shared;

/* Re(C x) factor as a real matrix [dim, 2 states] */
static double *s4_real_out(conv *c, const prep_complex *out, int32_t dim, int32_t states, double factor)
{
    double *w = prep_doubles(c->env, 2 * (int64_t)dim * states);
    for (int32_t i = 0; w && i < dim; i++)
        for (int32_t n = 0; n < states; n++) {
            w[(2 * i) * states + n] = factor * out[i * states + n].re;
            w[(2 * i + 1) * states + n] = -factor * out[i * states + n].im;
        }
    return w;
}
static void s4_put_direction(conv *c, const ssm_block *b, const s4_shared *s, int dst,
                             const prep_complex *out,
                             const char *name, int src)
{
    const int32_t n = s->l.channels;
    const char *w = ssm_out(c, b, "B"), *lti = conv_format(c->env, "states%s", name);
    double *in = prep_doubles(c->env, 2 * (int64_t)n * b->dim), *y;
    if (c->env->failed) return;
    for (int64_t i = 0; i < (int64_t)n * b->dim; i++) {
        in[i] = s->in[i].re;
        in[i + (int64_t)n * b->dim] = s->in[i].im;
    }
    y = s4_real_out(c, out, b->dim, n, s->factor);
    if (!conv_made(c, w)) s4_panels(c, b, "B", in, 2 * n, b->dim);
    conv_line(c, "linear r2 r%d w=@%s", src, w);
    s4_put_lti(c, b, 3, 2, lti, &s->l);
    w = s4_panels(c, b, conv_format(c->env, "C%s", name), y, b->dim, 2 * n);
    conv_line(c, "linear r%d r3 w=@%s%s", dst, w, dst == b->dst ? " add=1" : "");
}
static void s4_put_shared(conv *c, const ssm_block *b, const s4_shared *s)
{
    if (c->env->failed) return;
    conv_line(c, "affine r%d r%d w=@%s", b->dst, b->src,
              conv_make_values(c, ssm_out(c, b, "D"), s4_floats(c, s->d, b->dim), b->dim));
    s4_put_direction(c, b, s, b->dst, s->out, "", b->src);
    if (!s->back) return;
    s4_put_backward(c, 4, b->src);
    s4_put_direction(c, b, s, 5, s->back, "_back", 4);
    s4_put_backward(c, 4, 5);
    conv_line(c, "add r%d r%d r4", b->dst, b->dst);
}

static int s4_read_lru(conv *c, const ssm_block *b, int32_t states, s4_shared *s)
{
    const int64_t size = (int64_t)states * b->dim;
    const double *nu = s4_read(c, b, "nu_log", states), *theta = s4_read(c, b, "theta_log", states);
    const double *gamma = s4_read(c, b, "gamma_log", states);
    memset(s, 0, sizeof *s);
    s->in = s4_read_parts(c, b, "B_re", "B_im", size);
    s->out = s4_read_parts(c, b, "C_re", "C_im", size);
    s->d = s4_read(c, b, "D", b->dim);
    s->factor = 1.0;
    if (c->env->failed || !prep_lti_open(c->env, &s->l, states, 1, 0)) return 0;
    s->l.c = NULL;
    for (int32_t n = 0; n < states; n++)
        s->l.da[n] = prep_expm1(prep_c(-exp(nu[n]), exp(theta[n])));
    for (int64_t i = 0; i < size; i++) s->in[i] = prep_scale(s->in[i], exp(gamma[i / b->dim]));
    return 1;
}
static CONV_UNUSED void s4_put_lru(conv *c, const ssm_block *b, int32_t states)
{
    s4_shared s;
    if (s4_read_lru(c, b, states, &s)) s4_put_shared(c, b, &s);
}

typedef struct s4_s5 {
    int32_t     states, bilinear, bidirectional, clip, pairs;
    double      rescale;
} s4_s5;
static int s4_read_s5(conv *c, const ssm_block *b, const s4_s5 *m, s4_shared *s)
{
    const int64_t size = (int64_t)m->states * b->dim;
    const prep_complex *lambda = s4_read_parts(c, b, "Lambda_re", "Lambda_im", m->states);
    const double *step = s4_read(c, b, "log_step", m->states);
    memset(s, 0, sizeof *s);
    s->in = s4_read_pairs(c, b, "B", size);
    s->out = s4_read_pairs(c, b, m->bidirectional ? "C1" : "C", size);
    if (m->bidirectional) s->back = s4_read_pairs(c, b, "C2", size);
    s->d = s4_read(c, b, "D", b->dim);
    s->factor = m->pairs ? 2.0 : 1.0;
    if (c->env->failed || !prep_lti_open(c->env, &s->l, m->states, 1, 0)) return 0;
    s->l.c = NULL;
    for (int32_t n = 0; n < m->states; n++) {
        const double re = m->clip && lambda[n].re > -1e-4 ? -1e-4 : lambda[n].re;
        prep_complex in = prep_c(1.0, 0.0);
        prep_diagonal(&s->l.da[n], &in, prep_c(re, lambda[n].im), m->rescale * exp(step[n]), m->bilinear);
        for (int32_t i = 0; i < b->dim; i++) {
            prep_complex *to = &s->in[(int64_t)n * b->dim + i];
            *to = prep_mul(*to, in);
        }
    }
    return 1;
}
static CONV_UNUSED void s4_put_s5(conv *c, const ssm_block *b, const s4_s5 *m)
{
    s4_shared s;
    if (s4_read_s5(c, b, m, &s)) s4_put_shared(c, b, &s);
}

/* The block around an LRU or S5: norm before or after, activation, residual. With g = gelu_tanh: act gelu g,
   full_glu out1(g) s(out2(g)), half_glu1 g s(out2(g)), half_glu2 y s(out2(g)). */
typedef struct s4_residual { const char *norm, *act; int prenorm; } s4_residual;
static void s4_put_residual_norm(conv *c, const ssm_block *b, const s4_residual *m, int dst, int src)
{
    s4_put_layer_norm(c, b, dst, src, conv_format(c->env, "%s.scale", m->norm),
                      conv_format(c->env, "%s.bias", m->norm), "1e-06");
}
/* The layer is between these two: it reads the register that the first returns and writes r6. */
static CONV_UNUSED int s4_put_residual_begin(conv *c, const ssm_block *b, const s4_residual *m)
{
    if (m->prenorm) s4_put_residual_norm(c, b, m, 7, b->src);
    return m->prenorm ? 7 : b->src;
}
static CONV_UNUSED void s4_put_residual_end(conv *c, const ssm_block *b, const s4_residual *m)
{
    const int full = strcmp(m->act, "full_glu") == 0, half2 = strcmp(m->act, "half_glu2") == 0;
    conv_line(c, "act r7 r6 kind=gelu_tanh");
    if (strcmp(m->act, "gelu") != 0) {
        s4_put_dense(c, b, 8, 7, "out2", b->dim, b->dim);
        if (full) s4_put_dense(c, b, 9, 7, "out1", b->dim, b->dim);
        conv_line(c, "gate r7 r%d r8 act=sigmoid", full ? 9 : half2 ? 6 : 7);
    }
    conv_line(c, "add r%d r%d r7", b->dst, b->src);
    if (!m->prenorm) s4_put_residual_norm(c, b, m, b->dst, b->dst);
}

/* ---- H3 ------------------------------------------------------------------------------------------------ */
typedef struct s4_h3 {
    int32_t states, head_dim, copies, bilinear;        /* states: d_state, of the shift */
} s4_h3;

/* The diagonal system of every pair of a head's channels, (d1 * head_dim + d2) * heads + head */
static int s4_h3_system(conv *c, const ssm_block *b, const s4_h3 *m, prep_lti *l, prep_complex *factor)
{
    const int32_t heads = b->dim / m->head_dim, n = m->states / 2;
    const int32_t channels = heads * m->head_dim * m->head_dim;
    const prep_complex *a = s4_read_parts(c, b, "kernel.kernel.inv_A_real", "kernel.kernel.A_imag",
                                          (int64_t)m->copies * n);
    const prep_complex *in = s4_read_pairs(c, b, "kernel.kernel.B", (int64_t)m->copies * n);
    const prep_complex *out = s4_read_pairs(c, b, "kernel.kernel.C", (int64_t)heads * n);
    const double *dt = s4_read(c, b, "kernel.kernel.log_dt", heads), *d = s4_read(c, b, "D", heads);
    if (c->env->failed || !prep_lti_open(c->env, l, channels, n, 0)) return 0;
    if (b->dim % m->head_dim || heads % m->copies)
        return conv_fail(c->env, "%d channels do not divide into heads of %d that share %d matrices", b->dim,
                         m->head_dim, m->copies);
    l->d = prep_doubles(c->env, channels);
    if (!l->d) return 0;
    for (int64_t i = 0; i < (int64_t)channels * n; i++) {
        const int32_t head = (int32_t)(i / n) % heads, k = head % m->copies * n + (int32_t)(i % n);
        prep_complex bk = in[k];
        prep_diagonal(&l->da[i], &bk, prep_c(-exp(a[k].re), a[k].im), exp(dt[head]), m->bilinear);
        l->c[i] = prep_scale(prep_conj(prep_mul(out[head * n + i % n], bk)), 2.0);
        l->d[i / n] = d[head];
        if (factor) factor[i] = bk;
    }
    return 1;
}
/* The shift state space as taps, oldest first: taps[l] = sum_m B[m] C[m + l], and D at lag 0 */
static const char *s4_h3_shift(conv *c, const ssm_block *b, int32_t n)
{
    const double *in = s4_read(c, b, "ssm_k_kernel.kernel.B", (int64_t)b->dim * n);
    const double *out = s4_read(c, b, "ssm_k_kernel.kernel.C", (int64_t)b->dim * n);
    const double *d = s4_read(c, b, "ssm_k_D", b->dim);
    double *taps = prep_doubles(c->env, (int64_t)b->dim * n);
    for (int32_t i = 0; !c->env->failed && i < b->dim; i++)
        for (int32_t l = 0; l < n; l++) {
            double *to = &taps[(n - 1 - l) * b->dim + i];
            for (int32_t k = 0; k + l < n; k++) *to += in[i * n + k] * out[i * n + k + l];
            if (l == 0) *to += d[i];
        }
    return conv_make_rows(c, ssm_out(c, b, "shift"), s4_floats(c, taps, (int64_t)b->dim * n), n, b->dim);
}
/* 0/1 matrix [head_dim^2 heads, dim]: which of a head's two channels each pair reads; transposed: what
   sums the pairs over d1 into the official order d2 * heads + head */
static const char *s4_h3_pairs(conv *c, const ssm_block *b, const s4_h3 *m, int which)
{
    static const char *const names[] = { "first", "second", "sum" };
    const int32_t dh = m->head_dim, heads = b->dim / dh, n = dh * dh * heads;
    float *w = ssm_values(c, (int64_t)n * b->dim);
    for (int32_t i = 0; !c->env->failed && i < n; i++) {
        const int32_t head = i % heads, d1 = i / heads / dh, d2 = i / heads % dh;
        if (which == 2) w[(int64_t)(d2 * heads + head) * n + i] = 1.0f;
        else w[(int64_t)i * b->dim + head * dh + (which ? d2 : d1)] = 1.0f;
    }
    return conv_make_panels(c, ssm_out(c, b, names[which]), w, which == 2 ? b->dim : n,
                            which == 2 ? n : b->dim);
}
static CONV_UNUSED void s4_put_h3(conv *c, const ssm_block *b, const s4_h3 *m)
{
    const int wide = m->head_dim > 1;
    prep_lti l;
    if (!s4_h3_system(c, b, m, &l, NULL)) return;
    ssm_put_linear(c, b, 2, b->src, "k_proj", b->dim, b->dim, 0);
    conv_line(c, "mix r3 r2 conv w=@%s", s4_h3_shift(c, b, m->states));
    ssm_put_linear(c, b, 2, b->src, "v_proj", b->dim, b->dim, 0);
    if (wide) {
        conv_line(c, "linear r4 r3 w=@%s", s4_h3_pairs(c, b, m, 0));
        conv_line(c, "linear r5 r2 w=@%s\nmul r4 r4 r5", s4_h3_pairs(c, b, m, 1));
    } else {
        conv_line(c, "mul r4 r3 r2");
    }
    s4_put_lti(c, b, 5, 4, "kernel", &l);
    ssm_put_linear(c, b, 2, b->src, "q_proj", b->dim, b->dim, 0);
    if (wide) {
        conv_line(c, "linear r4 r2 w=@%s\nmul r5 r5 r4", ssm_out(c, b, "first"));
        conv_line(c, "linear r2 r5 w=@%s", s4_h3_pairs(c, b, m, 2));
    } else {
        conv_line(c, "mul r2 r2 r5");
    }
    ssm_put_linear(c, b, b->dst, 2, "output_linear", b->dim, b->dim, b->add);
}

/* ---- Hyena --------------------------------------------------------------------------------------------- */
typedef struct s4_hyena { int32_t order, length, features, width, inner, normalized; double shift; } s4_hyena;

/* filter [length, dim (order - 1)], channel * (order - 1) + number; NULL after an error */
static double *s4_hyena_filter(conv *c, const ssm_block *b, const s4_hyena *m)
{
    const int32_t outputs = b->dim * (m->order - 1);
    const char *mlp = "filter_fn.implicit_filter";
    double *filter = prep_doubles(c->env, (int64_t)m->length * outputs);
    prep_hyena f;
    memset(&f, 0, sizeof f);
    if (m->inner < 0 || m->inner > 13 || m->order < 2) {
        conv_fail(c->env, "Hyena of order %d with %d inner layers is not supported", m->order, m->inner);
        return NULL;
    }
    f.layers = m->inner + 2;
    f.features = m->features;
    f.width = m->width;
    f.outputs = outputs;
    f.normalized = m->normalized;
    f.shift = m->shift;
    f.z = s4_read(c, b, "filter_fn.pos_emb.z", (int64_t)m->length * m->features);
    f.t = s4_read(c, b, "filter_fn.pos_emb.t", m->length);
    f.freq = s4_read(c, b, "filter_fn.implicit_filter.1.freq", m->width);
    f.deltas = s4_read(c, b, "filter_fn.modulation.deltas", outputs);
    for (int32_t k = 0; k < f.layers; k++) {
        const int last = k == f.layers - 1;
        f.weight[k] = s4_read(c, b, conv_format(c->env, "%s.%d.weight", mlp, 2 * k),
                              (int64_t)(last ? outputs : m->width) * (k ? m->width : m->features));
        if (!last) f.bias[k] = s4_read(c, b, conv_format(c->env, "%s.%d.bias", mlp, 2 * k), m->width);
    }
    return !c->env->failed && prep_hyena_filter(c->env, filter, &f, m->length) ? filter : NULL;
}
/* p = conv(in_proj u); v *= x_i, v = filter_j v, for i = order - 1 .. 1, j = 0, 1 ..; out_proj(v x_0) */
static CONV_UNUSED void s4_put_hyena(conv *c, const ssm_block *b, const s4_hyena *m)
{
    const int32_t wide = (m->order + 1) * b->dim, n = m->order - 1;
    const double *filter = s4_hyena_filter(c, b, m);
    const double *bias = s4_read(c, b, "filter_fn.bias", (int64_t)b->dim * n);
    ssm_conv k;
    int v = 4;
    if (c->env->failed) return;
    memset(&k, 0, sizeof k);
    k.name = "short_filter";
    k.channels = wide;
    k.taps = 3;
    ssm_put_linear(c, b, 2, b->src, "in_proj", wide, b->dim, 0);
    ssm_put_conv(c, b, 3, 2, &k);
    conv_line(c, "copy r4 r3 first=%d count=%d", m->order * b->dim, b->dim);
    for (int32_t j = 0; j < n; j++, v = 9 - v) {
        double *taps = prep_doubles(c->env, (int64_t)m->length * b->dim), *own = prep_doubles(c->env, b->dim);
        if (!taps || !own) return;
        for (int32_t i = 0; i < b->dim; i++) {
            own[i] = bias[i * n + j];
            for (int32_t t = 0; t < m->length; t++)
                taps[(int64_t)t * b->dim + i] = filter[((int64_t)t * b->dim + i) * n + j];
        }
        conv_line(c, "gate r%d r%d r3 act=none first=%d", v, v, (m->order - 1 - j) * b->dim);
        s4_put_taps(c, b, 9 - v, v, conv_format(c->env, "filter%d", j), taps, m->length, b->dim, own);
    }
    conv_line(c, "gate r%d r%d r3 act=none", v, v);
    ssm_put_linear(c, b, b->dst, v, "out_proj", b->dim, b->dim, b->add);
}

/* ---- Liquid-S4, S4ND ----------------------------------------------------------------------------------- */
/* PB kernel on top of the plain kernel k [dim, length]: round p adds <C~, dB_p> times the row counted from
   the end (the official flip) of us, us <- us * (us one row before). dB_0 = dt B / (1 - dt w / 2) on the
   pairs, dB <- dB * sum dB. */
typedef struct s4_liquid { int32_t states, degree, length; } s4_liquid;
static CONV_UNUSED void s4_put_liquid(conv *c, const ssm_block *b, const s4_liquid *m)
{
    const int64_t size = (int64_t)b->dim * m->states;
    const prep_complex *w = s4_read_pairs(c, b, "w", size), *in = s4_read_pairs(c, b, "B", size);
    const prep_complex *out = s4_read_pairs(c, b, "C", size);
    const double *dt = s4_read(c, b, "log_dt", b->dim), *k = s4_read(c, b, "k", (int64_t)b->dim * m->length);
    double *taps = prep_doubles(c->env, (int64_t)b->dim * m->length), *gain, *power;
    prep_complex *db = prep_complexes(c->env, size);
    if (c->env->failed) return;
    for (int64_t i = 0; i < (int64_t)b->dim * m->length; i++)
        taps[i % m->length * b->dim + i / m->length] = k[i];
    for (int64_t i = 0; i < size; i++) {
        const double step = exp(dt[i / m->states]);
        db[i] = prep_div(prep_scale(in[i], step), prep_sub(prep_c(1.0, 0.0), prep_scale(w[i], step / 2.0)));
    }
    s4_put_taps(c, b, 2, b->src, "kernel", taps, m->length, b->dim, s4_read(c, b, "D", b->dim));
    conv_line(c, "copy r3 r%d", b->src);
    power = prep_doubles(c->env, b->dim);
    for (int32_t i = 0; power && i < b->dim; i++) power[i] = 1.0;
    for (int32_t p = 1; p < m->degree; p++) {
        gain = prep_doubles(c->env, b->dim);
        if (!gain || !power) return;
        for (int32_t h = 0; h < b->dim; h++) {         /* dB_p = dB_0 * power, a real number */
            double sum = 0.0, along = 0.0;
            for (int64_t i = h * (int64_t)m->states; i < (h + 1) * (int64_t)m->states; i++) {
                sum += 2.0 * db[i].re;
                along += 2.0 * prep_mul(out[i], db[i]).re;
            }
            power[h] *= power[h] * sum;
            gain[h] = along * power[h];
        }
        conv_line(c, "mix r4 r3 conv w=@%s\nmul r3 r3 r4", s4_late(c, b->dim));
        s4_put_backward(c, 5, 3);
        conv_line(c, "affine r5 r5 w=@%s\nadd r2 r2 r5",
                  conv_make_values(c, ssm_out(c, b, conv_format(c->env, "gain%d", p)),
                                   s4_floats(c, gain, b->dim), b->dim));
    }
    conv_line(c, "copy r%d r2", b->dst);
}

/* Outer product of a kernel for each axis, on pictures of lines x columns: along the columns of a line
   first, then, transposed, along the lines. Bidirectional: kernels [2, dim, length], the second for what
   comes after, one late. */
typedef struct s4_nd { int32_t lines, columns, bidirectional; } s4_nd;
static void s4_put_axis(conv *c, const ssm_block *b, const s4_nd *m, const char *name, int32_t length)
{
    const int kernels = m->bidirectional ? 2 : 1;
    const double *k = s4_read(c, b, name, (int64_t)kernels * b->dim * length);
    for (int i = 0; k && i < kernels; i++) {            /* r2 -> r3 */
        double *taps = prep_doubles(c->env, (int64_t)length * b->dim);
        if (!taps) return;
        for (int32_t h = 0; h < b->dim; h++)
            for (int32_t t = 0; t + i < length; t++)
                taps[(t + i) * b->dim + h] = k[((int64_t)i * b->dim + h) * length + t];
        if (i) s4_put_backward(c, 4, 2);
        conv_line(c, "mix r%d r%d long_conv w=@%s segment=%d", i ? 5 : 3, i ? 4 : 2,
                  conv_make_rows(c, ssm_out(c, b, conv_format(c->env, "%s.%d", name, i)),
                                 s4_floats(c, taps, (int64_t)length * b->dim), length, b->dim), length);
        if (!i) continue;
        s4_put_backward(c, 4, 5);
        conv_line(c, "add r3 r3 r4");
    }
}
static CONV_UNUSED void s4_put_nd(conv *c, const ssm_block *b, const s4_nd *m)
{
    const char *d;
    conv_line(c, "copy r2 r%d", b->src);
    s4_put_axis(c, b, m, "k2", m->columns);
    conv_line(c, "mix r2 r3 reorder order=down columns=%d", m->columns);
    s4_put_axis(c, b, m, "k1", m->lines);
    conv_line(c, "mix r2 r3 reorder order=down columns=%d", m->lines);
    d = conv_make(c, ssm_out(c, b, "D"), CONV_VECTOR, conv_flat(conv_take(c, ssm_in(c, b, "D"), 1, b->dim)));
    conv_line(c, "affine r%d r%d w=@%s\nadd r%d r%d r2", b->dst, b->src, d, b->dst, b->dst);
}

/* ---- Legendre memory units, as keras-lmu stores them --------------------------------------------------- */
typedef struct s4_lmu {
    int32_t     memories, order, inputs, units;         /* memory_d; units: of the hidden cell, 0: none */
    int32_t     from_hidden, from_memory, skip;        /* hidden_, memory_to_memory, input_to_hidden */
    int32_t     simple_rnn;                             /* the cell is one (tanh), else Dense (relu) */
    double      theta;
    const char *discretizer;
} s4_lmu;
typedef struct s4_lmu_weights {       /* kernel rows: inputs, then units when from_hidden; NULL: absent */
    double *a, *b, *kernel, *bias, *recurrent, *cell, *cell_bias, *cell_recurrent;
} s4_lmu_weights;

static int s4_read_lmu(conv *c, const ssm_block *b, const s4_lmu *m, s4_lmu_weights *w)
{
    const int32_t states = m->memories * m->order, fed = states + (m->skip ? m->inputs : 0);
    memset(w, 0, sizeof *w);
    w->a = prep_doubles(c->env, (int64_t)m->order * m->order);
    w->b = prep_doubles(c->env, m->order);
    if (conv_has(c, ssm_in(c, b, "kernel")))
        w->kernel = s4_read(c, b, "kernel",
                            (int64_t)(m->inputs + (m->from_hidden ? m->units : 0)) * m->memories);
    if (conv_has(c, ssm_in(c, b, "bias"))) w->bias = s4_read(c, b, "bias", m->memories);
    if (m->from_memory) w->recurrent = s4_read(c, b, "recurrent_kernel", (int64_t)states * m->memories);
    if (m->units) {
        w->cell = s4_read(c, b, "cell.kernel", (int64_t)fed * m->units);
        w->cell_bias = s4_read(c, b, "cell.bias", m->units);
    }
    if (m->simple_rnn)
        w->cell_recurrent = s4_read(c, b, "cell.recurrent_kernel", (int64_t)m->units * m->units);
    if (c->env->failed) return 0;
    if (!w->kernel && m->inputs != m->memories)
        return conv_fail(c->env, "%d inputs cannot feed %d memories without a kernel", m->inputs,
                         m->memories);
    return prep_lmu(c->env, w->a, w->b, m->order, m->theta, m->discretizer);
}
/* Weight of input i (or unit i behind the inputs) for memory d */
static double s4_lmu_kernel(const s4_lmu *m, const s4_lmu_weights *w, int32_t i, int32_t d)
{
    return w->kernel ? w->kernel[i * m->memories + d] : i == d ? 1.0 : 0.0;
}

/* Without recurrent connections into the memory: u, then B u, then A alone in the recurrence; hidden layer
   after. */
static void s4_put_lmu_plain(conv *c, const ssm_block *b, const s4_lmu *m, const s4_lmu_weights *w)
{
    const int32_t q = m->order, states = m->memories * q;
    double *in = prep_doubles(c->env, (int64_t)states * m->inputs), *bias = prep_doubles(c->env, states);
    double *cell, *step = prep_doubles(c->env, (int64_t)q * q);
    if (c->env->failed) return;
    for (int32_t i = 0; i < q * q; i++) step[i] = w->a[i] - (i / q == i % q ? 1.0 : 0.0);
    for (int32_t s = 0; s < states; s++) {
        for (int32_t i = 0; i < m->inputs; i++)
            in[s * m->inputs + i] = w->b[s % q] * s4_lmu_kernel(m, w, i, s / q);
        bias[s] = w->bias ? w->b[s % q] * w->bias[s / q] : 0.0;
    }
    conv_line(c, "linear r2 r%d w=@%s b=@%s", b->src, s4_panels(c, b, "B", in, states, m->inputs),
              conv_make_values(c, ssm_out(c, b, "B.bias"), s4_floats(c, bias, states), states));
    conv_line(c, "mix r3 r2 rnn w=@%s copies=%d residual=1", s4_panels(c, b, "A", step, q, q), m->memories);
    if (m->skip) conv_line(c, "cat r4 r3 r%d", b->src);
    else conv_line(c, "copy r4 r3");
    if (m->units) {
        const int32_t fed = states + (m->skip ? m->inputs : 0);
        cell = prep_doubles(c->env, (int64_t)fed * m->units);
        for (int64_t i = 0; cell && i < (int64_t)fed * m->units; i++)
            cell[i % m->units * fed + i / m->units] = w->cell[i];
        conv_line(c, "linear r5 r4 w=@%s b=@%s\nact r%d r5 kind=relu",
                  s4_panels(c, b, "cell", cell, m->units, fed),
                  conv_make_values(c, ssm_out(c, b, "cell.bias"), s4_floats(c, w->cell_bias, m->units),
                                   m->units),
                  b->dst);
    } else {
        conv_line(c, "copy r%d r4", b->dst);
    }
}

/* With them all is one recurrence of z = [memory | hidden], z_t = act(G z_(t-1) + F x_t + f), act on the
   hidden part:
     m_t = (A + B R') m + B Kh' h + B (Kx' x + k)        h_t = act(Wm' m_t + Wx' x + Wr' h + w) */
typedef struct s4_lmu_joint {
    double *g, *f, *bias;             /* [size, size], [size, inputs], [size] */
    int32_t size;
} s4_lmu_joint;

static int s4_lmu_join(conv *c, const s4_lmu *m, const s4_lmu_weights *w, s4_lmu_joint *j)
{
    const int32_t q = m->order, states = m->memories * q, size = states + m->units, n = m->inputs;
    j->size = size;
    j->g = prep_doubles(c->env, (int64_t)size * size);
    j->f = prep_doubles(c->env, (int64_t)size * n);
    j->bias = prep_doubles(c->env, size);
    if (c->env->failed) return 0;
    for (int32_t s = 0; s < states; s++) {
        const int32_t d = s / q;
        for (int32_t k = 0; k < states; k++)
            j->g[s * size + k] = (k / q == d ? w->a[s % q * q + k % q] : 0.0) +
                                 (w->recurrent ? w->b[s % q] * w->recurrent[k * m->memories + d] : 0.0);
        for (int32_t k = 0; m->from_hidden && k < m->units; k++)
            j->g[s * size + states + k] = w->b[s % q] * s4_lmu_kernel(m, w, n + k, d);
        for (int32_t i = 0; i < n; i++) j->f[s * n + i] = w->b[s % q] * s4_lmu_kernel(m, w, i, d);
        j->bias[s] = w->bias ? w->b[s % q] * w->bias[d] : 0.0;
    }
    for (int32_t u = 0; u < m->units; u++) {
        const int32_t row = states + u;
        j->bias[row] = w->cell_bias[u];
        for (int32_t i = 0; m->skip && i < n; i++) j->f[row * n + i] = w->cell[(states + i) * m->units + u];
        for (int32_t k = 0; w->cell_recurrent && k < m->units; k++)
            j->g[row * size + states + k] = w->cell_recurrent[k * m->units + u];
        for (int32_t s = 0; s < states; s++) {          /* the hidden cell reads the new memory */
            const double weight = w->cell[s * m->units + u];
            for (int32_t k = 0; k < size; k++) j->g[row * size + k] += weight * j->g[s * size + k];
            for (int32_t i = 0; i < n; i++) j->f[row * n + i] += weight * j->f[s * n + i];
            j->bias[row] += weight * j->bias[s];
        }
    }
    return 1;
}
static CONV_UNUSED void s4_put_lmu(conv *c, const ssm_block *b, const s4_lmu *m)
{
    const int32_t states = m->memories * m->order;
    s4_lmu_weights w;
    s4_lmu_joint j;
    if (!s4_read_lmu(c, b, m, &w)) return;
    if (!m->from_hidden && !m->from_memory && !m->simple_rnn) { s4_put_lmu_plain(c, b, m, &w); return; }
    if (!s4_lmu_join(c, m, &w, &j)) return;
    conv_line(c, "linear r2 r%d w=@%s b=@%s", b->src, s4_panels(c, b, "F", j.f, j.size, m->inputs),
              conv_make_values(c, ssm_out(c, b, "F.bias"), s4_floats(c, j.bias, j.size), j.size));
    conv_put(c, "mix r3 r2 rnn w=@%s", s4_panels(c, b, "G", j.g, j.size, j.size));
    if (m->units) conv_put(c, " act=%s first=%d", m->simple_rnn ? "tanh" : "relu", states);
    conv_line(c, "%s", "");
    if (m->units) conv_line(c, "copy r%d r3 first=%d count=%d", b->dst, states, m->units);
    else if (m->skip) conv_line(c, "cat r%d r3 r%d", b->dst, b->src);
    else conv_line(c, "copy r%d r3", b->dst);
}

/* ---- LMUFormer ----------------------------------------------------------------------------------------- */
/* The whole network for streaming. Its five convolutions look one row ahead each: outputs come
   S4_LMUFORMER_LATE rows late, after as many rows of zeros behind the signal. Rows in: [inputs | 1], the
   last column 0 in rows that are no signal; it travels along (r9) and blanks what the official zero
   padding keeps out of convolutions, memories and potentials. Rows out: the classes, from the mean of all
   rows so far.
   r0 stream, r1 input, r2 .. r8 work, r9 the column. */
enum { S4_LMUFORMER_LATE = 5 };
typedef struct s4_lmuformer {
    int32_t     inputs, dim, classes, depth, hidden;
    const char *variant;              /* "lmu", "slmu", "slmu_ms" */
} s4_lmuformer;

/* r<r> [n] is blanked in rows that are no signal */
static void s4_put_blank(conv *c, int r, int32_t n)
{
    if (n == 1) { conv_line(c, "mul r%d r%d r9", r, r); return; }
    conv_line(c, "linear r8 r9 w=@%s\nmul r%d r%d r8", s4_ones(c, n), r, r);
}
/* Trained batch norm as scale and shift; 0 after an error */
static int s4_read_norm(conv *c, const ssm_block *b, const char *name, int32_t n, double *scale,
                        double *shift)
{
    static const char *const parts[] = { "weight", "bias", "running_mean", "running_var" };
    double *v[4];
    for (int i = 0; i < 4; i++) v[i] = s4_read(c, b, conv_format(c->env, "%s.%s", name, parts[i]), n);
    if (c->env->failed) return 0;
    prep_batch_norm(scale, shift, v[0], v[1], v[2], v[3], n);
    return 1;
}
/* A batch norm that no linear map in front of it can take in; blanked behind it */
static void s4_put_norm(conv *c, const ssm_block *b, int dst, int src, const char *name, int32_t n)
{
    double *scale = prep_doubles(c->env, n), *shift = prep_doubles(c->env, n);
    const char *out = ssm_out(c, b, name);
    if (!scale || !shift || !s4_read_norm(c, b, name, n, scale, shift)) return;
    conv_line(c, "affine r%d r%d w=@%s b=@%s", dst, src, conv_make_values(c, out, s4_floats(c, scale, n), n),
              conv_make_values(c, conv_format(c->env, "%s.bias", out), s4_floats(c, shift, n), n));
    s4_put_blank(c, dst, n);
}
/* Convolution over `taps` rows side by side (1: linear map), [out, in, taps] in the checkpoint, with the
   batch norm behind it folded in (NULL: none) */
static void s4_put_folded(conv *c, const ssm_block *b, int dst, int src, const char *name, const char *norm,
                          int32_t out, int32_t in, int32_t taps, int add)
{
    const int32_t cols = in * taps;
    const char *bias_name = conv_format(c->env, "%s.bias", name), *w_name = ssm_out(c, b, name);
    const int has_bias = conv_has(c, ssm_in(c, b, bias_name));
    const double *w = s4_read(c, b, conv_format(c->env, "%s.weight", name), (int64_t)out * cols);
    const double *own = has_bias ? s4_read(c, b, bias_name, out) : NULL;
    double *scale = prep_doubles(c->env, out), *shift = prep_doubles(c->env, out);
    double *to = prep_doubles(c->env, (int64_t)out * cols);
    if (c->env->failed || (norm && !s4_read_norm(c, b, norm, out, scale, shift))) return;
    for (int32_t o = 0; o < out; o++) {
        const double by = norm ? scale[o] : 1.0;
        for (int32_t i = 0; i < cols; i++) to[o * cols + i % taps * in + i / taps] = by * w[o * cols + i];
        if (own) shift[o] += by * own[o];
    }
    conv_put(c, "linear r%d r%d w=@%s", dst, src,
             conv_make_matrix(c, w_name, s4_floats(c, to, (int64_t)out * cols), out, cols));
    if (norm || own)
        conv_put(c, " b=@%s", conv_make_values(c, conv_format(c->env, "%s.bias", w_name),
                                               s4_floats(c, shift, out), out));
    conv_line(c, "%s", add ? " add=1" : "");
}
/* The last three rows side by side; the column of ones follows one row late. */
static void s4_put_window(conv *c, int dst, int src)
{
    conv_line(c, "mix r%d r%d window size=3\nmix r8 r9 conv w=@%s\ncopy r9 r8", dst, src, s4_late(c, 1));
}
static void s4_put_spikes(conv *c, int dst, int src, const char *threshold)
{
    conv_line(c, "mix r%d r%d spike tau=2.0 threshold=%s", dst, src, threshold);
}

/* Four convolutions r2 -> r2 */
static void s4_put_patches(conv *c, const ssm_block *b, const s4_lmuformer *m)
{
    const int lmu = strcmp(m->variant, "lmu") == 0, ms = strcmp(m->variant, "slmu_ms") == 0;
    for (int32_t i = 0; i < 4; i++) {
        const char *suffix = i ? conv_format(c->env, "%d", i) : "";
        const char *name = lmu ? conv_format(c->env, "patch_embed.conv_layers.%d.0", i)
                               : conv_format(c->env, "patch_embed.proj_conv%s", suffix);
        const char *norm = lmu ? conv_format(c->env, "patch_embed.conv_layers.%d.3", i)
                               : conv_format(c->env, "patch_embed.proj_bn%s", suffix);
        const int fires = !lmu && !(ms && i == 3);
        s4_put_window(c, 3, 2);
        s4_put_folded(c, b, fires ? 4 : 2, 3, name, fires ? norm : NULL, m->dim, i ? m->dim : m->inputs,
                      3, 0);
        if (lmu) {
            conv_line(c, "act r2 r2 kind=relu");
            s4_put_norm(c, b, 2, 2, norm, m->dim);
        } else {
            s4_put_blank(c, fires ? 4 : 2, m->dim);
            if (fires) s4_put_spikes(c, 2, 4, "1.0");
        }
    }
}
/* The residual fifth convolution r2 -> r0 */
static void s4_put_positions(conv *c, const ssm_block *b, const s4_lmuformer *m)
{
    const char *name = "patch_embed.rpe_conv";
    if (strcmp(m->variant, "slmu_ms") == 0) {
        s4_put_norm(c, b, 4, 2, "patch_embed.proj_bn3", m->dim);
        s4_put_spikes(c, 5, 4, "1.0");
        s4_put_window(c, 3, 5);
        conv_line(c, "mix r0 r2 conv w=@%s", s4_late(c, m->dim));
        s4_put_folded(c, b, 0, 3, name, NULL, m->dim, m->dim, 3, 1);
        return;
    }
    s4_put_window(c, 3, 2);
    conv_line(c, "copy r0 r3 first=%d count=%d", m->dim, m->dim);
    if (strcmp(m->variant, "lmu") == 0) {
        s4_put_folded(c, b, 0, 3, name, NULL, m->dim, m->dim, 3, 1);
        return;
    }
    s4_put_folded(c, b, 4, 3, name, "patch_embed.rpe_bn", m->dim, m->dim, 3, 0);
    s4_put_blank(c, 4, m->dim);
    s4_put_spikes(c, 5, 4, "1.0");
    conv_line(c, "add r0 r0 r5");
}

/* A linear map and its activation, r<src> -> r<dst>, by r4: ReLU, GELU, or batch norm and spikes */
static void s4_put_unit(conv *c, const ssm_block *b, int dst, int src, const char *name, const char *norm,
                        int32_t out, int32_t in, const char *act)
{
    const int fires = strcmp(act, "spike") == 0;
    s4_put_folded(c, b, fires ? 4 : dst, src, name, norm, out, in, 1, 0);
    if (!fires) { conv_line(c, "act r%d r%d kind=%s", dst, dst, act); return; }
    s4_put_blank(c, 4, out);
    s4_put_spikes(c, dst, 4, "1.0");
}
/* x += projection of f(W_h [memory; x]); the memory is fed one number a row. */
static void s4_put_memory(conv *c, const ssm_block *b, const s4_lmuformer *m)
{
    const int spiking = strcmp(m->variant, "lmu") != 0, ms = strcmp(m->variant, "slmu_ms") == 0;
    const int32_t d = m->dim, q = spiking ? 2 * d : d;
    const char *act = spiking ? "spike" : "relu";
    if (ms) {
        s4_put_norm(c, b, 3, 0, "attn.prev_bn", d);
        s4_put_spikes(c, 2, 3, "0.5");
    } else {
        conv_line(c, "copy r2 r0");
    }
    s4_put_unit(c, b, 3, 2, "attn.lmu.W_u", spiking ? "attn.lmu.bn_u" : NULL, 1, d, act);
    if (!spiking) s4_put_blank(c, 3, 1);
    conv_line(c, "linear r4 r3 w=@%s", s4_panels(c, b, "attn.lmu.B", s4_read(c, b, "attn.lmu.B", q), q, 1));
    conv_line(c, "mix r5 r4 rnn w=@%s", s4_panels(c, b, "attn.lmu.A",
                                                  s4_read(c, b, "attn.lmu.A", (int64_t)q * q), q, q));
    if (spiking) {
        s4_put_norm(c, b, 4, 5, "attn.lmu.bn_m", q);
        s4_put_spikes(c, 5, 4, "1.0");
    }
    conv_line(c, "cat r6 r5 r2");
    s4_put_unit(c, b, 3, 6, "attn.lmu.W_h", spiking ? "attn.lmu.bn_h" : NULL, d, q + d, act);
    if (!spiking || ms) {
        s4_put_folded(c, b, 0, 3, "attn.proj_conv", "attn.proj_bn", d, d, 1, 1);
    } else {
        s4_put_unit(c, b, 5, 3, "attn.proj_conv", "attn.proj_bn", d, d, act);
        conv_line(c, "add r0 r0 r5");
    }
}
static void s4_put_mlp(conv *c, const ssm_block *b, const s4_lmuformer *m)
{
    const int lmu = strcmp(m->variant, "lmu") == 0;
    if (strcmp(m->variant, "slmu_ms") == 0) {
        s4_put_norm(c, b, 2, 0, "mlp.fc1_bn", m->dim);
        s4_put_spikes(c, 3, 2, "1.0");
        s4_put_folded(c, b, 4, 3, "mlp.fc1_conv", NULL, m->hidden, m->dim, 1, 0);
        s4_put_norm(c, b, 4, 4, "mlp.fc2_bn", m->hidden);
        s4_put_spikes(c, 5, 4, "1.0");
        s4_put_folded(c, b, 0, 5, "mlp.fc2_conv", NULL, m->dim, m->hidden, 1, 1);
        return;
    }
    s4_put_unit(c, b, 2, 0, "mlp.fc1_conv", "mlp.fc1_bn", m->hidden, m->dim, lmu ? "gelu" : "spike");
    s4_put_unit(c, b, 3, 2, "mlp.fc2_conv", "mlp.fc2_bn", m->dim, m->hidden, lmu ? "relu" : "spike");
    conv_line(c, "add r0 r0 r3");
}
static CONV_UNUSED void s4_put_lmuformer(conv *c, const ssm_block *b, const s4_lmuformer *m)
{
    conv_line(c, "input r1 rows width=%d\ncopy r2 r1 first=0 count=%d\ncopy r9 r1 first=%d count=1",
              m->inputs + 1, m->inputs, m->inputs);
    s4_put_patches(c, b, m);
    s4_put_positions(c, b, m);
    for (int32_t i = 0; i < m->depth; i++) {
        ssm_block inner = *b;
        inner.in = conv_format(c->env, "%sblock.%d.", b->in, i);
        inner.out = conv_format(c->env, "%sl%d.", b->out, i);
        s4_put_memory(c, &inner, m);
        s4_put_mlp(c, &inner, m);
    }
    conv_line(c, "copy r2 r0");
    if (strcmp(m->variant, "slmu_ms") == 0) {
        s4_put_norm(c, b, 3, 0, "head_bn", m->dim);
        s4_put_spikes(c, 2, 3, "1.0");
    }
    conv_line(c, "cat r3 r2 r9\nmix r4 r3 running_pool kind=mean weighted=1\nhead logits r4 w=@%s b=@%s",
              conv_make(c, ssm_out(c, b, "head"), CONV_TABLE,
                        conv_take(c, ssm_weight(c, b, "head"), m->classes, m->dim)),
              ssm_vector(c, b, "head.bias", m->classes));
}

#endif /* MAP_S4_H_INCLUDED */
