#!/bin/sh
# The set of bundled models: sizes, checksums, the quality that PyTorch measured, the same bits in pieces, a context
# far longer than they were trained on, and the two programs that compare them.    usage: tests/test_models.sh BUILD_DIR
build=${1:-build}
models=$(dirname "${2:-examples/models/shakespeare.sqm}")
ids=$(dirname "$0")/data/shakespeare.ids              # the first 512 bytes of the held-out text, tools/train/README.md
. "$(dirname "$0")/expect.sh"

perplexity() { "$build/sqm-eval" "$@" --perplexity --threads 1 | sed 's/perplexity \([0-9.]*\) .*/\1/'; }
near() { awk -v a="$1" -v b="$2" -v most="$3" 'BEGIN { exit !(a > b * (1 - most) && a < b * (1 + most)) }'; }

# the text as ids: 10,240 bytes of it, one token each
head -c 10240 "$models/heldout.txt" | "$build/sqm-tokenize" "$models/shakespeare.sqm" > "$work/long"

# model, PyTorch's perplexity of the 512 bytes, in float32
while read -r name expected; do
    model=$models/$name.sqm
    expect "$name: 1,500,000 bytes or more" test "$(wc -c < "$model")" -lt 1500000
    expect "$name: the checksums do not match" "$build/sqm-info" --verify "$model"
    p=$(perplexity "$model" --ids "$ids")
    expect "$name: perplexity $p, not $expected" near "$p" "$expected" 0.002
    "$build/sqm-eval" "$model" --ids "$ids" --threads 1 --logits "$work/whole"
    "$build/sqm-eval" "$model" --ids "$ids" --threads 1 --logits "$work/pieces" --split 7
    expect "$name: other logits in pieces" cmp "$work/whole" "$work/pieces"
    p=$(perplexity "$model" --ids "$work/long")
    expect "$name: perplexity $p of 10,240 bytes" near "$p" 3.45 0.07
done << END
transformer 2.760257
shakespeare 2.796481
mamba 2.923287
mamba2 2.710165
gated_deltanet 2.732789
rwkv7 2.783846
hybrid 2.732013
tiny 3.186549
END

# the comparison and the picture, of one model with a bounded state and one whose state grows
expect "compare fails" "$build/compare" --text "$models/heldout.txt" "$models/tiny.sqm" "$models/transformer.sqm"
cp "$work/out" "$work/table"
expect "compare prints no loss" grep -q '^transformer.sqm  *870  *929  *1\.3[0-9]' "$work/table"
expect "compare accepts an absent model" sh -c '! "$0" --text "$1" absent.sqm' "$build/compare" "$models/heldout.txt"
expect "sqm-plot fails" "$build/sqm-plot" "$work/plot.svg" "$models/tiny.sqm" "Whole <& context=$models/transformer.sqm"
cp "$work/out" "$work/table"
expect "no state of growing size in sqm-plot's table" awk '
    $1 == "tiny" && $2 == 1000 { flat = $4 } $1 == "tiny" && $2 == 10000 { flat -= $4 }
    $1 == "Whole" && $(NF - 2) == 10000 { grown = $NF }
    END { exit !(flat == 0 && grown > 5000000) }' "$work/table"
expect "sqm-plot's picture is not complete" sh -c 'grep -q "</svg>" "$0" && [ "$(grep -c polyline "$0")" = 4 ]' \
    "$work/plot.svg"
expect "sqm-plot --help fails" "$build/sqm-plot" --help
expect "sqm-plot accepts no model" sh -c '"$0" out.svg 2> /dev/null; [ $? = 2 ]' "$build/sqm-plot"
expect "sqm-plot accepts an absent model" sh -c '"$0" out.svg absent.sqm; [ $? = 1 ]' "$build/sqm-plot"

finish
