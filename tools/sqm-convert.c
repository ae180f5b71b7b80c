/* sqm-convert: turns a checkpoint (safetensors, PyTorch, GGUF, llama2.c) into one .sqm file.
   Build: cc -O2 tools/sqm-convert.c tools/convert.c -o sqm-convert -lm                                     */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "conv_base.h"
#include "convert_api.h"

static const char help[] =
    "usage: sqm-convert IN -o OUT.sqm [-t TYPE] [--tokenizer FILE]\n"
    "\n"
    "IN     a directory with config.json and model.safetensors or pytorch_model.bin (also sharded),\n"
    "       or one file: .safetensors .bin .pt .pth (config.json beside it), .gguf, llama2.c .bin\n"
    "-t     type of the matrices in OUT.sqm; norms and biases are always f32\n"
    "         keep   as in the checkpoint, quantised GGUF blocks without any change (default)\n"
    "         f32 f16 bf16\n"
    "         q8     8.5 bits a weight\n"
    "         q4     4.5 bits a weight; embedding and head q8\n"
    "--tokenizer    tokenizer.json, tokenizer.bin of llama2.c or rwkv_vocab_*.txt, when it is not "
    "beside the\n"
    "               checkpoint; bytes: a token is a byte; none: no tokenizer\n"
    "--quiet        no progress, no summary\n"
    "\n"
    "Exit status: 0 done, 1 the checkpoint cannot be converted (nothing is written), 2 wrong usage.\n";

static int stderr_is_terminal(void)
{
#if CONV_HAVE_MMAP
    return isatty(2);
#else
    return 0;
#endif
}

static void show_progress(void *user, uint64_t done, uint64_t all)
{
    (void)user;
    fprintf(stderr, "\r%llu of %llu tensors%s", (unsigned long long)done, (unsigned long long)all,
            done == all ? "\n" : "");
}

static int usage_error(const char *what, const char *detail)
{
    fprintf(stderr, "sqm-convert: %s%s\nsqm-convert --help says more\n", what, detail);
    return 2;
}

static void show_summary(const char *out, const convert_report *report)
{
    sqm_error err;
    sqm_model *m = sqm_load_file(out, NULL, &err);
    sqm_model_info info;
    fprintf(stderr, "%s: %s, %llu tensors -> %llu; tokenizer: %s\n", report->format, report->architecture,
            (unsigned long long)report->tensors_in, (unsigned long long)report->tensors_out,
            report->tokenizer);
    if (!m) { fprintf(stderr, "sqm-convert: the library refuses %s: %s\n", out, err.text); return; }
    sqm_model_get_info(m, &info);
    fprintf(stderr, "%s: %.1f M parameters in %.1f MB, width %d, vocabulary %d, context %d\n", out,
            (double)info.parameters / 1e6, (double)info.weight_bytes / 1e6, (int)info.dim,
            (int)info.vocab_size, (int)info.max_context);
    sqm_model_free(m);
}

int main(int argc, char **argv)
{
    const char *in = NULL, *out = NULL;
    convert_options options;
    convert_report report;
    int quiet = 0;
    memset(&options, 0, sizeof options);
    options.target = CONV_KEEP;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) { fputs(help, stdout); return 0; }
        if (strcmp(argv[i], "--quiet") == 0) { quiet = 1; continue; }
        if (argv[i][0] != '-') {
            if (in) return usage_error("more than one input: ", argv[i]);
            in = argv[i];
            continue;
        }
        if (strcmp(argv[i], "-o") && strcmp(argv[i], "-t") && strcmp(argv[i], "--tokenizer"))
            return usage_error("unknown option ", argv[i]);
        if (!value) return usage_error("a value is missing after ", argv[i]);
        if (strcmp(argv[i], "-o") == 0) out = value;
        else if (strcmp(argv[i], "--tokenizer") == 0) options.tokenizer = value;
        else if (!convert_parse_target(value, &options.target)) return usage_error("unknown type ", value);
        i++;
    }
    if (!in || !out)
        return usage_error(in ? "the output is missing (-o OUT.sqm)" : "the input is missing", "");
    if (!quiet && stderr_is_terminal()) options.progress = show_progress;
    if (!convert_checkpoint(in, out, &options, &report)) {
        fprintf(stderr, "%ssqm-convert: %s\n", options.progress ? "\n" : "", report.error);
        return 1;
    }
    if (!quiet) show_summary(out, &report);
    return 0;
}
