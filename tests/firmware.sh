#!/bin/sh
# firmware.sh - builds examples/firmware for microcontrollers, runs it in QEMU, compares text and logits with those of
# this machine and shows what it takes: one line a case (PASS, FAIL, SKIP), then a table. `make firmware` calls it.
#   TEXT_MODEL, STREAM_MODEL   weight files to run, instead of those in examples/models
#   TEXT_CONTEXT, TEXT_PROMPT  longest context, ids of the prompt
BUILD=${BUILD:-build}
text_model=${TEXT_MODEL:-examples/models/shakespeare.sqm}
stream_model=${STREAM_MODEL:-examples/models/keywords.sqm}
context=${TEXT_CONTEXT:-128}
prompt=${TEXT_PROMPT:-82,79,77,69,79,58}
dir=$BUILD/firmware
mkdir -p "$dir"

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

# headers PROGRAM WHERE TARGET: memory.h and model.h
headers() {
    mkdir -p "$2"
    case $1 in
    text) "$BUILD/sqm-info" "$text_model" --target "$3" -c "$context" -b 1 --kv q8 > "$2/memory.h" &&
          "$BUILD/sqm-embed" "$text_model" -n model -o "$2/model.h" ;;
    *)    "$BUILD/sqm-info" "$stream_model" --target "$3" -b 1 > "$2/memory.h" &&
          "$BUILD/sqm-embed" "$stream_model" -n model -o "$2/model.h" ;;
    esac
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

# build PROGRAM FLAGS...: $here/PROGRAM.elf from the headers there; prints why not
build() {
    unit=$1
    shift
    { ${tools}gcc -Os -Wall -Wextra -Werror -ffunction-sections -fdata-sections $cpu $defines -DCONTEXT="$context" \
          -DPROMPT="$prompt" "$@" -I"$here" --specs=picolibc.specs -c "examples/firmware/$unit.c" -o "$here/$unit.o" &&
      ${tools}gcc $cpu $link "$here/$unit.o" -o "$here/$unit.elf" --specs=picolibc.specs --oslib=semihost \
          --crt0=hosted -Wl,--gc-sections -Wl,-Map="$here/$unit.map" -lm; } > "$here/build.log" 2>&1 ||
        { head -n 20 "$here/build.log"; return 1; }
}

# run PROGRAM BOARD: builds and runs; leaves out.txt in its directory. Prints why not.
run() {
    here=$dir/$1-$2
    headers "$1" "$here" $target || return 1
    build "$1" || return 1
    set -- "$1" "$2" $machine
    if [ -n "$weights" ]; then
        ${tools}objcopy -O binary -j .weights "$here/$1.elf" "$here/weights.bin"
        set -- "$@" -device "loader,addr=$weights,file=$here/weights.bin"
    fi
    program=$1
    shift 2
    timeout 300 $qemu "$@" -nographic -monitor none -serial none -icount shift=0 \
        -semihosting-config enable=on,target=native -kernel "$here/$program.elf" > "$here/out.txt" 2>&1 < /dev/null ||
        { echo "status $?"; tail -n 5 "$here/out.txt"; return 1; }
    ! grep FAIL "$here/out.txt" || return 1
    [ "$(said "$here/out.txt")" = "$(said "$dir/$program-host/out.txt")" ] ||
        { echo "text or logits differ from this machine's"; return 1; }
}

failed=0
rm -f "$dir/table"
for program in text stream; do
    here=$dir/$program-host
    headers $program "$here" host &&
        ${CC:-cc} -O1 -DHOST -DCONTEXT="$context" -DPROMPT="$prompt" -I"$here" "examples/firmware/$program.c" \
            "$BUILD/seqmodel.o" -o "$here/$program" $OPENMP -lm && "$here/$program" > "$here/out.txt" &&
        ! grep FAIL "$here/out.txt" || { echo "FAIL $program-host"; failed=1; continue; }
    said "$here/out.txt"
    for name in M3 M7 M55 RV32; do
        board $name
        lacks=$(missing)
        if [ -n "$lacks" ]; then
            echo "SKIP $program-$name: $lacks is not installed"
        elif run $program $name; then
            echo "PASS $program-$name"
            here=$dir/$program-$name
            sed -n 's/^#define [A-Z]*_BYTES //p' "$here/memory.h" | tr '\n' ' ' > "$here/row"
            sed -n 's/^instructions \(.*\) stack \(.*\)/\1 \2/p' "$here/out.txt" >> "$here/row"
            echo "$program $name $(library_bytes "$here/$program.map" "$here/$program.o")" | cat - "$here/row" |
                tr '\n' ' ' | sed 's/$/\n/' >> "$dir/table"
        else
            echo "FAIL $program-$name"
            failed=1
        fi
    done
done

# The code of a Mamba model that reads rows: no small one is at hand, so the program is only linked.
for name in M3 M7 M55 RV32; do
    board $name
    [ -z "$(missing)" ] || continue
    here=$dir/mamba-$name
    mkdir -p "$here"
    printf '#define MODEL_BYTES 16\n#define SESSION_BYTES 64\n' > "$here/memory.h"
    cat > "$here/model.h" <<'END'
#define MODEL_OPS sqm_op_input(), sqm_op_norm(), sqm_op_linear(), sqm_op_mix(), sqm_op_cat(), sqm_op_gate(), \
                  sqm_op_head(), NULL
#define MODEL_MIXERS sqm_mixer_conv(), sqm_mixer_scan(), NULL
static const unsigned char model[64] = { 0 };
END
    if build stream -DSEQMODEL_NO_TOKENIZER; then
        echo "PASS mamba-$name: links"
        echo "mamba $name $(library_bytes "$here/stream.map" "$here/stream.o") 0 0 0 0" >> "$dir/table"
    else
        echo "FAIL mamba-$name"
        failed=1
    fi
done

if sh tests/target_sizes.sh "$dir/target_sizes.h" 2> /dev/null; then
    if cmp -s "$dir/target_sizes.h" tools/target_sizes.h; then echo "PASS target-sizes"
    else echo "FAIL target-sizes: run sh tests/target_sizes.sh tools/target_sizes.h"; failed=1; fi
else
    echo "SKIP target-sizes: a cross compiler is not installed"
fi

[ ! -f "$dir/table" ] || awk '
    BEGIN { printf "\n%-7s %-5s %10s %12s %14s %8s %16s\n", "program", "core", "library", "model index", "session",
                   "stack", "instructions"
            printf "%-7s %-5s %10s %12s %14s %8s %16s\n", "", "", "bytes flash", "bytes RAM", "bytes RAM", "bytes",
                   "a token or row" }
    $4 == 0 { printf "%-7s %-5s %10d\n", $1, $2, $3; next }
    { printf "%-7s %-5s %10d %12d %14d %8d %16d\n", $1, $2, $3, $4, $5, $7, $6 }' "$dir/table"
exit $failed
