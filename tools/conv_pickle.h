/* conv_pickle.h: a pickle machine that can only build dictionaries, lists, tuples, numbers, texts and
   tensors.

   Nothing is ever called: a global is an entry of pickle_globals or an error, and REDUCE knows what each
   of those few means. What other global a file names is in the error text.                                 */
#ifndef CONV_PICKLE_H_INCLUDED
#define CONV_PICKLE_H_INCLUDED
#include "conv_source.h"

typedef enum pickle_kind {
    PICKLE_NONE, PICKLE_BOOL, PICKLE_INT, PICKLE_FLOAT, PICKLE_TEXT, PICKLE_BYTES, PICKLE_TUPLE, PICKLE_LIST,
    PICKLE_DICT, PICKLE_GLOBAL, PICKLE_STORAGE, PICKLE_TENSOR, PICKLE_OPAQUE, PICKLE_MARK
} pickle_kind;

typedef struct pickle_value pickle_value;
/* dict: key, value, key, value ... */
typedef struct pickle_items { pickle_value *at; uint64_t n, room; } pickle_items;
typedef struct pickle_storage {       /* what a persistent id names; the reader fills .storage              */
    const char   *key;
    conv_type     type;
    uint64_t      count;
    conv_storage *storage;
} pickle_storage;
struct pickle_value {
    pickle_kind kind;
    uint32_t    text_bytes;
    union {
        int64_t             i;        /* INT, BOOL, GLOBAL: index in pickle_globals                         */
        double              f;
        const char         *text;     /* TEXT (NUL-terminated), BYTES                                       */
        pickle_items       *items;
        pickle_storage     *storage;
        conv_tensor        *tensor;   /* without name; .storage is set when the storages are known          */
    } u;
};

typedef struct pickle_machine {
    conv_env      *env;
    const char    *path;              /* for messages                                                       */
    const uint8_t *in;
    uint64_t       bytes, at, ops;
    pickle_items   stack, memo, storages;
    conv_map       storage_index;
} pickle_machine;

#define PICKLE_MAX_OPS ((uint64_t)1 << 24)

/* ---- globals ------------------------------------------------------------------------------------------- */
typedef enum pickle_role { PICKLE_ORDERED_DICT, PICKLE_TENSOR_V2, PICKLE_PARAMETER, PICKLE_SIZE,
                           PICKLE_NOTHING, PICKLE_STORAGE_TYPE } pickle_role;
typedef struct pickle_global { const char *module, *name; pickle_role role; conv_type type; } pickle_global;
static const pickle_global pickle_globals[] = {
    { "collections", "OrderedDict", PICKLE_ORDERED_DICT, CONV_U8 },
    { "torch._utils", "_rebuild_tensor_v2", PICKLE_TENSOR_V2, CONV_U8 },
    { "torch._utils", "_rebuild_tensor", PICKLE_TENSOR_V2, CONV_U8 },
    { "torch._utils", "_rebuild_parameter", PICKLE_PARAMETER, CONV_U8 },
    { "torch._utils", "_rebuild_parameter_with_state", PICKLE_PARAMETER, CONV_U8 },
    { "torch", "Size", PICKLE_SIZE, CONV_U8 },
    { "torch", "device", PICKLE_NOTHING, CONV_U8 },
    { "_codecs", "encode", PICKLE_NOTHING, CONV_U8 },
    { "torch", "float32", PICKLE_NOTHING, CONV_U8 },
    { "torch", "float16", PICKLE_NOTHING, CONV_U8 },
    { "torch", "bfloat16", PICKLE_NOTHING, CONV_U8 },
    { "torch", "float64", PICKLE_NOTHING, CONV_U8 },
    { "torch", "int64", PICKLE_NOTHING, CONV_U8 },
    { "torch", "FloatStorage", PICKLE_STORAGE_TYPE, CONV_F32 },
    { "torch", "HalfStorage", PICKLE_STORAGE_TYPE, CONV_F16 },
    { "torch", "BFloat16Storage", PICKLE_STORAGE_TYPE, CONV_BF16 },
    { "torch", "DoubleStorage", PICKLE_STORAGE_TYPE, CONV_F64 },
    { "torch", "LongStorage", PICKLE_STORAGE_TYPE, CONV_I64 },
    { "torch", "IntStorage", PICKLE_STORAGE_TYPE, CONV_I32 },
    { "torch", "ShortStorage", PICKLE_STORAGE_TYPE, CONV_I16 },
    { "torch", "CharStorage", PICKLE_STORAGE_TYPE, CONV_I8 },
    { "torch", "ByteStorage", PICKLE_STORAGE_TYPE, CONV_U8 },
    { "torch", "BoolStorage", PICKLE_STORAGE_TYPE, CONV_BOOL }
};

/* ---- stack --------------------------------------------------------------------------------------------- */
static int pickle__fail(pickle_machine *m, const char *what)
{
    return conv_fail(m->env, "%s: pickle byte %llu: %s", m->path, (unsigned long long)m->at, what);
}

static int pickle__add(pickle_machine *m, pickle_items *list, const pickle_value *v)
{
    list->at = (pickle_value *)conv_grow(m->env, list->at, list->n, &list->room, sizeof *list->at);
    if (!list->at) { list->n = 0; return 0; }
    list->at[list->n++] = *v;
    return 1;
}

static int pickle__push(pickle_machine *m, pickle_kind kind, int64_t i)
{
    pickle_value v;
    memset(&v, 0, sizeof v);
    v.kind = kind;
    v.u.i = i;
    return pickle__add(m, &m->stack, &v);
}

/* The value `depth` below the top, if it is of that kind; NULL with an error.                              */
static pickle_value *pickle__peek(pickle_machine *m, uint64_t depth, pickle_kind kind)
{
    if (m->env->failed) return NULL;
    if (m->stack.n <= depth) { pickle__fail(m, "the stack is empty"); return NULL; }
    if (kind != PICKLE_MARK && m->stack.at[m->stack.n - 1 - depth].kind != kind) {
        pickle__fail(m, "an operand is of the wrong kind");
        return NULL;
    }
    return &m->stack.at[m->stack.n - 1 - depth];           /* kind PICKLE_MARK: any                         */
}

/* Position on the stack just above the topmost mark, or 0 with an error (position 0 cannot be above a
   mark).                                                                                                   */
static uint64_t pickle__mark(pickle_machine *m)
{
    for (uint64_t i = m->stack.n; i > 0; i--) {
        if (m->stack.at[i - 1].kind == PICKLE_MARK) return i;
    }
    pickle__fail(m, "there is no mark on the stack");
    return 0;
}

static int pickle__push_new_items(pickle_machine *m, pickle_kind kind)
{
    pickle_value v;
    memset(&v, 0, sizeof v);
    v.kind = kind;
    v.u.items = (pickle_items *)conv_alloc(m->env, 1, sizeof *v.u.items);
    return v.u.items && pickle__add(m, &m->stack, &v);
}

/* Moves the values from stack position `first` up into `list`.                                             */
static int pickle__take(pickle_machine *m, pickle_items *list, uint64_t first)
{
    for (uint64_t i = first; i < m->stack.n; i++) {
        if (m->stack.at[i].kind == PICKLE_MARK) return pickle__fail(m, "a mark stands among values");
        if (!pickle__add(m, list, &m->stack.at[i])) return 0;
    }
    m->stack.n = first;
    return 1;
}

/* A container of the values above position `first`; `drop` 1 removes the mark below it too.                */
static int pickle__collect(pickle_machine *m, pickle_kind kind, uint64_t first, uint64_t drop)
{
    pickle_items *list = (pickle_items *)conv_alloc(m->env, 1, sizeof *list);
    pickle_value v;
    if (!list || m->env->failed) return 0;
    if (kind == PICKLE_DICT && (m->stack.n - first) % 2)
        return pickle__fail(m, "a dictionary has a key without a value");
    if (!pickle__take(m, list, first)) return 0;
    m->stack.n -= drop;
    memset(&v, 0, sizeof v);
    v.kind = kind;
    v.u.items = list;
    return pickle__add(m, &m->stack, &v);
}

/* Appends the values from `first` on to the list or dictionary below them (below the mark when drop is 1). */
static int pickle__append(pickle_machine *m, pickle_kind kind, uint64_t first, uint64_t drop)
{
    pickle_value *target;
    if (m->env->failed) return 0;
    if (first < drop + 1) return pickle__fail(m, "the stack is empty");
    target = &m->stack.at[first - drop - 1];
    if (target->kind == PICKLE_OPAQUE) { m->stack.n = first - drop; return 1; }
    if (target->kind != kind)
        return pickle__fail(m, "values are added to something that is no list or dictionary");
    if (kind == PICKLE_DICT && (m->stack.n - first) % 2)
        return pickle__fail(m, "a dictionary has a key without a value");
    if (!pickle__take(m, target->u.items, first)) return 0;
    m->stack.n -= drop;
    return 1;
}

/* ---- input --------------------------------------------------------------------------------------------- */
/* n bytes of the pickle, or NULL with an error.                                                            */
static const uint8_t *pickle__bytes(pickle_machine *m, uint64_t n)
{
    const uint8_t *p = m->in + m->at;
    if (m->env->failed) return NULL;
    if (n > m->bytes - m->at) { pickle__fail(m, "the pickle ends inside a value"); return NULL; }
    m->at += n;
    return p;
}

/* An n-byte little-endian count, n <= 8.                                                                   */
static uint64_t pickle__count(pickle_machine *m, uint64_t n)
{
    const uint8_t *p = pickle__bytes(m, n);
    uint64_t v = 0;
    for (uint64_t i = 0; p && i < n; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static int pickle__push_text(pickle_machine *m, pickle_kind kind, uint64_t n)
{
    const uint8_t *p = pickle__bytes(m, n);
    pickle_value v;
    if (!p) return 0;
    if (n > UINT32_MAX) return pickle__fail(m, "a text is longer than 4 GiB");
    memset(&v, 0, sizeof v);
    v.kind = kind;
    v.text_bytes = (uint32_t)n;
    v.u.text = kind == PICKLE_TEXT ? conv_copy_text(m->env, p, (size_t)n) : (const char *)p;
    return pickle__add(m, &m->stack, &v);
}

/* A line without its end.                                                                                  */
static const char *pickle__line(pickle_machine *m)
{
    const uint64_t first = m->at;
    while (m->at < m->bytes && m->in[m->at] != '\n') m->at++;
    if (m->at == m->bytes) { pickle__fail(m, "the pickle ends inside a line"); return ""; }
    m->at++;
    return conv_copy_text(m->env, m->in + first, (size_t)(m->at - 1 - first));
}

static int pickle__push_long(pickle_machine *m, uint64_t n)
{
    const uint8_t *p;
    uint64_t v = 0;
    if (n > 8) return pickle__push_text(m, PICKLE_BYTES, n);   /* too large for int64: only compared        */
    p = pickle__bytes(m, n);
    if (!p) return 0;
    for (uint64_t i = 0; i < n; i++) v |= (uint64_t)p[i] << (8 * i);
    if (n > 0 && n < 8 && (p[n - 1] & 0x80)) v |= UINT64_MAX << (8 * n);
    return pickle__push(m, PICKLE_INT, (int64_t)v);
}

static int pickle__push_float(pickle_machine *m)
{
    const uint8_t *p = pickle__bytes(m, 8);
    uint8_t swapped[8];
    pickle_value v;
    if (!p) return 0;
    for (int i = 0; i < 8; i++) swapped[i] = p[7 - i];
    memset(&v, 0, sizeof v);
    v.kind = PICKLE_FLOAT;
    v.u.f = conv_f64(swapped);
    return pickle__add(m, &m->stack, &v);
}

static int pickle__push_global(pickle_machine *m, const char *module, const char *name)
{
    for (size_t i = 0; i < sizeof pickle_globals / sizeof *pickle_globals; i++) {
        if (strcmp(pickle_globals[i].module, module) == 0 && strcmp(pickle_globals[i].name, name) == 0)
            return pickle__push(m, PICKLE_GLOBAL, (int64_t)i);
    }
    return conv_fail(m->env, "%s: the pickle asks for %.80s.%.80s, which is not allowed in a checkpoint",
                     m->path, module, name);
}

/* ---- memo ---------------------------------------------------------------------------------------------- */
static int pickle__put(pickle_machine *m, uint64_t i)
{
    pickle_value *top = pickle__peek(m, 0, PICKLE_MARK), nothing;
    if (!top) return 0;
    if (i > m->memo.n + 1024) return pickle__fail(m, "a memo number is out of order");
    memset(&nothing, 0, sizeof nothing);
    nothing.kind = PICKLE_MARK;                        /* never fetched: pickle__get refuses it             */
    while (m->memo.n <= i) {
        if (!pickle__add(m, &m->memo, &nothing)) return 0;
    }
    m->memo.at[i] = *top;
    return 1;
}

static int pickle__get(pickle_machine *m, uint64_t i)
{
    if (m->env->failed) return 0;
    if (i >= m->memo.n || m->memo.at[i].kind == PICKLE_MARK)
        return pickle__fail(m, "a memo number was never set");
    return pickle__add(m, &m->stack, &m->memo.at[i]);
}

/* ---- tensors ------------------------------------------------------------------------------------------- */
/* ('storage', type, key, location, count[, view]) -> storage                                               */
static int pickle__persistent(pickle_machine *m)
{
    pickle_value *id = pickle__peek(m, 0, PICKLE_TUPLE), *at, v;
    pickle_storage *g;
    uint64_t known;
    if (!id) return 0;
    at = id->u.items->at;
    if (id->u.items->n < 5 || at[0].kind != PICKLE_TEXT || strcmp(at[0].u.text, "storage") != 0 ||
        at[1].kind != PICKLE_GLOBAL || pickle_globals[at[1].u.i].role != PICKLE_STORAGE_TYPE ||
        at[2].kind != PICKLE_TEXT || at[4].kind != PICKLE_INT ||
        at[4].u.i < 0)
        return pickle__fail(m, "a persistent id is not a tensor storage");
    if (id->u.items->n > 5 && at[5].kind != PICKLE_NONE)
        return pickle__fail(m, "storages that are views are not known");
    memset(&v, 0, sizeof v);
    v.kind = PICKLE_STORAGE;
    known = conv_map_find(&m->storage_index, at[2].u.text);
    if (known != UINT64_MAX) {
        v = m->storages.at[known];
        if (v.u.storage->type != pickle_globals[at[1].u.i].type || v.u.storage->count != (uint64_t)at[4].u.i)
            return conv_fail(m->env, "%s: storage %.100s has two types or sizes", m->path, v.u.storage->key);
    } else {
        g = (pickle_storage *)conv_alloc(m->env, 1, sizeof *g);
        if (!g) return 0;
        g->key = at[2].u.text;
        g->type = pickle_globals[at[1].u.i].type;
        g->count = (uint64_t)at[4].u.i;
        g->storage = conv_storage_new(m->env, g->key, NULL, conv_times(g->count, conv_types[g->type].bytes));
        v.u.storage = g;
        conv_map_add(m->env, &m->storage_index, g->key, m->storages.n);
        if (!g->storage || !pickle__add(m, &m->storages, &v)) return 0;
    }
    m->stack.at[m->stack.n - 1] = v;
    return 1;
}

/* (storage, offset, size, stride, ...) -> tensor                                                           */
static int pickle__tensor(pickle_machine *m, const pickle_items *args, pickle_value *result)
{
    const pickle_value *at = args->at;
    conv_tensor *t;
    uint64_t item;
    if (args->n < 4 || at[0].kind != PICKLE_STORAGE || at[1].kind != PICKLE_INT ||
        at[2].kind != PICKLE_TUPLE || at[3].kind != PICKLE_TUPLE ||
        at[1].u.i < 0)
        return pickle__fail(m, "a tensor is built from the wrong arguments");
    if (at[2].u.items->n > CONV_MAX_DIMS || at[2].u.items->n != at[3].u.items->n)
        return pickle__fail(m, "a tensor has too many dimensions, or not a stride for each");
    t = (conv_tensor *)conv_alloc(m->env, 1, sizeof *t);
    if (!t) return 0;
    t->type = at[0].u.storage->type;
    t->storage = at[0].u.storage->storage;
    t->ndim = (int32_t)at[2].u.items->n;
    item = conv_times((uint64_t)at[1].u.i, conv_types[t->type].bytes);
    t->first = item;
    for (int32_t i = 0; i < t->ndim; i++) {
        const pickle_value *size = &at[2].u.items->at[i], *stride = &at[3].u.items->at[i];
        if (size->kind != PICKLE_INT || stride->kind != PICKLE_INT || size->u.i < 0 || stride->u.i < 0)
            return pickle__fail(m, "a size or stride of a tensor is not a whole number >= 0");
        t->shape[i] = size->u.i;
        t->stride[i] = stride->u.i;
    }
    result->kind = PICKLE_TENSOR;
    result->u.tensor = t;
    return 1;
}

/* OrderedDict() or OrderedDict([[key, value], ...]) -> dictionary                                          */
static int pickle__ordered_dict(pickle_machine *m, const pickle_items *args, pickle_value *result)
{
    pickle_items *dict = (pickle_items *)conv_alloc(m->env, 1, sizeof *dict);
    if (!dict) return 0;
    if (args->n > 1 || (args->n == 1 && args->at[0].kind != PICKLE_LIST))
        return pickle__fail(m, "an OrderedDict is built from the wrong arguments");
    for (uint64_t i = 0; args->n == 1 && i < args->at[0].u.items->n; i++) {
        const pickle_value *pair = &args->at[0].u.items->at[i];
        if ((pair->kind != PICKLE_LIST && pair->kind != PICKLE_TUPLE) || pair->u.items->n != 2)
            return pickle__fail(m, "an OrderedDict is built from something that is no pair");
        if (!pickle__add(m, dict, &pair->u.items->at[0]) || !pickle__add(m, dict, &pair->u.items->at[1]))
            return 0;
    }
    result->kind = PICKLE_DICT;
    result->u.items = dict;
    return 1;
}

/* callable, arguments -> result, for the callables of pickle_globals only                                  */
static int pickle__reduce(pickle_machine *m)
{
    pickle_value *args = pickle__peek(m, 0, PICKLE_TUPLE), *global = pickle__peek(m, 1, PICKLE_GLOBAL);
    pickle_value result;
    int ok = 1;
    if (!args || !global) return 0;
    memset(&result, 0, sizeof result);
    result.kind = PICKLE_OPAQUE;
    switch (pickle_globals[global->u.i].role) {
    case PICKLE_ORDERED_DICT: ok = pickle__ordered_dict(m, args->u.items, &result); break;
    case PICKLE_TENSOR_V2:    ok = pickle__tensor(m, args->u.items, &result); break;
    case PICKLE_PARAMETER:
    case PICKLE_SIZE:
        if (args->u.items->n == 0) return pickle__fail(m, "a call has no arguments");
        result = args->u.items->at[0];
        break;
    case PICKLE_NOTHING: break;
    case PICKLE_STORAGE_TYPE: return pickle__fail(m, "a storage type is called");
    }
    if (!ok) return 0;
    m->stack.n -= 2;
    return pickle__add(m, &m->stack, &result);
}

/* ---- the machine --------------------------------------------------------------------------------------- */
static int pickle__stack_global(pickle_machine *m)
{
    pickle_value *name = pickle__peek(m, 0, PICKLE_TEXT), *module = pickle__peek(m, 1, PICKLE_TEXT);
    if (!name || !module) return 0;
    m->stack.n -= 2;
    return pickle__push_global(m, module->u.text, name->u.text);
}

static int pickle__text_op(pickle_machine *m, uint8_t op)
{
    switch (op) {
    case 0x8c: return pickle__push_text(m, PICKLE_TEXT, pickle__count(m, 1));      /* SHORT_BINUNICODE      */
    case 'X':  return pickle__push_text(m, PICKLE_TEXT, pickle__count(m, 4));      /* BINUNICODE            */
    case 0x8d: return pickle__push_text(m, PICKLE_TEXT, pickle__count(m, 8));      /* BINUNICODE8           */
    /* SHORT_BINSTRING (Python 2) */
    case 'U':  return pickle__push_text(m, PICKLE_TEXT, pickle__count(m, 1));
    case 'T':  return pickle__push_text(m, PICKLE_TEXT, pickle__count(m, 4));      /* BINSTRING             */
    case 'C':  return pickle__push_text(m, PICKLE_BYTES, pickle__count(m, 1));     /* SHORT_BINBYTES        */
    case 'B':  return pickle__push_text(m, PICKLE_BYTES, pickle__count(m, 4));     /* BINBYTES              */
    case 0x8e: return pickle__push_text(m, PICKLE_BYTES, pickle__count(m, 8));     /* BINBYTES8             */
    default:   return pickle__fail(m, "unknown operation");
    }
}

static int pickle__number_op(pickle_machine *m, uint8_t op)
{
    switch (op) {
    case 'N':  return pickle__push(m, PICKLE_NONE, 0);
    case 0x88: return pickle__push(m, PICKLE_BOOL, 1);
    case 0x89: return pickle__push(m, PICKLE_BOOL, 0);
    case 'K':  return pickle__push(m, PICKLE_INT, (int64_t)pickle__count(m, 1));
    case 'M':  return pickle__push(m, PICKLE_INT, (int64_t)pickle__count(m, 2));
    case 'J':  return pickle__push(m, PICKLE_INT, (int32_t)(uint32_t)pickle__count(m, 4));
    case 0x8a: return pickle__push_long(m, pickle__count(m, 1));
    case 0x8b: return pickle__push_long(m, pickle__count(m, 4));
    case 'G':  return pickle__push_float(m);
    default:   return pickle__text_op(m, op);
    }
}

static int pickle__container_op(pickle_machine *m, uint8_t op)
{
    const uint64_t n = m->stack.n;
    uint64_t mark;
    switch (op) {
    case '(':  return pickle__push(m, PICKLE_MARK, 0);
    case ')':  return pickle__push_new_items(m, PICKLE_TUPLE);
    case ']':  return pickle__push_new_items(m, PICKLE_LIST);
    case '}':  return pickle__push_new_items(m, PICKLE_DICT);
    case 't':  mark = pickle__mark(m); return mark && pickle__collect(m, PICKLE_TUPLE, mark, 1);
    case 'l':  mark = pickle__mark(m); return mark && pickle__collect(m, PICKLE_LIST, mark, 1);
    case 'd':  mark = pickle__mark(m); return mark && pickle__collect(m, PICKLE_DICT, mark, 1);
    case 0x85:
    case 0x86:
    case 0x87:
        if (n < (uint64_t)(op - 0x84)) return pickle__fail(m, "the stack is empty");
        return pickle__collect(m, PICKLE_TUPLE, n - (uint64_t)(op - 0x84), 0);
    case 'a':  return n ? pickle__append(m, PICKLE_LIST, n - 1, 0) : pickle__fail(m, "the stack is empty");
    case 's':
        return n > 1 ? pickle__append(m, PICKLE_DICT, n - 2, 0) : pickle__fail(m, "the stack is empty");
    case 'e':  mark = pickle__mark(m); return mark && pickle__append(m, PICKLE_LIST, mark, 1);
    case 'u':  mark = pickle__mark(m); return mark && pickle__append(m, PICKLE_DICT, mark, 1);
    default:   return pickle__number_op(m, op);
    }
}

static int pickle__op(pickle_machine *m, uint8_t op)
{
    const char *module;
    switch (op) {
    case 0x80:                                         /* PROTO                                             */
        return pickle__count(m, 1) <= 5 ? !m->env->failed : pickle__fail(m, "a newer pickle protocol than 5");
    case 0x95: pickle__count(m, 8); return !m->env->failed;     /* FRAME                                    */
    case 'q':  return pickle__put(m, pickle__count(m, 1));
    case 'r':  return pickle__put(m, pickle__count(m, 4));
    case 0x94: return pickle__put(m, m->memo.n);
    case 'h':  return pickle__get(m, pickle__count(m, 1));
    case 'j':  return pickle__get(m, pickle__count(m, 4));
    case 'c':
        module = pickle__line(m);
        return pickle__push_global(m, module, pickle__line(m));
    case 0x93: return pickle__stack_global(m);
    case 'Q':  return pickle__persistent(m);
    case 'R':
    case 0x81: return pickle__reduce(m);               /* REDUCE, NEWOBJ                                    */
    /* BUILD: attributes of a dictionary or tensor do not matter */
    case 'b':
        if (!pickle__peek(m, 1, PICKLE_MARK)) return 0;
        m->stack.n--;
        return 1;
    case '0':
        if (!pickle__peek(m, 0, PICKLE_MARK)) return 0;
        m->stack.n--;
        return 1;
    default:   return pickle__container_op(m, op);
    }
}

/* Runs one pickle from m->at to its STOP; the memo starts empty. *result is what it built.                 */
static CONV_UNUSED int pickle_run(pickle_machine *m, pickle_value *result)
{
    m->stack.n = 0;
    m->memo.n = 0;
    for (;;) {
        const uint8_t *op = pickle__bytes(m, 1);
        if (!op) return 0;
        if (++m->ops > PICKLE_MAX_OPS) return pickle__fail(m, "too many operations for a checkpoint");
        if (*op == '.') break;
        if (!pickle__op(m, *op)) {
            if (!m->env->failed) pickle__fail(m, "out of memory");
            return 0;
        }
    }
    if (m->stack.n != 1 || m->stack.at[0].kind == PICKLE_MARK)
        return pickle__fail(m, "it does not build one value");
    *result = m->stack.at[0];
    return 1;
}

#endif /* CONV_PICKLE_H_INCLUDED */
