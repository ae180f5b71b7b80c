#!/usr/bin/env python3
"""Speed beside llama.cpp, on the same model at the same bits, in alternation.

    python3 tests/bench/compare_peers.py MODEL.gguf [--threads 1,2] [--types F32,F16,Q8_0,Q4_0] [--rounds 5]
                                         [--work DIR] [--llama-bench PROGRAM] [--isa avx2]

Needs make, a C and a C++ compiler. llama.cpp is built from the source package of llama-cpp-python with its own native
settings, in DIR (build/peers), once; --llama-bench names one that is built already. MODEL is converted to each type
with the gguf package, then to .sqm with build/sqm-convert. Every round runs both programs once for each figure, in
turn, so that a busy machine hurts both alike. Prints medians, the median of the ratios of the rounds, and what the
machine could do in the same run.
"""
import argparse
import csv
import glob
import io
import os
import re
import statistics
import subprocess
import sys
import tarfile

FIGURES = (("prefill 512", 512, 0, 0), ("prefill 2048", 2048, 0, 0), ("decode at 16", 0, 32, 16),
           ("decode at 2048", 0, 32, 2048))          # name, prompt, new tokens, depth


def run(*command, **options):
    r = subprocess.run(command, capture_output=True, text=True, **options)
    if r.returncode != 0:
        sys.exit(f"{' '.join(command)}: status {r.returncode}\n{r.stderr[-2000:]}")
    return r.stdout


def build_peer(work):
    """llama-bench from the source package; returns its path."""
    program = os.path.join(work, "llama", "bin", "llama-bench")
    if os.path.exists(program):
        return program
    venv = os.path.join(work, "venv")
    run(sys.executable, "-m", "venv", venv)
    python = os.path.join(venv, "bin", "python")
    run(python, "-m", "pip", "install", "-q", "cmake", "ninja")
    run(python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", work, "llama-cpp-python")
    archive = glob.glob(os.path.join(work, "llama_cpp_python-*.tar.gz"))[0]
    with tarfile.open(archive) as tar:
        tar.extractall(work)
    source = os.path.join(archive[:-len(".tar.gz")], "vendor", "llama.cpp")
    tools = dict(os.environ, PATH=os.path.join(venv, "bin") + os.pathsep + os.environ["PATH"])
    run("cmake", "-S", source, "-B", os.path.join(work, "llama"), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
        "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF", env=tools)
    run("ninja", "-C", os.path.join(work, "llama"), "llama-bench", env=tools)
    return program


def convert(source, target, kind):
    """Every matrix of a GGUF file in one type, vectors in float32."""
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize, quantize
    reader, number = GGUFReader(source), GGMLQuantizationType[kind]
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        if field.types[0] == GGUFValueType.ARRAY:
            writer.add_array(name, field.contents())
        else:
            writer.add_key_value(name, field.contents(), field.types[0])
    for t in reader.tensors:
        values = dequantize(t.data, t.tensor_type).astype(np.float32)
        if values.ndim == 1 or kind == "F32":
            writer.add_tensor(t.name, values)
        elif kind == "F16":
            writer.add_tensor(t.name, values.astype(np.float16))
        else:
            writer.add_tensor(t.name, quantize(values, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def peer_rate(program, model, threads, prompt, new, depth):
    out = run(program, "-m", model, "-t", str(threads), "-p", str(prompt), "-n", str(new), "-d", str(depth), "-r", "1",
              "-o", "csv")
    return float(next(csv.DictReader(io.StringIO(out)))["avg_ts"])


def our_rate(model, threads, prompt, new, depth, isa):
    out = run(os.path.join("build", "sqm-bench"), model, "-t", str(threads), "-p", str(prompt), "-n", str(new), "-d",
              str(depth), "-r", "1", "--isa", isa)
    rate = re.search(r"^(?:prefill|decode) \d+ at \d+ +([\d.]+).*?(?:([\d.]+)% of .*)?$", out, re.M)
    return float(rate.group(1)), float(rate.group(2) or 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--types", default="F32,F16,Q8_0,Q4_0")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", default=os.path.join("build", "peers"))
    parser.add_argument("--llama-bench")
    parser.add_argument("--isa", default="auto")
    o = parser.parse_args()
    os.makedirs(o.work, exist_ok=True)
    peer = o.llama_bench or build_peer(o.work)
    run("make", "-s", "build/sqm-convert", "build/sqm-bench")
    print("| type | threads | figure | llama.cpp tok/s | seqmodel.h tok/s | ratio | share of the roofline |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for kind in o.types.split(","):
        theirs, ours = (os.path.join(o.work, kind + suffix) for suffix in (".gguf", ".sqm"))
        if not os.path.exists(theirs):
            convert(o.model, theirs, kind)
        run(os.path.join("build", "sqm-convert"), theirs, "-o", ours)
        for threads in map(int, o.threads.split(",")):
            for name, *figure in FIGURES:
                rounds = []
                for _ in range(o.rounds):
                    rate = peer_rate(peer, theirs, threads, *figure)
                    rounds.append((rate, *our_rate(ours, threads, *figure, o.isa)))
                print(f"| {kind} | {threads} | {name} | {statistics.median(r[0] for r in rounds):.1f} | "
                      f"{statistics.median(r[1] for r in rounds):.1f} | "
                      f"{statistics.median(r[1] / r[0] for r in rounds):.2f} | "
                      f"{statistics.median(r[2] for r in rounds):.0f}% |", flush=True)


main()
