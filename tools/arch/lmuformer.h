/* arch/lmuformer.h: LMUFormer (arXiv 2402.04882) with the tensor names of zeyuliu1037/LMUFormer, for
   streaming: see s4_put_lmuformer in ../map_s4.h. config.json is ours, the official code has these numbers in
   its constructors: variant (lmu, slmu, slmu_ms), in_channels, dim, depth, mlp_ratio, num_classes, labels. */
#ifndef ARCH_LMUFORMER_H_INCLUDED
#define ARCH_LMUFORMER_H_INCLUDED
#include "../map_s4.h"

static void arch_lmuformer(conv *c)
{
    static const char *const ignored[] = { "*.num_batches_tracked", "*.lmu.H", "*.lmu.fft_H", NULL };
    const ssm_block b = { &ssm_official, "", "", 0, 1, 0, 0, 1.0 };
    const json_value *labels = conv_key(c, "labels");
    s4_lmuformer m;
    double ratio;
    m.variant = json_text(conv_key(c, "variant"), "lmu");
    m.inputs = conv_size(c, "in_channels", CONV_REQUIRED);
    m.dim = conv_size(c, "dim", CONV_REQUIRED);
    m.depth = conv_size(c, "depth", 1);
    ratio = conv_positive(c, "mlp_ratio", 4.0);
    if (ratio * m.dim > 1e6) conv_fail(c->env, "config.json: \"mlp_ratio\" of %g is too large", ratio);
    m.hidden = c->env->failed ? 0 : (int32_t)(ratio * m.dim);
    m.classes = conv_size(c, "num_classes", CONV_REQUIRED);
    conv_key(c, "seq_len");                            /* is in A and B, which the checkpoint has */
    if (strcmp(m.variant, "lmu") != 0 && strcmp(m.variant, "slmu") != 0 && strcmp(m.variant, "slmu_ms") != 0)
        conv_fail(c->env, "config.json: variant \"%.40s\" is none of lmu, slmu, slmu_ms", m.variant);
    if (labels && json_count(labels) != (uint32_t)m.classes)
        conv_fail(c->env, "config.json: %d classes, but %d labels", m.classes, (int)json_count(labels));
    if (c->env->failed) return;
    if (labels) c->labels = conv_lines(c, labels);
    c->ignored = ignored;
    s4_put_lmuformer(c, &b, &m);
}

#endif /* ARCH_LMUFORMER_H_INCLUDED */
