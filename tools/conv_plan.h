/* conv_plan.h: what a mapping writes: recipe lines, and tensors of the output as views of tensors of the
   checkpoint.

   A mapping (arch/) runs once, reads the configuration, and calls these functions in the order in which
   the model uses its weights. Nothing is copied yet: conv_write.h streams the tensors afterwards. After
   the first error all functions do nothing, so mappings need no checks of their own.                       */
#ifndef CONV_PLAN_H_INCLUDED
#define CONV_PLAN_H_INCLUDED
#include "conv_source.h"
#include "conv_gguf.h"
#include "json.h"

/* A matrix [rows, cols] (a vector: cols 1) made of rows of a checkpoint tensor: row i = source row first +
   i / block * stride + i % block, or source column when transposed, of cols source rows from `top` on;
   value * scale + add.                                                                                     */
typedef struct conv_view {
    conv_tensor *tensor;              /* NULL after an error                                                */
    int64_t      rows, cols, first, block, stride, top;
    int32_t      transposed, vector;
    double       scale, add;
} conv_view;

typedef enum conv_role {              /* decides the output type under -t                                   */
    CONV_MATRIX,                      /* weight of a linear map                                             */
    CONV_TABLE,                       /* token embedding, head                                              */
    CONV_POSITIONS,                   /* learned positions                                                  */
    CONV_ROUTER,                      /* small linear maps whose results decide; neither is ever quantised  */
    CONV_VECTOR,                      /* norm weights, biases, frequencies: always float32                  */
    CONV_ROWS                         /* small matrices in rows: convolution kernels; always float32        */
} conv_role;

typedef struct conv_out {             /* one tensor of the output                                           */
    const char      *name;
    conv_role        role;
    int32_t          rows, cols, n_parts;
    const conv_view *parts;           /* one above the other                                                */
    const float     *values;          /* instead of parts: numbers computed by the mapping                  */
    int32_t          exact;           /* always float32, whatever -t says                                   */
} conv_out;

typedef struct conv {
    conv_env         *env;
    conv_source       source;
    const char       *architecture;   /* model_type of config.json, general.architecture of GGUF            */
    const json_value *config;         /* NULL: a GGUF or llama2.c file                                      */
    uint8_t          *config_seen;    /* by member of config                                                */
    gguf_file        *gguf;
    const char *labels;               /* of the output's columns, one a line; NULL: none                    */
    const char *const *ignored;       /* NULL-terminated patterns of tensors that may stay unused           */
    conv_out         *outs;
    uint64_t          n_outs, outs_room;
    conv_map          out_index;
    char             *recipe;
    size_t            recipe_bytes, recipe_room;
    const char       *rope_extra;     /* a rope parameter that the mapping reads itself                     */
    int32_t           max_context;    /* positions that the configuration names                             */
    int32_t           experts;        /* the mapping takes a GGUF file's experts                            */
    const char       *out_part;       /* of a layer of several parts: "1." in the names of its tensors      */
    int32_t           unlimited;      /* positions beyond them are meant to work (dynamic rope)             */
} conv;

/* ---- recipe text --------------------------------------------------------------------------------------- */
static int conv__recipe_add(conv *c, const char *text, size_t n)
{
    if (c->env->failed) return 0;
    if (n + 1 > c->recipe_room - c->recipe_bytes) {
        const size_t room = (c->recipe_room + n) * 2 + 4096;
        char *more = (char *)conv_alloc(c->env, room, 1);
        if (!more) return 0;
        if (c->recipe_bytes) memcpy(more, c->recipe, c->recipe_bytes);
        c->recipe = more;
        c->recipe_room = room;
    }
    memcpy(c->recipe + c->recipe_bytes, text, n);
    c->recipe_bytes += n;
    c->recipe[c->recipe_bytes] = 0;
    return 1;
}

/* Adds text to the line being written; conv_line ends it.                                                  */
CONV_PRINTF(2, 3) static void conv_put(conv *c, const char *format, ...)
{
    char text[1024];
    va_list args;
    int n;
    va_start(args, format);
    n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof text) { conv_fail(c->env, "a recipe line is too long"); return; }
    conv__recipe_add(c, text, (size_t)n);
}

CONV_PRINTF(2, 3) static void conv_line(conv *c, const char *format, ...)
{
    char text[1024];
    va_list args;
    int n;
    va_start(args, format);
    n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof text) { conv_fail(c->env, "a recipe line is too long"); return; }
    conv__recipe_add(c, text, (size_t)n);
    conv__recipe_add(c, "\n", 1);
}

/* The shortest text that reads back as the same double.                                                    */
static CONV_UNUSED const char *conv_real(conv *c, double v)
{
    char text[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    return conv_copy_text(c->env, text, strlen(text));
}

/* " key=value" when the value is not what the recipe takes for granted.                                    */
static CONV_UNUSED void conv_put_real(conv *c, const char *key, double v, double usual)
{
    if (v != usual) conv_put(c, " %s=%s", key, conv_real(c, v));
}

/* ---- tensors of the checkpoint ------------------------------------------------------------------------- */
static CONV_UNUSED int conv_has(const conv *c, const char *name)
{
    return conv_source_find(&c->source, name) != NULL;
}

/* The whole of a tensor that must have shape [rows, cols], or [rows] when cols is 0. The leading sizes of
   a tensor of more dimensions count as rows: [2, 3, cols] is taken as [6, cols].                           */
static CONV_UNUSED conv_view conv_take(conv *c, const char *name, int64_t rows, int64_t cols)
{
    conv_view v;
    conv_tensor *t = c->env->failed ? NULL : conv_source_find(&c->source, name);
    int64_t expected[2], found_rows = 1;
    memset(&v, 0, sizeof v);
    v.scale = 1.0;
    v.block = v.stride = v.rows = rows;
    v.cols = cols ? cols : 1;
    v.vector = cols == 0;
    if (!t) { conv_fail(c->env, "tensor %.200s is missing in the checkpoint", name); return v; }
    t->used = 1;
    while (cols > 1 && t->ndim > 2 && t->shape[t->ndim - 1] == 1) t->ndim--;  /* convolution over one row   */
    for (int32_t i = 0; i + 1 < t->ndim; i++) found_rows *= t->shape[i];   /* fits: see conv_source_add     */
    expected[0] = rows;
    expected[1] = cols;
    if (v.vector ? t->ndim != 1 || t->shape[0] != rows : t->ndim < 2 || found_rows != rows ||
        t->shape[t->ndim - 1] != cols) {
        conv_fail(c->env, "tensor %.200s has shape %s, expected %s", name,
                  conv_shape_text(c->env, t->shape, t->ndim),
                  conv_shape_text(c->env, expected, v.vector ? 1 : 2));
        return v;
    }
    v.tensor = t;
    return v;
}

/* A buffer of at least `bytes`; after an error the old one.                                                */
static CONV_UNUSED void *conv_room(conv *c, void *buffer, uint64_t *room, uint64_t bytes)
{
    void *more;
    if (bytes <= *room) return buffer;
    more = bytes <= SIZE_MAX ? realloc(buffer, (size_t)bytes) : NULL;
    if (!more) { conv_fail(c->env, "out of memory: %llu bytes", (unsigned long long)bytes); return buffer; }
    *room = bytes;
    return more;
}

/* Row `row` of a quantised tensor is read by packing it alone into a panel (*panel, *room bytes), which the
   library can read.                                                                                        */
static CONV_UNUSED int conv_ggml_row(conv *c, float *dst, const conv_tensor *t, const uint8_t *data,
                                     int64_t row, uint8_t **panel, uint64_t *room)
{
    const uint8_t *blocks = data + row * (int64_t)t->row_bytes;
    const int32_t cols = (int32_t)t->shape[t->ndim - 1];
    sqm_dtype type;
    sqm_error err;
    sqm_tensor packed;
    size_t bytes = 0;
    if (sqm_pack_ggml(NULL, &bytes, &type, t->ggml_type, NULL, 0, 1, cols, &err) != SQM_OK)
        return conv_fail(c->env, "tensor %.200s: %s", t->name, err.text);
    *panel = (uint8_t *)conv_room(c, *panel, room, bytes);
    if (c->env->failed) return 0;
    sqm_pack_ggml(*panel, &bytes, &type, t->ggml_type, blocks, t->row_bytes, 1, cols, &err);
    packed = sqm_tensor_2d(*panel, type, SQM_PANELS, 1, cols);
    if (sqm_tensor_row(dst, &packed, 0, &err) == SQM_OK) return 1;
    return conv_fail(c->env, "tensor %.200s: %s", t->name, err.text);
}

/* n values of a tensor in rows of its last dimension.                                                      */
static void conv__read_rows(conv *c, float *values, const conv_tensor *t, const uint8_t *data, int64_t n)
{
    const int64_t inner = t->ndim ? t->shape[t->ndim - 1] : 1, size = conv_types[t->type].bytes;
    const int64_t step = (t->ndim ? t->stride[t->ndim - 1] : 1) * size;
    uint8_t *panel = NULL;
    uint64_t room = 0;
    for (int64_t row = 0; row * inner < n && !c->env->failed; row++) {
        float *to = values + row * inner;
        if (t->type == CONV_GGML) conv_ggml_row(c, to, t, data, row, &panel, &room);
        else conv_values(to, data + conv_row_offset(t, row) * size, inner, step, t->type);
    }
    free(panel);
}

/* All n values of a tensor of any shape, outermost dimension first, for a mapping that computes with them.
   NULL after an error.                                                                                     */
static CONV_UNUSED float *conv_read(conv *c, const char *name, int64_t n)
{
    conv_tensor *t = c->env->failed ? NULL : conv_source_find(&c->source, name);
    const uint8_t *data;
    uint64_t found = 1;
    int64_t inner, across;
    float *values;
    if (!t) { conv_fail(c->env, "tensor %.200s is missing in the checkpoint", name); return NULL; }
    t->used = 1;
    for (int32_t i = 0; i < t->ndim; i++) found = conv_times(found, (uint64_t)t->shape[i]);
    if (t->type == CONV_MXFP4)
        conv_fail(c->env, "tensor %.200s is quantised where it cannot be", name);
    if (n < 1 || found != (uint64_t)n)
        conv_fail(c->env, "tensor %.200s has shape %s, expected %lld values", name,
                  conv_shape_text(c->env, t->shape, t->ndim), (long long)n);
    data = conv_tensor_data(&c->source, t);
    values = (float *)conv_alloc(c->env, (uint64_t)n, sizeof(float));
    if (!data || !values) return NULL;
    conv__read_rows(c, values, t, data, n);
    if (t->block_scales) {                             /* see conv_fp8.h                                    */
        inner = t->shape[1];
        across = (inner + t->block_cols - 1) / t->block_cols;
        for (int64_t i = 0; i < n; i++)
            values[i] *= t->block_scales[i / inner / t->block_rows * across + i % inner / t->block_cols];
    }
    return c->env->failed ? NULL : values;
}

/* A whole matrix as one vector, row after row.                                                             */
static CONV_UNUSED conv_view conv_flat(conv_view v)
{
    v.rows *= v.cols;
    v.cols = 1;
    v.block = v.stride = v.rows;
    v.vector = 1;
    return v;
}

/* Rows first, first + 1 ... of a view of rows that follow one another, in blocks of `block` rows that start
   `stride` rows apart; count rows in all.                                                                  */
static CONV_UNUSED conv_view conv_rows(conv *c, conv_view v, int64_t first, int64_t block, int64_t stride,
                                       int64_t count)
{
    if (!v.tensor) return v;
    if (v.block != v.rows || first < 0 || block < 1 || count < 1 || count % block ||
        first + (count / block - 1) * stride + block > v.rows) {
        conv_fail(c->env, "tensor %.200s: rows %lld and on cannot be taken from its %lld rows",
                  v.tensor->name, (long long)first, (long long)v.rows);
        v.tensor = NULL;
        return v;
    }
    v.first += first;
    v.block = block;
    v.stride = stride;
    v.rows = count;
    return v;
}

/* The view of a matrix stored [in, out] as [out, in]; of rows that follow one another.                     */
static CONV_UNUSED conv_view conv_transposed(conv_view v)
{
    const int64_t rows = v.rows;
    v.top = v.first;
    v.first = 0;
    v.rows = v.cols;
    v.cols = rows;
    v.block = v.stride = v.rows;
    v.transposed = !v.transposed;
    return v;
}

static CONV_UNUSED conv_view conv_plus(conv_view v, double add) { v.add += add; return v; }

/* ---- tensors of the output ----------------------------------------------------------------------------- */
static conv_out *conv__new_out(conv *c, const char *name, conv_role role, int64_t rows, int64_t cols)
{
    conv_out *o;
    if (c->env->failed) return NULL;
    if (rows < 1 || cols < 1 || rows > INT32_MAX || cols > INT32_MAX) {
        conv_fail(c->env, "output tensor %.100s would have %lld rows and %lld columns", name, (long long)rows,
                  (long long)cols);
        return NULL;
    }
    c->outs = (conv_out *)conv_grow(c->env, c->outs, c->n_outs, &c->outs_room, sizeof *c->outs);
    if (!c->outs) return NULL;
    o = &c->outs[c->n_outs];
    memset(o, 0, sizeof *o);
    o->name = conv_copy_text(c->env, name, strlen(name));
    o->role = role;
    o->rows = (int32_t)rows;
    o->cols = (int32_t)cols;
    if (!conv_map_add(c->env, &c->out_index, o->name, c->n_outs)) {
        conv_fail(c->env, "the mapping makes tensor %.100s twice", name);
        return NULL;
    }
    c->n_outs++;
    return o;
}

/* One output tensor of several views above each other, all with the same columns. Returns its name for the
   recipe.                                                                                                  */
static CONV_UNUSED const char *conv_stack(conv *c, const char *name, conv_role role, const conv_view *parts,
                                          int32_t n)
{
    conv_out *o;
    conv_view *copy;
    int64_t rows = 0;
    for (int32_t i = 0; i < n; i++) {
        if (!parts[i].tensor) return name;             /* an error was raised                               */
        rows += parts[i].rows;
        if (parts[i].cols != parts[0].cols) {
            conv_fail(c->env, "output tensor %.100s is made of parts of %lld and %lld columns", name,
                      (long long)parts[0].cols, (long long)parts[i].cols);
            return name;
        }
    }
    copy = (conv_view *)conv_alloc(c->env, (uint64_t)n, sizeof *copy);
    o = conv__new_out(c, name, role, rows, parts[0].cols);
    if (!o || !copy) return name;
    memcpy(copy, parts, (size_t)n * sizeof *copy);
    o->parts = copy;
    o->n_parts = n;
    return o->name;
}

static CONV_UNUSED const char *conv_make(conv *c, const char *name, conv_role role, conv_view v)
{
    return conv_stack(c, name, role, &v, 1);
}

/* A float32 vector of numbers that the mapping computed; they are kept by pointer.                         */
static CONV_UNUSED const char *conv_make_values(conv *c, const char *name, const float *values, int32_t n)
{
    conv_out *o = conv__new_out(c, name, CONV_VECTOR, n, 1);
    if (!o) return name;
    o->values = values;
    return o->name;
}

/* The same as a matrix in rows.                                                                            */
static CONV_UNUSED const char *conv_make_rows(conv *c, const char *name, const float *values, int32_t rows,
                                              int32_t cols)
{
    conv_out *o = conv__new_out(c, name, CONV_ROWS, rows, cols);
    if (!o) return name;
    o->values = values;
    return o->name;
}

/* The same as a matrix in panels: always float32, whatever -t says.                                        */
static CONV_UNUSED const char *conv_make_panels(conv *c, const char *name, const float *values, int32_t rows,
                                                int32_t cols)
{
    conv_out *o = conv__new_out(c, name, CONV_MATRIX, rows, cols);
    if (!o) return name;
    o->values = values;
    o->exact = 1;
    return o->name;
}

/* A computed weight of a linear map, in the type of such weights.                                          */
static CONV_UNUSED const char *conv_make_matrix(conv *c, const char *name, const float *values, int32_t rows,
                                                int32_t cols)
{
    conv_out *o = conv__new_out(c, name, CONV_MATRIX, rows, cols);
    if (!o) return name;
    o->values = values;
    return o->name;
}

/* linear rD rS of a block-diagonal map: values [groups][in][out], a matrix NAME.g each */
static CONV_UNUSED void conv_put_diagonal(conv *c, int dst, int src, const char *name, const float *values,
                                          int32_t groups, int32_t in, int32_t out)
{
    const int64_t n = (int64_t)in * out;
    conv_put(c, "linear r%d r%d apart=1 w=", dst, src);
    for (int32_t g = 0; g < groups && !c->env->failed; g++) {
        float *w = (float *)conv_alloc(c->env, (uint64_t)n, sizeof *w);
        for (int64_t i = 0; values && w && i < n; i++) w[i] = values[g * n + i % in * out + i / in];
        conv_put(c, "%s@%s", g ? "," : "",
                 conv_make_matrix(c, conv_format(c->env, "%s.%d", name, (int)g), w, out, in));
    }
    conv_line(c, "%s", "");
}

static CONV_UNUSED int conv_made(const conv *c, const char *name)
{
    return conv_map_find(&c->out_index, name) != UINT64_MAX;
}

/* ---- what must not stay unused ------------------------------------------------------------------------- */
/* Shell-like pattern: * is any text.                                                                       */
static int conv__matches(const char *pattern, const char *text)
{
    const char *star = NULL, *resume = NULL;
    while (*text) {
        if (*pattern == '*') { star = pattern++; resume = text; }
        else if (*pattern == *text) { pattern++; text++; }
        else if (star) { pattern = star + 1; text = ++resume; }
        else return 0;
    }
    while (*pattern == '*') pattern++;
    return *pattern == 0;
}

static CONV_UNUSED int conv_check_unused_tensors(conv *c)
{
    static const char *const always[] = { "*rotary_emb.inv_freq", "*.rotary_emb.cos_cached",
                                          "*.rotary_emb.sin_cached", NULL };
    for (uint64_t i = 0; !c->env->failed && i < c->source.n; i++) {
        const conv_tensor *t = &c->source.tensors[i];
        int ignored = t->used;
        for (int k = 0; !ignored && always[k]; k++) ignored = conv__matches(always[k], t->name);
        for (int k = 0; !ignored && c->ignored && c->ignored[k]; k++)
            ignored = conv__matches(c->ignored[k], t->name);
        if (!ignored)
            return conv_fail(c->env, "tensor %.200s of shape %s is in the checkpoint, but architecture %.40s "
                             "has no use for it", t->name, conv_shape_text(c->env, t->shape, t->ndim),
                             c->architecture);
    }
    return !c->env->failed;
}

#endif /* CONV_PLAN_H_INCLUDED */
