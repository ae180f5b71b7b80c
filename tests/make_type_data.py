#!/usr/bin/env python3
"""Writes tests/data/ggml_blocks.bin: blocks of every GGML type that sqm_pack_ggml imports and the values that
the `gguf` package (pip install gguf) gives them. Read by tests/test_type.c. Run from the repository root.

File: for each case little-endian u32 ggml_type, rows, cols, source_bytes, then the source blocks (row-major)
and rows * cols float32 values."""
import struct
import numpy as np
from gguf import quants, GGMLQuantizationType as T

ROWS, COLS = 5, 256
# ggml type, block elements, block bytes, offsets of f16 numbers inside a block
CASES = [(T.F32, 1, 4, []), (T.F16, 1, 2, []), (T.BF16, 1, 2, []),
         (T.Q4_0, 32, 18, [0]), (T.Q4_1, 32, 20, [0, 2]), (T.Q5_0, 32, 22, [0]), (T.Q5_1, 32, 24, [0, 2]),
         (T.Q8_0, 32, 34, [0]), (T.Q2_K, 256, 84, [80, 82]), (T.Q3_K, 256, 110, [108]),
         (T.Q4_K, 256, 144, [0, 2]), (T.Q5_K, 256, 176, [0, 2]), (T.Q6_K, 256, 210, [208]),
         (T.IQ4_NL, 32, 18, [0])]
# f16 bit patterns: zero, minus zero, smallest and largest denormal, smallest normal, 1, -1, largest, infinity
SPECIAL = [0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x3c00, 0xbc00, 0x7bff, 0xfbff, 0x7c00, 0xfc00]


def main():
    rng = np.random.default_rng(20240607)
    with open("tests/data/ggml_blocks.bin", "wb") as out:
        for kind, block, size, halves in CASES:
            n = ROWS * COLS // block
            raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
            for at in halves:
                bits = rng.integers(0, 0x7c00, n).astype(np.uint16)
                bits |= rng.integers(0, 2, n).astype(np.uint16) << 15
                picks = rng.permutation(n)[: min(n // 2, len(SPECIAL))]
                first = int(rng.integers(0, len(SPECIAL)))
                for i, p in enumerate(picks):
                    bits[p] = SPECIAL[(first + i) % len(SPECIAL)]
                raw[:, at:at + 2] = bits.astype("<u2").view(np.uint8).reshape(n, 2)
            raw = raw.reshape(ROWS, -1)
            with np.errstate(all="ignore"):
                values = quants.dequantize(raw, kind).astype("<f4").reshape(ROWS, COLS)
            out.write(struct.pack("<4I", int(kind), ROWS, COLS, raw.size) + raw.tobytes() + values.tobytes())


if __name__ == "__main__":
    main()
