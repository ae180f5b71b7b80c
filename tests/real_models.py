#!/usr/bin/env python3
"""Real models against reference outputs, through the command-line tools. Standard library only.

    python3 tests/real_models.py MODELS REAL [NAME...]

MODELS holds smollm2.gguf and gemma3.gguf, as .ci/run fetches them (SmolLM2-135M-Instruct Q4_1, Gemma-3-270m Q4_K_M),
and typeseg/ with mamba_al.npz and manifest.json (TypeSeg, a Mamba in both directions that labels bytes).
REAL is the directory with ref/, tok/ and models/ (DATA/real).
RWKV-4, 5.1, 5.2 and 7: rwkv.cpp's expected logits within 5e-6 (7: 2e-6), all logits within 2e-5 (7: 2e-6) of
float64, greedy bytes, all states of all layers after each prompt; the same from the official .pth layout.
For each other model, with --exact: the most probable token of every position, the 20 largest logits at the given
positions
within 2e-3, the greedy continuation as far as the two best tokens are further apart than twice that, perplexity
within 0.01; without --exact: perplexity within 0.5 %. And its tokenizer: 242 strings, encoded and decoded.
Prints PASS|FAIL|SKIP lines; exit status 1 if anything failed.
"""
import array
import collections
import io
import json
import math
import os
import pickle
import re
import struct
import subprocess
import sys
import tempfile
import types
import zipfile

BUILD = os.environ.get("BUILD", "build")
TOLERANCE = 2e-3
work = tempfile.TemporaryDirectory()
failed = 0


def verdict(ok, name, detail=""):
    global failed
    failed += not ok
    print(("PASS " if ok else "FAIL ") + name + (": " + detail if detail else ""), flush=True)


def skip(name, why):
    print(f"SKIP {name}: {why}", flush=True)


def tool(name, *arguments, stdin=b""):
    """Standard output of a tool, as bytes; RuntimeError with its message when it fails."""
    r = subprocess.run([os.path.join(BUILD, name), *arguments], input=stdin, capture_output=True)
    if r.returncode != 0:
        raise RuntimeError(f"{name} {' '.join(arguments)}: status {r.returncode}: "
                           + r.stderr.decode("utf-8", "replace").strip()[:300])
    return r.stdout


def as_text(ids):
    return " ".join(map(str, ids)).encode()


def logits_of(model, ids):
    """Logits after every id, one array of float32 a position."""
    path = os.path.join(work.name, "logits.f32")
    tool("sqm-eval", model, "--ids", "-", "--exact", "--logits", path, stdin=as_text(ids))
    rows, values = [], os.path.getsize(path) // 4 // len(ids)
    with open(path, "rb") as f:
        for _ in ids:
            row = array.array("f")
            row.fromfile(f, values)
            if sys.byteorder != "little":
                row.byteswap()
            rows.append(row)
    os.remove(path)
    return rows


def best(row):
    return row.index(max(row))


def check_greedy(name, model, ids, rows, greedy, margins, tolerance=TOLERANCE):
    """rows: logits of ids + greedy. Each greedy token must be the best one, as long as all margins were wide enough."""
    n, close = 0, 0
    for i, token in enumerate(greedy):
        if best(rows[len(ids) - 1 + i]) == token:
            n += 1
        elif margins[i] > 2 * tolerance:
            got = best(rows[len(ids) - 1 + i])
            return verdict(False, name, f"token {i} is {got}, expected {token} (margin {margins[i]:.4f})")
        else:
            close += 1
    verdict(True, name, f"{n} tokens" + (f", {close} too close to call" if close else ""))


def check_prompt(name, model, p):
    ids, greedy = p["input_ids"], p["greedy48_ids"]
    rows = logits_of(model, ids + greedy)
    wrong = [i for i, token in enumerate(p["argmax_all"]) if best(rows[i]) != token]
    verdict(not wrong, f"{name} best token", f"{len(ids)} positions" + (f", wrong at {wrong[:5]}" if wrong else ""))
    worst = 0.0
    for at, top in p["top20"].items():
        row = rows[int(at)]
        worst = max([worst] + [abs(row[i] - x) for i, x in zip(top["ids"], top["logits"])])
    verdict(worst <= TOLERANCE, f"{name} top 20", f"largest error {worst:.2e}")
    check_greedy(f"{name} greedy", model, ids, rows, greedy, p["greedy48_margin_top1_top2"])


def check_text(name, model, p):
    got = tool("sqm-tokenize", model, stdin=p["text"].encode()).split()
    verdict(list(map(int, got)) == p["input_ids"], f"{name} tokens", f"{len(got)} ids")


def check_perplexity(name, model, reference, first):
    """Four chunks of 512 ids, each scored on its own; first: ids put before each chunk, the last then fall out."""
    ids = reference["ids_first"]
    for options, tolerance in (["--exact"], 0.01), ([], reference["ppl"] * 0.005):
        total = 0.0
        for i in range(0, 2048, 512):
            chunk = (first + ids[i:i + 512])[:512]
            out = tool("sqm-eval", model, "--ids", "-", "--perplexity", *options, stdin=as_text(chunk)).decode()
            total += math.log(float(re.search(r"perplexity ([\d.]+)", out).group(1)))
        perplexity = math.exp(total / 4)
        verdict(abs(perplexity - reference["ppl"]) <= tolerance, f"{name} perplexity {'exact' if options else 'fast'}",
                f"{perplexity:.3f}, reference {reference['ppl']:.3f}, tolerance {tolerance:.3f}")


def check_gguf(name, source, directory, first):
    with open(os.path.join(directory, "ref.json"), encoding="utf-8") as f:
        reference = json.load(f)
    model = os.path.join(work.name, name + ".sqm")
    tool("sqm-convert", source, "-o", model)
    tool("sqm-info", "--verify", model)
    for key, p in reference["prompts"].items():
        check_text(f"{name} {key}", model, p)
        check_prompt(f"{name} {key}", model, p)
    check_perplexity(name, model, reference["ppl_wikitext2_test_first16384bytes"], first)
    return model


def check_stories(name, source, directory):
    with open(os.path.join(directory, "ref.json"), encoding="utf-8") as f:
        reference = json.load(f)
    model = os.path.join(work.name, name + ".sqm")
    tool("sqm-convert", source, "-o", model, "--tokenizer", os.path.join(os.path.dirname(source), "tok512.bin"))
    for key, p in reference["prompts"].items():
        got = list(map(int, tool("sqm-tokenize", model, stdin=p["text"].encode()).split()))
        verdict(got == p["ids"], f"{name} {key} tokens", f"{len(got)} ids")
        ids = p["ids"] + p["greedy"]
        check_greedy(f"{name} {key} greedy", model, p["ids"], logits_of(model, ids), p["greedy"], p["margin"])
    return model


def safetensors(path):
    """name -> array of all float32 and int32 tensors of a file"""
    with open(path, "rb") as f:
        data = f.read()
    n = int.from_bytes(data[:8], "little")
    tensors = {}
    for key, t in json.loads(data[8:8 + n]).items():
        if key != "__metadata__":
            first, last = t["data_offsets"]
            tensors[key] = array.array("f" if t["dtype"] == "F32" else "i", data[8 + n + first:8 + n + last])
            if sys.byteorder != "little":
                tensors[key].byteswap()
    return tensors


def check_typeseg(name, source, directory):
    """Logits of every byte within 1e-5 of the largest; the example's labels are the reference's."""
    with open(os.path.join(directory, "ref.json"), encoding="utf-8") as f:
        cases = json.load(f)["cases"]
    tensors = safetensors(os.path.join(directory, "ref.safetensors"))
    model = os.path.join(work.name, name + ".sqm")
    tool("sqm-convert", source, "-o", model)
    for key, case in cases.items():
        expected = tensors[key + ".logits"]
        got = [x for row in logits_of(model, tensors[key + ".tokens"]) for x in row]
        worst = max(abs(a - b) for a, b in zip(got, expected))
        largest = max(map(abs, expected))
        verdict(len(got) == len(expected) and worst <= 1e-5 * largest, f"{name} {key} logits",
                f"largest error {worst:.2e}, tolerance {1e-5 * largest:.2e}")
        text = os.path.join(work.name, "text")
        with open(text, "wb") as f:
            f.write(case["text"].encode())
        labels = tool("segment", model, text, "--bytes").decode().split()
        verdict(labels == case["labels"], f"{name} {key} labels", f"{len(labels)} bytes")


def rwkv_states(path, version, config):
    """name -> values in the reference's order, from what sqm-eval --state wrote. Each layer: the row before the time
    mix, the mixer's state (m, u, w; or tiles of 16 columns [heads][columns / 16][rows][16]), the row before the channel
    mix."""
    n, layers, heads = config["n_embd"], config["n_layer"], config["n_head"]
    with open(path, "rb") as f:
        values = array.array("f", f.read()[32 + 4 * config["n_vocab"]:])
    if sys.byteorder != "little":
        values.byteswap()
    size, dim = len(values) // layers, 0 if version == "4" else n // heads
    out = {key: array.array("f") for key in ("att_x_prev", "ffn_x_prev", *(("wkv",) if dim else ("pp", "bb", "aa")))}
    for layer in range(layers):
        one = values[layer * size:(layer + 1) * size]
        out["att_x_prev"] += one[:n]
        out["ffn_x_prev"] += one[-n:]
        middle = one[n:-n]
        if not dim:
            for i, key in enumerate(("pp", "bb", "aa")):
                out[key] += middle[i * n:(i + 1) * n]
            continue
        tiles = (dim + 15) // 16
        for h in range(heads):
            for a in range(dim):
                for b in range(dim):       # 7: [value, key]; 5: [key, value]
                    key, value = (b, a) if version == "7" else (a, b)
                    out["wkv"].append(middle[((h * tiles + value // 16) * dim + key) * 16 + value % 16])
    return out


def check_rwkv_state(name, model, version, reference, expected, key):
    path = os.path.join(work.name, "state")
    tool("sqm-eval", model, "--ids", "-", "--exact", "--state", path, stdin=as_text(reference["prompts"][key]["bytes"]))
    worst, ok = 0.0, True
    for what, got in rwkv_states(path, version, reference["config"]).items():
        want = expected[f"{key}.state.{what}"]
        largest = max(1.0, max(map(abs, want)))
        error = max(abs(a - b) for a, b in zip(got, want)) / largest
        ok &= len(got) == len(want) and error <= 2e-6
        worst = max(worst, error)
    verdict(ok, f"{name} {key} states", f"largest error {worst:.2e} of the largest value, tolerance 2e-06")


def rwkv_cpp_tensors(path):
    """name -> (shape, values) of an rwkv.cpp file in float32"""
    tensors = {}
    with open(path, "rb") as f:
        f.seek(24)
        while head := f.read(12):
            n, name_bytes, kind = struct.unpack("<3I", head)
            shape = struct.unpack(f"<{n}I", f.read(4 * n))[::-1]
            name = f.read(name_bytes).decode()
            values = array.array("f", f.read(4 * math.prod(shape)))
            if kind:
                raise ValueError(f"{name} is not float32")
            if sys.byteorder != "little":
                values.byteswap()
            tensors[name] = shape, values
    return tensors


def official_rwkv(tensors, version):
    """The same as the project's training code stores them: decays before their exponentials, inner maps as [in, out],
    vectors as [1, 1, n], RWKV-7's mixes one by one. The epsilon of RWKV-5's group norm is 64e-5 there and 1e-5 in
    rwkv.cpp: values times 8 make the same of it."""
    out = {}
    for name, (shape, values) in tensors.items():
        last = name.rsplit(".", 1)[-1]
        if last == "time_decay":            # rwkv.cpp: -e^w (4), e^-e^w (5)
            values = array.array("f", (math.log(-x if version == "4" else -math.log(x)) for x in values))
        elif last == "time_first" and version == "5":
            values = array.array("f", map(math.log, values))
        elif last == "x_rwkvag":
            n = shape[-1]
            for i, part in enumerate("rwkvag"):
                out[name[:-6] + part] = (1, 1, n), values[i * n:(i + 1) * n]
            continue
        elif re.fullmatch("[wavg][12]", last):
            rows, cols = shape
            values = array.array("f", (values[r * cols + c] for c in range(cols) for r in range(rows)))
            shape = cols, rows
        if version == "5" and name.endswith("att.value.weight"):
            values = array.array("f", (8 * x for x in values))
        if version == "5" and last in ("time_decay", "time_first", "time_faaaa"):
            shape = shape[:2] if shape[1] > 1 else shape[:1]
        elif "time_mix" in last or (version == "4" and last in ("time_decay", "time_first")):
            shape = (1, 1, shape[0]) if "mix" in last else shape
        out[name] = shape, values
    return out


def write_pth(path, tensors):
    """What torch.save writes: a zip with a pickle and the storages, without torch"""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    exec("def _rebuild_tensor_v2(*arguments): pass", utils.__dict__)
    utils._rebuild_tensor_v2.__module__ = "torch._utils"
    sys.modules.update({"torch": torch, "torch._utils": utils})

    class Storage:
        def __init__(self, key, n):
            self.id = ("storage", torch.FloatStorage, key, "cpu", n)

    class Tensor:
        def __init__(self, key, shape, n):
            strides = [math.prod(shape[i + 1:]) for i in range(len(shape))]
            self.arguments = Storage(key, n), 0, tuple(shape), tuple(strides), False, collections.OrderedDict()

        def __reduce__(self):
            return utils._rebuild_tensor_v2, self.arguments

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.id if isinstance(value, Storage) else None

    data = io.BytesIO()
    Pickler(data, 2).dump({name: Tensor(str(i), shape, len(values))
                           for i, (name, (shape, values)) in enumerate(tensors.items())})
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("archive/data.pkl", data.getvalue())
        for i, (_, values) in enumerate(tensors.values()):
            z.writestr(f"archive/data/{i}", (values if sys.byteorder == "little" else
                                             array.array("f", values)).tobytes())
        z.writestr("archive/version", "3\n")
    del sys.modules["torch"], sys.modules["torch._utils"]


def check_rwkv_pth(name, source, reference, expected, tolerance):
    """The official layout"""
    version, key = name.split("-")[2][0], "short_en"
    path, model = os.path.join(work.name, name + ".pth"), os.path.join(work.name, name + "-pth.sqm")
    write_pth(path, official_rwkv(rwkv_cpp_tensors(source), version))
    tool("sqm-convert", path, "-o", model, "--tokenizer", "bytes")
    ids, want = reference["prompts"][key]["bytes"], expected[key + ".logits"]
    rows = logits_of(model, ids)
    n = len(rows[0])
    worst = max(abs(a - b) for a, b in zip((x for row in rows for x in row), want))
    same = sum(best(row) == best(want[i * n:(i + 1) * n]) for i, row in enumerate(rows))
    verdict(same == len(ids) and worst <= tolerance, f"{name} .pth",
            f"{same} of {len(ids)} best tokens, largest error {worst:.2e}")


def check_rwkv(name, source, directory, expected_logits, official, tolerance):
    with open(os.path.join(directory, "ref.json"), encoding="utf-8") as f:
        reference = json.load(f)
    expected = safetensors(os.path.join(directory, "ref.safetensors"))
    model = os.path.join(work.name, name + ".sqm")
    tool("sqm-convert", source, "-o", model, "--tokenizer", "bytes")
    with open(expected_logits, "rb") as f:
        want = array.array("f", f.read())
    if sys.byteorder != "little":
        want.byteswap()
    row = logits_of(model, reference["prompts"]["official_test"]["bytes"])[-1]
    worst = max(abs(a - b) for a, b in zip(row, want))
    verdict(len(row) == len(want) and worst <= official, f"{name} rwkv.cpp's logits", f"largest error {worst:.2e}")
    for key, p in reference["prompts"].items():
        ids, want = p["bytes"], expected[key + ".logits"]
        rows = logits_of(model, ids + p["greedy48"])
        got = [x for row in rows[:len(ids)] for x in row]
        worst = max(abs(a - b) for a, b in zip(got, want))
        verdict(len(got) == len(want) and worst <= tolerance, f"{name} {key} logits",
                f"{len(ids)} positions, largest error {worst:.2e}, tolerance {tolerance:.0e}")
        check_greedy(f"{name} {key} greedy", model, ids, rows, p["greedy48"], p["greedy48_margin"], tolerance)
        check_rwkv_state(name, model, name.split("-")[2][0], reference, expected, key)
    check_rwkv_pth(name, source, reference, expected, tolerance)


def check_tokenizer(name, model, path):
    with open(path, encoding="utf-8") as f:
        cases = json.load(f)["cases"]
    wrong = []
    for i, case in enumerate(cases):
        text = case["text"].encode("utf-8", "surrogatepass")
        ids = tool("sqm-tokenize", model, "--bare", stdin=text).split()
        if list(map(int, ids)) != case["ids"]:
            wrong.append(f"encode {i} ({case['category']})")
        back = tool("sqm-tokenize", model, "--decode", stdin=as_text(case["ids"]))
        if "decoded" in case and back.decode("utf-8", "replace") != case["decoded"]:
            wrong.append(f"decode {i} ({case['category']})")
    verdict(not wrong, f"tokenizer {name}", ", ".join([f"{len(cases)} strings, {len(wrong)} wrong"] + wrong[:6]))


def guarded(name, function, *arguments):
    try:
        return function(name, *arguments)
    except (RuntimeError, OSError, KeyError, ValueError) as e:
        verdict(False, name, str(e))
        return None


def main(models, real, names):
    ref = os.path.join(real, "ref")
    known = {
        "stories260k": (check_stories, os.path.join(real, "models/stories260k/stories260K.bin"), "stories260k", ()),
        "smollm2": (check_gguf, os.path.join(models, "smollm2.gguf"), "smollm2-135m-instruct", ([],)),
        "typeseg": (check_typeseg, os.path.join(models, "typeseg/mamba_al.npz"), "typeseg-mamba", ()),
        "gemma3": (check_gguf, os.path.join(models, "gemma3.gguf"), "gemma3-270m", ([2],)),
    }
    for version in "4v0-660K", "5v1-730K", "5v2-730K", "7v0-834K":
        tiny = os.path.join(real, "models/rwkv_tiny/")
        known["rwkv-tiny-" + version] = (check_rwkv, f"{tiny}tiny-rwkv-{version}-FP32.bin", "rwkv-tiny-" + version,
                                         (f"{tiny}expected-logits-{version}.bin",
                                          *((2e-6, 2e-6) if version[0] == "7" else (5e-6, 2e-5))))
    tokens_of = {"stories260k": "llama2c-tok512"}
    for name, (function, source, directory, more) in known.items():
        if names and name not in names:
            continue
        if not os.path.exists(source):
            skip(name, f"{source} is not there")
            continue
        model = guarded(name, function, source, os.path.join(ref, directory), *more)
        if model:
            tokens = tokens_of.get(name, name)
            guarded(tokens, check_tokenizer, model, os.path.join(real, "tok", tokens + ".json"))
    return failed != 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
