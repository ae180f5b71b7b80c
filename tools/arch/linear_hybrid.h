/* arch/linear_hybrid.h: models of transformers that mix linear attention with attention, layer by layer,
   most of
   them with experts: Qwen3-Next, Qwen3.5, OLMo hybrid, MiniMax, Kimi Linear, Bailing (Ling 3).             */
#ifndef ARCH_LINEAR_HYBRID_H_INCLUDED
#define ARCH_LINEAR_HYBRID_H_INCLUDED
#include "linear.h"
#include "../conv_mla.h"

/* ---- what the mappings share --------------------------------------------------------------------------- */
/* "layer_types": does layer i attend? The key absent: each `every`-th does.                                */
static int arch_layer_attends(conv *c, const conv_decoder *d, int32_t i, int64_t every)
{
    const json_value *types = conv_key(c, "layer_types");
    const char *type = json_text(json_at(types, (uint32_t)i), "");
    if (!types) return (i + 1) % every == 0;
    if (json_count(types) != (uint32_t)d->layers)
        conv_fail(c->env, "config.json: \"layer_types\" has %u items for %d layers", json_count(types),
                  d->layers);
    else if (strcmp(type, "full_attention") && strcmp(type, "linear_attention"))
        conv_fail(c->env, "config.json: \"layer_types\": \"%.40s\" is not known", type);
    return strcmp(type, "full_attention") == 0;
}

/* The mixer of layer i, under `name` in the checkpoint                                                     */
static lin arch_layer_lin(conv *c, const conv_decoder *d, int32_t i, const char *name)
{
    return arch_lin(c, conv_format(c->env, "%s.", conv_layer_name(c, d, i, name)), ".weight", i);
}
/* Output projection of rows in rS into the stream                                                          */
static void arch_lin_out(const lin *l, int src, const char *name, int32_t dim, int64_t inner)
{
    const conv_part out = lin_part(l, name, dim, inner);
    conv_put_linear(l->c, 0, src, &out, 1, 1.0, CONV_ADD);
}

/* Sizes of a gated delta layer with "linear_*" keys                                                        */
static void arch_linear_sizes(conv *c, const conv_decoder *d, lin_layer *y)
{
    memset(y, 0, sizeof *y);
    y->dim = d->dim;
    y->q_heads = y->k_heads = conv_size(c, "linear_num_key_heads", d->heads);
    y->heads = y->v_heads = y->decay_heads = conv_size(c, "linear_num_value_heads", d->heads);
    y->key_dim = conv_size(c, "linear_key_head_dim", 128);
    y->v_dim = conv_size(c, "linear_value_head_dim", 128);
    y->taps = conv_size(c, "linear_conv_kernel_dim", 4);
    y->qk_act = y->v_act = d->act;
    y->map = LIN_MAP_L2;
    y->update = "delta";
    y->decay = LIN_DECAY_SOFTPLUS;
    y->a_log = "A_log";
    y->dt_bias = "dt_bias";
    y->norm = LIN_NORM_HEAD;
    y->norm_eps = d->norm_eps;
    y->gate_act = "silu";
    if (!c->env->failed && y->v_heads % y->k_heads)
        conv_fail(c->env, "config.json: %d value heads do not divide over %d key heads", y->v_heads,
                  y->k_heads);
}

/* Experts of layer i with their shared expert, r1 -> added to r0. shared: name of its maps, NULL: none;
   shared_gate:
   the weight [1, dim] whose sigmoid scales it, NULL: none                                                  */
static void arch_put_experts(conv *c, const conv_decoder *d, int32_t i, conv_moe *m, const char *shared,
                             int32_t inner,
                             const char *shared_gate)
{
    const lin l = arch_layer_lin(c, d, i, shared ? shared : "");
    conv_part parts[2];
    m->out = conv_format(c->env, "l%d.", i);
    conv_put_route(c, m, 1, d->dim);
    conv_put_experts(c, m, 0, 1, 1);
    if (!shared) return;
    parts[0] = lin_part(&l, "gate_proj", inner, d->dim);
    parts[1] = lin_part(&l, "up_proj", inner, d->dim);
    conv_put_linear(c, 5, 1, parts, 2, 1.0, 0);
    conv_line(c, "glu r6 r5 act=%s", d->act);
    if (shared_gate) {
        parts[0] = conv_part_of(c, d, conv_out_name(c, i, "shared_gate"), conv_layer_name(c, d, i,
                                                                                          shared_gate), 1,
                                d->dim, CONV_NO_BIAS);
        conv_put_linear(c, 4, 1, parts, 1, 1.0, 0);
        conv_line(c, "act r4 r4 kind=sigmoid\nmul r6 r6 r4");
    }
    arch_lin_out(&l, 6, "down_proj", d->dim, inner);
}

/* ---- Qwen3-Next, Qwen3.5 ------------------------------------------------------------------------------- */
static void arch_qwen_linear(conv *c, const conv_decoder *d, int32_t i)
{
    const lin l = arch_layer_lin(c, d, i, "linear_attn");
    const int packed = lin_has(&l, "in_proj_qkvz");
    lin_layer y;
    arch_linear_sizes(c, d, &y);
    y.conv[0] = "conv1d.weight";
    y.n_conv = 1;
    y.norm_weight = "norm";
    if (packed) {
        lin_qwen3_next(&l, &y, "in_proj_qkvz", "in_proj_ba");
    } else {
        const int64_t k = (int64_t)y.k_heads * y.key_dim, v = (int64_t)y.v_heads * y.v_dim;
        const conv_part all = lin_part(&l, "in_proj_qkv", 2 * k + v, d->dim);
        y.q = lin_rows(&l, all, "q", 0, k, k, k);
        y.k = lin_rows(&l, all, "k", k, k, k, k);
        y.v = lin_rows(&l, all, "v", 2 * k, v, v, v);
        y.gate = lin_part(&l, "in_proj_z", v, d->dim);
        y.beta = lin_part(&l, "in_proj_b", y.v_heads, d->dim);
        y.decay_outer = lin_part(&l, "in_proj_a", y.v_heads, d->dim);
    }
    arch_lin_out(&l, lin_put(&l, &y, 1), "out_proj", d->dim, (int64_t)y.heads * y.v_dim);
}

static void arch_qwen_attention(conv *c, const conv_decoder *d, int32_t i)
{
    const conv_part out = conv_part_of(c, d, conv_out_name(c, i, "o"), conv_layer_name(c, d, i, d->o), d->dim,
                                       (int64_t)d->heads * d->head_dim, d->o_bias);
    conv_put_attention(c, d, i, 1);
    conv_put_q_gate(c, d, i, 1);
    conv_put_linear(c, 0, 3, &out, 1, 1.0, CONV_ADD);
}

/* Names of the experts: one tensor a map of an expert, or all of them in two tensors                       */
static void arch_qwen_experts(conv *c, const conv_decoder *d, int32_t i, conv_moe *m)
{
    const char *stacked = conv_layer_name(c, d, i, "mlp.experts.gate_up_proj");
    const int one = conv_has(c, stacked);
    arch_layer_norm(c, d, i, "ffn_norm", d->ffn_norm);
    m->router = conv_layer_name(c, d, i, "mlp.gate.weight");
    m->gate = one ? stacked : conv_layer_name(c, d, i, "mlp.experts.%d.gate_proj.weight");
    m->up = one ? NULL : conv_layer_name(c, d, i, "mlp.experts.%d.up_proj.weight");
    m->down = conv_layer_name(c, d, i, one ? "mlp.experts.down_proj" : "mlp.experts.%d.down_proj.weight");
    arch_put_experts(c, d, i, m, "mlp.shared_expert", conv_size(c, "shared_expert_intermediate_size", 512),
                     "mlp.shared_expert_gate");
}
static int arch_qwen_is_dense(conv *c, int32_t i)
{
    const json_value *list = conv_key(c, "mlp_only_layers");
    int dense = (i + 1) % conv_size(c, "decoder_sparse_step", 1) != 0;
    for (uint32_t k = 0; k < json_count(list); k++) dense |= json_int(json_at(list, k), -1) == i;
    return dense;
}

static void arch_qwen_hybrid(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", "partial_rotary_factor", 10000.0, 0.25 };
    /* layers that guess further tokens           */
    static const char *const mtp[] = { "mtp.*", NULL };
    const int32_t experts = (int32_t)conv_int(c, "num_experts", 0, 0, 4096);
    const int64_t every = conv_int(c, "full_attention_interval", 4, 1, 1 << 20);
    conv_decoder d;
    conv_moe m;
    memset(&m, 0, sizeof m);
    c->ignored = mtp;
    if (!conv_hf_decoder(c, &d, 0)) return;
    d.qkv_bias = d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    d.norm_eps = conv_positive(c, "rms_norm_eps", 1e-6);
    d.norm_plus = 1.0;
    d.head_norm = CONV_HEAD_NORM_SHARED;
    d.q_norm = "self_attn.q_norm";
    d.k_norm = "self_attn.k_norm";
    d.q_gate = 1;
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    m.experts = experts;
    m.dim = d.dim;
    m.score = "softmax";
    m.act = d.act;
    if (experts) {
        m.k = conv_size(c, "num_experts_per_tok", 10);
        m.inner = conv_size(c, "moe_intermediate_size", 512);
        m.renorm = conv_bool(c, "norm_topk_prob", 1);
    }
    arch_ssm_unused_keys(c);
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        conv_line(c, "# layer %d", i);
        arch_layer_norm(c, &d, i, "attn_norm", d.attn_norm);
        if (arch_layer_attends(c, &d, i, every)) arch_qwen_attention(c, &d, i);
        else arch_qwen_linear(c, &d, i);
        if (experts && !arch_qwen_is_dense(c, i)) arch_qwen_experts(c, &d, i, &m);
        else arch_ffn_branch(c, &d, i);
    }
    conv_put_output(c, &d);
}

/* ---- OLMo hybrid --------------------------------------------------------------------------------------- */
/* Layers that attend have norms behind their branches, the others in front of them. transformers writes files
   with other names of norms than it has.                                                                   */
static const char *arch_either(conv *c, const conv_decoder *d, int32_t i, const char *a, const char *b)
{
    return conv_has(c, conv_format(c->env, "%s.weight", conv_layer_name(c, d, i, a))) ? a : b;
}
static void arch_olmo_linear(conv *c, const conv_decoder *d, int32_t i)
{
    static const char *const kernels[3] = { "q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight" };
    const lin l = arch_layer_lin(c, d, i, "linear_attn");
    lin_layer y;
    arch_linear_sizes(c, d, &y);
    memcpy(y.conv, kernels, sizeof kernels);
    y.n_conv = 3;
    y.q = lin_part(&l, "q_proj", (int64_t)y.q_heads * y.key_dim, d->dim);
    y.k = lin_part(&l, "k_proj", (int64_t)y.k_heads * y.key_dim, d->dim);
    y.v = lin_part(&l, "v_proj", (int64_t)y.v_heads * y.v_dim, d->dim);
    y.gate = lin_part(&l, "g_proj", (int64_t)y.v_heads * y.v_dim, d->dim);
    y.beta = lin_part(&l, "b_proj", y.v_heads, d->dim);
    y.beta_scale = conv_bool(c, "linear_allow_neg_eigval", 1) ? 2.0 : 1.0;
    y.decay_outer = lin_part(&l, "a_proj", y.v_heads, d->dim);
    y.norm_weight = "o_norm";
    y.norm_eps = 1e-5;                /* whatever rms_norm_eps says                                         */
    arch_lin_out(&l, lin_put(&l, &y, 1), "o_proj", d->dim, (int64_t)y.heads * y.v_dim);
}
static void arch_olmo_hybrid_layer(conv *c, conv_decoder *d, int32_t i, int attends)
{
    conv_line(c, "# layer %d", i);
    if (attends) {
        d->attn_norm = d->ffn_norm = NULL;
        d->attn_post_norm = arch_either(c, d, i, "post_attention_layernorm", "feedforward_layer_norm");
        d->ffn_post_norm = "post_feedforward_layernorm";
        conv_put_layer(c, d, i);
        return;
    }
    d->attn_post_norm = d->ffn_post_norm = NULL;
    d->ffn_norm = arch_either(c, d, i, "feedforward_layer_norm", "post_attention_layernorm");
    arch_layer_norm(c, d, i, "attn_norm", arch_either(c, d, i, "attention_layer_norm", "input_layernorm"));
    arch_olmo_linear(c, d, i);
    arch_ffn_branch(c, d, i);
}
static void arch_olmo_hybrid(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", NULL, 500000.0, 1.0 };
    static const char *const start[] = { "linear_a_log_min", "linear_a_log_max", "linear_dt_min",
                                         "linear_dt_max",
                                         "linear_dt_init_floor", NULL };
    const json_value *rope = conv_key(c, "rope_parameters");
    conv_decoder d;
    for (int i = 0; start[i]; i++) conv_key(c, start[i]);
    if (!conv_hf_decoder(c, &d, 0)) return;
    d.qkv_bias = d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    d.norm_eps = conv_positive(c, "rms_norm_eps", 1e-6);
    d.head_norm = CONV_HEAD_NORM_FULL;
    d.q_norm = "self_attn.q_norm";
    d.k_norm = "self_attn.k_norm";
    if (conv_key(c, "rope_theta") || json_is(json_get(rope, "rope_theta"), JSON_NUMBER))
        conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++)
        arch_olmo_hybrid_layer(c, &d, i, arch_layer_attends(c, &d, i, 4));
    conv_put_output(c, &d);
}

/* ---- MiniMax: lightning attention; branches are added to their normalised input ------------------------ */
static double arch_exp_minus(double x) { return exp(-x); }
/* r0 = alpha r1 + r0, r0 holding beta times the branch                                                     */
static void arch_minimax_sum(conv *c, double alpha)
{
    if (alpha != 1.0) conv_line(c, "scale r1 r1 by=%s", conv_real(c, alpha));
    conv_line(c, "add r0 r0 r1");
}
static int arch_minimax_linear(conv *c, const conv_decoder *d, int32_t i, conv_part *out)
{
    const lin l = arch_layer_lin(c, d, i, "self_attn");
    const float *slopes = lin_read(&l, "slope_rate", d->heads);
    lin_layer y;
    memset(&y, 0, sizeof y);
    y.dim = d->dim;
    y.heads = d->heads;
    y.key_dim = y.v_dim = d->head_dim;
    y.qk_act = y.v_act = d->act;
    lin_packed_heads(&l, &y, "qkv_proj");
    y.decay = LIN_DECAY_FIXED;
    y.factors = lin_spread(&l, slopes, d->heads, 1, arch_exp_minus);
    y.scale = 1.0;
    y.norm = LIN_NORM_ALL;
    y.norm_weight = "norm";
    y.norm_eps = 1e-6;                /* whatever rms_norm_eps says                                         */
    y.gate = lin_part(&l, "output_gate", (int64_t)d->heads * d->head_dim, d->dim);
    y.gate_act = "sigmoid";
    *out = lin_part(&l, "out_proj", d->dim, (int64_t)d->heads * d->head_dim);
    return lin_put(&l, &y, 1);
}
static void arch_minimax_experts(conv *c, const conv_decoder *d, int32_t i, conv_moe *m)
{
    arch_layer_norm(c, d, i, "ffn_norm", d->ffn_norm);
    m->out = conv_format(c->env, "l%d.", i);
    m->router = conv_layer_name(c, d, i, "block_sparse_moe.gate.weight");
    m->gate = conv_layer_name(c, d, i, "block_sparse_moe.experts.%d.w1.weight");
    m->up = conv_layer_name(c, d, i, "block_sparse_moe.experts.%d.w3.weight");
    m->down = conv_layer_name(c, d, i, "block_sparse_moe.experts.%d.w2.weight");
    conv_put_route(c, m, 1, d->dim);
    conv_put_experts(c, m, 0, 1, 0);
    arch_minimax_sum(c, conv_number(c, "mlp_alpha_factor", 1.0));
}
static void arch_minimax(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", NULL, 1000000.0, 1.0 };
    static const char *const tables[] = { "*.self_attn.diagonal_decay", "*.self_attn.key_decay",
                                          "*.self_attn.query_decay", NULL };
    conv_decoder d;
    conv_moe m;
    memset(&m, 0, sizeof m);
    c->ignored = tables;
    conv_key(c, "block_size");        /* of the way of computing                                            */
    conv_key(c, "router_jitter_noise");
    if (!conv_hf_decoder(c, &d, 0)) return;
    d.norm_eps = conv_positive(c, "rms_norm_eps", 1e-5);
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    if (conv_key(c, "sliding_window")) conv_fail(c->env, "config.json: \"sliding_window\" is not supported");
    m.experts = conv_size(c, "num_local_experts", 8);
    m.k = conv_size(c, "num_experts_per_tok", 2);
    m.dim = d.dim;
    m.inner = d.ffn;
    m.score = "softmax";
    m.act = d.act;
    m.renorm = 1;
    m.scale = conv_number(c, "mlp_beta_factor", 1.0);
    arch_ssm_unused_keys(c);
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        const int attends = arch_layer_attends(c, &d, i, 2);
        const char *kind = attends ? "full_attn" : "linear_attn";
        conv_part out;
        int reg = 3;
        conv_line(c, "# layer %d", i);
        arch_layer_norm(c, &d, i, "attn_norm", d.attn_norm);
        if (attends) {
            conv_put_attention(c, &d, i, 1);
            out = conv_part_of(c, &d, conv_out_name(c, i, "o"), conv_layer_name(c, &d, i, d.o), d.dim,
                               (int64_t)d.heads * d.head_dim, CONV_NO_BIAS);
        } else {
            reg = arch_minimax_linear(c, &d, i, &out);
        }
        conv_put_linear(c, 0, reg, &out, 1, conv_number(c, conv_format(c->env, "%s_beta_factor", kind),
                                                        1.0), 0);
        arch_minimax_sum(c, conv_number(c, conv_format(c->env, "%s_alpha_factor", kind), 1.0));
        arch_minimax_experts(c, &d, i, &m);
    }
    conv_put_output(c, &d);
}

/* ---- Kimi Linear, Bailing: Kimi delta attention, latent attention, experts ----------------------------- */
typedef struct arch_kimi {
    conv_decoder d;
    conv_mla     mla;
    conv_moe     moe;
    conv_rope    rope;
    /* of the linear layers; layers without experts */
    int32_t      heads, head_dim, taps, dense, shared;
    double       bound;               /* of the decay; 0: softplus                                          */
    const char  *mixer, *out, *experts;
} arch_kimi;

static void arch_kimi_linear_layer(conv *c, const arch_kimi *k, int32_t i)
{
    static const char *const kernels[3] = { "q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight" };
    const conv_decoder *d = &k->d;
    const lin l = arch_layer_lin(c, d, i, k->mixer);
    const int32_t n = k->heads * k->head_dim;
    lin_layer y;
    memset(&y, 0, sizeof y);
    y.dim = d->dim;
    y.heads = k->heads;
    y.key_dim = y.v_dim = k->head_dim;
    memcpy(y.conv, kernels, sizeof kernels);
    y.n_conv = 3;
    y.taps = k->taps;
    y.qk_act = y.v_act = d->act;
    y.map = LIN_MAP_L2;
    y.update = "delta";
    y.decay = k->bound != 0.0 ? LIN_DECAY_BOUNDED : LIN_DECAY_SOFTPLUS;
    y.decay_number = k->bound;
    y.decay_is_vector = 1;
    y.a_log = "A_log";
    y.dt_bias = "dt_bias";
    y.q = lin_part(&l, "q_proj", n, d->dim);
    y.k = lin_part(&l, "k_proj", n, d->dim);
    y.v = lin_part(&l, "v_proj", n, d->dim);
    y.beta = lin_part(&l, "b_proj", k->heads, d->dim);
    if (lin_has(&l, "f_proj")) {
        y.decay_outer = lin_part(&l, "f_proj", n, d->dim);
    } else {
        y.decay_inner = lin_part(&l, "f_a_proj", k->head_dim, d->dim);
        y.decay_outer = lin_part(&l, "f_b_proj", n, k->head_dim);
    }
    if (lin_has(&l, "g_proj")) {
        y.gate = lin_part(&l, "g_proj", n, d->dim);
    } else {
        y.gate_inner = lin_part(&l, "g_a_proj", k->head_dim, d->dim);
        y.gate = lin_part(&l, "g_b_proj", n, k->head_dim);
    }
    y.gate_act = "sigmoid";
    y.norm = LIN_NORM_HEAD;
    y.norm_weight = "o_norm";
    y.norm_eps = d->norm_eps;
    arch_lin_out(&l, lin_put(&l, &y, 1), k->out, d->dim, n);
}
/* Latent attention; where there is a g_proj [heads, dim], its sigmoid scales each head's result            */
static void arch_kimi_attention(conv *c, const arch_kimi *k, int32_t i)
{
    const conv_decoder *d = &k->d;
    const lin l = arch_layer_lin(c, d, i, k->mixer);
    const int reg = conv_put_mla(c, d, &k->mla, i, 1);
    if (lin_has(&l, "g_proj")) {
        lin_linear(&l, 4, 1, lin_part(&l, "g_proj", k->mla.heads, d->dim));
        conv_line(c, "act r4 r4 kind=sigmoid\nmul r%d r%d r4", reg, reg);
    }
    arch_lin_out(&l, reg, k->out, d->dim, (int64_t)k->mla.heads * k->mla.v_dim);
}
static void arch_kimi_layer(conv *c, arch_kimi *k, int32_t i, int attends, int dense)
{
    const conv_decoder *d = &k->d;
    conv_line(c, "# layer %d", i);
    arch_layer_norm(c, d, i, "attn_norm", d->attn_norm);
    if (attends) arch_kimi_attention(c, k, i);
    else arch_kimi_linear_layer(c, k, i);
    if (dense) {
        arch_ffn_branch(c, d, i);
        return;
    }
    arch_layer_norm(c, d, i, "ffn_norm", d->ffn_norm);
    arch_put_experts(c, d, i, &k->moe, conv_format(c->env, "%s.shared_experts", k->experts), k->shared, NULL);
}
/* A size under either of two names                                                                         */
static int32_t arch_size_either(conv *c, const char *a, const char *b, int64_t otherwise)
{
    const int32_t n = conv_size(c, b, otherwise);
    return conv_size(c, a, n);
}
/* Layers behind the last one that guess further tokens stay unused.                                        */
static void arch_kimi_ignore(conv *c, int32_t layers, int32_t more)
{
    const char **list = (const char **)conv_alloc(c->env, (uint64_t)more + 1, sizeof *list);
    for (int32_t i = 0; list && i < more; i++) list[i] = conv_format(c->env, "model.layers.%d.*", layers + i);
    c->ignored = list;
}
static int arch_kimi_sizes(conv *c, arch_kimi *k, const char *embed)
{
    conv_decoder *d = &k->d;
    conv_mla *m = &k->mla;
    conv_moe *x = &k->moe;
    memset(k, 0, sizeof *k);
    if (!arch_ssm_decoder(c, d, embed, "model.norm", "model.layers.")) return 0;
    d->dim = m->dim = x->dim = conv_size(c, "hidden_size", CONV_REQUIRED);
    d->layers = conv_size(c, "num_hidden_layers", CONV_REQUIRED);
    d->vocab = conv_size(c, "vocab_size", CONV_REQUIRED);
    d->ffn = conv_size(c, "intermediate_size", CONV_REQUIRED);
    d->tied = conv_bool(c, "tie_word_embeddings", 0);
    d->norm_eps = conv_positive(c, "rms_norm_eps", 1e-6);
    d->attn_norm = "input_layernorm";
    d->ffn_norm = "post_attention_layernorm";
    d->act = conv_activation(c, "hidden_act", "silu");
    d->qkv_bias = d->o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    c->max_context = arch_size_either(c, "max_position_embeddings", "model_max_length", CONV_REQUIRED);
    m->heads = conv_size(c, "num_attention_heads", CONV_REQUIRED);
    m->q_rank = conv_key(c, "q_lora_rank") ? conv_size(c, "q_lora_rank", 1) : 0;
    m->rank = conv_size(c, "kv_lora_rank", 512);
    m->plain = conv_size(c, "qk_nope_head_dim", 128);
    m->rotated = conv_size(c, "qk_rope_head_dim", 64);
    m->v_dim = conv_size(c, "v_head_dim", 128);
    m->scale = 1.0 / sqrt((double)m->plain + m->rotated);
    m->norm_eps = 1e-6;               /* whatever rms_norm_eps says                                         */
    conv_key(c, "qk_head_dim");       /* the sum of the two                                                 */
    conv_key(c, "head_dim");          /* in use by no layer                                                 */
    conv_key(c, "num_key_value_heads");
    x->experts = conv_size(c, "num_experts", CONV_REQUIRED);
    x->k = arch_size_either(c, "num_experts_per_tok", "num_experts_per_token", CONV_REQUIRED);
    x->inner = conv_size(c, "moe_intermediate_size", CONV_REQUIRED);
    x->groups = arch_size_either(c, "n_group", "num_expert_group", 1);
    x->group_k = conv_size(c, "topk_group", 1);
    x->group_top = 2;
    x->score = "sigmoid";
    x->renorm = conv_bool(c, "norm_topk_prob", conv_bool(c, "moe_renormalize", 1));
    x->eps = 1e-20;
    x->scale = conv_number(c, "routed_scaling_factor", 1.0);
    x->act = d->act;
    k->shared = conv_size(c, "moe_shared_expert_intermediate_size", x->inner) * conv_size(c,
         "num_shared_experts", 1);
    k->dense = (int32_t)conv_int(c, "first_k_dense_replace", 1, 0, 1 << 20);
    arch_kimi_ignore(c, d->layers, (int32_t)conv_int(c, "num_nextn_predict_layers", 0, 0, 64));
    arch_ssm_unused_keys(c);
    return conv_decoder_defaults(c, d);
}
static int arch_kimi_is_dense(conv *c, const arch_kimi *k, int32_t i)
{
    const json_value *types = conv_key(c, "mlp_layer_types");
    return types ? json_text_is(json_at(types, (uint32_t)i), "dense") : i < k->dense;
}

/* linear_attn_config of the published files: layers are counted from 1                                     */
static int arch_kimi_attends(conv *c, const arch_kimi *k, int32_t i)
{
    const json_value *list = json_get(conv_key(c, "linear_attn_config"), "full_attn_layers");
    if (conv_key(c, "layer_types") || !list) return arch_layer_attends(c, &k->d, i, 4);
    for (uint32_t n = 0; n < json_count(list); n++)
        if (json_int(json_at(list, n), -1) == i + 1) return 1;
    return 0;
}
static int32_t arch_kimi_linear_size(conv *c, const char *key, const char *published, int64_t otherwise)
{
    const json_value *v = json_get(conv_key(c, "linear_attn_config"), published);
    const int64_t n = v ? json_int(v, 0) : conv_size(c, key, otherwise);
    if (n >= 1 && n <= 1 << 20) return (int32_t)n;
    conv_fail(c->env, "config.json: \"linear_attn_config\": \"%s\" is not a size", published);
    return 1;
}
static void arch_kimi_names(conv *c, arch_kimi *k, int32_t i, const char *const experts[3], const char *bias)
{
    conv_moe *x = &k->moe;
    x->router = conv_layer_name(c, &k->d, i, conv_format(c->env, "%s.gate.weight", k->experts));
    x->bias = conv_layer_name(c, &k->d, i, conv_format(c->env, "%s.gate.%s", k->experts, bias));
    x->gate = conv_layer_name(c, &k->d, i, conv_format(c->env, "%s.experts.%%d.%s.weight", k->experts,
                                                       experts[0]));
    x->up = conv_layer_name(c, &k->d, i, conv_format(c->env, "%s.experts.%%d.%s.weight", k->experts,
                                                     experts[1]));
    x->down = conv_layer_name(c, &k->d, i, conv_format(c->env, "%s.experts.%%d.%s.weight", k->experts,
                                                       experts[2]));
}
static void arch_mla_names(arch_kimi *k, conv *c, const char *mixer)
{
    conv_mla *m = &k->mla;
    k->mixer = mixer;
    m->q = conv_format(c->env, "%s.%s", mixer, m->q_rank ? "q_b_proj" : "q_proj");
    m->q_a = conv_format(c->env, "%s.q_a_proj", mixer);
    m->q_norm = conv_format(c->env, "%s.q_a_layernorm", mixer);
    m->kv_a = conv_format(c->env, "%s.kv_a_proj_with_mqa", mixer);
    m->kv_norm = conv_format(c->env, "%s.kv_a_layernorm", mixer);
    m->kv_b = conv_format(c->env, "%s.kv_b_proj", mixer);
}

static void arch_kimi_linear(conv *c)
{
    static const char *const experts[3] = { "w1", "w3", "w2" };
    static const char *const unused[] = { "rope_theta", "rope_parameters", "use_grouped_topk", NULL };
    arch_kimi k;
    if (!arch_kimi_sizes(c, &k, "model.embed_tokens")) return;
    for (int i = 0; unused[i]; i++) conv_key(c, unused[i]);           /* positions rotate nothing           */
    conv_only_bool(c, "mla_use_nope", 1);
    if (conv_int(c, "moe_layer_freq", 1, 1, 1 << 20) != 1 ||
        strcmp(conv_word(c, "moe_router_activation_func", "sigmoid"), "sigmoid"))
        conv_fail(c->env,
                  "config.json: \"moe_layer_freq\" or \"moe_router_activation_func\" is not supported");
    k.heads = arch_kimi_linear_size(c, "linear_num_heads", "num_heads", 32);
    k.head_dim = arch_kimi_linear_size(c, "linear_head_dim", "head_dim", 128);
    k.taps = arch_kimi_linear_size(c, "linear_conv_kernel_dim", "short_conv_kernel_size", 4);
    k.out = "o_proj";
    k.experts = "block_sparse_moe";
    arch_mla_names(&k, c, "self_attn");
    conv_put_embedding(c, &k.d);
    for (int32_t i = 0; i < k.d.layers && !c->env->failed; i++) {
        const char *ffn = arch_either(c, &k.d, i, "mlp.gate_proj", "block_sparse_moe.gate_proj")[0] == 'm'
            ? "mlp" : "block_sparse_moe";
        k.d.gate = conv_format(c->env, "%s.gate_proj", ffn);
        k.d.up = conv_format(c->env, "%s.up_proj", ffn);
        k.d.down = conv_format(c->env, "%s.down_proj", ffn);
        arch_kimi_names(c, &k, i, experts, "e_score_correction_bias");
        arch_kimi_layer(c, &k, i, arch_kimi_attends(c, &k, i), arch_kimi_is_dense(c, &k, i));
    }
    conv_put_output(c, &k.d);
}

static void arch_bailing_hybrid(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", NULL, 6000000.0, 1.0 };
    static const char *const experts[3] = { "gate_proj", "up_proj", "down_proj" };
    const double bound = conv_number(c, "kda_lower_bound", -5.0);
    int64_t every;
    arch_kimi k;
    if (!arch_kimi_sizes(c, &k, "model.word_embeddings")) return;
    every = conv_int(c, "layer_group_size", 4, 1, 1 << 20);
    conv_key(c, "mtp_loss_scaling_factor");
    k.bound = conv_bool(c, "kda_safe_gate", 1) ? bound : 0.0;
    k.heads = conv_size(c, "linear_num_heads", k.mla.heads);
    k.head_dim = conv_size(c, "linear_head_dim", 128);
    k.taps = arch_size_either(c, "linear_conv_kernel_dim", "short_conv_kernel_size", 4);
    k.out = "dense";
    k.experts = "mlp";
    k.d.gate = "mlp.gate_proj";
    k.d.up = "mlp.up_proj";
    k.d.down = "mlp.down_proj";
    k.rope.style = "interleaved";
    conv_hf_rope(c, &k.rope, "rope.freq", NULL, &keys, k.mla.rotated);
    k.mla.rope = &k.rope;
    arch_mla_names(&k, c, "attention");
    conv_put_embedding(c, &k.d);
    for (int32_t i = 0; i < k.d.layers && !c->env->failed; i++) {
        arch_kimi_names(c, &k, i, experts, "expert_bias");
        arch_kimi_layer(c, &k, i, arch_layer_attends(c, &k.d, i, every), arch_kimi_is_dense(c, &k, i));
    }
    conv_put_output(c, &k.d);
}

#endif /* ARCH_LINEAR_HYBRID_H_INCLUDED */
