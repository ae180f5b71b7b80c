/* conv_base.h: what every reader of the converter stands on: one sticky error text, an arena, mapped
   files.

   A conv_env lives as long as one conversion. The first error wins; after it every function returns
   "nothing" and the callers fall through, so that only loops and real decisions look at env->failed. All
   memory and all files of a conversion go away together in conv_env_close.                                 */
#ifndef CONV_BASE_H_INCLUDED
#define CONV_BASE_H_INCLUDED
#include <stdarg.h>
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__unix__) || defined(__APPLE__)
#  define CONV_HAVE_MMAP 1
#  include <fcntl.h>
#  include <sys/mman.h>
#  include <sys/stat.h>
#  include <unistd.h>
#else
#  define CONV_HAVE_MMAP 0
#endif

typedef struct conv_block {           /* arena block; memory follows the header                             */
    struct conv_block *next;
    size_t             used, size;
} conv_block;

typedef struct conv_file {            /* a whole file in memory, read-only                                  */
    struct conv_file *next;
    const char       *path;
    const uint8_t    *data;
    uint64_t          bytes;
} conv_file;

typedef struct conv_env {
    char        error[2048];
    int         failed;
    int         unknown;              /* the error is "unknown architecture", not a damaged checkpoint      */
    conv_block *blocks;
    conv_file  *files;
} conv_env;

#if defined(__GNUC__)
#  define CONV_PRINTF(a, b) __attribute__((format(printf, a, b), unused))
#  define CONV_UNUSED __attribute__((unused))
#else
#  define CONV_PRINTF(a, b)
#  define CONV_UNUSED
#endif

/* ---- errors -------------------------------------------------------------------------------------------- */
/* Keeps the first error and returns 0. Names come from files: bytes that a terminal would act on become
   '?'.                                                                                                     */
CONV_PRINTF(2, 3) static int conv_fail(conv_env *env, const char *format, ...)
{
    va_list args;
    if (env->failed) return 0;
    env->failed = 1;
    va_start(args, format);
    vsnprintf(env->error, sizeof env->error, format, args);
    va_end(args);
    for (char *p = env->error; *p; p++) {
        if ((unsigned char)*p < 32 || *p == 127) *p = '?';
    }
    return 0;
}

/* ---- memory -------------------------------------------------------------------------------------------- */
/* count * size zeroed bytes; NULL with an error. count and size may come from a file.                      */
static CONV_UNUSED void *conv_alloc(conv_env *env, uint64_t count, uint64_t size)
{
    const uint64_t header = (sizeof(conv_block) + 15) / 16 * 16;
    uint64_t bytes, room;
    conv_block *b = env->blocks;
    if (env->failed) return NULL;
    if (size && count > ((uint64_t)SIZE_MAX / 2 - 4096) / size) {
        conv_fail(env, "out of memory: %llu items of %llu bytes", (unsigned long long)count,
                  (unsigned long long)size);
        return NULL;
    }
    bytes = (count * size + 15) / 16 * 16;
    if (bytes == 0) bytes = 16;
    if (!b || bytes > b->size - b->used) {
        room = bytes > 65536 ? bytes : 65536;
        b = (conv_block *)calloc(1, (size_t)(header + room));
        if (!b) {
            conv_fail(env, "out of memory: %llu bytes", (unsigned long long)bytes);
            return NULL;
        }
        b->size = (size_t)room;
        if (env->blocks && bytes > 32768) {            /* keep filling the small block                      */
            b->next = env->blocks->next;
            env->blocks->next = b;
        } else {
            b->next = env->blocks;
            env->blocks = b;
        }
    }
    b->used += (size_t)bytes;
    return (uint8_t *)b + header + b->used - bytes;
}

CONV_PRINTF(2, 3) static const char *conv_format(conv_env *env, const char *format, ...)
{
    va_list args;
    char *text;
    int n;
    va_start(args, format);
    n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    text = n < 0 ? NULL : (char *)conv_alloc(env, (uint64_t)n + 1, 1);
    if (!text) return "";
    va_start(args, format);
    vsnprintf(text, (size_t)n + 1, format, args);
    va_end(args);
    return text;
}

/* A NUL-terminated copy of n bytes.                                                                        */
static CONV_UNUSED const char *conv_copy_text(conv_env *env, const void *bytes, size_t n)
{
    char *text = (char *)conv_alloc(env, (uint64_t)n + 1, 1);
    if (!text) return "";
    if (n) memcpy(text, bytes, n);
    return text;
}

/* Growing arrays: makes room for one more after n items; the old memory stays in the arena (doubling: at
   most twice the size).                                                                                    */
static CONV_UNUSED void *conv_grow(conv_env *env, void *items, uint64_t n, uint64_t *room, size_t item_bytes)
{
    void *more;
    if (env->failed) return NULL;
    if (n < *room) return items;
    more = conv_alloc(env, *room ? *room * 2 : 16, item_bytes);
    if (!more) return NULL;
    if (n) memcpy(more, items, (size_t)n * item_bytes);
    *room = *room ? *room * 2 : 16;
    return more;
}

/* ---- names -> numbers: open addressing, at most half full ---------------------------------------------- */
typedef struct conv_map {
    const char **names;               /* [size], NULL: free                                                 */
    uint64_t    *numbers;
    uint64_t     n, size;             /* size is 0 or a power of two                                        */
} conv_map;

static CONV_UNUSED uint32_t conv_hash(const char *text)
{
    uint32_t h = 2166136261u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 16777619u;
    return h ^ h >> 15;
}

static uint64_t conv__map_cell(const conv_map *m, const char *name)
{
    uint64_t cell = conv_hash(name) & (m->size - 1);
    while (m->names[cell] && strcmp(m->names[cell], name) != 0) cell = (cell + 1) & (m->size - 1);
    return cell;
}

/* Number of a name, or UINT64_MAX.                                                                         */
static CONV_UNUSED uint64_t conv_map_find(const conv_map *m, const char *name)
{
    uint64_t cell;
    if (!m->size) return UINT64_MAX;
    cell = conv__map_cell(m, name);
    return m->names[cell] ? m->numbers[cell] : UINT64_MAX;
}

/* Adds a name (kept by pointer). Returns 0 when it was there already (no error text) or memory is out
   (error text).                                                                                            */
static CONV_UNUSED int conv_map_add(conv_env *env, conv_map *m, const char *name, uint64_t number)
{
    uint64_t cell;
    if ((m->n + 1) * 2 > m->size) {
        conv_map bigger;
        bigger.n = m->n;
        bigger.size = m->size ? m->size * 2 : 64;
        bigger.names = (const char **)conv_alloc(env, bigger.size, sizeof *bigger.names);
        bigger.numbers = (uint64_t *)conv_alloc(env, bigger.size, sizeof *bigger.numbers);
        if (!bigger.names || !bigger.numbers) return 0;
        for (uint64_t i = 0; i < m->size; i++) {
            if (!m->names[i]) continue;
            cell = conv__map_cell(&bigger, m->names[i]);
            bigger.names[cell] = m->names[i];
            bigger.numbers[cell] = m->numbers[i];
        }
        *m = bigger;
    }
    cell = conv__map_cell(m, name);
    if (m->names[cell]) return 0;
    m->names[cell] = name;
    m->numbers[cell] = number;
    m->n++;
    return 1;
}

/* ---- files --------------------------------------------------------------------------------------------- */
static CONV_UNUSED int conv_file_exists(const char *path)
{
    FILE *f = fopen(path, "rb");
    char byte;
    int readable;
    if (!f) return 0;
    readable = fread(&byte, 1, 1, f) == 1 || !ferror(f);  /* a directory opens but cannot be read           */
    fclose(f);
    return readable;
}

static CONV_UNUSED const char *conv_join_path(conv_env *env, const char *directory, const char *name)
{
    const size_t n = strlen(directory);
    return conv_format(env, "%s%s%s", directory, n && directory[n - 1] == '/' ? "" : "/", name);
}

/* The part of a path after the last separator.                                                             */
static CONV_UNUSED const char *conv_base_name(const char *path)
{
    const char *base = path;
    for (; *path; path++) {
        if (*path == '/' || *path == '\\') base = path + 1;
    }
    return base;
}

/* "." for a bare file name.                                                                                */
static CONV_UNUSED const char *conv_directory(conv_env *env, const char *path)
{
    const char *base = conv_base_name(path);
    if (base == path) return ".";
    return conv_copy_text(env, path, (size_t)(base - path));
}

static CONV_UNUSED int conv_ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

#if CONV_HAVE_MMAP
static int conv__map(conv_env *env, conv_file *f)
{
    struct stat info;
    void *data;
    const int fd = open(f->path, O_RDONLY);
    if (fd < 0) return conv_fail(env, "%s: cannot be opened", f->path);
    memset(&info, 0, sizeof info);
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(fd);
        return conv_fail(env, "%s: not a file%s", f->path,
                         S_ISDIR(info.st_mode) ? ", and not a directory with a config.json" : "");
    }
    f->bytes = (uint64_t)info.st_size;
    if (f->bytes == 0 || f->bytes > SIZE_MAX) {
        close(fd);
        return conv_fail(env, "%s: %s", f->path,
                         f->bytes ? "too large for this machine" : "the file is empty");
    }
    data = mmap(NULL, (size_t)f->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (data == MAP_FAILED) return conv_fail(env, "%s: cannot be mapped into memory", f->path);
    f->data = (const uint8_t *)data;
    return 1;
}
static void conv__unmap(conv_file *f) { if (f->data) munmap((void *)(uintptr_t)f->data, (size_t)f->bytes); }
#else
static int conv__map(conv_env *env, conv_file *f)
{
    FILE *in = fopen(f->path, "rb");
    uint8_t *data = NULL;
    size_t used = 0, room = 1 << 20, got = 1;
    if (!in) return conv_fail(env, "%s: cannot be opened", f->path);
    while (got) {
        uint8_t *more = (uint8_t *)realloc(data, room);
        if (!more) break;
        data = more;
        got = fread(data + used, 1, room - used, in);
        used += got;
        if (used == room) room *= 2;
    }
    got = ferror(in) || got;
    fclose(in);
    f->data = data;
    f->bytes = used;
    if (got || used == 0) return conv_fail(env, "%s: cannot be read", f->path);
    return 1;
}
static void conv__unmap(conv_file *f) { free((void *)(uintptr_t)f->data); }
#endif

/* Maps a file; it stays until conv_env_close. NULL with an error.                                          */
static CONV_UNUSED const conv_file *conv_open(conv_env *env, const char *path)
{
    conv_file *f = (conv_file *)conv_alloc(env, 1, sizeof *f);
    if (!f) return NULL;
    f->path = conv_copy_text(env, path, strlen(path));
    f->next = env->files;
    env->files = f;
    return conv__map(env, f) ? f : NULL;
}

static CONV_UNUSED void conv_env_open(conv_env *env) { memset(env, 0, sizeof *env); }

static CONV_UNUSED void conv_env_close(conv_env *env)
{
    conv_block *b = env->blocks;
    for (conv_file *f = env->files; f; f = f->next) conv__unmap(f);
    while (b) {
        conv_block *next = b->next;
        free(b);
        b = next;
    }
    env->blocks = NULL;
    env->files = NULL;
}

/* ---- little-endian bytes ------------------------------------------------------------------------------- */
static CONV_UNUSED uint16_t conv_u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static CONV_UNUSED uint32_t conv_u32(const uint8_t *p)
{
    return (uint32_t)conv_u16(p) | (uint32_t)conv_u16(p + 2) << 16;
}
static CONV_UNUSED uint64_t conv_u64(const uint8_t *p)
{
    return (uint64_t)conv_u32(p) | (uint64_t)conv_u32(p + 4) << 32;
}
static CONV_UNUSED float conv_f32(const uint8_t *p)
{
    const uint32_t u = conv_u32(p);
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static CONV_UNUSED double conv_f64(const uint8_t *p)
{
    const uint64_t u = conv_u64(p);
    double d;
    memcpy(&d, &u, 8);
    return d;
}

/* a * b, or UINT64_MAX when that does not fit.                                                             */
static CONV_UNUSED uint64_t conv_times(uint64_t a, uint64_t b)
{
    return b && a > UINT64_MAX / b ? UINT64_MAX : a * b;
}

#endif /* CONV_BASE_H_INCLUDED */
