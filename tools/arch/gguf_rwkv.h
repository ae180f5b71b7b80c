/* arch/gguf_rwkv.h: GGUF files of RWKV-6 and 7, and of Qwen2 with its attention replaced by them: by RWKV-6
   without bonus and norm, with fewer heads of keys and values, or by RWKV-7.                               */
#ifndef ARCH_GGUF_RWKV_H_INCLUDED
#define ARCH_GGUF_RWKV_H_INCLUDED
#include "linear.h"

/* llama.cpp's names for the official ones                                                                  */
static const lin_name arch_gguf_time_mix[] = {
    { "receptance", "time_mix_receptance" }, { "key", "time_mix_key" }, { "value", "time_mix_value" },
    { "gate", "time_mix_gate" }, { "output", "time_mix_output" }, { "ln_x.weight", "time_mix_ln.weight" },
    { "ln_x.bias", "time_mix_ln.bias" },
    { "time_maa_w1", "time_mix_w1" }, { "time_maa_w2", "time_mix_w2" }, { "time_maa_x", "time_mix_lerp_x" },
    { "time_maa", "time_mix_lerp_fused" }, { "time_maa_w", "time_mix_lerp_w" },
    { "time_maa_k", "time_mix_lerp_k" }, { "time_maa_v", "time_mix_lerp_v" },
    { "time_maa_r", "time_mix_lerp_r" }, { "time_maa_g", "time_mix_lerp_g" },
    { "time_decay_w1", "time_mix_decay_w1" }, { "time_decay_w2", "time_mix_decay_w2" },
    { "time_decay", "time_mix_decay" }, { "time_faaaa", "time_mix_first" },
    { "x_rwkvag", "time_mix_lerp_fused" }, { "w0", "time_mix_w0" }, { "w1", "time_mix_w1" },
    { "w2", "time_mix_w2" }, { "a0", "time_mix_a0" }, { "a1", "time_mix_a1" }, { "a2", "time_mix_a2" },
    { "v0", "time_mix_v0" }, { "v1", "time_mix_v1" }, { "v2", "time_mix_v2" }, { "g1", "time_mix_g1" },
    { "g2", "time_mix_g2" }, { "k_k", "time_mix_k_k" }, { "k_a", "time_mix_k_a" }, { "r_k", "time_mix_r_k" },
    { NULL, NULL }
};
static const lin_name arch_gguf_channel_mix[] = {
    { "key", "channel_mix_key" }, { "value", "channel_mix_value" },
    { "receptance", "channel_mix_receptance" },
    { "time_maa_k", "channel_mix_lerp_k" }, { "time_maa_r", "channel_mix_lerp_r" },
    { "x_k", "channel_mix_lerp_k" }, { NULL, NULL }
};
static const lin_name arch_gguf_norms[] = {
    { "ln1.weight", "attn_norm.weight" }, { "ln1.bias", "attn_norm.bias" },
    { "ln2.weight", "attn_norm_2.weight" }, { "ln2.bias", "attn_norm_2.bias" }, { NULL, NULL }
};
/* RWKV-7 mixes no values of an earlier layer into the first one's.                                         */
static const char *const arch_gguf_first_values[] = {
    "blk.0.time_mix_v0.weight", "blk.0.time_mix_v1.weight", "blk.0.time_mix_v2.weight", NULL
};

static lin arch_gguf_lin(conv *c, int32_t layer, const lin_name *names, const char *out)
{
    lin l = arch_lin(c, conv_format(c->env, "blk.%d.", layer), ".weight", layer);
    l.out = conv_format(c->env, "l%d.%s", layer, out);
    l.names = names;
    l.rwkv_cpp = l.gguf = 1;
    return l;
}

/* Sizes and the decoder around the mixers; keys whose numbers the shapes show are only read.               */
static int arch_gguf_rwkv_sizes(conv *c, conv_decoder *d, lin_rwkv *r, int *version, int qwen)
{
    static const char *const shown[] = { "attention.head_count", "time_mix_extra_dim", "time_decay_extra_dim",
        "attention.decay_lora_rank", "attention.iclr_lora_rank", "attention.value_residual_mix_lora_rank",
        "attention.gate_lora_rank", NULL };
    const lin l = arch_lin(c, "", ".weight", -1);
    memset(r, 0, sizeof *r);
    *version = strstr(c->architecture, "rwkv6") ? 6 : 7;
    c->ignored = *version == 7 ? arch_gguf_first_values : NULL;
    if (!arch_ssm_decoder(c, d, "token_embd", "output_norm", "blk.")) return 0;
    for (int i = 0; shown[i]; i++) conv_gguf_number(c, shown[i], 0.0);
    d->head = "output";
    d->dim = r->dim = conv_gguf_size(c, "embedding_length", 0);
    d->layers = conv_gguf_size(c, "block_count", 0);
    d->ffn = r->ffn = conv_gguf_size(c, "feed_forward_length", 0);
    d->vocab = lin_size(&l, "token_embd", 0);
    d->tied = !conv_has(c, "output.weight");
    d->norm = qwen ? "rms" : "layer";
    d->norm_bias = qwen ? CONV_NO_BIAS : CONV_BIAS;
    d->norm_eps = conv_gguf_number(c, qwen ? "attention.layer_norm_rms_epsilon"
                                           : "attention.layer_norm_epsilon", (double)NAN);
    d->act = "silu";
    d->ffn_norm = "ffn_norm";
    d->gate = "ffn_gate";
    d->up = "ffn_up";
    d->down = "ffn_down";
    r->head_dim = conv_gguf_size(c, "wkv.head_size", 0);
    r->heads = r->dim / r->head_dim;
    c->max_context = conv_gguf_size(c, "context_length", 0);
    c->unlimited = 1;
    if (r->heads * (int64_t)r->head_dim != r->dim)
        conv_fail(c->env, "%s: heads of %d do not divide a width of %d", c->gguf->file->path, r->head_dim,
                  r->dim);
    if (conv_gguf_number(c, "token_shift_count", qwen ? 1.0 : 2.0) != (qwen ? 1.0 : 2.0))
        conv_fail(c->env, "%s: key %s.token_shift_count is not what this architecture has",
                  c->gguf->file->path, c->architecture);
    return conv_decoder_defaults(c, d);
}

/* The time mix of layer i over r1 and its output projection, added to r0                                   */
static void arch_gguf_time_mix_layer(conv *c, const lin_rwkv *r, int version, int32_t i, int32_t gla_heads)
{
    const lin att = arch_gguf_lin(c, i, arch_gguf_time_mix, "mix.");
    conv_part out;
    lin_rwkv6 x6;
    lin_rwkv7 x7;
    int reg;
    if (version == 6) {
        lin_rwkv6_official(&att, &x6, r->dim, r->heads, gla_heads);
        reg = lin_put_rwkv6(&att, &x6, 1);
    } else {
        lin_rwkv7_official(&att, &x7, r->dim, r->heads, i == 0);
        x7.norm_eps = r->norm_eps;
        reg = lin_put_rwkv7(&att, &x7, 1, i == 0);
    }
    out = lin_part(&att, "output", r->dim, r->dim);
    conv_put_linear(c, 0, reg, &out, 1, 1.0, CONV_ADD);
}

/* Weights of later layers are halved, and the stream after every so many layers, to suit half precision.   */
static void arch_gguf_rwkv(conv *c)
{
    const lin l = arch_lin(c, "", ".weight", -1);
    int version;
    int32_t every;
    conv_decoder d;
    lin_rwkv r;
    if (!arch_gguf_rwkv_sizes(c, &d, &r, &version, 0)) return;
    every = conv_gguf_number(c, "rescale_every_n_layers", 0.0) > 0.0
        ? conv_gguf_size(c, "rescale_every_n_layers", 0) : d.layers + 1;
    r.norm_eps = d.norm_eps * r.head_dim;
    conv_put_embedding(c, &d);
    arch_lin_layer_norm(&l, 0, 0, "token_embd_norm", r.dim, d.norm_eps);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        const lin norms = arch_gguf_lin(c, i, arch_gguf_norms, "");
        const lin ffn = arch_gguf_lin(c, i, arch_gguf_channel_mix, "ffn.");
        int reg;
        conv_line(c, "# layer %d", i);
        arch_lin_layer_norm(&norms, 1, 0, "ln1", r.dim, d.norm_eps);
        arch_gguf_time_mix_layer(c, &r, version, i, 0);
        arch_lin_layer_norm(&norms, 1, 0, "ln2", r.dim, d.norm_eps);
        reg = version == 7 ? lin_put_rwkv7_channels(&ffn, &r, 1) : lin_put_rwkv_channels(&ffn, &r, 1, 1);
        conv_line(c, "add r0 r0 r%d", reg);
        if ((i + 1) % every == 0) conv_line(c, "scale r0 r0 by=0.5");
    }
    conv_put_output(c, &d);
}

/* The layers of Qwen2 around the mixers                                                                    */
static void arch_gguf_rwkv_qwen2(conv *c)
{
    int version;
    int32_t kv_heads;
    conv_decoder d;
    lin_rwkv r;
    if (!arch_gguf_rwkv_sizes(c, &d, &r, &version, 1)) return;
    kv_heads = conv_gguf_number(c, "attention.head_count_kv", 0.0) > 0.0
        ? conv_gguf_size(c, "attention.head_count_kv", 0) : r.heads;
    if (r.heads % kv_heads || (version == 7 && kv_heads != r.heads))
        conv_fail(c->env, "%s: %d heads of keys for %d of queries", c->gguf->file->path, kv_heads, r.heads);
    r.norm_eps = 64e-5;
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        conv_line(c, "# layer %d", i);
        arch_layer_norm(c, &d, i, "attn_norm", "attn_norm");
        arch_gguf_time_mix_layer(c, &r, version, i, kv_heads);
        arch_ffn_branch(c, &d, i);
    }
    conv_put_output(c, &d);
}

#endif /* ARCH_GGUF_RWKV_H_INCLUDED */
