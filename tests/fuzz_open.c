/* Fuzz target of what the library itself reads (see fuzz.h): weight files, as they are and with checksums
   made right, and all that an accepted one gives; saved sequences of a whole model; saved states of every
   mixer. */
#define SEQMODEL_IMPLEMENTATION
#include "toy.h"
#include "samples.h"
#include "fuzz.h"
#ifndef TEST_TMP
#define TEST_TMP ""
#endif

/* ---- weight files -------------------------------------------------------------------------------------- */
/* Recomputes every checksum that lies inside the file, so that damage gets past them. */
static void reseal(uint8_t *image, size_t bytes)
{
    if (bytes < sizeof(sqm__file_header)) return;
    sqm__file_header *h = (sqm__file_header *)(void *)image;
    sqm__file_section *s = (sqm__file_section *)(void *)(image + 64);
    size_t n = (bytes - 64) / 32;
    if (h->n_sections < n) n = h->n_sections;
    memcpy(h->magic, sqm__file_magic, 8);
    h->file_bytes = bytes;
    for (size_t i = 0; i < n; i++) {
        if (s[i].offset > bytes || s[i].bytes > bytes - s[i].offset) continue;
        s[i].crc = sqm__crc32c(0, image + s[i].offset, (size_t)s[i].bytes);
    }
    h->crc = 0;
    h->crc = sqm__crc32c(0, image, 64 + n * 32);
}

static uint32_t use_file(const sqm__file *f)
{
    uint32_t sum = 0;
    for (int32_t i = 0; i < f->n_meta; i++) sum += (uint32_t)strlen(sqm__file_text(f, f->meta[i].value));
    for (int32_t i = 0; i < f->n_ops; i++) {
        char line[256];
        sum += (uint32_t)sqm__op_text(f, i, line, sizeof(line));
    }
    for (int32_t i = 0; i < f->n_tensors; i++) {
        const sqm_tensor view = sqm__file_tensor_view(f, i);
        const size_t bytes = sqm_tensor_bytes(view.dtype, view.layout, view.ndim, view.shape);
        sum = sqm__crc32c(sum, view.data, bytes);
        if (view.ndim == 2 && view.shape[1] <= 4096) {
            float row[4096];
            sqm_error err;
            if (sqm_tensor_row(row, &view, view.shape[0] - 1, &err) != SQM_OK) abort();
        }
    }
    return sum;
}

/* Returns a number that depends on all that was read, so that compilers cannot drop the reads. */
static uint32_t open_all_ways(const uint8_t *image, size_t bytes)
{
    uint32_t sum = 0;
    sqm__file f;
    sqm_error err;
    if (sqm__file_open(&f, image, bytes, 0, &err) == SQM_OK) sum += use_file(&f);
    if (sqm__file_open(&f, image, bytes, SQM_OPEN_VERIFY, &err) == SQM_OK) sum += 1;
    sqm_model *m = sqm_load_memory(image, bytes, NULL, &err);
    if (m) sum += (uint32_t)sqm_session_size(m, NULL, &err);
    sqm_model_free(m);
    return sum;
}

static void run_weights(const uint8_t *data, size_t size)
{
    uint8_t *image = fuzz_copy(data, size);
    uint32_t sum = open_all_ways(image, size);
    reseal(image, size);
    sum += open_all_ways(image, size);
    if (sum == 0x5eed5eedu) puts("one in four thousand million");
    free(image);
}

static void seed_weights(void)
{
    size_t bytes;
    uint8_t *data = fuzz_read("tests/data/toy.sqm", &bytes);
    if (data) fuzz_seed("toy.sqm", data, bytes);
    free(data);
}

/* ---- saved sequences ----------------------------------------------------------------------------------- */
/* The model of toy.h with room for 16 tokens, made at the first call. */
static sqm_session *toy_session(void)
{
    static sqm_session *s;
    static const char path[] = TEST_TMP "fuzz_open.sqm";
    sqm_session_config c;
    sqm_error err;
    sqm_model *m;
    if (s) return s;
    memset(&c, 0, sizeof c);
    c.max_context = 16;
    c.max_batch = 8;
    c.threads = 1;
    m = toy_write(path, SQM_F32, &err) == SQM_OK ? sqm_load_file(path, NULL, &err) : NULL;
    s = m ? sqm_session_create(m, &c, &err) : NULL;
    remove(path);
    if (!s) { fprintf(stderr, "%s\n", err.text); exit(2); }
    return s;
}

static void feed_some(sqm_session *s, int32_t n)
{
    static const int32_t tokens[8] = { 1, 200, 3, 77, 5, 256, 0, 31 };
    for (; n > 0; n -= 8) (void)sqm_feed(s, 0, tokens, n < 8 ? n : 8);
}

/* What loads is fed, saved and loaded again. */
static void run_sequence(const uint8_t *data, size_t size)
{
    sqm_session *s = toy_session();
    uint8_t *saved = fuzz_copy(data, size);
    if (sqm_state_load(s, 0, saved, size) == SQM_OK) {
        size_t bytes;
        uint8_t *again;
        feed_some(s, 1);
        bytes = sqm_state_size(s, 0);
        again = (uint8_t *)malloc(bytes);
        if (!again) exit(2);
        if (sqm_state_save(s, 0, again, bytes) != SQM_OK) abort();
        if (sqm_state_load(s, 0, again, bytes) != SQM_OK) abort();
        free(again);
    }
    free(saved);
    if (sqm_reset(s, 0) != SQM_OK) abort();
}

static void seed_sequences(void)
{
    static const int32_t lengths[] = { 0, 5, 16 };
    sqm_session *s = toy_session();
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        char name[16];
        size_t bytes;
        uint8_t *saved;
        if (sqm_reset(s, 0) != SQM_OK) abort();
        feed_some(s, lengths[i]);
        bytes = sqm_state_size(s, 0);
        saved = (uint8_t *)calloc(bytes, 1);
        if (!saved || sqm_state_save(s, 0, saved, bytes) != SQM_OK) abort();
        snprintf(name, sizeof name, "%d", (int)lengths[i]);
        fuzz_seed(name, saved, bytes);
        free(saved);
    }
}

/* ---- states of single mixers --------------------------------------------------------------------------- */
enum { CONTEXT = 16, ROWS = 4, PLACES = CONTEXT - ROWS + 1 };
static const sqm_dtype kv_types[] = { SQM_F32, SQM_F16, SQM_I8, SQM_Q4 };
typedef struct slot {                  /* a mixer of samples.h with a state at position 0 */
    rig      r;
    sqm_exec x;
    uint8_t *state, *scratch;
    float   *in, *out;
    size_t   state_bytes;
} slot;

static void slot_open(slot *s, int32_t sample_number, int32_t kv)
{
    sqm_error err;
    size_t scratch_bytes;
    rig_open(&s->r, &samples[sample_number]);
    if (rig_bind(&s->r, &err) != SQM_OK) abort();
    s->state_bytes = s->r.mixer->state_bytes(s->r.bound, CONTEXT, ROWS, kv_types[kv]);
    scratch_bytes = s->r.mixer->scratch_bytes(s->r.bound, CONTEXT, ROWS, 1) + 192;
    s->state = (uint8_t *)calloc(s->state_bytes + 1, 1);
    s->scratch = (uint8_t *)calloc(scratch_bytes, 1);
    s->in = (float *)calloc((size_t)(s->r.width * ROWS), sizeof(float));
    s->out = (float *)calloc((size_t)(s->r.out * ROWS), sizeof(float));
    if (!s->state || !s->scratch || !s->in || !s->out) exit(2);
    if (sqm_exec_init(&s->x, SQM_ISA_AUTO, 1, s->scratch, scratch_bytes) != SQM_OK) abort();
    s->r.mixer->reset(s->r.bound, s->state, s->state_bytes, CONTEXT, ROWS, kv_types[kv]);
    for (int32_t i = 0; i < s->r.width * ROWS; i++) s->in[i] = values[i % 999];
}

static void slot_close(slot *s)
{
    free(s->state); free(s->scratch); free(s->in); free(s->out);
}

static void slot_feed(slot *s, int32_t position)
{
    sqm_span span = { NULL, 0, ROWS, 0, 0 };
    if (s->state_bytes) span.state = s->state;
    span.position = position;
    span.total = position + ROWS;
    (void)s->r.mixer->forward(s->r.bound, &s->x, s->out, s->in, &span, 1);
}

/* Bytes of a state behind its header, as sqm_state_load copies them */
static size_t slot_used(const slot *s, int32_t position)
{
    const size_t used = s->r.mixer->used_bytes(s->r.bound, s->state, position);
    return used > s->r.mixer->header_bytes ? used - s->r.mixer->header_bytes : 0;
}

/* Input: number of the sample, position + PLACES * type of caches, what is behind the header of the state. */
static void run_slot(const uint8_t *data, size_t size)
{
    slot s;
    if (size < 2) return;
    if (values[0] == 0.0f) fill_values();
    slot_open(&s, data[0] % N_SAMPLES, data[1] / PLACES % 4);
    if (s.state_bytes) {
        const int32_t position = data[1] % PLACES;
        const size_t used = slot_used(&s, position), n = size - 2 < used ? size - 2 : used;
        memcpy(s.state + s.r.mixer->header_bytes, data + 2, n);
        slot_feed(&s, position);
    }
    slot_close(&s);
}

static void seed_slots(void)
{
    fill_values();
    for (int32_t i = 0; i < N_SAMPLES * 4; i++) {
        slot s;
        slot_open(&s, i / 4, i % 4);
        if (s.state_bytes) {
            size_t used;
            char name[16];
            uint8_t *seed;
            slot_feed(&s, 0);
            slot_feed(&s, ROWS);
            used = slot_used(&s, 2 * ROWS);
            seed = (uint8_t *)calloc(used + 2, 1);
            if (!seed) exit(2);
            seed[0] = (uint8_t)(i / 4);
            seed[1] = (uint8_t)(2 * ROWS + i % 4 * PLACES);
            memcpy(seed + 2, s.state + s.r.mixer->header_bytes, used);
            snprintf(name, sizeof name, "%d", (int)i);
            fuzz_seed(name, seed, used + 2);
            free(seed);
        }
        slot_close(&s);
    }
}

static const fuzz_reader *fuzz_readers(void)
{
    static const fuzz_reader readers[] = {
        { "weights", run_weights, seed_weights }, { "sequence", run_sequence, seed_sequences },
        { "state", run_slot, seed_slots }, { NULL, NULL, NULL }
    };
    return readers;
}
