/* arch/linear.h: models whose sequence mixers are of the linear-attention family: RWKV in its original files and
   of transformers, the models of flash-linear-attention (fla), xLSTM. Layers are written by prep_linear.h. */
#ifndef ARCH_LINEAR_H_INCLUDED
#define ARCH_LINEAR_H_INCLUDED
#include "../conv_config.h"
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
    conv_line(l->c, "embed r0 tokens w=@%s", conv_make(l->c, "embed", CONV_TABLE, conv_take(l->c, name, vocab, dim)));
}
static void arch_lin_head(const lin *l, const char *name, int32_t vocab, int32_t dim)
{
    conv_line(l->c, "head logits r0 w=@%s", conv_make(l->c, "head", CONV_TABLE, conv_take(l->c, name, vocab, dim)));
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
    reg = version == 4 ? lin_put_rwkv4(att, r, 1) : version == 5 ? lin_put_rwkv5(att, r, 1)
        : version == 6 ? lin_put_rwkv6(att, r, 1) : lin_put_rwkv7(att, r, 1, layer == 0);
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
    r.norm_eps = rwkv_cpp && version == 5 ? 1e-5 : 64e-5;         /* as rwkv.cpp has it                        */
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
    lin_rwkv r;
    memset(&r, 0, sizeof r);
    r.dim = conv_size(c, "hidden_size", 4096);
    r.heads = 1;
    r.head_dim = r.dim;
    r.ffn = conv_size(c, "intermediate_size", 4 * (int64_t)r.dim);
    c->max_context = conv_size(c, "context_length", 1024);
    c->unlimited = 1;
    conv_only_bool(c, "tie_word_embeddings", 0);
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
    arch_lin_layer_norm(&l, 0, 0, "rwkv.ln_out", r.dim, eps);
    arch_lin_head(&l, "head.weight", vocab, r.dim);
}

#endif /* ARCH_LINEAR_H_INCLUDED */
