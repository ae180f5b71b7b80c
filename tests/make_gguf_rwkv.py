#!/usr/bin/env python3
"""Cases of the RWKV kinds that llama.cpp knows, with random weights: python3 make_gguf_rwkv.py OUT_DIR
writes OUT_DIR/NAME.gguf and the case OUT_DIR/NAME (meta.json, expected.safetensors: logits by the formulas below in
float64) for rwkv6, rwkv6qwen2, rwkv7, arwkv7. Then: sqm-check --model OUT_DIR/NAME.gguf OUT_DIR/NAME"""
import json
import os
import sys

import numpy as np
from gguf import GGUFWriter
from safetensors.numpy import save_file

DIM, HEAD, LAYERS, FFN, VOCAB, RANK = 24, 6, 3, 40, 61, 4
HEADS, KV_HEADS, EVERY, EPS = DIM // HEAD, 2, 2, 1e-5
draw = np.random.default_rng(7)


def uniform(*shape, low=-1.0, high=1.0):
    return draw.uniform(low, high, shape).astype(np.float32)


def matrix(rows, cols):
    return uniform(rows, cols) * np.float32(1.5 / cols ** 0.5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def layer_norm(x, w, b, eps=EPS):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w + b


def rms_norm(x, w):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * w


def before(x):                          # the row before each row
    return np.concatenate([np.zeros_like(x[:1]), x[:-1]])


# ---- weights under llama.cpp's names ------------------------------------------------------------
def mixer_weights(w, at, version, qwen, layer):
    kv = KV_HEADS * HEAD if qwen and version == 6 else DIM
    w[at + "time_mix_receptance.weight"], w[at + "time_mix_output.weight"] = matrix(DIM, DIM), matrix(DIM, DIM)
    w[at + "time_mix_key.weight"], w[at + "time_mix_value.weight"] = matrix(kv, DIM), matrix(kv, DIM)
    if version == 6:
        w[at + "time_mix_gate.weight"] = matrix(DIM, DIM)
        w[at + "time_mix_w1.weight"], w[at + "time_mix_w2.weight"] = matrix(5 * RANK, DIM), uniform(5, DIM, RANK)
        w[at + "time_mix_lerp_x.weight"] = uniform(DIM, low=0)
        w[at + "time_mix_lerp_fused.weight"] = uniform(5, 1, 1, DIM, low=0)
        w[at + "time_mix_decay.weight"] = uniform(DIM, low=-4, high=0)
        w[at + "time_mix_decay_w1.weight"], w[at + "time_mix_decay_w2.weight"] = matrix(RANK, DIM), matrix(DIM, RANK)
        if qwen:
            for name, n in ("key", kv), ("value", kv), ("receptance", DIM):
                w[at + "time_mix_%s.bias" % name] = uniform(n)
        else:
            w[at + "time_mix_first.weight"] = uniform(HEADS, HEAD)
    else:
        w[at + "time_mix_lerp_fused.weight"] = uniform(5 if qwen else 6, 1, 1, DIM, low=0)
        for name in "wavg"[:3 if qwen else 4]:
            w[at + "time_mix_%s1.weight" % name] = matrix(RANK, DIM)
            w[at + "time_mix_%s2.weight" % name] = matrix(DIM, RANK)
            if name != "g":
                w[at + "time_mix_%s0.weight" % name] = uniform(DIM)
        for name in "k_k", "k_a", "r_k":
            w[at + "time_mix_%s.weight" % name] = uniform(DIM, low=0.2)
    if not qwen:
        w[at + "time_mix_ln.weight"], w[at + "time_mix_ln.bias"] = uniform(DIM, low=0.5), uniform(DIM)


def weights(version, qwen):
    w = {"token_embd.weight": uniform(VOCAB, DIM), "output.weight": matrix(VOCAB, DIM) * 4,
         "output_norm.weight": uniform(DIM, low=0.5)}
    norms = ["output_norm"] if qwen else ["output_norm", "token_embd_norm"]
    for i in range(LAYERS):
        at = "blk.%d." % i
        norms += [at + "attn_norm", at + ("ffn_norm" if qwen else "attn_norm_2")]
        mixer_weights(w, at, version, qwen, i)
        if qwen:
            w[at + "ffn_gate.weight"], w[at + "ffn_up.weight"] = matrix(FFN, DIM), matrix(FFN, DIM)
            w[at + "ffn_down.weight"] = matrix(DIM, FFN)
            continue
        w[at + "channel_mix_key.weight"], w[at + "channel_mix_value.weight"] = matrix(FFN, DIM), matrix(DIM, FFN)
        w[at + "channel_mix_lerp_k.weight"] = uniform(DIM, low=0)
        if version == 6:
            w[at + "channel_mix_lerp_r.weight"] = uniform(DIM, low=0)
            w[at + "channel_mix_receptance.weight"] = matrix(DIM, DIM)
    for name in norms:
        w[name + ".weight"] = uniform(DIM, low=0.5)
        if not qwen:
            w[name + ".bias"] = uniform(DIM)
    return w


# ---- the formulas -------------------------------------------------------------------------------
def linear(w, name, x):
    return x @ w(name + ".weight").T + w(name + ".bias", 0.0)


def time_mix6(w, x, qwen):
    step = before(x) - x
    low = np.tanh((x + step * w("time_mix_lerp_x.weight")) @ w("time_mix_w1.weight").T).reshape(len(x), 5, -1)
    mixes = np.einsum("tmr,mdr->mtd", low, w("time_mix_w2.weight")) + w("time_mix_lerp_fused.weight").reshape(5, 1, -1)
    xw, xk, xv, xr, xg = x + step * mixes
    r, k, v, g = (linear(w, "time_mix_" + name, y).reshape(len(x), -1, HEAD)
                  for name, y in (("receptance", xr), ("key", xk), ("value", xv), ("gate", xg)))
    decay = np.tanh(xw @ w("time_mix_decay_w1.weight").T) @ w("time_mix_decay_w2.weight").T + w("time_mix_decay.weight")
    decay = np.exp(-np.exp(decay)).reshape(r.shape)
    k, v = (np.repeat(y, HEADS // y.shape[1], axis=1) for y in (k, v))
    if qwen:
        k = k * (1 - decay)
    out, state = np.zeros_like(r), np.zeros((HEADS, HEAD, HEAD))
    for t in range(len(x)):
        new = k[t, :, :, None] * v[t, :, None, :]
        if qwen:
            state = decay[t, :, :, None] * state + new
            out[t] = np.einsum("hk,hkv->hv", r[t], state) * HEAD ** -0.5
        else:
            out[t] = np.einsum("hk,hkv->hv", r[t], state + w("time_mix_first.weight")[:, :, None] * new)
            state = decay[t, :, :, None] * state + new
    if qwen:
        return (out * sigmoid(g)).reshape(x.shape)
    out = layer_norm(out, 1, 0, 64e-5).reshape(x.shape) * w("time_mix_ln.weight") + w("time_mix_ln.bias")
    return out * (g * sigmoid(g)).reshape(x.shape)


def time_mix7(w, x, qwen, first):
    lerp = w("time_mix_lerp_fused.weight").reshape(-1, 1, DIM)
    mixed = x + (before(x) - x) * lerp

    def low_rank(name, y, act):
        return act(y @ w("time_mix_%s1.weight" % name).T) @ w("time_mix_%s2.weight" % name).T + \
            w("time_mix_%s0.weight" % name, 0.0)
    same = np.asarray
    r, k, v = (linear(w, "time_mix_" + name, mixed[i]) for name, i in (("receptance", 0), ("key", 2), ("value", 3)))
    decay = np.exp(-np.exp(-0.5) * sigmoid(low_rank("w", mixed[1], np.tanh)))
    if first:
        v = v + (first[0] - v) * sigmoid(low_rank("v", mixed[3], same))
    else:
        first.append(v)
    a = sigmoid(low_rank("a", mixed[4], same))
    unit = (k * w("time_mix_k_k.weight")).reshape(-1, HEADS, HEAD)
    unit = unit / np.maximum(np.sqrt((unit * unit).sum(-1, keepdims=True)), 1e-12)
    k = k * (1 + (a - 1) * w("time_mix_k_a.weight"))
    r, k, v, a, decay = (y.reshape(-1, HEADS, HEAD) for y in (r, k, v, a, decay))
    out, state = np.zeros_like(r), np.zeros((HEADS, HEAD, HEAD))          # [values, keys]
    for t in range(len(x)):
        removed = np.einsum("hvk,hk->hv", state, unit[t])
        state = state * decay[t, :, None, :] - removed[:, :, None] * (unit[t] * a[t])[:, None, :] + \
            v[t, :, :, None] * k[t, :, None, :]
        out[t] = np.einsum("hvk,hk->hv", state, r[t])
    if not qwen:
        out = layer_norm(out, 1, 0, HEAD * EPS) * w("time_mix_ln.weight").reshape(HEADS, HEAD) + \
            w("time_mix_ln.bias").reshape(HEADS, HEAD)
    out = out + (r * k * w("time_mix_r_k.weight").reshape(HEADS, HEAD)).sum(-1, keepdims=True) * v
    out = out.reshape(x.shape)
    return out if qwen else out * low_rank("g", mixed[5], sigmoid)


def channel_mix(w, x, version):
    step = before(x) - x
    k = np.maximum((x + step * w("channel_mix_lerp_k.weight")) @ w("channel_mix_key.weight").T, 0) ** 2
    k = k @ w("channel_mix_value.weight").T
    if version == 7:
        return k
    return k * sigmoid((x + step * w("channel_mix_lerp_r.weight")) @ w("channel_mix_receptance.weight").T)


def gated(w, x):
    g = x @ w("ffn_gate.weight").T
    return (g * sigmoid(g) * (x @ w("ffn_up.weight").T)) @ w("ffn_down.weight").T


def logits(weights, ids, version, qwen):
    def norm(at, name, x):
        if qwen:
            return rms_norm(x, weights[at + name + ".weight"])
        return layer_norm(x, weights[at + name + ".weight"], weights[at + name + ".bias"])
    x = weights["token_embd.weight"][ids]
    first = []
    if not qwen:
        x = norm("", "token_embd_norm", x)
    for i in range(LAYERS):
        at = "blk.%d." % i
        def w(name, otherwise=None):
            return weights.get(at + name, otherwise)
        y = norm(at, "attn_norm", x)
        y = time_mix6(w, y, qwen) if version == 6 else time_mix7(w, y, qwen, first)
        x = x + y @ w("time_mix_output.weight").T
        x = x + (gated(w, norm(at, "ffn_norm", x)) if qwen else channel_mix(w, norm(at, "attn_norm_2", x), version))
        if version == 6 and not qwen and (i + 1) % EVERY == 0:
            x = x / 2
    return norm("", "output_norm", x) @ weights["output.weight"].T


# ---- files --------------------------------------------------------------------------------------
def keys(g, version, qwen):
    g.add_context_length(1048576)
    g.add_embedding_length(DIM)
    g.add_block_count(LAYERS)
    g.add_feed_forward_length(FFN)
    g.add_wkv_head_size(HEAD)
    g.add_head_count(0)
    (g.add_layer_norm_rms_eps if qwen else g.add_layer_norm_eps)(EPS)
    if version == 6:
        g.add_time_mix_extra_dim(RANK)
        g.add_time_decay_extra_dim(RANK)
        if qwen:
            g.add_head_count_kv(KV_HEADS)
        else:
            g.add_rescale_every_n_layers(EVERY)
    else:
        g.add_decay_lora_rank(RANK)
        g.add_iclr_lora_rank(RANK)
        g.add_value_residual_mix_lora_rank(RANK)
        g.add_gate_lora_rank(0 if qwen else RANK)
    if qwen:
        g.add_token_shift_count(1)


def tokenizer(g):                       # of RWKV: texts as literals; the rest is never found
    g.add_tokenizer_model("rwkv")
    g.add_token_list(["<s>"] + ["\\x%02x" % (32 + i) for i in range(VOCAB - 2)] + ["\\x20!"])
    g.add_token_types([3] + [1] * (VOCAB - 1))


def main():
    for name in "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7":
        version, qwen = 6 if "6" in name else 7, name not in ("rwkv6", "rwkv7")
        w = weights(version, qwen)
        exact = {k: v.astype(np.float64) for k, v in w.items()}
        case = os.path.join(sys.argv[1], name)
        os.makedirs(case, exist_ok=True)
        ids = draw.integers(0, VOCAB, 150).astype(np.int32)
        out = {"ids_150": ids, "logits_150": logits(exact, ids, version, qwen).astype(np.float32)[60:],
               "rows_150": np.arange(60, 150, dtype=np.int32)}
        for n in 1, 37:
            out["ids_%d" % n] = ids[:n]
            out["logits_%d" % n] = logits(exact, ids[:n], version, qwen).astype(np.float32)
        more = list(ids[:37])
        for _ in range(12):
            more.append(int(np.argmax(logits(exact, more, version, qwen)[-1])))
        out["greedy_37"] = np.array(more[37:], dtype=np.int32)
        out["greedy_logits_37"] = logits(exact, more[:-1], version, qwen).astype(np.float32)[36:]
        save_file(out, os.path.join(case, "expected.safetensors"))
        with open(os.path.join(case, "meta.json"), "w", encoding="utf-8") as f:
            json.dump({"case": name, "kind": "lm", "noise_f32": 5e-6}, f)
        g = GGUFWriter(os.path.join(sys.argv[1], name + ".gguf"), name)
        keys(g, version, qwen)
        tokenizer(g)
        for key, x in w.items():
            g.add_tensor(key, x)
        g.write_header_to_file()
        g.write_kv_data_to_file()
        g.write_tensors_to_file()
        g.close()


if __name__ == "__main__":
    main()
