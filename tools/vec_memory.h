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
    config.kv = SQM_KV_F32;
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
    int32_t n_weights, momentum, window, gated;        /* gated: weights of the window are given */
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
    m.gated = layer || m.window > 1;
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
    used = (size_t)snprintf(m.words, sizeof m.words, "memory=%s act=gelu residual=%d window=%d weights=%d "
                            "chunk=%d update=%s loss=%s start=%s", kind, residual, (int)m.window, (int)m.gated,
                            (int)json_number(json_get(config, "chunk"), 1.0),
                            muon ? "muon" : momentum ? "momentum" : "descent",
                            json_text(json_get(config, "loss"), "l2"), m.start);
    if (m.n_weights > 1)
        snprintf(m.words + used, sizeof m.words - used, " hidden=%d",
                 (int)m.weights[0].shape[m.weights[0].ndim - 1]);
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
    if (memory.gated) vm_part(&p, vm_get(v, "in.gamma"));
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

/* ---- layers around a memory ---------------------------------------------------------------------------- */
static char *vm_name(vm_model *m, const char *prefix, const char *name)
{
    char *text = (char *)conv_alloc(&m->v->env, strlen(prefix) + strlen(name) + 3, 1);
    if (text) sprintf(text, "%s%s", prefix, name);
    return text;
}
/* Adds tensor w.<prefix><name> of the case as rows of panels (2 dimensions) or a vector. */
static vm_values vm_take(vm_model *m, const char *prefix, const char *name)
{
    const vm_values x = vm_get(m->v, vm_name(m, "w.", vm_name(m, prefix, name)));
    char *own = vm_name(m, prefix, name);
    if (x.ndim == 2) vm_linear(m, own, x.at, x.shape[0], x.shape[1]);
    else vm_vector(m, own, x.at, (int32_t)x.n);
    return x;
}
/* Adds the kernels [channels, taps] of n convolutions side by side as [taps, channels] under one name. */
static void vm_conv(vm_model *m, const char *name, const vm_values *parts, int32_t n)
{
    const int32_t taps = parts[0].shape[1];
    int32_t channels = 0, at = 0;
    float *joined, *turned;
    for (int32_t i = 0; i < n; i++) channels += parts[i].shape[0];
    joined = (float *)conv_alloc(&m->v->env, (uint64_t)channels * (uint64_t)taps, sizeof(float));
    turned = (float *)conv_alloc(&m->v->env, (uint64_t)channels * (uint64_t)taps, sizeof(float));
    for (int32_t i = 0; turned && i < n; at += parts[i].shape[0] * taps, i++)
        if (parts[i].at) memcpy(joined + at, parts[i].at, parts[i].n * sizeof(float));
    if (turned) prep_transpose(turned, joined, channels, taps);
    vm_matrix(m, name, turned, taps, channels);
}
/* Rows of a gate projection and of its bias, for all heads: tensors <to> and <to>_b, appended from row *rows on */
static void vm_gate_rows(vm_model *m, float *w, float *b, int32_t *rows, const vm_values *from, int32_t heads,
                         int32_t first, int32_t count)
{
    const int32_t per_head = from[0].shape[0] / heads, cols = from[0].shape[1];
    if (m->v->env.failed) return;
    (void)prep_gate_rows(b + *rows, from[1].at, heads, per_head, first, count, 1);
    *rows += prep_gate_rows(w + (size_t)*rows * (size_t)cols, from[0].at, heads, per_head, first, count, cols);
}
/* Lines that make registers r6 (rates) and r7 (retain, momentum, weights) from r<from>; gates a head in the file's
   order retain, rate, momentum, weights */
static void vm_gates(vm_model *m, const char *prefix, int32_t from, int32_t heads, const vm_memory *memory)
{
    const vm_values g[2] = { vm_get(m->v, vm_name(m, "w.", vm_name(m, prefix, "gates"))),
                             vm_get(m->v, vm_name(m, "w.", vm_name(m, prefix, "gates_bias"))) };
    float *w = (float *)conv_alloc(&m->v->env, g[0].n + 1, sizeof(float));
    float *b = (float *)conv_alloc(&m->v->env, g[1].n + 1, sizeof(float));
    int32_t rows = 0, cols = g[0].shape[1];
    if (!g[0].at || !g[1].at || !w || !b) { conv_fail(&m->v->env, "no gates"); return; }
    vm_gate_rows(m, w, b, &rows, g, heads, 1, 1);
    vm_linear(m, "rate", w, rows, cols);
    vm_vector(m, "rate_b", b, rows);
    w += (size_t)rows * (size_t)cols;
    b += rows;
    rows = 0;
    vm_gate_rows(m, w, b, &rows, g, heads, 0, 1);
    if (memory->momentum) vm_gate_rows(m, w, b, &rows, g, heads, 2, 1);
    if (memory->gated) vm_gate_rows(m, w, b, &rows, g, heads, 3, memory->window);
    vm_linear(m, "share", w, rows, cols);
    vm_vector(m, "share_b", b, rows);
    vm_line(m, "linear r6 r%d w=@rate b=@rate_b\nact r6 r6 kind=softplus", (int)from);
    vm_line(m, "linear r7 r%d w=@share b=@share_b\nact r7 r7 kind=sigmoid", (int)from);
}

/* The layer of Titans, OmegaNet and Atlas: r<from> -> r<to>. Uses r2 .. r11. */
static void vm_memory_layer(vm_model *m, const char *prefix, int32_t from, int32_t to)
{
    const json_value *config = m->v->config;
    const int32_t heads = (int32_t)json_number(json_get(config, "num_heads"), 1.0);
    const vm_memory memory = vm_memory_of(m->v, config, vm_name(m, "w.", vm_name(m, prefix, "M0.")), 1);
    vm_values conv[3];
    int32_t width, dim, key_dim;
    for (int i = 0; i < 3; i++) {
        static const char *const names[] = { "conv_q", "conv_k", "conv_v" };
        conv[i] = vm_get(m->v, vm_name(m, "w.", vm_name(m, prefix, names[i])));
    }
    if (!conv[0].at || m->v->env.failed) { conv_fail(&m->v->env, "no convolution"); return; }
    width = conv[0].shape[0];
    dim = key_dim = width / heads;
    vm_add_weights(m, &memory, 0);
    vm_conv(m, "conv", conv, 3);
    vm_take(m, prefix, "q_proj"); vm_take(m, prefix, "k_proj"); vm_take(m, prefix, "v_proj");
    vm_take(m, prefix, "g_proj"); vm_take(m, prefix, "o_proj"); vm_take(m, prefix, "o_norm");
    vm_line(m, "linear r2 r%d w=@%sq_proj,@%sk_proj,@%sv_proj", (int)from, prefix, prefix, prefix);
    vm_line(m, "mix r3 r2 conv w=@conv act=silu");
    vm_line(m, "norm r3 r3 kind=l2 eps=1e-6 first=0 count=%d groups=%d", (int)(2 * width), (int)(2 * heads));
    if (vm_flag(config, "poly")) {
        const vm_values a = vm_get(m->v, "w.poly_coef");
        key_dim = 1 + dim + dim * (dim + 1) / 2;
        float *scales = (float *)conv_alloc(&m->v->env, (uint64_t)(2 * heads * key_dim), sizeof(float));
        if (!a.at || !scales) { conv_fail(&m->v->env, "no poly_coef"); return; }
        prep_monomial_scales(scales, a.at, dim, 2 * heads);
        vm_vector(m, "scales", scales, 2 * heads * key_dim);
        vm_line(m, "copy r4 r3 first=0 count=%d\nmonomials r5 r4 groups=%d\naffine r5 r5 w=@scales\n"
                "copy r4 r3 first=%d count=%d\ncat r3 r5 r4", (int)(2 * width), (int)(2 * heads), (int)(2 * width),
                (int)width);
    }
    vm_gates(m, prefix, from, heads, &memory);
    vm_line(m, "cat r8 r3 r6\ncat r9 r8 r7");
    vm_line(m, "mix r10 r9 memory heads=%d head_dim=%d v_dim=%d %s", (int)heads, (int)key_dim, (int)dim,
            memory.words);
    vm_line(m, "norm r10 r10 kind=rms eps=1e-5 groups=%d w=@%so_norm", (int)heads, prefix);
    vm_line(m, "linear r11 r%d w=@%sg_proj\ngate r10 r10 r11 act=silu\nlinear r%d r10 w=@%so_proj", (int)from,
            prefix, (int)to, prefix);
}

/* state.<name> [B, rows, channels] of sequence b: what a conv keeps, from column `first` of its ring on */
static void vm_compare_conv(vm_model *m, const char *name, int32_t b, int32_t rows, int32_t first)
{
    const vm_values want = vm_get(m->v, name);
    for (int32_t i = 0; want.at && i < m->model->n_ops; i++) {
        const sqm__op *op = &m->model->ops[i];
        const sqm__conv *c = (const sqm__conv *)op->bound;
        if (op->kind != SQM__OP_MIX || strcmp(op->mixer->name, "conv") != 0) continue;
        for (int32_t t = 0; t < want.shape[1]; t++) {
            const float *ring = (const float *)(const void *)sqm__slot(m->session, op, 0) + first;
            const int32_t slot = (rows + t) % c->history;          /* row rows - history + t */
            vm_compare(m->v, ring + (size_t)slot * (size_t)c->channels,
                       want.at + (size_t)(b * want.shape[1] + t) * (size_t)want.shape[2], (size_t)want.shape[2],
                       vm_largest(want.at, want.n));
        }
    }
}

/* Feeds in.x of sequence b and compares with out.y; the model stays open for a look at its state. `before`: rows
   that are fed in front of them, and whose results nobody sees. */
static int vm_sequence(vm_model *m, int32_t b, const vm_values *before)
{
    const vm_values x = vm_get(m->v, "in.x"), y = vm_get(m->v, "out.y");
    const int32_t past = before ? before->shape[0] : 0, rows = past + x.shape[1];
    const size_t in = x.n / (size_t)x.shape[0], n = y.n / (size_t)y.shape[0], width = (size_t)x.shape[2];
    float *all = (float *)conv_alloc(&m->v->env, (size_t)past * width + in, sizeof(float));
    float *out = (float *)conv_alloc(&m->v->env, (uint64_t)rows * (uint64_t)y.shape[2], sizeof(float));
    if (!x.at || !y.at || !all || !out) return conv_fail(&m->v->env, "a tensor is missing");
    if (past) memcpy(all, before->at, before->n * sizeof(float));
    memcpy(all + (size_t)past * width, x.at + (size_t)b * in, in * sizeof(float));
    if (!vm_open(m, rows) || !vm_run(m, out, all, rows)) return 0;
    vm_compare(m->v, out + (size_t)past * (size_t)y.shape[2], y.at + (size_t)b * n, n, vm_largest(y.at, y.n));
    return 1;
}

/* titans_lmm_layer, omeganet_layer, atlas_layer */
static int vector_memory_layer(vector_case *v)
{
    const vm_values x = vm_get(v, "in.x");
    for (int32_t b = 0; x.at && b < x.shape[0]; b++) {
        vm_model m;
        vm_start(&m, v);
        vm_line(&m, "input r0 rows width=%d", (int)x.shape[2]);
        vm_memory_layer(&m, "", 0, 12);
        vm_line(&m, "head logits r12");
        if (vm_sequence(&m, b, NULL)) {
            const int32_t width = vm_get(v, "w.conv_q").shape[0];
            vm_compare_state(&m, "mem.", b, x.shape[1]);
            vm_compare_conv(&m, "state.conv_q", b, x.shape[1], 0);
            vm_compare_conv(&m, "state.conv_k", b, x.shape[1], width);
            vm_compare_conv(&m, "state.conv_v", b, x.shape[1], 2 * width);
        }
        vm_close(&m);
    }
    return v->env.failed ? vector_stop(v, VECTOR_FAIL, v->env.error) : VECTOR_PASS;
}

/* titans_mag, titans_mal: memory as gate, memory as layer; sliding-window attention of one head that always sees the
   persistent rows, which are fed like any rows, before the others */
static int vector_titans_window(vector_case *v)
{
    static const char *const taken[] = { "aq", "ak", "av", "ao" };
    const vm_values x = vm_get(v, "in.x"), persist = vm_get(v, "w.persist");
    const int32_t width = x.shape[2], window = (int32_t)vector_number(v, "window", 1.0);
    const int gate = strcmp(v->mechanism, "titans_mag") == 0;
    if (!x.at || !persist.at) return vector_stop(v, VECTOR_FAIL, "a tensor is missing");
    for (int32_t b = 0; b < x.shape[0]; b++) {
        const int32_t rows = persist.shape[0] + x.shape[1];
        vm_model m;
        vm_start(&m, v);
        for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++) vm_take(&m, "", taken[i]);
        vm_line(&m, "input r0 rows width=%d", (int)width);
        vm_memory_layer(&m, "lmm.", 0, 12);
        vm_line(&m, "linear r2 r%d w=@aq,@ak,@av\nmix r3 r2 attention heads=1 head_dim=%d scale=%.17g window=%d keep=%d",
                gate ? 0 : 12, (int)width, 1.0 / sqrt((double)width), (int)window, (int)persist.shape[0]);
        vm_line(&m, "linear r4 r3 w=@ao");
        if (gate) {
            vm_take(&m, "", "n1");
            vm_take(&m, "", "n2");
            vm_line(&m, "norm r4 r4 kind=rms eps=1e-5 w=@n1\nnorm r12 r12 kind=rms eps=1e-5 w=@n2\n"
                    "gate r4 r4 r12 act=sigmoid");
        }
        vm_line(&m, "head logits r4");
        if (vm_sequence(&m, b, &persist)) {
            vm_compare_state(&m, "mem.", b, rows);
            vm_compare_conv(&m, "state.conv_q", b, rows, 0);
            vm_compare_conv(&m, "state.conv_k", b, rows, width);
            vm_compare_conv(&m, "state.conv_v", b, rows, 2 * width);
        }
        vm_close(&m);
    }
    return v->env.failed ? vector_stop(v, VECTOR_FAIL, v->env.error) : VECTOR_PASS;
}

/* titans_mac: memory as context */
static int vector_titans_mac(vector_case *v)
{
    static const char *const taken[] = { "q_proj", "k_proj", "v_proj", "aq", "ak", "av", "ao" };
    const vm_values x = vm_get(v, "in.x"), g[2] = { vm_get(v, "w.gates"), vm_get(v, "w.gates_bias") };
    const vm_values persist = vm_get(v, "w.persist");
    const int32_t heads = (int32_t)vector_number(v, "num_heads", 1.0), width = x.shape[2];
    const vm_memory memory = vm_memory_of(v, v->config, "w.M0.", 0);
    for (int32_t b = 0; x.at && b < x.shape[0]; b++) {
        float *w = (float *)conv_alloc(&v->env, g[0].n + 1, sizeof(float));
        float *bias = (float *)conv_alloc(&v->env, g[1].n + 1, sizeof(float));
        int32_t rows = 0;
        vm_model m;
        if (!w || !bias || !g[0].at || !g[1].at || !persist.at) return vector_stop(v, VECTOR_FAIL, "no gates");
        vm_start(&m, v);
        for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++) vm_take(&m, "", taken[i]);
        vm_gate_rows(&m, w, bias, &rows, g, heads, 1, 1);           /* rate, retain, momentum */
        vm_gate_rows(&m, w, bias, &rows, g, heads, 0, 1);
        vm_gate_rows(&m, w, bias, &rows, g, heads, 2, 1);
        vm_linear(&m, "gates", w, rows, width);
        vm_vector(&m, "gates_b", bias, rows);
        vm_matrix(&m, "persist", persist.at, persist.shape[0], persist.shape[1]);
        vm_add_weights(&m, &memory, 0);
        vm_line(&m, "input r0 rows width=%d\nmix r1 r0 memory_context heads=%d head_dim=%d %s segment=%d "
                "persistent=@persist attend=@aq,@ak,@av,@ao learn=@q_proj,@k_proj,@v_proj,@gates "
                "learn_b=-,-,-,@gates_b\nhead logits r1", (int)width, (int)heads, (int)(width / heads), memory.words,
                (int)vector_number(v, "segment", 256.0));
        vm_sequence(&m, b, NULL);
        vm_close(&m);
    }
    return v->env.failed ? vector_stop(v, VECTOR_FAIL, v->env.error) : VECTOR_PASS;
}

/* ---- TTT ----------------------------------------------------------------------------------------------- */
/* First weights W<i> and b<i> as one matrix with a bias row */
static void vm_ttt_weights(vm_model *m, const char *weights, const char *bias, const char *to)
{
    const vm_values w = vm_get(m->v, weights), b = vm_get(m->v, bias);
    float *both = (float *)conv_alloc(&m->v->env, w.n + b.n, sizeof(float));
    if (!w.at || !b.at || !both) { conv_fail(&m->v->env, "no %s", weights); return; }
    prep_with_bias(both, w.at, b.at, w.shape[0], w.shape[1], w.shape[2]);
    vm_add(m, to, both, 0, 3, w.shape[0], w.shape[1] + 1, w.shape[2]);
}
static void vm_ttt_layer(vm_model *m)
{
    static const char *const taken[] = { "q_proj", "k_proj", "v_proj", "o_proj", "g_proj", "lr_weight", "lr_bias",
                                         "post_norm.weight", "post_norm.bias" };
    const json_value *config = m->v->config;
    const int heads = (int)json_number(json_get(config, "num_heads"), 1.0);
    const int batch = (int)json_number(json_get(config, "mini_batch_size"), 1.0);
    const int deep = strcmp(json_text(json_get(config, "kind"), ""), "mlp") == 0;
    const double theta = json_number(json_get(config, "rope_theta"), 10000.0);
    const vm_values learnable = vm_get(m->v, "w.learnable_token_idx"), gain = vm_get(m->v, "w.ttt_norm_weight");
    const vm_values shift = vm_get(m->v, "w.ttt_norm_bias");
    const int dim = gain.shape[1];
    float *steps = (float *)conv_alloc(&m->v->env, (uint64_t)batch, sizeof(float));
    float *freq = (float *)conv_alloc(&m->v->env, (uint64_t)dim, sizeof(float));
    if (!learnable.at || !gain.at || !shift.at || !steps || !freq) { conv_fail(&m->v->env, "no norm"); return; }
    prep_ttt_steps(steps, learnable.at, batch);
    for (int i = 0; i < dim / 2; i++) freq[i] = (float)pow(theta, -2.0 * i / dim);
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++) vm_take(m, "", taken[i]);
    vm_vector(m, "steps", steps, batch);
    vm_vector(m, "freq", freq, dim / 2);
    vm_vector(m, "norm", gain.at, (int32_t)gain.n);
    vm_vector(m, "norm_b", shift.at, (int32_t)shift.n);
    vm_ttt_weights(m, "w.W1", "w.b1", deep ? "in" : "out");
    if (deep) vm_ttt_weights(m, "w.W2", "w.b2", "out");
    vm_line(m, "linear r1 r0 w=@q_proj,@k_proj,@v_proj");
    vm_line(m, "rope r1 r1 first=0 heads=%d head_dim=%d style=interleaved freq=@freq period=%d", 2 * heads, dim,
            batch);
    vm_line(m, "linear r2 r0 w=@lr_weight b=@lr_bias\nact r2 r2 kind=sigmoid\nscale r2 r2 by=%.17g\ncat r3 r1 r2",
            json_number(json_get(config, "base_lr"), 1.0) / dim);
    vm_line(m, "mix r4 r3 memory heads=%d head_dim=%d memory=%s hidden=%d bias=1 loss=norm norm=@norm "
            "norm_b=@norm_b update=sum chunk=%d steps=@steps start=%s", heads, dim,
            deep ? "mlp act=gelu_tanh" : "linear", deep ? (int)vm_get(m->v, "w.W1").shape[2] : 0, batch,
            deep ? "@in,@out" : "@out");
    vm_line(m, "norm r4 r4 kind=layer eps=1e-6 w=@post_norm.weight b=@post_norm.bias");
    vm_line(m, "linear r5 r0 w=@g_proj\ngate r4 r4 r5 act=gelu_tanh\nlinear r6 r4 w=@o_proj\nhead logits r6");
}
static void vm_compare_ttt(vm_model *m, const char *weights, const char *bias, const sqm__layer *l, int32_t b,
                           int32_t rows)
{
    const vm_values w = vm_get(m->v, weights), c = vm_get(m->v, bias);
    float *state, *got = (float *)conv_alloc(&m->v->env, w.n + c.n + 1, sizeof(float));
    const sqm__memory *memory = vm_memory_state(m, &state);
    const size_t all = (size_t)(l->rows * l->cols), matrix = all - (size_t)l->cols;
    if (!w.at || !c.at || !got) return;
    vm_state_matrix(got, memory, l, state, 0, rows);
    for (size_t h = 0; h < (size_t)memory->heads; h++) {
        const size_t at = (size_t)b * (size_t)memory->heads + h;
        vm_compare(m->v, got + h * all, w.at + at * matrix, matrix, vm_largest(w.at, w.n));
        vm_compare(m->v, got + h * all + matrix, c.at + at * (size_t)l->cols, (size_t)l->cols,
                   vm_largest(c.at, c.n));
    }
}
static int vector_ttt(vector_case *v)
{
    const vm_values x = vm_get(v, "in.x");
    for (int32_t b = 0; x.at && b < x.shape[0]; b++) {
        vm_model m;
        vm_start(&m, v);
        vm_line(&m, "input r0 rows width=%d", (int)x.shape[2]);
        vm_ttt_layer(&m);
        if (vm_sequence(&m, b, NULL)) {
            float *state;
            const sqm__memory *memory = vm_memory_state(&m, &state);
            const int deep = memory->in.floats != 0;
            vm_compare_ttt(&m, "state.W1", "state.b1", deep ? &memory->in : &memory->out, b, x.shape[1]);
            if (deep) vm_compare_ttt(&m, "state.W2", "state.b2", &memory->out, b, x.shape[1]);
        }
        vm_close(&m);
    }
    return v->env.failed ? vector_stop(v, VECTOR_FAIL, v->env.error) : VECTOR_PASS;
}

/* ---- functions inside the mixers and ops --------------------------------------------------------------- */
static int vector_newton_schulz(vector_case *v)
{
    const vm_values g = vm_get(v, "in.G"), want = vm_get(v, "out.X");
    const sqm__kernels *k = sqm__kernels_of(SQM_ISA_AUTO);
    const int32_t rows = g.shape[1], cols = g.shape[2], pad = (cols + 15) / 16 * 16;
    const size_t n = (size_t)rows * (size_t)pad;
    float *panels = (float *)conv_alloc(&v->env, 2 * n + sqm__newton_floats(rows, cols), sizeof(float));
    if (!g.at || !want.at || !panels) return vector_stop(v, VECTOR_FAIL, "no matrix");
    for (int32_t b = 0; b < g.shape[0]; b++) {
        float *got = panels + n;
        sqm__to_panels(panels, g.at + (size_t)b * (size_t)(rows * cols), (size_t)cols, rows, cols);
        sqm__newton_schulz(k, got, panels, rows, cols, panels + 2 * n);
        for (int32_t i = 0; i < rows * cols; i++) {
            const int32_t r = i / cols, c = i % cols;
            vm_compare(v, got + ((size_t)(c / 16) * (size_t)rows + (size_t)r) * 16 + c % 16,
                       want.at + (size_t)b * (size_t)(rows * cols) + i, 1, vm_largest(want.at, want.n));
        }
    }
    return VECTOR_PASS;
}
static int vector_poly_features(vector_case *v)
{
    const vm_values x = vm_get(v, "in.x"), want = vm_get(v, "out.phi");
    const int32_t heads = x.shape[2], dim = x.shape[3], rows = x.shape[0] * x.shape[1];
    float *scales = (float *)conv_alloc(&v->env, want.n + 1, sizeof(float)), a[3];
    float *out = (float *)conv_alloc(&v->env, want.n + 1, sizeof(float));
    vm_model m;
    if (!x.at || !want.at || !scales || !out) return vector_stop(v, VECTOR_FAIL, "no rows");
    for (uint32_t i = 0; i < 3; i++) a[i] = (float)json_number(json_at(json_get(v->config, "coef"), i), 0.0);
    prep_monomial_scales(scales, a, dim, heads);
    vm_start(&m, v);
    vm_vector(&m, "scales", scales, heads * want.shape[3]);
    vm_line(&m, "input r0 rows width=%d\nmonomials r1 r0 groups=%d\naffine r1 r1 w=@scales\nhead logits r1",
            (int)(heads * dim), (int)heads);
    if (vm_open(&m, rows) && vm_run(&m, out, x.at, rows)) vm_compare(v, out, want.at, want.n, vm_largest(want.at, want.n));
    vm_close(&m);
    return v->env.failed ? vector_stop(v, VECTOR_FAIL, v->env.error) : VECTOR_PASS;
}

/* ---- gated associative memory: the softmax over a fixed bank is a row by itself: ops, no mixer ---------- */
static int vector_gam(vector_case *v)
{
    static const char *const taken[] = { "ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias", "causal_conv.bias",
        "memory_bank", "gate.weight", "gate.bias", "ffn.0.weight", "ffn.0.bias", "ffn.2.weight", "ffn.2.bias" };
    const vm_values x = vm_get(v, "in.x"), bank = vm_get(v, "w.memory_bank"), conv = vm_get(v, "w.causal_conv.weight");
    float *turned = (float *)conv_alloc(&v->env, bank.n + 1, sizeof(float));
    if (!x.at || !bank.at || !conv.at || !turned) return vector_stop(v, VECTOR_FAIL, "a tensor is missing");
    prep_transpose(turned, bank.at, bank.shape[0], bank.shape[1]);
    for (int32_t b = 0; b < x.shape[0]; b++) {
        vm_model m;
        vm_start(&m, v);
        for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++) vm_take(&m, "", taken[i]);
        vm_conv(&m, "conv", &conv, 1);
        vm_linear(&m, "bank_values", turned, bank.shape[1], bank.shape[0]);
        vm_line(&m, "input r0 rows width=%d\nnorm r1 r0 kind=layer eps=1e-5 w=@ln1.weight b=@ln1.bias",
                (int)x.shape[2]);
        vm_line(&m, "mix r2 r1 conv w=@conv b=@causal_conv.bias");
        vm_line(&m, "linear r3 r1 w=@memory_bank\nsoftmax r3 r3\nlinear r4 r3 w=@bank_values");
        vm_line(&m, "linear r5 r1 w=@gate.weight b=@gate.bias\ngate r2 r2 r5 act=sigmoid\nadd r0 r0 r2");
        vm_line(&m, "gate r4 r4 r5 act=sigmoid first=%d\nadd r0 r0 r4", (int)x.shape[2]);
        vm_line(&m, "norm r1 r0 kind=layer eps=1e-5 w=@ln2.weight b=@ln2.bias");
        vm_line(&m, "linear r2 r1 w=@ffn.0.weight b=@ffn.0.bias\nact r2 r2 kind=gelu");
        vm_line(&m, "linear r0 r2 w=@ffn.2.weight b=@ffn.2.bias add=1\nhead logits r0");
        if (vm_sequence(&m, b, NULL)) vm_compare_conv(&m, "state.conv", b, x.shape[1], 0);
        vm_close(&m);
    }
    return v->env.failed ? vector_stop(v, VECTOR_FAIL, v->env.error) : VECTOR_PASS;
}

/* ---- memory caching ------------------------------------------------------------------------------------ */
/* state.pools [B, segments, C] and cache_* [B, segments, heads, ...]: full segments as records, a partial last one
   from the running state */
static void vm_compare_caching(vm_model *m, int32_t b, int32_t rows)
{
    static const char *const names[] = { "state.cache_W2", "state.cache_W1", "state.cache_W" };
    const sqm__op *op = NULL;
    const sqm__caching *c;
    const float *state;
    for (int32_t i = 0; i < m->model->n_ops; i++)
        if (m->model->ops[i].kind == SQM__OP_MIX) op = &m->model->ops[i];
    if (!op) return;
    c = (const sqm__caching *)op->bound;
    state = (const float *)(const void *)sqm__slot(m->session, op, 0);
    for (int i = 0; i < 3; i++) {
        const sqm__layer *l = i ? &c->memory.out : &c->memory.in;
        const vm_values want = vm_get(m->v, names[i]);
        const size_t each = (size_t)(l->rows * l->cols), all = each * (size_t)c->memory.heads;
        float *got = (float *)conv_alloc(&m->v->env, all + 1, sizeof(float));
        for (int32_t s = 0; got && want.at && s < want.shape[1]; s++) {
            sqm__memory as_state = c->memory;
            const float *from = state + c->base + c->record * (size_t)s + c->pool_pad;
            if (s < rows / c->segment) as_state.head_floats = c->memory.weights;
            else from = state;
            vm_state_matrix(got, &as_state, l, from, 0, rows);
            vm_compare(m->v, got, want.at + (size_t)(b * want.shape[1] + s) * all, all, vm_largest(want.at, want.n));
        }
    }
    if (c->pool) {
        const vm_values want = vm_get(m->v, "state.pools");
        for (int32_t s = 0; want.at && s < rows / c->segment; s++)
            vm_compare(m->v, state + c->base + c->record * (size_t)s,
                       want.at + (size_t)((b * want.shape[1] + s) * c->pool), (size_t)c->pool,
                       vm_largest(want.at, want.n));
    }
}
static int vector_memory_caching(vector_case *v)
{
    static const struct { const char *variant, *words; int pooled; } variants[] = {
        { "residual", "combine=sum", 0 }, { "grm", "combine=softmax", 1 }, { "ssc", "combine=softmax", 1 },
        { "soup", "combine=soup", 1 }, { "avg", "combine=mean", 0 } };
    const vm_values x = vm_get(v, "in.x"), y = vm_get(v, "out.y"), u = vm_get(v, "w.W_u");
    const vm_memory memory = vm_memory_of(v, json_get(v->config, "base"), "w.P0.", 0);
    const char *variant = json_text(json_get(v->config, "variant"), "");
    size_t kind = 0;
    vm_values pooled = x;
    vm_parts p;
    memset(&p, 0, sizeof p);
    vm_part(&p, vm_get(v, "in.q")); vm_part(&p, vm_get(v, "in.k")); vm_part(&p, vm_get(v, "in.v"));
    vm_part(&p, vm_get(v, "in.eta")); vm_part(&p, vm_get(v, "in.alpha"));
    if (memory.momentum) vm_part(&p, vm_get(v, "in.theta"));
    if (memory.gated) vm_part(&p, vm_get(v, "in.gamma"));
    pooled.shape[3] = 1;
    while (kind < 5 && strcmp(variants[kind].variant, variant) != 0) kind++;
    if (v->env.failed || !x.at || !y.at || !u.at || kind == 5) return vector_stop(v, VECTOR_FAIL, "a tensor is missing");
    if (variants[kind].pooled) vm_part(&p, pooled);
    for (int32_t b = 0; b < y.shape[0]; b++) {
        const size_t n = y.n / (size_t)y.shape[0];
        float *out = (float *)conv_alloc(&v->env, n, sizeof(float)), *rows = vm_rows(v, &p, b);
        vm_model m;
        vm_start(&m, v);
        vm_add_weights(&m, &memory, b);
        vm_line(&m, "input r0 rows width=%d", (int)p.width);
        if (variants[kind].pooled) {
            vm_linear(&m, "u", u.at, u.shape[0], u.shape[1]);
            vm_line(&m, "copy r1 r0 first=%d count=%d\nlinear r2 r1 w=@u\ncat r3 r0 r2", (int)(p.width - x.shape[2]),
                    (int)x.shape[2]);
        }
        vm_line(&m, "mix r4 r%d memory_caching heads=%d head_dim=%d v_dim=%d %s segment=%d fresh=%d %s pool=%d top=%d",
                variants[kind].pooled ? 3 : 0, (int)y.shape[2], (int)p.part[0].shape[3], (int)y.shape[3], memory.words,
                (int)vector_number(v, "segment", 256.0),
                strcmp(json_text(json_get(v->config, "mode"), ""), "independent") == 0, variants[kind].words,
                variants[kind].pooled ? (int)x.shape[2] : 0,
                strcmp(variant, "ssc") == 0 ? (int)vector_number(v, "topk", 0.0) : 0);
        vm_line(&m, "head logits r4");
        if (vm_open(&m, y.shape[1]) && vm_run(&m, out, rows, y.shape[1])) {
            vm_compare(v, out, y.at + n * (size_t)b, n, vm_largest(y.at, y.n));
            vm_compare_caching(&m, b, y.shape[1]);
        }
        vm_close(&m);
        if (v->env.failed) return vector_stop(v, VECTOR_FAIL, v->env.error);
    }
    return VECTOR_PASS;
}

/* ---- the exponential kernel ---------------------------------------------------------------------------- */
/* dot_exp_linear; deeptransformer_linear has neither gates nor window */
static int vector_kernel_memory(vector_case *v)
{
    const vm_values y = vm_get(v, "out.y"), u = vm_get(v, "state.U"), gamma = vm_get(v, "in.gamma");
    vm_parts p;
    memset(&p, 0, sizeof p);
    vm_part(&p, vm_get(v, "in.q")); vm_part(&p, vm_get(v, "in.k")); vm_part(&p, vm_get(v, "in.v"));
    vm_part(&p, vm_get(v, "in.eta")); vm_part(&p, vm_get(v, "in.alpha")); vm_part(&p, gamma);
    if (p.n < 3 || !y.at) return vector_stop(v, VECTOR_FAIL, "a tensor is missing");
    for (int32_t b = 0; b < y.shape[0]; b++) {
        const size_t n = y.n / (size_t)y.shape[0];
        float *out = (float *)conv_alloc(&v->env, n, sizeof(float)), *rows = vm_rows(v, &p, b);
        vm_model m;
        vm_start(&m, v);
        vm_line(&m, "input r0 rows width=%d\nmix r1 r0 kernel_memory heads=%d head_dim=%d v_dim=%d window=%d %s",
                (int)p.width, (int)y.shape[2], (int)p.part[0].shape[3], (int)y.shape[3],
                gamma.at ? (int)gamma.shape[3] : 1, gamma.at ? "loss=l2" : "loss=dot rate=0 retain=0");
        vm_line(&m, "head logits r1");
        if (vm_open(&m, y.shape[1]) && vm_run(&m, out, rows, y.shape[1])) {
            const sqm__op *op = &m.model->ops[1];
            const sqm__kernel_memory *k = (const sqm__kernel_memory *)op->bound;
            float *state = (float *)(void *)sqm__slot(m.session, op, 0);
            vm_compare(v, out, y.at + n * (size_t)b, n, vm_largest(y.at, y.n));
            for (int32_t i = 0; u.at && i < (int32_t)n; i++) {
                const int32_t j = i % k->v_dim, h = i / k->v_dim % k->heads, t = i / k->v_dim / k->heads;
                float *tile = state + k->ring * (size_t)k->heads + k->tile * (size_t)(t / 64 * k->heads + h);
                vm_compare(v, sqm__panel_at(tile + k->head_dim * 64, 64, t % 64, j), u.at + n * (size_t)b + i, 1,
                           vm_largest(u.at, u.n));
            }
        }
        vm_close(&m);
        if (v->env.failed) return vector_stop(v, VECTOR_FAIL, v->env.error);
    }
    return VECTOR_PASS;
}

/* ---- attention over a codebook ------------------------------------------------------------------------- */
/* The codes of all tokens, read from the state after each row, must be those of out.codes [B, T (, heads)]. */
static int vm_compare_codes(vm_model *m, int32_t b)
{
    const vm_values want = vm_get(m->v, "out.codes"), x = vm_get(m->v, "in.x");
    const sqm__op *op = NULL;
    float *out = (float *)conv_alloc(&m->v->env, (uint64_t)m->model->vocab_size, sizeof(float));
    for (int32_t i = 0; i < m->model->n_ops; i++)
        if (m->model->ops[i].kind == SQM__OP_MIX && strcmp(m->model->ops[i].mixer->name, "codebook") == 0)
            op = &m->model->ops[i];
    if (!want.at || !op || !out || sqm_reset(m->session, 0) != SQM_OK) return conv_fail(&m->v->env, "no codes");
    for (int32_t t = 0; t < x.shape[1]; t++) {
        const sqm__codebook *c = (const sqm__codebook *)op->bound;
        const float *row = x.at + ((size_t)b * (size_t)x.shape[1] + (size_t)t) * (size_t)x.shape[2];
        if (sqm_feed_rows_all(m->session, 0, row, 1, out) != SQM_OK) return conv_fail(&m->v->env, "refused");
        for (int32_t h = 0; h < c->heads; h++) {
            const sqm__codebook_head head = sqm__codebook_head_of(c, sqm__slot(m->session, op, 0), h);
            const int32_t got = (int32_t)head.codes[t % c->near];
            const int32_t expected = (int32_t)want.at[(size_t)((b * x.shape[1] + t) * c->heads + h)];
            if (got != expected) return conv_fail(&m->v->env, "token %d: code %d, expected %d", (int)t, (int)got,
                                                  (int)expected);
        }
    }
    return 1;
}
static void vm_vq_codebook(vm_model *m, const double *words, int32_t heads, int32_t codes, int32_t dim)
{
    const int32_t rows = heads * ((codes + 15) / 16 * 16);
    float *book = (float *)conv_alloc(&m->v->env, (uint64_t)(rows * dim), sizeof(float));
    float *half = (float *)conv_alloc(&m->v->env, (uint64_t)rows, sizeof(float));
    if (!book || !half) return;
    prep_codebook(book, half, words, heads, codes, dim);
    vm_linear(m, "codebook", book, rows, dim);
    vm_vector(m, "half", half, rows);
}
/* Codewords of Transformer-VQ: sums over counts */
static double *vm_vq_words(vector_case *v, const vm_values *sum, const vm_values *count)
{
    double *words = (double *)conv_alloc(&v->env, sum->n + 1, sizeof(double));
    const size_t dim = (size_t)sum->shape[2];
    for (size_t i = 0; words && i < sum->n; i++)
        words[i] = (double)sum->at[i] / fmax((double)count->at[i / dim], 0.01);
    return words;
}
static void vm_vq_layer(vm_model *m)
{
    vector_case *v = m->v;
    const int32_t heads = (int32_t)vector_number(v, "n_head", 1), dim = (int32_t)vector_number(v, "d_k", 1);
    const int32_t v_dim = (int32_t)vector_number(v, "d_v", 1), near = (int32_t)vector_number(v, "mem_len", 0) + 1;
    const vm_values sum = vm_get(v, "w.c_sum"), count = vm_get(v, "w.c_count"), r = vm_get(v, "w.r_proj");
    const vm_values u = vm_get(v, "w.u"), w = vm_get(v, "w.v");
    const int32_t qk = 2 * heads * dim, rows = heads * ((near + 15) / 16 * 16);
    float *relative = (float *)conv_alloc(&v->env, (uint64_t)(rows * dim), sizeof(float));
    float *bias = (float *)conv_alloc(&v->env, (uint64_t)(heads * near), sizeof(float));
    float *gain = (float *)conv_alloc(&v->env, (uint64_t)(2 * qk), sizeof(float));
    if (!sum.at || !count.at || !r.at || !u.at || !w.at || !gain) { conv_fail(&v->env, "no codebook"); return; }
    prep_vq_relative(relative, bias, r.at, u.at, w.at, heads, dim, near, r.shape[1], vector_number(v, "pe_lam", 1e4));
    for (int32_t i = 0; i < qk; i++) {          /* q and k scaled, u added to q */
        gain[i] = (float)pow(dim, -0.25);
        gain[qk + i] = i < heads * dim ? (float)((double)u.at[i] * pow(dim, -0.25)) : 0.0f;
    }
    vm_vq_codebook(m, vm_vq_words(v, &sum, &count), heads, sum.shape[1], dim);
    vm_linear(m, "relative", relative, rows, dim);
    vm_vector(m, "bias", bias, heads * near);
    vm_vector(m, "gain", gain, qk);
    vm_vector(m, "shift", gain + qk, qk);
    vm_take(m, "", "input_ln.g"); vm_take(m, "", "input_ln.b"); vm_take(m, "", "q_proj");
    vm_take(m, "", "kvg_proj"); vm_take(m, "", "res_proj");
    vm_line(m, "norm r1 r0 kind=rms eps=1e-6 w=@input_ln.g b=@input_ln.b\nlinear r2 r1 w=@q_proj,@kvg_proj");
    vm_line(m, "norm r2 r2 kind=rms eps=1e-6 first=0 count=%d groups=%d w=@gain b=@shift", (int)qk, (int)(2 * heads));
    vm_line(m, "copy r3 r2 first=0 count=%d\ncopy r4 r2 first=%d count=%d\nact r4 r4 kind=silu\ncat r5 r3 r4",
            (int)qk, (int)qk, (int)(heads * v_dim));
    vm_line(m, "mix r6 r5 codebook heads=%d head_dim=%d v_dim=%d codes=%d near=%d codebook=@codebook half=@half "
            "relative=@relative bias=@bias", (int)heads, (int)dim, (int)v_dim, (int)sum.shape[1], (int)near);
    vm_line(m, "gate r6 r6 r2 act=silu first=%d\nlinear r7 r6 w=@res_proj\nhead logits r7",
            (int)(qk + heads * v_dim));
}
static int vector_transformer_vq(vector_case *v)
{
    const vm_values x = vm_get(v, "in.x");
    for (int32_t b = 0; x.at && b < x.shape[0]; b++) {
        vm_model m;
        vm_start(&m, v);
        vm_line(&m, "input r0 rows width=%d", (int)x.shape[2]);
        vm_vq_layer(&m);
        if (vm_sequence(&m, b, NULL)) vm_compare_codes(&m, b);
        vm_close(&m);
    }
    return v->env.failed ? vector_stop(v, VECTOR_FAIL, v->env.error) : VECTOR_PASS;
}

#define VECTOR_MEMORY_MECHANISMS \
    { "atlas_linear", vector_memory }, { "atlas_mlp", vector_memory }, { "atlas_mlp_chunk8", vector_memory }, \
    { "atlaspp_gated", vector_memory }, { "dla_mlp", vector_memory }, { "omeganet_linear", vector_memory }, \
    { "omeganet_linear_poly2", vector_memory }, { "omeganet_mlp", vector_memory }, \
    { "titans_lmm_linear", vector_memory }, { "titans_lmm_linear_chunk8", vector_memory }, \
    { "titans_lmm_mlp", vector_memory }, { "titans_lmm_mlp_chunk8", vector_memory }, \
    { "atlas_layer", vector_memory_layer }, { "omeganet_layer", vector_memory_layer }, \
    { "titans_lmm_layer", vector_memory_layer }, { "ttt_linear", vector_ttt }, { "ttt_mlp", vector_ttt }, \
    { "newton_schulz5", vector_newton_schulz }, { "poly_features", vector_poly_features }, \
    { "gam_block", vector_gam }, { "memory_caching_linear", vector_memory_caching }, \
    { "memory_caching_swla", vector_memory_caching }, { "memory_caching_delta", vector_memory_caching }, \
    { "memory_caching_dla", vector_memory_caching }, { "memory_caching_titans", vector_memory_caching }, \
    { "dot_exp_linear", vector_kernel_memory }, { "deeptransformer_linear", vector_kernel_memory }, \
    { "transformer_vq_layer", vector_transformer_vq }, { "titans_mac", vector_titans_mac }, \
    { "titans_mag", vector_titans_window }, { "titans_mal", vector_titans_window },
#endif /* VEC_MEMORY_H_INCLUDED */
