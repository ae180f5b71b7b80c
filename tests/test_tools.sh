#!/bin/sh
# sqm-info and sqm-embed from outside: output, exit status, nothing left behind.
# usage: tests/test_tools.sh BUILD_DIR [MODEL.sqm]     CC, CXX: compilers; python3 is used if there is one
build=${1:-build}
model=$2
toy=$(dirname "$0")/data/toy.sqm
reader=$(dirname "$0")/read_sqm.py
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0
count=0

# expect STATUS PATTERN COMMAND...: exit status, and a line of output or errors that matches (- = no output)
expect() {
    status=$1 pattern=$2
    shift 2
    "$@" > "$work/out" 2>&1
    got=$?
    count=$((count + 1))
    if [ "$pattern" = - ]; then [ ! -s "$work/out" ]; else grep -q -e "$pattern" "$work/out"; fi
    matched=$?
    if [ $got -ne "$status" ] || [ $matched -ne 0 ]; then
        echo "test_tools: $* : status $got (expected $status), pattern '$pattern', output:"
        head -5 "$work/out"
        failed=$((failed + 1))
    fi
}

expect 0 '^usage: sqm-info' "$build/sqm-info" --help
expect 2 '^usage: sqm-info' "$build/sqm-info"
expect 2 "unexpected '--nonsense'" "$build/sqm-info" --nonsense
expect 2 'positive number' "$build/sqm-info" "$toy" -c 0
expect 2 'f32, f16, q8 or q4' "$build/sqm-info" "$toy" --kv q9
expect 2 'cortex-m' "$build/sqm-info" "$toy" --target z80
expect 1 'cannot open' "$build/sqm-info" "$work/absent.sqm"
expect 0 'as they were written' "$build/sqm-info" --verify "$toy"
expect 0 '^mix r0 r0 attention w=@embed,- eps=1e-05$' "$build/sqm-info" --recipe "$toy"
expect 0 '^toy$' "$build/sqm-info" --meta name "$toy"
expect 1 "no note 'other'" "$build/sqm-info" --meta other "$toy"
expect 1 'cannot be run: op 0' "$build/sqm-info" "$toy"            # a valid file, but no runnable recipe

head -c 700 "$toy" > "$work/short.sqm"
expect 1 'truncated' "$build/sqm-info" "$work/short.sqm"
(head -c 704 "$toy"; printf 'x'; tail -c 63 "$toy") > "$work/damaged.sqm"
expect 1 "checksum of tensor 'embed'" "$build/sqm-info" --verify "$work/damaged.sqm"
expect 1 'not a .sqm weight file' "$build/sqm-info" "$build/sqm-info"

expect 0 '^usage: sqm-embed' "$build/sqm-embed" --help
expect 2 '^usage: sqm-embed' "$build/sqm-embed" "$toy"
expect 2 'cannot be the name' "$build/sqm-embed" "$toy" -o "$work/x.h" -n 1x
expect 1 'truncated' "$build/sqm-embed" "$work/short.sqm" -o "$work/x.h"
expect 1 "checksum" "$build/sqm-embed" "$work/damaged.sqm" -o "$work/x.h"
expect 1 'cannot write' "$build/sqm-embed" "$toy" -o "$work/absent/x.h"
for file in "$work/x.h" "$work/x.h.part"; do
    [ ! -e "$file" ] || { echo "test_tools: a failed sqm-embed left a file"; failed=$((failed + 1)); }
done
expect 0 - "$build/sqm-embed" "$toy" -o "$work/toy.h"
expect 0 '^static const unsigned char other\[768\]' "$build/sqm-embed" "$toy" -o - -n other

cat > "$work/embed.c" <<'PROGRAM'
#include "toy.h"
#include "toy.h"
#include <stdio.h>
int main(void)
{
    if ((size_t)toy_sqm % 64 != 0) return 1;
    return fwrite(toy_sqm, 1, sizeof(toy_sqm), stdout) != sizeof(toy_sqm);
}
PROGRAM
for compile in "${CC:-cc} -std=c99" "${CC:-cc} -std=c11" "${CXX:-c++} -std=c++11 -x c++"; do
    expect 0 - $compile -Wall -Wextra -Wpedantic -Werror "$work/embed.c" -o "$work/embed"
    "$work/embed" > "$work/again.sqm" && cmp -s "$work/again.sqm" "$toy" ||
        { echo "test_tools: embedded bytes differ ($compile)"; failed=$((failed + 1)); }
done

if [ -n "$model" ]; then
    expect 0 '^memory         session (defaults)' "$build/sqm-info" "$model"
    expect 0 'session (context 16, batch 4, kv f16)' "$build/sqm-info" "$model" -c 16 -b 4 --kv f16
    expect 0 '^tensor ' "$build/sqm-info" --tensors "$model"
    expect 0 'as they were written' "$build/sqm-info" --verify "$model"
    expect 0 '^| 1 | [0-9.]* | [0-9]* |$' "$build/sqm-bench" "$model" --flat 1 -n 1 -r 1 -t 1
    echo 1 2 3 > "$work/ids"
    expect 0 - "$build/sqm-eval" "$model" --ids "$work/ids" --state "$work/state"
    expect 0 '^SQMSTAT2$' head -c 8 "$work/state"
    # what a program must register, and memory on other machines; on this one it is what a session takes
    expect 0 '^#define M_MIXERS sqm_mixer_attention_plain(), NULL$' "$build/sqm-embed" "$model" -o - -n m
    expect 0 '^#define M_OPS .*sqm_op_rope(), .*NULL$' "$build/sqm-embed" "$model" -o - -n m
    small="-c 128 -b 1 --threads 1 --kv q8"
    "$build/sqm-info" "$model" $small | tr -d , > "$work/sizes"
    model_bytes=$(sed -n 's/^memory *model \([0-9]*\) bytes.*/\1/p' "$work/sizes")
    session_bytes=$(sed -n 's/^memory *session (con.*) \([0-9]*\) bytes.*/\1/p' "$work/sizes")
    expect 0 "^#  define MODEL_BYTES ${model_bytes:-none}\$" "$build/sqm-info" "$model" --target host $small
    expect 0 "^#define SESSION_BYTES ${session_bytes:-none}\$" "$build/sqm-info" "$model" --target host $small
    expect 0 '^#define SESSION_BYTES [0-9]*$' "$build/sqm-info" "$model" --target cortex-m7 $small
    expect 0 '^#  define MODEL_BYTES [0-9]*$' "$build/sqm-info" "$model" --target rv32 $small
fi
expect 0 '^| llama | [0-9]* | [0-9.e-]* | [0-9]* % |' "$build/sqm-check" --table "$(dirname "$0")/data/hf/llama"
if command -v python3 > /dev/null; then
    expect 0 - python3 "$reader" --self-test
    for file in "$toy" $model; do
        expect 0 - python3 "$reader" --quiet "$file"
        python3 "$reader" --recipe "$file" > "$work/recipe"
        "$build/sqm-info" --recipe "$file" | cmp -s - "$work/recipe" ||
            { echo "test_tools: recipes of $file differ"; failed=$((failed + 1)); }
    done
fi
echo "test_tools: $count commands, $failed failed"
[ $failed -eq 0 ]
