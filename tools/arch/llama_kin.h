/* arch/llama_kin.h: models that are Llama but for one idea: Apertus (xIELU), BitNet (norms before the output
   projections), Ministral 3 (queries that grow), DiffLlama (differences of attention), Doge (biases of keys).
                                                                                                            */
#ifndef ARCH_LLAMA_KIN_H_INCLUDED
#define ARCH_LLAMA_KIN_H_INCLUDED
#include "llama.h"

static const float *arch_filled(conv *c, int32_t n, double value)
{
    float *v = (float *)conv_alloc(c->env, (uint64_t)n, sizeof *v);
    for (int32_t i = 0; v && i < n; i++) v[i] = (float)value;
    return v;
}

/* The one number of a small tensor; otherwise: when there is none.                                         */
static double arch_scalar(conv *c, const char *name, double otherwise)
{
    const float *v = conv_has(c, name) ? conv_read(c, name, 1) : NULL;
    return v ? (double)*v : otherwise;
}

static double arch_softplus(double v) { return v > 0.0 ? v + log1p(exp(-v)) : log1p(exp(v)); }

/* xIELU: p x^2 + b x for x > 0, else n (e^x - 1 - x) + b x; as n elu1(x) + (b - n) x + p relu2(x) - n.     */
static void arch_put_xielu(conv *c, const conv_decoder *d, int32_t i, int src)
{
    const char *at = conv_layer_name(c, d, i, "mlp.act_fn.");
    const double b = arch_scalar(c, conv_format(c->env, "%sbeta", at), 0.5);
    const double p = arch_softplus(arch_scalar(c, conv_format(c->env, "%salpha_p", at), 0.0));
    const double n = b + arch_softplus(arch_scalar(c, conv_format(c->env, "%salpha_n", at), 0.0));
    arch_scalar(c, conv_format(c->env, "%seps", at), 0.0);                 /* -1e-6: for gradients          */
    conv_line(c, "act r6 r5 kind=relu2\nscale r6 r6 by=%s\nscale r7 r5 by=%s\nact r5 r5 kind=elu1",
              conv_real(c, p), conv_real(c, b - n));
    conv_line(c, "affine r5 r5 w=@%s b=@%s\nadd r5 r5 r7\nadd r5 r5 r6",
              conv_make_values(c, conv_out_name(c, i, "act_w"), arch_filled(c, d->ffn, n), d->ffn),
              conv_make_values(c, conv_out_name(c, i, "act_b"), arch_filled(c, d->ffn, -n), d->ffn));
    (void)src;
}

static void arch_apertus(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", "partial_rotary_factor", 12000000.0, 1.0 };
    conv_decoder d;
    if (!conv_hf_decoder_no_act(c, &d, 0)) return;
    if (!conv_key(c, "rope_parameters") && !conv_key(c, "rope_scaling"))
        conv_fail(c->env, "config.json: key \"rope_parameters\" is missing");
    d.norm_eps = conv_positive(c, "rms_norm_eps", 1e-5);
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    d.qkv_bias = d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    conv_only_bool(c, "mlp_bias", 0);
    conv_only_bool(c, "post_norm", 0);
    conv_only_bool(c, "qk_norm", 1);
    d.attn_norm = "attention_layernorm";
    d.ffn_norm = "feedforward_layernorm";
    d.head_norm = CONV_HEAD_NORM_SHARED;
    d.q_norm = "self_attn.q_norm";
    d.k_norm = "self_attn.k_norm";
    d.gate = NULL;
    if (strcmp(conv_word(c, "hidden_act", "xielu"), "xielu") == 0) d.put_act = arch_put_xielu;
    else d.act = conv_activation(c, "hidden_act", NULL);
    conv_emit_decoder(c, &d);
}

static void arch_bitnet(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", "partial_rotary_factor", 500000.0, 1.0 };
    conv_decoder d;
    if (conv_key(c, "quantization_config")) {
        conv_fail(c->env, "config.json: \"quantization_config\" of BitNet (packed ternary weights, quantised "
                  "activations) is not supported, float weights are");
        return;
    }
    if (!conv_hf_decoder(c, &d, 0)) return;
    if (!conv_key(c, "hidden_act")) d.act = "relu2";
    d.norm_eps = conv_positive(c, "rms_norm_eps", 1e-5);
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    d.qkv_bias = d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    d.o_norm = "self_attn.attn_sub_norm";
    d.down_norm = "mlp.ffn_sub_norm";
    conv_emit_decoder(c, &d);
}

/* Queries at position p are multiplied by 1 + beta log(1 + floor(p / original length)).                    */
static void arch_ministral3(conv *c)
{
    static const conv_rope_keys keys = { "rope_theta", "partial_rotary_factor", 1000000.0, 1.0 };
    const json_value *params = conv_key(c, conv_key(c, "rope_parameters") ? "rope_parameters"
                                        : "rope_scaling");
    const json_value *beta = json_get(params, "llama_4_scaling_beta");
    const json_value *every = json_get(params, "original_max_position_embeddings");
    conv_decoder d;
    if (!conv_hf_decoder(c, &d, 0)) return;
    if (!params) conv_fail(c->env, "config.json: key \"rope_parameters\" is missing");
    c->rope_extra = "llama_4_scaling_beta";
    d.norm_eps = conv_positive(c, "rms_norm_eps", 1e-5);
    conv_set_window(&d, arch_window(c, 0));
    conv_hf_rope(c, &d.ropes[0], "rope.freq", NULL, &keys, d.head_dim);
    d.q_grow = json_number(beta, 0.0);
    d.q_grow_every = (int32_t)json_int(every, -1);
    if (d.q_grow != 0.0 && (json_int(every, -1) < 1 || json_int(every, -1) > INT32_MAX ||
                            !(fabs(d.q_grow) < 1e6)))
        conv_fail(c->env, "config.json: \"llama_4_scaling_beta\" needs original_max_position_embeddings");
    conv_emit_decoder(c, &d);
}

/* ---- differences of attention -------------------------------------------------------------------------- */
/* Values of the first and second half of the key heads side by side, for half as many heads.               */
static const char *arch_diff_values(conv *c, const conv_decoder *d, int32_t i, const char *bias)
{
    const int32_t half = d->kv_heads / 2;
    const char *name = conv_layer_name(c, d, i, conv_format(c->env, "%s.%s", d->v, bias ? bias : "weight"));
    const conv_view all = conv_take(c, name, (int64_t)d->kv_heads * d->head_dim, bias ? 0 : d->dim);
    conv_view *parts = (conv_view *)conv_alloc(c->env, 2 * (uint64_t)half, sizeof *parts);
    for (int32_t g = 0; parts && g < 2 * half; g++)
        parts[g] = conv_rows(c, all, (int64_t)(g % 2 * half + g / 2) * d->head_dim, d->head_dim, d->head_dim,
                             d->head_dim);
    if (!parts) return "";
    return conv_stack(c, conv_out_name(c, i, bias ? "v.bias" : "v"), bias ? CONV_VECTOR : CONV_MATRIX, parts,
                      2 * half);
}

static double arch_diff_lambda(conv *c, const conv_decoder *d, int32_t i, const char *which)
{
    const char *q = conv_layer_name(c, d, i, conv_format(c->env, "self_attn.lambda_q%s", which));
    const char *k = conv_layer_name(c, d, i, conv_format(c->env, "self_attn.lambda_k%s", which));
    const float *a = conv_read(c, q, d->head_dim), *b = conv_read(c, k, d->head_dim);
    double sum = 0.0;
    for (int32_t j = 0; a && b && j < d->head_dim; j++) sum += (double)a[j] * (double)b[j];
    return exp(sum);
}

/* Both halves of the heads attend to the same values; from the first lambda times the second is taken.     */
static void arch_put_diff(conv *c, const conv_decoder *d, int32_t i, int src)
{
    const double start = 0.8 - 0.6 * exp(-0.3 * i);
    const double lambda = arch_diff_lambda(c, d, i, "1") - arch_diff_lambda(c, d, i, "2") + start;
    const int32_t width = d->heads / 2 * 2 * d->head_dim;
    conv_part parts[2];
    parts[0] = conv__q_part(c, d, i, 0);
    parts[1] = conv_part_of(c, d, conv_out_name(c, i, "k"), conv_layer_name(c, d, i, d->k),
                            (int64_t)d->kv_heads * d->head_dim, d->dim, d->qkv_bias);
    conv_put_linear(c, 2, src, parts, 2, 1.0, CONV_PRECISE);
    conv_put(c, "linear r4 r%d w=@%s", src, arch_diff_values(c, d, i, NULL));
    if (d->qkv_bias == CONV_BIAS) conv_put(c, " b=@%s", arch_diff_values(c, d, i, "bias"));
    conv_line(c, " precise=1");
    conv_put_rope(c, d, &d->ropes[0]);
    conv_line(c,
              "cat r7 r4 r4\ncat r8 r2 r7\nmix r9 r8 attention heads=%d kv_heads=%d head_dim=%d v_dim=%d "
              "scale=%s",
              d->heads, d->kv_heads, d->head_dim, 2 * d->head_dim, conv_real(c, d->layer_scale[i]));
    conv_line(c, "copy r3 r9 count=%d\ncopy r10 r9 first=%d\nscale r10 r10 by=%s\nadd r3 r3 r10", width,
              width,
              conv_real(c, -lambda));
    conv_line(c, "norm r3 r3 kind=rms groups=%d eps=%s\nscale r3 r3 by=%s", d->heads / 2, conv_real(c,
        d->norm_eps),
              conv_real(c, 1.0 - start));
}

static void arch_diffllama(conv *c)
{
    conv_decoder d;
    if (!arch_llama_base(c, &d, 0)) return;
    conv_key(c, "lambda_std_dev");                     /* of the initial weights                            */
    d.qkv_bias = d.o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    conv_only_bool(c, "mlp_bias", 0);
    if (d.kv_heads % 2 || d.heads % 2)
        conv_fail(c->env, "%d query and %d key heads do not divide into two halves", d.heads, d.kv_heads);
    d.put_mixer = arch_put_diff;
    conv_emit_decoder(c, &d);
}

/* ---- biases of keys ------------------------------------------------------------------------------------ */
/* A key's bias is exp(A softplus(dt(v))), one for each key head, from the values of all of them.           */
static void arch_put_doge(conv *c, const conv_decoder *d, int32_t i, int src)
{
    const int32_t kv = d->kv_heads * d->head_dim, keep = conv_size(c, "keep_window_size", 2048);
    const conv_part dt = conv_part_of(c, d, conv_out_name(c, i, "dt"), conv_layer_name(c, d, i,
        "self_attn.dt_proj"),
                                      d->kv_heads, kv, d->qkv_bias);
    conv_put_qkv(c, d, i, src);
    conv_put_head_norms(c, d, i);
    conv_put(c, "linear r4 r2 w=@%s first=%d", conv_make(c, dt.out, CONV_MATRIX, dt.weight),
             d->heads * d->head_dim + kv);
    if (dt.has_bias) conv_put(c, " b=@%s", conv_make(c, conv_format(c->env, "%s.bias", dt.out), CONV_VECTOR,
                                                     dt.bias));
    conv_line(c, " precise=1\nact r4 r4 kind=softplus\naffine r4 r4 w=@%s\nact r4 r4 kind=exp",
              conv_make(c, conv_out_name(c, i, "dt_rate"), CONV_VECTOR,
                        conv_take(c, conv_layer_name(c, d, i, "self_attn.A"), d->kv_heads, 0)));
    conv_put_rope(c, d, &d->ropes[0]);
    conv_put(c, "cat r7 r2 r4\nmix r3 r7 attention heads=%d kv_heads=%d head_dim=%d scale=%s key_bias=1",
             d->heads,
             d->kv_heads, d->head_dim, conv_real(c, d->layer_scale[i]));
    if (keep < c->max_context) conv_put(c, " most=%d", keep);
    if (d->layer_window[i]) conv_put(c, " window=%d", d->layer_window[i]);
    conv_line(c, "%s", "");
}

static void arch_doge(conv *c)
{
    static const char *const moe[] = { "num_experts", "num_experts_per_tok", "norm_topk_prob",
                                       "output_router_logits",
                                       "router_aux_loss_coef", NULL };
    conv_decoder d;
    if (!arch_llama_base(c, &d, 0)) return;
    arch_llama_biases(c, &d);
    conv_only_bool(c, "is_moe", 0);
    for (int k = 0; moe[k]; k++) conv_key(c, moe[k]);
    conv_set_window(&d, arch_window(c, 0));
    d.head_norm = CONV_HEAD_NORM_SHARED;
    d.q_norm = "self_attn.q_norm";
    d.k_norm = "self_attn.k_norm";
    d.attn_residual = "input_residual";
    d.ffn_residual = "post_attention_residual";
    d.put_mixer = arch_put_doge;
    conv_emit_decoder(c, &d);
}

#endif /* ARCH_LLAMA_KIN_H_INCLUDED */
