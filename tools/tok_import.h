/* tok_import.h: builds the TOKN section (see [TOK] in seqmodel.h) from a Hugging Face tokenizer.json, the
   metadata of a GGUF file, the tokenizer.bin of llama2.c, RWKV's vocabulary, or nothing (bytes). What it
   does not know is an error that names it.
       conv_env env;  tok_blob blob;
       tok_from_hf(&env, "dir/tokenizer.json", &blob)       also reads the *_config.json files beside it
       tok_from_gguf(&env, &gguf, &blob)                     blob.bytes == 0: the file has no tokenizer
       tok_from_llama2c(&env, file, &blob)
       tok_from_rwkv(&env, file, &blob)                      rwkv_vocab_*.txt
       tok_from_spm(&env, file, &blob)                       SentencePiece's .model
       tok_from_tiktoken(&env, file, &blob)                  .tiktoken; a tekken.json is read by tok_from_hf
       tok_from_file(&env, path, &blob)                      one of these, by what the file is
       tok_from_bytes(&env, &blob)
   All return 1, or 0 with env.error; the blob lies in env's memory.
   Include after the implementation part of seqmodel.h. */
#ifndef TOK_IMPORT_H_INCLUDED
#define TOK_IMPORT_H_INCLUDED
#include "json.h"
#include "conv_base.h"
#include "conv_gguf.h"
#include "tok_regex.h"

typedef struct tok_blob { const uint8_t *data; uint64_t bytes; } tok_blob;
typedef struct tok_text { const char *text; uint32_t bytes; } tok_text;

typedef struct tok_added {
    tok_text content;                 /* what is looked for */
    int32_t  id;
    uint32_t flags;
    int      normalized;              /* looked for after the normalizers; not TOK_AS_IS: normalised itself */
} tok_added;
enum { TOK_AS_IS = 2 };

typedef struct tok_ids { int32_t *ids; uint64_t n, room; } tok_ids;
typedef struct tok_steps { sqm__tok_step *steps; uint64_t n, room; } tok_steps;

typedef struct tok_cells { sqm__trie_cell *cells; uint64_t n, room; } tok_cells;

typedef struct tok_map { const tok_text *texts; int32_t *cells; uint32_t size; } tok_map;

typedef struct tok_builder {
    conv_env      *env;
    tok_tables     tables;
    uint32_t       kind, flags, n;
    tok_text      *raw, *text;        /* [n] as in the source; as it decodes */
    uint8_t       *type, *hidden;     /* [n] SQM__TOKEN_*; hidden: not to be found by its text */
    tok_text      *key;               /* [n] kinds with a trie: what is looked for; empty: never found */
    double        *scores;            /* [n + 1] SQM__TOK_UNIGRAM */
    uint32_t       words[2];          /* SQM__TOK_WORDPIECE: the second number */
    tok_text       inside;            /* SQM__TOK_WORDPIECE: what keys inside a word begin with */
    tok_cells      maps;
    sqm__tok_merge *merges;
    uint64_t       n_merges, room_merges;
    tok_added     *added;
    uint64_t       n_added, room_added;
    tok_steps      normalizers, late, splits, decoders;
    tok_steps     *into;              /* the list that gets the next normalizers */
    char          *strings;
    uint64_t       n_strings, room_strings;
    tok_ids        ends, prefix, suffix;
    int32_t        role[4], model_unk, chars[256], bytes[256];
    int            byte_fallback, ignore_merges, uses_nfc, uses_nfd, uses_breaks;
    tok_map        map;               /* by raw text */
} tok_builder;

enum { TOK_MAX_TOKENS = 1 << 24 };
static const char tok_space_mark[] = "\xE2\x96\x81";   /* U+2581, the space of SentencePiece */

#include "tok_trie.h"

/* ---- texts --------------------------------------------------------------------------------------------- */
static tok_text tok_make_text(const char *text, size_t n)
{
    tok_text t;
    t.text = text;
    t.bytes = (uint32_t)n;
    return t;
}

static int tok_same(tok_text a, tok_text b)
{
    return a.bytes == b.bytes && memcmp(a.text, b.text, a.bytes) == 0;
}

static int tok_has(tok_text a, const char *part)
{
    const size_t n = strlen(part);
    for (size_t i = 0; i + n <= a.bytes; i++) {
        if (memcmp(a.text + i, part, n) == 0) return 1;
    }
    return 0;
}

/* The text with each space mark as a space. */
static tok_text tok_with_spaces(conv_env *env, tok_text a)
{
    char *out;
    uint32_t n = 0;
    if (!tok_has(a, tok_space_mark)) return a;
    out = (char *)conv_alloc(env, (uint64_t)a.bytes + 1, 1);
    if (!out) return a;
    for (uint32_t i = 0; i < a.bytes;) {
        if (a.bytes - i >= 3 && memcmp(a.text + i, tok_space_mark, 3) == 0) { out[n++] = ' '; i += 3; }
        else out[n++] = a.text[i++];
    }
    return tok_make_text(out, n);
}

/* Byte-level vocabularies write each byte as a printable character: these bytes as themselves, the others
   from U+0100 on (GPT-2, bytes_to_unicode). Returns the byte of a character, -1: it stands for none. */
static int tok_byte_of_char(uint32_t c)
{
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; b++) {
        const int plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (plain ? c == b : c == next) return (int)b;
        if (!plain) next++;
    }
    return -1;
}

/* The bytes that a token of a byte-level vocabulary stands for; texts with other characters stand for
   themselves. */
static tok_text tok_byte_level(conv_env *env, tok_text a, const int16_t *byte_of)
{
    char *out = (char *)conv_alloc(env, (uint64_t)a.bytes + 1, 1);
    uint32_t n = 0, code;
    if (!out) return a;
    for (uint32_t i = 0; i < a.bytes;) {
        i += sqm__utf8_next((const uint8_t *)a.text + i, (const uint8_t *)a.text + a.bytes, &code);
        if (code >= 512 || byte_of[code] < 0) return a;
        out[n++] = (char)byte_of[code];
    }
    return tok_make_text(out, n);
}

/* <0x41> -> 0x41; -1: another text. */
static int tok_byte_token(tok_text a)
{
    uint32_t v;
    if (a.bytes != 6 || memcmp(a.text, "<0x", 3) != 0 || a.text[5] != '>') return -1;
    v = 0;
    for (int i = 3; i < 5; i++) {
        const char c = a.text[i];
        if (c >= '0' && c <= '9') v = v * 16 + (uint32_t)(c - '0');
        else if (c >= 'A' && c <= 'F') v = v * 16 + (uint32_t)(c - 'A' + 10);
        else return -1;
    }
    return (int)v;
}

/* ---- text -> number ------------------------------------------------------------------------------------ */
static uint32_t tok__cell(const tok_map *m, tok_text key)
{
    uint32_t cell = sqm__tok_hash((const uint8_t *)key.text, key.bytes) & (m->size - 1);
    while (m->cells[cell] >= 0 && !tok_same(m->texts[m->cells[cell]], key)) cell = (cell + 1) & (m->size - 1);
    return cell;
}

static int32_t tok_map_find(const tok_map *m, tok_text key)
{
    return m->size ? m->cells[tok__cell(m, key)] : -1;
}

static void tok_map_open(conv_env *env, tok_map *m, const tok_text *texts, uint32_t n)
{
    m->texts = texts;
    m->size = 16;
    while (m->size < 2 * n) m->size *= 2;
    m->cells = (int32_t *)conv_alloc(env, m->size, sizeof *m->cells);
    if (!m->cells) m->size = 0;
    for (uint32_t i = 0; i < m->size; i++) m->cells[i] = -1;
}

/* The first of equal texts stays. */
static void tok_map_add(tok_map *m, int32_t number)
{
    uint32_t cell;
    if (!m->size) return;
    cell = tok__cell(m, m->texts[number]);
    if (m->cells[cell] < 0) m->cells[cell] = number;
}

/* ---- filling a builder --------------------------------------------------------------------------------- */
static void tok_open(tok_builder *b, conv_env *env, uint32_t kind)
{
    memset(b, 0, sizeof *b);
    b->env = b->tables.env = env;
    b->kind = kind;
    b->model_unk = -1;
    b->into = &b->normalizers;
    for (int i = 0; i < 4; i++) b->role[i] = -1;
    for (int i = 0; i < 256; i++) b->chars[i] = b->bytes[i] = -1;
}

/* Room for ids below n, of which the file names `known`; a large id in a small file is damage.             */
static int tok_set_count(tok_builder *b, uint64_t n, uint64_t known)
{
    if (n < 1 || n > TOK_MAX_TOKENS)
        return conv_fail(b->env, "tokenizer: %llu tokens, expected 1 to %d", (unsigned long long)n,
                         TOK_MAX_TOKENS);
    if (n > 65536 && n / 8 > known)
        return conv_fail(b->env, "tokenizer: ids up to %llu for %llu tokens", (unsigned long long)n - 1,
                         (unsigned long long)known);
    b->n = (uint32_t)n;
    b->raw = (tok_text *)conv_alloc(b->env, n, sizeof *b->raw);
    b->text = (tok_text *)conv_alloc(b->env, n, sizeof *b->text);
    b->key = (tok_text *)conv_alloc(b->env, n, sizeof *b->key);
    b->type = (uint8_t *)conv_alloc(b->env, n, 1);
    b->hidden = (uint8_t *)conv_alloc(b->env, n, 1);
    for (uint64_t i = 0; !b->env->failed && i < n; i++) {
        b->raw[i] = b->text[i] = b->key[i] = tok_make_text("", 0);
        b->type[i] = SQM__TOKEN_UNUSED;
    }
    return !b->env->failed;
}

static void tok_add_id(conv_env *env, tok_ids *list, int64_t id, uint32_t n_tokens)
{
    if (id < 0 || id >= (int64_t)n_tokens) return;
    for (uint64_t i = 0; i < list->n; i++) {
        if (list->ids[i] == id) return;
    }
    list->ids = (int32_t *)conv_grow(env, list->ids, list->n, &list->room, sizeof *list->ids);
    if (list->ids) list->ids[list->n++] = (int32_t)id;
}

static uint32_t tok_add_string(tok_builder *b, tok_text a)
{
    const uint64_t first = b->n_strings;
    if (b->n_strings + a.bytes > b->room_strings) {
        const uint64_t room = 2 * (b->n_strings + a.bytes) + 256;
        char *more = (char *)conv_alloc(b->env, room, 1);
        if (!more) return 0;
        if (b->n_strings) memcpy(more, b->strings, (size_t)b->n_strings);
        b->strings = more;
        b->room_strings = room;
    }
    if (a.bytes) memcpy(b->strings + first, a.text, a.bytes);
    b->n_strings += a.bytes;
    return (uint32_t)first;
}

static sqm__tok_step *tok_add_step(tok_builder *b, tok_steps *list, uint32_t kind, uint32_t flags)
{
    sqm__tok_step *s;
    list->steps = (sqm__tok_step *)conv_grow(b->env, list->steps, list->n, &list->room, sizeof *list->steps);
    if (!list->steps) return NULL;
    s = &list->steps[list->n++];
    memset(s, 0, sizeof *s);
    s->kind = kind;
    s->flags = flags;
    return s;
}

static void tok_add_normalizer(tok_builder *b, uint32_t kind, uint32_t flags, tok_text a, tok_text with)
{
    sqm__tok_step *s = tok_add_step(b, b->into, kind, flags);
    if (!s) return;
    s->a = tok_add_string(b, a);
    s->a_bytes = a.bytes;
    s->b = tok_add_string(b, with);
    s->b_bytes = with.bytes;
    if (kind == SQM__NORM_NFC && (flags & 1)) b->uses_nfd = 1;
    if (kind == SQM__NORM_NFC) b->uses_nfc = 1;
}

/* The characters of `set` are replaced; flags as SQM__NORM_CLASS has them. */
static void tok_add_class_normalizer(tok_builder *b, uint32_t flags, const tok_set *set, const char *with)
{
    const uint32_t k = set ? tok_add_class(&b->tables, set) : 0;
    sqm__tok_step *s;
    tok_add_normalizer(b, SQM__NORM_CLASS, flags, tok_make_text(with, strlen(with)), tok_make_text("", 0));
    if (b->env->failed) return;
    s = &b->into->steps[b->into->n - 1];
    s->b = k;
}

/* [from, end) pairs, as tok_unicode.h has them. */
static tok_set *tok_set_of(conv_env *env, const uint32_t *ranges, size_t n)
{
    tok_set *s = tok_set_new(env);
    for (size_t i = 0; s && i + 1 < n; i += 2) tok_set_add(s, ranges[i], ranges[i + 1] - 1);
    return s;
}
#define TOK_SET_OF(env, table) tok_set_of(env, table, sizeof table / sizeof *table)

/* A normalizer that strips the characters of a set, or of white space. */
static void tok_add_strip(tok_builder *b, uint32_t flags, const tok_set *set)
{
    tok_add_normalizer(b, SQM__NORM_STRIP, flags, tok_make_text("", 0), tok_make_text("", 0));
    if (b->env->failed || !set) return;
    b->into->steps[b->into->n - 1].b = tok_add_class(&b->tables, set);
    b->into->steps[b->into->n - 1].b_bytes = 1;
}

/* ---- normalizers that are maps ------------------------------------------------------------------------- */
typedef struct tok_pairs {            /* texts and what they become */
    tok_key  *keys;                   /* value: place of the replacement among the builder's strings */
    uint64_t  n, room;
    uint32_t  growth;                 /* how many times as long a text can become, in sixteenths */
} tok_pairs;

static int tok_add_pair(tok_builder *b, tok_pairs *p, tok_text from, tok_text to)
{
    const uint32_t growth = from.bytes ? (16 * to.bytes + from.bytes - 1) / from.bytes : 0;
    const char length = (char)(unsigned char)to.bytes;
    if (to.bytes > 255) return conv_fail(b->env, "tokenizer: a character is replaced by %u bytes", to.bytes);
    p->keys = (tok_key *)conv_grow(b->env, p->keys, p->n, &p->room, sizeof *p->keys);
    if (!p->keys) return 0;
    p->keys[p->n].text = (const uint8_t *)from.text;
    p->keys[p->n].bytes = from.bytes;
    p->keys[p->n++].value = tok_add_string(b, tok_make_text(&length, 1));
    tok_add_string(b, to);
    if (growth > p->growth) p->growth = growth;
    return !b->env->failed;
}

static int tok_add_map(tok_builder *b, tok_pairs *p, uint32_t flags)
{
    tok_trie t;
    sqm__tok_step *s;
    const uint64_t first = b->maps.n;
    if (b->env->failed || p->n == 0) return !b->env->failed;
    if (!tok_trie_build(b->env, p->keys, (uint32_t)p->n, &t)) return 0;
    if (first + t.n > b->maps.room) {
        sqm__trie_cell *more = (sqm__trie_cell *)conv_alloc(b->env, 2 * (first + t.n), sizeof *more);
        if (!more) return 0;
        if (first) memcpy(more, b->maps.cells, (size_t)first * sizeof *more);
        b->maps.cells = more;
        b->maps.room = 2 * (first + t.n);
    }
    memcpy(b->maps.cells + first, t.cells, t.n * sizeof *t.cells);
    b->maps.n += t.n;
    s = tok_add_step(b, b->into, SQM__NORM_MAP, flags);
    if (!s) return 0;
    s->a = (uint32_t)first;
    s->a_bytes = t.n;
    s->b = p->growth > 16 ? p->growth : 16;
    if (flags) b->uses_breaks = 1;
    return 1;
}

static int tok_add_code_pair(tok_builder *b, tok_pairs *p, uint32_t from, const uint32_t *to, uint32_t n)
{
    uint8_t key[4], text[128];
    uint32_t bytes = 0;
    const uint32_t key_bytes = sqm__utf8_put(key, from);
    for (uint32_t i = 0; i < n && bytes + 4 <= sizeof text; i++) bytes += sqm__utf8_put(text + bytes, to[i]);
    return tok_add_pair(b, p, tok_make_text(conv_copy_text(b->env, key, key_bytes), key_bytes),
                        tok_make_text((const char *)text, bytes));
}

/* A map of single characters, from two tables of tok_unicode.h. */
static int tok_add_code_map(tok_builder *b, const uint32_t *runs, size_t n_runs, const uint32_t *rest,
                            size_t n_rest)
{
    tok_pairs p;
    memset(&p, 0, sizeof p);
    for (size_t i = 0; i + 3 < n_runs; i += 4) {
        for (uint32_t c = runs[i]; c <= runs[i + 1]; c += runs[i + 2]) {
            const uint32_t to = runs[i + 3] + (c - runs[i]);
            if (!tok_add_code_pair(b, &p, c, &to, 1)) return 0;
        }
    }
    for (size_t i = 0; i + 2 < n_rest; i += 2 + rest[i + 1]) {
        if (!tok_add_code_pair(b, &p, rest[i], rest + i + 2, rest[i + 1])) return 0;
    }
    return tok_add_map(b, &p, 0);
}

static int tok_add_lower(tok_builder *b)
{
    return tok_add_code_map(b, tok_lower_runs, sizeof tok_lower_runs / 4, tok_lower_rest,
                            sizeof tok_lower_rest / 4);
}

/* Normal forms: NFC, NFD, NFKC, NFKD. Compatibility forms replace characters first. */
static int tok_add_form(tok_builder *b, int compatible, int decomposed)
{
    if (compatible && !tok_add_code_map(b, tok_compatible_runs, sizeof tok_compatible_runs / 4,
                                        tok_compatible_rest, sizeof tok_compatible_rest / 4)) return 0;
    tok_add_normalizer(b, SQM__NORM_NFC, decomposed ? 1 : 0, tok_make_text("", 0), tok_make_text("", 0));
    return !b->env->failed;
}

/* by_cluster: as the reference library applies it; else as SentencePiece does. */
static int tok_add_charsmap(tok_builder *b, const uint8_t *data, uint64_t bytes, int by_cluster)
{
    tok_darts d;
    tok_pairs p;
    const uint32_t unit_bytes = bytes >= 4 ? conv_u32(data) : 0;
    memset(&d, 0, sizeof d);
    memset(&p, 0, sizeof p);
    if (bytes < 9 || unit_bytes > bytes - 5 || unit_bytes < 4 || unit_bytes % 4 || data[bytes - 1])
        return conv_fail(b->env, "tokenizer: the precompiled charsmap of %llu bytes is damaged",
                         (unsigned long long)bytes);
    d.env = b->env;
    d.units = data + 4;
    d.n_units = unit_bytes / 4;
    d.texts = data + 4 + unit_bytes;
    d.n_texts = (uint32_t)(bytes - 4 - unit_bytes);
    if (!tok_darts_keys(&d)) return 0;
    for (uint64_t i = 0; i < d.n_keys; i++) {
        const char *to = (const char *)d.texts + d.keys[i].value;
        if (!tok_add_pair(b, &p, tok_make_text((const char *)d.keys[i].text, d.keys[i].bytes),
                          tok_make_text(to, strlen(to)))) return 0;
    }
    return tok_add_map(b, &p, by_cluster ? 1 : 0);
}

static void tok_prepend_space(tok_builder *b, uint32_t flags)
{
    tok_add_normalizer(b, SQM__NORM_PREPEND, flags, tok_make_text(" ", 1), tok_make_text("", 0));
}

static void tok_marks_to_spaces(tok_builder *b)
{
    tok_add_normalizer(b, SQM__NORM_REPLACE, 0, tok_make_text(tok_space_mark, 3), tok_make_text(" ", 1));
}

static int tok_add_split(tok_builder *b, const char *pattern, size_t bytes, uint32_t flags)
{
    uint32_t first, n;
    sqm__tok_step *s;
    if (!tok_compile(&b->tables, pattern, bytes, &first, &n)) return 0;
    s = tok_add_step(b, &b->splits, SQM__SPLIT_REGEX, flags);
    if (!s) return 0;
    s->a = first;
    s->a_bytes = n;
    if (b->splits.n > SQM__MAX_SPLITS)
        return conv_fail(b->env, "tokenizer: more than %d pre-tokenizers", SQM__MAX_SPLITS);
    return 1;
}

/* A split at single characters of a set. */
static int tok_add_set_split(tok_builder *b, const tok_set *set, uint32_t flags)
{
    const uint32_t k = set ? tok_add_class(&b->tables, set) : 0;
    sqm__tok_step *s = tok_add_step(b, &b->splits, SQM__SPLIT_REGEX, flags);
    if (!s || b->env->failed) return 0;
    s->a = (uint32_t)b->tables.n_ops;
    s->a_bytes = 2;
    return tok_add_op(&b->tables, SQM__RE_CLASS, k, 0, 0) && tok_add_op(&b->tables, SQM__RE_MATCH, 0, 0, 0);
}

/* Words and single punctuation characters; what lies between, white space, is dropped. */
static int tok_add_bert_split(tok_builder *b)
{
    tok_set *word = TOK_SET_OF(b->env, tok_punctuation);
    const uint32_t sign = word ? tok_add_class(&b->tables, word) : 0, start = (uint32_t)b->tables.n_ops;
    sqm__tok_step *s = tok_add_step(b, &b->splits, SQM__SPLIT_REGEX, SQM__SPLIT_REMOVED | SQM__SPLIT_INVERT);
    uint32_t k, first;
    if (!s || !word) return 0;
    tok_set_add_escape(b->env, word, 's');
    tok_set_invert(word);
    k = tok_add_class(&b->tables, word);
    first = tok_add_first(&b->tables, word);
    s->a = start;
    s->a_bytes = 5;
    if (b->tables.frames < 1) b->tables.frames = 1;
    return tok_add_op(&b->tables, SQM__RE_SPLIT_FIRST, 3, first, 0) &&
           tok_add_op(&b->tables, SQM__RE_LOOP_ALL, k, 1, TOK_NONE) &&
           tok_add_op(&b->tables, SQM__RE_MATCH, 0, 0, 0) &&
           tok_add_op(&b->tables, SQM__RE_CLASS, sign, 0, 0) &&
           tok_add_op(&b->tables, SQM__RE_MATCH, 0, 0, 0);
}

/* A split at a text instead of an expression. */
static int tok_add_text_split(tok_builder *b, tok_text a, uint32_t flags)
{
    char *pattern = (char *)conv_alloc(b->env, 2 * (uint64_t)a.bytes + 1, 1);
    size_t n = 0;
    for (uint32_t i = 0; pattern && i < a.bytes; i++) {
        if ((unsigned char)a.text[i] < 128 && strchr("\\[](){}|*+?.^$", a.text[i])) pattern[n++] = '\\';
        pattern[n++] = a.text[i];
    }
    return pattern ? tok_add_split(b, pattern, n, flags) : 0;
}

static void tok_add_added(tok_builder *b, tok_text content, int32_t id, uint32_t flags, int normalized)
{
    tok_added *a;
    if (content.bytes == 0) return;
    b->added = (tok_added *)conv_grow(b->env, b->added, b->n_added, &b->room_added, sizeof *b->added);
    if (!b->added) return;
    a = &b->added[b->n_added++];
    a->content = content;
    a->id = id;
    a->flags = flags;
    a->normalized = normalized;
}

static void tok_add_merge(tok_builder *b, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    sqm__tok_merge *m;
    b->merges = (sqm__tok_merge *)conv_grow(b->env, b->merges, b->n_merges, &b->room_merges,
                                            sizeof *b->merges);
    if (!b->merges) return;
    m = &b->merges[b->n_merges++];
    m->left = (uint32_t)left;
    m->right = (uint32_t)right;
    m->rank = rank;
    m->id = (uint32_t)id;
}

/* A merge given by the texts of its parts, as they stand in the source. */
static int tok_add_text_merge(tok_builder *b, tok_text left, tok_text right, uint32_t rank, char *joined)
{
    const int32_t l = tok_map_find(&b->map, left), r = tok_map_find(&b->map, right);
    int32_t id;
    memcpy(joined, left.text, left.bytes);
    memcpy(joined + left.bytes, right.text, right.bytes);
    id = tok_map_find(&b->map, tok_make_text(joined, left.bytes + right.bytes));
    if (l < 0 || r < 0 || id < 0)
        return conv_fail(b->env, "tokenizer: merge %u, \"%.*s\" + \"%.*s\": one of them is no token", rank,
                         (int)(left.bytes < 80 ? left.bytes : 80), left.text,
                         (int)(right.bytes < 80 ? right.bytes : 80), right.text);
    tok_add_merge(b, l, r, rank, id);
    return !b->env->failed;
}

static int tok__compare_floats(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return x > y ? -1 : x < y;
}

/* SentencePiece has scores instead of merges: any two neighbours may merge whose joined text is a token, best
   score first. Tokens of one score have one rank. */
static int tok_merges_from_scores(tok_builder *b, const float *scores)
{
    float *sorted = (float *)conv_alloc(b->env, b->n, sizeof *sorted);
    tok_map map;
    uint32_t n_sorted = 0;
    tok_map_open(b->env, &map, b->text, b->n);
    if (b->env->failed) return 0;
    for (uint32_t i = 0; i < b->n; i++) {
        const int mergeable = b->type[i] == SQM__TOKEN_NORMAL || b->type[i] == SQM__TOKEN_ADDED;
        if (scores[i] != scores[i])
            return conv_fail(b->env, "tokenizer: the score of token %u is not a number", i);
        if (!mergeable || b->text[i].bytes == 0) continue;
        tok_map_add(&map, (int32_t)i);
        sorted[n_sorted++] = scores[i];
    }
    qsort(sorted, n_sorted, sizeof *sorted, tok__compare_floats);
    for (uint32_t i = 0; i < b->n && !b->env->failed; i++) {
        const tok_text whole = b->text[i];
        uint32_t low = 0, high = n_sorted;
        if (whole.bytes == 0 || tok_map_find(&map, whole) != (int32_t)i) continue;
        while (low < high) {                           /* rank: how many scores are better */
            const uint32_t middle = low + (high - low) / 2;
            if (sorted[middle] > scores[i]) low = middle + 1; else high = middle;
        }
        for (uint32_t k = 1; k < whole.bytes; k++) {
            int32_t left, right;
            if (((unsigned char)whole.text[k] & 0xc0) == 0x80) continue;
            left = tok_map_find(&map, tok_make_text(whole.text, k));
            right = left < 0 ? -1 : tok_map_find(&map, tok_make_text(whole.text + k, whole.bytes - k));
            if (right >= 0) tok_add_merge(b, left, right, low, (int32_t)i);
        }
    }
    return !b->env->failed;
}

/* ---- finishing: symbols, word boundaries, tables ------------------------------------------------------- */
static void tok_set_symbols(tok_builder *b)
{
    for (uint32_t i = 0; i < b->n; i++) {
        const tok_text a = b->text[i];
        if (a.bytes != 1) continue;
        if (b->type[i] == SQM__TOKEN_BYTE) {
            b->bytes[(unsigned char)a.text[0]] = (int32_t)i;
        } else if (b->type[i] == SQM__TOKEN_NORMAL && !b->hidden[i] &&
                   (b->kind != SQM__TOK_CHAR_BPE || (unsigned char)a.text[0] < 128)) {
            if (b->chars[(unsigned char)a.text[0]] < 0) b->chars[(unsigned char)a.text[0]] = (int32_t)i;
        }
    }
}

/* When no merge gives a token with a space after another character, merging never passes the start of a word,
   and cutting the text there changes nothing but the speed. A few ASCII characters may be exceptions. */
static void tok_cut_words(tok_builder *b)
{
    char except[16];
    uint32_t n = 0;
    sqm__tok_step *s;
    if (b->kind != SQM__TOK_CHAR_BPE || b->splits.n || b->chars[(int)' '] < 0) return;
    for (uint64_t i = 0; i < b->n_merges; i++) {
        const tok_text a = b->text[b->merges[i].id];
        for (uint32_t k = 1; k < a.bytes; k++) {
            const char c = a.text[k - 1];
            if (a.text[k] != ' ' || c == ' ' || (n && memchr(except, c, n))) continue;
            if ((unsigned char)c >= 128 || n == sizeof except) return;
            except[n++] = c;
        }
    }
    s = tok_add_step(b, &b->splits, SQM__SPLIT_SPACES, 0);
    if (!s) return;
    s->a = tok_add_string(b, tok_make_text(except, n));
    s->a_bytes = n;
}

typedef struct tok_writer {
    conv_env *env;
    uint8_t  *data;
    uint64_t  bytes, room;
    uint32_t  n_arrays;
} tok_writer;

/* Appends array number w->n_arrays; returns its place to fill in. */
static void *tok_put(tok_writer *w, const void *items, uint64_t n, size_t item_bytes)
{
    const uint64_t first = (w->bytes + 15) / 16 * 16, end = first + n * item_bytes;
    if (w->env->failed) return NULL;
    if (end >= TOK_NONE) {
        conv_fail(w->env, "tokenizer: more than 4 GB");
        return NULL;
    }
    if (end > w->room) {
        uint8_t *more = (uint8_t *)conv_alloc(w->env, 2 * end, 1);
        if (!more) return NULL;
        memcpy(more, w->data, (size_t)w->bytes);
        w->data = more;
        w->room = 2 * end;
    }
    if (items && n) memcpy(w->data + first, items, (size_t)(n * item_bytes));
    sqm__store_u32(w->data + sizeof(sqm__tok_header) + 8 * w->n_arrays, (uint32_t)first);
    sqm__store_u32(w->data + sizeof(sqm__tok_header) + 8 * w->n_arrays + 4, (uint32_t)n);
    w->n_arrays++;
    w->bytes = end;
    return w->data + first;
}

static void tok_put_texts(tok_writer *w, const tok_builder *b, uint32_t *longest)
{
    uint64_t all = 0;
    uint32_t *offsets;
    uint8_t *text;
    for (uint32_t i = 0; i < b->n; i++) all += b->text[i].bytes;
    offsets = (uint32_t *)tok_put(w, NULL, (uint64_t)b->n + 1, 4);
    if (!offsets) return;
    *longest = 1;
    for (uint32_t i = 0; i < b->n; i++) {
        offsets[i + 1] = offsets[i] + b->text[i].bytes;
        if (b->text[i].bytes > *longest) *longest = b->text[i].bytes;
    }
    text = (uint8_t *)tok_put(w, NULL, all, 1);
    for (uint32_t i = 0; text && i < b->n; i++) {
        memcpy(text, b->text[i].text, b->text[i].bytes);
        text += b->text[i].bytes;
    }
    text = (uint8_t *)tok_put(w, b->type, b->n, 1);
    for (uint32_t i = 0; text && i < b->n; i++) {
        if (b->hidden[i] & 2) text[i] |= SQM__TOKEN_INSIDE;
    }
}

static void tok_put_index(tok_writer *w, const tok_builder *b, uint32_t *probe)
{
    sqm__tok_cell *cells;
    uint32_t size = 8, n;
    for (uint32_t i = 0; i < b->n; i++) size += b->text[i].bytes && !b->hidden[i];
    size = b->kind < SQM__TOK_WORDPIECE ? size + size / 2 : 0;
    cells = (sqm__tok_cell *)tok_put(w, NULL, size, sizeof *cells);
    for (uint32_t i = 0; cells && i < size; i++) cells[i].id = TOK_NONE;
    *probe = size ? 1 : 0;
    for (uint32_t i = 0; cells && size && i < b->n; i++) {
        const uint32_t hash = sqm__tok_hash((const uint8_t *)b->text[i].text, b->text[i].bytes);
        uint32_t cell = (uint32_t)((uint64_t)hash * size >> 32);
        if (b->text[i].bytes == 0 || b->hidden[i] || b->type[i] == SQM__TOKEN_BYTE) continue;
        for (n = 1; cells[cell].id != TOK_NONE; n++) cell = cell + 1 == size ? 0 : cell + 1;
        cells[cell].hash = hash;
        cells[cell].id = i;
        if (n > *probe) *probe = n;
    }
}

/* The later of two merges of the same pair counts, as in the reference library. */
static void tok_put_merges(tok_writer *w, const tok_builder *b, uint32_t *probe)
{
    const uint32_t size = b->n_merges ? (uint32_t)(b->n_merges + b->n_merges / 2 + 8) : 0;
    sqm__tok_merge *cells = (sqm__tok_merge *)tok_put(w, NULL, size, sizeof *cells);
    *probe = size ? 1 : 0;
    for (uint32_t i = 0; cells && i < size; i++) cells[i].left = TOK_NONE;
    for (uint64_t i = 0; cells && i < b->n_merges; i++) {
        const sqm__tok_merge *m = &b->merges[i];
        uint32_t cell = (uint32_t)((uint64_t)sqm__pair_hash(m->left, m->right) * size >> 32), n = 1;
        while (cells[cell].left != TOK_NONE &&
               (cells[cell].left != m->left || cells[cell].right != m->right)) {
            cell = cell + 1 == size ? 0 : cell + 1;
            n++;
        }
        cells[cell] = *m;
        if (n > *probe) *probe = n;
    }
}

static int tok__compare_added(const void *a, const void *b)
{
    const tok_added *x = (const tok_added *)a, *y = (const tok_added *)b;
    const uint32_t n = x->content.bytes < y->content.bytes ? x->content.bytes : y->content.bytes;
    const int k = memcmp(x->content.text, y->content.text, n);
    if (k) return k;
    return x->content.bytes < y->content.bytes ? -1 : x->content.bytes > y->content.bytes;
}

/* b->added is sorted. */
static void tok_put_added(tok_writer *w, const tok_builder *b, int normalized, const uint32_t *first)
{
    sqm__tok_added *out;
    uint32_t n = 0, *by_byte;
    for (uint64_t i = 0; i < b->n_added; i++) n += !b->added[i].normalized == !normalized;
    out = (sqm__tok_added *)tok_put(w, NULL, n, sizeof *out);
    for (uint64_t i = 0; out && i < b->n_added; i++) {
        const tok_added *a = &b->added[i];
        if (!a->normalized != !normalized) continue;
        out->first = first[i];
        out->bytes = a->content.bytes;
        out->id = a->id;
        out->flags = a->flags;
        out++;
    }
    by_byte = (uint32_t *)tok_put(w, NULL, n ? 257 : 0, 4);
    for (uint64_t i = 0; by_byte && i < b->n_added; i++) {
        if (!b->added[i].normalized == !normalized) by_byte[(unsigned char)b->added[i].content.text[0] + 1]++;
    }
    for (uint32_t i = 1; by_byte && n && i < 257; i++) by_byte[i] += by_byte[i - 1];
}

/* The trie of the tokens, for the kinds that have one. */
static void tok_put_trie(tok_writer *w, tok_builder *b)
{
    tok_key *keys = (tok_key *)conv_alloc(b->env, (uint64_t)b->n + 1, sizeof *keys);
    uint32_t n = 0;
    tok_trie t;
    memset(&t, 0, sizeof t);
    for (uint32_t i = b->n; keys && b->kind >= SQM__TOK_WORDPIECE && i > 0; i--) {    /* the last counts */
        const tok_text a = b->key[i - 1];
        if (a.bytes == 0) continue;
        keys[n].text = (const uint8_t *)a.text;
        keys[n].bytes = a.bytes;
        keys[n++].value = i - 1;
    }
    if (!keys || (b->kind >= SQM__TOK_WORDPIECE && !tok_trie_build(b->env, keys, n, &t))) return;
    b->words[0] = tok_trie_find(&t, b->inside);
    tok_put(w, t.cells, t.n, sizeof *t.cells);
}

static void tok_put_unicode(tok_writer *w, const tok_builder *b)
{
    const int categories = b->tables.uses_categories, nfc = b->uses_nfc;
    tok_put(w, tok_category_runs, categories ? sizeof tok_category_runs / 4 : 0, 4);
    tok_put(w, tok_category_blocks, categories ? sizeof tok_category_blocks / 2 : 0, 2);
    tok_put(w, tok_decomposed, nfc ? sizeof tok_decomposed / 12 : 0, 12);
    tok_put(w, tok_compositions, nfc ? sizeof tok_compositions / 2 : 0, 2);
    tok_put(w, tok_combining_runs, nfc ? sizeof tok_combining_runs / 4 : 0, 4);
    if (b->uses_nfd) tok_put(w, tok_unstable_both, sizeof tok_unstable_both / 8, 8);
    else tok_put(w, tok_unstable, nfc ? sizeof tok_unstable / 8 : 0, 8);
}

/* Classes that added tokens and the strip step need. */
static void tok_add_classes(tok_builder *b, sqm__tok_header *h)
{
    uint32_t flags = 0;
    tok_set *s;
    h->word_class = h->space_class = TOK_NONE;
    for (uint64_t i = 0; i < b->n_added; i++) flags |= b->added[i].flags;
    for (uint64_t i = 0; i < b->normalizers.n + b->late.n; i++) {
        const sqm__tok_step *step = i < b->normalizers.n ? &b->normalizers.steps[i]
                                                         : &b->late.steps[i - b->normalizers.n];
        if (step->kind == SQM__NORM_STRIP && !step->b_bytes) flags |= SQM__ADDED_LSTRIP;
    }
    if (flags & (SQM__ADDED_LSTRIP | SQM__ADDED_RSTRIP)) {
        s = tok_set_new(b->env);
        if (s) { tok_set_add_escape(b->env, s, 's'); h->space_class = tok_add_class(&b->tables, s); }
    }
    if (flags & SQM__ADDED_WORD) {
        s = tok_set_new(b->env);
        if (s) {                                       /* joiners count too, unlike in \w of expressions */
            tok_set_add_word(s);
            tok_set_add(s, 0x200c, 0x200d);
            h->word_class = tok_add_class(&b->tables, s);
        }
    }
}

static void tok_put_all(tok_builder *b, tok_writer *w)
{
    sqm__tok_header h;
    uint32_t *first = (uint32_t *)conv_alloc(b->env, b->n_added + 1, sizeof *first);
    memset(&h, 0, sizeof h);
    memset(w, 0, sizeof *w);
    w->env = b->env;
    w->room = 1 << 16;
    w->bytes = sizeof h + 8 * SQM__A_COUNT;
    w->data = (uint8_t *)conv_alloc(b->env, w->room, 1);
    h.version = SQM__TOK_VERSION;
    h.kind = b->kind;
    h.flags = b->flags;
    h.n_tokens = (int32_t)b->n;
    memcpy(h.role, b->role, sizeof h.role);
    h.model_unk = b->model_unk;
    h.n_arrays = SQM__A_COUNT;
    if (b->n_added) qsort(b->added, (size_t)b->n_added, sizeof *b->added, tok__compare_added);
    for (uint64_t i = 0; first && i < b->n_added; i++) first[i] = tok_add_string(b, b->added[i].content);
    tok_add_classes(b, &h);
    if (b->env->failed) return;
    h.regex_frames = b->tables.frames;
    tok_put_texts(w, b, &h.max_token_bytes);
    tok_put_index(w, b, &h.index_probe);
    tok_put_merges(w, b, &h.merge_probe);
    tok_put(w, b->chars, 256, 4);
    tok_put(w, b->bytes, b->byte_fallback ? 256 : 0, 4);
    tok_put_added(w, b, 0, first);
    tok_put_added(w, b, 1, first);
    tok_put(w, b->ends.ids, b->ends.n, 4);
    tok_put(w, b->prefix.ids, b->prefix.n, 4);
    tok_put(w, b->suffix.ids, b->suffix.n, 4);
    tok_put(w, b->normalizers.steps, b->normalizers.n, sizeof(sqm__tok_step));
    tok_put(w, b->splits.steps, b->splits.n, sizeof(sqm__tok_step));
    tok_put(w, b->decoders.steps, b->decoders.n, sizeof(sqm__tok_step));
    tok_put(w, b->strings, b->n_strings, 1);
    tok_put(w, b->tables.ops, b->tables.n_ops, sizeof(sqm__regex_op));
    tok_put(w, b->tables.classes, b->tables.n_classes, sizeof(sqm__char_class));
    tok_put(w, b->tables.toggles, b->tables.n_toggles, 8);
    tok_put(w, b->tables.firsts, b->tables.n_firsts, 32);
    tok_put_unicode(w, b);
    tok_put(w, NULL, 0, 4);
    tok_put_trie(w, b);
    tok_put(w, b->maps.cells, b->maps.n, sizeof(sqm__trie_cell));
    tok_put(w, b->scores, b->kind == SQM__TOK_UNIGRAM ? (uint64_t)b->n + 1 : 0, 8);
    tok_put(w, tok_break_runs, b->uses_breaks ? sizeof tok_break_runs / 4 : 0, 4);
    tok_put(w, b->words, b->kind == SQM__TOK_WORDPIECE ? 2 : 0, 4);
    tok_put(w, b->late.steps, b->late.n, sizeof(sqm__tok_step));
    if (!b->env->failed) memcpy(w->data, &h, sizeof h);
}

/* A run of the finished tokenizer over texts of up to `bytes` bytes, for the two functions below. */
static int tok__run(tok_builder *b, tok_writer *w, sqm__tok *t, sqm__tok_run *r, uint64_t bytes)
{
    sqm_error err;
    sqm__arena a;
    memset(&a, 0, sizeof a);
    memset(r, 0, sizeof *r);
    if (b->env->failed) return 0;
    if (sqm__tok_open(t, w->data, (size_t)w->bytes, &err) != SQM_OK) return conv_fail(b->env, "%s", err.text);
    a.size = sqm__tok_scratch(t, (size_t)bytes);
    a.base = (uint8_t *)conv_alloc(b->env, (uint64_t)a.size + 1, 1);
    r->t = t;
    r->err = &err;
    if (!a.base || !sqm__tok_layout(r, t, (size_t)bytes, &a))
        return conv_fail(b->env, "tokenizer: a token is too long");
    r->err = NULL;
    r->steps = 65536 + 512 * bytes;
    return 1;
}

/* Contents of normalised added tokens are normalised themselves. */
static int tok_normalize_added(tok_builder *b, tok_writer *w)
{
    sqm__tok t;
    sqm__tok_run r;
    uint32_t longest = 1, n = 0;
    for (uint64_t i = 0; i < b->n_added; i++) {
        n += b->added[i].normalized == 1;
        if (b->added[i].content.bytes > longest) longest = b->added[i].content.bytes;
    }
    if (n == 0 || b->normalizers.n == 0) return 1;
    if (!tok__run(b, w, &t, &r, longest)) return 0;
    for (uint64_t i = 0; i < b->n_added; i++) {
        tok_added *a = &b->added[i];
        uint32_t bytes = a->content.bytes;
        int is_start = 1;
        const uint8_t *text;
        if (a->normalized != 1) continue;
        text = sqm__normalize_text(&r, SQM__A_NORMALIZERS, (const uint8_t *)a->content.text, &bytes,
                                   &is_start);
        a->content = tok_make_text(conv_copy_text(b->env, text, bytes), bytes);
        if (bytes == 0)
            return conv_fail(b->env, "tokenizer: added token %d is empty after the normalizers", a->id);
    }
    tok_put_all(b, w);
    return !b->env->failed;
}

/* Marks the tokens that a piece of just their text becomes. */
static int tok_mark_whole(tok_builder *b, tok_writer *w)
{
    sqm__tok t;
    sqm__tok_run r;
    uint8_t *attributes;
    uint32_t longest = 1, n;
    for (uint32_t i = 0; i < b->n; i++) {
        if (b->text[i].bytes > longest) longest = b->text[i].bytes;
    }
    if (!tok__run(b, w, &t, &r, longest)) return 0;
    attributes = w->data + (t.array[SQM__A_ATTRIBUTES] ? sqm__tok_u8(&t, SQM__A_ATTRIBUTES) - w->data : 0);
    for (uint32_t i = 0; i < b->n; i++) {
        const uint8_t *text = (const uint8_t *)b->text[i].text;
        int whole = b->ignore_merges && b->type[i] == SQM__TOKEN_NORMAL;
        if (b->text[i].bytes == 0 || b->hidden[i] || b->type[i] == SQM__TOKEN_BYTE) continue;
        if (!whole && b->kind < SQM__TOK_WORDPIECE && r.max_symbols) {
            n = sqm__first_symbols(&r, text, b->text[i].bytes, r.symbol);
            if (n) n = n <= 64 ? sqm__merge_few(&r, n) : sqm__merge_many(&r, n);
            whole = n == 1 && r.symbol[0] == i;
        }
        if (whole) attributes[i] |= SQM__TOKEN_WHOLE;
    }
    return 1;
}

static int tok_finish(tok_builder *b, tok_blob *out)
{
    tok_writer w;
    if (b->env->failed) return 0;
    tok_set_symbols(b);
    tok_cut_words(b);
    tok_put_all(b, &w);
    if (b->env->failed || !tok_normalize_added(b, &w) || !tok_mark_whole(b, &w)) return 0;
    out->data = w.data;
    out->bytes = w.bytes;
    return 1;
}

/* ---- bytes --------------------------------------------------------------------------------------------- */
/* Token = byte: 256 tokens, no template. */
static CONV_UNUSED int tok_from_bytes(conv_env *env, tok_blob *out)
{
    tok_builder b;
    char *all;
    tok_open(&b, env, SQM__TOK_BYTES);
    all = (char *)conv_alloc(env, 256, 1);
    if (!all || !tok_set_count(&b, 256, 256)) return 0;
    for (int i = 0; i < 256; i++) {
        all[i] = (char)i;
        b.raw[i] = b.text[i] = tok_make_text(all + i, 1);
        b.type[i] = SQM__TOKEN_NORMAL;
    }
    return tok_finish(&b, out);
}

/* ---- llama2.c tokenizer.bin ---------------------------------------------------------------------------- */
/* int32 longest; then per token float32 score, int32 bytes, text. Tokens 0, 1, 2 are unknown, begin and end;
   3 to 258 the bytes. Texts have real spaces. run.c puts a space before every text, and drops the space after
   begin. */
static CONV_UNUSED int tok_from_llama2c(conv_env *env, const conv_file *f, tok_blob *out)
{
    tok_builder b;
    float *scores;
    uint64_t at = 4, n = 0;
    while (at <= f->bytes && f->bytes - at >= 8) {
        const uint64_t bytes = conv_u32(f->data + at + 4);
        if (bytes > f->bytes - at - 8) break;
        at += 8 + bytes;
        n++;
    }
    if (at != f->bytes || n < 260)
        return conv_fail(env, "%s: not a tokenizer.bin of llama2.c (%llu tokens, then byte %llu of %llu)",
                         f->path, (unsigned long long)n, (unsigned long long)at,
                         (unsigned long long)f->bytes);
    tok_open(&b, env, SQM__TOK_CHAR_BPE);
    scores = (float *)conv_alloc(env, n, sizeof *scores);
    if (!scores || !tok_set_count(&b, n, n)) return 0;
    at = 4;
    for (uint64_t i = 0; i < n; i++) {
        const uint32_t bytes = conv_u32(f->data + at + 4);
        const int byte = tok_byte_token(tok_make_text((const char *)f->data + at + 8, bytes));
        scores[i] = conv_f32(f->data + at);
        b.raw[i] = b.text[i] = tok_make_text((const char *)f->data + at + 8, bytes);
        b.type[i] = i < 3 ? SQM__TOKEN_SPECIAL : SQM__TOKEN_NORMAL;
        if (i >= 3 && i < 259) {
            const char c = (char)(i - 3);
            if (byte != (int)(i - 3)) return conv_fail(env, "%s: token %llu is not the byte %llu", f->path,
                                                       (unsigned long long)i, (unsigned long long)(i - 3));
            b.text[i] = tok_make_text(conv_copy_text(env, &c, 1), 1);
            b.type[i] = SQM__TOKEN_BYTE;
        }
        at += 8 + bytes;
    }
    b.byte_fallback = 1;
    for (int32_t i = 0; i < 3; i++) b.role[(i + 2) % 3] = i;           /* unk 0, bos 1, eos 2 */
    b.model_unk = 0;
    tok_add_id(env, &b.prefix, 1, b.n);
    tok_add_id(env, &b.ends, 2, b.n);
    tok_add_id(env, &b.ends, 1, b.n);                  /* run.c stops there too: it parts training texts */
    tok_prepend_space(&b, 0);
    if (tok_add_step(&b, &b.decoders, SQM__DECODE_STRIP, 1)) b.decoders.steps[0].a = ' ';
    return tok_merges_from_scores(&b, scores) && tok_finish(&b, out);
}

#include "tok_gguf.h"
#include "tok_hf.h"
#include "tok_rwkv.h"
#include "tok_spm.h"
#include "tok_tiktoken.h"

/* Any tokenizer file, told by its name or, for .model, its first line. "bytes": no file, one token a byte. */
static CONV_UNUSED int tok_from_file(conv_env *env, const char *path, tok_blob *out)
{
    const conv_file *f;
    gguf_file g;
    if (strcmp(path, "bytes") == 0) return tok_from_bytes(env, out);
    if (conv_ends_with(path, ".json")) return tok_from_hf(env, path, out);
    if (conv_ends_with(path, ".gguf")) return gguf_open(&g, env, path) && tok_from_gguf(env, &g, out);
    f = conv_open(env, path);
    if (!f) return 0;
    if (tok_is_tiktoken(f)) return tok_from_tiktoken(env, f, out);
    if (conv_ends_with(path, ".txt")) return tok_from_rwkv(env, f, out);
    return conv_ends_with(path, ".bin") ? tok_from_llama2c(env, f, out) : tok_from_spm(env, f, out);
}
#endif /* TOK_IMPORT_H_INCLUDED */
