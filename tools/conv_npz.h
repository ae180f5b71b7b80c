/* conv_npz.h: reads NumPy's .npz archives: a zip of arrays, each with a header in Python's notation.
   Arrays are unpacked into memory at once; a tensor's name is the entry's name without .npy. */
#ifndef CONV_NPZ_H_INCLUDED
#define CONV_NPZ_H_INCLUDED
#include "conv_source.h"
#include "conv_zip.h"

/* The type that a descr such as '<f4' means, or -1. */
static int conv__npy_type(const char *descr)
{
    static const struct { const char *name; conv_type type; } known[] = {
        { "<f4", CONV_F32 }, { "<f2", CONV_F16 }, { "<f8", CONV_F64 }, { "<i8", CONV_I64 },
        { "<i4", CONV_I32 }, { "<i2", CONV_I16 }, { "|i1", CONV_I8 }, { "|u1", CONV_U8 }, { "|b1", CONV_BOOL }
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strncmp(descr, known[i].name, 3) == 0 && descr[3] == '\'') return (int)known[i].type;
    return -1;
}
/* What stands behind 'key': in the header's dictionary, or NULL. */
static const char *conv__npy_value(conv_env *env, const char *header, const char *key)
{
    const char *at = strstr(header, conv_format(env, "'%s':", key));
    if (!at) return NULL;
    at += strlen(key) + 3;
    while (*at == ' ') at++;
    return at;
}
/* Sizes of a tuple such as (256, 16) or (3,); 0: it is none. */
static int conv__npy_shape(conv_tensor *t, const char *text)
{
    if (!text || *text++ != '(') return 0;
    for (t->ndim = 0; *text != ')';) {
        int64_t n = 0;
        int digits = 0;
        for (; *text >= '0' && *text <= '9' && digits < 18; text++, digits++) n = n * 10 + (*text - '0');
        if (digits == 0 || t->ndim == CONV_MAX_DIMS) return 0;
        t->shape[t->ndim++] = n;
        while (*text == ',' || *text == ' ') text++;
    }
    return 1;
}

/* One array of `bytes` bytes as a tensor of the source. */
static int conv__npy(conv_source *s, const char *name, const uint8_t *data, uint64_t bytes, const char *path)
{
    conv_env *env = s->env;
    uint64_t start, size;
    const char *header, *descr, *fortran;
    conv_tensor t;
    int type;
    memset(&t, 0, sizeof t);
    if (bytes < 12 || memcmp(data, "\x93NUMPY", 6) != 0)
        return conv_fail(env, "%s: %.100s is no NumPy array", path, name);
    start = data[6] == 1 ? 10u + conv_u16(data + 8) : 12u + (uint64_t)conv_u32(data + 8);
    if (start > bytes || start > 65536)
        return conv_fail(env, "%s: the header of %.100s is damaged", path, name);
    header = conv_copy_text(env, data + (data[6] == 1 ? 10 : 12),
                            (size_t)(start - (data[6] == 1 ? 10u : 12u)));
    descr = conv__npy_value(env, header, "descr");
    fortran = conv__npy_value(env, header, "fortran_order");
    type = descr && *descr == '\'' ? conv__npy_type(descr + 1) : -1;
    if (type < 0) return conv_fail(env, "%s: the element type of %.100s is not known: %.60s", path, name,
                                   header);
    if (!fortran || strncmp(fortran, "False", 5) != 0)
        return conv_fail(env, "%s: %.100s is not in row-major order", path, name);
    if (!conv__npy_shape(&t, conv__npy_value(env, header, "shape")) || !conv_set_strides(&t))
        return conv_fail(env, "%s: the shape of %.100s is damaged: %.60s", path, name, header);
    size = conv_types[type].bytes;
    for (int32_t i = 0; i < t.ndim; i++) size = conv_times(size, (uint64_t)t.shape[i]);
    if (size != bytes - start)
        return conv_fail(env, "%s: %.100s has %llu bytes, its shape %s needs %llu", path, name,
                         (unsigned long long)(bytes - start), conv_shape_text(env, t.shape, t.ndim),
                         (unsigned long long)size);
    t.name = name;
    t.type = (conv_type)type;
    t.storage = conv_storage_new(env, name, data + start, size);
    return t.storage && conv_source_add(s, &t);
}

/* Adds all arrays of an archive to the source. */
static CONV_UNUSED int conv_read_npz(conv_source *s, const conv_file *f)
{
    conv_env *env = s->env;
    conv_zip z;
    if (!conv_zip_open(&z, env, f)) return 0;
    for (uint64_t i = 0; i < z.n; i++) {
        const conv_zip_entry *e = &z.entries[i];
        const uint8_t *data = e->data;
        if (!conv_ends_with(e->name, ".npy"))
            return conv_fail(env, "%s: %.100s is no array", f->path, e->name);
        if (e->deflated) {              /* no entry can grow by more than a factor of 1032 */
            uint8_t *unpacked = e->bytes / 1032 > e->packed_bytes + 1 ? NULL
                              : (uint8_t *)conv_alloc(env, e->bytes + 1, 1);
            if (!unpacked || !conv_inflate(unpacked, e->bytes, e->data, e->packed_bytes))
                return conv_fail(env, "%s: %.100s does not unpack to %llu bytes", f->path, e->name,
                                 (unsigned long long)e->bytes);
            data = unpacked;
        }
        if (conv_crc32(data, e->bytes) != e->crc)
            return conv_fail(env, "%s: %.100s is damaged (wrong checksum)", f->path, e->name);
        if (!conv__npy(s, conv_copy_text(env, e->name, strlen(e->name) - 4), data, e->bytes,
                       f->path)) return 0;
    }
    return !env->failed;
}

#endif /* CONV_NPZ_H_INCLUDED */
