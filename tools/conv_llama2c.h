/* conv_llama2c.h: reads the .bin of llama2.c, version 0: seven int32, then float32 weights by kind over
   all layers.                                                                                              */
#ifndef CONV_LLAMA2C_H_INCLUDED
#define CONV_LLAMA2C_H_INCLUDED
#include "conv_source.h"

typedef struct conv_llama2c {
    int32_t dim, ffn, layers, heads, kv_heads, vocab, context;
    int32_t tied;                     /* the head is the embedding                                          */
} conv_llama2c;

/* The header, if the whole file has exactly the size it asks for; 0: it is no such file (no error is
   raised).                                                                                                 */
static CONV_UNUSED int conv_llama2c_header(conv_llama2c *h, const conv_file *f)
{
    int32_t v[7];
    uint64_t d, kv, l, floats;
    if (f->bytes < 28) return 0;
    for (int i = 0; i < 7; i++) {
        v[i] = (int32_t)conv_u32(f->data + 4 * i);
        if (i != 5 && (v[i] < 1 || v[i] > 1 << 24)) return 0;
    }
    h->tied = v[5] > 0;
    if (v[5] == 0 || v[5] < -(1 << 24) || v[5] > 1 << 24 || v[2] > 4096) return 0;
    h->dim = v[0]; h->ffn = v[1]; h->layers = v[2]; h->heads = v[3]; h->kv_heads = v[4]; h->context = v[6];
    h->vocab = v[5] > 0 ? v[5] : -v[5];
    if (h->dim % h->heads || h->heads % h->kv_heads || h->dim / h->heads % 2) return 0;
    d = (uint64_t)h->dim;
    l = (uint64_t)h->layers;
    kv = d / (uint64_t)h->heads * (uint64_t)h->kv_heads;
    floats = (uint64_t)h->vocab * d * (h->tied ? 1 : 2) + d + (uint64_t)h->context * (d / (uint64_t)h->heads);
    floats += l * (2 * d + 2 * d * d + 2 * d * kv + 3 * d * (uint64_t)h->ffn);
    return (f->bytes - 28) % 4 == 0 && floats == (f->bytes - 28) / 4;    /* at most 2^63: cannot wrap       */
}

/* Adds one kind of weight, [layers][rows][cols], as a tensor for each layer; layers 0: a single one.       */
static int conv__llama2c_kind(conv_source *s, conv_storage *data, uint64_t *at, const char *name,
                              int32_t layers, int32_t rows, int32_t cols)
{
    for (int32_t i = 0; i < (layers ? layers : 1); i++) {
        conv_tensor t;
        memset(&t, 0, sizeof t);
        t.name = layers ? conv_format(s->env, "layers.%d.%s", i, name) : name;
        t.type = CONV_F32;
        t.ndim = cols ? 2 : 1;
        t.shape[0] = rows;
        t.shape[1] = cols;
        t.storage = data;
        t.first = *at;
        if (!conv_set_strides(&t) || !conv_source_add(s, &t)) return 0;
        *at += 4 * (uint64_t)rows * (uint64_t)(cols ? cols : 1);
    }
    return 1;
}

static CONV_UNUSED int conv_read_llama2c(conv_source *s, const conv_file *f, const conv_llama2c *h)
{
    conv_storage *data = conv_storage_new(s->env, f->path, f->data, f->bytes);
    const int32_t head_dim = h->dim / h->heads, kv = head_dim * h->kv_heads;
    uint64_t at = 28;
    return data && conv__llama2c_kind(s, data, &at, "tok_embeddings", 0, h->vocab, h->dim) &&
           conv__llama2c_kind(s, data, &at, "attention_norm", h->layers, h->dim, 0) &&
           conv__llama2c_kind(s, data, &at, "wq", h->layers, h->dim, h->dim) &&
           conv__llama2c_kind(s, data, &at, "wk", h->layers, kv, h->dim) &&
           conv__llama2c_kind(s, data, &at, "wv", h->layers, kv, h->dim) &&
           conv__llama2c_kind(s, data, &at, "wo", h->layers, h->dim, h->dim) &&
           conv__llama2c_kind(s, data, &at, "ffn_norm", h->layers, h->dim, 0) &&
           conv__llama2c_kind(s, data, &at, "w1", h->layers, h->ffn, h->dim) &&
           conv__llama2c_kind(s, data, &at, "w2", h->layers, h->dim, h->ffn) &&
           conv__llama2c_kind(s, data, &at, "w3", h->layers, h->ffn, h->dim) &&
           conv__llama2c_kind(s, data, &at, "norm", 0, h->dim, 0) &&
           conv__llama2c_kind(s, data, &at, "freq_cis", 0, h->context, head_dim) &&
           (h->tied || conv__llama2c_kind(s, data, &at, "output", 0, h->vocab, h->dim));
}

#endif /* CONV_LLAMA2C_H_INCLUDED */
