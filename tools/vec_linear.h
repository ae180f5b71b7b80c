/* vec_linear.h: for sqm-vectors: linear attention and its kin. A layer's case becomes a weight file through
   the
   converter's own code (prep_linear.h, conv_write.h), is opened and fed as any model is; whole, row by row
   and 7 +
   rest must agree to the bit. Cases of the bare recurrence start from a given state: they call the mixer.
   Tolerance: the file's entry in tolerances.json beside it, times the largest |expected| value.
         */
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
        if (sqm_feed_rows_all(m->session, 0, rows + (size_t)t * in_width, piece,
                              out + (size_t)t * out_width) != SQM_OK)
            return conv_fail(&m->v->env, "%s", sqm_session_error(m->session)->text);
    }
    return 1;
}

/* All sequences of the batch: rows [batch, rows, width] -> out, compared with the tensor `name`, whose values
   are columns [first, first + count) of the output. */
static int vl_run(vl *m, const float *in, const char *name)
{
    const int64_t in_size = (int64_t)m->rows * m->model->input_width,
        out_size = (int64_t)m->rows * m->model->vocab_size;
    float *whole = (float *)conv_alloc(&m->v->env, (uint64_t)out_size, sizeof(float));
    float *parts = (float *)conv_alloc(&m->v->env, (uint64_t)out_size, sizeof(float));
    const int causal = (m->model->mixer_flags & SQM_MIXER_WHOLE_ONLY) == 0;
    for (int32_t b = 0; b < m->batch; b++) {
        if (!whole || !parts || !in || !vl_feed(m, whole, in + b * in_size, m->rows, m->rows)) return 0;
        for (int step = 0; causal && step < 2; step++) {
            if (!vl_feed(m, parts, in + b * in_size, step ? 7 : 1, step ? m->rows : 1)) return 0;
            if (memcmp(parts, whole, (size_t)out_size * sizeof(float)))
                return conv_fail(&m->v->env, "%s gives other bits",
                                 step ? "7 rows, then the rest" : "row by row");
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

/* fla: rotate halves, norm with weights; torchscale: neighbours, other frequencies, k (not q) scaled: the
   same sum */
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
    y.parallel_scale = strcmp(v->mechanism, "retnet_msr_torchscale") == 0;
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

/* Qwen3-Next, KDA, lightning attention */
static int vl_packed(vector_case *v)
{
    static const char *const kernel[1] = { "conv1d" };
    const int qwen = strcmp(v->mechanism, "qwen3next_gated_deltanet") == 0, kda = strcmp(v->mechanism,
                                                                                         "kda_layer") == 0;
    vl m;
    lin_layer y;
    int32_t dim;
    const float *x = vl_layer(&m, v, &dim);
    if (!x) return VECTOR_FAIL;
    memset(&y, 0, sizeof y);
    y.dim = dim;
    y.heads = y.v_heads = vl_int(&m, qwen ? "num_v_heads" : "num_heads");
    y.q_heads = y.k_heads = vl_int(&m, "num_heads");
    y.key_dim = vl_int(&m, qwen ? "head_k_dim" : "head_dim");
    y.v_dim = vl_int(&m, qwen ? "head_v_dim" : "head_dim");
    y.norm_eps = vector_number(v, "eps", 1e-6);
    y.norm = qwen || kda ? LIN_NORM_HEAD : LIN_NORM_ALL;
    y.norm_weight = kda ? "o_norm" : "norm";
    y.qk_act = y.v_act = "silu";
    y.gate_act = qwen ? "silu" : "sigmoid";
    if (qwen || kda) {
        y.conv[0] = kernel[0];
        y.n_conv = 1;
        y.taps = vl_int(&m, "conv_size");
        y.map = LIN_MAP_L2;
        y.update = "delta";
        y.decay = LIN_DECAY_SOFTPLUS;
        y.a_log = "A_log";
        y.dt_bias = "dt_bias";
    }
    if (qwen) {
        lin_qwen3_next(&m.l, &y, "in_proj_qkvz", "in_proj_ba");
    } else if (kda) {
        const int32_t n = y.heads * y.key_dim;
        y.q = lin_part(&m.l, "q_proj", n, dim);
        y.k = lin_part(&m.l, "k_proj", n, dim);
        y.v = lin_part(&m.l, "v_proj", n, dim);
        y.decay_is_vector = 1;
        y.decay_inner = lin_part(&m.l, "f_a_proj", y.key_dim, dim);
        y.decay_outer = lin_part(&m.l, "f_b_proj", n, y.key_dim);
        y.beta = lin_part(&m.l, "b_proj", y.heads, dim);
        y.gate_inner = lin_part(&m.l, "g_a_proj", y.key_dim, dim);
        y.gate = lin_part(&m.l, "g_b_proj", n, y.key_dim);
    } else {
        lin_packed_heads(&m.l, &y, "qkv_proj");
        y.decay = LIN_DECAY_FIXED;
        y.factors = lin_lightning(&m.l, y.heads, vl_int(&m, "layer_idx"), vl_int(&m, "num_hidden_layers"));
        y.scale = 1.0;
        y.gate = lin_part(&m.l, "output_gate", y.heads * y.v_dim, dim);
    }
    return vl_project(&m, lin_put(&m.l, &y, 0), kda ? "o_proj" : "out_proj", dim, y.heads * y.v_dim, x);
}

static int vl_hgrn2(vector_case *v)
{
    vl m;
    lin_layer y;
    int32_t dim, n;
    const float *x = vl_layer(&m, v, &dim);
    if (!x) return VECTOR_FAIL;
    n = vl_rows(&m, "w.q_proj");
    memset(&y, 0, sizeof y);
    y.dim = dim;
    y.heads = vl_int(&m, "num_heads");
    y.key_dim = n / y.heads;
    y.v_dim = dim / y.heads;
    y.q = lin_part(&m.l, "q_proj", n, dim);
    y.v = lin_part(&m.l, "i_proj", dim, dim);
    y.norm = LIN_NORM_ALL;
    y.norm_weight = "g_norm";
    y.norm_eps = vector_number(v, "eps", 1e-5);
    return vl_project(&m, lin_put_hgrn2(&m.l, &y, lin_part(&m.l, "f_proj", n, dim),
                                        lin_has(&m.l, "lower_bound") ? lin_read(&m.l, "lower_bound",
                                                                                n) : NULL, 0),
                      "o_proj", dim, dim, x);
}

static int vl_based(vector_case *v)
{
    vl m;
    int32_t dim, heads, d, v_dim;
    const float *x = vl_layer(&m, v, &dim);
    conv_part parts[2];
    if (!x) return VECTOR_FAIL;
    heads = vl_int(&m, "num_heads");
    d = vl_int(&m, "feature_dim");
    v_dim = vl_rows(&m, "w.v_proj") / heads;
    parts[0] = lin_part(&m.l, "q_proj", heads * d, dim);
    parts[1] = lin_part(&m.l, "k_proj", heads * d, dim);
    conv_put_linear(&m.c, 2, 0, parts, 2, 1.0, 0);
    lin_put_taylor(&m.l, 3, 2, d, 2 * heads);
    lin_linear(&m.l, 4, 0, lin_part(&m.l, "v_proj", heads * v_dim, dim));
    conv_line(&m.c, "cat r5 r3 r4");
    conv_line(&m.c, "mix r7 r5 linear_attention heads=%d key_dim=%d v_dim=%d normalizer=sum eps=%s", heads,
              1 + d + d * (d + 1) / 2, v_dim, conv_real(&m.c, vector_number(v, "eps", 1e-12)));
    return vl_project(&m, 7, "o_proj", dim, heads * v_dim, x);
}

/* ---- xLSTM --------------------------------------------------------------------------------------------- */
static int vl_mlstm_layer(vector_case *v)
{
    vl m;
    int32_t dim, inner;
    const float *x = vl_layer(&m, v, &dim);
    if (!x) return VECTOR_FAIL;
    inner = vl_rows(&m, "w.proj_up") / 2;
    return vl_project(&m, lin_put_mlstm_layer(&m.l, 0, dim, inner, vl_int(&m, "num_heads"),
                                              vl_int(&m, "qkv_blocksize"), vl_int(&m, "conv_size")),
                      "proj_down", dim, inner, x);
}
static int vl_slstm_layer(vector_case *v)
{
    vl m;
    int32_t dim;
    const float *x = vl_layer(&m, v, &dim);
    if (!x) return VECTOR_FAIL;
    return vl_finish(&m, lin_put_slstm_layer(&m.l, 0, dim, vl_int(&m, "num_heads"), 4), x, "out.y");
}
static int vl_xlstm_large(vector_case *v)
{
    vl m;
    int32_t dim;
    const float *x = vl_layer(&m, v, &dim);
    lin_xlstm s;
    if (!x) return VECTOR_FAIL;
    memset(&s, 0, sizeof s);
    s.dim = dim;
    s.heads = vl_int(&m, "num_heads");
    s.key_dim = vl_rows(&m, "w.q") / s.heads;
    s.v_dim = vl_rows(&m, "w.v") / s.heads;
    s.ffn = vl_rows(&m, "w.proj_up");
    s.gate_cap = vector_number(v, "gate_soft_cap", 15.0);
    s.eps = vector_number(v, "eps", 1e-6);
    s.norm_eps = vector_number(v, "norm_eps", 1e-6);
    lin_put_xlstm_block(&m.l, &s, &lin_xlstm_plain_names);
    return vl_finish(&m, 0, x, "out.y");
}

/* ---- RWKV ---------------------------------------------------------------------------------------------- */
static int vl_rwkv(vector_case *v)
{
    const int version = v->mechanism[4] - '0', channels = strstr(v->mechanism, "channel") != NULL;
    const conv_tensor *t, *first_t;
    const float *x = vector_values(v, "in.x", &t), *first = vector_values(v, "in.v_first", &first_t);
    float *rows = NULL;
    lin_rwkv r;
    vl m;
    int reg;
    if (!x || t->ndim != 3) return vector_stop(v, VECTOR_FAIL, "in.x is missing");
    memset(&r, 0, sizeof r);
    r.dim = (int32_t)t->shape[2];
    vl_start(&m, v, first ? 2 * r.dim : r.dim);
    m.batch = (int32_t)t->shape[0];
    m.rows = (int32_t)t->shape[1];
    r.heads = version > 4 && !channels ? vl_int(&m, "num_heads") : 1;
    r.head_dim = r.dim / r.heads;
    r.ffn = vl_rows(&m, "w.key");
    r.norm_eps = vector_number(v, "ln_x_eps", 64e-5);
    if (first) {                      /* rows x | v_first                                                   */
        const size_t n = (size_t)r.dim, all = (size_t)m.batch * (size_t)m.rows;
        rows = lin_floats(&m.l, (int64_t)(2 * n * all));
        for (size_t i = 0; rows && i < all; i++) {
            memcpy(rows + 2 * i * n, x + i * n, n * sizeof(float));
            memcpy(rows + (2 * i + 1) * n, first + i * n, n * sizeof(float));
        }
        conv_line(&m.c, "copy r10 r0 first=%d", r.dim);
        conv_line(&m.c, "copy r1 r0 first=0 count=%d", r.dim);
        x = rows;
    } else {
        conv_line(&m.c, "copy r1 r0");
    }
    if (channels) {
        reg = version == 7 ? lin_put_rwkv7_channels(&m.l, &r, 1) : lin_put_rwkv_channels(&m.l, &r, 1,
                                                                                         version == 6);
        return vl_finish(&m, reg, x, "out.y");
    }
    reg = lin_put_rwkv(&m.l, &r, version, 1, !first);
    return vl_project(&m, reg, "output", r.dim, r.dim, x);
}

/* ---- Aaren --------------------------------------------------------------------------------------------- */
/* The query is learned: s = q . (W_k x) / sqrt(d) is one map of x for each head. */
static int vl_aaren_block(vector_case *v)
{
    vl m;
    int32_t dim, heads, d;
    const float *x = vl_layer(&m, v, &dim), *query, *wq, *wk;
    float *scores;
    if (!x) return VECTOR_FAIL;
    heads = vl_int(&m, "num_heads");
    d = dim / heads;
    query = lin_read(&m.l, "query", dim);
    wq = lin_read(&m.l, "q_proj", (int64_t)dim * dim);
    wk = lin_read(&m.l, "k_proj", (int64_t)dim * dim);
    scores = lin_floats(&m.l, (int64_t)dim * heads);
    for (int32_t h = 0; query && wq && wk && scores && h < heads; h++)
        for (int32_t i = 0; i < dim; i++) {
            double sum = 0.0;
            for (int32_t j = h * d; j < (h + 1) * d; j++) {
                double q = 0.0;
                for (int32_t k = 0; k < dim; k++) q += (double)wq[j * dim + k] * (double)query[k];
                sum += q * (double)wk[j * dim + i];
            }
            scores[i * heads + h] = (float)(sum / sqrt((double)d));
        }
    conv_put(&m.c, "norm r1 r0 kind=layer eps=1e-5 w=@%s", lin_vector(&m.l, "ln1.weight", dim));
    conv_line(&m.c, " b=@%s", lin_vector(&m.l, "ln1.bias", dim));
    conv_line(&m.c, "blocks r2 r1 w=@%s out=%d", lin_values(&m.l, "scores", scores, (int64_t)dim * heads),
              heads);
    lin_linear(&m.l, 3, 1, lin_part(&m.l, "v_proj", dim, dim));
    conv_line(&m.c, "cat r4 r2 r3");
    conv_line(&m.c, "mix r5 r4 running_softmax heads=%d v_dim=%d", heads, d);
    lin_linear(&m.l, 6, 5, lin_part(&m.l, "o_proj", dim, dim));
    conv_line(&m.c, "add r0 r0 r6");
    conv_put(&m.c, "norm r1 r0 kind=layer eps=1e-5 w=@%s", lin_vector(&m.l, "ln2.weight", dim));
    conv_line(&m.c, " b=@%s", lin_vector(&m.l, "ln2.bias", dim));
    lin_linear(&m.l, 2, 1, lin_part(&m.l, "fc1", 2 * dim, dim));
    conv_line(&m.c, "affine r2 r2 b=@%s", lin_vector(&m.l, "b1", 2 * dim));
    conv_line(&m.c, "act r2 r2 kind=gelu");
    lin_linear(&m.l, 3, 2, lin_part(&m.l, "fc2", dim, 2 * dim));
    conv_line(&m.c, "affine r3 r3 b=@%s", lin_vector(&m.l, "b2", dim));
    conv_line(&m.c, "add r0 r0 r3");
    return vl_finish(&m, 0, x, "out.y");
}

/* ---- LAWCAT -------------------------------------------------------------------------------------------- */
/* softmax(x W) | softmax(-x W) of each head of rR into rD, conv first                                      */
static void vl_lawcat_features(vl *m, int dst, int src, const char *kernel, const char *phi, int32_t heads,
                               int32_t d,
                               int32_t f)
{
    const int64_t channels[1] = { (int64_t)heads * d };
    const float *w = lin_read(&m->l, phi, (int64_t)heads * d * f);
    float *both = lin_floats(&m->l, 2 * (int64_t)heads * d * f);
    const lin own = { &m->c, m->l.from, m->l.weight, lin_out(&m->l, phi), 0, 0, NULL };
    for (int32_t i = 0; w && both && i < heads * d; i++)
        for (int32_t j = 0; j < f; j++) {
            both[i * 2 * f + j] = w[i * f + j];
            both[i * 2 * f + f + j] = -w[i * f + j];
        }
    lin_conv(&own, 3, src, &kernel, channels, 1, 4, "none");
    conv_line(&m->c, "blocks r%d r3 w=@%s out=%d groups=%d", dst, lin_values(&m->l, phi, both,
                                                                             2 * (int64_t)heads * d * f),
              2 * f, heads);
    conv_line(&m->c, "softmax r%d r%d groups=%d", dst, dst, 2 * heads);
    conv_line(&m->c, "clip r%d r%d low=1e-12", dst, dst);
}
/* [groups][in][out] blocks that copy columns [first, first + out) of each group times its factor */
static const char *vl_pick(vl *m, const char *name, const float *factors, int32_t groups, int32_t in,
                           int32_t first, int32_t out)
{
    float *w = lin_floats(&m->l, (int64_t)groups * in * out);
    for (int32_t g = 0; w && g < groups; g++)
        for (int32_t i = first; i < in && i < first + out; i++)
            w[((int64_t)g * in + i) * out + i - first] = factors ? factors[g] : 1.0f;
    return lin_values(&m->l, name, w, (int64_t)groups * in * out);
}
/* Attention to the last rows of r0, rotary, as numerator and denominator: r13 [heads x d | heads] */
static void vl_lawcat_window(vl *m, int32_t dim, int32_t heads, int32_t kv, int32_t d)
{
    const lin own = { &m->c, m->l.from, m->l.weight, "l.window.", 0, 0, NULL };
    const double theta = vector_number(m->v, "rope_theta", 10000.0);
    float *freq = lin_floats(&m->l, d / 2);
    conv_part parts[3];
    for (int32_t i = 0; freq && i < d / 2; i++) freq[i] = (float)pow(theta, -2.0 * i / d);
    parts[0] = lin_part(&own, "q_proj", dim, dim);
    parts[1] = lin_part(&own, "k_proj", kv * d, dim);
    parts[2] = lin_part(&own, "v_proj", kv * d, dim);
    conv_put_linear(&m->c, 2, 0, parts, 3, 1.0, 0);
    conv_line(&m->c, "rope r2 r2 first=0 heads=%d head_dim=%d dims=%d style=half freq=@%s", heads + kv, d, d,
              lin_values(&own, "freq", freq, d / 2));
    conv_line(&m->c, "mix r13 r2 attention heads=%d kv_heads=%d head_dim=%d window=%d sums=1 scale=%s", heads,
              kv, d, vl_int(m, "window_size"), conv_real(&m->c, 1.0 / sqrt((double)d)));
}
/* o = (wf window + lf num) / (wf sums + lf den + eps): r13 as above, r7 [heads][num | den] -> r14 */
static void vl_lawcat_join(vl *m, int32_t heads, int32_t d)
{
    const float *factors = lin_read(&m->l, "window_factors", heads);
    const int affine = json_bool(json_get(m->v->config, "affine"), 0);
    float *near = lin_floats(&m->l, heads), *far = lin_floats(&m->l, heads), *eps = lin_floats(&m->l, heads);
    for (int32_t h = 0; factors && near && far && eps && h < heads; h++) {
        near[h] = (float)(1.0 / (1.0 + exp(-(double)factors[h])));
        far[h] = affine ? 1.0f - near[h] : 1.0f;
        eps[h] = (float)vector_number(m->v, "eps", 1e-10);
    }
    conv_line(&m->c, "copy r9 r13 first=%d count=%d", heads * d, heads);
    conv_line(&m->c, "affine r9 r9 w=@%s", lin_values(&m->l, "near", near, heads));
    conv_line(&m->c, "copy r14 r13 first=0 count=%d", heads * d);
    conv_line(&m->c, "mul r14 r14 r9");
    conv_line(&m->c, "blocks r11 r7 w=@%s out=%d groups=%d", vl_pick(m, "num", far, heads, d + 1, 0, d), d,
              heads);
    conv_line(&m->c, "blocks r12 r7 w=@%s out=1 groups=%d", vl_pick(m, "den", far, heads, d + 1, d, 1),
              heads);
    conv_line(&m->c, "add r14 r14 r11");
    conv_line(&m->c, "add r9 r9 r12");
    conv_line(&m->c, "affine r9 r9 b=@%s", lin_values(&m->l, "eps", eps, heads));
    conv_line(&m->c, "act r9 r9 kind=log");
    conv_line(&m->c, "scale r9 r9 by=-1");
    conv_line(&m->c, "act r9 r9 kind=exp");
    conv_line(&m->c, "mul r14 r14 r9");
}
/* v in r4 -> v | 1 for each of its heads */
static void vl_lawcat_ones(vl *m, int32_t kv, int32_t d)
{
    float *ones = lin_floats(&m->l, (int64_t)kv * (d + 1));
    for (int32_t h = 0; ones && h < kv; h++) ones[h * (d + 1) + d] = 1.0f;
    conv_line(&m->c, "blocks r11 r4 w=@%s out=%d groups=%d", vl_pick(m, "v1", NULL, kv, d, 0, d + 1), d + 1,
              kv);
    conv_line(&m->c, "affine r4 r11 b=@%s", lin_values(&m->l, "v1.ones", ones, (int64_t)kv * (d + 1)));
}
static int vl_lawcat(vector_case *v)
{
    vl m;
    int32_t dim, heads, kv, d, f, rank, window;
    const float *x = vl_layer(&m, v, &dim);
    conv_view parts[64], k;
    if (!x) return VECTOR_FAIL;
    window = vl_int(&m, "window_size");
    heads = vl_int(&m, "num_heads");
    kv = vl_int(&m, "num_kv_heads");
    f = vl_int(&m, "feature_dim");
    d = dim / heads;
    rank = vl_rows(&m, "w.gk_proj.0");
    if (window > 0) vl_lawcat_window(&m, dim, heads, kv, d);
    lin_linear(&m.l, 2, 0, lin_part(&m.l, "q_proj", dim, dim));
    k = conv_take(&m.c, "w.k_proj", kv * d, dim);
    for (int32_t h = 0; h < heads && h < 64; h++)      /* keys are repeated before the convolution          */
        parts[h] = conv_rows(&m.c, k, h / (heads / kv) * d, d, d, d);
    conv_line(&m.c, "linear r4 r0 w=@%s", conv_stack(&m.c, "l.k_proj", CONV_MATRIX, parts, heads));
    vl_lawcat_features(&m, 5, 2, "conv_q", "phi_q", heads, d, f);
    vl_lawcat_features(&m, 6, 4, "conv_k", "phi_k", heads, d, f);
    conv_line(&m.c, "cat r8 r5 r6");
    lin_linear(&m.l, 4, 0, lin_part(&m.l, "v_proj", kv * d, dim));
    if (window > 0) vl_lawcat_ones(&m, kv, d);
    conv_line(&m.c, "cat r6 r8 r4");
    lin_low_rank(&m.l, 5, 0, lin_part(&m.l, "gk_proj.0", rank, dim), lin_part(&m.l, "gk_proj.1", kv * d,
                                                                              rank));
    lin_decay_sigmoid(&m.l, 5, 0, kv * d, vector_number(v, "gate_logit_normalizer", 16.0));
    conv_line(&m.c, "cat r8 r6 r5");
    conv_line(&m.c,
              "mix r7 r8 linear_attention heads=%d key_dim=%d v_dim=%d v_heads=%d decay_heads=%d "
              "decay=vector normalizer=%s eps=%s scale=%s", heads, 2 * f, window > 0 ? d + 1 : d, kv, kv,
              window > 0 ? "none" : "sum", conv_real(&m.c, vector_number(v, "eps", 1e-10)),
              conv_real(&m.c, 1.0 / sqrt(2.0 * f)));
    if (window > 0) vl_lawcat_join(&m, heads, d);
    return vl_project(&m, window > 0 ? 14 : 7, "o_proj", dim, dim, x);
}

/* ---- mechanisms without projections: rows are the inputs side by side ---------------------------------- */
/* in.NAME of each name [batch, rows, ...] as columns of one row */
static float *vl_join(vl *m, vector_case *v, const char *const *names, int n, int32_t *widths)
{
    const conv_tensor *t[8] = { NULL };
    const float *from[8];
    int64_t all = 1, width = 0, at = 0;
    float *rows;
    for (int i = 0; i < n; i++) {
        from[i] = vector_values(v, conv_format(&v->env, "in.%s", names[i]), &t[i]);
        if (!from[i] || t[i]->ndim < 3) { vector_stop(v, VECTOR_FAIL, names[i]); return NULL; }
        all = t[i]->shape[0] * t[i]->shape[1];
        widths[i] = (int32_t)(vl_count(t[i]) / all);
        width += widths[i];
    }
    vl_start(m, v, width);
    m->batch = (int32_t)t[0]->shape[0];
    m->rows = (int32_t)t[0]->shape[1];
    rows = lin_floats(&m->l, all * width);
    for (int i = 0; rows && i < n; at += widths[i], i++)
        for (int64_t r = 0; r < all; r++)
            memcpy(rows + r * width + at, from[i] + r * widths[i], (size_t)widths[i] * sizeof(float));
    return rows;
}
static int32_t vl_dim(const vl *m, const char *name)           /* last size of in.name */
{
    const conv_tensor *t = conv_source_find(&m->c.source, name);
    return t ? (int32_t)t->shape[t->ndim - 1] : 1;
}

static int vl_linear_attention(vector_case *v)
{
    static const char *const names[3] = { "q", "k", "v" };
    const int elu = strcmp(v->mechanism, "linear_attention_identity") != 0;
    const int whole = strcmp(v->mechanism, "linear_attention_elu_noncausal") == 0;
    int32_t w[3], d;
    vl m;
    const float *x = vl_join(&m, v, names, 3, w);
    if (!x) return VECTOR_FAIL;
    d = vl_dim(&m, "in.q");
    if (elu) conv_line(&m.c, "act r0 r0 kind=elu1 first=0 count=%d", w[0] + w[1]);
    conv_line(&m.c, "mix r1 r0 linear_attention%s heads=%d key_dim=%d v_dim=%d normalizer=%s eps=%s scale=%s",
              whole ? "_whole" : "", w[0] / d, d, vl_dim(&m, "in.v"), elu ? "sum" : "none",
              conv_real(&m.c, vector_number(v, "eps", 0.0)), conv_real(&m.c, vector_number(v, "scale", 1.0)));
    return vl_finish(&m, 1, x, "out.o");
}

static int vl_mlstm_cell(vector_case *v)
{
    static const char *const names[5] = { "q", "k", "v", "fgate", "igate" };
    int32_t w[5], d;
    vl m;
    const float *x = vl_join(&m, v, names, 5, w);
    if (!x) return VECTOR_FAIL;
    d = vl_dim(&m, "in.q");
    conv_line(&m.c, "act r0 r0 kind=log_sigmoid first=%d count=%d", w[0] + w[1] + w[2], w[3]);
    lin_put_mlstm(&m.l, 0, w[0] / d, d, vl_dim(&m, "in.v"), vector_number(v, "eps", 1e-6));
    return vl_finish(&m, 7, x, "out.h");
}

static int vl_running(vector_case *v)
{
    static const char *const aaren[2] = { "scores", "v" }, *const wkv[2] = { "k", "v" };
    const int rwkv = strcmp(v->mechanism, "rwkv4_wkv") == 0;
    int32_t w[2];
    vl m;
    const float *x = vl_join(&m, v, rwkv ? wkv : aaren, 2, w);
    if (!x) return VECTOR_FAIL;
    conv_put(&m.c, "mix r1 r0 running_softmax heads=%d v_dim=%d", w[0], w[1] / w[0]);
    m.l.from = "in.";
    if (rwkv) {
        conv_put(&m.c, " decay=@%s", lin_vector(&m.l, "w", w[0]));
        conv_put(&m.c, " bonus=@%s", lin_vector(&m.l, "u", w[0]));
    }
    conv_line(&m.c, "%s", "");
    return vl_finish(&m, 1, x, rwkv ? "out.y" : "out.o");
}

/* FAVOR+; of the noncausal case also the features */
static int vl_performer(vector_case *v)
{
    static const char *const names[3] = { "q", "k", "v" }, *const features[2] = { "out.q_features",
        "out.k_features" };
    const int whole = strcmp(v->mechanism, "performer_favor_noncausal") == 0;
    const int official = strcmp(v->mechanism, "performer_favor_causal_stream") != 0;
    const double den_eps = vector_number(v, "den_eps", 0.0);
    for (int output = whole ? 0 : 2; output < 3; output++) {
        int32_t w[3], d, n, heads;
        vl m;
        const float *x = vl_join(&m, v, names, 3, w);
        if (!x) return VECTOR_FAIL;
        d = vl_dim(&m, "in.q");
        heads = w[0] / d;
        n = vl_rows(&m, "w.proj");
        conv_line(&m.c, "copy r1 r0 first=0 count=%d", 2 * w[0]);
        lin_put_performer(&m.l, 1, "proj", heads, d, n, vector_number(v, "eps", 1e-4), official);
        conv_line(&m.c, "copy r7 r2 first=%d count=%d", output == 1 ? heads * n : 0, heads * n);
        if (output < 2) {
            if (vl_finish(&m, 7, x, features[output]) != VECTOR_PASS) return VECTOR_FAIL;
            continue;
        }
        conv_line(&m.c, "copy r3 r0 first=%d", 2 * w[0]);
        conv_line(&m.c, "cat r4 r2 r3");
        conv_put(&m.c, "mix r7 r4 linear_attention%s heads=%d key_dim=%d v_dim=%d normalizer=sum",
                 whole ? "_whole" : "",
                 heads, n, vl_dim(&m, "in.v"));
        conv_put_real(&m.c, "key_start", den_eps, 0.0);
        conv_line(&m.c, "%s", "");
        if (vl_finish(&m, 7, x, "out.o") != VECTOR_PASS) return VECTOR_FAIL;
    }
    return VECTOR_PASS;
}

/* Our map has the i <= j products in another order than fla's, and half as many as based's. */
static int vl_taylor(vector_case *v)
{
    static const char *const names[1] = { "x" };
    const conv_tensor *t;
    const float *based = vector_values(v, "out.based", &t), *fla = vector_values(v, "out.fla", &t);
    int32_t w[1], d, groups, n;
    float *ours;
    vl m;
    const float *x = vl_join(&m, v, names, 1, w);
    int ok;
    if (!x || !based || !fla) return vector_stop(v, VECTOR_FAIL, "a tensor is missing");
    d = vl_dim(&m, "in.x");
    n = 1 + d + d * (d + 1) / 2;
    groups = w[0] / d;
    lin_put_taylor(&m.l, 1, 0, d, groups);
    conv_line(&m.c, "head logits r1");
    if (!vl_open(&m)) return vector_stop(v, VECTOR_FAIL, v->env.error);
    ours = lin_floats(&m.l, (int64_t)m.rows * groups * n);
    for (int32_t b = 0; b < m.batch; b++) {
        const int64_t rows = (int64_t)m.rows * groups;
        float *as_based = lin_floats(&m.l, rows * (1 + d + d * d)), *as_fla = lin_floats(&m.l, rows * n);
        ok = ours && as_based && as_fla && vl_feed(&m, ours, x + (int64_t)b * m.rows * w[0], m.rows, m.rows);
        for (int64_t r = 0; ok && r < rows; r++) {
            const float *from = ours + r * n, *product = from + 1 + d;
            float *to_based = as_based + r * (1 + d + d * d), *to_fla = as_fla + r * n;
            int32_t off = 1 + d;
            memcpy(to_based, from, (size_t)(1 + d) * sizeof(float));
            memcpy(to_fla, from, (size_t)(1 + d) * sizeof(float));
            for (int32_t i = 0; i < d; i++)
                for (int32_t j = i; j < d; j++, product++) {
                    const float each = i == j ? *product : (float)((double)*product * sqrt(0.5));
                    to_based[1 + d + i * d + j] = to_based[1 + d + j * d + i] = each;
                    to_fla[i == j ? n - d + i : off++] = *product;
                }
        }
        if (!ok || vl_compare(v, "out.based", as_based, b * rows * (1 + d + d * d),
                              rows * (1 + d + d * d)) != VECTOR_PASS ||
            vl_compare(v, "out.fla", as_fla, b * rows * n, rows * n) != VECTOR_PASS) return VECTOR_FAIL;
    }
    sqm_session_free(m.session);
    sqm_model_free(m.model);
    return VECTOR_PASS;
}

/* ---- NaLaFormer ---------------------------------------------------------------------------------------- */
static int vl_nala_causal(vector_case *v)
{
    static const char *const names[3] = { "q", "k", "v" };
    int32_t w[3], d;
    vl m;
    const float *x = vl_join(&m, v, names, 3, w);
    if (!x) return VECTOR_FAIL;
    d = vl_dim(&m, "in.q");
    lin_put_nala(&m.l, 1, 2, 0, w[0] / d, d);
    conv_line(&m.c, "cat r6 r1 r2");
    conv_line(&m.c, "copy r4 r0 first=%d", w[0] + w[1]);
    conv_line(&m.c, "cat r8 r6 r4");
    conv_line(&m.c, "mix r7 r8 linear_attention heads=%d key_dim=%d v_dim=%d normalizer=sum eps=%s",
              w[0] / d, 2 * d,
              vl_dim(&m, "in.v"), conv_real(&m.c, vector_number(v, "eps", 1e-6)));
    return vl_finish(&m, 7, x, "out.o");
}
static int vl_nala(vector_case *v)
{
    const int block = strcmp(v->mechanism, "nalaformer_block") == 0;
    const conv_tensor *t;
    const float *x = vector_values(v, "in.x", &t);
    vl m;
    lin_nala n;
    if (!x || t->ndim != 4) return vector_stop(v, VECTOR_FAIL, "in.x is missing");
    vl_start(&m, v, t->shape[3]);
    m.batch = (int32_t)t->shape[0];
    m.rows = (int32_t)(t->shape[1] * t->shape[2]);
    m.l.weight = ".weight";
    n.dim = (int32_t)t->shape[3];
    n.heads = vl_int(&m, "num_heads");
    n.columns = (int32_t)t->shape[2];
    n.rows = (int32_t)t->shape[1];
    n.ffn = vl_rows(&m, "w.ffn.fc1.weight");
    if (block) lin_put_nala_block(&m.l, &n);
    else lin_put_nala_attention(&m.l, &n, 0, 0);
    return vl_finish(&m, block ? 0 : 10, x, "out.y");
}

/* ---- the recurrence alone, from a given state ---------------------------------------------------------- */
typedef struct vl_op {
    const sqm_mixer *mixer;
    uint64_t    bound[64];
    sqm_exec    x;
    float      *state, *scratch;
    size_t      state_bytes, scratch_bytes;
    int32_t     heads, key_dim, v_dim, width;
} vl_op;

/* S [heads, key_dim, v_dim] to and from the mixer's tiles */
static void vl_op_state(const vl_op *o, float *plain, int store)
{
    const int32_t tiles = (o->v_dim + 15) / 16;
    for (int32_t h = 0; h < o->heads; h++)
        for (int32_t k = 0; k < o->key_dim; k++)
            for (int32_t i = 0; i < o->v_dim; i++) {
                float *at = o->state + ((size_t)(h * tiles + i / 16) * (size_t)o->key_dim +
                                        (size_t)k) * 16 + i % 16;
                float *to = plain + (h * o->key_dim + k) * o->v_dim + i;
                if (store) *to = *at;
                else *at = *to;
            }
}
static int vl_op_feed(vl_op *o, float *out, const float *rows, int32_t n, float *start, int32_t first,
                      int32_t step)
{
    int32_t piece = first;
    o->mixer->reset(o->bound, o->state, o->state_bytes, n, n, SQM_F32);
    if (start) vl_op_state(o, start, 0);
    for (int32_t t = 0; t < n; t += piece, piece = step) {
        sqm_span span;
        if (piece > n - t) piece = n - t;
        span.state = o->state;
        span.first_row = 0;
        span.rows = piece;
        span.position = t;
        span.total = n;
        if (o->mixer->forward(o->bound, &o->x, out + (size_t)t * (size_t)(o->heads * o->v_dim),
                              rows + (size_t)t * (size_t)o->width, &span, 1) != SQM_OK) return 0;
    }
    return 1;
}
static int vl_op_bind(vl_op *o, vl *m, int32_t rows)
{
    static const char *const texts[] = { "update", "decay", "read" };
    vector_case *v = m->v;
    sqm_tensor vectors[2];
    const sqm_tensor *lists[2];
    sqm_param p[10];
    sqm_error err;
    int n = 0;
    int32_t out_width;
    vector_param(&p[n++], "heads", o->heads);
    vector_param(&p[n++], "key_dim", o->key_dim);
    vector_param(&p[n++], "v_dim", o->v_dim);
    vector_param(&p[n++], "scale", vector_number(v, "scale", 1.0));
    vector_param(&p[n++], "gate", conv_source_find(&v->source, "in.beta") != NULL);
    for (int i = 0; i < 3; i++) {
        const char *text = json_text(json_get(v->config, texts[i]), "");
        if (strcmp(text, "head") == 0) continue;
        vector_param(&p[n], texts[i], 0.0);
        p[n++].text = strcmp(text, "pre+bonus") == 0 ? "pre" : text;
    }
    m->l.from = "in.";
    for (int i = 0; i < 2; i++) {
        float *values;
        if (!conv_source_find(&v->source, i ? "in.u" : "in.g") ||
            (!i && strcmp(json_text(json_get(v->config, "decay"), ""), "head"))) continue;
        values = lin_read(&m->l, i ? "u" : "g", i ? o->heads * o->key_dim : o->heads);
        for (int32_t h = 0; !i && values && h < o->heads; h++) values[h] = (float)exp((double)values[h]);
        vectors[i] = sqm_tensor_1d(values, SQM_F32, i ? o->heads * o->key_dim : o->heads);
        lists[i] = &vectors[i];
        vector_param(&p[n], i ? "bonus" : "factors", 0.0);
        p[n].tensors = &lists[i];
        p[n++].n_tensors = 1;
    }
    if (o->mixer->bound_bytes > sizeof o->bound || v->env.failed) return 0;
    if (o->mixer->bind(o->bound, p, n, o->width, &out_width, &err) != SQM_OK)
        return conv_fail(&v->env, "%s", err.text);
    o->state_bytes = o->mixer->state_bytes(o->bound, rows, rows, SQM_F32);
    o->scratch_bytes = o->mixer->scratch_bytes(o->bound, rows, rows, 1) + 64;
    o->state = (float *)conv_alloc(&v->env, o->state_bytes, 1);
    o->scratch = (float *)conv_alloc(&v->env, o->scratch_bytes, 1);
    return o->state && o->scratch && sqm_exec_init(&o->x, SQM_ISA_AUTO, 1, o->scratch,
                                                   o->scratch_bytes) == SQM_OK;
}
static int vl_op_run(vector_case *v)
{
    static const char *const all[7] = { "q", "k", "v", "g", "beta", "a", "b" };
    const char *names[7];
    const conv_tensor *t;
    float *start = vector_values(v, "in.S0", &t), *x, *out, *parts, *state;
    int32_t w[7], at = 0;
    int n = 0;
    size_t n_out, n_state;
    vl_op o;
    vl m;
    for (int i = 0; i < 7; i++) {
        const conv_tensor *in = conv_source_find(&v->source, conv_format(&v->env, "in.%s", all[i]));
        if (in && in->ndim > 1) names[n++] = all[i];
    }
    x = vl_join(&m, v, names, n, w);
    if (!x) return VECTOR_FAIL;
    memset(&o, 0, sizeof o);
    o.mixer = sqm_mixer_linear_attention();
    o.key_dim = vl_dim(&m, "in.q");
    o.v_dim = vl_dim(&m, "in.v");
    o.heads = w[0] / o.key_dim;
    for (int i = 0; i < n; i++) o.width += w[i];
    if (!vl_op_bind(&o, &m, m.rows)) return vector_stop(v, VECTOR_FAIL, v->env.error);
    for (int i = 0; i < n; at += w[i], i++)            /* logarithms of decays become factors               */
        for (int64_t r = 0; strcmp(names[i], "g") == 0 && r < (int64_t)m.batch * m.rows; r++)
            sqm_activate(&o.x, x + r * o.width + at, x + r * o.width + at, (size_t)w[i], SQM_ACT_EXP);
    n_out = (size_t)m.rows * (size_t)(o.heads * o.v_dim);
    n_state = (size_t)(o.heads * o.key_dim * o.v_dim);
    out = lin_floats(&m.l, (int64_t)n_out);
    parts = lin_floats(&m.l, (int64_t)n_out);
    state = lin_floats(&m.l, (int64_t)n_state);
    for (int32_t b = 0; out && parts && state && b < m.batch; b++) {
        const float *rows = x + (size_t)b * (size_t)m.rows * (size_t)o.width;
        float *from = start ? start + (size_t)b * n_state : NULL;
        if (!vl_op_feed(&o, parts, rows, m.rows, from, 1, 1) || !vl_op_feed(&o, out, rows, m.rows, from, 7,
                                                                            m.rows) ||
            memcmp(parts, out, n_out * sizeof(float)) || !vl_op_feed(&o, parts, rows, m.rows, from, m.rows,
                                                                     m.rows) ||
            memcmp(parts, out, n_out * sizeof(float))) return vector_stop(v, VECTOR_FAIL,
                                                                          "other cuts give other bits");
        vl_op_state(&o, state, 1);
        if (vl_compare(v, "out.o", out, (int64_t)b * (int64_t)n_out, (int64_t)n_out) != VECTOR_PASS ||
            vl_compare(v, "state.S", state, (int64_t)b * (int64_t)n_state, (int64_t)n_state) != VECTOR_PASS)
            return VECTOR_FAIL;
    }
    return VECTOR_PASS;
}

#define VECTOR_LINEAR_MECHANISMS \
    { "aaren_block", vl_aaren_block }, { "aaren_scan", vl_running }, { "based_layer", vl_based }, \
    { "deltanet_layer", vl_delta }, { "gated_deltanet_layer", vl_delta }, { "gla_layer", vl_gla }, \
    { "hgrn2_layer", vl_hgrn2 }, { "kda_layer", vl_packed }, { "lawcat_layer", vl_lawcat }, \
    { "lawcat_layer_window", vl_lawcat }, { "lightning_attention", vl_packed }, \
    { "linear_attention_elu", vl_linear_attention }, \
    { "linear_attention_elu_noncausal", vl_linear_attention }, \
    { "linear_attention_identity", vl_linear_attention }, { "mlstm_cell", vl_mlstm_cell }, \
    { "mlstm_layer", vl_mlstm_layer }, { "nala_causal_DERIVED", vl_nala_causal }, \
    { "nalaformer_attention", vl_nala }, { "nalaformer_block", vl_nala }, { "op_delta_rule", vl_op_run }, \
    { "op_dplr_rwkv7", vl_op_run }, { "op_gated_delta_rule", vl_op_run }, { "op_gla", vl_op_run }, \
    { "op_kda", vl_op_run }, { "op_retention", vl_op_run }, { "op_rwkv6", vl_op_run }, \
    { "op_simple_gla", vl_op_run }, { "performer_favor_causal_official", vl_performer }, \
    { "performer_favor_causal_stream", vl_performer }, { "performer_favor_noncausal", vl_performer }, \
    { "qwen3next_gated_deltanet", vl_packed }, { "retnet_fla", vl_retnet }, { "retnet_msr", vl_retnet }, \
    { "retnet_msr_torchscale", vl_retnet }, { "rwkv4_channel_mix", vl_rwkv }, { "rwkv4_time_mix", vl_rwkv }, \
    { "rwkv4_wkv", vl_running }, { "rwkv5_time_mix", vl_rwkv }, { "rwkv6_channel_mix", vl_rwkv }, \
    { "rwkv6_time_mix", vl_rwkv }, { "rwkv7_channel_mix", vl_rwkv }, { "rwkv7_time_mix", vl_rwkv }, \
    { "slstm_layer", vl_slstm_layer }, { "taylor_feature_map", vl_taylor }, \
    { "xlstm_large_block", vl_xlstm_large },

#endif /* VEC_LINEAR_H_INCLUDED */
