/* conv_mxfp4.h: weights in the microscaling format MXFP4 as gpt-oss publishes them: NAME_blocks [..., rows,
   n, 16] holds two 4-bit floats a byte (low half first), NAME_scales [..., rows, n] exponents of 32 values.
   They appear as one tensor NAME [..., rows, 32 n].                                                        */
#ifndef CONV_MXFP4_H_INCLUDED
#define CONV_MXFP4_H_INCLUDED
#include "conv_plan.h"

/* Is t of type U8, and as contiguous as its shape says?                                                    */
static int conv__mxfp4_plain(const conv_tensor *t)
{
    conv_tensor flat = *t;
    return t->type == CONV_U8 && t->ndim >= 2 && !t->storage->packed_bytes && conv_set_strides(&flat) &&
           memcmp(flat.stride, t->stride, (size_t)t->ndim * sizeof *t->stride) == 0;
}

/* Adds tensor `name` when the checkpoint has its blocks; must come before any conv_take. 1: there are some */
static CONV_UNUSED int conv_mxfp4(conv *c, const char *name)
{
    conv_tensor *blocks = conv_source_find(&c->source, conv_format(c->env, "%s_blocks", name));
    conv_tensor *scales = conv_source_find(&c->source, conv_format(c->env, "%s_scales", name));
    conv_tensor t;
    int same;
    if (!blocks || !scales || c->env->failed) return 0;
    t = *blocks;
    same = blocks->ndim == scales->ndim + 1 && blocks->shape[scales->ndim] == 16 &&
           memcmp(blocks->shape, scales->shape, (size_t)scales->ndim * sizeof *t.shape) == 0;
    if (!same || !conv__mxfp4_plain(blocks) || !conv__mxfp4_plain(scales) ||
        scales->shape[scales->ndim - 1] > 1 << 24) {
        conv_fail(c->env, "tensor %.200s of shape %s: its blocks have shape %s", scales->name,
                  conv_shape_text(c->env, scales->shape, scales->ndim),
                  conv_shape_text(c->env, blocks->shape, blocks->ndim));
        return 0;
    }
    blocks->used = scales->used = 1;
    t.name = conv_copy_text(c->env, name, strlen(name));
    t.type = CONV_MXFP4;
    t.scales = scales->storage->data + scales->first;
    t.ndim = scales->ndim;
    t.shape[t.ndim - 1] *= 32;
    t.row_bytes = (uint32_t)(t.shape[t.ndim - 1] / 2);
    t.used = 0;
    return conv_set_strides(&t) && conv_source_add(&c->source, &t);
}

#endif /* CONV_MXFP4_H_INCLUDED */
