/* tok_regex.h: compiles the regular expressions of tokenizer.json (Oniguruma's Ruby syntax, as far as
   tokenizers use it) to the program that section [TOK] of seqmodel.h runs.

   Known: literals, . [classes with ranges, nesting, &&] \s \d \w \h and their negations, \p{general category}
   \P{}, \r \n \t \f \v \xHH \x{H} \uHHHH, ( ) (?: ) (?i: ) (?= ) (?! ) (?> ), |, * + ? {m} {m,} {m,n} {,n},
   lazy *? +? ??, possessive *+ ++ ?+, ^ $ \A \z \b \B. Anything else is an error that names it.

   A loop over one class becomes a single op. It gives nothing back (no backtracking) where that cannot change
   the match: what follows can always match, or cannot begin with a character of the class.
   Include after the implementation part of seqmodel.h. */
#ifndef TOK_REGEX_H_INCLUDED
#define TOK_REGEX_H_INCLUDED
#include "conv_base.h"
#include "tok_unicode.h"

#define TOK_NONE 0xffffffffu          /* free cells and "no limit" in blobs */
enum { TOK_CODES = 0x110000, TOK_MAX_OPS = 4096, TOK_MAX_DEPTH = 50, TOK_GROUP_LOOP_FRAMES = 4096 };

typedef struct tok_set { uint64_t bits[TOK_CODES / 64]; } tok_set;

typedef struct tok_tables {           /* what all expressions of a tokenizer share */
    conv_env        *env;
    sqm__regex_op   *ops;
    sqm__char_class *classes;
    uint32_t        *toggles;         /* [2 * n_toggles] */
    uint32_t        *firsts;          /* [8 * n_firsts] */
    uint64_t         n_ops, room_ops, n_classes, room_classes, n_toggles, room_toggles, n_firsts, room_firsts;
    uint32_t         frames;          /* the deepest backtrack stack */
    int              uses_categories;
} tok_tables;

typedef enum tok_node_kind {
    TOK_EMPTY, TOK_SET, TOK_CAT, TOK_ALT, TOK_REPEAT, TOK_LOOK, TOK_LOOK_NOT, TOK_ATOMIC, TOK_ASSERT
} tok_node_kind;
typedef enum tok_repeat_mode { TOK_GREEDY, TOK_LAZY, TOK_POSSESSIVE } tok_repeat_mode;

typedef struct tok_node tok_node;
struct tok_node {
    tok_node_kind   kind;
    tok_set        *set;              /* TOK_SET */
    tok_node       *child, *sibling;
    uint32_t        min, max;         /* TOK_REPEAT; max TOK_NONE: no limit */
    tok_repeat_mode mode;
    uint32_t        op;               /* TOK_ASSERT */
};

typedef struct tok_parser {
    tok_tables *t;
    const char *pattern, *at, *end;
    int         ignore_case, depth;
} tok_parser;

/* ---- sets of characters -------------------------------------------------------------------------------- */
static tok_set *tok_set_new(conv_env *env) { return (tok_set *)conv_alloc(env, 1, sizeof(tok_set)); }

static int tok_set_has(const tok_set *s, uint32_t c) { return (int)(s->bits[c / 64] >> (c % 64) & 1); }

static void tok_set_add(tok_set *s, uint32_t first, uint32_t last)
{
    for (uint32_t c = first; c <= last && c < TOK_CODES;) {
        if (c % 64 == 0 && last - c >= 63) { s->bits[c / 64] = UINT64_MAX; c += 64; continue; }
        s->bits[c / 64] |= (uint64_t)1 << (c % 64);
        c++;
    }
}

static void tok_set_invert(tok_set *s)
{
    for (size_t i = 0; i < TOK_CODES / 64; i++) s->bits[i] = ~s->bits[i];
}

static void tok_set_join(tok_set *s, const tok_set *other)
{
    for (size_t i = 0; i < TOK_CODES / 64; i++) s->bits[i] |= other->bits[i];
}

static void tok_set_meet(tok_set *s, const tok_set *other)
{
    for (size_t i = 0; i < TOK_CODES / 64; i++) s->bits[i] &= other->bits[i];
}

static int tok_set_disjoint(const tok_set *s, const tok_set *other)
{
    for (size_t i = 0; i < TOK_CODES / 64; i++) {
        if (s->bits[i] & other->bits[i]) return 0;
    }
    return 1;
}

/* How many of [first, end) are in the set. */
static uint32_t tok_set_members(const tok_set *s, uint32_t first, uint32_t end)
{
    uint32_t n = 0;
    for (uint32_t c = first; c < end;) {
        const uint64_t word = s->bits[c / 64];
        if (c % 64 == 0 && end - c >= 64 && (word == 0 || word == UINT64_MAX)) {
            n += word ? 64 : 0;
            c += 64;
            continue;
        }
        n += (uint32_t)(word >> (c % 64) & 1);
        c++;
    }
    return n;
}

enum { TOK_RUNS = sizeof tok_category_runs / sizeof *tok_category_runs };

/* Run i of code points of one category, [*first, *end); 30 and 31: Lu and Ll in turn. */
static uint32_t tok_run(uint32_t i, uint32_t *first, uint32_t *end)
{
    *first = tok_category_runs[i] >> 5;
    *end = i + 1 < TOK_RUNS ? tok_category_runs[i + 1] >> 5 : (uint32_t)TOK_CODES;
    return tok_category_runs[i] & 31;
}

static uint32_t tok_category_in_run(uint32_t k, uint32_t c)
{
    if (k < 30) return k;
    return (c & 1) == (k & 1) ? 0 : 1;
}

static void tok_set_add_categories(tok_set *s, uint32_t mask)
{
    uint32_t first, end;
    for (uint32_t i = 0; i < TOK_RUNS; i++) {
        const uint32_t k = tok_run(i, &first, &end);
        if (k < 30 && (mask >> k & 1)) tok_set_add(s, first, end - 1);
        for (uint32_t c = first; k >= 30 && c < end; c++) {
            if (mask >> tok_category_in_run(k, c) & 1) tok_set_add(s, c, c);
        }
    }
}

/* Mask of a general category by its name; 0: unknown. */
static uint32_t tok_category_mask(const char *name, size_t n)
{
    static const struct { const char *name; uint32_t mask; } known[] = {
        { "L", 0x1f }, { "Lu", 1 }, { "Ll", 2 }, { "Lt", 4 }, { "Lm", 8 }, { "Lo", 16 }, { "LC", 7 },
        { "Letter", 0x1f },
        { "M", 0xe0 }, { "Mn", 0x20 }, { "Mc", 0x40 }, { "Me", 0x80 }, { "Mark", 0xe0 },
        { "N", 0x700 }, { "Nd", 0x100 }, { "Nl", 0x200 }, { "No", 0x400 }, { "Number", 0x700 },
        { "P", 0x3f800 }, { "Pc", 0x800 }, { "Pd", 0x1000 }, { "Ps", 0x2000 }, { "Pe", 0x4000 },
        { "Pi", 0x8000 },
        { "Pf", 0x10000 }, { "Po", 0x20000 }, { "Punctuation", 0x3f800 },
        { "S", 0x3c0000 }, { "Sm", 0x40000 }, { "Sc", 0x80000 }, { "Sk", 0x100000 }, { "So", 0x200000 },
        { "Symbol", 0x3c0000 }, { "Z", 0x1c00000 }, { "Zs", 0x400000 }, { "Zl", 0x800000 },
        { "Zp", 0x1000000 },
        { "Separator", 0x1c00000 }, { "C", 0x3e000000 }, { "Cc", 0x2000000 }, { "Cf", 0x4000000 },
        { "Cs", 0x8000000 },
        { "Co", 0x10000000 }, { "Cn", 0x20000000 }, { "Other", 0x3e000000 }
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strlen(known[i].name) == n && memcmp(known[i].name, name, n) == 0) return known[i].mask;
    }
    return 0;
}

/* What \w is: letters, marks, decimal and letter numbers, connectors, and circled letters. */
static void tok_set_add_word(tok_set *s)
{
    tok_set_add_categories(s, 0x1f | 0xe0 | 0x300 | 0x800);
    tok_set_add(s, 0x24b6, 0x24e9);
    tok_set_add(s, 0x1f130, 0x1f149);
    tok_set_add(s, 0x1f150, 0x1f169);
    tok_set_add(s, 0x1f170, 0x1f189);
}

/* White_Space, decimal digits, word characters, hexadecimal digits; upper case: all others. Oniguruma counts
   the superscripts and fractions of Latin-1 as word characters. */
static void tok_set_add_escape(conv_env *env, tok_set *s, char letter)
{
    tok_set *own = tok_set_new(env);
    if (!own) return;
    switch (letter | 32) {
    case 's':
        tok_set_add_categories(own, 0x1c00000);
        tok_set_add(own, 9, 13);
        tok_set_add(own, 0x85, 0x85);
        break;
    case 'd': tok_set_add_categories(own, 0x100); break;
    case 'w':
        tok_set_add_word(own);
        tok_set_add(own, 0xb2, 0xb3);
        tok_set_add(own, 0xb9, 0xb9);
        tok_set_add(own, 0xbc, 0xbe);
        break;
    default:
        tok_set_add(own, '0', '9');
        tok_set_add(own, 'A', 'F');
        tok_set_add(own, 'a', 'f');
        break;
    }
    if (!(letter & 32)) tok_set_invert(own);
    tok_set_join(s, own);
}

static int tok_is_letter(uint32_t c)
{
    uint32_t first, end;
    for (uint32_t i = 0; i < TOK_RUNS; i++) {
        const uint32_t k = tok_run(i, &first, &end);
        if (c >= first && c < end) return tok_category_in_run(k, c) < 5;
    }
    return 0;
}

/* Adds a character; without regard to case ASCII letters bring their partners, also U+017F and U+212A. */
static void tok_set_add_char(tok_parser *p, tok_set *s, uint32_t c)
{
    tok_set_add(s, c, c);
    if (!p->ignore_case) return;
    if ((c | 32) >= 'a' && (c | 32) <= 'z' && c < 128) {
        tok_set_add(s, c ^ 32, c ^ 32);
        if ((c | 32) == 's') tok_set_add(s, 0x17f, 0x17f);
        if ((c | 32) == 'k') tok_set_add(s, 0x212a, 0x212a);
    } else if (c >= 128 && tok_is_letter(c)) {
        conv_fail(p->t->env, "regular expression %.200s: a letter beyond ASCII inside (?i: is not supported",
                  p->pattern);
    }
}

/* ---- parsing ------------------------------------------------------------------------------------------- */
static int tok__bad(tok_parser *p, const char *what)
{
    return conv_fail(p->t->env, "regular expression %.200s: %s at byte %d is not supported", p->pattern, what,
                     (int)(p->at - p->pattern));
}

static tok_node *tok__node(tok_parser *p, tok_node_kind kind)
{
    tok_node *n = (tok_node *)conv_alloc(p->t->env, 1, sizeof *n);
    if (n) n->kind = kind;
    return n;
}

static int tok__at(const tok_parser *p, const char *text)
{
    const size_t n = strlen(text);
    return (size_t)(p->end - p->at) >= n && memcmp(p->at, text, n) == 0;
}

static int tok__skip(tok_parser *p, const char *text)
{
    if (!tok__at(p, text)) return 0;
    p->at += strlen(text);
    return 1;
}

static uint32_t tok__char(tok_parser *p)
{
    uint32_t code;
    if (p->at >= p->end) { tok__bad(p, "the end"); return 0; }
    p->at += sqm__utf8_next((const uint8_t *)p->at, (const uint8_t *)p->end, &code);
    if (code >= TOK_CODES) { tok__bad(p, "invalid UTF-8"); return 0; }
    return code;
}

static uint32_t tok__hex(tok_parser *p, int least, int most)
{
    uint32_t v = 0;
    int n = 0;
    for (; n < most && p->at < p->end; n++, p->at++) {
        const char c = *p->at;
        if (c >= '0' && c <= '9') v = v * 16 + (uint32_t)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f') v = v * 16 + (uint32_t)((c | 32) - 'a' + 10);
        else break;
    }
    if (n < least || v >= TOK_CODES) tok__bad(p, "this character number");
    return v < TOK_CODES ? v : 0;
}

/* The character of an escape whose letter is at p->at, for \r, \x41 or an escaped sign; 0 with *known = 0:
   other. */
static uint32_t tok__escaped_char(tok_parser *p, int *known)
{
    const char c = p->at < p->end ? *p->at : 0;
    uint32_t v;
    *known = 1;
    switch (c) {
    case 'n': p->at++; return '\n';
    case 'r': p->at++; return '\r';
    case 't': p->at++; return '\t';
    case 'f': p->at++; return '\f';
    case 'v': p->at++; return '\v';
    case 'a': p->at++; return '\a';
    case 'e': p->at++; return 27;
    case 'u': p->at++; return tok__hex(p, 4, 4);
    case 'x':
        p->at++;
        if (!tok__skip(p, "{")) return tok__hex(p, 1, 2);
        v = tok__hex(p, 1, 8);
        if (!tok__skip(p, "}")) tok__bad(p, "this \\x{");
        return v;
    default: break;
    }
    if (c && !(c >= '0' && c <= '9') && !((c | 32) >= 'a' && (c | 32) <= 'z')) return tok__char(p);
    *known = 0;
    return 0;
}

/* \p{Name}, \P{Name}, \p{^Name}: p->at is at the p. */
static int tok__property(tok_parser *p, tok_set *s)
{
    int negate = *p->at++ == 'P';
    const char *name, *close;
    uint32_t mask;
    tok_set *own = tok_set_new(p->t->env);
    if (!own || !tok__skip(p, "{")) return tok__bad(p, "\\p without {");
    if (tok__skip(p, "^")) negate = !negate;
    name = p->at;
    close = (const char *)memchr(name, '}', (size_t)(p->end - name));
    if (!close) return tok__bad(p, "\\p without }");
    mask = tok_category_mask(name, (size_t)(close - name));
    if (!mask)
        return conv_fail(p->t->env, "regular expression %.200s: the property \\p{%.*s} is not supported",
                         p->pattern, (int)(close - name < 40 ? close - name : 40), name);
    p->at = close + 1;
    tok_set_add_categories(own, mask);
    if (negate) tok_set_invert(own);
    tok_set_join(s, own);
    return 1;
}

/* An escape that stands for a set; p->at is after the backslash. 0: it is none. */
static int tok__escaped_set(tok_parser *p, tok_set *s)
{
    const char c = p->at < p->end ? *p->at : 0;
    if (c == 'p' || c == 'P') return tok__property(p, s);
    if (!c || !strchr("sSdDwWhH", c)) return 0;
    p->at++;
    tok_set_add_escape(p->t->env, s, c);
    return 1;
}

static tok_set *tok__class(tok_parser *p);

/* One item of a class: set, character or range. */
static void tok__class_item(tok_parser *p, tok_set *s)
{
    uint32_t first, last;
    int known = 1;
    if (tok__at(p, "[:")) { tok__bad(p, "[: :]"); return; }
    if (tok__skip(p, "[")) {
        tok_set *inner = tok__class(p);
        if (inner) tok_set_join(s, inner);
        return;
    }
    if (tok__skip(p, "\\")) {
        if (tok__escaped_set(p, s)) return;
        if (p->at < p->end && *p->at == 'b') { p->at++; first = 8; }
        else first = tok__escaped_char(p, &known);
        if (!known) { tok__bad(p, "this escape"); return; }
    } else {
        first = tok__char(p);
    }
    if (p->end - p->at < 2 || *p->at != '-' || p->at[1] == ']') { tok_set_add_char(p, s, first); return; }
    p->at++;
    last = tok__skip(p, "\\") ? tok__escaped_char(p, &known) : tok__char(p);
    if (!known || last < first) { tok__bad(p, "this range"); return; }
    if (!p->ignore_case) tok_set_add(s, first, last);
    for (; p->ignore_case && first <= last && !p->t->env->failed; first++) tok_set_add_char(p, s, first);
}

/* After the opening bracket. */
static tok_set *tok__class(tok_parser *p)
{
    const int negate = tok__skip(p, "^");
    tok_set *s = tok_set_new(p->t->env), *before = NULL;
    const char *first = p->at;
    if (++p->depth > TOK_MAX_DEPTH) tok__bad(p, "so deep a nesting");
    while (!p->t->env->failed) {
        if (p->at >= p->end) { tok__bad(p, "a class without ]"); break; }
        if (*p->at == ']' && p->at != first) break;
        if (tok__skip(p, "&&")) {                      /* binds weakest: all before it meets all after it  */
            if (before) tok_set_meet(before, s); else before = s;
            s = tok_set_new(p->t->env);
            continue;
        }
        tok__class_item(p, s);
    }
    if (p->t->env->failed) return NULL;
    p->at++;
    p->depth--;
    if (before) tok_set_meet(s, before);
    if (negate) tok_set_invert(s);
    return s;
}

static tok_node *tok__alternatives(tok_parser *p);

/* After an opening parenthesis. */
static tok_node *tok__group(tok_parser *p)
{
    const int ignore_case = p->ignore_case;
    tok_node *n = NULL, *inner;
    if (++p->depth > TOK_MAX_DEPTH) { tok__bad(p, "so deep a nesting"); return NULL; }
    if (tok__skip(p, "?")) {
        if (tok__skip(p, "i:")) p->ignore_case = 1;
        else if (tok__skip(p, "=")) n = tok__node(p, TOK_LOOK);
        else if (tok__skip(p, "!")) n = tok__node(p, TOK_LOOK_NOT);
        else if (tok__skip(p, ">")) n = tok__node(p, TOK_ATOMIC);
        else if (!tok__skip(p, ":")) { tok__bad(p, "this kind of group"); return NULL; }
    }
    inner = tok__alternatives(p);
    if (p->t->env->failed) return NULL;
    if (!tok__skip(p, ")")) { tok__bad(p, "a group without )"); return NULL; }
    p->ignore_case = ignore_case;
    p->depth--;
    if (!n) return inner;
    n->child = inner;
    return n;
}

static tok_node *tok__assert(tok_parser *p, uint32_t op)
{
    tok_node *n = tok__node(p, TOK_ASSERT);
    if (n) n->op = op;
    return n;
}

static tok_node *tok__atom(tok_parser *p)
{
    tok_node *n;
    int known = 1;
    uint32_t c;
    if (tok__skip(p, "(")) return tok__group(p);
    if (tok__skip(p, "^")) return tok__assert(p, SQM__RE_LINE_BEGIN);
    if (tok__skip(p, "$")) return tok__assert(p, SQM__RE_LINE_END);
    if (tok__skip(p, "\\A")) return tok__assert(p, SQM__RE_BEGIN);
    if (tok__skip(p, "\\z")) return tok__assert(p, SQM__RE_END);
    if (tok__skip(p, "\\b")) return tok__assert(p, SQM__RE_EDGE);
    if (tok__skip(p, "\\B")) return tok__assert(p, SQM__RE_NO_EDGE);
    n = tok__node(p, TOK_SET);
    if (!n) return NULL;
    if (tok__skip(p, "[")) {
        n->set = tok__class(p);
        return n;
    }
    n->set = tok_set_new(p->t->env);
    if (!n->set) return NULL;
    if (tok__skip(p, ".")) {
        tok_set_add(n->set, '\n', '\n');
        tok_set_invert(n->set);
        return n;
    }
    if (tok__skip(p, "\\")) {
        if (tok__escaped_set(p, n->set)) return n;
        c = tok__escaped_char(p, &known);
        if (!known) tok__bad(p, "this escape");
    } else {
        if (strchr("*+?{", *p->at)) tok__bad(p, "a quantifier here");
        c = tok__char(p);
    }
    if (!p->t->env->failed) tok_set_add_char(p, n->set, c);
    return n;
}

static uint32_t tok__count(tok_parser *p)
{
    uint32_t v = 0;
    while (p->at < p->end && *p->at >= '0' && *p->at <= '9' && v < 100000)
        v = v * 10 + (uint32_t)(*p->at++ - '0');
    return v;
}

/* {m} {m,} {m,n} {,n}; p->at is after the brace. */
static int tok__interval(tok_parser *p, uint32_t *min, uint32_t *max)
{
    const char *first = p->at;
    *min = *max = tok__count(p);
    if (tok__skip(p, ",")) *max = tok__at(p, "}") ? TOK_NONE : tok__count(p);
    if (p->at == first || !tok__skip(p, "}") || *min > 1000 || (*max > 1000 && *max != TOK_NONE) ||
        *max < *min || tok__at(p, "?") || tok__at(p, "+"))
        return tok__bad(p, "this interval");
    return 1;
}

static tok_node *tok__repeat(tok_parser *p)
{
    tok_node *n = tok__atom(p), *repeat;
    while (n && !p->t->env->failed && p->at < p->end && *p->at && strchr("*+?{", *p->at)) {
        const char sign = *p->at++;
        repeat = tok__node(p, TOK_REPEAT);
        if (!repeat) return NULL;
        repeat->min = sign == '+';
        repeat->max = sign == '?' ? 1 : TOK_NONE;
        if (sign == '{') {
            if (!tok__interval(p, &repeat->min, &repeat->max)) return NULL;
        } else if (tok__skip(p, "?")) {
            repeat->mode = TOK_LAZY;
        } else if (tok__skip(p, "+")) {
            repeat->mode = TOK_POSSESSIVE;
        }
        repeat->child = n;
        n = repeat;
    }
    return n;
}

static tok_node *tok__sequence(tok_parser *p)
{
    tok_node *cat = tok__node(p, TOK_CAT), **last;
    if (!cat) return NULL;
    last = &cat->child;
    while (!p->t->env->failed && p->at < p->end && *p->at != '|' && *p->at != ')') {
        *last = tok__repeat(p);
        if (!*last) return NULL;
        last = &(*last)->sibling;
    }
    return cat;
}

static tok_node *tok__alternatives(tok_parser *p)
{
    tok_node *alt = tok__node(p, TOK_ALT), **last;
    if (!alt) return NULL;
    last = &alt->child;
    do {
        *last = tok__sequence(p);
        if (!*last) return NULL;
        last = &(*last)->sibling;
    } while (!p->t->env->failed && tok__skip(p, "|"));
    if (p->t->env->failed) return NULL;
    return alt->child->sibling ? alt : alt->child;
}

/* ---- properties of nodes ------------------------------------------------------------------------------- */
/* Adds the characters that a match of n can begin with; returns whether n can match nothing. */
static int tok_first(const tok_node *n, tok_set *set)
{
    int empty = 1;
    switch (n->kind) {
    case TOK_EMPTY: return 1;
    case TOK_SET: tok_set_join(set, n->set); return 0;
    case TOK_REPEAT: return tok_first(n->child, set) || n->min == 0;
    case TOK_ATOMIC: return tok_first(n->child, set);
    case TOK_CAT:
        for (const tok_node *c = n->child; c && empty; c = c->sibling) empty = tok_first(c, set);
        return empty;
    case TOK_ALT:
        empty = 0;
        for (const tok_node *c = n->child; c; c = c->sibling) empty |= tok_first(c, set);
        return empty;
    default:                                           /* look-ahead, assertion: what follows decides */
        tok_set_add(set, 0, TOK_CODES - 1);
        return 1;
    }
}

/* Does n match (perhaps nothing) whatever the text is? */
static int tok_always(const tok_node *n)
{
    const tok_node *c = n->child;
    switch (n->kind) {
    case TOK_EMPTY: return 1;
    case TOK_REPEAT: return n->min == 0;
    case TOK_ATOMIC: return tok_always(c);
    case TOK_CAT:
        for (; c; c = c->sibling) {
            if (!tok_always(c)) return 0;
        }
        return 1;
    case TOK_ALT:
        for (; c; c = c->sibling) {
            if (tok_always(c)) return 1;
        }
        return 0;
    default: return 0;
    }
}

/* ---- tables -------------------------------------------------------------------------------------------- */
/* Ranges of [first, end) where the set is not what `expected` says, to the toggles. */
static void tok_add_toggles(tok_tables *t, const tok_set *s, uint32_t first, uint32_t end, uint32_t expected,
                            uint64_t least)
{
    for (uint32_t c = first; c < end; c++) {
        if (tok_set_has(s, c) == (int)expected) continue;
        if (t->n_toggles > least && t->toggles[2 * t->n_toggles - 1] == c) {
            t->toggles[2 * t->n_toggles - 1]++;        /* the range grows */
            continue;
        }
        t->toggles = (uint32_t *)conv_grow(t->env, t->toggles, t->n_toggles, &t->room_toggles, 8);
        if (!t->toggles) return;
        t->toggles[2 * t->n_toggles] = c;
        t->toggles[2 * t->n_toggles + 1] = c + 1;
        t->n_toggles++;
    }
}

/* The set as bits of ASCII, whole categories, and ranges in which the categories are wrong. */
static uint32_t tok_add_class(tok_tables *t, const tok_set *s)
{
    const uint32_t first = (uint32_t)t->n_toggles;
    uint32_t in[30] = { 0 }, all[30] = { 0 }, from, end;
    sqm__char_class k;
    memset(&k, 0, sizeof k);
    for (uint32_t c = 0; c < 128; c++) k.ascii[c / 32] |= (uint32_t)tok_set_has(s, c) << (c % 32);
    for (uint32_t i = 0; i < TOK_RUNS; i++) {
        const uint32_t run = tok_run(i, &from, &end), step = run < 30 ? end - from : 1;
        for (uint32_t c = from < 128 ? 128 : from; c < end; c += step) {
            const uint32_t stop = run < 30 ? end : c + 1, category = tok_category_in_run(run, c);
            all[category] += stop - c;
            in[category] += tok_set_members(s, c, stop);
        }
    }
    for (uint32_t i = 0; i < 30; i++) k.categories |= (2 * in[i] > all[i] ? 1u : 0u) << i;
    if (k.categories != 0 && k.categories != 0x3fffffffu) t->uses_categories = 1;
    for (uint32_t i = 0; i < TOK_RUNS; i++) {
        const uint32_t run = tok_run(i, &from, &end), step = run < 30 ? end - from : 1;
        for (uint32_t c = from < 128 ? 128 : from; c < end; c += step) {
            const uint32_t stop = run < 30 ? end : c + 1;
            const uint32_t expected = k.categories >> tok_category_in_run(run, c) & 1;
            if (tok_set_members(s, c, stop) != expected * (stop - c))
                tok_add_toggles(t, s, c, stop, expected, first);
        }
    }
    if (t->env->failed) return 0;
    k.first_toggle = first;
    k.n_toggles = (uint32_t)t->n_toggles - first;
    for (uint32_t i = 0; i < t->n_classes; i++) {      /* the same class again? */
        const sqm__char_class *o = &t->classes[i];
        if (memcmp(o->ascii, k.ascii, sizeof k.ascii) || o->categories != k.categories ||
            o->n_toggles != k.n_toggles)
            continue;
        if (k.n_toggles && memcmp(t->toggles + 2 * o->first_toggle, t->toggles + 2 * first,
                                  8 * (size_t)k.n_toggles))
            continue;
        t->n_toggles = first;
        return i;
    }
    t->classes = (sqm__char_class *)conv_grow(t->env, t->classes, t->n_classes, &t->room_classes, sizeof k);
    if (!t->classes) return 0;
    t->classes[t->n_classes] = k;
    return (uint32_t)t->n_classes++;
}

/* Bits of the first bytes of the set's characters; bytes from 0x80 on all together. */
static uint32_t tok_add_first(tok_tables *t, const tok_set *s)
{
    uint32_t bits[8] = { 0 };
    for (uint32_t c = 0; c < 128; c++) bits[c / 32] |= (uint32_t)tok_set_has(s, c) << (c % 32);
    if (tok_set_members(s, 128, TOK_CODES)) memset(bits + 4, 255, 16);
    for (uint32_t i = 0; i < t->n_firsts; i++) {
        if (memcmp(t->firsts + 8 * i, bits, 32) == 0) return i;
    }
    t->firsts = (uint32_t *)conv_grow(t->env, t->firsts, t->n_firsts, &t->room_firsts, 32);
    if (!t->firsts) return 0;
    memcpy(t->firsts + 8 * t->n_firsts, bits, 32);
    return (uint32_t)t->n_firsts++;
}

/* Appends an op that belongs to no parsed expression. */
static int tok_add_op(tok_tables *t, uint32_t op, uint32_t a, uint32_t b, uint32_t c)
{
    t->ops = (sqm__regex_op *)conv_grow(t->env, t->ops, t->n_ops, &t->room_ops, sizeof *t->ops);
    if (!t->ops || t->env->failed) return 0;
    t->ops[t->n_ops].op = op;
    t->ops[t->n_ops].a = a;
    t->ops[t->n_ops].b = b;
    t->ops[t->n_ops++].c = c;
    return 1;
}

/* ---- code ---------------------------------------------------------------------------------------------- */
typedef struct tok_coder {
    tok_tables *t;
    const char *pattern;
    uint64_t    first;                /* where this program begins */
    uint32_t    frames;
} tok_coder;

static uint32_t tok__emit(tok_coder *k, uint32_t op, uint32_t a, uint32_t b, uint32_t c)
{
    tok_tables *t = k->t;
    sqm__regex_op *o;
    if (t->n_ops - k->first >= TOK_MAX_OPS)
        conv_fail(t->env, "regular expression %.200s: more than %d steps", k->pattern, TOK_MAX_OPS);
    t->ops = (sqm__regex_op *)conv_grow(t->env, t->ops, t->n_ops, &t->room_ops, sizeof *o);
    if (!t->ops || t->env->failed) return 0;
    o = &t->ops[t->n_ops];
    o->op = op;
    o->a = a;
    o->b = b;
    o->c = c;
    if (op == SQM__RE_LOOP || (op >= SQM__RE_SPLIT && op <= SQM__RE_LOOK_NOT) || op == SQM__RE_ATOMIC)
        k->frames++;
    return (uint32_t)(t->n_ops++ - k->first);
}

static uint32_t tok__here(const tok_coder *k) { return (uint32_t)(k->t->n_ops - k->first); }
static void tok__aim(tok_coder *k, uint32_t op)
{
    if (!k->t->env->failed) k->t->ops[k->first + op].a = tok__here(k);
}

/* Aims a chain of jumps whose targets are the jump before, down to TOK_NONE. */
static void tok__aim_all(tok_coder *k, uint32_t last)
{
    while (last != TOK_NONE && !k->t->env->failed) {
        const uint32_t before = k->t->ops[k->first + last].a;
        tok__aim(k, last);
        last = before;
    }
}

/* A choice between what follows and `other`, taken at once where the next byte leaves no other way. */
static uint32_t tok__choice(tok_coder *k, const tok_node *n, uint32_t other)
{
    tok_set *first = tok_set_new(k->t->env);
    if (!first) return 0;
    if (tok_first(n, first)) return tok__emit(k, SQM__RE_SPLIT, other, 0, 0);
    return tok__emit(k, SQM__RE_SPLIT_FIRST, other, tok_add_first(k->t, first), 0);
}

static void tok__code(tok_coder *k, const tok_node *n, const tok_set *follow, int sure);

static void tok__code_group_loop(tok_coder *k, const tok_node *n)
{
    uint32_t ends = TOK_NONE, loop, i;
    tok_set *first = tok_set_new(k->t->env);
    if (!first || k->t->env->failed) return;
    if (n->max == TOK_NONE && tok_first(n->child, first)) {
        conv_fail(k->t->env, "regular expression %.200s: a loop over what can be empty is not supported",
                  k->pattern);
        return;
    }
    for (i = 0; i < n->min; i++) tok__code(k, n->child, NULL, 0);
    for (; (n->max == TOK_NONE ? i == n->min : i < n->max) && !k->t->env->failed; i++) {
        loop = tok__here(k);
        if (n->mode == TOK_LAZY) {                     /* leaving comes first */
            const uint32_t split = tok__emit(k, SQM__RE_SPLIT, 0, 0, 0);
            ends = tok__emit(k, SQM__RE_JUMP, ends, 0, 0);
            tok__aim(k, split);
        } else {
            ends = tok__choice(k, n->child, ends);
        }
        tok__code(k, n->child, NULL, 0);
        if (n->max == TOK_NONE) {
            tok__emit(k, SQM__RE_JUMP, loop, 0, 0);
            k->frames += TOK_GROUP_LOOP_FRAMES;
        }
    }
    tok__aim_all(k, ends);
}

static void tok__code_repeat(tok_coder *k, const tok_node *n, const tok_set *follow, int sure)
{
    const tok_node *body = n->child;
    while ((body->kind == TOK_CAT || body->kind == TOK_ALT) && body->child && !body->child->sibling)
        body = body->child;
    if (body->kind == TOK_SET && n->mode != TOK_LAZY) {
        const int gives_back = n->mode == TOK_GREEDY && !sure &&
                               !(follow && tok_set_disjoint(body->set, follow));
        tok__emit(k, gives_back ? SQM__RE_LOOP : SQM__RE_LOOP_ALL, tok_add_class(k->t, body->set), n->min,
                  n->max);
        return;
    }
    if (n->mode == TOK_POSSESSIVE) tok__emit(k, SQM__RE_ATOMIC, 0, 0, 0);
    tok__code_group_loop(k, n);
    if (n->mode == TOK_POSSESSIVE) tok__emit(k, SQM__RE_ATOMIC_END, 0, 0, 0);
}

/* Each item knows what follows it: the set of first characters (NULL: not known, or possibly nothing), and
   whether the rest is sure to match. */
static void tok__code_sequence(tok_coder *k, const tok_node *n, const tok_set *follow, int sure)
{
    for (const tok_node *c = n->child; c && !k->t->env->failed; c = c->sibling) {
        tok_set *first = tok_set_new(k->t->env);
        int rest_sure = sure, empty = 1;
        if (!first) return;
        for (const tok_node *r = c->sibling; r; r = r->sibling) {
            if (!tok_always(r)) rest_sure = 0;
            if (empty) empty = tok_first(r, first);
        }
        if (empty && follow) tok_set_join(first, follow);
        tok__code(k, c, empty && !follow ? NULL : first, rest_sure);
    }
}

static void tok__code_alternatives(tok_coder *k, const tok_node *n, const tok_set *follow, int sure)
{
    uint32_t ends = TOK_NONE;
    for (const tok_node *c = n->child; c && !k->t->env->failed; c = c->sibling) {
        const uint32_t choice = c->sibling ? tok__choice(k, c, 0) : 0;
        tok__code(k, c, follow, sure);
        if (!c->sibling) break;
        ends = tok__emit(k, SQM__RE_JUMP, ends, 0, 0);
        tok__aim(k, choice);
    }
    tok__aim_all(k, ends);
}

static void tok__code(tok_coder *k, const tok_node *n, const tok_set *follow, int sure)
{
    uint32_t look;
    if (k->t->env->failed) return;
    switch (n->kind) {
    case TOK_EMPTY: break;
    case TOK_SET: tok__emit(k, SQM__RE_CLASS, tok_add_class(k->t, n->set), 0, 0); break;
    case TOK_CAT: tok__code_sequence(k, n, follow, sure); break;
    case TOK_ALT: tok__code_alternatives(k, n, follow, sure); break;
    case TOK_REPEAT: tok__code_repeat(k, n, follow, sure); break;
    case TOK_LOOK:
    case TOK_LOOK_NOT:
        look = tok__emit(k, n->kind == TOK_LOOK ? SQM__RE_LOOK : SQM__RE_LOOK_NOT, 0, 0, 0);
        tok__code(k, n->child, NULL, 1);               /* nothing comes after: one way to match is enough  */
        tok__emit(k, SQM__RE_LOOK_END, 0, 0, 0);
        tok__aim(k, look);
        break;
    case TOK_ATOMIC:
        tok__emit(k, SQM__RE_ATOMIC, 0, 0, 0);
        tok__code(k, n->child, NULL, 1);
        tok__emit(k, SQM__RE_ATOMIC_END, 0, 0, 0);
        break;
    case TOK_ASSERT: {
        tok_set *word = tok_set_new(k->t->env);
        uint32_t class_id = 0;
        if (word && (n->op == SQM__RE_EDGE || n->op == SQM__RE_NO_EDGE)) {
            tok_set_add_escape(k->t->env, word, 'w');
            class_id = tok_add_class(k->t, word);
        }
        tok__emit(k, n->op, class_id, 0, 0);
        break;
    }
    }
}

/* Compiles a pattern; *first and *n: its ops in t->ops. Returns 0 with t->env's error when it cannot. */
static int tok_compile(tok_tables *t, const char *pattern, size_t bytes, uint32_t *first, uint32_t *n)
{
    tok_parser p;
    tok_coder k;
    tok_node *root;
    tok_set *nothing = tok_set_new(t->env);
    memset(&p, 0, sizeof p);
    memset(&k, 0, sizeof k);
    p.t = k.t = t;
    p.pattern = p.at = k.pattern = conv_copy_text(t->env, pattern, bytes);
    p.end = p.at + bytes;
    root = tok__alternatives(&p);
    if (!t->env->failed && p.at != p.end) tok__bad(&p, "a ) here");
    if (t->env->failed) return 0;
    k.first = t->n_ops;
    tok__code(&k, root, nothing, 1);
    tok__emit(&k, SQM__RE_MATCH, 0, 0, 0);
    if (k.frames > t->frames) t->frames = k.frames;
    *first = (uint32_t)k.first;
    *n = (uint32_t)(t->n_ops - k.first);
    return !t->env->failed;
}

#endif /* TOK_REGEX_H_INCLUDED */
