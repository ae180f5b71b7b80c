#!/usr/bin/env python3
"""Trains the keyword model of examples/09_stream.c: an LMUFormer (arXiv 2402.04882) over the output of a bank of
complex resonators, on words that a speech synthesiser speaks. See README.md beside this file.

    python3 train_keywords.py OUT [--clips N] [--epochs N] [--espeak PROGRAM] [--wav FILE]

OUT gets config.json and model.safetensors with the tensor names of zeyuliu1037/LMUFormer. --wav only writes a test
recording: words in a row by voices and with noise that training never saw. Needs numpy, autograd and espeak-ng.
"""
import argparse
import io
import json
import math
import os
import subprocess
import wave
from concurrent.futures import ThreadPoolExecutor

import numpy
import autograd.numpy as np
from autograd import grad
from autograd.scipy.special import erf

RATE, HOP, BANDS, FRAMES, STAGES = 16000, 160, 24, 100, 3
WORDS = "yes no up down left right on off stop go".split()
LABELS = WORDS + ["unknown", "silence"]
OTHERS = ("bed bird cat dog eight five four happy house marvin nine one seven sheila six three tree two wow "
          "zero hello computer light music apple window orange paper garden summer winter river coffee morning "
          "table music yellow purple seventeen because another water mother people number").split()
UNSEEN = "backward forward follow learn visual planet kitchen doctor silver monkey banana friday".split()
ACCENTS = "en-us en-gb en-gb-scotland en-gb-x-rp en-gb-x-gbclan en-029".split()
VOICES = ("Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael "
          "Mike adam anika antonio aunty belinda boris caleb david ed edward f1 f2 f3 f5 grandma grandpa iven "
          "iven2 john klatt klatt2 klatt4 linda m1 m2 m3 m5 m6 m8 marcelo max michel miguel norbert pablo paul "
          "quincy rob sandro shelby steph travis").split()
UNSEEN_VOICES = "f4 m4 m7 klatt3 benjamin pedro robert steph2 victor zac".split()


# ---- words ------------------------------------------------------------------------------------------------------
def speak(espeak, word, accent, voice, speed, pitch):
    """Samples at RATE of one word, without the silence around it, loudest sample 1."""
    out = subprocess.run([espeak, "--stdout", "-v", f"{accent}+{voice}", "-s", str(speed), "-p", str(pitch), word],
                         capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(out)) as w:
        rate = w.getframerate()
    x = numpy.frombuffer(out[44:], "<i2").astype(numpy.float64)     # a stream: the length in its header is not set
    n = int(len(x) * RATE / rate)
    spectrum = numpy.fft.rfft(x)
    x = numpy.fft.irfft(spectrum[:n // 2 + 1], n)
    loud = numpy.flatnonzero(numpy.abs(x) > 0.02 * numpy.abs(x).max())
    x = x[loud[0]:loud[-1] + 1]
    return x / numpy.abs(x).max()


def noise(r, n):
    """White to brown noise, now and then with hum; deviation 1."""
    spectrum = numpy.fft.rfft(r.normal(size=n)) / numpy.maximum(1.0, numpy.arange(n // 2 + 1) / 20.0) ** r.uniform(0, 1)
    x = numpy.fft.irfft(spectrum, n)
    if r.uniform() < 0.2:
        x = x / x.std() + r.uniform(0, 1) * numpy.sin(2 * math.pi * r.choice([50, 60, 100]) * numpy.arange(n) / RATE)
    return x / x.std()


def clip_of(r, word, start):
    """FRAMES frames with the word (or none) from about frame `start`, in noise, at some loudness."""
    n = FRAMES * HOP
    x = numpy.zeros(n)
    if word is not None:
        at = int(start * HOP)
        word = word[:n - at] * numpy.exp(r.uniform(-1.5, 0.0))
        x[at:at + len(word)] = word
        if r.uniform() < 0.5:                                        # a room: one echo and a soft filter
            delay = int(r.integers(40, 800))
            x[delay:] += r.uniform(0, 0.4) * x[:-delay]
    level = numpy.exp(r.uniform(math.log(0.0005), math.log(0.05 if word is not None else 0.2)))
    return (x + level * noise(r, n)) * numpy.exp(r.uniform(-2.0, -0.2))


# ---- the ears: the same numbers as in examples/09_stream.c -----------------------------------------------------------
def resonators():
    """BANDS poles, evenly spaced on the ERB scale from 100 to 7000 Hz, each as wide as its ERB."""
    low, high = (21.4 * math.log10(1 + 0.00437 * f) for f in (100.0, 7000.0))
    erbs = numpy.linspace(low, high, BANDS)
    f = (10 ** (erbs / 21.4) - 1) / 0.00437
    width = 24.7 * (0.00437 * f + 1)
    return numpy.exp(2 * math.pi * (-width + 1j * f) / RATE)


def hear(clips):
    """clips [n, samples] -> features [n, frames, BANDS]: logarithm of a frame's mean energy behind STAGES resonators"""
    a = resonators().astype(numpy.complex64)
    gain = ((1 - numpy.abs(a)) ** STAGES).astype(numpy.float32)
    n, samples = clips.shape
    state = numpy.zeros((STAGES, n, BANDS), numpy.complex64)
    frames = numpy.zeros((n, samples // HOP, BANDS), numpy.float32)
    clips = clips.astype(numpy.float32)
    for t in range(samples):
        x = clips[:, t, None] * gain
        for s in range(STAGES):
            state[s] = x = a * state[s] + x
        frames[:, t // HOP] += x.real ** 2 + x.imag ** 2
    return (numpy.log(frames / HOP + 1e-7) + 12) / 3


def dataset(espeak, count, seed, words, others, voices):
    """count clips: features [count, FRAMES, BANDS] and labels [count], of all kinds about equally many."""
    r = numpy.random.default_rng(seed)
    labels = r.permutation(numpy.arange(count) % len(LABELS))
    labels[(labels == len(LABELS) - 1) & (r.uniform(size=count) < 0.25)] = len(LABELS) - 2
    jobs = []
    for label in labels:
        word = words[label] if label < len(words) else others[r.integers(len(others))] if label == len(words) else None
        jobs.append(word and (word, ACCENTS[r.integers(len(ACCENTS))], voices[r.integers(len(voices))],
                              int(r.integers(110, 230)), int(r.integers(10, 95))))
    with ThreadPoolExecutor(2) as pool:
        spoken = list(pool.map(lambda j: j and speak(espeak, *j), jobs))
    features = numpy.zeros((count, FRAMES, BANDS), numpy.float32)
    for first in range(0, count, 1000):
        part = spoken[first:first + 1000]
        features[first:first + 1000] = hear(numpy.stack([clip_of(r, w, r.uniform(2, 25)) for w in part]))
        print(f"  {min(first + 1000, count)} clips", flush=True)
    return features, labels


# ---- the network ------------------------------------------------------------------------------------------------
def legendre(order, theta):
    """A, B of the Legendre memory, zero-order hold (Voelker et al. 2019)"""
    i, j = numpy.arange(order)[:, None], numpy.arange(order)[None, :]
    a = (2 * i + 1) * numpy.where(i < j, -1.0, (-1.0) ** (i - j + 1)) / theta
    b = ((2 * i + 1) * (-1.0) ** i / theta)
    m = numpy.zeros((order + 1, order + 1))
    m[:order, :order], m[:order, order:] = a, b
    e, term = numpy.eye(order + 1), numpy.eye(order + 1)
    scale = 2 ** max(0, math.ceil(math.log2(numpy.abs(m).sum(0).max() / 0.25)))
    for k in range(1, 17):
        term = term @ (m / scale) / k
        e = e + term
    for _ in range(int(math.log2(scale))):
        e = e @ e
    return e[:order, :order], e[:order, order]


def network(c, r):
    """Parameters by their official names, and the constants A, B"""
    d, hidden = c["dim"], int(c["dim"] * c["mlp_ratio"])
    p = {}

    def conv(name, out, inputs, width, bias):
        p[name + ".weight"] = r.normal(size=(out, inputs, width)) * math.sqrt(2 / (inputs * width))
        if bias:
            p[name + ".bias"] = numpy.zeros(out)

    def norm(name, n):
        p[name + ".weight"], p[name + ".bias"] = numpy.ones(n), numpy.zeros(n)

    for i in range(4):
        conv(f"patch_embed.conv_layers.{i}.0", d, d if i else BANDS, 3, False)
        norm(f"patch_embed.conv_layers.{i}.3", d)
    conv("patch_embed.rpe_conv", d, d, 3, False)
    b = "block.0."
    p[b + "attn.lmu.W_u.weight"], p[b + "attn.lmu.W_u.bias"] = r.normal(size=(1, d)) / math.sqrt(d), numpy.full(1, 0.1)
    p[b + "attn.lmu.W_h.weight"] = r.normal(size=(d, 2 * d)) * math.sqrt(1 / d)
    p[b + "attn.lmu.W_h.bias"] = numpy.zeros(d)
    conv(b + "attn.proj_conv", d, d, 1, True), norm(b + "attn.proj_bn", d)
    conv(b + "mlp.fc1_conv", hidden, d, 1, True), norm(b + "mlp.fc1_bn", hidden)
    conv(b + "mlp.fc2_conv", d, hidden, 1, True), norm(b + "mlp.fc2_bn", d)
    p["head.weight"], p["head.bias"] = r.normal(size=(len(LABELS), d)) / math.sqrt(d), numpy.zeros(len(LABELS))
    return p


def forward(p, x, impulse, statistics, training):
    """Logits of the mean over all frames so far [n, FRAMES, classes]. statistics: running mean and variance of every
    batch norm; in training the batch's own are used and left in statistics["batch"]."""
    def conv(name, x):
        w = p[name + ".weight"]
        if w.shape[2] == 3:
            z = numpy.zeros((x.shape[0], 1, x.shape[2]), numpy.float32)
            x = np.concatenate([np.concatenate([z, x[:, :-1]], 1), x, np.concatenate([x[:, 1:], z], 1)], 2)
        y = np.dot(x, np.reshape(np.transpose(w, (2, 1, 0)), (-1, w.shape[0])))
        return y + p[name + ".bias"] if name + ".bias" in p else y

    def norm(name, x):
        if training:
            mean = np.mean(x, (0, 1))
            var = np.mean((x - mean) ** 2, (0, 1))
            statistics["batch"][name] = (getattr(mean, "_value", mean), getattr(var, "_value", var))
        else:
            mean, var = statistics["running"][name]
        return (x - mean) / np.sqrt(var + 1e-5) * p[name + ".weight"] + p[name + ".bias"]

    relu = lambda x: np.maximum(x, 0)
    for i in range(4):
        x = norm(f"patch_embed.conv_layers.{i}.3", relu(conv(f"patch_embed.conv_layers.{i}.0", x)))
    x = x + conv("patch_embed.rpe_conv", x)
    b = "block.0."
    u = relu(np.dot(x, p[b + "attn.lmu.W_u.weight"].T) + p[b + "attn.lmu.W_u.bias"])[:, :, 0]
    m = np.reshape(np.dot(u, impulse), (x.shape[0], FRAMES, -1))     # the memory as a convolution with its impulse
    h = relu(np.dot(np.concatenate([m, x], 2), p[b + "attn.lmu.W_h.weight"].T) + p[b + "attn.lmu.W_h.bias"])
    x = x + norm(b + "attn.proj_bn", conv(b + "attn.proj_conv", h))
    y = norm(b + "mlp.fc1_bn", conv(b + "mlp.fc1_conv", x))
    y = conv(b + "mlp.fc2_conv", 0.5 * y * (1 + erf(y / math.sqrt(2))))
    x = x + relu(norm(b + "mlp.fc2_bn", y))
    mean = np.cumsum(x, 1) / numpy.arange(1, FRAMES + 1, dtype=numpy.float32)[:, None]
    return np.dot(mean, p["head.weight"].T) + p["head.bias"]


def losses(logits, labels, at):
    """Mean cross-entropy of the running predictions at the frames `at`"""
    z = logits[:, at]
    z = z - np.max(z, 2, keepdims=True)
    z = z - np.log(np.sum(np.exp(z), 2, keepdims=True))
    return -np.mean(z[numpy.arange(len(labels))[:, None], numpy.arange(len(at))[None, :], labels[:, None]])


def impulse_matrix(a, b):
    """[FRAMES, FRAMES * order]: u @ it = memory of every frame"""
    order = len(b)
    h = numpy.zeros((FRAMES, order))
    h[0] = b
    for t in range(1, FRAMES):
        h[t] = a @ h[t - 1]
    k = numpy.zeros((FRAMES, FRAMES, order))
    for s in range(FRAMES):
        k[s, s:] = h[:FRAMES - s]
    return k.reshape(FRAMES, -1).astype(numpy.float32)


def accuracy(p, x, labels, impulse, statistics):
    right = numpy.zeros(FRAMES)
    for i in range(0, len(labels), 500):
        right += (forward(p, x[i:i + 500], impulse, statistics, False).argmax(2) == labels[i:i + 500, None]).sum(0)
    return right / len(labels)


def train(c, p, data, test, epochs, impulse, log):
    """Adam with a cosine schedule; the later the frame, the more its prediction counts."""
    x, labels = data
    r = numpy.random.default_rng(7)
    moments = {k: [numpy.zeros_like(v), numpy.zeros_like(v)] for k, v in p.items()}
    statistics = {"batch": {}, "running": {}}
    at = numpy.array([45, 60, 75, 99, 99, 99])
    steps = epochs * (len(labels) // c["batch"])
    gradient = grad(lambda p, x, y: losses(forward(p, x, impulse, statistics, True), y, at))
    step = 0
    for epoch in range(epochs):
        order = r.permutation(len(labels))
        for i in range(0, len(order) - c["batch"] + 1, c["batch"]):
            part = order[i:i + c["batch"]]
            batch = x[part] + r.normal(0, 0.05, size=(len(part), 1, BANDS)).astype(numpy.float32)
            g = gradient(p, batch, labels[part])
            step += 1
            rate = c["rate"] * min(1.0, step / 100) * 0.5 * (1 + math.cos(math.pi * step / steps)) + 1e-5
            for k, v in p.items():
                m = moments[k]
                m[0] = 0.9 * m[0] + 0.1 * g[k]
                m[1] = 0.99 * m[1] + 0.01 * g[k] ** 2
                v = v - rate * (m[0] / (1 - 0.9 ** step)) / (numpy.sqrt(m[1] / (1 - 0.99 ** step)) + 1e-8)
                p[k] = (v - rate * c["decay"] * v if v.ndim > 1 else v).astype(numpy.float32)
            for k, (mean, var) in statistics["batch"].items():
                old = statistics["running"].get(k, (mean, var))
                statistics["running"][k] = (0.98 * old[0] + 0.02 * mean, 0.98 * old[1] + 0.02 * var)
        right = accuracy(p, *test, impulse, statistics)
        log(f"epoch {epoch + 1}: unseen voices {100 * right[-1]:.2f} % after 1 s, {100 * right[59]:.2f} % after 0.6 s")
    return statistics["running"]


# ---- files ------------------------------------------------------------------------------------------------------
def save(path, tensors):
    """A .safetensors file of float32 tensors"""
    header, data = {}, b""
    for name in sorted(tensors):
        raw = numpy.ascontiguousarray(tensors[name], "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + data)


def write_recording(path, espeak, words):
    """Words in a row, each by another unseen voice, in noise: 8 bits, RATE"""
    r = numpy.random.default_rng(99)
    x = numpy.zeros(int(0.3 * RATE))
    for i, word in enumerate(words):
        voice = UNSEEN_VOICES[i % len(UNSEEN_VOICES)]
        spoken = speak(espeak, word, ACCENTS[i % 2], voice, int(r.integers(120, 190)), int(r.integers(20, 80)))
        x = numpy.concatenate([x, 0.5 * spoken, numpy.zeros(int(0.6 * RATE))])
    x = x + 0.004 * noise(r, len(x))
    x = numpy.clip(numpy.round(x * 127 + 128 + r.uniform(-0.5, 0.5, len(x))), 0, 255)
    with wave.open(path, "wb") as w:
        w.setnchannels(1), w.setsampwidth(1), w.setframerate(RATE)
        w.writeframes(x.astype("u1").tobytes())


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("out")
    a.add_argument("--clips", type=int, default=18000)
    a.add_argument("--epochs", type=int, default=20)
    a.add_argument("--dim", type=int, default=32)
    a.add_argument("--espeak", default="espeak-ng")
    a.add_argument("--wav", nargs="*", metavar="WORD", help="write OUT as a recording of these words instead")
    o = a.parse_args()
    if o.wav:
        write_recording(o.out, o.espeak, o.wav)
        return
    os.makedirs(o.out, exist_ok=True)
    lines = open(os.path.join(o.out, "log.txt"), "w")

    def log(text):
        print(text, flush=True)
        print(text, file=lines, flush=True)

    c = {"model_type": "lmuformer", "variant": "lmu", "in_channels": BANDS, "dim": o.dim, "depth": 1, "mlp_ratio": 3.0,
         "num_classes": len(LABELS), "seq_len": FRAMES, "labels": LABELS}
    cache = os.path.join(o.out, "features.npz")
    if not os.path.exists(cache):
        data = dataset(o.espeak, o.clips, 1, WORDS, OTHERS, VOICES)
        test = dataset(o.espeak, 2400, 2, WORDS, UNSEEN, UNSEEN_VOICES)
        numpy.savez(cache, x=data[0].astype(numpy.float16), y=data[1], test_x=test[0], test_y=test[1])
    z = numpy.load(cache)
    data, test = (z["x"].astype(numpy.float32), z["y"]), (z["test_x"], z["test_y"])
    order_a, order_b = legendre(o.dim, float(FRAMES))
    impulse = impulse_matrix(order_a, order_b)
    p = {k: v.astype(numpy.float32) for k, v in network(c, numpy.random.default_rng(3)).items()}
    log(f"{sum(v.size for v in p.values())} parameters, {len(data[1])} clips, {len(test[1])} of unseen voices")
    running = train({**c, "batch": 128, "rate": 4e-3, "decay": 0.02}, p, data, test, o.epochs, impulse, log)
    for name, (mean, var) in running.items():
        p[name + ".running_mean"], p[name + ".running_var"] = mean, var
    p["block.0.attn.lmu.A"], p["block.0.attn.lmu.B"] = order_a, order_b[:, None]
    save(os.path.join(o.out, "model.safetensors"), p)
    with open(os.path.join(o.out, "config.json"), "w") as f:
        json.dump(c, f, indent=1)


if __name__ == "__main__":
    main()
