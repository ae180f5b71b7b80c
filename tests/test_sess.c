/* test_sess.c - one result everywhere: the logits of a token do not depend, to the bit, on how a prompt is
   cut, what else is in
   the batch, the number of threads, the instruction set (exact products), or on fork, save and load. */
#define SEQMODEL_IMPLEMENTATION
#include "toy.h"
#include "check.h"
#ifndef TEST_TMP
#define TEST_TMP ""
#endif

enum { LENGTH = 200 };
static int32_t tokens[256];
static const size_t row_bytes = TOY_VOCAB * sizeof(float);

static sqm_session *make(const sqm_model *m, int32_t batch, int32_t sequences, int32_t threads, sqm_isa isa,
                         sqm_precision precision, sqm_kv kv)
{
    sqm_session_config c;
    sqm_error err;
    sqm_session *s;
    memset(&c, 0, sizeof(c));
    c.max_context = 256;
    c.max_batch = batch;
    c.n_sequences = sequences;
    c.threads = threads;
    c.isa = isa;
    c.precision = precision;
    c.kv = kv;
    s = sqm_session_create(m, &c, &err);
    CHECK(s != NULL);
    return s;
}

/* logits of all positions, the prompt fed in pieces of `step` */
static float *feed_in_steps(sqm_session *s, int32_t seq, int32_t step)
{
    float *logits = (float *)malloc(LENGTH * row_bytes);
    for (int32_t at = 0; at < LENGTH; at += step) {
        const int32_t n = LENGTH - at < step ? LENGTH - at : step;
        CHECK(sqm_feed_all(s, seq, tokens + at, n, logits + (size_t)at * TOY_VOCAB) == SQM_OK);
        CHECK(memcmp(sqm_logits(s, seq), logits + (size_t)(at + n - 1) * TOY_VOCAB, row_bytes) == 0);
    }
    CHECK(sqm_position(s, seq) == LENGTH);
    return logits;
}

static void check_same(const float *a, const float *b, const char *what)
{
    const int same = memcmp(a, b, LENGTH * row_bytes) == 0;
    if (!same) printf("differs: %s\n", what);
    CHECK(same);
}

static void test_splits(const sqm_model *m, sqm_precision precision, sqm_kv kv)
{
    static const int32_t steps[] = { 1, 3, 17, 64, 65, 199 };
    sqm_session *s = make(m, 256, 1, 1, SQM_ISA_AUTO, precision, kv);
    float *whole = feed_in_steps(s, 0, LENGTH);
    float largest = 0.0f;
    for (size_t i = 0; i < (size_t)LENGTH * TOY_VOCAB; i++) largest = whole[i] > largest ? whole[i] : largest;
    CHECK(largest > 1.0f && largest < 30.0f);
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        float *parts;
        CHECK(sqm_reset(s, 0) == SQM_OK);
        parts = feed_in_steps(s, 0, steps[i]);
        check_same(whole, parts, "steps");
        free(parts);
    }
    sqm_session_free(s);
    /* rings of other sizes, other threads */
    for (int32_t batch = 1; batch <= 100; batch = batch * 3 + 1) {
        float *other;
        s = make(m, batch, 2, 1 + batch % 2, SQM_ISA_AUTO, precision, kv);
        other = feed_in_steps(s, 1, 50);
        check_same(whole, other, "max_batch and threads");
        free(other);
        sqm_session_free(s);
    }
    free(whole);
}

static void test_isas(const sqm_model *m, sqm_precision precision, sqm_kv kv)
{
    static const sqm_isa isas[] = { SQM_ISA_AVX2, SQM_ISA_AVX512, SQM_ISA_NEON, SQM_ISA_WASM };
    sqm_session *s = make(m, 64, 1, 1, SQM_ISA_SCALAR, precision, kv);
    float *scalar = feed_in_steps(s, 0, LENGTH);
    sqm_session_free(s);
    for (int i = 0; i < 4; i++) {
        float *other;
        if (!sqm_cpu_has(isas[i])) continue;
        s = make(m, 64, 1, 1, isas[i], precision, kv);
        other = feed_in_steps(s, 0, LENGTH);
        check_same(scalar, other, sqm_isa_name(isas[i]));
        free(other);
        sqm_session_free(s);
    }
    free(scalar);
}

/* Three sequences of other lengths in packed batches give what each gives alone. */
static void test_batches(const sqm_model *m, sqm_precision precision)
{
    static const int32_t lengths[3] = { 70, 1, 129 };
    sqm_session *s = make(m, 40, 4, 2, SQM_ISA_AUTO, precision, SQM_KV_F32);
    sqm_input in[3] = { { 0, NULL, 0, NULL }, { 0, NULL, 0, NULL }, { 0, NULL, 0, NULL } };
    for (int32_t i = 0; i < 3; i++) {
        in[i].seq = 2 - i;
        in[i].tokens = tokens + 7 * i;
        in[i].n = lengths[i];
    }
    CHECK(sqm_feed_batch(s, in, 3) == SQM_OK);
    for (int32_t i = 0; i < 3; i++) {
        CHECK(sqm_feed(s, 3, tokens + 7 * i, lengths[i]) == SQM_OK);
        CHECK(memcmp(sqm_logits(s, 3), sqm_logits(s, 2 - i), row_bytes) == 0);
        CHECK(sqm_reset(s, 3) == SQM_OK);
    }
    /* one more token each, as decoding does */
    for (int32_t i = 0; i < 3; i++) {
        in[i].tokens = tokens + 100 + i;
        in[i].n = 1;
    }
    CHECK(sqm_feed_batch(s, in, 3) == SQM_OK);
    for (int32_t i = 0; i < 3; i++) {
        CHECK(sqm_feed(s, 3, tokens + 7 * i, lengths[i]) == SQM_OK);
        CHECK(sqm_feed(s, 3, tokens + 100 + i, 1) == SQM_OK);
        CHECK(memcmp(sqm_logits(s, 3), sqm_logits(s, 2 - i), row_bytes) == 0);
        CHECK(sqm_reset(s, 3) == SQM_OK);
    }
    sqm_session_free(s);
}

static void test_fork_save_load(const sqm_model *m, sqm_kv kv)
{
    sqm_session *s = make(m, 32, 2, 1, SQM_ISA_AUTO, SQM_FAST, kv), *other = make(m, 32, 1, 1, SQM_ISA_AUTO,
            SQM_FAST, kv);
    sqm_session *small, *f16 = make(m, 32, 1, 1, SQM_ISA_AUTO, SQM_FAST,
                                    kv == SQM_KV_F32 ? SQM_KV_F16 : SQM_KV_F32);
    size_t bytes;
    uint8_t *saved;
    CHECK(sqm_feed(s, 0, tokens, 130) == SQM_OK);
    CHECK(sqm_fork(s, 0, 1) == SQM_OK);
    bytes = sqm_state_size(s, 0);
    saved = (uint8_t *)malloc(bytes);
    CHECK(sqm_state_save(s, 0, saved, bytes - 1) == SQM_E_MEMORY);
    CHECK(sqm_state_save(s, 0, saved, bytes) == SQM_OK);
    CHECK(sqm_state_load(other, 0, saved, bytes) == SQM_OK);
    CHECK(memcmp(sqm_logits(s, 0), sqm_logits(other, 0), row_bytes) == 0);
    CHECK(sqm_feed(s, 0, tokens + 130, 40) == SQM_OK);
    CHECK(sqm_feed(s, 1, tokens + 130, 40) == SQM_OK);
    CHECK(sqm_feed(other, 0, tokens + 130, 40) == SQM_OK);
    CHECK(memcmp(sqm_logits(s, 0), sqm_logits(s, 1), row_bytes) == 0);
    CHECK(memcmp(sqm_logits(s, 0), sqm_logits(other, 0), row_bytes) == 0);
    for (size_t cut = 0; cut < bytes; cut += 1 + bytes / 50) CHECK(sqm_state_load(other, 0, saved,
            cut) == SQM_E_FORMAT);
    CHECK(sqm_state_load(f16, 0, saved, bytes) == SQM_E_SHAPE);
    saved[0] ^= 1;
    CHECK(sqm_state_load(other, 0, saved, bytes) == SQM_E_FORMAT);
    /* refused loads change nothing */
    CHECK(sqm_position(other, 0) == 170);
    small = make(m, 90, 1, 1, SQM_ISA_AUTO, SQM_FAST, kv);
    saved[0] ^= 1;
    /* its window ring has wrapped differently */
    CHECK(sqm_state_load(small, 0, saved, bytes) == SQM_E_SHAPE);
    sqm_session_free(small);
    sqm_session_free(f16);
    sqm_session_free(other);
    sqm_session_free(s);
    free(saved);
}

static void test_bad_arguments(const sqm_model *m)
{
    sqm_session *s = make(m, 16, 1, 1, SQM_ISA_AUTO, SQM_FAST, SQM_KV_AUTO);
    int32_t bad = TOY_VOCAB;
    float *before = (float *)malloc(row_bytes);
    sqm_input in[2] = { { 0, NULL, 0, NULL }, { 0, NULL, 0, NULL } };
    CHECK(sqm_logits(s, 0) == NULL);
    CHECK(sqm_feed(s, 0, tokens, 10) == SQM_OK);
    memcpy(before, sqm_logits(s, 0), row_bytes);
    CHECK(sqm_feed(s, 0, &bad, 1) == SQM_E_ARGUMENT && strstr(sqm_session_error(s)->text, "257"));
    bad = -1;
    CHECK(sqm_feed(s, 0, &bad, 1) == SQM_E_ARGUMENT);
    CHECK(sqm_feed(s, 1, tokens, 1) == SQM_E_ARGUMENT);
    CHECK(sqm_feed(s, -1, tokens, 1) == SQM_E_ARGUMENT);
    CHECK(sqm_feed(s, 0, NULL, 1) == SQM_E_ARGUMENT);
    CHECK(sqm_feed(s, 0, tokens, 0) == SQM_E_ARGUMENT);
    CHECK(sqm_feed(s, 0, tokens, 247) == SQM_E_LIMIT && strstr(sqm_session_error(s)->text, "256"));
    CHECK(sqm_feed_all(s, 0, tokens, 1, NULL) == SQM_E_ARGUMENT);
    CHECK(sqm_feed_batch(s, NULL, 1) == SQM_E_ARGUMENT);
    in[0].seq = in[1].seq = 0;
    in[0].tokens = in[1].tokens = tokens;
    in[0].n = in[1].n = 1;
    CHECK(sqm_feed_batch(s, in, 2) == SQM_E_ARGUMENT);
    CHECK(sqm_fork(s, 0, 3) == SQM_E_ARGUMENT && sqm_reset(s, 9) == SQM_E_ARGUMENT);
    CHECK(sqm_position(s, 0) == 10 && sqm_position(s, 5) == -1);
    /* nothing was lost */
    CHECK(memcmp(before, sqm_logits(s, 0), row_bytes) == 0);
    /* and it goes on to the very end */
    CHECK(sqm_feed(s, 0, tokens + 10, 246) == SQM_OK);
    CHECK(sqm_feed(s, 0, tokens, 1) == SQM_E_LIMIT);
    free(before);
    sqm_session_free(s);
}

/* A session for one row at a time, as microcontrollers have it: little work memory, none behind it, and the
   same logits. */
static void test_small(const sqm_model *m)
{
    for (int i = 0; i < 6; i++) {
        sqm_session_config c;
        sqm_session *s, *usual;
        sqm_model_info info;
        memset(&c, 0, sizeof(c));
        c.max_context = 100;
        c.precision = i < 3 ? SQM_FAST : SQM_EXACT;
        c.kv = (sqm_kv)(SQM_KV_F32 + i % 3);
        usual = sqm_session_create(m, &c, NULL);
        c.max_batch = c.threads = 1;
        const size_t need = sqm_session_size(m, &c, NULL);
        uint8_t *raw = (uint8_t *)malloc(need + 192), *memory = raw + (64 - (uintptr_t)raw % 64) % 64;
        memset(memory + need, 0xa5, 64);
        CHECK(sqm_session_init(&s, m, &c, memory, need - 1, NULL) == SQM_E_MEMORY);
        CHECK(sqm_session_init(&s, m, &c, memory, need, NULL) == SQM_OK);
        CHECK(sqm_feed(s, 0, tokens, 100) == SQM_OK && sqm_feed(usual, 0, tokens, 100) == SQM_OK);
        sqm_model_get_info(m, &info);
        CHECK(memcmp(sqm_logits(s, 0), sqm_logits(usual, 0), (size_t)info.vocab_size * sizeof(float)) == 0);
        for (int k = 0; k < 64; k++) CHECK(memory[need + (size_t)k] == 0xa5);
        sqm_session_free(usual);
        free(raw);
    }
}

/* The size is exact: one byte less fails cleanly, bytes behind it stay untouched. */
static void test_sizes(const sqm_model *m)
{
    sqm_session_config c;
    sqm_error err;
    size_t need;
    uint8_t *raw, *memory;
    sqm_session *s;
    memset(&c, 0, sizeof(c));
    c.max_context = 100;
    c.max_batch = 8;
    c.n_sequences = 3;
    c.threads = 2;
    need = sqm_session_size(m, &c, &err);
    CHECK(need > 0);
    raw = (uint8_t *)malloc(need + 192);
    memory = raw + (64 - (uintptr_t)raw % 64) % 64;
    memset(memory + need, 0xa5, 64);
    CHECK(sqm_session_init(&s, m, &c, memory, need - 1, &err) == SQM_E_MEMORY && err.value == need);
    CHECK(sqm_session_init(&s, m, &c, memory + 4, need, &err) == SQM_E_MEMORY);
    CHECK(sqm_session_init(&s, m, &c, memory, need, &err) == SQM_OK);
    for (int32_t seq = 0; seq < 3; seq++) CHECK(sqm_feed(s, seq, tokens, 100) == SQM_OK);
    for (int i = 0; i < 64; i++) CHECK(memory[need + (size_t)i] == 0xa5);
    c.max_context = 513;
    CHECK(sqm_session_size(m, &c, &err) == 0 && err.code == SQM_E_ARGUMENT);
    c.max_context = 100;
    c.max_batch = -1;
    CHECK(sqm_session_size(m, &c, &err) == 0 && err.code == SQM_E_ARGUMENT);
    c.max_batch = 0;
    c.kv = (sqm_kv)9;
    CHECK(sqm_session_size(m, &c, NULL) == 0);
    CHECK(sqm_session_size(NULL, &c, &err) == 0 && err.code == SQM_E_ARGUMENT);
    free(raw);
}

int main(void)
{
    static const sqm_dtype dtypes[] = { SQM_F32, SQM_F16, SQM_BF16, SQM_Q8, SQM_Q4, SQM_Q4M };
    const char *const path = TEST_TMP "toy_sess.sqm";
    for (int32_t i = 0; i < 256; i++) tokens[i] = (i * i * 31 + i * 7 + 3) % TOY_VOCAB;
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++) {
        sqm_error err;
        sqm_model *m;
        memset(&err, 0, sizeof(err));
        CHECK(toy_write(path, dtypes[i], &err) == SQM_OK);
        m = sqm_load_file(path, NULL, &err);
        if (!m) { printf("%s\n", err.text); return 1; }
        test_splits(m, SQM_EXACT, SQM_KV_F32);
        test_splits(m, SQM_FAST, SQM_KV_F16);
        test_splits(m, SQM_FAST, SQM_KV_Q8);
        test_splits(m, SQM_FAST, SQM_KV_Q4);
        test_isas(m, SQM_EXACT, SQM_KV_Q8);
        test_isas(m, SQM_FAST, SQM_KV_Q4);
        test_batches(m, SQM_FAST);
        if (i == 0) {
            test_fork_save_load(m, SQM_KV_F32);
            test_fork_save_load(m, SQM_KV_F16);
            test_fork_save_load(m, SQM_KV_Q8);
            test_fork_save_load(m, SQM_KV_Q4);
            test_bad_arguments(m);
            test_sizes(m);
            test_small(m);
        }
        sqm_model_free(m);
    }
    remove(path);
    return check_report("test_sess");
}
