# seqmodel.h: everything here is plain C; a compiler and make are enough.   make help
CFLAGS  ?= -O2
BUILD   ?= build
MODEL   ?= examples/models/shakespeare.sqm
PROMPT  ?= ROMEO:
DATA    ?=
MODELS  ?=

# -fopenmp when this compiler has it (OPENMP= on the command line: without)
ifndef OPENMP
probe  := printf '\043include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n'
OPENMP := $(shell mkdir -p $(BUILD) && $(probe) | $(CC) $(CFLAGS) -fopenmp -x c - -o $(BUILD)/probe.$$$$ 2>/dev/null \
            && rm -f $(BUILD)/probe.$$$$ && echo -fopenmp)
endif
compile  = $(CC) $(CPPFLAGS) $(CFLAGS) $(OPENMP) $(LDFLAGS) $< -o $@ -lm

tools    := $(patsubst tools/%.c,$(BUILD)/%,$(wildcard tools/sqm-*.c))
examples := $(patsubst examples/%.c,$(BUILD)/%,$(wildcard examples/*.c))
tests    := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
fuzzers  := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
tool_headers := $(wildcard tools/*.h tools/*/*.h)

.PHONY: all run programs test matrix bench lint asan ubsan fuzz clean help force
.DELETE_ON_ERROR:

all: $(tools) $(examples)

$(tools): $(BUILD)/%: tools/%.c seqmodel.h $(tool_headers) $(BUILD)/flags
	$(compile)

$(examples): $(BUILD)/%: examples/%.c seqmodel.h $(BUILD)/flags
	$(compile)

$(tests): $(BUILD)/tests/%: tests/%.c seqmodel.h $(wildcard tests/*.h) $(tool_headers) $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -DTEST_TMP='"$(BUILD)/tests/"' $(CFLAGS) $(OPENMP) $(LDFLAGS) $< -o $@ -lm

$(fuzzers): $(BUILD)/fuzz/%: tests/fuzz/%.c seqmodel.h $(wildcard tests/fuzz/*.h) $(BUILD)/flags
	@mkdir -p $(@D)
	$(compile)

# changes when the compiler or its flags change, so that everything is built again
$(BUILD)/flags: force
	@mkdir -p $(BUILD)
	@echo '$(CC) $(CPPFLAGS) $(CFLAGS) $(OPENMP) $(LDFLAGS)' | cmp -s - $@ || \
	 echo '$(CC) $(CPPFLAGS) $(CFLAGS) $(OPENMP) $(LDFLAGS)' > $@

run: $(BUILD)/generate
	$(BUILD)/generate $(MODEL) "$(PROMPT)" -n 400 --temp 0.8 --echo

programs: $(tests)

test: all programs
	BUILD=$(BUILD) CC="$(CC)" DATA="$(DATA)" MODELS="$(MODELS)" sh tests/run.sh

matrix:
	BUILD=$(BUILD) sh tests/matrix.sh

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

# SECONDS_EACH of random damage to weight files, token tables and recipes, under both sanitizers
SECONDS_EACH ?= 30
fuzz:
	$(MAKE) BUILD=$(BUILD)/fuzzing CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all" fuzz-programs
	for f in $(notdir $(fuzzers)); do $(BUILD)/fuzzing/fuzz/$$f $(SECONDS_EACH) $(MODEL) || exit 1; done

.PHONY: fuzz-programs
fuzz-programs: $(fuzzers)

clean:
	rm -rf $(BUILD)

help:
	@echo 'make               every tool and example into $(BUILD)/   (CC=$(CC) CFLAGS="$(CFLAGS)" OPENMP=$(OPENMP))'
	@echo 'make run           text from the small model in examples/models   (PROMPT="JULIET:" MODEL=other.sqm)'
	@echo 'make test          the self-contained test suite; DATA=dir adds the larger data, MODELS=dir real models'
	@echo 'make matrix        only the build matrix: compilers, standards, switches, symbols, other processors'
	@echo 'make bench         speed of MODEL, with the roofline of this machine'
	@echo 'make lint          layout of the sources, and every warning as an error'
	@echo 'make asan ubsan    the test programs under a sanitizer'
	@echo 'make fuzz          damaged weight files, token tables and recipes; SECONDS_EACH=$(SECONDS_EACH)'
	@echo 'make clean         removes $(BUILD)/'
