/* convert.c: the converter as one object file. It uses internal parts of the library (tokenizers, layouts of
   states) and therefore holds a copy of it, which shows no symbol and runs no kernels.
   Build: cc -O2 -c tools/convert.c                                                                         */
#define SEQMODEL_IMPLEMENTATION
#ifndef SEQMODEL_STATIC
#  define SEQMODEL_STATIC
#endif
#ifndef SEQMODEL_NO_SIMD
#  define SEQMODEL_NO_SIMD
#endif
#include "../seqmodel.h"
#include "convert.h"
