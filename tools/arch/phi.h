/* arch/phi.h: Phi, Phi-3, StableLM, Cohere.                                                                */
#ifndef ARCH_PHI_H_INCLUDED
#define ARCH_PHI_H_INCLUDED
#include "gpt.h"

static void arch_phi(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", "partial_rotary_factor", 10000.0, 0.5 };
    conv_decoder d;
    if (!arch_layer_norm_base(c, &d, 0, "layer_norm_eps")) return;
    d.final_norm = conv_format(c->env, "%.*sfinal_layernorm", (int)(strlen(d.final_norm) - 4), d.final_norm);
    d.parallel = 1;
    d.ffn_norm = NULL;
    d.o = "self_attn.dense";
    d.gate = NULL;
    d.up = "mlp.fc1";
    d.down = "mlp.fc2";
    d.qkv_bias = d.o_bias = d.ffn_bias = d.head_bias = CONV_BIAS;
    if (!conv_key(c, "hidden_act")) d.act = "gelu_tanh";
    if (conv_bool(c, "qk_layernorm", 0)) {
        d.head_norm = CONV_HEAD_NORM_SHARED;
        d.head_norm_kind = "layer";
        d.head_norm_bias = CONV_BIAS;
        d.q_norm = "self_attn.q_layernorm";
        d.k_norm = "self_attn.k_layernorm";
    }
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    conv_emit_decoder(c, &d);
}

static void arch_phi3(conv *c)
{
    conv_decoder d;
    if (!conv_hf_decoder(c, &d, 0)) return;
    d.norm_eps = conv_positive(c, "rms_norm_eps", 1e-5);
    d.qkv = "self_attn.qkv_proj";
    d.gate = d.up = NULL;
    d.gate_up = "mlp.gate_up_proj";
    conv_only_bool(c, "attention_bias", 0);
    conv_set_window(&d, arch_window(c, 0));
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &arch_rope_keys, d.head_dim);
    conv_emit_decoder(c, &d);
}

/* Queries and keys of the parallel variant have a LayerNorm for each head.                                 */
static void arch_stablelm(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", "partial_rotary_factor", 10000.0, 0.25 };
    conv_decoder d;
    if (!arch_layer_norm_base(c, &d, 0, "layer_norm_eps")) return;
    d.qkv_bias = arch_bias(conv_bool(c, "use_qkv_bias", 0));
    d.parallel = conv_bool(c, "use_parallel_residual", 0);
    if (d.parallel) d.ffn_norm = NULL;
    if (conv_bool(c, "qk_layernorm", 0)) {
        d.head_norm = CONV_HEAD_NORM_OWN;
        d.head_norm_kind = "layer";
        d.q_norm = "self_attn.q_layernorm";
        d.k_norm = "self_attn.k_layernorm";
    }
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    conv_emit_decoder(c, &d);
}

/* Cohere and Cohere 2: LayerNorm without bias, one for both branches; rope in pairs of neighbours, in
   Cohere 2 only on the layers with a window.                                                               */
static void arch_cohere(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", NULL, 10000.0, 1.0 };
    const int second = strcmp(c->architecture, "cohere2") == 0;
    conv_decoder d;
    if (!arch_layer_norm_base(c, &d, 1, "layer_norm_eps")) return;
    d.norm_bias = CONV_NO_BIAS;
    d.parallel = 1;
    d.ffn_norm = NULL;
    d.qkv_bias = d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    d.head_scale = conv_positive(c, "logit_scale", 0.0625);
    if (!second && conv_bool(c, "use_qk_norm", 0)) {
        d.head_norm = CONV_HEAD_NORM_OWN;
        d.head_norm_kind = "layer";
        d.q_norm = "self_attn.q_norm";
        d.k_norm = "self_attn.k_norm";
    }
    d.ropes[0].style = "interleaved";
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    if (second) {
        const int32_t window = arch_window(c, 4096);
        const int64_t pattern = conv_int(c, "sliding_window_pattern", 4, 1, 1 << 28);
        conv_key(c, "cache_implementation");
        conv_key(c, "order_of_interleaved_layers");
        if (!conv_hf_layer_types(c, &d, window, -1, 0))
            conv_window_pattern(&d, window, (int32_t)pattern, -1, 0);
    }
    conv_emit_decoder(c, &d);
}

/* ---- GGUF ---------------------------------------------------------------------------------------------- */
static void arch_gguf_phi3(conv *c)
{
    conv_decoder d;
    if (!conv_gguf_decoder(c, &d)) return;
    d.qkv = "attn_qkv";
    d.gate = d.up = NULL;
    d.gate_up = "ffn_up";
    conv_gguf_rope(c, &d.ropes[0], "rope.freq", "half", d.head_dim);
    if (conv_gguf_number(c, "attention.sliding_window", 0.0) > 0.0)
        conv_set_window(&d, conv_gguf_size(c, "attention.sliding_window", 1));
    conv_emit_decoder(c, &d);
}

/* Parallel branches are known by the missing second norm.                                                  */
static void arch_gguf_stablelm(conv *c)
{
    conv_decoder d;
    if (!conv_gguf_decoder(c, &d)) return;
    conv_gguf_number(c, "use_parallel_residual", 0.0);
    d.parallel = !conv_has(c, "blk.0.ffn_norm.weight");
    if (d.parallel) d.ffn_norm = NULL;
    if (conv_has(c, "blk.0.attn_q_norm.weight")) {
        d.head_norm = CONV_HEAD_NORM_OWN;
        d.head_norm_kind = "layer";
        d.q_norm = "attn_q_norm";
        d.k_norm = "attn_k_norm";
    }
    conv_gguf_rope(c, &d.ropes[0], "rope.freq", "half", d.head_dim);
    conv_emit_decoder(c, &d);
}

#endif /* ARCH_PHI_H_INCLUDED */
