#!/bin/sh
# Layout of the sources (tabs, trailing blanks, width, ASCII, table of contents, machine paths) and the warning set
# of the project as errors over tools, examples and tests. Prints what is wrong; exit status 1 if anything is. Long
# functions and large stack frames are listed as notes only.
BUILD=${BUILD:-build}
dir=$BUILD/lint
mkdir -p "$dir"
rm -f "$dir/bad"
sources=$(find seqmodel.h tools examples tests -name '*.[ch]' | sort)
scripts="Makefile $(find tools examples tests .ci -name '*.sh' -o -name '*.py' -o -path .ci/run | sort)"
texts="README.md $(find tools examples tests -name '*.md' | sort)"

# complain TITLE < findings: prints them and remembers that there were some
complain() {
    cat > "$dir/found"
    [ -s "$dir/found" ] || return 0
    touch "$dir/bad"
    echo "$1:"
    sed 's/^/    /' "$dir/found" | head -n 40
}

grep -nH "$(printf '\t')" $sources | complain "tabs"
grep -nHE ' +$' $sources $scripts | complain "blanks at the end of a line"
awk 'length($0) > 110 { print FILENAME ":" FNR ": " length($0) " columns" }' $sources |
    complain "wider than 110 columns"
awk 'length($0) > 120 { print FILENAME ":" FNR ": " length($0) " columns" }' $scripts |
    complain "wider than 120 columns"
LC_ALL=C grep -nH '[^ -~]' $sources | grep -v "$(printf '\t')" | complain "not ASCII"
for f in $sources $scripts; do
    [ -z "$(tail -c 1 "$f")" ] || echo "$f"
done | complain "no newline at the end of the file"
grep -nHE '/(work|root|home)/[a-z]' $sources $scripts $texts | grep -v 'lint.sh:' | complain "paths of one machine"
grep -nHE '(pypi\.org|pythonhosted|npmjs|deb\.debian|crates\.io)' $sources $scripts $texts |
    grep -v 'lint.sh:' | complain "hosts of package registries"

# table of contents: lines "[KEY] ..." of the first comment against the banners of the sections, in order
awk '/\*\// { exit } match($0, /^ *\[[A-Z]+\]/) { gsub(/[^A-Z]/, "", $1); print $1 }' seqmodel.h > "$dir/contents"
sed -n 's|^/\* ==== \[\([A-Z]*\)\].*|\1|p' seqmodel.h > "$dir/sections"
diff "$dir/contents" "$dir/sections" | grep '^[<>]' |
    sed 's/^</only in the table of contents (or in another place):/; s/^>/only a section (or in another place):/' |
    complain "table of contents"
for other in $(sed -n 's|^/\* ==== \[\([A-Z]*\)\].*|\1|p' seqmodel.h | sort | uniq -d); do echo "[$other]"; done |
    complain "sections that appear twice"

# compile COMPILER STD: every program with the warnings of tests/matrix.sh as errors
compile() {
    command -v "$1" > /dev/null || { echo "note: $1 is not installed, its warnings were not looked at"; return; }
    flags=$(sed -n '/^warnings="/,/"$/p' tests/matrix.sh | tr -d '"\\\n' | sed 's/^warnings=//')
    for f in tools/*.c examples/*.c tests/*.c; do [ -f "$f" ] && echo "$f"; done |
        xargs -P "$(nproc 2> /dev/null || echo 2)" -I FILE "$1" -std="$2" $flags -Wstrict-prototypes \
            -Wmissing-prototypes -DSEQMODEL_NO_SIMD -fsyntax-only FILE 2>&1 |
        grep -E 'error:|warning:' | sort -u | complain "$1 -std=$2"
}
compile gcc c99
compile clang c11

# notes
awk 'FNR == 1 { open = 0 }
     /^{/ { open = 1; start = FNR; head = last }
     /^}/ { if (open && FNR - start > 60) print FILENAME ":" start ": " FNR - start " lines: " head; open = 0 }
     { last = $0 }' $sources > "$dir/long"
[ -s "$dir/long" ] && { echo "note: functions of more than 60 lines:"; sed 's/^/    /' "$dir/long"; }
if command -v gcc > /dev/null; then
    gcc -x c -O2 -DSEQMODEL_IMPLEMENTATION -DSEQMODEL_NO_SIMD -Wframe-larger-than=1024 -c seqmodel.h \
        -o "$dir/frames.o" 2>&1 | grep -oE 'the frame size of [0-9]+ bytes|In function .*' > "$dir/frames"
    [ -s "$dir/frames" ] && { echo "note: stack frames of more than 1024 bytes:"; sed 's/^/    /' "$dir/frames"; }
fi
[ -e "$dir/bad" ] && exit 1
echo "lint: nothing found"
