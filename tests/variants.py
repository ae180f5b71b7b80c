#!/usr/bin/env python3
"""New checkpoints of known architectures: other shapes, weights and prompts, or one key of config.json changed.

    python3 tests/variants.py ../shared/hf OUT [--seed N] [--check build/sqm-check] [CASE...]

Needs torch and transformers, on a processor. Every case of kind "lm" in the first directory becomes OUT/CHANGE/CASE in
the same format, with logits of transformers in float64; sqm-check reads them. Weights follow the distribution of the
case's own. What transformers itself cannot do is left out. Prints one line a variant: PASS, FAIL or SKIP (refused with
a message), or MADE without --check.

Known to differ: selections of top-k keys (DeepSeek-V3.2, DeepSeek-V4, GLM-DSA) where scores are exactly equal, which
is frequent at 0 after ReLU: torch's choice among them depends on the length of the call. Hashed layers of Reformer:
every run draws its matrices anew."""
import argparse
import copy
import json
import os
import re
import subprocess

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

ROWS = sorted({*range(0, 150, 6), 147, 148, 149})       # of the 150 tokens' logits
TIMES_3_2 = """hidden_size n_embd d_model embedding_size emb_dim attention_hidden_size lru_width word_embed_proj_dim
    hidden_size_per_layer_input dim embed_dim num_attention_heads n_head n_heads num_key_value_heads num_heads
    n_kv_heads num_kv_heads linear_num_key_heads linear_num_value_heads swa_num_attention_heads""".split()
PLUS = {4: ["head_dim", "attention_head_dim"], 54: ["vocab_size", "vocab_size_per_layer_input"],
        2: ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"],
        24: """intermediate_size n_inner ffn_dim moe_intermediate_size shared_expert_intermediate_size d_ff
            ffn_hidden_size moe_shared_expert_intermediate_size mlp_hidden_size dff""".split()}
LAYERS = ["num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks"]
# keys that say nothing about the result, or how long a sequence may be
SILENT = re.compile("dropout|pdrop|token_id|init|aux_loss|vocab|max_|n_positions|n_ctx|use_cache|output_|return_dict|"
                    "is_decoder|is_encoder|cross_attention|kernels|rescale_prenorm|transformers|qk_head_dim")
# buffers and parameters that the library fills in itself
FIXED = re.compile("slope_rate|_decay$|balancing_biases|inv_freq")


# ---- changes of a configuration --------------------------------------------------------------------------------------
def parts_of(config, path=()):
    """The configuration and all dictionaries in it, with the keys that lead there."""
    yield path, config
    for key, value in config.items():
        if isinstance(value, dict):
            yield from parts_of(value, path + (key,))


def widen(config):
    """Other sizes everywhere, one layer more."""
    for path, part in parts_of(config):
        if path and not path[-1].endswith("config"):
            continue
        layers = next((part[k] for k in LAYERS if isinstance(part.get(k), int)), None)
        for key, value in part.items():
            more = next((n for n, keys in PLUS.items() if key in keys), 0)
            if isinstance(value, list) and layers and len(value) == layers:
                part[key] = value + value[-1:]
            elif not isinstance(value, int) or isinstance(value, bool):
                continue
            elif key in TIMES_3_2 and value % 2 == 0:
                part[key] = value * 3 // 2
            elif key in LAYERS:
                part[key] = value + 1
            else:
                part[key] = value + more


def new_values(key, value):
    """Other values that a key may have."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, str):
        return [{"gelu": "relu"}.get(value, "gelu")] if "act" in key and "ulti" not in key else []
    if isinstance(value, float):
        return [0.02] if "eps" in key else [value * 0.7] if 0 < abs(value) < 1e6 else []
    if isinstance(value, int) and 0 < value < 5000:
        other = [None] if "rank" in key or "window" in key else []
        return other + [value * 2] + ([value // 2] if value % 2 == 0 else [])
    return []


def changes(config):
    """(name, function that changes a configuration in place)"""
    yield "same", lambda c: None
    yield "wide", widen
    for path, part in parts_of(config):
        for key, value in part.items():
            for new in [] if SILENT.search(key) else new_values(key, value):
                def change(c, new=new, path=path, key=key):
                    for k in path:
                        c = c[k]
                    c[key] = new
                yield ".".join(path + (f"{key}={new}",)), change


# ---- weights and logits ----------------------------------------------------------------------------------------------
def draw(model, old, rng):
    """Weights drawn like those of the case: matrices normal with the same moments, vectors from the same numbers."""
    kinds = {re.sub(r"\.\d+\.", ".N.", name): a for name, a in old.items()}
    learned = dict(model.named_parameters())
    with torch.no_grad():
        for name, p in model.state_dict(keep_vars=True).items():
            like = old.get(name, kinds.get(re.sub(r"\.\d+\.", ".N.", name)))
            if FIXED.search(name) or not p.is_floating_point() or (like is None and name not in learned):
                continue
            shape = tuple(p.shape)
            if like is None:                            # the changed key brought it
                scale = 0.3 if p.ndim < 2 else shape[-1] ** -0.5
                new = rng.standard_normal(shape) * scale + (p.ndim == 1 and not name.endswith("bias"))
            elif p.ndim >= 2 and like.ndim >= 2:
                new = rng.standard_normal(shape) * like.std() + like.mean()
                if p.ndim == like.ndim == 2:            # rows of padding stay zero
                    zero = np.flatnonzero(~like.any(axis=1))
                    new[zero[zero < len(new)]] = 0
            else:
                new = rng.choice(like.ravel(), size=shape)
            p.copy_(torch.from_numpy(np.asarray(new, np.float32)))
    model.tie_weights()


class Float64:
    """Code that asks for float32 gets float64 while this is on."""
    def __enter__(self):
        self.saved = torch.float32, torch.float, torch.Tensor.float
        torch.float32 = torch.float = torch.float64
        torch.Tensor.float = lambda self, *a, **k: self.double()

    def __exit__(self, *_):
        torch.float32, torch.float, torch.Tensor.float = self.saved


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().numpy()


def make(source, meta, config, target, change, seed):
    """Writes the variant of the case `source` into the directory `target`."""
    meta, config = dict(meta), copy.deepcopy(config)
    kind, rng = getattr(transformers, meta["cls"]), np.random.default_rng(seed)
    change(config)
    if isinstance(config.get("time_step_limit"), list):
        config["time_step_limit"] = tuple(float("inf") if isinstance(x, dict) else float(x)
                                          for x in config["time_step_limit"])
    torch.manual_seed(seed)
    model = kind(kind.config_class.from_dict(copy.deepcopy(config))).float().eval()
    old = kind.from_pretrained(source).state_dict()
    draw(model, {n: t.float().numpy() for n, t in old.items() if t.is_floating_point()}, rng)
    model.save_pretrained(target)
    model = kind.from_pretrained(target, attn_implementation="eager").float().eval()
    prompts = {n: rng.integers(3, model.get_input_embeddings().num_embeddings, n).tolist() for n in (1, 37, 150)}
    single = {n: logits(model, ids) for n, ids in prompts.items()}
    model = kind.from_pretrained(target, attn_implementation="eager", dtype=torch.float64).double().eval()
    for part in model.modules():
        if hasattr(part, "config"):
            part.config._experts_implementation_internal = "eager"
    with Float64():
        full = {n: logits(model, ids) for n, ids in prompts.items()}
    out = {f"ids_{n}": np.array(ids, np.int32) for n, ids in prompts.items()}
    out.update(logits_1=full[1], logits_37=full[37], logits_150=full[150][ROWS], rows_150=np.array(ROWS, np.int32),
               greedy_37=full[37][-1:].argmax(-1).astype(np.int32), greedy_logits_37=full[37][-1:])
    save_file({n: a if a.dtype == np.int32 else a.astype(np.float32) for n, a in out.items()},
              os.path.join(target, "expected.safetensors"))
    meta.update(seed=seed, noise_f32=float(max(np.abs(single[n] - full[n]).max() for n in prompts)))
    with open(os.path.join(target, "meta.json"), "w") as f:
        json.dump(meta, f)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", help="sqm-check, to run on every variant")
    o = parser.parse_intermixed_args()
    os.environ["TQDM_DISABLE"] = "1"
    transformers.logging.set_verbosity_error()
    for case in o.cases or sorted(os.listdir(o.source)):
        source = os.path.join(o.source, case)
        try:
            with open(os.path.join(source, "meta.json")) as f:
                meta = json.load(f)
            with open(os.path.join(source, "config.json")) as f:
                config = json.load(f)
        except OSError:
            continue
        if meta["kind"] != "lm" or not hasattr(transformers, meta["cls"]):
            continue
        for name, change in changes(config):
            target = os.path.join(o.out, name.replace("/", "_"), case)
            os.makedirs(target, exist_ok=True)
            try:
                make(source, meta, config, target, change, o.seed)
            except Exception:                           # whatever the library says of such a configuration
                continue
            said = "MADE"
            if o.check:
                said = subprocess.run([o.check, target], capture_output=True, text=True).stdout.split("\n")[0]
            print(name, said if o.check else f"{said} {case}", flush=True)


if __name__ == "__main__":
    main()
