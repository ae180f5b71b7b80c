#!/bin/sh
# examples/09_stream.c with the bundled recording: left, yes, a word it does not know, stop. Called by examples.sh
# usage: tests/stream_words.sh BUILD_DIR
build=${1:-build}
models=$(dirname "$0")/../examples/models
out=$("$build/stream" "$models/keywords.sqm" "$models/words.wav") || { echo "stream: failed"; exit 1; }
echo "$out"
words=$(echo "$out" | sed -n 's/^ *[0-9.]* s  \([a-z]*\) .*/\1/p' | tr '\n' ' ')
[ "$words" = "left yes stop " ] || { echo "stream: heard '$words', expected 'left yes stop '"; exit 1; }
# the same through a pipe; no WAV, no model
[ "$("$build/stream" "$models/keywords.sqm" - < "$models/words.wav" | head -n 3)" = "$(echo "$out" | head -n 3)" ] ||
    { echo "stream: other words through a pipe"; exit 1; }
! "$build/stream" "$models/keywords.sqm" "$0" 2> /dev/null || { echo "stream: took a script for audio"; exit 1; }
! "$build/stream" "$models/shakespeare.sqm" "$models/words.wav" 2> /dev/null ||
    { echo "stream: took a language model for a keyword model"; exit 1; }
echo "stream: passed"
