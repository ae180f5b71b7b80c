#!/usr/bin/env python3
"""Independent reader of .sqm weight files: written from the format description, with struct only.

usage: read_sqm.py FILE.sqm            checks everything and prints what is inside
       read_sqm.py --quiet FILE.sqm    checks only
       read_sqm.py --recipe FILE.sqm   checks, then prints only the recipe
       read_sqm.py --toy FILE.sqm      writes a toy file, made without the C writer
       read_sqm.py --self-test         damages a toy file in every byte and expects to notice
Exit status 0: valid; 1: not."""
import math
import struct
import sys

MAGIC = b"\x89SQM\r\n\x1a\n"
OPS = ["", "embed", "norm", "linear", "rope", "mix", "act", "glu", "add", "mul", "scale", "copy", "softcap",
       "head", "input", "affine", "cat", "gate", "softmax", "monomials",
       "reduce", "mirror", "clip", "blocks", "route", "experts"]
REGISTERS = {**{i: "r%d" % i for i in range(16)}, 251: "rows", 252: "logits", 253: "tokens", 254: "positions",
             255: "none"}
# dtype: name, bytes an element in rows, columns a unit, bytes a unit
DTYPES = {0: ("f32", 4, 1, 64), 1: ("f16", 2, 1, 32), 2: ("bf16", 2, 1, 32),
          3: ("i32", 4, 0, 0), 4: ("i8", 1, 0, 0), 5: ("u8", 1, 0, 0),
          16: ("q8", 0, 32, 544), 17: ("q4", 0, 32, 288), 18: ("q4m", 0, 32, 320),
          19: ("q5", 0, 32, 352), 20: ("q5m", 0, 32, 384), 21: ("iq4", 0, 32, 288),
          22: ("q2k", 0, 256, 1344), 23: ("q3k", 0, 256, 1824), 24: ("q4k", 0, 256, 2368),
          25: ("q5k", 0, 256, 2880), 26: ("q6k", 0, 256, 3360)}
ENTRY_BYTES = {"META": 8, "RECP": 32, "PARM": 16, "TLST": 4, "TENS": 64}
NO_TENSOR = 0xffffffff


class Bad(Exception):
    pass


def need(condition, text, *values):
    if not condition:
        raise Bad(text % values)


def crc_table():
    table = []
    for i in range(256):
        for _ in range(8):
            i = i >> 1 ^ (0x82f63b78 if i & 1 else 0)
        table.append(i)
    return table


TABLE = crc_table()


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xffffffff


def fnv1a(data):
    value = 2166136261
    for byte in data:
        value = (value ^ byte) * 16777619 & 0xffffffff
    return value


def tensor_bytes(dtype, layout, shape):
    name, element, unit, unit_bytes = DTYPES[dtype]
    if layout == 0:
        return element * math.prod(shape)
    if layout != 1 or len(shape) != 2 or not unit or (unit == 256 and shape[1] % 256):
        return 0
    return -(-shape[0] // 16) * -(-shape[1] // unit) * unit_bytes


class File:
    def __init__(self, data):
        self.data = data
        self.header()
        self.sections()
        self.texts = self.raw("STRS", b"\0")
        need(self.texts[:1] == b"\0" and self.texts[-1:] == b"\0", "STRS does not begin and end with 0")
        self.meta = [(self.text(k), self.text(v)) for k, v in self.rows("META", "<II")]
        self.read_tensors()
        self.lists = [row[0] for row in self.rows("TLST", "<I")]
        for index in self.lists:
            need(index == NO_TENSOR or index < len(self.tensors), "list names tensor %d", index)
        self.read_params()
        self.read_ops()
        self.padding()

    def header(self):
        data = self.data
        need(len(data) >= 64, "shorter than a header")
        need(data[:8] == MAGIC, "wrong signature")
        (self.minor, major, endian, size, self.n_sections, self.alignment, table, flags, crc, *reserved) = \
            struct.unpack_from("<HHIQIIQII4I", data, 8)
        need(endian == 0x01020304, "byte order %#x", endian)
        need(major == 1, "major version %d", major)
        need(size == len(data), "%d bytes, header says %d", len(data), size)
        need(self.n_sections <= 64 and table == 64 and 64 + 32 * self.n_sections <= size, "bad section table")
        self.front = 64 + 32 * self.n_sections
        need(crc == crc32c(data[:44] + bytes(4) + data[48:self.front]), "wrong checksum of the header")
        need(64 <= self.alignment <= 65536 and self.alignment & self.alignment - 1 == 0, "bad alignment")
        need(flags == 0 and not any(reserved), "unknown header fields")

    def sections(self):
        self.table, self.spans, end = {}, [(0, self.front)], self.front
        for i in range(self.n_sections):
            kind, flags, offset, size, count, crc = struct.unpack_from("<4sIQQII", self.data, 64 + 32 * i)
            kind = kind.decode("latin-1")
            need(kind not in self.table, "two sections %s", kind)
            need(offset >= end and offset % 64 == 0, "section %s misplaced", kind)
            need(offset + size <= len(self.data), "section %s leaves the file", kind)
            known = kind in ENTRY_BYTES or kind in ("STRS", "TOKN", "DATA")
            need(known or not flags & 1, "unknown required section %s", kind)
            blob = self.data[offset:offset + size]
            need(kind == "DATA" or crc == crc32c(blob), "wrong checksum of %s", kind)
            need(kind not in ENTRY_BYTES or size == count * ENTRY_BYTES[kind], "size of %s", kind)
            end = offset + size
            self.table[kind] = (offset, size)
            if kind != "DATA":
                self.spans.append((offset, end))

    def raw(self, kind, default=b""):
        offset, size = self.table.get(kind, (0, 0))
        return self.data[offset:offset + size] if kind in self.table else default

    def rows(self, kind, layout):
        return list(struct.iter_unpack(layout, self.raw(kind)))

    def text(self, offset):
        need(offset < len(self.texts), "text offset %d", offset)
        return self.texts[offset:self.texts.index(b"\0", offset)].decode("utf-8", "replace")

    def read_tensors(self):
        start, size = self.table.get("DATA", (0, 0))
        end, self.tensors, names = start, [], set()
        for (name, hashed, dtype, ndim, layout, crc, s0, s1, s2, s3, offset, count, *reserved) in \
                self.rows("TENS", "<IIHBBI4iQQQII"):
            text, shape = self.text(name), [s0, s1, s2, s3]
            need(text and text not in names, "tensor name '%s' empty or twice", text)
            names.add(text)
            raw = self.texts[name:self.texts.index(b"\0", name)]
            need(hashed == fnv1a(raw), "hash of '%s'", text)
            need(dtype in DTYPES and 1 <= ndim <= 4 and min(shape) >= 1, "type or shape of '%s'", text)
            need(all(n == 1 for n in shape[ndim:]) and not any(reserved), "unused fields of '%s'", text)
            need(count and count == tensor_bytes(dtype, layout, shape[:ndim]), "bytes of '%s'", text)
            need(offset >= end and offset % self.alignment == 0, "place of '%s'", text)
            need(offset + count <= start + size, "end of '%s'", text)
            need(crc == 0 or crc == crc32c(self.data[offset:offset + count]), "wrong checksum of '%s'", text)
            end = offset + count
            self.spans.append((offset, end))
            self.tensors.append((text, DTYPES[dtype][0], layout, shape[:ndim], offset, count))

    def read_params(self):
        self.params = []
        for key, kind, count, value in self.rows("PARM", "<IHHQ"):
            key = self.text(key)
            need(key and kind <= 3 and (count > 0) == (kind == 3), "parameter '%s'", key)
            if kind == 0:
                text = str(struct.unpack("<q", struct.pack("<Q", value))[0])
            elif kind == 1:
                number = struct.unpack("<d", struct.pack("<Q", value))[0]
                need(math.isfinite(number), "parameter '%s' is not finite", key)
                text = repr(number)
            elif kind == 2:
                text = self.text(value)
            else:
                need(value + count <= len(self.lists), "list of '%s'", key)
                picks = self.lists[value:value + count]
                text = ",".join("-" if i == NO_TENSOR else "@" + self.tensors[i][0] for i in picks)
            self.params.append("%s=%s" % (key, text))

    def read_ops(self):
        self.recipe = []
        for op, dst, src, src2, flags, n, mixer, first, *reserved in self.rows("RECP", "<HBBBBHII4I"):
            need(0 < op < len(OPS), "op %d", op)
            need(dst in REGISTERS and src in REGISTERS and src2 in REGISTERS, "registers of op %s", OPS[op])
            need(flags == 0 and not any(reserved), "unknown fields of op %s", OPS[op])
            need(first + n <= len(self.params), "parameters of op %s", OPS[op])
            words = [OPS[op], REGISTERS[dst], REGISTERS[src]] + ([REGISTERS[src2]] if src2 != 255 else [])
            words += [self.text(mixer)] if mixer else []
            self.recipe.append(" ".join(words + self.params[first:first + n]))

    def padding(self):
        """What no section and no tensor covers must be zero: a file hides nothing."""
        at = 0
        for start, end in sorted(self.spans):
            need(not any(self.data[at:start]), "bytes between %d and %d are not zero", at, start)
            at = max(at, end)
        need(not any(self.data[at:]), "bytes after %d are not zero", at)

    def show(self):
        print("%d bytes, format 1.%d, alignment %d" % (len(self.data), self.minor, self.alignment))
        for kind, (offset, size) in self.table.items():
            print("section %s at %d, %d bytes" % (kind, offset, size))
        for key, value in self.meta:
            print("note %s: %s" % (key, value if len(value) < 80 else value[:80] + "..."))
        for name, dtype, layout, shape, offset, count in self.tensors:
            layout = ("rows", "panels")[layout]
            print("tensor %s %s %s %s at %d, %d bytes" % (name, dtype, layout, shape, offset, count))
        print("\n".join(self.recipe))


def toy():
    """The smallest useful file, made here and not by the C writer."""
    def padded(data):
        return data + bytes(-len(data) % 64)
    texts = b"\0embed\0w\0eps\0attention\0name\0toy\0"
    at = {word: texts.index(b"\0" + word + b"\0") + 1 for word in texts.strip(b"\0").split(b"\0")}
    weights = struct.pack("<4f", 1.0, 2.0, 3.0, 4.0)
    blobs = [(b"STRS", texts, 0), (b"META", struct.pack("<II", at[b"name"], at[b"toy"]), 1),
             (b"RECP", struct.pack("<HBBBBHII4I", 5, 0, 0, 255, 0, 2, at[b"attention"], 0, 0, 0, 0, 0), 1),
             (b"PARM", struct.pack("<IHHQIHHd", at[b"w"], 3, 2, 0, at[b"eps"], 1, 0, 1e-5), 2),
             (b"TLST", struct.pack("<II", 0, NO_TENSOR), 2), (b"TENS", None, 1),
             (b"DATA", padded(weights), 0)]
    offset, table, body = 64 + 32 * len(blobs), b"", b""
    offset += -offset % 64
    start = offset
    for kind, data, count in blobs:
        if kind == b"TENS":
            data = struct.pack("<IIHBBI4iQQQII", at[b"embed"], fnv1a(b"embed"), 0, 1, 0, crc32c(weights),
                               4, 1, 1, 1, offset + 64, 16, 0, 0, 0)
        crc = 0 if kind == b"DATA" else crc32c(data)
        table += struct.pack("<4sIQQII", kind, 1, offset, len(data), count, crc)
        body += padded(data)
        offset += len(padded(data))
    body = bytes(start - 64 - len(table)) + body
    head = [MAGIC, 0, 1, 0x01020304, offset, len(blobs), 64, 64, 0, 0, 0, 0, 0, 0]
    head[9] = crc32c(struct.pack("<8sHHIQIIQII4I", *head) + table)
    return struct.pack("<8sHHIQIIQII4I", *head) + table + body


def self_test():
    data = toy()
    file = File(data)
    need(file.recipe == ["mix r0 r0 attention w=@embed,- eps=1e-05"], "toy recipe reads %s", file.recipe)
    for i in range(len(data)):
        for damaged in (data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1:], data[:i]):
            try:
                File(damaged)
            except Bad:
                continue
            raise Bad("damage at byte %d went unnoticed" % i)


def main(arguments):
    try:
        if arguments == ["--self-test"]:
            self_test()
            return 0
        mode = arguments.pop(0) if len(arguments) == 2 else ""
        if len(arguments) != 1 or mode not in ("", "--quiet", "--recipe", "--toy"):
            print(__doc__, file=sys.stderr)
            return 2
        if mode == "--toy":
            with open(arguments[0], "wb") as out:
                out.write(toy())
            return 0
        with open(arguments[0], "rb") as source:
            file = File(source.read())
    except (Bad, OSError) as problem:
        print("%s: %s" % (arguments[0] if arguments else "self-test", problem), file=sys.stderr)
        return 1
    if mode == "":
        file.show()
    if mode == "--recipe":
        print("\n".join(file.recipe))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
