/* Weight files: written, read back, damaged in every way. Works on copies of exact size, so that an address
   sanitizer sees every byte read outside. Build with -DTEST_TMP='"dir/"' to say where files go. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "check.h"
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__unix__) || defined(__APPLE__)
#  include <signal.h>
#  include <sys/resource.h>
#endif

#ifndef TEST_TMP
#  define TEST_TMP "build/"
#endif
#define TOY TEST_TMP "test_file.sqm"

/* ---- the toy file: one tensor of most kinds, every kind of parameter */
typedef struct toy_tensor {
    const char *name;
    sqm_dtype   dtype;
    sqm_layout  layout;
    int32_t     ndim, shape[4];
} toy_tensor;

static const toy_tensor toy_tensors[] = {
    { "embed", SQM_F32, SQM_PANELS, 2, { 7, 5, 1, 1 } },
    { "l0.norm", SQM_F32, SQM_ROWS, 1, { 5, 1, 1, 1 } },
    { "l0.qkv", SQM_Q8, SQM_PANELS, 2, { 17, 33, 1, 1 } },
    { "l0.bias", SQM_F32, SQM_ROWS, 1, { 17, 1, 1, 1 } },
    { "l0.k", SQM_Q4K, SQM_PANELS, 2, { 3, 256, 1, 1 } },
    { "freq", SQM_F16, SQM_ROWS, 3, { 2, 3, 4, 1 } },
    { "bytes", SQM_U8, SQM_ROWS, 4, { 2, 1, 3, 1 } }
};
enum { N_TOY = sizeof(toy_tensors) / sizeof(toy_tensors[0]) };

static const char toy_recipe[] =
    "# comment, then a blank line\n"
    "\n"
    "embed r0 tokens w=@embed scale=2.5 add=0\r\n"
    "\tnorm   r1 r0 kind=rms w=@l0.norm eps=1e-5   # trailing comment\n"
    "linear r15 r1 w=@l0.qkv,@l0.k b=@l0.bias,- add=1\n"
    "rope r15 r15 first=-0 heads=4 freq=@freq long_from=4096 attn_factor=1.0\n"
    "mix r1 r15 attention heads=4 scale=0.17677669529663689 sinks=-\n"
    "add r0 r0 r1\n"
    "embed r2 positions w=@embed offset=+2\n"
    "head logits r0 w=@embed softcap=30.0";

/* What sqm__op_text gives back. */
static const char *const toy_lines[] = {
    "embed r0 tokens w=@embed scale=2.5 add=0",
    "norm r1 r0 kind=rms w=@l0.norm eps=1e-05",
    "linear r15 r1 w=@l0.qkv,@l0.k b=@l0.bias,- add=1",
    "rope r15 r15 first=0 heads=4 freq=@freq long_from=4096 attn_factor=1.0",
    "mix r1 r15 attention heads=4 scale=0.1767766952966369 sinks=-",
    "add r0 r0 r1",
    "embed r2 positions w=@embed offset=2",
    "head logits r0 w=@embed softcap=30.0"
};
enum { N_LINES = sizeof(toy_lines) / sizeof(toy_lines[0]) };

static void fill(uint8_t *data, size_t bytes, uint32_t seed)  /* small positive f16 and f32 patterns */
{
    for (size_t i = 0; i < bytes; i++) {
        seed = seed * 1664525u + 1013904223u;
        data[i] = (uint8_t)(seed >> 26);
    }
}

static void toy_declare(sqm_writer *w)
{
    static const char blob[] = "tokenizer bytes";
    sqm_writer_meta(w, "name", "toy");
    sqm_writer_meta(w, "license", "none \"quoted\"\nsecond line");
    sqm_writer_meta(w, "empty", "");
    sqm_writer_tokenizer(w, blob, sizeof(blob));
    for (int i = 0; i < N_TOY; i++) {
        const toy_tensor *t = &toy_tensors[i];
        sqm_writer_declare(w, t->name, t->dtype, t->layout, t->ndim, t->shape);
    }
}

static void toy_data(sqm_writer *w, size_t piece)
{
    uint8_t data[4096];
    for (int i = 0; i < N_TOY; i++) {
        const toy_tensor *t = &toy_tensors[i];
        const size_t bytes = sqm_tensor_bytes(t->dtype, t->layout, t->ndim, t->shape);
        fill(data, bytes, (uint32_t)i);
        for (size_t at = 0; at < bytes; at += piece) {
            sqm_writer_data(w, data + at, bytes - at < piece ? bytes - at : piece);
        }
    }
}

static sqm_result toy_write(const char *path, const char *recipe, size_t piece)
{
    sqm_error err;
    sqm_writer *w = sqm_writer_open(path, &err);
    if (!w) return err.code;
    toy_declare(w);
    sqm_writer_recipe(w, recipe);
    toy_data(w, piece);
    return sqm_writer_close(w, &err);
}

static int exists(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}

static uint8_t *read_file(const char *path, size_t *bytes)
{
    uint8_t *data = (uint8_t *)malloc(1 << 20);
    FILE *f = fopen(path, "rb");
    *bytes = f && data ? fread(data, 1, 1 << 20, f) : 0;
    if (f) fclose(f);
    return data;
}

static uint8_t *copy_of(const uint8_t *data, size_t bytes)
{
    uint8_t *copy = (uint8_t *)malloc(bytes ? bytes : 1);
    if (bytes) memcpy(copy, data, bytes);
    return copy;
}

/* ---- damage with right checksums: what an attacker would write */
static sqm__file_section *table_of(uint8_t *image) { return (sqm__file_section *)(void *)(image + 64); }
static sqm__file_header *header_of(uint8_t *image) { return (sqm__file_header *)(void *)image; }

static void reseal(uint8_t *image, size_t bytes)
{
    sqm__file_header *h = header_of(image);
    const size_t room = bytes >= 64 ? (bytes - 64) / 32 : 0;
    for (size_t i = 0; i < h->n_sections && i < room; i++) {
        sqm__file_section *s = &table_of(image)[i];
        if (s->offset <= bytes && s->bytes <= bytes - s->offset && memcmp(&s->type, "DATA", 4) != 0) {
            s->crc = sqm__crc32c(0, image + s->offset, (size_t)s->bytes);
        }
    }
    h->crc = 0;
    const size_t n = h->n_sections <= room ? h->n_sections : room;
    h->crc = sqm__crc32c(0, image, 64 + n * 32);
}

static sqm__file_section *section(uint8_t *image, const char *type)
{
    for (uint32_t i = 0; i < header_of(image)->n_sections; i++) {
        if (memcmp(&table_of(image)[i].type, type, 4) == 0) return &table_of(image)[i];
    }
    return NULL;
}

static sqm__file_tensor *entry_of(uint8_t *image, int i)
{
    return (sqm__file_tensor *)(void *)(image + section(image, "TENS")->offset) + i;
}

/* Opens and, if that works, touches all that an accepted file gives. */
static sqm_result open_and_use(const uint8_t *image, size_t bytes, uint32_t flags)
{
    sqm__file f;
    sqm_error err;
    char line[400];
    float values[4096];
    size_t sum = 0;
    memset(&err, 0, sizeof(err));
    const sqm_result result = sqm__file_open(&f, image, bytes, flags, &err);
    if (result != SQM_OK) {
        CHECK(err.code == result && err.text[0] != 0 && memchr(err.text, 0, sizeof(err.text)) != NULL);
        return result;
    }
    for (int32_t i = 0; i < f.n_meta; i++) {
        sum += strlen(sqm__file_text(&f, f.meta[i].key)) + strlen(sqm__file_text(&f, f.meta[i].value));
    }
    for (int32_t i = 0; i < f.n_ops; i++) sum += sqm__op_text(&f, i, line, sizeof(line));
    for (int32_t i = 0; i < f.n_tensors; i++) {
        const sqm_tensor view = sqm__file_tensor_view(&f, i);
        size_t n = 1;
        for (int32_t d = 0; d < view.ndim; d++) n *= (size_t)view.shape[d];
        if (n <= 4096) CHECK(sqm_tensor_values(values, n, &view, &err) == SQM_OK);
        CHECK(sqm__file_find(&f, sqm__file_text(&f, f.tensors[i].name)) <= i);
    }
    for (size_t i = 0; i < f.token_bytes; i++) sum += f.tokens[i];
    if (sum == 12345) printf("-");                     /* so that the reads are not optimised away */
    return SQM_OK;
}

/* ---- tests */
static void test_checksum_known_answer(void)
{
    CHECK(sqm__crc32c(0, "123456789", 9) == 0xe3069283u);
    CHECK(sqm__crc32c(sqm__crc32c(0, "1234", 4), "56789", 5) == 0xe3069283u);
    CHECK(sqm__crc32c(0, "", 0) == 0);
    CHECK(sqm__hash_text("") == 2166136261u && sqm__hash_text("foobar") == 0xbf9cf968u);
}

static void test_written_file_reads_back(void)
{
    sqm__file f;
    sqm_error err;
    size_t bytes;
    char line[200];
    uint8_t want[4096];
    CHECK(toy_write(TOY, toy_recipe, 4096) == SQM_OK);
    CHECK(!exists(TOY ".part"));
    uint8_t *image = read_file(TOY, &bytes);
    CHECK(bytes > 0 && bytes % 64 == 0);
    CHECK(sqm__file_open(&f, image, bytes, SQM_OPEN_VERIFY, &err) == SQM_OK);
    CHECK(f.n_tensors == N_TOY && f.n_ops == N_LINES && f.n_meta == 3);
    CHECK_TEXT(sqm__file_find_meta(&f, "license"), "none \"quoted\"\nsecond line");
    CHECK_TEXT(sqm__file_find_meta(&f, "empty"), "");
    CHECK(sqm__file_find_meta(&f, "absent") == NULL && sqm__file_find(&f, "absent") == -1);
    CHECK(f.token_bytes == 16 && memcmp(f.tokens, "tokenizer bytes", 16) == 0);
    for (int i = 0; i < N_TOY; i++) {
        const toy_tensor *t = &toy_tensors[i];
        const size_t size = sqm_tensor_bytes(t->dtype, t->layout, t->ndim, t->shape);
        const int32_t at = sqm__file_find(&f, t->name);
        CHECK(at == i);
        const sqm_tensor view = sqm__file_tensor_view(&f, at);
        CHECK(view.dtype == t->dtype && view.layout == t->layout && view.ndim == t->ndim);
        CHECK(memcmp(view.shape, t->shape, sizeof(t->shape)) == 0);
        CHECK(((const uint8_t *)view.data - image) % 64 == 0);
        fill(want, size, (uint32_t)i);
        CHECK(memcmp(view.data, want, size) == 0);
    }
    for (int32_t i = 0; i < N_LINES; i++) {
        CHECK(sqm__op_text(&f, i, line, sizeof(line)) == strlen(toy_lines[i]));
        CHECK_TEXT(line, toy_lines[i]);
        CHECK(sqm__op_text(&f, i, line, 5) == strlen(toy_lines[i]) && strlen(line) == 4);
        CHECK(sqm__op_text(&f, i, NULL, 0) == strlen(toy_lines[i]));
    }
    const sqm__file_op *linear = &f.ops[2], *rope = &f.ops[3], *add = &f.ops[5];
    CHECK(linear->op == 3 && linear->dst == 15 && linear->src == 1 && linear->src2 == SQM__REG_NONE);
    CHECK(linear->n_params == 3 && f.params[linear->first_param + 1].count == 2);
    CHECK(f.lists[(size_t)f.params[linear->first_param + 1].value] == 3);
    CHECK(f.lists[(size_t)f.params[linear->first_param + 1].value + 1] == 0xffffffffu);
    CHECK(rope->op == 4 && rope->mixer == 0 && add->src2 == 1 && add->n_params == 0);
    CHECK_TEXT(sqm__file_text(&f, f.ops[4].mixer), "attention");
    CHECK(f.ops[0].src == SQM__REG_TOKENS && f.ops[6].src == SQM__REG_POSITIONS &&
          f.ops[7].dst == SQM__REG_LOGITS);
    CHECK(sqm__file_param_float(&f.params[f.ops[0].first_param + 1]) == 2.5);
    CHECK(sqm__file_param_int(&f.params[f.ops[6].first_param + 1]) == 2);
    free(image);
}

static void test_same_input_gives_same_bytes(void)
{
    size_t bytes, bytes2;
    char printed[2000] = "";
    toy_write(TOY, toy_recipe, 4096);
    uint8_t *image = read_file(TOY, &bytes);
    for (size_t piece = 1; piece <= 64; piece += 21) {
        CHECK(toy_write(TOY, toy_recipe, piece) == SQM_OK);
        uint8_t *again = read_file(TOY, &bytes2);
        CHECK(bytes == bytes2 && memcmp(image, again, bytes) == 0);
        free(again);
    }
    for (int i = 0; i < N_LINES; i++) strcat(strcat(printed, toy_lines[i]), "\n");
    CHECK(toy_write(TOY, printed, 4096) == SQM_OK);    /* a printed recipe compiles to the same ops */
    uint8_t *again = read_file(TOY, &bytes2);
    CHECK(bytes == bytes2 && memcmp(image, again, bytes) == 0);
    free(again);
    free(image);
}

static void test_every_truncation_is_refused(const uint8_t *image, size_t bytes)
{
    int accepted = 0;
    for (size_t n = 0; n < bytes; n++) {
        uint8_t *cut = copy_of(image, n);
        if (open_and_use(cut, n, 0) == SQM_OK) accepted++;
        if (n >= 64) {                                 /* and with a header that agrees with the length */
            header_of(cut)->file_bytes = n;
            reseal(cut, n);
            if (open_and_use(cut, n, 0) == SQM_OK && n < section(cut, "DATA")->offset) accepted++;
        }
        free(cut);
    }
    uint8_t *longer = (uint8_t *)calloc(1, bytes + 64);
    memcpy(longer, image, bytes);
    CHECK(open_and_use(longer, bytes + 64, 0) == SQM_E_FORMAT);
    free(longer);
    CHECK(accepted == 0);
}

/* Does a checksum of header, section table or index section cover byte `at`? */
static int is_covered(uint8_t *image, size_t at)
{
    if (at < 64 + 32 * (size_t)header_of(image)->n_sections) return 1;
    for (uint32_t i = 0; i < header_of(image)->n_sections; i++) {
        const sqm__file_section *s = &table_of(image)[i];
        if (at >= s->offset && at - s->offset < s->bytes) return memcmp(&s->type, "DATA", 4) != 0;
    }
    return 0;
}

static void test_every_bit_flip_is_safe(const uint8_t *image, size_t bytes)
{
    uint8_t *copy = copy_of(image, bytes);
    const size_t front = (size_t)section(copy, "DATA")->offset;
    sqm__file f;
    int wrong = 0, refused = 0, accepted = 0;
    for (size_t i = 0; i < bytes; i++) {
        const int covered = is_covered(copy, i);
        for (int b = 0; b < 8; b++) {
            copy[i] = (uint8_t)(copy[i] ^ 1 << b);
            if ((sqm__file_open(&f, copy, bytes, 0, NULL) == SQM_OK) == covered) wrong++;
            if (open_and_use(copy, bytes, SQM_OPEN_VERIFY) == SQM_OK) wrong++;
            if (i < front) {                           /* the same with matching checksums */
                uint8_t *sealed = copy_of(copy, bytes);
                reseal(sealed, bytes);
                if (open_and_use(sealed, bytes, 0) == SQM_OK) accepted++; else refused++;
                free(sealed);
            }
            copy[i] = (uint8_t)(copy[i] ^ 1 << b);
        }
    }
    CHECK(wrong == 0);
    CHECK(refused > 4000);
    printf("index bit flips with right checksums: %d refused, %d harmless\n", refused, accepted);
    free(copy);
}

static void test_extreme_numbers_are_safe(const uint8_t *image, size_t bytes)
{
    static const uint64_t extremes[] = { 0, 1, 63, 64, 255, 4096, 0x7fffffff, 0x80000000u, 0xfffffff0u,
                                         0xffffffffu, UINT64_C(0x7fffffffffffffff),
                                         UINT64_C(0x8000000000000000),
                                         UINT64_C(0xffffffffffffffc0), UINT64_MAX };
    uint8_t *base = copy_of(image, bytes);
    const size_t front = (size_t)section(base, "DATA")->offset;
    int accepted = 0;
    for (size_t i = 8; i + 8 <= front; i += 2) {
        for (size_t e = 0; e < sizeof(extremes) / sizeof(extremes[0]); e++) {
            for (size_t width = 2; width <= 8; width *= 2) {
                uint8_t *copy = copy_of(image, bytes);
                memcpy(copy + i, &extremes[e], width);
                reseal(copy, bytes);
                if (open_and_use(copy, bytes, 0) == SQM_OK) accepted++;
                free(copy);
            }
        }
    }
    CHECK(accepted > 0);
    free(base);
}

typedef void (*damage_fn)(uint8_t *image);
static void damage_endian(uint8_t *p) { header_of(p)->endian = 0x04030201u; }
static void damage_mark(uint8_t *p) { header_of(p)->endian = 0x01020305u; }
static void damage_major(uint8_t *p) { header_of(p)->major = 2; }
static void damage_minor(uint8_t *p) { header_of(p)->minor = 999; }
static void damage_file_bytes(uint8_t *p) { header_of(p)->file_bytes = UINT64_MAX; }
static void damage_sections(uint8_t *p) { header_of(p)->n_sections = 65; }
static void damage_table(uint8_t *p) { header_of(p)->sections = 128; }
static void damage_alignment_32(uint8_t *p) { header_of(p)->alignment = 32; }
static void damage_alignment_96(uint8_t *p) { header_of(p)->alignment = 96; }
static void damage_alignment_4096(uint8_t *p) { header_of(p)->alignment = 4096; }
static void damage_flags(uint8_t *p) { header_of(p)->flags = 1; }
static void damage_reserved(uint8_t *p) { header_of(p)->reserved[3] = 1; }
static void damage_order(uint8_t *p) { table_of(p)[1].offset = table_of(p)[0].offset; }
static void damage_section_wrap(uint8_t *p) { table_of(p)[1].bytes = UINT64_MAX - table_of(p)[1].offset + 2; }
static void damage_section_align(uint8_t *p)
{
    section(p, "TOKN")->offset += 1;
    section(p, "TOKN")->bytes -= 1;
}
static void damage_twice(uint8_t *p) { memcpy(&section(p, "META")->type, "STRS", 4); }
static void damage_required(uint8_t *p) { memcpy(&section(p, "TOKN")->type, "FUTR", 4); }
static void damage_unknown(uint8_t *p)
{
    section(p, "TOKN")->flags = 0;
    damage_required(p);
}
static void damage_count(uint8_t *p) { section(p, "TENS")->count -= 1; }
static void damage_texts(uint8_t *p) { p[section(p, "STRS")->offset + section(p, "STRS")->bytes - 1] = 'x'; }
static void damage_no_texts(uint8_t *p) { section(p, "STRS")->bytes = 0; }
static void damage_no_data(uint8_t *p)
{
    section(p, "DATA")->flags = 0;
    memcpy(&section(p, "DATA")->type, "ATAD", 4);
}
static void damage_name(uint8_t *p) { entry_of(p, 2)->name = 0xffffffffu; }
static void damage_empty_name(uint8_t *p)
{
    entry_of(p, 2)->name = 0;
    entry_of(p, 2)->name_hash = 2166136261u;
}
static void damage_hash(uint8_t *p) { entry_of(p, 2)->name_hash ^= 1; }
static void damage_dtype(uint8_t *p) { entry_of(p, 2)->dtype = 27; }
static void damage_layout(uint8_t *p) { entry_of(p, 1)->layout = 2; }
static void damage_ndim_0(uint8_t *p) { entry_of(p, 1)->ndim = 0; }
static void damage_ndim_5(uint8_t *p) { entry_of(p, 1)->ndim = 5; }
static void damage_unused(uint8_t *p) { entry_of(p, 1)->shape[3] = 2; }
static void damage_shape(uint8_t *p) { entry_of(p, 0)->shape[1] = 6; }
static void damage_negative(uint8_t *p) { entry_of(p, 0)->shape[0] = -7; }
static void damage_offset(uint8_t *p) { entry_of(p, 1)->offset = UINT64_MAX - 63; }
static void damage_overlap(uint8_t *p) { entry_of(p, 1)->offset = entry_of(p, 0)->offset; }
static void damage_into_index(uint8_t *p) { entry_of(p, 0)->offset = 64; }
static void damage_beyond(uint8_t *p) { entry_of(p, N_TOY - 1)->offset += 64; }
static void damage_entry_reserved(uint8_t *p) { entry_of(p, 0)->reserved = 1; }
static sqm__file_op *op_of(uint8_t *p, int i)
{
    return (sqm__file_op *)(void *)(p + section(p, "RECP")->offset) + i;
}
static sqm__file_param *param_of(uint8_t *p, int i)
{
    return (sqm__file_param *)(void *)(p + section(p, "PARM")->offset) + i;
}
static void damage_register(uint8_t *p) { op_of(p, 0)->dst = 16; }
static void damage_op_params(uint8_t *p) { op_of(p, 7)->n_params = 3; }
static void damage_op_first(uint8_t *p) { op_of(p, 7)->first_param = 0xffffffffu; }
static void damage_op_mixer(uint8_t *p) { op_of(p, 4)->mixer = 100000; }
static void damage_op_flags(uint8_t *p) { op_of(p, 4)->flags = 1; }
static void damage_op_unknown(uint8_t *p) { op_of(p, 4)->op = 9999; }  /* [RECIPE] refuses it, naming it */
static void damage_param_key(uint8_t *p) { param_of(p, 0)->key = 0; }
static void damage_param_type(uint8_t *p) { param_of(p, 0)->type = 4; }
static void damage_param_list(uint8_t *p) { param_of(p, 0)->value = UINT64_MAX; }
static void damage_param_count(uint8_t *p) { param_of(p, 0)->count = 60000; }
static void damage_param_nan(uint8_t *p) { param_of(p, 1)->value = UINT64_C(0x7ff8000000000000); }
static void damage_param_text(uint8_t *p) { param_of(p, 3)->value = UINT64_C(0x100000000); }
static void damage_list(uint8_t *p) { ((uint32_t *)(void *)(p + section(p, "TLST")->offset))[1] = N_TOY; }
static void damage_meta(uint8_t *p) { ((uint32_t *)(void *)(p + section(p, "META")->offset))[1] = 1u << 20; }

static void test_crafted_files_get_the_right_error(const uint8_t *image, size_t bytes)
{
    static const struct { damage_fn fn; sqm_result want; const char *text; } cases[] = {
        { damage_endian, SQM_E_UNSUPPORTED, "big-endian" }, { damage_mark, SQM_E_FORMAT, "byte-order" },
        { damage_major, SQM_E_VERSION, "version 2" }, { damage_minor, SQM_OK, NULL },
        { damage_file_bytes, sizeof(size_t) < 8 ? SQM_E_LIMIT : SQM_E_FORMAT, "" },
        { damage_sections, SQM_E_FORMAT, "section table" }, { damage_table, SQM_E_FORMAT, "section table" },
        { damage_alignment_32, SQM_E_FORMAT, "alignment 32" },
        { damage_alignment_96, SQM_E_FORMAT, "alignment 96" },
        { damage_alignment_4096, SQM_E_FORMAT, "misaligned" }, { damage_flags, SQM_E_UNSUPPORTED, "header" },
        { damage_reserved, SQM_E_UNSUPPORTED, "header" }, { damage_order, SQM_E_FORMAT, "META" },
        { damage_section_wrap, SQM_E_FORMAT, "META" }, { damage_section_align, SQM_E_FORMAT, "TOKN" },
        { damage_twice, SQM_E_FORMAT, "twice" }, { damage_unknown, SQM_OK, NULL },
        { damage_required, SQM_E_UNSUPPORTED, "FUTR" }, { damage_count, SQM_E_FORMAT, "TENS" },
        { damage_texts, SQM_E_FORMAT, "STRS" }, { damage_no_texts, SQM_E_FORMAT, "STRS" },
        { damage_no_data, SQM_E_FORMAT, "data section" }, { damage_name, SQM_E_FORMAT, "tensor 2" },
        { damage_empty_name, SQM_E_FORMAT, "empty name" }, { damage_hash, SQM_E_FORMAT, "'l0.qkv'" },
        { damage_dtype, SQM_E_UNSUPPORTED, "dtype 27" }, { damage_layout, SQM_E_UNSUPPORTED, "'l0.norm'" },
        { damage_ndim_0, SQM_E_FORMAT, "'l0.norm'" }, { damage_ndim_5, SQM_E_FORMAT, "'l0.norm'" },
        { damage_unused, SQM_E_FORMAT, "dimension 3" }, { damage_shape, SQM_E_FORMAT, "[7, 6" },
        { damage_negative, SQM_E_FORMAT, "-7" }, { damage_offset, SQM_E_FORMAT, "'l0.norm'" },
        { damage_overlap, SQM_E_FORMAT, "'l0.norm'" }, { damage_into_index, SQM_E_FORMAT, "'embed'" },
        { damage_beyond, SQM_E_FORMAT, "'bytes'" }, { damage_entry_reserved, SQM_E_UNSUPPORTED, "'embed'" },
        { damage_register, SQM_E_FORMAT, "op 0" }, { damage_op_params, SQM_E_FORMAT, "op 7" },
        { damage_op_first, SQM_E_FORMAT, "op 7" }, { damage_op_mixer, SQM_E_FORMAT, "op 4" },
        { damage_op_flags, SQM_E_UNSUPPORTED, "op 4" }, { damage_op_unknown, SQM_OK, NULL },
        { damage_param_key, SQM_E_FORMAT, "parameter 0" }, { damage_param_type, SQM_E_FORMAT, "parameter 0" },
        { damage_param_list, SQM_E_FORMAT, "parameter 0" },
        { damage_param_count, SQM_E_FORMAT, "parameter 0" },
        { damage_param_nan, SQM_E_FORMAT, "parameter 1" }, { damage_param_text, SQM_E_FORMAT, "parameter 3" },
        { damage_list, SQM_E_FORMAT, "tensor 7 of 7" }, { damage_meta, SQM_E_FORMAT, "note 0" } };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        sqm_error err;
        sqm__file f;
        uint8_t *copy = copy_of(image, bytes);
        memset(&err, 0, sizeof(err));
        cases[i].fn(copy);
        reseal(copy, bytes);
        const sqm_result got = sqm__file_open(&f, copy, bytes, 0, &err);
        if (got != cases[i].want || (got != SQM_OK && !strstr(err.text, cases[i].text))) {
            printf("case %d: got %s \"%s\", wanted %s \"%s\"\n", (int)i, sqm_result_name(got), err.text,
                   sqm_result_name(cases[i].want), cases[i].text ? cases[i].text : "");
            CHECK(0);
        }
        open_and_use(copy, bytes, 0);
        free(copy);
    }
}

static void test_foreign_files_are_diagnosed(void)
{
    sqm__file f;
    sqm_error err;
    uint8_t image[128] = { 0 };
    CHECK(sqm__file_open(&f, NULL, 128, 0, &err) == SQM_E_ARGUMENT);
    uint8_t *aligned = (uint8_t *)calloc(1, 136);
    CHECK(sqm__file_open(&f, aligned + 4, 128, 0, &err) == SQM_E_ARGUMENT && err.value == 4);
    free(aligned);
    uint8_t *at = (uint8_t *)malloc(128);
    memcpy(at, image, 128);
    CHECK(sqm__file_open(&f, at, 128, 0, &err) == SQM_E_FORMAT && strstr(err.text, "not a .sqm"));
    memcpy(at, "GGUF", 4);
    CHECK(sqm__file_open(&f, at, 128, 0, &err) == SQM_E_FORMAT && strstr(err.text, "GGUF"));
    memcpy(at, "PK\003\004", 4);
    CHECK(sqm__file_open(&f, at, 128, 0, &err) == SQM_E_FORMAT && strstr(err.text, "zip"));
    memcpy(at, "version https://git-lfs", 23);
    CHECK(sqm__file_open(&f, at, 128, 0, &err) == SQM_E_FORMAT && strstr(err.text, "git-lfs"));
    memcpy(at, "\x89SQM\n\x1a\n", 7);
    CHECK(sqm__file_open(&f, at, 128, 0, &err) == SQM_E_FORMAT && strstr(err.text, "text-mode"));
    CHECK(sqm__file_open(&f, at, 0, 0, NULL) == SQM_E_FORMAT);
    free(at);
}

/* A header alone is a valid, empty file; opening finds nothing in it. */
static void test_file_without_sections(void)
{
    sqm__file f;
    uint8_t *image = (uint8_t *)calloc(1, 64);
    sqm__file_header *h = header_of(image);
    memcpy(h->magic, sqm__file_magic, 8);
    h->major = 1;
    h->endian = 0x01020304u;
    h->file_bytes = 64;
    h->alignment = 64;
    h->sections = 64;
    reseal(image, 64);
    CHECK(sqm__file_open(&f, image, 64, SQM_OPEN_VERIFY, NULL) == SQM_OK);
    CHECK(f.n_tensors == 0 && f.n_ops == 0 && sqm__file_find(&f, "x") == -1 &&
          sqm__file_find_meta(&f, "x") == NULL);
    CHECK_TEXT(sqm__file_text(&f, 0), "");
    CHECK_TEXT(sqm__file_text(&f, 77), "");
    free(image);
    sqm_writer *w = sqm_writer_open(TOY, NULL);        /* the writer's smallest file */
    CHECK(sqm_writer_close(w, NULL) == SQM_OK);
    size_t bytes;
    image = read_file(TOY, &bytes);
    CHECK(sqm__file_open(&f, image, bytes, SQM_OPEN_VERIFY, NULL) == SQM_OK && f.n_tensors == 0);
    free(image);
}

/* ---- writer errors */
static void check_recipe_error(const char *recipe, const char *want1, const char *want2)
{
    sqm_error err;
    sqm_writer *w = sqm_writer_open(TOY, &err);
    toy_declare(w);
    sqm_writer_recipe(w, recipe);
    toy_data(w, 4096);
    memset(&err, 0, sizeof(err));
    const sqm_result got = sqm_writer_close(w, &err);
    if (got != SQM_E_ARGUMENT || !strstr(err.text, want1) || !strstr(err.text, want2)) {
        printf("recipe \"%s\": %s \"%s\"\n", recipe, sqm_result_name(got), err.text);
        CHECK(0);
    }
    CHECK(!exists(TOY) && !exists(TOY ".part"));
}

static void test_recipe_errors_name_line_and_token(void)
{
    remove(TOY);
    check_recipe_error("add r0 r0 r1\nnrom r1 r0", "line 2", "'nrom'");
    check_recipe_error("norm r16 r0", "line 1", "'r16'");
    check_recipe_error("norm r1", "line 1", "register");
    check_recipe_error("norm r01 r1", "line 1", "'r01'");
    check_recipe_error("add r0 r0\n", "line 1", "add needs 3");
    check_recipe_error("add r0 r0 by=1", "line 1", "'by=1'");
    check_recipe_error("\n\nnorm r0 r0 r1", "line 3", "'r1' is not key=value");
    check_recipe_error("norm r0 r0 eps=", "line 1", "'eps='");
    check_recipe_error("norm r0 r0 =1", "line 1", "'=1'");
    check_recipe_error("mix r0 r0", "line 1", "mixer");
    check_recipe_error("mix r0 r0 heads=3", "line 1", "'heads=3'");
    check_recipe_error("norm r0 r0 w=@nothing", "line 1", "'@nothing'");
    check_recipe_error("norm r0 r0 w=@", "line 1", "'@'");
    check_recipe_error("norm r0 r0 w=@embed,", "line 1", "no declared tensor");
    check_recipe_error("norm r0 r0 w=@embed,l0.norm", "line 1", "'l0.norm'");
    check_recipe_error("norm r0 r0 w=@rms", "line 1", "'@rms'");                   /* a text, but no tensor */
    check_recipe_error("norm r0 r0 eps=1 eps=2", "line 1", "twice");
    check_recipe_error("norm r0 r0 eps=1e999", "line 1", "1e999");
    check_recipe_error("norm r0 r0 eps=1.2.3", "line 1", "1.2.3");
    check_recipe_error("norm r0 r0 eps=0x10", "line 1", "0x10");
    check_recipe_error("norm r0 r0 n=99999999999999999999", "line 1", "99999999999999999999");
    check_recipe_error("norm r0 r0 eps=1_this_token_is_far_longer_than_the_room_that_messages_give_it_"
                       "and_so_it_is_cut_somewhere_in_the_middle_of_it_all", "line 1", "eps=1_this");
}

enum { BAD_NAME, BAD_EMPTY_NAME, BAD_SHAPE, BAD_ZERO, BAD_DTYPE, BAD_TWICE, BAD_LATE_DECLARE, BAD_LATE_META,
       BAD_META_TWICE, BAD_META_NULL, BAD_TOKENS_TWICE, BAD_TOKENS_EMPTY, BAD_DATA_NULL, BAD_DATA_LONG,
       BAD_DATA_SHORT, BAD_DATA_EXTRA, BAD_NO_DATA, BAD_RECIPE_NULL, BAD_RECIPE_LATE, BAD_COUNT };

static void misuse(sqm_writer *w, int what)
{
    const int32_t shape[2] = { 2, 4 }, zero[2] = { 2, 0 };
    const float data[16] = { 0 };
    sqm_writer_declare(w, "good", SQM_F32, SQM_ROWS, 2, shape);
    switch (what) {
    case BAD_NAME:         sqm_writer_declare(w, "a b", SQM_F32, SQM_ROWS, 2, shape); break;
    case BAD_EMPTY_NAME:   sqm_writer_declare(w, "", SQM_F32, SQM_ROWS, 2, shape); break;
    case BAD_SHAPE:        sqm_writer_declare(w, "b", SQM_F32, SQM_PANELS, 1, shape); break;
    case BAD_ZERO:         sqm_writer_declare(w, "b", SQM_F32, SQM_ROWS, 2, zero); break;
    case BAD_DTYPE:        sqm_writer_declare(w, "b", (sqm_dtype)9, SQM_ROWS, 2, shape); break;
    case BAD_TWICE:        sqm_writer_declare(w, "good", SQM_F32, SQM_ROWS, 2, shape); break;
    case BAD_META_TWICE:   sqm_writer_meta(w, "name", "a"); sqm_writer_meta(w, "name", "b"); break;
    case BAD_META_NULL:    sqm_writer_meta(w, "name", NULL); break;
    case BAD_TOKENS_TWICE: sqm_writer_tokenizer(w, "x", 1); sqm_writer_tokenizer(w, "x", 1); break;
    case BAD_TOKENS_EMPTY: sqm_writer_tokenizer(w, "x", 0); break;
    case BAD_RECIPE_NULL:  sqm_writer_recipe(w, NULL); break;
    case BAD_DATA_NULL:    sqm_writer_data(w, NULL, 4); break;
    case BAD_DATA_LONG:    sqm_writer_data(w, data, 36); break;
    case BAD_NO_DATA:      return;
    default: break;
    }
    sqm_writer_data(w, data, 20);
    if (what == BAD_DATA_SHORT) return;
    if (what == BAD_LATE_DECLARE) sqm_writer_declare(w, "c", SQM_F32, SQM_ROWS, 2, shape);
    if (what == BAD_LATE_META) sqm_writer_meta(w, "late", "x");
    if (what == BAD_RECIPE_LATE) sqm_writer_recipe(w, "add r0 r0 r1");
    sqm_writer_data(w, data, 12);
    if (what == BAD_DATA_EXTRA) sqm_writer_data(w, data, 1);
}

static void test_misuse_leaves_no_file(void)
{
    for (int what = 0; what < BAD_COUNT; what++) {
        sqm_error err;
        memset(&err, 0, sizeof(err));
        remove(TOY);
        sqm_writer *w = sqm_writer_open(TOY, &err);
        misuse(w, what);
        const sqm_result got = sqm_writer_close(w, &err);
        if (got != SQM_E_ARGUMENT || err.code != got || !err.text[0]) printf("misuse %d\n", what);
        CHECK(got == SQM_E_ARGUMENT && err.code == got && err.text[0]);
        CHECK(!exists(TOY) && !exists(TOY ".part"));
    }
    sqm_writer *w = sqm_writer_open(TOY, NULL);        /* and without any of them there is a file */
    misuse(w, BAD_COUNT);
    CHECK(sqm_writer_close(w, NULL) == SQM_OK && exists(TOY));
    sqm_writer_meta(NULL, "a", "b");
    sqm_writer_tokenizer(NULL, "a", 1);
    sqm_writer_declare(NULL, "a", SQM_F32, SQM_ROWS, 0, NULL);
    sqm_writer_recipe(NULL, "");
    sqm_writer_data(NULL, "a", 1);
    sqm_writer_abort(NULL);
    CHECK(sqm_writer_close(NULL, NULL) == SQM_E_ARGUMENT);
}

static void test_failures_keep_the_old_file(void)
{
    sqm_error err;
    size_t bytes, bytes2;
    CHECK(toy_write(TOY, toy_recipe, 4096) == SQM_OK);
    uint8_t *before = read_file(TOY, &bytes);
    CHECK(toy_write(TOY, "nonsense", 4096) == SQM_E_ARGUMENT);
    sqm_writer *w = sqm_writer_open(TOY, NULL);
    toy_declare(w);
    toy_data(w, 4096);
    sqm_writer_abort(w);
    uint8_t *after = read_file(TOY, &bytes2);
    CHECK(bytes == bytes2 && memcmp(before, after, bytes) == 0 && !exists(TOY ".part"));
    free(after);
    free(before);
    CHECK(sqm_writer_open(TEST_TMP "no_such_directory/x.sqm", &err) == NULL && err.code == SQM_E_IO);
    CHECK(strstr(err.text, "no_such_directory") != NULL);
    CHECK(sqm_writer_open("", &err) == NULL && err.code == SQM_E_ARGUMENT);
    CHECK(sqm_writer_open(NULL, NULL) == NULL);
}

#if defined(__unix__) || defined(__APPLE__)
static void test_full_disk_leaves_no_file(void)
{
    struct rlimit old, small;
    remove(TOY);
    signal(SIGXFSZ, SIG_IGN);
    if (getrlimit(RLIMIT_FSIZE, &old) != 0) return;
    for (rlim_t limit = 0; limit < 6000; limit += 1500) {
        small = old;
        small.rlim_cur = limit;
        if (setrlimit(RLIMIT_FSIZE, &small) != 0) return;
        const sqm_result got = toy_write(TOY, toy_recipe, 4096);
        setrlimit(RLIMIT_FSIZE, &old);
        CHECK(got == SQM_E_IO);
        CHECK(!exists(TOY) && !exists(TOY ".part"));
    }
    CHECK(toy_write(TEST_TMP ".", toy_recipe, 4096) == SQM_E_IO);      /* a directory cannot be replaced */
    CHECK(!exists(TEST_TMP "..part"));
}
#else
static void test_full_disk_leaves_no_file(void) {}
#endif

/* A locale with a decimal comma must change neither files nor printed recipes. Skipped where none is
   installed. */
static void test_locale_does_not_matter(void)
{
    static const char *const names[] = { "de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8", "fr_FR.utf8" };
    size_t bytes, bytes2;
    char line[200];
    sqm__file f;
    int found = 0;
    toy_write(TOY, toy_recipe, 4096);
    uint8_t *image = read_file(TOY, &bytes);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && !found; i++) {
        found = setlocale(LC_NUMERIC, names[i]) != NULL;
    }
    CHECK(toy_write(TOY, toy_recipe, 4096) == SQM_OK);
    uint8_t *again = read_file(TOY, &bytes2);
    CHECK(bytes == bytes2 && memcmp(image, again, bytes) == 0);
    CHECK(sqm__file_open(&f, image, bytes, 0, NULL) == SQM_OK);
    for (int32_t i = 0; i < N_LINES; i++) {
        sqm__op_text(&f, i, line, sizeof(line));
        CHECK_TEXT(line, toy_lines[i]);
    }
    setlocale(LC_NUMERIC, "C");
    if (!found) printf("no locale with a decimal comma: not tested\n");
    free(again);
    free(image);
}

static void test_many_tensors_and_texts(void)
{
    const int32_t n = 3000, shape[1] = { 1 };
    char name[40], *recipe = (char *)calloc(1, 100 * (size_t)n);
    size_t used = 0, bytes;
    sqm__file f;
    sqm_writer *w = sqm_writer_open(TOY, NULL);
    for (int32_t i = 0; i < n; i++) {
        snprintf(name, sizeof(name), "layers.%d.weight", (int)i);
        sqm_writer_declare(w, name, SQM_F32, SQM_ROWS, 1, shape);
        used += (size_t)snprintf(recipe + used, 100, "norm r0 r0 w=@%s eps=1e-5 kind=k%d\n", name, (int)i);
    }
    sqm_writer_recipe(w, recipe);
    for (int32_t i = 0; i < n; i++) {
        const float value = (float)i;
        sqm_writer_data(w, &value, 4);
    }
    CHECK(sqm_writer_close(w, NULL) == SQM_OK);
    uint8_t *image = read_file(TOY, &bytes);
    CHECK(sqm__file_open(&f, image, bytes, SQM_OPEN_VERIFY, NULL) == SQM_OK && f.n_tensors == n &&
          f.n_ops == n);
    int bad = 0;
    for (int32_t i = 0; i < n; i += 7) {
        snprintf(name, sizeof(name), "layers.%d.weight", (int)i);
        const sqm_tensor view = sqm__file_tensor_view(&f, sqm__file_find(&f, name));
        if (sqm__load_f32(view.data) != (float)i) bad++;
        if (f.lists[(size_t)f.params[f.ops[i].first_param].value] != (uint32_t)i) bad++;
    }
    CHECK(bad == 0);
    free(image);
    free(recipe);
}

int main(void)
{
    size_t bytes;
    test_checksum_known_answer();
    test_written_file_reads_back();
    test_same_input_gives_same_bytes();
    toy_write(TOY, toy_recipe, 4096);
    uint8_t *image = read_file(TOY, &bytes);
    test_every_truncation_is_refused(image, bytes);
    test_every_bit_flip_is_safe(image, bytes);
    test_extreme_numbers_are_safe(image, bytes);
    test_crafted_files_get_the_right_error(image, bytes);
    free(image);
    test_foreign_files_are_diagnosed();
    test_file_without_sections();
    test_recipe_errors_name_line_and_token();
    test_misuse_leaves_no_file();
    test_failures_keep_the_old_file();
    test_full_disk_leaves_no_file();
    test_locale_does_not_matter();
    test_many_tensors_and_texts();
    remove(TOY);
    return check_report("test_file");
}
