/* test_experts.c - mixtures of experts: the ops route and experts against a naive double version over random
   shapes; cuts, threads and instruction sets give the same bits; wrong recipes are refused. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "check.h"
#include <math.h>
#include <stdlib.h>
#ifndef TEST_TMP
#define TEST_TMP ""
#endif

static const char *const path = TEST_TMP "experts.sqm";
static uint32_t seed = 77;
static float uniform(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / 8388608.0f - 1.0f;
}

enum { DIM = 20, OUT = 18, MAX_EXPERTS = 12, MAX_INNER = 24, ROWS = 33, MAX_WIDTH = 64 };
typedef struct shape {
    int32_t     experts, k, inner, groups, group_k, group_top, renorm, gated, biased;
    const char *score;
    double      scale;
    int32_t     raw, input;
    double      least, jitter, limit, alpha, plus;
} shape;
typedef struct weights {
    float router[MAX_EXPERTS][DIM], choice[MAX_EXPERTS];
    float up[MAX_EXPERTS][2 * MAX_INNER * DIM], up_b[MAX_EXPERTS][2 * MAX_INNER];
    float down[MAX_EXPERTS][OUT * MAX_INNER], down_b[MAX_EXPERTS][OUT];
} weights;

static void fill(float *x, size_t n, float scale) { while (n--) *x++ = scale * uniform(); }

/* ---- the model ----------------------------------------------------------------------------------------- */
static void put(sqm_writer *w, int pass, const char *name, const float *values, int32_t rows, int32_t cols)
{
    const int32_t sizes[2] = { rows, cols };
    const sqm_layout layout = cols ? SQM_PANELS : SQM_ROWS;
    const int32_t ndim = cols ? 2 : 1;
    const size_t bytes = sqm_tensor_bytes(SQM_F32, layout, ndim, sizes);
    void *packed;
    if (pass == 0) {
        sqm_writer_declare(w, name, SQM_F32, layout, ndim, sizes);
        return;
    }
    packed = malloc(bytes);
    if (cols) (void)sqm_pack(packed, bytes, SQM_F32, values, rows, cols, NULL, NULL);
    else memcpy(packed, values, bytes);
    sqm_writer_data(w, packed, bytes);
    free(packed);
}
static void put_all(sqm_writer *w, int pass, const shape *s, const weights *m)
{
    const int32_t hidden = s->inner * (s->gated ? 2 : 1);
    char name[16];
    put(w, pass, "router", &m->router[0][0], s->experts, DIM);
    put(w, pass, "choice", m->choice, s->experts, 0);
    for (int32_t e = 0; e < s->experts; e++) {
        snprintf(name, sizeof name, "u%d", (int)e);
        put(w, pass, name, m->up[e], hidden, DIM);
        snprintf(name, sizeof name, "ub%d", (int)e);
        put(w, pass, name, m->up_b[e], hidden, 0);
        snprintf(name, sizeof name, "d%d", (int)e);
        put(w, pass, name, m->down[e], OUT, s->inner);
        snprintf(name, sizeof name, "db%d", (int)e);
        put(w, pass, name, m->down_b[e], OUT, 0);
    }
}
static void list(char *text, const char *key, const char *prefix, int32_t n)
{
    char item[24];
    strcat(text, key);
    for (int32_t e = 0; e < n; e++) {
        snprintf(item, sizeof item, "%s@%s%d", e ? "," : "", prefix, (int)e);
        strcat(text, item);
    }
}
static sqm_model *make(const shape *s, const weights *m, const char *more, sqm_error *err)
{
    char text[2000];
    sqm_writer *w = sqm_writer_open(path, err);
    snprintf(text, 1000,
             "input r1 rows width=%d\nlinear r2 r1 w=@router\nroute r3 r2 k=%d score=%s groups=%d group_k=%d "
             "group_top=%d renorm=%d scale=%g raw=%d least=%g jitter=%g%s\nexperts r0 r1 r3 act=silu "
             "input=%d limit=%g alpha=%g plus=%g", DIM, (int)s->k, s->score, (int)s->groups, (int)s->group_k,
             (int)s->group_top, (int)s->renorm, s->scale, (int)s->raw, s->least, s->jitter,
             strcmp(s->score, "sparsemixer") ? " b=@choice" : "", (int)s->input, s->limit, s->alpha, s->plus);
    list(text, " up=", "u", s->experts);
    list(text, " down=", "d", s->experts);
    if (s->biased) list(text, " up_b=", "ub", s->experts);
    if (s->biased) list(text, " down_b=", "db", s->experts);
    strcat(text, more);
    strcat(text, "\nhead logits r0\n");
    put_all(w, 0, s, m);
    sqm_writer_recipe(w, text);
    put_all(w, 1, s, m);
    if (sqm_writer_close(w, err) != SQM_OK) return NULL;
    return sqm_load_file(path, NULL, err);
}

/* ---- naive --------------------------------------------------------------------------------------------- */
/* Is expert e among the chosen? Counts those that win against it. */
static void naive_choice(int *chosen, const double *key, const shape *s)
{
    const int32_t size = s->experts / s->groups;
    int open[MAX_EXPERTS];
    for (int32_t g = 0; g < s->groups; g++) {
        double score[MAX_EXPERTS];
        int better = 0;
        for (int32_t j = 0; j < s->groups; j++) {
            double a = -1e300, b = -1e300;
            for (int32_t i = 0; i < size; i++) {
                const double x = key[j * size + i];
                if (x > a) { b = a; a = x; } else if (x > b) b = x;
            }
            score[j] = s->group_top == 2 && size > 1 ? a + b : a;
        }
        for (int32_t j = 0; j < s->groups; j++) better += score[j] > score[g];
        for (int32_t i = 0; i < size; i++) open[g * size + i] = better < s->group_k;
    }
    for (int32_t e = 0; e < s->experts; e++) {
        int better = 0;
        for (int32_t j = 0; j < s->experts; j++) better += open[j] && key[j] > key[e];
        chosen[e] = open[e] && better < s->k;
    }
}
static double clamp(double x, double low, double high) { return x < low ? low : x > high ? high : x; }
static void naive_expert(double *y, const float *x, const shape *s, const weights *m, int32_t e,
                         double weight)
{
    const double in = s->input ? weight : 1.0;
    double inner[2 * MAX_INNER];
    for (int32_t i = 0; i < s->inner * (s->gated ? 2 : 1); i++) {
        inner[i] = s->biased ? (double)m->up_b[e][i] : 0.0;
        for (int32_t k = 0; k < DIM; k++) inner[i] += (double)m->up[e][i * DIM + k] * (double)x[k] * in;
    }
    for (int32_t i = 0; i < s->inner; i++) {
        if (s->limit > 0.0) inner[i] = clamp(inner[i], -1e300, s->limit);
        inner[i] = inner[i] / (1.0 + exp(-s->alpha * inner[i]));
        if (s->gated && s->limit > 0.0) inner[i + s->inner] = clamp(inner[i + s->inner], -s->limit, s->limit);
        if (s->gated) inner[i] *= inner[i + s->inner] + s->plus;
    }
    for (int32_t o = 0; o < OUT; o++) {
        double sum = s->biased ? (double)m->down_b[e][o] : 0.0;
        for (int32_t i = 0; i < s->inner; i++) sum += (double)m->down[e][o * s->inner + i] * inner[i];
        y[o] += s->input ? sum : weight * sum;
    }
}
/* Weights of score=sparsemixer: the largest s in turn; softmax over those not taken that are near it */
static void naive_mixer(double *weight, const double *x, const shape *s)
{
    int taken[MAX_EXPERTS] = { 0 };
    for (int32_t e = 0; e < s->experts; e++) weight[e] = 0.0;
    for (int32_t k = 0; k < s->k; k++) {
        int32_t best = -1;
        double sum = 0.0;
        for (int32_t e = 0; e < s->experts; e++)
            if (!taken[e] && (best < 0 || x[e] > x[best])) best = e;
        for (int32_t e = 0; e < s->experts; e++) {
            const double factor = fabs(x[e]) > x[best] ? fabs(x[e]) : x[best];
            if (!taken[e] && (x[best] - x[e]) / factor <= 2.0 * s->jitter) sum += exp(x[e]);
        }
        weight[best] = exp(x[best]) / sum;
        taken[best] = 1;
    }
}
static void naive_weights(double *weight, const float *x, const shape *s, const weights *m)
{
    const int softmax = strcmp(s->score, "softmax") == 0, sigmoid = strcmp(s->score, "sigmoid") == 0;
    double logit[MAX_EXPERTS], score[MAX_EXPERTS], key[MAX_EXPERTS], sum = 0.0;
    int chosen[MAX_EXPERTS];
    for (int32_t e = 0; e < s->experts; e++) {
        logit[e] = 0.0;
        for (int32_t k = 0; k < DIM; k++) logit[e] += (double)m->router[e][k] * (double)x[k];
        score[e] = softmax ? exp(logit[e]) : sigmoid ? 1.0 / (1.0 + exp(-logit[e])) : logit[e];
        sum += score[e];
    }
    for (int32_t e = 0; e < s->experts; e++) {
        if (softmax) score[e] /= sum;
        key[e] = (s->raw ? logit[e] : score[e]) + (double)m->choice[e];
    }
    naive_choice(chosen, key, s);
    for (int32_t e = 0; e < s->experts; e++) weight[e] = chosen[e] ? score[e] : 0.0;
    if (strcmp(s->score, "sparsemixer") == 0) naive_mixer(weight, logit, s);
    sum = 0.0;
    for (int32_t e = 0; e < s->experts; e++) sum += s->renorm == 2 ? weight[e] * weight[e] : weight[e];
    if (s->renorm == 2) sum = sqrt(sum);
    if (sum < s->least) sum = s->least;
    for (int32_t e = 0; e < s->experts; e++) weight[e] *= s->scale / (s->renorm ? sum : 1.0);
}
static void naive(float *y, const float *x, const shape *s, const weights *m)
{
    double weight[MAX_EXPERTS], out[OUT] = { 0.0 };
    naive_weights(weight, x, s, m);
    for (int32_t e = 0; e < s->experts; e++)
        if (weight[e] != 0.0) naive_expert(out, x, s, m, e, weight[e]);
    for (int32_t o = 0; o < OUT; o++) y[o] = (float)out[o];
}

/* ---- tests --------------------------------------------------------------------------------------------- */
static void feed(float *out, int32_t width, const sqm_model *m, const float *x, sqm_isa isa, int32_t threads,
                 int32_t step)
{
    sqm_session_config config;
    sqm_session *s;
    sqm_error err;
    memset(&config, 0, sizeof config);
    config.max_context = config.max_batch = ROWS;
    config.isa = isa;
    config.threads = threads;
    config.precision = SQM_EXACT;
    s = sqm_session_create(m, &config, &err);
    CHECK(s != NULL);
    for (int32_t t = 0; s && t < ROWS; t += step) {
        const int32_t n = step < ROWS - t ? step : ROWS - t;
        CHECK(sqm_feed_rows_all(s, 0, x + t * DIM, n, out + t * width) == SQM_OK);
    }
    sqm_session_free(s);
}
/* One call in portable C is right; other cuts, threads and instruction sets give the same bits */
static void test_model(const sqm_model *model, const float *x, const float *want, int32_t width)
{
    static const sqm_isa isas[] = { SQM_ISA_SCALAR, SQM_ISA_AVX2, SQM_ISA_AVX512, SQM_ISA_NEON };
    static float got[ROWS * MAX_WIDTH], cut[ROWS * MAX_WIDTH];
    feed(got, width, model, x, SQM_ISA_SCALAR, 1, ROWS);
    CHECK_CLOSE(got, want, ROWS * width, 2e-5, "experts");
    for (int i = 0; i < 4; i++) {
        if (!sqm_cpu_has(isas[i])) continue;
        for (int32_t step = 1; step <= ROWS; step += 8) {
            feed(cut, width, model, x, isas[i], step % 3 + 1, step);
            CHECK(memcmp(got, cut, (size_t)(ROWS * width) * sizeof(float)) == 0);
        }
    }
}
static void fill_all(weights *m, float *x)
{
    fill(&m->router[0][0], sizeof m->router / sizeof(float), 1.0f);
    fill(m->choice, MAX_EXPERTS, 0.3f);
    fill(&m->up[0][0], sizeof m->up / sizeof(float), 0.4f);
    fill(&m->up_b[0][0], sizeof m->up_b / sizeof(float), 0.4f);
    fill(&m->down[0][0], sizeof m->down / sizeof(float), 0.4f);
    fill(&m->down_b[0][0], sizeof m->down_b / sizeof(float), 0.4f);
    fill(x, ROWS * DIM, 1.0f);
}
static void test_shape(const shape *s, weights *m)
{
    static float x[ROWS * DIM], want[ROWS * OUT];
    sqm_error err;
    sqm_model *model;
    fill_all(m, x);
    memset(&err, 0, sizeof err);
    model = make(s, m, "", &err);
    if (!model) { printf("%s\n", err.text); CHECK(0); return; }
    for (int32_t t = 0; t < ROWS; t++) naive(want + t * OUT, x + t * DIM, s, m);
    test_model(model, x, want, OUT);
    sqm_model_free(model);
    remove(path);
}

/* ---- slots --------------------------------------------------------------------------------------------- */
static sqm_model *make_slots(const shape *s, const weights *m, int32_t slots, int32_t blocks, int merged,
                             sqm_error *err)
{
    char text[2000];
    sqm_writer *w = sqm_writer_open(path, err);
    snprintf(text, 1000,
             "input r1 rows width=%d\nlinear r2 r1 w=@router\nroute r3 r2 k=%d score=%s b=@choice\n"
             "experts r4 r1 r3 slots=%d blocks=%d", DIM, (int)s->k, s->score, (int)slots, (int)blocks);
    list(text, " up=", "u", s->experts);
    snprintf(text + strlen(text), 100, "\nexperts r0 r4 r3 slots=%d blocks=%d", (int)slots, (int)blocks);
    list(text, " down=", "d", s->experts);
    strcat(text, merged ? "\nhead logits r0\n" : "\nhead logits r4\n");
    put_all(w, 0, s, m);
    sqm_writer_recipe(w, text);
    put_all(w, 1, s, m);
    if (sqm_writer_close(w, err) != SQM_OK) return NULL;
    return sqm_load_file(path, NULL, err);
}
/* Rows of slots [blocks, slots, inner / blocks], and what becomes of them */
static void naive_slots(float *row, float *y, const float *x, const shape *s, const weights *m, int32_t slots,
                        int32_t blocks)
{
    const int32_t each = s->inner / blocks;
    double weight[MAX_EXPERTS], out[OUT] = { 0.0 }, up[MAX_INNER];
    int32_t slot = 0;
    naive_weights(weight, x, s, m);
    memset(row, 0, (size_t)(s->inner * slots) * sizeof(float));
    for (int32_t e = 0; e < s->experts && slot < slots; e++) {
        if (weight[e] == 0.0) continue;
        for (int32_t i = 0; i < s->inner; i++) {
            up[i] = 0.0;
            for (int32_t k = 0; k < DIM; k++) up[i] += (double)m->up[e][i * DIM + k] * (double)x[k];
            row[(i / each * slots + slot) * each + i % each] = (float)up[i];
        }
        for (int32_t o = 0; o < OUT; o++)
            for (int32_t i = 0; i < s->inner; i++)
                out[o] += weight[e] * (double)m->down[e][o * s->inner + i] * up[i];
        slot++;
    }
    for (int32_t o = 0; o < OUT; o++) y[o] = (float)out[o];
}
static void test_slots(weights *m, int32_t k, int32_t slots, int32_t blocks)
{
    const shape s = { 7, k, 6, 1, 1, 1, 0, 0, 0, "softmax", 1.0, 0, 0, 0.0, 0.0, 0.0, 1.0, 0.0 };
    static float x[ROWS * DIM], rows[ROWS * MAX_WIDTH], want[ROWS * OUT];
    fill_all(m, x);
    for (int32_t t = 0; t < ROWS; t++)
        naive_slots(rows + t * s.inner * slots, want + t * OUT, x + t * DIM, &s, m, slots, blocks);
    for (int merged = 0; merged < 2; merged++) {
        sqm_error err;
        sqm_model *model;
        memset(&err, 0, sizeof err);
        model = make_slots(&s, m, slots, blocks, merged, &err);
        if (!model) { printf("%s\n", err.text); CHECK(0); return; }
        test_model(model, x, merged ? want : rows, merged ? OUT : s.inner * slots);
        sqm_model_free(model);
        remove(path);
    }
}
static void test_slots_refused(weights *m, int32_t slots, int32_t blocks, const char *text)
{
    const shape s = { 7, 2, 6, 1, 1, 1, 0, 0, 0, "softmax", 1.0, 0, 0, 0.0, 0.0, 0.0, 1.0, 0.0 };
    sqm_error err;
    sqm_model *model;
    memset(&err, 0, sizeof err);
    model = make_slots(&s, m, slots, blocks, 1, &err);
    if (model || !strstr(err.text, text)) printf("\"%s\", expected \"%s\"\n", err.text, text);
    CHECK(!model && strstr(err.text, text));
    sqm_model_free(model);
    remove(path);
}

static void refused(shape s, const weights *m, const char *more, const char *text)
{
    sqm_error err;
    sqm_model *model;
    memset(&err, 0, sizeof err);
    model = make(&s, m, more, &err);
    if (model || !strstr(err.text, text)) printf("\"%s\", expected \"%s\"\n", err.text, text);
    CHECK(!model && strstr(err.text, text));
    sqm_model_free(model);
    remove(path);
}

int main(void)
{
    static const shape shapes[] = {
        { 4, 2, 24, 1, 1, 1, 0, 1, 0, "softmax", 1.0, 0, 0, 0.0, 0.0, 0.0, 1.0, 0.0 },
        { 12, 3, 7, 4, 2, 2, 1, 1, 1, "sigmoid", 2.5, 0, 0, 0.0, 0.0, 0.0, 1.0, 0.0 },
        { 8, 1, 16, 2, 1, 1, 1, 0, 0, "softmax", 1.0, 0, 0, 0.0, 0.0, 0.0, 1.0, 0.0 },
        { 5, 5, 3, 1, 1, 1, 0, 0, 1, "none", 0.5, 0, 0, -1e30, 0.0, 0.0, 1.0, 0.0 },
        { 6, 2, 9, 3, 1, 2, 1, 1, 0, "sigmoid", 1.0, 0, 0, 0.0, 0.0, 0.0, 1.0, 0.0 },
        { 1, 1, 5, 1, 1, 1, 1, 1, 0, "softmax", 1.0, 0, 0, 0.0, 0.0, 0.0, 1.0, 0.0 },
        { 9, 3, 5, 1, 1, 1, 2, 1, 0, "softmax", 1.5, 1, 1, 0.0, 0.0, 0.0, 1.0, 0.0 },
        { 8, 2, 6, 1, 1, 1, 1, 1, 1, "softmax", 1.0, 0, 0, 0.5, 0.0, 0.6, 1.702, 1.0 },
        { 8, 2, 6, 1, 1, 1, 0, 1, 0, "sparsemixer", 1.0, 0, 0, 0.0, 0.2, 0.0, 2.0, 0.0 },
        { 5, 5, 6, 1, 1, 1, 1, 1, 1, "sparsemixer", 1.0, 0, 1, 0.0, 0.01, 1.0, 1.0, -0.5 }
    };
    weights *m = (weights *)malloc(sizeof(weights));
    shape bad = shapes[1];
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) test_shape(&shapes[i], m);
    bad.k = 7;
    refused(bad, m, "", "7 of 12 experts in 2 of 4 groups");
    bad = shapes[1];
    bad.groups = 5;
    refused(bad, m, "", "12 experts");
    bad = shapes[1];
    bad.score = "softplus";
    refused(bad, m, "", "score = 'softplus'");
    refused(shapes[0], m, " up_b=@ub0", "up_b needs a tensor for each of 4 experts");
    refused(shapes[0], m, " add=1", "adds 18 columns to r0, which has 0");
    bad = shapes[8];
    bad.groups = 2;
    refused(bad, m, "", "sparsemixer has neither b= nor groups");
    bad = shapes[2];
    bad.limit = 7.0;
    refused(bad, m, "", "go with experts that have a gate");
    refused(shapes[0], m, " slots=2", "slots= does not go with act=");
    test_slots(m, 3, 3, 2);
    test_slots(m, 2, 4, 1);
    test_slots(m, 5, 2, 6);
    test_slots_refused(m, 2, 4, "6 columns in 2 slots do not divide into 4 blocks");
    test_slots_refused(m, 8, 1, "slots = 8 must be a whole number from 1 to 7");
    free(m);
    return check_report("test_experts");
}
