#!/bin/sh
# Makes GGUF files of cases (make_gguf.py) and checks them against the cases' numbers; in one of them also the
# tokenizer and the chat template. usage: gguf_cases.sh BUILD HF_DIR; prints PASS|FAIL lines.
build=$1 hf=$2
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
bad=0
for name in llama mistral qwen2 qwen3 gemma gemma2 gemma3 phi phi3 gpt2 gpt_neox gpt_neox-seq falcon-old falcon-new \
    falcon-11b bloom mpt starcoder2 gpt_bigcode stablelm stablelm-par olmo olmo2 olmo3 cohere cohere-qkn cohere2; do
    if python3 tests/make_gguf.py "$hf/$name" "$work" && [ -f "$work/$name.gguf" ]; then
        "$build/sqm-check" --model "$work/$name.gguf" "$hf/$name" | grep -E '^(PASS|FAIL|SKIP) ' || bad=1
    else
        echo "FAIL $name: no GGUF file was made"
        bad=1
    fi
done
"$build/sqm-convert" "$work/qwen2.gguf" -o "$work/qwen2.sqm" > "$work/log" 2>&1 &&
    "$build/sqm-info" "$work/qwen2.sqm" | grep -q chat_template &&
    [ "$(printf 'hi!' | "$build/sqm-tokenize" "$work/qwen2.sqm" | tr -d '\n')" = "256 33" ] &&
    [ "$(echo '256 33' | "$build/sqm-tokenize" "$work/qwen2.sqm" --decode)" = "hi!" ] &&
    echo "PASS tokenizer and template" || { echo "FAIL tokenizer and template"; cat "$work/log"; bad=1; }
exit $bad
