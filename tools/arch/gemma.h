/* arch/gemma.h: Gemma 1 to 3 and VaultGemma: norms hold w - 1, the embedding is scaled by sqrt(dim). In
   GGUF files the 1 is added already.                                                                       */
#ifndef ARCH_GEMMA_H_INCLUDED
#define ARCH_GEMMA_H_INCLUDED
#include "llama.h"

static int arch_gemma_base(conv *c, conv_decoder *d)
{
    if (!conv_hf_decoder(c, d, 1)) return 0;
    if (!conv_key(c, "head_dim")) conv_fail(c->env, "config.json: key \"head_dim\" is missing");
    d->norm_eps = conv_positive(c, "rms_norm_eps", 1e-6);
    d->norm_plus = 1.0;
    d->embed_scale = sqrt((double)d->dim);
    d->qkv_bias = d->o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    conv_only_bool(c, "use_bidirectional_attention", 0);
    return !c->env->failed;
}

/* hidden_act "gelu" of the first releases means the tanh form; hidden_activation, where given, wins.       */
static void arch_gemma(conv *c)
{
    conv_decoder d;
    if (!arch_gemma_base(c, &d)) return;
    d.act = conv_key(c, "hidden_activation") ? conv_activation(c, "hidden_activation", NULL) : d.act;
    if (strcmp(d.act, "gelu") == 0 || !conv_key(c, "hidden_act")) d.act = "gelu_tanh";
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &arch_rope_keys, d.head_dim);
    conv_emit_decoder(c, &d);
}

static void arch_gemma_sandwich(conv_decoder *d)
{
    d->attn_post_norm = "post_attention_layernorm";
    d->ffn_norm = "pre_feedforward_layernorm";
    d->ffn_post_norm = "post_feedforward_layernorm";
}

/* What Gemma 2, 3 and VaultGemma share.                                                                    */
static int arch_gemma2_base(conv *c, conv_decoder *d)
{
    if (!arch_gemma_base(c, d)) return 0;
    d->act = conv_activation(c, "hidden_activation", "gelu_pytorch_tanh");
    d->attn_softcap = conv_number(c, "attn_logit_softcapping", 0.0);
    d->head_softcap = conv_number(c, "final_logit_softcapping", 0.0);
    conv_set_scale(d, 1.0 / sqrt(conv_positive(c, "query_pre_attn_scalar", 256.0)));
    conv_only_bool(c, "use_mrope", 0);
    return !c->env->failed;
}

/* Absent softcaps are 50 and 30; null means none.                                                          */
static void arch_gemma2(conv *c)
{
    conv_decoder d;
    int32_t window;
    if (!arch_gemma2_base(c, &d)) return;
    if (!conv_key_given(c, "attn_logit_softcapping")) d.attn_softcap = 50.0;
    if (!conv_key_given(c, "final_logit_softcapping")) d.head_softcap = 30.0;
    if (strcmp(c->architecture, "gemma2") == 0) arch_gemma_sandwich(&d);
    else d.ffn_norm = "pre_feedforward_layernorm";     /* vaultgemma: norms before the branches only        */
    window = arch_window(c, 4096);
    if (!conv_hf_layer_types(c, &d, window, 0, 0)) conv_window_pattern(&d, window, 2, 0, 0);
    conv_key(c, "cache_implementation");
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &arch_rope_keys, d.head_dim);
    conv_emit_decoder(c, &d);
}

/* Layers with a window have their own rope: rope_local_base_freq, never scaled.                            */
static void arch_gemma3(conv *c)
{
    static const conv_rope_keys full = { "rope_theta", NULL, 1000000.0, 1.0 };
    static const conv_rope_keys sliding = { "rope_local_base_freq", NULL, 10000.0, 1.0 };
    const int32_t pattern = (int32_t)conv_int(c, "sliding_window_pattern", 6, 1, 1 << 28);
    conv_decoder d;
    int32_t window;
    if (!arch_gemma2_base(c, &d)) return;
    arch_gemma_sandwich(&d);
    d.head_norm = CONV_HEAD_NORM_SHARED;
    d.q_norm = "self_attn.q_norm";
    d.k_norm = "self_attn.k_norm";
    conv_key(c, "_sliding_window_pattern");
    conv_key(c, "cache_implementation");
    window = arch_window(c, 4096);
    conv_hf_rope(c, &d.ropes[0], "rope.freq", "full_attention", &full, d.head_dim);
    conv_hf_sliding_rope(c, &d.ropes[1], "rope.freq_sliding", &sliding, d.head_dim);
    if (!conv_hf_layer_types(c, &d, window, 0, 1)) conv_window_pattern(&d, window, pattern, 0, 1);
    conv_emit_decoder(c, &d);
}

/* ---- GGUF ---------------------------------------------------------------------------------------------- */
static int arch_gguf_gemma_base(conv *c, conv_decoder *d)
{
    if (!conv_gguf_decoder(c, d)) return 0;
    d->act = "gelu_tanh";
    d->embed_scale = sqrt((double)d->dim);
    conv_gguf_rope(c, &d->ropes[0], "rope.freq", "half", d->head_dim);
    return !c->env->failed;
}

static void arch_gguf_gemma(conv *c)
{
    conv_decoder d;
    if (!arch_gguf_gemma_base(c, &d)) return;
    conv_emit_decoder(c, &d);
}

static int32_t arch_gguf_gemma2_base(conv *c, conv_decoder *d, int32_t large_layers)
{
    d->attn_post_norm = "post_attention_norm";
    d->ffn_post_norm = "post_ffw_norm";
    d->attn_softcap = conv_gguf_number(c, "attn_logit_softcapping", 0.0);
    d->head_softcap = conv_gguf_number(c, "final_logit_softcapping", 0.0);
    /* the 27B models */
    if (d->layers == large_layers) conv_set_scale(d, 1.0 / sqrt((double)d->dim / d->heads));
    return conv_gguf_size(c, "attention.sliding_window", 4096);
}

static void arch_gguf_gemma2(conv *c)
{
    conv_decoder d;
    int32_t window;
    if (!arch_gguf_gemma_base(c, &d)) return;
    window = arch_gguf_gemma2_base(c, &d, 46);
    if (!conv_gguf_key(c, "attn_logit_softcapping")) d.attn_softcap = 50.0;
    if (!conv_gguf_key(c, "final_logit_softcapping")) d.head_softcap = 30.0;
    conv_gguf_windows(c, &d, window, 2, 0, 0);
    conv_emit_decoder(c, &d);
}

static void arch_gguf_gemma3(conv *c)
{
    conv_decoder d;
    int32_t window;
    if (!arch_gguf_gemma_base(c, &d)) return;
    window = arch_gguf_gemma2_base(c, &d, 62);
    d.head_norm = CONV_HEAD_NORM_SHARED;
    d.q_norm = "attn_q_norm";
    d.k_norm = "attn_k_norm";
    conv_gguf_sliding_rope(c, &d.ropes[1], &d.ropes[0], "rope.freq_base_swa", d.head_dim);
    conv_gguf_windows(c, &d, window, 6, 0, 1);
    conv_emit_decoder(c, &d);
}

#endif /* ARCH_GEMMA_H_INCLUDED */
