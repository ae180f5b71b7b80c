/* Shows a model of signals on a microcontroller: rows of numbers in, scores out, at constant memory however
   long it lasts. The rows are made up here, so that every machine reads the same ones; the keyword model of
   examples/09_stream.c wants 24 energies of bands and a 1.
   Build and run like text.c; memory.h without -c: nothing grows. */
#include "board.h"

enum { N_ROWS = 100, MAX_WIDTH = 64 };

/* A bump that wanders over the columns, in steps that floats hold exactly; the last column is 1. */
static void make_row(float *row, int width, int t)
{
    for (int i = 0; i < width; i++) {
        const int ring = width * 16, far = (i * 16 - t * 7 % ring + ring) % ring;
        const int bump = far < 64 ? 64 - far : 0;
        row[i] = (float)(bump * 2 - 32 + (t * 31 + i * 17) % 13) / 32.0f;
    }
    row[width - 1] = 1.0f;
}

int main(void)
{
    uint32_t hash = 2166136261u;
    uint64_t instructions = 0;
    unsigned deepest = 0;
    float row[MAX_WIDTH];
    sqm_session_config config;
    sqm_model_info info;
    sqm_session *s;
    memset(&config, 0, sizeof(config));
    config.max_batch = 1;
    config.threads = 1;
    s = start(&config);
    if (!s) return 1;
    sqm_model_get_info(sqm_session_model(s), &info);
    if (info.input_width > MAX_WIDTH) { printf("FAIL: rows are too wide\n"); return 1; }
    printf("text ");
    for (int t = 0; t < N_ROWS; t++) {
        make_row(row, info.input_width, t);
        stack_paint();
        count_begin();
        if (sqm_feed_rows(s, 0, row, 1) != SQM_OK) { printf("FAIL: sqm_feed_rows\n"); return 1; }
        instructions += count_end();
        if (stack_used() > deepest) deepest = stack_used();
        hash = hash_floats(hash, sqm_logits(s, 0), info.vocab_size);
        if (t % 10 == 9) printf("%d ", largest(sqm_logits(s, 0), info.vocab_size));
    }
    printf("\nlogits %08lx\n", (unsigned long)hash);
    printf("instructions %lu stack %u\n", (unsigned long)(instructions / N_ROWS), deepest);
    return 0;
}
