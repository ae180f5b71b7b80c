/* vec_linear.h: for sqm-vectors: linear attention and its kin. A layer's case becomes a weight file through the
   converter's own code (prep_linear.h, conv_write.h), is opened and fed as any model is; whole, row by row and 7 +
   rest must agree to the bit. Cases of the bare recurrence start from a given state: they call the mixer.
   Tolerance: the file's entry in tolerances.json beside it, times the largest |expected| value.                    */
#ifndef VEC_LINEAR_H_INCLUDED
#define VEC_LINEAR_H_INCLUDED
#include "conv_write.h"
#include "prep_linear.h"

typedef struct vl {                   /* a case as a model                                                  */
    vector_case *v;
    conv         c;
    lin          l;
    sqm_model   *model;
    sqm_session *session;
    int32_t      batch, rows;
} vl;

/* ---- reading a case ------------------------------------------------------------------------------------ */
static double vl_share(vector_case *v)
{
    const char *path = conv_join_path(&v->env, conv_directory(&v->env, v->path), "tolerances.json");
    double share = 2e-5;
    json_doc doc;
    if (!json_read_file(&doc, path)) return share;
    share = json_number(json_get(json_get(doc.root, conv_base_name(v->path)), "tol"), share);
    json_free(&doc);
    return share;
}
static int64_t vl_count(const conv_tensor *t)
{
    int64_t n = 1;
    for (int32_t i = 0; i < t->ndim; i++) n *= t->shape[i];
    return n;
}
/* Compares n values that stand `at` in the tensor `name`; the tolerance is that of the whole tensor. */
static int vl_compare(vector_case *v, const char *name, const float *got, int64_t at, int64_t n)
{
    const conv_tensor *t;
    const float *want = vector_values(v, name, &t);
    double largest = 0.0, tolerance;
    if (!want || at + n > vl_count(t)) return vector_stop(v, VECTOR_FAIL, name);
    for (int64_t i = 0; i < vl_count(t); i++)
        if (fabs((double)want[i]) > largest) largest = fabs((double)want[i]);
    tolerance = vl_share(v) * (largest > 0.0 ? largest : 1.0);
    for (int64_t i = 0; i < n; i++) {
        double error = fabs((double)got[i] - (double)want[at + i]);
        if (!(error <= 1e30)) error = 1e30;
        if (v->tolerance > 0.0 && error * v->tolerance <= v->error * tolerance) continue;
        v->error = error;
        v->tolerance = tolerance;
    }
    return VECTOR_PASS;
}
static int32_t vl_int(const vl *m, const char *key) { return (int32_t)vector_number(m->v, key, 0.0); }

/* ---- models -------------------------------------------------------------------------------------------- */
/* Starts a recipe that reads rows of `width`. */
static void vl_start(vl *m, vector_case *v, int64_t width)
{
    memset(m, 0, sizeof *m);
    m->v = v;
    m->c.env = &v->env;
    m->c.source = v->source;
    m->c.architecture = v->mechanism;
    m->l.c = &m->c;
    m->l.from = "w.";
    m->l.weight = "";
    m->l.out = "l.";
    conv_line(&m->c, "input r0 rows width=%d", (int)width);
}

static int vl_open(vl *m)
{
    const char *directory = getenv("TMPDIR");
    const char *path = conv_format(&m->v->env, "%s/sqm-vectors-%lx.sqm", directory ? directory : "/tmp",
                                   (unsigned long)((uintptr_t)m ^ (uintptr_t)m->v->env.blocks));
    sqm_session_config config;
    conv_writer k;
    sqm_error err;
    int ok;
    memset(&k, 0, sizeof k);
    memset(&config, 0, sizeof config);
    if (m->v->env.failed) return 0;
    k.c = &m->c;
    k.target = CONV_TO_F32;
    k.w = sqm_writer_open(path, &err);
    if (!k.w) return conv_fail(&m->v->env, "%s", err.text);
    ok = conv_write_plan(&k);
    if (!ok) { sqm_writer_abort(k.w); return 0; }
    if (sqm_writer_close(k.w, &err) == SQM_OK) m->model = sqm_load_file(path, NULL, &err);
    remove(path);
    if (!m->model) return conv_fail(&m->v->env, "%s", err.text);
    config.max_context = config.max_batch = m->rows;
    config.threads = 1;
    config.precision = SQM_EXACT;
    m->session = sqm_session_create(m->model, &config, &err);
    return m->session ? 1 : conv_fail(&m->v->env, "%s", err.text);
}

/* Feeds all rows from a fresh state in pieces of `first`, then `step`. */
static int vl_feed(vl *m, float *out, const float *rows, int32_t first, int32_t step)
{
    const size_t in_width = (size_t)m->model->input_width, out_width = (size_t)m->model->vocab_size;
    int32_t piece = first;
    if (sqm_reset(m->session, 0) != SQM_OK) return 0;
    for (int32_t t = 0; t < m->rows; t += piece, piece = step) {
        if (piece > m->rows - t) piece = m->rows - t;
        if (sqm_feed_rows_all(m->session, 0, rows + (size_t)t * in_width, piece, out + (size_t)t * out_width) != SQM_OK)
            return conv_fail(&m->v->env, "%s", sqm_session_error(m->session)->text);
    }
    return 1;
}

/* All sequences of the batch: rows [batch, rows, width] -> out, compared with the tensor `name`, whose values
   are columns [first, first + count) of the output. */
static int vl_run(vl *m, const float *in, const char *name)
{
    const int64_t in_size = (int64_t)m->rows * m->model->input_width, out_size = (int64_t)m->rows * m->model->vocab_size;
    float *whole = (float *)conv_alloc(&m->v->env, (uint64_t)out_size, sizeof(float));
    float *parts = (float *)conv_alloc(&m->v->env, (uint64_t)out_size, sizeof(float));
    const int causal = (m->model->mixer_flags & SQM_MIXER_WHOLE_ONLY) == 0;
    for (int32_t b = 0; b < m->batch; b++) {
        if (!whole || !parts || !in || !vl_feed(m, whole, in + b * in_size, m->rows, m->rows)) return 0;
        for (int step = 0; causal && step < 2; step++) {
            if (!vl_feed(m, parts, in + b * in_size, step ? 7 : 1, step ? m->rows : 1)) return 0;
            if (memcmp(parts, whole, (size_t)out_size * sizeof(float)))
                return conv_fail(&m->v->env, "%s gives other bits", step ? "7 rows, then the rest" : "row by row");
        }
        if (vl_compare(m->v, name, whole, b * out_size, out_size) != VECTOR_PASS) return 0;
    }
    return 1;
}

/* Ends the recipe with register rR, opens the model, runs it. */
static int vl_finish(vl *m, int reg, const float *in, const char *name)
{
    int ok;
    conv_line(&m->c, "head logits r%d", reg);
    ok = vl_open(m) && vl_run(m, in, name);
    sqm_session_free(m->session);
    sqm_model_free(m->model);
    if (ok) return VECTOR_PASS;
    return m->v->why[0] ? VECTOR_FAIL : vector_stop(m->v, VECTOR_FAIL, m->v->env.error);
}

/* A layer's case: x [batch, rows, dim] -> y. 0: something is missing. */
static const float *vl_layer(vl *m, vector_case *v, int32_t *dim)
{
    const conv_tensor *t;
    const float *x = vector_values(v, "in.x", &t);
    if (!x || t->ndim != 3) { vector_stop(v, VECTOR_FAIL, "in.x is missing"); return NULL; }
    *dim = (int32_t)t->shape[2];
    vl_start(m, v, t->shape[2]);
    m->batch = (int32_t)t->shape[0];
    m->rows = (int32_t)t->shape[1];
    return x;
}
/* rows of a weight */
static int32_t vl_rows(const vl *m, const char *name)
{
    const conv_tensor *t = conv_source_find(&m->c.source, name);
    return t && t->ndim ? (int32_t)t->shape[0] : 1;
}

/* Output projection of a layer's result in rR, into r10 */
static int vl_project(vl *m, int reg, const char *name, int32_t dim, int64_t inner, const float *x)
{
    lin_linear(&m->l, 10, reg, lin_part(&m->l, name, dim, inner));
    return vl_finish(m, 10, x, "out.y");
}

/* ---- layers -------------------------------------------------------------------------------------------- */
/* Projections q_proj, k_proj, v_proj by their names, sizes from their shapes */
static void vl_qkv(const vl *m, lin_layer *y, int32_t dim, int32_t heads, int32_t v_heads)
{
    memset(y, 0, sizeof *y);
    y->dim = dim;
    y->heads = v_heads;
    y->q_heads = y->k_heads = heads;
    y->key_dim = vl_rows(m, "w.q_proj") / heads;
    y->v_dim = vl_rows(m, "w.v_proj") / v_heads;
    y->q = lin_part(&m->l, "q_proj", heads * y->key_dim, dim);
    y->k = lin_part(&m->l, "k_proj", heads * y->key_dim, dim);
    y->v = lin_part(&m->l, "v_proj", v_heads * y->v_dim, dim);
    y->norm_eps = vector_number(m->v, "eps", 1e-5);
}

static int vl_gla(vector_case *v)
{
    vl m;
    lin_layer y;
    int32_t dim, rank;
    const float *x = vl_layer(&m, v, &dim);
    if (!x) return VECTOR_FAIL;
    vl_qkv(&m, &y, dim, vl_int(&m, "num_heads"), vl_int(&m, "num_heads"));
    rank = vl_int(&m, "gate_low_rank_dim");
    y.decay = LIN_DECAY_SIGMOID;
    y.decay_is_vector = 1;
    y.decay_number = vector_number(v, "gate_logit_normalizer", 16.0);
    y.decay_inner = lin_part(&m.l, "gk_proj.0", rank, dim);
    y.decay_outer = lin_part(&m.l, "gk_proj.1", y.heads * y.key_dim, rank);
    y.norm = LIN_NORM_HEAD;
    y.norm_weight = "g_norm";
    y.gate = lin_part(&m.l, "g_proj", y.heads * y.v_dim, dim);
    y.gate_act = "silu";
    return vl_project(&m, lin_put(&m.l, &y, 0), "o_proj", dim, y.heads * y.v_dim, x);
}

/* fla: rotate halves, norm with weights; torchscale: neighbours, other frequencies, k (not q) scaled: the same sum */
static int vl_retnet(vector_case *v)
{
    const int fla = strcmp(v->mechanism, "retnet_fla") == 0;
    vl m;
    lin_layer y;
    conv_rope rope;
    int32_t dim;
    const float *x = vl_layer(&m, v, &dim);
    if (!x) return VECTOR_FAIL;
    vl_qkv(&m, &y, dim, vl_int(&m, "num_heads"), vl_int(&m, "num_heads"));
    memset(&rope, 0, sizeof rope);
    rope.name = "rope.freq";
    rope.style = fla ? "half" : "interleaved";
    rope.dims = y.key_dim;
    rope.freq = lin_floats(&m.l, y.key_dim / 2);
    for (int32_t i = 0; rope.freq && i < y.key_dim / 2; i++)
        rope.freq[i] = (float)pow(10000.0, fla ? -2.0 * i / y.key_dim : -(double)i / (y.key_dim / 2 - 1));
    y.rope = &rope;
    y.decay = LIN_DECAY_FIXED;
    y.factors = lin_retention(&m.l, y.heads);
    y.norm = LIN_NORM_HEAD;
    y.norm_weight = fla ? "g_norm_swish_gate" : NULL;
    y.gate = lin_part(&m.l, "g_proj", y.heads * y.v_dim, dim);
    y.gate_act = "silu";
    return vl_project(&m, lin_put(&m.l, &y, 0), fla ? "o_proj" : "out_proj", dim, y.heads * y.v_dim, x);
}

/* DeltaNet, gated DeltaNet */
static int vl_delta(vector_case *v)
{
    static const char *const kernels[3] = { "q_conv1d", "k_conv1d", "v_conv1d" };
    const int gated = strcmp(v->mechanism, "gated_deltanet_layer") == 0;
    vl m;
    lin_layer y;
    int32_t dim;
    const float *x = vl_layer(&m, v, &dim);
    if (!x) return VECTOR_FAIL;
    vl_qkv(&m, &y, dim, vl_int(&m, "num_heads"), vl_int(&m, gated ? "num_v_heads" : "num_heads"));
    memcpy(y.conv, kernels, sizeof kernels);
    y.n_conv = 3;
    y.taps = vl_int(&m, "conv_size");
    y.qk_act = y.v_act = "silu";
    y.map = LIN_MAP_L2;
    y.update = "delta";
    y.beta = lin_part(&m.l, "b_proj", y.heads, dim);
    y.norm = LIN_NORM_HEAD;
    y.norm_weight = "o_norm";
    if (gated) {
        y.decay = LIN_DECAY_SOFTPLUS;
        y.decay_outer = lin_part(&m.l, "a_proj", y.heads, dim);
        y.a_log = "A_log";
        y.dt_bias = "dt_bias";
        y.gate = lin_part(&m.l, "g_proj", y.heads * y.v_dim, dim);
        y.gate_act = "silu";
    }
    return vl_project(&m, lin_put(&m.l, &y, 0), "o_proj", dim, y.heads * y.v_dim, x);
}

#define VECTOR_LINEAR_MECHANISMS \
    { "gla_layer", vl_gla }, { "retnet_fla", vl_retnet }, { "retnet_msr", vl_retnet }, \
    { "retnet_msr_torchscale", vl_retnet }, { "deltanet_layer", vl_delta }, { "gated_deltanet_layer", vl_delta },
#endif /* VEC_LINEAR_H_INCLUDED */
