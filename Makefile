# seqmodel.h: everything here is plain C; a compiler and make are enough.   make help
CFLAGS  ?= -O2
BUILD   ?= build
MODEL   ?= examples/models/shakespeare.sqm
PROMPT  ?= ROMEO:
DATA    ?=
MODELS  ?=
ZIG     ?= $(shell command -v zig || echo python3 -m ziglang)

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
           $(addprefix tests/test_,convert.c decode.c file.c gen.c grammar.c mix_bias.c mixers.c soak.c tok.c type.c) \
           $(wildcard tests/fuzz_*.c)
share    = $(if $(filter $<,$(linked)),-DSEQMODEL_IMPLEMENTED,$(if $(filter $<,$(scalar)),-DSEQMODEL_NO_SIMD -O1))
build    = $(CC) $(CPPFLAGS) $(CFLAGS) $(OPENMP) $(LDFLAGS) $(share) $< $(filter %.o,$^) -o $@ -lm

tools    := $(patsubst tools/%.c,$(BUILD)/%,$(wildcard tools/sqm-*.c))
# examples/01_story.c is built as story
example   = $(lastword $(subst _, ,$(basename $(notdir $(1)))))
examples := $(foreach source,$(wildcard examples/*.c),$(BUILD)/$(call example,$(source)))
tests    := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
fuzzers  := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/fuzz_*.c))
programs := $(tools) $(examples) $(tests) $(fuzzers)
objects  := $(foreach source,$(linked),$(filter %/$(basename $(notdir $(source))),$(programs))) $(examples)
tool_headers := $(wildcard tools/*.h tools/*/*.h)

.PHONY: all run compare web programs test examples-test tokenizers matrix firmware bench lint asan ubsan fuzz \
        fuzz-programs clean help force
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

.SECONDEXPANSION:
$(examples): $(BUILD)/%: $$(wildcard examples/*_%.c examples/%.c) seqmodel.h $(BUILD)/flags
	$(build)

$(tests) $(fuzzers): $(BUILD)/tests/%: tests/%.c seqmodel.h $(wildcard tests/*.h) $(tool_headers) $(BUILD)/flags
	@mkdir -p $(@D)
	$(build) -DTEST_TMP='"$(BUILD)/tests/"'

# changes when the compiler or its flags change, so that everything is built again
$(BUILD)/flags: force
	@mkdir -p $(BUILD)
	@echo '$(CC) $(CPPFLAGS) $(CFLAGS) $(OPENMP) $(LDFLAGS)' | cmp -s - $@ || \
	 echo '$(CC) $(CPPFLAGS) $(CFLAGS) $(OPENMP) $(LDFLAGS)' > $@

# the page of examples/web: for a server; embedded.js has the same once more for a page opened as a file
web_files := $(addprefix $(BUILD)/web/,index.html seqmodel.js seqmodel.wasm model.sqm embedded.js)
web: $(web_files)

$(BUILD)/web/index.html $(BUILD)/web/seqmodel.js: $(BUILD)/web/%: examples/web/%
	@mkdir -p $(@D)
	cp $< $@

$(BUILD)/web/model.sqm: $(MODEL)
	@mkdir -p $(@D)
	cp $< $@

$(BUILD)/web/seqmodel.wasm: examples/web/web.c seqmodel.h
	@mkdir -p $(@D)
	$(ZIG) cc --target=wasm32-wasi -mcpu=generic+simd128 -mexec-model=reactor -O2 -s $< -o $@

$(BUILD)/web/embedded.js: $(BUILD)/web/seqmodel.wasm $(BUILD)/web/model.sqm
	@{ echo 'window.embedded = {'; \
	for f in $^; do printf '"%s": "' $$(basename $$f); base64 < $$f | tr -d '\n'; echo '",'; done; \
	echo '};'; } > $@

run: $(BUILD)/generate
	$(BUILD)/generate $(MODEL) "$(PROMPT)" -n 400 --temp 0.8 --echo

compare: $(BUILD)/compare
	$(BUILD)/compare

programs: $(tests)

test: all programs
	BUILD=$(BUILD) CC="$(CC)" OPENMP="$(OPENMP)" DATA="$(DATA)" MODELS="$(MODELS)" sh tests/run.sh

tokenizers: $(BUILD)/tests/test_tok
	BUILD=$(BUILD) DATA="$(DATA)" sh tests/run.sh tokenizers

examples-test: all
	MODELS="$(MODELS)" sh tests/examples.sh $(BUILD)

matrix: all
	BUILD=$(BUILD) sh tests/matrix.sh

firmware: $(BUILD)/seqmodel.o $(BUILD)/sqm-info $(BUILD)/sqm-embed $(BUILD)/sqm-convert
	BUILD=$(BUILD) CC="$(CC)" OPENMP="$(OPENMP)" DATA="$(DATA)" sh tests/firmware.sh

models := examples/models
bench: all
	$(BUILD)/sqm-bench $(MODEL)
	$(BUILD)/sqm-plot $(BUILD)/speed.svg Transformer=$(models)/transformer.sqm \
	    "Transformer, window 256=$(models)/shakespeare.sqm" "Gated DeltaNet, attention=$(models)/hybrid.sqm" \
	    "Gated DeltaNet=$(models)/gated_deltanet.sqm" RWKV-7=$(models)/rwkv7.sqm Mamba-2=$(models)/mamba2.sqm \
	    Mamba=$(models)/mamba.sqm

lint:
	BUILD=$(BUILD) sh tests/lint.sh

# the test programs under a sanitizer, each in a build directory of its own
asan:
	$(MAKE) BUILD=$(BUILD)/asan CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=address" programs
	BUILD=$(BUILD)/asan sh tests/run.sh programs

ubsan:
	$(MAKE) BUILD=$(BUILD)/ubsan CFLAGS="-O1 -g -fsanitize=undefined -fno-sanitize-recover=all" programs
	BUILD=$(BUILD)/ubsan sh tests/run.sh programs

# every reader on damaged inputs, under both sanitizers: with libFuzzer, TIME seconds each, when clang has it, else
# with N damaged copies of each seed; READERS=names leaves the others out
TIME    ?= 60
N       ?= 300
READERS ?=
libfuzzer = $(shell echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' | \
              clang -fsanitize=fuzzer -x c - -o /dev/null 2>/dev/null && echo yes)
sanitize  = -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all
fuzz:
	$(MAKE) BUILD=$(BUILD)/fuzz OPENMP= CFLAGS="-O1 -g $(sanitize)$(if $(libfuzzer), -fsanitize=fuzzer -DFUZZ_LIBFUZZER)" \
	    $(if $(libfuzzer),CC=clang) fuzz-programs
	BUILD=$(BUILD)/fuzz TIME=$(TIME) N=$(N) DATA="$(DATA)" sh tests/fuzz.sh $(READERS)

fuzz-programs: $(fuzzers)

clean:
	rm -rf $(BUILD)

help:
	@echo 'make               every tool and example into $(BUILD)/   (CC=$(CC) CFLAGS="$(CFLAGS)" OPENMP=$(OPENMP))'
	@echo 'make run           text from the small model in examples/models   (PROMPT="JULIET:" MODEL=other.sqm)'
	@echo 'make web           a page with MODEL in $(BUILD)/web: python3 -m http.server -d $(BUILD)/web   (needs zig)'
	@echo 'make compare       the models of examples/models side by side: text, loss, speed, memory'
	@echo 'make test          the self-contained test suite; DATA=dir adds the larger data, MODELS=dir real models'
	@echo 'make examples-test only the examples: what they print'
	@echo 'make tokenizers    only the reference tokenizers: DATA=dir, and SQM_TOKENIZERS=dir in the environment'
	@echo 'make matrix        only the build matrix: compilers, standards, switches, symbols, other processors'
	@echo 'make firmware      the examples for Cortex-M and RV32, built, run in QEMU and compared; their memory and speed'
	@echo 'make bench         speed of MODEL, with the roofline of this machine; $(BUILD)/speed.svg: speed and memory'
	@echo '                   of the models in examples/models against the length of the context'
	@echo 'make lint          layout of the sources, and every warning as an error'
	@echo 'make asan ubsan    the test programs under a sanitizer'
	@echo 'make fuzz          damaged inputs for every reader; TIME=$(TIME) seconds each (or N=$(N) of each input)'
	@echo 'make clean         removes $(BUILD)/'
