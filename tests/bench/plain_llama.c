/* plain_llama.c - a Llama decoder as one writes it first: float32, row by row, loops that the compiler
   vectorizes. The yardstick for small models, in the manner of llama2.c: greedy tokens from a llama2.c .bin.
   Build: cc -O3 -march=native -ffast-math tests/bench/plain_llama.c -o plain_llama -lm
   Run:   plain_llama stories260K.bin 200        prints tokens/s and the last token */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct shape { int dim, hidden, layers, heads, kv_heads, vocab, context; } shape;
typedef struct weights {
    const float *embed, *norm1, *q, *k, *v, *o, *norm2, *gate, *down, *up, *norm, *head;
} weights;
typedef struct buffers { float *x, *a, *q, *k, *v, *b, *g, *u, *scores, *keys, *values, *logits; } buffers;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void product(float *y, const float *w, const float *x, int rows, int columns)
{
    for (int r = 0; r < rows; r++) {
        float sum = 0.0f;
        for (int c = 0; c < columns; c++) sum += w[(size_t)r * (size_t)columns + (size_t)c] * x[c];
        y[r] = sum;
    }
}

static void normalize(float *y, const float *x, const float *gain, int n)
{
    float sum = 0.0f;
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    sum = 1.0f / sqrtf(sum / (float)n + 1e-5f);
    for (int i = 0; i < n; i++) y[i] = x[i] * sum * gain[i];
}

static void rotate(float *x, int heads, int width, int position)
{
    for (int i = 0; i < heads * width; i += 2) {
        const float angle = (float)position / powf(10000.0f, (float)(i % width) / (float)width);
        const float c = cosf(angle), s = sinf(angle), a = x[i], b = x[i + 1];
        x[i] = a * c - b * s;
        x[i + 1] = a * s + b * c;
    }
}

static void attend(const shape *p, const buffers *s, const float *keys, const float *values, int position)
{
    const int width = p->dim / p->heads, kv = p->kv_heads * width, group = p->heads / p->kv_heads;
    for (int h = 0; h < p->heads; h++) {
        const float *q = s->q + h * width;
        const size_t at = (size_t)(h / group * width);
        float *out = s->b + h * width, most = -1e30f, sum = 0.0f;
        for (int t = 0; t <= position; t++) {
            float score = 0.0f;
            for (int i = 0; i < width; i++) score += q[i] * keys[(size_t)t * (size_t)kv + at + (size_t)i];
            s->scores[t] = score / sqrtf((float)width);
            if (s->scores[t] > most) most = s->scores[t];
        }
        for (int t = 0; t <= position; t++) sum += s->scores[t] = expf(s->scores[t] - most);
        memset(out, 0, (size_t)width * sizeof *out);
        for (int t = 0; t <= position; t++)
            for (int i = 0; i < width; i++)
                out[i] += s->scores[t] / sum * values[(size_t)t * (size_t)kv + at + (size_t)i];
    }
}

static int forward(const shape *p, const weights *w, const buffers *s, int token, int position)
{
    const size_t d = (size_t)p->dim, h = (size_t)p->hidden, kv = (size_t)(p->dim / p->heads * p->kv_heads);
    int best = 0;
    memcpy(s->x, w->embed + (size_t)token * d, d * sizeof(float));
    for (size_t l = 0; l < (size_t)p->layers; l++) {
        float *keys = s->keys + l * (size_t)p->context * kv;
        float *values = s->values + l * (size_t)p->context * kv;
        float *k = keys + (size_t)position * kv;
        normalize(s->a, s->x, w->norm1 + l * d, p->dim);
        product(s->q, w->q + l * d * d, s->a, p->dim, p->dim);
        product(k, w->k + l * d * kv, s->a, (int)kv, p->dim);
        product(values + (size_t)position * kv, w->v + l * d * kv, s->a, (int)kv, p->dim);
        rotate(s->q, p->heads, p->dim / p->heads, position);
        rotate(k, p->kv_heads, p->dim / p->heads, position);
        attend(p, s, keys, values, position);
        product(s->a, w->o + l * d * d, s->b, p->dim, p->dim);
        for (size_t i = 0; i < d; i++) s->x[i] += s->a[i];
        normalize(s->a, s->x, w->norm2 + l * d, p->dim);
        product(s->g, w->gate + l * d * h, s->a, p->hidden, p->dim);
        product(s->u, w->up + l * d * h, s->a, p->hidden, p->dim);
        for (size_t i = 0; i < h; i++) s->g[i] = s->g[i] / (1.0f + expf(-s->g[i])) * s->u[i];
        product(s->a, w->down + l * d * h, s->g, p->dim, p->hidden);
        for (size_t i = 0; i < d; i++) s->x[i] += s->a[i];
    }
    normalize(s->x, s->x, w->norm, p->dim);
    product(s->logits, w->head, s->x, p->vocab, p->dim);
    for (int i = 1; i < p->vocab; i++)
        if (s->logits[i] > s->logits[best]) best = i;
    return best;
}

static float *room(size_t n) { return (float *)calloc(n, sizeof(float)); }

int main(int argc, char **argv)
{
    FILE *file = argc > 2 ? fopen(argv[1], "rb") : NULL;
    shape p;
    if (!file || fread(&p, sizeof p, 1, file) != 1) {
        fprintf(stderr, "usage: plain_llama MODEL.bin N\n");
        return 2;
    }
    const size_t d = (size_t)p.dim, h = (size_t)p.hidden, l = (size_t)p.layers, own = p.vocab < 0;
    p.vocab = abs(p.vocab);
    const size_t kv = d / (size_t)p.heads * (size_t)p.kv_heads, v = (size_t)p.vocab, c = (size_t)p.context;
    const size_t sizes[] = { v * d, l * d, l * d * d, l * d * kv, l * d * kv, l * d * d, l * d, l * d * h,
                             l * d * h, l * d * h, d, c * d / (size_t)p.heads, own ? v * d : 0 };
    const float *parts[13];
    for (int i = 0; i < 13; i++) {
        float *part = room(sizes[i] + 1);
        if (fread(part, sizeof *part, sizes[i], file) != sizes[i]) {
            fprintf(stderr, "truncated\n");
            return 1;
        }
        parts[i] = part;
    }
    const weights w = { parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], parts[6], parts[7],
                        parts[8], parts[9], parts[10], own ? parts[12] : parts[0] };
    const buffers s = { room(d), room(d), room(d), room(kv), room(kv), room(d), room(h), room(h), room(c),
                        room(l * c * kv), room(l * c * kv), room(v) };
    const int n = atoi(argv[2]) < p.context ? atoi(argv[2]) : p.context;
    for (int warm = 0; warm < 3; warm++) {
        const double start = seconds();
        int token = 1;
        for (int i = 0; i < n; i++) token = forward(&p, &w, &s, token, i);
        if (warm == 2) printf("%.0f tokens/s, last token %d\n", n / (seconds() - start), token);
    }
    return 0;
}
