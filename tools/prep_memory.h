/* prep_memory.h: for converters and sqm-vectors: what the memory and codebook mixers want, made from
   checkpoints' weights, in double precision. */
#ifndef PREP_MEMORY_H_INCLUDED
#define PREP_MEMORY_H_INCLUDED
#include <math.h>
#include <stdint.h>
#include <string.h>

#endif /* PREP_MEMORY_H_INCLUDED */
