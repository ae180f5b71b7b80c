#!/bin/sh
# target_sizes.sh OUT.h: writes tools/target_sizes.h anew, a line for each machine whose compiler is there. An exit
# status of 77 means that some are missing.
out=$1
dir=${BUILD:-build}/firmware
mkdir -p "$dir"
status=0

# sizes FLAGS...: the numbers of tests/target_sizes.c in $dir/sizes.bin
sizes() {
    "${prefix}gcc" -O0 -w "$@" -c tests/target_sizes.c -o "$dir/sizes.o" &&
        "${prefix}objcopy" -O binary -j target_sizes "$dir/sizes.o" "$dir/sizes.bin"
}

# line NAME PREFIX FLAGS...: the sizes as the compiler PREFIXgcc sees them, and that of a model without tokenizer
line() {
    name=$1 prefix=$2
    shift 2
    command -v "${prefix}gcc" > /dev/null || { echo "${prefix}gcc is not installed" >&2; status=77; return; }
    sizes "$@" && mv "$dir/sizes.bin" "$dir/all_sizes.bin" && sizes "$@" -DSEQMODEL_NO_TOKENIZER || exit 1
    head -c 8 "$dir/sizes.bin" | tail -c 4 >> "$dir/all_sizes.bin"          # that of a model
    printf '{ "%s", {%s } },\n' "$name" "$(od -An -v -tu4 -w4 "$dir/all_sizes.bin" | awk '
        { text = (NR > 1 ? ", " : " ") $1; if (length(line text) > 90) { sub(/, $/, ",", line); print line ","
              line = "   "; sub(/^, /, " ", text) } line = line text } END { printf "%s", line }')"
}

{
    echo '/* target_sizes.h - written by tests/target_sizes.sh from tools/target_types.h: bytes on each machine */'
    line host "" ${HOST_FLAGS:-}
    line cortex-m arm-none-eabi- -mcpu=cortex-m3 -mthumb --specs=picolibc.specs
    line rv32 riscv64-unknown-elf- -march=rv32imac -mabi=ilp32 --specs=picolibc.specs
} > "$out"
exit $status
