#!/usr/bin/env python3
"""Configurations that are wrong: python3 tests/bad_configs.py SQM_CONVERT SQM_INFO HF_DIR CASE...
Each number of a case's config.json is replaced in turn by 0, -1, a fraction, a number that does not divide, a huge one,
a text and a list. The converter, or the reader of what it wrote, must refuse it with a message or go on; it must never
crash. Sizes must not be 0, and some values are refused always. Prints PASS|FAIL lines, exit status 1 if any failed."""
import json
import os
import subprocess
import sys
import tempfile

VALUES = [0, -1, 2.5, 3, 1000003, 10 ** 12, "x", [1]]
# sizes: 0 of these is never right
SIZES = {"state_size", "d_state", "ssm_state_size", "mamba_d_state", "conv_kernel", "mamba_d_conv", "d_conv",
         "conv_size", "num_hidden_layers", "hidden_size", "vocab_size", "mamba_num_heads", "mamba_n_heads",
         "mamba_head_dim", "mamba_d_head", "n_groups", "mamba_n_groups", "mamba_ngroups", "num_heads", "head_dim",
         "lru_width", "conv1d_width", "conv_L_cache", "n_mamba_heads", "linear_conv_kernel_dim", "linear_key_head_dim",
         "linear_num_key_heads"}
# what else the converter or the reader must not take: limits reversed
REVERSED = {"time_step_limit": [0.5, 0.1]}


def run(*command):
    p = subprocess.run(command, capture_output=True, text=True, errors="replace")
    return p.returncode, p.stderr.strip() or p.stdout.strip()


def bend(convert, info, source, case, key, value, work):
    """None: fine; else what is wrong"""
    with open(os.path.join(source, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    config[key] = value
    with open(os.path.join(work, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)
    out = os.path.join(work, "out.sqm")
    status, text = run(convert, work, "-o", out)
    if status == 0:
        status, text = run(info, out)
    if status not in (0, 1) or (status == 1 and not text):
        return f"status {status}: {text[-300:]}"
    if status == 1:
        return None
    if key in REVERSED and value == REVERSED[key] or key in SIZES and value == 0:
        return "was accepted"
    return None


def check(convert, info, source, case):
    with open(os.path.join(source, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    tries = [(k, v) for k, old in config.items() if isinstance(old, (int, float)) and not isinstance(old, bool)
             and not k.endswith("token_id") for v in VALUES if v != old]
    tries += [(k, v) for k, v in REVERSED.items() if k in config]
    bad = []
    with tempfile.TemporaryDirectory() as work:
        for name in os.listdir(source):
            if name != "config.json" and "expected" not in name and "legacy" not in name:
                os.symlink(os.path.abspath(os.path.join(source, name)), os.path.join(work, name))
        for key, value in tries:
            wrong = bend(convert, info, source, case, key, value, work)
            if wrong:
                bad.append(f"{key} = {json.dumps(value)}: {wrong}")
    print(f"{'FAIL' if bad else 'PASS'} {case} {len(tries)} configurations")
    for line in bad:
        print("    " + line)
    return not bad


def main():
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    convert, info, hf = sys.argv[1:4]
    results = [check(convert, info, os.path.join(hf, case), case) for case in sys.argv[4:]]
    sys.exit(0 if all(results) else 1)


main()
