#!/usr/bin/env python3
"""Trains the byte-level language model that ships in examples/models/ (see README.md beside this file).

The network is the Llama block as Hugging Face's "mistral" writes it: RMSNorm before each branch, rotary positions
(half style), grouped-query attention with a sliding window, SwiGLU, tied embedding, 256 tokens = the 256 bytes.
Trained on sequences of twice the window, so text can go on for ever: no row ever sees a distance it was not trained on.

    python3 train_bytes.py TEXT OUT_DIR [--steps N] [--lr X] [--dropout X] ...

The last tenth of TEXT is held out. OUT_DIR gets config.json, model.safetensors (float32) of the averaged weights with
the lowest held-out loss, and log.txt. Needs PyTorch and safetensors; runs on a GPU if there is one.
"""
import argparse
import json
import math
import os
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file


def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("text")
    p.add_argument("out")
    p.add_argument("--dim", type=int, default=128)
    p.add_argument("--layers", type=int, default=6)
    p.add_argument("--heads", type=int, default=4)
    p.add_argument("--kv-heads", type=int, default=1)
    p.add_argument("--hidden", type=int, default=256)
    p.add_argument("--window", type=int, default=256, help="keys a row sees, itself included")
    p.add_argument("--max-context", type=int, default=2048, help="written to config.json only")
    p.add_argument("--batch", type=int, default=32, help="sequences of 2 * window bytes a step")
    p.add_argument("--steps", type=int, default=9000)
    p.add_argument("--minutes", type=float, default=1e9, help="finish the schedule by then even if steps are left")
    p.add_argument("--lr", type=float, default=4e-3)
    p.add_argument("--warmup", type=int, default=200)
    p.add_argument("--weight-decay", type=float, default=1.5)
    p.add_argument("--dropout", type=float, default=0.15)
    p.add_argument("--average", type=float, default=0.998, help="decay of the moving average of the weights")
    p.add_argument("--eval-every", type=int, default=250)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--compile", action="store_true", help="torch.compile the training step")
    return p.parse_args()


class Norm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, 1e-5)


def rotate(x, cos, sin):
    """x [B, H, T, D]: pairs (i, i + D/2) turned by cos, sin [T, D/2]."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = c.heads, c.kv_heads, c.dim // c.heads
        self.q_proj = nn.Linear(c.dim, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(c.dim, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(c.dim, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, c.dim, bias=False)

    def forward(self, x, cos, sin, mask):
        n, t, _ = x.shape
        q = rotate(self.q_proj(x).view(n, t, self.heads, -1).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(n, t, self.kv_heads, -1).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(n, t, self.kv_heads, -1).transpose(1, 2)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(y.transpose(1, 2).reshape(n, t, -1))


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c.dim, c.hidden, bias=False)
        self.up_proj = nn.Linear(c.dim, c.hidden, bias=False)
        self.down_proj = nn.Linear(c.hidden, c.dim, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = Norm(c.dim)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = Norm(c.dim)
        self.mlp = Mlp(c)
        self.drop = nn.Dropout(c.dropout)

    def forward(self, x, cos, sin, mask):
        x = x + self.drop(self.self_attn(self.input_layernorm(x), cos, sin, mask))
        return x + self.drop(self.mlp(self.post_attention_layernorm(x)))


class Model(nn.Module):
    """Parameter names are those of the Hugging Face checkpoint without the leading 'model.'."""

    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(256, c.dim)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.norm = Norm(c.dim)
        self.drop = nn.Dropout(c.dropout)
        for name, w in self.named_parameters():
            if w.dim() == 2:
                branch_end = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(w, std=0.02 / math.sqrt(2 * c.layers) if branch_end else 0.02)
        head_dim, length = c.dim // c.heads, 2 * c.window
        angle = torch.outer(torch.arange(length).double(), 10000.0 ** (-torch.arange(0, head_dim, 2) / head_dim))
        distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)
        self.register_buffer("mask", (distance >= 0) & (distance < c.window), persistent=False)

    def forward(self, ids):
        """ids [B, T] with T <= 2 * window -> logits [B, T, 256]."""
        t = ids.shape[1]
        x = self.drop(self.embed_tokens(ids))
        for layer in self.layers:
            x = layer(x, self.cos[:t], self.sin[:t], self.mask[:t, :t])
        return F.linear(self.norm(x), self.embed_tokens.weight)


def loss_of(model, ids):
    return F.cross_entropy(model(ids[:, :-1]).float().flatten(0, 1), ids[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model, text, length):
    """Nats a byte over `text` cut into pieces of `length` bytes, each scored on its own (length - 1 predictions)."""
    model.eval()
    n = len(text) // length
    total = 0.0
    for piece in text[:n * length].view(n, length).long().split(64):
        total += loss_of(model, piece).item() * len(piece)
    model.train()
    return total / n


def save(c, model, out):
    weights = {"model." + k: v.float().contiguous().cpu() for k, v in model.state_dict().items()}
    save_file(weights, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
    config = {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": 256,
        "hidden_size": c.dim, "intermediate_size": c.hidden, "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads, "head_dim": c.dim // c.heads,
        "hidden_act": "silu", "max_position_embeddings": c.max_context, "sliding_window": c.window,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "torch_dtype": "float32",
    }
    with open(os.path.join(out, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
        f.write("\n")


def optimizer_of(c, model):
    matrices = [w for w in model.parameters() if w.dim() == 2]
    vectors = [w for w in model.parameters() if w.dim() != 2]
    groups = [{"params": matrices, "weight_decay": c.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=c.lr, betas=(0.9, 0.99), fused=torch.cuda.is_available())


def train(c):
    torch.manual_seed(c.seed)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with open(c.text, "rb") as f:
        data = torch.frombuffer(bytearray(f.read()), dtype=torch.uint8).to(device)
    cut, length = len(data) * 9 // 10, 2 * c.window
    training, held_out = data[:cut], data[cut:]
    model, averaged = Model(c).to(device), Model(c).to(device)
    averaged.load_state_dict(model.state_dict())
    averaged.requires_grad_(False)
    optimizer = optimizer_of(c, model)
    step_loss = torch.compile(loss_of) if c.compile else loss_of
    os.makedirs(c.out, exist_ok=True)
    log = open(os.path.join(c.out, "log.txt"), "w")
    n_parameters = sum(w.numel() for w in model.parameters())
    log.write(f"{json.dumps(vars(c))}\n{n_parameters} parameters\n")
    best, start, progress, step = 1e9, time.time(), 0.0, 0
    while progress < 1.0:
        rate = c.lr * min(1.0, (step + 1) / c.warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        first = torch.randint(len(training) - length, (c.batch, 1), device=device)
        ids = training[first + torch.arange(length + 1, device=device)].long()
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = step_loss(model, ids)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min(c.average, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(averaged.parameters()), [w.detach() for w in model.parameters()], 1 - decay)
        step += 1
        progress = max(step / c.steps, (time.time() - start) / 60 / c.minutes)
        if step % c.eval_every == 0 or progress >= 1.0:
            h = held_out_loss(averaged, held_out, length)
            log.write(f"step {step} train {loss.item():.4f} held-out {h:.4f} {time.time() - start:.0f} s\n")
            log.flush()
            if h < best:
                best = h
                save(c, averaged, c.out)
    print(f"{c.out}: {n_parameters} parameters, {step} steps, {time.time() - start:.0f} s, "
          f"last held-out {h:.4f}, best {best:.4f} nats a byte")


if __name__ == "__main__":
    train(parse_arguments())
