/* conv_mla.h: latent attention (MLA of DeepSeek) as recipe lines. Keys and values of all heads are linear in
   one short row c; here the maps from c go to the other side: queries are taken to the width of c before,
   results are taken from it behind the attention. So there is one key head [c | rotated part] whose first
   columns c are the values too: the cache holds rank + rope numbers a token, whatever the number of heads. */
#ifndef CONV_MLA_H_INCLUDED
#define CONV_MLA_H_INCLUDED
#include "conv_decoder.h"

typedef struct conv_mla {
    /* q_rank 0: one map; widths of a head */
    int32_t     dim, heads, q_rank, rank, plain, rotated, v_dim;
    double      scale, norm_eps;      /* of q.k; of the norms of the short rows                             */
    double      q_scale, kv_scale;    /* of queries, of the normalised short row; 0: 1                      */
    int32_t     selected;             /* how many keys r13 lists for each row; 0: all keys count            */
    const conv_rope *rope;            /* NULL: none; style interleaved in DeepSeek's checkpoints            */
    /* names in a layer, without .weight; q_a, q_norm with q_rank only */
    const char *q, *q_a, *q_norm, *kv_a, *kv_norm, *kv_b;
    /* NULL, or kv_b in two: [heads, rank, plain] and [heads, v_dim, rank], as newer GGUF files have it     */
    const char *k_b, *v_b;
} conv_mla;

/* The map of head h out of kv_b [heads, plain + v_dim, rank], whose values are `all`, or of k_b or v_b     */
static void conv__mla_head(conv *c, const conv_mla *m, const char *out, const char *name, const float *all,
                           int32_t h, int values)
{
    const int64_t rank = m->rank, plain = m->plain, rows = plain + m->v_dim;
    const int64_t high = m->k_b ? (values ? m->v_dim : rank) : rows, wide = m->k_b && !values ? plain : rank;
    const conv_view w = conv_take(c, name, m->heads * high, wide);
    float *to;
    if (m->k_b) {
        conv_make(c, out, CONV_MATRIX, conv_rows(c, w, h * high, high, high, high));
        return;
    }
    if (values) {
        conv_make(c, out, CONV_MATRIX, conv_rows(c, w, h * rows + plain, m->v_dim, m->v_dim, m->v_dim));
        return;
    }
    to = (float *)conv_alloc(c->env, (uint64_t)(rank * plain), sizeof *to);
    for (int64_t r = 0; all && to && r < rank; r++)
        for (int64_t p = 0; p < plain; p++) to[r * plain + p] = all[(h * rows + p) * rank + r];
    conv_make_matrix(c, out, to, m->rank, m->plain);
}

/* linear rD rS apart=1 with a weight for each head: queries [heads x plain] to [heads x rank], or results
   (values 1) from [heads x rank] to [heads x v_dim]                                                        */
static void conv__mla_heads(conv *c, const conv_decoder *d, const conv_mla *m, int32_t i, int dst, int src,
                            int values)
{
    const char *map = m->k_b ? (values ? m->v_b : m->k_b) : m->kv_b;
    const char *name = conv_format(c->env, "%s%s", conv_layer_name(c, d, i, map), d->weight_suffix);
    const float *all = values || m->k_b ? NULL
        : conv_read(c, name, (int64_t)m->heads * ((int64_t)m->plain + m->v_dim) * m->rank);
    conv_put(c, "linear r%d r%d apart=1 precise=1 first=0 w=", dst, src);
    for (int32_t h = 0; h < m->heads && !c->env->failed; h++) {
        const char *out = conv_format(c->env, "%s%d",
                                      conv_out_name(c, i, values ? "v_latent" : "q_latent"), h);
        conv_put(c, "%s@%s", h ? "," : "", out);
        conv__mla_head(c, m, out, name, all, h, values);
    }
    conv_line(c, "%s", "");
}

static void conv__mla_rope(conv *c, const conv_rope *r, int reg, int32_t first, int32_t heads,
                           int32_t head_dim)
{
    if (!r || c->env->failed) return;
    if (!conv_made(c, r->name)) conv_make_values(c, r->name, r->freq, r->dims / 2);
    conv_put(c, "rope r%d r%d first=%d heads=%d head_dim=%d dims=%d style=%s freq=@%s", reg, reg, first,
             heads, head_dim,
             r->dims, r->style, r->name);
    conv_put_real(c, "attn_factor", r->attn_factor, 1.0);
    conv_put_rope_lengths(c, r);
    conv_line(c, "%s", "");
}

/* norm rR rR of columns [0, n) with scale times the weight `name` of layer i                               */
static void conv__mla_norm(conv *c, const conv_decoder *d, const conv_mla *m, int32_t i, int reg,
                           const char *name, const char *out, int32_t n, double scale)
{
    const char *in = conv_format(c->env, "%s%s", conv_layer_name(c, d, i, name), d->weight_suffix);
    conv_view w = conv_take(c, in, n, 0);
    if (scale != 0.0) w.scale *= scale;
    conv_line(c, "norm r%d r%d kind=rms eps=%s first=0 count=%d w=@%s", reg, reg, conv_real(c, m->norm_eps),
              n, conv_make(c, conv_out_name(c, i, out), CONV_VECTOR, w));
}

/* From rS to queries [heads x plain | heads x rotated] in r2; the normalised short row, if there is one, in
   r4                                                                                                       */
static CONV_UNUSED void conv_put_mla_queries(conv *c, const conv_decoder *d, const conv_mla *m, int32_t i,
                                             int src)
{
    const int32_t head = m->plain + m->rotated, plain = m->heads * m->plain;
    conv_part p, parts[2];
    if (m->q_rank) {
        p = conv_part_of(c, d, conv_out_name(c, i, "q_a"), conv_layer_name(c, d, i, m->q_a), m->q_rank,
                         m->dim, d->qkv_bias);
        conv_put_linear(c, 4, src, &p, 1, 1.0, CONV_PRECISE);
        conv__mla_norm(c, d, m, i, 4, m->q_norm, "q_a_norm", m->q_rank, 0.0);
    }
    p = conv_part_of(c, d, "", conv_layer_name(c, d, i, m->q), (int64_t)m->heads * head,
                     m->q_rank ? m->q_rank : m->dim, CONV_NO_BIAS);
    parts[0] = conv_part_rows(c, p, conv_out_name(c, i, "q"), 0, m->plain, head, plain);
    parts[1] = conv_part_rows(c, p, conv_out_name(c, i, "q_turned"), m->plain, m->rotated, head,
                              (int64_t)m->heads * m->rotated);
    conv_put_linear(c, 2, m->q_rank ? 4 : src, parts, 2, m->q_scale != 0.0 ? m->q_scale : 1.0, CONV_PRECISE);
    conv__mla_rope(c, m->rope, 2, plain, m->heads, m->rotated);
}

/* From rS and the queries in r2 to the heads' results, [heads x v_dim], in r9; r2 to r6 are used.          */
static CONV_UNUSED int conv_put_mla_attention(conv *c, const conv_decoder *d, const conv_mla *m, int32_t i,
                                              int src)
{
    const int32_t width = m->rank + m->rotated;
    const conv_part p = conv_part_of(c, d, conv_out_name(c, i, "kv_a"), conv_layer_name(c, d, i, m->kv_a),
                                     width, m->dim, d->qkv_bias);
    conv_put_linear(c, 4, src, &p, 1, 1.0, CONV_PRECISE);
    conv__mla_norm(c, d, m, i, 4, m->kv_norm, "kv_a_norm", m->rank, m->kv_scale);
    conv__mla_rope(c, m->rope, 4, m->rank, 1, m->rotated);
    conv__mla_heads(c, d, m, i, 5, 2, 0);
    conv_line(c, "copy r6 r2 first=%d count=%d", m->heads * m->plain, m->heads * m->rotated);
    conv_line(c, "cat r2 r5 r6 groups=%d\ncat r6 r2 r4", m->heads);
    if (m->selected) conv_line(c, "cat r2 r6 r13");
    conv_put(c, "mix r3 r%d attention heads=%d kv_heads=1 head_dim=%d v_dim=%d shared=1", m->selected ? 2 : 6,
             m->heads, width, m->rank);
    if (m->selected) conv_put(c, " selected=%d", m->selected);
    conv_line(c, " scale=%s", conv_real(c, m->scale));
    conv__mla_heads(c, d, m, i, 9, 3, 1);
    return 9;
}

/* From rS to the heads' results, [heads x v_dim], in r9; r2 to r6 are used.                                */
static CONV_UNUSED int conv_put_mla(conv *c, const conv_decoder *d, const conv_mla *m, int32_t i, int src)
{
    conv_put_mla_queries(c, d, m, i, src);
    return conv_put_mla_attention(c, d, m, i, src);
}

#endif /* CONV_MLA_H_INCLUDED */
