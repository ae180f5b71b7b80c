/* conv_moe.h: mixtures of experts as recipe lines: a linear map for the router, the ops route and experts.
   Weights of experts are single tensors, or stacked in one tensor [experts, rows, cols] or [experts, cols,
   rows].                                                                                                   */
#ifndef CONV_MOE_H_INCLUDED
#define CONV_MOE_H_INCLUDED
#include "conv_decoder.h"

enum { CONV_UP_TRANSPOSED = 1, CONV_DOWN_TRANSPOSED = 2 };   /* stored [in, out]                            */

typedef struct conv_moe {
    int32_t     experts, k, dim, inner;
    int32_t     groups, group_k, group_top;                  /* 0: all experts are one group                */
    const char *score, *act;
    int32_t     renorm, raw;                                 /* see the op route                            */
    double      least, eps, scale, jitter;                   /* scale 0: 1                                  */
    double      softcap;                                     /* of the router's results; 0: none            */
    int32_t     on_input;                                    /* these: see the op experts                   */
    double      limit, alpha, plus;                          /* alpha 0: 1                                  */
    int32_t     transposed, interleaved;                     /* interleaved: gate, up, gate, up ...         */
    /* names in the checkpoint: router weight; bias of the choice or NULL; of an expert's maps, with %d for
       its number, or without: stacked. up NULL: gate holds [gate | up]; gate NULL: there is no gate.
       Biases: of the router; of all up and down maps [experts, rows]; NULL: none                           */
    const char *router, *bias, *gate, *up, *down, *router_bias, *up_bias, *down_bias;
    const char *out;                                         /* before the names of the output tensors      */
} conv_moe;

/* Weight [rows, cols] of expert e; transposed: stored [cols, rows]                                         */
static conv_view conv__expert(conv *c, const conv_moe *m, const char *name, int32_t e, int64_t rows,
                              int64_t cols, int transposed)
{
    const char *number = strstr(name, "%d");
    const int64_t high = transposed ? cols : rows, wide = transposed ? rows : cols;
    conv_view v;
    if (number)
        v = conv_take(c, conv_format(c->env, "%.*s%d%s", (int)(number - name), name, (int)e, number + 2),
                      high, wide);
    else v = conv_rows(c, conv_take(c, name, m->experts * high, wide), e * high, high, high, high);
    return transposed ? conv_transposed(v) : v;
}

/* up (which 0: [gate | up]) or down of expert e, one above the other; returns how many parts               */
static int32_t conv__expert_parts(conv *c, const conv_moe *m, int32_t e, int down, conv_view parts[2])
{
    const int up_t = m->transposed & CONV_UP_TRANSPOSED, down_t = m->transposed & CONV_DOWN_TRANSPOSED;
    const int64_t n = m->inner;
    if (down) {
        parts[0] = conv__expert(c, m, m->down, e, m->dim, n, down_t);
        return 1;
    }
    if (m->gate && m->up) {
        parts[0] = conv__expert(c, m, m->gate, e, n, m->dim, up_t);
        parts[1] = conv__expert(c, m, m->up, e, n, m->dim, up_t);
        return 2;
    }
    parts[0] = conv__expert(c, m, m->gate ? m->gate : m->up, e, m->gate ? 2 * n : n, m->dim, up_t);
    if (!m->interleaved) return 1;
    parts[1] = conv_rows(c, parts[0], 1, 1, 2, n);
    parts[0] = conv_rows(c, parts[0], 0, 1, 2, n);
    return 2;
}
/* The same of their biases                                                                                 */
static int32_t conv__expert_bias(conv *c, const conv_moe *m, int32_t e, int down, conv_view parts[2])
{
    const int64_t n = down ? m->dim : m->gate ? 2 * (int64_t)m->inner : m->inner;
    const conv_view all = conv_flat(conv_take(c, down ? m->down_bias : m->up_bias, m->experts, n));
    parts[0] = conv_rows(c, all, e * n, n, n, n);
    if (down || !m->interleaved) return 1;
    parts[0] = conv_rows(c, all, e * n, 1, 2, n / 2);
    parts[1] = conv_rows(c, all, e * n + 1, 1, 2, n / 2);
    return 2;
}

/* key=@l0.expert0.up,...                                                                                   */
static void conv__put_experts(conv *c, const conv_moe *m, const char *key, int down, int bias)
{
    conv_put(c, " %s=", key);
    for (int32_t e = 0; e < m->experts && !c->env->failed; e++) {
        const char *out = conv_format(c->env, "%sexpert%d.%s", m->out, (int)e, key);
        conv_view parts[2];
        const int32_t n = bias ? conv__expert_bias(c, m, e, down, parts)
                               : conv__expert_parts(c, m, e, down, parts);
        conv_put(c, "%s@%s", e ? "," : "", conv_stack(c, out, bias ? CONV_VECTOR : CONV_MATRIX, parts, n));
    }
}

/* The vector of the choice, which some checkpoints hold as one row [1, n]                                  */
static conv_view conv__choice_bias(conv *c, const char *name, int32_t n)
{
    const conv_tensor *t = conv_source_find(&c->source, name);
    return t && t->ndim == 2 ? conv_flat(conv_take(c, name, 1, n)) : conv_take(c, name, n, 0);
}

/* route r8 r7 of n scores                                                                                  */
static CONV_UNUSED void conv_put_route_op(conv *c, const conv_moe *m, int32_t n)
{
    conv_put(c, "route r8 r7 k=%d score=%s", m->k, m->score);
    if (m->bias)
        conv_put(c, " b=@%s", conv_make(c, conv_format(c->env, "%srouter.choice", m->out), CONV_VECTOR,
                                        conv__choice_bias(c, m->bias, n)));
    if (m->raw) conv_put(c, " raw=1");
    if (m->groups > 1)
        conv_put(c, " groups=%d group_k=%d group_top=%d", m->groups, m->group_k,
                 m->group_top ? m->group_top : 1);
    if (m->renorm) conv_put(c, " renorm=%d", m->renorm);
    conv_put_real(c, "least", m->least, 0.0);
    conv_put_real(c, "eps", m->eps, 0.0);
    if (m->scale != 0.0) conv_put_real(c, "scale", m->scale, 1.0);
    conv_put_real(c, "jitter", m->jitter, 0.0);
    conv_line(c, "%s", "");
}

/* Scores of rows in rS: r7; weights of the experts: r8                                                     */
static CONV_UNUSED void conv_put_route(conv *c, const conv_moe *m, int src, int64_t cols)
{
    const char *router = conv_format(c->env, "%srouter", m->out);
    conv_put(c, "linear r7 r%d w=@%s", src,
             conv_make(c, router, CONV_ROUTER, conv_take(c, m->router, m->experts, cols)));
    if (m->router_bias)
        conv_put(c, " b=@%s", conv_make(c, conv_format(c->env, "%s.bias", router), CONV_VECTOR,
                                        conv_take(c, m->router_bias, m->experts, 0)));
    conv_line(c, "%s", "");
    if (m->softcap != 0.0) conv_line(c, "softcap r7 r7 cap=%s", conv_real(c, m->softcap));
    conv_put_route_op(c, m, m->experts);
}

/* experts rD rS with the weights in r8                                                                     */
static CONV_UNUSED void conv_put_experts(conv *c, const conv_moe *m, int dst, int src, int add)
{
    conv_put(c, "experts r%d r%d r8 act=%s", dst, src, m->act);
    conv__put_experts(c, m, "up", 0, 0);
    conv__put_experts(c, m, "down", 1, 0);
    if (m->up_bias) conv__put_experts(c, m, "up_b", 0, 1);
    if (m->down_bias) conv__put_experts(c, m, "down_b", 1, 1);
    if (m->on_input) conv_put(c, " input=1");
    conv_put_real(c, "limit", m->limit, 0.0);
    if (m->alpha != 0.0) conv_put_real(c, "alpha", m->alpha, 1.0);
    conv_put_real(c, "plus", m->plus, 0.0);
    conv_line(c, "%s", add ? " add=1" : "");
}

#endif /* CONV_MOE_H_INCLUDED */
