#!/bin/sh
# Makes GGUF files of cases (make_gguf.py) and checks them against the cases' numbers; in one of them also the
# tokenizer and the chat template. usage: gguf_cases.sh BUILD HF_DIR; prints PASS|FAIL lines.
build=$1 hf=$2
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
bad=0
# check NAME CASE: the file $work/NAME.gguf against the numbers of CASE
check() {
    "$build/sqm-check" --model "$work/$1.gguf" "$2" | grep -E '^(PASS|FAIL|SKIP) ' || bad=1
}

# made CASE OPTION...: makes the file of a case and checks it
made() {
    case=$1
    shift
    if python3 tests/make_gguf.py "$@" "$hf/$case" "$work" && [ -f "$work/$case.gguf" ]; then
        check "$case" "$hf/$case"
    else
        echo "FAIL $case: no GGUF file was made"
        bad=1
    fi
}

for name in llama mistral qwen2 qwen3 gemma gemma2 gemma3 phi phi3 gpt2 gpt_neox gpt_neox-seq falcon-old falcon-new \
    falcon-11b bloom mpt starcoder2 gpt_bigcode stablelm stablelm-par olmo olmo2 olmo3 cohere cohere-qkn cohere2 \
    deepseek_v2 deepseek_v2-lite-grp deepseek_v3 deepseek_v3-yarn glm4_moe_lite youtu \
    mixtral qwen3_moe olmoe mamba mamba2; do
    made "$name"
done
for name in deepseek_v2-lite-grp deepseek_v3-yarn youtu; do made "$name" --old; done
python3 tests/make_gguf_rwkv.py "$work" || { echo "FAIL make_gguf_rwkv.py"; bad=1; }
for name in rwkv6 rwkv6qwen2 rwkv7 arwkv7; do check "$name" "$work/$name"; done
"$build/sqm-convert" "$work/rwkv7.gguf" -o "$work/rwkv7.sqm" > "$work/log" 2>&1 &&
    [ "$(printf '"# !' | "$build/sqm-tokenize" "$work/rwkv7.sqm" | tr -d '\n')" = "3 4 60" ] &&
    echo "PASS tokenizer of RWKV" || { echo "FAIL tokenizer of RWKV"; cat "$work/log"; bad=1; }
"$build/sqm-convert" "$work/qwen2.gguf" -o "$work/qwen2.sqm" > "$work/log" 2>&1 &&
    "$build/sqm-info" "$work/qwen2.sqm" | grep -q chat_template &&
    [ "$(printf 'hi!' | "$build/sqm-tokenize" "$work/qwen2.sqm" | tr -d '\n')" = "256 33" ] &&
    [ "$(echo '256 33' | "$build/sqm-tokenize" "$work/qwen2.sqm" --decode)" = "hi!" ] &&
    echo "PASS tokenizer and template" || { echo "FAIL tokenizer and template"; cat "$work/log"; bad=1; }
exit $bad
