/* vec_ssm.h: for sqm-vectors: Mamba-1 to -3, Hydra, Vim, VMamba, MEGA's EMA. Each sequence of a case becomes
   a weight file through the converter's own blocks (prep_ssm.h), is opened and fed as any model is: at once,
   row by row and 7 + rest, which must agree to the bit. States are compared where the file has them.
   Tolerance: 1e-5 of the largest |expected| value of the tensor.                                           */
#ifndef VEC_SSM_H_INCLUDED
#define VEC_SSM_H_INCLUDED
#include <time.h>
#include "prep_ssm.h"
#include "conv_write.h"

typedef struct ssm_case {
    vector_case *v;
    conv         c;                   /* the plan of the running sequence                                   */
    sqm_model   *model;
    sqm_session *session;
    int32_t      batch, rows, sequence;
    int          tokens;              /* in.ids instead of rows                                             */
} ssm_case;

static float *ssm_get(ssm_case *k, const char *name, const conv_tensor **t)
{
    const conv_tensor *unused;
    return vector_values(k->v, name, t ? t : &unused);
}
static int32_t ssm_number(const ssm_case *k, const char *key, double otherwise)
{
    return (int32_t)vector_number(k->v, key, otherwise);
}

/* The worst of all values so far, as a share of its tolerance, is what the line of the case shows.         */
static void ssm_compare(vector_case *v, const float *got, const float *want, int64_t n, double tolerance)
{
    for (int64_t i = 0; i < n; i++) {
        double error = fabs((double)got[i] - (double)want[i]);
        if (!(error <= 1e30)) error = 1e30;
        if (v->tolerance > 0.0 && error * v->tolerance <= v->error * tolerance) continue;
        v->error = error;
        v->tolerance = tolerance;
    }
}
static double ssm_tolerance(const float *want, int64_t n)
{
    double largest = 0.0;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)want[i]));
    return 1e-5 * (largest > 0.0 ? largest : 1.0);
}

/* ---- a model of the plan ------------------------------------------------------------------------------- */
static int ssm_open(ssm_case *k)
{
    const char *directory = getenv("TMPDIR");
    sqm_session_config config;
    conv_writer w;
    sqm_error err;
    char path[512];
    memset(&w, 0, sizeof w);
    memset(&err, 0, sizeof err);
    memset(&config, 0, sizeof config);
    snprintf(path, sizeof path, "%.300s/sqm-vectors-%lx-%lx.sqm", directory ? directory : "/tmp",
             (unsigned long)time(NULL), (unsigned long)((uintptr_t)k & 0xffffffu));
    if (k->v->env.failed) return 0;
    w.w = sqm_writer_open(path, &err);
    w.c = &k->c;
    w.target = CONV_TO_F32;
    if (!w.w) return conv_fail(&k->v->env, "%.180s", err.text);
    if (!conv_write_plan(&w)) { sqm_writer_abort(w.w); return 0; }
    if (sqm_writer_close(w.w, &err) != SQM_OK) return conv_fail(&k->v->env, "%.180s", err.text);
    k->model = sqm_load_file(path, NULL, &err);
    remove(path);
    if (!k->model) return conv_fail(&k->v->env, "%.180s", err.text);
    config.max_context = config.max_batch = k->rows;
    config.threads = 1;
    config.precision = SQM_EXACT;
    k->session = sqm_session_create(k->model, &config, &err);
    return k->session ? 1 : conv_fail(&k->v->env, "%.180s", err.text);
}
static void ssm_close(ssm_case *k)
{
    sqm_session_free(k->session);
    sqm_model_free(k->model);
    k->session = NULL;
    k->model = NULL;
}

/* Feeds all rows from a fresh state in pieces of `first`, then `step`.                                     */
static int ssm_feed(ssm_case *k, float *out, const float *rows, const int32_t *ids, int32_t first,
                    int32_t step)
{
    const size_t width = (size_t)k->model->input_width, out_width = (size_t)k->model->vocab_size;
    if (sqm_reset(k->session, 0) != SQM_OK) return 0;
    for (int32_t t = 0, n = first; t < k->rows; t += n, n = step) {
        float *to = out + (size_t)t * out_width;
        sqm_result r;
        if (n > k->rows - t) n = k->rows - t;
        r = ids ? sqm_feed_all(k->session, 0, ids + t, n, to)
                : sqm_feed_rows_all(k->session, 0, rows + (size_t)t * width, n, to);
        if (r != SQM_OK) return conv_fail(&k->v->env, "%.180s", sqm_session_error(k->session)->text);
    }
    return 1;
}

/* One sequence: rows [rows, width] or ids against want.                                                    */
static int ssm_run(ssm_case *k, const float *rows, const int32_t *ids, const float *want, double tolerance)
{
    size_t n;
    float *got, *parts;
    if (!ssm_open(k)) return 0;
    n = (size_t)k->rows * (size_t)k->model->vocab_size;
    got = (float *)conv_alloc(&k->v->env, n, sizeof(float));
    parts = (float *)conv_alloc(&k->v->env, n, sizeof(float));
    if (!got || !parts || !ssm_feed(k, got, rows, ids, k->rows, k->rows)) return 0;
    ssm_compare(k->v, got, want, (int64_t)n, tolerance);
    if (k->model->mixer_flags & SQM_MIXER_WHOLE_ONLY) return 1;
    if (!ssm_feed(k, parts, rows, ids, 7, k->rows)) return 0;
    if (memcmp(got, parts, n * sizeof(float)))
        return conv_fail(&k->v->env, "7 rows, then the rest: other bits");
    if (!ssm_feed(k, parts, rows, ids, 1, 1)) return 0;
    if (memcmp(got, parts, n * sizeof(float))) return conv_fail(&k->v->env, "row by row: other bits");
    return 1;
}

/* ---- states -------------------------------------------------------------------------------------------- */
/* State of the n-th mixer of the recipe with this name                                                     */
static const float *ssm_state(const ssm_case *k, const char *mixer, int32_t n, const void **bound)
{
    for (int32_t i = 0; i < k->model->n_ops; i++) {
        const sqm__op *op = &k->model->ops[i];
        if (op->kind != SQM__OP_MIX || strcmp(op->mixer->name, mixer) != 0 || n-- > 0) continue;
        *bound = op->bound;
        return (const float *)(const void *)sqm__slot(k->session, op, 0);
    }
    *bound = NULL;
    return NULL;
}

/* Compares values that `at` finds in a state with the file's tensor; no such tensor: nothing to do.        */
typedef float (*ssm_finder)(const ssm_case *k, const void *bound, const float *state, int64_t i);
static int ssm_check_state(ssm_case *k, const char *name, const char *mixer, int32_t n, ssm_finder at)
{
    const conv_tensor *t;
    const float *want = ssm_get(k, name, &t), *state;
    const void *bound;
    int64_t count = 1, from;
    double tolerance;
    if (!want) return 1;
    for (int32_t i = 1; i < t->ndim; i++) count *= t->shape[i];
    tolerance = ssm_tolerance(want, count * t->shape[0]);
    from = count * k->sequence;
    state = ssm_state(k, mixer, n, &bound);
    if (!state) return conv_fail(&k->v->env, "the recipe has no mixer %s for %s", mixer, name);
    for (int64_t i = 0; i < count; i++) {
        const float got = at(k, bound, state, i);
        ssm_compare(k->v, &got, want + from + i, 1, tolerance);
    }
    return 1;
}
/* [channels, states] of a scan; complex: [channels, states, 2]                                             */
static float ssm_scan_cell(const ssm_case *k, const void *bound, const float *state, int64_t i)
{
    const sqm__selective *s = (const sqm__selective *)bound;
    const int64_t channel = i / s->parts, cell = i % s->parts;
    const int64_t part = s->is_complex ? cell / 2 + (cell % 2 ? s->n : 0) : cell;
    (void)k;
    return state[(channel / 16 * s->parts + part) * 16 + channel % 16];
}
/* [heads, head_dim, states] of an ssd                                                                      */
static float ssm_ssd_cell(const ssm_case *k, const void *bound, const float *state, int64_t i)
{
    const sqm__dual *s = (const sqm__dual *)bound;
    const int64_t head = i / s->n / s->head_dim, p = i / s->n % s->head_dim, n = i % s->n;
    (void)k;
    return state[head * (int64_t)sqm__ssd_head_floats(s) + (p / 16 * s->n + n) * 16 + p % 16];
}
/* [taps, channels] of a convolution, the oldest of them past use: taken from the file                      */
static float ssm_conv_cell(const ssm_case *k, const void *bound, const float *state, int64_t i)
{
    const sqm__conv *s = (const sqm__conv *)bound;
    const int64_t tap = i / s->channels, row = k->rows - s->taps + tap;
    const conv_tensor *t;
    if (tap == 0)
        return vector_values(k->v, "state.conv", &t) ?
               vector_values(k->v, "state.conv", &t)[k->sequence * s->taps * s->channels + i] : 0.0f;
    return state[(row + s->history) % s->history * s->channels + i % s->channels];
}

/* ---- mechanisms ---------------------------------------------------------------------------------------- */
static ssm_block ssm_whole_block(const ssm_case *k, int32_t dim)
{
    ssm_block b;
    memset(&b, 0, sizeof b);
    b.names = &ssm_official;
    b.in = "w.";
    b.out = "";
    b.dim = dim;
    b.src = 1;
    b.scale = 1.0;
    (void)k;
    return b;
}
static void ssm_emit_mamba1(conv *c, const ssm_block *b, const json_value *config)
{
    ssm_mamba1 m;
    memset(&m, 0, sizeof m);
    m.inner = (int32_t)json_number(json_get(config, "d_inner"), 0.0);
    m.state = (int32_t)json_number(json_get(config, "d_state"), 0.0);
    m.rank = (int32_t)json_number(json_get(config, "dt_rank"), 0.0);
    m.taps = (int32_t)json_number(json_get(config, "d_conv"), 0.0);
    m.act = "silu";
    if (strcmp(c->architecture, "vim_block") == 0)
        ssm_put_vim(c, b, &m, json_bool(json_get(config, "if_divide_out"), 0));
    else
        ssm_put_mamba1(c, b, &m);
}
static void ssm_emit_mamba2(conv *c, const ssm_block *b, const json_value *config)
{
    const json_value *limits = json_get(config, "dt_limit");
    ssm_mamba2 m;
    memset(&m, 0, sizeof m);
    m.inner = (int32_t)json_number(json_get(config, "d_ssm"), 0.0);
    m.mlp = (int32_t)json_number(json_get(config, "d_inner"), 0.0) - m.inner;
    m.heads = (int32_t)json_number(json_get(config, "nheads"), 0.0);
    m.head_dim = (int32_t)json_number(json_get(config, "headdim"), 0.0);
    m.groups = (int32_t)json_number(json_get(config, "ngroups"), 0.0);
    m.state = (int32_t)json_number(json_get(config, "d_state"), 0.0);
    m.taps = (int32_t)json_number(json_get(config, "d_conv"), 0.0);
    m.norm_groups = json_bool(json_get(config, "rmsnorm"), 0)
        ? (int32_t)json_number(json_get(config, "norm_groups"), 1.0) : 0;
    m.norm_before_gate = json_bool(json_get(config, "norm_before_gate"), 0);
    m.norm_eps = json_number(json_get(config, "norm_eps"), 1e-5);
    m.d_per_channel = json_bool(json_get(config, "D_has_hdim"), 0);
    m.dt_low = json_number(json_at(limits, 0), 0.0);
    m.dt_high = json_number(json_at(limits, 1), 1e30);
    m.act = "silu";
    ssm_put_mamba2(c, b, &m);
}
static void ssm_emit_mamba3(conv *c, const ssm_block *b, const json_value *config)
{
    ssm_mamba3 m;
    memset(&m, 0, sizeof m);
    m.heads = (int32_t)json_number(json_get(config, "nheads"), 0.0);
    m.head_dim = (int32_t)json_number(json_get(config, "headdim"), 0.0);
    m.inner = m.heads * m.head_dim;
    m.groups = (int32_t)json_number(json_get(config, "ngroups"), 0.0);
    m.state = (int32_t)json_number(json_get(config, "d_state"), 0.0);
    m.angles = (int32_t)json_number(json_get(config, "num_rope_angles"), 0.0);
    m.rank = (int32_t)json_number(json_get(config, "mimo_rank"), 1.0);
    m.mimo = json_bool(json_get(config, "is_mimo"), 0);
    m.out_norm = json_bool(json_get(config, "is_outproj_norm"), 0);
    m.a_floor = json_number(json_get(config, "A_floor"), 0.0);
    m.a_act = json_text(json_get(config, "A_act"), "heavy_tail");
    ssm_put_mamba3(c, b, &m);
}
static void ssm_emit_hydra(conv *c, const ssm_block *b, const json_value *config)
{
    const json_value *limits = json_get(config, "dt_limit");
    ssm_hydra m;
    memset(&m, 0, sizeof m);
    m.heads = (int32_t)json_number(json_get(config, "nheads"), 0.0);
    m.head_dim = (int32_t)json_number(json_get(config, "headdim"), 0.0);
    m.inner = m.heads * m.head_dim;
    m.groups = (int32_t)json_number(json_get(config, "ngroups"), 0.0);
    m.state = (int32_t)json_number(json_get(config, "d_state"), 0.0);
    m.taps = (int32_t)json_number(json_get(config, "d_conv"), 0.0);
    m.dt_low = json_number(json_at(limits, 0), 0.0);
    m.dt_high = json_number(json_at(limits, 1), 1e30);
    ssm_put_hydra(c, b, &m);
}
static void ssm_emit_ss2d(conv *c, const ssm_block *b, const json_value *config, int32_t columns)
{
    ssm_ss2d m;
    m.inner = (int32_t)json_number(json_get(config, "d_inner"), 0.0);
    m.state = (int32_t)json_number(json_get(config, "d_state"), 0.0);
    m.rank = (int32_t)json_number(json_get(config, "dt_rank"), 0.0);
    m.columns = columns;
    m.gated = !json_bool(json_get(config, "disable_z"), 0);
    ssm_put_ss2d(c, b, &m);
}
/* VSSBlock: x += SS2D(norm x); x += fc2 gelu(fc1 norm2 x)                                                  */
static void ssm_emit_vss(conv *c, const ssm_block *whole, const json_value *config, int32_t columns)
{
    const int64_t wide = (int64_t)(json_number(json_get(config, "mlp_ratio"), 0.0) * whole->dim);
    ssm_block b = *whole;
    conv_line(c, "copy r0 r1\nnorm r1 r0 kind=layer w=@%s b=@%s eps=1e-05",
              ssm_vector(c, whole, "norm.weight", b.dim), ssm_vector(c, whole, "norm.bias", b.dim));
    b.in = "w.op.";
    b.add = 1;
    ssm_emit_ss2d(c, &b, config, columns);
    conv_line(c, "norm r1 r0 kind=layer w=@%s b=@%s eps=1e-05", ssm_vector(c, whole, "norm2.weight", b.dim),
              ssm_vector(c, whole, "norm2.bias", b.dim));
    ssm_put_linear(c, whole, 2, 1, "mlp.fc1", wide, b.dim, 0);
    conv_line(c, "act r2 r2 kind=gelu");
    ssm_put_linear(c, whole, 0, 2, "mlp.fc2", b.dim, wide, 1);
}

/* The recipe of a block between rows in r1 and the head; columns: of a picture                             */
static void ssm_emit_block(ssm_case *k, int32_t dim, int32_t columns)
{
    const ssm_block b = ssm_whole_block(k, dim);
    const char *name = k->v->mechanism;
    conv *c = &k->c;
    conv_line(c, "input r1 rows width=%d", dim);
    if (strcmp(name, "mamba2_block") == 0) ssm_emit_mamba2(c, &b, k->v->config);
    else if (strcmp(name, "mamba3_block") == 0) ssm_emit_mamba3(c, &b, k->v->config);
    else if (strcmp(name, "hydra_block") == 0) ssm_emit_hydra(c, &b, k->v->config);
    else if (strcmp(name, "ss2d") == 0) ssm_emit_ss2d(c, &b, k->v->config, columns);
    else if (strcmp(name, "vss_block") == 0) ssm_emit_vss(c, &b, k->v->config, columns);
    else if (strcmp(name, "mega_ema") == 0)
        ssm_put_mega_ema(c, &b, ssm_number(k, "ndim", 1.0),
                         json_bool(json_get(k->v->config, "bidirectional"), 0));
    else ssm_emit_mamba1(c, &b, k->v->config);
    conv_line(c, "head logits r0");
}

static void ssm_begin(ssm_case *k, int32_t sequence)
{
    memset(&k->c, 0, sizeof k->c);
    k->c.env = &k->v->env;
    k->c.source = k->v->source;
    k->c.architecture = k->v->mechanism;
    k->sequence = sequence;
}
static int ssm_end(ssm_case *k, int ok)
{
    ssm_close(k);
    if (ok && !k->v->env.failed) return VECTOR_PASS;
    return vector_stop(k->v, VECTOR_FAIL, k->v->env.error);
}

/* Angles of a Mamba-3 head, up to whole turns                                                              */
static int ssm_check_angles(ssm_case *k, const sqm__trapezoid *s, const float *head, int64_t h)
{
    const conv_tensor *t;
    const float *want = ssm_get(k, "state.angle", &t);
    const int64_t from = (k->sequence * s->heads + h) * s->angles;
    if (!want) return 0;
    for (int64_t i = 0; i < s->angles; i++) {
        const double turns = 2.0 * 3.14159265358979323846;
        const float gap = (float)remainder((double)head[i] - (double)want[from + i], turns), none = 0.0f;
        ssm_compare(k->v, &gap, &none, 1, 1e-5 * turns);
    }
    return 1;
}
static int ssm_check_trapezoid(ssm_case *k)
{
    const char *const names[] = { "state.ssm", "state.k", "state.v" };
    const void *bound;
    const float *state = ssm_state(k, "trapezoid", 0, &bound);
    const sqm__trapezoid *s = (const sqm__trapezoid *)bound;
    if (!state) return conv_fail(&k->v->env, "the recipe has no mixer trapezoid");
    for (int64_t h = 0; h < s->heads; h++) {
        const float *head = state + h * (int64_t)sqm__trapezoid_head_floats(s);
        const float *rest = head + sqm__trapezoid_matrix_floats(s);
        if (!ssm_check_angles(k, s, rest, h)) return conv_fail(&k->v->env, "state.angle is missing");
        for (int part = 0; part < 3; part++) {
            const conv_tensor *t;
            const float *want = ssm_get(k, names[part], &t);
            const int64_t n = part == 0 ? (int64_t)s->head_dim * s->n
                            : part == 1 ? (int64_t)s->rank * s->n : s->head_dim;
            double tolerance;
            if (!want) return conv_fail(&k->v->env, "%s is missing", names[part]);
            tolerance = ssm_tolerance(want, n * s->heads * t->shape[0]);
            for (int64_t i = 0; i < n; i++) {
                const int64_t r = i / s->n, at = i % s->n;
                float got = rest[s->angles + (part == 2 ? (int64_t)s->rank * s->n : 0) + i];
                const float *to = want + (k->sequence * s->heads + h) * n + i;
                if (part == 0) got = head[(r / 16 * s->n + at) * 16 + r % 16];
                if (part == 1) to = want + ((k->sequence * s->rank + r) * s->heads + h) * s->n + at;
                ssm_compare(k->v, &got, to, 1, tolerance);
            }
        }
    }
    return 1;
}

/* Blocks with rows in.x [batch, rows, dim], pictures [batch, lines, columns, dim], mega [rows, batch, dim] */
static int vector_ssm_block(vector_case *v)
{
    const int mega = strcmp(v->mechanism, "mega_ema") == 0;
    const conv_tensor *t, *y_t;
    float *x, *want;
    ssm_case k;
    int64_t dim, n;
    int ok = 1;
    memset(&k, 0, sizeof k);
    k.v = v;
    x = ssm_get(&k, "in.x", &t);
    want = ssm_get(&k, "out.y", &y_t);
    if (!x || !want || t->ndim < 3) return vector_stop(v, VECTOR_FAIL, "in.x or out.y is missing");
    dim = t->shape[t->ndim - 1];
    k.batch = (int32_t)t->shape[mega ? 1 : 0];
    k.rows = (int32_t)(t->ndim == 4 ? t->shape[1] * t->shape[2] : t->shape[mega ? 0 : 1]);
    n = k.rows * dim;
    for (int32_t b = 0; ok && b < k.batch; b++) {
        float *rows = x + b * n, *expected = want + b * n;
        if (mega) {                   /* its sequences are interleaved                                      */
            rows = (float *)conv_alloc(&v->env, (uint64_t)n, sizeof(float));
            expected = (float *)conv_alloc(&v->env, (uint64_t)n, sizeof(float));
            for (int64_t i = 0; rows && expected && i < n; i++) {
                rows[i] = x[(i / dim * k.batch + b) * dim + i % dim];
                expected[i] = want[(i / dim * k.batch + b) * dim + i % dim];
            }
        }
        ssm_begin(&k, b);
        ssm_emit_block(&k, (int32_t)dim, t->ndim == 4 ? (int32_t)t->shape[2] : 0);
        ok = ssm_run(&k, rows, NULL, expected, ssm_tolerance(want, n * k.batch));
        if (ok && strcmp(v->mechanism, "mamba3_block") == 0) ok = ssm_check_trapezoid(&k);
        else if (ok && ssm_check_state(&k, "state.conv", "conv", 0, ssm_conv_cell))
            ok = strcmp(v->mechanism, "mamba2_block") == 0
                ? ssm_check_state(&k, "state.ssm", "ssd", 0, ssm_ssd_cell)
                : ssm_check_state(&k, "state.ssm", "scan", 0, ssm_scan_cell);
        if (b + 1 < k.batch) ssm_close(&k);
    }
    return ssm_end(&k, ok);
}

/* ---- the bare scans ------------------------------------------------------------------------------------ */
/* Appends columns [rows, width] of a tensor of the running sequence to rows of `stride`; complex pairs are
   parted: real parts first. Returns the next free column.                                                  */
static int32_t ssm_columns(const ssm_case *k, float *rows, int32_t stride, int32_t at, const float *x,
                           int32_t width, int is_complex)
{
    for (int32_t t = 0; x && t < k->rows; t++)
        for (int32_t i = 0; i < width; i++) {
            const int32_t from = is_complex ? 2 * (i % (width / 2)) + i / (width / 2) : i;
            rows[(int64_t)t * stride + at + i] = x[((int64_t)k->sequence * k->rows + t) * width + from];
        }
    return at + (x ? width : 0);
}
/* [channels, states, 2] -> [channels, 2 states]                                                            */
static float *ssm_parted(ssm_case *k, const float *x, int32_t channels, int32_t parts, int is_complex)
{
    float *to = ssm_values(&k->c, (int64_t)channels * parts);
    for (int32_t i = 0; x && !k->v->env.failed && i < channels * parts; i++) {
        const int32_t part = i % parts;
        to[i] = x[is_complex ? i / parts * parts + 2 * (part % (parts / 2)) + part / (parts / 2) : i];
    }
    return to;
}

static int vector_selective_scan(vector_case *v)
{
    const int is_complex = json_bool(json_get(v->config, "complex"), 0);
    const char *act = json_bool(json_get(v->config, "delta_softplus"), 0) ? "softplus" : "none";
    const conv_tensor *u_t, *a_t, *b_t;
    const float *u, *delta, *a, *b, *cc, *d, *bias, *z, *h0, *want;
    int32_t channels, parts, constant, groups, width, keys;
    ssm_case k;
    int ok = 1;
    memset(&k, 0, sizeof k);
    k.v = v;
    u = ssm_get(&k, "in.u", &u_t);     delta = ssm_get(&k, "in.delta", NULL);
    a = ssm_get(&k, "in.A", &a_t);     b = ssm_get(&k, "in.B", &b_t);     cc = ssm_get(&k, "in.C", NULL);
    d = ssm_get(&k, "in.D", NULL);     bias = ssm_get(&k, "in.delta_bias", NULL);
    z = ssm_get(&k, "in.z", NULL);     h0 = ssm_get(&k, "in.h0", NULL);   want = ssm_get(&k, "out.y", NULL);
    if (!u || !delta || !a || !b || !cc || !want) return vector_stop(v, VECTOR_FAIL, "a tensor is missing");
    k.batch = (int32_t)u_t->shape[0];
    k.rows = (int32_t)u_t->shape[1];
    channels = (int32_t)u_t->shape[2];
    parts = (int32_t)a_t->shape[1] * (is_complex ? 2 : 1);
    constant = b_t->ndim == 2;
    groups = !is_complex && b_t->ndim == 4 ? (int32_t)b_t->shape[2] : 1;
    keys = constant ? 0 : groups * parts;
    width = 2 * channels + 2 * keys + (z ? channels : 0);
    for (int32_t s = 0; ok && s < k.batch; s++) {
        float *rows = (float *)conv_alloc(&v->env, (uint64_t)k.rows * (uint64_t)width, sizeof(float));
        conv *c = &k.c;
        int32_t at = 0;
        ssm_begin(&k, s);
        if (!rows) break;
        at = ssm_columns(&k, rows, width, at, u, channels, 0);
        at = ssm_columns(&k, rows, width, at, delta, channels, 0);
        if (!constant) at = ssm_columns(&k, rows, width, at, b, keys, is_complex);
        if (!constant) at = ssm_columns(&k, rows, width, at, cc, keys, is_complex);
        ssm_columns(&k, rows, width, at, z, channels, 0);
        conv_line(c, "input r1 rows width=%d", width);
        conv_put(c, "mix r0 r1 scan a=@%s groups=%d complex=%d dt_act=%s",
                 conv_make_panels(c, "a", ssm_parted(&k, a, channels, parts, is_complex), channels, parts),
                 groups, is_complex, act);
        if (constant)
            conv_put(c, " b=@%s c=@%s", conv_make_panels(c, "b", b, channels, parts),
                     conv_make_panels(c, "c", cc, channels, parts));
        if (d) conv_put(c, " d=@%s", conv_make_values(c, "d", d, channels));
        if (bias) conv_put(c, " dt_bias=@%s", conv_make_values(c, "bias", bias, channels));
        if (h0)
            conv_put(c, " init=@%s", conv_make_rows(c, "init", h0 + (int64_t)s * channels * parts, channels,
                                                    parts));
        conv_line(c, "%s", "");
        if (z) conv_line(c, "gate r0 r0 r1 act=silu first=%d", 2 * channels + 2 * keys);
        conv_line(c, "head logits r0");
        ok = ssm_run(&k, rows, NULL, want + (int64_t)s * k.rows * channels,
                     ssm_tolerance(want, (int64_t)k.batch * k.rows * channels)) &&
             ssm_check_state(&k, "state.ssm", "scan", 0, ssm_scan_cell);
        if (s + 1 < k.batch) ssm_close(&k);
    }
    return ssm_end(&k, ok);
}

static int vector_ssd(vector_case *v)
{
    const conv_tensor *x_t, *b_t, *d_t;
    const float *x, *dt, *a, *b, *cc, *d, *h0, *want;
    int32_t heads, dim, groups, n, inner, width;
    ssm_case k;
    int ok = 1;
    memset(&k, 0, sizeof k);
    k.v = v;
    x = ssm_get(&k, "in.x", &x_t);  dt = ssm_get(&k, "in.dt", NULL);  a = ssm_get(&k, "in.A", NULL);
    b = ssm_get(&k, "in.B", &b_t);  cc = ssm_get(&k, "in.C", NULL);   d = ssm_get(&k, "in.D", &d_t);
    h0 = ssm_get(&k, "in.h0", NULL);
    want = ssm_get(&k, "out.y", NULL);
    if (!x || !dt || !a || !b || !cc || !d || !want)
        return vector_stop(v, VECTOR_FAIL, "a tensor is missing");
    k.batch = (int32_t)x_t->shape[0];
    k.rows = (int32_t)x_t->shape[1];
    heads = (int32_t)x_t->shape[2];
    dim = (int32_t)x_t->shape[3];
    groups = (int32_t)b_t->shape[2];
    n = (int32_t)b_t->shape[3];
    inner = heads * dim;
    width = inner + 2 * groups * n + heads;
    for (int32_t s = 0; ok && s < k.batch; s++) {
        float *rows = (float *)conv_alloc(&v->env, (uint64_t)k.rows * (uint64_t)width, sizeof(float));
        conv *c = &k.c;
        int32_t at = 0;
        ssm_begin(&k, s);
        if (!rows) break;
        at = ssm_columns(&k, rows, width, at, x, inner, 0);
        at = ssm_columns(&k, rows, width, at, b, groups * n, 0);
        at = ssm_columns(&k, rows, width, at, cc, groups * n, 0);
        ssm_columns(&k, rows, width, at, dt, heads, 0);
        conv_line(c, "input r1 rows width=%d", width);
        conv_put(c, "mix r0 r1 ssd heads=%d head_dim=%d state=%d groups=%d dt_act=none a=@%s d=@%s", heads,
                 dim, n, groups, conv_make_values(c, "a", a, heads),
                 conv_make_values(c, "d", d_t->ndim == 1 ? ssm_repeated(c, d, heads, dim) : d, inner));
        if (h0) conv_put(c, " init=@%s", conv_make_rows(c, "init", h0 + (int64_t)s * inner * n, inner, n));
        conv_line(c, "\nhead logits r0");
        ok = ssm_run(&k, rows, NULL, want + (int64_t)s * k.rows * inner,
                     ssm_tolerance(want, (int64_t)k.batch * k.rows * inner)) &&
             ssm_check_state(&k, "state.ssm", "ssd", 0, ssm_ssd_cell);
        if (s + 1 < k.batch) ssm_close(&k);
    }
    return ssm_end(&k, ok);
}

/* ---- small language models ----------------------------------------------------------------------------- */
static void ssm_emit_lm(ssm_case *k, int32_t dim, int32_t vocab)
{
    const json_value *mixer = json_get(k->v->config, "mixer");
    const int mamba2 = strcmp(json_text(json_get(k->v->config, "layer"), ""), "Mamba2") == 0;
    const char *eps = conv_real(&k->c, vector_number(k->v, "norm_epsilon", 1e-5));
    conv *c = &k->c;
    conv_line(c, "embed r0 tokens w=@%s",
              conv_make(c, "embed", CONV_TABLE, conv_take(c, "w.backbone.embedding.weight", vocab, dim)));
    for (int32_t i = 0; i < ssm_number(k, "n_layer", 0.0); i++) {
        ssm_block b;
        memset(&b, 0, sizeof b);
        b.names = &ssm_official;
        b.in = conv_format(c->env, "w.backbone.layers.%d.", i);
        b.out = conv_format(c->env, "l%d.", i);
        b.dim = dim;
        b.src = b.add = 1;
        b.scale = 1.0;
        conv_line(c, "norm r1 r0 kind=rms w=@%s eps=%s", ssm_vector(c, &b, "norm.weight", dim), eps);
        b.in = conv_format(c->env, "%smixer.", b.in);
        b.out = conv_format(c->env, "%smixer.", b.out);
        if (mamba2) ssm_emit_mamba2(c, &b, mixer);
        else ssm_emit_mamba1(c, &b, mixer);
    }
    conv_line(c, "norm r0 r0 kind=rms w=@%s eps=%s\nhead logits r0 w=@embed",
              conv_make(c, "norm_f", CONV_VECTOR, conv_take(c, "w.backbone.norm_f.weight", dim, 0)), eps);
}
static int vector_mamba_lm(vector_case *v)
{
    const int mamba2 = strcmp(json_text(json_get(v->config, "layer"), ""), "Mamba2") == 0;
    const conv_tensor *t, *y_t;
    float *ids, *want;
    int32_t tokens[512];
    ssm_case k;
    int64_t n;
    int ok = 1;
    memset(&k, 0, sizeof k);
    k.v = v;
    ids = ssm_get(&k, "in.ids", &t);
    want = ssm_get(&k, "out.logits", &y_t);
    if (!ids || !want || t->shape[1] > 512)
        return vector_stop(v, VECTOR_FAIL, "in.ids or out.logits is missing");
    k.batch = (int32_t)t->shape[0];
    k.rows = (int32_t)t->shape[1];
    n = k.rows * y_t->shape[2];
    for (int32_t b = 0; ok && b < k.batch; b++) {
        for (int32_t i = 0; i < k.rows; i++) tokens[i] = (int32_t)ids[b * k.rows + i];
        ssm_begin(&k, b);
        ssm_emit_lm(&k, ssm_number(&k, "d_model", 0.0), (int32_t)y_t->shape[2]);
        ok = ssm_run(&k, NULL, tokens, want + b * n, ssm_tolerance(want, n * k.batch));
        for (int32_t i = 0; ok && i < ssm_number(&k, "n_layer", 0.0); i++)
            ok = ssm_check_state(&k, conv_format(&v->env, "state.%d.ssm", i), mamba2 ? "ssd" : "scan", i,
                                 mamba2 ? ssm_ssd_cell : ssm_scan_cell);
        if (b + 1 < k.batch) ssm_close(&k);
    }
    return ssm_end(&k, ok);
}

/* ---- orders of VMamba's four scans --------------------------------------------------------------------- */
static int vector_scan_orders(vector_case *v)
{
    const int32_t lines = (int32_t)vector_number(v, "H", 0.0), columns = (int32_t)vector_number(v, "W", 0.0);
    const conv_tensor *t;
    const float *want = vector_values(v, "out.order", &t);
    sqm__order o;
    sqm__run_of run;
    int32_t used = 0;
    if (!want) return vector_stop(v, VECTOR_FAIL, "out.order is missing");
    o.columns = columns;
    for (int32_t k = 0; k < 4; k++) {
        o.kind = sqm__word_index(sqm__order_names, ssm_cross_orders[k]);
        for (int32_t i = 0; sqm__order_run(&run, &o, lines * columns, i); i++)
            for (int32_t n = 0; n < run.count; n++) {
                const float got = (float)(run.first + n * run.step);
                ssm_compare(v, &got, want + used++, 1, 1e-9);
            }
    }
    if (used != 4 * lines * columns) return vector_stop(v, VECTOR_FAIL, "an order leaves rows out");
    return VECTOR_PASS;
}

#define VECTOR_SSM_MECHANISMS \
    { "hydra_block", vector_ssm_block }, { "mamba1_block", vector_ssm_block }, \
    { "mamba2_block", vector_ssm_block }, { "mamba3_block", vector_ssm_block }, \
    { "mamba_lm", vector_mamba_lm }, { "mega_ema", vector_ssm_block }, \
    { "scan_orders", vector_scan_orders }, { "selective_scan", vector_selective_scan }, \
    { "ss2d", vector_ssm_block }, { "ssd", vector_ssd }, { "vim_block", vector_ssm_block }, \
    { "vss_block", vector_ssm_block },

#endif /* VEC_SSM_H_INCLUDED */
