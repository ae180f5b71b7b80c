/* arch/deepseek_sparse.h: decoders in which an index chooses the keys that a row attends to: DeepSeek-V3.2,
   GLM-5.                                                                                                   */
#ifndef ARCH_DEEPSEEK_SPARSE_H_INCLUDED
#define ARCH_DEEPSEEK_SPARSE_H_INCLUDED
#include "deepseek.h"

/* ---- latent attention over selected keys --------------------------------------------------------------- */
typedef struct arch_index {
    int32_t     heads, head_dim, k;
    const char *style;                /* of its rope, which turns the first channels of its heads           */
} arch_index;

static void arch_index_sizes(conv *c, const arch_latent *k, arch_index *x, int64_t heads)
{
    memset(x, 0, sizeof *x);
    x->heads = conv_size(c, "index_n_heads", heads);
    x->head_dim = conv_size(c, "index_head_dim", 128);
    x->k = conv_size(c, "index_topk", 2048);
    if (x->k > c->max_context) x->k = c->max_context;
    if (x->k > 1 << 20) conv_fail(c->env, "config.json: \"index_topk\" greater than 2^20 is not supported");
    if (!k->mla.q_rank) conv_fail(c->env, "config.json: an index without \"q_lora_rank\" is not supported");
    if (k->mla.rotated > x->head_dim)
        conv_fail(c->env, "config.json: \"index_head_dim\" is smaller than \"qk_rope_head_dim\"");
}

/* The keys of each row of layer i in r13: from rows in r1 and short query rows in r4; r10 to r15 are used. */
static void arch_index_put(conv *c, const arch_latent *k, const arch_index *x, int32_t i)
{
    const conv_decoder *d = &k->d;
    const char *norm = conv_layer_name(c, d, i, "self_attn.indexer.k_norm");
    const int32_t n = x->head_dim;
    conv_rope rope = k->rope;
    conv_part p;
    rope.style = x->style;
    p = conv_part_of(c, d, conv_out_name(c, i, "index_q"),
                     conv_layer_name(c, d, i, "self_attn.indexer.wq_b"), (int64_t)x->heads * n, k->mla.q_rank,
                     CONV_NO_BIAS);
    conv_put_linear(c, 10, 4, &p, 1, 1.0, CONV_PRECISE);
    conv__mla_rope(c, &rope, 10, 0, x->heads, n);
    p = conv_part_of(c, d, conv_out_name(c, i, "index_w"),
                     conv_layer_name(c, d, i, "self_attn.indexer.weights_proj"), x->heads, d->dim,
                     CONV_NO_BIAS);
    conv_put_linear(c, 11, 1, &p, 1, 1.0 / sqrt((double)n * x->heads), CONV_PRECISE);
    p = conv_part_of(c, d, conv_out_name(c, i, "index_k"),
                     conv_layer_name(c, d, i, "self_attn.indexer.wk"), n, d->dim, CONV_NO_BIAS);
    conv_put_linear(c, 12, 1, &p, 1, 1.0, CONV_PRECISE);
    conv_line(c, "norm r12 r12 kind=layer eps=1e-06 w=@%s b=@%s",
              conv_make(c, conv_out_name(c, i, "index_norm"), CONV_VECTOR,
                        conv_take(c, conv_format(c->env, "%s.weight", norm), n, 0)),
              conv_make(c, conv_out_name(c, i, "index_norm.bias"), CONV_VECTOR,
                        conv_take(c, conv_format(c->env, "%s.bias", norm), n, 0)));
    conv__mla_rope(c, &rope, 12, 0, 1, n);
    conv_line(c, "cat r14 r10 r11\ncat r15 r14 r12");
    conv_line(c, "mix r13 r15 select heads=%d head_dim=%d k=%d", x->heads, n, x->k);
}

/* "layer_types" may only say what all layers of these models are.                                          */
static void arch_index_layer_types(conv *c, const arch_latent *k)
{
    const json_value *types = conv_key(c, "layer_types");
    if (types && json_count(types) != (uint32_t)k->d.layers)
        conv_fail(c->env, "config.json: \"layer_types\" has %u items for %d layers", json_count(types),
                  k->d.layers);
    for (uint32_t i = 0; i < json_count(types); i++)
        if (strcmp(json_text(json_at(types, i), ""), "indexed_attention") != 0)
            conv_fail(c->env, "config.json: \"layer_types\": \"%.40s\" is not known",
                      json_text(json_at(types, i), ""));
}

/* own [layers]: which layers have an index; the others attend to the keys of the last one that has.        */
static void arch_index_emit(conv *c, arch_latent *k, const arch_index *x, const uint8_t *own)
{
    arch_index_layer_types(c, k);
    conv_only_bool(c, "mlp_bias", 0);
    conv_only_bool(c, "rope_interleave", 1);
    k->mla.selected = x->k;
    arch_latent_names(c, k, "self_attn");
    conv_put_embedding(c, &k->d);
    for (int32_t i = 0; i < k->d.layers && !c->env->failed; i++) {
        conv_line(c, "# layer %d", i);
        arch_layer_norm(c, &k->d, i, "attn_norm", k->d.attn_norm);
        conv_put_mla_queries(c, &k->d, &k->mla, i, 1);
        if (own[i]) arch_index_put(c, k, x, i);
        arch_latent_out(c, k, i, conv_put_mla_attention(c, &k->d, &k->mla, i, 1));
        arch_latent_ffn(c, k, i, arch_latent_is_dense(c, k, i));
    }
    conv_put_output(c, &k->d);
}

static void arch_deepseek_v32(conv *c)
{
    static const arch_latent_usual usual = { 1536, 512, 128, 64, 128, 0, 1e-6, 10000.0, 8, 4, 1, 3, 2.5 };
    arch_latent k;
    arch_index x;
    uint8_t *own;
    if (!arch_deepseek_v3_base(c, &k, &usual)) return;
    arch_index_sizes(c, &k, &x, 64);
    x.style = "half";
    own = (uint8_t *)conv_alloc(c->env, (uint64_t)k.d.layers, 1);
    if (!own) return;
    memset(own, 1, (size_t)k.d.layers);
    arch_index_emit(c, &k, &x, own);
}

/* Which layers of GLM-5 have an index: "indexer_types", a pattern of letters, or every `freq`-th layer     */
static uint8_t *arch_glm_index_layers(conv *c, const conv_decoder *d)
{
    const json_value *types = conv_key(c, "indexer_types"), *pattern = conv_key(c, "index_topk_pattern");
    const int64_t freq = conv_int(c, "index_topk_freq", 1, 0, 1 << 20);
    const int64_t offset = conv_int(c, "index_skip_topk_offset", 2, 0, 1 << 20);
    const char *letters = json_text(pattern, NULL);
    const json_value *list = types ? types : pattern;
    uint8_t *own = (uint8_t *)conv_alloc(c->env, (uint64_t)d->layers, 1);
    const uint64_t n = !types && letters ? strlen(letters) : json_count(list);
    if (!own) return NULL;
    if (list && n < (uint64_t)d->layers)
        conv_fail(c->env, "config.json: \"%s\" has %llu items for %d layers",
                  types ? "indexer_types" : "index_topk_pattern", (unsigned long long)n, d->layers);
    for (int32_t i = 0; i < d->layers && !c->env->failed; i++) {
        const int64_t at = i - offset + 1;
        const char *type = json_text(json_at(list, (uint32_t)i), "");
        if (!types && letters) type = letters[i] == 'F' ? "full" : letters[i] == 'S' ? "shared" : "";
        if (!list) type = at <= 0 || at % (freq > 0 ? freq : 1) == 0 ? "full" : "shared";
        own[i] = strcmp(type, "full") == 0;
        if (!own[i] && strcmp(type, "shared") != 0)
            conv_fail(c->env, "config.json: \"indexer_types\": \"%.40s\" is not known", type);
        else if (!own[i] && i == 0)
            conv_fail(c->env, "config.json: \"indexer_types\": the first layer must have an index");
    }
    return own;
}

static void arch_glm_moe_dsa(conv *c)
{
    static const arch_latent_usual usual = { 2048, 512, 192, 64, 256, 0, 1e-5, 10000.0, 1, 1, 1, 3, 2.5 };
    arch_latent k;
    arch_index x;
    const uint8_t *own;
    if (!arch_deepseek_v3_base(c, &k, &usual)) return;
    arch_index_sizes(c, &k, &x, 32);
    conv_only_bool(c, "indexer_rope_interleave", 1);
    x.style = "interleaved";
    own = arch_glm_index_layers(c, &k.d);
    if (own) arch_index_emit(c, &k, &x, own);
}

#endif /* ARCH_DEEPSEEK_SPARSE_H_INCLUDED */
