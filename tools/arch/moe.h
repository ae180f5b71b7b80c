/* arch/moe.h: decoders whose feed-forward parts are mixtures of experts and whose attention is the usual one.
   What they share is an arch_moe: a conv_decoder, a conv_moe, which layers are dense, and the names of the
   parts. Facts are from the modeling files of transformers 5.                                              */
#ifndef ARCH_MOE_H_INCLUDED
#define ARCH_MOE_H_INCLUDED
#include "linear_hybrid.h"

typedef struct arch_moe {
    conv_decoder d;
    conv_moe     m;
    uint8_t     *dense;               /* [layers]: a plain feed-forward part                                */
    int32_t      has_choice;          /* the router has a bias of the choice                                */
    /* the expert that every token has: names under the layer, width; gate [1, dim]. NULL: none             */
    const char  *shared, *shared_gate;
    int32_t      shared_inner;
    /* factor of attention's result: weight [heads or heads * head_dim, dim], activation; NULL: none        */
    const char  *attn_gate, *attn_gate_act;
} arch_moe;

/* ---- names ------------------------------------------------------------------------------------------- */
static const char *const arch_moe_blocks[] = { "mlp", "block_sparse_moe", "feed_forward", NULL };

/* The first tensor under a name of the layer's block that there is; none: the first name, for the message  */
static const char *arch_moe_find(conv *c, const conv_decoder *d, int32_t i, const char *const *names)
{
    for (int b = 0; arch_moe_blocks[b]; b++) {
        for (int k = 0; names[k]; k++) {
            const char *name = conv_format(c->env, "%s.%s", conv_layer_name(c, d, i, arch_moe_blocks[b]),
                                           names[k]);
            if (conv_has(c, name)) return name;
        }
    }
    return conv_format(c->env, "%s.%s", conv_layer_name(c, d, i, arch_moe_blocks[0]), names[0]);
}

/* The experts' tensors: one a map and expert, or stacked, under the names that checkpoints use             */
static void arch_moe_expert_names(conv *c, const conv_decoder *d, int32_t i, conv_moe *m)
{
    static const char *const styles[][3] = {
        { "experts.%d.gate_proj.weight", "experts.%d.up_proj.weight", "experts.%d.down_proj.weight" },
        { "experts.%d.w1.weight", "experts.%d.w3.weight", "experts.%d.w2.weight" },
        { "experts.gate_up_proj", NULL, "experts.down_proj" },
        { "experts.gate_up_proj.weight", NULL, "experts.down_proj.weight" },
        { "experts.gate_proj", "experts.up_proj", "experts.down_proj" },
        { "input_linear.weight", NULL, "output_linear.weight" }
    };
    const char *block = conv_layer_name(c, d, i, arch_moe_blocks[0]);
    size_t k = 0;
    for (int b = 0; arch_moe_blocks[b]; b++) {
        const char *at = conv_layer_name(c, d, i, arch_moe_blocks[b]);
        size_t s = 0;
        for (; s < sizeof styles / sizeof *styles; s++) {
            const char *first = strstr(styles[s][0], "%d");
            if (conv_has(c, first ? conv_format(c->env, "%s.experts.0%s", at, first + 2)
                                  : conv_format(c->env, "%s.%s", at, styles[s][0]))) break;
        }
        if (s == sizeof styles / sizeof *styles) continue;
        block = at;
        k = s;
        break;
    }
    m->gate = conv_format(c->env, "%s.%s", block, styles[k][0]);
    m->up = styles[k][1] ? conv_format(c->env, "%s.%s", block, styles[k][1]) : NULL;
    m->down = conv_format(c->env, "%s.%s", block, styles[k][2]);
}

/* Names of everything that the experts of layer i need                                                     */
static void arch_moe_names(conv *c, arch_moe *a, int32_t i)
{
    static const char *const routers[] = { "gate.weight", "router.weight", "router.layer.weight",
                                           "router.gate.weight", "gate.wg.weight", NULL };
    static const char *const choices[] = { "gate.e_score_correction_bias", "e_score_correction_bias",
                                           "experts.e_score_correction_bias",
                                           "moe_statics.e_score_correction_bias",
                                           "gate.moe_statics.e_score_correction_bias", "expert_bias", NULL };
    a->m.out = conv_format(c->env, "l%d.", i);
    a->m.router = arch_moe_find(c, &a->d, i, routers);
    a->m.bias = a->has_choice ? arch_moe_find(c, &a->d, i, choices) : NULL;
    arch_moe_expert_names(c, &a->d, i, &a->m);
}

/* ---- parts of a layer -------------------------------------------------------------------------------- */
/* Norm of layer i over r0 into r1; no name: the rows as they are. Returns the register                     */
static int arch_moe_norm(conv *c, const conv_decoder *d, int32_t i, const char *out, const char *name)
{
    if (!name) return 0;
    arch_layer_norm(c, d, i, out, name);
    return 1;
}

/* r3 is added to r0, over the norm `name` if there is one                                                  */
static void arch_moe_end(conv *c, const conv_decoder *d, int32_t i, const char *out, const char *name)
{
    if (name) conv_put_norm(c, d, 3, 3, conv_out_name(c, i, out), conv_layer_name(c, d, i, name));
    if (d->residual_scale != 1.0) conv_line(c, "scale r3 r3 by=%s", conv_real(c, d->residual_scale));
    conv_line(c, "add r0 r0 r3");
}

/* r3 times act of what the rows rS say: a number a head, or one a channel                                  */
static void arch_moe_attention_gate(conv *c, const arch_moe *a, int32_t i, int src)
{
    const conv_decoder *d = &a->d;
    const char *name = conv_layer_name(c, d, i, a->attn_gate);
    const conv_tensor *t = conv_source_find(&c->source, conv_format(c->env, "%s.weight", name));
    const int64_t wide = (int64_t)d->heads * (d->v_dim ? d->v_dim : d->head_dim);
    const int each = t && t->ndim == 2 && t->shape[0] == d->heads && d->heads != wide;
    const conv_part gate = conv_part_of(c, d, conv_out_name(c, i, "attn_gate"), name, each ? d->heads : wide,
                                        d->dim, CONV_NO_BIAS);
    conv_put_linear(c, 8, src, &gate, 1, 1.0, 0);
    if (each) conv_line(c, "act r8 r8 kind=%s\nmul r3 r3 r8", a->attn_gate_act);
    else conv_line(c, "gate r3 r3 r8 act=%s", a->attn_gate_act);
}

static void arch_moe_attention(conv *c, const arch_moe *a, int32_t i)
{
    const conv_decoder *d = &a->d;
    const char *post = d->attn_post_norm ? conv_layer_name(c, d, i, d->attn_post_norm) : NULL;
    const int src = arch_moe_norm(c, d, i, "attn_norm", d->attn_norm);
    conv_part end;
    conv_put_attention(c, d, i, src);
    if (a->attn_gate) arch_moe_attention_gate(c, a, i, src);
    end = conv_part_of(c, d, conv_out_name(c, i, "o"), conv_layer_name(c, d, i, d->o), d->dim,
                       (int64_t)d->heads * (d->v_dim ? d->v_dim : d->head_dim), d->o_bias);
    conv_put_branch_end(c, d, 3, &end, conv_out_name(c, i, "attn_post_norm"), post);
}

/* The shared expert on rS is added to rD                                                                   */
static void arch_moe_shared(conv *c, const arch_moe *a, int32_t i, int dst, int src)
{
    const conv_decoder *d = &a->d;
    const char *at = conv_layer_name(c, d, i, a->shared), *in = conv_format(c->env, "%s.input_linear", at);
    const int fused = conv_has(c, conv_format(c->env, "%s.weight", in));
    const char *out = conv_format(c->env, fused ? "%s.output_linear" : "%s.down_proj", at);
    const char *up = conv_out_name(c, i, "shared.up"), *gate = conv_out_name(c, i, "shared.gate");
    const int64_t n = a->shared_inner;
    conv_part parts[2];
    if (fused) {
        const conv_part all = conv_part_of(c, d, "", in, 2 * n, d->dim, d->ffn_bias);
        parts[0] = conv_part_rows(c, all, gate, 0, n, n, n);
        parts[1] = conv_part_rows(c, all, up, n, n, n, n);
    } else {
        parts[0] = conv_part_of(c, d, gate, conv_format(c->env, "%s.gate_proj", at), n, d->dim, d->ffn_bias);
        parts[1] = conv_part_of(c, d, up, conv_format(c->env, "%s.up_proj", at), n, d->dim, d->ffn_bias);
    }
    conv_put_linear(c, 5, src, parts, 2, 1.0, 0);
    conv_line(c, "glu r6 r5 act=%s", d->act);
    if (a->shared_gate) {
        parts[0] = conv_part_of(c, d, conv_out_name(c, i, "shared_gate"),
                                conv_layer_name(c, d, i, a->shared_gate), 1, d->dim, CONV_NO_BIAS);
        conv_put_linear(c, 4, src, parts, 1, 1.0, 0);
        conv_line(c, "act r4 r4 kind=sigmoid\nmul r6 r6 r4");
    }
    parts[0] = conv_part_of(c, d, conv_out_name(c, i, "shared.down"), out, d->dim, n, d->ffn_bias);
    conv_put_linear(c, dst, 6, parts, 1, 1.0, CONV_ADD);
}

/* Experts of layer i: to r0 at once, or over r3 when their sum is normalised or scaled                     */
static void arch_moe_experts(conv *c, arch_moe *a, int32_t i)
{
    const conv_decoder *d = &a->d;
    const int src = arch_moe_norm(c, d, i, "ffn_norm", d->ffn_norm);
    const int direct = src != 0 && !d->ffn_post_norm && d->residual_scale == 1.0, dst = direct ? 0 : 3;
    arch_moe_names(c, a, i);
    conv_put_route(c, &a->m, src, d->dim);
    conv_put_experts(c, &a->m, dst, src, direct);
    if (a->shared) arch_moe_shared(c, a, i, dst, src);
    if (!direct) arch_moe_end(c, d, i, "ffn_post_norm", d->ffn_post_norm);
}

static void arch_moe_layer(conv *c, arch_moe *a, int32_t i)
{
    conv_line(c, "# layer %d", i);
    arch_moe_attention(c, a, i);
    if (a->dense[i]) arch_ffn_branch(c, &a->d, i);
    else arch_moe_experts(c, a, i);
}

static void arch_moe_emit(conv *c, arch_moe *a)
{
    if (c->env->failed) return;
    conv_put_embedding(c, &a->d);
    for (int32_t i = 0; i < a->d.layers && !c->env->failed; i++) arch_moe_layer(c, a, i);
    conv_put_output(c, &a->d);
}

/* ---- reading configurations -------------------------------------------------------------------------- */
/* A size under the first of two keys that is there; CONV_REQUIRED: one of them must be                     */
static int32_t arch_moe_size(conv *c, const char *key, const char *other, int64_t otherwise)
{
    return other && !conv_key(c, key) && conv_key(c, other) ? conv_size(c, other, 1)
                                                            : conv_size(c, key, otherwise);
}

/* Keys of training, and of ways to compute                                                                 */
static void arch_moe_unused_keys(conv *c)
{
    static const char *const keys[] = {
        "router_aux_loss_coef", "aux_loss_coef", "aux_loss_alpha", "seq_aux", "output_router_logits",
        "router_jitter_noise", "ep_size", "moe_capacity", "for_llm_compressor", "z_loss_coefficient", NULL
    };
    for (int i = 0; keys[i]; i++) conv_key(c, keys[i]);
}

typedef struct arch_moe_usual {       /* keys, and values of keys that are absent                           */
    const char *count, *other;        /* number of experts, under either key                                */
    const char *each;                 /* number of a token's experts; NULL: no key                          */
    int32_t     k, head_dim;          /* k 0: required; head_dim 0: dim / heads                             */
    double      eps;
} arch_moe_usual;

/* Layers in the style of Llama with the rope of `keys` (NULL: none yet), and their experts: softmax without
   renorm. 0 after an error                                                                                 */
static int arch_moe_start(conv *c, arch_moe *a, const conv_rope_keys *keys, const arch_moe_usual *usual)
{
    memset(a, 0, sizeof *a);
    arch_moe_unused_keys(c);
    if (!conv_hf_decoder_of(c, &a->d, 0, "head_dim", usual->head_dim)) return 0;
    if (conv_key(c, "hidden_act")) a->d.act = conv_activation(c, "hidden_act", NULL);
    a->d.norm_eps = conv_positive(c, "rms_norm_eps", usual->eps);
    if (keys) conv_hf_rope(c, &a->d.ropes[0], "rope.freq", NULL, keys, a->d.head_dim);
    a->m.experts = arch_moe_size(c, usual->count, usual->other, CONV_REQUIRED);
    a->m.k = usual->each ? conv_size(c, usual->each, usual->k ? usual->k : CONV_REQUIRED) : 1;
    a->m.dim = a->d.dim;
    a->m.inner = a->d.ffn;
    a->m.score = "softmax";
    a->m.act = a->d.act;
    if (!c->env->failed && a->m.k > a->m.experts)
        conv_fail(c->env, "config.json: %d experts for a token, of %d", a->m.k, a->m.experts);
    a->dense = (uint8_t *)conv_alloc(c->env, (uint64_t)a->d.layers, 1);
    return !c->env->failed;
}

/* Sigmoid scores, a bias of the choice, groups, weights over their sum: DeepSeek-V3's router               */
static void arch_moe_sigmoid(conv *c, arch_moe *a, int renorm)
{
    const char *scoring = conv_word(c, "scoring_func", "sigmoid"), *method = conv_word(c, "topk_method",
                                                                                     "noaux_tc");
    if (strcmp(scoring, "sigmoid") && strcmp(scoring, "noaux_tc"))
        conv_fail(c->env, "config.json: \"scoring_func\": \"%.40s\" is not supported", scoring);
    if (strcmp(method, "noaux_tc"))
        conv_fail(c->env, "config.json: \"topk_method\": \"%.40s\" is not supported", method);
    a->m.score = "sigmoid";
    a->has_choice = 1;
    a->m.groups = conv_size(c, "n_group", 1);
    a->m.group_k = conv_size(c, "topk_group", 1);
    a->m.group_top = 2;
    a->m.renorm = conv_bool(c, "norm_topk_prob", renorm);
    a->m.eps = 1e-20;
    a->m.scale = conv_number(c, "routed_scaling_factor", 1.0);
    if (a->m.scale == 0.0) conv_fail(c->env, "config.json: \"routed_scaling_factor\" is 0");
}

/* "mlp_layer_types"; absent: the first `first` layers are dense                                            */
static void arch_moe_dense_layers(conv *c, arch_moe *a, int64_t first)
{
    const json_value *types = conv_key(c, "mlp_layer_types");
    if (c->env->failed) return;
    if (types && json_count(types) != (uint32_t)a->d.layers) {
        conv_fail(c->env, "config.json: \"mlp_layer_types\" has %u items for %d layers", json_count(types),
                  a->d.layers);
        return;
    }
    for (int32_t i = 0; i < a->d.layers; i++) {
        const char *type = json_text(json_at(types, (uint32_t)i), i < first ? "dense" : "sparse");
        a->dense[i] = strcmp(type, "dense") == 0;
        if (!a->dense[i] && strcmp(type, "sparse"))
            conv_fail(c->env, "config.json: \"mlp_layer_types\": \"%.40s\" is not known", type);
    }
}

/* A norm of each head of queries and keys                                                                  */
static void arch_moe_head_norms(conv_decoder *d)
{
    d->head_norm = CONV_HEAD_NORM_SHARED;
    d->q_norm = "self_attn.q_norm";
    d->k_norm = "self_attn.k_norm";
}

/* Layers behind the last one, which guess further tokens, stay unread: their number is in `key`            */
static void arch_moe_ignore_mtp(conv *c, const conv_decoder *d, const char *key)
{
    const int64_t n = conv_int(c, key, 0, 0, 1000);
    const char **list = (const char **)conv_alloc(c->env, (uint64_t)n + 1, sizeof *list);
    for (int64_t i = 0; list && i < n; i++)
        list[i] = conv_format(c->env, "%s%lld.*", d->layer_prefix, (long long)(d->layers + i));
    if (list) c->ignored = list;
}

/* ---- Mixtral, Qwen2-MoE, Qwen3-MoE ------------------------------------------------------------------- */
static void arch_mixtral(conv *c)
{
    static const arch_moe_usual usual = { "num_local_experts", "num_experts", "num_experts_per_tok",
                                          2, 0, 1e-5 };
    static const conv_rope_keys keys = { "rope_theta", NULL, 1000000.0, 1.0 };
    arch_moe a;
    if (!arch_moe_start(c, &a, &keys, &usual)) return;
    conv_set_window(&a.d, arch_window(c, 0));
    a.m.renorm = 1;
    arch_moe_emit(c, &a);
}

/* Dense are the layers of a list, and those that no step reaches; experts have a width of their own        */
static void arch_qwen_moe_layers(conv *c, arch_moe *a, int64_t inner)
{
    a->m.inner = conv_size(c, "moe_intermediate_size", inner);
    a->m.renorm = conv_bool(c, "norm_topk_prob", 0);
    for (int32_t i = 0; i < a->d.layers; i++) a->dense[i] = (uint8_t)arch_qwen_is_dense(c, i);
}

static void arch_qwen2_moe(conv *c)
{
    static const arch_moe_usual usual = { "num_experts", "num_local_experts", "num_experts_per_tok",
                                          4, 0, 1e-6 };
    const int on = conv_bool(c, "use_sliding_window", 0);
    const int64_t first = conv_int(c, "max_window_layers", 28, 0, 1 << 28);
    int32_t window = 0;
    arch_moe a;
    conv_key(c, "sliding_window");
    if (!arch_moe_start(c, &a, &arch_rope_keys, &usual)) return;
    a.d.qkv_bias = arch_bias(conv_bool(c, "qkv_bias", 1));
    if (on) window = arch_window(c, 4096);
    if (!conv_hf_layer_types(c, &a.d, window, 0, 0))
        for (int32_t i = 0; on && i < a.d.layers; i++)
            a.d.layer_window[i] = i % 2 == 0 && i < first ? window : 0;
    arch_qwen_moe_layers(c, &a, 1408);
    a.shared = "mlp.shared_expert";
    a.shared_gate = "mlp.shared_expert_gate";
    a.shared_inner = conv_size(c, "shared_expert_intermediate_size", 5632);
    arch_moe_emit(c, &a);
}

static void arch_qwen3_moe(conv *c)
{
    static const arch_moe_usual usual = { "num_experts", "num_local_experts", "num_experts_per_tok",
                                          8, 0, 1e-6 };
    const int32_t window = arch_window(c, 4096);
    arch_moe a;
    conv_key(c, "max_window_layers");
    if (!arch_moe_start(c, &a, &arch_rope_keys, &usual)) return;
    a.d.qkv_bias = a.d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    if (conv_bool(c, "use_sliding_window", 0)) conv_set_window(&a.d, window);
    arch_moe_head_norms(&a.d);
    arch_qwen_moe_layers(c, &a, 768);
    arch_moe_emit(c, &a);
}

/* ---- OLMoE, FlexOlmo --------------------------------------------------------------------------------- */
static void arch_olmoe(conv *c)
{
    static const arch_moe_usual usual[2] = {
        { "num_experts", "num_local_experts", "num_experts_per_tok", 8, 0, 1e-5 },
        { "num_experts", "num_local_experts", "num_experts_per_tok", 5, 0, 1e-6 }
    };
    static const conv_rope_keys keys = { "rope_theta", NULL, 500000.0, 1.0 };
    const int flex = strcmp(c->architecture, "flex_olmo") == 0;
    arch_moe a;
    if (!arch_moe_start(c, &a, flex ? &keys : &arch_rope_keys, &usual[flex])) return;
    a.d.qkv_bias = a.d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    if (flex) {
        arch_olmo2_norms(&a.d);
    } else {
        arch_moe_head_norms(&a.d);
        a.d.head_norm = CONV_HEAD_NORM_FULL;
        if (conv_key(c, "clip_qkv")) a.d.clip_qkv = conv_positive(c, "clip_qkv", 0.0);
    }
    a.m.renorm = conv_bool(c, "norm_topk_prob", 0);
    arch_moe_emit(c, &a);
}

/* ---- Granite MoE: the k best logits, softmax over them: the same as softmax, renormalised ------------ */
static void arch_granitemoe(conv *c)
{
    static const arch_moe_usual usual = { "num_local_experts", "num_experts", "num_experts_per_tok",
                                          2, 0, 1e-6 };
    arch_moe a;
    if (!arch_moe_start(c, &a, &arch_rope_keys, &usual)) return;
    a.d.qkv_bias = a.d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    a.d.embed_scale = conv_positive(c, "embedding_multiplier", 1.0);
    a.d.residual_scale = conv_positive(c, "residual_multiplier", 1.0);
    a.d.head_scale = 1.0 / conv_positive(c, "logits_scaling", 1.0);
    conv_set_scale(&a.d, conv_positive(c, "attention_multiplier", 1.0));
    a.m.renorm = 1;
    a.shared_inner = (int32_t)conv_int(c, "shared_intermediate_size", 0, 0, 1 << 28);
    if (a.shared_inner) a.shared = "shared_mlp";
    arch_moe_emit(c, &a);
}

/* ---- DeepSeek-V3's router with grouped-query attention: dots.llm1, GLM-4.5, EXAONE-MoE, Solar Open --- */
/* Shared experts as one of n times the width                                                               */
static void arch_moe_shared_experts(conv *c, arch_moe *a, const char *key, int64_t otherwise)
{
    const int64_t n = conv_int(c, key, otherwise, 0, 1 << 16);
    if (n * a->m.inner > 1 << 28) conv_fail(c->env, "config.json: \"%s\" is out of range", key);
    a->shared_inner = c->env->failed ? 1 : (int32_t)(n * a->m.inner);
    if (n) a->shared = "mlp.shared_experts";
}

static void arch_dots1(conv *c)
{
    static const arch_moe_usual usual = { "n_routed_experts", "num_local_experts", "num_experts_per_tok",
                                          0, 0, 1e-6 };
    const int64_t first = conv_int(c, "max_window_layers", 62, 0, 1 << 28);
    const int32_t window = arch_window(c, 4096);
    arch_moe a;
    if (!arch_moe_start(c, &a, &arch_rope_keys, &usual)) return;
    conv_key(c, "use_sliding_window");
    conv_int(c, "moe_layer_freq", 1, 1, 1);
    a.d.qkv_bias = a.d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    arch_moe_head_norms(&a.d);
    if (!conv_hf_layer_types(c, &a.d, window, 0, 0))
        for (int32_t i = 0; i < a.d.layers; i++) a.d.layer_window[i] = i >= first ? window : 0;
    arch_moe_sigmoid(c, &a, 0);
    a.m.inner = conv_size(c, "moe_intermediate_size", 1408);
    arch_moe_dense_layers(c, &a, conv_int(c, "first_k_dense_replace", 0, 0, 1 << 28));
    arch_moe_shared_experts(c, &a, "n_shared_experts", CONV_REQUIRED);
    arch_moe_emit(c, &a);
}

static void arch_glm4_moe(conv *c)
{
    static const arch_moe_usual usual = { "n_routed_experts", "num_local_experts", "num_experts_per_tok",
                                          8, 0, 1e-5 };
    static const conv_rope_keys keys = { "rope_theta", "partial_rotary_factor", 10000.0, 0.5 };
    arch_moe a;
    if (!arch_moe_start(c, &a, &keys, &usual)) return;
    a.d.qkv_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    if (conv_bool(c, "use_qk_norm", 0)) arch_moe_head_norms(&a.d);
    arch_moe_ignore_mtp(c, &a.d, conv_key(c, "num_mtp_layers") ? "num_mtp_layers"
                                                              : "num_nextn_predict_layers");
    arch_moe_sigmoid(c, &a, 1);
    a.m.inner = conv_size(c, "moe_intermediate_size", 1408);
    arch_moe_dense_layers(c, &a, conv_int(c, "first_k_dense_replace", 1, 0, 1 << 28));
    arch_moe_shared_experts(c, &a, "n_shared_experts", 1);
    arch_moe_emit(c, &a);
}

static void arch_solar_open(conv *c)
{
    static const arch_moe_usual usual = { "n_routed_experts", "num_local_experts", "num_experts_per_tok",
                                          8, 128, 1e-5 };
    static const conv_rope_keys keys = { "rope_theta", "partial_rotary_factor", 1000000.0, 1.0 };
    arch_moe a;
    if (!arch_moe_start(c, &a, &keys, &usual)) return;
    a.d.qkv_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    arch_moe_sigmoid(c, &a, 1);
    a.m.inner = conv_size(c, "moe_intermediate_size", 1280);
    arch_moe_shared_experts(c, &a, "n_shared_experts", 1);
    arch_moe_emit(c, &a);
}

/* Rope on layers with a window only (on all when there are no windows)                                     */
static void arch_exaone_moe(conv *c)
{
    static const arch_moe_usual usual = { "num_experts", "num_local_experts", "num_experts_per_tok",
                                          8, 0, 1e-5 };
    const int32_t window = arch_window(c, 4096);
    arch_moe a;
    if (!arch_moe_start(c, &a, &arch_rope_keys, &usual)) return;
    arch_moe_head_norms(&a.d);
    if (!conv_hf_layer_types(c, &a.d, window, window ? -1 : 0, 0) && window)
        conv_window_pattern(&a.d, window, conv_size(c, "sliding_window_pattern", 4), -1, 0);
    conv_key(c, "sliding_window_pattern");
    arch_moe_ignore_mtp(c, &a.d, "num_nextn_predict_layers");
    arch_moe_sigmoid(c, &a, 1);
    if (!conv_key(c, "routed_scaling_factor")) a.m.scale = 2.5;
    a.m.inner = conv_size(c, "moe_intermediate_size", 1024);
    arch_moe_dense_layers(c, &a, conv_int(c, "first_k_dense_replace", 1, 0, 1 << 28));
    arch_moe_shared_experts(c, &a, "num_shared_experts", 1);
    arch_moe_emit(c, &a);
}

/* ---- ERNIE 4.5: softmax, the choice has a bias ------------------------------------------------------- */
static void arch_ernie4_5_moe(conv *c)
{
    static const arch_moe_usual usual = { "moe_num_experts", "num_experts", "moe_k", 6, 0, 1e-5 };
    static const conv_rope_keys keys = { "rope_theta", NULL, 500000.0, 1.0 };
    static const char *const mtp[] = { "*mtp_*", NULL };
    const int64_t start = conv_int(c, "moe_layer_start_index", 1, 0, 1 << 28),
        end = conv_int(c, "moe_layer_end_index", -1, -1, 1 << 28), every = conv_size(c, "moe_layer_interval",
                                                                                     1);
    arch_moe a;
    if (!arch_moe_start(c, &a, NULL, &usual)) return;
    c->ignored = mtp;
    conv_key(c, "num_nextn_predict_layers");
    if (strcmp(conv_word(c, "moe_gate", "topk"), "topk"))
        conv_fail(c->env, "config.json: only \"moe_gate\": \"topk\" is supported");
    a.d.tied = conv_bool(c, "tie_word_embeddings", 1);
    a.d.ropes[0].style = "interleaved";
    conv_hf_rope(c, &a.d.ropes[0], "rope.freq", NULL, &keys, a.d.head_dim);
    a.d.qkv_bias = a.d.o_bias = a.d.ffn_bias = arch_bias(conv_bool(c, "use_bias", 0));
    if (a.d.ffn_bias) conv_fail(c->env, "config.json: \"use_bias\": true is not supported");
    a.has_choice = conv_bool(c, "moe_use_aux_free", 1);
    a.m.renorm = 1;
    a.m.least = conv_number(c, "moe_norm_min", 1e-12);
    a.m.inner = conv_size(c, "moe_intermediate_size", 1536);
    for (int32_t i = 0; i < a.d.layers; i++)
        a.dense[i] = (i + 1) % every != 0 || i < start || (end >= 0 && i > end);
    arch_moe_shared_experts(c, &a, "moe_num_shared_experts", 2);
    arch_moe_emit(c, &a);
}

/* ---- MiniMax-M2: norms of queries and keys over all heads -------------------------------------------- */
static void arch_minimax_m2(conv *c)
{
    static const arch_moe_usual usual = { "num_local_experts", "num_experts", "num_experts_per_tok",
                                          8, 128, 1e-6 };
    conv_rope_keys keys = { "rope_theta", "partial_rotary_factor", 5000000.0, 1.0 };
    const int64_t rotary = conv_int(c, "rotary_dim", 0, 0, 1 << 20);
    arch_moe a;
    if (!arch_moe_start(c, &a, NULL, &usual)) return;
    if (rotary) keys.partial = (double)rotary / a.d.head_dim;
    conv_hf_rope(c, &a.d.ropes[0], "rope.freq", NULL, &keys, a.d.head_dim);
    arch_moe_head_norms(&a.d);
    a.d.head_norm = CONV_HEAD_NORM_FULL;
    conv_only_bool(c, "use_qk_norm", 1);
    conv_only_bool(c, "use_routing_bias", 1);
    arch_moe_sigmoid(c, &a, 1);
    a.m.eps = 0.0;
    arch_moe_emit(c, &a);
}

/* ---- GGUF ---------------------------------------------------------------------------------------------- */
/* Names of the experts of layer i: stacked, or in older files one tensor a map and expert                  */
static void arch_gguf_expert_names(conv *c, const conv_decoder *d, int32_t i, conv_moe *m)
{
    const char *stacked = conv_layer_name(c, d, i, "ffn_down_exps.weight");
    const int one = !conv_has(c, stacked) && conv_has(c, conv_layer_name(c, d, i, "ffn_down.0.weight"));
    m->out = conv_format(c->env, "l%d.", i);
    m->router = conv_layer_name(c, d, i, "ffn_gate_inp.weight");
    m->bias = conv_layer_name(c, d, i, "exp_probs_b.bias");
    if (!conv_has(c, m->bias)) m->bias = NULL;
    m->gate = conv_layer_name(c, d, i, one ? "ffn_gate.%d.weight" : "ffn_gate_exps.weight");
    m->up = conv_layer_name(c, d, i, one ? "ffn_up.%d.weight" : "ffn_up_exps.weight");
    m->down = one ? conv_layer_name(c, d, i, "ffn_down.%d.weight") : stacked;
}

/* Softmax, the experts of expert_count; their width is expert_feed_forward_length, or that of all          */
static void arch_gguf_moe_start(conv *c, arch_moe *a, int renorm)
{
    conv_moe *m = &a->m;
    c->experts = 1;
    m->experts = conv_gguf_size(c, "expert_count", 0);
    m->k = conv_gguf_size(c, "expert_used_count", 0);
    m->dim = a->d.dim;
    m->inner = conv_gguf_size(c, "expert_feed_forward_length", a->d.ffn);
    m->score = "softmax";
    m->act = a->d.act;
    m->renorm = renorm;
    m->scale = conv_gguf_number(c, "expert_weights_scale", 1.0);
    if (m->scale == 0.0) m->scale = 1.0;
    if (conv_gguf_number(c, "expert_gating_func", 1.0) != 1.0)
        conv_fail(c->env, "%s: key %s.expert_gating_func: only softmax is supported", c->gguf->file->path,
                  c->architecture);
    if ((conv_gguf_number(c, "expert_weights_norm", renorm) != 0.0) != renorm)
        conv_fail(c->env, "%s: key %s.expert_weights_norm is not what this architecture has",
                  c->gguf->file->path, c->architecture);
    if (m->k > m->experts) conv_fail(c->env, "%s: %d experts for a token, of %d", c->gguf->file->path, m->k,
                                     m->experts);
}

/* The shared expert of layer i over r1, added to r0; with_gate: times the sigmoid of a gate [dim]          */
static void arch_gguf_shared(conv *c, const conv_decoder *d, int32_t i, int32_t inner, int with_gate)
{
    const char *gate = conv_layer_name(c, d, i, "ffn_gate_shexp");
    const char *up = conv_layer_name(c, d, i, "ffn_up_shexp");
    const char *down = conv_layer_name(c, d, i, "ffn_down_shexp");
    conv_part parts[2];
    parts[0] = conv_part_of(c, d, conv_out_name(c, i, "shared.gate"), gate, inner, d->dim, CONV_NO_BIAS);
    parts[1] = conv_part_of(c, d, conv_out_name(c, i, "shared.up"), up, inner, d->dim, CONV_NO_BIAS);
    conv_put_linear(c, 5, 1, parts, 2, 1.0, 0);
    conv_line(c, "glu r6 r5 act=%s", d->act);
    if (with_gate)
        conv_line(c, "affine r4 r1 w=@%s\nreduce r3 r4 kind=sum\nact r3 r3 kind=sigmoid\nmul r6 r6 r3",
                  conv_make(c, conv_out_name(c, i, "shared_gate"), CONV_VECTOR,
                            conv_take(c, conv_layer_name(c, d, i, "ffn_gate_inp_shexp.weight"), d->dim, 0)));
    parts[0] = conv_part_of(c, d, conv_out_name(c, i, "shared.down"), down, d->dim, inner, CONV_NO_BIAS);
    conv_put_linear(c, 0, 6, parts, 1, 1.0, CONV_ADD);
}

/* The experts of layer i over its normalised rows, added to r0                                             */
static void arch_gguf_experts(conv *c, const conv_decoder *d, conv_moe *m, int32_t i)
{
    arch_layer_norm(c, d, i, "ffn_norm", d->ffn_norm);
    arch_gguf_expert_names(c, d, i, m);
    conv_put_route(c, m, 1, d->dim);
    conv_put_experts(c, m, 0, 1, 1);
}

static void arch_gguf_moe_layer(conv *c, arch_moe *a, int32_t i)
{
    conv_line(c, "# layer %d", i);
    arch_moe_attention(c, a, i);
    arch_gguf_experts(c, &a->d, &a->m, i);
    if (a->shared_inner) arch_gguf_shared(c, &a->d, i, a->shared_inner, 1);
}
static void arch_gguf_moe_emit(conv *c, arch_moe *a)
{
    if (c->env->failed) return;
    conv_put_embedding(c, &a->d);
    for (int32_t i = 0; i < a->d.layers && !c->env->failed; i++) arch_gguf_moe_layer(c, a, i);
    conv_put_output(c, &a->d);
}

/* Mixtral is llama with experts                                                                            */
static void arch_gguf_llama_any(conv *c)
{
    arch_moe a;
    if (conv_gguf_number(c, "expert_count", 0.0) == 0.0) {
        arch_gguf_llama(c);
        return;
    }
    memset(&a, 0, sizeof a);
    if (!conv_gguf_decoder(c, &a.d)) return;
    conv_gguf_rope(c, &a.d.ropes[0], "rope.freq", "interleaved", a.d.head_dim);
    if (conv_gguf_number(c, "attention.sliding_window", 0.0) > 0.0)
        conv_set_window(&a.d, conv_gguf_size(c, "attention.sliding_window", 1));
    arch_gguf_moe_start(c, &a, 1);
    arch_gguf_moe_emit(c, &a);
}

/* qwen2moe, qwen3moe, olmoe                                                                                */
static void arch_gguf_moe(conv *c)
{
    const int qwen2 = strcmp(c->architecture, "qwen2moe") == 0, olmoe = strcmp(c->architecture, "olmoe") == 0;
    arch_moe a;
    memset(&a, 0, sizeof a);
    if (!conv_gguf_decoder(c, &a.d)) return;
    conv_gguf_rope(c, &a.d.ropes[0], "rope.freq", "half", a.d.head_dim);
    if (!qwen2) {
        a.d.head_norm = olmoe ? CONV_HEAD_NORM_FULL : CONV_HEAD_NORM_SHARED;
        a.d.q_norm = "attn_q_norm";
        a.d.k_norm = "attn_k_norm";
    }
    if (olmoe) a.d.clip_qkv = conv_gguf_number(c, "attention.clamp_kqv", 0.0);
    arch_gguf_moe_start(c, &a, !qwen2 && !olmoe);
    if (qwen2) a.shared_inner = conv_gguf_size(c, "expert_shared_feed_forward_length", a.d.ffn);
    arch_gguf_moe_emit(c, &a);
}

#endif /* ARCH_MOE_H_INCLUDED */
