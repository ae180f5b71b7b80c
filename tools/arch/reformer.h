/* arch/reformer.h: Reformer as a language model: reversible layers (two streams), attention in runs of
   positions or among rows that hash alike, positions as two tables side by side.                           */
#ifndef ARCH_REFORMER_H_INCLUDED
#define ARCH_REFORMER_H_INCLUDED
#include "gpt.h"

/* ---- PyTorch's random numbers -------------------------------------------------------------------------- */
typedef struct arch_twister {         /* Mersenne Twister MT19937 (Matsumoto & Nishimura 1998)              */
    uint32_t state[624];
    int      at;
} arch_twister;

static void arch_twister_seed(arch_twister *g, uint32_t seed)
{
    g->state[0] = seed;
    for (uint32_t i = 1; i < 624; i++)
        g->state[i] = 1812433253u * (g->state[i - 1] ^ (g->state[i - 1] >> 30)) + i;
    g->at = 624;
}

static uint32_t arch_twister_next(arch_twister *g)
{
    uint32_t y;
    if (g->at == 624) {
        for (int i = 0; i < 624; i++) {
            y = (g->state[i] & 0x80000000u) | (g->state[(i + 1) % 624] & 0x7fffffffu);
            g->state[i] = g->state[(i + 397) % 624] ^ (y >> 1) ^ (y & 1u ? 0x9908b0dfu : 0u);
        }
        g->at = 0;
    }
    y = g->state[g->at++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

/* 16 normal numbers as torch.randn makes them in float32: uniform ones of 24 bits, then Box & Muller on
   places i and i + 8.                                                                                      */
static void arch_normal_16(float *v, arch_twister *g, int draw)
{
    for (int i = 0; draw && i < 16; i++) v[i] = (float)(arch_twister_next(g) & 0xffffffu) / 16777216.0f;
    for (int i = 0; i < 8; i++) {
        const double radius = sqrt(-2.0 * log(1.0 - (double)v[i]));
        const double angle = 2.0 * 3.14159265358979323846 * (double)v[i + 8];
        v[i] = (float)(radius * cos(angle));
        v[i + 8] = (float)(radius * sin(angle));
    }
}

/* torch.manual_seed(seed); torch.randn(n), n >= 16                                                         */
static const float *arch_torch_randn(conv *c, uint32_t seed, int64_t n)
{
    float *v = n > INT32_MAX || n < 16 ? NULL : (float *)conv_alloc(c->env, (uint64_t)n, sizeof *v);
    arch_twister g;
    if (!v) conv_fail(c->env, "random rotations of %lld numbers are not supported", (long long)n);
    if (!v) return NULL;
    arch_twister_seed(&g, seed);
    for (int64_t i = 0; i < n; i++) v[i] = (float)(arch_twister_next(&g) & 0xffffffu) / 16777216.0f;
    for (int64_t i = 0; i + 16 <= n; i += 16) arch_normal_16(v + i, &g, 0);
    if (n % 16) arch_normal_16(v + n - 16, &g, 1);
    return v;
}

/* ---- configuration ------------------------------------------------------------------------------------- */
typedef struct arch_reformer_model {
    conv_decoder      d;
    const json_value *kinds;          /* "attn_layers"                                                      */
    const char       *prefix;
    int32_t           lsh, local;     /* how many layers are of either kind                                 */
    int32_t           local_chunk, local_before, chunk, before, rounds, buckets, buckets2;
    uint32_t          seed;
} arch_reformer_model;

static int32_t arch_common_multiple(int32_t a, int32_t b)
{
    int32_t x = a, y = b;
    while (y) { const int32_t rest = x % y; x = y; y = rest; }
    return (int64_t)a / x * b > 1 << 24 ? 1 << 24 : a / x * b;
}

/* "lsh" or "local"; a list of one kind alone serves any number of layers.                                  */
static int arch_reformer_is(const arch_reformer_model *m, int32_t i, const char *kind)
{
    int alone = 1;
    for (uint32_t k = 0; k < json_count(m->kinds); k++) alone = alone && json_text_is(json_at(m->kinds, k),
        kind);
    return alone ? json_count(m->kinds) > 0 : json_text_is(json_at(m->kinds, (uint32_t)i), kind);
}

static void arch_reformer_lsh_keys(conv *c, arch_reformer_model *m)
{
    const json_value *buckets = conv_key(c, "num_buckets");
    m->chunk = (int32_t)conv_int(c, "lsh_attn_chunk_length", 64, 1, 1 << 16);
    m->before = (int32_t)conv_int(c, "lsh_num_chunks_before", 1, 0, 127);
    m->rounds = (int32_t)conv_int(c, "num_hashes", 1, 1, 64);
    m->seed = (uint32_t)conv_int(c, "hash_seed", 0, 0, 0xffffffff);       /* null: any rotations will do    */
    if (conv_int(c, "lsh_num_chunks_after", 0, 0, 127) != 0 && m->lsh)
        conv_fail(c->env, "config.json: \"lsh_num_chunks_after\" other than 0 is not supported");
    if (!m->lsh) return;
    if (!buckets)
        conv_fail(c->env,
                  "config.json: \"num_buckets\" is null: the reference chooses it by the length of the first "
                  "text it sees; write a number (or two) there");
    m->buckets = (int32_t)json_int(json_is(buckets, JSON_ARRAY) ? json_at(buckets, 0) : buckets, -1);
    if (json_count(buckets) > 1) m->buckets2 = (int32_t)json_int(json_at(buckets, 1), -1);
    if (buckets && (m->buckets < 2 || m->buckets % 2 || m->buckets2 < 0 || m->buckets2 % 2 ||
                    m->buckets > 4096 ||
                    m->buckets2 > 4096 || json_count(buckets) > 2))
        conv_fail(c->env, "config.json: \"num_buckets\" must be one or two even numbers up to 4096");
}

static int arch_reformer_keys(conv *c, arch_reformer_model *m)
{
    static const char *const unread[] = { "axial_norm_std", "chunk_size_lm_head",
                                          "local_attention_probs_dropout_prob",
                                          "lsh_attention_probs_dropout_prob", NULL };
    conv_decoder *d = &m->d;
    memset(m, 0, sizeof *m);
    for (int k = 0; unread[k]; k++) conv_key(c, unread[k]);
    m->kinds = conv_key(c, "attn_layers");
    m->prefix = conv_prefix(c, "reformer.", "embeddings.word_embeddings.weight");
    d->dim = conv_size(c, "hidden_size", CONV_REQUIRED);
    d->layers = conv_size(c, "num_hidden_layers", json_count(m->kinds) ? (int64_t)json_count(m->kinds) : 1);
    if (!json_count(m->kinds)) conv_fail(c->env, "config.json: key \"attn_layers\" is missing");
    d->heads = d->kv_heads = conv_size(c, "num_attention_heads", CONV_REQUIRED);
    d->head_dim = conv_size(c, "attention_head_size", 64);
    d->ffn = conv_size(c, "feed_forward_size", CONV_REQUIRED);
    d->vocab = conv_size(c, "vocab_size", CONV_REQUIRED);
    c->max_context = conv_size(c, "max_position_embeddings", CONV_REQUIRED);
    d->norm = "layer";
    d->norm_bias = CONV_BIAS;
    d->norm_eps = conv_positive(c, "layer_norm_eps", 1e-12);
    d->act = conv_activation(c, "hidden_act", "relu");
    d->layer_prefix = conv_format(c->env, "%sencoder.layers.", m->prefix);
    conv_only_bool(c, "tie_word_embeddings", 0);
    if (!conv_bool(c, "is_decoder", 0))
        conv_fail(c->env, "config.json: \"is_decoder\" is not true: no language model");
    for (int32_t i = 0; i < d->layers && !c->env->failed; i++) {
        if (arch_reformer_is(m, i, "lsh")) m->lsh++;
        else if (arch_reformer_is(m, i, "local")) m->local++;
        else conv_fail(c->env, "config.json: \"attn_layers\": item %d is neither \"lsh\" nor \"local\"", i);
    }
    m->local_chunk = (int32_t)conv_int(c, "local_attn_chunk_length", 64, 1, 1 << 16);
    m->local_before = (int32_t)conv_int(c, "local_num_chunks_before", 1, 0, 127);
    if (conv_int(c, "local_num_chunks_after", 0, 0, 127) != 0 && m->local)
        conv_fail(c->env, "config.json: \"local_num_chunks_after\" other than 0 is not supported");
    arch_reformer_lsh_keys(c, m);
    return conv_decoder_defaults(c, d);
}

/* ---- the recipe: r0 holds the sums of attention, r15 those of the feed-forward parts ------------------- */
/* Positions: columns of a table by p / n beside those of another by p % n, or one table.                   */
static void arch_reformer_embedding(conv *c, arch_reformer_model *m)
{
    const json_value *shape = conv_key(c, "axial_pos_shape"), *dims = conv_key(c, "axial_pos_embds_dim");
    const char *table = conv_format(c->env, "%sembeddings.position_embeddings.", m->prefix);
    const int32_t n[2] = { (int32_t)json_int(json_at(shape, 0), 64), (int32_t)json_int(json_at(shape, 1),
        64) };
    const int32_t w[2] = { (int32_t)json_int(json_at(dims, 0), 64), (int32_t)json_int(json_at(dims, 1),
        192) };
    m->d.embed = conv_format(c->env, "%sembeddings.word_embeddings", m->prefix);
    if (!conv_bool(c, "axial_pos_embds", 1)) {
        m->d.positions = conv_format(c->env, "%sembedding", table);
        conv_put_embedding(c, &m->d);
        return;
    }
    if ((shape && json_count(shape) != 2) || (dims && json_count(dims) != 2) || n[0] < 1 || n[1] < 1 ||
        w[0] < 1 ||
        w[1] < 1 || (int64_t)w[0] + w[1] != m->d.dim || (int64_t)n[0] * n[1] > INT32_MAX) {
        conv_fail(c->env,
                  "config.json: \"axial_pos_shape\" or \"axial_pos_embds_dim\" is not a pair that fits");
        return;
    }
    if ((int64_t)n[0] * n[1] < c->max_context) c->max_context = n[0] * n[1];
    conv_put_embedding(c, &m->d);
    for (int k = 0; k < 2; k++) {
        const float *rows = conv_read(c, conv_format(c->env, "%sweights.%d", table, k), (int64_t)n[k] * w[k]);
        if (!rows) return;
        conv_line(c, "embed r%d positions w=@%s %s=%d", 1 + k,
                  conv_make_rows(c, k ? "positions_fast" : "positions_slow", rows, n[k], w[k]),
                  k ? "period" : "divide", n[1]);
    }
    conv_line(c, "cat r3 r1 r2\nadd r0 r0 r3");
}

/* Scores of keys are normalised to unit length, so their scale is in the mixer.                            */
static void arch_reformer_lsh(conv *c, const arch_reformer_model *m, int32_t i)
{
    const conv_decoder *d = &m->d;
    const int64_t inner = (int64_t)d->heads * d->head_dim;
    const int64_t n = inner * m->rounds * ((m->buckets + m->buckets2) / 2);
    conv_part parts[2];
    parts[0] = conv_part_of(c, d, conv_out_name(c, i, "qk"),
                            conv_layer_name(c, d, i, "attention.self_attention.query_key"), inner, d->dim,
                                CONV_NO_BIAS);
    parts[1] = conv_part_of(c, d, conv_out_name(c, i, "v"), conv_layer_name(c, d, i,
                                                                            "attention.self_attention.value"),
                            inner, d->dim, CONV_NO_BIAS);
    conv_put_linear(c, 2, 1, parts, 2, 1.0, CONV_PRECISE);
    if (!conv_made(c, "rotations")) {
        const float *rotations = arch_torch_randn(c, m->seed, n);
        if (rotations) conv_make_values(c, "rotations", rotations, (int32_t)n);
    }
    conv_put(c, "mix r3 r2 lsh heads=%d head_dim=%d chunk=%d before=%d rounds=%d buckets=%d", d->heads,
             d->head_dim,
             m->chunk, m->before, m->rounds, m->buckets);
    if (m->buckets2) conv_put(c, " buckets2=%d", m->buckets2);
    conv_line(c, " shortest=%d multiple=%d causal=1 rotations=@rotations",
              m->local && m->local_chunk < m->chunk ? m->local_chunk : m->chunk,
              m->local ? arch_common_multiple(m->chunk, m->local_chunk) : m->chunk);
}

static void arch_reformer_local(conv *c, const arch_reformer_model *m, int32_t i)
{
    static const char *const names[] = { "query", "key", "value" }, *const outs[] = { "q", "k", "v" };
    const conv_decoder *d = &m->d;
    conv_part parts[3];
    for (int k = 0; k < 3; k++)
        parts[k] = conv_part_of(c, d, conv_out_name(c, i, outs[k]),
                                conv_layer_name(c, d, i, conv_format(c->env, "attention.self_attention.%s",
                                                                     names[k])),
                                (int64_t)d->heads * d->head_dim, d->dim, CONV_NO_BIAS);
    conv_put_linear(c, 2, 1, parts, 3, 1.0, CONV_PRECISE);
    conv_line(c, "mix r3 r2 attention heads=%d kv_heads=%d head_dim=%d scale=%s chunk=%d before=%d",
              d->heads, d->heads,
              d->head_dim, conv_real(c, d->layer_scale[i]), m->local_chunk, m->local_before);
}

static void arch_reformer_layer(conv *c, const arch_reformer_model *m, int32_t i)
{
    const conv_decoder *d = &m->d;
    conv_part p;
    conv_put_norm(c, d, 1, 15, conv_out_name(c, i, "attn_norm"), conv_layer_name(c, d, i,
        "attention.layer_norm"));
    if (arch_reformer_is(m, i, "lsh")) arch_reformer_lsh(c, m, i);
    else arch_reformer_local(c, m, i);
    p = conv_part_of(c, d, conv_out_name(c, i, "o"), conv_layer_name(c, d, i, "attention.output.dense"),
                     d->dim,
                     (int64_t)d->heads * d->head_dim, CONV_NO_BIAS);
    conv_put_linear(c, 0, 3, &p, 1, 1.0, CONV_ADD);
    conv_put_norm(c, d, 1, 0, conv_out_name(c, i, "ffn_norm"), conv_layer_name(c, d, i,
                                                                               "feed_forward.layer_norm"));
    p = conv_part_of(c, d, conv_out_name(c, i, "up"), conv_layer_name(c, d, i, "feed_forward.dense.dense"),
                     d->ffn,
                     d->dim, CONV_BIAS);
    conv_put_linear(c, 5, 1, &p, 1, 1.0, 0);
    conv_line(c, "act r5 r5 kind=%s", d->act);
    p = conv_part_of(c, d, conv_out_name(c, i, "down"), conv_layer_name(c, d, i,
                                                                        "feed_forward.output.dense"), d->dim,
                     d->ffn, CONV_BIAS);
    conv_put_linear(c, 15, 5, &p, 1, 1.0, CONV_ADD);
}

static void arch_reformer(conv *c)
{
    static const char *const unused[] = { "lm_head.bias", "*.mask_value_*", "*.self_mask_value_*", NULL };
    arch_reformer_model m;
    conv_decoder *d = &m.d;
    if (!arch_reformer_keys(c, &m)) return;
    c->ignored = unused;
    arch_reformer_embedding(c, &m);
    conv_line(c, "copy r15 r0");
    for (int32_t i = 0; i < d->layers && !c->env->failed; i++) {
        conv_line(c, "# layer %d", i);
        arch_reformer_layer(c, &m, i);
    }
    conv_line(c, "# output\ncat r7 r0 r15");
    conv_put_norm_of(c, d, 7, 7, "norm", conv_format(c->env, "%sencoder.layer_norm", m.prefix), 2 * d->dim);
    conv_line(c, "head logits r7 w=@%s b=@%s",
              conv_make(c, "head", CONV_TABLE, conv_take(c, "lm_head.decoder.weight", d->vocab, 2 * d->dim)),
              conv_make(c, "head.bias", CONV_VECTOR,
                        conv_take(c, conv_has(c, "lm_head.decoder.bias") ? "lm_head.decoder.bias"
                                  : "lm_head.bias",
                                  d->vocab, 0)));
}

#endif /* ARCH_REFORMER_H_INCLUDED */
