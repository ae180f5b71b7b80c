/* Shows the operations without a weight file: a transformer block (attention and gated MLP) on plain arrays,
   once for the whole sequence and once token by token with a state.
   Build  cc -O2 08_ops.c -o ops -lm            (seqmodel.h is one directory up; -fopenmp: all processors)
   Run    ./ops
   Prints the block's output for the last token and the largest difference between both ways: 0. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 10, DIM = 64, HEADS = 4, KV_HEADS = 2, HEAD = 16, HIDDEN = 160,
       QKV = (HEADS + 2 * KV_HEADS) * HEAD };          /* columns: 4 query, 2 key, 2 value heads */

typedef struct block {
    sqm_tensor       qkv, out, gate_up, down;          /* weights [outputs, inputs] */
    float            gain[DIM], inv_freq[HEAD / 2];
    const sqm_mixer *attention;
    void            *bound;                            /* the mixer's checked parameters */
} block;

static void stop_if(int wrong, const char *what, const char *text)
{
    if (!wrong) return;
    fprintf(stderr, "ops: %s: %s\n", what, text);
    exit(1);
}

/* A matrix [rows, cols] of small numbers in 8 bits, packed into panels of 16 rows: what a file would hold. */
static sqm_tensor make_weights(int32_t rows, int32_t cols, uint32_t seed)
{
    const int32_t shape[2] = {rows, cols};
    const size_t bytes = sqm_tensor_bytes(SQM_Q8, SQM_PANELS, 2, shape);
    float *values = (float *)malloc((size_t)rows * (size_t)cols * sizeof(float));
    void *packed = malloc(bytes);
    sqm_error err;
    stop_if(!values || !packed, "weights", "no memory");
    for (int32_t i = 0; i < rows * cols; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = ((float)(seed >> 16) / 32768.0f - 1.0f) / sqrtf((float)cols);
    }
    stop_if(sqm_pack(packed, bytes, SQM_Q8, values, rows, cols, NULL, &err) != SQM_OK, "sqm_pack", err.text);
    free(values);
    return sqm_tensor_2d(packed, SQM_Q8, SQM_PANELS, rows, cols);
}

static void make_block(block *b)
{
    const double numbers[4] = {HEADS, KV_HEADS, HEAD, 1.0 / sqrt((double)HEAD)};
    const char *const keys[4] = {"heads", "kv_heads", "head_dim", "scale"};
    sqm_param params[4];
    sqm_error err;
    int32_t width = 0;
    memset(params, 0, sizeof(params));
    for (int i = 0; i < 4; i++) { params[i].key = keys[i]; params[i].number = numbers[i]; }
    b->qkv = make_weights(QKV, DIM, 1);
    b->out = make_weights(DIM, DIM, 2);
    b->gate_up = make_weights(2 * HIDDEN, DIM, 3);
    b->down = make_weights(DIM, HIDDEN, 4);
    for (int i = 0; i < DIM; i++) b->gain[i] = 1.0f;
    for (int i = 0; i < HEAD / 2; i++) b->inv_freq[i] = (float)pow(10000.0, -2.0 * i / (double)HEAD);
    b->attention = sqm_mixer_attention();
    b->bound = malloc(b->attention->bound_bytes);
    stop_if(!b->bound, "bind", "no memory");
    stop_if(b->attention->bind(b->bound, params, 4, QKV, &width, &err) != SQM_OK, "bind", err.text);
    stop_if(width != DIM, "bind", "unexpected width");
}

/* x [rows, DIM] += attention(norm(x)); x += mlp(norm(x)). state NULL: these rows are the whole sequence. */
static void run_block(sqm_exec *e, const block *b, float *x, int32_t rows, int32_t position, void *state)
{
    static float normed[TOKENS * DIM], wide[TOKENS * 2 * HIDDEN], mixed[TOKENS * HIDDEN], added[TOKENS * DIM];
    const sqm_span span = {state, 0, rows, position, position + rows};
    int bad = 0;
    bad |= sqm_normalize(e, normed, x, rows, DIM, SQM_NORM_RMS, b->gain, NULL, 1e-6f);
    bad |= sqm_matmul(e, wide, normed, rows, &b->qkv, NULL);
    bad |= sqm_rope(e, wide, rows, QKV, 0, HEADS + KV_HEADS, HEAD, HEAD, SQM_ROPE_HALF, b->inv_freq, 1.0f,
                    NULL, position);                   /* queries and keys stand side by side: one call */
    bad |= b->attention->forward(b->bound, e, mixed, wide, &span, 1);
    bad |= sqm_matmul(e, added, mixed, rows, &b->out, NULL);
    for (int32_t i = 0; i < rows * DIM; i++) x[i] += added[i];
    bad |= sqm_normalize(e, normed, x, rows, DIM, SQM_NORM_RMS, b->gain, NULL, 1e-6f);
    bad |= sqm_matmul(e, wide, normed, rows, &b->gate_up, NULL);
    bad |= sqm_glu(e, mixed, wide, rows, HIDDEN, SQM_ACT_SILU);
    bad |= sqm_matmul(e, added, mixed, rows, &b->down, NULL);
    for (int32_t i = 0; i < rows * DIM; i++) x[i] += added[i];
    stop_if(bad, "run", e->error.text);
}

int main(void)
{
    static float whole[TOKENS * DIM], steps[TOKENS * DIM];
    block b;
    sqm_exec e;
    float worst = 0;
    make_block(&b);
    const size_t state_bytes = b.attention->state_bytes(b.bound, TOKENS, TOKENS, SQM_F32);
    const size_t scratch_bytes = sqm_exec_scratch_size(TOKENS, 2 * HIDDEN, 1) + state_bytes + 64 +
                                 b.attention->scratch_bytes(b.bound, TOKENS, TOKENS, 1);
    void *const scratch = malloc(scratch_bytes), *const state = malloc(state_bytes);
    stop_if(!scratch || !state, "main", "no memory");
    stop_if(sqm_exec_init(&e, SQM_ISA_AUTO, 1, scratch, scratch_bytes) != SQM_OK, "exec", e.error.text);
    for (int i = 0; i < TOKENS * DIM; i++) whole[i] = steps[i] = (float)(i * 37 % 101) / 50.0f - 1.0f;
    run_block(&e, &b, whole, TOKENS, 0, NULL);
    b.attention->reset(b.bound, state, state_bytes, TOKENS, TOKENS, SQM_F32);
    for (int t = 0; t < TOKENS; t++) run_block(&e, &b, steps + t * DIM, 1, t, state);
    for (int i = 0; i < TOKENS * DIM; i++) worst = fmaxf(worst, fabsf(whole[i] - steps[i]));
    const float *const last = whole + (TOKENS - 1) * DIM;
    for (int i = 0; i < DIM; i++) printf("%7.3f%s", (double)last[i], i % 8 == 7 ? "\n" : " ");
    printf("largest difference between whole and step by step: %g\n", (double)worst);
    return worst > 0;
}
