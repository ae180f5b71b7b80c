/* vec_memory.h: for sqm-vectors: memories that learn while they read, memory caching, codebooks. A case
   becomes a weight file through the converter's own code (prep_memory.h, conv_write.h), is opened and fed as
   any model is; whole, row by row and 7 + rest must agree to the bit, and what the state holds is compared.
   Tolerance as in vec_linear.h: the file's entry in tolerances.json, times the largest |expected| value. */
#ifndef VEC_MEMORY_H_INCLUDED
#define VEC_MEMORY_H_INCLUDED
#include "vec_linear.h"
#include "prep_memory.h"

/* ---- tensors of a case --------------------------------------------------------------------------------- */
typedef struct vm_values {
    float  *at;                         /* NULL: the file has no such tensor */
    int32_t ndim, shape[4];
    int64_t n;
} vm_values;

static vm_values vm_get(vector_case *v, const char *name)
{
    const conv_tensor *t;
    vm_values x;
    memset(&x, 0, sizeof x);
    x.at = vector_values(v, name, &t);
    for (int32_t i = 0; i < 4; i++) x.shape[i] = 1;
    if (!x.at) return x;
    x.ndim = t->ndim;
    x.n = vl_count(t);
    for (int32_t i = 0; i < t->ndim && i < 4; i++) x.shape[i] = (int32_t)t->shape[i];
    return x;
}
static int vm_flag(const json_value *config, const char *key) { return json_bool(json_get(config, key), 0); }

/* Tensors [B, T, heads, ...] that become columns of one row */
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
/* The rows of sequence b */
static float *vm_rows(vector_case *v, const vm_parts *p, int32_t b)
{
    const int32_t rows = p->part[0].shape[1];
    float *to = (float *)conv_alloc(&v->env, (uint64_t)rows * (uint64_t)p->width, sizeof(float));
    size_t at = 0;
    for (int32_t i = 0; to && i < p->n; i++) {
        const size_t n = (size_t)(p->part[i].shape[2] * p->part[i].shape[3]);
        for (int32_t t = 0; t < rows; t++)
            memcpy(to + (size_t)t * (size_t)p->width + at,
                   p->part[i].at + ((size_t)b * (size_t)rows + (size_t)t) * n, n * sizeof(float));
        at += n;
    }
    return to;
}

/* ---- running a sequence -------------------------------------------------------------------------------- */
static void vm_close(vl *m)
{
    sqm_session_free(m->session);
    sqm_model_free(m->model);
}
/* Ends the recipe with register rR, opens the model and feeds it m->rows rows. From row `skip` on the results
   are sequence b of out.y. The model stays open; its state is that after all rows. */
static int vm_run(vl *m, int reg, const float *rows, int32_t b, int32_t skip)
{
    int64_t n, past;
    float *whole, *parts;
    int causal;
    conv_line(&m->c, "head logits r%d", reg);
    if (!rows || !vl_open(m)) return 0;
    n = (int64_t)m->rows * m->model->vocab_size;
    past = (int64_t)skip * m->model->vocab_size;
    whole = (float *)conv_alloc(&m->v->env, (uint64_t)n, sizeof(float));
    parts = (float *)conv_alloc(&m->v->env, (uint64_t)n, sizeof(float));
    causal = (m->model->mixer_flags & SQM_MIXER_WHOLE_ONLY) == 0;
    if (!whole || !parts || !vl_feed(m, whole, rows, m->rows, m->rows)) return 0;
    for (int step = 0; causal && step < 2; step++) {
        if (!vl_feed(m, parts, rows, step ? 1 : 7, step ? 1 : m->rows)) return 0;
        if (memcmp(parts, whole, (size_t)n * sizeof(float)))
            return conv_fail(&m->v->env, "%s gives other bits",
                             step ? "row by row" : "7 rows, then the rest");
    }
    return vl_compare(m->v, "out.y", whole + past, b * (n - past), n - past) == VECTOR_PASS;
}
/* in.x of sequence b, behind the rows of `before` */
static const float *vm_inputs(vl *m, int32_t b, const vm_values *before)
{
    const vm_values x = vm_get(m->v, "in.x");
    const int64_t past = before ? before->n : 0, n = x.n / x.shape[0];
    float *rows = (float *)conv_alloc(&m->v->env, (uint64_t)(past + n), sizeof(float));
    if (!rows || !x.at) return NULL;
    if (past) memcpy(rows, before->at, (size_t)past * sizeof(float));
    memcpy(rows + past, x.at + b * n, (size_t)n * sizeof(float));
    return rows;
}
static int vm_verdict(vector_case *v, int ok)
{
    if (ok) return VECTOR_PASS;
    return v->why[0] ? VECTOR_FAIL : vector_stop(v, VECTOR_FAIL, v->env.error);
}
/* A case whose model reads in.x [B, T, dim]: build() writes the recipe and returns the register of the
   result, look() (or NULL) compares the state. */
typedef int (*vm_build)(vl *m, int32_t dim);
typedef int (*vm_look)(vl *m, int32_t b);
static int vm_case(vector_case *v, vm_build build, vm_look look, const char *before_name)
{
    const vm_values x = vm_get(v, "in.x"), before = vm_get(v, before_name ? before_name : "");
    int ok = x.at != NULL;
    for (int32_t b = 0; ok && b < x.shape[0]; b++) {
        const int32_t past = before_name ? before.shape[0] : 0;
        vl m;
        int reg;
        vl_start(&m, v, x.shape[2]);
        m.rows = past + x.shape[1];
        reg = build(&m, x.shape[2]);
        ok = vm_run(&m, reg, vm_inputs(&m, b, before_name ? &before : NULL), b, past);
        if (ok && look) ok = look(&m, b);
        vm_close(&m);
    }
    return vm_verdict(v, ok);
}

/* ---- states -------------------------------------------------------------------------------------------- */
/* The op of a mixer and its state */
static const sqm__op *vm_mixer(const vl *m, const char *name, float **state)
{
    for (int32_t i = 0; i < m->model->n_ops; i++) {
        const sqm__op *op = &m->model->ops[i];
        if (op->kind != SQM__OP_MIX || strcmp(op->mixer->name, name) != 0) continue;
        *state = (float *)(void *)sqm__slot(m->session, op, 0);
        return op;
    }
    return NULL;
}
/* One matrix of all heads, of what is read after `position` rows (which = 0) or of the momentum (1); heads
   lie head_floats apart. Bias rows come last. */
static float *vm_matrix(vl *m, const sqm__memory *memory, const sqm__layer *l, const float *state,
                        size_t head_floats, int which, int32_t position)
{
    const int32_t i = position % memory->chunk;
    float *values = (float *)conv_alloc(&m->v->env, (uint64_t)(memory->heads * l->rows * l->cols),
                                        sizeof(float));
    float *to = values;
    for (int32_t h = 0; to && h < memory->heads; h++, state += head_floats)
        for (int32_t k = 0; k < l->rows * l->cols; k++) {
            const size_t row = (size_t)(k / l->cols), c = (size_t)(k % l->cols);
            const size_t at = l->at + (c / 16 * (size_t)l->rows + row) * 16 + c % 16;
            float x = state[at + (which ? memory->weights : 0)];
            if (!which && memory->update == SQM__LEARN_SUM && i > 0)
                x += memory->steps[i - 1] * state[memory->weights + at];
            *to++ = x;
        }
    return values;
}
static int vm_compare_layer(vl *m, const char *name, const sqm__memory *memory, const sqm__layer *l,
                            const float *state, int which, int32_t b)
{
    const int64_t n = (int64_t)memory->heads * l->rows * l->cols;
    const float *got;
    if (!conv_source_find(&m->v->source, name)) return 1;
    if (which && memory->update == SQM__LEARN_DESCENT) return 1;       /* zeros that nothing needs */
    got = vm_matrix(m, memory, l, state, memory->head_floats, which, m->rows);
    return got && vl_compare(m->v, name, got, b * n, n) == VECTOR_PASS;
}
/* kbuf, vbuf [B, tokens, heads, dim]: the pairs of the window */
static int vm_compare_ring(vl *m, const char *name, const sqm__memory *memory, const float *state, int values,
                           int32_t b)
{
    const vm_values want = vm_get(m->v, name);
    const int32_t past = memory->window - 1, pair = memory->head_dim + memory->v_dim;
    const int32_t dim = values ? memory->v_dim : memory->head_dim;
    for (int32_t i = 0; want.at && i < want.shape[1] * memory->heads; i++) {
        const int32_t t = i / memory->heads, h = i % memory->heads;
        const int32_t slot = (m->rows - want.shape[1] + t) % past;
        const float *ring = state + memory->head_floats * (size_t)h + memory->ring_at;
        if (vl_compare(m->v, name, ring + slot * pair + (values ? memory->head_dim : 0),
                       ((int64_t)b * want.shape[1] * memory->heads + i) * dim, dim) != VECTOR_PASS) return 0;
    }
    return 1;
}
/* <prefix>P.*, S.*, kbuf and vbuf */
static int vm_look_memory(vl *m, const char *prefix, int32_t b)
{
    static const char *const names[] = { "P.W2", "P.W3", "P.W1", "P.W", "S.W2", "S.W3", "S.W1", "S.W" };
    float *state;
    const sqm__op *op = vm_mixer(m, "memory", &state);
    const sqm__memory *memory = (const sqm__memory *)op->bound;
    for (int i = 0; i < 8; i++) {
        const sqm__layer *l = i % 4 == 0 ? &memory->in : i % 4 == 1 ? &memory->gate : &memory->out;
        const char *name = conv_format(&m->v->env, "%s%s", prefix, names[i]);
        if (!vm_compare_layer(m, name, memory, l, state, i / 4, b)) return 0;
    }
    return vm_compare_ring(m, conv_format(&m->v->env, "%skbuf", prefix), memory, state, 0, b) &&
           vm_compare_ring(m, conv_format(&m->v->env, "%svbuf", prefix), memory, state, 1, b);
}
/* [B, rows, channels]: the last rows of a convolution, from column `first` of its ring on */
static int vm_look_conv(vl *m, const char *name, int32_t first, int32_t b)
{
    const vm_values want = vm_get(m->v, name);
    float *state;
    const sqm__op *op = vm_mixer(m, "conv", &state);
    const sqm__conv *c = (const sqm__conv *)op->bound;
    for (int32_t t = 0; want.at && t < want.shape[1]; t++) {
        const int32_t slot = (m->rows + t) % c->history;
        if (vl_compare(m->v, name, state + slot * c->channels + first,
                       (int64_t)(b * want.shape[1] + t) * want.shape[2], want.shape[2]) != VECTOR_PASS)
            return 0;
    }
    return 1;
}

/* ---- memories ------------------------------------------------------------------------------------------ */
/* What a configuration says; first weights are tensors w.<start>W*, [(B,) heads, inputs, outputs] */
static mem_memory vm_memory(vector_case *v, const json_value *config, const char *start, int weights)
{
    const int muon = json_number(json_get(config, "muon"), 0.0) > 0.0;
    const vm_values out1 = vm_get(v, conv_format(&v->env, "w.%sW1", start));
    const vm_values w = out1.at ? out1 : vm_get(v, conv_format(&v->env, "w.%sW", start));
    const vm_values in = vm_get(v, conv_format(&v->env, "w.%sW2", start));
    const int32_t *shape = w.shape + (w.ndim == 4);
    mem_memory m;
    memset(&m, 0, sizeof m);
    m.kind = json_text(json_get(config, "kind"), "linear");
    m.loss = json_text(json_get(config, "loss"), "l2");
    m.update = muon ? "muon" : vm_flag(config, "momentum") ? "momentum" : "descent";
    m.act = "gelu";
    m.window = (int32_t)json_number(json_get(config, "c"), 1.0);
    m.chunk = (int32_t)json_number(json_get(config, "chunk"), 1.0);
    m.weights = weights || m.window > 1;
    m.residual = in.at && json_bool(json_get(config, "residual"), 1);
    m.heads = shape[0];
    m.v_dim = shape[2];
    m.key_dim = in.at ? in.shape[in.ndim == 4 ? 2 : 1] : shape[1];
    m.hidden = in.at ? shape[1] : 0;
    m.start = start;
    m.sequences = w.ndim == 4 ? w.shape[0] : 1;
    if (!w.at) conv_fail(&v->env, "no first weights");
    return m;
}
/* q, k, v and gates */
static void vm_memory_parts(vector_case *v, const mem_memory *m, vm_parts *p)
{
    memset(p, 0, sizeof *p);
    vm_part(p, vm_get(v, "in.q"));
    vm_part(p, vm_get(v, "in.k"));
    vm_part(p, vm_get(v, "in.v"));
    vm_part(p, vm_get(v, "in.eta"));
    vm_part(p, vm_get(v, "in.alpha"));
    if (mem_has_momentum(m)) vm_part(p, vm_get(v, "in.theta"));
    if (m->weights) vm_part(p, vm_get(v, "in.gamma"));
    if (p->n < 5) conv_fail(&v->env, "q, k, v or a gate is missing");
}
/* titans_lmm_*, omeganet_*, atlas_*, atlaspp_gated, dla_mlp: q, k, v and gates as they are */
static int vector_memory(vector_case *v)
{
    mem_memory memory = vm_memory(v, v->config, "P0.", 0);
    vm_parts p;
    int ok;
    vm_memory_parts(v, &memory, &p);
    ok = !v->env.failed;
    for (; ok && memory.sequence < memory.sequences; memory.sequence++) {
        const int32_t b = (int32_t)memory.sequence;
        vl m;
        vl_start(&m, v, p.width);
        m.rows = p.part[0].shape[1];
        mem_put_mixer(&m.l, &memory, 1, 0, "memory");
        conv_line(&m.c, "%s", "");
        ok = vm_run(&m, 1, vm_rows(v, &p, b), b, 0) && vm_look_memory(&m, "state.", b);
        vm_close(&m);
    }
    return vm_verdict(v, ok);
}

/* The layer of tensors <from>* */
static int vm_put_layer(vl *m, const char *from, int32_t dim)
{
    const vm_values kernel = vm_get(m->v, conv_format(&m->v->env, "w.%sconv_q", from));
    mem_memory memory = vm_memory(m->v, m->v->config, conv_format(&m->v->env, "%sM0.", from), 1);
    int reg;
    m->l.from = conv_format(&m->v->env, "w.%s", from);
    memory.start = "M0.";
    reg = mem_put_layer(&m->l, &memory, 0, dim, kernel.shape[1], vm_flag(m->v->config, "poly"));
    lin_linear(&m->l, 10, reg, lin_part(&m->l, "o_proj", dim, (int64_t)memory.heads * memory.v_dim));
    m->l.from = "w.";
    return 10;
}
static int vm_look_layer(vl *m, int32_t b)
{
    const int32_t width = vm_get(m->v, "state.conv_q").shape[2];
    return vm_look_memory(m, "state.mem.", b) && vm_look_conv(m, "state.conv_q", 0, b) &&
           vm_look_conv(m, "state.conv_k", width, b) && vm_look_conv(m, "state.conv_v", 2 * width, b);
}
static int vm_build_layer(vl *m, int32_t dim) { return vm_put_layer(m, "", dim); }
static int vector_memory_layer(vector_case *v) { return vm_case(v, vm_build_layer, vm_look_layer, NULL); }

/* ---- Titans around its memory -------------------------------------------------------------------------- */
/* mag, mal: memory as gate, memory as layer. The attention window always sees the persistent rows, which are
   fed like any rows, before the others. */
static int vm_build_window(vl *m, int32_t dim)
{
    const int gate = strcmp(m->v->mechanism, "titans_mag") == 0, src = gate ? 0 : 10;
    conv_part parts[3];
    vm_put_layer(m, "lmm.", dim);
    parts[0] = lin_part(&m->l, "aq", dim, dim);
    parts[1] = lin_part(&m->l, "ak", dim, dim);
    parts[2] = lin_part(&m->l, "av", dim, dim);
    conv_put_linear(&m->c, 2, src, parts, 3, 1.0, 0);
    conv_line(&m->c, "mix r3 r2 attention heads=1 head_dim=%d scale=%s window=%d keep=%d", (int)dim,
              conv_real(&m->c, 1.0 / sqrt((double)dim)), (int)vl_int(m, "window"),
              (int)vl_rows(m, "w.persist"));
    lin_linear(&m->l, 4, 3, lin_part(&m->l, "ao", dim, dim));
    if (!gate) return 4;
    conv_line(&m->c, "norm r4 r4 kind=rms eps=1e-5 w=@%s", lin_vector(&m->l, "n1", dim));
    conv_line(&m->c, "norm r10 r10 kind=rms eps=1e-5 w=@%s", lin_vector(&m->l, "n2", dim));
    conv_line(&m->c, "gate r4 r4 r10 act=sigmoid");
    return 4;
}
static int vector_titans_window(vector_case *v)
{
    return vm_case(v, vm_build_window, vm_look_layer, "w.persist");
}
static int vm_build_context(vl *m, int32_t dim)
{
    const mem_memory memory = vm_memory(m->v, m->v->config, "M0.", 0);
    mem_put_context(&m->l, &memory, dim, vl_rows(m, "w.persist"), vl_int(m, "segment"));
    return 1;
}
static int vector_titans_context(vector_case *v) { return vm_case(v, vm_build_context, NULL, NULL); }

/* ---- TTT, GAM ------------------------------------------------------------------------------------------ */
static int vm_build_ttt(vl *m, int32_t dim)
{
    const int deep = strcmp(json_text(json_get(m->v->config, "kind"), ""), "mlp") == 0;
    mem_ttt t;
    int reg;
    memset(&t, 0, sizeof t);
    t.dim = dim;
    t.heads = vl_int(m, "num_heads");
    t.head_dim = vm_get(m->v, "w.ttt_norm_weight").shape[1];
    t.hidden = deep ? vm_get(m->v, "w.W1").shape[2] : 0;
    t.batch = vl_int(m, "mini_batch_size");
    t.base_lr = vector_number(m->v, "base_lr", 1.0);
    t.rope_theta = vector_number(m->v, "rope_theta", 10000.0);
    t.gate = vm_flag(m->v->config, "use_gate");
    reg = mem_put_ttt(&m->l, &t, 0);
    lin_linear(&m->l, 10, reg, lin_part(&m->l, "o_proj", dim, (int64_t)t.heads * t.head_dim));
    return 10;
}
/* W and b [B, heads, ...] of a layer: all rows but the last, and the last */
static int vm_look_biased(vl *m, const char *w, const char *bias, const sqm__memory *memory,
                          const sqm__layer *l, const float *state, int32_t b)
{
    const float *got = vm_matrix(m, memory, l, state, memory->head_floats, 0, m->rows);
    const int64_t all = (int64_t)l->rows * l->cols, n = all - l->cols;
    for (int32_t h = 0; got && h < memory->heads; h++) {
        const int64_t head = (int64_t)b * memory->heads + h;
        if (vl_compare(m->v, w, got + h * all, head * n, n) != VECTOR_PASS ||
            vl_compare(m->v, bias, got + h * all + n, head * l->cols, l->cols) != VECTOR_PASS) return 0;
    }
    return got != NULL;
}
static int vm_look_ttt(vl *m, int32_t b)
{
    float *state;
    const sqm__memory *memory = (const sqm__memory *)vm_mixer(m, "memory", &state)->bound;
    const int deep = memory->in.floats != 0;
    return vm_look_biased(m, "state.W1", "state.b1", memory, deep ? &memory->in : &memory->out, state, b) &&
           (!deep || vm_look_biased(m, "state.W2", "state.b2", memory, &memory->out, state, b));
}
static int vector_ttt(vector_case *v) { return vm_case(v, vm_build_ttt, vm_look_ttt, NULL); }

static int vm_build_gam(vl *m, int32_t dim)
{
    mem_put_gam(&m->l, dim, vl_int(m, "conv_kernel"), vl_int(m, "slots"), vl_rows(m, "w.ffn.0.weight"));
    return 0;
}
static int vm_look_gam(vl *m, int32_t b) { return vm_look_conv(m, "state.conv", 0, b); }
static int vector_gam(vector_case *v) { return vm_case(v, vm_build_gam, vm_look_gam, NULL); }

/* ---- functions inside mixers and ops ------------------------------------------------------------------- */
static int vector_newton_schulz(vector_case *v)
{
    const vm_values g = vm_get(v, "in.G");
    const int32_t rows = g.shape[1], cols = g.shape[2];
    const size_t n = (size_t)rows * (size_t)mem_pad(cols), each = (size_t)(rows * cols);
    const uint64_t room = 2 * n + sqm__newton_floats(rows, cols) + each;
    float *panels = (float *)conv_alloc(&v->env, room, sizeof(float));
    float *result = panels + n, *work = result + n;
    int ok = g.at && panels;
    for (int32_t b = 0; ok && b < g.shape[0]; b++) {
        float *got = work + sqm__newton_floats(rows, cols);
        sqm__to_panels(panels, g.at + (size_t)b * each, (size_t)cols, rows, cols);
        sqm__newton_schulz(sqm__kernels_of(SQM_ISA_AUTO), result, panels, rows, cols, work);
        for (int32_t i = 0; i < rows * cols; i++) got[i] = *sqm__panel_at(result, rows, i / cols, i % cols);
        ok = vl_compare(v, "out.X", got, (int64_t)b * rows * cols, rows * cols) == VECTOR_PASS;
    }
    return vm_verdict(v, ok);
}
/* Monomials of every head, scaled as prep_memory.h scales them */
static int vector_poly_features(vector_case *v)
{
    const vm_values x = vm_get(v, "in.x"), want = vm_get(v, "out.phi");
    const json_value *coefficients = json_get(v->config, "coef");
    const int32_t heads = x.shape[2], dim = x.shape[3], width = want.shape[3];
    float *scales = (float *)conv_alloc(&v->env, (uint64_t)width, sizeof(float));
    float *out = (float *)conv_alloc(&v->env, (uint64_t)want.n, sizeof(float));
    float a[3];
    int ok;
    vl m;
    if (!x.at || !want.at || !scales || !out) return vector_stop(v, VECTOR_FAIL, "no rows");
    for (uint32_t i = 0; i < 3; i++) a[i] = (float)json_number(json_at(coefficients, i), 0.0);
    mem_monomial_scales(scales, a, dim, 1);
    vl_start(&m, v, dim);
    m.rows = x.shape[0] * x.shape[1] * heads;
    conv_line(&m.c, "monomials r1 r0\naffine r1 r1 w=@%s\nhead logits r1",
              lin_values(&m.l, "scales", scales, width));
    ok = vl_open(&m) && vl_feed(&m, out, x.at, m.rows, m.rows) &&
         vl_compare(v, "out.phi", out, 0, want.n) == VECTOR_PASS;
    vm_close(&m);
    return vm_verdict(v, ok);
}

/* ---- memory caching ------------------------------------------------------------------------------------ */
/* state.cache_* [B, segments, heads, ...]: full segments are records, a partial last one is the running
   state. */
static int vm_look_cache(vl *m, const char *name, const sqm__caching *c, const sqm__layer *l,
                         const float *state, int32_t b)
{
    const vm_values want = vm_get(m->v, name);
    const int64_t n = (int64_t)c->memory.heads * l->rows * l->cols;
    for (int32_t s = 0; want.at && s < want.shape[1]; s++) {
        const int full = s < m->rows / c->segment;
        const float *from = full ? state + c->base + c->record * (size_t)s + c->pool_pad : state;
        const float *got = vm_matrix(m, &c->memory, l, from,
                                     full ? c->memory.weights : c->memory.head_floats, 0, 0);
        if (!got || vl_compare(m->v, name, got, (b * want.shape[1] + s) * n, n) != VECTOR_PASS) return 0;
    }
    return 1;
}
static int vm_look_caching(vl *m, int32_t b)
{
    const vm_values pools = vm_get(m->v, "state.pools");
    float *state;
    const sqm__caching *c = (const sqm__caching *)vm_mixer(m, "memory_caching", &state)->bound;
    for (int32_t s = 0; c->pool && s < m->rows / c->segment; s++)
        if (vl_compare(m->v, "state.pools", state + c->base + c->record * (size_t)s,
                       (int64_t)(b * pools.shape[1] + s) * c->pool, c->pool) != VECTOR_PASS) return 0;
    return vm_look_cache(m, "state.cache_W2", c, &c->memory.in, state, b) &&
           vm_look_cache(m, "state.cache_W1", c, &c->memory.out, state, b) &&
           vm_look_cache(m, "state.cache_W", c, &c->memory.out, state, b);
}
/* The words of a variant; the pooled ones read x and u = W_u x behind the memory's columns. */
static const char *vm_caching_words(vl *m, int32_t pool)
{
    const char *variant = json_text(json_get(m->v->config, "variant"), "");
    const char *mode = json_text(json_get(m->v->config, "mode"), "");
    const char *combine = strcmp(variant, "residual") == 0 ? "sum" : strcmp(variant, "avg") == 0 ? "mean" :
                          strcmp(variant, "soup") == 0 ? "soup" : "softmax";
    return conv_format(&m->v->env, "segment=%d combine=%s fresh=%d pool=%d top=%d",
                       (int)vl_int(m, "segment"), combine, strcmp(mode, "independent") == 0, (int)pool,
                       strcmp(variant, "ssc") == 0 ? (int)vl_int(m, "topk") : 0);
}
static int vector_memory_caching(vector_case *v)
{
    const char *variant = json_text(json_get(v->config, "variant"), "");
    const int pooled = strcmp(variant, "residual") != 0 && strcmp(variant, "avg") != 0;
    mem_memory memory = vm_memory(v, json_get(v->config, "base"), "P0.", 0);
    vm_values x = vm_get(v, "in.x");
    const int32_t dim = x.shape[2];
    vm_parts p;
    int ok;
    vm_memory_parts(v, &memory, &p);
    if (pooled) vm_part(&p, x);
    ok = !v->env.failed;
    for (; ok && memory.sequence < memory.sequences; memory.sequence++) {
        const int32_t b = (int32_t)memory.sequence;
        vl m;
        vl_start(&m, v, p.width);
        m.rows = p.part[0].shape[1];
        if (pooled) {
            conv_line(&m.c, "copy r1 r0 first=%d count=%d", (int)(p.width - dim), (int)dim);
            lin_linear(&m.l, 2, 1, lin_part(&m.l, "W_u", dim, dim));
            conv_line(&m.c, "cat r3 r0 r2");
        }
        mem_put_mixer(&m.l, &memory, 4, pooled ? 3 : 0, "memory_caching");
        conv_line(&m.c, " %s", vm_caching_words(&m, pooled ? dim : 0));
        ok = vm_run(&m, 4, vm_rows(v, &p, b), b, 0) && vm_look_caching(&m, b);
        vm_close(&m);
    }
    return vm_verdict(v, ok);
}

/* ---- the exponential kernel ---------------------------------------------------------------------------- */
/* state.U [B, T, heads, v_dim] */
static int vm_look_kernel(vl *m, int32_t b)
{
    const vm_values want = vm_get(m->v, "state.U");
    const int64_t n = want.n / want.shape[0];
    float *got = (float *)conv_alloc(&m->v->env, (uint64_t)n + 1, sizeof(float)), *state;
    const sqm__kernel_memory *k = (const sqm__kernel_memory *)vm_mixer(m, "kernel_memory", &state)->bound;
    for (int32_t i = 0; want.at && got && i < (int32_t)n; i++) {
        const int32_t j = i % k->v_dim, h = i / k->v_dim % k->heads, t = i / k->v_dim / k->heads;
        float *tile = state + k->ring * (size_t)k->heads + k->tile * (size_t)(t / 64 * k->heads + h);
        got[i] = *sqm__panel_at(tile + k->head_dim * 64, 64, t % 64, j);
    }
    return !want.at || (got && vl_compare(m->v, "state.U", got, b * n, n) == VECTOR_PASS);
}
/* dot_exp_linear; deeptransformer_linear has neither gates nor window */
static int vector_kernel_memory(vector_case *v)
{
    const vm_values y = vm_get(v, "out.y"), gamma = vm_get(v, "in.gamma");
    vm_parts p;
    int ok;
    memset(&p, 0, sizeof p);
    vm_part(&p, vm_get(v, "in.q"));
    vm_part(&p, vm_get(v, "in.k"));
    vm_part(&p, vm_get(v, "in.v"));
    vm_part(&p, vm_get(v, "in.eta"));
    vm_part(&p, vm_get(v, "in.alpha"));
    vm_part(&p, gamma);
    ok = p.n >= 3 && y.at;
    for (int32_t b = 0; ok && b < y.shape[0]; b++) {
        vl m;
        vl_start(&m, v, p.width);
        m.rows = y.shape[1];
        conv_line(&m.c, "mix r1 r0 kernel_memory heads=%d head_dim=%d v_dim=%d window=%d %s", (int)y.shape[2],
                  (int)p.part[0].shape[3], (int)y.shape[3], gamma.at ? (int)gamma.shape[3] : 1,
                  gamma.at ? "loss=l2" : "loss=dot rate=0 retain=0");
        ok = vm_run(&m, 1, vm_rows(v, &p, b), b, 0) && vm_look_kernel(&m, b);
        vm_close(&m);
    }
    return vm_verdict(v, ok);
}

/* ---- codebooks ----------------------------------------------------------------------------------------- */
/* The codes of all tokens, read from the state after each row, must be those of out.codes [B, T (, heads)] */
static int vm_look_codes(vl *m, int32_t b)
{
    const vm_values want = vm_get(m->v, "out.codes"), x = vm_get(m->v, "in.x");
    float *out = (float *)conv_alloc(&m->v->env, (uint64_t)m->model->vocab_size, sizeof(float)), *state;
    const sqm__codebook *c = (const sqm__codebook *)vm_mixer(m, "codebook", &state)->bound;
    if (!want.at || !out || sqm_reset(m->session, 0) != SQM_OK) return conv_fail(&m->v->env, "no codes");
    for (int32_t t = 0; t < m->rows; t++) {
        if (sqm_feed_rows_all(m->session, 0, x.at + (size_t)((b * m->rows + t) * x.shape[2]), 1, out) !=
            SQM_OK)
            return conv_fail(&m->v->env, "%s", sqm_session_error(m->session)->text);
        for (int32_t h = 0; h < c->heads; h++) {
            const int32_t got = (int32_t)sqm__codebook_head_of(c, state, h).codes[t % c->near];
            const int32_t expected = (int32_t)want.at[(size_t)((b * m->rows + t) * c->heads + h)];
            if (got != expected)
                return conv_fail(&m->v->env, "token %d: code %d, expected %d", (int)t, (int)got,
                                 (int)expected);
        }
    }
    return 1;
}
static int vm_build_vq(vl *m, int32_t dim)
{
    mem_vq y;
    int reg;
    memset(&y, 0, sizeof y);
    y.dim = dim;
    y.heads = vl_int(m, "n_head");
    y.key_dim = vl_int(m, "d_k");
    y.v_dim = vl_int(m, "d_v");
    y.codes = vm_get(m->v, "w.c_sum").shape[1];
    y.memory = vl_int(m, "mem_len");
    y.lambda = vector_number(m->v, "pe_lam", 1e4);
    reg = mem_put_vq(&m->l, &y, 0);
    lin_linear(&m->l, 10, reg, lin_part(&m->l, "res_proj", dim, (int64_t)y.heads * y.v_dim));
    return 10;
}
static int vector_transformer_vq(vector_case *v) { return vm_case(v, vm_build_vq, vm_look_codes, NULL); }

static int vm_build_longvq(vl *m, int32_t dim)
{
    mem_longvq y;
    y.dim = dim;
    y.z = vm_get(m->v, "w.codebook").shape[1];
    y.codes = vm_get(m->v, "w.codebook").shape[0];
    y.v_dim = vl_rows(m, "w.W_v");
    y.states = vm_get(m->v, "w.ema.alpha").shape[1];
    y.block = vl_int(m, "block_len");
    mem_put_longvq(&m->l, &y);
    return 0;
}
/* state.N [B, 1, codes] and U [B, 1, codes, v_dim] count a block when the next one is complete, the mixer
   when it needs the room: folds what is missing. */
static int vm_look_means(vl *m, int32_t b)
{
    float *state, *got = (float *)conv_alloc(&m->v->env, (uint64_t)vm_get(m->v, "state.U").n + 1,
                                             sizeof(float));
    const sqm__codebook *c = (const sqm__codebook *)vm_mixer(m, "codebook", &state)->bound;
    const sqm__codebook_head head = sqm__codebook_head_of(c, state, 0);
    const int64_t n = (int64_t)c->codes * c->v_dim;
    for (int32_t j = sqm__codebook_start(c, m->rows - 1); j < (m->rows - 1) / c->block * c->block; j++)
        sqm__codebook_fold(c, &head, j);
    for (int32_t i = 0; got && i < n; i++) got[i] = *sqm__panel_at(head.means, c->codes, i / c->v_dim,
                                                                   i % c->v_dim);
    return got && vl_compare(m->v, "state.N", head.counts, (int64_t)b * c->codes, c->codes) == VECTOR_PASS &&
           vl_compare(m->v, "state.U", got, b * n, n) == VECTOR_PASS;
}
static int vm_look_longvq(vl *m, int32_t b)
{
    const vm_values ema = vm_get(m->v, "state.ema");             /* [B, dim, states] */
    const int32_t dim = ema.shape[1], states = ema.shape[2];
    float *got = (float *)conv_alloc(&m->v->env, (uint64_t)(dim * states), sizeof(float)), *state;
    (void)vm_mixer(m, "scan", &state);
    for (int32_t i = 0; got && i < dim * states; i++)
        got[i] = *sqm__panel_at(state, states, i % states, i / states);
    return got && vl_compare(m->v, "state.ema", got, (int64_t)b * dim * states, dim * states) ==
        VECTOR_PASS &&
           vm_look_means(m, b) && vm_look_codes(m, b);
}
static int vector_longvq(vector_case *v) { return vm_case(v, vm_build_longvq, vm_look_longvq, NULL); }

#define VECTOR_MEMORY_MECHANISMS \
    { "atlas_layer", vector_memory_layer }, { "atlas_linear", vector_memory }, \
    { "atlas_mlp", vector_memory }, { "atlas_mlp_chunk8", vector_memory }, \
    { "atlaspp_gated", vector_memory }, { "deeptransformer_linear", vector_kernel_memory }, \
    { "dla_mlp", vector_memory }, { "dot_exp_linear", vector_kernel_memory }, { "gam_block", vector_gam }, \
    { "longvq_block_DERIVED", vector_longvq }, { "memory_caching_delta", vector_memory_caching }, \
    { "memory_caching_dla", vector_memory_caching }, { "memory_caching_linear", vector_memory_caching }, \
    { "memory_caching_swla", vector_memory_caching }, { "memory_caching_titans", vector_memory_caching }, \
    { "newton_schulz5", vector_newton_schulz }, { "omeganet_layer", vector_memory_layer }, \
    { "omeganet_linear", vector_memory }, { "omeganet_linear_poly2", vector_memory }, \
    { "omeganet_mlp", vector_memory }, { "poly_features", vector_poly_features }, \
    { "titans_lmm_layer", vector_memory_layer }, { "titans_lmm_linear", vector_memory }, \
    { "titans_lmm_linear_chunk8", vector_memory }, { "titans_lmm_mlp", vector_memory }, \
    { "titans_lmm_mlp_chunk8", vector_memory }, { "titans_mac", vector_titans_context }, \
    { "titans_mag", vector_titans_window }, { "titans_mal", vector_titans_window }, \
    { "transformer_vq_layer", vector_transformer_vq }, { "ttt_linear", vector_ttt }, \
    { "ttt_mlp", vector_ttt },
#endif /* VEC_MEMORY_H_INCLUDED */
