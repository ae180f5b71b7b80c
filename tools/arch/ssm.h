/* arch/ssm.h: Mamba and its kin, short convolutions and linear recurrences (LFM2, RecurrentGemma). Facts are
   from the modeling files of transformers 5, from state-spaces/mamba and from llama.cpp's converter.       */
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

/* A bias must be in the checkpoint exactly when the configuration says so.                                 */
static void arch_expect_bias(conv *c, const ssm_block *b, const char *name, int wanted)
{
    const char *bias = conv_format(c->env, "%s%s.bias", b->in, name);
    if (conv_has(c, bias) != (wanted != 0))
        conv_fail(c->env, "tensor %.100s is %s the checkpoint, but the configuration says otherwise", bias,
                  wanted ? "not in" : "in");
}

/* Limits of the step size: [low, high], infinity in several spellings; `list` NULL: none                   */
static void arch_step_limits(conv *c, const char *key, const json_value *list, ssm_mamba2 *m)
{
    m->dt_low = 0.0;
    m->dt_high = 1e30;
    if (!list) return;
    m->dt_low = json_number(json_at(list, 0), -1.0);
    if (json_is(json_at(list, 1), JSON_NUMBER)) m->dt_high = json_number(json_at(list, 1), -1.0);
    if (json_count(list) != 2 || !(m->dt_low >= 0.0 && m->dt_low <= m->dt_high))
        conv_fail(c->env, "config.json: \"%s\" = [%g, %g] is not a list [low, high] with 0 <= low <= "
          "high", key,
                  m->dt_low, m->dt_high);
    if (!(m->dt_high < 1e30)) m->dt_high = 1e30;
}
static void arch_time_step_limits(conv *c, ssm_mamba2 *m)
{
    arch_step_limits(c, "time_step_limit", conv_key(c, "time_step_limit"), m);
}

/* The value of the first of two keys that is there                                                         */
static const json_value *arch_either_key(conv *c, const char *key, const char *other)
{
    const json_value *v = conv_key(c, key), *second = conv_key(c, other);
    return v ? v : second;
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
    conv_key(c, "expand");
    m.inner = conv_key(c, "intermediate_size") ? conv_size(c, "intermediate_size", 1)
            : arch_expanded(c, &d, "expand", 2.0);
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
    conv_put_output(c, &d);
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
    arch_time_step_limits(c, &m);
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
    conv_put_output(c, &d);
}

/* ---- original checkpoints of state-spaces/mamba: config.json without model_type ------------------------ */
/* The objects inside config.json: `part` is "ssm_cfg" or "attn_cfg".                                       */
static const json_value *arch_cfg_key(conv *c, const char *part, const char *key)
{
    const json_value *v = json_get(conv_key(c, part), key);
    return json_is(v, JSON_NULL) ? NULL : v;
}
static int32_t arch_cfg_int(conv *c, const char *part, const char *key, int64_t otherwise, int64_t low)
{
    const json_value *v = arch_cfg_key(c, part, key);
    const int64_t n = v && !json_text_is(v, "auto") ? json_int(v, -1) : otherwise;
    if (n >= low && n <= 1 << 28) return (int32_t)n;
    conv_fail(c->env, "config.json: \"%s\": \"%s\" is missing, or not a whole number from %d to 2^28", part,
              key, (int)low);
    return 1;
}
static int32_t arch_cfg_size(conv *c, const char *part, const char *key, int64_t otherwise)
{
    return arch_cfg_int(c, part, key, otherwise, 1);
}
static int arch_cfg_bool(conv *c, const char *part, const char *key, int otherwise)
{
    return json_bool(arch_cfg_key(c, part, key), otherwise);
}
static void arch_cfg_known(conv *c, const char *part, const char *const known[])
{
    const json_value *cfg = conv_key(c, part);
    for (uint32_t i = 0; i < json_count(cfg); i++) {
        const char *key = json_key_at(cfg, i)->text;
        int found = 0;
        for (int k = 0; !found && known[k]; k++) found = strcmp(known[k], key) == 0;
        if (!found)
            conv_fail(c->env, "config.json: \"%s\": \"%.60s\" is not known and might change the results",
                      part, key);
    }
}
static int32_t arch_round_up(int32_t n, int32_t multiple) { return (n + multiple - 1) / multiple * multiple; }

static int32_t arch_state_spaces_inner(conv *c, const conv_decoder *d)
{
    const json_value *v = arch_cfg_key(c, "ssm_cfg", "expand");
    const double n = json_number(v, 2.0) * d->dim;
    if (n >= 1.0 && n <= 268435456.0) return (int32_t)n;
    conv_fail(c->env, "config.json: \"ssm_cfg\": \"expand\" makes blocks of %g channels", n);
    return 1;
}

static void arch_state_spaces_mamba1(conv *c, const conv_decoder *d, const ssm_block *b)
{
    static const char *const known[] = {
        "layer", "d_state", "d_conv", "expand", "dt_rank", "dt_min", "dt_max", "dt_init", "dt_scale",
        "dt_init_floor", "conv_bias", "bias", "use_fast_path", NULL
    };
    ssm_mamba1 m;
    memset(&m, 0, sizeof m);
    arch_cfg_known(c, "ssm_cfg", known);
    m.inner = arch_state_spaces_inner(c, d);
    m.state = arch_cfg_size(c, "ssm_cfg", "d_state", 16);
    m.rank = arch_cfg_size(c, "ssm_cfg", "dt_rank", (d->dim + 15) / 16);
    m.taps = arch_cfg_size(c, "ssm_cfg", "d_conv", 4);
    m.act = "silu";
    ssm_put_mamba1(c, b, &m);
}

static void arch_state_spaces_mamba2(conv *c, const conv_decoder *d, const ssm_block *b)
{
    static const char *const known[] = {
        "layer", "d_state", "d_conv", "conv_init", "expand", "headdim", "d_ssm", "ngroups", "A_init_range",
        "D_has_hdim", "rmsnorm", "norm_before_gate", "dt_min", "dt_max", "dt_init_floor", "dt_limit", "bias",
        "conv_bias", "chunk_size", "use_mem_eff_path", NULL
    };
    const int32_t inner = arch_state_spaces_inner(c, d);
    ssm_mamba2 m;
    memset(&m, 0, sizeof m);
    arch_cfg_known(c, "ssm_cfg", known);
    m.inner = arch_cfg_size(c, "ssm_cfg", "d_ssm", inner);
    m.mlp = inner - m.inner;
    m.head_dim = arch_cfg_size(c, "ssm_cfg", "headdim", 64);
    m.groups = arch_cfg_size(c, "ssm_cfg", "ngroups", 1);
    m.state = arch_cfg_size(c, "ssm_cfg", "d_state", 128);
    m.taps = arch_cfg_size(c, "ssm_cfg", "d_conv", 4);
    m.norm_groups = arch_cfg_bool(c, "ssm_cfg", "rmsnorm", 1) ? m.groups : 0;
    m.norm_before_gate = arch_cfg_bool(c, "ssm_cfg", "norm_before_gate", 0);
    m.d_per_channel = arch_cfg_bool(c, "ssm_cfg", "D_has_hdim", 0);
    m.norm_eps = 1e-5;
    m.act = "silu";
    arch_step_limits(c, "dt_limit", arch_cfg_key(c, "ssm_cfg", "dt_limit"), &m);
    m.heads = m.inner / m.head_dim;
    if (m.mlp < 0 || m.inner % m.head_dim)
        conv_fail(c->env, "config.json: \"ssm_cfg\": \"d_ssm\" or \"headdim\" does not fit");
    ssm_put_mamba2(c, b, &m);
}

/* What A is made of changed with the versions of Mamba-3, and checkpoints don't say: "A_act" must.         */
static void arch_state_spaces_mamba3(conv *c, const conv_decoder *d, const ssm_block *b)
{
    static const char *const known[] = {
        "layer", "d_state", "expand", "headdim", "ngroups", "rope_fraction", "dt_min", "dt_max",
        "dt_init_floor", "A_floor", "A_act", "is_outproj_norm", "is_mimo", "mimo_rank", "chunk_size",
        "dropout", NULL
    };
    const char *act = json_text(arch_cfg_key(c, "ssm_cfg", "A_act"), "");
    ssm_mamba3 m;
    memset(&m, 0, sizeof m);
    arch_cfg_known(c, "ssm_cfg", known);
    if (strcmp(act, "heavy_tail") && strcmp(act, "softplus"))
        conv_fail(c->env, "config.json: \"ssm_cfg\" needs \"A_act\": \"heavy_tail\", or \"softplus\" as in "
                  "the first version of Mamba-3");
    m.a_act = act;
    m.a_floor = json_number(arch_cfg_key(c, "ssm_cfg", "A_floor"), 1e-4);
    m.inner = arch_state_spaces_inner(c, d);
    m.head_dim = arch_cfg_size(c, "ssm_cfg", "headdim", 64);
    m.groups = arch_cfg_size(c, "ssm_cfg", "ngroups", 1);
    m.state = arch_cfg_size(c, "ssm_cfg", "d_state", 128);
    m.angles = (int32_t)(json_number(arch_cfg_key(c, "ssm_cfg", "rope_fraction"), 0.5) * m.state) / 2;
    m.mimo = arch_cfg_bool(c, "ssm_cfg", "is_mimo", 0);
    m.rank = m.mimo ? arch_cfg_size(c, "ssm_cfg", "mimo_rank", 4) : 1;
    m.out_norm = arch_cfg_bool(c, "ssm_cfg", "is_outproj_norm", 0);
    m.heads = m.inner / m.head_dim;
    if (m.inner % m.head_dim) conv_fail(c->env, "config.json: \"ssm_cfg\": \"headdim\" does not fit");
    ssm_put_mamba3(c, b, &m);
}

/* Sizes of the attention layers; their convolution runs over queries, keys and values.                     */
static void arch_state_spaces_heads(conv *c, conv_decoder *d)
{
    static const char *const known[] = {
        "num_heads", "num_heads_kv", "head_dim", "mlp_dim", "qkv_proj_bias", "out_proj_bias", "softmax_scale",
        "causal", "d_conv", "rotary_emb_dim", "rotary_emb_base", "rotary_emb_interleaved", NULL
    };
    const char *part = "attn_cfg";
    conv_rope_spec rope;
    if (c->env->failed) return;
    arch_cfg_known(c, part, known);
    d->heads = arch_cfg_size(c, part, "num_heads", CONV_REQUIRED);
    d->kv_heads = arch_cfg_size(c, part, "num_heads_kv", d->heads);
    d->head_dim = arch_cfg_size(c, part, "head_dim", d->dim / d->heads);
    if (((int64_t)d->heads + 2 * (int64_t)d->kv_heads) * d->head_dim > 1 << 28)
        conv_fail(c->env, "config.json: \"attn_cfg\": the heads are too many");
    if (!arch_cfg_bool(c, part, "causal", 0))
        conv_fail(c->env, "config.json: \"attn_cfg\": attention that is not causal is not supported");
    memset(&rope, 0, sizeof rope);
    rope.type = "default";
    rope.dims = arch_cfg_int(c, part, "rotary_emb_dim", 0, 0);
    rope.theta = json_number(arch_cfg_key(c, part, "rotary_emb_base"), 10000.0);
    d->ropes[0].name = "rope.freq";
    d->ropes[0].style = arch_cfg_bool(c, part, "rotary_emb_interleaved", 0) ? "interleaved" : "half";
    if (rope.dims) conv_rope_make(c, &d->ropes[0], &rope, d->head_dim);
}

/* in_proj rows [q k v | up gate]; the gated part goes past attention into out_proj.                        */
static void arch_state_spaces_attention(conv *c, const conv_decoder *d, int32_t i)
{
    const ssm_block b = arch_block(c, d, i, "mixer");
    const int32_t mlp = arch_round_up(arch_cfg_int(c, "attn_cfg", "mlp_dim", 0, 0), 256);
    const int32_t channels = (d->heads + 2 * d->kv_heads) * d->head_dim;
    const double scale = json_number(arch_cfg_key(c, "attn_cfg", "softmax_scale"),
                                     1.0 / sqrt((double)d->head_dim));
    const conv_part all = ssm_part(c, &b, "in_proj", channels + (int64_t)mlp, d->dim);
    conv_part part = conv_part_rows(c, all, ssm_out(c, &b, "qkv"), 0, channels, channels, channels);
    ssm_conv k;
    memset(&k, 0, sizeof k);
    k.name = "conv1d";
    k.channels = channels;
    k.taps = arch_cfg_int(c, "attn_cfg", "d_conv", 0, 0);
    conv_put_linear(c, k.taps ? 3 : 2, b.src, &part, 1, 1.0, 0);
    if (k.taps) ssm_put_conv(c, &b, 2, 3, &k);
    if (d->ropes[0].dims) conv_put_rope(c, d, &d->ropes[0]);
    conv_line(c, "mix r4 r2 attention heads=%d kv_heads=%d head_dim=%d scale=%s", d->heads, d->kv_heads,
              d->head_dim, conv_real(c, scale));
    if (mlp) {
        part = conv_part_rows(c, all, ssm_out(c, &b, "mlp"), channels, mlp, mlp, mlp);
        conv_put_linear(c, 5, b.src, &part, 1, 1.0, 0);
        conv_line(c, "copy r6 r5 count=%d\ngate r6 r6 r5 act=silu first=%d\ncat r7 r4 r6", mlp / 2, mlp / 2);
    }
    ssm_put_out(c, &b, mlp ? 7 : 4, "out_proj", (int64_t)d->heads * d->head_dim + mlp / 2);
}

/* fc1 rows [up | gate]                                                                                     */
static void arch_state_spaces_mlp(conv *c, const conv_decoder *d, int32_t i, int32_t inner)
{
    const ssm_block b = arch_block(c, d, i, "mlp");
    arch_layer_norm(c, d, i, "norm2", "norm2");
    ssm_put_linear(c, &b, 5, 1, "fc1", 2 * (int64_t)inner, d->dim, 0);
    conv_line(c, "copy r6 r5 count=%d\ngate r6 r6 r5 act=silu first=%d", inner, inner);
    ssm_put_linear(c, &b, 0, 6, "fc2", d->dim, inner, 1);
}

static void arch_state_spaces_layer(conv *c, const conv_decoder *d, int32_t i)
{
    const ssm_block b = arch_block(c, d, i, "mixer");
    const json_value *list = conv_key(c, "attn_layer_idx");
    const char *layer = json_text(arch_cfg_key(c, "ssm_cfg", "layer"), "Mamba1");
    arch_layer_norm(c, d, i, "norm", "norm");
    for (uint32_t k = 0; k < json_count(list); k++)
        if (json_int(json_at(list, k), -1) == i) { arch_state_spaces_attention(c, d, i); return; }
    if (strcmp(layer, "Mamba1") == 0) arch_state_spaces_mamba1(c, d, &b);
    else if (strcmp(layer, "Mamba2") == 0) arch_state_spaces_mamba2(c, d, &b);
    else if (strcmp(layer, "Mamba3") == 0) arch_state_spaces_mamba3(c, d, &b);
    else conv_fail(c->env, "config.json: \"ssm_cfg\": layer \"%.40s\" is not known", layer);
}

/* The vocabulary is padded; embedding and head share their weights; norms may be layer norms.              */
static void arch_state_spaces(conv *c)
{
    const int32_t mlp = arch_round_up((int32_t)conv_int(c, "d_intermediate", 0, 0, 1 << 28), 128);
    conv_decoder d;
    if (!arch_ssm_decoder(c, &d, "backbone.embedding", "backbone.norm_f", "backbone.layers.")) return;
    d.dim = conv_size(c, "d_model", CONV_REQUIRED);
    d.layers = conv_size(c, "n_layer", CONV_REQUIRED);
    d.vocab = arch_round_up(conv_size(c, "vocab_size", 50277), conv_size(c, "pad_vocab_size_multiple", 8));
    d.tied = conv_bool(c, "tie_embeddings", 1);
    d.norm_eps = 1e-5;
    if (!conv_bool(c, "rms_norm", 1)) { d.norm = "layer"; d.norm_bias = CONV_BIAS; }
    conv_key(c, "ssm_cfg");
    conv_key(c, "residual_in_fp32");
    conv_key(c, "fused_add_norm");
    conv_key(c, "attn_cfg");
    if (json_count(conv_key(c, "attn_layer_idx"))) arch_state_spaces_heads(c, &d);
    if (!conv_decoder_defaults(c, &d)) return;
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        conv_line(c, "# layer %d", i);
        arch_state_spaces_layer(c, &d, i);
        if (mlp) arch_state_spaces_mlp(c, &d, i, mlp);
    }
    conv_put_output(c, &d);
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
    conv_put_output(c, &d);
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
    conv_put_norm(c, d, 1, 1, conv_out_name(c, i, "attn_post_norm"),
                  conv_layer_name(c, d, i, d->attn_post_norm));
    conv_line(c, "add r0 r0 r1");
}

/* Is layer i one of attention? From layer_types, or a list of indices; absent both: all are.               */
static int arch_lfm2_attends(conv *c, const conv_decoder *d, int32_t i)
{
    const json_value *types = conv_key(c, "layer_types"), *list = conv_key(c, "full_attn_idxs");
    const char *type = json_text(json_at(types, (uint32_t)i), "");
    if (types && json_count(types) != (uint32_t)d->layers)
        conv_fail(c->env, "config.json: \"layer_types\" must have %d items", d->layers);
    if (types && strcmp(type, "conv") && strcmp(type, "full_attention"))
        conv_fail(c->env, "config.json: \"layer_types\": \"%.40s\" is not known", type);
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
    const int unscaled = conv_key_given(c, "block_ffn_dim_multiplier") &&
                         !conv_key(c, "block_ffn_dim_multiplier");
    int64_t n = conv_key(c, "block_ff_dim") ? conv_size(c, "block_ff_dim", 1) : d->ffn;
    if (!adjust) return (int32_t)n;
    n = 2 * n / 3;
    if (unscaled) return (int32_t)n;
    n = (int64_t)(factor * (double)n);
    return (int32_t)((n + multiple - 1) / multiple * multiple);
}

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
    static const char *const names[3] = {
        "feed_forward.experts.%d.w1.weight", "feed_forward.experts.%d.w3.weight",
        "feed_forward.experts.%d.w2.weight"
    };
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
    conv_put_output(c, &d);
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
    conv_put_output(c, &d);
}

/* ---- RecurrentGemma: RG-LRU and attention with a window ------------------------------------------------ */
/* h = a h + sqrt(1 - a^2) (x * sigmoid(W_i x + b_i)),  a = exp(-8 softplus(param) sigmoid(W_r x + b_r)); the
   W are block-diagonal, stored [heads, in, out]. r2 [y | x] -> r8 = h * act(y)                             */
static void arch_rg_lru(conv *c, const ssm_block *b, int32_t width, int32_t heads, int32_t taps,
                        const char *act)
{
    const int32_t size = width / heads;
    const float *param = conv_read(c, ssm_in(c, b, "rg_lru.recurrent_param"), width);
    float *rate = ssm_values(c, width), *one = ssm_values(c, width);
    const char *names[2];
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
    names[0] = conv_make_values(c, ssm_out(c, b, "input_gate.bias"),
                                conv_read(c, ssm_in(c, b, "rg_lru.input_gate_bias"), width), width);
    names[1] = conv_make_values(c, ssm_out(c, b, "recurrent_gate.bias"),
                                conv_read(c, ssm_in(c, b, "rg_lru.recurrent_gate_bias"), width), width);
    conv_put_diagonal(c, 4, 3, ssm_out(c, b, "input_gate"),
                      conv_read(c, ssm_in(c, b, "rg_lru.input_gate_weight"), (int64_t)width * size), heads,
                      size, size);
    conv_line(c, "affine r4 r4 b=@%s", names[0]);
    conv_put_diagonal(c, 5, 3, ssm_out(c, b, "recurrent_gate"),
                      conv_read(c, ssm_in(c, b, "rg_lru.recurrent_gate_weight"), (int64_t)width * size),
                      heads, size, size);
    conv_line(c, "gate r3 r3 r4 act=sigmoid\ncat r7 r3 r5");
    conv_make_panels(c, ssm_out(c, b, "ones"), one, width, 1);
    conv_line(c, "mix r8 r7 scan a=@%s b=@%s c=@%s dt_bias=@%s dt_act=sigmoid input=root",
              conv_make_panels(c, ssm_out(c, b, "rate"), rate, width, 1), ssm_out(c, b, "ones"),
              ssm_out(c, b, "ones"), names[1]);
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
    d->head_dim = conv_key(c, "head_dim") ? conv_size(c, "head_dim", 1) : conv_head_dim(c, d->dim, d->heads);
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
    conv_put_output(c, &d);
}

#endif /* ARCH_SSM_H_INCLUDED */
