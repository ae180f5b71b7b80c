/* conv_zip.h: reads zip archives in mapped memory (stored and deflated entries, zip64), as PyTorch and
   NumPy write them.                                                                                        */
#ifndef CONV_ZIP_H_INCLUDED
#define CONV_ZIP_H_INCLUDED
#include "conv_base.h"

typedef struct conv_zip_entry {
    const char    *name;
    const uint8_t *data;              /* stored bytes, or deflated bytes                                    */
    uint64_t       packed_bytes, bytes;
    uint32_t       crc;
    int32_t        deflated;
} conv_zip_entry;

typedef struct conv_zip {
    conv_zip_entry *entries;
    uint64_t        n;
    conv_map        index;
} conv_zip;

/* ---- inflate (RFC 1951) -------------------------------------------------------------------------------- */
typedef struct inflate_code {         /* canonical Huffman code                                             */
    uint16_t count[16], symbol[288];
} inflate_code;

typedef struct inflate_state {
    const uint8_t *in;
    uint64_t       in_bytes, in_at;
    uint8_t       *out;
    uint64_t       out_bytes, out_at;
    uint32_t       bits;
    int32_t        n_bits;
    int32_t        bad;
} inflate_state;

static uint32_t inflate__bits(inflate_state *s, int32_t n)
{
    uint32_t v;
    while (s->n_bits < n) {
        if (s->in_at == s->in_bytes) { s->bad = 1; return 0; }
        s->bits |= (uint32_t)s->in[s->in_at++] << s->n_bits;
        s->n_bits += 8;
    }
    v = s->bits & ((1u << n) - 1u);
    s->bits >>= n;
    s->n_bits -= n;
    return v;
}

/* Fills a code from the lengths of its symbols. 0: more codes than the lengths allow.                      */
static int inflate__build(inflate_code *c, const uint8_t *lengths, int32_t n)
{
    uint16_t first[16];
    int32_t left = 1;
    memset(c, 0, sizeof *c);
    for (int32_t i = 0; i < n; i++) c->count[lengths[i]]++;
    c->count[0] = 0;
    for (int32_t i = 1; i < 16; i++) {
        left = left * 2 - c->count[i];
        if (left < 0) return 0;
    }
    first[0] = first[1] = 0;
    for (int32_t i = 1; i < 15; i++) first[i + 1] = (uint16_t)(first[i] + c->count[i]);
    for (int32_t i = 0; i < n; i++) {
        if (lengths[i]) c->symbol[first[lengths[i]]++] = (uint16_t)i;
    }
    return 1;
}

static int32_t inflate__symbol(inflate_state *s, const inflate_code *c)
{
    int32_t code = 0, first = 0, index = 0;
    for (int32_t length = 1; length < 16; length++) {
        code |= (int32_t)inflate__bits(s, 1);
        if (s->bad) return -1;
        if (code - first < c->count[length]) return c->symbol[index + code - first];
        index += c->count[length];
        first = (first + c->count[length]) << 1;
        code <<= 1;
    }
    s->bad = 1;
    return -1;
}

static void inflate__stored(inflate_state *s)
{
    uint32_t n;
    s->bits = 0;
    s->n_bits = 0;
    if (s->in_bytes - s->in_at < 4) { s->bad = 1; return; }
    n = conv_u16(s->in + s->in_at);
    if ((n ^ 0xffffu) != conv_u16(s->in + s->in_at + 2)) { s->bad = 1; return; }
    s->in_at += 4;
    if (n > s->in_bytes - s->in_at || n > s->out_bytes - s->out_at) { s->bad = 1; return; }
    memcpy(s->out + s->out_at, s->in + s->in_at, n);
    s->in_at += n;
    s->out_at += n;
}

static int inflate__tables(inflate_state *s, inflate_code *literals, inflate_code *distances)
{
    static const uint8_t order[19] = { 16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15 };
    uint8_t lengths[320];
    const int32_t n_literals = (int32_t)inflate__bits(s, 5) + 257,
        n_distances = (int32_t)inflate__bits(s, 5) + 1;
    const int32_t n_lengths = (int32_t)inflate__bits(s, 4) + 4, n = n_literals + n_distances;
    int32_t i = 0;
    memset(lengths, 0, sizeof lengths);
    if (n_literals > 286 || n_distances > 30) return 0;
    for (i = 0; i < n_lengths; i++) lengths[order[i]] = (uint8_t)inflate__bits(s, 3);
    if (!inflate__build(literals, lengths, 19)) return 0;
    memset(lengths, 0, sizeof lengths);
    for (i = 0; i < n;) {
        const int32_t symbol = inflate__symbol(s, literals);
        int32_t repeat, value = 0;
        if (s->bad) return 0;
        if (symbol < 16) { lengths[i++] = (uint8_t)symbol; continue; }
        if (symbol == 16) {
            if (i == 0) return 0;
            value = lengths[i - 1];
            repeat = 3 + (int32_t)inflate__bits(s, 2);
        } else {
            repeat = symbol == 17 ? 3 + (int32_t)inflate__bits(s, 3) : 11 + (int32_t)inflate__bits(s, 7);
        }
        if (repeat > n - i) return 0;
        while (repeat--) lengths[i++] = (uint8_t)value;
    }
    return inflate__build(literals, lengths, n_literals) &&
           inflate__build(distances, lengths + n_literals, n_distances);
}

static void inflate__fixed_tables(inflate_code *literals, inflate_code *distances)
{
    uint8_t lengths[288];
    for (int32_t i = 0; i < 288; i++) lengths[i] = (uint8_t)(i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8);
    inflate__build(literals, lengths, 288);
    memset(lengths, 5, 30);
    inflate__build(distances, lengths, 30);
}

static void inflate__block(inflate_state *s, const inflate_code *literals, const inflate_code *distances)
{
    static const uint16_t length_base[29] = { 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43,
                                              51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258 };
    static const uint8_t length_bits[29] = { 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4,
                                             4, 4, 5, 5, 5, 5, 0 };
    static const uint16_t far_base[30] = { 1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257,
                                           385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289,
                                           16385, 24577 };
    for (;;) {
        int32_t symbol = inflate__symbol(s, literals);
        uint64_t length, distance;
        if (s->bad || symbol == 256) return;
        if (symbol < 256) {
            if (s->out_at == s->out_bytes) { s->bad = 1; return; }
            s->out[s->out_at++] = (uint8_t)symbol;
            continue;
        }
        symbol -= 257;
        if (symbol > 28) { s->bad = 1; return; }
        length = length_base[symbol] + inflate__bits(s, length_bits[symbol]);
        symbol = inflate__symbol(s, distances);
        if (s->bad || symbol > 29) { s->bad = 1; return; }
        distance = far_base[symbol] + inflate__bits(s, symbol < 4 ? 0 : symbol / 2 - 1);
        if (s->bad || distance > s->out_at || length > s->out_bytes - s->out_at) { s->bad = 1; return; }
        for (; length; length--, s->out_at++) s->out[s->out_at] = s->out[s->out_at - distance];
    }
}

/* Unpacks a deflate stream that must give exactly out_bytes.                                               */
static int conv_inflate(uint8_t *out, uint64_t out_bytes, const uint8_t *in, uint64_t in_bytes)
{
    inflate_state s;
    inflate_code literals, distances;
    uint32_t last = 0;
    memset(&s, 0, sizeof s);
    s.in = in;
    s.in_bytes = in_bytes;
    s.out = out;
    s.out_bytes = out_bytes;
    while (!last && !s.bad) {
        uint32_t kind;
        last = inflate__bits(&s, 1);
        kind = inflate__bits(&s, 2);
        if (s.bad || kind == 3) return 0;
        if (kind == 0) { inflate__stored(&s); continue; }
        if (kind == 1) inflate__fixed_tables(&literals, &distances);
        else if (!inflate__tables(&s, &literals, &distances)) return 0;
        inflate__block(&s, &literals, &distances);
    }
    return !s.bad && s.out_at == out_bytes;
}

static CONV_UNUSED uint32_t conv_crc32(const uint8_t *p, uint64_t n)
{
    uint32_t table[256], crc = 0xffffffffu;
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int k = 0; k < 8; k++) table[i] = table[i] >> 1 ^ (table[i] & 1u ? 0xedb88320u : 0);
    }
    for (uint64_t i = 0; i < n; i++) crc = crc >> 8 ^ table[(crc ^ p[i]) & 255u];
    return ~crc;
}

/* ---- the archive --------------------------------------------------------------------------------------- */
/* 64-bit values that did not fit the 32-bit fields stand in extra field 1, in this order.                  */
static int conv__zip64_fields(const uint8_t *extra, uint32_t n, uint64_t *bytes, uint64_t *packed,
                              uint64_t *offset)
{
    uint64_t *fields[3];
    fields[0] = bytes;
    fields[1] = packed;
    fields[2] = offset;
    while (n >= 4) {
        const uint32_t id = conv_u16(extra), size = conv_u16(extra + 2);
        if (size > n - 4) return 0;
        if (id == 1) {
            const uint8_t *p = extra + 4;
            uint32_t left = size;
            for (int i = 0; i < 3; i++) {
                if (*fields[i] != 0xffffffffu) continue;
                if (left < 8) return 0;
                *fields[i] = conv_u64(p);
                p += 8;
                left -= 8;
            }
        }
        extra += 4 + size;
        n -= 4 + size;
    }
    return 1;
}

/* Reads the central directory entry at *at and moves past it.                                              */
static int conv__zip_entry(conv_env *env, const conv_file *f, uint64_t *at, conv_zip_entry *e)
{
    const uint8_t *p = f->data + *at;
    const uint64_t left = f->bytes - *at;
    uint32_t name_bytes, extra_bytes, method;
    uint64_t offset, header;
    if (left < 46 || conv_u32(p) != 0x02014b50u)
        return conv_fail(env, "%s: zip directory entry at byte %llu is damaged", f->path,
                         (unsigned long long)*at);
    name_bytes = conv_u16(p + 28);
    extra_bytes = conv_u16(p + 30);
    method = conv_u16(p + 10);
    if (left - 46 < (uint64_t)name_bytes + extra_bytes + conv_u16(p + 32))
        return conv_fail(env, "%s: zip directory entry at byte %llu passes the end of the file", f->path,
                         (unsigned long long)*at);
    e->name = conv_copy_text(env, p + 46, name_bytes);
    e->crc = conv_u32(p + 16);
    e->packed_bytes = conv_u32(p + 20);
    e->bytes = conv_u32(p + 24);
    e->deflated = method == 8;
    offset = conv_u32(p + 42);
    if (!conv__zip64_fields(p + 46 + name_bytes, extra_bytes, &e->bytes, &e->packed_bytes, &offset))
        return conv_fail(env, "%s: zip entry %.100s has a damaged extra field", f->path, e->name);
    if (conv_u16(p + 8) & 1) return conv_fail(env, "%s: zip entry %.100s is encrypted", f->path, e->name);
    if (method != 0 && method != 8)
        return conv_fail(env, "%s: zip entry %.100s is packed with method %u, which is not known", f->path,
                         e->name, method);
    if (method == 0 && e->packed_bytes != e->bytes)
        return conv_fail(env, "%s: stored zip entry %.100s has two sizes, %llu and %llu", f->path, e->name,
                         (unsigned long long)e->packed_bytes, (unsigned long long)e->bytes);
    if (method == 8 && e->bytes / 1032 > e->packed_bytes)  /* the most that deflate can pack                */
        return conv_fail(env, "%s: zip entry %.100s claims %llu bytes from %llu packed ones", f->path,
                         e->name, (unsigned long long)e->bytes, (unsigned long long)e->packed_bytes);
    if (f->bytes < 30 || offset > f->bytes - 30 || conv_u32(f->data + offset) != 0x04034b50u)
        return conv_fail(env, "%s: zip entry %.100s does not start at byte %llu", f->path, e->name,
                         (unsigned long long)offset);
    header = 30 + (uint64_t)conv_u16(f->data + offset + 26) + conv_u16(f->data + offset + 28);
    if (header > f->bytes - offset || e->packed_bytes > f->bytes - offset - header)
        return conv_fail(env, "%s: zip entry %.100s of %llu bytes passes the end of the file", f->path,
                         e->name, (unsigned long long)e->packed_bytes);
    e->data = f->data + offset + header;
    *at += 46 + (uint64_t)name_bytes + extra_bytes + conv_u16(p + 32);
    return 1;
}

/* Finds the end record (it may be followed by a comment) and the 64-bit one that may stand before it.      */
static int conv__zip_directory(conv_env *env, const conv_file *f, uint64_t *n, uint64_t *first)
{
    uint64_t at, stop;
    if (f->bytes < 22) return conv_fail(env, "%s: too short for a zip archive", f->path);
    stop = f->bytes > 65557 ? f->bytes - 65557 : 0;
    for (at = f->bytes - 22; conv_u32(f->data + at) != 0x06054b50u; at--) {
        if (at == stop)
            return conv_fail(env, "%s: the zip directory is missing (is the file cut off?)", f->path);
    }
    *n = conv_u16(f->data + at + 10);
    *first = conv_u32(f->data + at + 16);
    if (at >= 20 && conv_u32(f->data + at - 20) == 0x07064b50u) {
        const uint64_t record = conv_u64(f->data + at - 12);
        if (f->bytes < 56 || record > f->bytes - 56 || conv_u32(f->data + record) != 0x06064b50u)
            return conv_fail(env, "%s: the 64-bit zip directory is damaged", f->path);
        *n = conv_u64(f->data + record + 32);
        *first = conv_u64(f->data + record + 48);
    }
    if (*first > f->bytes || *n > (f->bytes - *first) / 46)
        return conv_fail(env, "%s: the zip directory of %llu entries at byte %llu does not fit the file",
                         f->path, (unsigned long long)*n, (unsigned long long)*first);
    return 1;
}

static CONV_UNUSED int conv_zip_open(conv_zip *z, conv_env *env, const conv_file *f)
{
    uint64_t at = 0;
    memset(z, 0, sizeof *z);
    if (!conv__zip_directory(env, f, &z->n, &at)) return 0;
    z->entries = (conv_zip_entry *)conv_alloc(env, z->n + 1, sizeof *z->entries);
    if (!z->entries) return 0;
    for (uint64_t i = 0; i < z->n; i++) {
        if (!conv__zip_entry(env, f, &at, &z->entries[i])) return 0;
        if (!conv_map_add(env, &z->index, z->entries[i].name, i))
            return conv_fail(env, "%s: zip entry %.100s is there twice", f->path, z->entries[i].name);
    }
    return 1;
}

static CONV_UNUSED const conv_zip_entry *conv_zip_find(const conv_zip *z, const char *name)
{
    const uint64_t i = conv_map_find(&z->index, name);
    return i == UINT64_MAX ? NULL : &z->entries[i];
}

#endif /* CONV_ZIP_H_INCLUDED */
