#!/usr/bin/env python3
"""Writes the model of a case (config.json, model.safetensors) as the GGUF file that llama.cpp's converter would
make of it, with the `gguf` package (pip install gguf): its names, its order of fused weights, its permutations
for interleaved rope, its keys, a tokenizer of bytes and a chat template.
usage: make_gguf.py [--old] CASE... OUT_DIR   writes OUT_DIR/CASE.gguf; a case without a counterpart is left out
--old: latent attention as files before 2025 have it, with one tensor from the short row to keys and values
Then: sqm-check --model OUT_DIR/CASE.gguf CASE"""
import json
import os
import re
import sys

import numpy as np
from gguf import ExpertGatingFuncType, GGUFWriter, MODEL_ARCH, MODEL_ARCH_NAMES, RopeScalingType, get_tensor_name_map
from safetensors.numpy import load_file

ARCHS = {"llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3", "gemma": "GEMMA",
         "gemma2": "GEMMA2", "gemma3_text": "GEMMA3", "phi": "PHI2", "phi3": "PHI3", "gpt2": "GPT2",
         "gpt_neox": "GPTNEOX", "falcon": "FALCON", "bloom": "BLOOM", "mpt": "MPT", "starcoder2": "STARCODER2",
         "gpt_bigcode": "STARCODER", "stablelm": "STABLELM", "olmo": "OLMO", "olmo2": "OLMO2", "olmo3": "OLMO2",
         "cohere": "COMMAND_R", "cohere2": "COHERE2", "deepseek_v2": "DEEPSEEK2", "deepseek_v3": "DEEPSEEK2",
         "glm4_moe_lite": "DEEPSEEK2", "youtu": "DEEPSEEK2", "mixtral": "LLAMA", "qwen3_moe": "QWEN3MOE",
         "olmoe": "OLMOE", "mamba": "MAMBA", "mamba2": "MAMBA2"}
OLD = "--old" in sys.argv
TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"


def first(config, *keys, default=None):
    for key in keys:
        if config.get(key) is not None:
            return config[key]
    return default


def sizes(config):
    dim = first(config, "hidden_size", "n_embd", "d_model")
    heads = first(config, "num_attention_heads", "n_head", "n_heads", default=1)
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
    if params.get("rope_type") == "yarn":
        w.add_rope_scaling_type(RopeScalingType.YARN)
        w.add_rope_scaling_factor(params["factor"])
        w.add_rope_scaling_orig_ctx_len(params["original_max_position_embeddings"])
        if "mscale_all_dim" in params:
            w.add_rope_scaling_yarn_log_mul(0.1 * params["mscale_all_dim"])
    elif params.get("rope_type") == "linear":
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


def latent_keys(w, config):
    heads, rank, rotated = config["num_attention_heads"], config["kv_lora_rank"], config["qk_rope_head_dim"]
    head_dim = config["qk_nope_head_dim"] + rotated
    w.add_head_count_kv(heads if OLD else 1)
    w.add_key_length(head_dim if OLD else rank + rotated)
    w.add_value_length(config["v_head_dim"] if OLD else rank)
    if not OLD:
        w.add_key_length_mla(head_dim)
        w.add_value_length_mla(config["v_head_dim"])
    w.add_kv_lora_rank(rank)
    if config["q_lora_rank"]:
        w.add_q_lora_rank(config["q_lora_rank"])
    rope_keys(w, {**config, "rotary_pct": 1.0}, rotated)


def state_space_keys(w, config, layers):
    second = config["model_type"] == "mamba2"
    w.add_block_count(layers)
    w.add_context_length(1 << 20)
    w.add_embedding_length(config["hidden_size"])
    w.add_feed_forward_length(0)
    w.add_head_count(0)
    w.add_ssm_conv_kernel(config["conv_kernel"])
    w.add_ssm_inner_size(config["expand"] * config["hidden_size"])
    w.add_ssm_state_size(config["state_size"])
    w.add_ssm_time_step_rank(config["num_heads" if second else "time_step_rank"])
    if second:
        w.add_ssm_group_count(config["n_groups"])
    w.add_layer_norm_rms_eps(config["layer_norm_epsilon"])


def expert_keys(w, config):
    w.add_expert_count(first(config, "num_local_experts", "num_experts"))
    w.add_expert_used_count(config["num_experts_per_tok"])
    if "moe_intermediate_size" in config:
        w.add_expert_feed_forward_length(config["moe_intermediate_size"])


def latent_expert_keys(w, config, layers):
    experts = config.get("n_routed_experts")
    w.add_leading_dense_block_count(config.get("first_k_dense_replace", 1) if experts else layers)
    w.add_expert_feed_forward_length(first(config, "moe_intermediate_size", "intermediate_size"))
    w.add_expert_shared_count(config.get("n_shared_experts", 0))
    if not experts:
        return
    w.add_expert_count(experts)
    w.add_expert_used_count(config["num_experts_per_tok"])
    w.add_expert_weights_scale(config["routed_scaling_factor"])
    w.add_expert_gating_func(ExpertGatingFuncType.SOFTMAX if config["model_type"] == "deepseek_v2"
                             else ExpertGatingFuncType.SIGMOID)
    if config.get("norm_topk_prob"):
        w.add_expert_weights_norm(True)
    if config.get("n_group"):
        w.add_expert_group_count(config["n_group"])
        w.add_expert_group_used_count(config["topk_group"])


def keys(w, config, layers):
    dim, heads, kv, head_dim = sizes(config)
    kind = config["model_type"]
    w.add_block_count(layers)
    w.add_context_length(first(config, "max_position_embeddings", "n_positions", "max_seq_len", default=192))
    w.add_embedding_length(dim)
    w.add_feed_forward_length(first(config, "intermediate_size", "n_inner", "ffn_hidden_size", default=4 * dim))
    w.add_head_count(heads)
    if "kv_lora_rank" in config:
        latent_keys(w, config)
        latent_expert_keys(w, config, layers)
    else:
        w.add_head_count_kv(kv)
        if config.get("num_local_experts") or config.get("num_experts"):
            expert_keys(w, config)
    if "rms_norm_eps" in config:
        w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    else:
        w.add_layer_norm_eps(first(config, "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", default=1e-5))
    if config.get("head_dim") and kind != "cohere2" and "kv_lora_rank" not in config:
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
    if kind not in ("gpt2", "gpt_bigcode", "bloom", "mpt") and "kv_lora_rank" not in config:
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
    if kind in ("llama", "mistral", "mixtral", "olmo") and "_proj." in name and (".q_" in name or ".k_" in name):
        x = permute(x, heads if ".q_" in name else kv)
    if kind == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        x = x.T
    if name.endswith("A_log"):
        x = -np.exp(x)
    if name.endswith("conv1d.weight"):
        x = x[:, 0]
    if kind == "mamba2" and name.endswith(("A_log", ".D")):
        x = x[:, None]
    if kind == "mamba2" and name.endswith("mixer.norm.weight"):
        x = x.reshape(config["n_groups"], -1)
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


def split(weights, config, layers):
    """Keys and values out of the short row are split, experts are stacked, further layers are left out."""
    out = {}
    for name, x in weights.items():
        if name.startswith("model.layers.") and int(name.split(".")[2]) >= layers:
            continue                    # guesses further tokens
        if name.endswith("kv_b_proj.weight") and not OLD:
            heads, plain = config["num_attention_heads"], config["qk_nope_head_dim"]
            x = x.reshape(heads, plain + config["v_head_dim"], x.shape[1])
            out[name.replace("kv_b_proj", "k_b_proj")] = x[:, :plain].swapaxes(1, 2)
            out[name.replace("kv_b_proj", "v_b_proj")] = x[:, plain:]
        elif ".experts." in name:       # one tensor a map and expert becomes one a map
            stem, number, rest = re.match(r"(.*experts\.)(\d+)\.(.*)", name).groups()
            if number == "0":
                n = sum(other.startswith(stem) and other.endswith(rest) for other in weights)
                new = stem.replace("model.", "").replace("block_sparse_moe", "feed_forward") \
                    if "block_sparse_moe" in stem else stem
                out[new + rest] = np.stack([weights["%s%d.%s" % (stem, e, rest)] for e in range(n)])
        elif name.endswith(".dt_bias"):
            out[name.replace(".dt_bias", ".dt_proj.bias")] = x
        elif name.endswith("e_score_correction_bias"):
            out[name.replace("_correction_bias", "_correction.bias")] = x
        else:
            out[name] = x
    return out


def tensors(w, config, weights, layers, arch):
    names = get_tensor_name_map(arch, layers)
    stacks = {}
    for name, x in split(weights, config, layers).items():
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
    for case in [a for a in sys.argv[1:-1] if a != "--old"]:
        config = json.load(open(os.path.join(case, "config.json")))
        name = os.path.basename(os.path.normpath(case))
        layers = first(config, "num_hidden_layers", "n_layer", "n_layers")
        if config["model_type"] not in ARCHS:
            print("left out:", name)
            continue
        arch = MODEL_ARCH[ARCHS[config["model_type"]]]
        w = GGUFWriter(os.path.join(sys.argv[-1], name + ".gguf"), MODEL_ARCH_NAMES[arch])
        w.add_name(name)
        (state_space_keys if "mamba" in config["model_type"] else keys)(w, config, layers)
        tokenizer(w, config["vocab_size"])
        tensors(w, config, load_file(os.path.join(case, "model.safetensors")), layers, arch)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()


if __name__ == "__main__":
    main()
