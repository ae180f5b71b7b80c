/* arch/ssm.h: state-space models and their hybrids with attention. Facts are from the modeling files of
   transformers 5, from the configurations of state-spaces/mamba and from llama.cpp's converter.            */
#ifndef ARCH_SSM_H_INCLUDED
#define ARCH_SSM_H_INCLUDED
#include "llama.h"
#include "../prep_ssm.h"
#include "../conv_moe.h"

/* ---- what the mappings share --------------------------------------------------------------------------- */
/* A decoder of which only embedding, norms and head are used: sizes and names.                             */
static int arch_ssm_decoder(conv *c, conv_decoder *d, const char *embed, const char *final_norm,
                            const char *layer_prefix)
{
    memset(d, 0, sizeof *d);
    d->heads = d->kv_heads = d->head_dim = 1;
    d->embed = embed;
    d->final_norm = final_norm;
    d->layer_prefix = layer_prefix;
    d->head = "lm_head";
    return !c->env->failed;
}

/* norm r1 r0 with the weights `name` of layer i                                                            */
static void arch_layer_norm(conv *c, const conv_decoder *d, int32_t i, const char *out, const char *name)
{
    conv_put_norm(c, d, 1, 0, conv_out_name(c, i, out), conv_layer_name(c, d, i, name));
}

/* The block of layer i whose tensors stand under `name` in the checkpoint: r1 -> added to r0               */
static ssm_block arch_block(conv *c, const conv_decoder *d, int32_t i, const char *name)
{
    ssm_block b;
    memset(&b, 0, sizeof b);
    b.names = &ssm_official;
    b.in = conv_format(c->env, "%s.", conv_layer_name(c, d, i, name));
    b.out = conv_format(c->env, "l%d.", i);
    b.dim = d->dim;
    b.src = b.add = 1;
    b.scale = d->residual_scale;
    return b;
}

/* Attention of layer i: r1 -> added to r0 (over a norm `post`, if there is one). gate: each head's result
   times sigmoid of a number that this weight [heads, dim] makes of the rows.                               */
static void arch_gated_attention(conv *c, const conv_decoder *d, int32_t i, const char *gate)
{
    const char *post = d->attn_post_norm ? conv_layer_name(c, d, i, d->attn_post_norm) : NULL;
    conv_part end;
    conv_put_attention(c, d, i, 1);
    if (gate) {
        end = conv_part_of(c, d, conv_out_name(c, i, "attn_gate"), conv_layer_name(c, d, i, gate), d->heads,
                           d->dim, CONV_NO_BIAS);
        conv_put_linear(c, 4, 1, &end, 1, 1.0, 0);
        conv_line(c, "act r4 r4 kind=sigmoid\nmul r3 r3 r4");
    }
    end = conv_part_of(c, d, conv_out_name(c, i, "o"), conv_layer_name(c, d, i, d->o), d->dim,
                       (int64_t)d->heads * d->head_dim, d->o_bias);
    conv_put_branch_end(c, d, 3, &end, conv_out_name(c, i, "attn_post_norm"), post);
}
static void arch_attention_branch(conv *c, const conv_decoder *d, int32_t i)
{
    arch_gated_attention(c, d, i, NULL);
}

/* norm and feed-forward part of layer i: r0 -> added to r0                                                 */
static void arch_ffn_branch(conv *c, const conv_decoder *d, int32_t i)
{
    const char *post = d->ffn_post_norm ? conv_layer_name(c, d, i, d->ffn_post_norm) : NULL;
    conv_part end;
    int inner = 5;
    arch_layer_norm(c, d, i, "ffn_norm", d->ffn_norm);
    conv_put_ffn(c, d, i, 1, &inner);
    end = conv_part_of(c, d, conv_out_name(c, i, "down"), conv_layer_name(c, d, i, d->down), d->dim, d->ffn,
                       d->ffn_bias);
    conv_put_branch_end(c, d, inner, &end, conv_out_name(c, i, "ffn_post_norm"), post);
}

static void arch_output(conv *c, const conv_decoder *d)
{
    conv_line(c, "# output");
    conv_put_norm(c, d, 0, 0, "norm", d->final_norm);
    conv_put_head(c, d);
}

/* A bias must be in the checkpoint exactly when the configuration says so.                                 */
static void arch_expect_bias(conv *c, const ssm_block *b, const char *name, int wanted)
{
    const char *bias = conv_format(c->env, "%s%s.bias", b->in, name);
    if (conv_has(c, bias) != (wanted != 0))
        conv_fail(c->env, "tensor %.100s is %s the checkpoint, but the configuration says otherwise", bias,
                  wanted ? "not in" : "in");
}

/* Limits of the step size: [low, high], infinity in several spellings                                      */
static void arch_step_limits(conv *c, const char *key, ssm_mamba2 *m)
{
    const json_value *list = conv_key(c, key);
    m->dt_low = 0.0;
    m->dt_high = 1e30;
    if (!list) return;
    m->dt_low = json_number(json_at(list, 0), -1.0);
    if (json_is(json_at(list, 1), JSON_NUMBER)) m->dt_high = json_number(json_at(list, 1), -1.0);
    if (json_count(list) != 2 || !(m->dt_low >= 0.0 && m->dt_low <= m->dt_high))
        conv_fail(c->env, "config.json: \"%s\" is not a list [low, high] with 0 <= low <= high", key);
    if (!(m->dt_high < 1e30)) m->dt_high = 1e30;
}

/* A size that may also be "auto"                                                                           */
static int32_t arch_auto_size(conv *c, const char *key, int64_t automatic)
{
    const json_value *v = conv_key(c, key);
    if (!v || json_text_is(v, "auto")) return (int32_t)automatic;
    return conv_size(c, key, automatic);
}

/* Keys about the initialisation of weights and the choice of kernels                                       */
static void arch_ssm_unused_keys(conv *c)
{
    static const char *const keys[] = {
        "time_step_min", "time_step_max", "time_step_floor", "time_step_scale", "time_step_init_scheme",
        "rescale_prenorm_residual", "residual_in_fp32", "use_associative_scan", "use_mamba_kernels",
        "chunk_size", "mamba_chunk_size", "num_logits_to_keep", "output_router_logits", "z_loss_coefficient",
        "router_aux_loss_coef", "mamba_ssm_cache_dtype", "use_mem_eff_path", NULL
    };
    for (int i = 0; keys[i]; i++) conv_key(c, keys[i]);
}

/* ---- Mamba, Mamba-2, FalconMamba: one block a layer ---------------------------------------------------- */
static int arch_mamba_base(conv *c, conv_decoder *d, int tied)
{
    const char *prefix = conv_prefix(c, "backbone.", "embeddings.weight");
    if (!arch_ssm_decoder(c, d, conv_format(c->env, "%sembeddings", prefix),
                          conv_format(c->env, "%snorm_f", prefix),
                          conv_format(c->env, "%slayers.", prefix))) return 0;
    d->dim = conv_size(c, "hidden_size", CONV_REQUIRED);
    d->layers = conv_size(c, "num_hidden_layers", CONV_REQUIRED);
    d->vocab = conv_size(c, "vocab_size", CONV_REQUIRED);
    d->tied = conv_bool(c, "tie_word_embeddings", tied);
    d->norm_eps = conv_positive(c, "layer_norm_epsilon", 1e-5);
    arch_ssm_unused_keys(c);
    return conv_decoder_defaults(c, d);
}

/* Channels inside a block: expand * hidden_size, rounded down.                                             */
static int32_t arch_expanded(conv *c, const conv_decoder *d, const char *key, double otherwise)
{
    const double n = floor(conv_positive(c, key, otherwise) * d->dim);
    if (n >= 1.0 && n <= 268435456.0) return (int32_t)n;
    conv_fail(c->env, "config.json: \"%s\" makes blocks of %g channels", key, n);
    return 1;
}

static void arch_mamba(conv *c)
{
    const int falcon = strcmp(c->architecture, "falcon_mamba") == 0;
    const int bias = conv_bool(c, "use_bias", 0), taps_bias = conv_bool(c, "use_conv_bias", 1);
    conv_decoder d;
    ssm_mamba1 m;
    memset(&m, 0, sizeof m);
    if (!arch_mamba_base(c, &d, 1)) return;
    m.inner = arch_expanded(c, &d, "expand", 2.0);
    if (conv_size(c, "intermediate_size", m.inner) != m.inner)
        conv_fail(c->env, "config.json: \"intermediate_size\" is not expand * hidden_size = %d", m.inner);
    m.state = conv_size(c, "state_size", 16);
    m.taps = conv_size(c, "conv_kernel", 4);
    m.rank = arch_auto_size(c, "time_step_rank", (d.dim + 15) / 16);
    m.act = conv_activation(c, "hidden_act", "silu");
    if (falcon) m.norm_eps = conv_positive(c, "mixer_rms_eps", 1e-6);
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        const ssm_block b = arch_block(c, &d, i, "mixer");
        conv_line(c, "# layer %d", i);
        arch_layer_norm(c, &d, i, "norm", "norm");
        arch_expect_bias(c, &b, "in_proj", bias);
        arch_expect_bias(c, &b, "out_proj", bias);
        arch_expect_bias(c, &b, "conv1d", taps_bias);
        ssm_put_mamba1(c, &b, &m);
    }
    arch_output(c, &d);
}

/* The gated norm of Mamba-2 always gates with silu and counts its mean squares group by group.             */
static void arch_mamba2(conv *c)
{
    const int bias = conv_bool(c, "use_bias", 0), taps_bias = conv_bool(c, "use_conv_bias", 1);
    conv_decoder d;
    ssm_mamba2 m;
    memset(&m, 0, sizeof m);
    if (!arch_mamba_base(c, &d, 0)) return;
    conv_key(c, "time_step_rank");
    m.heads = conv_size(c, "num_heads", 128);
    m.head_dim = conv_size(c, "head_dim", 64);
    m.inner = arch_expanded(c, &d, "expand", 2.0);
    m.groups = m.norm_groups = conv_size(c, "n_groups", 8);
    m.state = conv_size(c, "state_size", 128);
    m.taps = conv_size(c, "conv_kernel", 4);
    m.norm_eps = d.norm_eps;
    m.act = conv_activation(c, "hidden_act", "silu");
    arch_step_limits(c, "time_step_limit", &m);
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        const ssm_block b = arch_block(c, &d, i, "mixer");
        conv_line(c, "# layer %d", i);
        arch_layer_norm(c, &d, i, "norm", "norm");
        arch_expect_bias(c, &b, "in_proj", bias);
        arch_expect_bias(c, &b, "out_proj", bias);
        arch_expect_bias(c, &b, "conv1d", taps_bias);
        ssm_put_mamba2(c, &b, &m);
    }
    arch_output(c, &d);
}

/* ---- original checkpoints of state-spaces/mamba: config.json without model_type ------------------------ */
/* A size in ssm_cfg                                                                                        */
static int32_t arch_cfg_size(conv *c, const json_value *cfg, const char *key, int64_t otherwise)
{
    const json_value *v = json_get(cfg, key);
    const int64_t n = v && !json_text_is(v, "auto") ? json_int(v, -1) : otherwise;
    if (n >= 1 && n <= 1 << 28) return (int32_t)n;
    conv_fail(c->env, "config.json: \"ssm_cfg\": \"%s\" is not a whole number from 1 to 2^28", key);
    return 1;
}
static void arch_cfg_known(conv *c, const json_value *cfg)
{
    static const char *const known[] = {
        "layer", "d_state", "d_conv", "expand", "dt_rank", "headdim", "ngroups", "dt_min", "dt_max",
        "dt_init", "dt_scale", "dt_init_floor", "chunk_size", "use_fast_path", "use_mem_eff_path", NULL
    };
    for (uint32_t i = 0; i < json_count(cfg); i++) {
        const char *key = json_key_at(cfg, i)->text;
        int found = 0;
        for (int k = 0; !found && known[k]; k++) found = strcmp(known[k], key) == 0;
        if (!found)
            conv_fail(c->env, "config.json: \"ssm_cfg\": \"%.60s\" is not known and might change the results",
                      key);
    }
}
static void arch_state_spaces_layer(conv *c, const conv_decoder *d, int32_t i, const json_value *cfg)
{
    const ssm_block b = arch_block(c, d, i, "mixer");
    const int32_t inner = arch_cfg_size(c, cfg, "expand", 2) * d->dim;
    if (json_text_is(json_get(cfg, "layer"), "Mamba2")) {
        ssm_mamba2 m;
        memset(&m, 0, sizeof m);
        m.inner = inner;
        m.head_dim = arch_cfg_size(c, cfg, "headdim", 64);
        m.heads = inner / m.head_dim;
        m.groups = m.norm_groups = arch_cfg_size(c, cfg, "ngroups", 1);
        m.state = arch_cfg_size(c, cfg, "d_state", 128);
        m.taps = arch_cfg_size(c, cfg, "d_conv", 4);
        m.norm_eps = 1e-5;
        m.dt_high = 1e30;
        m.act = "silu";
        ssm_put_mamba2(c, &b, &m);
    } else {
        ssm_mamba1 m;
        memset(&m, 0, sizeof m);
        m.inner = inner;
        m.state = arch_cfg_size(c, cfg, "d_state", 16);
        m.rank = arch_cfg_size(c, cfg, "dt_rank", (d->dim + 15) / 16);
        m.taps = arch_cfg_size(c, cfg, "d_conv", 4);
        m.act = "silu";
        ssm_put_mamba1(c, &b, &m);
    }
}
/* The vocabulary is padded; embedding and head share their weights; norms may be layer norms.              */
static void arch_state_spaces(conv *c)
{
    const json_value *cfg = conv_key(c, "ssm_cfg"), *layer = json_get(cfg, "layer");
    int64_t multiple;
    conv_decoder d;
    if (!arch_ssm_decoder(c, &d, "backbone.embedding", "backbone.norm_f", "backbone.layers.")) return;
    d.dim = conv_size(c, "d_model", CONV_REQUIRED);
    d.layers = conv_size(c, "n_layer", CONV_REQUIRED);
    multiple = conv_size(c, "pad_vocab_size_multiple", 8);
    d.vocab = (int32_t)((conv_size(c, "vocab_size", 50277) + multiple - 1) / multiple * multiple);
    d.tied = conv_bool(c, "tie_embeddings", 1);
    d.norm_eps = 1e-5;
    if (!conv_bool(c, "rms_norm", 1)) { d.norm = "layer"; d.norm_bias = CONV_BIAS; }
    conv_key(c, "residual_in_fp32");
    conv_key(c, "fused_add_norm");
    conv_key(c, "attn_cfg");
    if (json_count(conv_key(c, "attn_layer_idx")) || conv_int(c, "d_intermediate", 0, 0, 1 << 28))
        conv_fail(c->env, "config.json: attention layers and MLPs of state-spaces/mamba are not supported");
    if (layer && !json_text_is(layer, "Mamba1") && !json_text_is(layer, "Mamba2"))
        conv_fail(c->env, "config.json: \"ssm_cfg\": layer \"%.40s\" is not known", json_text(layer, "?"));
    arch_cfg_known(c, cfg);
    if (!conv_decoder_defaults(c, &d)) return;
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        conv_line(c, "# layer %d", i);
        arch_layer_norm(c, &d, i, "norm", "norm");
        arch_state_spaces_layer(c, &d, i, cfg);
    }
    arch_output(c, &d);
}

/* ---- GGUF: Mamba, FalconMamba, Mamba-2 ----------------------------------------------------------------- */
static void arch_gguf_mamba(conv *c)
{
    const conv_tensor *embed = conv_source_find(&c->source, "token_embd.weight");
    const int second = strcmp(c->architecture, "mamba2") == 0;
    conv_decoder d;
    ssm_mamba1 m1;
    ssm_mamba2 m2;
    memset(&m1, 0, sizeof m1);
    memset(&m2, 0, sizeof m2);
    if (!arch_ssm_decoder(c, &d, "token_embd", "output_norm", "blk.")) return;
    d.head = "output";
    d.dim = conv_gguf_size(c, "embedding_length", 0);
    d.layers = conv_gguf_size(c, "block_count", 0);
    d.vocab = embed && embed->ndim == 2 && embed->shape[0] <= INT32_MAX ? (int32_t)embed->shape[0] : 1;
    d.tied = !conv_has(c, "output.weight");
    d.norm_eps = conv_gguf_number(c, "attention.layer_norm_rms_epsilon", (double)NAN);
    conv_gguf_number(c, "context_length", 0.0);        /* of the training; nothing depends on it            */
    conv_gguf_number(c, "feed_forward_length", 0.0);
    conv_gguf_number(c, "attention.head_count", 0.0);
    m1.inner = m2.inner = conv_gguf_size(c, "ssm.inner_size", 0);
    m1.state = m2.state = conv_gguf_size(c, "ssm.state_size", 0);
    m1.taps = m2.taps = conv_gguf_size(c, "ssm.conv_kernel", 0);
    m1.rank = m2.heads = conv_gguf_size(c, "ssm.time_step_rank", 0);
    m1.act = m2.act = "silu";
    if (conv_gguf_number(c, "ssm.dt_b_c_rms", 0.0) != 0.0) m1.norm_eps = d.norm_eps;
    m2.groups = m2.norm_groups = conv_gguf_size(c, "ssm.group_count", 1);
    m2.head_dim = m2.inner / m2.heads;
    m2.norm_eps = d.norm_eps;
    m2.dt_high = 1e30;
    if (!conv_decoder_defaults(c, &d)) return;
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        ssm_block b = arch_block(c, &d, i, "");
        b.names = &ssm_llamacpp;
        b.in = conv_format(c->env, "blk.%d.", i);
        conv_line(c, "# layer %d", i);
        arch_layer_norm(c, &d, i, "norm", "attn_norm");
        if (second) ssm_put_mamba2(c, &b, &m2);
        else ssm_put_mamba1(c, &b, &m1);
    }
    arch_output(c, &d);
}

/* ---- LFM2, LFM3: gated short convolutions between attention layers ------------------------------------- */
/* in_proj rows [B | C | x]: C * conv(B * x)                                                                */
static void arch_lfm_conv(conv *c, const conv_decoder *d, int32_t i, int32_t taps)
{
    ssm_block b = arch_block(c, d, i, "conv");
    ssm_conv k;
    memset(&k, 0, sizeof k);
    k.name = "conv";
    k.channels = d->dim;
    k.taps = taps;
    ssm_put_linear(c, &b, 2, 1, "in_proj", 3 * (int64_t)d->dim, d->dim, 0);
    conv_line(c, "copy r3 r2 first=%d count=%d\ngate r3 r3 r2 act=none", 2 * d->dim, d->dim);
    ssm_put_conv(c, &b, 4, 3, &k);
    conv_line(c, "gate r4 r4 r2 act=none first=%d", d->dim);
    if (!d->attn_post_norm) { ssm_put_linear(c, &b, 0, 4, "out_proj", d->dim, d->dim, 1); return; }
    ssm_put_linear(c, &b, 1, 4, "out_proj", d->dim, d->dim, 0);
    conv_put_norm(c, d, 1, 1, conv_out_name(c, i, "attn_post_norm"), conv_layer_name(c, d, i, d->attn_post_norm));
    conv_line(c, "add r0 r0 r1");
}

/* Is layer i one of attention? From layer_types, or a list of indices; absent both: all are.               */
static int arch_lfm2_attends(conv *c, const conv_decoder *d, int32_t i)
{
    const json_value *types = conv_key(c, "layer_types"), *list = conv_key(c, "full_attn_idxs");
    const char *type = json_text(json_at(types, (uint32_t)i), "");
    if (types && (json_count(types) != (uint32_t)d->layers || (strcmp(type, "conv") && strcmp(type, "full_attention"))))
        conv_fail(c->env, "config.json: \"layer_types\": item %d is \"%.40s\", or there are not %d", i, type,
                  d->layers);
    if (types) return strcmp(type, "conv") != 0;
    for (uint32_t k = 0; list && k < json_count(list); k++)
        if (json_int(json_at(list, k), -1) == i) return 1;
    return !list;
}

static int arch_lfm_base(conv *c, conv_decoder *d)
{
    if (!conv_hf_decoder(c, d, 1)) return 0;
    d->norm_eps = conv_positive(c, "norm_eps", 1e-5);
    d->final_norm = conv_format(c->env, "%sembedding_norm", conv_prefix(c, "model.", "embed_tokens.weight"));
    d->attn_norm = "operator_norm";
    d->ffn_norm = "ffn_norm";
    d->gate = "feed_forward.w1";
    d->up = "feed_forward.w3";
    d->down = "feed_forward.w2";
    d->head_norm = CONV_HEAD_NORM_SHARED;
    return !c->env->failed;
}

/* Width of the feed-forward part as LFM2 counts it                                                         */
static int32_t arch_lfm2_ffn(conv *c, const conv_decoder *d)
{
    const int adjust = conv_bool(c, "block_auto_adjust_ff_dim", 1);
    const double factor = conv_number(c, "block_ffn_dim_multiplier", 1.0);
    const int64_t multiple = conv_size(c, "block_multiple_of", 256);
    int64_t n = conv_key(c, "block_ff_dim") ? conv_size(c, "block_ff_dim", 1) : d->ffn;
    if (!adjust) return (int32_t)n;
    n = 2 * n / 3;
    if (conv_key_given(c, "block_ffn_dim_multiplier") && !conv_key(c, "block_ffn_dim_multiplier")) return (int32_t)n;
    n = (int64_t)(factor * (double)n);
    return (int32_t)((n + multiple - 1) / multiple * multiple);
}

static void arch_expert_branch(conv *c, const conv_decoder *d, int32_t i, conv_moe *m, const char *router,
                               const char *bias, const char *const names[3]);

/* The experts of Lfm2Moe; 0: there are none                                                                */
static int32_t arch_lfm2_experts(conv *c, const conv_decoder *d, conv_moe *m)
{
    memset(m, 0, sizeof *m);
    if (strcmp(c->architecture, "lfm2_moe") != 0) return 0;
    m->experts = conv_size(c, "num_experts", 32);
    m->k = conv_size(c, "num_experts_per_tok", 4);
    m->dim = d->dim;
    m->inner = conv_size(c, "moe_intermediate_size", 1792);
    m->score = "sigmoid";
    m->act = d->act;
    m->renorm = conv_bool(c, "norm_topk_prob", 1);
    m->eps = 1e-6;
    m->scale = conv_number(c, "routed_scaling_factor", 1.0);
    return m->experts;
}

static void arch_lfm2(conv *c)
{
    static const char *const names[3] = { "feed_forward.experts.%d.w1.weight", "feed_forward.experts.%d.w3.weight",
                                          "feed_forward.experts.%d.w2.weight" };
    static const conv_rope_keys keys = { "rope_theta", NULL, 1000000.0, 1.0 };
    static const char *const unused[] = {
        "block_dim", "block_mlp_init_scale", "block_norm_eps", "block_out_init_scale", "block_use_swiglu",
        "block_use_xavier_init", "conv_dim", "conv_dim_out", "conv_use_xavier_init", "num_heads",
        "use_pos_enc", "theta", NULL
    };
    const int bias = conv_bool(c, "conv_bias", 0);
    const int32_t taps = conv_size(c, "conv_L_cache", 3);
    conv_decoder d;
    conv_moe x;
    int64_t dense;
    int choice;
    for (int k = 0; unused[k]; k++) conv_key(c, unused[k]);
    if (!arch_lfm_base(c, &d)) return;
    dense = arch_lfm2_experts(c, &d, &x) ? conv_int(c, "num_dense_layers", 2, 0, 1 << 20) : d.layers;
    choice = conv_bool(c, "use_expert_bias", 1);
    arch_ssm_unused_keys(c);
    if (conv_key(c, "tie_embedding")) d.tied = conv_bool(c, "tie_embedding", 1);
    if (!x.experts) d.ffn = arch_lfm2_ffn(c, &d);
    d.o = "self_attn.out_proj";
    d.q_norm = "self_attn.q_layernorm";
    d.k_norm = "self_attn.k_layernorm";
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        const ssm_block b = arch_block(c, &d, i, "conv");
        conv_line(c, "# layer %d", i);
        arch_layer_norm(c, &d, i, "attn_norm", d.attn_norm);
        if (arch_lfm2_attends(c, &d, i)) {
            arch_attention_branch(c, &d, i);
        } else {
            arch_expect_bias(c, &b, "in_proj", bias);
            arch_expect_bias(c, &b, "conv", bias);
            arch_lfm_conv(c, &d, i, taps);
        }
        if (i < dense) arch_ffn_branch(c, &d, i);
        else arch_expert_branch(c, &d, i, &x, "feed_forward.gate.weight",
                                choice ? "feed_forward.expert_bias" : NULL, names);
    }
    arch_output(c, &d);
}

/* Rope where the last frequencies are 0: all channels of a head form pairs, only some of them turn.        */
static void arch_proportional_rope(conv *c, conv_rope *r, const json_value *params, int32_t head_dim,
                                   const char *name)
{
    const double theta = json_number(json_get(params, "rope_theta"), 1000000.0);
    const double part = json_number(json_get(params, "partial_rotary_factor"), 1.0);
    const double factor = json_number(json_get(params, "factor"), 1.0);
    const int32_t turning = (int32_t)floor(part * head_dim / 2.0);
    r->name = name;
    r->style = "half";
    r->dims = head_dim;
    r->attn_factor = 1.0;
    r->freq = (float *)conv_alloc(c->env, (uint64_t)head_dim / 2 + 1, sizeof *r->freq);
    if (!r->freq) return;
    if (!(theta > 0.0 && part >= 0.0 && part <= 1.0 && factor > 0.0) || head_dim % 2)
        conv_fail(c->env, "config.json: rope parameters: theta, partial_rotary_factor or factor is wrong");
    for (int32_t i = 0; i < head_dim / 2; i++)
        r->freq[i] = i < turning ? (float)(1.0 / (pow(theta, 2.0 * i / head_dim) * factor)) : 0.0f;
}
static void arch_lfm3_rope(conv *c, const conv_decoder *d, conv_rope *r, const char *type, const char *name)
{
    static const conv_rope_keys full = { "rope_theta", NULL, 1000000.0, 1.0 };
    static const conv_rope_keys sliding = { "rope_theta", NULL, 10000.0, 1.0 };
    const int whole = strcmp(type, "full_attention") == 0;
    const json_value *params = json_get(conv_key(c, "rope_parameters"), type);
    if (params ? json_text_is(json_get(params, "rope_type"), "proportional") : whole) {
        if (params) { arch_proportional_rope(c, r, params, d->head_dim, name); return; }
        conv_fail(c->env, "config.json: key \"rope_parameters\" is missing");
    }
    conv_hf_rope(c, r, name, type, whole ? &full : &sliding, d->head_dim);
}

/* Results of attention heads are gated; norms stand before and after the branches.                         */
static void arch_lfm3(conv *c)
{
    const int bias = conv_bool(c, "conv_bias", 0), sandwich = conv_bool(c, "use_sandwich_norm", 1);
    const int gated = conv_bool(c, "use_attention_gate", 1);
    const int32_t taps = conv_size(c, "conv_L_cache", 7), window = arch_window(c, 256);
    const json_value *types = conv_key(c, "layer_types");
    conv_decoder d;
    if (!arch_lfm_base(c, &d)) return;
    d.q_norm = "self_attn.q_norm";
    d.k_norm = "self_attn.k_norm";
    d.qkv_bias = d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    if (sandwich) d.attn_post_norm = "post_operator_norm";
    if (sandwich) d.ffn_post_norm = "post_ffn_norm";
    arch_lfm3_rope(c, &d, &d.ropes[0], "full_attention", "rope.freq");
    arch_lfm3_rope(c, &d, &d.ropes[1], "sliding_attention", "rope.freq_sliding");
    if (!types || json_count(types) != (uint32_t)d.layers)
        conv_fail(c->env, "config.json: \"layer_types\" must have %d items", d.layers);
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        const ssm_block b = arch_block(c, &d, i, "conv");
        const char *type = json_text(json_at(types, (uint32_t)i), "");
        const int slides = strcmp(type, "sliding_attention") == 0;
        conv_line(c, "# layer %d", i);
        arch_layer_norm(c, &d, i, "attn_norm", d.attn_norm);
        if (strcmp(type, "conv") == 0) {
            arch_expect_bias(c, &b, "in_proj", bias);
            arch_lfm_conv(c, &d, i, taps);
        } else if (slides || strcmp(type, "full_attention") == 0) {
            d.layer_rope[i] = slides;
            d.layer_window[i] = slides ? window : 0;
            arch_gated_attention(c, &d, i, gated ? "self_attn.gate_proj" : NULL);
        } else {
            conv_fail(c->env, "config.json: \"layer_types\": \"%.40s\" is not known", type);
        }
        arch_ffn_branch(c, &d, i);
    }
    arch_output(c, &d);
}

/* ---- RecurrentGemma: RG-LRU and attention with a window ------------------------------------------------ */
/* h = a h + sqrt(1 - a^2) (x * sigmoid(W_i x + b_i)),  a = exp(-8 softplus(param) sigmoid(W_r x + b_r)); the
   W are block-diagonal, stored [heads, in, out]. r2 [y | x] -> r8 = h * act(y)                              */
static void arch_rg_lru(conv *c, const ssm_block *b, int32_t width, int32_t heads, int32_t taps, const char *act)
{
    const int32_t size = width / heads;
    const int64_t n = (int64_t)width * size;
    const float *param = conv_read(c, ssm_in(c, b, "rg_lru.recurrent_param"), width);
    float *rate = ssm_values(c, width), *one = ssm_values(c, width);
    const char *names[4];
    ssm_conv k;
    memset(&k, 0, sizeof k);
    k.name = "conv_1d";
    k.channels = k.first = width;
    k.taps = taps;
    ssm_put_conv(c, b, 3, 2, &k);
    if (c->env->failed) return;
    for (int32_t i = 0; i < width; i++) {
        const double x = (double)param[i];
        rate[i] = (float)(-8.0 * (x > 20.0 ? x : log1p(exp(x))));
        one[i] = 1.0f;
    }
    names[0] = conv_make_values(c, ssm_out(c, b, "input_gate"),
                                conv_read(c, ssm_in(c, b, "rg_lru.input_gate_weight"), n), (int32_t)n);
    names[1] = conv_make_values(c, ssm_out(c, b, "input_gate.bias"),
                                conv_read(c, ssm_in(c, b, "rg_lru.input_gate_bias"), width), width);
    names[2] = conv_make_values(c, ssm_out(c, b, "recurrent_gate"),
                                conv_read(c, ssm_in(c, b, "rg_lru.recurrent_gate_weight"), n), (int32_t)n);
    names[3] = conv_make_values(c, ssm_out(c, b, "recurrent_gate.bias"),
                                conv_read(c, ssm_in(c, b, "rg_lru.recurrent_gate_bias"), width), width);
    conv_line(c, "blocks r4 r3 w=@%s out=%d groups=%d\naffine r4 r4 b=@%s", names[0], size, heads, names[1]);
    conv_line(c, "blocks r5 r3 w=@%s out=%d groups=%d", names[2], size, heads);
    conv_line(c, "gate r3 r3 r4 act=sigmoid\ncat r7 r3 r5");
    conv_make_panels(c, ssm_out(c, b, "ones"), one, width, 1);
    conv_line(c, "mix r8 r7 scan a=@%s b=@%s c=@%s dt_bias=@%s dt_act=sigmoid input=root",
              conv_make_panels(c, ssm_out(c, b, "rate"), rate, width, 1), ssm_out(c, b, "ones"),
              ssm_out(c, b, "ones"), names[3]);
    conv_line(c, "gate r8 r8 r2 act=%s", act);
}

/* sqrt(dim) as the library keeps it: in bfloat16                                                           */
static double arch_bf16(double x)
{
    const float f = (float)x;
    uint32_t u;
    float rounded;
    memcpy(&u, &f, 4);
    u = (u + 0x7fffu + (u >> 16 & 1u)) & 0xffff0000u;
    memcpy(&rounded, &u, 4);
    return (double)rounded;
}

static int arch_recurrent_gemma_base(conv *c, conv_decoder *d)
{
    static const conv_rope_keys keys = { "rope_theta", "partial_rotary_factor", 10000.0, 0.5 };
    const char *prefix = conv_prefix(c, "model.", "embed_tokens.weight");
    if (!arch_ssm_decoder(c, d, conv_format(c->env, "%sembed_tokens", prefix),
                          conv_format(c->env, "%sfinal_norm", prefix),
                          conv_format(c->env, "%slayers.", prefix))) return 0;
    d->dim = conv_size(c, "hidden_size", CONV_REQUIRED);
    d->layers = conv_size(c, "num_hidden_layers", CONV_REQUIRED);
    d->vocab = conv_size(c, "vocab_size", CONV_REQUIRED);
    d->heads = conv_size(c, "num_attention_heads", CONV_REQUIRED);
    d->kv_heads = conv_size(c, "num_key_value_heads", d->heads);
    d->head_dim = conv_head_dim(c, d->dim, d->heads);
    if (conv_size(c, "head_dim", d->head_dim) != d->head_dim)
        conv_fail(c->env, "config.json: \"head_dim\" is not hidden_size / num_attention_heads");
    d->ffn = conv_size(c, "intermediate_size", CONV_REQUIRED) / 2;
    d->tied = conv_bool(c, "tie_word_embeddings", 1);
    d->norm_eps = conv_positive(c, "rms_norm_eps", 1e-6);
    d->norm_plus = 1.0;
    d->act = conv_activation(c, "hidden_activation", "gelu_pytorch_tanh");
    if (!conv_decoder_defaults(c, d)) return 0;
    d->embed_scale = arch_bf16(sqrt((double)d->dim));
    d->head_softcap = conv_number(c, "logits_soft_cap", 30.0);
    d->attn_norm = "temporal_pre_norm";
    d->ffn_norm = "channel_pre_norm";
    d->q = "temporal_block.q_proj";
    d->k = "temporal_block.k_proj";
    d->v = "temporal_block.v_proj";
    d->o = "temporal_block.o_proj";
    d->gate = "mlp_block.gate_proj";
    d->up = "mlp_block.up_proj";
    d->down = "mlp_block.down_proj";
    d->o_bias = d->ffn_bias = CONV_BIAS;
    d->qkv_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    conv_hf_rope(c, &d->ropes[0], "rope.freq", NULL, &keys, d->head_dim);
    conv_set_window(d, conv_size(c, "attention_window_size", 2048));
    conv_key(c, "w_init_variance_scale");
    conv_key(c, "final_w_init_variance_scale");
    conv_key(c, "embeddings_scale_by_sqrt_dim");
    return !c->env->failed;
}

static void arch_recurrent_gemma(conv *c)
{
    const json_value *types = conv_key(c, "block_types");
    conv_decoder d;
    int32_t width, taps;
    if (!arch_recurrent_gemma_base(c, &d)) return;
    width = conv_key(c, "lru_width") ? conv_size(c, "lru_width", 1) : d.dim;
    taps = conv_size(c, "conv1d_width", 4);
    conv_key(c, "_block_types");
    if (!c->env->failed && (width % d.heads || (types && json_count(types) < 1)))
        conv_fail(c->env, "config.json: \"lru_width\" or \"block_types\" is wrong");
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        const ssm_block b = arch_block(c, &d, i, "temporal_block");
        const char *type = types ? json_text(json_at(types, (uint32_t)i % json_count(types)), "")
                         : i % 3 == 2 ? "attention" : "recurrent";
        conv_line(c, "# layer %d", i);
        arch_layer_norm(c, &d, i, "attn_norm", d.attn_norm);
        if (strcmp(type, "recurrent") == 0) {
            conv_part parts[2];
            parts[0] = ssm_part(c, &b, "linear_y", width, d.dim);
            parts[1] = ssm_part(c, &b, "linear_x", width, d.dim);
            conv_put_linear(c, 2, 1, parts, 2, 1.0, 0);
            arch_rg_lru(c, &b, width, d.heads, taps, d.act);
            ssm_put_out(c, &b, 8, "linear_out", width);
        } else if (strcmp(type, "attention") == 0) {
            arch_attention_branch(c, &d, i);
        } else {
            conv_fail(c->env, "config.json: \"block_types\": \"%.40s\" is not known", type);
        }
        arch_ffn_branch(c, &d, i);
    }
    arch_output(c, &d);
}

/* ---- Mamba-2 beside attention: FalconH1, Bamba, GraniteMoeHybrid, NemotronH ----------------------------- */
/* Sizes of the keys that begin with mamba_; inner 0: expand * hidden_size                                  */
static void arch_hybrid_mamba2(conv *c, const conv_decoder *d, ssm_mamba2 *m, int32_t inner)
{
    memset(m, 0, sizeof *m);
    m->inner = inner ? inner : arch_expanded(c, d, "mamba_expand", 2.0);
    m->heads = conv_size(c, "mamba_n_heads", 128);
    m->head_dim = arch_auto_size(c, "mamba_d_head", m->inner / m->heads);
    m->groups = m->norm_groups = conv_size(c, "mamba_n_groups", 1);
    m->state = conv_size(c, "mamba_d_state", 256);
    m->taps = conv_size(c, "mamba_d_conv", 4);
    m->norm_eps = d->norm_eps;
    m->act = d->act;
    arch_step_limits(c, "time_step_limit", m);
    arch_ssm_unused_keys(c);
    if (!c->env->failed && (int64_t)m->heads * m->head_dim != m->inner)
        conv_fail(c->env, "config.json: %d heads of %d channels are not the %d channels of a block", m->heads,
                  m->head_dim, m->inner);
}
static void arch_hybrid_block(conv *c, const conv_decoder *d, int32_t i, const ssm_mamba2 *m, int bias,
                              int taps_bias)
{
    const ssm_block b = arch_block(c, d, i, "mamba");
    arch_expect_bias(c, &b, "in_proj", bias);
    arch_expect_bias(c, &b, "out_proj", bias);
    arch_expect_bias(c, &b, "conv1d", taps_bias);
    ssm_put_mamba2(c, &b, m);
}

static void arch_bamba(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", "partial_rotary_factor", 10000.0, 0.5 };
    const json_value *list = conv_key(c, "attn_layer_indices");
    const int bias = conv_bool(c, "mamba_proj_bias", 0), taps_bias = conv_bool(c, "mamba_conv_bias", 1);
    conv_decoder d;
    ssm_mamba2 m;
    if (!conv_hf_decoder(c, &d, 0)) return;
    d.norm_eps = conv_positive(c, "rms_norm_eps", 1e-5);
    d.final_norm = conv_format(c->env, "%sfinal_layernorm", conv_prefix(c, "model.", "embed_tokens.weight"));
    d.ffn_norm = "pre_ff_layernorm";
    d.gate = "feed_forward.gate_proj";
    d.up = "feed_forward.up_proj";
    d.down = "feed_forward.down_proj";
    arch_llama_biases(c, &d);
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    conv_key(c, "attn_rotary_emb");
    arch_hybrid_mamba2(c, &d, &m, 0);
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        int attends = 0;
        for (uint32_t k = 0; k < json_count(list); k++) attends |= json_int(json_at(list, k), -1) == i;
        conv_line(c, "# layer %d", i);
        arch_layer_norm(c, &d, i, "attn_norm", d.attn_norm);
        if (attends) arch_attention_branch(c, &d, i);
        else arch_hybrid_block(c, &d, i, &m, bias, taps_bias);
        arch_ffn_branch(c, &d, i);
    }
    arch_output(c, &d);
}

/* One number of a list of n multipliers; the list absent: 1                                                */
static double arch_multiplier(conv *c, const char *key, uint32_t n, uint32_t i)
{
    const json_value *list = conv_key(c, key);
    if (list && json_count(list) != n) conv_fail(c->env, "config.json: \"%s\" has not %u items", key, n);
    return json_number(json_at(list, i), 1.0);
}

typedef struct arch_falcon_h1_scales { double ssm_in, ssm_out, attn_in, attn_out, gate, down; } arch_falcon_h1_scales;

/* Both branches of a layer read the same normalised rows, each with its own scales.                        */
static void arch_falcon_h1_layer(conv *c, conv_decoder *d, int32_t i, const ssm_mamba2 *m,
                                 const arch_falcon_h1_scales *x)
{
    ssm_block b = arch_block(c, d, i, "mamba");
    conv_part end, parts[2];
    conv_line(c, "# layer %d", i);
    arch_layer_norm(c, d, i, "attn_norm", d->attn_norm);
    conv_line(c, "scale r10 r1 by=%s", conv_real(c, x->ssm_in));
    b.src = 10;
    b.scale = x->ssm_out;
    ssm_put_mamba2(c, &b, m);
    conv_line(c, "scale r10 r1 by=%s", conv_real(c, x->attn_in));
    conv_put_attention(c, d, i, 10);
    end = conv_part_of(c, d, conv_out_name(c, i, "o"), conv_layer_name(c, d, i, d->o), d->dim,
                       (int64_t)d->heads * d->head_dim, d->o_bias);
    conv_put_linear(c, 0, 3, &end, 1, x->attn_out, 1);
    arch_layer_norm(c, d, i, "ffn_norm", d->ffn_norm);
    parts[0] = conv_part_of(c, d, conv_out_name(c, i, "gate"), conv_layer_name(c, d, i, d->gate), d->ffn, d->dim,
                            d->ffn_bias);
    parts[1] = conv_part_of(c, d, conv_out_name(c, i, "up"), conv_layer_name(c, d, i, d->up), d->ffn, d->dim,
                            d->ffn_bias);
    conv_put_linear(c, 5, 1, parts, 2, 1.0, 0);
    if (x->gate != 1.0) conv_line(c, "scale r5 r5 by=%s count=%d", conv_real(c, x->gate), d->ffn);
    conv_line(c, "glu r6 r5 act=%s", d->act);
    end = conv_part_of(c, d, conv_out_name(c, i, "down"), conv_layer_name(c, d, i, d->down), d->dim, d->ffn,
                       d->ffn_bias);
    conv_put_linear(c, 0, 6, &end, 1, x->down, 1);
}

/* Multipliers of the parts of in_proj's result: z, x, B, C, dt                                             */
static const float *arch_falcon_h1_parts(conv *c, const ssm_mamba2 *m)
{
    const int32_t keys = m->groups * m->state, sizes[5] = { m->inner, m->inner, keys, keys, m->heads };
    float *values = ssm_values(c, ssm_mamba2_rows(m)), *at = values;
    for (uint32_t k = 0; k < 5; k++) {
        const double x = arch_multiplier(c, "ssm_multipliers", 5, k);
        for (int32_t i = 0; !c->env->failed && i < sizes[k]; i++) *at++ = (float)x;
    }
    return values;
}

static void arch_falcon_h1(conv *c)
{
    arch_falcon_h1_scales x;
    conv_decoder d;
    ssm_mamba2 m;
    if (!arch_llama_base(c, &d, 0)) return;
    d.final_norm = conv_format(c->env, "%sfinal_layernorm", conv_prefix(c, "model.", "embed_tokens.weight"));
    d.ffn_norm = "pre_ff_layernorm";
    d.gate = "feed_forward.gate_proj";
    d.up = "feed_forward.up_proj";
    d.down = "feed_forward.down_proj";
    arch_llama_biases(c, &d);
    arch_hybrid_mamba2(c, &d, &m, conv_key(c, "mamba_d_ssm") ? conv_size(c, "mamba_d_ssm", 1) : 0);
    conv_key(c, "mamba_expand");
    conv_key(c, "projectors_bias");
    conv_key(c, "mamba_proj_bias");
    conv_key(c, "mamba_conv_bias");
    conv_key(c, "mamba_use_mlp");
    m.norm_before_gate = conv_bool(c, "mamba_norm_before_gate", 1);
    if (!conv_bool(c, "mamba_rms_norm", 0)) m.norm_groups = 0;
    m.multipliers = arch_falcon_h1_parts(c, &m);
    x.ssm_in = conv_number(c, "ssm_in_multiplier", 1.0);
    x.ssm_out = conv_number(c, "ssm_out_multiplier", 1.0);
    x.attn_in = conv_number(c, "attention_in_multiplier", 1.0);
    x.attn_out = conv_number(c, "attention_out_multiplier", 1.0);
    x.gate = arch_multiplier(c, "mlp_multipliers", 2, 0);
    x.down = arch_multiplier(c, "mlp_multipliers", 2, 1);
    d.embed_scale = conv_number(c, "embedding_multiplier", 1.0);
    d.head_scale = conv_number(c, "lm_head_multiplier", 1.0);
    conv_set_scale(&d, conv_number(c, "key_multiplier", 1.0) / sqrt((double)d.head_dim));
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) arch_falcon_h1_layer(c, &d, i, &m, &x);
    arch_output(c, &d);
}

/* ---- GraniteMoeHybrid and NemotronH without experts ---------------------------------------------------- */
/* Kinds of layers, new and old names: 'M' states, '*' attention, '-' MLP, 'E' experts, 'H' states after a shared
   block; 0 with an error.                                                                                  */
static char arch_layer_kind(conv *c, const char *key, const json_value *list, int32_t i)
{
    static const struct { const char *name; char kind; } known[] = {
        { "linear_attention", 'M' }, { "mamba", 'M' }, { "full_attention", '*' }, { "attention", '*' },
        { "mlp", '-' }, { "moe", 'E' }, { "hybrid", 'H' }
    };
    const char *name = json_text(json_at(list, (uint32_t)i), "");
    for (size_t k = 0; k < sizeof known / sizeof *known; k++)
        if (strcmp(known[k].name, name) == 0) return known[k].kind;
    conv_fail(c->env, "config.json: \"%s\": item %d, \"%.40s\", is not known", key, i, name);
    return 0;
}

/* Experts and the shared MLP of layer i read the same rows; their sum is scaled.                           */
static void arch_granite_experts(conv *c, const conv_decoder *d, int32_t i, conv_moe *m)
{
    const int32_t inner = d->ffn;
    conv_part end;
    int from = 5;
    arch_layer_norm(c, d, i, "ffn_norm", d->ffn_norm);
    m->out = conv_format(c->env, "l%d.", i);
    m->router = conv_layer_name(c, d, i, "block_sparse_moe.router.layer.weight");
    m->gate = conv_layer_name(c, d, i, "block_sparse_moe.input_linear.weight");
    m->down = conv_layer_name(c, d, i, "block_sparse_moe.output_linear.weight");
    conv_put_route(c, m, 1, d->dim);
    conv_put_experts(c, m, 9, 1, 0);
    conv_put_ffn(c, d, i, 1, &from);
    end = conv_part_of(c, d, conv_out_name(c, i, "down"), conv_layer_name(c, d, i, d->down), d->dim, inner,
                       d->ffn_bias);
    conv_put_linear(c, 9, from, &end, 1, 1.0, 1);
    if (d->residual_scale != 1.0) conv_line(c, "scale r9 r9 by=%s", conv_real(c, d->residual_scale));
    conv_line(c, "add r0 r0 r9");
}

static void arch_granite_hybrid(conv *c)
{
    const json_value *types = conv_key(c, "layer_types") ? conv_key(c, "layer_types")
                            : conv_key(c, "layers_block_type");
    const char *position = conv_word(c, "position_embedding_type", "nope");
    const int bias = conv_bool(c, "mamba_proj_bias", 0), taps_bias = conv_bool(c, "mamba_conv_bias", 1);
    conv_decoder d;
    ssm_mamba2 m;
    conv_moe x;
    memset(&x, 0, sizeof x);
    if (!arch_llama_base(c, &d, 0)) return;
    x.experts = (int32_t)conv_int(c, "num_local_experts", 8, 0, 4096);
    x.k = (int32_t)conv_int(c, "num_experts_per_tok", 2, 0, 4096);
    x.dim = d.dim;
    x.inner = d.ffn;
    x.score = "softmax";
    x.renorm = 1;
    x.act = d.act;
    d.ffn = conv_size(c, "shared_intermediate_size", 1024);
    d.gate = d.up = NULL;
    d.gate_up = "shared_mlp.input_linear";
    d.down = "shared_mlp.output_linear";
    d.qkv_bias = d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    d.embed_scale = conv_number(c, "embedding_multiplier", 1.0);
    d.residual_scale = conv_number(c, "residual_multiplier", 1.0);
    d.head_scale = 1.0 / conv_positive(c, "logits_scaling", 1.0);
    conv_set_scale(&d, conv_number(c, "attention_multiplier", 1.0));
    arch_hybrid_mamba2(c, &d, &m, 0);
    if (strcmp(position, "rope") != 0) d.ropes[0].dims = 0;
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        const char kind = types ? arch_layer_kind(c, "layer_types", types, i) : 'M';
        conv_line(c, "# layer %d", i);
        arch_layer_norm(c, &d, i, "attn_norm", d.attn_norm);
        if (kind == '*') arch_attention_branch(c, &d, i);
        else arch_hybrid_block(c, &d, i, &m, bias, taps_bias);
        if (x.experts) arch_granite_experts(c, &d, i, &x);
        else arch_ffn_branch(c, &d, i);
    }
    arch_output(c, &d);
}

/* A layer of NemotronH is one branch: states, attention, an MLP or experts.                                */
static void arch_nemotron_h_experts(conv *c, const conv_decoder *d, int32_t i, conv_moe *m, int32_t latent,
                                    int32_t shared)
{
    const ssm_block b = arch_block(c, d, i, "mixer");
    m->out = b.out;
    m->router = ssm_in(c, &b, "gate.weight");
    m->bias = ssm_in(c, &b, "gate.e_score_correction_bias");
    m->up = ssm_in(c, &b, "experts.%d.up_proj.weight");
    m->down = ssm_in(c, &b, "experts.%d.down_proj.weight");
    conv_put_route(c, m, 1, d->dim);
    if (latent) {
        ssm_put_linear(c, &b, 9, 1, "fc1_latent_proj", latent, d->dim, 0);
        conv_put_experts(c, m, 10, 9, 0);
        ssm_put_linear(c, &b, 0, 10, "fc2_latent_proj", d->dim, latent, 1);
    } else {
        conv_put_experts(c, m, 0, 1, 1);
    }
    ssm_put_linear(c, &b, 5, 1, "shared_experts.up_proj", shared, d->dim, 0);
    conv_line(c, "act r5 r5 kind=%s", m->act);
    ssm_put_linear(c, &b, 0, 5, "shared_experts.down_proj", d->dim, shared, 1);
}

static void arch_nemotron_h_keys(conv *c)
{
    static const char *const unused[] = {
        "moe_shared_expert_overlap", "n_shared_experts", "mtp_layers_block_type", "mtp_hybrid_override_pattern",
        "num_nextn_predict_layers", "mamba_proj_bias", "mamba_dt_min", "mamba_dt_max", "mamba_dt_init_floor",
        "num_hidden_layers", NULL
    };
    for (int k = 0; unused[k]; k++) conv_key(c, unused[k]);
    if (conv_key(c, "sliding_window")) conv_fail(c->env, "config.json: \"sliding_window\" is not supported");
}

/* Layers by name, or a letter each: hybrid_override_pattern                                                */
static char arch_nemotron_h_kind(conv *c, const json_value *types, const char *pattern, int32_t i)
{
    if (types) return arch_layer_kind(c, "layers_block_type", types, i);
    if (strchr("M*-E", pattern[i])) return pattern[i];
    conv_fail(c->env, "config.json: \"hybrid_override_pattern\": layer %d, '%c', is not known", i, pattern[i]);
    return 0;
}

static int arch_nemotron_h_sizes(conv *c, conv_decoder *d, ssm_mamba2 *m, conv_moe *x, int32_t layers)
{
    if (!arch_ssm_decoder(c, d, "backbone.embeddings", "backbone.norm_f", "backbone.layers.")) return 0;
    d->dim = conv_size(c, "hidden_size", CONV_REQUIRED);
    d->layers = layers;
    d->vocab = conv_size(c, "vocab_size", CONV_REQUIRED);
    d->heads = conv_size(c, "num_attention_heads", 32);
    d->kv_heads = conv_size(c, "num_key_value_heads", d->heads);
    d->head_dim = conv_size(c, "head_dim", conv_size(c, "attention_head_dim", 128));
    d->ffn = conv_size(c, "intermediate_size", 21504);
    d->tied = conv_bool(c, "tie_word_embeddings", 0);
    d->norm_eps = conv_positive(c, "layer_norm_epsilon", 1e-5);
    c->max_context = conv_size(c, "max_position_embeddings", 4096);
    d->q = "mixer.q_proj"; d->k = "mixer.k_proj"; d->v = "mixer.v_proj"; d->o = "mixer.o_proj";
    d->up = "mixer.up_proj"; d->down = "mixer.down_proj";
    d->act = conv_activation(c, "mlp_hidden_act", "relu2");
    d->ffn_bias = arch_bias(conv_bool(c, "mlp_bias", 0));
    conv_only_bool(c, "attention_bias", 0);
    m->heads = conv_size(c, "mamba_num_heads", 128);
    m->head_dim = conv_size(c, "mamba_head_dim", 64);
    if (!c->env->failed && (int64_t)m->heads * m->head_dim > 1 << 28) conv_fail(c->env, "too many heads");
    m->inner = (int32_t)((int64_t)m->heads * m->head_dim);
    m->groups = m->norm_groups = conv_size(c, "n_groups", 8);
    m->state = conv_size(c, "ssm_state_size", 128);
    m->taps = conv_size(c, "conv_kernel", 4);
    m->norm_eps = d->norm_eps;
    m->act = conv_activation(c, "mamba_hidden_act", "silu");
    arch_step_limits(c, "time_step_limit", m);
    conv_key(c, "expand");
    x->experts = conv_size(c, "n_routed_experts", 8);
    x->k = conv_size(c, "num_experts_per_tok", 2);
    x->inner = conv_size(c, "moe_intermediate_size", 7688);
    x->groups = conv_size(c, "n_group", 1);
    x->group_k = conv_size(c, "topk_group", 1);
    x->group_top = 2;
    x->score = "sigmoid";
    x->act = d->act;
    x->renorm = conv_bool(c, "norm_topk_prob", 1);
    x->scale = conv_number(c, "routed_scaling_factor", 1.0);
    return conv_decoder_defaults(c, d);
}

static void arch_nemotron_h(conv *c)
{
    static const char *const mtp[] = { "mtp*", NULL };
    const json_value *types = conv_key(c, "layers_block_type") ? conv_key(c, "layers_block_type")
                            : conv_key(c, "layer_types");
    const char *pattern = conv_word(c, "hybrid_override_pattern", "");
    const int bias = conv_bool(c, "use_bias", 0), taps_bias = conv_bool(c, "use_conv_bias", 1);
    const int32_t latent = conv_key(c, "moe_latent_size") ? conv_size(c, "moe_latent_size", 1) : 0;
    const int32_t shared = conv_size(c, "moe_shared_expert_intermediate_size", 7688);
    const int32_t layers = types ? (int32_t)json_count(types) : (int32_t)strlen(pattern);
    conv_decoder d;
    ssm_mamba2 m;
    conv_moe x;
    memset(&m, 0, sizeof m);
    memset(&x, 0, sizeof x);
    c->ignored = mtp;
    if (layers < 1) conv_fail(c->env, "config.json: \"layers_block_type\" is missing");
    if (!arch_nemotron_h_sizes(c, &d, &m, &x, layers > 0 ? layers : 1)) return;
    x.dim = latent ? latent : d.dim;
    arch_nemotron_h_keys(c);
    arch_ssm_unused_keys(c);
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        const ssm_block b = arch_block(c, &d, i, "mixer");
        const char kind = arch_nemotron_h_kind(c, types, pattern, i);
        conv_line(c, "# layer %d", i);
        arch_layer_norm(c, &d, i, "norm", "norm");
        if (kind == '*') {
            arch_attention_branch(c, &d, i);
        } else if (kind == 'E') {
            arch_nemotron_h_experts(c, &d, i, &x, latent, shared);
        } else if (kind == '-') {
            ssm_put_linear(c, &b, 5, 1, "up_proj", d.ffn, d.dim, 0);
            conv_line(c, "act r5 r5 kind=%s", d.act);
            ssm_put_linear(c, &b, 0, 5, "down_proj", d.dim, d.ffn, 1);
        } else {
            arch_expect_bias(c, &b, "in_proj", bias);
            arch_expect_bias(c, &b, "conv1d", taps_bias);
            ssm_put_mamba2(c, &b, &m);
        }
    }
    arch_output(c, &d);
}

/* ---- Jamba: Mamba-1 and attention, MLPs and experts in turns ------------------------------------------- */
static void arch_jamba_mamba(conv *c, const conv_decoder *d, int32_t i, ssm_mamba1 *m, int bias, int taps_bias)
{
    const ssm_block b = arch_block(c, d, i, "mamba");
    arch_expect_bias(c, &b, "in_proj", bias);
    arch_expect_bias(c, &b, "out_proj", bias);
    arch_expect_bias(c, &b, "conv1d", taps_bias);
    m->norms[0] = ssm_in(c, &b, "dt_layernorm.weight");
    m->norms[1] = ssm_in(c, &b, "b_layernorm.weight");
    m->norms[2] = ssm_in(c, &b, "c_layernorm.weight");
    ssm_put_mamba1(c, &b, m);
}

/* norm and experts of layer i, added to r0; tensors under `name`                                           */
static void arch_expert_branch(conv *c, const conv_decoder *d, int32_t i, conv_moe *m, const char *router,
                               const char *bias, const char *const names[3])
{
    arch_layer_norm(c, d, i, "ffn_norm", d->ffn_norm);
    m->out = conv_format(c->env, "l%d.", i);
    m->router = conv_layer_name(c, d, i, router);
    m->bias = bias ? conv_layer_name(c, d, i, bias) : NULL;
    m->gate = conv_layer_name(c, d, i, names[0]);
    m->up = conv_layer_name(c, d, i, names[1]);
    m->down = conv_layer_name(c, d, i, names[2]);
    conv_put_route(c, m, 1, d->dim);
    conv_put_experts(c, m, 0, 1, 1);
}

static void arch_jamba(conv *c)
{
    static const char *const names[3] = { "feed_forward.experts.%d.gate_proj.weight",
                                          "feed_forward.experts.%d.up_proj.weight",
                                          "feed_forward.experts.%d.down_proj.weight" };
    const int64_t attn_period = conv_int(c, "attn_layer_period", 8, 1, 1 << 20);
    const int64_t attn_offset = conv_int(c, "attn_layer_offset", 4, 0, 1 << 20);
    const int64_t expert_period = conv_int(c, "expert_layer_period", 2, 1, 1 << 20);
    const int64_t expert_offset = conv_int(c, "expert_layer_offset", 1, 0, 1 << 20);
    const int bias = conv_bool(c, "mamba_proj_bias", 0), taps_bias = conv_bool(c, "mamba_conv_bias", 1);
    conv_decoder d;
    ssm_mamba1 m;
    conv_moe x;
    memset(&m, 0, sizeof m);
    memset(&x, 0, sizeof x);
    if (!conv_hf_decoder(c, &d, 0)) return;
    d.norm_eps = conv_positive(c, "rms_norm_eps", 1e-6);
    d.final_norm = conv_format(c->env, "%sfinal_layernorm", conv_prefix(c, "model.", "embed_tokens.weight"));
    d.ffn_norm = "pre_ff_layernorm";
    d.gate = "feed_forward.gate_proj";
    d.up = "feed_forward.up_proj";
    d.down = "feed_forward.down_proj";
    arch_ssm_unused_keys(c);
    m.inner = arch_expanded(c, &d, "mamba_expand", 2.0);
    m.state = conv_size(c, "mamba_d_state", 16);
    m.taps = conv_size(c, "mamba_d_conv", 4);
    m.rank = arch_auto_size(c, "mamba_dt_rank", (d.dim + 15) / 16);
    m.norm_eps = d.norm_eps;
    x.act = m.act = d.act;
    x.experts = conv_size(c, "num_experts", 16);
    x.k = conv_size(c, "num_experts_per_tok", 2);
    x.dim = d.dim;
    x.inner = d.ffn;
    x.score = "softmax";
    conv_key(c, "mamba_inner_layernorms");
    conv_key(c, "sliding_window");
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        conv_line(c, "# layer %d", i);
        arch_layer_norm(c, &d, i, "attn_norm", d.attn_norm);
        if (i % attn_period == attn_offset) arch_attention_branch(c, &d, i);
        else arch_jamba_mamba(c, &d, i, &m, bias, taps_bias);
        if (x.experts > 1 && i % expert_period == expert_offset)
            arch_expert_branch(c, &d, i, &x, "feed_forward.router.weight", NULL, names);
        else
            arch_ffn_branch(c, &d, i);
    }
    arch_output(c, &d);
}

/* ---- Zamba, Zamba2: blocks of attention and MLP whose weights several layers share --------------------- */
typedef struct arch_zamba {
    conv_decoder d;
    int32_t      blocks;              /* shared blocks that take turns                                      */
    int32_t      rank;                /* of the adapters that each use of a block has of its own            */
    int32_t      attention_adapters, ffn_adapters;
    const char  *block_name;          /* of a shared block in its first layer                               */
} arch_zamba;

/* The output tensor `out`, made when it is used first.                                                     */
static const char *arch_once(conv *c, const char *out, const char *name, int64_t rows, int64_t cols)
{
    const conv_view v = conv_take(c, name, rows, cols);
    return conv_made(c, out) ? out : conv_make(c, out, cols ? CONV_MATRIX : CONV_VECTOR, v);
}
/* linear rD rS with one weight of a shared block, or of one use of it                                      */
static void arch_zamba_linear(conv *c, int dst, int src, const char *out, const char *name, int64_t rows,
                              int64_t cols, const char *more)
{
    conv_line(c, "linear r%d r%d w=@%s%s", dst, src,
              arch_once(c, out, conv_format(c->env, "%s.weight", name), rows, cols), more);
}

/* r2 += what the adapters of this use make of r12, for queries, keys and values                            */
static void arch_zamba_attention_adapter(conv *c, const arch_zamba *z, const char *block, int32_t use,
                                         int64_t wide)
{
    static const char *const parts[] = { "q", "k", "v" };
    const int64_t rows[] = { (int64_t)z->d.heads * z->d.head_dim, (int64_t)z->d.kv_heads * z->d.head_dim,
                             (int64_t)z->d.kv_heads * z->d.head_dim };
    const char *down[3], *up[3];
    for (int i = 0; i < 3; i++) {
        const char *from = conv_format(c->env, "%s.self_attn.linear_%s_adapter_list.%d", block, parts[i], use);
        down[i] = arch_once(c, conv_format(c->env, "use%d.%s.down", use, parts[i]),
                            conv_format(c->env, "%s.0.weight", from), z->rank, wide);
        up[i] = arch_once(c, conv_format(c->env, "use%d.%s.up", use, parts[i]),
                          conv_format(c->env, "%s.1.weight", from), rows[i], z->rank);
    }
    conv_line(c, "linear r14 r12 w=@%s,@%s,@%s", down[0], down[1], down[2]);
    conv_line(c, "linear r8 r14 w=@%s first=0\nlinear r9 r14 w=@%s first=%d\ncat r10 r8 r9", up[0], up[1], z->rank);
    conv_line(c, "linear r8 r14 w=@%s first=%d\ncat r15 r10 r8\nadd r2 r2 r15", up[2], 2 * z->rank);
}

/* The shared block before hybrid layer i, its `use`-th use: r0 beside the embedding r11 -> r13             */
static void arch_zamba_shared(conv *c, const arch_zamba *z, const char *block, int32_t i, int32_t use)
{
    const conv_decoder *d = &z->d;
    const int32_t number = use % z->blocks;
    const int64_t wide = 2 * (int64_t)d->dim, q = (int64_t)d->heads * d->head_dim;
    const int64_t kv = (int64_t)d->kv_heads * d->head_dim;
    const char *out = conv_format(c->env, "shared%d", number), *eps = conv_real(c, d->norm_eps);
    const char *names[3];
    static const char *const parts[] = { "q", "k", "v" };
    for (int k = 0; k < 3; k++)
        names[k] = arch_once(c, conv_format(c->env, "%s.%s", out, parts[k]),
                             conv_format(c->env, "%s.self_attn.%s_proj.weight", block, parts[k]), k ? kv : q, wide);
    conv_line(c, "cat r12 r0 r11\nnorm r12 r12 kind=rms w=@%s eps=%s",
              arch_once(c, conv_format(c->env, "%s.attn_norm", out),
                        conv_format(c->env, "%s.input_layernorm.weight", block), wide, 0), eps);
    conv_line(c, "linear r2 r12 w=@%s,@%s,@%s", names[0], names[1], names[2]);
    if (z->attention_adapters) arch_zamba_attention_adapter(c, z, block, use, wide);
    if (d->ropes[0].dims) conv_put_rope(c, d, &d->ropes[0]);
    conv_line(c, "mix r3 r2 attention heads=%d kv_heads=%d head_dim=%d scale=%s", d->heads, d->kv_heads,
              d->head_dim, conv_real(c, d->layer_scale[i]));
    arch_zamba_linear(c, 1, 3, conv_format(c->env, "%s.o", out), conv_format(c->env, "%s.self_attn.o_proj", block),
                      d->dim, q, "");
    conv_line(c, "norm r1 r1 kind=rms w=@%s eps=%s",
              arch_once(c, conv_format(c->env, "%s.ffn_norm", out),
                        conv_format(c->env, "%s.pre_ff_layernorm.weight", block), d->dim, 0), eps);
    if (z->ffn_adapters) {
        const char *from = conv_format(c->env, "%s.feed_forward.gate_up_proj", block);
        const char *adapter = conv_format(c->env, "%s_adapter_list.%d", from, use);
        arch_zamba_linear(c, 5, 1, conv_format(c->env, "%s.gate_up", out), from, 2 * (int64_t)d->ffn, d->dim, "");
        arch_zamba_linear(c, 14, 1, conv_format(c->env, "use%d.gate_up.down", use),
                          conv_format(c->env, "%s.0", adapter), z->rank, d->dim, "");
        arch_zamba_linear(c, 5, 14, conv_format(c->env, "use%d.gate_up.up", use),
                          conv_format(c->env, "%s.1", adapter), 2 * (int64_t)d->ffn, z->rank, " add=1");
    } else {
        const char *gate = conv_format(c->env, "%s.feed_forward.gate_proj.weight", block);
        const char *up = conv_format(c->env, "%s.feed_forward.up_proj.weight", block);
        conv_line(c, "linear r5 r1 w=@%s,@%s", arch_once(c, conv_format(c->env, "%s.gate", out), gate, d->ffn, d->dim),
                  arch_once(c, conv_format(c->env, "%s.up", out), up, d->ffn, d->dim));
    }
    conv_line(c, "glu r6 r5 act=%s", d->act);
    arch_zamba_linear(c, 1, 6, conv_format(c->env, "%s.down", out),
                      conv_format(c->env, "%s.feed_forward.down_proj", block), d->dim, d->ffn, "");
    arch_zamba_linear(c, 13, 1, conv_out_name(c, i, "linear"), conv_layer_name(c, d, i, "linear"), d->dim, d->dim, "");
}

/* Which layer's name the shared block of this use bears: that of its first use                             */
static const char *arch_zamba_block(conv *c, const arch_zamba *z, const json_value *types, int32_t use)
{
    int32_t seen = 0;
    for (int32_t i = 0; i < z->d.layers; i++)
        if (arch_layer_kind(c, "layers_block_type", types, i) == 'H' && seen++ == use % z->blocks)
            return conv_layer_name(c, &z->d, i, z->block_name);
    return "";
}

/* The heads of a Mamba-1 block have x_proj, dt_proj, A and D of their own; rows of in_proj alternate between
   x and z.                                                                                                 */
static void arch_zamba_mamba1(conv *c, const ssm_block *b, const ssm_mamba1 *m, int32_t heads)
{
    const int64_t size = m->inner / heads, keys = m->rank + 2 * (int64_t)m->state, inner = m->inner;
    const conv_part all = ssm_part(c, b, "in_proj", 2 * inner, b->dim);
    const float *bias = conv_read(c, ssm_in(c, b, "dt_proj_bias"), inner);
    const float *d = conv_read(c, ssm_in(c, b, "D"), inner);
    const float *a = ssm_rates(c, conv_read(c, ssm_in(c, b, "A_log"), inner * m->state), inner * m->state, 1);
    const conv_view x_proj = conv_take(c, ssm_in(c, b, "x_proj_weight"), heads * keys, size);
    const conv_view dt_proj = conv_take(c, ssm_in(c, b, "dt_proj_weight"), inner, m->rank);
    conv_part parts[2];
    ssm_selective s;
    ssm_conv k;
    memset(&k, 0, sizeof k);
    memset(&s, 0, sizeof s);
    parts[0] = conv_part_rows(c, all, ssm_out(c, b, "in_x"), 0, 1, 2, inner);
    parts[1] = conv_part_rows(c, all, ssm_out(c, b, "in_z"), 1, 1, 2, inner);
    conv_put_linear(c, 2, b->src, parts, 2, 1.0, 0);
    k.name = "conv1d";
    k.act = m->act;
    k.channels = m->inner;
    k.taps = m->taps;
    ssm_put_conv(c, b, 3, 2, &k);
    if (c->env->failed) return;
    s.inner = (int32_t)size;
    s.wide = m->inner;
    s.state = m->state;
    s.rank = m->rank;
    s.mixer = "scan";
    for (int32_t h = 0; h < heads; h++) {
        s.out = conv_format(c->env, "%shead%d.", b->out, h);
        s.x_at = (int32_t)(h * size);
        s.x_proj = conv_rows(c, x_proj, h * keys, keys, keys, keys);
        s.dt_proj = conv_rows(c, dt_proj, h * size, size, size, size);
        s.dt_bias = bias + h * size;
        s.a = a + h * size * m->state;
        s.d = d + h * size;
        ssm_put_selective(c, &s);
        conv_line(c, h ? "cat r10 r9 r8\ncopy r9 r10" : "copy r9 r8");
    }
    conv_line(c, "gate r9 r9 r2 act=%s first=%d", m->act, m->inner);
    ssm_put_out(c, b, 9, "out_proj", inner);
}

/* Layer i after its shared block, if it has one: r0 += mixer(norm(r0 + r13))                                */
static ssm_block arch_zamba_layer(conv *c, const arch_zamba *z, const json_value *types, int32_t i, int32_t *use)
{
    const int hybrid = arch_layer_kind(c, "layers_block_type", types, i) == 'H';
    ssm_block b;
    conv_line(c, "# layer %d", i);
    if (hybrid) {
        const char *name = arch_zamba_block(c, z, types, *use);
        arch_zamba_shared(c, z, name, i, (*use)++);
        conv_line(c, "add r1 r0 r13");
    }
    b = arch_block(c, &z->d, i, hybrid ? "mamba_decoder.mamba" : "mamba");
    conv_put_norm(c, &z->d, 1, hybrid ? 1 : 0, conv_out_name(c, i, "norm"),
                  conv_layer_name(c, &z->d, i, hybrid ? "mamba_decoder.input_layernorm" : "input_layernorm"));
    return b;
}

static int arch_zamba_base(conv *c, arch_zamba *z, const json_value *types)
{
    static const char *const copies[] = { "*.shared_transf.*", "*.shared_transformer.*", NULL };
    conv_decoder *d = &z->d;
    memset(z, 0, sizeof *z);
    if (!conv_hf_decoder(c, d, 1)) return 0;
    c->ignored = copies;                               /* some files repeat shared weights in every layer   */
    d->norm_eps = conv_positive(c, "rms_norm_eps", 1e-5);
    d->final_norm = conv_format(c->env, "%sfinal_layernorm", conv_prefix(c, "model.", "embed_tokens.weight"));
    d->head_dim = conv_size(c, "attention_head_dim", 2 * (int64_t)d->dim / d->heads);
    if (conv_size(c, "attention_hidden_size", 2 * (int64_t)d->dim) != 2 * d->dim)
        conv_fail(c->env, "config.json: \"attention_hidden_size\" is not 2 * hidden_size");
    if (!conv_key(c, "hidden_act")) d->act = "gelu";
    conv_set_scale(d, 1.0 / sqrt((double)d->head_dim / 2.0));
    if (!types || json_count(types) != (uint32_t)d->layers)
        conv_fail(c->env, "config.json: \"layers_block_type\" must have %d items", d->layers);
    arch_ssm_unused_keys(c);
    return !c->env->failed;
}

static void arch_zamba1(conv *c)
{
    const json_value *types = conv_key(c, "layers_block_type") ? conv_key(c, "layers_block_type")
                            : conv_key(c, "layer_types");
    const int bias = conv_bool(c, "mamba_proj_bias", 0), taps_bias = conv_bool(c, "mamba_conv_bias", 1);
    const int32_t heads = conv_size(c, "n_mamba_heads", 2);
    int32_t use = 0;
    arch_zamba z;
    ssm_mamba1 m;
    memset(&m, 0, sizeof m);
    if (!arch_zamba_base(c, &z, types)) return;
    z.blocks = 1;
    z.block_name = "shared_transf";
    conv_key(c, "attn_layer_period");
    conv_key(c, "attn_layer_offset");
    m.inner = arch_expanded(c, &z.d, "mamba_expand", 2.0);
    m.state = conv_size(c, "mamba_d_state", 16);
    m.taps = conv_size(c, "mamba_d_conv", 4);
    m.rank = arch_auto_size(c, "mamba_dt_rank", (z.d.dim + 15) / 16);
    m.act = conv_activation(c, "hidden_mamba_act", "silu");
    if (!c->env->failed && m.inner % heads)
        conv_fail(c->env, "config.json: %d channels do not divide into \"n_mamba_heads\" = %d", m.inner, heads);
    conv_put_embedding(c, &z.d);
    conv_line(c, "copy r11 r0");
    for (int32_t i = 0; i < z.d.layers && !c->env->failed; i++) {
        const ssm_block b = arch_zamba_layer(c, &z, types, i, &use);
        arch_expect_bias(c, &b, "in_proj", bias);
        arch_expect_bias(c, &b, "conv1d", taps_bias);
        arch_zamba_mamba1(c, &b, &m, heads);
    }
    arch_output(c, &z.d);
}

static void arch_zamba2(conv *c)
{
    const json_value *types = conv_key(c, "layers_block_type") ? conv_key(c, "layers_block_type")
                            : conv_key(c, "layer_types");
    static const char *const derived[] = { "hybrid_layer_ids", "kv_channels", "num_query_groups", "mamba_headdim",
                                           "use_conv_bias", NULL };
    int32_t use = 0;
    arch_zamba z;
    ssm_mamba2 m;
    memset(&m, 0, sizeof m);
    if (!arch_zamba_base(c, &z, types)) return;
    for (int k = 0; derived[k]; k++) conv_key(c, derived[k]);
    conv_only_bool(c, "use_long_context", 0);
    conv_only_bool(c, "add_bias_linear", 0);
    z.blocks = conv_size(c, "num_mem_blocks", 1);
    z.block_name = "shared_transformer";
    z.rank = conv_size(c, "adapter_rank", 128);
    z.attention_adapters = conv_bool(c, "use_shared_attention_adapter", 0);
    z.ffn_adapters = 1;
    if (conv_bool(c, "use_mem_rope", 0)) {
        conv_hf_rope(c, &z.d.ropes[0], "rope.freq", NULL, &arch_rope_keys, z.d.head_dim);
    } else {
        conv_key(c, "rope_parameters");
        conv_key(c, "rope_theta");
    }
    m.inner = arch_expanded(c, &z.d, "mamba_expand", 2.0);
    m.heads = conv_size(c, "n_mamba_heads", 8);
    m.head_dim = m.inner / m.heads;
    m.groups = m.norm_groups = conv_size(c, "mamba_ngroups", 1);
    m.state = conv_size(c, "mamba_d_state", 64);
    m.taps = conv_size(c, "mamba_d_conv", 4);
    m.norm_eps = 1e-5;
    m.dt_low = conv_positive(c, "time_step_min", 0.001);                   /* it clips, it is no default    */
    m.dt_high = 1e30;
    m.act = "silu";
    conv_put_embedding(c, &z.d);
    conv_line(c, "copy r11 r0");
    for (int32_t i = 0; i < z.d.layers && !c->env->failed; i++) {
        const ssm_block b = arch_zamba_layer(c, &z, types, i, &use);
        ssm_put_mamba2(c, &b, &m);
    }
    arch_output(c, &z.d);
}

#endif /* ARCH_SSM_H_INCLUDED */
