/* arch/typeseg.h: TypeSeg's Mamba, which labels every byte of a text with the language it is written in:
   blocks of a convolution that looks ahead and one selective scan that runs in both directions with the
   same weights. From the package's mamba_al.npz (Flax names) with its manifest.json as configuration. */
#ifndef ARCH_TYPESEG_H_INCLUDED
#define ARCH_TYPESEG_H_INCLUDED
#include "llama.h"
#include "../prep_ssm.h"

typedef struct typeseg {
    int32_t layers, dim, inner, state, rank, taps, labels;
} typeseg;

/* Flax's Dense: kernel [in, out] and bias, as the linear map out <- in; `more` ends the recipe line. */
static void typeseg_linear(conv *c, int dst, int src, const char *out, const char *in, int32_t rows,
                           int32_t cols, const char *more)
{
    const conv_view kernel = conv_take(c, conv_format(c->env, "%s__kernel", in), cols, rows);
    const char *w = conv_make(c, out, CONV_MATRIX, conv_transposed(kernel));
    const char *b = conv_make(c, conv_format(c->env, "%s.bias", out), CONV_VECTOR,
                              conv_take(c, conv_format(c->env, "%s__bias", in), rows, 0));
    conv_line(c, "linear r%d r%d w=@%s b=@%s%s", dst, src, w, b, more);
}
static void typeseg_norm(conv *c, const char *out, const char *in, int32_t n)
{
    conv_line(c, "norm r1 r0 kind=layer w=@%s b=@%s eps=1e-06",
              conv_make(c, out, CONV_VECTOR, conv_take(c, conv_format(c->env, "%s__scale", in), n, 0)),
              conv_make(c, conv_format(c->env, "%s.bias", out), CONV_VECTOR,
                        conv_take(c, conv_format(c->env, "%s__bias", in), n, 0)));
}
/* Token ids are bytes, and 256 for padding; the table has a row for each ASCII byte, one for all others. */
static void typeseg_embedding(conv *c, int32_t dim)
{
    const conv_view all = conv_take(c, "Embed_0__embedding", 130, dim);
    conv_view parts[3];
    parts[0] = conv_rows(c, all, 0, 128, 128, 128);
    parts[1] = conv_rows(c, all, 128, 1, 0, 128);
    parts[2] = conv_rows(c, all, 129, 1, 1, 1);
    conv_line(c, "embed r0 tokens w=@%s", conv_stack(c, "embed", CONV_TABLE, parts, 3));
}

/* r3 [inner] x, r4 [rank | B | C], r5 dt -> r8: both directions. The step size is softplus(dt) + 1e-4. */
static void typeseg_scans(conv *c, const typeseg *m, const char *in, const char *out)
{
    const int32_t b_at = 2 * m->inner + m->rank;
    const float *a = conv_read(c, conv_format(c->env, "%sA_log", in), (int64_t)m->inner * m->state);
    const float *d = conv_read(c, conv_format(c->env, "%sD", in), m->inner);
    const char *a_name = conv_format(c->env, "%sA", out), *d_name = conv_format(c->env, "%sD", out);
    if (!conv_made(c, "dt_floor")) {
        float *floors = ssm_values(c, m->inner);
        for (int32_t i = 0; !c->env->failed && i < m->inner; i++) floors[i] = 1e-4f;
        conv_make_values(c, "dt_floor", floors, m->inner);
    }
    conv_line(c, "act r5 r5 kind=softplus\naffine r5 r5 b=@dt_floor\ncat r6 r3 r5\ncat r7 r6 r4");
    conv_make_panels(c, a_name, ssm_rates(c, a, (int64_t)m->inner * m->state, 1), m->inner, m->state);
    conv_make_values(c, d_name, d, m->inner);
    for (int back = 0; back < 2; back++)
        conv_line(c, "mix r%d r7 %s a=@%s d=@%s dt_act=none dt_at=%d b_at=%d c_at=%d", back ? 9 : 8,
                  back ? "scan_whole order=backward" : "scan", a_name, d_name, m->inner, b_at,
                  b_at + m->state);
    conv_line(c, "add r8 r8 r9");
}
static void typeseg_layer(conv *c, const typeseg *m, int32_t i)
{
    const char *in = conv_format(c->env, "CheckpointMambaBlock1D_%d__", i);
    const char *out = conv_format(c->env, "l%d.", i);
    const char *taps = conv_format(c->env, "%sconv", out);
    const float *w = conv_read(c, conv_format(c->env, "%sConv_0__kernel", in), (int64_t)m->taps * m->inner);
    conv_line(c, "# layer %d", i);
    typeseg_norm(c, conv_format(c->env, "%snorm", out), conv_format(c->env, "%sLayerNorm_0", in), m->dim);
    typeseg_linear(c, 2, 1, conv_format(c->env, "%sin", out), conv_format(c->env, "%sDense_0", in),
                   2 * m->inner, m->dim, "");
    conv_make_rows(c, taps, w, m->taps, m->inner);
    conv_line(c, "mix r3 r2 conv_whole w=@%s b=@%s future=%d act=silu", taps,
              conv_make(c, conv_format(c->env, "%s.bias", taps), CONV_VECTOR,
                        conv_take(c, conv_format(c->env, "%sConv_0__bias", in), m->inner, 0)), m->taps / 2);
    typeseg_linear(c, 4, 3, conv_format(c->env, "%sx", out), conv_format(c->env, "%sDense_1", in),
                   m->rank + 2 * m->state, m->inner, "");
    typeseg_linear(c, 5, 4, conv_format(c->env, "%sdt", out), conv_format(c->env, "%sDense_2", in), m->inner,
                   m->rank, " first=0");
    typeseg_scans(c, m, in, out);
    conv_line(c, "gate r8 r8 r2 act=silu first=%d", m->inner);
    typeseg_linear(c, 0, 8, conv_format(c->env, "%sout", out), conv_format(c->env, "%sDense_3", in), m->dim,
                   m->inner, " add=1");
}

static void arch_typeseg(conv *c)
{
    static const char *const other[] = { "other_label", "other_index", "unet", "defaults" };
    const json_value *mamba = conv_key(c, "mamba"), *labels = conv_key(c, "labels");
    const conv_tensor *dense = conv_source_find(&c->source, "CheckpointMambaBlock1D_0__Dense_0__kernel");
    typeseg m;
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) conv_key(c, other[i]);
    m.labels = conv_size(c, "num_classes", CONV_REQUIRED);
    m.layers = (int32_t)json_int(json_get(mamba, "n_layers"), 0);
    m.state = (int32_t)json_int(json_get(mamba, "d_state"), 0);
    m.rank = (int32_t)json_int(json_get(mamba, "dt_rank"), 0);
    m.taps = (int32_t)json_int(json_get(mamba, "d_conv"), 0);
    if (!dense || dense->ndim != 2 || m.layers < 1 || m.state < 1 || m.rank < 1 || m.taps < 1 ||
        m.taps > 64 || json_count(labels) != (uint32_t)m.labels) {
        conv_fail(c->env, "the manifest does not describe this model: its sizes or labels are missing");
        return;
    }
    m.dim = (int32_t)dense->shape[0];
    m.inner = (int32_t)(dense->shape[1] / 2);
    c->labels = conv_lines(c, labels);
    typeseg_embedding(c, m.dim);
    for (int32_t i = 0; i < m.layers && !c->env->failed; i++) typeseg_layer(c, &m, i);
    conv_line(c, "# output");
    typeseg_norm(c, "norm", "LayerNorm_0", m.dim);
    conv_line(c, "head logits r1 w=@%s b=@%s",
              conv_make(c, "head", CONV_TABLE,
                        conv_transposed(conv_take(c, "Dense_0__kernel", m.dim, m.labels))),
              conv_make(c, "head.bias", CONV_VECTOR, conv_take(c, "Dense_0__bias", m.labels, 0)));
}

#endif /* ARCH_TYPESEG_H_INCLUDED */
