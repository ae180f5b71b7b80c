/* conv_rwkv.h: reads the files of rwkv.cpp, versions 100 and 101: six uint32 (magic "ggmf", version,
   vocabulary, width,
   layers, type), then for each tensor: number of dimensions, length of the name, type, dimensions (innermost
   first), name, data. Names are those of the official checkpoints.                                         */
#ifndef CONV_RWKV_H_INCLUDED
#define CONV_RWKV_H_INCLUDED
#include "conv_source.h"

static CONV_UNUSED int conv_is_rwkv(const conv_file *f)
{
    return f->bytes >= 24 && conv_u32(f->data) == 0x67676d66u &&
           (conv_u32(f->data + 4) == 100 || conv_u32(f->data + 4) == 101);
}

/* Type number of rwkv.cpp: element type, or CONV_GGML with ggml's own number and the bytes of a block of 32
   */
static int conv__rwkv_type(conv_tensor *t, uint32_t type, uint32_t *block_bytes)
{
    static const struct { uint32_t type, ggml, bytes; } blocks[] = { { 2, 2, 18 }, { 3, 3, 20 }, { 7, 6, 22 },
                                                                     { 8, 7, 24 }, { 9, 8, 34 } };
    *block_bytes = 0;
    t->type = type == 0 ? CONV_F32 : CONV_F16;
    if (type < 2) return 1;
    t->type = CONV_GGML;
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
        if (blocks[i].type != type) continue;
        t->ggml_type = blocks[i].ggml;
        *block_bytes = blocks[i].bytes;
        return 1;
    }
    return 0;
}

static CONV_UNUSED int conv_read_rwkv(conv_source *s, const conv_file *f)
{
    conv_storage *data = conv_storage_new(s->env, f->path, f->data, f->bytes);
    uint64_t at = 24;
    while (data && at < f->bytes) {
        const uint8_t *p = f->data + at;
        const uint64_t left = f->bytes - at;
        uint32_t dims, name_bytes, block_bytes;
        uint64_t elements = 1, bytes;
        conv_tensor t;
        memset(&t, 0, sizeof t);
        dims = left >= 12 ? conv_u32(p) : 0;
        name_bytes = left >= 12 ? conv_u32(p + 4) : 0;
        if (dims < 1 || dims > 4 || name_bytes < 1 || name_bytes > 512 || left < 12 + 4 * dims + name_bytes)
            return conv_fail(s->env, "%s: byte %llu: the head of a tensor is damaged", f->path,
                             (unsigned long long)at);
        if (!conv__rwkv_type(&t, conv_u32(p + 8), &block_bytes))
            return conv_fail(s->env, "%s: tensor type %u is not known", f->path, conv_u32(p + 8));
        t.ndim = (int32_t)dims;
        for (uint32_t i = 0; i < dims; i++) {
            t.shape[dims - 1 - i] = (int64_t)conv_u32(p + 12 + 4 * i);
            elements = conv_times(elements, conv_u32(p + 12 + 4 * i));
        }
        t.name = conv_copy_text(s->env, p + 12 + 4 * dims, name_bytes);
        at += 12 + 4 * dims + name_bytes;
        if (t.type == CONV_GGML && t.shape[dims - 1] % 32)
            return conv_fail(s->env, "%s: tensor %.200s: rows of %lld are no blocks of 32", f->path, t.name,
                             (long long)t.shape[dims - 1]);
        if (t.type == CONV_GGML && t.shape[dims - 1] / 32 <= UINT32_MAX / block_bytes)
            t.row_bytes = (uint32_t)(t.shape[dims - 1] / 32) * block_bytes;
        bytes = t.type == CONV_GGML ? conv_times(elements / 32, block_bytes)
            : conv_times(elements, conv_types[t.type].bytes);
        t.storage = data;
        t.first = at;
        if (!conv_set_strides(&t) || bytes > f->bytes - at)
            return conv_fail(s->env, "%s: tensor %.200s passes the end of the file", f->path, t.name);
        if (!conv_source_add(s, &t)) return 0;
        at += bytes;
    }
    return !s->env->failed;
}

#endif /* CONV_RWKV_H_INCLUDED */
