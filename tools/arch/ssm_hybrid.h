/* arch/ssm_hybrid.h: Mamba blocks beside attention: FalconH1, Bamba, GraniteMoeHybrid, NemotronH, Jamba,
   Zamba, Zamba2. Facts are from the modeling files of transformers 5.                                      */
#ifndef ARCH_SSM_HYBRID_H_INCLUDED
#define ARCH_SSM_HYBRID_H_INCLUDED
#include "ssm.h"

/* ---- Mamba-2 beside attention: what is common, Bamba, FalconH1 ----------------------------------------- */
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
    arch_time_step_limits(c, m);
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
    conv_put_output(c, &d);
}

/* One number of a list of n multipliers; the list absent: 1                                                */
static double arch_multiplier(conv *c, const char *key, uint32_t n, uint32_t i)
{
    const json_value *list = conv_key(c, key);
    if (list && json_count(list) != n) conv_fail(c->env, "config.json: \"%s\" has not %u items", key, n);
    return json_number(json_at(list, i), 1.0);
}

typedef struct arch_falcon_h1_scales {
    double ssm_in, ssm_out, attn_in, attn_out, gate, down;
} arch_falcon_h1_scales;

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
    parts[0] = conv_part_of(c, d, conv_out_name(c, i, "gate"), conv_layer_name(c, d, i, d->gate), d->ffn,
                            d->dim, d->ffn_bias);
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
    conv_put_output(c, &d);
}

/* ---- GraniteMoeHybrid, NemotronH: dense or with experts ------------------------------------------------ */
/* Kinds of layers, new and old names: 'M' states, '*' attention, '-' MLP, 'E' experts, 'H' states after a
   shared block; 0 with an error.                                                                           */
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
    const json_value *types = arch_either_key(c, "layer_types", "layers_block_type");
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
    conv_put_output(c, &d);
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
        "moe_shared_expert_overlap", "n_shared_experts", "mtp_layers_block_type",
        "mtp_hybrid_override_pattern", "num_nextn_predict_layers", "mamba_proj_bias", "mamba_dt_min",
        "mamba_dt_max", "mamba_dt_init_floor", "num_hidden_layers", NULL
    };
    for (int k = 0; unused[k]; k++) conv_key(c, unused[k]);
    if (conv_key(c, "sliding_window")) conv_fail(c->env, "config.json: \"sliding_window\" is not supported");
}

/* Layers by name, or a letter each: hybrid_override_pattern                                                */
static char arch_nemotron_h_kind(conv *c, const json_value *types, const char *pattern, int32_t i)
{
    if (types) return arch_layer_kind(c, "layers_block_type", types, i);
    if (strchr("M*-E", pattern[i])) return pattern[i];
    conv_fail(c->env, "config.json: \"hybrid_override_pattern\": layer %d, '%c', is not known", i,
              pattern[i]);
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
    d->qkv_bias = d->o_bias = CONV_BIAS_IF_PRESENT;    /* transformers has none, whatever attention_bias    */
    conv_key(c, "attention_bias");
    m->heads = conv_size(c, "mamba_num_heads", 128);
    m->head_dim = conv_size(c, "mamba_head_dim", 64);
    if (!c->env->failed && (int64_t)m->heads * m->head_dim > 1 << 28) conv_fail(c->env, "too many heads");
    m->inner = (int32_t)((int64_t)m->heads * m->head_dim);
    m->groups = m->norm_groups = conv_size(c, "n_groups", 8);
    m->state = conv_size(c, "ssm_state_size", 128);
    m->taps = conv_size(c, "conv_kernel", 4);
    m->norm_eps = d->norm_eps;
    m->act = conv_activation(c, "mamba_hidden_act", "silu");
    arch_time_step_limits(c, m);
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
    const json_value *types = arch_either_key(c, "layers_block_type", "layer_types");
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
    conv_put_output(c, &d);
}

/* ---- Jamba: Mamba-1 and attention, MLPs and experts in turns ------------------------------------------- */
static void arch_jamba_mamba(conv *c, const conv_decoder *d, int32_t i, ssm_mamba1 *m, int bias,
                             int taps_bias)
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
    conv_put_output(c, &d);
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
        const char *from = conv_format(c->env, "%s.self_attn.linear_%s_adapter_list.%d", block, parts[i],
                                       use);
        down[i] = arch_once(c, conv_format(c->env, "use%d.%s.down", use, parts[i]),
                            conv_format(c->env, "%s.0.weight", from), z->rank, wide);
        up[i] = arch_once(c, conv_format(c->env, "use%d.%s.up", use, parts[i]),
                          conv_format(c->env, "%s.1.weight", from), rows[i], z->rank);
    }
    conv_line(c, "linear r14 r12 w=@%s,@%s,@%s", down[0], down[1], down[2]);
    conv_line(c, "linear r8 r14 w=@%s first=0\nlinear r9 r14 w=@%s first=%d\ncat r10 r8 r9", up[0], up[1],
              z->rank);
    conv_line(c, "linear r8 r14 w=@%s first=%d\ncat r15 r10 r8\nadd r2 r2 r15", up[2], 2 * z->rank);
}

/* A shared block in one of its uses                                                                        */
typedef struct arch_zamba_use {
    const char *in, *out;             /* what stands before its tensors' names: checkpoint, output          */
    int32_t     layer, number;        /* of the use                                                         */
} arch_zamba_use;

static const char *arch_zamba_in(conv *c, const arch_zamba_use *u, const char *name)
{
    return conv_format(c->env, "%s.%s", u->in, name);
}
static const char *arch_zamba_out(conv *c, const arch_zamba_use *u, const char *name)
{
    return conv_format(c->env, "%s.%s", u->out, name);
}
static void arch_zamba_norm(conv *c, const arch_zamba *z, const arch_zamba_use *u, int r, const char *out,
                            const char *name, int64_t width)
{
    conv_line(c, "norm r%d r%d kind=rms w=@%s eps=%s", r, r,
              arch_once(c, arch_zamba_out(c, u, out), arch_zamba_in(c, u, name), width, 0),
              conv_real(c, z->d.norm_eps));
}

/* r0 beside the embedding r11 -> r1                                                                        */
static void arch_zamba_attention(conv *c, const arch_zamba *z, const arch_zamba_use *u)
{
    static const char *const parts[] = { "q", "k", "v" };
    const conv_decoder *d = &z->d;
    const int64_t wide = 2 * (int64_t)d->dim, q = (int64_t)d->heads * d->head_dim;
    const int64_t kv = (int64_t)d->kv_heads * d->head_dim;
    const char *names[3];
    for (int k = 0; k < 3; k++)
        names[k] = arch_once(c, arch_zamba_out(c, u, parts[k]),
                             conv_format(c->env, "%s.self_attn.%s_proj.weight", u->in, parts[k]), k ? kv : q,
                             wide);
    conv_line(c, "cat r12 r0 r11");
    arch_zamba_norm(c, z, u, 12, "attn_norm", "input_layernorm.weight", wide);
    conv_line(c, "linear r2 r12 w=@%s,@%s,@%s", names[0], names[1], names[2]);
    if (z->attention_adapters) arch_zamba_attention_adapter(c, z, u->in, u->number, wide);
    if (d->ropes[0].dims) conv_put_rope(c, d, &d->ropes[0]);
    conv_line(c, "mix r3 r2 attention heads=%d kv_heads=%d head_dim=%d scale=%s", d->heads, d->kv_heads,
              d->head_dim, conv_real(c, d->layer_scale[u->layer]));
    arch_zamba_linear(c, 1, 3, arch_zamba_out(c, u, "o"), arch_zamba_in(c, u, "self_attn.o_proj"), d->dim, q,
                      "");
}

/* r1 -> r13, what the layer adds to r0 before its norm                                                     */
static void arch_zamba_ffn(conv *c, const arch_zamba *z, const arch_zamba_use *u)
{
    const conv_decoder *d = &z->d;
    const int64_t wide = 2 * (int64_t)d->ffn;
    arch_zamba_norm(c, z, u, 1, "ffn_norm", "pre_ff_layernorm.weight", d->dim);
    if (z->ffn_adapters) {
        const char *from = arch_zamba_in(c, u, "feed_forward.gate_up_proj");
        const char *adapter = conv_format(c->env, "%s_adapter_list.%d", from, u->number);
        arch_zamba_linear(c, 5, 1, arch_zamba_out(c, u, "gate_up"), from, wide, d->dim, "");
        arch_zamba_linear(c, 14, 1, conv_format(c->env, "use%d.gate_up.down", u->number),
                          conv_format(c->env, "%s.0", adapter), z->rank, d->dim, "");
        arch_zamba_linear(c, 5, 14, conv_format(c->env, "use%d.gate_up.up", u->number),
                          conv_format(c->env, "%s.1", adapter), wide, z->rank, " add=1");
    } else {
        const char *gate = arch_zamba_in(c, u, "feed_forward.gate_proj.weight");
        const char *up = arch_zamba_in(c, u, "feed_forward.up_proj.weight");
        gate = arch_once(c, arch_zamba_out(c, u, "gate"), gate, d->ffn, d->dim);
        up = arch_once(c, arch_zamba_out(c, u, "up"), up, d->ffn, d->dim);
        conv_line(c, "linear r5 r1 w=@%s,@%s", gate, up);
    }
    conv_line(c, "glu r6 r5 act=%s", d->act);
    arch_zamba_linear(c, 1, 6, arch_zamba_out(c, u, "down"), arch_zamba_in(c, u, "feed_forward.down_proj"),
                      d->dim, d->ffn, "");
    arch_zamba_linear(c, 13, 1, conv_out_name(c, u->layer, "linear"),
                      conv_layer_name(c, d, u->layer, "linear"), d->dim, d->dim, "");
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
    conv_line(c, "gate r9 r9 r2 act=silu first=%d", m->inner);
    ssm_put_out(c, b, 9, "out_proj", inner);
}

/* Layer i after its shared block, if it has one: r0 += mixer(norm(r0 + r13))                               */
static ssm_block arch_zamba_layer(conv *c, const arch_zamba *z, const json_value *types, int32_t i,
                                  int32_t *use)
{
    const int hybrid = arch_layer_kind(c, "layers_block_type", types, i) == 'H';
    ssm_block b;
    conv_line(c, "# layer %d", i);
    if (hybrid) {
        arch_zamba_use u;
        u.in = arch_zamba_block(c, z, types, *use);
        u.out = conv_format(c->env, "shared%d", *use % z->blocks);
        u.layer = i;
        u.number = (*use)++;
        arch_zamba_attention(c, z, &u);
        arch_zamba_ffn(c, z, &u);
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
    if (!d->tied)                                      /* it unties the layers that share weights as well   */
        conv_fail(c->env, "config.json: \"tie_word_embeddings\": false is not supported");
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
    const json_value *types = arch_either_key(c, "layers_block_type", "layer_types");
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
        conv_fail(c->env, "config.json: %d channels do not divide into \"n_mamba_heads\" = %d", m.inner,
                  heads);
    conv_put_embedding(c, &z.d);
    conv_line(c, "copy r11 r0");
    for (int32_t i = 0; i < z.d.layers && !c->env->failed; i++) {
        const ssm_block b = arch_zamba_layer(c, &z, types, i, &use);
        arch_expect_bias(c, &b, "in_proj", bias);
        arch_expect_bias(c, &b, "conv1d", taps_bias);
        arch_zamba_mamba1(c, &b, &m, heads);
    }
    conv_put_output(c, &z.d);
}

static void arch_zamba2(conv *c)
{
    const json_value *types = arch_either_key(c, "layers_block_type", "layer_types");
    static const char *const derived[] = {
        "hybrid_layer_ids", "kv_channels", "num_query_groups", "mamba_headdim", "use_conv_bias", NULL
    };
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
    conv_put_output(c, &z.d);
}

#endif /* ARCH_SSM_HYBRID_H_INCLUDED */
