/* conv_safetensors.h: reads .safetensors files, single and sharded (model.safetensors.index.json).
   Format: u64 header length, JSON header {name: {dtype, shape, data_offsets}}, data without holes.         */
#ifndef CONV_SAFETENSORS_H_INCLUDED
#define CONV_SAFETENSORS_H_INCLUDED
#include "conv_source.h"
#include "json.h"

#define CONV_SAFETENSORS_HEADER ((uint64_t)100 << 20)  /* the reference reader's limit                      */

typedef struct conv__range { uint64_t first, end; const char *name; } conv__range;

static int conv__compare_ranges(const void *a, const void *b)
{
    const conv__range *x = (const conv__range *)a, *y = (const conv__range *)b;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int conv__safetensors_type(const char *name)
{
    for (int i = 0; i < (int)CONV_GGML; i++) {
        if (strcmp(conv_types[i].name, name) == 0) return i;
    }
    return -1;
}

static int conv__safetensors_tensor(conv_source *s, conv_storage *data, const json_value *key,
                                    const json_value *v, conv__range *range)
{
    conv_env *env = s->env;
    const char *name = conv_copy_text(env, key->text, key->n);
    const json_value *shape = json_get(v, "shape"), *offsets = json_get(v, "data_offsets");
    const char *dtype = json_text(json_get(v, "dtype"), "");
    const int type = conv__safetensors_type(dtype);
    const int64_t first = json_int(json_at(offsets, 0), -1), end = json_int(json_at(offsets, 1), -1);
    conv_tensor t;
    uint64_t bytes;
    memset(&t, 0, sizeof t);
    if (strlen(name) != key->n) return conv_fail(env, "a tensor name holds a NUL byte");
    if (type < 0) return conv_fail(env, "tensor %.200s has dtype \"%.20s\", which is not known", name, dtype);
    if (!json_is(shape, JSON_ARRAY) || json_count(shape) > CONV_MAX_DIMS)
        return conv_fail(env, "tensor %.200s: shape is not a list of at most %d sizes", name, CONV_MAX_DIMS);
    if (!json_is(offsets, JSON_ARRAY) || json_count(offsets) != 2 || first < 0 || end < first)
        return conv_fail(env, "tensor %.200s: data_offsets is not a list of two increasing offsets", name);
    t.name = name;
    t.type = (conv_type)type;
    t.ndim = (int32_t)json_count(shape);
    bytes = conv_types[type].bytes;
    for (int32_t i = 0; i < t.ndim; i++) {
        t.shape[i] = json_int(json_at(shape, (uint32_t)i), -1);
        if (t.shape[i] < 0)
            return conv_fail(env, "tensor %.200s: size %d of its shape is not a whole number >= 0", name, i);
        bytes = conv_times(bytes, (uint64_t)t.shape[i]);
    }
    if (!conv_set_strides(&t) || bytes != (uint64_t)(end - first))
        return conv_fail(env, "tensor %.200s: %s %s needs %llu bytes, data_offsets give %lld", name, dtype,
                         conv_shape_text(env, t.shape, t.ndim), (unsigned long long)bytes,
                             (long long)(end - first));
    t.storage = data;
    t.first = (uint64_t)first;
    range->first = t.first;
    range->end = (uint64_t)end;
    range->name = name;
    return conv_source_add(s, &t);
}

/* Tensors must tile the data exactly: an overlap or a hole means that the header was tampered with.        */
static int conv__safetensors_tiling(conv_env *env, conv__range *ranges, uint64_t n, uint64_t bytes,
                                    const char *path)
{
    uint64_t at = 0;
    qsort(ranges, (size_t)n, sizeof *ranges, conv__compare_ranges);
    for (uint64_t i = 0; i < n; i++) {
        if (ranges[i].first != at)
            return conv_fail(env, "%s: tensor %.200s %s at byte %llu", path, ranges[i].name,
                             ranges[i].first < at ? "overlaps its neighbour" : "leaves a hole in the data",
                             (unsigned long long)ranges[i].first);
        at = ranges[i].end;
    }
    if (at != bytes)
        return conv_fail(env, "%s: the tensors end at byte %llu of the data, the file at byte %llu", path,
                         (unsigned long long)at, (unsigned long long)bytes);
    return 1;
}

static int conv__safetensors_header(conv_source *s, const conv_file *f, const json_value *root,
                                    uint64_t data_at)
{
    conv_env *env = s->env;
    conv_storage *data = conv_storage_new(env, f->path, f->data + data_at, f->bytes - data_at);
    conv__range *ranges = (conv__range *)conv_alloc(env, (uint64_t)json_count(root) + 1, sizeof *ranges);
    uint64_t n = 0;
    if (!data || !ranges) return 0;
    if (!json_is(root, JSON_OBJECT)) return conv_fail(env, "%s: the header is not a JSON object", f->path);
    for (uint32_t i = 0; i < json_count(root); i++) {
        const json_value *key = json_key_at(root, i);
        if (json_text_is(key, "__metadata__")) continue;
        if (!conv__safetensors_tensor(s, data, key, json_at(root, i), &ranges[n])) return 0;
        n++;
    }
    return conv__safetensors_tiling(env, ranges, n, data->bytes, f->path);
}

/* Adds all tensors of one file to the source.                                                              */
static CONV_UNUSED int conv_read_safetensors(conv_source *s, const char *path)
{
    conv_env *env = s->env;
    const conv_file *f = conv_open(env, path);
    uint64_t header;
    json_doc doc;
    int ok;
    if (!f) return 0;
    if (f->bytes < 8) return conv_fail(env, "%s: too short for a safetensors file", path);
    header = conv_u64(f->data);
    if (header > f->bytes - 8)
        return conv_fail(env, "%s: the header should have %llu bytes, the file has %llu after its length",
                         path, (unsigned long long)header, (unsigned long long)(f->bytes - 8));
    if (header > CONV_SAFETENSORS_HEADER) return conv_fail(env, "%s: the header is larger than 100 MB", path);
    if (!json_parse(&doc, (const char *)f->data + 8, (size_t)header))
        return conv_fail(env, "%s: %s", path, doc.error);
    ok = conv__safetensors_header(s, f, doc.root, 8 + header);
    json_free(&doc);
    if (!ok && !strstr(env->error, path)) {            /* tensor messages get the file in front             */
        char text[sizeof env->error];
        snprintf(text, sizeof text, "%.150s: %.350s", path, env->error);
        memcpy(env->error, text, sizeof text);
    }
    return ok;
}

/* Reads the shards that an index file names, each once. `read` reads one file.                             */
static CONV_UNUSED int conv_read_shards(conv_source *s, const char *index_path,
                                        int (*read)(conv_source *s, const char *path))
{
    conv_env *env = s->env;
    const char *directory = conv_directory(env, index_path);
    const json_value *map;
    json_doc doc;
    int ok = 1;
    if (!json_read_file(&doc, index_path)) return conv_fail(env, "%s: %s", index_path, doc.error);
    map = json_get(doc.root, "weight_map");
    if (!json_is(map, JSON_OBJECT) || json_count(map) == 0)
        ok = conv_fail(env, "%s: weight_map is missing", index_path);
    for (uint32_t i = 0; ok && i < json_count(map); i++) {
        const char *file = json_text(json_at(map, i), "");
        const char *path;
        int known = 0;
        if (!*file || *file == '.' || strchr(file, '/') || strchr(file, '\\') || strchr(file, ':')) {
            ok = conv_fail(env, "%s: \"%.100s\" is not a plain file name", index_path, file);
            break;
        }
        path = conv_join_path(env, directory, file);
        for (const conv_file *f = env->files; f && !known; f = f->next) known = strcmp(f->path, path) == 0;
        if (!known) ok = read(s, path);
    }
    for (uint32_t i = 0; ok && i < json_count(map); i++) {
        const char *name = json_key_at(map, i)->text;
        if (!conv_source_find(s, name))
            ok = conv_fail(env, "%s: tensor %.200s is not in the shard that should hold it", index_path,
                           name);
    }
    json_free(&doc);
    return ok;
}

#endif /* CONV_SAFETENSORS_H_INCLUDED */
