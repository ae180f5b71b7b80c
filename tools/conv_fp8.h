/* conv_fp8.h: weights as 8-bit floats with a scale for each block of rows and columns, as DeepSeek-V3,
   MiniMax-M2 and the FP8 editions of other models are published: NAME [rows, cols] and NAME_scale_inv
   [ceil(rows / block), ceil(cols / block)], which multiplies.                                              */
#ifndef CONV_FP8_H_INCLUDED
#define CONV_FP8_H_INCLUDED
#include "conv_config.h"

/* Gives tensor t its scales                                                                                */
static void conv__fp8_scale(conv *c, conv_tensor *t, const char *scales, int64_t high, int64_t wide)
{
    const int64_t rows = t->ndim == 2 ? (t->shape[0] + high - 1) / high : 0;
    const int64_t cols = t->ndim == 2 ? (t->shape[1] + wide - 1) / wide : 0;
    const conv_tensor *s = conv_source_find(&c->source, scales);
    if (t->ndim != 2 || s->ndim != 2 || s->shape[0] != rows || s->shape[1] != cols) {
        conv_fail(c->env, "tensor %.200s of shape %s has scales of shape %s for blocks of %lld x %lld",
                  t->name, conv_shape_text(c->env, t->shape, t->ndim),
                  conv_shape_text(c->env, s->shape, s->ndim), (long long)high, (long long)wide);
        return;
    }
    t->block_scales = conv_read(c, scales, rows * cols);
    t->block_rows = high;
    t->block_cols = wide;
}

/* "quantization_config" with quant_method fp8: tensors take their scales along; any other stays unread     */
static CONV_UNUSED void conv_fp8(conv *c)
{
    const json_value *how = json_get(c->config, "quantization_config");
    const json_value *size = json_get(how, "weight_block_size");
    const int64_t high = json_int(json_at(size, 0), 0), wide = json_int(json_at(size, 1), 0);
    const uint64_t n = c->source.n;
    if (!json_text_is(json_get(how, "quant_method"), "fp8")) return;
    conv_key(c, "quantization_config");
    if (high < 1 || wide < 1 || high > 1 << 20 || wide > 1 << 20)
        conv_fail(c->env, "config.json: \"quantization_config\": FP8 needs a weight_block_size of two sizes");
    for (uint64_t i = 0; i < n && !c->env->failed; i++) {
        conv_tensor *t = &c->source.tensors[i];
        const char *scales = conv_format(c->env, "%s_scale_inv", t->name);
        if (conv_has(c, scales)) conv__fp8_scale(c, t, scales, high, wide);
        else if (t->type == CONV_F8_E4M3 || t->type == CONV_F8_E5M2)
            conv_fail(c->env, "tensor %.200s is missing in the checkpoint", scales);
    }
}

#endif /* CONV_FP8_H_INCLUDED */
