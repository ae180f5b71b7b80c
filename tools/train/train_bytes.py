#!/usr/bin/env python3
"""Trains the byte-level language models that ship in examples/models/ (see README.md beside this file).

    python3 train_bytes.py TEXT OUT_DIR --model NAME [--steps N] [--lr X] [--dropout X] ...

NAME is one of PRESETS below; byte_models.py has the networks. Most steps see many short sequences, every eighth few
long ones, so that models are also used to the far past. The last tenth of TEXT is held out. OUT_DIR gets config.json,
model.safetensors (float32) of the averaged weights with the lowest held-out loss, and log.txt. Needs PyTorch and
safetensors; runs on a GPU if there is one, each step as one recorded CUDA graph.
"""
import argparse
import copy
import json
import math
import os
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from byte_models import Model, is_matrix

BASE = {"vocab_size": 256, "hidden_size": 128, "tie_word_embeddings": True, "torch_dtype": "float32"}
LLAMA = {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32, "hidden_act": "silu",
         "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "num_hidden_layers": 6, "intermediate_size": 256}
FLA = {"head_dim": 32, "norm_eps": 1e-5, "num_hidden_layers": 6, "max_position_embeddings": 1 << 20}
PRESETS = {
    "transformer": dict(LLAMA, architectures=["LlamaForCausalLM"], model_type="llama", max_position_embeddings=10240),
    "window": dict(LLAMA, architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=256,
                   max_position_embeddings=16384),
    "mamba": dict(architectures=["MambaForCausalLM"], model_type="mamba", intermediate_size=256, expand=2,
                  state_size=16, time_step_rank=8, conv_kernel=4, layer_norm_epsilon=1e-5, num_hidden_layers=7),
    "mamba2": dict(architectures=["Mamba2ForCausalLM"], model_type="mamba2", num_heads=8, head_dim=32, expand=2,
                   n_groups=1, state_size=32, conv_kernel=4, layer_norm_epsilon=1e-5, num_hidden_layers=8),
    "gated_deltanet": dict(FLA, architectures=["GatedDeltaNetForCausalLM"], model_type="gated_deltanet", num_heads=4,
                           expand_v=1, conv_size=4, use_short_conv=True, use_gate=True, hidden_act="swish",
                           intermediate_size=144),
    "rwkv7": dict(FLA, architectures=["RWKV7ForCausalLM"], model_type="rwkv7", hidden_act="sqrelu", norm_bias=True,
                  norm_first=True, decay_low_rank_dim=16, a_low_rank_dim=16, v_low_rank_dim=16, gate_low_rank_dim=32,
                  intermediate_size=240),
    "hybrid": dict(LLAMA, architectures=["Qwen3_5ForCausalLM"], model_type="qwen3_5_text", intermediate_size=168,
                   layer_types=2 * ["linear_attention", "linear_attention", "full_attention"], linear_num_key_heads=4,
                   linear_num_value_heads=4, linear_key_head_dim=32, linear_value_head_dim=32, linear_conv_kernel_dim=4,
                   rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
                   rms_norm_eps=1e-6, max_position_embeddings=10240),
}


def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("text")
    p.add_argument("out")
    p.add_argument("--model", choices=PRESETS, required=True)
    p.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="another value in config.json")
    p.add_argument("--length", type=int, default=512, help="bytes of a short sequence")
    p.add_argument("--batch", type=int, default=32, help="short sequences a step")
    p.add_argument("--long", type=int, default=10240, help="bytes of a long sequence")
    p.add_argument("--long-batch", type=int, default=2, help="long sequences a step")
    p.add_argument("--long-every", type=int, default=8, help="one step of so many is long")
    p.add_argument("--steps", type=int, default=9000)
    p.add_argument("--minutes", type=float, default=1e9, help="finish the schedule by then even if steps are left")
    p.add_argument("--lr", type=float, default=4e-3)
    p.add_argument("--warmup", type=int, default=200)
    p.add_argument("--weight-decay", type=float, default=1.5)
    p.add_argument("--dropout", type=float, default=0.15)
    p.add_argument("--average", type=float, default=0.998, help="decay of the moving average of the weights")
    p.add_argument("--eval-every", type=int, default=250)
    p.add_argument("--seed", type=int, default=1)
    return p.parse_args()


def loss_of(model, ids):
    return F.cross_entropy(model(ids[:, :-1]).float().flatten(0, 1), ids[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model, text, length):
    """Nats a byte over `text` cut into pieces of `length` bytes, each scored on its own (length - 1 predictions)."""
    model.eval()
    n = len(text) // length
    total = 0.0
    for piece in text[:n * length].view(n, length).long().split(max(1, 32768 // length)):
        total += loss_of(model, piece).item() * len(piece)
    model.train()
    return total / n


def save(config, model, out):
    weights = {k: v.float().contiguous().cpu() for k, v in model.state_dict().items()}
    save_file(weights, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(out, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
        f.write("\n")


class Step:
    """One training step on sequences of one shape; on a GPU recorded once and replayed."""

    def __init__(self, model, optimizer, batch, length, device):
        self.model, self.optimizer, self.device = model, optimizer, device
        self.ids = torch.zeros(batch, length + 1, dtype=torch.long, device=device)
        self.loss = torch.zeros((), device=device)
        self.graph, self.runs = None, 0

    def work(self):
        with torch.autocast(self.device, dtype=torch.bfloat16, cache_enabled=False):
            loss = loss_of(self.model, self.ids)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss.copy_(loss.detach())

    def __call__(self, text):
        first = torch.randint(len(text) - self.ids.shape[1], (self.ids.shape[0], 1), device=self.device)
        self.ids.copy_(text[first + torch.arange(self.ids.shape[1], device=self.device)])
        if self.graph is not None:
            self.graph.replay()
        elif self.device == "cpu":
            self.work()
        else:
            self.warm_up()

    def warm_up(self):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.work()
        torch.cuda.current_stream().wait_stream(side)
        self.runs += 1
        if self.runs == 3:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.work()


def optimizer_of(c, model, device):
    matrices = [w for name, w in model.named_parameters() if is_matrix(name, w)]
    vectors = [w for name, w in model.named_parameters() if not is_matrix(name, w)]
    groups = [{"params": matrices, "weight_decay": c.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    on_gpu = device != "cpu"
    rate = torch.tensor(c.lr, device=device)
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), fused=on_gpu, capturable=on_gpu), rate


def train(c):
    torch.manual_seed(c.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with open(c.text, "rb") as f:
        data = torch.frombuffer(bytearray(f.read()), dtype=torch.uint8).to(device)
    training, held_out = data[:len(data) * 9 // 10], data[len(data) * 9 // 10:]
    config = dict(BASE, **PRESETS[c.model])
    config.update((key, json.loads(value)) for key, value in (s.split("=", 1) for s in c.set))
    model = Model(config, c.dropout)
    model.initialise(config["num_hidden_layers"])
    model.to(device)
    averaged = copy.deepcopy(model).requires_grad_(False)
    optimizer, rate = optimizer_of(c, model, device)
    short = Step(model, optimizer, c.batch, c.length, device)
    long = Step(model, optimizer, c.long_batch, c.long, device)
    os.makedirs(c.out, exist_ok=True)
    log = open(os.path.join(c.out, "log.txt"), "w", buffering=1)
    n_parameters = sum(w.numel() for w in model.parameters())
    log.write(f"{json.dumps(vars(c))}\n{n_parameters} parameters\n")
    best, start, progress, step = 1e9, time.time(), 0.0, 0
    while progress < 1.0:
        rate.fill_(c.lr * min(1.0, (step + 1) / c.warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))))
        kind = long if step % c.long_every == c.long_every - 1 else short
        kind(training)
        decay = min(c.average, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(averaged.parameters()), [w.detach() for w in model.parameters()], 1 - decay)
        step += 1
        if step % 10 == 0 and device != "cpu":
            torch.cuda.synchronize()                                   # so that the clock below is the GPU's
        progress = max(step / c.steps, (time.time() - start) / 60 / c.minutes)
        if step % c.eval_every == 0 or progress >= 1.0:
            h = held_out_loss(averaged, held_out, c.length)
            log.write(f"step {step} train {short.loss.item():.4f} held-out {h:.4f} {time.time() - start:.0f} s\n")
            if h < best:
                best = h
                save(config, averaged, c.out)
    averaged.load_state_dict(load_file(os.path.join(c.out, "model.safetensors")))
    far = held_out_loss(averaged, held_out, min(c.long, len(held_out)))
    result = (f"{c.model}: {n_parameters} parameters, {step} steps, {time.time() - start:.0f} s, last held-out "
              f"{h:.4f}, best {best:.5f} nats a byte, in pieces of {c.long} bytes {far:.5f}")
    log.write(result + "\n")
    print(result, flush=True)


if __name__ == "__main__":
    train(parse_arguments())
