/* samples.h: every mixer with parameters that fit together, as text, and as a mixer to bind and run. */
#ifndef SAMPLES_H
#define SAMPLES_H
#include "../seqmodel.h"
#include "check.h"
#include <stdlib.h>

/* ---- samples: mixers with parameters that fit together ------------------------------------------------- */
/* width | key=number, key=word, key=tensors: @n vector, @rxc rows, @Prxc panels, joined by commas */
typedef struct sample { const char *mixer; int32_t width; const char *params; } sample;
static const sample samples[] = {
    { "attention", 64, "heads=4 kv_heads=2 head_dim=8 v_dim=8 sinks=@4 softcap=3 scale=0.5" },
    { "attention", 44, "heads=2 kv_heads=2 head_dim=4 v_dim=14 window=70 keep=65 sums=1" },
    { "attention", 32, "heads=2 kv_heads=1 head_dim=8 v_dim=8 shared=1 every=4" },
    { "attention", 26, "heads=2 kv_heads=2 head_dim=4 v_dim=4 chunk=8 before=1 key_bias=1 most=3" },
    { "attention", 19, "heads=2 kv_heads=1 head_dim=4 v_dim=4 selected=3" },
    { "attention", 16, "heads=2 kv_heads=1 head_dim=4 v_dim=4 slopes=@2" },
    { "select", 26, "heads=2 head_dim=8 k=3 every=2" },
    { "compress", 12, "size=4 overlap=1 bias=@24" },
    { "lsh", 16, "heads=2 head_dim=4 chunk=4 before=1 after=0 rounds=2 buckets=4 rotations=@32" },
    { "conv", 10, "w=@4x8 b=@8 act=silu dilation=1 first=1 rest=1" },
    { "conv", 8, "w=@3x8 dilation=5" },
    { "conv_whole", 8, "w=@9x8 columns=5 across=3" },
    { "conv_whole", 8, "w=@4x8 b=@8 future=1" },
    { "memory", 28, "heads=2 head_dim=4 v_dim=4 memory=linear update=descent window=1 chunk=1" },
    { "memory", 50, "heads=2 head_dim=5 v_dim=5 memory=gated hidden=7 act=silu bias=1 residual=1 loss=norm "
      "norm=@10 norm_b=@10 eps=0.001 update=muon window=7 chunk=4 rate=1 retain=1 weights=1 "
      "start=@12x7,@12x7,@16x5" },
    { "memory", 28, "heads=2 head_dim=4 v_dim=5 memory=mlp hidden=18 update=sum chunk=3 window=1 steps=@3 "
      "rate=1 "
      "retain=0 weights=0" },
    { "memory_caching", 34, "heads=2 head_dim=4 v_dim=4 memory=linear update=momentum window=1 chunk=2 "
      "segment=6 "
      "combine=softmax top=2 pool=2 fresh=1" },
    { "memory_caching", 24, "heads=2 head_dim=4 v_dim=4 memory=mlp hidden=20 update=descent window=1 chunk=1 "
      "segment=5 combine=mean rate=0 retain=0" },
    { "memory_context", 8, "heads=2 head_dim=4 v_dim=4 memory=linear update=descent window=1 chunk=1 "
      "segment=3 "
      "persistent=@2x8 attend=@P8x8,@P8x8,@P8x8,@P8x8 attend_heads=2 learn=@P8x8,@P20x8 learn_b=-,@20" },
    { "kernel_memory", 42, "heads=2 head_dim=4 v_dim=5 window=6 loss=l2 rate=1 retain=1 weights=1 "
      "kernel=exp" },
    { "kernel_memory", 28, "heads=2 head_dim=4 v_dim=4 window=1 loss=dot kernel=abs rate=1 retain=1" },
    { "codebook", 24, "heads=2 head_dim=4 v_dim=4 codes=5 near=3 codebook=@P32x4 half=@32 relative=@P32x4 "
      "bias=@6" },
    { "codebook", 26, "heads=2 head_dim=4 v_dim=5 codes=17 near=4 block=2 codebook=@P64x4 half=@64" },
    { "scan", 24, "a=@P8x4 d=@8 init=@8x4 groups=1 input=step dt_act=softplus dt_bias=@8 dt_min=0 "
      "dt_max=0.5" },
    { "scan", 40, "a=@P18x4 b=@P18x4 c=@P18x4 complex=1 x_at=20 dt_at=0" },
    { "scan", 17, "decay=@P17x3 b=@P17x3 c=@P17x3 input=one" },
    { "scan_whole", 24, "a=@P8x4 d=@8 order=down columns=3 groups=1 b_at=16 c_at=20" },
    { "ssd", 46, "heads=4 head_dim=8 state=5 groups=1 a=@4 d=@32 init=@32x5 dt_act=softplus dt_bias=@4 "
      "dt_min=0.001 "
      "dt_max=10" },
    { "ssd", 56, "heads=2 head_dim=17 state=5 groups=2 a=@2 x_at=0 b_at=34 c_at=44 dt_at=54" },
    { "ssd_whole", 46, "heads=4 head_dim=8 state=5 groups=1 a=@4 order=backward shift=1" },
    { "trapezoid", 92, "heads=4 head_dim=5 state=6 groups=2 rank=2 angles=3 b_bias=@48 c_bias=@48 mix=@40 "
      "d=@20 "
      "a_act=heavy_tail a_floor=0.01 style=half dt_min=0 dt_max=3" },
    { "linear_attention", 50, "heads=2 key_dim=4 v_dim=5 normalizer=none log_gates=0 update=dplr "
      "decay=vector "
      "read=post scale=0.5 steps=1" },
    { "linear_attention", 38, "heads=2 key_dim=5 v_dim=7 normalizer=max log_gates=1 gate=1 decay=scalar "
      "eps=0.001" },
    { "linear_attention", 43, "heads=2 key_dim=18 v_dim=7 q_heads=1 k_heads=1 v_heads=1 normalizer=sum "
      "log_gates=0 "
      "factors=@2 key_start=0.1" },
    { "linear_attention", 24, "heads=2 key_dim=4 v_dim=4 normalizer=none log_gates=0 read=pre bonus=@8 "
      "factors=@8" },
    { "linear_attention", 45, "heads=2 key_dim=4 v_dim=4 normalizer=none log_gates=0 update=delta gate=1 "
      "steps=2 "
      "decay=scalar decay_heads=1 k_heads=2" },
    { "linear_attention_whole", 26, "heads=2 key_dim=4 v_dim=5 normalizer=sum log_gates=0 eps=0.1 scale=2" },
    { "running_softmax", 24, "heads=4 v_dim=5 weights=0 decay=@4 bonus=@4" },
    { "running_softmax", 4, "heads=4 v_dim=1 weights=1" },
    { "slstm", 40, "heads=2 w=@200" },
    { "shift", 6, "mixes=3 w=@18 dynamic=0" },
    { "shift", 18, "mixes=2 w=@12 dynamic=1" },
    { "pool", 12, "kind=mean groups=3" },
    { "ridge", 20, "heads=2 dim=4 lambda=@8" },
    { "lti", 18, "da=@P18x6 b=@P18x6 c=@P18x6 p=@P18x6 q=@P18x6 d=@18" },
    { "lti", 4, "da=@P4x6 da_low=@P4x6 c=@P4x6" },
    { "lti", 10, "da=@P5x2" },
    { "rnn", 21, "w=@P7x7 copies=3 act=tanh first=2 residual=1" },
    { "legs", 3, "order=7 step=exact" },
    { "long_conv", 18, "w=@90x18 segment=0" },
    { "long_conv", 3, "w=@2000x3 segment=200" },
    { "window", 4, "size=3 dilation=2" },
    { "reorder", 3, "order=up columns=4" },
    { "running_pool", 6, "kind=max weighted=1" },
    { "spike", 5, "tau=2 threshold=1 rest=0.1 input=added reset=soft" }
};
enum { N_SAMPLES = sizeof(samples) / sizeof(samples[0]) };

enum { MAX_PARAMS = 32, MAX_TENSORS = 48 };
typedef struct rig {
    const sample     *s;
    const sqm_mixer  *mixer;
    char              text[600];
    sqm_param         params[MAX_PARAMS];
    sqm_tensor        tensors[MAX_TENSORS];
    const sqm_tensor *lists[MAX_TENSORS];
    int32_t           n_params, n_tensors, width, out;
    uint64_t          bound[200];
} rig;
static float values[1 << 16];           /* of every tensor: small and positive */
static inline void fill_values(void)
{
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        values[i] = 0.01f + (float)(i * 7919u % 1000u) / 5000.0f;
}

static inline const sqm_mixer *find(const char *name)
{
    const sqm_mixer *const *all = sqm_all_mixers();
    while (*all && strcmp((*all)->name, name) != 0) all++;
    return *all;
}
/* One tensor of a list; returns what follows it. */
static inline char *read_tensor(rig *r, char *at)
{
    const int panels = at[0] == '@' && at[1] == 'P';
    sqm_tensor *t = &r->tensors[r->n_tensors];
    int32_t rows, cols = 0;
    CHECK(r->n_tensors < MAX_TENSORS);
    r->lists[r->n_tensors++] = *at == '@' ? t : NULL;
    if (*at == '-') return at + 1;
    rows = (int32_t)strtol(at + 1 + panels, &at, 10);
    if (*at == 'x') cols = (int32_t)strtol(at + 1, &at, 10);
    *t = cols ? sqm_tensor_2d(values, SQM_F32, panels ? SQM_PANELS : SQM_ROWS, rows, cols)
              : sqm_tensor_1d(values, SQM_F32, rows);
    return at;
}
static inline void rig_open(rig *r, const sample *s)
{
    memset(r, 0, sizeof(*r));
    r->s = s;
    r->mixer = find(s->mixer);
    r->width = s->width;
    snprintf(r->text, sizeof(r->text), "%s", s->params);
    for (char *word = strtok(r->text, " "); word; word = strtok(NULL, " ")) {
        sqm_param *p = &r->params[r->n_params++];
        char *value = strchr(word, '='), *end;
        CHECK(value && r->n_params <= MAX_PARAMS);
        *value++ = 0;
        p->key = word;
        if (*value != '@' && *value != '-') {
            p->number = strtod(value, &end);
            if (*end) p->text = value;
            continue;
        }
        p->tensors = &r->lists[r->n_tensors];
        for (char *at = value; at; at = *at == ',' ? at + 1 : NULL) {
            at = read_tensor(r, at);
            p->n_tensors++;
        }
    }
}
static inline sqm_result rig_bind(rig *r, sqm_error *err)
{
    memset(err, 0, sizeof(*err));
    return r->mixer->bind(r->bound, r->params, r->n_params, r->width, &r->out, err);
}
#endif
