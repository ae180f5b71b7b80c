#!/bin/sh
# The bundled model from outside, as a newcomer meets it: size, tokens, logits that do not depend on how they are
# computed, quality, generation, errors.     usage: tests/test_model.sh BUILD_DIR [MODEL.sqm]
build=${1:-build}
model=${2:-examples/models/shakespeare.sqm}
ids=$(dirname "$0")/data/shakespeare.ids              # the first 512 bytes of the held-out text, tools/train/README.md
. "$(dirname "$0")/expect.sh"

# fails PATTERN COMMAND...: exit status 1 and a message that matches
fails() {
    pattern=$1
    shift
    count=$((count + 1))
    "$@" > "$work/out" 2>&1
    [ $? = 1 ] && grep -q -e "$pattern" "$work/out" && return
    echo "test_model: $* should fail with '$pattern'"
    head -n 5 "$work/out"
    failed=$((failed + 1))
}

logits() { "$build/sqm-eval" "$model" --ids "$ids" --logits "$@"; }
generate() { "$build/generate" "$model" "$@" 2> "$work/messages"; }

# the file
expect "the model has 1,000,000 bytes or more" test "$(wc -c < "$model")" -lt 1000000
expect "the checksums do not match" "$build/sqm-info" --verify "$model"

# tokens: any bytes come back
printf 'ROMEO:\n\tcaf\303\251 \360\237\214\215 \001\377 end' > "$work/text"
"$build/sqm-tokenize" "$model" < "$work/text" > "$work/ids"
"$build/sqm-tokenize" "$model" --decode < "$work/ids" > "$work/again"
expect "text -> ids -> text is not the same" cmp "$work/text" "$work/again"
expect "a byte is not its own token" grep -q '^82 79 77 69 79 58 10 9 99 97 102 195 169 ' "$work/ids"

# logits: the same bits for every split, number of threads and instruction set
logits "$work/exact" --exact
logits "$work/fast"
for options in "--split 1" "--split 7" "--split 100 --threads 2" "--threads 1"; do
    logits "$work/other" --exact $options
    expect "exact logits change with $options" cmp "$work/exact" "$work/other"
    logits "$work/other" $options
    expect "fast logits change with $options" cmp "$work/fast" "$work/other"
done
logits "$work/other" --exact --isa scalar
expect "exact logits change with --isa scalar" cmp "$work/exact" "$work/other"

# quality: PyTorch in float64 with the float32 weights says 2.796481
for options in "--exact" ""; do
    perplexity=$("$build/sqm-eval" "$model" --ids "$ids" --perplexity $options | sed 's/perplexity \([0-9.]*\) .*/\1/')
    expect "perplexity is $perplexity ($options)" awk -v p="$perplexity" 'BEGIN { exit !(p > 2.78 && p < 2.81) }'
done

# generation
generate "ROMEO:" -n 120 --temp 0 --threads 1 > "$work/one"
generate "ROMEO:" -n 120 --temp 0 --threads 2 > "$work/two"
expect "greedy text depends on threads" cmp "$work/one" "$work/two"
expect "greedy text is too short" test "$(wc -c < "$work/one")" -ge 120
generate "JULIET:" -n 200 --temp 1 --seed 5 > "$work/one"
generate "JULIET:" -n 200 --temp 1 --seed 5 > "$work/two"
generate "JULIET:" -n 200 --temp 1 --seed 6 > "$work/three"
expect "the same seed gives another text" cmp "$work/one" "$work/two"
expect "another seed gives the same text" sh -c '! cmp -s "$0" "$1"' "$work/one" "$work/three"
expect "the story example fails" sh -c '"$0" "$1" "First Citizen:" | head -c 100 | grep -q "First Citizen:"' \
    "$build/story" "$model"

# decoding: rules, texts that must not appear, the same text from guesses, beams
decode() { "$build/decode" "$model" "$@"; }
decode "ROMEO:" --rules 'root ::= "yes" | "no" | [0-9]{3}' > "$work/one"
expect "rules are not kept" grep -qxE 'yes|no|[0-9]{3}' "$work/one"
decode "JULIET:" --json --temp 1 -n 300 > "$work/one"
expect "no JSON" grep -qE '^ *[[{]' "$work/one"
decode "ROMEO:" -n 200 > "$work/one"
decode "ROMEO:" -n 200 --lookup 8 > "$work/two"
expect "guesses change the text" sh -c 'head -c "$(wc -c < "$0")" "$1" | cmp - "$0"' "$work/one" "$work/two"
expect "no guess was right" grep -qE '^\(200 tokens in 1?[0-9]?[0-9] feeds: ' "$work/two"
decode "ROMEO:" -n 200 --ban the --ban I > "$work/two"
expect "the text without them has the banned texts" grep -qE 'the|I' "$work/one"
expect "a banned text appears" sh -c '! grep -qE "the|I" "$0"' "$work/two"
fails 'grammar line 2: there is no rule b' decode "ROMEO:" --rules "$(printf 'root ::= a\na ::= b')"
"$build/beams" "$model" "ROMEO:" 3 12 > "$work/one"
expect "no three beams, best first" sh -c 'grep -E "^ +-[0-9.]+ +-[0-9.]+ " "$0" | sort -k2 -g -r -c' "$work/one"
expect "a chat without a frame" sh -c '! "$0" "$1" < /dev/null' "$build/chat" "$model"

# errors
fails 'absent.sqm' "$build/generate" "$work/absent.sqm" "x"
head -c 5000 "$model" > "$work/short.sqm"
fails 'truncated' "$build/generate" "$work/short.sqm" "x"
fails '[0-9]' "$build/generate" "$model" "$(printf '%5000s' x)"

finish
