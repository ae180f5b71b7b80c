/* arch/moe_hybrid.h: mixtures of experts with attention of their own kind: sinks, gates, chunks, heads by
   layer, convolutions, experts that hold queries. Facts are from the modeling files of transformers 5.     */
#ifndef ARCH_MOE_HYBRID_H_INCLUDED
#define ARCH_MOE_HYBRID_H_INCLUDED
#include "moe.h"
#include "../conv_mxfp4.h"

/* Item i of a list of texts in the configuration; the key absent: `otherwise`                              */
static const char *arch_moe_item(conv *c, const conv_decoder *d, const char *key, int32_t i,
                                 const char *otherwise)
{
    const json_value *list = conv_key(c, key);
    if (list && json_count(list) != (uint32_t)d->layers)
        conv_fail(c->env, "config.json: \"%s\" has %u items for %d layers", key, json_count(list), d->layers);
    return json_text(json_at(list, (uint32_t)i), list ? "" : otherwise);
}

/* ---- HunYuan-A13B ------------------------------------------------------------------------------------ */
/* A number, or a list of one for each layer                                                                */
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
    static const arch_moe_usual usual = { "num_experts", "num_local_experts", NULL, 1, 0, 1e-5 };
    static const char *const unused[] = {
        "eod_token_id", "moe_intermediate_size", "use_mixed_mlp_moe", "moe_drop_tokens", "norm_type",
        "moe_random_routing_dropped_token", "cla_share_factor", "org_vocab_size", "attention_head_dim", NULL
    };
    arch_moe a;
    if (!arch_moe_start(c, &a, &arch_rope_keys, &usual)) return;
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
    conv_put_output(c, &a.d);
}

/* ---- Phi-3.5-MoE: LayerNorm, biases, two experts one after the other --------------------------------- */
static void arch_phimoe(conv *c)
{
    static const arch_moe_usual usual = { "num_local_experts", "num_experts", "num_experts_per_tok",
                                          2, 0, 1e-5 };
    static const conv_rope_keys keys = { "rope_theta", NULL, 1000000.0, 1.0 };
    arch_moe a;
    if (!arch_moe_start(c, &a, &keys, &usual)) return;
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

/* ---- DBRX -------------------------------------------------------------------------------------------- */
/* Keys of an object inside the configuration: those of `known`, and those without effect anywhere          */
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

/* Sizes and names; norms without biases whose epsilon is fixed                                             */
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

/* Names of the activations are those of other configurations, here in an object of their own               */
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
    conv_put_output(c, &a.d);
}

/* ---- gpt-oss: sinks, biases everywhere, experts stored [in, out] with gate and up by turns ----------- */
/* Without any rope key: YaRN by 32 from 4096 positions                                                     */
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

/* Experts in MXFP4 are stored [out, in]. 1: they are                                                       */
static int arch_gpt_oss_packed(conv *c, const conv_decoder *d)
{
    const json_value *how = conv_key(c, "quantization_config");
    int packed = 0;
    if (how && !json_text_is(json_get(how, "quant_method"), "mxfp4"))
        conv_fail(c->env, "config.json: \"quantization_config\": \"quant_method\" can only be \"mxfp4\"");
    for (int32_t i = 0; i < d->layers && !c->env->failed; i++)
        packed = conv_mxfp4(c, conv_layer_name(c, d, i, "mlp.experts.gate_up_proj")) &&
                 conv_mxfp4(c, conv_layer_name(c, d, i, "mlp.experts.down_proj"));
    return packed;
}

static void arch_gpt_oss(conv *c)
{
    static const arch_moe_usual usual = { "num_local_experts", "num_experts", "num_experts_per_tok",
                                          4, 64, 1e-5 };
    const int32_t window = arch_window(c, 128);
    arch_moe a;
    if (!arch_moe_start(c, &a, NULL, &usual)) return;
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
    a.m.transposed = arch_gpt_oss_packed(c, &a.d) ? 0 : CONV_UP_TRANSPOSED | CONV_DOWN_TRANSPOSED;
    a.m.interleaved = 1;
    conv_put_embedding(c, &a.d);
    for (int32_t i = 0; i < a.d.layers && !c->env->failed; i++) {
        a.m.router_bias = conv_layer_name(c, &a.d, i, "mlp.router.bias");
        a.m.up_bias = conv_layer_name(c, &a.d, i, "mlp.experts.gate_up_proj_bias");
        a.m.down_bias = conv_layer_name(c, &a.d, i, "mlp.experts.down_proj_bias");
        arch_moe_layer(c, &a, i);
    }
    conv_put_output(c, &a.d);
}

/* ---- AFMoE (Trinity): gated attention, rope on layers with a window, norms before and after branches - */
static void arch_afmoe(conv *c)
{
    static const arch_moe_usual usual = { "num_experts", "num_local_experts", "num_experts_per_tok",
                                          6, 128, 1e-5 };
    const int32_t window = arch_window(c, 1024), every = conv_size(c, "global_attn_every_n_layers", 4);
    arch_moe a;
    if (!arch_moe_start(c, &a, &arch_rope_keys, &usual)) return;
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

/* ---- Laguna: layers with their own numbers of heads, softplus gates, two ropes ----------------------- */
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
    static const arch_moe_usual usual = { "num_experts", "num_local_experts", "num_experts_per_tok",
                                          8, 128, 1e-6 };
    const int given = conv_key(c, "rope_parameters") != NULL;
    const conv_rope_keys full = { "rope_theta", NULL, 500000.0, given ? 1.0 : 0.5 };
    const conv_rope_keys sliding = { "rope_theta", NULL, 10000.0, 1.0 };
    arch_moe a;
    int32_t heads;
    if (!arch_moe_start(c, &a, NULL, &usual)) return;
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
    conv_put_output(c, &a.d);
}

/* ---- MiMo-V2-Flash: layers with a window have twice the key heads, and sinks ------------------------- */
static void arch_mimo_v2_flash(conv *c)
{
    static const arch_moe_usual usual = { "n_routed_experts", "num_local_experts", "num_experts_per_tok",
                                          8, 192, 1e-5 };
    static const conv_rope_keys full = { "rope_theta", NULL, 5000000.0, 0.334 };
    static const conv_rope_keys sliding = { "rope_theta", NULL, 10000.0, 0.334 };
    const int32_t size = (int32_t)conv_int(c, "sliding_window_size", 0, 0, 1 << 28);
    const int32_t window = size ? size + 1 : arch_window(c, 129);
    arch_moe a;
    int32_t kv_heads;
    conv_key(c, "sliding_window");
    if (!arch_moe_start(c, &a, NULL, &usual)) return;
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
    conv_put_output(c, &a.d);
}

/* ---- Llama 4: attention in chunks, layers without rope whose queries grow, weights on the inputs - */
/* no_rope_layers holds 1 for layers with rope; empty: every n-th has none                                  */
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

/* What is special about layer i                                                                            */
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
    static const arch_moe_usual usual = { "num_local_experts", "num_experts", "num_experts_per_tok",
                                          1, 128, 1e-5 };
    static const conv_rope_keys keys = { "rope_theta", NULL, 500000.0, 1.0 };
    const json_value *tuning = conv_key(c, "attn_temperature_tuning");
    const int tuned = tuning ? json_bool(tuning, json_int(tuning, 1) != 0) : 1;
    int32_t chunk = 8192;
    double grow;
    int norms;
    arch_moe a;
    if (!arch_moe_start(c, &a, NULL, &usual)) return;
    a.d.ropes[0].style = "interleaved";
    conv_hf_rope(c, &a.d.ropes[0], "rope.freq", NULL, &keys, a.d.head_dim);
    if (conv_key_given(c, "attention_chunk_size"))
        chunk = conv_key(c, "attention_chunk_size") ? conv_size(c, "attention_chunk_size", 1) : 0;
    a.d.qkv_bias = a.d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    a.d.head_norm_after_rope = 1;
    norms = conv_bool(c, "use_qk_norm", 1);
    grow = conv_number(c, "attn_scale", 0.1);
    a.d.q_grow_every = conv_size(c, "floor_scale", 8192);
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
    conv_put_output(c, &a.d);
}

/* ---- Lara mini: gated delta net, attention with a window and rope, attention without either ---------- */
/* Rows of in_proj: q, k, v, output gate, strengths, decays; without it: maps of their own, as in Qwen3.5   */
static void arch_lara_linear(conv *c, const conv_decoder *d, int32_t i)
{
    const lin l = arch_layer_lin(c, d, i, "linear_attn");
    lin_layer y;
    int64_t k, v;
    conv_part all;
    if (!lin_has(&l, "in_proj")) {
        arch_qwen_linear(c, d, i);
        return;
    }
    arch_linear_sizes(c, d, &y);
    if (!conv_key(c, "linear_num_key_heads")) y.q_heads = y.k_heads = 8;
    if (!conv_key(c, "linear_num_value_heads")) y.heads = y.v_heads = y.decay_heads = 16;
    y.conv[0] = "conv1d.weight";
    y.n_conv = 1;
    y.norm_weight = conv_has(c, conv_format(c->env, "%sout_norm.weight", l.from)) ? "out_norm" : "norm";
    y.gate_act = "silu";
    k = (int64_t)y.k_heads * y.key_dim;
    v = (int64_t)y.v_heads * y.v_dim;
    all = lin_part(&l, "in_proj", 2 * k + 2 * v + 2 * y.v_heads, d->dim);
    y.q = lin_rows(&l, all, "q", 0, k, k, k);
    y.k = lin_rows(&l, all, "k", k, k, k, k);
    y.v = lin_rows(&l, all, "v", 2 * k, v, v, v);
    y.gate = lin_rows(&l, all, "z", 2 * k + v, v, v, v);
    y.beta = lin_rows(&l, all, "b", 2 * k + 2 * v, y.v_heads, y.v_heads, y.v_heads);
    y.decay_outer = lin_rows(&l, all, "a", 2 * k + 2 * v + y.v_heads, y.v_heads, y.v_heads, y.v_heads);
    arch_lin_out(&l, lin_put(&l, &y, 1), "out_proj", d->dim, v);
}

static void arch_lara_mini(conv *c)
{
    static const arch_moe_usual usual = { "num_experts", "num_local_experts", "num_experts_per_tok",
                                          4, 128, 1e-6 };
    static const char *const pattern[] = { "linear_attention", "sliding_attention", "linear_attention",
                                           "full_attention", "sliding_attention" };
    const int32_t window = arch_window(c, 512);
    arch_moe a;
    if (!arch_moe_start(c, &a, NULL, &usual)) return;
    a.d.tied = conv_bool(c, "tie_word_embeddings", 1);
    conv_hf_rope(c, &a.d.ropes[0], "rope.freq", NULL, &arch_rope_keys, a.d.head_dim);
    a.d.qkv_bias = a.d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    arch_moe_head_norms(&a.d);
    a.m.renorm = conv_bool(c, "norm_topk_prob", 1);
    a.m.inner = conv_size(c, "moe_intermediate_size", 512);
    a.shared = "mlp.shared_expert";
    a.shared_inner = conv_size(c, "shared_expert_intermediate_size", 512);
    conv_put_embedding(c, &a.d);
    for (int32_t i = 0; i < a.d.layers && !c->env->failed; i++) {
        const char *type = arch_moe_item(c, &a.d, "layer_types", i, pattern[i % 5]);
        const int slides = strcmp(type, "sliding_attention") == 0;
        a.d.layer_window[i] = slides ? window : 0;
        a.d.layer_rope[i] = slides ? 0 : -1;
        conv_line(c, "# layer %d", i);
        if (strcmp(type, "linear_attention") == 0) {
            arch_layer_norm(c, &a.d, i, "attn_norm", a.d.attn_norm);
            arch_lara_linear(c, &a.d, i);
        } else if (slides || strcmp(type, "full_attention") == 0) {
            arch_moe_attention(c, &a, i);
        } else {
            conv_fail(c->env, "config.json: \"layer_types\": \"%.40s\" is not known", type);
        }
        arch_moe_experts(c, &a, i);
    }
    conv_put_output(c, &a.d);
}

/* ---- JetMoE: experts hold queries and output maps; keys and values are common ------------------------ */
/* A bias of the layer's width, added to r0                                                                 */
static void arch_jetmoe_bias(conv *c, const conv_decoder *d, int32_t i, const char *out, const char *name)
{
    conv_line(c, "affine r0 r0 b=@%s", conv_make(c, conv_out_name(c, i, out), CONV_VECTOR,
                                                 conv_take(c, conv_layer_name(c, d, i, name), d->dim, 0)));
}

/* One map of every expert of layer i, stacked under `name`, as " key=@l0.key0,..."                         */
static void arch_jetmoe_maps(conv *c, const conv_decoder *d, int32_t i, const conv_moe *m, const char *key,
                             const char *name, int64_t rows, int64_t cols)
{
    const char *in = conv_layer_name(c, d, i, name);
    conv_put(c, " %s=", key);
    for (int32_t e = 0; e < m->experts && !c->env->failed; e++)
        conv_put(c, "%s@%s", e ? "," : "",
                 conv_make(c, conv_format(c->env, "l%d.attn%d.%s", i, e, key), CONV_MATRIX,
                           conv__expert(c, m, in, e, rows, cols, 0)));
}

/* Queries of the k chosen experts, in the order of the key heads that they ask: [kv_heads, k, head_dim]    */
static void arch_jetmoe_attention(conv *c, const conv_decoder *d, int32_t i, conv_moe *m)
{
    const int64_t n = (int64_t)d->kv_heads * d->head_dim;
    const conv_part all = conv_part_of(c, d, "", conv_layer_name(c, d, i, "self_attention.kv_proj"), 2 * n,
                                       d->dim, CONV_NO_BIAS);
    conv_part parts[2];
    arch_layer_norm(c, d, i, "attn_norm", d->attn_norm);
    m->out = conv_format(c->env, "l%d.attn.", i);
    m->router = conv_layer_name(c, d, i, "self_attention.experts.router.layer.weight");
    conv_put_route(c, m, 1, d->dim);
    conv_put(c, "experts r9 r1 r8 slots=%d blocks=%d", m->k, d->kv_heads);
    arch_jetmoe_maps(c, d, i, m, "up", "self_attention.experts.input_linear.weight", n, d->dim);
    conv_line(c, "%s", "");
    parts[0] = conv_part_rows(c, all, conv_out_name(c, i, "k"), 0, n, n, n);
    parts[1] = conv_part_rows(c, all, conv_out_name(c, i, "v"), n, n, n, n);
    conv_put_linear(c, 10, 1, parts, 2, 1.0, CONV_PRECISE);
    conv_line(c, "cat r2 r9 r10");
    conv_put_rope(c, d, &d->ropes[0]);
    conv_line(c, "mix r3 r2 attention heads=%d kv_heads=%d head_dim=%d scale=%s", d->heads, d->kv_heads,
              d->head_dim, conv_real(c, d->layer_scale[i]));
    conv_put(c, "experts r9 r3 r8 slots=%d blocks=%d", m->k, d->kv_heads);
    arch_jetmoe_maps(c, d, i, m, "down", "self_attention.experts.output_linear.weight", d->dim, n);
    conv_line(c, "\nadd r0 r0 r9");
    arch_jetmoe_bias(c, d, i, "attn.bias", "self_attention.experts.bias");
}

static void arch_jetmoe(conv *c)
{
    arch_moe a;
    memset(&a, 0, sizeof a);
    arch_moe_unused_keys(c);
    a.m.experts = conv_size(c, "num_local_experts", 8);
    a.m.k = conv_size(c, "num_experts_per_tok", 2);
    if (!conv_hf_decoder_of(c, &a.d, 1, "kv_channels", 128)) return;
    if (a.m.k > a.m.experts || a.m.k > INT32_MAX / a.d.kv_heads)
        conv_fail(c->env, "config.json: %d key heads times %d of %d experts are impossible", a.d.kv_heads,
                  a.m.k, a.m.experts);
    else a.d.heads = a.d.kv_heads * a.m.k;             /* num_attention_heads is not asked                  */
    a.d.final_eps = conv_positive(c, "rms_norm_eps", 1e-6);
    a.d.norm_eps = 1e-6;                               /* of the layers' norms, whatever rms_norm_eps says  */
    conv_hf_rope(c, &a.d.ropes[0], "rope.freq", NULL, &arch_rope_keys, a.d.head_dim);
    a.m.dim = a.d.dim;
    a.m.inner = a.d.ffn;
    a.m.score = "softmax";
    a.m.renorm = 1;
    a.m.act = conv_activation(c, "activation_function", "silu");
    conv_put_embedding(c, &a.d);
    for (int32_t i = 0; i < a.d.layers && !c->env->failed; i++) {
        conv_line(c, "# layer %d", i);
        arch_jetmoe_attention(c, &a.d, i, &a.m);
        arch_moe_experts(c, &a, i);
        arch_jetmoe_bias(c, &a.d, i, "ffn.bias", "mlp.bias");
    }
    conv_put_output(c, &a.d);
}

/* ---- ZAYA: queries and keys through convolutions, half of the values late, a deep router - */
/* Floats of the mapping; NULL after an error                                                               */
static float *arch_zaya_floats(conv *c, int64_t n)
{
    return (float *)conv_alloc(c->env, (uint64_t)n, sizeof(float));
}

/* affine rR rR: (x + bias) * scale, both [n] in the checkpoint                                             */
static void arch_zaya_affine(conv *c, int reg, const char *out, const char *in, const char *part, int32_t n)
{
    const float *scale = conv_read(c, conv_format(c->env, "%s%s_scale", in, part), n);
    const float *bias = conv_read(c, conv_format(c->env, "%s%s_bias", in, part), n);
    float *both = arch_zaya_floats(c, n);
    if (!scale || !bias || !both) return;
    for (int32_t i = 0; i < n; i++) both[i] = bias[i] * scale[i];
    conv_line(c, "affine r%d r%d w=@%s b=@%s", reg, reg,
              conv_make_values(c, conv_format(c->env, "%s.scale", out), scale, n),
              conv_make_values(c, conv_format(c->env, "%s.bias", out), both, n));
}
/* r0 = its own affine map + that of rS                                                                     */
static void arch_zaya_sum(conv *c, const conv_decoder *d, int32_t i, int src, const char *name)
{
    const char *in = conv_format(c->env, "%s.", conv_layer_name(c, d, i, name));
    const char *branch = conv_out_name(c, i, conv_format(c->env, "%s.branch", name));
    const char *stream = conv_out_name(c, i, conv_format(c->env, "%s.stream", name));
    arch_zaya_affine(c, src, branch, in, "hidden_states", d->dim);
    arch_zaya_affine(c, 0, stream, in, "residual", d->dim);
    conv_line(c, "add r0 r0 r%d", src);
}

/* mix rD rS conv: the row `back` tokens ago, zeros before the first                                        */
static void arch_zaya_late(conv *c, int dst, int src, int32_t back, int32_t n)
{
    const char *name = conv_format(c->env, "late%d.%d", back, n);
    float *w = conv_made(c, name) ? NULL : arch_zaya_floats(c, (int64_t)(back + 1) * n);
    for (int32_t i = 0; w && i < n; i++) w[i] = 1.0f;
    if (w) conv_make_rows(c, name, w, back + 1, n);
    conv_line(c, "mix r%d r%d conv w=@%s", dst, src, name);
}

/* Rows of [0.5 (q + its key) | 0.5 (mean of a key's q + key)] out of those of q and k, cols numbers each   */
static void arch_zaya_mean(const conv_decoder *d, float *to, const float *q, const float *k, int64_t cols)
{
    const int64_t group = d->heads / d->kv_heads, size = d->head_dim * cols;
    float *keys = to + d->heads * size;
    for (int64_t h = 0; h < d->heads; h++)
        for (int64_t j = 0; j < size; j++)
            to[h * size + j] = 0.5f * (q[h * size + j] + k[h / group * size + j]);
    for (int64_t g = 0; g < d->kv_heads; g++)
        for (int64_t j = 0; j < size; j++) {
            double sum = 0.0;
            for (int64_t h = g * group; h < (g + 1) * group; h++) sum += (double)q[h * size + j];
            keys[g * size + j] = (float)(0.5 * (sum / (double)group + (double)k[g * size + j]));
        }
}
/* linear r10 r1: what is added to the convolved queries and keys                                           */
static void arch_zaya_residual(conv *c, const conv_decoder *d, int32_t i, const char *at)
{
    const int32_t nq = d->heads * d->head_dim, nk = d->kv_heads * d->head_dim, n = nq + nk;
    const char *out = conv_out_name(c, i, "qk_mean");
    for (int bias = 0; bias <= (d->qkv_bias != CONV_NO_BIAS); bias++) {
        const int64_t cols = bias ? 1 : d->dim;
        const char *what = bias ? "bias" : "weight";
        const float *q = conv_read(c, conv_format(c->env, "%sq_proj.%s", at, what), nq * cols);
        const float *k = conv_read(c, conv_format(c->env, "%sk_proj.%s", at, what), nk * cols);
        float *both = arch_zaya_floats(c, n * cols);
        if (!q || !k || !both) return;
        arch_zaya_mean(d, both, q, k, cols);
        if (bias) conv_put(c, " b=@%s", conv_make_values(c, conv_format(c->env, "%s.bias", out), both, n));
        else conv_put(c, "linear r10 r1 w=@%s", conv_make_matrix(c, out, both, n, d->dim));
    }
    conv_line(c, " precise=1");
}

/* Tap `tap` of the convolution within heads, weights [n, head_dim, taps]: blocks rD rS                     */
static void arch_zaya_tap(conv *c, const conv_decoder *d, int32_t i, const float *w, int32_t tap,
                          int32_t taps, int dst, int src)
{
    const int64_t size = d->head_dim, groups = d->heads + d->kv_heads;
    float *values = arch_zaya_floats(c, groups * size * size);
    for (int64_t g = 0; values && g < groups; g++)
        for (int64_t o = 0; o < size; o++)
            for (int64_t k = 0; k < size; k++)
                values[(g * size + k) * size + o] = w[((g * size + o) * size + k) * taps + tap];
    if (!values) return;
    conv_line(c, "blocks r%d r%d w=@%s out=%d groups=%d", dst, src,
              conv_make_values(c, conv_out_name(c, i, conv_format(c->env, "conv_heads%d", tap)), values,
                               (int32_t)(groups * size * size)), d->head_dim, d->heads + d->kv_heads);
}
/* r9 (q | k) through a convolution by channel and one within heads: r5. Rows before the first are zeros in
   front of the first convolution, thus its bias in front of the second: a constant with that of the second */
static void arch_zaya_convolve(conv *c, const conv_decoder *d, int32_t i, const char *at, int32_t taps0,
                               int32_t taps1)
{
    const int32_t n = (d->heads + d->kv_heads) * d->head_dim;
    const float *w0 = conv_read(c, conv_format(c->env, "%sconv_qk_depthwise.weight", at), (int64_t)n * taps0);
    const float *b0 = conv_read(c, conv_format(c->env, "%sconv_qk_depthwise.bias", at), n);
    const float *w1 = conv_read(c, conv_format(c->env, "%sconv_qk_grouped.weight", at),
                                (int64_t)n * d->head_dim * taps1);
    const float *b1 = conv_read(c, conv_format(c->env, "%sconv_qk_grouped.bias", at), n);
    float *rows = arch_zaya_floats(c, (int64_t)n * taps0), *bias = arch_zaya_floats(c, n);
    if (!w0 || !b0 || !w1 || !b1 || !rows || !bias) return;
    for (int32_t j = 0; j < n; j++) {
        double sum = (double)b1[j];
        for (int32_t t = 0; t < taps0; t++) rows[(int64_t)t * n + j] = w0[(int64_t)j * taps0 + t];
        for (int64_t k = 0; k < (int64_t)d->head_dim * taps1; k++)
            sum += (double)w1[(int64_t)j * d->head_dim * taps1 + k] *
                   (double)b0[j / d->head_dim * d->head_dim + (int32_t)(k / taps1)];
        bias[j] = (float)sum;
    }
    conv_line(c, "mix r4 r9 conv w=@%s", conv_make_rows(c, conv_out_name(c, i, "conv"), rows, taps0, n));
    arch_zaya_tap(c, d, i, w1, taps1 - 1, taps1, 5, 4);
    for (int32_t back = 1; back < taps1; back++) {
        arch_zaya_late(c, 6, 4, back, n);
        arch_zaya_tap(c, d, i, w1, taps1 - 1 - back, taps1, 7, 6);
        conv_line(c, "add r5 r5 r7");
    }
    conv_line(c, "affine r5 r5 b=@%s", conv_make_values(c, conv_out_name(c, i, "conv.bias"), bias, n));
}

/* Queries and keys of length sqrt(head_dim), keys times a number for each head: r5                         */
static void arch_zaya_norms(conv *c, const conv_decoder *d, int32_t i)
{
    const int32_t nq = d->heads * d->head_dim, nk = d->kv_heads * d->head_dim;
    const float *temperature = conv_read(c, conv_layer_name(c, d, i, "self_attn.qk_norm.temp"), d->kv_heads);
    float *gain = arch_zaya_floats(c, nk);
    if (!temperature || !gain) return;
    for (int32_t j = 0; j < nk; j++) gain[j] = temperature[j / d->head_dim];
    conv_line(c, "norm r5 r5 kind=rms first=0 count=%d groups=%d eps=1e-30", nq, d->heads);
    conv_line(c, "norm r5 r5 kind=rms w=@%s first=%d count=%d groups=%d eps=1e-30",
              conv_make_values(c, conv_out_name(c, i, "k_temperature"), gain, nk), nq, nk, d->kv_heads);
}

/* r2 = queries | keys | values; the second half of the columns of values is the previous token's           */
static void arch_zaya_values(conv *c, const conv_decoder *d, int32_t i, const char *at)
{
    const int32_t half = d->kv_heads * d->head_dim / 2;
    const char *late = conv_format(c->env, "%sv_proj_delayed", at);
    conv_part now = conv_part_of(c, d, conv_out_name(c, i, "v"), conv_format(c->env, "%sv_proj_current", at),
                                 half, d->dim, d->qkv_bias);
    conv_put_linear(c, 6, 1, &now, 1, 1.0, CONV_PRECISE);
    now = conv_part_of(c, d, conv_out_name(c, i, "v_late"), late, half, d->dim, CONV_NO_BIAS);
    conv_put_linear(c, 7, 1, &now, 1, 1.0, CONV_PRECISE);
    arch_zaya_late(c, 8, 7, 1, half);
    if (d->qkv_bias)
        conv_line(c, "affine r8 r8 b=@%s", conv_make(c, conv_out_name(c, i, "v_late.bias"), CONV_VECTOR,
                                                     conv_take(c, conv_format(c->env, "%s.bias", late), half,
                                                               0)));
    conv_line(c, "cat r9 r6 r8\ncat r2 r5 r9");
}

static void arch_zaya_attention(conv *c, const conv_decoder *d, int32_t i, int32_t taps0, int32_t taps1)
{
    const char *at = conv_layer_name(c, d, i, "self_attn.qkv_proj.");
    const int64_t nq = (int64_t)d->heads * d->head_dim, nk = (int64_t)d->kv_heads * d->head_dim;
    conv_part parts[2];
    arch_layer_norm(c, d, i, "attn_norm", d->attn_norm);
    parts[0] = conv_part_of(c, d, conv_out_name(c, i, "q"), conv_format(c->env, "%sq_proj", at), nq, d->dim,
                            d->qkv_bias);
    parts[1] = conv_part_of(c, d, conv_out_name(c, i, "k"), conv_format(c->env, "%sk_proj", at), nk, d->dim,
                            d->qkv_bias);
    conv_put_linear(c, 9, 1, parts, 2, 1.0, CONV_PRECISE);
    arch_zaya_residual(c, d, i, at);
    arch_zaya_convolve(c, d, i, at, taps0, taps1);
    conv_line(c, "add r5 r5 r10");
    arch_zaya_norms(c, d, i);
    arch_zaya_values(c, d, i, at);
    conv_put_rope(c, d, &d->ropes[d->layer_rope[i]]);
    conv_put(c, "mix r3 r2 attention heads=%d kv_heads=%d head_dim=%d scale=%s", d->heads, d->kv_heads,
             d->head_dim, conv_real(c, d->layer_scale[i]));
    if (d->layer_window[i]) conv_put(c, " window=%d", d->layer_window[i]);
    conv_line(c, "%s", "");
    parts[0] = conv_part_of(c, d, conv_out_name(c, i, "o"), conv_layer_name(c, d, i, d->o), d->dim, nq,
                            d->o_bias);
    conv_put_linear(c, 1, 3, parts, 1, 1.0, 0);
    arch_zaya_sum(c, d, i, 1, "post_attention_residual_scale");
}

/* A small linear map of the router, never quantised                                                        */
static void arch_zaya_router_map(conv *c, int32_t i, int dst, int src, const char *name, const char *out,
                                 int32_t rows, int32_t cols, int bias)
{
    const char *to = conv_out_name(c, i, conv_format(c->env, "router.%s", out));
    conv_put(c, "linear r%d r%d w=@%s", dst, src,
             conv_make(c, to, CONV_ROUTER, conv_take(c, conv_format(c->env, "%s.weight", name), rows, cols)));
    if (bias)
        conv_put(c, " b=@%s", conv_make(c, conv_format(c->env, "%s.bias", to), CONV_VECTOR,
                                        conv_take(c, conv_format(c->env, "%s.bias", name), rows, 0)));
    conv_line(c, "%s", "");
}
/* Weights of the experts in r8. The router's rows of width n, r15, go on to the next layer's; one class more
   than experts stands for none                                                                             */
static void arch_zaya_route(conv *c, const conv_decoder *d, int32_t i, conv_moe *m, int32_t n)
{
    const char *gate = conv_layer_name(c, d, i, "mlp.gate");
    const char *mlp = conv_format(c->env, "%s.router_mlp", gate);
    arch_zaya_router_map(c, i, 4, 1, conv_format(c->env, "%s.down_proj", gate), "in", n, d->dim, 1);
    if (i > 0)
        conv_line(c, "affine r5 r15 w=@%s\nadd r4 r4 r5",
                  conv_make(c, conv_out_name(c, i, "router.carry"), CONV_VECTOR,
                            conv_take(c, conv_format(c->env, "%s.router_states_scale", gate), n, 0)));
    conv_line(c, "copy r15 r4\nnorm r5 r4 kind=rms w=@%s eps=%s",
              conv_make(c, conv_out_name(c, i, "router.norm"), CONV_VECTOR,
                        conv_take(c, conv_format(c->env, "%s.norm.weight", mlp), n, 0)),
              conv_real(c, d->norm_eps));
    arch_zaya_router_map(c, i, 6, 5, conv_format(c->env, "%s.fc1", mlp), "fc1", n, n, 1);
    conv_line(c, "act r6 r6 kind=gelu");
    arch_zaya_router_map(c, i, 5, 6, conv_format(c->env, "%s.fc2", mlp), "fc2", n, n, 1);
    conv_line(c, "act r5 r5 kind=gelu");
    arch_zaya_router_map(c, i, 7, 5, conv_format(c->env, "%s.out_proj", mlp), "out", m->experts + 1, n, 0);
    m->out = conv_format(c->env, "l%d.", i);
    m->bias = conv_format(c->env, "%s.balancing_biases", gate);
    conv_put_route_op(c, m, m->experts + 1);
    conv_line(c, "copy r9 r8 first=0 count=%d\ncopy r8 r9", m->experts);
}

/* Window and rope of layer i: "hybrid" or "hybrid_sliding"                                                 */
static void arch_zaya_kind(conv *c, conv_decoder *d, int32_t i)
{
    const char *type = arch_moe_item(c, d, "layer_types", i, "hybrid");
    const int slides = strcmp(type, "hybrid_sliding") == 0;
    if (!slides && strcmp(type, "hybrid"))
        conv_fail(c->env, "config.json: \"layer_types\": \"%.40s\" is not known", type);
    d->layer_rope[i] = slides;
    d->layer_window[i] = slides ? conv_size(c, "sliding_window", CONV_REQUIRED) : 0;
}

/* The configuration; *router: the width of the router's rows                                               */
static int arch_zaya_start(conv *c, arch_moe *a, int32_t *router)
{
    static const arch_moe_usual usual = { "num_experts", "num_local_experts", "num_experts_per_tok",
                                          1, 128, 1e-5 };
    const double partial = conv_key(c, "rope_parameters") ? 1.0 : 0.5;
    const conv_rope_keys full = { "rope_theta", "partial_rotary_factor", 5000000.0, partial };
    const conv_rope_keys sliding = { "rope_theta", "partial_rotary_factor", 10000.0, partial };
    if (!arch_moe_start(c, a, NULL, &usual)) return 0;
    if (a->m.k != 1) conv_fail(c->env, "config.json: \"num_experts_per_tok\" can only be 1");
    a->d.tied = conv_bool(c, "tie_word_embeddings", 1);
    conv_hf_rope(c, &a->d.ropes[0], "rope.freq", "hybrid", &full, a->d.head_dim);
    conv_hf_rope(c, &a->d.ropes[1], "rope.freq_sliding", "hybrid_sliding", &sliding, a->d.head_dim);
    conv_key(c, "sliding_window");
    a->d.qkv_bias = a->d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    a->d.head_bias = arch_bias(conv_bool(c, "lm_head_bias", 0));
    a->m.inner = conv_size(c, "moe_intermediate_size", 2048);
    *router = conv_size(c, "router_hidden_size", 256);
    if ((int64_t)a->d.kv_heads * a->d.head_dim % 2)
        conv_fail(c->env, "values of an odd width have no halves");
    return !c->env->failed;
}

static void arch_zaya(conv *c)
{
    const int32_t taps0 = (int32_t)conv_int(c, "cca_time0", 2, 1, 64);
    const int32_t taps1 = (int32_t)conv_int(c, "cca_time1", 2, 1, 64);
    int32_t router;
    arch_moe a;
    if (!arch_zaya_start(c, &a, &router)) return;
    conv_put_embedding(c, &a.d);
    arch_zaya_affine(c, 0, "input", conv_prefix(c, "model.", "input_hidden_states_bias"),
                     "input_hidden_states", a.d.dim);
    for (int32_t i = 0; i < a.d.layers && !c->env->failed; i++) {
        conv_line(c, "# layer %d", i);
        arch_zaya_kind(c, &a.d, i);
        arch_zaya_attention(c, &a.d, i, taps0, taps1);
        arch_layer_norm(c, &a.d, i, "ffn_norm", a.d.ffn_norm);
        arch_moe_expert_names(c, &a.d, i, &a.m);
        arch_zaya_route(c, &a.d, i, &a.m, router);
        conv_put_experts(c, &a.m, 3, 1, 0);
        arch_zaya_sum(c, &a.d, i, 3, "post_mlp_residual_scale");
    }
    conv_put_output(c, &a.d);
}

#endif /* ARCH_MOE_HYBRID_H_INCLUDED */
