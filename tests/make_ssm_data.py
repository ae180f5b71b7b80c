#!/usr/bin/env python3
"""Writes test cases of state-spaces/mamba's own format (config.json with ssm_cfg, attention and MLP layers) for
sqm-check: random weights, and what they give as a plain NumPy version in float64 computes it.

    python3 tests/make_ssm_data.py tests/data/hf
"""
import json
import os
import sys

import numpy as np
from safetensors.numpy import save_file


def silu(x):
    return x / (1 + np.exp(-x))


def softplus(x):
    return np.log1p(np.exp(-abs(x))) + np.maximum(x, 0)


def rms_norm(x, w, groups=1):
    g = x.reshape(*x.shape[:-1], groups, -1)
    return (g / np.sqrt((g * g).mean(-1, keepdims=True) + 1e-5)).reshape(x.shape) * w


def norm(x, w):
    if "bias" not in w:
        return rms_norm(x, w["weight"])
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w["weight"] + w["bias"]


def linear(x, w, name):
    y = x @ w[name + ".weight"].T
    return y + w[name + ".bias"] if name + ".bias" in w else y


def conv(x, w):
    taps = w["conv1d.weight"][:, 0]
    padded = np.concatenate([np.zeros((taps.shape[1] - 1, x.shape[1])), x])
    return sum(padded[k:k + len(x)] * taps[:, k] for k in range(taps.shape[1])) + w["conv1d.bias"]


class Sizes:
    def __init__(self, config):
        ssm, attn = config["ssm_cfg"], config.get("attn_cfg", {})
        self.dim = config["d_model"]
        self.all = int(ssm.get("expand", 2) * self.dim)
        self.inner = ssm.get("d_ssm") or self.all
        self.mlp = self.all - self.inner
        self.head, self.state, self.groups = ssm["headdim"], ssm["d_state"], ssm.get("ngroups", 1)
        self.heads = self.inner // self.head
        self.q_heads = attn.get("num_heads", 1)
        self.kv_heads = attn.get("num_heads_kv") or self.q_heads
        self.head_dim = attn.get("head_dim") or self.dim // self.q_heads
        self.attn_mlp = -(-attn.get("mlp_dim", 0) // 256) * 256
        self.ffn = -(-config.get("d_intermediate", 0) // 128) * 128


def mamba2(u, w, config):
    c, s, n = config["ssm_cfg"], Sizes(config), len(u)
    keys = s.groups * s.state
    z0, x0, z, xbc, dt = np.split(linear(u, w, "in_proj"),
                                  np.cumsum([s.mlp, s.mlp, s.inner, s.inner + 2 * keys]), axis=1)
    x, b, k = np.split(silu(conv(xbc, w)), [s.inner, s.inner + keys], axis=1)
    x, b, k = x.reshape(n, s.heads, s.head), b.reshape(n, s.groups, -1), k.reshape(n, s.groups, -1)
    dt = np.clip(softplus(dt + w["dt_bias"]), *c.get("dt_limit", [0, np.inf]))
    y, states = np.zeros_like(x), np.zeros((s.heads, s.head, s.state))
    for t in range(n):
        for h in range(s.heads):
            group = h // (s.heads // s.groups)
            states[h] = np.exp(-dt[t, h] * np.exp(w["A_log"][h])) * states[h] + \
                dt[t, h] * np.outer(x[t, h], b[t, group])
            y[t, h] = states[h] @ k[t, group]
    y = (y + (w["D"].reshape(s.heads, -1) * x)).reshape(n, -1)
    if not c.get("rmsnorm", True):
        y = y * silu(z)
    elif c.get("norm_before_gate"):
        y = rms_norm(y, w["norm.weight"], s.groups) * silu(z)
    else:
        y = rms_norm(y * silu(z), w["norm.weight"], s.groups)
    return linear(np.concatenate([silu(z0) * x0, y], axis=1), w, "out_proj")


def rotate(x, c):
    dims, x = c.get("rotary_emb_dim", 0), x.copy()
    angle = np.arange(len(x))[:, None, None] * c.get("rotary_emb_base", 1e4) ** (-np.arange(0, dims, 2) / max(dims, 1))
    pairs = (slice(0, dims, 2), slice(1, dims, 2)) if c.get("rotary_emb_interleaved") else \
        (slice(0, dims // 2), slice(dims // 2, dims))
    a, b = x[..., pairs[0]].copy(), x[..., pairs[1]].copy()
    x[..., pairs[0]], x[..., pairs[1]] = a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)
    return x


def attention(u, w, config):
    c, s, n = config["attn_cfg"], Sizes(config), len(u)
    q_width, kv_width = s.q_heads * s.head_dim, s.kv_heads * s.head_dim
    qkv, up, gate = np.split(linear(u, w, "in_proj"),
                             np.cumsum([q_width + 2 * kv_width, s.attn_mlp // 2]), axis=1)
    if c.get("d_conv"):
        qkv = conv(qkv, w)
    q, k, v = (x.reshape(n, -1, s.head_dim) for x in np.split(qkv, [q_width, q_width + kv_width], axis=1))
    q, k, v = rotate(q, c), *(np.repeat(x, s.q_heads // s.kv_heads, 1) for x in (rotate(k, c), v))
    scores = np.einsum("thd,shd->hts", q, k) * (c.get("softmax_scale") or s.head_dim ** -0.5)
    scores = np.where(np.tril(np.ones((n, n))) > 0, scores, -np.inf)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    y = np.einsum("hts,shd->thd", scores / scores.sum(-1, keepdims=True), v).reshape(n, -1)
    return linear(np.concatenate([y, up * silu(gate)], axis=1), w, "out_proj")


def forward(ids, weights, config):
    def under(prefix):
        return {k[len(prefix):]: v for k, v in weights.items() if k.startswith(prefix)}
    x = weights["backbone.embedding.weight"][ids]
    for i in range(config["n_layer"]):
        layer = "backbone.layers.%d." % i
        mixer = attention if i in config.get("attn_layer_idx", []) else mamba2
        x = x + mixer(norm(x, under(layer + "norm.")), under(layer + "mixer."), config)
        if config.get("d_intermediate"):
            up, gate = np.split(linear(norm(x, under(layer + "norm2.")), weights, layer + "mlp.fc1"), 2, axis=1)
            x = x + linear(up * silu(gate), weights, layer + "mlp.fc2")
    return norm(x, under("backbone.norm_f.")) @ weights["backbone.embedding.weight"].T


def random_weights(config, random):
    s, weights = Sizes(config), {}
    multiple = config["pad_vocab_size_multiple"]

    def put(name, *shape, scale=None, plus=0.0):
        scale = scale or shape[-1] ** -0.5
        weights[name] = (plus + scale * random.standard_normal(shape)).astype(np.float32)

    def put_norm(name):
        put(name + ".weight", s.dim, scale=0.2, plus=1.0)
        if not config["rms_norm"]:
            put(name + ".bias", s.dim, scale=0.2)

    def put_linear(name, rows, cols, bias):
        put(name + ".weight", rows, cols)
        if bias:
            put(name + ".bias", rows, scale=0.2)

    def put_conv(name, channels, taps):
        put(name + ".weight", channels, 1, taps)
        put(name + ".bias", channels, scale=0.2)

    def put_mamba2(name):
        c = config["ssm_cfg"]
        channels = s.inner + 2 * s.groups * s.state
        put_linear(name + "in_proj", s.all + s.mlp + channels + s.heads, s.dim, c.get("bias"))
        put_linear(name + "out_proj", s.dim, s.all, c.get("bias"))
        put_conv(name + "conv1d", channels, c.get("d_conv", 4))
        put(name + "dt_bias", s.heads, scale=1.0, plus=-2.0)
        put(name + "D", s.inner if c.get("D_has_hdim") else s.heads, scale=1.0)
        weights[name + "A_log"] = np.log(random.uniform(1, 16, s.heads)).astype(np.float32)
        if c.get("rmsnorm", True):
            put(name + "norm.weight", s.inner, scale=0.2, plus=1.0)

    def put_attention(name):
        c = config["attn_cfg"]
        channels = (s.q_heads + 2 * s.kv_heads) * s.head_dim
        put_linear(name + "in_proj", channels + s.attn_mlp, s.dim, c.get("qkv_proj_bias", True))
        put_linear(name + "out_proj", s.dim, s.q_heads * s.head_dim + s.attn_mlp // 2, c.get("out_proj_bias", True))
        if c.get("d_conv"):
            put_conv(name + "conv1d", channels, c["d_conv"])

    put("backbone.embedding.weight", -(-config["vocab_size"] // multiple) * multiple, s.dim, scale=1.0)
    for i in range(config["n_layer"]):
        layer = "backbone.layers.%d." % i
        put_norm(layer + "norm")
        (put_attention if i in config.get("attn_layer_idx", []) else put_mamba2)(layer + "mixer.")
        if s.ffn:
            put_norm(layer + "norm2")
            put_linear(layer + "mlp.fc1", 2 * s.ffn, s.dim, False)
            put_linear(layer + "mlp.fc2", s.dim, s.ffn, False)
    put_norm("backbone.norm_f")
    return weights


def write_case(path, config, seed):
    random = np.random.default_rng(seed)
    weights = random_weights(config, random)
    exact = {k: v.astype(np.float64) for k, v in weights.items()}
    vocab = len(weights["backbone.embedding.weight"])
    expected = {}
    for n in (1, 37, 150):
        ids = random.integers(0, vocab, n)
        rows = np.arange(max(0, n - 28) if n > 100 else 0, n)
        expected["ids_%d" % n] = ids.astype(np.int32)
        expected["logits_%d" % n] = forward(ids, exact, config)[rows].astype(np.float32)
        if n > 100:
            expected["rows_%d" % n] = rows.astype(np.int32)
    text, logits = list(expected["ids_37"]), []
    for _ in range(24):
        logits.append(forward(np.array(text), exact, config)[-1])
        text.append(int(logits[-1].argmax()))
    expected["greedy_37"] = np.array(text[37:], np.int32)
    expected["greedy_logits_37"] = np.array(logits, np.float32)
    os.makedirs(path, exist_ok=True)
    save_file(weights, path + "/model.safetensors")
    save_file(expected, path + "/expected.safetensors")
    for name, value in (("config", config), ("meta", {"case": os.path.basename(path), "noise_f32": 1e-6})):
        with open("%s/%s.json" % (path, name), "w") as file:
            json.dump(value, file, indent=1)
            file.write("\n")


base = {"d_model": 32, "n_layer": 2, "vocab_size": 93, "pad_vocab_size_multiple": 8, "rms_norm": True,
        "residual_in_fp32": True, "fused_add_norm": True, "tie_embeddings": True}
ssm = {"layer": "Mamba2", "d_state": 16, "headdim": 16, "ngroups": 2}
attn = {"causal": True, "d_conv": 4, "head_dim": 16, "num_heads": 3, "out_proj_bias": False,
        "qkv_proj_bias": False, "rotary_emb_dim": 8}

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    where = sys.argv[1] + "/state_spaces-"
    write_case(where + "attn", {**base, "attn_layer_idx": [1], "attn_cfg": attn, "ssm_cfg": ssm}, 1)
    write_case(where + "mlp", {
        **base, "rms_norm": False, "d_intermediate": 100, "attn_layer_idx": [0],
        "attn_cfg": {"causal": True, "num_heads": 4, "num_heads_kv": 2, "mlp_dim": 200, "rotary_emb_dim": 8,
                     "rotary_emb_interleaved": True, "rotary_emb_base": 500.0, "softmax_scale": 0.4},
        "ssm_cfg": {**ssm, "d_ssm": 32, "dt_limit": [0.05, 0.5], "D_has_hdim": True, "bias": True}}, 2)
    write_case(where + "gate", {**base, "ssm_cfg": {**ssm, "rmsnorm": False, "expand": 1.5, "ngroups": 1}}, 3)
    write_case(where + "before", {**base, "n_layer": 1, "ssm_cfg": {**ssm, "norm_before_gate": True}}, 4)
