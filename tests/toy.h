/* toy.h - a small random decoder written with the library's own writer, for tests that need a whole model:
   grouped heads,
   qk-norm, partial rotary positions, a window, a soft cap, sinks, gated and plain MLPs, a tied head. */
#ifndef TOY_H
#define TOY_H
#include "../seqmodel.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOY_DIM = 48, TOY_HEADS = 4, TOY_KV = 2, TOY_HEAD_DIM = 12, TOY_FF = 88, TOY_VOCAB = 257, TOY_CONTEXT =
    512 };

typedef struct toy {
    sqm_writer *writer;
    sqm_dtype   dtype;
    uint64_t    state;
    /* 0 declares the tensors, 1 writes their data */
    int         pass;
} toy;

/* uniform in [-1, 1), the same on every machine */
static float toy_random(toy *t)
{
    t->state ^= t->state << 13;
    t->state ^= t->state >> 7;
    t->state ^= t->state << 17;
    return (float)((double)(t->state >> 40) / 8388608.0 - 1.0);
}

static void toy_tensor(toy *t, const char *name, sqm_layout layout, int32_t rows, int32_t cols, float scale,
                       float offset)
{
    const int32_t shape[2] = { rows, cols };
    const sqm_dtype dtype = layout == SQM_PANELS ? t->dtype : SQM_F32;
    const int32_t ndim = layout == SQM_PANELS ? 2 : 1;
    const size_t n = (size_t)rows * (size_t)cols, bytes = sqm_tensor_bytes(dtype, layout, ndim, shape);
    if (t->pass == 0) {
        sqm_writer_declare(t->writer, name, dtype, layout, ndim, shape);
    } else {
        float *values = (float *)malloc(n * sizeof(float));
        void *packed = malloc(bytes);
        for (size_t i = 0; i < n; i++) values[i] = offset + scale * toy_random(t);
        if (layout == SQM_PANELS) (void)sqm_pack(packed, bytes, dtype, values, rows, cols, NULL, NULL);
        else memcpy(packed, values, bytes);
        sqm_writer_data(t->writer, packed, bytes);
        free(packed);
        free(values);
    }
}

static void toy_tensors(toy *t)
{
    char name[32];
    toy_tensor(t, "embed", SQM_PANELS, TOY_VOCAB, TOY_DIM, 1.0f, 0.0f);
    for (int layer = 0; layer < 3; layer++) {
        const struct { const char *name; sqm_layout layout; int32_t rows, cols; float scale, offset;
        } list[] = {
            { "norm1", SQM_ROWS, TOY_DIM, 1, 0.2f, 1.0f },
            { "q", SQM_PANELS, TOY_HEADS * TOY_HEAD_DIM, TOY_DIM, 0.4f, 0.0f },
            { "k", SQM_PANELS, TOY_KV * TOY_HEAD_DIM, TOY_DIM, 0.4f, 0.0f },
            { "v", SQM_PANELS, TOY_KV * TOY_HEAD_DIM, TOY_DIM, 0.4f, 0.0f },
            { "qb", SQM_ROWS, TOY_HEADS * TOY_HEAD_DIM, 1, 0.2f, 0.0f },
            { "qn", SQM_ROWS, TOY_HEAD_DIM, 1, 0.2f, 1.0f },
            { "kn", SQM_ROWS, TOY_KV * TOY_HEAD_DIM, 1, 0.2f, 1.0f },
            { "freq", SQM_ROWS, 4, 1, 0.4f, 0.5f },
            { "sinks", SQM_ROWS, TOY_HEADS, 1, 1.0f, 0.0f },
            { "o", SQM_PANELS, TOY_DIM, TOY_HEADS * TOY_HEAD_DIM, 0.4f, 0.0f },
            { "norm2", SQM_ROWS, TOY_DIM, 1, 0.2f, 1.0f },
            { "gate", SQM_PANELS, TOY_FF, TOY_DIM, 0.4f, 0.0f },
            { "up", SQM_PANELS, TOY_FF, TOY_DIM, 0.4f, 0.0f },
            { "down", SQM_PANELS, TOY_DIM, TOY_FF, 0.4f, 0.0f }
        };
        for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
            snprintf(name, sizeof(name), "l%d.%s", layer, list[i].name);
            toy_tensor(t, name, list[i].layout, list[i].rows, list[i].cols, list[i].scale, list[i].offset);
        }
    }
    toy_tensor(t, "norm", SQM_ROWS, TOY_DIM, 1, 0.2f, 1.0f);
}

static void toy_recipe(char *text, size_t room)
{
    static const char *const mixing[3] = { "window=20", "softcap=5", "sinks=@l2.sinks" };
    size_t n = (size_t)snprintf(text, room, "embed r0 tokens w=@embed scale=1.5\n");
    for (int l = 0; l < 3; l++) {
        n += (size_t)snprintf(text + n, room - n,
            "norm r1 r0 kind=rms w=@l%d.norm1 eps=1e-5\n"
            "linear r2 r1 w=@l%d.q,@l%d.k,@l%d.v b=@l%d.qb,-,-\n"
            "norm r2 r2 kind=rms first=0 count=48 groups=4 w=@l%d.qn eps=1e-6\n"
            "norm r2 r2 kind=layer first=48 count=24 groups=2 w=@l%d.kn eps=1e-6\n"
            "rope r2 r2 first=0 heads=6 head_dim=12 dims=8 style=%s freq=@l%d.freq\n"
            "mix r3 r2 attention heads=4 kv_heads=2 head_dim=12 scale=0.3 %s\n"
            "linear r0 r3 w=@l%d.o add=1\n"
            "norm r1 r0 kind=layer w=@l%d.norm2 eps=1e-5\n"
            "linear r2 r1 w=@l%d.gate,@l%d.up\n"
            "glu r3 r2 act=%s\n"
            "linear r0 r3 w=@l%d.down add=1 scale=0.5\n",
            l, l, l, l, l, l, l, l == 1 ? "interleaved" : "half", l, mixing[l], l, l, l, l, l == 1
                ? "gelu_tanh" : "silu", l);
    }
    snprintf(text + n, room - n,
             "norm r0 r0 kind=rms w=@norm eps=1e-5\nhead logits r0 w=@embed softcap=30\n");
}

/* Writes the model to path; weights of linear maps in `dtype`. Returns the writer's result. */
static sqm_result toy_write(const char *path, sqm_dtype dtype, sqm_error *err)
{
    char recipe[8192];
    toy t;
    t.writer = sqm_writer_open(path, err);
    if (!t.writer) return SQM_E_IO;
    t.dtype = dtype;
    t.state = 88172645463325252u;
    sqm_writer_meta(t.writer, "name", "toy");
    sqm_writer_meta(t.writer, "max_context", "512");
    t.pass = 0;
    toy_tensors(&t);
    toy_recipe(recipe, sizeof(recipe));
    sqm_writer_recipe(t.writer, recipe);
    t.pass = 1;
    toy_tensors(&t);
    return sqm_writer_close(t.writer, err);
}
#endif
