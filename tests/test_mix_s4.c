/* test_mix_s4.c - linear state spaces, dense recurrences, long convolutions, Legendre memory, windows, pools
   and spiking neurons against naive double versions; cuts, batches, threads, states that move and instruction
   sets give the same bits; wrong parameters are refused with a message. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "check.h"
#include <math.h>
#include <stdlib.h>

static uint32_t seed = 4711;
static uint32_t draw(uint32_t n) { seed = seed * 1664525u + 1013904223u; return (seed >> 8) % n; }
static float uniform(void) { return (float)draw(65536) / 32768.0f - 1.0f; }
static float *fill(size_t n, float low, float high)
{
    float *v = (float *)malloc((n + 1) * sizeof(float));
    for (size_t i = 0; i < n; i++) v[i] = low + (high - low) * (uniform() + 1.0f) / 2.0f;
    return v;
}

/* ---- a bound mixer with parameters that live as long as it --------------------------------------------- */
enum { MAX_PARAMS = 12 };
typedef struct unit {
    const sqm_mixer  *mixer;
    sqm_param         params[MAX_PARAMS];
    sqm_tensor        tensors[MAX_PARAMS];
    const sqm_tensor *lists[MAX_PARAMS];
    float            *owned[MAX_PARAMS], *plain[MAX_PARAMS];
    int32_t           n_params, in_width, out_width, rows;
    uint8_t           bound[256];
    float            *in;
} unit;

static sqm_param *unit_param(unit *u, const char *key)
{
    sqm_param *p = &u->params[u->n_params++];
    memset(p, 0, sizeof(*p));
    p->key = key;
    return p;
}
static void unit_number(unit *u, const char *key, double number) { unit_param(u, key)->number = number; }
static void unit_text(unit *u, const char *key, const char *text) { unit_param(u, key)->text = text; }
/* values [rows, cols] (cols 0: a vector), which the unit owns from now on */
static const float *unit_tensor(unit *u, const char *key, float *values, int32_t rows, int32_t cols)
{
    const int32_t i = u->n_params;
    sqm_param *p = unit_param(u, key);
    u->tensors[i] = cols ? sqm_tensor_2d(values, SQM_F32, SQM_ROWS, rows, cols)
                         : sqm_tensor_1d(values, SQM_F32, rows);
    u->lists[i] = &u->tensors[i];
    u->owned[i] = values;
    p->tensors = &u->lists[i];
    p->n_tensors = 1;
    return values;
}
/* The same, packed into panels; returns the values as they were, also owned */
static const float *unit_panels(unit *u, const char *key, float *values, int32_t rows, int32_t cols)
{
    const int32_t i = u->n_params, shape[2] = { rows, cols };
    const size_t bytes = sqm_tensor_bytes(SQM_F32, SQM_PANELS, 2, shape);
    float *packed = (float *)malloc(bytes);
    CHECK(sqm_pack(packed, bytes, SQM_F32, values, rows, cols, NULL, NULL) == SQM_OK);
    unit_tensor(u, key, packed, rows, cols);
    u->tensors[i].layout = SQM_PANELS;
    u->plain[i] = values;
    return values;
}
static void unit_open(unit *u, const sqm_mixer *mixer, int32_t rows, int32_t in_width)
{
    memset(u, 0, sizeof(*u));
    u->mixer = mixer;
    u->rows = rows;
    u->in_width = in_width;
    u->in = fill((size_t)rows * (size_t)in_width, -1.0f, 1.0f);
    CHECK(mixer->bound_bytes <= sizeof(u->bound));
}
static void unit_bind(unit *u)
{
    sqm_error err;
    memset(&err, 0, sizeof(err));
    CHECK(u->mixer->bind(u->bound, u->params, u->n_params, u->in_width, &u->out_width, &err) == SQM_OK);
    if (err.code) printf("    %s: %s\n", u->mixer->name, err.text);
}
static void unit_close(unit *u)
{
    for (int i = 0; i < MAX_PARAMS; i++) { free(u->owned[i]); free(u->plain[i]); }
    free(u->in);
}

/* ---- one result everywhere ----------------------------------------------------------------------------- */
static sqm_result feed(const unit *u, sqm_exec *x, float *out, void *state, int32_t at, int32_t rows)
{
    sqm_span span;
    span.state = state;
    span.first_row = 0;
    span.rows = rows;
    span.position = at;
    span.total = u->rows;
    return u->mixer->forward(u->bound, x, out + (size_t)at * (size_t)u->out_width,
                             u->in + (size_t)at * (size_t)u->in_width, &span, 1);
}
static void *new_state(const unit *u)
{
    const size_t bytes = u->mixer->state_bytes(u->bound, u->rows, u->rows, SQM_F32);
    void *state = malloc(bytes + 64);
    memset(state, 0xff, bytes + 64);    /* reset must not count on zeros */
    u->mixer->reset(u->bound, state, bytes, u->rows, u->rows, SQM_F32);
    CHECK(u->mixer->used_bytes(u->bound, state, 0) >= u->mixer->header_bytes);
    CHECK(u->mixer->used_bytes(u->bound, state, u->rows) <= bytes);
    CHECK(((uint8_t *)state)[bytes] == 0xff && ((uint8_t *)state)[bytes + 63] == 0xff);
    return state;
}
static void run_backwards(void *user, sqm_task fn, void *arg, int32_t n)
{
    ++*(int32_t *)user;
    for (int32_t i = n - 1; i >= 0; i--) fn(arg, i);
}

/* Pieces of at most `most` rows; between them the state moves to another place, as fork and load do. */
static void check_pieces(const unit *u, sqm_exec *x, const float *want, int32_t most)
{
    const size_t n = (size_t)u->rows * (size_t)u->out_width;
    float *got = (float *)malloc(n * sizeof(float) + 1);
    void *state = new_state(u);
    for (int32_t t = 0, rows; t < u->rows; t += rows) {
        rows = 1 + (int32_t)draw((uint32_t)most);
        if (rows > u->rows - t) rows = u->rows - t;
        CHECK(feed(u, x, got, state, t, rows) == SQM_OK);
        if (draw(4) == 0) {
            void *other = new_state(u);
            memcpy((uint8_t *)other + u->mixer->header_bytes, (uint8_t *)state + u->mixer->header_bytes,
                   u->mixer->used_bytes(u->bound, state, t + rows) - u->mixer->header_bytes);
            free(state);
            state = other;
        }
    }
    CHECK(memcmp(got, want, n * sizeof(float)) == 0);
    free(state);
    free(got);
}

/* The unit's rows as three sequences of different pasts in one call, one of them without state */
static void check_spans(const unit *u, sqm_exec *x)
{
    enum { N = 3 };
    const int32_t third = u->rows / 3, past[N] = { 0, third, 0 };
    const int32_t rows[N] = { third, u->rows - third, u->rows / 2 };
    const size_t in_row = (size_t)u->in_width * sizeof(float), out_row = (size_t)u->out_width * sizeof(float);
    float *in = (float *)malloc(3 * (size_t)u->rows * in_row);
    float *out = (float *)malloc(3 * (size_t)u->rows * out_row);
    float *alone = (float *)malloc((size_t)u->rows * out_row);
    sqm_span spans[N];
    int32_t first = 0;
    if (third == 0) { free(in); free(out); free(alone); return; }
    for (int i = 0; i < N; i++) {
        spans[i].state = i == 2 ? NULL : new_state(u);
        spans[i].first_row = first;
        spans[i].rows = rows[i];
        spans[i].position = past[i];
        spans[i].total = past[i] + rows[i];
        if (past[i]) CHECK(feed(u, x, alone, spans[i].state, 0, past[i]) == SQM_OK);
        memcpy(in + (size_t)first * (size_t)u->in_width, u->in + (size_t)past[i] * (size_t)u->in_width,
               (size_t)rows[i] * in_row);
        first += rows[i];
    }
    CHECK(feed(u, x, alone, NULL, 0, u->rows) == SQM_OK);
    CHECK(u->mixer->forward(u->bound, x, out, in, spans, N) == SQM_OK);
    for (int i = 0; i < N; i++) {
        CHECK(memcmp(out + (size_t)spans[i].first_row * (size_t)u->out_width,
                     alone + (size_t)past[i] * (size_t)u->out_width, (size_t)rows[i] * out_row) == 0);
        free(spans[i].state);
    }
    free(in); free(out); free(alone);
}

static void check_scratch(const unit *u, void *memory, const float *want)
{
    const size_t n = (size_t)u->rows * (size_t)u->out_width;
    uint8_t *aligned = (uint8_t *)memory + (64 - (uintptr_t)memory % 64) % 64;
    float *got = (float *)malloc(n * sizeof(float));
    sqm_exec x;
    size_t need;
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, NULL, 0) == SQM_OK);
    need = u->mixer->scratch_bytes(u->bound, u->rows, u->rows, 1) +
           u->mixer->state_bytes(u->bound, u->rows, u->rows, SQM_F32);
    if (need == 0) { free(got); return; }
    CHECK(feed(u, &x, got, NULL, 0, u->rows) == SQM_E_MEMORY && strstr(x.error.text, u->mixer->name));
    need = (size_t)x.error.value;
    CHECK(need >= u->mixer->scratch_bytes(u->bound, u->rows, u->rows, 1));
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, aligned, need - 1) == SQM_OK);
    CHECK(feed(u, &x, got, NULL, 0, u->rows) == SQM_E_MEMORY && x.error.value == need);
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, aligned, need) == SQM_OK);
    CHECK(feed(u, &x, got, NULL, 3, 1) == SQM_E_ARGUMENT && strstr(x.error.text, "position 0, not 3"));
    CHECK(feed(u, &x, got, NULL, 0, u->rows) == SQM_OK && memcmp(got, want, n * sizeof(float)) == 0);
    free(got);
}

/* Everything about one unit; reference [rows, out_width], tolerance relative to its largest value. */
static void check_unit(const unit *u, const double *reference, double tolerance)
{
    static const sqm_isa isas[] = { SQM_ISA_SCALAR, SQM_ISA_AVX2, SQM_ISA_AVX512, SQM_ISA_NEON };
    const size_t n = (size_t)u->rows * (size_t)u->out_width;
    const size_t bytes = u->mixer->scratch_bytes(u->bound, u->rows, u->rows, 5) + 256 +
                         u->mixer->state_bytes(u->bound, u->rows, u->rows, SQM_F32);
    void *memory = malloc(bytes);
    float *want = (float *)malloc(n * sizeof(float));
    double largest = 0.0, worst = 0.0;
    sqm_parallel pool;
    int32_t calls = 0;
    sqm_exec x;
    CHECK(sqm_exec_init(&x, SQM_ISA_SCALAR, 1, memory, bytes) == SQM_OK);
    CHECK(feed(u, &x, want, NULL, 0, u->rows) == SQM_OK);
    for (size_t i = 0; i < n; i++) {
        const double gap = fabs((double)want[i] - reference[i]);
        if (!(gap <= worst)) worst = gap;
        if (fabs(reference[i]) > largest) largest = fabs(reference[i]);
    }
    CHECK(worst <= tolerance * largest);
    if (!(worst <= tolerance * largest))
        printf("    %s: error %.3g of %.3g, %d rows\n", u->mixer->name, worst, largest, (int)u->rows);
    for (int i = 0; i < 4; i++) {
        if (!sqm_cpu_has(isas[i])) continue;
        CHECK(sqm_exec_init(&x, isas[i], 1, memory, bytes) == SQM_OK);
        check_pieces(u, &x, want, 1);
        check_pieces(u, &x, want, 13);
        check_pieces(u, &x, want, u->rows);
    }
    check_spans(u, &x);
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 5, memory, bytes) == SQM_OK);
    check_pieces(u, &x, want, u->rows);         /* OpenMP where it is compiled in */
    pool.run = run_backwards;
    pool.user = &calls;
    pool.threads = 5;
    x.parallel = &pool;
    check_pieces(u, &x, want, u->rows);
    check_spans(u, &x);
    check_scratch(u, memory, want);
    free(memory);
    free(want);
}

/* ---- lti ----------------------------------------------------------------------------------------------- */
/* kind 0: diagonal; 1: with d; 2: rank one and d; 3: in double; 4: without c; 5: without c, in double */
static void test_lti(int32_t channels, int32_t states, int32_t rows, int kind)
{
    const int direct = kind >= 4, wide = kind == 3 || kind == 5;
    const int32_t width = direct ? 2 * channels : channels;
    const size_t size = 2 * (size_t)states * (size_t)channels;
    const float *da, *low = NULL, *c = NULL, *d = NULL, *b = NULL, *p = NULL, *q = NULL;
    float *values = (float *)malloc(size * sizeof(float));
    double *x = (double *)calloc(size, sizeof(double)), *reference;
    unit u;
    unit_open(&u, sqm_mixer_lti(), rows, width);
    for (int32_t n = 0; n < states; n++)
        for (int32_t h = 0; h < channels; h++) {        /* |a| up to 0.999, any angle */
            const double r = kind == 2 ? 0.5 : 0.999 - 0.3 * (double)draw(1000) / 1000.0;
            const double angle = 3.0 * (double)uniform();
            values[2 * (h * states + n)] = (float)(r * cos(angle) - 1.0);
            values[2 * (h * states + n) + 1] = (float)(r * sin(angle));
        }
    da = unit_panels(&u, "da", values, channels, 2 * states);
    if (wide) low = unit_panels(&u, "da_low", fill(size, -3e-8f, 3e-8f), channels, 2 * states);
    if (!direct) c = unit_panels(&u, "c", fill(size, -1.0f, 1.0f), channels, 2 * states);
    if (kind == 1 || kind == 2) d = unit_tensor(&u, "d", fill((size_t)channels, -1.0f, 1.0f), channels, 0);
    if (kind == 2) {
        const float reach = 0.6f / (float)states;
        b = unit_panels(&u, "b", fill(size, -1.0f, 1.0f), channels, 2 * states);
        p = unit_panels(&u, "p", fill(size, -1.0f, 1.0f), channels, 2 * states);
        q = unit_panels(&u, "q", fill(size, -reach, reach), channels, 2 * states);
    }
    unit_bind(&u);
    CHECK(u.out_width == width);
    reference = (double *)calloc((size_t)rows * (size_t)width, sizeof(double));
    for (int32_t t = 0; t < rows; t++)
        for (int32_t h = 0; h < channels; h++) {
            const float *in = u.in + (size_t)t * (size_t)width + h;
            double *y = reference + (size_t)t * (size_t)width + h, along = 0.0;
            for (int32_t n = 0; q && n < 2 * states; n++)
                along += (double)q[2 * h * states + n] * x[2 * h * states + n];
            if (d) *y = (double)d[h] * (double)*in;
            for (int32_t n = 0; n < states; n++) {
                const int32_t re = 2 * (h * states + n), im = re + 1;
                const double ar = 1.0 + (double)da[re] + (low ? (double)low[re] : 0.0);
                const double ai = (double)da[im] + (low ? (double)low[im] : 0.0);
                const double r = ar * x[re] - ai * x[im], i = ai * x[re] + ar * x[im];
                x[re] = r + (p ? (double)b[re] * (double)*in + (double)p[re] * along : (double)*in);
                x[im] = i + (p ? (double)b[im] * (double)*in + (double)p[im] * along
                               : direct ? (double)in[channels] : 0.0);
                if (c) *y += (double)c[re] * x[re] + (double)c[im] * x[im];
                if (direct) { y[0] = x[re]; y[channels] = x[im]; }
            }
        }
    check_unit(&u, reference, kind == 3 || kind == 5 ? 2e-7 : 1e-5);
    free(x); free(reference);
    unit_close(&u);
}

/* A memory of 20,000 steps: single precision loses it, da_low does not. */
static void test_lti_long_memory(void)
{
    enum { ROWS = 40000 };
    const double decay = exp(-1.0 / 20000.0), re = decay * cos(2.0) - 1.0, im = decay * sin(2.0);
    double error[2], xr, xi;
    for (int wide = 0; wide < 2; wide++) {
        float *out = (float *)malloc(ROWS * sizeof(float));
        float *da = fill(2, 0, 0), *c = fill(2, 1, 1), *low = fill(2, 0, 0);
        void *state;
        double largest = 0.0;
        sqm_exec x;
        unit u;
        unit_open(&u, sqm_mixer_lti(), ROWS, 1);
        da[0] = (float)re;
        da[1] = (float)im;
        low[0] = (float)(re - (double)da[0]);
        low[1] = (float)(im - (double)da[1]);
        c[0] = 1.0f;
        c[1] = 0.0f;
        unit_panels(&u, "da", da, 1, 2);
        unit_panels(&u, "c", c, 1, 2);
        if (wide) unit_panels(&u, "da_low", low, 1, 2);
        else free(low);
        unit_bind(&u);
        state = new_state(&u);
        CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, NULL, 0) == SQM_OK);
        CHECK(feed(&u, &x, out, state, 0, ROWS) == SQM_OK);
        error[wide] = xr = xi = 0.0;
        for (int32_t t = 0; t < ROWS; t++) {
            const double r = (re + 1.0) * xr - im * xi + (double)u.in[t];
            xi = im * xr + (re + 1.0) * xi;
            xr = r;
            if (fabs(xr) > largest) largest = fabs(xr);
            if (fabs((double)out[t] - xr) > error[wide]) error[wide] = fabs((double)out[t] - xr);
        }
        error[wide] /= largest;
        free(state); free(out);
        unit_close(&u);
    }
    CHECK(error[0] > 1e-5 && error[0] < 1e-2 && error[1] < 2e-7);
}

/* ---- rnn ----------------------------------------------------------------------------------------------- */
static void test_rnn(int32_t states, int32_t copies, int32_t rows, int tanh_from)
{
    const int32_t width = states * copies, residual = tanh_from >= 0 && states % 2;
    const float size = 1.5f / (float)states, *w;
    double *reference = (double *)calloc((size_t)rows * (size_t)width, sizeof(double));
    unit u;
    unit_open(&u, sqm_mixer_rnn(), rows, width);
    w = unit_panels(&u, "w", fill((size_t)states * (size_t)states, -size, size), states, states);
    if (copies > 1) unit_number(&u, "copies", copies);
    if (tanh_from >= 0) { unit_text(&u, "act", "tanh"); unit_number(&u, "first", tanh_from); }
    if (residual) unit_number(&u, "residual", 1);
    unit_bind(&u);
    for (int32_t t = 0; t < rows; t++)
        for (int32_t i = 0; i < width; i++) {
            const double *old = reference + (size_t)(t - 1) * (size_t)width + i / states * states;
            double sum = (double)u.in[t * width + i];
            for (int32_t k = 0; t > 0 && k < states; k++) sum += (double)w[i % states * states + k] * old[k];
            if (residual && t > 0) sum += old[i % states];
            reference[t * width + i] = tanh_from >= 0 && i % states >= tanh_from ? tanh(sum) : sum;
        }
    check_unit(&u, reference, 3e-6);
    free(reference);
    unit_close(&u);
}

/* ---- long_conv ----------------------------------------------------------------------------------------- */
static void test_long_conv(int32_t channels, int32_t taps, int32_t rows, int32_t segment)
{
    double *reference = (double *)calloc((size_t)rows * (size_t)channels, sizeof(double));
    const float *w;
    unit u;
    unit_open(&u, sqm_mixer_long_conv(), rows, channels);
    w = unit_tensor(&u, "w", fill((size_t)taps * (size_t)channels, -1.0f, 1.0f), taps, channels);
    if (segment) unit_number(&u, "segment", segment);
    unit_bind(&u);
    for (int32_t t = 0; t < rows; t++)
        for (int32_t c = 0; c < channels; c++)
            for (int32_t l = 0; l < taps && l <= (segment ? t % segment : t); l++)
                reference[t * channels + c] += (double)w[l * channels + c] *
                                               (double)u.in[(t - l) * channels + c];
    check_unit(&u, reference, 1e-6);
    free(reference);
    unit_close(&u);
}

/* A stream much longer than the taps keeps a state of constant size; a longer max_context changes no bit. */
static void test_long_conv_contexts(void)
{
    enum { ROWS = 700, TAPS = 300 };
    float *first = (float *)malloc(ROWS * 3 * sizeof(float));
    float *other = (float *)malloc(ROWS * 3 * sizeof(float));
    static const int32_t contexts[] = { ROWS, 256, 301, 1 << 20 };
    size_t bytes;
    unit u;
    unit_open(&u, sqm_mixer_long_conv(), ROWS, 3);
    unit_tensor(&u, "w", fill(TAPS * 3, -1.0f, 1.0f), TAPS, 3);
    unit_bind(&u);
    bytes = u.mixer->state_bytes(u.bound, 1 << 20, 64, SQM_F32);
    CHECK(bytes == u.mixer->state_bytes(u.bound, 1 << 30, 64, SQM_F32) && bytes < 100000);
    for (int i = 0; i < 4; i++) {
        const size_t scratch_bytes = u.mixer->scratch_bytes(u.bound, contexts[i], 64, 1) + 64;
        void *state = malloc(u.mixer->state_bytes(u.bound, contexts[i], 64, SQM_F32));
        void *scratch = malloc(scratch_bytes);
        const int32_t rows = contexts[i] < ROWS ? contexts[i] : ROWS;
        sqm_exec x;
        CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, scratch, scratch_bytes) == SQM_OK);
        u.mixer->reset(u.bound, state, 0, contexts[i], 64, SQM_F32);
        for (int32_t t = 0; t < rows; t += 50)
            CHECK(feed(&u, &x, i ? other : first, state, t, rows - t < 50 ? rows - t : 50) == SQM_OK);
        if (i) CHECK(memcmp(first, other, (size_t)rows * 3 * sizeof(float)) == 0);
        free(state); free(scratch);
    }
    free(first); free(other);
    unit_close(&u);
}

/* ---- legs ---------------------------------------------------------------------------------------------- */
static void legs_apply(double *y, const double *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        y[i] = -(double)(i + 1) * x[i];
        for (int32_t k = 0; k < i; k++) y[i] -= sqrt((2.0 * i + 1.0) * (2.0 * k + 1.0)) * x[k];
    }
}
/* One step in double; the exact one as 4096 small bilinear ones. */
static void legs_step(double *x, double u, int32_t n, double implicit, double step)
{
    double y[64], sum = 0.0;
    legs_apply(y, x, n);
    for (int32_t i = 0; i < n; i++) {
        const double root = sqrt(2.0 * i + 1.0);
        x[i] += (1.0 - implicit) * step * y[i] + step * root * u - implicit * step * root * sum;
        x[i] /= 1.0 + implicit * step * (double)(i + 1);
        sum += root * x[i];
    }
}
static void test_legs(int32_t signals, int32_t order, int32_t rows, const char *step, double implicit)
{
    double *reference = (double *)calloc((size_t)rows * (size_t)(signals * order), sizeof(double));
    unit u;
    unit_open(&u, sqm_mixer_legs(), rows, signals);
    unit_number(&u, "order", order);
    if (step) unit_text(&u, "step", step);
    unit_bind(&u);
    CHECK(u.out_width == signals * order);
    for (int32_t s = 0; s < signals; s++) {
        double x[64] = { 0.0 };
        for (int32_t t = 0; t < rows; t++) {
            const double v = (double)u.in[t * signals + s], k = (double)(t + 1);
            if (implicit >= 0.0) legs_step(x, v, order, implicit, 1.0 / k);
            else for (int i = 0; i < 4096; i++) legs_step(x, v, order, 0.5, log((k + 1.0) / k) / 4096.0);
            for (int32_t n = 0; n < order; n++) reference[(t * order + n) * signals + s] = x[n];
        }
    }
    check_unit(&u, reference, 1e-5);
    free(reference);
    unit_close(&u);
}

/* ---- window, pool, spike ------------------------------------------------------------------------------- */
static void test_window(int32_t width, int32_t size, int32_t dilation, int32_t rows)
{
    double *reference = (double *)calloc((size_t)rows * (size_t)(width * size), sizeof(double));
    unit u;
    unit_open(&u, sqm_mixer_window(), rows, width);
    unit_number(&u, "size", size);
    if (dilation > 1) unit_number(&u, "dilation", dilation);
    unit_bind(&u);
    for (int32_t t = 0; t < rows; t++)
        for (int32_t k = 0; k < size; k++)
            for (int32_t i = 0; i < width; i++) {
                const int32_t from = t - (size - 1 - k) * dilation;
                reference[(t * size + k) * width + i] = from < 0 ? 0.0 : (double)u.in[from * width + i];
            }
    check_unit(&u, reference, 0.0);
    free(reference);
    unit_close(&u);
}

/* Sequences of two lengths in one call; the picture of 5 x 3 and back. */
static void test_reorder(void)
{
    static const char *const orders[] = { "backward", "down", "up", "down" };
    static const int32_t columns[] = { 0, 3, 3, 5 };
    static const int32_t want[4][15] = { { 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0 },
                                         { 0, 3, 6, 9, 12, 1, 4, 7, 10, 13, 2, 5, 8, 11, 14 },
                                         { 14, 11, 8, 5, 2, 13, 10, 7, 4, 1, 12, 9, 6, 3, 0 } };
    float out[19 * 2], back[19 * 2];
    for (int i = 0; i < 4; i++) {
        sqm_span spans[2];
        sqm_exec x;
        unit u;
        unit_open(&u, sqm_mixer_reorder(), 19, 2);
        unit_text(&u, "order", orders[i]);
        if (columns[i]) unit_number(&u, "columns", columns[i]);
        unit_bind(&u);
        memset(spans, 0, sizeof(spans));
        spans[0].first_row = 4;
        spans[0].rows = 15;
        spans[1].rows = 4;
        CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, NULL, 0) == SQM_OK);
        CHECK(u.mixer->state_bytes(u.bound, 100, 100, SQM_F32) == 0);
        if (i == 3) {                   /* undoes what case 1 did */
            for (int t = 0; t < 15; t++) memcpy(back + 2 * t, u.in + 2 * (4 + want[1][t]), 2 * sizeof(float));
            spans[0].first_row = 0;
            CHECK(u.mixer->forward(u.bound, &x, out, back, spans, 1) == SQM_OK);
            CHECK(memcmp(out, u.in + 2 * 4, 30 * sizeof(float)) == 0);
        } else {
            CHECK(u.mixer->forward(u.bound, &x, out, u.in, spans, 2) == SQM_OK);
            for (int t = 0; t < 15; t++)
                CHECK(memcmp(out + 2 * (4 + t), u.in + 2 * (4 + want[i][t]), 2 * sizeof(float)) == 0);
            if (i == 0) CHECK(memcmp(out, u.in + 2 * 3, 2 * sizeof(float)) == 0);
        }
        unit_close(&u);
    }
}

static void test_pool(int32_t width, int32_t rows, const char *kind, int weighted)
{
    const int32_t in_width = width + weighted;
    double *reference = (double *)calloc((size_t)rows * (size_t)width, sizeof(double)), weights = 0.0;
    unit u;
    unit_open(&u, sqm_mixer_running_pool(), rows, in_width);
    unit_text(&u, "kind", kind);
    unit_number(&u, "weighted", weighted);
    unit_bind(&u);
    for (int32_t t = 0; weighted && t < rows; t++)
        u.in[t * in_width + width] = t < 3 || draw(3) == 0 ? 0.0f : 0.25f * (float)draw(8);
    for (int32_t t = 0; t < rows; t++) {
        weights += weighted ? (double)u.in[t * in_width + width] : 1.0;
        for (int32_t i = 0; i < width; i++) {
            double sum = 0.0, largest = -2.0;
            for (int32_t s = 0; s <= t; s++) {
                const double w = weighted ? (double)u.in[s * in_width + width] : 1.0;
                const double v = (double)u.in[s * in_width + i];
                sum += w * v;
                if (w > 0.0 && v > largest) largest = v;
            }
            reference[t * width + i] = weights == 0.0 ? 0.0 : kind[1] == 'e' ? sum / weights
                                     : kind[1] == 'u' ? sum : largest;
        }
    }
    check_unit(&u, reference, 1e-6);
    free(reference);
    unit_close(&u);
}

static void test_spike(int32_t width, int32_t rows, double tau, int added, int soft)
{
    double *reference = (double *)calloc((size_t)rows * (size_t)width, sizeof(double)), fired = 0.0;
    unit u;
    unit_open(&u, sqm_mixer_spike(), rows, width);
    unit_number(&u, "tau", tau);
    unit_number(&u, "threshold", 0.5);
    if (added) unit_text(&u, "input", "added");
    if (soft) unit_text(&u, "reset", "soft");
    else unit_number(&u, "rest", -0.125);
    unit_bind(&u);
    for (int32_t i = 0; i < width; i++) {
        double v = 0.0, rest = soft ? 0.0 : -0.125;
        for (int32_t t = 0; t < rows; t++) {
            const double input = 2.0 * (double)draw(1024) / 1024.0 - 0.5;
            double next = added ? v - (v - rest) / tau + input : v + (input - (v - rest)) / tau;
            const double away = fabs(next - 0.5) < 1e-3 ? 0.25 : 0.0;      /* no rounding may decide */
            next += away * (added ? 1.0 : 1.0 / tau);
            u.in[t * width + i] = (float)(input + away);
            reference[t * width + i] = next >= 0.5;
            v = next < 0.5 ? next : soft ? next - 0.5 : rest;
            fired += reference[t * width + i];
        }
    }
    CHECK(fired > 0.05 * rows * width && fired < 0.9 * rows * width);
    check_unit(&u, reference, 0.0);
    free(reference);
    unit_close(&u);
}

/* ---- wrong parameters ---------------------------------------------------------------------------------- */
static void refused(unit *u, const char *text, int line)
{
    sqm_error err;
    sqm_result got;
    memset(&err, 0, sizeof(err));
    got = u->mixer->bind(u->bound, u->params, u->n_params, u->in_width, &u->out_width, &err);
    if (got >= 0 || !strstr(err.text, text))
        printf("line %d: %s \"%s\", expected \"%s\"\n", line, sqm_result_name(got), err.text, text);
    CHECK(got < 0 && err.code == got && strstr(err.text, text));
    unit_close(u);
}
#define REFUSED(u, text) refused(u, text, __LINE__)

static void test_lti_refusals(void)
{
    unit u;
    unit_open(&u, sqm_mixer_lti(), 1, 4);
    REFUSED(&u, "da=");
    unit_open(&u, sqm_mixer_lti(), 1, 4);
    unit_panels(&u, "da", fill(12, 0, 0), 4, 3);
    REFUSED(&u, "da has 3 columns");
    unit_open(&u, sqm_mixer_lti(), 1, 4);
    unit_tensor(&u, "da", fill(8, 0, 0), 4, 2);
    REFUSED(&u, "in panels");
    unit_open(&u, sqm_mixer_lti(), 1, 4);
    unit_panels(&u, "da", fill(8, 0, 0), 4, 2);
    REFUSED(&u, "reads rows of 8, not 4");
    unit_open(&u, sqm_mixer_lti(), 1, 4);
    unit_panels(&u, "da", fill(8, 0, 0), 4, 2);
    unit_panels(&u, "c", fill(16, 0, 0), 4, 4);
    REFUSED(&u, "c is [4, 4], da is [4, 2]");
    unit_open(&u, sqm_mixer_lti(), 1, 8);
    unit_panels(&u, "da", fill(16, 0, 0), 4, 4);
    REFUSED(&u, "one state a channel, not 2");
    unit_open(&u, sqm_mixer_lti(), 1, 4);
    unit_panels(&u, "da", fill(8, 0, 0), 4, 2);
    unit_panels(&u, "c", fill(8, 0, 0), 4, 2);
    unit_panels(&u, "p", fill(8, 0, 0), 4, 2);
    REFUSED(&u, "b, p and q go together");
    unit_open(&u, sqm_mixer_lti(), 1, 5);
    unit_panels(&u, "da", fill(8, 0, 0), 4, 2);
    unit_panels(&u, "c", fill(8, 0, 0), 4, 2);
    REFUSED(&u, "reads rows of 4, not 5");
    unit_open(&u, sqm_mixer_lti(), 1, 4);
    unit_panels(&u, "da", fill(8, 0, 0), 4, 2);
    unit_panels(&u, "c", fill(8, 0, 0), 4, 2);
    unit_tensor(&u, "d", fill(3, 0, 0), 3, 0);
    REFUSED(&u, "d must be 4 float32 values, has 3");
}

static void test_refusals(void)
{
    unit u;
    test_lti_refusals();
    unit_open(&u, sqm_mixer_rnn(), 1, 4);
    REFUSED(&u, "one matrix in w=");
    unit_open(&u, sqm_mixer_rnn(), 1, 4);
    unit_tensor(&u, "w", fill(16, 0, 0), 4, 4);
    REFUSED(&u, "in panels");
    unit_open(&u, sqm_mixer_rnn(), 1, 9);
    unit_panels(&u, "w", fill(16, 0, 0), 4, 4);
    unit_number(&u, "copies", 2);
    REFUSED(&u, "w [4, 4] and 2 copies do not fit rows of 9");
    unit_open(&u, sqm_mixer_long_conv(), 1, 4);
    REFUSED(&u, "taps in w=");
    unit_open(&u, sqm_mixer_long_conv(), 1, 4);
    unit_tensor(&u, "w", fill(15, 0, 0), 3, 5);
    REFUSED(&u, "of 5 channels reads rows of 4");
    unit_open(&u, sqm_mixer_legs(), 1, 4);
    REFUSED(&u, "order = 0");
    unit_open(&u, sqm_mixer_legs(), 1, 4);
    unit_number(&u, "order", 4);
    unit_text(&u, "step", "tustin");
    REFUSED(&u, "step = 'tustin'");
    unit_open(&u, sqm_mixer_legs(), 1, 4);
    unit_number(&u, "order", 300);
    unit_text(&u, "step", "exact");
    REFUSED(&u, "from 1 to 256");
    unit_open(&u, sqm_mixer_window(), 1, 4);
    REFUSED(&u, "size = 0");
    unit_open(&u, sqm_mixer_reorder(), 1, 4);
    unit_text(&u, "order", "down");
    REFUSED(&u, "needs columns=");
    unit_open(&u, sqm_mixer_running_pool(), 1, 1);
    unit_number(&u, "weighted", 1);
    REFUSED(&u, "no row");
    unit_open(&u, sqm_mixer_running_pool(), 1, 4);
    unit_text(&u, "kind", "last");
    REFUSED(&u, "kind = 'last'");
    unit_open(&u, sqm_mixer_spike(), 1, 4);
    unit_number(&u, "tau", 0.5);
    REFUSED(&u, "tau");
}

int main(void)
{
    for (int kind = 0; kind < 6; kind++) {
        test_lti(kind == 2 ? 5 : 37, kind >= 4 ? 1 : 3, 61, kind);
        test_lti(16, kind >= 4 ? 1 : 8, 200, kind);
        test_lti(1, 1, 1, kind);
    }
    test_lti_long_memory();
    test_rnn(6, 1, 50, -1);
    test_rnn(17, 3, 40, -1);
    test_rnn(40, 1, 33, 25);
    test_rnn(1, 1, 1, 0);
    test_long_conv(1, 1, 1, 0);
    test_long_conv(5, 3, 130, 0);
    test_long_conv(3, 64, 200, 0);
    test_long_conv(3, 65, 200, 0);
    test_long_conv(18, 200, 700, 0);
    test_long_conv(2, 600, 500, 0);
    test_long_conv(2, 2000, 1100, 0);
    test_long_conv(4, 90, 400, 100);
    test_long_conv(4, 7, 60, 7);
    test_long_conv(2, 300, 700, 256);
    test_long_conv_contexts();
    test_legs(3, 8, 40, NULL, 0.5);
    test_legs(17, 4, 30, "backward", 1.0);
    test_legs(2, 3, 30, "forward", 0.0);
    test_legs(2, 6, 20, "exact", -1.0);
    test_window(3, 3, 1, 40);
    test_window(5, 4, 3, 40);
    test_window(2, 1, 1, 9);
    test_reorder();
    test_pool(5, 50, "mean", 0);
    test_pool(3, 50, "mean", 1);
    test_pool(3, 50, "sum", 1);
    test_pool(4, 50, "max", 1);
    test_spike(19, 80, 2.0, 0, 0);
    test_spike(16, 80, 3.0, 1, 0);
    test_spike(5, 80, 2.0, 0, 1);
    test_refusals();
    return check_report("test_mix_s4");
}
