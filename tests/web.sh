#!/bin/sh
# The page of examples/web: builds it with zig, then runs it under node and in a headless Chromium, from a server and as
# a file. Prints PASS|FAIL|SKIP lines.     usage: tests/web.sh BUILD_DIR [MODEL.sqm]
build=${1:-build}
model=${2:-examples/models/shakespeare.sqm}
here=$(dirname "$0")
. "$here/report.sh"

# check NAME COMMAND...: an exit status of 77 means skipped
check() {
    name=$1
    shift
    ( "$@" ) > "$build/web.log" 2>&1
    status=$?
    report $status "$name" "$build/web.log" 200
    return $status
}

build_page() {
    command -v zig > /dev/null || python3 -c 'import ziglang' 2> /dev/null || { echo "no zig"; exit 77; }
    make -s BUILD="$build" MODEL="$model" web
}

under_node() {
    command -v node > /dev/null || { echo "no node"; exit 77; }
    node "$here/web_node.mjs" "$build" "$model"
}

in_browser() {
    command -v python3 > /dev/null || { echo "no python3"; exit 77; }
    python3 "$here/web_browser.py" "$build" "$model" "$1"
}

check build build_page || exit 0
check node under_node
check browser in_browser http
check browser-file in_browser file
exit 0
