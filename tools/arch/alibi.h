/* arch/alibi.h: models whose attention knows distances by ALiBi only: BLOOM, MPT; slopes for Falcon too.   */
#ifndef ARCH_ALIBI_H_INCLUDED
#define ARCH_ALIBI_H_INCLUDED
#include "llama.h"

/* Slopes of n heads: 2^(-8 (i + 1) / m) for the largest power of two m <= n, then every second one of 2m.  */
static const float *arch_alibi_slopes(conv *c, int32_t n)
{
    float *slopes = (float *)conv_alloc(c->env, (uint64_t)n, sizeof *slopes);
    int32_t m = 1;
    while (2 * (int64_t)m <= n) m *= 2;
    for (int32_t i = 0; slopes && i < n; i++)
        slopes[i] = (float)pow(2.0, i < m ? -8.0 * (i + 1) / m : -8.0 * (2 * (i - m) + 1) / (2.0 * m));
    return slopes;
}

/* MPT's order: those of the next power of two, odd places first; steepest 2^-most.                         */
static const float *arch_alibi_slopes_mpt(conv *c, int32_t n, double most)
{
    float *slopes = (float *)conv_alloc(c->env, (uint64_t)n, sizeof *slopes);
    int64_t m = 1;
    while (m < n) m *= 2;
    for (int32_t i = 0; slopes && i < n; i++) {
        const int64_t at = m == n ? i : i < m / 2 ? 2 * i + 1 : 2 * (i - m / 2);
        slopes[i] = (float)pow(2.0, -most * (double)(at + 1) / (double)m);
    }
    return slopes;
}

/* Falcon's products of slopes and positions are bfloat16 numbers, divided by the square root of the channels
   as the scores are. The reference adds them twice, but for its implementations "sdpa" and
   "flash_attention_2".                                                                                     */
static void arch_alibi_falcon(conv *c, conv_decoder *d)
{
    const char *how = conv_word(c, conv_key(c, "attn_implementation") ? "attn_implementation"
                                : "_attn_implementation", "eager");
    const int twice = strcmp(how, "eager") == 0;
    float *slopes = (float *)(uintptr_t)arch_alibi_slopes(c, d->heads);
    for (int32_t i = 0; slopes && i < d->heads; i++)
        slopes[i] = sqm__bf16_to_f32(sqm__f32_to_bf16(slopes[i]));
    d->alibi = slopes;
    d->alibi_rounded = (twice ? 2.0 : 1.0) / sqrt((double)d->head_dim);
    d->ropes[0].dims = 0;
    c->unlimited = 1;
}

static void arch_bloom(conv *c)
{
    /* seq_length is that of the training: no limit                                                         */
    conv_size_keys keys = { "hidden_size", "num_hidden_layers", "num_attention_heads", "seq_length", 2048 };
    const char *prefix = conv_prefix(c, "transformer.", "word_embeddings.weight");
    conv_decoder d;
    if (conv_key(c, "n_embed")) keys.dim = "n_embed";
    if (conv_key(c, "n_layer")) keys.layers = "n_layer";
    if (conv_key(c, "n_head")) keys.heads = "n_head";
    conv_hf_sizes(c, &d, &keys, 1);
    d.ffn = 4 * d.dim;
    c->unlimited = 1;
    d.norm = "layer";
    d.norm_bias = d.qkv_bias = d.o_bias = d.ffn_bias = CONV_BIAS;
    d.norm_eps = conv_positive(c, "layer_norm_epsilon", 1e-5);
    d.embed = conv_format(c->env, "%sword_embeddings", prefix);
    d.embed_norm_name = conv_format(c->env, "%sword_embeddings_layernorm", prefix);
    d.final_norm = conv_format(c->env, "%sln_f", prefix);
    d.layer_prefix = conv_format(c->env, "%sh.", prefix);
    d.head = "lm_head";
    d.attn_norm = "input_layernorm"; d.ffn_norm = "post_attention_layernorm";
    d.qkv = "self_attention.query_key_value";
    d.qkv_order = CONV_QKV_PER_HEAD;
    d.o = "self_attention.dense";
    d.up = "mlp.dense_h_to_4h"; d.down = "mlp.dense_4h_to_h";
    d.act = "gelu_tanh";
    d.norm_in_stream = conv_bool(c, "apply_residual_connection_post_layernorm", 0);
    conv_bool(c, "slow_but_exact", 0);                 /* only the order of sums                            */
    conv_key(c, "skip_bias_add"); conv_key(c, "skip_bias_add_qkv");        /* of the training               */
    conv_key(c, "attention_softmax_in_fp32"); conv_key(c, "masked_softmax_fusion");
    conv_key(c, "bias_dropout_fusion"); conv_key(c, "offset_alibi"); conv_key(c, "n_inner");
    if (!conv_decoder_defaults(c, &d)) return;
    d.alibi = arch_alibi_slopes(c, d.heads);
    conv_emit_decoder(c, &d);
}

/* "attn_config" of MPT; the steepness of ALiBi is read for its default only: the reference ignores it.     */
static void arch_mpt_attention(conv *c, conv_decoder *d)
{
    static const char *const known[] = {
        "alibi", "alibi_bias_max", "attn_impl", "attn_pdrop", "attn_type", "attn_uses_sequence_id",
        "clip_qkv",
        "model_type", "prefix_lm", "qk_ln", "softmax_scale", NULL
    };
    const json_value *a = conv_key(c, "attn_config");
    const char *type = json_text(json_get(a, "attn_type"), "multihead_attention");
    for (uint32_t i = 0; i < json_count(a); i++) {
        const char *key = json_key_at(a, i)->text;
        int found = json_is(json_at(a, i), JSON_NULL) || *key == '_';
        for (int k = 0; !found && known[k]; k++) found = strcmp(known[k], key) == 0;
        for (int k = 0; !found && conv_ignored_keys[k]; k++) found = strcmp(conv_ignored_keys[k], key) == 0;
        if (!found && strcmp(key, "is_encoder_decoder") != 0)
            conv_fail(c->env, "config.json: \"attn_config\": \"%.60s\" is not known", key);
    }
    if (json_bool(json_get(a, "alibi"), 1) != 1 || json_bool(json_get(a, "qk_ln"), 0) != 0 ||
        json_bool(json_get(a, "prefix_lm"), 0) != 0 ||
        json_bool(json_get(a, "attn_uses_sequence_id"), 0) != 0 ||
        strcmp(type, "multihead_attention") != 0)
        conv_fail(c->env, "config.json: \"attn_config\" asks for what is not supported (only ALiBi without "
                  "norms of queries, prefixes and shared heads is)");
    d->clip_qkv = json_number(json_get(a, "clip_qkv"), 0.0);
    if (json_is(json_get(a, "softmax_scale"), JSON_NUMBER))
        conv_set_scale(d, json_number(json_get(a, "softmax_scale"), 0.0));
}

static void arch_mpt(conv *c)
{
    static const conv_size_keys keys = { "d_model", "n_layers", "n_heads", "max_seq_len", 2048 };
    static const char *const unused[] = { "expansion_ratio", "learned_pos_emb", "init_device", "verbose",
                                          "no_bias",
                                          "emb_pdrop", "norm_type", "init_config", "param_init_fn",
                                          "tokenizer_name", NULL };
    const char *prefix = conv_prefix(c, "transformer.", "wte.weight");
    conv_decoder d;
    conv_hf_sizes(c, &d, &keys, 1);
    d.ffn = 4 * d.dim;                                 /* whatever expansion_ratio says                     */
    c->unlimited = 1;
    for (int i = 0; unused[i]; i++) conv_key(c, unused[i]);
    if (conv_key(c, "logit_scale")) conv_fail(c->env, "config.json: \"logit_scale\" is not supported");
    if (conv_number(c, "embedding_fraction", 1.0) != 1.0)
        conv_fail(c->env, "config.json: \"embedding_fraction\" is not supported");
    d.norm = "layer";
    d.norm_eps = conv_positive(c, "layer_norm_epsilon", 1e-5);
    d.embed = conv_format(c->env, "%swte", prefix);
    d.final_norm = conv_format(c->env, "%snorm_f", prefix);
    d.layer_prefix = conv_format(c->env, "%sblocks.", prefix);
    d.head = "lm_head";
    d.attn_norm = "norm_1"; d.ffn_norm = "norm_2";
    d.qkv = "attn.Wqkv"; d.o = "attn.out_proj";
    d.up = "ffn.up_proj"; d.down = "ffn.down_proj";
    d.act = "gelu";
    if (!conv_decoder_defaults(c, &d)) return;
    arch_mpt_attention(c, &d);
    d.alibi = arch_alibi_slopes_mpt(c, d.heads, 8.0);
    conv_emit_decoder(c, &d);
}

#endif /* ARCH_ALIBI_H_INCLUDED */
