#!/bin/sh
# Runs the test suite and counts it: one line a case, the last line "N passed, N failed, N skipped".
#   sh tests/run.sh            everything (what `make test` calls after building)
#   sh tests/run.sh programs   only the test programs in $BUILD/tests
#   sh tests/run.sh tokenizers only the reference tokenizers (what `make tokenizers` calls)
# DATA=dir  adds the cases of that directory (hf/, real/).   MODELS=dir  adds real models, see tests/real_models.py.
# An exit status of 77 means skipped: something the case needs is not on this machine.
BUILD=${BUILD:-build}
export BUILD
export SQM_DATA="$DATA"
logs=$BUILD/logs
mkdir -p "$logs"
passed=0 failed=0 skipped=0

# verdict STATUS NAME: counts a case and prints its line
verdict() {
    case $1 in
    0)  passed=$((passed + 1)); echo "PASS $2" ;;
    77) skipped=$((skipped + 1)); echo "SKIP $2" ;;
    *)  failed=$((failed + 1)); echo "FAIL $2 (status $1)" ;;
    esac
}

# check NAME COMMAND...: runs a case; its output is shown when it fails or is skipped
check() {
    name=$1
    shift
    "$@" > "$logs/$name.log" 2>&1
    status=$?
    verdict $status "$name"
    [ $status = 0 ] || tail -n 30 "$logs/$name.log" | sed 's/^/    /'
}

# count NAME COMMAND...: runs a command that prints PASS|FAIL|SKIP lines of its own and counts those
count() {
    name=$1
    shift
    "$@" > "$logs/$name.log" 2>&1
    status=$?
    grep -E '^(PASS|FAIL|SKIP) ' "$logs/$name.log" > "$logs/$name.lines"
    sed "s/^\([A-Z]*\) /\1 $name: /" "$logs/$name.lines"
    passed=$((passed + $(grep -c '^PASS' "$logs/$name.lines")))
    skipped=$((skipped + $(grep -c '^SKIP' "$logs/$name.lines")))
    bad=$(grep -c '^FAIL' "$logs/$name.lines")
    if [ $status != 0 ] && [ "$bad" = 0 ]; then
        verdict $status "$name"
        tail -n 30 "$logs/$name.log" | sed 's/^/    /'
    fi
    failed=$((failed + bad))
}

# cases DIR < names: the directories that exist; a name without one is an error
cases() {
    while read -r name rest; do
        case $name in ''|'#'*) continue ;; esac
        [ -d "$1/$name" ] && echo "$1/$name" || echo "FAIL $name is not in $1" >&2
    done
}

programs() {
    for source in tests/test_*.c; do
        name=$(basename "$source" .c)
        check "$name" "$BUILD/tests/$name"
    done
}

with_data() {
    if [ ! -d "$DATA/hf" ]; then
        echo "FAIL DATA=$DATA has no hf/"
        failed=$((failed + 1))
        return
    fi
    count hf "$BUILD/sqm-check" $(cases "$DATA/hf" < tests/hf_cases.txt)
    count hf-legacy "$BUILD/sqm-check" --legacy $(cases "$DATA/hf" < tests/hf_cases.txt)
    count vectors "$BUILD/sqm-vectors" "$DATA"/vectors/attn/core/sdpa*.safetensors \
        "$DATA"/vectors/attn/core/mask*.safetensors "$DATA"/vectors/attn/core/rope*.safetensors \
        "$DATA"/vectors/ssm/*/*.safetensors "$DATA"/vectors/linear/*.safetensors
    if command -v python3 > /dev/null; then
        count bad-configs python3 tests/bad_configs.py "$BUILD/sqm-convert" "$BUILD/sqm-info" "$DATA/hf" mamba mamba2 \
            falcon_h1 recurrent_gemma rwkv fla-gla fla-rwkv7 xlstm qwen3_next
    fi
    # dynamic NTK, LongRoPE and ties among Doge's keys depend on the length of the call by definition, hashed
    # attention on the whole sequence: they are fed whole only
    count hf-split "$BUILD/sqm-check" --split 7 \
        $(grep -vE 'dynamic|longrope|doge-keep24|^reformer$' tests/hf_cases.txt | cases "$DATA/hf")
    if python3 -c 'import gguf, numpy, safetensors' 2> /dev/null; then
        count gguf sh tests/gguf_cases.sh "$BUILD" "$DATA/hf"
    else
        verdict 77 "gguf (no python3 with gguf, numpy and safetensors)"
    fi
}

scripts() {
    for script in tests/test_*.sh; do
        check "$(basename "$script" .sh)" sh "$script" "$BUILD" examples/models/shakespeare.sqm
    done
}

# The reference tokenizers, of those that tests/fetch_tokenizers.sh brought to $SQM_TOKENIZERS.
tokenizers() {
    if [ -z "$DATA" ] || [ -z "$SQM_TOKENIZERS" ]; then
        verdict 77 "tokenizers (DATA and SQM_TOKENIZERS are not set)"
    else
        count tokenizers "$BUILD/tests/test_tok" "$DATA" "$SQM_TOKENIZERS" real
    fi
}

[ "$1" = tokenizers ] || programs
if [ "$1" = tokenizers ]; then
    tokenizers
elif [ "$1" != programs ]; then
    tokenizers
    scripts
    if command -v python3 > /dev/null; then
        count recipe-model python3 tests/recipe_model.py "$BUILD/sqm-convert" "$BUILD/sqm-eval"
    fi
    count examples sh tests/examples.sh "$BUILD"
    [ -d tests/data/hf ] && count check "$BUILD/sqm-check" tests/data/hf/*
    [ -n "$DATA" ] && with_data
    if [ -n "$MODELS" ]; then
        if command -v python3 > /dev/null; then
            count real python3 tests/real_models.py "$MODELS" "${DATA:-../shared}/real"
        else
            verdict 77 "real models (no python3)"
        fi
    fi
    count matrix sh tests/matrix.sh
    if [ -n "$MODELS" ]; then                          # minutes of other compilers: make firmware, make web alone
        count web sh tests/web.sh "$BUILD"
        count firmware sh tests/firmware.sh
        sed -n '/^program/,$p' "$logs/firmware.log"    # what it takes
    fi
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
