/* conv_torch.h: reads PyTorch checkpoints (.bin .pt .pth): the zip format of torch >= 1.6 and the older
   one of several pickles followed by the storages. The checkpoint must be a dictionary of tensors, or hold
   one under a usual key.                                                                                   */
#ifndef CONV_TORCH_H_INCLUDED
#define CONV_TORCH_H_INCLUDED
#include "conv_pickle.h"
#include "conv_zip.h"

#define CONV_TORCH_PICKLE ((uint64_t)64 << 20)

static int conv__count_tensors(const pickle_value *v)
{
    int n = 0;
    for (uint64_t i = 0; v->kind == PICKLE_DICT && i + 1 < v->u.items->n; i += 2)
        n += v->u.items->at[i].kind == PICKLE_TEXT && v->u.items->at[i + 1].kind == PICKLE_TENSOR;
    return n;
}

/* The dictionary of tensors in what the pickle built; NULL: none.                                          */
static const pickle_value *conv__state_dict(const pickle_value *top)
{
    static const char *const keys[] = { "state_dict", "model", "module", "model_state_dict", "params" };
    if (top->kind != PICKLE_DICT) return NULL;
    if (conv__count_tensors(top)) return top;
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        for (uint64_t i = 0; i + 1 < top->u.items->n; i += 2) {
            const pickle_value *key = &top->u.items->at[i];
            if (key->kind == PICKLE_TEXT && strcmp(key->u.text, keys[k]) == 0 && conv__count_tensors(key + 1))
                return key + 1;
        }
    }
    return NULL;
}

static int conv__add_state_dict(conv_source *s, const pickle_value *top, const char *path)
{
    const pickle_value *dict = conv__state_dict(top);
    if (!dict) return conv_fail(s->env, "%s: there is no dictionary of tensors in the checkpoint", path);
    for (uint64_t i = 0; i + 1 < dict->u.items->n; i += 2) {
        const pickle_value *key = &dict->u.items->at[i];
        conv_tensor t;
        if (key->kind != PICKLE_TEXT || key[1].kind != PICKLE_TENSOR) continue;
        t = *key[1].u.tensor;
        t.name = key->u.text;
        if (!conv_source_add(s, &t)) return 0;
    }
    return 1;
}

/* ---- zip ----------------------------------------------------------------------------------------------- */
static int conv__unpack_entry(conv_env *env, uint8_t *dst, const conv_storage *g)
{
    if (conv_inflate(dst, g->bytes, g->data, g->packed_bytes)) return 1;
    return conv_fail(env, "zip entry %.100s does not unpack to %llu bytes", g->name,
                     (unsigned long long)g->bytes);
}

/* Name of the archive's directory, found by its data.pkl.                                                  */
static const char *conv__torch_prefix(conv_env *env, const conv_zip *z)
{
    for (uint64_t i = 0; i < z->n; i++) {
        const char *name = z->entries[i].name;
        if (strcmp(conv_base_name(name), "data.pkl") == 0)
            return conv_copy_text(env, name, strlen(name) - strlen("data.pkl"));
    }
    return NULL;
}

static int conv__torch_storages(conv_env *env, const conv_zip *z, const pickle_machine *m, const char *prefix)
{
    for (uint64_t i = 0; i < m->storages.n; i++) {
        const pickle_storage *g = m->storages.at[i].u.storage;
        const conv_zip_entry *e = conv_zip_find(z, conv_format(env, "%sdata/%s", prefix, g->key));
        if (!e) return conv_fail(env, "%s: storage %.100s is missing", m->path, g->key);
        if (e->bytes < g->storage->bytes)
            return conv_fail(env, "%s: storage %.100s has %llu bytes, its tensors need %llu", m->path, g->key,
                             (unsigned long long)e->bytes, (unsigned long long)g->storage->bytes);
        g->storage->name = e->name;
        g->storage->data = e->data;
        g->storage->bytes = e->bytes;
        g->storage->packed_bytes = e->deflated ? e->packed_bytes : 0;
    }
    return 1;
}

/* The bytes of a small entry, unpacked if need be and checked.                                             */
static const uint8_t *conv__torch_entry(conv_env *env, const conv_zip_entry *e, const char *path)
{
    const uint8_t *data = e->data;
    if (e->bytes > CONV_TORCH_PICKLE) {
        conv_fail(env, "%s: %.100s of %llu bytes is too large for a checkpoint's index", path, e->name,
                  (unsigned long long)e->bytes);
        return NULL;
    }
    if (e->deflated) {
        uint8_t *unpacked = (uint8_t *)conv_alloc(env, e->bytes + 1, 1);
        if (!unpacked) return NULL;
        if (!conv_inflate(unpacked, e->bytes, e->data, e->packed_bytes)) {
            conv_fail(env, "%s: %.100s does not unpack to %llu bytes", path, e->name,
                      (unsigned long long)e->bytes);
            return NULL;
        }
        data = unpacked;
    }
    if (conv_crc32(data, e->bytes) != e->crc) {
        conv_fail(env, "%s: %.100s is damaged (wrong checksum)", path, e->name);
        return NULL;
    }
    return data;
}

static int conv__read_torch_zip(conv_source *s, const conv_file *f)
{
    conv_env *env = s->env;
    const conv_zip_entry *e;
    const char *prefix;
    const uint8_t *data;
    conv_zip z;
    pickle_machine m;
    pickle_value top;
    if (!conv_zip_open(&z, env, f)) return 0;
    prefix = conv__torch_prefix(env, &z);
    if (!prefix)
        return conv_fail(env, "%s: a zip archive without data.pkl: not a PyTorch checkpoint", f->path);
    e = conv_zip_find(&z, conv_format(env, "%sbyteorder", prefix));
    data = e ? conv__torch_entry(env, e, f->path) : NULL;
    if (data && (e->bytes != 6 || memcmp(data, "little", 6) != 0))
        return conv_fail(env, "%s: the checkpoint is not little-endian", f->path);
    e = conv_zip_find(&z, conv_format(env, "%sdata.pkl", prefix));
    data = e ? conv__torch_entry(env, e, f->path) : NULL;
    if (!data) return 0;
    memset(&m, 0, sizeof m);
    m.env = env;
    m.path = f->path;
    m.in = data;
    m.bytes = e->bytes;
    s->unpack = conv__unpack_entry;
    return pickle_run(&m, &top) && conv__torch_storages(env, &z, &m, prefix) &&
           conv__add_state_dict(s, &top, f->path);
}

/* ---- older format -------------------------------------------------------------------------------------- */
/* After the pickles: for each key of a list of keys, u64 number of elements, then the elements.            */
static int conv__torch_old_storages(pickle_machine *m, const pickle_value *keys)
{
    if (keys->kind != PICKLE_LIST) return pickle__fail(m, "the list of storages is missing");
    for (uint64_t i = 0; i < keys->u.items->n; i++) {
        const pickle_value *key = &keys->u.items->at[i];
        const char *name = key->kind == PICKLE_TEXT ? key->u.text : "";
        const uint64_t known = conv_map_find(&m->storage_index, name);
        const uint64_t n = pickle__count(m, 8);
        const pickle_storage *g;
        if (m->env->failed) return 0;
        if (known == UINT64_MAX) return pickle__fail(m, "the list of storages names one that no tensor has");
        g = m->storages.at[known].u.storage;
        if (n != g->count)
            return conv_fail(m->env, "%s: storage %.100s has %llu elements, its tensors need %llu", m->path,
                             g->key, (unsigned long long)n, (unsigned long long)g->count);
        g->storage->data = pickle__bytes(m, g->storage->bytes);
        if (!g->storage->data) return 0;
    }
    for (uint64_t i = 0; i < m->storages.n; i++) {
        const pickle_storage *g = m->storages.at[i].u.storage;
        if (!g->storage->data) return conv_fail(m->env, "%s: storage %.100s is missing", m->path, g->key);
    }
    return 1;
}

static int conv__read_torch_old(conv_source *s, const conv_file *f)
{
    static const uint8_t magic[10] = { 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19 };
    pickle_machine m;
    pickle_value v, top;
    memset(&m, 0, sizeof m);
    m.env = s->env;
    m.path = f->path;
    m.in = f->data;
    m.bytes = f->bytes;
    if (!pickle_run(&m, &v)) return 0;
    if (v.kind != PICKLE_BYTES || v.text_bytes < 10 || memcmp(v.u.text, magic, 10) != 0)
        return conv_fail(s->env, "%s: a pickle, but not a PyTorch checkpoint", f->path);
    if (!pickle_run(&m, &v)) return 0;
    if (v.kind != PICKLE_INT || v.u.i != 1001)
        return conv_fail(s->env, "%s: PyTorch checkpoint of an unknown version", f->path);
    if (!pickle_run(&m, &v)) return 0;                 /* sizes of the C types of the machine that wrote it */
    if (!pickle_run(&m, &top) || !pickle_run(&m, &v)) return 0;
    return conv__torch_old_storages(&m, &v) && conv__add_state_dict(s, &top, f->path);
}

/* Adds all tensors of one file to the source.                                                              */
static CONV_UNUSED int conv_read_torch(conv_source *s, const char *path)
{
    const conv_file *f = conv_open(s->env, path);
    if (!f) return 0;
    if (f->bytes >= 4 && conv_u32(f->data) == 0x04034b50u) return conv__read_torch_zip(s, f);
    if (f->data[0] == 0x80) return conv__read_torch_old(s, f);
    return conv_fail(s->env, "%s: not a PyTorch checkpoint (neither a zip archive nor a pickle)", path);
}

#endif /* CONV_TORCH_H_INCLUDED */
