/* arch/xlnet.h: XLNet read from left to right: scores know the distance d of query and key through
   (q + v) . R [sin(d w) | cos(d w)] (Transformer-XL), beside (q + u) . k.

   With p = R^T (q + v), whose parts for sines and cosines are p_s and p_c, the first term is the sum over the
   frequencies w of p_c cos((i - j) w) + p_s sin((i - j) w): the product of the pairs (p_c,
       -p_s) turned by the
   position i with pairs (1,
                          0) turned by j. So each head has d_model more channels that the rope op turns.  */
#ifndef ARCH_XLNET_H_INCLUDED
#define ARCH_XLNET_H_INCLUDED
#include "gpt.h"

/* A weight stored [rows, heads, head_dim] as the matrix [rows, heads * head_dim].                          */
static conv_view arch_xlnet_matrix(conv *c, const conv_decoder *d, const char *name)
{
    conv_tensor *t = conv_source_find(&c->source, name);
    if (t && t->ndim == 3 && t->shape[1] == d->heads && t->shape[2] == d->head_dim &&
        t->stride[1] == t->stride[2] * t->shape[2]) {
        t->ndim = 2;
        t->shape[1] *= t->shape[2];
        t->stride[1] = t->stride[2];
    }
    return conv_take(c, name, d->dim, (int64_t)d->heads * d->head_dim);
}

static const char *arch_xlnet_name(conv *c, const conv_decoder *d, int32_t i, const char *name)
{
    return conv_layer_name(c, d, i, conv_format(c->env, "rel_attn.%s", name));
}

/* blocks [head_dim -> head_dim + dim]: a head's query, then p_c | -p_s; the biases u and R^T v of both.    */
static void arch_xlnet_query(conv *c, const conv_decoder *d, int32_t i)
{
    const int32_t n = d->head_dim, dim = d->dim, half = dim / 2, out = n + dim;
    const int64_t all = (int64_t)d->heads * n;
    const float *r = conv_read(c, arch_xlnet_name(c, d, i, "r"), dim * all);
    const float *u = conv_read(c, arch_xlnet_name(c, d, i, "r_w_bias"), all);
    const float *v = conv_read(c, arch_xlnet_name(c, d, i, "r_r_bias"), all);
    float *w = (float *)conv_alloc(c->env, (uint64_t)(all * out), sizeof *w);
    float *b = (float *)conv_alloc(c->env, (uint64_t)d->heads * (uint64_t)out, sizeof *b);
    if (!r || !u || !v || !w || !b) return;
    for (int32_t h = 0; h < d->heads; h++)
        for (int32_t k = 0; k < out; k++) {
            double sum = 0.0;
            for (int32_t j = 0; j < n; j++) {
                const int32_t at = k - n;              /* cosines stand behind the sines in r               */
                float value = k == j ? 1.0f : 0.0f;
                if (at >= half) value = -r[(at - half) * all + h * n + j];
                else if (at >= 0) value = r[(at + half) * all + h * n + j];
                w[((int64_t)h * n + j) * out + k] = value;
                sum += (double)value * (double)(at < 0 ? u : v)[h * n + j];
            }
            b[(int64_t)h * out + k] = (float)sum;
        }
    conv_line(c, "blocks r4 r2 w=@%s out=%d groups=%d\naffine r4 r4 b=@%s",
              conv_make_values(c, conv_out_name(c, i, "relative"), w, (int32_t)(all * out)), out, d->heads,
              conv_make_values(c, conv_out_name(c, i, "relative.bias"), b, d->heads * out));
}

/* A head's key, then 1 | 0 for pairs that are turned by the key's position: the same for all layers.       */
static void arch_xlnet_key(conv *c, const conv_decoder *d)
{
    const int32_t n = d->head_dim, out = n + d->dim;
    float *w = (float *)conv_alloc(c->env, (uint64_t)n * (uint64_t)out, sizeof *w);
    float *b = (float *)conv_alloc(c->env, (uint64_t)d->heads * (uint64_t)out, sizeof *b);
    if (!w || !b) return;
    if (!conv_made(c, "key_pairs")) {
        for (int32_t k = 0; k < n * out; k++) w[k] = k / out == k % out ? 1.0f : 0.0f;
        for (int32_t k = 0; k < d->heads * out; k++)
            b[k] = k % out >= n && k % out < n + d->dim / 2 ? 1.0f : 0.0f;
        conv_make_values(c, "key_pairs", w, n * out);
        conv_make_values(c, "key_pairs.bias", b, d->heads * out);
    }
    conv_line(c, "blocks r5 r3 w=@key_pairs out=%d groups=%d shared=1\naffine r5 r5 b=@key_pairs.bias", out,
              d->heads);
}

static void arch_put_xlnet(conv *c, const conv_decoder *d, int32_t i, int src)
{
    static const char *const names[] = { "q", "k", "v" };
    const int32_t out = d->head_dim + d->dim;
    for (int k = 0; k < 3; k++) {
        const conv_view w = conv_transposed(arch_xlnet_matrix(c, d, arch_xlnet_name(c, d, i, names[k])));
        conv_line(c, "linear r%d r%d w=@%s%s", k == 2 ? 6 : 2 + k, src,
                  conv_make(c, conv_out_name(c, i, names[k]), CONV_MATRIX, w), k == 2 ? "" : " precise=1");
    }
    arch_xlnet_query(c, d, i);
    arch_xlnet_key(c, d);
    if (!conv_made(c, "relative.freq"))
        conv_make_values(c, "relative.freq", d->ropes[0].freq, d->dim / 2);
    for (int k = 4; k < 6; k++)
        conv_line(c, "rope r%d r%d first=%d heads=%d head_dim=%d dims=%d style=half freq=@relative.freq", k,
                  k,
                  d->head_dim, d->heads, out, d->dim);
    conv_line(c, "cat r7 r4 r5\ncat r8 r7 r6\nmix r3 r8 attention heads=%d head_dim=%d v_dim=%d scale=%s",
              d->heads, out,
              d->head_dim, conv_real(c, d->layer_scale[i]));
}

/* The output projection is stored [dim, heads, head_dim] too.                                              */
static void arch_xlnet_layer(conv *c, const conv_decoder *d, int32_t i)
{
    int inner = 5;
    conv_part p;
    arch_put_xlnet(c, d, i, 0);
    conv_line(c, "linear r0 r3 w=@%s add=1", conv_make(c, conv_out_name(c, i, "o"), CONV_MATRIX,
                                                       arch_xlnet_matrix(c, d, arch_xlnet_name(c, d, i,
                                                           "o"))));
    conv_put_norm(c, d, 0, 0, conv_out_name(c, i, "attn_norm"), arch_xlnet_name(c, d, i, "layer_norm"));
    conv_put_ffn(c, d, i, 0, &inner);
    p = conv_part_of(c, d, conv_out_name(c, i, "down"), conv_layer_name(c, d, i, d->down), d->dim, d->ffn,
                     CONV_BIAS);
    conv_put_linear(c, 0, inner, &p, 1, 1.0, CONV_ADD);
    conv_put_norm(c, d, 0, 0, conv_out_name(c, i, "ffn_norm"), conv_layer_name(c, d, i, "ff.layer_norm"));
}

static int arch_xlnet_sizes(conv *c, conv_decoder *d)
{
    static const char *const unread[] = {              /* memories, heads of other classes                  */
        "untie_r", "mem_len", "reuse_len", "use_mems_eval", "use_mems_train", "summary_type",
            "summary_use_proj",
        "summary_activation", "summary_last_dropout", "start_n_top", "end_n_top", "ff_activation", NULL
    };
    const char *prefix = conv_prefix(c, "transformer.", "word_embedding.weight");
    memset(d, 0, sizeof *d);
    for (int k = 0; unread[k]; k++) conv_key(c, unread[k]);
    d->dim = conv_size(c, "d_model", CONV_REQUIRED);
    d->layers = conv_size(c, "n_layer", CONV_REQUIRED);
    d->heads = d->kv_heads = conv_size(c, "n_head", CONV_REQUIRED);
    d->head_dim = conv_key(c, "d_head") ? conv_size(c, "d_head", 1) : conv_head_dim(c, d->dim, d->heads);
    d->ffn = conv_size(c, "d_inner", CONV_REQUIRED);
    d->vocab = conv_size(c, "vocab_size", CONV_REQUIRED);
    c->max_context = 2048;                             /* no key names a length                             */
    c->unlimited = 1;
    d->tied = conv_bool(c, "tie_word_embeddings", 1);
    d->norm = "layer";
    d->norm_bias = d->ffn_bias = d->head_bias = CONV_BIAS;
    d->norm_eps = conv_positive(c, "layer_norm_eps", 1e-12);
    d->embed = conv_format(c->env, "%sword_embedding", prefix);
    d->layer_prefix = conv_format(c->env, "%slayer.", prefix);
    d->up = "ff.layer_1";
    d->down = "ff.layer_2";
    d->head = "lm_loss";
    d->act = conv_activation(c, "ff_activation", "gelu");
    if (strcmp(conv_word(c, "attn_type", "bi"), "uni") != 0)
        conv_fail(c->env,
                  "config.json: \"attn_type\" is not \"uni\": XLNet that sees both sides is not supported "
                  "as a language model");
    if (conv_int(c, "clamp_len", -1, INT32_MIN, INT32_MAX) > 0)
        conv_fail(c->env, "config.json: \"clamp_len\" is not supported");
    conv_only_bool(c, "same_length", 0);
    conv_only_bool(c, "bi_data", 0);
    if (!c->env->failed && (d->dim % 2 || (int64_t)d->heads * d->head_dim * (d->head_dim
                                                                             + d->dim) > INT32_MAX))
        conv_fail(c->env, "%d heads of %d channels with relative positions of %d are not supported", d->heads,
                  d->head_dim, d->dim);
    return conv_decoder_defaults(c, d);
}

static void arch_xlnet(conv *c)
{
    static const char *const unused[] = { "*mask_emb", "*.r_s_bias", "*.seg_embed", NULL };
    conv_decoder d;
    conv_rope_spec s;
    if (!arch_xlnet_sizes(c, &d)) return;
    c->ignored = unused;                               /* of segments and of words to guess                 */
    memset(&s, 0, sizeof s);
    s.type = "default";
    s.theta = 10000.0;
    s.dims = d.dim;
    if (!conv_rope_make(c, &d.ropes[0], &s, d.dim)) return;
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        conv_line(c, "# layer %d", i);
        arch_xlnet_layer(c, &d, i);
    }
    conv_line(c, "# output");
    conv_put_head(c, &d);
}

#endif /* ARCH_XLNET_H_INCLUDED */
