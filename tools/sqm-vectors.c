/* sqm-vectors: runs single mechanisms through the public mixers and operations and compares them with
   vectors:
   safetensors files with inputs in.*, weights w.*, outputs out.* and the metadata mechanism, case, config.
   Build: cc -O2 tools/sqm-vectors.c -o sqm-vectors -lm */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "conv_rope.h"
#include "conv_safetensors.h"

static const char help[] =
    "usage: sqm-vectors FILE.safetensors...\n"
    "\n"
    "Prints \"PASS|FAIL|SKIP mechanism/case max_abs_err tolerance\" for each file, then counts them.\n"
    "The tolerance is 1e-5 + 1e-5 * |expected|. SKIP, with its reason, counts as not passed.\n"
    "Exit status: 0 nothing failed, 1 something did, 2 wrong usage.\n";

typedef struct vector_case {
    conv_env          env;
    conv_source       source;
    json_doc          header, doc;      /* of the file; of its config */
    const json_value *config;
    const char       *mechanism, *name, *path;
    double            error, tolerance; /* of the worst value */
    int               failed;
    char              why[200];         /* SKIP or FAIL: the reason */
} vector_case;
enum { VECTOR_PASS, VECTOR_FAIL, VECTOR_SKIP };

static int vector_stop(vector_case *v, int verdict, const char *why)
{
    snprintf(v->why, sizeof v->why, "%.190s", why);
    return verdict;
}

/* All values of a tensor as float32; NULL when there is none. *t: its description. */
static float *vector_values(vector_case *v, const char *name, const conv_tensor **t)
{
    const conv_tensor *found = conv_source_find(&v->source, name);
    int64_t n = 1;
    float *values;
    *t = found;
    if (!found || found->ndim < 1) return NULL;
    for (int32_t i = 0; i < found->ndim; i++) n *= found->shape[i];
    values = (float *)conv_alloc(&v->env, (uint64_t)n + 1, sizeof(float));
    if (values)
        conv_values(values, conv_tensor_data(&v->source, found), n, (int64_t)conv_types[found->type].bytes,
                    found->type);
    return values;
}

static double vector_number(const vector_case *v, const char *key, double otherwise)
{
    return json_number(json_get(v->config, key), otherwise);
}

static void vector_compare(vector_case *v, const float *got, const float *want, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const double size = fabs((double)want[i]), tolerance = 1e-5 + 1e-5 * size;
        double error = fabs((double)got[i] - (double)want[i]);
        if (!(error <= 1e30)) error = 1e30;
        if (v->tolerance > 0.0 && error * v->tolerance <= v->error * tolerance) continue;
        v->error = error;
        v->tolerance = tolerance;
    }
}

/* ---- attention ----------------------------------------------------------------------------------------- */
typedef struct vector_shape { int32_t batch, heads, kv_heads, queries, keys, dim, v_dim, width;
} vector_shape;

/* rows [keys, q | k | v] of batch b as the mixer reads them; earlier keys come with empty queries */
static void vector_rows(float *rows, const vector_shape *s, const float *q, const float *k,
                        const float *value,
                        int32_t b)
{
    const int32_t past = s->keys - s->queries;
    memset(rows, 0, (size_t)s->keys * (size_t)s->width * sizeof(float));
    for (int32_t t = 0; t < s->keys; t++) {
        float *to = rows + (size_t)t * (size_t)s->width;
        for (int32_t h = 0; h < s->heads; h++, to += s->dim)
            if (t >= past)
                memcpy(to, q + (((size_t)b * (size_t)s->heads + (size_t)h) * (size_t)s->queries +
                                (size_t)(t - past)) *
                       (size_t)s->dim, (size_t)s->dim * sizeof(float));
        for (int32_t h = 0; h < s->kv_heads; h++, to += s->dim)
            memcpy(to, k + (((size_t)b * (size_t)s->kv_heads + (size_t)h) * (size_t)s->keys + (size_t)t) *
                   (size_t)s->dim, (size_t)s->dim * sizeof(float));
        for (int32_t h = 0; h < s->kv_heads; h++, to += s->v_dim)
            memcpy(to, value + (((size_t)b * (size_t)s->kv_heads + (size_t)h) * (size_t)s->keys + (size_t)t) *
                   (size_t)s->v_dim, (size_t)s->v_dim * sizeof(float));
    }
}

/* Feeds `keys` rows in pieces of `step` to a fresh state. */
static int vector_attend(vector_case *v, const void *bound, const vector_shape *s, float *out,
                         const float *rows,
                         int32_t step)
{
    const sqm_mixer *mixer = sqm_mixer_attention();
    const size_t state_bytes = mixer->state_bytes(bound, s->keys, s->keys, SQM_F32);
    const size_t scratch_bytes = mixer->scratch_bytes(bound, s->keys, s->keys, 1) + 64;
    void *state = conv_alloc(&v->env, state_bytes + 64, 1), *scratch = conv_alloc(&v->env, scratch_bytes, 1);
    sqm_exec x;
    if (!state || !scratch || sqm_exec_init(&x, SQM_ISA_AUTO, 1, scratch, scratch_bytes) != SQM_OK) return 0;
    mixer->reset(bound, state, state_bytes, s->keys, s->keys, SQM_F32);
    for (int32_t t = 0; t < s->keys; t += step) {
        sqm_span span;
        span.state = state;
        span.first_row = 0;
        span.rows = s->keys - t < step ? s->keys - t : step;
        span.position = t;
        span.total = s->keys;
        if (mixer->forward(bound, &x, out + (size_t)t * (size_t)(s->heads * s->v_dim),
                           rows + (size_t)t * (size_t)s->width, &span, 1) != SQM_OK) return 0;
    }
    return 1;
}

static void vector_param(sqm_param *p, const char *key, double number)
{
    memset(p, 0, sizeof *p);
    p->key = key;
    p->number = number;
}

/* q, k, v [batch, heads, time, dim] through the mixer, compared with out.o; whole and row by row must agree
   to the bit */
static int vector_attention(vector_case *v, const float *q, const float *k, const float *value,
                            vector_shape s,
                            double window)
{
    const conv_tensor *t, *sinks_t;
    const float *want = vector_values(v, "out.o", &t), *sinks = vector_values(v, "w.sinks", &sinks_t);
    const sqm_tensor sink = sqm_tensor_1d(sinks, SQM_F32, s.heads);
    const sqm_tensor *sink_list = &sink;
    const size_t n = (size_t)s.keys * (size_t)(s.heads * s.v_dim);
    float *rows, *whole, *parts, *packed;
    sqm_param params[8];
    sqm_error err;
    void *bound;
    int32_t out_width;
    if (!q || !k || !value || !want) return vector_stop(v, VECTOR_FAIL, "a tensor is missing");
    s.width = (s.heads + s.kv_heads) * s.dim + s.kv_heads * s.v_dim;
    vector_param(&params[0], "heads", s.heads);
    vector_param(&params[1], "kv_heads", s.kv_heads);
    vector_param(&params[2], "head_dim", s.dim);
    vector_param(&params[3], "v_dim", s.v_dim);
    vector_param(&params[4], "scale", vector_number(v, "scale", 1.0 / sqrt((double)s.dim)));
    vector_param(&params[5], "softcap", vector_number(v, "softcap", 0.0));
    vector_param(&params[6], "window", window);
    vector_param(&params[7], "sinks", 0.0);
    params[7].tensors = &sink_list;
    params[7].n_tensors = 1;
    bound = conv_alloc(&v->env, sqm_mixer_attention()->bound_bytes, 1);
    rows = (float *)conv_alloc(&v->env, (uint64_t)s.keys * (uint64_t)s.width, sizeof(float));
    whole = (float *)conv_alloc(&v->env, n, sizeof(float));
    parts = (float *)conv_alloc(&v->env, n, sizeof(float));
    packed = (float *)conv_alloc(&v->env, n, sizeof(float));
    if (!bound || !rows || !whole || !parts || !packed) return vector_stop(v, VECTOR_FAIL, v->env.error);
    if (sqm_mixer_attention()->bind(bound, params, sinks ? 8 : 7, s.width, &out_width, &err) != SQM_OK)
        return vector_stop(v, VECTOR_FAIL, err.text);
    for (int32_t b = 0; b < s.batch; b++) {
        const size_t past = (size_t)(s.keys - s.queries);
        vector_rows(rows, &s, q, k, value, b);
        if (!vector_attend(v, bound, &s, whole, rows, s.keys) || !vector_attend(v, bound, &s, parts, rows, 1))
            return vector_stop(v, VECTOR_FAIL, "the mixer refused to run");
        if (memcmp(whole, parts, n * sizeof(float))) return vector_stop(v, VECTOR_FAIL,
                "row by row gives other bits");
        for (int32_t h = 0; h < s.heads; h++)
            for (int32_t i = 0; i < s.queries; i++)
                memcpy(packed + ((size_t)h * (size_t)s.queries + (size_t)i) * (size_t)s.v_dim,
                       whole + ((past + (size_t)i) * (size_t)s.heads + (size_t)h) * (size_t)s.v_dim,
                       (size_t)s.v_dim * sizeof(float));
        vector_compare(v, packed, want + (size_t)b * (size_t)s.heads * (size_t)s.queries * (size_t)s.v_dim,
                       (int64_t)s.heads * s.queries * s.v_dim);
    }
    return VECTOR_PASS;
}

static vector_shape vector_shape_of(const conv_tensor *q, const conv_tensor *k, const conv_tensor *value)
{
    vector_shape s;
    memset(&s, 0, sizeof s);
    s.batch = (int32_t)q->shape[0];
    s.heads = (int32_t)q->shape[1];
    s.queries = (int32_t)q->shape[2];
    s.dim = (int32_t)q->shape[3];
    s.kv_heads = (int32_t)k->shape[1];
    s.keys = (int32_t)k->shape[2];
    s.v_dim = (int32_t)value->shape[3];
    return s;
}

/* sdpa and mask: causal, with an optional window */
static int vector_sdpa(vector_case *v)
{
    const conv_tensor *q_t, *k_t, *v_t;
    const float *q = vector_values(v, "in.q", &q_t), *k = vector_values(v, "in.k", &k_t);
    const float *value = vector_values(v, "in.v", &v_t);
    const int sliding = strncmp(v->name, "sliding_causal", 14) == 0 || strncmp(v->name, "sliding_decode",
            14) == 0;
    if (!q || !k || !value || q_t->ndim != 4 || k_t->ndim != 4 || v_t->ndim != 4)
        return vector_stop(v, VECTOR_FAIL, "q, k or v is missing");
    if (strcmp(v->mechanism, "mask") == 0 && !sliding)
        return vector_stop(v, VECTOR_SKIP, "this mask is not an option of the attention mixer yet");
    if (strcmp(v->mechanism, "sdpa") == 0 &&
        (conv_source_find(&v->source, "in.bias") || conv_source_find(&v->source, "in.mask")))
        return vector_stop(v, VECTOR_SKIP, "score biases and explicit masks are not in yet");
    if (strcmp(v->mechanism, "sdpa") == 0 && vector_number(v, "causal", 0.0) == 0.0 &&
        !(q_t->shape[2] == 1 && k_t->shape[2] == 1))
        return vector_stop(v, VECTOR_SKIP, "attention without causal mask is not in yet");
    return vector_attention(v, q, k, value, vector_shape_of(q_t, k_t, v_t), vector_number(v, "window", 0.0));
}

/* ---- rotary positions ---------------------------------------------------------------------------------- */
static const float *vector_list(vector_case *v, const char *key, int32_t n)
{
    const json_value *list = json_get(v->config, key);
    float *values = (float *)conv_alloc(&v->env, (uint64_t)n, sizeof(float));
    for (int32_t i = 0; values && i < n; i++) values[i] = (float)json_number(json_at(list, (uint32_t)i), 1.0);
    return values;
}

/* Frequencies by the converter's own code from the configuration of the case. */
static int vector_frequencies(vector_case *v, conv_rope *r, int32_t head_dim)
{
    conv_rope_spec s;
    conv c;
    memset(&s, 0, sizeof s);
    memset(&c, 0, sizeof c);
    c.env = &v->env;
    s.theta = vector_number(v, "base", 10000.0);
    s.dims = (int32_t)vector_number(v, "rotary_dim", head_dim);
    s.factor = vector_number(v, "factor", 1.0);
    s.original = vector_number(v, "original_max_position_embeddings", 0.0);
    s.max_position = vector_number(v, "max_position_embeddings", 0.0);
    if (s.original == 0.0) s.original = s.max_position;
    if (s.factor == 1.0 && s.original > 0.0 && s.max_position > s.original)
        s.factor = s.max_position / s.original;
    s.beta_fast = vector_number(v, "beta_fast", 32.0);
    s.beta_slow = vector_number(v, "beta_slow", 1.0);
    s.low_freq = vector_number(v, "low_freq_factor", 1.0);
    s.high_freq = vector_number(v, "high_freq_factor", 4.0);
    s.mscale = vector_number(v, "mscale", 0.0);
    s.mscale_all_dim = vector_number(v, "mscale_all_dim", 0.0);
    s.truncate = 1;
    s.type = strncmp(v->name, "longrope", 8) == 0 ? "longrope" : strncmp(v->name, "dynamic", 7) == 0
        ? "dynamic" :
             strncmp(v->name, "yarn", 4) == 0 ? "yarn" : strncmp(v->name, "llama3", 6) == 0 ? "llama3" :
             strncmp(v->name, "linear", 6) == 0 ? "linear" : "default";
    if (strcmp(s.type, "longrope") == 0) {
        s.short_factor = vector_list(v, "short_factor", s.dims / 2);
        s.long_factor = vector_list(v, "long_factor", s.dims / 2);
    }
    memset(r, 0, sizeof *r);
    r->name = "freq";
    r->style = vector_number(v, "interleaved", 0.0) != 0.0 ? "interleaved" : "half";
    return conv_rope_make(&c, r, &s, head_dim);
}

/* What the session does with the length of a call: LongRoPE's second table, dynamic NTK. */
static void vector_length(vector_case *v, conv_rope *r)
{
    const double length = vector_number(v, "seq_len", 0.0);
    if (r->freq_long && length > r->long_from) r->freq = r->freq_long;
    if (r->ntk_factor > 0.0 && length > r->ntk_length) {
        const double growth = r->ntk_factor * length / r->ntk_length - (r->ntk_factor - 1.0);
        for (int32_t i = 0; i < r->dims / 2; i++)
            r->freq[i] = (float)((double)r->freq[i] * pow(growth, -2.0 * i / (r->dims - 2)));
    }
}

/* Relative: the slow frequencies are far below the tolerance of results. */
static int vector_same_frequencies(vector_case *v, const conv_rope *r, const float *want)
{
    const double attention = vector_number(v, "attention_factor", 1.0);
    for (int32_t i = 0; i < r->dims / 2; i++) {
        const double gap = fabs((double)r->freq[i] - (double)want[i]);
        if (gap <= 1e-6 * fabs((double)want[i])) continue;
        snprintf(v->why, sizeof v->why, "frequency %d is %.9g, expected %.9g", (int)i, (double)r->freq[i],
                 (double)want[i]);
        return 0;
    }
    if (fabs(r->attn_factor - attention) <= 1e-6) return 1;
    snprintf(v->why, sizeof v->why, "attention factor is %.9g, expected %.9g", r->attn_factor, attention);
    return 0;
}

/* Rotates x [batch, heads, n, dim] in place at positions [n]. */
static int vector_rotate(vector_case *v, float *x, const conv_tensor *t, const int32_t *positions,
                         const conv_rope *r)
{
    float scratch[512 + 32];
    sqm_exec exec;
    const int32_t n = (int32_t)t->shape[2], dim = (int32_t)t->shape[3];
    if (sqm_exec_init(&exec, SQM_ISA_AUTO, 1, scratch, sizeof scratch) != SQM_OK) return 0;
    for (int64_t h = 0; h < t->shape[0] * t->shape[1]; h++)
        if (sqm_rope(&exec, x + h * n * dim, n, dim, 0, 1, dim, r->dims,
                     r->style[0] == 'h' ? SQM_ROPE_HALF : SQM_ROPE_INTERLEAVED, r->freq,
                         (float)r->attn_factor,
                     positions, 0) != SQM_OK) return vector_stop(v, VECTOR_FAIL, exec.error.text), 0;
    return 1;
}

static int vector_rope(vector_case *v)
{
    const conv_tensor *x_t, *y_t, *pos_t, *freq_t, *q_t, *k_t, *v_t;
    float *x = vector_values(v, "in.x", &x_t), *y = vector_values(v, "out.y_f32phase", &y_t);
    float *pos = vector_values(v, "in.pos", &pos_t), *freq = vector_values(v, "out.inv_freq", &freq_t);
    float *q = vector_values(v, "in.q", &q_t), *k = vector_values(v, "in.k", &k_t);
    float *value = vector_values(v, "in.v", &v_t);
    int32_t positions[512];
    conv_rope r;
    if (q && k && value) {              /* attention over rotated heads, positions 0, 1, 2 ... */
        if (!vector_frequencies(v, &r, (int32_t)q_t->shape[3])) return vector_stop(v, VECTOR_FAIL,
                v->env.error);
        if (!vector_rotate(v, q, q_t, NULL, &r) || !vector_rotate(v, k, k_t, NULL, &r)) return VECTOR_FAIL;
        return vector_attention(v, q, k, value, vector_shape_of(q_t, k_t, v_t), 0.0);
    }
    if (!x || !y || !pos || !freq || pos_t->shape[0] > 512) return vector_stop(v, VECTOR_FAIL,
            "a tensor is missing");
    if (!vector_frequencies(v, &r, (int32_t)x_t->shape[3])) return vector_stop(v, VECTOR_FAIL, v->env.error);
    vector_length(v, &r);
    if (!vector_same_frequencies(v, &r, freq)) return VECTOR_FAIL;
    /* The vectors divide by the factors in double, the official code in float32: rotate by theirs. */
    r.freq = freq;
    for (int64_t i = 0; i < pos_t->shape[0]; i++) positions[i] = (int32_t)pos[i];
    if (!vector_rotate(v, x, x_t, positions, &r)) return VECTOR_FAIL;
    vector_compare(v, x, y, x_t->shape[0] * x_t->shape[1] * x_t->shape[2] * x_t->shape[3]);
    return VECTOR_PASS;
}

#include "vec_linear.h"
#include "vec_memory.h"
#include "vec_ssm.h"
#include "vec_s4.h"

/* ---- the mechanisms ------------------------------------------------------------------------------------ */
static const struct { const char *name; int (*run)(vector_case *v); } vector_mechanisms[] = {
    VECTOR_LINEAR_MECHANISMS
    VECTOR_MEMORY_MECHANISMS
    VECTOR_SSM_MECHANISMS
    VECTOR_S4_MECHANISMS
    { "mask", vector_sdpa }, { "rope", vector_rope }, { "sdpa", vector_sdpa }
};

static int vector_run(vector_case *v, const char *path)
{
    const conv_file *f;
    const json_value *meta;
    const char *config;
    v->path = path;
    conv_env_open(&v->env);
    v->source.env = &v->env;
    if (!conv_read_safetensors(&v->source, path)) return vector_stop(v, VECTOR_FAIL, v->env.error);
    f = conv_open(&v->env, path);
    if (!f || !json_parse(&v->header, (const char *)f->data + 8, (size_t)conv_u64(f->data)))
        return vector_stop(v, VECTOR_FAIL, "the header cannot be read");
    meta = json_get(v->header.root, "__metadata__");
    v->mechanism = json_text(json_get(meta, "mechanism"), "?");
    v->name = json_text(json_get(meta, "case"), "?");
    config = json_text(json_get(meta, "config"), "{}");
    if (!json_parse(&v->doc, config, strlen(config))) return vector_stop(v, VECTOR_FAIL,
            "config is not JSON");
    v->config = v->doc.root;
    for (size_t i = 0; i < sizeof vector_mechanisms / sizeof vector_mechanisms[0]; i++)
        if (strcmp(vector_mechanisms[i].name, v->mechanism) == 0) return vector_mechanisms[i].run(v);
    return vector_stop(v, VECTOR_SKIP, "no mixer for this mechanism yet");
}

int main(int argc, char **argv)
{
    int counts[3] = { 0, 0, 0 };
    if (argc < 2 || strcmp(argv[1], "--help") == 0) {
        fputs(help, argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    for (int i = 1; i < argc; i++) {
        vector_case v;
        int verdict;
        memset(&v, 0, sizeof v);
        v.mechanism = v.name = "?";
        verdict = vector_run(&v, argv[i]);
        if (verdict == VECTOR_PASS && !(v.tolerance > 0.0 && v.error <= v.tolerance)) verdict = VECTOR_FAIL;
        counts[verdict]++;
        printf("%s %s/%s %.3g %.3g%s%s\n", verdict == VECTOR_PASS ? "PASS" : verdict == VECTOR_FAIL ? "FAIL"
               : "SKIP",
               v.mechanism, v.name, v.error, v.tolerance, v.why[0] ? " " : "", v.why);
        json_free(&v.doc);
        json_free(&v.header);
        conv_source_close(&v.source);
        conv_env_close(&v.env);
    }
    printf("%d passed, %d failed, %d skipped\n", counts[VECTOR_PASS], counts[VECTOR_FAIL],
           counts[VECTOR_SKIP]);
    return counts[VECTOR_FAIL] != 0;
}
