/* conv_write.h: streams a plan (conv_plan.h) through the sqm writer, a few rows at a time, so that models
   larger than memory can be converted. Needs the implementation part of seqmodel.h.                        */
#ifndef CONV_WRITE_H_INCLUDED
#define CONV_WRITE_H_INCLUDED
#include "convert_api.h"
#include "conv_plan.h"

typedef struct conv_writer {
    conv       *c;
    sqm_writer *w;
    conv_target target;
    float      *rows;                 /* some rows of values                                                */
    uint8_t    *raw, *packed;         /* the same rows as blocks; panels                                    */
    uint64_t    rows_room, raw_room, packed_room;
    void      (*progress)(void *user, uint64_t done, uint64_t all);
    void       *progress_user;
} conv_writer;

/* ---- choice of the output type ------------------------------------------------------------------------- */
/* Are the values those of the checkpoint, row by row?                                                      */
static int conv__is_plain(const conv_out *o)
{
    for (int32_t i = 0; i < o->n_parts; i++) {
        const conv_view *v = &o->parts[i];
        if (v->scale != 1.0 || v->add != 0.0) return 0;
        if (v->tensor->type != o->parts[0].tensor->type ||
            v->tensor->ggml_type != o->parts[0].tensor->ggml_type)
            return 0;
        if (v->tensor->type == CONV_GGML && (v->transposed || v->vector)) return 0;
        if (v->tensor->block_scales) return 0;
    }
    return o->n_parts > 0;
}

/* Type that keeps the checkpoint's values exactly.                                                         */
static int conv__kept_type(conv *c, const conv_out *o, sqm_dtype *type)
{
    const conv_tensor *t = o->n_parts ? o->parts[0].tensor : NULL;
    sqm_error err;
    size_t bytes = 0;
    *type = SQM_F32;
    if (!t || !conv__is_plain(o)) return 1;
    if (t->type == CONV_F16) *type = SQM_F16;
    if (t->type == CONV_BF16 || t->type == CONV_MXFP4) *type = SQM_BF16;
    if (t->type != CONV_GGML) return 1;
    if (sqm_pack_ggml(NULL, &bytes, type, t->ggml_type, NULL, 0, o->rows, o->cols, &err) != SQM_OK)
        return conv_fail(c->env, "tensor %.200s: %s", t->name, err.text);
    return 1;
}

/* *exact: the blocks of the checkpoint are only re-arranged.                                               */
static int conv__out_type(conv *c, const conv_out *o, conv_target target, sqm_dtype *type, int *exact)
{
    const int fine = o->role == CONV_POSITIONS || o->role == CONV_ROUTER;
    sqm_dtype kept = SQM_F32;
    *exact = 0;
    *type = SQM_F32;
    if (o->role == CONV_VECTOR || o->role == CONV_ROWS) return 1;
    if (!conv__kept_type(c, o, &kept)) return 0;
    switch (target) {
    case CONV_TO_F32:  *type = SQM_F32; break;
    case CONV_TO_F16:  *type = SQM_F16; break;
    case CONV_TO_BF16: *type = SQM_BF16; break;
    case CONV_TO_Q8:   *type = fine ? SQM_F16 : SQM_Q8; break;
    case CONV_TO_Q4:   *type = fine ? SQM_F16 : o->role == CONV_TABLE ? SQM_Q8 : SQM_Q4; break;
    case CONV_KEEP:    *type = kept; break;
    }
    if (o->exact) *type = SQM_F32;                     /* small and delicate                                */
    *exact = o->n_parts && o->parts[0].tensor->type == CONV_GGML && conv__is_plain(o) && *type == kept;
    return 1;
}

/* ---- rows of an output tensor -------------------------------------------------------------------------- */
/* The part that holds row i, and the row in the checkpoint's tensor.                                       */
static const conv_view *conv__find_row(const conv_out *o, int64_t i, int64_t *source_row)
{
    const conv_view *v = o->parts;
    while (i >= v->rows) { i -= v->rows; v++; }
    *source_row = v->first + i / v->block * v->stride + i % v->block;
    return v;
}

/* Values of row r (counted in the checkpoint's tensor; its column when transposed).                        */
static int conv__source_row(conv_writer *k, float *dst, const conv_view *v, int64_t row)
{
    const conv_tensor *t = v->tensor;
    const uint8_t *data = conv_tensor_data(&k->c->source, t);
    const int64_t size = conv_types[t->type].bytes, inner = t->ndim ? t->stride[t->ndim - 1] : 1;
    if (!data) return 0;
    if (t->type == CONV_GGML || t->type == CONV_MXFP4) {
        if (v->transposed || v->vector)
            return conv_fail(k->c->env, "tensor %.200s is quantised where it cannot be", t->name);
        if (t->type == CONV_MXFP4) conv_mxfp4_row(dst, data, t, row);
        else if (!conv_ggml_row(k->c, dst, t, data, row, &k->packed, &k->packed_room)) return 0;
    } else if (t->block_scales) {
        const int64_t across = (t->shape[1] + t->block_cols - 1) / t->block_cols;
        const float *scales = t->block_scales + row / t->block_rows * across;
        if (v->transposed || v->vector)
            return conv_fail(k->c->env, "tensor %.200s is quantised where it cannot be", t->name);
        conv_values(dst, data + row * t->stride[0] * size, v->cols, inner * size, t->type);
        for (int64_t i = 0; i < v->cols; i++) dst[i] *= scales[i / t->block_cols];
    } else if (v->vector) {                            /* element `row` in row-major order                  */
        const int64_t n = t->ndim ? t->shape[t->ndim - 1] : 1;
        conv_values(dst, data + (conv_row_offset(t, row / n) + row % n * inner) * size, 1, size, t->type);
    } else if (v->transposed) {                        /* column `row` of rows in the last two dimensions   */
        conv_values(dst, data + (conv_row_offset(t, v->top) + row * inner) * size, v->cols,
                    t->stride[t->ndim - 2] * size, t->type);
    } else {
        conv_values(dst, data + conv_row_offset(t, row) * size, v->cols, inner * size, t->type);
    }
    if (v->scale != 1.0 || v->add != 0.0) {
        for (int64_t i = 0; i < v->cols; i++) dst[i] = (float)((double)dst[i] * v->scale + v->add);
    }
    return 1;
}

/* Rows [first, first + n) as float32 in k->rows.                                                           */
static int conv__fetch(conv_writer *k, const conv_out *o, int64_t first, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        int64_t row = 0;
        const conv_view *v;
        if (o->values) {
            memcpy(k->rows + i * o->cols, o->values + (first + i) * o->cols, (size_t)o->cols * sizeof(float));
            continue;
        }
        v = conv__find_row(o, first + i, &row);
        if (!conv__source_row(k, k->rows + i * o->cols, v, row)) return 0;
    }
    return 1;
}

/* Rows [first, first + n) as blocks in k->raw.                                                             */
static int conv__fetch_blocks(conv_writer *k, const conv_out *o, int64_t first, int64_t n)
{
    const size_t row_bytes = o->parts[0].tensor->row_bytes;
    for (int64_t i = 0; i < n; i++) {
        int64_t row = 0;
        const conv_view *v = conv__find_row(o, first + i, &row);
        const uint8_t *data = conv_tensor_data(&k->c->source, v->tensor);
        if (!data) return 0;
        memcpy(k->raw + (size_t)i * row_bytes, data + (size_t)row * row_bytes, row_bytes);
    }
    return 1;
}

/* Values that the output type cannot hold are an error, not infinity.                                      */
static int conv__check_range(conv_writer *k, const conv_out *o, int64_t n, sqm_dtype type)
{
    const float limit = type == SQM_F16 ? 65519.0f : 3.4e38f;
    if (type == SQM_F32 || type == SQM_BF16) return 1;
    for (int64_t i = 0; i < n; i++) {
        if (k->rows[i] >= -limit && k->rows[i] <= limit) continue;
        return conv_fail(k->c->env, "tensor %.200s holds %g, which %s cannot: choose -t f32 or bf16",
                         o->parts ? o->parts[0].tensor->name : o->name, (double)k->rows[i],
                         sqm_dtype_name(type));
    }
    return 1;
}

/* ---- writing ------------------------------------------------------------------------------------------- */
static int conv__write_vector(conv_writer *k, const conv_out *o)
{
    const uint64_t bytes = (uint64_t)o->rows * (uint64_t)o->cols * sizeof(float);
    if (o->values) {
        sqm_writer_data(k->w, o->values, (size_t)bytes);
        return 1;
    }
    k->rows = (float *)conv_room(k->c, k->rows, &k->rows_room, bytes);
    if (k->c->env->failed) return 0;
    if (!conv__fetch(k, o, 0, o->rows)) return 0;
    sqm_writer_data(k->w, k->rows, (size_t)bytes);
    return 1;
}

/* Packs rows that were fetched and passes them on. n is a multiple of 16 but for the last rows.            */
static int conv__write_panels(conv_writer *k, const conv_out *o, int32_t n, sqm_dtype type, int exact)
{
    const int32_t shape[2] = { n, o->cols };
    const uint32_t row_bytes = exact ? o->parts[0].tensor->row_bytes : 0;
    size_t bytes = sqm_tensor_bytes(type, SQM_PANELS, 2, shape);
    sqm_error err;
    sqm_result r;
    k->packed = (uint8_t *)conv_room(k->c, k->packed, &k->packed_room, bytes);
    if (k->c->env->failed) return 0;
    if (exact)
        r = sqm_pack_ggml(k->packed, &bytes, &type, o->parts[0].tensor->ggml_type, k->raw,
                          (size_t)n * row_bytes, n, o->cols, &err);
    else r = sqm_pack(k->packed, bytes, type, k->rows, n, o->cols, NULL, &err);
    if (r != SQM_OK) return conv_fail(k->c->env, "tensor %.200s: %s", o->name, err.text);
    sqm_writer_data(k->w, k->packed, bytes);
    return 1;
}

static int conv__write_matrix(conv_writer *k, const conv_out *o, sqm_dtype type, int exact)
{
    const uint64_t row_bytes = exact ? o->parts[0].tensor->row_bytes : (uint64_t)o->cols * sizeof(float);
    const int64_t panels = 4194304 / (int64_t)(16 * row_bytes), step = 16 * (panels > 0 ? panels : 1);
    for (int64_t first = 0; first < o->rows; first += step) {
        const int64_t n = o->rows - first < step ? o->rows - first : step;
        if (exact) {
            k->raw = (uint8_t *)conv_room(k->c, k->raw, &k->raw_room, (uint64_t)n * row_bytes);
            if (k->c->env->failed || !conv__fetch_blocks(k, o, first, n)) return 0;
        } else {
            k->rows = (float *)conv_room(k->c, k->rows, &k->rows_room, (uint64_t)n * row_bytes);
            if (k->c->env->failed || !conv__fetch(k, o, first, n) ||
                !conv__check_range(k, o, n * o->cols, type))
                return 0;
        }
        if (!conv__write_panels(k, o, (int32_t)n, type, exact)) return 0;
    }
    return 1;
}

/* Declares all tensors, gives the recipe, writes the data.                                                 */
static CONV_UNUSED int conv_write_plan(conv_writer *k)
{
    conv *c = k->c;
    sqm_dtype type;
    int exact, ok = 1;
    for (uint64_t i = 0; ok && i < c->n_outs; i++) {
        const conv_out *o = &c->outs[i];
        const int32_t shape[2] = { o->rows, o->cols };
        ok = conv__out_type(c, o, k->target, &type, &exact);
        if (ok) sqm_writer_declare(k->w, o->name, type, o->role >= CONV_VECTOR ? SQM_ROWS : SQM_PANELS,
                                   o->role == CONV_VECTOR ? 1 : 2, shape);
    }
    if (ok) sqm_writer_recipe(k->w, c->recipe);
    for (uint64_t i = 0; ok && i < c->n_outs; i++) {
        const conv_out *o = &c->outs[i];
        if (k->progress) k->progress(k->progress_user, i, c->n_outs);
        ok = conv__out_type(c, o, k->target, &type, &exact) &&
             (o->role >= CONV_VECTOR ? conv__write_vector(k, o) : conv__write_matrix(k, o, type, exact));
    }
    if (ok && k->progress) k->progress(k->progress_user, c->n_outs, c->n_outs);
    free(k->rows);
    free(k->raw);
    free(k->packed);
    k->rows = NULL;
    k->raw = k->packed = NULL;
    return ok;
}

#endif /* CONV_WRITE_H_INCLUDED */
