#!/usr/bin/env python3
"""A model that says its own recipe (model_type "recipe"): python3 tests/recipe_model.py SQM_CONVERT SQM_EVAL
Embedding, convolution, complex diagonal state space, linear map, head; compared with the same sums in Python. Then
wrong ones: each must be refused with a message that names the cause. Prints PASS|FAIL lines."""
import array
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

VOCAB, DIM, STATES, TAPS = 11, 6, 4, 3
RECIPE = ["# stream", "embed r0 tokens w=@emb", "mix r1 r0 conv w=@kernel b=@shift act=relu",
          "mix r2 r1 lti da=@da c=@c d=@d", "linear r3 r2 w=@mix.weight b=@mix.bias", "add r0 r0 r3",
          "head logits r0 w=@emb"]
SHAPES = {"emb": (VOCAB, DIM), "kernel": (TAPS, DIM), "shift": (DIM,), "da": (DIM, 2 * STATES), "c": (DIM, 2 * STATES),
          "d": (DIM,), "mix.weight": (DIM, DIM), "mix.bias": (DIM,)}


def write(work, tensors, recipe, **more):
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        raw = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    with open(os.path.join(work, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
    with open(os.path.join(work, "config.json"), "w", encoding="utf-8") as f:
        json.dump({"model_type": "recipe", "recipe": recipe, **more}, f)


def expected(t, ids):
    rows = [[t["emb"][1][i * DIM + k] for k in range(DIM)] for i in ids]
    x = [[0j] * STATES for _ in range(DIM)]
    out = []
    for at, row in enumerate(rows):
        y = []
        for ch in range(DIM):
            u = t["shift"][1][ch] + sum(t["kernel"][1][k * DIM + ch] * rows[at - TAPS + 1 + k][ch]
                                        for k in range(TAPS) if at - TAPS + 1 + k >= 0)
            u, total = max(u, 0.0), 0.0
            for n in range(STATES):
                i = ch * 2 * STATES + 2 * n
                x[ch][n] = (1 + complex(*t["da"][1][i:i + 2])) * x[ch][n] + u
                total += t["c"][1][i] * x[ch][n].real + t["c"][1][i + 1] * x[ch][n].imag
            y.append(total + t["d"][1][ch] * u)
        s = [row[o] + t["mix.bias"][1][o] + sum(t["mix.weight"][1][o * DIM + k] * y[k] for k in range(DIM))
             for o in range(DIM)]
        out += [sum(t["emb"][1][v * DIM + k] * s[k] for k in range(DIM)) for v in range(VOCAB)]
    return out


def main(convert, evaluate):
    draw = random.Random(5)
    tensors = {}
    for name, shape in SHAPES.items():
        n = shape[0] * (shape[1] if len(shape) > 1 else 1)
        values = [draw.uniform(-1, 1) * (0.3 if name == "mix.weight" else 1) for _ in range(n)]
        if name == "da":
            values = [-abs(v) / 2 if i % 2 == 0 else v / 2 for i, v in enumerate(values)]
        tensors[name] = shape, list(struct.unpack(f"{n}f", struct.pack(f"{n}f", *values)))
    ids = [draw.randrange(VOCAB) for _ in range(40)]
    failed = 0

    def verdict(ok, name, detail):
        nonlocal failed
        failed += not ok
        print(f"{'PASS' if ok else 'FAIL'} {name}: {detail}")

    with tempfile.TemporaryDirectory() as work:
        model, logits = os.path.join(work, "m.sqm"), os.path.join(work, "logits")
        write(work, tensors, RECIPE)
        p = subprocess.run([convert, work, "-o", model, "--quiet"], capture_output=True, text=True)
        if p.returncode == 0:
            p = subprocess.run([evaluate, model, "--ids", "-", "--exact", "--logits", logits], capture_output=True,
                               text=True, input=" ".join(map(str, ids)))
        if p.returncode:
            verdict(False, "recipe model", p.stderr)
        else:
            with open(logits, "rb") as f:
                got = array.array("f", f.read())
            if sys.byteorder != "little":
                got.byteswap()
            want = expected(tensors, ids)
            error = max(abs(a - b) for a, b in zip(got, want)) / max(map(abs, want))
            verdict(len(got) == len(want) and error < 2e-6, "recipe model", f"largest error {error:.1e}")
        wrong = [("tensor da of the recipe is missing", {k: v for k, v in tensors.items() if k != "da"}, RECIPE, {}),
                 ("has no use for it", {**tensors, "more": ((1,), [0.0])}, RECIPE, {}),
                 ("needs a matrix", {**tensors, "da": ((DIM * 2 * STATES,), tensors["da"][1])}, RECIPE, {}),
                 ("d must be 6 float32 values, has 5", {**tensors, "d": ((5,), [0.0] * 5)}, RECIPE, {}),
                 ("unknown", tensors, [line.replace("relu", "rely") for line in RECIPE], {}),
                 ("is not a list of lines", tensors, [], {}),
                 ("line 1 is no line", tensors, [RECIPE[0], 7], {}),
                 ("\"nonsense\"", tensors, RECIPE, {"nonsense": 1})]
        for text, these, recipe, more in wrong:
            write(work, these, recipe, **more)
            p = subprocess.run([convert, work, "-o", model, "--quiet"], capture_output=True, text=True)
            verdict(p.returncode == 1 and text in p.stderr, f"recipe refused: {text}", p.stderr.strip()[-160:])
    return failed != 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2]))
