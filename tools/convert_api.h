/* convert_api.h: the converter as programs call it. Link tools/convert.c, which holds all of it.           */
#ifndef CONVERT_API_H_INCLUDED
#define CONVERT_API_H_INCLUDED
#include <stdint.h>

typedef enum conv_target { CONV_TO_F32, CONV_TO_F16, CONV_TO_BF16, CONV_TO_Q8, CONV_TO_Q4,
                           CONV_KEEP } conv_target;

typedef struct convert_options {
    conv_target target;
    /* file that stands for config.json; NULL: the one beside the checkpoint */
    const char *config;
    const char *tokenizer;            /* file that wins over what stands beside the checkpoint; NULL: none  */
    void      (*progress)(void *user, uint64_t done, uint64_t all);
    void       *progress_user;
} convert_options;

typedef struct convert_report {
    char     error[4096];
    int      unknown;                 /* failed because no mapping knows the architecture                   */
    char     architecture[64], format[32], tokenizer[160];
    uint64_t tensors_in, tensors_out;
} convert_report;

/* Converts the checkpoint `in` (directory or file) into the file `out`. Returns 1, or 0 with
   report->error; then no file is left.                                                                     */
int convert_checkpoint(const char *in_path, const char *out, const convert_options *o,
                       convert_report *report);

/* "f32", "f16", "bf16", "q8", "q4" or "keep"; 0 when the text is none of them.                             */
int convert_parse_target(const char *text, conv_target *target);

#endif /* CONVERT_API_H_INCLUDED */
