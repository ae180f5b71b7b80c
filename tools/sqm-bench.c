/* sqm-bench: how fast a .sqm file runs here, beside what the machine could do: the read bandwidth and the
   arithmetic peaks are measured in the same run with the same number of threads.
   Build: cc -O2 -fopenmp tools/sqm-bench.c -o sqm-bench -lm */
#ifndef _GNU_SOURCE
#  define _GNU_SOURCE                                  /* getrusage and clock_gettime, also with -std=c99 */
#endif
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "eval_common.h"
#ifdef _OPENMP
#  include <omp.h>
#endif
#include <sys/resource.h>
#include <time.h>
#if defined(__x86_64__) && defined(__GNUC__)
#  include <immintrin.h>
#  define BENCH_X86 1
#else
#  define BENCH_X86 0
#endif
#if defined(__aarch64__) && defined(__GNUC__)
#  include <arm_neon.h>
#  define BENCH_NEON 1
#else
#  define BENCH_NEON 0
#endif

static const char help[] =
    "usage: sqm-bench FILE.sqm [options]\n"
    "\n"
    "Measures prefill of 512 and of 2,048 tokens and decoding after 16 and after 2,048, or, with any of\n"
    "-p N            prompt tokens fed at once (0)\n"
    "-n N            tokens fed one by one (0)\n"
    "-d N            tokens in the context before either begins (0)\n"
    "just that.\n"
    "-s N            sequences decoded together, a token of each at a time (1)\n"
    "-r N            repetitions; the median counts (5)\n"
    "-b N            max_batch of the session (the library's own choice)\n"
    "-t N            threads (all)\n"
    "--isa X         auto, scalar, avx2, avx512, neon or wasm\n"
    "--kv X          attention caches in f32, f16, q8 or q4 (f16; f32 with --exact)\n"
    "--exact         every product in float32\n"
    "--no-roofline   do not measure the machine\n"
    "--flat N        instead: time a token and bytes of state when 1, 1,000, 10,000 ... N tokens have gone\n"
    "                through one sequence; -n tokens timed at each length (64), the best of -r times\n"
    "\n"
    "Shares: decoding is held against the read bandwidth (bytes of weights and state a token reads),\n"
    "prefill against the peak of 8-bit products, or of float32 where weights are floats or with --exact.\n"
    "Small models stay in a cache and pass the bandwidth. All are cut to the model's context.\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage.\n";

/* tokens fed at once, or one by one, after `depth` others */
typedef struct figure {
    int32_t prompt, tokens, depth;
    double  rate, state_bytes;                         /* tokens a second (median); state at the end */
} figure;
enum { MAX_FIGURES = 4, MAX_SEQUENCES = 256 };

typedef struct bench {
    const char        *file;
    sqm_model_info     model;
    figure             figures[MAX_FIGURES];
    int32_t            n_figures, prompt, tokens, depth, sequences, repeats, roofline, threads, flat;
    sqm_session_config config;
    sqm_isa            isa;                            /* the one in use, never auto */
    double             open_seconds, weight_bytes;     /* weight_bytes: that one token reads */
    double             inner_products, head_products;  /* multiply-adds a token, and for a row of logits */
    int                mostly_quantized;
} bench;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- what the machine can do ------------------------------------------------------------------------------
   Each probe is a function that runs on every thread at once and returns how much it did; loops keep to
   registers or read memory once, in order. The sink keeps results alive. */
typedef struct probe {
    const uint8_t *data;                               /* read probe: this thread's part */
    size_t         bytes;
    int64_t        rounds;                             /* arithmetic probes */
    double         sink;
} probe;
typedef double (*probe_function)(probe *p);

static double read_plain(probe *p)
{
    uint64_t sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (size_t i = 0; i + 64 <= p->bytes; i += 64) {
        uint64_t word[8];
        memcpy(word, p->data + i, 64);
        for (int j = 0; j < 8; j++) sum[j] += word[j];
    }
    for (int j = 0; j < 8; j++) p->sink += (double)sum[j];
    return (double)p->bytes;
}

/* 16 chains of multiply and add: 2 * 16 operations a round */
static double fma_plain(probe *p)
{
    float a[16];
    for (int i = 0; i < 16; i++) a[i] = (float)i;
    for (int64_t r = 0; r < p->rounds; r++)
        for (int i = 0; i < 16; i++) a[i] = a[i] * 0.999f + 0.5f;
    for (int i = 0; i < 16; i++) p->sink += (double)a[i];
    return 32.0 * (double)p->rounds;
}

#if BENCH_X86
/* the compiler must not see that chains begin alike, or it computes only one of them */
#define OPAQUE8(a, b, c, d, e, f, g, h) \
    __asm__("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f), "+v"(g), "+v"(h))
#define OPAQUE4(a, b, c, d) __asm__("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d))
#define BENCH_AVX2 __attribute__((target("avx2,fma")))
#define BENCH_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

/* As many streams as the library's single-row products read at once: a lone one does not fill the memory. */
enum { STREAMS = 8 };

BENCH_AVX2 static double read_avx2(probe *p)
{
    const size_t part = p->bytes / STREAMS / 64 * 64;
    __m256i sum[STREAMS];
    for (int s = 0; s < STREAMS; s++) sum[s] = _mm256_setzero_si256();
    for (size_t i = 0; i < part; i += 64)
        for (int s = 0; s < STREAMS; s++) {
            const __m256i *at = (const __m256i *)(const void *)(p->data + (size_t)s * part + i);
            sum[s] = _mm256_add_epi64(sum[s], _mm256_add_epi64(_mm256_loadu_si256(at),
                                                               _mm256_loadu_si256(at + 1)));
        }
    for (int s = 1; s < STREAMS; s++) sum[0] = _mm256_add_epi64(sum[0], sum[s]);
    p->sink += (double)_mm256_extract_epi64(sum[0], 0);
    return (double)part * STREAMS;
}

/* 12 chains: enough for a latency of 5 cycles and 2 units */
BENCH_AVX2 static double fma_avx2(probe *p)
{
    const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.5f);
    __m256 a = y, b = x, c = y, d = x, e = y, f = x, g = y, h = x, i = y, j = x, k = y, l = x;
    OPAQUE8(a, b, c, d, e, f, g, h);
    OPAQUE4(i, j, k, l);
    for (int64_t r = 0; r < p->rounds; r++) {
        a = _mm256_fmadd_ps(a, x, y); b = _mm256_fmadd_ps(b, x, y); c = _mm256_fmadd_ps(c, x, y);
        d = _mm256_fmadd_ps(d, x, y); e = _mm256_fmadd_ps(e, x, y); f = _mm256_fmadd_ps(f, x, y);
        g = _mm256_fmadd_ps(g, x, y); h = _mm256_fmadd_ps(h, x, y); i = _mm256_fmadd_ps(i, x, y);
        j = _mm256_fmadd_ps(j, x, y); k = _mm256_fmadd_ps(k, x, y); l = _mm256_fmadd_ps(l, x, y);
    }
    a = _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)), _mm256_add_ps(e, f));
    g = _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(g, h), _mm256_add_ps(i, j)), _mm256_add_ps(k, l));
    p->sink += (double)_mm256_cvtss_f32(_mm256_add_ps(a, g));
    return 12 * 8 * 2.0 * (double)p->rounds;
}

/* u8 x s8 products of 32 bytes: maddubs, madd, add. The asm makes x look new, so that no product is kept. */
BENCH_AVX2 static inline __m256i dot_step(__m256i sum, __m256i x, __m256i w)
{
    __asm__ volatile("" : "+x"(x));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)));
}

BENCH_AVX2 static double dot_avx2(probe *p)
{
    const __m256i x = _mm256_set1_epi8(3), w = _mm256_set1_epi8(5);
    __m256i a = x, b = w, c = x, d = w, e = x, f = w, g = x, h = w;
    OPAQUE8(a, b, c, d, e, f, g, h);
    for (int64_t r = 0; r < p->rounds; r++) {
        a = dot_step(a, x, w); b = dot_step(b, x, w); c = dot_step(c, x, w); d = dot_step(d, x, w);
        e = dot_step(e, x, w); f = dot_step(f, x, w); g = dot_step(g, x, w); h = dot_step(h, x, w);
    }
    a = _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
    e = _mm256_add_epi32(_mm256_add_epi32(e, f), _mm256_add_epi32(g, h));
    p->sink += (double)_mm256_extract_epi32(_mm256_add_epi32(a, e), 0);
    return 8 * 32 * 2.0 * (double)p->rounds;
}

BENCH_AVX512 static double read_avx512(probe *p)
{
    const size_t part = p->bytes / STREAMS / 64 * 64;
    __m512i sum[STREAMS];
    for (int s = 0; s < STREAMS; s++) sum[s] = _mm512_setzero_si512();
    for (size_t i = 0; i < part; i += 64)
        for (int s = 0; s < STREAMS; s++)
            sum[s] = _mm512_add_epi64(sum[s], _mm512_loadu_si512(p->data + (size_t)s * part + i));
    for (int s = 1; s < STREAMS; s++) sum[0] = _mm512_add_epi64(sum[0], sum[s]);
    p->sink += (double)_mm512_reduce_add_epi64(sum[0]);
    return (double)part * STREAMS;
}

BENCH_AVX512 static double fma_avx512(probe *p)
{
    const __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.5f);
    __m512 a = y, b = x, c = y, d = x, e = y, f = x, g = y, h = x, i = y, j = x, k = y, l = x;
    OPAQUE8(a, b, c, d, e, f, g, h);
    OPAQUE4(i, j, k, l);
    for (int64_t r = 0; r < p->rounds; r++) {
        a = _mm512_fmadd_ps(a, x, y); b = _mm512_fmadd_ps(b, x, y); c = _mm512_fmadd_ps(c, x, y);
        d = _mm512_fmadd_ps(d, x, y); e = _mm512_fmadd_ps(e, x, y); f = _mm512_fmadd_ps(f, x, y);
        g = _mm512_fmadd_ps(g, x, y); h = _mm512_fmadd_ps(h, x, y); i = _mm512_fmadd_ps(i, x, y);
        j = _mm512_fmadd_ps(j, x, y); k = _mm512_fmadd_ps(k, x, y); l = _mm512_fmadd_ps(l, x, y);
    }
    a = _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)), _mm512_add_ps(e, f));
    g = _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(g, h), _mm512_add_ps(i, j)), _mm512_add_ps(k, l));
    p->sink += (double)_mm512_reduce_add_ps(_mm512_add_ps(a, g));
    return 12 * 16 * 2.0 * (double)p->rounds;
}

BENCH_AVX512 static double dot_avx512(probe *p)
{
    const __m512i x = _mm512_set1_epi8(3), w = _mm512_set1_epi8(5);
    __m512i a = x, b = w, c = x, d = w, e = x, f = w, g = x, h = w, i = x, j = w, k = x, l = w;
    OPAQUE8(a, b, c, d, e, f, g, h);
    OPAQUE4(i, j, k, l);
    for (int64_t r = 0; r < p->rounds; r++) {
        a = _mm512_dpbusd_epi32(a, x, w); b = _mm512_dpbusd_epi32(b, x, w); c = _mm512_dpbusd_epi32(c, x, w);
        d = _mm512_dpbusd_epi32(d, x, w); e = _mm512_dpbusd_epi32(e, x, w); f = _mm512_dpbusd_epi32(f, x, w);
        g = _mm512_dpbusd_epi32(g, x, w); h = _mm512_dpbusd_epi32(h, x, w); i = _mm512_dpbusd_epi32(i, x, w);
        j = _mm512_dpbusd_epi32(j, x, w); k = _mm512_dpbusd_epi32(k, x, w); l = _mm512_dpbusd_epi32(l, x, w);
    }
    a = _mm512_add_epi32(_mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d)),
                         _mm512_add_epi32(e, f));
    g = _mm512_add_epi32(_mm512_add_epi32(_mm512_add_epi32(g, h), _mm512_add_epi32(i, j)),
                         _mm512_add_epi32(k, l));
    p->sink += (double)_mm512_reduce_add_epi32(_mm512_add_epi32(a, g));
    return 12 * 64 * 2.0 * (double)p->rounds;
}
#endif

#if BENCH_NEON
static double fma_neon(probe *p)
{
    const float32x4_t x = vdupq_n_f32(0.999f), y = vdupq_n_f32(0.5f);
    float32x4_t a = y, b = x, c = y, d = x, e = y, f = x, g = y, h = x, i = y, j = x, k = y, l = x;
    __asm__("" : "+w"(a), "+w"(b), "+w"(c), "+w"(d), "+w"(e), "+w"(f), "+w"(g), "+w"(h));
    __asm__("" : "+w"(i), "+w"(j), "+w"(k), "+w"(l));
    for (int64_t r = 0; r < p->rounds; r++) {
        a = vfmaq_f32(y, a, x); b = vfmaq_f32(y, b, x); c = vfmaq_f32(y, c, x); d = vfmaq_f32(y, d, x);
        e = vfmaq_f32(y, e, x); f = vfmaq_f32(y, f, x); g = vfmaq_f32(y, g, x); h = vfmaq_f32(y, h, x);
        i = vfmaq_f32(y, i, x); j = vfmaq_f32(y, j, x); k = vfmaq_f32(y, k, x); l = vfmaq_f32(y, l, x);
    }
    a = vaddq_f32(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d)), vaddq_f32(e, f));
    g = vaddq_f32(vaddq_f32(vaddq_f32(g, h), vaddq_f32(i, j)), vaddq_f32(k, l));
    p->sink += (double)vaddvq_f32(vaddq_f32(a, g));
    return 12 * 4 * 2.0 * (double)p->rounds;
}
#endif

/* Amount a second over all threads: best of several runs, each probe on its own part. */
static double measure(probe_function f, probe *parts, int32_t threads, int32_t runs)
{
    double best = 0;
    for (int32_t run = 0; run < runs; run++) {
        double amount = 0;
        const double start = seconds();
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(+ : amount)
#endif
        for (int32_t t = 0; t < threads; t++) amount += f(&parts[t]);
        const double rate = amount / (seconds() - start);
        if (rate > best) best = rate;
    }
    return best;
}

typedef struct roofline { double read, fma, dot; } roofline;

static int measure_roofline(roofline *r, const bench *b, double weight_bytes)
{
    const size_t part = (size_t)((weight_bytes > 64e6 ? weight_bytes : 64e6) / b->threads) / 4096 * 4096;
    probe_function read = read_plain, fma = fma_plain, dot = NULL;
    probe *parts = (probe *)calloc((size_t)b->threads, sizeof *parts);
    uint8_t *memory = (uint8_t *)malloc(part * (size_t)b->threads);
    if (!parts || !memory) { free(parts); free(memory); return 0; }
#if BENCH_X86
    if (b->isa == SQM_ISA_AVX2) { read = read_avx2; fma = fma_avx2; dot = dot_avx2; }
    if (b->isa == SQM_ISA_AVX512) { read = read_avx512; fma = fma_avx512; dot = dot_avx512; }
#endif
#if BENCH_NEON
    if (b->isa == SQM_ISA_NEON) fma = fma_neon;
#endif
#ifdef _OPENMP
#pragma omp parallel for num_threads(b->threads) schedule(static, 1)
#endif
    for (int32_t t = 0; t < b->threads; t++) {
        parts[t].data = memory + part * (size_t)t;
        parts[t].bytes = part;
        parts[t].rounds = 2000000;
        memset(memory + part * (size_t)t, t + 1, part);
    }
    r->read = measure(read, parts, b->threads, 8);
    r->fma = measure(fma, parts, b->threads, 8);
    r->dot = dot ? measure(dot, parts, b->threads, 8) : 0;
    free(parts);
    free(memory);
    return 1;
}

/* ---- what the model does ------------------------------------------------------------------------------- */
static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *v, int32_t n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
}

/* Weights that every token reads: those of products. */
static void count_products(bench *b, const sqm_model_info *m)
{
    const double products = (double)m->token_products + (double)m->head_products;
    b->weight_bytes = (double)m->token_bytes;
    b->inner_products = (double)m->token_products;
    b->head_products = (double)m->head_products;
    b->mostly_quantized = b->config.precision == SQM_FAST && (double)m->coded_products > 0.5 * products;
}

/* Back to sequences of `depth` tokens, all alike. */
static sqm_result rewind_to(sqm_session *s, const int32_t *tokens, int32_t depth, int32_t sequences)
{
    sqm_result r = sqm_reset(s, 0);
    if (r == SQM_OK && depth > 0) r = sqm_feed(s, 0, tokens, depth);
    for (int32_t i = 1; i < sequences && r == SQM_OK; i++) r = sqm_fork(s, 0, i);
    return r;
}

/* A token to each sequence, in one call. */
static sqm_result feed_each(sqm_session *s, const int32_t *token, int32_t sequences)
{
    sqm_input inputs[MAX_SEQUENCES];
    for (int32_t i = 0; i < sequences; i++) {
        inputs[i].seq = i;
        inputs[i].tokens = token;
        inputs[i].n = 1;
        inputs[i].rows = NULL;
    }
    return sqm_feed_batch(s, inputs, sequences);
}

static sqm_result run_figure(const bench *b, figure *f, sqm_session *s, const int32_t *tokens)
{
    const int32_t n = f->prompt > 0 ? f->prompt : f->tokens * b->sequences;
    double *times = (double *)calloc((size_t)b->repeats, sizeof *times);
    sqm_result r = times ? SQM_OK : SQM_E_MEMORY;
    for (int32_t i = -1; i < b->repeats && r == SQM_OK; i++) {                          /* -1: warms up */
        r = rewind_to(s, tokens, f->depth, f->prompt > 0 ? 1 : b->sequences);
        const double start = seconds();
        if (f->prompt > 0 && r == SQM_OK) r = sqm_feed(s, 0, tokens + f->depth, f->prompt);
        for (int32_t t = 0; t < f->tokens && r == SQM_OK; t++)
            r = feed_each(s, tokens + f->depth + t, b->sequences);
        if (i >= 0) times[i] = (double)n / (seconds() - start);
    }
    if (r == SQM_OK) f->rate = median(times, b->repeats);
    f->state_bytes = (double)sqm_state_size(s, 0) - 4.0 * (double)b->model.vocab_size;  /* no logits */
    free(times);
    return r;
}

/* ---- the report ---------------------------------------------------------------------------------------- */
static void print_machine(const bench *b)
{
    char line[256], name[200] = "unknown processor";
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "model name", 10) == 0 && strchr(line, ':')) {
            snprintf(name, sizeof name, "%.190s", strchr(line, ':') + 2);
            name[strcspn(name, "\n")] = 0;
            break;
        }
    if (f) fclose(f);
    printf("machine   %s; %s, %d thread%s; %s\n", name, sqm_isa_name(b->isa), (int)b->threads,
           b->threads == 1 ? "" : "s", sqm_build_info());
}

static void print_model(const bench *b, size_t session_bytes)
{
    const sqm_model_info *info = &b->model;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
#if defined(__APPLE__)
    const double peak = (double)usage.ru_maxrss;
#else
    const double peak = 1024.0 * (double)usage.ru_maxrss;
#endif
    printf("model     %s; %.1f M parameters, %.1f MB; opened in %.1f ms\n",
           info->name[0] ? info->name : b->file, 1e-6 * (double)info->parameters,
           1e-6 * (double)info->weight_bytes, 1e3 * b->open_seconds);
    printf("memory    session %.1f MB, process at most %.1f MB\n", 1e-6 * (double)session_bytes, 1e-6 * peak);
}

static void print_row(const char *name, double tokens, double rate, const char *unit, double peak,
                      const char *of)
{
    printf("%-22s %12.1f %10.1f %s", name, tokens, 1e-9 * rate, unit);
    if (peak > 0) printf("%*s%6.1f%% of %s", (int)(9 - strlen(unit)), "", 100.0 * rate / peak, of);
    putchar('\n');
}

static void print_figure(const bench *b, const figure *f, const roofline *r)
{
    const int coded = b->mostly_quantized && r->dot > 0;
    char name[64];
    if (f->prompt > 0) {
        const double products = b->inner_products + b->head_products / f->prompt;
        snprintf(name, sizeof name, "prefill %d at %d", (int)f->prompt, (int)f->depth);
        print_row(name, f->rate, 2.0 * products * f->rate, b->mostly_quantized ? "GOP/s" : "GFLOP/s",
                  coded ? r->dot : r->fma, coded ? "the 8-bit peak" : "the float32 peak");
        return;
    }
    if (b->sequences > 1)
        snprintf(name, sizeof name, "decode %d x %d at %d", (int)b->sequences, (int)f->tokens, (int)f->depth);
    else
        snprintf(name, sizeof name, "decode %d at %d", (int)f->tokens, (int)f->depth);
    print_row(name, f->rate, (b->weight_bytes / b->sequences + f->state_bytes) * f->rate, "GB/s", r->read,
              "the read bandwidth");
}

static void print_results(const bench *b, const roofline *r)
{
    if (r->read > 0) {
        printf("roofline  read %.1f GB/s, float32 %.0f GFLOP/s", 1e-9 * r->read, 1e-9 * r->fma);
        if (r->dot > 0) printf(", 8-bit %.0f GOP/s", 1e-9 * r->dot);
        putchar('\n');
    }
    printf("a token   reads %.2f MB of weights", 1e-6 * b->weight_bytes);
    for (int32_t i = 0; i < b->n_figures; i++)
        if (b->figures[i].tokens > 0)
            printf(", at %d %.2f MB of state", (int)(b->figures[i].depth + b->figures[i].tokens),
                   1e-6 * b->figures[i].state_bytes);
    printf("\n%-22s %12s %10s\n", "figure", "tokens/s", "rate");
    for (int32_t i = 0; i < b->n_figures; i++) print_figure(b, &b->figures[i], r);
}

/* ---- options ------------------------------------------------------------------------------------------- */
static int parse_options(bench *b, int argc, char **argv)
{
    const struct { const char *name; int32_t *value; int32_t low, high; } numbers[] = {
        {"-p", &b->prompt, 0, 1 << 20}, {"-n", &b->tokens, 0, 1 << 20}, {"-d", &b->depth, 0, 1 << 20},
        {"-r", &b->repeats, 1, 1000}, {"-s", &b->sequences, 1, MAX_SEQUENCES},
        {"--flat", &b->flat, 1, 1 << 29}, {"-t", &b->threads, 1, 1024},
        {"-b", &b->config.max_batch, 1, 65536}};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        int known = 0;
        if (strcmp(argv[i], "--exact") == 0) { b->config.precision = SQM_EXACT; continue; }
        if (strcmp(argv[i], "--no-roofline") == 0) { b->roofline = 0; continue; }
        if (argv[i][0] != '-' && !b->file) { b->file = argv[i]; continue; }
        for (size_t k = 0; k < sizeof numbers / sizeof numbers[0] && !known; k++)
            known = strcmp(argv[i], numbers[k].name) == 0 &&
                    eval_parse_int(value, numbers[k].low, numbers[k].high, numbers[k].value);
        if (strcmp(argv[i], "--isa") == 0) known = eval_parse_isa(value, &b->config.isa);
        if (strcmp(argv[i], "--kv") == 0) known = eval_parse_kv(value, &b->config.kv);
        if (!known) {
            fprintf(stderr, "sqm-bench: wrong option or value: %s %s\n", argv[i], value);
            return 0;
        }
        i++;
    }
    return b->file != NULL && (!b->flat || (int64_t)b->tokens * b->repeats < 1 << 26);
}

/* A figure, cut to the context that a model was made for. */
static void add_figure(bench *b, int32_t prompt, int32_t tokens, int32_t depth)
{
    const int32_t limit = b->model.max_context;
    figure *f = &b->figures[b->n_figures];
    memset(f, 0, sizeof *f);
    f->depth = limit && depth >= limit ? limit - 1 : depth;
    f->prompt = limit && prompt > limit - f->depth ? limit - f->depth : prompt;
    f->tokens = limit && tokens > limit - f->depth ? limit - f->depth : tokens;
    for (int32_t i = 0; i < b->n_figures; i++)          /* two that the cut made equal */
        if (b->figures[i].prompt == f->prompt && b->figures[i].tokens == f->tokens &&
            b->figures[i].depth == f->depth) return;
    if (f->prompt + f->tokens > 0) b->n_figures++;
}

static void choose_figures(bench *b)
{
    const int32_t limit = b->model.max_context;
    if (b->prompt || b->tokens || b->depth) {
        add_figure(b, b->prompt, 0, b->depth);
        add_figure(b, 0, b->tokens, b->depth);
        return;
    }
    add_figure(b, 512, 0, 0);
    add_figure(b, 2048, 0, 0);
    add_figure(b, 0, 64, 16);
    add_figure(b, 0, 64, limit == 0 || limit >= 2112 ? 2048 : limit > 64 ? limit - 64 : 0);
}

static int32_t *draw_tokens(const bench *b, int32_t length)
{
    int32_t *tokens = (int32_t *)malloc(((size_t)length + 1) * sizeof *tokens);
    uint32_t seed = 1;
    for (int32_t i = 0; i < length && tokens; i++) {
        seed = seed * 1664525u + 1013904223u;
        tokens[i] = (int32_t)((seed >> 8) % (uint32_t)b->model.n_tokens);
    }
    return tokens;
}
/* Rows of a table: how long a token takes and what is kept, the longer a sequence gets */
static sqm_result run_flat(const bench *b, sqm_session *s)
{
    const size_t logits = (size_t)b->model.vocab_size * sizeof(float);
    const int32_t n_tokens = b->tokens > 512 ? b->tokens : 512;
    int32_t *tokens = draw_tokens(b, n_tokens);
    double *times = (double *)calloc((size_t)b->repeats, sizeof *times);
    sqm_result r = times && tokens ? sqm_reset(s, 0) : SQM_E_MEMORY;
    int32_t at = 0;
    printf("| tokens before | microseconds a token | bytes of state |\n|---|---|---|\n");
    for (int32_t length = 1; r == SQM_OK && length <= b->flat; length *= length == 1 ? 1000 : 10) {
        while (at < length && r == SQM_OK) {
            const int32_t n = length - at < n_tokens ? length - at : n_tokens;
            r = sqm_feed(s, 0, tokens, n);
            at += n;
        }
        for (int32_t i = 0; i < b->repeats && r == SQM_OK; i++) {
            const double start = seconds();
            for (int32_t t = 0; t < b->tokens && r == SQM_OK; t++) r = sqm_feed(s, 0, tokens + t, 1);
            times[i] = 1e6 * (seconds() - start) / b->tokens;
            at += b->tokens;
        }
        qsort(times, (size_t)b->repeats, sizeof *times, by_value);
        if (r == SQM_OK)
            printf("| %d | %.1f | %llu |\n", (int)length, times[0],
                   (unsigned long long)(sqm_state_size(s, 0) - logits));
        fflush(stdout);
        if (length > b->flat / 10) break;
    }
    free(times);
    free(tokens);
    return r;
}
static sqm_result run_figures(bench *b, sqm_session *s, int32_t length)
{
    int32_t *tokens = draw_tokens(b, length);
    sqm_result r = tokens ? SQM_OK : SQM_E_MEMORY;
    for (int32_t i = 0; i < b->n_figures && r == SQM_OK; i++) r = run_figure(b, &b->figures[i], s, tokens);
    free(tokens);
    return r;
}

static int run(bench *b)
{
    sqm_error err;
    roofline r = {0, 0, 0};
    sqm_result result = SQM_E_MEMORY;
    int32_t length = 1;
    const double start = seconds();
    sqm_model *m = sqm_load_file(b->file, NULL, &err);
    b->open_seconds = seconds() - start;
    if (!m) { fprintf(stderr, "sqm-bench: %s\n", err.text); return 1; }
    sqm_model_get_info(m, &b->model);
    if (b->model.n_tokens < 1) {
        fprintf(stderr, "sqm-bench: %s reads rows, not tokens\n", b->file);
        sqm_model_free(m);
        return 1;
    }
    if (b->flat && !b->tokens) b->tokens = 64;
    if (b->flat) length = b->flat + 8 * b->tokens * b->repeats + 1;       /* fits: see parse_options */
    else choose_figures(b);
    for (int32_t i = 0; i < b->n_figures; i++) {
        const figure *f = &b->figures[i];
        if (f->depth + f->prompt + f->tokens > length) length = f->depth + f->prompt + f->tokens;
    }
    b->config.max_context = length;
    b->config.n_sequences = b->sequences;
    b->config.threads = b->threads;
    b->isa = b->config.isa == SQM_ISA_AUTO ? sqm_cpu_best_isa() : b->config.isa;
    sqm_session *s = sqm_session_create(m, &b->config, &err);
    count_products(b, &b->model);
    if (s && b->flat) print_machine(b);
    if (s) result = b->flat ? run_flat(b, s) : run_figures(b, s, length);
    if (s && result != SQM_OK) err = *sqm_session_error(s);
    if (result != SQM_OK) fprintf(stderr, "sqm-bench: %s\n", err.text);
    else if (!b->flat) {
        print_machine(b);
        print_model(b, sqm_session_size(m, &b->config, &err));
        if (b->roofline && !measure_roofline(&r, b, b->weight_bytes))
            fprintf(stderr, "sqm-bench: no memory to measure the machine\n");
        print_results(b, &r);
    }
    sqm_session_free(s);
    sqm_model_free(m);
    return result != SQM_OK;
}

int main(int argc, char **argv)
{
    bench b;
    memset(&b, 0, sizeof b);
    b.sequences = 1;
    b.repeats = 5;
    b.roofline = 1;
    b.threads = 1;
#ifdef _OPENMP
    b.threads = omp_get_max_threads();
#endif
    if (argc > 1 && strcmp(argv[1], "--help") == 0) { fputs(help, stdout); return 0; }
    if (!parse_options(&b, argc, argv)) { fputs(help, stderr); return 2; }
    return run(&b);
}
