/* arch/gemma_nested.h: Gemma 3n and Gemma 4: inputs of their own for every layer, keys and values that later
   layers share; Gemma 3n also has several residual streams (AltUp), low-rank residuals (LAuReL) and
   activations that only the largest pass.

   Registers: r0 stream (Gemma 3n: streams side by side), r8 predictions of the streams, r9 the active one,
   r10 low-rank residual, r11 and r15 rows being put together, r12 inputs of all layers, r13 and r14 keys and
   values that layers without and with a window share.                                                     */
#ifndef ARCH_GEMMA_NESTED_H_INCLUDED
#define ARCH_GEMMA_NESTED_H_INCLUDED
#include "gemma.h"

typedef struct arch_nested {
    conv_decoder d;                   /* heads, sizes and ffn are those of the layer at hand                */
    const char  *prefix;              /* "model." or ""                                                     */
    int32_t      input_dim;           /* columns of a layer's input; 0: none                                */
    int32_t      shared_from;         /* first layer that reads keys and values of another                  */
    int32_t     *full;                /* [layers] 1: no window                                              */
    int32_t      kv_same;             /* values of full layers are their keys                               */
    int32_t      streams, active;     /* Gemma 3n                                                           */
} arch_nested;

/* The last layer before the shared ones with the same sight.                                               */
static int arch_nested_stores(const arch_nested *m, int32_t i)
{
    if (i >= m->shared_from || m->shared_from == m->d.layers) return 0;
    for (int32_t k = i + 1; k < m->shared_from; k++)
        if (m->full[k] == m->full[i]) return 0;
    return 1;
}

/* "layer_types", or each n-th layer without a window; each kind must stand before the shared layers.       */
static int arch_nested_layers(conv *c, arch_nested *m, int32_t n)
{
    const json_value *types = conv_key(c, "layer_types");
    const int32_t window = arch_window(c, 512);
    int32_t seen[2] = { 0, 0 }, needed[2] = { 0, 0 };
    m->full = (int32_t *)conv_alloc(c->env, (uint64_t)m->d.layers, sizeof *m->full);
    m->shared_from = m->d.layers - (int32_t)conv_int(c, "num_kv_shared_layers", 0, 0, m->d.layers - 1);
    if (!m->full || c->env->failed) return 0;
    for (int32_t i = 0; i < m->d.layers; i++) m->d.layer_window[i] = (i + 1) % n ? window : 0;
    if (types && !conv_hf_layer_types(c, &m->d, window, 0, 1)) return 0;
    for (int32_t i = 0; i < m->d.layers; i++) {
        m->full[i] = m->d.layer_window[i] == 0;
        m->d.layer_rope[i] = m->full[i] ? 0 : 1;
        (i < m->shared_from ? seen : needed)[m->full[i]] = 1;
    }
    for (int k = 0; k < 2; k++)
        if (needed[k] && !seen[k])
            return conv_fail(c->env, "config.json: \"num_kv_shared_layers\": no layer has the keys and "
                             "values that layers of its kind share");
    return 1;
}

static int arch_nested_base(conv *c, arch_nested *m, int32_t pattern)
{
    conv_decoder *d = &m->d;
    memset(m, 0, sizeof *m);
    m->prefix = conv_prefix(c, "model.", "embed_tokens.weight");
    if (!conv_hf_decoder(c, d, 1)) return 0;
    d->norm_eps = conv_positive(c, "rms_norm_eps", 1e-6);
    d->embed_scale = sqrt((double)d->dim);
    d->act = conv_activation(c, "hidden_activation", "gelu_pytorch_tanh");
    d->qkv_bias = d->o_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    d->head_norm = CONV_HEAD_NORM_SHARED;
    d->q_norm = "self_attn.q_norm";
    d->k_norm = "self_attn.k_norm";
    arch_gemma_sandwich(d);
    if (conv_key(c, "use_bidirectional_attention"))
        conv_fail(c->env, "config.json: \"use_bidirectional_attention\" is not supported");
    conv_key(c, "cache_implementation");
    m->input_dim = (int32_t)conv_int(c, "hidden_size_per_layer_input", 256, 0, 1 << 20);
    return arch_nested_layers(c, m, pattern);
}

/* r12 = (table[token] sqrt(n) + norm(rS W / sqrt(dim))) / sqrt(2), n columns for each layer. Tokens beyond
   the table use its first row.                                                                             */
static void arch_nested_inputs(conv *c, const arch_nested *m, int src)
{
    const conv_decoder *d = &m->d;
    const int32_t n = m->input_dim;
    const int64_t width = (int64_t)n * d->layers;
    int32_t rows = conv_size(c, "vocab_size_per_layer_input", d->vocab);
    const conv_view table = conv_take(c, conv_format(c->env, "%sembed_tokens_per_layer.weight", m->prefix),
                                      rows,
                                      width);
    const conv_part p = conv_part_of(c, d, "inputs", conv_format(c->env, "%sper_layer_model_projection",
                                                                 m->prefix),
                                     width, d->dim, CONV_NO_BIAS);
    conv_view parts[2];
    parts[0] = table;
    if (rows < d->vocab) parts[1] = conv_rows(c, table, 0, 1, 0, d->vocab - rows);
    conv_line(c, "embed r12 tokens w=@%s scale=%s", conv_stack(c, "embed_inputs", CONV_TABLE, parts,
                                                               rows < d->vocab ? 2 : 1),
              conv_real(c, sqrt((double)n)));
    conv_put_linear(c, 5, src, &p, 1, 1.0 / sqrt((double)d->dim), 0);
    conv_line(c, "norm r5 r5 kind=rms groups=%d eps=%s w=@%s\nadd r12 r12 r5\nscale r12 r12 by=%s", d->layers,
              conv_real(c, d->norm_eps),
              conv_make(c, "inputs_norm", CONV_VECTOR,
                        conv_take(c, conv_format(c->env, "%sper_layer_projection_norm.weight", m->prefix), n,
                                  0)),
              conv_real(c, sqrt(0.5)));
}

/* r1 = norm(W (act(G rS) * input of layer i))                                                              */
static void arch_nested_input(conv *c, const arch_nested *m, int32_t i, int src)
{
    const conv_decoder *d = &m->d;
    conv_part p = conv_part_of(c, d, conv_out_name(c, i, "input_gate"),
                               conv_layer_name(c, d, i, "per_layer_input_gate"), m->input_dim, d->dim,
                               CONV_NO_BIAS);
    conv_put_linear(c, 5, src, &p, 1, 1.0, 0);
    conv_line(c, "copy r6 r12 first=%d count=%d\ngate r6 r6 r5 act=%s", i * m->input_dim, m->input_dim,
              d->act);
    p = conv_part_of(c, d, conv_out_name(c, i, "input"), conv_layer_name(c, d, i, "per_layer_projection"),
                     d->dim,
                     m->input_dim, CONV_NO_BIAS);
    conv_put_linear(c, 1, 6, &p, 1, 1.0, 0);
    conv_put_norm(c, d, 1, 1, conv_out_name(c, i, "input_norm"),
                  conv_layer_name(c, d, i, "post_per_layer_input_norm"));
}

/* linear r2 rS: queries | keys | values; only queries on layers that share the others.                     */
static void arch_nested_qkv(conv *c, const arch_nested *m, int32_t i, int src)
{
    const conv_decoder *d = &m->d;
    const int same = m->kv_same && m->full[i];
    const int64_t kv = (int64_t)d->kv_heads * d->head_dim;
    conv_part parts[3];
    parts[0] = conv_part_of(c, d, conv_out_name(c, i, "q"), conv_layer_name(c, d, i, d->q),
                            (int64_t)d->heads * d->head_dim, d->dim, d->qkv_bias);
    if (i >= m->shared_from) { conv_put_linear(c, 2, src, parts, 1, 1.0, CONV_PRECISE); return; }
    parts[1] = conv_part_of(c, d, conv_out_name(c, i, "k"), conv_layer_name(c, d, i, d->k), kv, d->dim,
                            d->qkv_bias);
    if (!same)
        parts[2] = conv_part_of(c, d, conv_out_name(c, i, "v"), conv_layer_name(c, d, i, d->v), kv, d->dim,
                                d->qkv_bias);
    if (!same) { conv_put_linear(c, 2, src, parts, 3, 1.0, CONV_PRECISE); return; }
    conv_put_linear(c, 7, src, parts, 2, 1.0, CONV_PRECISE);
    conv_line(c, "copy r4 r7 first=%d\ncat r2 r7 r4", d->heads * d->head_dim);
}

/* From the normalised rows in rS to r3. Keys and values of other layers come from r13 or r14.              */
static void arch_nested_attention(conv *c, const arch_nested *m, int32_t i, int src)
{
    const conv_decoder *d = &m->d;
    const int32_t q = d->heads * d->head_dim, kv = d->kv_heads * d->head_dim, shared = i >= m->shared_from;
    const int rows = m->full[i] ? 13 : 14;
    conv_decoder turned = m->d;
    arch_nested_qkv(c, m, i, src);
    if (shared) {
        conv__head_norm(c, d, i, d->q_norm, 0, d->heads);
        turned.kv_heads = 0;                           /* of these none is to be turned                     */
    } else {
        conv_put_head_norms(c, d, i);
        conv_line(c, "norm r2 r2 kind=rms first=%d count=%d groups=%d eps=%s", q + kv, kv, d->kv_heads,
                  conv_real(c, d->norm_eps));
    }
    if (d->ropes[d->layer_rope[i]].dims) conv_put_rope(c, &turned, &d->ropes[d->layer_rope[i]]);
    if (arch_nested_stores(m, i)) conv_line(c, "copy r%d r2 first=%d", rows, q);
    if (shared) conv_line(c, "cat r7 r2 r%d", rows);
    conv_put(c, "mix r3 r%d attention heads=%d kv_heads=%d head_dim=%d scale=1", shared ? 7 : 2, d->heads,
             d->kv_heads, d->head_dim);
    if (d->layer_window[i]) conv_put(c, " window=%d", d->layer_window[i]);
    conv_line(c, "%s", "");
}

/* r1 = norm(W r3), or of r6: the end of a branch before it is added.                                       */
static void arch_nested_branch(conv *c, const arch_nested *m, int32_t i, int src, int ffn)
{
    const conv_decoder *d = &m->d;
    const conv_part p = conv_part_of(c, d, conv_out_name(c, i, ffn ? "down" : "o"),
                                     conv_layer_name(c, d, i, ffn ? d->down : d->o), d->dim,
                                     ffn ? d->ffn : (int64_t)d->heads * d->head_dim,
                                     ffn ? CONV_NO_BIAS : d->o_bias);
    conv_put_linear(c, 1, src, &p, 1, 1.0, 0);
    conv_put_norm(c, d, 1, 1, conv_out_name(c, i, ffn ? "ffn_post_norm" : "attn_post_norm"),
                  conv_layer_name(c, d, i, ffn ? d->ffn_post_norm : d->attn_post_norm));
}

/* ---- Gemma 4 ------------------------------------------------------------------------------------------- */
/* Heads of layer i: "per_layer_config", or the key of full layers in the first configurations.             */
static void arch_gemma4_heads(conv *c, arch_nested *m, int32_t i, const conv_decoder *usual)
{
    const json_value *all = conv_key(c, "per_layer_config");
    const json_value *mine = json_get(all, conv_format(c->env, "%d", i));
    int64_t size = usual->head_dim, kv = usual->kv_heads;
    if (!all && m->full[i]) {
        size = conv_int(c, "global_head_dim", 512, 1, 1 << 16);
        kv = m->kv_same ? conv_int(c, "num_global_key_value_heads", kv, 1, 1 << 16) : kv;
    }
    for (uint32_t k = 0; k < json_count(mine); k++) {
        const char *key = json_key_at(mine, k)->text;
        const int64_t v = json_int(json_at(mine, k), -1);
        if (strcmp(key, "head_dim") == 0) size = v;
        else if (strcmp(key, "num_key_value_heads") == 0) kv = v;
        else conv_fail(c->env, "config.json: \"per_layer_config\": \"%.60s\" is not known", key);
    }
    if (size < 1 || size > 1 << 16 || kv < 1 || kv > m->d.heads || m->d.heads % kv) {
        conv_fail(c->env, "config.json: heads of layer %d do not fit \"num_attention_heads\"", i);
        return;
    }
    m->d.head_dim = (int32_t)size;
    m->d.kv_heads = (int32_t)kv;
}

/* The rope of a kind of layers, with their width of heads.                                                 */
static void arch_gemma4_ropes(conv *c, arch_nested *m, const conv_decoder *usual)
{
    static const conv_rope_keys full = { "rope_theta", NULL, 1000000.0, 1.0 };
    static const conv_rope_keys sliding = { "rope_local_base_freq", NULL, 10000.0, 1.0 };
    int32_t size[2] = { 0, 0 };
    if (!conv_key(c, "rope_parameters"))
        conv_fail(c->env, "config.json: key \"rope_parameters\" is missing");
    for (int32_t i = 0; i < m->d.layers && !c->env->failed; i++) {
        int32_t *of = &size[m->full[i]];
        arch_gemma4_heads(c, m, i, usual);
        if (*of && *of != m->d.head_dim)
            conv_fail(c->env,
                      "config.json: \"per_layer_config\": head_dim differs between layers of one type");
        *of = m->d.head_dim;
    }
    if (size[1]) conv_hf_rope(c, &m->d.ropes[0], "rope.freq", "full_attention", &full, size[1]);
    if (size[0]) conv_hf_sliding_rope(c, &m->d.ropes[1], "rope.freq_sliding", &sliding, size[0]);
}

static void arch_gemma4_layer(conv *c, arch_nested *m, int32_t i)
{
    const conv_decoder *d = &m->d;
    const char *name = conv_layer_name(c, d, i, "layer_scalar");
    const float *by = conv_has(c, name) ? conv_read(c, name, 1) : NULL;
    int inner = 6;
    conv_put_norm(c, d, 1, 0, conv_out_name(c, i, "attn_norm"), conv_layer_name(c, d, i, d->attn_norm));
    arch_nested_attention(c, m, i, 1);
    arch_nested_branch(c, m, i, 3, 0);
    conv_line(c, "add r0 r0 r1");
    conv_put_norm(c, d, 1, 0, conv_out_name(c, i, "ffn_norm"), conv_layer_name(c, d, i, d->ffn_norm));
    conv_put_ffn(c, d, i, 1, &inner);
    arch_nested_branch(c, m, i, inner, 1);
    conv_line(c, "add r0 r0 r1");
    if (m->input_dim) {
        arch_nested_input(c, m, i, 0);
        conv_line(c, "add r0 r0 r1");
    }
    if (by && *by != 1.0f) conv_line(c, "scale r0 r0 by=%s", conv_real(c, (double)*by));
}

static const char *const arch_nested_unused[] = {      /* of layers that share keys and values              */
    "*.self_attn.k_proj.*", "*.self_attn.v_proj.*", "*.self_attn.k_norm.*", "*.self_attn.v_norm.*", NULL
};

static void arch_gemma4(conv *c)
{
    arch_nested m;
    conv_decoder usual;
    int32_t wide;
    if (!arch_nested_base(c, &m, 6)) return;
    if (m.shared_from < m.d.layers) c->ignored = arch_nested_unused;
    if (m.full[m.d.layers - 1] == 0) {                 /* the reference makes the last one full             */
        m.full[m.d.layers - 1] = 1;
        m.d.layer_window[m.d.layers - 1] = m.d.layer_rope[m.d.layers - 1] = 0;
    }
    conv_only_bool(c, "enable_moe_block", 0);
    conv_key(c, "num_experts"); conv_key(c, "top_k_experts"); conv_key(c, "moe_intermediate_size");
    conv_key(c, "global_head_dim"); conv_key(c, "num_global_key_value_heads");
    m.kv_same = conv_bool(c, "attention_k_eq_v", 0);
    wide = conv_bool(c, "use_double_wide_mlp", 0);
    m.d.head_softcap = conv_number(c, "final_logit_softcapping", 0.0);
    usual = m.d;
    arch_gemma4_ropes(c, &m, &usual);
    conv_put_embedding(c, &m.d);
    if (m.input_dim) arch_nested_inputs(c, &m, 0);
    else conv_key(c, "vocab_size_per_layer_input");
    for (int32_t i = 0; i < m.d.layers && !c->env->failed; i++) {
        conv_line(c, "# layer %d", i);
        arch_gemma4_heads(c, &m, i, &usual);
        m.d.ffn = usual.ffn * (wide && i >= m.shared_from ? 2 : 1);
        arch_gemma4_layer(c, &m, i);
    }
    conv_line(c, "# output");
    conv_put_norm(c, &m.d, 0, 0, "norm", m.d.final_norm);
    conv_put_head(c, &m.d);
}

/* ---- Gemma 3n ------------------------------------------------------------------------------------------ */
/* rD = factors of the streams: W tanh(R norm(rS) / dim), over r1                                           */
static void arch_altup_factors(conv *c, const arch_nested *m, int32_t i, int dst, int src, int predict)
{
    const conv_decoder *d = &m->d;
    const int32_t n = m->streams;
    const char *norm = conv_out_name(c, i, "altup_norm"), *router = conv_out_name(c, i, "altup_router");
    conv_part p;
    if (predict) {
        conv_put_norm(c, d, 1, src, norm, conv_layer_name(c, d, i, "altup.router_norm"));
        p = conv_part_of(c, d, router, conv_layer_name(c, d, i, "altup.modality_router"), n, d->dim,
                         CONV_NO_BIAS);
        conv_put_linear(c, 7, 1, &p, 1, 1.0 / d->dim, CONV_PRECISE);
    } else {                                           /* the same weights as in the prediction             */
        conv_line(c, "norm r1 r%d kind=rms w=@%s eps=%s\nlinear r7 r1 w=@%s scale=%s precise=1", src, norm,
                  conv_real(c, d->norm_eps), router, conv_real(c, 1.0 / d->dim));
    }
    conv_line(c, "act r7 r7 kind=tanh");
    p = conv_part_of(c, d, conv_out_name(c, i, predict ? "altup_predict" : "altup_correct"),
                     conv_layer_name(c, d, i, predict ? "altup.prediction_coefs" : "altup.correction_coefs"),
                     predict ? n * n : n, n, CONV_NO_BIAS);
    conv_put_linear(c, dst, 7, &p, 1, 1.0, CONV_PRECISE);
}

/* r8 = r0 + each stream's sum over the streams of r0 with the factors in r4                                */
static void arch_altup_predict(conv *c, const arch_nested *m, int32_t i)
{
    const int32_t n = m->streams, dim = m->d.dim;
    int at = 11;
    conv_line(c, "copy r5 r0 first=%d count=%d", m->active * dim, dim);
    arch_altup_factors(c, m, i, 4, 5, 1);
    for (int32_t j = 0; j < n; j++) {
        conv_line(c, "copy r7 r4 first=%d count=%d\nmul r8 r0 r7\ncopy r9 r8 first=0 count=%d", j * n, n,
                  dim);
        for (int32_t k = 1; k < n; k++) conv_line(c, "copy r10 r8 first=%d count=%d\nadd r9 r9 r10", k * dim,
                                                  dim);
        if (j == 0) { conv_line(c, "copy r11 r9"); continue; }
        conv_line(c, "cat r%d r%d r9", 26 - at, at);   /* r11 and r15 by turns                              */
        at = 26 - at;
    }
    conv_line(c, "add r8 r0 r%d", at);
}

/* n copies of rS side by side, the first of them zero if wanted; returns the register.                     */
static int arch_altup_copies(conv *c, int src, int32_t n, int first_zero)
{
    int at = 11;
    conv_line(c, first_zero ? "clip r11 r%d low=0 high=0" : "copy r11 r%d", src);
    for (int32_t k = 1; k < n; k++) {
        conv_line(c, "cat r%d r%d r%d", 26 - at, at, src);
        at = 26 - at;
    }
    return at;
}

/* r0 = r8 + (r9 - active stream of r8) times 1 + factors from r9                                           */
static void arch_altup_correct(conv *c, const arch_nested *m, int32_t i)
{
    const int32_t n = m->streams, dim = m->d.dim;
    float *ones = (float *)conv_alloc(c->env, (uint64_t)n, sizeof *ones);
    int at;
    for (int32_t k = 0; ones && k < n; k++) ones[k] = 1.0f;
    arch_altup_factors(c, m, i, 4, 9, 0);
    if (!conv_made(c, "altup_ones")) conv_make_values(c, "altup_ones", ones, n);
    conv_line(c, "affine r4 r4 b=@altup_ones\ncopy r1 r8 first=%d count=%d\nscale r1 r1 by=-1\nadd r1 r1 r9",
              m->active * dim, dim);
    at = arch_altup_copies(c, 1, n, 0);
    conv_line(c, "mul r%d r%d r4\nadd r0 r8 r%d", at, at, at);
}

/* z with P(normal < z) = p                                                                                 */
static double arch_normal_quantile(double p)
{
    double low = -40.0, high = 40.0;
    for (int k = 0; k < 200; k++) {
        const double z = 0.5 * (low + high);
        if (0.5 * erfc(-z / sqrt(2.0)) < p) low = z;
        else high = z;
    }
    return 0.5 * (low + high);
}

/* r6 = act(relu(gate - mean - z deviation)) * up: only the share above z of a normal distribution passes.  */
static void arch_sparse_ffn(conv *c, const conv_decoder *d, int32_t i, double sparsity)
{
    conv_part p = conv_part_of(c, d, conv_out_name(c, i, "gate"), conv_layer_name(c, d, i, d->gate), d->ffn,
                               d->dim,
                               CONV_NO_BIAS);
    conv_put_linear(c, 5, 1, &p, 1, 1.0, 0);
    conv_line(c, "reduce r7 r5 kind=mean\nscale r7 r7 by=-1\nadd r5 r5 r7\nmul r6 r5 r5");
    conv_line(c, "reduce r7 r6 kind=mean\nact r7 r7 kind=sqrt");
    conv_line(c, "scale r7 r7 by=%s\nadd r5 r5 r7\nact r5 r5 kind=relu",
              conv_real(c, -arch_normal_quantile((double)(float)sparsity)));
    p = conv_part_of(c, d, conv_out_name(c, i, "up"), conv_layer_name(c, d, i, d->up), d->ffn, d->dim,
                     CONV_NO_BIAS);
    conv_put_linear(c, 6, 1, &p, 1, 1.0, 0);
    conv_line(c, "gate r6 r6 r5 act=%s", d->act);
}

/* Item i of a key that is a list, one number for all layers, or absent.                                    */
static double arch_layer_number(conv *c, const char *key, int32_t i, int32_t layers, double otherwise)
{
    const json_value *v = conv_key(c, key);
    double n = otherwise;
    if (json_is(v, JSON_NUMBER)) n = json_number(v, otherwise);
    else if (v && json_count(v) != (uint32_t)layers)
        conv_fail(c->env, "config.json: \"%s\" is not a list of %d numbers", key, layers);
    else if (v) n = json_number(json_at(v, (uint32_t)i), -1.0);
    return n;
}

static void arch_gemma3n_layer(conv *c, arch_nested *m, int32_t i)
{
    const conv_decoder *d = &m->d;
    const int32_t rank = conv_size(c, "laurel_rank", 64);
    const double sparsity = arch_layer_number(c, "activation_sparsity_pattern", i, d->layers,
                                              d->layers > 10 && i < 10 ? 0.95 : 0.0);
    conv_part p;
    int inner = 6;
    if (!(sparsity >= 0.0 && sparsity < 1.0))
        conv_fail(c->env, "config.json: \"activation_sparsity_pattern\" is not between 0 and 1");
    arch_altup_predict(c, m, i);
    conv_line(c, "copy r9 r8 first=%d count=%d", m->active * d->dim, d->dim);
    conv_put_norm(c, d, 1, 9, conv_out_name(c, i, "attn_norm"), conv_layer_name(c, d, i, d->attn_norm));
    p = conv_part_of(c, d, conv_out_name(c, i, "laurel_left"), conv_layer_name(c, d, i,
                                                                               "laurel.linear_left"), rank,
                     d->dim, CONV_NO_BIAS);
    conv_put_linear(c, 7, 1, &p, 1, 1.0, 0);
    p = conv_part_of(c, d, conv_out_name(c, i, "laurel_right"), conv_layer_name(c, d, i,
                                                                                "laurel.linear_right"),
                     d->dim, rank, CONV_NO_BIAS);
    conv_put_linear(c, 10, 7, &p, 1, 1.0, 0);
    conv_put_norm(c, d, 10, 10, conv_out_name(c, i, "laurel_norm"),
                  conv_layer_name(c, d, i, "laurel.post_laurel_norm"));
    conv_line(c, "add r10 r10 r1");
    arch_nested_attention(c, m, i, 1);
    arch_nested_branch(c, m, i, 3, 0);
    conv_line(c, "add r9 r9 r1\nadd r9 r9 r10\nscale r9 r9 by=%s", conv_real(c, sqrt(0.5)));
    conv_put_norm(c, d, 1, 9, conv_out_name(c, i, "ffn_norm"), conv_layer_name(c, d, i, d->ffn_norm));
    if (sparsity > 0.0) arch_sparse_ffn(c, d, i, sparsity);
    else conv_put_ffn(c, d, i, 1, &inner);
    arch_nested_branch(c, m, i, inner, 1);
    conv_line(c, "add r9 r9 r1");
    arch_altup_correct(c, m, i);
}

/* The layer's own input goes to all streams but the first.                                                 */
static void arch_gemma3n_input(conv *c, const arch_nested *m, int32_t i, int scaled)
{
    const conv_decoder *d = &m->d;
    const char *scale = conv_layer_name(c, d, i, "altup.correct_output_scale");
    const conv_view w = conv_take(c, scale, d->dim, 0);
    conv_line(c, "copy r1 r0 first=%d count=%d", m->active * d->dim, d->dim);
    if (scaled) conv_line(c, "affine r1 r1 w=@%s", conv_make(c, conv_out_name(c, i, "altup_scale"),
                                                             CONV_VECTOR, w));
    arch_nested_input(c, m, i, 1);
    conv_line(c, "add r0 r0 r%d", arch_altup_copies(c, 1, m->streams, 1));
}

/* r2 = W rS with the magnitude in r7 [1]: root of the mean square                                          */
static void arch_altup_map(conv *c, const arch_nested *m, int src, const char *which, int32_t k)
{
    const conv_part p = conv_part_of(c, &m->d, conv_format(c->env, "%s%d", which, k),
                                     conv_format(c->env, "%saltup_%sprojections.%d", m->prefix, which, k - 1),
                                     m->d.dim, m->d.dim, CONV_NO_BIAS);
    conv_put_linear(c, 2, src, &p, 1, 1.0, 0);
    conv_line(c, "mul r4 r2 r2\nreduce r6 r4 kind=mean\nclip r6 r6 low=1e-05\nact r6 r6 kind=log\n"
              "scale r6 r6 by=-0.5\nact r6 r6 kind=exp\nmul r6 r6 r7\nmul r2 r2 r6");
}

static void arch_gemma3n_streams(conv *c, const arch_nested *m, int open)
{
    const int32_t dim = m->d.dim;
    int at = 11;
    conv_line(c, "copy r1 r0 first=0 count=%d\nmul r4 r1 r1\nreduce r7 r4 kind=mean\nact r7 r7 kind=sqrt",
              dim);
    conv_line(c, "copy r11 r1");
    for (int32_t k = 1; k < m->streams; k++) {
        if (!open) conv_line(c, "copy r1 r0 first=%d count=%d", k * dim, dim);
        arch_altup_map(c, m, 1, open ? "" : "unembed_", k);
        if (!open) { conv_line(c, "add r11 r11 r2"); continue; }
        conv_line(c, "cat r%d r%d r2", 26 - at, at);
        at = 26 - at;
    }
    conv_line(c, "copy r0 r%d", at);
    if (!open) conv_line(c, "scale r0 r0 by=%s", conv_real(c, 1.0 / m->streams));
}

static void arch_gemma3n(conv *c)
{
    static const conv_rope_keys full = { "rope_theta", NULL, 1000000.0, 1.0 };
    static const conv_rope_keys sliding = { "rope_local_base_freq", NULL, 10000.0, 1.0 };
    const int scaled = conv_bool(c, "altup_correct_scale", 1);
    arch_nested m;
    if (!arch_nested_base(c, &m, 5)) return;
    if (m.shared_from < m.d.layers) c->ignored = arch_nested_unused;
    if (!m.input_dim) conv_fail(c->env, "config.json: \"hidden_size_per_layer_input\" must not be 0");
    conv_key(c, "altup_coef_clip");                    /* of the training                                   */
    m.streams = conv_size(c, "altup_num_inputs", 4);
    m.active = (int32_t)conv_int(c, "altup_active_idx", 0, 0, m.streams - 1);
    m.d.head_softcap = conv_key_given(c, "final_logit_softcapping") ? conv_number(c,
        "final_logit_softcapping", 0.0)
        : 30.0;
    conv_hf_rope(c, &m.d.ropes[0], "rope.freq", "full_attention", &full, m.d.head_dim);
    conv_hf_sliding_rope(c, &m.d.ropes[1], "rope.freq_sliding", &sliding, m.d.head_dim);
    conv_put_embedding(c, &m.d);
    arch_nested_inputs(c, &m, 0);
    arch_gemma3n_streams(c, &m, 1);
    for (int32_t i = 0; i < m.d.layers && !c->env->failed; i++) {
        conv_line(c, "# layer %d", i);
        m.d.ffn = (int32_t)arch_layer_number(c, "intermediate_size", i, m.d.layers, 16384.0);
        if (m.d.ffn < 1) conv_fail(c->env, "config.json: \"intermediate_size\" of layer %d is wrong", i);
        arch_gemma3n_layer(c, &m, i);
        arch_gemma3n_input(c, &m, i, scaled);
    }
    conv_line(c, "# output");
    arch_gemma3n_streams(c, &m, 0);
    conv_put_norm(c, &m.d, 0, 0, "norm", m.d.final_norm);
    conv_put_head(c, &m.d);
}

#endif /* ARCH_GEMMA_NESTED_H_INCLUDED */
