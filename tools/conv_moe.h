/* conv_moe.h: mixtures of experts as recipe lines: a linear map for the router, the ops route and experts.
   Weights of experts are single tensors, or stacked in one tensor [experts, rows, cols].                   */
#ifndef CONV_MOE_H_INCLUDED
#define CONV_MOE_H_INCLUDED
#include "conv_decoder.h"

typedef struct conv_moe {
    int32_t     experts, k, dim, inner;
    int32_t     groups, group_k, group_top;                  /* 0: all experts are one group                */
    const char *score, *act;
    int32_t     renorm;
    double      eps, scale;                                  /* scale 0: 1                                  */
    /* names in the checkpoint: router weight; bias of the choice or NULL; of an expert's maps, with %d for
       its number, or without: stacked. up NULL: gate holds [gate | up]; gate NULL: there is no gate.       */
    const char *router, *bias, *gate, *up, *down;
    const char *out;                                         /* before the names of the output tensors      */
} conv_moe;

/* Weight [rows, cols] of expert e                                                                          */
static conv_view conv__expert(conv *c, const conv_moe *m, const char *name, int32_t e, int64_t rows,
                              int64_t cols)
{
    const char *number = strstr(name, "%d");
    if (!number) return conv_rows(c, conv_take(c, name, m->experts * rows, cols), e * rows, rows, rows, rows);
    return conv_take(c, conv_format(c->env, "%.*s%d%s", (int)(number - name), name, (int)e, number + 2), rows,
                     cols);
}

static void conv__put_experts(conv *c, const conv_moe *m, const char *key)
{
    const int down = key[0] == 'd';
    conv_put(c, " %s=", key);
    for (int32_t e = 0; e < m->experts && !c->env->failed; e++) {
        const char *out = conv_format(c->env, "%sexpert%d.%s", m->out, (int)e, key);
        conv_view parts[2];
        int32_t n = 1;
        if (down) {
            parts[0] = conv__expert(c, m, m->down, e, m->dim, m->inner);
        } else if (m->gate && m->up) {
            parts[0] = conv__expert(c, m, m->gate, e, m->inner, m->dim);
            parts[1] = conv__expert(c, m, m->up, e, m->inner, m->dim);
            n = 2;
        } else {
            parts[0] = m->gate ? conv__expert(c, m, m->gate, e, 2 * (int64_t)m->inner, m->dim)
                               : conv__expert(c, m, m->up, e, m->inner, m->dim);
        }
        conv_put(c, "%s@%s", e ? "," : "", conv_stack(c, out, CONV_MATRIX, parts, n));
    }
}

/* Scores of rows in rS: r7; weights of the experts: r8                                                     */
static CONV_UNUSED void conv_put_route(conv *c, const conv_moe *m, int src, int64_t cols)
{
    const char *router = conv_format(c->env, "%srouter", m->out);
    conv_line(c, "linear r7 r%d w=@%s", src,
              conv_make(c, router, CONV_ROUTER, conv_take(c, m->router, m->experts, cols)));
    conv_put(c, "route r8 r7 k=%d score=%s", m->k, m->score);
    if (m->bias)
        conv_put(c, " b=@%s", conv_make(c, conv_format(c->env, "%s.choice", router), CONV_VECTOR,
                                        conv_take(c, m->bias, m->experts, 0)));
    if (m->groups > 1)
        conv_put(c, " groups=%d group_k=%d group_top=%d", m->groups, m->group_k,
                 m->group_top ? m->group_top : 1);
    if (m->renorm) conv_put(c, " renorm=1");
    conv_put_real(c, "eps", m->eps, 0.0);
    if (m->scale != 0.0) conv_put_real(c, "scale", m->scale, 1.0);
    conv_line(c, "%s", "");
}

/* experts rD rS with the weights in r8                                                                     */
static CONV_UNUSED void conv_put_experts(conv *c, const conv_moe *m, int dst, int src, int add)
{
    conv_put(c, "experts r%d r%d r8 act=%s", dst, src, m->act);
    conv__put_experts(c, m, "up");
    conv__put_experts(c, m, "down");
    conv_line(c, "%s", add ? " add=1" : "");
}

#endif /* CONV_MOE_H_INCLUDED */
