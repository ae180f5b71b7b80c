/* arch/sines.h: XGLM and CTRL: sines and cosines of the position are added to the embedding.               */
#ifndef ARCH_SINES_H_INCLUDED
#define ARCH_SINES_H_INCLUDED
#include "gpt.h"

/* [dim / 2] inverse frequencies base^(-i / steps)                                                          */
static const float *arch_sines(conv *c, int32_t dim, double steps)
{
    float *f = (float *)conv_alloc(c->env, (uint64_t)dim / 2 + 1, sizeof *f);
    if (dim % 2 || !(steps > 0.0)) conv_fail(c->env, "sine positions of %d channels are not supported", dim);
    for (int32_t i = 0; f && i < dim / 2; i++) f[i] = (float)pow(10000.0, -i / steps);
    return f;
}

static void arch_xglm(conv *c)
{
    static const conv_size_keys keys = { "d_model", "num_layers", "attention_heads",
                                         "max_position_embeddings", 2048 };
    const char *prefix = conv_prefix(c, "model.", "embed_tokens.weight");
    static const char *const unused[] = { "*embed_positions.weights", NULL };
    conv_decoder d;
    c->ignored = unused;
    conv_hf_sizes(c, &d, &keys, 1);
    d.ffn = conv_size(c, "ffn_dim", CONV_REQUIRED);
    c->unlimited = 1;
    arch_opt_names(c, &d, prefix);
    d.positions = NULL;
    d.final_norm = conv_format(c->env, "%slayer_norm", prefix);
    d.head = "lm_head";
    d.norm_eps = 1e-5;
    d.norm_bias = d.qkv_bias = d.o_bias = d.ffn_bias = CONV_BIAS;
    d.act = conv_activation(c, "activation_function", "gelu");
    conv_key(c, "activation_dropout");
    if (!conv_decoder_defaults(c, &d)) return;
    if (conv_bool(c, "scale_embedding", 1)) d.embed_scale = sqrt((double)d.dim);
    d.sines = arch_sines(c, d.dim, d.dim / 2 - 1.0);
    d.sines_offset = 2;
    conv_emit_decoder(c, &d);
}

static void arch_ctrl(conv *c)
{
    const char *prefix = conv_prefix(c, "transformer.", "w.weight");
    static const char *const unused[] = { "*pos_encoding", NULL };
    conv_decoder d;
    if (!arch_gpt_base(c, &d, 1)) return;
    arch_gpt2_summary(c);
    c->ignored = unused;
    c->unlimited = 1;
    d.ffn = conv_size(c, "dff", CONV_REQUIRED);
    d.final_eps = d.norm_eps;
    d.norm_eps = 1e-6;                                 /* of the layers' norms                              */
    d.embed = conv_format(c->env, "%sw", prefix);
    d.final_norm = conv_format(c->env, "%slayernorm", prefix);
    d.layer_prefix = conv_format(c->env, "%sh.", prefix);
    d.attn_norm = "layernorm1"; d.ffn_norm = "layernorm2";
    d.q = "multi_head_attention.Wq"; d.k = "multi_head_attention.Wk"; d.v = "multi_head_attention.Wv";
    d.o = "multi_head_attention.dense";
    d.up = "ffn.0"; d.down = "ffn.2";
    d.qkv_bias = d.o_bias = d.ffn_bias = d.head_bias = CONV_BIAS;
    d.act = "relu";
    d.embed_scale = sqrt((double)d.dim);
    d.sines = arch_sines(c, d.dim, d.dim / 2.0);
    conv_emit_decoder(c, &d);
}

#endif /* ARCH_SINES_H_INCLUDED */
