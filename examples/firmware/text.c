/* Shows a text model on a microcontroller: weights in flash, one static arena, no heap; it writes the most
   likely continuation of a prompt and the hash of all logits, which are those of a PC, bit for bit.
   Build  make firmware (tests/firmware.sh has the commands); memory.h and model.h come from
          sqm-info FILE.sqm --target cortex-m7 -c 128 -b 1 --kv q8 > memory.h
          sqm-embed FILE.sqm -n model -o model.h
   Runs   on any board with a console; make firmware runs it in QEMU and compares */
#include "board.h"

#ifndef PROMPT
#  define PROMPT 1                                     /* token ids, separated by commas */
#endif
#ifndef KV
#  define KV SQM_KV_Q8                                 /* element type of attention caches */
#endif
#ifndef N_TOKENS
#  define N_TOKENS 40
#endif
static const int32_t prompt[] = { PROMPT };
enum { N_PROMPT = sizeof(prompt) / sizeof(prompt[0]) };

static void show(const sqm_session *s, int token)
{
    char piece[64];
#ifdef BYTES                                           /* ids are bytes: no tokenizer */
    const int32_t n = 1;
    piece[0] = (char)token;
    (void)s;
#else
    const int32_t n = sqm_token_text(sqm_session_model(s), token, 0, piece, (int32_t)sizeof(piece));
#endif
    if (n > 0 && n <= (int32_t)sizeof(piece)) printf("%.*s", (int)n, piece);
    else printf("[%d]", token);
}

int main(void)
{
    uint32_t hash = 2166136261u;
    uint64_t instructions = 0;
    unsigned deepest = 0;
    sqm_session_config config;
    sqm_model_info info;
    sqm_session *s;
    memset(&config, 0, sizeof(config));
    config.max_context = CONTEXT;
    config.max_batch = 1;
    config.threads = 1;
    config.kv = KV;
    s = start(&config);
    if (!s) return 1;
    sqm_model_get_info(sqm_session_model(s), &info);
    printf("text ");
    for (int i = 0, token = prompt[0]; i + 1 < N_PROMPT + N_TOKENS; i++) {
        const int32_t id = token;
        stack_paint();
        count_begin();
        if (sqm_feed(s, 0, &id, 1) != SQM_OK) { printf("FAIL: sqm_feed\n"); return 1; }
        instructions += count_end();
        if (stack_used() > deepest) deepest = stack_used();
        hash = hash_floats(hash, sqm_logits(s, 0), info.vocab_size);
        token = i + 1 < N_PROMPT ? prompt[i + 1] : largest(sqm_logits(s, 0), info.vocab_size);
        show(s, token);
    }
    printf("\nlogits %08lx\n", (unsigned long)hash);
    printf("instructions %lu stack %u\n", (unsigned long)(instructions / (N_PROMPT + N_TOKENS - 1)), deepest);
    return 0;
}
