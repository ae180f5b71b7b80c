/* conv_gguf.h: reads GGUF files, versions 2 and 3: metadata and tensors, every length checked against the
   file.                                                                                                    */
#ifndef CONV_GGUF_H_INCLUDED
#define CONV_GGUF_H_INCLUDED
#include "conv_source.h"

enum { GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY,
       GGUF_U64, GGUF_I64, GGUF_F64, GGUF_TYPES };

typedef struct gguf_kv {
    const char    *key;
    uint32_t       type, item_type;   /* item_type: of an array's items                                     */
    uint64_t       count;             /* items of an array, bytes of a string                               */
    /* value, bytes of the string, or first item (strings: u64 length, bytes) */
    const uint8_t *data;
    int32_t        used;              /* a mapping read it                                                  */
} gguf_kv;

typedef struct gguf_file {
    conv_env        *env;
    const conv_file *file;
    gguf_kv         *kv;
    uint64_t         n_kv, n_tensors, at;
    uint64_t         data_bytes;      /* from the first tensor to the end of the file                       */
    uint32_t         version;
    conv_map         index;
} gguf_file;

static const uint8_t gguf_sizes[GGUF_TYPES] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

/* ggml types: elements and bytes of a block. 0 elements: not known.                                        */
typedef struct ggml_type_info { const char *name; uint16_t elements, bytes; } ggml_type_info;
static const ggml_type_info ggml_types[] = {
    { "F32", 1, 4 }, { "F16", 1, 2 }, { "Q4_0", 32, 18 }, { "Q4_1", 32, 20 }, { "", 0, 0 }, { "", 0, 0 },
    { "Q5_0", 32, 22 }, { "Q5_1", 32, 24 }, { "Q8_0", 32, 34 }, { "Q8_1", 32, 36 }, { "Q2_K", 256, 84 },
    { "Q3_K", 256, 110 }, { "Q4_K", 256, 144 }, { "Q5_K", 256, 176 }, { "Q6_K", 256, 210 },
    { "Q8_K", 256, 292 }, { "IQ2_XXS", 256, 66 }, { "IQ2_XS", 256, 74 }, { "IQ3_XXS", 256, 98 },
    { "IQ1_S", 256, 50 }, { "IQ4_NL", 32, 18 }, { "IQ3_S", 256, 110 }, { "IQ2_S", 256, 82 },
    { "IQ4_XS", 256, 136 }, { "I8", 1, 1 }, { "I16", 1, 2 }, { "I32", 1, 4 }, { "I64", 1, 8 },
    { "F64", 1, 8 }, { "IQ1_M", 256, 56 }, { "BF16", 1, 2 }
};

/* ---- reading ------------------------------------------------------------------------------------------- */
static const uint8_t *gguf__bytes(gguf_file *g, uint64_t n, const char *what)
{
    const uint8_t *p = g->file->data + g->at;
    if (g->env->failed) return NULL;
    if (n > g->file->bytes - g->at) {
        conv_fail(g->env, "%s: %.100s needs %llu bytes at byte %llu, the file has %llu", g->file->path, what,
                  (unsigned long long)n, (unsigned long long)g->at, (unsigned long long)g->file->bytes);
        return NULL;
    }
    g->at += n;
    return p;
}

static uint64_t gguf__u64(gguf_file *g, const char *what)
{
    const uint8_t *p = gguf__bytes(g, 8, what);
    return p ? conv_u64(p) : 0;
}
static uint32_t gguf__u32(gguf_file *g, const char *what)
{
    const uint8_t *p = gguf__bytes(g, 4, what);
    return p ? conv_u32(p) : 0;
}

static const char *gguf__name(gguf_file *g, const char *what)
{
    const uint64_t n = gguf__u64(g, what);
    const uint8_t *p;
    if (n > 65535) {
        conv_fail(g->env, "%s: %s of %llu bytes", g->file->path, what, (unsigned long long)n);
        return "";
    }
    p = gguf__bytes(g, n, what);
    if (!p) return "";
    if (memchr(p, 0, (size_t)n)) {
        conv_fail(g->env, "%s: %s holds a NUL byte", g->file->path, what);
        return "";
    }
    return conv_copy_text(g->env, p, (size_t)n);
}

static int gguf__array(gguf_file *g, gguf_kv *kv)
{
    kv->item_type = gguf__u32(g, kv->key);
    kv->count = gguf__u64(g, kv->key);
    kv->data = g->file->data + g->at;
    if (g->env->failed) return 0;
    if (kv->item_type >= GGUF_TYPES || kv->item_type == GGUF_ARRAY)
        return conv_fail(g->env, "%s: key %.100s is an array of type %u, which is not known", g->file->path,
                         kv->key, kv->item_type);
    if (kv->item_type != GGUF_STRING)
        return gguf__bytes(g, conv_times(kv->count, gguf_sizes[kv->item_type]), kv->key) != NULL;
    if (kv->count > (g->file->bytes - g->at) / 8)
        return conv_fail(g->env, "%s: key %.100s claims %llu strings", g->file->path, kv->key,
                         (unsigned long long)kv->count);
    for (uint64_t i = 0; i < kv->count; i++) {
        if (!gguf__bytes(g, gguf__u64(g, kv->key), kv->key)) return 0;
    }
    return 1;
}

static int gguf__kv(gguf_file *g, gguf_kv *kv)
{
    kv->key = gguf__name(g, "a metadata key");
    kv->type = gguf__u32(g, kv->key);
    if (g->env->failed) return 0;
    if (kv->type >= GGUF_TYPES)
        return conv_fail(g->env, "%s: key %.100s has type %u, which is not known", g->file->path, kv->key,
                         kv->type);
    if (kv->type == GGUF_ARRAY) return gguf__array(g, kv);
    kv->count = kv->type == GGUF_STRING ? gguf__u64(g, kv->key) : gguf_sizes[kv->type];
    kv->data = gguf__bytes(g, kv->count, kv->key);
    return kv->data != NULL;
}

/* Reads header and metadata; tensors follow with gguf_read_tensors.                                        */
static CONV_UNUSED int gguf_open(gguf_file *g, conv_env *env, const char *path)
{
    memset(g, 0, sizeof *g);
    g->env = env;
    g->file = conv_open(env, path);
    if (!g->file) return 0;
    if (gguf__u32(g, "the magic") != 0x46554747u)
        return env->failed ? 0 : conv_fail(env, "%s: not a GGUF file", path);
    g->version = gguf__u32(g, "the version");
    if (g->version == 0x02000000u || g->version == 0x03000000u)
        return conv_fail(env, "%s: a big-endian GGUF file", path);
    if (!env->failed && g->version != 2 && g->version != 3)
        return conv_fail(env, "%s: GGUF version %u, only 2 and 3 are known", path, g->version);
    g->n_tensors = gguf__u64(g, "the tensor count");
    g->n_kv = gguf__u64(g, "the metadata count");
    if (env->failed) return 0;
    /* the least that each takes */
    if (g->n_kv > g->file->bytes / 13 || g->n_tensors > g->file->bytes / 24)
        return conv_fail(env, "%s: %llu metadata keys and %llu tensors do not fit %llu bytes", path,
                         (unsigned long long)g->n_kv, (unsigned long long)g->n_tensors,
                         (unsigned long long)g->file->bytes);
    g->kv = (gguf_kv *)conv_alloc(env, g->n_kv + 1, sizeof *g->kv);
    for (uint64_t i = 0; !env->failed && i < g->n_kv; i++) {
        if (!gguf__kv(g, &g->kv[i])) return 0;
        if (!conv_map_add(env, &g->index, g->kv[i].key, i))
            return conv_fail(env, "%s: key %.100s is there twice", path, g->kv[i].key);
    }
    return !env->failed;
}

/* ---- metadata ------------------------------------------------------------------------------------------ */
static CONV_UNUSED gguf_kv *gguf_find(const gguf_file *g, const char *key)
{
    const uint64_t i = conv_map_find(&g->index, key);
    if (i == UINT64_MAX) return NULL;
    g->kv[i].used = 1;
    return &g->kv[i];
}

static double gguf__item(const uint8_t *p, uint32_t type)
{
    switch (type) {
    case GGUF_U8: case GGUF_BOOL: return p[0];
    case GGUF_I8:  return (int8_t)p[0];
    case GGUF_U16: return conv_u16(p);
    case GGUF_I16: return (int16_t)conv_u16(p);
    case GGUF_U32: return conv_u32(p);
    case GGUF_I32: return (int32_t)conv_u32(p);
    case GGUF_F32: return (double)conv_f32(p);
    case GGUF_F64: return conv_f64(p);
    case GGUF_U64: return (double)conv_u64(p);
    case GGUF_I64: return (double)(int64_t)conv_u64(p);
    default:       return 0.0;
    }
}

static CONV_UNUSED int gguf_is_number(const gguf_kv *kv)
{
    return kv && kv->type != GGUF_STRING && kv->type != GGUF_ARRAY;
}

/* Value of a number or bool; item i of an array of them.                                                   */
static CONV_UNUSED double gguf_number(const gguf_kv *kv, double otherwise)
{
    return gguf_is_number(kv) ? gguf__item(kv->data, kv->type) : otherwise;
}

static CONV_UNUSED double gguf_number_at(const gguf_kv *kv, uint64_t i)
{
    return gguf__item(kv->data + i * gguf_sizes[kv->item_type], kv->item_type);
}

/* A string value as NUL-terminated text in the arena; NULL: no string.                                     */
static CONV_UNUSED const char *gguf_text(const gguf_file *g, const gguf_kv *kv)
{
    return kv && kv->type == GGUF_STRING ? conv_copy_text(g->env, kv->data, (size_t)kv->count) : NULL;
}

/* Walks an array of strings: returns the bytes at *at, sets *n and moves *at to the next.                  */
static CONV_UNUSED const char *gguf_next_string(const uint8_t **at, uint64_t *n)
{
    const uint8_t *p = *at;
    *n = conv_u64(p);
    *at = p + 8 + *n;
    return (const char *)p + 8;
}

/* ---- tensors ------------------------------------------------------------------------------------------- */
static int gguf__type(conv_tensor *t, uint32_t type)
{
    static const struct { uint8_t ggml, conv; } plain[] = {
        { 0, CONV_F32 }, { 1, CONV_F16 }, { 24, CONV_I8 }, { 25, CONV_I16 }, { 26, CONV_I32 },
        { 27, CONV_I64 }, { 28, CONV_F64 }, { 30, CONV_BF16 }
    };
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (plain[i].ggml == type) { t->type = (conv_type)plain[i].conv; return 1; }
    }
    t->type = CONV_GGML;
    t->ggml_type = type;
    return type < sizeof ggml_types / sizeof *ggml_types && ggml_types[type].elements > 1;
}

/* GGUF gives dimensions innermost first.                                                                   */
static int gguf__tensor(gguf_file *g, conv_source *s, conv_storage *data, uint64_t alignment)
{
    conv_tensor t;
    uint64_t dims[4], offset;
    uint32_t n, type;
    memset(&t, 0, sizeof t);
    t.name = gguf__name(g, "a tensor name");
    n = gguf__u32(g, t.name);
    if (!g->env->failed && (n < 1 || n > 4))
        return conv_fail(g->env, "%s: tensor %.100s has %u dimensions", g->file->path, t.name, n);
    for (uint32_t i = 0; i < n && !g->env->failed; i++) {
        dims[i] = gguf__u64(g, t.name);
        if (dims[i] < 1 || dims[i] > (uint64_t)INT32_MAX)
            return conv_fail(g->env, "%s: tensor %.100s has a dimension of %llu", g->file->path, t.name,
                             (unsigned long long)dims[i]);
    }
    type = gguf__u32(g, t.name);
    offset = gguf__u64(g, t.name);
    if (g->env->failed) return 0;
    t.ndim = (int32_t)n;
    for (uint32_t i = 0; i < n; i++) t.shape[i] = (int64_t)dims[n - 1 - i];
    if (!gguf__type(&t, type))
        return conv_fail(g->env, "%s: tensor %.100s has ggml type %u, which is not known", g->file->path,
                         t.name, type);
    if (t.type == CONV_GGML) {
        const ggml_type_info *info = &ggml_types[type];
        if (dims[0] % info->elements)
            return conv_fail(g->env, "%s: tensor %.100s: rows of %llu do not divide into %s blocks of %u",
                             g->file->path, t.name, (unsigned long long)dims[0], info->name, info->elements);
        if (dims[0] / info->elements > UINT32_MAX / info->bytes)
            return conv_fail(g->env, "%s: tensor %.100s has rows of %llu", g->file->path, t.name,
                             (unsigned long long)dims[0]);
        t.row_bytes = (uint32_t)(dims[0] / info->elements * info->bytes);
    }
    if (!conv_set_strides(&t) || offset % alignment)
        return conv_fail(g->env, "%s: tensor %.100s: shape %s or offset %llu is not possible", g->file->path,
                         t.name, conv_shape_text(g->env, t.shape, t.ndim), (unsigned long long)offset);
    t.storage = data;
    t.first = offset;
    return conv_source_add(s, &t);
}

static int gguf__compare_offsets(const void *a, const void *b)
{
    const conv_tensor *x = *(const conv_tensor *const *)a, *y = *(const conv_tensor *const *)b;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* Two tensors over the same bytes are a damaged or hostile file.                                           */
static int gguf__check_overlap(gguf_file *g, conv_source *s)
{
    const conv_tensor **sorted = (const conv_tensor **)conv_alloc(g->env, s->n + 1, sizeof *sorted);
    uint64_t rest = 0;
    if (!sorted) return 0;
    for (uint64_t i = 0; i < s->n; i++) sorted[i] = &s->tensors[i];
    qsort(sorted, (size_t)s->n, sizeof *sorted, gguf__compare_offsets);
    if (s->n) rest = g->data_bytes - sorted[s->n - 1]->first - conv__extent(sorted[s->n - 1]);
    if (rest >= 65536)
        return conv_fail(g->env, "%s: the file goes on for %llu bytes after its last tensor", g->file->path,
                         (unsigned long long)rest);
    for (uint64_t i = 1; i < s->n; i++) {
        if (conv__extent(sorted[i - 1]) > sorted[i]->first - sorted[i - 1]->first)
            return conv_fail(g->env, "%s: tensors %.100s and %.100s overlap", g->file->path,
                             sorted[i - 1]->name, sorted[i]->name);
    }
    return 1;
}

/* Adds all tensors of the file to the source.                                                              */
static CONV_UNUSED int gguf_read_tensors(gguf_file *g, conv_source *s)
{
    const double alignment = gguf_number(gguf_find(g, "general.alignment"), 32.0);
    conv_storage *data = conv_storage_new(g->env, g->file->path, NULL, g->file->bytes);
    uint64_t at, step;
    if (!data) return 0;
    if (gguf_number(gguf_find(g, "split.count"), 1.0) > 1.0)
        return conv_fail(g->env, "%s: split.count: GGUF files in several parts must be merged first",
                         g->file->path);
    step = alignment >= 1.0 && alignment <= 1048576.0 ? (uint64_t)alignment : 0;
    if (step == 0 || (step & (step - 1)))
        return conv_fail(g->env, "%s: general.alignment %g is not a power of two", g->file->path, alignment);
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        if (!gguf__tensor(g, s, data, step)) return 0;
    }
    /* offsets count from here; ends are checked now that it is known */
    at = (g->at + step - 1) / step * step;
    if (at > g->file->bytes) return conv_fail(g->env, "%s: the data is missing", g->file->path);
    data->data = g->file->data + at;
    data->bytes = g->data_bytes = g->file->bytes - at;
    for (uint64_t i = 0; i < s->n; i++) {
        const conv_tensor *t = &s->tensors[i];
        if (t->first > data->bytes || conv__extent(t) > data->bytes - t->first)
            return conv_fail(g->env, "%s: tensor %.100s of %llu bytes at %llu passes the end of the file",
                             g->file->path, t->name, (unsigned long long)conv__extent(t),
                             (unsigned long long)t->first);
    }
    return gguf__check_overlap(g, s);
}

#endif /* CONV_GGUF_H_INCLUDED */
