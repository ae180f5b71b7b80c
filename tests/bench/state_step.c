/* Times the state of a recurrence, per token and head, against the time that its multiply-adds alone take.
   Build  cc -O2 tests/bench/state_step.c -o state_step -lm
   Run    ./state_step
   Prints a line for each size, rule and kind of decay: nanoseconds, the bound, their ratio. */
#define SEQMODEL_IMPLEMENTATION
#include "../../seqmodel.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { TOKENS = 128, MOST = 128, STRIDE = 6 * MOST, RUNS = 400 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

/* ns of 16 multiply-adds at the peak of this processor: a product that stays in the first cache. */
static double multiply_add_ns(const sqm__kernels *k)
{
    static float acc[12 * 32], x[12 * 256], w[2 * 256 * 16];
    double best = 1e9;
    for (int run = 0; run < RUNS; run++) {
        const double start = now();
        k->calls->product(acc, 32, x, 256, 12, (const uint8_t *)w, 256 * 16 * sizeof(float), 2, 256, 0,
                          SQM_F32);
        const double took = now() - start;
        if (took < best) best = took;
    }
    return best / (12 * 2 * 256);
}

static double step_ns(const sqm__kernels *k, int32_t dim, int32_t update, int32_t decay_by)
{
    static float state[MOST * MOST], in[TOKENS * STRIDE], out[TOKENS * MOST];
    double best = 1e9;
    sqm__outer o;
    for (int32_t i = 0; i < TOKENS * STRIDE; i++) in[i] = 0.1f * (float)(i % 37) / 37.0f;
    memset(state, 0, sizeof(state));
    memset(&o, 0, sizeof(o));
    o.state = state; o.out = out; o.out_stride = (size_t)dim;
    o.q = in; o.k = in + MOST; o.v = in + 2 * MOST; o.a = in + 3 * MOST; o.b = in + 4 * MOST;
    o.decay = in + 5 * MOST; o.stride = o.decay_stride = STRIDE;
    o.decay_by = decay_by; o.update = update; o.read = SQM__OUTER_POST;
    o.scale = 1.0f; o.n_rows = TOKENS; o.steps = 1; o.key_dim = o.v_dim = dim;
    for (int run = 0; run < RUNS; run++) {
        const double start = now();
        k->calls->outer(&o, 0, dim / SQM__LANES);
        const double took = now() - start;
        if (took < best) best = took;
    }
    return best / TOKENS;
}

int main(void)
{
    static const char *const rules[] = {"sum", "delta rule", "delta rule of RWKV-7"};
    static const int32_t updates[] = {SQM__OUTER_ADD, SQM__OUTER_DELTA, SQM__OUTER_DPLR};
    static const int32_t operations[] = {3, 4, 5};       /* a number of the state */
    const sqm__kernels *k = sqm__kernels_of(SQM_ISA_AUTO);
    for (int32_t dim = 64; dim <= MOST; dim *= 2)
        for (int rule = 0; rule < 3; rule++)
            for (int by_key = 0; by_key < 2; by_key++) {
                const double ns = step_ns(k, dim, updates[rule], by_key ? SQM__BY_KEY : SQM__BY_HEAD);
                const double bound = multiply_add_ns(k) * dim * dim / SQM__LANES * operations[rule];
                printf("%3d x %-3d  %-20s  a decay a %-4s  %5.0f ns, multiply-adds alone %5.0f: %.2f x\n",
                       (int)dim, (int)dim, rules[rule], by_key ? "key" : "head", ns, bound, ns / bound);
            }
    return 0;
}
