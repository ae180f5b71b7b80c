/* conv_decoder.h: the decoder-only transformer as data. A mapping fills a conv_decoder (names of the
   checkpoint's tensors and what is special) and conv_emit_decoder writes the recipe. A model that does not
   fit uses the parts: conv_put_norm, conv_put_attention, conv_put_ffn, conv_put_head, conv_put_linear.

   Registers: r0 residual stream, r1 normalised rows, r2 q|k|v, r3 result of the mixer, r4 second norm of
   parallel branches, r5 gate|up, r6 inner rows of the feed-forward part.                                   */
#ifndef CONV_DECODER_H_INCLUDED
#define CONV_DECODER_H_INCLUDED
#include "conv_rope.h"

typedef enum conv_bias { CONV_NO_BIAS, CONV_BIAS, CONV_BIAS_IF_PRESENT } conv_bias;

typedef enum conv_qkv_order {         /* rows of a fused q, k, v weight                                     */
    CONV_QKV_STACKED,                 /* all of q, all of k, all of v                                       */
    CONV_QKV_PER_HEAD,                /* for each head q, k, v: [heads, 3, head_dim]                        */
    CONV_QKV_GROUPED,                 /* per key head its queries, k, v: [kv_heads, group + 2, head_dim] */
    CONV_QKV_CODEGEN                  /* per quarter of the rows q, v, k: [4, 3, heads * head_dim / 4]   */
} conv_qkv_order;

typedef enum conv_head_norm {         /* norm of queries and keys                                           */
    CONV_HEAD_NORM_NONE,
    CONV_HEAD_NORM_SHARED,            /* each head by itself, one weight [head_dim]; names NULL: no weight  */
    CONV_HEAD_NORM_OWN,               /* each head by itself, own weights [heads, head_dim]                 */
    CONV_HEAD_NORM_FULL               /* all heads together, weight [heads * head_dim]                      */
} conv_head_norm;

struct conv_decoder;
/* A part of layer i that a mapping writes itself. Mixer: from the rows in rS to r3 [heads * head_dim].
   Activation: of the inner rows in r5, with r6 and r7 for its own use.                                     */
typedef void (*conv_put_part)(conv *c, const struct conv_decoder *d, int32_t i, int src);

typedef struct conv_decoder {
    int32_t dim, layers, heads, kv_heads, head_dim, ffn, vocab;
    int32_t v_dim, chunk;             /* channels of a value head; attention in chunks. 0: head_dim; none   */
    /* names in the checkpoint, without ".weight"; NULL: the model has none. Those of a layer follow
       layer_prefix and number. */
    const char *embed, *positions, *final_norm, *head, *layer_prefix, *weight_suffix;
    const char *attn_norm, *attn_post_norm, *ffn_norm, *ffn_post_norm, *q_norm, *k_norm;
    const char *q, *k, *v, *qkv, *o, *gate, *up, *gate_up, *down;
    const char *sinks;                                       /* [heads], a tensor's whole name in a layer   */
    const char *o_norm, *down_norm;   /* norms of what o and down read                                      */
    const char *embed_norm_name;      /* norm of the embedding, with weights                                */
    const char *embed_in, *head_in;   /* linear maps behind a narrower embedding, before a narrower head    */
    const char *head_dense, *head_norm_name, *head_act;      /* head reads norm(act(dense(x)))              */
    const char *o_bias_name;          /* of a layer; where the tensor exists                                */
    const char *head_bias_name;       /* NULL: head.bias                                                    */
    const char *norm, *head_norm_kind;                       /* "rms" or "layer"                            */
    double      norm_eps, norm_plus;                         /* norm_plus 1: checkpoints hold w - 1         */
    double      final_eps;                                   /* of the last norm; 0: norm_eps               */
    int32_t     norm_plain;                                  /* norms have no weights                       */
    conv_bias   norm_bias, head_norm_bias, qkv_bias, o_bias, ffn_bias, head_bias;
    conv_qkv_order qkv_order;
    conv_head_norm head_norm;
    int32_t     head_norm_after_rope, tied, position_offset;
    int32_t     conv1d;               /* weights are stored [in, out]                                       */
    int32_t     parallel;             /* both branches read the same stream; ffn_norm NULL: the same norm   */
    int32_t     norm_on_sum;          /* x = norm(x + branch(x)): attn_norm, ffn_norm come after the branch */
    int32_t     embed_norm;           /* norm of the embedding, without weights                             */
    conv_put_part put_mixer, put_act; /* NULL: attention, and the activation `act`                          */
    const char *attn_residual,
        *ffn_residual;  /* of a layer: [dim] times the stream before a branch is added */
    double      q_grow;               /* q times 1 + q_grow log(1 + floor((position + q_shift) / ...every)) */
    int32_t     q_grow_every, q_shift;
    int32_t     embed_dim;            /* 0: dim; width of the embedding and the head                        */
    int32_t     first_attn_norm;      /* first layer with attn_norm                                         */
    int32_t     norm_in_stream;       /* the normalised rows take the stream's place                        */
    int32_t     q_gate;               /* q holds for each head queries and an output gate: conv_put_q_gate  */
    const char *act;
    double      embed_scale, residual_scale, head_scale, attn_softcap, head_softcap;
    double      clip_qkv;             /* 0: none                                                            */
    const float *alibi;               /* [heads] slopes or NULL                                             */
    double      alibi_rounded;        /* not 0: this times products rounded to bfloat16                     */
    const float *position_values;     /* [max_context, dim]: instead of positions                           */
    const float *sines;               /* [dim / 2] inverse frequencies of added sine positions, or NULL     */
    int32_t     sines_offset;         /* added to the position                                              */
    double      v_scale;              /* factor of v; 0: none                                               */
    conv_rope   ropes[2];
    int32_t    *layer_rope;           /* [layers]: index in ropes, -1: none                                 */
    int32_t    *layer_window;         /* [layers]: 0: none                                                  */
    double     *layer_scale;          /* [layers]: factor of q.k                                            */
} conv_decoder;

/* ---- filling ------------------------------------------------------------------------------------------- */
/* Usual values; dim, layers, heads ... must be set before. 0 after an error.                               */
static CONV_UNUSED int conv_decoder_defaults(conv *c, conv_decoder *d)
{
    const uint64_t n = (uint64_t)d->layers;
    if (!d->weight_suffix) d->weight_suffix = ".weight";
    if (!d->norm) d->norm = "rms";
    if (!d->head_norm_kind) d->head_norm_kind = "rms";
    if (!d->act) d->act = "silu";
    d->embed_scale = d->residual_scale = d->head_scale = 1.0;
    if (!c->env->failed && d->layers > 10000)
        conv_fail(c->env, "%d layers are more than is plausible", d->layers);
    if (!c->env->failed && d->heads % d->kv_heads)
        conv_fail(c->env, "%d query heads do not divide over %d key heads", d->heads, d->kv_heads);
    if (!c->env->failed && (int64_t)d->heads * d->head_dim > 1 << 28)
        conv_fail(c->env, "%d heads of %d channels are too many", d->heads, d->head_dim);
    d->layer_rope = (int32_t *)conv_alloc(c->env, n, sizeof *d->layer_rope);
    d->layer_window = (int32_t *)conv_alloc(c->env, n, sizeof *d->layer_window);
    d->layer_scale = (double *)conv_alloc(c->env, n, sizeof *d->layer_scale);
    if (!d->layer_rope || !d->layer_window || !d->layer_scale) return 0;
    for (int32_t i = 0; i < d->layers; i++) d->layer_scale[i] = 1.0 / sqrt((double)d->head_dim);
    return !c->env->failed;
}

/* Channels of a head when no key gives them.                                                               */
static CONV_UNUSED int32_t conv_head_dim(conv *c, int32_t dim, int32_t heads)
{
    if (dim % heads) conv_fail(c->env, "a width of %d does not divide over %d heads", dim, heads);
    return dim / heads > 0 ? dim / heads : 1;
}

static CONV_UNUSED void conv_set_scale(const conv_decoder *d, double scale)
{
    for (int32_t i = 0; d->layer_scale && i < d->layers; i++) d->layer_scale[i] = scale;
}

static CONV_UNUSED void conv_set_window(const conv_decoder *d, int32_t window)
{
    for (int32_t i = 0; d->layer_window && i < d->layers; i++) d->layer_window[i] = window;
}

/* A window on every layer but each n-th, whose sight is full; the index of the rope (-1: none) of either
   kind.                                                                                                    */
static CONV_UNUSED void conv_window_pattern(const conv_decoder *d, int32_t window, int32_t n,
                                            int32_t full_rope, int32_t sliding_rope)
{
    for (int32_t i = 0; d->layer_window && d->layer_rope && i < d->layers; i++) {
        const int full = (i + 1) % n == 0;
        d->layer_window[i] = full ? 0 : window;
        d->layer_rope[i] = full ? full_rope : sliding_rope;
    }
}

/* Which prefix the checkpoint uses: transformers loads a bare model's tensors without it too.              */
static CONV_UNUSED const char *conv_prefix(conv *c, const char *prefix, const char *name)
{
    return !conv_has(c, conv_format(c->env, "%s%s", prefix, name)) && conv_has(c, name) ? "" : prefix;
}

/* ---- parts of a recipe --------------------------------------------------------------------------------- */
typedef struct conv_part {            /* one weight of a linear line                                        */
    const char *out;                  /* name of the output tensor; its bias is out.bias                    */
    conv_view   weight, bias;
    int32_t     has_bias;
} conv_part;

static CONV_UNUSED int conv_wants_bias(conv *c, conv_bias mode, const char *name)
{
    return mode == CONV_BIAS ||
           (mode == CONV_BIAS_IF_PRESENT && conv_has(c, conv_format(c->env, "%s.bias", name)));
}

/* A weight [rows, cols] and its bias [rows] by their name in the checkpoint.                               */
static CONV_UNUSED conv_part conv_part_of(conv *c, const conv_decoder *d, const char *out, const char *name,
                                          int64_t rows, int64_t cols, conv_bias bias)
{
    conv_part p;
    const char *weight = conv_format(c->env, "%s%s", name, d->weight_suffix);
    memset(&p, 0, sizeof p);
    p.out = out;
    p.weight = d->conv1d ? conv_transposed(conv_take(c, weight, cols, rows))
        : conv_take(c, weight, rows, cols);
    p.has_bias = conv_wants_bias(c, bias, name);
    if (p.has_bias) p.bias = conv_take(c, conv_format(c->env, "%s.bias", name), rows, 0);
    return p;
}

/* Some rows of a part as a part of its own; see conv_rows.                                                 */
static CONV_UNUSED conv_part conv_part_rows(conv *c, conv_part p, const char *out, int64_t first,
                                            int64_t block, int64_t stride, int64_t count)
{
    p.out = out;
    p.weight = conv_rows(c, p.weight, first, block, stride, count);
    if (p.has_bias) p.bias = conv_rows(c, p.bias, first, block, stride, count);
    return p;
}

/* linear rD rS w=... b=...; the results of the parts stand side by side. flags: CONV_ADD: they are added to
   rD;
   CONV_PRECISE: attention scores depend on it, see precise= in [RECIPE].                                   */
enum { CONV_ADD = 1, CONV_PRECISE = 2 };
static CONV_UNUSED void conv_put_linear(conv *c, int dst, int src, const conv_part *parts, int32_t n,
                                        double scale, int flags)
{
    int biases = 0;
    conv_put(c, "linear r%d r%d w=", dst, src);
    for (int32_t i = 0; i < n; i++) {
        conv_put(c, "%s@%s", i ? "," : "", conv_make(c, parts[i].out, CONV_MATRIX, parts[i].weight));
        biases |= parts[i].has_bias;
    }
    if (biases) conv_put(c, " b=");
    for (int32_t i = 0; biases && i < n; i++) {
        if (!parts[i].has_bias) { conv_put(c, "%s-", i ? "," : ""); continue; }
        conv_put(c, "%s@%s", i ? "," : "",
                 conv_make(c, conv_format(c->env, "%s.bias", parts[i].out), CONV_VECTOR, parts[i].bias));
    }
    conv_put_real(c, "scale", scale, 1.0);
    conv_line(c, "%s%s", flags & CONV_ADD ? " add=1" : "", flags & CONV_PRECISE ? " precise=1" : "");
}

/* Name of a tensor of layer i in the checkpoint.                                                           */
static CONV_UNUSED const char *conv_layer_name(conv *c, const conv_decoder *d, int32_t i, const char *name)
{
    return conv_format(c->env, "%s%d.%s", d->layer_prefix, i, name);
}

static CONV_UNUSED const char *conv_out_name(conv *c, int32_t i, const char *name)
{
    return conv_format(c->env, "l%d.%s%s", i, c->out_part ? c->out_part : "", name);
}

/* norm rD rS of rows of `width` columns with the weights `name` of the checkpoint.                         */
static CONV_UNUSED void conv_put_norm_of(conv *c, const conv_decoder *d, int dst, int src, const char *out,
                                         const char *name, int32_t width)
{
    conv_put(c, "norm r%d r%d kind=%s", dst, src, d->norm);
    if (!d->norm_plain) {
        const conv_view w = conv_take(c, conv_format(c->env, "%s%s", name, d->weight_suffix), width, 0);
        conv_put(c, " w=@%s", conv_make(c, out, CONV_VECTOR, conv_plus(w, d->norm_plus)));
        if (conv_wants_bias(c, d->norm_bias, name))
            conv_put(c, " b=@%s", conv_make(c, conv_format(c->env, "%s.bias", out), CONV_VECTOR,
                                            conv_take(c, conv_format(c->env, "%s.bias", name), width, 0)));
    }
    conv_line(c, " eps=%s", conv_real(c, d->norm_eps));
}
static CONV_UNUSED void conv_put_norm(conv *c, const conv_decoder *d, int dst, int src, const char *out,
                                      const char *name)
{
    conv_put_norm_of(c, d, dst, src, out, name, d->dim);
}

/* ---- attention ----------------------------------------------------------------------------------------- */
static void conv__qkv_fused(conv *c, const conv_decoder *d, int32_t i, conv_part *parts)
{
    const int64_t size = d->head_dim, q = d->heads * size, kv = d->kv_heads * size,
        group = d->heads / d->kv_heads;
    const conv_part all = conv_part_of(c, d, "", conv_layer_name(c, d, i, d->qkv), q + 2 * kv, d->dim,
                                       d->qkv_bias);
    const char *nq = conv_out_name(c, i, "q"), *nk = conv_out_name(c, i, "k"), *nv = conv_out_name(c, i, "v");
    const int64_t step = (group + 2) * size;
    if (d->qkv_order == CONV_QKV_STACKED) {
        parts[0] = conv_part_rows(c, all, nq, 0, q, q, q);
        parts[1] = conv_part_rows(c, all, nk, q, kv, kv, kv);
        parts[2] = conv_part_rows(c, all, nv, q + kv, kv, kv, kv);
    } else if (d->qkv_order == CONV_QKV_CODEGEN) {
        const int64_t part = q / 4;
        if (!c->env->failed && q % 4)
            conv_fail(c->env, "%d rows of queries do not divide into four parts", (int)q);
        parts[0] = conv_part_rows(c, all, nq, 0, part, 3 * part, q);
        parts[1] = conv_part_rows(c, all, nk, 2 * part, part, 3 * part, q);
        parts[2] = conv_part_rows(c, all, nv, part, part, 3 * part, q);
    } else {                                           /* per head: the case of one query a key head        */
        parts[0] = conv_part_rows(c, all, nq, 0, group * size, step, q);
        parts[1] = conv_part_rows(c, all, nk, group * size, size, step, kv);
        parts[2] = conv_part_rows(c, all, nv, (group + 1) * size, size, step, kv);
    }
}

/* Queries (which 0) or output gates (1) of q, whose rows are [heads, 2, head_dim] with q_gate.             */
static conv_part conv__q_part(conv *c, const conv_decoder *d, int32_t i, int32_t which)
{
    const int64_t size = d->head_dim, n = d->heads * size;
    const char *name = conv_layer_name(c, d, i, d->q);
    if (!d->q_gate) return conv_part_of(c, d, conv_out_name(c, i, "q"), name, n, d->dim, d->qkv_bias);
    return conv_part_rows(c, conv_part_of(c, d, "", name, 2 * n, d->dim, d->qkv_bias),
                          conv_out_name(c, i, which ? "q_gate" : "q"), which * size, size, 2 * size, n);
}
/* gate r3 r3: the attention's result times sigmoid of the output gates, over r8                            */
static CONV_UNUSED void conv_put_q_gate(conv *c, const conv_decoder *d, int32_t i, int src)
{
    const conv_part gate = conv__q_part(c, d, i, 1);
    conv_put_linear(c, 8, src, &gate, 1, 1.0, 0);
    conv_line(c, "gate r3 r3 r8 act=sigmoid");
}

/* linear r2 rS: queries | keys | values                                                                    */
static CONV_UNUSED void conv_put_qkv(conv *c, const conv_decoder *d, int32_t i, int src)
{
    const int64_t kv = (int64_t)d->kv_heads * d->head_dim,
        values = (int64_t)d->kv_heads * (d->v_dim ? d->v_dim : d->head_dim);
    conv_part parts[3];
    if (d->qkv) {
        conv__qkv_fused(c, d, i, parts);
    } else {
        parts[0] = conv__q_part(c, d, i, 0);
        parts[1] = conv_part_of(c, d, conv_out_name(c, i, "k"), conv_layer_name(c, d, i, d->k), kv, d->dim,
                                d->qkv_bias);
        parts[2] = conv_part_of(c, d, conv_out_name(c, i, "v"), conv_layer_name(c, d, i, d->v), values,
                                d->dim, d->qkv_bias);
    }
    if (d->v_scale != 0.0) {
        parts[2].weight.scale = d->v_scale;
        parts[2].bias.scale = d->v_scale;
    }
    conv_put_linear(c, 2, src, parts, 3, 1.0, CONV_PRECISE);
}

/* Own weights of each head lie in one matrix [heads, head_dim], or in one tensor a head
   (name.norms.H.weight).                                                                                   */
static conv_view conv__own_head_norm(conv *c, const conv_decoder *d, const char *out, const char *name,
                                     int32_t heads)
{
    const char *first = conv_format(c->env, "%s.norms.0%s", name, d->weight_suffix);
    conv_view *parts;
    if (!conv_has(c, first))
        return conv_flat(conv_take(c, conv_format(c->env, "%s%s", name, d->weight_suffix), heads,
                                   d->head_dim));
    parts = (conv_view *)conv_alloc(c->env, (uint64_t)heads, sizeof *parts);
    for (int32_t h = 0; parts && h < heads; h++)
        parts[h] = conv_take(c, conv_format(c->env, "%s.norms.%d%s", name, h, d->weight_suffix), d->head_dim,
                             0);
    if (parts) conv_stack(c, out, CONV_VECTOR, parts, heads);
    return parts ? parts[0] : conv_take(c, first, d->head_dim, 0);
}

static void conv__head_norm(conv *c, const conv_decoder *d, int32_t i, const char *name, int32_t first,
                            int32_t heads)
{
    const int32_t width = heads * d->head_dim,
        one = d->head_norm == CONV_HEAD_NORM_FULL ? width : d->head_dim;
    const char *in = name ? conv_layer_name(c, d, i, name) : NULL;
    const char *out = conv_out_name(c, i, first ? "k_norm" : "q_norm");
    if (c->env->failed) return;
    conv_put(c, "norm r2 r2 kind=%s", d->head_norm_kind);
    if (in) {
        const conv_view w = d->head_norm == CONV_HEAD_NORM_OWN ? conv__own_head_norm(c, d, out, in, heads)
                          : conv_take(c, conv_format(c->env, "%s%s", in, d->weight_suffix), one, 0);
        if (!conv_made(c, out)) conv_make(c, out, CONV_VECTOR, conv_plus(w, d->norm_plus));
        conv_put(c, " w=@%s", out);
        if (conv_wants_bias(c, d->head_norm_bias, in))
            conv_put(c, " b=@%s", conv_make(c, conv_format(c->env, "%s.bias", out), CONV_VECTOR,
                                            conv_take(c, conv_format(c->env, "%s.bias", in), one, 0)));
    }
    conv_put(c, " first=%d count=%d", first, width);
    if (d->head_norm != CONV_HEAD_NORM_FULL) conv_put(c, " groups=%d", heads);
    conv_line(c, " eps=%s", conv_real(c, d->norm_eps));
}

/* norm of queries and keys in r2                                                                           */
static CONV_UNUSED void conv_put_head_norms(conv *c, const conv_decoder *d, int32_t i)
{
    conv__head_norm(c, d, i, d->q_norm, 0, d->heads);
    conv__head_norm(c, d, i, d->k_norm, d->heads * d->head_dim, d->kv_heads);
}

/* What a rope line says of scalings that depend on the sequence's length                                   */
static CONV_UNUSED void conv_put_rope_lengths(conv *c, const conv_rope *r)
{
    if (r->freq_long) {
        const char *name = conv_format(c->env, "%s_long", r->name);
        if (!conv_made(c, name)) conv_make_values(c, name, r->freq_long, r->dims / 2);
        conv_put(c, " freq_long=@%s long_from=%d", name, r->long_from);
        conv_put_real(c, "attn_long", r->attn_long, 0.0);
    }
    if (r->ntk_length)
        conv_put(c, " ntk_factor=%s ntk_length=%d", conv_real(c, r->ntk_factor), r->ntk_length);
}

/* rope r2 r2 over queries and keys, which stand side by side                                               */
static CONV_UNUSED void conv_put_rope(conv *c, const conv_decoder *d, const conv_rope *r)
{
    if (c->env->failed) return;
    if (!conv_made(c, r->name)) conv_make_values(c, r->name, r->freq, r->dims / 2);
    conv_put(c, "rope r2 r2 first=0 heads=%d head_dim=%d dims=%d style=%s freq=@%s", d->heads + d->kv_heads,
             d->head_dim, r->dims, r->style, r->name);
    conv_put_real(c, "attn_factor", r->attn_factor, 1.0);
    conv_put_rope_lengths(c, r);
    conv_line(c, "%s", "");
}

/* From rS to the attention's result in r3 (before the output projection).                                  */
static CONV_UNUSED void conv_put_attention(conv *c, const conv_decoder *d, int32_t i, int src)
{
    const int32_t rope = d->layer_rope[i];
    conv_put_qkv(c, d, i, src);
    if (d->head_norm && !d->head_norm_after_rope) conv_put_head_norms(c, d, i);
    if (d->clip_qkv > 0.0)
        conv_line(c, "clip r2 r2 low=%s high=%s", conv_real(c, -d->clip_qkv), conv_real(c, d->clip_qkv));
    if (rope >= 0 && d->ropes[rope].dims) conv_put_rope(c, d, &d->ropes[rope]);
    if (d->head_norm && d->head_norm_after_rope) conv_put_head_norms(c, d, i);
    if (d->q_grow != 0.0)
        conv_line(c, "scale r2 r2 by=1 grow=%s every=%d shift=%d count=%d", conv_real(c, d->q_grow),
                  d->q_grow_every, d->q_shift, d->heads * d->head_dim);
    conv_put(c, "mix r3 r2 attention heads=%d kv_heads=%d head_dim=%d scale=%s", d->heads, d->kv_heads,
             d->head_dim, conv_real(c, d->layer_scale[i]));
    conv_put_real(c, "softcap", d->attn_softcap, 0.0);
    if (d->v_dim && d->v_dim != d->head_dim) conv_put(c, " v_dim=%d", d->v_dim);
    if (d->chunk) conv_put(c, " chunk=%d", d->chunk);
    else if (d->layer_window[i]) conv_put(c, " window=%d", d->layer_window[i]);
    if (d->sinks)
        conv_put(c, " sinks=@%s", conv_make(c, conv_out_name(c, i, "sinks"), CONV_VECTOR,
                                            conv_take(c, conv_layer_name(c, d, i, d->sinks), d->heads, 0)));
    if (d->alibi && !conv_made(c, "alibi")) conv_make_values(c, "alibi", d->alibi, d->heads);
    if (d->alibi) conv_put(c, " slopes=@alibi");
    conv_put_real(c, "rounded", d->alibi_rounded, 0.0);
    conv_line(c, "%s", "");
}

/* ---- channel mixing ------------------------------------------------------------------------------------ */
/* From rS to the inner rows of the feed-forward part in *inner (before its output projection).             */
static CONV_UNUSED void conv_put_ffn(conv *c, const conv_decoder *d, int32_t i, int src, int *inner)
{
    conv_part parts[2];
    const char *gate = conv_out_name(c, i, "gate"), *up = conv_out_name(c, i, "up");
    if (d->gate_up) {
        const conv_part all = conv_part_of(c, d, "", conv_layer_name(c, d, i, d->gate_up),
                                           2 * (int64_t)d->ffn, d->dim, d->ffn_bias);
        parts[0] = conv_part_rows(c, all, gate, 0, d->ffn, d->ffn, d->ffn);
        parts[1] = conv_part_rows(c, all, up, d->ffn, d->ffn, d->ffn, d->ffn);
    } else if (d->gate) {
        parts[0] = conv_part_of(c, d, gate, conv_layer_name(c, d, i, d->gate), d->ffn, d->dim, d->ffn_bias);
        parts[1] = conv_part_of(c, d, up, conv_layer_name(c, d, i, d->up), d->ffn, d->dim, d->ffn_bias);
    } else {
        parts[0] = conv_part_of(c, d, up, conv_layer_name(c, d, i, d->up), d->ffn, d->dim, d->ffn_bias);
        conv_put_linear(c, 5, src, parts, 1, 1.0, 0);
        if (d->put_act) d->put_act(c, d, i, 5);
        else conv_line(c, "act r5 r5 kind=%s", d->act);
        *inner = 5;
        return;
    }
    conv_put_linear(c, 5, src, parts, 2, 1.0, 0);
    conv_line(c, "glu r6 r5 act=%s", d->act);
    *inner = 6;
}

/* Output projection of a branch from rS into the residual stream, over a norm if the branch has one.       */
static CONV_UNUSED void conv_put_branch_end(conv *c, const conv_decoder *d, int src, const conv_part *p,
                                            const char *norm_out, const char *norm_name)
{
    if (!norm_name) {
        conv_put_linear(c, 0, src, p, 1, d->residual_scale, CONV_ADD);
        return;
    }
    conv_put_linear(c, 1, src, p, 1, 1.0, 0);
    conv_put_norm(c, d, 1, 1, norm_out, norm_name);
    if (d->residual_scale != 1.0) conv_line(c, "scale r1 r1 by=%s", conv_real(c, d->residual_scale));
    conv_line(c, "add r0 r0 r1");
}

/* ---- whole model --------------------------------------------------------------------------------------- */
/* The norm of a layer that a name gives; returns dst, or src when there is no name.                        */
static int conv__layer_norm(conv *c, const conv_decoder *d, int32_t i, int dst, int src, const char *out,
                            const char *name)
{
    if (!name) return src;
    conv_put_norm(c, d, dst, src, conv_out_name(c, i, out), conv_layer_name(c, d, i, name));
    return dst;
}

static void conv__residual(conv *c, const conv_decoder *d, int32_t i, const char *name, const char *out)
{
    if (name)
        conv_line(c, "affine r0 r0 w=@%s", conv_make(c, conv_out_name(c, i, out), CONV_VECTOR,
                                                     conv_take(c, conv_layer_name(c, d, i, name), d->dim,
                                                               0)));
}

static CONV_UNUSED void conv_put_layer(conv *c, const conv_decoder *d, int32_t i)
{
    const char *post = d->attn_post_norm ? conv_layer_name(c, d, i, d->attn_post_norm) : NULL;
    const int pre = !d->norm_on_sum;
    conv_part end;
    int src = 0, ffn_src = 0, inner = 5;
    if (pre && i >= d->first_attn_norm)
        src = conv__layer_norm(c, d, i, d->norm_in_stream ? 0 : 1, 0, "attn_norm", d->attn_norm);
    ffn_src = src;
    if (d->parallel && d->ffn_norm)                    /* before the first branch changes the stream        */
        ffn_src = conv__layer_norm(c, d, i, 4, 0, "ffn_norm", d->ffn_norm);
    if (d->put_mixer) d->put_mixer(c, d, i, src);
    else conv_put_attention(c, d, i, src);
    end = conv_part_of(c, d, conv_out_name(c, i, "o"), conv_layer_name(c, d, i, d->o), d->dim,
                       (int64_t)d->heads * (d->v_dim ? d->v_dim : d->head_dim), d->o_bias);
    if (d->o_bias_name && conv_has(c, conv_layer_name(c, d, i, d->o_bias_name))) {
        end.has_bias = 1;
        end.bias = conv_take(c, conv_layer_name(c, d, i, d->o_bias_name), d->dim, 0);
    }
    if (d->o_norm)
        conv_put_norm_of(c, d, 3, 3, conv_out_name(c, i, "o_norm"), conv_layer_name(c, d, i, d->o_norm),
                         d->heads * d->head_dim);
    conv__residual(c, d, i, d->attn_residual, "attn_residual");
    conv_put_branch_end(c, d, 3, &end, conv_out_name(c, i, "attn_post_norm"), post);
    if (!pre) conv__layer_norm(c, d, i, 0, 0, "attn_norm", d->attn_norm);
    if (!d->parallel)
        ffn_src = pre ? conv__layer_norm(c, d, i, d->norm_in_stream ? 0 : 1, 0, "ffn_norm", d->ffn_norm) : 0;
    conv_put_ffn(c, d, i, ffn_src, &inner);
    if (d->down_norm)
        conv_put_norm_of(c, d, inner, inner, conv_out_name(c, i, "down_norm"),
                         conv_layer_name(c, d, i, d->down_norm), d->ffn);
    end = conv_part_of(c, d, conv_out_name(c, i, "down"), conv_layer_name(c, d, i, d->down), d->dim, d->ffn,
                       d->ffn_bias);
    post = d->ffn_post_norm ? conv_layer_name(c, d, i, d->ffn_post_norm) : NULL;
    conv__residual(c, d, i, d->ffn_residual, "ffn_residual");
    conv_put_branch_end(c, d, inner, &end, conv_out_name(c, i, "ffn_post_norm"), post);
    if (!pre) conv__layer_norm(c, d, i, 0, 0, "ffn_norm", d->ffn_norm);
}

/* Adds sin((p + offset) f_i) | cos((p + offset) f_i) to r0: a constant row of the sines and cosines of
   offset * f_i in r1, turned by p.                                                                         */
static CONV_UNUSED void conv_put_sines(conv *c, const conv_decoder *d)
{
    const int32_t half = d->dim / 2;
    float *freq = (float *)conv_alloc(c->env, (uint64_t)half, sizeof *freq);
    float *zero = (float *)conv_alloc(c->env, (uint64_t)d->dim, sizeof *zero);
    float *start = (float *)conv_alloc(c->env, (uint64_t)d->dim, sizeof *start);
    if (!freq || !zero || !start) return;
    for (int32_t i = 0; i < half; i++) {
        zero[i] = zero[half + i] = 0.0f;
        freq[i] = -d->sines[i];
        start[i] = (float)sin((double)d->sines_offset * (double)d->sines[i]);
        start[half + i] = (float)cos((double)d->sines_offset * (double)d->sines[i]);
    }
    conv_line(c, "clip r1 r0 low=0 high=0\naffine r1 r1 b=@%s", conv_make_values(c, "sines.start", start,
        d->dim));
    conv_line(c, "rope r1 r1 first=0 heads=1 head_dim=%d dims=%d style=half freq=@%s\nadd r0 r0 r1", d->dim,
              d->dim,
              conv_make_values(c, "sines.freq", freq, half));
}

static CONV_UNUSED void conv_put_embedding(conv *c, const conv_decoder *d)
{
    const char *name = conv_format(c->env, "%s%s", d->embed, d->weight_suffix);
    const int32_t width = d->embed_dim ? d->embed_dim : d->dim;
    conv_put(c, "embed r%d tokens w=@%s", d->embed_in ? 7 : 0,
             conv_make(c, "embed", CONV_TABLE, conv_take(c, name, d->vocab, width)));
    conv_put_real(c, "scale", d->embed_scale, 1.0);
    conv_line(c, "%s", "");
    if (d->embed_in) {
        const conv_part in = conv_part_of(c, d, "embed_in", d->embed_in, d->dim, width, CONV_NO_BIAS);
        conv_put_linear(c, 0, 7, &in, 1, 1.0, 0);
    }
    if (d->embed_norm) conv_line(c, "norm r0 r0 kind=%s eps=%s", d->norm, conv_real(c, d->norm_eps));
    if (d->positions) {
        name = conv_format(c->env, "%s%s", d->positions, d->weight_suffix);
        conv_put(c, "embed r0 positions w=@%s", conv_make(c, "positions", CONV_POSITIONS,
                                                          conv_take(c, name, (int64_t)c->max_context +
                                                                    d->position_offset, d->dim)));
        if (d->position_offset) conv_put(c, " offset=%d", d->position_offset);
        conv_line(c, " add=1");
    }
    if (d->position_values)
        conv_line(c, "embed r0 positions w=@%s add=1", conv_make_rows(c, "positions", d->position_values,
                                                                      c->max_context, d->dim));
    if (d->sines) conv_put_sines(c, d);
    if (d->embed_norm_name) conv_put_norm(c, d, 0, 0, "embed_norm", d->embed_norm_name);
}

/* What stands between the last layer and the head's weight; returns the register that the head reads.      */
static int conv__head_source(conv *c, const conv_decoder *d)
{
    conv_part p;
    if (d->head_dense) {
        p = conv_part_of(c, d, "head_dense", d->head_dense, d->dim, d->dim, CONV_BIAS_IF_PRESENT);
        conv_put_linear(c, 1, 0, &p, 1, 1.0, 0);
        conv_line(c, "act r1 r1 kind=%s", d->head_act);
        conv_put_norm(c, d, 0, 1, "head_norm", d->head_norm_name);
    }
    if (!d->head_in) return 0;
    p = conv_part_of(c, d, "head_in", d->head_in, d->embed_dim, d->dim, CONV_NO_BIAS);
    conv_put_linear(c, 7, 0, &p, 1, 1.0, 0);
    return 7;
}

/* Whether the tensor `head` is the embedding: the configuration says so (tied), and the checkpoint has no
   other one. Some models keep a head of their own whatever their configuration says.                       */
static CONV_UNUSED int conv_is_tied(conv *c, int tied, const char *embed, const char *head)
{
    conv_tensor *t = tied ? conv_source_find(&c->source, head) : NULL;
    const conv_tensor *of = t ? conv_source_find(&c->source, embed) : NULL;
    if (of && conv_tensors_differ(of, t)) return 0;
    if (t) t->used = 1;                                /* a copy of the embedding                           */
    return tied;
}

static CONV_UNUSED void conv_put_head(conv *c, const conv_decoder *d)
{
    const char *weight = conv_format(c->env, "%s%s", d->head, d->weight_suffix),
        *bias = d->head_bias_name ? d->head_bias_name : conv_format(c->env, "%s.bias", d->head);
    const int32_t width = d->embed_dim ? d->embed_dim : d->dim;
    const char *embed = conv_format(c->env, "%s%s", d->embed, d->weight_suffix);
    const int src = conv__head_source(c, d), tied = conv_is_tied(c, d->tied, embed, weight);
    conv_put(c, "head logits r%d w=@%s", src,
             tied ? "embed" : conv_make(c, "head", CONV_TABLE, conv_take(c, weight, d->vocab, width)));
    if (d->head_bias == CONV_BIAS || (d->head_bias == CONV_BIAS_IF_PRESENT && conv_has(c, bias)))
        conv_put(c, " b=@%s", conv_make(c, "head.bias", CONV_VECTOR, conv_take(c, bias, d->vocab, 0)));
    conv_put_real(c, "scale", d->head_scale, 1.0);
    conv_put_real(c, "softcap", d->head_softcap, 0.0);
    conv_line(c, "%s", "");
}

/* Final norm, with an epsilon of its own where it has one, and head                                        */
static CONV_UNUSED void conv_put_output(conv *c, const conv_decoder *d)
{
    conv_decoder last = *d;
    if (d->final_eps != 0.0) last.norm_eps = d->final_eps;
    conv_line(c, "# output");
    if (d->final_norm) conv_put_norm(c, &last, 0, 0, "norm", d->final_norm);
    conv_put_head(c, d);
}

static CONV_UNUSED void conv_emit_decoder(conv *c, const conv_decoder *d)
{
    if (c->env->failed) return;
    conv_put_embedding(c, d);
    for (int32_t i = 0; i < d->layers && !c->env->failed; i++) {
        conv_line(c, "# layer %d", i);
        conv_put_layer(c, d, i);
    }
    conv_put_output(c, d);
}

/* ---- the usual sources of sizes and names -------------------------------------------------------------- */
typedef struct conv_size_keys {       /* usual_context: without the key, or CONV_REQUIRED                   */
    const char *dim, *layers, *heads, *context;
    int64_t     usual_context;
} conv_size_keys;

/* Clears the decoder and reads its sizes under these keys: keys and values for every head; the width of the
   feed-forward part is left to the caller. tied: as below.                                                 */
static CONV_UNUSED void conv_hf_sizes(conv *c, conv_decoder *d, const conv_size_keys *k, int tied)
{
    memset(d, 0, sizeof *d);
    d->dim = conv_size(c, k->dim, CONV_REQUIRED);
    d->layers = conv_size(c, k->layers, CONV_REQUIRED);
    d->heads = d->kv_heads = conv_size(c, k->heads, CONV_REQUIRED);
    d->head_dim = conv_head_dim(c, d->dim, d->heads);
    d->vocab = conv_size(c, "vocab_size", CONV_REQUIRED);
    c->max_context = conv_size(c, k->context, k->usual_context);
    d->tied = conv_bool(c, "tie_word_embeddings", tied);
}

/* config.json and tensor names in the style of transformers' LlamaForCausalLM. tied: default of
   tie_word_embeddings; head_key, head_dim: key of the channels of a head, and what they are without it (0:
   dim / heads). The activation is left to the caller.                                                      */
static CONV_UNUSED int conv_hf_decoder_of(conv *c, conv_decoder *d, int tied, const char *head_key,
                                          int32_t head_dim)
{
    const char *prefix = conv_prefix(c, "model.", "embed_tokens.weight");
    memset(d, 0, sizeof *d);
    d->dim = conv_size(c, "hidden_size", CONV_REQUIRED);
    d->layers = conv_size(c, "num_hidden_layers", CONV_REQUIRED);
    d->heads = conv_size(c, "num_attention_heads", CONV_REQUIRED);
    d->kv_heads = conv_size(c, "num_key_value_heads", d->heads);
    if (conv_key(c, head_key) || head_dim) d->head_dim = conv_size(c, head_key, head_dim);
    else d->head_dim = conv_head_dim(c, d->dim, d->heads);
    if (json_is(conv_key(c, "intermediate_size"), JSON_ARRAY)) d->ffn = 1; /* for each layer: the caller's  */
    else if (conv_key(c, "intermediate_size") || !conv_key(c, "moe_intermediate_size"))
        d->ffn = conv_size(c, "intermediate_size", CONV_REQUIRED);
    d->vocab = conv_size(c, "vocab_size", CONV_REQUIRED);
    c->max_context = conv_size(c, "max_position_embeddings", CONV_REQUIRED);
    d->tied = conv_bool(c, "tie_word_embeddings", tied);
    d->embed = conv_format(c->env, "%sembed_tokens", prefix);
    d->final_norm = conv_format(c->env, "%snorm", prefix);
    d->layer_prefix = conv_format(c->env, "%slayers.", prefix);
    d->head = "lm_head";
    d->attn_norm = "input_layernorm";
    d->ffn_norm = "post_attention_layernorm";
    d->q = "self_attn.q_proj";
    d->k = "self_attn.k_proj";
    d->v = "self_attn.v_proj";
    d->o = "self_attn.o_proj";
    d->gate = "mlp.gate_proj";
    d->up = "mlp.up_proj";
    d->down = "mlp.down_proj";
    return conv_decoder_defaults(c, d);
}

static CONV_UNUSED int conv_hf_decoder_no_act(conv *c, conv_decoder *d, int tied)
{
    return conv_hf_decoder_of(c, d, tied, "head_dim", 0);
}
static CONV_UNUSED int conv_hf_decoder(conv *c, conv_decoder *d, int tied)
{
    if (!conv_hf_decoder_no_act(c, d, tied)) return 0;
    if (conv_key(c, "hidden_act")) d->act = conv_activation(c, "hidden_act", NULL);
    return !c->env->failed;
}

/* "layer_types" of config.json into windows and indices of ropes (-1: none); returns 0 when the key is
   absent.                                                                                                  */
static CONV_UNUSED int conv_hf_layer_types(conv *c, conv_decoder *d, int32_t window, int32_t full_rope,
                                           int32_t sliding_rope)
{
    const json_value *types = conv_key(c, "layer_types");
    if (!types || c->env->failed) return 0;
    if (json_count(types) != (uint32_t)d->layers)
        return conv_fail(c->env, "config.json: \"layer_types\" has %u items for %d layers", json_count(types),
                         d->layers);
    for (int32_t i = 0; i < d->layers; i++) {
        const char *type = json_text(json_at(types, (uint32_t)i), "");
        const int sliding = strcmp(type, "sliding_attention") == 0;
        if (!sliding && strcmp(type, "full_attention") != 0)
            return conv_fail(c->env, "config.json: \"layer_types\": \"%.40s\" is not known", type);
        if (sliding && !window) return conv_fail(c->env, "config.json: key \"sliding_window\" is missing");
        d->layer_window[i] = sliding ? window : 0;
        d->layer_rope[i] = sliding ? sliding_rope : full_rope;
    }
    return 1;
}

/* Windows of a GGUF model: sliding_window_pattern says for each layer whether it has one, or that each
   n-th has none; llama.cpp knows the usual n of an architecture by heart.                                  */
static CONV_UNUSED void conv_gguf_windows(conv *c, const conv_decoder *d, int32_t window, int32_t n,
                                          int32_t full_rope, int32_t sliding_rope)
{
    const gguf_kv *kv = conv_gguf_key(c, "attention.sliding_window_pattern");
    if (!kv || gguf_is_number(kv)) {
        conv_window_pattern(d, window, kv ? conv_gguf_size(c, "attention.sliding_window_pattern", n) : n,
                            full_rope, sliding_rope);
        return;
    }
    if (kv->type != GGUF_ARRAY || kv->item_type == GGUF_STRING || kv->count != (uint64_t)d->layers) {
        conv_fail(c->env, "%s: key %.100s is not a list of %d items", c->gguf->file->path, kv->key,
                  d->layers);
        return;
    }
    for (int32_t i = 0; i < d->layers; i++) {
        const int sliding = gguf_number_at(kv, (uint64_t)i) != 0.0;
        d->layer_window[i] = sliding ? window : 0;
        d->layer_rope[i] = sliding ? sliding_rope : full_rope;
    }
}

/* GGUF keys and tensor names of llama.cpp, but for the width of values.                                    */
static CONV_UNUSED int conv_gguf_base(conv *c, conv_decoder *d)
{
    const conv_tensor *embed = conv_source_find(&c->source, "token_embd.weight");
    memset(d, 0, sizeof *d);
    d->dim = conv_gguf_size(c, "embedding_length", 0);
    d->layers = conv_gguf_size(c, "block_count", 0);
    d->heads = conv_gguf_size(c, "attention.head_count", 0);
    d->kv_heads = conv_gguf_size(c, "attention.head_count_kv", d->heads);
    d->head_dim = conv_gguf_size(c, "attention.key_length", d->dim / d->heads > 0 ? d->dim / d->heads : 1);
    if (!conv_gguf_key(c, "attention.key_length")) d->head_dim = conv_head_dim(c, d->dim, d->heads);
    d->ffn = conv_gguf_size(c, "feed_forward_length", 0);
    d->vocab = embed && embed->ndim == 2 && embed->shape[0] <= INT32_MAX ? (int32_t)embed->shape[0] : 1;
    c->max_context = conv_gguf_size(c, "context_length", 0);
    d->tied = !conv_has(c, "output.weight");
    d->embed = "token_embd";
    d->final_norm = "output_norm";
    d->head = "output";
    d->layer_prefix = "blk.";
    d->attn_norm = "attn_norm";
    d->ffn_norm = "ffn_norm";
    d->q = "attn_q";
    d->k = "attn_k";
    d->v = "attn_v";
    d->o = "attn_output";
    d->gate = "ffn_gate";
    d->up = "ffn_up";
    d->down = "ffn_down";
    d->norm_eps = conv_gguf_number(c, "attention.layer_norm_rms_epsilon", 0.0);
    d->qkv_bias = d->o_bias = d->ffn_bias = d->head_bias = CONV_BIAS_IF_PRESENT;
    if (conv_gguf_key(c, "attention.layer_norm_epsilon")) {
        d->norm = "layer";
        d->norm_bias = CONV_BIAS_IF_PRESENT;
        d->norm_eps = conv_gguf_number(c, "attention.layer_norm_epsilon", (double)NAN);
    }
    if (conv_gguf_number(c, "attention.causal", 1.0) == 0.0)
        conv_fail(c->env, "%s: attention without a causal mask is not supported", c->gguf->file->path);
    if (!c->env->failed && !(d->norm_eps > 0.0))
        conv_fail(c->env, "%s: the norm's epsilon is missing", c->gguf->file->path);
    return conv_decoder_defaults(c, d);
}

static CONV_UNUSED int conv_gguf_decoder(conv *c, conv_decoder *d)
{
    if (!conv_gguf_base(c, d)) return 0;
    if (conv_gguf_size(c, "attention.value_length", d->head_dim) != d->head_dim)
        conv_fail(c->env, "%s: values of another width than keys are not supported", c->gguf->file->path);
    return !c->env->failed;
}

#endif /* CONV_DECODER_H_INCLUDED */
