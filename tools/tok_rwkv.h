/* tok_rwkv.h: the vocabulary of RWKV "world" models (rwkv_vocab_v20230424.txt). Part of tok_import.h.
   Each line is NUMBER LITERAL BYTES, the literal in Python's writing: 'text' or b'bytes'. A text is cut from
   its
   start on into the longest tokens there are. Token 0 is not in the file: it ends a document.              */
#ifndef TOK_RWKV_H_INCLUDED
#define TOK_RWKV_H_INCLUDED

typedef struct tok_line {
    const char *at, *end;
    uint64_t    number;               /* of the line, for messages                                          */
} tok_line;

/* Decimal number; -1: there is none, or it is too large.                                                   */
static int64_t tok__literal_number(tok_line *l)
{
    int64_t n = 0;
    const char *from = l->at;
    while (l->at < l->end && *l->at >= '0' && *l->at <= '9' &&
           n < TOK_MAX_TOKENS) n = n * 10 + (*l->at++ - '0');
    return l->at == from ? -1 : n;
}

static int64_t tok__literal_hex(tok_line *l, int digits)
{
    int64_t n = 0;
    for (; digits > 0; digits--, l->at++) {
        const char c = l->at < l->end ? *l->at : 0;
        if (c >= '0' && c <= '9') n = n * 16 + (c - '0');
        else if (c >= 'a' && c <= 'f') n = n * 16 + (c - 'a' + 10);
        else if (c >= 'A' && c <= 'F') n = n * 16 + (c - 'A' + 10);
        else return -1;
    }
    return n;
}

/* What stands behind a backslash, as bytes; returns how many, 0: it is not known.                          */
static uint32_t tok__escape(tok_line *l, int is_bytes, char *out)
{
    static const char plain[] = "nrt\\'\"", meant[] = "\n\r\t\\'\"";
    const char c = l->at < l->end ? *l->at++ : 0;
    const char *found = c ? strchr(plain, c) : NULL;
    int64_t code;
    if (found) { *out = meant[found - plain]; return 1; }
    if (c != 'x' && (is_bytes || (c != 'u' && c != 'U'))) return 0;
    code = tok__literal_hex(l, c == 'x' ? 2 : c == 'u' ? 4 : 8);
    if (code < 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return 0;
    if (is_bytes) { *out = (char)code; return 1; }
    return sqm__utf8_put((uint8_t *)out, (uint32_t)code);
}

/* What a literal says up to `end` or the quote that ends it; *n bytes into out. 0: it is damaged.          */
static int tok__unescape(tok_line *l, const char *end, char quote, int is_bytes, char *out, uint32_t *n)
{
    for (*n = 0; l->at < end && (!quote || *l->at != quote);) {
        uint32_t more = 1;
        if (*l->at == '\\') {
            l->at++;
            more = tok__escape(l, is_bytes, out + *n);
            if (!more) return 0;
        } else {
            out[*n] = *l->at++;
        }
        *n += more;
    }
    return 1;
}

/* A literal; returns 0 when it is damaged.                                                                 */
static int tok__literal(conv_env *env, tok_line *l, tok_text *text)
{
    const int is_bytes = l->at < l->end && *l->at == 'b';
    const char *newline = (const char *)memchr(l->at, '\n', (size_t)(l->end - l->at));
    const char *end = newline ? newline : l->end;
    char *out = (char *)conv_alloc(env, (uint64_t)(end - l->at) + 5, 1), quote;
    uint32_t n = 0;
    l->at += is_bytes;
    if (!out || l->at >= l->end) return 0;
    quote = *l->at++;
    if (quote != '\'' && quote != '"') return 0;
    if (!tok__unescape(l, end, quote, is_bytes, out, &n)) return 0;
    *text = tok_make_text(out, n);
    return l->at++ < l->end;
}

static int tok__rwkv_line(conv_env *env, tok_line *l, int64_t *id, tok_text *text)
{
    *id = tok__literal_number(l);
    if (*id < 1 || *id >= TOK_MAX_TOKENS || l->at >= l->end || *l->at++ != ' ') return 0;
    if (!tok__literal(env, l, text) || l->at >= l->end || *l->at++ != ' ' || text->bytes == 0) return 0;
    if (tok__literal_number(l) != (int64_t)text->bytes) return 0;
    if (l->at < l->end && *l->at == '\r') l->at++;
    return l->at == l->end || *l->at++ == '\n';
}

static CONV_UNUSED int tok_from_rwkv(conv_env *env, const conv_file *f, tok_blob *out)
{
    tok_builder b;
    tok_line l;
    tok_text text;
    int64_t id, most = 0;
    tok_open(&b, env, SQM__TOK_LONGEST);
    for (int pass = 0; pass < 2; pass++) {             /* how many there are, then the texts                */
        l.at = (const char *)f->data;
        l.end = l.at + f->bytes;
        if (pass && !tok_set_count(&b, (uint64_t)most + 1, l.number)) return 0;
        for (l.number = 1; !env->failed && l.at < l.end; l.number++) {
            if (!tok__rwkv_line(env, &l, &id, &text))
                return conv_fail(env, "%s: line %llu is not \"NUMBER 'TEXT' BYTES\"", f->path,
                                 (unsigned long long)l.number);
            if (id > most) most = id;
            if (!pass) continue;
            if (b.type[id] == SQM__TOKEN_NORMAL)
                return conv_fail(env, "%s: line %llu: token %lld is there twice", f->path,
                                 (unsigned long long)l.number, (long long)id);
            b.raw[id] = b.text[id] = b.key[id] = text;
            b.type[id] = SQM__TOKEN_NORMAL;
        }
    }
    if (most < 1) return conv_fail(env, "%s: there are no tokens", f->path);
    b.type[0] = SQM__TOKEN_SPECIAL;
    b.role[1] = 0;
    tok_add_id(env, &b.ends, 0, b.n);
    return tok_finish(&b, out);
}

/* The same vocabulary in a GGUF file: what Python writes between the quotes of the bytes.                  */
static int tok_gguf_rwkv(tok_builder *b, const gguf_file *g)
{
    for (uint32_t i = 0; i < b->n && !b->env->failed; i++) {
        char *out = (char *)conv_alloc(b->env, (uint64_t)b->raw[i].bytes + 5, 1);
        tok_line l;
        uint32_t n;
        if (!out || b->type[i] != SQM__TOKEN_NORMAL) continue;
        l.at = b->raw[i].text;
        l.end = l.at + b->raw[i].bytes;
        if (!tok__unescape(&l, l.end, 0, 1, out, &n) || n == 0)
            return conv_fail(b->env, "%s: token %u is not a text in Python's writing", g->file->path, i);
        b->raw[i] = b->text[i] = b->key[i] = tok_make_text(out, n);
    }
    return !b->env->failed;
}

#endif /* TOK_RWKV_H_INCLUDED */
