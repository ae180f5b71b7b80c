/* json.h: a small strict JSON reader for the tools (config.json, tokenizer.json, safetensors headers).

   The whole document becomes a tree of json_value in one allocation; strings are decoded, NUL-terminated, may
   hold NUL bytes (use .n). Strict: UTF-8 is checked; trailing text, control characters in strings and lone
   surrogates are errors. One extension, for files written by Python: NaN, Infinity, -Infinity are numbers.
   Of members with the same key the getters find the last, as other readers do; json_at still sees each.
   Getters accept NULL and the wrong type, so that lookups can be chained:

       json_doc doc;
       if (!json_read_file(&doc, "config.json")) die("%s", doc.error);
       int64_t dim = json_int(json_get(doc.root, "hidden_size"), -1);
       json_free(&doc);                                                                                     */
#ifndef JSON_H_INCLUDED
#define JSON_H_INCLUDED
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

typedef enum json_type {
    JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT
} json_type;

typedef struct json_value json_value;
struct json_value {
    json_type         type;
    uint32_t          n;               /* bytes of a string or number, elements, or members */
    const char       *text;            /* string: decoded, NUL-terminated; number: as written, n bytes      */
    const json_value *items;           /* array: [n]; object: [2 * n] = key, value, key, value ...          */
    union {
        double    number;
        uint32_t *index;               /* objects of more than JSON_SCAN members: hash of member + 1 */
    } u;
};

typedef struct json_doc {
    const json_value *root;
    void             *memory;
    size_t            line, column;    /* where an error is, from 1                                         */
    char              error[200];      /* "" when the last call succeeded                                   */
} json_doc;

enum { JSON_DEPTH = 200, JSON_SCAN = 8 };
#define JSON_MAX_BYTES ((size_t)1 << 30)

/* ---- reading ------------------------------------------------------------------------------------------ */
typedef struct json__reader {
    char       *at, *end, *start;
    json_value *front, *back;          /* finished values grow from the front, open ones from the back      */
    json_value *last;                  /* one past the value array                                          */
    uint32_t   *index;                 /* free hash cells                                                   */
    const char *error;
} json__reader;

static inline int json__fail(json__reader *r, const char *what) { if (!r->error) r->error = what; return 0; }

static inline void json__space(json__reader *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\t' || *r->at == '\r')) r->at++;
}

static inline int json__hex4(const char *p, const char *end, uint32_t *out)
{
    uint32_t v = 0;
    if (end - p < 4) return 0;
    for (int i = 0; i < 4; i++) {
        const char c = p[i];
        if (c >= '0' && c <= '9') v = v << 4 | (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f') v = v << 4 | (uint32_t)(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F') v = v << 4 | (uint32_t)(c - 'A' + 10);
        else return 0;
    }
    *out = v;
    return 1;
}

static inline char *json__put_utf8(char *dst, uint32_t c)
{
    if (c < 0x80) { *dst++ = (char)c; return dst; }
    if (c < 0x800) { *dst++ = (char)(0xC0 | c >> 6); }
    else {
        if (c < 0x10000) { *dst++ = (char)(0xE0 | c >> 12); }
        else { *dst++ = (char)(0xF0 | c >> 18); *dst++ = (char)(0x80 | (c >> 12 & 63)); }
        *dst++ = (char)(0x80 | (c >> 6 & 63));
    }
    *dst++ = (char)(0x80 | (c & 63));
    return dst;
}

/* Length of the UTF-8 character at p (1..4); 0: malformed, overlong, a surrogate or beyond U+10FFFF.       */
static inline int json__utf8_length(const char *p, const char *end)
{
    const unsigned char *u = (const unsigned char *)p;
    const ptrdiff_t room = end - p;
    if (u[0] < 0x80) return 1;
    if (u[0] < 0xC2 || u[0] > 0xF4 || room < 2) return 0;
    if (u[0] < 0xE0) return (u[1] & 0xC0) == 0x80 ? 2 : 0;
    if (room < 3 || (u[1] & 0xC0) != 0x80 || (u[2] & 0xC0) != 0x80) return 0;
    if (u[0] < 0xF0) return (u[0] == 0xE0 && u[1] < 0xA0) || (u[0] == 0xED && u[1] > 0x9F) ? 0 : 3;
    if (room < 4 || (u[3] & 0xC0) != 0x80) return 0;
    return (u[0] == 0xF0 && u[1] < 0x90) || (u[0] == 0xF4 && u[1] > 0x8F) ? 0 : 4;
}

/* Decodes the escape after a backslash at r->at into dst; the result is never longer than its source.      */
static inline char *json__escape(json__reader *r, char *dst)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    uint32_t c, low;
    const char *hit;
    if (r->at >= r->end) { json__fail(r, "string does not end"); return NULL; }
    if (*r->at != 'u') {
        hit = *r->at ? strchr(from, *r->at) : NULL;
        if (!hit) { json__fail(r, "unknown escape in a string"); return NULL; }
        r->at++;
        *dst++ = to[hit - from];
        return dst;
    }
    r->at++;
    if (!json__hex4(r->at, r->end, &c)) { json__fail(r, "\\u needs four hexadecimal digits"); return NULL; }
    r->at += 4;
    if (c >= 0xD800 && c < 0xE000) {
        if (c >= 0xDC00 || r->end - r->at < 6 || r->at[0] != '\\' || r->at[1] != 'u' ||
            !json__hex4(r->at + 2, r->end, &low) || low < 0xDC00 || low > 0xDFFF) {
            json__fail(r, "lone surrogate in a \\u escape");
            return NULL;
        }
        r->at += 6;
        c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
    }
    return json__put_utf8(dst, c);
}

static inline int json__string(json__reader *r, json_value *v)
{
    char *text = ++r->at, *dst = text;
    for (;;) {
        int n;
        if (r->at >= r->end) return json__fail(r, "string does not end");
        if (*r->at == '"') break;
        if (*r->at == '\\') {
            r->at++;
            dst = json__escape(r, dst);
            if (!dst) return 0;
            continue;
        }
        if ((unsigned char)*r->at < 32) return json__fail(r, "control character in a string");
        n = json__utf8_length(r->at, r->end);
        if (!n) return json__fail(r, "invalid UTF-8 in a string");
        while (n--) *dst++ = *r->at++;
    }
    r->at++;
    *dst = 0;                                          /* at the latest on the closing quote                */
    v->type = JSON_STRING;
    v->text = text;
    v->n = (uint32_t)(dst - text);
    return 1;
}

static inline int json__digits(json__reader *r)
{
    const char *first = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9') r->at++;
    return r->at > first;
}

/* The copy of the text ends in NUL, so strtod stops by itself.                                             */
static inline int json__number(json__reader *r, json_value *v)
{
    const char *first = r->at;
    v->type = JSON_NUMBER;
    v->text = first;
    if (*r->at == '-') r->at++;
    if (r->end - r->at >= 8 && memcmp(r->at, "Infinity", 8) == 0) {
        r->at += 8;
        v->u.number = *first == '-' ? -HUGE_VAL : HUGE_VAL;
    } else {
        if (r->at < r->end && *r->at == '0') r->at++;
        else if (!json__digits(r)) return json__fail(r, "a value was expected");
        if (r->at < r->end && *r->at == '.') {
            r->at++;
            if (!json__digits(r)) return json__fail(r, "digits expected after the decimal point");
        }
        if (r->at < r->end && (*r->at == 'e' || *r->at == 'E')) {
            r->at++;
            if (r->at < r->end && (*r->at == '+' || *r->at == '-')) r->at++;
            if (!json__digits(r)) return json__fail(r, "digits expected in the exponent");
        }
        v->u.number = strtod(first, NULL);
    }
    v->n = (uint32_t)(r->at - first);
    return 1;
}

static inline int json__word(json__reader *r, const char *word, size_t n)
{
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0)
        return json__fail(r, "a value was expected");
    r->at += n;
    return 1;
}

static inline int json__scalar(json__reader *r, json_value *v)
{
    switch (*r->at) {
    case '"': return json__string(r, v);
    case 'n': v->type = JSON_NULL;  return json__word(r, "null", 4);
    case 't': v->type = JSON_TRUE;  return json__word(r, "true", 4);
    case 'f': v->type = JSON_FALSE; return json__word(r, "false", 5);
    case 'N':
        v->type = JSON_NUMBER;
        v->text = r->at;
        v->n = 3;
        v->u.number = (double)NAN;
        return json__word(r, "NaN", 3);
    default:  return json__number(r, v);
    }
}

static inline uint32_t json__hash(const char *text, size_t n)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)text[i]) * 16777619u;
    return h ^ h >> 15;
}

static inline uint32_t json__index_size(uint32_t n)
{
    uint32_t size = 4;
    while (size < 2 * n) size *= 2;                    /* n < 2^29: see JSON_MAX_BYTES                      */
    return size;
}

static inline int json__same_key(const json_value *key, const char *text, size_t n)
{
    return key->n == n && memcmp(key->text, text, n) == 0;
}

/* Large objects get a hash table; a later member replaces an earlier one of the same key.                  */
static inline void json__index_object(json__reader *r, json_value *object)
{
    const uint32_t n = object->n;
    if (n <= JSON_SCAN) return;
    const uint32_t mask = json__index_size(n) - 1;
    object->u.index = r->index;
    r->index += mask + 1;
    for (uint32_t i = 0; i < n; i++) {
        const json_value *key = object->items + 2 * (size_t)i;
        uint32_t cell = json__hash(key->text, key->n) & mask;
        while (object->u.index[cell] &&
               !json__same_key(object->items + 2 * (size_t)(object->u.index[cell] - 1), key->text, key->n))
            cell = (cell + 1) & mask;
        object->u.index[cell] = i + 1;
    }
}

/* Moves the values of `container` (below it, newest lowest) to the front in document order. Front and
   back may be close: the values are put in order where they lie, then moved at once.                       */
static inline void json__close(json__reader *r, json_value *container)
{
    const size_t n = (size_t)(container - r->back);
    json_value *low = r->back, *high = container;
    while (low + 1 < high) {
        const json_value t = *low;
        *low++ = *--high;
        *high = t;
    }
    memmove(r->front, r->back, n * sizeof *r->front);
    container->items = r->front;
    container->n = (uint32_t)(container->type == JSON_OBJECT ? n / 2 : n);
    r->front += n;
    r->back = container;
    if (container->type == JSON_OBJECT) json__index_object(r, container);
}

/* Reads an object key and its colon, then leaves r->at at the value.                                       */
static inline int json__key(json__reader *r)
{
    json__space(r);
    if (r->at >= r->end || *r->at != '"') return json__fail(r, "a key in quotes was expected");
    json_value *key = --r->back;
    memset(key, 0, sizeof *key);
    if (!json__string(r, key)) return 0;
    json__space(r);
    if (r->at >= r->end || *r->at != ':') return json__fail(r, "':' was expected after a key");
    r->at++;
    return 1;
}

/* After a finished value: closes containers and steps over commas. *depth 0 means finished.                */
static inline int json__after_value(json__reader *r, json_value **open, int *depth)
{
    while (*depth > 0) {
        json_value *container = open[*depth - 1];
        json__space(r);
        if (r->at >= r->end) return json__fail(r, "the text ends inside an array or object");
        if (*r->at == ',') {
            r->at++;
            return container->type == JSON_OBJECT ? json__key(r) : 1;
        }
        if (*r->at != (container->type == JSON_OBJECT ? '}' : ']'))
            return json__fail(r, "',' or a closing bracket was expected");
        r->at++;
        json__close(r, container);
        --*depth;
    }
    return 1;
}

static inline int json__document(json__reader *r)
{
    json_value *open[JSON_DEPTH];
    int depth = 0;
    do {
        json__space(r);
        if (r->at >= r->end) return json__fail(r, "a value was expected");
        json_value *v = --r->back;
        memset(v, 0, sizeof *v);
        if (*r->at == '[' || *r->at == '{') {
            v->type = *r->at == '[' ? JSON_ARRAY : JSON_OBJECT;
            if (depth == JSON_DEPTH) return json__fail(r, "nested too deeply");
            open[depth++] = v;
            r->at++;
            json__space(r);
            if (r->at < r->end && *r->at == (v->type == JSON_ARRAY ? ']' : '}')) {
                if (!json__after_value(r, open, &depth)) return 0;
            } else if (v->type == JSON_OBJECT && !json__key(r)) {
                return 0;
            }
        } else if (!json__scalar(r, v) || !json__after_value(r, open, &depth)) {
            return 0;
        }
    } while (depth > 0);
    json__space(r);
    return r->at == r->end ? 1 : json__fail(r, "text after the end of the document");
}

static inline int json__report(json_doc *doc, const char *what, const char *text, size_t offset)
{
    doc->line = doc->column = 1;
    for (size_t i = 0; text && i < offset; i++) {
        if (text[i] == '\n') { doc->line++; doc->column = 1; }
        else doc->column++;
    }
    snprintf(doc->error, sizeof doc->error, "JSON line %zu column %zu: %s", doc->line, doc->column, what);
    free(doc->memory);
    doc->memory = NULL;
    doc->root = NULL;
    return 0;
}

/* Parses bytes of text. Returns 1, or 0 with doc->error set. The text is copied; it may go afterwards.     */
static inline int json_parse(json_doc *doc, const char *text, size_t bytes)
{
    json__reader r;
    size_t values = 2, members = 0, skip = 0;
    memset(doc, 0, sizeof *doc);
    memset(&r, 0, sizeof r);
    if (bytes > JSON_MAX_BYTES) return json__report(doc, "the document is too large", NULL, 0);
    if (bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) skip = 3;
    for (size_t i = 0; i < bytes; i++) {               /* a value follows one of , : [ { */
        values += text[i] == ',' || text[i] == '[' || text[i] == '{';
        members += text[i] == ':';
    }
    values += members;
    const size_t value_bytes = values * sizeof(json_value), index_bytes = members * 4 * sizeof(uint32_t);
    doc->memory = calloc(1, value_bytes + index_bytes + bytes + 1);
    if (!doc->memory) return json__report(doc, "out of memory", NULL, 0);
    r.front = (json_value *)doc->memory;
    r.last = r.back = r.front + values;
    r.index = (uint32_t *)(void *)r.last;
    r.start = (char *)doc->memory + value_bytes + index_bytes;
    r.at = r.start + skip;
    r.end = r.start + bytes;
    if (bytes) memcpy(r.start, text, bytes);
    if (!json__document(&r)) return json__report(doc, r.error, text, (size_t)(r.at - r.start));
    doc->root = r.back;
    return 1;
}

/* Reads a whole file into malloc memory, one NUL after it; NULL: *why says what happened.                  */
static inline char *json_read_bytes(const char *path, size_t max_bytes, size_t *bytes, const char **why)
{
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    size_t used = 0, room = 1 << 16;
    *bytes = 0;
    *why = "cannot be opened";
    if (!file) return NULL;
    for (;;) {
        char *more = (char *)realloc(text, room + 1);
        *why = "does not fit in memory";
        if (!more) break;
        text = more;
        used += fread(text + used, 1, room - used, file);
        *why = "cannot be read";
        if (ferror(file)) break;
        if (used < room) {
            fclose(file);
            text[used] = 0;
            *bytes = used;
            return text;
        }
        *why = "is too large";
        if (room > max_bytes) break;
        room *= 2;
    }
    free(text);
    fclose(file);
    return NULL;
}

static inline int json_read_file(json_doc *doc, const char *path)
{
    size_t bytes;
    const char *why;
    char *text = json_read_bytes(path, JSON_MAX_BYTES, &bytes, &why);
    memset(doc, 0, sizeof *doc);
    if (!text) {
        snprintf(doc->error, sizeof doc->error, "%.150s %s", path, why);
        return 0;
    }
    const int ok = json_parse(doc, text, bytes);
    free(text);
    return ok;
}

static inline void json_free(json_doc *doc)
{
    free(doc->memory);
    doc->memory = NULL;
    doc->root = NULL;
}

/* ---- looking ------------------------------------------------------------------------------------------ */
static inline int json_is(const json_value *v, json_type type) { return v && v->type == type; }

/* Value of a key given by its bytes; NULL when `object` has none or is no object.                          */
static inline const json_value *json_get_bytes(const json_value *object, const char *key, size_t n)
{
    if (!json_is(object, JSON_OBJECT)) return NULL;
    if (object->n <= JSON_SCAN) {
        for (uint32_t i = object->n; i-- > 0;)
            if (json__same_key(object->items + 2 * i, key, n)) return object->items + 2 * i + 1;
        return NULL;
    }
    const uint32_t mask = json__index_size(object->n) - 1;
    for (uint32_t cell = json__hash(key, n) & mask; object->u.index[cell]; cell = (cell + 1) & mask) {
        const json_value *member = object->items + 2 * (size_t)(object->u.index[cell] - 1);
        if (json__same_key(member, key, n)) return member + 1;
    }
    return NULL;
}

static inline const json_value *json_get(const json_value *object, const char *key)
{
    return json_get_bytes(object, key, strlen(key));
}

/* Number of elements or members; 0 for anything else.                                                      */
static inline uint32_t json_count(const json_value *v)
{
    return json_is(v, JSON_ARRAY) || json_is(v, JSON_OBJECT) ? v->n : 0;
}

/* Element i of an array, or value of member i of an object (in file order); NULL outside.                  */
static inline const json_value *json_at(const json_value *v, uint32_t i)
{
    if (i >= json_count(v)) return NULL;
    return v->type == JSON_ARRAY ? v->items + i : v->items + 2 * (size_t)i + 1;
}

/* Key of member i of an object (a string value); NULL outside.                                             */
static inline const json_value *json_key_at(const json_value *v, uint32_t i)
{
    return json_is(v, JSON_OBJECT) && i < v->n ? v->items + 2 * (size_t)i : NULL;
}

static inline const char *json_text(const json_value *v, const char *otherwise)
{
    return json_is(v, JSON_STRING) ? v->text : otherwise;
}

static inline int json_text_is(const json_value *v, const char *text)
{
    return json_is(v, JSON_STRING) && strcmp(v->text, text) == 0;
}

static inline double json_number(const json_value *v, double otherwise)
{
    return json_is(v, JSON_NUMBER) ? v->u.number : otherwise;
}

/* Integers exactly; a fraction, or a number out of int64, gives `otherwise`. 1e3 and 5.0 are integers.     */
static inline int64_t json_int(const json_value *v, int64_t otherwise)
{
    if (!json_is(v, JSON_NUMBER)) return otherwise;
    const int negative = v->text[0] == '-';
    uint64_t magnitude = 0;
    for (uint32_t i = (uint32_t)negative; i < v->n; i++) {
        const char c = v->text[i];
        if (c < '0' || c > '9') {                      /* written as a real: exact only below 2^53          */
            const double d = v->u.number;
            return fabs(d) <= 9007199254740992.0 && floor(d) == d ? (int64_t)d : otherwise;
        }
        if (magnitude > (uint64_t)INT64_MAX / 10) return otherwise;
        magnitude = magnitude * 10 + (uint64_t)(c - '0');
        if (magnitude > (uint64_t)INT64_MAX) return otherwise;
    }
    return negative ? -(int64_t)magnitude : (int64_t)magnitude;
}

static inline int json_bool(const json_value *v, int otherwise)
{
    return json_is(v, JSON_TRUE) ? 1 : json_is(v, JSON_FALSE) ? 0 : otherwise;
}

#endif /* JSON_H_INCLUDED */
