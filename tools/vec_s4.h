/* vec_s4.h: for sqm-vectors: HiPPO, S4, S4D, DSS, GSS, LRU, S5, Liquid-S4, S4ND, H3, Hyena, Legendre
   memories, LMUFormer. Each sequence of a case becomes a weight file through the converter's own blocks
   (map_s4.h), is opened and fed as any model is (vec_ssm.h): at once, row by row and 7 + rest, which must
   agree to the bit where the model streams. Systems that have several forms run in each of them: diagonal,
   diagonal plus rank one, and as a long convolution. Kernels, matrices and filters are those that
   prep_s4.h makes for the weight file.
   Tolerance: 1e-5 of the largest |expected| value of the tensor; spikes exactly. */
#ifndef VEC_S4_H_INCLUDED
#define VEC_S4_H_INCLUDED
#include "map_s4.h"
#include "vec_ssm.h"

typedef struct s4_case {
    ssm_case            k;            /* must be first: the finders of states get it */
    const prep_complex *factor;       /* the official state is this times ours; NULL: 1 */
    const double       *shift;        /* H3: B [dim, states] of the shift */
    int32_t             from;         /* state: index of the first value in ours */
    double              tolerance;    /* of outputs */
} s4_case;

static const char *s4_text(const s4_case *s, const char *key, const char *otherwise)
{
    return json_text(json_get(s->k.v->config, key), otherwise);
}
static int32_t s4_int(const s4_case *s, const char *key) { return ssm_number(&s->k, key, 0.0); }
static int s4_true(const s4_case *s, const char *key) { return json_bool(json_get(s->k.v->config, key), 0); }

/* Sequence b of x as rows: x is [batch, rows, dim], or with turned [batch, dim, rows] */
static float *s4_rows(s4_case *s, const float *x, int32_t b, int32_t dim, int turned)
{
    const int64_t n = (int64_t)s->k.rows * dim;
    float *to = ssm_values(&s->k.c, n);
    for (int64_t i = 0; !s->k.v->env.failed && i < n; i++)
        to[i] = x[b * n + (turned ? i % dim * s->k.rows + i / dim : i)];
    return to;
}
/* Doubles that prep_s4.h made against a tensor of the file */
static void s4_compare(s4_case *s, const char *name, const double *got, int64_t n)
{
    const conv_tensor *t;
    const float *want = ssm_get(&s->k, name, &t);
    double tolerance;
    if (!want || s->k.v->env.failed) { conv_fail(&s->k.v->env, "%s is missing", name); return; }
    tolerance = ssm_tolerance(want, n);
    for (int64_t i = 0; i < n; i++) {
        const float value = (float)got[i];
        ssm_compare(s->k.v, &value, want + i, 1, tolerance);
    }
}

/* ---- states -------------------------------------------------------------------------------------------- */
static double s4_lti_number(const sqm__lti *l, const float *state, int64_t channel, int64_t part)
{
    const int64_t at = (channel / 16 * 2 * l->states + part) * 16 + channel % 16;
    return l->da_low ? ((const double *)(const void *)state)[at] : (double)state[at];
}
/* [channels, states, 2] of an lti, times the factor */
static float s4_lti_cell(const ssm_case *k, const void *bound, const float *state, int64_t i)
{
    const sqm__lti *l = (const sqm__lti *)bound;
    const s4_case *s = (const s4_case *)(const void *)k;
    const int64_t channel = i / (2 * l->states), n = i / 2 % l->states;
    const prep_complex x = prep_c(s4_lti_number(l, state, channel, 2 * n),
                                  s4_lti_number(l, state, channel, 2 * n + 1));
    const prep_complex f = s->factor ? s->factor[channel * l->states + n] : prep_c(1.0, 0.0);
    return (float)(i % 2 ? prep_mul(x, f).im : prep_mul(x, f).re);
}
static float s4_plain_cell(const ssm_case *k, const void *bound, const float *state, int64_t i)
{
    (void)bound;
    return state[((const s4_case *)(const void *)k)->from + i];
}
/* H3's shift state [dim, states]: s_m = sum_l B[m - l] k[t - l] of the inputs k that the convolution
   keeps; the last number needs one input more than any use of it, and is taken from the file. */
static float s4_shift_cell(const ssm_case *k, const void *bound, const float *state, int64_t i)
{
    const s4_case *s = (const s4_case *)(const void *)k;
    const sqm__conv *c = (const sqm__conv *)bound;
    const int64_t channel = i / c->taps, m = i % c->taps;
    const conv_tensor *t;
    double sum = 0.0;
    if (m == c->taps - 1)
        return vector_values(k->v, "state.shift", &t)[k->sequence * c->channels * c->taps + i];
    for (int64_t l = 0; l <= m && l < k->rows; l++)
        sum += s->shift[channel * c->taps + m - l] *
               (double)state[(k->rows - 1 - l) % c->history * c->channels + channel];
    return (float)sum;
}

/* ---- matrices ------------------------------------------------------------------------------------------ */
static int vector_s4_hippo(vector_case *v)
{
    static const char *const methods[] = { "bilinear", "zoh" };
    const int32_t n = (int32_t)vector_number(v, "N", 0.0);
    double *a = prep_doubles(&v->env, (int64_t)n * n), *b = prep_doubles(&v->env, n);
    double *ad = prep_doubles(&v->env, (int64_t)n * n), *bd = prep_doubles(&v->env, n);
    s4_case s;
    memset(&s, 0, sizeof s);
    s.k.v = v;
    if (!prep_hippo(&v->env, a, b, json_text(json_get(v->config, "measure"), ""), n))
        return vector_stop(v, VECTOR_FAIL, v->env.error);
    s4_compare(&s, "out.A", a, (int64_t)n * n);
    s4_compare(&s, "out.B", b, n);
    for (int i = 0; i < 2; i++) {
        if (!prep_discretize(&v->env, ad, bd, a, b, n, 0.1, methods[i])) break;
        s4_compare(&s, conv_format(&v->env, "out.A_%s", methods[i]), ad, (int64_t)n * n);
        s4_compare(&s, conv_format(&v->env, "out.B_%s", methods[i]), bd, n);
    }
    return v->env.failed ? vector_stop(v, VECTOR_FAIL, v->env.error) : VECTOR_PASS;
}
static int vector_s4d_init(vector_case *v)
{
    const int32_t n = (int32_t)vector_number(v, "N", 0.0);
    prep_complex *a = prep_complexes(&v->env, n);
    s4_case s;
    memset(&s, 0, sizeof s);
    s.k.v = v;
    if (!a || !prep_s4d_start(&v->env, a, json_text(json_get(v->config, "kind"), ""), n))
        return vector_stop(v, VECTOR_FAIL, v->env.error);
    s4_compare(&s, "out.A", &a[0].re, n);
    return v->env.failed ? vector_stop(v, VECTOR_FAIL, v->env.error) : VECTOR_PASS;
}
static int vector_lmu_matrices(vector_case *v)
{
    const int32_t q = (int32_t)vector_number(v, "order", 0.0);
    double *a = prep_doubles(&v->env, (int64_t)q * q), *b = prep_doubles(&v->env, q);
    s4_case s;
    memset(&s, 0, sizeof s);
    s.k.v = v;
    if (!a || !b || !prep_lmu(&v->env, a, b, q, vector_number(v, "theta", 0.0),
                              json_text(json_get(v->config, "discretizer"), "")))
        return vector_stop(v, VECTOR_FAIL, v->env.error);
    s4_compare(&s, "out.A", a, (int64_t)q * q);
    s4_compare(&s, "out.B", b, q);
    return v->env.failed ? vector_stop(v, VECTOR_FAIL, v->env.error) : VECTOR_PASS;
}

/* ---- one mixer ----------------------------------------------------------------------------------------- */
/* One sequence of rows through a recipe of one line */
static int vector_s4_line(vector_case *v, const char *in, const char *out, const char *line, double tolerance)
{
    const conv_tensor *t;
    const float *x, *want;
    s4_case s;
    int32_t dim;
    int ok;
    memset(&s, 0, sizeof s);
    s.k.v = v;
    x = ssm_get(&s.k, in, &t);
    want = ssm_get(&s.k, out, NULL);
    if (!x || !want) return vector_stop(v, VECTOR_FAIL, "a tensor is missing");
    s.k.rows = (int32_t)t->shape[0];
    dim = t->ndim > 1 ? (int32_t)t->shape[1] : 1;
    ssm_begin(&s.k, 0);
    conv_line(&s.k.c, "input r1 rows width=%d\n%s\nhead logits r0", dim, line);
    ok = ssm_run(&s.k, x, NULL, want, tolerance);
    if (ok && ssm_get(&s.k, "state.v", &t)) {           /* one sequence: no dimension of its own */
        const void *bound;
        const float *state = ssm_state(&s.k, "spike", 0, &bound);
        ssm_compare(v, state, ssm_get(&s.k, "state.v", NULL), dim,
                    ssm_tolerance(ssm_get(&s.k, "state.v", NULL), dim));
    }
    return ssm_end(&s.k, ok);
}
static int vector_legs(vector_case *v)
{
    const char *method = json_text(json_get(v->config, "method"), "");
    const conv_tensor *t;
    const float *want = vector_values(v, "out.c", &t);
    if (!want) return vector_stop(v, VECTOR_FAIL, "out.c is missing");
    return vector_s4_line(v, "in.f", "out.c",
                          conv_format(&v->env, "mix r0 r1 legs order=%d step=%s",
                                      (int)vector_number(v, "N", 0.0),
                                      strcmp(method, "zoh") == 0 ? "exact" : method),
                          ssm_tolerance(want, t->shape[0] * t->shape[1]));
}
static int vector_lif(vector_case *v)
{
    return vector_s4_line(v, "in.x", "out.spikes",
                          conv_format(&v->env, "mix r0 r1 spike tau=%s threshold=%s rest=%s input=%s",
                                      conv_format(&v->env, "%.9f", vector_number(v, "tau", 2.0)),
                                      conv_format(&v->env, "%.9f", vector_number(v, "v_threshold", 1.0)),
                                      conv_format(&v->env, "%.9f", vector_number(v, "v_reset", 0.0)),
                                      json_bool(json_get(v->config, "decay_input"), 1) ? "scaled" : "added"),
                          1e-30);
}

/* ---- layers -------------------------------------------------------------------------------------------- */
static const ssm_block s4_whole = { &ssm_official, "w.", "", 0, 1, 0, 0, 1.0 };

/* One kernel of [kernels, channels, length] in the file against taps [length, channels], without d */
static void s4_compare_kernels(s4_case *s, const double *taps, int32_t kernel, int32_t channels,
                               int32_t length)
{
    const conv_tensor *t;
    const float *want = ssm_get(&s->k, "out.kernel", &t);
    double tolerance;
    if (!want || !taps) { conv_fail(&s->k.v->env, "out.kernel is missing"); return; }
    tolerance = ssm_tolerance(want, (int64_t)channels * length);
    for (int64_t i = 0; i < (int64_t)channels * length; i++) {
        const float got = (float)taps[i % length * channels + i / length];
        ssm_compare(s->k.v, &got, want + (int64_t)kernel * channels * length + i, 1, tolerance);
    }
}
static void s4_compare_system(s4_case *s, prep_lti *l, int32_t kernel, int32_t length)
{
    double *taps = prep_doubles(&s->k.v->env, (int64_t)length * l->channels);
    l->d = NULL;
    if (taps && prep_lti_taps(&s->k.v->env, taps, l, length))
        s4_compare_kernels(s, taps, kernel, l->channels, length);
}

static s4_layer s4_layer_of(const s4_case *s, s4_form form)
{
    s4_layer m;
    m.states = s4_int(s, "d_state") / 2;
    m.channels = ssm_number(&s->k, "channels", 1.0);
    m.copies = s4_int(s, "n_ssm");
    m.form = form;
    m.length = s->k.rows;
    return m;
}
static int s4_emit_s4(s4_case *s, const ssm_block *b, s4_form form)
{
    const s4_layer m = s4_layer_of(s, form);
    if (form == S4_AUTO)
        for (int32_t i = 0; i < m.channels; i++) {
            prep_s4 kernel;
            prep_lti l;
            if (!s4_read_kernel(&s->k.c, b, &m, i, &kernel)) return 0;
            if (!prep_s4_rank1(&s->k.v->env, &l, &kernel)) return 0;
            s4_compare_system(s, &l, i, s->k.rows);
        }
    s4_put_s4(&s->k.c, b, &m);
    return form == S4_RANK1;
}
static int s4_emit_s4d(s4_case *s, const ssm_block *b, s4_form form)
{
    const s4_layer m = s4_layer_of(s, form);
    prep_complex *factor = prep_complexes(&s->k.v->env, (int64_t)b->dim * m.states);
    prep_lti l;
    if (!factor || !s4d_system(&s->k.c, b, &m, &l, factor)) return 0;
    s->factor = factor;
    s4_compare_system(s, &l, 0, s->k.rows);
    s4_put_s4d(&s->k.c, b, &m);
    return form != S4_TAPS;
}
static int s4_emit_dss(s4_case *s, const ssm_block *b, s4_form form)
{
    s4_dss m;
    m.states = s4_int(s, "d_state");
    m.bidirectional = s4_true(s, "bidirectional");
    m.softmax = strcmp(s4_text(s, "version", ""), "softmax") == 0;
    m.separate = s4_true(s, "sep_dt_re_im");
    m.epsilon = vector_number(s->k.v, "epsilon", 1e-7);
    m.length = s->k.rows;
    m.form = form;
    for (int32_t i = 0; i <= m.bidirectional; i++) {
        double *taps = prep_doubles(&s->k.v->env, (int64_t)m.length * b->dim);
        prep_dss d;
        if (!taps || !s4_read_dss(&s->k.c, b, &m, i, &d)) return 0;
        prep_dss_taps(taps, &d, m.length);
        s4_compare_kernels(s, taps, i, b->dim, m.length);
    }
    s4_put_dss(&s->k.c, b, &m);
    return 0;
}
static int s4_emit_gss(s4_case *s, const ssm_block *b, s4_form form)
{
    s4_gss m;
    prep_complex *factor;
    prep_lti l;
    (void)form;
    m.channels = s4_int(s, "dss_kernel_H");
    m.states = s4_int(s, "dss_kernel_N");
    m.imag_exp = s4_true(s, "imag_exp");
    factor = prep_complexes(&s->k.v->env, (int64_t)m.channels * m.states);
    if (!factor || !s4_gss_system(&s->k.c, b, &m, &l, factor)) return 0;
    s->factor = factor;
    s4_put_gss(&s->k.c, b, &m);
    return 1;
}
static int s4_emit_lru(s4_case *s, const ssm_block *b, s4_form form)
{
    (void)form;
    s4_put_lru(&s->k.c, b, s4_int(s, "d_hidden"));
    return 1;
}
/* The residual block of an LRU or S5 around `seq.` */
static int s4_emit_residual(s4_case *s, const ssm_block *b, int lru)
{
    ssm_block inner = *b;
    s4_residual m;
    s4_s5 five;
    m.norm = lru ? "normalization" : "norm";
    m.act = s4_text(s, "activation", "full_glu");
    m.prenorm = s4_true(s, "prenorm");
    inner.in = "w.seq.";
    inner.src = s4_put_residual_begin(&s->k.c, b, &m);
    inner.dst = 6;
    five.states = s4_int(s, "P");
    five.bilinear = strcmp(s4_text(s, "discretization", ""), "bilinear") == 0;
    five.bidirectional = s4_true(s, "bidirectional");
    five.clip = s4_true(s, "clip_eigs");
    five.pairs = s4_true(s, "conj_sym");
    five.rescale = vector_number(s->k.v, "step_rescale", 1.0);
    if (lru) s4_put_lru(&s->k.c, &inner, s4_int(s, "d_hidden"));
    else s4_put_s5(&s->k.c, &inner, &five);
    s4_put_residual_end(&s->k.c, b, &m);
    return 1;
}
static int s4_emit_lru_block(s4_case *s, const ssm_block *b, s4_form form)
{
    (void)form;
    return s4_emit_residual(s, b, 1);
}
static int s4_emit_s5(s4_case *s, const ssm_block *b, s4_form form)
{
    (void)form;
    return s4_emit_residual(s, b, 0);
}
static int s4_emit_liquid(s4_case *s, const ssm_block *b, s4_form form)
{
    s4_liquid m;
    (void)form;
    m.states = s4_int(s, "d_state") / 2;
    m.degree = s4_int(s, "liquid_degree");
    m.length = s->k.rows;
    s4_put_liquid(&s->k.c, b, &m);
    return 0;
}
static int s4_emit_h3(s4_case *s, const ssm_block *b, s4_form form)
{
    s4_h3 m;
    prep_complex *factor;
    prep_lti l;
    (void)form;
    m.states = s4_int(s, "d_state");
    m.head_dim = s4_int(s, "head_dim");
    m.copies = s4_int(s, "n_ssm");
    m.bilinear = strcmp(s4_text(s, "disc", ""), "bilinear") == 0;
    factor = prep_complexes(&s->k.v->env, (int64_t)b->dim * m.head_dim * m.states / 2);
    if (!factor || !s4_h3_system(&s->k.c, b, &m, &l, factor)) return 0;
    s->factor = factor;
    s->shift = s4_read(&s->k.c, b, "ssm_k_kernel.kernel.B", (int64_t)b->dim * m.states);
    s4_put_h3(&s->k.c, b, &m);
    return 1;
}
static int s4_emit_hyena(s4_case *s, const ssm_block *b, s4_form form)
{
    s4_hyena m;
    const double *filter;
    (void)form;
    m.order = s4_int(s, "order");
    m.length = s4_int(s, "l_max");
    m.features = s4_int(s, "emb_dim");
    m.width = s4_int(s, "filter_order");
    m.inner = s4_int(s, "num_inner_mlps");
    m.normalized = s4_true(s, "normalized");
    m.shift = vector_number(s->k.v, "shift", 0.0);
    filter = s4_hyena_filter(&s->k.c, b, &m);
    if (filter) s4_compare(s, "out.filter", filter, (int64_t)s->k.rows * b->dim * (m.order - 1));
    s4_put_hyena(&s->k.c, b, &m);
    return 0;
}
static int s4_emit_lmu(s4_case *s, const ssm_block *b, s4_form form)
{
    s4_lmu m;
    (void)form;
    m.memories = s4_int(s, "memory_d");
    m.order = s4_int(s, "order");
    m.inputs = b->dim;
    m.units = s4_int(s, "units");
    m.from_hidden = s4_true(s, "hidden_to_memory");
    m.from_memory = s4_true(s, "memory_to_memory");
    m.skip = s4_true(s, "input_to_hidden");
    m.simple_rnn = strcmp(s4_text(s, "hidden_cell", ""), "simple_rnn") == 0;
    m.theta = vector_number(s->k.v, "theta", 0.0);
    m.discretizer = s4_text(s, "discretizer", "zoh");
    s4_put_lmu(&s->k.c, b, &m);
    return 1;
}

/* Layers; turned: rows are [batch, dim, rows] */
static const struct s4_kind {
    const char *name, *in, *out;
    int         turned, forms;        /* forms: bits of s4_form */
    int       (*emit)(s4_case *s, const ssm_block *b, s4_form form);    /* 1: compare states */
} s4_kinds[] = {
    { "dss_layer", "in.u", "out.y", 1, 1 << S4_AUTO | 1 << S4_TAPS, s4_emit_dss },
    { "gss_layer", "in.x", "out.y", 0, 1 << S4_AUTO, s4_emit_gss },
    { "h3_layer", "in.x", "out.y", 0, 1 << S4_AUTO, s4_emit_h3 },
    { "hyena_operator", "in.u", "out.y", 0, 1 << S4_AUTO, s4_emit_hyena },
    { "keras_lmu", "in.x", "out.y", 0, 1 << S4_AUTO, s4_emit_lmu },
    { "liquid_s4", "in.u", "out.y", 1, 1 << S4_AUTO, s4_emit_liquid },
    { "lru_block", "in.x", "out.y", 0, 1 << S4_AUTO, s4_emit_lru_block },
    { "lru_layer", "in.x", "out.y", 0, 1 << S4_AUTO, s4_emit_lru },
    { "s4_block", "in.x", "out.y", 0, 1 << S4_AUTO | 1 << S4_RANK1 | 1 << S4_TAPS, s4_emit_s4 },
    { "s4d_layer", "in.u", "out.y", 1, 1 << S4_AUTO | 1 << S4_TAPS, s4_emit_s4d },
    { "s5_layer", "in.x", "out.y", 0, 1 << S4_AUTO, s4_emit_s5 }
};

static int s4_check_states(s4_case *s)
{
    s->from = 0;
    if (!ssm_check_state(&s->k, "state.ssm", "lti", 0, s4_lti_cell)) return 0;
    if (!ssm_check_state(&s->k, "state.shift", "conv", 0, s4_shift_cell)) return 0;
    if (!ssm_check_state(&s->k, "state.m", "rnn", 0, s4_plain_cell)) return 0;
    s->from = s4_int(s, "memory_d") * s4_int(s, "order");      /* a hidden state stands behind them */
    return strcmp(s4_text(s, "hidden_cell", ""), "simple_rnn") != 0 ||
           ssm_check_state(&s->k, "state.h", "rnn", 0, s4_plain_cell);
}
static int vector_s4_layer(vector_case *v)
{
    const struct s4_kind *kind = s4_kinds;
    const conv_tensor *t, *y_t;
    const float *x, *want;
    int32_t dim, out;
    s4_case s;
    int ok = 1;
    while (strcmp(kind->name, v->mechanism) != 0) kind++;
    memset(&s, 0, sizeof s);
    s.k.v = v;
    x = ssm_get(&s.k, kind->in, &t);
    want = ssm_get(&s.k, kind->out, &y_t);
    if (!x || !want || t->ndim != 3) return vector_stop(v, VECTOR_FAIL, "the input or the output is missing");
    s.k.batch = (int32_t)t->shape[0];
    s.k.rows = (int32_t)t->shape[kind->turned ? 2 : 1];
    dim = (int32_t)t->shape[kind->turned ? 1 : 2];
    out = (int32_t)y_t->shape[y_t->ndim - (kind->turned ? 2 : 1)];
    s.tolerance = ssm_tolerance(want, (int64_t)s.k.batch * s.k.rows * out);
    for (int32_t b = 0; ok && b < s.k.batch; b++)
        for (int form = 0; ok && form <= S4_TAPS; form++) {
            ssm_block block = s4_whole;
            int states;
            if (!(kind->forms >> form & 1)) continue;
            ssm_close(&s.k);
            ssm_begin(&s.k, b);
            block.dim = dim;
            conv_line(&s.k.c, "input r1 rows width=%d", dim);
            states = kind->emit(&s, &block, (s4_form)form);
            conv_line(&s.k.c, "head logits r0");
            ok = ssm_run(&s.k, s4_rows(&s, x, b, dim, kind->turned), NULL,
                         s4_rows(&s, want, b, out, kind->turned), s.tolerance);
            if (ok && states) ok = s4_check_states(&s);
        }
    return ssm_end(&s.k, ok);
}

/* Pictures [batch, dim, lines, columns] */
static int vector_s4nd(vector_case *v)
{
    const conv_tensor *t;
    const float *x, *want;
    s4_case s;
    s4_nd m;
    int ok = 1;
    memset(&s, 0, sizeof s);
    s.k.v = v;
    x = ssm_get(&s.k, "in.u", &t);
    want = ssm_get(&s.k, "out.y", NULL);
    if (!x || !want || t->ndim != 4) return vector_stop(v, VECTOR_FAIL, "in.u or out.y is missing");
    m.lines = (int32_t)t->shape[2];
    m.columns = (int32_t)t->shape[3];
    m.bidirectional = s4_true(&s, "bidirectional");
    s.k.rows = m.lines * m.columns;
    for (int32_t b = 0; ok && b < t->shape[0]; b++) {
        ssm_block block = s4_whole;
        ssm_close(&s.k);
        ssm_begin(&s.k, b);
        block.dim = (int32_t)t->shape[1];
        conv_line(&s.k.c, "input r1 rows width=%d", block.dim);
        s4_put_nd(&s.k.c, &block, &m);
        conv_line(&s.k.c, "head logits r0");
        ok = ssm_run(&s.k, s4_rows(&s, x, b, block.dim, 1), NULL, s4_rows(&s, want, b, block.dim, 1),
                     ssm_tolerance(want, t->shape[0] * block.dim * s.k.rows));
    }
    return ssm_end(&s.k, ok);
}

/* ---- LMUFormer ----------------------------------------------------------------------------------------- */
/* [rows, inputs] with the column of ones, and the rows of zeros that push the last outputs out */
static float *s4_signal(s4_case *s, const float *x, int32_t rows, int32_t inputs)
{
    const int64_t width = inputs + 1;
    float *to = ssm_values(&s->k.c, (int64_t)s->k.rows * width);
    for (int32_t t = 0; !s->k.v->env.failed && t < rows; t++) {
        memcpy(to + t * width, x + (int64_t)t * inputs, (size_t)inputs * sizeof(float));
        to[t * width + inputs] = 1.0f;
    }
    return to;
}
static int s4_run_lmuformer(s4_case *s, const s4_lmuformer *m, const float *x, const float *running,
                            const float *logits, int32_t rows)
{
    const size_t n = (size_t)(rows + S4_LMUFORMER_LATE) * (size_t)m->classes;
    float *got, *parts, *signal = s4_signal(s, x, rows, m->inputs);
    s4_put_lmuformer(&s->k.c, &s4_whole, m);
    if (!ssm_open(&s->k)) return 0;
    got = (float *)conv_alloc(&s->k.v->env, n, sizeof(float));
    parts = (float *)conv_alloc(&s->k.v->env, n, sizeof(float));
    if (!got || !parts || !ssm_feed(&s->k, parts, signal, NULL, 1, 1)) return 0;
    if (!ssm_feed(&s->k, got, signal, NULL, 7, s->k.rows)) return 0;
    if (memcmp(got, parts, n * sizeof(float)))
        return conv_fail(&s->k.v->env, "7 rows, then the rest: other bits");
    if (!ssm_feed(&s->k, got, signal, NULL, s->k.rows, s->k.rows)) return 0;
    if (memcmp(got, parts, n * sizeof(float))) return conv_fail(&s->k.v->env, "row by row: other bits");
    ssm_compare(s->k.v, got + (size_t)S4_LMUFORMER_LATE * (size_t)m->classes, running,
                (int64_t)rows * m->classes, s->tolerance);
    ssm_compare(s->k.v, got + n - (size_t)m->classes, logits, m->classes, s->tolerance);
    for (int32_t i = 0; i < m->depth; i++)
        if (!ssm_check_state(&s->k, conv_format(&s->k.v->env, "state.m%d", (int)i), "rnn", i, s4_plain_cell))
            return 0;
    return 1;
}
static int vector_lmuformer(vector_case *v)
{
    const conv_tensor *t;
    const float *x, *running, *logits;
    s4_lmuformer m;
    s4_case s;
    int32_t rows;
    int ok = 1;
    memset(&s, 0, sizeof s);
    s.k.v = v;
    x = ssm_get(&s.k, "in.x", &t);
    running = ssm_get(&s.k, "out.running_logits", NULL);
    logits = ssm_get(&s.k, "out.logits", NULL);
    if (!x || !running || !logits) return vector_stop(v, VECTOR_FAIL, "a tensor is missing");
    rows = (int32_t)t->shape[1];
    m.inputs = s4_int(&s, "in_channels");
    m.dim = s4_int(&s, "dim");
    m.classes = s4_int(&s, "num_classes");
    m.depth = s4_int(&s, "depth");
    m.hidden = (int32_t)(m.dim * vector_number(v, "mlp_ratio", 4.0));
    m.variant = s4_text(&s, "variant", "lmu");
    s.k.rows = rows + S4_LMUFORMER_LATE;
    s.tolerance = ssm_tolerance(running, t->shape[0] * rows * m.classes);
    for (int32_t b = 0; ok && b < t->shape[0]; b++) {
        ssm_close(&s.k);
        ssm_begin(&s.k, b);
        ok = s4_run_lmuformer(&s, &m, x + (int64_t)b * rows * m.inputs,
                              running + (int64_t)b * rows * m.classes, logits + (int64_t)b * m.classes, rows);
    }
    return ssm_end(&s.k, ok);
}

#define VECTOR_S4_MECHANISMS \
    { "dss_layer", vector_s4_layer }, { "gss_layer", vector_s4_layer }, { "h3_layer", vector_s4_layer }, \
    { "hippo", vector_s4_hippo }, { "hippo_legs_online", vector_legs }, \
    { "hyena_operator", vector_s4_layer }, { "keras_lmu", vector_s4_layer }, { "lif", vector_lif }, \
    { "liquid_s4", vector_s4_layer }, { "lmu_matrices", vector_lmu_matrices }, \
    { "lmuformer", vector_lmuformer }, { "lru_block", vector_s4_layer }, { "lru_layer", vector_s4_layer }, \
    { "s4_block", vector_s4_layer }, { "s4d_init", vector_s4d_init }, { "s4d_layer", vector_s4_layer }, \
    { "s4nd", vector_s4nd }, { "s5_layer", vector_s4_layer },

#endif /* VEC_S4_H_INCLUDED */
