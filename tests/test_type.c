/* Element types: conversions, panel layouts, quantiser and GGML import. Golden values:
   tests/data/ggml_blocks.bin (made by tests/make_type_data.py with the gguf package). */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "check.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef TEST_DATA
#define TEST_DATA "tests/data/"
#endif

static int same_value(float a, float b)
{
    uint32_t ua, ub;
    memcpy(&ua, &a, 4);
    memcpy(&ub, &b, 4);
    return ua == ub || (a != a && b != b);
}

/* xorshift: the same numbers on every machine */
static uint32_t random_bits(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static float random_normal(uint32_t *state)            /* sum of 4 uniforms, variance 1/3 */
{
    float sum = 0.0f;
    for (int i = 0; i < 4; i++) sum += (float)(random_bits(state) >> 8) * (1.0f / 16777216.0f) - 0.5f;
    return sum;
}

static uint8_t *read_file(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    uint8_t *data = (uint8_t *)malloc(1u << 20);
    *bytes = data ? fread(data, 1, 1u << 20, f) : 0;
    fclose(f);
    return data;
}

/* ---- half floats */
static void test_f16_every_value_survives_a_round_trip(void)
{
    int bad = 0;
    for (uint32_t h = 0; h < 65536; h++) {
        const float x = sqm__f16_to_f32((uint16_t)h);
        const int nan = (h & 0x7fffu) > 0x7c00u;
        const uint16_t back = sqm__f32_to_f16(x);
        if (nan ? (back & 0x7fffu) <= 0x7c00u || (back ^ h) & 0x8000u : back != h) bad++;
        if (!nan && (h & 0x7fffu) < 0x7c00u) {
            const int e = (int)(h >> 10 & 31u);
            const double f = (double)(h & 1023u);
            const double exact = e ? ldexp(1024.0 + f, e - 25) : ldexp(f, -24);
            if ((double)x != (h & 0x8000u ? -exact : exact)) bad++;
        }
    }
    CHECK(bad == 0);
}

/* Between every two neighbours: just below, at and just above the midpoint. */
static void test_f16_rounds_to_nearest_even(void)
{
    int bad = 0;
    for (uint32_t h = 0; h < 0x7c00u; h++) {
        const float low = sqm__f16_to_f32((uint16_t)h);
        const float high = h == 0x7bffu ? 65536.0f : sqm__f16_to_f32((uint16_t)(h + 1));
        const float middle = low + (high - low) * 0.5f;                /* exact */
        const uint16_t even = (uint16_t)(h & 1u ? h + 1 : h);
        if (sqm__f32_to_f16(middle) != even) bad++;
        if (sqm__f32_to_f16(nextafterf(middle, 0.0f)) != h) bad++;
        if (sqm__f32_to_f16(nextafterf(middle, 1e9f)) != h + 1) bad++;
        if (sqm__f32_to_f16(-middle) != (even | 0x8000u)) bad++;
    }
    CHECK(bad == 0);
    CHECK(sqm__f32_to_f16(1e30f) == 0x7c00 && sqm__f32_to_f16(-1e30f) == 0xfc00);
    CHECK(sqm__f32_to_f16(1e-30f) == 0 && sqm__f32_to_f16(-1e-30f) == 0x8000);
}

static void test_bf16_rounds_to_nearest_even(void)
{
    int bad = 0;
    for (uint32_t h = 0; h < 65536; h++) {
        const int nan = (h & 0x7fffu) > 0x7f80u;
        const uint16_t back = sqm__f32_to_bf16(sqm__bf16_to_f32((uint16_t)h));
        if (nan ? (back & 0x7fffu) <= 0x7f80u : back != h) bad++;
        if (nan || (h & 0x7fffu) >= 0x7f80u) continue;
        if (sqm__f32_to_bf16(sqm__float(h << 16 | 0x7fffu)) != h) bad++;
        if (sqm__f32_to_bf16(sqm__float(h << 16 | 0x8000u)) != (h & 1u ? h + 1 : h)) bad++;
        if (sqm__f32_to_bf16(sqm__float(h << 16 | 0x8001u)) != h + 1) bad++;
    }
    CHECK(bad == 0);
}

/* ---- sizes and names */
static void test_sizes_follow_the_layout_table(void)
{
    static const struct { sqm_dtype t; const char *name; int32_t unit; size_t bytes; } rows[] = {
        { SQM_F32, "f32", 1, 64 }, { SQM_F16, "f16", 1, 32 }, { SQM_BF16, "bf16", 1, 32 }, { SQM_Q8, "q8", 32,
                                                                                             544 },
        { SQM_Q4, "q4", 32, 288 }, { SQM_Q4M, "q4m", 32, 320 }, { SQM_Q5, "q5", 32, 352 }, { SQM_Q5M, "q5m",
                                                                                             32, 384 },
        { SQM_IQ4, "iq4", 32, 288 }, { SQM_Q2K, "q2k", 256, 1344 }, { SQM_Q3K, "q3k", 256, 1824 },
        { SQM_Q4K, "q4k", 256, 2368 }, { SQM_Q5K, "q5k", 256, 2880 }, { SQM_Q6K, "q6k", 256, 3360 } };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const int32_t one[2] = { 1, rows[i].unit }, many[2] = { 33, 3 * rows[i].unit };
        CHECK(strcmp(sqm_dtype_name(rows[i].t), rows[i].name) == 0);
        CHECK(sqm_tensor_bytes(rows[i].t, SQM_PANELS, 2, one) == rows[i].bytes);
        CHECK(sqm_tensor_bytes(rows[i].t, SQM_PANELS, 2, many) == 9 * rows[i].bytes);
        CHECK(sqm_tensor_bytes(rows[i].t, SQM_PANELS, 1, one) == 0);
        if (rows[i].unit == 32) {
            const int32_t odd[2] = { 17, 33 };
            CHECK(sqm_tensor_bytes(rows[i].t, SQM_PANELS, 2, odd) == 4 * rows[i].bytes);
        }
        if (rows[i].unit > 1) CHECK(sqm_tensor_bytes(rows[i].t, SQM_ROWS, 2, one) == 0);
    }
    const int32_t bad_k[2] = { 4, 300 }, zero[2] = { 0, 4 }, negative[2] = { 4, -1 }, four[4] = { 2, 3, 4,
                                                                                                  5 };
    const int32_t huge[4] = { INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX };
    CHECK(sqm_tensor_bytes(SQM_Q4K, SQM_PANELS, 2, bad_k) == 0);
    CHECK(sqm_tensor_bytes(SQM_F32, SQM_ROWS, 2, zero) == 0 &&
          sqm_tensor_bytes(SQM_F32, SQM_PANELS, 2, zero) == 0);
    CHECK(sqm_tensor_bytes(SQM_F32, SQM_ROWS, 2, negative) == 0);
    CHECK(sqm_tensor_bytes(SQM_F32, SQM_PANELS, 2, negative) == 0);
    CHECK(sqm_tensor_bytes(SQM_F16, SQM_ROWS, 4, four) == 240 &&
          sqm_tensor_bytes(SQM_I32, SQM_ROWS, 4, four) == 480);
    CHECK(sqm_tensor_bytes(SQM_U8, SQM_ROWS, 4, huge) == 0);
    CHECK(sqm_tensor_bytes(SQM_F32, SQM_ROWS, 0, four) == 0 &&
          sqm_tensor_bytes(SQM_F32, SQM_ROWS, 5, four) == 0);
    CHECK(sqm_tensor_bytes((sqm_dtype)6, SQM_ROWS, 1, four) == 0 && sqm_dtype_name((sqm_dtype)30) == NULL);
    CHECK(sqm_tensor_bytes(SQM_I32, SQM_PANELS, 2, four) == 0);
    CHECK(sqm__tensor_bytes64(SQM_F32, SQM_PANELS, 2,
                              huge) == ((uint64_t)1 << 27) * 64u * (uint64_t)INT32_MAX);
}

/* ---- GGML import */
static void compare_panel(const uint8_t *panels, sqm_dtype t, int32_t rows, int32_t cols, const float *want,
                          int *bad)
{
    float *block = (float *)malloc((size_t)cols * 16 * sizeof(float));
    const size_t panel_bytes = (size_t)sqm__panel_bytes(t, cols);
    const int32_t unit = sqm__dtype_find((uint32_t)t)->unit_k;
    for (int32_t r0 = 0; r0 < rows; r0 += 16) {
        for (int32_t k0 = 0; k0 < cols; k0 += unit) {  /* from every unit, so k0 > 0 is tested too */
            const int32_t n = cols - k0 < unit + 5 ? cols - k0 : unit + 5;
            sqm__dequantize_panel(block, panels + (size_t)(r0 / 16) * panel_bytes, t, k0, n);
            for (int32_t k = 0; k < n; k++) {
                for (int32_t r = r0; r < rows && r < r0 + 16; r++) {
                    if (!same_value(block[k * 16 + r - r0],
                                    want[(size_t)r * (size_t)cols + (size_t)(k0 + k)])) {
                        *bad += 1;
                    }
                }
            }
        }
    }
    free(block);
}

static void check_ggml_case(uint32_t kind, int32_t rows, int32_t cols, const uint8_t *src, size_t src_bytes,
                            const float *want)
{
    sqm_error err;
    sqm_dtype t;
    size_t bytes = 0;
    CHECK(sqm_pack_ggml(NULL, &bytes, &t, kind, NULL, 0, rows, cols, &err) == SQM_OK);
    uint8_t *panels = (uint8_t *)malloc(bytes);
    float *got = (float *)malloc((size_t)rows * (size_t)cols * sizeof(float));
    const size_t capacity = bytes;
    CHECK(sqm_pack_ggml(panels, &bytes, &t, kind, src, src_bytes, rows, cols, &err) == SQM_OK &&
          bytes == capacity);
    const sqm_tensor view = sqm_tensor_2d(panels, t, SQM_PANELS, rows, cols);
    CHECK(sqm_tensor_bytes(t, SQM_PANELS, 2, view.shape) == bytes);
    CHECK(sqm_tensor_values(got, (size_t)rows * (size_t)cols, &view, &err) == SQM_OK);
    int bad = 0;
    for (int32_t i = 0; i < rows * cols; i++) if (!same_value(got[i], want[i])) bad++;
    for (int32_t r = 0; r < rows; r++) {
        CHECK(sqm_tensor_row(got, &view, r, &err) == SQM_OK);
        for (int32_t k = 0; k < cols; k++) if (!same_value(got[k], want[r * cols + k])) bad++;
    }
    compare_panel(panels, t, rows, cols, want, &bad);
    if (bad) printf("ggml type %u: %d values differ\n", (unsigned)kind, bad);
    CHECK(bad == 0);
    size_t short_by_one = capacity - 1;
    CHECK(sqm_pack_ggml(panels, &short_by_one, &t, kind, src, src_bytes, rows, cols, &err) == SQM_E_MEMORY);
    CHECK(err.value == capacity);
    bytes = capacity;
    CHECK(sqm_pack_ggml(panels, &bytes, &t, kind, src, src_bytes - 1, rows, cols, &err) == SQM_E_ARGUMENT);
    free(got);
    free(panels);
}

static void test_ggml_blocks_give_golden_values(void)
{
    size_t bytes = 0, at = 0;
    int cases = 0;
    uint8_t *data = read_file(TEST_DATA "ggml_blocks.bin", &bytes);
    CHECK(data != NULL && bytes > 16);
    while (data && at + 16 <= bytes) {
        uint32_t head[4];
        memcpy(head, data + at, 16);
        const int32_t rows = (int32_t)head[1], cols = (int32_t)head[2];
        const size_t n = (size_t)rows * (size_t)cols, block_row = head[3] / head[1];
        float *want = (float *)malloc(18 * (size_t)cols * sizeof(float));
        memcpy(want, data + at + 16 + head[3], n * sizeof(float));
        check_ggml_case(head[0], rows, cols, data + at + 16, head[3], want);
        /* 18 rows: a second panel; made of the same rows in turn */
        uint8_t *more = (uint8_t *)malloc(18 * block_row);
        for (int32_t r = 0; r < 18; r++) {
            memcpy(more + (size_t)r * block_row, data + at + 16 + (size_t)(r % rows) * block_row, block_row);
            memcpy(want + (size_t)r * (size_t)cols,
                   data + at + 16 + head[3] + (size_t)(r % rows) * (size_t)cols * 4,
                   (size_t)cols * 4);
        }
        check_ggml_case(head[0], 18, cols, more, 18 * block_row, want);
        free(more);
        free(want);
        at += 16 + head[3] + n * 4;
        cases++;
    }
    CHECK(at == bytes && cases == 14);
    free(data);
}

static void test_ggml_import_refuses_bad_input(void)
{
    sqm_error err;
    sqm_dtype t;
    size_t bytes;
    CHECK(sqm_pack_ggml(NULL, &bytes, &t, 9, NULL, 0, 4, 256, &err) == SQM_E_UNSUPPORTED);
    CHECK(sqm_pack_ggml(NULL, &bytes, &t, 2, NULL, 0, 4, 40, &err) == SQM_E_SHAPE);
    CHECK(sqm_pack_ggml(NULL, &bytes, &t, 12, NULL, 0, 4, 288, &err) == SQM_E_SHAPE);
    CHECK(sqm_pack_ggml(NULL, &bytes, &t, 0, NULL, 0, 0, 32, &err) == SQM_E_SHAPE);
    CHECK(sqm_pack_ggml(NULL, NULL, &t, 0, NULL, 0, 4, 32, &err) == SQM_E_ARGUMENT);
}

/* ---- packing */
/* Independent statement of the layout in CONTRACT words: where the code of (row, k) of one 32-k unit sits. */
static void test_pack_puts_codes_where_the_layout_says(void)
{
    static float src[16 * 32];
    static uint8_t q8[544], q4[288];
    for (int32_t r = 0; r < 16; r++) {
        for (int32_t k = 0; k < 32; k++) src[r * 32 + k] = (float)((r * 5 + k * 3) % 16 - 8) * 0.25f;
        src[r * 32 + r] = -2.0f;                       /* level -8 of q4 at scale 0.25 */
        src[r * 32 + 31 - r] = 1.75f;
    }
    CHECK(sqm_pack(q4, sizeof(q4), SQM_Q4, src, 16, 32, NULL, NULL) == SQM_OK);
    CHECK(sqm_pack(q8, sizeof(q8), SQM_Q8, src, 16, 32, NULL, NULL) == SQM_OK);
    int bad = 0;
    for (int32_t r = 0; r < 16; r++) {
        uint16_t scale;
        memcpy(&scale, q4 + 256 + 2 * r, 2);
        if (scale != 0x3400) bad++;                    /* 0.25 */
        memcpy(&scale, q8 + 512 + 2 * r, 2);
        if (scale != sqm__f32_to_f16(2.0f / 127.0f)) bad++;
        for (int32_t k = 0; k < 32; k++) {
            const float x = src[r * 32 + k];
            const int32_t byte = q4[((k % 16 / 4) * 16 + r) * 4 + k % 4];
            if ((float)((k < 16 ? byte & 15 : byte >> 4) - 8) * 0.25f != x) bad++;
            int8_t code;
            memcpy(&code, q8 + ((k / 4) * 16 + r) * 4 + k % 4, 1);
            if (fabsf((float)code * 2.0f / 127.0f - x) > 1.01f / 127.0f) bad++;
        }
    }
    CHECK(bad == 0);
}

static void test_pack_floats_is_a_transposition(void)
{
    static const int32_t shapes[][2] = { { 1, 1 }, { 17, 33 }, { 16, 4 }, { 5, 7 }, { 48, 2 } };
    uint32_t seed = 7;
    for (size_t i = 0; i < 5; i++) {
        const int32_t rows = shapes[i][0], cols = shapes[i][1];
        float src[17 * 33], got[17 * 33];
        for (int32_t j = 0; j < rows * cols; j++) src[j] = random_normal(&seed);
        const sqm_dtype types[3] = { SQM_F32, SQM_F16, SQM_BF16 };
        for (int d = 0; d < 3; d++) {
            const size_t bytes = sqm_tensor_bytes(types[d], SQM_PANELS, 2, shapes[i]);
            uint8_t *panels = (uint8_t *)malloc(bytes);
            CHECK(sqm_pack(panels, bytes, types[d], src, rows, cols, NULL, NULL) == SQM_OK);
            const sqm_tensor view = sqm_tensor_2d(panels, types[d], SQM_PANELS, rows, cols);
            CHECK(sqm_tensor_values(got, (size_t)(rows * cols), &view, NULL) == SQM_OK);
            int bad = 0;
            for (int32_t j = 0; j < rows * cols; j++) {
                const float want = d == 0 ? src[j] : d == 1 ? sqm__f16_to_f32(sqm__f32_to_f16(src[j]))
                                                            : sqm__bf16_to_f32(sqm__f32_to_bf16(src[j]));
                if (!same_value(got[j], want)) bad++;
            }
            compare_panel(panels, types[d], rows, cols, got, &bad);
            CHECK(bad == 0);
            free(panels);
        }
    }
}

static double pack_error(sqm_dtype t, const float *src, int32_t rows, int32_t cols, const float *importance)
{
    const int32_t shape[2] = { rows, cols };
    const size_t bytes = sqm_tensor_bytes(t, SQM_PANELS, 2, shape), n = (size_t)rows * (size_t)cols;
    uint8_t *panels = (uint8_t *)malloc(bytes);
    float *got = (float *)malloc(n * sizeof(float));
    double sum = 0.0, energy = 0.0;
    CHECK(sqm_pack(panels, bytes, t, src, rows, cols, importance, NULL) == SQM_OK);
    const sqm_tensor view = sqm_tensor_2d(panels, t, SQM_PANELS, rows, cols);
    CHECK(sqm_tensor_values(got, n, &view, NULL) == SQM_OK);
    int bad = 0;
    compare_panel(panels, t, rows, cols, got, &bad);
    CHECK(bad == 0);
    for (size_t i = 0; i < n; i++) {
        const double e = (double)got[i] - (double)src[i];
        const double w = importance ? (double)importance[i % (size_t)cols] : 1.0;
        sum += w * e * e;
        energy += w * (double)src[i] * (double)src[i];
    }
    free(got);
    free(panels);
    return energy > 0.0 ? sum / energy : sum;
}

/* Relative squared errors of near-normal weights. The gguf package's rules (scale from the largest value)
   give 2.58e-5 for Q8_0, 0.0066 for Q4_0 and 0.0058 for Q4_1 on these numbers; the search must stay clearly
   below for 4 bits. */
static void test_quantiser_error_is_small(void)
{
    static float src[64 * 256], importance[256];
    uint32_t seed = 99;
    for (int32_t i = 0; i < 64 * 256; i++) src[i] = 0.02f * random_normal(&seed);
    const double e8 = pack_error(SQM_Q8, src, 64, 256, NULL), e4 = pack_error(SQM_Q4, src, 64, 256, NULL);
    const double e4m = pack_error(SQM_Q4M, src, 64, 256, NULL);
    CHECK(e8 < 2.6e-5);
    CHECK(e4 < 0.0059);
    CHECK(e4m < 0.0048);
    for (int32_t i = 0; i < 256; i++) importance[i] = i % 4 == 0 ? 10.0f : 0.1f;
    CHECK(pack_error(SQM_Q4, src, 64, 256, importance) < 0.75 * e4);
    CHECK(pack_error(SQM_Q4M, src, 64, 256, importance) < 0.75 * e4m);
    printf("relative squared error: q8 %.2e, q4 %.4f, q4m %.4f\n", e8, e4, e4m);
}

static void test_quantiser_special_groups(void)
{
    const sqm_dtype types[3] = { SQM_Q8, SQM_Q4, SQM_Q4M };
    float src[17 * 33], tiny[33];
    for (int d = 0; d < 3; d++) {
        memset(src, 0, sizeof(src));
        CHECK(pack_error(types[d], src, 17, 33, NULL) == 0.0);         /* zeros stay zeros */
        /* constants are exact (q8: one f16 rounding) */
        for (int32_t i = 0; i < 17 * 33; i++) src[i] = -0.5f;
        CHECK(pack_error(types[d], src, 17, 33, NULL) < (types[d] == SQM_Q8 ? 1e-6 : 1e-12));
        for (int32_t i = 0; i < 33; i++) tiny[i] = i % 2 ? 1e-30f : -1e-38f;
        CHECK(pack_error(types[d], tiny, 1, 33, NULL) <= 1.0);         /* below f16: becomes zero, not NaN */
        src[0] = -1.0f;
        CHECK(pack_error(types[d], src, 1, 1, NULL) < 1e-6);
        for (int32_t i = 0; i < 33; i++) tiny[i] = i % 2 ? 65504.0f : -65504.0f;
        CHECK(pack_error(types[d], tiny, 1, 33, NULL) < 0.01);  /* largest f16: no overflow of the search */
    }
}

static void test_pack_refuses_bad_input(void)
{
    sqm_error err;
    float src[32] = { 1.0f };
    uint8_t dst[2048];
    CHECK(sqm_pack(dst, 543, SQM_Q8, src, 1, 32, NULL, &err) == SQM_E_MEMORY && err.value == 544);
    CHECK(sqm_pack(dst, 544, SQM_Q8, src, 1, 32, NULL, &err) == SQM_OK);
    CHECK(sqm_pack(NULL, 544, SQM_Q8, src, 1, 32, NULL, &err) == SQM_E_ARGUMENT);
    CHECK(sqm_pack(dst, 544, SQM_Q8, NULL, 1, 32, NULL, &err) == SQM_E_ARGUMENT);
    CHECK(sqm_pack(dst, sizeof(dst), SQM_Q8, src, 0, 32, NULL, &err) == SQM_E_ARGUMENT);
    CHECK(sqm_pack(dst, sizeof(dst), SQM_Q8, src, 1, -32, NULL, &err) == SQM_E_ARGUMENT);
    CHECK(sqm_pack(dst, sizeof(dst), SQM_Q5, src, 1, 32, NULL, &err) == SQM_E_UNSUPPORTED);
    CHECK(sqm_pack(dst, sizeof(dst), SQM_I8, src, 1, 32, NULL, &err) == SQM_E_UNSUPPORTED);
    CHECK(sqm_pack(dst, sizeof(dst), (sqm_dtype)31, src, 1, 32, NULL, &err) == SQM_E_UNSUPPORTED);
    src[3] = sqm__float(0x7f800000u);
    CHECK(sqm_pack(dst, sizeof(dst), SQM_Q4, src, 1, 32, NULL, &err) == SQM_E_ARGUMENT);
    CHECK(sqm_pack(dst, sizeof(dst), SQM_F16, src, 1, 32, NULL, &err) == SQM_OK);  /* infinity is an f16 */
    src[3] = 1e6f;
    CHECK(sqm_pack(dst, sizeof(dst), SQM_Q4, src, 1, 32, NULL, &err) == SQM_E_LIMIT);
    CHECK(sqm_pack(dst, sizeof(dst), SQM_F16, src, 1, 32, NULL, &err) == SQM_E_LIMIT);
    CHECK(sqm_pack(dst, sizeof(dst), SQM_BF16, src, 1, 32, NULL, &err) == SQM_OK);
    src[3] = 0.0f;
    float importance[32] = { 0.0f };
    CHECK(sqm_pack(dst, sizeof(dst), SQM_Q4, src, 1, 32, importance, &err) == SQM_OK); /* all 0: unweighted */
    importance[1] = -1.0f;
    CHECK(sqm_pack(dst, sizeof(dst), SQM_Q4, src, 1, 32, importance, &err) == SQM_E_ARGUMENT);
    importance[1] = 3e38f;
    CHECK(sqm_pack(dst, sizeof(dst), SQM_Q4M, src, 1, 32, importance, &err) == SQM_OK);
}

/* ---- plain tensors */
static void test_plain_tensors_of_every_type(void)
{
    const int32_t i32[6] = { 1, -2, 3, 2147483647, -5, 6 };
    const int8_t i8[6] = { -128, 127, 0, 1, 2, 3 };
    const uint8_t u8[6] = { 0, 255, 128, 1, 2, 3 };
    const uint16_t f16[6] = { 0x3c00, 0xbc00, 1, 0x8000, 0x7c00, 0 }, bf16[6] = { 0x3f80, 0xbf80, 1, 0x8000,
                                                                                  0x7f80, 0 };
    float got[6];
    sqm_tensor t = sqm_tensor_2d(i32, SQM_I32, SQM_ROWS, 2, 3);
    CHECK(sqm_tensor_values(got, 6, &t, NULL) == SQM_OK && got[1] == -2.0f && got[3] == 2147483648.0f &&
          got[5] == 6.0f);
    CHECK(sqm_tensor_row(got, &t, 1, NULL) == SQM_OK && got[1] == -5.0f);
    t = sqm_tensor_2d(i8, SQM_I8, SQM_ROWS, 2, 3);
    CHECK(sqm_tensor_values(got, 6, &t, NULL) == SQM_OK && got[0] == -128.0f && got[1] == 127.0f);
    t = sqm_tensor_1d(u8, SQM_U8, 6);
    CHECK(sqm_tensor_values(got, 6, &t, NULL) == SQM_OK && got[1] == 255.0f);
    t = sqm_tensor_1d(f16, SQM_F16, 6);
    CHECK(sqm_tensor_values(got, 6, &t, NULL) == SQM_OK && got[1] == -1.0f && got[2] == ldexpf(1.0f, -24));
    t = sqm_tensor_1d(bf16, SQM_BF16, 6);
    CHECK(sqm_tensor_values(got, 6, &t, NULL) == SQM_OK && got[1] == -1.0f && same_value(got[3], -0.0f));
}

static void test_tensor_reads_refuse_bad_input(void)
{
    sqm_error err;
    float data[6] = { 0 }, got[6];
    sqm_tensor t = sqm_tensor_2d(data, SQM_F32, SQM_ROWS, 2, 3);
    CHECK(sqm_tensor_row(got, &t, 2, &err) == SQM_E_ARGUMENT && err.value == 2);
    CHECK(sqm_tensor_row(got, &t, -1, &err) == SQM_E_ARGUMENT);
    CHECK(sqm_tensor_row(NULL, &t, 0, &err) == SQM_E_ARGUMENT);
    CHECK(sqm_tensor_row(got, NULL, 0, &err) == SQM_E_ARGUMENT);
    CHECK(sqm_tensor_values(got, 5, &t, &err) == SQM_E_ARGUMENT && err.value == 6);
    t.dtype = (sqm_dtype)29;
    CHECK(sqm_tensor_values(got, 6, &t, &err) == SQM_E_UNSUPPORTED);
    t = sqm_tensor_2d(data, SQM_Q8, SQM_ROWS, 2, 3);
    CHECK(sqm_tensor_values(got, 6, &t, &err) == SQM_E_ARGUMENT);
    t = sqm_tensor_2d(NULL, SQM_F32, SQM_ROWS, 2, 3);
    CHECK(sqm_tensor_values(got, 6, &t, &err) == SQM_E_ARGUMENT);
    t = sqm_tensor_1d(data, SQM_F32, 6);
    CHECK(sqm_tensor_row(got, &t, 0, &err) == SQM_E_ARGUMENT);
}

int main(void)
{
    test_f16_every_value_survives_a_round_trip();
    test_f16_rounds_to_nearest_even();
    test_bf16_rounds_to_nearest_even();
    test_sizes_follow_the_layout_table();
    test_ggml_blocks_give_golden_values();
    test_ggml_import_refuses_bad_input();
    test_pack_puts_codes_where_the_layout_says();
    test_pack_floats_is_a_transposition();
    test_quantiser_error_is_small();
    test_quantiser_special_groups();
    test_pack_refuses_bad_input();
    test_plain_tensors_of_every_type();
    test_tensor_reads_refuse_bad_input();
    return check_report("test_type");
}
