/* Fuzz entry of the weight file reader: opens the input as it is and with checksums made right, and touches
   all that an accepted file gives.
     libFuzzer: clang -g -O1 -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER tests/fuzz_open.c -lm
     plain:     cc tests/fuzz_open.c -lm;  a.out FILE...  or  a.out --mutate N FILE (N damaged copies) */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *image = (uint8_t *)malloc(size ? size : 1);               /* exact size, aligned */
    if (!image) return 0;
    if (size) memcpy(image, data, size);
    uint32_t sum = open_all_ways(image, size);
    reseal(image, size);
    sum += open_all_ways(image, size);
    if (sum == 0x5eed5eedu) puts("one in four thousand million");
    free(image);
    return 0;
}

#ifndef FUZZ_LIBFUZZER
static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* A few changes of the kinds that matter: bits, extreme numbers at even places, copied pieces, truncation. */
static size_t mutate(uint8_t *data, size_t bytes, uint64_t *state)
{
    static const uint64_t numbers[] = { 0, 1, 2, 16, 63, 64, 65, 255, 256, 4096, 65535, 0x7fffffff,
                                        0x80000000u,
                                        0xffffffffu, UINT64_C(0x7fffffffffffffff),
                                        UINT64_C(0x8000000000000000),
                                        UINT64_MAX };
    const size_t window = random_next(state) % 4 && bytes > 4096 ? 4096 : bytes;       /* mostly the index */
    for (uint64_t n = 1 + random_next(state) % 4; n; n--) {
        const size_t at = (size_t)(random_next(state) % window);
        const size_t width = (size_t)1 << random_next(state) % 4, even = at / width * width;
        switch (random_next(state) % 8) {
        case 0: case 1: data[at] = (uint8_t)(data[at] ^ 1u << random_next(state) % 8); break;
        case 2: data[at] = (uint8_t)random_next(state); break;
        case 3: case 4: case 5: {
            const uint64_t v = numbers[random_next(state) % (sizeof(numbers) / sizeof(numbers[0]))];
            if (even + width <= bytes) memcpy(data + even, &v, width);
            break;
        }
        case 6: {
            const size_t from = (size_t)(random_next(state) % window) / width * width;
            if (from + width <= bytes && even + width <= bytes) memmove(data + even, data + from, width);
            break;
        }
        default:
            if (random_next(state) % 16 == 0) return at;
            break;
        }
    }
    return bytes;
}

int main(int argc, char **argv)
{
    const int mutating = argc == 4 && strcmp(argv[1], "--mutate") == 0;
    enum { ROOM = 1 << 22 };
    uint8_t *data = (uint8_t *)malloc(ROOM), *copy = (uint8_t *)malloc(ROOM);
    int status = data && copy && argc > 1 ? 0 : 2;
    for (int i = mutating ? 3 : 1; i < argc && !status; i++) {
        FILE *f = fopen(argv[i], "rb");
        if (!f) { fprintf(stderr, "cannot open %s\n", argv[i]); status = 1; break; }
        const size_t bytes = fread(data, 1, ROOM, f);
        fclose(f);
        (void)LLVMFuzzerTestOneInput(data, bytes);
        uint64_t state = UINT64_C(88172645463325252);
        for (long n = mutating ? strtol(argv[2], NULL, 10) : 0; n > 0 && bytes; n--) {
            memcpy(copy, data, bytes);
            (void)LLVMFuzzerTestOneInput(copy, mutate(copy, bytes, &state));
        }
    }
    free(copy);
    free(data);
    return status;
}
#endif
