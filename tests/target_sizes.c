/* target_sizes.c - the numbers of tools/target_types.h as the compiler at hand sees them, in a section of
   their own: tests/target_sizes.sh reads it out of the object file, so that nothing has to run. */
#define SEQMODEL_NO_STDIO
#define SEQMODEL_NO_MALLOC
#ifndef SEQMODEL_NO_SIMD
#  define SEQMODEL_NO_SIMD
#endif
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "../tools/target_types.h"

#define SIZE(type) (uint32_t)sizeof(type),
#define BOUND(mixer, type) (uint32_t)sizeof(type),
__attribute__((section("target_sizes"), used)) static const uint32_t sizes[] = {
    TARGET_MODEL_TYPES(SIZE) TARGET_SESSION_TYPES(SIZE) TARGET_MIXERS(BOUND)
};
