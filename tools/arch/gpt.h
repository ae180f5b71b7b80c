/* arch/gpt.h: models in the line of GPT-2: LayerNorm, feed-forward part without a gate, learned or rotary
   positions.                                                                                               */
#ifndef ARCH_GPT_H_INCLUDED
#define ARCH_GPT_H_INCLUDED
#include "alibi.h"

static const conv_size_keys arch_usual_sizes = { "hidden_size", "num_hidden_layers", "num_attention_heads",
                                                 "max_position_embeddings", CONV_REQUIRED };

/* Configurations with the short names of GPT-2, tensors under transformer.h.N.                             */
static int arch_gpt_base(conv *c, conv_decoder *d, int tied)
{
    const char *prefix = conv_prefix(c, "transformer.", "wte.weight");
    static const conv_size_keys keys = { "n_embd", "n_layer", "n_head", "n_positions", CONV_REQUIRED };
    conv_hf_sizes(c, d, &keys, tied);
    d->ffn = conv_size(c, "n_inner", 4 * (int64_t)d->dim);
    conv_key(c, "n_ctx");
    d->norm = "layer";
    d->norm_bias = CONV_BIAS;
    d->norm_eps = conv_positive(c, "layer_norm_epsilon", 1e-5);
    d->embed = conv_format(c->env, "%swte", prefix);
    d->final_norm = conv_format(c->env, "%sln_f", prefix);
    d->layer_prefix = conv_format(c->env, "%sh.", prefix);
    d->head = "lm_head";
    d->attn_norm = "ln_1";
    return conv_decoder_defaults(c, d);
}

static void arch_gpt2_summary(conv *c)                 /* keys of a head that language models do not have   */
{
    static const char *const keys[] = { "summary_type", "summary_use_proj", "summary_activation",
                                        "summary_proj_to_labels", "summary_first_dropout", NULL };
    for (int i = 0; keys[i]; i++) conv_key(c, keys[i]);
}

static const char *const arch_gpt_masks[] = { "*.attn.bias", "*.attn.masked_bias", "*.attn.attention.bias",
                                              "*.attn.attention.masked_bias", "*.attn.causal_mask", NULL };

static void arch_gpt2(conv *c)
{
    conv_decoder d;
    if (!arch_gpt_base(c, &d, 1)) return;
    arch_gpt2_summary(c);
    c->ignored = arch_gpt_masks;
    d.positions = conv_format(c->env, "%.*swpe", (int)(strlen(d.embed) - 3), d.embed);
    d.conv1d = strcmp(c->architecture, "gpt2") == 0;
    d.ffn_norm = "ln_2";
    d.qkv = "attn.c_attn";
    d.o = "attn.c_proj";
    d.up = "mlp.c_fc";
    d.down = "mlp.c_proj";
    d.qkv_bias = d.o_bias = d.ffn_bias = CONV_BIAS;
    d.act = conv_activation(c, "activation_function", "gelu_new");
    conv_bool(c, "reorder_and_upcast_attn", 0);        /* only where sums are rounded                       */
    if (!conv_bool(c, "scale_attn_weights", 1)) conv_set_scale(&d, 1.0);
    if (conv_bool(c, "scale_attn_by_inverse_layer_idx", 0)) {
        for (int32_t i = 0; i < d.layers; i++) d.layer_scale[i] /= i + 1;
    }
    if (strcmp(c->architecture, "gpt_bigcode") == 0) {
        conv_bool(c, "attention_softmax_in_fp32", 1);
        conv_bool(c, "scale_attention_softmax_in_fp32", 1);
        conv_key(c, "num_key_value_heads");
        conv_key(c, "inference_runner");
        conv_key(c, "validate_runner_input");
        conv_key(c, "pre_allocate_kv_cache");
        conv_key(c, "max_sequence_length");
        conv_key(c, "max_batch_size");
        conv_key(c, "pad_key_length");
        if (conv_bool(c, "multi_query", 1)) d.kv_heads = 1;
        else d.qkv_order = CONV_QKV_PER_HEAD;
    }
    conv_emit_decoder(c, &d);
}

/* GPT-J and CodeGen: one norm for both branches, rope over the first rotary_dim channels in pairs of
   neighbours.                                                                                              */
static void arch_gptj(conv *c)
{
    conv_rope_spec s;
    conv_decoder d;
    if (!arch_gpt_base(c, &d, 0)) return;
    arch_gpt2_summary(c);
    c->ignored = arch_gpt_masks;
    d.parallel = 1;
    d.q = "attn.q_proj";
    d.k = "attn.k_proj";
    d.v = "attn.v_proj";
    d.o = "attn.out_proj";
    d.up = "mlp.fc_in";
    d.down = "mlp.fc_out";
    d.ffn_bias = d.head_bias = CONV_BIAS;
    d.act = conv_activation(c, "activation_function", "gelu_new");
    conv_bool(c, "rotary", 1);
    conv_bool(c, "scale_attn_weights", 1);
    if (strcmp(c->architecture, "codegen") == 0) {
        d.qkv = "attn.qkv_proj";
        d.qkv_order = CONV_QKV_CODEGEN;
    }
    memset(&s, 0, sizeof s);
    s.type = "default";
    s.theta = 10000.0;
    s.dims = conv_key(c, "rotary_dim") ? conv_size(c, "rotary_dim", 1) : 64;
    d.ropes[0].name = "rope.freq";
    d.ropes[0].style = "interleaved";
    conv_rope_make(c, &d.ropes[0], &s, d.head_dim);
    conv_emit_decoder(c, &d);
}

/* Scores are not scaled; attention_layers says which layers see a window only.                             */
static void arch_gpt_neo(conv *c)
{
    static const conv_size_keys keys = { "hidden_size", "num_layers", "num_heads", "max_position_embeddings",
                                         CONV_REQUIRED };
    const char *prefix = conv_prefix(c, "transformer.", "wte.weight");
    const json_value *kinds = conv_key(c, "attention_layers"), *pattern = conv_key(c, "attention_types");
    conv_decoder d;
    int32_t window;
    (void)pattern;                                     /* attention_layers is this pattern written out      */
    conv_hf_sizes(c, &d, &keys, 1);
    d.ffn = conv_size(c, "intermediate_size", 4 * (int64_t)d.dim);
    window = conv_size(c, "window_size", 256);
    c->ignored = arch_gpt_masks;
    arch_gpt2_summary(c);
    d.norm = "layer";
    d.norm_bias = CONV_BIAS;
    d.norm_eps = conv_positive(c, "layer_norm_epsilon", 1e-5);
    d.embed = conv_format(c->env, "%swte", prefix);
    d.positions = conv_format(c->env, "%swpe", prefix);
    d.final_norm = conv_format(c->env, "%sln_f", prefix);
    d.layer_prefix = conv_format(c->env, "%sh.", prefix);
    d.head = "lm_head";
    d.attn_norm = "ln_1"; d.ffn_norm = "ln_2";
    d.q = "attn.attention.q_proj"; d.k = "attn.attention.k_proj"; d.v = "attn.attention.v_proj";
    d.o = "attn.attention.out_proj";
    d.up = "mlp.c_fc"; d.down = "mlp.c_proj";
    d.o_bias = d.ffn_bias = CONV_BIAS;
    d.act = conv_activation(c, "activation_function", "gelu_new");
    if (!conv_decoder_defaults(c, &d)) return;
    conv_set_scale(&d, 1.0);
    if (json_count(kinds) != (uint32_t)d.layers)
        conv_fail(c->env, "config.json: \"attention_layers\" has %u items for %d layers", json_count(kinds),
                  d.layers);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        const char *kind = json_text(json_at(kinds, (uint32_t)i), "");
        if (strcmp(kind, "local") == 0) d.layer_window[i] = window;
        else if (strcmp(kind, "global") != 0)
            conv_fail(c->env, "config.json: \"attention_layers\": \"%.40s\" is not known", kind);
    }
    conv_emit_decoder(c, &d);
}

/* LayerNorm with bias named in the style of Llama.                                                         */
static int arch_layer_norm_base(conv *c, conv_decoder *d, int tied, const char *eps_key)
{
    if (!conv_hf_decoder(c, d, tied)) return 0;
    d->norm = "layer";
    d->norm_bias = CONV_BIAS;
    d->norm_eps = conv_positive(c, eps_key, 1e-5);
    return !c->env->failed;
}

static void arch_gpt_neox(conv *c)
{
    static const conv_rope_keys keys = { "rotary_emb_base", "rotary_pct", 10000.0, 0.25 };
    static const char *const masks[] = { "*.attention.bias", "*.attention.masked_bias",
                                         "*.attention.rotary_emb.inv_freq", NULL };
    const char *prefix = conv_prefix(c, "gpt_neox.", "embed_in.weight");
    conv_decoder d;
    if (!arch_layer_norm_base(c, &d, 0, "layer_norm_eps")) return;
    c->ignored = masks;
    d.embed = conv_format(c->env, "%sembed_in", prefix);
    d.final_norm = conv_format(c->env, "%sfinal_layer_norm", prefix);
    d.layer_prefix = conv_format(c->env, "%slayers.", prefix);
    d.head = "embed_out";
    d.qkv = "attention.query_key_value";
    d.qkv_order = CONV_QKV_PER_HEAD;
    d.o = "attention.dense";
    d.gate = NULL;
    d.up = "mlp.dense_h_to_4h";
    d.down = "mlp.dense_4h_to_h";
    d.qkv_bias = d.o_bias = arch_bias(conv_bool(c, "attention_bias", 1));
    d.ffn_bias = CONV_BIAS;
    d.parallel = conv_bool(c, "use_parallel_residual", 1);
    if (!conv_key(c, "hidden_act")) d.act = "gelu";
    conv_key(c, "attention_probs_dropout_prob");
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    conv_emit_decoder(c, &d);
}

/* GPT-NeoX Japanese: only the last layer's attention has a bias at its end.                                */
static void arch_gpt_neox_japanese(conv *c)
{
    static const conv_rope_keys names[2] = { { "rope_theta", "partial_rotary_factor", 10000.0, 1.0 },
                                             { "rotary_emb_base", "rotary_pct", 10000.0, 1.0 } };
    static const char *const masks[] = { "*.attention.bias", "*.attention.masked_bias",
                                         "*.attention.causal_mask",
                                         "*.rotary_emb.inv_freq", NULL };
    const char *prefix = conv_prefix(c, "gpt_neox_japanese.", "embed_in.weight");
    conv_decoder d;
    conv_hf_sizes(c, &d, &arch_usual_sizes, 1);
    d.ffn = conv_size(c, "intermediate_multiple_size", 4);
    if ((int64_t)d.ffn * d.dim > 1 << 28)
        conv_fail(c->env, "config.json: \"intermediate_multiple_size\" is too large");
    else d.ffn *= d.dim;
    c->ignored = masks;
    d.norm = "layer";
    d.norm_bias = CONV_BIAS;
    d.norm_eps = conv_positive(c, "layer_norm_eps", 1e-5);
    d.embed = conv_format(c->env, "%sembed_in", prefix);
    d.final_norm = conv_format(c->env, "%sfinal_layer_norm", prefix);
    d.layer_prefix = conv_format(c->env, "%slayers.", prefix);
    d.head = "embed_out";
    d.attn_norm = "input_layernorm"; d.ffn_norm = "post_attention_layernorm";
    d.qkv = "attention.query_key_value";
    d.qkv_order = CONV_QKV_PER_HEAD;
    d.o = "attention.dense";
    d.o_bias_name = "attention.dense_bias";
    d.up = "mlp.dense_h_to_4h"; d.down = "mlp.dense_4h_to_h";
    d.act = conv_activation(c, "hidden_act", "gelu");
    if (!conv_decoder_defaults(c, &d)) return;
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &names[conv_key(c, "rotary_emb_base") != NULL],
                 d.head_dim);
    conv_emit_decoder(c, &d);
}

static void arch_starcoder2(conv *c)
{
    conv_decoder d;
    if (!arch_layer_norm_base(c, &d, 1, "norm_epsilon")) return;
    d.gate = NULL;
    d.up = "mlp.c_fc";
    d.down = "mlp.c_proj";
    if (!conv_key(c, "hidden_act")) d.act = "gelu_tanh";
    d.qkv_bias = d.o_bias = d.ffn_bias = arch_bias(conv_bool(c, "use_bias", 1));
    if (conv_key(c, "norm_type") && strcmp(conv_word(c, "norm_type", ""), "layer_norm") != 0)
        conv_fail(c->env, "config.json: \"norm_type\" is not supported");
    if (conv_key(c, "mlp_type") && strcmp(conv_word(c, "mlp_type", ""), "default") != 0)
        conv_fail(c->env, "config.json: \"mlp_type\" is not supported");
    conv_set_window(&d, arch_window(c, 0));
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &arch_rope_keys, d.head_dim);
    conv_emit_decoder(c, &d);
}

static void arch_persimmon(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", "partial_rotary_factor", 25000.0, 0.5 };
    conv_decoder d;
    if (!arch_layer_norm_base(c, &d, 0, "layer_norm_eps")) return;
    d.final_norm = conv_format(c->env, "%.*sfinal_layernorm", (int)(strlen(d.final_norm) - 4), d.final_norm);
    d.qkv = "self_attn.query_key_value";
    d.qkv_order = CONV_QKV_PER_HEAD;
    d.o = "self_attn.dense";
    d.gate = NULL;
    d.up = "mlp.dense_h_to_4h";
    d.down = "mlp.dense_4h_to_h";
    d.qkv_bias = d.o_bias = d.ffn_bias = CONV_BIAS;
    if (!conv_key(c, "hidden_act")) d.act = "relu2";
    if (conv_bool(c, "qk_layernorm", 1)) {
        d.head_norm = CONV_HEAD_NORM_SHARED;
        d.head_norm_kind = "layer";
        d.head_norm_bias = CONV_BIAS;
        d.q_norm = "self_attn.q_layernorm";
        d.k_norm = "self_attn.k_layernorm";
    }
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    conv_emit_decoder(c, &d);
}

static void arch_falcon_sizes(conv *c, conv_decoder *d)
{
    const char *prefix = conv_prefix(c, "transformer.", "word_embeddings.weight");
    memset(d, 0, sizeof *d);
    d->dim = conv_size(c, "hidden_size", CONV_REQUIRED);
    d->layers = conv_size(c, conv_key(c, "n_layer") ? "n_layer" : "num_hidden_layers", CONV_REQUIRED);
    d->heads = conv_size(c, conv_key(c, "n_head") ? "n_head" : "num_attention_heads", CONV_REQUIRED);
    d->head_dim = conv_head_dim(c, d->dim, d->heads);
    d->ffn = conv_size(c, "ffn_hidden_size", 4 * (int64_t)d->dim);
    d->vocab = conv_size(c, "vocab_size", CONV_REQUIRED);
    c->max_context = conv_size(c, "max_position_embeddings", 2048);
    d->tied = conv_bool(c, "tie_word_embeddings", 1);
    d->norm = "layer";
    d->norm_bias = CONV_BIAS;
    d->norm_eps = conv_positive(c, "layer_norm_epsilon", 1e-5);
    d->embed = conv_format(c->env, "%sword_embeddings", prefix);
    d->final_norm = conv_format(c->env, "%sln_f", prefix);
    d->layer_prefix = conv_format(c->env, "%sh.", prefix);
    d->head = "lm_head";
    d->qkv = "self_attention.query_key_value";
    d->o = "self_attention.dense";
    d->up = "mlp.dense_h_to_4h";
    d->down = "mlp.dense_4h_to_h";
}

static void arch_falcon(conv *c)
{
    const int grouped = conv_bool(c, "new_decoder_architecture", 0);
    const int parallel = conv_bool(c, "parallel_attn", 1);
    const int multi_query = conv_bool(c, "multi_query", 1);
    conv_decoder d;
    int norms;
    arch_falcon_sizes(c, &d);
    norms = (int)conv_int(c, "num_ln_in_parallel_attn", grouped ? 2 : 1, 1, 2);
    d.kv_heads = (int32_t)conv_int(c, "num_kv_heads", d.heads, 1, 1 << 28);
    if (!grouped) d.kv_heads = multi_query ? 1 : d.heads;
    d.qkv_order = grouped ? CONV_QKV_GROUPED : multi_query ? CONV_QKV_STACKED : CONV_QKV_PER_HEAD;
    d.parallel = grouped || parallel;
    d.attn_norm = grouped && norms == 2 ? "ln_attn" : "input_layernorm";
    d.ffn_norm = grouped && norms == 2 ? "ln_mlp" : parallel ? NULL : "post_attention_layernorm";
    d.qkv_bias = d.o_bias = d.ffn_bias = arch_bias(conv_bool(c, "bias", 0));
    d.act = conv_activation(c, "activation", "gelu");
    conv_bool(c, "apply_residual_connection_post_layernorm", 0);
    if (!conv_decoder_defaults(c, &d)) return;
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &arch_rope_keys, d.head_dim);
    if (conv_bool(c, "alibi", 0)) arch_alibi_falcon(c, &d);
    conv_emit_decoder(c, &d);
}

/* OPT and BioGPT: position table with two rows in front that are never used.                               */
static void arch_opt_names(conv *c, conv_decoder *d, const char *prefix)
{
    d->norm = "layer";
    d->norm_bias = CONV_BIAS;
    d->position_offset = 2;
    d->embed = conv_format(c->env, "%sembed_tokens", prefix);
    d->positions = conv_format(c->env, "%sembed_positions", prefix);
    d->layer_prefix = conv_format(c->env, "%slayers.", prefix);
    d->attn_norm = "self_attn_layer_norm";
    d->ffn_norm = "final_layer_norm";
    d->q = "self_attn.q_proj"; d->k = "self_attn.k_proj"; d->v = "self_attn.v_proj";
    d->o = "self_attn.out_proj";
    d->gate = NULL; d->up = "fc1"; d->down = "fc2";
}

static void arch_opt(conv *c)
{
    const char *prefix = conv_prefix(c, "model.", "decoder.embed_tokens.weight");
    conv_decoder d;
    conv_hf_sizes(c, &d, &arch_usual_sizes, 1);
    d.ffn = conv_size(c, "ffn_dim", CONV_REQUIRED);
    arch_opt_names(c, &d, conv_format(c->env, "%sdecoder.", prefix));
    d.norm_eps = 1e-5;
    d.head = "lm_head";
    d.act = conv_activation(c, "activation_function", "relu");
    d.qkv_bias = d.o_bias = d.ffn_bias = arch_bias(conv_bool(c, "enable_bias", 1));
    d.norm_on_sum = !conv_bool(c, "do_layer_norm_before", 1);
    d.norm_bias = CONV_BIAS;
    d.norm_plain = !conv_bool(c, "layer_norm_elementwise_affine", 1);
    if (!conv_bool(c, "_remove_final_layer_norm", 0) && !d.norm_on_sum)
        d.final_norm = conv_format(c->env, "%sdecoder.final_layer_norm", prefix);
    if (conv_size(c, "word_embed_proj_dim", d.dim) != d.dim) {
        d.embed_dim = conv_size(c, "word_embed_proj_dim", d.dim);
        d.embed_in = conv_format(c->env, "%sdecoder.project_in", prefix);
        d.head_in = conv_format(c->env, "%sdecoder.project_out", prefix);
    }
    if (!conv_decoder_defaults(c, &d)) return;
    conv_emit_decoder(c, &d);
}

static void arch_biogpt(conv *c)
{
    const char *prefix = conv_prefix(c, "biogpt.", "embed_tokens.weight");
    static const char *const bias[] = { "output_projection.bias", NULL };
    conv_decoder d;
    if (!conv_hf_decoder(c, &d, 1)) return;
    c->ignored = bias;
    arch_opt_names(c, &d, prefix);
    d.final_norm = conv_format(c->env, "%slayer_norm", prefix);
    d.head = "output_projection";
    d.norm_eps = 1e-5;                                 /* of all norms, whatever layer_norm_eps says        */
    conv_key(c, "layer_norm_eps");
    d.qkv_bias = d.o_bias = d.ffn_bias = CONV_BIAS;
    if (!conv_key(c, "hidden_act")) d.act = "gelu";
    conv_key(c, "activation_dropout");
    if (conv_bool(c, "scale_embedding", 1)) d.embed_scale = sqrt((double)d.dim);
    conv_emit_decoder(c, &d);
}

/* The first GPT: norms on the sums, none at the end.                                                       */
static void arch_openai_gpt(conv *c)
{
    const char *prefix = conv_prefix(c, "transformer.", "tokens_embed.weight");
    static const char *const unused[] = { "*.attn.bias", "*position_ids", NULL };
    conv_decoder d;
    if (!arch_gpt_base(c, &d, 1)) return;
    arch_gpt2_summary(c);
    c->ignored = unused;
    d.embed = conv_format(c->env, "%stokens_embed", prefix);
    d.positions = conv_format(c->env, "%spositions_embed", prefix);
    d.layer_prefix = conv_format(c->env, "%sh.", prefix);
    d.final_norm = NULL;
    d.norm_on_sum = d.conv1d = 1;
    d.ffn_norm = "ln_2";
    d.qkv = "attn.c_attn"; d.o = "attn.c_proj"; d.up = "mlp.c_fc"; d.down = "mlp.c_proj";
    d.qkv_bias = d.o_bias = d.ffn_bias = CONV_BIAS;
    d.act = conv_activation(c, "afn", "gelu_new");
    if (strcmp(d.act, "gelu") == 0) d.act = "gelu_tanh";   /* "gelu" names the tanh form in this model      */
    conv_emit_decoder(c, &d);
}

/* ---- GGUF ---------------------------------------------------------------------------------------------- */
static void arch_gguf_gpt2(conv *c)
{
    conv_decoder d;
    if (!conv_gguf_decoder(c, &d)) return;
    d.positions = "position_embd";
    d.qkv = "attn_qkv";
    d.gate = NULL;
    d.act = "gelu_tanh";
    conv_emit_decoder(c, &d);
}

static void arch_gguf_gptneox(conv *c)
{
    conv_decoder d;
    if (!conv_gguf_decoder(c, &d)) return;
    /* llama.cpp's converter has put them in order q, k, v */
    d.qkv = "attn_qkv";
    d.gate = NULL;
    d.act = "gelu";
    d.parallel = conv_gguf_number(c, "use_parallel_residual", 1.0) != 0.0;
    conv_gguf_rope(c, &d.ropes[0], "rope.freq", "half", d.head_dim);
    conv_emit_decoder(c, &d);
}

#endif /* ARCH_GPT_H_INCLUDED */
