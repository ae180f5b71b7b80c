# seqmodel.h: everything here is plain C; a compiler and make are enough.   make help
CFLAGS  ?= -O2
BUILD   ?= build
MODEL   ?= examples/models/shakespeare.sqm
PROMPT  ?= ROMEO:
DATA    ?=
MODELS  ?=

# as many compilers at once as there are processors, unless -j says otherwise
ifeq (,$(findstring j,$(firstword -$(MAKEFLAGS))))
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 2)
endif

# -fopenmp when this compiler has it (OPENMP= on the command line: without)
ifndef OPENMP
probe  := printf '\043include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n'
OPENMP := $(shell mkdir -p $(BUILD) && $(probe) | $(CC) $(CFLAGS) -fopenmp -x c - -o $(BUILD)/probe.$$$$ 2>/dev/null \
            && rm -f $(BUILD)/probe.$$$$ && echo -fopenmp)
endif

# The implementation takes half a minute to compile. Programs that use only the public API share one object file (the
# macro SEQMODEL_IMPLEMENTED tells them); of the others, those that run no kernels leave the SIMD passes out.
linked  := $(filter-out tools/sqm-vectors.c $(shell grep -l 'sqm__\|include "../tools' tools/sqm-*.c tests/*.c), \
             $(wildcard tools/sqm-*.c examples/*.c tests/test_*.c tests/fuzz_*.c))
scalar  := $(addprefix tools/sqm-,info.c embed.c tokenize.c) \
           $(addprefix tests/test_,convert.c file.c gen.c mix_bias.c mixers.c soak.c tok.c type.c) \
           tests/fuzz_open.c tests/fuzz_tok.c
share    = $(if $(filter $<,$(linked)),-DSEQMODEL_IMPLEMENTED,$(if $(filter $<,$(scalar)),-DSEQMODEL_NO_SIMD -O1))
build    = $(CC) $(CPPFLAGS) $(CFLAGS) $(OPENMP) $(LDFLAGS) $(share) $< $(filter %.o,$^) -o $@ -lm

tools    := $(patsubst tools/%.c,$(BUILD)/%,$(wildcard tools/sqm-*.c))
examples := $(patsubst examples/%.c,$(BUILD)/%,$(wildcard examples/*.c))
tests    := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
fuzzers  := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/fuzz_*.c))
programs := $(tools) $(examples) $(tests) $(fuzzers)
objects  := $(foreach source,$(linked),$(filter %/$(basename $(notdir $(source))),$(programs)))
tool_headers := $(wildcard tools/*.h tools/*/*.h)

.PHONY: all run programs test tokenizers matrix firmware bench lint asan ubsan fuzz fuzz-programs clean help force
.DELETE_ON_ERROR:

all: $(tools) $(examples)

$(BUILD)/seqmodel.o: seqmodel.h $(BUILD)/flags
	$(CC) $(CPPFLAGS) $(CFLAGS) $(OPENMP) -DSEQMODEL_IMPLEMENTATION -x c -c $< -o $@

$(BUILD)/convert.o: tools/convert.c seqmodel.h $(tool_headers) $(BUILD)/flags
	$(CC) $(CPPFLAGS) $(CFLAGS) -O1 -c $< -o $@

$(objects): $(BUILD)/seqmodel.o
$(BUILD)/sqm-convert $(BUILD)/sqm-check: $(BUILD)/convert.o

$(tools): $(BUILD)/%: tools/%.c seqmodel.h $(tool_headers) $(BUILD)/flags
	$(build)

$(examples): $(BUILD)/%: examples/%.c seqmodel.h $(BUILD)/flags
	$(build)

$(tests) $(fuzzers): $(BUILD)/tests/%: tests/%.c seqmodel.h $(wildcard tests/*.h) $(tool_headers) $(BUILD)/flags
	@mkdir -p $(@D)
	$(build) -DTEST_TMP='"$(BUILD)/tests/"'

# changes when the compiler or its flags change, so that everything is built again
$(BUILD)/flags: force
	@mkdir -p $(BUILD)
	@echo '$(CC) $(CPPFLAGS) $(CFLAGS) $(OPENMP) $(LDFLAGS)' | cmp -s - $@ || \
	 echo '$(CC) $(CPPFLAGS) $(CFLAGS) $(OPENMP) $(LDFLAGS)' > $@

run: $(BUILD)/generate
	$(BUILD)/generate $(MODEL) "$(PROMPT)" -n 400 --temp 0.8 --echo

programs: $(tests)

test: all programs
	BUILD=$(BUILD) CC="$(CC)" OPENMP="$(OPENMP)" DATA="$(DATA)" MODELS="$(MODELS)" sh tests/run.sh

tokenizers: $(BUILD)/tests/test_tok
	BUILD=$(BUILD) DATA="$(DATA)" sh tests/run.sh tokenizers

matrix:
	BUILD=$(BUILD) sh tests/matrix.sh

firmware: $(BUILD)/seqmodel.o $(BUILD)/sqm-info $(BUILD)/sqm-embed
	BUILD=$(BUILD) CC="$(CC)" OPENMP="$(OPENMP)" sh tests/firmware.sh

bench: all
	$(BUILD)/sqm-bench $(MODEL)

lint:
	BUILD=$(BUILD) sh tests/lint.sh

# the test programs under a sanitizer, each in a build directory of its own
asan:
	$(MAKE) BUILD=$(BUILD)/asan CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=address" programs
	BUILD=$(BUILD)/asan sh tests/run.sh programs

ubsan:
	$(MAKE) BUILD=$(BUILD)/ubsan CFLAGS="-O1 -g -fsanitize=undefined -fno-sanitize-recover=all" programs
	BUILD=$(BUILD)/ubsan sh tests/run.sh programs

# N randomly damaged copies of a weight file, under both sanitizers
N ?= 2000
fuzz:
	$(MAKE) BUILD=$(BUILD)/fuzz CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all" fuzz-programs
	for f in $(notdir $(fuzzers)); do $(BUILD)/fuzz/tests/$$f --mutate $(N) $(MODEL) || exit 1; done

fuzz-programs: $(fuzzers)

clean:
	rm -rf $(BUILD)

help:
	@echo 'make               every tool and example into $(BUILD)/   (CC=$(CC) CFLAGS="$(CFLAGS)" OPENMP=$(OPENMP))'
	@echo 'make run           text from the small model in examples/models   (PROMPT="JULIET:" MODEL=other.sqm)'
	@echo 'make test          the self-contained test suite; DATA=dir adds the larger data, MODELS=dir real models'
	@echo 'make tokenizers    only the reference tokenizers: DATA=dir, and SQM_TOKENIZERS=dir in the environment'
	@echo 'make matrix        only the build matrix: compilers, standards, switches, symbols, other processors'
	@echo 'make firmware      the examples for Cortex-M and RV32, built, run in QEMU and compared; their memory and speed'
	@echo 'make bench         speed of MODEL, with the roofline of this machine'
	@echo 'make lint          layout of the sources, and every warning as an error'
	@echo 'make asan ubsan    the test programs under a sanitizer'
	@echo 'make fuzz          damaged weight files; N=$(N) of them'
	@echo 'make clean         removes $(BUILD)/'
