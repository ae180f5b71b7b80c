/* Grammars: what they accept against a matcher that tries everything, masks against accepting each token
   alone, classes against all characters, JSON, wrong grammars, tables that overflow, banned texts. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "check.h"
#include "tiny.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const pieces[] = {
    "<s>", "</s>", "<tool>", "a", "b", "c", "ab", "abc", "bc", " ", " a", "  ", "{", "}", "[", "]", "\"",
    "\":", ":", ",", "1", "0", "-", ".", "e", "12", "true", "t", "rue", "null", "\n", "\\", "u", "\xc3",
    "\xa9",
    "\xc3\xa9", "{\"", "\"}", "a", "x\"", "], [", "\xe2\x82", "\xac", "[1,", "aaaa", "c\"", "\xf0\x9f"};
enum { PIECES = sizeof(pieces) / sizeof(pieces[0]) };
static sqm_model *model;
static sqm_error err;

static sqm_grammar *grammar_of(const char *text, const sqm_grammar_config *c)
{
    sqm_grammar *g = sqm_grammar_create(model, text, c, &err);
    if (!g) printf("%s\n%s\n", text, err.text);
    CHECK(g != NULL);
    return g;
}
static int accepts(sqm_grammar *g, const char *text, size_t n)
{
    CHECK(sqm_grammar_reset(g, 0) == SQM_OK);
    return sqm_grammar_accept_text(g, 0, text, n, NULL) == SQM_OK && sqm_grammar_can_end(g, 0);
}

/* The mask of sequence 0 is what accepting each token by itself says; sequence 1 is overwritten. */
static void check_mask(sqm_grammar *g)
{
    int same = 1;
    uint32_t mask[(PIECES + 31) / 32];
    const uint32_t *m = sqm_grammar_mask(g, 0, &err);
    CHECK(m != NULL);
    if (!m) return;
    memcpy(mask, m, sizeof(mask));
    for (int32_t id = 0; id < PIECES; id++) {
        CHECK(sqm_grammar_fork(g, 0, 1) == SQM_OK);
        const int bit = (int)(mask[id / 32] >> (id % 32) & 1);
        const sqm_result r = sqm_grammar_accept(g, 1, id, &err);
        if (bit != (r == SQM_OK)) { printf("token %d \"%s\": bit %d\n", (int)id, pieces[id], bit); same = 0; }
    }
    CHECK(same);
}

/* ---- random expressions against a matcher of sets of positions ----------------------------------------- */
typedef struct node { int kind, a, b, least, most; } node;       /* children a, b; set: bits 1 a, 2 b, 4 c */
enum { SET, SEQUENCE, CHOICE, REPEAT };
static node nodes[64];
static int n_nodes;
static uint64_t rng[2];

static int random_node(int depth, char *text)                      /* appends its text; returns its number */
{
    const int me = n_nodes++, kind = depth > 3 ? SET : (int)sqm__random_below(rng, 4);
    nodes[me].kind = kind;
    if (kind == SET) {
        const int set = 1 + (int)sqm__random_below(rng, 7);
        nodes[me].a = set;
        if (set == 1) strcat(text, "\"a\"");
        else strcat(text, "[");
        for (int k = 0; set > 1 && k < 3; k++)
            if (set >> k & 1) strcat(text, k == 0 ? "a" : k == 1 ? "b" : "c");
        if (set > 1) strcat(text, "]");
        return me;
    }
    strcat(text, "( ");
    nodes[me].a = random_node(depth + 1, text);
    if (kind != REPEAT) {
        strcat(text, kind == CHOICE ? " | " : " ");
        nodes[me].b = random_node(depth + 1, text);
    }
    strcat(text, " )");
    if (kind == REPEAT) {
        static const char *const marks[] = {"?", "*", "+", "{2}", "{1,}", "{0,2}", "{2,3}", "{0}"};
        static const int least[] = {0, 0, 1, 2, 1, 0, 2, 0}, most[] = {1, 99, 99, 2, 99, 2, 3, 0};
        const int i = (int)sqm__random_below(rng, 8);
        strcat(text, marks[i]);
        nodes[me].least = least[i];
        nodes[me].most = most[i];
    }
    return me;
}
/* Bits of the positions where node i can end when it begins at one of those in `from`. */
static uint32_t ends_of(int i, uint32_t from, const char *text, int n)
{
    const node *x = &nodes[i];
    uint32_t to = 0;
    if (x->kind == SEQUENCE) return ends_of(x->b, ends_of(x->a, from, text, n), text, n);
    if (x->kind == CHOICE) return ends_of(x->a, from, text, n) | ends_of(x->b, from, text, n);
    if (x->kind == SET) {
        for (int p = 0; p < n; p++)
            if ((from >> p & 1) && (x->a >> (text[p] - 'a') & 1)) to |= 1u << (p + 1);
        return to;
    }
    for (int k = 0; k <= x->most && k < 20; k++) {
        if (k >= x->least) to |= from;
        from = ends_of(x->a, from, text, n);
    }
    return to;
}
static void test_expressions_against_a_plain_matcher(void)
{
    for (int round = 0; round < 300; round++) {
        char text[4096] = "root ::= ";
        sqm_grammar_config c;
        memset(&c, 0, sizeof(c));
        c.max_states = round % 3 ? 0 : 12;             /* tables are cleared often */
        c.n_sequences = 2;
        rng[0] = (uint64_t)round + 1;
        rng[1] = 99;
        n_nodes = 0;
        const int root = random_node(0, text);
        sqm_grammar *g = grammar_of(text, &c);
        if (!g) return;
        int same = 1;
        for (int k = 0; k < 60; k++) {
            char s[9];
            const int n = (int)sqm__random_below(rng, 9);
            for (int i = 0; i < n; i++) s[i] = (char)('a' + (int)sqm__random_below(rng, 3));
            const int expected = (int)(ends_of(root, 1, s, n) >> n & 1);
            if (accepts(g, s, (size_t)n) != expected) { printf("%s: %.*s\n", text, n, s); same = 0; }
        }
        CHECK(same);
        CHECK(sqm_grammar_reset(g, 0) == SQM_OK);
        for (int k = 0; k < 4; k++) {
            check_mask(g);
            const char byte = (char)('a' + (int)sqm__random_below(rng, 3));
            (void)sqm_grammar_accept_text(g, 0, &byte, 1, NULL);
        }
        sqm_grammar_free(g);
    }
}

/* ---- classes ------------------------------------------------------------------------------------------- */
static void test_classes_over_all_characters(void)
{
    static const struct { const char *text; uint32_t ranges[6]; int negated; } cases[] = {
        {"[a-z\\xe9\\u0416-\\u20ac]", {'a', 'z', 0xe9, 0xe9, 0x416, 0x20ac}, 0},
        {"[^\\x00-\\x1f\"\\\\]", {0, 0x1f, '"', '"', '\\', '\\'}, 1},
        {"[\xc3\xa9-\xf0\x9f\x98\x80]", {0xe9, 0x1f600, 1, 0, 1, 0}, 0},
        {"[^\\u0081-\\uffff]", {0x81, 0xffff, 1, 0, 1, 0}, 1},
        {"[\\U00010000-\\U0010ffff\\]\\^-]", {0x10000, 0x10ffff, ']', '^', '-', '-'}, 0},
        {".", {1, 0, 1, 0, 1, 0}, 1}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[128];
        int same = 1;
        snprintf(text, sizeof(text), "root ::= %s", cases[i].text);
        sqm_grammar *g = grammar_of(text, NULL);
        if (!g) return;
        for (uint32_t c = 0; c <= 0x10ffff; c += c < 0x3000 || c > 0x10f000 || c % 4096 > 4090 ? 1 : 5) {
            uint8_t bytes[4];
            int in = 0;
            const int32_t n = (int32_t)sqm__utf8_put(bytes, c);
            for (int k = 0; k < 3; k++) in |= c >= cases[i].ranges[2 * k] && c <= cases[i].ranges[2 * k + 1];
            if (c >= 0xd800 && c <= 0xdfff) in = 0;
            else in ^= cases[i].negated;
            if (accepts(g, (const char *)bytes, (size_t)n) == in) continue;
            printf("%s U+%04x\n", text, c);
            same = 0;
        }
        CHECK(same);
        CHECK(!accepts(g, "\xff", 1) && !accepts(g, "\xc3", 1) && !accepts(g, "\xc0\x80", 2));
        sqm_grammar_free(g);
    }
}

/* ---- recursion and JSON -------------------------------------------------------------------------------- */
static void test_json(void)
{
    static const char *const good[] = {"{}", "[]", "{\"a\":1}",
        "{\"a\": [1, 2, {\"b\": null}], \"c\": \"\\u00e9\\n\"}",
        "[-0.5e+10, true, false, \"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"]", "[\n  [\n    1\n  ]\n]", " {}"};
    static const char *const bad[] = {
        "", "{", "1", "{\"a\"}", "{\"a\":1,}", "[1,]", "[01]", "[1.]", "[\"\n\"]", "[\"\\x\"]", "{} ", "[}",
        "{a:1}", "[\"\xff\"]", "[nul]", "[+1]", "{\"a\":1]"};
    sqm_grammar_config c;
    memset(&c, 0, sizeof(c));
    c.n_sequences = 2;
    for (int small = 0; small < 2; small++) {
        c.max_states = small ? 10 : 0;
        c.max_masks = small ? 1 : 0;
        sqm_grammar *g = grammar_of(sqm_json_grammar(), &c);
        if (!g) return;
        for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
            CHECK(accepts(g, good[i], strlen(good[i])));
        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) CHECK(!accepts(g, bad[i], strlen(bad[i])));
        CHECK(sqm_grammar_reset(g, 0) == SQM_OK);
        for (const char *p = good[3]; ; p++) {         /* at every byte */
            check_mask(g);
            if (!*p) break;
            CHECK(sqm_grammar_accept_text(g, 0, p, 1, &err) == SQM_OK);
        }
        sqm_grammar_free(g);
    }
}
/* Rules that call themselves in the middle keep a stack; at the end, none. */
static void test_depth(void)
{
    static char deep[2002];
    sqm_grammar_config c;
    memset(&c, 0, sizeof(c));
    c.max_depth = 50;
    memset(deep, 'a', 1000);
    sqm_grammar *g = grammar_of("root ::= \"a\" root \"b\" | \"a\" \"b\"", &c);
    memset(deep + 1000, 'b', 1000);
    CHECK(accepts(g, deep + 960, 80) && accepts(g, deep + 949, 102));
    CHECK(!accepts(g, deep + 940, 120) && !accepts(g, deep + 990, 21));
    sqm_grammar_free(g);
    g = grammar_of("root ::= \"a\" root | \"b\" other\nother ::= \"b\" other |", &c);
    CHECK(accepts(g, deep, 2000));
    sqm_grammar_free(g);
    g = grammar_of("root ::= (\"a\"? \"b\"?)* # both can be empty\n", &c);
    CHECK(accepts(g, deep, 2000) && accepts(g, "", 0));
    sqm_grammar_free(g);
    /* many ways at once: \"a\" can be read by any of three calls */
    g = grammar_of("root ::= x x x x\nx ::= y | \"a\" y | \"a\" x\ny ::= \"a\"* \"b\"?", &c);
    CHECK(accepts(g, deep, 1002) && !accepts(g, deep, 1010));
    sqm_grammar_free(g);
}

/* ---- what is refused ----------------------------------------------------------------------------------- */
static void test_wrong_grammars(void)
{
    static const struct { const char *text, *message; } cases[] = {
        {"", "grammar line 1: no \"name ::=\""}, {"root", "grammar line 1: no \"name ::=\""},
        {"root ::= \"a", "grammar line 1: a text or class is not closed"},
        {"root ::= \"a\"\n\nx ::= [a\n", "grammar line 3: a text or class is not closed"},
        {"root ::= (\"a\"\nx ::= \"b\"", "grammar line 1: ( is not closed"},
        {"root ::= \"a\")", "grammar line 1: ) has no meaning here"},
        {"root ::= *", "grammar line 1: nothing to repeat"},
        {"root ::= \"a\"**", "grammar line 1: nothing to repeat"},
        {"root ::= \"a\" | +", "grammar line 1: nothing to repeat"},
        {"root ::= x\n# y\ny ::= \"a\"", "grammar line 1: there is no rule x"},
        {"a ::= \"a\"", "grammar: there is no rule of the name root"},
        {"root ::= \"a\"\nroot ::= \"b\"", "grammar line 2: this rule is defined twice"},
        {"root ::= \"a\"{3,2}", "grammar line 1: { } without numbers in order"},
        {"root ::= \"a\"{,2}", "grammar line 1: no number in { }"},
        {"root ::= \"a\"{2", "grammar line 1: no number in { }"},
        {"root ::= [b-a]", "grammar line 1: a range runs backwards"},
        {"root ::= []", "grammar line 1: a class without characters"},
        {"root ::= [^\\x00-\\U0010ffff]", "grammar line 1: a class without characters"},
        {"root ::= \"\\q\"", "grammar line 1: \\ before something unknown"},
        {"root ::= \"\\ud800\"", "grammar line 1: no number of a character"},
        {"root ::= \"\\x4\"", "grammar line 1: no number of a character"},
        {"root ::= \"\xff\"", "grammar line 1: not UTF-8"},
        {"root ::= root \"a\" | \"b\"",
         "grammar line 1: this rule begins with itself, or with rules that do so"},
        {"root ::= \"a\" x\nx ::= \"\" y\ny ::= \"b\"? x \"c\" | \"d\"",
         "grammar line 2: this rule begins with itself, or with rules that do so"},
        {"root ::= \"a\" root", "grammar line 1: no text of this rule ever ends"},
        {"root ::= (((\"a\"{1000}){1000}){1000}){1000}", "grammar line 1: too much with all repetitions"},
        {"root ::= ((((((((((((((((((((((((((((((\"a\"))))))))))))))))))))))))))))))",
         "grammar line 1: more than 20 ( inside each other"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        sqm_grammar *g = sqm_grammar_create(model, cases[i].text, NULL, &err);
        CHECK(g == NULL && (err.code == SQM_E_FORMAT || err.code == SQM_E_LIMIT));
        CHECK_TEXT(err.text, cases[i].message);
        sqm_grammar_free(g);
    }
    sqm_grammar_config c;
    memset(&c, 0, sizeof(c));
    c.max_states = 3;
    CHECK(sqm_grammar_size(model, "root ::= \"a\"", &c, &err) == 0 && err.code == SQM_E_ARGUMENT);
    CHECK(sqm_grammar_size(NULL, "root ::= \"a\"", NULL, &err) == 0 && err.code == SQM_E_UNSUPPORTED);
    /* random damage never does harm, whatever it means */
    rng[0] = 5;
    for (int round = 0; round < 3000; round++) {
        char text[2048];
        strcpy(text, sqm_json_grammar());
        for (int k = 0; k < 3; k++) {
            const size_t at = (size_t)sqm__random_below(rng, strlen(text));
            const char other = (char)(1 + sqm__random_below(rng, 255));
            text[at] = round % 2 ? text[sqm__random_below(rng, strlen(text))] : other;
        }
        sqm_grammar *g = sqm_grammar_create(model, text, NULL, &err);
        if (g) (void)sqm_grammar_mask(g, 0, &err);
        sqm_grammar_free(g);
    }
}
/* The size is exact: one byte less fails, bytes behind stay untouched. */
static void test_size(void)
{
    const char *const text = sqm_json_grammar();
    const size_t need = sqm_grammar_size(model, text, NULL, &err);
    uint8_t *const raw = (uint8_t *)malloc(need + 192), *const memory = raw + (64 - (uintptr_t)raw % 64) % 64;
    sqm_grammar *g;
    memset(memory + need, 0xa5, 64);
    CHECK(sqm_grammar_init(&g, model, text, NULL, memory, need - 1, &err) == SQM_E_MEMORY);
    CHECK(err.value == need);
    CHECK(sqm_grammar_init(&g, model, text, NULL, memory + 8, need, &err) == SQM_E_MEMORY);
    CHECK(sqm_grammar_init(&g, model, text, NULL, memory, need, &err) == SQM_OK);
    CHECK(accepts(g, "{\"a\": [1, 2]}", 13) && sqm_grammar_mask(g, 0, &err));
    for (int i = 0; i < 64; i++) CHECK(memory[need + (size_t)i] == 0xa5);
    CHECK(sqm_grammar_mask(g, 1, &err) == NULL && err.code == SQM_E_ARGUMENT);
    CHECK(sqm_grammar_accept(g, 0, 999, &err) == SQM_E_ARGUMENT);
    free(raw);
}

/* ---- banned texts -------------------------------------------------------------------------------------- */
static void test_banned_texts(void)
{
    static const char *const banned[] = {"abc", "ca", "aab", NULL};
    sqm_grammar_config c;
    memset(&c, 0, sizeof(c));
    c.banned = banned;
    c.n_sequences = 2;
    for (int free_text = 0; free_text < 2; free_text++) {
        sqm_grammar *g = grammar_of(free_text ? NULL : "root ::= [abc]*", &c);
        int same = 1;
        if (!g) return;
        rng[0] = 3;
        for (int round = 0; round < 2000; round++) {
            char s[12];
            const int n = (int)sqm__random_below(rng, 12);
            for (int i = 0; i < n; i++) s[i] = (char)('a' + (int)sqm__random_below(rng, 3));
            s[n] = 0;
            const int found = strstr(s, "abc") || strstr(s, "ca") || strstr(s, "aab");
            same &= accepts(g, s, (size_t)n) == !found;
        }
        CHECK(same);
        CHECK(sqm_grammar_reset(g, 0) == SQM_OK);
        check_mask(g);                                 /* "abc" itself */
        CHECK(sqm_grammar_accept_text(g, 0, "ba", 2, &err) == SQM_OK);
        check_mask(g);                                 /* "bc" would end it */
        CHECK(accepts(g, "\xff\xfe", 2) == free_text);
        sqm_grammar_free(g);
    }
    c.banned = NULL;
    sqm_grammar *g = grammar_of(NULL, &c);             /* anything that has a text */
    check_mask(g);
    sqm_grammar_free(g);
}

int main(void)
{
    model = tiny_model(pieces, PIECES, 3, 0, TINY_ATTENTION, 1);
    if (!model) return 1;
    test_expressions_against_a_plain_matcher();
    test_classes_over_all_characters();
    test_json();
    test_depth();
    test_wrong_grammars();
    test_size();
    test_banned_texts();
    sqm_model_free(model);
    return check_report("test_grammar");
}
