/* Sampler, text stream and generation. Sampler steps are checked against plain double code on sorted lists,
   the stream against every way of cutting texts into tokens, sqm_generate with a model that plays a
   script. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "check.h"
#include "tiny.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- sampler ------------------------------------------------------------------------------------------- */
enum { MOST = 262144, STOP_LIMIT = 128 };
static float    logits[MOST];
static uint64_t scratch[MOST + 1];

static sqm_sampler sampler_at(float temperature, uint64_t seed)
{
    sqm_sampler p;
    memset(&p, 0, sizeof(p));
    p.temperature = temperature;
    sqm_sampler_seed(&p, seed);
    return p;
}

static void fill_logits(int32_t n, uint64_t seed, float size)
{
    uint64_t rng[2] = {seed + 1, 12345};
    for (int32_t i = 0; i < n; i++)
        logits[i] = size * ((float)sqm__random_below(rng, 20001) / 10000.0f - 1.0f);
}

static int32_t sample(sqm_sampler *p, int32_t n)
{
    return sqm_sample(p, logits, n, NULL, 0, scratch, sizeof(scratch));
}

static void test_random_reference_numbers(void)
{
    const uint64_t expected[4] = {393217u, 669327710093319u, 1732421326133921491u, 11394790081659126983u};
    uint64_t rng[2] = {1, 2}, x = 0;
    sqm_sampler p = sampler_at(1.0f, 0);
    for (int i = 0; i < 4; i++) CHECK(sqm__random(rng) == expected[i]);    /* xoroshiro128++ from 1, 2 */
    CHECK(sqm__splitmix(&x) == 0xe220a8397b1dcdafu);
    CHECK(p.rng[0] == 0xe220a8397b1dcdafu && p.rng[1] == 0x6e789e6aa1b965f4u);
    for (int bits = 1; bits < 63; bits++) {
        uint64_t a[2] = {7, 9}, b[2] = {7, 9};
        CHECK(sqm__random_below(a, (uint64_t)1 << bits) == sqm__random(b) >> (64 - bits));
        CHECK(sqm__random_below(a, ((uint64_t)1 << bits) - 1) < ((uint64_t)1 << bits) - 1);
    }
}

static void test_weight_is_a_power_of_two(void)
{
    double worst = 0;
    uint64_t before = ~(uint64_t)0;
    for (uint32_t d = 0; d < 38u << 24; d += 7919) {
        const uint64_t w = sqm__sample_weight(d);
        const double exact = exp2(38.0 - (double)d / 16777216.0);
        const double error = (fabs((double)w - exact) - 1.0) / exact;
        if (error > worst) worst = error;
        CHECK(w <= before);
        before = w;
    }
    CHECK(worst < 5e-9);
    CHECK(sqm__sample_weight(0) == (uint64_t)1 << 38 && sqm__sample_weight(5u << 24) == (uint64_t)1 << 33);
    CHECK(sqm__sample_weight((38u << 24) - 1) == 1);
}

static void test_rank_orders_like_the_logit(void)
{
    const uint32_t never = 0xff800000u;                /* not drawn: this rank and those after it */
    const float values[] = {INFINITY, 3e38f, 1.5f, 1e-45f, 0.0f, -1e-45f, -1.5f, -3e38f, -INFINITY};
    for (int i = 0; i + 1 < 9; i++) CHECK(sqm__rank_of_logit(values[i]) < sqm__rank_of_logit(values[i + 1]));
    for (int i = 0; i < 9; i++) CHECK(sqm__logit_of_rank(sqm__rank_of_logit(values[i])) == values[i]);
    CHECK(sqm__rank_of_logit(-0.0f) == sqm__rank_of_logit(0.0f));
    CHECK(sqm__rank_of_logit(-INFINITY) == never);
    CHECK(sqm__rank_of_logit(NAN) > never && sqm__rank_of_logit(-NAN) > never);
}

static void test_sample_greedy(void)
{
    sqm_sampler p;
    memset(&p, 0, sizeof(p));
    const float tie[] = {1, 3, NAN, 3, 2}, never[] = {-INFINITY, NAN, -INFINITY}, one[] = {-5};
    const float zeros[] = {-0.0f, 0.0f}, infinite[] = {1, INFINITY, INFINITY, -INFINITY};
    CHECK(sqm_sample(&p, tie, 5, NULL, 0, NULL, 0) == 1);                    /* needs no scratch, lowest id */
    CHECK(sqm_sample(&p, never, 3, NULL, 0, NULL, 0) == SQM_E_ARGUMENT);
    CHECK(sqm_sample(&p, one, 1, NULL, 0, NULL, 0) == 0);
    CHECK(sqm_sample(&p, zeros, 2, NULL, 0, NULL, 0) == 0);
    CHECK(sqm_sample(&p, infinite, 4, NULL, 0, NULL, 0) == 1);
    CHECK(sqm_sample(NULL, one, 1, NULL, 0, NULL, 0) == SQM_E_ARGUMENT);
    CHECK(sqm_sample(&p, NULL, 1, NULL, 0, NULL, 0) == SQM_E_ARGUMENT);
    CHECK(sqm_sample(&p, one, 0, NULL, 0, NULL, 0) == SQM_E_ARGUMENT);
    CHECK(sqm_sample(&p, one, 1, NULL, 3, NULL, 0) == SQM_E_ARGUMENT);
    p.temperature = NAN;
    CHECK(sqm_sample(&p, tie, 5, NULL, 0, NULL, 0) == 1);
}

static void test_sample_degenerate(void)
{
    for (int settings = 0; settings < 16; settings++) {
        sqm_sampler p = sampler_at(0.7f, 3);
        p.top_k = settings & 1 ? 2 : 0;
        p.top_p = settings & 2 ? 0.9f : 0;
        p.typical_p = settings & 4 ? 0.9f : 0;
        p.min_p = settings & 8 ? 0.05f : 0;
        logits[0] = -7;
        CHECK(sample(&p, 1) == 0);
        logits[0] = logits[1] = logits[2] = -INFINITY;
        CHECK(sample(&p, 3) == SQM_E_ARGUMENT);
        logits[1] = NAN;
        CHECK(sample(&p, 3) == SQM_E_ARGUMENT);
        logits[2] = -3e38f;
        CHECK(sample(&p, 3) == 2);                     /* the only number */
        logits[0] = INFINITY;
        CHECK(sample(&p, 3) == 0);
        p.temperature = 1e-30f;
        logits[0] = 1; logits[1] = 1.0000001f; logits[2] = 0.5f;
        for (int i = 0; i < 20; i++) CHECK(sample(&p, 3) == 1);
        p.temperature = INFINITY;
        for (int i = 0; i < 20; i++) CHECK(sample(&p, 3) >= 0);
    }
}

static void test_sample_memory(void)
{
    uint8_t guarded[9 * 8 + 8 + 2];
    const float some[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    sqm_sampler p = sampler_at(1.0f, 1);
    const size_t bytes = sqm_sample_size(9);
    CHECK(bytes <= sizeof(guarded) - 2 && sqm_sample_size(0) == 0);
    memset(guarded, 0x5a, sizeof(guarded));
    CHECK(sqm_sample(&p, some, 9, NULL, 0, guarded + 1, bytes) >= 0);        /* any alignment */
    CHECK(guarded[0] == 0x5a && guarded[bytes + 1] == 0x5a);
    CHECK(sqm_sample(&p, some, 9, NULL, 0, guarded, 8 * 9 - 1) == SQM_E_MEMORY);
    CHECK(sqm_sample(&p, some, 9, NULL, 0, NULL, 0) == SQM_E_MEMORY);
}

/* Draws many and compares frequencies with probabilities by chi square (limit: 1 in 10^5 for up to 8
   classes). */
static void check_frequencies(sqm_sampler *p, int32_t n, const double *probability)
{
    const int32_t draws = 20000;
    int32_t count[16] = {0};
    double chi = 0;
    for (int i = 0; i < draws; i++) {
        const int32_t token = sample(p, n);
        CHECK(token >= 0 && token < n);
        if (token >= 0 && token < n) count[token]++;
    }
    for (int32_t i = 0; i < n; i++) {
        const double expected = probability[i] * (double)draws;
        if (expected <= 0) CHECK(count[i] == 0);
        else chi += ((double)count[i] - expected) * ((double)count[i] - expected) / expected;
    }
    CHECK(chi < 35.0);
}

static void set_probabilities(const double *probability, int32_t n)
{
    for (int32_t i = 0; i < n; i++) logits[i] = (float)log(probability[i]) + 2.5f;
}

static void test_sample_frequencies(void)
{
    const double all[5] = {0.15, 0.5, 0.05, 0.3, 0};
    const double two[5] = {0, 0.625, 0, 0.375, 0}, three[5] = {0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95, 0};
    double cool[5], sum = 0;
    sqm_sampler p = sampler_at(1.0f, 42);
    set_probabilities(all, 5);
    check_frequencies(&p, 5, all);
    for (int i = 0; i < 5; i++) sum += cool[i] = all[i] * all[i];
    for (int i = 0; i < 5; i++) cool[i] /= sum;
    p.temperature = 0.5f;
    check_frequencies(&p, 5, cool);
    p = sampler_at(1.0f, 43); p.top_k = 2;
    check_frequencies(&p, 5, two);
    p = sampler_at(1.0f, 44); p.top_p = 0.7f;
    check_frequencies(&p, 5, two);
    p.top_p = 0.81f;
    check_frequencies(&p, 5, three);
    p = sampler_at(1.0f, 45); p.min_p = 0.4f;
    check_frequencies(&p, 5, two);
    p.min_p = 0.2f;
    check_frequencies(&p, 5, three);
    p = sampler_at(1.0f, 46); p.top_k = 3; p.top_p = 0.6f; p.min_p = 0.1f;  /* 0.5 / 0.95 < 0.6: two stay */
    check_frequencies(&p, 5, two);
}

/* The reference: sorts (score, id), adds probabilities in double until they reach share. */
typedef struct scored { double score, probability; int32_t id; } scored;
static int by_score(const void *a, const void *b)
{
    const scored *x = (const scored *)a, *y = (const scored *)b;
    if (x->score != y->score) return x->score < y->score ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int32_t reference_share(scored *list, int32_t n, double share, int typical)
{
    double total = 0, entropy = 0, sum = 0;
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++) total += list[i].probability;
    for (int32_t i = 0; i < n; i++) list[i].probability /= total;
    for (int32_t i = 0; i < n; i++)
        if (list[i].probability > 0) entropy -= list[i].probability * log(list[i].probability);
    for (int32_t i = 0; i < n; i++)
        list[i].score = typical ? fabs(-log(list[i].probability) - entropy) : -list[i].probability;
    qsort(list, (size_t)n, sizeof(*list), by_score);
    while (kept < n && sum < share) sum += list[kept++].probability;
    return kept;
}

/* Settings -> the set of tokens that may be drawn, both ways. Rounding may move a boundary. */
static void check_support(int32_t n, float temperature, int32_t top_k, float typical, float top_p,
                          uint64_t seed)
{
    static scored list[MOST];
    static uint8_t mine[MOST];
    int32_t m = n, kept = n, differ = 0;
    fill_logits(n, seed, 6.0f);
    for (int32_t i = 0; i < n; i++) {
        list[i].id = i;
        list[i].score = -(double)logits[i];
        list[i].probability = exp((double)logits[i] / (double)temperature);
        scratch[i] = sqm__candidate(sqm__rank_of_logit(logits[i]), i);
    }
    if (top_k) {
        qsort(list, (size_t)n, sizeof(*list), by_score);
        sqm__sample_best(scratch, n, top_k);
        m = kept = top_k;
    }
    m = sqm__sample_distances(scratch, m, temperature);
    if (typical > 0) {
        kept = reference_share(list, kept, (double)typical, 1);
        m = sqm__sample_typical(scratch, m, typical);
    }
    if (top_p > 0) {
        kept = reference_share(list, kept, (double)top_p, 0);
        m = sqm__sample_share(scratch, m, top_p, 0);
    }
    memset(mine, 0, sizeof(mine));
    for (int32_t i = 0; i < m; i++) mine[sqm__candidate_id(scratch[i])] = 1;
    for (int32_t i = 0; i < kept; i++) differ += mine[list[i].id] == 0;
    const int32_t few = 1 + n / 10000;                 /* as many logits may be equal at the boundary */
    CHECK(abs(m - kept) <= few && differ <= few);
    if (abs(m - kept) > few || differ > few)
        printf("n %d: %d kept, expected %d, %d differ\n", n, m, kept, differ);
}

static void test_sample_supports(void)
{
    const int32_t sizes[4] = {2, 37, 1000, MOST};
    for (int s = 0; s < 4; s++) {
        const int32_t n = sizes[s];
        check_support(n, 0.8f, n / 2, 0, 0, 1);
        check_support(n, 0.8f, n > 50 ? 40 : 1, 0, 0, 2);
        check_support(n, 0.8f, 0, 0, 0.9f, 3);
        check_support(n, 1.5f, 0, 0.3f, 0, 4);
        check_support(n, 1.5f, 0, 0.95f, 0, 5);
        check_support(n, 1.0f, n > 50 ? 40 : 2, 0.9f, 0.7f, 6);
    }
}

static void test_sample_penalties(void)
{
    const float some[4] = {4, 3, -1, -2};
    const int32_t recent[5] = {0, 7, 0, -3, 0};
    uint64_t space[5];
    sqm_sampler p;
    memset(&p, 0, sizeof(p));
    p.repeat_penalty = 1.5f;                           /* once a token: 4 / 1.5 < 3 */
    CHECK(sqm_sample(&p, some, 4, recent, 5, space, sizeof(space)) == 1);
    CHECK(sqm_sample(&p, some, 4, recent, 5, NULL, 0) == SQM_E_MEMORY);
    p.repeat_penalty = 1.3f;                           /* 4 / 1.3 > 3, though 4 / 1.3^3 < 3 */
    CHECK(sqm_sample(&p, some, 4, recent, 5, space, sizeof(space)) == 0);
    p.repeat_penalty = 0;
    p.presence_penalty = 1.5f;
    CHECK(sqm_sample(&p, some, 4, recent, 5, space, sizeof(space)) == 1);
    p.presence_penalty = 0.9f;
    CHECK(sqm_sample(&p, some, 4, recent, 5, space, sizeof(space)) == 0);
    p.presence_penalty = 0;
    p.frequency_penalty = 0.4f;                        /* three times: 4 - 1.2 < 3 */
    CHECK(sqm_sample(&p, some, 4, recent, 5, space, sizeof(space)) == 1);
    p.penalty_window = 3;                              /* two times */
    CHECK(sqm_sample(&p, some, 4, recent, 5, space, sizeof(space)) == 0);
    p.penalty_window = 0;
    p.frequency_penalty = 0;
    p.repeat_penalty = 2.5f;                           /* negative logits are multiplied: -1 * 2.5 < -2 */
    {
        const float low[2] = {-1, -2};
        const int32_t first = 0;
        CHECK(sqm_sample(&p, low, 2, &first, 1, space, sizeof(space)) == 1);
    }
}

static void test_sample_repeats_with_the_seed(void)
{
    const int32_t expected[12] = {53, 4, 40, 123, 114, 266, 135, 28, 295, 125, 228, 139};
    sqm_sampler a = sampler_at(0.9f, 7), b = a, unseeded = sampler_at(0.9f, 0);
    int same = 1;
    fill_logits(300, 11, 4.0f);
    a.top_p = b.top_p = 0.95f;
    for (int i = 0; i < 12; i++) {
        const int32_t token = sample(&a, 300);
        same &= token == sample(&b, 300);
        CHECK(token == expected[i]);                   /* the same numbers on every machine */
    }
    CHECK(same);
    b = unseeded;
    unseeded.rng[0] = unseeded.rng[1] = 0;             /* zero counts as seed 0 */
    for (int i = 0; i < 5; i++) CHECK(sample(&unseeded, 300) == sample(&b, 300));
}

/* ---- the text stream ----------------------------------------------------------------------------------- */
typedef struct heard { char text[1024]; int32_t bytes, calls, stop_at, whole; } heard;

static int is_utf8(const char *text, int32_t n)
{
    int32_t i = 0;
    while (i < n) {
        const uint8_t b = (uint8_t)text[i];
        const int32_t length = b < 0x80 ? 1 : b < 0xe0 ? 2 : b < 0xf0 ? 3 : 4;
        for (int32_t j = 1; j < length; j++)
            if (i + j >= n || ((uint8_t)text[i + j] & 0xc0) != 0x80) return 0;
        i += length;
    }
    return 1;
}

static int hear(void *user, const char *text, int32_t bytes)
{
    heard *h = (heard *)user;
    CHECK(bytes > 0 && text[bytes] == 0 && is_utf8(text, bytes));
    CHECK(h->bytes + bytes < (int32_t)sizeof(h->text));
    memcpy(h->text + h->bytes, text, (size_t)bytes + 1);
    h->bytes += bytes;
    return ++h->calls == h->stop_at;
}

static sqm__stream stream_to(heard *h, const char *const *stop)
{
    sqm__stream s;
    memset(&s, 0, sizeof(s));
    memset(h, 0, sizeof(*h));
    s.on_text = hear;
    s.user = h;
    s.stop = stop;
    s.ended = -1;
    return s;
}

/* Cuts text [n] into tokens of `step` bytes after a first one of `first`. */
static int32_t run_stream(heard *h, const char *text, int32_t n, int32_t first, int32_t step,
                          const char *const *stop)
{
    sqm__stream s = stream_to(h, stop);
    int32_t at = first < n ? first : n;
    sqm__stream_push(&s, text, at);
    while (at < n) {
        const int32_t piece = n - at < step ? n - at : step;
        sqm__stream_push(&s, text + at, piece);
        at += piece;
    }
    sqm__stream_finish(&s);
    return s.ended;
}

static void test_stream_keeps_characters_whole(void)
{
    const char *const text = "na\xc3\xafve \xe2\x82\xac" "5 \xf0\x9f\x98\x80\xf0\x9f\x87\xa9\xf0\x9f\x87\xaa "
                             "\xe4\xb8\xad.";
    const int32_t n = (int32_t)strlen(text);
    static heard h;
    for (int32_t step = 1; step <= n; step++)
        for (int32_t first = 0; first < n; first++) {
            CHECK(run_stream(&h, text, n, first, step, NULL) == -1);
            CHECK_TEXT(h.text, text);
        }
}

static void test_stream_replaces_what_is_no_utf8(void)
{
#define R "\xef\xbf\xbd"
    const char *const cases[][2] = {                   /* the first: Unicode 15, table 3-11 */
        {"a\xf1\x80\x80\xe1\x80\xc2" "b\x80" "c\x80\xbf" "d", "a" R R R "b" R "c" R R "d"},
        {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82" "A", R R R R R R R R "A"},
        {"\xed\xa0\x80\xf4\x91\x92\x93\xff" "A\x80\xbf" "B", R R R R R R R R "A" R R "B"},
        {"x\xe2\x82", "x" R}, {"\xf0\x9f\x98", R}, {"\xc3", R}, {"\xe2\x82\xe2\x82\xac", R "\xe2\x82\xac"}
    };
    static heard h;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (int32_t step = 1; step < 5; step++) {
            CHECK(run_stream(&h, cases[i][0], (int32_t)strlen(cases[i][0]), 0, step, NULL) == -1);
            CHECK_TEXT(h.text, cases[i][1]);
        }
#undef R
}

static void test_stream_stop_texts(void)
{
    static const struct { const char *stop[4], *text, *heard; int32_t ended; } cases[] = {
        {{"\n\n", NULL, NULL, NULL}, "one\ntwo\n\nthree", "one\ntwo", SQM_END_STOP_TEXT},
        {{"\n\n", NULL, NULL, NULL}, "one\ntwo\n", "one\ntwo\n", -1},
        {{"User:", "###", NULL, NULL}, "Us, User. ## # User:", "Us, User. ## # ", SQM_END_STOP_TEXT},
        {{"aab", NULL, NULL, NULL}, "aaaaab", "aaa", SQM_END_STOP_TEXT},
        {{"abac", NULL, NULL, NULL}, "ababac!", "ab", SQM_END_STOP_TEXT},
        {{"abcd", "bc", NULL, NULL}, "xabcd", "xa", SQM_END_STOP_TEXT},
        {{"c", "abc", NULL, NULL}, "xabcd", "x", SQM_END_STOP_TEXT},
        {{"\xe2\x82\xac", NULL, NULL, NULL}, "\xe2\x82\xa1 6 \xe2\x82\xac 7", "\xe2\x82\xa1 6 ",
         SQM_END_STOP_TEXT},
        {{"stop", NULL, NULL, NULL}, "stop", "", SQM_END_STOP_TEXT},
        {{"<end>", NULL, NULL, NULL}, "a<en\xff", "a<en\xef\xbf\xbd", -1}
    };
    static heard h;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (int32_t step = 1; step < 12; step++) {
            const int32_t n = (int32_t)strlen(cases[i].text);
            CHECK(run_stream(&h, cases[i].text, n, step / 2, step, cases[i].stop) == cases[i].ended);
            CHECK_TEXT(h.text, cases[i].heard);
        }
}

static void test_stream_holds_back_only_what_may_stop(void)
{
    const char *const stop[] = {"<end>", NULL};
    static heard h;
    sqm__stream s = stream_to(&h, stop);
    sqm__stream_push(&s, "a<", 2);    CHECK_TEXT(h.text, "a");
    sqm__stream_push(&s, "e\xe2", 2); CHECK_TEXT(h.text, "a");
    sqm__stream_push(&s, "\x82", 1);  CHECK_TEXT(h.text, "a");
    sqm__stream_push(&s, "\xac", 1);  CHECK_TEXT(h.text, "a<e\xe2\x82\xac");
    sqm__stream_push(&s, "<<en", 4);  CHECK_TEXT(h.text, "a<e\xe2\x82\xac<");
    sqm__stream_finish(&s);           CHECK_TEXT(h.text, "a<e\xe2\x82\xac<<en");
}

static void test_stream_long_tokens(void)
{
    char text[1000], longest[STOP_LIMIT + 1];
    const char *stop[] = {longest, NULL};
    static heard h;
    for (int i = 0; i < 1000; i++) text[i] = (char)('a' + i % 2);
    text[999] = 0;
    for (int i = 0; i < STOP_LIMIT; i++) longest[i] = (char)('a' + i % 2);
    longest[STOP_LIMIT - 1] = '!';
    longest[STOP_LIMIT] = 0;
    for (int32_t step = 1; step < 999; step += 83) {   /* always half of the room is held back */
        CHECK(run_stream(&h, text, 999, 0, step, stop) == -1);
        CHECK_TEXT(h.text, text);
        memcpy(text + 900 - STOP_LIMIT, longest, STOP_LIMIT);
        CHECK(run_stream(&h, text, 999, 0, step, stop) == SQM_END_STOP_TEXT);
        CHECK(h.bytes == 900 - STOP_LIMIT);
        for (int i = 0; i < 999; i++) text[i] = (char)('a' + i % 2);
    }
}

static void test_stream_callback_stops(void)
{
    static heard h;
    sqm__stream s = stream_to(&h, NULL);
    h.stop_at = 2;
    sqm__stream_push(&s, "one", 3);
    sqm__stream_push(&s, "two", 3);
    CHECK(s.ended == SQM_END_CALLBACK);
    sqm__stream_push(&s, "three", 5);
    sqm__stream_finish(&s);
    CHECK_TEXT(h.text, "onetwo");
    CHECK(h.calls == 2);
}

/* ---- generation with a model that plays a script ----------------------------------------------------------
   Logits after the token at position p: 9 for the token script[p], 1 more for the token fed last. */
enum { VOCAB = 32, CONTEXT = 24 };
static const char *const pieces[] = {                  /* 0 begins a text, 1 ends it, 2 is special */
    "<s>", "</s>", "<tool>", "a", "b", "ab", " the", " cat", ".", "\n", "\xe2\x82", "\xac", "\xf0\x9f\x98",
    "\x80", "User", ":", "st", "op", "\xff", "Us"};
enum { BOS, END, TOOL, A, B, AB, THE, CAT, DOT, LINE, EURO_1, EURO_2, SMILE_1,
       SMILE_2, USER, COLON, ST, OP, BAD, US };
#define MODEL_FILE TEST_TMP "test_gen.tmp.sqm"

static sqm_session *script_session(sqm_model **model, const int32_t *script, int32_t n_script, int strip)
{
    static float plays[CONTEXT * VOCAB], same[VOCAB * VOCAB];
    static blob_writer blob;
    const int32_t positions[2] = {CONTEXT, VOCAB}, square[2] = {VOCAB, VOCAB};
    sqm_error err;
    sqm_writer *w = sqm_writer_open(MODEL_FILE, &err);
    memset(plays, 0, sizeof(plays));
    memset(same, 0, sizeof(same));
    for (int i = 0; i < VOCAB; i++) same[i * VOCAB + i] = 1;
    for (int i = 0; i < CONTEXT; i++) plays[i * VOCAB + (i < n_script ? script[i] : (int32_t)DOT)] = 9;
    sqm_writer_meta(w, "max_context", "24");
    make_tokenizer(&blob, pieces, (int32_t)(sizeof(pieces) / sizeof(pieces[0])), 3, strip);
    sqm_writer_tokenizer(w, blob.data, blob.used);
    sqm_writer_declare(w, "same", SQM_F32, SQM_PANELS, 2, square);
    sqm_writer_declare(w, "plays", SQM_F32, SQM_PANELS, 2, positions);
    sqm_writer_recipe(w, "embed r0 tokens w=@same\n"
                         "embed r0 positions w=@plays add=1\n"
                         "head logits r0 w=@same\n");
    write_panels(w, same, VOCAB, VOCAB);
    write_panels(w, plays, CONTEXT, VOCAB);
    CHECK(sqm_writer_close(w, &err) == SQM_OK);
    *model = sqm_load_file(MODEL_FILE, NULL, &err);
    sqm_session *s = *model ? sqm_session_create(*model, NULL, &err) : NULL;
    if (!s) printf("%s\n", err.text);
    CHECK(s != NULL);
    return s;
}

static void close_script(sqm_session *s, sqm_model *model)
{
    sqm_session_free(s);
    sqm_model_free(model);
    remove(MODEL_FILE);
}

static sqm_generate_options no_options(void)
{
    sqm_generate_options o;
    memset(&o, 0, sizeof(o));
    return o;
}

static void test_generate_until_the_model_ends(void)
{
    const int32_t script[] = {A, A, THE, CAT, TOOL, EURO_1, EURO_2, DOT, END, THE, END};
    static heard h;
    sqm_generate_stats stats;
    sqm_generate_options o = no_options();
    sqm_model *model;
    sqm_session *s = script_session(&model, script, 11, 0);
    memset(&h, 0, sizeof(h));
    CHECK(sqm_generate(s, 0, "ab", NULL, hear, &h, &stats) == SQM_OK);      /* <s> a b */
    CHECK_TEXT(h.text, " the cat\xe2\x82\xac.");
    CHECK(h.calls == 4);                               /* none for TOOL, one for both halves of a character */
    CHECK(stats.prompt_tokens == 3 && stats.new_tokens == 6 && stats.reason == SQM_END_MODEL);
    CHECK(sqm_position(s, 0) == 9);                    /* the end token is not fed */
    CHECK(sqm_logits(s, 0)[DOT] == 1.0f);              /* the last token before it is */
    memset(&h, 0, sizeof(h));
    o.max_tokens = 2;
    CHECK(sqm_generate(s, 0, "a", &o, hear, &h, &stats) == SQM_OK);          /* no second <s>: position 10 */
    CHECK_TEXT(h.text, " the");
    CHECK(stats.prompt_tokens == 1 && stats.new_tokens == 1 && sqm_position(s, 0) == 11);
    CHECK(sqm_reset(s, 0) == SQM_OK);
    memset(&h, 0, sizeof(h));
    o.max_tokens = 0;
    o.keep_special = 1;
    CHECK(sqm_generate(s, 0, "ab", &o, hear, &h, NULL) == SQM_OK);
    CHECK_TEXT(h.text, " the cat<tool>\xe2\x82\xac.");
    CHECK(sqm_reset(s, 0) == SQM_OK);
    CHECK(sqm_generate(s, 0, "ab", NULL, NULL, NULL, NULL) == SQM_OK);      /* nobody listens */
    CHECK(sqm_position(s, 0) == 9);
    close_script(s, model);
}

static void test_generate_in_parts(void)
{
    const int32_t script[] = {AB, THE, CAT, EURO_1, EURO_2, DOT, BAD, SMILE_1, SMILE_2, SMILE_1, END};
    static heard h;
    sqm_generate_options o = no_options();
    sqm_model *model;
    sqm_session *s = script_session(&model, script, 11, 0);
    for (int32_t part = 1; part <= 5; part++) {        /* no prompt: goes on; a cut character is replaced */
        const char *const whole = "ab the cat\xe2\x82\xac.\xef\xbf\xbd\xf0\x9f\x98\x80\xef\xbf\xbd";
        sqm_generate_stats stats = {0, 0, SQM_END_MAX_TOKENS, 0, 0, 0};
        int32_t tokens = 0;
        memset(&h, 0, sizeof(h));
        CHECK(sqm_reset(s, 0) == SQM_OK);
        o.max_tokens = part;
        for (int i = 0; i < 20 && stats.reason == SQM_END_MAX_TOKENS; i++) {
            CHECK(sqm_generate(s, 0, i % 2 ? "" : NULL, &o, hear, &h, &stats) == SQM_OK);
            CHECK(stats.prompt_tokens == (i == 0));
            tokens += stats.new_tokens;
        }
        CHECK(tokens == 10 && sqm_position(s, 0) == 11 && stats.reason == SQM_END_MODEL);
        if (part == 1) CHECK_TEXT(h.text, "ab the cat\xef\xbf\xbd\xef\xbf\xbd."
                                  "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
        if (part == 5) CHECK_TEXT(h.text, whole);
    }
    close_script(s, model);
}

static void test_generate_stop_texts(void)
{
    const int32_t script[] = {A, A, US, LINE, USER, DOT, USER, COLON, THE, ST, OP, THE, END};
    const char *const user[] = {"User:", "\n\n", NULL}, *const stop[] = {"never", "stop", NULL};
    const char *const none[] = {NULL};
    const char *bad[] = {"", NULL};
    char large[200];
    static heard h;
    sqm_generate_options o = no_options();
    sqm_generate_stats stats;
    sqm_model *model;
    sqm_session *s = script_session(&model, script, 13, 0);
    o.stop = user;
    memset(&h, 0, sizeof(h));
    CHECK(sqm_generate(s, 0, "a", &o, hear, &h, &stats) == SQM_OK);
    CHECK_TEXT(h.text, "aUs\nUser.");
    CHECK(stats.reason == SQM_END_STOP_TEXT && stats.new_tokens == 7);
    CHECK(sqm_position(s, 0) == 9 && sqm_logits(s, 0)[COLON] == 1.0f);       /* the stop text has been fed */
    o.stop = stop;
    memset(&h, 0, sizeof(h));
    CHECK(sqm_generate(s, 0, NULL, &o, hear, &h, &stats) == SQM_OK);
    CHECK_TEXT(h.text, " the");
    o.stop = none;
    memset(&h, 0, sizeof(h));
    CHECK(sqm_generate(s, 0, NULL, &o, hear, &h, &stats) == SQM_OK);
    CHECK_TEXT(h.text, " the");
    CHECK(stats.reason == SQM_END_MODEL);
    memset(large, 'x', sizeof(large));
    large[sizeof(large) - 1] = 0;
    o.stop = bad;
    CHECK(sqm_generate(s, 0, NULL, &o, hear, &h, &stats) == SQM_E_ARGUMENT);
    bad[0] = large;
    CHECK(sqm_generate(s, 0, NULL, &o, hear, &h, &stats) == SQM_E_ARGUMENT);
    CHECK_TEXT(sqm_session_error(s)->text, "stop text 0 has 199 bytes, not 1 to 128");
    close_script(s, model);
}

static void test_generate_limits_and_errors(void)
{
    const int32_t script[] = {THE, THE, CAT, EURO_1};
    static char long_prompt[100001];
    static heard h;
    sqm_generate_stats stats;
    sqm_sampler sampler = sampler_at(NAN, 0);
    sqm_generate_options o = no_options();
    sqm_model *model;
    sqm_session *s = script_session(&model, script, 4, 0);
    memset(&h, 0, sizeof(h));
    h.stop_at = 2;
    CHECK(sqm_generate(s, 0, "a", NULL, hear, &h, &stats) == SQM_STOPPED);
    CHECK_TEXT(h.text, " the cat");
    CHECK(stats.reason == SQM_END_CALLBACK && stats.new_tokens == 2 && sqm_position(s, 0) == 4);
    CHECK(sqm_generate(s, 7, "a", NULL, hear, &h, &stats) == SQM_E_ARGUMENT);
    CHECK(sqm_generate(NULL, 0, "a", NULL, hear, &h, &stats) == SQM_E_ARGUMENT);
    memset(long_prompt, 'a', sizeof(long_prompt) - 1);
    CHECK(sqm_generate(s, 0, long_prompt, NULL, hear, &h, &stats) == SQM_E_LIMIT);
    CHECK(sqm_session_error(s)->code == SQM_E_LIMIT && sqm_session_error(s)->text[0] != 0);
    CHECK(sqm_position(s, 0) == 4 && stats.new_tokens == 0);             /* nothing happened: it goes on */
    memset(&h, 0, sizeof(h));
    o.sampler = &sampler;
    CHECK(sqm_generate(s, 0, "", &o, hear, &h, &stats) == SQM_OK);
    CHECK(h.bytes == 19 + 3 && h.text[21] == '.');     /* half a character, then dots to the context's end */
    CHECK(stats.reason == SQM_END_CONTEXT && stats.new_tokens == CONTEXT - 4);
    CHECK(sqm_position(s, 0) == CONTEXT);
    CHECK(sqm_generate(s, 0, "", NULL, hear, &h, &stats) == SQM_OK);
    CHECK(stats.reason == SQM_END_CONTEXT && stats.new_tokens == 0);
    CHECK(sqm_generate(s, 0, "a", NULL, hear, &h, &stats) == SQM_E_LIMIT);
    CHECK(sqm_reset(s, 0) == SQM_OK);
    CHECK(sqm_generate(s, 0, "a", NULL, NULL, NULL, &stats) == SQM_OK);
    close_script(s, model);
}

static void test_generate_penalties_see_the_prompt(void)
{
    const int32_t script[] = {A, A, A, A, A, A};
    static heard h;
    sqm_sampler sampler = sampler_at(0, 0);
    sqm_generate_options o = no_options();
    sqm_model *model;
    sqm_session *s = script_session(&model, script, 6, 0);
    o.sampler = &sampler;
    o.max_tokens = 2;
    memset(&h, 0, sizeof(h));
    CHECK(sqm_generate(s, 0, "a", &o, hear, &h, NULL) == SQM_OK);
    CHECK_TEXT(h.text, "aa");
    CHECK(sqm_reset(s, 0) == SQM_OK);
    sampler.presence_penalty = 20;                     /* leaves END, the lowest id of those at 0 */
    CHECK(sqm_generate(s, 0, "a", &o, hear, &h, NULL) == SQM_OK);
    CHECK_TEXT(h.text, "aa");
    close_script(s, model);
}

/* What was generated is what the decoder adds to the prompt's text: the space at the start of a text goes. */
static void test_generate_first_space(void)
{
    const int32_t first[] = {THE, THE, END}, special[] = {TOOL, THE, END};
    static heard h;
    sqm_model *model;
    sqm_session *s = script_session(&model, first, 3, 1);
    memset(&h, 0, sizeof(h));
    CHECK(sqm_generate(s, 0, "", NULL, hear, &h, NULL) == SQM_OK);
    CHECK_TEXT(h.text, "the the");
    CHECK(sqm_reset(s, 0) == SQM_OK);
    memset(&h, 0, sizeof(h));
    CHECK(sqm_generate(s, 0, "a", NULL, hear, &h, NULL) == SQM_OK);
    CHECK_TEXT(h.text, " the");
    close_script(s, model);
    s = script_session(&model, special, 3, 1);
    memset(&h, 0, sizeof(h));
    CHECK(sqm_generate(s, 0, NULL, NULL, hear, &h, NULL) == SQM_OK);
    CHECK_TEXT(h.text, "the");
    close_script(s, model);
    s = script_session(&model, special, 3, 0);
    memset(&h, 0, sizeof(h));
    CHECK(sqm_generate(s, 0, NULL, NULL, hear, &h, NULL) == SQM_OK);
    CHECK_TEXT(h.text, " the");
    close_script(s, model);
}

static void test_generate(void)
{
    test_generate_first_space();
    test_generate_until_the_model_ends();
    test_generate_in_parts();
    test_generate_stop_texts();
    test_generate_limits_and_errors();
    test_generate_penalties_see_the_prompt();
}

int main(void)
{
    test_random_reference_numbers();
    test_weight_is_a_power_of_two();
    test_rank_orders_like_the_logit();
    test_sample_greedy();
    test_sample_degenerate();
    test_sample_memory();
    test_sample_frequencies();
    test_sample_supports();
    test_sample_penalties();
    test_sample_repeats_with_the_seed();
    test_stream_keeps_characters_whole();
    test_stream_replaces_what_is_no_utf8();
    test_stream_stop_texts();
    test_stream_holds_back_only_what_may_stop();
    test_stream_long_tokens();
    test_stream_callback_stops();
    test_generate();
    return check_report("test_gen");
}
