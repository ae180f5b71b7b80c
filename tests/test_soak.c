/* test_soak.c - long sequences: recurrences in float32 against the same recurrences in double, from the same
   float32 inputs. Prints a table of max |error| / rms of the output and fails where it is above the limit.
     test_soak           4,096 rows, as in make test
     test_soak 100000    as many rows as the limits were measured with */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "../tools/prep_s4.h"
#include "check.h"
#include <stdlib.h>

enum { MAX_PARAMS = 20, CHUNK = 64 };
static uint32_t seed;
static double uniform(double low, double high)
{
    seed = seed * 1664525u + 1013904223u;
    return low + (high - low) * (double)(seed >> 8) / 16777216.0;
}
static void *grab(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p) exit(2);
    return p;
}

/* ---- a mixer, its rows, and what it should do ---------------------------------------------------------- */
typedef struct soak {
    const sqm_mixer  *mixer;
    sqm_param         params[MAX_PARAMS];
    sqm_tensor        tensors[MAX_PARAMS];
    const sqm_tensor *lists[MAX_PARAMS];
    float            *owned[MAX_PARAMS];
    int32_t           n_params, width, out;
    conv_env          env;              /* owns what the reference needs */
    int32_t           heads, n, m;      /* sizes as the case uses them */
    double           *state;            /* of the reference */
    const double     *wide;             /* its parameters */
    prep_lti          lti;
    double            low, high;        /* range of a case's rates */
    const double     *mix;              /* [n_mixed, out]: outputs are compared after this map, or NULL */
    int32_t           n_mixed;
    void            (*fill)(const struct soak *s, float *row);
    void            (*step)(const struct soak *s, const float *row, double *out, int64_t t);
} soak;

static sqm_param *add(soak *s, const char *key)
{
    sqm_param *p = &s->params[s->n_params++];
    CHECK(s->n_params <= MAX_PARAMS);
    p->key = key;
    return p;
}
static void number(soak *s, const char *key, double v) { add(s, key)->number = v; }
static void word(soak *s, const char *key, const char *text) { add(s, key)->text = text; }
/* values [rows, cols] as a vector (cols 0), or packed into panels; returns what was rounded away */
static void tensor(soak *s, const char *key, const double *v, int32_t rows, int32_t cols)
{
    const int32_t i = s->n_params, n = rows * (cols ? cols : 1), shape[2] = { rows, cols };
    float *plain = (float *)grab((size_t)n * sizeof(float));
    sqm_param *p = add(s, key);
    for (int32_t k = 0; k < n; k++) plain[k] = (float)v[k];
    s->owned[i] = plain;
    s->tensors[i] = sqm_tensor_1d(plain, SQM_F32, rows);
    if (cols) {
        const size_t bytes = sqm_tensor_bytes(SQM_F32, SQM_PANELS, 2, shape);
        float *packed = (float *)grab(bytes);
        CHECK(sqm_pack(packed, bytes, SQM_F32, plain, rows, cols, NULL, NULL) == SQM_OK);
        free(plain);
        s->owned[i] = packed;
        s->tensors[i] = sqm_tensor_2d(packed, SQM_F32, SQM_PANELS, rows, cols);
    }
    s->lists[i] = &s->tensors[i];
    p->tensors = &s->lists[i];
    p->n_tensors = 1;
}
static void begin(soak *s, const sqm_mixer *mixer, int32_t width)
{
    memset(s, 0, sizeof(*s));
    s->mixer = mixer;
    s->width = width;
}

/* Adds the outputs of a row to the sum of squares; *worst: the largest difference so far */
static void compare(const soak *s, const float *got, const double *want, double *worst, double *squares)
{
    const int32_t n = s->mix ? s->n_mixed : s->out;
    for (int32_t k = 0; k < n; k++) {
        double have = s->mix ? 0.0 : (double)got[k], wanted = s->mix ? 0.0 : want[k];
        for (int32_t i = 0; s->mix && i < s->out; i++) {
            have += s->mix[k * s->out + i] * (double)got[i];
            wanted += s->mix[k * s->out + i] * want[i];
        }
        *squares += wanted * wanted;
        if (!(fabs(have - wanted) <= *worst)) *worst = fabs(have - wanted);
    }
}
/* Feeds `rows` rows; the largest difference over the root mean square of the outputs */
static double run(soak *s, int64_t rows)
{
    sqm_error err;
    sqm_exec x;
    void *bound = grab(s->mixer->bound_bytes), *state, *scratch;
    float *in = (float *)grab((size_t)(s->width * CHUNK) * 4), *got;
    double *want, worst = 0.0, squares = 0.0;
    size_t scratch_bytes;
    memset(&err, 0, sizeof(err));
    if (s->mixer->bind(bound, s->params, s->n_params, s->width, &s->out, &err) != SQM_OK) {
        printf("%s: %s\n", s->mixer->name, err.text);
        free(bound); free(in);
        return 1e30;
    }
    got = (float *)grab((size_t)(s->out * CHUNK) * 4);
    want = (double *)grab((size_t)s->out * sizeof(double));
    state = grab(s->mixer->state_bytes(bound, (int32_t)rows, CHUNK, SQM_F32));
    s->mixer->reset(bound, state, 0, (int32_t)rows, CHUNK, SQM_F32);
    scratch_bytes = s->mixer->scratch_bytes(bound, (int32_t)rows, CHUNK, 1) + 64;
    scratch = grab(scratch_bytes);
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, scratch, scratch_bytes) == SQM_OK);
    for (int64_t t = 0; t < rows; t += CHUNK) {
        const int32_t n = rows - t < CHUNK ? (int32_t)(rows - t) : CHUNK;
        sqm_span span = { NULL, 0, 0, 0, 0 };
        span.state = state;
        span.rows = n;
        span.position = (int32_t)t;
        span.total = (int32_t)t + n;
        for (int32_t i = 0; i < n; i++) s->fill(s, in + i * s->width);
        CHECK(s->mixer->forward(bound, &x, got, in, &span, 1) == SQM_OK);
        for (int32_t i = 0; i < n; i++) {
            s->step(s, in + i * s->width, want, t + i);
            compare(s, got + i * s->out, want, &worst, &squares);
        }
    }
    free(bound); free(in); free(got); free(want); free(state); free(scratch);
    return worst / sqrt(squares / ((double)rows * (s->mix ? s->n_mixed : s->out)));
}
static void end(soak *s)
{
    for (int i = 0; i < MAX_PARAMS; i++) free(s->owned[i]);
    free(s->state);
    conv_env_close(&s->env);
}
/* The largest of millions of outputs scatters: half as much again as the limit passes. */
static void report(soak *s, const char *name, const char *what, int64_t rows, double limit)
{
    const double error = run(s, rows);
    printf("| %-24s | %-40s | %7ld | %8.1e | %8.1e |%s\n", name, what, (long)rows, error, limit,
           error <= 1.5 * limit ? "" : " ABOVE");
    CHECK(error <= 1.5 * limit);
    end(s);
}
static void fill_uniform(const soak *s, float *row)
{
    for (int32_t i = 0; i < s->width; i++) row[i] = (float)uniform(-1.0, 1.0);
}
/* rates between low and high, evenly in their logarithm */
static float rate(const soak *s) { return (float)exp(uniform(log(s->low), log(s->high))); }

/* ---- real diagonal scan (Mamba) ------------------------------------------------------------------------ */
static void scan_fill(const soak *s, float *row)
{
    fill_uniform(s, row);
    for (int32_t c = 0; c < s->heads; c++) row[s->heads + c] = rate(s);
}
static void scan_step(const soak *s, const float *row, double *out, int64_t t)
{
    const float *dt = row + s->heads, *b = dt + s->heads, *c = b + s->n;
    (void)t;
    for (int32_t h = 0; h < s->heads; h++) {
        out[h] = 0.0;
        for (int32_t i = 0; i < s->n; i++) {
            double *state = &s->state[h * s->n + i];
            *state = exp((double)dt[h] * s->wide[h * s->n + i]) * *state +
                     (double)dt[h] * (double)row[h] * (double)b[i];
            out[h] += *state * (double)c[i];
        }
    }
}
static void soak_scan(int64_t rows, double low, double high, const char *what, double limit)
{
    enum { C = 32, N = 16 };
    static double a[C * N];
    soak s;
    begin(&s, sqm_mixer_scan(), 2 * C + 2 * N);
    s.heads = C;
    s.n = N;
    s.low = low;
    s.high = high;
    for (int i = 0; i < C * N; i++) a[i] = (double)(float)-uniform(0.5, 1.0);
    s.wide = a;
    s.state = (double *)grab(C * N * sizeof(double));
    tensor(&s, "a", a, C, N);
    word(&s, "dt_act", "none");
    s.fill = scan_fill;
    s.step = scan_step;
    report(&s, "real diagonal (Mamba)", what, rows, limit);
}

/* RG-LRU: a = e^(a sigmoid(r)), h = a h + sqrt(1 - a^2) x */
static void rglru_step(const soak *s, const float *row, double *out, int64_t t)
{
    for (int32_t h = 0; h < s->heads; h++) {
        const double v = s->wide[h] / (1.0 + exp(-(double)row[s->heads + h])), a = exp(v);
        s->state[h] = a * s->state[h] + (double)row[h] * (t ? sqrt(-expm1(2.0 * v)) : 1.0);
        out[h] = s->state[h];
    }
}
static void soak_rglru(int64_t rows, double low, double high, const char *what, double limit)
{
    enum { C = 64 };
    static double a[C], one[C];
    soak s;
    begin(&s, sqm_mixer_scan(), 2 * C);
    s.heads = C;
    s.low = low;
    s.high = high;
    for (int i = 0; i < C; i++) { a[i] = (double)-rate(&s); one[i] = 1.0; }
    s.wide = a;
    s.state = (double *)grab(C * sizeof(double));
    tensor(&s, "a", a, C, 1);
    tensor(&s, "b", one, C, 1);
    tensor(&s, "c", one, C, 1);
    word(&s, "dt_act", "sigmoid");
    word(&s, "input", "root");
    s.fill = fill_uniform;
    s.step = rglru_step;
    report(&s, "RG-LRU", what, rows, limit);
}

/* ---- one decay a head (Mamba-2) ------------------------------------------------------------------------ */
enum { SSD_HEADS = 4, SSD_DIM = 16, SSD_STATE = 16 };
static void ssd_fill(const soak *s, float *row)
{
    fill_uniform(s, row);
    for (int32_t h = 0; h < SSD_HEADS; h++) row[s->width - SSD_HEADS + h] = rate(s);
}
static void ssd_step(const soak *s, const float *row, double *out, int64_t t)
{
    const float *b = row + SSD_HEADS * SSD_DIM, *c = b + SSD_STATE, *dt = c + SSD_STATE;
    (void)t;
    for (int32_t h = 0; h < SSD_HEADS; h++) {
        const double decay = exp((double)dt[h] * s->wide[h]);
        for (int32_t j = 0; j < SSD_DIM; j++) {
            double *state = s->state + (h * SSD_DIM + j) * SSD_STATE, y = 0.0;
            for (int32_t i = 0; i < SSD_STATE; i++) {
                state[i] = decay * state[i] + (double)dt[h] * (double)b[i] * (double)row[h * SSD_DIM + j];
                y += state[i] * (double)c[i];
            }
            out[h * SSD_DIM + j] = y;
        }
    }
}
static void soak_ssd(int64_t rows, double a, double low, double high, const char *what, double limit)
{
    double as[SSD_HEADS];
    soak s;
    begin(&s, sqm_mixer_ssd(), SSD_HEADS * SSD_DIM + 2 * SSD_STATE + SSD_HEADS);
    s.low = low;
    s.high = high;
    for (int i = 0; i < SSD_HEADS; i++) as[i] = (double)(float)(-a * uniform(0.5, 1.0));
    s.wide = as;
    s.state = (double *)grab(SSD_HEADS * SSD_DIM * SSD_STATE * sizeof(double));
    number(&s, "heads", SSD_HEADS);
    number(&s, "head_dim", SSD_DIM);
    number(&s, "state", SSD_STATE);
    tensor(&s, "a", as, SSD_HEADS, 0);
    word(&s, "dt_act", "none");
    s.fill = ssd_fill;
    s.step = ssd_step;
    report(&s, "one decay a head (SSD)", what, rows, limit);
}

/* ---- complex diagonal, LRU, S4 ------------------------------------------------------------------------- */
/* The system in l, as prep_lti describes it */
static void lti_step(const soak *s, const float *row, double *out, int64_t t)
{
    const prep_lti *l = &s->lti;
    prep_complex *x = (prep_complex *)(void *)s->state;
    (void)t;
    for (int32_t h = 0; h < l->channels; h++) {
        double along = 0.0, y = 0.0;
        for (int32_t i = 0; i < l->states; i++) {
            const int32_t k = h * l->states + i;
            if (l->q) along += l->q[k].re * x[k].re + l->q[k].im * x[k].im;
        }
        for (int32_t i = 0; i < l->states; i++) {
            const int32_t k = h * l->states + i;
            const double u = (double)row[h];
            const prep_complex in = l->b ? prep_add(prep_scale(l->b[k], u), prep_scale(l->p[k], along))
                                  : prep_c(u, l->c ? 0.0 : (double)row[l->channels + h]);
            x[k] = prep_add(prep_add(x[k], prep_mul(l->da[k], x[k])), in);
            if (l->c) y += l->c[k].re * x[k].re + l->c[k].im * x[k].im;
        }
        out[h] = l->c ? y : x[h].re;
        if (!l->c) out[l->channels + h] = x[h].im;
    }
}
static void lti_tensor(soak *s, const char *key, const prep_complex *v, double *low)
{
    const int32_t rows = s->lti.channels, cols = 2 * s->lti.states;
    double *flat = (double *)grab((size_t)(rows * cols) * sizeof(double));
    for (int32_t i = 0; i < rows * cols; i++) flat[i] = i % 2 ? v[i / 2].im : v[i / 2].re;
    tensor(s, key, flat, rows, cols);
    for (int32_t i = 0; low && i < rows * cols; i++) low[i] = flat[i] - (double)(float)flat[i];
    free(flat);
}
static void lti_report(soak *s, int low, const char *name, const char *what, int64_t rows, double limit)
{
    const int32_t n = 2 * s->lti.channels * s->lti.states;
    double *rest = (double *)grab((size_t)n * sizeof(double));
    lti_tensor(s, "da", s->lti.da, rest);
    if (low) tensor(s, "da_low", rest, s->lti.channels, 2 * s->lti.states);
    if (s->lti.c) lti_tensor(s, "c", s->lti.c, NULL);
    if (s->lti.q) {
        lti_tensor(s, "b", s->lti.b, NULL);
        lti_tensor(s, "p", s->lti.p, NULL);
        lti_tensor(s, "q", s->lti.q, NULL);
    }
    s->state = (double *)grab((size_t)n * sizeof(double));
    s->fill = fill_uniform;
    s->step = lti_step;
    report(s, name, what, rows, limit);
    free(rest);
}
/* Values that float32 holds */
static void lti_round(prep_complex *v, int32_t n)
{
    for (int32_t i = 0; i < n; i++) v[i] = prep_c((double)(float)v[i].re, (double)(float)v[i].im);
}
static void soak_diagonal(int64_t rows, double memory, int low, const char *what, double limit)
{
    enum { C = 8, N = 64 };
    soak s;
    begin(&s, sqm_mixer_lti(), C);
    CHECK(prep_lti_open(&s.env, &s.lti, C, N, 0));
    for (int i = 0; i < C * N; i++) {   /* S4D-Lin's spectrum, or any frequencies */
        s.lti.da[i] = prep_expm1(prep_c(-1.0 / (memory * uniform(0.5, 1.0)),
                                        low ? uniform(0.0, 3.14) : 6.2832 * (i % N) / memory));
        s.lti.c[i] = prep_c((double)(float)uniform(-1.0, 1.0), (double)(float)uniform(-1.0, 1.0));
    }
    CHECK(prep_lti_is_delicate(&s.lti, 0.0) == low);    /* as a converter would have it */
    lti_report(&s, low, low ? "complex diagonal, double" : "complex diagonal", what, rows, limit);
}
static void soak_lru(int64_t rows, double memory, const char *what, double limit)
{
    enum { C = 64, OUT = 8 };
    static double mix[OUT * 2 * C];
    soak s;
    begin(&s, sqm_mixer_lti(), 2 * C);
    for (int i = 0; i < OUT * 2 * C; i++) mix[i] = uniform(-1.0, 1.0);
    s.mix = mix;
    s.n_mixed = OUT;
    CHECK(prep_lti_open(&s.env, &s.lti, C, 1, 0));
    s.lti.c = NULL;
    for (int i = 0; i < C; i++)
        s.lti.da[i] = prep_expm1(prep_c(-1.0 / (memory * uniform(0.5, 1.0)), uniform(0.0, 3.14)));
    lti_report(&s, prep_lti_is_delicate(&s.lti, 0.0), "LRU, S5", what, rows, limit);
}
/* HiPPO-LegS of N states, diagonalised but for a matrix of rank one, and its bilinear step */
static void soak_s4(int64_t rows, double dt, const char *what, double limit)
{
    enum { C = 4, N = 64 };
    prep_complex *m, *v, *w;
    double *legs, *b;
    prep_s4 from;
    int32_t k = 0;
    soak s;
    begin(&s, sqm_mixer_lti(), C);
    m = prep_complexes(&s.env, N * N); v = prep_complexes(&s.env, N * N); w = prep_complexes(&s.env, N);
    legs = prep_doubles(&s.env, N * N); b = prep_doubles(&s.env, N);
    memset(&from, 0, sizeof(from));
    from.channels = C;
    from.states = N / 2;
    from.a = prep_complexes(&s.env, C * N); from.b = prep_complexes(&s.env, C * N);
    from.p = prep_complexes(&s.env, C * N); from.c = prep_complexes(&s.env, C * N);
    from.dt = prep_doubles(&s.env, C);
    CHECK(prep_hippo(&s.env, legs, b, "legs", N));
    for (int i = 0; i < N * N; i++) m[i] = prep_c(legs[i] + sqrt((i / N + 0.5) * (i % N + 0.5)), 0.0);
    CHECK(prep_eigen(&s.env, w, v, m, N));
    for (int e = 0; e < N; e++) {
        prep_complex p = prep_c(0.0, 0.0), in = p;
        double size = 0.0;
        if (w[e].im <= 0.0 || k == N / 2) continue;
        for (int i = 0; i < N; i++) size += prep_mul(v[i * N + e], prep_conj(v[i * N + e])).re;
        for (int i = 0; i < N; i++) {
            p = prep_add(p, prep_scale(prep_conj(v[i * N + e]), sqrt(i + 0.5) / sqrt(size)));
            in = prep_add(in, prep_scale(prep_conj(v[i * N + e]), b[i] / sqrt(size)));
        }
        for (int c = 0; c < C; c++) {
            from.a[c * N / 2 + k] = prep_c(-0.5, w[e].im);
            from.p[c * N / 2 + k] = p;
            from.b[c * N / 2 + k] = in;
            from.c[c * N / 2 + k] = prep_c(uniform(-1.0, 1.0), uniform(-1.0, 1.0));
            from.dt[c] = dt;
        }
        k++;
    }
    CHECK(k == N / 2);
    CHECK(prep_s4_rank1(&s.env, &s.lti, &from));
    lti_round(s.lti.c, C * N / 2);
    lti_report(&s, 0, "diagonal + rank one (S4)", what, rows, limit);
}

/* ---- dense (LMU) --------------------------------------------------------------------------------------- */
static void lmu_fill(const soak *s, float *row)
{
    const double u = uniform(-1.0, 1.0);
    for (int32_t i = 0; i < s->n; i++) row[i] = (float)(s->wide[s->n * s->n + i] * u);
}
static void lmu_step(const soak *s, const float *row, double *out, int64_t t)
{
    (void)t;
    for (int32_t i = 0; i < s->n; i++) {
        out[i] = (double)row[i] + s->state[i];
        for (int32_t k = 0; k < s->n; k++) out[i] += s->wide[i * s->n + k] * s->state[k];
    }
    memcpy(s->state, out, (size_t)s->n * sizeof(double));
}
static void soak_lmu(int64_t rows, int32_t order, double theta, const char *what, double limit)
{
    double *a;
    soak s;
    begin(&s, sqm_mixer_rnn(), order);
    s.n = order;
    a = prep_doubles(&s.env, (int64_t)order * (order + 1));
    CHECK(prep_lmu(&s.env, a, a + order * order, order, theta, "zoh"));
    s.wide = a;
    s.state = (double *)grab((size_t)order * sizeof(double));
    for (int32_t i = 0; i < order; i++) a[i * order + i] -= 1.0;
    tensor(&s, "w", a, order, order);
    number(&s, "residual", 1);
    s.fill = lmu_fill;
    s.step = lmu_step;
    report(&s, "dense (LMU)", what, rows, limit);
}

/* ---- outer products ------------------------------------------------------------------------------------ */
/* rows q | k | v | decay | g | a | b of 2 heads; n, m: key and value channels */
typedef enum rule { RULE_ADD, RULE_VECTOR, RULE_DELTA, RULE_DPLR } rule;
static void unit_vector(float *v, int32_t n)
{
    double size = 0.0;
    for (int32_t i = 0; i < n; i++) size += (double)v[i] * (double)v[i];
    for (int32_t i = 0; i < n; i++) v[i] = (float)((double)v[i] / sqrt(size));
}
static void outer_fill(const soak *s, float *row)
{
    const int32_t n = s->heads * s->n, v = s->heads * s->m;
    const rule kind = (rule)s->lti.states;
    float *k = row + n, *decay = k + n + v;
    fill_uniform(s, row);
    for (int32_t h = 0; h < s->heads; h++) unit_vector(k + h * s->n, s->n);
    for (int32_t i = 0; i < (kind == RULE_VECTOR || kind == RULE_DPLR ? n : s->heads); i++)
        decay[i] = expf(-rate(s));
    for (int32_t i = 0; kind == RULE_DELTA && i < s->heads; i++)
        decay[s->heads + i] = (float)uniform(0.0, 1.0);
    if (kind == RULE_DPLR)              /* a = -k, b = k times a rate in (0, 1) */
        for (int32_t i = 0; i < n; i++) {
            decay[n + i] = -k[i];
            decay[2 * n + i] = k[i] * (float)uniform(0.0, 1.0);
        }
}
static void outer_step(const soak *s, const float *row, double *out, int64_t t)
{
    const int32_t n = s->heads * s->n, v_all = s->heads * s->m;
    const rule kind = (rule)s->lti.states;
    (void)t;
    for (int32_t h = 0; h < s->heads; h++) {
        const float *q = row + h * s->n, *k = q + n, *v = row + 2 * n + h * s->m, *d = row + 2 * n + v_all;
        for (int32_t j = 0; j < s->m; j++) {
            double *state = s->state + (h * s->m + j) * s->n, along = 0.0, change = (double)v[j], y = 0.0;
            const float *a = d + n + h * s->n, *b = a + n;
            for (int32_t i = 0; i < s->n && kind == RULE_DPLR; i++) along += (double)a[i] * state[i];
            for (int32_t i = 0; i < s->n; i++)
                state[i] *= (double)(kind == RULE_VECTOR || kind == RULE_DPLR ? d[h * s->n + i] : d[h]);
            for (int32_t i = 0; i < s->n && kind == RULE_DELTA; i++) change -= state[i] * (double)k[i];
            if (kind == RULE_DELTA) change *= (double)d[s->heads + h];
            for (int32_t i = 0; i < s->n; i++) {
                state[i] += change * (double)k[i] + (kind == RULE_DPLR ? (double)b[i] * along : 0.0);
                y += state[i] * (double)q[i];
            }
            out[h * s->m + j] = y;
        }
    }
}
static void soak_outer(int64_t rows, rule kind, double low, double high, const char *what, double limit)
{
    enum { H = 2, N = 32 };
    static const char *const names[] = { "outer product", "outer product, vector", "delta rule",
        "RWKV-7 (dplr)" };
    const int vector = kind == RULE_VECTOR || kind == RULE_DPLR;
    soak s;
    begin(&s, sqm_mixer_linear_attention(), H * N * 3 + (vector ? H * N : H) + (kind == RULE_DELTA ? H : 0) +
                                            (kind == RULE_DPLR ? 2 * H * N : 0));
    s.heads = H;
    s.n = s.m = N;
    s.low = low;
    s.high = high;
    s.lti.states = (int32_t)kind;
    s.state = (double *)grab(H * N * N * sizeof(double));
    number(&s, "heads", H);
    number(&s, "key_dim", N);
    word(&s, "decay", vector ? "vector" : "scalar");
    word(&s, "update", kind == RULE_DELTA ? "delta" : kind == RULE_DPLR ? "dplr" : "add");
    if (kind == RULE_DELTA) number(&s, "gate", 1);
    s.fill = outer_fill;
    s.step = outer_step;
    report(&s, names[kind], what, rows, limit);
}

/* ---- running softmax (RWKV-4, Aaren) ------------------------------------------------------------------- */
static void running_fill(const soak *s, float *row)
{
    fill_uniform(s, row);
    for (int32_t h = 0; h < s->heads; h++) row[h] *= 4.0f;
}
static void running_step(const soak *s, const float *row, double *out, int64_t t)
{
    for (int32_t h = 0; h < s->heads; h++) {
        double *m = s->state + h * 3, before = t ? m[0] + s->wide[h] : -1e300, top;
        top = before > (double)row[h] ? before : (double)row[h];
        m[1] = m[1] * exp(before - top) + exp((double)row[h] - top);
        m[2] = m[2] * exp(before - top) + exp((double)row[h] - top) * (double)row[s->heads + h];
        m[0] = top;
        out[h] = m[2] / m[1];
    }
}
static void soak_running(int64_t rows, double low, double high, const char *what, double limit)
{
    enum { H = 64 };
    double decay[H];
    soak s;
    begin(&s, sqm_mixer_running_softmax(), 2 * H);
    s.heads = H;
    s.low = low;
    s.high = high;
    for (int i = 0; i < H; i++) decay[i] = high > 0.0 ? (double)-rate(&s) : 0.0;
    s.wide = decay;
    s.state = (double *)grab(H * 3 * sizeof(double));
    number(&s, "heads", H);
    tensor(&s, "decay", decay, H, 0);
    s.fill = running_fill;
    s.step = running_step;
    report(&s, "running softmax", what, rows, limit);
}

int main(int argc, char **argv)
{
    const int64_t rows = argc > 1 ? strtol(argv[1], NULL, 10) : 4096;
    if (rows < 1 || rows > 1 << 30) { printf("usage: test_soak [ROWS]\n"); return 2; }
    seed = 7;
    printf("| %-24s | %-40s | %7s | %8s | %8s "
      "|\n|---|---|---|---|---|\n", "recurrence", "rates", "rows", "error",
           "limit");
    soak_scan(rows, 1e-3, 1.6, "dt |A| 1e-3 .. 1.6", 3.4e-6);
    soak_scan(rows, 1e-5, 1e-4, "dt |A| 1e-5 .. 1e-4", 2.0e-5);
    soak_scan(rows, 1e-7, 1e-6, "dt |A| 1e-7 .. 1e-6", 4.4e-5);
    soak_rglru(rows, 1e-2, 8.0, "log a -0.01 .. -8", 3.4e-6);
    soak_rglru(rows, 1e-5, 1e-4, "log a -1e-5 .. -1e-4", 2.0e-5);
    soak_ssd(rows, 1.0, 1e-3, 1.6, "dt |A| 1e-3 .. 1.6", 1e-5);
    soak_ssd(rows, 16.0, 1e-3, 1.0, "dt |A| 0.01 .. 16", 1e-5);
    soak_ssd(rows, 1.0, 1e-5, 1e-4, "dt |A| 1e-5 .. 1e-4", 5.4e-5);
    soak_diagonal(rows, 1e2, 0, "S4D-Lin, memory of 100 steps", 1e-5);
    soak_diagonal(rows, 1e3, 0, "S4D-Lin, memory of 1,000 steps", 6e-5);
    soak_diagonal(rows, 1e4, 0, "S4D-Lin, memory of 10,000 steps", 6e-4);
    soak_diagonal(rows, 1e5, 0, "S4D-Lin, memory of 100,000 steps", 4e-3);
    soak_diagonal(rows, 1e3, 1, "any frequency, memory of 1,000 steps", 1e-6);
    soak_diagonal(rows, 1e5, 1, "any frequency, memory of 100,000 steps", 1e-6);
    soak_lru(rows, 1e2, "memory of 100 steps", 1e-5);
    soak_lru(rows, 1e4, "memory of 10,000 steps", 1e-6);
    soak_s4(rows, 1e-2, "HiPPO-LegS, 64 states, dt 0.01", 1.3e-5);
    soak_s4(rows, 1e-3, "HiPPO-LegS, 64 states, dt 0.001", 1.3e-5);
    soak_lmu(rows, 6, 100.0, "order 6, theta 100", 7e-6);
    soak_lmu(rows, 64, 1000.0, "order 64, theta 1,000", 1e-5);
    soak_lmu(rows < 20000 ? rows : 20000, 256, 784.0, "order 256, theta 784", 1.3e-5);
    soak_outer(rows, RULE_ADD, 1e-3, 1.0, "decays e^-0.001 .. e^-1", 1e-5);
    soak_outer(rows, RULE_VECTOR, 1e-3, 0.1, "decays e^-0.001 .. e^-0.1", 1e-5);
    soak_outer(rows, RULE_DELTA, 1e-3, 1.0, "decays e^-0.001 .. e^-1", 1e-5);
    soak_outer(rows, RULE_DPLR, 1e-3, 0.6065, "decays e^-0.001 .. e^-0.61", 1e-5);
    soak_running(rows, 1e-3, 1.0, "decays e^-0.001 .. e^-1", 3e-5);
    soak_running(rows, 0.0, 0.0, "no decay (Aaren)", 3e-5);
    return check_report("test_soak");
}
