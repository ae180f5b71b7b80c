/* eval_common.h: how the tools that run models read their options.                                        */
#ifndef EVAL_COMMON_H_INCLUDED
#define EVAL_COMMON_H_INCLUDED
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline int eval_parse_isa(const char *text, sqm_isa *isa)
{
    for (int i = (int)SQM_ISA_AUTO; i <= (int)SQM_ISA_WASM; i++) {
        const char *name = sqm_isa_name((sqm_isa)i);
        if (!name || strcmp(name, text) != 0) continue;
        *isa = (sqm_isa)i;
        return 1;
    }
    return strcmp(text, "auto") == 0;
}

/* A whole number in [low, high]; 0 when the text is none.                                                  */
static inline int eval_parse_int(const char *text, int32_t low, int32_t high, int32_t *value)
{
    char *end;
    const long v = strtol(text, &end, 10);
    if (end == text || *end || v < low || v > high) return 0;
    *value = (int32_t)v;
    return 1;
}

static const char *const eval_kv_names[] = { "auto", "f32", "f16", "q8", "q4" };     /* by sqm_kv */
static inline int eval_parse_kv(const char *text, sqm_kv *kv)
{
    for (int i = 0; i < 5; i++)
        if (strcmp(text, eval_kv_names[i]) == 0) { *kv = (sqm_kv)i; return 1; }
    return 0;
}

#endif /* EVAL_COMMON_H_INCLUDED */
