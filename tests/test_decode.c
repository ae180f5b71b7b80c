/* Ways to decode, on tiny random models with attention, with windows, with recurrent states and with all:
   going back, constraints of the sampler, speculation (same text, to the bit, as without), beam search
   (against all texts there are, and against a plain version of itself), grammars in generation, chats. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "check.h"
#include "tiny.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const pieces[] = {
    "<s>", "</s>", "<tool>", "a", "b", "c", " a", " ", "ab", "1", "2", ",", "[", "]", "<u>", "\n",
    "{", "}", "\"", ":"};
enum { PIECES = sizeof(pieces) / sizeof(pieces[0]), FEW = 5 };
static const int kinds[] = {TINY_ATTENTION, TINY_WINDOW, TINY_RECURRENT,
    TINY_ATTENTION | TINY_WINDOW | TINY_RECURRENT};
static const size_t row_bytes = PIECES * sizeof(float);
static sqm_error err;

static sqm_session *session_of(const sqm_model *m, int32_t n_sequences, int32_t max_batch)
{
    sqm_session_config c;
    memset(&c, 0, sizeof(c));
    c.n_sequences = n_sequences;
    c.max_batch = max_batch;
    sqm_session *s = sqm_session_create(m, &c, &err);
    if (!s) printf("%s\n", err.text);
    CHECK(s != NULL);
    return s;
}

/* ---- going back ---------------------------------------------------------------------------------------- */
static void test_rewind(int kind)
{
    int32_t tokens[TINY_CONTEXT];
    sqm_model *m = tiny_model(pieces, PIECES, 3, 0, kind, 5);
    sqm_session *s = session_of(m, 2, 8);
    const int has_past = !(kind & TINY_RECURRENT), windows = (kind & TINY_WINDOW) != 0;
    float logits[PIECES];
    for (int i = 0; i < TINY_CONTEXT; i++) tokens[i] = (i * i * 7 + i / 3) % PIECES;
    CHECK(sqm_feed(s, 1, tokens, 150) == SQM_OK);      /* without going back */
    memcpy(logits, sqm_logits(s, 1), row_bytes);
    CHECK(sqm_feed(s, 0, tokens, 145) == SQM_OK);
    CHECK(sqm_feed(s, 0, tokens, 8) == SQM_OK);        /* wrong ones */
    CHECK(sqm_rewind(s, 0, 145) == (has_past ? SQM_OK : SQM_E_UNSUPPORTED));
    CHECK(sqm_rewind(s, 0, 160) == SQM_E_ARGUMENT && sqm_rewind(s, 0, -1) == SQM_E_ARGUMENT);
    CHECK(sqm_rewind(s, 7, 0) == SQM_E_ARGUMENT);
    if (has_past) {
        CHECK(sqm_logits(s, 0) == NULL && sqm_position(s, 0) == 145);
        CHECK(sqm_feed(s, 0, tokens + 145, 5) == SQM_OK);
        CHECK(memcmp(logits, sqm_logits(s, 0), row_bytes) == 0);
        CHECK(sqm_rewind(s, 0, 144) == (windows ? SQM_E_LIMIT : SQM_OK));      /* 153 was reached */
        CHECK(sqm_rewind(s, 0, 20) == (windows ? SQM_E_LIMIT : SQM_OK));
        if (!windows) {
            CHECK(sqm_feed(s, 0, tokens + 20, 130) == SQM_OK);
            CHECK(memcmp(logits, sqm_logits(s, 0), row_bytes) == 0);
        }
    }
    CHECK(sqm_rewind(s, 0, 0) == SQM_OK && sqm_position(s, 0) == 0);
    CHECK(sqm_feed(s, 0, tokens, 150) == SQM_OK);
    CHECK(memcmp(logits, sqm_logits(s, 0), row_bytes) == 0);
    sqm_session_free(s);
    sqm_model_free(m);
}

/* A prefix is read once and forked: each continuation is what reading all of it gives. */
static void test_prefix_reuse(int kind)
{
    static const int32_t prefix[] = {0, 3, 4, 5, 6, 3, 8, 9, 4, 4, 5};
    static const int32_t rest[2][4] = {{3, 3, 9, 4}, {10, 11, 12, 5}};
    sqm_model *m = tiny_model(pieces, PIECES, 3, 0, kind, 6);
    sqm_session *s = session_of(m, 3, 0);
    CHECK(sqm_feed(s, 0, prefix, 11) == SQM_OK);
    for (int32_t i = 0; i < 2; i++) {
        CHECK(sqm_fork(s, 0, 1) == SQM_OK && sqm_feed(s, 1, rest[i], 4) == SQM_OK);
        CHECK(sqm_reset(s, 2) == SQM_OK && sqm_feed(s, 2, prefix, 11) == SQM_OK);
        CHECK(sqm_feed(s, 2, rest[i], 4) == SQM_OK);
        CHECK(memcmp(sqm_logits(s, 1), sqm_logits(s, 2), row_bytes) == 0);
    }
    sqm_session_free(s);
    sqm_model_free(m);
}

/* ---- the sampler's constraints ------------------------------------------------------------------------- */
static void test_biases_and_allowed_tokens(void)
{
    static const float logits[6] = {1.0f, 5.0f, 4.0f, 3.0f, -2.0f, 0.0f};
    const sqm_bias ban[2] = {{1, -INFINITY}, {3, 1.5f}}, outside[2] = {{-1, 9.0f}, {6, 9.0f}};
    const uint32_t allowed[1] = {1u << 0 | 1u << 4 | 1u << 5};
    uint64_t scratch[8];
    sqm_sampler p;
    int32_t count[6] = {0, 0, 0, 0, 0, 0};
    memset(&p, 0, sizeof(p));
    CHECK(sqm_sample(&p, logits, 6, NULL, 0, NULL, 0) == 1);
    p.biases = ban;
    p.n_biases = 2;
    CHECK(sqm_sample(&p, logits, 6, NULL, 0, NULL, 0) == SQM_E_MEMORY);
    CHECK(sqm_sample(&p, logits, 6, NULL, 0, scratch, sizeof(scratch)) == 3);   /* 4.5 */
    p.biases = outside;
    CHECK(sqm_sample(&p, logits, 6, NULL, 0, scratch, sizeof(scratch)) == 1);
    p.allowed = allowed;
    CHECK(sqm_sample(&p, logits, 6, NULL, 0, scratch, sizeof(scratch)) == 0);
    const int32_t recent[1] = {0};
    p.presence_penalty = 1.5f;                         /* 1 becomes -0.5 */
    CHECK(sqm_sample(&p, logits, 6, recent, 1, scratch, sizeof(scratch)) == 5);
    memset(&p, 0, sizeof(p));
    sqm_sampler_seed(&p, 3);
    p.temperature = 1.0f;
    p.biases = ban;
    p.n_biases = 2;
    p.allowed = allowed;
    for (int i = 0; i < 20000; i++) count[sqm_sample(&p, logits, 6, NULL, 0, scratch, sizeof(scratch))]++;
    CHECK(count[1] == 0 && count[2] == 0 && count[3] == 0);
    const double total = exp(1.0) + exp(-2.0) + exp(0.0);
    CHECK(fabs(count[0] / 20000.0 - exp(1.0) / total) < 0.015 &&
          fabs(count[4] / 20000.0 - exp(-2.0) / total) < 0.01);
    const uint32_t none[1] = {0};
    p.allowed = none;
    CHECK(sqm_sample(&p, logits, 6, NULL, 0, scratch, sizeof(scratch)) == SQM_E_ARGUMENT);
}

/* ---- speculation --------------------------------------------------------------------------------------- */
typedef struct heard { char text[4096]; int32_t bytes; } heard;
static int hear(void *user, const char *text, int32_t bytes)
{
    heard *h = (heard *)user;
    memcpy(h->text + h->bytes, text, (size_t)bytes);
    h->bytes += bytes;
    h->text[h->bytes] = 0;
    return 0;
}
/* Generates thrice in a row, with other settings each time; all that comes of it into h, logits, rng. */
static void generate_thrice(sqm_session *s, sqm_generate_options *o, uint64_t seed, heard *h, float *logits,
                            uint64_t rng[2], int32_t numbers[12])
{
    static const char *const prompts[3] = {"abab12,ab", "12,12,", ""};
    static const char *const stop[] = {"b]b", NULL};
    sqm_sampler sampler;
    memset(h, 0, sizeof(*h));
    memset(&sampler, 0, sizeof(sampler));
    sampler.temperature = seed % 3 == 0 ? 0.0f : 0.3f * (float)(seed % 3);
    sampler.repeat_penalty = seed % 5 == 4 ? 1.1f : 0.0f;
    sampler.top_p = 0.9f;
    sqm_sampler_seed(&sampler, seed);
    o->sampler = &sampler;
    CHECK(sqm_reset(s, 0) == SQM_OK);
    for (int i = 0; i < 3; i++) {
        sqm_generate_stats stats;
        o->max_tokens = i == 2 ? 0 : 20 + (int32_t)(seed % 4);
        o->stop = i == 1 ? stop : NULL;
        const sqm_result r = sqm_generate(s, 0, prompts[i], o, hear, h, &stats);
        if (r < 0 && o->grammar == NULL) printf("%s\n", sqm_session_error(s)->text);
        numbers[4 * i] = (int32_t)r;
        numbers[4 * i + 1] = stats.new_tokens;
        numbers[4 * i + 2] = stats.reason;
        numbers[4 * i + 3] = sqm_position(s, 0);
    }
    memcpy(logits, sqm_logits(s, 0), row_bytes);
    memcpy(rng, sampler.rng, sizeof(sampler.rng));
}
static void test_speculation(int kind)
{
    static heard plain, guessed;
    int32_t accepted = 0;
    for (uint64_t seed = 0; seed < 12; seed++) {
        const uint64_t draft_seed = seed % 2 ? 100 + seed : 7;
        sqm_model *m = tiny_model(pieces, PIECES, 3, 0, kind, 100 + seed);
        sqm_model *d = tiny_model(pieces, PIECES, 3, 0, kinds[seed % 4], draft_seed);
        sqm_session *s = session_of(m, 3, 0), *draft = session_of(d, 2, 0);
        float logits[2][PIECES];
        uint64_t rng[2][2];
        int32_t numbers[2][12];
        sqm_generate_options o;
        memset(&o, 0, sizeof(o));
        if (seed % 4 == 2) o.grammar = sqm_grammar_create(m, "root ::= ([ab12,] | \" \")+ \"]\"", NULL, &err);
        generate_thrice(s, &o, seed, &plain, logits[0], rng[0], numbers[0]);
        for (int from_draft = 0; from_draft < 2; from_draft++) {
            sqm_speculator_config c;
            memset(&c, 0, sizeof(c));
            c.n_guesses = 1 + (int32_t)(seed % 7);
            c.least = 1 + (int32_t)(seed % 2);
            c.spare = 2;
            c.draft = from_draft ? draft : NULL;
            c.draft_spare = 1;
            o.speculator = sqm_speculator_create(s, &c, &err);
            if (!o.speculator) printf("%s\n", err.text);
            CHECK(o.speculator != NULL);
            generate_thrice(s, &o, seed, &guessed, logits[1], rng[1], numbers[1]);
            accepted += o.speculator->accepted;
            CHECK_TEXT(guessed.text, plain.text);
            CHECK(memcmp(numbers[0], numbers[1], sizeof(numbers[0])) == 0);
            CHECK(memcmp(logits[0], logits[1], row_bytes) == 0);
            CHECK(memcmp(rng[0], rng[1], sizeof(rng[0])) == 0);
            sqm_speculator_free(o.speculator);
        }
        sqm_grammar_free(o.grammar);
        sqm_session_free(draft);
        sqm_session_free(s);
        sqm_model_free(d);
        sqm_model_free(m);
    }
    CHECK(accepted > 50 || kind == TINY_LONG);         /* which does not guess beyond 40 tokens */
}
/* A speculator goes on when its sequence is reset, goes back or reads other tokens in between. */
static void test_speculation_after_changes(int kind)
{
    static heard h[2];
    const int32_t others[4] = {9, 9, 11, 10};
    const int has_past = !(kind & TINY_RECURRENT);
    sqm_model *m = tiny_model(pieces, PIECES, 3, 0, kind, 31);
    sqm_session *s = session_of(m, 2, 0), *draft = session_of(m, 2, 0);
    sqm_generate_options o;
    memset(&o, 0, sizeof(o));
    o.max_tokens = 15;
    for (int from_draft = 0; from_draft < 2; from_draft++) {
        sqm_speculator_config c;
        memset(&c, 0, sizeof(c));
        c.least = c.spare = c.draft_spare = 1;
        c.draft = from_draft ? draft : NULL;
        sqm_speculator *p = sqm_speculator_create(s, &c, &err);
        memset(h, 0, sizeof(h));
        for (int k = 0; k < 2; k++) {
            o.speculator = k ? p : NULL;
            for (int round = 0; round < 2; round++) {
                CHECK(sqm_reset(s, 0) == SQM_OK);
                CHECK(sqm_generate(s, 0, "abab,1,1,", &o, hear, &h[k], NULL) == SQM_OK);
                if (has_past) CHECK(sqm_rewind(s, 0, sqm_position(s, 0) - 3) == SQM_OK);
                CHECK(sqm_generate(s, 0, "12", &o, hear, &h[k], NULL) == SQM_OK);
                CHECK(sqm_feed(s, 0, others, 4) == SQM_OK); /* the draft model does not see these */
                if (!from_draft) CHECK(sqm_generate(s, 0, "2", &o, hear, &h[k], NULL) == SQM_OK);
            }
        }
        CHECK_TEXT(h[0].text, h[1].text);
        if (from_draft) CHECK(sqm_generate(s, 0, "2", &o, hear, h, NULL) == SQM_E_ARGUMENT);
        sqm_speculator_free(p);
    }
    CHECK(strncmp(sqm_session_error(s)->text, "the draft model has read", 24) == 0);
    sqm_session_free(draft);
    sqm_session_free(s);
    sqm_model_free(m);
}
static void test_speculation_refusals(void)
{
    static const char *const other[PIECES] = {
        "<s>", "</s>", "<tool>", "a", "b", "c", " a", " ", "ab", "x", "2", ",", "[", "]", "<u>",
        "\n", "{", "}", "\"", ":"};
    sqm_model *m = tiny_model(pieces, PIECES, 3, 0, TINY_RECURRENT, 1);
    sqm_model *d = tiny_model(other, PIECES, 3, 0, TINY_ATTENTION, 1);
    sqm_session *s = session_of(m, 2, 8), *draft = session_of(d, 1, 0), *two = session_of(m, 2, 0);
    sqm_speculator_config c;
    sqm_generate_options o;
    sqm_speculator *p;
    memset(&c, 0, sizeof(c));
    memset(&o, 0, sizeof(o));
    CHECK(sqm_speculator_size(s, &c, &err) == 0 && err.code == SQM_E_ARGUMENT);      /* no spare */
    c.spare = 1;
    c.n_guesses = 8;
    CHECK(sqm_speculator_size(s, &c, &err) == 0 && strstr(err.text, "max_batch - 1 = 7"));
    c.n_guesses = 0;
    c.draft = draft;
    CHECK(sqm_speculator_size(s, &c, &err) == 0 && strstr(err.text, "token 9 of the draft"));
    c.draft = NULL;
    const size_t need = sqm_speculator_size(s, &c, &err);
    uint8_t *const raw = (uint8_t *)malloc(need + 192), *const memory = raw + (64 - (uintptr_t)raw % 64) % 64;
    memset(memory + need, 0xa5, 64);
    CHECK(sqm_speculator_init(&p, s, &c, memory, need - 1, &err) == SQM_E_MEMORY);
    CHECK(sqm_speculator_init(&p, s, &c, memory, need, &err) == SQM_OK);
    o.speculator = p;
    o.max_tokens = 40;
    CHECK(sqm_generate(s, 0, "ababab", &o, NULL, NULL, NULL) == SQM_OK);
    for (int i = 0; i < 64; i++) CHECK(memory[need + (size_t)i] == 0xa5);
    CHECK(sqm_generate(two, 0, "a", &o, NULL, NULL, NULL) == SQM_E_ARGUMENT);
    CHECK_TEXT(sqm_session_error(two)->text, "the speculator was made for another session");
    free(raw);
    sqm_session_free(two);
    sqm_session_free(draft);
    sqm_session_free(s);
    sqm_model_free(d);
    sqm_model_free(m);
}

/* ---- grammars in generation ---------------------------------------------------------------------------- */
static void test_generate_with_grammar(void)
{
    static heard h;
    sqm_model *m = tiny_model(pieces, PIECES, 3, 1, TINY_ATTENTION, 3);
    sqm_session *s = session_of(m, 1, 0);
    sqm_generate_options o;
    sqm_generate_stats stats;
    sqm_sampler sampler;
    memset(&o, 0, sizeof(o));
    memset(&sampler, 0, sizeof(sampler));
    sampler.temperature = 1.5f;
    o.sampler = &sampler;
    for (uint64_t seed = 0; seed < 100; seed++) {      /* always as the rules want, and ends by itself */
        o.grammar = sqm_grammar_create(m, "root ::= \"[\" [12]{1,3} (\",\" [ab]{2})* \"]\"", NULL, &err);
        sqm_sampler_seed(&sampler, seed);
        memset(&h, 0, sizeof(h));
        CHECK(sqm_reset(s, 0) == SQM_OK);
        o.max_tokens = 60;
        CHECK(sqm_generate(s, 0, "ab", &o, hear, &h, &stats) == SQM_OK);
        CHECK(stats.reason == SQM_END_GRAMMAR || stats.reason == SQM_END_MAX_TOKENS);
        CHECK(sqm_grammar_reset(o.grammar, 0) == SQM_OK);
        CHECK(sqm_grammar_accept_text(o.grammar, 0, h.text, (size_t)h.bytes, &err) == SQM_OK);
        CHECK(sqm_grammar_can_end(o.grammar, 0) == (stats.reason == SQM_END_GRAMMAR));
        sqm_grammar_free(o.grammar);
    }
    /* where the text begins, the decoder takes one space: the grammar sees what is printed */
    o.sampler = NULL;
    o.grammar = sqm_grammar_create(m, "root ::= \"a\" \" \" \"b\"", NULL, &err);
    CHECK(sqm_reset(s, 0) == SQM_OK);
    memset(&h, 0, sizeof(h));
    CHECK(sqm_generate(s, 0, "", &o, hear, &h, &stats) == SQM_OK);
    CHECK_TEXT(h.text, "a b");
    /* a text that goes on without a prompt, and one that begins anew with it */
    for (int32_t n = 1; n < 3; n++) {
        CHECK(sqm_reset(s, 0) == SQM_OK);
        memset(&h, 0, sizeof(h));
        o.max_tokens = n;
        CHECK(sqm_generate(s, 0, "1", &o, hear, &h, &stats) == SQM_OK && stats.reason == SQM_END_MAX_TOKENS);
        o.max_tokens = 0;
        CHECK(sqm_generate(s, 0, NULL, &o, hear, &h, &stats) == SQM_OK && stats.reason == SQM_END_GRAMMAR);
        CHECK_TEXT(h.text, "a b");
    }
    o.grammar_seq = 1;
    CHECK(sqm_generate(s, 0, "1", &o, hear, &h, &stats) == SQM_E_ARGUMENT);
    sqm_grammar_free(o.grammar);
    o.grammar_seq = 0;
    o.grammar = sqm_grammar_create(m, "root ::= \"xyz\"", NULL, &err);               /* no token has an x */
    CHECK(sqm_generate(s, 0, "1", &o, hear, &h, &stats) == SQM_E_LIMIT);
    CHECK_TEXT(sqm_session_error(s)->text, "no token goes on as the grammar wants");
    sqm_grammar_free(o.grammar);
    sqm_session_free(s);
    sqm_model_free(m);
}

/* ---- beam search --------------------------------------------------------------------------------------- */
typedef struct text_of { int32_t tokens[8], n, ended; double log_prob, score; } text_of;
static double log_softmax(const float *logits, int32_t n, int32_t id)
{
    double sum = 0.0;
    for (int32_t i = 0; i < n; i++) sum += exp((double)logits[i]);
    return (double)logits[id] - log(sum);
}
static int by_score(const void *a, const void *b)
{
    const double x = ((const text_of *)a)->score, y = ((const text_of *)b)->score;
    return x < y ? 1 : x > y ? -1 : 0;
}
/* do tokens of the FEW end with "ab", special ones left out? */
static int ends_with_ab(const int32_t *tokens, int32_t n)
{
    int32_t last = 0;
    if (n < 1 || tokens[n - 1] != 4) return 0;
    for (int32_t i = 0; i < n - 1; i++) if (tokens[i] >= 3) last = tokens[i];
    return last == 3;
}
/* All texts of up to `most` tokens that end, with "ab" if stops is set, or have that length. */
static int32_t all_texts(sqm_session *s, text_of *out, int32_t most, double power, uint32_t banned, int stops)
{
    int32_t digits[8] = {0}, n_out = 0, depth = 1;
    double sum[9] = {0.0};
    float rows[9][FEW];
    memcpy(rows[0], sqm_logits(s, 0), sizeof(rows[0]));
    for (digits[0] = 0; depth > 0;) {
        const int32_t id = digits[depth - 1];
        if (id == FEW) { if (--depth > 0) digits[depth - 1]++; continue; }
        for (int32_t k = 0; k < FEW; k++) if (banned >> k & 1) rows[depth - 1][k] = -INFINITY;
        sum[depth] = sum[depth - 1] + log_softmax(rows[depth - 1], FEW, id);
        const int stopped = stops && ends_with_ab(digits, depth);
        if (id == 1 || stopped || depth == most) {
            text_of *t = &out[n_out++];
            t->n = depth - (id == 1);
            memcpy(t->tokens, digits, (size_t)t->n * sizeof(int32_t));
            t->ended = id == 1 || stopped;
            t->log_prob = sum[depth];
            t->score = sum[depth] / pow((double)depth, power);
            digits[depth - 1]++;
            continue;
        }
        CHECK(sqm_fork(s, 0, 1) == SQM_OK && sqm_feed(s, 1, digits, depth) == SQM_OK);
        memcpy(rows[depth], sqm_logits(s, 1), sizeof(rows[0]));
        digits[depth++] = 0;
    }
    qsort(out, (size_t)n_out, sizeof(*out), by_score);
    return n_out;
}
static int same_text(const sqm_beam *b, const text_of *t)
{
    return b->n_tokens == t->n && b->ended == t->ended &&
           memcmp(b->tokens, t->tokens, (size_t)t->n * sizeof(int32_t)) == 0;
}
/* With more beams than there are texts, the search finds the best of all. */
static void test_beams_against_all_texts(int kind, float power)
{
    static text_of all[2000];
    enum { MOST = 4, BEAMS = 300, BEST = 20 };
    static sqm_beam best[BEST];
    for (uint64_t seed = 0; seed < 4; seed++) {
        sqm_model *m = tiny_model(pieces, FEW, 3, 0, kind, 40 + seed);
        sqm_session *s = session_of(m, BEAMS + 1, 0);
        const int32_t prompt[3] = {0, 3, 4};
        const sqm_bias ban[1] = {{2, -INFINITY}};
        const uint32_t banned = 1u << 2;
        const char *const stop[3] = {"xyz", "ab", NULL};
        sqm_beam_options o;
        int32_t n = 0, same = 1;
        memset(&o, 0, sizeof(o));
        o.n_beams = BEAMS;
        o.n_best = BEST;
        o.max_tokens = MOST;
        o.length_power = power;
        o.biases = ban;
        o.n_biases = seed % 2 ? 1 : 0;
        o.stop = seed / 2 ? stop : NULL;
        CHECK(sqm_feed(s, 0, prompt, 3) == SQM_OK);
        const int32_t n_all = all_texts(s, all, MOST, (double)power, seed % 2 ? banned : 0,
                                        seed / 2 != 0);
        const size_t need = sqm_beam_size(s, &o, &err);
        void *memory = malloc(need);
        CHECK(sqm_beam_search(s, 0, &o, memory, need - 1, best, &n) == SQM_E_MEMORY);
        CHECK(sqm_beam_search(s, 0, &o, memory, need, best, &n) == SQM_OK);
        CHECK(n == BEST && n_all > BEST && sqm_position(s, 0) == 3);
        for (int32_t i = 0; i < n; i++) {
            same &= same_text(&best[i], &all[i]);
            CHECK(fabs(best[i].log_prob - all[i].log_prob) < 1e-5 &&
                  fabs(best[i].score - all[i].score) < 1e-5);
            CHECK(best[i].stop_bytes == (o.stop && ends_with_ab(all[i].tokens, all[i].n) ? 2 : 0));
        }
        CHECK(same);
        free(memory);
        sqm_session_free(s);
        sqm_model_free(m);
    }
}
/* A plain version, which feeds whole texts: the n_beams best of each length. */
static void plain_beams(sqm_session *s, int32_t n_beams, int32_t most, text_of *best)
{
    static text_of live[16], ways[16 * PIECES];
    int32_t n_live = 1, n_ended = 0, n_ways, n_next;
    memset(live, 0, sizeof(live));
    for (int32_t step = 0; step < most; step++) {
        n_ways = 0;
        for (int32_t b = 0; b < n_live; b++) {
            CHECK(sqm_fork(s, 0, 1) == SQM_OK);
            if (step) CHECK(sqm_feed(s, 1, live[b].tokens, step) == SQM_OK);
            for (int32_t id = 0; id < PIECES; id++) {
                text_of *w = &ways[n_ways++];
                *w = live[b];
                w->log_prob += log_softmax(sqm_logits(s, 1), PIECES, id);
                w->score = w->log_prob;
                w->ended = id == 1;
                if (id != 1) w->tokens[w->n++] = id;
            }
        }
        qsort(ways, (size_t)n_ways, sizeof(*ways), by_score);
        n_next = 0;
        for (int32_t i = 0; i < n_ways && n_next < n_beams; i++) {
            if (ways[i].ended) { if (n_ended < 16) best[n_ended++] = ways[i]; }
            else live[n_next++] = ways[i];
        }
        n_live = n_next;
    }
    for (int32_t b = 0; b < n_live && n_ended < 16; b++) best[n_ended++] = live[b];
    qsort(best, (size_t)n_ended, sizeof(*best), by_score);
}
static void test_beams_against_a_plain_version(int kind)
{
    for (uint64_t seed = 0; seed < 6; seed++) {
        sqm_model *m = tiny_model(pieces, PIECES, 3, 0, kind, 60 + seed);
        sqm_session *s = session_of(m, 8, 0);
        static text_of expected[16];
        sqm_beam best[3];
        const int32_t prompt[4] = {0, 3, 8, 9};
        int32_t n = 0, first = 0;
        sqm_beam_options o;
        memset(&o, 0, sizeof(o));
        o.n_beams = 1 + (int32_t)seed;
        o.n_best = o.n_beams < 3 ? o.n_beams : 3;
        o.max_tokens = 7;
        o.first_seq = 2;
        CHECK(sqm_feed(s, 0, prompt, 4) == SQM_OK);
        plain_beams(s, o.n_beams, 7, expected);
        const size_t need = sqm_beam_size(s, &o, &err);
        void *memory = malloc(need);
        CHECK(sqm_beam_search(s, 0, &o, memory, need, best, &n) == SQM_OK && n == o.n_best);
        for (int32_t i = 0; i < n; i++) CHECK(same_text(&best[i], &expected[i]));
        o.early_stop = 1;                              /* a text that has ended, if any has */
        CHECK(sqm_beam_search(s, 0, &o, memory, need, best, &n) == SQM_OK && n > 0);
        if (o.n_beams == 1) {                          /* one beam is greedy decoding */
            for (; first < best[0].n_tokens; first++) {
                int32_t top = 0;
                const float *logits = sqm_logits(s, 0);
                for (int32_t id = 1; id < PIECES; id++) if (logits[id] > logits[top]) top = id;
                CHECK(best[0].tokens[first] == top && sqm_feed(s, 0, &top, 1) == SQM_OK);
            }
        }
        free(memory);
        sqm_session_free(s);
        sqm_model_free(m);
    }
}
static void test_beams_with_grammar_and_limits(void)
{
    sqm_model *m = tiny_model(pieces, PIECES, 3, 0, TINY_ATTENTION, 9);
    sqm_session *s = session_of(m, 5, 0);
    sqm_grammar_config c;
    sqm_beam_options o;
    sqm_beam best[4];
    int32_t n = 0;
    char text[64];
    const int32_t prompt[2] = {0, 3};
    memset(&c, 0, sizeof(c));
    memset(&o, 0, sizeof(o));
    c.n_sequences = 4;
    o.n_best = 4;
    o.grammar = sqm_grammar_create(m, "root ::= [12] (\",\" [ab])? \"]\"", &c, &err);
    const size_t need = sqm_beam_size(s, &o, &err);
    void *memory = malloc(need);
    CHECK(sqm_beam_search(s, 0, &o, memory, need, best, &n) == SQM_E_ARGUMENT);      /* nothing was fed */
    CHECK(sqm_feed(s, 0, prompt, 2) == SQM_OK);
    CHECK(sqm_beam_search(s, 0, &o, memory, need, best, &n) == SQM_OK && n == 4);
    for (int32_t i = 0; i < n; i++) {
        const int32_t bytes = sqm_detokenize(m, best[i].tokens, best[i].n_tokens, 0, text, 63);
        CHECK(best[i].ended && sqm_grammar_reset(o.grammar, 0) == SQM_OK);
        CHECK(sqm_grammar_accept_text(o.grammar, 0, text, (size_t)bytes, &err) == SQM_OK);
        CHECK(sqm_grammar_can_end(o.grammar, 0) && (i == 0 || best[i].score <= best[i - 1].score));
    }
    o.n_beams = 5;
    CHECK(sqm_beam_size(s, &o, &err) == 0);                                           /* sequences 1 to 5 */
    o.n_beams = 4;
    CHECK(sqm_beam_search(s, 2, &o, memory, need, best, &n) == SQM_E_ARGUMENT);
    o.n_best = 5;
    CHECK(sqm_beam_size(s, &o, &err) == 0 && err.code == SQM_E_ARGUMENT);
    free(memory);
    sqm_grammar_free(o.grammar);
    sqm_session_free(s);
    sqm_model_free(m);
    CHECK(sqm__log2(1) == 0 && sqm__log2((uint64_t)1 << 63) == (int64_t)63 << 24);
    for (uint64_t x = 3; x < (uint64_t)1 << 61; x = x * 3 + 1)
        CHECK(fabs((double)sqm__log2(x) / 16777216.0 - log2((double)x)) < 2e-7);
}

/* ---- chats --------------------------------------------------------------------------------------------- */
static void test_chat(void)
{
    static const char frame[] =
        "system=S:%s\\n\ndefault=be\\ngood\nfirst=F:%s;\nuser=U:%s;\\\\\nreply={bos}A:\nend={eos}\\n\n"
                                "begin={bos}B\nstop=b]";
    sqm_model *m = tiny_model(pieces, PIECES, 3, 0, TINY_ATTENTION, 2);
    sqm_session *s = session_of(m, 1, 0);
    static heard h;
    sqm_chat c;
    char text[128];
    memset(&c, 0, sizeof(c));
    CHECK(sqm_chat_prompt(m, &c, "q", text, 128) == SQM_E_UNSUPPORTED);    /* the file has no frame */
    c.frame = frame;
    CHECK(sqm_chat_prompt(m, &c, "q%s", text, 128) == (int32_t)strlen("<s>BS:be\ngood\nF:q%s;<s>A:"));
    CHECK_TEXT(text, "<s>BS:be\ngood\nF:q%s;<s>A:");
    c.system = "kind";
    CHECK(sqm_chat_prompt(m, &c, "q", text, 8) == (int32_t)strlen("<s>BS:kind\nF:q;<s>A:"));
    CHECK_TEXT(text, "<s>BS:k");
    c.turns = 1;
    CHECK(sqm_chat_prompt(m, &c, "q", text, 128) > 0);
    CHECK_TEXT(text, "</s>\nU:q;\\<s>A:");
    c.was_stopped = 1;
    CHECK(sqm_chat_prompt(m, &c, "q", NULL, 0) > 0 && sqm_chat_prompt(m, &c, "q", text, 128) > 0);
    CHECK_TEXT(text, "U:q;\\<s>A:");
    c.frame = "user=%s";
    CHECK(sqm_chat_prompt(m, &c, "q", text, 128) == SQM_E_UNSUPPORTED);    /* no part for `system` */
    memset(&c, 0, sizeof(c));
    c.frame = "user=a%s\nreply=b\nend=,";
    CHECK(sqm_chat_answer(s, 0, &c, "12", NULL, hear, &h, NULL) == SQM_OK && c.turns == 1);
    CHECK(sqm_position(s, 0) >= 4);
    CHECK(sqm_chat_answer(s, 0, &c, "a</s>b", NULL, hear, &h, NULL) == SQM_E_ARGUMENT && c.turns == 1);
    CHECK_TEXT(sqm_session_error(s)->text, "the text holds the special token </s>");
    c.frame = NULL;
    CHECK(sqm_chat_answer(s, 0, &c, "12", NULL, hear, &h, NULL) == SQM_E_UNSUPPORTED && c.turns == 1);
    sqm_session_free(s);
    sqm_model_free(m);
}

int main(void)
{
    for (int i = 0; i < 4; i++) {
        test_rewind(kinds[i]);
        test_prefix_reuse(kinds[i]);
        test_speculation(kinds[i]);
        test_speculation_after_changes(kinds[i]);
        test_beams_against_all_texts(kinds[i], i == 1 ? 1.0f : i == 2 ? 0.6f : 0.0f);
        test_beams_against_a_plain_version(kinds[i]);
    }
    test_rewind(TINY_ATTENTION | TINY_WINDOW | TINY_PLAIN);
    test_biases_and_allowed_tokens();
    test_speculation(TINY_LONG);
    test_speculation_refusals();
    test_generate_with_grammar();
    test_beams_with_grammar_and_limits();
    test_chat();
    return check_report("test_decode");
}
