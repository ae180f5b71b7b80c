/* Tests of [TOK] and of the importers in tools/tok_import.h.
     test_tok                       fixtures in tests/data (made by make_tok_data.py)
     test_tok SHARED TOKENIZERS     also SHARED/real/tok/ *.json (242 strings each) for every tokenizer that
                                    tests/fetch_tokenizers.sh brought to TOKENIZERS; a third argument "real":
                                    nothing else
   The same from the environment: SQM_DATA, SQM_TOKENIZERS. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "../tools/tok_import.h"
#include "../tools/chat_template.h"
#include "check.h"

#ifndef TEST_TMP
#define TEST_TMP "./"
#endif

/* ---- helpers ------------------------------------------------------------------------------------------- */
typedef struct bench {                /* one tokenizer, open */
    conv_env  env;
    tok_blob  blob;
    sqm_model model;
    int       open;
} bench;

static void bench_finish(bench *b, int ok)
{
    sqm_error err;
    b->open = 0;
    if (!ok || b->blob.bytes == 0) return;
    memset(&b->model, 0, sizeof b->model);
    CHECK(sqm__tok_open(&b->model.tok, b->blob.data, (size_t)b->blob.bytes, &err) == SQM_OK);
    b->model.has_tok = 1;
    b->open = 1;
}

/* By what the file is; "" for bytes. */
static int bench_open(bench *b, const char *path)
{
    int ok;
    memset(b, 0, sizeof *b);
    conv_env_open(&b->env);
    ok = tok_from_file(&b->env, *path ? path : "bytes", &b->blob);
    bench_finish(b, ok);
    return b->open;
}

static void bench_close(bench *b) { conv_env_close(&b->env); }

/* Ids and text of one encoding; malloc'd. */
static int32_t encode(const bench *b, const char *text, size_t n, uint32_t flags, int32_t **ids)
{
    const int32_t cap = (int32_t)n * 4 + 64;
    sqm_error err;
    *ids = (int32_t *)malloc((size_t)cap * sizeof **ids);
    return sqm_tokenize(&b->model, text, n, flags, *ids, cap, &err);
}

static char *decode(const bench *b, const int32_t *ids, int32_t n, int32_t *bytes)
{
    char *text;
    *bytes = sqm_detokenize(&b->model, ids, n, 1, NULL, 0);
    text = (char *)malloc((size_t)*bytes + 1);
    CHECK(sqm_detokenize(&b->model, ids, n, 1, text, *bytes) == *bytes);
    return text;
}

static int same_ids(const bench *b, const json_value *text, uint32_t flags, const json_value *want)
{
    int32_t *ids;
    const int32_t n = encode(b, text->text, text->n, flags, &ids);
    int same = n == (int32_t)json_count(want);
    for (int32_t i = 0; same && i < n; i++) same = ids[i] == json_int(json_at(want, (uint32_t)i), -1);
    free(ids);
    return same;
}

static int same_text(const bench *b, const json_value *list, const json_value *want)
{
    const int32_t n = (int32_t)json_count(list);
    int32_t *ids = (int32_t *)malloc(((size_t)n + 1) * sizeof *ids), bytes;
    char *text;
    int same;
    for (int32_t i = 0; i < n; i++) ids[i] = (int32_t)json_int(json_at(list, (uint32_t)i), -1);
    text = decode(b, ids, n, &bytes);
    same = bytes == (int32_t)want->n && memcmp(text, want->text, want->n) == 0;
    free(text);
    free(ids);
    return same;
}

/* Compares all cases; prints a line with how many are equal. A decoded text of a fixture with U+FFFD is what
   the reference makes of bytes that are no text; we keep the bytes. Without a decoded text the text itself
   must come back. Returns how many cases differ. */
static uint32_t compare_cases(const bench *b, const json_value *cases, const char *name, int verbose)
{
    uint32_t bad[3] = { 0, 0, 0 };
    for (uint32_t i = 0; i < json_count(cases); i++) {
        const json_value *c = json_at(cases, i), *text = json_get(c, "text"), *ids = json_get(c, "ids");
        const json_value *special = json_get(c, "ids_with_special"), *decoded = json_get(c, "decoded");
        const int wrong[3] = { !same_ids(b, text, SQM_TOKENS_BARE, ids),
                               json_is(special, JSON_ARRAY) && !same_ids(b, text, 0, special),
                               (verbose || !strstr(json_text(decoded, ""), "\xEF\xBF\xBD")) &&
                               !same_text(b, ids, json_is(decoded, JSON_STRING) ? decoded : text) };
        for (int k = 0; k < 3; k++) {
            bad[k] += (uint32_t)wrong[k];
            if (wrong[k] && bad[k] <= 3)
                printf("%s: %s differ for \"%s\"\n", name, k == 2 ? "decoded texts" : "ids", text->text);
        }
    }
    if (verbose)
        printf("%-18s %u strings; equal: ids %u, with template %u, decoded %u\n", name, json_count(cases),
               json_count(cases) - bad[0], json_count(cases) - bad[1], json_count(cases) - bad[2]);
    return bad[0] + bad[1] + bad[2];
}

static void check_file(const char *tokenizer, const char *cases)
{
    bench b;
    json_doc doc;
    const int ok = json_read_file(&doc, cases);
    CHECK(ok);
    if (bench_open(&b, tokenizer) && ok) {
        CHECK(json_count(json_get(doc.root, "cases")) > 20);
        CHECK(compare_cases(&b, json_get(doc.root, "cases"), tokenizer, 0) == 0);
    } else {
        CHECK_TEXT(b.env.error, "");
    }
    bench_close(&b);
    json_free(&doc);
}

static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void write_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(data, 1, n, f) == n);
    if (f) fclose(f);
}

/* ---- json.h -------------------------------------------------------------------------------------------- */
static int json_accepts(const char *text)
{
    json_doc doc;
    const int ok = json_parse(&doc, text, strlen(text));
    json_free(&doc);
    return ok;
}

static void test_json_reads_values(void)
{
    static const char text[] = "{\"a\":[1,-2.5e1,true,null,\"\\u00e9\\ud83d\\ude00\\n\"],"
                               "\"b\":{\"c\":9007199254740993},"
                               "\"a\":7,\"d\":Infinity}";
    json_doc doc;
    CHECK(json_parse(&doc, text, sizeof text - 1));
    CHECK(json_int(json_get(doc.root, "a"), 0) == 7);
    CHECK(json_count(json_at(doc.root, 0)) == 5);
    CHECK(json_number(json_at(json_at(doc.root, 0), 1), 0.0) == -25.0);
    CHECK_TEXT(json_text(json_at(json_at(doc.root, 0), 4), ""), "\xC3\xA9\xF0\x9F\x98\x80\n");
    CHECK(json_int(json_get(json_get(doc.root, "b"), "c"), 0) == INT64_C(9007199254740993));
    CHECK(json_get(json_get(doc.root, "d"), "c") == NULL);
    json_free(&doc);
}

static void test_json_refuses_errors(void)
{
    static const char *const wrong[] = { "", "[1,]", "{\"a\":1,}", "[1 2]", "01", "-", "1.", "\"\\ud800\"",
                                         "\"\x01\"", "nul",
                                         "\"\\q\"", "{1:2}", "[", "{\"a\"", "1 2", "\"\xC0\x80\"", "]" };
    json_doc doc;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) CHECK(!json_accepts(wrong[i]));
    CHECK(!json_parse(&doc, "[1,\n 2 3]", 9));
    CHECK_TEXT(doc.error, "JSON line 2 column 4: ',' or a closing bracket was expected");
}

static void test_json_finds_every_key(void)
{
    char *text = (char *)malloc(400000);
    size_t n = 0;
    json_doc doc;
    uint32_t wrong = 0;
    text[n++] = '{';
    for (int i = 0; i < 20000; i++) n += (size_t)sprintf(text + n, "%s\"k%d\":%d", i ? "," : "", i * 7, i);
    text[n++] = '}';
    CHECK(json_parse(&doc, text, n));
    CHECK(json_count(doc.root) == 20000);
    for (int i = 0; i < 20000; i++) {
        char key[16];
        sprintf(key, "k%d", i * 7);
        wrong += json_int(json_get(doc.root, key), -1) != i;
        wrong += json_int(json_at(doc.root, (uint32_t)i), -1) != i;
    }
    CHECK(wrong == 0);
    CHECK(json_get(doc.root, "k1") == NULL);
    json_free(&doc);
    free(text);
}

/* ---- regular expressions ------------------------------------------------------------------------------- */
static const char *const behaviours[5] = { "isolated", "removed", "merged_with_previous", "merged_with_next",
                                           "contiguous" };

/* A tokenizer of bytes that has just this split. */
static int split_open(bench *b, const char *pattern, uint32_t flags)
{
    tok_builder t;
    char all[256];
    memset(b, 0, sizeof *b);
    conv_env_open(&b->env);
    tok_open(&t, &b->env, SQM__TOK_BYTES);
    tok_set_count(&t, 256, 256);
    for (int i = 0; i < 256; i++) {
        all[i] = (char)i;
        t.text[i] = tok_make_text(all + i, 1);
        t.type[i] = SQM__TOKEN_NORMAL;
    }
    bench_finish(b, tok_add_split(&t, pattern, strlen(pattern), flags) && tok_finish(&t, &b->blob));
    return b->open;
}

/* Walks the pieces of text as encoding does. */
static int same_pieces(const bench *b, const char *text, size_t n, const json_value *want)
{
    sqm__regex_frame *frames = (sqm__regex_frame *)calloc(b->model.tok.h->regex_frames + 1, sizeof *frames);
    sqm__tok_run r;
    sqm__splitter s;
    sqm__span piece;
    uint32_t k = 0;
    int same = 1;
    memset(&r, 0, sizeof r);
    memset(&s, 0, sizeof s);
    r.t = &b->model.tok;
    r.frames = frames;
    r.steps = 1 << 20;
    s.step = sqm__tok_steps(r.t, SQM__A_SPLITS);
    s.end = (uint32_t)n;
    while (sqm__next_match(&r, (const uint8_t *)text, &s, &piece)) {
        const json_value *w = json_at(want, k++);
        same = same && json_is(w, JSON_STRING) && w->n == piece.end - piece.begin &&
               memcmp(w->text, text + piece.begin, w->n) == 0;
    }
    free(frames);
    return same && r.result == SQM_OK && k == json_count(want);
}

static void test_regex_splits_like_the_reference(void)
{
    json_doc doc;
    CHECK(json_read_file(&doc, "tests/data/tok_regex.json"));
    CHECK(json_count(doc.root) > 300);
    for (uint32_t i = 0; i < json_count(doc.root); i++) {
        const json_value *c = json_at(doc.root, i), *text = json_at(c, 3);
        const char *pattern = json_text(json_at(c, 0), "");
        uint32_t flags = json_bool(json_at(c, 2), 0) ? SQM__SPLIT_INVERT : 0;
        bench b;
        for (uint32_t k = 0; k < 5; k++) flags |= json_text_is(json_at(c, 1), behaviours[k]) ? k : 0;
        if (split_open(&b, pattern, flags)) {
            const int same = same_pieces(&b, text->text, text->n, json_at(c, 4));
            CHECK(same);
            if (!same) printf("  /%s/ %u on \"%s\"\n", pattern, flags, text->text);
        } else {
            CHECK_TEXT(b.env.error, "");
        }
        bench_close(&b);
    }
    json_free(&doc);
}

static void test_regex_refuses_what_it_does_not_know(void)
{
    static const char *const wrong[] = { "(", ")", "a)", "[a", "\\p{Greek}", "\\k<a>", "(?<a>b)", "(?<=a)b",
                                         "a{2}?", "*a", "(?:a*)*", "\\1", "[[:alpha:]]", "\\p{L", "[z-a]",
                                         "\\", "a{99999}", "(?i:\xC3\xA9)" };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        bench b;
        CHECK(!split_open(&b, wrong[i], 0));
        CHECK(strstr(b.env.error, "regular expression"));
        bench_close(&b);
    }
}

/* A look-ahead over all that follows is quadratic: it must end with an error, not with a long wait. */
static void test_regex_is_bounded(void)
{
    const size_t n = 400000;
    char *text = (char *)malloc(n);
    int32_t *ids;
    bench b;
    memset(text, '7', n);
    CHECK(split_open(&b, "\\p{N}{1,3}(?=(?:\\p{N}{3})*\\b)", 0));
    CHECK(encode(&b, text, n, 0, &ids) == SQM_E_LIMIT);
    free(ids);
    CHECK(encode(&b, text, 300, 0, &ids) == 300);
    free(ids);
    bench_close(&b);
    CHECK(split_open(&b, "(?:a|b)*c|.", 0));
    memset(text, 'a', n);
    CHECK(encode(&b, text, n, 0, &ids) == SQM_E_LIMIT);
    free(ids);
    bench_close(&b);
    free(text);
}

/* ---- properties ---------------------------------------------------------------------------------------- */
/* Every text comes back as it was: no byte is lost, also where it is no UTF-8. */
static void test_tok_keeps_bytes(const char *path, const char *before)
{
    uint64_t state = 88172645463325252u;
    bench b;
    CHECK(bench_open(&b, path));
    for (int round = 0; b.open && round < 400; round++) {
        char text[300];
        const size_t n = (size_t)(random_next(&state) % sizeof text);
        int32_t *ids, bytes, count;
        char *back;
        size_t put;
        for (size_t i = 0; i < n; i++) {
            const uint64_t v = random_next(&state);
            text[i] = round % 2 ? (char)v : "  the '\n\xE2\x96\x81\xF0\x9F\x98\x80 s12"[v % 19];
        }
        count = encode(&b, text, n, SQM_TOKENS_BARE | SQM_TOKENS_PLAIN, &ids);
        CHECK(count >= 0);
        back = decode(&b, ids, count, &bytes);
        put = n && text[0] != ' ' ? strlen(before) : 0;          /* a prefix is only put where none is */
        CHECK(bytes == (int32_t)(n + put) && memcmp(back + put, text, n) == 0);
        free(back);
        free(ids);
    }
    bench_close(&b);
}

/* A vocabulary of RWKV's kind, all bytes and some longer texts, in a file; token 0 is not in it. */
typedef struct longest_vocab { char text[300][16]; int32_t bytes[300], n; } longest_vocab;
static void make_longest(longest_vocab *v, const char *path)
{
    static const char *const more[] = { "th", "the", " the", "  ", "   ", "\xE4\xB8", "\xE4\xB8\xAD", "\n\n",
                                        "<to", "'s", "aaaa", "aaaaaaaa", "\xC3\xA9\xC3\xA9", "\\x" };
    char file[16384];
    size_t at = 0;
    memset(v, 0, sizeof *v);
    for (v->n = 1; v->n <= 256; v->n++) {
        v->text[v->n][0] = (char)(v->n - 1);
        v->bytes[v->n] = 1;
    }
    for (size_t i = 0; i < sizeof more / sizeof *more; i++, v->n++) {
        v->bytes[v->n] = (int32_t)strlen(more[i]);
        memcpy(v->text[v->n], more[i], strlen(more[i]));
    }
    for (int32_t i = 1; i < v->n; i++) {
        at += (size_t)snprintf(file + at, sizeof file - at, "%d b'", i);
        for (int32_t k = 0; k < v->bytes[i]; k++)
            at += (size_t)snprintf(file + at, sizeof file - at, "\\x%02x", (unsigned char)v->text[i][k]);
        at += (size_t)snprintf(file + at, sizeof file - at, "' %d\n", v->bytes[i]);
    }
    write_file(path, file, at);
}
static int32_t longest_at(const longest_vocab *v, const char *text, int32_t bytes)
{
    int32_t best = 0;
    for (int32_t i = 1; i < v->n; i++) {
        if (v->bytes[i] > v->bytes[best] && v->bytes[i] <= bytes &&
            memcmp(text, v->text[i], (size_t)v->bytes[i]) == 0) best = i;
    }
    return best;
}

static void test_tok_longest_match(void)
{
    static longest_vocab v;
    uint64_t state = 4711;
    bench b;
    make_longest(&v, TEST_TMP "tok_longest.txt");
    CHECK(bench_open(&b, TEST_TMP "tok_longest.txt"));
    for (int round = 0; b.open && round < 300; round++) {
        char text[200];
        const int32_t bytes = (int32_t)(random_next(&state) % sizeof text);
        int32_t at = 0, same = 1, *ids, count;
        for (int32_t i = 0; i < bytes; i++)
            text[i] = " tthhesa\xE4\xB8\xAD\xC3\xA9\n<"[random_next(&state) % 15];
        count = encode(&b, text, (size_t)bytes, 0, &ids);
        for (int32_t k = 0; k < count && same && at < bytes; k++) {
            const int32_t id = longest_at(&v, text + at, bytes - at);
            same = ids[k] == id;
            at += v.bytes[id];
        }
        CHECK(same && at == bytes);
        free(ids);
    }
    CHECK(b.open && sqm_token_is_end(&b.model, 0) && sqm_token_find(&b.model, "eos") == 0);
    CHECK(b.open && sqm_token_find(&b.model, " the") == 259);
    bench_close(&b);
}
static void test_tok_longest_refuses(void)
{
    static const char *const wrong[] = {
        "1 'a' 2\n", "1 'a 1\n", "x 'a' 1\n", "1 'a' 1\n1 'b' 1\n", "1 '\\q' 1\n", "1 b'\\u0041' 1\n",
        "1 '\\ud800' 3\n", "99999999 'a' 1\n", "5555552 'a' 1\n", "", "1 '' 0\n", "0 'a' 1\n", "1 a 1\n"
    };
    static const char escapes[] = "1 '\\t\\n\\'\"\\\\' 5\n2 '\\xe9\\u4e2d' 5\r\n3 \"it's\" 4\n4 b'\\xe9' 1";
    int32_t *ids, count;
    bench b;
    write_file(TEST_TMP "tok_escapes.txt", escapes, strlen(escapes));
    CHECK(bench_open(&b, TEST_TMP "tok_escapes.txt"));
    if (b.open) {                                      /* "?" is no token: dropped */
        count = encode(&b, "\t\n'\"\\it's\xC3\xA9\xE4\xB8\xAD\xE9?", 16, 0, &ids);
        CHECK(count == 4 && ids[0] == 1 && ids[1] == 3 && ids[2] == 2 && ids[3] == 4);
        free(ids);
    }
    bench_close(&b);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        write_file(TEST_TMP "tok_wrong.txt", wrong[i], strlen(wrong[i]));
        CHECK(!bench_open(&b, TEST_TMP "tok_wrong.txt"));
        bench_close(&b);
    }
}

static void test_tok_memory_is_exact(const char *path)
{
    static const char text[] = "the brother, 12 caf\xC3\xA9 <|end|> x \xFF mother and the other";
    int32_t ids[200], again[200], n, small[5];
    size_t need;
    uint8_t *memory;
    sqm_error err;
    bench b;
    CHECK(bench_open(&b, path));
    need = sqm_tokenize_size(&b.model, sizeof text - 1);
    memory = (uint8_t *)malloc(need + 16);
    memset(memory, 0xAB, need + 16);
    n = sqm_tokenize_in(&b.model, text, sizeof text - 1, 0, ids, 200, memory, need, &err);
    CHECK(n > 10);
    for (size_t i = 0; i < 16; i++) CHECK(memory[need + i] == 0xAB);
    if (need) {
        CHECK(sqm_tokenize_in(&b.model, text, sizeof text - 1, 0, ids, 200, memory, need - 1,
                              &err) == SQM_E_MEMORY);
        CHECK(err.value == need);
    }
    CHECK(sqm_tokenize(&b.model, text, sizeof text - 1, 0, NULL, 0, &err) == n);
    CHECK(sqm_tokenize(&b.model, text, sizeof text - 1, 0, again, 200, &err) == n);
    CHECK(memcmp(ids, again, 4 * (size_t)n) == 0);
    small[4] = -7;
    CHECK(sqm_tokenize(&b.model, text, sizeof text - 1, 0, small, 4, &err) == n && small[4] == -7 &&
          small[3] == ids[3]);
    CHECK(sqm_tokenize(&b.model, NULL, 3, 0, ids, 200, &err) == SQM_E_ARGUMENT);
    CHECK(sqm_tokenize(&b.model, text, 3, 8, ids, 200, &err) == SQM_E_ARGUMENT);
    CHECK(sqm_tokenize(&b.model, text, (size_t)1 << 30, 0, ids, 200, &err) < 0);
    free(memory);
    bench_close(&b);
}

/* Short and long pieces are merged by different code; both must give what the definition gives. */
static void test_tok_long_pieces(void)
{
    bench b;
    uint64_t state = 7;
    CHECK(bench_open(&b, "tests/data/tok512.bin"));
    for (int round = 0; b.open && round < 60; round++) {
        sqm__tok_run r;
        sqm__arena a;
        uint32_t first[64], few[64], n = 0, n_few, n_many;
        uint64_t memory[2048];
        memset(&r, 0, sizeof r);
        memset(&a, 0, sizeof a);
        a.base = (uint8_t *)memory;
        a.size = sizeof memory;
        r.t = &b.model.tok;
        CHECK(sqm__tok_layout(&r, r.t, 64, &a));
        for (; n < 64; n++) first[n] = (uint32_t)(410 + random_next(&state) % (round % 4 ? 12 : 2));
        memcpy(r.symbol, first, sizeof first);
        n_few = sqm__merge_few(&r, n);
        memcpy(few, r.symbol, sizeof few);
        memcpy(r.symbol, first, sizeof first);
        n_many = sqm__merge_many(&r, n);
        CHECK(n_few == n_many && memcmp(few, r.symbol, 4 * (size_t)n_few) == 0);
    }
    bench_close(&b);
}

/* A text without any boundary takes about linear time: this is a few hundred thousand merges. */
static void test_tok_text_without_words(void)
{
    const size_t n = 300000;
    char *text = (char *)malloc(n);
    int32_t *ids, count, bytes;
    char *back;
    bench b;
    for (size_t i = 0; i < n; i++) text[i] = "theroanfsd"[i * i % 10];
    CHECK(bench_open(&b, "tests/data/tok512.bin"));
    count = encode(&b, text, n, 0, &ids);
    CHECK(count > 1000 && count < (int32_t)n);
    back = decode(&b, ids + 1, count - 1, &bytes);
    CHECK(bytes == (int32_t)n && memcmp(back, text, n) == 0);
    free(back);
    free(ids);
    free(text);
    bench_close(&b);
}

/* ---- the public functions ------------------------------------------------------------------------------ */
static void test_tok_roles_and_texts(void)
{
    char text[32];
    int32_t *ids, n, end;
    bench b;
    CHECK(bench_open(&b, "tests/data/tok_bytes.json"));
    end = sqm_token_find(&b.model, "<|end|>");
    CHECK(end >= 0 && sqm_token_find(&b.model, "the") >= 0);
    CHECK(sqm_token_find(&b.model, "no such token") == -1);
    CHECK(sqm_token_find(&b.model, "bos") == -1 && sqm_token_find(&b.model, "") == -1);
    CHECK(sqm_token_is_end(&b.model, end));
    CHECK(!sqm_token_is_end(&b.model, 0) && !sqm_token_is_end(&b.model, -1));
    CHECK(sqm_token_text(&b.model, end, 1, text, 32) == 7 && memcmp(text, "<|end|>", 7) == 0);
    CHECK(sqm_token_text(&b.model, end, 0, text, 32) == 0);
    CHECK(sqm_token_text(&b.model, -1, 1, text, 32) == 0);
    CHECK(sqm_token_text(&b.model, 1 << 30, 1, text, 32) == 0);
    n = encode(&b, "<|end|>", 7, SQM_TOKENS_BARE, &ids);
    CHECK(n == 1 && ids[0] == end);
    CHECK(sqm_detokenize(&b.model, ids, n, 0, text, 32) == 0);
    free(ids);
    n = encode(&b, "<|end|>", 7, SQM_TOKENS_BARE | SQM_TOKENS_PLAIN, &ids);
    CHECK(n > 1 && sqm_detokenize(&b.model, ids, n, 0, text, 32) == 7);
    free(ids);
    n = encode(&b, "", 0, 0, &ids);
    CHECK(n == 2 && ids[1] == end);
    free(ids);
    bench_close(&b);
    CHECK(bench_open(&b, "tests/data/tok512.bin"));
    CHECK(sqm_token_find(&b.model, "unk") == 0 && sqm_token_find(&b.model, "bos") == 1 &&
          sqm_token_find(&b.model, "eos") == 2);
    CHECK(sqm_token_find(&b.model, " the") > 258 && sqm_token_is_end(&b.model, 2));
    bench_close(&b);
}

static void test_tok_model_without_tokenizer(void)
{
    sqm_model m;
    sqm_error err;
    int32_t id = 1;
    memset(&m, 0, sizeof m);
    CHECK(sqm_tokenize(&m, "a", 1, 0, NULL, 0, &err) == SQM_E_UNSUPPORTED && err.text[0]);
    CHECK(sqm_tokenize(NULL, "a", 1, 0, NULL, 0, &err) == SQM_E_UNSUPPORTED);
    CHECK(sqm_tokenize_size(&m, 100) == 0 && sqm_detokenize(&m, &id, 1, 1, NULL, 0) < 0);
    CHECK(sqm_token_find(&m, "bos") == -1 && !sqm_token_is_end(&m, 1));
    CHECK(sqm_token_text(&m, 1, 1, NULL, 0) == 0);
}

/* ---- importers ----------------------------------------------------------------------------------------- */
static void check_import_error(const char *json, const char *part)
{
    bench b;
    write_file(TEST_TMP "tok_wrong.json", json, strlen(json));
    CHECK(!bench_open(&b, TEST_TMP "tok_wrong.json"));
    if (!strstr(b.env.error, part)) CHECK_TEXT(b.env.error, part);
    bench_close(&b);
}

static void test_import_names_what_it_does_not_know(void)
{
#define MODEL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"
    check_import_error("{\"model\":{\"type\":\"WordLevel\",\"merges\":[]}}", "the model \"WordLevel\"");
    check_import_error("{\"model\":{\"type\":\"WordPiece\"}}", "this WordPiece model");
    check_import_error("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}", "no text with a score");
    check_import_error("{" MODEL ",\"decoder\":{\"type\":\"CTC\"}}", "the decoder \"CTC\"");
    check_import_error("{" MODEL ",\"normalizer\":{\"type\":\"Nmt\"}}", "the normalizer \"Nmt\"");
    check_import_error("{" MODEL ",\"normalizer\":{\"type\":\"Sequence\","
                       "\"normalizers\":[{\"type\":\"NFKX\"}]}}",
                       "NFKX");
    check_import_error("{" MODEL ",\"normalizer\":{\"type\":\"Precompiled\","
                       "\"precompiled_charsmap\":\"AAAA\"}}", "charsmap");
    check_import_error("{" MODEL ",\"normalizer\":{\"type\":\"Precompiled\","
                       "\"precompiled_charsmap\":\"A?\"}}", "base64");
    check_import_error("{" MODEL ",\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}}", "UnicodeScripts");
    check_import_error("{" MODEL ",\"decoder\":{\"type\":\"Fuse\"},\"post_processor\":{\"type\":\"X\"}}",
                       "post-processor \"X\"");
    check_import_error("{" MODEL "}", "decoder");
    check_import_error("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", "no token");
    check_import_error("{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", "no number");
    check_import_error("{\"model\":{\"vocab\":{\"a\":99999999},\"merges\":[]}}", "too large");
    check_import_error("{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "same id");
    check_import_error("{\"model\":", "JSON");
#undef MODEL
}

typedef struct gguf_text { uint8_t data[1 << 16]; size_t n; uint64_t keys; } gguf_text_file;

static void put_number(gguf_text_file *g, uint64_t v, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) g->data[g->n++] = (uint8_t)(v >> (8 * i));
}

static void put_text(gguf_text_file *g, const char *text, size_t n)
{
    put_number(g, n, 8);
    memcpy(g->data + g->n, text, n);
    g->n += n;
}

static void put_key(gguf_text_file *g, const char *key, uint32_t type)
{
    put_text(g, key, strlen(key));
    put_number(g, type, 4);
    g->keys++;
}

static void put_array(gguf_text_file *g, const char *key, uint32_t type, uint64_t n)
{
    put_key(g, key, GGUF_ARRAY);
    put_number(g, type, 4);
    put_number(g, n, 8);
}

static void gguf_begin(gguf_text_file *g, const char *model)
{
    memset(g, 0, sizeof *g);
    put_number(g, 0x46554747, 4);
    put_number(g, 3, 4);
    put_number(g, 0, 8);                               /* tensors */
    put_number(g, 0, 8);                               /* keys: see gguf_end */
    put_key(g, "tokenizer.ggml.model", GGUF_STRING);
    put_text(g, model, strlen(model));
}

static void gguf_end(gguf_text_file *g, const char *path)
{
    for (int i = 0; i < 8; i++) g->data[16 + i] = (uint8_t)(g->keys >> (8 * i));
    write_file(path, g->data, g->n);
}

/* The vocabulary of tok512.bin as GGUF metadata: the same ids. */
static void test_import_gguf_scores(void)
{
    gguf_text_file *g = (gguf_text_file *)malloc(sizeof *g);
    const sqm__tok *t;
    float scores[512];
    bench b;
    CHECK(bench_open(&b, "tests/data/tok512.bin"));
    t = &b.model.tok;
    gguf_begin(g, "llama");
    put_array(g, "tokenizer.ggml.tokens", GGUF_STRING, 512);
    for (int32_t i = 0; i < 512; i++) {
        uint32_t n, used = 0;
        const char *text = (const char *)sqm__tok_text(t, i, 1, &n);
        char piece[64];
        for (uint32_t k = 0; k < n && i > 258; k++) {
            if (text[k] != ' ') { piece[used++] = text[k]; continue; }
            memcpy(piece + used, "\xE2\x96\x81", 3);
            used += 3;
        }
        if (i >= 3 && i <= 258) used = (uint32_t)sprintf(piece, "<0x%02X>", (unsigned)(i - 3));
        if (i < 3) used = (uint32_t)sprintf(piece, "%s", i == 0 ? "<unk>" : i == 1 ? "<s>" : "</s>");
        put_text(g, piece, used);
        scores[i] = (float)-i;                         /* as in the source: ids in order of score */
    }
    put_array(g, "tokenizer.ggml.scores", GGUF_F32, 512);
    for (int i = 0; i < 512; i++) put_number(g, sqm__bits(scores[i]), 4);
    put_array(g, "tokenizer.ggml.token_type", GGUF_I32, 512);
    for (int i = 0; i < 512; i++) put_number(g, i == 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1, 4);
    gguf_end(g, TEST_TMP "tok_scores.gguf");
    bench_close(&b);
    check_file(TEST_TMP "tok_scores.gguf", "tests/data/tok512_cases.json");
    free(g);
}

/* The vocabulary and merges of tok_prefix.json as GGUF metadata. */
static void test_import_gguf_merges(void)
{
    gguf_text_file *g = (gguf_text_file *)malloc(sizeof *g);
    json_doc doc;
    const json_value *vocab, *merges;
    bench b;
    CHECK(json_read_file(&doc, "tests/data/tok_prefix.json"));
    vocab = json_get(json_get(doc.root, "model"), "vocab");
    merges = json_get(json_get(doc.root, "model"), "merges");
    for (int unknown = 1; unknown >= 0; unknown--) {
        gguf_begin(g, "gpt2");
        put_key(g, "tokenizer.ggml.pre", GGUF_STRING);
        put_text(g, unknown ? "gpt-99" : "gpt-2", unknown ? 6 : 5);
        put_key(g, "tokenizer.ggml.add_space_prefix", GGUF_BOOL);
        put_number(g, 1, 1);
        put_array(g, "tokenizer.ggml.tokens", GGUF_STRING, json_count(vocab));
        for (uint32_t id = 0; id < json_count(vocab); id++) {
            for (uint32_t i = 0; i < json_count(vocab); i++) {
                if (json_int(json_at(vocab, i), -1) == (int64_t)id)
                    put_text(g, json_key_at(vocab, i)->text, json_key_at(vocab, i)->n);
            }
        }
        put_array(g, "tokenizer.ggml.merges", GGUF_STRING, json_count(merges));
        for (uint32_t i = 0; i < json_count(merges); i++) {
            char both[128];
            const int n = sprintf(both, "%s %s", json_text(json_at(json_at(merges, i), 0), ""),
                                  json_text(json_at(json_at(merges, i), 1), ""));
            put_text(g, both, (size_t)n);
        }
        gguf_end(g, TEST_TMP "tok_merges.gguf");
        if (unknown) {
            CHECK(!bench_open(&b, TEST_TMP "tok_merges.gguf"));
            CHECK(strstr(b.env.error, "\"gpt-99\""));
            bench_close(&b);
        } else {
            check_file(TEST_TMP "tok_merges.gguf", "tests/data/tok_prefix.json");
        }
    }
    json_free(&doc);
    free(g);
}

/* ---- chat templates ------------------------------------------------------------------------------------ */
/* What is made of short templates that have the marks of a family, written for this test. */
static void test_chat_templates(void)
{
    static const struct { const char *jinja, *family, *part; } cases[] = {
        { "{{'<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>'}}", "chatml",
          "user=<|im_start|>user\\n%s<|im_end|>\\n\nreply=<|im_start|>assistant\\n\n" },
        { "{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}", "chatml", "\ndefault=Be kind.\n" },
        { "{{ '<|im_start|>user<|im_sep|>' }}<|im_end|>", "phi4", "reply=<|im_start|>assistant<|im_sep|>\n" },
        { "{{bos_token}}<|start_header_id|>x<|end_header_id|><|eot_id|>", "llama3", "begin={bos}\nsystem=" },
        { "Cutting Knowledge Date<|start_header_id|><|eot_id|>", "llama3", "\ndefault=\n" },
        { "{{bos_token}}<start_of_turn><end_of_turn>", "gemma", "first=%s<end_of_turn>\\n\n" },
        { "{{bos_token}}'[INST] ' + c + ' [/INST]'", "mistral", "user=[INST] %s [/INST]\n" },
        { "{{bos_token}}'[INST] ' + c + '[/INST]'", "mistral", "user=[INST] %s[/INST]\n" },
        { "{{bos_token}}'[INST]' + c + '[/INST]' [SYSTEM_PROMPT]", "mistral7", "user=[INST]%s[/INST]\n" },
        { "{{bos_token}}[INST] <<SYS>> [/INST]", "llama2", "end={eos}{bos}\n" },
        { "<|user|> <|end|> <|assistant|>", "phi3", "user=<|user|>\\n%s<|end|>\\n\n" },
        { "<|user|> <|system|> eos_token", "zephyr", "end={eos}\\n\n" },
        { "<" CHAT_FW "User" CHAT_FW "><" CHAT_FW "Assistant" CHAT_FW ">", "deepseek3", "end={eos}\n" },
        { "Human: {{x}} AI:", NULL, "" }, { "", NULL, "" }
    };
    conv_env env;
    conv_env_open(&env);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *family = "", *frame = chat_describe(&env, cases[i].jinja, &family);
        CHECK(!frame == !cases[i].family && !family == !cases[i].family);
        if (!frame || !family || !cases[i].family) continue;
        CHECK_TEXT(family, cases[i].family);
        if (!strstr(frame, cases[i].part)) CHECK_TEXT(frame, cases[i].part);
    }
    conv_env_close(&env);
}

/* ---- damaged input ------------------------------------------------------------------------------------- */
static uint32_t use_blob(const uint8_t *blob, size_t n)
{
    static const char text[] = " the brother  \xE4\xB8\xAD 123 don't<|end|>  caf\xCC\x81\xCC\xA3 <tool> \xFF";
    sqm_model m;
    sqm_error err;
    int32_t ids[600], count;
    char out[512];
    memset(&m, 0, sizeof m);
    if (sqm__tok_open(&m.tok, blob, n, &err) != SQM_OK) return 0;
    m.has_tok = 1;
    if (sqm_tokenize_size(&m, sizeof text - 1) > 1 << 26) return 1;
    count = sqm_tokenize(&m, text, sizeof text - 1, 0, ids, 600, &err);
    for (int32_t i = 0; i < count && i < 600; i++) CHECK(ids[i] >= 0 && ids[i] < sqm__tok_count(&m.tok));
    if (count > 0) (void)sqm_detokenize(&m, ids, count < 600 ? count : 600, 1, out, 512);
    for (int32_t i = 0; i < 3; i++) (void)sqm_token_text(&m, i, 1, out, 512);
    (void)sqm_token_find(&m, "<tool>");
    (void)sqm_token_is_end(&m, 5);
    return 1;
}

static void test_blob_damage_is_harmless(const char *path)
{
    uint64_t state = 1234567;
    uint8_t *copy;
    uint32_t accepted = 0;
    bench b;
    CHECK(bench_open(&b, path));
    if (!b.open) return;
    copy = (uint8_t *)malloc((size_t)b.blob.bytes);
    for (uint64_t n = 0; n < b.blob.bytes; n += n < 512 ? 1 : 61) {
        uint8_t *exact = (uint8_t *)malloc((size_t)n + 1);
        memcpy(exact, b.blob.data, (size_t)n);
        (void)use_blob(exact, (size_t)n);
        free(exact);
    }
    for (int round = 0; round < 3000; round++) {
        const int flips = 1 + round % 3;
        memcpy(copy, b.blob.data, (size_t)b.blob.bytes);
        for (int k = 0; k < flips; k++) {
            const uint64_t range = round % 2 ? 1024 : b.blob.bytes, v = random_next(&state);
            copy[v % (range < b.blob.bytes ? range : b.blob.bytes)] ^= (uint8_t)(1u << (v >> 60 & 7));
        }
        accepted += use_blob(copy, (size_t)b.blob.bytes);
    }
    CHECK(accepted > 100 && accepted < 3000);
    free(copy);
    bench_close(&b);
}

static void test_import_damage_is_harmless(const char *path, const char *ending)
{
    char name[256];
    const char *why;
    uint64_t state = 99;
    size_t n;
    char *text = json_read_bytes(path, 1 << 20, &n, &why), *copy = (char *)malloc(n + 1);
    snprintf(name, sizeof name, "%stok_damaged%s", TEST_TMP, ending);
    for (int round = 0; text && round < 300; round++) {
        const size_t keep = round % 5 ? n : 1 + (size_t)(random_next(&state) % n);
        bench b;
        memcpy(copy, text, n);
        for (int k = 0; k <= round % 4; k++) copy[random_next(&state) % n] = (char)random_next(&state);
        write_file(name, copy, keep);
        if (bench_open(&b, name)) (void)use_blob(b.blob.data, (size_t)b.blob.bytes);
        else CHECK(b.env.error[0] || b.blob.bytes == 0);
        bench_close(&b);
    }
    free(copy);
    free(text);
}

static void test_damage(void)
{
    static const char *const blobs[] = { "bytes.json", "spm.json", "meta.json", "word.json", "unigram.json",
                                         "forms.json" };
    static const char *const files[] = { "bytes.json", "word.json", "unigram.json", "tekken.json",
                                         "piece_bpe.model", "piece_unigram.model" };
    char path[64];
    for (size_t i = 0; i < sizeof blobs / sizeof *blobs; i++) {
        snprintf(path, sizeof path, "tests/data/tok_%s", blobs[i]);
        test_blob_damage_is_harmless(path);
    }
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "tests/data/tok_%s", files[i]);
        test_import_damage_is_harmless(path, strchr(files[i], '.'));
    }
    test_blob_damage_is_harmless(TEST_TMP "tok_longest.txt");
    test_import_damage_is_harmless("tests/data/tok512.bin", ".bin");
    test_import_damage_is_harmless(TEST_TMP "tok_longest.txt", ".txt");
    test_import_damage_is_harmless(TEST_TMP "tok_merges.gguf", ".gguf");
}

/* ---- real tokenizers ----------------------------------------------------------------------------------- */
static void test_real_tokenizers(const char *shared, const char *where)
{
    static const char *const names[][2] = {            /* strings, tokenizer */
        { "smollm2", "smollm2/model.gguf" },
        { "gpt2-whisper-en", "gpt2-whisper-en/tokenizer.json" },
        { "whisper-multi", "whisper-multi/tokenizer.json" },
        { "gpt-neox-20b", "gpt-neox-20b/tokenizer.json" },
        { "claude", "claude/tokenizer.json" },
        { "llama3", "llama3/tokenizer.json" },
        { "qwen3", "qwen3/tokenizer.json" },
        { "gpt35turbo", "gpt35turbo/tokenizer.json" },
        { "gpt4o", "gpt4o/tokenizer.json" },
        { "gptoss", "gptoss/tokenizer.json" },
        { "deepseek_v3", "deepseek_v3/tokenizer.json" },
        { "mistral-tekken", "mistral-tekken/tekken.json" },
        { "llama2", "llama2/tokenizer.json" },
        { "gemma3", "gemma3/tokenizer.json" },
        { "gemma3", "gemma3/model.gguf" },
        { "gemini", "gemini/tokenizer.json" },
        { "mistral-v1-spm", "mistral-v1-spm/tokenizer.model" },
        { "mistral-v3-spm", "mistral-v3-spm/tokenizer.model" },
        { "llama2c-tok512", "../real/models/stories260k/tok512.bin" },
        { "unigram-multilingual", "unigram-multilingual/tokenizer.json" },
        { "bert-uncased", "bert-uncased/tokenizer.json" },
        { "bert-cased", "bert-cased/tokenizer.json" },
        { "mpnet", "mpnet/tokenizer.json" },
        { "rwkv-world", "rwkv-world/rwkv_vocab_v20230424.txt" }
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[600], cases[600];
        json_doc doc;
        bench b;
        const int beside = names[i][1][0] == '.';
        snprintf(path, sizeof path, "%s/%s", beside ? shared : where, names[i][1] + (beside ? 3 : 0));
        snprintf(cases, sizeof cases, "%s/real/tok/%s.json", shared, names[i][0]);
        if (!conv_file_exists(path)) {
            printf("SKIP %s: %s is not there\n", names[i][0], path);
            continue;
        }
        CHECK(json_read_file(&doc, cases));
        if (bench_open(&b, path)) {
            const uint32_t bad = compare_cases(&b, json_get(doc.root, "cases"), names[i][0], 1);
            printf("%s %s\n", bad ? "FAIL" : "PASS", names[i][1]);
            CHECK(bad == 0);
        } else {
            CHECK_TEXT(b.env.error, "");
            printf("FAIL %s\n", names[i][1]);
        }
        bench_close(&b);
        json_free(&doc);
    }
}

/* Each fixture holds its cases, or stands beside them. */
static void test_fixtures(void)
{
    static const char *const names[] = { "bytes", "prefix", "spm", "meta", "split", "word", "unigram",
                                         "forms", "tekken" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        snprintf(path, sizeof path, "tests/data/tok_%s.json", names[i]);
        check_file(path, path);
    }
    check_file("tests/data/tok_piece_bpe.model", "tests/data/tok_piece_bpe_cases.json");
    check_file("tests/data/tok_piece_unigram.model", "tests/data/tok_piece_unigram_cases.json");
    check_file("tests/data/tok512.bin", "tests/data/tok512_cases.json");
}

int main(int argc, char **argv)
{
    const char *shared = argc > 2 ? argv[1] : getenv("SQM_DATA");
    const char *where = argc > 2 ? argv[2] : getenv("SQM_TOKENIZERS");
    if (argc > 3) {                                    /* "real": only those */
        test_real_tokenizers(shared, where);
        return check_report("test_tok");
    }
    test_json_reads_values();
    test_json_refuses_errors();
    test_json_finds_every_key();
    test_regex_splits_like_the_reference();
    test_regex_refuses_what_it_does_not_know();
    test_regex_is_bounded();
    test_fixtures();
    test_import_gguf_scores();
    test_import_gguf_merges();
    test_import_names_what_it_does_not_know();
    test_tok_keeps_bytes("", "");
    test_tok_longest_match();
    test_tok_longest_refuses();
    test_tok_keeps_bytes(TEST_TMP "tok_longest.txt", "");
    test_tok_keeps_bytes("tests/data/tok512.bin", "");
    test_tok_keeps_bytes("tests/data/tok_prefix.json", " ");
    test_tok_memory_is_exact("");
    test_tok_memory_is_exact("tests/data/tok_bytes.json");
    test_tok_memory_is_exact("tests/data/tok_spm.json");
    test_tok_memory_is_exact("tests/data/tok_word.json");
    test_tok_memory_is_exact("tests/data/tok_unigram.json");
    test_tok_long_pieces();
    test_tok_text_without_words();
    test_tok_roles_and_texts();
    test_tok_model_without_tokenizer();
    test_chat_templates();
    test_damage();
    if (shared && *shared && where && *where) test_real_tokenizers(shared, where);
    return check_report("test_tok");
}
