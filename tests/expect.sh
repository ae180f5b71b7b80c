# expect.sh: what the scripts of tests share; each sources it.   $work: a directory for files, removed at the end
script=$(basename "$0" .sh)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0
count=0

# expect WHAT COMMAND...: the command succeeds
expect() {
    what=$1
    shift
    count=$((count + 1))
    "$@" > "$work/out" 2>&1 && return
    echo "$script: $what"
    head -n 5 "$work/out"
    failed=$((failed + 1))
}

# finish: the last line of a script
finish() {
    echo "$script: $count checks, $failed failed"
    [ $failed = 0 ]
}
