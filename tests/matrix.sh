#!/bin/sh
# The build matrix: seqmodel.h under every compiler, standard and switch that is promised, what its object file
# exports, what its macros leave behind, and the same results from other processors. Prints PASS|FAIL|SKIP lines; a
# missing compiler is a SKIP. MODELS=dir (continuous integration) adds slower cases, MATRIX=full the slowest (all test
# programs under sanitizers and on other processors). ONLY=pattern runs the cases whose names match.
BUILD=${BUILD:-build}
dir=$BUILD/matrix
warnings="-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wcast-qual -Wundef -Wvla \
 -Wdouble-promotion -Wwrite-strings -Wformat=2 -Werror"
c_warnings="$warnings -Wstrict-prototypes -Wmissing-prototypes"
switches="NO_STDIO NO_MALLOC NO_SIMD NO_TOKENIZER NO_WRITER NO_ERROR_TEXT NO_MMAP Q8_ONLY STATIC"
all_switches=$(for s in $switches; do printf ' -DSEQMODEL_%s' "$s"; done)
m32="-m32 -msse2 -mfpmath=sse -idirafter /usr/include/$(gcc -print-multiarch 2> /dev/null)"
# not -O1, with which gcc takes minutes over the instrumented header; clang takes half of gcc's time
quick=$(command -v clang > /dev/null && echo clang -fno-sanitize=function || echo gcc)
san="-O0 -g -fsanitize=address,undefined -fno-sanitize-recover=all"

# zig is a program or the Python package ziglang
if ! command -v zig > /dev/null && python3 -c 'import ziglang' 2> /dev/null; then
    zig() { python3 -m ziglang "$@"; }
fi
export WINEDEBUG=-all
. tests/report.sh

# need PROGRAM...: ends the case as skipped when one is not installed
need() {
    for program in "$@"; do
        command -v "$program" > /dev/null || { echo "$program is not installed"; exit 77; }
    done
}

# need_link COMPILER FLAGS...: ends the case as skipped when the compiler cannot link a program with these flags
need_link() {
    need "$1"
    echo '#include <math.h>
    int main(int n, char **v) { (void)v; return sqrt(n) > 1e9; }' | "$@" -x c - -o "$dir/$job.probe" -lm 2> /dev/null ||
        { echo "$* cannot link a program"; exit 77; }
}

expect() { "$@" || { echo "failed: $*"; exit 1; }; }

# ---- one header, many compilers ------------------------------------------------------------------
# standard COMPILER STD: declarations alone and the implementation, every warning an error
standard() {
    need "$1"
    case $1 in
    *++) flags="$warnings -x c++" ;;
    *)   flags="$c_warnings -x c" ;;
    esac
    expect "$1" -std="$2" $flags -fsyntax-only "$dir/user.c"
    expect "$1" -std="$2" $flags -fsyntax-only "$dir/implementation.c"
}

# optimized COMPILER FLAGS...: warnings that only an optimizer finds
optimized() {
    need "$1"
    expect "$@" $c_warnings -c "$dir/implementation.c" -o "$dir/$job.o"
}

# the two ways that parts of a program share the header, and C++ callers of C code
linked() {
    need cc c++
    expect cc -DSEQMODEL_NO_SIMD -c "$dir/implementation.c" -o "$dir/linked.o"
    expect cc -c "$dir/user.c" -o "$dir/linked_c.o"
    expect c++ -x c++ -c -DUSER=user_of_cpp "$dir/user.c" -o "$dir/linked_cpp.o"
    expect cc "$dir/linked_main.c" "$dir/linked.o" "$dir/linked_c.o" "$dir/linked_cpp.o" -o "$dir/linked" -lm
    expect "$dir/linked"
}

# the header in a directory of its own name, under another name, and twice in a file
placed() {
    mkdir -p "$dir/include/sub"
    cp seqmodel.h "$dir/include/sub/seqmodel.h"
    cp seqmodel.h "$dir/include/sub/other.h"
    printf '#define SEQMODEL_IMPLEMENTATION\n#include "sub/seqmodel.h"\n#include <sub/seqmodel.h>\n' \
        > "$dir/sub.c"
    expect cc $c_warnings -I"$dir/include" -fsyntax-only "$dir/sub.c"
    printf '#define SEQMODEL_HEADER "other.h"\n#define SEQMODEL_IMPLEMENTATION\n#include "sub/other.h"\n' \
        > "$dir/other.c"
    expect cc $c_warnings -I"$dir/include" -fsyntax-only "$dir/other.c"
    printf '#include "sub/seqmodel.h"\n#define SEQMODEL_IMPLEMENTATION\n#include "sub/seqmodel.h"\n' \
        > "$dir/late.c"
    expect cc $c_warnings -I"$dir/include" -fsyntax-only "$dir/late.c"
}

# ---- switches ------------------------------------------------------------------------------------
# without OBJECT SYMBOLS...: the object must not refer to these
without() {
    object=$1
    shift
    nm -u "$object" > "$object.undefined"
    for symbol in "$@"; do
        ! grep -qw "$symbol" "$object.undefined" || { echo "the object file refers to $symbol"; exit 1; }
    done
}

# switch NAME: the header with SEQMODEL_NAME, under both compilers, and what the object file then does without
switch() {
    for cc in gcc clang; do
        command -v $cc > /dev/null || continue
        expect $cc $c_warnings -fsyntax-only -DSEQMODEL_"$1" "$dir/implementation.c"
    done
    expect cc -w -DSEQMODEL_NO_SIMD -DSEQMODEL_"$1" -c "$dir/implementation.c" -o "$dir/$job.o"
    case $1 in
    NO_STDIO)  without "$dir/$job.o" fopen fread fwrite fclose printf fprintf snprintf open mmap rename remove ;;
    NO_MALLOC) without "$dir/$job.o" malloc calloc realloc free ;;
    NO_MMAP)   without "$dir/$job.o" mmap munmap ;;
    STATIC)    if nm -g --defined-only "$dir/$job.o" | grep .; then exit 1; fi ;;
    esac
}

all_switches() {
    expect cc $c_warnings $all_switches -c "$dir/implementation.c" -o "$dir/$job.o"
    without "$dir/$job.o" fopen fread fwrite printf snprintf malloc calloc realloc free mmap
    if command -v c++ > /dev/null; then
        expect c++ -std=c++11 $warnings -x c++ -fsyntax-only $all_switches "$dir/implementation.c"
    fi
}

# ---- what the object file and the preprocessor show ----------------------------------------------
symbols() {                               # of the object file that the Makefile builds
    need nm
    object=$BUILD/seqmodel.o
    nm -g --defined-only "$object" | awk '$3 !~ /^sqm_[a-z]/ { print "exported: " $3; bad = 1 }
        END { exit bad }' || exit 1
    nm -f sysv "$object" | awk -F'|' '$7 ~ /^(\*COM|\.t?bss|\.t?data)/ && $7 !~ /^\.data\.rel\.ro/ {
        print "mutable data: " $1; bad = 1 } END { exit bad }' || exit 1
    # every function that the header declares is there, and no other
    cc -E -x c seqmodel.h | grep -o 'extern [^;{]*(' | sed 's/ *($//; s/.*[ *]//' | sort -u > "$dir/declared"
    nm -g --defined-only "$object" | awk '{ print $3 }' | sort -u > "$dir/defined"
    expect diff "$dir/declared" "$dir/defined"
}

macros() {
    for flags in "" "-fopenmp"; do
        for when in system implementation; do
            cc $flags -dM -E "$dir/$when.c" 2> /dev/null | sed 's/^#define \([A-Za-z0-9_]*\).*/\1/' |
                sort -u > "$dir/$when.macros"
        done
        left=$(comm -13 "$dir/system.macros" "$dir/implementation.macros" |
            grep -vE '^(SQM_[A-Z0-9]|SQMDEF$|SEQMODEL_|__need_)')    # __need_: leftovers of <stdarg.h>
        [ -z "$left" ] || { echo "macros left behind:"; echo "$left"; exit 1; }
    done
}

includes() {                              # the declarations need <stddef.h> and <stdint.h> only
    cc -E -x c seqmodel.h | grep -E '^# [0-9]+ "[^"]*/(stdio|stdlib|string|math)\.h"' && exit 1
    exit 0
}

# ---- other processors ----------------------------------------------------------------------------
# logits RUNNER COMPILER FLAGS...: exact logits of the bundled model, bit by bit those of the native program
logits() {
    runner=$1
    shift
    [ -z "$runner" ] || need "${runner%% *}"
    need_link "$@"
    [ -f examples/models/shakespeare.sqm ] || { echo "no bundled model"; exit 77; }
    expect "$@" tools/sqm-eval.c -o "$dir/$job.exe" -lm
    model=examples/models/shakespeare.sqm
    cut -d ' ' -f 1-40 tests/data/shakespeare.ids > "$dir/$job.ids"
    expect "$BUILD/sqm-eval" $model --ids "$dir/$job.ids" --exact --logits "$dir/$job.native"
    expect $runner "$dir/$job.exe" $model --ids "$dir/$job.ids" --exact --logits "$dir/$job.here"
    expect cmp "$dir/$job.native" "$dir/$job.here"
}

# refused RUNNER COMPILER FLAGS...: a machine that orders bytes the other way says so
refused() {
    need "$1"
    runner=$1
    shift
    need_link "$@"
    expect "$@" tools/sqm-eval.c -o "$dir/$job.exe" -lm
    $runner "$dir/$job.exe" examples/models/shakespeare.sqm --ids tests/data/shakespeare.ids > "$dir/$job.said" 2>&1
    [ $? = 1 ] && grep -q 'big-endian machines are not supported' "$dir/$job.said" || { cat "$dir/$job.said"; exit 1; }
}

# crossed TARGET: compiles for another system, every warning an error
crossed() {
    need zig
    expect zig cc --target="$1" $c_warnings -O0 -c "$dir/implementation.c" -o "$dir/$job.o"
}

# what cl.exe would refuse, as far as clang's imitation of it knows; its own headers are not at hand
msvc() {
    need clang
    mkdir -p "$dir/msvc"
    cat > "$dir/msvc/string.h" <<END
#include <stddef.h>
void *memcpy(void *, const void *, size_t);
void *memmove(void *, const void *, size_t);
void *memset(void *, int, size_t);
void *memchr(const void *, int, size_t);
int memcmp(const void *, const void *, size_t);
size_t strlen(const char *);
int strcmp(const char *, const char *);
int strncmp(const char *, const char *, size_t);
char *strchr(const char *, int);
char *strstr(const char *, const char *);
END
    echo 'float sqrtf(float);' > "$dir/msvc/math.h"
    for f in log exp sin cos tan sqrt fabs floor ceil log2 log1p expm1 tanh erf rint round; do
        echo "double $f(double);" >> "$dir/msvc/math.h"
    done
    echo 'double pow(double, double); double fmod(double, double); double ldexp(double, int);' >> "$dir/msvc/math.h"
    expect clang --target=x86_64-pc-windows-msvc -fms-extensions -fms-compatibility-version=19.20 -ffreestanding \
        -isystem "$dir/msvc" -DSEQMODEL_NO_STDIO -DSEQMODEL_NO_MALLOC -std=c11 $warnings -Wgnu -Wno-unused-function \
        -fsyntax-only "$dir/implementation.c"
}

# tests RUNNER "PROGRAMS" COMPILER FLAGS...: builds and runs test programs
tests() {
    runner=$1 programs=$2
    shift 2
    [ -z "$runner" ] || need "${runner%% *}"
    need_link "$@"
    for name in $programs; do
        [ -f "tests/$name.c" ] || continue
        mkdir -p "$dir/$job.tmp"
        expect "$@" -DTEST_TMP="\"$dir/$job.tmp/\"" "tests/$name.c" -o "$dir/$job.tmp/$name" -lm
        $runner "$dir/$job.tmp/$name"
        status=$?
        [ $status = 0 ] || [ $status = 77 ] || { echo "$name: status $status"; exit 1; }
    done
}

wasi="node tests/wasi.mjs" wasm="--target=wasm32-wasi -mcpu=generic+simd128"
every_test=$(ls tests/test_*.c | sed 's|tests/\(.*\)\.c|\1|')

# ---- the list of cases ---------------------------------------------------------------------------
list() {
    for std in c99 c11 c17; do
        echo "gcc-$std standard gcc $std"
        echo "clang-$std standard clang $std"
    done
    for std in c++11 c++17; do
        echo "g++-$std standard g++ $std"
        echo "clang++-$std standard clang++ $std"
    done
    echo "linked linked"
    echo "placed placed"
    for s in $switches; do echo "$s switch $s"; done
    echo "all-switches all_switches"
    echo "symbols symbols"
    echo "macros macros"
    echo "includes includes"
    echo "small tests '' 'test_kern' gcc -Os"
    echo "m32 tests '' 'test_file' gcc $m32 -O0"
    echo "m32-logits logits '' gcc $m32 -O1"
    echo "arm-logits logits qemu-arm arm-linux-gnueabihf-gcc -static -O1"
    echo "aarch64-logits logits qemu-aarch64 aarch64-linux-gnu-gcc -static -O1"
    echo "tcc-logits logits '' tcc"
    echo "msvc msvc"
    echo "s390x refused qemu-s390x s390x-linux-gnu-gcc -static"
    echo "mips refused qemu-mips mips-linux-gnu-gcc -static"
    echo "x86_64-windows-gnu crossed x86_64-windows-gnu"
    echo "aarch64-macos crossed aarch64-macos"
    echo "sanitized tests '' 'test_file' $quick $san -DSEQMODEL_NO_SIMD"
    [ "$MATRIX" = full ] || [ -n "$MODELS" ] || return
    echo "m32-sessions tests '' 'test_sess' gcc $m32 -O1"
    echo "windows-logits logits wine zig cc --target=x86_64-windows-gnu -O0"
    echo "wasm tests '$wasi' test_kern zig cc $wasm -O1"
    echo "aarch64-windows-gnu crossed aarch64-windows-gnu"
    echo "x86_64-macos crossed x86_64-macos"
    [ "$MATRIX" = full ] || return
    echo "gcc-O3 optimized gcc -O3"
    echo "clang-O2 optimized clang -O2"
    echo "wasm-logits logits '$wasi' zig cc $wasm -O1"
    echo "fast-math tests '' 'test_sess test_gen' gcc -O2 -ffast-math"
    echo "m32-all tests '' '$every_test' gcc $m32 -O1"
    echo "aarch64 tests qemu-aarch64 'test_type test_kern test_ops test_sess' aarch64-linux-gnu-gcc -O2 -static"
    echo "gcc-sanitized tests '' '$every_test' gcc $san"
    echo "clang-sanitized tests '' '$every_test' clang $san -fno-sanitize=function"
    echo "clang-tests tests '' '$every_test' clang -O2"
}

prepare() {
    mkdir -p "$dir"
    printf '#define SEQMODEL_IMPLEMENTATION\n#include "%s/seqmodel.h"\n' "$PWD" > "$dir/implementation.c"
    cat > "$dir/user.c" <<END
#include "$PWD/seqmodel.h"
#include "$PWD/seqmodel.h"
#ifndef USER
#define USER user_of_c
#endif
#ifdef __cplusplus
extern "C"
#endif
const char *USER(void);
const char *USER(void) { return sqm_version(); }
END
    cat > "$dir/linked_main.c" <<END
#include "$PWD/seqmodel.h"
#include <string.h>
const char *user_of_c(void);
const char *user_of_cpp(void);
int main(void) { return strcmp(user_of_c(), user_of_cpp()) != 0 || user_of_c() != sqm_version(); }
END
    # what the implementation includes from the system, and so may define
    { echo '#include <stddef.h>'
      grep -oE '# *include <[^>]*>' seqmodel.h | sort -u |
          sed 's/# *include <\(.*\)>/#if __has_include(<\1>)\n#include <\1>\n#endif/'
    } | grep -v arm_neon > "$dir/system.c"
}

if [ "$1" = --job ]; then
    job=$2
    eval "set -- $(list | grep "^$job " | head -n 1)"
    shift
    ( "$@" ) > "$dir/$job.log" 2>&1
    report $? "$job" "$dir/$job.log" 25
    exit 0
fi
rm -rf "$dir"
prepare
list | cut -d ' ' -f 1 | grep -E "${ONLY:-.}" |
    xargs -P "$(nproc 2> /dev/null || echo 2)" -I NAME sh "$0" --job NAME > "$dir/results"
cat "$dir/results"
! grep -q '^FAIL' "$dir/results"
