/* arch/deepseek_v4.h: DeepSeek-V4. The residual stream is `streams` rows side by side in r0, mixed by small
   matrices that come from themselves (hyper-connections); attention reads a window of keys, which are values
   too, and entries into which blocks of tokens were compressed; experts come from a router or, in the first
   layers, from a table by token.
   Names of tensors: those of the published files, or those of transformers' classes.                       */
#ifndef ARCH_DEEPSEEK_V4_H_INCLUDED
#define ARCH_DEEPSEEK_V4_H_INCLUDED
#include "deepseek_sparse.h"

typedef enum arch_v4_kind { ARCH_V4_WINDOW, ARCH_V4_SPARSE, ARCH_V4_HEAVY } arch_v4_kind;

typedef struct arch_v4 {
    conv_decoder d;
    conv_moe     moe;
    conv_rope    near, far;           /* of layers with a window alone, and of those with entries           */
    arch_index   index;
    int32_t      streams, rounds;     /* rounds: of Sinkhorn's iteration                                    */
    int32_t      q_rank, rotated, window, o_groups, o_rank;
    int32_t      rates[3];            /* tokens of an entry, by kind                                        */
    int32_t     *kinds;               /* [layers]                                                           */
    uint8_t     *by_token;            /* [layers]: experts by token                                         */
    double       stream_eps, limit;
    const char  *score;               /* of the router                                                      */
} arch_v4;

/* ---- configuration ------------------------------------------------------------------------------------- */
/* Kind of layer i: "layer_types", or "compress_ratios" of the published files, or the usual order          */
static arch_v4_kind arch_v4_kind_of(conv *c, const arch_v4 *k, int32_t i)
{
    static const char *const names[3] = { "sliding_attention", "compressed_sparse_attention",
                                          "heavily_compressed_attention" };
    const json_value *types = conv_key(c, "layer_types"), *ratios = conv_key(c, "compress_ratios");
    const json_value *list = types ? types : ratios;
    const int64_t ratio = json_int(json_at(ratios, (uint32_t)i), -1);
    const char *type = json_text(json_at(types, (uint32_t)i), "");
    if (!list) return i < 2 || i % 2 ? ARCH_V4_HEAVY : ARCH_V4_SPARSE;
    if (json_count(list) < (uint32_t)k->d.layers) {
        conv_fail(c->env, "config.json: \"%s\" has %u items for %d layers",
                  types ? "layer_types" : "compress_ratios", json_count(list), k->d.layers);
        return ARCH_V4_WINDOW;
    }
    for (int32_t kind = 0; kind < 3; kind++) {
        static const int64_t of[3] = { 0, 4, 128 };
        if (types ? strcmp(type, names[kind]) == 0 : ratio == of[kind]) return (arch_v4_kind)kind;
    }
    conv_fail(c->env, "config.json: attention of layer %d is not known", i);
    return ARCH_V4_WINDOW;
}

static int arch_v4_is_by_token(conv *c, const arch_v4 *k, int32_t i)
{
    const json_value *types = conv_key(c, "mlp_layer_types");
    const int64_t first = conv_int(c, "num_hash_layers", 3, 0, 1 << 20);
    const char *type = json_text(json_at(types, (uint32_t)i), "");
    if (!types) return i < first;
    if (json_count(types) < (uint32_t)k->d.layers)
        conv_fail(c->env, "config.json: \"mlp_layer_types\" has %u items for %d layers", json_count(types),
                  k->d.layers);
    else if (strcmp(type, "hash_moe") && strcmp(type, "moe"))
        conv_fail(c->env, "config.json: \"mlp_layer_types\": \"%.40s\" is not known", type);
    return strcmp(type, "hash_moe") == 0;
}

/* Tokens of an entry: "compress_rates" { kind: rate }, or a key of its own                                 */
static int32_t arch_v4_rate(conv *c, const char *kind, const char *old_key, int64_t usual)
{
    const json_value *rates = conv_key(c, "compress_rates");
    const int64_t n = json_int(json_get(rates, kind), usual);
    const int32_t rate = conv_size(c, old_key, n);
    if (rate >= 1 && rate <= 1 << 16) return rate;
    conv_fail(c->env, "config.json: \"compress_rates\": \"%s\" is not from 1 to 65536", kind);
    return 1;
}

/* Ropes: two sets by name, or in published files one, scaled for layers with entries alone and without a
   factor of its own.                                                                                       */
static void arch_v4_ropes(conv *c, arch_v4 *k, double partial)
{
    static const conv_rope_keys near = { "rope_theta", NULL, 10000.0, 1.0 };
    static const conv_rope_keys far = { "compress_rope_theta", NULL, 160000.0, 1.0 };
    const double theta = conv_number(c, "rope_theta", 0.0), far_theta = conv_number(c, far.theta_key, 0.0);
    const double original = conv_number(c, "original_max_position_embeddings", 0.0);
    const json_value *params = conv_key(c, "rope_parameters"), *old = conv_key(c, "rope_scaling");
    const json_value *sets[2] = { json_get(params, "main"), json_get(params, "compress") };
    const int32_t n = k->d.head_dim;
    const double length = c->max_context;
    if (!params) params = old;
    k->near.name = "rope.freq";
    k->far.name = "rope.freq_entries";
    k->near.style = k->far.style = "interleaved";
    if (json_is(sets[0], JSON_OBJECT) && json_is(sets[1], JSON_OBJECT)) {
        conv_hf_rope_read(c, &k->near, sets[0], &near, theta, partial, n, length, original);
        conv_hf_rope_read(c, &k->far, sets[1], &far, far_theta, partial, n, length, original);
    } else {
        if (json_get(params, "rope_theta") || json_get(params, "partial_rotary_factor"))
            conv_fail(c->env, "config.json: rope parameters without sets \"main\" and \"compress\" may not "
                      "have \"rope_theta\" or \"partial_rotary_factor\"");
        conv_hf_rope_read(c, &k->near, NULL, &near, theta, partial, n, length, 0.0);
        conv_hf_rope_read(c, &k->far, params, &far, far_theta, partial, n, length, original);
        if (!json_get(params, "attention_factor")) k->far.attn_factor = 1.0;
    }
    k->rotated = k->near.dims;
    if (!c->env->failed && (k->far.dims != k->rotated || k->near.freq_long || k->far.freq_long ||
                            k->near.ntk_length || k->far.ntk_length))
        conv_fail(c->env, "config.json: rope parameters of other widths, or that depend on the length, are "
                  "not supported");
}

static void arch_v4_experts(conv *c, arch_v4 *k)
{
    conv_moe *x = &k->moe;
    x->dim = k->d.dim;
    x->experts = conv_size(c, "n_routed_experts", 256);
    x->k = conv_size(c, "num_experts_per_tok", 6);
    x->inner = conv_size(c, "moe_intermediate_size", 2048);
    x->act = k->d.act;
    x->renorm = 1;
    x->eps = 1e-20;
    x->scale = conv_number(c, "routed_scaling_factor", 1.5);
    x->limit = k->limit = conv_positive(c, "swiglu_limit", 10.0);
    k->score = conv_word(c, "scoring_func", "sqrtsoftplus");
    x->score = strcmp(k->score, "sqrtsoftplus") == 0 ? "none" : k->score;
    if (strcmp(x->score, "none") && strcmp(x->score, "sigmoid"))
        conv_fail(c->env, "config.json: \"scoring_func\": \"%.40s\" is not known", k->score);
    if (conv_size(c, "n_shared_experts", 1) != 1)
        conv_fail(c->env, "config.json: \"n_shared_experts\" other than 1 is not supported");
    if (strcmp(conv_word(c, "topk_method", "noaux_tc"), "noaux_tc") != 0)
        conv_fail(c->env, "config.json: \"topk_method\" other than noaux_tc is not supported");
    conv_only_bool(c, "norm_topk_prob", 1);
}

static void arch_v4_attention_sizes(conv *c, arch_v4 *k)
{
    const conv_decoder *d = &k->d;
    const int32_t rotated = (int32_t)conv_int(c, "qk_rope_head_dim", 0, 0, d->head_dim);
    double partial = conv_number(c, "partial_rotary_factor", 0.0);
    if (partial == 0.0) partial = rotated ? rotated / (double)d->head_dim : 0.125;
    k->q_rank = conv_size(c, "q_lora_rank", 1024);
    k->window = conv_size(c, "sliding_window", 128);
    k->o_groups = conv_size(c, "o_groups", 8);
    k->o_rank = conv_size(c, "o_lora_rank", 1024);
    k->rates[ARCH_V4_SPARSE] = arch_v4_rate(c, "compressed_sparse_attention", "compress_rate_csa", 4);
    k->rates[ARCH_V4_HEAVY] = arch_v4_rate(c, "heavily_compressed_attention", "compress_rate_hca", 128);
    k->index.heads = conv_size(c, "index_n_heads", 64);
    k->index.head_dim = conv_size(c, "index_head_dim", 128);
    k->index.k = conv_size(c, "index_topk", 512);
    if (k->index.k > c->max_context / k->rates[ARCH_V4_SPARSE] + 1)
        k->index.k = c->max_context / k->rates[ARCH_V4_SPARSE] + 1;
    if (k->index.k > 1 << 20)
        conv_fail(c->env, "config.json: \"index_topk\" greater than 2^20 is not supported");
    arch_v4_ropes(c, k, partial);
    if (c->env->failed) return;
    if (rotated && rotated != k->rotated)
        conv_fail(c->env, "config.json: \"qk_rope_head_dim\" is not what \"partial_rotary_factor\" leaves");
    if (k->rotated > k->index.head_dim)
        conv_fail(c->env, "config.json: \"index_head_dim\" is smaller than the %d channels that turn",
                  k->rotated);
    if (d->heads * d->head_dim % k->o_groups)
        conv_fail(c->env, "config.json: %d columns do not divide into \"o_groups\"", d->heads * d->head_dim);
    if (conv_size(c, "num_key_value_heads", 1) != 1)
        conv_fail(c->env, "config.json: \"num_key_value_heads\" other than 1 is not supported");
}

/* The name that the checkpoint has                                                                         */
static const char *arch_v4_either(conv *c, const char *a, const char *b)
{
    return conv_has(c, conv_format(c->env, "%s.weight", a)) ? a : b;
}

static int arch_v4_sizes(conv *c, arch_v4 *k)
{
    static const char *const mtp[] = { "mtp.*", "model.mtp.*", NULL };
    const char *prefix = conv_has(c, "norm.weight") ? "" : "model.";
    conv_decoder *d = &k->d;
    memset(k, 0, sizeof *k);
    arch_ssm_decoder(c, d, NULL, conv_format(c->env, "%snorm", prefix),
                     conv_format(c->env, "%slayers.", prefix));
    d->embed = arch_v4_either(c, conv_format(c->env, "%sembed", prefix),
                              conv_format(c->env, "%sembed_tokens", prefix));
    d->head = arch_v4_either(c, "head", "lm_head");
    d->dim = conv_size(c, "hidden_size", CONV_REQUIRED);
    d->layers = conv_size(c, "num_hidden_layers", CONV_REQUIRED);
    d->vocab = conv_size(c, "vocab_size", CONV_REQUIRED);
    d->heads = d->kv_heads = conv_size(c, "num_attention_heads", CONV_REQUIRED);
    d->head_dim = conv_size(c, "head_dim", 512);
    d->tied = conv_bool(c, "tie_word_embeddings", 0);
    d->norm_eps = conv_positive(c, "rms_norm_eps", 1e-6);
    d->act = conv_activation(c, "hidden_act", "silu");
    c->max_context = conv_size(c, "max_position_embeddings", CONV_REQUIRED);
    c->ignored = mtp;
    conv_int(c, "num_nextn_predict_layers", 0, 0, 64);
    conv_only_bool(c, "attention_bias", 0);
    conv_only_bool(c, "mlp_bias", 0);
    conv_key(c, "output_router_logits");
    arch_deepseek_unused_keys(c);
    k->streams = (int32_t)conv_int(c, "hc_mult", 4, 1, 64);
    k->rounds = (int32_t)conv_int(c, "hc_sinkhorn_iters", 20, 1, 4096);
    k->stream_eps = conv_number(c, "hc_eps", 1e-6);
    if (!conv_decoder_defaults(c, d)) return 0;
    arch_v4_attention_sizes(c, k);
    arch_v4_experts(c, k);
    k->kinds = (int32_t *)conv_alloc(c->env, (uint64_t)d->layers, sizeof *k->kinds);
    k->by_token = (uint8_t *)conv_alloc(c->env, (uint64_t)d->layers, 1);
    for (int32_t i = 0; k->kinds && k->by_token && i < d->layers && !c->env->failed; i++) {
        k->kinds[i] = (int32_t)arch_v4_kind_of(c, k, i);
        k->by_token[i] = (uint8_t)arch_v4_is_by_token(c, k, i);
    }
    return !c->env->failed;
}

/* ---- parts --------------------------------------------------------------------------------------------- */
/* A tensor of layer i: its name in published files, or in transformers' classes                            */
static const char *arch_v4_name(conv *c, const arch_v4 *k, int32_t i, const char *published, const char *own)
{
    const char *name = conv_layer_name(c, &k->d, i, published);
    return conv_has(c, name) ? name : conv_layer_name(c, &k->d, i, own);
}

/* linear rD rS with one weight or two side by side; flags as in conv_put_linear                            */
static void arch_v4_linear(conv *c, int dst, int src, const char *out, const char *const *names, int32_t n,
                           int64_t rows, int64_t cols, double scale, int flags)
{
    static const char *const ends[2] = { "", "_gate" };
    conv_part parts[2];
    memset(parts, 0, sizeof parts);
    for (int32_t i = 0; i < n; i++) {
        parts[i].out = conv_format(c->env, "%s%s", out, ends[i]);
        parts[i].weight = conv_take(c, names[i], rows, cols);
    }
    conv_put_linear(c, dst, src, parts, n, scale, flags);
}

static void arch_v4_norm(conv *c, const arch_v4 *k, int reg, const char *out, const char *name, int32_t n)
{
    conv_line(c, "norm r%d r%d kind=rms eps=%s w=@%s", reg, reg, conv_real(c, k->d.norm_eps),
              conv_make(c, out, CONV_VECTOR, conv_take(c, name, n, 0)));
}

/* rope over the last channels of heads; every > 1: rows stand for blocks of so many tokens                 */
static void arch_v4_rope(conv *c, const arch_v4 *k, const conv_rope *r, int reg, int32_t heads,
                         int32_t head_dim, int32_t every, int back)
{
    const char *name = r->name;
    const int32_t half = r->dims / 2;
    if (c->env->failed) return;
    if (back || every > 1) name = conv_format(c->env, back ? "%s.back" : "%s.%d", r->name, every);
    if (!conv_made(c, name)) {
        float *freq = (float *)conv_alloc(c->env, (uint64_t)half, sizeof *freq);
        for (int32_t i = 0; freq && i < half; i++)
            freq[i] = (back ? -r->freq[i] : r->freq[i]) * (float)(every > 1 ? every : 1);
        if (freq) conv_make_values(c, name, freq, half);
    }
    conv_put(c, "rope r%d r%d first=%d heads=%d head_dim=%d dims=%d style=interleaved freq=@%s", reg, reg,
             head_dim - k->rotated, heads, head_dim, k->rotated, name);
    if (every > 1) conv_put(c, " divide=%d", every);
    conv_put_real(c, "attn_factor", r->attn_factor, 1.0);
    conv_line(c, "%s", "");
}

/* ---- streams ------------------------------------------------------------------------------------------- */
/* A vector of `n` numbers: three runs of lengths `runs` that hold `values`                                 */
static const char *arch_v4_runs(conv *c, const char *out, const int32_t runs[3], const float values[3])
{
    const int32_t n = runs[0] + runs[1] + runs[2];
    float *v = (float *)conv_alloc(c->env, (uint64_t)n, sizeof *v);
    int32_t at = 0;
    if (conv_made(c, out)) return out;
    for (int32_t r = 0; v && r < 3; r++)
        for (int32_t i = 0; i < runs[r]; i++) v[at++] = values[r];
    return v ? conv_make_values(c, out, v, n) : out;
}

/* r2: weights that gather the streams of r0, [streams], and with `all` those that spread a branch's result
   over them, [streams], and that mix them, [streams, streams]. r3: the streams gathered.                   */
static void arch_v4_gather(conv *c, const arch_v4 *k, const char *out, const char *const names[3], int all)
{
    const int32_t n = k->streams, runs[3] = { n, all ? n : 0, all ? n * n : 0 };
    const int32_t rows = runs[0] + runs[1] + runs[2];
    const float eps = (float)k->stream_eps, ones[3] = { 1.0f, 2.0f, 1.0f };
    float scales[3] = { 0.0f, 0.0f, 0.0f }, epses[3];
    const float *scale = conv_read(c, names[2], all ? 3 : 1);
    if (!scale) return;
    epses[0] = epses[2] = eps;
    epses[1] = 0.0f;
    memcpy(scales, scale, (all ? 3u : 1u) * sizeof *scales);
    conv_line(c, "norm r12 r0 kind=rms eps=%s", conv_real(c, k->d.norm_eps));
    conv_line(c, "linear r2 r12 w=@%s precise=1",
              conv_make(c, out, CONV_ROUTER, conv_take(c, names[0], rows, (int64_t)n * k->d.dim)));
    conv_line(c, "affine r2 r2 w=@%s b=@%s",
              arch_v4_runs(c, conv_format(c->env, "%s.scale", out), runs, scales),
              conv_make(c, conv_format(c->env, "%s.base", out), CONV_VECTOR,
                        conv_take(c, names[1], rows, 0)));
    conv_line(c, "act r2 r2 kind=sigmoid first=0 count=%d", runs[0] + runs[1]);
    if (all) conv_line(c, "softmax r2 r2 first=%d count=%d groups=%d", 2 * n, n * n, n);
    conv_line(c, "affine r2 r2 w=@%s b=@%s",
              arch_v4_runs(c, all ? "streams.gain" : "streams.gain_end", runs, ones),
              arch_v4_runs(c, all ? "streams.eps" : "streams.eps_end", runs, epses));
    if (all) conv_line(c, "sinkhorn r2 r2 n=%d iterations=%d first=%d eps=%s", n, k->rounds, 2 * n,
                       conv_real(c, k->stream_eps));
    conv_line(c, "combine r3 r0 r2 out=1 groups=%d first=0", n);
}

static void arch_v4_branch_start(conv *c, const arch_v4 *k, int32_t i, const char *which, const char *norm)
{
    static const char *const parts[3] = { "fn", "base", "scale" };
    const char *names[3], *w = arch_v4_name(c, k, i, conv_format(c->env, "%s_norm.weight", which), norm);
    for (int p = 0; p < 3; p++)
        names[p] = arch_v4_name(c, k, i, conv_format(c->env, "hc_%s_%s", which, parts[p]),
                                conv_format(c->env, "%s_hc.%s", which, parts[p]));
    arch_v4_gather(c, k, conv_out_name(c, i, conv_format(c->env, "%s_streams", which)), names, 1);
    conv_line(c, "norm r1 r3 kind=rms eps=%s w=@%s", conv_real(c, k->d.norm_eps),
              conv_make(c, conv_out_name(c, i, conv_format(c->env, "%s_norm", which)), CONV_VECTOR,
                        conv_take(c, w, k->d.dim, 0)));
}

/* The branch's result is in r3.                                                                            */
static void arch_v4_branch_end(conv *c, const arch_v4 *k)
{
    const int32_t n = k->streams;
    conv_line(c, "combine r12 r0 r2 out=%d groups=%d first=%d", n, n, 2 * n);
    conv_line(c, "combine r12 r3 r2 out=%d groups=1 first=%d add=1", n, n);
    conv_line(c, "copy r0 r12");
}

/* ---- attention ----------------------------------------------------------------------------------------- */
/* Entries of r1's blocks in rD, by way of r10: names of the two maps, the bias and the norm                */
static void arch_v4_compress(conv *c, const arch_v4 *k, int dst, const char *out, const char *const names[4],
                             int32_t width, int32_t rate, int overlap)
{
    const int32_t cols = width * (1 + overlap);
    arch_v4_linear(c, 10, 1, out, names, 2, cols, k->d.dim, 1.0, CONV_PRECISE);
    conv_line(c, "mix r%d r10 compress size=%d overlap=%d bias=@%s", dst, rate, overlap,
              conv_make(c, conv_format(c->env, "%s.bias", out), CONV_VECTOR,
                        conv_flat(conv_take(c, names[2], rate, cols))));
    arch_v4_norm(c, k, dst, conv_format(c->env, "%s_norm", out), names[3], width);
    arch_v4_rope(c, k, &k->far, dst, 1, width, rate, 0);
}

/* The entries that each row attends to, in r13; from r1 and short query rows in r4                         */
static void arch_v4_select(conv *c, const arch_v4 *k, int32_t i, int32_t rate)
{
    const arch_index *x = &k->index;
    const char *q = arch_v4_name(c, k, i, "attn.indexer.wq_b.weight",
                                 "self_attn.compressor.indexer.q_b_proj.weight");
    const char *w = arch_v4_name(c, k, i, "attn.indexer.weights_proj.weight",
                                 "self_attn.compressor.indexer.scorer.weights_proj.weight");
    const char *names[4];
    names[0] = arch_v4_name(c, k, i, "attn.indexer.compressor.wkv.weight",
                            "self_attn.compressor.indexer.kv_proj.weight");
    names[1] = arch_v4_name(c, k, i, "attn.indexer.compressor.wgate.weight",
                            "self_attn.compressor.indexer.gate_proj.weight");
    names[2] = arch_v4_name(c, k, i, "attn.indexer.compressor.ape",
                            "self_attn.compressor.indexer.position_bias");
    names[3] = arch_v4_name(c, k, i, "attn.indexer.compressor.norm.weight",
                            "self_attn.compressor.indexer.kv_norm.weight");
    arch_v4_linear(c, 3, 4, conv_out_name(c, i, "index_q"), &q, 1, (int64_t)x->heads * x->head_dim, k->q_rank,
                   1.0, CONV_PRECISE);
    arch_v4_rope(c, k, &k->far, 3, x->heads, x->head_dim, 1, 0);
    arch_v4_linear(c, 9, 1, conv_out_name(c, i, "index_w"), &w, 1, x->heads, k->d.dim,
                   1.0 / sqrt((double)x->head_dim * x->heads), CONV_PRECISE);
    arch_v4_compress(c, k, 14, conv_out_name(c, i, "index_kv"), names, x->head_dim, rate, 1);
    conv_line(c, "cat r15 r3 r9\ncat r12 r15 r14");
    conv_line(c, "mix r13 r12 select heads=%d head_dim=%d k=%d every=%d", x->heads, x->head_dim, x->k, rate);
}

/* Queries in r5, keys in r6, short query rows in r4                                                        */
static void arch_v4_queries(conv *c, const arch_v4 *k, int32_t i, const conv_rope *rope)
{
    const conv_decoder *d = &k->d;
    const char *q_a = arch_v4_name(c, k, i, "attn.wq_a.weight", "self_attn.q_a_proj.weight");
    const char *q_b = arch_v4_name(c, k, i, "attn.wq_b.weight", "self_attn.q_b_proj.weight");
    const char *kv = arch_v4_name(c, k, i, "attn.wkv.weight", "self_attn.kv_proj.weight");
    arch_v4_linear(c, 4, 1, conv_out_name(c, i, "q_a"), &q_a, 1, k->q_rank, d->dim, 1.0, CONV_PRECISE);
    arch_v4_norm(c, k, 4, conv_out_name(c, i, "q_a_norm"),
                 arch_v4_name(c, k, i, "attn.q_norm.weight", "self_attn.q_a_norm.weight"), k->q_rank);
    arch_v4_linear(c, 5, 4, conv_out_name(c, i, "q"), &q_b, 1, (int64_t)d->heads * d->head_dim, k->q_rank,
                   1.0, CONV_PRECISE);
    conv_line(c, "norm r5 r5 kind=rms eps=%s groups=%d", conv_real(c, d->norm_eps), d->heads);
    arch_v4_rope(c, k, rope, 5, d->heads, d->head_dim, 1, 0);
    arch_v4_linear(c, 6, 1, conv_out_name(c, i, "kv"), &kv, 1, d->head_dim, d->dim, 1.0, CONV_PRECISE);
    arch_v4_norm(c, k, 6, conv_out_name(c, i, "kv_norm"),
                 arch_v4_name(c, k, i, "attn.norm.weight", "self_attn.kv_norm.weight"), d->head_dim);
    arch_v4_rope(c, k, rope, 6, 1, d->head_dim, 1, 0);
}

/* r9 [heads x head_dim] through a map for each group of heads, then one for all: r3                        */
static void arch_v4_out(conv *c, const arch_v4 *k, int32_t i)
{
    const int32_t in = k->d.heads * k->d.head_dim / k->o_groups;
    const char *a = arch_v4_name(c, k, i, "attn.wo_a.weight", "self_attn.o_a_proj.weight");
    const char *b = arch_v4_name(c, k, i, "attn.wo_b.weight", "self_attn.o_b_proj.weight");
    const conv_view all = conv_take(c, a, (int64_t)k->o_groups * k->o_rank, in);
    conv_put(c, "linear r10 r9 apart=1 w=");
    for (int32_t g = 0; g < k->o_groups && !c->env->failed; g++) {
        const conv_view w = conv_rows(c, all, (int64_t)g * k->o_rank, k->o_rank, k->o_rank, k->o_rank);
        conv_put(c, "%s@%s", g ? "," : "",
                 conv_make(c, conv_out_name(c, i, conv_format(c->env, "o_a%d", g)), CONV_MATRIX, w));
    }
    conv_line(c, "%s", "");
    arch_v4_linear(c, 3, 10, conv_out_name(c, i, "o"), &b, 1, k->d.dim, (int64_t)k->o_groups * k->o_rank, 1.0,
                   0);
}

static void arch_v4_attention(conv *c, const arch_v4 *k, int32_t i)
{
    const conv_decoder *d = &k->d;
    const arch_v4_kind kind = (arch_v4_kind)k->kinds[i];
    const conv_rope *rope = kind == ARCH_V4_WINDOW ? &k->near : &k->far;
    const char *names[4], *sinks = arch_v4_name(c, k, i, "attn.attn_sink", "self_attn.sinks");
    int src = 7;
    arch_v4_queries(c, k, i, rope);
    conv_line(c, "cat r7 r5 r6");
    if (kind != ARCH_V4_WINDOW) {
        names[0] = arch_v4_name(c, k, i, "attn.compressor.wkv.weight", "self_attn.compressor.kv_proj.weight");
        names[1] = arch_v4_name(c, k, i, "attn.compressor.wgate.weight",
                                "self_attn.compressor.gate_proj.weight");
        names[2] = arch_v4_name(c, k, i, "attn.compressor.ape", "self_attn.compressor.position_bias");
        names[3] = arch_v4_name(c, k, i, "attn.compressor.norm.weight",
                                "self_attn.compressor.kv_norm.weight");
        arch_v4_compress(c, k, 11, conv_out_name(c, i, "entry"), names, d->head_dim, k->rates[kind],
                         kind == ARCH_V4_SPARSE);
        conv_line(c, "cat r8 r7 r11");
        src = 8;
    }
    if (kind == ARCH_V4_SPARSE) {
        arch_v4_select(c, k, i, k->rates[kind]);
        conv_line(c, "cat r7 r8 r13");
        src = 7;
    }
    conv_put(c, "mix r9 r%d attention heads=%d kv_heads=1 head_dim=%d shared=1 window=%d scale=%s", src,
             d->heads, d->head_dim, k->window, conv_real(c, 1.0 / sqrt((double)d->head_dim)));
    conv_put(c, " sinks=@%s", conv_make(c, conv_out_name(c, i, "sinks"), CONV_VECTOR,
                                        conv_take(c, sinks, d->heads, 0)));
    if (kind != ARCH_V4_WINDOW) conv_put(c, " every=%d", k->rates[kind]);
    if (kind == ARCH_V4_SPARSE) conv_put(c, " selected=%d", k->index.k);
    conv_line(c, "%s", "");
    arch_v4_rope(c, k, rope, 9, d->heads, d->head_dim, 1, 1);  /* values turned with their keys: back       */
    arch_v4_out(c, k, i);
}

/* ---- experts ------------------------------------------------------------------------------------------- */
/* Weights of experts by token: the table tells which, the router's scores in r7 how much                   */
static void arch_v4_route_by_token(conv *c, const arch_v4 *k, int32_t i)
{
    const conv_moe *x = &k->moe;
    const char *name = arch_v4_name(c, k, i, "ffn.gate.tid2eid", "mlp.gate.tid2eid");
    const int64_t n = (int64_t)k->d.vocab * x->k;
    const float *table = conv_read(c, name, n);
    for (int64_t e = 0; table && e < n && !c->env->failed; e++)
        if (!(table[e] >= 0.0f && table[e] < (float)x->experts))
            conv_fail(c->env, "tensor %.100s: an item is not from 0 to %d", name, x->experts - 1);
    if (!table || c->env->failed) return;
    if (strcmp(x->score, "sigmoid") == 0) conv_line(c, "act r7 r7 kind=sigmoid");
    conv_line(c, "embed r10 tokens w=@%s\npick r8 r7 r10",
              conv_make_rows(c, conv_out_name(c, i, "experts_of"), table, k->d.vocab, x->k));
    conv_line(c, "norm r8 r8 kind=sum eps=%s", conv_real(c, x->eps));
    if (x->scale != 1.0) conv_line(c, "scale r8 r8 by=%s", conv_real(c, x->scale));
}

/* r1 through the experts and the shared expert: r3                                                         */
static void arch_v4_ffn(conv *c, arch_v4 *k, int32_t i)
{
    conv_moe *x = &k->moe;
    const char *stacked = conv_layer_name(c, &k->d, i, "mlp.experts.gate_up_proj");
    const int one = conv_has(c, stacked), own = one || !conv_has(c, conv_layer_name(c, &k->d, i,
                                                                                   "ffn.gate.weight"));
    const char *names[2], *down;
    x->out = conv_format(c->env, "l%d.", i);
    x->router = arch_v4_name(c, k, i, "ffn.gate.weight", "mlp.gate.weight");
    x->bias = arch_v4_name(c, k, i, "ffn.gate.bias", "mlp.gate.e_score_correction_bias");
    x->gate = one ? stacked : conv_layer_name(c, &k->d, i, own ? "mlp.experts.%d.gate_proj.weight"
                                              : "ffn.experts.%d.w1.weight");
    x->up = one ? NULL : conv_layer_name(c, &k->d, i, own ? "mlp.experts.%d.up_proj.weight"
                                         : "ffn.experts.%d.w3.weight");
    x->down = conv_layer_name(c, &k->d, i, one ? "mlp.experts.down_proj" : own
                              ? "mlp.experts.%d.down_proj.weight" : "ffn.experts.%d.w2.weight");
    conv_line(c, "linear r7 r1 w=@%s", conv_make(c, conv_out_name(c, i, "router"), CONV_ROUTER,
                                                 conv_take(c, x->router, x->experts, k->d.dim)));
    if (strcmp(x->score, "none") == 0) conv_line(c, "act r7 r7 kind=softplus\nact r7 r7 kind=sqrt");
    if (k->by_token[i]) arch_v4_route_by_token(c, k, i);
    else conv_put_route_op(c, x, x->experts);
    conv_put_experts(c, x, 3, 1, 0);
    names[0] = arch_v4_name(c, k, i, "ffn.shared_experts.w1.weight", "mlp.shared_experts.gate_proj.weight");
    names[1] = arch_v4_name(c, k, i, "ffn.shared_experts.w3.weight", "mlp.shared_experts.up_proj.weight");
    down = arch_v4_name(c, k, i, "ffn.shared_experts.w2.weight", "mlp.shared_experts.down_proj.weight");
    arch_v4_linear(c, 5, 1, conv_out_name(c, i, "shared"), names, 2, x->inner, k->d.dim, 1.0, 0);
    conv_line(c, "clip r5 r5 high=%s first=0 count=%d", conv_real(c, k->limit), x->inner);
    conv_line(c, "clip r5 r5 low=%s high=%s first=%d count=%d", conv_real(c, -k->limit),
              conv_real(c, k->limit), x->inner, x->inner);
    conv_line(c, "glu r6 r5 act=%s", k->d.act);
    arch_v4_linear(c, 3, 6, conv_out_name(c, i, "shared_down"), &down, 1, k->d.dim, x->inner, 1.0, CONV_ADD);
}

/* ---- model --------------------------------------------------------------------------------------------- */
/* The embedding in every stream                                                                            */
static void arch_v4_embedding(conv *c, const arch_v4 *k)
{
    const char *name = conv_format(c->env, "%s.weight", k->d.embed);
    int done = 3;
    conv_line(c, "embed r3 tokens w=@%s", conv_make(c, "embed", CONV_TABLE,
                                                    conv_take(c, name, k->d.vocab, k->d.dim)));
    for (int32_t n = 1; n < k->streams; n++) {
        const int to = n + 1 == k->streams ? 0 : done == 12 ? 10 : 12;
        conv_line(c, "cat r%d r%d r3", to, done);
        done = to;
    }
    if (done) conv_line(c, "copy r0 r%d", done);
}

static void arch_deepseek_v4(conv *c)
{
    static const char *const published[3] = { "hc_head_fn", "hc_head_base", "hc_head_scale" };
    static const char *const own[3] = { "hc_head.hc_fn", "hc_head.hc_base", "hc_head.hc_scale" };
    const char *names[3];
    arch_v4 k;
    if (!arch_v4_sizes(c, &k)) return;
    arch_v4_embedding(c, &k);
    for (int32_t i = 0; i < k.d.layers && !c->env->failed; i++) {
        conv_line(c, "# layer %d", i);
        arch_v4_branch_start(c, &k, i, "attn", "input_layernorm.weight");
        arch_v4_attention(c, &k, i);
        arch_v4_branch_end(c, &k);
        arch_v4_branch_start(c, &k, i, "ffn", "post_attention_layernorm.weight");
        arch_v4_ffn(c, &k, i);
        arch_v4_branch_end(c, &k);
    }
    for (int p = 0; p < 3; p++)
        names[p] = conv_has(c, published[p]) ? published[p] : conv_format(c->env, "model.%s", own[p]);
    conv_line(c, "# output");
    arch_v4_gather(c, &k, "streams_end", names, 0);
    conv_line(c, "copy r1 r3");
    conv_put_norm(c, &k.d, 1, 1, "norm", k.d.final_norm);
    conv_line(c, "copy r0 r1");
    conv_put_head(c, &k.d);
}

#endif /* ARCH_DEEPSEEK_V4_H_INCLUDED */
