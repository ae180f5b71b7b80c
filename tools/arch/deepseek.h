/* arch/deepseek.h: decoders with latent attention: DeepSeek-V2 and -V3, GLM-4.7-Flash, MiniCPM3, Youtu,
   LongCat-Flash.                                                                                           */
#ifndef ARCH_DEEPSEEK_H_INCLUDED
#define ARCH_DEEPSEEK_H_INCLUDED
#include "linear_hybrid.h"
#include "../conv_mla.h"

typedef struct arch_latent {
    conv_decoder d;
    conv_mla     mla;
    conv_moe     moe;                 /* experts 0: no layer has any                                        */
    conv_rope    rope;
    int32_t      shared;              /* width of the shared experts together; 0: none                      */
    int32_t      dense;               /* first layers without experts                                       */
} arch_latent;

typedef struct arch_latent_usual {    /* values of keys that are absent                                     */
    int32_t q_rank, rank, plain, rotated, v_dim, tied;
    double  norm_eps, theta;
    int32_t groups, group_k, shared, dense;
    double  routed_scale;
} arch_latent_usual;

/* ---- sizes --------------------------------------------------------------------------------------------- */
/* YaRN of these models scales q.k too: by the square of what mscale_all_dim gives.                         */
static double arch_latent_mscale(conv *c)
{
    const json_value *params = conv_key(c, "rope_parameters");
    const char *type;
    double all, m;
    if (!params) params = conv_key(c, "rope_scaling");
    type = json_text(json_get(params, "rope_type"), json_text(json_get(params, "type"), "default"));
    all = json_number(json_get(params, "mscale_all_dim"), 0.0);
    if (strcmp(type, "default") == 0 || all == 0.0) return 1.0;
    m = conv__rope_mscale(json_number(json_get(params, "factor"), 1.0), all);
    return m * m;
}

static void arch_latent_widths(conv *c, arch_latent *k, const arch_latent_usual *usual)
{
    conv_mla *m = &k->mla;
    m->dim = k->d.dim;
    m->heads = conv_size(c, "num_attention_heads", CONV_REQUIRED);
    m->q_rank = !conv_key_given(c, "q_lora_rank") ? usual->q_rank
        : conv_key(c, "q_lora_rank") ? conv_size(c, "q_lora_rank", 1) : 0;
    m->rank = conv_size(c, "kv_lora_rank", usual->rank);
    m->plain = conv_size(c, "qk_nope_head_dim", usual->plain);
    m->rotated = conv_size(c, "qk_rope_head_dim", usual->rotated);
    m->v_dim = conv_size(c, "v_head_dim", usual->v_dim ? usual->v_dim : conv_head_dim(c, m->dim, m->heads));
    m->scale = arch_latent_mscale(c) / sqrt((double)m->plain + m->rotated);
    m->norm_eps = 1e-6;               /* whatever rms_norm_eps says                                         */
    conv_key(c, "qk_head_dim");       /* the sum of the two                                                 */
    if (conv_size(c, "num_key_value_heads", m->heads) != m->heads)
        conv_fail(c->env, "config.json: latent attention with \"num_key_value_heads\" other than "
                  "num_attention_heads is not supported");
    if ((int64_t)m->heads * ((int64_t)m->plain + m->rotated) > 1 << 28)
        conv_fail(c->env, "%d heads of latent attention are too large", m->heads);
    conv_key(c, "head_dim");          /* the same as qk_rope_head_dim, or in use by no layer                */
}

/* Sizes, names and rope in the style of DeepSeek; layers and ffn are under these keys.                     */
static int arch_latent_base(conv *c, arch_latent *k, const arch_latent_usual *usual, const char *layers,
                            const char *ffn)
{
    const char *prefix = conv_prefix(c, "model.", "embed_tokens.weight");
    conv_rope_keys keys = { "rope_theta", NULL, 10000.0, 1.0 };
    conv_decoder *d = &k->d;
    keys.theta = usual->theta;
    memset(k, 0, sizeof *k);
    arch_ssm_decoder(c, d, conv_format(c->env, "%sembed_tokens", prefix),
                     conv_format(c->env, "%snorm", prefix), conv_format(c->env, "%slayers.", prefix));
    d->dim = conv_size(c, "hidden_size", CONV_REQUIRED);
    d->layers = conv_size(c, layers, CONV_REQUIRED);
    d->ffn = conv_size(c, ffn, CONV_REQUIRED);
    d->vocab = conv_size(c, "vocab_size", CONV_REQUIRED);
    d->tied = conv_bool(c, "tie_word_embeddings", usual->tied);
    d->norm_eps = conv_positive(c, "rms_norm_eps", usual->norm_eps);
    d->act = conv_activation(c, "hidden_act", "silu");
    d->attn_norm = "input_layernorm";
    d->ffn_norm = "post_attention_layernorm";
    d->gate = "mlp.gate_proj";
    d->up = "mlp.up_proj";
    d->down = "mlp.down_proj";
    d->qkv_bias = d->o_bias = conv_bool(c, "attention_bias", 0) ? CONV_BIAS : CONV_NO_BIAS;
    c->max_context = conv_size(c, "max_position_embeddings", CONV_REQUIRED);
    arch_latent_widths(c, k, usual);
    k->rope.style = conv_bool(c, "rope_interleave", 1) ? "interleaved" : "half";
    conv_hf_rope(c, &k->rope, "rope.freq", NULL, &keys, k->mla.rotated);
    k->mla.rope = &k->rope;
    conv_key(c, "output_router_logits");
    return conv_decoder_defaults(c, d);
}

/* Keys that matter in training only, or in how an implementation spreads over machines                     */
static void arch_deepseek_unused_keys(conv *c)
{
    static const char *const keys[] = { "aux_loss_alpha", "seq_aux", "ep_size", "router_aux_loss_coef",
                                        "router_jitter_noise", "attention_method", NULL };
    for (int i = 0; keys[i]; i++) conv_key(c, keys[i]);
}

/* Layers behind the last one guess further tokens.                                                         */
static void arch_latent_ignore(conv *c, const conv_decoder *d)
{
    const int32_t more = (int32_t)conv_int(c, "num_nextn_predict_layers", 0, 0, 64);
    const char **list = (const char **)conv_alloc(c->env, (uint64_t)more + 1, sizeof *list);
    for (int32_t i = 0; list && i < more; i++)
        list[i] = conv_format(c->env, "%s%d.*", d->layer_prefix, d->layers + i);
    c->ignored = list;
}

/* Experts under DeepSeek's keys; method: what "topk_method" must be, NULL: any of DeepSeek-V2's.           */
static void arch_latent_experts(conv *c, arch_latent *k, const arch_latent_usual *usual, const char *score,
                                const char *method)
{
    conv_moe *x = &k->moe;
    const char *how = conv_word(c, "topk_method", method ? method : "greedy");
    const int64_t shared = conv_int(c, "n_shared_experts", usual->shared, 0, 1 << 12);
    x->dim = k->d.dim;
    x->experts = conv_size(c, "n_routed_experts", CONV_REQUIRED);
    x->k = conv_size(c, "num_experts_per_tok", CONV_REQUIRED);
    x->inner = conv_size(c, "moe_intermediate_size", CONV_REQUIRED);
    x->groups = conv_size(c, "n_group", usual->groups);
    x->group_k = conv_size(c, "topk_group", usual->group_k);
    x->group_top = method ? 2 : 1;
    x->score = score;
    x->scale = conv_number(c, "routed_scaling_factor", usual->routed_scale);
    x->act = k->d.act;
    x->eps = 1e-20;
    if (strcmp(conv_word(c, "scoring_func", score), score) != 0)
        conv_fail(c->env, "config.json: \"scoring_func\" other than %s is not supported", score);
    if (!method && strcmp(how, "greedy") == 0) x->groups = 1;
    else if (strcmp(how, method ? method : "group_limited_greedy") != 0)
        conv_fail(c->env, "config.json: \"topk_method\": \"%.40s\" is not supported", how);
    if (!c->env->failed && (int64_t)x->inner * shared > 1 << 28)
        conv_fail(c->env, "%d shared experts are too many", (int)shared);
    k->shared = x->inner * (int32_t)shared;
    k->dense = (int32_t)conv_int(c, "first_k_dense_replace", usual->dense, 0, 1 << 20);
    if (conv_size(c, "moe_layer_freq", 1) != 1)
        conv_fail(c->env, "config.json: \"moe_layer_freq\" other than 1 is not supported");
}

/* ---- layers -------------------------------------------------------------------------------------------- */
static void arch_latent_names(conv *c, arch_latent *k, const char *mixer)
{
    conv_mla *m = &k->mla;
    m->q = conv_format(c->env, "%s.%s", mixer, m->q_rank ? "q_b_proj" : "q_proj");
    m->q_a = conv_format(c->env, "%s.q_a_proj", mixer);
    m->q_norm = conv_format(c->env, "%s.q_a_layernorm", mixer);
    m->kv_a = conv_format(c->env, "%s.kv_a_proj_with_mqa", mixer);
    m->kv_norm = conv_format(c->env, "%s.kv_a_layernorm", mixer);
    m->kv_b = conv_format(c->env, "%s.kv_b_proj", mixer);
    k->d.o = conv_format(c->env, "%s.o_proj", mixer);
}

/* The heads' results in rS through the output projection, added to r0                                      */
static void arch_latent_out(conv *c, const arch_latent *k, int32_t i, int reg)
{
    const conv_decoder *d = &k->d;
    const conv_part out = conv_part_of(c, d, conv_out_name(c, i, "o"), conv_layer_name(c, d, i, d->o), d->dim,
                                       (int64_t)k->mla.heads * k->mla.v_dim, d->o_bias);
    conv_put_branch_end(c, d, reg, &out, NULL, NULL);
}

/* Names of layer i's experts under mlp: one tensor a map of an expert, or all of them in two tensors       */
static void arch_latent_expert_names(conv *c, arch_latent *k, int32_t i)
{
    conv_moe *x = &k->moe;
    const char *stacked = conv_layer_name(c, &k->d, i, "mlp.experts.gate_up_proj");
    const int one = conv_has(c, stacked);
    x->router = conv_layer_name(c, &k->d, i, "mlp.gate.weight");
    x->bias = strcmp(x->score, "sigmoid") == 0
        ? conv_layer_name(c, &k->d, i, "mlp.gate.e_score_correction_bias") : NULL;
    x->gate = one ? stacked : conv_layer_name(c, &k->d, i, "mlp.experts.%d.gate_proj.weight");
    x->up = one ? NULL : conv_layer_name(c, &k->d, i, "mlp.experts.%d.up_proj.weight");
    x->down = conv_layer_name(c, &k->d, i, one ? "mlp.experts.down_proj" : "mlp.experts.%d.down_proj.weight");
}

static int arch_latent_is_dense(conv *c, const arch_latent *k, int32_t i)
{
    const json_value *types = conv_key(c, "mlp_layer_types");
    const char *type = json_text(json_at(types, (uint32_t)i), "");
    if (!types) return i < k->dense;
    if (json_count(types) != (uint32_t)k->d.layers)
        conv_fail(c->env, "config.json: \"mlp_layer_types\" has %u items for %d layers", json_count(types),
                  k->d.layers);
    else if (strcmp(type, "dense") && strcmp(type, "sparse"))
        conv_fail(c->env, "config.json: \"mlp_layer_types\": \"%.40s\" is not known", type);
    return strcmp(type, "dense") == 0;
}

static void arch_latent_ffn(conv *c, arch_latent *k, int32_t i, int dense)
{
    if (dense) {
        arch_ffn_branch(c, &k->d, i);
        return;
    }
    arch_layer_norm(c, &k->d, i, "ffn_norm", k->d.ffn_norm);
    arch_latent_expert_names(c, k, i);
    arch_put_experts(c, &k->d, i, &k->moe, k->shared ? "mlp.shared_experts" : NULL, k->shared, NULL);
}

static void arch_latent_emit(conv *c, arch_latent *k)
{
    arch_latent_names(c, k, "self_attn");
    conv_put_embedding(c, &k->d);
    for (int32_t i = 0; i < k->d.layers && !c->env->failed; i++) {
        conv_line(c, "# layer %d", i);
        arch_layer_norm(c, &k->d, i, "attn_norm", k->d.attn_norm);
        arch_latent_out(c, k, i, conv_put_mla(c, &k->d, &k->mla, i, 1));
        arch_latent_ffn(c, k, i, !k->moe.experts || arch_latent_is_dense(c, k, i));
    }
    conv_put_output(c, &k->d);
}

/* ---- DeepSeek-V2 and -V3, GLM-4.7-Flash ---------------------------------------------------------------- */
static void arch_deepseek_v2(conv *c)
{
    static const arch_latent_usual usual = { 1536, 512, 128, 64, 128, 0, 1e-6, 10000.0, 1, 1, 2, 0, 1.0 };
    arch_latent k;
    if (!arch_latent_base(c, &k, &usual, "num_hidden_layers", "intermediate_size")) return;
    arch_deepseek_unused_keys(c);
    conv_only_bool(c, "rope_interleave", 1);
    conv_only_bool(c, "mlp_bias", 0);
    conv_only_bool(c, "norm_topk_prob", 0);
    arch_latent_experts(c, &k, &usual, "softmax", NULL);
    arch_latent_emit(c, &k);
}

static int arch_deepseek_v3_base(conv *c, arch_latent *k, const arch_latent_usual *usual)
{
    if (!arch_latent_base(c, k, usual, "num_hidden_layers", "intermediate_size")) return 0;
    arch_deepseek_unused_keys(c);
    arch_latent_experts(c, k, usual, "sigmoid", "noaux_tc");
    k->moe.renorm = conv_bool(c, "norm_topk_prob", 1);
    arch_latent_ignore(c, &k->d);
    return !c->env->failed;
}

static void arch_deepseek_v3(conv *c)
{
    static const arch_latent_usual usual = { 1536, 512, 128, 64, 128, 0, 1e-6, 10000.0, 8, 4, 1, 3, 2.5 };
    arch_latent k;
    if (arch_deepseek_v3_base(c, &k, &usual)) arch_latent_emit(c, &k);
}

static void arch_glm4_moe_lite(conv *c)
{
    static const arch_latent_usual usual = { 768, 512, 192, 64, 256, 0, 1e-5, 10000.0, 1, 1, 1, 1, 1.8 };
    arch_latent k;
    if (conv_number(c, "partial_rotary_factor", 1.0) != 1.0)
        conv_fail(c->env, "config.json: \"partial_rotary_factor\" other than 1 is not supported");
    if (arch_deepseek_v3_base(c, &k, &usual)) arch_latent_emit(c, &k);
}

/* ---- MiniCPM3, Youtu: latent attention without experts ------------------------------------------------- */
static void arch_minicpm3(conv *c)
{
    static const arch_latent_usual usual = { 768, 256, 64, 32, 0, 1, 1e-5, 10000.0, 0, 0, 0, 0, 0.0 };
    const int scaled = conv_key(c, "scale_depth") || !conv_key_given(c, "scale_depth");
    const int based = conv_key(c, "dim_model_base") || !conv_key_given(c, "dim_model_base");
    arch_latent k;
    if (!arch_latent_base(c, &k, &usual, "num_hidden_layers", "intermediate_size")) return;
    k.rope.style = "half";
    k.d.ffn_bias = conv_bool(c, "mlp_bias", 0) ? CONV_BIAS : CONV_NO_BIAS;
    k.d.embed_scale = conv_positive(c, "scale_emb", 12.0);
    if (scaled) k.d.residual_scale = conv_positive(c, "scale_depth", 1.4) / sqrt((double)k.d.layers);
    if (based) k.d.head_scale = conv_size(c, "dim_model_base", 256) / (double)k.d.dim;
    arch_latent_emit(c, &k);
}

static void arch_youtu(conv *c)
{
    static const arch_latent_usual usual = { 1536, 512, 128, 64, 128, 1, 1e-6, 10000.0, 0, 0, 0, 0, 0.0 };
    arch_latent k;
    if (!arch_latent_base(c, &k, &usual, "num_hidden_layers", "intermediate_size")) return;
    conv_key(c, "embedding_initializer_range");
    conv_only_bool(c, "mlp_bias", 0);
    arch_latent_emit(c, &k);
}

/* ---- LongCat-Flash: two attentions and two dense parts a layer, and experts beside the second half ----- */
static void arch_longcat_half(conv *c, arch_latent *k, int32_t i, int half)
{
    c->out_part = half ? "1." : "0.";
    arch_latent_names(c, k, conv_format(c->env, "self_attn.%d", half));
    k->d.attn_norm = conv_format(c->env, "input_layernorm.%d", half);
    k->d.ffn_norm = conv_format(c->env, "post_attention_layernorm.%d", half);
    k->d.gate = conv_format(c->env, "mlps.%d.gate_proj", half);
    k->d.up = conv_format(c->env, "mlps.%d.up_proj", half);
    k->d.down = conv_format(c->env, "mlps.%d.down_proj", half);
    arch_layer_norm(c, &k->d, i, "attn_norm", k->d.attn_norm);
    arch_latent_out(c, k, i, conv_put_mla(c, &k->d, &k->mla, i, 1));
}

/* Experts of layer i over r1, in r13: the last `zero` that the router knows return what they read.         */
static void arch_longcat_experts(conv *c, arch_latent *k, int32_t i, int32_t zero)
{
    conv_moe x = k->moe;
    x.out = conv_format(c->env, "l%d.", i);
    x.router = conv_layer_name(c, &k->d, i, "mlp.router.classifier.weight");
    x.bias = conv_layer_name(c, &k->d, i, "mlp.router.e_score_correction_bias");
    x.gate = conv_layer_name(c, &k->d, i, "mlp.experts.%d.gate_proj.weight");
    x.up = conv_layer_name(c, &k->d, i, "mlp.experts.%d.up_proj.weight");
    x.down = conv_layer_name(c, &k->d, i, "mlp.experts.%d.down_proj.weight");
    x.experts += zero;
    conv_put_route(c, &x, 1, k->d.dim);
    x.experts -= zero;
    if (!zero) {
        conv_put_experts(c, &x, 13, 1, 0);
        return;
    }
    conv_line(c, "copy r10 r8 first=%d count=%d", x.experts, zero);
    conv_line(c, "copy r7 r8 first=0 count=%d\ncopy r8 r7", x.experts);
    conv_put_experts(c, &x, 13, 1, 0);
    conv_line(c, "reduce r11 r10 kind=sum\nmul r12 r1 r11\nadd r13 r13 r12");
}

static void arch_longcat_layer(conv *c, arch_latent *k, int32_t i, int32_t zero)
{
    conv_part end;
    int inner = 6;
    conv_line(c, "# layer %d", i);
    arch_longcat_half(c, k, i, 0);
    arch_layer_norm(c, &k->d, i, "ffn_norm", k->d.ffn_norm);
    arch_longcat_experts(c, k, i, zero);
    conv_put_ffn(c, &k->d, i, 1, &inner);
    end = conv_part_of(c, &k->d, conv_out_name(c, i, "down"), conv_layer_name(c, &k->d, i, k->d.down),
                       k->d.dim, k->d.ffn, CONV_NO_BIAS);
    conv_put_branch_end(c, &k->d, inner, &end, NULL, NULL);
    arch_longcat_half(c, k, i, 1);
    arch_ffn_branch(c, &k->d, i);
    conv_line(c, "add r0 r0 r13");
    c->out_part = NULL;
}

/* What layers that guess further tokens hold, and room that files leave for experts without weights        */
static void arch_longcat_ignore(conv *c, int32_t experts, int32_t zero)
{
    const char **list = (const char **)conv_alloc(c->env, (uint64_t)zero + 2, sizeof *list);
    for (int32_t i = 0; list && i < zero; i++)
        list[i] = conv_format(c->env, "*.mlp.experts.%d.*", experts + i);
    if (list) list[zero] = "model.mtp.*";
    c->ignored = list;
}

static void arch_longcat_flash(conv *c)
{
    static const arch_latent_usual usual = { 1536, 512, 128, 64, 128, 0, 1e-5, 1e7, 1, 1, 0, 0, 6.0 };
    arch_latent k;
    conv_moe *x = &k.moe;
    int32_t zero;
    if (!arch_latent_base(c, &k, &usual, "num_layers", "ffn_hidden_size")) return;
    arch_deepseek_unused_keys(c);
    x->dim = k.d.dim;
    x->experts = conv_size(c, "n_routed_experts", 512);
    x->k = conv_size(c, "moe_topk", 12);
    x->inner = conv_size(c, "expert_ffn_hidden_size", 2048);
    x->score = "softmax";
    x->scale = conv_number(c, "routed_scaling_factor", usual.routed_scale);
    x->act = k.d.act;
    zero = (int32_t)conv_int(c, "zero_expert_num", 256, 0, 1 << 12);
    if (strcmp(conv_word(c, "zero_expert_type", "identity"), "identity") != 0)
        conv_fail(c->env, "config.json: \"zero_expert_type\" other than identity is not supported");
    arch_longcat_ignore(c, x->experts, zero);
    conv_only_bool(c, "router_bias", 0);
    conv_only_bool(c, "rope_interleave", 1);
    conv_only_bool(c, "norm_topk_prob", 0);
    if (conv_bool(c, "mla_scale_q_lora", 1)) k.mla.q_scale = sqrt(k.d.dim / (double)k.mla.q_rank);
    if (conv_bool(c, "mla_scale_kv_lora", 1)) k.mla.kv_scale = sqrt(k.d.dim / (double)k.mla.rank);
    if (!k.mla.q_rank) conv_fail(c->env, "config.json: key \"q_lora_rank\" is missing");
    if (conv_size(c, "num_hidden_layers", 2 * (int64_t)k.d.layers) != 2 * (int64_t)k.d.layers)
        conv_fail(c->env, "config.json: \"num_hidden_layers\" is not twice \"num_layers\"");
    conv_put_embedding(c, &k.d);
    for (int32_t i = 0; i < k.d.layers && !c->env->failed; i++) arch_longcat_layer(c, &k, i, zero);
    conv_put_output(c, &k.d);
}

/* ---- GGUF: deepseek2, which is also V3, GLM-4.7-Flash, Youtu, Moonlight ... --------------------------- */
/* Keys and values of a head have these widths before older files, and beside the short row in newer ones.  */
static void arch_gguf_latent_widths(conv *c, arch_latent *k)
{
    const int split = conv_has(c, "blk.0.attn_k_b.weight");
    const double more = conv_gguf_number(c, "rope.scaling.yarn_log_multiplier", 0.0) * 10.0;
    const double factor = conv_gguf_number(c, "rope.scaling.factor", 1.0);
    conv_mla *m = &k->mla;
    m->dim = k->d.dim;
    m->heads = k->d.heads;
    m->q_rank = conv_gguf_key(c, "attention.q_lora_rank") ? conv_gguf_size(c, "attention.q_lora_rank", 0) : 0;
    m->rank = conv_gguf_size(c, "attention.kv_lora_rank", 0);
    m->v_dim = conv_gguf_size(c, "attention.value_length", k->d.head_dim);
    m->v_dim = conv_gguf_size(c, "attention.value_length_mla", m->v_dim);
    m->plain = conv_gguf_size(c, "attention.key_length_mla", k->d.head_dim);
    conv_gguf_rope(c, &k->rope, "rope.freq", "interleaved", m->plain);
    m->rotated = k->rope.dims;
    m->plain -= m->rotated;
    if (m->plain < 1) conv_fail(c->env, "%s: no channels of a head are without rope", c->gguf->file->path);
    m->scale = 1.0 / sqrt((double)m->plain + m->rotated);
    m->norm_eps = 1e-6;               /* whatever the layers' norms have                                    */
    if (more != 0.0 && k->rope.attn_factor != 1.0) {   /* YaRN scales q.k as a whole                        */
        m->scale *= pow(conv__rope_mscale(factor, more), 2.0);
        k->rope.attn_factor /= conv__rope_mscale(factor, 1.0);
    }
    if ((int64_t)m->heads * ((int64_t)m->plain + m->rotated) > 1 << 28)
        conv_fail(c->env, "%d heads of latent attention are too large", m->heads);
    m->rope = &k->rope;
    m->q = m->q_rank ? "attn_q_b" : "attn_q";
    m->q_a = "attn_q_a";
    m->q_norm = "attn_q_a_norm";
    m->kv_a = "attn_kv_a_mqa";
    m->kv_norm = "attn_kv_a_norm";
    m->kv_b = "attn_kv_b";
    m->k_b = split ? "attn_k_b" : NULL;
    m->v_b = split ? "attn_v_b" : NULL;
}

/* Without expert_gating_func a bias of the choice tells the sigmoid of V3. The best groups are those with the
   two best scores together, with softmax (V2) those with the best one.                                     */
static void arch_gguf_latent_experts(conv *c, arch_latent *k)
{
    const int biased = conv_has(c, conv_format(c->env, "blk.%d.exp_probs_b.bias", k->dense));
    const double rule = conv_gguf_number(c, "expert_gating_func", biased ? 2.0 : 1.0);
    const double shared = conv_gguf_number(c, "expert_shared_count", 0.0);
    const double groups = conv_gguf_number(c, "expert_group_count", 1.0);
    conv_moe *x = &k->moe;
    x->dim = k->d.dim;
    x->experts = conv_gguf_size(c, "expert_count", 0);
    x->k = conv_gguf_size(c, "expert_used_count", 0);
    x->inner = conv_gguf_size(c, "expert_feed_forward_length", 0);
    x->act = k->d.act;
    x->score = rule == 2.0 ? "sigmoid" : "softmax";
    x->groups = groups > 1.0 ? conv_gguf_size(c, "expert_group_count", 0) : 1;
    x->group_k = groups > 1.0 ? conv_gguf_size(c, "expert_group_used_count", 0) : 1;
    x->group_top = rule == 2.0 ? 2 : 1;
    x->scale = conv_gguf_number(c, "expert_weights_scale", 1.0);
    x->renorm = conv_gguf_number(c, "expert_weights_norm", 0.0) != 0.0;
    x->eps = 1e-20;
    conv_gguf_number(c, "expert_group_used_count", 1.0);
    if (rule != 1.0 && rule != 2.0)
        conv_fail(c->env, "%s: key %s.expert_gating_func %g: only softmax (1) and sigmoid (2) are supported",
                  c->gguf->file->path, c->architecture, rule);
    if (!(shared >= 0.0 && shared <= 4096.0 && floor(shared) == shared && shared * x->inner <= 1 << 28))
        conv_fail(c->env, "%s: key %s.expert_shared_count: %g is not possible", c->gguf->file->path,
                  c->architecture, shared);
    else k->shared = (int32_t)shared * x->inner;
}

static void arch_gguf_deepseek2(conv *c)
{
    arch_latent k;
    double dense;
    memset(&k, 0, sizeof k);
    c->experts = 1;
    if (!conv_gguf_base(c, &k.d)) return;
    arch_gguf_latent_widths(c, &k);
    dense = conv_gguf_number(c, "leading_dense_block_count", 0.0);
    k.dense = dense >= 0.0 && dense <= k.d.layers ? (int32_t)dense : k.d.layers;
    if (k.dense < k.d.layers) arch_gguf_latent_experts(c, &k);
    else conv_gguf_number(c, "expert_feed_forward_length", 0.0);
    if (conv_gguf_number(c, "expert_shared_count", 0.0) != 0.0 && k.dense == k.d.layers)
        conv_fail(c->env, "%s: shared experts, and no layer with experts", c->gguf->file->path);
    conv_put_embedding(c, &k.d);
    for (int32_t i = 0; i < k.d.layers && !c->env->failed; i++) {
        conv_line(c, "# layer %d", i);
        arch_layer_norm(c, &k.d, i, "attn_norm", k.d.attn_norm);
        arch_latent_out(c, &k, i, conv_put_mla(c, &k.d, &k.mla, i, 1));
        if (i < k.dense) { arch_ffn_branch(c, &k.d, i); continue; }
        arch_gguf_experts(c, &k.d, &k.moe, i);
        if (k.shared) arch_gguf_shared(c, &k.d, i, k.shared, 0);
    }
    conv_put_output(c, &k.d);
}

#endif /* ARCH_DEEPSEEK_H_INCLUDED */
