#!/bin/sh
# examples/stream.c with the bundled recording: left, yes, a word it does not know, stop.
# usage: tests/test_stream.sh BUILD_DIR
build=${1:-build}
models=$(dirname "$0")/../examples/models
out=$("$build/stream" "$models/keywords.sqm" "$models/words.wav") || { echo "test_stream: failed"; exit 1; }
echo "$out"
words=$(echo "$out" | sed -n 's/^ *[0-9.]* s  \([a-z]*\) .*/\1/p' | tr '\n' ' ')
[ "$words" = "left yes stop " ] || { echo "test_stream: heard '$words', expected 'left yes stop '"; exit 1; }
# the same through a pipe; no WAV, no model
[ "$("$build/stream" "$models/keywords.sqm" - < "$models/words.wav" | head -n 3)" = "$(echo "$out" | head -n 3)" ] ||
    { echo "test_stream: other words through a pipe"; exit 1; }
! "$build/stream" "$models/keywords.sqm" "$0" 2> /dev/null || { echo "test_stream: took a script for audio"; exit 1; }
! "$build/stream" "$models/shakespeare.sqm" "$models/words.wav" 2> /dev/null ||
    { echo "test_stream: took a language model for a keyword model"; exit 1; }
echo "test_stream: passed"
