#!/bin/sh
# Runs every example and looks at what it prints: texts of the bundled model against tests/data/examples, which are the
# same on every machine; elsewhere properties. Prints PASS|FAIL|SKIP lines.
# usage: tests/examples.sh BUILD_DIR    MODELS=dir: with the models that .ci/run fetches; RENEW=1: rewrites the texts
build=${1:-build}
model=examples/models/shakespeare.sqm
expected=tests/data/examples
dir=$build/examples
mkdir -p "$dir"
failed=0
. tests/report.sh

# check NAME COMMAND...: an exit status of 77 means skipped
check() {
    name=$1
    shift
    ( "$@" ) > "$dir/$name.log" 2>&1
    report $? "$name" "$dir/$name.log" 20 || failed=1
}

# prints NAME COMMAND...: the command's output is the expected one
prints() {
    name=$1
    shift
    "$@" > "$dir/$name.txt" || return
    [ -z "$RENEW" ] || cp "$dir/$name.txt" "$expected/$name.txt"
    diff "$expected/$name.txt" "$dir/$name.txt"
}

story() { "$build/story" $model 'First Citizen:' | head -n 6; }
generate() { "$build/generate" $model JULIET: -n 200 --temp 0.9 --top-k 40 --seed 5 --echo; }
chat() {
    printf 'Good morrow.\nWho is there?\n/quit\n' |
        "$build/chat" $model --frame 'user=%s\n' --frame reply=ROMEO: --frame 'end=\n' --frame 'stop=\n\n' --temp 0
}
state() { "$build/state" $model ROMEO:; }
threads() { "$build/threads" $model ROMEO: JULIET:; }

ops() {
    "$build/ops" > "$dir/ops.txt" && [ "$(wc -l < "$dir/ops.txt")" = 9 ] &&
        tail -n 1 "$dir/ops.txt" | grep -qx 'largest difference between whole and step by step: 0'
}

# a shell script is one but for its first bytes
segment() {
    [ -n "$MODELS" ] && [ -f "$MODELS/typeseg/mamba_al.npz" ] || { echo "no TypeSeg model"; exit 77; }
    "$build/sqm-convert" "$MODELS/typeseg/mamba_al.npz" -o "$dir/typeseg.sqm" &&
        "$build/segment" "$dir/typeseg.sqm" tests/run.sh > "$dir/segment.txt" &&
        grep -qE '^ +[0-9]+:1 +[0-9]{4,}  shell ' "$dir/segment.txt" &&
        "$build/segment" "$dir/typeseg.sqm" tests/run.sh --bytes > "$dir/segment.bytes" &&
        [ "$(wc -l < "$dir/segment.bytes")" = "$(wc -c < tests/run.sh)" ]
}

# rules are kept; guesses change no text
decode() {
    "$build/decode" $model ROMEO: --rules 'root ::= "yes" | "no"' | grep -qxE 'yes|no' || return
    "$build/decode" $model ROMEO: -n 200 > "$dir/plain.txt" &&
        "$build/decode" $model ROMEO: -n 200 --lookup 8 > "$dir/guessed.txt" &&
        head -c "$(wc -c < "$dir/plain.txt")" "$dir/guessed.txt" | cmp - "$dir/plain.txt"
}

# three texts, the best first
beams() {
    "$build/beams" $model ROMEO: 3 12 | grep -E '^ +-[0-9.]+ +-[0-9.]+ ' > "$dir/beams.txt"
    [ "$(wc -l < "$dir/beams.txt")" = 3 ] && sort -k2 -g -r -c "$dir/beams.txt"
}

compare() {
    "$build/compare" --text examples/models/heldout.txt examples/models/tiny.sqm | grep -qE '^tiny.sqm +[0-9]+ +[0-9]+'
}

for source in examples/*.c; do
    name=$(basename "$source" .c)
    case $name in
    *story | *generate | *chat | *state | *threads) check "$name" prints "${name##*_}" "${name##*_}" ;;
    *ops | *segment | *decode | *beams | *compare)  check "$name" "${name##*_}" ;;
    *stream)                                        check "$name" sh tests/stream_words.sh "$build" ;;
    *)                                              check "$name" sh -c 'echo "it has no case here"; exit 1' ;;
    esac
done
exit $failed
