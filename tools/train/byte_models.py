"""The networks that train_bytes.py trains, each with the tensor names and config.json of a published checkpoint, so
that sqm-convert reads them unchanged (README.md beside this file).

    python3 byte_models.py CASE_DIR...     compares with reference logits: CASE_DIR holds config.json,
                                           model.safetensors, expected.safetensors (ids_37, logits_37, ids_150, ...)

Shapes: B sequences, T bytes, D width, H heads, K key width, V value width, N states a channel, C bytes a chunk.
"""
import json
import math
import os
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F


# ---- parts ---------------------------------------------------------------------------------------------------------
class Norm(nn.Module):
    """RMSNorm; plus = 1: the weight is stored as w - 1."""

    def __init__(self, dim, eps, plus=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim,), 1.0 - plus))
        self.eps, self.plus = eps, plus

    def forward(self, x):
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight + self.plus, self.eps)


class LayerNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.float())


def linear(n_in, n_out, bias=False):
    return nn.Linear(n_in, n_out, bias=bias)


def float32(x):
    """Products in this context are of float32 also under autocast: for decays and states, where errors add up."""
    return torch.autocast(x.device.type, enabled=False)


def exact(layer, x):
    with float32(x):
        return layer(x.float())


def short_conv(x, conv):
    """Causal depthwise convolution of x [B, T, D] by the weights of an nn.Conv1d, then silu."""
    taps, t = conv.weight.shape[-1], x.shape[1]
    x = F.pad(x.float(), (0, 0, taps - 1, 0))
    y = sum(x[:, i:i + t] * conv.weight[:, 0, i] for i in range(taps))
    return F.silu(y if conv.bias is None else y + conv.bias)


def depthwise(dim, taps, bias):
    return nn.Conv1d(dim, dim, taps, groups=dim, bias=bias)


def heads(x, n):
    return x.unflatten(-1, (n, -1))


def unit(x):
    return x.float() * torch.rsqrt(x.float().square().sum(-1, keepdim=True) + 1e-6)


def before(x):
    """Every row's predecessor, zeros before the first."""
    return F.pad(x, (0, 0, 1, -1))


def step_bias(n, low=1e-3, high=0.1):
    """Softplus of it is spread evenly over [low, high] on a logarithmic scale."""
    step = torch.exp(torch.rand(n) * (math.log(high) - math.log(low)) + math.log(low))
    return step + torch.log(-torch.expm1(-step))


class Block(nn.Module):
    """parts: name -> module in pairs (norm, branch); x += branch(norm(x)) for each pair."""

    def __init__(self, dropout, first_norm=None, **parts):
        super().__init__()
        if first_norm is not None:
            self.pre_norm = first_norm
        for name, module in parts.items():
            self.add_module(name, module)
        self.order = list(parts)
        self.drop = nn.Dropout(dropout)

    def forward(self, x, shared):
        if hasattr(self, "pre_norm"):
            x = self.pre_norm(x)
        for norm, branch in zip(self.order[::2], self.order[1::2]):
            x = x + self.drop(getattr(self, branch)(getattr(self, norm)(x), shared))
        return x


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.gate_proj, self.up_proj = linear(dim, hidden), linear(dim, hidden)
        self.down_proj = linear(hidden, dim)

    def forward(self, x, shared):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


# ---- attention -----------------------------------------------------------------------------------------------------
def rotate(x, rotary, theta):
    """x [B, H, T, K]: pairs (i, i + rotary/2) of the first `rotary` columns turned by their positions."""
    t = torch.arange(x.shape[2], device=x.device, dtype=torch.float64)
    angle = torch.outer(t, theta ** (-torch.arange(0, rotary, 2, device=x.device, dtype=torch.float64) / rotary))
    cos, sin = angle.cos().float(), angle.sin().float()
    a, b, rest = x.float().tensor_split((rotary // 2, rotary), dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention; window None: all earlier bytes; gated: as Qwen3.5, with norms of queries and keys."""

    def __init__(self, c, gated=False):
        super().__init__()
        d, self.n, self.n_kv, k = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        rope = c.get("rope_parameters", c)
        self.window, self.theta, self.gated = c.get("sliding_window"), rope["rope_theta"], gated
        self.rotary = int(k * rope.get("partial_rotary_factor", 1.0))
        self.q_proj = linear(d, self.n * k * (2 if gated else 1))
        self.k_proj, self.v_proj = linear(d, self.n_kv * k), linear(d, self.n_kv * k)
        self.o_proj = linear(self.n * k, d)
        if gated:
            self.q_norm, self.k_norm = Norm(k, c["rms_norm_eps"], 1.0), Norm(k, c["rms_norm_eps"], 1.0)

    def forward(self, x, shared):
        q, k, v = heads(self.q_proj(x), self.n), heads(self.k_proj(x), self.n_kv), heads(self.v_proj(x), self.n_kv)
        if self.gated:
            q, gate = q.chunk(2, dim=-1)
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))
        q, k = rotate(q, self.rotary, self.theta), rotate(k, self.rotary, self.theta)
        k, v = (z.repeat_interleave(self.n // self.n_kv, dim=1) for z in (k, v))
        mask = None
        if self.window:
            t = torch.arange(x.shape[1], device=x.device)
            distance = t[:, None] - t[None, :]
            mask = (distance >= 0) & (distance < self.window)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None).transpose(1, 2)
        if self.gated:
            y = y * torch.sigmoid(gate)
        return self.o_proj(y.flatten(2))


# ---- matrix-valued states ------------------------------------------------------------------------------------------
def unit_lower_inverse(a):
    """(I - a)^-1 of strictly lower triangular a [..., C, C], C a power of two: blocks of 1, 2, 4, ... at a time."""
    n = a.shape[-1]
    i = torch.arange(n, device=a.device)
    x, size = torch.eye(n, device=a.device, dtype=a.dtype).expand_as(a), 1
    while size < n:
        odd_row, same = i[:, None] // size % 2 == 1, i[:, None] // size - 1 == i[None, :] // size
        x = x + x @ (a * (odd_row & same)) @ x
        size *= 2
    return x


def outer_recurrence(q, k, v, g, a=None, b=None, chunk=64):
    """S_t = e^g_t S_{t-1} + b_t (a_t . S_{t-1}) + k_t v_t^T,  y_t = q_t . S_t: linear attention with a decay g <= 0,
    one a head (g [B, T, H, 1]) or one a key column ([B, T, H, K]), and with a and b the (gated) delta rule.
    q, k, a, b [B, T, H, K], v [B, T, H, V] -> y [B, T, H, V]. Within a chunk everything is a product of matrices;
    from chunk to chunk S = M S + N."""
    t = q.shape[1]
    n = -(-t // chunk)

    def cut(x):                                                        # [B, T, H, K] -> [B, n, H, C, K]
        x = F.pad(x.float(), (0, 0, 0, 0, 0, n * chunk - t))
        return x.unflatten(1, (n, chunk)).transpose(2, 3)

    q, k, v, g = cut(q), cut(k), cut(v), cut(g)
    c = g.cumsum(-2)
    until_now, to_end = c.exp(), (c[..., -1:, :] - c).exp()
    i = torch.arange(chunk, device=q.device)
    causal, strict = i[:, None] >= i[None, :], i[:, None] > i[None, :]

    def pairs(x, at, y, mask):                                         # sum over K of x_t e^(at_t - c_s) y_s
        if g.shape[-1] == 1:
            return (x @ y.mT) * (at - c.mT).masked_fill(~mask, -math.inf).exp()
        return ((x * at.exp()) @ (y * (-c).exp()).mT).masked_fill(~mask, 0.0)

    y, q_in = pairs(q, c, k, causal) @ v, q * until_now
    gain, add = c[..., -1:, :].exp().mT, (k * to_end).mT @ v           # S -> gain * S + add
    if a is not None:
        a, b = cut(a), cut(b)
        x = unit_lower_inverse(pairs(a, c - g, b, strict))
        w, u = x @ (a * (c - g).exp()), x @ (pairs(a, c - g, k, strict) @ v)
        from_b, b_end = pairs(q, c, b, causal), (b * to_end).mT
        y, q_in, add = y + from_b @ u, q_in + from_b @ w, add + b_end @ u
        turn = b_end @ w + torch.diag_embed(gain.squeeze(-1).expand(*gain.shape[:-2], q.shape[-1]))
    s, states = torch.zeros_like(add[:, 0]), []
    for add_j, gain_j in zip(add.unbind(1), (gain if a is None else turn).unbind(1)):
        states.append(s)
        s = add_j + (gain_j * s if a is None else gain_j @ s)
    y = y + q_in @ torch.stack(states, 1)
    return y.transpose(2, 3).flatten(1, 2)[:, :t]


def gated_delta(q, k, v, a, beta, layer):
    """Gated DeltaNet: the decay is one a head; then a norm of every head."""
    q, k = unit(q), unit(k)
    g = -layer.A_log.exp() * F.softplus(a + layer.dt_bias)
    beta, g = torch.sigmoid(beta).unsqueeze(-1), g.unsqueeze(-1)
    with float32(q):
        return outer_recurrence(q * q.shape[-1] ** -0.5, k * beta, v, g, -k, k * beta * g.exp(), chunk=32)


def decay_parameters(layer, n):
    layer.A_log = nn.Parameter(torch.log(torch.empty(n).uniform_(1.0, 16.0)))
    layer.dt_bias = nn.Parameter(step_bias(n))


class GatedDeltaNet(nn.Module):
    """As flash-linear-attention names it."""

    def __init__(self, c):
        super().__init__()
        d, self.n, k = c["hidden_size"], c["num_heads"], c["num_heads"] * c["head_dim"]
        v = int(k * c["expand_v"])
        self.q_proj, self.k_proj, self.v_proj, self.g_proj = linear(d, k), linear(d, k), linear(d, v), linear(d, v)
        self.q_conv1d, self.k_conv1d, self.v_conv1d = (depthwise(n, c["conv_size"], False) for n in (k, k, v))
        self.a_proj, self.b_proj = linear(d, self.n), linear(d, self.n)
        decay_parameters(self, self.n)
        self.o_norm, self.o_proj = Norm(v // self.n, c["norm_eps"]), linear(v, d)

    def forward(self, x, shared):
        q, k, v = (heads(short_conv(p(x), w), self.n) for p, w in (
            (self.q_proj, self.q_conv1d), (self.k_proj, self.k_conv1d), (self.v_proj, self.v_conv1d)))
        y = self.o_norm(gated_delta(q, k, v, exact(self.a_proj, x), exact(self.b_proj, x), self))
        return self.o_proj(y.flatten(2) * F.silu(self.g_proj(x)))


class QwenDelta(nn.Module):
    """The same mixer as Qwen3.5 names it: one projection and one convolution of queries, keys and values."""

    def __init__(self, c):
        super().__init__()
        d, self.n_k, self.n_v = c["hidden_size"], c["linear_num_key_heads"], c["linear_num_value_heads"]
        self.k, v = self.n_k * c["linear_key_head_dim"], self.n_v * c["linear_value_head_dim"]
        self.in_proj_qkv, self.in_proj_z, self.out_proj = linear(d, 2 * self.k + v), linear(d, v), linear(v, d)
        self.conv1d = depthwise(2 * self.k + v, c["linear_conv_kernel_dim"], False)
        self.in_proj_a, self.in_proj_b = linear(d, self.n_v), linear(d, self.n_v)
        decay_parameters(self, self.n_v)
        self.norm = Norm(v // self.n_v, c["rms_norm_eps"])

    def forward(self, x, shared):
        q, k, v = short_conv(self.in_proj_qkv(x), self.conv1d).tensor_split((self.k, 2 * self.k), dim=-1)
        q, k = (heads(z, self.n_k).repeat_interleave(self.n_v // self.n_k, dim=2) for z in (q, k))
        y = gated_delta(q, k, heads(v, self.n_v), exact(self.in_proj_a, x), exact(self.in_proj_b, x), self)
        return self.out_proj(self.norm(y).flatten(2) * F.silu(self.in_proj_z(x)))


class Mamba2(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, self.n, self.p = c["hidden_size"], c["num_heads"], c["head_dim"]
        self.inner, self.groups, self.state = c["expand"] * d, c["n_groups"], c["state_size"]
        channels = self.inner + 2 * self.groups * self.state
        self.in_proj, self.out_proj = linear(d, self.inner + channels + self.n), linear(self.inner, d)
        self.conv1d = depthwise(channels, c["conv_kernel"], True)
        decay_parameters(self, self.n)
        self.D, self.norm = nn.Parameter(torch.ones(self.n)), Norm(self.inner, c["layer_norm_epsilon"])

    def forward(self, u, shared):
        z, xbc, dt = exact(self.in_proj, u).tensor_split((self.inner, -self.n), dim=-1)
        x, b, c = short_conv(xbc, self.conv1d).split([self.inner] + 2 * [self.groups * self.state], dim=-1)
        dt = F.softplus(dt + self.dt_bias)
        b, c = (heads(m, self.groups).repeat_interleave(self.n // self.groups, dim=2) for m in (b, c))
        x = heads(x, self.n)
        g = -self.A_log.exp() * dt
        with float32(x):
            y = outer_recurrence(c, b, x * dt.unsqueeze(-1), g.unsqueeze(-1)) + self.D.unsqueeze(-1) * x
        y = y.flatten(2) * F.silu(z)
        y = heads(y, self.groups)                                      # the mean squares are counted group by group
        y = F.rms_norm(y, (y.shape[-1],), None, self.norm.eps).flatten(2) * self.norm.weight
        return self.out_proj(y)


class Lora(nn.Module):
    def __init__(self, dim, rank, act, bias=None):
        super().__init__()
        self.lora = nn.Sequential(linear(dim, rank), act, linear(rank, dim, bias is not None))
        if bias is not None:
            self.lora[2].bias.data.copy_(bias)

    def forward(self, x):
        return exact(self.lora, x)


class Rwkv7(nn.Module):
    """Time mix of RWKV-7 as flash-linear-attention names it."""

    def __init__(self, c, layer):
        super().__init__()
        d, self.k = c["hidden_size"], c["head_dim"]
        self.n, depth = d // self.k, layer / max(1, c["num_hidden_layers"] - 1)
        at = torch.arange(d) / d
        for name, power in (("r", 0.2), ("w", 0.9), ("k", 0.7), ("v", 0.7), ("a", 0.9), ("g", 0.2)):
            mix = 1.0 - at ** (power * (1.0 - layer / c["num_hidden_layers"]))
            setattr(self, "x_" + name, nn.Parameter(mix.view(1, 1, d)))
        decay = -6.5 + 5.0 * (torch.arange(d) / (d - 1)) ** (0.85 + depth ** 0.5)
        self.w_lora = Lora(d, c["decay_low_rank_dim"], nn.Tanh(), decay)
        self.a_lora = Lora(d, c["a_low_rank_dim"], nn.Identity(), torch.zeros(d))
        if layer > 0:
            self.v_lora = Lora(d, c["v_low_rank_dim"], nn.Identity(), torch.ones(d))
        self.g_lora = Lora(d, c["gate_low_rank_dim"], nn.Sigmoid())
        self.k_k, self.k_a = nn.Parameter(torch.full((d,), 0.85)), nn.Parameter(torch.ones(d))
        self.r_k = nn.Parameter(torch.zeros(self.n, self.k))
        self.r_proj, self.k_proj, self.v_proj, self.o_proj = (linear(d, d) for _ in range(4))
        self.g_norm = nn.GroupNorm(self.n, d, eps=self.k * c["norm_eps"])

    def forward(self, x, shared):
        shift = before(x) - x
        xr, xw, xk, xv, xa, xg = (x + shift * getattr(self, "x_" + name) for name in "rwkvag")
        r, k, v, a = self.r_proj(xr), self.k_proj(xk), self.v_proj(xv), torch.sigmoid(self.a_lora(xa))
        g = -math.exp(-0.5) * torch.sigmoid(self.w_lora(xw))
        if "v_first" in shared:
            v = v + (shared["v_first"] - v) * torch.sigmoid(self.v_lora(xv))
        else:
            shared["v_first"] = v
        kk = unit(heads(k * self.k_k, self.n))
        k = k * (1.0 + (a - 1.0) * self.k_a)
        r, k, v, g, a = (heads(z, self.n) for z in (r, k, v, g, a))
        with float32(x):
            y = outer_recurrence(r, k, v, g, -kk, kk * a, chunk=32)    # e^-g stays below e^20 in a chunk
        y = self.g_norm(y.flatten(0, 1).flatten(1)).view(x.shape)
        y = y + ((r * k * self.r_k).sum(-1, keepdim=True) * v).flatten(2)
        return self.o_proj(y * self.g_lora(xg))


class RwkvChannels(nn.Module):
    def __init__(self, c, layer):
        super().__init__()
        d = c["hidden_size"]
        self.x_k = nn.Parameter(1.0 - (torch.arange(d) / d) ** ((1.0 - layer / c["num_hidden_layers"]) ** 4))
        self.key, self.value = linear(d, c["intermediate_size"]), linear(c["intermediate_size"], d)

    def forward(self, x, shared):
        return self.value(F.relu(self.key(x + (before(x) - x) * self.x_k)).square())


# ---- Mamba: a decay for every channel and state --------------------------------------------------------------------
def scan(a, b, backwards=False):
    """h_t = a_t h_{t-1} + b_t along dimension 1 of [B, T, ...], or h_t = a_t h_{t+1} + b_t: chunks side by side, then
    what comes into each chunk from the one before, one by one."""
    t = a.shape[1]
    length = 1 << max(0, (t.bit_length() - 1) // 2)
    n = -(-t // length)
    rest = [0, 0] * (a.dim() - 2) + [0, n * length - t]
    a, h = (F.pad(z, rest).unflatten(1, (n, length)) for z in (a, b))          # copies, changed in place below
    rows, chunks = (range(m)[::-1] if backwards else range(m) for m in (length, n))
    for j, last in zip(rows[1:], rows):
        h[:, :, j].addcmul_(a[:, :, j], h[:, :, last])
        a[:, :, j].mul_(a[:, :, last])                                 # product since the chunk's beginning
    come_in = {chunks[0]: torch.zeros_like(h[:, 0, 0])}
    for j, last in zip(chunks[1:], chunks):
        come_in[j] = torch.addcmul(h[:, last, rows[-1]], a[:, last, rows[-1]], come_in[last])
    h.addcmul_(a, torch.stack([come_in[j] for j in range(n)], 1).unsqueeze(2))
    return h.flatten(1, 2)[:, :t]


class Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        h = scan(a, b)
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    def backward(ctx, grad):
        a, h = ctx.saved_tensors
        db = scan(torch.cat((a[:, 1:], torch.zeros_like(a[:, :1])), 1), grad, backwards=True)
        return db * torch.cat((torch.zeros_like(h[:, :1]), h[:, :-1]), 1), db


class Mamba(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, inner, n, self.rank = c["hidden_size"], c["intermediate_size"], c["state_size"], c["time_step_rank"]
        self.n = n
        self.in_proj, self.out_proj = linear(d, 2 * inner), linear(inner, d)
        self.conv1d = depthwise(inner, c["conv_kernel"], True)
        self.x_proj, self.dt_proj = linear(inner, self.rank + 2 * n), linear(self.rank, inner, True)
        self.dt_proj.bias.data.copy_(step_bias(inner))
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, n + 1)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))

    def forward(self, u, shared):
        x, z = self.in_proj(u).chunk(2, dim=-1)
        x = short_conv(x, self.conv1d)
        dt, b, c = exact(self.x_proj, x).split((self.rank, self.n, self.n), dim=-1)
        dt = F.softplus(exact(self.dt_proj, dt)).unsqueeze(-1)
        h = Scan.apply((dt * -self.A_log.exp()).exp(), dt * x.unsqueeze(-1) * b.unsqueeze(2))
        with float32(x):
            y = (h @ c.unsqueeze(-1)).squeeze(-1) + self.D * x
        return self.out_proj(y * F.silu(z))


# ---- whole models --------------------------------------------------------------------------------------------------
class Model(nn.Module):
    """config: config.json as a dictionary. The names of parameters are those of the checkpoint."""

    def __init__(self, config, dropout=0.0):
        super().__init__()
        body, embed, norm, final, block = FAMILIES[config["model_type"]](config, dropout)
        n, dim = config["num_hidden_layers"], config["hidden_size"]
        self.add_module(body, nn.Module())
        inner = getattr(self, body)
        inner.add_module(embed, nn.Embedding(config["vocab_size"], dim))
        inner.layers = nn.ModuleList(block(i) for i in range(n))
        inner.add_module(norm, final)
        self.parts = (getattr(inner, embed), inner.layers, final)
        if not config["tie_word_embeddings"]:
            self.lm_head = linear(dim, config["vocab_size"])
        self.drop = nn.Dropout(dropout)

    def initialise(self, deep):
        """Small matrices, smaller ones where a branch ends; the other parameters have their module's values."""
        ends = ("o_proj.weight", "out_proj.weight", "down_proj.weight", "value.weight")
        inner = ("x_proj.weight", "dt_proj.weight")
        for name, w in self.named_parameters():
            if is_matrix(name, w) and not name.endswith(inner):
                nn.init.normal_(w, std=0.02 / math.sqrt(2 * deep) if name.endswith(ends) else 0.02)

    def forward(self, ids):
        """ids [B, T] -> logits [B, T, vocabulary]"""
        embed, layers, norm = self.parts
        x, shared = self.drop(embed(ids)), {}
        for layer in layers:
            x = layer(x, shared)
        return F.linear(norm(x), self.lm_head.weight if hasattr(self, "lm_head") else embed.weight)


def is_matrix(name, w):
    """Weights of linear maps and the embedding: what weight decay is for."""
    return w.dim() == 2 and name.endswith(".weight")


def transformer(c, dropout):
    eps, d, hidden = c["rms_norm_eps"], c["hidden_size"], c["intermediate_size"]
    return "model", "embed_tokens", "norm", Norm(d, eps), lambda i: Block(
        dropout, input_layernorm=Norm(d, eps), self_attn=Attention(c),
        post_attention_layernorm=Norm(d, eps), mlp=Mlp(d, hidden))


def qwen_hybrid(c, dropout):
    eps, d, hidden, kinds = c["rms_norm_eps"], c["hidden_size"], c["intermediate_size"], c["layer_types"]

    def block(i):
        mixer = {"linear_attn": QwenDelta(c)} if kinds[i] == "linear_attention" else {"self_attn": Attention(c, True)}
        return Block(dropout, input_layernorm=Norm(d, eps, 1.0), **mixer,
                     post_attention_layernorm=Norm(d, eps, 1.0), mlp=Mlp(d, hidden))
    return "model", "embed_tokens", "norm", Norm(d, eps, 1.0), block


def mamba(c, dropout):
    eps, d, mixer = c["layer_norm_epsilon"], c["hidden_size"], Mamba if c["model_type"] == "mamba" else Mamba2
    return "backbone", "embeddings", "norm_f", Norm(d, eps), lambda i: Block(dropout, norm=Norm(d, eps), mixer=mixer(c))


def gated_deltanet(c, dropout):
    eps, d, hidden = c["norm_eps"], c["hidden_size"], c["intermediate_size"]
    return "model", "embeddings", "norm", Norm(d, eps), lambda i: Block(
        dropout, attn_norm=Norm(d, eps), attn=GatedDeltaNet(c), mlp_norm=Norm(d, eps), mlp=Mlp(d, hidden))


def rwkv7(c, dropout):
    eps, d = c["norm_eps"], c["hidden_size"]
    return "model", "embeddings", "norm", LayerNorm(d, eps), lambda i: Block(
        dropout, LayerNorm(d, eps) if i == 0 else None, attn_norm=LayerNorm(d, eps), attn=Rwkv7(c, i),
        ffn_norm=LayerNorm(d, eps), ffn=RwkvChannels(c, i))


FAMILIES = {"llama": transformer, "mistral": transformer, "qwen3_5_text": qwen_hybrid, "mamba": mamba, "mamba2": mamba,
            "gated_deltanet": gated_deltanet, "rwkv7": rwkv7}


# ---- comparison with reference logits ------------------------------------------------------------------------------
def check(case):
    from safetensors.torch import load_file
    with open(os.path.join(case, "config.json")) as f:
        model = Model(json.load(f))
    model.load_state_dict(load_file(os.path.join(case, "model.safetensors")))
    model.eval()
    want, worst = load_file(os.path.join(case, "expected.safetensors")), 0.0
    for n in (1, 37, 150):
        logits = model(want[f"ids_{n}"][None].long())[0].float()
        if n == 150:
            logits = logits[want["rows_150"].long()]
        worst = max(worst, (logits - want[f"logits_{n}"]).abs().max().item())
    print(f"{case}: largest difference of logits {worst:.2e}")


if __name__ == "__main__":
    with torch.no_grad():
        for directory in sys.argv[1:]:
            check(directory)
