/* vec_memory.h: for sqm-vectors: memories that learn at test time, memory caching, codebook attention. Each case
   becomes a weight file (recipe and tensors, by the library's writer), is opened and fed as any model is.
   Tolerance: the file's entry in tolerances.json beside it, times the largest |expected| value. */
#ifndef VEC_MEMORY_H_INCLUDED
#define VEC_MEMORY_H_INCLUDED
#include <math.h>
#include <time.h>
#include "prep_memory.h"

/* ---- a model made of text and tensors ------------------------------------------------------------------ */
typedef struct vm_tensor {
    const char  *name;
    const float *values;                /* row-major */
    int32_t      ndim, shape[4];
    int          panels;
} vm_tensor;

typedef struct vm_model {
    vector_case *v;
    vm_tensor    tensors[96];
    int32_t      n_tensors;
    char         recipe[8192];
    size_t       used;
    sqm_model   *model;
    sqm_session *session;
    sqm_error    err;
} vm_model;

static void vm_start(vm_model *m, vector_case *v)
{
    memset(m, 0, sizeof *m);
    m->v = v;
}
/* One or more recipe lines, printf style. */
CONV_PRINTF(2, 3) static void vm_line(vm_model *m, const char *format, ...)
{
    va_list args;
    int n;
    va_start(args, format);
    n = vsnprintf(m->recipe + m->used, sizeof m->recipe - m->used - 1, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof m->recipe - m->used - 1)
        conv_fail(&m->v->env, "the recipe is too long");
    else
        m->used += (size_t)n;
    m->recipe[m->used++] = '\n';
    m->recipe[m->used] = 0;
}
static void vm_add(vm_model *m, const char *name, const float *values, int panels, int32_t ndim, int32_t a,
                   int32_t b, int32_t c)
{
    vm_tensor *t = &m->tensors[m->n_tensors];
    if (!values || m->n_tensors == 96) {
        conv_fail(&m->v->env, "%s: no values, or too many tensors", name);
        return;
    }
    m->n_tensors++;
    t->name = name;
    t->values = values;
    t->panels = panels;
    t->ndim = ndim;
    t->shape[0] = a; t->shape[1] = b; t->shape[2] = c; t->shape[3] = 1;
}
static void vm_vector(vm_model *m, const char *name, const float *values, int32_t n)
{
    vm_add(m, name, values, 0, 1, n, 1, 1);
}
static void vm_linear(vm_model *m, const char *name, const float *values, int32_t rows, int32_t cols)
{
    vm_add(m, name, values, 1, 2, rows, cols, 1);
}
static void vm_matrix(vm_model *m, const char *name, const float *values, int32_t rows, int32_t cols)
{
    vm_add(m, name, values, 0, 2, rows, cols, 1);
}

static void vm_write_tensor(vm_model *m, sqm_writer *w, const vm_tensor *t)
{
    const sqm_layout layout = t->panels ? SQM_PANELS : SQM_ROWS;
    const size_t bytes = sqm_tensor_bytes(SQM_F32, layout, t->ndim, t->shape);
    void *packed;
    if (!t->panels) {
        sqm_writer_data(w, t->values, bytes);
        return;
    }
    packed = conv_alloc(&m->v->env, bytes, 1);
    if (packed && sqm_pack(packed, bytes, SQM_F32, t->values, t->shape[0], t->shape[1], NULL, &m->err) == SQM_OK)
        sqm_writer_data(w, packed, bytes);
}
/* Writes the file, opens it, removes it, makes a session. */
static int vm_open(vm_model *m, int32_t rows)
{
    const char *directory = getenv("TMPDIR");
    sqm_session_config config;
    char path[512];
    sqm_writer *w;
    if (m->v->env.failed) return 0;
    snprintf(path, sizeof path, "%.300s/sqm-vectors-%lx-%lx.sqm", directory ? directory : "/tmp",
             (unsigned long)time(NULL), (unsigned long)((uintptr_t)m & 0xffffffu));
    w = sqm_writer_open(path, &m->err);
    for (int32_t i = 0; i < m->n_tensors; i++) {
        const vm_tensor *t = &m->tensors[i];
        sqm_writer_declare(w, t->name, SQM_F32, t->panels ? SQM_PANELS : SQM_ROWS, t->ndim, t->shape);
    }
    sqm_writer_recipe(w, m->recipe);
    for (int32_t i = 0; i < m->n_tensors; i++) vm_write_tensor(m, w, &m->tensors[i]);
    if (!w || sqm_writer_close(w, &m->err) != SQM_OK) return conv_fail(&m->v->env, "%.180s", m->err.text);
    m->model = sqm_load_file(path, NULL, &m->err);
    remove(path);
    if (!m->model) return conv_fail(&m->v->env, "%.180s", m->err.text);
    memset(&config, 0, sizeof config);
    config.max_context = rows;
    config.max_batch = rows;
    config.threads = 1;
    config.precision = SQM_EXACT;
    m->session = sqm_session_create(m->model, &config, &m->err);
    return m->session ? 1 : conv_fail(&m->v->env, "%.180s", m->err.text);
}
static void vm_close(vm_model *m)
{
    sqm_session_free(m->session);
    sqm_model_free(m->model);
    m->session = NULL;
    m->model = NULL;
}

/* Feeds n rows from a fresh state in pieces of `first`, then `step` rows. */
static int vm_feed(vm_model *m, float *out, const float *rows, int32_t n, int32_t first, int32_t step)
{
    const int32_t width = m->model->input_width, out_width = m->model->vocab_size;
    int32_t piece = first;
    if (sqm_reset(m->session, 0) != SQM_OK) return 0;
    for (int32_t t = 0; t < n; t += piece, piece = step) {
        if (piece > n - t) piece = n - t;
        if (sqm_feed_rows_all(m->session, 0, rows + (size_t)t * (size_t)width, piece,
                              out + (size_t)t * (size_t)out_width) != SQM_OK)
            return conv_fail(&m->v->env, "%.180s", sqm_session_error(m->session)->text);
    }
    return 1;
}
/* Feeds whole, token by token and 7 + rest; all must agree to the bit. The state after it is that of n rows. */
static int vm_run(vm_model *m, float *out, const float *rows, int32_t n)
{
    const size_t count = (size_t)n * (size_t)m->model->vocab_size;
    float *parts = (float *)conv_alloc(&m->v->env, count, sizeof(float));
    if (!parts || !vm_feed(m, out, rows, n, n, n)) return 0;
    if (m->model->mixer_flags & SQM_MIXER_WHOLE_ONLY) return 1;
    if (!vm_feed(m, parts, rows, n, 7, n)) return 0;
    if (memcmp(parts, out, count * sizeof(float))) return conv_fail(&m->v->env, "7 rows, then the rest: other bits");
    if (!vm_feed(m, parts, rows, n, 1, 1)) return 0;
    if (memcmp(parts, out, count * sizeof(float))) return conv_fail(&m->v->env, "row by row: other bits");
    return 1;
}

/* ---- comparing ----------------------------------------------------------------------------------------- */
/* Share of max|expected| that tolerances.json grants this file */
static double vm_share(vector_case *v)
{
    const char *slash = strrchr(v->path, '/');
    const size_t n = slash ? (size_t)(slash - v->path) + 1 : 0;
    char path[1024];
    json_doc doc;
    double share = 2e-5;
    snprintf(path, sizeof path, "%.*stolerances.json", (int)(n < 900 ? n : 0), v->path);
    if (json_read_file(&doc, path)) {
        share = json_number(json_get(json_get(doc.root, v->path + n), "tol"), share);
        json_free(&doc);
    }
    return share;
}
/* The worst of all values so far, as a share of its tolerance, is what the line of the case shows. */
static void vm_compare(vector_case *v, const float *got, const float *want, size_t n, double largest)
{
    const double tolerance = vm_share(v) * (largest > 0.0 ? largest : 1.0);
    for (size_t i = 0; i < n; i++) {
        double error = fabs((double)got[i] - (double)want[i]);
        if (!(error <= 1e30)) error = 1e30;
        if (v->tolerance > 0.0 && error * v->tolerance <= v->error * tolerance) continue;
        v->error = error;
        v->tolerance = tolerance;
    }
}
static double vm_largest(const float *values, size_t n)
{
    double largest = 0.0;
    for (size_t i = 0; i < n; i++) largest = fabs((double)values[i]) > largest ? fabs((double)values[i]) : largest;
    return largest;
}

/* ---- tensors of a case --------------------------------------------------------------------------------- */
typedef struct vm_values {
    float  *at;                         /* NULL: the file has no such tensor */
    int32_t ndim, shape[4];
    size_t  n;
} vm_values;

static vm_values vm_get(vector_case *v, const char *name)
{
    const conv_tensor *t;
    vm_values x;
    memset(&x, 0, sizeof x);
    x.at = vector_values(v, name, &t);
    x.n = x.at ? 1 : 0;
    for (int32_t i = 0; i < 4; i++) x.shape[i] = 1;
    for (int32_t i = 0; x.at && i < t->ndim && i < 4; i++) {
        x.shape[i] = (int32_t)t->shape[i];
        x.n *= (size_t)x.shape[i];
    }
    x.ndim = x.at ? t->ndim : 0;
    return x;
}
static int vm_flag(const json_value *config, const char *key)
{
    const json_value *f = json_get(config, key);
    return json_is(f, JSON_TRUE);
}

/* ---- memories alone ------------------------------------------------------------------------------------ */
/* q, k, v and gates of a case: tensors [B, T, heads, ...] that become columns of one row */
typedef struct vm_parts {
    vm_values part[10];
    int32_t   n, width;
} vm_parts;

static void vm_part(vm_parts *p, vm_values x)
{
    if (!x.at) return;
    p->part[p->n++] = x;
    p->width += x.shape[2] * x.shape[3];
}
static float *vm_rows(vector_case *v, const vm_parts *p, int32_t b)
{
    const int32_t T = p->part[0].shape[1];
    float *rows = (float *)conv_alloc(&v->env, (uint64_t)T * (uint64_t)p->width, sizeof(float));
    size_t at = 0;
    for (int32_t i = 0; rows && i < p->n; i++) {
        const size_t n = (size_t)(p->part[i].shape[2] * p->part[i].shape[3]);
        for (int32_t t = 0; t < T; t++)
            memcpy(rows + (size_t)t * (size_t)p->width + at,
                   p->part[i].at + ((size_t)b * (size_t)T + (size_t)t) * n, n * sizeof(float));
        at += n;
    }
    return rows;
}

/* What config says of a memory, as the words of a recipe line; `from`: the tensors of its first weights */
typedef struct vm_memory {
    char    words[512];
    char    start[64];
    vm_values weights[3];               /* in, gate, out as far as they exist: [.., heads, inputs, outputs] */
    int32_t n_weights, momentum, window;
} vm_memory;

static vm_memory vm_memory_of(vector_case *v, const json_value *config, const char *prefix, int layer)
{
    static const char *const names[] = { "W2", "W3", "W1", "W" };
    static const char *const tensors[] = { "in", "gate", "out", "out" };
    const char *kind = json_text(json_get(config, "kind"), "linear");
    const int muon = json_number(json_get(config, "muon"), 0.0) > 0.0, momentum = vm_flag(config, "momentum");
    const int residual = strcmp(kind, "linear") != 0 && !json_is(json_get(config, "residual"), JSON_FALSE);
    vm_memory m;
    size_t used;
    memset(&m, 0, sizeof m);
    m.momentum = muon || momentum;
    m.window = (int32_t)json_number(json_get(config, "c"), 1.0);
    for (int i = 0; i < 4; i++) {
        char name[64];
        vm_values x;
        snprintf(name, sizeof name, "%s%s", prefix, names[i]);
        x = vm_get(v, name);
        if (!x.at || m.n_weights == 3) continue;
        m.weights[m.n_weights] = x;
        snprintf(m.start + strlen(m.start), sizeof m.start - strlen(m.start), "%s@%s", m.n_weights ? "," : "",
                 tensors[i]);
        m.n_weights++;
    }
    if (!m.n_weights) {
        conv_fail(&v->env, "no first weights %s*", prefix);
        return m;
    }
    used = (size_t)snprintf(m.words, sizeof m.words, "memory=%s act=gelu residual=%d window=%d chunk=%d update=%s "
                            "loss=%s start=%s", kind, residual, m.window,
                            (int)json_number(json_get(config, "chunk"), 1.0),
                            muon ? "muon" : momentum ? "momentum" : "descent",
                            json_text(json_get(config, "loss"), "l2"), m.start);
    if (m.n_weights > 1)
        snprintf(m.words + used, sizeof m.words - used, " hidden=%d",
                 (int)m.weights[0].shape[m.weights[0].ndim - 1]);
    (void)layer;
    return m;
}
/* The first weights of sequence b */
static void vm_add_weights(vm_model *model, const vm_memory *m, int32_t b)
{
    static const char *const names[3][3] = { { "out", "", "" }, { "in", "out", "" }, { "in", "gate", "out" } };
    for (int32_t i = 0; i < m->n_weights; i++) {
        const vm_values *x = &m->weights[i];
        const int32_t *shape = x->shape + (x->ndim == 4);
        const size_t n = (size_t)(shape[0] * shape[1] * shape[2]);
        vm_add(model, names[m->n_weights - 1][i], x->at + (x->ndim == 4 ? n * (size_t)b : 0), 0, 3, shape[0],
               shape[1], shape[2]);
    }
}

/* The memory op of a model and its state */
static const sqm__memory *vm_memory_state(const vm_model *m, float **state)
{
    for (int32_t i = 0; i < m->model->n_ops; i++) {
        const sqm__op *op = &m->model->ops[i];
        if (op->kind != SQM__OP_MIX || strcmp(op->mixer->name, "memory") != 0) continue;
        *state = (float *)(void *)sqm__slot(m->session, op, 0);
        return (const sqm__memory *)op->bound;
    }
    return NULL;
}
/* One matrix of all heads: of what is read (which = 0) or of the momentum (1); position: rows fed */
static void vm_state_matrix(float *to, const sqm__memory *m, const sqm__layer *l, const float *state, int which,
                            int32_t position)
{
    const int32_t i = position % m->chunk;
    for (int32_t h = 0; h < m->heads; h++, state += m->head_floats)
        for (int32_t r = 0; r < l->rows; r++)
            for (int32_t c = 0; c < l->cols; c++) {
                const size_t at = l->at + ((size_t)(c / 16) * (size_t)l->rows + (size_t)r) * 16 + (size_t)(c % 16);
                float x = state[at + (which ? m->weights : 0)];
                if (!which && m->update == SQM__LEARN_SUM && i > 0) x += m->steps[i - 1] * state[m->weights + at];
                *to++ = x;
            }
}
/* state.<prefix>P.*, S.*, kbuf and vbuf of sequence b, after all rows were fed */
static void vm_compare_state(vm_model *m, const char *prefix, int32_t b, int32_t rows)
{
    static const char *const names[] = { "P.W2", "P.W3", "P.W1", "P.W", "S.W2", "S.W3", "S.W1", "S.W" };
    vector_case *v = m->v;
    float *state, *got;
    const sqm__memory *memory = vm_memory_state(m, &state);
    for (int i = 0; i < 8; i++) {
        const sqm__layer *l = i % 4 == 0 ? &memory->in : i % 4 == 1 ? &memory->gate : &memory->out;
        char name[64];
        vm_values want;
        snprintf(name, sizeof name, "state.%s%s", prefix, names[i]);
        want = vm_get(v, name);
        if (!want.at || (i >= 4 && memory->update == SQM__LEARN_DESCENT)) continue;
        want.n /= (size_t)want.shape[0];
        got = (float *)conv_alloc(&v->env, want.n, sizeof(float));
        if (!got) return;
        vm_state_matrix(got, memory, l, state, i >= 4, rows);
        vm_compare(v, got, want.at + want.n * (size_t)b, want.n, vm_largest(want.at, want.n * (size_t)want.shape[0]));
    }
    for (int i = 0; i < 2; i++) {
        const int32_t past = memory->window - 1, dims[2] = { memory->head_dim, memory->v_dim };
        char name[64];
        vm_values want;
        snprintf(name, sizeof name, "state.%s%s", prefix, i ? "vbuf" : "kbuf");
        want = vm_get(v, name);             /* [B, tokens, heads, dim] */
        for (int32_t t = 0; want.at && t < want.shape[1]; t++)
            for (int32_t h = 0; h < memory->heads; h++) {
                const int32_t slot = (rows - want.shape[1] + t) % past;
                const float *ring = state + memory->head_floats * (size_t)h + memory->ring_at;
                got = (float *)conv_alloc(&v->env, (uint64_t)dims[i], sizeof(float));
                if (!got) return;
                memcpy(got, ring + (size_t)(slot * (dims[0] + dims[1]) + i * dims[0]), (size_t)dims[i] * 4);
                vm_compare(v, got, want.at + (size_t)(((b * want.shape[1] + t) * memory->heads + h) * dims[i]),
                           (size_t)dims[i], vm_largest(want.at, want.n));
            }
    }
}

/* titans_lmm_*, omeganet_*, atlas_*, atlaspp_gated, dla_mlp: q, k, v and gates as they are */
static int vector_memory(vector_case *v)
{
    const vm_values y = vm_get(v, "out.y");
    const vm_memory memory = vm_memory_of(v, v->config, "w.P0.", 0);
    vm_parts p;
    memset(&p, 0, sizeof p);
    vm_part(&p, vm_get(v, "in.q"));
    vm_part(&p, vm_get(v, "in.k"));
    vm_part(&p, vm_get(v, "in.v"));
    vm_part(&p, vm_get(v, "in.eta"));
    vm_part(&p, vm_get(v, "in.alpha"));
    if (memory.momentum) vm_part(&p, vm_get(v, "in.theta"));
    if (memory.window > 1) vm_part(&p, vm_get(v, "in.gamma"));
    if (v->env.failed || p.n < 5 || !y.at) return vector_stop(v, VECTOR_FAIL, "a tensor is missing");
    for (int32_t b = 0; b < y.shape[0]; b++) {
        const size_t n = y.n / (size_t)y.shape[0];
        float *out = (float *)conv_alloc(&v->env, n, sizeof(float));
        float *rows = vm_rows(v, &p, b);
        vm_model m;
        vm_start(&m, v);
        vm_add_weights(&m, &memory, b);
        vm_line(&m, "input r0 rows width=%d", (int)p.width);
        vm_line(&m, "mix r1 r0 memory heads=%d head_dim=%d v_dim=%d %s", (int)y.shape[2],
                (int)p.part[0].shape[3], (int)y.shape[3], memory.words);
        vm_line(&m, "head logits r1");
        if (vm_open(&m, y.shape[1]) && vm_run(&m, out, rows, y.shape[1])) {
            vm_compare(v, out, y.at + n * (size_t)b, n, vm_largest(y.at, y.n));
            vm_compare_state(&m, "", b, y.shape[1]);
        }
        vm_close(&m);
        if (v->env.failed) return vector_stop(v, VECTOR_FAIL, v->env.error);
    }
    return VECTOR_PASS;
}

#define VECTOR_MEMORY_MECHANISMS \
    { "atlas_linear", vector_memory }, { "atlas_mlp", vector_memory }, { "atlas_mlp_chunk8", vector_memory }, \
    { "atlaspp_gated", vector_memory }, { "dla_mlp", vector_memory }, { "omeganet_linear", vector_memory }, \
    { "omeganet_linear_poly2", vector_memory }, { "omeganet_mlp", vector_memory }, \
    { "titans_lmm_linear", vector_memory }, { "titans_lmm_linear_chunk8", vector_memory }, \
    { "titans_lmm_mlp", vector_memory }, { "titans_lmm_mlp_chunk8", vector_memory },
#endif /* VEC_MEMORY_H_INCLUDED */
