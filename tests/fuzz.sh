#!/bin/sh
# Fuzzes every reader of every target in $BUILD/tests/fuzz_*: each starts from small good inputs, which are made first.
#   sh tests/fuzz.sh [READER...]      all readers, or these
# TIME=seconds a reader with libFuzzer, N=damaged copies of each input without it (see tests/fuzz.h). DATA=dir adds the
# configurations and tensor lists of its checkpoints. What was found is in $BUILD/found, with the reader's name first.
BUILD=${BUILD:-build/fuzz}
TIME=${TIME:-60}
N=${N:-300}
found=$BUILD/found
mkdir -p "$found"
TMPDIR=$(mktemp -d -p "$([ -d /dev/shm ] && echo /dev/shm || echo /tmp)")
trap 'rm -rf "$TMPDIR"' EXIT
export TMPDIR ASAN_OPTIONS=allocator_may_return_null=1
bad=0

# seeds TARGET READER DIR
seeds() {
    mkdir -p "$3"
    "$1" --reader="$2" --seeds="$3" || exit 1
    [ "$2" = checkpoint ] || return
    for case in tests/data/hf/* ${DATA:+"$DATA"/hf/*}; do
        file=$case/model.safetensors
        [ -f "$case/config.json" ] && [ -f "$file" ] || continue
        header=$(od -An -tu8 -N8 "$file" | tr -d ' ')
        { cat "$case/config.json"; printf '\0'; tail -c +9 "$file" | head -c "$header"; } > "$3/$(basename "$case")"
    done
}

for target in "$BUILD"/tests/fuzz_*; do
    [ -x "$target" ] || continue
    for reader in $("$target" --list); do
        case " ${*:-$reader} " in *" $reader "*) ;; *) continue ;; esac
        corpus=$BUILD/corpus/$reader
        log=$found/$reader.log
        seeds "$target" "$reader" "$corpus"
        if "$target" -help=1 2>&1 | grep -q max_total_time; then
            "$target" --reader="$reader" -max_total_time="$TIME" -timeout=20 -rss_limit_mb=1024 -malloc_limit_mb=256 \
                -dict=tests/fuzz.dict -artifact_prefix="$found/$reader-" -print_final_stats=1 "$corpus" > "$log" 2>&1
        else
            "$target" --reader="$reader" --mutate="$N" "$corpus"/* > "$log" 2>&1
        fi
        status=$?
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        if [ $status = 0 ]; then
            echo "PASS fuzz: $reader ${runs:+$runs inputs}"
        else
            echo "FAIL fuzz: $reader (status $status), see $log"
            grep -m 3 -E 'SUMMARY|ERROR|runtime error' "$log"
            bad=1
        fi
    done
done
exit $bad
