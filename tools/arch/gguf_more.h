/* arch/gguf_more.h: GGUF files of architectures whose own mapping reads config.json only: BLOOM, Command R,
   Falcon, MPT, OLMo, OLMo 2 and 3, Phi-2, StarCoder, StarCoder 2. Names and what the converter changed are
   llama.cpp's: fused q, k, v lie in this order, q and k of OLMo are permuted for pairs of neighbours.      */
#ifndef ARCH_GGUF_MORE_H_INCLUDED
#define ARCH_GGUF_MORE_H_INCLUDED
#include "alibi.h"

/* Feed-forward part without a gate, q, k and v in one tensor where there is one.                           */
static int arch_gguf_plain(conv *c, conv_decoder *d, const char *act)
{
    if (!conv_gguf_decoder(c, d)) return 0;
    if (conv_has(c, "blk.0.attn_qkv.weight")) d->qkv = "attn_qkv";
    d->gate = NULL;
    d->act = act;
    return 1;
}

static void arch_gguf_bloom(conv *c)
{
    conv_decoder d;
    if (!arch_gguf_plain(c, &d, "gelu_tanh")) return;
    d.embed_norm_name = "token_embd_norm";
    d.alibi = arch_alibi_slopes(c, d.heads);
    c->unlimited = 1;
    conv_emit_decoder(c, &d);
}

static void arch_gguf_mpt(conv *c)
{
    conv_decoder d;
    double most;
    if (!arch_gguf_plain(c, &d, "gelu")) return;
    most = conv_gguf_number(c, "attention.max_alibi_bias", 0.0);
    d.clip_qkv = conv_gguf_number(c, "attention.clamp_kqv", 0.0);
    if (conv_has(c, "position_embd.weight")) d.positions = "position_embd";
    if (conv_has(c, "blk.0.attn_q_norm.weight")) {
        d.head_norm = CONV_HEAD_NORM_FULL;
        d.head_norm_kind = "layer";
        d.head_norm_bias = CONV_BIAS_IF_PRESENT;
        d.q_norm = "attn_q_norm";
        d.k_norm = "attn_k_norm";
    }
    if (most > 0.0) {
        d.alibi = arch_alibi_slopes_mpt(c, d.heads, most);
        c->unlimited = 1;
    }
    conv_emit_decoder(c, &d);
}

/* attn_norm is the norm of both branches, or that of the feed-forward part beside attn_norm_2.             */
static void arch_gguf_falcon(conv *c)
{
    conv_decoder d;
    if (!arch_gguf_plain(c, &d, "gelu")) return;
    d.parallel = 1;
    d.ffn_norm = NULL;
    if (conv_has(c, "blk.0.attn_norm_2.weight")) {
        d.attn_norm = "attn_norm_2";
        d.ffn_norm = "attn_norm";
    }
    conv_gguf_rope(c, &d.ropes[0], "rope.freq", "half", d.head_dim);
    conv_emit_decoder(c, &d);
}

static void arch_gguf_phi2(conv *c)
{
    conv_decoder d;
    if (!arch_gguf_plain(c, &d, "gelu_tanh")) return;
    d.parallel = 1;
    d.ffn_norm = NULL;
    conv_gguf_rope(c, &d.ropes[0], "rope.freq", "half", d.head_dim);
    conv_emit_decoder(c, &d);
}

static void arch_gguf_starcoder(conv *c)
{
    conv_decoder d;
    if (!arch_gguf_plain(c, &d, "gelu_tanh")) return;
    d.positions = "position_embd";
    conv_emit_decoder(c, &d);
}

static void arch_gguf_starcoder2(conv *c)
{
    conv_decoder d;
    if (!arch_gguf_plain(c, &d, "gelu_tanh")) return;
    if (conv_gguf_number(c, "attention.sliding_window", 0.0) > 0.0)
        conv_set_window(&d, conv_gguf_size(c, "attention.sliding_window", 1));
    conv_gguf_rope(c, &d.ropes[0], "rope.freq", "half", d.head_dim);
    conv_emit_decoder(c, &d);
}

/* Norms have no weights.                                                                                   */
static void arch_gguf_olmo(conv *c)
{
    conv_decoder d;
    if (!conv_gguf_decoder(c, &d)) return;
    d.norm_plain = 1;
    d.clip_qkv = conv_gguf_number(c, "attention.clamp_kqv", 0.0);
    conv_gguf_rope(c, &d.ropes[0], "rope.freq", "interleaved", d.head_dim);
    conv_emit_decoder(c, &d);
}

/* OLMo 3 has a window on three of four layers, whose rope is not scaled.                                   */
static void arch_gguf_olmo2(conv *c)
{
    conv_decoder d;
    if (!conv_gguf_decoder(c, &d)) return;
    d.attn_norm = d.ffn_norm = NULL;
    d.attn_post_norm = "post_attention_norm";
    d.ffn_post_norm = "post_ffw_norm";
    d.head_norm = CONV_HEAD_NORM_FULL;
    d.q_norm = "attn_q_norm";
    d.k_norm = "attn_k_norm";
    conv_gguf_rope(c, &d.ropes[0], "rope.freq", "half", d.head_dim);
    if (conv_gguf_number(c, "attention.sliding_window", 0.0) > 0.0) {
        conv_gguf_sliding_rope(c, &d.ropes[1], &d.ropes[0], "rope.freq_base", d.head_dim);
        conv_gguf_windows(c, &d, conv_gguf_size(c, "attention.sliding_window", 1), 4, 0, 1);
    }
    conv_emit_decoder(c, &d);
}

/* Command R and, with windows on three of four layers that alone have a rope, Cohere 2.                    */
static void arch_gguf_command_r(conv *c)
{
    conv_decoder d;
    if (!conv_gguf_decoder(c, &d)) return;
    d.parallel = 1;
    d.ffn_norm = NULL;
    d.head_scale = conv_gguf_number(c, "logit_scale", 1.0);
    if (!(d.head_scale > 0.0))
        conv_fail(c->env, "%s: logit_scale must be greater than 0", c->gguf->file->path);
    if (conv_has(c, "blk.0.attn_q_norm.weight")) {
        d.head_norm = CONV_HEAD_NORM_OWN;
        d.head_norm_kind = "layer";
        d.q_norm = "attn_q_norm";
        d.k_norm = "attn_k_norm";
    }
    conv_gguf_rope(c, &d.ropes[0], "rope.freq", "interleaved", d.head_dim);
    if (strcmp(c->architecture, "cohere2") == 0)
        conv_gguf_windows(c, &d, conv_gguf_size(c, "attention.sliding_window", 4096), 4, -1, 0);
    conv_emit_decoder(c, &d);
}

#endif /* ARCH_GGUF_MORE_H_INCLUDED */
