#!/bin/sh
# firmware.sh - builds examples/firmware for microcontrollers, runs it in QEMU, compares text and logits with those of
# this machine and shows what it takes: one line a case (PASS, FAIL, SKIP), then a table. `make firmware` calls it.
#   TEXT_MODEL, STREAM_MODEL   weight files to run, instead of those in examples/models
#   TEXT_CONTEXT, TEXT_PROMPT  longest context, ids of the prompt
#   DATA=dir                   also its stories260K, with attention caches of 8 and of 4 bits
BUILD=${BUILD:-build}
dir=$BUILD/firmware
stories=${DATA:+$DATA/real/models/stories260k}
mkdir -p "$dir"

# program NAME: its source, model and options
program() {
    unit=text model=examples/models/$1.sqm flags= kv=q8 boards='M3 M7 M55 RV32'
    context=${TEXT_CONTEXT:-128} prompt=${TEXT_PROMPT:-82,79,77,69,79,58}
    case $1 in
    text)      model=${TEXT_MODEL:-examples/models/shakespeare.sqm} ;;
    mamba)     flags=-DBYTES ;;
    stream)    unit=stream model=${STREAM_MODEL:-examples/models/keywords.sqm} ;;
    stories-*) model=$dir/stories.sqm kv=${1#*-} boards=M7 context=256 prompt=1 ;;
    esac
    flags="$flags -DCONTEXT=$context -DPROMPT=$prompt -DKV=SQM_KV_$(echo "$kv" | tr q Q)"
}

# board NAME: how to compile for it, and to run it. Arm: flash at 0, memory at 0x20000000; the M55 has the weights in
# a memory of their own
board() {
    tools=arm-none-eabi- target=cortex-m qemu=qemu-system-arm weights=
    link='-Wl,--defsym=__flash=0 -Wl,--defsym=__ram=0x20000000'
    large='-Wl,--defsym=__flash_size=0x400000 -Wl,--defsym=__ram_size=0x400000'
    defines=-DCLOCK_HZ=25000000
    case $1 in
    M3)  cpu='-mthumb -mcpu=cortex-m3' machine='-M mps2-an385' link="$link $large" ;;
    M7)  cpu='-mthumb -mcpu=cortex-m7 -mfpu=fpv5-d16 -mfloat-abi=hard' machine='-M mps2-an500' link="$link $large" ;;
    M55) cpu='-mthumb -mcpu=cortex-m55 -mfloat-abi=hard' machine='-M mps3-an547' weights=0x01000000
         defines='-DCLOCK_HZ=32000000 -DSQM_EMBED_SECTION=".weights"'
         link="$link -T examples/firmware/weights.ld -Wl,--defsym=__weights=$weights
               -Wl,--defsym=__flash_size=0x80000 -Wl,--defsym=__ram_size=0x80000" ;;
    RV32) tools=riscv64-unknown-elf- target=rv32 qemu=qemu-system-riscv32 defines=
         cpu='-march=rv32imac -mabi=ilp32 -mcmodel=medany' machine='-M virt -cpu rv32,f=false,d=false -bios none'
         link="-Wl,--defsym=__flash=0x80000000 -Wl,--defsym=__ram=0x80400000 $large" ;;
    esac
}
# missing: what the board needs and this machine has not; nothing: all is there
missing() {
    command -v "${tools}gcc" > /dev/null || { echo "${tools}gcc"; return; }
    "${tools}gcc" --specs=picolibc.specs -E -x c /dev/null > /dev/null 2>&1 || echo "picolibc for ${tools}gcc"
    command -v $qemu > /dev/null || echo $qemu
}

# headers WHERE TARGET: memory.h and model.h
headers() {
    mkdir -p "$1"
    growth=
    [ $unit = stream ] || growth="-c $context --kv $kv"
    "$BUILD/sqm-info" "$model" --target "$2" -b 1 $growth > "$1/memory.h" &&
        "$BUILD/sqm-embed" "$model" -n model -o "$1/model.h"
}

# library_bytes MAP OBJECT: code and constants that OBJECT brought into a program; all of the library, without main and
# the weights
library_bytes() {
    awk -v object="$2" '
        function hex(s,  i, n) {
            for (i = 3; i <= length(s); i++) n = n * 16 + index("0123456789abcdef", substr(s, i, 1)) - 1
            return n
        }
        /^Linker script and memory map/ { on = 1 }
        /^ \.[^ ]+$/ { section = $1; getline; $0 = section " " $0 }
        on && $4 == object && $1 ~ /^\.(text|rodata)/ && $1 !~ /main|rodata\.model|stack_/ { sum += hex($3) }
        END { print sum }' "$1"
}

# said FILE: the lines that must be the same everywhere
said() { sed -n '/^text /,/^logits /p' "$1"; }

# build: $here/$unit.elf from the headers there; prints why not
build() {
    { ${tools}gcc -Os -Wall -Wextra -Werror -ffunction-sections -fdata-sections $cpu $defines $flags -I"$here" \
          --specs=picolibc.specs -c "examples/firmware/$unit.c" -o "$here/$unit.o" &&
      ${tools}gcc $cpu $link "$here/$unit.o" -o "$here/$unit.elf" --specs=picolibc.specs --oslib=semihost \
          --crt0=hosted -Wl,--gc-sections -Wl,-Map="$here/$unit.map" -lm; } > "$here/build.log" 2>&1 ||
        { head -n 20 "$here/build.log"; return 1; }
}

# run NAME: builds and runs the program on the board; leaves out.txt in $here. Prints why not.
run() {
    headers "$here" $target || return 1
    build || return 1
    set -- "$1" $machine
    if [ -n "$weights" ]; then
        ${tools}objcopy -O binary -j .weights "$here/$unit.elf" "$here/weights.bin"
        set -- "$@" -device "loader,addr=$weights,file=$here/weights.bin"
    fi
    name=$1
    shift
    timeout 300 $qemu "$@" -nographic -monitor none -serial none -icount shift=0 \
        -semihosting-config enable=on,target=native -kernel "$here/$unit.elf" > "$here/out.txt" 2>&1 < /dev/null ||
        { echo "status $?"; tail -n 5 "$here/out.txt"; return 1; }
    ! grep FAIL "$here/out.txt" || return 1
    [ "$(said "$here/out.txt")" = "$(said "$dir/$name-host/out.txt")" ] ||
        { echo "text or logits differ from this machine's"; return 1; }
}

failed=0
rm -f "$dir/table"
programs='text mamba stream'
if [ -d "$stories" ]; then
    "$BUILD/sqm-convert" "$stories/stories260K.bin" --tokenizer "$stories/tok512.bin" -t q8 -o "$dir/stories.sqm" \
        > "$dir/convert.log" 2>&1 && programs="$programs stories-q8 stories-q4" ||
        { echo "FAIL stories: see $dir/convert.log"; failed=1; }
fi
for name in $programs; do
    program "$name"
    here=$dir/$name-host
    headers "$here" host &&
        ${CC:-cc} -O1 -DHOST $flags -I"$here" "examples/firmware/$unit.c" "$BUILD/seqmodel.o" -o "$here/$unit" \
            $OPENMP -lm && "$here/$unit" > "$here/out.txt" &&
        ! grep FAIL "$here/out.txt" || { echo "FAIL $name-host"; failed=1; continue; }
    said "$here/out.txt"
    for board in $boards; do
        board "$board"
        here=$dir/$name-$board
        lacks=$(missing)
        if [ -n "$lacks" ]; then
            echo "SKIP $name-$board: $lacks is not installed"
        elif run "$name"; then
            echo "PASS $name-$board"
            sed -n 's/^memory model \(.*\) session \(.*\), a byte.*/\1 \2/p' "$here/out.txt" > "$here/row"
            sed -n 's/^instructions \(.*\) stack \(.*\)/\1 \2/p' "$here/out.txt" >> "$here/row"
            echo "$name $board $(library_bytes "$here/$unit.map" "$here/$unit.o")" | cat - "$here/row" |
                tr '\n' ' ' | sed 's/$/\n/' >> "$dir/table"
        else
            echo "FAIL $name-$board"
            failed=1
        fi
    done
done

if sh tests/target_sizes.sh "$dir/target_sizes.h" 2> /dev/null; then
    if cmp -s "$dir/target_sizes.h" tools/target_sizes.h; then echo "PASS target-sizes"
    else echo "FAIL target-sizes: run sh tests/target_sizes.sh tools/target_sizes.h"; failed=1; fi
else
    echo "SKIP target-sizes: a cross compiler is not installed"
fi

[ ! -f "$dir/table" ] || awk '
    BEGIN { printf "\n%-10s %-5s %10s %12s %14s %8s %16s\n", "program", "core", "library", "model index", "session",
                   "stack", "instructions"
            printf "%-10s %-5s %10s %12s %14s %8s %16s\n", "", "", "bytes flash", "bytes RAM", "bytes RAM", "bytes",
                   "a token or row" }
    { printf "%-10s %-5s %10d %12d %14d %8d %16d\n", $1, $2, $3, $4, $5, $7, $6 }' "$dir/table"
exit $failed
