/* arch/llama.h: models in the line of Llama: RMS norm, gated feed-forward part, rotary positions. Facts
   are from the modeling files of transformers 5 and from llama.cpp's converter; see README.md for the
   steps.                                                                                                   */
#ifndef ARCH_LLAMA_H_INCLUDED
#define ARCH_LLAMA_H_INCLUDED
#include "../conv_decoder.h"
#include "../conv_llama2c.h"

static const conv_rope_keys arch_rope_keys = { "rope_theta", "partial_rotary_factor", 10000.0, 1.0 };

static conv_bias arch_bias(int wanted) { return wanted ? CONV_BIAS : CONV_NO_BIAS; }

/* Sizes, names, RMS norm and unscaled or scaled rope of one kind for all layers.                           */
static int arch_llama_base(conv *c, conv_decoder *d, int tied)
{
    if (!conv_hf_decoder(c, d, tied)) return 0;
    d->norm_eps = conv_positive(c, "rms_norm_eps", 1e-6);
    conv_hf_rope(c, &d->ropes[0], "rope.freq", NULL, &arch_rope_keys, d->head_dim);
    return !c->env->failed;
}

static void arch_llama_biases(conv *c, conv_decoder *d)
{
    d->qkv_bias = d->o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    d->ffn_bias = arch_bias(conv_bool(c, "mlp_bias", 0));
}

static void arch_llama(conv *c)
{
    conv_decoder d;
    if (!arch_llama_base(c, &d, 0)) return;
    arch_llama_biases(c, &d);
    conv_emit_decoder(c, &d);
}

/* A sliding window on every layer; absent key: 4096.                                                       */
static void arch_mistral(conv *c)
{
    conv_decoder d;
    if (!arch_llama_base(c, &d, 0)) return;
    if (!conv_key_given(c, "sliding_window")) conv_set_window(&d, 4096);
    else if (conv_key(c, "sliding_window")) conv_set_window(&d, conv_size(c, "sliding_window", 1));
    conv_emit_decoder(c, &d);
}

static int32_t arch_window(conv *c, int32_t otherwise)
{
    if (!conv_key_given(c, "sliding_window")) return otherwise;
    return conv_key(c, "sliding_window") ? conv_size(c, "sliding_window", 1) : 0;
}

static void arch_ministral(conv *c)
{
    conv_decoder d;
    int32_t window;
    if (!arch_llama_base(c, &d, 0)) return;
    window = arch_window(c, 4096);
    if (!conv_hf_layer_types(c, &d, window, 0, 0)) conv_set_window(&d, window);
    conv_emit_decoder(c, &d);
}

/* Qwen: the first max_window_layers layers see everything, the others a window, when use_sliding_window is
   on.                                                                                                      */
static void arch_qwen_windows(conv *c, conv_decoder *d)
{
    const int on = conv_bool(c, "use_sliding_window", 0);
    const int32_t window = arch_window(c, 4096);
    const int64_t first = conv_int(c, "max_window_layers", 28, 0, 1 << 28);
    if (conv_hf_layer_types(c, d, on ? window : 0, 0, 0) || !on) return;
    for (int32_t i = 0; i < d->layers; i++) d->layer_window[i] = i >= first ? window : 0;
}

static void arch_qwen2(conv *c)
{
    conv_decoder d;
    if (!arch_llama_base(c, &d, 0)) return;
    d.qkv_bias = CONV_BIAS;
    conv_only_bool(c, "use_mrope", 0);
    arch_qwen_windows(c, &d);
    conv_emit_decoder(c, &d);
}

static void arch_qwen3(conv *c)
{
    conv_decoder d;
    if (!arch_llama_base(c, &d, 0)) return;
    if (!conv_key(c, "head_dim")) conv_fail(c->env, "config.json: key \"head_dim\" is missing");
    d.qkv_bias = d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    d.head_norm = CONV_HEAD_NORM_SHARED;
    d.q_norm = "self_attn.q_norm";
    d.k_norm = "self_attn.k_norm";
    arch_qwen_windows(c, &d);
    conv_emit_decoder(c, &d);
}

/* Some layers have no positions: no_rope_layers holds 1 for layers with rope, or every n-th has none.      */
static void arch_smollm3(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", NULL, 2000000.0, 1.0 };
    const json_value *list = conv_key(c, "no_rope_layers");
    const int64_t interval = conv_int(c, "no_rope_layer_interval", 4, 1, 1 << 28);
    conv_decoder d;
    int32_t window;
    if (!conv_hf_decoder(c, &d, 1)) return;
    d.norm_eps = conv_positive(c, "rms_norm_eps", 1e-6);
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    arch_llama_biases(c, &d);
    window = arch_window(c, 0);
    if (!conv_bool(c, "use_sliding_window", 0)) window = 0;
    if (list && json_count(list) < (uint32_t)d.layers)
        conv_fail(c->env, "config.json: \"no_rope_layers\" has %u items for %d layers", json_count(list),
                  d.layers);
    if (c->env->failed) return;
    conv_hf_layer_types(c, &d, window, 0, 0);
    for (int32_t i = 0; i < d.layers; i++) {
        const int64_t with = list ? json_int(json_at(list, (uint32_t)i), -1) : (i + 1) % interval != 0;
        if (with != 0 && with != 1)
            conv_fail(c->env, "config.json: \"no_rope_layers\": item %d is neither 0 nor 1", i);
        d.layer_rope[i] = with == 1 ? 0 : -1;
        if (!conv_key(c, "layer_types") && with != 1) d.layer_window[i] = window;
    }
    conv_emit_decoder(c, &d);
}

/* Norms on the results of the branches only; queries and keys are normalised over all heads at once.       */
static void arch_olmo2_norms(conv_decoder *d)
{
    d->attn_norm = d->ffn_norm = NULL;
    d->attn_post_norm = "post_attention_layernorm";
    d->ffn_post_norm = "post_feedforward_layernorm";
    d->head_norm = CONV_HEAD_NORM_FULL;
    d->q_norm = "self_attn.q_norm";
    d->k_norm = "self_attn.k_norm";
}

static void arch_olmo2(conv *c)
{
    conv_decoder d;
    if (!arch_llama_base(c, &d, 0)) return;
    d.qkv_bias = d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    arch_olmo2_norms(&d);
    conv_emit_decoder(c, &d);
}

/* As OLMo 2, with windows on three of four layers; a rope scaling in the old style is for the full layers
   only.                                                                                                    */
static void arch_olmo3(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", NULL, 500000.0, 1.0 };
    const int32_t window = arch_window(c, 4096);
    conv_decoder d;
    if (!conv_hf_decoder(c, &d, 0)) return;
    d.norm_eps = conv_positive(c, "rms_norm_eps", 1e-5);
    d.qkv_bias = d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    arch_olmo2_norms(&d);
    conv_hf_rope(c, &d.ropes[0], "rope.freq", "full_attention", &keys, d.head_dim);
    conv_hf_sliding_rope(c, &d.ropes[1], "rope.freq_sliding", &keys, d.head_dim);
    if (!conv_hf_layer_types(c, &d, window, 0, 1)) conv_window_pattern(&d, window, 4, 0, 1);
    conv_emit_decoder(c, &d);
}

static void arch_granite(conv *c)
{
    conv_decoder d;
    if (!arch_llama_base(c, &d, 0)) return;
    arch_llama_biases(c, &d);
    d.embed_scale = conv_positive(c, "embedding_multiplier", 1.0);
    d.residual_scale = conv_positive(c, "residual_multiplier", 1.0);
    d.head_scale = 1.0 / conv_positive(c, "logits_scaling", 1.0);
    conv_set_scale(&d, conv_positive(c, "attention_multiplier", 1.0));
    conv_emit_decoder(c, &d);
}

/* Feed-forward part without a gate.                                                                        */
static void arch_arcee(conv *c)
{
    conv_decoder d;
    if (!arch_llama_base(c, &d, 0)) return;
    arch_llama_biases(c, &d);
    if (!conv_key(c, "hidden_act")) d.act = "relu2";
    d.gate = NULL;
    conv_emit_decoder(c, &d);
}

static void arch_helium(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", NULL, 100000.0, 1.0 };
    conv_decoder d;
    if (!conv_hf_decoder(c, &d, 0)) return;
    d.norm_eps = conv_positive(c, "rms_norm_eps", 1e-8);
    d.ropes[0].style = "interleaved";
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    d.qkv_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    d.ffn_bias = arch_bias(conv_bool(c, "mlp_bias", 0));
    conv_emit_decoder(c, &d);
}

static void arch_ernie4_5(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", NULL, 500000.0, 1.0 };
    conv_decoder d;
    if (!conv_hf_decoder(c, &d, 1)) return;
    d.norm_eps = conv_positive(c, "rms_norm_eps", 1e-5);
    d.ropes[0].style = "interleaved";
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    d.qkv_bias = d.o_bias = d.ffn_bias = arch_bias(conv_bool(c, "use_bias", 0));
    conv_emit_decoder(c, &d);
}

/* GLM and GLM-4: interleaved rope over half of each head, fused gate and up; GLM-4 has norms after the
   branches too.                                                                                            */
static void arch_glm(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", "partial_rotary_factor", 10000.0, 0.5 };
    conv_decoder d;
    if (!conv_hf_decoder(c, &d, 0)) return;
    d.norm_eps = conv_positive(c, "rms_norm_eps", 1.5625e-07);
    d.ropes[0].style = "interleaved";
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    d.qkv_bias = arch_bias(conv_bool(c, "attention_bias", 1));
    d.gate = d.up = NULL;
    d.gate_up = "mlp.gate_up_proj";
    if (strcmp(c->architecture, "glm4") == 0) {
        d.attn_post_norm = "post_self_attn_layernorm";
        d.ffn_post_norm = "post_mlp_layernorm";
    }
    conv_emit_decoder(c, &d);
}

/* Rope on layers with a window only (on all when there are no windows); norms on the results of the
   branches.                                                                                                */
static void arch_exaone4(conv *c)
{
    const int32_t window = arch_window(c, 4096);
    const int64_t pattern = conv_int(c, "sliding_window_pattern", 4, 0, 1 << 28);
    conv_decoder d;
    if (!arch_llama_base(c, &d, 0)) return;
    arch_olmo2_norms(&d);
    d.head_norm = CONV_HEAD_NORM_SHARED;
    if (!conv_hf_layer_types(c, &d, window, window ? -1 : 0, 0) && window && pattern)
        conv_window_pattern(&d, window, (int32_t)pattern, -1, 0);
    conv_emit_decoder(c, &d);
}

static void arch_seed_oss(conv *c)
{
    conv_decoder d;
    if (!arch_llama_base(c, &d, 0)) return;
    d.qkv_bias = arch_bias(conv_bool(c, "attention_bias", 1));
    d.o_bias = arch_bias(conv_bool(c, "attention_out_bias", 0));
    d.ffn_bias = arch_bias(conv_bool(c, "mlp_bias", 0));
    conv_emit_decoder(c, &d);
}

static void arch_cwm(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", NULL, 1000000.0, 1.0 };
    const int32_t window = arch_window(c, 8192);
    conv_decoder d;
    if (!conv_hf_decoder(c, &d, 0)) return;
    d.norm_eps = conv_positive(c, "rms_norm_eps", 1e-5);
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    d.ffn_bias = arch_bias(conv_bool(c, "mlp_bias", 0));
    if (!conv_hf_layer_types(c, &d, window, 0, 0))
        conv_fail(c->env, "config.json: key \"layer_types\" is missing");
    conv_emit_decoder(c, &d);
}

/* Queries and keys are normalised after the rotation.                                                      */
static void arch_hunyuan(conv *c)
{
    conv_decoder d;
    if (!arch_llama_base(c, &d, 0)) return;
    conv_key(c, "eod_token_id");
    d.qkv_bias = d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    d.head_norm = CONV_HEAD_NORM_SHARED;
    d.head_norm_after_rope = 1;
    d.q_norm = "self_attn.query_layernorm";
    d.k_norm = "self_attn.key_layernorm";
    conv_emit_decoder(c, &d);
}

/* Norms without weights, also of the embedding; rope turns the other way round.                            */
static void arch_nanochat(conv *c)
{
    conv_decoder d;
    if (!arch_llama_base(c, &d, 0)) return;
    d.qkv_bias = d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    d.norm_plain = d.embed_norm = 1;
    d.gate = NULL;
    d.up = "mlp.fc1";
    d.down = "mlp.fc2";
    d.head_norm = CONV_HEAD_NORM_SHARED;
    d.head_norm_after_rope = 1;
    d.head_softcap = conv_number(c, "final_logit_softcapping", 15.0);
    for (int32_t i = 0; i < d.ropes[0].dims / 2; i++) d.ropes[0].freq[i] = -d.ropes[0].freq[i];
    conv_emit_decoder(c, &d);
}

/* LayerNorm with 1 + w, feed-forward part without a gate.                                                  */
static void arch_nemotron(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", "partial_rotary_factor", 10000.0, 0.5 };
    conv_decoder d;
    if (!conv_hf_decoder(c, &d, 0)) return;
    d.norm = "layer";
    d.norm_plus = 1.0;
    d.norm_bias = CONV_BIAS;
    d.norm_eps = conv_positive(c, "norm_eps", 1e-5);
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    arch_llama_biases(c, &d);
    if (!conv_key(c, "hidden_act")) d.act = "relu2";
    d.gate = NULL;
    conv_emit_decoder(c, &d);
}

/* LayerNorm without weights.                                                                               */
static void arch_olmo(conv *c)
{
    conv_decoder d;
    if (!conv_hf_decoder(c, &d, 0)) return;
    d.norm = "layer";
    d.norm_plain = 1;
    d.norm_eps = 1e-5;
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &arch_rope_keys, d.head_dim);
    d.qkv_bias = d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    if (conv_key(c, "clip_qkv")) d.clip_qkv = conv_positive(c, "clip_qkv", 0.0);
    conv_emit_decoder(c, &d);
}

/* ---- llama2.c ------------------------------------------------------------------------------------------ */
static CONV_UNUSED void arch_llama2c(conv *c, const conv_llama2c *h)
{
    static const char *const unused[] = { "freq_cis", NULL };
    conv_rope_spec s;
    conv_decoder d;
    memset(&d, 0, sizeof d);
    memset(&s, 0, sizeof s);
    c->ignored = unused;
    c->max_context = h->context;
    d.dim = h->dim; d.layers = h->layers; d.heads = h->heads; d.kv_heads = h->kv_heads; d.ffn = h->ffn;
    d.vocab = h->vocab;
    d.head_dim = conv_head_dim(c, d.dim, d.heads);
    d.tied = h->tied;
    d.weight_suffix = "";
    d.norm_eps = 1e-5;
    d.embed = "tok_embeddings"; d.final_norm = "norm"; d.head = "output"; d.layer_prefix = "layers.";
    d.attn_norm = "attention_norm"; d.ffn_norm = "ffn_norm";
    d.q = "wq"; d.k = "wk"; d.v = "wv"; d.o = "wo"; d.gate = "w1"; d.up = "w3"; d.down = "w2";
    if (!conv_decoder_defaults(c, &d)) return;
    s.type = "default";
    s.theta = 10000.0;
    s.dims = d.head_dim;
    d.ropes[0].name = "rope.freq";
    d.ropes[0].style = "interleaved";
    conv_rope_make(c, &d.ropes[0], &s, d.head_dim);
    conv_emit_decoder(c, &d);
}

/* ---- GGUF ---------------------------------------------------------------------------------------------- */
/* llama.cpp permutes q and k of llama so that pairs of neighbours rotate.                                  */
static void arch_gguf_llama(conv *c)
{
    conv_decoder d;
    if (!conv_gguf_decoder(c, &d)) return;
    conv_gguf_rope(c, &d.ropes[0], "rope.freq", "interleaved", d.head_dim);
    if (conv_gguf_number(c, "attention.sliding_window", 0.0) > 0.0)
        conv_set_window(&d, conv_gguf_size(c, "attention.sliding_window", 1));
    conv_emit_decoder(c, &d);
}

static void arch_gguf_qwen2(conv *c)
{
    conv_decoder d;
    if (!conv_gguf_decoder(c, &d)) return;
    conv_gguf_rope(c, &d.ropes[0], "rope.freq", "half", d.head_dim);
    conv_emit_decoder(c, &d);
}

static void arch_gguf_qwen3(conv *c)
{
    conv_decoder d;
    if (!conv_gguf_decoder(c, &d)) return;
    d.head_norm = CONV_HEAD_NORM_SHARED;
    d.q_norm = "attn_q_norm";
    d.k_norm = "attn_k_norm";
    conv_gguf_rope(c, &d.ropes[0], "rope.freq", "half", d.head_dim);
    conv_emit_decoder(c, &d);
}

/* Every fourth layer without positions is fixed in llama.cpp.                                              */
static void arch_gguf_smollm3(conv *c)
{
    conv_decoder d;
    if (!conv_gguf_decoder(c, &d)) return;
    conv_gguf_rope(c, &d.ropes[0], "rope.freq", "interleaved", d.head_dim);
    for (int32_t i = 3; i < d.layers; i += 4) d.layer_rope[i] = -1;
    conv_emit_decoder(c, &d);
}

#endif /* ARCH_LLAMA_H_INCLUDED */
