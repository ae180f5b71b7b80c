/* conv_source.h: a checkpoint as a list of named tensors in mapped memory, whatever format it came in.

   Readers (conv_safetensors.h, conv_torch.h, conv_gguf.h, conv_llama2c.h) fill a conv_source through
   conv_source_add, which checks every offset once; afterwards values are read without further checks.      */
#ifndef CONV_SOURCE_H_INCLUDED
#define CONV_SOURCE_H_INCLUDED
#include <math.h>
#include "conv_base.h"

enum { CONV_MAX_DIMS = 8 };

typedef enum conv_type {
    CONV_F32, CONV_F16, CONV_BF16, CONV_F64, CONV_I64, CONV_I32, CONV_I16, CONV_I8, CONV_U8, CONV_BOOL,
    /* CONV_GGML: quantised blocks of a ggml type along the last dimension */
    CONV_F8_E4M3, CONV_F8_E5M2, CONV_GGML,
    CONV_MXFP4                        /* rows of 4-bit floats with scales: conv_mxfp4.h                     */
} conv_type;

typedef struct conv_type_info { const char *name; uint32_t bytes; } conv_type_info;
static const conv_type_info conv_types[] = {   /* by conv_type; the names are those of safetensors          */
    { "F32", 4 }, { "F16", 2 }, { "BF16", 2 }, { "F64", 8 }, { "I64", 8 }, { "I32", 4 }, { "I16", 2 },
        { "I8", 1 }, { "U8", 1 }, { "BOOL", 1 }, { "F8_E4M3", 1 }, { "F8_E5M2", 1 }, { "GGML", 0 },
    { "MXFP4", 0 }
};

/* Bytes that hold one or several tensors: a mapped range, or a compressed range that is unpacked when it
   is needed.                                                                                               */
typedef struct conv_storage {
    const char    *name;
    const uint8_t *data;              /* as it lies in the file                                             */
    uint64_t       bytes;             /* unpacked                                                           */
    uint64_t       packed_bytes;      /* 0: stored as it is                                                 */
    uint8_t       *unpacked;          /* malloc; freed when another storage is unpacked                     */
} conv_storage;

typedef struct conv_tensor {
    const char   *name;
    conv_storage *storage;
    uint64_t      first;              /* byte of the first element in the storage                           */
    int64_t       shape[CONV_MAX_DIMS], stride[CONV_MAX_DIMS];    /* outermost first; strides in elements   */
    int32_t       ndim;
    conv_type     type;
    uint32_t      ggml_type;          /* CONV_GGML only                                                     */
    uint32_t      row_bytes;          /* these and CONV_MXFP4: one row of shape[ndim - 1] elements          */
    const uint8_t *scales;            /* CONV_MXFP4: of each 32 elements, in the order of rows              */
    const float  *block_scales;       /* factors of blocks of a matrix, or NULL                             */
    int64_t       block_rows, block_cols;
    int32_t       used;               /* a mapping took it                                                  */
} conv_tensor;

typedef struct conv_source {
    conv_env      *env;
    conv_tensor   *tensors;
    uint64_t       n, room;
    conv_map       index;
    conv_storage  *open;              /* the storage unpacked at present                                    */
    int          (*unpack)(conv_env *env, uint8_t *dst, const conv_storage *s);
} conv_source;

/* "[3, 4]" for messages; a small ring of buffers would be state, so it lives in the arena.                 */
static CONV_UNUSED const char *conv_shape_text(conv_env *env, const int64_t *shape, int32_t ndim)
{
    char text[CONV_MAX_DIMS * 24 + 4];
    size_t used = 1;
    const int failed = env->failed;
    const char *copy;
    text[0] = '[';
    for (int32_t i = 0; i < ndim; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, i ? ", %lld" : "%lld", (long long)shape[i]);
    text[used++] = ']';
    env->failed = 0;
    copy = conv_copy_text(env, text, used);
    env->failed = failed;
    return copy;
}

static CONV_UNUSED conv_tensor *conv_source_find(const conv_source *s, const char *name)
{
    const uint64_t i = conv_map_find(&s->index, name);
    return i == UINT64_MAX ? NULL : s->tensors + i;
}

/* Bytes from the first to past the last element, or UINT64_MAX when that does not fit.                     */
static uint64_t conv__extent(const conv_tensor *t)
{
    uint64_t last = 0;
    if (t->type == CONV_GGML || t->type == CONV_MXFP4) {
        uint64_t rows = 1;
        for (int32_t i = 0; i + 1 < t->ndim; i++) rows = conv_times(rows, (uint64_t)t->shape[i]);
        return conv_times(rows, t->row_bytes);
    }
    for (int32_t i = 0; i < t->ndim; i++) {
        const uint64_t step = t->shape[i] == 0 ? UINT64_MAX
            : conv_times((uint64_t)(t->shape[i] - 1), (uint64_t)t->stride[i]);
        if (t->shape[i] == 0) return 0;
        if (step > UINT64_MAX - last) return UINT64_MAX;
        last += step;
    }
    return last == UINT64_MAX ? UINT64_MAX : conv_times(last + 1, conv_types[t->type].bytes);
}

/* Whether two tensors of one type and shape hold other bytes. 0 also where they are not compared: of other
   shapes, or packed.                                                                                       */
static CONV_UNUSED int conv_tensors_differ(const conv_tensor *a, const conv_tensor *b)
{
    const uint64_t bytes = conv__extent(a);
    return a->type == b->type && a->ndim == b->ndim && conv__extent(b) == bytes &&
           memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof *a->shape) == 0 &&
           !a->storage->packed_bytes && !b->storage->packed_bytes &&
           memcmp(a->storage->data + a->first, b->storage->data + b->first, (size_t)bytes) != 0;
}

/* Adds a tensor after checking that all of it lies inside its storage. Strides must be set
   (conv_set_strides).                                                                                      */
static CONV_UNUSED int conv_source_add(conv_source *s, const conv_tensor *t)
{
    uint64_t extent, n = 64;            /* elements, with room for factors of readers */
    if (s->env->failed) return 0;
    if (t->ndim < 0 || t->ndim > CONV_MAX_DIMS)
        return conv_fail(s->env, "tensor %.200s has %d dimensions, at most %d are known", t->name, t->ndim,
                         CONV_MAX_DIMS);
    for (int32_t i = 0; i < t->ndim; i++) {
        if (t->shape[i] < 0 || t->stride[i] < 0)
            return conv_fail(s->env, "tensor %.200s has a negative size or stride: shape %s", t->name,
                             conv_shape_text(s->env, t->shape, t->ndim));
        if (t->shape[i] > 1) n = conv_times(n, (uint64_t)t->shape[i]);       /* also when another is 0 */
    }
    if (n > (uint64_t)INT64_MAX)
        return conv_fail(s->env, "tensor %.200s has more elements than there can be: shape %s", t->name,
                         conv_shape_text(s->env, t->shape, t->ndim));
    extent = conv__extent(t);
    if (t->first > t->storage->bytes || extent > t->storage->bytes - t->first)
        return conv_fail(s->env,
                         "tensor %.200s of shape %s needs %llu bytes from byte %llu, its data has %llu",
                         t->name, conv_shape_text(s->env, t->shape, t->ndim), (unsigned long long)extent,
                         (unsigned long long)t->first, (unsigned long long)t->storage->bytes);
    s->tensors = (conv_tensor *)conv_grow(s->env, s->tensors, s->n, &s->room, sizeof *s->tensors);
    if (!s->tensors) return 0;
    s->tensors[s->n] = *t;
    if (!conv_map_add(s->env, &s->index, t->name, s->n))
        return conv_fail(s->env, "tensor %.200s is in the checkpoint twice", t->name);
    s->n++;
    return 1;
}

/* Row-major strides of a contiguous tensor. 0 when the number of elements does not fit.                    */
static CONV_UNUSED int conv_set_strides(conv_tensor *t)
{
    uint64_t step = 1;
    for (int32_t i = t->ndim - 1; i >= 0; i--) {
        if (step > (uint64_t)INT64_MAX || t->shape[i] < 0) return 0;
        t->stride[i] = (int64_t)step;
        step = conv_times(step, (uint64_t)t->shape[i]);
    }
    return step <= (uint64_t)INT64_MAX;
}

static CONV_UNUSED conv_storage *conv_storage_new(conv_env *env, const char *name, const uint8_t *data,
                                                  uint64_t bytes)
{
    conv_storage *s = (conv_storage *)conv_alloc(env, 1, sizeof *s);
    if (!s) return NULL;
    s->name = name;
    s->data = data;
    s->bytes = bytes;
    return s;
}

static CONV_UNUSED void conv_source_close(conv_source *s)
{
    if (s->open) { free(s->open->unpacked); s->open->unpacked = NULL; }
    s->open = NULL;
}

/* First element of a tensor. Compressed storages are unpacked here, one at a time. NULL with an error.     */
static CONV_UNUSED const uint8_t *conv_tensor_data(conv_source *s, const conv_tensor *t)
{
    conv_storage *g = t->storage;
    if (s->env->failed) return NULL;
    if (!g->packed_bytes) return g->data + t->first;
    if (!g->unpacked) {
        conv_source_close(s);
        g->unpacked = g->bytes <= SIZE_MAX ? (uint8_t *)malloc((size_t)g->bytes + 1) : NULL;
        if (!g->unpacked) {
            conv_fail(s->env, "tensor %.200s: out of memory: %llu bytes", t->name,
                      (unsigned long long)g->bytes);
            return NULL;
        }
        s->open = g;
        if (!s->unpack(s->env, g->unpacked, g)) return NULL;
    }
    return g->unpacked + t->first;
}

/* ---- reading values ------------------------------------------------------------------------------------ */
static float conv__f16(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 31u, fraction = h & 0x3ffu;
    uint32_t u;
    float f;
    if (exponent == 0) {
        f = (float)fraction * (1.0f / 16777216.0f);
        return sign ? -f : f;
    }
    u = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112u) << 23) | fraction << 13;
    memcpy(&f, &u, 4);
    return f;
}

static float conv__bf16(uint16_t h)
{
    const uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* 8-bit floats of the OCP standard: E4M3 has no infinities and one NaN, E5M2 is half of a half float.      */
static float conv__f8_e4m3(uint8_t b)
{
    const uint32_t exponent = b >> 3 & 15u, fraction = b & 7u;
    float f;
    if ((b & 127u) == 127u) { const uint32_t nan = 0x7fc00000u; memcpy(&f, &nan, 4); return f; }
    if (exponent == 0) f = (float)fraction * (1.0f / 512.0f);
    else { const uint32_t u = (exponent + 120u) << 23 | fraction << 20; memcpy(&f, &u, 4); }
    return b & 128u ? -f : f;
}

static float conv__value(const uint8_t *p, conv_type type)
{
    switch (type) {
    case CONV_F32:     return conv_f32(p);
    case CONV_F16:     return conv__f16(conv_u16(p));
    case CONV_BF16:    return conv__bf16(conv_u16(p));
    case CONV_F64:     return (float)conv_f64(p);
    case CONV_I64:     return (float)(int64_t)conv_u64(p);
    case CONV_I32:     return (float)(int32_t)conv_u32(p);
    case CONV_I16:     return (float)(int16_t)conv_u16(p);
    case CONV_I8:      return (float)(int8_t)p[0];
    case CONV_U8:
    case CONV_BOOL:    return (float)p[0];
    case CONV_F8_E4M3: return conv__f8_e4m3(p[0]);
    case CONV_F8_E5M2: return conv__f16((uint16_t)(p[0] << 8));
    case CONV_GGML:
    case CONV_MXFP4:   break;
    }
    return 0.0f;
}

/* Row `row` of an MXFP4 tensor: code * 2^(scale - 127); codes: sign, two bits of exponent, one of fraction */
static CONV_UNUSED void conv_mxfp4_row(float *dst, const uint8_t *data, const conv_tensor *t, int64_t row)
{
    static const float values[16] = { 0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f,
                                      -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f };
    const int64_t n = t->shape[t->ndim - 1];
    const uint8_t *codes = data + row * (int64_t)t->row_bytes, *scales = t->scales + row * (n / 32);
    for (int64_t i = 0; i < n; i++) {
        const int power = (int)scales[i / 32] - 127;
        const float scale = (float)ldexp(1.0, power < 125 ? power : 125);
        dst[i] = values[i % 2 ? codes[i / 2] >> 4 : codes[i / 2] & 15] * scale;
    }
}

/* n values, `step` bytes apart. Not for CONV_GGML and CONV_MXFP4.                                          */
static CONV_UNUSED void conv_values(float *dst, const uint8_t *p, int64_t n, int64_t step, conv_type type)
{
    if (type == CONV_F32 && step == 4) {
        for (int64_t i = 0; i < n; i++) dst[i] = conv_f32(p + 4 * i);
    } else if (type == CONV_F16 && step == 2) {
        for (int64_t i = 0; i < n; i++) dst[i] = conv__f16(conv_u16(p + 2 * i));
    } else if (type == CONV_BF16 && step == 2) {
        for (int64_t i = 0; i < n; i++) dst[i] = conv__bf16(conv_u16(p + 2 * i));
    } else {
        for (int64_t i = 0; i < n; i++) dst[i] = conv__value(p + i * step, type);
    }
}

/* Element offset of row `row` when all dimensions but the last are counted through as rows.                */
static CONV_UNUSED int64_t conv_row_offset(const conv_tensor *t, int64_t row)
{
    int64_t offset = 0;
    for (int32_t i = t->ndim - 2; i >= 0; i--) {
        offset += row % t->shape[i] * t->stride[i];
        row /= t->shape[i];
    }
    return offset;
}

#endif /* CONV_SOURCE_H_INCLUDED */
