#!/usr/bin/env python3
"""Writes the model of a case (config.json, model.safetensors) as the GGUF file that llama.cpp's converter would
make of it, with the `gguf` package (pip install gguf): its names, its order of fused weights, its permutations
for interleaved rope, its keys, a tokenizer of bytes and a chat template.
usage: make_gguf.py CASE... OUT_DIR       writes OUT_DIR/CASE.gguf; a case without a counterpart is left out
Then: sqm-check --model OUT_DIR/CASE.gguf CASE"""
import json
import os
import sys

import numpy as np
from gguf import GGUFWriter, MODEL_ARCH, MODEL_ARCH_NAMES, RopeScalingType, get_tensor_name_map
from safetensors.numpy import load_file

ARCHS = {"llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3", "gemma": "GEMMA",
         "gemma2": "GEMMA2", "gemma3_text": "GEMMA3", "phi": "PHI2", "phi3": "PHI3", "gpt2": "GPT2",
         "gpt_neox": "GPTNEOX", "falcon": "FALCON", "bloom": "BLOOM", "mpt": "MPT", "starcoder2": "STARCODER2",
         "gpt_bigcode": "STARCODER", "stablelm": "STABLELM", "olmo": "OLMO", "olmo2": "OLMO2", "olmo3": "OLMO2",
         "cohere": "COMMAND_R", "cohere2": "COHERE2"}
TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"


def first(config, *keys, default=None):
    for key in keys:
        if config.get(key) is not None:
            return config[key]
    return default


def sizes(config):
    dim = first(config, "hidden_size", "n_embd", "d_model")
    heads = first(config, "num_attention_heads", "n_head", "n_heads")
    kv = first(config, "num_kv_heads", "num_key_value_heads", default=heads)
    kind = config["model_type"]
    if kind == "falcon" and not config["new_decoder_architecture"]:
        kv = 1 if config["multi_query"] else heads
    if kind in ("gpt2", "bloom", "mpt", "gpt_neox"):
        kv = heads
    if kind == "gpt_bigcode":
        kv = 1 if config["multi_query"] else heads
    return dim, heads, kv, first(config, "head_dim", default=dim // heads)


def permute(w, heads):                  # of llama: halves of a head become pairs of neighbours
    shape = w.shape
    return w.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def rope_keys(w, config, head_dim):
    params = config.get("rope_parameters") or {}
    params = params.get("full_attention", params)
    if not params:
        return
    w.add_rope_freq_base(params["rope_theta"])
    part = params.get("partial_rotary_factor", config.get("rotary_pct", 1.0))
    w.add_rope_dimension_count(int(head_dim * part))
    if params.get("rope_type") == "linear":
        w.add_rope_scaling_type(RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(params["factor"])
    elif params.get("rope_type", "default") != "default":
        sys.exit("rope type %s is not written" % params["rope_type"])


def window_keys(w, config):
    kinds = config.get("layer_types")
    if config.get("sliding_window"):
        w.add_sliding_window(config["sliding_window"])
        if kinds and len(set(kinds)) > 1:
            w.add_sliding_window_pattern([k == "sliding_attention" for k in kinds])


def keys(w, config, layers):
    dim, heads, kv, head_dim = sizes(config)
    kind = config["model_type"]
    w.add_block_count(layers)
    w.add_context_length(first(config, "max_position_embeddings", "n_positions", "max_seq_len", default=192))
    w.add_embedding_length(dim)
    w.add_feed_forward_length(first(config, "intermediate_size", "n_inner", "ffn_hidden_size", default=4 * dim))
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    if "rms_norm_eps" in config:
        w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    else:
        w.add_layer_norm_eps(first(config, "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", default=1e-5))
    if config.get("head_dim") and kind != "cohere2":
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
    if kind not in ("gpt2", "gpt_bigcode", "bloom", "mpt"):
        rope_keys(w, config, head_dim)
    window_keys(w, config)
    if kind in ("gpt_neox", "stablelm"):
        w.add_parallel_residual(config["use_parallel_residual"])
    if kind == "olmo" and config.get("clip_qkv"):
        w.add_clamp_kqv(config["clip_qkv"])
    if kind == "mpt":
        w.add_max_alibi_bias(8.0)       # what the reference computes with
        if config["attn_config"]["clip_qkv"]:
            w.add_clamp_kqv(config["attn_config"]["clip_qkv"])
    if config.get("apply_residual_connection_post_layernorm"):
        sys.exit("apply_residual_connection_post_layernorm is not written")
    if kind in ("cohere", "cohere2"):
        w.add_logit_scale(config["logit_scale"])
        w.add_rope_scaling_type(RopeScalingType.NONE)
    if config.get("attn_logit_softcapping"):
        w.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    if config.get("final_logit_softcapping"):
        w.add_final_logit_softcapping(config["final_logit_softcapping"])


def change(name, x, config):
    """What the converter changes in a tensor, by its name in the checkpoint."""
    dim, heads, kv, head_dim = sizes(config)
    kind = config["model_type"]
    if kind in ("llama", "mistral", "olmo") and "_proj." in name and (".q_" in name or ".k_" in name):
        x = permute(x, heads if ".q_" in name else kv)
    if kind == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        x = x.T
    if kind.startswith("gemma") and name.endswith("norm.weight"):
        x = x + 1
    scalar = config.get("query_pre_attn_scalar")
    if scalar and name.endswith("q_norm.weight" if kind == "gemma3_text" else "q_proj.weight"):
        x = x * (head_dim / scalar) ** 0.5             # GGUF has no key for it
    scale = (config.get("attn_config") or {}).get("softmax_scale")
    if scale and "Wqkv" in name:
        sys.exit("softmax_scale is not written")
    if "query_key_value" in name and (kind != "falcon" or kv > 1):
        group = heads // kv
        x = x.reshape(kv, group + 2, head_dim, *x.shape[1:])
        x = np.concatenate([part.reshape(-1, *x.shape[3:])
                            for part in (x[:, :group], x[:, group:group + 1], x[:, group + 1:])])
    return x


def tensors(w, config, weights, layers, arch):
    names = get_tensor_name_map(arch, layers)
    stacks = {}
    for name, x in weights.items():
        if config.get("tie_word_embeddings") and name.startswith(("lm_head.", "embed_out.")):
            continue
        x = change(name, x.astype(np.float32), config)
        if ".norms." in name:           # one norm for each head
            stem, rest = name.split(".norms.")
            stacks.setdefault(stem + ".weight", {})[int(rest.split(".")[0])] = x
            continue
        if config["model_type"] == "bloom":
            name = name.replace("transformer.", "")
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new is None:
            sys.exit("%s has no name" % name)
        w.add_tensor(new, np.ascontiguousarray(x))
    for name, parts in stacks.items():
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        w.add_tensor(new, np.stack([parts[i] for i in range(len(parts))]))


def byte_texts():                       # GPT-2's printable names of bytes
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, more = {}, 0
    for b in range(256):
        table[b] = chr(b) if b in plain else chr(256 + more)
        more += b not in plain
    return [table[b] for b in range(256)]


def tokenizer(w, vocab):
    tokens = (byte_texts() + ["hi"] + ["<|%d|>" % i for i in range(257, vocab)])[:vocab]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([1 if i < 257 else 3 for i in range(vocab)])
    w.add_token_merges(["h i"])
    w.add_eos_token_id(vocab - 1)
    w.add_chat_template(TEMPLATE)


def main():
    for case in sys.argv[1:-1]:
        config = json.load(open(os.path.join(case, "config.json")))
        name = os.path.basename(os.path.normpath(case))
        layers = first(config, "num_hidden_layers", "n_layer", "n_layers")
        if config["model_type"] not in ARCHS:
            print("left out:", name)
            continue
        arch = MODEL_ARCH[ARCHS[config["model_type"]]]
        w = GGUFWriter(os.path.join(sys.argv[-1], name + ".gguf"), MODEL_ARCH_NAMES[arch])
        w.add_name(name)
        keys(w, config, layers)
        tokenizer(w, config["vocab_size"])
        tensors(w, config, load_file(os.path.join(case, "model.safetensors")), layers, arch)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()


if __name__ == "__main__":
    main()
