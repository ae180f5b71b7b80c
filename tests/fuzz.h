/* fuzz.h: what the fuzz targets share. A target is a table of readers; each is given bytes of any kind and
   must come back: no crash, no leak, no memory or time out of proportion. One source serves two engines:
     libFuzzer   clang -g -O1 -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER tests/fuzz_tok.c -lm
                 fuzz_tok --reader=NAME -max_total_time=600 DIR
     built in    cc tests/fuzz_tok.c -lm
                 fuzz_tok --reader=NAME [--mutate=N] FILE...       the files, and N damaged copies of each
   --list prints the names of the readers; --reader=NAME --seeds=DIR writes small good inputs into DIR.
   tests/fuzz.sh runs all of them. */
#ifndef FUZZ_H
#define FUZZ_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct fuzz_reader {
    const char *name;
    void      (*run)(const uint8_t *data, size_t size);
    void      (*seeds)(void);          /* calls fuzz_seed for each; NULL: they come from elsewhere */
} fuzz_reader;

static const fuzz_reader *fuzz_readers(void);          /* the target's, ended by a NULL name */
static const fuzz_reader *fuzz_chosen;
static const char *fuzz_directory;                     /* of the seeds */

static inline void fuzz_seed(const char *name, const void *data, size_t bytes)
{
    char path[512];
    FILE *f;
    snprintf(path, sizeof path, "%s/%s", fuzz_directory, name);
    f = fopen(path, "wb");
    if (!f || fwrite(data, 1, bytes, f) != bytes || fclose(f)) {
        fprintf(stderr, "cannot write %s\n", path);
        exit(1);
    }
}

/* A copy of exactly this size: what reads past it is seen. */
static inline uint8_t *fuzz_copy(const uint8_t *data, size_t size)
{
    uint8_t *copy = (uint8_t *)malloc(size ? size : 1);
    if (!copy) exit(2);
    if (size) memcpy(copy, data, size);
    return copy;
}

/* All of a file; NULL if it cannot be read or is larger than 4 MiB. */
static inline uint8_t *fuzz_read(const char *path, size_t *bytes)
{
    enum { ROOM = 1 << 22 };
    uint8_t *data = (uint8_t *)malloc(ROOM);
    FILE *f = fopen(path, "rb");
    *bytes = data && f ? fread(data, 1, ROOM, f) : ROOM;
    if (f) fclose(f);
    if (*bytes < ROOM) return data;
    fprintf(stderr, "cannot read %s\n", path);
    free(data);
    return NULL;
}

/* The rest of an argument that starts with this; NULL: it is another one. */
static inline const char *fuzz_option(const char *argument, const char *start)
{
    const size_t n = strlen(start);
    return strncmp(argument, start, n) == 0 ? argument + n : NULL;
}

static inline void fuzz_choose(const char *name)
{
    for (fuzz_chosen = fuzz_readers(); fuzz_chosen->name; fuzz_chosen++)
        if (strcmp(fuzz_chosen->name, name) == 0) return;
    fprintf(stderr, "there is no reader %s\n", name);
    exit(2);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Takes the arguments that both engines share out of the list. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    int kept = 1;
    fuzz_chosen = fuzz_readers();
    for (int i = 1; i < *argc; i++) {
        const char *name = fuzz_option((*argv)[i], "--reader="), *seeds = fuzz_option((*argv)[i], "--seeds=");
        if (name) {
            fuzz_choose(name);
        } else if (seeds) {
            fuzz_directory = seeds;
            if (fuzz_chosen->seeds) fuzz_chosen->seeds();
            exit(0);
        } else if (strcmp((*argv)[i], "--list") == 0) {
            for (const fuzz_reader *r = fuzz_readers(); r->name; r++) puts(r->name);
            exit(0);
        } else {
            (*argv)[kept++] = (*argv)[i];
        }
    }
    *argc = kept;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_chosen->run(data, size);
    return 0;
}

#ifndef FUZZ_LIBFUZZER
static uint64_t fuzz_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* A few changes of the kinds that matter: bits, extreme numbers at even places, digits, copies, cuts. */
static size_t fuzz_mutate(uint8_t *data, size_t bytes, uint64_t *state)
{
    static const uint64_t numbers[] = { 0, 1, 2, 3, 16, 63, 64, 65, 255, 256, 4096, 65535, 0x7fffffff,
                                        0x80000000u, 0xfffffffeu, 0xffffffffu,
                                        UINT64_C(0x7fffffffffffffff), UINT64_C(0x8000000000000000),
                                        UINT64_MAX };
    const size_t window = fuzz_random(state) % 4 && bytes > 4096 ? 4096 : bytes;       /* mostly the index */
    for (uint64_t n = 1 + fuzz_random(state) % 4; n; n--) {
        const size_t at = (size_t)(fuzz_random(state) % window);
        const size_t width = (size_t)1 << fuzz_random(state) % 4, even = at / width * width;
        const size_t from = (size_t)(fuzz_random(state) % window) / width * width;
        const uint64_t v = numbers[fuzz_random(state) % (sizeof numbers / sizeof numbers[0])];
        switch (fuzz_random(state) % 8) {
        case 0: case 1: data[at] = (uint8_t)(data[at] ^ 1u << fuzz_random(state) % 8); break;
        case 2: data[at] = (uint8_t)fuzz_random(state); break;
        case 3: data[at] = (uint8_t)"0123456789-.e\"[]{},:"[fuzz_random(state) % 20]; break;
        case 4: case 5: if (even + width <= bytes) memcpy(data + even, &v, width); break;
        case 6:
            if (from + width <= bytes && even + width <= bytes) memmove(data + even, data + from, width);
            break;
        default: if (fuzz_random(state) % 16 == 0) return at;
        }
    }
    return bytes;
}

static int fuzz_file(const char *path, long rounds)
{
    uint64_t state = UINT64_C(88172645463325252);
    size_t bytes;
    uint8_t *data = fuzz_read(path, &bytes);
    if (!data) return 0;
    (void)LLVMFuzzerTestOneInput(data, bytes);
    for (; rounds > 0 && bytes; rounds--) {
        uint8_t *copy = fuzz_copy(data, bytes);
        (void)LLVMFuzzerTestOneInput(copy, fuzz_mutate(copy, bytes, &state));
        free(copy);
    }
    free(data);
    return 1;
}

int main(int argc, char **argv)
{
    long rounds = 0;
    int ok = 1, files = 0;
    (void)LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++) {
        const char *mutate = fuzz_option(argv[i], "--mutate=");
        if (mutate) { rounds = strtol(mutate, NULL, 10); continue; }
        ok = fuzz_file(argv[i], rounds) && ok;
        files++;
    }
    if (!files) fprintf(stderr, "usage: %s --reader=NAME [--mutate=N] FILE...\n", argv[0]);
    return !ok || !files;
}
#endif
#endif
