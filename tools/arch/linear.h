/* arch/linear.h: models whose sequence mixers are of the linear-attention family: RWKV in its original files
   and
   of transformers, the models of flash-linear-attention (fla), xLSTM. Layers are written by prep_linear.h. */
#ifndef ARCH_LINEAR_H_INCLUDED
#define ARCH_LINEAR_H_INCLUDED
#include "ssm.h"
#include "../prep_linear.h"

/* ---- parts of models ----------------------------------------------------------------------------------- */
static lin arch_lin(conv *c, const char *from, const char *weight, int32_t layer)
{
    lin l;
    memset(&l, 0, sizeof l);
    l.c = c;
    l.from = from;
    l.weight = weight;
    l.out = layer < 0 ? "" : conv_format(c->env, "l%d.", layer);
    return l;
}
static void arch_lin_layer_norm(const lin *l, int dst, int src, const char *name, int32_t dim, double eps)
{
    conv_put(l->c, "norm r%d r%d kind=layer eps=%s w=@%s", dst, src, conv_real(l->c, eps),
             lin_vector(l, conv_format(l->c->env, "%s.weight", name), dim));
    conv_line(l->c, " b=@%s", lin_vector(l, conv_format(l->c->env, "%s.bias", name), dim));
}
static void arch_lin_embed(const lin *l, const char *name, int32_t vocab, int32_t dim)
{
    conv_line(l->c, "embed r0 tokens w=@%s", conv_make(l->c, "embed", CONV_TABLE, conv_take(l->c, name,
        vocab, dim)));
}
static void arch_lin_head(const lin *l, const char *name, int32_t vocab, int32_t dim)
{
    conv_line(l->c, "head logits r0 w=@%s", conv_make(l->c, "head", CONV_TABLE, conv_take(l->c, name, vocab,
                                                                                          dim)));
}

/* ---- RWKV ---------------------------------------------------------------------------------------------- */
static int arch_rwkv_is_original(conv *c) { return conv_has(c, "blocks.0.ln0.weight"); }

/* The version shows in the names: 4, 5, 6 or 7                                                             */
static int arch_rwkv_version(const lin *att)
{
    if (lin_has(att, "r_k")) return 7;
    if (lin_has(att, "time_maa_x")) return 6;
    return lin_has(att, "ln_x.weight") ? 5 : 4;
}
static int32_t arch_rwkv_heads(const lin *att, int version)
{
    if (version == 4) return 1;
    return lin_size(att, version == 7 ? "r_k" : version == 6 ? "time_faaaa" : "time_decay", 0);
}

/* Time mix and channel mix of a layer on the stream in r0; scale divides what they add                     */
static void arch_rwkv_layer(const lin *att, const lin *ffn, const lin_rwkv *r, int version, int32_t layer,
                            const lin *norms, double eps, double scale)
{
    conv_part out;
    int reg;
    arch_lin_layer_norm(norms, 1, 0, "ln1", r->dim, eps);
    reg = lin_put_rwkv(att, r, version, 1, layer == 0);
    out = lin_part(att, "output", r->dim, r->dim);
    conv_put_linear(att->c, 0, reg, &out, 1, scale, 1);
    arch_lin_layer_norm(norms, 1, 0, "ln2", r->dim, eps);
    reg = version == 7 ? lin_put_rwkv7_channels(ffn, r, 1) : lin_put_rwkv_channels(ffn, r, 1, version == 6);
    if (scale != 1.0) conv_line(att->c, "scale r%d r%d by=%s", reg, reg, conv_real(att->c, scale));
    conv_line(att->c, "add r0 r0 r%d", reg);
}

/* Official checkpoints (.pth) of RWKV-4 to 7 and the files of rwkv.cpp; sizes come from the shapes.        */
static void arch_rwkv_original(conv *c, int rwkv_cpp)
{
    static const char *const unused[] = { "blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2", NULL };
    lin l = arch_lin(c, "", ".weight", -1), att = arch_lin(c, "blocks.0.att.", ".weight", 0);
    const int version = arch_rwkv_version(&att);
    const int32_t vocab = lin_size(&l, "emb", 0);
    lin_rwkv r;
    int32_t layers = 0;
    c->architecture = conv_format(c->env, "rwkv%d", version);
    c->ignored = version == 7 ? unused : NULL;
    c->unlimited = 1;
    memset(&r, 0, sizeof r);
    r.dim = lin_size(&l, "emb", 1);
    r.heads = arch_rwkv_heads(&att, version);
    r.head_dim = r.dim / (r.heads > 0 ? r.heads : 1);
    r.ffn = lin_size(&l, "blocks.0.ffn.key", 0);
    /* as rwkv.cpp has it                        */
    r.norm_eps = rwkv_cpp && version == 5 ? 1e-5 : 64e-5;
    if (r.head_dim < 1 || r.heads * r.head_dim != r.dim)
        conv_fail(c->env, "%d heads do not divide a width of %d", r.heads, r.dim);
    while (!c->env->failed && conv_has(c, conv_format(c->env, "blocks.%d.ln1.weight", layers))) layers++;
    arch_lin_embed(&l, "emb.weight", vocab, r.dim);
    arch_lin_layer_norm(&l, 0, 0, "blocks.0.ln0", r.dim, 1e-5);
    for (int32_t i = 0; i < layers && !c->env->failed; i++) {
        const char *block = conv_format(c->env, "blocks.%d.", i);
        const lin norms = arch_lin(c, block, ".weight", i);
        lin ffn = arch_lin(c, conv_format(c->env, "%sffn.", block), ".weight", i);
        att = arch_lin(c, conv_format(c->env, "%satt.", block), ".weight", i);
        att.rwkv_cpp = ffn.rwkv_cpp = rwkv_cpp;
        ffn.out = conv_format(c->env, "l%d.ffn.", i);
        conv_line(c, "# layer %d", i);
        arch_rwkv_layer(&att, &ffn, &r, version, i, &norms, 1e-5, 1.0);
    }
    conv_line(c, "# output");
    arch_lin_layer_norm(&l, 0, 0, "ln_out", r.dim, 1e-5);
    arch_lin_head(&l, "head.weight", vocab, r.dim);
}

/* RWKV-4 of transformers. Every rescale_every layers the stream is halved, and what is added to it too.    */
static void arch_rwkv(conv *c)
{
    const int32_t vocab = conv_size(c, "vocab_size", 50277), layers = conv_size(c, "num_hidden_layers", 32);
    const int64_t every = conv_int(c, "rescale_every", 6, 0, 1 << 28);
    const double eps = conv_positive(c, "layer_norm_epsilon", 1e-5);
    const lin l = arch_lin(c, "", ".weight", -1);
    double scale = 1.0;
    int tied;
    lin_rwkv r;
    memset(&r, 0, sizeof r);
    r.dim = conv_size(c, "hidden_size", 4096);
    r.heads = 1;
    r.head_dim = r.dim;
    r.ffn = conv_size(c, "intermediate_size", 4 * (int64_t)r.dim);
    c->max_context = conv_size(c, "context_length", 1024);
    c->unlimited = 1;
    tied = conv_is_tied(c, conv_bool(c, "tie_word_embeddings", 0), "rwkv.embeddings.weight", "head.weight");
    if (conv_size(c, "attention_hidden_size", r.dim) != r.dim)
        conv_fail(c->env, "config.json: \"attention_hidden_size\" other than hidden_size is not supported");
    arch_lin_embed(&l, "rwkv.embeddings.weight", vocab, r.dim);
    arch_lin_layer_norm(&l, 0, 0, "rwkv.blocks.0.pre_ln", r.dim, eps);
    for (int32_t i = 0; i < layers && !c->env->failed; i++) {
        const char *block = conv_format(c->env, "rwkv.blocks.%d.", i);
        const lin norms = arch_lin(c, block, ".weight", i);
        const lin att = arch_lin(c, conv_format(c->env, "%sattention.", block), ".weight", i);
        lin ffn = arch_lin(c, conv_format(c->env, "%sfeed_forward.", block), ".weight", i);
        ffn.out = conv_format(c->env, "l%d.ffn.", i);
        conv_line(c, "# layer %d", i);
        arch_rwkv_layer(&att, &ffn, &r, 4, i, &norms, eps, scale);
        if (every == 0 || (i + 1) % every) continue;
        scale *= 0.5;
        conv_line(c, "scale r0 r0 by=0.5");
    }
    conv_line(c, "# output");
    arch_lin_layer_norm(&l, 0, 0, "rwkv.ln_out", r.dim, 1e-5);
    if (tied) conv_line(c, "head logits r0 w=@embed");
    else arch_lin_head(&l, "head.weight", vocab, r.dim);
}

/* ---- flash-linear-attention: one decoder, many mixers -------------------------------------------------- */
typedef struct arch_fla {
    conv        *c;
    conv_decoder d;
    lin          l;                   /* of the current layer's mixer                                       */
    int32_t      layer, inner;        /* inner: columns of the mixer's result                               */
    double       norm_eps;
} arch_fla;

static int32_t arch_fla_expanded(arch_fla *f, const char *key, double otherwise)
{
    const double n = conv_positive(f->c, key, otherwise) * f->d.dim;
    if (n >= 1.0 && n < 268435456.0) return (int32_t)n;
    conv_fail(f->c->env, "config.json: \"%s\" makes %g channels", key, n);
    return 1;
}

/* Keys about kernels and training                                                                          */
static void arch_fla_unused_keys(conv *c)
{
    static const char *const keys[] = {
        "attn_mode", "fuse_cross_entropy", "fuse_linear_cross_entropy", "fuse_norm", "fuse_swiglu",
            "use_l2warp",
        "hidden_ratio", NULL
    };
    for (int i = 0; keys[i]; i++) conv_key(c, keys[i]);
    conv_only_bool(c, "elementwise_affine", 1);
}
static int arch_fla_open(conv *c, arch_fla *f)
{
    conv_decoder *d = &f->d;
    double ratio;
    memset(f, 0, sizeof *f);
    f->c = c;
    d->dim = conv_size(c, "hidden_size", CONV_REQUIRED);
    d->layers = conv_size(c, "num_hidden_layers", CONV_REQUIRED);
    d->vocab = conv_size(c, "vocab_size", CONV_REQUIRED);
    ratio = conv_number(c, "hidden_ratio", 4.0);
    d->ffn = conv_size(c, "intermediate_size", ((int64_t)(d->dim * ratio * 2.0 / 3.0) + 255) / 256 * 256);
    d->heads = d->kv_heads = d->head_dim = 1;
    d->tied = conv_bool(c, "tie_word_embeddings", 0);
    d->norm_eps = f->norm_eps = conv_positive(c, "norm_eps", 1e-6);
    d->embed = "model.embeddings";
    d->final_norm = "model.norm";
    d->head = "lm_head";
    d->layer_prefix = "model.layers.";
    d->attn_norm = "attn_norm";
    d->ffn_norm = "mlp_norm";
    d->gate = "mlp.gate_proj";
    d->up = "mlp.up_proj";
    d->down = "mlp.down_proj";
    c->max_context = conv_size(c, "max_position_embeddings", 2048);
    c->unlimited = 1;
    arch_fla_unused_keys(c);
    return conv_decoder_defaults(c, d);
}

/* mixer: from r1 to the register that it returns                                                           */
static void arch_fla_model(conv *c, int (*mixer)(arch_fla *f))
{
    arch_fla f;
    if (!arch_fla_open(c, &f)) return;
    f.d.act = conv_activation(c, "hidden_act", "swish");
    conv_put_embedding(c, &f.d);
    for (int32_t i = 0; i < f.d.layers && !c->env->failed; i++) {
        conv_part out;
        int reg;
        conv_line(c, "# layer %d", i);
        arch_layer_norm(c, &f.d, i, "attn_norm", f.d.attn_norm);
        f.layer = i;
        f.l = arch_lin(c, conv_format(c->env, "model.layers.%d.attn.", i), ".weight", i);
        reg = mixer(&f);
        out = lin_part(&f.l, "o_proj", f.d.dim, f.inner);
        conv_put_linear(c, 0, reg, &out, 1, 1.0, CONV_ADD);
        arch_ffn_branch(c, &f.d, i);
    }
    conv_put_output(c, &f.d);
}

/* Projections and convolutions; sizes of y are set.                                                        */
static void arch_fla_qkv(arch_fla *f, lin_layer *y)
{
    static const char *const kernels[3] = { "q_conv1d", "k_conv1d", "v_conv1d" };
    const int64_t steps = y->steps > 1 ? y->steps : 1;
    y->dim = f->d.dim;
    y->norm_eps = f->norm_eps;
    y->q = lin_part(&f->l, "q_proj", (int64_t)y->q_heads * y->key_dim, f->d.dim);
    y->k = lin_part(&f->l, "k_proj", steps * y->k_heads * y->key_dim, f->d.dim);
    y->v = lin_part(&f->l, "v_proj", steps * y->v_heads * y->v_dim, f->d.dim);
    y->taps = conv_size(f->c, "conv_size", 4);
    if (conv_bool(f->c, "use_short_conv", 0)) {
        memcpy(y->conv, kernels, sizeof kernels);
        y->n_conv = 3;
    }
    f->inner = y->heads * y->v_dim;
}
/* Sizes from num_heads, num_kv_heads, expand_k, expand_v                                                   */
static void arch_fla_expanded_heads(arch_fla *f, lin_layer *y, double expand_k, double expand_v)
{
    memset(y, 0, sizeof *y);
    y->heads = y->q_heads = conv_size(f->c, "num_heads", 4);
    y->k_heads = y->v_heads = y->decay_heads = conv_size(f->c, "num_kv_heads", y->heads);
    y->key_dim = arch_fla_expanded(f, "expand_k", expand_k) / y->heads;
    y->v_dim = arch_fla_expanded(f, "expand_v", expand_v) / y->heads;
}
/* Sizes from num_heads, num_v_heads, head_dim, expand_v                                                    */
static void arch_fla_fixed_heads(arch_fla *f, lin_layer *y, double expand_v)
{
    memset(y, 0, sizeof *y);
    y->q_heads = y->k_heads = conv_size(f->c, "num_heads", 4);
    y->heads = y->v_heads = y->decay_heads = conv_size(f->c, "num_v_heads", y->q_heads);
    y->key_dim = conv_size(f->c, "head_dim", 256);
    y->v_dim = (int32_t)(conv_positive(f->c, "expand_v", expand_v) * y->key_dim);
}
static void arch_fla_gate(arch_fla *f, lin_layer *y, const char *act)
{
    y->gate = lin_part(&f->l, "g_proj", (int64_t)y->heads * y->v_dim, f->d.dim);
    y->gate_act = act;
}

static void arch_fla_rope(arch_fla *f, conv_rope *rope, int32_t dims)
{
    memset(rope, 0, sizeof *rope);
    rope->name = "rope.freq";
    rope->style = "half";
    rope->dims = dims;
    rope->freq = lin_floats(&f->l, dims / 2);
    for (int32_t i = 0; rope->freq && i < dims / 2; i++) rope->freq[i] = (float)pow(10000.0, -2.0 * i / dims);
}

static int arch_fla_gla(arch_fla *f)
{
    lin_layer y;
    arch_fla_expanded_heads(f, &y, 0.5, 1.0);
    arch_fla_qkv(f, &y);
    if (y.n_conv) y.qk_act = y.v_act = "silu";
    conv_only_bool(f->c, "use_gk", 1);
    conv_only_bool(f->c, "use_gv", 0);
    conv_only_bool(f->c, "use_output_gate", 1);
    y.decay = LIN_DECAY_SIGMOID;
    y.decay_is_vector = 1;
    y.decay_number = 16.0;
    y.decay_inner = lin_part(&f->l, "gk_proj.0", lin_size(&f->l, "gk_proj.0", 0), f->d.dim);
    y.decay_outer = lin_part(&f->l, "gk_proj.1", y.k_heads * y.key_dim, lin_size(&f->l, "gk_proj.0", 0));
    y.norm = LIN_NORM_HEAD;
    y.norm_weight = "g_norm_swish_gate";
    arch_fla_gate(f, &y, "silu");
    return lin_put(&f->l, &y, 1);
}
static int arch_fla_retnet(arch_fla *f)
{
    conv_rope rope;
    lin_layer y;
    arch_fla_expanded_heads(f, &y, 1.0, 2.0);
    arch_fla_qkv(f, &y);
    conv_only_bool(f->c, "use_short_conv", 0);
    conv_only_bool(f->c, "use_output_gate", 1);
    arch_fla_rope(f, &rope, y.key_dim);
    y.rope = &rope;
    y.decay = LIN_DECAY_FIXED;
    y.factors = lin_retention(&f->l, y.heads);
    y.norm = LIN_NORM_HEAD;
    y.norm_weight = "g_norm_swish_gate";
    arch_fla_gate(f, &y, "silu");
    return lin_put(&f->l, &y, 1);
}
static int arch_fla_delta_net(arch_fla *f)
{
    const char *act, *norm;
    lin_layer y;
    memset(&y, 0, sizeof y);
    y.heads = y.q_heads = y.k_heads = y.v_heads = conv_size(f->c, "num_heads", 4);
    y.key_dim = arch_fla_expanded(f, "expand_k", 1.0) / y.heads;
    y.v_dim = arch_fla_expanded(f, "expand_v", 1.0) / y.heads;
    arch_fla_qkv(f, &y);
    act = conv_word(f->c, "qk_activation", "silu");
    norm = conv_word(f->c, "qk_norm", "l2");
    y.qk_act = strcmp(act, "elu") == 0 ? "elu1" : strcmp(act, "identity") == 0 ? NULL : act;
    y.v_act = "silu";
    y.map = strcmp(norm, "l2") == 0 ? LIN_MAP_L2 : LIN_MAP_SUM;
    if (y.map == LIN_MAP_SUM && strcmp(norm, "sum") != 0)
        conv_fail(f->c->env, "config.json: \"qk_norm\": \"%.40s\" is not known", norm);
    if (strcmp(act, "silu") && strcmp(act, "elu") && strcmp(act, "relu") && strcmp(act, "identity"))
        conv_fail(f->c->env, "config.json: \"qk_activation\": \"%.40s\" is not known", act);
    conv_only_bool(f->c, "use_beta", 1);
    conv_only_bool(f->c, "use_output_norm", 1);
    y.update = "delta";
    y.beta = lin_part(&f->l, "b_proj", y.heads, f->d.dim);
    y.beta_scale = conv_bool(f->c, "allow_neg_eigval", 0) ? 2.0 : 1.0;
    y.norm = LIN_NORM_HEAD;
    y.norm_weight = "o_norm";
    if (conv_bool(f->c, "use_gate", 0)) arch_fla_gate(f, &y, "silu");
    return lin_put(&f->l, &y, 1);
}
/* What gated DeltaNet, DeltaProduct and Comba have in common                                               */
static void arch_fla_gated_delta(arch_fla *f, lin_layer *y, const char *gate_key, const char *gate_act)
{
    arch_fla_qkv(f, y);
    y->qk_act = y->v_act = "silu";
    y->map = LIN_MAP_L2;
    y->update = "delta";
    y->decay = LIN_DECAY_SOFTPLUS;
    y->decay_outer = lin_part(&f->l, "a_proj", y->heads, f->d.dim);
    y->a_log = "A_log";
    y->dt_bias = "dt_bias";
    y->beta = lin_part(&f->l, "b_proj", (int64_t)(y->steps > 1 ? y->steps : 1) * y->heads, f->d.dim);
    y->norm = LIN_NORM_HEAD;
    y->norm_weight = "o_norm";
    if (conv_bool(f->c, gate_key, 1)) arch_fla_gate(f, y, gate_act);
}
static int arch_fla_gated_deltanet(arch_fla *f)
{
    lin_layer y;
    arch_fla_fixed_heads(f, &y, 2.0);
    y.beta_scale = conv_bool(f->c, "allow_neg_eigval", 0) ? 2.0 : 1.0;
    if (conv_key(f->c, "output_gate_activation")) conv_activation(f->c, "output_gate_activation", NULL);
    arch_fla_gated_delta(f, &y, "use_gate", conv_activation(f->c, "output_gate_activation", "swish"));
    return lin_put(&f->l, &y, 1);
}
static int arch_fla_deltaproduct(arch_fla *f)
{
    lin_layer y;
    arch_fla_fixed_heads(f, &y, 2.0);
    y.steps = conv_size(f->c, "num_householder", 2);
    y.beta_scale = conv_bool(f->c, "allow_neg_eigval", 1) ? 2.0 : 1.0;
    conv_only_bool(f->c, "use_forget_gate", 1);
    arch_fla_gated_delta(f, &y, "use_output_gate", "silu");
    return lin_put(&f->l, &y, 1);
}
static int arch_fla_kda(arch_fla *f)
{
    lin_layer y;
    int32_t rank;
    arch_fla_fixed_heads(f, &y, 1.0);
    arch_fla_qkv(f, &y);
    y.qk_act = y.v_act = "silu";
    y.map = LIN_MAP_L2;
    y.update = "delta";
    y.decay = conv_key(f->c, "lower_bound") ? LIN_DECAY_BOUNDED : LIN_DECAY_SOFTPLUS;
    y.decay_number = conv_number(f->c, "lower_bound", 0.0);
    conv_key(f->c, "safe_gate");      /* chooses a kernel                                                   */
    y.decay_is_vector = 1;
    rank = lin_size(&f->l, "f_proj.0", 0);
    y.decay_inner = lin_part(&f->l, "f_proj.0", rank, f->d.dim);
    y.decay_outer = lin_part(&f->l, "f_proj.1", y.heads * y.key_dim, rank);
    y.a_log = "A_log";
    y.dt_bias = "dt_bias";
    y.beta = lin_part(&f->l, "b_proj", y.heads, f->d.dim);
    y.beta_scale = conv_bool(f->c, "allow_neg_eigval", 0) ? 2.0 : 1.0;
    y.norm = LIN_NORM_HEAD;
    y.norm_weight = "o_norm";
    rank = lin_size(&f->l, "g_proj.0", 0);
    y.gate_inner = lin_part(&f->l, "g_proj.0", rank, f->d.dim);
    y.gate = lin_part(&f->l, "g_proj.1", y.heads * y.v_dim, rank);
    y.gate_act = "sigmoid";
    return lin_put(&f->l, &y, 1);
}
/* Lower bounds of all layers: softmax over the layers, summed up, less the first                           */
static const float *arch_fla_bounds(arch_fla *f, int64_t n)
{
    const lin l = arch_lin(f->c, "model.", ".weight", -1);
    const float *raw = lin_read(&l, "lower_bounds", f->d.layers * n);
    float *bound = lin_floats(&l, n);
    for (int64_t i = 0; raw && bound && i < n; i++) {
        double top = -1e30, all = 0.0, sum = 0.0;
        for (int32_t k = 0; k < f->d.layers; k++) top = fmax(top, (double)raw[k * n + i]);
        for (int32_t k = 0; k < f->d.layers; k++) all += exp((double)raw[k * n + i] - top);
        for (int32_t k = 1; k <= f->layer; k++) sum += exp((double)raw[k * n + i] - top) / all;
        bound[i] = (float)sum;
    }
    return bound;
}
static int arch_fla_hgrn2(arch_fla *f)
{
    const float *bound = NULL;
    lin_layer y;
    memset(&y, 0, sizeof y);
    y.heads = conv_size(f->c, "num_heads", 4);
    y.key_dim = conv_size(f->c, "expand_ratio", 128);
    y.v_dim = f->d.dim / y.heads;
    y.dim = f->d.dim;
    conv_only_bool(f->c, "use_short_conv", 0);
    conv_key(f->c, "conv_size");
    if (conv_bool(f->c, "use_lower_bound", 1)) bound = arch_fla_bounds(f, (int64_t)y.heads * y.key_dim);
    y.q = lin_part(&f->l, "q_proj", (int64_t)y.heads * y.key_dim, f->d.dim);
    y.v = lin_part(&f->l, "i_proj", f->d.dim, f->d.dim);
    y.norm = LIN_NORM_ALL;
    y.norm_weight = "g_norm";
    y.norm_eps = 1e-5;                /* the fused kernel's own, whatever norm_eps says                     */
    f->inner = y.heads * y.v_dim;
    return lin_put_hgrn2(&f->l, &y, lin_part(&f->l, "f_proj", (int64_t)y.heads * y.key_dim, f->d.dim),
                         bound, 1);
}

/* Words in front of columns: "first=.. count=.."                                                           */
static const char *arch_cut(conv *c, int32_t first, int32_t count)
{
    return conv_format(c->env, "first=%d count=%d", first, count);
}
/* rD = (A x + a) * (B x + b) for each head of rS, by the same A, B                                         */
static void arch_fla_hadamard(const lin *l, int dst, int src, const char *name, int32_t heads, int32_t dim)
{
    for (int i = 1; i <= 2; i++) {
        const char *layer = conv_format(l->c->env, "%s.layer%d", name, i);
        const float *w = lin_blocks(l, conv_format(l->c->env, "%s.weight", layer), 1, dim, dim);
        const float *b = lin_read(l, conv_format(l->c->env, "%s.bias", layer), dim);
        float *biases = lin_floats(l, (int64_t)heads * dim);
        const int reg = i == 1 ? dst : 8;
        for (int32_t k = 0; b && biases && k < heads * dim; k++) biases[k] = b[k % dim];
        conv_line(l->c, "blocks r%d r%d w=@%s out=%d groups=%d shared=1", reg, src,
                  lin_values(l, layer, w, (int64_t)dim * dim), dim, heads);
        conv_line(l->c, "affine r%d r%d b=@%s", reg, reg,
                  lin_values(l, conv_format(l->c->env, "%s.bias", layer), biases, (int64_t)heads * dim));
    }
    conv_line(l->c, "mul r%d r%d r8", dst, dst);
}
static int arch_fla_linear_attn(arch_fla *f)
{
    const char *map = conv_word(f->c, "feature_map", "elementwise_product");
    const int normalize = conv_bool(f->c, "norm_feature_map", 0);
    int32_t q, k, rows = 2;
    lin_layer y;
    conv_part parts[3];
    arch_fla_expanded_heads(f, &y, 1.0, 1.0);
    arch_fla_qkv(f, &y);
    conv_key(f->c, "do_feature_map_norm");            /* read by no layer                                   */
    q = y.q_heads * y.key_dim;
    k = y.k_heads * y.key_dim;
    parts[0] = y.q; parts[1] = y.k; parts[2] = y.v;
    conv_put_linear(f->c, 2, 1, parts, 3, 1.0, 0);
    if (strcmp(map, "elu") == 0 || strcmp(map, "relu") == 0) {
        conv_line(f->c, "act r2 r2 kind=%s %s", map[0] == 'e' ? "elu1" : "relu", arch_cut(f->c, 0, q + k));
    } else if (strcmp(map, "elementwise_product") == 0) {
        conv_line(f->c, "copy r3 r2 %s", arch_cut(f->c, 0, q));
        arch_fla_hadamard(&f->l, 4, 3, "feature_map_q", y.q_heads, y.key_dim);
        conv_line(f->c, "copy r3 r2 %s", arch_cut(f->c, q, k));
        arch_fla_hadamard(&f->l, 5, 3, conv_bool(f->c, "tie_feature_map_qk",
                                                 0) ? "feature_map_q" : "feature_map_k",
                          y.k_heads, y.key_dim);
        conv_line(f->c, "cat r6 r4 r5");
        conv_line(f->c, "copy r3 r2 first=%d", q + k);
        conv_line(f->c, "cat r9 r6 r3");
        rows = 9;
    } else if (strcmp(map, "identity") != 0) {
        conv_fail(f->c->env, "config.json: \"feature_map\": \"%.40s\" is not supported", map);
    }
    conv_bool(f->c, "tie_feature_map_qk", 0);
    if (conv_bool(f->c, "norm_q", 0))
        conv_line(f->c, "norm r%d r%d kind=sum eps=1e-4 groups=%d %s", rows, rows, y.q_heads, arch_cut(f->c,
            0, q));
    if (conv_bool(f->c, "norm_k", 0))
        conv_line(f->c, "norm r%d r%d kind=sum eps=1e-4 groups=%d %s", rows, rows, y.k_heads, arch_cut(f->c,
            q, k));
    if (normalize) y.more = "normalizer=sum eps=1e-10";
    y.norm = LIN_NORM_HEAD;
    y.norm_weight = "norm";
    lin__defaults(&y);
    lin_put_mixer(&f->l, &y, 7, rows);
    lin_put_end(&f->l, &y, 1, -1);
    return 7;
}

/* Comba: the delta rule predicts with p = sigmoid(decay_h) k from the state before the decay; q less D_h p.
   All three are normalised after that.                                                                     */
static double arch_sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
static double arch_minus(double x) { return -x; }
static int arch_fla_comba(arch_fla *f)
{
    const lin *l = &f->l;
    int32_t gate_at = -1, n, v;
    const float *decay, *correction;
    lin_layer y;
    arch_fla_fixed_heads(f, &y, 2.0);
    conv_only_bool(f->c, "use_inner_decay", 1);
    conv_only_bool(f->c, "use_output_correction", 1);
    conv_key(f->c, "correction_factor");              /* the value that D starts from                       */
    if (y.heads != y.k_heads) conv_fail(f->c->env,
                                        "config.json: \"num_v_heads\" other than num_heads is not supported");
    arch_fla_gated_delta(f, &y, "use_output_gate", "sigmoid");
    y.map = LIN_MAP_NONE;
    y.update = "dplr";
    lin__defaults(&y);
    n = y.heads * y.key_dim;
    v = y.heads * y.v_dim;
    (void)lin__rows(l, &y, 1, &gate_at);              /* r9: q | k | v | decay | beta                       */
    decay = lin_spread(l, lin_read(l, "decay", y.heads), y.heads, y.key_dim, arch_sigmoid);
    correction = lin_spread(l, lin_read(l, "D", y.heads), y.heads, y.key_dim, arch_minus);
    conv_line(f->c, "copy r3 r9 %s", arch_cut(f->c, n, n));
    conv_line(f->c, "affine r4 r3 w=@%s", lin_values(l, "inner_decay", decay, n));
    conv_line(f->c, "affine r5 r4 w=@%s", lin_values(l, "correction", correction, n));
    conv_line(f->c, "copy r6 r9 %s", arch_cut(f->c, 0, n));
    conv_line(f->c, "add r6 r6 r5");
    for (int reg = 3; reg < 7; reg += reg == 4 ? 2 : 1)
        conv_line(f->c, "norm r%d r%d kind=l2 eps=1e-6 groups=%d", reg, reg, y.heads);
    conv_line(f->c, "cat r8 r6 r3");
    conv_line(f->c, "copy r5 r9 first=%d", 2 * n);
    conv_line(f->c, "cat r6 r8 r5");
    conv_line(f->c, "cat r8 r6 r4");
    conv_line(f->c, "copy r5 r9 first=%d", 2 * n + v + y.heads);
    conv_line(f->c, "mul r3 r3 r5");
    conv_line(f->c, "scale r3 r3 by=-1");
    conv_line(f->c, "cat r9 r8 r3");
    lin_put_mixer(l, &y, 7, 9);
    lin_put_end(l, &y, 1, gate_at);
    return 7;
}

/* HGRN: h = f h + (1 - f) silu(i) channel by channel                                                       */
static int arch_fla_hgrn(arch_fla *f)
{
    const lin *l = &f->l;
    const int32_t n = arch_fla_expanded(f, "expand_ratio", 1.0);
    float *ones = lin_floats(l, n), *minus = lin_floats(l, n);
    const char *one;
    conv_part parts[2];
    conv_size(f->c, "num_heads", 4);
    conv_only_bool(f->c, "use_short_conv", 0);
    conv_key(f->c, "conv_size");
    f->inner = n;
    parts[0] = lin_part(l, "i_proj", n, f->d.dim);
    parts[1] = lin_part(l, "f_proj", n, f->d.dim);
    conv_put_linear(f->c, 2, 1, parts, 2, 1.0, 0);
    conv_line(f->c, "act r2 r2 kind=sigmoid %s", arch_cut(f->c, n, n));
    if (conv_bool(f->c, "use_lower_bound", 1)) {
        const float *bound = arch_fla_bounds(f, n);
        float *rest = lin_floats(l, n);
        for (int32_t i = 0; bound && rest && i < n; i++) rest[i] = (float)(1.0 - (double)bound[i]);
        conv_put(f->c, "affine r2 r2 w=@%s", lin_values(l, "rest", rest, n));
        conv_line(f->c, " b=@%s %s", lin_values(l, "bound", bound, n), arch_cut(f->c, n, n));
    }
    for (int32_t i = 0; ones && minus && i < n; i++) { ones[i] = 1.0f; minus[i] = -1.0f; }
    one = conv_make_panels(f->c, lin_out(l, "ones"), ones, n, 1);
    conv_line(f->c, "copy r3 r2 %s", arch_cut(f->c, n, n));
    conv_line(f->c, "scale r4 r3 by=-1");
    conv_line(f->c, "affine r4 r4 b=@%s", lin_values(l, "one", ones, n));
    conv_line(f->c, "copy r5 r2 %s", arch_cut(f->c, 0, n));
    conv_line(f->c, "gate r4 r4 r5 act=silu");
    conv_line(f->c, "act r3 r3 kind=log");            /* e^(dt a) = f with dt = -log f, a = -1              */
    conv_line(f->c, "scale r3 r3 by=-1");
    conv_line(f->c, "cat r6 r4 r3");
    conv_line(f->c, "mix r7 r6 scan a=@%s b=@%s c=@%s input=one dt_act=none",
              conv_make_panels(f->c, lin_out(l, "minus"), minus, n, 1), one, one);
    conv_line(f->c, "norm r7 r7 kind=rms eps=%s w=@%s", conv_real(f->c, f->norm_eps), lin_vector(l,
        "g_norm", n));
    lin_linear(l, 8, 1, lin_part(l, "g_proj", n, f->d.dim));
    conv_line(f->c, "gate r7 r7 r8 act=silu");
    return 7;
}

/* Slots: S = keys by slots, whose softmax weighs slots by values. r4: what a row writes into each slot, r3:
   what
   each slot keeps; r2: q | k | v. Result in r7.                                                            */
static void arch_fla_slots(const lin *l, const lin_layer *y, int32_t slots, double scale)
{
    const int32_t keys = (y->q_heads + y->k_heads) * y->key_dim;
    conv_line(l->c, "copy r5 r2 %s", arch_cut(l->c, 0, keys));
    conv_line(l->c, "cat r6 r5 r4");
    conv_line(l->c, "cat r5 r6 r3");
    conv_line(l->c,
              "mix r7 r5 linear_attention heads=%d k_heads=%d v_heads=%d decay_heads=%d key_dim=%d v_dim=%d "
              "decay=value scale=%s", y->heads, y->k_heads, y->k_heads, y->k_heads, y->key_dim, slots,
              conv_real(l->c, scale));
    conv_line(l->c, "softmax r7 r7 groups=%d", y->heads);
    conv_line(l->c, "cat r5 r7 r4");
    conv_line(l->c, "copy r8 r2 %s", arch_cut(l->c, keys, y->v_heads * y->v_dim));
    conv_line(l->c, "cat r6 r5 r8");
    conv_line(l->c, "cat r5 r6 r3");
    conv_line(l->c,
              "mix r7 r5 linear_attention heads=%d k_heads=%d v_heads=%d decay_heads=%d key_dim=%d v_dim=%d "
              "decay=vector", y->heads, y->k_heads, y->k_heads, y->k_heads, slots, y->v_dim);
}
static int arch_fla_gsa(arch_fla *f)
{
    const int32_t slots = conv_size(f->c, "num_slots", 64);
    const lin *l = &f->l;
    const char *map = conv_word(f->c, "feature_map", "swish");
    float *ones;
    conv_part parts[4];
    lin_layer y;
    int32_t at, n;
    arch_fla_expanded_heads(f, &y, 1.0, 1.0);
    arch_fla_qkv(f, &y);
    conv_only_bool(f->c, "use_short_conv", 0);
    conv_only_bool(f->c, "use_output_gate", 0);
    conv_only_bool(f->c, "use_norm", 1);
    if (strcmp(map, "swish") && strcmp(map, "relu"))
        conv_fail(f->c->env, "config.json: \"feature_map\": \"%.40s\" is not supported", map);
    at = (y.q_heads + y.k_heads) * y.key_dim;
    n = y.k_heads * slots;
    parts[0] = y.q; parts[1] = y.k; parts[2] = y.v;
    parts[3] = lin_part(l, "f_proj", n, f->d.dim);
    conv_put_linear(f->c, 2, 1, parts, 4, 1.0, 0);
    conv_line(f->c, "act r2 r2 kind=%s %s", map[0] == 's' ? "silu" : "relu", arch_cut(f->c, 0, at));
    conv_line(f->c, "act r2 r2 kind=silu %s", arch_cut(f->c, at, y.v_heads * y.v_dim));
    conv_line(f->c, "copy r3 r2 first=%d", at + y.v_heads * y.v_dim);
    lin_decay_sigmoid(l, 3, 0, n, conv_positive(f->c, "gate_logit_normalizer", 8.0));
    ones = lin_floats(l, n);
    for (int32_t i = 0; ones && i < n; i++) ones[i] = 1.0f;
    conv_line(f->c, "scale r4 r3 by=-1");
    conv_line(f->c, "affine r4 r4 b=@%s", lin_values(l, "one", ones, n));
    arch_fla_slots(l, &y, slots, 1.0);
    conv_line(f->c, "act r7 r7 kind=silu");
    conv_line(f->c, "norm r7 r7 kind=rms eps=1e-5 w=@%s", lin_vector(l, "g_norm", f->inner));
    return 7;
}
/* Softmax of the slots' scores over time: weights and what is kept of columns in r5, to r4 and r3          */
static void arch_fla_weights(const lin *l, int32_t n)
{
    conv_line(l->c, "mix r6 r5 running_softmax heads=%d weights=1", n);
    conv_line(l->c, "copy r4 r6 %s", arch_cut(l->c, 0, n));
    conv_line(l->c, "copy r3 r6 %s", arch_cut(l->c, n, n));
}
static int arch_fla_abc(arch_fla *f)
{
    const int32_t slots = conv_size(f->c, "num_slots", 64);
    const lin *l = &f->l;
    conv_part parts[4];
    conv_rope rope;
    lin_layer y;
    int32_t n, v;
    arch_fla_expanded_heads(f, &y, 0.5, 1.0);
    arch_fla_qkv(f, &y);
    conv_only_bool(f->c, "use_short_conv", 0);
    conv_key(f->c, "gate_low_rank_dim");              /* in use by no layer                                 */
    n = y.heads * slots;
    v = (y.q_heads + y.k_heads) * y.key_dim + y.v_heads * y.v_dim;
    parts[0] = y.q; parts[1] = y.k; parts[2] = y.v;
    parts[3] = lin_part(l, "s_proj", n, f->d.dim);
    conv_put_linear(f->c, 2, 1, parts, 4, 1.0, 0);
    if (conv_bool(f->c, "use_rope", 1)) {
        arch_fla_rope(f, &rope, y.key_dim);
        y.rope = &rope;
        y.steps = 1;
        lin_put_maps(l, &y, 2, 0);
    }
    conv_line(f->c, "copy r5 r2 first=%d", v);
    conv_put(f->c, "clip r5 r5");
    if (conv_key(f->c, "clamp_min")) conv_put(f->c, " low=%s", conv_real(f->c, conv_number(f->c,
        "clamp_min", 0.0)));
    if (conv_key(f->c, "clamp_max")) conv_put(f->c, " high=%s", conv_real(f->c, conv_number(f->c,
        "clamp_max", 0.0)));
    conv_line(f->c, "%s", "");
    arch_fla_weights(l, n);
    arch_fla_slots(l, &y, slots, 1.0 / sqrt((double)y.key_dim));
    y.norm = LIN_NORM_HEAD;
    y.norm_weight = "g_norm";
    arch_fla_gate(f, &y, "silu");
    lin_put_end(l, &y, 1, -1);
    return 7;
}
/* LightNet: keys are weights of a softmax over time                                                        */
static int arch_fla_lightnet(arch_fla *f)
{
    const lin *l = &f->l;
    const int32_t rank = conv_size(f->c, "gate_low_rank_dim", 128);
    conv_part parts[3];
    lin_layer y;
    int32_t n;
    memset(&y, 0, sizeof y);
    y.key_dim = conv_key(f->c, "expand_ratio") ? conv_size(f->c, "expand_ratio", 128)
        : f->d.dim / conv_size(f->c, "num_heads", CONV_REQUIRED);
    y.heads = y.q_heads = y.k_heads = y.v_heads = conv_size(f->c, "num_heads", f->d.dim / y.key_dim);
    y.v_dim = f->d.dim / y.heads;
    arch_fla_qkv(f, &y);
    conv_only_bool(f->c, "use_short_conv", 0);
    n = y.heads * y.key_dim;
    parts[0] = y.q; parts[1] = y.k; parts[2] = y.v;
    conv_put_linear(f->c, 2, 1, parts, 3, 1.0, 0);
    conv_line(f->c, "copy r5 r2 %s", arch_cut(f->c, n, n));
    arch_fla_weights(l, n);
    conv_line(f->c, "copy r5 r2 %s", arch_cut(f->c, 0, n));
    conv_line(f->c, "act r5 r5 kind=silu");
    conv_line(f->c, "cat r6 r5 r4");
    conv_line(f->c, "copy r5 r2 first=%d", 2 * n);
    conv_line(f->c, "cat r9 r6 r5");
    conv_line(f->c, "cat r6 r9 r3");
    y.decay = LIN_DECAY_SIGMOID;      /* only says that there are columns of decays                         */
    y.decay_is_vector = 1;
    lin__defaults(&y);
    lin_put_mixer(l, &y, 7, 6);
    y.norm = LIN_NORM_ALL;
    y.norm_weight = "g_norm";
    y.norm_eps = 1e-5;
    y.gate_inner = lin_part(l, "g_proj.0", rank, f->d.dim);
    y.gate = lin_part(l, "g_proj.1", f->d.dim, rank);
    y.gate_act = "silu";
    lin_put_end(l, &y, 1, -1);
    return 7;
}
/* MesaNet: linear attention whose queries went through the inverse of the keys' second moment              */
static int arch_fla_mesa(arch_fla *f)
{
    static const char *const kernels[2] = { "q_conv1d", "k_conv1d" };
    const lin *l = &f->l;
    const double least = conv_number(f->c, "lambda_lower_bound", 0.25);
    float *lambda;
    int64_t channels[2];
    conv_part parts[5];
    lin_layer y;
    int32_t n;
    memset(&y, 0, sizeof y);
    y.heads = conv_size(f->c, "num_heads", 16);
    y.key_dim = y.v_dim = conv_size(f->c, "head_dim", 128);
    conv_only_bool(f->c, "use_short_conv", 1);
    conv_key(f->c, "max_cg_step_training");           /* here the equations are solved                      */
    conv_key(f->c, "max_cg_step_decoding");
    f->inner = n = y.heads * y.key_dim;
    channels[0] = channels[1] = n;
    parts[0] = lin_part(l, "q_proj", n, f->d.dim);
    parts[1] = lin_part(l, "k_proj", n, f->d.dim);
    parts[2] = lin_part(l, "a_proj", y.heads, f->d.dim);
    parts[3] = lin_part(l, "b_proj", y.heads, f->d.dim);
    parts[4] = lin_part(l, "v_proj", n, f->d.dim);
    conv_put_linear(f->c, 2, 1, parts, 5, 1.0, 0);
    lin_conv(l, 3, 2, kernels, channels, 2, conv_size(f->c, "conv_size", 4), "silu");
    conv_line(f->c, "norm r3 r3 kind=l2 eps=1e-6 groups=%d", 2 * y.heads);
    conv_line(f->c, "copy r4 r2 %s", arch_cut(f->c, 2 * n, 2 * y.heads));
    conv_line(f->c, "act r4 r4 kind=sigmoid");
    conv_line(f->c, "cat r5 r3 r4");
    lambda = lin_read(l, "lambda_params", n);
    for (int32_t i = 0; lambda && i < n; i++) {
        const double x = (double)lambda[i];
        lambda[i] = (float)((x > 0.0 ? x + log1p(exp(-x)) : log1p(exp(x))) + least);
    }
    conv_line(f->c, "mix r6 r5 ridge heads=%d dim=%d lambda=@%s", y.heads, y.key_dim, lin_values(l,
        "lambda", lambda, n));
    conv_line(f->c, "copy r8 r3 first=%d", n);
    conv_line(f->c, "cat r5 r6 r8");
    conv_line(f->c, "copy r8 r2 first=%d", 2 * n + 2 * y.heads);
    conv_line(f->c, "cat r6 r5 r8");
    conv_line(f->c, "cat r5 r6 r4");
    y.decay = LIN_DECAY_SIGMOID;
    y.beta = parts[3];
    y.scale = 1.0;
    lin__defaults(&y);
    lin_put_mixer(l, &y, 7, 5);
    y.norm = LIN_NORM_HEAD;
    y.norm_weight = "o_norm";
    y.norm_eps = f->norm_eps;
    if (conv_bool(f->c, "use_output_gate", 0)) arch_fla_gate(f, &y, "silu");
    lin_put_end(l, &y, 1, -1);
    return 7;
}

static void arch_gla(conv *c) { arch_fla_model(c, arch_fla_gla); }
static void arch_retnet(conv *c) { arch_fla_model(c, arch_fla_retnet); }
static void arch_delta_net(conv *c) { arch_fla_model(c, arch_fla_delta_net); }
static void arch_gated_deltanet(conv *c) { arch_fla_model(c, arch_fla_gated_deltanet); }
static void arch_gated_deltaproduct(conv *c) { arch_fla_model(c, arch_fla_deltaproduct); }
static void arch_kda(conv *c) { arch_fla_model(c, arch_fla_kda); }
static void arch_hgrn2(conv *c) { arch_fla_model(c, arch_fla_hgrn2); }
static void arch_hgrn(conv *c) { arch_fla_model(c, arch_fla_hgrn); }
static void arch_linear_attn(conv *c) { arch_fla_model(c, arch_fla_linear_attn); }
static void arch_comba(conv *c) { arch_fla_model(c, arch_fla_comba); }
static void arch_gsa(conv *c) { arch_fla_model(c, arch_fla_gsa); }
static void arch_abc(conv *c) { arch_fla_model(c, arch_fla_abc); }
static void arch_lightnet(conv *c) { arch_fla_model(c, arch_fla_lightnet); }
static void arch_mesa_net(conv *c) { arch_fla_model(c, arch_fla_mesa); }

/* ---- RWKV-6 and 7 of flash-linear-attention -------------------------------------------------------------
   */
static void arch_fla_rwkv6_layer(arch_fla *f, lin_rwkv6 *x)
{
    const lin *l = &f->l;
    const conv_view mixes = lin_flat(l, "x_bias", 5 * (int64_t)f->d.dim);
    const float *outer;
    float *mix;
    int32_t n = f->d.dim;
    memset(x, 0, sizeof *x);
    x->dim = n;
    x->heads = conv_size(f->c, "num_heads", 4);
    x->key_dim = arch_fla_expanded(f, "expand_k", 0.5) / x->heads;
    x->v_dim = arch_fla_expanded(f, "expand_v", 1.0) / x->heads;
    x->rank = conv_size(f->c, "proj_low_rank_dim", 32);
    conv_size(f->c, "gate_low_rank_dim", 64);
    x->mix_inner = lin_part(l, "x_proj.0.linear", 5 * (int64_t)x->rank, n);
    /* [dim][5][rank]                     */
    outer = lin_read(l, "x_proj.2", (int64_t)n * 5 * x->rank);
    mix = lin_floats(l, (int64_t)n * 5 * x->rank);
    for (int32_t i = 0; outer && mix && i < n * 5 * x->rank; i++)
        mix[(i % (5 * x->rank)) * n + i / (5 * x->rank)] = outer[i];
    x->mix_outer = mix;
    x->mix_base = lin_flat(l, "x_proj.0.mu", n);
    for (int i = 0; i < 5; i++) x->mixes[i] = conv_rows(f->c, mixes, (int64_t)i * n, n, n, n);
    x->r_at = 0; x->w_at = 1; x->k_at = 2; x->v_at = 3; x->g_at = 4;
    x->r = lin_part(l, "r_proj.linear", (int64_t)x->heads * x->key_dim, n);
    x->k = lin_part(l, "k_proj.linear", (int64_t)x->heads * x->key_dim, n);
    x->v = lin_part(l, "v_proj.linear", (int64_t)x->heads * x->v_dim, n);
    x->g = lin_part(l, "g_proj.linear", (int64_t)x->heads * x->v_dim, n);
    x->w = lin_lora_fla(l, "w_proj.linear", n, x->heads * x->key_dim);
    x->bonus = "bonus";
    x->norm = "g_norm.weight";
    x->norm_bias = "g_norm.bias";
    x->norm_eps = f->norm_eps;
    f->inner = x->heads * x->v_dim;
}
static void arch_fla_rwkv7_layer(arch_fla *f, lin_rwkv7 *x)
{
    const lin *l = &f->l;
    const int32_t n = f->d.dim;
    memset(x, 0, sizeof *x);
    x->dim = n;
    x->head_dim = conv_size(f->c, "head_dim", 64);
    x->heads = conv_size(f->c, "num_heads", n / x->head_dim);
    if ((int64_t)x->heads * x->head_dim != n)
        conv_fail(f->c->env, "config.json: %d heads of %d are not hidden_size = %d", x->heads, x->head_dim,
                  n);
    x->r = lin_part(l, "r_proj", n, n);
    x->k = lin_part(l, "k_proj", n, n);
    x->v = lin_part(l, "v_proj", n, n);
    x->w = lin_lora_fla(l, "w_lora", n, n);
    x->a = lin_lora_fla(l, "a_lora", n, n);
    x->g = lin_lora_fla(l, "g_lora", n, n);
    if (f->layer) x->v_mix = lin_lora_fla(l, "v_lora", n, n);
    x->norm = "g_norm.weight";
    x->norm_bias = "g_norm.bias";
    x->norm_eps = x->head_dim * f->norm_eps;
    f->inner = n;
}
static void arch_fla_rwkv(conv *c, int version)
{
    static const char *const ranks[] = { "a_low_rank_dim", "decay_low_rank_dim", "gate_low_rank_dim",
                                         "v_low_rank_dim", "value_dim", NULL };
    const lin l = arch_lin(c, "", ".weight", -1);
    const double eps = conv_positive(c, "norm_eps", 1e-5);
    lin_rwkv r;
    arch_fla f;
    conv_only_bool(c, "norm_bias", 1);
    conv_only_bool(c, "norm_first", 1);
    if (strcmp(conv_word(c, "hidden_act", "sqrelu"), "sqrelu") != 0)
        conv_fail(c->env, "config.json: \"hidden_act\" other than sqrelu is not supported");
    /* shapes show them         */
    for (int i = 0; version == 7 && ranks[i]; i++) conv_key(c, ranks[i]);
    conv_key(c, "hidden_act");
    if (!arch_fla_open(c, &f)) return;
    memset(&r, 0, sizeof r);
    r.dim = f.d.dim;
    r.ffn = f.d.ffn;
    conv_put_embedding(c, &f.d);
    arch_lin_layer_norm(&l, 0, 0, "model.layers.0.pre_norm", r.dim, eps);
    for (int32_t i = 0; i < f.d.layers && !c->env->failed; i++) {
        const char *block = conv_format(c->env, "model.layers.%d.", i);
        const lin norms = arch_lin(c, block, ".weight", i);
        lin ffn = arch_lin(c, conv_format(c->env, "%sffn.", block), ".weight", i);
        lin_rwkv6 x6;
        lin_rwkv7 x7;
        conv_part out;
        int reg;
        ffn.out = conv_format(c->env, "l%d.ffn.", i);
        conv_line(c, "# layer %d", i);
        arch_lin_layer_norm(&norms, 1, 0, "attn_norm", r.dim, eps);
        f.layer = i;
        f.l = arch_lin(c, conv_format(c->env, "%sattn.", block), ".weight", i);
        if (version == 6) arch_fla_rwkv6_layer(&f, &x6);
        else arch_fla_rwkv7_layer(&f, &x7);
        reg = version == 6 ? lin_put_rwkv6(&f.l, &x6, 1) : lin_put_rwkv7(&f.l, &x7, 1, i == 0);
        out = lin_part(&f.l, "o_proj", r.dim, f.inner);
        conv_put_linear(c, 0, reg, &out, 1, 1.0, CONV_ADD);
        arch_lin_layer_norm(&norms, 1, 0, "ffn_norm", r.dim, eps);
        reg = version == 7 ? lin_put_rwkv7_channels(&ffn, &r, 1) : lin_put_rwkv_channels(&ffn, &r, 1, 1);
        conv_line(c, "add r0 r0 r%d", reg);
    }
    conv_line(c, "# output");
    arch_lin_layer_norm(&l, 0, 0, "model.norm", r.dim, eps);
    conv_put_head(c, &f.d);
}
static void arch_rwkv6(conv *c) { arch_fla_rwkv(c, 6); }
static void arch_rwkv7(conv *c) { arch_fla_rwkv(c, 7); }

/* ---- xLSTM of transformers ----------------------------------------------------------------------------- */
static void arch_xlstm_keys(conv *c)
{
    static const char *const kernels[] = {
        "chunkwise_kernel", "sequence_kernel", "step_kernel", "mode", "chunk_size", "autocast_kernel_dtype",
        "inference_state_dtype", "max_inference_chunksize", "return_last_states",
            "norm_reduction_force_float32",
        "ffn_round_up_to_multiple_of", NULL
    };
    for (int i = 0; kernels[i]; i++) conv_key(c, kernels[i]);
    conv_only_bool(c, "use_bias", 0);
    if (strcmp(conv_word(c, "weight_mode", "single"), "single") != 0)
        conv_fail(c->env, "config.json: \"weight_mode\" other than single is not supported");
}
static void arch_xlstm(conv *c)
{
    static const lin_xlstm_names names = {
        "norm_mlstm", "mlstm_layer.q", "mlstm_layer.k", "mlstm_layer.v", "mlstm_layer.fgate_preact.weight",
        "mlstm_layer.igate_preact.weight", "mlstm_layer.ogate_preact", "mlstm_layer.multihead_norm",
        "mlstm_layer.out_proj", "norm_ffn", "ffn.proj_up_gate", "ffn.proj_up", "ffn.proj_down"
    };
    conv_decoder d;
    lin_xlstm x;
    arch_xlstm_keys(c);
    if (!arch_ssm_decoder(c, &d, "backbone.embeddings", "backbone.out_norm", "backbone.blocks.")) return;
    d.dim = conv_size(c, "hidden_size", conv_size(c, "embedding_dim", 4096));
    d.layers = conv_size(c, "num_blocks", conv_size(c, "num_hidden_layers", 32));
    d.vocab = conv_size(c, "vocab_size", 50304);
    d.tied = conv_bool(c, "tie_word_embeddings", 0);
    d.norm_eps = conv_positive(c, "norm_eps", 1e-6);
    if (!conv_decoder_defaults(c, &d)) return;
    d.head_softcap = conv_number(c, "output_logit_soft_cap", 30.0);
    x.dim = d.dim;
    x.heads = conv_size(c, "num_heads", 8);
    x.key_dim = arch_expanded(c, &d, "qk_dim_factor", 0.5) / x.heads;
    x.v_dim = arch_expanded(c, &d, "v_dim_factor", 1.0) / x.heads;
    x.gate_cap = conv_positive(c, "gate_soft_cap", 15.0);
    x.eps = conv_positive(c, "eps", 1e-6);
    x.norm_eps = d.norm_eps;
    conv_key(c, "ffn_proj_factor");                    /* the weights' shapes show it                       */
    conv_put_embedding(c, &d);
    for (int32_t i = 0; i < d.layers && !c->env->failed; i++) {
        const lin l = arch_lin(c, conv_format(c->env, "backbone.blocks.%d.", i), ".weight", i);
        x.ffn = lin_size(&l, names.up, 0);
        conv_line(c, "# layer %d", i);
        lin_put_xlstm_block(&l, &x, &names);
    }
    conv_line(c, "# output");
    if (conv_bool(c, "add_out_norm", 1) || conv_has(c, conv_format(c->env, "%s.weight", d.final_norm)))
        conv_put_norm(c, &d, 0, 0, "norm", d.final_norm);
    conv_put_head(c, &d);
}

#endif /* ARCH_LINEAR_H_INCLUDED */
