/* board.h - what the two firmware examples share: seqmodel.h as microcontrollers want it, the memory that
   `sqm-info --target` printed (memory.h), the model in flash (model.h, from sqm-embed), a counter of
   instructions and a mark of how deep the stack went. A PC makes the numbers to compare with. */
#define SEQMODEL_NO_STDIO
#define SEQMODEL_NO_MALLOC
#define SEQMODEL_NO_ERROR_TEXT
#define SEQMODEL_Q8_ONLY                               /* the types of the weights here */
#ifndef HOST                                           /* there, seqmodel.o has the passes of a PC */
#  ifdef BYTES
#    define SEQMODEL_NO_TOKENIZER
#  endif
#  define SEQMODEL_IMPLEMENTATION
#endif
#include "../../seqmodel.h"
#include "memory.h"
#include "model.h"
#include <stdio.h>
#include <string.h>

/* ---- instructions: QEMU's -icount shift=0 runs one every nanosecond of the board's time ---------------- */
#if defined(__arm__)
static uint32_t clock_start;
static void count_begin(void)
{
    *(volatile uint32_t *)0xE000E014 = 0xffffff;       /* SysTick: reload value, counter, on at CPU speed */
    *(volatile uint32_t *)0xE000E018 = 0;
    *(volatile uint32_t *)0xE000E010 = 5;
    clock_start = *(volatile uint32_t *)0xE000E018;
}
static uint64_t count_end(void)                        /* of at most 2^24 ticks */
{
    const uint32_t ticks = (clock_start - *(volatile uint32_t *)0xE000E018) & 0xffffff;
    return (uint64_t)ticks * 1000000000u / CLOCK_HZ;
}
#elif defined(__riscv)
static uint32_t clock_start;
static uint32_t retired(void)
{
    uint32_t n;
    __asm__ volatile(".option push\n.option arch, +zicsr\ncsrr %0, minstret\n.option pop" : "=r"(n));
    return n;
}
static void count_begin(void) { clock_start = retired(); }
static uint64_t count_end(void) { return retired() - clock_start; }
#else
static void count_begin(void) { }
static uint64_t count_end(void) { return 0; }
#endif

/* ---- stack: fill what is free with a pattern, later see how much of it is left ------------------------- */
enum { STACK_LOOK = 16384, STACK_SKIP = 128 };         /* bytes; the frames of these functions are skipped */
#ifdef HOST
static void stack_paint(void) { }
static unsigned stack_used(void) { return 0; }
#else
static uintptr_t stack_top;
static volatile unsigned char *below_top(int bytes)
{
    return (volatile unsigned char *)(stack_top - (unsigned)bytes);
}
__attribute__((noinline)) static void stack_paint(void)
{
    stack_top = (uintptr_t)__builtin_frame_address(0);
    for (int i = STACK_SKIP; i < STACK_LOOK; i++) *below_top(i) = 0xa5;
}
__attribute__((noinline)) static unsigned stack_used(void)
{
    int i = STACK_LOOK - 1;
    while (i > STACK_SKIP && *below_top(i) == 0xa5) i--;
    return (unsigned)i;
}
#endif

/* ---- the arena, exactly as large as it must be --------------------------------------------------------- */
#define SESSION_AT ((MODEL_BYTES + 63) / 64 * 64)
#if defined(__GNUC__)
__attribute__((aligned(64)))
#endif
static unsigned char arena[SESSION_AT + SESSION_BYTES];

/* Opens the model in flash with a byte too little, which must be refused, then with what it needs. */
static sqm_session *start(const sqm_session_config *config)
{
    const sqm_op *const ops[] = { MODEL_OPS };
    const sqm_mixer *const mixers[] = { MODEL_MIXERS };
    sqm_open_options options;
    sqm_error err;
    sqm_model *m;
    sqm_session *s = NULL;
    memset(&options, 0, sizeof(options));
    options.ops = ops;
    options.mixers = mixers;
    if (sqm_open(&m, model, sizeof(model), &options, arena, MODEL_BYTES - 1, &err) != SQM_E_MEMORY ||
        err.value != MODEL_BYTES) printf("FAIL: a model in a byte less\n");
    if (sqm_open(&m, model, sizeof(model), &options, arena, MODEL_BYTES, &err) != SQM_OK) {
        printf("FAIL: sqm_open: error %d in line %d, %u\n", (int)err.code, err.line, (unsigned)err.value);
        return NULL;
    }
    if (sqm_session_init(&s, m, config, arena + SESSION_AT, SESSION_BYTES - 1, &err) != SQM_E_MEMORY ||
        err.value != SESSION_BYTES) printf("FAIL: a session in a byte less\n");
    if (sqm_session_init(&s, m, config, arena + SESSION_AT, SESSION_BYTES, &err) != SQM_OK)
        printf("FAIL: session_init: error %d, line %d, %u\n", (int)err.code, err.line, (unsigned)err.value);
    else printf("memory model %d session %d, a byte less is refused\n", MODEL_BYTES, SESSION_BYTES);
    return s;
}

/* FNV-1a over the bits of n floats */
static uint32_t hash_floats(uint32_t hash, const float *x, int n)
{
    const unsigned char *byte = (const unsigned char *)x;
    for (size_t i = 0; i < (size_t)n * sizeof(float); i++) hash = (hash ^ byte[i]) * 16777619u;
    return hash;
}
static int largest(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++) if (x[i] > x[best]) best = i;
    return best;
}
