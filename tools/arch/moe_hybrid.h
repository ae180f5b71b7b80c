/* arch/moe_hybrid.h: mixtures of experts with attention of their own kind: sinks, gates, chunks, heads by layer,
   latent convolutions, experts that hold queries. Facts are from the modeling files of transformers 5.      */
#ifndef ARCH_MOE_HYBRID_H_INCLUDED
#define ARCH_MOE_HYBRID_H_INCLUDED
#include "moe.h"

/* Channels of a head when the key is absent: not dim / heads, but n                                         */
static void arch_moe_head_dim(conv *c, conv_decoder *d, int32_t n)
{
    if (!conv_key(c, "head_dim")) d->head_dim = n;
    conv_set_scale(d, 1.0 / sqrt((double)d->head_dim));
}

/* Item i of a list of texts in the configuration; the key absent: `otherwise`                               */
static const char *arch_moe_item(conv *c, const conv_decoder *d, const char *key, int32_t i,
                                 const char *otherwise)
{
    const json_value *list = conv_key(c, key);
    if (list && json_count(list) != (uint32_t)d->layers)
        conv_fail(c->env, "config.json: \"%s\" has %u items for %d layers", key, json_count(list), d->layers);
    return json_text(json_at(list, (uint32_t)i), list ? "" : otherwise);
}

/* ---- HunYuan-A13B ---------------------------------------------------------------------------------------- */
/* A number, or a list of one for each layer                                                                 */
static int32_t arch_hunyuan_number(conv *c, const char *key, int32_t i, int64_t otherwise, int64_t high)
{
    const json_value *list = conv_key(c, key);
    int64_t v;
    if (!json_is(list, JSON_ARRAY)) return (int32_t)conv_int(c, key, otherwise, 1, high);
    v = json_int(json_at(list, (uint32_t)i), 0);
    if (v < 1 || v > high)
        conv_fail(c->env, "config.json: \"%s\": item %d is not a whole number from 1 to %lld", key, i,
                  (long long)high);
    return (int32_t)v;
}

static void arch_hunyuan_moe(conv *c)
{
    static const char *const unused[] = {
        "eod_token_id", "moe_intermediate_size", "use_mixed_mlp_moe", "moe_drop_tokens", "norm_type",
        "moe_random_routing_dropped_token", "cla_share_factor", "org_vocab_size", "attention_head_dim", NULL
    };
    arch_moe a;
    if (!arch_moe_start(c, &a, &arch_rope_keys, 1e-5, "num_experts", "num_local_experts", NULL, 1)) return;
    for (int i = 0; unused[i]; i++) conv_key(c, unused[i]);
    conv_only_bool(c, "use_qk_norm", 1);
    conv_only_bool(c, "use_cla", 0);
    conv_only_bool(c, "use_mla", 0);
    conv_only_bool(c, "mlp_bias", 0);
    conv_int(c, "moe_layer_num_skipped", 0, 0, 0);
    a.d.qkv_bias = a.d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    a.d.head_norm = CONV_HEAD_NORM_SHARED;
    a.d.head_norm_after_rope = 1;
    a.d.q_norm = "self_attn.query_layernorm";
    a.d.k_norm = "self_attn.key_layernorm";
    a.m.renorm = 1;
    a.shared = "mlp.shared_mlp";
    a.shared_inner = a.d.ffn;
    conv_put_embedding(c, &a.d);
    for (int32_t i = 0; i < a.d.layers && !c->env->failed; i++) {
        a.m.k = arch_hunyuan_number(c, "moe_topk", i, 1, a.m.experts);
        if (arch_hunyuan_number(c, "num_shared_expert", i, 1, 1 << 16) != 1)
            conv_fail(c->env, "config.json: more than one \"num_shared_expert\" is not supported");
        arch_moe_layer(c, &a, i);
    }
    arch_output(c, &a.d);
}

/* ---- Phi-3.5-MoE: LayerNorm, biases, two experts one after the other ------------------------------------- */
static void arch_phimoe(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", NULL, 1000000.0, 1.0 };
    arch_moe a;
    if (!arch_moe_start(c, &a, &keys, 1e-5, "num_local_experts", "num_experts", "num_experts_per_tok", 2))
        return;
    conv_key(c, "input_jitter_noise");
    if (a.m.k != 2) conv_fail(c->env, "config.json: \"num_experts_per_tok\" can only be 2");
    conv_set_window(&a.d, arch_window(c, 0));
    a.d.norm = "layer";
    a.d.norm_bias = CONV_BIAS;
    a.d.qkv_bias = a.d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    a.d.head_bias = arch_bias(conv_bool(c, "lm_head_bias", 0));
    a.m.score = "sparsemixer";
    a.m.jitter = conv_number(c, "router_jitter_noise", 0.01);
    arch_moe_emit(c, &a);
}

/* ---- DBRX ------------------------------------------------------------------------------------------------ */
/* Keys of an object inside the configuration: those of `known`, and those without effect anywhere            */
static const json_value *arch_dbrx_part(conv *c, const char *key, const char *const *known)
{
    const json_value *part = conv_key(c, key);
    for (uint32_t i = 0; i < json_count(part); i++) {
        const char *name = json_key_at(part, i)->text;
        int found = json_is(json_at(part, i), JSON_NULL);
        for (int k = 0; !found && known[k]; k++) found = strcmp(known[k], name) == 0;
        for (int k = 0; !found && conv_ignored_keys[k]; k++) found = strcmp(conv_ignored_keys[k], name) == 0;
        if (!found && strcmp(name, "is_encoder_decoder"))
            conv_fail(c->env, "config.json: key \"%.60s\" in \"%s\" is not known and might change the "
                      "results", name, key);
    }
    return part;
}
static double arch_dbrx_number(conv *c, const json_value *part, const char *key, double otherwise)
{
    const json_value *v = json_get(part, key);
    if (!v || v->type == JSON_NULL) return otherwise;
    if (!json_is(v, JSON_NUMBER) || !(fabs(json_number(v, 0.0)) < 1e30))
        conv_fail(c->env, "config.json: \"%s\" is not a number", key);
    return json_number(v, otherwise);
}
static int32_t arch_dbrx_size(conv *c, const json_value *part, const char *key, int64_t otherwise)
{
    const int64_t v = json_int(json_get(part, key), json_get(part, key) ? -1 : otherwise);
    if (v >= 1 && v <= 1 << 28) return (int32_t)v;
    conv_fail(c->env, "config.json: \"%s\" is not a whole number from 1 to 2^28", key);
    return 1;
}

/* Sizes and names; norms without biases whose epsilon is fixed                                              */
static int arch_dbrx_decoder(conv *c, conv_decoder *d, const json_value *attn)
{
    const char *prefix = conv_prefix(c, "transformer.", "wte.weight");
    memset(d, 0, sizeof *d);
    d->dim = conv_size(c, "d_model", 2048);
    d->layers = conv_size(c, "n_layers", 24);
    d->heads = conv_size(c, "n_heads", 16);
    d->kv_heads = arch_dbrx_size(c, attn, "kv_n_heads", 1);
    d->head_dim = conv_head_dim(c, d->dim, d->heads);
    d->vocab = conv_size(c, "vocab_size", 32000);
    c->max_context = conv_size(c, "max_seq_len", 2048);
    conv_only_bool(c, "tie_word_embeddings", 0);
    d->embed = conv_format(c->env, "%swte", prefix);
    d->final_norm = conv_format(c->env, "%snorm_f", prefix);
    d->layer_prefix = conv_format(c->env, "%sblocks.", prefix);
    d->head = "lm_head";
    d->norm = "layer";
    d->norm_eps = 1e-5;
    d->attn_norm = "norm_attn_norm.norm_1";
    d->ffn_norm = "norm_attn_norm.norm_2";
    d->qkv = "norm_attn_norm.attn.Wqkv";
    d->o = "norm_attn_norm.attn.out_proj";
    return conv_decoder_defaults(c, d);
}

/* Names of the activations are those of other configurations, here in an object of their own                 */
static const char *arch_dbrx_activation(conv *c, const json_value *ffn)
{
    const char *name = json_text(json_get(json_get(ffn, "ffn_act_fn"), "name"), "silu");
    if (strcmp(name, "silu") == 0) return "silu";
    if (strcmp(name, "gelu") == 0) return "gelu";
    if (strcmp(name, "relu") == 0) return "relu";
    conv_fail(c->env, "config.json: \"ffn_act_fn\": activation \"%.40s\" is not known", name);
    return "silu";
}

static void arch_dbrx_moe(conv *c, conv_moe *m, const conv_decoder *d, const json_value *ffn)
{
    const json_value *p = json_get(ffn, "moe_normalize_expert_weights");
    const double order = arch_dbrx_number(c, ffn, "moe_normalize_expert_weights", p ? 0.0 : 1.0);
    memset(m, 0, sizeof *m);
    m->experts = arch_dbrx_size(c, ffn, "moe_num_experts", 4);
    m->k = arch_dbrx_size(c, ffn, "moe_top_k", 1);
    m->dim = d->dim;
    m->inner = arch_dbrx_size(c, ffn, "ffn_hidden_size", 3584);
    m->score = "softmax";
    m->act = arch_dbrx_activation(c, ffn);
    m->renorm = (int32_t)(order == 1.0 || order == 2.0 ? order : 0.0);
    m->transposed = CONV_DOWN_TRANSPOSED;
    if (order != m->renorm || m->k > m->experts)
        conv_fail(c->env, "config.json: \"moe_normalize_expert_weights\" can be null, 1 or 2, and "
                  "\"moe_top_k\" at most \"moe_num_experts\"");
}

static void arch_dbrx(conv *c)
{
    static const char *const attn_keys[] = { "kv_n_heads", "clip_qkv", "rope_theta", NULL };
    static const char *const ffn_keys[] = { "ffn_act_fn", "ffn_hidden_size", "hidden_size",
                                            "moe_num_experts", "moe_top_k", "moe_jitter_eps",
                                            "moe_loss_weight", "moe_normalize_expert_weights", NULL };
    conv_rope_keys keys = { "rope_theta", NULL, 10000.0, 1.0 };
    const json_value *attn = arch_dbrx_part(c, "attn_config", attn_keys);
    const json_value *ffn = arch_dbrx_part(c, "ffn_config", ffn_keys);
    arch_moe a;
    memset(&a, 0, sizeof a);
    conv_key(c, "num_key_value_heads");                /* a copy of that in attn_config                     */
    conv_key(c, "emb_pdrop");
    arch_moe_unused_keys(c);
    keys.theta = arch_dbrx_number(c, attn, "rope_theta", 10000.0);
    if (!arch_dbrx_decoder(c, &a.d, attn)) return;
    a.d.clip_qkv = arch_dbrx_number(c, attn, "clip_qkv", 0.0);
    if (a.d.clip_qkv < 0.0) conv_fail(c->env, "config.json: \"clip_qkv\" is less than 0");
    conv_hf_rope(c, &a.d.ropes[0], "rope.freq", NULL, &keys, a.d.head_dim);
    arch_dbrx_moe(c, &a.m, &a.d, ffn);
    conv_put_embedding(c, &a.d);
    for (int32_t i = 0; i < a.d.layers && !c->env->failed; i++) {
        conv_line(c, "# layer %d", i);
        arch_moe_attention(c, &a, i);
        arch_layer_norm(c, &a.d, i, "ffn_norm", a.d.ffn_norm);
        a.m.out = conv_format(c->env, "l%d.", i);
        a.m.router = conv_layer_name(c, &a.d, i, "ffn.router.layer.weight");
        a.m.gate = conv_layer_name(c, &a.d, i, "ffn.experts.mlp.w1");
        a.m.up = conv_layer_name(c, &a.d, i, "ffn.experts.mlp.v1");
        a.m.down = conv_layer_name(c, &a.d, i, "ffn.experts.mlp.w2");
        conv_put_route(c, &a.m, 1, a.d.dim);
        conv_put_experts(c, &a.m, 0, 1, 1);
    }
    arch_output(c, &a.d);
}

/* ---- gpt-oss: sinks, biases everywhere, experts stored [in, out] with gate and up by turns --------------- */
/* Without any rope key: YaRN by 32 from 4096 positions                                                      */
static void arch_gpt_oss_rope(conv *c, conv_decoder *d)
{
    static const conv_rope_keys keys = { "rope_theta", NULL, 150000.0, 1.0 };
    conv_rope_spec s;
    if (conv_key(c, "rope_parameters") || conv_key(c, "rope_scaling")) {
        conv_hf_rope(c, &d->ropes[0], "rope.freq", NULL, &keys, d->head_dim);
        return;
    }
    memset(&s, 0, sizeof s);
    s.type = "yarn";
    s.theta = conv_positive(c, "rope_theta", keys.theta);
    s.factor = s.beta_fast = 32.0;
    s.beta_slow = 1.0;
    s.original = 4096.0;
    s.dims = d->head_dim;
    d->ropes[0].name = "rope.freq";
    d->ropes[0].style = "half";
    conv_rope_make(c, &d->ropes[0], &s, d->head_dim);
}

static void arch_gpt_oss(conv *c)
{
    const int32_t window = arch_window(c, 128);
    arch_moe a;
    if (!arch_moe_start(c, &a, NULL, 1e-5, "num_local_experts", "num_experts", "num_experts_per_tok", 4))
        return;
    arch_moe_head_dim(c, &a.d, 64);
    arch_gpt_oss_rope(c, &a.d);
    conv_int(c, "experts_per_token", a.m.k, a.m.k, a.m.k);
    conv_key(c, "initial_context_length");
    if (!conv_hf_layer_types(c, &a.d, window, 0, 0)) conv_window_pattern(&a.d, window, 2, 0, 0);
    a.d.qkv_bias = a.d.o_bias = arch_bias(conv_bool(c, "attention_bias", 1));
    a.d.sinks = "self_attn.sinks";
    a.m.act = "silu";
    a.m.renorm = 1;
    a.m.alpha = conv_positive(c, "swiglu_alpha", 1.702);
    a.m.limit = conv_positive(c, "swiglu_limit", 7.0);
    a.m.plus = 1.0;
    a.m.transposed = CONV_UP_TRANSPOSED | CONV_DOWN_TRANSPOSED;
    a.m.interleaved = 1;
    conv_put_embedding(c, &a.d);
    for (int32_t i = 0; i < a.d.layers && !c->env->failed; i++) {
        a.m.router_bias = conv_layer_name(c, &a.d, i, "mlp.router.bias");
        a.m.up_bias = conv_layer_name(c, &a.d, i, "mlp.experts.gate_up_proj_bias");
        a.m.down_bias = conv_layer_name(c, &a.d, i, "mlp.experts.down_proj_bias");
        arch_moe_layer(c, &a, i);
    }
    arch_output(c, &a.d);
}

/* ---- AFMoE (Trinity): gated attention, rope on layers with a window, norms before and after branches ------ */
static void arch_afmoe(conv *c)
{
    const int32_t window = arch_window(c, 1024), every = conv_size(c, "global_attn_every_n_layers", 4);
    arch_moe a;
    if (!arch_moe_start(c, &a, &arch_rope_keys, 1e-5, "num_experts", "num_local_experts",
                        "num_experts_per_tok", 6)) return;
    if (!conv_key(c, "head_dim")) conv_fail(c->env, "config.json: key \"head_dim\" is missing");
    if (!conv_hf_layer_types(c, &a.d, window, -1, 0)) conv_window_pattern(&a.d, window, every, -1, 0);
    arch_moe_head_norms(&a.d);
    a.d.qkv_bias = a.d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    a.d.attn_post_norm = "post_attention_layernorm";
    a.d.ffn_norm = "pre_mlp_layernorm";
    a.d.ffn_post_norm = "post_mlp_layernorm";
    if (conv_bool(c, "mup_enabled", 0)) a.d.embed_scale = sqrt((double)a.d.dim);
    a.attn_gate = "self_attn.gate_proj";
    a.attn_gate_act = "sigmoid";
    if (strcmp(conv_word(c, "score_func", "sigmoid"), "sigmoid"))
        conv_fail(c->env, "config.json: \"score_func\" can only be \"sigmoid\"");
    conv_only_bool(c, "route_norm", 1);
    conv_key(c, "load_balance_coeff");
    conv_key(c, "use_grouped_mm");
    arch_moe_sigmoid(c, &a, 1);
    a.m.scale = conv_positive(c, "route_scale", 1.0);
    a.m.inner = conv_size(c, "moe_intermediate_size", 1408);
    arch_moe_dense_layers(c, &a, conv_int(c, "num_dense_layers", 1, 0, 1 << 28));
    arch_moe_shared_experts(c, &a, "num_shared_experts", 2);
    arch_moe_emit(c, &a);
}

/* ---- Laguna: layers with their own numbers of heads, softplus gates, two ropes ---------------------------- */
static int32_t arch_laguna_heads(conv *c, const conv_decoder *d, int32_t i, int32_t otherwise)
{
    const json_value *list = conv_key(c, "num_attention_heads_per_layer");
    const int64_t n = list ? json_int(json_at(list, (uint32_t)i), 0) : otherwise;
    if (list && json_count(list) != (uint32_t)d->layers)
        conv_fail(c->env, "config.json: \"num_attention_heads_per_layer\" has %u items for %d layers",
                  json_count(list), d->layers);
    if (n < 1 || n > 1 << 16 || n % d->kv_heads || n * d->head_dim > 1 << 28)
        conv_fail(c->env, "config.json: \"num_attention_heads_per_layer\": %lld heads in layer %d do not "
                  "divide over %d key heads", (long long)n, i, d->kv_heads);
    return c->env->failed ? d->kv_heads : (int32_t)n;
}

static void arch_laguna(conv *c)
{
    const int given = conv_key(c, "rope_parameters") != NULL;
    const conv_rope_keys full = { "rope_theta", NULL, 500000.0, given ? 1.0 : 0.5 };
    const conv_rope_keys sliding = { "rope_theta", NULL, 10000.0, 1.0 };
    arch_moe a;
    int32_t heads;
    if (!arch_moe_start(c, &a, NULL, 1e-6, "num_experts", "num_local_experts", "num_experts_per_tok", 8))
        return;
    arch_moe_head_dim(c, &a.d, 128);
    heads = a.d.heads;
    conv_hf_rope(c, &a.d.ropes[0], "rope.freq", "full_attention", &full, a.d.head_dim);
    conv_hf_sliding_rope(c, &a.d.ropes[1], "rope.freq_sliding", &sliding, a.d.head_dim);
    conv_hf_layer_types(c, &a.d, arch_window(c, 512), 0, 1);
    a.d.qkv_bias = a.d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    arch_moe_head_norms(&a.d);
    conv_key(c, "gating");                             /* the gate's shape says it                          */
    a.attn_gate = "self_attn.g_proj";
    a.attn_gate_act = "softplus";
    conv_only_bool(c, "moe_apply_router_weight_on_input", 0);
    arch_moe_sigmoid(c, &a, 1);
    a.m.eps = 0.0;
    a.m.scale = conv_positive(c, "moe_routed_scaling_factor", 1.0);
    a.m.softcap = conv_number(c, "moe_router_logit_softcapping", 0.0);
    if (a.m.softcap < 0.0) a.m.softcap = 0.0;
    a.m.inner = conv_size(c, "moe_intermediate_size", 512);
    a.shared_inner = conv_size(c, "shared_expert_intermediate_size", 512);
    arch_moe_dense_layers(c, &a, 1);
    conv_put_embedding(c, &a.d);
    for (int32_t i = 0; i < a.d.layers && !c->env->failed; i++) {
        a.d.heads = arch_laguna_heads(c, &a.d, i, heads);
        a.shared = conv_has(c, conv_layer_name(c, &a.d, i, "mlp.shared_experts.down_proj.weight"))
            ? "mlp.shared_experts" : "mlp.shared_expert";
        arch_moe_layer(c, &a, i);
    }
    arch_output(c, &a.d);
}

/* ---- MiMo-V2-Flash: layers with a window have twice the key heads, and sinks -------------------------------- */
static void arch_mimo_v2_flash(conv *c)
{
    static const conv_rope_keys full = { "rope_theta", NULL, 5000000.0, 0.334 };
    static const conv_rope_keys sliding = { "rope_theta", NULL, 10000.0, 0.334 };
    const int32_t size = (int32_t)conv_int(c, "sliding_window_size", 0, 0, 1 << 28);
    const int32_t window = size ? size + 1 : arch_window(c, 129);
    arch_moe a;
    int32_t kv_heads;
    conv_key(c, "sliding_window");
    if (!arch_moe_start(c, &a, NULL, 1e-5, "n_routed_experts", "num_local_experts", "num_experts_per_tok", 8))
        return;
    arch_moe_head_dim(c, &a.d, 192);
    kv_heads = a.d.kv_heads;
    a.d.v_dim = conv_size(c, "v_head_dim", 128);
    a.d.v_scale = conv_key_given(c, "attention_value_scale") ? conv_number(c, "attention_value_scale", 1.0)
                                                             : 0.707;
    conv_hf_rope(c, &a.d.ropes[0], "rope.freq", "full_attention", &full, a.d.head_dim);
    conv_hf_sliding_rope(c, &a.d.ropes[1], "rope.freq_sliding", &sliding, a.d.head_dim);
    if (!conv_hf_layer_types(c, &a.d, window, 0, 1)) {
        conv_window_pattern(&a.d, window, 6, 0, 1);
        a.d.layer_window[0] = a.d.layer_rope[0] = 0;
    }
    a.d.qkv_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    arch_moe_sigmoid(c, &a, 1);
    a.m.inner = conv_size(c, "moe_intermediate_size", 2048);
    arch_moe_dense_layers(c, &a, 1);
    conv_put_embedding(c, &a.d);
    for (int32_t i = 0; i < a.d.layers && !c->env->failed; i++) {
        const int slides = a.d.layer_window[i] != 0;
        const int renamed = conv_has(c, conv_layer_name(c, &a.d, i, "self_attn.sinks"));
        a.d.kv_heads = slides ? 2 * kv_heads : kv_heads;
        a.d.sinks = !slides ? NULL : renamed ? "self_attn.sinks" : "self_attn.attention_sink_bias";
        if (a.d.heads % a.d.kv_heads)
            conv_fail(c->env, "%d query heads do not divide over %d key heads", a.d.heads, a.d.kv_heads);
        arch_moe_layer(c, &a, i);
    }
    arch_output(c, &a.d);
}

/* ---- Llama 4: attention in chunks, layers without rope whose queries grow, weights on the experts' input --- */
/* no_rope_layers holds 1 for layers with rope; empty: every n-th has none                                   */
static int arch_llama4_has_rope(conv *c, int32_t i, int64_t interval)
{
    const json_value *list = conv_key(c, "no_rope_layers");
    if (!json_count(list)) return (i + 1) % interval != 0;
    if (i >= (int32_t)json_count(list))
        conv_fail(c->env, "config.json: \"no_rope_layers\" has only %u items", json_count(list));
    return json_int(json_at(list, (uint32_t)i), 0) != 0;
}
static int arch_llama4_is_dense(conv *c, int32_t i)
{
    const json_value *list = conv_key(c, "moe_layers");
    const int32_t step = conv_size(c, "interleave_moe_layer_step", 1);
    if (!list) return (i + 1) % step != 0;
    for (uint32_t k = 0; k < json_count(list); k++)
        if (json_int(json_at(list, k), -1) == i) return 0;
    return 1;
}

/* What is special about layer i                                                                             */
static void arch_llama4_layer(conv *c, arch_moe *a, int32_t i, int32_t chunk, double grow, int norms)
{
    const int rope = arch_llama4_has_rope(c, i, conv_int(c, "no_rope_layer_interval", 4, 1, 1 << 28));
    const char *type = arch_moe_item(c, &a->d, "layer_types", i, rope && chunk ? "chunked_attention"
                                     : "full_attention");
    a->d.chunk = strcmp(type, "chunked_attention") == 0 ? chunk : 0;
    if (!a->d.chunk && strcmp(type, "full_attention"))
        conv_fail(c->env, "config.json: \"layer_types\": \"%.40s\" is not known, or the chunk's size is "
                  "missing", type);
    a->d.layer_rope[i] = rope ? 0 : -1;
    a->d.head_norm = rope && norms ? CONV_HEAD_NORM_SHARED : CONV_HEAD_NORM_NONE;
    a->d.q_grow = rope ? 0.0 : grow;
    a->dense[i] = (uint8_t)arch_llama4_is_dense(c, i);
    arch_moe_layer(c, a, i);
}

static void arch_llama4(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", NULL, 500000.0, 1.0 };
    const json_value *tuning = conv_key(c, "attn_temperature_tuning");
    const int tuned = tuning ? json_bool(tuning, json_int(tuning, 1) != 0) : 1;
    int32_t chunk = 8192;
    double grow;
    int norms;
    arch_moe a;
    if (!arch_moe_start(c, &a, NULL, 1e-5, "num_local_experts", "num_experts", "num_experts_per_tok", 1))
        return;
    arch_moe_head_dim(c, &a.d, 128);
    a.d.ropes[0].style = "interleaved";
    conv_hf_rope(c, &a.d.ropes[0], "rope.freq", NULL, &keys, a.d.head_dim);
    if (conv_key_given(c, "attention_chunk_size"))
        chunk = conv_key(c, "attention_chunk_size") ? conv_size(c, "attention_chunk_size", 1) : 0;
    a.d.qkv_bias = a.d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    a.d.head_norm_after_rope = 1;
    norms = conv_bool(c, "use_qk_norm", 1);
    grow = conv_number(c, "attn_scale", 0.1);
    a.d.q_every = conv_size(c, "floor_scale", 8192);
    a.d.q_shift = 1;
    a.d.gate = "feed_forward.gate_proj";
    a.d.up = "feed_forward.up_proj";
    a.d.down = "feed_forward.down_proj";
    a.d.ffn = conv_size(c, "intermediate_size_mlp", 16384);
    a.m.score = "sigmoid";
    a.m.raw = a.m.on_input = 1;
    a.m.transposed = CONV_UP_TRANSPOSED | CONV_DOWN_TRANSPOSED;
    a.shared = "feed_forward.shared_expert";
    a.shared_inner = a.m.inner;
    conv_put_embedding(c, &a.d);
    for (int32_t i = 0; i < a.d.layers && !c->env->failed; i++)
        arch_llama4_layer(c, &a, i, chunk, tuned ? grow : 0.0, norms);
    arch_output(c, &a.d);
}

#endif /* ARCH_MOE_HYBRID_H_INCLUDED */
