/* test_mix_attention.c - the attention mixer against a naive double version over random shapes; cut rows
   give the same bits;
   wrong parameters are refused with a message. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "check.h"
#include <math.h>
#include <stdlib.h>

static uint32_t seed = 12345;
static uint32_t draw(uint32_t n) { seed = seed * 1664525u + 1013904223u; return (seed >> 8) % n; }
static float uniform(void) { return (float)draw(65536) / 32768.0f - 1.0f; }

typedef struct shape { int32_t heads, kv, dim, v_dim, window, rows; float softcap; int sinks; } shape;

static void naive(float *out, const float *in, const shape *s, const float *sinks)
{
    const int32_t width = (s->heads + s->kv) * s->dim + s->kv * s->v_dim;
    for (int32_t t = 0; t < s->rows; t++)
        for (int32_t h = 0; h < s->heads; h++) {
            const int32_t g = h / (s->heads / s->kv), first = s->window && t >= s->window ? t - s->window + 1
                : 0;
            double sum = s->sinks ? exp((double)sinks[h]) : 0.0, acc[64] = { 0.0 };
            for (int32_t j = first; j <= t; j++) {
                double score = 0.0, e;
                for (int32_t i = 0; i < s->dim; i++)
                    score += (double)in[t * width + h * s->dim + i] * (double)in[j * width + (s->heads +
                            g) * s->dim + i];
                score *= 0.5;
                if (s->softcap > 0.0f) score = (double)s->softcap * tanh(score / (double)s->softcap);
                e = exp(score);
                sum += e;
                for (int32_t i = 0; i < s->v_dim; i++)
                    acc[i] += e * (double)in[j * width + (s->heads + s->kv) * s->dim + g * s->v_dim + i];
            }
            for (int32_t i = 0; i < s->v_dim; i++) out[(t * s->heads + h) * s->v_dim + i] =
                (float)(acc[i] / sum);
        }
}

static int32_t fill_params(sqm_param *p, const shape *s, const sqm_tensor *const *sinks)
{
    const char *const keys[] = { "heads", "kv_heads", "head_dim", "v_dim", "window", "softcap", "scale",
        "sinks" };
    const double values[] = { s->heads, s->kv, s->dim, s->v_dim, s->window, (double)s->softcap, 0.5, 0.0 };
    memset(p, 0, 8 * sizeof(*p));
    for (int i = 0; i < 8; i++) { p[i].key = keys[i]; p[i].number = values[i]; }
    p[7].tensors = sinks;
    p[7].n_tensors = 1;
    return s->sinks ? 8 : 7;
}

static void test_shape(const shape *s)
{
    const sqm_mixer *mixer = sqm_mixer_attention();
    const int32_t width = (s->heads + s->kv) * s->dim + s->kv * s->v_dim;
    const size_t n_in = (size_t)s->rows * (size_t)width, n_out =
        (size_t)s->rows * (size_t)(s->heads * s->v_dim);
    float *in = (float *)malloc(n_in * 4), *want = (float *)malloc(n_out * 4), *got =
        (float *)malloc(n_out * 4);
    float *cut = (float *)malloc(n_out * 4), sinks[16];
    const sqm_tensor sink = sqm_tensor_1d(sinks, SQM_F32, s->heads);
    const sqm_tensor *list = &sink;
    uint8_t bound[256];
    sqm_param params[8];
    sqm_exec x;
    sqm_error err;
    size_t state_bytes, scratch_bytes;
    void *state, *scratch;
    int32_t out_width = 0;
    for (size_t i = 0; i < n_in; i++) in[i] = uniform();
    for (int i = 0; i < 16; i++) sinks[i] = uniform();
    naive(want, in, s, sinks);
    CHECK(mixer->bound_bytes <= sizeof(bound));
    CHECK(mixer->bind(bound, params, fill_params(params, s, &list), width, &out_width, &err) == SQM_OK);
    CHECK(out_width == s->heads * s->v_dim);
    state_bytes = mixer->state_bytes(bound, s->rows, s->rows, SQM_F32);
    scratch_bytes = mixer->scratch_bytes(bound, s->rows, s->rows, 1) + state_bytes + 64;
    state = malloc(state_bytes);
    scratch = malloc(scratch_bytes);
    CHECK(sqm_exec_init(&x, SQM_ISA_AUTO, 1, scratch, scratch_bytes) == SQM_OK);
    for (int with_state = 0; with_state < 2; with_state++) {
        sqm_span span = { NULL, 0, 0, 0, 0 };
        span.rows = span.total = s->rows;
        if (with_state) { mixer->reset(bound, state, state_bytes, s->rows, s->rows, SQM_F32); span.state =
            state; }
        CHECK(mixer->forward(bound, &x, got, in, &span, 1) == SQM_OK);
        CHECK_CLOSE(got, want, n_out, 3e-6, "attention");
    }
    mixer->reset(bound, state, state_bytes, s->rows, s->rows, SQM_F32);
    for (int32_t t = 0; t < s->rows;) {
        sqm_span span = { NULL, 0, 0, 0, 0 };
        span.state = state;
        span.position = t;
        span.total = s->rows;
        span.rows = 1 + (int32_t)draw((uint32_t)(s->rows - t));
        CHECK(mixer->forward(bound, &x, cut + (size_t)t * (size_t)out_width, in + (size_t)t * (size_t)width,
                             &span, 1) == SQM_OK);
        t += span.rows;
    }
    CHECK(memcmp(got, cut, n_out * 4) == 0);
    free(in); free(want); free(got); free(cut); free(state); free(scratch);
}

static void test_refusals(void)
{
    const shape good = { 4, 2, 8, 8, 0, 1, 0.0f, 0 };
    uint8_t bound[256];
    sqm_param p[8];
    sqm_error err;
    int32_t out;
    shape s = good;
    CHECK(sqm_mixer_attention()->bind(bound, p, fill_params(p, &s, NULL), 64, &out, &err) == SQM_OK &&
          out == 32);
    CHECK(sqm_mixer_attention()->bind(bound, p, 7, 65, &out, &err) == SQM_E_SHAPE && strstr(err.text, "65"));
    s.kv = 3;
    CHECK(sqm_mixer_attention()->bind(bound, p, fill_params(p, &s, NULL), 80, &out, &err) == SQM_E_SHAPE);
    s = good;
    s.window = -1;
    CHECK(sqm_mixer_attention()->bind(bound, p, fill_params(p, &s, NULL), 64, &out, &err) == SQM_E_SHAPE);
    s = good;
    s.softcap = -1.0f;
    CHECK(sqm_mixer_attention()->bind(bound, p, fill_params(p, &s, NULL), 64, &out, &err) == SQM_E_SHAPE);
}

int main(void)
{
    for (int i = 0; i < 150; i++) {
        shape s;
        s.kv = 1 + (int32_t)draw(3);
        s.heads = s.kv * (1 + (int32_t)draw(4));
        s.dim = 1 + (int32_t)draw(40);
        s.v_dim = 1 + (int32_t)draw(40);
        s.window = draw(2) ? 1 + (int32_t)draw(100) : 0;
        s.rows = 1 + (int32_t)draw(200);
        s.softcap = draw(2) ? 1.5f : 0.0f;
        s.sinks = (int)draw(2);
        test_shape(&s);
    }
    test_refusals();
    return check_report("test_mix_attention");
}
