/* ==== [DOC] Manual  ========================================================================================
   seqmodel.h 0.1.0 - trained sequence models in plain C: one header, the C standard library, nothing else.

   In exactly one C or C++ file:                          In all others:
       #define SEQMODEL_IMPLEMENTATION                        #include "seqmodel.h"
       #include "seqmodel.h"

       sqm_error err;
       sqm_model *m = sqm_load_file("model.sqm", NULL, &err);            a weight file, mapped, not copied
       sqm_session *s = m ? sqm_session_create(m, NULL, &err) : NULL;    all that changes while it runs
       if (!s) { fprintf(stderr, "%s\n", err.text); return 1; }
       sqm_generate(s, 0, "Once upon a time", NULL, on_text, NULL, NULL);
       sqm_session_free(s);
       sqm_model_free(m);

   cc -O2 app.c -lm. The fastest instruction set of the machine is chosen at run time; no -march, no build
   system. With -fopenmp it uses several threads. Weight files come from tools/sqm-convert.

   Concepts
     model     read-only, any number of threads may share it. Its file holds a recipe (a list of ops),
               tensors, a tokenizer. The header knows ops and mixers, never the names of architectures.
     session   states of one or more sequences, work memory, logits. One thread at a time.
     sequence  0 .. n_sequences - 1, each with a position and its own state: users, beams, branches.
               sqm_fork copies one.
     feed      tokens (or rows of values) in, logits of what follows out. A prompt, one token, or a packed
               batch of many sequences.
   One result everywhere: the logits of a token are the same, bit for bit, for any cut of the prompt into
   calls, any batch, any number of threads, after fork, save and load, and on every instruction set.
   (Exception: checkpoints whose rotary frequencies depend on the total length, dynamic NTK and LongRoPE,
   use the length that the call reaches.)

   Precision  SQM_FAST (default): products with quantised weights round activations to 8 bits in groups of 32,
              queries, keys and values to 16; attention caches are float16.
              SQM_EXACT: float32 everywhere, weights dequantised exactly as their format defines.
   Memory     sqm_open_size / sqm_session_size are exact; sqm_open / sqm_session_init take that much from
              the caller and nothing is allocated afterwards. sqm_load_* and sqm_session_create wrap them
              with malloc.
   Errors     every call that can fail returns a sqm_result (negative: error) and writes one sentence with
              the numbers to a sqm_error, the caller's or the session's (sqm_session_error). Nothing prints,
              exits or aborts. A failed call leaves its objects as they were.
   Files      are untrusted: everything is checked at open, once; a forward pass cannot fail afterwards.
   Threads    OpenMP when the compiler has it on, or the caller's pool (sqm_parallel), else serial.
   Firmware   sqm_open with a list of the mixers you use; the linker drops the others (-ffunction-sections
              -Wl,--gc-sections, or SEQMODEL_STATIC). Weights stay in flash (tools/sqm-embed makes a C array).

   Macros, defined before the implementation
     SEQMODEL_IMPLEMENTATION   compile the code here
     SEQMODEL_STATIC           make every function static
     SEQMODEL_NO_STDIO         no files, no mmap
     SEQMODEL_NO_MALLOC        no heap, only the caller's memory
     SEQMODEL_NO_MMAP          read files instead of mapping them
     SEQMODEL_NO_WRITER        no sqm_writer_*
     SEQMODEL_NO_TOKENIZER     token ids only
     SEQMODEL_NO_ERROR_TEXT    error codes without sentences
     SEQMODEL_NO_SIMD          portable C only
     SEQMODEL_ASSERT(x)        check of internal promises
     SEQMODEL_HEADER           this file's name in quotes, if you renamed it: it includes itself once per
                               instruction set

   Contents (grep the key)
     [DOC] this manual
     [API] public declarations: everything a user may call
     [CONF] configuration: SEQMODEL_* macros
     [PLAT] platform: compilers, numbers, the error sink
     [MEM] the arena that counts or lays out
     [TYPE] element types and quantised formats
     [CPU] which instruction sets this machine has
     [KERN] inner loops, compiled once per instruction set
     [OPS] operations on rows: linear maps, norms, activations
     [POS] rotary positions
     [MIX] sequence mixers: attention, convolution, memories, linear attention, state spaces
     [FILE] weight file reader
     [TOK] tokenizers
     [RECIPE] models as lists of ops: binding, opening
     [SESS] sessions: feeding, states
     [TEXT] text and tokens of a model
     [GEN] sampling and generation
     [WRITE] weight file writer
     [LIC] revisions and licence
*/
#ifndef SEQMODEL_H_INCLUDED
#define SEQMODEL_H_INCLUDED
/* ==== [API] Public declarations ========================================================================= */
#include <stddef.h>
#include <stdint.h>

#define SQM_VERSION_MAJOR 0
#define SQM_VERSION_MINOR 1
#define SQM_VERSION_PATCH 0

/* SQMDEF is the linkage of the public functions. SEQMODEL_STATIC makes them private to the including file. */
#ifndef SQMDEF
#  if defined(SEQMODEL_STATIC)
#    if defined(__GNUC__)
#      define SQMDEF static __attribute__((unused))
#    else
#      define SQMDEF static
#    endif
#  else
#    define SQMDEF extern
#  endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- results and errors -------------------------------------------------------------------------------- */
typedef enum sqm_result {
    SQM_OK = 0,
    SQM_STOPPED = 1,          /* a callback asked to stop; not an error */
    SQM_E_ARGUMENT = -1,      /* a caller's argument is out of range */
    SQM_E_MEMORY = -2,        /* memory too small or allocation failed; sqm_error.value = bytes needed */
    SQM_E_IO = -3,            /* a file could not be opened, read, mapped or written */
    SQM_E_FORMAT = -4,        /* not a weight file, damaged, or an offset outside the file */
    SQM_E_VERSION = -5,       /* written by a newer major version */
    SQM_E_CHECKSUM = -6,      /* the bytes are not those that were written */
    SQM_E_SHAPE = -7,         /* weights do not fit the recipe */
    /* op, mixer, option or dtype that this build does not know; the text names it */
    SQM_E_UNSUPPORTED = -8,
    SQM_E_LIMIT = -9          /* context length, batch, vocabulary or address space exhausted */
} sqm_result;

typedef struct sqm_error {
    sqm_result code;
    int        line;          /* line of seqmodel.h that raised it */
    uint64_t   value;         /* the number that did not fit: bytes needed, offset, index */
    char       text[180];     /* one English sentence with the numbers, always terminated */
} sqm_error;

SQMDEF const char *sqm_result_name(sqm_result r);      /* "SQM_E_SHAPE" */
SQMDEF const char *sqm_version(void);                  /* "0.1.0" */
/* "seqmodel 0.1.0; gcc 12; passes scalar avx2 avx512; openmp" */
SQMDEF const char *sqm_build_info(void);

/* ---- processor ----------------------------------------------------------------------------------------- */
typedef enum sqm_isa { SQM_ISA_AUTO, SQM_ISA_SCALAR, SQM_ISA_AVX2, SQM_ISA_AVX512, SQM_ISA_NEON,
                       SQM_ISA_HELIUM } sqm_isa;
SQMDEF sqm_isa     sqm_cpu_best_isa(void);             /* asks the processor every time, keeps nothing */
SQMDEF int         sqm_cpu_has(sqm_isa isa);           /* is this pass compiled in and runnable here */
SQMDEF const char *sqm_isa_name(sqm_isa isa);          /* "avx2" */

/* Runs fn(arg, i) for every i in [0, n), in any order, possibly at once.
   Lets an engine or RTOS give its own pool. */
typedef void (*sqm_task)(void *arg, int32_t i);
typedef struct sqm_parallel {
    void  (*run)(void *user, sqm_task fn, void *arg, int32_t n);
    void   *user;
    int32_t threads;                                   /* how many pieces to cut work into, >= 1 */
} sqm_parallel;

/* ---- tensors ------------------------------------------------------------------------------------------- */
/* Element types. The numbers are those in weight files and never change meaning; a better packing is a new
   number.
   Q types hold groups of 32 (K types: 256) weights along a row; see [TYPE] for value formulas and byte
   layouts.    */
typedef enum sqm_dtype {
    SQM_F32 = 0, SQM_F16 = 1, SQM_BF16 = 2, SQM_I32 = 3, SQM_I8 = 4, SQM_U8 = 5,
    SQM_Q8 = 16,              /* s8 code * f16 scale                      8.5  bits a weight    (GGUF Q8_0) */
    SQM_Q4 = 17,              /* (u4 code - 8) * f16 scale                4.5                   (GGUF Q4_0) */
    SQM_Q4M = 18,             /* u4 code * f16 scale + f16 minimum        5                     (GGUF Q4_1) */
    SQM_Q5 = 19,              /* (u5 code - 16) * f16 scale               5.5                   (GGUF Q5_0) */
    SQM_Q5M = 20,             /* u5 code * f16 scale + f16 minimum        6                     (GGUF Q5_1) */
    /* table[u4 code] * f16 scale               4.5                   (GGUF IQ4_NL) */
    SQM_IQ4 = 21,
    SQM_Q2K = 22,             /* two-level scales and minima, groups of 16        2.625         (GGUF Q2_K) */
    SQM_Q3K = 23,             /* two-level scales, groups of 16                   3.5625        (GGUF Q3_K) */
    SQM_Q4K = 24,             /* two-level scales and minima, groups of 32        4.625         (GGUF Q4_K) */
    SQM_Q5K = 25,             /* two-level scales and minima, groups of 32        5.625         (GGUF Q5_K) */
    SQM_Q6K = 26              /* two-level scales, groups of 16                   6.5625        (GGUF Q6_K) */
} sqm_dtype;

typedef enum sqm_layout {
    SQM_ROWS = 0,             /* row-major, shape[0] outermost; F32 F16 BF16 I32 I8 U8 only */
    SQM_PANELS = 1            /* panels of 16 rows, see [TYPE]; two dimensions [rows, cols] */
} sqm_layout;

#define SQM_MAX_DIMS 4
typedef struct sqm_tensor {   /* a read-only view of weights; owns nothing */
    const void *data;
    sqm_dtype   dtype;
    sqm_layout  layout;
    int32_t     ndim;
    int32_t     shape[SQM_MAX_DIMS];                   /* unused entries are 1 */
} sqm_tensor;

SQMDEF sqm_tensor  sqm_tensor_1d(const void *data, sqm_dtype t, int32_t n);
SQMDEF sqm_tensor  sqm_tensor_2d(const void *data, sqm_dtype t, sqm_layout layout, int32_t rows,
                                 int32_t cols);
SQMDEF const char *sqm_dtype_name(sqm_dtype t);        /* "q4k"; NULL for a number that is no dtype */
/* Bytes of a tensor's data, 0 when dtype, layout and shape do not go
   together or the size does not fit size_t.   */
SQMDEF size_t      sqm_tensor_bytes(sqm_dtype t, sqm_layout layout, int32_t ndim, const int32_t *shape);

/* Converts rows [rows, cols] of float32 to `dtype` panels (dst: sqm_tensor_bytes(dtype, SQM_PANELS, ...)
   bytes). Packs and quantises F32 F16 BF16 Q8 Q4 Q4M; other dtypes only come from sqm_pack_ggml.
   importance [cols] or NULL weighs the squared error of each column. Returns SQM_OK; SQM_E_ARGUMENT;
   SQM_E_MEMORY dst_bytes too small. */
SQMDEF sqm_result  sqm_pack(void *dst, size_t dst_bytes, sqm_dtype dtype, const float *src, int32_t rows,
                            int32_t cols,
                            const float *importance, sqm_error *err);
/* Re-arranges rows of GGUF blocks of ggml type `ggml_type` into panels without changing any value; *dtype
   says which.
   dst NULL: only sets *dtype and *bytes. */
SQMDEF sqm_result  sqm_pack_ggml(void *dst, size_t *bytes, sqm_dtype *dtype, uint32_t ggml_type,
                                 const void *src,
                                 size_t src_bytes, int32_t rows, int32_t cols, sqm_error *err);
/* Writes row `row` of a two-dimensional tensor as cols float32 values, exactly what the format means. */
SQMDEF sqm_result  sqm_tensor_row(float *dst, const sqm_tensor *t, int32_t row, sqm_error *err);
/* All values of a tensor as float32 in row-major order; dst holds n = product of shape values. */
SQMDEF sqm_result  sqm_tensor_values(float *dst, size_t n, const sqm_tensor *t, sqm_error *err);

/* ---- execution context: kernels, threads and scratch of one caller ------------------------------------- */
typedef enum sqm_precision {
    /* products with quantised weights round activations to 8 bits in groups of 32 */
    SQM_FAST = 0,
    SQM_EXACT = 1             /* every product in float32 with exactly dequantised weights */
} sqm_precision;

/* fill with sqm_exec_init; then use for any number of calls, one thread at a time */
typedef struct sqm_exec {
    const struct sqm__kernels *kernels;
    const sqm_parallel        *parallel;               /* NULL: OpenMP when compiled in, else serial */
    int32_t                    threads;
    sqm_precision              precision;
    uint8_t                   *scratch;
    size_t                     scratch_bytes;
    struct sqm__team          *team;                   /* threads of a running forward pass, or NULL */
    sqm_error                  error;
} sqm_exec;
/* Scratch that products of up to max_rows rows of up to max_cols inputs need; attention see its mixer. */
SQMDEF size_t     sqm_exec_scratch_size(int32_t max_rows, int32_t max_cols, int32_t threads);
SQMDEF sqm_result sqm_exec_init(sqm_exec *x, sqm_isa isa, int32_t threads, void *scratch,
                                size_t scratch_bytes);

/* ---- operations on float32 rows: no model file needed -------------------------------------------------- */
/* y [n, rows(w)] = a [n, cols(w)] * w^T + bias; bias [rows(w)] or NULL.
   w: panels. y and a must not overlap.     */
SQMDEF sqm_result sqm_matmul(sqm_exec *x, float *y, const float *a, int32_t n, const sqm_tensor *w,
                             const float *bias);

typedef enum sqm_norm { SQM_NORM_RMS, SQM_NORM_LAYER, SQM_NORM_L2, SQM_NORM_SUM } sqm_norm;
/* y [n, dim] = normalised a [n, dim], times gain [dim] or 1, plus bias [dim] or 0. y may be a.
   RMS: a / sqrt(mean(a^2) + eps).  LAYER: (a - mean) / sqrt(var + eps).  L2: a / sqrt(sum(a^2) + eps).
   SUM: a / (sum(a) + eps). */
SQMDEF sqm_result sqm_normalize(sqm_exec *x, float *y, const float *a, int32_t n, int32_t dim, sqm_norm kind,
                                const float *gain, const float *bias, float eps);

typedef enum sqm_act { SQM_ACT_NONE, SQM_ACT_SILU, SQM_ACT_GELU, SQM_ACT_GELU_TANH, SQM_ACT_RELU,
    SQM_ACT_RELU2,
                       SQM_ACT_QUICK_GELU, SQM_ACT_SIGMOID, SQM_ACT_TANH, SQM_ACT_EXP, SQM_ACT_SOFTPLUS,
                       SQM_ACT_LOG_SIGMOID, SQM_ACT_ELU1 /* elu(x) + 1 */,
                       SQM_ACT_LOG, SQM_ACT_SQRT /* of x <= 0: -3e38, 0 */,
                       SQM_ACT_COUNT } sqm_act;
/* y may be a */
SQMDEF sqm_result sqm_activate(sqm_exec *x, float *y, const float *a, size_t n, sqm_act kind);
/* y [n, dim] = act(a[:, :dim]) * a[:, dim:]; a [n, 2*dim] */
SQMDEF sqm_result sqm_glu(sqm_exec *x, float *y, const float *a, int32_t n, int32_t dim, sqm_act kind);
/* y [n, dim] = softmax of each row of a times scale; y may be a */
SQMDEF sqm_result sqm_softmax(sqm_exec *x, float *y, const float *a, int32_t n, int32_t dim, float scale);

typedef enum sqm_rope_style { SQM_ROPE_HALF, SQM_ROPE_INTERLEAVED } sqm_rope_style;
/* Rotates the first `dims` channels of each of `heads` heads in place. rows [n, stride], heads at columns
   first + h * head_dim; row i has position positions[i], or first_position + i when positions is NULL.
   inv_freq [dims / 2]; the phase is the float32 product position * inv_freq; attn_factor multiplies sin and
   cos (1: none). */
SQMDEF sqm_result sqm_rope(sqm_exec *x, float *rows, int32_t n, int32_t stride, int32_t first, int32_t heads,
                           int32_t head_dim, int32_t dims, sqm_rope_style style, const float *inv_freq,
                           float attn_factor, const int32_t *positions, int32_t first_position);

/* ---- sequence mixers ----------------------------------------------------------------------------------- */
typedef struct sqm_span {     /* one sequence's rows inside a batch */
    void   *state;            /* its state block; NULL: start from zero and keep nothing */
    int32_t first_row, rows;  /* rows of the batch that belong to it */
    int32_t position;         /* absolute position of its first row */
    int32_t total;            /* length of the sequence when the whole call is done (>= position + rows) */
} sqm_span;

/* Named parameters: what a recipe line gives a mixer or op, or a caller
   gives by hand. A tensor list entry may be NULL. */
typedef struct sqm_param {
    const char              *key;
    double                   number;                   /* when text and tensors are NULL */
    const char              *text;
    const sqm_tensor *const *tensors;
    int32_t                  n_tensors;
} sqm_param;

enum { SQM_MIXER_CAUSAL = 1,        /* row t depends on rows <= t only: forward(T) == T x forward(1) */
       SQM_MIXER_WHOLE_ONLY = 2,    /* needs the whole sequence at once */
       SQM_MIXER_STATE_GROWS = 4 }; /* state size depends on max_context */

typedef struct sqm_mixer {
    const char *name;         /* "attention" */
    const char *keys;         /* parameters it knows: "heads kv_heads head_dim ..."; others are refused */
    size_t      bound_bytes;  /* size of the block that bind fills */
    uint32_t    flags;
    /* at the start of a state: describes its own shape, is never copied between states */
    size_t      header_bytes;
    /* Checks parameters and weights once. in_width: columns of the input
       rows; *out_width: columns it writes.    */
    sqm_result (*bind)(void *bound, const sqm_param *params, int32_t n_params, int32_t in_width,
                       int32_t *out_width,
                       sqm_error *err);
    /* Bytes of one sequence's state; a flat block without pointers. 0: stateless. */
    size_t     (*state_bytes)(const void *bound, int32_t max_context, int32_t max_batch, sqm_dtype kv_dtype);
    /* Bytes at the start of the block that matter after `position` tokens: what fork and save copy. */
    size_t     (*used_bytes)(const void *bound, const void *state, int32_t position);
    size_t     (*scratch_bytes)(const void *bound, int32_t max_context, int32_t max_batch, int32_t threads);
    void       (*reset)(const void *bound, void *state, size_t state_bytes, int32_t max_context,
                        int32_t max_batch,
                        sqm_dtype kv_dtype);
    /* in [rows, in_width] -> out [rows, out_width], every span with its own state */
    sqm_result (*forward)(const void *bound, sqm_exec *x, float *out, const float *in, const sqm_span *spans,
                          int32_t n_spans);
} sqm_mixer;

SQMDEF const sqm_mixer *const *sqm_all_mixers(void);   /* NULL-terminated; naming it links every mixer */
/* one function each, so that linkers drop the others */
SQMDEF const sqm_mixer *sqm_mixer_attention(void);
/* the same without ALiBi, key biases, shared values, listed keys, entries and sums */
SQMDEF const sqm_mixer *sqm_mixer_attention_plain(void);
SQMDEF const sqm_mixer *sqm_mixer_conv(void);
SQMDEF const sqm_mixer *sqm_mixer_conv_whole(void);
SQMDEF const sqm_mixer *sqm_mixer_memory(void);
SQMDEF const sqm_mixer *sqm_mixer_memory_caching(void);
SQMDEF const sqm_mixer *sqm_mixer_memory_context(void);
SQMDEF const sqm_mixer *sqm_mixer_kernel_memory(void);
SQMDEF const sqm_mixer *sqm_mixer_codebook(void);
SQMDEF const sqm_mixer *sqm_mixer_scan(void);
SQMDEF const sqm_mixer *sqm_mixer_scan_whole(void);
SQMDEF const sqm_mixer *sqm_mixer_ssd(void);
SQMDEF const sqm_mixer *sqm_mixer_ssd_whole(void);
SQMDEF const sqm_mixer *sqm_mixer_trapezoid(void);
SQMDEF const sqm_mixer *sqm_mixer_linear_attention(void);
SQMDEF const sqm_mixer *sqm_mixer_linear_attention_whole(void);
SQMDEF const sqm_mixer *sqm_mixer_running_softmax(void);
SQMDEF const sqm_mixer *sqm_mixer_slstm(void);
SQMDEF const sqm_mixer *sqm_mixer_shift(void);
SQMDEF const sqm_mixer *sqm_mixer_pool(void);
SQMDEF const sqm_mixer *sqm_mixer_ridge(void);
SQMDEF const sqm_mixer *sqm_mixer_lti(void);
SQMDEF const sqm_mixer *sqm_mixer_rnn(void);
SQMDEF const sqm_mixer *sqm_mixer_legs(void);
SQMDEF const sqm_mixer *sqm_mixer_long_conv(void);
SQMDEF const sqm_mixer *sqm_mixer_window(void);
SQMDEF const sqm_mixer *sqm_mixer_reorder(void);
SQMDEF const sqm_mixer *sqm_mixer_running_pool(void);
SQMDEF const sqm_mixer *sqm_mixer_spike(void);
SQMDEF const sqm_mixer *sqm_mixer_select(void);
SQMDEF const sqm_mixer *sqm_mixer_compress(void);
SQMDEF const sqm_mixer *sqm_mixer_lsh(void);

/* ---- ops of recipes ------------------------------------------------------------------------------------ */
typedef struct sqm_op sqm_op;
SQMDEF const sqm_op *const *sqm_all_ops(void);         /* NULL-terminated; naming it links every op */
/* one function each, so that linkers drop the others; tools/sqm-embed writes down which ones a model needs */
SQMDEF const sqm_op *sqm_op_embed(void);
SQMDEF const sqm_op *sqm_op_norm(void);
SQMDEF const sqm_op *sqm_op_linear(void);
SQMDEF const sqm_op *sqm_op_rope(void);                /* with fixed frequencies */
SQMDEF const sqm_op *sqm_op_rope_dynamic(void);        /* those that follow the length too */
SQMDEF const sqm_op *sqm_op_mix(void);
SQMDEF const sqm_op *sqm_op_act(void);
SQMDEF const sqm_op *sqm_op_glu(void);
SQMDEF const sqm_op *sqm_op_add(void);
SQMDEF const sqm_op *sqm_op_mul(void);
SQMDEF const sqm_op *sqm_op_scale(void);
SQMDEF const sqm_op *sqm_op_copy(void);
SQMDEF const sqm_op *sqm_op_softcap(void);
SQMDEF const sqm_op *sqm_op_head(void);
SQMDEF const sqm_op *sqm_op_input(void);
SQMDEF const sqm_op *sqm_op_affine(void);
SQMDEF const sqm_op *sqm_op_cat(void);
SQMDEF const sqm_op *sqm_op_gate(void);
SQMDEF const sqm_op *sqm_op_softmax(void);
SQMDEF const sqm_op *sqm_op_monomials(void);
SQMDEF const sqm_op *sqm_op_reduce(void);
SQMDEF const sqm_op *sqm_op_mirror(void);
SQMDEF const sqm_op *sqm_op_clip(void);
SQMDEF const sqm_op *sqm_op_blocks(void);
SQMDEF const sqm_op *sqm_op_route(void);
SQMDEF const sqm_op *sqm_op_experts(void);
SQMDEF const sqm_op *sqm_op_combine(void);
SQMDEF const sqm_op *sqm_op_sinkhorn(void);
SQMDEF const sqm_op *sqm_op_pick(void);

/* ---- model: read-only after opening, any number of threads may use it ---------------------------------- */
typedef struct sqm_model sqm_model;
typedef struct sqm_model_info {
    int32_t     dim;                                   /* width of the residual stream, r0 */
    int32_t     vocab_size;                            /* logits a token, or columns of an output row */
    int32_t     n_tokens;                              /* token ids it reads: 0 .. n_tokens - 1; 0: none */
    int32_t     input_width;                           /* columns of the rows it reads; 0: none */
    int32_t     max_context;                           /* positions the model was made for; 0: unlimited */
    int32_t     n_ops, n_mixers, n_tensors;
    int32_t     has_tokenizer;
    uint64_t    parameters, weight_bytes;
    /* multiply-adds with weights for a token and for its logits, those of them with weights of 8 bits or
       less, and the bytes of weights that decoding a token reads */
    uint64_t    token_products, head_products, coded_products, token_bytes;
    const char *name;                                  /* "" when the file has none */
} sqm_model_info;

/* check the checksum of every tensor: reads the whole file */
enum { SQM_OPEN_VERIFY = 1 };
typedef struct sqm_open_options {                      /* all zero = defaults */
    /* NULL-terminated. Required by sqm_open; NULL in sqm_load_*: all */
    const sqm_mixer *const *mixers;
    uint32_t                flags;
    const sqm_op *const    *ops;                       /* like mixers */
} sqm_open_options;

/* Zero-copy: the image (8-byte aligned; flash, mapped file, array)
   stays in place and must outlive the model.    */
SQMDEF size_t     sqm_open_size(const void *image, size_t image_bytes, const sqm_open_options *o,
                                sqm_error *err);
SQMDEF sqm_result sqm_open(sqm_model **out, const void *image, size_t image_bytes, const sqm_open_options *o,
                           void *memory, size_t memory_bytes, sqm_error *err);
#ifndef SEQMODEL_NO_MALLOC
SQMDEF sqm_model *sqm_load_memory(const void *image, size_t image_bytes, const sqm_open_options *o,
                                  sqm_error *err);
#ifndef SEQMODEL_NO_STDIO
SQMDEF sqm_model *sqm_load_file(const char *path, const sqm_open_options *o, sqm_error *err);
#endif
SQMDEF void       sqm_model_free(sqm_model *m);        /* only models from sqm_load_*; NULL is fine */
#endif
SQMDEF void        sqm_model_get_info(const sqm_model *m, sqm_model_info *info);
SQMDEF sqm_result  sqm_model_tensor(const sqm_model *m, int32_t i, const char **name, sqm_tensor *t);
SQMDEF sqm_result  sqm_model_find_tensor(const sqm_model *m, const char *name, sqm_tensor *t);
SQMDEF const char *sqm_model_meta(const sqm_model *m, const char *key);    /* NULL if absent */

/* ---- session: everything that changes; one thread at a time -------------------------------------------- */
typedef struct sqm_session sqm_session;
/* Element type of attention caches. AUTO: float16 with SQM_FAST, float32 with SQM_EXACT. Q8: 8-bit codes
   with a scale for each vector. */
typedef enum sqm_kv { SQM_KV_AUTO, SQM_KV_F32, SQM_KV_F16, SQM_KV_Q8 } sqm_kv;
typedef struct sqm_session_config {                    /* all zero = defaults */
    /* tokens a sequence may reach; 0: the model's own (2048 if unlimited) */
    int32_t             max_context;
    int32_t             max_batch;                     /* rows computed at once; 0: 132 */
    int32_t             n_sequences;                   /* independent states (users, beams); 0: 1 */
    int32_t             threads;                       /* 0: OpenMP's default if compiled in, else 1 */
    sqm_isa             isa;                           /* 0: best available */
    sqm_precision       precision;                     /* 0: SQM_FAST */
    sqm_kv              kv;                            /* element type of attention caches; 0: SQM_KV_AUTO */
    const sqm_parallel *parallel;                      /* NULL: OpenMP or serial */
} sqm_session_config;
/* Exact bytes sqm_session_init takes from `memory`; 0 on error. */
SQMDEF size_t       sqm_session_size(const sqm_model *m, const sqm_session_config *c, sqm_error *err);
SQMDEF sqm_result   sqm_session_init(sqm_session **out, const sqm_model *m, const sqm_session_config *c,
                                     void *memory, size_t memory_bytes, sqm_error *err);
#ifndef SEQMODEL_NO_MALLOC
SQMDEF sqm_session *sqm_session_create(const sqm_model *m, const sqm_session_config *c, sqm_error *err);
/* only sessions from sqm_session_create; NULL is fine */
SQMDEF void         sqm_session_free(sqm_session *s);
#endif
/* details of the last failed call */
SQMDEF const sqm_error *sqm_session_error(const sqm_session *s);
SQMDEF const sqm_model *sqm_session_model(const sqm_session *s);
SQMDEF int32_t      sqm_max_context(const sqm_session *s);
/* tokens fed so far; -1: no such seq */
SQMDEF int32_t      sqm_position(const sqm_session *s, int32_t seq);
SQMDEF sqm_result   sqm_reset(sqm_session *s, int32_t seq);                /* back to position 0 */

/* Feeds tokens [n] to sequence seq; sqm_logits then holds the logits that follow the last one.
   SQM_E_ARGUMENT bad seq, n < 1 or token outside the vocabulary; SQM_E_LIMIT context full: nothing was fed.
   */
SQMDEF sqm_result   sqm_feed(sqm_session *s, int32_t seq, const int32_t *tokens, int32_t n);
/* The same, and writes the logits after every token: logits [n, vocab_size]. */
SQMDEF sqm_result   sqm_feed_all(sqm_session *s, int32_t seq, const int32_t *tokens, int32_t n,
                                 float *logits);
/* The same for models that read rows of values instead of tokens (recipes with an input op: signals, frames,
   vectors of another model): rows [n, input_width], out [n, vocab_size]. */
SQMDEF sqm_result   sqm_feed_rows(sqm_session *s, int32_t seq, const float *rows, int32_t n);
SQMDEF sqm_result   sqm_feed_rows_all(sqm_session *s, int32_t seq, const float *rows, int32_t n, float *out);
/* Many sequences in one packed batch; each seq at most once. Results
   are bit-equal to feeding them one by one.   */
typedef struct sqm_input {
    int32_t        seq;
    const int32_t *tokens;                             /* [n]; NULL when the model reads rows only */
    int32_t        n;
    const float   *rows;                               /* [n, input_width]; NULL when it reads tokens only */
} sqm_input;
SQMDEF sqm_result   sqm_feed_batch(sqm_session *s, const sqm_input *inputs, int32_t n_inputs);
/* [vocab_size] until seq's next feed or reset; NULL: none yet */
SQMDEF const float *sqm_logits(const sqm_session *s, int32_t seq);

SQMDEF sqm_result   sqm_fork(sqm_session *s, int32_t from, int32_t to);    /* `to` becomes a copy of `from` */
/* bytes sqm_state_save writes now */
SQMDEF size_t       sqm_state_size(const sqm_session *s, int32_t seq);
SQMDEF sqm_result   sqm_state_save(sqm_session *s, int32_t seq, void *dst, size_t bytes);
SQMDEF sqm_result   sqm_state_load(sqm_session *s, int32_t seq, const void *src, size_t bytes);

/* ---- tokenizer ----------------------------------------------------------------------------------------- */
enum { SQM_TOKENS_BARE = 1,        /* do not add the begin/end tokens that the model's template adds */
       SQM_TOKENS_PLAIN = 2,       /* read texts like "<|im_end|>" as text, not as special tokens */
       SQM_TOKENS_CONTROL = 4 };   /* read as special tokens also those that SentencePiece and tiktoken never
                                      see in texts; meant for the frame of a chat */
/* Text -> ids. Writes at most cap ids; returns how many the text has (call again with room for them), or a
   negative sqm_result. Uses malloc for long texts; sqm_tokenize_in takes `memory` of
   sqm_tokenize_size(m, bytes)
   instead. */
#ifndef SEQMODEL_NO_MALLOC
SQMDEF int32_t     sqm_tokenize(const sqm_model *m, const char *text, size_t bytes, uint32_t flags,
                                int32_t *tokens,
                                int32_t cap, sqm_error *err);
#endif
SQMDEF size_t      sqm_tokenize_size(const sqm_model *m, size_t bytes);
SQMDEF int32_t     sqm_tokenize_in(const sqm_model *m, const char *text, size_t bytes, uint32_t flags,
                                   int32_t *tokens,
                                   int32_t cap, void *memory, size_t memory_bytes, sqm_error *err);
/* Bytes of one token as it stands inside running text (may be part of a UTF-8 character); special tokens
   give their text only with with_special != 0, else 0 bytes. Returns the length; writes at most cap
   bytes. */
SQMDEF int32_t     sqm_token_text(const sqm_model *m, int32_t token, int with_special, char *dst,
                                  int32_t cap);
/* Ids -> text as the model's own decoder does it (first-space rules included). Returns bytes needed. */
SQMDEF int32_t     sqm_detokenize(const sqm_model *m, const int32_t *tokens, int32_t n, int with_special,
                                  char *dst,
                                  int32_t cap);
/* Id of a role: "bos" "eos" "unk" "pad", or of a token by its exact text; -1: none. */
SQMDEF int32_t     sqm_token_find(const sqm_model *m, const char *role_or_text);
/* does it end a text or a chat turn */
SQMDEF int         sqm_token_is_end(const sqm_model *m, int32_t token);

/* ---- sampling and generation --------------------------------------------------------------------------- */
typedef struct sqm_sampler {                           /* plain data: copy it to fork it. All zero: greedy */
    float    temperature;                              /* 0: greedy */
    int32_t  top_k;                                    /* 0: off */
    float    top_p, min_p, typical_p;                  /* 0: off */
    /* divides/multiplies logits of recent tokens; 0 or 1: off */
    float    repeat_penalty;
    float    frequency_penalty, presence_penalty;      /* subtracted from logits of recent tokens; 0: off */
    int32_t  penalty_window;                           /* how many recent tokens count; 0: 64 */
    uint64_t rng[2];                                   /* set by sqm_sampler_seed */
} sqm_sampler;
SQMDEF void    sqm_sampler_seed(sqm_sampler *p, uint64_t seed);
/* Scratch bytes sqm_sample needs for n logits. */
SQMDEF size_t  sqm_sample_size(int32_t n);
/* Picks a token. recent [n_recent]: earlier tokens, latest last (penalties).
   Returns the id or a negative sqm_result. */
SQMDEF int32_t sqm_sample(sqm_sampler *p, const float *logits, int32_t n, const int32_t *recent,
                          int32_t n_recent,
                          void *scratch, size_t scratch_bytes);

/* text: whole UTF-8 characters only, `bytes` long, also NUL-terminated.
   Non-zero return stops the generation.    */
typedef int (*sqm_on_text)(void *user, const char *text, int32_t bytes);
typedef struct sqm_generate_options {                  /* all zero = defaults; NULL too */
    sqm_sampler       *sampler;                        /* NULL: greedy */
    int32_t            max_tokens;                     /* 0: until the model ends or the context is full */
    /* NULL-terminated list of texts of 1 to 128 bytes that end it */
    const char *const *stop;
    uint32_t           token_flags;                    /* SQM_TOKENS_*, for the prompt */
    int32_t            keep_special;                   /* 1: special tokens appear in the text */
} sqm_generate_options;
typedef struct sqm_generate_stats {
    int32_t prompt_tokens, new_tokens;
    int32_t reason;                                    /* SQM_END_* */
} sqm_generate_stats;
enum { SQM_END_MODEL, SQM_END_STOP_TEXT, SQM_END_MAX_TOKENS, SQM_END_CONTEXT, SQM_END_CALLBACK };
/* Feeds prompt after what sequence seq already holds and streams the continuation. stats may be NULL. */
SQMDEF sqm_result sqm_generate(sqm_session *s, int32_t seq, const char *prompt, const sqm_generate_options *o,
                               sqm_on_text on_text, void *user, sqm_generate_stats *stats);

/* ---- writing weight files (tools) ---------------------------------------------------------------------- */
#if !defined(SEQMODEL_NO_STDIO) && !defined(SEQMODEL_NO_WRITER) && !defined(SEQMODEL_NO_MALLOC)
typedef struct sqm_writer sqm_writer;
/* Use: open, meta*, tokenizer?, declare every tensor in order of use, recipe, then data for each tensor in
   the same order, close.
   The writer keeps the first error; later calls do nothing; close reports it and removes the file. Output
   goes to a temporary name beside path and is renamed on success: no partial file is ever left. */
SQMDEF sqm_writer *sqm_writer_open(const char *path, sqm_error *err);
SQMDEF void        sqm_writer_meta(sqm_writer *w, const char *key, const char *value);
SQMDEF void        sqm_writer_tokenizer(sqm_writer *w, const void *blob, size_t bytes);
SQMDEF void        sqm_writer_declare(sqm_writer *w, const char *name, sqm_dtype t, sqm_layout layout,
                                      int32_t ndim,
                                      const int32_t *shape);
/* text form, see [RECIPE]; '\n' lines */
SQMDEF void        sqm_writer_recipe(sqm_writer *w, const char *text);
SQMDEF void        sqm_writer_data(sqm_writer *w, const void *data, size_t bytes);  /* may come in pieces */
SQMDEF sqm_result  sqm_writer_close(sqm_writer *w, sqm_error *err);
SQMDEF void        sqm_writer_abort(sqm_writer *w);    /* close without a file */
#endif

#ifdef __cplusplus
}
#endif
#endif /* SEQMODEL_H_INCLUDED */
#if defined(SEQMODEL_IMPLEMENTATION) && !defined(SEQMODEL_IMPLEMENTED) && !defined(SQM__PASS)
#define SEQMODEL_IMPLEMENTED
#define SQM__IMPLEMENTING               /* until the end of this inclusion; [KERN] includes the file again */

/* ==== [CONF] Configuration =================================================================================
   Every SEQMODEL_* macro is read here, once, and becomes an SQM__HAVE_* that is 0 or 1. All SQM__ macros are
   undefined at the end of the file. Tested by tests/matrix.sh: each macro alone and all together. */
#ifdef SEQMODEL_NO_MALLOC
#  define SQM__HAVE_MALLOC 0
#else
#  define SQM__HAVE_MALLOC 1
#endif
#ifdef SEQMODEL_NO_STDIO
#  define SQM__HAVE_STDIO 0
#else
#  define SQM__HAVE_STDIO 1
#endif
#ifdef SEQMODEL_NO_TOKENIZER
#  define SQM__HAVE_TOKENIZER 0
#else
#  define SQM__HAVE_TOKENIZER 1
#endif
#ifdef SEQMODEL_NO_ERROR_TEXT
#  define SQM__HAVE_ERROR_TEXT 0
#else
#  define SQM__HAVE_ERROR_TEXT 1
#endif
#if defined(SEQMODEL_NO_WRITER) || !SQM__HAVE_MALLOC || !SQM__HAVE_STDIO
#  define SQM__HAVE_WRITER 0
#else
#  define SQM__HAVE_WRITER 1
#endif
#if SQM__HAVE_STDIO && (defined(__unix__) || defined(__APPLE__)) && !defined(SEQMODEL_NO_MMAP)
#  define SQM__HAVE_MMAP 1
#else
#  define SQM__HAVE_MMAP 0
#endif
#if defined(__x86_64__) && defined(__GNUC__) && !defined(SEQMODEL_NO_SIMD)
#  define SQM__HAVE_X86 1
#else
#  define SQM__HAVE_X86 0
#endif
#if defined(__aarch64__) && defined(__GNUC__) && !defined(SEQMODEL_NO_SIMD)
#  define SQM__HAVE_NEON 1
#else
#  define SQM__HAVE_NEON 0
#endif
#if defined(__ARM_FEATURE_MVE) && defined(__GNUC__) && !defined(SEQMODEL_NO_SIMD)
#  define SQM__HAVE_HELIUM (__ARM_FEATURE_MVE >> 1 & 1)      /* with floats */
#else
#  define SQM__HAVE_HELIUM 0
#endif
#if defined(__ARM_FEATURE_SIMD32) && defined(__thumb2__) && defined(__GNUC__) && !defined(SEQMODEL_NO_SIMD)
#  define SQM__HAVE_DSP 1               /* two 16-bit products in an instruction of a Cortex-M */
#else
#  define SQM__HAVE_DSP 0
#endif
#if defined(__OPTIMIZE_SIZE__) || SQM__HAVE_HELIUM || SQM__HAVE_DSP
#  define SQM__SMALL 1                  /* a microcontroller: code size before the speed of batches */
#else
#  define SQM__SMALL 0
#endif
#if SQM__HAVE_X86 || SQM__HAVE_NEON     /* several passes, chosen at run time */
#  define SQM__ONE_PASS 0
#else
#  define SQM__ONE_PASS 1
#endif
#if defined(_OPENMP) && defined(__GNUC__)
#  define SQM__HAVE_TEAM 1
#else
#  define SQM__HAVE_TEAM 0
#endif
#ifndef SEQMODEL_HEADER                 /* the name by which this file includes itself, see [KERN] */
#  define SEQMODEL_HEADER "seqmodel.h"
#endif

/* ==== [PLAT] Platform ======================================================================================
   What differs between compilers and machines, and the error sink. Calls nothing above it.
   Tested by tests/test_plat.c. */
#include <string.h>
#include <stdarg.h>
#include <math.h>
#if SQM__HAVE_MALLOC
#  include <stdlib.h>
#endif
#if SQM__HAVE_STDIO
#  include <stdio.h>
#endif
#if SQM__HAVE_MMAP
#  include <fcntl.h>
#  include <sys/mman.h>
#  include <sys/stat.h>
#  include <unistd.h>
#endif
#ifdef _OPENMP
#  include <omp.h>
#endif
#if SQM__HAVE_TEAM
#  if defined(__unix__) || defined(__APPLE__)
#    include <sched.h>
#    define SQM__YIELD() ((void)sched_yield())
#  else
#    define SQM__YIELD() ((void)0)
#  endif
#  if defined(__x86_64__) || defined(__i386__)
#    define SQM__PAUSE() __builtin_ia32_pause()
#  elif defined(__aarch64__)
#    define SQM__PAUSE() __asm__ volatile("yield")
#  else
#    define SQM__PAUSE() ((void)0)
#  endif
#endif

#ifdef SEQMODEL_ASSERT
#  define SQM__ASSERT(condition) SEQMODEL_ASSERT(condition)
#else
#  define SQM__ASSERT(condition) ((void)0)
#endif
#if defined(__GNUC__)
#  define SQM__INLINE static inline __attribute__((always_inline, unused))
#  define SQM__UNUSED __attribute__((unused))
#  define SQM__NOINLINE __attribute__((noinline, unused))
#  define SQM__RESTRICT __restrict__
#else
#  define SQM__INLINE static inline
#  define SQM__UNUSED
#  define SQM__NOINLINE
#  define SQM__RESTRICT
#endif
#if defined(__clang__)
#  define SQM__UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#  define SQM__UNROLL _Pragma("GCC unroll 16")
#else
#  define SQM__UNROLL
#endif
/* Results must not depend on the user's flags: no silent fused multiply-adds, no -ffast-math rewrites. */
#if defined(__clang__)
#  pragma clang fp contract(off)
#  pragma clang diagnostic push
#  pragma clang diagnostic ignored "-Wpass-failed"     /* not every loop that may be unrolled can be */
#elif defined(__GNUC__)
#  pragma GCC push_options
#  pragma GCC optimize ("no-fast-math", "fp-contract=off")
#endif
/* asks for the cache line at p before it is needed; any address will do */
#if defined(__GNUC__)
#  define SQM__PREFETCH(p) __builtin_prefetch((p), 0, 2)
#else
#  define SQM__PREFETCH(p) ((void)0)
#endif
#define SQM__COUNT(array) ((int32_t)(sizeof(array) / sizeof((array)[0])))

SQM__INLINE uint16_t sqm__load_u16(const void *p) { uint16_t v; memcpy(&v, p, 2); return v; }
SQM__INLINE uint32_t sqm__load_u32(const void *p) { uint32_t v; memcpy(&v, p, 4); return v; }
SQM__INLINE uint64_t sqm__load_u64(const void *p) { uint64_t v; memcpy(&v, p, 8); return v; }
SQM__INLINE float    sqm__load_f32(const void *p) { float v; memcpy(&v, p, 4); return v; }
SQM__INLINE void     sqm__store_u16(void *p, uint16_t v) { memcpy(p, &v, 2); }
SQM__INLINE void     sqm__store_u32(void *p, uint32_t v) { memcpy(p, &v, 4); }
SQM__INLINE uint32_t sqm__bits(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
SQM__INLINE float    sqm__float(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }
SQM__INLINE int32_t  sqm__min(int32_t a, int32_t b) { return a < b ? a : b; }
SQM__INLINE int32_t  sqm__max(int32_t a, int32_t b) { return a > b ? a : b; }
SQM__INLINE size_t   sqm__align_up(size_t n, size_t align) { return (n + align - 1) / align * align; }
SQM__INLINE int32_t  sqm__ceil_div(int32_t a, int32_t b) { return a / b + (a % b != 0); }

SQM__INLINE float sqm__sqrt(float x) { return sqrtf(x); }     /* correctly rounded by IEEE 754 */

/* Finite x without its sign as m * 2^e, 2^23 <= m < 2^24; 0 as 0 * 2^-172. */
SQM__INLINE uint32_t sqm__split_float(uint32_t x, int32_t *e)
{
    uint32_t m = x & 0x7fffffu;
    *e = (int32_t)(x >> 23 & 255u) - 150;
    if (*e > -150) return m | 0x800000u;
    for (*e = -149; m < 0x800000u && *e > -172; --*e) m <<= 1;
    return m;
}
/* x >> by, whose last bit is 1 when any bit that left was */
SQM__INLINE uint64_t sqm__shift_sticky(uint64_t x, int32_t by)
{
    if (by > 63) return x != 0;
    return x >> by | (x << 1 << (63 - by) != 0);
}
/* a * b + c with one rounding, in integers: for machines without floating point. Both terms get 60 to 62
   bits, so that what an alignment shifts out only decides ties. */
SQM__UNUSED SQM__NOINLINE static float sqm__fma_integers(float a, float b, float c)
{
    const uint32_t ua = sqm__bits(a), ub = sqm__bits(b), uc = sqm__bits(c);
    const uint32_t negative = (ua ^ ub) & 0x80000000u;
    int32_t ea, eb, ec, e;
    uint64_t sum, term;
    uint32_t sign = negative, r;
    if ((ua & 0x7f800000u) == 0x7f800000u || (ub & 0x7f800000u) == 0x7f800000u || ua << 1 == 0 ||
        ub << 1 == 0) return a * b + c;
    if ((uc & 0x7f800000u) == 0x7f800000u) return c;
    sum = (uint64_t)sqm__split_float(ua, &ea) * sqm__split_float(ub, &eb) << 14;
    term = (uint64_t)sqm__split_float(uc, &ec) << 37;
    ea += eb - 14;
    ec -= 37;
    e = sqm__max(ea, ec);
    sum = sqm__shift_sticky(sum, e - ea);
    term = sqm__shift_sticky(term, e - ec);
    if (negative == (uc & 0x80000000u)) {
        sum += term;
    } else if (sum >= term) {
        sum -= term;
    } else {
        sum = term - sum;
        sign ^= 0x80000000u;
    }
    if (sum == 0) return 0.0f;
    for (e += 190; !(sum >> 63); e--) sum <<= 1;       /* now the exponent in the bits of a float */
    if (e < 1) { sum = sqm__shift_sticky(sum, 1 - e); e = 1; }
    if (e > 254) return sqm__float(sign | 0x7f800000u);
    r = (uint32_t)(sum >> 40);
    sum &= ((uint64_t)1 << 40) - 1;
    r += (sum >> 39) && (sum << 25 || (r & 1u));
    return sqm__float(sign | (((uint32_t)(e - 1) << 23) + r));
}
/* a * b + c with one rounding, on every machine. Without an FMA instruction: the product is exact in
   double; the sum is rounded to odd there, so that the last rounding to float is the only one that
   counts (Boldo & Melquiond 2008). */
SQM__INLINE float sqm__fma(float a, float b, float c)
{
#if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fmaf(a, b, c);
#elif defined(__SOFTFP__) || (defined(__riscv) && !defined(__riscv_flen))
    return sqm__fma_integers(a, b, c);
#else
    const double product = (double)a * (double)b;
    const double addend = (double)c;
    double sum = product + addend;
    const double virtual_addend = sum - product;
    const double lost = (product - (sum - virtual_addend)) + (addend - virtual_addend);
    uint64_t bits;
    memcpy(&bits, &sum, 8);
    /* inexact and even: step towards the lost part to make it odd */
    if (lost != 0.0 && (bits & 1) == 0) {
        if ((lost > 0.0) == (sum > 0.0)) bits++; else bits--;
        memcpy(&sum, &bits, 8);
    }
    return (float)sum;
#endif
}

#if SQM__HAVE_ERROR_TEXT
static size_t sqm__put_number(char *dst, size_t room, uint64_t v, int negative)
{
    char digits[24];
    size_t n = 0, used = 0;
    do { digits[n++] = (char)('0' + (int)(v % 10)); v /= 10; } while (v);
    if (negative) digits[n++] = '-';
    while (n && used < room) dst[used++] = digits[--n];
    return used;
}

/* A real number with up to six significant digits: 0.001, 12.5, 1e30 */
static size_t sqm__put_real(char *dst, size_t room, double v)
{
    const int negative = v < 0.0;
    double size = negative ? -v : v;
    uint64_t digits;
    int32_t power = 0, places = 5;      /* size = digits / 10^places * 10^power */
    size_t used;
    if (!(size <= 1e300)) {
        memcpy(dst, "not finite", room < 10 ? room : 10);
        return room < 10 ? room : 10;
    }
    for (; size >= 10.0; power++) size /= 10.0;
    for (; size > 0.0 && size < 1.0; power--) size *= 10.0;
    digits = (uint64_t)(size * 1e5 + 0.5);
    if (power > -6 && power < 7) { places -= power; power = 0; }
    for (; places < 0; places++) digits *= 10;
    for (; places > 0 && digits % 10 == 0; places--) digits /= 10;
    if (places == 0) {
        used = sqm__put_number(dst, room, digits, negative);
    } else {
        uint64_t unit = 1, rest;
        for (int32_t i = 0; i < places; i++) unit *= 10;
        used = sqm__put_number(dst, room, digits / unit, negative);
        if (used < room) dst[used++] = '.';
        for (rest = digits % unit; places-- > 0 && used < room; rest %= unit) {
            unit /= 10;
            dst[used++] = (char)('0' + (int)(rest / unit));
        }
    }
    if (power && used < room) {
        dst[used++] = 'e';
        used += sqm__put_number(dst + used, room - used, (uint64_t)(power < 0 ? -power : power), power < 0);
    }
    return used;
}

/* Formats %s (text), %d (int32_t), %z (size_t or uint64_t as uint64_t) and %f (double) into dst; the rest is
   copied. */
static void sqm__format(char *dst, size_t room, const char *format, va_list args)
{
    size_t used = 0;
    for (room--; *format && used < room; format++) {
        if (*format != '%') { dst[used++] = *format; continue; }
        format++;
        if (*format == 's') {
            const char *s = va_arg(args, const char *);
            while (s && *s && used < room) { dst[used++] = (unsigned char)*s < 32 ? '?' : *s; s++; }
        } else if (*format == 'd') {
            const int32_t v = va_arg(args, int32_t);
            used += sqm__put_number(dst + used, room - used, v < 0 ? (uint64_t)0 - (uint64_t)v : (uint64_t)v,
                                    v < 0);
        } else if (*format == 'z') {
            used += sqm__put_number(dst + used, room - used, va_arg(args, uint64_t), 0);
        } else if (*format == 'f') {
            used += sqm__put_real(dst + used, room - used, va_arg(args, double));
        } else {
            break;
        }
    }
    dst[used] = 0;
}
#endif

/* Records an error and returns its code, so that callers write: return sqm__fail(...). err may be NULL. */
static sqm_result sqm__fail(sqm_error *err, sqm_result code, int line, uint64_t value, const char *format,
                            ...)
{
    if (err) {
        err->code = code;
        err->line = line;
        err->value = value;
        err->text[0] = 0;
#if SQM__HAVE_ERROR_TEXT
        va_list args;
        va_start(args, format);
        sqm__format(err->text, sizeof(err->text), format, args);
        va_end(args);
#endif
    }
    (void)format;
    return code;
}
#if SQM__HAVE_ERROR_TEXT
#  define SQM__FAIL(err, code, value, ...) \
       return sqm__fail((err), (code), __LINE__, (uint64_t)(value), __VA_ARGS__)
#else
#  define SQM__FAIL(err, code, value, ...) return sqm__fail((err), (code), __LINE__, (uint64_t)(value), "")
#endif
#define SQM__TRY(call) do { const sqm_result sqm__r = (call); if (sqm__r != SQM_OK) return sqm__r; } while (0)

static int sqm__same_text(const char *a, const char *b) { return a && b && strcmp(a, b) == 0; }

SQMDEF const char *sqm_result_name(sqm_result r)
{
    switch (r) {
    case SQM_OK:            return "SQM_OK";
    case SQM_STOPPED:       return "SQM_STOPPED";
    case SQM_E_ARGUMENT:    return "SQM_E_ARGUMENT";
    case SQM_E_MEMORY:      return "SQM_E_MEMORY";
    case SQM_E_IO:          return "SQM_E_IO";
    case SQM_E_FORMAT:      return "SQM_E_FORMAT";
    case SQM_E_VERSION:     return "SQM_E_VERSION";
    case SQM_E_CHECKSUM:    return "SQM_E_CHECKSUM";
    case SQM_E_SHAPE:       return "SQM_E_SHAPE";
    case SQM_E_UNSUPPORTED: return "SQM_E_UNSUPPORTED";
    case SQM_E_LIMIT:       return "SQM_E_LIMIT";
    }
    return "unknown result";
}

/* ==== [MEM] Arena ==========================================================================================
   A bump allocator over caller's memory. With base == NULL it only counts: the code that sizes an object is
   the code that lays it out, so sizes are exact by construction. Tested by tests/test_mem.c. */
typedef struct sqm__arena {
    uint8_t *base;            /* NULL: count only */
    size_t   size, used;      /* used may pass size; then full is set and pushes return NULL */
    int32_t  full;
} sqm__arena;

/* The base's own misalignment is not counted: bases must be aligned
   to 64 by the caller or by sqm__arena_open.     */
static void *sqm__arena_push(sqm__arena *a, size_t bytes, size_t align)
{
    const size_t at = sqm__align_up(a->used, align);
    if (at < a->used || bytes > (size_t)-1 - at) { a->full = 1; return NULL; }
    a->used = at + bytes;
    if (!a->base) return NULL;
    if (a->used > a->size) { a->full = 1; return NULL; }
    return a->base + at;
}

/* ==== [TYPE] Element types and quantised formats ===========================================================
   What the bytes of a tensor mean. Layouts are frozen: files hold these bytes and kernels read them in place.
   Calls [PLAT] only. Tested by tests/test_type.c (bit for bit against the gguf package, make_type_data.py).

   SQM_PANELS stores a weight [rows, cols] as ceil(rows / 16) panels of 16 rows; missing rows are zero codes
   and zero scales. A panel is a run of units along k (cols), the last one filled with zero codes:
     f32 f16 bf16           unit = 1 k: 16 elements, one of each row
     q8 q4 q4m q5 q5m iq4   unit = 32 k: codes, then f16 scale[16] (then f16 minimum[16])
     q2k .. q6k             unit = 256 k (cols must be a multiple): 8 blocks of 32 k of codes, then the scales
   Codes of 32 k are built from these parts, row = row in the panel, c = 0..3:
     bytes     512 bytes, byte (j*16 + row)*4 + c: code of k = 4j + c, j = 0..7
     nibbles   256 bytes, byte (j*16 + row)*4 + c: low half k = 4j + c, high half k = 16 + 4j + c, j = 0..3
     bits       64 bytes, byte row*4 + c: bit j belongs to k = 4j + c, j = 0..7
     pairs     128 bytes, byte p*64 + row*4 + c: bits 2i, 2i+1 belong to k = 16p + 4i + c, p = 0..1, i = 0..3
   and make these units (sc, m: index [group of k][row]; the number is the unit's size in bytes):
     q8   bytes;                f16 scale[16]                                scale * s8 code               544
     q4   nibbles;              f16 scale[16]                                scale * (code - 8)            288
     q4m  nibbles;              f16 scale[16], minimum[16]                   scale * code + minimum        320
     q5   nibbles, bits=4;      f16 scale[16]                                scale * (code - 16)           352
     q5m  nibbles, bits=4;      f16 scale[16], minimum[16]                   scale * code + minimum        384
     iq4  nibbles;              f16 scale[16]                                scale * table[code]           288
     q4k  8 nibbles;            f16 d[16], dmin[16]; u8 sc[8][16], m[8][16]  (d*sc)*code - dmin*m         2368
     q5k  8 (nibbles, bits=4);  f16 d[16], dmin[16]; u8 sc[8][16], m[8][16]  (d*sc)*code - dmin*m         2880
     q6k  8 (nibbles, pairs=4); f16 d[16]; s8 sc[16][16]                     (d*sc)*(code - 32)           3360
     q3k  8 (pairs=0, bits=2);  f16 d[16]; s8 sc[16][16]                     (d*sc)*(code - 4)            1824
     q2k  8 pairs=0;            f16 d[16], dmin[16]; u8 s[16][16]            d*(s&15)*code - dmin*(s>>4)  1344
   (bits=4: these are bit 4 of the code.) Products of an f16 with such small integers are exact in float32, so
   at most the final sum rounds: the value is the same with and without fused multiply-add, and equal to
   GGML's. */
#define SQM__PANEL_ROWS 16

typedef struct sqm__dtype_info {
    const char *name;
    uint16_t    dtype;        /* sqm_dtype */
    uint16_t    row_bytes;    /* bytes an element in SQM_ROWS; 0: not allowed there */
    uint16_t    unit_k;       /* columns a unit of a panel; 0: not allowed in SQM_PANELS */
    uint16_t    unit_bytes;
    uint16_t    code_bytes;   /* quantised: codes of 32 k; else 0 */
} sqm__dtype_info;

static const sqm__dtype_info sqm__dtypes[] = {
    { "f32",  SQM_F32,  4, 1, 64, 0 },
    { "f16",  SQM_F16,  2, 1, 32, 0 },
    { "bf16", SQM_BF16, 2, 1, 32, 0 },
    { "i32",  SQM_I32,  4, 0, 0, 0 },
    { "i8",   SQM_I8,   1, 0, 0, 0 },
    { "u8",   SQM_U8,   1, 0, 0, 0 },
    { "q8",   SQM_Q8,   0, 32, 544, 512 },
    { "q4",   SQM_Q4,   0, 32, 288, 256 },
    { "q4m",  SQM_Q4M,  0, 32, 320, 256 },
    { "q5",   SQM_Q5,   0, 32, 352, 320 },
    { "q5m",  SQM_Q5M,  0, 32, 384, 320 },
    { "iq4",  SQM_IQ4,  0, 32, 288, 256 },
    { "q2k",  SQM_Q2K,  0, 256, 1344, 128 },
    { "q3k",  SQM_Q3K,  0, 256, 1824, 192 },
    { "q4k",  SQM_Q4K,  0, 256, 2368, 256 },
    { "q5k",  SQM_Q5K,  0, 256, 2880, 320 },
    { "q6k",  SQM_Q6K,  0, 256, 3360, 384 }
};

/* Levels of iq4 (IQ4_NL of GGML). */
static const int8_t sqm__iq4_table[16] = { -127, -104, -83, -65, -49, -35, -22, -10,
                                           1, 13, 25, 38, 53, 69, 89, 113 };

static const sqm__dtype_info *sqm__dtype_find(uint32_t dtype)
{
    for (int32_t i = 0; i < SQM__COUNT(sqm__dtypes); i++) {
        if (sqm__dtypes[i].dtype == dtype) return &sqm__dtypes[i];
    }
    return NULL;
}

SQMDEF const char *sqm_dtype_name(sqm_dtype t)
{
    const sqm__dtype_info *info = sqm__dtype_find((uint32_t)t);
    return info ? info->name : NULL;
}

/* ---- half floats --------------------------------------------------------------------------------------- */
SQM__INLINE float sqm__f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t exponent = (uint32_t)h >> 10 & 31u;
    const uint32_t fraction = (uint32_t)h & 0x3ffu;
    if (exponent == 31) return sqm__float(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) return sqm__float(sign | sqm__bits((float)fraction * (1.0f / 16777216.0f)));
    return sqm__float(sign | (exponent + 112u) << 23 | fraction << 13);
}

/* Rounds to nearest, ties to even; too large values become infinite, NaN stays NaN (quiet). */
SQM__INLINE uint16_t sqm__f32_to_f16(float x)
{
    const uint32_t u = sqm__bits(x);
    const uint32_t sign = u >> 16 & 0x8000u;
    const uint32_t a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x3ffu));
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);              /* 65520 and more */
    if (a >= 0x38800000u) return (uint16_t)(sign | (a + 0xfffu + (a >> 13 & 1u) - 0x38000000u) >> 13);
    if (a < 0x33000000u) return (uint16_t)sign;  /* less than half the smallest, 2^-25 */
    {
        const uint32_t shift = 126u - (a >> 23);  /* 14..24: denormal, in steps of 2^-24 */
        const uint32_t m = (a & 0x7fffffu) | 0x800000u;
        const uint32_t half = 1u << (shift - 1), rest = m & ((1u << shift) - 1u);
        const uint32_t r = m >> shift;
        return (uint16_t)(sign | (r + (rest > half || (rest == half && (r & 1u)))));
    }
}

SQM__INLINE float sqm__bf16_to_f32(uint16_t h) { return sqm__float((uint32_t)h << 16); }

SQM__INLINE uint16_t sqm__f32_to_bf16(float x)
{
    const uint32_t u = sqm__bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

SQM__INLINE int sqm__is_finite(float x) { return (sqm__bits(x) & 0x7f800000u) != 0x7f800000u; }

/* ---- sizes --------------------------------------------------------------------------------------------- */
/* Bytes of one panel of `cols` columns; 0: the dtype has no panels or cols does not fit it. Below 2^37. */
static uint64_t sqm__panel_bytes(sqm_dtype t, int32_t cols)
{
    const sqm__dtype_info *info = sqm__dtype_find((uint32_t)t);
    if (!info || !info->unit_k || cols < 1) return 0;
    if (info->unit_k == 256 && cols % 256 != 0) return 0;
    return (uint64_t)sqm__ceil_div(cols, info->unit_k) * info->unit_bytes;
}

/* sqm_tensor_bytes in 64 bits: what a file needs whatever the machine's size_t is. */
static uint64_t sqm__tensor_bytes64(sqm_dtype t, sqm_layout layout, int32_t ndim, const int32_t *shape)
{
    const sqm__dtype_info *info = sqm__dtype_find((uint32_t)t);
    if (!info || !shape || ndim < 1 || ndim > SQM_MAX_DIMS) return 0;
    if (layout == SQM_PANELS) {  /* at most 2^27 panels of less than 2^37 bytes: cannot wrap */
        if (ndim != 2 || shape[0] < 1) return 0;
        return (uint64_t)sqm__ceil_div(shape[0], SQM__PANEL_ROWS) * sqm__panel_bytes(t, shape[1]);
    }
    if (layout != SQM_ROWS || !info->row_bytes) return 0;
    uint64_t bytes = info->row_bytes;
    for (int32_t i = 0; i < ndim; i++) {
        if (shape[i] < 1 || bytes > UINT64_MAX / (uint64_t)shape[i]) return 0;
        bytes *= (uint64_t)shape[i];
    }
    return bytes;
}

SQMDEF size_t sqm_tensor_bytes(sqm_dtype t, sqm_layout layout, int32_t ndim, const int32_t *shape)
{
    const uint64_t bytes = sqm__tensor_bytes64(t, layout, ndim, shape);
    return bytes > (uint64_t)SIZE_MAX ? 0 : (size_t)bytes;
}

SQMDEF sqm_tensor sqm_tensor_1d(const void *data, sqm_dtype t, int32_t n)
{
    sqm_tensor view;
    view.data = data;
    view.dtype = t;
    view.layout = SQM_ROWS;
    view.ndim = 1;
    view.shape[0] = n;
    view.shape[1] = view.shape[2] = view.shape[3] = 1;
    return view;
}

SQMDEF sqm_tensor sqm_tensor_2d(const void *data, sqm_dtype t, sqm_layout layout, int32_t rows, int32_t cols)
{
    sqm_tensor view = sqm_tensor_1d(data, t, rows);
    view.layout = layout;
    view.ndim = 2;
    view.shape[1] = cols;
    return view;
}

/* ---- reading panels ------------------------------------------------------------------------------------ */
static void sqm__get_nibbles(uint8_t *code, const uint8_t *part, int32_t row)
{
    for (int32_t k = 0; k < 16; k++) {
        const uint8_t byte = part[((k >> 2) * SQM__PANEL_ROWS + row) * 4 + (k & 3)];
        code[k] = (uint8_t)(byte & 15);
        code[k + 16] = (uint8_t)(byte >> 4);
    }
}

static void sqm__get_bits(uint8_t *code, const uint8_t *part, int32_t row, int32_t shift)
{
    for (int32_t k = 0; k < 32; k++) {
        const int32_t bit = part[row * 4 + (k & 3)] >> (k >> 2) & 1;
        code[k] = (uint8_t)(code[k] | bit << shift);
    }
}

static void sqm__get_pairs(uint8_t *code, const uint8_t *part, int32_t row, int32_t shift)
{
    for (int32_t k = 0; k < 32; k++) {
        const int32_t pair = part[(k >> 4) * 64 + row * 4 + (k & 3)] >> (2 * (k >> 2 & 3)) & 3;
        code[k] = (uint8_t)(code[k] | pair << shift);
    }
}

/* The 32 integers that a row's scale multiplies: codes less their offset. block: codes of 32 k. */
static void sqm__block_levels(int8_t *level, const uint8_t *block, sqm_dtype t, int32_t row)
{
    uint8_t code[32] = { 0 };
    int32_t offset = 0;
    switch (t) {
    case SQM_Q8:
        for (int32_t k = 0; k < 32; k++) code[k] = block[((k >> 2) * SQM__PANEL_ROWS + row) * 4 + (k & 3)];
        memcpy(level, code, 32);
        return;
    case SQM_IQ4:
        sqm__get_nibbles(code, block, row);
        for (int32_t k = 0; k < 32; k++) level[k] = sqm__iq4_table[code[k]];
        return;
    case SQM_Q5:
    case SQM_Q5M:
    case SQM_Q5K:
        offset = t == SQM_Q5 ? 16 : 0;
        sqm__get_nibbles(code, block, row);
        sqm__get_bits(code, block + 256, row, 4);
        break;
    case SQM_Q6K:
        offset = 32;
        sqm__get_nibbles(code, block, row);
        sqm__get_pairs(code, block + 256, row, 4);
        break;
    case SQM_Q3K:
        offset = 4;
        sqm__get_pairs(code, block, row, 0);
        sqm__get_bits(code, block + 128, row, 2);
        break;
    case SQM_Q2K: sqm__get_pairs(code, block, row, 0); break;
    default:                                           /* q4, q4m, q4k */
        offset = t == SQM_Q4 ? 8 : 0;
        sqm__get_nibbles(code, block, row);
        break;
    }
    for (int32_t k = 0; k < 32; k++) level[k] = (int8_t)(code[k] - offset);
}

/* Factor and subtrahend of the two halves (16 k each) of block b of a unit: value = factor * level - minus.
   Taking away +0 leaves every value as it is, -0 included. */
static void sqm__block_factors(float *factor, float *minus, const uint8_t *unit, const sqm__dtype_info *info,
                               int32_t b, int32_t row)
{
    const uint8_t *d = unit + (size_t)info->code_bytes * (size_t)(info->unit_k / 32);
    const float scale = sqm__f16_to_f32(sqm__load_u16(d + 2 * row));
    const uint8_t *fine = d + 32 + row;                /* one-level types: nothing or the minima follow */
    for (int32_t h = 0; h < 2; h++) {
        const int32_t g16 = (2 * b + h) * SQM__PANEL_ROWS, g32 = b * SQM__PANEL_ROWS;
        minus[h] = 0.0f;
        switch ((sqm_dtype)info->dtype) {
        case SQM_Q4M:
        case SQM_Q5M:
            factor[h] = scale;
            minus[h] = -sqm__f16_to_f32(sqm__load_u16(d + 32 + 2 * row));
            break;
        case SQM_Q4K:
        case SQM_Q5K:
            factor[h] = scale * (float)fine[32 + g32];
            minus[h] = sqm__f16_to_f32(sqm__load_u16(d + 32 + 2 * row)) * (float)fine[32 + 128 + g32];
            break;
        case SQM_Q2K:
            factor[h] = scale * (float)(fine[32 + g16] & 15);
            minus[h] = sqm__f16_to_f32(sqm__load_u16(d + 32 + 2 * row)) * (float)(fine[32 + g16] >> 4);
            break;
        case SQM_Q3K:
        case SQM_Q6K: {
            int8_t sc;
            memcpy(&sc, fine + g16, 1);
            factor[h] = scale * (float)sc;
            break;
        }
        default: factor[h] = scale; break;
        }
    }
}

/* Values of one row of a panel at k = k0 .. k0 + n - 1, `stride` floats apart; k0 a multiple of the unit. */
static void sqm__dequantize_strided(float *dst, int32_t stride, const uint8_t *panel,
                                    const sqm__dtype_info *info, int32_t row, int32_t k0, int32_t n)
{
    const uint8_t *unit = panel + (size_t)(k0 / info->unit_k) * info->unit_bytes;
    for (int32_t k = 0; k < n; k++) {
        if (info->code_bytes == 0) {
            float v;
            if (info->dtype == SQM_F32) v = sqm__load_f32(unit + 4 * row);
            else if (info->dtype == SQM_F16) v = sqm__f16_to_f32(sqm__load_u16(unit + 2 * row));
            else v = sqm__bf16_to_f32(sqm__load_u16(unit + 2 * row));
            dst[(size_t)k * (size_t)stride] = v;
            unit += info->unit_bytes;
            continue;
        }
        int8_t level[32];
        float factor[2], minus[2];
        const int32_t b = k % info->unit_k / 32, count = sqm__min(32, n - k);
        sqm__block_levels(level, unit + (size_t)b * info->code_bytes, (sqm_dtype)info->dtype, row);
        sqm__block_factors(factor, minus, unit, info, b, row);
        for (int32_t i = 0; i < count; i++) {
            dst[(size_t)(k + i) * (size_t)stride] = factor[i >> 4] * (float)level[i] - minus[i >> 4];
        }
        k += count - 1;
        if ((k + 1) % info->unit_k == 0) unit += info->unit_bytes;
    }
}

/* Values of a whole panel: dst [n][16] for k = k0 .. k0 + n - 1, k0 a multiple of the unit. */
SQM__UNUSED
static void sqm__dequantize_panel(float *dst, const void *panel, sqm_dtype t, int32_t k0, int32_t n)
{
    const sqm__dtype_info *info = sqm__dtype_find((uint32_t)t);
    SQM__ASSERT(info && info->unit_k && k0 % info->unit_k == 0);
    for (int32_t row = 0; row < SQM__PANEL_ROWS; row++) {
        sqm__dequantize_strided(dst + row, SQM__PANEL_ROWS, (const uint8_t *)panel, info, row, k0, n);
    }
}

/* n elements of a plain array as float32. */
static void sqm__dequantize_plain(float *dst, const uint8_t *src, sqm_dtype t, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        switch (t) {
        case SQM_F32:  dst[i] = sqm__load_f32(src + 4 * i); break;
        case SQM_F16:  dst[i] = sqm__f16_to_f32(sqm__load_u16(src + 2 * i)); break;
        case SQM_BF16: dst[i] = sqm__bf16_to_f32(sqm__load_u16(src + 2 * i)); break;
        case SQM_I32: {
            int32_t v;
            memcpy(&v, src + 4 * i, 4);
            dst[i] = (float)v;
            break;
        }
        case SQM_I8: {
            int8_t v;
            memcpy(&v, src + i, 1);
            dst[i] = (float)v;
            break;
        }
        default: dst[i] = (float)src[i]; break;        /* SQM_U8 */
        }
    }
}

static sqm_result sqm__check_tensor(const sqm_tensor *t, sqm_error *err)
{
    if (!t || !t->data) SQM__FAIL(err, SQM_E_ARGUMENT, 0, "tensor is NULL");
    if (!sqm_dtype_name(t->dtype)) {
        SQM__FAIL(err, SQM_E_UNSUPPORTED, t->dtype, "tensor has unknown dtype %d", (int32_t)t->dtype);
    }
    if (!sqm_tensor_bytes(t->dtype, t->layout, t->ndim, t->shape)) {
        SQM__FAIL(err, SQM_E_ARGUMENT, t->ndim,
                  "dtype %s, layout %d and shape [%d, %d] in %d dimensions do not go together",
                  sqm_dtype_name(t->dtype), (int32_t)t->layout, t->shape[0], t->shape[1], t->ndim);
    }
    return SQM_OK;
}

/* Row of a tensor that sqm__check_tensor accepted, `row` in range. */
static void sqm__tensor_row(float *dst, const sqm_tensor *t, int32_t row)
{
    const sqm__dtype_info *info = sqm__dtype_find((uint32_t)t->dtype);
    const uint8_t *data = (const uint8_t *)t->data;
    const int32_t cols = t->shape[1];
    if (t->layout == SQM_ROWS) {
        sqm__dequantize_plain(dst, data + (size_t)row * (size_t)cols * info->row_bytes, t->dtype,
                              (size_t)cols);
        return;
    }
    data += (size_t)(row / SQM__PANEL_ROWS) * (size_t)sqm__panel_bytes(t->dtype, cols);
    sqm__dequantize_strided(dst, 1, data, info, row % SQM__PANEL_ROWS, 0, cols);
}

SQMDEF sqm_result sqm_tensor_row(float *dst, const sqm_tensor *t, int32_t row, sqm_error *err)
{
    SQM__TRY(sqm__check_tensor(t, err));
    if (!dst) SQM__FAIL(err, SQM_E_ARGUMENT, 0, "destination of a tensor row is NULL");
    if (t->ndim != 2) {
        SQM__FAIL(err, SQM_E_ARGUMENT, t->ndim, "tensor has %d dimensions, rows need 2", t->ndim);
    }
    if (row < 0 || row >= t->shape[0]) {
        SQM__FAIL(err, SQM_E_ARGUMENT, row, "row %d is outside the tensor of %d rows", row, t->shape[0]);
    }
    sqm__tensor_row(dst, t, row);
    return SQM_OK;
}

SQMDEF sqm_result sqm_tensor_values(float *dst, size_t n, const sqm_tensor *t, sqm_error *err)
{
    SQM__TRY(sqm__check_tensor(t, err));
    if (!dst) SQM__FAIL(err, SQM_E_ARGUMENT, 0, "destination of tensor values is NULL");
    uint64_t count = 1;  /* panels: two dimensions; rows: the bytes did not wrap */
    for (int32_t i = 0; i < t->ndim; i++) count *= (uint64_t)t->shape[i];
    if (n != count) {
        SQM__FAIL(err, SQM_E_ARGUMENT, count, "tensor has %z values, destination holds %z", count,
                  (uint64_t)n);
    }
    if (t->layout == SQM_ROWS) {
        sqm__dequantize_plain(dst, (const uint8_t *)t->data, t->dtype, n);
        return SQM_OK;
    }
    for (int32_t row = 0; row < t->shape[0]; row++, dst += t->shape[1]) sqm__tensor_row(dst, t, row);
    return SQM_OK;
}

/* ---- writing panels (destinations start as zero bytes) ------------------------------------------------- */
static void sqm__put_nibbles(uint8_t *part, const uint8_t *code, int32_t row)
{
    for (int32_t k = 0; k < 16; k++) {
        uint8_t *byte = part + ((k >> 2) * SQM__PANEL_ROWS + row) * 4 + (k & 3);
        *byte = (uint8_t)((code[k] & 15) | (code[k + 16] & 15) << 4);
    }
}

static void sqm__put_bits(uint8_t *part, const uint8_t *code, int32_t row, int32_t shift)
{
    for (int32_t k = 0; k < 32; k++) {
        uint8_t *byte = part + row * 4 + (k & 3);
        *byte = (uint8_t)(*byte | (code[k] >> shift & 1) << (k >> 2));
    }
}

static void sqm__put_pairs(uint8_t *part, const uint8_t *code, int32_t row, int32_t shift)
{
    for (int32_t k = 0; k < 32; k++) {
        uint8_t *byte = part + (k >> 4) * 64 + row * 4 + (k & 3);
        *byte = (uint8_t)(*byte | (code[k] >> shift & 3) << (2 * (k >> 2 & 3)));
    }
}

/* Inverse of sqm__block_levels, before offsets are taken away. */
static void sqm__put_codes(uint8_t *block, sqm_dtype t, int32_t row, const uint8_t *code)
{
    switch (t) {
    case SQM_Q8:
        for (int32_t k = 0; k < 32; k++) block[((k >> 2) * SQM__PANEL_ROWS + row) * 4 + (k & 3)] = code[k];
        break;
    case SQM_Q5:
    case SQM_Q5M:
    case SQM_Q5K: sqm__put_nibbles(block, code, row); sqm__put_bits(block + 256, code, row, 4); break;
    case SQM_Q6K: sqm__put_nibbles(block, code, row); sqm__put_pairs(block + 256, code, row, 4); break;
    case SQM_Q3K: sqm__put_pairs(block, code, row, 0); sqm__put_bits(block + 128, code, row, 2); break;
    case SQM_Q2K: sqm__put_pairs(block, code, row, 0); break;
    default:      sqm__put_nibbles(block, code, row); break;
    }
}

/* ---- quantiser ----------------------------------------------------------------------------------------- */
/* One group of a row while it is quantised. Columns that are absent have weight 0. Sums are double and their
   products exact, so the choice of scale does not depend on fused multiply-add. */
typedef struct sqm__group {
    float    x[32], w[32];    /* values; importance, at most 1 */
    int32_t  n;               /* columns present, 1..32 */
    float    tried[32];       /* levels of the latest try */
    float    level[32];       /* the best so far: value = scale * level + minimum */
    uint16_t scale, minimum;  /* f16 */
    double   error;           /* their weighted squared error */
} sqm__group;

/* sum of a[k] * b[k] over 32, in four chains so that additions overlap. */
static double sqm__sum_products(const float *a, const float *b)
{
    double s0 = 0.0, s1 = 0.0, s2 = 0.0, s3 = 0.0;
    for (int32_t k = 0; k < 32; k += 4) {
        s0 += (double)a[k] * (double)b[k];
        s1 += (double)a[k + 1] * (double)b[k + 1];
        s2 += (double)a[k + 2] * (double)b[k + 2];
        s3 += (double)a[k + 3] * (double)b[k + 3];
    }
    return (s0 + s1) + (s2 + s3);
}

/* Rounds scale and minimum to f16, finds the nearest levels first .. first + 15 for them and keeps all if the
   error is smaller than before. Loops over all 32 columns without branches, for vectorising compilers. */
static void sqm__group_try(sqm__group *g, float scale, float minimum, int32_t first)
{
    const uint16_t scale16 = sqm__f32_to_f16(scale), minimum16 = sqm__f32_to_f16(minimum);
    const float s = sqm__f16_to_f32(scale16), m = sqm__f16_to_f32(minimum16);
    const float low = (float)first, high = low + 15.0f, up = 0.5f - low;
    float *level = g->tried, weighted[32], off[32];
    if (!sqm__is_finite(s) || !sqm__is_finite(m)) return;
    const float inverse = s == 0.0f ? 0.0f : 1.0f / s;
    for (int32_t k = 0; k < 32; k++) {
        float p = (g->x[k] - m) * inverse;
        p = p > low ? p : low;                         /* clamped before the sum: nothing to fuse */
        p = p < high ? p : high;
        level[k] = (float)(int32_t)(p + up) + low;
    }
    for (int32_t k = 0; k < 32; k++) {
        off[k] = g->x[k] - (s * level[k] + m);
        weighted[k] = g->w[k] * off[k];
    }
    const double error = sqm__sum_products(weighted, off);
    if (error < g->error) {
        g->error = error;
        g->scale = scale16;
        g->minimum = minimum16;
        memcpy(g->level, level, sizeof(g->level));
    }
}

/* Least squares for fixed levels of a symmetric group: scale = sum(w x q) / sum(w q^2). */
static float sqm__fit_scale(const sqm__group *g)
{
    const float *level = g->level;
    float weighted[32];
    for (int32_t k = 0; k < 32; k++) weighted[k] = g->w[k] * level[k];
    const double squares = sqm__sum_products(weighted, level);
    return squares > 0.0 ? (float)(sqm__sum_products(weighted, g->x) / squares) : 0.0f;
}

/* Least squares for fixed levels: x ~ scale * q + minimum. Returns 0 when all levels are equal. */
static int sqm__fit_line(const sqm__group *g, const float *level, float *scale, float *minimum)
{
    static const float ones[32] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 };
    const double total = sqm__sum_products(g->w, ones);
    const float mean = (float)(sqm__sum_products(g->w, level) / total);
    float centred[32], weighted[32];
    for (int32_t k = 0; k < 32; k++) {                 /* about the mean level: no cancellation */
        centred[k] = level[k] - mean;
        weighted[k] = g->w[k] * centred[k];
    }
    const double spread = sqm__sum_products(weighted, centred);
    if (!(spread > 0.0)) return 0;
    *scale = (float)(sqm__sum_products(weighted, g->x) / spread);
    for (int32_t k = 0; k < 32; k++) {
        centred[k] = (float)((double)g->x[k] - (double)*scale * (double)level[k]);
    }
    *minimum = (float)(sqm__sum_products(g->w, centred) / total);
    return 1;
}

/* Symmetric 4 bits: the largest value is tried at levels near -8 and near
   +7; the best scale is refined by least squares. */
static void sqm__quantize_q4(sqm__group *g)
{
    float largest = 0.0f;
    for (int32_t k = 0; k < g->n; k++) {
        if ((g->x[k] < 0.0f ? -g->x[k] : g->x[k]) > (largest < 0.0f ? -largest : largest)) largest = g->x[k];
    }
    sqm__group_try(g, 0.0f, 0.0f, -8);
    for (int32_t step = 0; step < 18; step++) {
        const float at = step < 9 ? -(7.0f + 0.25f * (float)step) : 6.0f + 0.25f * (float)(step - 9);
        sqm__group_try(g, largest / at, 0.0f, -8);
    }
    for (int32_t round = 0; round < 3; round++) {
        const double before = g->error;
        sqm__group_try(g, sqm__fit_scale(g), 0.0f, -8);
        if (!(g->error < before)) break;
    }
}

/* 4 bits with a minimum: ranges from narrower to wider than the values', centred and refined by least
   squares, the best once more. */
static void sqm__quantize_q4m(sqm__group *g)
{
    float low = g->x[0], high = g->x[0], scale, minimum;
    for (int32_t k = 1; k < g->n; k++) {
        if (g->x[k] < low) low = g->x[k];
        if (g->x[k] > high) high = g->x[k];
    }
    const float middle = 0.5f * low + 0.5f * high;
    sqm__group_try(g, 0.0f, middle, 0);
    for (int32_t step = 0; step < 9; step++) {
        scale = (high - low) / (13.0f + 0.5f * (float)step);
        sqm__group_try(g, scale, sqm__fma(-7.5f, scale, middle), 0);
        if (sqm__fit_line(g, g->tried, &scale, &minimum)) sqm__group_try(g, scale, minimum, 0);
    }
    for (int32_t round = 0; round < 4; round++) {
        const double before = g->error;
        if (!sqm__fit_line(g, g->level, &scale, &minimum)) break;
        sqm__group_try(g, scale, minimum, 0);
        if (!(g->error < before)) break;
    }
}

/* 8 bits: scale = largest / 127, rounded to f16, and the nearest codes for that rounded scale. */
static void sqm__quantize_q8(sqm__group *g)
{
    float largest = 0.0f;
    for (int32_t k = 0; k < g->n; k++) {
        const float a = g->x[k] < 0.0f ? -g->x[k] : g->x[k];
        if (a > largest) largest = a;
    }
    g->scale = sqm__f32_to_f16(largest / 127.0f);
    const float s = sqm__f16_to_f32(g->scale), inverse = s == 0.0f ? 0.0f : 1.0f / s;
    for (int32_t k = 0; k < g->n; k++) {
        float p = g->x[k] * inverse;
        if (!(p > -127.0f)) p = -127.0f;
        if (p > 127.0f) p = 127.0f;
        g->level[k] = (float)(int32_t)(p + (p < 0.0f ? -0.5f : 0.5f));
    }
}

/* Quantises up to 32 columns of a row into `row` of a unit. */
static void sqm__pack_group(uint8_t *unit, const sqm__dtype_info *info, int32_t row, const float *src,
                            int32_t n, const float *importance)
{
    const int32_t offset = info->dtype == SQM_Q4 ? 8 : 0;
    sqm__group g;
    uint8_t code[32] = { 0 };
    float heaviest = 0.0f;
    memset(&g, 0, sizeof(g));
    memcpy(g.x, src, (size_t)n * sizeof(float));
    g.n = n;
    g.error = 1.0e300;
    for (int32_t k = 0; importance && k < n; k++) {
        if (importance[k] > heaviest) heaviest = importance[k];
    }
    for (int32_t k = 0; k < n; k++) g.w[k] = heaviest > 0.0f ? importance[k] / heaviest : 1.0f;
    if (info->dtype == SQM_Q8) sqm__quantize_q8(&g);
    else if (info->dtype == SQM_Q4) sqm__quantize_q4(&g);
    else sqm__quantize_q4m(&g);
    for (int32_t k = 0; k < n; k++) code[k] = (uint8_t)(((int32_t)g.level[k] + offset) & 255);
    sqm__put_codes(unit, (sqm_dtype)info->dtype, row, code);
    sqm__store_u16(unit + info->code_bytes + 2 * row, g.scale);
    if (info->dtype == SQM_Q4M) sqm__store_u16(unit + info->code_bytes + 32 + 2 * row, g.minimum);
}

/* One value into a panel of a float type; 0: finite, but beyond the type's range. */
static int sqm__put_float(uint8_t *unit, sqm_dtype t, int32_t row, float x)
{
    if (t == SQM_F32) {
        sqm__store_u32(unit + 4 * row, sqm__bits(x));
        return 1;
    }
    const uint16_t h = t == SQM_F16 ? sqm__f32_to_f16(x) : sqm__f32_to_bf16(x);
    sqm__store_u16(unit + 2 * row, h);
    return !sqm__is_finite(x) || sqm__is_finite(t == SQM_F16 ? sqm__f16_to_f32(h) : sqm__bf16_to_f32(h));
}

/* Largest magnitude whose scale (and minimum) still fit in f16. */
static float sqm__quantize_limit(sqm_dtype t)
{
    if (t == SQM_Q8) return 127.0f * 65504.0f;
    return t == SQM_Q4 ? 8.0f * 65504.0f : 65504.0f;
}

static sqm_result sqm__pack_row(uint8_t *panel, const sqm__dtype_info *info, int32_t row, const float *src,
                                int32_t cols, const float *importance, sqm_error *err)
{
    const sqm_dtype t = (sqm_dtype)info->dtype;
    const int32_t in_panel = row % SQM__PANEL_ROWS;
    for (int32_t k = 0; info->unit_k == 1 && k < cols; k++) {
        if (!sqm__put_float(panel + (size_t)k * info->unit_bytes, t, in_panel, src[k])) {
            SQM__FAIL(err, SQM_E_LIMIT, row, "value at row %d, column %d is too large for %s", row, k,
                      info->name);
        }
    }
    if (info->unit_k == 1) return SQM_OK;
    const float limit = sqm__quantize_limit(t);
    for (int32_t k = 0; k < cols; k++) {
        if (!sqm__is_finite(src[k])) {
            SQM__FAIL(err, SQM_E_ARGUMENT, row, "value at row %d, column %d is not finite: %s cannot hold it",
                      row, k, info->name);
        }
        if (src[k] > limit || src[k] < -limit) {
            SQM__FAIL(err, SQM_E_LIMIT, row, "value at row %d, column %d is too large for %s", row, k,
                      info->name);
        }
    }
    for (int32_t k = 0; k < cols; k += 32) {
        sqm__pack_group(panel + (size_t)(k / 32) * info->unit_bytes, info, in_panel, src + k,
                        sqm__min(32, cols - k), importance ? importance + k : NULL);
    }
    return SQM_OK;
}

SQMDEF sqm_result sqm_pack(void *dst, size_t dst_bytes, sqm_dtype dtype, const float *src, int32_t rows,
                           int32_t cols, const float *importance, sqm_error *err)
{
    const sqm__dtype_info *info = sqm__dtype_find((uint32_t)dtype);
    const int32_t shape[2] = { rows, cols };
    const size_t need = sqm_tensor_bytes(dtype, SQM_PANELS, 2, shape);
    if (!dst || !src) SQM__FAIL(err, SQM_E_ARGUMENT, 0, "source or destination of sqm_pack is NULL");
    if (!info || !info->unit_k || info->unit_k == 256 || dtype == SQM_Q5 || dtype == SQM_Q5M ||
        dtype == SQM_IQ4) {
        SQM__FAIL(err, SQM_E_UNSUPPORTED, dtype, "sqm_pack writes f32 f16 bf16 q8 q4 q4m, not %s",
                  info ? info->name : "an unknown dtype");
    }
    if (!need) SQM__FAIL(err, SQM_E_ARGUMENT, 0, "a tensor of shape [%d, %d] cannot be packed", rows, cols);
    if (dst_bytes < need) {
        SQM__FAIL(err, SQM_E_MEMORY, need, "packing [%d, %d] as %s needs %z bytes, destination has %z", rows,
                  cols, info->name, (uint64_t)need, (uint64_t)dst_bytes);
    }
    for (int32_t k = 0; importance && k < cols; k++) {
        if (!sqm__is_finite(importance[k]) || importance[k] < 0.0f) {
            SQM__FAIL(err, SQM_E_ARGUMENT, k, "importance of column %d is negative or not finite", k);
        }
    }
    const size_t panel_bytes = (size_t)sqm__panel_bytes(dtype, cols);
    memset(dst, 0, need);
    for (int32_t row = 0; row < rows; row++) {
        uint8_t *panel = (uint8_t *)dst + (size_t)(row / SQM__PANEL_ROWS) * panel_bytes;
        SQM__TRY(sqm__pack_row(panel, info, row, src + (size_t)row * (size_t)cols, cols, importance, err));
    }
    return SQM_OK;
}

/* ---- import of GGML blocks ----------------------------------------------------------------------------- */
typedef struct sqm__ggml_info {
    uint16_t type, dtype, block_k, block_bytes;
} sqm__ggml_info;

/* Numbers and block sizes of ggml_type in ggml.h and block_* in ggml-common.h. */
static const sqm__ggml_info sqm__ggml_types[] = {
    { 0, SQM_F32, 1, 4 },      { 1, SQM_F16, 1, 2 },      { 2, SQM_Q4, 32, 18 },     { 3, SQM_Q4M, 32, 20 },
    { 6, SQM_Q5, 32, 22 },     { 7, SQM_Q5M, 32, 24 },    { 8, SQM_Q8, 32, 34 },     { 10, SQM_Q2K, 256, 84 },
    { 11, SQM_Q3K, 256, 110 }, { 12, SQM_Q4K, 256, 144 }, { 13, SQM_Q5K, 256, 176 },
    { 14, SQM_Q6K, 256, 210 }, { 20, SQM_IQ4, 32, 18 },   { 30, SQM_BF16, 1, 2 }
};

/* Two-bit codes of block b (32 k) of a K block: ql[k], four blocks of 32 share 32 bytes. */
SQM__INLINE uint8_t sqm__ggml_pair(const uint8_t *q, int32_t b, int32_t k)
{
    return (uint8_t)(q[(b >> 2) * 32 + k] >> (2 * (b & 3)) & 3);
}

/* Codes of the 32 k of block b of one GGML block of a type with 32 or 256 k, in order of k. */
static void sqm__ggml_codes(uint8_t *code, sqm_dtype t, const uint8_t *src, int32_t b)
{
    const int32_t q_at = t == SQM_Q4M ? 4 : t == SQM_Q5 ? 6 : t == SQM_Q5M ? 8 : 2;
    for (int32_t k = 0; k < 32; k++) {
        int32_t v = 0;
        switch (t) {
        case SQM_Q8: v = src[2 + k]; break;
        case SQM_Q2K: v = sqm__ggml_pair(src + 16, b, k); break;
        case SQM_Q3K: v = sqm__ggml_pair(src + 32, b, k) | (src[k] >> b & 1) << 2; break;
        case SQM_Q4K: v = src[16 + (b >> 1) * 32 + k] >> (4 * (b & 1)) & 15; break;
        case SQM_Q5K:
            v = src[48 + (b >> 1) * 32 + k] >> (4 * (b & 1)) & 15;
            v |= (src[16 + k] >> b & 1) << 4;
            break;
        case SQM_Q6K:
            v = src[(b >> 2) * 64 + (b & 1) * 32 + k] >> (4 * (b >> 1 & 1)) & 15;
            v |= sqm__ggml_pair(src + 128, b, k) << 4;
            break;
        default:
            v = src[q_at + (k & 15)] >> (k < 16 ? 0 : 4) & 15;
            if (t == SQM_Q5 || t == SQM_Q5M) v |= (src[q_at - 4 + (k >> 3)] >> (k & 7) & 1) << 4;
            break;
        }
        code[k] = (uint8_t)v;
    }
}

/* Scales of q4k, q5k: 8 six-bit scales and 8 six-bit minima in 12 bytes. */
static void sqm__ggml_scales_k4(uint8_t *fine, const uint8_t *s)
{
    for (int32_t g = 0; g < 8; g++) {
        const int32_t sc = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
        const int32_t m = g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | s[g] >> 6 << 4;
        fine[g * SQM__PANEL_ROWS] = (uint8_t)sc;
        fine[128 + g * SQM__PANEL_ROWS] = (uint8_t)m;
    }
}

/* Scales of one GGML block into `row` of a unit's scales (d: first byte after the unit's codes). */
static void sqm__ggml_scales(uint8_t *d, sqm_dtype t, int32_t row, const uint8_t *src)
{
    uint8_t *fine = d + 32 + row;
    switch (t) {
    case SQM_Q4M:
    case SQM_Q5M:
        memcpy(d + 2 * row, src, 2);
        memcpy(d + 32 + 2 * row, src + 2, 2);
        break;
    case SQM_Q2K:
        memcpy(d + 2 * row, src + 80, 2);
        memcpy(d + 32 + 2 * row, src + 82, 2);
        for (int32_t g = 0; g < 16; g++) fine[32 + g * SQM__PANEL_ROWS] = src[g];
        break;
    case SQM_Q3K:  /* six bits: low 4 at byte g % 8, high 2 at byte 8 + g % 4 */
        memcpy(d + 2 * row, src + 108, 2);
        for (int32_t g = 0; g < 16; g++) {
            const int32_t low = src[96 + (g & 7)] >> (4 * (g >> 3)) & 15;
            const int32_t high = src[104 + (g & 3)] >> (2 * (g >> 2)) & 3;
            fine[g * SQM__PANEL_ROWS] = (uint8_t)(((low | high << 4) - 32) & 255);
        }
        break;
    case SQM_Q4K:
    case SQM_Q5K:
        memcpy(d + 2 * row, src, 2);
        memcpy(d + 32 + 2 * row, src + 2, 2);
        sqm__ggml_scales_k4(fine + 32, src + 4);
        break;
    case SQM_Q6K:
        memcpy(d + 2 * row, src + 208, 2);
        for (int32_t g = 0; g < 16; g++) fine[g * SQM__PANEL_ROWS] = src[192 + g];
        break;
    default: memcpy(d + 2 * row, src, 2); break;
    }
}

static void sqm__pack_ggml_block(uint8_t *unit, const sqm__dtype_info *info, int32_t row, const uint8_t *src)
{
    const sqm_dtype t = (sqm_dtype)info->dtype;
    uint8_t code[32];
    if (info->unit_k == 1) {
        const size_t size = info->row_bytes;
        memcpy(unit + (size_t)row * size, src, size);
        return;
    }
    for (int32_t b = 0; b < info->unit_k / 32; b++) {
        sqm__ggml_codes(code, t, src, b);
        sqm__put_codes(unit + (size_t)b * info->code_bytes, t, row, code);
    }
    sqm__ggml_scales(unit + (size_t)(info->unit_k / 32) * info->code_bytes, t, row, src);
}

static const sqm__ggml_info *sqm__ggml_find(uint32_t ggml_type)
{
    for (int32_t i = 0; i < SQM__COUNT(sqm__ggml_types); i++) {
        if (sqm__ggml_types[i].type == ggml_type) return &sqm__ggml_types[i];
    }
    return NULL;
}

SQMDEF sqm_result sqm_pack_ggml(void *dst, size_t *bytes, sqm_dtype *dtype, uint32_t ggml_type,
                                const void *src, size_t src_bytes, int32_t rows, int32_t cols, sqm_error *err)
{
    const sqm__ggml_info *from = sqm__ggml_find(ggml_type);
    const int32_t shape[2] = { rows, cols };
    if (!bytes || !dtype) SQM__FAIL(err, SQM_E_ARGUMENT, 0, "bytes or dtype of sqm_pack_ggml is NULL");
    if (!from) {
        SQM__FAIL(err, SQM_E_UNSUPPORTED, ggml_type, "GGML type %z is not supported", (uint64_t)ggml_type);
    }
    if (rows < 1 || cols < 1 || cols % from->block_k != 0) {
        SQM__FAIL(err, SQM_E_SHAPE, cols, "[%d, %d] does not consist of GGML blocks of %d", rows, cols,
                  (int32_t)from->block_k);
    }
    const size_t need = sqm_tensor_bytes((sqm_dtype)from->dtype, SQM_PANELS, 2, shape);
    if (!need) SQM__FAIL(err, SQM_E_LIMIT, 0, "a tensor [%d, %d] does not fit the address space", rows, cols);
    *dtype = (sqm_dtype)from->dtype;
    if (!dst) {
        *bytes = need;
        return SQM_OK;
    }
    const size_t blocks = (size_t)(cols / from->block_k), row_bytes = blocks * from->block_bytes;
    if (!src || src_bytes / row_bytes < (size_t)rows) {
        SQM__FAIL(err, SQM_E_ARGUMENT, src_bytes, "%z source bytes are too few for %d rows of %z bytes",
                  (uint64_t)src_bytes, rows, (uint64_t)row_bytes);
    }
    if (*bytes < need) {
        SQM__FAIL(err, SQM_E_MEMORY, need, "packing [%d, %d] needs %z bytes, destination has %z", rows, cols,
                  (uint64_t)need, (uint64_t)*bytes);
    }
    const sqm__dtype_info *info = sqm__dtype_find(from->dtype);
    const size_t panel_bytes = (size_t)sqm__panel_bytes((sqm_dtype)from->dtype, cols);
    memset(dst, 0, need);
    for (int32_t row = 0; row < rows; row++) {
        uint8_t *unit = (uint8_t *)dst + (size_t)(row / SQM__PANEL_ROWS) * panel_bytes;
        const uint8_t *block = (const uint8_t *)src + (size_t)row * row_bytes;
        for (size_t i = 0; i < blocks; i++, unit += info->unit_bytes, block += from->block_bytes) {
            sqm__pack_ggml_block(unit, info, row % SQM__PANEL_ROWS, block);
        }
    }
    *bytes = need;
    return SQM_OK;
}
/* ==== [CPU] Detection ======================================================================================
   CPUID and XGETBV by hand: __builtin_cpu_supports is missing under some compilers. Nothing is cached (no
   globals). */
#if SQM__HAVE_X86
#include <cpuid.h>
SQM__INLINE uint32_t sqm__cpu_xcr0(void)
{
    uint32_t eax, edx;
    __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return eax;
}
static int sqm__cpu_has_x86(sqm_isa isa)
{
    uint32_t a, b, c, d, b7 = 0, c7 = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0;                 /* OSXSAVE */
    {
        const uint32_t state = sqm__cpu_xcr0();
        const int avx_basics = (c >> 12 & 1) && (c >> 28 & 1) && (c >> 29 & 1);      /* FMA, AVX, F16C */
        uint32_t a7, d7;
        if (!__get_cpuid_count(7, 0, &a7, &b7, &c7, &d7)) return 0;
        if ((state & 6) != 6 || !avx_basics || !(b7 >> 5 & 1)) return 0;             /* AVX2 */
        if (isa == SQM_ISA_AVX2) return 1;
        return (state & 0xe6) == 0xe6 && (b7 >> 16 & 1) && (b7 >> 17 & 1) && (b7 >> 30 & 1) &&
            (b7 >> 31 & 1) &&
               (c7 >> 11 & 1);                                                       /* F, DQ, BW, VL, VNNI */
    }
}
#endif

SQMDEF int sqm_cpu_has(sqm_isa isa)
{
    switch (isa) {
    case SQM_ISA_AUTO:   return 1;
    case SQM_ISA_SCALAR: return !SQM__HAVE_HELIUM;     /* there, the only pass is Helium's */
    case SQM_ISA_HELIUM: return SQM__HAVE_HELIUM;
#if SQM__HAVE_X86
    case SQM_ISA_AVX2:
    case SQM_ISA_AVX512: return sqm__cpu_has_x86(isa);
#endif
#if SQM__HAVE_NEON
    case SQM_ISA_NEON:   return 1;
#endif
    default:             return 0;
    }
}

SQMDEF sqm_isa sqm_cpu_best_isa(void)
{
    if (sqm_cpu_has(SQM_ISA_AVX512)) return SQM_ISA_AVX512;
    if (sqm_cpu_has(SQM_ISA_AVX2)) return SQM_ISA_AVX2;
    if (sqm_cpu_has(SQM_ISA_NEON)) return SQM_ISA_NEON;
    if (sqm_cpu_has(SQM_ISA_HELIUM)) return SQM_ISA_HELIUM;
    return SQM_ISA_SCALAR;
}

SQMDEF const char *sqm_isa_name(sqm_isa isa)
{
    switch (isa) {
    case SQM_ISA_AUTO:   return "auto";
    case SQM_ISA_SCALAR: return "scalar";
    case SQM_ISA_AVX2:   return "avx2";
    case SQM_ISA_AVX512: return "avx512";
    case SQM_ISA_NEON:   return "neon";
    case SQM_ISA_HELIUM: return "helium";
    }
    return "unknown";
}

#define SQM__TEXT2(x) #x
#define SQM__TEXT(x) SQM__TEXT2(x)
#define SQM__VERSION \
    SQM__TEXT(SQM_VERSION_MAJOR) "." SQM__TEXT(SQM_VERSION_MINOR) "." SQM__TEXT(SQM_VERSION_PATCH)
SQMDEF const char *sqm_version(void) { return SQM__VERSION; }
SQMDEF const char *sqm_build_info(void)
{
    return "seqmodel " SQM__VERSION
#if defined(__clang__)
           "; clang " SQM__TEXT(__clang_major__)
#elif defined(__GNUC__)
           "; gcc " SQM__TEXT(__GNUC__)
#endif
#if SQM__HAVE_HELIUM
           "; passes helium"
#else
           "; passes scalar"
#endif
#if SQM__HAVE_X86
           " avx2 avx512"
#elif SQM__HAVE_NEON
           " neon"
#endif
#ifdef _OPENMP
           "; openmp"
#endif
           ;
}
/* ==== [KERN] Kernels =======================================================================================
   Inner loops, written once over a vocabulary of 16-lane vectors and compiled once per instruction set:
   this file includes itself with SQM__PASS set, between target pragmas. A lane is an output row (or a key,
   a channel), so nothing is summed across lanes but in vsum, whose tree is the same everywhere: every pass
   gives the same bits.
   Kernels are serial and take ranges; threads live in [OPS] and [MIX]. Everything was checked before it
   comes here.
   Tested by tests/test_kern.c (every pass of this machine against the scalar one, bit for bit). */
enum {
    SQM__LANES = 16,                    /* rows of a panel, lanes of a vector */
    SQM__GROUP = 32,                    /* activations that share one 8-bit scale */
    SQM__CHUNK = 256,                   /* k dequantised at once in exact products */
    SQM__BLOCK = 128,                   /* tokens whose sums are kept while a chunk of weights is in L1 */
    SQM__TILE_KEYS = 64,                /* keys of an attention tile; tiles start at multiples of it */
    SQM__CODE_PANELS = 2,               /* panels unpacked at once for 8-bit products of many tokens, */
    SQM__CODE_CHUNK = 256,              /* k of them, */
    SQM__CODE_TOKENS = 132,             /* and tokens that pass over them */
    SQM__MAX_TILE = 16,                 /* tiles of 8-bit products have no more tokens */
    SQM__WORK_FLOATS = (256 + 2 * 128) * 16,    /* `work` of gemm: a chunk and two panels of sums; */
    SQM__ROW_FLOATS = 4 * 16            /* for one row: sums of SQM__TILE_ROWS panels */
};

/* One product y[t][row] (+)= scale * (sum_k x[t][k] * w[row][k] + bias[row]) for a range of panels. */
typedef struct sqm__gemm {
    /* [n_tokens] rows of y_stride floats; this matrix's columns start at y */
    float         *y;
    const float   *x;                   /* [n_tokens] rows of x_stride floats */
    /* x in 8 bits, or NULL: exact product. Tokens lie in tiles of `tile`, so that a kernel reads forwards
       only:
       [tiles][groups][tile] times a group's 32 codes, its scale, and the sums of its codes and of its first
       16, both times -SQM__SUM_UNIT of the pass. */
    const int8_t  *codes;
    const float   *code_scales;
    const int32_t *code_sums;
    size_t         plane;               /* 0; else x is in 16 bits: 255 * codes[i] + codes[plane + i] */
    int32_t        tile;
    const uint8_t *panels;
    size_t         panel_bytes, y_stride, x_stride;
    const float   *bias;                /* [n_rows] or NULL */
    float          scale;               /* 1: none */
    int32_t        add;                 /* 1: y += result */
    int32_t        n_tokens, n_rows, n_cols;
    sqm_dtype      dtype;
} sqm__gemm;

/* An integer in a float (|x| < 2^22) as int32, whatever is in the float */
SQM__INLINE int32_t sqm__round_sum(float x)
{
    return (int32_t)(sqm__bits(x + 12582912.0f) & 0x7fffffu) - 0x400000;
}

/* A chunk of panels whose codes lie as register tiles read them, one byte each: `work` of a product with many
   tokens. Scales and minima are of groups, or of half groups. */
typedef struct sqm__code_chunk {
    uint8_t codes[SQM__CODE_PANELS][SQM__CODE_CHUNK * SQM__LANES];      /* [k / 4][16 rows][4] */
    float   scales[SQM__CODE_PANELS][SQM__CODE_CHUNK / 16][SQM__LANES];
    float   mins[SQM__CODE_PANELS][SQM__CODE_CHUNK / 16][SQM__LANES];
    /* [tokens][panels][16 rows]; where there are minima, of half the tokens, then their sums */
    float   sums[SQM__CODE_TOKENS * SQM__CODE_PANELS * SQM__LANES];
    int32_t n_groups, zero;
    const uint8_t *next;                /* what to ask memory for meanwhile, `next_step` bytes a group, or NULL */
    size_t  next_step;
} sqm__code_chunk;
typedef char sqm__work_holds_a_chunk[sizeof(sqm__code_chunk) <= SQM__WORK_FLOATS * sizeof(float) ? 1 : -1];

/* acc [n_rows, n_panels * 16] = or (resume) += x [n_rows, n] * panels of n rows of 16 */
typedef struct sqm__dense {
    float         *acc;
    const float   *x;
    const uint8_t *w, *next;            /* next: what memory is asked for meanwhile, */
    size_t         acc_stride, x_stride, panel_bytes;
    size_t         next_panel, next_step;                   /* these bytes a panel and a k */
    int32_t        n_rows, n_panels, n, resume;
    sqm_dtype      dtype;
} sqm__dense;

/* Panels of keys or values that are widened to float32 at once */
SQM__INLINE int32_t sqm__widened(size_t n_vectors) { return n_vectors < 6 ? 1 : 2; }

/* Query vectors of one key/value head against a run of key tiles. */
typedef struct sqm__attend {
    float         *q;                   /* [n_vectors, head_dim], already scaled */
    float         *acc;                 /* [n_vectors, v_pad] running weighted sum of values */
    float         *max, *sum;           /* [n_vectors] running maximum and sum of exponentials */
    float         *scores;              /* [n_vectors, SQM__TILE_KEYS] */
    float         *panels;              /* [sqm__widened(n_vectors)][max(head_dim, SQM__TILE_KEYS), 16] */
    const int32_t *position, *oldest;   /* [n_vectors] of each query, and of the first key it sees */
    const float   *bias;                /* [n_vectors, SQM__TILE_KEYS] to add to the scores, or NULL */
    int32_t        n_vectors, head_dim, v_pad;
    int32_t        keep;                /* positions before it are always visible */
    int32_t        shared;              /* values are the first columns of the keys: none are stored */
    float          softcap;             /* 0: none */
    sqm_dtype      dtype;               /* of keys and values: SQM_F32, SQM_F16 or SQM_I8 */
} sqm__attend;

/* One row of a depthwise convolution: y[c] = bias[c] + sum_k weights[k][c] * rows[k][c] */
typedef struct sqm__taps {
    const float *const *rows;           /* [n_taps], NULL: a row of zeros */
    const float        *weights;        /* [n_taps, n] */
    const float        *bias;           /* [n] or NULL */
    int32_t             n_taps, n;
} sqm__taps;

/* How a matrix of a test-time memory changes with a token, from the gradient G of its loss ([MIX.memory]). */
enum {
    SQM__LEARN_DESCENT,                 /* M = retain M - rate G */
    SQM__LEARN_MOMENTUM,                /* S = momentum S - rate G; M = retain M + S */
    SQM__LEARN_SUM,                     /* S = S - rate G; what is read is M + retain S */
    SQM__LEARN_SURPRISE                 /* S = momentum S - G; nothing is read */
};
/* One matrix of a test-time memory over n_tokens: token t has the gradient G = sum_i weight_i x_(t+i)'
   e_(t+i) over the `window` pairs from row t of x and e on, and reads y_t = q_t M after its update. */
typedef struct sqm__learn {
    float       *m, *s;                 /* panels [n_panels][rows][16]; s is not touched by DESCENT */
    /* pairs [n_tokens + window - 1]: rows of x_stride and e_stride floats */
    const float *x, *e;
    /* [n_tokens][3 + window]: rate, retain, momentum, weights oldest first */
    const float *gates;
    const float *q;                     /* [n_tokens] rows of q_stride floats */
    float       *y;                     /* [n_tokens] rows of y_stride floats */
    size_t       x_stride, e_stride, q_stride, y_stride;
    int32_t      rows, n_panels, n_tokens, window, rule;
} sqm__learn;

/* Rows of a diagonal scan for one panel of 16 channels, see [MIX.scan]. Strides count floats from one row to
   the next and may be negative. A complex state has its n real parts first; so have a, b and c. */
typedef struct sqm__scan {
    float       *h;                     /* [n][16], complex [2 n][16] */
    float       *y;
    const float *x, *dt;                /* dt NULL: a holds e^(dt a) - 1 itself */
    const float *b, *c;                 /* [n] for all channels, or [n][16] when wide */
    const float *a;                     /* [n][16] */
    const float *dt_bias, *d;           /* [lanes] or NULL */
    ptrdiff_t    x_step, y_step, b_step, c_step;
    int32_t      wide, n, rows, lanes, dt_act, input, fresh, is_complex;
    float        dt_min, dt_max;
} sqm__scan;
enum { SQM__INPUT_STEP, SQM__INPUT_ONE, SQM__INPUT_ROOT };

/* Rows of one head of a matrix state with a scalar decay, see [MIX.ssd]:
   S = e^g S + sum_j w_j u_j k_j^T,   y_i = S q_i + d * u_i of the last n_outputs updates */
typedef struct sqm__rank1 {             /* one rank-1 update of each row */
    const float *u, *k, *w;             /* u [width], k [n] of the first row; w [rows] */
    ptrdiff_t    u_step, k_step;
} sqm__rank1;
typedef struct sqm__ssd {
    float            *state;            /* [ceil(width / 16)][n][16] */
    const float      *log_decay;        /* [rows] */
    const sqm__rank1 *updates;          /* [n_updates] */
    const float      *q, *d;            /* q [n] of the first row and output; d [width] or NULL */
    float            *y;                /* [width] of the first row and output */
    ptrdiff_t         q_step, y_step;   /* to the next row */
    ptrdiff_t         q_next, y_next;   /* to the next output of a row */
    int32_t           n_updates, n_outputs, width, n, rows;
} sqm__ssd;
enum { SQM__SCAN_ROWS = 64,             /* rows of one call of ssd at most */
       SQM__MAX_RANK = 4 };             /* outputs of a row at most; updates: twice as many */

/* One head of a gated outer-product recurrence over the rows of a sequence; see [MIX.linear_attention].
   Pointers stand at the first row. A row may hold several updates; the last one is read. */
enum { SQM__OUTER_ADD, SQM__OUTER_DELTA, SQM__OUTER_DPLR };
enum { SQM__OUTER_POST, SQM__OUTER_PRE, SQM__OUTER_UNREAD };
typedef struct sqm__outer {
    float       *state;                 /* [v_dim / 16][key_dim][16], panels of [KERN]'s dense product */
    float       *key_sum;               /* [key_dim up to a multiple of 16] or NULL */
    const float *q, *k, *v, *a, *b;
    const float *decay, *gate;          /* factors of the first row; decay: 1, key_dim or v_dim of them */
    const float *bonus;                 /* [key_dim] or NULL */
    float       *factor, *extra;        /* [n_rows] of outer_sums; NULL: scale, 0 */
    float       *out;
    float        scale;
    size_t       stride, decay_stride, gate_stride, out_stride;      /* from row to row; 0: all the same */
    size_t       k_step, v_step, gate_step;                          /* from update to update of a row */
    int32_t      n_rows, steps, key_dim, v_dim, update, read, decay_by;
} sqm__outer;
enum { SQM__BY_HEAD, SQM__BY_KEY, SQM__BY_VALUE };     /* decay: one factor, for each key or value channel */

/* Channels [first, last) of a running log-sum-exp; see [MIX.running_softmax]. */
typedef struct sqm__running {
    float       *largest, *sum, *value; /* [channels] the state */
    const float *score, *v;             /* of the first row: [channels / spread], [channels] */
    const float *decay, *bonus;         /* [channels / spread] or NULL */
    float       *out;
    size_t       stride, out_stride;
    int32_t      n_rows, channels, spread, weights;    /* weights: there are no values, see the mixer */
} sqm__running;

/* One head of a recurrent network with exponential gates; see [MIX.slstm]. */
typedef struct sqm__slstm {
    float       *y, *c, *n, *m;         /* [dim] the state */
    float       *raw;                   /* [4 * dim] scratch */
    const float *in;                    /* of the first row: i; f, z, o stand `gate` columns apart */
    const float *weights;               /* [4][dim in][dim out] */
    float       *out;
    size_t       stride, gate, out_stride;
    int32_t      n_rows, dim;
} sqm__slstm;

enum { SQM__REDUCE_SUM, SQM__REDUCE_MEAN, SQM__REDUCE_MAX };
typedef struct sqm__update {            /* where the numbers of one update of sqm__outer are */
    const float *q, *k, *v, *a, *b, *decay;
    float        gate;
    size_t       row;
} sqm__update;

/* A linear time-invariant state space for 16 channels over n_tokens ([MIX.lti]):
   x += da x + u, or with p: x += da x + b u + p sum_n <q_n, x_n>
   y = d u + sum_n <c_n, x_n>, or without c: x            <a, b> = Re a Re b + Im a Im b */
typedef struct sqm__lti_scan {
    void        *state;                 /* [states][re | im][16] floats; doubles when there is da_low */
    float       *y;                     /* [n_tokens] rows of y_stride floats */
    const float *u;                     /* [n_tokens] rows of u_stride floats */
    const float *da, *da_low, *b, *c, *p, *q;   /* [states][re | im][16]; all but da may be NULL */
    const float *d;                     /* [lanes] or NULL */
    size_t       u_stride, y_stride;
    size_t       imag;                  /* without c: imaginary parts lie this far behind in u and y */
    int32_t      states, n_tokens, lanes;
} sqm__lti_scan;

/* Scale-invariant Legendre memory of 16 signals ([MIX.legs]) */
typedef struct sqm__legs_scan {
    float       *state, *work;          /* [order][16]; work [3 * order][16] */
    const float *root;                  /* [order] sqrt(2n + 1) */
    const float *u;                     /* [n_tokens] rows of u_stride floats */
    float       *y;                     /* [n_tokens] rows of order blocks of `signals` floats */
    int32_t      order, signals, lanes, n_tokens, position;
    float        implicit;              /* weight of the new state in the step; < 0: exact step */
} sqm__legs_scan;

/* Leaky integrate-and-fire neurons, 16 at a time ([MIX.spike]) */
typedef struct sqm__spike_scan {
    float       *v, *y;                 /* [lanes] potentials; [n_tokens] rows of `stride` floats */
    const float *x;
    size_t       stride;
    int32_t      n_tokens, lanes, keep_input, soft;
    float        leak, threshold, rest;
} sqm__spike_scan;

typedef struct sqm__calls {             /* the kernels of a pass */
    void (*gemm)(const sqm__gemm *g, int32_t first_panel, int32_t last_panel, float *work);
    /* A row of n values in 8 bits, groups `step` apart; plane: offset
       of the second plane for 16 bits, or 0. */
    void (*quantize)(int8_t *codes, float *scales, int32_t *sums, size_t step, size_t plane, const float *x,
                     int32_t n);
    void (*normalize)(float *y, const float *x, int32_t n, int32_t kind, const float *gain, const float *bias,
                      float eps);
    void (*activate)(float *y, const float *x, size_t n, int32_t kind);
    void (*glu)(float *y, const float *gate, const float *up, size_t n, int32_t kind);
    void (*softmax)(float *y, const float *x, int32_t n, float scale);
    void (*softcap)(float *y, const float *x, size_t n, float cap);
    /* One tile of n_keys valid keys that starts at position first_key, see [MIX.attention]. */
    void (*attend_tile)(const sqm__attend *a, const uint8_t *tile, int32_t first_key, int32_t n_keys);
    void (*narrow)(uint16_t *y, const float *x, int32_t n);    /* float32 -> float16 */
    void (*conv_row)(float *y, const sqm__taps *c);
    /* acc [n_rows, n_panels * 16] = or (resume) += x [n_rows, n] * panels of n rows of 16 */
    void (*product)(float *acc, size_t acc_stride, const float *x, size_t x_stride, int32_t n_rows,
                    const uint8_t *w, size_t panel_bytes, int32_t n_panels, int32_t n, int32_t resume,
                    sqm_dtype dtype);
    /* y [n_rows, n] = e [n_rows, n_panels * 16] * transposed panels; a panel has `rows` >= n rows of 16 */
    void (*product_back)(float *y, size_t y_stride, const float *e, size_t e_stride, int32_t n_rows,
                         const float *w, int32_t rows, int32_t n_panels, int32_t n);
    void (*learn)(const sqm__learn *l);
    /* m = keep m + take n */
    void (*blend)(float *m, const float *n, size_t count, float keep, float take);
    void (*act_slope)(float *y, const float *x, size_t n, int32_t kind);               /* y *= act'(x) */
    /* gradient by z of 1/2 |layer_norm(z) * gain + bias - target|^2 */
    void (*norm_error)(float *e, const float *z, const float *target, const float *gain, const float *bias,
                       int32_t n, float eps);
    void (*scan)(const sqm__scan *s);
    void (*ssd)(const sqm__ssd *s);
    /* angle += step * rate, kept within +-pi; and its sine and cosine */
    void (*turn)(float *angle, float *sine, float *cosine, const float *rate, float step, int32_t n);
    /* y [n_out] = bias (NULL: 0) + x [n_in] * w [n_in][n_out] */
    void (*block)(float *y, const float *x, const float *w, const float *bias, int32_t n_in, int32_t n_out);
    /* sum, largest or mean of n values; kind: SQM__REDUCE_* */
    float (*reduce)(const float *x, int32_t n, int32_t kind);
    /* y = x + (last - x) * (w + m), where NULL is 0 */
    void (*lerp)(float *y, const float *x, const float *last, const float *w, const float *m, int32_t n);
    void (*outer_sums)(const sqm__outer *o, float eps, const float *least);
    void (*outer)(const sqm__outer *o, int32_t first_tile, int32_t last_tile);
    void (*running)(const sqm__running *r, int32_t first, int32_t last);
    void (*slstm)(const sqm__slstm *s);
    void (*lti)(const sqm__lti_scan *s);
    void (*legs)(const sqm__legs_scan *s);
    void (*spike)(const sqm__spike_scan *s);
    /* z [n][re | im][16] <-> values of 16 polynomials at the n roots of X^n = i; n a power of two >= 2 */
    void (*transform)(float *z, const float *roots, int32_t n, int32_t inverse);
    void (*multiply)(float *z, const float *g, int32_t n);                     /* complex [n][re | im][16] */
    /* y[t] = start[t] + sum_l taps[l] u[t - l], l < min(n_taps, past + t + 1); start, u [n][16] */
    void (*convolve)(float *y, size_t y_stride, const float *start, const float *u, const float *taps,
                     size_t tap_stride, int32_t n_taps, int32_t n, int32_t past, int32_t lanes);
} sqm__calls;
typedef struct sqm__kernels {
    sqm_isa           isa;
    int32_t           tile;             /* tokens that an 8-bit product takes at once */
    const sqm__calls *calls;            /* NULL: there is only one pass, see SQM__CALL */
} sqm__kernels;

static const float sqm__key_numbers[SQM__TILE_KEYS] = {
     0,  1,  2,  3,  4,  5,  6,  7,  8,  9, 10, 11, 12, 13, 14, 15,
    16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
    32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47,
    48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63
};
#if SQM__HAVE_X86
#  include <immintrin.h>
#elif SQM__HAVE_NEON
#  include <arm_neon.h>
#endif
#if SQM__HAVE_HELIUM
#  include <arm_mve.h>
#endif
#if SQM__HAVE_DSP
#  include <arm_acle.h>
#endif
#define SQM__CAT2(a, b) a##_##b
#define SQM__CAT(a, b) SQM__CAT2(a, b)
#define SQM__NAME(name) SQM__CAT(sqm__##name, SQM__PASS_NAME)
#define SQM__PASS_SCALAR 1
#define SQM__PASS_AVX2   2
#define SQM__PASS_AVX512 3
#define SQM__PASS_NEON   4
#define SQM__PASS_HELIUM 5
#define SQM__PASS_NARROW 6              /* the elementary functions of the scalar and the Helium pass */

#define SQM__PASS SQM__PASS_NARROW
#define SQM__PASS_NAME narrow
#include SEQMODEL_HEADER
#undef SQM__PASS
#undef SQM__PASS_NAME

#if SQM__HAVE_HELIUM
#  define SQM__PASS SQM__PASS_HELIUM
#  define SQM__PASS_NAME helium
#else
#  define SQM__PASS SQM__PASS_SCALAR
#  define SQM__PASS_NAME scalar
#endif
#include SEQMODEL_HEADER
#undef SQM__PASS
#undef SQM__PASS_NAME

#if SQM__HAVE_X86
#  if defined(__clang__)
#    pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#  else
#    pragma GCC push_options
#    pragma GCC target("avx2,fma,f16c")
#  endif
#  define SQM__PASS SQM__PASS_AVX2
#  define SQM__PASS_NAME avx2
#  include SEQMODEL_HEADER
#  undef SQM__PASS
#  undef SQM__PASS_NAME
#  if defined(__clang__)
#    pragma clang attribute pop
#    pragma clang attribute push(__attribute__((target( \
         "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"))), apply_to = function)
#  else
#    pragma GCC pop_options
#    pragma GCC push_options
#    pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
#    if __GNUC__ < 13                   /* the AVX-512 headers of g++ <= 12 warn about themselves */
#      pragma GCC diagnostic push
#      pragma GCC diagnostic ignored "-Wuninitialized"
#      pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#    endif
#  endif
#  define SQM__PASS SQM__PASS_AVX512
#  define SQM__PASS_NAME avx512
#  include SEQMODEL_HEADER
#  undef SQM__PASS
#  undef SQM__PASS_NAME
#  if defined(__clang__)
#    pragma clang attribute pop
#  else
#    if __GNUC__ < 13
#      pragma GCC diagnostic pop
#    endif
#    pragma GCC pop_options
#  endif
#endif

#if SQM__HAVE_NEON
#  define SQM__PASS SQM__PASS_NEON
#  define SQM__PASS_NAME neon
#  include SEQMODEL_HEADER
#  undef SQM__PASS
#  undef SQM__PASS_NAME
#endif

/* SQM__CALL(kernels, name)(...) calls a kernel. The only pass of a build is called directly: a table would
   link every kernel, used or not. */
#if !SQM__ONE_PASS
#  define SQM__CALL(kernels, name) ((kernels)->calls->name)
#elif SQM__HAVE_HELIUM
#  define SQM__CALL(kernels, name) ((void)(kernels), sqm__##name##_helium)
#else
#  define SQM__CALL(kernels, name) ((void)(kernels), sqm__##name##_scalar)
#endif
static const sqm__kernels *sqm__kernels_of(sqm_isa isa)
{
    if (isa == SQM_ISA_AUTO) isa = sqm_cpu_best_isa();
    if (!sqm_cpu_has(isa)) return NULL;
    switch (isa) {
#if SQM__HAVE_X86
    case SQM_ISA_AVX512: return &sqm__pass_avx512;
    case SQM_ISA_AVX2:   return &sqm__pass_avx2;
#endif
#if SQM__HAVE_NEON
    case SQM_ISA_NEON:   return &sqm__pass_neon;
#endif
#if SQM__HAVE_HELIUM
    default:             return &sqm__pass_helium;
#else
    default:             return &sqm__pass_scalar;
#endif
    }
}
#endif /* SEQMODEL_IMPLEMENTATION, first part; a pass reads only what follows */

#ifdef SQM__PASS
/* ---- vocabulary of the narrow pass: a single number, or the four of a Helium register ------------------ */
#if SQM__PASS == SQM__PASS_NARROW
#define SQM__SPECIAL static SQM__NOINLINE
#define SQM__WIDE
#define v16 sqm__narrow
#if SQM__HAVE_HELIUM
typedef float32x4_t sqm__narrow;
SQM__INLINE v16 SQM__NAME(set1)(float x) { return vdupq_n_f32(x); }
SQM__INLINE v16 SQM__NAME(add)(v16 a, v16 b) { return vaddq_f32(a, b); }
SQM__INLINE v16 SQM__NAME(sub)(v16 a, v16 b) { return vsubq_f32(a, b); }
SQM__INLINE v16 SQM__NAME(mul)(v16 a, v16 b) { return vmulq_f32(a, b); }
SQM__INLINE v16 SQM__NAME(fma)(v16 a, v16 b, v16 c) { return vfmaq_f32(c, a, b); }
SQM__INLINE v16 SQM__NAME(abs)(v16 a) { return vabsq_f32(a); }
SQM__INLINE v16 SQM__NAME(less)(v16 a, v16 b, v16 yes, v16 no)
{
    return vpselq_f32(yes, no, vcmpltq_f32(a, b));
}
SQM__INLINE v16 SQM__NAME(max)(v16 a, v16 b) { return vpselq_f32(a, b, vcmpgtq_f32(a, b)); }
SQM__INLINE v16 SQM__NAME(min)(v16 a, v16 b) { return vpselq_f32(a, b, vcmpltq_f32(a, b)); }
SQM__INLINE v16 SQM__NAME(copysign)(v16 a, v16 s)
{
    const uint32x4_t sign = vdupq_n_u32(0x80000000u);
    return vreinterpretq_f32_u32(vorrq_u32(vbicq_u32(vreinterpretq_u32_f32(a), sign),
                                           vandq_u32(vreinterpretq_u32_f32(s), sign)));
}
SQM__INLINE v16 SQM__NAME(shift_exponent)(v16 p, v16 t)
{
    return vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(p),
                                           vshlq_n_u32(vreinterpretq_u32_f32(t), 23)));
}
/* there are neither vector divisions nor roots */
SQM__INLINE v16 SQM__NAME(div)(v16 a, v16 b)
{
    for (int i = 0; i < 4; i++) a[i] /= b[i];
    return a;
}
SQM__INLINE v16 SQM__NAME(sqrt)(v16 a)
{
    for (int i = 0; i < 4; i++) a[i] = sqm__sqrt(a[i]);
    return a;
}
#else
typedef float sqm__narrow;
SQM__INLINE v16 SQM__NAME(set1)(float x) { return x; }
SQM__INLINE v16 SQM__NAME(add)(v16 a, v16 b) { return a + b; }
SQM__INLINE v16 SQM__NAME(sub)(v16 a, v16 b) { return a - b; }
SQM__INLINE v16 SQM__NAME(mul)(v16 a, v16 b) { return a * b; }
SQM__INLINE v16 SQM__NAME(div)(v16 a, v16 b) { return a / b; }
SQM__INLINE v16 SQM__NAME(fma)(v16 a, v16 b, v16 c) { return sqm__fma(a, b, c); }
SQM__INLINE v16 SQM__NAME(max)(v16 a, v16 b) { return a > b ? a : b; }
SQM__INLINE v16 SQM__NAME(min)(v16 a, v16 b) { return a < b ? a : b; }
SQM__INLINE v16 SQM__NAME(abs)(v16 a) { return sqm__float(sqm__bits(a) & 0x7fffffffu); }
SQM__INLINE v16 SQM__NAME(sqrt)(v16 a) { return sqm__sqrt(a); }
SQM__INLINE v16 SQM__NAME(copysign)(v16 a, v16 s)
{
    return sqm__float((sqm__bits(a) & 0x7fffffffu) | (sqm__bits(s) & 0x80000000u));
}
SQM__INLINE v16 SQM__NAME(less)(v16 a, v16 b, v16 yes, v16 no) { return a < b ? yes : no; }
SQM__INLINE v16 SQM__NAME(shift_exponent)(v16 p, v16 t)
{
    return sqm__float(sqm__bits(p) + (sqm__bits(t) << 23));
}
#endif
/* ---- vocabulary of the scalar pass: the definition that the others imitate ----------------------------- */
#elif SQM__PASS == SQM__PASS_SCALAR
#define v16 sqm__v16_scalar
#define w16 sqm__w16_scalar
#define b64 sqm__b64_scalar
typedef struct { float v[16]; } v16;
typedef struct { int32_t v[16]; } w16;
typedef struct { uint8_t v[64]; } b64;
/* Small before fast here: this pass serves machines without vector units, whose memory is small too. */
#define SQM__LANEWISE static inline SQM__UNUSED
#define SQM__SPECIAL static SQM__NOINLINE  /* one copy of a kernel, types at run time */
#define SQM__WIDE
#define SQM__EACH for (int i = 0; i < 16; i++)
SQM__LANEWISE v16 SQM__NAME(set1)(float x) { v16 r; SQM__EACH r.v[i] = x; return r; }
SQM__LANEWISE v16 SQM__NAME(load)(const float *p) { v16 r; memcpy(&r, p, 64); return r; }
SQM__LANEWISE void SQM__NAME(store)(float *p, v16 a) { memcpy(p, &a, 64); }
SQM__LANEWISE v16 SQM__NAME(load_f16)(const uint8_t *p)
{
    v16 r;
    SQM__EACH r.v[i] = sqm__f16_to_f32(sqm__load_u16(p + 2 * i));
    return r;
}
SQM__LANEWISE void SQM__NAME(store_f16)(uint16_t *p, v16 a) { SQM__EACH p[i] = sqm__f32_to_f16(a.v[i]); }
SQM__LANEWISE v16 SQM__NAME(load_bf16)(const uint8_t *p)
{
    v16 r;
    SQM__EACH r.v[i] = sqm__bf16_to_f32(sqm__load_u16(p + 2 * i));
    return r;
}
SQM__LANEWISE v16 SQM__NAME(load_u8)(const uint8_t *p) { v16 r; SQM__EACH r.v[i] = (float)p[i]; return r; }
SQM__LANEWISE v16 SQM__NAME(load_s8)(const uint8_t *p)
{
    v16 r;
    SQM__EACH r.v[i] = (float)(int8_t)p[i];
    return r;
}
SQM__LANEWISE v16 SQM__NAME(add)(v16 a, v16 b) { SQM__EACH a.v[i] += b.v[i]; return a; }
SQM__LANEWISE v16 SQM__NAME(sub)(v16 a, v16 b) { SQM__EACH a.v[i] -= b.v[i]; return a; }
SQM__LANEWISE v16 SQM__NAME(mul)(v16 a, v16 b) { SQM__EACH a.v[i] *= b.v[i]; return a; }
SQM__LANEWISE v16 SQM__NAME(div)(v16 a, v16 b) { SQM__EACH a.v[i] /= b.v[i]; return a; }
SQM__LANEWISE v16 SQM__NAME(fma)(v16 a, v16 b, v16 c)
{
    SQM__EACH c.v[i] = sqm__fma(a.v[i], b.v[i], c.v[i]);
    return c;
}
SQM__LANEWISE v16 SQM__NAME(max)(v16 a, v16 b)
{
    SQM__EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
}
SQM__LANEWISE v16 SQM__NAME(min)(v16 a, v16 b)
{
    SQM__EACH a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
    return a;
}
SQM__LANEWISE v16 SQM__NAME(abs)(v16 a)
{
    SQM__EACH a.v[i] = sqm__float(sqm__bits(a.v[i]) & 0x7fffffffu);
    return a;
}
SQM__LANEWISE v16 SQM__NAME(sqrt)(v16 a) { SQM__EACH a.v[i] = sqm__sqrt(a.v[i]); return a; }
SQM__LANEWISE v16 SQM__NAME(copysign)(v16 a, v16 s)
{
    SQM__EACH a.v[i] = sqm__float((sqm__bits(a.v[i]) & 0x7fffffffu) | (sqm__bits(s.v[i]) & 0x80000000u));
    return a;
}
SQM__LANEWISE v16 SQM__NAME(less)(v16 a, v16 b, v16 yes, v16 no)
{
    v16 r;
    SQM__EACH r.v[i] = a.v[i] < b.v[i] ? yes.v[i] : no.v[i];
    return r;
}
SQM__LANEWISE v16 SQM__NAME(shift_exponent)(v16 p, v16 t)
{
    SQM__EACH p.v[i] = sqm__float(sqm__bits(p.v[i]) + (sqm__bits(t.v[i]) << 23));
    return p;
}
SQM__LANEWISE void SQM__NAME(store_low)(int8_t *p, v16 a)     /* the low byte of each lane's bits */
{
    SQM__EACH p[i] = (int8_t)((int32_t)((sqm__bits(a.v[i]) & 0xffu) ^ 0x80u) - 0x80);
}
SQM__LANEWISE v16 SQM__NAME(from_int)(w16 a) { v16 r; SQM__EACH r.v[i] = (float)a.v[i]; return r; }
SQM__LANEWISE float SQM__NAME(sum)(v16 a)
{
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] += a.v[i + half];
    return a.v[0];
}
SQM__LANEWISE float SQM__NAME(max_lane)(v16 a)
{
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    return a.v[0];
}
SQM__LANEWISE w16 SQM__NAME(int1)(int32_t x) { w16 r; SQM__EACH r.v[i] = x; return r; }
SQM__LANEWISE b64 SQM__NAME(bytes)(const uint8_t *p) { b64 r; memcpy(&r, p, 64); return r; }
/* bits of every byte, moved right (0 or 4 in bits, up to 7 in bits_at) and left */
SQM__LANEWISE b64 SQM__NAME(bits_at)(b64 a, int right, int left, uint8_t mask)
{
    for (int i = 0; i < 64; i++) a.v[i] = (uint8_t)(((a.v[i] >> right) << left) & mask);
    return a;
}
SQM__LANEWISE b64 SQM__NAME(bits)(b64 a, int right, uint8_t mask) { return SQM__NAME(bits_at)(a, right, 0,
    mask); }
SQM__LANEWISE b64 SQM__NAME(or)(b64 a, b64 b)
{
    for (int i = 0; i < 64; i++) a.v[i] = (uint8_t)(a.v[i] | b.v[i]);
    return a;
}
SQM__LANEWISE b64 SQM__NAME(lookup)(const int8_t *table, b64 a)
{
    for (int i = 0; i < 64; i++) a.v[i] = (uint8_t)table[a.v[i] & 15];
    return a;
}
SQM__LANEWISE v16 SQM__NAME(byte_u)(b64 a, int c)
{
    v16 r;
    SQM__EACH r.v[i] = (float)a.v[4 * i + c];
    return r;
}
SQM__LANEWISE v16 SQM__NAME(byte_s)(b64 a, int c)
{
    v16 r;
    SQM__EACH r.v[i] = (float)(int8_t)a.v[4 * i + c];
    return r;
}
#define SQM__CODE_ZERO 0                /* what dot_s wants added to signed weight codes */
#define SQM__SUM_UNIT 1                 /* sums of 8-bit codes are kept times minus this */
#define SQM__PAIRS 0                    /* small unsigned codes have products of their own */
SQM__LANEWISE b64 SQM__NAME(biased)(b64 w, int zero) { (void)zero; return w; }
SQM__LANEWISE void SQM__NAME(store_bytes)(uint8_t *p, b64 a) { memcpy(p, &a, 64); }
SQM__LANEWISE w16 SQM__NAME(dot_u)(w16 acc, b64 w, const int8_t *x)
{
    SQM__EACH acc.v[i] += w.v[4 * i] * x[0] + w.v[4 * i + 1] * x[1] + w.v[4 * i + 2] * x[2] + w.v[4 * i +
            3] * x[3];
    return acc;
}
SQM__LANEWISE w16 SQM__NAME(dot_s)(w16 acc, b64 w, const int8_t *x)
{
    SQM__EACH acc.v[i] += (int8_t)w.v[4 * i] * x[0] + (int8_t)w.v[4 * i + 1] * x[1] + (int8_t)w.v[4 * i +
            2] * x[2] +
                          (int8_t)w.v[4 * i + 3] * x[3];
    return acc;
}
/* acc += products of 16 or 32 k, codes [quads][16 rows][4]: row by row */
#define SQM__BY_ROWS SQM__SMALL
SQM__LANEWISE w16 SQM__NAME(dot_rows)(w16 acc, const uint8_t *codes, const int8_t *x, int sixteens)
{
#if SQM__HAVE_DSP
    uint32_t even[8], odd[8];           /* codes of x in 16 bits: 0 and 2, 1 and 3 of a quad */
    for (int q = 0; q < 4 * sixteens; q++) {
        const uint32_t four = sqm__load_u32(x + 4 * q);
        even[q] = __sxtb16(four);
        odd[q] = __sxtb16(four >> 8);
    }
    for (int i = 0; i < 16; i++, codes += 4) {
        int32_t sum = acc.v[i];
        for (int q = 0; q < 4 * sixteens; q++) {
            const uint32_t four = sqm__load_u32(codes + 64 * q);
            sum = __smlad(__sxtb16(four), even[q], sum);
            sum = __smlad(__sxtb16(four >> 8), odd[q], sum);
        }
        acc.v[i] = sum;
    }
#else
    for (int i = 0; i < 16; i++, codes += 4)
        for (int k = 0; k < 16 * sixteens; k++)
            acc.v[i] += (int8_t)codes[16 * (k & ~3) + (k & 3)] * x[k];
#endif
    return acc;
}
SQM__LANEWISE w16 SQM__NAME(by255)(w16 a, int32_t b) { SQM__EACH a.v[i] = a.v[i] * 255 + b; return a; }
/* sums of 8-bit products that a pass may gather in something narrower than the 32 bits of dot_u */
SQM__LANEWISE w16 SQM__NAME(pair_begin)(w16 acc) { return acc; }
SQM__LANEWISE w16 SQM__NAME(pair_u)(w16 part, b64 w, const int8_t *x) { return SQM__NAME(dot_u)(part, w, x); }
SQM__LANEWISE w16 SQM__NAME(pair_end)(w16 acc, w16 part) { (void)acc; return part; }
#undef SQM__EACH
#undef SQM__LANEWISE
#define SQM__TILE_P 2                   /* panels and tokens of a register tile */
#define SQM__TILE_T 4
#define SQM__CODE_P 1                   /* panels and tokens of a register tile of 8-bit products, */
#define SQM__CODE_T (SQM__SMALL ? 1 : 2)         /* 1: none, token by token */
#define SQM__TILE_STREAMS 1             /* panels at once for a single token of 8-bit products, */
#define SQM__TILE_ROWS 1                /* and of float32 products; for a few tokens */
#define SQM__TILE_FEW 1
#define SQM__TILE_SUMS 8                /* sums of the largest of these tiles of float32 products */
#define SQM__SSD_P 1                    /* panels and columns of a register tile of matrix states */
#define SQM__SSD_N 1
#define SQM__SSD_STEP 1                 /* panels at once for a single row */
#define SQM__TILE_S 1                   /* state tiles of a recurrence at once; with a plain update */
#define SQM__TILE_A 1

/* ---- vocabulary of the AVX2 pass ----------------------------------------------------------------------- */
#elif SQM__PASS == SQM__PASS_AVX2
#define SQM__SPECIAL SQM__INLINE        /* a copy of a kernel for each type and tile shape */
#define SQM__WIDE SQM__UNROLL
#define v16 sqm__v16_avx2
#define w16 sqm__w16_avx2
#define b64 sqm__b64_avx2
typedef struct { __m256 a, b; } v16;
typedef struct { __m256i a, b; } w16;
typedef struct { __m256i a, b; } b64;
SQM__INLINE v16 SQM__NAME(pair)(__m256 a, __m256 b) { v16 r; r.a = a; r.b = b; return r; }
SQM__INLINE v16 SQM__NAME(set1)(float x) { const __m256 v = _mm256_set1_ps(x); return SQM__NAME(pair)(v, v); }
SQM__INLINE v16 SQM__NAME(load)(const float *p)
{
    return SQM__NAME(pair)(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}
SQM__INLINE void SQM__NAME(store)(float *p, v16 v) { _mm256_storeu_ps(p, v.a); _mm256_storeu_ps(p + 8, v.b); }
SQM__INLINE __m128i SQM__NAME(load16)(const uint8_t *p) { __m128i v; memcpy(&v, p, 16); return v; }
SQM__INLINE __m256i SQM__NAME(load32)(const uint8_t *p) { __m256i v; memcpy(&v, p, 32); return v; }
SQM__INLINE v16 SQM__NAME(load_f16)(const uint8_t *p)
{
    return SQM__NAME(pair)(_mm256_cvtph_ps(SQM__NAME(load16)(p)), _mm256_cvtph_ps(SQM__NAME(load16)(p + 16)));
}
SQM__INLINE void SQM__NAME(store_f16)(uint16_t *p, v16 v)
{
    const __m128i a = _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT);
    const __m128i b = _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT);
    memcpy(p, &a, 16);
    memcpy(p + 8, &b, 16);
}
SQM__INLINE v16 SQM__NAME(load_bf16)(const uint8_t *p)
{
    return SQM__NAME(pair)(
        _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(SQM__NAME(load16)(p)), 16)),
        _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(SQM__NAME(load16)(p + 16)), 16)));
}
SQM__INLINE v16 SQM__NAME(load_u8)(const uint8_t *p)
{
    const __m128i v = SQM__NAME(load16)(p);
    return SQM__NAME(pair)(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(v)),
                           _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))));
}
SQM__INLINE v16 SQM__NAME(load_s8)(const uint8_t *p)
{
    const __m128i v = SQM__NAME(load16)(p);
    return SQM__NAME(pair)(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)),
                           _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(v, 8))));
}
SQM__INLINE v16 SQM__NAME(add)(v16 x, v16 y)
{
    return SQM__NAME(pair)(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b));
}
SQM__INLINE v16 SQM__NAME(sub)(v16 x, v16 y)
{
    return SQM__NAME(pair)(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b));
}
SQM__INLINE v16 SQM__NAME(mul)(v16 x, v16 y)
{
    return SQM__NAME(pair)(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b));
}
SQM__INLINE v16 SQM__NAME(div)(v16 x, v16 y)
{
    return SQM__NAME(pair)(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b));
}
SQM__INLINE v16 SQM__NAME(fma)(v16 x, v16 y, v16 z)
{
    return SQM__NAME(pair)(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b));
}
SQM__INLINE v16 SQM__NAME(max)(v16 x, v16 y)
{
    return SQM__NAME(pair)(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b));
}
SQM__INLINE v16 SQM__NAME(min)(v16 x, v16 y)
{
    return SQM__NAME(pair)(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b));
}
SQM__INLINE v16 SQM__NAME(abs)(v16 x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return SQM__NAME(pair)(_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b));
}
SQM__INLINE v16 SQM__NAME(sqrt)(v16 x) { return SQM__NAME(pair)(_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)); }
SQM__INLINE v16 SQM__NAME(copysign)(v16 x, v16 s)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return SQM__NAME(pair)(_mm256_or_ps(_mm256_andnot_ps(sign, x.a), _mm256_and_ps(sign, s.a)),
                           _mm256_or_ps(_mm256_andnot_ps(sign, x.b), _mm256_and_ps(sign, s.b)));
}
SQM__INLINE v16 SQM__NAME(less)(v16 x, v16 y, v16 yes, v16 no)
{
    return SQM__NAME(pair)(_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
                           _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)));
}
SQM__INLINE __m256 SQM__NAME(shift8)(__m256 p, __m256 t)
{
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p),
                                                _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
}
SQM__INLINE v16 SQM__NAME(shift_exponent)(v16 p, v16 t)
{
    return SQM__NAME(pair)(SQM__NAME(shift8)(p.a, t.a), SQM__NAME(shift8)(p.b, t.b));
}
SQM__INLINE void SQM__NAME(store_low)(int8_t *p, v16 x)
{
    const __m256i low = _mm256_set1_epi32(0xff);
    const __m256i both = _mm256_packus_epi32(_mm256_and_si256(_mm256_castps_si256(x.a), low),
                                             _mm256_and_si256(_mm256_castps_si256(x.b), low));
    const __m256i words = _mm256_permute4x64_epi64(both, 0xd8);
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    memcpy(p, &bytes, 16);
}
SQM__INLINE v16 SQM__NAME(from_int)(w16 x)
{
    return SQM__NAME(pair)(_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b));
}
SQM__INLINE float SQM__NAME(sum)(v16 x)
{
    const __m256 s8 = _mm256_add_ps(x.a, x.b);
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
SQM__INLINE float SQM__NAME(max_lane)(v16 x)
{
    const __m256 s8 = _mm256_max_ps(x.a, x.b);
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
SQM__INLINE w16 SQM__NAME(int1)(int32_t x) { w16 r; r.a = r.b = _mm256_set1_epi32(x); return r; }
SQM__INLINE b64 SQM__NAME(bytes)(const uint8_t *p)
{
    b64 r; r.a = SQM__NAME(load32)(p); r.b = SQM__NAME(load32)(p + 32); return r;
}
SQM__INLINE b64 SQM__NAME(bits)(b64 x, int right, uint8_t mask)
{
    const __m256i keep = _mm256_set1_epi8((char)mask);
    if (right) { x.a = _mm256_srli_epi16(x.a, 4); x.b = _mm256_srli_epi16(x.b, 4); }
    x.a = _mm256_and_si256(x.a, keep);
    x.b = _mm256_and_si256(x.b, keep);
    return x;
}
SQM__INLINE b64 SQM__NAME(bits_at)(b64 x, int right, int left, uint8_t mask)
{
    const __m128i r = _mm_cvtsi32_si128(right), l = _mm_cvtsi32_si128(left);
    const __m256i keep = _mm256_set1_epi8((char)mask);
    x.a = _mm256_and_si256(_mm256_sll_epi16(_mm256_srl_epi16(x.a, r), l), keep);
    x.b = _mm256_and_si256(_mm256_sll_epi16(_mm256_srl_epi16(x.b, r), l), keep);
    return x;
}
SQM__INLINE b64 SQM__NAME(or)(b64 x, b64 y)
{
    x.a = _mm256_or_si256(x.a, y.a); x.b = _mm256_or_si256(x.b, y.b); return x;
}
SQM__INLINE b64 SQM__NAME(lookup)(const int8_t *table, b64 x)
{
    __m128i t;
    memcpy(&t, table, 16);
    {
        const __m256i wide = _mm256_broadcastsi128_si256(t);
        x.a = _mm256_shuffle_epi8(wide, x.a);
        x.b = _mm256_shuffle_epi8(wide, x.b);
    }
    return x;
}
SQM__INLINE __m256 SQM__NAME(byte8)(__m256i x, int c, int is_signed)
{
    switch (c) {
    case 0: x = _mm256_slli_epi32(x, 24); break;
    case 1: x = _mm256_slli_epi32(x, 16); break;
    case 2: x = _mm256_slli_epi32(x, 8); break;
    default: break;
    }
    return _mm256_cvtepi32_ps(is_signed ? _mm256_srai_epi32(x, 24) : _mm256_srli_epi32(x, 24));
}
SQM__INLINE v16 SQM__NAME(byte_u)(b64 x, int c)
{
    return SQM__NAME(pair)(SQM__NAME(byte8)(x.a, c, 0), SQM__NAME(byte8)(x.b, c, 0));
}
SQM__INLINE v16 SQM__NAME(byte_s)(b64 x, int c)
{
    return SQM__NAME(pair)(SQM__NAME(byte8)(x.a, c, 1), SQM__NAME(byte8)(x.b, c, 1));
}
#define SQM__CODE_ZERO 0
#define SQM__SUM_UNIT 1
#define SQM__PAIRS 1
#define SQM__BY_ROWS 0
SQM__INLINE b64 SQM__NAME(biased)(b64 w, int zero) { (void)zero; return w; }
SQM__INLINE void SQM__NAME(store_bytes)(uint8_t *p, b64 x) { memcpy(p, &x.a, 32); memcpy(p + 32, &x.b, 32); }
SQM__INLINE __m256i SQM__NAME(four)(const int8_t *x)
{
    int32_t v; memcpy(&v, x, 4); return _mm256_set1_epi32(v);
}
/* unsigned codes up to 63: pairs of products fit 16 bits */
SQM__INLINE w16 SQM__NAME(dot_u)(w16 acc, b64 w, const int8_t *x)
{
    const __m256i v = SQM__NAME(four)(x), ones = _mm256_set1_epi16(1);
    acc.a = _mm256_add_epi32(acc.a, _mm256_madd_epi16(_mm256_maddubs_epi16(w.a, v), ones));
    acc.b = _mm256_add_epi32(acc.b, _mm256_madd_epi16(_mm256_maddubs_epi16(w.b, v), ones));
    return acc;
}
SQM__INLINE w16 SQM__NAME(by255)(w16 a, int32_t b)
{
    const __m256i add = _mm256_set1_epi32(b);
    a.a = _mm256_add_epi32(_mm256_sub_epi32(_mm256_slli_epi32(a.a, 8), a.a), add);
    a.b = _mm256_add_epi32(_mm256_sub_epi32(_mm256_slli_epi32(a.b, 8), a.b), add);
    return a;
}
/* codes up to 15 (8 quads), 31 (4) or 63 (2): sums of pairs of products stay in 16 bits for a while */
SQM__INLINE w16 SQM__NAME(pair_begin)(w16 acc) { (void)acc; return SQM__NAME(int1)(0); }
SQM__INLINE w16 SQM__NAME(pair_u)(w16 part, b64 w, const int8_t *x)
{
    const __m256i v = SQM__NAME(four)(x);
    part.a = _mm256_add_epi16(part.a, _mm256_maddubs_epi16(w.a, v));
    part.b = _mm256_add_epi16(part.b, _mm256_maddubs_epi16(w.b, v));
    return part;
}
SQM__INLINE w16 SQM__NAME(pair_end)(w16 acc, w16 part)
{
    const __m256i ones = _mm256_set1_epi16(1);
    acc.a = _mm256_add_epi32(acc.a, _mm256_madd_epi16(part.a, ones));
    acc.b = _mm256_add_epi32(acc.b, _mm256_madd_epi16(part.b, ones));
    return acc;
}
/* signed codes: |w| times x with w's sign. |x| <= 127, so that pairs fit 16 bits and negation is safe */
SQM__INLINE w16 SQM__NAME(dot_s)(w16 acc, b64 w, const int8_t *x)
{
    const __m256i v = SQM__NAME(four)(x), ones = _mm256_set1_epi16(1);
    acc.a = _mm256_add_epi32(acc.a, _mm256_madd_epi16(
        _mm256_maddubs_epi16(_mm256_abs_epi8(w.a), _mm256_sign_epi8(v, w.a)), ones));
    acc.b = _mm256_add_epi32(acc.b, _mm256_madd_epi16(
        _mm256_maddubs_epi16(_mm256_abs_epi8(w.b), _mm256_sign_epi8(v, w.b)), ones));
    return acc;
}
#define SQM__TILE_P 1
#define SQM__TILE_T 6
#define SQM__CODE_P 1
#define SQM__CODE_T 4
#define SQM__TILE_STREAMS 4
#define SQM__TILE_ROWS 4
#define SQM__TILE_FEW 2
#define SQM__TILE_SUMS 6
#define SQM__SSD_P 1
#define SQM__SSD_N 4
#define SQM__SSD_STEP 2
#define SQM__TILE_S 1
#define SQM__TILE_A 2

/* ---- vocabulary of the AVX-512 pass -------------------------------------------------------------------- */
#elif SQM__PASS == SQM__PASS_AVX512
#define SQM__SPECIAL SQM__INLINE
#define SQM__WIDE SQM__UNROLL
#define v16 __m512
#define w16 __m512i
#define b64 __m512i
SQM__INLINE v16 SQM__NAME(set1)(float x) { return _mm512_set1_ps(x); }
SQM__INLINE v16 SQM__NAME(load)(const float *p) { return _mm512_loadu_ps(p); }
SQM__INLINE void SQM__NAME(store)(float *p, v16 a) { _mm512_storeu_ps(p, a); }
SQM__INLINE __m128i SQM__NAME(load16)(const uint8_t *p) { __m128i v; memcpy(&v, p, 16); return v; }
SQM__INLINE __m256i SQM__NAME(load32)(const uint8_t *p) { __m256i v; memcpy(&v, p, 32); return v; }
SQM__INLINE v16 SQM__NAME(load_f16)(const uint8_t *p) { return _mm512_cvtph_ps(SQM__NAME(load32)(p)); }
SQM__INLINE void SQM__NAME(store_f16)(uint16_t *p, v16 a)
{
    const __m256i half = _mm512_maskz_cvtps_ph(0xffff, a, _MM_FROUND_TO_NEAREST_INT);
    memcpy(p, &half, 32);
}
SQM__INLINE v16 SQM__NAME(load_bf16)(const uint8_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(SQM__NAME(load32)(p)), 16));
}
SQM__INLINE v16 SQM__NAME(load_u8)(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(SQM__NAME(load16)(p)));
}
SQM__INLINE v16 SQM__NAME(load_s8)(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(SQM__NAME(load16)(p)));
}
SQM__INLINE v16 SQM__NAME(add)(v16 a, v16 b) { return _mm512_add_ps(a, b); }
SQM__INLINE v16 SQM__NAME(sub)(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
SQM__INLINE v16 SQM__NAME(mul)(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
SQM__INLINE v16 SQM__NAME(div)(v16 a, v16 b) { return _mm512_div_ps(a, b); }
SQM__INLINE v16 SQM__NAME(fma)(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
SQM__INLINE v16 SQM__NAME(max)(v16 a, v16 b) { return _mm512_max_ps(a, b); }
SQM__INLINE v16 SQM__NAME(min)(v16 a, v16 b) { return _mm512_min_ps(a, b); }
SQM__INLINE v16 SQM__NAME(abs)(v16 a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
SQM__INLINE v16 SQM__NAME(sqrt)(v16 a) { return _mm512_sqrt_ps(a); }
SQM__INLINE v16 SQM__NAME(copysign)(v16 a, v16 s)
{
    return _mm512_or_ps(SQM__NAME(abs)(a), _mm512_and_ps(_mm512_set1_ps(-0.0f), s));
}
SQM__INLINE v16 SQM__NAME(less)(v16 a, v16 b, v16 yes, v16 no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
SQM__INLINE v16 SQM__NAME(shift_exponent)(v16 p, v16 t)
{
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p),
                                                _mm512_slli_epi32(_mm512_castps_si512(t), 23)));
}
SQM__INLINE void SQM__NAME(store_low)(int8_t *p, v16 a)
{
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_castps_si512(a));
    memcpy(p, &bytes, 16);
}
SQM__INLINE v16 SQM__NAME(from_int)(w16 a) { return _mm512_cvtepi32_ps(a); }
SQM__INLINE float SQM__NAME(sum)(v16 a)
{
    const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
SQM__INLINE float SQM__NAME(max_lane)(v16 a)
{
    const __m256 s8 = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
SQM__INLINE w16 SQM__NAME(int1)(int32_t x) { return _mm512_set1_epi32(x); }
SQM__INLINE b64 SQM__NAME(bytes)(const uint8_t *p) { return _mm512_loadu_si512((const void *)p); }
SQM__INLINE b64 SQM__NAME(bits)(b64 x, int right, uint8_t mask)
{
    if (right) x = _mm512_srli_epi16(x, 4);
    return _mm512_and_si512(x, _mm512_set1_epi8((char)mask));
}
SQM__INLINE b64 SQM__NAME(bits_at)(b64 x, int right, int left, uint8_t mask)
{
    x = _mm512_sll_epi16(_mm512_srl_epi16(x, _mm_cvtsi32_si128(right)), _mm_cvtsi32_si128(left));
    return _mm512_and_si512(x, _mm512_set1_epi8((char)mask));
}
SQM__INLINE b64 SQM__NAME(or)(b64 a, b64 b) { return _mm512_or_si512(a, b); }
SQM__INLINE b64 SQM__NAME(lookup)(const int8_t *table, b64 x)
{
    __m128i t;
    memcpy(&t, table, 16);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(t), x);
}
SQM__INLINE v16 SQM__NAME(byte)(b64 x, int c, int is_signed)
{
    switch (c) {
    case 0: x = _mm512_slli_epi32(x, 24); break;
    case 1: x = _mm512_slli_epi32(x, 16); break;
    case 2: x = _mm512_slli_epi32(x, 8); break;
    default: break;
    }
    return _mm512_cvtepi32_ps(is_signed ? _mm512_srai_epi32(x, 24) : _mm512_srli_epi32(x, 24));
}
SQM__INLINE v16 SQM__NAME(byte_u)(b64 x, int c) { return SQM__NAME(byte)(x, c, 0); }
SQM__INLINE v16 SQM__NAME(byte_s)(b64 x, int c) { return SQM__NAME(byte)(x, c, 1); }
/* VNNI wants unsigned weights: codes are raised to a zero of 128 and dots start from -128 * sum(x). */
#define SQM__CODE_ZERO 128
#define SQM__SUM_UNIT 128
#define SQM__PAIRS 0
#define SQM__BY_ROWS 0
SQM__INLINE b64 SQM__NAME(biased)(b64 w, int zero)
{
    return _mm512_add_epi8(w, _mm512_set1_epi8((char)(128 - zero)));
}
SQM__INLINE void SQM__NAME(store_bytes)(uint8_t *p, b64 x) { _mm512_storeu_si512((void *)p, x); }
SQM__INLINE __m512i SQM__NAME(four)(const int8_t *x)
{
    int32_t v; memcpy(&v, x, 4); return _mm512_set1_epi32(v);
}
SQM__INLINE w16 SQM__NAME(dot_u)(w16 acc, b64 w, const int8_t *x)
{
    return _mm512_dpbusd_epi32(acc, w, SQM__NAME(four)(x));
}
SQM__INLINE w16 SQM__NAME(dot_s)(w16 acc, b64 w, const int8_t *x)
{
    return _mm512_dpbusd_epi32(acc, w, SQM__NAME(four)(x));
}
SQM__INLINE w16 SQM__NAME(by255)(w16 a, int32_t b)
{
    return _mm512_add_epi32(_mm512_sub_epi32(_mm512_slli_epi32(a, 8), a), _mm512_set1_epi32(b));
}
SQM__INLINE w16 SQM__NAME(pair_begin)(w16 acc) { return acc; }
SQM__INLINE w16 SQM__NAME(pair_u)(w16 part, b64 w, const int8_t *x) { return SQM__NAME(dot_u)(part, w, x); }
SQM__INLINE w16 SQM__NAME(pair_end)(w16 acc, w16 part) { (void)acc; return part; }
#define SQM__TILE_P 2
#define SQM__TILE_T 12
#define SQM__CODE_P 2
#define SQM__CODE_T 6
#define SQM__TILE_STREAMS 4
#define SQM__TILE_ROWS 4
#define SQM__TILE_FEW 4
#define SQM__TILE_SUMS 24
#define SQM__SSD_P 4
#define SQM__SSD_N 4
#define SQM__SSD_STEP 4
#define SQM__TILE_S 2
#define SQM__TILE_A 4

/* ---- vocabulary of the NEON pass (AArch64) ------------------------------------------------------------- */
#elif SQM__PASS == SQM__PASS_NEON
#define SQM__SPECIAL SQM__INLINE
#define SQM__WIDE SQM__UNROLL
#define v16 sqm__v16_neon
#define w16 sqm__w16_neon
#define b64 sqm__b64_neon
typedef struct { float32x4_t v[4]; } v16;
typedef struct { int32x4_t v[4]; } w16;
typedef struct { uint8x16_t v[4]; } b64;
#define SQM__EACH SQM__UNROLL for (int i = 0; i < 4; i++)
SQM__INLINE v16 SQM__NAME(set1)(float x) { v16 r; SQM__EACH r.v[i] = vdupq_n_f32(x); return r; }
SQM__INLINE v16 SQM__NAME(load)(const float *p) { v16 r; SQM__EACH r.v[i] = vld1q_f32(p + 4 * i); return r; }
SQM__INLINE void SQM__NAME(store)(float *p, v16 a) { SQM__EACH vst1q_f32(p + 4 * i, a.v[i]); }
SQM__INLINE v16 SQM__NAME(load_f16)(const uint8_t *p)
{
    v16 r;
    SQM__EACH { uint16x4_t h; memcpy(&h, p + 8 * i, 8); r.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(h)); }
    return r;
}
SQM__INLINE void SQM__NAME(store_f16)(uint16_t *p, v16 a)
{
    SQM__EACH vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}
SQM__INLINE v16 SQM__NAME(load_bf16)(const uint8_t *p)
{
    v16 r;
    SQM__EACH { uint16x4_t h; memcpy(&h, p + 8 * i, 8); r.v[i] = vreinterpretq_f32_u32(vshll_n_u16(h, 16)); }
    return r;
}
SQM__INLINE v16 SQM__NAME(load_u8)(const uint8_t *p)
{
    const uint8x16_t b = vld1q_u8(p);
    const uint16x8_t low = vmovl_u8(vget_low_u8(b)), high = vmovl_u8(vget_high_u8(b));
    v16 r;
    r.v[0] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(low)));
    r.v[1] = vcvtq_f32_u32(vmovl_u16(vget_high_u16(low)));
    r.v[2] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(high)));
    r.v[3] = vcvtq_f32_u32(vmovl_u16(vget_high_u16(high)));
    return r;
}
SQM__INLINE v16 SQM__NAME(load_s8)(const uint8_t *p)
{
    const int8x16_t b = vreinterpretq_s8_u8(vld1q_u8(p));
    const int16x8_t low = vmovl_s8(vget_low_s8(b)), high = vmovl_s8(vget_high_s8(b));
    v16 r;
    r.v[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(low)));
    r.v[1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(low)));
    r.v[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(high)));
    r.v[3] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)));
    return r;
}
SQM__INLINE v16 SQM__NAME(add)(v16 a, v16 b) { SQM__EACH a.v[i] = vaddq_f32(a.v[i], b.v[i]); return a; }
SQM__INLINE v16 SQM__NAME(sub)(v16 a, v16 b) { SQM__EACH a.v[i] = vsubq_f32(a.v[i], b.v[i]); return a; }
SQM__INLINE v16 SQM__NAME(mul)(v16 a, v16 b) { SQM__EACH a.v[i] = vmulq_f32(a.v[i], b.v[i]); return a; }
SQM__INLINE v16 SQM__NAME(div)(v16 a, v16 b) { SQM__EACH a.v[i] = vdivq_f32(a.v[i], b.v[i]); return a; }
SQM__INLINE v16 SQM__NAME(fma)(v16 a, v16 b, v16 c)
{
    SQM__EACH c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]);
    return c;
}
SQM__INLINE v16 SQM__NAME(max)(v16 a, v16 b)
{
    SQM__EACH a.v[i] = vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]);
    return a;
}
SQM__INLINE v16 SQM__NAME(min)(v16 a, v16 b)
{
    SQM__EACH a.v[i] = vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]);
    return a;
}
SQM__INLINE v16 SQM__NAME(abs)(v16 a) { SQM__EACH a.v[i] = vabsq_f32(a.v[i]); return a; }
SQM__INLINE v16 SQM__NAME(sqrt)(v16 a) { SQM__EACH a.v[i] = vsqrtq_f32(a.v[i]); return a; }
SQM__INLINE v16 SQM__NAME(copysign)(v16 a, v16 s)
{
    SQM__EACH a.v[i] = vbslq_f32(vdupq_n_u32(0x80000000u), s.v[i], a.v[i]);
    return a;
}
SQM__INLINE v16 SQM__NAME(less)(v16 a, v16 b, v16 yes, v16 no)
{
    SQM__EACH a.v[i] = vbslq_f32(vcltq_f32(a.v[i], b.v[i]), yes.v[i], no.v[i]);
    return a;
}
SQM__INLINE v16 SQM__NAME(shift_exponent)(v16 p, v16 t)
{
    SQM__EACH p.v[i] = vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(p.v[i]),
                                                       vshlq_n_u32(vreinterpretq_u32_f32(t.v[i]), 23)));
    return p;
}
SQM__INLINE void SQM__NAME(store_low)(int8_t *p, v16 a)
{
    uint16x4_t w[4];
    SQM__EACH w[i] = vmovn_u32(vreinterpretq_u32_f32(a.v[i]));
    vst1q_u8((uint8_t *)p, vcombine_u8(vmovn_u16(vcombine_u16(w[0], w[1])),
                                       vmovn_u16(vcombine_u16(w[2], w[3]))));
}
SQM__INLINE v16 SQM__NAME(from_int)(w16 a) { v16 r; SQM__EACH r.v[i] = vcvtq_f32_s32(a.v[i]); return r; }
SQM__INLINE float SQM__NAME(sum)(v16 a)
{
    const float32x4_t s4 = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
    const float32x2_t s2 = vadd_f32(vget_low_f32(s4), vget_high_f32(s4));
    return vget_lane_f32(s2, 0) + vget_lane_f32(s2, 1);
}
SQM__INLINE float SQM__NAME(max_lane)(v16 a)
{
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[2]), vmaxq_f32(a.v[1], a.v[3])));
}
SQM__INLINE w16 SQM__NAME(int1)(int32_t x) { w16 r; SQM__EACH r.v[i] = vdupq_n_s32(x); return r; }
SQM__INLINE b64 SQM__NAME(bytes)(const uint8_t *p)
{
    b64 r;
    SQM__EACH r.v[i] = vld1q_u8(p + 16 * i);
    return r;
}
SQM__INLINE b64 SQM__NAME(bits_at)(b64 x, int right, int left, uint8_t mask)
{
    const int8x16_t shift = vdupq_n_s8((int8_t)(left - right));
    SQM__EACH x.v[i] = vandq_u8(vshlq_u8(x.v[i], shift), vdupq_n_u8(mask));
    return x;
}
SQM__INLINE b64 SQM__NAME(bits)(b64 x, int right, uint8_t mask) { return SQM__NAME(bits_at)(x, right, 0,
    mask); }
SQM__INLINE b64 SQM__NAME(or)(b64 a, b64 b) { SQM__EACH a.v[i] = vorrq_u8(a.v[i], b.v[i]); return a; }
SQM__INLINE b64 SQM__NAME(lookup)(const int8_t *table, b64 x)
{
    const uint8x16_t t = vreinterpretq_u8_s8(vld1q_s8(table));
    SQM__EACH x.v[i] = vqtbl1q_u8(t, x.v[i]);
    return x;
}
SQM__INLINE v16 SQM__NAME(byte_u)(b64 x, int c)
{
    v16 r;
    SQM__EACH r.v[i] = vcvtq_f32_u32(vshrq_n_u32(vshlq_u32(vreinterpretq_u32_u8(x.v[i]),
                                                           vdupq_n_s32(24 - 8 * c)), 24));
    return r;
}
SQM__INLINE v16 SQM__NAME(byte_s)(b64 x, int c)
{
    v16 r;
    SQM__EACH r.v[i] = vcvtq_f32_s32(vshrq_n_s32(vreinterpretq_s32_u32(
        vshlq_u32(vreinterpretq_u32_u8(x.v[i]), vdupq_n_s32(24 - 8 * c))), 24));
    return r;
}
#define SQM__CODE_ZERO 0
#define SQM__SUM_UNIT 1
#define SQM__PAIRS 0
#define SQM__BY_ROWS 0
SQM__INLINE b64 SQM__NAME(biased)(b64 w, int zero) { (void)zero; return w; }
SQM__INLINE void SQM__NAME(store_bytes)(uint8_t *p, b64 x) { SQM__EACH vst1q_u8(p + 16 * i, x.v[i]); }
SQM__INLINE w16 SQM__NAME(dot_s)(w16 acc, b64 w, const int8_t *x)
{
    int32_t four;
    memcpy(&four, x, 4);
    {
        const int8x16_t v = vreinterpretq_s8_s32(vdupq_n_s32(four));
        SQM__EACH {
            const int8x16_t u = vreinterpretq_s8_u8(w.v[i]);
#if defined(__ARM_FEATURE_DOTPROD)
            acc.v[i] = vdotq_s32(acc.v[i], u, v);
#else
            const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(u), vget_low_s8(v)));
            const int32x4_t high = vpaddlq_s16(vmull_s8(vget_high_s8(u), vget_high_s8(v)));
            acc.v[i] = vaddq_s32(acc.v[i], vpaddq_s32(low, high));
#endif
        }
    }
    return acc;
}
/* codes <= 63 */
SQM__INLINE w16 SQM__NAME(dot_u)(w16 acc, b64 w, const int8_t *x) { return SQM__NAME(dot_s)(acc, w, x); }
SQM__INLINE w16 SQM__NAME(pair_begin)(w16 acc) { return acc; }
SQM__INLINE w16 SQM__NAME(pair_u)(w16 part, b64 w, const int8_t *x) { return SQM__NAME(dot_u)(part, w, x); }
SQM__INLINE w16 SQM__NAME(pair_end)(w16 acc, w16 part) { (void)acc; return part; }
SQM__INLINE w16 SQM__NAME(by255)(w16 a, int32_t b)
{
    SQM__EACH a.v[i] = vmlaq_n_s32(vdupq_n_s32(b), a.v[i], 255);
    return a;
}
#undef SQM__EACH
#define SQM__TILE_P 1
#define SQM__TILE_T 5
#define SQM__CODE_P 1
#define SQM__CODE_T 4
#define SQM__TILE_STREAMS 4
#define SQM__TILE_ROWS 2
#define SQM__TILE_FEW 1
#define SQM__TILE_SUMS 5
#define SQM__SSD_P 1
#define SQM__SSD_N 4
#define SQM__SSD_STEP 2
#define SQM__TILE_S 1
#define SQM__TILE_A 2

/* ---- vocabulary of the Helium pass (Cortex-M55, M85): floats below 1.2e-38 are zero there -------------- */
#elif SQM__PASS == SQM__PASS_HELIUM
#define SQM__SPECIAL static SQM__NOINLINE
#define SQM__WIDE
#define v16 sqm__v16_helium
#define w16 sqm__w16_helium
#define b64 sqm__b64_helium
typedef struct { float32x4_t v[4]; } v16;
typedef struct { int32x4_t v[4]; } w16;
typedef struct { uint8x16_t v[4]; } b64;
#define SQM__EACH SQM__UNROLL for (int i = 0; i < 4; i++)
SQM__INLINE v16 SQM__NAME(set1)(float x) { v16 r; SQM__EACH r.v[i] = vdupq_n_f32(x); return r; }
SQM__INLINE v16 SQM__NAME(load)(const float *p) { v16 r; SQM__EACH r.v[i] = vld1q_f32(p + 4 * i); return r; }
SQM__INLINE void SQM__NAME(store)(float *p, v16 a) { SQM__EACH vst1q_f32(p + 4 * i, a.v[i]); }
/* float16 in the low halves of four lanes <-> float32. In register 0: the assembler of binutils 2.40 writes
   another number for the others. */
SQM__INLINE float32x4_t SQM__NAME(widen)(uint32x4_t h)
{
    register float32x4_t q __asm__("q0") = vreinterpretq_f32_u32(h);
    __asm__("vcvtb.f32.f16 %q0, %q0" : "+w"(q));
    return q;
}
SQM__INLINE uint32x4_t SQM__NAME(low_half)(float32x4_t x)
{
    register float32x4_t q __asm__("q0") = x;
    __asm__("vcvtb.f16.f32 %q0, %q0" : "+w"(q));
    return vreinterpretq_u32_f32(q);
}
SQM__INLINE v16 SQM__NAME(load_f16)(const uint8_t *p)
{
    const uint16_t *h = (const uint16_t *)(const void *)p;
    v16 r;
    SQM__EACH r.v[i] = SQM__NAME(widen)(vldrhq_u32(h + 4 * i));
    return r;
}
SQM__INLINE void SQM__NAME(store_f16)(uint16_t *p, v16 a)
{
    SQM__EACH vstrhq_u32(p + 4 * i, SQM__NAME(low_half)(a.v[i]));
}
SQM__INLINE v16 SQM__NAME(load_bf16)(const uint8_t *p)
{
    const uint16_t *h = (const uint16_t *)(const void *)p;
    v16 r;
    SQM__EACH r.v[i] = vreinterpretq_f32_u32(vshlq_n_u32(vldrhq_u32(h + 4 * i), 16));
    return r;
}
SQM__INLINE v16 SQM__NAME(load_u8)(const uint8_t *p)
{
    v16 r;
    SQM__EACH r.v[i] = vcvtq_f32_u32(vldrbq_u32(p + 4 * i));
    return r;
}
SQM__INLINE v16 SQM__NAME(load_s8)(const uint8_t *p)
{
    v16 r;
    SQM__EACH r.v[i] = vcvtq_f32_s32(vldrbq_s32((const int8_t *)p + 4 * i));
    return r;
}
SQM__INLINE v16 SQM__NAME(add)(v16 a, v16 b) { SQM__EACH a.v[i] = vaddq_f32(a.v[i], b.v[i]); return a; }
SQM__INLINE v16 SQM__NAME(sub)(v16 a, v16 b) { SQM__EACH a.v[i] = vsubq_f32(a.v[i], b.v[i]); return a; }
SQM__INLINE v16 SQM__NAME(mul)(v16 a, v16 b) { SQM__EACH a.v[i] = vmulq_f32(a.v[i], b.v[i]); return a; }
SQM__INLINE v16 SQM__NAME(fma)(v16 a, v16 b, v16 c)
{
    SQM__EACH c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]);
    return c;
}
SQM__INLINE v16 SQM__NAME(div)(v16 a, v16 b)
{
    SQM__EACH a.v[i] = sqm__div_narrow(a.v[i], b.v[i]);
    return a;
}
SQM__INLINE v16 SQM__NAME(max)(v16 a, v16 b)
{
    SQM__EACH a.v[i] = sqm__max_narrow(a.v[i], b.v[i]);
    return a;
}
SQM__INLINE v16 SQM__NAME(min)(v16 a, v16 b)
{
    SQM__EACH a.v[i] = sqm__min_narrow(a.v[i], b.v[i]);
    return a;
}
SQM__INLINE v16 SQM__NAME(abs)(v16 a) { SQM__EACH a.v[i] = vabsq_f32(a.v[i]); return a; }
SQM__INLINE v16 SQM__NAME(sqrt)(v16 a) { SQM__EACH a.v[i] = sqm__sqrt_narrow(a.v[i]); return a; }
SQM__INLINE v16 SQM__NAME(copysign)(v16 a, v16 s)
{
    SQM__EACH a.v[i] = sqm__copysign_narrow(a.v[i], s.v[i]);
    return a;
}
SQM__INLINE v16 SQM__NAME(less)(v16 a, v16 b, v16 yes, v16 no)
{
    SQM__EACH a.v[i] = sqm__less_narrow(a.v[i], b.v[i], yes.v[i], no.v[i]);
    return a;
}
SQM__INLINE v16 SQM__NAME(shift_exponent)(v16 p, v16 t)
{
    SQM__EACH p.v[i] = sqm__shift_exponent_narrow(p.v[i], t.v[i]);
    return p;
}
SQM__INLINE void SQM__NAME(store_low)(int8_t *p, v16 a)
{
    SQM__EACH vstrbq_u32((uint8_t *)p + 4 * i, vreinterpretq_u32_f32(a.v[i]));
}
SQM__INLINE v16 SQM__NAME(from_int)(w16 a) { v16 r; SQM__EACH r.v[i] = vcvtq_f32_s32(a.v[i]); return r; }
SQM__INLINE float SQM__NAME(sum)(v16 a)
{
    const float32x4_t s = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
    return (vgetq_lane_f32(s, 0) + vgetq_lane_f32(s, 2)) + (vgetq_lane_f32(s, 1) + vgetq_lane_f32(s, 3));
}
SQM__INLINE float SQM__NAME(max_lane)(v16 a)
{
    return vmaxnmvq_f32(-3.4e38f, vmaxnmq_f32(vmaxnmq_f32(a.v[0], a.v[2]), vmaxnmq_f32(a.v[1], a.v[3])));
}
SQM__INLINE w16 SQM__NAME(int1)(int32_t x) { w16 r; SQM__EACH r.v[i] = vdupq_n_s32(x); return r; }
SQM__INLINE b64 SQM__NAME(bytes)(const uint8_t *p)
{
    b64 r;
    SQM__EACH r.v[i] = vld1q_u8(p + 16 * i);
    return r;
}
SQM__INLINE b64 SQM__NAME(bits_at)(b64 x, int right, int left, uint8_t mask)
{
    const int8x16_t shift = vdupq_n_s8((int8_t)(left - right));
    SQM__EACH x.v[i] = vandq_u8(vshlq_u8(x.v[i], shift), vdupq_n_u8(mask));
    return x;
}
SQM__INLINE b64 SQM__NAME(bits)(b64 x, int right, uint8_t mask)
{
    return SQM__NAME(bits_at)(x, right, 0, mask);
}
SQM__INLINE b64 SQM__NAME(or)(b64 a, b64 b) { SQM__EACH a.v[i] = vorrq_u8(a.v[i], b.v[i]); return a; }
SQM__INLINE b64 SQM__NAME(lookup)(const int8_t *table, b64 x)
{
    SQM__EACH x.v[i] = vldrbq_gather_offset_u8((const uint8_t *)table, x.v[i]);
    return x;
}
SQM__INLINE v16 SQM__NAME(byte_u)(b64 x, int c)
{
    v16 r;
    SQM__EACH r.v[i] = vcvtq_f32_u32(vshrq_n_u32(vshlq_u32(vreinterpretq_u32_u8(x.v[i]),
                                                           vdupq_n_s32(24 - 8 * c)), 24));
    return r;
}
SQM__INLINE v16 SQM__NAME(byte_s)(b64 x, int c)
{
    v16 r;
    SQM__EACH r.v[i] = vcvtq_f32_s32(vshrq_n_s32(vreinterpretq_s32_u32(
        vshlq_u32(vreinterpretq_u32_u8(x.v[i]), vdupq_n_s32(24 - 8 * c))), 24));
    return r;
}
#define SQM__CODE_ZERO 0
#define SQM__SUM_UNIT 1
#define SQM__PAIRS 0
#define SQM__BY_ROWS 1
SQM__INLINE b64 SQM__NAME(biased)(b64 w, int zero) { (void)zero; return w; }
SQM__INLINE void SQM__NAME(store_bytes)(uint8_t *p, b64 x) { SQM__EACH vst1q_u8(p + 16 * i, x.v[i]); }
/* The four quads of a row are gathered to one register, which meets 16 codes of x at once. */
SQM__INLINE w16 SQM__NAME(dot_rows)(w16 acc, const uint8_t *codes, const int8_t *x, int sixteens)
{
    const uint32x4_t quads = vmulq_n_u32(vidupq_n_u32(0, 1), 64);
    const int8x16_t first = vld1q_s8(x), second = vld1q_s8(x + 16 * (sixteens - 1));
    int32_t sum[16];
    for (int i = 0; i < 16; i++, codes += 4) {
        sum[i] = vmladavq_s8(vreinterpretq_s8_u32(
            vldrwq_gather_offset_u32((const uint32_t *)(const void *)codes, quads)), first);
        if (sixteens == 2)
            sum[i] = vmladavaq_s8(sum[i], vreinterpretq_s8_u32(
                vldrwq_gather_offset_u32((const uint32_t *)(const void *)(codes + 256), quads)), second);
    }
    SQM__EACH acc.v[i] = vaddq_s32(acc.v[i], vld1q_s32(sum + 4 * i));
    return acc;
}
SQM__INLINE w16 SQM__NAME(by255)(w16 a, int32_t b)
{
    SQM__EACH a.v[i] = vaddq_n_s32(vmulq_n_s32(a.v[i], 255), b);
    return a;
}
#undef SQM__EACH
#define SQM__TILE_P 1
#define SQM__TILE_T 4
#define SQM__CODE_P 1
#define SQM__CODE_T 1
#define SQM__TILE_STREAMS 1
#define SQM__TILE_ROWS 1
#define SQM__TILE_FEW 1
#define SQM__TILE_SUMS 4
#define SQM__SSD_P 1
#define SQM__SSD_N 1
#define SQM__SSD_STEP 1
#define SQM__TILE_S 1
#define SQM__TILE_A 1
#endif

/* ---- the kernels --------------------------------------------------------------------------------------- */
#define SQM__SET1 SQM__NAME(set1)
#define SQM__ADD  SQM__NAME(add)
#define SQM__SUB  SQM__NAME(sub)
#define SQM__MUL  SQM__NAME(mul)
#define SQM__MADD SQM__NAME(fma)

#if SQM__PASS != SQM__PASS_NARROW
/* 16 weights of one k */
SQM__SPECIAL v16 SQM__NAME(element)(const uint8_t *w, const sqm_dtype dtype)
{
    if (dtype == SQM_F16) return SQM__NAME(load_f16)(w);
    if (dtype == SQM_BF16) return SQM__NAME(load_bf16)(w);
    return SQM__NAME(load)((const float *)(const void *)w);
}

/* Register tile of P panels x T rows of x: acc[t][p*16 + lane] = (resume ? itself : 0) + sum_k x[t][k] *
   w[p][k][lane], one chain of fused multiply-adds in increasing k whatever P and T are. */
SQM__SPECIAL void SQM__NAME(tile)(const sqm__dense *d, int32_t row, int32_t panel, const sqm_dtype dtype,
                                  const int32_t P, const int32_t T)
{
    const size_t step = dtype == SQM_F32 ? 64 : 32, x_stride = d->x_stride, panel_bytes = d->panel_bytes;
    const size_t next_panel = d->next_panel, next_step = d->next_step;
    const uint8_t *w = d->w + (size_t)panel * panel_bytes, *next = d->next + (size_t)panel * next_panel;
    const float *x = d->x + (size_t)row * x_stride;
    float *acc = d->acc + (size_t)row * d->acc_stride + 16 * panel;
    v16 sum[SQM__TILE_SUMS];
    SQM__WIDE for (int32_t t = 0; t < T; t++)
        SQM__WIDE for (int32_t p = 0; p < P; p++)
            sum[t * P + p] = d->resume ? SQM__NAME(load)(acc + (size_t)t * d->acc_stride + 16 * p)
                                       : SQM__SET1(0.0f);
    for (int32_t k = 0; k < d->n; k++, w += step, next += next_step) {
        v16 weight[SQM__TILE_P > SQM__TILE_ROWS ? SQM__TILE_P : SQM__TILE_ROWS];
        SQM__WIDE for (int32_t p = 0; p < P; p++) {
            weight[p] = SQM__NAME(element)(w + (size_t)p * panel_bytes, dtype);
            SQM__PREFETCH(next + (size_t)p * next_panel);
        }
        SQM__WIDE for (int32_t t = 0; t < T; t++) {
            const v16 value = SQM__SET1(x[(size_t)t * x_stride + (size_t)k]);
            SQM__WIDE for (int32_t p = 0; p < P; p++)
                sum[t * P + p] = SQM__MADD(value, weight[p], sum[t * P + p]);
        }
    }
    SQM__WIDE for (int32_t t = 0; t < T; t++)
        SQM__WIDE for (int32_t p = 0; p < P; p++)
            SQM__NAME(store)(acc + (size_t)t * d->acc_stride + 16 * p, sum[t * P + p]);
}

/* All rows of x against P panels, in tiles of T rows; the last ones in tiles of eight, three and one. */
SQM__SPECIAL void SQM__NAME(strip)(const sqm__dense *d, int32_t panel, const sqm_dtype dtype, const int32_t P,
                                   const int32_t T)
{
    int32_t t = 0;
    for (; t + T <= d->n_rows && !(T > 8 && d->n_rows - t == 16); t += T)
        SQM__NAME(tile)(d, t, panel, dtype, P, T);
    for (; T > 8 && t + 8 <= d->n_rows; t += 8) SQM__NAME(tile)(d, t, panel, dtype, P, 8);
    for (; T > 3 && t + 3 <= d->n_rows; t += 3) SQM__NAME(tile)(d, t, panel, dtype, P, 3);
    for (; t < d->n_rows; t++) SQM__NAME(tile)(d, t, panel, dtype, P, 1);
}

/* The one dense kernel, for weights, keys and values alike. Few rows take more panels at once, so that enough
   sums are under way; half-width types are for few rows, for many it pays to widen a panel first. */
SQM__SPECIAL void SQM__NAME(dense_of)(const sqm__dense *d, const sqm_dtype dtype)
{
    const int32_t n_panels = d->n_panels;
    int32_t p = 0;
    if (d->n_rows == 1)
        for (; p + SQM__TILE_ROWS <= n_panels; p += SQM__TILE_ROWS)
            SQM__NAME(tile)(d, 0, p, dtype, SQM__TILE_ROWS, 1);
    if (d->n_rows < SQM__TILE_T || dtype != SQM_F32)
        for (; p + SQM__TILE_FEW <= n_panels; p += SQM__TILE_FEW)
            SQM__NAME(strip)(d, p, dtype, SQM__TILE_FEW, 3);
    if (SQM__TILE_P > 1 && dtype == SQM_F32)
        for (; p + SQM__TILE_P <= n_panels; p += SQM__TILE_P)
            SQM__NAME(strip)(d, p, dtype, SQM__TILE_P, SQM__TILE_T);
    for (; p < n_panels; p++) SQM__NAME(strip)(d, p, dtype, 1, dtype == SQM_F32 ? SQM__TILE_T : 3);
}
static void SQM__NAME(dense)(const sqm__dense *d)
{
    if (d->dtype == SQM_F16) SQM__NAME(dense_of)(d, SQM_F16);
    else if (d->dtype == SQM_BF16) SQM__NAME(dense_of)(d, SQM_BF16);
    else SQM__NAME(dense_of)(d, SQM_F32);
}
static void SQM__NAME(product)(float *acc, size_t acc_stride, const float *x, size_t x_stride, int32_t n_rows,
                               const uint8_t *w, size_t panel_bytes, int32_t n_panels, int32_t n,
                               int32_t resume, sqm_dtype dtype)
{
    sqm__dense d;
    d.acc = acc; d.acc_stride = acc_stride;
    d.x = x; d.x_stride = x_stride; d.n_rows = n_rows;
    d.w = d.next = w; d.panel_bytes = panel_bytes; d.n_panels = n_panels;
    d.next_panel = d.next_step = 0;
    d.n = n; d.resume = resume; d.dtype = dtype;
    SQM__NAME(dense)(&d);
}

/* Bias, scale, residual: turns 16 finished sums of token t into outputs. */
SQM__SPECIAL void SQM__NAME(finish)(const sqm__gemm *g, const float *sums, int32_t t, int32_t panel)
{
    const int32_t first = panel * SQM__LANES, count = sqm__min(SQM__LANES, g->n_rows - first);
    float *y = g->y + (size_t)t * g->y_stride + first;
    float part[2 * SQM__LANES];
    v16 sum = SQM__NAME(load)(sums);
    if (count == SQM__LANES) {
        if (g->bias) sum = SQM__ADD(sum, SQM__NAME(load)(g->bias + first));
        sum = SQM__MUL(sum, SQM__SET1(g->scale));
        if (g->add) sum = SQM__ADD(SQM__NAME(load)(y), sum);
        SQM__NAME(store)(y, sum);
        return;
    }
    SQM__NAME(store)(part, sum);
    for (int32_t i = 0; i < count; i++) {
        float value = part[i];
        if (g->bias) value += g->bias[first + i];
        value *= g->scale;
        y[i] = g->add ? y[i] + value : value;
    }
}

/* ---- quantised weights: codes and scales as they lie in a panel ---------------------------------------- */
SQM__SPECIAL int SQM__NAME(is_signed)(const sqm_dtype d) { return d == SQM_Q8 || d == SQM_IQ4; }
SQM__SPECIAL int SQM__NAME(has_min)(const sqm_dtype d)
{
    return d == SQM_Q4M || d == SQM_Q5M || d == SQM_Q2K || d == SQM_Q4K || d == SQM_Q5K;
}
SQM__SPECIAL int32_t SQM__NAME(zero_code)(const sqm_dtype d)
{
    return d == SQM_Q4 ? 8 : d == SQM_Q5 ? 16 : d == SQM_Q6K ? 32 : d == SQM_Q3K ? 4 : 0;
}
SQM__SPECIAL int SQM__NAME(small_groups)(const sqm_dtype d)
{
    return d == SQM_Q2K || d == SQM_Q3K || d == SQM_Q6K;
}
SQM__SPECIAL int32_t SQM__NAME(sub_units)(const sqm_dtype d) { return d >= SQM_Q2K ? 8 : 1; }
SQM__SPECIAL size_t SQM__NAME(code_bytes)(const sqm_dtype d)         /* of 32 k */
{
    return d == SQM_Q8 ? 512 : d == SQM_Q5 || d == SQM_Q5M || d == SQM_Q5K ? 320 : d == SQM_Q6K ? 384 :
           d == SQM_Q3K ? 192 : d == SQM_Q2K ? 128 : 256;
}
SQM__SPECIAL size_t SQM__NAME(unit_bytes)(const sqm_dtype d)
{
    const size_t codes = SQM__NAME(code_bytes)(d) * (size_t)SQM__NAME(sub_units)(d);
    return codes + (d == SQM_Q4K || d == SQM_Q5K || d == SQM_Q2K ? 320u : d == SQM_Q3K || d == SQM_Q6K
                    ? 288u :
                    SQM__NAME(has_min)(d) ? 64u : 32u);
}

/* Codes of k = 16 * high + 4 * j .. + 3 for the 16 rows, j = 0..3; their bits may lie in several planes. */
SQM__SPECIAL b64 SQM__NAME(codes)(const uint8_t *p, const int high, int j, const sqm_dtype d)
{
    if (d == SQM_Q8) return SQM__NAME(bytes)(p + 64 * (4 * high + j));
    if (d == SQM_Q2K || d == SQM_Q3K) {
        const b64 low = SQM__NAME(bits_at)(SQM__NAME(bytes)(p + 64 * high), 2 * j, 0, 3);
        if (d == SQM_Q2K) return low;
        return SQM__NAME(or)(low, SQM__NAME(bits_at)(SQM__NAME(bytes)(p + 128), 4 * high + j, 2, 4));
    }
    {
        const b64 low = SQM__NAME(bits)(SQM__NAME(bytes)(p + 64 * j), 4 * high, 15);
        if (d == SQM_IQ4) return SQM__NAME(lookup)(sqm__iq4_table, low);
        if (d == SQM_Q5 || d == SQM_Q5M || d == SQM_Q5K)
            return SQM__NAME(or)(low, SQM__NAME(bits_at)(SQM__NAME(bytes)(p + 256), 4 * high + j, 4, 16));
        if (d == SQM_Q6K)
            return SQM__NAME(or)(low, SQM__NAME(bits_at)(SQM__NAME(bytes)(p + 256 + 64 * high), 2 * j, 4,
                                                         48));
        return low;
    }
}

SQM__SPECIAL v16 SQM__NAME(minus_f16)(const uint8_t *p)
{
    return SQM__MUL(SQM__NAME(load_f16)(p), SQM__SET1(-1.0f));
}
/* Scale of group g (32 k, or 16 k in Q2K Q3K Q6K) of a unit, and what is added to codes times scale. */
SQM__SPECIAL void SQM__NAME(group_scale)(v16 *scale, v16 *min, const uint8_t *unit, int32_t g,
                                         const sqm_dtype d)
{
    const uint8_t *s = unit + SQM__NAME(code_bytes)(d) * (size_t)SQM__NAME(sub_units)(d);
    *scale = SQM__NAME(load_f16)(s);
    *min = SQM__SET1(0.0f);
    if (d == SQM_Q4M || d == SQM_Q5M) {
        *min = SQM__NAME(load_f16)(s + 32);
    } else if (d == SQM_Q4K || d == SQM_Q5K) {
        *scale = SQM__MUL(*scale, SQM__NAME(load_u8)(s + 64 + 16 * g));
        *min = SQM__MUL(SQM__NAME(minus_f16)(s + 32), SQM__NAME(load_u8)(s + 192 + 16 * g));
    } else if (d == SQM_Q6K || d == SQM_Q3K) {
        *scale = SQM__MUL(*scale, SQM__NAME(load_s8)(s + 32 + 16 * g));
    } else if (d == SQM_Q2K) {
        uint8_t low[16], high[16];
        for (int i = 0; i < 16; i++) {
            low[i] = (uint8_t)(s[64 + 16 * g + i] & 15);
            high[i] = (uint8_t)(s[64 + 16 * g + i] >> 4);
        }
        *scale = SQM__MUL(*scale, SQM__NAME(load_u8)(low));
        *min = SQM__MUL(SQM__NAME(minus_f16)(s + 32), SQM__NAME(load_u8)(high));
    }
}

/* Weights of 32 k from `codes` on as float32 [32][16], rounded exactly as the format defines. */
static void SQM__NAME(expand)(float *dst, const uint8_t *panel, int32_t group, sqm_dtype d)
{
    const int32_t sub = group % SQM__NAME(sub_units)(d);
    const uint8_t *unit = panel + SQM__NAME(unit_bytes)(d) * (size_t)(group / SQM__NAME(sub_units)(d));
    const uint8_t *codes = unit + (size_t)sub * SQM__NAME(code_bytes)(d);
    const v16 zero = SQM__SET1((float)SQM__NAME(zero_code)(d));
    v16 scale, min;
    SQM__NAME(group_scale)(&scale, &min, unit, SQM__NAME(small_groups)(d) ? 2 * sub : sub, d);
    for (int j = 0; j < 8; j++) {
        const b64 quad = SQM__NAME(codes)(codes, j >> 2, j & 3, d);
        if (j == 4 && SQM__NAME(small_groups)(d)) SQM__NAME(group_scale)(&scale, &min, unit, 2 * sub + 1, d);
        SQM__WIDE for (int c = 0; c < 4; c++) {
            v16 v = SQM__NAME(is_signed)(d) ? SQM__NAME(byte_s)(quad, c) : SQM__NAME(byte_u)(quad, c);
            if (SQM__NAME(zero_code)(d)) v = SQM__SUB(v, zero);
            v = SQM__MUL(scale, v);
            if (SQM__NAME(has_min)(d)) v = SQM__ADD(v, min);
            SQM__NAME(store)(dst + (4 * j + c) * SQM__LANES, v);
        }
    }
}
/* Weights k .. k + n - 1 of a panel as float32 [n][16]; k and n are multiples of what the type groups. */
static void SQM__NAME(expand_chunk)(float *dst, const uint8_t *panel, int32_t k, int32_t n, sqm_dtype d)
{
    if (d >= SQM_Q8) {
        for (int32_t i = 0; i < n; i += SQM__GROUP)
            SQM__NAME(expand)(dst + i * SQM__LANES, panel, (k + i) / SQM__GROUP, d);
        return;
    }
    for (int32_t i = 0; i < n; i++)
        SQM__NAME(store)(dst + i * SQM__LANES, SQM__NAME(element)(panel + (size_t)(k + i) * 32, d));
}

/* P panels from `panel` on against n rows of x from row t on: a chunk of weights stays in the first cache, as
   float32, while all rows pass over it and the next one is on its way. Sums grow in increasing k, so chunks change no bit. */
static void SQM__NAME(gemm_block)(const sqm__gemm *g, int32_t panel, int32_t n_panels, int32_t t, int32_t n,
                                  float *work)
{
    const int32_t chunk = SQM__CHUNK / SQM__TILE_P;
    const size_t step = g->dtype == SQM_F32 ? 64 : g->dtype < SQM_Q8 ? 32 : 0;
    const uint8_t *w = g->panels + (size_t)panel * g->panel_bytes;
    float *weights = work, *sums = work + SQM__CHUNK * SQM__LANES;
    const size_t stride = (size_t)n_panels * SQM__LANES;
    sqm__dense d;
    d.acc = sums; d.acc_stride = stride;
    d.x_stride = g->x_stride; d.n_rows = n;
    d.n_panels = n_panels; d.dtype = SQM_F32;
    d.next_panel = g->panel_bytes; d.next_step = step;
    for (int32_t k = 0; k < g->n_cols; k += chunk) {
        d.n = sqm__min(chunk, g->n_cols - k);
        d.x = g->x + (size_t)t * g->x_stride + k;
        d.w = w + (size_t)k * step;
        d.next = k + chunk < g->n_cols ? d.w + (size_t)chunk * step : w + (size_t)n_panels * g->panel_bytes;
        d.panel_bytes = g->panel_bytes;
        if (g->dtype != SQM_F32) {
            d.w = (const uint8_t *)weights;
            d.panel_bytes = (size_t)chunk * SQM__LANES * sizeof(float);
            for (int32_t p = 0; p < n_panels; p++)
                SQM__NAME(expand_chunk)(weights + p * chunk * SQM__LANES, w + (size_t)p * g->panel_bytes, k,
                                        d.n, g->dtype);
        }
        d.resume = k > 0;
        SQM__NAME(dense)(&d);
    }
    for (int32_t i = 0; i < n; i++)
        for (int32_t p = 0; p < n_panels; p++)
            SQM__NAME(finish)(g, sums + (size_t)i * stride + p * SQM__LANES, t + i, panel + p);
}

typedef char SQM__NAME(row_work_suffices)[SQM__TILE_ROWS * SQM__LANES <= SQM__ROW_FLOATS ? 1 : -1];
/* One row of x with float weights: nothing to reuse, so panels are read as they are, several at once. */
static void SQM__NAME(gemv_float)(const sqm__gemm *g, int32_t first, int32_t last, float *work)
{
    for (int32_t panel = first; panel < last; panel += SQM__TILE_ROWS) {
        const int32_t n = sqm__min(SQM__TILE_ROWS, last - panel);
        SQM__NAME(product)(work, SQM__TILE_ROWS * SQM__LANES, g->x, g->x_stride, 1,
                           g->panels + (size_t)panel * g->panel_bytes, g->panel_bytes, n, g->n_cols, 0,
                           g->dtype);
        for (int32_t p = 0; p < n; p++) SQM__NAME(finish)(g, work + p * SQM__LANES, 0, panel + p);
    }
}

/* Product in float32, with weights exactly as their format defines them. */
static void SQM__NAME(gemm_float)(const sqm__gemm *g, int32_t first, int32_t last, float *work)
{
    if (g->n_tokens == 1 && g->dtype < SQM_Q8) { SQM__NAME(gemv_float)(g, first, last, work); return; }
    for (int32_t panel = first; panel < last; panel += SQM__TILE_P)
        for (int32_t t = 0; t < g->n_tokens; t += SQM__BLOCK)
            SQM__NAME(gemm_block)(g, panel, sqm__min(SQM__TILE_P, last - panel), t,
                                  sqm__min(SQM__BLOCK, g->n_tokens - t), work);
}

/* ---- 8-bit products: one token ------------------------------------------------------------------------- */
/* Weight codes are `zero` above their values, so that an integer dot starts from -zero * (sum of codes of x).
   Sums of x are kept times -SQM__SUM_UNIT: what a dot with this pass's own zero starts from. */
SQM__SPECIAL int32_t SQM__NAME(start)(int32_t code_sum, const int32_t zero)
{
    return SQM__SUM_UNIT == 1 ? code_sum * zero : zero ? code_sum / (SQM__SUM_UNIT / zero) : 0;
}
/* The sum of a whole group (halves = 1), or of its first or second half */
SQM__SPECIAL int32_t SQM__NAME(code_sum)(const int32_t *sums, const int halves, const int half)
{
    return halves == 1 ? sums[0] : half ? sums[0] - sums[1] : sums[1];
}

/* Quads of each half of a group whose products fit the 16-bit sums of pair_u */
SQM__SPECIAL int SQM__NAME(run)(const sqm_dtype d)
{
    return d == SQM_Q5 || d == SQM_Q5M || d == SQM_Q5K || d == SQM_Q6K ? 2 : 4;
}
/* dot[P] += integer products of 32 k (half = 2), or of their first or second 16: P panels against x */
SQM__SPECIAL void SQM__NAME(dot_panels)(w16 *dot, const int8_t *x, const uint8_t *const *codes,
                                        const int half, const sqm_dtype d, const int32_t P)
{
#if SQM__BY_ROWS
    const int sixteens = half == 2 ? 2 : 1, from = half == 1;
    for (int32_t p = 0; p < P; p++) {
        const uint8_t *bytes = codes[p] + 256 * from;
        uint8_t unpacked[2 * SQM__GROUP * SQM__LANES / 2];
        for (int q = 0; d != SQM_Q8 && q < 4 * sixteens; q++)
            SQM__NAME(store_bytes)(unpacked + 64 * q, SQM__NAME(codes)(codes[p], from + (q >> 2), q & 3, d));
        dot[p] = SQM__NAME(dot_rows)(dot[p], d == SQM_Q8 ? bytes : unpacked, x + 16 * from, sixteens);
    }
#else
    const int run = SQM__NAME(run)(d), is_signed = SQM__NAME(is_signed)(d);
    w16 part[SQM__TILE_STREAMS];
    SQM__WIDE for (int first = 0; first < 4; first += run) {
        SQM__WIDE for (int32_t p = 0; p < P; p++)
            part[p] = is_signed ? dot[p] : SQM__NAME(pair_begin)(dot[p]);
        for (int j = first; j < first + run; j++)
            SQM__WIDE for (int32_t p = 0; p < P; p++)
                SQM__WIDE for (int high = 0; high < 2; high++) {
                    const b64 w = SQM__NAME(codes)(codes[p], high, j, d);
                    const int8_t *four = x + 16 * high + 4 * j;
                    if (half != 2 && half != high) continue;
                    part[p] = is_signed ? SQM__NAME(dot_s)(part[p], SQM__NAME(biased)(w, 0), four)
                                        : SQM__NAME(pair_u)(part[p], w, four);
                }
        SQM__WIDE for (int32_t p = 0; p < P; p++)
            dot[p] = is_signed ? part[p] : SQM__NAME(pair_end)(dot[p], part[p]);
    }
#endif
}

/* One token against P panels, read as they lie and several at once, which keeps more of the memory busy.
   Integer dots of a group are exact; one fused multiply-add adds each to its sum in increasing k; minima have
   sums of their own, of min * (scale of x) * (sum of codes of x). Panels past the end repeat the last one,
   and are dropped. */
SQM__SPECIAL void SQM__NAME(stream_codes)(const sqm__gemm *g, int32_t token, int32_t panel, int32_t last,
                                          const sqm_dtype d, const int32_t P)
{
    const int32_t n_groups = sqm__ceil_div(g->n_cols, SQM__GROUP);
    const int32_t halves = SQM__NAME(small_groups)(d) ? 2 : 1, subs = SQM__NAME(sub_units)(d);
    const int32_t zero = SQM__NAME(is_signed)(d) ? SQM__CODE_ZERO : SQM__NAME(zero_code)(d);
    const size_t step = (size_t)g->tile;
    const v16 unit_of_sums = SQM__SET1(-1.0f / SQM__SUM_UNIT);
    size_t at = (size_t)(token / g->tile * n_groups) * step + (size_t)(token % g->tile);
    const uint8_t *unit[SQM__TILE_STREAMS], *codes[SQM__TILE_STREAMS];
    v16 sum[SQM__TILE_STREAMS], min_sum[SQM__TILE_STREAMS];
    float out[SQM__LANES];
    SQM__WIDE for (int32_t p = 0; p < P; p++) {
        min_sum[p] = SQM__SET1(0.0f);
        unit[p] = g->panels + (size_t)sqm__min(panel + p, last - 1) * g->panel_bytes;
        sum[p] = SQM__SET1(0.0f);
    }
    for (int32_t group = 0; group < n_groups; group++, at += step) {
        const int32_t sub = group % subs;
        SQM__WIDE for (int32_t p = 0; p < P; p++) {
            codes[p] = unit[p] + (size_t)sub * SQM__NAME(code_bytes)(d);
            /* the panels that come next: weights lie in the order of their use */
            for (size_t i = 0; i < SQM__NAME(unit_bytes)(d) / (size_t)subs + 63; i += 64)
                SQM__PREFETCH(codes[p] + (size_t)P * g->panel_bytes + i);
        }
        SQM__WIDE for (int32_t half = 0; half < halves; half++) {
            const int32_t code_sum = SQM__NAME(code_sum)(g->code_sums + 2 * at, halves, half);
            const int32_t start = SQM__NAME(start)(code_sum, zero);
            const float x_scale = g->code_scales[at], weight = x_scale * (float)code_sum;
            w16 dot[SQM__TILE_STREAMS];
            SQM__WIDE for (int32_t p = 0; p < P; p++) dot[p] = SQM__NAME(int1)(g->plane ? 0 : start);
            for (size_t plane = 0;; plane = g->plane) {
                SQM__NAME(dot_panels)(dot, g->codes + plane + at * SQM__GROUP, codes,
                                      halves == 1 ? 2 : half, d, P);
                if (plane == g->plane) break;
                SQM__WIDE for (int32_t p = 0; p < P; p++) dot[p] = SQM__NAME(by255)(dot[p], start);
            }
            SQM__WIDE for (int32_t p = 0; p < P; p++) {
                v16 scale, min;
                SQM__NAME(group_scale)(&scale, &min, unit[p], halves * sub + half, d);
                sum[p] = SQM__MADD(SQM__NAME(from_int)(dot[p]), SQM__MUL(scale, SQM__SET1(x_scale)), sum[p]);
                if (SQM__NAME(has_min)(d))
                    min_sum[p] = SQM__MADD(SQM__MUL(min, unit_of_sums), SQM__SET1(weight), min_sum[p]);
            }
        }
        if (sub == subs - 1)
            SQM__WIDE for (int32_t p = 0; p < P; p++) unit[p] += SQM__NAME(unit_bytes)(d);
    }
    SQM__WIDE for (int32_t p = 0; p < P; p++)
        if (panel + p < last) {
            SQM__NAME(store)(out, SQM__NAME(has_min)(d) ? SQM__ADD(sum[p], min_sum[p]) : sum[p]);
            SQM__NAME(finish)(g, out, token, panel + p);
        }
}

/* each weight type as a constant of `run(type)` */
#define SQM__EACH_CODED(dtype, run) \
    switch (dtype) { \
    case SQM_Q8: run(SQM_Q8); break; case SQM_Q4: run(SQM_Q4); break; case SQM_Q4M: run(SQM_Q4M); break; \
    case SQM_Q5: run(SQM_Q5); break; case SQM_Q5M: run(SQM_Q5M); break; case SQM_IQ4: run(SQM_IQ4); break; \
    case SQM_Q2K: run(SQM_Q2K); break; case SQM_Q3K: run(SQM_Q3K); break; \
    case SQM_Q4K: run(SQM_Q4K); break; case SQM_Q5K: run(SQM_Q5K); break; \
    case SQM_Q6K: run(SQM_Q6K); break; default: break; \
    }
static void SQM__NAME(stream_any)(const sqm__gemm *g, int32_t token, int32_t panel, int32_t last)
{
#define SQM__RUN(d) SQM__NAME(stream_codes)(g, token, panel, last, d, SQM__TILE_STREAMS)
    SQM__EACH_CODED(g->dtype, SQM__RUN)
#undef SQM__RUN
}

/* ---- 8-bit products: many tokens ----------------------------------------------------------------------- */
#if SQM__CODE_T > 1
/* Codes, scales and minima of n groups from `group` on into panel p of a chunk: a byte a code, in order of
   k. */
SQM__SPECIAL void SQM__NAME(unpack)(sqm__code_chunk *c, int32_t p, const uint8_t *panel, int32_t group,
                                    int32_t n, const sqm_dtype d)
{
    const int32_t halves = SQM__NAME(small_groups)(d) ? 2 : 1, subs = SQM__NAME(sub_units)(d);
    for (int32_t i = 0; i < n; i++) {
        const int32_t sub = (group + i) % subs;
        const uint8_t *unit = panel + (size_t)((group + i) / subs) * SQM__NAME(unit_bytes)(d);
        const uint8_t *from = unit + (size_t)sub * SQM__NAME(code_bytes)(d);
        uint8_t *to = c->codes[p] + i * SQM__GROUP * SQM__LANES;
        SQM__WIDE for (int q = 0; q < 8; q++) {
            const b64 w = SQM__NAME(codes)(from, q >> 2, q & 3, d);
            SQM__NAME(store_bytes)(to + 64 * q, SQM__NAME(biased)(w, SQM__NAME(zero_code)(d)));
        }
        SQM__WIDE for (int32_t half = 0; half < halves; half++) {
            v16 scale, min;
            SQM__NAME(group_scale)(&scale, &min, unit, halves * sub + half, d);
            SQM__NAME(store)(c->scales[p][halves * i + half], scale);
            if (SQM__NAME(has_min)(d))
                SQM__NAME(store)(c->mins[p][halves * i + half],
                                 SQM__MUL(min, SQM__SET1(-1.0f / SQM__SUM_UNIT)));
        }
    }
}

/* dot[T][P] += integer products of `quads` times 4 k; run > 0: of small unsigned codes, that many at once */
SQM__SPECIAL void SQM__NAME(dot_tile)(w16 *dot, const int8_t *x, const uint8_t *codes, const int quads,
                                      const int run, const int32_t P, const int32_t T)
{
    const int step = run ? run : quads;
    w16 part[SQM__CODE_P * SQM__CODE_T];
    SQM__WIDE for (int first = 0; first < quads; first += step) {
        SQM__WIDE for (int32_t i = 0; i < T * P; i++)
            part[i] = run ? SQM__NAME(pair_begin)(dot[i]) : dot[i];
        SQM__WIDE for (int q = first; q < first + step; q++) {
            b64 w[SQM__CODE_P];
            SQM__WIDE for (int32_t p = 0; p < P; p++)
                w[p] = SQM__NAME(bytes)(codes + p * (SQM__CODE_CHUNK * SQM__LANES) + 64 * q);
            SQM__WIDE for (int32_t t = 0; t < T; t++)
                SQM__WIDE for (int32_t p = 0; p < P; p++) {
                    w16 *to = &part[t * P + p];
                    const int8_t *four = x + SQM__GROUP * t + 4 * q;
                    *to = run ? SQM__NAME(pair_u)(*to, w[p], four) : SQM__NAME(dot_s)(*to, w[p], four);
                }
        }
        SQM__WIDE for (int32_t i = 0; i < T * P; i++)
            dot[i] = run ? SQM__NAME(pair_end)(dot[i], part[i]) : part[i];
    }
}

/* Register tile: P unpacked panels against the T tokens of a tile, whose first group is number `at`. Sums
   [T][P][16] go on where the chunk before ended; the arithmetic is stream_codes's. */
SQM__SPECIAL void SQM__NAME(tile_codes)(const sqm__gemm *g, const sqm__code_chunk *c, size_t at, float *sums,
                                        const int halves, const int run, const int planes, const int32_t P,
                                        const int32_t T)
{
    const int8_t *x = g->codes + at * SQM__GROUP;
    const float *x_scales = g->code_scales + at;
    const int32_t *x_sums = g->code_sums + 2 * at, zero = SQM__CODE_ZERO ? 1 : c->zero;
    v16 sum[SQM__CODE_P * SQM__CODE_T];
    SQM__WIDE for (int32_t i = 0; i < T * P; i++) sum[i] = SQM__NAME(load)(sums + i * SQM__LANES);
    for (int32_t i = 0; i < c->n_groups; i++, x += SQM__GROUP * T, x_scales += T, x_sums += 2 * T)
        SQM__WIDE for (int half = 0; half < halves; half++) {
            const uint8_t *codes = c->codes[0] + (i * SQM__GROUP + 16 * half) * SQM__LANES;
            w16 dot[SQM__CODE_P * SQM__CODE_T];
            if (c->next && half == 0)
                for (size_t b = 0; b < c->next_step; b += 64)
                    SQM__PREFETCH(c->next + (size_t)i * c->next_step + b);
            SQM__WIDE for (int32_t t = 0; t < T; t++) {
                const int32_t start = SQM__NAME(code_sum)(x_sums + 2 * t, halves, half) * zero;
                SQM__WIDE for (int32_t p = 0; p < P; p++)
                    dot[t * P + p] = SQM__NAME(int1)(planes == 2 ? 0 : start);
            }
            SQM__NAME(dot_tile)(dot, x + 16 * half, codes, 8 / halves, run, P, T);
            if (planes == 2) {
                SQM__WIDE for (int32_t t = 0; t < T; t++) {
                    const int32_t start = SQM__NAME(code_sum)(x_sums + 2 * t, halves, half) * zero;
                    SQM__WIDE for (int32_t p = 0; p < P; p++)
                        dot[t * P + p] = SQM__NAME(by255)(dot[t * P + p], start);
                }
                SQM__NAME(dot_tile)(dot, x + g->plane + 16 * half, codes, 8 / halves, run, P, T);
            }
            SQM__WIDE for (int32_t p = 0; p < P; p++) {
                const v16 scale = SQM__NAME(load)(c->scales[p][halves * i + half]);
                SQM__WIDE for (int32_t t = 0; t < T; t++)
                    sum[t * P + p] = SQM__MADD(SQM__NAME(from_int)(dot[t * P + p]),
                                               SQM__MUL(scale, SQM__SET1(x_scales[t])), sum[t * P + p]);
            }
        }
    SQM__WIDE for (int32_t i = 0; i < T * P; i++) SQM__NAME(store)(sums + i * SQM__LANES, sum[i]);
}
/* The minima of the same tile, in sums of their own */
static void SQM__NAME(tile_mins)(const sqm__gemm *g, const sqm__code_chunk *c, size_t at, float *sums)
{
    const int halves = SQM__NAME(small_groups)(g->dtype) ? 2 : 1;
    const float *x_scales = g->code_scales + at;
    const int32_t *x_sums = g->code_sums + 2 * at;
    v16 sum[SQM__CODE_P * SQM__CODE_T];
    SQM__WIDE for (int32_t i = 0; i < SQM__CODE_T * SQM__CODE_P; i++)
        sum[i] = SQM__NAME(load)(sums + i * SQM__LANES);
    for (int32_t i = 0; i < c->n_groups; i++, x_scales += SQM__CODE_T, x_sums += 2 * SQM__CODE_T)
        for (int half = 0; half < halves; half++)
            SQM__WIDE for (int32_t t = 0; t < SQM__CODE_T; t++) {
                const v16 weight = SQM__SET1(x_scales[t] *
                                             (float)SQM__NAME(code_sum)(x_sums + 2 * t, halves, half));
                SQM__WIDE for (int32_t p = 0; p < SQM__CODE_P; p++)
                    sum[t * SQM__CODE_P + p] = SQM__MADD(SQM__NAME(load)(c->mins[p][halves * i + half]),
                                                         weight, sum[t * SQM__CODE_P + p]);
            }
    SQM__WIDE for (int32_t i = 0; i < SQM__CODE_T * SQM__CODE_P; i++)
        SQM__NAME(store)(sums + i * SQM__LANES, sum[i]);
}
static void SQM__NAME(tile_any)(const sqm__gemm *g, const sqm__code_chunk *c, size_t at, float *sums)
{
    const int halves = SQM__NAME(small_groups)(g->dtype) ? 2 : 1;
#define SQM__TILE(halves, run) \
    if (g->plane) SQM__NAME(tile_codes)(g, c, at, sums, halves, run, 2, SQM__CODE_P, SQM__CODE_T); \
    else SQM__NAME(tile_codes)(g, c, at, sums, halves, run, 1, SQM__CODE_P, SQM__CODE_T)
#if SQM__PAIRS
    if (!SQM__NAME(is_signed)(g->dtype)) {
        if (halves == 2) { SQM__TILE(2, 2); return; }
        if (SQM__NAME(run)(g->dtype) == 4) { SQM__TILE(1, 8); return; }
        SQM__TILE(1, 4);
        return;
    }
#endif
    if (halves == 1) { SQM__TILE(1, 0); return; }
    SQM__TILE(2, 0);
#undef SQM__TILE
}

static void SQM__NAME(unpack_any)(sqm__code_chunk *c, int32_t p, const uint8_t *panel, int32_t group,
                                  int32_t n, sqm_dtype dtype)
{
#define SQM__RUN(d) SQM__NAME(unpack)(c, p, panel, group, n, d)
    SQM__EACH_CODED(dtype, SQM__RUN)
#undef SQM__RUN
}
/* Up to CODE_P panels from `panel` on against n tokens from t on, the first of a tile: an unpacked chunk of
   weights stays in the first cache while all of them pass over it. */
static void SQM__NAME(block_codes)(const sqm__gemm *g, int32_t panel, int32_t last, int32_t t, int32_t n,
                                   sqm__code_chunk *c)
{
    const int32_t n_groups = sqm__ceil_div(g->n_cols, SQM__GROUP), tiles = sqm__ceil_div(n, SQM__CODE_T);
    const int32_t tile_sums = SQM__CODE_T * SQM__CODE_P * SQM__LANES;
    const int has_min = SQM__NAME(has_min)(g->dtype);
    float *sums = c->sums, *min_sums = c->sums + tiles * tile_sums;
    c->zero = SQM__NAME(zero_code)(g->dtype);
    c->next_step = g->panel_bytes / (size_t)n_groups;
    memset(sums, 0, (size_t)((has_min ? 2 : 1) * tiles * tile_sums) * sizeof(float));
    for (int32_t group = 0; group < n_groups; group += c->n_groups) {
        c->n_groups = sqm__min(SQM__CODE_CHUNK / SQM__GROUP, n_groups - group);
        for (int32_t p = 0; p < SQM__CODE_P; p++)       /* past the end: the last one again, dropped below */
            SQM__NAME(unpack_any)(c, p, g->panels + (size_t)sqm__min(panel + p, last - 1) * g->panel_bytes,
                                  group, c->n_groups, g->dtype);
        for (int32_t i = 0; i < tiles; i++) {
            const size_t row = (size_t)(t / SQM__CODE_T + i) * (size_t)n_groups + (size_t)group;
            const size_t at = row * SQM__CODE_T;
            c->next = i < SQM__CODE_P ? g->panels + (size_t)(panel + SQM__CODE_P + i) * g->panel_bytes
                + (size_t)group * c->next_step : NULL;
            SQM__NAME(tile_any)(g, c, at, sums + i * tile_sums);
            if (has_min) SQM__NAME(tile_mins)(g, c, at, min_sums + i * tile_sums);
        }
    }
    for (int32_t i = 0; i < n; i++)
        for (int32_t p = 0; p < sqm__min(SQM__CODE_P, last - panel); p++) {
            float *sum = sums + (i * SQM__CODE_P + p) * SQM__LANES;
            if (has_min)
                SQM__NAME(store)(sum, SQM__ADD(SQM__NAME(load)(sum),
                                               SQM__NAME(load)(sum + tiles * tile_sums)));
            SQM__NAME(finish)(g, sum, t + i, panel + p);
        }
}

/* Tiles for most tokens, streams for a single one (decoding, or left over). */
static void SQM__NAME(gemm_codes)(const sqm__gemm *g, int32_t first, int32_t last, sqm__code_chunk *chunk)
{
    const int32_t most = SQM__NAME(has_min)(g->dtype) ? SQM__CODE_TOKENS / 2 : SQM__CODE_TOKENS;
    const int32_t block = most / SQM__CODE_T * SQM__CODE_T, rest = g->n_tokens % SQM__CODE_T;
    const int32_t tiled = rest == 1 ? g->n_tokens - 1 : g->n_tokens;
    for (int32_t panel = first; panel < last; panel += SQM__TILE_STREAMS) {
        const int32_t end = sqm__min(panel + SQM__TILE_STREAMS, last);
        for (int32_t p = panel; p < end; p += SQM__CODE_P)
            for (int32_t t = 0; t < tiled; t += block)
                SQM__NAME(block_codes)(g, p, end, t, sqm__min(block, tiled - t), chunk);
        for (int32_t t = tiled; t < g->n_tokens; t++) SQM__NAME(stream_any)(g, t, panel, end);
    }
}
#else
/* One token after the other */
static void SQM__NAME(gemm_codes)(const sqm__gemm *g, int32_t first, int32_t last, sqm__code_chunk *chunk)
{
    (void)chunk;
    for (int32_t t = 0; t < g->n_tokens; t++)
        for (int32_t panel = first; panel < last; panel += SQM__TILE_STREAMS)
            SQM__NAME(stream_any)(g, t, panel, sqm__min(panel + SQM__TILE_STREAMS, last));
}
#endif

static void SQM__NAME(gemm)(const sqm__gemm *g, int32_t first, int32_t last, float *work)
{
    if (g->codes) SQM__NAME(gemm_codes)(g, first, last, (sqm__code_chunk *)(void *)work);
    else SQM__NAME(gemm_float)(g, first, last, work);
}

/* ---- rows: loads that end early ------------------------------------------------------------------------ */
SQM__SPECIAL v16 SQM__NAME(load_n)(const float *p, int32_t n, float fill)
{
    float part[SQM__LANES];
    if (n >= SQM__LANES) return SQM__NAME(load)(p);
    for (int32_t i = 0; i < SQM__LANES; i++) part[i] = i < n ? p[i] : fill;
    return SQM__NAME(load)(part);
}
SQM__SPECIAL void SQM__NAME(store_n)(float *p, v16 v, int32_t n)
{
    float part[SQM__LANES];
    if (n >= SQM__LANES) { SQM__NAME(store)(p, v); return; }
    SQM__NAME(store)(part, v);
    for (int32_t i = 0; i < n; i++) p[i] = part[i];
}

/* One row x [n] in 8 bits: per group of 32, scale = max|x| / 127; padding codes are 0. With a second plane
   in 16 bits: scale = max|x| / 32512 and code = 255 * first + second, both of at most 127. */
static void SQM__NAME(quantize)(int8_t *codes, float *scales, int32_t *sums, size_t step, size_t plane,
                                const float *x, int32_t n)
{
    const v16 magic = SQM__SET1(12582912.0f);   /* 1.5 * 2^23: adding it leaves the integer in the low bits */
    const float most = plane ? 32512.0f : 127.0f;
    for (int32_t k = 0; k < n; k += SQM__GROUP) {
        v16 half[2], inverse;
        float largest, sum[2];
        for (int i = 0; i < 2; i++)
            half[i] = n - k > i * SQM__LANES
                ? SQM__NAME(load_n)(x + k + i * SQM__LANES, n - k - i * SQM__LANES, 0.0f) : SQM__SET1(0.0f);
        largest = SQM__NAME(max_lane)(SQM__NAME(max)(SQM__NAME(abs)(half[0]), SQM__NAME(abs)(half[1])));
        inverse = SQM__SET1(largest > 0.0f ? most / largest : 0.0f);
        *scales = largest / most;
        for (int i = 0; i < 2; i++) {
            v16 rounded = SQM__MADD(half[i], inverse, magic);
            const v16 code = SQM__SUB(rounded, magic);
            if (plane) {
                v16 second;
                rounded = SQM__MADD(code, SQM__SET1(1.0f / 255.0f), magic);
                second = SQM__MADD(SQM__SUB(rounded, magic), SQM__SET1(-255.0f), code);
                SQM__NAME(store_low)(codes + plane + i * SQM__LANES, SQM__ADD(second, magic));
            }
            SQM__NAME(store_low)(codes + i * SQM__LANES, rounded);
            sum[i] = SQM__NAME(sum)(code);      /* of integers: exact */
        }
        sums[0] = sqm__round_sum(sum[0] + sum[1]) * -SQM__SUM_UNIT;
        sums[1] = sqm__round_sum(sum[0]) * -SQM__SUM_UNIT;
        codes += SQM__GROUP * step;
        scales += step;
        sums += 2 * step;
    }
}

static void SQM__NAME(normalize)(float *y, const float *x, int32_t n, int32_t kind, const float *gain,
                                 const float *bias,
                                 float eps)
{
    v16 total = SQM__SET1(0.0f), squares = SQM__SET1(0.0f), mean = SQM__SET1(0.0f), inverse;
    float second;
    if (kind == SQM_NORM_LAYER) {
        for (int32_t i = 0; i < n; i += SQM__LANES) total = SQM__ADD(total, SQM__NAME(load_n)(x + i, n - i,
                0.0f));
        mean = SQM__SET1(SQM__NAME(sum)(total) / (float)n);
    }
    for (int32_t i = 0; i < n; i += SQM__LANES) {
        v16 v = SQM__NAME(load_n)(x + i, n - i, 0.0f);
        if (kind == SQM_NORM_LAYER) {   /* missing lanes must not become -mean */
            v = SQM__SUB(v, mean);
            if (n - i < SQM__LANES) {
                float part[SQM__LANES];
                SQM__NAME(store)(part, v);
                v = SQM__NAME(load_n)(part, n - i, 0.0f);
            }
        }
        squares = kind == SQM_NORM_SUM ? SQM__ADD(v, squares) : SQM__MADD(v, v, squares);
    }
    second = SQM__NAME(sum)(squares);
    if (kind == SQM_NORM_RMS || kind == SQM_NORM_LAYER) second /= (float)n;
    inverse = SQM__SET1(1.0f / (kind == SQM_NORM_SUM ? second + eps : sqm__sqrt(second + eps)));
    for (int32_t i = 0; i < n; i += SQM__LANES) {
        v16 v = SQM__NAME(load_n)(x + i, n - i, 0.0f);
        if (kind == SQM_NORM_LAYER) v = SQM__SUB(v, mean);
        v = SQM__MUL(v, inverse);
        if (gain) v = SQM__MUL(v, SQM__NAME(load_n)(gain + i, n - i, 0.0f));
        if (bias) v = SQM__ADD(v, SQM__NAME(load_n)(bias + i, n - i, 0.0f));
        SQM__NAME(store_n)(y + i, v, n - i);
    }
}

#endif
/* ---- elementary functions: the same polynomials in every pass ------------------------------------------ */
#if SQM__PASS != SQM__PASS_SCALAR && SQM__PASS != SQM__PASS_HELIUM
/* e^x within 2 ulp: x = n ln2 + r, e^r by a degree-6 polynomial (own
   minimax fit on |r| <= ln2 / 2); 0 below -86.5 */
SQM__SPECIAL v16 SQM__NAME(exp)(v16 x)
{
    const v16 magic = SQM__SET1(12582912.0f), low = SQM__SET1(-86.5f);
    const v16 clamped = SQM__NAME(min)(SQM__NAME(max)(x, low), SQM__SET1(88.3f));
    const v16 t = SQM__MADD(clamped, SQM__SET1(1.44269504f), magic), n = SQM__SUB(t, magic);
    const v16 r = SQM__MADD(n, SQM__SET1(2.12194440e-4f), SQM__MADD(n, SQM__SET1(-0.693359375f), clamped));
    v16 p = SQM__SET1(1.394111150e-3f);
    p = SQM__MADD(p, r, SQM__SET1(8.363176361e-3f));
    p = SQM__MADD(p, r, SQM__SET1(4.166637528e-2f));
    p = SQM__MADD(p, r, SQM__SET1(1.666657700e-1f));
    p = SQM__MADD(p, r, SQM__SET1(5.000000027e-1f));
    p = SQM__ADD(SQM__MADD(p, SQM__MUL(r, r), r), SQM__SET1(1.0f));
    return SQM__NAME(less)(x, low, SQM__SET1(0.0f), SQM__NAME(shift_exponent)(p, t));
}
/* e^x - 1, exact to 2 ulp near 0 too: 2^n (e^r - 1) + (2^n - 1) */
SQM__SPECIAL v16 SQM__NAME(expm1)(v16 x)
{
    const v16 magic = SQM__SET1(12582912.0f), one = SQM__SET1(1.0f);
    const v16 clamped = SQM__NAME(min)(SQM__NAME(max)(x, SQM__SET1(-86.5f)), SQM__SET1(88.3f));
    const v16 t = SQM__MADD(clamped, SQM__SET1(1.44269504f), magic), n = SQM__SUB(t, magic);
    const v16 r = SQM__MADD(n, SQM__SET1(2.12194440e-4f), SQM__MADD(n, SQM__SET1(-0.693359375f), clamped));
    const v16 scale = SQM__NAME(shift_exponent)(one, t);
    v16 p = SQM__SET1(1.394111150e-3f);
    p = SQM__MADD(p, r, SQM__SET1(8.363176361e-3f));
    p = SQM__MADD(p, r, SQM__SET1(4.166637528e-2f));
    p = SQM__MADD(p, r, SQM__SET1(1.666657700e-1f));
    p = SQM__MADD(p, r, SQM__SET1(5.000000027e-1f));
    p = SQM__MADD(p, SQM__MUL(r, r), r);
    return SQM__MADD(scale, p, SQM__SUB(scale, one));
}
/* Sine and cosine within 2 ulp of 1 for |x| < 8192: x = n pi/2 + r, polynomials (own minimax fits) on
   |r| <= pi/4, then the quarter n mod 4 swaps and negates. */
SQM__SPECIAL void SQM__NAME(sincos)(v16 x, v16 *sine, v16 *cosine)
{
    const v16 magic = SQM__SET1(12582912.0f), zero = SQM__SET1(0.0f), one = SQM__SET1(1.0f);
    const v16 n = SQM__SUB(SQM__MADD(x, SQM__SET1(0.636619772f), magic), magic);
    const v16 floor4 = SQM__SUB(SQM__ADD(SQM__MADD(n, SQM__SET1(0.25f), SQM__SET1(-0.375f)), magic), magic);
    const v16 quarter = SQM__MADD(floor4, SQM__SET1(-4.0f), n);
    const v16 off = SQM__NAME(abs)(SQM__SUB(quarter, SQM__SET1(2.0f)));     /* 1 in odd quarters */
    v16 r = SQM__MADD(n, SQM__SET1(-1.5703125f), x), square, s, c, a, b;
    r = SQM__MADD(n, SQM__SET1(-4.83751297e-4f), r);
    r = SQM__MADD(n, SQM__SET1(-7.54978995e-8f), r);
    square = SQM__MUL(r, r);
    s = SQM__MADD(square, SQM__SET1(-1.951665570e-4f), SQM__SET1(8.332173542e-3f));
    s = SQM__MADD(s, square, SQM__SET1(-1.666665487e-1f));
    s = SQM__MADD(SQM__MUL(s, square), r, r);
    c = SQM__MADD(square, SQM__SET1(2.443772992e-5f), SQM__SET1(-1.388736145e-3f));
    c = SQM__MADD(c, square, SQM__SET1(4.166664675e-2f));
    c = SQM__MADD(SQM__MUL(c, square), square, SQM__MADD(square, SQM__SET1(-0.5f), one));
    a = SQM__NAME(less)(SQM__NAME(abs)(SQM__SUB(off, one)), SQM__SET1(0.5f), c, s);
    b = SQM__NAME(less)(SQM__NAME(abs)(SQM__SUB(off, one)), SQM__SET1(0.5f), s, c);
    *sine = SQM__NAME(less)(quarter, SQM__SET1(1.5f), a, SQM__SUB(zero, a));
    *cosine = SQM__NAME(less)(SQM__NAME(abs)(SQM__SUB(quarter, SQM__SET1(1.5f))), one, SQM__SUB(zero, b), b);
}
SQM__SPECIAL v16 SQM__NAME(sigmoid)(v16 x)
{
    const v16 one = SQM__SET1(1.0f);
    return SQM__NAME(div)(one, SQM__ADD(one, SQM__NAME(exp)(SQM__SUB(SQM__SET1(0.0f), x))));
}
/* x + x^3 P(x^2) near 0, 1 - 2 / (e^2|x| + 1) beyond */
SQM__SPECIAL v16 SQM__NAME(tanh)(v16 x)
{
    const v16 size = SQM__NAME(abs)(x), square = SQM__MUL(x, x), one = SQM__SET1(1.0f);
    const v16 far = SQM__SUB(one, SQM__NAME(div)(SQM__SET1(2.0f), SQM__ADD(SQM__NAME(exp)(SQM__ADD(size,
            size)), one)));
    v16 p = SQM__SET1(2.282840541e-3f);
    p = SQM__MADD(p, square, SQM__SET1(-8.342024290e-3f));
    p = SQM__MADD(p, square, SQM__SET1(2.177159514e-2f));
    p = SQM__MADD(p, square, SQM__SET1(-5.396028931e-2f));
    p = SQM__MADD(p, square, SQM__SET1(1.333331436e-1f));
    p = SQM__MADD(p, square, SQM__SET1(-3.333333343e-1f));
    p = SQM__MADD(SQM__MUL(p, square), x, x);
    return SQM__NAME(less)(size, SQM__SET1(0.64f), p, SQM__NAME(copysign)(far, x));
}
/* x P(x^2) on |x| < 1, 1 - e^-Q(|x|) beyond */
SQM__SPECIAL v16 SQM__NAME(erf)(v16 x)
{
    const v16 size = SQM__NAME(min)(SQM__NAME(abs)(x), SQM__SET1(4.0f)), square = SQM__MUL(x, x);
    v16 p = SQM__SET1(-9.680136527e-6f), q = SQM__SET1(-2.513264183e-7f);
    p = SQM__MADD(p, square, SQM__SET1(1.127054453e-4f));
    p = SQM__MADD(p, square, SQM__SET1(-8.484711455e-4f));
    p = SQM__MADD(p, square, SQM__SET1(5.221074878e-3f));
    p = SQM__MADD(p, square, SQM__SET1(-2.686544582e-2f));
    p = SQM__MADD(p, square, SQM__SET1(1.128378275e-1f));
    p = SQM__MADD(p, square, SQM__SET1(-3.761263848e-1f));
    p = SQM__MUL(SQM__MADD(p, square, SQM__SET1(1.128379167f)), x);
    q = SQM__MADD(q, size, SQM__SET1(2.531480547e-5f));
    q = SQM__MADD(q, size, SQM__SET1(-4.637879999e-4f));
    q = SQM__MADD(q, size, SQM__SET1(4.282382554e-3f));
    q = SQM__MADD(q, size, SQM__SET1(-2.537355559e-2f));
    q = SQM__MADD(q, size, SQM__SET1(1.086389975e-1f));
    q = SQM__MADD(q, size, SQM__SET1(6.330396128e-1f));
    q = SQM__MADD(q, size, SQM__SET1(1.129661157f));
    q = SQM__MADD(q, size, SQM__SET1(-2.043598632e-4f));
    q = SQM__SUB(SQM__SET1(1.0f), SQM__NAME(exp)(SQM__SUB(SQM__SET1(0.0f), q)));
    return SQM__NAME(less)(SQM__NAME(abs)(x), SQM__SET1(1.0f), p, SQM__NAME(copysign)(q, x));
}
/* log(1 + e) on 0 <= e <= 1 as 2 atanh(e / (2 + e)) */
SQM__SPECIAL v16 SQM__NAME(log1p01)(v16 e)
{
    const v16 s = SQM__NAME(div)(e, SQM__ADD(SQM__SET1(2.0f), e)), square = SQM__MUL(s, s);
    v16 p = SQM__SET1(1.0f / 15.0f);
    p = SQM__MADD(p, square, SQM__SET1(1.0f / 13.0f));
    p = SQM__MADD(p, square, SQM__SET1(1.0f / 11.0f));
    p = SQM__MADD(p, square, SQM__SET1(1.0f / 9.0f));
    p = SQM__MADD(p, square, SQM__SET1(1.0f / 7.0f));
    p = SQM__MADD(p, square, SQM__SET1(1.0f / 5.0f));
    p = SQM__MADD(p, square, SQM__SET1(1.0f / 3.0f));
    p = SQM__MADD(p, square, SQM__SET1(1.0f));
    return SQM__MUL(SQM__ADD(s, s), p);
}

/* log x: x = 2^e m by steps that need no integers, log m as 2 atanh((m - 1) / (m + 1)); -3e38 for x <= 0 */
SQM__SPECIAL v16 SQM__NAME(log)(v16 x)
{
    static const float up[7] = { 18446744073709551616.0f, 4294967296.0f, 65536, 256, 16, 4, 2 };
    v16 m = x, e = SQM__SET1(0.0f), s, square, p = SQM__SET1(1.0f / 17.0f);
    for (int i = 0; i < 7; i++) {
        const v16 high = SQM__SET1(up[i]), low = SQM__SET1(1.0f / up[i]), step = SQM__SET1((float)(64 >> i));
        const v16 small = SQM__NAME(less)(m, low, step, SQM__SET1(0.0f));
        const v16 large = SQM__NAME(less)(high, m, step, SQM__SET1(0.0f));
        m = SQM__NAME(less)(m, low, SQM__MUL(m, high), SQM__NAME(less)(high, m, SQM__MUL(m, low), m));
        e = SQM__ADD(e, SQM__SUB(large, small));
    }
    s = SQM__NAME(div)(SQM__SUB(m, SQM__SET1(1.0f)), SQM__ADD(m, SQM__SET1(1.0f)));
    square = SQM__MUL(s, s);
    for (int i = 15; i > 0; i -= 2) p = SQM__MADD(p, square, SQM__SET1(1.0f / (float)i));
    p = SQM__MADD(e, SQM__SET1(0.693359375f), SQM__MADD(e, SQM__SET1(-2.12194440e-4f),
                                                        SQM__MUL(SQM__ADD(s, s), p)));
    return SQM__NAME(less)(SQM__SET1(0.0f), x, p, SQM__SET1(-3.0e38f));
}

SQM__SPECIAL v16 SQM__NAME(act)(v16 x, const int32_t kind)
{
    const v16 zero = SQM__SET1(0.0f);
    switch (kind) {
    case SQM_ACT_SILU:       return SQM__MUL(x, SQM__NAME(sigmoid)(x));
    case SQM_ACT_GELU:
        return SQM__MUL(SQM__MUL(SQM__SET1(0.5f), x),
                        SQM__ADD(SQM__SET1(1.0f), SQM__NAME(erf)(SQM__MUL(x, SQM__SET1(0.70710678f)))));
    /* x (1 + tanh u) / 2 = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3) */
    case SQM_ACT_GELU_TANH: {
        const v16 u = SQM__MUL(SQM__SET1(1.59576912f), SQM__MADD(SQM__MUL(SQM__MUL(x, x), x),
                SQM__SET1(0.044715f), x));
        return SQM__MUL(x, SQM__NAME(sigmoid)(u));
    }
    case SQM_ACT_RELU:       return SQM__NAME(max)(x, zero);
    case SQM_ACT_RELU2: {
        const v16 positive = SQM__NAME(max)(x, zero);
        return SQM__MUL(positive, positive);
    }
    case SQM_ACT_QUICK_GELU: return SQM__MUL(x, SQM__NAME(sigmoid)(SQM__MUL(SQM__SET1(1.702f), x)));
    case SQM_ACT_SIGMOID:    return SQM__NAME(sigmoid)(x);
    case SQM_ACT_TANH:       return SQM__NAME(tanh)(x);
    case SQM_ACT_EXP:        return SQM__NAME(exp)(x);
    case SQM_ACT_SOFTPLUS:
        return SQM__ADD(SQM__NAME(max)(x, zero),
                        SQM__NAME(log1p01)(SQM__NAME(exp)(SQM__SUB(zero, SQM__NAME(abs)(x)))));
    case SQM_ACT_LOG_SIGMOID:
        return SQM__SUB(SQM__NAME(min)(x, zero),
                        SQM__NAME(log1p01)(SQM__NAME(exp)(SQM__SUB(zero, SQM__NAME(abs)(x)))));
    case SQM_ACT_ELU1:
        return SQM__NAME(less)(zero, x, SQM__ADD(x, SQM__SET1(1.0f)),
                               SQM__NAME(exp)(SQM__NAME(min)(x, zero)));
    case SQM_ACT_LOG:        return SQM__NAME(log)(x);
    case SQM_ACT_SQRT:       return SQM__NAME(sqrt)(SQM__NAME(max)(x, zero));
    default:                 return x;
    }
}
#else
/* Passes of small machines take the functions of the narrow pass for each part of a vector. */
#define SQM__PARTS (int)(sizeof(v16) / sizeof(sqm__narrow))
#define SQM__BY_PARTS(f) \
    SQM__SPECIAL v16 SQM__NAME(f)(v16 x) \
    { \
        for (int i = 0; i < SQM__PARTS; i++) x.v[i] = sqm__##f##_narrow(x.v[i]); \
        return x; \
    }
SQM__BY_PARTS(exp)
SQM__BY_PARTS(expm1)
SQM__BY_PARTS(sigmoid)
SQM__BY_PARTS(tanh)
SQM__BY_PARTS(erf)
SQM__BY_PARTS(log)
SQM__SPECIAL void SQM__NAME(sincos)(v16 x, v16 *sine, v16 *cosine)
{
    for (int i = 0; i < SQM__PARTS; i++) sqm__sincos_narrow(x.v[i], &sine->v[i], &cosine->v[i]);
}
SQM__SPECIAL v16 SQM__NAME(act)(v16 x, const int32_t kind)
{
    for (int i = 0; i < SQM__PARTS; i++) x.v[i] = sqm__act_narrow(x.v[i], kind);
    return x;
}
#undef SQM__BY_PARTS
#undef SQM__PARTS
#endif

#if SQM__PASS != SQM__PASS_NARROW
/* y = act(x) * up, or act(x) when up is NULL */
SQM__SPECIAL void SQM__NAME(act_rows)(float *y, const float *x, const float *up, size_t n, const int32_t kind)
{
    for (size_t i = 0; i < n; i += SQM__LANES) {
        const int32_t left = n - i < SQM__LANES ? (int32_t)(n - i) : SQM__LANES;
        v16 v = SQM__NAME(act)(SQM__NAME(load_n)(x + i, left, 0.0f), kind);
        if (up) v = SQM__MUL(v, SQM__NAME(load_n)(up + i, left, 0.0f));
        SQM__NAME(store_n)(y + i, v, left);
    }
}
static void SQM__NAME(glu)(float *y, const float *gate, const float *up, size_t n, int32_t kind)
{
    switch (kind) {
    case SQM_ACT_SILU:       SQM__NAME(act_rows)(y, gate, up, n, SQM_ACT_SILU); break;
    case SQM_ACT_GELU:       SQM__NAME(act_rows)(y, gate, up, n, SQM_ACT_GELU); break;
    case SQM_ACT_GELU_TANH:  SQM__NAME(act_rows)(y, gate, up, n, SQM_ACT_GELU_TANH); break;
    case SQM_ACT_RELU:       SQM__NAME(act_rows)(y, gate, up, n, SQM_ACT_RELU); break;
    case SQM_ACT_RELU2:      SQM__NAME(act_rows)(y, gate, up, n, SQM_ACT_RELU2); break;
    case SQM_ACT_QUICK_GELU: SQM__NAME(act_rows)(y, gate, up, n, SQM_ACT_QUICK_GELU); break;
    case SQM_ACT_SIGMOID:    SQM__NAME(act_rows)(y, gate, up, n, SQM_ACT_SIGMOID); break;
    case SQM_ACT_TANH:       SQM__NAME(act_rows)(y, gate, up, n, SQM_ACT_TANH); break;
    case SQM_ACT_EXP:        SQM__NAME(act_rows)(y, gate, up, n, SQM_ACT_EXP); break;
    case SQM_ACT_SOFTPLUS:   SQM__NAME(act_rows)(y, gate, up, n, SQM_ACT_SOFTPLUS); break;
    case SQM_ACT_LOG_SIGMOID: SQM__NAME(act_rows)(y, gate, up, n, SQM_ACT_LOG_SIGMOID); break;
    case SQM_ACT_ELU1:       SQM__NAME(act_rows)(y, gate, up, n, SQM_ACT_ELU1); break;
    case SQM_ACT_LOG:        SQM__NAME(act_rows)(y, gate, up, n, SQM_ACT_LOG); break;
    case SQM_ACT_SQRT:       SQM__NAME(act_rows)(y, gate, up, n, SQM_ACT_SQRT); break;
    default:                 SQM__NAME(act_rows)(y, gate, up, n, SQM_ACT_NONE); break;
    }
}
static void SQM__NAME(activate)(float *y, const float *x, size_t n, int32_t kind)
{
    SQM__NAME(glu)(y, x, NULL, n, kind);
}

/* y = softmax(scale * x): largest first, then exponentials and their sum by lanes */
static void SQM__NAME(softmax)(float *y, const float *x, int32_t n, float scale)
{
    const v16 factor = SQM__SET1(scale);
    v16 largest = SQM__SET1(-3.0e38f), total = SQM__SET1(0.0f);
    for (int32_t i = 0; i < n; i += SQM__LANES) {
        const v16 v = SQM__MUL(SQM__NAME(load_n)(x + i, n - i, x[0]), factor);
        largest = SQM__NAME(max)(largest, v);
    }
    largest = SQM__SET1(SQM__NAME(max_lane)(largest));
    for (int32_t i = 0; i < n; i += SQM__LANES) {
        v16 e = SQM__NAME(exp)(SQM__SUB(SQM__MUL(SQM__NAME(load_n)(x + i, n - i, 0.0f), factor), largest));
        SQM__NAME(store_n)(y + i, e, n - i);
        total = SQM__ADD(total, SQM__NAME(load_n)(y + i, n - i, 0.0f));
    }
    total = SQM__SET1(SQM__NAME(sum)(total));
    for (int32_t i = 0; i < n; i += SQM__LANES)
        SQM__NAME(store_n)(y + i, SQM__NAME(div)(SQM__NAME(load_n)(y + i, n - i, 0.0f), total), n - i);
}

/* y = cap * tanh(x / cap) */
static void SQM__NAME(softcap)(float *y, const float *x, size_t n, float cap)
{
    const v16 factor = SQM__SET1(cap);
    for (size_t i = 0; i < n; i += SQM__LANES) {
        const int32_t left = n - i < SQM__LANES ? (int32_t)(n - i) : SQM__LANES;
        const v16 v = SQM__NAME(tanh)(SQM__NAME(div)(SQM__NAME(load_n)(x + i, left, 0.0f), factor));
        SQM__NAME(store_n)(y + i, SQM__MUL(v, factor), left);
    }
}

/* ---- attention ----------------------------------------------------------------------------------------- */
static void SQM__NAME(narrow)(uint16_t *y, const float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i += SQM__LANES) {
        uint16_t part[SQM__LANES];
        SQM__NAME(store_f16)(part, SQM__NAME(load_n)(x + i, n - i, 0.0f));
        memcpy(y + i, part, (size_t)sqm__min(SQM__LANES, n - i) * sizeof(*y));
    }
}

/* Scores of one query over a tile -> exponentials relative to the running maximum; keys outside [0, kept) and
   [low, high) weigh 0.
   Returns the factor by which earlier sums shrink. */
SQM__SPECIAL float SQM__NAME(weigh_tile)(const sqm__attend *a, int32_t m, int32_t low, int32_t high,
                                          int32_t kept)
{
    float *scores = a->scores + (size_t)m * SQM__TILE_KEYS, lanes[SQM__LANES];
    const v16 never = SQM__SET1(-3.0e38f);
    v16 s[4], largest;
    SQM__WIDE for (int i = 0; i < 4; i++) {
        s[i] = never;
        if (16 * i >= high || (16 * i + 16 <= low && 16 * i >= kept)) continue;
        s[i] = SQM__NAME(load)(scores + 16 * i);
        if (a->softcap > 0.0f) {
            const v16 cap = SQM__SET1(a->softcap);
            s[i] = SQM__MUL(SQM__NAME(tanh)(SQM__NAME(div)(s[i], cap)), cap);
        }
        if (16 * i < low || 16 * i + 16 > high) {
            const v16 key = SQM__NAME(load)(sqm__key_numbers + 16 * i);
            s[i] = SQM__NAME(less)(key, SQM__SET1((float)high), s[i], never);
            s[i] = SQM__NAME(less)(key, SQM__SET1((float)low),
                                   SQM__NAME(less)(key, SQM__SET1((float)kept), s[i], never), s[i]);
        }
    }
    largest = SQM__NAME(max)(SQM__NAME(max)(s[0], s[1]), SQM__NAME(max)(s[2], s[3]));
    {
        const float before = a->max[m], here = SQM__NAME(max_lane)(largest), now = here > before ? here
            : before;
        const v16 top = SQM__SET1(now);
        SQM__WIDE for (int i = 0; i < 4; i++) {
            s[i] = SQM__NAME(exp)(SQM__SUB(s[i], top));
            SQM__NAME(store)(scores + 16 * i, s[i]);
        }
        SQM__NAME(store)(lanes, SQM__NAME(exp)(SQM__SUB(SQM__SET1(before), top)));
        a->max[m] = now;
        a->sum[m] = a->sum[m] * lanes[0] + SQM__NAME(sum)(SQM__ADD(SQM__ADD(s[0], s[1]), SQM__ADD(s[2],
                s[3])));
    }
    return lanes[0];
}

/* Panels of 16 keys [head_dim][16] or of 16 columns of values [n][16] are widened to float32, a few at a time,
   when they hold codes or serve many rows. Scales: of keys [head_dim / 32][64] by key, of values [64] by row. */
SQM__SPECIAL int SQM__NAME(widens)(const sqm__attend *a)
{
    return a->dtype == SQM_I8 || (a->dtype == SQM_F16 && a->n_vectors >= 6);
}
SQM__SPECIAL void SQM__NAME(widen_keys)(const sqm__attend *a, float *to, const uint8_t *codes,
                                        const float *scales)
{
    for (int32_t i = 0; i < a->head_dim; i++, to += SQM__LANES) {
        if (a->dtype == SQM_F16) SQM__NAME(store)(to, SQM__NAME(load_f16)(codes + i * 2 * SQM__LANES));
        else SQM__NAME(store)(to, SQM__MUL(SQM__NAME(load)(scales + i / SQM__GROUP * SQM__TILE_KEYS),
                                           SQM__NAME(load_s8)(codes + i * SQM__LANES)));
    }
}
SQM__SPECIAL void SQM__NAME(widen_values)(const sqm__attend *a, float *to, const uint8_t *codes,
                                          const float *scales, int32_t n)
{
    for (int32_t i = 0; i < n; i++, to += SQM__LANES) {
        if (a->dtype == SQM_F16) SQM__NAME(store)(to, SQM__NAME(load_f16)(codes + i * 2 * SQM__LANES));
        else SQM__NAME(store)(to, SQM__MUL(SQM__SET1(scales[i]), SQM__NAME(load_s8)(codes + i * SQM__LANES)));
    }
}
/* to[16][stride 16] = four rows of 16 turned: to[k][i] = from[i][k] */
SQM__SPECIAL void SQM__NAME(turn4)(float *to, const float *from)
{
    for (int32_t k = 0; k < SQM__LANES; k += 4) {
#if SQM__PASS == SQM__PASS_AVX2 || SQM__PASS == SQM__PASS_AVX512
        __m128 r0 = _mm_loadu_ps(from + k), r1 = _mm_loadu_ps(from + SQM__LANES + k);
        __m128 r2 = _mm_loadu_ps(from + 2 * SQM__LANES + k), r3 = _mm_loadu_ps(from + 3 * SQM__LANES + k);
        _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
        _mm_storeu_ps(to + k * SQM__LANES, r0);
        _mm_storeu_ps(to + (k + 1) * SQM__LANES, r1);
        _mm_storeu_ps(to + (k + 2) * SQM__LANES, r2);
        _mm_storeu_ps(to + (k + 3) * SQM__LANES, r3);
#else
        for (int32_t j = k; j < k + 4; j++)
            for (int32_t i = 0; i < 4; i++) to[j * SQM__LANES + i] = from[i * SQM__LANES + j];
#endif
    }
}
/* A panel of values out of keys: 16 of their columns from `column` on, zeros behind the last. */
SQM__SPECIAL const uint8_t *SQM__NAME(shared_panel)(const sqm__attend *a, const uint8_t *keys,
                                                    const float *scales, int32_t column, int32_t n)
{
    const size_t element = a->dtype == SQM_F32 ? 4 : a->dtype == SQM_I8 ? 1 : 2;
    float rows[4 * SQM__LANES];
    for (int32_t from = 0; from < n; from += SQM__LANES)
        for (int32_t i = column; i < column + SQM__LANES; i++) {
            const uint8_t *codes = keys + ((size_t)from * (size_t)a->head_dim +
                                           (size_t)i * SQM__LANES) * element;
            v16 x = SQM__SET1(0.0f);
            if (i < a->head_dim && a->dtype == SQM_F16) x = SQM__NAME(load_f16)(codes);
            else if (i < a->head_dim && a->dtype == SQM_F32)
                x = SQM__NAME(load)((const float *)(const void *)codes);
            else if (i < a->head_dim)
                x = SQM__MUL(SQM__NAME(load)(scales + i / SQM__GROUP * SQM__TILE_KEYS + from),
                             SQM__NAME(load_s8)(codes));
            SQM__NAME(store)(rows + i % 4 * SQM__LANES, x);
            if (i % 4 == 3) SQM__NAME(turn4)(a->panels + from * SQM__LANES + i - column - 3, rows);
        }
    return (const uint8_t *)a->panels;
}
/* scores = q times n_panels of keys */
SQM__SPECIAL void SQM__NAME(score_keys)(const sqm__attend *a, const uint8_t *keys, size_t panel_bytes,
                                        const float *scales, int32_t n_panels)
{
    const int widens = SQM__NAME(widens)(a);
    const int32_t at_once = widens ? sqm__widened((size_t)a->n_vectors) : n_panels;
    const size_t widened = (size_t)a->head_dim * SQM__LANES;
    for (int32_t i = 0; i < n_panels; i += at_once) {
        const int32_t n = sqm__min(at_once, n_panels - i);
        const uint8_t *from = keys + (size_t)i * panel_bytes;
        for (int32_t p = 0; widens && p < n; p++)
            SQM__NAME(widen_keys)(a, a->panels + (size_t)p * widened, from + (size_t)p * panel_bytes,
                                  scales + (i + p) * SQM__LANES);
        SQM__NAME(product)(a->scores + i * SQM__LANES, SQM__TILE_KEYS, a->q, (size_t)a->head_dim, a->n_vectors,
                           widens ? (const uint8_t *)a->panels : from, widens ? 4 * widened : panel_bytes, n,
                           a->head_dim, 0, widens ? SQM_F32 : a->dtype);
    }
}
/* acc += weights times n_panels of values of n_keys rows */
SQM__SPECIAL void SQM__NAME(gather_values)(const sqm__attend *a, const uint8_t *values, size_t panel_bytes,
                                           const float *scales, int32_t n_panels, int32_t n_keys)
{
    const int widens = SQM__NAME(widens)(a);
    const int32_t at_once = widens ? sqm__widened((size_t)a->n_vectors) : n_panels;
    const size_t widened = SQM__TILE_KEYS * SQM__LANES;
    for (int32_t i = 0; i < n_panels; i += at_once) {
        const int32_t n = sqm__min(at_once, n_panels - i);
        const uint8_t *from = values + (size_t)i * panel_bytes;
        for (int32_t p = 0; widens && p < n; p++)
            SQM__NAME(widen_values)(a, a->panels + (size_t)p * widened, from + (size_t)p * panel_bytes, scales +
                                    (i + p) * SQM__LANES / SQM__GROUP * SQM__TILE_KEYS, n_keys);
        SQM__NAME(product)(a->acc + i * SQM__LANES, (size_t)a->v_pad, a->scores, SQM__TILE_KEYS, a->n_vectors,
                           widens ? (const uint8_t *)a->panels : from, widens ? 4 * widened : panel_bytes, n,
                           n_keys, 1, widens ? SQM_F32 : a->dtype);
    }
}
static void SQM__NAME(attend_tile)(const sqm__attend *a, const uint8_t *tile, int32_t first_key,
                                   int32_t n_keys)
{
    const size_t element = a->dtype == SQM_F32 ? 4 : a->dtype == SQM_I8 ? 1 : 2;
    const size_t key_bytes = (size_t)a->head_dim * SQM__LANES * element;
    const size_t value_bytes = SQM__TILE_KEYS * SQM__LANES * element;
    const int32_t value_panels = a->shared ? 0 : a->v_pad / SQM__LANES;
    const uint8_t *values = tile + 4 * key_bytes;
    const float *key_scales = (const float *)(const void *)(values + (size_t)value_panels * value_bytes);
    const float *value_scales = key_scales + sqm__ceil_div(a->head_dim, SQM__GROUP) * SQM__TILE_KEYS;
    SQM__NAME(score_keys)(a, tile, key_bytes, key_scales, sqm__ceil_div(n_keys, SQM__LANES));
    for (int32_t i = 0; a->bias && i < a->n_vectors * SQM__TILE_KEYS; i += SQM__LANES)
        SQM__NAME(store)(a->scores + i, SQM__ADD(SQM__NAME(load)(a->scores + i),
                                                 SQM__NAME(load)(a->bias + i)));
    for (int32_t m = 0; m < a->n_vectors; m++) {
        /* keys before this one are not in the future */
        const int32_t end = a->position[m] - first_key + 1;
        const int32_t high = sqm__min(end, n_keys), low = sqm__max(0, a->oldest[m] - first_key);
        const int32_t kept = sqm__max(0, sqm__min(a->keep - first_key, high));
        float *acc = a->acc + (size_t)m * (size_t)a->v_pad;
        float shrink;
        if (high <= low && kept == 0) {
            memset(a->scores + (size_t)m * SQM__TILE_KEYS, 0, SQM__TILE_KEYS * sizeof(float));
            continue;
        }
        shrink = SQM__NAME(weigh_tile)(a, m, low, high, kept);
        for (int32_t i = 0; i < a->v_pad; i += SQM__LANES)
            SQM__NAME(store)(acc + i, SQM__MUL(SQM__NAME(load)(acc + i), SQM__SET1(shrink)));
    }
    for (int32_t i = 0; a->shared && i < a->v_pad; i += SQM__LANES)
        SQM__NAME(product)(a->acc + i, (size_t)a->v_pad, a->scores, SQM__TILE_KEYS, a->n_vectors,
                           SQM__NAME(shared_panel)(a, tile, key_scales, i, n_keys), 0, 1, n_keys, 1, SQM_F32);
    SQM__NAME(gather_values)(a, values, value_bytes, value_scales, value_panels, n_keys);
}

/* ---- short convolutions -------------------------------------------------------------------------------- */
static void SQM__NAME(conv_row)(float *y, const sqm__taps *c)
{
    for (int32_t i = 0; i < c->n; i += SQM__LANES) {
        const int32_t left = c->n - i;
        v16 sum = SQM__SET1(0.0f);
        if (c->bias) sum = SQM__ADD(sum, SQM__NAME(load_n)(c->bias + i, left, 0.0f));
        for (int32_t k = 0; k < c->n_taps; k++) {
            const float *weights = c->weights + (size_t)k * (size_t)c->n + i;
            if (!c->rows[k]) continue;
            sum = SQM__MADD(SQM__NAME(load_n)(weights, left, 0.0f),
                            SQM__NAME(load_n)(c->rows[k] + i, left, 0.0f), sum);
        }
        SQM__NAME(store_n)(y + i, sum, left);
    }
}

/* ---- test-time memory ---------------------------------------------------------------------------------- */
static void SQM__NAME(product_back)(float *y, size_t y_stride, const float *e, size_t e_stride,
                                    int32_t n_rows, const float *w, int32_t rows, int32_t n_panels, int32_t n)
{
    const size_t panel = (size_t)rows * SQM__LANES;
    for (int32_t t = 0; t < n_rows; t++) {
        const float *error = e + (size_t)t * e_stride;
        for (int32_t k = 0; k < n; k++) {
            v16 sum = SQM__SET1(0.0f);
            for (int32_t p = 0; p < n_panels; p++)
                sum = SQM__MADD(SQM__NAME(load)(error + SQM__LANES * p),
                                SQM__NAME(load)(w + panel * (size_t)p + (size_t)k * SQM__LANES), sum);
            y[(size_t)t * y_stride + (size_t)k] = SQM__NAME(sum)(sum);
        }
    }
}

/* 16 weights of one row and one token: the gradient from the pairs x (in steps of x_stride) and e, then the
   rule. Returns what the query reads. */
SQM__SPECIAL v16 SQM__NAME(learn_cell)(v16 *m, v16 *s, const sqm__learn *l, const float *gates,
                                       const float *x, const float *e, const int32_t rule)
{
    v16 g = SQM__MUL(SQM__SET1(gates[3] * x[0]), SQM__NAME(load)(e));
    for (int32_t i = 1; i < l->window; i++)
        g = SQM__MADD(SQM__SET1(gates[3 + i] * x[(size_t)i * l->x_stride]),
                      SQM__NAME(load)(e + (size_t)i * l->e_stride), g);
    switch (rule) {
    case SQM__LEARN_DESCENT:
        *m = SQM__MADD(SQM__SET1(-gates[0]), g, SQM__MUL(SQM__SET1(gates[1]), *m));
        return *m;
    case SQM__LEARN_MOMENTUM:
        *s = SQM__MADD(SQM__SET1(-gates[0]), g, SQM__MUL(SQM__SET1(gates[2]), *s));
        *m = SQM__MADD(SQM__SET1(gates[1]), *m, *s);
        return *m;
    case SQM__LEARN_SUM:
        *s = SQM__MADD(SQM__SET1(-gates[0]), g, *s);
        return SQM__MADD(SQM__SET1(gates[1]), *s, *m);
    default:
        *s = SQM__SUB(SQM__MUL(SQM__SET1(gates[2]), *s), g);
        return *s;
    }
}
/* One token, P panels: what it reads stays in registers. */
SQM__SPECIAL void SQM__NAME(learn_one)(const sqm__learn *l, int32_t panel, const int32_t P,
                                       const int32_t rule)
{
    const size_t step = (size_t)l->rows * SQM__LANES;
    float *m = l->m + step * (size_t)panel, *s = l->s + step * (size_t)panel;
    const float *e = l->e + SQM__LANES * panel;
    v16 y[SQM__TILE_ROWS];
    SQM__WIDE for (int32_t p = 0; p < P; p++) y[p] = SQM__SET1(0.0f);
    for (size_t k = 0; k < (size_t)l->rows; k++) {
        const v16 q = SQM__SET1(l->q ? l->q[k] : 0.0f);
        SQM__WIDE for (int32_t p = 0; p < P; p++) {
            float *mk = m + step * (size_t)p + k * SQM__LANES, *sk = s + step * (size_t)p + k * SQM__LANES;
            v16 weight = SQM__NAME(load)(mk);
            v16 past = rule == SQM__LEARN_DESCENT ? weight : SQM__NAME(load)(sk);
            const v16 seen = SQM__NAME(learn_cell)(&weight, &past, l, l->gates, l->x + k, e + SQM__LANES * p,
                                                   rule);
            if (rule <= SQM__LEARN_MOMENTUM) SQM__NAME(store)(mk, weight);
            if (rule >= SQM__LEARN_MOMENTUM) SQM__NAME(store)(sk, past);
            y[p] = SQM__MADD(q, seen, y[p]);
        }
    }
    if (!l->q) return;
    SQM__WIDE for (int32_t p = 0; p < P; p++) SQM__NAME(store)(l->y + SQM__LANES * (panel + p), y[p]);
}
/* All tokens, K rows of one panel from row k: the weights stay in registers. */
SQM__SPECIAL void SQM__NAME(learn_rows)(const sqm__learn *l, int32_t panel, int32_t k, const int32_t K,
                                        const int32_t rule)
{
    const size_t at = ((size_t)l->rows * (size_t)panel + (size_t)k) * SQM__LANES;
    v16 m[4], s[4];
    SQM__WIDE for (int32_t i = 0; i < K; i++) {
        m[i] = SQM__NAME(load)(l->m + at + (size_t)i * SQM__LANES);
        s[i] = rule == SQM__LEARN_DESCENT ? m[i] : SQM__NAME(load)(l->s + at + (size_t)i * SQM__LANES);
    }
    for (int32_t t = 0; t < l->n_tokens; t++) {
        const float *gates = l->gates + (size_t)t * (size_t)(3 + l->window);
        const float *x = l->x + (size_t)t * l->x_stride + (size_t)k;
        const float *q = l->q + (size_t)t * l->q_stride + (size_t)k;
        const float *e = l->e + (size_t)t * l->e_stride + SQM__LANES * panel;
        float *y = l->y + (size_t)t * l->y_stride + SQM__LANES * panel;
        v16 sum = k ? SQM__NAME(load)(y) : SQM__SET1(0.0f);
        SQM__WIDE for (int32_t i = 0; i < K; i++)
            sum = SQM__MADD(SQM__SET1(q[i]),
                            SQM__NAME(learn_cell)(&m[i], &s[i], l, gates, x + i, e, rule), sum);
        SQM__NAME(store)(y, sum);
    }
    SQM__WIDE for (int32_t i = 0; i < K; i++) {
        if (rule <= SQM__LEARN_MOMENTUM) SQM__NAME(store)(l->m + at + (size_t)i * SQM__LANES, m[i]);
        if (rule >= SQM__LEARN_MOMENTUM) SQM__NAME(store)(l->s + at + (size_t)i * SQM__LANES, s[i]);
    }
}
SQM__SPECIAL void SQM__NAME(learn_by)(const sqm__learn *l, const int32_t rule)
{
    int32_t p = 0;
    if (l->n_tokens == 1) {
        for (; p + SQM__TILE_ROWS <= l->n_panels; p += SQM__TILE_ROWS)
            SQM__NAME(learn_one)(l, p, SQM__TILE_ROWS, rule);
        for (; p < l->n_panels; p++) SQM__NAME(learn_one)(l, p, 1, rule);
        return;
    }
    for (; p < l->n_panels; p++) {
        int32_t k = 0;
        for (; k + 4 <= l->rows; k += 4) SQM__NAME(learn_rows)(l, p, k, 4, rule);
        for (; k < l->rows; k++) SQM__NAME(learn_rows)(l, p, k, 1, rule);
    }
}
static void SQM__NAME(learn)(const sqm__learn *l)
{
    switch (l->rule) {
    case SQM__LEARN_DESCENT:  SQM__NAME(learn_by)(l, SQM__LEARN_DESCENT); break;
    case SQM__LEARN_MOMENTUM: SQM__NAME(learn_by)(l, SQM__LEARN_MOMENTUM); break;
    case SQM__LEARN_SUM:      SQM__NAME(learn_by)(l, SQM__LEARN_SUM); break;
    default:                  SQM__NAME(learn_by)(l, SQM__LEARN_SURPRISE); break;
    }
}

static void SQM__NAME(blend)(float *m, const float *n, size_t count, float keep, float take)
{
    const v16 k = SQM__SET1(keep), t = SQM__SET1(take);
    for (size_t i = 0; i < count; i += SQM__LANES) {
        const int32_t left = count - i < SQM__LANES ? (int32_t)(count - i) : SQM__LANES;
        SQM__NAME(store_n)(m + i, SQM__MADD(t, SQM__NAME(load_n)(n + i, left, 0.0f),
                                            SQM__MUL(k, SQM__NAME(load_n)(m + i, left, 0.0f))), left);
    }
}

/* Derivatives of the activations, and 0 or 1 where one has a corner */
SQM__SPECIAL v16 SQM__NAME(slope)(v16 x, const int32_t kind)
{
    const v16 zero = SQM__SET1(0.0f), one = SQM__SET1(1.0f), half = SQM__SET1(0.5f);
    switch (kind) {
    case SQM_ACT_SILU: {                /* s + x s (1 - s) */
        const v16 s = SQM__NAME(sigmoid)(x);
        return SQM__MADD(SQM__MUL(x, s), SQM__SUB(one, s), s);
    }
    case SQM_ACT_GELU: {                /* (1 + erf(x / sqrt 2)) / 2 + x e^(-x^2 / 2) / sqrt(2 pi) */
        const v16 bell = SQM__NAME(exp)(SQM__MUL(SQM__SET1(-0.5f), SQM__MUL(x, x)));
        const v16 step = SQM__ADD(one, SQM__NAME(erf)(SQM__MUL(x, SQM__SET1(0.70710678f))));
        return SQM__MADD(SQM__MUL(x, bell), SQM__SET1(0.39894228f), SQM__MUL(half, step));
    }
    /* s + x s (1 - s) u', s = sigmoid(u), u = 2 sqrt(2/pi) (x + 0.044715 x^3) */
    case SQM_ACT_GELU_TANH: {
        const v16 square = SQM__MUL(x, x);
        const v16 u = SQM__MUL(SQM__SET1(1.59576912f),
                               SQM__MADD(SQM__MUL(square, x), SQM__SET1(0.044715f), x));
        const v16 rise = SQM__MUL(SQM__SET1(1.59576912f), SQM__MADD(square, SQM__SET1(0.134145f), one));
        const v16 s = SQM__NAME(sigmoid)(u);
        return SQM__MADD(SQM__MUL(SQM__MUL(x, s), SQM__SUB(one, s)), rise, s);
    }
    case SQM_ACT_QUICK_GELU: {          /* s + 1.702 x s (1 - s), s = sigmoid(1.702 x) */
        const v16 u = SQM__MUL(SQM__SET1(1.702f), x), s = SQM__NAME(sigmoid)(u);
        return SQM__MADD(SQM__MUL(u, s), SQM__SUB(one, s), s);
    }
    case SQM_ACT_RELU:    return SQM__NAME(less)(zero, x, one, zero);
    case SQM_ACT_RELU2:   return SQM__MUL(SQM__SET1(2.0f), SQM__NAME(max)(x, zero));
    case SQM_ACT_SIGMOID: {
        const v16 s = SQM__NAME(sigmoid)(x);
        return SQM__MUL(s, SQM__SUB(one, s));
    }
    case SQM_ACT_TANH: {
        const v16 t = SQM__NAME(tanh)(x);
        return SQM__SUB(one, SQM__MUL(t, t));
    }
    default:              return one;
    }
}
static void SQM__NAME(act_slope)(float *y, const float *x, size_t n, int32_t kind)
{
    for (size_t i = 0; i < n; i += SQM__LANES) {
        const int32_t left = n - i < SQM__LANES ? (int32_t)(n - i) : SQM__LANES;
        const v16 rise = SQM__NAME(slope)(SQM__NAME(load_n)(x + i, left, 0.0f), kind);
        SQM__NAME(store_n)(y + i, SQM__MUL(SQM__NAME(load_n)(y + i, left, 0.0f), rise), left);
    }
}

/* With h = (z - mean) / std and g = (gain h + bias - target) gain:  e =
   (g - (sum g + h sum(g h)) / n) / std. e may be z. */
static void SQM__NAME(norm_error)(float *e, const float *z, const float *target, const float *gain,
                                  const float *bias, int32_t n, float eps)
{
    v16 total = SQM__SET1(0.0f), squares = total, sums = total, products = total, mean, inverse;
    float middle;
    for (int32_t i = 0; i < n; i += SQM__LANES)
        total = SQM__ADD(total, SQM__NAME(load_n)(z + i, n - i, 0.0f));
    middle = SQM__NAME(sum)(total) / (float)n;
    mean = SQM__SET1(middle);
    for (int32_t i = 0; i < n; i += SQM__LANES) {       /* missing lanes are the mean: no distance */
        const v16 d = SQM__SUB(SQM__NAME(load_n)(z + i, n - i, middle), mean);
        squares = SQM__MADD(d, d, squares);
    }
    inverse = SQM__SET1(1.0f / sqm__sqrt(SQM__NAME(sum)(squares) / (float)n + eps));
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t i = 0; i < n; i += SQM__LANES) {
            const v16 h = SQM__MUL(SQM__SUB(SQM__NAME(load_n)(z + i, n - i, middle), mean), inverse);
            const v16 scale = SQM__NAME(load_n)(gain + i, n - i, 0.0f);
            v16 g = SQM__SUB(SQM__NAME(load_n)(bias + i, n - i, 0.0f),
                             SQM__NAME(load_n)(target + i, n - i, 0.0f));
            g = SQM__MUL(SQM__MADD(scale, h, g), scale);
            if (pass == 1) {
                SQM__NAME(store_n)(e + i, SQM__MUL(SQM__SUB(g, SQM__MADD(h, products, sums)), inverse),
                                   n - i);
                continue;
            }
            sums = SQM__ADD(sums, g);
            products = SQM__MADD(g, h, products);
        }
        sums = SQM__SET1(SQM__NAME(sum)(sums) / (float)n);
        products = SQM__SET1(SQM__NAME(sum)(products) / (float)n);
    }
}

/* ---- state-space scans --------------------------------------------------------------------------------- */
/* One row of a panel: h += (e^(dt a) - 1) h + in b; returns sum_n c h in increasing n. The decay enters as
   e^v - 1, and the step is whole before it is added: a decay below the last digit of h would round the same
   way every row. */
SQM__SPECIAL v16 SQM__NAME(scan_row)(const sqm__scan *s, int32_t t, v16 dt, v16 in, const int has_dt,
                                     const int wide)
{
    const float *b = s->b + (ptrdiff_t)t * s->b_step, *c = s->c + (ptrdiff_t)t * s->c_step;
    v16 y = SQM__SET1(0.0f);
    for (int32_t n = 0; n < s->n; n++) {
        const v16 a = SQM__NAME(load)(s->a + n * SQM__LANES);
        const v16 decay = has_dt ? SQM__NAME(expm1)(SQM__MUL(dt, a)) : a;
        v16 h = SQM__NAME(load)(s->h + n * SQM__LANES);
        const v16 u = SQM__MUL(in, wide ? SQM__NAME(load)(b + n * SQM__LANES) : SQM__SET1(b[n]));
        h = SQM__ADD(h, SQM__MADD(decay, h, u));
        SQM__NAME(store)(s->h + n * SQM__LANES, h);
        y = SQM__MADD(h, wide ? SQM__NAME(load)(c + n * SQM__LANES) : SQM__SET1(c[n]), y);
    }
    return y;
}
/* The same with complex a, h, b and c, real parts first; returns 2 Re sum_n c h. */
static v16 SQM__NAME(scan_row_complex)(const sqm__scan *s, int32_t t, v16 dt, v16 in)
{
    const float *b = s->b + (ptrdiff_t)t * s->b_step, *c = s->c + (ptrdiff_t)t * s->c_step;
    const int32_t wide = s->wide ? SQM__LANES : 1;
    v16 y = SQM__SET1(0.0f);
    for (int32_t n = 0; n < s->n; n++) {
        const int32_t i = n + s->n;     /* of the imaginary part */
        const v16 size = SQM__NAME(exp)(SQM__MUL(dt, SQM__NAME(load)(s->a + n * SQM__LANES)));
        const v16 hr = SQM__NAME(load)(s->h + n * SQM__LANES), hi = SQM__NAME(load)(s->h + i * SQM__LANES);
        v16 sine, cosine, re, im, br, bi, cr, ci;
        SQM__NAME(sincos)(SQM__MUL(dt, SQM__NAME(load)(s->a + i * SQM__LANES)), &sine, &cosine);
        sine = SQM__MUL(sine, size);
        cosine = SQM__MUL(cosine, size);
        br = s->wide ? SQM__NAME(load)(b + n * wide) : SQM__SET1(b[n]);
        bi = s->wide ? SQM__NAME(load)(b + i * wide) : SQM__SET1(b[i]);
        cr = s->wide ? SQM__NAME(load)(c + n * wide) : SQM__SET1(c[n]);
        ci = s->wide ? SQM__NAME(load)(c + i * wide) : SQM__SET1(c[i]);
        re = SQM__MADD(in, br, SQM__SUB(SQM__MUL(cosine, hr), SQM__MUL(sine, hi)));
        im = SQM__MADD(in, bi, SQM__MADD(sine, hr, SQM__MUL(cosine, hi)));
        SQM__NAME(store)(s->h + n * SQM__LANES, re);
        SQM__NAME(store)(s->h + i * SQM__LANES, im);
        y = SQM__ADD(y, SQM__SUB(SQM__MUL(cr, re), SQM__MUL(ci, im)));
    }
    return SQM__ADD(y, y);
}
static void SQM__NAME(scan)(const sqm__scan *s)
{
    const v16 zero = SQM__SET1(0.0f);
    const v16 bias = s->dt_bias ? SQM__NAME(load_n)(s->dt_bias, s->lanes, 0.0f) : zero;
    const v16 skip = s->d ? SQM__NAME(load_n)(s->d, s->lanes, 0.0f) : zero;
    for (int32_t t = 0; t < s->rows; t++) {
        const v16 x = SQM__NAME(load_n)(s->x + (ptrdiff_t)t * s->x_step, s->lanes, 0.0f);
        v16 dt = zero, in = x, y;
        if (s->dt) {
            dt = SQM__NAME(load_n)(s->dt + (ptrdiff_t)t * s->x_step, s->lanes, 0.0f);
            dt = SQM__NAME(act)(SQM__ADD(dt, bias), s->dt_act);
            dt = SQM__NAME(min)(SQM__NAME(max)(dt, SQM__SET1(s->dt_min)), SQM__SET1(s->dt_max));
            if (s->input == SQM__INPUT_STEP) in = SQM__MUL(dt, x);
            if (s->input == SQM__INPUT_ROOT && !(s->fresh && t == 0)) {
                const v16 twice = SQM__MUL(SQM__ADD(dt, dt), SQM__NAME(load)(s->a));
                const v16 rest = SQM__SUB(zero, SQM__NAME(expm1)(twice));
                in = SQM__MUL(SQM__NAME(sqrt)(SQM__NAME(max)(rest, zero)), x);
            }
        }
        if (s->is_complex) y = SQM__NAME(scan_row_complex)(s, t, dt, in);
        else if (s->dt && !s->wide) y = SQM__NAME(scan_row)(s, t, dt, in, 1, 0);
        else y = SQM__NAME(scan_row)(s, t, dt, in, s->dt != NULL, s->wide);
        if (s->d) y = SQM__MADD(skip, x, y);
        SQM__NAME(store_n)(s->y + (ptrdiff_t)t * s->y_step, y, s->lanes);
    }
}

/* One column of P panels of a matrix state: decay, updates, outputs, in this order for every tile shape. */
SQM__SPECIAL void SQM__NAME(ssd_column)(v16 *state, v16 *acc, const v16 *u, v16 decay, const sqm__ssd *s,
                                        int32_t t, int32_t n, const int32_t U, const int32_t R,
                                        const int32_t P)
{
    SQM__WIDE for (int32_t p = 0; p < P; p++) state[p] = SQM__MADD(decay, state[p], state[p]);
    for (int32_t j = 0; j < U; j++) {
        const v16 k = SQM__SET1(s->updates[j].k[(ptrdiff_t)t * s->updates[j].k_step + n]);
        SQM__WIDE for (int32_t p = 0; p < P; p++) state[p] = SQM__MADD(u[j * P + p], k, state[p]);
    }
    for (int32_t i = 0; i < R; i++) {
        const v16 q = SQM__SET1(s->q[(ptrdiff_t)t * s->q_step + i * s->q_next + n]);
        SQM__WIDE for (int32_t p = 0; p < P; p++) acc[i * P + p] = SQM__MADD(state[p], q, acc[i * P + p]);
    }
}
/* What row t adds to P panels from `panel` on: w u of each update */
SQM__SPECIAL void SQM__NAME(ssd_inputs)(v16 *u, const sqm__ssd *s, int32_t t, int32_t panel, int32_t lanes,
                                        const int32_t U, const int32_t P)
{
    for (int32_t j = 0; j < U; j++) {
        const sqm__rank1 *o = &s->updates[j];
        const float *from = o->u + (ptrdiff_t)t * o->u_step + panel * SQM__LANES;
        SQM__WIDE for (int32_t p = 0; p < P; p++)
            u[j * P + p] = SQM__MUL(SQM__NAME(load_n)(from + p * SQM__LANES, lanes, 0.0f),
                                    SQM__SET1(o->w[t]));
    }
}
/* N columns of P panels stay in registers over all rows; the outputs' sums go through memory. */
SQM__SPECIAL void SQM__NAME(ssd_tile)(const sqm__ssd *s, const float *decay, int32_t panel, int32_t n,
                                      int32_t lanes, const int32_t U, const int32_t R, const int32_t P,
                                      const int32_t N)
{
    float *at = s->state + ((size_t)panel * (size_t)s->n + (size_t)n) * SQM__LANES;
    const size_t next = (size_t)s->n * SQM__LANES;
    v16 state[SQM__SSD_N * SQM__SSD_P], acc[SQM__MAX_RANK * SQM__SSD_P], u[2 * SQM__MAX_RANK * SQM__SSD_P];
    SQM__WIDE for (int32_t k = 0; k < N; k++)
        SQM__WIDE for (int32_t p = 0; p < P; p++)
            state[k * P + p] = SQM__NAME(load)(at + (size_t)p * next + k * SQM__LANES);
    for (int32_t t = 0; t < s->rows; t++) {
        float *y = s->y + (ptrdiff_t)t * s->y_step + panel * SQM__LANES;
        SQM__NAME(ssd_inputs)(u, s, t, panel, lanes, U, P);
        for (int32_t i = 0; i < R; i++)
            SQM__WIDE for (int32_t p = 0; p < P; p++)
                acc[i * P + p] = n == 0 ? SQM__SET1(0.0f)
                    : SQM__NAME(load_n)(y + i * s->y_next + p * SQM__LANES, lanes, 0.0f);
        SQM__WIDE for (int32_t k = 0; k < N; k++)
            SQM__NAME(ssd_column)(state + k * P, acc, u, SQM__SET1(decay[t]), s, t, n + k, U, R, P);
        for (int32_t i = 0; i < R; i++)
            SQM__WIDE for (int32_t p = 0; p < P; p++)
                SQM__NAME(store_n)(y + i * s->y_next + p * SQM__LANES, acc[i * P + p], lanes);
    }
    SQM__WIDE for (int32_t k = 0; k < N; k++)
        SQM__WIDE for (int32_t p = 0; p < P; p++)
            SQM__NAME(store)(at + (size_t)p * next + k * SQM__LANES, state[k * P + p]);
}
/* A single row: the state goes through registers once, the sums stay in them. */
SQM__SPECIAL void SQM__NAME(ssd_step)(const sqm__ssd *s, const float *decay, int32_t panel, int32_t lanes,
                                      const int32_t U, const int32_t R, const int32_t P)
{
    float *at = s->state + (size_t)panel * (size_t)s->n * SQM__LANES, *y = s->y + panel * SQM__LANES;
    const size_t next = (size_t)s->n * SQM__LANES;
    v16 acc[SQM__MAX_RANK * SQM__SSD_STEP], u[2 * SQM__MAX_RANK * SQM__SSD_STEP];
    SQM__NAME(ssd_inputs)(u, s, 0, panel, lanes, U, P);
    for (int32_t i = 0; i < R * P; i++) acc[i] = SQM__SET1(0.0f);
    for (int32_t n = 0; n < s->n; n++, at += SQM__LANES) {
        v16 state[SQM__SSD_STEP];
        SQM__WIDE for (int32_t p = 0; p < P; p++) state[p] = SQM__NAME(load)(at + (size_t)p * next);
        SQM__NAME(ssd_column)(state, acc, u, SQM__SET1(decay[0]), s, 0, n, U, R, P);
        SQM__WIDE for (int32_t p = 0; p < P; p++) SQM__NAME(store)(at + (size_t)p * next, state[p]);
    }
    for (int32_t i = 0; i < R; i++)
        SQM__WIDE for (int32_t p = 0; p < P; p++)
            SQM__NAME(store_n)(y + i * s->y_next + p * SQM__LANES, acc[i * P + p], lanes);
}
SQM__SPECIAL void SQM__NAME(ssd_panels)(const sqm__ssd *s, const float *decay, int32_t panel, int32_t lanes,
                                        const int32_t U, const int32_t R, const int32_t P)
{
    int32_t n = 0;
    for (; n + SQM__SSD_N <= s->n; n += SQM__SSD_N)
        SQM__NAME(ssd_tile)(s, decay, panel, n, lanes, U, R, P, SQM__SSD_N);
    for (; n < s->n; n++) SQM__NAME(ssd_tile)(s, decay, panel, n, lanes, U, R, P, 1);
}
SQM__SPECIAL void SQM__NAME(ssd_rows)(const sqm__ssd *s, const float *decay, const int32_t U, const int32_t R)
{
    const int32_t full = s->width / SQM__LANES, rest = s->width % SQM__LANES;
    int32_t p = 0;
    if (s->rows == 1) {
        for (; p + SQM__SSD_STEP <= full; p += SQM__SSD_STEP)
            SQM__NAME(ssd_step)(s, decay, p, SQM__LANES, U, R, SQM__SSD_STEP);
        for (; p < full; p++) SQM__NAME(ssd_step)(s, decay, p, SQM__LANES, U, R, 1);
        if (rest) SQM__NAME(ssd_step)(s, decay, p, rest, U, R, 1);
        return;
    }
    if (SQM__SSD_P > 1)
        for (; p + SQM__SSD_P <= full; p += SQM__SSD_P)
            SQM__NAME(ssd_panels)(s, decay, p, SQM__LANES, U, R, SQM__SSD_P);
    for (; p < full; p++) SQM__NAME(ssd_panels)(s, decay, p, SQM__LANES, U, R, 1);
    if (rest) SQM__NAME(ssd_panels)(s, decay, p, rest, U, R, 1);
}
static void SQM__NAME(ssd)(const sqm__ssd *s)
{
    float decay[SQM__SCAN_ROWS];
    for (int32_t t = 0; t < s->rows; t += SQM__LANES)
        SQM__NAME(store_n)(decay + t, SQM__NAME(expm1)(SQM__NAME(load_n)(s->log_decay + t, s->rows - t,
                                                                        0.0f)), s->rows - t);
    if (s->n_updates == 1 && s->n_outputs == 1) SQM__NAME(ssd_rows)(s, decay, 1, 1);
    else if (s->n_updates == 2 && s->n_outputs == 1) SQM__NAME(ssd_rows)(s, decay, 2, 1);
    else SQM__NAME(ssd_rows)(s, decay, s->n_updates, s->n_outputs);
    for (int32_t i = 0; s->d && i < s->n_outputs; i++) {
        const sqm__rank1 *o = &s->updates[s->n_updates - s->n_outputs + i];
        for (int32_t t = 0; t < s->rows; t++)
            for (int32_t k = 0; k < s->width; k += SQM__LANES) {
                float *y = s->y + (ptrdiff_t)t * s->y_step + i * s->y_next + k;
                const float *u = o->u + (ptrdiff_t)t * o->u_step + k;
                const int32_t left = s->width - k;
                SQM__NAME(store_n)(y, SQM__MADD(SQM__NAME(load_n)(s->d + k, left, 0.0f),
                                                SQM__NAME(load_n)(u, left, 0.0f),
                                                SQM__NAME(load_n)(y, left, 0.0f)), left);
            }
    }
}

static void SQM__NAME(turn)(float *angle, float *sine, float *cosine, const float *rate, float step,
                            int32_t n)
{
    const v16 magic = SQM__SET1(12582912.0f);
    for (int32_t i = 0; i < n; i += SQM__LANES) {
        v16 a = SQM__MADD(SQM__NAME(load_n)(rate + i, n - i, 0.0f), SQM__SET1(step),
                          SQM__NAME(load_n)(angle + i, n - i, 0.0f)), s, c;
        const v16 turns = SQM__SUB(SQM__MADD(a, SQM__SET1(0.159154943f), magic), magic);
        a = SQM__MADD(turns, SQM__SET1(-6.28125f), a);
        a = SQM__MADD(turns, SQM__SET1(-1.93500519e-3f), a);
        a = SQM__MADD(turns, SQM__SET1(-3.01991598e-7f), a);
        SQM__NAME(sincos)(a, &s, &c);
        SQM__NAME(store_n)(angle + i, a, n - i);
        SQM__NAME(store_n)(sine + i, s, n - i);
        SQM__NAME(store_n)(cosine + i, c, n - i);
    }
}

/* ---- small parts of recurrent models ------------------------------------------------------------------- */
/* Columns [at, at + 16 W) of y = bias + x * w, chains of fused multiply-adds in increasing i. */
SQM__SPECIAL void SQM__NAME(block_columns)(float *y, const float *x, const float *w, const float *bias,
                                           int32_t n_in, int32_t n_out, int32_t at, const int32_t W)
{
    v16 sum[4];
    SQM__WIDE for (int32_t c = 0; c < W; c++)
        sum[c] = bias ? SQM__NAME(load_n)(bias + at + 16 * c, n_out - at - 16 * c, 0.0f) : SQM__SET1(0.0f);
    for (int32_t i = 0; i < n_in; i++) {
        const v16 value = SQM__SET1(x[i]);
        const float *row = w + (size_t)i * (size_t)n_out + at;
        SQM__WIDE for (int32_t c = 0; c < W; c++)
            sum[c] = SQM__MADD(value, SQM__NAME(load_n)(row + 16 * c, n_out - at - 16 * c, 0.0f), sum[c]);
    }
    SQM__WIDE for (int32_t c = 0; c < W; c++)
        SQM__NAME(store_n)(y + at + 16 * c, sum[c], n_out - at - 16 * c);
}
static void SQM__NAME(block)(float *y, const float *x, const float *w, const float *bias, int32_t n_in,
                             int32_t n_out)
{
    int32_t at = 0;
    for (; at + 64 <= n_out; at += 64) SQM__NAME(block_columns)(y, x, w, bias, n_in, n_out, at, 4);
    for (; at < n_out; at += 16) SQM__NAME(block_columns)(y, x, w, bias, n_in, n_out, at, 1);
}

static float SQM__NAME(reduce)(const float *x, int32_t n, int32_t kind)
{
    v16 all = kind == SQM__REDUCE_MAX ? SQM__SET1(-3.0e38f) : SQM__SET1(0.0f);
    if (kind == SQM__REDUCE_MAX) {
        for (int32_t i = 0; i < n; i += SQM__LANES)
            all = SQM__NAME(max)(all, SQM__NAME(load_n)(x + i, n - i, -3.0e38f));
        return SQM__NAME(max_lane)(all);
    }
    for (int32_t i = 0; i < n; i += SQM__LANES) all = SQM__ADD(all, SQM__NAME(load_n)(x + i, n - i, 0.0f));
    return kind == SQM__REDUCE_MEAN ? SQM__NAME(sum)(all) / (float)n : SQM__NAME(sum)(all);
}

static void SQM__NAME(lerp)(float *y, const float *x, const float *last, const float *w, const float *m,
                            int32_t n)
{
    for (int32_t i = 0; i < n; i += SQM__LANES) {
        const v16 here = SQM__NAME(load_n)(x + i, n - i, 0.0f);
        const v16 gap = SQM__SUB(last ? SQM__NAME(load_n)(last + i, n - i, 0.0f) : SQM__SET1(0.0f), here);
        v16 part = w ? SQM__NAME(load_n)(w + i, n - i, 0.0f) : SQM__SET1(0.0f);
        if (m) part = SQM__ADD(part, SQM__NAME(load_n)(m + i, n - i, 0.0f));
        SQM__NAME(store_n)(y + i, SQM__MADD(gap, part, here), n - i);
    }
}

/* ---- linear attention ---------------------------------------------------------------------------------- */
SQM__SPECIAL sqm__update SQM__NAME(outer_row)(const sqm__outer *o, int32_t step)
{
    static const float one = 1.0f;
    sqm__update u;
    const size_t row = o->steps == 1 ? (size_t)step : (size_t)(step / o->steps);
    const size_t at = o->steps == 1 ? 0 : (size_t)(step % o->steps), k = row * o->stride + at * o->k_step;
    u.row = row;
    u.q = o->q + row * o->stride;
    u.k = o->k + k;
    u.v = o->v + row * o->stride + at * o->v_step;
    u.a = o->a ? o->a + k : NULL;
    u.b = o->b ? o->b + k : NULL;
    u.decay = at || !o->decay ? &one : o->decay + row * o->decay_stride;
    u.gate = o->gate ? o->gate[row * o->gate_stride + at * o->gate_step] : 1.0f;
    return u;
}

/* What a row's result is multiplied with: scale, over the sum of keys seen through the query when there is
   one, which least[row] (NULL: signed) bounds from below; and q . (bonus k). A lane is a key channel. */
static void SQM__NAME(outer_sums)(const sqm__outer *o, float eps, const float *least)
{
    for (int32_t step = 0; step < o->n_rows * o->steps; step++) {
        const sqm__update u = SQM__NAME(outer_row)(o, step);
        const v16 decay = SQM__SET1(u.decay[0]), gate = SQM__SET1(u.gate);
        v16 seen = SQM__SET1(0.0f), extra = SQM__SET1(0.0f);
        float den;
        for (int32_t i = 0; i < o->key_dim; i += SQM__LANES) {
            const int32_t left = o->key_dim - i;
            const v16 k = SQM__NAME(load_n)(u.k + i, left, 0.0f), q = SQM__NAME(load_n)(u.q + i, left, 0.0f);
            if (o->key_sum) {
                const v16 d = o->decay_by == SQM__BY_KEY ? SQM__NAME(load_n)(u.decay + i, left, 0.0f) : decay;
                const v16 z = SQM__MADD(k, gate, SQM__MUL(d, SQM__NAME(load)(o->key_sum + i)));
                SQM__NAME(store)(o->key_sum + i, z);
                seen = SQM__MADD(q, z, seen);
            }
            if (o->bonus)
                extra = SQM__MADD(SQM__MUL(q, SQM__NAME(load_n)(o->bonus + i, left, 0.0f)), k, extra);
        }
        if (o->extra) o->extra[u.row] = SQM__NAME(sum)(extra);
        if (!o->factor) continue;
        den = o->scale * SQM__NAME(sum)(seen);
        if (least) {
            den = den < 0.0f ? -den : den;
            den = den < least[u.row] ? least[u.row] : den;
        }
        o->factor[u.row] = o->scale / (den + eps);
    }
}

/* What reads the state before an update */
SQM__SPECIAL const float *SQM__NAME(outer_reader)(const sqm__update *u, const int32_t update)
{
    return update == SQM__OUTER_DELTA ? u->k : update == SQM__OUTER_DPLR ? u->a : u->q;
}

/* ahead [W][16] = what the first update needs of the state before it, tiles `tile` .. tile + W - 1 */
SQM__SPECIAL void SQM__NAME(outer_ahead)(float *ahead, const sqm__outer *o, int32_t tile,
                                         const int32_t update, const int32_t W)
{
    const size_t tile_floats = (size_t)o->key_dim * SQM__LANES, by_key = o->decay_by == SQM__BY_KEY;
    const float *state = o->state + (size_t)tile * tile_floats;
    const sqm__update u = SQM__NAME(outer_row)(o, 0);
    const float *reader = SQM__NAME(outer_reader)(&u, update);
    v16 sum[4];
    SQM__WIDE for (int32_t c = 0; c < W; c++) sum[c] = SQM__SET1(0.0f);
    for (int32_t k = 0; k < o->key_dim; k++) {
        v16 r = SQM__SET1(reader[k]);
        if (update == SQM__OUTER_DELTA) r = SQM__MUL(r, SQM__SET1(u.decay[(size_t)k * by_key]));
        SQM__WIDE for (int32_t c = 0; c < W; c++)
            sum[c] = SQM__MADD(r, SQM__NAME(load)(state + (size_t)c * tile_floats + (size_t)k * SQM__LANES),
                               sum[c]);
    }
    SQM__WIDE for (int32_t c = 0; c < W; c++) SQM__NAME(store)(ahead + c * SQM__LANES, sum[c]);
}

/* 16 W columns of the state from tile `tile` on, over all rows. `ahead` is what the next update needs of the
   state before it: the prediction of the delta rule, a^T S, or the result itself when it is read before the
   update; it is summed in the same pass that makes the state, so that a step reads and writes it once. */
SQM__SPECIAL void SQM__NAME(outer_tiles)(const sqm__outer *o, int32_t tile, const float *first_ahead,
                                         const int32_t update, const int32_t read, const int by_value,
                                         const int32_t single, const int32_t W)
{
    const int32_t n = single ? 1 : o->n_rows * o->steps, first = tile * SQM__LANES;
    const int looks_ahead = update != SQM__OUTER_ADD || read == SQM__OUTER_PRE;
    const size_t tile_floats = (size_t)o->key_dim * SQM__LANES, by_key = o->decay_by == SQM__BY_KEY;
    float *state = o->state + (size_t)tile * tile_floats;
    sqm__update next = SQM__NAME(outer_row)(o, 0);
    v16 ahead[SQM__TILE_A], gathered[SQM__TILE_A], x[SQM__TILE_A], sum[SQM__TILE_A], lanes[SQM__TILE_A];
    SQM__WIDE for (int32_t c = 0; c < W; c++)
        ahead[c] = looks_ahead ? SQM__NAME(load)(first_ahead + c * SQM__LANES) : SQM__SET1(0.0f);
    for (int32_t step = 0; step < n; step++) {
        const sqm__update u = next;
        const v16 gate = SQM__SET1(u.gate);
        const int more = looks_ahead && !single && step + 1 < n;
        const float *reader;
        if (step + 1 < n) next = SQM__NAME(outer_row)(o, step + 1);
        reader = SQM__NAME(outer_reader)(&next, update);
        SQM__WIDE for (int32_t c = 0; c < W; c++) {
            x[c] = SQM__NAME(load_n)(u.v + first + 16 * c, o->v_dim - first - 16 * c, 0.0f);
            if (update == SQM__OUTER_DELTA) x[c] = SQM__SUB(x[c], ahead[c]);
            x[c] = SQM__MUL(gate, x[c]);
            if (by_value)
                lanes[c] = SQM__NAME(load_n)(u.decay + first + 16 * c, o->v_dim - first - 16 * c, 0.0f);
            sum[c] = gathered[c] = SQM__SET1(0.0f);
        }
        for (int32_t k = 0; k < o->key_dim; k++) {
            const v16 key = SQM__SET1(u.k[k]), decay = SQM__SET1(u.decay[(size_t)k * by_key]);
            v16 r = key;
            if (more) r = SQM__SET1(reader[k]);
            if (more && update == SQM__OUTER_DELTA)
                r = SQM__MUL(r, SQM__SET1(next.decay[(size_t)k * by_key]));
            SQM__WIDE for (int32_t c = 0; c < W; c++) {
                float *at = state + (size_t)c * tile_floats + (size_t)k * SQM__LANES;
                v16 s = SQM__MUL(by_value ? lanes[c] : decay, SQM__NAME(load)(at));
                if (update == SQM__OUTER_DPLR) s = SQM__MADD(SQM__SET1(u.b[k]), ahead[c], s);
                s = SQM__MADD(key, x[c], s);
                SQM__NAME(store)(at, s);
                if (read == SQM__OUTER_POST) sum[c] = SQM__MADD(SQM__SET1(u.q[k]), s, sum[c]);
                if (more) gathered[c] = SQM__MADD(r, s, gathered[c]);
            }
        }
        if (read != SQM__OUTER_UNREAD && (o->steps == 1 || (step + 1) % o->steps == 0)) {
            const v16 factor = SQM__SET1(o->factor ? o->factor[u.row] : o->scale);
            SQM__WIDE for (int32_t c = 0; c < W; c++) {
                const int32_t at = first + 16 * c, left = o->v_dim - at;
                v16 y = read == SQM__OUTER_PRE ? ahead[c] : sum[c];
                if (o->extra)
                    y = SQM__MADD(SQM__SET1(o->extra[u.row]), SQM__NAME(load_n)(u.v + at, left, 0.0f), y);
                SQM__NAME(store_n)(o->out + u.row * o->out_stride + at, SQM__MUL(y, factor), left);
            }
        }
        SQM__WIDE for (int32_t c = 0; c < W; c++) ahead[c] = gathered[c];
    }
}
/* A single update has no next one to look ahead for: room for more tiles at once, as with a plain update. */
SQM__SPECIAL void SQM__NAME(outer_range)(const sqm__outer *o, int32_t tile, int32_t last,
                                         const int32_t update, const int32_t read, const int by_value)
{
    const int looks_ahead = update != SQM__OUTER_ADD || read == SQM__OUTER_PRE;
    const int single = looks_ahead && o->n_rows * o->steps == 1;
    float ahead[4 * SQM__LANES];
    while (tile < last) {
        const int32_t end = last - tile < 4 ? tile + 1 : tile + 4, start = tile;
        if (looks_ahead) {
            if (end - tile == 4) SQM__NAME(outer_ahead)(ahead, o, tile, update, 4);
            else SQM__NAME(outer_ahead)(ahead, o, tile, update, 1);
        }
        if (SQM__TILE_A > 1 && (!looks_ahead || single))
            for (; tile + SQM__TILE_A <= end; tile += SQM__TILE_A)
                SQM__NAME(outer_tiles)(o, tile, ahead + (tile - start) * SQM__LANES, update, read, by_value,
                                       looks_ahead, SQM__TILE_A);
        if (SQM__TILE_S > 1 && looks_ahead)
            for (; tile + SQM__TILE_S <= end; tile += SQM__TILE_S)
                SQM__NAME(outer_tiles)(o, tile, ahead + (tile - start) * SQM__LANES, update, read, by_value,
                                       0, SQM__TILE_S);
        for (; tile < end; tile++)
            SQM__NAME(outer_tiles)(o, tile, ahead + (tile - start) * SQM__LANES, update, read, by_value, 0,
                                   1);
    }
}
/* The options of a recurrence as constants: each combination gets its own loop. */
static void SQM__NAME(outer)(const sqm__outer *o, int32_t first, int32_t last)
{
    if (o->update == SQM__OUTER_DELTA)
        SQM__NAME(outer_range)(o, first, last, SQM__OUTER_DELTA, SQM__OUTER_POST, 0);
    else if (o->update == SQM__OUTER_DPLR)
        SQM__NAME(outer_range)(o, first, last, SQM__OUTER_DPLR, SQM__OUTER_POST, 0);
    else if (o->decay_by == SQM__BY_VALUE)
        SQM__NAME(outer_range)(o, first, last, SQM__OUTER_ADD, SQM__OUTER_POST, 1);
    else if (o->read == SQM__OUTER_POST)
        SQM__NAME(outer_range)(o, first, last, SQM__OUTER_ADD, SQM__OUTER_POST, 0);
    else if (o->read == SQM__OUTER_PRE)
        SQM__NAME(outer_range)(o, first, last, SQM__OUTER_ADD, SQM__OUTER_PRE, 0);
    else
        SQM__NAME(outer_range)(o, first, last, SQM__OUTER_ADD, SQM__OUTER_UNREAD, 0);
}

/* ---- running log-sum-exp and exponential gates --------------------------------------------------------- */
/* x[(at + lane) / spread] of n lanes, the others fill */
SQM__SPECIAL v16 SQM__NAME(spread)(const float *x, int32_t at, int32_t spread, int32_t n, float fill)
{
    float part[SQM__LANES];
    if (spread == 1) return SQM__NAME(load_n)(x + at, n, fill);
    for (int32_t i = 0; i < SQM__LANES; i++) part[i] = i < n ? x[(at + i) / spread] : fill;
    return SQM__NAME(load)(part);
}
static void SQM__NAME(running)(const sqm__running *r, int32_t first, int32_t last)
{
    for (int32_t at = first; at < last; at += SQM__LANES) {
        const int32_t n = last - at;
        const v16 zero = SQM__SET1(0.0f);
        const v16 decay = r->decay ? SQM__NAME(spread)(r->decay, at, r->spread, n, 0.0f) : zero;
        const v16 bonus = r->bonus ? SQM__NAME(spread)(r->bonus, at, r->spread, n, 0.0f) : zero;
        v16 top = SQM__NAME(load_n)(r->largest + at, n, 0.0f), sum = SQM__NAME(load_n)(r->sum + at, n, 0.0f);
        v16 value = r->weights ? zero : SQM__NAME(load_n)(r->value + at, n, 0.0f);
        for (size_t t = 0; t < (size_t)r->n_rows; t++) {
            const v16 score = SQM__NAME(spread)(r->score + t * r->stride, at, r->spread, n, 0.0f);
            const v16 v = r->weights ? zero : SQM__NAME(load_n)(r->v + t * r->stride + at, n, 0.0f);
            const v16 kept = SQM__ADD(top, decay), now = SQM__NAME(max)(kept, score);
            const v16 old = SQM__NAME(exp)(SQM__SUB(kept, now)), fresh = SQM__NAME(exp)(SQM__SUB(score, now));
            v16 y = zero, den = zero;
            if (r->bonus) {
                const v16 here = SQM__ADD(bonus, score), high = SQM__NAME(max)(top, here);
                const v16 before = SQM__NAME(exp)(SQM__SUB(top, high));
                const v16 own = SQM__NAME(exp)(SQM__SUB(here, high));
                y = SQM__MADD(before, value, SQM__MUL(own, v));
                den = SQM__MADD(before, sum, own);
            }
            value = SQM__MADD(old, value, SQM__MUL(fresh, v));
            if (r->weights) {
                const v16 all = SQM__MADD(old, sum, fresh);
                SQM__NAME(store_n)(r->out + t * r->out_stride + r->channels + at,
                                   SQM__NAME(div)(SQM__MUL(old, sum), all), n);
                value = fresh;
            }
            sum = SQM__MADD(old, sum, fresh);
            top = now;
            if (!r->bonus) { y = value; den = sum; }
            SQM__NAME(store_n)(r->out + t * r->out_stride + at, SQM__NAME(div)(y, den), n);
        }
        SQM__NAME(store_n)(r->largest + at, top, n);
        SQM__NAME(store_n)(r->sum + at, sum, n);
        if (!r->weights) SQM__NAME(store_n)(r->value + at, value, n);
    }
}

/* n is 0 before the first row only: there m is the input gate itself. */
static void SQM__NAME(slstm)(const sqm__slstm *s)
{
    const v16 zero = SQM__SET1(0.0f), one = SQM__SET1(1.0f);
    const size_t dim = (size_t)s->dim;
    for (size_t t = 0; t < (size_t)s->n_rows; t++) {
        for (size_t g = 0; g < 4; g++)
            SQM__NAME(block)(s->raw + g * dim, s->y, s->weights + g * dim * dim,
                             s->in + t * s->stride + g * s->gate, s->dim, s->dim);
        for (int32_t i = 0; i < s->dim; i += SQM__LANES) {
            const int32_t left = s->dim - i;
            const v16 in = SQM__NAME(load_n)(s->raw + i, left, 0.0f);
            const v16 forget = SQM__NAME(load_n)(s->raw + s->dim + i, left, 0.0f);
            const v16 z = SQM__NAME(tanh)(SQM__NAME(load_n)(s->raw + 2 * s->dim + i, left, 0.0f));
            const v16 open = SQM__NAME(sigmoid)(SQM__NAME(load_n)(s->raw + 3 * s->dim + i, left, 0.0f));
            const v16 n = SQM__NAME(load_n)(s->n + i, left, 0.0f);
            const v16 kept = SQM__ADD(SQM__NAME(load_n)(s->m + i, left, 0.0f),
                                      SQM__NAME(act)(forget, SQM_ACT_LOG_SIGMOID));
            const v16 m = SQM__NAME(less)(zero, n, SQM__NAME(max)(in, kept), in);
            const v16 f = SQM__NAME(min)(SQM__NAME(exp)(SQM__SUB(kept, m)), one);
            const v16 e = SQM__NAME(min)(SQM__NAME(exp)(SQM__SUB(in, m)), one);
            const v16 c = SQM__MADD(f, SQM__NAME(load_n)(s->c + i, left, 0.0f), SQM__MUL(e, z));
            const v16 sum = SQM__MADD(f, n, e), y = SQM__MUL(open, SQM__NAME(div)(c, sum));
            SQM__NAME(store_n)(s->c + i, c, left);
            SQM__NAME(store_n)(s->n + i, sum, left);
            SQM__NAME(store_n)(s->m + i, m, left);
            SQM__NAME(store_n)(s->y + i, y, left);
            SQM__NAME(store_n)(s->out + t * s->out_stride + i, y, left);
        }
    }
}

/* ---- linear state spaces ------------------------------------------------------------------------------- */
/* P states from n on over a block of tokens: their weights stay in registers, y and u in the first cache. */
SQM__SPECIAL void SQM__NAME(lti_states)(const sqm__lti_scan *s, v16 *y, int32_t t0, int32_t n_tokens,
                                        int32_t n, const int32_t P)
{
    enum { MOST = SQM__PASS == SQM__PASS_SCALAR ? 1 : 2 };
    v16 dr[MOST], di[MOST], minus_di[MOST], cr[MOST], ci[MOST], xr[MOST], xi[MOST];
    SQM__WIDE for (int32_t i = 0; i < P; i++) {
        const size_t re = 2 * (size_t)(n + i) * SQM__LANES, im = re + SQM__LANES;
        dr[i] = SQM__NAME(load)(s->da + re);
        di[i] = SQM__NAME(load)(s->da + im);
        minus_di[i] = SQM__SUB(SQM__SET1(0.0f), di[i]);
        cr[i] = SQM__NAME(load)(s->c + re);
        ci[i] = SQM__NAME(load)(s->c + im);
        xr[i] = SQM__NAME(load)((const float *)s->state + re);
        xi[i] = SQM__NAME(load)((const float *)s->state + im);
    }
    for (int32_t t = 0; t < n_tokens; t++) {
        const v16 u = SQM__NAME(load_n)(s->u + (size_t)(t0 + t) * s->u_stride, s->lanes, 0.0f);
        v16 sum = y[t];
        SQM__WIDE for (int32_t i = 0; i < P; i++) {
            const v16 step = SQM__MADD(minus_di[i], xi[i], SQM__MADD(dr[i], xr[i], u));
            xi[i] = SQM__ADD(xi[i], SQM__MADD(dr[i], xi[i], SQM__MUL(di[i], xr[i])));
            xr[i] = SQM__ADD(xr[i], step);
            sum = SQM__MADD(cr[i], xr[i], sum);
            sum = SQM__MADD(ci[i], xi[i], sum);
        }
        y[t] = sum;
    }
    SQM__WIDE for (int32_t i = 0; i < P; i++) {
        const size_t re = 2 * (size_t)(n + i) * SQM__LANES;
        SQM__NAME(store)((float *)s->state + re, xr[i]);
        SQM__NAME(store)((float *)s->state + re + SQM__LANES, xi[i]);
    }
}

/* One token with the rank-one term: first what all states have along q, then every state. */
SQM__SPECIAL v16 SQM__NAME(lti_rank1)(const sqm__lti_scan *s, v16 y, v16 u)
{
    const size_t end = 2 * (size_t)s->states * SQM__LANES;
    float *x = (float *)s->state;
    v16 along = SQM__SET1(0.0f), across = along;
    for (size_t re = 0; re < end; re += 2 * SQM__LANES) {
        const size_t im = re + SQM__LANES;
        along = SQM__MADD(SQM__NAME(load)(s->q + re), SQM__NAME(load)(x + re), along);
        across = SQM__MADD(SQM__NAME(load)(s->q + im), SQM__NAME(load)(x + im), across);
    }
    along = SQM__ADD(along, across);
    for (size_t re = 0; re < end; re += 2 * SQM__LANES) {
        const size_t im = re + SQM__LANES;
        const v16 dr = SQM__NAME(load)(s->da + re), di = SQM__NAME(load)(s->da + im);
        v16 xr = SQM__NAME(load)(x + re), xi = SQM__NAME(load)(x + im);
        v16 r = SQM__MADD(SQM__NAME(load)(s->p + re), along, SQM__MUL(SQM__NAME(load)(s->b + re), u));
        v16 i = SQM__MADD(SQM__NAME(load)(s->p + im), along, SQM__MUL(SQM__NAME(load)(s->b + im), u));
        r = SQM__SUB(SQM__MADD(dr, xr, r), SQM__MUL(di, xi));
        i = SQM__MADD(di, xr, SQM__MADD(dr, xi, i));
        xr = SQM__ADD(xr, r);
        xi = SQM__ADD(xi, i);
        SQM__NAME(store)(x + re, xr);
        SQM__NAME(store)(x + im, xi);
        y = SQM__MADD(SQM__NAME(load)(s->c + re), xr, y);
        y = SQM__MADD(SQM__NAME(load)(s->c + im), xi, y);
    }
    return y;
}

/* Without c: one state a channel, its rows go in and out as they are. */
SQM__SPECIAL void SQM__NAME(lti_direct)(const sqm__lti_scan *s)
{
    const v16 dr = SQM__NAME(load)(s->da), di = SQM__NAME(load)(s->da + SQM__LANES);
    const v16 minus_di = SQM__SUB(SQM__SET1(0.0f), di);
    float *state = (float *)s->state;
    v16 xr = SQM__NAME(load)(state), xi = SQM__NAME(load)(state + SQM__LANES);
    for (int32_t t = 0; t < s->n_tokens; t++) {
        const float *u = s->u + (size_t)t * s->u_stride;
        float *y = s->y + (size_t)t * s->y_stride;
        const v16 re = SQM__MADD(dr, xr, SQM__NAME(load_n)(u, s->lanes, 0.0f));
        const v16 im = SQM__MADD(di, xr, SQM__NAME(load_n)(u + s->imag, s->lanes, 0.0f));
        xr = SQM__ADD(xr, SQM__MADD(minus_di, xi, re));
        xi = SQM__ADD(xi, SQM__MADD(dr, xi, im));
        SQM__NAME(store_n)(y, xr, s->lanes);
        SQM__NAME(store_n)(y + s->imag, xi, s->lanes);
    }
    SQM__NAME(store)(state, xr);
    SQM__NAME(store)(state + SQM__LANES, xi);
}

/* The same with states in double and da + da_low, for memories of many thousand steps, where the rounding of
   a float's da is the whole error. Plain C: every machine rounds doubles alike. */
SQM__SPECIAL void SQM__NAME(lti_states_double)(const sqm__lti_scan *s, double (*y)[SQM__LANES],
                                               double (*u)[SQM__LANES], int32_t n_tokens, int32_t n)
{
    const size_t re = 2 * (size_t)n * SQM__LANES, im = re + SQM__LANES;
    double *xr = (double *)s->state + re, *xi = (double *)s->state + im;
    double dr[SQM__LANES], di[SQM__LANES], cr[SQM__LANES], ci[SQM__LANES];
    for (size_t i = 0; i < SQM__LANES; i++) {
        dr[i] = (double)s->da[re + i] + (double)s->da_low[re + i];
        di[i] = (double)s->da[im + i] + (double)s->da_low[im + i];
        cr[i] = (double)s->c[re + i];
        ci[i] = (double)s->c[im + i];
    }
    for (int32_t t = 0; t < n_tokens; t++)
        for (int32_t i = 0; i < SQM__LANES; i++) {
            const double step = dr[i] * xr[i] - di[i] * xi[i] + u[t][i];
            xi[i] += dr[i] * xi[i] + di[i] * xr[i];
            xr[i] += step;
            y[t][i] += cr[i] * xr[i] + ci[i] * xi[i];
        }
}
static SQM__NOINLINE void SQM__NAME(lti_double)(const sqm__lti_scan *s)
{
    enum { BLOCK = SQM__PASS == SQM__PASS_SCALAR ? 2 : 4 };
    double u[BLOCK][SQM__LANES], y[BLOCK][SQM__LANES];
    for (int32_t t0 = 0; t0 < s->n_tokens; t0 += BLOCK) {
        const int32_t n_tokens = sqm__min(BLOCK, s->n_tokens - t0);
        for (int32_t t = 0; t < n_tokens; t++) {
            const float *from = s->u + (size_t)(t0 + t) * s->u_stride;
            for (int32_t i = 0; i < SQM__LANES; i++) {
                u[t][i] = i < s->lanes ? (double)from[i] : 0.0;
                y[t][i] = s->d && i < s->lanes ? (double)s->d[i] * u[t][i] : 0.0;
            }
        }
        for (int32_t n = 0; n < s->states; n++) SQM__NAME(lti_states_double)(s, y, u, n_tokens, n);
        for (int32_t t = 0; t < n_tokens; t++)
            for (int32_t i = 0; i < s->lanes; i++)
                s->y[(size_t)(t0 + t) * s->y_stride + (size_t)i] = (float)y[t][i];
    }
}
static SQM__NOINLINE void SQM__NAME(lti_direct_double)(const sqm__lti_scan *s)
{
    double *xr = (double *)s->state, *xi = xr + SQM__LANES;
    for (int32_t t = 0; t < s->n_tokens; t++)
        for (int32_t i = 0; i < s->lanes; i++) {
            const float *u = s->u + (size_t)t * s->u_stride + i;
            float *y = s->y + (size_t)t * s->y_stride + i;
            const double dr = (double)s->da[i] + (double)s->da_low[i];
            const double di = (double)s->da[SQM__LANES + i] + (double)s->da_low[SQM__LANES + i];
            const double step = dr * xr[i] - di * xi[i] + (double)u[0];
            xi[i] += dr * xi[i] + di * xr[i] + (double)u[s->imag];
            xr[i] += step;
            y[0] = (float)xr[i];
            y[s->imag] = (float)xi[i];
        }
}

static void SQM__NAME(lti)(const sqm__lti_scan *s)
{
    enum { BLOCK = 8, MOST = SQM__PASS == SQM__PASS_SCALAR ? 1 : 2 };
    v16 y[BLOCK];
    if (s->da_low && s->c) { SQM__NAME(lti_double)(s); return; }
    if (s->da_low) { SQM__NAME(lti_direct_double)(s); return; }
    if (!s->c) { SQM__NAME(lti_direct)(s); return; }
    for (int32_t t0 = 0; t0 < s->n_tokens; t0 += BLOCK) {
        const int32_t n_tokens = sqm__min(BLOCK, s->n_tokens - t0);
        int32_t n = s->p ? s->states : 0;
        for (int32_t t = 0; t < n_tokens; t++) {
            const v16 u = SQM__NAME(load_n)(s->u + (size_t)(t0 + t) * s->u_stride, s->lanes, 0.0f);
            y[t] = s->d ? SQM__MUL(SQM__NAME(load_n)(s->d, s->lanes, 0.0f), u) : SQM__SET1(0.0f);
            if (s->p) y[t] = SQM__NAME(lti_rank1)(s, y[t], u);
        }
        for (; n + MOST <= s->states; n += MOST) SQM__NAME(lti_states)(s, y, t0, n_tokens, n, MOST);
        for (; n < s->states; n++) SQM__NAME(lti_states)(s, y, t0, n_tokens, n, 1);
        for (int32_t t = 0; t < n_tokens; t++)
            SQM__NAME(store_n)(s->y + (size_t)(t0 + t) * s->y_stride, y[t], s->lanes);
    }
}

/* ---- Legendre memory ----------------------------------------------------------------------------------- */
/* y = A x for HiPPO-LegS: (A x)_n = -r_n sum_{k < n} r_k x_k - (n + 1) x_n, r_n = sqrt(2n + 1) */
SQM__SPECIAL void SQM__NAME(legs_apply)(float *y, const float *x, const float *root, int32_t order)
{
    v16 sum = SQM__SET1(0.0f);
    for (int32_t n = 0; n < order; n++) {
        const v16 v = SQM__NAME(load)(x + n * SQM__LANES), r = SQM__SET1(root[n]);
        const v16 own = SQM__MUL(SQM__SET1(-(float)(n + 1)), v);
        SQM__NAME(store)(y + n * SQM__LANES, SQM__SUB(own, SQM__MUL(r, sum)));
        sum = SQM__MADD(r, v, sum);
    }
}
/* x = (I - i A / step)^-1 (x + (1 - i) A x / step + B u / step), i = implicit: one pass, A is triangular */
SQM__SPECIAL void SQM__NAME(legs_step)(const sqm__legs_scan *s, v16 u, float step)
{
    const float old = (1.0f - s->implicit) / step, now = s->implicit / step;
    const v16 one = SQM__SET1(1.0f);
    v16 sum = SQM__SET1(0.0f);
    SQM__NAME(legs_apply)(s->work, s->state, s->root, s->order);
    u = SQM__NAME(div)(u, SQM__SET1(step));
    for (int32_t n = 0; n < s->order; n++) {
        float *x = s->state + n * SQM__LANES;
        const v16 r = SQM__SET1(s->root[n]);
        v16 v = SQM__MADD(SQM__SET1(old), SQM__NAME(load)(s->work + n * SQM__LANES), SQM__NAME(load)(x));
        v = SQM__MADD(r, SQM__SUB(u, SQM__MUL(SQM__SET1(now), sum)), v);
        v = SQM__NAME(div)(v, SQM__MADD(SQM__SET1((float)(n + 1)), SQM__SET1(now), one));
        SQM__NAME(store)(x, v);
        sum = SQM__MADD(r, v, sum);
    }
}
/* Zero-order hold: B = -A e_0, so x - u e_0 is multiplied by exp(A log((k + 1) / k)): Taylor steps so short
   that the norm of their matrix is at most about 1. */
SQM__SPECIAL void SQM__NAME(legs_exact)(const sqm__legs_scan *s, v16 u, int32_t step)
{
    const double z = 1.0 / (2.0 * step + 1.0);          /* log((k + 1) / k) = 2 atanh(1 / (2k + 1)) */
    const int32_t size = s->order * SQM__LANES;
    float *const total = s->work + 2 * size;
    double span = 0.0, power = z;
    int32_t pieces;
    for (int32_t i = 1; i < 40; i += 2, power *= z * z) span += 2.0 * power / i;
    pieces = 1 + (int32_t)(2.0 * span * s->order * s->order);
    SQM__NAME(store)(s->state, SQM__SUB(SQM__NAME(load)(s->state), u));
    for (int32_t piece = 0; piece < pieces; piece++) {
        const float *from = s->state;
        memcpy(total, s->state, (size_t)size * sizeof(float));
        for (int32_t i = 1; i <= 12; i++) {
            const v16 factor = SQM__SET1((float)(span / pieces / i));
            float *to = s->work + i % 2 * size;
            SQM__NAME(legs_apply)(to, from, s->root, s->order);
            for (int32_t n = 0; n < size; n += SQM__LANES) {
                const v16 term = SQM__MUL(SQM__NAME(load)(to + n), factor);
                SQM__NAME(store)(to + n, term);
                SQM__NAME(store)(total + n, SQM__ADD(SQM__NAME(load)(total + n), term));
            }
            from = to;
        }
        memcpy(s->state, total, (size_t)size * sizeof(float));
    }
    SQM__NAME(store)(s->state, SQM__ADD(SQM__NAME(load)(s->state), u));
}
static void SQM__NAME(legs)(const sqm__legs_scan *s)
{
    for (int32_t t = 0; t < s->n_tokens; t++) {
        const size_t row = (size_t)t * (size_t)s->signals;
        const v16 u = SQM__NAME(load_n)(s->u + row, s->lanes, 0.0f);
        if (s->implicit < 0.0f) SQM__NAME(legs_exact)(s, u, s->position + t + 1);
        else SQM__NAME(legs_step)(s, u, (float)(s->position + t + 1));
        for (int32_t n = 0; n < s->order; n++)
            SQM__NAME(store_n)(s->y + row * (size_t)s->order + (size_t)n * (size_t)s->signals,
                               SQM__NAME(load)(s->state + n * SQM__LANES), s->lanes);
    }
}

/* ---- spiking neurons ----------------------------------------------------------------------------------- */
static void SQM__NAME(spike)(const sqm__spike_scan *s)
{
    const v16 leak = SQM__SET1(s->leak), threshold = SQM__SET1(s->threshold), rest = SQM__SET1(s->rest);
    const v16 one = SQM__SET1(1.0f), zero = SQM__SET1(0.0f);
    v16 v = SQM__NAME(load_n)(s->v, s->lanes, 0.0f);
    for (int32_t t = 0; t < s->n_tokens; t++) {
        const v16 x = SQM__NAME(load_n)(s->x + (size_t)t * s->stride, s->lanes, 0.0f);
        v16 fired;
        if (s->keep_input) v = SQM__ADD(SQM__SUB(v, SQM__MUL(SQM__SUB(v, rest), leak)), x);
        else v = SQM__ADD(v, SQM__MUL(SQM__SUB(x, SQM__SUB(v, rest)), leak));
        fired = SQM__NAME(less)(v, threshold, zero, one);
        if (s->soft) v = SQM__SUB(v, SQM__MUL(fired, threshold));
        else v = SQM__NAME(less)(v, threshold, v, rest);
        SQM__NAME(store_n)(s->y + (size_t)t * s->stride, fired, s->lanes);
    }
    SQM__NAME(store_n)(s->v, v, s->lanes);
}

/* ---- long convolutions --------------------------------------------------------------------------------- */
/* Fourier transform of 16 channels at once, for products of polynomials modulo X^n - i: each level splits
   X^m - r^2 into (X^(m/2) - r)(X^(m/2) + r), so the roots of a level belong to its blocks, block k of a level
   of N blocks uses roots[N + k], and values come out in the order in which the inverse takes them in. */
typedef struct { v16 re, im; } SQM__NAME(complex);
SQM__SPECIAL void SQM__NAME(put)(float *p, SQM__NAME(complex) a)
{
    SQM__NAME(store)(p, a.re);
    SQM__NAME(store)(p + SQM__LANES, a.im);
}
SQM__SPECIAL SQM__NAME(complex) SQM__NAME(get)(const float *p)
{
    SQM__NAME(complex) r;
    r.re = SQM__NAME(load)(p);
    r.im = SQM__NAME(load)(p + SQM__LANES);
    return r;
}
SQM__SPECIAL SQM__NAME(complex) SQM__NAME(plus)(SQM__NAME(complex) a, SQM__NAME(complex) b)
{
    a.re = SQM__ADD(a.re, b.re);
    a.im = SQM__ADD(a.im, b.im);
    return a;
}
SQM__SPECIAL SQM__NAME(complex) SQM__NAME(minus)(SQM__NAME(complex) a, SQM__NAME(complex) b)
{
    a.re = SQM__SUB(a.re, b.re);
    a.im = SQM__SUB(a.im, b.im);
    return a;
}
SQM__SPECIAL SQM__NAME(complex) SQM__NAME(times)(SQM__NAME(complex) a, v16 re, v16 im)
{
    SQM__NAME(complex) r;
    r.re = SQM__SUB(SQM__MUL(a.re, re), SQM__MUL(a.im, im));
    r.im = SQM__MADD(a.re, im, SQM__MUL(a.im, re));
    return r;
}
/* One level on a block of 2 * half elements */
SQM__SPECIAL void SQM__NAME(split2)(float *z, const float *root, int32_t half, const int32_t inverse)
{
    const v16 re = SQM__SET1(root[0]), im = SQM__SET1(inverse ? -root[1] : root[1]);
    float *end = z + (size_t)half * 2 * SQM__LANES, *y = end;
    for (; z < end; z += 2 * SQM__LANES, y += 2 * SQM__LANES) {
        const SQM__NAME(complex) a = SQM__NAME(get)(z);
        SQM__NAME(complex) b = SQM__NAME(get)(y);
        if (!inverse) b = SQM__NAME(times)(b, re, im);
        SQM__NAME(put)(z, SQM__NAME(plus)(a, b));
        b = SQM__NAME(minus)(a, b);
        SQM__NAME(put)(y, inverse ? SQM__NAME(times)(b, re, im) : b);
    }
}
#if SQM__PASS != SQM__PASS_SCALAR
/* Two levels at once on a block of 4 * quarter elements: its root, then those of its two halves, r and i r */
SQM__SPECIAL void SQM__NAME(split4)(float *z, const float *own, const float *inner, int32_t quarter,
                                    const int32_t inverse)
{
    const v16 re = SQM__SET1(own[0]), im = SQM__SET1(inverse ? -own[1] : own[1]);
    const v16 re2 = SQM__SET1(inner[0]), im2 = SQM__SET1(inverse ? -inner[1] : inner[1]);
    const v16 re3 = SQM__SET1(inner[2]), im3 = SQM__SET1(inverse ? -inner[3] : inner[3]);
    const size_t step = (size_t)quarter * 2 * SQM__LANES;
    for (float *end = z + step; z < end; z += 2 * SQM__LANES) {
        SQM__NAME(complex) a = SQM__NAME(get)(z), b = SQM__NAME(get)(z + step);
        SQM__NAME(complex) c = SQM__NAME(get)(z + 2 * step), d = SQM__NAME(get)(z + 3 * step), t;
        if (!inverse) {
            t = SQM__NAME(times)(c, re, im);
            c = SQM__NAME(minus)(a, t);
            a = SQM__NAME(plus)(a, t);
            t = SQM__NAME(times)(d, re, im);
            d = SQM__NAME(times)(SQM__NAME(minus)(b, t), re3, im3);
            b = SQM__NAME(times)(SQM__NAME(plus)(b, t), re2, im2);
            SQM__NAME(put)(z, SQM__NAME(plus)(a, b));
            SQM__NAME(put)(z + step, SQM__NAME(minus)(a, b));
            SQM__NAME(put)(z + 2 * step, SQM__NAME(plus)(c, d));
            SQM__NAME(put)(z + 3 * step, SQM__NAME(minus)(c, d));
        } else {
            t = SQM__NAME(times)(SQM__NAME(minus)(a, b), re2, im2);
            a = SQM__NAME(plus)(a, b);
            b = t;
            t = SQM__NAME(times)(SQM__NAME(minus)(c, d), re3, im3);
            c = SQM__NAME(plus)(c, d);
            SQM__NAME(put)(z, SQM__NAME(plus)(a, c));
            SQM__NAME(put)(z + step, SQM__NAME(plus)(b, t));
            SQM__NAME(put)(z + 2 * step, SQM__NAME(times)(SQM__NAME(minus)(a, c), re, im));
            SQM__NAME(put)(z + 3 * step, SQM__NAME(times)(SQM__NAME(minus)(b, t), re, im));
        }
    }
}
#endif
/* One level of `blocks` blocks, or it and the next one, in which the vectors of a block are loaded once */
SQM__SPECIAL void SQM__NAME(split_level)(float *z, const float *roots, int32_t n, int32_t blocks,
                                         const int32_t inverse)
{
    const size_t step = (size_t)(n / blocks) * 2 * SQM__LANES;
    for (int32_t k = blocks; k < 2 * blocks; k++, z += step) {
#if SQM__PASS == SQM__PASS_SCALAR
        SQM__NAME(split2)(z, roots + 2 * k, n / blocks / 2, inverse);
#else
        SQM__NAME(split4)(z, roots + 2 * k, roots + 4 * k, n / blocks / 4, inverse);
#endif
    }
}
static void SQM__NAME(transform)(float *z, const float *roots, int32_t n, int32_t inverse)
{
#if SQM__PASS == SQM__PASS_SCALAR
    const int32_t first = 1, last = n / 2, times = 2;
#else
    const int32_t last = n / 4, times = 4;
    int32_t first = 1;                  /* blocks of the first level that is done in pairs */
    for (int32_t m = n; m > 1; m /= 4) if (m == 2) first = 2;
    if (!inverse && first == 2) SQM__NAME(split2)(z, roots + 2, n / 2, 0);
#endif
    for (int32_t blocks = first; !inverse && blocks <= last; blocks *= times)
        SQM__NAME(split_level)(z, roots, n, blocks, 0);
    for (int32_t blocks = last; inverse && blocks >= first; blocks /= times)
        SQM__NAME(split_level)(z, roots, n, blocks, 1);
#if SQM__PASS != SQM__PASS_SCALAR
    if (inverse && first == 2) SQM__NAME(split2)(z, roots + 2, n / 2, 1);
#endif
}
static void SQM__NAME(multiply)(float *z, const float *g, int32_t n)
{
    for (float *end = z + (size_t)n * 2 * SQM__LANES; z < end; z += 2 * SQM__LANES, g += 2 * SQM__LANES) {
        const SQM__NAME(complex) w = SQM__NAME(get)(g);
        SQM__NAME(put)(z, SQM__NAME(times)(SQM__NAME(get)(z), w.re, w.im));
    }
}

/* T outputs that follow one another: the lags that all of them have, then those that only later ones have */
SQM__SPECIAL void SQM__NAME(convolve_rows)(float *y, size_t y_stride, const float *start, const float *u,
                                           const float *taps, size_t tap_stride, int32_t n_taps, int32_t lags,
                                           int32_t lanes, const int32_t T)
{
    v16 sum[4];
    const int32_t common = sqm__min(n_taps, lags);
    SQM__WIDE for (int32_t t = 0; t < T; t++) sum[t] = SQM__NAME(load)(start + t * SQM__LANES);
    for (int32_t l = 0; l < common; l++) {
        const v16 tap = SQM__NAME(load_n)(taps + (size_t)l * tap_stride, lanes, 0.0f);
        const float *from = u - (ptrdiff_t)l * SQM__LANES;
        SQM__WIDE for (int32_t t = 0; t < T; t++)
            sum[t] = SQM__MADD(tap, SQM__NAME(load)(from + t * SQM__LANES), sum[t]);
    }
    SQM__WIDE for (int32_t t = 0; t < T; t++) {
        for (int32_t l = common; l < sqm__min(n_taps, lags + t); l++)
            sum[t] = SQM__MADD(SQM__NAME(load_n)(taps + (size_t)l * tap_stride, lanes, 0.0f),
                               SQM__NAME(load)(u + (ptrdiff_t)(t - l) * SQM__LANES), sum[t]);
        SQM__NAME(store_n)(y + (size_t)t * y_stride, sum[t], lanes);
    }
}
static void SQM__NAME(convolve)(float *y, size_t y_stride, const float *start, const float *u,
                                const float *taps, size_t tap_stride, int32_t n_taps, int32_t n, int32_t past,
                                int32_t lanes)
{
    int32_t t = 0;
    for (; t + 4 <= n; t += 4, y += 4 * y_stride, start += 4 * SQM__LANES, u += 4 * SQM__LANES)
        SQM__NAME(convolve_rows)(y, y_stride, start, u, taps, tap_stride, n_taps, past + t + 1, lanes, 4);
    for (; t < n; t++, y += y_stride, start += SQM__LANES, u += SQM__LANES)
        SQM__NAME(convolve_rows)(y, y_stride, start, u, taps, tap_stride, n_taps, past + t + 1, lanes, 1);
}

SQM__UNUSED static const sqm__calls SQM__NAME(table) = {
    SQM__NAME(gemm), SQM__NAME(quantize), SQM__NAME(normalize), SQM__NAME(activate), SQM__NAME(glu),
        SQM__NAME(softmax),
    SQM__NAME(softcap), SQM__NAME(attend_tile), SQM__NAME(narrow), SQM__NAME(conv_row),
    SQM__NAME(product), SQM__NAME(product_back), SQM__NAME(learn), SQM__NAME(blend), SQM__NAME(act_slope),
    SQM__NAME(norm_error), SQM__NAME(scan), SQM__NAME(ssd), SQM__NAME(turn),
    SQM__NAME(block), SQM__NAME(reduce), SQM__NAME(lerp), SQM__NAME(outer_sums), SQM__NAME(outer),
    SQM__NAME(running), SQM__NAME(slstm),
    SQM__NAME(lti), SQM__NAME(legs), SQM__NAME(spike), SQM__NAME(transform), SQM__NAME(multiply),
    SQM__NAME(convolve)
};
static const sqm__kernels SQM__NAME(pass) = {
#if SQM__PASS == SQM__PASS_SCALAR
    SQM_ISA_SCALAR,
#elif SQM__PASS == SQM__PASS_AVX2
    SQM_ISA_AVX2,
#elif SQM__PASS == SQM__PASS_AVX512
    SQM_ISA_AVX512,
#elif SQM__PASS == SQM__PASS_HELIUM
    SQM_ISA_HELIUM,
#else
    SQM_ISA_NEON,
#endif
#if SQM__ONE_PASS
    SQM__CODE_T, NULL
#else
    SQM__CODE_T, &SQM__NAME(table)
#endif
};
#endif /* the whole passes */
#undef v16
#undef w16
#undef b64
#undef SQM__CODE_ZERO
#undef SQM__SUM_UNIT
#undef SQM__PAIRS
#undef SQM__BY_ROWS
#undef SQM__CODE_P
#undef SQM__CODE_T
#undef SQM__EACH_CODED
#undef SQM__TILE_P
#undef SQM__TILE_T
#undef SQM__TILE_STREAMS
#undef SQM__TILE_ROWS
#undef SQM__TILE_FEW
#undef SQM__TILE_SUMS
#undef SQM__SSD_P
#undef SQM__SSD_N
#undef SQM__SSD_STEP
#undef SQM__TILE_S
#undef SQM__TILE_A
#undef SQM__SPECIAL
#undef SQM__WIDE
#undef SQM__SET1
#undef SQM__ADD
#undef SQM__SUB
#undef SQM__MUL
#undef SQM__MADD
#endif /* SQM__PASS */

#if defined(SQM__IMPLEMENTING) && !defined(SQM__PASS)
/* ==== [OPS] Tensor operations ==============================================================================
   Checks arguments, splits rows over threads, calls [KERN]. Rows are split, sums never, so that the number
   of threads does not change a bit. Tested by tests/test_ops.c. */

/* ---- threads ------------------------------------------------------------------------------------------- */
/* A forward pass is one parallel region: its threads form a team that waits for jobs, which costs a fraction
   of opening a region for each. Pieces are taken from one ticket, so a thread that the system puts aside
   delays nobody but its own piece. */
#if SQM__HAVE_TEAM
typedef struct sqm__team {
    uint64_t ticket;                    /* job number << 32 | pieces << 16 | next piece; all ones: go home */
    uint32_t done;                      /* finished pieces of the current job */
    sqm_task fn;
    void    *arg;
} sqm__team;
enum { SQM__TEAM_PIECES = 0x8000 };     /* beyond them every thread of any machine may overshoot once */

static void sqm__team_wait(int32_t *turns)
{
    if (++*turns < 2048) SQM__PAUSE();
    else SQM__YIELD();
}
/* Takes and runs pieces until none is left; returns the last ticket seen. */
static uint64_t sqm__team_take(sqm__team *team)
{
    uint64_t ticket = __atomic_load_n(&team->ticket, __ATOMIC_ACQUIRE);
    while (~ticket && (ticket & 0xffff) < (ticket >> 16 & 0xffff)) {
        ticket = __atomic_fetch_add(&team->ticket, 1, __ATOMIC_ACQ_REL);
        if ((ticket & 0xffff) >= (ticket >> 16 & 0xffff)) break;
        /* ours: the job cannot change before it ends */
        team->fn(team->arg, (int32_t)(ticket & 0xffff));
        __atomic_fetch_add(&team->done, 1, __ATOMIC_RELEASE);
        ticket = __atomic_load_n(&team->ticket, __ATOMIC_ACQUIRE);
    }
    return ticket;
}
static void sqm__team_work(sqm__team *team)
{
    int32_t turns = 0;
    uint64_t before = 0;
    for (;;) {
        const uint64_t ticket = sqm__team_take(team);
        if (!~ticket) return;
        if (ticket >> 32 != before >> 32) turns = 0;
        before = ticket;
        sqm__team_wait(&turns);
    }
}
static void sqm__team_run(sqm__team *team, sqm_task fn, void *arg, int32_t n)
{
    const uint64_t job = (__atomic_load_n(&team->ticket, __ATOMIC_RELAXED) >> 32) + 1;
    int32_t turns = 0;
    team->fn = fn;
    team->arg = arg;
    __atomic_store_n(&team->done, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&team->ticket, (job & 0x7fffffff) << 32 | (uint64_t)n << 16, __ATOMIC_RELEASE);
    (void)sqm__team_take(team);
    while (__atomic_load_n(&team->done, __ATOMIC_ACQUIRE) != (uint32_t)n) sqm__team_wait(&turns);
}
#else
typedef struct sqm__team { int32_t unused; } sqm__team;
#endif

/* Runs fn(arg, 0 .. n - 1) on the caller's pool, the team, OpenMP's threads, or one after another. */
static void sqm__run(const sqm_exec *x, sqm_task fn, void *arg, int32_t n)
{
    if (n > 1 && x->parallel) {
        x->parallel->run(x->parallel->user, fn, arg, n);
        return;
    }
#if SQM__HAVE_TEAM
    if (n > 1 && n < SQM__TEAM_PIECES && x->team) {
        sqm__team_run(x->team, fn, arg, n);
        return;
    }
#endif
#ifdef _OPENMP
    if (n > 1 && x->threads > 1 && !x->team) {
        int i;
#pragma omp parallel for num_threads(x->threads) schedule(dynamic, 1)
        for (i = 0; i < (int)n; i++) fn(arg, (int32_t)i);
        return;
    }
#endif
    for (int32_t i = 0; i < n; i++) fn(arg, i);
}

/* Calls run(arg) with a team at work for all jobs of x that it starts. */
static void sqm__with_team(sqm_exec *x, void (*run)(void *arg), void *arg)
{
#if SQM__HAVE_TEAM
    if (x->threads > 1 && !x->parallel) {
        sqm__team team;
        memset(&team, 0, sizeof(team));
#pragma omp parallel num_threads(x->threads)
        {
            if (omp_get_thread_num() == 0) {
                x->team = &team;
                run(arg);
                x->team = NULL;
                __atomic_store_n(&team.ticket, ~(uint64_t)0, __ATOMIC_RELEASE);
            } else {
                sqm__team_work(&team);
            }
        }
        return;
    }
#endif
    (void)x;
    run(arg);
}

/* Pieces worth cutting `work` elementary operations into. */
static int32_t sqm__pieces(const sqm_exec *x, size_t work)
{
    const size_t useful = work / 32768 + 1;
    return useful < (size_t)x->threads ? (int32_t)useful : x->threads;
}

/* For jobs that split well: more pieces than threads even out threads that are slower or come late. */
SQM__INLINE int32_t sqm__most_pieces(int32_t threads) { return threads > 1 ? 4 * threads : 1; }
static int32_t sqm__fine_pieces(const sqm_exec *x, size_t work)
{
    const size_t useful = work / 65536 + 1, most = (size_t)sqm__most_pieces(x->threads);
    return (int32_t)(useful < most ? useful : most);
}

/* Start of piece i when n things are cut into `pieces`. */
SQM__INLINE int32_t sqm__cut(int32_t n, int32_t i, int32_t pieces)
{
    return (int32_t)((int64_t)n * i / pieces);
}

/* Work area of [KERN]'s gemm in floats: for one row panels are read as they are, unless quantised weights
   have to become float32. */
SQM__INLINE size_t sqm__work_floats(int32_t rows, int expands)
{
    return rows == 1 && !expands ? SQM__ROW_FLOATS : SQM__WORK_FLOATS;
}
/* Scratch of a product: activations in 8 bits, their scales and sums, and a work area for each thread. */
static size_t sqm__linear_scratch(int32_t rows, int32_t cols, int32_t threads, sqm_precision precision)
{
    const size_t padded = rows == 1 ? 1 : (size_t)rows + SQM__MAX_TILE - 1;
    const size_t groups = (size_t)sqm__ceil_div(cols, SQM__GROUP) * padded;
    return sqm__align_up(groups * SQM__GROUP * 2, 64) + sqm__align_up(groups * 4,
                                                                      64) + sqm__align_up(groups * 8,
            64) +
           (size_t)sqm__most_pieces(threads) * sqm__work_floats(rows, precision == SQM_EXACT) * sizeof(float);
}

SQMDEF size_t sqm_exec_scratch_size(int32_t max_rows, int32_t max_cols, int32_t threads)
{
    if (max_rows < 1 || max_cols < 1) return 0;
    return sqm__linear_scratch(max_rows, max_cols, threads > 0 ? threads : 1, SQM_EXACT) + 64;
}

static int32_t sqm__default_threads(const sqm_parallel *parallel)
{
    if (parallel) return sqm__max(1, parallel->threads);
#ifdef _OPENMP
    return sqm__max(1, (int32_t)omp_get_max_threads());
#else
    return 1;
#endif
}

SQMDEF sqm_result sqm_exec_init(sqm_exec *x, sqm_isa isa, int32_t threads, void *scratch,
                                size_t scratch_bytes)
{
    const size_t skip = (size_t)(64 - (uintptr_t)scratch % 64) % 64;
    memset(x, 0, sizeof(*x));
    if (threads < 0 || threads > 1024)
        SQM__FAIL(&x->error, SQM_E_ARGUMENT, threads, "%d threads: must be 0 (default) to 1024", threads);
    x->kernels = sqm__kernels_of(isa);
    if (!x->kernels)
        SQM__FAIL(&x->error, SQM_E_UNSUPPORTED, isa, "instruction set %s is not available here",
                  sqm_isa_name(isa));
    x->threads = threads > 0 ? threads : 1;
    if (scratch && scratch_bytes > skip) {
        x->scratch = (uint8_t *)scratch + skip;
        x->scratch_bytes = scratch_bytes - skip;
    }
    return SQM_OK;
}

/* ---- linear maps --------------------------------------------------------------------------------------- */
#define SQM__MAX_WEIGHTS 64
typedef struct sqm__linear {            /* y = scale * (a * [w0; w1; ...]^T + bias), outputs side by side */
    const sqm_tensor    *weights;       /* [n_weights] panels with the same number of columns */
    const float *const  *biases;        /* [n_weights], entries may be NULL; NULL: none */
    int32_t              n_weights;
    int32_t              add;           /* 1: y += result */
    int32_t              precise;       /* 1: quantised products round activations to 16 bits, not to 8 */
    int32_t              apart;         /* 1: weight i reads columns of its own, from i * (its columns) on */
    float                scale;
} sqm__linear;

typedef struct sqm__linear_job {
    const sqm_exec    *x;
    const sqm__linear *linear;
    float             *y;
    const float       *a;
    size_t             y_stride, a_stride;
    int32_t            n, cols, parts, pieces, n_panels, tile;
    size_t             part_groups;     /* groups of codes of each part: the columns that a weight reads */
    size_t             plane;           /* see sqm__gemm */
    int8_t            *codes;           /* NULL: exact */
    float             *code_scales;
    int32_t           *code_sums;
    float             *work;
    size_t             work_floats;     /* of each piece */
} sqm__linear_job;

static void sqm__quantize_task(void *arg, int32_t piece)
{
    const sqm__linear_job *job = (const sqm__linear_job *)arg;
    const size_t groups = (size_t)sqm__ceil_div(job->cols, SQM__GROUP), tile = (size_t)job->tile;
    const int32_t tiles = sqm__ceil_div(job->n, job->tile), units = tiles * job->parts;
    const int32_t first = sqm__cut(units, piece, job->pieces) * job->tile;
    const int32_t last = sqm__cut(units, piece + 1, job->pieces) * job->tile;
    for (int32_t u = first; u < last; u++) {
        const int32_t part = u / (tiles * job->tile), t = u % (tiles * job->tile);
        const size_t at = (size_t)part * job->part_groups + (size_t)(t / job->tile) * groups * tile +
                          (size_t)(t % job->tile);
        if (t < job->n) {
            SQM__CALL(job->x->kernels, quantize)(job->codes + at * SQM__GROUP, job->code_scales + at,
                                      job->code_sums + 2 * at, tile, job->plane,
                                      job->a + (size_t)t * job->a_stride + (size_t)part * (size_t)job->cols,
                                      job->cols);
            continue;
        }
        for (size_t g = 0; g < groups; g++) {           /* rows that fill up the last tile */
            memset(job->codes + (at + g * tile) * SQM__GROUP, 0, SQM__GROUP);
            if (job->plane) memset(job->codes + job->plane + (at + g * tile) * SQM__GROUP, 0, SQM__GROUP);
            job->code_scales[at + g * tile] = 0.0f;
            job->code_sums[2 * (at + g * tile)] = job->code_sums[2 * (at + g * tile) + 1] = 0;
        }
    }
}

/* Panels [first, last) of all weights counted through. */
static void sqm__linear_task(void *arg, int32_t piece)
{
    const sqm__linear_job *job = (const sqm__linear_job *)arg;
    const sqm__linear *l = job->linear;
    const int32_t fours = sqm__ceil_div(job->n_panels, 4);      /* kernels like whole groups of panels */
    const int32_t first = 4 * sqm__cut(fours, piece, job->pieces);
    const int32_t last = sqm__min(4 * sqm__cut(fours, piece + 1, job->pieces), job->n_panels);
    int32_t base = 0, column = 0;
    for (int32_t i = 0; i < l->n_weights; i++) {
        const sqm_tensor *w = &l->weights[i];
        const int32_t panels = sqm__ceil_div(w->shape[0], SQM__LANES);
        const int32_t from = sqm__max(first - base, 0), to = sqm__min(last - base, panels);
        if (from < to) {
            const size_t part = l->apart ? (size_t)i : 0, codes = part * job->part_groups;
            sqm__gemm g;
            g.y = job->y + column;
            g.x = job->a + part * (size_t)job->cols;
            g.codes = job->codes && w->dtype >= SQM_Q8 ? job->codes + codes * SQM__GROUP : NULL;
            g.code_scales = job->code_scales + codes;
            g.code_sums = job->code_sums + 2 * codes;
            g.plane = job->plane;
            g.tile = job->tile;
            g.panels = (const uint8_t *)w->data;
            g.panel_bytes = (size_t)sqm__panel_bytes(w->dtype, w->shape[1]);
            g.y_stride = job->y_stride;
            g.x_stride = job->a_stride;
            g.bias = l->biases ? l->biases[i] : NULL;
            g.scale = l->scale;
            g.add = l->add;
            g.n_tokens = job->n;
            g.n_rows = w->shape[0];
            g.n_cols = w->shape[1];
            g.dtype = w->dtype;
            SQM__CALL(job->x->kernels, gemm)(&g, from, to, job->work + (size_t)piece * job->work_floats);
        }
        base += panels;
        column += w->shape[0];
    }
}

/* The scratch of x is large enough: callers checked. */
static void sqm__linear_run(const sqm_exec *x, const sqm__linear *l, float *y, size_t y_stride,
                            const float *a,
                            size_t a_stride, int32_t n)
{
    sqm__linear_job job;
    sqm__arena scratch;
    int quantized = 0;
    size_t groups;
    memset(&scratch, 0, sizeof(scratch));
    scratch.base = x->scratch;
    scratch.size = x->scratch_bytes;
    job.x = x; job.linear = l; job.y = y; job.a = a; job.y_stride = y_stride; job.a_stride = a_stride; job.n =
        n;
    job.cols = l->weights[0].shape[1];
    job.n_panels = 0;
    for (int32_t i = 0; i < l->n_weights; i++) {
        job.n_panels += sqm__ceil_div(l->weights[i].shape[0], SQM__LANES);
        quantized |= l->weights[i].dtype >= SQM_Q8;
    }
    job.tile = n == 1 ? 1 : x->kernels->tile;
    job.parts = l->apart ? l->n_weights : 1;
    job.part_groups = (size_t)sqm__ceil_div(job.cols, SQM__GROUP) *
        sqm__align_up((size_t)n, (size_t)job.tile);
    groups = job.part_groups * (size_t)job.parts;
    job.plane = l->precise ? groups * SQM__GROUP : 0;
    job.codes = (int8_t *)sqm__arena_push(&scratch, groups * SQM__GROUP * 2, 64);
    job.code_scales = (float *)sqm__arena_push(&scratch, groups * 4, 64);
    job.code_sums = (int32_t *)sqm__arena_push(&scratch, groups * 8, 64);
    job.work_floats = sqm__work_floats(n, x->precision == SQM_EXACT);
    job.work = (float *)sqm__arena_push(&scratch, (size_t)sqm__most_pieces(x->threads) * job.work_floats *
                                        sizeof(float), 64);
    if (x->precision == SQM_EXACT) quantized = 0;
    if (quantized) {
        job.pieces = sqm__min(sqm__ceil_div(n, job.tile) * job.parts,
                              sqm__pieces(x, (size_t)n * (size_t)job.cols * (size_t)job.parts * 4));
        sqm__run(x, sqm__quantize_task, &job, job.pieces);
    } else {
        job.codes = NULL;
    }
    job.pieces = sqm__fine_pieces(x, (size_t)n * (size_t)job.cols * (size_t)job.n_panels * SQM__LANES);
    job.pieces = sqm__min(job.pieces, sqm__ceil_div(job.n_panels, 4));
    sqm__run(x, sqm__linear_task, &job, job.pieces);
}

static sqm_result sqm__check_panels(const sqm_tensor *w, sqm_error *err)
{
    if (!w || !w->data || w->layout != SQM_PANELS || w->ndim != 2 || w->shape[0] < 1 || w->shape[1] < 1)
        SQM__FAIL(err, SQM_E_SHAPE, w ? w->ndim : 0, "a linear map needs a two-dimensional weight in panels");
    if (w->dtype >= SQM_Q2K && w->shape[1] % 256)
        SQM__FAIL(err, SQM_E_SHAPE, w->shape[1], "%s weights need a multiple of 256 columns, not %d",
                  sqm_dtype_name(w->dtype), w->shape[1]);
    return SQM_OK;
}

SQMDEF sqm_result sqm_matmul(sqm_exec *x, float *y, const float *a, int32_t n, const sqm_tensor *w,
                             const float *bias)
{
    sqm__linear l;
    size_t need;
    if (!y || !a || n < 1) SQM__FAIL(&x->error, SQM_E_ARGUMENT, n, "matmul: no rows (n = %d)", n);
    SQM__TRY(sqm__check_panels(w, &x->error));
    need = sqm__linear_scratch(n, w->shape[1], x->threads, x->precision);
    if (need > x->scratch_bytes)
        SQM__FAIL(&x->error, SQM_E_MEMORY, need, "matmul needs %z bytes of scratch, the context has %z",
                  (uint64_t)need,
                  (uint64_t)x->scratch_bytes);
    l.weights = w;
    l.biases = &bias;
    l.n_weights = 1;
    l.add = 0;
    l.precise = 0;
    l.apart = 0;
    l.scale = 1.0f;
    sqm__linear_run(x, &l, y, (size_t)w->shape[0], a, (size_t)w->shape[1], n);
    return SQM_OK;
}

/* ---- row-wise operations ------------------------------------------------------------------------------- */
typedef struct sqm__rows_job {          /* one operation on the rows of a matrix, cut over threads */
    const sqm_exec *x;
    float          *y;
    const float    *a, *gate, *gain, *bias;
    size_t          y_stride, a_stride, gate_stride;
    int32_t         n, dim, groups, kind, pieces, own;
    float           number;             /* eps, scale or cap */
    const struct sqm__op *op;           /* of a recipe, where more is needed */
} sqm__rows_job;

/* groups parts of dim columns each; gain and bias are shared by the groups unless own. */
static void sqm__normalize_task(void *arg, int32_t piece)
{
    const sqm__rows_job *job = (const sqm__rows_job *)arg;
    for (int32_t t = sqm__cut(job->n, piece, job->pieces); t < sqm__cut(job->n, piece + 1, job->pieces); t++)
        for (int32_t g = 0; g < job->groups; g++) {
            const size_t at = (size_t)g * (size_t)job->dim, affine = job->own ? at : 0;
            SQM__CALL(job->x->kernels, normalize)(job->y + (size_t)t * job->y_stride + at, job->a +
                                       (size_t)t * job->a_stride + at,
                                       job->dim, job->kind, job->gain ? job->gain + affine : NULL,
                                       job->bias ? job->bias + affine : NULL, job->number);
        }
}
static void sqm__glu_task(void *arg, int32_t piece)
{
    const sqm__rows_job *job = (const sqm__rows_job *)arg;
    for (int32_t t = sqm__cut(job->n, piece, job->pieces); t < sqm__cut(job->n, piece + 1, job->pieces);
         t++) {
        const float *a = job->a + (size_t)t * job->a_stride;
        SQM__CALL(job->x->kernels, glu)(job->y + (size_t)t * job->y_stride, a, a + job->dim, (size_t)job->dim,
                             job->kind);
    }
}
static void sqm__gate_task(void *arg, int32_t piece)
{
    const sqm__rows_job *job = (const sqm__rows_job *)arg;
    for (int32_t t = sqm__cut(job->n, piece, job->pieces); t < sqm__cut(job->n, piece + 1, job->pieces); t++)
        SQM__CALL(job->x->kernels, glu)(job->y + (size_t)t * job->y_stride,
                                        job->gate + (size_t)t * job->gate_stride,
                             job->a + (size_t)t * job->a_stride, (size_t)job->dim, job->kind);
}
static void sqm__activate_task(void *arg, int32_t piece)
{
    const sqm__rows_job *job = (const sqm__rows_job *)arg;
    for (int32_t t = sqm__cut(job->n, piece, job->pieces); t < sqm__cut(job->n, piece + 1, job->pieces); t++)
        SQM__CALL(job->x->kernels, activate)(job->y + (size_t)t * job->y_stride,
                                             job->a + (size_t)t * job->a_stride,
                                  (size_t)job->dim, job->kind);
}
static void sqm__softcap_task(void *arg, int32_t piece)
{
    const sqm__rows_job *job = (const sqm__rows_job *)arg;
    for (int32_t t = sqm__cut(job->n, piece, job->pieces); t < sqm__cut(job->n, piece + 1, job->pieces); t++)
        SQM__CALL(job->x->kernels, softcap)(job->y + (size_t)t * job->y_stride,
                                            job->a + (size_t)t * job->a_stride,
                                 (size_t)job->dim, job->number);
}
static void sqm__softmax_task(void *arg, int32_t piece)
{
    const sqm__rows_job *job = (const sqm__rows_job *)arg;
    for (int32_t t = sqm__cut(job->n, piece, job->pieces); t < sqm__cut(job->n, piece + 1, job->pieces); t++)
        for (int32_t g = 0; g < job->groups; g++) {
            const size_t at = (size_t)g * (size_t)job->dim;
            SQM__CALL(job->x->kernels, softmax)(job->y + (size_t)t * job->y_stride + at,
                                     job->a + (size_t)t * job->a_stride + at, job->dim, job->number);
        }
}
static sqm__rows_job sqm__rows(const sqm_exec *x, float *y, size_t y_stride, const float *a, size_t a_stride,
                               int32_t n,
                               int32_t dim)
{
    sqm__rows_job job;
    memset(&job, 0, sizeof(job));
    job.x = x; job.y = y; job.a = a; job.y_stride = y_stride; job.a_stride = a_stride; job.n = n; job.dim =
        dim;
    job.groups = 1;
    return job;
}
static void sqm__rows_run(sqm__rows_job *job, sqm_task task)
{
    const size_t work = (size_t)job->n * (size_t)job->dim * (size_t)job->groups * 4;
    job->pieces = sqm__min(job->n, sqm__pieces(job->x, work));
    sqm__run(job->x, task, job, job->pieces);
}
#define SQM__CHECK_ROWS(x, y, a, n, dim) \
    if (!(y) || !(a) || (n) < 1 || (dim) < 1) \
        SQM__FAIL(&(x)->error, SQM_E_ARGUMENT, (n), "needs rows and columns: n = %d, dim = %d", (n), (dim))

SQMDEF sqm_result sqm_normalize(sqm_exec *x, float *y, const float *a, int32_t n, int32_t dim, sqm_norm kind,
                                const float *gain, const float *bias, float eps)
{
    sqm__rows_job job = sqm__rows(x, y, (size_t)dim, a, (size_t)dim, n, dim);
    SQM__CHECK_ROWS(x, y, a, n, dim);
    if ((uint32_t)kind > SQM_NORM_SUM)
        SQM__FAIL(&x->error, SQM_E_ARGUMENT, kind, "norm %d is unknown", (int32_t)kind);
    job.kind = (int32_t)kind;
    job.gain = gain;
    job.bias = bias;
    job.number = eps;
    sqm__rows_run(&job, sqm__normalize_task);
    return SQM_OK;
}

SQMDEF sqm_result sqm_activate(sqm_exec *x, float *y, const float *a, size_t n, sqm_act kind)
{
    if (!y || !a || (uint32_t)kind >= SQM_ACT_COUNT)
        SQM__FAIL(&x->error, SQM_E_ARGUMENT, kind, "activation %d is unknown or there is no data",
                  (int32_t)kind);
    SQM__CALL(x->kernels, activate)(y, a, n, (int32_t)kind);
    return SQM_OK;
}

SQMDEF sqm_result sqm_glu(sqm_exec *x, float *y, const float *a, int32_t n, int32_t dim, sqm_act kind)
{
    sqm__rows_job job = sqm__rows(x, y, (size_t)dim, a, (size_t)dim * 2, n, dim);
    SQM__CHECK_ROWS(x, y, a, n, dim);
    if ((uint32_t)kind >= SQM_ACT_COUNT)
        SQM__FAIL(&x->error, SQM_E_ARGUMENT, kind, "activation %d is unknown", (int32_t)kind);
    job.kind = (int32_t)kind;
    sqm__rows_run(&job, sqm__glu_task);
    return SQM_OK;
}

SQMDEF sqm_result sqm_softmax(sqm_exec *x, float *y, const float *a, int32_t n, int32_t dim, float scale)
{
    sqm__rows_job job = sqm__rows(x, y, (size_t)dim, a, (size_t)dim, n, dim);
    SQM__CHECK_ROWS(x, y, a, n, dim);
    job.number = scale;
    sqm__rows_run(&job, sqm__softmax_task);
    return SQM_OK;
}

/* ==== [POS] Positions ======================================================================================
   Rotary position embedding (Su et al. 2021, arXiv 2104.09864). The phase is the float32 product position *
   inv_freq, as in the official code; its sine and cosine are computed in double, so that they are the same
   on every machine.
   Tested by tests/test_ops.c and tools/sqm-vectors (rope). */

/* sin and cos of 0 <= x < 2^20: x = n pi/2 + r exactly enough for
   float results, Taylor series on |r| <= pi/4 */
static void sqm__sincos(double x, float *sine, float *cosine)
{
    const double n = floor(x * 0.63661977236758134 + 0.5);
    const double r = (x - n * 1.57079632673412561417e+00) - n * 6.07710050650619224932e-11, s = r * r;
    const double sin_r = r * (1.0 + s * (-1.0 / 6 + s * (1.0 / 120 + s * (-1.0 / 5040 + s * (1.0 / 362880 +
                         s * (-1.0 / 39916800 + s * (1.0 / 6227020800.0 - s / 1307674368000.0)))))));
    const double cos_r = 1.0 + s * (-0.5 + s * (1.0 / 24 + s * (-1.0 / 720 + s * (1.0 / 40320 +
            s * (-1.0 / 3628800 +
                         s * (1.0 / 479001600.0 - s / 87178291200.0))))));
    const int64_t quarter = (int64_t)n & 3;
    const double a = quarter & 1 ? cos_r : sin_r, b = quarter & 1 ? sin_r : cos_r;
    *sine = (float)(quarter & 2 ? -a : a);
    *cosine = (float)(quarter == 1 || quarter == 2 ? -b : b);
}

/* table [dims]: cosines of the dims / 2 channels, then their sines, times attn_factor */
static void sqm__rope_angles(float *table, int32_t position, const float *inv_freq, int32_t dims,
                             float attn_factor)
{
    const int32_t half = dims / 2;
    for (int32_t i = 0; i < half; i++) {
        const float phase = (float)position * inv_freq[i];
        float sine, cosine;
        sqm__sincos(phase < 0.0f ? -(double)phase : (double)phase, &sine, &cosine);
        if (phase < 0.0f) sine = -sine;
        table[i] = cosine * attn_factor;
        table[half + i] = sine * attn_factor;
    }
}

/* (a, b) -> (a cos - b sin, b cos + a sin) on pairs (i, i + dims/2) or (2i, 2i + 1) */
static void sqm__rope_rotate(float *x, const float *table, int32_t dims, sqm_rope_style style)
{
    const int32_t half = dims / 2;
    for (int32_t i = 0; i < half; i++) {
        float *first = x + (style == SQM_ROPE_HALF ? i : 2 * i), *second = style == SQM_ROPE_HALF ? first +
            half : first + 1;
        const float a = *first, b = *second, cosine = table[i], sine = table[half + i];
        *first = a * cosine - b * sine;
        *second = b * cosine + a * sine;
    }
}

SQMDEF sqm_result sqm_rope(sqm_exec *x, float *rows, int32_t n, int32_t stride, int32_t first, int32_t heads,
                           int32_t head_dim, int32_t dims, sqm_rope_style style, const float *inv_freq,
                           float attn_factor, const int32_t *positions, int32_t first_position)
{
    float *table = (float *)(void *)x->scratch;
    if (!rows || !inv_freq || n < 1 || heads < 1 || dims < 2 || dims % 2 || dims > head_dim || first < 0 ||
        (int64_t)first + (int64_t)heads * head_dim > stride)
        SQM__FAIL(&x->error, SQM_E_ARGUMENT, dims,
                  "rope: %d of %d channels of %d heads do not fit rows of %d", dims,
                  head_dim, heads, stride);
    if ((size_t)dims * sizeof(float) > x->scratch_bytes)
        SQM__FAIL(&x->error, SQM_E_MEMORY, (size_t)dims * sizeof(float), "rope needs %d bytes of scratch",
                  dims * 4);
    for (int32_t t = 0; t < n; t++) {
        float *row = rows + (size_t)t * (size_t)stride + first;
        sqm__rope_angles(table, positions ? positions[t] : first_position + t, inv_freq, dims, attn_factor);
        for (int32_t h = 0; h < heads; h++) sqm__rope_rotate(row + (size_t)h * (size_t)head_dim, table, dims,
                                                             style);
    }
    return SQM_OK;
}
/* ==== [MIX] Sequence mixers ================================================================================
   Operations in which rows talk to rows. Each is one sub-section: formula, parameters, bind, state,
   forward, table entry; nothing about it stands elsewhere except one line in the list at the end. Tested by
   tests/test_mix_*.c.   */

/* ---- parameters by name -------------------------------------------------------------------------------- */
static const sqm_param *sqm__param(const sqm_param *params, int32_t n, const char *key)
{
    for (int32_t i = 0; i < n; i++)
        if (sqm__same_text(params[i].key, key)) return &params[i];
    return NULL;
}
/* Missing: `otherwise`. */
static sqm_result sqm__param_number(double *value, const sqm_param *params, int32_t n, const char *key,
                                    double otherwise, sqm_error *err)
{
    const sqm_param *p = sqm__param(params, n, key);
    if (p && (p->text || p->tensors))
        SQM__FAIL(err, SQM_E_SHAPE, p->n_tensors, "%s = %s must be a number", key,
                  p->text ? p->text : "a tensor");
    *value = p ? p->number : otherwise;
    return SQM_OK;
}
/* Integer parameter in [low, high]; missing: `otherwise`. */
static sqm_result sqm__param_int(int32_t *value, const sqm_param *params, int32_t n, const char *key,
                                 int32_t otherwise,
                                 int32_t low, int32_t high, sqm_error *err)
{
    double v = 0.0;
    SQM__TRY(sqm__param_number(&v, params, n, key, (double)otherwise, err));
    if (!(v >= (double)low && v <= (double)high) || v != floor(v)) {
        const int32_t value_of = v >= -2147483647.0 && v <= 2147483647.0 ? (int32_t)v : INT32_MIN;
        SQM__FAIL(err, SQM_E_SHAPE, (uint64_t)(int64_t)value_of,
                  "%s = %f must be a whole number from %d to %d", key, v, low, high);
    }
    *value = (int32_t)v;
    return SQM_OK;
}
static sqm_result sqm__param_float(float *value, const sqm_param *params, int32_t n, const char *key,
                                   double otherwise,
                                   sqm_error *err)
{
    double v = 0.0;
    SQM__TRY(sqm__param_number(&v, params, n, key, otherwise, err));
    if (!(v >= -1e30 && v <= 1e30)) SQM__FAIL(err, SQM_E_SHAPE, 0, "%s = %f is out of range", key, v);
    *value = (float)v;
    return SQM_OK;
}
/* The one vector of `count` float32 under `key`; NULL when missing. */
static sqm_result sqm__param_vector(const float **vector, const sqm_param *params, int32_t n, const char *key,
                                    int32_t count,
                                    sqm_error *err)
{
    const sqm_param *p = sqm__param(params, n, key);
    *vector = NULL;
    if (!p) return SQM_OK;
    if (p->n_tensors != 1 || !p->tensors || !p->tensors[0])
        SQM__FAIL(err, SQM_E_SHAPE, p->n_tensors, "%s must be one tensor", key);
    if (p->tensors[0]->dtype != SQM_F32 || p->tensors[0]->layout != SQM_ROWS || p->tensors[0]->ndim != 1 ||
        p->tensors[0]->shape[0] != count)
        SQM__FAIL(err, SQM_E_SHAPE, p->tensors[0]->shape[0], "%s must be %d float32 values, has %d", key,
                  count,
                  p->tensors[0]->shape[0]);
    *vector = (const float *)p->tensors[0]->data;
    return SQM_OK;
}

static int32_t sqm__choose(const char *const *names, int32_t n, const char *name)
{
    for (int32_t i = 0; i < n; i++)
        if (sqm__same_text(names[i], name)) return i;
    return -1;
}
/* One of the names under `key`; missing: `otherwise`. */
static sqm_result sqm__param_choice(int32_t *choice, const sqm_param *params, int32_t n, const char *key,
                                    const char *const *names, int32_t n_names, int32_t otherwise,
                                    sqm_error *err)
{
    const sqm_param *p = sqm__param(params, n, key);
    *choice = p && p->text ? sqm__choose(names, n_names, p->text) : p ? -1 : otherwise;
    if (*choice < 0)
        SQM__FAIL(err, SQM_E_UNSUPPORTED, 0, "%s = '%s' is unknown", key,
                  p && p->text ? p->text : "(no name)");
    return SQM_OK;
}
/* The one matrix of float32 rows under `key`, its shape in *rows and *cols; NULL when missing. */
static sqm_result sqm__param_matrix(const float **matrix, int32_t *rows, int32_t *cols,
                                    const sqm_param *params, int32_t n, const char *key, sqm_error *err)
{
    const sqm_param *p = sqm__param(params, n, key);
    const sqm_tensor *t = p && p->n_tensors == 1 && p->tensors ? p->tensors[0] : NULL;
    *matrix = NULL;
    *rows = *cols = 0;
    if (!p) return SQM_OK;
    if (!t || t->dtype != SQM_F32 || t->layout != SQM_ROWS || t->ndim != 2)
        SQM__FAIL(err, SQM_E_SHAPE, t ? t->ndim : p->n_tensors, "%s must be one matrix of float32 rows", key);
    if (t->shape[0] < 1 || t->shape[1] < 1)
        SQM__FAIL(err, SQM_E_SHAPE, t->shape[0], "%s is [%d, %d]", key, t->shape[0], t->shape[1]);
    *matrix = (const float *)t->data;
    *rows = t->shape[0];
    *cols = t->shape[1];
    return SQM_OK;
}
/* The one float32 matrix [rows, cols] in panels of 16 rows under `key`; NULL when missing. rows 0: any. */
static sqm_result sqm__param_panels(const float **panels, int32_t *rows, int32_t *cols,
                                    const sqm_param *params, int32_t n, const char *key, sqm_error *err)
{
    const sqm_param *p = sqm__param(params, n, key);
    const sqm_tensor *t = p && p->n_tensors == 1 && p->tensors ? p->tensors[0] : NULL;
    *panels = NULL;
    if (!p) return SQM_OK;
    if (!t || t->dtype != SQM_F32 || t->layout != SQM_PANELS || t->ndim != 2)
        SQM__FAIL(err, SQM_E_SHAPE, t ? t->ndim : p->n_tensors, "%s must be one float32 matrix in panels",
                  key);
    if (t->shape[0] < 1 || t->shape[1] < 1)
        SQM__FAIL(err, SQM_E_SHAPE, t->shape[0], "%s is [%d, %d]", key, t->shape[0], t->shape[1]);
    if (*rows && (t->shape[0] != *rows || t->shape[1] != *cols))
        SQM__FAIL(err, SQM_E_SHAPE, t->shape[0], "%s is [%d, %d], expected [%d, %d]", key, t->shape[0],
                  t->shape[1], *rows, *cols);
    *rows = t->shape[0];
    *cols = t->shape[1];
    *panels = (const float *)t->data;
    return SQM_OK;
}
static const char *const sqm__style_names[] = { "half", "interleaved" };
static const char *const sqm__act_names[SQM_ACT_COUNT] = {
    "none", "silu", "gelu", "gelu_tanh", "relu", "relu2", "quick_gelu", "sigmoid", "tanh", "exp", "softplus",
    "log_sigmoid", "elu1", "log", "sqrt"
};
static const char *const sqm__reduce_names[] = { "sum", "mean", "max" };

/* ---- [MIX.attention] causal softmax attention with grouped heads ------------------------------------------
   s_ij = cap(scale * q_i . k_j + bias)   j <= i, and i - j < window if there is one, or j < keep;
                                          cap(s) = softcap * tanh(s / softcap)
   bias   - slope_h * (i - j) with slopes=@ [heads] (ALiBi); rounded=f: f * (b_j - b_i), where
          b_j = slope_h * j in bfloat16, as Falcon has it
          + b_j with key_bias=1, a number for each key; most=n: only the n keys with the largest b_j count, of
          equal ones those that the quickselect below leaves in front. It runs over all keys of the call,
          hidden ones included, as in the reference: ties, and only they, depend on the call's length
   chunk=n before=m: j is in i's run of n positions (they start at multiples of n) or in the m runs before it
   o_i  = sum_j e^(s_ij - m_i) v_j / (sum_j e^(s_ij - m_i) + e^(sink_h - m_i))            m_i: largest s_ij
        (and sink_h)
   Rows in  [q: heads x head_dim | k: kv_heads x head_dim | v: kv_heads x v_dim | key_bias=1: b: kv_heads],
            positions already applied by the recipe;
   rows out [heads x v_dim]; query head h reads kv head h / (heads / kv_heads). sums=1: behind them [heads]
            with sum_j e^(s_ij - m_i), for recipes that go on with numerator and denominator.
   shared=1 the first v_dim columns of a key are its value: rows have no v, the state holds keys alone (latent
            attention, one kv head: the whole cache is the latent row).
   every=M  rows go on with an entry, [k | v] like the row's own; only those of rows t with (t + 1) % M == 0
            count. They are keys too, for that row and all later ones, whatever the window.
   selected=K  the last K columns of a row are numbers of the keys that it attends to, -1 for none
            ([MIX.select]); with every= they are numbers of entries, and the row's own keys stay all visible.
   State    tiles of 64 positions: [tile][kv head] { keys [4][head_dim][16], values [v_pad / 16][64][16] }
            in float32, float16 or 8-bit codes, a ring of tiles when there is a window, behind the tiles of
            `keep`. Keys and values are thus panels of [KERN]'s dense product. 8-bit codes share a float32
            scale per 32 of a vector, behind the values: { keys [head_dim / 32][64], values [v_pad / 32][64]
            }. Biases of keys [64] stand at the end of a tile; tiles of 64 entries behind all these.
   Order    tiles start at multiples of 64 of the absolute position and are folded in one by one (online
            softmax, Milakov
            & Gimelshein 2018), then entries: a row's result does not depend on how calls or batches are cut.
            Selected keys are gathered 64 at a time in the order of the list.
   Source   Vaswani et al. 2017 (1706.03762), GQA 2305.13245, soft cap 2408.00118, sinks: gpt-oss, ALiBi
            2108.12409, bias of keys: 2506.23115 and its code, where heads of a group share it; latent
            2405.04434, selected keys and entries: DeepSeek-V3.2, -V4 as in transformers.
   Traps    scale multiplies q before the product; the window counts the token itself.
   Tests    tests/test_mix_attention.c; tools/sqm-vectors: sdpa, mask, rope. */
typedef struct sqm__attention {
    int32_t      heads, kv_heads, group, head_dim, v_dim, v_pad, window, in_width;
    int32_t      keep;                  /* first positions that no window hides */
    int32_t      shared, every, selected;
    int32_t      row_width;             /* of the keys and values of a row, or of an entry */
    int32_t      v_stored;              /* columns of values in a tile: v_pad, 0 when shared */
    int32_t      chunk, reach;          /* 0: none; positions of a run and the runs before it */
    int32_t      key_bias, most;
    int32_t      sums, out_width;
    float        scale, softcap, rounded;
    const float *sinks, *slopes;        /* [heads] or NULL */
    const struct sqm__attention_more *more;
} sqm__attention;
/* What most models do without: programs that register sqm_mixer_attention_plain do not link it. */
struct sqm__attention_part;
typedef struct sqm__attention_more {
    sqm_result (*bind)(sqm__attention *a, const sqm_param *params, int32_t n, sqm_error *err);
    void       (*attend)(struct sqm__attention_part *p);
} sqm__attention_more;

/* first bytes of a state: its own shape, never copied between states */
typedef struct sqm__kv_header {
    int32_t   n_tiles;
    sqm_dtype dtype;
    int32_t   n_entry_tiles;
    int32_t   reserved[13];
} sqm__kv_header;

/* Where keys and values come from */
static sqm_result sqm__attention_bind_keys(sqm__attention *a, sqm_error *err)
{
    int64_t row;
    if (a->shared && a->v_dim > a->head_dim)
        SQM__FAIL(err, SQM_E_SHAPE, a->v_dim, "%d columns of values cannot be in keys of %d", a->v_dim,
                  a->head_dim);
    row = (int64_t)a->kv_heads * a->head_dim + (a->shared ? 0 : (int64_t)a->kv_heads * a->v_dim);
    if (row > INT32_MAX / 4)
        SQM__FAIL(err, SQM_E_LIMIT, a->kv_heads, "keys of %d heads are too wide", a->kv_heads);
    a->row_width = (int32_t)row;
    a->v_pad = sqm__ceil_div(a->v_dim, SQM__LANES) * SQM__LANES;
    a->v_stored = a->shared ? 0 : a->v_pad;
    return SQM_OK;
}
static sqm_result sqm__attention_bind_more(sqm__attention *a, const sqm_param *params, int32_t n,
                                           sqm_error *err)
{
    SQM__TRY(sqm__param_int(&a->sums, params, n, "sums", 0, 0, 1, err));
    SQM__TRY(sqm__param_int(&a->shared, params, n, "shared", 0, 0, 1, err));
    SQM__TRY(sqm__param_int(&a->every, params, n, "every", 0, 0, 1 << 20, err));
    SQM__TRY(sqm__param_int(&a->selected, params, n, "selected", 0, 0, 1 << 20, err));
    SQM__TRY(sqm__param_vector(&a->slopes, params, n, "slopes", a->heads, err));
    SQM__TRY(sqm__param_float(&a->rounded, params, n, "rounded", 0.0, err));
    SQM__TRY(sqm__param_int(&a->key_bias, params, n, "key_bias", 0, 0, 1, err));
    SQM__TRY(sqm__param_int(&a->most, params, n, "most", 0, 0, a->key_bias ? INT32_MAX : 0, err));
    if (a->most && a->keep) SQM__FAIL(err, SQM_E_UNSUPPORTED, a->most, "most= does not go with keep=");
    if ((a->slopes || a->key_bias) && (a->shared || a->every || a->selected))
        SQM__FAIL(err, SQM_E_UNSUPPORTED, 0,
                  "slopes= and key_bias= go neither with shared= nor with every= or selected=");
    if (a->selected && !a->every && (a->window || a->chunk))
        SQM__FAIL(err, SQM_E_SHAPE, a->window, "selected keys and a window of %d exclude each other",
                  a->window);
    return SQM_OK;
}
static sqm_result sqm__attention_bind_as(sqm__attention *a, const sqm__attention_more *more,
                                         const sqm_param *params, int32_t n, int32_t in_width,
                                         int32_t *out_width, sqm_error *err)
{
    int64_t width;
    int32_t before;
    memset(a, 0, sizeof(*a));
    a->more = more;
    SQM__TRY(sqm__param_int(&a->heads, params, n, "heads", 0, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&a->kv_heads, params, n, "kv_heads", a->heads, 1, a->heads, err));
    SQM__TRY(sqm__param_int(&a->head_dim, params, n, "head_dim", 0, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&a->v_dim, params, n, "v_dim", a->head_dim, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&a->window, params, n, "window", 0, 0, INT32_MAX - 65536, err));
    SQM__TRY(sqm__param_int(&a->keep, params, n, "keep", 0, 0, a->window ? 1 << 24 : 0, err));
    SQM__TRY(sqm__param_int(&a->chunk, params, n, "chunk", 0, 0, a->window ? 0 : 1 << 23, err));
    SQM__TRY(sqm__param_int(&before, params, n, "before", 0, 0, a->chunk ? 127 : 0, err));
    a->reach = a->chunk * (before + 1);
    if (more) SQM__TRY(more->bind(a, params, n, err));
    SQM__TRY(sqm__attention_bind_keys(a, err));
    SQM__TRY(sqm__param_float(&a->scale, params, n, "scale", 1.0, err));
    SQM__TRY(sqm__param_float(&a->softcap, params, n, "softcap", 0.0, err));
    SQM__TRY(sqm__param_vector(&a->sinks, params, n, "sinks", a->heads, err));
    if (a->sums && a->sinks) SQM__FAIL(err, SQM_E_UNSUPPORTED, a->sums, "sums=1 does not go with sinks");
    if (a->heads % a->kv_heads)
        SQM__FAIL(err, SQM_E_SHAPE, a->heads, "%d heads cannot share %d key/value heads", a->heads,
                  a->kv_heads);
    if (a->softcap < 0.0f)
        SQM__FAIL(err, SQM_E_SHAPE, 0, "softcap = %f must not be negative", (double)a->softcap);
    width = (int64_t)a->heads * a->head_dim + (int64_t)a->row_width * (a->every ? 2 : 1) + a->selected +
            (a->key_bias ? a->kv_heads : 0);
    if (width != in_width)
        SQM__FAIL(err, SQM_E_SHAPE, in_width,
                  "attention with %d + 2 x %d heads of %d does not fit rows of %d", a->heads,
                  a->kv_heads, a->head_dim, in_width);
    a->group = a->heads / a->kv_heads;
    a->in_width = in_width;
    if ((int64_t)a->heads * (a->v_dim + 1) > INT32_MAX)
        SQM__FAIL(err, SQM_E_LIMIT, a->heads, "%d heads of %d are too wide", a->heads, a->v_dim);
    *out_width = a->out_width = a->heads * (a->v_dim + a->sums);
    return SQM_OK;
}

SQM__INLINE size_t sqm__kv_element(sqm_dtype t) { return t == SQM_F32 ? 4 : t == SQM_F16 ? 2 : 1; }
SQM__INLINE size_t sqm__kv_keys_bytes(const sqm__attention *a, sqm_dtype t)
{
    return (size_t)a->head_dim * SQM__TILE_KEYS * sqm__kv_element(t);
}
SQM__INLINE size_t sqm__kv_codes_bytes(const sqm__attention *a, sqm_dtype t)     /* keys and values */
{
    return sqm__kv_keys_bytes(a, t) + (size_t)a->v_stored * SQM__TILE_KEYS * sqm__kv_element(t);
}
SQM__INLINE size_t sqm__kv_tile_bytes(const sqm__attention *a, sqm_dtype t)      /* of one kv head */
{
    const size_t groups = (size_t)(sqm__ceil_div(a->head_dim, SQM__GROUP) + sqm__ceil_div(a->v_stored,
                                                                                          SQM__GROUP));
    return sqm__kv_codes_bytes(a, t) + (t == SQM_I8 ? groups * SQM__TILE_KEYS * sizeof(float) : 0) +
           (a->key_bias ? SQM__TILE_KEYS * sizeof(float) : 0);
}
SQM__INLINE float *sqm__kv_biases(const sqm__attention *a, uint8_t *tile, sqm_dtype t)    /* [64] */
{
    return (float *)(void *)(tile + sqm__kv_tile_bytes(a, t)) - SQM__TILE_KEYS;
}
static int32_t sqm__kv_tiles(const sqm__attention *a, int32_t max_context, int32_t max_batch)
{
    const int64_t all = ((int64_t)max_context + SQM__TILE_KEYS - 1) / SQM__TILE_KEYS;
    const int64_t sight = a->window > 0 ? a->window : a->reach;
    if (sight > 0) {                    /* tiles that sight - 1 earlier keys and a whole batch can touch */
        const int64_t ring = (sight - 1 + max_batch + SQM__TILE_KEYS - 2) / SQM__TILE_KEYS + 1 +
                             sqm__ceil_div(a->keep, SQM__TILE_KEYS);
        if (ring < all) return (int32_t)ring;
    }
    return (int32_t)all;
}
static int32_t sqm__kv_entry_tiles(const sqm__attention *a, int32_t position)
{
    return a->every ? sqm__ceil_div(position / a->every, SQM__TILE_KEYS) : 0;
}
static size_t sqm__attention_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                         sqm_dtype kv_dtype)
{
    const sqm__attention *a = (const sqm__attention *)bound;
    const size_t tile = sqm__kv_tile_bytes(a, kv_dtype) * (size_t)a->kv_heads;
    const size_t tiles = (size_t)sqm__kv_tiles(a, max_context, max_batch) +
                         (size_t)sqm__kv_entry_tiles(a, max_context);
    if (tiles > ((size_t)-1 - sizeof(sqm__kv_header)) / tile) return (size_t)-1;
    return sizeof(sqm__kv_header) + tile * tiles;
}
static size_t sqm__attention_used_bytes(const void *bound, const void *state, int32_t position)
{
    const sqm__attention *a = (const sqm__attention *)bound;
    const sqm__kv_header *kv = (const sqm__kv_header *)state;
    const int32_t entries = sqm__min(kv->n_entry_tiles, sqm__kv_entry_tiles(a, position));
    const int32_t tiles = entries ? kv->n_tiles + entries
        : sqm__min(kv->n_tiles, sqm__ceil_div(position, SQM__TILE_KEYS));
    return sizeof(sqm__kv_header) + sqm__kv_tile_bytes(a, kv->dtype) * (size_t)a->kv_heads * (size_t)tiles;
}
static void sqm__attention_reset(const void *bound, void *state, size_t state_bytes, int32_t max_context,
                                 int32_t max_batch, sqm_dtype kv_dtype)
{
    const sqm__attention *a = (const sqm__attention *)bound;
    sqm__kv_header *kv = (sqm__kv_header *)state;
    (void)state_bytes;
    memset(kv, 0, sizeof(*kv));
    kv->n_tiles = sqm__kv_tiles(a, max_context, max_batch);
    kv->n_entry_tiles = sqm__kv_entry_tiles(a, max_context);
    kv->dtype = kv_dtype;
    if (a->every)                       /* what fork and save copy has no gaps */
        memset((uint8_t *)state + sizeof(*kv), 0,
               sqm__kv_tile_bytes(a, kv_dtype) * (size_t)a->kv_heads * (size_t)kv->n_tiles);
}

/* Query vectors handled together: a block of rows times the query heads of one kv head. */
SQM__INLINE int32_t sqm__attention_block_rows(const sqm__attention *a)
{
    return sqm__max(1, (a->shared ? 64 : 24) / a->group);    /* tiles of shared values are turned for each */
}
/* Scratch of a block out of calls of `rows` rows at most, with `length` keys at most */
static size_t sqm__attention_piece_bytes(const sqm__attention *a, size_t length, int32_t rows)
{
    /* most=: a number and an index of each key, and a bit for each row and key */
    const size_t block = (size_t)sqm__min(sqm__attention_block_rows(a), rows);
    const size_t words = (length + 31) / 32 * block;
    const size_t select = a->most ? length * 2 + words : 0;
    const size_t m = block * (size_t)a->group;
    const size_t panels = (size_t)(sqm__widened(m) * sqm__max(a->head_dim, SQM__TILE_KEYS) * SQM__LANES);
    const size_t bias = a->slopes || a->key_bias ? SQM__TILE_KEYS : 0;
    return (a->selected ? sqm__kv_tile_bytes(a, SQM_F32) : 0) +
        sqm__align_up((panels + m * ((size_t)a->head_dim + (size_t)a->v_pad + SQM__TILE_KEYS + bias + 4) +
                       select) * 4, 64);
}
static size_t sqm__attention_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                           int32_t threads)
{
    return sqm__attention_piece_bytes((const sqm__attention *)bound, (size_t)max_context, max_batch) *
           (size_t)sqm__most_pieces(threads);
}

typedef struct sqm__attention_job {
    const sqm__attention *a;
    const sqm_exec       *x;
    float                *out;
    const float          *in;
    const sqm_span       *spans;
    uint8_t              *scratch;      /* pieces * piece_bytes */
    size_t                piece_bytes;
    int32_t               n_spans, pieces;
} sqm__attention_job;

SQM__INLINE uint8_t *sqm__kv_tile(const sqm__attention *a, void *state, int32_t position, int32_t kv_head)
{
    const sqm__kv_header *kv = (const sqm__kv_header *)state;
    const int32_t kept = sqm__ceil_div(a->keep, SQM__TILE_KEYS), n = position / SQM__TILE_KEYS;
    const size_t tile = (size_t)(n < kv->n_tiles ? n : kept + (n - kept) % (kv->n_tiles - kept));
    return (uint8_t *)state + sizeof(*kv) + sqm__kv_tile_bytes(a, kv->dtype) * (tile * (size_t)a->kv_heads +
            (size_t)kv_head);
}

/* The tile of an entry */
SQM__INLINE uint8_t *sqm__kv_entry(const sqm__attention *a, void *state, int32_t entry, int32_t kv_head)
{
    const sqm__kv_header *kv = (const sqm__kv_header *)state;
    const size_t tile = (size_t)kv->n_tiles + (size_t)(entry / SQM__TILE_KEYS);
    return (uint8_t *)state + sizeof(*kv) + sqm__kv_tile_bytes(a, kv->dtype) * (tile * (size_t)a->kv_heads +
            (size_t)kv_head);
}

/* Writes n <= 32 values as runs of `run` elements that begin `jump` elements
   apart; returns the scale of 8-bit codes. */
static float sqm__kv_store(const sqm__kernels *kernels, uint8_t *to, sqm_dtype dtype, int32_t run,
                           size_t jump,
                           const float *from, int32_t n)
{
    union { uint16_t half[SQM__GROUP]; int8_t code[SQM__GROUP]; } narrow;
    const void *source = from;
    const size_t bytes = sqm__kv_element(dtype);
    float scale = 1.0f;
    int32_t sums[2];
    if (dtype == SQM_F16) { SQM__CALL(kernels, narrow)(narrow.half, from, n); source = narrow.half; }
    if (dtype == SQM_I8) { SQM__CALL(kernels, quantize)(narrow.code, &scale, sums, 1, 0, from,
                                             n); source = narrow.code; }
    for (int32_t i = 0; i < n; i += run)
        memcpy(to + (size_t)(i / run) * jump * bytes, (const uint8_t *)source + (size_t)i * bytes,
               (size_t)sqm__min(run, n - i) * bytes);
    return scale;
}

/* Writes key and value of one kv head to place `at` of a tile; row: keys and values of all kv heads. */
static void sqm__kv_write(const sqm__attention *a, const sqm__kernels *kernels, uint8_t *tile,
                          sqm_dtype dtype, int32_t at, int32_t kv_head, const float *row)
{
    const size_t key = (size_t)(at % SQM__TILE_KEYS), element = sqm__kv_element(dtype);
    const size_t head_dim = (size_t)a->head_dim, v_dim = (size_t)a->v_dim;
    uint8_t *keys = tile, *values = keys + sqm__kv_keys_bytes(a, dtype);
    float *scales = (float *)(void *)(keys + sqm__kv_codes_bytes(a, dtype));
    float *biases = a->key_bias ? sqm__kv_biases(a, keys, dtype) : NULL;
    const float *k = row + (size_t)kv_head * head_dim;
    const float *v = row + (size_t)a->kv_heads * head_dim + (size_t)kv_head * v_dim;
    if (key == 0) memset(keys, 0, sqm__kv_tile_bytes(a, dtype));
    if (biases) biases[key] = row[a->row_width + kv_head];
    keys += (key / SQM__LANES * head_dim * SQM__LANES + key % SQM__LANES) * element;
    for (int32_t i = 0; i < a->head_dim; i += SQM__GROUP, scales += SQM__TILE_KEYS) {
        const float scale = sqm__kv_store(kernels, keys + (size_t)i * SQM__LANES * element, dtype, 1,
                                          SQM__LANES,
                                          k + i, sqm__min(SQM__GROUP, a->head_dim - i));
        if (dtype == SQM_I8) scales[key] = scale;
    }
    values += key * SQM__LANES * element;
    for (int32_t i = 0; !a->shared && i < a->v_dim; i += SQM__GROUP, scales += SQM__TILE_KEYS) {
        const float scale = sqm__kv_store(kernels, values + (size_t)i * SQM__TILE_KEYS * element, dtype,
                                          SQM__LANES,
                                          SQM__TILE_KEYS * SQM__LANES, v + i, sqm__min(SQM__GROUP,
                                                                                       a->v_dim - i));
        if (dtype == SQM_I8) scales[key] = scale;
    }
}
/* All keys, values and entries of a span for one kv head */
static void sqm__kv_write_span(const sqm__attention_job *job, const sqm_span *span, int32_t h)
{
    const sqm__attention *a = job->a;
    const sqm_dtype dtype = ((const sqm__kv_header *)span->state)->dtype;
    for (int32_t t = 0; t < span->rows; t++) {
        const float *row = job->in + (size_t)(span->first_row + t) * (size_t)a->in_width +
            (size_t)a->heads * (size_t)a->head_dim;
        const int32_t at = span->position + t, entry = a->every ? at / a->every : 0;
        sqm__kv_write(a, job->x->kernels, sqm__kv_tile(a, span->state, at, h), dtype, at, h, row);
        if (a->every && (at + 1) % a->every == 0)
            sqm__kv_write(a, job->x->kernels, sqm__kv_entry(a, span->state, entry, h), dtype, entry, h,
                          row + a->row_width);
    }
}
static void sqm__attention_write_task(void *arg, int32_t piece)
{
    const sqm__attention_job *job = (const sqm__attention_job *)arg;
    int32_t unit = 0;
    for (int32_t s = 0; s < job->n_spans; s++)
        for (int32_t h = 0; job->spans[s].state && h < job->a->kv_heads; h++)
            if (unit++ % job->pieces == piece) sqm__kv_write_span(job, &job->spans[s], h);
}

/* acc / sum, with the sink as one more exponential; adding 0 makes every zero positive. out: the row's */
static void sqm__attention_finish(const sqm__attention *a, const sqm__attend *work, const sqm_exec *x,
                                  int32_t m,
                                  int32_t head, float *out)
{
    float *to = out + (size_t)head * (size_t)a->v_dim;
    const float *acc = work->acc + (size_t)m * (size_t)a->v_pad;
    float sum = work->sum[m], shrink = 1.0f;
    if (a->sinks) {
        float e[2];
        const float top = a->sinks[head] > work->max[m] ? a->sinks[head] : work->max[m];
        e[0] = work->max[m] - top;
        e[1] = a->sinks[head] - top;
        SQM__CALL(x->kernels, activate)(e, e, 2, SQM_ACT_EXP);
        shrink = e[0];
        sum = sum * e[0] + e[1];
    }
    for (int32_t i = 0; i < a->v_dim; i++) to[i] = acc[i] * shrink / sum + 0.0f;
    if (a->sums) out[(size_t)a->heads * (size_t)a->v_dim + (size_t)head] = sum;
}

/* Numbers and their places, partly ordered by sqm__quickselect. */
typedef struct sqm__ranked {
    float   *value;
    int32_t *place;
} sqm__ranked;
SQM__INLINE void sqm__ranked_swap(sqm__ranked q, int32_t i, int32_t j)
{
    const float v = q.value[i];
    const int32_t p = q.place[i];
    q.value[i] = q.value[j];
    q.place[i] = q.place[j];
    q.value[j] = v;
    q.place[j] = p;
}
/* Puts the `most` largest of n numbers in front: quickselect, the pivot being the median of the second, the
   middle and the last one, short ranges by insertion. */
static void sqm__quickselect(sqm__ranked q, int32_t n, int32_t most)
{
    int32_t first = 0, last = n;
    while (last - first > 3) {
        const int32_t a = first + 1, b = first + (last - first) / 2, c = last - 1;
        const float va = q.value[a], vb = q.value[b], vc = q.value[c];
        int32_t low = first + 1, high = last;
        if (va > vb) sqm__ranked_swap(q, first, vb > vc ? b : va > vc ? c : a);
        else sqm__ranked_swap(q, first, va > vc ? a : vb > vc ? c : b);
        for (;;) {
            while (q.value[low] > q.value[first]) low++;
            high--;
            while (q.value[first] > q.value[high]) high--;
            if (low >= high) break;
            sqm__ranked_swap(q, low++, high);
        }
        if (low <= most - 1) first = low;
        else last = low;
    }
    for (int32_t i = first + 1; i < last; i++)
        for (int32_t j = i; j > first && q.value[j] > q.value[j - 1]; j--) sqm__ranked_swap(q, j, j - 1);
}
/* bits [length / 32]: the keys that a query at `position` meets, which sees those from `oldest` on */
static void sqm__most_keys(const sqm__attention *a, void *state, int32_t kv_head, int32_t oldest,
                           int32_t position, int32_t length, sqm__ranked q, uint32_t *bits)
{
    const size_t words = ((size_t)length + 31) / 32;
    memset(bits, position + 1 - oldest > a->most ? 0 : 0xff, words * sizeof(*bits));
    if (position + 1 - oldest <= a->most) return;
    for (int32_t j = 0; j < length; j++) {
        q.value[j] = -3.4e38f;
        q.place[j] = j;
    }
    for (int32_t key = oldest / SQM__TILE_KEYS * SQM__TILE_KEYS; key <= position; key += SQM__TILE_KEYS) {
        const float *b = sqm__kv_biases(a, sqm__kv_tile(a, state, key, kv_head),
                                        ((const sqm__kv_header *)state)->dtype);
        for (int32_t i = sqm__max(0, oldest - key); i < sqm__min(SQM__TILE_KEYS, position + 1 - key); i++)
            q.value[key + i] = b[i] > -3.4e38f ? b[i] : -3.4e38f;      /* NaN too */
    }
    sqm__quickselect(q, length, a->most);
    for (int32_t k = 0; k < a->most; k++) bits[q.place[k] / 32] |= 1u << (q.place[k] % 32);
}

SQM__INLINE float sqm__round_bf16(float v) { return sqm__bf16_to_f32(sqm__f32_to_bf16(v)); }

/* What is added to the scores of a block's queries [n_vectors] with the keys of one tile. */
static void sqm__attention_bias(const sqm__attention *a, const sqm__attend *work, float *bias, uint8_t *tile,
                                int32_t key, int32_t kv_head, const uint32_t *bits, size_t words)
{
    const float *biases = a->key_bias ? sqm__kv_biases(a, tile, work->dtype) : NULL;
    for (int32_t m = 0; m < work->n_vectors; m++, bias += SQM__TILE_KEYS) {
        const float slope = a->slopes ? a->slopes[kv_head * a->group + m % a->group] : 0.0f;
        const int32_t distance = work->position[m] - key;
        const float here = a->rounded != 0.0f
            ? sqm__round_bf16(slope * sqm__round_bf16((float)work->position[m])) : 0.0f;
        for (int32_t i = 0; i < SQM__TILE_KEYS; i++) {
            bias[i] = -slope * (float)(distance - i);
            if (a->rounded != 0.0f)
                bias[i] = (sqm__round_bf16(slope * sqm__round_bf16((float)(key + i))) - here) * a->rounded;
            if (biases) bias[i] += biases[i];
        }
        for (int32_t i = 0; bits && i < SQM__TILE_KEYS; i++) {
            const size_t word = (size_t)(key + i) / 32;
            if (word >= words || !(bits[(size_t)(m / a->group) * words + word] >> ((key + i) % 32) & 1u))
                bias[i] = -3.0e38f;
        }
    }
}

/* The first key that a query at this position sees, but for those of `keep`. */
SQM__INLINE int32_t sqm__attention_oldest(const sqm__attention *a, int32_t position)
{
    if (a->window > 0) return sqm__max(0, position - a->window + 1);
    return a->chunk ? sqm__max(0, position / a->chunk * a->chunk - (a->reach - a->chunk)) : 0;
}

/* Lays the work of a block out in its scratch: n queries, of one kv head, the first one's row at `start`. */
static void sqm__attention_begin(const sqm__attention *a, sqm__attend *work, float *floats,
                                 const float *q_rows, int32_t n, int32_t start)
{
    const size_t capacity = (size_t)n;
    int32_t *position, *oldest;
    memset(work, 0, sizeof(*work));
    work->panels = floats;
    floats += sqm__widened(capacity) * sqm__max(a->head_dim, SQM__TILE_KEYS) * SQM__LANES;
    work->q = floats;                    floats += capacity * (size_t)a->head_dim;
    work->acc = floats;                  floats += capacity * (size_t)a->v_pad;
    work->scores = floats;               floats += capacity * SQM__TILE_KEYS;
    work->max = floats;                  floats += capacity;
    work->sum = floats;                  floats += capacity;
    position = (int32_t *)(void *)floats;
    oldest = position + capacity;
    work->position = position;
    work->oldest = oldest;
    work->n_vectors = n;
    work->head_dim = a->head_dim;
    work->v_pad = a->v_pad;
    work->keep = a->keep;
    work->shared = a->shared;
    work->softcap = a->softcap;
    memset(work->acc, 0, (size_t)n * (size_t)a->v_pad * sizeof(float));
    for (int32_t m = 0; m < n; m++) {
        const int32_t t = m / a->group;
        const float *q = q_rows + (size_t)t * (size_t)a->in_width +
            (size_t)(m % a->group) * (size_t)a->head_dim;
        float *to = work->q + (size_t)m * (size_t)a->head_dim;
        for (int32_t i = 0; i < a->head_dim; i++) to[i] = q[i] * a->scale;
        work->max[m] = -3.0e38f;
        work->sum[m] = 0.0f;
        position[m] = start + t;
        oldest[m] = sqm__attention_oldest(a, start + t);
    }
}

/* Copies the key and value at place `at` of a tile to place `to` of another. */
static void sqm__kv_copy(const sqm__attention *a, uint8_t *to_tile, int32_t to, const uint8_t *from_tile,
                         int32_t at, sqm_dtype dtype)
{
    const size_t element = sqm__kv_element(dtype), lane = SQM__LANES * element, dim = (size_t)a->head_dim;
    const size_t from = (size_t)(at % SQM__TILE_KEYS), place = (size_t)to;
    const uint8_t *k = from_tile + (from / SQM__LANES * dim * SQM__LANES + from % SQM__LANES) * element;
    uint8_t *to_k = to_tile + (place / SQM__LANES * dim * SQM__LANES + place % SQM__LANES) * element;
    const size_t keys = sqm__kv_keys_bytes(a, dtype), codes = sqm__kv_codes_bytes(a, dtype);
    const size_t all = sqm__kv_tile_bytes(a, dtype);
    for (size_t i = 0; i < dim; i++) memcpy(to_k + i * lane, k + i * lane, element);
    for (size_t i = keys; i < codes; i += SQM__TILE_KEYS * lane)
        memcpy(to_tile + i + place * lane, from_tile + i + from * lane, lane);
    for (size_t i = codes; i < all; i += SQM__TILE_KEYS * sizeof(float))
        memcpy(to_tile + i + place * sizeof(float), from_tile + i + from * sizeof(float), sizeof(float));
}

/* A block of rows [first, first + rows) of a span for the query heads of one kv head, while it runs */
typedef struct sqm__attention_part {
    const sqm__attention_job *job;
    const sqm_span           *span;
    int32_t                  *positions, *oldest;   /* of work */
    uint8_t                  *tile;        /* room for gathered keys, with selected= */
    float                    *bias;        /* of work, when there is one */
    uint32_t                 *bits;        /* [rows][words] with most=: a bit for each key that counts */
    size_t                    words;
    sqm__attend               work;
    int32_t                   kv_head, first, rows;
} sqm__attention_part;

SQM__INLINE const float *sqm__attention_row(const sqm__attention_part *p, int32_t t)
{
    return p->job->in + (size_t)(p->span->first_row + p->first + t) * (size_t)p->job->a->in_width;
}
static void sqm__attention_start(sqm__attention_part *p, uint8_t *scratch)
{
    const sqm__attention *a = p->job->a;
    const size_t capacity = (size_t)p->rows * (size_t)a->group;
    p->tile = scratch;
    sqm__attention_begin(a, &p->work,
                         (float *)(void *)(a->selected ? scratch + sqm__kv_tile_bytes(a, SQM_F32) : scratch),
                         sqm__attention_row(p, 0) + (size_t)(p->kv_head * a->group) * (size_t)a->head_dim,
                         p->rows * a->group, p->span->position + p->first);
    p->work.dtype = ((const sqm__kv_header *)p->span->state)->dtype;
    p->positions = (int32_t *)(void *)(p->work.sum + capacity);
    p->oldest = p->positions + capacity;
}
/* bias: writes work.bias for a tile of keys; NULL: there is none */
static void sqm__attend_keys(sqm__attention_part *p,
                             void (*bias)(const sqm__attention_part *p, uint8_t *keys, int32_t key))
{
    const sqm__attention *a = p->job->a;
    const int32_t start = p->span->position + p->first, last = start + p->rows - 1;
    const int32_t oldest = sqm__attention_oldest(a, start);
    for (int32_t key = 0; key <= last; key += SQM__TILE_KEYS) {
        /* from the kept tiles to the window */
        if (key >= a->keep && key < oldest) key = oldest / SQM__TILE_KEYS * SQM__TILE_KEYS;
        uint8_t *keys = sqm__kv_tile(a, p->span->state, key, p->kv_head);
        if (bias) bias(p, keys, key);
        SQM__CALL(p->job->x->kernels, attend_tile)(&p->work, keys, key,
                                                   sqm__min(SQM__TILE_KEYS, last + 1 - key));
    }
}
static void sqm__part_bias(const sqm__attention_part *p, uint8_t *keys, int32_t key)
{
    sqm__attention_bias(p->job->a, &p->work, p->bias, keys, key, p->kv_head, p->bits, p->words);
}
static void sqm__attend_biased(sqm__attention_part *p)
{
    const sqm__attention *a = p->job->a;
    const int32_t start = p->span->position + p->first;
    const int32_t length = sqm__max(p->span->total, p->span->position + p->span->rows);
    const size_t vectors = (size_t)p->rows * (size_t)a->group;
    sqm__ranked ranked;
    p->words = ((size_t)length + 31) / 32;
    p->bias = p->work.sum + 3 * vectors;                           /* behind positions and oldest */
    p->work.bias = p->bias;
    if (a->most) {
        ranked.value = p->bias + vectors * SQM__TILE_KEYS;
        ranked.place = (int32_t *)(void *)(ranked.value + length);
        p->bits = (uint32_t *)(void *)(ranked.place + length);
        for (int32_t t = 0; t < p->rows; t++)
            sqm__most_keys(a, p->span->state, p->kv_head, p->oldest[t * a->group], start + t, length, ranked,
                           p->bits + (size_t)t * p->words);
    }
    sqm__attend_keys(p, sqm__part_bias);
}
static void sqm__attend_entries(sqm__attention_part *p)
{
    const sqm__attention *a = p->job->a;
    const int32_t n = (p->span->position + p->first + p->rows) / a->every;
    p->work.keep = 0;
    for (int32_t m = 0; m < p->work.n_vectors; m++) {
        p->positions[m] = (p->span->position + p->first + m / a->group + 1) / a->every - 1;
        p->oldest[m] = 0;
    }
    for (int32_t entry = 0; entry < n; entry += SQM__TILE_KEYS)
        SQM__CALL(p->job->x->kernels, attend_tile)(&p->work, sqm__kv_entry(a, p->span->state, entry,
                                                   p->kv_head), entry,
                                        sqm__min(SQM__TILE_KEYS, n - entry));
}
/* Row t over the keys or entries that it lists */
static void sqm__attend_listed(sqm__attention_part *p, int32_t t)
{
    const sqm__attention *a = p->job->a;
    const float *list = sqm__attention_row(p, t) + (a->in_width - a->selected);
    const int32_t seen = p->span->position + p->first + t + 1, n = a->every ? seen / a->every : seen;
    const size_t m = (size_t)t * (size_t)a->group;
    sqm__attend work = p->work;
    int32_t filled = 0;
    work.q += m * (size_t)a->head_dim;
    work.acc += m * (size_t)a->v_pad;
    work.scores += m * SQM__TILE_KEYS;
    work.max += m;
    work.sum += m;
    work.position += m;
    work.oldest += m;
    work.n_vectors = a->group;
    work.keep = 0;
    for (int32_t i = 0; i < a->group; i++) {            /* sees them all */
        p->positions[m + (size_t)i] = SQM__TILE_KEYS;
        p->oldest[m + (size_t)i] = 0;
    }
    for (int32_t i = 0; i < a->selected; i++) {
        if (list[i] >= 0.0f && (double)list[i] < (double)n) {
            const int32_t key = (int32_t)list[i];
            if (filled == 0) memset(p->tile, 0, sqm__kv_tile_bytes(a, work.dtype));
            sqm__kv_copy(a, p->tile, filled++, a->every ? sqm__kv_entry(a, p->span->state, key, p->kv_head)
                         : sqm__kv_tile(a, p->span->state, key, p->kv_head), key, work.dtype);
        }
        if (filled == SQM__TILE_KEYS || (filled && i + 1 == a->selected)) {
            SQM__CALL(p->job->x->kernels, attend_tile)(&work, p->tile, 0, filled);
            filled = 0;
        }
    }
}
static void sqm__attend_more(sqm__attention_part *p)
{
    const sqm__attention *a = p->job->a;
    if (a->slopes || a->key_bias) sqm__attend_biased(p);
    else if (!a->selected || a->every) sqm__attend_keys(p, NULL);
    if (!a->selected && a->every) sqm__attend_entries(p);
    for (int32_t t = 0; a->selected && t < p->rows; t++) sqm__attend_listed(p, t);
}
static void sqm__attention_block(const sqm__attention_job *job, uint8_t *scratch, const sqm_span *span,
                                 int32_t kv_head, int32_t first, int32_t rows)
{
    const sqm__attention *a = job->a;
    sqm__attention_part p;
    memset(&p, 0, sizeof(p));
    p.job = job; p.span = span; p.kv_head = kv_head; p.first = first; p.rows = rows;
    sqm__attention_start(&p, scratch);
    if (a->more) a->more->attend(&p);
    else sqm__attend_keys(&p, NULL);
    for (int32_t m = 0; m < p.work.n_vectors; m++) {
        const int32_t t = m / a->group, head = kv_head * a->group + m % a->group;
        sqm__attention_finish(a, &p.work, job->x, m, head, job->out +
                              (size_t)(span->first_row + first + t) * (size_t)a->out_width);
    }
}
static void sqm__attention_task(void *arg, int32_t piece)
{
    const sqm__attention_job *job = (const sqm__attention_job *)arg;
    const int32_t block = sqm__attention_block_rows(job->a);
    uint8_t *scratch = job->scratch + job->piece_bytes * (size_t)piece;
    int32_t unit = 0;
    for (int32_t s = 0; s < job->n_spans; s++)
        for (int32_t first = 0; job->spans[s].state && first < job->spans[s].rows; first += block)
            for (int32_t h = 0; h < job->a->kv_heads; h++)
                if (unit++ % job->pieces == piece)
                    sqm__attention_block(job, scratch, &job->spans[s], h, first, sqm__min(block,
                            job->spans[s].rows - first));
}

/* A span without state gets one of its own rows' size in the scratch, behind the pieces. */
static sqm_result sqm__attention_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                         const sqm_span *spans, int32_t n_spans)
{
    const sqm__attention *a = (const sqm__attention *)bound;
    sqm__attention_job job;
    size_t work = 0, pieces_bytes;
    int32_t rows = 0, kept = 0, longest = 0;   /* spans with a state: all of them at once, after the others */
    int32_t most_rows = 1;
    for (int32_t s = 0; s < n_spans; s++) {
        longest = sqm__max(longest, sqm__max(spans[s].total, spans[s].position + spans[s].rows));
        most_rows = sqm__max(most_rows, spans[s].rows);
    }
    job.a = a; job.x = x; job.out = out; job.in = in; job.scratch = x->scratch;
    job.piece_bytes = sqm__attention_piece_bytes(a, (size_t)longest, most_rows);
    pieces_bytes = job.piece_bytes * (size_t)sqm__most_pieces(x->threads);
    for (int32_t s = 0; s < n_spans; s++) {
        sqm_span span = spans[s];
        size_t need = pieces_bytes;
        if (!span.state) need += sqm__attention_state_bytes(a, span.rows, span.rows, SQM_F32);
        if (need > x->scratch_bytes || !x->scratch)
            SQM__FAIL(&x->error, SQM_E_MEMORY, need,
                      "attention needs %z bytes of scratch, the context has %z",
                      (uint64_t)need, (uint64_t)x->scratch_bytes);
        work += (size_t)span.rows * ((size_t)span.position +
                                     (size_t)span.rows) * (size_t)(a->head_dim * a->heads) * 2;
        kept += span.state != NULL;
        rows += span.rows;
        if (span.state) continue;
        if (span.position != 0)
            SQM__FAIL(&x->error, SQM_E_ARGUMENT, span.position,
                      "a span without state must start at position 0, not %d",
                      span.position);
        span.state = x->scratch + pieces_bytes;
        sqm__attention_reset(a, span.state, 0, span.rows, span.rows, SQM_F32);
        job.spans = &span;
        job.n_spans = 1;
        job.pieces = x->threads;
        sqm__run(x, sqm__attention_write_task, &job, job.pieces);
        sqm__run(x, sqm__attention_task, &job, job.pieces);
    }
    if (!kept) return SQM_OK;
    job.spans = spans;
    job.n_spans = n_spans;
    job.pieces = sqm__pieces(x, (size_t)rows * (size_t)a->in_width * 8);
    sqm__run(x, sqm__attention_write_task, &job, job.pieces);
    job.pieces = sqm__fine_pieces(x, work);
    sqm__run(x, sqm__attention_task, &job, job.pieces);
    return SQM_OK;
}

static const sqm__attention_more sqm__attention_all = { sqm__attention_bind_more, sqm__attend_more };
static sqm_result sqm__attention_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                      int32_t *out_width, sqm_error *err)
{
    return sqm__attention_bind_as((sqm__attention *)bound, &sqm__attention_all, params, n, in_width,
                                  out_width, err);
}
static sqm_result sqm__attention_bind_plain(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                            int32_t *out_width, sqm_error *err)
{
    return sqm__attention_bind_as((sqm__attention *)bound, NULL, params, n, in_width, out_width, err);
}
static const sqm_mixer sqm__attention_mixer = {
    "attention", "heads kv_heads head_dim v_dim scale softcap window keep sinks chunk before slopes rounded "
    "key_bias most shared every selected sums", sizeof(sqm__attention),
    SQM_MIXER_CAUSAL | SQM_MIXER_STATE_GROWS, sizeof(sqm__kv_header), sqm__attention_bind,
        sqm__attention_state_bytes,
    sqm__attention_used_bytes, sqm__attention_scratch_bytes, sqm__attention_reset, sqm__attention_forward
};
SQMDEF const sqm_mixer *sqm_mixer_attention(void) { return &sqm__attention_mixer; }
static const sqm_mixer sqm__attention_plain_mixer = {
    "attention", "heads kv_heads head_dim v_dim scale softcap window keep sinks chunk before",
    sizeof(sqm__attention), SQM_MIXER_CAUSAL | SQM_MIXER_STATE_GROWS, sizeof(sqm__kv_header),
    sqm__attention_bind_plain, sqm__attention_state_bytes, sqm__attention_used_bytes,
    sqm__attention_scratch_bytes, sqm__attention_reset, sqm__attention_forward
};
SQMDEF const sqm_mixer *sqm_mixer_attention_plain(void) { return &sqm__attention_plain_mixer; }

/* ---- [MIX.conv] short depthwise convolution ---------------------------------------------------------------
   y_t[c] = act(b[c] + sum_k w[k][c] x_(t + (k - K + 1 + future) * dilation)[c])           k = 0 .. K - 1
   conv        future = 0: causal; rows before the first one are zeros.
   conv_whole  future = (K - 1) / 2 unless given: looks ahead, needs the whole sequence, zeros at both ends.
               columns = C: the rows are a picture of C columns, row-major; across = A: the K taps are K / A
               lines of A taps, centred. Zeros around the picture.
   Rows in  columns first .. first + channels - 1 of wider rows;        rows out  [channels], with rest=1
            followed by the columns behind them, unchanged
   Weights  w [K, channels], tap 0 the oldest, no flip (a correlation, as torch.nn.Conv1d);  b [channels]
   State    ring of (K - 1) * dilation rows: the inputs before bias and activation, position p in row
            p % length.
   Order    bias, then taps in increasing k, one chain of fused multiply-adds for each channel.
   Source   Mamba (2312.00752), Hydra (2407.09941), VMamba (2401.10166), H3's shift and RWKV's token shift
            with weights 0 and 1.
   Traps    checkpoints hold w as [channels, 1, K]: the converter transposes. Kernels longer than 64 taps
            belong to a long convolution.
   Tests    tests/test_mix_ssm.c; tools/sqm-vectors: mamba1_block, mamba2_block, hydra_block, ss2d. */
enum { SQM__MAX_TAPS = 64 };
typedef struct sqm__conv {
    int32_t      channels, taps, past, dilation, act, first, rest, in_width;
    int32_t      history;               /* rows of the ring */
    int32_t      columns, across;       /* picture; 0: none */
    const float *weights, *bias;        /* [taps, channels], [channels] or NULL */
} sqm__conv;

static sqm_result sqm__conv_bind_common(sqm__conv *c, const sqm_param *params, int32_t n, int32_t in_width,
                                        int32_t *out_width, sqm_error *err)
{
    memset(c, 0, sizeof(*c));
    SQM__TRY(sqm__param_matrix(&c->weights, &c->taps, &c->channels, params, n, "w", err));
    if (!c->weights) SQM__FAIL(err, SQM_E_SHAPE, 0, "conv needs its weights in w=");
    if (c->taps > SQM__MAX_TAPS)
        SQM__FAIL(err, SQM_E_SHAPE, c->taps, "conv of %d taps: at most %d", c->taps, SQM__MAX_TAPS);
    SQM__TRY(sqm__param_int(&c->first, params, n, "first", 0, 0, in_width - 1, err));
    if (c->channels > in_width - c->first)
        SQM__FAIL(err, SQM_E_SHAPE, c->channels, "conv of %d channels from column %d does not fit rows of %d",
                  c->channels, c->first, in_width);
    SQM__TRY(sqm__param_vector(&c->bias, params, n, "b", c->channels, err));
    SQM__TRY(sqm__param_choice(&c->act, params, n, "act", sqm__act_names, SQM_ACT_COUNT, SQM_ACT_NONE, err));
    SQM__TRY(sqm__param_int(&c->dilation, params, n, "dilation", 1, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&c->rest, params, n, "rest", 0, 0, 1, err));
    if (c->rest) c->rest = in_width - c->first - c->channels;
    c->past = c->taps - 1;
    c->history = c->past * c->dilation;
    c->in_width = in_width;
    *out_width = c->channels + c->rest;
    return SQM_OK;
}
static sqm_result sqm__conv_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                 int32_t *out_width, sqm_error *err)
{
    return sqm__conv_bind_common((sqm__conv *)bound, params, n, in_width, out_width, err);
}
static sqm_result sqm__conv_whole_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                       int32_t *out_width, sqm_error *err)
{
    sqm__conv *c = (sqm__conv *)bound;
    int32_t future, odd;
    SQM__TRY(sqm__conv_bind_common(c, params, n, in_width, out_width, err));
    SQM__TRY(sqm__param_int(&c->columns, params, n, "columns", 0, 0, 1 << 24, err));
    SQM__TRY(sqm__param_int(&c->across, params, n, "across", c->columns ? 1 : 0, c->columns ? 1 : 0,
                            c->columns ? c->taps : 0, err));
    SQM__TRY(sqm__param_int(&future, params, n, "future", (c->taps - 1) / 2, 0, c->taps - 1, err));
    odd = c->columns ? c->taps % c->across == 0 && c->across % 2 && c->taps / c->across % 2 : c->taps % 2;
    if (!odd && (c->columns || !sqm__param(params, n, "future")))
        SQM__FAIL(err, SQM_E_SHAPE, c->taps, "%d taps, %d across: a centred conv needs odd sizes", c->taps,
                  c->columns ? c->across : c->taps);
    c->past = c->taps - 1 - future;
    c->history = 0;
    return SQM_OK;
}

static size_t sqm__conv_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                    sqm_dtype kv_dtype)
{
    const sqm__conv *c = (const sqm__conv *)bound;
    (void)max_context; (void)max_batch; (void)kv_dtype;
    if (c->history > 0 && (size_t)c->channels > (size_t)-1 / sizeof(float) / (size_t)c->history)
        return (size_t)-1;
    return (size_t)c->history * (size_t)c->channels * sizeof(float);
}
static size_t sqm__conv_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state; (void)position;
    return sqm__conv_state_bytes(bound, 0, 0, SQM_F32);
}
static size_t sqm__conv_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                      int32_t threads)
{
    (void)bound; (void)max_context; (void)max_batch; (void)threads;
    return 0;
}
static void sqm__conv_reset(const void *bound, void *state, size_t state_bytes, int32_t max_context,
                            int32_t max_batch, sqm_dtype kv_dtype)
{
    (void)state_bytes; (void)max_context; (void)max_batch; (void)kv_dtype;
    if (state) memset(state, 0, sqm__conv_state_bytes(bound, 0, 0, SQM_F32));
}

/* Input row `t` of a span (t < 0: from before it), or NULL for one outside the sequence. */
static const float *sqm__conv_input(const sqm__conv *c, const float *in, const sqm_span *span, int64_t t)
{
    if (t >= span->rows) return NULL;
    if (t >= 0) return in + (size_t)(span->first_row + t) * (size_t)c->in_width + c->first;
    if (!span->state || c->history == 0) return NULL;
    t = ((int64_t)span->position + t) % c->history;
    return (const float *)span->state + (size_t)(t < 0 ? t + c->history : t) * (size_t)c->channels;
}

/* The inputs of the taps of row t of a span */
static void sqm__conv_inputs(const sqm__conv *c, const float **rows, const float *in, const sqm_span *span,
                             int32_t t)
{
    for (int32_t k = 0; k < c->taps; k++) {
        if (c->columns) {
            const int32_t up = k / c->across - c->taps / c->across / 2, side = k % c->across - c->across / 2;
            const int64_t x = t % c->columns + (int64_t)side * c->dilation;
            const int64_t y = t / c->columns + (int64_t)up * c->dilation;
            rows[k] = x < 0 || x >= c->columns || y < 0 ? NULL
                    : sqm__conv_input(c, in, span, y * c->columns + x);
        } else {
            rows[k] = sqm__conv_input(c, in, span, t + ((int64_t)k - c->past) * c->dilation);
        }
    }
}

typedef struct sqm__conv_job {
    const sqm__conv *c;
    const sqm_exec  *x;
    float           *out;
    const float     *in;
    const sqm_span  *spans;
    int32_t          n_spans, n_rows, pieces;
} sqm__conv_job;

static void sqm__conv_task(void *arg, int32_t piece)
{
    const sqm__conv_job *job = (const sqm__conv_job *)arg;
    const sqm__conv *c = job->c;
    const int32_t first = sqm__cut(job->n_rows, piece, job->pieces);
    const int32_t last = sqm__cut(job->n_rows, piece + 1, job->pieces);
    const float *rows[SQM__MAX_TAPS];
    int32_t before = 0;                 /* rows of the spans before this one */
    sqm__taps taps;
    taps.rows = rows;
    taps.weights = c->weights;
    taps.bias = c->bias;
    taps.n_taps = c->taps;
    taps.n = c->channels;
    for (int32_t s = 0; s < job->n_spans; before += job->spans[s].rows, s++) {
        const sqm_span *span = &job->spans[s];
        const int32_t to = sqm__min(last - before, span->rows);
        for (int32_t t = sqm__max(first - before, 0); t < to; t++) {
            const size_t row = (size_t)(span->first_row + t);
            float *y = job->out + row * (size_t)(c->channels + c->rest);
            sqm__conv_inputs(c, rows, job->in, span, t);
            SQM__CALL(job->x->kernels, conv_row)(y, &taps);
            if (c->act != SQM_ACT_NONE) SQM__CALL(job->x->kernels, activate)(y, y, (size_t)c->channels,
                                                                             c->act);
            memcpy(y + c->channels, job->in + row * (size_t)c->in_width + c->first + c->channels,
                   (size_t)c->rest * sizeof(float));
        }
    }
}

static sqm_result sqm__conv_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                    const sqm_span *spans, int32_t n_spans)
{
    const sqm__conv *c = (const sqm__conv *)bound;
    sqm__conv_job job;
    job.c = c; job.x = x; job.out = out; job.in = in; job.spans = spans; job.n_spans = n_spans;
    job.n_rows = 0;
    for (int32_t s = 0; s < n_spans; s++) job.n_rows += spans[s].rows;
    job.pieces = sqm__min(job.n_rows, sqm__pieces(x, (size_t)job.n_rows * (size_t)c->channels *
                                                     (size_t)(c->taps + (c->act != SQM_ACT_NONE ? 16 : 0))));
    sqm__run(x, sqm__conv_task, &job, job.pieces);
    for (int32_t s = 0; s < n_spans; s++) {     /* the last rows into the ring, when nobody reads it */
        float *ring = (float *)spans[s].state;
        for (int32_t t = sqm__max(0, spans[s].rows - c->history); ring && t < spans[s].rows; t++)
            memcpy(ring + (size_t)(((int64_t)spans[s].position + t) % c->history) * (size_t)c->channels,
                   sqm__conv_input(c, in, &spans[s], t), (size_t)c->channels * sizeof(float));
    }
    return SQM_OK;
}

static const sqm_mixer sqm__conv_mixer = {
    "conv", "w b act first rest dilation", sizeof(sqm__conv), SQM_MIXER_CAUSAL, 0, sqm__conv_bind,
    sqm__conv_state_bytes, sqm__conv_used_bytes, sqm__conv_scratch_bytes, sqm__conv_reset, sqm__conv_forward
};
static const sqm_mixer sqm__conv_whole_mixer = {
    "conv_whole", "w b act first rest dilation future columns across", sizeof(sqm__conv),
    SQM_MIXER_WHOLE_ONLY, 0, sqm__conv_whole_bind, sqm__conv_state_bytes, sqm__conv_used_bytes,
    sqm__conv_scratch_bytes, sqm__conv_reset, sqm__conv_forward
};
SQMDEF const sqm_mixer *sqm_mixer_conv(void) { return &sqm__conv_mixer; }
SQMDEF const sqm_mixer *sqm_mixer_conv_whole(void) { return &sqm__conv_whole_mixer; }

/* Runs a mixer's spans: those without state one by one with a fresh one in the scratch behind the `fixed`
   bytes that run() uses itself, then all others in one call. run() skips spans without state. */
typedef void (*sqm__spans_run)(const void *bound, sqm_exec *x, float *out, const float *in,
                               const sqm_span *spans, int32_t n_spans);
static sqm_result sqm__run_spans(const sqm_mixer *mixer, const void *bound, sqm_exec *x, float *out,
                                 const float *in, const sqm_span *spans, int32_t n_spans, size_t fixed,
                                 sqm__spans_run run)
{
    int32_t kept = 0;
    fixed = sqm__align_up(fixed, 64);
    for (int32_t s = 0; s < n_spans; s++) {
        sqm_span span = spans[s];
        const size_t state = span.state ? 0 : mixer->state_bytes(bound, span.rows, span.rows, SQM_F32);
        if ((!x->scratch && (fixed || state)) || fixed > x->scratch_bytes || state > x->scratch_bytes - fixed)
            SQM__FAIL(&x->error, SQM_E_MEMORY, fixed + state,
                      "%s needs %z bytes of scratch, the context has %z", mixer->name,
                      (uint64_t)fixed + (uint64_t)state, (uint64_t)x->scratch_bytes);
        kept += span.state != NULL;
        if (span.state) continue;
        if (span.position != 0)
            SQM__FAIL(&x->error, SQM_E_ARGUMENT, span.position,
                      "a span without state must start at position 0, not %d", span.position);
        span.state = x->scratch + fixed;
        mixer->reset(bound, span.state, state, span.rows, span.rows, SQM_F32);
        run(bound, x, out, in, &span, 1);
    }
    if (kept) run(bound, x, out, in, spans, n_spans);
    return SQM_OK;
}
/* Bytes of `floats` floats for each of `pieces`; what no address space holds
   becomes a size that no arena and no scratch grants. */
static size_t sqm__pieces_bytes(size_t floats, int32_t pieces)
{
    const size_t most = (size_t)-1 - 63;
    return floats > most / sizeof(float) / (size_t)pieces ? most : floats * sizeof(float) * (size_t)pieces;
}
/* The next `floats` of a work area, in whole vectors; base NULL: only counts. */
static float *sqm__take(float *base, size_t *used, size_t floats)
{
    float *p = base ? base + *used : NULL;
    *used += sqm__align_up(floats, SQM__LANES);
    return p;
}

/* ---- [MIX.memory] test-time memory: a small network that learns while it reads --------------------------
   Each head owns a network M; every token teaches it k -> v by one step of an optimiser and reads it at q.
   Network   linear  M(x) = x W                         mlp  M(x) = act(x W_in) W_out
             gated   M(x) = (act(x W_in) * x W_gate) W_out
             residual=1 adds x; bias=1 gives every layer one more row, whose input is the constant 1.
   Loss      l2  |M(k) - v|^2      dot  -M(k) . v      norm  1/2 |LN(M(k)) - (v - k)|^2, LN with gain and bias
   Gradient  G_t = sum over lag < window of weight_t,lag * gradient of the loss of token t - lag, at the
             anchor: the weights at the start of t's chunk (chunk=1: just before t).
   Update    descent   M = retain_t M - rate_t G_t
             momentum  S = momentum_t S - rate_t G_t;  M = retain_t M + S
             muon      S = momentum_t S - G_t;         M = retain_t M + rate_t NS(S)
             sum       S = S - rate_t G_t within the chunk; what is read is M + step_i S, i = t mod chunk; at
                       the chunk's end that becomes M
             NS: S / (|S| + 1e-7), then 5 times X = 3.4445 X - 4.775 (XX') X + 2.0315 (XX')^2 X; by matrix.
   Read      y_t = M_t(q_t), after the update; loss norm: y_t = q_t + LN(M_t(q_t)).
   Rows in   [q: heads x head_dim | k: heads x head_dim | v: heads x v_dim | rate: heads | retain: heads |
             momentum: heads | weights: heads x window, the token's own first]. rate=0, retain=0 and weights=0
             leave these columns out: they are 1. Defaults: rate and retain are there (retain not for sum),
             momentum is for momentum and muon, weights are with window > 1.
   Rows out  [heads x v_dim].
   Start     start=@out | @in,@out | @in,@gate,@out: the first weights, float32 [heads x inputs (+ 1 with
             bias), outputs]; without: zeros.
   State     a head: M, S (all but descent), the anchor (chunk > 1, but not sum), window - 1 keys and values.
   Order     a sum over inputs is one chain of fused multiply-adds in increasing index, over outputs the tree
             of vsum; chunks are aligned to absolute positions, and a cut inside one finds its anchor in the
             state.
   Cost      a token of a linear memory reads and writes M (and S) once; mlp: window + 1 passes forward,
             window back.
   Serves    linear attention and gated forms of it (linear, dot), the delta rule (linear, l2), windows of
             both, TTT-linear and TTT-MLP (norm, sum, bias; 2407.04620), Titans (momentum; 2501.00663), DLA,
             OmegaNet, Atlas and Atlas++ (2505.23735; equations by two transcriptions, no official code).
   Traps     l2 keeps its factor 2, norm has none. The weight of a token before the first counts as 0. muon
             descends in this sign (S gathers -G, M moves along S); a table of the paper prints a mixture that
             ascends. Too large a rate makes any of these diverge: normalise the keys.
   Tests     tests/test_mix_memory.c; tools/sqm-vectors: titans_*, atlas*, omeganet_*, dla_*, ttt_*. */
enum { SQM__MEMORY_LINEAR, SQM__MEMORY_MLP, SQM__MEMORY_GATED };
enum { SQM__LOSS_L2, SQM__LOSS_DOT, SQM__LOSS_NORM };
enum { SQM__MEMORY_BLOCK = 16 };        /* tokens that learn from one anchor together */
static const char *const sqm__memory_kinds[] = { "linear", "mlp", "gated" };
static const char *const sqm__memory_losses[] = { "l2", "dot", "norm" };
static const char *const sqm__memory_updates[] = { "descent", "momentum", "sum", "muon" };  /* SQM__LEARN_* */

typedef struct sqm__layer {             /* one matrix of every head's network */
    const float *start;                 /* [heads * rows, cols] or NULL: zeros */
    /* where its panels lie among a head's weights; 0 floats: no such layer */
    size_t       at, floats;
    int32_t      rows, cols, n_panels;
} sqm__layer;

typedef struct sqm__memory {
    int32_t      heads, head_dim, v_dim, hidden, kind, act, residual, bias, loss, window, chunk, update;
    int32_t      has_rate, has_retain, has_momentum, has_weights;
    sqm__layer   in, gate, out;
    size_t       weights;               /* floats of one head's network */
    size_t       ring_at, head_floats;  /* of one head's state; the ring of earlier keys and values ends it */
    const float *gain, *shift;          /* [heads * v_dim] of the norm loss */
    const float *steps;                 /* [chunk] of update sum, or NULL: 1 */
    float        eps;
} sqm__memory;

#define SQM__MEMORY_KEYS "heads head_dim v_dim memory hidden act residual bias loss window chunk update " \
    "rate retain weights start norm norm_b eps steps"

static int32_t sqm__pad(int32_t n) { return sqm__ceil_div(n, SQM__LANES) * SQM__LANES; }

static sqm_result sqm__memory_layer(sqm__memory *m, sqm__layer *l, int32_t inputs, int32_t outputs,
                                    const sqm_param *start, int32_t index, sqm_error *err)
{
    const sqm_tensor *t = start && start->tensors && index < start->n_tensors ? start->tensors[index] : NULL;
    l->rows = inputs + m->bias;
    l->cols = outputs;
    l->n_panels = sqm__ceil_div(outputs, SQM__LANES);
    if ((int64_t)l->rows * sqm__pad(outputs) > 1 << 28)
        SQM__FAIL(err, SQM_E_LIMIT, l->rows, "a memory of %d x %d is too large", l->rows, outputs);
    l->at = m->weights;
    l->floats = (size_t)l->rows * (size_t)sqm__pad(outputs);
    m->weights += l->floats;
    if (!start) return SQM_OK;
    if (!t || t->dtype != SQM_F32 || t->layout != SQM_ROWS || t->ndim != 2 ||
        t->shape[0] != (int64_t)m->heads * l->rows || t->shape[1] != outputs)
        SQM__FAIL(err, SQM_E_SHAPE, index, "start: matrix %d must be float32 [%d x %d, %d]", index, m->heads,
                  l->rows, outputs);
    l->start = (const float *)t->data;
    return SQM_OK;
}
/* The layers, their places and the size of a head's state. */
static sqm_result sqm__memory_layers(sqm__memory *m, const sqm_param *params, int32_t n, sqm_error *err)
{
    const sqm_param *start = sqm__param(params, n, "start");
    int32_t index = 0;
    size_t copies = 1;
    if (m->kind != SQM__MEMORY_LINEAR)
        SQM__TRY(sqm__memory_layer(m, &m->in, m->head_dim, m->hidden, start, index++, err));
    if (m->kind == SQM__MEMORY_GATED)
        SQM__TRY(sqm__memory_layer(m, &m->gate, m->head_dim, m->hidden, start, index++, err));
    SQM__TRY(sqm__memory_layer(m, &m->out, m->kind == SQM__MEMORY_LINEAR ? m->head_dim : m->hidden, m->v_dim,
                               start, index++, err));
    if (start && start->n_tensors != index)
        SQM__FAIL(err, SQM_E_SHAPE, start->n_tensors, "start has %d matrices, this memory has %d",
                  start->n_tensors, index);
    if ((int64_t)(m->window + SQM__MEMORY_BLOCK) * ((int64_t)m->head_dim + m->v_dim + m->hidden) > 1 << 26)
        SQM__FAIL(err, SQM_E_LIMIT, m->window, "a window of %d is too long for this memory", m->window);
    if (m->update != SQM__LEARN_DESCENT) copies++;
    if (m->chunk > 1 && m->update != SQM__LEARN_SUM) copies++;
    m->ring_at = m->weights * copies;
    m->head_floats = m->ring_at + sqm__align_up((size_t)(m->window - 1) * (size_t)(m->head_dim + m->v_dim),
                                                SQM__LANES);
    return SQM_OK;
}
/* What only the norm loss and the sum update have. */
static sqm_result sqm__memory_norm(sqm__memory *m, const sqm_param *params, int32_t n, sqm_error *err)
{
    SQM__TRY(sqm__param_vector(&m->steps, params, n, "steps", m->chunk, err));
    SQM__TRY(sqm__param_float(&m->eps, params, n, "eps", 1e-6, err));
    if (m->steps && m->update != SQM__LEARN_SUM)
        SQM__FAIL(err, SQM_E_SHAPE, m->chunk, "steps= goes with update=sum only");
    if (m->loss != SQM__LOSS_NORM) return SQM_OK;
    if ((int64_t)m->heads * m->v_dim > INT32_MAX)
        SQM__FAIL(err, SQM_E_LIMIT, m->heads, "%d heads of %d are too wide", m->heads, m->v_dim);
    SQM__TRY(sqm__param_vector(&m->gain, params, n, "norm", m->heads * m->v_dim, err));
    SQM__TRY(sqm__param_vector(&m->shift, params, n, "norm_b", m->heads * m->v_dim, err));
    if (!m->gain || !m->shift)
        SQM__FAIL(err, SQM_E_SHAPE, m->loss, "loss=norm needs norm= and norm_b=");
    return SQM_OK;
}

/* Fills m; *columns: how many of the input row it takes. */
static sqm_result sqm__memory_params(sqm__memory *m, int64_t *columns, const sqm_param *params, int32_t n,
                                     sqm_error *err)
{
    memset(m, 0, sizeof(*m));
    SQM__TRY(sqm__param_int(&m->heads, params, n, "heads", 0, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&m->head_dim, params, n, "head_dim", 0, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&m->v_dim, params, n, "v_dim", m->head_dim, 1, 1 << 16, err));
    SQM__TRY(sqm__param_choice(&m->kind, params, n, "memory", sqm__memory_kinds, 3, SQM__MEMORY_LINEAR, err));
    SQM__TRY(sqm__param_choice(&m->loss, params, n, "loss", sqm__memory_losses, 3, SQM__LOSS_L2, err));
    SQM__TRY(sqm__param_choice(&m->update, params, n, "update", sqm__memory_updates, 4, SQM__LEARN_DESCENT,
                               err));
    SQM__TRY(sqm__param_choice(&m->act, params, n, "act", sqm__act_names, SQM_ACT_TANH + 1, SQM_ACT_NONE,
                               err));
    SQM__TRY(sqm__param_int(&m->hidden, params, n, "hidden", 0, m->kind != SQM__MEMORY_LINEAR,
                            m->kind != SQM__MEMORY_LINEAR ? 1 << 20 : 0, err));
    SQM__TRY(sqm__param_int(&m->residual, params, n, "residual", 0, 0, 1, err));
    SQM__TRY(sqm__param_int(&m->bias, params, n, "bias", 0, 0, 1, err));
    SQM__TRY(sqm__param_int(&m->window, params, n, "window", 1, 1, 4096, err));
    SQM__TRY(sqm__param_int(&m->chunk, params, n, "chunk", 1, 1, 1 << 20, err));
    SQM__TRY(sqm__param_int(&m->has_rate, params, n, "rate", 1, 0, 1, err));
    SQM__TRY(sqm__param_int(&m->has_retain, params, n, "retain", m->update != SQM__LEARN_SUM, 0,
                            m->update != SQM__LEARN_SUM, err));
    SQM__TRY(sqm__param_int(&m->has_weights, params, n, "weights", m->window > 1, 0, 1, err));
    m->has_momentum = m->update == SQM__LEARN_MOMENTUM || m->update == SQM__LEARN_SURPRISE;
    if ((m->residual || m->loss == SQM__LOSS_NORM) && m->v_dim != m->head_dim)
        SQM__FAIL(err, SQM_E_SHAPE, m->v_dim, "residual=1 and loss=norm need v_dim = head_dim, not %d and %d",
                  m->v_dim, m->head_dim);
    SQM__TRY(sqm__memory_norm(m, params, n, err));
    SQM__TRY(sqm__memory_layers(m, params, n, err));
    *columns = (int64_t)m->heads * (2 * (int64_t)m->head_dim + m->v_dim + m->has_rate + m->has_retain +
                                    m->has_momentum + (m->has_weights ? m->window : 0));
    return SQM_OK;
}
static sqm_result sqm__memory_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                   int32_t *out_width, sqm_error *err)
{
    sqm__memory *m = (sqm__memory *)bound;
    int64_t columns = 0;
    SQM__TRY(sqm__memory_params(m, &columns, params, n, err));
    if (columns != in_width)
        SQM__FAIL(err, SQM_E_SHAPE, in_width,
                  "a memory of %d heads of %d and %d with its gates reads rows of %z, "
                  "not of %d", m->heads, m->head_dim, m->v_dim, (uint64_t)columns, in_width);
    *out_width = m->heads * m->v_dim;
    return SQM_OK;
}

/* ---- state ---- */
static size_t sqm__memory_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                      sqm_dtype dtype)
{
    const sqm__memory *m = (const sqm__memory *)bound;
    (void)max_context; (void)max_batch; (void)dtype;
    if (m->head_floats > ((size_t)-1 / 4 - 64) / (size_t)m->heads) return (size_t)-1;
    return m->head_floats * (size_t)m->heads * sizeof(float);
}
static size_t sqm__memory_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state; (void)position;
    return sqm__memory_state_bytes(bound, 0, 0, SQM_F32);
}
/* Writes the first weights of one head, panel by panel; padding lanes stay 0 for ever. */
static void sqm__memory_restart(const sqm__memory *m, float *weights, int32_t head)
{
    const sqm__layer *layers[3];
    layers[0] = &m->in; layers[1] = &m->gate; layers[2] = &m->out;
    memset(weights, 0, m->weights * sizeof(float));
    for (int32_t i = 0; i < 3; i++) {
        const sqm__layer *l = layers[i];
        const float *from = l->start;
        if (!from || !l->floats) continue;
        from += (size_t)head * (size_t)l->rows * (size_t)l->cols;
        for (int32_t j = 0; j < l->rows; j++)
            for (int32_t c = 0; c < l->cols; c++)
                weights[l->at + ((size_t)(c / SQM__LANES) * (size_t)l->rows + (size_t)j) * SQM__LANES +
                        (size_t)(c % SQM__LANES)] = *from++;
    }
}
static void sqm__memory_reset(const void *bound, void *state, size_t state_bytes, int32_t max_context,
                              int32_t max_batch, sqm_dtype dtype)
{
    const sqm__memory *m = (const sqm__memory *)bound;
    (void)state_bytes; (void)max_context; (void)max_batch; (void)dtype;
    memset(state, 0, m->head_floats * (size_t)m->heads * sizeof(float));
    for (int32_t h = 0; h < m->heads; h++)
        sqm__memory_restart(m, (float *)state + m->head_floats * (size_t)h, h);
}

/* ---- one block of tokens of one head ---- */
/* rows of pairs (window - 1 earlier ones, then the block) and queries */
typedef struct sqm__memory_work {
    float *gates;                       /* [block][3 + window] */
    float *x, *v, *q;                   /* inputs with the bias's 1; targets */
    float *z, *u, *h;                   /* of pairs: act's input, gate, hidden row with the bias's 1 */
    float *e, *e_in, *e_gate;           /* gradients of the layers' outputs */
    float *zq, *uq, *hq, *y;            /* of queries; y [block, v_pad] */
    float *spare;                       /* [v_pad]; Newton-Schulz */
    size_t x_stride, z_stride, h_stride, v_stride;
} sqm__memory_work;

static size_t sqm__newton_floats(int32_t rows, int32_t cols)
{
    const size_t a = (size_t)sqm__min(rows, cols), b = (size_t)sqm__max(rows, cols);
    const size_t a_pad = sqm__align_up(a, SQM__LANES), b_pad = sqm__align_up(b, SQM__LANES);
    return 2 * a * b_pad + a_pad * b + 2 * a * a_pad + a_pad * a;
}
/* Lays the work area of one piece out; returns its floats. */
static size_t sqm__memory_lay(sqm__memory_work *w, const sqm__memory *m, float *base)
{
    const size_t block = SQM__MEMORY_BLOCK, pairs = block + (size_t)m->window - 1;
    const size_t deep = m->kind != SQM__MEMORY_LINEAR, gated = m->kind == SQM__MEMORY_GATED;
    size_t used = 0, spare;
    w->x_stride = (size_t)sqm__pad(m->head_dim + m->bias);
    w->v_stride = (size_t)sqm__pad(m->v_dim);
    w->z_stride = (size_t)sqm__pad(m->hidden);
    w->h_stride = (size_t)sqm__pad(m->hidden + m->bias);
    w->gates = sqm__take(base, &used, block * (3 + (size_t)m->window));
    w->x = sqm__take(base, &used, pairs * w->x_stride);
    w->v = sqm__take(base, &used, pairs * w->v_stride);
    w->q = sqm__take(base, &used, block * w->x_stride);
    w->z = sqm__take(base, &used, pairs * w->z_stride);
    w->u = sqm__take(base, &used, gated * pairs * w->z_stride);
    w->h = sqm__take(base, &used, deep * pairs * w->h_stride);
    w->e = sqm__take(base, &used, pairs * w->v_stride);
    w->e_in = sqm__take(base, &used, deep * pairs * w->z_stride);
    w->e_gate = sqm__take(base, &used, gated * pairs * w->z_stride);
    w->zq = sqm__take(base, &used, deep * block * w->z_stride);
    w->uq = sqm__take(base, &used, gated * block * w->z_stride);
    w->hq = sqm__take(base, &used, deep * block * w->h_stride);
    w->y = sqm__take(base, &used, block * w->v_stride);
    spare = w->v_stride;
    if (m->update == SQM__LEARN_SURPRISE) {
        const size_t in = deep * (sqm__newton_floats(m->in.rows, m->in.cols) + m->in.floats);
        const size_t out = sqm__newton_floats(m->out.rows, m->out.cols) + m->out.floats;
        spare += in > out ? in : out;
    }
    w->spare = sqm__take(base, &used, spare);
    return used;
}

/* Columns of an input row: of all heads' parts */
typedef struct sqm__memory_columns { size_t k, v, rate, retain, momentum, weights; } sqm__memory_columns;
static sqm__memory_columns sqm__memory_find(const sqm__memory *m)
{
    const size_t heads = (size_t)m->heads;
    sqm__memory_columns c;
    c.k = heads * (size_t)m->head_dim;
    c.v = 2 * c.k;
    c.rate = c.v + heads * (size_t)m->v_dim;
    c.retain = c.rate + (m->has_rate ? heads : 0);
    c.momentum = c.retain + (m->has_retain ? heads : 0);
    c.weights = c.momentum + (m->has_momentum ? heads : 0);
    return c;
}
/* The gates of one token as [KERN]'s learn reads them. age: tokens before it. */
static void sqm__memory_gates(float *gates, const sqm__memory *m, const sqm__memory_columns *c,
                              const float *row, int32_t h, int32_t age)
{
    const int32_t last = m->window - 1;
    gates[0] = m->has_rate ? row[c->rate + (size_t)h] : 1.0f;
    gates[1] = m->has_retain ? row[c->retain + (size_t)h] : m->steps ? m->steps[age % m->chunk] : 1.0f;
    gates[2] = m->has_momentum ? row[c->momentum + (size_t)h] : 1.0f;
    for (int32_t lag = 0; lag <= last; lag++)
        gates[3 + last - lag] = lag > age ? 0.0f : !m->has_weights ? 1.0f :
            row[c->weights + (size_t)h * (size_t)m->window + (size_t)lag];
}
/* Fills inputs, targets, queries and gates of tokens age .. age + n - 1 and of the window before them. */
static void sqm__memory_gather(const sqm__memory *m, const sqm__memory_work *w, const float *ring,
                               const float *in, size_t in_width, int32_t h, int32_t age, int32_t n)
{
    const sqm__memory_columns c = sqm__memory_find(m);
    const size_t dim = (size_t)m->head_dim, v_dim = (size_t)m->v_dim, head = (size_t)h;
    const int32_t past = m->window - 1;
    for (int32_t i = 0; i < past + n; i++) {
        float *x = w->x + (size_t)i * w->x_stride, *v = w->v + (size_t)i * w->v_stride;
        const int32_t at = age - past + i;
        if (m->bias) x[dim] = 1.0f;
        if (at < 0) {
            memset(x, 0, dim * sizeof(float));
            memset(v, 0, v_dim * sizeof(float));
        } else if (i < past) {
            const float *pair = ring + (size_t)(at % past) * (dim + v_dim);
            memcpy(x, pair, dim * sizeof(float));
            memcpy(v, pair + dim, v_dim * sizeof(float));
        } else {
            const float *row = in + (size_t)(i - past) * in_width;
            memcpy(x, row + c.k + head * dim, dim * sizeof(float));
            memcpy(v, row + c.v + head * v_dim, v_dim * sizeof(float));
        }
    }
    for (int32_t t = 0; t < n; t++) {
        const float *row = in + (size_t)t * in_width;
        float *q = w->q + (size_t)t * w->x_stride;
        memcpy(q, row + head * dim, dim * sizeof(float));
        if (m->bias) q[dim] = 1.0f;
        sqm__memory_gates(w->gates + (size_t)t * (size_t)(3 + m->window), m, &c, row, h, age + t);
    }
}
/* Keeps the last window - 1 pairs of the block. */
static void sqm__memory_keep(const sqm__memory *m, const sqm__memory_work *w, float *ring, int32_t age,
                             int32_t n)
{
    const size_t dim = (size_t)m->head_dim, v_dim = (size_t)m->v_dim;
    const int32_t past = m->window - 1;
    for (int32_t t = sqm__max(0, n - past); t < n; t++) {
        float *pair = ring + (size_t)((age + t) % past) * (dim + v_dim);
        memcpy(pair, w->x + (size_t)(past + t) * w->x_stride, dim * sizeof(float));
        memcpy(pair + dim, w->v + (size_t)(past + t) * w->v_stride, v_dim * sizeof(float));
    }
}

static void sqm__layer_read(const sqm__kernels *k, const sqm__layer *l, float *y, size_t y_stride,
                            const float *weights, const float *x, size_t x_stride, int32_t n)
{
    SQM__CALL(k, product)(y, y_stride, x, x_stride, n, (const uint8_t *)(const void *)(weights + l->at),
               (size_t)l->rows * SQM__LANES * sizeof(float), l->n_panels, l->rows, 0, SQM_F32);
}
/* h = act(z) or act(z) * u, and the bias's 1 */
static void sqm__memory_hidden(const sqm__memory *m, const sqm__kernels *k, const sqm__memory_work *w,
                               float *h, const float *z, const float *u, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        float *row = h + (size_t)i * w->h_stride;
        const size_t at = (size_t)i * w->z_stride;
        SQM__CALL(k, glu)(row, z + at, m->gate.floats ? u + at : NULL, (size_t)m->hidden, m->act);
        if (m->bias) row[m->hidden] = 1.0f;
    }
}
/* y becomes what the mixer gives for queries q: with the residual, or normalised and added to q. */
static void sqm__memory_finish(const sqm__memory *m, const sqm__kernels *k, const sqm__memory_work *w,
                               float *y, int32_t h, int32_t n)
{
    const size_t own = (size_t)h * (size_t)m->v_dim;
    for (int32_t t = 0; t < n; t++) {
        const float *q = w->q + (size_t)t * w->x_stride;
        float *row = y + (size_t)t * w->v_stride;
        for (int32_t i = 0; m->residual && i < m->v_dim; i++) row[i] += q[i];
        if (m->loss != SQM__LOSS_NORM) continue;
        SQM__CALL(k, normalize)(row, row, m->v_dim, SQM_NORM_LAYER, m->gain + own, m->shift + own, m->eps);
        for (int32_t i = 0; i < m->v_dim; i++) row[i] += q[i];
    }
}
/* Reads a head's network at the n queries of the work area, changing nothing. */
static void sqm__memory_recall(const sqm__memory *m, const sqm__kernels *k, const sqm__memory_work *w,
                               float *y, const float *weights, int32_t h, int32_t n)
{
    const float *x = w->q;
    size_t x_stride = w->x_stride;
    if (m->in.floats) {
        sqm__layer_read(k, &m->in, w->zq, w->z_stride, weights, x, x_stride, n);
        if (m->gate.floats) sqm__layer_read(k, &m->gate, w->uq, w->z_stride, weights, x, x_stride, n);
        sqm__memory_hidden(m, k, w, w->hq, w->zq, w->uq, n);
        x = w->hq;
        x_stride = w->h_stride;
    }
    sqm__layer_read(k, &m->out, y, w->v_stride, weights, x, x_stride, n);
    sqm__memory_finish(m, k, w, y, h, n);
}

/* e: gradient of the loss of pair i by the network's output, from the output that stands in e. */
static void sqm__memory_loss(const sqm__memory *m, const sqm__kernels *k, const sqm__memory_work *w,
                             int32_t h, int32_t i)
{
    const float *x = w->x + (size_t)i * w->x_stride, *v = w->v + (size_t)i * w->v_stride;
    float *e = w->e + (size_t)i * w->v_stride, *target = w->spare;
    const size_t own = (size_t)h * (size_t)m->v_dim;
    if (m->loss == SQM__LOSS_DOT) {
        for (int32_t j = 0; j < m->v_dim; j++) e[j] = -v[j];
    } else {
        for (int32_t j = 0; m->residual && j < m->v_dim; j++) e[j] += x[j];
        if (m->loss == SQM__LOSS_L2) {
            for (int32_t j = 0; j < m->v_dim; j++) e[j] = 2.0f * (e[j] - v[j]);
        } else {
            for (int32_t j = 0; j < m->v_dim; j++) target[j] = v[j] - x[j];
            SQM__CALL(k, norm_error)(e, e, target, m->gain + own, m->shift + own, m->v_dim, m->eps);
        }
    }
    for (size_t j = (size_t)m->v_dim; j < w->v_stride; j++) e[j] = 0.0f;
}
/* Forward and backward of n pairs at the given weights: fills h, e, e_in, e_gate. */
static void sqm__memory_errors(const sqm__memory *m, const sqm__kernels *k, const sqm__memory_work *w,
                               const float *weights, int32_t h, int32_t n)
{
    const size_t hidden = (size_t)m->hidden;
    const float *x = w->x;
    size_t x_stride = w->x_stride;
    if (m->in.floats) {
        sqm__layer_read(k, &m->in, w->z, w->z_stride, weights, x, x_stride, n);
        if (m->gate.floats) sqm__layer_read(k, &m->gate, w->u, w->z_stride, weights, x, x_stride, n);
        sqm__memory_hidden(m, k, w, w->h, w->z, w->u, n);
        x = w->h;
        x_stride = w->h_stride;
    }
    if (m->loss != SQM__LOSS_DOT) sqm__layer_read(k, &m->out, w->e, w->v_stride, weights, x, x_stride, n);
    for (int32_t i = 0; i < n; i++) sqm__memory_loss(m, k, w, h, i);
    if (!m->in.floats) return;
    SQM__CALL(k, product_back)(w->e_in, w->z_stride, w->e, w->v_stride, n, weights + m->out.at, m->out.rows,
                    m->out.n_panels, m->hidden);
    for (int32_t i = 0; i < n; i++) {
        const size_t at = (size_t)i * w->z_stride;
        float *e = w->e_in + at, *g = w->e_gate + at;
        const float *z = w->z + at, *u = w->u + at;
        for (size_t j = hidden; j < w->z_stride; j++) e[j] = 0.0f;
        if (m->gate.floats) {
            SQM__CALL(k, glu)(g, z, e, hidden, m->act);
            for (size_t j = 0; j < hidden; j++) e[j] *= u[j];
            for (size_t j = hidden; j < w->z_stride; j++) g[j] = 0.0f;
        }
        SQM__CALL(k, act_slope)(e, z, hidden, m->act);
    }
}

/* ---- Newton-Schulz ---- */
/* Panels over the columns of src [rows, cols] (stride floats apart): dst [ceil(cols / 16)][rows][16] */
static void sqm__to_panels(float *dst, const float *src, size_t stride, int32_t rows, int32_t cols)
{
    for (int32_t c = 0; c < sqm__pad(cols); c++)
        for (int32_t r = 0; r < rows; r++)
            dst[((size_t)(c / SQM__LANES) * (size_t)rows + (size_t)r) * SQM__LANES +
                (size_t)(c % SQM__LANES)] =
                c < cols ? src[(size_t)r * stride + (size_t)c] : 0.0f;
}
/* Panels over its rows: dst [ceil(rows / 16)][cols][16] */
static void sqm__to_panels_across(float *dst, const float *src, size_t stride, int32_t rows, int32_t cols)
{
    for (int32_t r = 0; r < sqm__pad(rows); r++)
        for (int32_t c = 0; c < cols; c++)
            dst[((size_t)(r / SQM__LANES) * (size_t)cols + (size_t)c) * SQM__LANES +
                (size_t)(r % SQM__LANES)] =
                r < rows ? src[(size_t)r * stride + (size_t)c] : 0.0f;
}
/* The five steps on y [a, b], a <= b, whose rows are b_pad floats apart; work: sqm__newton_floats less y. */
static void sqm__newton_steps(const sqm__kernels *k, float *y, int32_t a, int32_t b, float *work)
{
    const size_t a_pad = (size_t)sqm__pad(a), b_pad = (size_t)sqm__pad(b), rows = (size_t)a;
    const size_t panel = SQM__LANES * sizeof(float);
    float *across = work, *along = across + a_pad * (size_t)b;
    float *g = along + rows * b_pad, *g2 = g + rows * a_pad;
    float *g_panels = g2 + rows * a_pad;
    for (int step = 0; step < 5; step++) {
        sqm__to_panels_across(across, y, b_pad, a, b);
        SQM__CALL(k, product)(g, a_pad, y, b_pad, a, (const uint8_t *)(const void *)across, panel * (size_t)b,
                   (int32_t)(a_pad / SQM__LANES), b, 0, SQM_F32);
        sqm__to_panels(g_panels, g, a_pad, a, a);
        SQM__CALL(k, product)(g2, a_pad, g, a_pad, a, (const uint8_t *)(const void *)g_panels, panel * rows,
                   (int32_t)(a_pad / SQM__LANES), a, 0, SQM_F32);
        SQM__CALL(k, blend)(g2, g, rows * a_pad, 2.0315f, -4.7750f);
        sqm__to_panels(along, y, b_pad, a, b);
        for (size_t i = 0; i < rows * b_pad; i++) y[i] *= 3.4445f;
        SQM__CALL(k, product)(y, b_pad, g2, a_pad, a, (const uint8_t *)(const void *)along, panel * rows,
                   (int32_t)(b_pad / SQM__LANES), a, 1, SQM_F32);
    }
}
/* x = NS(s), both panels over the columns of a matrix [rows, cols]; the shorter side is made the rows, which
   changes nothing (a polynomial in XX'). work: sqm__newton_floats(rows, cols). */
static void sqm__newton_schulz(const sqm__kernels *k, float *x, const float *s, int32_t rows, int32_t cols,
                               float *work)
{
    const int flip = rows > cols;
    const int32_t a = flip ? cols : rows, b = flip ? rows : cols;
    const size_t b_pad = (size_t)sqm__pad(b);
    double squares = 0.0;
    float scale, *y = work;
    memset(y, 0, (size_t)a * b_pad * sizeof(float));
    for (int32_t r = 0; r < rows; r++)
        for (int32_t c = 0; c < cols; c++) {
            const float v = s[((size_t)(c / SQM__LANES) * (size_t)rows + (size_t)r) * SQM__LANES +
                              (size_t)(c % SQM__LANES)];
            squares += (double)v * (double)v;
            y[flip ? (size_t)c * b_pad + (size_t)r : (size_t)r * b_pad + (size_t)c] = v;
        }
    scale = 1.0f / (sqm__sqrt((float)squares) + 1e-7f);
    for (size_t i = 0; i < (size_t)a * b_pad; i++) y[i] *= scale;
    sqm__newton_steps(k, y, a, b, work + (size_t)a * b_pad);
    if (flip) sqm__to_panels_across(x, y, b_pad, a, b);
    else sqm__to_panels(x, y, b_pad, a, b);
}

/* ---- learning ---- */
/* One layer learns from the pairs of the block (x, e) and is read at its queries (q -> y). */
static void sqm__layer_learn(const sqm__memory *m, const sqm__kernels *k, const sqm__layer *layer,
                             float *head, const sqm__memory_work *w, sqm__learn l)
{
    l.m = head + layer->at;
    l.s = head + (m->update == SQM__LEARN_DESCENT ? 0 : m->weights) + layer->at;
    l.gates = w->gates;
    l.rows = layer->rows;
    l.n_panels = layer->n_panels;
    l.window = m->window;
    l.rule = m->update;
    if (m->update == SQM__LEARN_SURPRISE) {
        const float *q = l.q;
        float *direction = w->spare + w->v_stride;
        l.q = NULL;
        SQM__CALL(k, learn)(&l);
        sqm__newton_schulz(k, direction, l.s, layer->rows, layer->cols, direction + layer->floats);
        SQM__CALL(k, blend)(l.m, direction, layer->floats, w->gates[1], w->gates[0]);
        sqm__layer_read(k, layer, l.y, l.y_stride, head, q, l.q_stride, 1);
    } else {
        SQM__CALL(k, learn)(&l);
    }
}
/* All layers of the network, from the queries up; y and finish. */
static void sqm__memory_learn(const sqm__memory *m, const sqm__kernels *k, const sqm__memory_work *w,
                              float *head, int32_t h, int32_t n)
{
    sqm__learn l;
    memset(&l, 0, sizeof(l));
    l.n_tokens = n;
    l.x = w->x;
    l.x_stride = l.q_stride = w->x_stride;
    l.q = w->q;
    if (m->in.floats) {
        l.e_stride = l.y_stride = w->z_stride;
        l.e = w->e_in;
        l.y = w->zq;
        sqm__layer_learn(m, k, &m->in, head, w, l);
        l.e = w->e_gate;
        l.y = w->uq;
        if (m->gate.floats) sqm__layer_learn(m, k, &m->gate, head, w, l);
        sqm__memory_hidden(m, k, w, w->hq, w->zq, w->uq, n);
        l.x = w->h;
        l.q = w->hq;
        l.x_stride = l.q_stride = w->h_stride;
    }
    l.e = w->e;
    l.y = w->y;
    l.e_stride = l.y_stride = w->v_stride;
    sqm__layer_learn(m, k, &m->out, head, w, l);
    sqm__memory_finish(m, k, w, w->y, h, n);
}
/* How many of `left` tokens from `age` on learn from one anchor at once. */
static int32_t sqm__memory_block_tokens(const sqm__memory *m, int32_t age, int32_t left)
{
    if (m->update == SQM__LEARN_SURPRISE) return 1;
    return sqm__min(sqm__min(SQM__MEMORY_BLOCK, left), m->chunk - age % m->chunk);
}
/* Tokens age .. age + n - 1 of head h, whose state is `head`: their results in w->y [n, v_dim]. */
static void sqm__memory_step(const sqm__memory *m, const sqm__kernels *k, const sqm__memory_work *w,
                             float *head, const float *in, size_t in_width, int32_t h, int32_t age, int32_t n)
{
    const int32_t past = m->window - 1;
    float *anchor = head;
    if (m->chunk > 1 && m->update != SQM__LEARN_SUM) {
        anchor = head + m->weights * (m->update == SQM__LEARN_DESCENT ? 1 : 2);
        if (age % m->chunk == 0) memcpy(anchor, head, m->weights * sizeof(float));
    }
    sqm__memory_gather(m, w, head + m->ring_at, in, in_width, h, age, n);
    sqm__memory_errors(m, k, w, anchor, h, past + n);
    sqm__memory_learn(m, k, w, head, h, n);
    if (past) sqm__memory_keep(m, w, head + m->ring_at, age, n);
    if (m->update == SQM__LEARN_SUM && (age + n) % m->chunk == 0) {
        SQM__CALL(k, blend)(head, head + m->weights, m->weights, 1.0f,
                            m->steps ? m->steps[m->chunk - 1] : 1.0f);
        memset(head + m->weights, 0, m->weights * sizeof(float));
    }
}

/* ---- all spans and heads ---- */
typedef struct sqm__memory_job {
    const sqm__memory *m;
    const sqm_exec    *x;
    float             *out;
    const float       *in;
    const sqm_span    *spans;
    size_t             in_width;
    int32_t            n_spans, pieces;
} sqm__memory_job;

static size_t sqm__memory_piece_floats(const sqm__memory *m)
{
    sqm__memory_work w;
    return sqm__memory_lay(&w, m, NULL);
}
static void sqm__memory_task(void *arg, int32_t piece)
{
    const sqm__memory_job *job = (const sqm__memory_job *)arg;
    const sqm__memory *m = job->m;
    const size_t out_width = (size_t)m->heads * (size_t)m->v_dim;
    sqm__memory_work w;
    int32_t unit = 0;
    (void)sqm__memory_lay(&w, m, (float *)(void *)job->x->scratch +
                                 sqm__memory_piece_floats(m) * (size_t)piece);
    for (int32_t s = 0; s < job->n_spans; s++)
        for (int32_t h = 0; job->spans[s].state && h < m->heads; h++) {
            const sqm_span *span = &job->spans[s];
            float *head = (float *)span->state + m->head_floats * (size_t)h;
            if (unit++ % job->pieces != piece) continue;
            for (int32_t t = 0, n; t < span->rows; t += n) {
                const size_t row = (size_t)(span->first_row + t);
                n = sqm__memory_block_tokens(m, span->position + t, span->rows - t);
                sqm__memory_step(m, job->x->kernels, &w, head, job->in + row * job->in_width, job->in_width,
                                 h, span->position + t, n);
                for (int32_t i = 0; i < n; i++)
                    memcpy(job->out + (row + (size_t)i) * out_width + (size_t)h * (size_t)m->v_dim,
                           w.y + (size_t)i * w.v_stride, (size_t)m->v_dim * sizeof(float));
            }
        }
}
/* Floating-point operations of a token of one head, roughly */
static size_t sqm__memory_work_of(const sqm__memory *m)
{
    return m->weights * (size_t)(4 + 4 * m->window) * (m->update == SQM__LEARN_SURPRISE ? 64u : 1u);
}
static void sqm__memory_run(const void *bound, sqm_exec *x, float *out, const float *in,
                            const sqm_span *spans, int32_t n_spans)
{
    const sqm__memory *m = (const sqm__memory *)bound;
    const sqm__memory_columns c = sqm__memory_find(m);
    sqm__memory_job job;
    size_t rows = 0;
    for (int32_t s = 0; s < n_spans; s++) rows += (size_t)spans[s].rows;
    job.m = m; job.x = x; job.out = out; job.in = in; job.spans = spans; job.n_spans = n_spans;
    job.in_width = c.weights + (m->has_weights ? (size_t)m->heads * (size_t)m->window : 0);
    job.pieces = sqm__pieces(x, rows * (size_t)m->heads * sqm__memory_work_of(m));
    sqm__run(x, sqm__memory_task, &job, job.pieces);
}
static size_t sqm__memory_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                        int32_t threads)
{
    (void)max_context; (void)max_batch;
    return sqm__pieces_bytes(sqm__memory_piece_floats((const sqm__memory *)bound), threads);
}
static sqm_result sqm__memory_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                      const sqm_span *spans, int32_t n_spans)
{
    return sqm__run_spans(sqm_mixer_memory(), bound, x, out, in, spans, n_spans,
                          sqm__memory_scratch_bytes(bound, 0, 0, x->threads), sqm__memory_run);
}
static const sqm_mixer sqm__memory_mixer = {
    "memory", SQM__MEMORY_KEYS, sizeof(sqm__memory), SQM_MIXER_CAUSAL, 0, sqm__memory_bind,
    sqm__memory_state_bytes, sqm__memory_used_bytes, sqm__memory_scratch_bytes, sqm__memory_reset,
    sqm__memory_forward
};
SQMDEF const sqm_mixer *sqm_mixer_memory(void) { return &sqm__memory_mixer; }

/* ---- [MIX.memory_caching] a memory that keeps what it was at the end of every segment -------------------
   The memory of [MIX.memory] runs over segments of `segment` tokens. At a segment's end its networks are
   copied into the state and its momentum starts again at 0, with fresh=1 its weights at the first ones. A
   token reads the memory of its own segment and those kept, weighed by g:
     combine=sum      y = sum_i M_i(q)            residual memory, eq. 7
     combine=softmax  y = sum_i g_i M_i(q)        gated residual memory, eq. 9;  g = softmax_i u_t . pool_i
                      top=k: of those kept only the k with the largest u_t . pool_i: sparse selection, eq. 16
     combine=soup     y = M*(q), every matrix of M* the g-weighted sum of those matrices, eq. 14
     combine=mean     as soup, with equal weights: what a model trained without cache uses
   pool_i is the mean of x over segment i, over the tokens so far in the running one.
   Rows in  those of the memory, then with softmax and soup [x: pool | u: pool];    rows out [heads x v_dim]
   State    that of the memory, the sum of x, and for each full segment its pool and networks: grows.
   Order    kept memories from the oldest on, the running one last. Segments are aligned to absolute
            positions. For a linear memory without norm soup and mean weigh what is read: the same, and
            cheaper.
   Cost     a token reads every kept memory (sum, softmax without top) or all their weights (soup, mean).
   Source   2602.24281, no official code; equations by two transcriptions. What is pooled, that the running
            segment counts with its mean so far, and the reset of the momentum are the reference's choices.
   Traps    segment must be a multiple of chunk; ties at the k-th place are all kept.
   Tests    tests/test_mix_memory.c; tools/sqm-vectors: memory_caching_*. */
enum { SQM__COMBINE_SUM, SQM__COMBINE_SOFTMAX, SQM__COMBINE_SOUP, SQM__COMBINE_MEAN };
static const char *const sqm__combine_names[] = { "sum", "softmax", "soup", "mean" };

typedef struct sqm__caching {
    sqm__memory memory;
    int32_t     segment, combine, top, fresh, pool, in_width;
    int32_t     columns;                /* of the memory; the pooled columns follow */
    int32_t     merge;                  /* 1: parameters are combined, 0: what is read */
    size_t      base, pool_pad, record; /* floats: before the records, of a pool, of a record */
} sqm__caching;

static sqm_result sqm__caching_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                    int32_t *out_width, sqm_error *err)
{
    sqm__caching *c = (sqm__caching *)bound;
    sqm__memory *m = &c->memory;
    int64_t columns = 0;
    memset(c, 0, sizeof(*c));
    SQM__TRY(sqm__memory_params(m, &columns, params, n, err));
    SQM__TRY(sqm__param_int(&c->segment, params, n, "segment", 256, 1, 1 << 30, err));
    SQM__TRY(sqm__param_choice(&c->combine, params, n, "combine", sqm__combine_names, 4,
                               SQM__COMBINE_SOFTMAX, err));
    SQM__TRY(sqm__param_int(&c->top, params, n, "top", 0, 0,
                            c->combine == SQM__COMBINE_SOFTMAX ? 1 << 16 : 0, err));
    SQM__TRY(sqm__param_int(&c->fresh, params, n, "fresh", 0, 0, 1, err));
    c->pool = c->combine == SQM__COMBINE_SOFTMAX || c->combine == SQM__COMBINE_SOUP;
    SQM__TRY(sqm__param_int(&c->pool, params, n, "pool", 0, c->pool, c->pool ? 1 << 24 : 0, err));
    c->merge = c->combine >= SQM__COMBINE_SOUP &&
        (m->kind != SQM__MEMORY_LINEAR || m->loss == SQM__LOSS_NORM);
    if (c->segment % m->chunk)
        SQM__FAIL(err, SQM_E_SHAPE, c->segment, "segment = %d must be a multiple of chunk = %d", c->segment,
                  m->chunk);
    if (c->merge && m->update == SQM__LEARN_SUM)
        SQM__FAIL(err, SQM_E_UNSUPPORTED, c->combine,
                  "combine=%s of deep memories does not go with update=sum",
                  sqm__combine_names[c->combine]);
    if (columns + 2 * (int64_t)c->pool != in_width)
        SQM__FAIL(err, SQM_E_SHAPE, in_width,
                  "a memory with %z columns and 2 x %d pooled ones does not fit rows of %d",
                  (uint64_t)columns, c->pool, in_width);
    c->columns = (int32_t)columns;
    c->in_width = in_width;
    c->pool_pad = (size_t)sqm__pad(c->pool);
    c->base = m->head_floats * (size_t)m->heads + c->pool_pad;
    c->record = m->weights * (size_t)m->heads + c->pool_pad;
    *out_width = m->heads * m->v_dim;
    return SQM_OK;
}
static size_t sqm__caching_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                       sqm_dtype dtype)
{
    const sqm__caching *c = (const sqm__caching *)bound;
    const size_t base = sqm__memory_state_bytes(&c->memory, max_context, max_batch, dtype);
    const size_t records = (size_t)(max_context / c->segment), limit = (size_t)-1 / 8;
    if (base > limit || c->record > limit / 4 / (records + 1)) return (size_t)-1;
    return base + (c->pool_pad + c->record * records) * sizeof(float);
}
static size_t sqm__caching_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state;
    return sqm__caching_state_bytes(bound, position, 0, SQM_F32);
}
static void sqm__caching_reset(const void *bound, void *state, size_t state_bytes, int32_t max_context,
                               int32_t max_batch, sqm_dtype dtype)
{
    const sqm__caching *c = (const sqm__caching *)bound;
    sqm__memory_reset(&c->memory, state, state_bytes, max_context, max_batch, dtype);
    memset((float *)state + c->base - c->pool_pad, 0, c->pool_pad * sizeof(float));
}

typedef struct sqm__caching_job {
    const sqm__caching *c;
    const sqm_exec     *x;
    float              *out, *state, *shares;   /* shares [block, kept + 1] */
    const float        *in;                     /* first row of the block */
    float              *scratch;                /* of the pieces */
    int32_t             age, n, kept, pieces;
} sqm__caching_job;

static size_t sqm__caching_piece_floats(const sqm__caching *c)
{
    const size_t row = (size_t)sqm__pad(c->memory.v_dim);
    return sqm__memory_piece_floats(&c->memory) + 2 * SQM__MEMORY_BLOCK * row +
           (c->merge ? c->memory.weights : 0);
}
/* For all pieces, and for what they share: u, a pool, marks, the shares of a block */
static size_t sqm__caching_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                         int32_t threads)
{
    const sqm__caching *c = (const sqm__caching *)bound;
    const size_t pieces = sqm__pieces_bytes(sqm__caching_piece_floats(c), threads);
    const size_t kept = (size_t)(max_context / c->segment) + 1;
    const size_t shared = sqm__pieces_bytes(2 * c->pool_pad + kept, 1);
    const size_t shares = sqm__pieces_bytes(kept, SQM__MEMORY_BLOCK), most = (size_t)-1 - 63;
    (void)max_batch;
    return pieces > most / 3 || shared > most / 3 || shares > most / 3 ? most : pieces + shared + shares;
}

/* Keeps the k largest of r [n] and what equals the k-th; all others become too small for any softmax. */
static void sqm__keep_largest(float *r, int32_t n, int32_t k, float *taken)
{
    float limit = 0.0f;
    if (k >= n) return;
    for (int32_t i = 0; i < n; i++) taken[i] = 0.0f;
    for (; k > 0; k--) {
        int32_t best = -1;
        for (int32_t i = 0; i < n; i++)
            if (taken[i] == 0.0f && (best < 0 || r[i] > r[best])) best = i;
        taken[best] = 1.0f;
        limit = r[best];
    }
    for (int32_t i = 0; i < n; i++)
        if (r[i] < limit) r[i] = -3.0e38f;
}
/* The weight of every kept memory and the running one for token `t` of the block, which joins the pool. */
static void sqm__caching_share(const sqm__caching_job *job, float *share, int32_t t, float *shared)
{
    const sqm__caching *c = job->c;
    const sqm__kernels *k = job->x->kernels;
    const float *row = job->in + (size_t)t * (size_t)c->in_width + c->columns;
    const int32_t panels = (int32_t)(c->pool_pad / SQM__LANES);
    const float tokens = (float)(job->age + t + 1);
    float *sum = job->state + c->base - c->pool_pad, *u = shared, *mean = u + c->pool_pad;
    if (!c->pool) {
        const float equal = c->combine == SQM__COMBINE_SUM ? 1.0f : 1.0f / (float)(job->kept + 1);
        for (int32_t i = 0; i <= job->kept; i++) share[i] = equal;
        return;
    }
    for (int32_t i = 0; i < c->pool; i++) {
        sum[i] += row[i];
        mean[i] = sum[i] / tokens;
        u[i] = row[c->pool + i];
    }
    for (size_t i = (size_t)c->pool; i < c->pool_pad; i++) mean[i] = u[i] = 0.0f;
    for (int32_t i = 0; i <= job->kept; i++) {
        const float *pool = i < job->kept ? job->state + c->base + c->record * (size_t)i : mean;
        SQM__CALL(k, product_back)(share + i, 1, u, c->pool_pad, 1, pool, 1, panels, 1);
    }
    if (c->top) sqm__keep_largest(share, job->kept, c->top, mean + c->pool_pad);
    SQM__CALL(k, softmax)(share, share, job->kept + 1, 1.0f);
}

/* y rows of a head in w->y -> the combination of all memories in sum */
static void sqm__caching_combine(const sqm__caching_job *job, const sqm__memory_work *w, float *sum,
                                 float *other, int32_t h)
{
    const sqm__caching *c = job->c;
    const sqm__memory *m = &c->memory;
    const sqm__kernels *k = job->x->kernels;
    const size_t shares = (size_t)job->kept + 1;
    for (int32_t i = 0; i <= job->kept; i++) {
        const float *weights =
            job->state + c->base + c->record * (size_t)i + c->pool_pad + m->weights * (size_t)h;
        const float *y = w->y;
        int32_t asked = 0;
        for (int32_t t = 0; t < job->n; t++) asked += job->shares[(size_t)t * shares + (size_t)i] != 0.0f;
        if (asked && i < job->kept) {
            sqm__memory_recall(m, k, w, other, weights, h, job->n);
            y = other;
        }
        for (int32_t t = 0; asked && t < job->n; t++) {
            const float share = job->shares[(size_t)t * shares + (size_t)i];
            const size_t at = (size_t)t * w->v_stride;
            if (share != 0.0f) SQM__CALL(k, blend)(sum + at, y + at, w->v_stride, 1.0f, share);
        }
    }
}
/* One token: the networks' weighted sum, then one read */
static void sqm__caching_merge(const sqm__caching_job *job, const sqm__memory_work *w, float *merged,
                               const float *head, float *y, int32_t h)
{
    const sqm__caching *c = job->c;
    const sqm__memory *m = &c->memory;
    memset(merged, 0, m->weights * sizeof(float));
    for (int32_t i = 0; i <= job->kept; i++) {
        const float *record = job->state + c->base + c->record * (size_t)i;
        const float *kept = record + c->pool_pad + m->weights * (size_t)h;
        SQM__CALL(job->x->kernels, blend)(merged, i < job->kept ? kept : head, m->weights, 1.0f,
                                          job->shares[i]);
    }
    sqm__memory_recall(m, job->x->kernels, w, y, merged, h, 1);
}
static void sqm__caching_task(void *arg, int32_t piece)
{
    const sqm__caching_job *job = (const sqm__caching_job *)arg;
    const sqm__memory *m = &job->c->memory;
    float *base = job->scratch + sqm__caching_piece_floats(job->c) * (size_t)piece;
    sqm__memory_work w;
    const size_t floats = sqm__memory_lay(&w, m, base), rows = SQM__MEMORY_BLOCK * w.v_stride;
    float *sum = base + floats, *other = sum + rows, *merged = other + rows;
    for (int32_t h = piece; h < m->heads; h += job->pieces) {
        float *head = job->state + m->head_floats * (size_t)h;
        sqm__memory_step(m, job->x->kernels, &w, head, job->in, (size_t)job->c->in_width, h, job->age,
                         job->n);
        memset(sum, 0, rows * sizeof(float));
        if (job->c->merge) sqm__caching_merge(job, &w, merged, head, sum, h);
        else sqm__caching_combine(job, &w, sum, other, h);
        for (int32_t t = 0; t < job->n; t++)
            memcpy(job->out + ((size_t)t * (size_t)m->heads + (size_t)h) * (size_t)m->v_dim,
                   sum + (size_t)t * w.v_stride, (size_t)m->v_dim * sizeof(float));
    }
}
/* The end of a segment: its pool and networks become record `kept`. */
static void sqm__caching_keep(const sqm__caching *c, float *state, int32_t kept)
{
    const sqm__memory *m = &c->memory;
    float *record = state + c->base + c->record * (size_t)kept, *sum = state + c->base - c->pool_pad;
    for (size_t i = 0; i < c->pool_pad; i++) {
        record[i] = sum[i] / (float)c->segment;
        sum[i] = 0.0f;
    }
    for (int32_t h = 0; h < m->heads; h++) {
        float *head = state + m->head_floats * (size_t)h;
        memcpy(record + c->pool_pad + m->weights * (size_t)h, head, m->weights * sizeof(float));
        if (c->fresh) sqm__memory_restart(m, head, h);
        if (m->update != SQM__LEARN_DESCENT) memset(head + m->weights, 0, m->weights * sizeof(float));
    }
}
static void sqm__caching_run(const void *bound, sqm_exec *x, float *out, const float *in,
                             const sqm_span *spans, int32_t n_spans)
{
    const sqm__caching *c = (const sqm__caching *)bound;
    const sqm__memory *m = &c->memory;
    sqm__caching_job job;
    job.c = c; job.x = x;
    for (int32_t s = 0; s < n_spans; s++)
        for (int32_t t = 0; spans[s].state && t < spans[s].rows; t += job.n) {
            const int32_t position = spans[s].position + t;
            const size_t row = (size_t)(spans[s].first_row + t);
            float *shared = (float *)(void *)x->scratch;
            job.state = (float *)spans[s].state;
            job.age = position % c->segment;
            job.kept = position / c->segment;
            job.n = sqm__min(c->merge ? 1 : spans[s].rows - t, c->segment - job.age);
            job.n = sqm__memory_block_tokens(m, job.age, job.n);
            job.in = in + row * (size_t)c->in_width;
            job.out = out + row * (size_t)(m->heads * m->v_dim);
            job.shares = shared + 2 * c->pool_pad + (size_t)job.kept + 1;
            job.scratch = job.shares + SQM__MEMORY_BLOCK * ((size_t)job.kept + 1);
            for (int32_t i = 0; i < job.n; i++)
                sqm__caching_share(&job, job.shares + (size_t)i * ((size_t)job.kept + 1), i, shared);
            job.pieces = sqm__min(m->heads, sqm__pieces(x, (size_t)job.n * (size_t)m->heads *
                                                            (sqm__memory_work_of(m) + 2 * m->weights *
                                                             (size_t)job.kept)));
            sqm__run(x, sqm__caching_task, &job, job.pieces);
            if (job.age + job.n == c->segment) sqm__caching_keep(c, job.state, job.kept);
        }
}
static sqm_result sqm__caching_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                       const sqm_span *spans, int32_t n_spans)
{
    const sqm__caching *c = (const sqm__caching *)bound;
    int32_t last = 0;
    for (int32_t s = 0; s < n_spans; s++) last = sqm__max(last, spans[s].position + spans[s].rows);
    return sqm__run_spans(sqm_mixer_memory_caching(), bound, x, out, in, spans, n_spans,
                          sqm__caching_scratch_bytes(c, last, 0, x->threads), sqm__caching_run);
}
static const sqm_mixer sqm__caching_mixer = {
    "memory_caching", SQM__MEMORY_KEYS " segment combine top fresh pool", sizeof(sqm__caching),
    SQM_MIXER_CAUSAL | SQM_MIXER_STATE_GROWS, 0, sqm__caching_bind, sqm__caching_state_bytes,
    sqm__caching_used_bytes, sqm__caching_scratch_bytes, sqm__caching_reset, sqm__caching_forward
};
SQMDEF const sqm_mixer *sqm_mixer_memory_caching(void) { return &sqm__caching_mixer; }

/* ---- [MIX.kernel_memory] a linear memory in the feature space of the exponential kernel -----------------
   M_t = sum_j u_j phi(k_j)' with phi(a) . phi(b) = e^(a . b): never built, but kept as keys k_j and
   coefficients u_j.
   loss=l2   for the tokens i of the window: u_i += rate_t weight_t,i 2 (v_i - M_(t-1)(k_i)), after all
             earlier coefficients were multiplied by retain_t
   loss=dot  u_i += rate_t weight_t,i v_i: without gates and window y_t = sum_(j <= t) e^(q_t . k_j) v_j
   y_t = M_t(q_t) = sum_(j <= t) u_j e^(q_t . k_j): not normalised, no largest score subtracted.
   kernel=abs: |q . k| instead of e^(q . k), e.g. for a normaliser by the sum of absolute scores.
   Rows in  [q: heads x head_dim | k: heads x head_dim | v: heads x v_dim | rate | retain | weights], the
            gates as in [MIX.memory]; rate=0, retain=0, weights=0 leave them out.
   Rows out [heads x v_dim]
   State    window - 1 keys and values, then tiles of 64 positions: [tile][head] { keys [4][head_dim][16],
            coefficients [v_pad / 16][64][16] }, float32: grows.
   Order    tiles from position 0 on, each sum one chain over positions.
   Cost     a token: window + 1 passes over all keys and coefficients, one more with retain.
   Source   2505.23735 (ATLAS), eq. 25-31: DeepTransformer, and Dot with linear memory, in the kernel form of
            the project's reference. No official code.
   Traps    scores beyond 88 overflow: normalise queries and keys.
   Tests    tests/test_mix_memory.c; tools/sqm-vectors: dot_exp_linear, deeptransformer_linear. */
typedef struct sqm__kernel_memory {
    int32_t heads, head_dim, v_dim, v_pad, window, loss, kernel, has_rate, has_retain, has_weights, in_width;
    size_t  ring, tile;                 /* floats of a head's ring, of a tile of one head */
} sqm__kernel_memory;

static sqm_result sqm__kernel_memory_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                          int32_t *out_width, sqm_error *err)
{
    static const char *const kernels[] = { "exp", "abs" };
    sqm__kernel_memory *m = (sqm__kernel_memory *)bound;
    int64_t columns;
    memset(m, 0, sizeof(*m));
    SQM__TRY(sqm__param_int(&m->heads, params, n, "heads", 0, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&m->head_dim, params, n, "head_dim", 0, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&m->v_dim, params, n, "v_dim", m->head_dim, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&m->window, params, n, "window", 1, 1, 1024, err));
    SQM__TRY(sqm__param_choice(&m->loss, params, n, "loss", sqm__memory_losses, 2, SQM__LOSS_L2, err));
    SQM__TRY(sqm__param_choice(&m->kernel, params, n, "kernel", kernels, 2, 0, err));
    SQM__TRY(sqm__param_int(&m->has_rate, params, n, "rate", 1, 0, 1, err));
    SQM__TRY(sqm__param_int(&m->has_retain, params, n, "retain", 1, 0, 1, err));
    SQM__TRY(sqm__param_int(&m->has_weights, params, n, "weights", m->window > 1, 0, 1, err));
    columns = (int64_t)m->heads * (2 * (int64_t)m->head_dim + m->v_dim + m->has_rate + m->has_retain +
                                   (m->has_weights ? m->window : 0));
    if (columns != in_width)
        SQM__FAIL(err, SQM_E_SHAPE, in_width,
                  "a kernel memory of %d heads of %d and %d with its gates reads rows "
                  "of %z, not of %d", m->heads, m->head_dim, m->v_dim, (uint64_t)columns, in_width);
    m->in_width = in_width;
    m->v_pad = sqm__pad(m->v_dim);
    m->ring = sqm__align_up((size_t)(m->window - 1) * (size_t)(m->head_dim + m->v_dim), SQM__LANES);
    m->tile = (size_t)(m->head_dim + m->v_pad) * SQM__TILE_KEYS;
    *out_width = m->heads * m->v_dim;
    return SQM_OK;
}
static size_t sqm__kernel_memory_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                             sqm_dtype dtype)
{
    const sqm__kernel_memory *m = (const sqm__kernel_memory *)bound;
    const size_t tiles = (size_t)sqm__ceil_div(max_context, SQM__TILE_KEYS), limit = (size_t)-1 / 16;
    (void)max_batch; (void)dtype;
    if (m->ring > limit / (size_t)m->heads || m->tile > limit / (size_t)m->heads / (tiles + 1))
        return (size_t)-1;
    return (m->ring + m->tile * tiles) * (size_t)m->heads * sizeof(float);
}
static size_t sqm__kernel_memory_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state;
    return sqm__kernel_memory_state_bytes(bound, position, 0, SQM_F32);
}
static void sqm__kernel_memory_reset(const void *bound, void *state, size_t state_bytes, int32_t max_context,
                                     int32_t max_batch, sqm_dtype dtype)
{
    const sqm__kernel_memory *m = (const sqm__kernel_memory *)bound;
    (void)state_bytes; (void)max_context; (void)max_batch; (void)dtype;
    memset(state, 0, m->ring * (size_t)m->heads * sizeof(float));
}

typedef struct sqm__kernel_work {       /* rows: the window's keys from the oldest on, then the query */
    float *x, *v, *scores, *acc;        /* [window + 1, head_dim], [window, v_dim], [.., 64], [.., v_pad] */
    float *tiles;                       /* the head's part of tile 0 */
    size_t step;                        /* floats from tile to tile */
} sqm__kernel_work;
static size_t sqm__kernel_lay(sqm__kernel_work *w, const sqm__kernel_memory *m, float *base)
{
    const size_t rows = (size_t)m->window + 1;
    size_t used = 0;
    w->x = sqm__take(base, &used, rows * (size_t)m->head_dim);
    w->v = sqm__take(base, &used, rows * (size_t)m->v_dim);
    w->scores = sqm__take(base, &used, rows * SQM__TILE_KEYS);
    w->acc = sqm__take(base, &used, rows * (size_t)m->v_pad);
    return used;
}
/* acc rows = sum over positions [0, end) of e^(x . k_j) u_j for n rows of x */
static void sqm__kernel_read(const sqm__kernel_memory *m, const sqm__kernels *k, const sqm__kernel_work *w,
                             const float *x, float *acc, int32_t n, int32_t end)
{
    memset(acc, 0, (size_t)n * (size_t)m->v_pad * sizeof(float));
    for (int32_t first = 0; first < end; first += SQM__TILE_KEYS) {
        const float *tile = w->tiles + w->step * (size_t)(first / SQM__TILE_KEYS);
        const int32_t keys = sqm__min(SQM__TILE_KEYS, end - first);
        const size_t panel = SQM__LANES * sizeof(float);
        SQM__CALL(k, product)(w->scores, SQM__TILE_KEYS, x, (size_t)m->head_dim, n,
                              (const uint8_t *)(const void *)tile,
                   panel * (size_t)m->head_dim, sqm__ceil_div(keys, SQM__LANES), m->head_dim, 0, SQM_F32);
        for (int32_t i = 0; i < n; i++) {
            float *s = w->scores + i * SQM__TILE_KEYS;
            if (m->kernel == 0) SQM__CALL(k, activate)(s, s, (size_t)keys, SQM_ACT_EXP);
            else for (int32_t j = 0; j < keys; j++) s[j] = s[j] < 0.0f ? -s[j] : s[j];
        }
        SQM__CALL(k, product)(acc, (size_t)m->v_pad, w->scores, SQM__TILE_KEYS, n,
                   (const uint8_t *)(const void *)(tile + m->head_dim * SQM__TILE_KEYS),
                   panel * SQM__TILE_KEYS, m->v_pad / SQM__LANES, keys, 1, SQM_F32);
    }
}
/* Decays all coefficients and adds those of the window, which stand in the rows of v. */
static void sqm__kernel_write(const sqm__kernel_memory *m, const sqm__kernels *k, const sqm__kernel_work *w,
                              int32_t position, int32_t seen, float retain)
{
    const int32_t slot = position % SQM__TILE_KEYS;
    const float *key = w->x + (size_t)(m->window - 1) * (size_t)m->head_dim;
    float *tile = w->tiles + w->step * (size_t)(position / SQM__TILE_KEYS);
    if (slot == 0) memset(tile, 0, m->tile * sizeof(float));
    for (int32_t i = 0; i < m->head_dim; i++)
        tile[((size_t)(slot / SQM__LANES) * (size_t)m->head_dim + (size_t)i) * SQM__LANES +
             (size_t)(slot % SQM__LANES)] = key[i];
    for (int32_t first = 0; m->has_retain && first < position; first += SQM__TILE_KEYS) {
        float *u = w->tiles + w->step * (size_t)(first / SQM__TILE_KEYS) + m->head_dim * SQM__TILE_KEYS;
        SQM__CALL(k, blend)(u, u, (size_t)m->v_pad * SQM__TILE_KEYS, retain, 0.0f);
    }
    for (int32_t i = 0; i < seen; i++) {
        const int32_t at = position - seen + 1 + i;
        const float *change = w->v + (size_t)(m->window - seen + i) * (size_t)m->v_dim;
        float *u = w->tiles + w->step * (size_t)(at / SQM__TILE_KEYS) + m->head_dim * SQM__TILE_KEYS;
        for (int32_t j = 0; j < m->v_dim; j++)
            u[((size_t)(j / SQM__LANES) * SQM__TILE_KEYS + (size_t)(at % SQM__TILE_KEYS)) * SQM__LANES +
              (size_t)(j % SQM__LANES)] += change[j];
    }
}
/* One token of head h: row -> out [v_dim]. ring: the head's. */
static void sqm__kernel_step(const sqm__kernel_memory *m, const sqm__kernels *k, const sqm__kernel_work *w,
                             float *ring, const float *row, int32_t h, int32_t position, float *out)
{
    const size_t dim = (size_t)m->head_dim, v_dim = (size_t)m->v_dim;
    const size_t heads = (size_t)m->heads, head = (size_t)h;
    const int32_t past = m->window - 1, seen = sqm__min(m->window, position + 1);
    const float *gates = row + heads * (2 * dim + v_dim);
    const float rate = m->has_rate ? gates[h] : 1.0f;
    const float retain = m->has_retain ? gates[(m->has_rate ? heads : 0) + head] : 1.0f;
    const float *weights = gates + heads * (size_t)(m->has_rate + m->has_retain) + head * (size_t)m->window;
    float *x = w->x + (size_t)(m->window - seen) * dim, *v = w->v + (size_t)(m->window - seen) * v_dim;
    for (int32_t i = 0; i < seen - 1; i++) {
        const float *pair = ring + (size_t)((position - seen + 1 + i) % past) * (dim + v_dim);
        memcpy(x + (size_t)i * dim, pair, dim * sizeof(float));
        memcpy(v + (size_t)i * v_dim, pair + dim, v_dim * sizeof(float));
    }
    memcpy(w->x + (size_t)past * dim, row + (heads + head) * dim, dim * sizeof(float));
    memcpy(w->v + (size_t)past * v_dim, row + 2 * heads * dim + head * v_dim, v_dim * sizeof(float));
    memcpy(w->x + (size_t)m->window * dim, row + head * dim, dim * sizeof(float));
    if (past) {
        float *pair = ring + (size_t)(position % past) * (dim + v_dim);
        memcpy(pair, w->x + (size_t)past * dim, dim * sizeof(float));
        memcpy(pair + dim, w->v + (size_t)past * v_dim, v_dim * sizeof(float));
    }
    if (m->loss == SQM__LOSS_L2) sqm__kernel_read(m, k, w, x, w->acc, seen, position);
    for (int32_t i = 0; i < seen; i++) {
        const float scale = rate * (m->has_weights ? weights[seen - 1 - i] : 1.0f);
        const float *seen_as = w->acc + (size_t)i * (size_t)m->v_pad;
        float *change = v + (size_t)i * v_dim;
        for (size_t j = 0; j < v_dim; j++)
            change[j] = m->loss == SQM__LOSS_L2 ? scale * 2.0f * (change[j] - seen_as[j]) : scale * change[j];
    }
    sqm__kernel_write(m, k, w, position, seen, retain);
    sqm__kernel_read(m, k, w, w->x + (size_t)m->window * dim, w->acc, 1, position + 1);
    memcpy(out, w->acc, v_dim * sizeof(float));
}

typedef struct sqm__kernel_job {
    const sqm__kernel_memory *m;
    const sqm_exec           *x;
    float                    *out;
    const float              *in;
    const sqm_span           *spans;
    int32_t                   n_spans, pieces;
} sqm__kernel_job;
static void sqm__kernel_task(void *arg, int32_t piece)
{
    const sqm__kernel_job *job = (const sqm__kernel_job *)arg;
    const sqm__kernel_memory *m = job->m;
    const size_t heads = (size_t)m->heads;
    sqm__kernel_work w;
    int32_t unit = 0;
    (void)sqm__kernel_lay(&w, m, (float *)(void *)job->x->scratch +
                                 sqm__kernel_lay(&w, m, NULL) * (size_t)piece);
    w.step = m->tile * heads;
    for (int32_t s = 0; s < job->n_spans; s++)
        for (int32_t h = 0; job->spans[s].state && h < m->heads; h++) {
            const sqm_span *span = &job->spans[s];
            float *state = (float *)span->state;
            if (unit++ % job->pieces != piece) continue;
            w.tiles = state + m->ring * heads + m->tile * (size_t)h;
            for (int32_t t = 0; t < span->rows; t++) {
                const size_t row = (size_t)(span->first_row + t);
                sqm__kernel_step(m, job->x->kernels, &w, state + m->ring * (size_t)h,
                                 job->in + row * (size_t)m->in_width, h, span->position + t,
                                 job->out + (row * heads + (size_t)h) * (size_t)m->v_dim);
            }
        }
}
static void sqm__kernel_memory_run(const void *bound, sqm_exec *x, float *out, const float *in,
                                   const sqm_span *spans, int32_t n_spans)
{
    const sqm__kernel_memory *m = (const sqm__kernel_memory *)bound;
    sqm__kernel_job job;
    size_t work = 0;
    for (int32_t s = 0; s < n_spans; s++)
        work += (size_t)spans[s].rows * (size_t)(spans[s].position + spans[s].rows) * (size_t)m->heads *
                (size_t)(m->head_dim + m->v_pad) * (size_t)(m->window + 2);
    job.m = m; job.x = x; job.out = out; job.in = in; job.spans = spans; job.n_spans = n_spans;
    job.pieces = sqm__pieces(x, work);
    sqm__run(x, sqm__kernel_task, &job, job.pieces);
}
static size_t sqm__kernel_memory_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                               int32_t threads)
{
    sqm__kernel_work w;
    (void)max_context; (void)max_batch;
    return sqm__pieces_bytes(sqm__kernel_lay(&w, (const sqm__kernel_memory *)bound, NULL), threads);
}
static sqm_result sqm__kernel_memory_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                             const sqm_span *spans, int32_t n_spans)
{
    return sqm__run_spans(sqm_mixer_kernel_memory(), bound, x, out, in, spans, n_spans,
                          sqm__kernel_memory_scratch_bytes(bound, 0, 0, x->threads), sqm__kernel_memory_run);
}
static const sqm_mixer sqm__kernel_memory_mixer = {
    "kernel_memory", "heads head_dim v_dim window loss kernel rate retain weights",
    sizeof(sqm__kernel_memory), SQM_MIXER_CAUSAL | SQM_MIXER_STATE_GROWS, 0, sqm__kernel_memory_bind,
    sqm__kernel_memory_state_bytes,
    sqm__kernel_memory_used_bytes, sqm__kernel_memory_scratch_bytes, sqm__kernel_memory_reset,
    sqm__kernel_memory_forward
};
SQMDEF const sqm_mixer *sqm_mixer_kernel_memory(void) { return &sqm__kernel_memory_mixer; }

/* ---- [MIX.codebook] attention whose keys are codewords --------------------------------------------------
   z_j = argmin_s |k_j - c_s|^2, the first of equals; every key counts as its codeword c_z. Near tokens
   (i - j < near; with block=L those of i's block of L and of the one before it, near = 2 L) keep values of
   their own; all older ones of a code are its count N_s and mean value U_s:
     o_i = (sum_s N_s e^(q_i . c_s) U_s + sum_near e^(q_i . c_(z_j) + q_i . r_(i-j) + b_(i-j)) v_j) /
           (the same with 1 for U_s and v_j)
   This is softmax attention over all tokens to the letter, at constant state.
   Rows in   [q: heads x head_dim | k: heads x head_dim | v: heads x v_dim];        rows out  [heads x v_dim]
   Weights   codebook=@ panels [heads x codes_pad, head_dim], codes_pad: codes up to a multiple of 16; rows
             beyond `codes` are unused;  half=@ [heads x codes_pad] |c|^2 / 2;  relative=@ panels [heads x
             near_pad, head_dim]: r by distance, or none;  bias=@ [heads x near]: b, or none.
   State     a head: N [codes_pad], codes of near tokens [near_pad], U [v_pad / 16][codes][16], values of near
             tokens [v_pad / 16][near][16]; v_pad has a column of ones, whose sum is the denominator.
   Order     sums over codes, then over near tokens by their place in the ring, position mod near: the same
             for every cut. The largest score is subtracted first; N_s multiplies, so that no logarithm is
             needed.
   Cost      a token: codes + near products with q, codes with k, and as many values.
   Source    Transformer-VQ 2309.16354, official transformer-vq/transformer_vq; LongVQ 2404.11163 as derived
             in the project's reference (its code is not public: form not verified).
   Traps     scaling of q and k, and Transformer-VQ's vectors u, v, are the converter's (tools/prep_memory.h).
             Counts are exact up to 2^24 tokens of a code.
   Tests     tests/test_mix_memory.c; tools/sqm-vectors: transformer_vq_layer, longvq_block_DERIVED. */
typedef struct sqm__codebook {
    int32_t     heads, head_dim, v_dim, codes, near, block, codes_pad, near_pad, v_pad;
    sqm_tensor  book, relative;         /* relative.data NULL: none */
    const float *half, *bias;           /* [heads * codes_pad]; [heads * near] or NULL */
    size_t      head_floats;
} sqm__codebook;
enum { SQM__CODEBOOK_BLOCK = 16 };      /* tokens whose products with the codebook are made at once */

/* A panel matrix [rows, cols] of plain floats under `key`; missing: data NULL. */
static sqm_result sqm__codebook_panels(sqm_tensor *to, const sqm_param *params, int32_t n, const char *key,
                                       int64_t rows, int32_t cols, sqm_error *err)
{
    const sqm_param *p = sqm__param(params, n, key);
    const sqm_tensor *t = p && p->tensors && p->n_tensors == 1 ? p->tensors[0] : NULL;
    memset(to, 0, sizeof(*to));
    if (!p) return SQM_OK;
    if (!t || t->layout != SQM_PANELS || t->ndim != 2 || t->shape[0] != rows || t->shape[1] != cols ||
        (t->dtype != SQM_F32 && t->dtype != SQM_F16 && t->dtype != SQM_BF16))
        SQM__FAIL(err, SQM_E_SHAPE, rows, "%s must be float panels [%z, %d]", key, (uint64_t)rows, cols);
    *to = *t;
    return SQM_OK;
}
static sqm_result sqm__codebook_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                     int32_t *out_width, sqm_error *err)
{
    sqm__codebook *c = (sqm__codebook *)bound;
    memset(c, 0, sizeof(*c));
    SQM__TRY(sqm__param_int(&c->heads, params, n, "heads", 0, 1, 1 << 12, err));
    SQM__TRY(sqm__param_int(&c->head_dim, params, n, "head_dim", 0, 1, 1 << 14, err));
    SQM__TRY(sqm__param_int(&c->v_dim, params, n, "v_dim", c->head_dim, 1, 1 << 14, err));
    SQM__TRY(sqm__param_int(&c->codes, params, n, "codes", 0, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&c->block, params, n, "block", 0, 0, 1 << 15, err));
    SQM__TRY(sqm__param_int(&c->near, params, n, "near", 2 * c->block, c->block ? 2 * c->block : 1,
                            c->block ? 2 * c->block : 1 << 16, err));
    c->codes_pad = sqm__pad(c->codes);
    c->near_pad = sqm__pad(c->near);
    c->v_pad = sqm__pad(c->v_dim + 1);
    SQM__TRY(sqm__codebook_panels(&c->book, params, n, "codebook", (int64_t)c->heads * c->codes_pad,
                                  c->head_dim, err));
    SQM__TRY(sqm__param_vector(&c->half, params, n, "half", c->heads * c->codes_pad, err));
    SQM__TRY(sqm__codebook_panels(&c->relative, params, n, "relative", (int64_t)c->heads * c->near_pad,
                                  c->head_dim, err));
    SQM__TRY(sqm__param_vector(&c->bias, params, n, "bias", c->heads * c->near, err));
    if (!c->book.data || !c->half)
        SQM__FAIL(err, SQM_E_SHAPE, c->codes, "a codebook mixer needs codebook= and half=");
    if ((int64_t)c->heads * (2 * c->head_dim + c->v_dim) != in_width)
        SQM__FAIL(err, SQM_E_SHAPE, in_width, "%d heads of 2 x %d and %d do not fit rows of %d", c->heads,
                  c->head_dim, c->v_dim, in_width);
    c->head_floats = (size_t)(c->codes_pad + c->near_pad) + (size_t)c->v_pad * (size_t)(c->codes + c->near);
    *out_width = c->heads * c->v_dim;
    return SQM_OK;
}
static size_t sqm__codebook_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                        sqm_dtype dtype)
{
    const sqm__codebook *c = (const sqm__codebook *)bound;
    (void)max_context; (void)max_batch; (void)dtype;
    if (c->head_floats > (size_t)-1 / 8 / (size_t)c->heads) return (size_t)-1;
    return c->head_floats * (size_t)c->heads * sizeof(float);
}
static size_t sqm__codebook_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state; (void)position;
    return sqm__codebook_state_bytes(bound, 0, 0, SQM_F32);
}
typedef struct sqm__codebook_head { float *counts, *codes, *means, *values; } sqm__codebook_head;
static sqm__codebook_head sqm__codebook_head_of(const sqm__codebook *c, void *state, int32_t h)
{
    sqm__codebook_head head;
    head.counts = (float *)state + c->head_floats * (size_t)h;
    head.codes = head.counts + c->codes_pad;
    head.means = head.codes + c->near_pad;
    head.values = head.means + (size_t)c->v_pad * (size_t)c->codes;
    return head;
}
/* Value `i` of row `row` in panels of `rows` rows */
SQM__INLINE float *sqm__panel_at(float *panels, int32_t rows, int32_t row, int32_t i)
{
    return panels + ((size_t)(i / SQM__LANES) * (size_t)rows + (size_t)row) * SQM__LANES +
           (size_t)(i % SQM__LANES);
}
static void sqm__codebook_reset(const void *bound, void *state, size_t state_bytes, int32_t max_context,
                                int32_t max_batch, sqm_dtype dtype)
{
    const sqm__codebook *c = (const sqm__codebook *)bound;
    (void)state_bytes; (void)max_context; (void)max_batch; (void)dtype;
    memset(state, 0, c->head_floats * (size_t)c->heads * sizeof(float));
    for (int32_t h = 0; h < c->heads; h++) {
        const sqm__codebook_head head = sqm__codebook_head_of(c, state, h);
        for (int32_t s = 0; s < c->codes; s++) *sqm__panel_at(head.means, c->codes, s, c->v_dim) = 1.0f;
        for (int32_t s = 0; s < c->near; s++) *sqm__panel_at(head.values, c->near, s, c->v_dim) = 1.0f;
    }
}

/* The code in a place of the ring; states come from outside too. */
SQM__INLINE int32_t sqm__codebook_code(const sqm__codebook *c, const sqm__codebook_head *head, int32_t slot)
{
    const float code = head->codes[slot];
    return code >= 0.0f && code < (float)c->codes ? (int32_t)code : 0;
}
/* The first near token of position p */
SQM__INLINE int32_t sqm__codebook_start(const sqm__codebook *c, int32_t p)
{
    return sqm__max(0, c->block ? (p / c->block - 1) * c->block : p - c->near + 1);
}
/* Token `p` is no longer near: joins the mean of its code. */
static void sqm__codebook_fold(const sqm__codebook *c, const sqm__codebook_head *head, int32_t p)
{
    const int32_t slot = p % c->near, code = sqm__codebook_code(c, head, slot);
    const float count = head->counts[code] += 1.0f;
    for (int32_t i = 0; i < c->v_dim; i++) {
        float *mean = sqm__panel_at(head->means, c->codes, code, i);
        *mean += (*sqm__panel_at(head->values, c->near, slot, i) - *mean) / count;
    }
}
/* Scores of all codes and near slots -> weights; what does not exist weighs 0. */
static void sqm__codebook_weigh(const sqm__codebook *c, const sqm__kernels *k, const sqm__codebook_head *head,
                                float *weights, const float *scores, const float *relative, const float *bias,
                                int32_t p)
{
    const int32_t start = sqm__codebook_start(c, p);
    float *near = weights + c->codes_pad, largest = -3.0e38f;
    for (int32_t s = 0; s < c->codes; s++) {
        weights[s] = head->counts[s] > 0.0f ? scores[s] : -3.0e38f;
        if (weights[s] > largest) largest = weights[s];
    }
    for (int32_t i = 0; i < c->near; i++) near[i] = -3.0e38f;
    for (int32_t j = start; j <= p; j++) {
        float score = scores[sqm__codebook_code(c, head, j % c->near)];
        if (relative) score += relative[p - j];
        if (bias) score += bias[p - j];
        near[j % c->near] = score;
        if (score > largest) largest = score;
    }
    for (int32_t i = 0; i < c->codes; i++) weights[i] -= largest;
    for (int32_t i = 0; i < c->near; i++) near[i] -= largest;
    SQM__CALL(k, activate)(weights, weights, (size_t)c->codes, SQM_ACT_EXP);
    SQM__CALL(k, activate)(near, near, (size_t)c->near, SQM_ACT_EXP);
    for (int32_t s = 0; s < c->codes; s++) weights[s] *= head->counts[s];
}
/* One token: its code, then its output. scores, keys: products of q and k with the codebook. */
static void sqm__codebook_step(const sqm__codebook *c, const sqm__kernels *k, const sqm__codebook_head *head,
                               float *out, const float *scores, const float *keys, const float *relative,
                               const float *v, int32_t h, int32_t p, float *work)
{
    const float *half = c->half + (size_t)h * (size_t)c->codes_pad;
    const size_t panel = SQM__LANES * sizeof(float);
    float *acc = work + c->codes_pad + c->near_pad;
    int32_t best = 0;
    for (int32_t j = p ? sqm__codebook_start(c, p - 1) : 0; j < sqm__codebook_start(c, p); j++)
        sqm__codebook_fold(c, head, j);
    for (int32_t s = 1; s < c->codes; s++)
        if (half[s] - keys[s] < half[best] - keys[best]) best = s;
    head->codes[p % c->near] = (float)best;
    for (int32_t i = 0; i < c->v_dim; i++) *sqm__panel_at(head->values, c->near, p % c->near, i) = v[i];
    sqm__codebook_weigh(c, k, head, work, scores, relative,
                        c->bias ? c->bias + (size_t)h * (size_t)c->near : NULL, p);
    SQM__CALL(k, product)(acc, (size_t)c->v_pad, work, 0, 1, (const uint8_t *)(const void *)head->means,
               panel * (size_t)c->codes, c->v_pad / SQM__LANES, c->codes, 0, SQM_F32);
    SQM__CALL(k, product)(acc, (size_t)c->v_pad, work + c->codes_pad, 0, 1,
                          (const uint8_t *)(const void *)head->values,
               panel * (size_t)c->near, c->v_pad / SQM__LANES, c->near, 1, SQM_F32);
    for (int32_t i = 0; i < c->v_dim; i++) out[i] = acc[i] / acc[c->v_dim];
}

typedef struct sqm__codebook_job {
    const sqm__codebook *c;
    const sqm_exec      *x;
    float               *out;
    const float         *in;
    const sqm_span      *spans;
    int32_t              n_spans, pieces;
} sqm__codebook_job;
static size_t sqm__codebook_piece_floats(const sqm__codebook *c)
{
    return (size_t)(c->codes_pad + c->near_pad + c->v_pad) +
           SQM__CODEBOOK_BLOCK * (2 * (size_t)c->codes_pad + (size_t)c->near_pad);
}
/* Rows of q (or k) of head h against the head's part of a panel matrix */
static void sqm__codebook_product(const sqm__codebook *c, const sqm__kernels *k, const sqm_tensor *t,
                                  float *y, int32_t outputs, const float *x, int32_t h, int32_t n)
{
    const size_t panel = (size_t)c->head_dim * SQM__LANES * (t->dtype == SQM_F32 ? 4u : 2u);
    const size_t panels = (size_t)(outputs / SQM__LANES);
    SQM__CALL(k, product)(y, (size_t)outputs, x, (size_t)(c->heads * (2 * c->head_dim + c->v_dim)), n,
               (const uint8_t *)t->data + panel * panels * (size_t)h, panel, (int32_t)panels, c->head_dim, 0,
               t->dtype);
}
static void sqm__codebook_block(const sqm__codebook_job *job, float *work, const sqm_span *span, int32_t h,
                                int32_t first, int32_t n)
{
    const sqm__codebook *c = job->c;
    const sqm__kernels *k = job->x->kernels;
    const size_t dim = (size_t)c->head_dim, heads = (size_t)c->heads, head = (size_t)h;
    const size_t in_width = heads * (2 * dim + (size_t)c->v_dim), row = (size_t)(span->first_row + first);
    const float *q = job->in + row * in_width + head * dim, *key = q + heads * dim;
    const float *v = job->in + row * in_width + 2 * heads * dim + head * (size_t)c->v_dim;
    const sqm__codebook_head state = sqm__codebook_head_of(c, span->state, h);
    float *scores = work + c->codes_pad + c->near_pad + c->v_pad;
    float *keys = scores + SQM__CODEBOOK_BLOCK * (size_t)c->codes_pad;
    float *relative = keys + SQM__CODEBOOK_BLOCK * (size_t)c->codes_pad;
    sqm__codebook_product(c, k, &c->book, scores, c->codes_pad, q, h, n);
    sqm__codebook_product(c, k, &c->book, keys, c->codes_pad, key, h, n);
    if (c->relative.data) sqm__codebook_product(c, k, &c->relative, relative, c->near_pad, q, h, n);
    for (int32_t t = 0; t < n; t++)
        sqm__codebook_step(c, k, &state, job->out + ((row + (size_t)t) * heads + head) * (size_t)c->v_dim,
                           scores + (size_t)t * (size_t)c->codes_pad, keys + (size_t)t * (size_t)c->codes_pad,
                           c->relative.data ? relative + (size_t)t * (size_t)c->near_pad : NULL,
                           v + (size_t)t * in_width, h, span->position + first + t, work);
}
static void sqm__codebook_task(void *arg, int32_t piece)
{
    const sqm__codebook_job *job = (const sqm__codebook_job *)arg;
    float *work = (float *)(void *)job->x->scratch + sqm__codebook_piece_floats(job->c) * (size_t)piece;
    int32_t unit = 0;
    for (int32_t s = 0; s < job->n_spans; s++)
        for (int32_t h = 0; job->spans[s].state && h < job->c->heads; h++) {
            const sqm_span *span = &job->spans[s];
            if (unit++ % job->pieces != piece) continue;
            for (int32_t t = 0; t < span->rows; t += SQM__CODEBOOK_BLOCK)
                sqm__codebook_block(job, work, span, h, t, sqm__min(SQM__CODEBOOK_BLOCK, span->rows - t));
        }
}
static void sqm__codebook_run(const void *bound, sqm_exec *x, float *out, const float *in,
                              const sqm_span *spans, int32_t n_spans)
{
    const sqm__codebook *c = (const sqm__codebook *)bound;
    sqm__codebook_job job;
    size_t rows = 0;
    for (int32_t s = 0; s < n_spans; s++) rows += (size_t)spans[s].rows;
    job.c = c; job.x = x; job.out = out; job.in = in; job.spans = spans; job.n_spans = n_spans;
    job.pieces = sqm__pieces(x, rows * (size_t)c->heads * (size_t)(c->codes + c->near) *
                                (size_t)(2 * c->head_dim + c->v_dim));
    sqm__run(x, sqm__codebook_task, &job, job.pieces);
}
static size_t sqm__codebook_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                          int32_t threads)
{
    (void)max_context; (void)max_batch;
    return sqm__pieces_bytes(sqm__codebook_piece_floats((const sqm__codebook *)bound), threads);
}
static sqm_result sqm__codebook_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                        const sqm_span *spans, int32_t n_spans)
{
    return sqm__run_spans(sqm_mixer_codebook(), bound, x, out, in, spans, n_spans,
                          sqm__codebook_scratch_bytes(bound, 0, 0, x->threads), sqm__codebook_run);
}
static const sqm_mixer sqm__codebook_mixer = {
    "codebook", "heads head_dim v_dim codes near block codebook half relative bias", sizeof(sqm__codebook),
    SQM_MIXER_CAUSAL, 0, sqm__codebook_bind, sqm__codebook_state_bytes, sqm__codebook_used_bytes,
    sqm__codebook_scratch_bytes, sqm__codebook_reset, sqm__codebook_forward
};
SQMDEF const sqm_mixer *sqm_mixer_codebook(void) { return &sqm__codebook_mixer; }

/* ---- [MIX.linear_attention] gated outer-product recurrence ------------------------------------------------
   A matrix S [key_dim, v_dim] a head, zero at the start:
     decay      S' = diag(d_t) S         d_t: 1 | a factor of the head | one a row | one a row and key channel
                S' = S diag(d_t)         decay=value: one a row and value channel
     update     add    S = S' + g_t k_t v_t^T
                delta  S = S' + g_t k_t (v_t - S'^T k_t)^T
                dplr   S = S' + b_t (a_t^T S_before) + g_t k_t v_t^T       a reads the state before the decay
     result     post   o_t = scale S_t^T q_t
                pre    o_t = scale (S_before^T q_t + (q_t . (bonus * k_t)) v_t)
     normalizer none   o_t
                sum    o_t / (scale z_t . q_t + eps)           z_t = d_t z + g_t k_t, key_start at the start
                max    o_t / (max(|scale z_t . q_t|, e^-m_t) + eps)
     log_gates  the decay column holds log f <= 0, the gate column log i; with m_t = max(log f + m, log i),
                0 at the start: d_t = e^(log f + m - m_t), g_t = e^(log i - m_t)
   steps > 1 makes that many updates a row (the decay comes with the first) before it is read.
   Rows in  [q: q_heads x key_dim | k: steps x k_heads x key_dim | v: steps x v_heads x v_dim | decay:
            decay_heads, x key_dim with decay=vector, x v_dim with decay=value | g: steps x heads (gate=1) |
            a, b: like k (update=dplr)]; a part with n heads serves head h with its head h / (heads / n).
            Feature maps, norms and the gates' non-linearities are ops of the recipe.
   Rows out [heads x v_dim].
   factors  [heads] or [heads x key_dim]: decay factors that do not depend on the row.
   State    [heads][v_dim / 16][key_dim][16] floats, then z [heads][key_dim up to a multiple of 16], then
            m [heads], where they are used; what is beyond v_dim or key_dim is 0. It does not grow.
   Order    row by row, sums over key channels in increasing order, each tile of 16 value channels by itself:
            cuts, batches and threads change no bit. Chunked forms are not used: on a processor the step form
            with the state tile in cache does the same work, and it stays exact when decays are strong.
   Source   2006.16236 (linear attention), 2307.08621 (retention), 2312.06635 (GLA), 2404.07904 (HGRN2),
            2406.06484 (DeltaNet), 2412.06464 (gated DeltaNet), 2510.26692 (KDA), 2404.05892 (RWKV-5, 6),
            2503.14456 (RWKV-7), 2405.04517 (mLSTM), 2501.08313 (lightning attention).
   Traps    decays are factors in [0, 1], not logarithms (but for log_gates); the delta rule predicts from the
            decayed state; scale also stands in the normalizer.
   Tests    tests/test_mix_linear.c; tools/sqm-vectors: op_*, *_layer, rwkv*, mlstm_*, retnet_*, performer_*.
   linear_attention_whole: the same rows, but every row sees all rows of the sequence; add, post, no decay. */
enum { SQM__DECAY_NONE, SQM__DECAY_SCALAR, SQM__DECAY_VECTOR, SQM__DECAY_VALUE };
enum { SQM__NORMALIZER_NONE, SQM__NORMALIZER_SUM, SQM__NORMALIZER_MAX };
typedef struct sqm__linear_attention {
    int32_t      heads, key_dim, v_dim, q_heads, k_heads, v_heads, decay_heads, steps, tiles, in_width;
    int32_t      update, read, decay, normalizer, gate, log_gates;
    int32_t      at_k, at_v, at_decay, at_gate, at_a, at_b;              /* columns */
    float        scale, eps, key_start;
    const float *factors, *bonus;
    int32_t      factors_a_head, decay_width;          /* decay factors of a head */
} sqm__linear_attention;

static sqm_result sqm__linear_attention_options(sqm__linear_attention *a, const sqm_param *params, int32_t n,
                                                sqm_error *err)
{
    static const char *const updates[] = { "add", "delta", "dplr" }, *const reads[] = { "post", "pre" };
    static const char *const decays[] = { "none", "scalar", "vector", "value" };
    static const char *const normalizers[] = { "none", "sum", "max" };
    const sqm_param *factors = sqm__param(params, n, "factors");
    SQM__TRY(sqm__param_choice(&a->update, params, n, "update", updates, 3, SQM__OUTER_ADD, err));
    SQM__TRY(sqm__param_choice(&a->read, params, n, "read", reads, 2, SQM__OUTER_POST, err));
    SQM__TRY(sqm__param_choice(&a->decay, params, n, "decay", decays, 4, SQM__DECAY_NONE, err));
    SQM__TRY(sqm__param_choice(&a->normalizer, params, n, "normalizer", normalizers, 3, SQM__NORMALIZER_NONE,
                             err));
    SQM__TRY(sqm__param_int(&a->gate, params, n, "gate", 0, 0, 1, err));
    SQM__TRY(sqm__param_int(&a->log_gates, params, n, "log_gates", 0, 0, 1, err));
    SQM__TRY(sqm__param_int(&a->steps, params, n, "steps", 1, 1, 64, err));
    SQM__TRY(sqm__param_float(&a->scale, params, n, "scale", 1.0, err));
    SQM__TRY(sqm__param_float(&a->eps, params, n, "eps", 0.0, err));
    SQM__TRY(sqm__param_float(&a->key_start, params, n, "key_start", 0.0, err));
    SQM__TRY(sqm__param_vector(&a->bonus, params, n, "bonus", a->heads * a->key_dim, err));
    a->factors_a_head = factors && factors->n_tensors == 1 && factors->tensors[0] &&
        factors->tensors[0]->shape[0] == a->heads ? 1 : a->key_dim;
    SQM__TRY(sqm__param_vector(&a->factors, params, n, "factors", a->heads * a->factors_a_head, err));
    if (a->factors && a->decay)
        SQM__FAIL(err, SQM_E_SHAPE, a->decay, "factors and decay columns exclude each other");
    if (a->read == SQM__OUTER_PRE && (a->update || a->normalizer || a->steps > 1))
        SQM__FAIL(err, SQM_E_UNSUPPORTED, a->update,
                  "read=pre goes with update=add, one step, no normalizer");
    if (a->bonus && a->read != SQM__OUTER_PRE) SQM__FAIL(err, SQM_E_SHAPE, 0, "a bonus needs read=pre");
    if (a->normalizer && (a->update || a->steps > 1))
        SQM__FAIL(err, SQM_E_UNSUPPORTED, a->update, "a normalizer goes with update=add and one step");
    if (a->log_gates && (a->update || a->steps > 1 || a->decay != SQM__DECAY_SCALAR || !a->gate ||
                         a->decay_heads != a->heads))
        SQM__FAIL(err, SQM_E_UNSUPPORTED, a->update,
                  "log_gates goes with update=add, decay=scalar and gate=1 of every head, one step");
    if (a->normalizer == SQM__NORMALIZER_MAX && !a->log_gates)
        SQM__FAIL(err, SQM_E_UNSUPPORTED, 0, "normalizer=max needs log_gates=1");
    if (a->decay == SQM__DECAY_VALUE && (a->update || a->read || a->normalizer))
        SQM__FAIL(err, SQM_E_UNSUPPORTED, a->update,
                  "decay=value goes with update=add, read=post, no normalizer");
    if (a->steps > 1 && (a->decay > SQM__DECAY_SCALAR || (a->factors && a->factors_a_head > 1)))
        SQM__FAIL(err, SQM_E_UNSUPPORTED, a->steps, "%d steps need a decay of one factor a head", a->steps);
    return SQM_OK;
}

static sqm_result sqm__linear_attention_bind(void *bound, const sqm_param *params, int32_t n,
                                             int32_t in_width,
                                             int32_t *out_width, sqm_error *err)
{
    sqm__linear_attention *a = (sqm__linear_attention *)bound;
    int64_t at[7];
    memset(a, 0, sizeof(*a));
    SQM__TRY(sqm__param_int(&a->heads, params, n, "heads", 0, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&a->key_dim, params, n, "key_dim", 0, 1, 1 << 14, err));
    SQM__TRY(sqm__param_int(&a->v_dim, params, n, "v_dim", a->key_dim, 1, 1 << 14, err));
    SQM__TRY(sqm__param_int(&a->q_heads, params, n, "q_heads", a->heads, 1, a->heads, err));
    SQM__TRY(sqm__param_int(&a->k_heads, params, n, "k_heads", a->heads, 1, a->heads, err));
    SQM__TRY(sqm__param_int(&a->v_heads, params, n, "v_heads", a->heads, 1, a->heads, err));
    SQM__TRY(sqm__param_int(&a->decay_heads, params, n, "decay_heads", a->heads, 1, a->heads, err));
    if (a->heads % a->q_heads || a->heads % a->k_heads || a->heads % a->v_heads || a->heads % a->decay_heads)
        SQM__FAIL(err, SQM_E_SHAPE, a->heads, "%d heads cannot share %d, %d, %d and %d of q, k, v, decay",
                  a->heads, a->q_heads, a->k_heads, a->v_heads, a->decay_heads);
    if ((int64_t)a->heads * sqm__max(a->key_dim, a->v_dim) > INT32_MAX / 4)
        SQM__FAIL(err, SQM_E_LIMIT, a->heads, "%d heads of %d x %d are too wide", a->heads, a->key_dim,
                  a->v_dim);
    SQM__TRY(sqm__linear_attention_options(a, params, n, err));
    at[0] = (int64_t)a->q_heads * a->key_dim;
    at[1] = at[0] + (int64_t)a->steps * a->k_heads * a->key_dim;
    at[2] = at[1] + (int64_t)a->steps * a->v_heads * a->v_dim;
    a->decay_width = a->decay == SQM__DECAY_VECTOR ? a->key_dim : a->decay == SQM__DECAY_VALUE ? a->v_dim : 1;
    at[3] = at[2] + (a->decay ? (int64_t)a->decay_heads * a->decay_width : 0);
    at[4] = at[3] + (a->gate ? (int64_t)a->steps * a->heads : 0);
    at[5] = at[4] + (a->update == SQM__OUTER_DPLR ? at[1] - at[0] : 0);
    at[6] = at[5] + (at[5] - at[4]);
    if (at[6] != in_width)
        SQM__FAIL(err, SQM_E_SHAPE, in_width, "%d heads of %d x %d channels need rows of %z columns, not %d",
                  a->heads, a->key_dim, a->v_dim, (uint64_t)at[6], in_width);
    a->at_k = (int32_t)at[0]; a->at_v = (int32_t)at[1]; a->at_decay = (int32_t)at[2];
    a->at_gate = (int32_t)at[3]; a->at_a = (int32_t)at[4]; a->at_b = (int32_t)at[5];
    a->in_width = in_width;
    a->tiles = sqm__ceil_div(a->v_dim, SQM__LANES);
    *out_width = a->heads * a->v_dim;
    return SQM_OK;
}

/* floats of the state: of one head's matrix, of its key sum, and where the parts of all heads begin */
SQM__INLINE size_t sqm__outer_head(const sqm__linear_attention *a)
{
    return (size_t)a->tiles * (size_t)a->key_dim * SQM__LANES;
}
SQM__INLINE size_t sqm__outer_keys(const sqm__linear_attention *a)
{
    return a->normalizer ? (size_t)sqm__ceil_div(a->key_dim, SQM__LANES) * SQM__LANES : 0;
}
static size_t sqm__linear_attention_floats(const sqm__linear_attention *a)
{
    const size_t heads = (size_t)a->heads;
    return heads * (sqm__outer_head(a) + sqm__outer_keys(a)) + (a->log_gates ? heads : 0);
}
static size_t sqm__linear_attention_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                                sqm_dtype kv_dtype)
{
    (void)max_context; (void)max_batch; (void)kv_dtype;
    return sqm__linear_attention_floats((const sqm__linear_attention *)bound) * sizeof(float);
}
static size_t sqm__linear_attention_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state; (void)position;
    return sqm__linear_attention_floats((const sqm__linear_attention *)bound) * sizeof(float);
}
static void sqm__linear_attention_reset(const void *bound, void *state, size_t state_bytes,
                                        int32_t max_context,
                                        int32_t max_batch, sqm_dtype kv_dtype)
{
    const sqm__linear_attention *a = (const sqm__linear_attention *)bound;
    const size_t keys = sqm__outer_keys(a);
    float *sums = (float *)state + (size_t)a->heads * sqm__outer_head(a);
    (void)state_bytes; (void)max_context; (void)max_batch; (void)kv_dtype;
    memset(state, 0, sqm__linear_attention_floats(a) * sizeof(float));
    for (size_t h = 0; keys && h < (size_t)a->heads; h++)
        for (size_t i = 0; i < (size_t)a->key_dim; i++) sums[h * keys + i] = a->key_start;
}

/* Arrays [heads][rows] that the pass over the keys leaves for the pass over the state. */
static int32_t sqm__outer_arrays(const sqm__linear_attention *a)
{
    return (a->normalizer != 0) + (a->bonus != NULL) + (a->log_gates ? 3 : 0);
}
static size_t sqm__linear_attention_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                                  int32_t threads)
{
    const sqm__linear_attention *a = (const sqm__linear_attention *)bound;
    (void)max_context; (void)threads;
    return (size_t)sqm__outer_arrays(a) * (size_t)a->heads * (size_t)max_batch * sizeof(float) + 64;
}

enum { SQM__OUTER_TILES = 4 };          /* state tiles of a unit of work */
typedef struct sqm__outer_job {
    const sqm__linear_attention *a;
    const sqm_exec *x;
    float          *out, *arrays;
    const float    *in;
    const sqm_span *spans;
    size_t          n_rows;             /* of the batch: arrays are [heads][n_rows] each */
    int32_t         n_spans, pieces;
} sqm__outer_job;

/* Head h of a span whose state is given. */
static void sqm__outer_open(sqm__outer *o, const sqm__outer_job *job, const sqm_span *span, int32_t h)
{
    const sqm__linear_attention *a = job->a;
    const size_t first = (size_t)span->first_row, head = (size_t)h, all = (size_t)a->heads * job->n_rows;
    const float *row = job->in + first * (size_t)a->in_width;
    float *state = (float *)span->state, *arrays = job->arrays + head * job->n_rows + first;
    const int32_t k_at = h / (a->heads / a->k_heads) * a->key_dim, decay_at = h / (a->heads / a->decay_heads);
    memset(o, 0, sizeof(*o));
    o->state = state + head * sqm__outer_head(a);
    if (a->normalizer) o->key_sum = state + (size_t)a->heads * sqm__outer_head(a) + head * sqm__outer_keys(a);
    o->q = row + h / (a->heads / a->q_heads) * a->key_dim;
    o->k = row + a->at_k + k_at;
    o->v = row + a->at_v + h / (a->heads / a->v_heads) * a->v_dim;
    if (a->update == SQM__OUTER_DPLR) { o->a = row + a->at_a + k_at; o->b = row + a->at_b + k_at; }
    o->stride = o->decay_stride = o->gate_stride = (size_t)a->in_width;
    o->k_step = (size_t)a->k_heads * (size_t)a->key_dim;
    o->v_step = (size_t)a->v_heads * (size_t)a->v_dim;
    o->gate_step = (size_t)a->heads;
    if (a->decay) o->decay = row + a->at_decay + decay_at * a->decay_width;
    if (a->factors) { o->decay = a->factors + h * a->factors_a_head; o->decay_stride = 0; }
    o->decay_by = a->decay == SQM__DECAY_VECTOR || (a->factors && a->factors_a_head > 1) ? SQM__BY_KEY
        : a->decay == SQM__DECAY_VALUE ? SQM__BY_VALUE : SQM__BY_HEAD;
    if (a->gate) o->gate = row + a->at_gate + h;
    if (a->normalizer) { o->factor = arrays; arrays += all; }
    if (a->bonus) { o->bonus = a->bonus + head * (size_t)a->key_dim; o->extra = arrays; arrays += all; }
    if (a->log_gates) {
        o->decay = arrays;
        o->gate = arrays + all;
        o->decay_stride = o->gate_stride = 1;
    }
    o->out = job->out + (first * (size_t)a->heads + head) * (size_t)a->v_dim;
    o->out_stride = (size_t)a->heads * (size_t)a->v_dim;
    o->n_rows = span->rows;
    o->steps = a->steps;
    o->key_dim = a->key_dim;
    o->v_dim = a->v_dim;
    o->update = a->update;
    o->read = a->read;
    o->scale = a->scale;
}

/* The factors of exponential gates, kept from overflow by the running maximum m; least: e^-m of each row. */
static void sqm__outer_log_gates(const sqm__outer_job *job, const sqm_span *span, int32_t h, float *decay,
                                 float *gate, float *least)
{
    const sqm__linear_attention *a = job->a;
    const float *row = job->in + (size_t)span->first_row * (size_t)a->in_width;
    float *m = (float *)span->state + (size_t)a->heads * (sqm__outer_head(a) + sqm__outer_keys(a)) + h;
    for (size_t t = 0; t < (size_t)span->rows; t++, row += a->in_width) {
        const float kept = row[a->at_decay + h] + *m, in = row[a->at_gate + h], now = kept > in ? kept : in;
        decay[t] = kept - now;
        gate[t] = in - now;
        least[t] = -now;
        *m = now;
    }
    SQM__CALL(job->x->kernels, activate)(decay, decay, (size_t)span->rows, SQM_ACT_EXP);
    SQM__CALL(job->x->kernels, activate)(gate, gate, (size_t)span->rows, SQM_ACT_EXP);
    SQM__CALL(job->x->kernels, activate)(least, least, (size_t)span->rows, SQM_ACT_EXP);
}

static void sqm__outer_sums_task(void *arg, int32_t piece)
{
    const sqm__outer_job *job = (const sqm__outer_job *)arg;
    const sqm__linear_attention *a = job->a;
    const size_t all = (size_t)a->heads * job->n_rows;
    int32_t unit = 0;
    for (int32_t s = 0; s < job->n_spans; s++)
        for (int32_t h = 0; job->spans[s].state && h < a->heads; h++) {
            float *last = job->arrays + (size_t)(sqm__outer_arrays(a) - 1) * all + (size_t)h * job->n_rows +
                (size_t)job->spans[s].first_row;
            sqm__outer o;
            if (unit++ % job->pieces != piece) continue;
            sqm__outer_open(&o, job, &job->spans[s], h);
            if (a->log_gates) sqm__outer_log_gates(job, &job->spans[s], h, last - 2 * all, last - all, last);
            SQM__CALL(job->x->kernels, outer_sums)(&o, a->eps,
                                                   a->normalizer == SQM__NORMALIZER_MAX ? last : NULL);
        }
}
static void sqm__outer_task(void *arg, int32_t piece)
{
    const sqm__outer_job *job = (const sqm__outer_job *)arg;
    int32_t unit = 0;
    for (int32_t s = 0; s < job->n_spans; s++)
        for (int32_t h = 0; job->spans[s].state && h < job->a->heads; h++)
            for (int32_t tile = 0; tile < job->a->tiles; tile += SQM__OUTER_TILES) {
                sqm__outer o;
                if (unit++ % job->pieces != piece) continue;
                sqm__outer_open(&o, job, &job->spans[s], h);
                SQM__CALL(job->x->kernels, outer)(&o, tile, sqm__min(tile + SQM__OUTER_TILES, job->a->tiles));
            }
}
/* Rows up to the last one of any span */
static size_t sqm__span_rows(const sqm_span *spans, int32_t n_spans)
{
    size_t rows = 0;
    for (int32_t s = 0; s < n_spans; s++) {
        const size_t end = (size_t)spans[s].first_row + (size_t)spans[s].rows;
        if (end > rows) rows = end;
    }
    return rows;
}
static void sqm__outer_run(const void *bound, sqm_exec *x, float *out, const float *in, const sqm_span *spans,
                           int32_t n_spans)
{
    const sqm__linear_attention *a = (const sqm__linear_attention *)bound;
    sqm__outer_job job;
    size_t rows = 0;
    job.a = a; job.x = x; job.out = out; job.in = in; job.spans = spans; job.n_spans = n_spans;
    job.n_rows = sqm__span_rows(spans, n_spans);
    job.arrays = (float *)(void *)x->scratch;
    for (int32_t s = 0; s < n_spans; s++) rows += spans[s].state ? (size_t)spans[s].rows : 0;
    job.pieces = sqm__pieces(x, rows * (size_t)a->steps * sqm__outer_head(a) * (size_t)a->heads * 3);
    if (sqm__outer_arrays(a)) sqm__run(x, sqm__outer_sums_task, &job, job.pieces);
    sqm__run(x, sqm__outer_task, &job, job.pieces);
}
static sqm_result sqm__linear_attention_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                                const sqm_span *spans, int32_t n_spans)
{
    const sqm__linear_attention *a = (const sqm__linear_attention *)bound;
    const size_t arrays = (size_t)sqm__outer_arrays(a) * (size_t)a->heads * sizeof(float);
    return sqm__run_spans(sqm_mixer_linear_attention(), a, x, out, in, spans, n_spans,
                          arrays * sqm__span_rows(spans, n_spans), sqm__outer_run);
}

static const char sqm__linear_attention_keys[] =
    "heads key_dim v_dim q_heads k_heads v_heads decay_heads steps update read decay factors gate log_gates "
    "bonus normalizer eps key_start scale";
static const sqm_mixer sqm__linear_attention_mixer = {
    "linear_attention", sqm__linear_attention_keys, sizeof(sqm__linear_attention), SQM_MIXER_CAUSAL, 0,
    sqm__linear_attention_bind, sqm__linear_attention_state_bytes, sqm__linear_attention_used_bytes,
    sqm__linear_attention_scratch_bytes, sqm__linear_attention_reset, sqm__linear_attention_forward
};
SQMDEF const sqm_mixer *sqm_mixer_linear_attention(void) { return &sqm__linear_attention_mixer; }

/* ---- the same over whole sequences: every row sees all ---- */
static sqm_result sqm__linear_attention_whole_bind(void *bound, const sqm_param *params, int32_t n,
                                                   int32_t in_width, int32_t *out_width, sqm_error *err)
{
    const sqm__linear_attention *a = (const sqm__linear_attention *)bound;
    SQM__TRY(sqm__linear_attention_bind(bound, params, n, in_width, out_width, err));
    if (a->update || a->read || a->decay || a->factors || a->gate || a->steps > 1 || a->key_start != 0.0f)
        SQM__FAIL(err, SQM_E_UNSUPPORTED, a->update,
                  "linear_attention_whole has no decay, gate, other update or read than add and post");
    return SQM_OK;
}
/* of one piece: a head's matrix and key sum, the work area of a product, factors of the rows */
static size_t sqm__whole_floats(const sqm__linear_attention *a, size_t rows)
{
    return sqm__outer_head(a) + sqm__outer_keys(a) + SQM__WORK_FLOATS + sqm__align_up(rows, SQM__LANES);
}
static size_t sqm__linear_attention_whole_scratch(const void *bound, int32_t max_context, int32_t max_batch,
                                                  int32_t threads)
{
    (void)max_context;
    return sqm__whole_floats((const sqm__linear_attention *)bound, (size_t)max_batch) * sizeof(float) *
           (size_t)threads;
}
static size_t sqm__no_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                  sqm_dtype kv_dtype)
{
    (void)bound; (void)max_context; (void)max_batch; (void)kv_dtype;
    return 0;
}
static size_t sqm__no_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)bound; (void)state; (void)position;
    return 0;
}
static void sqm__no_reset(const void *bound, void *state, size_t state_bytes, int32_t max_context,
                          int32_t max_batch, sqm_dtype kv_dtype)
{
    (void)bound; (void)state; (void)state_bytes; (void)max_context; (void)max_batch; (void)kv_dtype;
}

/* S = sum k v^T, then all rows' q S as one product: the state is a panel matrix */
static void sqm__outer_whole(const sqm__outer_job *job, const sqm_span *span, int32_t h, float *memory)
{
    static const float nothing = 0.0f;
    const sqm__linear_attention *a = job->a;
    float *work = memory + sqm__outer_head(a) + sqm__outer_keys(a), *factors = work + SQM__WORK_FLOATS;
    sqm_span own = *span;
    sqm__outer o;
    sqm__gemm g;
    memset(memory, 0, (sqm__outer_head(a) + sqm__outer_keys(a)) * sizeof(float));
    own.state = memory;
    sqm__outer_open(&o, job, &own, h);
    o.state = memory;
    o.read = SQM__OUTER_UNREAD;
    SQM__CALL(job->x->kernels, outer)(&o, 0, a->tiles);
    memset(&g, 0, sizeof(g));
    g.y = o.out; g.y_stride = o.out_stride; g.x = o.q; g.x_stride = o.stride;
    g.panels = (const uint8_t *)(const void *)memory;
    g.panel_bytes = (size_t)a->key_dim * SQM__LANES * sizeof(float);
    g.scale = a->normalizer ? 1.0f : a->scale;
    g.n_tokens = span->rows; g.n_rows = a->v_dim; g.n_cols = a->key_dim; g.dtype = SQM_F32;
    SQM__CALL(job->x->kernels, gemm)(&g, 0, a->tiles, work);
    if (!a->normalizer) return;
    o.key_sum = memory + sqm__outer_head(a);
    for (size_t t = 0; t < (size_t)span->rows; t++)
        for (int32_t i = 0; i < a->key_dim; i++) o.key_sum[i] += o.k[t * o.stride + (size_t)i];
    o.factor = factors;
    o.gate = &nothing;                  /* adds nothing to the sum, which is complete */
    o.gate_stride = 0;
    SQM__CALL(job->x->kernels, outer_sums)(&o, a->eps, NULL);
    for (size_t t = 0; t < (size_t)span->rows; t++)
        for (int32_t i = 0; i < a->v_dim; i++) o.out[t * o.out_stride + (size_t)i] *= factors[t];
}
static void sqm__outer_whole_task(void *arg, int32_t piece)
{
    const sqm__outer_job *job = (const sqm__outer_job *)arg;
    int32_t unit = 0;
    for (int32_t s = 0; s < job->n_spans; s++)
        for (int32_t h = 0; h < job->a->heads; h++)
            if (unit++ % job->pieces == piece)
                sqm__outer_whole(job, &job->spans[s], h,
                                 job->arrays + (size_t)piece * sqm__whole_floats(job->a, job->n_rows));
}
static sqm_result sqm__linear_attention_whole_forward(const void *bound, sqm_exec *x, float *out,
                                                      const float *in,
                                                      const sqm_span *spans, int32_t n_spans)
{
    const sqm__linear_attention *a = (const sqm__linear_attention *)bound;
    sqm__outer_job job;
    size_t rows = 0, need;
    memset(&job, 0, sizeof(job));
    job.a = a; job.x = x; job.out = out; job.in = in; job.spans = spans; job.n_spans = n_spans;
    job.arrays = (float *)(void *)x->scratch;
    for (int32_t s = 0; s < n_spans; s++) {
        if ((size_t)spans[s].rows > job.n_rows) job.n_rows = (size_t)spans[s].rows;
        rows += (size_t)spans[s].rows;
        if (spans[s].position)
            SQM__FAIL(&x->error, SQM_E_ARGUMENT, spans[s].position,
                      "linear_attention_whole needs whole sequences, not rows from position %d on",
                      spans[s].position);
    }
    job.pieces = sqm__pieces(x, rows * sqm__outer_head(a) * (size_t)a->heads * 4);
    need = sqm__whole_floats(a, job.n_rows) * sizeof(float) * (size_t)job.pieces;
    if (need > x->scratch_bytes)
        SQM__FAIL(&x->error, SQM_E_MEMORY, need,
                  "linear_attention_whole needs %z bytes of scratch, the context has %z", (uint64_t)need,
                  (uint64_t)x->scratch_bytes);
    sqm__run(x, sqm__outer_whole_task, &job, job.pieces);
    return SQM_OK;
}
static const sqm_mixer sqm__linear_attention_whole_mixer = {
    "linear_attention_whole", sqm__linear_attention_keys, sizeof(sqm__linear_attention),
    SQM_MIXER_WHOLE_ONLY, 0, sqm__linear_attention_whole_bind, sqm__no_state_bytes, sqm__no_used_bytes,
    sqm__linear_attention_whole_scratch, sqm__no_reset, sqm__linear_attention_whole_forward
};
SQMDEF const sqm_mixer *sqm_mixer_linear_attention_whole(void) { return &sqm__linear_attention_whole_mixer; }

/* ---- [MIX.running_softmax] softmax over all earlier rows, whose scores do not see the query ---------------
     m_t = max(m + d, s_t);  u_t = u e^(m + d - m_t) + e^(s_t - m_t);  w_t alike, its last term times v_t
     o_t = w_t / u_t with bonus b, of the state before row t: p = max(m, b + s_t),
     o_t = (w e^(m - p) + e^(b + s_t - p) v_t) / (u e^(m - p) + e^(b + s_t - p))
   Rows in  [s: heads | v: heads x v_dim], rows out [heads x v_dim]. decay [heads]: logarithm d <= 0 of the
            weight that earlier rows lose with each row (absent: 0); bonus [heads]: b.
   weights=1  rows in [s: heads], rows out [p: heads | r: heads]: what row t weighs, p = e^(s_t - m_t) / u_t,
            and what all earlier ones keep, r = 1 - p: a recurrence with decay r and input p v is the softmax.
   State    m, u, w [heads x v_dim] each (weights=1: no w); m = -1e38 at the start.
   Order    row by row, each channel by itself.
   Source   2405.13956 (Aaren: the query is learned, s = q . k), 2305.13048 (RWKV-4: s = k of each channel).
   Traps    RWKV-4's decay is -e^(time_decay).
   Tests    tests/test_mix_linear.c; tools/sqm-vectors: aaren_*, rwkv4_*. */
typedef struct sqm__running_softmax {
    int32_t      heads, v_dim, channels, in_width, out_width, weights;
    const float *decay, *bonus;
} sqm__running_softmax;

static sqm_result sqm__running_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                    int32_t *out_width, sqm_error *err)
{
    sqm__running_softmax *a = (sqm__running_softmax *)bound;
    memset(a, 0, sizeof(*a));
    SQM__TRY(sqm__param_int(&a->heads, params, n, "heads", 0, 1, 1 << 24, err));
    SQM__TRY(sqm__param_int(&a->v_dim, params, n, "v_dim", 1, 1, 1 << 16, err));
    SQM__TRY(sqm__param_vector(&a->decay, params, n, "decay", a->heads, err));
    SQM__TRY(sqm__param_vector(&a->bonus, params, n, "bonus", a->heads, err));
    SQM__TRY(sqm__param_int(&a->weights, params, n, "weights", 0, 0, 1, err));
    if (a->weights && (a->v_dim != 1 || a->bonus))
        SQM__FAIL(err, SQM_E_UNSUPPORTED, a->v_dim, "weights=1 goes with v_dim=1 and no bonus");
    if ((int64_t)a->heads * (a->weights ? 1 : a->v_dim + 1) != in_width)
        SQM__FAIL(err, SQM_E_SHAPE, in_width, "%d scores and values of %d channels do not fit rows of %d",
                  a->heads, a->weights ? 0 : a->v_dim, in_width);
    a->channels = a->heads * a->v_dim;
    a->in_width = in_width;
    a->out_width = a->weights ? 2 * a->channels : a->channels;
    *out_width = a->out_width;
    return SQM_OK;
}
static size_t sqm__running_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                       sqm_dtype kv_dtype)
{
    const sqm__running_softmax *a = (const sqm__running_softmax *)bound;
    (void)max_context; (void)max_batch; (void)kv_dtype;
    return (size_t)a->channels * (a->weights ? 2 : 3) * sizeof(float);
}
static size_t sqm__running_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state; (void)position;
    return sqm__running_state_bytes(bound, 0, 0, SQM_F32);
}
static size_t sqm__running_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                         int32_t threads)
{
    (void)bound; (void)max_context; (void)max_batch; (void)threads;
    return 0;
}
static void sqm__running_reset(const void *bound, void *state, size_t state_bytes, int32_t max_context,
                               int32_t max_batch, sqm_dtype kv_dtype)
{
    const size_t n = (size_t)((const sqm__running_softmax *)bound)->channels;
    float *m = (float *)state;
    (void)state_bytes; (void)max_context; (void)max_batch; (void)kv_dtype;
    memset(m, 0, sqm__running_state_bytes(bound, 0, 0, SQM_F32));
    for (size_t i = 0; i < n; i++) m[i] = -1.0e38f;
}

typedef struct sqm__running_job {
    const sqm__running_softmax *a;
    const sqm_exec *x;
    float          *out;
    const float    *in;
    const sqm_span *span;
    float          *state;
    int32_t         pieces;
} sqm__running_job;
static void sqm__running_task(void *arg, int32_t piece)
{
    const sqm__running_job *job = (const sqm__running_job *)arg;
    const sqm__running_softmax *a = job->a;
    const int32_t blocks = sqm__ceil_div(a->channels, SQM__LANES);
    const int32_t first = sqm__cut(blocks, piece, job->pieces) * SQM__LANES;
    const int32_t last = sqm__min(sqm__cut(blocks, piece + 1, job->pieces) * SQM__LANES, a->channels);
    sqm__running r;
    r.largest = job->state;
    r.sum = job->state + a->channels;
    r.value = job->state + 2 * (size_t)a->channels;
    r.score = job->in + (size_t)job->span->first_row * (size_t)a->in_width;
    r.v = r.score + a->heads;
    r.decay = a->decay;
    r.bonus = a->bonus;
    r.out = job->out + (size_t)job->span->first_row * (size_t)a->out_width;
    r.stride = (size_t)a->in_width;
    r.out_stride = (size_t)a->out_width;
    r.weights = a->weights;
    r.n_rows = job->span->rows;
    r.channels = a->channels;
    r.spread = a->v_dim;
    SQM__CALL(job->x->kernels, running)(&r, first, last);
}
static void sqm__running_run(const void *bound, sqm_exec *x, float *out, const float *in,
                             const sqm_span *spans, int32_t n_spans)
{
    const sqm__running_softmax *a = (const sqm__running_softmax *)bound;
    sqm__running_job job;
    job.a = a; job.x = x; job.out = out; job.in = in;
    for (int32_t s = 0; s < n_spans; s++) {
        if (!spans[s].state) continue;
        job.span = &spans[s];
        job.state = (float *)spans[s].state;
        job.pieces = sqm__min(sqm__pieces(x, (size_t)spans[s].rows * (size_t)a->channels * 64),
                              sqm__ceil_div(a->channels, SQM__LANES));
        sqm__run(x, sqm__running_task, &job, job.pieces);
    }
}
static sqm_result sqm__running_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                       const sqm_span *spans, int32_t n_spans)
{
    return sqm__run_spans(sqm_mixer_running_softmax(), bound, x, out, in, spans, n_spans, 0,
                          sqm__running_run);
}
static const sqm_mixer sqm__running_softmax_mixer = {
    "running_softmax", "heads v_dim decay bonus weights", sizeof(sqm__running_softmax), SQM_MIXER_CAUSAL, 0,
    sqm__running_bind, sqm__running_state_bytes, sqm__running_used_bytes, sqm__running_scratch_bytes,
    sqm__running_reset, sqm__running_forward
};
SQMDEF const sqm_mixer *sqm_mixer_running_softmax(void) { return &sqm__running_softmax_mixer; }

/* ---- [MIX.slstm] recurrent network with exponential gates and a normalised memory -------------------------
     (i, f, z, o)_t = in_t + R_h y_(t-1)              a head h sees its own y only
     l = m + log sigmoid(f);  m_t = max(i, l), on the first row i
     i' = min(e^(i - m_t), 1);  f' = min(e^(l - m_t), 1);  c = f' c + i' tanh(z);  n = f' n + i'
     y = sigmoid(o) c / n
   Rows in  [i | f | z | o: heads x dim each], bias included; rows out [heads x dim].
   w        [head][i f z o][dim in][dim out] float32.
   State    y, c, n, m [heads x dim] each, zero at the start.
   Order    row by row; sums over `dim in` in increasing order.
   Source   2405.04517, NX-AI/xlstm sLSTM cell.
   Traps    the official layer names its gates the other way round (its module fgate feeds i).
   Tests    tests/test_mix_linear.c; tools/sqm-vectors: slstm_layer. */
typedef struct sqm__slstm_layer {
    int32_t      heads, dim;
    const float *weights;
} sqm__slstm_layer;

static sqm_result sqm__slstm_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                  int32_t *out_width, sqm_error *err)
{
    sqm__slstm_layer *a = (sqm__slstm_layer *)bound;
    memset(a, 0, sizeof(*a));
    SQM__TRY(sqm__param_int(&a->heads, params, n, "heads", 0, 1, 1 << 16, err));
    a->dim = in_width / 4 / a->heads;
    if (a->dim < 1 || a->dim > 8192 || (int64_t)a->dim * 4 * a->heads != in_width)
        SQM__FAIL(err, SQM_E_SHAPE, in_width, "rows of %d columns are not four gates of %d heads", in_width,
                  a->heads);
    if ((int64_t)a->heads * a->dim * a->dim > INT32_MAX / 4)
        SQM__FAIL(err, SQM_E_LIMIT, a->dim, "%d heads of %d channels are too wide", a->heads, a->dim);
    SQM__TRY(sqm__param_vector(&a->weights, params, n, "w", a->heads * a->dim * 4 * a->dim, err));
    if (!a->weights) SQM__FAIL(err, SQM_E_SHAPE, 0, "slstm needs recurrent weights w=");
    *out_width = a->heads * a->dim;
    return SQM_OK;
}
static size_t sqm__slstm_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                     sqm_dtype kv_dtype)
{
    const sqm__slstm_layer *a = (const sqm__slstm_layer *)bound;
    (void)max_context; (void)max_batch; (void)kv_dtype;
    return (size_t)a->heads * (size_t)a->dim * 4 * sizeof(float);
}
static size_t sqm__slstm_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state; (void)position;
    return sqm__slstm_state_bytes(bound, 0, 0, SQM_F32);
}
static size_t sqm__slstm_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                       int32_t threads)
{
    (void)max_context; (void)max_batch;
    return (size_t)((const sqm__slstm_layer *)bound)->dim * 4 * sizeof(float) * (size_t)threads;
}
static void sqm__slstm_reset(const void *bound, void *state, size_t state_bytes, int32_t max_context,
                             int32_t max_batch, sqm_dtype kv_dtype)
{
    (void)state_bytes; (void)max_context; (void)max_batch; (void)kv_dtype;
    memset(state, 0, sqm__slstm_state_bytes(bound, 0, 0, SQM_F32));
}

typedef struct sqm__slstm_job {
    const sqm__slstm_layer *a;
    const sqm_exec *x;
    float          *out, *raw, *state;
    const float    *in;
    const sqm_span *span;
    int32_t         pieces;
} sqm__slstm_job;
static void sqm__slstm_task(void *arg, int32_t piece)
{
    const sqm__slstm_job *job = (const sqm__slstm_job *)arg;
    const size_t dim = (size_t)job->a->dim, width = (size_t)job->a->heads * dim;
    const size_t first = (size_t)job->span->first_row;
    for (int32_t h = piece; h < job->a->heads; h += job->pieces) {
        sqm__slstm s;
        s.y = job->state + (size_t)h * dim;
        s.c = s.y + width;
        s.n = s.c + width;
        s.m = s.n + width;
        s.raw = job->raw + (size_t)piece * 4 * dim;
        s.in = job->in + first * 4 * width + (size_t)h * dim;
        s.gate = width;
        s.weights = job->a->weights + (size_t)h * dim * 4 * dim;
        s.out = job->out + first * width + (size_t)h * dim;
        s.stride = 4 * width;
        s.out_stride = width;
        s.n_rows = job->span->rows;
        s.dim = job->a->dim;
        SQM__CALL(job->x->kernels, slstm)(&s);
    }
}
static void sqm__slstm_run(const void *bound, sqm_exec *x, float *out, const float *in, const sqm_span *spans,
                           int32_t n_spans)
{
    const sqm__slstm_layer *a = (const sqm__slstm_layer *)bound;
    const size_t gates = (size_t)a->heads * (size_t)a->dim * 4;
    sqm__slstm_job job;
    job.a = a; job.x = x; job.out = out; job.in = in; job.raw = (float *)(void *)x->scratch;
    for (int32_t s = 0; s < n_spans; s++) {
        if (!spans[s].state) continue;
        job.span = &spans[s];
        job.state = (float *)spans[s].state;
        job.pieces = sqm__min(sqm__pieces(x, (size_t)spans[s].rows * gates * (size_t)a->dim), a->heads);
        sqm__run(x, sqm__slstm_task, &job, job.pieces);
    }
}
static sqm_result sqm__slstm_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                     const sqm_span *spans, int32_t n_spans)
{
    return sqm__run_spans(sqm_mixer_slstm(), bound, x, out, in, spans, n_spans,
                          sqm__slstm_scratch_bytes(bound, 0, 0, x->threads), sqm__slstm_run);
}
static const sqm_mixer sqm__slstm_mixer = {
    "slstm", "heads w", sizeof(sqm__slstm_layer), SQM_MIXER_CAUSAL, 0, sqm__slstm_bind,
    sqm__slstm_state_bytes, sqm__slstm_used_bytes, sqm__slstm_scratch_bytes, sqm__slstm_reset,
        sqm__slstm_forward
};
SQMDEF const sqm_mixer *sqm_mixer_slstm(void) { return &sqm__slstm_mixer; }

/* ---- [MIX.shift] a row mixed with the row before it -------------------------------------------------------
     out_i = x_t + (x_(t-1) - x_t) * (w_i + m_i)          i = 0 .. mixes - 1, side by side; x_(-1) = 0
   Rows in  [x: width], or [x: width | m: mixes x width] (dynamic=1); rows out [mixes x width].
   w        [mixes x width], absent: 0 with dynamic=1, else 1 with mixes = 1 (the row before).
   State    x_(t-1) [width].
   Source   RWKV's token shift (2305.13048; data-dependent: 2404.05892).
   Traps    RWKV-4 and 5 write x * mu + x_before * (1 - mu): w = 1 - mu.
   Tests    tests/test_mix_linear.c; tools/sqm-vectors: rwkv*_mix. */
typedef struct sqm__shift {
    int32_t      width, mixes, dynamic, in_width;
    const float *w;
} sqm__shift;

static sqm_result sqm__shift_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                  int32_t *out_width, sqm_error *err)
{
    sqm__shift *a = (sqm__shift *)bound;
    memset(a, 0, sizeof(*a));
    SQM__TRY(sqm__param_int(&a->mixes, params, n, "mixes", 1, 1, 64, err));
    SQM__TRY(sqm__param_int(&a->dynamic, params, n, "dynamic", 0, 0, 1, err));
    a->width = a->dynamic ? in_width / (1 + a->mixes) : in_width;
    if (a->dynamic && (a->width < 1 || a->width * (1 + a->mixes) != in_width))
        SQM__FAIL(err, SQM_E_SHAPE, in_width, "rows of %d columns are not a row and %d mixes of it", in_width,
                  a->mixes);
    if (a->width > INT32_MAX / a->mixes)
        SQM__FAIL(err, SQM_E_LIMIT, in_width, "%d mixes of %d columns are too wide", a->mixes, a->width);
    SQM__TRY(sqm__param_vector(&a->w, params, n, "w", a->width * a->mixes, err));
    if (!a->w && !a->dynamic && a->mixes > 1)
        SQM__FAIL(err, SQM_E_SHAPE, a->mixes, "%d mixes need weights w=", a->mixes);
    a->in_width = in_width;
    *out_width = a->width * a->mixes;
    return SQM_OK;
}
static size_t sqm__shift_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                     sqm_dtype kv_dtype)
{
    (void)max_context; (void)max_batch; (void)kv_dtype;
    return (size_t)((const sqm__shift *)bound)->width * sizeof(float);
}
static size_t sqm__shift_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state; (void)position;
    return sqm__shift_state_bytes(bound, 0, 0, SQM_F32);
}
static void sqm__shift_reset(const void *bound, void *state, size_t state_bytes, int32_t max_context,
                             int32_t max_batch, sqm_dtype kv_dtype)
{
    (void)state_bytes; (void)max_context; (void)max_batch; (void)kv_dtype;
    memset(state, 0, sqm__shift_state_bytes(bound, 0, 0, SQM_F32));
}

typedef struct sqm__shift_job {
    const sqm__shift *a;
    const sqm_exec   *x;
    float            *out;
    const float      *in, *before;      /* before: of the first row */
    const sqm_span   *span;
    int32_t           pieces;
} sqm__shift_job;
static void sqm__shift_task(void *arg, int32_t piece)
{
    const sqm__shift_job *job = (const sqm__shift_job *)arg;
    const sqm__shift *a = job->a;
    const size_t width = (size_t)a->width;
    for (int32_t t = sqm__cut(job->span->rows, piece, job->pieces);
         t < sqm__cut(job->span->rows, piece + 1, job->pieces); t++) {
        const size_t row = (size_t)(job->span->first_row + t);
        const float *x = job->in + row * (size_t)a->in_width, *before = t ? x - a->in_width : job->before;
        float *out = job->out + row * width * (size_t)a->mixes;
        if (!a->w && !a->dynamic) {
            if (before) memcpy(out, before, width * sizeof(float));
            else memset(out, 0, width * sizeof(float));
            continue;
        }
        for (size_t i = 0; i < (size_t)a->mixes; i++)
            SQM__CALL(job->x->kernels, lerp)(out + i * width, x, before, a->w ? a->w + i * width : NULL,
                                  a->dynamic ? x + (1 + i) * width : NULL, a->width);
    }
}
static sqm_result sqm__shift_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                     const sqm_span *spans, int32_t n_spans)
{
    const sqm__shift *a = (const sqm__shift *)bound;
    sqm__shift_job job;
    job.a = a; job.x = x; job.out = out; job.in = in;
    for (int32_t s = 0; s < n_spans; s++) {
        const size_t end = (size_t)spans[s].first_row + (size_t)spans[s].rows;
        job.span = &spans[s];
        job.before = (const float *)spans[s].state;
        job.pieces = sqm__min(sqm__pieces(x, (size_t)spans[s].rows * (size_t)a->width * (size_t)a->mixes * 2),
                              spans[s].rows);
        sqm__run(x, sqm__shift_task, &job, job.pieces);
        if (spans[s].state)
            memcpy(spans[s].state, in + (end - 1) * (size_t)a->in_width, (size_t)a->width * sizeof(float));
    }
    return SQM_OK;
}
static const sqm_mixer sqm__shift_mixer = {
    "shift", "mixes dynamic w", sizeof(sqm__shift), SQM_MIXER_CAUSAL, 0, sqm__shift_bind,
    sqm__shift_state_bytes, sqm__shift_used_bytes, sqm__running_scratch_bytes, sqm__shift_reset,
        sqm__shift_forward
};
SQMDEF const sqm_mixer *sqm_mixer_shift(void) { return &sqm__shift_mixer; }

/* ---- [MIX.pool] what all rows of a sequence have in common, in every row ----------------------------------
     out_g = sum, mean or max of x_(t, i) over all rows t and the columns i of group g
   Rows in [width], rows out [groups] (the default: every column by itself).
   State    none: needs the whole sequence. Order: rows, then columns.
   Tests    tests/test_mix_linear.c; tools/sqm-vectors: performer_favor_noncausal, nalaformer_*. */
typedef struct sqm__pool { int32_t width, groups, kind; } sqm__pool;

static sqm_result sqm__pool_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                 int32_t *out_width, sqm_error *err)
{
    sqm__pool *a = (sqm__pool *)bound;
    memset(a, 0, sizeof(*a));
    a->width = in_width;
    SQM__TRY(sqm__param_choice(&a->kind, params, n, "kind", sqm__reduce_names, 3, SQM__REDUCE_MEAN, err));
    SQM__TRY(sqm__param_int(&a->groups, params, n, "groups", in_width, 1, in_width, err));
    if (in_width % a->groups)
        SQM__FAIL(err, SQM_E_SHAPE, in_width, "%d columns do not divide into %d groups", in_width, a->groups);
    *out_width = a->groups;
    return SQM_OK;
}
static size_t sqm__pool_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                      int32_t threads)
{
    (void)max_context; (void)max_batch; (void)threads;
    return (size_t)((const sqm__pool *)bound)->width * sizeof(float);
}
static sqm_result sqm__pool_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                    const sqm_span *spans, int32_t n_spans)
{
    const sqm__pool *a = (const sqm__pool *)bound;
    const size_t width = (size_t)a->width, groups = (size_t)a->groups, part = width / groups;
    float *all = (float *)(void *)x->scratch;
    if (width * sizeof(float) > x->scratch_bytes)
        SQM__FAIL(&x->error, SQM_E_MEMORY, width * sizeof(float),
                  "pool needs %z bytes of scratch, the context has %z", (uint64_t)(width * sizeof(float)),
                  (uint64_t)x->scratch_bytes);
    for (int32_t s = 0; s < n_spans; s++) {
        const float *row = in + (size_t)spans[s].first_row * width;
        float *to = out + (size_t)spans[s].first_row * groups;
        for (size_t i = 0; i < width; i++) all[i] = row[i];
        for (int32_t t = 1; t < spans[s].rows; t++) {
            row += width;
            for (size_t i = 0; i < width; i++) {
                const float larger = row[i] > all[i] ? row[i] : all[i];
                all[i] = a->kind == SQM__REDUCE_MAX ? larger : all[i] + row[i];
            }
        }
        for (size_t g = 0; g < groups; g++) {
            to[g] = SQM__CALL(x->kernels, reduce)(all + g * part, (int32_t)part, a->kind);
            if (a->kind == SQM__REDUCE_MEAN) to[g] /= (float)spans[s].rows;
        }
        for (size_t t = 1; t < (size_t)spans[s].rows; t++)
            memcpy(to + t * groups, to, groups * sizeof(float));
    }
    return SQM_OK;
}
static const sqm_mixer sqm__pool_mixer = {
    "pool", "kind groups", sizeof(sqm__pool), SQM_MIXER_WHOLE_ONLY, 0, sqm__pool_bind, sqm__no_state_bytes,
    sqm__no_used_bytes, sqm__pool_scratch_bytes, sqm__no_reset, sqm__pool_forward
};
SQMDEF const sqm_mixer *sqm_mixer_pool(void) { return &sqm__pool_mixer; }

/* ---- [MIX.ridge] queries through the inverse of the keys' running second moment ---------------------------
     H_t = d_t H_(t-1) + g_t k_t k_t^T,
         H = 0 at the start;  x_t = (H_t + diag(lambda))^-1 q_t    head by head
   With x as queries and the same decays and strengths, linear_attention is then the ridge regression of the
   values on the keys, solved anew at each row.
   Rows in  [q: heads x dim | k: heads x dim | d: heads | g: heads], rows out [heads x dim].
   lambda   [heads x dim] > 0.
   State    H [heads x dim x dim], one triangle of it.  Cost: dim^3 / 6 multiplications a head and row.
   Order    row by row; H + diag(lambda) = L D L^T column by column, then two substitutions.
   Source   MesaNet (2506.05233); its kernels run conjugate gradients instead, this is what they converge to.
   Tests    tests/test_mix_linear.c; with a real layer: fla-mesa_net. */
typedef struct sqm__ridge {
    int32_t      heads, dim;
    const float *lambda;
} sqm__ridge;

static sqm_result sqm__ridge_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                  int32_t *out_width, sqm_error *err)
{
    sqm__ridge *a = (sqm__ridge *)bound;
    memset(a, 0, sizeof(*a));
    SQM__TRY(sqm__param_int(&a->heads, params, n, "heads", 0, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&a->dim, params, n, "dim", 0, 1, 1024, err));
    if (2 * (int64_t)a->heads * (a->dim + 1) != in_width)
        SQM__FAIL(err, SQM_E_SHAPE, in_width,
                  "two times %d heads of %d channels and a number do not fit rows of %d", a->heads, a->dim,
                  in_width);
    SQM__TRY(sqm__param_vector(&a->lambda, params, n, "lambda", a->heads * a->dim, err));
    if (!a->lambda) SQM__FAIL(err, SQM_E_SHAPE, 0, "ridge needs lambda=");
    *out_width = a->heads * a->dim;
    return SQM_OK;
}
static size_t sqm__ridge_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                     sqm_dtype kv_dtype)
{
    const sqm__ridge *a = (const sqm__ridge *)bound;
    const size_t dim = (size_t)a->dim;
    (void)max_context; (void)max_batch; (void)kv_dtype;
    return (size_t)a->heads > (size_t)-1 / 16 / (dim * dim) ? (size_t)-1 : (size_t)a->heads * dim * dim * 4;
}
static size_t sqm__ridge_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state; (void)position;
    return sqm__ridge_state_bytes(bound, 0, 0, SQM_F32);
}
/* of a piece: the factored matrix */
static size_t sqm__ridge_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                       int32_t threads)
{
    const size_t dim = (size_t)((const sqm__ridge *)bound)->dim;
    (void)max_context; (void)max_batch;
    return dim * dim * sizeof(float) * (size_t)threads;
}
static void sqm__ridge_reset(const void *bound, void *state, size_t state_bytes, int32_t max_context,
                             int32_t max_batch, sqm_dtype kv_dtype)
{
    (void)state_bytes; (void)max_context; (void)max_batch; (void)kv_dtype;
    memset(state, 0, sqm__ridge_state_bytes(bound, 0, 0, SQM_F32));
}

/* x = (L D L^T)^-1 q; column j of a [n][n] holds the rows from j on: D_j, then L_ij D_j. a is overwritten. */
static void sqm__ridge_solve(float *x, float *a, const float *q, size_t n)
{
    for (size_t j = 0; j < n; j++) {
        float *column = a + j * n;
        for (size_t p = 0; p < j; p++) {
            const float *earlier = a + p * n, factor = earlier[j] / earlier[p];
            for (size_t i = j; i < n; i++) column[i] -= factor * earlier[i];
        }
    }
    for (size_t i = 0; i < n; i++) x[i] = q[i];
    for (size_t j = 0; j < n; j++) {
        x[j] /= a[j * n + j];
        for (size_t i = j + 1; i < n; i++) x[i] -= x[j] * a[j * n + i];
    }
    for (size_t j = n; j-- > 0;) {
        float sum = 0.0f;
        for (size_t i = j + 1; i < n; i++) sum += a[j * n + i] * x[i];
        x[j] -= sum / a[j * n + j];
    }
}

typedef struct sqm__ridge_job {
    const sqm__ridge *a;
    const sqm_exec   *x;
    float            *out, *work, *state;
    const float      *in;
    const sqm_span   *span;
    int32_t           pieces;
} sqm__ridge_job;
static void sqm__ridge_task(void *arg, int32_t piece)
{
    const sqm__ridge_job *job = (const sqm__ridge_job *)arg;
    const size_t n = (size_t)job->a->dim, heads = (size_t)job->a->heads, width = 2 * heads * (n + 1);
    float *work = job->work + (size_t)piece * n * n;
    for (size_t h = (size_t)piece; h < heads; h += (size_t)job->pieces) {
        float *state = job->state + h * n * n;
        for (size_t t = 0; t < (size_t)job->span->rows; t++) {
            const size_t row = (size_t)job->span->first_row + t;
            const float *q = job->in + row * width + h * n, *k = q + heads * n;
            const float *gates = job->in + row * width + 2 * heads * n + h, decay = gates[0];
            for (size_t j = 0; j < n; j++) {
                const float factor = gates[heads] * k[j];
                for (size_t i = j; i < n; i++) state[j * n + i] = decay * state[j * n + i] + factor * k[i];
            }
            memcpy(work, state, n * n * sizeof(float));
            for (size_t j = 0; j < n; j++) work[j * n + j] += job->a->lambda[h * n + j];
            sqm__ridge_solve(job->out + row * heads * n + h * n, work, q, n);
        }
    }
}
static void sqm__ridge_run(const void *bound, sqm_exec *x, float *out, const float *in, const sqm_span *spans,
                           int32_t n_spans)
{
    const sqm__ridge *a = (const sqm__ridge *)bound;
    const size_t n = (size_t)a->dim;
    sqm__ridge_job job;
    job.a = a; job.x = x; job.out = out; job.in = in; job.work = (float *)(void *)x->scratch;
    for (int32_t s = 0; s < n_spans; s++) {
        if (!spans[s].state) continue;
        job.span = &spans[s];
        job.state = (float *)spans[s].state;
        job.pieces = sqm__pieces(x, (size_t)spans[s].rows * (size_t)a->heads * n * n * (n + 12) / 6);
        job.pieces = sqm__min(job.pieces, a->heads);
        sqm__run(x, sqm__ridge_task, &job, job.pieces);
    }
}
static sqm_result sqm__ridge_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                     const sqm_span *spans, int32_t n_spans)
{
    return sqm__run_spans(sqm_mixer_ridge(), bound, x, out, in, spans, n_spans,
                          sqm__ridge_scratch_bytes(bound, 0, 0, x->threads), sqm__ridge_run);
}
static const sqm_mixer sqm__ridge_mixer = {
    "ridge", "heads dim lambda", sizeof(sqm__ridge), SQM_MIXER_CAUSAL, 0, sqm__ridge_bind,
    sqm__ridge_state_bytes, sqm__ridge_used_bytes, sqm__ridge_scratch_bytes, sqm__ridge_reset,
    sqm__ridge_forward
};
SQMDEF const sqm_mixer *sqm_mixer_ridge(void) { return &sqm__ridge_mixer; }

/* ---- [MIX.memory_context] segments that attend to what a memory knows of them, then teach it ------------
   For each segment s of `segment` rows, with M the memory of [MIX.memory] as the segment before left it:
     h = M(norm(q s))                             read: nothing is learned
     z = [persistent | h | s]
     y = out attention(Q z, K z, V z)             causal over z; the rows of s only
     M learns from the rows of y by [norm(q y) | norm(k y) | v y | gates of y]
     o = y * M(norm(q y))                         read by the memory that has learned from the whole segment
   norm: L2 over all heads together (1e-6 inside the root); rate by softplus, all other gates by sigmoid.
   A row thus depends on all of its segment: the mixer needs the whole sequence.
   Rows in  [width];   rows out [width]
   Weights  persistent=@ float32 [n, width]; attend=@Q,@K,@V,@out panels; learn=@q,@k,@v,@rate,@others..
   panels
            whose rows together are the columns of the memory, learn_b=@,-.. their biases (- : none).
   Source   Titans 2501.00663, memory as context (MAC); no official code: the reference's form.
   Tests    tests/test_mix_memory.c; tools/sqm-vectors: titans_mac. */
enum { SQM__CONTEXT_LEARN = 8 };        /* weights in learn= */
typedef struct sqm__context {
    sqm__memory    memory;
    sqm__attention attention;
    int32_t        segment, width, n_persistent, n_learn, columns;     /* columns: of the memory's rows */
    const float   *persistent;                                         /* [n_persistent, width] */
    sqm_tensor     attend[4], learn[SQM__CONTEXT_LEARN];
    const float   *learn_b[SQM__CONTEXT_LEARN];
} sqm__context;

static sqm_result sqm__context_panels(sqm_tensor *to, const sqm_param *p, int32_t i, int32_t cols,
                                      sqm_error *err)
{
    const sqm_tensor *t = p->tensors && i < p->n_tensors ? p->tensors[i] : NULL;
    if (!t) SQM__FAIL(err, SQM_E_SHAPE, i, "%s: weight %d is missing", p->key, i);
    SQM__TRY(sqm__check_panels(t, err));
    if (t->shape[1] != cols)
        SQM__FAIL(err, SQM_E_SHAPE, t->shape[1], "%s: weight %d has %d columns, not %d", p->key, i,
                  t->shape[1], cols);
    *to = *t;
    return SQM_OK;
}
static sqm_result sqm__context_attention(sqm__context *c, const sqm_param *params, int32_t n, sqm_error *err)
{
    const sqm_param *p = sqm__param(params, n, "attend");
    sqm_param own[3];
    int32_t heads, width, inner;
    if (!p || p->n_tensors != 4)
        SQM__FAIL(err, SQM_E_SHAPE, p ? p->n_tensors : 0, "attend= must be four weights: Q, K, V, out");
    SQM__TRY(sqm__param_int(&heads, params, n, "attend_heads", 1, 1, 1 << 12, err));
    for (int32_t i = 0; i < 3; i++) SQM__TRY(sqm__context_panels(&c->attend[i], p, i, c->width, err));
    inner = c->attend[0].shape[0];
    SQM__TRY(sqm__context_panels(&c->attend[3], p, 3, inner, err));
    if (c->attend[1].shape[0] != inner || c->attend[2].shape[0] != inner ||
        c->attend[3].shape[0] != c->width || inner % heads || inner > 1 << 24)
        SQM__FAIL(err, SQM_E_SHAPE, inner,
                  "attend: Q, K, V and out of %d, %d, %d and %d rows do not fit %d heads "
                  "and rows of %d", inner, c->attend[1].shape[0], c->attend[2].shape[0],
                  c->attend[3].shape[0], heads, c->width);
    memset(own, 0, sizeof(own));
    own[0].key = "heads";    own[0].number = heads;
    own[1].key = "head_dim"; own[1].number = inner / heads;
    own[2].key = "scale";    own[2].number = (double)(1.0f / sqm__sqrt((float)(inner / heads)));
    return sqm__attention_bind(&c->attention, own, 3, 3 * inner, &width, err);
}
static sqm_result sqm__context_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                    int32_t *out_width, sqm_error *err)
{
    sqm__context *c = (sqm__context *)bound;
    const sqm_param *learn = sqm__param(params, n, "learn"), *bias = sqm__param(params, n, "learn_b");
    int64_t columns = 0, rows = 0;
    int32_t width;
    memset(c, 0, sizeof(*c));
    c->width = in_width;
    SQM__TRY(sqm__memory_params(&c->memory, &columns, params, n, err));
    SQM__TRY(sqm__param_int(&c->segment, params, n, "segment", 256, 1, 1 << 16, err));
    SQM__TRY(sqm__param_matrix(&c->persistent, &c->n_persistent, &width, params, n, "persistent", err));
    SQM__TRY(sqm__context_attention(c, params, n, err));
    if (c->persistent && (width != in_width || c->n_persistent > 1 << 16))
        SQM__FAIL(err, SQM_E_SHAPE, width, "persistent rows have %d columns, not %d", width, in_width);
    if ((int64_t)c->memory.heads * c->memory.v_dim != in_width)
        SQM__FAIL(err, SQM_E_SHAPE, in_width, "a memory of %d heads of %d cannot stand beside rows of %d",
                  c->memory.heads, c->memory.v_dim, in_width);
    c->n_learn = learn ? learn->n_tensors : 0;
    if (c->n_learn < 1 || c->n_learn > SQM__CONTEXT_LEARN || (bias && bias->n_tensors != c->n_learn))
        SQM__FAIL(err, SQM_E_SHAPE, c->n_learn, "learn= must be 1 to %d weights, learn_b= as many",
                  SQM__CONTEXT_LEARN);
    for (int32_t i = 0; i < c->n_learn; i++) {
        const sqm_tensor *b = bias && bias->tensors ? bias->tensors[i] : NULL;
        SQM__TRY(sqm__context_panels(&c->learn[i], learn, i, in_width, err));
        rows += c->learn[i].shape[0];
        if (b && (b->dtype != SQM_F32 || b->layout != SQM_ROWS || b->ndim != 1 ||
                  b->shape[0] != c->learn[i].shape[0]))
            SQM__FAIL(err, SQM_E_SHAPE, i, "learn_b: bias %d must be %d float32 values", i,
                      c->learn[i].shape[0]);
        if (b) c->learn_b[i] = (const float *)b->data;
    }
    if (rows != columns || c->learn[0].shape[0] != c->memory.heads * c->memory.head_dim)
        SQM__FAIL(err, SQM_E_SHAPE, (uint64_t)rows,
                  "learn: %z rows, the first weight of %d; the memory reads %z, "
                  "queries of %d first", (uint64_t)rows, c->learn[0].shape[0], (uint64_t)columns,
                  c->memory.heads * c->memory.head_dim);
    c->columns = (int32_t)columns;
    columns += in_width + 4 * (int64_t)c->attend[0].shape[0];          /* of the buffers of a segment */
    if ((c->n_persistent + 2 * (int64_t)c->segment) * columns > 1 << 28 ||
        c->memory.head_floats > (1u << 28) / (size_t)c->memory.heads)
        SQM__FAIL(err, SQM_E_LIMIT, c->segment, "segments of %d rows of %d are too large", c->segment,
                  in_width);
    *out_width = in_width;
    return SQM_OK;
}

/* ---- one segment ---- */
typedef struct sqm__context_work {
    float *state, *z, *qkv, *a, *y, *rows, *seen;
} sqm__context_work;
/* Buffers for segments of n rows; returns their floats. */
static size_t sqm__context_lay(sqm__context_work *w, const sqm__context *c, int32_t n, float *base)
{
    const size_t all = (size_t)c->n_persistent + 2 * (size_t)n, width = (size_t)c->width, rows = (size_t)n;
    const size_t inner = (size_t)c->attend[0].shape[0];
    size_t used = 0;
    w->state = sqm__take(base, &used, c->memory.head_floats * (size_t)c->memory.heads);
    w->z = sqm__take(base, &used, all * width);
    w->qkv = sqm__take(base, &used, all * 3 * inner);
    w->a = sqm__take(base, &used, all * inner);
    w->y = sqm__take(base, &used, rows * width);
    w->rows = sqm__take(base, &used, rows * (size_t)c->columns);
    w->seen = sqm__take(base, &used, rows * width);
    return used;
}
/* Scratch of the parts that run one after another behind the buffers */
static size_t sqm__context_parts_bytes(const sqm__context *c, int32_t n, int32_t threads)
{
    const int32_t all = c->n_persistent + 2 * n, inner = c->attend[0].shape[0];
    const size_t needs[3] = {
        sqm__linear_scratch(all, sqm__max(c->width, inner), threads, SQM_EXACT) + 64,
        sqm__memory_scratch_bytes(&c->memory, 0, 0, threads),
        sqm__align_up(sqm__attention_scratch_bytes(&c->attention, all, all, threads) +
                      sqm__attention_state_bytes(&c->attention, all, all, SQM_F32), 64)
    };
    size_t most = needs[0];
    for (int i = 1; i < 3; i++) if (needs[i] > most) most = needs[i];
    return most;
}
static size_t sqm__context_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                         int32_t threads)
{
    const sqm__context *c = (const sqm__context *)bound;
    const int32_t n = sqm__min(sqm__min(c->segment, max_batch), max_context);
    sqm__context_work w;
    const size_t own = sqm__align_up(sqm__context_lay(&w, c, n, NULL) * sizeof(float), 64);
    const size_t parts = sqm__context_parts_bytes(c, n, threads), most = (size_t)-1 - 63;
    return parts > most - own ? most : own + parts;
}
/* y [n, rows of w[0 .. n_weights)] = a [n, width] w' + b, y rows y_stride floats apart */
static void sqm__context_map(const sqm_exec *x, const sqm_tensor *weights, const float *const *biases,
                             int32_t count, float *y, size_t y_stride, const float *a, size_t a_stride,
                             int32_t n)
{
    sqm__linear map;
    map.weights = weights;
    map.biases = biases;
    map.n_weights = count;
    map.add = map.precise = map.apart = 0;
    map.scale = 1.0f;
    sqm__linear_run(x, &map, y, y_stride, a, a_stride, n);
}
/* The queries (and with `all` keys and gates) of n rows, which a map has made, as the memory wants them */
static void sqm__context_finish_rows(const sqm__context *c, const sqm_exec *x, float *rows, int32_t n,
                                     int all)
{
    const sqm__memory *m = &c->memory;
    const int32_t keys = m->heads * m->head_dim, v = 2 * keys + m->heads * m->v_dim;
    const int32_t rate = m->has_rate ? m->heads : 0;
    for (int32_t t = 0; t < n; t++) {
        float *row = rows + (size_t)t * (size_t)c->columns;
        SQM__CALL(x->kernels, normalize)(row, row, keys, SQM_NORM_L2, NULL, NULL, 1e-6f);
        if (all) SQM__CALL(x->kernels, normalize)(row + keys, row + keys, keys, SQM_NORM_L2, NULL, NULL,
                                                  1e-6f);
        if (!all) continue;
        SQM__CALL(x->kernels, activate)(row + v, row + v, (size_t)rate, SQM_ACT_SOFTPLUS);
        SQM__CALL(x->kernels, activate)(row + v + rate, row + v + rate, (size_t)(c->columns - v - rate),
                             SQM_ACT_SIGMOID);
    }
}

typedef struct sqm__recall_job {
    const sqm__context *c;
    const sqm_exec     *x;
    float              *out;
    const float        *rows, *state;
    int32_t             n, pieces;
} sqm__recall_job;
static void sqm__recall_task(void *arg, int32_t piece)
{
    const sqm__recall_job *job = (const sqm__recall_job *)arg;
    const sqm__memory *m = &job->c->memory;
    const size_t dim = (size_t)m->head_dim, width = (size_t)job->c->width;
    sqm__memory_work w;
    (void)sqm__memory_lay(&w, m, (float *)(void *)job->x->scratch +
                                 sqm__memory_piece_floats(m) * (size_t)piece);
    for (int32_t h = piece; h < m->heads; h += job->pieces)
        for (int32_t t = 0; t < job->n; t += SQM__MEMORY_BLOCK) {
            const int32_t n = sqm__min(SQM__MEMORY_BLOCK, job->n - t);
            for (int32_t i = 0; i < n; i++) {
                float *q = w.q + (size_t)i * w.x_stride;
                memcpy(q, job->rows + (size_t)(t + i) * (size_t)job->c->columns + (size_t)h * dim,
                       dim * sizeof(float));
                if (m->bias) q[dim] = 1.0f;
            }
            sqm__memory_recall(m, job->x->kernels, &w, w.y, job->state + m->head_floats * (size_t)h, h, n);
            for (int32_t i = 0; i < n; i++)
                memcpy(job->out + (size_t)(t + i) * width + (size_t)h * (size_t)m->v_dim,
                       w.y + (size_t)i * w.v_stride, (size_t)m->v_dim * sizeof(float));
        }
}
/* out [n, width]: what the memory knows at the queries of rows */
static void sqm__context_recall(const sqm__context *c, const sqm_exec *x, const sqm__context_work *w,
                                float *out, int32_t n)
{
    sqm__recall_job job;
    job.c = c; job.x = x; job.out = out; job.rows = w->rows; job.state = w->state; job.n = n;
    job.pieces = sqm__min(c->memory.heads,
                          sqm__pieces(x, (size_t)n * (size_t)c->memory.heads * c->memory.weights));
    sqm__run(x, sqm__recall_task, &job, job.pieces);
}
/* n rows from position `at` on */
static void sqm__context_segment(const sqm__context *c, sqm_exec *x, const sqm__context_work *w, float *out,
                                 const float *in, int32_t at, int32_t n)
{
    const size_t width = (size_t)c->width, columns = (size_t)c->columns;
    const size_t inner = (size_t)c->attend[0].shape[0];
    const int32_t before = c->n_persistent + n, all = before + n;
    float *known = w->z + (size_t)c->n_persistent * width;
    sqm_span span;
    memset(&span, 0, sizeof(span));
    sqm__context_map(x, c->learn, c->learn_b, 1, w->rows, columns, in, width, n);
    sqm__context_finish_rows(c, x, w->rows, n, 0);
    sqm__context_recall(c, x, w, known, n);
    if (c->persistent) memcpy(w->z, c->persistent, (size_t)c->n_persistent * width * sizeof(float));
    memcpy(known + (size_t)n * width, in, (size_t)n * width * sizeof(float));
    sqm__context_map(x, c->attend, NULL, 3, w->qkv, 3 * inner, w->z, width, all);
    span.rows = span.total = all;
    (void)sqm__attention_forward(&c->attention, x, w->a, w->qkv, &span, 1);
    sqm__context_map(x, c->attend + 3, NULL, 1, w->y, width, w->a + (size_t)before * inner, inner, n);
    sqm__context_map(x, c->learn, c->learn_b, c->n_learn, w->rows, columns, w->y, width, n);
    sqm__context_finish_rows(c, x, w->rows, n, 1);
    span.state = w->state;
    span.position = at;
    span.rows = n;
    span.total = at + n;
    sqm__memory_run(&c->memory, x, w->seen, w->rows, &span, 1);
    sqm__context_recall(c, x, w, w->seen, n);
    for (size_t i = 0; i < (size_t)n * width; i++) out[i] = w->y[i] * w->seen[i];
}
static sqm_result sqm__context_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                       const sqm_span *spans, int32_t n_spans)
{
    const sqm__context *c = (const sqm__context *)bound;
    for (int32_t s = 0; s < n_spans; s++) {
        const int32_t most = sqm__min(c->segment, spans[s].rows);
        const size_t need = sqm__context_scratch_bytes(c, most, most, x->threads);
        const size_t row = (size_t)spans[s].first_row * (size_t)c->width;
        sqm__context_work w;
        sqm_exec own = *x;
        size_t used;
        if (!x->scratch || need > x->scratch_bytes)
            SQM__FAIL(&x->error, SQM_E_MEMORY, need,
                      "memory_context needs %z bytes of scratch, the context has %z",
                      (uint64_t)need, (uint64_t)x->scratch_bytes);
        if (spans[s].position != 0)
            SQM__FAIL(&x->error, SQM_E_ARGUMENT, spans[s].position,
                      "memory_context reads whole sequences, not from "
                      "position %d on", spans[s].position);
        used = sqm__align_up(sqm__context_lay(&w, c, most, (float *)(void *)x->scratch) * sizeof(float), 64);
        own.scratch += used;
        own.scratch_bytes -= used;
        sqm__memory_reset(&c->memory, w.state, 0, 0, 0, SQM_F32);
        for (int32_t t = 0; t < spans[s].rows; t += c->segment)
            sqm__context_segment(c, &own, &w, out + row + (size_t)t * (size_t)c->width,
                                 in + row + (size_t)t * (size_t)c->width, t,
                                 sqm__min(c->segment, spans[s].rows - t));
    }
    return SQM_OK;
}
static const sqm_mixer sqm__context_mixer = {
    "memory_context", SQM__MEMORY_KEYS " segment persistent attend attend_heads learn learn_b",
    sizeof(sqm__context), SQM_MIXER_WHOLE_ONLY, 0, sqm__context_bind, sqm__no_state_bytes, sqm__no_used_bytes,
    sqm__context_scratch_bytes, sqm__no_reset, sqm__context_forward
};
#undef SQM__MEMORY_KEYS
SQMDEF const sqm_mixer *sqm_mixer_memory_context(void) { return &sqm__context_mixer; }

/* ---- orders of a scan ------------------------------------------------------------------------------------
   The rows of a sequence in the order of a scan, as runs of rows `step` apart: forward, backward, and for
   pictures of `columns` columns (row-major rows) column by column downwards, or that reversed. */
enum { SQM__ORDER_FORWARD, SQM__ORDER_BACKWARD, SQM__ORDER_DOWN, SQM__ORDER_UP };
static const char *const sqm__order_names[] = { "forward", "backward", "down", "up" };
typedef struct sqm__order { int32_t kind, columns; } sqm__order;
typedef struct sqm__run_of { int32_t first, step, count; } sqm__run_of;

/* Run i of n rows; 0: there are no more. */
static int sqm__order_run(sqm__run_of *run, const sqm__order *o, int32_t n, int32_t i)
{
    if (o->kind == SQM__ORDER_FORWARD || o->kind == SQM__ORDER_BACKWARD) {
        run->first = o->kind == SQM__ORDER_FORWARD ? 0 : n - 1;
        run->step = o->kind == SQM__ORDER_FORWARD ? 1 : -1;
        run->count = n;
        return i == 0;
    }
    if (i >= sqm__min(n, o->columns)) return 0;
    run->first = o->kind == SQM__ORDER_DOWN ? i : sqm__min(n, o->columns) - 1 - i;
    run->count = (n - 1 - run->first) / o->columns + 1;
    run->step = o->columns;
    if (o->kind == SQM__ORDER_UP) {
        run->first += (run->count - 1) * o->columns;
        run->step = -o->columns;
    }
    return 1;
}
static sqm_result sqm__order_bind(sqm__order *o, const sqm_param *params, int32_t n, sqm_error *err)
{
    SQM__TRY(sqm__param_choice(&o->kind, params, n, "order", sqm__order_names, SQM__COUNT(sqm__order_names),
                               SQM__ORDER_FORWARD, err));
    SQM__TRY(sqm__param_int(&o->columns, params, n, "columns", 0, 0, 1 << 24, err));
    if (o->kind >= SQM__ORDER_DOWN && o->columns == 0)
        SQM__FAIL(err, SQM_E_SHAPE, 0, "order = %s needs columns=", sqm__order_names[o->kind]);
    return SQM_OK;
}

/* Where a part of the rows lies: at the column that `key` says, or behind the part before it. */
static sqm_result sqm__part_at(int32_t *at, int64_t *end, const sqm_param *params, int32_t n,
                               const char *key, int64_t width, int32_t in_width, sqm_error *err)
{
    const int32_t otherwise = *end < in_width ? (int32_t)*end : in_width;
    SQM__TRY(sqm__param_int(at, params, n, key, otherwise, 0, in_width, err));
    if (width > in_width - *at)
        SQM__FAIL(err, SQM_E_SHAPE, in_width, "%s: %z columns from column %d on do not fit rows of %d", key,
                  (uint64_t)width, *at, in_width);
    *end = *at + width;
    return SQM_OK;
}

/* Activation, bias and limits of a step size: act(dt + bias) clipped to [dt_min, dt_max] */
typedef struct sqm__step_size {
    const float *bias;                  /* [count] or NULL */
    float        low, high;
    int32_t      act;
} sqm__step_size;
static sqm_result sqm__step_bind(sqm__step_size *s, const sqm_param *params, int32_t n, int32_t count,
                                 sqm_error *err)
{
    SQM__TRY(sqm__param_choice(&s->act, params, n, "dt_act", sqm__act_names, SQM_ACT_COUNT, SQM_ACT_SOFTPLUS,
                               err));
    SQM__TRY(sqm__param_vector(&s->bias, params, n, "dt_bias", count, err));
    SQM__TRY(sqm__param_float(&s->low, params, n, "dt_min", 0.0, err));
    SQM__TRY(sqm__param_float(&s->high, params, n, "dt_max", 1e30, err));
    if (!(s->low <= s->high) || s->low < 0.0f)
        SQM__FAIL(err, SQM_E_SHAPE, 0, "dt_min = %f and dt_max = %f must be 0 <= dt_min <= dt_max",
                  (double)s->low, (double)s->high);
    return SQM_OK;
}

/* ---- [MIX.scan] diagonal state, decay from a step size or fixed -------------------------------------------
   dt = clip(dt_act(dt_t + dt_bias), dt_min, dt_max)                                       channel by channel
   h_t = e^(dt a) h_(t-1) + u_t B_t                            h [channels, n], zero or init before the start
   y_t = sum_n C_t h_t + d x_t                                 complex: 2 Re sum_n C_t h_t + d x_t
   input=step  u = dt x (Mamba's Euler step);  one  u = x;  root  u = sqrt(1 - e^(2 dt a)) x, and x itself at
               position 0 (RG-LRU; n = 1)
   a        [channels, n] in panels, usually negative; or decay = e^(dt a) - 1 itself, then there is no dt
   b, c     [channels, n] in panels: constant; without them B and C come with each row, one for each of
            `groups` groups of channels. complex=1: 2 n columns, real parts first, for a, b, c, B and C.
   Rows in  [x: channels | dt: channels | B: groups x n | C: groups x n], or wherever x_at, dt_at, b_at and
            c_at say;  rows out [channels]
   scan_whole  order=forward|backward|down|up, see above: needs the whole sequence.
   State    [panel of 16 channels][n][16] floats (complex: 2 n).  Cost: n exponentials a channel and token.
   Order    every state and every channel's sum over n is a chain of its own: no cut changes it. h moves by
            e^v - 1 instead of e^v, so that slow states stay exact over 10^6 tokens.
   Source   Mamba (2312.00752) selective_scan; real S4D; MEGA's damped EMA (2209.10655) by decay, b, c; Vim
            (2401.09417) and VMamba (2401.10166) by order; RG-LRU (2402.19427) by dt_act=sigmoid input=root.
   Traps    A = -exp(A_log) is the converter's. dt_bias stands inside the activation. The gate is a recipe op.
   Tests    tests/test_mix_ssm.c; tools/sqm-vectors: selective_scan, mamba1_block, vim_block, ss2d,
            mega_ema. */
typedef struct sqm__selective {
    const float   *a, *b, *c, *d, *init;
    sqm__step_size dt;
    sqm__order     order;
    int32_t        channels, n, parts, groups, input, is_complex, has_dt, in_width;   /* parts: n or 2 n */
    int32_t        x_at, dt_at, b_at, c_at;
    int32_t        expand;              /* a panel holds channels of several groups: B and C are spread */
    int32_t        whole;               /* no state is kept */
} sqm__selective;

static const char *const sqm__input_names[] = { "step", "one", "root" };

static sqm_result sqm__scan_tensors(sqm__selective *s, const sqm_param *params, int32_t n, sqm_error *err)
{
    const float *decay = NULL;
    int32_t rows = 0, cols = 0;
    SQM__TRY(sqm__param_int(&s->is_complex, params, n, "complex", 0, 0, 1, err));
    SQM__TRY(sqm__param_panels(&s->a, &rows, &cols, params, n, "a", err));
    SQM__TRY(sqm__param_panels(&decay, &rows, &cols, params, n, "decay", err));
    if ((s->a != NULL) == (decay != NULL))
        SQM__FAIL(err, SQM_E_SHAPE, 0, "a scan needs either a= or decay=");
    if (cols % (s->is_complex ? 2 : 1))
        SQM__FAIL(err, SQM_E_SHAPE, cols, "a complex state of %d numbers is not even", cols);
    if (s->is_complex && decay) SQM__FAIL(err, SQM_E_UNSUPPORTED, 0, "a complex scan takes a=, not decay=");
    s->has_dt = s->a != NULL;
    if (decay) s->a = decay;
    s->channels = rows;
    s->parts = cols;
    s->n = s->is_complex ? cols / 2 : cols;
    SQM__TRY(sqm__param_panels(&s->b, &rows, &cols, params, n, "b", err));
    SQM__TRY(sqm__param_panels(&s->c, &rows, &cols, params, n, "c", err));
    if ((s->b == NULL) != (s->c == NULL))
        SQM__FAIL(err, SQM_E_SHAPE, 0, "a scan needs both b= and c=, or neither");
    SQM__TRY(sqm__param_vector(&s->d, params, n, "d", s->channels, err));
    SQM__TRY(sqm__param_matrix(&s->init, &rows, &cols, params, n, "init", err));
    if (s->init && (rows != s->channels || cols != s->parts))
        SQM__FAIL(err, SQM_E_SHAPE, rows, "init is [%d, %d], expected [%d, %d]", rows, cols, s->channels,
                  s->parts);
    return SQM_OK;
}
static sqm_result sqm__scan_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                 int32_t *out_width, sqm_error *err)
{
    sqm__selective *s = (sqm__selective *)bound;
    int64_t end = 0;
    memset(s, 0, sizeof(*s));
    SQM__TRY(sqm__scan_tensors(s, params, n, err));
    SQM__TRY(sqm__param_int(&s->groups, params, n, "groups", 1, 1, s->channels, err));
    SQM__TRY(sqm__param_choice(&s->input, params, n, "input", sqm__input_names, SQM__COUNT(sqm__input_names),
                               s->has_dt ? SQM__INPUT_STEP : SQM__INPUT_ONE, err));
    SQM__TRY(sqm__step_bind(&s->dt, params, n, s->channels, err));
    if (s->channels % s->groups)
        SQM__FAIL(err, SQM_E_SHAPE, s->groups, "%d channels do not divide into %d groups", s->channels,
                  s->groups);
    if ((!s->has_dt && s->input != SQM__INPUT_ONE) || (s->input == SQM__INPUT_ROOT && s->parts != 1))
        SQM__FAIL(err, SQM_E_SHAPE, s->n, "input = %s does not go with %d states%s",
                  sqm__input_names[s->input], s->n, s->has_dt ? "" : " and decay=");
    SQM__TRY(sqm__part_at(&s->x_at, &end, params, n, "x_at", s->channels, in_width, err));
    if (s->has_dt) SQM__TRY(sqm__part_at(&s->dt_at, &end, params, n, "dt_at", s->channels, in_width, err));
    if (!s->b) {
        const int64_t width = (int64_t)s->groups * s->parts;
        SQM__TRY(sqm__part_at(&s->b_at, &end, params, n, "b_at", width, in_width, err));
        SQM__TRY(sqm__part_at(&s->c_at, &end, params, n, "c_at", width, in_width, err));
    }
    s->expand = !s->b && s->groups > 1 && s->channels / s->groups % SQM__LANES != 0;
    s->in_width = in_width;
    *out_width = s->channels;
    return SQM_OK;
}
static sqm_result sqm__scan_whole_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                       int32_t *out_width, sqm_error *err)
{
    sqm__selective *s = (sqm__selective *)bound;
    SQM__TRY(sqm__scan_bind(bound, params, n, in_width, out_width, err));
    s->whole = 1;
    return sqm__order_bind(&s->order, params, n, err);
}

SQM__INLINE size_t sqm__scan_panel_floats(const sqm__selective *s) { return (size_t)s->parts * SQM__LANES; }
static size_t sqm__scan_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                    sqm_dtype kv_dtype)
{
    const sqm__selective *s = (const sqm__selective *)bound;
    const size_t panels = (size_t)sqm__ceil_div(s->channels, SQM__LANES);
    (void)max_context; (void)max_batch; (void)kv_dtype;
    return sqm__scan_panel_floats(s) * panels * sizeof(float);      /* no more than the tensor a has */
}
static size_t sqm__scan_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state; (void)position;
    return sqm__scan_state_bytes(bound, 0, 0, SQM_F32);
}
/* Of one piece: a state for spans without one, spread B and C */
static size_t sqm__scan_piece_floats(const sqm__selective *s)
{
    return sqm__scan_panel_floats(s) * (s->expand ? 3u : 1u);
}
static size_t sqm__scan_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                      int32_t threads)
{
    (void)max_context; (void)max_batch;
    return sqm__scan_piece_floats((const sqm__selective *)bound) * sizeof(float) * (size_t)threads;
}

/* The state of one panel before the first row */
static void sqm__scan_start(const sqm__selective *s, float *h, int32_t panel)
{
    memset(h, 0, sqm__scan_panel_floats(s) * sizeof(float));
    for (int32_t i = 0; s->init && i < SQM__LANES && panel * SQM__LANES + i < s->channels; i++)
        for (int32_t k = 0; k < s->parts; k++)
            h[k * SQM__LANES + i] = s->init[(size_t)(panel * SQM__LANES + i) * (size_t)s->parts + (size_t)k];
}
static void sqm__scan_reset(const void *bound, void *state, size_t state_bytes, int32_t max_context,
                            int32_t max_batch, sqm_dtype kv_dtype)
{
    const sqm__selective *s = (const sqm__selective *)bound;
    (void)state_bytes; (void)max_context; (void)max_batch; (void)kv_dtype;
    for (int32_t p = 0; p < sqm__ceil_div(s->channels, SQM__LANES); p++)
        sqm__scan_start(s, (float *)state + (size_t)p * sqm__scan_panel_floats(s), p);
}

typedef struct sqm__scan_job {
    const sqm__selective *s;
    const sqm_exec       *x;
    float                *out;
    const float          *in;
    const sqm_span       *spans;
    int32_t               n_spans, pieces;
} sqm__scan_job;

/* B and C of one row as [parts][16]: each lane reads those of its channel's group. */
static void sqm__scan_spread(const sqm__selective *s, float *b, float *c, const float *row, int32_t panel)
{
    for (int32_t i = 0; i < SQM__LANES; i++) {
        const int32_t channel = sqm__min(panel * SQM__LANES + i, s->channels - 1);
        const int32_t at = channel / (s->channels / s->groups) * s->parts;
        for (int32_t k = 0; k < s->parts; k++) {
            b[k * SQM__LANES + i] = row[s->b_at + at + k];
            c[k * SQM__LANES + i] = row[s->c_at + at + k];
        }
    }
}

/* What does not depend on the rows: channels, weights, limits. */
static void sqm__scan_panel(sqm__scan *k, const sqm__selective *s, int32_t panel)
{
    const size_t at = (size_t)panel * sqm__scan_panel_floats(s);
    const int32_t first = panel * SQM__LANES;
    memset(k, 0, sizeof(*k));
    k->a = s->a + at;
    k->b = s->b ? s->b + at : NULL;
    k->c = s->c ? s->c + at : NULL;
    k->d = s->d ? s->d + first : NULL;
    k->dt_bias = s->dt.bias ? s->dt.bias + first : NULL;
    k->dt_min = s->dt.low;
    k->dt_max = s->dt.high;
    k->dt_act = s->dt.act;
    k->wide = s->b != NULL || s->expand;
    k->n = s->n;
    k->is_complex = s->is_complex;
    k->input = s->input;
    k->lanes = sqm__min(SQM__LANES, s->channels - first);
}

/* One panel of channels of one span, in the order of the scan */
static void sqm__scan_unit(const sqm__scan_job *job, float *scratch, const sqm_span *span, int32_t panel)
{
    const sqm__selective *s = job->s;
    const size_t floats = sqm__scan_panel_floats(s);
    const int32_t first = panel * SQM__LANES;
    const ptrdiff_t at = s->groups > 1 ? first / (s->channels / s->groups) * s->parts : 0;
    sqm__run_of run;
    sqm__scan k;
    sqm__scan_panel(&k, s, panel);
    k.h = span->state && !s->whole ? (float *)span->state + (size_t)panel * floats : scratch;
    if (k.h == scratch) sqm__scan_start(s, k.h, panel);
    for (int32_t i = 0; sqm__order_run(&run, &s->order, span->rows, i); i++) {
        const int32_t rows = s->expand ? 1 : run.count;
        k.x_step = (ptrdiff_t)run.step * s->in_width;
        k.y_step = (ptrdiff_t)run.step * s->channels;
        k.rows = rows;
        for (int32_t t = 0; t < run.count; t += rows) {
            const ptrdiff_t row = (ptrdiff_t)span->first_row + run.first + (ptrdiff_t)t * run.step;
            const float *in = job->in + row * s->in_width;
            k.x = in + s->x_at + first;
            k.dt = s->has_dt ? in + s->dt_at + first : NULL;
            k.y = job->out + row * s->channels + first;
            k.fresh = i == 0 && t == 0 && span->position == 0;
            if (s->expand) {
                k.b = scratch + floats;
                k.c = scratch + 2 * floats;
                sqm__scan_spread(s, scratch + floats, scratch + 2 * floats, in, panel);
            } else if (!s->b) {
                k.b = in + s->b_at + at;
                k.c = in + s->c_at + at;
                k.b_step = k.c_step = k.x_step;
            }
            SQM__CALL(job->x->kernels, scan)(&k);
        }
    }
}
static void sqm__scan_task(void *arg, int32_t piece)
{
    const sqm__scan_job *job = (const sqm__scan_job *)arg;
    const int32_t panels = sqm__ceil_div(job->s->channels, SQM__LANES);
    const int32_t first = sqm__cut(panels, piece, job->pieces);
    const int32_t last = sqm__cut(panels, piece + 1, job->pieces);
    float *scratch = (float *)(void *)job->x->scratch + (size_t)piece * sqm__scan_piece_floats(job->s);
    for (int32_t s = 0; s < job->n_spans; s++)
        for (int32_t p = first; p < last; p++) sqm__scan_unit(job, scratch, &job->spans[s], p);
}
static sqm_result sqm__scan_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                    const sqm_span *spans, int32_t n_spans)
{
    const sqm__selective *s = (const sqm__selective *)bound;
    const size_t need = sqm__scan_scratch_bytes(s, 0, 0, x->threads);
    sqm__scan_job job;
    size_t rows = 0;
    job.s = s; job.x = x; job.out = out; job.in = in; job.spans = spans; job.n_spans = n_spans;
    if (need > x->scratch_bytes || !x->scratch)
        SQM__FAIL(&x->error, SQM_E_MEMORY, need, "scan needs %z bytes of scratch, the context has %z",
                  (uint64_t)need, (uint64_t)x->scratch_bytes);
    for (int32_t i = 0; i < n_spans; i++) rows += (size_t)spans[i].rows;
    job.pieces = sqm__min(sqm__pieces(x, rows * (size_t)s->channels * (size_t)s->parts * 8),
                          sqm__ceil_div(s->channels, SQM__LANES));
    sqm__run(x, sqm__scan_task, &job, job.pieces);
    return SQM_OK;
}

static const sqm_mixer sqm__scan_mixer = {
    "scan", "a decay b c d init groups complex input dt_act dt_bias dt_min dt_max x_at dt_at b_at c_at",
    sizeof(sqm__selective), SQM_MIXER_CAUSAL, 0, sqm__scan_bind, sqm__scan_state_bytes, sqm__scan_used_bytes,
    sqm__scan_scratch_bytes, sqm__scan_reset, sqm__scan_forward
};
static const sqm_mixer sqm__scan_whole_mixer = {
    "scan_whole", "a decay b c d init groups complex input dt_act dt_bias dt_min dt_max x_at dt_at b_at c_at "
    "order columns", sizeof(sqm__selective), SQM_MIXER_WHOLE_ONLY, 0, sqm__scan_whole_bind,
    sqm__no_state_bytes, sqm__no_used_bytes, sqm__scan_scratch_bytes, sqm__no_reset,
    sqm__scan_forward
};
SQMDEF const sqm_mixer *sqm_mixer_scan(void) { return &sqm__scan_mixer; }
SQMDEF const sqm_mixer *sqm_mixer_scan_whole(void) { return &sqm__scan_whole_mixer; }

/* ---- [MIX.ssd] matrix state, one decay for each head ------------------------------------------------------
   dt  = clip(dt_act(dt_t + dt_bias), dt_min, dt_max)                                            head by head
   S_t = e^(dt a) S_(t-1) + dt x_t B_t^T           S [heads, head_dim, state], zero or init before the start
   y_t = S_t C_t + d x_t                           head h reads B and C of group h / (heads / groups)
   a   [heads], usually negative;  dt_bias [heads];  d [heads x head_dim];  init [heads x head_dim, state]
   Rows in  [x: heads x head_dim | B: groups x state | C: groups x state | dt: heads], or wherever x_at, b_at,
            c_at and dt_at say;  rows out [heads x head_dim]
   ssd_whole   order=forward|backward|down|up; shift=1: row t gets y of the row before it in that order, the
            first 0 (Hydra). Needs the whole sequence.
   State    [head][panel of 16 of head_dim][state][16] floats.
   Cost     3 multiply-adds a state and token, as many as the chunked form has with chunks of 64: tiles of
            the state stay in registers over up to 64 rows instead, so that any cut gives the same bits.
   Source   Mamba-2 (2405.21060), Hydra (2407.09941); RetNet and linear attention with a scalar decay.
   Traps    dt is clipped in decoding too (the official step function forgets it). D per head: the converter
            repeats it over head_dim.
   Tests    tests/test_mix_ssm.c; tools/sqm-vectors: ssd, mamba2_block, hydra_block. */
typedef struct sqm__dual {
    const float   *a, *d, *init;
    sqm__step_size dt;
    sqm__order     order;
    int32_t        heads, head_dim, n, groups, panels, in_width, whole, shift;
    int32_t        x_at, b_at, c_at, dt_at;
} sqm__dual;

static sqm_result sqm__ssd_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                int32_t *out_width, sqm_error *err)
{
    sqm__dual *s = (sqm__dual *)bound;
    int64_t end = 0, channels;
    int32_t rows, cols;
    memset(s, 0, sizeof(*s));
    SQM__TRY(sqm__param_int(&s->heads, params, n, "heads", 0, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&s->head_dim, params, n, "head_dim", 0, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&s->n, params, n, "state", 0, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&s->groups, params, n, "groups", 1, 1, s->heads, err));
    channels = (int64_t)s->heads * s->head_dim;
    if (s->heads % s->groups)
        SQM__FAIL(err, SQM_E_SHAPE, s->groups, "%d heads do not divide into %d groups", s->heads, s->groups);
    SQM__TRY(sqm__part_at(&s->x_at, &end, params, n, "x_at", channels, in_width, err));
    SQM__TRY(sqm__part_at(&s->b_at, &end, params, n, "b_at", (int64_t)s->groups * s->n, in_width, err));
    SQM__TRY(sqm__part_at(&s->c_at, &end, params, n, "c_at", (int64_t)s->groups * s->n, in_width, err));
    SQM__TRY(sqm__part_at(&s->dt_at, &end, params, n, "dt_at", s->heads, in_width, err));
    SQM__TRY(sqm__step_bind(&s->dt, params, n, s->heads, err));
    SQM__TRY(sqm__param_vector(&s->a, params, n, "a", s->heads, err));
    SQM__TRY(sqm__param_vector(&s->d, params, n, "d", (int32_t)channels, err));
    SQM__TRY(sqm__param_matrix(&s->init, &rows, &cols, params, n, "init", err));
    if (!s->a) SQM__FAIL(err, SQM_E_SHAPE, 0, "ssd needs a=");
    if (s->init && (rows != channels || cols != s->n))
        SQM__FAIL(err, SQM_E_SHAPE, rows, "init is [%d, %d], expected [%d, %d]", rows, cols,
                  (int32_t)channels, s->n);
    s->panels = sqm__ceil_div(s->head_dim, SQM__LANES);
    s->in_width = in_width;
    *out_width = (int32_t)channels;
    return SQM_OK;
}
static sqm_result sqm__ssd_whole_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                      int32_t *out_width, sqm_error *err)
{
    sqm__dual *s = (sqm__dual *)bound;
    SQM__TRY(sqm__ssd_bind(bound, params, n, in_width, out_width, err));
    SQM__TRY(sqm__order_bind(&s->order, params, n, err));
    SQM__TRY(sqm__param_int(&s->shift, params, n, "shift", 0, 0, 1, err));
    if (s->shift && (s->d || s->order.kind >= SQM__ORDER_DOWN))
        SQM__FAIL(err, SQM_E_UNSUPPORTED, s->order.kind, "shift goes neither with d= nor with order = %s",
                  sqm__order_names[s->order.kind]);
    s->whole = 1;
    return SQM_OK;
}

SQM__INLINE size_t sqm__ssd_head_floats(const sqm__dual *s)
{
    return (size_t)s->panels * (size_t)s->n * SQM__LANES;
}
static size_t sqm__ssd_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                   sqm_dtype kv_dtype)
{
    const sqm__dual *s = (const sqm__dual *)bound;
    (void)max_context; (void)max_batch; (void)kv_dtype;
    if (sqm__ssd_head_floats(s) > (size_t)-1 / sizeof(float) / (size_t)s->heads) return (size_t)-1;
    return sqm__ssd_head_floats(s) * (size_t)s->heads * sizeof(float);
}
static size_t sqm__ssd_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state; (void)position;
    return sqm__ssd_state_bytes(bound, 0, 0, SQM_F32);
}
/* Of one piece: a head's state for spans without one */
static size_t sqm__ssd_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                     int32_t threads)
{
    const size_t floats = sqm__ssd_head_floats((const sqm__dual *)bound);
    (void)max_context; (void)max_batch;
    return floats > (size_t)-1 / sizeof(float) / (size_t)threads ? (size_t)-1
                                                                 : floats * sizeof(float) * (size_t)threads;
}
/* A head's state before the first row: init [head_dim, n] as panels, or zeros */
static void sqm__head_start(float *state, const float *init, int32_t head_dim, int32_t n)
{
    const size_t panels = (size_t)sqm__ceil_div(head_dim, SQM__LANES), columns = (size_t)n;
    memset(state, 0, panels * columns * SQM__LANES * sizeof(float));
    for (size_t i = 0; init && i < (size_t)head_dim; i++)
        for (size_t k = 0; k < columns; k++)
            state[(i / SQM__LANES * columns + k) * SQM__LANES + i % SQM__LANES] = init[i * columns + k];
}
static void sqm__ssd_start(const sqm__dual *s, float *state, int32_t head)
{
    const float *init = s->init ? s->init + (size_t)head * (size_t)s->head_dim * (size_t)s->n : NULL;
    sqm__head_start(state, init, s->head_dim, s->n);
}
static void sqm__ssd_reset(const void *bound, void *state, size_t state_bytes, int32_t max_context,
                           int32_t max_batch, sqm_dtype kv_dtype)
{
    const sqm__dual *s = (const sqm__dual *)bound;
    (void)state_bytes; (void)max_context; (void)max_batch; (void)kv_dtype;
    for (int32_t h = 0; h < s->heads; h++)
        sqm__ssd_start(s, (float *)state + (size_t)h * sqm__ssd_head_floats(s), h);
}

/* Step sizes of rows of one head, `step` floats apart: bias, activation, limits */
static void sqm__step_sizes(float *dt, const sqm_exec *x, const sqm__step_size *s, const float *in,
                            ptrdiff_t step, int32_t rows, int32_t head)
{
    const float bias = s->bias ? s->bias[head] : 0.0f;
    int32_t i = 0;
    do dt[i] = in[(ptrdiff_t)i * step] + bias; while (++i < rows);
    SQM__CALL(x->kernels, activate)(dt, dt, (size_t)rows, s->act);
    for (int32_t t = 0; t < rows; t++) {
        if (!(dt[t] > s->low)) dt[t] = s->low;
        if (dt[t] > s->high) dt[t] = s->high;
    }
}

typedef struct sqm__ssd_job {
    const sqm__dual *s;
    const sqm_exec  *x;
    float           *out;
    const float     *in;
    const sqm_span  *spans;
    int32_t          n_spans, pieces;
} sqm__ssd_job;

/* Up to SQM__SCAN_ROWS rows of a head from row `row` of the batch on, `step` rows apart */
static void sqm__ssd_rows(const sqm__ssd_job *job, float *state, ptrdiff_t row, int32_t step, int32_t rows,
                          int32_t head)
{
    const sqm__dual *s = job->s;
    const ptrdiff_t width = (ptrdiff_t)s->heads * s->head_dim, group = head / (s->heads / s->groups);
    const float *in = job->in + row * s->in_width;
    float dt[SQM__SCAN_ROWS], log_decay[SQM__SCAN_ROWS];
    sqm__rank1 update;
    sqm__ssd k;
    memset(&k, 0, sizeof(k));
    k.q_step = update.u_step = update.k_step = (ptrdiff_t)step * s->in_width;
    sqm__step_sizes(dt, job->x, &s->dt, in + s->dt_at + head, k.q_step, rows, head);
    for (int32_t t = 0; t < rows; t++) log_decay[t] = dt[t] * s->a[head];
    update.u = in + s->x_at + (ptrdiff_t)head * s->head_dim;
    update.k = in + s->b_at + group * s->n;
    update.w = dt;
    k.state = state;
    k.log_decay = log_decay;
    k.updates = &update;
    k.q = in + s->c_at + group * s->n;
    k.d = s->d ? s->d + (ptrdiff_t)head * s->head_dim : NULL;
    k.y = job->out + (row + (s->shift ? step : 0)) * width + (ptrdiff_t)head * s->head_dim;
    k.y_step = (ptrdiff_t)step * width;
    k.n_updates = k.n_outputs = 1;
    k.width = s->head_dim;
    k.n = s->n;
    k.rows = rows;
    SQM__CALL(job->x->kernels, ssd)(&k);
}
static void sqm__ssd_unit(const sqm__ssd_job *job, float *scratch, const sqm_span *span, int32_t head)
{
    const sqm__dual *s = job->s;
    const int keeps = span->state && !s->whole;
    float *state = keeps ? (float *)span->state + (size_t)head * sqm__ssd_head_floats(s) : scratch;
    sqm__run_of run;
    if (!keeps) sqm__ssd_start(s, state, head);
    for (int32_t i = 0; sqm__order_run(&run, &s->order, span->rows, i); i++) {
        const ptrdiff_t row = (ptrdiff_t)span->first_row + run.first;
        const int32_t rows = run.count - s->shift;               /* the last one is shifted out */
        if (s->shift)
            memset(job->out + (row * s->heads + head) * s->head_dim, 0, (size_t)s->head_dim * sizeof(float));
        for (int32_t t = 0; t < rows; t += SQM__SCAN_ROWS)
            sqm__ssd_rows(job, state, row + (ptrdiff_t)t * run.step, run.step,
                          sqm__min(SQM__SCAN_ROWS, rows - t), head);
    }
}
static void sqm__ssd_task(void *arg, int32_t piece)
{
    const sqm__ssd_job *job = (const sqm__ssd_job *)arg;
    const int32_t first = sqm__cut(job->s->heads, piece, job->pieces);
    const int32_t last = sqm__cut(job->s->heads, piece + 1, job->pieces);
    float *scratch = (float *)(void *)job->x->scratch + (size_t)piece * sqm__ssd_head_floats(job->s);
    for (int32_t s = 0; s < job->n_spans; s++)
        for (int32_t h = first; h < last; h++) sqm__ssd_unit(job, scratch, &job->spans[s], h);
}
static sqm_result sqm__ssd_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                   const sqm_span *spans, int32_t n_spans)
{
    const sqm__dual *s = (const sqm__dual *)bound;
    const size_t need = sqm__ssd_scratch_bytes(s, 0, 0, x->threads);
    sqm__ssd_job job;
    size_t rows = 0;
    job.s = s; job.x = x; job.out = out; job.in = in; job.spans = spans; job.n_spans = n_spans;
    if (need > x->scratch_bytes || !x->scratch)
        SQM__FAIL(&x->error, SQM_E_MEMORY, need, "ssd needs %z bytes of scratch, the context has %z",
                  (uint64_t)need, (uint64_t)x->scratch_bytes);
    for (int32_t i = 0; i < n_spans; i++) rows += (size_t)spans[i].rows;
    job.pieces = sqm__min(sqm__pieces(x, rows * sqm__ssd_head_floats(s) * (size_t)s->heads), s->heads);
    sqm__run(x, sqm__ssd_task, &job, job.pieces);
    return SQM_OK;
}

static const sqm_mixer sqm__ssd_mixer = {
    "ssd", "heads head_dim state groups a d init dt_act dt_bias dt_min dt_max x_at b_at c_at dt_at",
    sizeof(sqm__dual), SQM_MIXER_CAUSAL, 0, sqm__ssd_bind, sqm__ssd_state_bytes, sqm__ssd_used_bytes,
    sqm__ssd_scratch_bytes, sqm__ssd_reset, sqm__ssd_forward
};
static const sqm_mixer sqm__ssd_whole_mixer = {
    "ssd_whole", "heads head_dim state groups a d init dt_act dt_bias dt_min dt_max x_at b_at c_at dt_at "
    "order columns shift", sizeof(sqm__dual), SQM_MIXER_WHOLE_ONLY, 0, sqm__ssd_whole_bind,
    sqm__no_state_bytes, sqm__no_used_bytes, sqm__ssd_scratch_bytes, sqm__no_reset, sqm__ssd_forward
};
SQMDEF const sqm_mixer *sqm_mixer_ssd(void) { return &sqm__ssd_mixer; }
SQMDEF const sqm_mixer *sqm_mixer_ssd_whole(void) { return &sqm__ssd_whole_mixer; }

/* ---- [MIX.trapezoid] matrix state, trapezoidal rule, keys that turn ---------------------------------------
   dt   = softplus(dt_t + dt_bias),  g = -max(act(a_t), a_floor) dt,  m = sigmoid(trap_t)         head by head
   angle = angle + pi tanh(angle_t) dt          angles shared by the heads, each head turns with its own dt
   k_r  = turn(B_t,r + b_bias_r),  q_r = turn(C_t,r + c_bias_r),  v_r = x_t * mix_r          r = 0 .. rank - 1
   S_t  = e^g S_(t-1) + (1 - m) dt e^g sum_r v_(t-1),r k_(t-1),r^T + m dt sum_r v_t,r k_t,r^T
   y_r  = S_t q_r + d v_r
   a_act  heavy_tail: 1 + x for x >= 0, 1 / (1 - x) below;  softplus
   style  interleaved: pairs (2i, 2i + 1);  half: pairs (i, i + state / 2); i < angles. The rest stands still.
   Rows in  [x: heads x head_dim | B: rank x groups x state | C: the same | dt: heads | a: heads | trap: heads
            | angle: angles], or from wherever x_at .. angle_at say; B and C are already normalised;
   rows out [rank][heads x head_dim]
   Weights  b_bias, c_bias [heads x rank x state]; mix [heads x rank x head_dim]; d [heads x head_dim];
            dt_bias [heads]; all optional
   State    head by head: S as in ssd, angles (kept within +-pi), k of the last row, x of the last row.
   Source   Mamba-3 (2603.15569), SISO and MIMO.
   Traps    the first release has a_act=softplus, later ones heavy_tail; a checkpoint does not say which.
   Tests    tests/test_mix_ssm.c; tools/sqm-vectors: mamba3_block. */
typedef struct sqm__trapezoid {
    const float   *b_bias, *c_bias, *mix, *d;
    sqm__step_size dt;
    float          a_floor;
    int32_t        heads, head_dim, n, groups, rank, angles, a_act, style, panels, in_width;
    int32_t        x_at, b_at, c_at, dt_at, a_at, trap_at, angle_at;
} sqm__trapezoid;
static const char *const sqm__decay_names[] = { "heavy_tail", "softplus" };

static sqm_result sqm__trapezoid_parts(sqm__trapezoid *s, const sqm_param *params, int32_t n,
                                       int32_t in_width, sqm_error *err)
{
    const int64_t channels = (int64_t)s->heads * s->head_dim, keys = (int64_t)s->rank * s->groups * s->n;
    int64_t end = 0;
    SQM__TRY(sqm__part_at(&s->x_at, &end, params, n, "x_at", channels, in_width, err));
    SQM__TRY(sqm__part_at(&s->b_at, &end, params, n, "b_at", keys, in_width, err));
    SQM__TRY(sqm__part_at(&s->c_at, &end, params, n, "c_at", keys, in_width, err));
    SQM__TRY(sqm__part_at(&s->dt_at, &end, params, n, "dt_at", s->heads, in_width, err));
    SQM__TRY(sqm__part_at(&s->a_at, &end, params, n, "a_at", s->heads, in_width, err));
    SQM__TRY(sqm__part_at(&s->trap_at, &end, params, n, "trap_at", s->heads, in_width, err));
    return sqm__part_at(&s->angle_at, &end, params, n, "angle_at", s->angles, in_width, err);
}
static sqm_result sqm__trapezoid_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                      int32_t *out_width, sqm_error *err)
{
    sqm__trapezoid *s = (sqm__trapezoid *)bound;
    int64_t channels, pairs;
    memset(s, 0, sizeof(*s));
    SQM__TRY(sqm__param_int(&s->heads, params, n, "heads", 0, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&s->head_dim, params, n, "head_dim", 0, 1, 1 << 12, err));
    SQM__TRY(sqm__param_int(&s->n, params, n, "state", 0, 1, 1 << 12, err));
    SQM__TRY(sqm__param_int(&s->groups, params, n, "groups", 1, 1, s->heads, err));
    SQM__TRY(sqm__param_int(&s->rank, params, n, "rank", 1, 1, SQM__MAX_RANK, err));
    SQM__TRY(sqm__param_int(&s->angles, params, n, "angles", 0, 0, s->n / 2, err));
    SQM__TRY(sqm__param_choice(&s->a_act, params, n, "a_act", sqm__decay_names, 2, 0, err));
    SQM__TRY(sqm__param_choice(&s->style, params, n, "style", sqm__style_names, 2, SQM_ROPE_INTERLEAVED,
                               err));
    SQM__TRY(sqm__param_float(&s->a_floor, params, n, "a_floor", 0.0, err));
    SQM__TRY(sqm__step_bind(&s->dt, params, n, s->heads, err));
    channels = (int64_t)s->heads * s->head_dim;
    pairs = (int64_t)s->heads * s->rank;
    if (s->heads % s->groups)
        SQM__FAIL(err, SQM_E_SHAPE, s->groups, "%d heads do not divide into %d groups", s->heads, s->groups);
    if (pairs * s->head_dim > INT32_MAX / 4 || pairs * s->n > INT32_MAX / 4)
        SQM__FAIL(err, SQM_E_LIMIT, s->heads, "%d heads of %d states and rank %d are too wide", s->heads,
                  s->n, s->rank);
    SQM__TRY(sqm__trapezoid_parts(s, params, n, in_width, err));
    SQM__TRY(sqm__param_vector(&s->b_bias, params, n, "b_bias", (int32_t)(pairs * s->n), err));
    SQM__TRY(sqm__param_vector(&s->c_bias, params, n, "c_bias", (int32_t)(pairs * s->n), err));
    SQM__TRY(sqm__param_vector(&s->mix, params, n, "mix", (int32_t)(pairs * s->head_dim), err));
    SQM__TRY(sqm__param_vector(&s->d, params, n, "d", (int32_t)channels, err));
    s->panels = sqm__ceil_div(s->head_dim, SQM__LANES);
    s->in_width = in_width;
    *out_width = (int32_t)(pairs * s->head_dim);
    return SQM_OK;
}

SQM__INLINE size_t sqm__trapezoid_matrix_floats(const sqm__trapezoid *s)
{
    return (size_t)s->panels * (size_t)s->n * SQM__LANES;
}
static size_t sqm__trapezoid_head_floats(const sqm__trapezoid *s)
{
    return sqm__align_up(sqm__trapezoid_matrix_floats(s) + (size_t)s->angles +
                         (size_t)s->rank * (size_t)s->n + (size_t)s->head_dim, SQM__LANES);
}
static size_t sqm__trapezoid_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                         sqm_dtype kv_dtype)
{
    const sqm__trapezoid *s = (const sqm__trapezoid *)bound;
    (void)max_context; (void)max_batch; (void)kv_dtype;
    if (sqm__trapezoid_head_floats(s) > (size_t)-1 / sizeof(float) / (size_t)s->heads) return (size_t)-1;
    return sqm__trapezoid_head_floats(s) * (size_t)s->heads * sizeof(float);
}
static size_t sqm__trapezoid_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state; (void)position;
    return sqm__trapezoid_state_bytes(bound, 0, 0, SQM_F32);
}
static void sqm__trapezoid_reset(const void *bound, void *state, size_t state_bytes, int32_t max_context,
                                 int32_t max_batch, sqm_dtype kv_dtype)
{
    (void)state_bytes; (void)max_context; (void)max_batch; (void)kv_dtype;
    if (state) memset(state, 0, sqm__trapezoid_state_bytes(bound, 0, 0, SQM_F32));
}

/* What one piece works with: up to SQM__SCAN_ROWS rows of one head, keys and values from the row before on */
typedef struct sqm__trapezoid_work {
    float *state;                       /* a head's, for spans without one */
    float *k, *q, *v;                   /* [rows + 1][rank][n], [rows][rank][n], [rows + 1][rank][head_dim] */
    float *dt, *log_decay, *past, *now; /* [rows] */
    float *rate, *sine, *cosine;        /* [angles] */
} sqm__trapezoid_work;

static size_t sqm__trapezoid_work_floats(const sqm__trapezoid *s, sqm__trapezoid_work *w, float *base)
{
    const size_t rank = (size_t)s->rank, n = (size_t)s->n, dim = (size_t)s->head_dim, rows = SQM__SCAN_ROWS;
    const size_t sizes[] = {
        sqm__trapezoid_head_floats(s), (rows + 1) * rank * n, rows * rank * n, (rows + 1) * rank * dim,
        rows, rows, rows, rows, (size_t)s->angles, (size_t)s->angles, (size_t)s->angles
    };
    float *at[SQM__COUNT(sizes)];
    size_t used = 0;
    for (int32_t i = 0; i < SQM__COUNT(sizes); i++) {
        at[i] = base ? base + used : NULL;
        used += sqm__align_up(sizes[i], SQM__LANES);
    }
    if (w) {
        w->state = at[0]; w->k = at[1]; w->q = at[2]; w->v = at[3];
        w->dt = at[4]; w->log_decay = at[5]; w->past = at[6]; w->now = at[7];
        w->rate = at[8]; w->sine = at[9]; w->cosine = at[10];
    }
    return used;
}
static size_t sqm__trapezoid_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                           int32_t threads)
{
    (void)max_context; (void)max_batch;
    return sqm__trapezoid_work_floats((const sqm__trapezoid *)bound, NULL, NULL) * sizeof(float) *
           (size_t)threads;
}

typedef struct sqm__trapezoid_job {
    const sqm__trapezoid *s;
    const sqm_exec       *x;
    float                *out;
    const float          *in;
    const sqm_span       *spans;
    int32_t               n_spans, pieces;
} sqm__trapezoid_job;

/* Decays and the weights of the row before and of this one */
static void sqm__trapezoid_weights(const sqm__trapezoid_job *job, const sqm__trapezoid_work *w,
                                   const float *in, int32_t rows, int32_t head)
{
    const sqm__trapezoid *s = job->s;
    const sqm__kernels *kernels = job->x->kernels;
    const ptrdiff_t step = s->in_width;
    sqm__step_sizes(w->dt, job->x, &s->dt, in + s->dt_at + head, step, rows, head);
    for (ptrdiff_t t = 0; t < rows; t++) {
        const float a = in[t * step + s->a_at + head];
        w->now[t] = in[t * step + s->trap_at + head];
        w->log_decay[t] = s->a_act ? a : a >= 0.0f ? 1.0f + a : 1.0f / (1.0f - a);
    }
    if (s->a_act) SQM__CALL(kernels, activate)(w->log_decay, w->log_decay, (size_t)rows, SQM_ACT_SOFTPLUS);
    for (int32_t t = 0; t < rows; t++) {
        const float size = w->log_decay[t] > s->a_floor ? w->log_decay[t] : s->a_floor;
        w->log_decay[t] = -size * w->dt[t];
    }
    SQM__CALL(kernels, activate)(w->now, w->now, (size_t)rows, SQM_ACT_SIGMOID);
    SQM__CALL(kernels, activate)(w->past, w->log_decay, (size_t)rows, SQM_ACT_EXP);
    for (int32_t t = 0; t < rows; t++) {
        w->past[t] *= (1.0f - w->now[t]) * w->dt[t];
        w->now[t] *= w->dt[t];
    }
}

/* to [n] = from + bias, turned by the angles whose sines and cosines are in w */
static void sqm__trapezoid_turn(const sqm__trapezoid *s, const sqm__trapezoid_work *w, float *to,
                                const float *from, const float *bias)
{
    for (int32_t i = 0; i < s->n; i++) to[i] = bias ? from[i] + bias[i] : from[i];
    for (int32_t i = 0; i < s->angles; i++) {
        float *first = to + (s->style == SQM_ROPE_HALF ? i : 2 * i);
        float *second = s->style == SQM_ROPE_HALF ? first + s->n / 2 : first + 1;
        const float a = *first, b = *second;
        *first = a * w->cosine[i] - b * w->sine[i];
        *second = b * w->cosine[i] + a * w->sine[i];
    }
}

/* Turned keys and queries and mixed values of the rows; the row before stands in front of keys and values. */
static void sqm__trapezoid_rows(const sqm__trapezoid_job *job, const sqm__trapezoid_work *w, float *state,
                                const float *in, int32_t rows, int32_t head)
{
    const sqm__trapezoid *s = job->s;
    const size_t n = (size_t)s->n, dim = (size_t)s->head_dim, rank = (size_t)s->rank;
    const size_t group = (size_t)(head / (s->heads / s->groups)), groups = (size_t)s->groups;
    float *angle = state + sqm__trapezoid_matrix_floats(s), *last_k = angle + s->angles;
    float *last_x = last_k + rank * n;
    memcpy(w->k, last_k, rank * n * sizeof(float));
    for (size_t t = 0; t <= (size_t)rows; t++) {
        const float *row = t ? in + (t - 1) * (size_t)s->in_width : NULL;
        const float *x = t ? row + s->x_at + (size_t)head * dim : last_x;
        if (t) {
            SQM__CALL(job->x->kernels, activate)(w->rate, row + s->angle_at, (size_t)s->angles, SQM_ACT_TANH);
            SQM__CALL(job->x->kernels, turn)(angle, w->sine, w->cosine, w->rate, 3.14159265f * w->dt[t - 1],
                                             s->angles);
        }
        for (size_t r = 0; r < rank; r++) {
            const size_t bias = ((size_t)head * rank + r) * n, key = (r * groups + group) * n;
            const float *mix = s->mix ? s->mix + ((size_t)head * rank + r) * dim : NULL;
            float *v = w->v + (t * rank + r) * dim;
            for (size_t i = 0; i < dim; i++) v[i] = mix ? x[i] * mix[i] : x[i];
            if (!t) continue;
            sqm__trapezoid_turn(s, w, w->k + (t * rank + r) * n, row + s->b_at + key,
                                s->b_bias ? s->b_bias + bias : NULL);
            sqm__trapezoid_turn(s, w, w->q + ((t - 1) * rank + r) * n, row + s->c_at + key,
                                s->c_bias ? s->c_bias + bias : NULL);
        }
    }
    memcpy(last_k, w->k + (size_t)rows * rank * n, rank * n * sizeof(float));
    memcpy(last_x, in + (size_t)(rows - 1) * (size_t)s->in_width + s->x_at + (size_t)head * dim,
           dim * sizeof(float));
}

static void sqm__trapezoid_block(const sqm__trapezoid_job *job, const sqm__trapezoid_work *w, float *state,
                                 ptrdiff_t row, int32_t rows, int32_t head)
{
    const sqm__trapezoid *s = job->s;
    const ptrdiff_t width = (ptrdiff_t)s->heads * s->head_dim;
    const float *in = job->in + row * s->in_width;
    sqm__rank1 updates[2 * SQM__MAX_RANK];
    sqm__ssd k;
    sqm__trapezoid_weights(job, w, in, rows, head);
    sqm__trapezoid_rows(job, w, state, in, rows, head);
    for (int32_t i = 0; i < 2 * s->rank; i++) {        /* first those of the row before */
        updates[i].u = w->v + (ptrdiff_t)i * s->head_dim;
        updates[i].k = w->k + (ptrdiff_t)i * s->n;
        updates[i].w = i < s->rank ? w->past : w->now;
        updates[i].u_step = (ptrdiff_t)s->rank * s->head_dim;
        updates[i].k_step = (ptrdiff_t)s->rank * s->n;
    }
    k.state = state;
    k.log_decay = w->log_decay;
    k.updates = updates;
    k.q = w->q;
    k.d = s->d ? s->d + (ptrdiff_t)head * s->head_dim : NULL;
    k.y = job->out + row * s->rank * width + (ptrdiff_t)head * s->head_dim;
    k.q_step = (ptrdiff_t)s->rank * s->n;
    k.y_step = s->rank * width;
    k.q_next = s->n;
    k.y_next = width;
    k.n_updates = 2 * s->rank;
    k.n_outputs = s->rank;
    k.width = s->head_dim;
    k.n = s->n;
    k.rows = rows;
    SQM__CALL(job->x->kernels, ssd)(&k);
}
static void sqm__trapezoid_task(void *arg, int32_t piece)
{
    const sqm__trapezoid_job *job = (const sqm__trapezoid_job *)arg;
    const sqm__trapezoid *s = job->s;
    const size_t floats = sqm__trapezoid_head_floats(s);
    const int32_t first = sqm__cut(s->heads, piece, job->pieces);
    const int32_t last = sqm__cut(s->heads, piece + 1, job->pieces);
    sqm__trapezoid_work w;
    (void)sqm__trapezoid_work_floats(s, &w, (float *)(void *)job->x->scratch +
                                            sqm__trapezoid_work_floats(s, NULL, NULL) * (size_t)piece);
    for (int32_t i = 0; i < job->n_spans; i++)
        for (int32_t h = first; h < last; h++) {
            const sqm_span *span = &job->spans[i];
            float *state = span->state ? (float *)span->state + floats * (size_t)h : w.state;
            if (!span->state) memset(state, 0, floats * sizeof(float));
            for (int32_t t = 0; t < span->rows; t += SQM__SCAN_ROWS)
                sqm__trapezoid_block(job, &w, state, (ptrdiff_t)span->first_row + t,
                                     sqm__min(SQM__SCAN_ROWS, span->rows - t), h);
        }
}
static sqm_result sqm__trapezoid_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                         const sqm_span *spans, int32_t n_spans)
{
    const sqm__trapezoid *s = (const sqm__trapezoid *)bound;
    const size_t need = sqm__trapezoid_scratch_bytes(s, 0, 0, x->threads);
    sqm__trapezoid_job job;
    size_t rows = 0;
    job.s = s; job.x = x; job.out = out; job.in = in; job.spans = spans; job.n_spans = n_spans;
    if (need > x->scratch_bytes || !x->scratch)
        SQM__FAIL(&x->error, SQM_E_MEMORY, need, "trapezoid needs %z bytes of scratch, the context has %z",
                  (uint64_t)need, (uint64_t)x->scratch_bytes);
    for (int32_t i = 0; i < n_spans; i++) rows += (size_t)spans[i].rows;
    job.pieces = sqm__min(sqm__pieces(x, rows * sqm__trapezoid_matrix_floats(s) * (size_t)s->heads),
                          s->heads);
    sqm__run(x, sqm__trapezoid_task, &job, job.pieces);
    return SQM_OK;
}

static const sqm_mixer sqm__trapezoid_mixer = {
    "trapezoid", "heads head_dim state groups rank angles style a_act a_floor b_bias c_bias mix d dt_act "
    "dt_bias dt_min dt_max x_at b_at c_at dt_at a_at trap_at angle_at", sizeof(sqm__trapezoid),
    SQM_MIXER_CAUSAL, 0, sqm__trapezoid_bind, sqm__trapezoid_state_bytes, sqm__trapezoid_used_bytes,
    sqm__trapezoid_scratch_bytes, sqm__trapezoid_reset, sqm__trapezoid_forward
};
SQMDEF const sqm_mixer *sqm_mixer_trapezoid(void) { return &sqm__trapezoid_mixer; }

/* ---- helpers of the mixers below ----------------------------------------------------------------------- */
SQM__INLINE size_t sqm__times(size_t a, size_t b)       /* (size_t)-1 when the product does not fit */
{
    return b && a > (size_t)-1 / b ? (size_t)-1 : a * b;
}
static size_t sqm__no_scratch(const void *bound, int32_t max_context, int32_t max_batch, int32_t threads)
{
    (void)bound; (void)max_context; (void)max_batch; (void)threads;
    return 0;
}
static void sqm__zero_state(const void *bound, void *state, size_t state_bytes, int32_t max_context,
                            int32_t max_batch, sqm_dtype kv_dtype)
{
    (void)bound; (void)max_context; (void)max_batch; (void)kv_dtype;
    memset(state, 0, state_bytes);
}

/* A task over the groups of 16 channels of every span: unit u belongs to piece u % pieces. */
typedef struct sqm__groups_job {
    const void      *bound;
    const sqm_exec  *x;
    float           *out;
    const float     *in;
    const sqm_span  *spans;
    int32_t          n_spans, groups, pieces;
} sqm__groups_job;
/* work: elementary operations of one row of one group */
static void sqm__run_groups(sqm_task task, const void *bound, const sqm_exec *x, float *out, const float *in,
                            const sqm_span *spans, int32_t n_spans, int32_t groups, size_t work)
{
    sqm__groups_job job;
    size_t rows = 0;
    job.bound = bound; job.x = x; job.out = out; job.in = in; job.spans = spans; job.n_spans = n_spans;
    job.groups = groups;
    for (int32_t s = 0; s < n_spans; s++) rows += (size_t)spans[s].rows;
    job.pieces = sqm__pieces(x, rows * (size_t)groups * work);
    sqm__run(x, task, &job, job.pieces);
}

/* ---- [MIX.lti] linear time-invariant state space ----------------------------------------------------------
   Of each channel, with N complex states x_n and real u and y:
     x_n += da_n x_n + u                                          da = a - 1
     x_n += da_n x_n + b_n u + p_n sum_m <q_m, x_m>               with b, p, q: diagonal plus rank one
     y = d u + sum_n <c_n, x_n>                                   <a, b> = Re a Re b + Im a Im b
   Without c: one complex state a channel, rows [Re u | Im u] in, [Re x | Im x] out; the recipe's linear maps
   around it are B and C of a system with one shared state.
   Rows in  [channels], rows out [channels];  without c: [2 * channels] both
   Weights  da, c, b, p, q [channels, 2 N] in float32 panels: columns 2n and 2n + 1 are real and imaginary
            part of state n;  d [channels], may be missing;  da_low like da: what rounding to float32 took
            from da. With it the states are doubles.
   State    [group of 16 channels][N][Re, Im][16] in float32 or double.
   Order    d u, then the states in increasing n, real before imaginary part; the sum along q: two sums (real,
            imaginary) added at the end.
   Source   S4 (2111.00396), S4D (2206.11893), DSS (2203.14343), GSS (2206.13947), S5 (2208.04933), LRU
            (2303.06349), H3's diagonal part (2212.14052). Discretisation, B folded into c, factors of
            conjugate pairs: tools/prep_s4.h, in double. Real states: [MIX.scan] with decay.
   Traps    c and q hold conjugates: y = Re(C x) needs c = (Re C, -Im C). |a| > 1 grows without bound. A
            float32 da is wrong by 6e-8 |da|, which the output sees times the length of the memory: give
            da_low when |da| / (1 - |a|) is above about 500.
   Tests    tests/test_mix_s4.c; tools/sqm-vectors: s4_block, s4d_layer, dss_layer, gss_layer, lru_layer,
            lru_block, s5_layer, h3_layer. */
typedef struct sqm__lti {
    int32_t      channels, states;
    const float *da, *da_low, *b, *c, *d, *p, *q;
} sqm__lti;

/* One matrix of float32 panels, of the shape of da unless it is da itself; NULL when missing */
static sqm_result sqm__lti_matrix(const float **to, sqm__lti *l, const sqm_param *params, int32_t n,
                                  const char *key, sqm_error *err)
{
    const sqm_param *p = sqm__param(params, n, key);
    const sqm_tensor *t = p && p->n_tensors == 1 && p->tensors ? p->tensors[0] : NULL;
    *to = NULL;
    if (!p) return SQM_OK;
    SQM__TRY(sqm__check_panels(t, err));
    if (t->dtype != SQM_F32) SQM__FAIL(err, SQM_E_SHAPE, t->dtype, "%s must be float32", key);
    if (!l->da) {
        l->channels = t->shape[0];
        l->states = t->shape[1] / 2;
    }
    if (t->shape[1] % 2)
        SQM__FAIL(err, SQM_E_SHAPE, t->shape[1], "%s has %d columns: no pairs", key, t->shape[1]);
    if (t->shape[0] != l->channels || t->shape[1] / 2 != l->states)
        SQM__FAIL(err, SQM_E_SHAPE, t->shape[0], "%s is [%d, %d], da is [%d, %d]", key, t->shape[0],
                  t->shape[1], l->channels, 2 * l->states);
    *to = (const float *)t->data;
    return SQM_OK;
}
static sqm_result sqm__lti_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                int32_t *out_width, sqm_error *err)
{
    sqm__lti *l = (sqm__lti *)bound;
    memset(l, 0, sizeof(*l));
    SQM__TRY(sqm__lti_matrix(&l->da, l, params, n, "da", err));
    if (!l->da) SQM__FAIL(err, SQM_E_SHAPE, 0, "lti needs its state matrix in da=");
    SQM__TRY(sqm__lti_matrix(&l->da_low, l, params, n, "da_low", err));
    SQM__TRY(sqm__lti_matrix(&l->c, l, params, n, "c", err));
    SQM__TRY(sqm__lti_matrix(&l->b, l, params, n, "b", err));
    SQM__TRY(sqm__lti_matrix(&l->p, l, params, n, "p", err));
    SQM__TRY(sqm__lti_matrix(&l->q, l, params, n, "q", err));
    SQM__TRY(sqm__param_vector(&l->d, params, n, "d", l->channels, err));
    if ((l->p || l->q || l->b) && !(l->p && l->q && l->b && l->c && !l->da_low))
        SQM__FAIL(err, SQM_E_SHAPE, l->states, "b, p and q go together, with c and without da_low");
    if (!l->c && (l->states != 1 || l->d))
        SQM__FAIL(err, SQM_E_SHAPE, l->states, "without c there is one state a channel, not %d, and no d",
                  l->states);
    if (!l->c && l->channels > INT32_MAX / 2) SQM__FAIL(err, SQM_E_LIMIT, l->channels, "too many channels");
    *out_width = l->c ? l->channels : 2 * l->channels;
    if (*out_width != in_width)
        SQM__FAIL(err, SQM_E_SHAPE, in_width, "lti of %d channels reads rows of %d, not %d", l->channels,
                  *out_width, in_width);
    return SQM_OK;
}

SQM__INLINE size_t sqm__lti_group_bytes(const sqm__lti *l)
{
    return sqm__times((size_t)l->states, 2 * SQM__LANES * (l->da_low ? sizeof(double) : sizeof(float)));
}
static size_t sqm__lti_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                   sqm_dtype kv_dtype)
{
    const sqm__lti *l = (const sqm__lti *)bound;
    (void)max_context; (void)max_batch; (void)kv_dtype;
    return sqm__times(sqm__lti_group_bytes(l), (size_t)sqm__ceil_div(l->channels, SQM__LANES));
}
static size_t sqm__lti_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state; (void)position;
    return sqm__lti_state_bytes(bound, 0, 0, SQM_F32);
}

static void sqm__lti_group(const sqm__groups_job *job, const sqm_span *span, int32_t group)
{
    const sqm__lti *l = (const sqm__lti *)job->bound;
    const size_t width = (size_t)(l->c ? l->channels : 2 * l->channels), first = (size_t)group * SQM__LANES;
    const size_t at = 2 * first * (size_t)l->states;    /* of this group's panel */
    sqm__lti_scan s;
    s.state = (uint8_t *)span->state + sqm__lti_group_bytes(l) * (size_t)group;
    s.y = job->out + (size_t)span->first_row * width + first;
    s.u = job->in + (size_t)span->first_row * width + first;
    s.da = l->da + at;
    s.da_low = l->da_low ? l->da_low + at : NULL;
    s.b = l->b ? l->b + at : NULL;
    s.c = l->c ? l->c + at : NULL;
    s.p = l->p ? l->p + at : NULL;
    s.q = l->q ? l->q + at : NULL;
    s.d = l->d ? l->d + first : NULL;
    s.u_stride = s.y_stride = width;
    s.imag = (size_t)l->channels;
    s.states = l->states;
    s.n_tokens = span->rows;
    s.lanes = sqm__min(SQM__LANES, l->channels - (int32_t)first);
    SQM__CALL(job->x->kernels, lti)(&s);
}
static void sqm__lti_task(void *arg, int32_t piece)
{
    const sqm__groups_job *job = (const sqm__groups_job *)arg;
    int32_t unit = 0;
    for (int32_t s = 0; s < job->n_spans; s++)
        for (int32_t g = 0; job->spans[s].state && g < job->groups; g++)
            if (unit++ % job->pieces == piece) sqm__lti_group(job, &job->spans[s], g);
}
static void sqm__lti_run(const void *bound, sqm_exec *x, float *out, const float *in,
                         const sqm_span *spans, int32_t n_spans)
{
    const sqm__lti *l = (const sqm__lti *)bound;
    sqm__run_groups(sqm__lti_task, bound, x, out, in, spans, n_spans, sqm__ceil_div(l->channels, SQM__LANES),
                    (size_t)l->states * SQM__LANES * (l->p || l->da_low ? 12u : 6u));
}
static sqm_result sqm__lti_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                   const sqm_span *spans, int32_t n_spans);

static const sqm_mixer sqm__lti_mixer = {
    "lti", "da da_low b c d p q", sizeof(sqm__lti), SQM_MIXER_CAUSAL, 0, sqm__lti_bind, sqm__lti_state_bytes,
    sqm__lti_used_bytes, sqm__no_scratch, sqm__zero_state, sqm__lti_forward
};
SQMDEF const sqm_mixer *sqm_mixer_lti(void) { return &sqm__lti_mixer; }
static sqm_result sqm__lti_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                   const sqm_span *spans, int32_t n_spans)
{
    return sqm__run_spans(&sqm__lti_mixer, bound, x, out, in, spans, n_spans, 0, sqm__lti_run);
}

/* ---- [MIX.rnn] dense recurrence ---------------------------------------------------------------------------
   x_t = act(u_t + W x_(t-1)), y_t = x_t                      the first `first` states of a copy without act
   residual=1  x_t = act(u_t + W x_(t-1) + x_(t-1)): a matrix close to 1 keeps its digits as W = A - 1.
   Rows in  [copies][states], what the recipe's linear maps made of the inputs;     rows out [copies][states]
   Weights  w [states, states] in panels, any element type; copies share it
   State    [copies * states] float32: the last row that went out.
   Order    u + (a chain over 64 old states in increasing index) + (over the next 64) ...; other than float32:
            u + (one chain); gemm of [KERN], copies are its rows.
   Source   Legendre memory units (Voelker et al. 2019): W = A, copies = memory_d; with recurrent connections
            or a simple recurrent cell all of it is one such W (tools/map_s4.h). Elman networks; dense state
            spaces.
   Traps    W is applied to the old state, so a cell that reads the new memory has the product folded into W.
   Tests    tests/test_mix_s4.c; tools/sqm-vectors: keras_lmu, lmuformer. */
typedef struct sqm__rnn {
    sqm_tensor w;
    int32_t    states, copies, act, first, residual;
} sqm__rnn;

static sqm_result sqm__rnn_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                int32_t *out_width, sqm_error *err)
{
    sqm__rnn *r = (sqm__rnn *)bound;
    const sqm_param *w = sqm__param(params, n, "w");
    memset(r, 0, sizeof(*r));
    if (!w || w->n_tensors != 1 || !w->tensors || !w->tensors[0])
        SQM__FAIL(err, SQM_E_SHAPE, 0, "rnn needs one matrix in w=");
    r->w = *w->tensors[0];
    SQM__TRY(sqm__check_panels(&r->w, err));
    r->states = r->w.shape[0];
    SQM__TRY(sqm__param_int(&r->copies, params, n, "copies", 1, 1, 1 << 20, err));
    SQM__TRY(sqm__param_int(&r->first, params, n, "first", 0, 0, r->states, err));
    SQM__TRY(sqm__param_int(&r->residual, params, n, "residual", 0, 0, 1, err));
    SQM__TRY(sqm__param_choice(&r->act, params, n, "act", sqm__act_names, SQM_ACT_COUNT, SQM_ACT_NONE, err));
    if (r->w.shape[1] != r->states || (int64_t)r->states * r->copies != in_width)
        SQM__FAIL(err, SQM_E_SHAPE, in_width, "rnn: w [%d, %d] and %d copies do not fit rows of %d",
                  r->states, r->w.shape[1], r->copies, in_width);
    *out_width = in_width;
    return SQM_OK;
}
static size_t sqm__rnn_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                   sqm_dtype kv_dtype)
{
    const sqm__rnn *r = (const sqm__rnn *)bound;
    (void)max_context; (void)max_batch; (void)kv_dtype;
    return sqm__times((size_t)r->states * sizeof(float), (size_t)r->copies);
}
static size_t sqm__rnn_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state; (void)position;
    return sqm__rnn_state_bytes(bound, 0, 0, SQM_F32);
}
SQM__INLINE size_t sqm__rnn_work(const sqm__rnn *r)
{
    return sqm__work_floats(r->copies, r->w.dtype >= SQM_Q8);
}
static size_t sqm__rnn_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                     int32_t threads)
{
    (void)max_context; (void)max_batch;
    return (size_t)threads * sqm__rnn_work((const sqm__rnn *)bound) * sizeof(float);
}

static void sqm__rnn_span(const sqm__groups_job *job, const sqm_span *span, float *work)
{
    const sqm__rnn *r = (const sqm__rnn *)job->bound;
    const size_t width = (size_t)r->states * (size_t)r->copies;
    const int32_t columns = r->w.dtype == SQM_F32 ? 64 : r->states;
    sqm__gemm g;
    memset(&g, 0, sizeof(g));
    g.x = (const float *)span->state;
    g.panels = (const uint8_t *)r->w.data;
    g.panel_bytes = (size_t)sqm__panel_bytes(r->w.dtype, r->states);
    g.y_stride = g.x_stride = (size_t)r->states;
    g.scale = 1.0f;
    g.add = 1;
    g.n_tokens = r->copies;
    g.n_rows = g.n_cols = r->states;
    g.dtype = r->w.dtype;
    for (size_t t = (size_t)span->first_row; t < (size_t)span->first_row + (size_t)span->rows; t++) {
        g.y = job->out + t * width;
        memcpy(g.y, job->in + t * width, width * sizeof(float));
        for (int32_t k = 0; k < r->states; k += columns) {
            sqm__gemm part = g;
            part.x += k;
            part.panels += (size_t)k * SQM__LANES * sizeof(float);
            part.n_cols = sqm__min(columns, r->states - k);
            SQM__CALL(job->x->kernels, gemm)(&part, 0, sqm__ceil_div(r->states, SQM__LANES), work);
        }
        for (size_t i = 0; r->residual && i < width; i++) g.y[i] += g.x[i];
        for (int32_t i = 0; r->act != SQM_ACT_NONE && i < r->copies; i++) {
            float *part = g.y + (size_t)i * (size_t)r->states + r->first;
            SQM__CALL(job->x->kernels, activate)(part, part, (size_t)(r->states - r->first), r->act);
        }
        g.x = g.y;
    }
    memcpy(span->state, g.x, width * sizeof(float));
}
static void sqm__rnn_task(void *arg, int32_t piece)
{
    const sqm__groups_job *job = (const sqm__groups_job *)arg;
    for (int32_t s = piece; s < job->n_spans; s += job->pieces)
        if (job->spans[s].state && job->spans[s].rows > 0)
            sqm__rnn_span(job, &job->spans[s],
                          (float *)(void *)job->x->scratch +
                          (size_t)piece * sqm__rnn_work((const sqm__rnn *)job->bound));
}
static void sqm__rnn_run(const void *bound, sqm_exec *x, float *out, const float *in,
                         const sqm_span *spans, int32_t n_spans)
{
    const sqm__rnn *r = (const sqm__rnn *)bound;
    sqm__run_groups(sqm__rnn_task, bound, x, out, in, spans, n_spans, 1,
                    (size_t)r->states * (size_t)r->states * (size_t)r->copies);
}
static sqm_result sqm__rnn_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                   const sqm_span *spans, int32_t n_spans);

static const sqm_mixer sqm__rnn_mixer = {
    "rnn", "w act first copies residual", sizeof(sqm__rnn), SQM_MIXER_CAUSAL, 0, sqm__rnn_bind,
    sqm__rnn_state_bytes,
    sqm__rnn_used_bytes, sqm__rnn_scratch_bytes, sqm__zero_state, sqm__rnn_forward
};
SQMDEF const sqm_mixer *sqm_mixer_rnn(void) { return &sqm__rnn_mixer; }
static sqm_result sqm__rnn_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                   const sqm_span *spans, int32_t n_spans)
{
    return sqm__run_spans(&sqm__rnn_mixer, bound, x, out, in, spans, n_spans,
                          sqm__rnn_scratch_bytes(bound, 0, 0, x->threads), sqm__rnn_run);
}

/* ---- [MIX.legs] scale-invariant Legendre memory -----------------------------------------------------------
   c'(t) = (A c + B u) / t, HiPPO-LegS: the best `order` Legendre coefficients of all that a signal has been,
   stretched over the whole past. Step k = 1, 2, ... (position + 1):
     bilinear, backward, forward   (I - i A / k) c_k = (I + (1 - i) A / k) c_(k-1) + B u / k
                                   i = 1/2, 1, 0
     exact                         c_k = E c_(k-1) + (I - E) e_0 u,   E = exp(A log((k + 1) / k))
   Rows in  [signals];  rows out [order][signals]
   State    [group of 16 signals][order][16] float32.  Cost: O(order) a step (exact: O(order^3 / k) at first)
   Source   Gu et al. 2020 (2008.07669); state-spaces/s4 src/models/hippo.
   Traps    forward steps are unstable while k < order. Reset the sequence to start another piece of signal.
   Tests    tests/test_mix_s4.c; tools/sqm-vectors: hippo_legs_online. */
typedef struct sqm__legs { int32_t signals, order, step; } sqm__legs;
static const char *const sqm__legs_steps[] = { "bilinear", "backward", "forward", "exact" };

static sqm_result sqm__legs_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                 int32_t *out_width, sqm_error *err)
{
    sqm__legs *l = (sqm__legs *)bound;
    memset(l, 0, sizeof(*l));
    l->signals = in_width;
    SQM__TRY(sqm__param_choice(&l->step, params, n, "step", sqm__legs_steps, SQM__COUNT(sqm__legs_steps), 0,
                               err));
    SQM__TRY(sqm__param_int(&l->order, params, n, "order", 0, 1, l->step == 3 ? 256 : 4096, err));
    if (in_width > INT32_MAX / l->order)
        SQM__FAIL(err, SQM_E_LIMIT, in_width, "%d signals of order %d are too wide", in_width, l->order);
    *out_width = in_width * l->order;
    return SQM_OK;
}
static size_t sqm__legs_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                    sqm_dtype kv_dtype)
{
    const sqm__legs *l = (const sqm__legs *)bound;
    (void)max_context; (void)max_batch; (void)kv_dtype;
    return sqm__times((size_t)sqm__ceil_div(l->signals, SQM__LANES),
                      (size_t)l->order * SQM__LANES * sizeof(float));
}
static size_t sqm__legs_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state; (void)position;
    return sqm__legs_state_bytes(bound, 0, 0, SQM_F32);
}
static size_t sqm__legs_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                      int32_t threads)
{
    const sqm__legs *l = (const sqm__legs *)bound;
    (void)max_context; (void)max_batch;
    return ((size_t)threads * 3 * SQM__LANES + 1) * (size_t)l->order * sizeof(float);
}
static void sqm__legs_task(void *arg, int32_t piece)
{
    static const float implicit[] = { 0.5f, 1.0f, 0.0f, -1.0f };
    const sqm__groups_job *job = (const sqm__groups_job *)arg;
    const sqm__legs *l = (const sqm__legs *)job->bound;
    float *scratch = (float *)(void *)job->x->scratch;
    sqm__legs_scan s;
    int32_t unit = 0;
    s.root = scratch;
    s.work = scratch + l->order + (size_t)piece * 3 * SQM__LANES * (size_t)l->order;
    s.order = l->order;
    s.signals = l->signals;
    s.implicit = implicit[l->step];
    for (int32_t i = 0; i < job->n_spans; i++)
        for (int32_t g = 0; job->spans[i].state && g < job->groups; g++) {
            const sqm_span *span = &job->spans[i];
            const size_t at = (size_t)span->first_row * (size_t)l->signals;
            if (unit++ % job->pieces != piece) continue;
            s.state = (float *)span->state + (size_t)g * (size_t)l->order * SQM__LANES;
            s.u = job->in + at + (size_t)g * SQM__LANES;
            s.y = job->out + at * (size_t)l->order + (size_t)g * SQM__LANES;
            s.lanes = sqm__min(SQM__LANES, l->signals - g * SQM__LANES);
            s.n_tokens = span->rows;
            s.position = span->position;
            SQM__CALL(job->x->kernels, legs)(&s);
        }
}
static void sqm__legs_run(const void *bound, sqm_exec *x, float *out, const float *in,
                          const sqm_span *spans, int32_t n_spans)
{
    const sqm__legs *l = (const sqm__legs *)bound;
    float *root = (float *)(void *)x->scratch;
    for (int32_t n = 0; n < l->order; n++) root[n] = sqm__sqrt((float)(2 * n + 1));
    sqm__run_groups(sqm__legs_task, bound, x, out, in, spans, n_spans, sqm__ceil_div(l->signals, SQM__LANES),
                    (size_t)l->order * SQM__LANES * 8);
}
static sqm_result sqm__legs_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                    const sqm_span *spans, int32_t n_spans);

static const sqm_mixer sqm__legs_mixer = {
    "legs", "order step", sizeof(sqm__legs), SQM_MIXER_CAUSAL, 0, sqm__legs_bind, sqm__legs_state_bytes,
    sqm__legs_used_bytes, sqm__legs_scratch_bytes, sqm__zero_state, sqm__legs_forward
};
SQMDEF const sqm_mixer *sqm_mixer_legs(void) { return &sqm__legs_mixer; }
static sqm_result sqm__legs_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                    const sqm_span *spans, int32_t n_spans)
{
    return sqm__run_spans(&sqm__legs_mixer, bound, x, out, in, spans, n_spans,
                          sqm__legs_scratch_bytes(bound, 0, 0, x->threads), sqm__legs_run);
}

/* ---- [MIX.long_conv] convolution as long as the sequence --------------------------------------------------
   y_t[c] = sum_(l = 0 .. min(K - 1, t)) w[l][c] u_(t - l)[c]
   Rows in, out [channels];  w [K, channels];  segment = S: starts afresh at every multiple of S
   Tiles    Positions fall into blocks of 64, those into pairs, pairs into pairs and so on. When a block of
            n = 64, 128, ... rows that is the first of its pair is complete, what it gives to all rows of the
            second one is added at once: inputs times taps 1 .. 2n - 1, by a transform of n points modulo
            X^n - i, in which the wanted half of the product stands as the imaginary part. Within a block of
            64 the sum is direct. O(log^2 K) a row; no row depends on how calls or batches are cut.
   State    header, then of each group of 16 channels the inputs of the current block of `block` rows and what
            is already known of the sums for them; block: the power of two >= K - 1, or max_context if that is
            less. Constant for endless streams; a row that completes a large block takes longer.
   Order    the contribution of the largest block first, then direct taps by increasing lag.
   Source   Hyena (2302.10866), S4 and its kin as convolutions; tiles: Oncescu et al. 2024 (2410.12982), van
            der Hoeven 1997 (relaxed multiplication). The converter makes the taps, in double; a skip D u or a
            bias times u is part of tap 0.
   Traps    the transforms' rounding is 1e-7 of the largest |y|, not of each y.
   Tests    tests/test_mix_s4.c; tools/sqm-vectors: hyena_operator, s4_block, s4d_layer, dss_layer, liquid_s4,
            s4nd. */
enum { SQM__DIRECT = 64 };              /* rows of the smallest block */
typedef struct sqm__long_conv {
    int32_t      channels, taps, segment;
    const float *w;                     /* [taps, channels] */
} sqm__long_conv;
typedef struct sqm__long_conv_header {
    int32_t block;                      /* rows of the largest block */
    int32_t limit;                      /* rows a sequence may reach */
    int32_t reserved[14];
} sqm__long_conv_header;

static sqm_result sqm__long_conv_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                      int32_t *out_width, sqm_error *err)
{
    sqm__long_conv *c = (sqm__long_conv *)bound;
    memset(c, 0, sizeof(*c));
    SQM__TRY(sqm__param_matrix(&c->w, &c->taps, &c->channels, params, n, "w", err));
    SQM__TRY(sqm__param_int(&c->segment, params, n, "segment", 0, 0, 1 << 30, err));
    if (!c->w) SQM__FAIL(err, SQM_E_SHAPE, 0, "long_conv needs its taps in w=");
    if (c->channels != in_width)
        SQM__FAIL(err, SQM_E_SHAPE, in_width, "long_conv of %d channels reads rows of %d", c->channels,
                  in_width);
    *out_width = in_width;
    return SQM_OK;
}
static int32_t sqm__long_conv_block(const sqm__long_conv *c, int32_t max_context)
{
    int32_t reach = sqm__min(c->taps - 1, max_context), block = SQM__DIRECT;
    if (c->segment) reach = sqm__min(reach, c->segment);
    while (block < reach && block < 1 << 30) block *= 2;
    return block;
}
/* floats of one group's inputs; its sums lie behind them */
SQM__INLINE size_t sqm__long_conv_half(int32_t block) { return (size_t)block * SQM__LANES; }
static size_t sqm__long_conv_bytes(const sqm__long_conv *c, int32_t block)
{
    const size_t group = sqm__times((size_t)block, 2 * SQM__LANES * sizeof(float));
    const size_t all = sqm__times(group, (size_t)sqm__ceil_div(c->channels, SQM__LANES));
    const size_t header = sizeof(sqm__long_conv_header);
    return all > (size_t)-1 - header ? (size_t)-1 : all + header;
}
static size_t sqm__long_conv_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                         sqm_dtype kv_dtype)
{
    const sqm__long_conv *c = (const sqm__long_conv *)bound;
    (void)max_batch; (void)kv_dtype;
    return sqm__long_conv_bytes(c, sqm__long_conv_block(c, max_context));
}
static size_t sqm__long_conv_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)position;
    return sqm__long_conv_bytes((const sqm__long_conv *)bound, ((const sqm__long_conv_header *)state)->block);
}
static void sqm__long_conv_reset(const void *bound, void *state, size_t state_bytes, int32_t max_context,
                                 int32_t max_batch, sqm_dtype kv_dtype)
{
    const sqm__long_conv *c = (const sqm__long_conv *)bound;
    sqm__long_conv_header *h = (sqm__long_conv_header *)state;
    (void)state_bytes; (void)max_batch; (void)kv_dtype;
    memset(h, 0, sizeof(*h));
    h->block = sqm__long_conv_block(c, max_context);
    h->limit = max_context;
    memset(h + 1, 0, sqm__long_conv_bytes(c, h->block) - sizeof(*h));
}
/* roots of all nodes, then of each thread two complex rows for the largest block */
static size_t sqm__long_conv_scratch(int32_t block, int32_t threads)
{
    return sqm__times((size_t)block, sizeof(float) * (2 + 4 * SQM__LANES * (size_t)threads));
}
static size_t sqm__long_conv_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                           int32_t threads)
{
    (void)max_batch;
    return sqm__long_conv_scratch(sqm__long_conv_block((const sqm__long_conv *)bound, max_context), threads);
}

/* roots[k] = exp(2 pi i f), f = 1/8 for k = 1, f(2k) = f(k) / 2, f(2k + 1) = f(k) / 2 + 1/4: see transform */
static void sqm__long_conv_roots(float *roots, int32_t n)
{
    for (int32_t k = 1; k < n; k++) {
        int32_t bit = 1;
        double turn = 0.125;
        while (2 * bit <= k) bit *= 2;
        for (bit /= 2; bit; bit /= 2) turn = turn / 2.0 + (k & bit ? 0.25 : 0.0);
        sqm__sincos(turn * 6.28318530717958648, &roots[2 * k + 1], &roots[2 * k]);
    }
}

typedef struct sqm__long_conv_work {    /* one group of channels of one span */
    const sqm__long_conv *c;
    const sqm__kernels   *kernels;
    float                *inputs, *sums;        /* [block][16] */
    float                *z, *g;                /* [block][re | im][16] */
    const float          *roots, *w;            /* w: this group's first tap */
    int32_t               lanes, block;
} sqm__long_conv_work;

/* Spectrum of taps 1 .. 2n - 1 divided by n: taps below n are real parts, the others imaginary ones. */
static void sqm__long_conv_spectrum(const sqm__long_conv_work *k, int32_t n)
{
    const float scale = 1.0f / (float)n;
    memset(k->g, 0, (size_t)n * 2 * SQM__LANES * sizeof(float));
    for (int32_t l = 1; l < sqm__min(k->c->taps, 2 * n); l++) {
        float *to = k->g + ((size_t)(l % n) * 2 + (size_t)(l / n)) * SQM__LANES;
        const float *from = k->w + (size_t)l * (size_t)k->c->channels;
        for (int32_t i = 0; i < k->lanes; i++) to[i] = from[i] * scale;
    }
    SQM__CALL(k->kernels, transform)(k->g, k->roots, n, 0);
}
/* What inputs end - n .. end - 1 give to the n rows behind them; first: nothing was given to those before. */
static void sqm__long_conv_tile(const sqm__long_conv_work *k, int32_t end, int32_t n, int first)
{
    float *sums = k->sums + (size_t)(end % k->block) * SQM__LANES;
    const float *inputs = k->inputs + (size_t)(end - n) * SQM__LANES;
    memset(k->z, 0, (size_t)n * 2 * SQM__LANES * sizeof(float));
    for (size_t t = 0; t < (size_t)n; t++)
        memcpy(k->z + t * 2 * SQM__LANES, inputs + t * SQM__LANES, SQM__LANES * sizeof(float));
    SQM__CALL(k->kernels, transform)(k->z, k->roots, n, 0);
    SQM__CALL(k->kernels, multiply)(k->z, k->g, n);
    SQM__CALL(k->kernels, transform)(k->z, k->roots, n, 1);
    for (size_t t = 0; t < (size_t)n; t++) {
        const float *from = k->z + (t * 2 + 1) * SQM__LANES;
        float *to = sums + t * SQM__LANES;
        if (first) memcpy(to, from, SQM__LANES * sizeof(float));
        else for (int32_t i = 0; i < SQM__LANES; i++) to[i] += from[i];
    }
}
/* Rows [at, at + rows) of the current largest block: all within it. last: no row follows in this sequence. */
static void sqm__long_conv_rows(const sqm__long_conv_work *k, float *out, const float *in, int32_t at,
                                int32_t rows, int last)
{
    const size_t width = (size_t)k->c->channels;
    const int32_t end = at + rows;
    for (int32_t t = 0; t < rows; t++) {
        float *to = k->inputs + (size_t)(at + t) * SQM__LANES;
        for (int32_t i = 0; i < SQM__LANES; i++)
            to[i] = i < k->lanes ? in[(size_t)t * width + (size_t)i] : 0.0f;
    }
    for (int32_t n = k->block / 2; n >= SQM__DIRECT && k->c->taps > 1; n /= 2) {
        const int32_t first = at / n + 1;               /* number of the first block of n that ends here */
        int ready = 0;
        for (int32_t b = first + (first % 2 == 0); b * n <= end; b += 2) {
            if (!ready) sqm__long_conv_spectrum(k, n);
            ready = 1;
            sqm__long_conv_tile(k, b * n, n, 0);
        }
    }
    for (int32_t t = at; t < end;) {
        const int32_t past = t % SQM__DIRECT, n = sqm__min(SQM__DIRECT - past, end - t);
        SQM__CALL(k->kernels, convolve)(out + (size_t)(t - at) * width, width,
                                        k->sums + (size_t)t * SQM__LANES,
                             k->inputs + (size_t)t * SQM__LANES, k->w, width, k->c->taps, n, past, k->lanes);
        t += n;
    }
    if (end < k->block || last || k->c->taps < 2) return;
    sqm__long_conv_spectrum(k, k->block);
    sqm__long_conv_tile(k, k->block, k->block, 1);
}

/* Rows from row t of a span on that lie in one largest block; *at: where in it the first one is. */
static int32_t sqm__long_conv_cut(const sqm__long_conv *c, int32_t block, const sqm_span *span, int32_t t,
                                  int32_t *at, int32_t *position)
{
    const int32_t here = span->position + t, within = c->segment ? here % c->segment : here;
    int32_t rows = sqm__min(span->rows - t, block - within % block);
    if (c->segment) rows = sqm__min(rows, c->segment - within);
    *at = within % block;
    *position = within;
    return rows;
}
static void sqm__long_conv_group(const sqm__groups_job *job, const sqm_span *span, int32_t group,
                                 float *scratch)
{
    const sqm__long_conv *c = (const sqm__long_conv *)job->bound;
    const sqm__long_conv_header *h = (const sqm__long_conv_header *)span->state;
    const size_t half = sqm__long_conv_half(h->block), first = (size_t)group * SQM__LANES;
    const int32_t limit = c->segment ? sqm__min(c->segment, h->limit) : h->limit;
    int32_t at, position;
    sqm__long_conv_work k;
    k.c = c;
    k.kernels = job->x->kernels;
    k.inputs = (float *)((sqm__long_conv_header *)span->state + 1) + 2 * half * (size_t)group;
    k.sums = k.inputs + half;
    k.z = scratch;
    k.g = scratch + 2 * half;
    k.roots = (const float *)(const void *)job->x->scratch;
    k.w = c->w + first;
    k.lanes = sqm__min(SQM__LANES, c->channels - (int32_t)first);
    k.block = h->block;
    for (int32_t t = 0, rows; t < span->rows; t += rows) {
        const size_t row = (size_t)(span->first_row + t) * (size_t)c->channels + first;
        rows = sqm__long_conv_cut(c, h->block, span, t, &at, &position);
        if (position == 0) memset(k.sums, 0, half * sizeof(float));
        sqm__long_conv_rows(&k, job->out + row, job->in + row, at, rows, position + rows >= limit);
    }
}
static void sqm__long_conv_task(void *arg, int32_t piece)
{
    const sqm__groups_job *job = (const sqm__groups_job *)arg;
    int32_t unit = 0, largest = SQM__DIRECT;
    float *scratch = (float *)(void *)job->x->scratch;
    for (int32_t s = 0; s < job->n_spans; s++)
        if (job->spans[s].state)
            largest = sqm__max(largest, ((const sqm__long_conv_header *)job->spans[s].state)->block);
    scratch += (size_t)largest * (2 + 4 * SQM__LANES * (size_t)piece);
    for (int32_t s = 0; s < job->n_spans; s++)
        for (int32_t g = 0; job->spans[s].state && g < job->groups; g++)
            if (unit++ % job->pieces == piece) sqm__long_conv_group(job, &job->spans[s], g, scratch);
}
/* Points of the largest transform that these rows need; 0: none */
static int32_t sqm__long_conv_points(const sqm__long_conv *c, const sqm_span *span)
{
    const int32_t block = ((const sqm__long_conv_header *)span->state)->block;
    int32_t points = 0, at, position;
    for (int32_t t = 0, rows; t < span->rows; t += rows) {
        rows = sqm__long_conv_cut(c, block, span, t, &at, &position);
        for (int32_t n = block; n > points && n >= SQM__DIRECT; n /= 2)
            if ((at + rows) / n > at / n) points = n;
    }
    return points;
}
static void sqm__long_conv_run(const void *bound, sqm_exec *x, float *out, const float *in,
                               const sqm_span *spans, int32_t n_spans)
{
    const sqm__long_conv *c = (const sqm__long_conv *)bound;
    int32_t points = 0;
    for (int32_t s = 0; s < n_spans; s++)
        if (spans[s].state) points = sqm__max(points, sqm__long_conv_points(c, &spans[s]));
    sqm__long_conv_roots((float *)(void *)x->scratch, points);
    sqm__run_groups(sqm__long_conv_task, bound, x, out, in, spans, n_spans,
                    sqm__ceil_div(c->channels, SQM__LANES), SQM__LANES * 128);
}
static sqm_result sqm__long_conv_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                         const sqm_span *spans, int32_t n_spans);

static const sqm_mixer sqm__long_conv_mixer = {
    "long_conv", "w segment", sizeof(sqm__long_conv), SQM_MIXER_CAUSAL | SQM_MIXER_STATE_GROWS,
    sizeof(sqm__long_conv_header), sqm__long_conv_bind, sqm__long_conv_state_bytes, sqm__long_conv_used_bytes,
    sqm__long_conv_scratch_bytes, sqm__long_conv_reset, sqm__long_conv_forward
};
SQMDEF const sqm_mixer *sqm_mixer_long_conv(void) { return &sqm__long_conv_mixer; }
static sqm_result sqm__long_conv_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                         const sqm_span *spans, int32_t n_spans)
{
    const sqm__long_conv *c = (const sqm__long_conv *)bound;
    int32_t block = SQM__DIRECT;
    for (int32_t s = 0; s < n_spans; s++)
        block = sqm__max(block, spans[s].state ? ((const sqm__long_conv_header *)spans[s].state)->block
                                               : sqm__long_conv_block(c, spans[s].rows));
    return sqm__run_spans(&sqm__long_conv_mixer, bound, x, out, in, spans, n_spans,
                          sqm__long_conv_scratch(block, x->threads), sqm__long_conv_run);
}

/* ---- [MIX.window] the last rows side by side --------------------------------------------------------------
   y_t = [x_(t - (size - 1) * dilation) | ... | x_(t - dilation) | x_t], zeros before the first row
   Rows in [width], rows out [size * width]: a linear map behind it is a full convolution over time.
   State    the last (size - 1) * dilation rows, oldest first.
   Source   time-delay networks; torch.nn.Conv1d with weights [out, in, size] wants them as [out, size * in].
   Traps    a convolution that looks ahead, streamed: outputs come late by its reach, and rows before the
            first one must be zeros at every layer (LMUFormer in tools/map_s4.h: a column of ones tells).
   Tests    tests/test_mix_s4.c; tools/sqm-vectors: lmuformer. */
typedef struct sqm__window { int32_t width, size, dilation; } sqm__window;

static sqm_result sqm__window_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                   int32_t *out_width, sqm_error *err)
{
    sqm__window *w = (sqm__window *)bound;
    memset(w, 0, sizeof(*w));
    w->width = in_width;
    SQM__TRY(sqm__param_int(&w->size, params, n, "size", 0, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&w->dilation, params, n, "dilation", 1, 1, 1 << 14, err));
    if (in_width > INT32_MAX / w->size)
        SQM__FAIL(err, SQM_E_LIMIT, in_width, "%d rows of %d side by side are too wide", w->size, in_width);
    *out_width = w->size * in_width;
    return SQM_OK;
}
SQM__INLINE int32_t sqm__window_past(const sqm__window *w) { return (w->size - 1) * w->dilation; }
static size_t sqm__window_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                      sqm_dtype kv_dtype)
{
    const sqm__window *w = (const sqm__window *)bound;
    (void)max_context; (void)max_batch; (void)kv_dtype;
    return sqm__times((size_t)w->width * sizeof(float), (size_t)sqm__window_past(w));
}
static size_t sqm__window_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state; (void)position;
    return sqm__window_state_bytes(bound, 0, 0, SQM_F32);
}
static void sqm__window_run(const void *bound, sqm_exec *x, float *out, const float *in,
                            const sqm_span *spans, int32_t n_spans)
{
    const sqm__window *w = (const sqm__window *)bound;
    const size_t width = (size_t)w->width, row = width * sizeof(float);
    const int32_t past = sqm__window_past(w);
    (void)x;
    for (int32_t s = 0; s < n_spans; s++) {
        const float *rows = in + (size_t)spans[s].first_row * width;
        float *to = out + (size_t)spans[s].first_row * width * (size_t)w->size;
        float *kept = (float *)spans[s].state;
        const int32_t fresh = sqm__min(past, spans[s].rows);
        if (!kept) continue;
        for (int32_t t = 0; t < spans[s].rows; t++)
            for (int32_t back = past; back >= 0; back -= w->dilation, to += width)
                memcpy(to, t >= back ? rows + (size_t)(t - back) * width
                                     : kept + (size_t)(past + t - back) * width, row);
        memmove(kept, kept + (size_t)fresh * width, (size_t)(past - fresh) * row);
        memcpy(kept + (size_t)(past - fresh) * width, rows + (size_t)(spans[s].rows - fresh) * width,
               (size_t)fresh * row);
    }
}
static sqm_result sqm__window_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                      const sqm_span *spans, int32_t n_spans);

static const sqm_mixer sqm__window_mixer = {
    "window", "size dilation", sizeof(sqm__window), SQM_MIXER_CAUSAL, 0, sqm__window_bind,
    sqm__window_state_bytes, sqm__window_used_bytes, sqm__no_scratch, sqm__zero_state, sqm__window_forward
};
SQMDEF const sqm_mixer *sqm_mixer_window(void) { return &sqm__window_mixer; }
static sqm_result sqm__window_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                      const sqm_span *spans, int32_t n_spans)
{
    return sqm__run_spans(&sqm__window_mixer, bound, x, out, in, spans, n_spans, 0, sqm__window_run);
}

/* ---- [MIX.reorder] rows in another order ------------------------------------------------------------------
   order = backward: the last row first;  down, up with columns = C: a picture of C columns, whose rows come
   line by line, column by column instead (up: that backwards). Any causal mixer between two of them looks the
   other way; down with as many columns as the picture has lines undoes down.
   Rows in, out [width], of the whole sequence
   Source   bidirectional S4, DSS and S5 (2208.04933), S4ND (2210.06583).
   Tests    tests/test_mix_s4.c; tools/sqm-vectors: s5_layer, dss_layer, liquid_s4, s4nd. */
typedef struct sqm__reorder {
    sqm__order order;
    int32_t    width;
} sqm__reorder;

static sqm_result sqm__reorder_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                    int32_t *out_width, sqm_error *err)
{
    sqm__reorder *r = (sqm__reorder *)bound;
    memset(r, 0, sizeof(*r));
    r->width = *out_width = in_width;
    return sqm__order_bind(&r->order, params, n, err);
}
static sqm_result sqm__reorder_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                       const sqm_span *spans, int32_t n_spans)
{
    const sqm__reorder *r = (const sqm__reorder *)bound;
    const size_t width = (size_t)r->width;
    sqm__run_of run;
    (void)x;
    for (int32_t s = 0; s < n_spans; s++) {
        const float *from = in + (size_t)spans[s].first_row * width;
        float *to = out + (size_t)spans[s].first_row * width;
        for (int32_t i = 0; sqm__order_run(&run, &r->order, spans[s].rows, i); i++)
            for (int32_t k = 0; k < run.count; k++, to += width)
                memcpy(to, from + (size_t)(run.first + k * run.step) * width, width * sizeof(float));
    }
    return SQM_OK;
}

static const sqm_mixer sqm__reorder_mixer = {
    "reorder", "order columns", sizeof(sqm__reorder), SQM_MIXER_WHOLE_ONLY, 0, sqm__reorder_bind,
    sqm__no_state_bytes, sqm__no_used_bytes, sqm__no_scratch, sqm__no_reset, sqm__reorder_forward
};
SQMDEF const sqm_mixer *sqm_mixer_reorder(void) { return &sqm__reorder_mixer; }

/* ---- [MIX.running_pool] what all rows so far have in common -----------------------------------------------
   mean: sum_s w_s x_s / sum_s w_s    sum: sum_s w_s x_s    max: largest x_s with w_s > 0             s <= t
   Rows in  [width], or with weighted = 1 [width | w];  rows out [width]; without weighted w_s = 1. Zeros as
            long as every w_s was 0.
   State    doubles: sum of w, then the sums or the largest values.
   Order    one chain of double additions over the rows for each column.
   Source   pooling of sequence classifiers, at every step: the running prediction of LMUFormer (2402.04882).
   Tests    tests/test_mix_s4.c; tools/sqm-vectors: lmuformer. */
enum { SQM__RUNNING_MEAN, SQM__RUNNING_SUM, SQM__RUNNING_MAX };
static const char *const sqm__running_pool_kinds[] = { "mean", "sum", "max" };
typedef struct sqm__running_pool { int32_t width, weighted, kind; } sqm__running_pool;

static sqm_result sqm__running_pool_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                 int32_t *out_width, sqm_error *err)
{
    sqm__running_pool *p = (sqm__running_pool *)bound;
    memset(p, 0, sizeof(*p));
    SQM__TRY(sqm__param_choice(&p->kind, params, n, "kind", sqm__running_pool_kinds,
                               SQM__COUNT(sqm__running_pool_kinds), 0,
                               err));
    SQM__TRY(sqm__param_int(&p->weighted, params, n, "weighted", 0, 0, 1, err));
    p->width = in_width - p->weighted;
    if (p->width < 1) SQM__FAIL(err, SQM_E_SHAPE, in_width, "running_pool: a weight alone is no row");
    *out_width = p->width;
    return SQM_OK;
}
static size_t sqm__running_pool_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                    sqm_dtype kv_dtype)
{
    (void)max_context; (void)max_batch; (void)kv_dtype;
    return sqm__times((size_t)((const sqm__running_pool *)bound)->width + 1, sizeof(double));
}
static size_t sqm__running_pool_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state; (void)position;
    return sqm__running_pool_state_bytes(bound, 0, 0, SQM_F32);
}
static void sqm__running_pool_row(const sqm__running_pool *p, double *total, float *y, const float *x)
{
    const double weight = p->weighted ? (double)x[p->width] : 1.0, before = *total;
    double *sums = total + 1;
    *total += weight;
    for (int32_t i = 0; i < p->width; i++) {
        const double v = (double)x[i];
        if (p->kind != SQM__RUNNING_MAX) sums[i] += weight * v;
        else if (weight > 0.0 && (before == 0.0 || v > sums[i])) sums[i] = v;
        y[i] = (float)(p->kind != SQM__RUNNING_MEAN ? sums[i] : *total != 0.0 ? sums[i] / *total : 0.0);
    }
}
static void sqm__running_pool_run(const void *bound, sqm_exec *x, float *out, const float *in,
                          const sqm_span *spans, int32_t n_spans)
{
    const sqm__running_pool *p = (const sqm__running_pool *)bound;
    const size_t width = (size_t)p->width, in_width = width + (size_t)p->weighted;
    (void)x;
    for (int32_t s = 0; s < n_spans; s++)
        for (size_t t = (size_t)spans[s].first_row; spans[s].state &&
             t < (size_t)spans[s].first_row + (size_t)spans[s].rows; t++)
            sqm__running_pool_row(p, (double *)spans[s].state, out + t * width, in + t * in_width);
}
static sqm_result sqm__running_pool_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                    const sqm_span *spans, int32_t n_spans);

static const sqm_mixer sqm__running_pool_mixer = {
    "running_pool", "kind weighted", sizeof(sqm__running_pool), SQM_MIXER_CAUSAL, 0, sqm__running_pool_bind,
        sqm__running_pool_state_bytes,
    sqm__running_pool_used_bytes, sqm__no_scratch, sqm__zero_state, sqm__running_pool_forward
};
SQMDEF const sqm_mixer *sqm_mixer_running_pool(void) { return &sqm__running_pool_mixer; }
static sqm_result sqm__running_pool_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                    const sqm_span *spans, int32_t n_spans)
{
    return sqm__run_spans(&sqm__running_pool_mixer, bound, x, out, in, spans, n_spans, 0,
                          sqm__running_pool_run);
}

/* ---- [MIX.spike] leaky integrate-and-fire neurons ---------------------------------------------------------
   input = scaled: v += (x - (v - rest)) / tau       added: v += x - (v - rest) / tau
   y = 1 if v >= threshold else 0;   where it fired: v = rest (reset = hard) or v -= threshold (soft)
   Rows in, out [width]
   State    v [width], starts at 0.
   Source   spikingjelly's LIFNode (decay_input = scaled) and IFNode (tau = inf: tau large, added), Spiking
            LMUFormer (2402.04882).
   Traps    spikes are 0 or 1: an input that rounds to the other side of the threshold changes all after it.
   Tests    tests/test_mix_s4.c; tools/sqm-vectors: lif, lmuformer. */
typedef struct sqm__spike { int32_t width, added, soft; float leak, threshold, rest; } sqm__spike;
static const char *const sqm__spike_inputs[] = { "scaled", "added" };
static const char *const sqm__spike_resets[] = { "hard", "soft" };

static sqm_result sqm__spike_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                  int32_t *out_width, sqm_error *err)
{
    sqm__spike *s = (sqm__spike *)bound;
    double tau = 2.0;
    memset(s, 0, sizeof(*s));
    SQM__TRY(sqm__param_number(&tau, params, n, "tau", 2.0, err));
    if (!(tau >= 1.0 && tau <= 1e30))
        SQM__FAIL(err, SQM_E_SHAPE, 0, "spike: tau = %f must be from 1 to 1e30", tau);
    SQM__TRY(sqm__param_float(&s->threshold, params, n, "threshold", 1.0, err));
    SQM__TRY(sqm__param_float(&s->rest, params, n, "rest", 0.0, err));
    SQM__TRY(sqm__param_choice(&s->added, params, n, "input", sqm__spike_inputs, 2, 0, err));
    SQM__TRY(sqm__param_choice(&s->soft, params, n, "reset", sqm__spike_resets, 2, 0, err));
    s->leak = (float)(1.0 / tau);
    s->width = *out_width = in_width;
    return SQM_OK;
}
static size_t sqm__spike_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                     sqm_dtype kv_dtype)
{
    (void)max_context; (void)max_batch; (void)kv_dtype;
    return sqm__times((size_t)((const sqm__spike *)bound)->width, sizeof(float));
}
static size_t sqm__spike_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state; (void)position;
    return sqm__spike_state_bytes(bound, 0, 0, SQM_F32);
}
static void sqm__spike_task(void *arg, int32_t piece)
{
    const sqm__groups_job *job = (const sqm__groups_job *)arg;
    const sqm__spike *n = (const sqm__spike *)job->bound;
    sqm__spike_scan s;
    int32_t unit = 0;
    s.stride = (size_t)n->width;
    s.keep_input = n->added;
    s.soft = n->soft;
    s.leak = n->leak;
    s.threshold = n->threshold;
    s.rest = n->rest;
    for (int32_t i = 0; i < job->n_spans; i++)
        for (int32_t g = 0; job->spans[i].state && g < job->groups; g++) {
            const size_t first = (size_t)g * SQM__LANES;
            const size_t at = (size_t)job->spans[i].first_row * s.stride + first;
            if (unit++ % job->pieces != piece) continue;
            s.v = (float *)job->spans[i].state + first;
            s.x = job->in + at;
            s.y = job->out + at;
            s.n_tokens = job->spans[i].rows;
            s.lanes = sqm__min(SQM__LANES, n->width - (int32_t)first);
            SQM__CALL(job->x->kernels, spike)(&s);
        }
}
static void sqm__spike_run(const void *bound, sqm_exec *x, float *out, const float *in,
                           const sqm_span *spans, int32_t n_spans)
{
    sqm__run_groups(sqm__spike_task, bound, x, out, in, spans, n_spans,
                    sqm__ceil_div(((const sqm__spike *)bound)->width, SQM__LANES), SQM__LANES * 4);
}
static sqm_result sqm__spike_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                     const sqm_span *spans, int32_t n_spans);

static const sqm_mixer sqm__spike_mixer = {
    "spike", "tau threshold rest input reset", sizeof(sqm__spike), SQM_MIXER_CAUSAL, 0, sqm__spike_bind,
    sqm__spike_state_bytes, sqm__spike_used_bytes, sqm__no_scratch, sqm__zero_state, sqm__spike_forward
};
SQMDEF const sqm_mixer *sqm_mixer_spike(void) { return &sqm__spike_mixer; }
static sqm_result sqm__spike_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                     const sqm_span *spans, int32_t n_spans)
{
    return sqm__run_spans(&sqm__spike_mixer, bound, x, out, in, spans, n_spans, 0, sqm__spike_run);
}

/* ---- [MIX.select] index scores select keys ---------------------------------------------------------------
   s_ij = sum_h w_ih max(0, q_ih . k_j)     j <= i; row out: the k keys j with the largest s_ij, ascending,
                                            of equal ones the first; -1 behind the last when there are fewer
   every=M  only keys of rows t with (t + 1) % M == 0 count, and are numbered t / M
   Rows in  [q: heads x head_dim | w: heads | k: head_dim], positions and scales already applied;
   rows out [k] whole numbers, for [MIX.attention]'s selected=.
   State    tiles of 64 keys as in [MIX.attention], float32 or, in sessions with a narrower cache, float16.
   Order    scores of a row do not depend on other rows; the k-th largest is found digit by digit of its bits.
   Cost     a token: heads x head_dim x context products, against k keys that attention then reads.
   Source   lightning indexer of DeepSeek-V3.2 (2512.02556), transformers modeling_deepseek_v32.py.
   Traps    numbers are floats: no more than 2^24 keys.
   Tests    tests/test_mix_select.c; tools/sqm-check: deepseek_v32, glm_moe_dsa, deepseek_v4. */
typedef struct sqm__select {
    sqm__attention keys;                /* one kv head without values of its own */
    int32_t        k, every;
} sqm__select;

static sqm_result sqm__select_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                   int32_t *out_width, sqm_error *err)
{
    sqm__select *s = (sqm__select *)bound;
    sqm__attention *a = &s->keys;
    memset(s, 0, sizeof(*s));
    SQM__TRY(sqm__param_int(&a->heads, params, n, "heads", 0, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&a->head_dim, params, n, "head_dim", 0, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&s->k, params, n, "k", 0, 1, 1 << 20, err));
    SQM__TRY(sqm__param_int(&s->every, params, n, "every", 1, 1, 1 << 20, err));
    if ((int64_t)a->heads * (a->head_dim + 1) + a->head_dim != in_width)
        SQM__FAIL(err, SQM_E_SHAPE, in_width, "%d index heads of %d do not fit rows of %d", a->heads,
                  a->head_dim, in_width);
    a->kv_heads = a->shared = 1;
    a->group = a->heads;
    a->in_width = in_width;
    *out_width = s->k;
    return SQM_OK;
}
SQM__INLINE sqm_dtype sqm__select_dtype(sqm_dtype kv) { return kv == SQM_F32 ? SQM_F32 : SQM_F16; }
static size_t sqm__select_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                      sqm_dtype kv_dtype)
{
    const sqm__select *s = (const sqm__select *)bound;
    const int32_t keys = max_context / s->every;
    if (keys > 1 << 24) return (size_t)-1;
    return sqm__attention_state_bytes(&s->keys, keys, max_batch, sqm__select_dtype(kv_dtype));
}
static size_t sqm__select_used_bytes(const void *bound, const void *state, int32_t position)
{
    const sqm__select *s = (const sqm__select *)bound;
    return sqm__attention_used_bytes(&s->keys, state, position / s->every);
}
static void sqm__select_reset(const void *bound, void *state, size_t state_bytes, int32_t max_context,
                              int32_t max_batch, sqm_dtype kv_dtype)
{
    const sqm__select *s = (const sqm__select *)bound;
    sqm__attention_reset(&s->keys, state, state_bytes, max_context / s->every, max_batch,
                         sqm__select_dtype(kv_dtype));
}

/* Bits that compare as the floats do */
SQM__INLINE uint32_t sqm__ordered_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
/* The numbers of the k largest of n scores, ascending, then -1 */
static void sqm__select_largest(float *out, const float *scores, int32_t n, int32_t k)
{
    uint32_t least = 0, known = 0;      /* the k-th largest score, and which of its bits are known */
    int32_t equal = k, n_out = 0;       /* how many that are as large count */
    for (int shift = 28; n > k && shift >= 0; shift -= 4) {
        int32_t count[16] = { 0 }, digit = 15;
        for (int32_t j = 0; j < n; j++) {
            const uint32_t bits = sqm__ordered_bits(scores[j]);
            if ((bits & known) == least) count[bits >> shift & 15]++;
        }
        while (digit > 0 && count[digit] < equal) equal -= count[digit--];
        least |= (uint32_t)digit << shift;
        known |= (uint32_t)15 << shift;
    }
    for (int32_t j = 0; j < n && n_out < k; j++) {
        const uint32_t bits = sqm__ordered_bits(scores[j]);
        if (n <= k || bits > least || (bits == least && equal-- > 0)) out[n_out++] = (float)j;
    }
    while (n_out < k) out[n_out++] = -1.0f;
}

typedef struct sqm__select_job {
    const sqm__select *s;
    const sqm_exec    *x;
    float             *out;
    const float       *in;
    const sqm_span    *spans;
    size_t             floats;          /* of scratch for each piece */
    int32_t            n_spans, pieces;
} sqm__select_job;
static size_t sqm__select_floats(const sqm__select *s, int32_t context)
{
    const size_t keys = (size_t)(context / s->every);
    return (size_t)s->keys.heads * SQM__TILE_KEYS + sqm__align_up(keys, SQM__TILE_KEYS);
}
static void sqm__select_row(const sqm__select_job *job, const sqm_span *span, int32_t t, float *work)
{
    const sqm__attention *a = &job->s->keys;
    const sqm_dtype dtype = ((const sqm__kv_header *)span->state)->dtype;
    const size_t row = (size_t)(span->first_row + t), heads = (size_t)a->heads;
    const size_t panel = (size_t)a->head_dim * SQM__LANES * sqm__kv_element(dtype);
    const float *q = job->in + row * (size_t)a->in_width, *w = q + heads * (size_t)a->head_dim;
    const int32_t n = (span->position + t + 1) / job->s->every;
    float *scores = work + heads * SQM__TILE_KEYS;
    for (int32_t key = 0; key < n; key += SQM__TILE_KEYS) {
        const int32_t here = sqm__min(SQM__TILE_KEYS, n - key);
        float *sums = scores + key;
        SQM__CALL(job->x->kernels, product)(work, SQM__TILE_KEYS, q, (size_t)a->head_dim, a->heads,
                                 sqm__kv_tile(a, span->state, key, 0), panel,
                                 sqm__ceil_div(here, SQM__LANES), a->head_dim, 0, dtype);
        for (int32_t j = 0; j < here; j++) sums[j] = 0.0f;
        for (size_t h = 0; h < heads; h++)
            for (int32_t j = 0; j < here; j++) {
                const float score = work[h * SQM__TILE_KEYS + (size_t)j];
                sums[j] += w[h] * (score > 0.0f ? score : 0.0f);
            }
    }
    sqm__select_largest(job->out + row * (size_t)job->s->k, scores, n, job->s->k);
}
static void sqm__select_task(void *arg, int32_t piece)
{
    const sqm__select_job *job = (const sqm__select_job *)arg;
    float *work = (float *)(void *)job->x->scratch + job->floats * (size_t)piece;
    int32_t unit = 0;
    for (int32_t s = 0; s < job->n_spans; s++)
        for (int32_t t = 0; job->spans[s].state && t < job->spans[s].rows; t++)
            if (unit++ % job->pieces == piece) sqm__select_row(job, &job->spans[s], t, work);
}
/* Positions that the longest of the sequences reaches */
static int32_t sqm__spans_reach(const sqm_span *spans, int32_t n_spans)
{
    int32_t reach = 0;
    for (int32_t s = 0; s < n_spans; s++) reach = sqm__max(reach, spans[s].position + spans[s].rows);
    return reach;
}
static void sqm__select_run(const void *bound, sqm_exec *x, float *out, const float *in,
                            const sqm_span *spans, int32_t n_spans)
{
    const sqm__select *s = (const sqm__select *)bound;
    const sqm__attention *a = &s->keys;
    const int32_t reach = sqm__spans_reach(spans, n_spans);
    sqm__select_job job;
    size_t rows = 0;
    for (int32_t i = 0; i < n_spans; i++)
        for (int32_t t = 0; spans[i].state && t < spans[i].rows; t++, rows++) {
            const int32_t at = spans[i].position + t, key = at / s->every;
            if ((at + 1) % s->every) continue;
            sqm__kv_write(a, x->kernels, sqm__kv_tile(a, spans[i].state, key, 0),
                          ((const sqm__kv_header *)spans[i].state)->dtype, key, 0,
                          in + (size_t)(spans[i].first_row + t + 1) * (size_t)a->in_width - a->head_dim);
        }
    job.s = s; job.x = x; job.out = out; job.in = in; job.spans = spans; job.n_spans = n_spans;
    job.floats = sqm__select_floats(s, reach);
    job.pieces = sqm__fine_pieces(x, rows * (size_t)(reach / s->every + 1) * (size_t)a->in_width);
    sqm__run(x, sqm__select_task, &job, job.pieces);
}
static size_t sqm__select_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                        int32_t threads)
{
    (void)max_batch;
    return sqm__pieces_bytes(sqm__select_floats((const sqm__select *)bound, max_context),
                             sqm__most_pieces(threads));
}
static sqm_result sqm__select_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                      const sqm_span *spans, int32_t n_spans)
{
    return sqm__run_spans(sqm_mixer_select(), bound, x, out, in, spans, n_spans,
                          sqm__select_scratch_bytes(bound, sqm__spans_reach(spans, n_spans), 0, x->threads),
                          sqm__select_run);
}
static const sqm_mixer sqm__select_mixer = {
    "select", "heads head_dim k every", sizeof(sqm__select), SQM_MIXER_CAUSAL | SQM_MIXER_STATE_GROWS,
    sizeof(sqm__kv_header), sqm__select_bind, sqm__select_state_bytes, sqm__select_used_bytes,
    sqm__select_scratch_bytes, sqm__select_reset, sqm__select_forward
};
SQMDEF const sqm_mixer *sqm_mixer_select(void) { return &sqm__select_mixer; }

/* ---- [MIX.compress] blocks of rows, each melted into one -------------------------------------------------
   y_b[c] = sum_j e^(z_j[c] + bias_j[c]) x_j[c] / sum_j e^(z_j[c] + bias_j[c])     j over the `size` rows of b
   overlap=1: every row has two such parts, the first for the block after its own: j goes over the first parts
            of block b - 1, if there is one, and the second parts of block b.
   Rows in  [x: parts x width | z: parts x width], parts = 1 + overlap; rows out [width]: y_b in the last row
            of block b, zeros in all others.       bias=@ [size x parts x width]
   State    the rows of one block, or of two, by position modulo their number.
   Source   compressors of DeepSeek-V4, transformers modeling_deepseek_v4.py.
   Tests    tests/test_mix_select.c; tools/sqm-check: deepseek_v4. */
typedef struct sqm__compress {
    int32_t      size, parts, width, in_width;
    const float *bias;
} sqm__compress;

static sqm_result sqm__compress_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                     int32_t *out_width, sqm_error *err)
{
    sqm__compress *c = (sqm__compress *)bound;
    int32_t overlap;
    memset(c, 0, sizeof(*c));
    SQM__TRY(sqm__param_int(&c->size, params, n, "size", 0, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&overlap, params, n, "overlap", 0, 0, 1, err));
    c->parts = 1 + overlap;
    c->width = in_width / (2 * c->parts);
    c->in_width = in_width;
    if (c->width < 1 || c->width * 2 * c->parts != in_width || in_width > INT32_MAX / 2 / c->size)
        SQM__FAIL(err, SQM_E_SHAPE, in_width,
                  "rows of %d columns are not %d values and weights, or too wide", in_width, c->parts);
    *out_width = c->width;
    return sqm__param_vector(&c->bias, params, n, "bias", c->size * c->parts * c->width, err);
}
static size_t sqm__compress_state_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                        sqm_dtype kv_dtype)
{
    const sqm__compress *c = (const sqm__compress *)bound;
    (void)max_context; (void)max_batch; (void)kv_dtype;
    return (size_t)c->size * (size_t)c->parts * (size_t)c->in_width * sizeof(float);
}
static size_t sqm__compress_used_bytes(const void *bound, const void *state, int32_t position)
{
    (void)state; (void)position;
    return sqm__compress_state_bytes(bound, 0, 0, SQM_F32);
}
/* The block that position `last` ends. work: [slots][width] and [2][width] */
static void sqm__compress_block(const sqm__compress *c, const sqm__kernels *kernels, float *y,
                                const float *rows, int32_t last, float *work)
{
    const size_t width = (size_t)c->width, part = width * (size_t)c->parts;
    const int32_t ring = c->size * c->parts;
    const int32_t first = c->parts == 2 && last >= c->size ? 1 - 2 * c->size : 1 - c->size;
    float *top = work + width * (size_t)ring, *sum = top + width;
    size_t n = 0;
    for (size_t i = 0; i < width; i++) top[i] = -3.0e38f;
    for (int32_t back = first; back <= 0; back++, n += width) {
        const int32_t at = last + back;
        const size_t skip = c->parts == 2 && back > -c->size ? width : 0;
        const float *z = rows + (size_t)(at % ring) * (size_t)c->in_width + part + skip;
        const float *bias = c->bias ? c->bias + (size_t)(at % c->size) * part + skip : NULL;
        for (size_t i = 0; i < width; i++) {
            work[n + i] = bias ? z[i] + bias[i] : z[i];
            if (work[n + i] > top[i]) top[i] = work[n + i];
        }
    }
    for (size_t k = 0; k < n; k += width)
        for (size_t i = 0; i < width; i++) work[k + i] -= top[i];
    SQM__CALL(kernels, activate)(work, work, n, SQM_ACT_EXP);
    for (size_t i = 0; i < width; i++) y[i] = sum[i] = 0.0f;
    n = 0;
    for (int32_t back = first; back <= 0; back++, n += width) {
        const size_t skip = c->parts == 2 && back > -c->size ? width : 0;
        const float *x = rows + (size_t)((last + back) % ring) * (size_t)c->in_width + skip;
        for (size_t i = 0; i < width; i++) {
            sum[i] += work[n + i];
            y[i] += work[n + i] * x[i];
        }
    }
    for (size_t i = 0; i < width; i++) y[i] /= sum[i];
}
static void sqm__compress_run(const void *bound, sqm_exec *x, float *out, const float *in,
                              const sqm_span *spans, int32_t n_spans)
{
    const sqm__compress *c = (const sqm__compress *)bound;
    const size_t in_width = (size_t)c->in_width, width = (size_t)c->width;
    for (int32_t s = 0; s < n_spans; s++) {
        float *rows = (float *)spans[s].state;
        for (int32_t t = 0; rows && t < spans[s].rows; t++) {
            const int32_t at = spans[s].position + t;
            const size_t row = (size_t)(spans[s].first_row + t);
            memcpy(rows + (size_t)(at % (c->size * c->parts)) * in_width, in + row * in_width,
                   in_width * sizeof(float));
            if ((at + 1) % c->size == 0)
                sqm__compress_block(c, x->kernels, out + row * width, rows, at,
                                    (float *)(void *)x->scratch);
            else
                memset(out + row * width, 0, width * sizeof(float));
        }
    }
}
static size_t sqm__compress_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                          int32_t threads)
{
    const sqm__compress *c = (const sqm__compress *)bound;
    (void)max_context; (void)max_batch; (void)threads;
    return ((size_t)c->size * (size_t)c->parts + 2) * (size_t)c->width * sizeof(float);
}
static sqm_result sqm__compress_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                        const sqm_span *spans, int32_t n_spans)
{
    return sqm__run_spans(sqm_mixer_compress(), bound, x, out, in, spans, n_spans,
                          sqm__compress_scratch_bytes(bound, 0, 0, 1), sqm__compress_run);
}
static const sqm_mixer sqm__compress_mixer = {
    "compress", "size overlap bias", sizeof(sqm__compress), SQM_MIXER_CAUSAL, 0, sqm__compress_bind,
    sqm__compress_state_bytes, sqm__compress_used_bytes, sqm__compress_scratch_bytes, sqm__zero_state,
    sqm__compress_forward
};
SQMDEF const sqm_mixer *sqm_mixer_compress(void) { return &sqm__compress_mixer; }

/* ---- [MIX.lsh] attention among rows that hash alike -------------------------------------------------------
   Of each head and each round of hashing r, with x_t a row's shared query and key:
     bucket_r(t) = argmax [x_t R_r | -x_t R_r]; with two factors of buckets: the first + buckets * the second
     rows in the order of their buckets, equal ones in their own order; cut into chunks of `chunk` rows, all
     rounds in one line that is closed to a ring
     s_ij = x_i . k_j, k_j = x_j / sqrt(mean x_j^2 + 1e-6) / sqrt(head_dim), for j in i's chunk, the `before`
            chunks before it and the `after` after it; -1e5 for j = i, -1e9 for causal=1 and j > i
     o_i  = sum_r e^(l_ri) (sum_j e^(s_ij - l_ri) v_j) / sum_r e^(l_ri)             l_ri = log sum_j e^s_ij
   Sequences longer than `shortest` are filled up to a multiple of `multiple` rows, which hash into a bucket
   of their own behind the others and get -1e9. Of at most `chunk` rows: all see all, nothing is hashed.
   Rows in  [x: heads x head_dim | v: heads x head_dim], rows out [heads x head_dim].
   Weights  rotations=@ [heads * head_dim * rounds * (buckets + buckets2) / 2], in this order of dimensions.
   State    none: buckets of the whole sequence decide who meets whom.
   Source   Kitaev et al. 2020 (2001.04451); LSHSelfAttention of huggingface/transformers.
   Traps    a row of another round's copy counts again when chunks of two rounds are neighbours. Logarithms
            are float32: of a row that meets only itself, near -1e5, they are rounded to 1/128, and its
            weights add up to 0.998 in two rounds, as in the reference.
   Tests    tools/sqm-check (reformer). */
typedef struct sqm__lsh {
    int32_t      heads, head_dim, chunk, before, after, rounds, buckets, buckets2, shortest, multiple, causal;
    const float *rotations;
} sqm__lsh;

static sqm_result sqm__lsh_bind(void *bound, const sqm_param *params, int32_t n, int32_t in_width,
                                int32_t *out_width, sqm_error *err)
{
    sqm__lsh *a = (sqm__lsh *)bound;
    int64_t count;
    memset(a, 0, sizeof(*a));
    SQM__TRY(sqm__param_int(&a->heads, params, n, "heads", 0, 1, 1 << 12, err));
    SQM__TRY(sqm__param_int(&a->head_dim, params, n, "head_dim", 0, 1, 1 << 12, err));
    SQM__TRY(sqm__param_int(&a->chunk, params, n, "chunk", 0, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&a->before, params, n, "before", 1, 0, 127, err));
    SQM__TRY(sqm__param_int(&a->after, params, n, "after", 0, 0, 127, err));
    SQM__TRY(sqm__param_int(&a->rounds, params, n, "rounds", 1, 1, 64, err));
    SQM__TRY(sqm__param_int(&a->buckets, params, n, "buckets", 0, 2, 1 << 12, err));
    SQM__TRY(sqm__param_int(&a->buckets2, params, n, "buckets2", 0, 0, 1 << 12, err));
    SQM__TRY(sqm__param_int(&a->shortest, params, n, "shortest", a->chunk, 1, 1 << 16, err));
    SQM__TRY(sqm__param_int(&a->multiple, params, n, "multiple", a->chunk, 1, 1 << 24, err));
    SQM__TRY(sqm__param_int(&a->causal, params, n, "causal", 0, 0, 1, err));
    if (a->buckets % 2 || a->buckets2 % 2 || a->multiple % a->chunk)
        SQM__FAIL(err, SQM_E_SHAPE, a->buckets, "an odd number of buckets, or multiple= is none of chunk=");
    if (2 * (int64_t)a->heads * a->head_dim != in_width)
        SQM__FAIL(err, SQM_E_SHAPE, in_width, "lsh with 2 x %d heads of %d does not fit rows of %d", a->heads,
                  a->head_dim, in_width);
    count = (int64_t)a->heads * a->head_dim * a->rounds * ((a->buckets + a->buckets2) / 2);
    if (count > INT32_MAX) SQM__FAIL(err, SQM_E_LIMIT, a->heads, "lsh: the rotations are too large");
    SQM__TRY(sqm__param_vector(&a->rotations, params, n, "rotations", (int32_t)count, err));
    if (!a->rotations) SQM__FAIL(err, SQM_E_SHAPE, 0, "lsh needs rotations=");
    *out_width = in_width / 2;
    return SQM_OK;
}

typedef struct sqm__lsh_work {          /* of one head and sequence, in the scratch */
    const sqm__lsh *a;
    const sqm_exec *x;
    const float    *in;                 /* its first row */
    float          *out;
    float          *keys;               /* [rows, head_dim] */
    float          *scores, *turned;    /* [keys that a row meets], [buckets / 2 of both factors] */
    float          *most, *sum;         /* [rows] of the rounds so far */
    int32_t        *order, *counts;     /* [rounds * padded] row of each slot, [buckets + 2] */
    int32_t        *bucket;             /* [padded] of the round at hand */
    int32_t         head, rows, padded;
} sqm__lsh_work;

SQM__INLINE size_t sqm__lsh_slots(const sqm__lsh *a, size_t rows)   /* rows with those that fill up */
{
    const size_t to = (size_t)a->multiple;
    return rows > (size_t)a->shortest ? (rows + to - 1) / to * to : rows;
}
SQM__INLINE size_t sqm__lsh_all_buckets(const sqm__lsh *a)
{
    return (size_t)a->buckets * (size_t)sqm__max(a->buckets2, 1);
}
static size_t sqm__lsh_piece_bytes(const sqm__lsh *a, size_t rows)
{
    const size_t slots = sqm__lsh_slots(a, rows);
    const size_t met = (size_t)(a->before + a->after + 1) * (size_t)a->chunk;
    const size_t each = rows * ((size_t)a->head_dim + 2) + met + (size_t)(a->buckets + a->buckets2) / 2 +
                        slots * ((size_t)a->rounds + 1) + sqm__lsh_all_buckets(a) + 2;
    return sqm__align_up(each * 4, 64);
}
static size_t sqm__lsh_scratch_bytes(const void *bound, int32_t max_context, int32_t max_batch,
                                     int32_t threads)
{
    (void)max_context;
    return sqm__times(sqm__lsh_piece_bytes((const sqm__lsh *)bound, (size_t)max_batch),
                      (size_t)sqm__most_pieces(threads));
}

static int32_t sqm__lsh_largest(const float *turned, int32_t half)
{
    int32_t best = 0;
    for (int32_t k = 1; k < 2 * half; k++) {
        const float v = k < half ? turned[k] : -turned[k - half];
        if (v > (best < half ? turned[best] : -turned[best - half])) best = k;
    }
    return best;
}
/* Rows of round r in the order of their buckets. */
static void sqm__lsh_sort(const sqm__lsh_work *w, int32_t r)
{
    const sqm__lsh *a = w->a;
    const int32_t half = (a->buckets + a->buckets2) / 2, all = (int32_t)sqm__lsh_all_buckets(a);
    const float *rotation = a->rotations + ((size_t)w->head * (size_t)a->head_dim * (size_t)a->rounds +
                                            (size_t)r) * (size_t)half;
    int32_t *order = w->order + (size_t)r * (size_t)w->padded;
    memset(w->counts, 0, ((size_t)all + 2) * sizeof(*w->counts));
    for (int32_t t = 0; t < w->padded; t++) {
        const float *x = w->in + (size_t)t * 2 * (size_t)(a->heads * a->head_dim);
        int32_t bucket = all;
        for (int32_t k = 0; k < half; k++) w->turned[k] = 0.0f;
        for (int32_t i = 0; t < w->rows && i < a->head_dim; i++)
            for (int32_t k = 0; k < half; k++)
                w->turned[k] += x[i] * rotation[(size_t)i * (size_t)a->rounds * (size_t)half + (size_t)k];
        if (t < w->rows) bucket = sqm__lsh_largest(w->turned, a->buckets / 2);
        if (t < w->rows && a->buckets2)
            bucket += a->buckets * sqm__lsh_largest(w->turned + a->buckets / 2, a->buckets2 / 2);
        w->bucket[t] = bucket;
        w->counts[bucket + 1]++;
    }
    for (int32_t k = 0; k < all; k++) w->counts[k + 1] += w->counts[k];
    for (int32_t t = 0; t < w->padded; t++) order[w->counts[w->bucket[t]]++] = t;
}

/* The row in `slot` meets the slots from `first` on, n of them on a ring of `ring` slots. */
static void sqm__lsh_row(const sqm__lsh_work *w, int32_t slot, int32_t first, int32_t n, int32_t ring)
{
    const sqm__lsh *a = w->a;
    const size_t stride = 2 * (size_t)(a->heads * a->head_dim), dim = (size_t)a->head_dim;
    const int32_t row = w->order[slot];
    const float *x = w->in + (size_t)row * stride, *values = w->in + stride / 2;
    float *out = w->out + (size_t)row * (stride / 2), most = -3.0e38f, sum = 0.0f, before, now, level;
    for (int32_t k = 0; k < n; k++) {
        const int32_t j = w->order[(first + k) % ring];
        float s = -1e9f;
        if (j == row) s = -1e5f;
        else if (j < w->rows && !(a->causal && j > row)) {
            s = 0.0f;
            for (size_t i = 0; i < dim; i++) s += x[i] * w->keys[(size_t)j * dim + i];
        }
        w->scores[k] = s;
        if (s > most) most = s;
    }
    for (int32_t k = 0; k < n; k++) w->scores[k] -= most;
    SQM__CALL(w->x->kernels, activate)(w->scores, w->scores, (size_t)n, SQM_ACT_EXP);
    for (int32_t k = 0; k < n; k++) sum += w->scores[k];
    level = most + (float)log((double)sum);
    now = level > w->most[row] ? level : w->most[row];
    before = w->sum[row] > 0.0f ? (float)exp((double)w->most[row] - (double)now) : 0.0f;
    for (size_t i = 0; i < dim; i++) out[i] *= before;
    /* as in the reference: by the rounded logarithm, not by the sum */
    sum = (float)exp((double)level - (double)now + ((double)most - (double)level));
    for (int32_t k = 0; k < n; k++) {
        const int32_t j = w->order[(first + k) % ring];
        const float weight = w->scores[k] * sum;
        for (size_t i = 0; weight != 0.0f && j < w->rows && i < dim; i++)
            out[i] += weight * values[(size_t)j * stride + i];
    }
    w->sum[row] = w->sum[row] * before + (float)exp((double)level - (double)now);
    w->most[row] = now;
}

static void sqm__lsh_head(const sqm__lsh_work *w)
{
    const sqm__lsh *a = w->a;
    const size_t stride = 2 * (size_t)(a->heads * a->head_dim), dim = (size_t)a->head_dim;
    const int hashed = w->padded > a->chunk;
    const int32_t ring = w->padded * (hashed ? a->rounds : 1), chunk = hashed ? a->chunk : w->padded;
    const int32_t before = hashed ? a->before : 0, met = chunk * (hashed ? a->before + a->after + 1 : 1);
    for (size_t t = 0; t < (size_t)w->rows; t++) {
        const float *x = w->in + t * stride;
        float *out = w->out + t * (stride / 2);
        double square = 0.0;
        for (size_t i = 0; i < dim; i++) square += (double)x[i] * (double)x[i];
        square = 1.0 / sqrt((square / (double)dim + 1e-6) * (double)dim);
        for (size_t i = 0; i < dim; i++) w->keys[t * dim + i] = (float)((double)x[i] * square);
        memset(out, 0, dim * sizeof(*out));
        w->most[t] = -3.0e38f;
        w->sum[t] = 0.0f;
    }
    for (int32_t r = 0; hashed && r < a->rounds; r++) sqm__lsh_sort(w, r);
    for (int32_t t = 0; !hashed && t < w->padded; t++) w->order[t] = t;
    for (int32_t slot = 0; slot < ring; slot++) {
        const int64_t first = (int64_t)(slot / chunk) * chunk + (int64_t)ring * (before + 1) -
                              (int64_t)before * chunk;
        if (w->order[slot] < w->rows) sqm__lsh_row(w, slot, (int32_t)(first % ring), met, ring);
    }
    for (size_t t = 0; hashed && a->rounds > 1 && t < (size_t)w->rows; t++) {
        const float level = w->most[t] + (float)log((double)w->sum[t]);
        const float factor = (float)exp((double)w->most[t] - (double)level);
        for (size_t i = 0; i < dim; i++) w->out[t * (stride / 2) + i] *= factor;
    }
}

static void sqm__lsh_task(void *arg, int32_t piece)
{
    const sqm__groups_job *job = (const sqm__groups_job *)arg;
    const sqm__lsh *a = (const sqm__lsh *)job->bound;
    const size_t width = (size_t)(a->heads * a->head_dim), dim = (size_t)a->head_dim;
    int32_t unit = 0, longest = 0;
    for (int32_t s = 0; s < job->n_spans; s++) longest = sqm__max(longest, job->spans[s].rows);
    for (int32_t s = 0; s < job->n_spans; s++)
        for (int32_t h = 0; h < a->heads; h++) {
            const sqm_span *span = &job->spans[s];
            float *floats = (float *)(void *)(job->x->scratch + (size_t)piece *
                                              sqm__lsh_piece_bytes(a, (size_t)longest));
            sqm__lsh_work w;
            if (unit++ % job->pieces != piece) continue;
            w.a = a; w.x = job->x; w.head = h; w.rows = span->rows;
            w.padded = (int32_t)sqm__lsh_slots(a, (size_t)span->rows);
            w.in = job->in + (size_t)span->first_row * 2 * width + (size_t)h * dim;
            w.out = job->out + (size_t)span->first_row * width + (size_t)h * dim;
            w.keys = floats;            floats += (size_t)w.rows * dim;
            w.most = floats;            floats += w.rows;
            w.sum = floats;             floats += w.rows;
            w.scores = floats;          floats += (size_t)(a->before + a->after + 1) * (size_t)a->chunk;
            w.turned = floats;          floats += (a->buckets + a->buckets2) / 2;
            w.order = (int32_t *)(void *)floats;
            w.bucket = w.order + (size_t)w.padded * (size_t)a->rounds;
            w.counts = w.bucket + w.padded;
            sqm__lsh_head(&w);
        }
}
static sqm_result sqm__lsh_forward(const void *bound, sqm_exec *x, float *out, const float *in,
                                   const sqm_span *spans, int32_t n_spans)
{
    const sqm__lsh *a = (const sqm__lsh *)bound;
    int32_t longest = 0;
    size_t need;
    for (int32_t s = 0; s < n_spans; s++) {
        if (spans[s].position)
            SQM__FAIL(&x->error, SQM_E_ARGUMENT, spans[s].position,
                      "lsh needs whole sequences, not rows from position %d on", spans[s].position);
        longest = sqm__max(longest, spans[s].rows);
    }
    if (sqm__lsh_slots(a, (size_t)longest) * (size_t)a->rounds > INT32_MAX / 2)
        SQM__FAIL(&x->error, SQM_E_LIMIT, longest, "lsh: %d rows are too many", longest);
    need = sqm__lsh_piece_bytes(a, (size_t)longest) * (size_t)sqm__most_pieces(x->threads);
    if (need > x->scratch_bytes || !x->scratch)
        SQM__FAIL(&x->error, SQM_E_MEMORY, need, "lsh needs %z bytes of scratch, the context has %z",
                  (uint64_t)need, (uint64_t)x->scratch_bytes);
    sqm__run_groups(sqm__lsh_task, bound, x, out, in, spans, n_spans, a->heads,
                    (size_t)a->chunk * (size_t)a->head_dim * 4);
    return SQM_OK;
}
static const sqm_mixer sqm__lsh_mixer = {
    "lsh", "heads head_dim chunk before after rounds buckets buckets2 shortest multiple causal rotations",
    sizeof(sqm__lsh), SQM_MIXER_WHOLE_ONLY, 0, sqm__lsh_bind, sqm__no_state_bytes, sqm__no_used_bytes,
    sqm__lsh_scratch_bytes, sqm__no_reset, sqm__lsh_forward
};
SQMDEF const sqm_mixer *sqm_mixer_lsh(void) { return &sqm__lsh_mixer; }

/* ---- the list of all mixers ---------------------------------------------------------------------------- */
static const sqm_mixer *const sqm__mixers[] = {
    &sqm__attention_mixer,
    &sqm__conv_mixer,
    &sqm__conv_whole_mixer,
    &sqm__memory_mixer,
    &sqm__caching_mixer,
    &sqm__compress_mixer,
    &sqm__context_mixer,
    &sqm__kernel_memory_mixer,
    &sqm__codebook_mixer,
    &sqm__scan_mixer,
    &sqm__scan_whole_mixer,
    &sqm__ssd_mixer,
    &sqm__ssd_whole_mixer,
    &sqm__trapezoid_mixer,
    &sqm__linear_attention_mixer, &sqm__linear_attention_whole_mixer, &sqm__running_softmax_mixer,
    &sqm__slstm_mixer, &sqm__shift_mixer, &sqm__pool_mixer, &sqm__ridge_mixer,
    &sqm__legs_mixer,
    &sqm__long_conv_mixer,
    &sqm__lti_mixer,
    &sqm__running_pool_mixer,
    &sqm__reorder_mixer,
    &sqm__rnn_mixer,
    &sqm__select_mixer,
    &sqm__spike_mixer,
    &sqm__window_mixer,
    &sqm__lsh_mixer,
    NULL
};
SQMDEF const sqm_mixer *const *sqm_all_mixers(void) { return sqm__mixers; }

/* ==== [FILE] Weight file reader ============================================================================
   A .sqm image is validated once, wholly, and then used in place: nothing is copied, DATA is not touched
   unless its checksums are asked for. Every number from the file is checked; no arithmetic on it can wrap;
   after sqm__file_open succeeded all offsets, strings, indices, sizes and dtypes are safe to use.
   Calls [PLAT], [TYPE]. Tested by tests/test_file.c, tests/fuzz_open.c and tests/read_sqm.py (independent).

   All integers little-endian, all offsets absolute.
     header          64 bytes
     section table   32 bytes a section, in order of offset
     STRS META RECP PARM TLST TENS TOKN   index sections, each at a multiple of 64, with a CRC-32C
     DATA            tensors at multiples of `alignment`, in order of use, each with a CRC-32C, zeros between
   STRS   NUL-terminated texts; the first and the last byte are 0, so every offset inside is a safe C string
   META   pairs of texts, for people and tools
   RECP   the ops in order of execution; PARM their key=value parameters; TLST the tensor numbers of lists
   TENS   one entry a tensor, in order of offset
   TOKN   see [TOK]
   An unknown section is skipped unless its flag bit 0 says that it is required. */
#define SQM__FILE_MAJOR    1
#define SQM__FILE_MINOR    0
#define SQM__FILE_ENDIAN   0x01020304u
#define SQM__MAX_SECTIONS  64
#define SQM__NO_TENSOR     0xffffffffu                 /* "-" in a tensor list */

/* What an op's dst, src, src2 may be besides 0..15, the registers r0..r15. */
enum { SQM__REGISTERS = 16, SQM__REG_ROWS = 251, SQM__REG_LOGITS = 252, SQM__REG_TOKENS = 253,
       SQM__REG_POSITIONS = 254, SQM__REG_NONE = 255 };
enum { SQM__PARAM_INT = 0, SQM__PARAM_FLOAT = 1, SQM__PARAM_TEXT = 2, SQM__PARAM_TENSORS = 3 };

typedef struct sqm__file_header {
    uint8_t  magic[8];
    uint16_t minor, major;                             /* any minor is accepted */
    uint32_t endian;
    uint64_t file_bytes;
    uint32_t n_sections, alignment;                    /* alignment: power of two, 64..65536 */
    uint64_t sections;                                 /* 64 */
    uint32_t flags;                                    /* 0 */
    uint32_t crc;                                      /* of header (this field 0) and section table */
    uint32_t reserved[4];
} sqm__file_header;

typedef struct sqm__file_section {
    uint32_t type;                                     /* four letters, first in the lowest byte */
    uint32_t flags;                                    /* bit 0: refuse the file if the type is unknown */
    uint64_t offset, bytes;
    uint32_t count;                                    /* entries; 0 for STRS, TOKN, DATA */
    uint32_t crc;                                      /* DATA: 0 */
} sqm__file_section;

typedef struct sqm__file_meta {
    uint32_t key, value;                               /* STRS */
} sqm__file_meta;

typedef struct sqm__file_op {
    uint16_t op;                                       /* SQM__OP_* of [RECIPE] */
    uint8_t  dst, src, src2, flags;                    /* flags 0 */
    uint16_t n_params;
    uint32_t mixer;                                    /* STRS; 0: none */
    uint32_t first_param;
    uint32_t reserved[4];
} sqm__file_op;

typedef struct sqm__file_param {
    uint32_t key;                                      /* STRS */
    uint16_t type, count;                              /* SQM__PARAM_*; count of a tensor list, else 0 */
    uint64_t value;  /* int64 or double bits, STRS offset, first TLST index */
} sqm__file_param;

typedef struct sqm__file_tensor {
    uint32_t name, name_hash;                          /* STRS; FNV-1a */
    uint16_t dtype;
    uint8_t  ndim, layout;
    uint32_t crc;                                      /* 0: none */
    int32_t  shape[4];                                 /* unused: 1 */
    uint64_t offset, bytes;
    uint64_t reserved;
    uint32_t reserved2[2];
} sqm__file_tensor;

typedef char sqm__check_header[sizeof(sqm__file_header) == 64 &&
                               offsetof(sqm__file_header, crc) == 44 ? 1 : -1];
typedef char sqm__check_section[sizeof(sqm__file_section) == 32 ? 1 : -1];
typedef char sqm__check_op[sizeof(sqm__file_op) == 32 ? 1 : -1];
typedef char sqm__check_param[sizeof(sqm__file_param) == 16 ? 1 : -1];
typedef char sqm__check_entry[sizeof(sqm__file_tensor) == 64 &&
                              offsetof(sqm__file_tensor, offset) == 32 ? 1 : -1];

typedef struct sqm__file {
    const uint8_t           *image;
    size_t                   bytes;
    const char              *strs;
    uint32_t                 strs_bytes;
    const sqm__file_meta    *meta;
    int32_t                  n_meta;
    const sqm__file_op      *ops;
    int32_t                  n_ops;
    const sqm__file_param   *params;
    int32_t                  n_params;
    const uint32_t          *lists;
    int32_t                  n_lists;
    const sqm__file_tensor  *tensors;
    int32_t                  n_tensors;
    const uint8_t           *tokens;                   /* NULL: no tokenizer */
    size_t                   token_bytes;
    const sqm__file_section *data;                     /* NULL: no tensors */
    uint32_t                 alignment;
} sqm__file;

static const uint8_t sqm__file_magic[8] = { 0x89, 'S', 'Q', 'M', '\r', '\n', 0x1a, '\n' };

/* ---- checksum and hash --------------------------------------------------------------------------------- */
/* CRC-32C (Castagnoli, reflected 0x82f63b78), a byte at a time. The table is linear: entry i is the exclusive
   or of the entries of its bits, so the preprocessor can write it. */
#define SQM__CRC_BIT(i, bit, entry) ((uint32_t)((i) >> (bit) & 1) * (entry))
#define SQM__CRC_1(i) (SQM__CRC_BIT(i, 0, 0xf26b8303u) ^ SQM__CRC_BIT(i, 1, 0xe13b70f7u) ^          \
                       SQM__CRC_BIT(i, 2, 0xc79a971fu) ^ SQM__CRC_BIT(i, 3, 0x8ad958cfu) ^          \
                       SQM__CRC_BIT(i, 4, 0x105ec76fu) ^ SQM__CRC_BIT(i, 5, 0x20bd8edeu) ^          \
                       SQM__CRC_BIT(i, 6, 0x417b1dbcu) ^ SQM__CRC_BIT(i, 7, 0x82f63b78u))
#define SQM__CRC_4(i)  SQM__CRC_1(i), SQM__CRC_1((i) + 1), SQM__CRC_1((i) + 2), SQM__CRC_1((i) + 3)
#define SQM__CRC_16(i) SQM__CRC_4(i), SQM__CRC_4((i) + 4), SQM__CRC_4((i) + 8), SQM__CRC_4((i) + 12)
#define SQM__CRC_64(i) SQM__CRC_16(i), SQM__CRC_16((i) + 16), SQM__CRC_16((i) + 32), SQM__CRC_16((i) + 48)
#if SQM__SMALL                          /* half bytes: every 16th entry, as few as there are */
static const uint32_t sqm__crc_table[16] = {
    SQM__CRC_1(0), SQM__CRC_1(16), SQM__CRC_1(32), SQM__CRC_1(48), SQM__CRC_1(64), SQM__CRC_1(80),
    SQM__CRC_1(96), SQM__CRC_1(112), SQM__CRC_1(128), SQM__CRC_1(144), SQM__CRC_1(160), SQM__CRC_1(176),
    SQM__CRC_1(192), SQM__CRC_1(208), SQM__CRC_1(224), SQM__CRC_1(240)
};
#else
static const uint32_t sqm__crc_table[256] = { SQM__CRC_64(0), SQM__CRC_64(64), SQM__CRC_64(128),
                                              SQM__CRC_64(192) };
#endif
#undef SQM__CRC_BIT
#undef SQM__CRC_1
#undef SQM__CRC_4
#undef SQM__CRC_16
#undef SQM__CRC_64

#if SQM__HAVE_X86
/* The processor's own instruction, which every machine with AVX2 has: 8 bytes at once. */
__attribute__((target("sse4.2"))) static uint32_t sqm__crc32c_x86(uint32_t crc, const uint8_t *p,
                                                                  size_t bytes)
{
    uint64_t wide = crc;
    for (; bytes >= 8; bytes -= 8, p += 8) wide = __builtin_ia32_crc32di(wide, sqm__load_u64(p));
    crc = (uint32_t)wide;
    for (; bytes; bytes--, p++) crc = __builtin_ia32_crc32qi(crc, *p);
    return crc;
}
#endif
/* Continues `crc` (0 at the start) over `bytes` bytes. */
static uint32_t sqm__crc32c(uint32_t crc, const void *data, size_t bytes)
{
    const uint8_t *p = (const uint8_t *)data;
#if SQM__HAVE_X86
    if (bytes >= 4096 && sqm_cpu_has(SQM_ISA_AVX2)) return ~sqm__crc32c_x86(~crc, p, bytes);
#endif
    crc = ~crc;
#if SQM__SMALL
    for (size_t i = 0; i < bytes; i++) {
        crc ^= p[i];
        for (int half = 0; half < 2; half++) crc = sqm__crc_table[crc & 15u] ^ crc >> 4;
    }
#else
    for (size_t i = 0; i < bytes; i++) crc = sqm__crc_table[(crc ^ p[i]) & 255u] ^ crc >> 8;
#endif
    return ~crc;
}

/* FNV-1a of a text. */
static uint32_t sqm__hash_text(const char *text)
{
    uint32_t hash = 2166136261u;
    for (; *text; text++) hash = (hash ^ (uint32_t)(unsigned char)*text) * 16777619u;
    return hash;
}

SQM__INLINE uint32_t sqm__section_type(const char *letters) { return sqm__load_u32(letters); }

/* ---- access after opening ------------------------------------------------------------------------------ */
/* The text at a STRS offset; "" for an offset outside. */
static const char *sqm__file_text(const sqm__file *f, uint32_t offset)
{
    return offset < f->strs_bytes ? f->strs + offset : "";
}

static sqm_tensor sqm__file_tensor_view(const sqm__file *f, int32_t index)
{
    const sqm__file_tensor *entry = &f->tensors[index];
    sqm_tensor view;
    view.data = f->image + (size_t)entry->offset;
    view.dtype = (sqm_dtype)entry->dtype;
    view.layout = (sqm_layout)entry->layout;
    view.ndim = entry->ndim;
    for (int32_t i = 0; i < SQM_MAX_DIMS; i++) view.shape[i] = entry->shape[i];
    return view;
}

/* Index of the first tensor of that name; -1: none. */
static int32_t sqm__file_find(const sqm__file *f, const char *name)
{
    const uint32_t hash = sqm__hash_text(name);
    for (int32_t i = 0; i < f->n_tensors; i++) {
        if (f->tensors[i].name_hash == hash && strcmp(sqm__file_text(f, f->tensors[i].name), name) == 0) {
            return i;
        }
    }
    return -1;
}

/* Value of a META key; NULL: none. */
SQM__UNUSED static const char *sqm__file_find_meta(const sqm__file *f, const char *key)
{
    for (int32_t i = 0; i < f->n_meta; i++) {
        if (strcmp(sqm__file_text(f, f->meta[i].key), key) == 0) return sqm__file_text(f, f->meta[i].value);
    }
    return NULL;
}

SQM__INLINE int64_t sqm__file_param_int(const sqm__file_param *p)
{
    int64_t v;
    memcpy(&v, &p->value, 8);
    return v;
}

SQM__INLINE double sqm__file_param_float(const sqm__file_param *p)
{
    double v;
    memcpy(&v, &p->value, 8);
    return v;
}

/* ---- validation ---------------------------------------------------------------------------------------- */
static int sqm__is_big_endian(void)
{
    const uint16_t one = 1;
    uint8_t first;
    memcpy(&first, &one, 1);
    return first == 0;
}

/* Says what a file is that is no weight file, for the most likely mistakes. */
static sqm_result sqm__file_not_ours(const uint8_t *image, sqm_error *err)
{
    if (memcmp(image, "GGUF", 4) == 0) {
        SQM__FAIL(err, SQM_E_FORMAT, 0,
                  "this is a GGUF file, not a .sqm weight file: convert it with sqm-convert");
    }
    if (memcmp(image, "PK\003\004", 4) == 0) {
        SQM__FAIL(err, SQM_E_FORMAT, 0,
                  "this is a zip or PyTorch file, not a .sqm weight file: use sqm-convert");
    }
    if (memcmp(image, "version https://git-lfs", 23) == 0) {
        SQM__FAIL(err, SQM_E_FORMAT, 0,
                  "this is a git-lfs pointer, not the weight file itself: run git lfs pull");
    }
    if (memcmp(image + 1, "SQM", 3) == 0) {
        SQM__FAIL(err, SQM_E_FORMAT, 0, "the first bytes are damaged, as a text-mode transfer does it");
    }
    SQM__FAIL(err, SQM_E_FORMAT, 0, "not a .sqm weight file: the first bytes are not its signature");
}

static sqm_result sqm__file_check_header(const uint8_t *image, size_t bytes, sqm_error *err)
{
    sqm__file_header h;
    if (sqm__is_big_endian()) SQM__FAIL(err, SQM_E_UNSUPPORTED, 0, "big-endian machines are not supported");
    if (!image) SQM__FAIL(err, SQM_E_ARGUMENT, 0, "weight image is NULL");
    if ((uintptr_t)image & 7u) {
        SQM__FAIL(err, SQM_E_ARGUMENT, (uintptr_t)image & 7u, "weight image must be aligned to 8 bytes");
    }
    if (bytes < sizeof(h)) {
        SQM__FAIL(err, SQM_E_FORMAT, bytes, "weight file has %z bytes, its header alone has 64",
                  (uint64_t)bytes);
    }
    memcpy(&h, image, sizeof(h));
    if (memcmp(h.magic, sqm__file_magic, 8) != 0) return sqm__file_not_ours(image, err);
    if (h.endian == 0x04030201u) {
        SQM__FAIL(err, SQM_E_UNSUPPORTED, h.endian,
                  "weight file was written in big-endian order, little is needed");
    }
    if (h.endian != SQM__FILE_ENDIAN) {
        SQM__FAIL(err, SQM_E_FORMAT, h.endian, "byte-order mark of the file is damaged");
    }
    if (h.major != SQM__FILE_MAJOR) {
        SQM__FAIL(err, SQM_E_VERSION, h.major, "weight file has format version %d, this build reads %d",
                  (int32_t)h.major, (int32_t)SQM__FILE_MAJOR);
    }
    if (h.file_bytes > (uint64_t)SIZE_MAX) {
        SQM__FAIL(err, SQM_E_LIMIT, h.file_bytes, "weight file of %z bytes exceeds the address space",
                  h.file_bytes);
    }
    if (h.file_bytes != bytes) {
        SQM__FAIL(err, SQM_E_FORMAT, bytes, "weight file has %z bytes, its header says %z: %s",
                  (uint64_t)bytes, h.file_bytes,
                  bytes < h.file_bytes ? "it is truncated" : "something was appended");
    }
    if (h.n_sections > SQM__MAX_SECTIONS || h.sections != 64 || (bytes - 64) / 32 < h.n_sections) {
        SQM__FAIL(err, SQM_E_FORMAT, h.n_sections, "section table (%z sections) is damaged",
                  (uint64_t)h.n_sections);
    }
    const uint32_t crc = h.crc;
    h.crc = 0;
    if (sqm__crc32c(sqm__crc32c(0, &h, 64), image + 64, (size_t)h.n_sections * 32) != crc) {
        SQM__FAIL(err, SQM_E_CHECKSUM, crc,
                  "checksum of header and section table is wrong: the file is damaged");
    }
    if (h.alignment < 64 || h.alignment > 65536 || (h.alignment & (h.alignment - 1)) != 0) {
        SQM__FAIL(err, SQM_E_FORMAT, h.alignment, "alignment %z is no power of two in 64..65536",
                  (uint64_t)h.alignment);
    }
    if (h.flags | h.reserved[0] | h.reserved[1] | h.reserved[2] | h.reserved[3]) {
        SQM__FAIL(err, SQM_E_UNSUPPORTED, h.flags,
                  "weight file uses header fields that this build does not know");
    }
    return SQM_OK;
}

/* Number of entries of an array section whose entries have `size` bytes; -1: count and bytes disagree. */
static int32_t sqm__section_count(const sqm__file_section *s, size_t size)
{
    if (s->count > (uint32_t)INT32_MAX || s->bytes != (uint64_t)s->count * size) return -1;
    return (int32_t)s->count;
}

/* Enters a section into f. *bad: its count does not fit. Returns 0 for an unknown type. */
static int sqm__file_enter(sqm__file *f, const sqm__file_section *s, int *bad)
{
    const uint8_t *at = f->image + (size_t)s->offset;
    const void *entries = at;
    int32_t n = 0;
    if (s->type == sqm__section_type("STRS")) {
        f->strs = (const char *)entries;
        f->strs_bytes = (uint32_t)s->bytes;
        *bad = s->bytes < 1 || s->bytes > (uint64_t)INT32_MAX || at[0] != 0 || at[(size_t)s->bytes - 1] != 0;
    } else if (s->type == sqm__section_type("META")) {
        f->meta = (const sqm__file_meta *)entries;
        f->n_meta = n = sqm__section_count(s, sizeof(sqm__file_meta));
    } else if (s->type == sqm__section_type("RECP")) {
        f->ops = (const sqm__file_op *)entries;
        f->n_ops = n = sqm__section_count(s, sizeof(sqm__file_op));
    } else if (s->type == sqm__section_type("PARM")) {
        f->params = (const sqm__file_param *)entries;
        f->n_params = n = sqm__section_count(s, sizeof(sqm__file_param));
    } else if (s->type == sqm__section_type("TLST")) {
        f->lists = (const uint32_t *)entries;
        f->n_lists = n = sqm__section_count(s, sizeof(uint32_t));
    } else if (s->type == sqm__section_type("TENS")) {
        f->tensors = (const sqm__file_tensor *)entries;
        f->n_tensors = n = sqm__section_count(s, sizeof(sqm__file_tensor));
    } else if (s->type == sqm__section_type("TOKN")) {
        f->tokens = at;
        f->token_bytes = (size_t)s->bytes;
    } else if (s->type == sqm__section_type("DATA")) {
        f->data = s;
    } else {
        return 0;
    }
    if (n < 0) *bad = 1;
    return 1;
}

/* Sections must lie in order, apart and inside the file; index sections must have the right checksum. */
static sqm_result sqm__file_check_sections(sqm__file *f, uint32_t flags, sqm_error *err)
{
    const uint32_t n = ((const sqm__file_header *)(const void *)f->image)->n_sections;
    const sqm__file_section *s = (const sqm__file_section *)(const void *)(f->image + 64);
    uint64_t end = 64 + (uint64_t)n * 32;
    for (uint32_t i = 0; i < n; i++) {
        char name[5] = { 0, 0, 0, 0, 0 };
        memcpy(name, &s[i].type, 4);
        if (s[i].offset < end || s[i].offset > f->bytes || s[i].bytes > f->bytes - s[i].offset ||
            s[i].offset % 64 != 0) {
            SQM__FAIL(err, SQM_E_FORMAT, s[i].offset,
                      "section %s at %z with %z bytes overlaps or leaves the file", name,
                      s[i].offset, s[i].bytes);
        }
        end = s[i].offset + s[i].bytes;
        for (uint32_t k = 0; k < i; k++) {
            if (s[k].type == s[i].type) SQM__FAIL(err, SQM_E_FORMAT, i, "section %s appears twice", name);
        }
        int bad = 0;
        const int known = sqm__file_enter(f, &s[i], &bad);
        if (!known && (s[i].flags & 1u)) {
            SQM__FAIL(err, SQM_E_UNSUPPORTED, s[i].type,
                      "weight file needs section %s, unknown to this build", name);
        }
        if (&s[i] != f->data && (known || (flags & SQM_OPEN_VERIFY)) &&
            sqm__crc32c(0, f->image + (size_t)s[i].offset, (size_t)s[i].bytes) != s[i].crc) {
            SQM__FAIL(err, SQM_E_CHECKSUM, s[i].crc, "checksum of section %s is wrong: the file is damaged",
                      name);
        }
        if (bad) {
            SQM__FAIL(err, SQM_E_FORMAT, s[i].bytes, "section %s of %z bytes is damaged", name, s[i].bytes);
        }
    }
    return SQM_OK;
}

static sqm_result sqm__file_check_meta(const sqm__file *f, sqm_error *err)
{
    for (int32_t i = 0; i < f->n_meta; i++) {
        if (f->meta[i].key >= f->strs_bytes || f->meta[i].value >= f->strs_bytes) {
            SQM__FAIL(err, SQM_E_FORMAT, i, "note %d points outside the texts", i);
        }
    }
    return SQM_OK;
}

/* What a tensor entry says about itself. */
static sqm_result sqm__file_check_entry(const sqm__file_tensor *e, const char *name, sqm_error *err)
{
    if (!name[0] || e->name_hash != sqm__hash_text(name)) {
        SQM__FAIL(err, SQM_E_FORMAT, e->name, "tensor '%s' has an empty name or a wrong name hash", name);
    }
    if (!sqm__dtype_find(e->dtype)) {
        SQM__FAIL(err, SQM_E_UNSUPPORTED, e->dtype, "tensor '%s' has dtype %d, unknown to this build", name,
                  (int32_t)e->dtype);
    }
    if (e->layout > SQM_PANELS || (e->reserved | e->reserved2[0] | e->reserved2[1])) {
        SQM__FAIL(err, SQM_E_UNSUPPORTED, 0, "tensor '%s' uses fields that this build does not know", name);
    }
    for (int32_t i = e->ndim; i < SQM_MAX_DIMS; i++) {
        if (e->shape[i] != 1) {
            SQM__FAIL(err, SQM_E_FORMAT, i, "tensor '%s': unused dimension %d is not 1", name, i);
        }
    }
    const uint64_t need = sqm__tensor_bytes64((sqm_dtype)e->dtype, (sqm_layout)e->layout, e->ndim, e->shape);
    if (!need || need != e->bytes) {
        SQM__FAIL(err, SQM_E_FORMAT, e->bytes,
                  "tensor '%s': %s [%d, %d, %d, %d] takes %z bytes, the file says %z",
                  name, sqm_dtype_name((sqm_dtype)e->dtype), e->shape[0], e->shape[1], e->shape[2],
                  e->shape[3], need, e->bytes);
    }
    return SQM_OK;
}

static sqm_result sqm__file_check_tensors(const sqm__file *f, uint32_t flags, sqm_error *err)
{
    uint64_t end = f->data ? f->data->offset : 0;
    const uint64_t limit = f->data ? f->data->offset + f->data->bytes : 0;
    for (int32_t i = 0; i < f->n_tensors; i++) {
        const sqm__file_tensor *e = &f->tensors[i];
        if (e->name >= f->strs_bytes) {
            SQM__FAIL(err, SQM_E_FORMAT, i, "name of tensor %d is outside the texts", i);
        }
        const char *name = sqm__file_text(f, e->name);
        SQM__TRY(sqm__file_check_entry(e, name, err));
        if (e->offset < end || e->offset > limit || e->bytes > limit - e->offset ||
            e->offset % f->alignment != 0) {
            SQM__FAIL(err, SQM_E_FORMAT, e->offset,
                      "tensor '%s' at %z with %z bytes is misaligned, overlaps or leaves the data section",
                      name, e->offset, e->bytes);
        }
        end = e->offset + e->bytes;
        if ((flags & SQM_OPEN_VERIFY) && e->crc &&
            sqm__crc32c(0, f->image + (size_t)e->offset, (size_t)e->bytes) != e->crc) {
            SQM__FAIL(err, SQM_E_CHECKSUM, i, "checksum of tensor '%s' is wrong: the file is damaged", name);
        }
    }
    return SQM_OK;
}

static int sqm__is_zero(const uint8_t *p, uint64_t from, uint64_t to)
{
    for (; from < to; from++) {
        if (p[(size_t)from]) return 0;
    }
    return 1;
}

/* Bytes that no section and no tensor covers must be zero; with it SQM_OPEN_VERIFY finds all damage. */
static sqm_result sqm__file_check_gaps(const sqm__file *f, sqm_error *err)
{
    const uint32_t n = ((const sqm__file_header *)(const void *)f->image)->n_sections;
    const sqm__file_section *s = (const sqm__file_section *)(const void *)(f->image + 64);
    uint64_t end = 64 + (uint64_t)n * 32;
    for (uint32_t i = 0; i < n; i++) {
        int clean = sqm__is_zero(f->image, end, s[i].offset);
        end = s[i].offset;
        for (int32_t k = 0; &s[i] == f->data && k < f->n_tensors; k++) {
            clean = clean && sqm__is_zero(f->image, end, f->tensors[k].offset);
            end = f->tensors[k].offset + f->tensors[k].bytes;
        }
        if (&s[i] != f->data) end = s[i].offset + s[i].bytes;
        if (!clean) SQM__FAIL(err, SQM_E_CHECKSUM, end, "unused bytes before %z are not zero", end);
    }
    if (!sqm__is_zero(f->image, end, f->bytes)) {
        SQM__FAIL(err, SQM_E_CHECKSUM, end, "unused bytes after %z are not zero", end);
    }
    return SQM_OK;
}

static int sqm__is_register(uint8_t r) { return r < SQM__REGISTERS || r >= SQM__REG_ROWS; }

static sqm_result sqm__file_check_params(const sqm__file *f, sqm_error *err)
{
    for (int32_t i = 0; i < f->n_lists; i++) {
        if (f->lists[i] != SQM__NO_TENSOR && f->lists[i] >= (uint32_t)f->n_tensors) {
            SQM__FAIL(err, SQM_E_FORMAT, i, "recipe names tensor %z of %d", (uint64_t)f->lists[i],
                      f->n_tensors);
        }
    }
    for (int32_t i = 0; i < f->n_params; i++) {
        const sqm__file_param *p = &f->params[i];
        int good = p->key < f->strs_bytes && sqm__file_text(f, p->key)[0] && p->type <= SQM__PARAM_TENSORS;
        if (p->type == SQM__PARAM_TENSORS) {
            const uint64_t n = (uint64_t)f->n_lists;
            good = good && p->count > 0 && p->value <= n && p->count <= n - p->value;
        } else {
            good = good && p->count == 0;
        }
        if (p->type == SQM__PARAM_TEXT) good = good && p->value < f->strs_bytes;
        if (p->type == SQM__PARAM_FLOAT) good = good && (p->value >> 52 & 2047u) != 2047u;
        if (!good) SQM__FAIL(err, SQM_E_FORMAT, i, "parameter %d of the recipe is damaged", i);
    }
    return SQM_OK;
}

static sqm_result sqm__file_check_ops(const sqm__file *f, sqm_error *err)
{
    for (int32_t i = 0; i < f->n_ops; i++) {
        const sqm__file_op *o = &f->ops[i];
        const uint32_t n = (uint32_t)f->n_params;
        if (o->mixer >= f->strs_bytes || o->first_param > n || o->n_params > n - o->first_param) {
            SQM__FAIL(err, SQM_E_FORMAT, i, "op %d of the recipe points outside its tables", i);
        }
        if (!sqm__is_register(o->dst) || !sqm__is_register(o->src) || !sqm__is_register(o->src2)) {
            SQM__FAIL(err, SQM_E_FORMAT, i, "op %d of the recipe names a register that does not exist", i);
        }
        if (o->flags || (o->reserved[0] | o->reserved[1] | o->reserved[2] | o->reserved[3])) {
            SQM__FAIL(err, SQM_E_UNSUPPORTED, i,
                      "op %d of the recipe uses fields that this build does not know", i);
        }
    }
    return SQM_OK;
}

/* Validates an image and makes f an index over it; f is meaningless if this fails. flags: SQM_OPEN_VERIFY. */
static sqm_result sqm__file_open(sqm__file *f, const void *image, size_t bytes, uint32_t flags,
                                 sqm_error *err)
{
    memset(f, 0, sizeof(*f));
    f->image = (const uint8_t *)image;
    f->bytes = bytes;
    f->strs = "";
    f->strs_bytes = 1;
    SQM__TRY(sqm__file_check_header(f->image, bytes, err));
    f->alignment = ((const sqm__file_header *)(const void *)f->image)->alignment;
    SQM__TRY(sqm__file_check_sections(f, flags, err));
    SQM__TRY(sqm__file_check_meta(f, err));
    SQM__TRY(sqm__file_check_tensors(f, flags, err));
    if (flags & SQM_OPEN_VERIFY) SQM__TRY(sqm__file_check_gaps(f, err));
    SQM__TRY(sqm__file_check_params(f, err));
    return sqm__file_check_ops(f, err);
}

/* ==== [TOK] Tokenizers =====================================================================================
   Text to token ids and back, driven by data: the runtime knows no model's name. The TOKN section of a file
   is one blob that is checked wholly by sqm__tok_open and then read in place (also from flash): nothing is
   allocated, nothing is built. Everything that depends on a tokenizer's history (which regular expression,
   which Unicode version, which merge rule) was turned into tables by the converter (tools/tok_import.h).

   Encoding, in this order, each step given by a list in the blob:
     added tokens   texts that are tokens by themselves ("<|im_end|>") are cut out, leftmost, then longest
     normalizers    the text between them is rewritten: prefix, replacement, strip, Unicode normal form
     added tokens   a second list, which is looked for in the normalised text
     normalizers    a second list, for the text between those
     splits         pieces are cut in smaller pieces, step by step, by regular expressions
     model          kinds 2, 3: a piece becomes symbols (bytes or characters), neighbours are merged by
                    rank, lowest first, then leftmost; one known to merge into one token is looked up whole.
                    4, 6: it is cut from its start on into the longest tokens there are; kind 4 has other
                    tokens inside a word than where it begins, and gives up a word that it cannot cut.
                    5: the cut whose scores have the largest sum.
     template       ids before and after, such as begin-of-text
   Decoding puts the bytes of the tokens side by side, then runs the decoder steps. In vocabularies that write
   the space as U+2581 token texts are stored with real spaces: that is what they decode to. Tokens that begin
   words of kind 4 are stored with the space before them.

   Blob: sqm__tok_header, then n_arrays pairs (byte offset from the blob's start, number of items), by number:
      0 offsets     u32 [n + 1]  where the texts of tokens begin in `text`; the last is its end
      1 text        u8           token texts: the bytes that a token decodes to
      2 attributes  u8 [n]       low 4 bits SQM__TOKEN_*, bit 4: a piece of just this text is this token,
                                 bit 5: it stands inside a word
      3 index       (hash, id)   open addressing by sqm__tok_hash, home cell hash * cells >> 32, id ~0: free
      4 merges      (left, right, rank, id)  open addressing by sqm__pair_hash, left ~0: free
      5 chars       i32 [256]    id of the one-byte text, -1: none (byte models: the symbol of each byte)
      6 bytes       i32 [256]    token of a byte for characters that are no token, -1: none; or empty
      7 added       (first byte in strings, bytes, id, flags), sorted by bytes
      8 added_first u32 [257]    index in `added` of the first text that begins with byte b
      9 added_norm, 10 added_norm_first         the same for the list that normalised text is searched for
     11 ends        i32          tokens that end a text or a chat turn
     12 prefix, 13 suffix  i32   the template
     14 normalizers, 15 splits, 16 decoders     sqm__tok_step
     17 strings     u8           texts of added tokens and steps
     18 program     sqm__regex_op         19 classes  sqm__char_class       20 toggles  u32 pairs [from, end)
     21 firsts      u32 [8] bit sets of first bytes
     22 category_runs    u32     first code point << 5 | general category (30, 31: Lu where even, where odd,
                                 else Ll), sorted; empty when no class asks for categories
     23 category_blocks  u16     run that holds code point 256 * i
     24 decomposed       (code point, first, second or 0), sorted       25 compositions  u16, indices in 24 by
     (first, second)    26 combining_runs  u32 code point << 8 | class    27 unstable  u32 pairs [from, end):
     what the normal form changes or joins to the character before. 24 to 27 are empty without such a step.
     28 not used    29 trie      sqm__trie_cell, kinds 4 to 6: texts as they are looked for -> id
     30 maps        tries of the normalizers: text -> place in `strings` of a length byte and the replacement
     31 scores      f64 [n + 1]  kind 5: of each token; the last: of a character that no token begins with
     32 breaks      u32          grapheme clusters: first code point << 4 | SQM__BREAK_*, sorted
     33 words       u32 [2]      kind 4: cell from which tokens inside a word are looked for; most characters
     34 late        sqm__tok_step  the second list of normalizers
   Arrays begin at multiples of 4. A reader ignores arrays that it does not know and refuses kinds and steps
   that it does not know, so tables can be added. Hash chains are at most *_probe cells long.

   Invalid UTF-8 is never an error: a byte that is not part of a character counts as one character of category
   So, byte models and byte fallback keep it, so that text comes back as it was.
   Calls [PLAT], [MEM]. Tested by tests/test_tok.c, tests/fuzz_tok.c and the strings of 23 real tokenizers. */

#if SQM__HAVE_TOKENIZER
#define SQM__TOK_NONE 0xffffffffu                      /* free cells, "no limit", no neighbour */

enum { SQM__TOK_VERSION = 1, SQM__TOK_MAX_TEXT = 0x3fffffff };   /* bytes: positions are uint32_t */

enum { SQM__TOK_BYTES = 1, SQM__TOK_BYTE_BPE = 2, SQM__TOK_CHAR_BPE = 3,
       SQM__TOK_WORDPIECE = 4, SQM__TOK_UNIGRAM = 5, SQM__TOK_LONGEST = 6 };
enum { SQM__TOK_FUSE_UNK = 1,                          /* flag: unknown neighbours become one token */
       SQM__TOK_FLOAT_SUMS = 2 };                      /* flag: scores are summed in single precision */
enum { SQM__TOKEN_NORMAL = 0, SQM__TOKEN_SPECIAL = 1, SQM__TOKEN_ADDED = 2, SQM__TOKEN_BYTE = 3,
       SQM__TOKEN_UNUSED = 4, SQM__TOKEN_TYPE = 15, SQM__TOKEN_WHOLE = 16, SQM__TOKEN_INSIDE = 32 };
enum { SQM__ADDED_SPECIAL = 1, SQM__ADDED_LSTRIP = 2, SQM__ADDED_RSTRIP = 4, SQM__ADDED_WORD = 8,
       SQM__ADDED_CONTROL = 16 };                      /* only found with SQM_TOKENS_CONTROL */
enum { SQM__A_OFFSETS, SQM__A_TEXT, SQM__A_ATTRIBUTES, SQM__A_INDEX, SQM__A_MERGES, SQM__A_CHARS,
       SQM__A_BYTES, SQM__A_ADDED, SQM__A_ADDED_FIRST, SQM__A_NORMAL, SQM__A_NORMAL_FIRST, SQM__A_ENDS,
       SQM__A_PREFIX, SQM__A_SUFFIX, SQM__A_NORMALIZERS, SQM__A_SPLITS, SQM__A_DECODERS, SQM__A_STRINGS,
       SQM__A_PROGRAM, SQM__A_CLASSES, SQM__A_TOGGLES, SQM__A_FIRSTS, SQM__A_RUNS, SQM__A_BLOCKS,
       SQM__A_DECOMPOSED, SQM__A_COMPOSITIONS, SQM__A_COMBINING, SQM__A_UNSTABLE, SQM__A_OLD,
       SQM__A_TRIE, SQM__A_MAPS, SQM__A_SCORES, SQM__A_BREAKS, SQM__A_WORDS, SQM__A_LATE,
       SQM__A_COUNT };

typedef struct sqm__tok_header {                       /* 64 bytes */
    uint32_t version, kind, flags;
    int32_t  n_tokens;
    uint32_t max_token_bytes, index_probe, merge_probe;
    uint32_t regex_frames;                             /* backtrack stack that the programs need */
    int32_t  role[4];                                  /* bos eos unk pad; -1: none */
    int32_t  model_unk;                                /* for characters without a token; -1: dropped */
    uint32_t word_class, space_class;                  /* where added tokens or steps need them; ~0: none */
    uint32_t n_arrays;
} sqm__tok_header;

/* Normalizers: 1 prepend a (flags 1: unless the text begins with it, 2: only where the whole text begins),
   2 replace a by b, 3 strip white space (flags 1 left, 2 right; of class b if b_bytes), 4 canonical normal
   form NFC (flags 1: NFD), 5 put a for each character of class b (flags 1: around it, 2: for each run of
   them), 6 put for the longest text of a trie, cells a .. a + a_bytes of maps, what it maps to, at most b/16
   times as long (flags 1: in grapheme clusters; one of up to 5 bytes, or else each of its characters, is
   replaced as a whole if a text of the trie begins it), 7 put a for matches of ops b .. b + b_bytes.
   Splits: 1 regular expression, ops a .. a + a_bytes of the program, flags = behaviour, + 256 to exchange
   matches and gaps; 2 before each space after a byte that is no space and not one of the bytes of a.
   Decoders: 1 strip up to `flags` bytes a from the start (b: but none of special tokens), 2 put a before a
   token that stands inside a word if the text begins with it.                                             */
enum { SQM__NORM_PREPEND = 1, SQM__NORM_REPLACE = 2, SQM__NORM_STRIP = 3, SQM__NORM_NFC = 4,
       SQM__NORM_CLASS = 5, SQM__NORM_MAP = 6, SQM__NORM_REGEX = 7 };
enum { SQM__SPLIT_REGEX = 1, SQM__SPLIT_SPACES = 2, SQM__SPLIT_INVERT = 256, SQM__MAX_SPLITS = 8 };
enum { SQM__SPLIT_ISOLATED, SQM__SPLIT_REMOVED, SQM__SPLIT_WITH_PREVIOUS, SQM__SPLIT_WITH_NEXT,
       SQM__SPLIT_CONTIGUOUS };
enum { SQM__DECODE_STRIP = 1, SQM__DECODE_INSIDE = 2 };
typedef struct sqm__tok_step {
    uint32_t kind, flags, a, a_bytes, b, b_bytes, reserved[2];
} sqm__tok_step;

typedef struct sqm__tok_added { uint32_t first, bytes; int32_t id; uint32_t flags; } sqm__tok_added;
typedef struct sqm__tok_cell { uint32_t hash, id; } sqm__tok_cell;
typedef struct sqm__tok_merge { uint32_t left, right, rank, id; } sqm__tok_merge;
typedef struct sqm__decomposition { uint32_t code, first, second; } sqm__decomposition;
/* A node of a trie; the root is cell 0. link: base << 9 | byte that leads here (256: none); the child for
   byte c is cell base + c if that byte leads there. No two nodes have the same base; base 0: no children. */
typedef struct sqm__trie_cell { uint32_t link, value; } sqm__trie_cell;

/* Set of characters: c < 128: bit of ascii; else its category's bit of `categories`, exchanged if c lies in
   one of the n_toggles ranges from first_toggle. */
typedef struct sqm__char_class {
    uint32_t ascii[4], categories, first_toggle, n_toggles, reserved;
} sqm__char_class;

/* A backtracking program; targets count from the first op of the program. */
enum { SQM__RE_MATCH, SQM__RE_CLASS /* a: class */, SQM__RE_LOOP /* a: class, b..c times, greedy */,
       SQM__RE_LOOP_ALL /* the same, gives nothing back */, SQM__RE_JUMP /* a */,
       SQM__RE_SPLIT /* next op; if that fails, a */,
       SQM__RE_SPLIT_FIRST /* the same, but a at once if the next byte is not in set b */,
       SQM__RE_LOOK, SQM__RE_LOOK_NOT /* what follows up to LOOK_END must (not) match here; then a */,
       SQM__RE_LOOK_END, SQM__RE_ATOMIC, SQM__RE_ATOMIC_END, SQM__RE_BEGIN, SQM__RE_END, SQM__RE_LINE_BEGIN,
       SQM__RE_LINE_END, SQM__RE_EDGE /* between a character of class a and none */, SQM__RE_NO_EDGE,
       SQM__RE_COUNT };
typedef struct sqm__regex_op { uint32_t op, a, b, c; } sqm__regex_op;

typedef struct sqm__tok {
    const uint8_t         *blob;
    const sqm__tok_header *h;
    const void            *array[SQM__A_COUNT];
    uint32_t               count[SQM__A_COUNT];
} sqm__tok;

SQM__INLINE const uint8_t *sqm__tok_u8(const sqm__tok *t, int a) { return (const uint8_t *)t->array[a]; }
SQM__INLINE const uint32_t *sqm__tok_u32(const sqm__tok *t, int a) { return (const uint32_t *)t->array[a]; }
SQM__INLINE const int32_t *sqm__tok_i32(const sqm__tok *t, int a) { return (const int32_t *)t->array[a]; }
SQM__INLINE const sqm__tok_step *sqm__tok_steps(const sqm__tok *t, int a)
{
    return (const sqm__tok_step *)t->array[a];
}
SQM__INLINE const sqm__char_class *sqm__tok_class(const sqm__tok *t, uint32_t i)
{
    return (const sqm__char_class *)t->array[SQM__A_CLASSES] + i;
}
SQM__UNUSED static int32_t sqm__tok_count(const sqm__tok *t) { return t->h->n_tokens; }

/* ---- opening: every number is checked here ------------------------------------------------------------- */
static sqm_result sqm__tok_arrays(sqm__tok *t, size_t bytes, sqm_error *err)
{
    static const uint8_t sizes[SQM__A_COUNT] = { 4, 1, 1, 8, 16, 4, 4, 16, 4, 16, 4, 4, 4, 4, 32, 32, 32, 1,
                                                 16, 32, 8, 32, 4, 2, 12, 2, 4, 8, 4, 8, 8, 8, 4, 4, 32 };
    const size_t room = (bytes - sizeof(sqm__tok_header)) / 8;
    const uint8_t *table = t->blob + sizeof(sqm__tok_header);
    if (t->h->n_arrays > room)
        SQM__FAIL(err, SQM_E_FORMAT, t->h->n_arrays, "tokenizer: %z arrays in %z bytes",
                  (uint64_t)t->h->n_arrays, (uint64_t)bytes);
    for (uint32_t i = 0; i < SQM__A_COUNT; i++) {
        uint32_t offset = 0, n = 0;
        if (i < t->h->n_arrays) {
            offset = sqm__load_u32(table + 8 * i);
            n = sqm__load_u32(table + 8 * i + 4);
        }
        if (offset % 4 || offset > bytes || n > (bytes - offset) / sizes[i])
            SQM__FAIL(err, SQM_E_FORMAT, offset, "tokenizer: array %d, %z items at byte %z, blob of %z bytes",
                      (int32_t)i, (uint64_t)n, (uint64_t)offset, (uint64_t)bytes);
        t->array[i] = t->blob + offset;
        t->count[i] = n;
    }
    return SQM_OK;
}

static int sqm__tok_ids_fit(const int32_t *ids, uint32_t n, int32_t least, int32_t n_tokens)
{
    for (uint32_t i = 0; i < n; i++) {
        if (ids[i] < least || ids[i] >= n_tokens) return 0;
    }
    return 1;
}

static sqm_result sqm__tok_check_tokens(const sqm__tok *t, sqm_error *err)
{
    const uint32_t n = (uint32_t)t->h->n_tokens, *offsets = sqm__tok_u32(t, SQM__A_OFFSETS);
    if (t->count[SQM__A_OFFSETS] != n + 1 || t->count[SQM__A_ATTRIBUTES] != n ||
        t->count[SQM__A_CHARS] != 256 || (t->count[SQM__A_BYTES] && t->count[SQM__A_BYTES] != 256))
        SQM__FAIL(err, SQM_E_FORMAT, n, "tokenizer: tables do not have the size that %z tokens need",
                  (uint64_t)n);
    for (uint32_t i = 0; i < n; i++) {
        if (offsets[i] > offsets[i + 1] || offsets[i + 1] - offsets[i] > t->h->max_token_bytes)
            SQM__FAIL(err, SQM_E_FORMAT, i, "tokenizer: text of token %z", (uint64_t)i);
    }
    if (offsets[n] > t->count[SQM__A_TEXT])
        SQM__FAIL(err, SQM_E_FORMAT, offsets[n], "tokenizer: texts end at %z, there are %z bytes",
                  (uint64_t)offsets[n], (uint64_t)t->count[SQM__A_TEXT]);
    if (!sqm__tok_ids_fit(sqm__tok_i32(t, SQM__A_CHARS), 256, -1, t->h->n_tokens) ||
        !sqm__tok_ids_fit(sqm__tok_i32(t, SQM__A_BYTES), t->count[SQM__A_BYTES], -1, t->h->n_tokens) ||
        !sqm__tok_ids_fit(sqm__tok_i32(t, SQM__A_ENDS), t->count[SQM__A_ENDS], 0, t->h->n_tokens) ||
        !sqm__tok_ids_fit(sqm__tok_i32(t, SQM__A_PREFIX), t->count[SQM__A_PREFIX], 0, t->h->n_tokens) ||
        !sqm__tok_ids_fit(sqm__tok_i32(t, SQM__A_SUFFIX), t->count[SQM__A_SUFFIX], 0, t->h->n_tokens) ||
        !sqm__tok_ids_fit(t->h->role, 4, -1, t->h->n_tokens) ||
        !sqm__tok_ids_fit(&t->h->model_unk, 1, -1, t->h->n_tokens))
        SQM__FAIL(err, SQM_E_FORMAT, n, "tokenizer: an id is not one of the %z tokens", (uint64_t)n);
    if (t->count[SQM__A_PREFIX] > 1024 || t->count[SQM__A_SUFFIX] > 1024)
        SQM__FAIL(err, SQM_E_FORMAT, t->count[SQM__A_PREFIX], "tokenizer: the template is too long");
    return SQM_OK;
}

static sqm_result sqm__tok_check_hashes(const sqm__tok *t, sqm_error *err)
{
    const sqm__tok_cell *cells = (const sqm__tok_cell *)t->array[SQM__A_INDEX];
    const sqm__tok_merge *merges = (const sqm__tok_merge *)t->array[SQM__A_MERGES];
    const uint32_t n = (uint32_t)t->h->n_tokens;
    for (uint32_t i = 0; i < t->count[SQM__A_INDEX]; i++) {
        if (cells[i].id >= n && cells[i].id != SQM__TOK_NONE)
            SQM__FAIL(err, SQM_E_FORMAT, i, "tokenizer: index cell %z holds id %z", (uint64_t)i,
                      (uint64_t)cells[i].id);
    }
    for (uint32_t i = 0; i < t->count[SQM__A_MERGES]; i++) {
        if (merges[i].left != SQM__TOK_NONE &&
            (merges[i].left >= n || merges[i].right >= n || merges[i].id >= n ||
             merges[i].rank == SQM__TOK_NONE))
            SQM__FAIL(err, SQM_E_FORMAT, i, "tokenizer: merge cell %z holds an id outside the %z tokens",
                      (uint64_t)i, (uint64_t)n);
    }
    if (t->h->index_probe > t->count[SQM__A_INDEX] || t->h->merge_probe > t->count[SQM__A_MERGES] ||
        t->h->index_probe > 4096 || t->h->merge_probe > 4096)
        SQM__FAIL(err, SQM_E_FORMAT, t->h->index_probe, "tokenizer: hash chains are too long");
    return SQM_OK;
}

static sqm_result sqm__tok_check_added(const sqm__tok *t, int list, sqm_error *err)
{
    const sqm__tok_added *added = (const sqm__tok_added *)t->array[list];
    const uint32_t n = t->count[list], *first = sqm__tok_u32(t, list + 1), strings = t->count[SQM__A_STRINGS];
    if (n == 0) return SQM_OK;
    if (t->count[list + 1] != 257)
        SQM__FAIL(err, SQM_E_FORMAT, n, "tokenizer: added tokens have no table of first bytes");
    for (uint32_t i = 0; i < 257; i++) {
        if (first[i] > n || (i && first[i] < first[i - 1]))
            SQM__FAIL(err, SQM_E_FORMAT, i, "tokenizer: first added token of byte %z", (uint64_t)i);
    }
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t strip = SQM__ADDED_LSTRIP | SQM__ADDED_RSTRIP;
        if (added[i].bytes == 0 || added[i].first > strings || added[i].bytes > strings - added[i].first ||
            !sqm__tok_ids_fit(&added[i].id, 1, 0, t->h->n_tokens) ||
            ((added[i].flags & strip) && t->h->space_class >= t->count[SQM__A_CLASSES]) ||
            ((added[i].flags & SQM__ADDED_WORD) && t->h->word_class >= t->count[SQM__A_CLASSES]))
            SQM__FAIL(err, SQM_E_FORMAT, i, "tokenizer: added token %z", (uint64_t)i);
    }
    return SQM_OK;
}

/* Cells first .. first + n of a list of tries are one trie: no child lies outside. */
static int sqm__trie_fits(const sqm__tok *t, int list, uint32_t first, uint32_t n)
{
    const sqm__trie_cell *cells = (const sqm__trie_cell *)t->array[list] + first;
    if (n < 1 || first > t->count[list] || n > t->count[list] - first) return 0;
    for (uint32_t i = 0; i < n; i++) {
        if ((cells[i].link >> 9) + 255u >= n && cells[i].link >> 9) return 0;
    }
    return n >= 256;
}

/* The tables of kinds 4 to 6. */
static sqm_result sqm__tok_check_trie(const sqm__tok *t, sqm_error *err)
{
    const uint32_t n = (uint32_t)t->h->n_tokens, kind = t->h->kind, n_cells = t->count[SQM__A_TRIE];
    const sqm__trie_cell *cells = (const sqm__trie_cell *)t->array[SQM__A_TRIE];
    if (kind < SQM__TOK_WORDPIECE) return SQM_OK;
    if (!sqm__trie_fits(t, SQM__A_TRIE, 0, n_cells))
        SQM__FAIL(err, SQM_E_FORMAT, n_cells, "tokenizer: the trie of the tokens (%z cells) is damaged",
                  (uint64_t)n_cells);
    for (uint32_t i = 0; i < n_cells; i++) {
        if (cells[i].value >= n && cells[i].value != SQM__TOK_NONE)
            SQM__FAIL(err, SQM_E_FORMAT, i, "tokenizer: trie cell %z holds an id outside the %z tokens",
                      (uint64_t)i, (uint64_t)n);
    }
    if (kind == SQM__TOK_UNIGRAM && t->count[SQM__A_SCORES] != n + 1)
        SQM__FAIL(err, SQM_E_FORMAT, t->count[SQM__A_SCORES], "tokenizer: %z scores for %z tokens",
                  (uint64_t)t->count[SQM__A_SCORES], (uint64_t)n);
    if (kind == SQM__TOK_WORDPIECE && (t->count[SQM__A_WORDS] != 2 ||
                                       (sqm__tok_u32(t, SQM__A_WORDS)[0] >= n_cells &&
                                        sqm__tok_u32(t, SQM__A_WORDS)[0] != SQM__TOK_NONE)))
        SQM__FAIL(err, SQM_E_FORMAT, n_cells, "tokenizer: the trie of tokens inside words is missing");
    return SQM_OK;
}

static int sqm__tok_string_fits(const sqm__tok *t, uint32_t first, uint32_t bytes)
{
    return first <= t->count[SQM__A_STRINGS] && bytes <= t->count[SQM__A_STRINGS] - first;
}

static sqm_result sqm__tok_check_program(const sqm__tok *t, uint32_t first, uint32_t n, sqm_error *err)
{
    const sqm__regex_op *ops = (const sqm__regex_op *)t->array[SQM__A_PROGRAM];
    if (n == 0 || first > t->count[SQM__A_PROGRAM] || n > t->count[SQM__A_PROGRAM] - first)
        SQM__FAIL(err, SQM_E_FORMAT, first, "tokenizer: regular expression outside the program");
    if (ops[first + n - 1].op != SQM__RE_MATCH)
        SQM__FAIL(err, SQM_E_FORMAT, first, "tokenizer: a regular expression does not end");
    for (uint32_t i = first; i < first + n; i++) {
        const uint32_t op = ops[i].op, a = ops[i].a;
        const int uses_class = op == SQM__RE_CLASS || op == SQM__RE_LOOP || op == SQM__RE_LOOP_ALL ||
                               op == SQM__RE_EDGE || op == SQM__RE_NO_EDGE;
        const int jumps = op == SQM__RE_JUMP || op == SQM__RE_SPLIT || op == SQM__RE_SPLIT_FIRST ||
                          op == SQM__RE_LOOK || op == SQM__RE_LOOK_NOT;
        if (op >= SQM__RE_COUNT)
            SQM__FAIL(err, SQM_E_UNSUPPORTED, op, "tokenizer: regular expression op %z is not known",
                      (uint64_t)op);
        if ((uses_class && a >= t->count[SQM__A_CLASSES]) || (jumps && a >= n) ||
            (op == SQM__RE_SPLIT_FIRST && ops[i].b >= t->count[SQM__A_FIRSTS]))
            SQM__FAIL(err, SQM_E_FORMAT, i, "tokenizer: regular expression op %z points nowhere",
                      (uint64_t)i);
    }
    return SQM_OK;
}

/* A map: its trie, and for each of its texts the replacement. */
static int sqm__tok_map_fits(const sqm__tok *t, const sqm__tok_step *s)
{
    const uint32_t n_strings = t->count[SQM__A_STRINGS];
    const sqm__trie_cell *cells = (const sqm__trie_cell *)t->array[SQM__A_MAPS];
    if (!sqm__trie_fits(t, SQM__A_MAPS, s->a, s->a_bytes) || s->b > 0xffff) return 0;
    for (uint32_t i = s->a; i < s->a + s->a_bytes; i++) {
        const uint32_t v = cells[i].value;
        if (v != SQM__TOK_NONE && (v >= n_strings || sqm__tok_u8(t, SQM__A_STRINGS)[v] > n_strings - v - 1))
            return 0;
    }
    return 1;
}

static sqm_result sqm__tok_check_normalizer(const sqm__tok *t, int list, uint32_t i, sqm_error *err)
{
    const sqm__tok_step *s = sqm__tok_steps(t, list) + i;
    const uint32_t n_classes = t->count[SQM__A_CLASSES];
    int ok = sqm__tok_string_fits(t, s->a, s->a_bytes) && i < 16;
    switch (s->kind) {
    case SQM__NORM_PREPEND:
    case SQM__NORM_NFC: break;
    case SQM__NORM_REPLACE: ok = ok && sqm__tok_string_fits(t, s->b, s->b_bytes) && s->a_bytes > 0; break;
    case SQM__NORM_STRIP: ok = ok && (s->b_bytes ? s->b : t->h->space_class) < n_classes; break;
    case SQM__NORM_CLASS: ok = ok && s->b < n_classes && s->flags <= 2; break;
    case SQM__NORM_MAP: ok = i < 16 && s->flags <= 1 && sqm__tok_map_fits(t, s); break;
    case SQM__NORM_REGEX: SQM__TRY(sqm__tok_check_program(t, s->b, s->b_bytes, err)); break;
    default:
        SQM__FAIL(err, SQM_E_UNSUPPORTED, s->kind, "tokenizer: normalizer %z is not known",
                  (uint64_t)s->kind);
    }
    if (!ok) SQM__FAIL(err, SQM_E_FORMAT, i, "tokenizer: normalizer %z is damaged", (uint64_t)i);
    return SQM_OK;
}

static sqm_result sqm__tok_check_steps(const sqm__tok *t, sqm_error *err)
{
    const sqm__tok_step *split = sqm__tok_steps(t, SQM__A_SPLITS);
    const sqm__tok_step *decode = sqm__tok_steps(t, SQM__A_DECODERS);
    for (uint32_t i = 0; i < t->count[SQM__A_NORMALIZERS]; i++)
        SQM__TRY(sqm__tok_check_normalizer(t, SQM__A_NORMALIZERS, i, err));
    for (uint32_t i = 0; i < t->count[SQM__A_LATE]; i++)
        SQM__TRY(sqm__tok_check_normalizer(t, SQM__A_LATE, i, err));
    if (t->count[SQM__A_SPLITS] > SQM__MAX_SPLITS)
        SQM__FAIL(err, SQM_E_LIMIT, t->count[SQM__A_SPLITS], "tokenizer: %z split steps, at most %d",
                  (uint64_t)t->count[SQM__A_SPLITS], (int32_t)SQM__MAX_SPLITS);
    for (uint32_t i = 0; i < t->count[SQM__A_SPLITS]; i++) {
        const uint32_t behaviour = split[i].flags & ~(uint32_t)SQM__SPLIT_INVERT;
        if ((split[i].kind != SQM__SPLIT_REGEX && split[i].kind != SQM__SPLIT_SPACES) ||
            behaviour > SQM__SPLIT_CONTIGUOUS)
            SQM__FAIL(err, SQM_E_UNSUPPORTED, split[i].kind,
                      "tokenizer: split step %z with flags %z is not known",
                      (uint64_t)split[i].kind, (uint64_t)split[i].flags);
        if (split[i].kind == SQM__SPLIT_REGEX)
            SQM__TRY(sqm__tok_check_program(t, split[i].a, split[i].a_bytes, err));
        else if (!sqm__tok_string_fits(t, split[i].a, split[i].a_bytes))
            SQM__FAIL(err, SQM_E_FORMAT, i, "tokenizer: split step %z is damaged", (uint64_t)i);
    }
    for (uint32_t i = 0; i < t->count[SQM__A_DECODERS]; i++) {
        if (decode[i].kind < SQM__DECODE_STRIP || decode[i].kind > SQM__DECODE_INSIDE || i >= 4)
            SQM__FAIL(err, SQM_E_UNSUPPORTED, decode[i].kind, "tokenizer: decoder %z is not known",
                      (uint64_t)decode[i].kind);
        if (decode[i].kind == SQM__DECODE_INSIDE && !sqm__tok_string_fits(t, decode[i].a, decode[i].a_bytes))
            SQM__FAIL(err, SQM_E_FORMAT, i, "tokenizer: decoder %z is damaged", (uint64_t)i);
    }
    return SQM_OK;
}

static sqm_result sqm__tok_check_unicode(const sqm__tok *t, sqm_error *err)
{
    const sqm__char_class *classes = sqm__tok_class(t, 0);
    const uint16_t *blocks = (const uint16_t *)t->array[SQM__A_BLOCKS];
    const uint16_t *compositions = (const uint16_t *)t->array[SQM__A_COMPOSITIONS];
    for (uint32_t i = 0; i < t->count[SQM__A_CLASSES]; i++) {
        if (classes[i].first_toggle > t->count[SQM__A_TOGGLES] ||
            classes[i].n_toggles > t->count[SQM__A_TOGGLES] - classes[i].first_toggle)
            SQM__FAIL(err, SQM_E_FORMAT, i, "tokenizer: ranges of character class %z", (uint64_t)i);
    }
    for (uint32_t i = 0; i < t->count[SQM__A_BLOCKS]; i++) {
        if (blocks[i] >= t->count[SQM__A_RUNS])
            SQM__FAIL(err, SQM_E_FORMAT, i, "tokenizer: category block %z", (uint64_t)i);
    }
    for (uint32_t i = 0; i < t->count[SQM__A_COMPOSITIONS]; i++) {
        if (compositions[i] >= t->count[SQM__A_DECOMPOSED])
            SQM__FAIL(err, SQM_E_FORMAT, i, "tokenizer: composition %z", (uint64_t)i);
    }
    return SQM_OK;
}

/* Fills *t with a view of the blob (4-byte aligned, stays in place). */
static sqm_result sqm__tok_open(sqm__tok *t, const uint8_t *blob, size_t bytes, sqm_error *err)
{
    memset(t, 0, sizeof(*t));
    if ((uintptr_t)blob % 4)
        SQM__FAIL(err, SQM_E_ARGUMENT, 0, "tokenizer: the blob is not aligned to 4 bytes");
    if (bytes < sizeof(sqm__tok_header) || bytes > SQM__TOK_NONE)
        SQM__FAIL(err, SQM_E_FORMAT, bytes, "tokenizer: a blob of %z bytes", (uint64_t)bytes);
    t->blob = blob;
    t->h = (const sqm__tok_header *)(const void *)blob;
    if (t->h->version != SQM__TOK_VERSION)
        SQM__FAIL(err, SQM_E_VERSION, t->h->version, "tokenizer: layout %z, this build knows %d",
                  (uint64_t)t->h->version, (int32_t)SQM__TOK_VERSION);
    if (t->h->kind < SQM__TOK_BYTES || t->h->kind > SQM__TOK_LONGEST)
        SQM__FAIL(err, SQM_E_UNSUPPORTED, t->h->kind, "tokenizer: model kind %z is not supported",
                  (uint64_t)t->h->kind);
    if (t->h->n_tokens < 1 || t->h->n_tokens > 0x0fffffff || t->h->regex_frames > 65536)
        SQM__FAIL(err, SQM_E_FORMAT, t->h->n_tokens, "tokenizer: %d tokens, %z regular expression frames",
                  t->h->n_tokens, (uint64_t)t->h->regex_frames);
    SQM__TRY(sqm__tok_arrays(t, bytes, err));
    SQM__TRY(sqm__tok_check_tokens(t, err));
    SQM__TRY(sqm__tok_check_hashes(t, err));
    SQM__TRY(sqm__tok_check_trie(t, err));
    SQM__TRY(sqm__tok_check_added(t, SQM__A_ADDED, err));
    SQM__TRY(sqm__tok_check_added(t, SQM__A_NORMAL, err));
    SQM__TRY(sqm__tok_check_steps(t, err));
    return sqm__tok_check_unicode(t, err);
}

/* ---- characters ---------------------------------------------------------------------------------------- */
/* Length of the character at p < end and its code point; an invalid byte counts as 0x110000 + byte. */
static uint32_t sqm__utf8_next(const uint8_t *p, const uint8_t *end, uint32_t *code)
{
    const size_t room = (size_t)(end - p);
    const uint32_t a = p[0];
    *code = a < 0x80 ? a : 0x110000u + a;
    if (a < 0xc2 || a > 0xf4 || room < 2 || (p[1] & 0xc0) != 0x80) return 1;
    if (a < 0xe0) {
        *code = (a & 0x1f) << 6 | (p[1] & 0x3fu);
        return 2;
    }
    if (room < 3 || (p[2] & 0xc0) != 0x80) return 1;
    if (a < 0xf0) {
        if ((a == 0xe0 && p[1] < 0xa0) || (a == 0xed && p[1] > 0x9f)) return 1;
        *code = (a & 0x0f) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
        return 3;
    }
    if (room < 4 || (p[3] & 0xc0) != 0x80 || (a == 0xf0 && p[1] < 0x90) || (a == 0xf4 && p[1] > 0x8f))
        return 1;
    *code = (a & 0x07) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
    return 4;
}

/* Length of the character that ends at `at`, in the division that sqm__utf8_next makes from `first` on. */
static uint32_t sqm__utf8_before(const uint8_t *text, uint32_t first, uint32_t at)
{
    uint32_t code;
    if ((text[at - 1] & 0xc0) != 0x80) return 1;
    for (uint32_t n = 2; n <= 4 && n <= at - first; n++) {
        if ((text[at - n] & 0xc0) != 0x80)
            return sqm__utf8_next(text + at - n, text + at, &code) == n ? n : 1;
    }
    return 1;
}

static uint32_t sqm__utf8_put(uint8_t *dst, uint32_t c)
{
    if (c < 0x80 || c > 0x10ffff) { dst[0] = (uint8_t)(c & 255u); return 1; }
    if (c < 0x800) {
        dst[0] = (uint8_t)(0xc0 | c >> 6);
        dst[1] = (uint8_t)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        dst[0] = (uint8_t)(0xe0 | c >> 12);
        dst[1] = (uint8_t)(0x80 | (c >> 6 & 63));
        dst[2] = (uint8_t)(0x80 | (c & 63));
        return 3;
    }
    dst[0] = (uint8_t)(0xf0 | c >> 18);
    dst[1] = (uint8_t)(0x80 | (c >> 12 & 63));
    dst[2] = (uint8_t)(0x80 | (c >> 6 & 63));
    dst[3] = (uint8_t)(0x80 | (c & 63));
    return 4;
}

/* Index of the last of n sorted values that is <= v, in [low, n); low when there is none. */
static uint32_t sqm__last_not_above(const uint32_t *values, uint32_t low, uint32_t n, uint32_t v)
{
    while (low + 1 < n) {
        const uint32_t middle = low + (n - low) / 2;
        if (values[middle] <= v) low = middle; else n = middle;
    }
    return low;
}

static uint32_t sqm__category(const sqm__tok *t, uint32_t c)
{
    const uint32_t *runs = sqm__tok_u32(t, SQM__A_RUNS), n_blocks = t->count[SQM__A_BLOCKS], block = c >> 8;
    const uint16_t *blocks = (const uint16_t *)t->array[SQM__A_BLOCKS];
    uint32_t low = 0, end = t->count[SQM__A_RUNS], k;
    if (c > 0x10ffff || end == 0) return 21;           /* So, as the replacement character */
    if (block < n_blocks) low = blocks[block];
    else if (n_blocks) low = blocks[n_blocks - 1];
    if (block + 1 < n_blocks && blocks[block + 1] + 1u < end) end = blocks[block + 1] + 1u;
    k = runs[sqm__last_not_above(runs, low, end, c << 5 | 31)] & 31;
    if (k < 30) return k;
    return (c & 1) == (k & 1) ? 0 : 1;
}

static int sqm__in_ranges(const uint32_t *ranges, uint32_t n, uint32_t c)
{
    uint32_t low = 0, high = n;
    while (low < high) {                               /* the first range that ends after c */
        const uint32_t middle = low + (high - low) / 2;
        if (ranges[2 * middle + 1] <= c) low = middle + 1; else high = middle;
    }
    return low < n && ranges[2 * low] <= c;
}

static int sqm__class_has(const sqm__tok *t, const sqm__char_class *k, uint32_t c)
{
    int in;
    if (c < 128) return (int)(k->ascii[c >> 5] >> (c & 31) & 1);
    in = (int)(k->categories >> sqm__category(t, c) & 1);
    if (k->n_toggles && sqm__in_ranges(sqm__tok_u32(t, SQM__A_TOGGLES) + 2 * (size_t)k->first_toggle,
                                       k->n_toggles, c))
        in = !in;
    return in;
}

/* ---- one encoding: what all steps share ---------------------------------------------------------------- */
typedef struct sqm__regex_frame { uint32_t op, at, low; } sqm__regex_frame;

typedef struct sqm__tok_run {
    const sqm__tok   *t;
    uint32_t          flags;
    int32_t          *ids;
    int32_t           cap, n;                          /* n counts on when ids are full */
    uint8_t          *buffer[4];                       /* normalizers write from one to the other of two */
    uint32_t          buffer_bytes, which;
    uint32_t         *symbol, *rank, *merged, *previous, *next;                    /* [max_symbols] each */
    uint32_t          max_symbols;
    uint64_t         *heap;                            /* [max_codes]: merging, sums of scores, forms */
    uint32_t          max_codes;
    sqm__regex_frame *frames;                          /* [regex_frames] */
    uint64_t          steps;                           /* regular expression steps that are left */
    sqm_result        result;
    sqm_error        *err;
} sqm__tok_run;

SQM__INLINE void sqm__tok_emit(sqm__tok_run *r, int32_t id)
{
    if (r->n < r->cap) r->ids[r->n] = id;
    r->n++;
}

/* Bytes that a text of n bytes may have after a normalizer; more than SQM__TOK_MAX_TEXT: too many. The normal
   form of a text is at most three times as long (Unicode Standard Annex 15, stability tables). */
static size_t sqm__step_bound(const sqm__tok *t, const sqm__tok_step *s, size_t n)
{
    const uint32_t *ascii = sqm__tok_class(t, s->kind == SQM__NORM_CLASS ? s->b : 0)->ascii;
    uint64_t most = n;
    if (s->a_bytes > SQM__TOK_MAX_TEXT) return (size_t)SQM__TOK_MAX_TEXT + 1;
    switch (s->kind) {
    case SQM__NORM_PREPEND: most += s->a_bytes; break;
    case SQM__NORM_NFC: most *= 3; break;
    case SQM__NORM_REPLACE:
        if (s->b_bytes > s->a_bytes) most *= s->b_bytes / s->a_bytes + (s->b_bytes % s->a_bytes != 0);
        break;
    case SQM__NORM_CLASS:                              /* put around characters of at least two bytes: n */
        if (s->flags != 1) most *= s->a_bytes > 1 ? s->a_bytes : 1;
        else most *= ascii[0] | ascii[1] | ascii[2] | ascii[3] ? 1 + 2 * s->a_bytes : 1 + s->a_bytes;
        break;
    case SQM__NORM_MAP: if (s->b > 16) most = (most * s->b + 15) / 16; break;
    case SQM__NORM_REGEX: most *= s->a_bytes > 1 ? s->a_bytes : 1; break;
    default: break;
    }
    return most > SQM__TOK_MAX_TEXT ? (size_t)SQM__TOK_MAX_TEXT + 1 : (size_t)most;
}

/* Bytes that a text of n bytes may have between normalizers; 0: more than can be handled. */
static size_t sqm__tok_bound(const sqm__tok *t, size_t n, int *has_forms)
{
    const uint32_t early = t->count[SQM__A_NORMALIZERS], all = early + t->count[SQM__A_LATE];
    size_t most = n;
    for (uint32_t i = 0; i < all && n <= SQM__TOK_MAX_TEXT; i++) {
        const sqm__tok_step *s = i < early ? sqm__tok_steps(t, SQM__A_NORMALIZERS) + i
                                           : sqm__tok_steps(t, SQM__A_LATE) + (i - early);
        if (s->kind == SQM__NORM_NFC) *has_forms = 1;
        n = sqm__step_bound(t, s, n);
        if (n > most) most = n;
    }
    return most > SQM__TOK_MAX_TEXT ? 0 : most;
}

/* Lays the work space out for a text of `bytes` bytes; with a counting arena it is its size. Merging needs
   all arrays; scores need the heap (sums), symbol (ids), previous (where tokens begin), rank (the result). */
static int sqm__tok_layout(sqm__tok_run *r, const sqm__tok *t, size_t bytes, sqm__arena *a)
{
    int has_forms = 0;
    const size_t bound = sqm__tok_bound(t, bytes, &has_forms), late = t->count[SQM__A_LATE];
    const size_t normalizers = t->count[SQM__A_NORMALIZERS] + (t->count[SQM__A_NORMAL] ? 0 : late);
    const int scores = t->h->kind == SQM__TOK_UNIGRAM;
    const size_t symbols = t->count[SQM__A_MERGES] || scores ? bound + 1 : 0, merges = scores ? 0 : symbols;
    const size_t heap = merges ? 2 * bound + 64 : has_forms ? bound + 64 : symbols;
    if ((bytes && !bound) || bound > (size_t)-1 / 64) return 0;
    r->buffer_bytes = (uint32_t)bound;
    r->max_symbols = (uint32_t)symbols;
    r->max_codes = (uint32_t)(heap < 0x7fffffff ? heap : 0x7fffffff);
    r->heap = (uint64_t *)sqm__arena_push(a, heap * 8, 8);
    r->symbol = (uint32_t *)sqm__arena_push(a, symbols * 4, 4);
    r->rank = (uint32_t *)sqm__arena_push(a, symbols * 4, 4);
    r->merged = (uint32_t *)sqm__arena_push(a, merges * 4, 4);
    r->previous = (uint32_t *)sqm__arena_push(a, symbols * 4, 4);
    r->next = (uint32_t *)sqm__arena_push(a, merges * 4, 4);
    r->frames = (sqm__regex_frame *)sqm__arena_push(a, t->h->regex_frames * sizeof(sqm__regex_frame), 4);
    r->buffer[0] = (uint8_t *)sqm__arena_push(a, normalizers > 0 ? bound : 0, 1);
    r->buffer[1] = (uint8_t *)sqm__arena_push(a, normalizers > 1 ? bound : 0, 1);
    r->buffer[2] = (uint8_t *)sqm__arena_push(a, t->count[SQM__A_NORMAL] && late > 0 ? bound : 0, 1);
    r->buffer[3] = (uint8_t *)sqm__arena_push(a, t->count[SQM__A_NORMAL] && late > 1 ? bound : 0, 1);
    return !a->full;
}

/* ---- regular expressions ------------------------------------------------------------------------------- */
enum { SQM__FRAME_PLAIN = -1, SQM__FRAME_LOOK = -2, SQM__FRAME_LOOK_NOT = -3, SQM__FRAME_ATOMIC = -4 };

typedef struct sqm__regex {           /* a match attempt inside text[begin, end) */
    sqm__tok_run         *r;
    const sqm__regex_op  *ops;
    const uint8_t        *text;
    uint32_t              begin, end, at, op, n_frames;
} sqm__regex;

SQM__INLINE uint32_t sqm__regex_one(const sqm__regex *x, const sqm__char_class *k, uint32_t at)
{
    uint32_t c, n;
    if (at >= x->end) return 0;
    c = x->text[at];
    if (c < 128) return k->ascii[c >> 5] >> (c & 31) & 1;
    n = sqm__utf8_next(x->text + at, x->text + x->end, &c);
    return sqm__class_has(x->r->t, k, c) ? n : 0;
}

/* low: how far a greedy loop can give back, or SQM__FRAME_*. */
static int sqm__regex_push(sqm__regex *x, uint32_t op, uint32_t low)
{
    sqm__regex_frame *f;
    if (x->n_frames >= x->r->t->h->regex_frames) {
        x->r->result = sqm__fail(x->r->err, SQM_E_LIMIT, __LINE__, x->at,
                                 "tokenizer: the regular expression needs more than %z frames at byte %z",
                                 (uint64_t)x->n_frames, (uint64_t)x->at);
        return 0;
    }
    f = &x->r->frames[x->n_frames++];
    f->op = op;
    f->at = x->at;
    f->low = low;
    return 1;
}

/* Goes back to the latest choice that has another way; 0: there is none. */
static int sqm__regex_back(sqm__regex *x)
{
    while (x->n_frames) {
        sqm__regex_frame *f = &x->r->frames[x->n_frames - 1];
        const int32_t kind = (int32_t)f->low;
        if (kind >= 0) {                               /* a greedy loop gives back one character */
            f->at -= sqm__utf8_before(x->text, f->low, f->at);
            x->at = f->at;
            x->op = f->op;
            if (f->at <= f->low) x->n_frames--;
            return 1;
        }
        x->n_frames--;
        if (kind == SQM__FRAME_PLAIN) {
            x->at = f->at;
            x->op = f->op;
            return 1;
        }
        if (kind == SQM__FRAME_LOOK_NOT) {             /* what must not match did not */
            x->at = f->at;
            x->op = x->ops[f->op].a;
            return 1;
        }
    }
    return 0;
}

static int sqm__regex_loop(sqm__regex *x, const sqm__regex_op *o)
{
    const sqm__char_class *k = sqm__tok_class(x->r->t, o->a);
    uint32_t n = 0, low = x->at, at = x->at;
    while (n < o->c) {
        const uint32_t bytes = sqm__regex_one(x, k, at);
        if (!bytes) break;
        at += bytes;
        if (++n == o->b) low = at;
    }
    if (n < o->b) return 0;
    x->r->steps = x->r->steps > n ? x->r->steps - n : 0;
    x->at = at;
    x->op++;
    return o->op == SQM__RE_LOOP_ALL || at == low || sqm__regex_push(x, x->op, low);
}

/* Drops the frames down to the latest look-ahead (or atomic group); 0: it was a negative one, or damage. */
static int sqm__regex_close(sqm__regex *x, int atomic)
{
    while (x->n_frames) {
        const sqm__regex_frame *f = &x->r->frames[--x->n_frames];
        const int32_t kind = (int32_t)f->low;
        if (atomic && kind == SQM__FRAME_ATOMIC) { x->op++; return 1; }
        if (atomic || (kind != SQM__FRAME_LOOK && kind != SQM__FRAME_LOOK_NOT)) continue;
        if (kind == SQM__FRAME_LOOK_NOT) return 0;
        x->at = f->at;
        x->op = x->ops[f->op].a;
        return 1;
    }
    return 0;
}

static int sqm__regex_assert(const sqm__regex *x, const sqm__regex_op *o)
{
    const sqm__char_class *k = sqm__tok_class(x->r->t, o->a);
    int before, after;
    switch (o->op) {
    case SQM__RE_BEGIN:      return x->at == x->begin;
    case SQM__RE_END:        return x->at == x->end;
    case SQM__RE_LINE_BEGIN: return x->at == x->begin || x->text[x->at - 1] == '\n';
    case SQM__RE_LINE_END:   return x->at == x->end || x->text[x->at] == '\n';
    default:
        before = x->at > x->begin && sqm__regex_one(x, k, x->at - sqm__utf8_before(x->text, x->begin, x->at));
        after = sqm__regex_one(x, k, x->at) != 0;
        return (before != after) == (o->op == SQM__RE_EDGE);
    }
}

/* Is the next byte one of the set of first bytes? */
SQM__INLINE int sqm__regex_may_begin(const sqm__regex *x, uint32_t set)
{
    const uint32_t *bits = sqm__tok_u32(x->r->t, SQM__A_FIRSTS) + 8 * (size_t)set;
    return x->at < x->end && (bits[x->text[x->at] >> 5] >> (x->text[x->at] & 31) & 1);
}

/* End of the match that begins at `at`; `at` itself when there is none (an empty match is none). */
static uint32_t sqm__regex_match(sqm__regex *x, uint32_t at)
{
    const uint32_t start = at;
    x->at = at;
    x->op = 0;
    x->n_frames = 0;
    while (x->r->result == SQM_OK) {
        const sqm__regex_op *o = &x->ops[x->op];
        int ok = 1;
        uint32_t n;
        if (x->r->steps == 0) {
            x->r->result = sqm__fail(x->r->err, SQM_E_LIMIT, __LINE__, start,
                                     "tokenizer: the regular expression takes too many steps at byte %z",
                                     (uint64_t)start);
            break;
        }
        x->r->steps--;
        switch (o->op) {
        case SQM__RE_MATCH: return x->at;
        case SQM__RE_CLASS:
            n = sqm__regex_one(x, sqm__tok_class(x->r->t, o->a), x->at);
            x->at += n;
            x->op++;
            ok = n != 0;
            break;
        case SQM__RE_LOOP:
        case SQM__RE_LOOP_ALL: ok = sqm__regex_loop(x, o); break;
        case SQM__RE_JUMP: x->op = o->a; break;
        case SQM__RE_SPLIT_FIRST:
            if (!sqm__regex_may_begin(x, o->b)) {
                x->op = o->a;
                break;
            }
            /* fall through */
        case SQM__RE_SPLIT: ok = sqm__regex_push(x, o->a, (uint32_t)SQM__FRAME_PLAIN); x->op++; break;
        case SQM__RE_LOOK: ok = sqm__regex_push(x, x->op, (uint32_t)SQM__FRAME_LOOK); x->op++; break;
        case SQM__RE_LOOK_NOT: ok = sqm__regex_push(x, x->op, (uint32_t)SQM__FRAME_LOOK_NOT); x->op++; break;
        case SQM__RE_LOOK_END: ok = sqm__regex_close(x, 0); break;
        case SQM__RE_ATOMIC: ok = sqm__regex_push(x, x->op, (uint32_t)SQM__FRAME_ATOMIC); x->op++; break;
        case SQM__RE_ATOMIC_END: ok = sqm__regex_close(x, 1); break;
        default: ok = sqm__regex_assert(x, o); x->op++; break;
        }
        if (!ok && (x->r->result != SQM_OK || !sqm__regex_back(x))) break;
    }
    return start;
}

/* ---- splits: each step cuts the pieces of the step before it ------------------------------------------- */
typedef struct sqm__span { uint32_t begin, end; int32_t match; } sqm__span;

typedef struct sqm__splitter {
    const sqm__tok_step *step;
    uint32_t             begin, at, end;               /* the piece it cuts, and how far it is */
    sqm__span            ahead[2];                     /* found, not handed out yet: the last comes first */
    int32_t              n_ahead;
} sqm__splitter;

/* The next stretch that is a match, or lies between matches; 0: the piece is used up. */
static int sqm__next_span(sqm__tok_run *r, const uint8_t *text, sqm__splitter *s, sqm__span *span)
{
    sqm__regex x;
    uint32_t code, at = s->at, end = at;
    if (s->n_ahead) { *span = s->ahead[--s->n_ahead]; return 1; }
    if (s->at >= s->end) return 0;
    memset(&x, 0, sizeof(x));
    x.r = r;
    x.ops = (const sqm__regex_op *)r->t->array[SQM__A_PROGRAM] + s->step->a;
    x.text = text;
    x.begin = s->begin;
    x.end = s->end;
    while (at < s->end && r->result == SQM_OK) {
        end = sqm__regex_match(&x, at);
        if (end > at) break;
        at += sqm__utf8_next(text + at, text + s->end, &code);
    }
    if (r->result != SQM_OK) return 0;
    span->match = (s->step->flags & SQM__SPLIT_INVERT) == 0;
    span->begin = at;
    span->end = end;
    if (at > s->at) {                                  /* a gap comes first */
        if (at < s->end) s->ahead[s->n_ahead++] = *span;
        span->match = !span->match;
        span->begin = s->at;
        span->end = at;
    }
    s->at = at < s->end ? end : s->end;
    return 1;
}

/* The next piece of a regular expression step, by its behaviour. */
static int sqm__next_match(sqm__tok_run *r, const uint8_t *text, sqm__splitter *s, sqm__span *piece)
{
    const uint32_t behaviour = s->step->flags & ~(uint32_t)SQM__SPLIT_INVERT;
    sqm__span more;
    do {
        if (!sqm__next_span(r, text, s, piece)) return 0;
    } while (behaviour == SQM__SPLIT_REMOVED && piece->match);
    if (behaviour <= SQM__SPLIT_REMOVED) return 1;
    while (sqm__next_span(r, text, s, &more)) {
        const int joins = behaviour == SQM__SPLIT_CONTIGUOUS ? more.match == piece->match
                        : behaviour == SQM__SPLIT_WITH_PREVIOUS ? more.match && !piece->match
                                                                : !more.match && piece->match;
        if (!joins) { s->ahead[s->n_ahead++] = more; break; }
        piece->end = more.end;
        if (behaviour != SQM__SPLIT_CONTIGUOUS) break;
    }
    return r->result == SQM_OK;
}

/* The next piece of a step that cuts before spaces. */
static int sqm__next_word(const sqm__tok *t, const uint8_t *text, sqm__splitter *s, sqm__span *piece)
{
    const uint8_t *except = sqm__tok_u8(t, SQM__A_STRINGS) + s->step->a;
    uint32_t at = s->at;
    if (at >= s->end) return 0;
    piece->begin = at;
    for (at++; at < s->end; at++) {
        if (text[at] != ' ' || text[at - 1] == ' ') continue;
        if (s->step->a_bytes && memchr(except, text[at - 1], s->step->a_bytes)) continue;
        break;
    }
    piece->end = s->at = at;
    return 1;
}

/* ---- merging ------------------------------------------------------------------------------------------- */
static uint32_t sqm__tok_hash(const uint8_t *p, uint32_t n)
{
    uint32_t h = n * 0x9e3779b1u;
    for (; n >= 4; n -= 4, p += 4) {
        h = (h ^ sqm__load_u32(p)) * 0x85ebca6bu;
        h ^= h >> 15;
    }
    if (n) h = (h ^ (p[0] | (uint32_t)p[n >> 1] << 8 | (uint32_t)p[n - 1] << 16)) * 0x85ebca6bu;
    h = (h ^ h >> 16) * 0xc2b2ae35u;
    return h ^ h >> 13;
}

SQM__INLINE uint32_t sqm__pair_hash(uint32_t left, uint32_t right)
{
    uint32_t h = (left * 0x9e3779b1u) ^ (right * 0x85ebca77u);
    h = (h ^ h >> 15) * 0xc2b2ae35u;
    return h ^ h >> 13;
}

/* Id of the token with this text and (attributes & mask) == want, or -1. */
static int32_t sqm__tok_lookup(const sqm__tok *t, const uint8_t *text, uint32_t n, uint32_t mask,
                               uint32_t want)
{
    const sqm__tok_cell *cells = (const sqm__tok_cell *)t->array[SQM__A_INDEX];
    const uint32_t *offsets = sqm__tok_u32(t, SQM__A_OFFSETS), n_cells = t->count[SQM__A_INDEX];
    const uint32_t hash = sqm__tok_hash(text, n);
    uint32_t cell = (uint32_t)((uint64_t)hash * n_cells >> 32);
    for (uint32_t i = 0; i < t->h->index_probe && cells[cell].id != SQM__TOK_NONE; i++) {
        const uint32_t id = cells[cell].id;
        if (cells[cell].hash == hash && offsets[id + 1] - offsets[id] == n &&
            (sqm__tok_u8(t, SQM__A_ATTRIBUTES)[id] & mask) == want &&
            memcmp(sqm__tok_u8(t, SQM__A_TEXT) + offsets[id], text, n) == 0)
            return (int32_t)id;
        if (++cell == n_cells) cell = 0;
    }
    return -1;
}

/* Rank of the merge of two neighbours and the token it gives; SQM__TOK_NONE: they do not merge. */
SQM__INLINE uint32_t sqm__tok_pair(const sqm__tok *t, uint32_t left, uint32_t right, uint32_t *merged)
{
    const sqm__tok_merge *cells = (const sqm__tok_merge *)t->array[SQM__A_MERGES];
    const uint32_t n_cells = t->count[SQM__A_MERGES];
    uint32_t cell = (uint32_t)((uint64_t)sqm__pair_hash(left, right) * n_cells >> 32);
    for (uint32_t i = 0; i < t->h->merge_probe && cells[cell].left != SQM__TOK_NONE; i++) {
        if (cells[cell].left == left && cells[cell].right == right) {
            *merged = cells[cell].id;
            return cells[cell].rank;
        }
        if (++cell == n_cells) cell = 0;
    }
    *merged = 0;
    return SQM__TOK_NONE;
}

/* Byte fallback: is there a token for each byte of a character? */
static int sqm__has_bytes(const sqm__tok *t, const uint8_t *text, uint32_t n)
{
    if (!t->count[SQM__A_BYTES]) return 0;
    for (uint32_t k = 0; k < n; k++) {
        if (sqm__tok_i32(t, SQM__A_BYTES)[text[k]] < 0) return 0;
    }
    return 1;
}

/* The first symbols of text: characters or bytes. Returns how many; symbols NULL: they are emitted. */
static uint32_t sqm__first_symbols(sqm__tok_run *r, const uint8_t *text, uint32_t bytes, uint32_t *symbols)
{
    const sqm__tok *t = r->t;
    const int32_t *chars = sqm__tok_i32(t, SQM__A_CHARS), *fallback = sqm__tok_i32(t, SQM__A_BYTES);
    const int fuse = (t->h->flags & SQM__TOK_FUSE_UNK) != 0, by_char = t->h->kind == SQM__TOK_CHAR_BPE;
    uint32_t n = 0, length, code;
    int after_unk = 0;
    for (uint32_t at = 0; at < bytes; at += length) {
        int32_t id = chars[text[at]];
        length = 1;
        if (by_char && text[at] >= 128) {
            length = sqm__utf8_next(text + at, text + bytes, &code);
            id = code > 0x10ffff ? -1
                                 : sqm__tok_lookup(t, text + at, length, SQM__TOKEN_TYPE, SQM__TOKEN_NORMAL);
        }
        if (id < 0 && sqm__has_bytes(t, text + at, length)) {
            for (uint32_t k = 0; k < length; k++) {
                if (symbols) symbols[n++] = (uint32_t)fallback[text[at + k]];
                else sqm__tok_emit(r, fallback[text[at + k]]);
            }
            continue;
        }
        if (id < 0) {
            if (t->h->model_unk < 0 || (fuse && after_unk)) continue;
            id = t->h->model_unk;
            after_unk = 1;
        } else {
            after_unk = 0;
        }
        if (symbols) symbols[n++] = (uint32_t)id; else sqm__tok_emit(r, id);
    }
    return n;
}

/* Short pieces: the lowest rank is looked for from the left each time. Returns how many symbols remain. */
static uint32_t sqm__merge_few(const sqm__tok_run *r, uint32_t n)
{
    uint32_t *symbol = r->symbol, *rank = r->rank, *merged = r->merged;
    for (uint32_t i = 0; i + 1 < n; i++) rank[i] = sqm__tok_pair(r->t, symbol[i], symbol[i + 1], &merged[i]);
    while (n > 1) {
        uint32_t best = 0;
        for (uint32_t i = 1; i + 1 < n; i++) {
            if (rank[i] < rank[best]) best = i;
        }
        if (rank[best] == SQM__TOK_NONE) break;
        symbol[best] = merged[best];
        n--;
        for (uint32_t i = best + 1; i < n; i++) {
            symbol[i] = symbol[i + 1];
            rank[i] = rank[i + 1];
            merged[i] = merged[i + 1];
        }
        if (best + 1 < n) rank[best] = sqm__tok_pair(r->t, symbol[best], symbol[best + 1], &merged[best]);
        if (best > 0) rank[best - 1] = sqm__tok_pair(r->t, symbol[best - 1], symbol[best], &merged[best - 1]);
    }
    return n;
}

static void sqm__heap_push(uint64_t *heap, uint32_t n, uint64_t key)
{
    while (n > 0 && heap[(n - 1) / 2] > key) {
        heap[n] = heap[(n - 1) / 2];
        n = (n - 1) / 2;
    }
    heap[n] = key;
}

/* Removes heap[0] from n keys. */
static void sqm__heap_pop(uint64_t *heap, uint32_t n)
{
    const uint64_t key = heap[--n];
    uint32_t i = 0;
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= key) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = key;
}

/* Long pieces: a linked list and a heap of (rank, position). A key is stale when the pair at its position has
   another rank by now. Every merge takes one key and adds at most two, so 2 n are enough. */
static uint32_t sqm__merge_many(const sqm__tok_run *r, uint32_t n)
{
    uint32_t *symbol = r->symbol, *rank = r->rank, *merged = r->merged;
    uint32_t *previous = r->previous, *next = r->next;
    uint32_t n_heap = 0, left = 0;
    for (uint32_t i = 0; i < n; i++) {
        previous[i] = i - 1;                           /* of 0: SQM__TOK_NONE */
        next[i] = i + 1 < n ? i + 1 : SQM__TOK_NONE;
        rank[i] = i + 1 < n ? sqm__tok_pair(r->t, symbol[i], symbol[i + 1], &merged[i]) : SQM__TOK_NONE;
        if (rank[i] != SQM__TOK_NONE) sqm__heap_push(r->heap, n_heap++, (uint64_t)rank[i] << 32 | i);
    }
    while (n_heap) {
        const uint64_t key = r->heap[0];
        const uint32_t i = (uint32_t)(key & 0xffffffffu);
        uint32_t gone, at[2];
        sqm__heap_pop(r->heap, n_heap--);
        if (rank[i] != (uint32_t)(key >> 32)) continue;
        gone = next[i];
        symbol[i] = merged[i];
        next[i] = next[gone];
        if (next[i] != SQM__TOK_NONE) previous[next[i]] = i;
        rank[gone] = SQM__TOK_NONE;
        at[0] = i;
        at[1] = previous[i];
        for (int k = 0; k < 2; k++) {
            const uint32_t p = at[k];
            if (p == SQM__TOK_NONE) continue;
            rank[p] = SQM__TOK_NONE;
            if (next[p] != SQM__TOK_NONE)
                rank[p] = sqm__tok_pair(r->t, symbol[p], symbol[next[p]], &merged[p]);
            if (rank[p] != SQM__TOK_NONE) sqm__heap_push(r->heap, n_heap++, (uint64_t)rank[p] << 32 | p);
        }
    }
    for (uint32_t i = 0; n && i != SQM__TOK_NONE; i = next[i]) symbol[left++] = symbol[i];
    return left;
}

/* ---- tokens found by their texts ----------------------------------------------------------------------- */
/* The cell that byte c leads to, SQM__TOK_NONE: none. */
SQM__INLINE uint32_t sqm__trie_next(const sqm__trie_cell *cells, uint32_t at, uint32_t c)
{
    const uint32_t next = (cells[at].link >> 9) + c;
    return (cells[next].link & 511) == c ? next : SQM__TOK_NONE;
}

/* Value of the longest text of the trie, seen from `cell` on, that text[0, bytes) begins with, and its
   length; SQM__TOK_NONE: none. */
static uint32_t sqm__trie_longest(const sqm__trie_cell *cells, uint32_t cell, const uint8_t *text,
                                  uint32_t bytes, uint32_t *length)
{
    uint32_t best = SQM__TOK_NONE;
    for (uint32_t i = 0; i < bytes && cell != SQM__TOK_NONE; ) {
        cell = sqm__trie_next(cells, cell, text[i++]);
        if (cell == SQM__TOK_NONE || cells[cell].value == SQM__TOK_NONE) continue;
        best = cells[cell].value;
        *length = i;
    }
    return best;
}

static void sqm__tok_longest(sqm__tok_run *r, const uint8_t *text, uint32_t bytes)
{
    const sqm__trie_cell *cells = (const sqm__trie_cell *)r->t->array[SQM__A_TRIE];
    uint32_t length = 1, code;
    for (uint32_t at = 0; at < bytes; at += length) {
        int32_t id = (int32_t)sqm__trie_longest(cells, 0, text + at, bytes - at, &length);
        if (id < 0) {
            length = sqm__utf8_next(text + at, text + bytes, &code);
            id = r->t->h->model_unk;
        }
        if (id >= 0) sqm__tok_emit(r, id);
    }
}

/* A word that is too long, or that cannot be cut into tokens, becomes the unknown token as a whole. */
static void sqm__tok_word(sqm__tok_run *r, const uint8_t *text, uint32_t bytes)
{
    const sqm__trie_cell *cells = (const sqm__trie_cell *)r->t->array[SQM__A_TRIE];
    const uint32_t *words = sqm__tok_u32(r->t, SQM__A_WORDS);
    const int32_t before = r->n;
    uint32_t n_chars = 0, length = 0, code;
    for (uint32_t at = 0; at < bytes && bytes > words[1]; n_chars++)
        at += sqm__utf8_next(text + at, text + bytes, &code);
    for (uint32_t at = 0; at < bytes; at += length) {
        const uint32_t id = n_chars > words[1] ? SQM__TOK_NONE
                          : sqm__trie_longest(cells, at ? words[0] : 0, text + at, bytes - at, &length);
        if (id == SQM__TOK_NONE) {
            r->n = before;
            if (r->t->h->model_unk >= 0) sqm__tok_emit(r, r->t->h->model_unk);
            return;
        }
        sqm__tok_emit(r, (int32_t)id);
    }
}

/* ---- the cut with the best scores ---------------------------------------------------------------------- */
/* Goes on from the best cut of text[0, at) over all tokens that begin there. best[i], symbol[i], previous[i]:
   the best sum for text[0, i), its last token and where that begins (SQM__TOK_NONE: not reached yet). */
static void sqm__cut_from(sqm__tok_run *r, const uint8_t *text, uint32_t at, uint32_t bytes, uint32_t length)
{
    const sqm__trie_cell *cells = (const sqm__trie_cell *)r->t->array[SQM__A_TRIE];
    const uint8_t *scores = sqm__tok_u8(r->t, SQM__A_SCORES);
    const int is_float = (r->t->h->flags & SQM__TOK_FLOAT_SUMS) != 0;
    double *best = (double *)(void *)r->heap, score, sum;
    uint32_t cell = 0, has_char = 0;
    for (uint32_t end = at; ; ) {
        uint32_t id = SQM__TOK_NONE, unknown;
        if (end < bytes && cell != SQM__TOK_NONE) {
            cell = sqm__trie_next(cells, cell, text[end++]);
            if (cell == SQM__TOK_NONE || cells[cell].value == SQM__TOK_NONE) continue;
            id = cells[cell].value;
            has_char |= end - at == length;
        } else if (has_char) {
            return;
        }
        unknown = id == SQM__TOK_NONE;                 /* at last: the character that is no token */
        if (unknown) end = at + length;
        memcpy(&score, scores + 8 * (size_t)(unknown ? (uint32_t)r->t->h->n_tokens : id), 8);
        sum = best[at] + score;
        if (is_float) sum = (double)(float)sum;
        if (r->previous[end] == SQM__TOK_NONE || sum > best[end]) {
            best[end] = sum;
            r->symbol[end] = unknown ? (uint32_t)r->t->h->model_unk : id;
            r->previous[end] = at;
        }
        if (unknown) return;
    }
}

/* Neighbours without a token are one unknown token, or their bytes if there is a token for each of them. */
static void sqm__tok_cut(sqm__tok_run *r, const uint8_t *text, uint32_t bytes)
{
    const uint32_t unk = (uint32_t)r->t->h->model_unk;
    const int32_t *fallback = sqm__tok_i32(r->t, SQM__A_BYTES);
    uint32_t n = 0, code, length;
    for (uint32_t i = 0; i <= bytes; i++) r->previous[i] = SQM__TOK_NONE;
    ((double *)(void *)r->heap)[0] = 0.0;
    for (uint32_t at = 0; at < bytes; at += length) {
        length = sqm__utf8_next(text + at, text + bytes, &code);
        if (at == 0 || r->previous[at] != SQM__TOK_NONE) sqm__cut_from(r, text, at, bytes, length);
    }
    for (uint32_t end = bytes; end > 0; end = r->previous[end]) r->rank[n++] = end;
    while (n > 0) {
        uint32_t end = r->rank[--n], begin = r->previous[end];
        const uint32_t id = r->symbol[end];
        while (id == unk && n > 0 && r->symbol[r->rank[n - 1]] == unk) end = r->rank[--n];
        if (id == unk && sqm__has_bytes(r->t, text + begin, end - begin)) {
            for (; begin < end; begin++) sqm__tok_emit(r, fallback[text[begin]]);
        } else if (id != SQM__TOK_NONE) {
            sqm__tok_emit(r, (int32_t)id);
        }
    }
}

static void sqm__tok_piece(sqm__tok_run *r, const uint8_t *text, uint32_t bytes)
{
    uint32_t n;
    switch (r->t->h->kind) {
    case SQM__TOK_WORDPIECE: sqm__tok_word(r, text, bytes); return;
    case SQM__TOK_UNIGRAM: sqm__tok_cut(r, text, bytes); return;
    case SQM__TOK_LONGEST: sqm__tok_longest(r, text, bytes); return;
    default: break;
    }
    if (!r->max_symbols) { sqm__first_symbols(r, text, bytes, NULL); return; }
    if (bytes <= r->t->h->max_token_bytes) {
        const int32_t id = sqm__tok_lookup(r->t, text, bytes, SQM__TOKEN_WHOLE, SQM__TOKEN_WHOLE);
        if (id >= 0) { sqm__tok_emit(r, id); return; }
    }
    n = sqm__first_symbols(r, text, bytes, r->symbol);
    n = n <= 64 ? sqm__merge_few(r, n) : sqm__merge_many(r, n);
    for (uint32_t i = 0; i < n; i++) sqm__tok_emit(r, (int32_t)r->symbol[i]);
}

/* Cuts normalised text into pieces and encodes them. */
static void sqm__tok_pieces(sqm__tok_run *r, const uint8_t *text, uint32_t bytes)
{
    sqm__splitter levels[SQM__MAX_SPLITS];
    const uint32_t n = r->t->count[SQM__A_SPLITS];
    uint32_t level = 0;
    sqm__span piece;
    if (bytes == 0) return;
    if (n == 0) { sqm__tok_piece(r, text, bytes); return; }
    memset(levels, 0, sizeof(levels));
    levels[0].end = bytes;
    for (uint32_t i = 0; i < n; i++) levels[i].step = sqm__tok_steps(r->t, SQM__A_SPLITS) + i;
    while (r->result == SQM_OK) {
        sqm__splitter *s = &levels[level];
        const int more = s->step->kind == SQM__SPLIT_REGEX ? sqm__next_match(r, text, s, &piece)
                                                           : sqm__next_word(r->t, text, s, &piece);
        if (!more) {
            if (level == 0) return;
            level--;
        } else if (level + 1 < n) {
            s = &levels[++level];
            s->begin = s->at = piece.begin;
            s->end = piece.end;
            s->n_ahead = 0;
        } else {
            sqm__tok_piece(r, text + piece.begin, piece.end - piece.begin);
        }
    }
}

/* ---- normalizers --------------------------------------------------------------------------------------- */
static int sqm__tok_begins(const uint8_t *text, uint32_t bytes, const uint8_t *start, uint32_t n)
{
    return n <= bytes && memcmp(text, start, n) == 0;
}

static uint32_t sqm__norm_replace(uint8_t *dst, const uint8_t *text, uint32_t bytes, const uint8_t *a,
                                  uint32_t a_bytes, const uint8_t *b, uint32_t b_bytes)
{
    uint32_t n = 0, at = 0;
    while (at < bytes) {
        const uint8_t *hit = (const uint8_t *)memchr(text + at, a[0], bytes - at);
        const uint32_t plain = hit ? (uint32_t)(hit - text) - at : bytes - at;
        memcpy(dst + n, text + at, plain);
        n += plain;
        at += plain;
        if (!hit) break;
        if (sqm__tok_begins(hit, bytes - at, a, a_bytes)) {
            if (b_bytes) memcpy(dst + n, b, b_bytes);
            n += b_bytes;
            at += a_bytes;
        } else {
            dst[n++] = text[at++];
        }
    }
    return n;
}

static const uint8_t *sqm__norm_strip(const sqm__tok *t, const sqm__tok_step *s, const uint8_t *text,
                                      uint32_t *bytes)
{
    const sqm__char_class *space = sqm__tok_class(t, s->b_bytes ? s->b : t->h->space_class);
    const uint32_t flags = s->flags;
    uint32_t code, n;
    while ((flags & 1) && *bytes) {
        n = sqm__utf8_next(text, text + *bytes, &code);
        if (!sqm__class_has(t, space, code)) break;
        text += n;
        *bytes -= n;
    }
    while ((flags & 2) && *bytes) {
        n = sqm__utf8_before(text, 0, *bytes);
        sqm__utf8_next(text + *bytes - n, text + *bytes, &code);
        if (!sqm__class_has(t, space, code)) break;
        *bytes -= n;
    }
    return text;
}

/* ---- normalizers that look at characters --------------------------------------------------------------- */
typedef struct sqm__output { uint8_t *dst; uint32_t n, room; int full; } sqm__output;

SQM__INLINE void sqm__write(sqm__output *o, const uint8_t *text, uint32_t n)
{
    if (n > o->room - o->n) { o->full = 1; return; }
    memcpy(o->dst + o->n, text, n);
    o->n += n;
}

static void sqm__norm_class(const sqm__tok *t, const sqm__tok_step *s, sqm__output *o, const uint8_t *text,
                            uint32_t bytes)
{
    const sqm__char_class *k = sqm__tok_class(t, s->b);
    const uint8_t *with = sqm__tok_u8(t, SQM__A_STRINGS) + s->a;
    uint32_t copied = 0, code, length;
    int run = 0;
    for (uint32_t at = 0; at < bytes; at += length) {
        int in;
        code = text[at];
        length = code < 128 ? 1 : sqm__utf8_next(text + at, text + bytes, &code);
        in = sqm__class_has(t, k, code);
        if (in && s->flags == 2 && run) {
            copied = at + length;                      /* not the first of a run */
        } else if (in) {
            sqm__write(o, text + copied, at - copied);
            sqm__write(o, with, s->a_bytes);
            if (s->flags == 1) {
                sqm__write(o, text + at, length);
                sqm__write(o, with, s->a_bytes);
            }
            copied = at + length;
        }
        run = in;
    }
    sqm__write(o, text + copied, bytes - copied);
}

static void sqm__norm_regex(sqm__tok_run *r, const sqm__tok_step *s, sqm__output *o, const uint8_t *text,
                            uint32_t bytes)
{
    const uint8_t *with = sqm__tok_u8(r->t, SQM__A_STRINGS) + s->a;
    sqm__tok_step matches;
    sqm__splitter splitter;
    sqm__span span;
    memset(&matches, 0, sizeof(matches));
    memset(&splitter, 0, sizeof(splitter));
    matches.a = s->b;
    splitter.step = &matches;
    splitter.end = bytes;
    while (sqm__next_span(r, text, &splitter, &span)) {
        if (span.match) sqm__write(o, with, s->a_bytes);
        else sqm__write(o, text + span.begin, span.end - span.begin);
    }
}

/* ---- grapheme clusters (Unicode Standard Annex 29, without rule GB9c) ---------------------------------- */
enum { SQM__BREAK_OTHER, SQM__BREAK_CR, SQM__BREAK_LF, SQM__BREAK_CONTROL, SQM__BREAK_EXTEND, SQM__BREAK_ZWJ,
       SQM__BREAK_FLAG, SQM__BREAK_PREPEND, SQM__BREAK_SPACING, SQM__BREAK_L, SQM__BREAK_V, SQM__BREAK_T,
       SQM__BREAK_LV, SQM__BREAK_LVT, SQM__BREAK_PICTURE };

static uint32_t sqm__break_class(const sqm__tok *t, uint32_t c)
{
    const uint32_t *runs = sqm__tok_u32(t, SQM__A_BREAKS), n = t->count[SQM__A_BREAKS];
    if (c - 0xac00u < 11172u) return (c - 0xac00u) % 28 ? SQM__BREAK_LVT : SQM__BREAK_LV;
    if (c > 0x10ffff || n == 0 || runs[0] >> 4 > c) return SQM__BREAK_OTHER;
    return runs[sqm__last_not_above(runs, 0, n, c << 4 | 15)] & 15;
}

/* Do characters of classes a, b stay together? pair: an odd number of flag letters ends with a; picture: a is
   the joiner of a picture. */
static int sqm__stay_together(uint32_t a, uint32_t b, int pair, int picture)
{
    if (a >= SQM__BREAK_CR && a <= SQM__BREAK_CONTROL) return a == SQM__BREAK_CR && b == SQM__BREAK_LF;
    if (b >= SQM__BREAK_CR && b <= SQM__BREAK_CONTROL) return 0;
    if (b == SQM__BREAK_EXTEND || b == SQM__BREAK_ZWJ || b == SQM__BREAK_SPACING || a == SQM__BREAK_PREPEND)
        return 1;
    if (a == SQM__BREAK_L)
        return b == SQM__BREAK_L || b == SQM__BREAK_V || b == SQM__BREAK_LV || b == SQM__BREAK_LVT;
    if (a == SQM__BREAK_LV || a == SQM__BREAK_V) return b == SQM__BREAK_V || b == SQM__BREAK_T;
    if (a == SQM__BREAK_LVT || a == SQM__BREAK_T) return b == SQM__BREAK_T;
    if (a == SQM__BREAK_FLAG) return b == SQM__BREAK_FLAG && pair;
    return picture && b == SQM__BREAK_PICTURE;
}

/* End of the grapheme cluster that begins at `at`. */
static uint32_t sqm__cluster_end(const sqm__tok *t, const uint8_t *text, uint32_t at, uint32_t bytes)
{
    uint32_t code, a, b;
    int pair, seen, joined;                            /* seen: a picture and marks only */
    if (text[at] < 128 && text[at] != '\r' && (at + 1 == bytes || text[at + 1] < 128)) return at + 1;
    at += sqm__utf8_next(text + at, text + bytes, &code);
    a = sqm__break_class(t, code);
    pair = a == SQM__BREAK_FLAG;
    seen = a == SQM__BREAK_PICTURE;
    joined = 0;
    while (at < bytes) {
        const uint32_t length = sqm__utf8_next(text + at, text + bytes, &code);
        b = sqm__break_class(t, code);
        if (!sqm__stay_together(a, b, pair, joined)) break;
        joined = seen && b == SQM__BREAK_ZWJ;
        seen = b == SQM__BREAK_PICTURE || (seen && b == SQM__BREAK_EXTEND);
        pair = b == SQM__BREAK_FLAG && !(a == SQM__BREAK_FLAG && pair);
        a = b;
        at += length;
    }
    return at;
}

/* Value of the shortest text of the trie that text[0, bytes) begins with. */
static uint32_t sqm__trie_shortest(const sqm__trie_cell *cells, const uint8_t *text, uint32_t bytes)
{
    uint32_t cell = 0;
    for (uint32_t i = 0; i < bytes; i++) {
        cell = sqm__trie_next(cells, cell, text[i]);
        if (cell == SQM__TOK_NONE) break;
        if (cells[cell].value != SQM__TOK_NONE) return cells[cell].value;
    }
    return SQM__TOK_NONE;
}

static void sqm__norm_map(const sqm__tok *t, const sqm__tok_step *s, sqm__output *o, const uint8_t *text,
                          uint32_t bytes)
{
    const sqm__trie_cell *cells = (const sqm__trie_cell *)t->array[SQM__A_MAPS] + s->a;
    const uint8_t *strings = sqm__tok_u8(t, SQM__A_STRINGS);
    uint32_t copied = 0, length, code, cluster = 0;    /* a cluster that was too long ends there */
    for (uint32_t at = 0; at < bytes; at += length) {
        uint32_t value;
        length = 1;
        if (s->flags) {
            const uint32_t end = at < cluster ? cluster : sqm__cluster_end(t, text, at, bytes);
            length = end - at;
            value = SQM__TOK_NONE;
            if (at >= cluster && length < 6) value = sqm__trie_shortest(cells, text + at, length);
            if (value == SQM__TOK_NONE) {
                cluster = end;
                length = sqm__utf8_next(text + at, text + end, &code);
                value = sqm__trie_shortest(cells, text + at, length);
            }
        } else {
            value = sqm__trie_longest(cells, 0, text + at, bytes - at, &length);
            if (value == SQM__TOK_NONE && text[at] >= 128)
                length = sqm__utf8_next(text + at, text + bytes, &code);
        }
        if (value == SQM__TOK_NONE) continue;
        sqm__write(o, text + copied, at - copied);
        sqm__write(o, strings + value + 1, strings[value]);
        copied = at + length;
    }
    sqm__write(o, text + copied, bytes - copied);
}

/* ---- canonical normal forms ---------------------------------------------------------------------------- */
static uint32_t sqm__combining_class(const sqm__tok *t, uint32_t c)
{
    const uint32_t *runs = sqm__tok_u32(t, SQM__A_COMBINING), n = t->count[SQM__A_COMBINING];
    if (c > 0x10ffff || n == 0 || runs[0] >> 8 > c) return 0;
    return runs[sqm__last_not_above(runs, 0, n, c << 8 | 255)] & 255;
}

/* Appends the full decomposition of c; the first code point of a decomposition may have one itself. */
static uint32_t sqm__decompose(const sqm__tok *t, uint32_t c, uint32_t *out, uint32_t n, uint32_t room)
{
    const sqm__decomposition *table = (const sqm__decomposition *)t->array[SQM__A_DECOMPOSED];
    uint32_t tail[8], n_tail = 0;
    if (c - 0xac00u < 11172u) {                        /* Hangul syllable: algorithmic */
        const uint32_t s = c - 0xac00u;
        if (s % 28) tail[n_tail++] = 0x11a7 + s % 28;
        tail[n_tail++] = 0x1161 + s / 28 % 21;
        c = 0x1100 + s / 588;
    }
    while (n_tail < 8) {
        uint32_t low = 0, high = t->count[SQM__A_DECOMPOSED];
        while (low < high) {
            const uint32_t middle = low + (high - low) / 2;
            if (table[middle].code < c) low = middle + 1; else high = middle;
        }
        if (low == t->count[SQM__A_DECOMPOSED] || table[low].code != c) break;
        c = table[low].first;
        if (table[low].second) tail[n_tail++] = table[low].second;
        else if (c == table[low].code) break;
    }
    if (n < room) out[n++] = c;
    while (n_tail && n < room) out[n++] = tail[--n_tail];
    return n;
}

/* The code point that a, b compose to, or 0. */
static uint32_t sqm__compose(const sqm__tok *t, uint32_t a, uint32_t b)
{
    const sqm__decomposition *table = (const sqm__decomposition *)t->array[SQM__A_DECOMPOSED];
    const uint16_t *order = (const uint16_t *)t->array[SQM__A_COMPOSITIONS];
    uint32_t low = 0, high = t->count[SQM__A_COMPOSITIONS];
    if (a - 0x1100u < 19 && b - 0x1161u < 21) return 0xac00 + ((a - 0x1100) * 21 + (b - 0x1161)) * 28;
    if (a - 0xac00u < 11172u && (a - 0xac00) % 28 == 0 && b - 0x11a8u < 27) return a + (b - 0x11a7);
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const sqm__decomposition *d = &table[order[middle]];
        if (d->first < a || (d->first == a && d->second < b)) low = middle + 1; else high = middle;
    }
    if (low == t->count[SQM__A_COMPOSITIONS]) return 0;
    return table[order[low]].first == a && table[order[low]].second == b ? table[order[low]].code : 0;
}

/* Sorts a run of combining marks by class, marks of one class stay in order: one pass a class, of which there
   are few, as runs may be long. */
static void sqm__sort_marks(const sqm__tok *t, uint32_t *c, uint32_t n, uint32_t *sorted)
{
    uint32_t least = 0, n_sorted = 0;
    while (n_sorted < n) {
        uint32_t next = 256;
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t k = sqm__combining_class(t, c[i]);
            if (k == least) sorted[n_sorted++] = c[i];
            if (k > least && k < next) next = k;
        }
        least = next;
    }
    memcpy(c, sorted, n * sizeof(*c));
}

static void sqm__order_marks(const sqm__tok *t, uint32_t *c, uint32_t n, uint32_t *work)
{
    for (uint32_t first = 0; first < n; first++) {     /* c[first] is a starter, or a run begins there */
        uint32_t end = first, ordered = 1, last = 0;
        for (; end < n; end++) {
            const uint32_t k = sqm__combining_class(t, c[end]);
            if (k == 0) break;
            if (k < last) ordered = 0;
            last = k;
        }
        if (!ordered) sqm__sort_marks(t, c + first, end - first, work);
        first = end;
    }
}

/* Composes n ordered code points in place; returns how many remain. */
static uint32_t sqm__compose_all(const sqm__tok *t, uint32_t *c, uint32_t n)
{
    uint32_t out = 0, starter = SQM__TOK_NONE, last_class = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t k = sqm__combining_class(t, c[i]);
        if (starter != SQM__TOK_NONE && (last_class < k || out == starter + 1)) {
            const uint32_t whole = sqm__compose(t, c[starter], c[i]);
            if (whole) { c[starter] = whole; continue; }
        }
        if (k == 0) starter = out;
        last_class = k;
        c[out++] = c[i];
    }
    return out;
}

/* Normalises text[from, to), which begins with a character that is kept, or where the text begins. */
static void sqm__form_stretch(sqm__tok_run *r, const sqm__tok_step *s, sqm__output *o, const uint8_t *text,
                              uint32_t from, uint32_t to)
{
    uint32_t *codes = (uint32_t *)(void *)r->heap;
    const uint32_t most = r->max_codes;                /* the heap holds twice as many */
    uint32_t n = 0, code;
    for (uint32_t at = from; at < to;) {
        at += sqm__utf8_next(text + at, text + to, &code);
        n = sqm__decompose(r->t, code, codes, n, most);
    }
    sqm__order_marks(r->t, codes, n, codes + most);
    if (!(s->flags & 1)) n = sqm__compose_all(r->t, codes, n);
    for (uint32_t i = 0; i < n; i++) {
        uint8_t c[4];
        sqm__write(o, c, sqm__utf8_put(c, codes[i]));
    }
}

static int sqm__nfc_stable(const sqm__tok *t, uint32_t c)
{
    const uint32_t *unstable = sqm__tok_u32(t, SQM__A_UNSTABLE), n = t->count[SQM__A_UNSTABLE];
    return n == 0 || c < unstable[0] || !sqm__in_ranges(unstable, n, c);
}

/* Most text is stable and is copied; unstable characters take the stable one before them along. */
static void sqm__norm_form(sqm__tok_run *r, const sqm__tok_step *s, sqm__output *o, const uint8_t *text,
                           uint32_t bytes)
{
    uint32_t copied = 0, starter = 0, at = 0, end, code, length;
    while (at < bytes) {
        length = 1;
        code = text[at];
        if (code >= 128) length = sqm__utf8_next(text + at, text + bytes, &code);
        end = at + length;
        if (sqm__nfc_stable(r->t, code)) {
            starter = at;
            at = end;
            continue;
        }
        for (; end < bytes; end += length) {
            length = sqm__utf8_next(text + end, text + bytes, &code);
            if (sqm__nfc_stable(r->t, code)) break;
        }
        sqm__write(o, text + copied, starter - copied);
        sqm__form_stretch(r, s, o, text, starter, end);
        copied = starter = at = end;
    }
    sqm__write(o, text + copied, bytes - copied);
}

/* Applies a list of normalizers; returns the text where it lies now. *is_start: nothing of the whole text is
   before it (white space that is stripped counts, as in the reference library). */
static const uint8_t *sqm__normalize_text(sqm__tok_run *r, int list, const uint8_t *text, uint32_t *bytes,
                                          int *is_start)
{
    const uint8_t *strings = sqm__tok_u8(r->t, SQM__A_STRINGS), *before;
    const sqm__tok_step *s = sqm__tok_steps(r->t, list);
    sqm__output o;
    if (list == SQM__A_NORMALIZERS) r->which = 0;      /* the late ones go on from there, or in buffers */
    else if (r->t->count[SQM__A_NORMAL]) r->which = 2; /* of their own: other parts of the text wait */
    for (uint32_t i = 0; i < r->t->count[list] && *bytes; i++, s++) {
        o.dst = r->buffer[r->which];
        o.room = r->buffer_bytes;
        o.n = 0;
        o.full = 0;
        switch (s->kind) {
        case SQM__NORM_PREPEND:
            if ((s->flags & 2) && !*is_start) continue;
            if ((s->flags & 1) && sqm__tok_begins(text, *bytes, strings + s->a, s->a_bytes)) continue;
            sqm__write(&o, strings + s->a, s->a_bytes);
            sqm__write(&o, text, *bytes);
            break;
        case SQM__NORM_REPLACE:
            o.n = sqm__norm_replace(o.dst, text, *bytes, strings + s->a, s->a_bytes, strings + s->b,
                                    s->b_bytes);
            break;
        case SQM__NORM_STRIP:
            before = text;
            text = sqm__norm_strip(r->t, s, text, bytes);
            *is_start = *is_start && text == before;
            continue;
        case SQM__NORM_CLASS: sqm__norm_class(r->t, s, &o, text, *bytes); break;
        case SQM__NORM_MAP: sqm__norm_map(r->t, s, &o, text, *bytes); break;
        case SQM__NORM_REGEX: sqm__norm_regex(r, s, &o, text, *bytes); break;
        default: sqm__norm_form(r, s, &o, text, *bytes); break;
        }
        if (o.full && r->result == SQM_OK)             /* only with damaged tables */
            r->result = sqm__fail(r->err, SQM_E_LIMIT, __LINE__, i,
                                  "tokenizer: the text of normalizer %z is too long", (uint64_t)i);
        text = o.dst;
        *bytes = o.n;
        r->which ^= 1;
    }
    return text;
}

/* ---- added tokens -------------------------------------------------------------------------------------- */
typedef struct sqm__added_hit { uint32_t begin, end, resume; int32_t id; } sqm__added_hit;

/* The longest text of the list that text[at, bytes) begins with. */
static const sqm__tok_added *sqm__added_at(const sqm__tok *t, int list, const uint8_t *text, uint32_t at,
                                           uint32_t bytes)
{
    const sqm__tok_added *added = (const sqm__tok_added *)t->array[list], *best = NULL;
    const uint32_t *first = sqm__tok_u32(t, list + 1);
    const uint8_t *strings = sqm__tok_u8(t, SQM__A_STRINGS);
    uint32_t low = first[text[at]], high = first[text[at] + 1];
    for (uint32_t k = 1; low < high; k++) {            /* all of [low, high) agree in their first k bytes */
        uint32_t a, b;
        if (added[low].bytes == k) best = &added[low++];
        if (at + k >= bytes) break;
        for (a = low, b = high; a < b;) {              /* those whose byte k is not below the text's ... */
            const uint32_t m = a + (b - a) / 2;
            if (added[m].bytes > k && strings[added[m].first + k] >= text[at + k]) b = m; else a = m + 1;
        }
        low = a;
        for (b = high; a < b;) {                       /* ... and not above it */
            const uint32_t m = a + (b - a) / 2;
            if (added[m].bytes > k && strings[added[m].first + k] > text[at + k]) b = m; else a = m + 1;
        }
        high = a;
    }
    return best;
}

static int sqm__is_class(const sqm__tok *t, uint32_t k, const uint8_t *text, uint32_t at, uint32_t bytes,
                         uint32_t *length)
{
    uint32_t code;
    *length = sqm__utf8_next(text + at, text + bytes, &code);
    return sqm__class_has(t, sqm__tok_class(t, k), code);
}

/* Is the token text[at, end) not a word of its own? */
static int sqm__inside_word(const sqm__tok *t, const uint8_t *text, uint32_t at, uint32_t end, uint32_t bytes)
{
    const uint32_t word = t->h->word_class;
    uint32_t n;
    if (at > 0 && sqm__is_class(t, word, text, at - sqm__utf8_before(text, 0, at), at, &n)) return 1;
    return end < bytes && sqm__is_class(t, word, text, end, bytes, &n);
}

/* Finds the next added token from `at` on; `floor`: what lies before it is taken already. */
static int sqm__added_next(const sqm__tok_run *r, int list, const uint8_t *text, uint32_t floor, uint32_t at,
                           uint32_t bytes, sqm__added_hit *hit)
{
    const sqm__tok *t = r->t;
    const uint32_t *first = sqm__tok_u32(t, list + 1);
    uint32_t n;
    if (t->count[list] == 0) return 0;
    for (; at < bytes; at++) {
        const sqm__tok_added *found;
        if (first[text[at]] == first[text[at] + 1]) continue;
        found = sqm__added_at(t, list, text, at, bytes);
        if (!found) continue;
        hit->begin = at;
        hit->resume = hit->end = at + found->bytes;
        hit->id = found->id;
        if (((found->flags & SQM__ADDED_SPECIAL) && (r->flags & SQM_TOKENS_PLAIN)) ||
            ((found->flags & SQM__ADDED_CONTROL) && !(r->flags & SQM_TOKENS_CONTROL)) ||
            ((found->flags & SQM__ADDED_WORD) && sqm__inside_word(t, text, at, hit->end, bytes))) {
            at = hit->end - 1;
            continue;
        }
        while ((found->flags & SQM__ADDED_LSTRIP) && hit->begin > floor) {
            const uint32_t before = hit->begin - sqm__utf8_before(text, floor, hit->begin);
            if (!sqm__is_class(t, t->h->space_class, text, before, hit->begin, &n)) break;
            hit->begin = before;
        }
        while ((found->flags & SQM__ADDED_RSTRIP) && hit->end < bytes) {
            if (!sqm__is_class(t, t->h->space_class, text, hit->end, bytes, &n)) break;
            hit->end += n;
        }
        return 1;
    }
    return 0;
}

/* Cuts text at the tokens of a list; what lies between goes on to the next stage. */
static void sqm__tok_stage(sqm__tok_run *r, int list, const uint8_t *text, uint32_t bytes, int is_start)
{
    const int next = list == SQM__A_ADDED ? SQM__A_NORMALIZERS : SQM__A_LATE;
    sqm__added_hit hit;
    uint32_t at = 0, scan = 0;
    while (r->result == SQM_OK) {
        const int found = sqm__added_next(r, list, text, at, scan, bytes, &hit);
        uint32_t n = (found ? hit.begin : bytes) - at;
        if (n > 0) {
            int starts = is_start && at == 0;
            const uint8_t *normal = sqm__normalize_text(r, next, text + at, &n, &starts);
            if (r->result != SQM_OK) return;
            if (list == SQM__A_NORMAL) sqm__tok_pieces(r, normal, n);
            else sqm__tok_stage(r, SQM__A_NORMAL, normal, n, starts);
        }
        if (!found) return;
        sqm__tok_emit(r, hit.id);
        at = hit.end;
        scan = hit.resume;
    }
}

/* ---- entry points -------------------------------------------------------------------------------------- */
/* Bytes of work space that encoding a text of `bytes` bytes takes; 0: none, or the text is too long. */
static size_t sqm__tok_scratch(const sqm__tok *t, size_t bytes)
{
    sqm__arena a;
    sqm__tok_run r;
    memset(&a, 0, sizeof(a));
    memset(&r, 0, sizeof(r));
    return sqm__tok_layout(&r, t, bytes, &a) ? a.used : 0;
}

static int32_t sqm__tok_encode(const sqm__tok *t, const char *text, size_t bytes, uint32_t flags,
                               int32_t *ids, int32_t cap, void *scratch, size_t scratch_bytes,
                               sqm_error *err)
{
    sqm__arena a;
    sqm__tok_run r;
    memset(&a, 0, sizeof(a));
    memset(&r, 0, sizeof(r));
    if ((bytes && !text) || cap < 0 || (cap && !ids) ||
        (flags & ~(uint32_t)(SQM_TOKENS_BARE | SQM_TOKENS_PLAIN | SQM_TOKENS_CONTROL)))
        SQM__FAIL(err, SQM_E_ARGUMENT, flags, "tokenize: no text, no room for ids, or flags %z",
                  (uint64_t)flags);
    if ((uintptr_t)scratch % 8)
        SQM__FAIL(err, SQM_E_ARGUMENT, 0, "tokenize: the memory is not aligned to 8 bytes");
    if (!sqm__tok_layout(&r, t, bytes, &a))
        SQM__FAIL(err, SQM_E_LIMIT, bytes, "tokenize: a text of %z bytes is too long", (uint64_t)bytes);
    if (a.used > scratch_bytes || (a.used && !scratch))
        SQM__FAIL(err, SQM_E_MEMORY, a.used, "tokenize: %z bytes of memory are needed, %z given",
                  (uint64_t)a.used, (uint64_t)scratch_bytes);
    if (a.used) {
        memset(&a, 0, sizeof(a));
        a.base = (uint8_t *)scratch;
        a.size = scratch_bytes;
        sqm__tok_layout(&r, t, bytes, &a);
    }
    r.t = t;
    r.flags = flags;
    r.ids = ids;
    r.cap = cap;
    r.err = err;
    r.steps = 65536 + 512 * (uint64_t)bytes;           /* real expressions take about 10 a character */
    for (uint32_t i = 0; !(flags & SQM_TOKENS_BARE) && i < t->count[SQM__A_PREFIX]; i++)
        sqm__tok_emit(&r, sqm__tok_i32(t, SQM__A_PREFIX)[i]);
    sqm__tok_stage(&r, SQM__A_ADDED, (const uint8_t *)text, (uint32_t)bytes, 1);
    for (uint32_t i = 0; !(flags & SQM_TOKENS_BARE) && i < t->count[SQM__A_SUFFIX]; i++)
        sqm__tok_emit(&r, sqm__tok_i32(t, SQM__A_SUFFIX)[i]);
    return r.result == SQM_OK ? r.n : (int32_t)r.result;
}

/* Text of a token; NULL with n = 0 for ids outside and, without with_special, for special tokens. */
static const uint8_t *sqm__tok_text(const sqm__tok *t, int32_t id, int with_special, uint32_t *n)
{
    const uint32_t *offsets = sqm__tok_u32(t, SQM__A_OFFSETS);
    *n = 0;
    if (id < 0 || id >= t->h->n_tokens) return NULL;
    if (!with_special && (sqm__tok_u8(t, SQM__A_ATTRIBUTES)[id] & SQM__TOKEN_TYPE) == SQM__TOKEN_SPECIAL)
        return NULL;
    *n = offsets[id + 1] - offsets[id];
    return sqm__tok_u8(t, SQM__A_TEXT) + offsets[id];
}

/* Text that is put together; what has no room is only counted. */
typedef struct sqm__decoded { char *dst; uint64_t n, room; } sqm__decoded;

static void sqm__decoded_add(sqm__decoded *d, const uint8_t *text, uint32_t n)
{
    if (d->n < d->room) memcpy(d->dst + d->n, text, (size_t)(n < d->room - d->n ? n : d->room - d->n));
    d->n += n;
}

static int32_t sqm__tok_decode(const sqm__tok *t, const int32_t *ids, int32_t n, int with_special, char *dst,
                               int32_t cap)
{
    const sqm__tok_step *step = sqm__tok_steps(t, SQM__A_DECODERS);
    uint32_t strip[4] = { 0, 0, 0, 0 }, n_steps = t->count[SQM__A_DECODERS];
    sqm__decoded d;
    d.dst = dst;
    d.n = 0;
    d.room = (uint64_t)(uint32_t)cap;
    for (uint32_t k = 0; k < n_steps; k++) strip[k] = step[k].flags;
    for (int32_t i = 0; i < n; i++) {
        uint32_t bytes;
        const uint8_t *text = sqm__tok_text(t, ids[i], with_special, &bytes);
        const uint32_t attributes = text ? sqm__tok_u8(t, SQM__A_ATTRIBUTES)[ids[i]] : 0;
        for (uint32_t k = 0; k < n_steps && d.n == 0 && bytes; k++) {
            if (step[k].kind == SQM__DECODE_INSIDE) {
                if (attributes & SQM__TOKEN_INSIDE)
                    sqm__decoded_add(&d, sqm__tok_u8(t, SQM__A_STRINGS) + step[k].a, step[k].a_bytes);
                continue;
            }
            if (step[k].b && (attributes & SQM__TOKEN_TYPE) == SQM__TOKEN_SPECIAL) strip[k] = 0;
            while (bytes && strip[k] && text[0] == step[k].a) { text++; bytes--; strip[k]--; }
            if (bytes) strip[k] = 0;
        }
        if (bytes) sqm__decoded_add(&d, text, bytes);
    }
    return d.n > 0x7fffffffu ? (int32_t)SQM_E_LIMIT : (int32_t)d.n;
}

static int32_t sqm__tok_find(const sqm__tok *t, const char *text)
{
    static const char *const roles[4] = { "bos", "eos", "unk", "pad" };
    const size_t n = strlen(text);
    for (int i = 0; i < 4; i++) {
        if (sqm__same_text(text, roles[i])) return t->h->role[i];
    }
    if (n == 0 || n > SQM__TOK_MAX_TEXT) return -1;
    for (int list = SQM__A_ADDED; list <= SQM__A_NORMAL; list += SQM__A_NORMAL - SQM__A_ADDED) {
        const sqm__tok_added *added = NULL;
        if (t->count[list]) added = sqm__added_at(t, list, (const uint8_t *)text, 0, (uint32_t)n);
        if (added && added->bytes == n) return added->id;
    }
    if (t->h->kind >= SQM__TOK_WORDPIECE) {
        uint32_t length = 0;
        const sqm__trie_cell *cells = (const sqm__trie_cell *)t->array[SQM__A_TRIE];
        const uint32_t id = sqm__trie_longest(cells, 0, (const uint8_t *)text, (uint32_t)n, &length);
        return length == n ? (int32_t)id : -1;
    }
    return sqm__tok_lookup(t, (const uint8_t *)text, (uint32_t)n, 0, 0);
}

static int sqm__tok_is_end(const sqm__tok *t, int32_t id)
{
    for (uint32_t i = 0; i < t->count[SQM__A_ENDS]; i++) {
        if (sqm__tok_i32(t, SQM__A_ENDS)[i] == id) return 1;
    }
    return 0;
}

#undef SQM__TOK_NONE
#else /* SEQMODEL_NO_TOKENIZER */
typedef struct sqm__tok { int32_t none; } sqm__tok;
#endif
/* ==== [RECIPE] Models as lists of ops ======================================================================
   A model file holds a list of ops over registers r0 .. r15 (rows of float32; r0 is the residual stream by
   custom). The list is bound once at open: names become numbers, every shape, register and weight is
   checked; after that a forward pass cannot fail. There are no jumps, so binding is one pass. The header
   knows no architecture names.

   Text form, one op a line (tools print and parse it; @x names a tensor, lists are joined by commas, - is
   an absent entry):
     embed   rD tokens|positions  w=@T [scale= offset= add=1 divide= period=]      row of T by token id, or
             by position / divide % period + offset
     input   rD rows  width=                                       rows that the caller feeds
     norm    rD rS  kind=rms|layer|l2|sum eps= [w=@ b=@ first= count= groups=]
     linear  rD rS  w=@A,@B,... [b=@a,-,... scale= add=1 first= apart=1 precise=1]  scale * (rS W^T + b),
         outputs side by side;
             first: reads only as many columns of rS as W has, from that one on
             apart: each weight reads columns of its own, those behind the columns of the one before it
             precise: SQM_FAST rounds activations to 16 bits instead of 8, for the few products that need it
     rope    rD rD  first= heads= head_dim= dims= style=half|interleaved freq=@ [attn_factor= freq_long=@
             long_from= ntk_factor= ntk_length= divide= period=]      turned by position / divide % period
     mix     rD rS  MIXER key=value ...                            a sequence mixer of [MIX]; state slots
             count themselves
     act     rD rS  kind=silu|...      glu rD rS act=silu|...      glu: act(first half) * second half
     affine  rD rS [w=@ b=@]                                       rS * w + b, column by column
     gate    rD rA rG  act= [first=]                               rA * act(columns of rG from first on)
     add|mul rD rA rB                                              rB may be narrower: a value for each block
     scale   rD rS by= [grow= every= shift=]                       rS * by, at position p
             times 1 + grow * log(1 + floor((p + shift) / every))
     softcap rD rS cap=     clip rD rS [low= high=]     copy rD rS [first= count=]
     cat     rD rA rB [groups=]                                    rows, or their groups, side by side
     softmax rD rS  [groups= scale=]                               over the columns, or each of equal groups
     monomials rD rS [groups=]                                     1, x_i, x_i x_j (i <= j) of each group
     reduce  rD rS  kind=sum|mean|max [groups=]                    a column for each group
     mirror  rD rS  [groups=]                                      x, -x of each group
     blocks  rD rS  w=@ out= [groups= shared=1]                    group g times its own [in, out] matrix
     combine rD rS rW  out= [groups= first= add=1]                 group k: sum_j W[j][k] * group j of rS;
             W [groups, out] are columns of rW, from first on
     sinkhorn rD rD  n= iterations= [first= eps=]                  n x n columns as a matrix: its columns over
             (their sum + eps), then iterations - 1 times its rows and its columns
     pick    rD rS rI                                              rS times how often rI names the column
     route   rD rS  k= score=softmax|sigmoid|none|sparsemixer [b=@ raw=1 groups= group_k= group_top=
             renorm=1|2 least= eps= scale= jitter=]
             weights of experts: 0 but for the k with the largest score + b (raw: rS + b); only the group_k
             groups count whose group_top largest ones sum highest. renorm: over (max(their sum, or the
             root of their squares' sum, least) + eps); then times scale.
             sparsemixer: the k largest s of rS in turn, m the largest; weight e^m / sum_j e^s_j over those
             not taken with (m - s_j) / max(|s_j|, m) <= 2 jitter
     experts rD rS rW  up=@E0,... down=@E0,... act= [up_b=@ down_b=@ add=1 input=1 limit= alpha= plus=]
             sum_e rW[e] * down_e act(up_e rS), of the e with rW[e] != 0 alone; up_e with twice the rows
             that down_e has columns: act(first half) * second half. input: of down_e act(up_e (rW[e] rS)).
             limit: first half at most, second half within +- limit. alpha: act(alpha x) / alpha; plus: is
             added to the second half, after the limit
     experts rD rS rW  up=@E0,...|down=@E0,... slots=n [blocks=]
             one map an expert, whose results or inputs lie in slots, one for each e with rW[e] != 0, in their
             order: up: rD = [blocks, slots, rows / blocks], slots without expert are zero; down: rS is so,
             rD = sum_e rW[e] * down_e (slot of e). No act, no other options: heads that belong to experts
     act, affine, scale, softcap, clip and softmax with first= count= work on those columns, in place.
     head    logits rS  [w=@A b=@ scale= softcap=]                 without w: the rows themselves
   Tested by tests/test_recipe.c, tests/test_experts.c and, with checkpoints, tools/sqm-check. */
enum {                                  /* numbers in files: never change one */
    SQM__OP_EMBED = 1, SQM__OP_NORM, SQM__OP_LINEAR, SQM__OP_ROPE, SQM__OP_MIX, SQM__OP_ACT, SQM__OP_GLU,
    SQM__OP_ADD, SQM__OP_MUL, SQM__OP_SCALE, SQM__OP_COPY, SQM__OP_SOFTCAP, SQM__OP_HEAD, SQM__OP_INPUT,
    SQM__OP_AFFINE, SQM__OP_CAT, SQM__OP_GATE, SQM__OP_SOFTMAX, SQM__OP_MONOMIALS, SQM__OP_REDUCE,
    SQM__OP_MIRROR, SQM__OP_CLIP, SQM__OP_BLOCKS, SQM__OP_ROUTE, SQM__OP_EXPERTS, SQM__OP_COMBINE,
    SQM__OP_SINKHORN, SQM__OP_PICK, SQM__OP_COUNT
};

struct sqm__binder;
struct sqm__op;
enum { SQM__PART_LINEAR = 1, SQM__PART_MOE = 2 };
/* A kind of op: how it is bound and run. The kinds stand at the end of [SESS]. */
struct sqm_op {
    int32_t     kind;                   /* SQM__OP_*; of kinds that share a number the first one counts */
    int32_t     n_sources, parts;       /* parts: SQM__PART_* that an op of this kind has */
    const char *name, *keys;            /* "norm"; parameters it knows, others are refused */
    sqm_result (*bind)(struct sqm__binder *b, struct sqm__op *op);
    void       (*run)(sqm_session *s, const struct sqm__op *op);
    /* bytes of scratch it needs besides what all have; NULL: none */
    size_t     (*scratch)(const struct sqm__op *op, const sqm_model *m, const sqm_session_config *c);
};

typedef struct sqm__rope_table {        /* one rotary table, shared by all ops that ask for the same */
    /* [dims / 2]; freq_long used when the sequence is longer than long_from */
    const float *freq, *freq_long;
    float        attn_factor, ntk_factor;
    int32_t      dims, long_from, ntk_length;
    int32_t      divide, period;        /* 0: none; the angle is that of position / divide % period */
} sqm__rope_table;

typedef struct sqm__route {             /* how weights of experts come from scores */
    int32_t k, score, raw, groups, group_k, group_top, renorm;
    float   least, eps, scale, jitter;
} sqm__route;
typedef struct sqm__gating {            /* experts: limits on both halves, see [RECIPE]; scale by position */
    float   limit, alpha, plus;         /* limit 0: none */
    int32_t is_plain, on_input;
    int32_t slots, blocks, merges;      /* slots 0: none; merges: down, else up; the map is op->linear */
} sqm__gating;
enum { SQM__MAX_EXPERTS = 4096 };

/* What only ops with experts have */
typedef struct sqm__moe {
    sqm__linear down;                   /* a weight of each expert; up is op->linear */
    sqm__route  route;
    sqm__gating gating;
} sqm__moe;

/* There are many of them, and they are read-write memory of small machines: what few kinds have is apart. */
typedef struct sqm__op {
    const sqm_op     *type;
    uint8_t           kind, dst, src, src2;
    int32_t           line;
    int32_t           in_width, out_width;
    sqm__linear      *linear;           /* linear, head, experts */
    sqm__moe         *moe;              /* experts, route */
    const sqm_tensor *table;            /* embed */
    const float      *gain, *bias;      /* norm, affine; blocks: gain is w */
    float             number;           /* eps, scale, by or cap */
    float             low, high;        /* clip; scale: low is grow */
    int32_t           divide, period;   /* embed; 0: none. scale: divide is every */
    int32_t           choice;           /* norm or activation kind, rope style */
    int32_t           first, count, groups, own, add, offset, rope, heads, head_dim, slot;
    const sqm_mixer  *mixer;
    void             *bound;
} sqm__op;

struct sqm_model {
    sqm__file         file;
    sqm__tok          tok;
    int32_t           has_tok;
    sqm__op          *ops;
    int32_t           n_ops, n_slots, n_ropes, n_mixers;
    int32_t           width[SQM__REGISTERS];           /* widest content of each register; 0: unused */
    int32_t           vocab_size, n_tokens, input_width, max_context;
    uint32_t          mixer_flags;      /* SQM_MIXER_* of all mixers together */
    sqm__rope_table  *ropes;
    sqm_tensor       *views;            /* [n_lists] tensors by position in the file's tensor lists */
    const sqm_tensor **view_pointers;   /* [n_lists] into views, NULL when absent */
    const float     **vectors;          /* [n_lists] data of plain float32 entries, else NULL */
    void             *owned_memory;     /* sqm_load_*: to free */
    void             *owned_image;      /* sqm_load_file: to unmap or free */
    size_t            owned_bytes;
};

static const sqm__tok *sqm__model_tok(const sqm_model *m) { return m && m->has_tok ? &m->tok : NULL; }

/* ---- binding ------------------------------------------------------------------------------------------- */
typedef struct sqm__binder {            /* what lives only while a recipe is bound */
    sqm_model               *m;
    sqm_param               *params;    /* room for the longest op */
    int32_t                  n_params, line;
    int32_t                  width[SQM__REGISTERS];     /* current content; 0: nothing written yet */
    sqm_error               *err;
} sqm__binder;

static int sqm__has_word(const char *words, const char *word)
{
    const size_t n = strlen(word);
    for (const char *at = words; n && (at = strstr(at, word)) != NULL; at++)
        if ((at == words || at[-1] == ' ') && (at[n] == ' ' || at[n] == 0)) return 1;
    return 0;
}
static const char *const sqm__norm_names[] = { "rms", "layer", "l2", "sum" };

static sqm_result sqm__bind_choice(int32_t *choice, sqm__binder *b, const char *key, const char *const *names,
                                   int32_t n)
{
    const sqm_param *p = sqm__param(b->params, b->n_params, key);
    *choice = p && p->text ? sqm__choose(names, n, p->text) : -1;
    if (*choice < 0)
        SQM__FAIL(b->err, SQM_E_UNSUPPORTED, b->line, "op %d: %s = '%s' is unknown", b->line, key,
                  p && p->text ? p->text : "(missing)");
    return SQM_OK;
}

/* The op's parameters by name, tensors resolved; unknown keys are errors. */
static sqm_result sqm__bind_params(sqm__binder *b, const sqm__file_op *op, const sqm_op *type,
                                   const char *keys)
{
    const sqm__file *f = &b->m->file;
    (void)type;                         /* without error texts */
    b->n_params = (int32_t)op->n_params;
    for (int32_t i = 0; i < b->n_params; i++) {
        const sqm__file_param *from = &f->params[op->first_param + (uint32_t)i];
        sqm_param *to = &b->params[i];
        memset(to, 0, sizeof(*to));
        to->key = sqm__file_text(f, from->key);
        if (!sqm__has_word(keys, to->key))
            SQM__FAIL(b->err, SQM_E_UNSUPPORTED, b->line, "op %d (%s): unknown option '%s'", b->line,
                      type->name, to->key);
        if (from->type == 0) {
            int64_t v;
            memcpy(&v, &from->value, 8);
            to->number = (double)v;
        } else if (from->type == 1) {
            memcpy(&to->number, &from->value, 8);
        } else if (from->type == 2) {
            to->text = sqm__file_text(f, (uint32_t)from->value);
        } else {
            to->tensors = b->m->view_pointers + from->value;
            to->n_tensors = (int32_t)from->count;
        }
    }
    return SQM_OK;
}

static sqm_result sqm__bind_weights(sqm__binder *b, sqm__op *op)
{
    const sqm_param *w = sqm__param(b->params, b->n_params, "w"), *bias = sqm__param(b->params, b->n_params,
            "b");
    const int sliced = sqm__param(b->params, b->n_params, "first") != NULL;
    int64_t width = 0;
    int32_t most, parts;
    SQM__TRY(sqm__param_int(&op->first, b->params, b->n_params, "first", 0, 0, op->in_width - 1, b->err));
    SQM__TRY(sqm__param_int(&op->linear->apart, b->params, b->n_params, "apart", 0, 0, 1, b->err));
    most = op->linear->apart ? SQM__MAX_EXPERTS : SQM__MAX_WEIGHTS;
    if (!w || w->n_tensors < 1 || w->n_tensors > most)
        SQM__FAIL(b->err, SQM_E_SHAPE, w ? w->n_tensors : 0, "op %d: needs 1 to %d weights in w=", b->line,
                  most);
    parts = op->linear->apart ? w->n_tensors : 1;
    if (bias && bias->n_tensors != w->n_tensors)
        SQM__FAIL(b->err, SQM_E_SHAPE, bias->n_tensors, "op %d: %d weights but %d biases", b->line,
                  w->n_tensors,
                  bias->n_tensors);
    for (int32_t i = 0; i < w->n_tensors; i++) {
        const sqm_tensor *t = w->tensors[i], *v = bias ? bias->tensors[i] : NULL;
        SQM__TRY(sqm__check_panels(t, b->err));
        if (sliced ? t->shape[1] > (op->in_width - op->first) / parts ||
                     t->shape[1] != w->tensors[0]->shape[1]
            : op->in_width % parts || t->shape[1] != op->in_width / parts)
            SQM__FAIL(b->err, SQM_E_SHAPE, t->shape[1],
                      "op %d: weight %d is [%d, %d], the rows have %d columns%s", b->line, i,
                      t->shape[0], t->shape[1], op->in_width - op->first, sliced ? " from first= on" : "");
        if (v && (v->dtype != SQM_F32 || v->layout != SQM_ROWS || v->ndim != 1 || v->shape[0] != t->shape[0]))
            SQM__FAIL(b->err, SQM_E_SHAPE, v->shape[0], "op %d: bias %d must be %d float32 values, has %d",
                      b->line, i,
                      t->shape[0], v->shape[0]);
        width += t->shape[0];
    }
    if (width > INT32_MAX) SQM__FAIL(b->err, SQM_E_LIMIT, (uint64_t)width, "op %d: outputs are too wide",
                                     b->line);
    op->linear->weights = b->m->views + (w->tensors - b->m->view_pointers);
    op->linear->biases = bias ? b->m->vectors + (bias->tensors - b->m->view_pointers) : NULL;
    op->linear->n_weights = w->n_tensors;
    op->linear->add = op->add;
    SQM__TRY(sqm__param_int(&op->linear->precise, b->params, b->n_params, "precise", 0, 0, 1, b->err));
    SQM__TRY(sqm__param_float(&op->linear->scale, b->params, b->n_params, "scale", 1.0, b->err));
    op->out_width = (int32_t)width;
    return SQM_OK;
}

/* A weight [rows, cols] for each of several experts; rows and cols 0: those of the first */
static sqm_result sqm__bind_expert_weights(sqm__linear *l, sqm__binder *b, const char *key,
                                           const char *bias_key, int32_t n, int32_t rows, int32_t cols)
{
    const sqm_param *w = sqm__param(b->params, b->n_params, key);
    const sqm_param *bias = sqm__param(b->params, b->n_params, bias_key);
    if (!w || w->n_tensors != n || (bias && bias->n_tensors != n))
        SQM__FAIL(b->err, SQM_E_SHAPE, w ? w->n_tensors : 0,
                  "op %d: %s needs a tensor for each of %d experts", b->line,
                  !w || w->n_tensors != n ? key : bias_key, n);
    for (int32_t i = 0; i < n; i++) {
        const sqm_tensor *t = w->tensors[i], *v = bias ? bias->tensors[i] : NULL;
        SQM__TRY(sqm__check_panels(t, b->err));
        if (rows == 0) rows = t->shape[0];
        if (cols == 0) cols = t->shape[1];
        if (t->shape[0] != rows || t->shape[1] != cols)
            SQM__FAIL(b->err, SQM_E_SHAPE, t->shape[0],
                      "op %d: %s of expert %d is [%d, %d], expected [%d, %d]", b->line, key, i, t->shape[0],
                      t->shape[1], rows, cols);
        if (v && (v->dtype != SQM_F32 || v->layout != SQM_ROWS || v->ndim != 1 || v->shape[0] != rows))
            SQM__FAIL(b->err, SQM_E_SHAPE, v->shape[0], "op %d: %s of expert %d must be %d float32 values",
                      b->line, bias_key, i, rows);
    }
    l->weights = b->m->views + (w->tensors - b->m->view_pointers);
    l->biases = bias ? b->m->vectors + (bias->tensors - b->m->view_pointers) : NULL;
    l->n_weights = n;
    l->scale = 1.0f;
    return SQM_OK;
}
static sqm_result sqm__bind_gating(sqm__binder *b, sqm__op *op)
{
    sqm__gating *g = &op->moe->gating;
    SQM__TRY(sqm__param_int(&g->on_input, b->params, b->n_params, "input", 0, 0, 1, b->err));
    SQM__TRY(sqm__param_float(&g->limit, b->params, b->n_params, "limit", 0.0, b->err));
    SQM__TRY(sqm__param_float(&g->alpha, b->params, b->n_params, "alpha", 1.0, b->err));
    SQM__TRY(sqm__param_float(&g->plus, b->params, b->n_params, "plus", 0.0, b->err));
    g->is_plain = g->limit == 0.0f && g->alpha == 1.0f && g->plus == 0.0f;
    if (g->limit < 0.0f || !(g->alpha > 0.0f) || (op->own && !g->is_plain))
        SQM__FAIL(b->err, SQM_E_SHAPE, b->line,
                  "op %d: limit >= 0, alpha > 0 and plus go with experts that have a gate", b->line);
    return SQM_OK;
}
/* experts with slots: one map an expert */
static sqm_result sqm__bind_slots(sqm__binder *b, sqm__op *op)
{
    static const char *const others[] = { "act", "add", "input", "limit", "alpha", "plus", "up_b", "down_b" };
    sqm__gating *g = &op->moe->gating;
    const int32_t n = b->width[op->src2], down = sqm__param(b->params, b->n_params, "down") != NULL;
    int64_t all;
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++)
        if (sqm__param(b->params, b->n_params, others[i]))
            SQM__FAIL(b->err, SQM_E_UNSUPPORTED, b->line, "op %d: slots= does not go with %s=", b->line,
                      others[i]);
    SQM__TRY(sqm__param_int(&g->slots, b->params, b->n_params, "slots", 0, 1, n, b->err));
    SQM__TRY(sqm__param_int(&g->blocks, b->params, b->n_params, "blocks", 1, 1, 1 << 16, b->err));
    if (down == (sqm__param(b->params, b->n_params, "up") != NULL) || (down && op->in_width % g->slots))
        SQM__FAIL(b->err, SQM_E_SHAPE, op->in_width, "op %d: slots= needs up=, or down= that reads %d slots",
                  b->line, g->slots);
    SQM__TRY(sqm__bind_expert_weights(op->linear, b, down ? "down" : "up", "", n, 0,
                                      down ? op->in_width / g->slots : op->in_width));
    g->merges = down;
    op->linear->precise = !down;         /* they make queries */
    all = (int64_t)op->linear->weights[0].shape[0] * (down ? 1 : g->slots);
    if (op->linear->weights[0].shape[down] % g->blocks || all > INT32_MAX)
        SQM__FAIL(b->err, SQM_E_SHAPE, op->linear->weights[0].shape[down],
                  "op %d: %d columns in %d slots do not divide into %d blocks", b->line,
                  op->linear->weights[0].shape[down], g->slots, g->blocks);
    op->out_width = (int32_t)all;
    return SQM_OK;
}
static sqm_result sqm__bind_experts(sqm__binder *b, sqm__op *op)
{
    const int32_t n = b->width[op->src2];
    int32_t hidden, inner;
    if (n > SQM__MAX_EXPERTS || op->dst == op->src || op->dst == op->src2)
        SQM__FAIL(b->err, SQM_E_SHAPE, n, "op %d: %d experts, or in place", b->line, n);
    if (sqm__param(b->params, b->n_params, "slots")) return sqm__bind_slots(b, op);
    SQM__TRY(sqm__bind_choice(&op->choice, b, "act", sqm__act_names, SQM_ACT_COUNT));
    SQM__TRY(sqm__bind_expert_weights(op->linear, b, "up", "up_b", n, 0, op->in_width));
    SQM__TRY(sqm__bind_expert_weights(&op->moe->down, b, "down", "down_b", n, 0, 0));
    hidden = op->linear->weights[0].shape[0];
    inner = op->moe->down.weights[0].shape[1];
    op->own = hidden == inner;          /* no gate */
    SQM__TRY(sqm__bind_gating(b, op));
    if (!op->own && hidden != 2 * (int64_t)inner)
        SQM__FAIL(b->err, SQM_E_SHAPE, hidden, "op %d: up makes %d columns, down reads %d", b->line, hidden,
                  inner);
    op->out_width = op->moe->down.weights[0].shape[0];
    return SQM_OK;
}

enum { SQM__SCORE_SOFTMAX, SQM__SCORE_SIGMOID, SQM__SCORE_NONE, SQM__SCORE_SPARSEMIXER };
static const char *const sqm__score_names[] = { "softmax", "sigmoid", "none", "sparsemixer" };
static sqm_result sqm__bind_route(sqm__binder *b, sqm__op *op)
{
    sqm__route *r = &op->moe->route;
    const int32_t n = op->in_width;
    op->out_width = n;
    SQM__TRY(sqm__param_int(&r->k, b->params, b->n_params, "k", 0, 1, n, b->err));
    SQM__TRY(sqm__bind_choice(&r->score, b, "score", sqm__score_names, SQM__COUNT(sqm__score_names)));
    SQM__TRY(sqm__param_int(&r->groups, b->params, b->n_params, "groups", 1, 1, n, b->err));
    SQM__TRY(sqm__param_int(&r->group_k, b->params, b->n_params, "group_k", r->groups, 1, r->groups, b->err));
    SQM__TRY(sqm__param_int(&r->group_top, b->params, b->n_params, "group_top", 1, 1, 2, b->err));
    SQM__TRY(sqm__param_int(&r->renorm, b->params, b->n_params, "renorm", 0, 0, 2, b->err));
    SQM__TRY(sqm__param_int(&r->raw, b->params, b->n_params, "raw", 0, 0, 1, b->err));
    SQM__TRY(sqm__param_float(&r->least, b->params, b->n_params, "least", -1e30, b->err));
    SQM__TRY(sqm__param_float(&r->jitter, b->params, b->n_params, "jitter", 0.0, b->err));
    SQM__TRY(sqm__param_float(&r->eps, b->params, b->n_params, "eps", 0.0, b->err));
    SQM__TRY(sqm__param_float(&r->scale, b->params, b->n_params, "scale", 1.0, b->err));
    if (op->dst == op->src || n > SQM__MAX_EXPERTS)
        SQM__FAIL(b->err, SQM_E_SHAPE, n, "op %d: %d experts, or in place", b->line, n);
    if (n % r->groups || r->k > n / r->groups * r->group_k)
        SQM__FAIL(b->err, SQM_E_SHAPE, r->groups, "op %d: %d of %d experts in %d of %d groups is impossible",
                  b->line, r->k, n, r->group_k, r->groups);
    SQM__TRY(sqm__param_vector(&op->bias, b->params, b->n_params, "b", n, b->err));
    if (r->score == SQM__SCORE_SPARSEMIXER && (op->bias || r->groups > 1))
        SQM__FAIL(b->err, SQM_E_UNSUPPORTED, b->line, "op %d: sparsemixer has neither b= nor groups",
                  b->line);
    return SQM_OK;
}

static sqm_result sqm__bind_embed(sqm__binder *b, sqm__op *op)
{
    const sqm_param *w = sqm__param(b->params, b->n_params, "w");
    const sqm_tensor *t = w && w->n_tensors == 1 ? w->tensors[0] : NULL;
    sqm_model *m = b->m;
    if (op->src != SQM__REG_TOKENS && op->src != SQM__REG_POSITIONS)
        SQM__FAIL(b->err, SQM_E_FORMAT, op->src, "op %d: embed reads tokens or positions, not register %d",
                  b->line, op->src);
    if (!t || t->ndim != 2 || t->dtype == SQM_I32)
        SQM__FAIL(b->err, SQM_E_SHAPE, b->line, "op %d: embed needs one two-dimensional table in w=",
                  b->line);
    SQM__TRY(sqm__param_float(&op->number, b->params, b->n_params, "scale", 1.0, b->err));
    SQM__TRY(sqm__param_int(&op->offset, b->params, b->n_params, "offset", 0, 0, t->shape[0] - 1, b->err));
    SQM__TRY(sqm__param_int(&op->divide, b->params, b->n_params, "divide", 0, 0,
                            op->src == SQM__REG_TOKENS ? 0 : INT32_MAX, b->err));
    SQM__TRY(sqm__param_int(&op->period, b->params, b->n_params, "period", 0, 0,
                            op->src == SQM__REG_TOKENS ? 0 : t->shape[0] - op->offset, b->err));
    op->table = t;
    op->out_width = t->shape[1];
    if (op->src == SQM__REG_TOKENS) {
        if (m->n_tokens == 0 || t->shape[0] < m->n_tokens) m->n_tokens = t->shape[0];
    } else {
        const int64_t each = sqm__max(op->divide, 1), all = (t->shape[0] - op->offset) * each;
        const int32_t rows = op->period || all > INT32_MAX ? INT32_MAX : (int32_t)all;
        if (!op->period && (m->max_context == 0 || rows < m->max_context)) m->max_context = rows;
    }
    return SQM_OK;
}

static sqm_result sqm__bind_norm(sqm__binder *b, sqm__op *op)
{
    const sqm_param *gain = sqm__param(b->params, b->n_params, "w");
    int32_t size;
    SQM__TRY(sqm__bind_choice(&op->choice, b, "kind", sqm__norm_names, SQM__COUNT(sqm__norm_names)));
    SQM__TRY(sqm__param_float(&op->number, b->params, b->n_params, "eps", 0.0, b->err));
    SQM__TRY(sqm__param_int(&op->first, b->params, b->n_params, "first", 0, 0, op->in_width - 1, b->err));
    SQM__TRY(sqm__param_int(&op->count, b->params, b->n_params, "count", op->in_width - op->first, 1,
                            op->in_width - op->first, b->err));
    SQM__TRY(sqm__param_int(&op->groups, b->params, b->n_params, "groups", 1, 1, op->count, b->err));
    if (op->count % op->groups)
        SQM__FAIL(b->err, SQM_E_SHAPE, op->count, "op %d: %d columns do not divide into %d groups", b->line,
                  op->count, op->groups);
    if (op->count != op->in_width && op->dst != op->src)
        SQM__FAIL(b->err, SQM_E_SHAPE, op->dst, "op %d: a norm of some columns works in place only", b->line);
    size = op->count / op->groups;
    if (gain && gain->n_tensors == 1 && gain->tensors[0] && gain->tensors[0]->shape[0] == op->count &&
        op->groups > 1) {
        op->own = 1;
        size = op->count;
    }
    SQM__TRY(sqm__param_vector(&op->gain, b->params, b->n_params, "w", size, b->err));
    SQM__TRY(sqm__param_vector(&op->bias, b->params, b->n_params, "b", size, b->err));
    op->out_width = op->in_width;
    return SQM_OK;
}

static sqm_result sqm__bind_rope_dynamic(sqm__binder *b, sqm__op *op)
{
    sqm_model *m = b->m;
    sqm__rope_table r;
    int32_t rows;
    memset(&r, 0, sizeof(r));
    SQM__TRY(sqm__param_int(&op->first, b->params, b->n_params, "first", 0, 0, op->in_width - 1, b->err));
    SQM__TRY(sqm__param_int(&op->heads, b->params, b->n_params, "heads", 1, 1, 1 << 16, b->err));
    SQM__TRY(sqm__param_int(&op->head_dim, b->params, b->n_params, "head_dim", 0, 2, 1 << 16, b->err));
    SQM__TRY(sqm__param_int(&r.dims, b->params, b->n_params, "dims", op->head_dim, 2, op->head_dim, b->err));
    SQM__TRY(sqm__bind_choice(&op->choice, b, "style", sqm__style_names, SQM__COUNT(sqm__style_names)));
    if (op->dst != op->src || r.dims % 2 ||
        op->first + (int64_t)(op->heads - 1) * op->head_dim + r.dims > op->in_width)
        SQM__FAIL(b->err, SQM_E_SHAPE, r.dims,
                  "op %d: %d heads of %d from column %d do not fit rows of %d in place", b->line,
                  op->heads, op->head_dim, op->first, op->in_width);
    SQM__TRY(sqm__param_vector(&r.freq, b->params, b->n_params, "freq", r.dims / 2, b->err));
    SQM__TRY(sqm__param_vector(&r.freq_long, b->params, b->n_params, "freq_long", r.dims / 2, b->err));
    SQM__TRY(sqm__param_float(&r.attn_factor, b->params, b->n_params, "attn_factor", 1.0, b->err));
    SQM__TRY(sqm__param_float(&r.ntk_factor, b->params, b->n_params, "ntk_factor", 0.0, b->err));
    SQM__TRY(sqm__param_int(&r.long_from, b->params, b->n_params, "long_from", 0, 0, INT32_MAX, b->err));
    SQM__TRY(sqm__param_int(&r.ntk_length, b->params, b->n_params, "ntk_length", 0, 0, INT32_MAX, b->err));
    SQM__TRY(sqm__param_int(&r.divide, b->params, b->n_params, "divide", 0, 0, INT32_MAX, b->err));
    SQM__TRY(sqm__param_int(&r.period, b->params, b->n_params, "period", 0, 0, INT32_MAX, b->err));
    if (!r.freq) SQM__FAIL(b->err, SQM_E_SHAPE, b->line, "op %d: rope needs freq=", b->line);
    if (r.ntk_factor > 0.0f && (r.ntk_length < 1 || r.dims < 4))
        SQM__FAIL(b->err, SQM_E_SHAPE, r.ntk_length, "op %d: ntk_factor needs ntk_length > 0 and dims > 2",
                  b->line);
    for (rows = 0; rows < m->n_ropes; rows++)
        if (memcmp(&m->ropes[rows], &r, sizeof(r)) == 0) break;
    op->own = rows == m->n_ropes;       /* the first op of a table fills it */
    if (op->own) m->ropes[m->n_ropes++] = r;
    op->rope = rows;
    op->out_width = op->in_width;
    return SQM_OK;
}

static sqm_result sqm__bind_rope(sqm__binder *b, sqm__op *op)
{
    const sqm__rope_table *r;
    SQM__TRY(sqm__bind_rope_dynamic(b, op));
    r = &b->m->ropes[op->rope];
    if (r->freq_long || r->ntk_factor > 0.0f)
        SQM__FAIL(b->err, SQM_E_UNSUPPORTED, b->line,
                  "op %d: frequencies that follow the length need sqm_op_rope_dynamic", b->line);
    return SQM_OK;
}
static sqm_result sqm__bind_mix(sqm__binder *b, sqm__op *op)
{
    sqm_result r;
    if (op->dst == op->src) SQM__FAIL(b->err, SQM_E_FORMAT, op->dst, "op %d: a mixer cannot work in place",
                                      b->line);
    r = op->mixer->bind(op->bound, b->params, b->n_params, op->in_width, &op->out_width, b->err);
    if (r != SQM_OK) return r;
    op->slot = b->m->n_slots++;
    b->m->n_mixers++;
    b->m->mixer_flags |= op->mixer->flags;
    return SQM_OK;
}

/* One float32 vector as wide as the op's rows, or NULL */
static sqm_result sqm__bind_vector(const float **vector, sqm__binder *b, const char *key, int32_t width)
{
    return sqm__param_vector(vector, b->params, b->n_params, key, width, b->err);
}

static sqm_result sqm__bind_input(sqm__binder *b, sqm__op *op)
{
    if (op->src != SQM__REG_ROWS)
        SQM__FAIL(b->err, SQM_E_FORMAT, op->src, "op %d: input reads rows, not register %d", b->line,
                  op->src);
    SQM__TRY(sqm__param_int(&op->out_width, b->params, b->n_params, "width", 0, 1, 1 << 24, b->err));
    if (b->m->input_width && b->m->input_width != op->out_width)
        SQM__FAIL(b->err, SQM_E_SHAPE, op->out_width, "op %d: rows of %d columns, but another op reads %d",
                  b->line, op->out_width, b->m->input_width);
    b->m->input_width = op->out_width;
    return SQM_OK;
}

static sqm_result sqm__bind_head(sqm__binder *b, sqm__op *op)
{
    SQM__TRY(sqm__param_float(&op->number, b->params, b->n_params, "softcap", 0.0, b->err));
    op->out_width = op->in_width;
    if (sqm__param(b->params, b->n_params, "w")) SQM__TRY(sqm__bind_weights(b, op));
    else if (sqm__param(b->params, b->n_params, "b") || sqm__param(b->params, b->n_params, "scale"))
        SQM__FAIL(b->err, SQM_E_SHAPE, b->line, "op %d: a head without w= has no b= and no scale=", b->line);
    b->m->vocab_size = op->out_width;
    return SQM_OK;
}

/* first= count= of an op that keeps the width: some columns only in place. groups= of those columns. */
static sqm_result sqm__bind_columns(sqm__binder *b, sqm__op *op)
{
    SQM__TRY(sqm__param_int(&op->first, b->params, b->n_params, "first", 0, 0, op->in_width - 1, b->err));
    SQM__TRY(sqm__param_int(&op->count, b->params, b->n_params, "count", op->in_width - op->first, 1,
                            op->in_width - op->first, b->err));
    SQM__TRY(sqm__param_int(&op->groups, b->params, b->n_params, "groups", 1, 1, op->count, b->err));
    if (op->count % op->groups)
        SQM__FAIL(b->err, SQM_E_SHAPE, op->count, "op %d: %d columns do not divide into %d groups", b->line,
                  op->count, op->groups);
    if (op->count != op->in_width && op->dst != op->src)
        SQM__FAIL(b->err, SQM_E_SHAPE, op->dst, "op %d: only some columns in another register", b->line);
    op->out_width = op->in_width;
    return SQM_OK;
}

/* Ops that make rows of another width out of groups of columns; not in place. */
static sqm_result sqm__bind_groups(sqm__binder *b, sqm__op *op)
{
    int64_t each, width;
    SQM__TRY(sqm__bind_columns(b, op));
    if (op->dst == op->src) SQM__FAIL(b->err, SQM_E_FORMAT, op->dst, "op %d: cannot work in place", b->line);
    each = op->in_width / op->groups;
    if (op->kind == SQM__OP_REDUCE) {
        SQM__TRY(sqm__bind_choice(&op->choice, b, "kind", sqm__reduce_names, 3));
        width = 1;
    } else if (op->kind == SQM__OP_MIRROR) {
        width = 2 * each;
    } else if (op->kind == SQM__OP_MONOMIALS) {
        width = 1 + each + each * (each + 1) / 2;
    } else {
        int32_t out;
        SQM__TRY(sqm__param_int(&out, b->params, b->n_params, "out", 0, 1, 1 << 24, b->err));
        SQM__TRY(sqm__param_int(&op->own, b->params, b->n_params, "shared", 0, 0, 1, b->err));
        op->own = !op->own;
        width = out;
        if (each * out * (op->own ? op->groups : 1) > INT32_MAX)
            SQM__FAIL(b->err, SQM_E_LIMIT, out, "op %d: blocks of %d outputs are too large", b->line, out);
        SQM__TRY(sqm__param_vector(&op->gain, b->params, b->n_params, "w",
                                   (int32_t)(each * out * (op->own ? op->groups : 1)), b->err));
        if (!op->gain) SQM__FAIL(b->err, SQM_E_SHAPE, b->line, "op %d: blocks need w=", b->line);
    }
    if (width * op->groups > INT32_MAX)
        SQM__FAIL(b->err, SQM_E_LIMIT, op->in_width, "op %d: outputs are too wide", b->line);
    op->out_width = (int32_t)width * op->groups;
    return SQM_OK;
}

static sqm_result sqm__bind_combine(sqm__binder *b, sqm__op *op)
{
    const int32_t weights = b->width[op->src2];
    SQM__TRY(sqm__param_int(&op->heads, b->params, b->n_params, "out", 0, 1, weights, b->err));
    SQM__TRY(sqm__param_int(&op->groups, b->params, b->n_params, "groups", 1, 1, op->in_width, b->err));
    SQM__TRY(sqm__param_int(&op->first, b->params, b->n_params, "first", 0, 0, weights - 1, b->err));
    if (op->dst == op->src || op->dst == op->src2 || op->in_width % op->groups ||
        op->first + (int64_t)op->groups * op->heads > weights ||
        (int64_t)op->heads * (op->in_width / op->groups) > INT32_MAX)
        SQM__FAIL(b->err, SQM_E_SHAPE, op->in_width,
                  "op %d: %d columns in %d groups and %d weights do not combine to %d groups, or in place",
                  b->line, op->in_width, op->groups, weights, op->heads);
    op->count = weights;
    op->out_width = op->heads * (op->in_width / op->groups);
    return SQM_OK;
}
static sqm_result sqm__bind_sinkhorn(sqm__binder *b, sqm__op *op)
{
    SQM__TRY(sqm__param_int(&op->heads, b->params, b->n_params, "n", 0, 1, 1 << 12, b->err));
    SQM__TRY(sqm__param_int(&op->own, b->params, b->n_params, "iterations", 0, 1, 1 << 12, b->err));
    SQM__TRY(sqm__param_int(&op->first, b->params, b->n_params, "first", 0, 0, op->in_width - 1, b->err));
    SQM__TRY(sqm__param_float(&op->number, b->params, b->n_params, "eps", 0.0, b->err));
    if (op->dst != op->src || op->first + (int64_t)op->heads * op->heads > op->in_width)
        SQM__FAIL(b->err, SQM_E_SHAPE, op->heads,
                  "op %d: a matrix of %d rows from column %d of %d on, or in another register", b->line,
                  op->heads, op->first, op->in_width);
    op->out_width = op->in_width;
    return SQM_OK;
}

static sqm_result sqm__bind_clip(sqm__binder *b, sqm__op *op)
{
    SQM__TRY(sqm__param_float(&op->low, b->params, b->n_params, "low", -1e30, b->err));
    SQM__TRY(sqm__param_float(&op->high, b->params, b->n_params, "high", 1e30, b->err));
    if (!(op->low <= op->high))
        SQM__FAIL(b->err, SQM_E_SHAPE, b->line, "op %d: clip needs low <= high", b->line);
    return sqm__bind_columns(b, op);
}

static sqm_result sqm__bind_linear(sqm__binder *b, sqm__op *op)
{
    if (op->dst == op->src) SQM__FAIL(b->err, SQM_E_FORMAT, op->dst, "op %d: linear cannot work in place",
                                      b->line);
    return sqm__bind_weights(b, op);
}
static sqm_result sqm__bind_affine(sqm__binder *b, sqm__op *op)
{
    SQM__TRY(sqm__bind_columns(b, op));
    SQM__TRY(sqm__bind_vector(&op->gain, b, "w", op->count));
    return sqm__bind_vector(&op->bias, b, "b", op->count);
}
static sqm_result sqm__bind_cat(sqm__binder *b, sqm__op *op)
{
    if (b->width[op->src2] > INT32_MAX - op->in_width || op->dst == op->src || op->dst == op->src2)
        SQM__FAIL(b->err, SQM_E_SHAPE, op->in_width, "op %d: cat in place, or of too wide rows", b->line);
    op->out_width = op->in_width + b->width[op->src2];
    SQM__TRY(sqm__param_int(&op->groups, b->params, b->n_params, "groups", 1, 1, op->in_width, b->err));
    if (op->in_width % op->groups || b->width[op->src2] % op->groups)
        SQM__FAIL(b->err, SQM_E_SHAPE, op->groups, "op %d: %d and %d columns do not divide into %d groups",
                  b->line, op->in_width, b->width[op->src2], op->groups);
    return SQM_OK;
}
static sqm_result sqm__bind_act(sqm__binder *b, sqm__op *op)
{
    SQM__TRY(sqm__bind_columns(b, op));
    return sqm__bind_choice(&op->choice, b, "kind", sqm__act_names, SQM_ACT_COUNT);
}
static sqm_result sqm__bind_glu(sqm__binder *b, sqm__op *op)
{
    op->out_width = op->in_width / 2;
    if (op->in_width % 2) SQM__FAIL(b->err, SQM_E_SHAPE, op->in_width, "op %d: glu of an odd width %d",
                                    b->line, op->in_width);
    return sqm__bind_choice(&op->choice, b, "act", sqm__act_names, SQM_ACT_COUNT);
}
static sqm_result sqm__bind_gate(sqm__binder *b, sqm__op *op)
{
    op->out_width = op->in_width;
    SQM__TRY(sqm__param_int(&op->first, b->params, b->n_params, "first", 0, 0, b->width[op->src2] - 1,
                            b->err));
    if (op->in_width > b->width[op->src2] - op->first || (op->dst == op->src2 && op->dst != op->src))
        SQM__FAIL(b->err, SQM_E_SHAPE, op->in_width,
                  "op %d: %d columns cannot be gated by r%d from column %d of %d", b->line, op->in_width,
                  op->src2, op->first, b->width[op->src2]);
    op->count = b->width[op->src2];
    return sqm__bind_choice(&op->choice, b, "act", sqm__act_names, SQM_ACT_COUNT);
}
/* add, mul */
static sqm_result sqm__bind_pair(sqm__binder *b, sqm__op *op)
{
    op->out_width = op->in_width;
    op->groups = b->width[op->src2];
    if (op->in_width % op->groups || (op->groups != op->in_width && op->dst == op->src2))
        SQM__FAIL(b->err, SQM_E_SHAPE, op->in_width, "op %d: r%d has %d columns, r%d has %d", b->line,
                  op->src, op->in_width, op->src2, b->width[op->src2]);
    return SQM_OK;
}
static sqm_result sqm__bind_scale(sqm__binder *b, sqm__op *op)
{
    SQM__TRY(sqm__bind_columns(b, op));
    SQM__TRY(sqm__param_float(&op->low, b->params, b->n_params, "grow", 0.0, b->err));
    SQM__TRY(sqm__param_int(&op->divide, b->params, b->n_params, "every", 1, 1, INT32_MAX, b->err));
    SQM__TRY(sqm__param_int(&op->offset, b->params, b->n_params, "shift", 0, 0, 1, b->err));
    return sqm__param_float(&op->number, b->params, b->n_params, "by", 1.0, b->err);
}
static sqm_result sqm__bind_softcap(sqm__binder *b, sqm__op *op)
{
    SQM__TRY(sqm__bind_columns(b, op));
    SQM__TRY(sqm__param_float(&op->number, b->params, b->n_params, "cap", 0.0, b->err));
    if (!(op->number > 0.0f)) SQM__FAIL(b->err, SQM_E_SHAPE, b->line, "op %d: softcap needs cap > 0",
                                        b->line);
    return SQM_OK;
}
static sqm_result sqm__bind_softmax(sqm__binder *b, sqm__op *op)
{
    SQM__TRY(sqm__bind_columns(b, op));
    return sqm__param_float(&op->number, b->params, b->n_params, "scale", 1.0, b->err);
}
static sqm_result sqm__bind_pick(sqm__binder *b, sqm__op *op)
{
    if (op->dst == op->src || op->dst == op->src2)
        SQM__FAIL(b->err, SQM_E_FORMAT, op->dst, "op %d: cannot work in place", b->line);
    op->count = b->width[op->src2];
    op->out_width = op->in_width;
    return SQM_OK;
}
static sqm_result sqm__bind_copy(sqm__binder *b, sqm__op *op)
{
    SQM__TRY(sqm__param_int(&op->first, b->params, b->n_params, "first", 0, 0, op->in_width - 1, b->err));
    SQM__TRY(sqm__param_int(&op->count, b->params, b->n_params, "count", op->in_width - op->first, 1,
                            op->in_width - op->first, b->err));
    op->out_width = op->count;
    if (op->dst == op->src && op->count != op->in_width)
        SQM__FAIL(b->err, SQM_E_FORMAT, op->dst, "op %d: copy onto itself", b->line);
    return SQM_OK;
}

/* Sources must hold something; then width of the first is the op's input width. */
static sqm_result sqm__bind_sources(sqm__binder *b, sqm__op *op)
{
    const int32_t n = op->type->n_sources;
    if (op->kind == SQM__OP_EMBED || op->kind == SQM__OP_INPUT) return SQM_OK;
    for (int32_t i = 0; i < n; i++) {
        const int32_t reg = i ? op->src2 : op->src;
        if (reg < 0 || reg >= SQM__REGISTERS || b->width[reg] == 0)
            SQM__FAIL(b->err, SQM_E_FORMAT, reg, "op %d (%s): reads register %d, which nothing has written",
                      b->line,
                      op->type->name, reg);
    }
    op->in_width = b->width[op->src];
    return SQM_OK;
}

static sqm_result sqm__bind_op(sqm__binder *b, const sqm__file_op *from, sqm__op *op)
{
    sqm_model *m = b->m;
    const int is_head = from->op == SQM__OP_HEAD;
    op->kind = (uint8_t)from->op;
    op->dst = from->dst;
    op->src = from->src;
    op->src2 = from->src2;
    op->line = b->line;
    if (is_head ? op->dst != SQM__REG_LOGITS : op->dst >= SQM__REGISTERS)
        SQM__FAIL(b->err, SQM_E_FORMAT, op->dst, "op %d (%s): cannot write register %d", b->line,
                  op->type->name, op->dst);
    if (m->vocab_size) SQM__FAIL(b->err, SQM_E_FORMAT, b->line, "op %d: nothing may follow the head",
                                 b->line);
    SQM__TRY(sqm__bind_sources(b, op));
    SQM__TRY(sqm__bind_params(b, from, op->type, op->mixer ? op->mixer->keys : op->type->keys));
    SQM__TRY(sqm__param_int(&op->add, b->params, b->n_params, "add", 0, 0, 1, b->err));
    SQM__TRY(op->type->bind(b, op));
    if (op->add && b->width[op->dst] != op->out_width)
        SQM__FAIL(b->err, SQM_E_SHAPE, op->out_width, "op %d: adds %d columns to r%d, which has %d", b->line,
                  op->out_width,
                  op->dst, b->width[op->dst]);
    if (!is_head) {
        b->width[op->dst] = op->out_width;
        m->width[op->dst] = sqm__max(m->width[op->dst], op->out_width);
    }
    return SQM_OK;
}

/* Messages of mixers and about single parameters do not know their op: puts it in front. */
static sqm_result sqm__name_op(sqm_error *err, sqm_result r, int32_t line, const sqm_op *type)
{
#if SQM__HAVE_ERROR_TEXT
    if (err && strncmp(err->text, "op ", 3) != 0) {
        const sqm_error from = *err;
        sqm__fail(err, r, from.line, from.value, "op %d (%s): %s", line, type->name, from.text);
    }
#endif
    (void)err; (void)line; (void)type;
    return r;
}

static const sqm_op *sqm__find_op(const sqm_op *const *ops, int32_t kind)
{
    for (; ops && *ops; ops++)
        if ((*ops)->kind == kind) return *ops;
    return NULL;
}
static const sqm_mixer *sqm__find_mixer(const sqm_mixer *const *mixers, const char *name)
{
    for (; mixers && *mixers; mixers++)
        if (sqm__same_text((*mixers)->name, name)) return *mixers;
    return NULL;
}

/* ---- opening ------------------------------------------------------------------------------------------- */
/* Sizes of what a model lays out: of this build, or of another machine (tools/sqm-info --target). */
typedef struct sqm__bound_size {
    const char *mixer;
    size_t      bytes;
} sqm__bound_size;
typedef struct sqm__model_sizes {
    size_t pointer, model, op, linear, moe, rope_table, tensor, param;
    const sqm__bound_size *bound;       /* [n] of mixers, the last one without name; NULL: they know it */
} sqm__model_sizes;
static const sqm__model_sizes sqm__own_model_sizes = {
    sizeof(void *), sizeof(sqm_model), sizeof(sqm__op), sizeof(sqm__linear), sizeof(sqm__moe),
    sizeof(sqm__rope_table), sizeof(sqm_tensor), sizeof(sqm_param), NULL
};
static size_t sqm__bound_bytes(const sqm__model_sizes *sizes, const sqm_mixer *mixer)
{
    const sqm__bound_size *b = sizes->bound;
    while (b && b->mixer && !sqm__same_text(b->mixer, mixer->name)) b++;
    return b ? b->bytes : mixer->bound_bytes;
}
/* Lays a model out in the arena; with a counting arena only its size comes out. */
static sqm_result sqm__model_layout(sqm_model **out, sqm_param **params, sqm__arena *arena,
                                    const sqm__file *f, const sqm_open_options *o,
                                    const sqm__model_sizes *sizes, sqm_error *err)
{
    sqm_model *m = (sqm_model *)sqm__arena_push(arena, sizes->model, 16), empty;
    const size_t n_ops = (size_t)f->n_ops, n_lists = (size_t)f->n_lists;
    size_t n_ropes = 0;
    int32_t most = 1;
    if (!m) m = &empty;
    memset(m, 0, sizeof(*m));
    m->file = *f;
    m->n_ops = f->n_ops;
    m->ops = (sqm__op *)sqm__arena_push(arena, n_ops * sizes->op, 8);
    for (int32_t i = 0; i < f->n_ops; i++) n_ropes += f->ops[i].op == SQM__OP_ROPE;
    m->ropes = (sqm__rope_table *)sqm__arena_push(arena, n_ropes * sizes->rope_table, 8);
    m->views = (sqm_tensor *)sqm__arena_push(arena, n_lists * sizes->tensor, 8);
    m->view_pointers = (const sqm_tensor **)sqm__arena_push(arena, n_lists * sizes->pointer, 8);
    m->vectors = (const float **)sqm__arena_push(arena, n_lists * sizes->pointer, 8);
    for (int32_t i = 0; i < f->n_ops; i++) {
        const sqm__file_op *op = &f->ops[i];
        const sqm_op *type = sqm__find_op(o ? o->ops : NULL, op->op);
        const sqm_mixer *mixer = NULL;
        void *bound = NULL, *linear, *moe;
        if (!type)
            SQM__FAIL(err, SQM_E_UNSUPPORTED, op->op, "op %d has number %d, which is not among those given",
                      i, (int32_t)op->op);
        if (op->op == SQM__OP_MIX) {
            mixer = sqm__find_mixer(o->mixers, sqm__file_text(f, op->mixer));
            if (!mixer)
                SQM__FAIL(err, SQM_E_UNSUPPORTED, i, "op %d: mixer '%s' is not among those given", i,
                          sqm__file_text(f, op->mixer));
            bound = sqm__arena_push(arena, sqm__bound_bytes(sizes, mixer), 8);
        }
        linear = type->parts & SQM__PART_LINEAR ? sqm__arena_push(arena, sizes->linear, 8) : NULL;
        moe = type->parts & SQM__PART_MOE ? sqm__arena_push(arena, sizes->moe, 8) : NULL;
        if (m->ops && !arena->full) {
            memset(&m->ops[i], 0, sizeof(sqm__op));
            m->ops[i].linear = (sqm__linear *)linear;
            m->ops[i].moe = (sqm__moe *)moe;
            if (linear) memset(linear, 0, sizeof(sqm__linear));
            if (moe) memset(moe, 0, sizeof(sqm__moe));
            m->ops[i].type = type;
            m->ops[i].mixer = mixer;
            m->ops[i].bound = bound;
        }
        most = sqm__max(most, (int32_t)op->n_params);
    }
    *params = (sqm_param *)sqm__arena_push(arena, (size_t)most * sizes->param, 8);
    *out = m == &empty ? NULL : m;
    return SQM_OK;
}

static void sqm__model_views(sqm_model *m)
{
    for (int32_t i = 0; i < m->file.n_lists; i++) {
        const uint32_t index = m->file.lists[i];
        m->view_pointers[i] = NULL;
        m->vectors[i] = NULL;
        memset(&m->views[i], 0, sizeof(sqm_tensor));
        if (index == 0xffffffffu) continue;
        m->views[i] = sqm__file_tensor_view(&m->file, (int32_t)index);
        m->view_pointers[i] = &m->views[i];
        if (m->views[i].dtype == SQM_F32 && m->views[i].layout == SQM_ROWS) m->vectors[i] =
            (const float *)m->views[i].data;
    }
}

/* Decimal number at the start of a text, 0 when there is none or it is too large. */
static int32_t sqm__parse_count(const char *text)
{
    int64_t v = 0;
    for (; text && *text >= '0' && *text <= '9' && v <= INT32_MAX; text++) v = v * 10 + (*text - '0');
    return v <= INT32_MAX ? (int32_t)v : 0;
}

static sqm_result sqm__model_bind(sqm_model *m, sqm_param *params, sqm_error *err)
{
    sqm__binder b;
    memset(&b, 0, sizeof(b));
    b.m = m;
    b.params = params;
    b.err = err;
    m->max_context = sqm__parse_count(sqm_model_meta(m, "max_context"));
    sqm__model_views(m);
    for (int32_t i = 0; i < m->n_ops; i++) {
        b.line = i;
        const sqm_result r = sqm__bind_op(&b, &m->file.ops[i], &m->ops[i]);
        if (r != SQM_OK) return sqm__name_op(err, r, i, m->ops[i].type);
    }
    if (m->n_tokens == 0 && m->input_width == 0)
        SQM__FAIL(err, SQM_E_FORMAT, m->n_ops, "the recipe reads no input: no embed of tokens, no input");
    if (m->vocab_size == 0) SQM__FAIL(err, SQM_E_FORMAT, m->n_ops, "the recipe has no head");
#if SQM__HAVE_TOKENIZER
    if (m->file.token_bytes) {
        SQM__TRY(sqm__tok_open(&m->tok, m->file.tokens, m->file.token_bytes, err));
        m->has_tok = 1;                 /* may know more tokens than the table has rows */
    }
#endif
    return SQM_OK;
}

static size_t sqm__model_size(const void *image, size_t image_bytes, const sqm_open_options *o,
                              const sqm__model_sizes *sizes, sqm_error *err)
{
    sqm__file f;
    sqm__arena arena;
    sqm_model *m;
    sqm_param *params;
    memset(&arena, 0, sizeof(arena));
    if (sqm__file_open(&f, image, image_bytes, 0, err) != SQM_OK) return 0;
    if (sqm__model_layout(&m, &params, &arena, &f, o, sizes, err) != SQM_OK) return 0;
    if (arena.full) {
        (void)sqm__fail(err, SQM_E_LIMIT, __LINE__, 0, "the model index does not fit the address space");
        return 0;
    }
    return sqm__align_up(arena.used, 16);
}
SQMDEF size_t sqm_open_size(const void *image, size_t image_bytes, const sqm_open_options *o, sqm_error *err)
{
    return sqm__model_size(image, image_bytes, o, &sqm__own_model_sizes, err);
}

SQMDEF sqm_result sqm_open(sqm_model **out, const void *image, size_t image_bytes, const sqm_open_options *o,
                           void *memory, size_t memory_bytes, sqm_error *err)
{
    const size_t need = sqm_open_size(image, image_bytes, o, err);
    sqm__file f;
    sqm__arena arena;
    sqm_model *m = NULL;
    sqm_param *params;
    if (!out) SQM__FAIL(err, SQM_E_ARGUMENT, 0, "sqm_open needs somewhere to put the model");
    *out = NULL;
    if (!need) return err ? err->code : sqm__file_open(&f, image, image_bytes, 0, NULL) == SQM_OK
        ? SQM_E_UNSUPPORTED : SQM_E_FORMAT;
    if (!memory || memory_bytes < need || (uintptr_t)memory % 16)
        SQM__FAIL(err, SQM_E_MEMORY, need, "the model needs %z bytes aligned to 16, was given %z",
                  (uint64_t)need,
                  (uint64_t)memory_bytes);
    memset(&arena, 0, sizeof(arena));
    arena.base = (uint8_t *)memory;
    arena.size = memory_bytes;
    SQM__TRY(sqm__file_open(&f, image, image_bytes, o ? o->flags : 0, err));
    SQM__TRY(sqm__model_layout(&m, &params, &arena, &f, o, &sqm__own_model_sizes, err));
    SQM__TRY(sqm__model_bind(m, params, err));
    *out = m;
    return SQM_OK;
}

#if SQM__HAVE_MALLOC
SQMDEF sqm_model *sqm_load_memory(const void *image, size_t image_bytes, const sqm_open_options *o,
                                  sqm_error *err)
{
    sqm_open_options all;
    sqm_model *m = NULL;
    void *memory;
    size_t need;
    memset(&all, 0, sizeof(all));
    if (o) all = *o;
    if (!all.mixers) all.mixers = sqm_all_mixers();
    if (!all.ops) all.ops = sqm_all_ops();
    need = sqm_open_size(image, image_bytes, &all, err);
    if (!need) return NULL;
    memory = malloc(need);
    if (!memory) {
        (void)sqm__fail(err, SQM_E_MEMORY, __LINE__, (uint64_t)need,
                        "no memory for the model index: %z bytes", (uint64_t)need);
        return NULL;
    }
    if (sqm_open(&m, image, image_bytes, &all, memory, need, err) != SQM_OK) {
        free(memory);
        return NULL;
    }
    m->owned_memory = memory;
    return m;
}

#if SQM__HAVE_STDIO
/* The whole file: mapped where the system can, else read into memory aligned to 64. */
#if SQM__HAVE_MMAP
static void *sqm__map_file(const char *path, size_t *bytes, sqm_error *err)
{
    struct stat info;
    void *image = MAP_FAILED;
    const int fd = open(path, O_RDONLY);
    *bytes = 0;
    if (fd < 0) { (void)sqm__fail(err, SQM_E_IO, __LINE__, 0, "cannot open '%s'", path); return NULL; }
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0 &&
        (uint64_t)info.st_size <= (size_t)-1) {
        *bytes = (size_t)info.st_size;
        image = mmap(NULL, *bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    }
    (void)close(fd);
    if (image == MAP_FAILED) {
        (void)sqm__fail(err, SQM_E_IO, __LINE__, *bytes, "cannot map '%s' (%z bytes)", path,
                        (uint64_t)*bytes);
        return NULL;
    }
    return image;
}
static void sqm__unmap_file(void *image, size_t bytes) { (void)munmap(image, bytes); }
#else
static void *sqm__map_file(const char *path, size_t *bytes, sqm_error *err)
{
    FILE *file = fopen(path, "rb");
    long size = -1;
    uint8_t *raw = NULL, *image = NULL;
    *bytes = 0;
    if (!file) { (void)sqm__fail(err, SQM_E_IO, __LINE__, 0, "cannot open '%s'", path); return NULL; }
    if (fseek(file, 0, SEEK_END) == 0) size = ftell(file);
    if (size > 0 && fseek(file, 0, SEEK_SET) == 0) raw = (uint8_t *)malloc((size_t)size + 128);
    if (raw) {                          /* the pointer to free stands right before the image */
        image = raw + 64 + (64 - ((uintptr_t)raw + 64) % 64) % 64;
        memcpy(image - sizeof(raw), &raw, sizeof(raw));
        *bytes = (size_t)size;
        if (fread(image, 1, *bytes, file) != *bytes) { free(raw); image = NULL; }
    }
    (void)fclose(file);
    if (!image) (void)sqm__fail(err, SQM_E_IO, __LINE__, *bytes, "cannot read '%s'", path);
    return image;
}
static void sqm__unmap_file(void *image, size_t bytes)
{
    void *raw;
    (void)bytes;
    memcpy(&raw, (uint8_t *)image - sizeof(raw), sizeof(raw));
    free(raw);
}
#endif

SQMDEF sqm_model *sqm_load_file(const char *path, const sqm_open_options *o, sqm_error *err)
{
    size_t bytes;
    sqm_model *m;
    void *image;
    if (!path) { (void)sqm__fail(err, SQM_E_ARGUMENT, __LINE__, 0, "no file name"); return NULL; }
    image = sqm__map_file(path, &bytes, err);
    if (!image) return NULL;
    m = sqm_load_memory(image, bytes, o, err);
    if (!m) { sqm__unmap_file(image, bytes); return NULL; }
    m->owned_image = image;
    m->owned_bytes = bytes;
    return m;
}
#endif

SQMDEF void sqm_model_free(sqm_model *m)
{
    if (!m) return;
#if SQM__HAVE_STDIO
    if (m->owned_image) sqm__unmap_file(m->owned_image, m->owned_bytes);
#endif
    free(m->owned_memory);
}
#endif

/* ---- what is inside ------------------------------------------------------------------------------------ */
SQMDEF const char *sqm_model_meta(const sqm_model *m, const char *key)
{
    return m && key ? sqm__file_find_meta(&m->file, key) : NULL;
}

/* What products with weights cost. A row of an embedding is too little to count; of experts only some run. */
static void sqm__count_products(sqm_model_info *info, const sqm_model *m)
{
    for (int32_t i = 0; i < m->n_ops; i++) {
        const sqm__op *op = &m->ops[i];
        if (op->kind != SQM__OP_LINEAR && op->kind != SQM__OP_HEAD) continue;
        for (int32_t k = 0; k < op->linear->n_weights; k++) {
            const sqm_tensor *w = &op->linear->weights[k];
            const uint64_t products = (uint64_t)w->shape[0] * (uint64_t)w->shape[1];
            *(op->kind == SQM__OP_HEAD ? &info->head_products : &info->token_products) += products;
            if (w->dtype >= SQM_Q8) info->coded_products += products;
            info->token_bytes += sqm_tensor_bytes(w->dtype, w->layout, w->ndim, w->shape);
        }
    }
}
SQMDEF void sqm_model_get_info(const sqm_model *m, sqm_model_info *info)
{
    const char *name = sqm_model_meta(m, "name");
    memset(info, 0, sizeof(*info));
    info->dim = m->width[0];
    info->vocab_size = m->vocab_size;
    info->n_tokens = m->n_tokens;
    info->input_width = m->input_width;
    info->max_context = m->max_context;
    info->n_ops = m->n_ops;
    info->n_mixers = m->n_mixers;
    info->n_tensors = m->file.n_tensors;
    info->has_tokenizer = m->has_tok;
    info->name = name ? name : "";
    for (int32_t i = 0; i < m->file.n_tensors; i++) {
        const sqm__file_tensor *t = &m->file.tensors[i];
        uint64_t n = 1;
        for (int d = 0; d < SQM_MAX_DIMS; d++) n *= (uint64_t)t->shape[d];
        info->parameters += n;
        info->weight_bytes += t->bytes;
    }
    sqm__count_products(info, m);
}

SQMDEF sqm_result sqm_model_tensor(const sqm_model *m, int32_t i, const char **name, sqm_tensor *t)
{
    if (!m || i < 0 || i >= m->file.n_tensors) return SQM_E_ARGUMENT;
    if (name) *name = sqm__file_text(&m->file, m->file.tensors[i].name);
    if (t) *t = sqm__file_tensor_view(&m->file, i);
    return SQM_OK;
}

SQMDEF sqm_result sqm_model_find_tensor(const sqm_model *m, const char *name, sqm_tensor *t)
{
    const int32_t i = m && name ? sqm__file_find(&m->file, name) : -1;
    return i < 0 ? SQM_E_ARGUMENT : sqm_model_tensor(m, i, NULL, t);
}
/* ==== [SESS] Sessions ======================================================================================
   All that changes while a model runs: registers, states, scratch, logits, in one block whose size is known
   before it exists. Feeding cuts the rows of one or many sequences into batches and runs the recipe over
   each; all checks come first, so a refused call leaves the session as it was. Tested by tests/test_sess.c
   (splits, batches, threads, fork, save). */
struct sqm_session {
    const sqm_model    *model;
    sqm_session_config  config;         /* with defaults filled in */
    sqm_exec            exec;
    float              *registers[SQM__REGISTERS];
    float             **rope_tables;    /* [n_ropes] [max_batch, dims] */
    float              *head_rows;      /* rows gathered for the head */
    float              *logits;         /* [n_sequences, vocab_size] */
    uint8_t            *states;         /* [n_sequences, state_bytes] */
    size_t             *slot_offset;    /* [n_slots + 1] within a sequence's states */
    size_t              state_bytes;
    int32_t            *position;       /* [n_sequences] tokens fed */
    uint8_t            *has_logits;     /* [n_sequences] */
    sqm_span           *spans;          /* [n_sequences] of the current batch */
    int32_t            *span_seq;       /* [n_sequences] whose spans they are */
    const int32_t     **row_tokens;     /* [n_sequences] tokens of each span, or NULL */
    const float       **row_values;     /* [n_sequences] rows [input_width] of each span, or NULL */
    int32_t             n_spans, n_rows;
    float              *all_logits;     /* sqm_feed_all: where the batch's logits go, else NULL */
    uint8_t            *wants_logits;   /* [n_sequences] the span ends its input */
    void               *owned_memory;
};

/* ---- layout -------------------------------------------------------------------------------------------- */
typedef struct sqm__expert_rows {       /* the rows of one expert while it runs; sizes for a whole batch */
    float   *in, *hidden, *inner, *out;
    int32_t *row;                       /* which rows of the batch they are */
    size_t   linear_bytes;              /* scratch of products, in front of all this */
} sqm__expert_rows;
/* Bytes for the rows of an expert; where they lie when there is a base. */
static size_t sqm__experts_scratch(const sqm__op *op, const sqm_session_config *c, uint8_t *base)
{
    const int32_t rows = c->max_batch;
    sqm__expert_rows *r = (sqm__expert_rows *)(void *)base;
    const int32_t hidden = op->linear->weights[0].shape[0];
    const int32_t inner = op->moe->gating.slots ? 0 : op->moe->down.weights[0].shape[1];
    const size_t n = (size_t)rows, widths[4] = { (size_t)op->in_width, (size_t)hidden, (size_t)inner,
                                                 (size_t)op->out_width };
    const size_t head = sqm__align_up(sizeof(*r), 64), linear =
        sqm__align_up(sqm__linear_scratch(rows, sqm__max(op->in_width, inner), c->threads, c->precision), 64);
    float *at[4] = { NULL, NULL, NULL, NULL };
    size_t used = head + linear;
    for (int i = 0; i < 4; i++) {
        at[i] = base ? (float *)(void *)(base + used) : NULL;
        used += sqm__align_up(n * widths[i] * sizeof(float), 64);
    }
    if (r) {
        r->in = at[0]; r->hidden = at[1]; r->inner = at[2]; r->out = at[3];
        r->row = (int32_t *)(void *)(base + used);
        r->linear_bytes = linear;
    }
    return used + n * sizeof(int32_t);
}
/* Columns that a linear op rounds: all of its input; weights apart begin groups of their own. */
static int32_t sqm__linear_columns(const sqm__op *op)
{
    const int64_t each = op->linear->n_weights ? op->linear->weights[0].shape[1] : 0;
    const int64_t all = (each + SQM__GROUP - 1) / SQM__GROUP * SQM__GROUP * op->linear->n_weights;
    if (!op->linear->apart) return op->in_width;
    return all < INT32_MAX - SQM__GROUP ? (int32_t)all : INT32_MAX - SQM__GROUP;
}
static size_t sqm__linear_op_scratch(const sqm__op *op, const sqm_model *m, const sqm_session_config *c)
{
    (void)m;
    return sqm__linear_scratch(sqm__max(c->max_batch, c->n_sequences), sqm__linear_columns(op), c->threads,
                               c->precision);
}
static size_t sqm__experts_op_scratch(const sqm__op *op, const sqm_model *m, const sqm_session_config *c)
{
    (void)m;
    return sqm__experts_scratch(op, c, NULL);
}
static size_t sqm__route_op_scratch(const sqm__op *op, const sqm_model *m, const sqm_session_config *c)
{
    (void)m; (void)c;
    return (size_t)op->in_width * 2 * sizeof(float);
}
static size_t sqm__embed_op_scratch(const sqm__op *op, const sqm_model *m, const sqm_session_config *c)
{
    (void)m; (void)c;
    return op->add ? (size_t)op->out_width * sizeof(float) : 0;
}
static size_t sqm__rope_op_scratch(const sqm__op *op, const sqm_model *m, const sqm_session_config *c)
{
    (void)c;
    return m->ropes[op->rope].ntk_factor > 0.0f ? (size_t)m->ropes[op->rope].dims * sizeof(float) : 0;
}
static size_t sqm__mix_op_scratch(const sqm__op *op, const sqm_model *m, const sqm_session_config *c)
{
    (void)m;
    return op->mixer->scratch_bytes(op->bound, c->max_context, c->max_batch, c->threads);
}
static size_t sqm__session_scratch_bytes(const sqm_model *m, const sqm_session_config *c)
{
    size_t most = m->n_tokens ? sqm_sample_size(m->vocab_size) + 1024 : 0;     /* for [GEN] */
    for (int32_t i = 0; i < m->n_ops; i++) {
        const sqm__op *op = &m->ops[i];
        const size_t need = op->type->scratch ? op->type->scratch(op, m, c) : 0;
        if (need > most) most = need;
    }
    return sqm__align_up(most, 64);
}

static sqm_dtype sqm__kv_dtype(const sqm_session_config *c)
{
    return c->kv == SQM_KV_F16 ? SQM_F16 : c->kv == SQM_KV_Q8 ? SQM_I8 : SQM_F32;
}

/* Offsets of the slots of one sequence; the last entry is the size of
   all. Returns 0 when it does not fit size_t. */
static int sqm__session_slots(size_t *offsets, size_t *total, const sqm_model *m, const sqm_session_config *c)
{
    int32_t slot = 0;
    *total = 0;
    for (int32_t i = 0; i < m->n_ops; i++) {
        const sqm__op *op = &m->ops[i];
        size_t bytes;
        if (op->kind != SQM__OP_MIX) continue;
        bytes = op->mixer->state_bytes(op->bound, c->max_context, c->max_batch, sqm__kv_dtype(c));
        if (bytes > (size_t)-1 / 2 - *total) return 0;
        if (offsets) offsets[slot] = *total;
        slot++;
        *total = sqm__align_up(*total + bytes, 64);
    }
    if (offsets) offsets[slot] = *total;
    return 1;
}

static void *sqm__push_product(sqm__arena *a, size_t n, size_t each, size_t align)
{
    if (each && n > (size_t)-1 / 2 / each) { a->full = 1; return NULL; }
    return sqm__arena_push(a, n * each, align);
}

typedef struct sqm__session_sizes {     /* like sqm__model_sizes */
    size_t pointer, size, session, span;
} sqm__session_sizes;
static const sqm__session_sizes sqm__own_session_sizes = {
    sizeof(void *), sizeof(size_t), sizeof(sqm_session), sizeof(sqm_span)
};
static sqm_result sqm__session_layout(sqm_session **out, sqm__arena *a, const sqm_model *m,
                                      const sqm_session_config *c, const sqm__session_sizes *sizes,
                                      sqm_error *err)
{
    sqm_session empty, *s = (sqm_session *)sqm__arena_push(a, sizes->session, 64);
    const size_t rows = (size_t)c->max_batch, seqs = (size_t)c->n_sequences;
    if (!s) s = &empty;
    memset(s, 0, sizeof(*s));
    s->model = m;
    s->config = *c;
    s->slot_offset = (size_t *)sqm__arena_push(a, ((size_t)m->n_slots + 1) * sizes->size, 16);
    s->position = (int32_t *)sqm__push_product(a, seqs, sizeof(int32_t), 16);
    s->has_logits = (uint8_t *)sqm__arena_push(a, seqs, 16);
    s->wants_logits = (uint8_t *)sqm__arena_push(a, seqs, 16);
    s->spans = (sqm_span *)sqm__push_product(a, seqs, sizes->span, 16);
    s->span_seq = (int32_t *)sqm__push_product(a, seqs, sizeof(int32_t), 16);
    s->row_tokens = (const int32_t **)sqm__push_product(a, seqs, sizes->pointer, 16);
    s->row_values = (const float **)sqm__push_product(a, seqs, sizes->pointer, 16);
    s->rope_tables = (float **)sqm__arena_push(a, (size_t)m->n_ropes * sizes->pointer, 16);
    for (int32_t i = 0; i < m->n_ropes; i++) {
        float *table = (float *)sqm__push_product(a, rows * (size_t)m->ropes[i].dims, sizeof(float), 64);
        if (s->rope_tables && !a->full) s->rope_tables[i] = table;
    }
    for (int32_t i = 0; i < SQM__REGISTERS; i++)
        s->registers[i] = (float *)sqm__push_product(a, rows * (size_t)m->width[i], sizeof(float), 64);
    s->head_rows = (float *)sqm__push_product(a, seqs * (size_t)m->ops[m->n_ops - 1].in_width, sizeof(float),
                                              64);
    s->logits = (float *)sqm__push_product(a, seqs * (size_t)m->vocab_size, sizeof(float), 64);
    s->exec.scratch_bytes = sqm__session_scratch_bytes(m, c);
    s->exec.scratch = (uint8_t *)sqm__arena_push(a, s->exec.scratch_bytes, 64);
    if (!sqm__session_slots(a->base && !a->full ? s->slot_offset : NULL, &s->state_bytes, m, c)) a->full = 1;
    s->states = (uint8_t *)sqm__push_product(a, seqs, s->state_bytes, 64);
    *out = s == &empty ? NULL : s;
    if (a->full && !a->base)
        SQM__FAIL(err, SQM_E_LIMIT, 0,
                  "a session of %d sequences of %d tokens does not fit the address space",
                  c->n_sequences, c->max_context);
    return SQM_OK;
}

/* The caller's configuration with defaults filled in and every field checked. */
static sqm_result sqm__session_defaults(sqm_session_config *to, const sqm_model *m,
                                        const sqm_session_config *c,
                                        sqm_error *err)
{
    memset(to, 0, sizeof(*to));
    if (!m) SQM__FAIL(err, SQM_E_ARGUMENT, 0, "no model");
    if (c) *to = *c;
    if (to->max_context == 0)           /* nothing grows: no reason to stop */
        to->max_context = m->max_context ? m->max_context : m->mixer_flags & (SQM_MIXER_STATE_GROWS |
                                                                              SQM_MIXER_WHOLE_ONLY)
            ? 2048 : 1 << 30;
    if (to->max_batch == 0)
        to->max_batch = m->mixer_flags & SQM_MIXER_WHOLE_ONLY ? to->max_context
            : sqm__min(SQM__CODE_TOKENS, to->max_context);
    if (to->n_sequences == 0) to->n_sequences = 1;
    if (to->threads == 0) to->threads = sqm__default_threads(to->parallel);
    if (to->isa == SQM_ISA_AUTO) to->isa = sqm_cpu_best_isa();
    if (to->max_context < 1 || to->max_context > (1 << 30) || (m->max_context &&
                                                               to->max_context > m->max_context))
        SQM__FAIL(err, SQM_E_ARGUMENT, to->max_context, "max_context = %d must be 1 to %d", to->max_context,
                  m->max_context ? m->max_context : 1 << 30);
    if (to->max_batch < 1 || to->max_batch > 65536)
        SQM__FAIL(err, SQM_E_ARGUMENT, to->max_batch, "max_batch = %d must be 1 to 65536", to->max_batch);
    if (to->n_sequences < 1 || to->n_sequences > 65536)
        SQM__FAIL(err, SQM_E_ARGUMENT, to->n_sequences, "n_sequences = %d must be 1 to 65536",
                  to->n_sequences);
    if (to->threads < 1 || to->threads > 1024)
        SQM__FAIL(err, SQM_E_ARGUMENT, to->threads, "threads = %d must be 1 to 1024", to->threads);
    if (!sqm__kernels_of(to->isa))
        SQM__FAIL(err, SQM_E_UNSUPPORTED, to->isa, "instruction set %s is not available here",
                  sqm_isa_name(to->isa));
    if (to->precision != SQM_FAST && to->precision != SQM_EXACT)
        SQM__FAIL(err, SQM_E_ARGUMENT, to->precision, "precision = %d is neither SQM_FAST nor SQM_EXACT",
                  (int32_t)to->precision);
    if ((uint32_t)to->kv > SQM_KV_Q8)
        SQM__FAIL(err, SQM_E_ARGUMENT, to->kv, "kv = %d is not one of SQM_KV_*", (int32_t)to->kv);
    if (to->kv == SQM_KV_AUTO) to->kv = to->precision == SQM_EXACT ? SQM_KV_F32 : SQM_KV_F16;
    return SQM_OK;
}

static size_t sqm__session_size(const sqm_model *m, const sqm_session_config *c,
                                const sqm__session_sizes *sizes, sqm_error *err)
{
    sqm_session_config config;
    sqm__arena a;
    sqm_session *s;
    memset(&a, 0, sizeof(a));
    if (sqm__session_defaults(&config, m, c, err) != SQM_OK) return 0;
    if (sqm__session_layout(&s, &a, m, &config, sizes, err) != SQM_OK) return 0;
    return a.used;
}
SQMDEF size_t sqm_session_size(const sqm_model *m, const sqm_session_config *c, sqm_error *err)
{
    return sqm__session_size(m, c, &sqm__own_session_sizes, err);
}

SQMDEF sqm_result sqm_session_init(sqm_session **out, const sqm_model *m, const sqm_session_config *c,
                                   void *memory,
                                   size_t memory_bytes, sqm_error *err)
{
    const size_t need = sqm_session_size(m, c, err);
    sqm_session_config config;
    sqm__arena a;
    sqm_session *s;
    if (!out) SQM__FAIL(err, SQM_E_ARGUMENT, 0, "sqm_session_init needs somewhere to put the session");
    *out = NULL;
    SQM__TRY(sqm__session_defaults(&config, m, c, err));
    if (!need) return SQM_E_LIMIT;
    if (!memory || (uintptr_t)memory % 64 || memory_bytes < need)
        SQM__FAIL(err, SQM_E_MEMORY, need, "the session needs %z bytes aligned to 64, was given %z",
                  (uint64_t)need,
                  (uint64_t)memory_bytes);
    memset(&a, 0, sizeof(a));
    a.base = (uint8_t *)memory;
    a.size = memory_bytes;
    SQM__TRY(sqm__session_layout(&s, &a, m, &config, &sqm__own_session_sizes, err));
    s->exec.kernels = sqm__kernels_of(config.isa);
    s->exec.parallel = config.parallel;
    s->exec.threads = config.threads;
    s->exec.precision = config.precision;
    for (int32_t seq = 0; seq < config.n_sequences; seq++) {
        s->position[seq] = 0;
        s->has_logits[seq] = 0;
        (void)sqm_reset(s, seq);
    }
    *out = s;
    return SQM_OK;
}

#if SQM__HAVE_MALLOC
SQMDEF sqm_session *sqm_session_create(const sqm_model *m, const sqm_session_config *c, sqm_error *err)
{
    const size_t need = sqm_session_size(m, c, err);
    sqm_session *s = NULL;
    uint8_t *memory;
    if (!need) return NULL;
    memory = need > (size_t)-1 - 64 ? NULL : (uint8_t *)malloc(need + 64);
    if (!memory) {
        (void)sqm__fail(err, SQM_E_MEMORY, __LINE__, (uint64_t)need,
                        "no memory for the session: %z bytes; a smaller "
                        "max_context or n_sequences needs less", (uint64_t)need);
        return NULL;
    }
    if (sqm_session_init(&s, m, c, memory + (64 - (uintptr_t)memory % 64) % 64, need, err) != SQM_OK) {
        free(memory);
        return NULL;
    }
    s->owned_memory = memory;
    return s;
}
SQMDEF void sqm_session_free(sqm_session *s)
{
    if (s) free(s->owned_memory);
}
#endif

SQMDEF const sqm_error *sqm_session_error(const sqm_session *s) { return &s->exec.error; }
SQMDEF const sqm_model *sqm_session_model(const sqm_session *s) { return s->model; }
SQMDEF int32_t sqm_max_context(const sqm_session *s) { return s->config.max_context; }
SQMDEF int32_t sqm_position(const sqm_session *s, int32_t seq)
{
    return seq < 0 || seq >= s->config.n_sequences ? -1 : s->position[seq];
}
SQMDEF const float *sqm_logits(const sqm_session *s, int32_t seq)
{
    if (seq < 0 || seq >= s->config.n_sequences || !s->has_logits[seq]) return NULL;
    return s->logits + (size_t)seq * (size_t)s->model->vocab_size;
}
/* For [GEN]: memory that no feed is using between two calls. */
static void *sqm__session_scratch(sqm_session *s, size_t *bytes)
{
    *bytes = s->exec.scratch_bytes;
    return s->exec.scratch;
}
static sqm_error *sqm__session_err(sqm_session *s) { return &s->exec.error; }

/* ---- running a batch ----------------------------------------------------------------------------------- */
static void sqm__run_embed(sqm_session *s, const sqm__op *op)
{
    float *y = s->registers[op->dst];
    const size_t width = (size_t)op->out_width;
    for (int32_t i = 0; i < s->n_spans; i++)
        for (int32_t t = 0; t < s->spans[i].rows; t++) {
            float *row = y + (size_t)(s->spans[i].first_row + t) * width;
            int32_t index = s->spans[i].position + t;
            if (op->divide) index /= op->divide;
            if (op->period) index %= op->period;
            index = op->src == SQM__REG_TOKENS ? s->row_tokens[i][t] : index + op->offset;
            float *to = op->add ? (float *)(void *)s->exec.scratch : row;
            sqm__tensor_row(to, op->table, index);
            for (size_t k = 0; k < width; k++) to[k] *= op->number;
            if (op->add) for (size_t k = 0; k < width; k++) row[k] += to[k];
        }
}

static void sqm__run_input(sqm_session *s, const sqm__op *op)
{
    const size_t width = (size_t)op->out_width;
    for (int32_t i = 0; i < s->n_spans; i++)
        memcpy(s->registers[op->dst] + (size_t)s->spans[i].first_row * width, s->row_values[i],
               (size_t)s->spans[i].rows * width * sizeof(float));
}

/* Leaves the experts of groups outside the best group_k at -infinity. */
static void sqm__route_groups(float *key, const sqm__route *r, int32_t n)
{
    const int32_t size = n / r->groups;
    for (int32_t g = 0; g < r->groups; g++) {
        int32_t better = 0;             /* groups before this one in the order of their scores */
        float mine = 0.0f;
        for (int32_t other = -1; other < r->groups; other++) {
            const float *of = key + (size_t)(other < 0 ? g : other) * (size_t)size;
            float top[2] = { -3.0e38f, -3.0e38f }, sum;
            for (int32_t i = 0; i < size; i++) {
                if (of[i] > top[0]) { top[1] = top[0]; top[0] = of[i]; }
                else if (of[i] > top[1]) top[1] = of[i];
            }
            sum = r->group_top == 2 && size > 1 ? top[0] + top[1] : top[0];
            if (other < 0) mine = sum;
            else if (sum > mine || (sum == mine && other < g)) better++;
        }
        key[n + g] = better < r->group_k ? 1.0f : 0.0f;
    }
    for (int32_t i = 0; i < n; i++)
        if (key[n + i / size] == 0.0f) key[i] = -3.0e38f;
}
/* Marks the k largest keys, the first of equal ones, with +infinity. */
static void sqm__route_take(float *key, int32_t n, int32_t k)
{
    while (k-- > 0) {
        int32_t best = -1;
        for (int32_t i = 0; i < n; i++)
            if (key[i] < 3.2e38f && (best < 0 || key[i] > key[best])) best = i;
        if (best < 0) return;
        key[best] = 3.3e38f;
    }
}
/* Weights of score=sparsemixer; work [2 n] */
static void sqm__sparse_mixer(float *y, const float *x, const sqm__route *r, int32_t n, float *work,
                              const sqm__kernels *kernels)
{
    float *key = work, *e = work + n;
    memcpy(key, x, (size_t)n * sizeof(float));
    memset(y, 0, (size_t)n * sizeof(float));
    for (int32_t k = 0; k < r->k; k++) {
        int32_t best = -1;
        float sum = 0.0f;
        for (int32_t i = 0; i < n; i++)
            if (key[i] > -3.0e38f && (best < 0 || key[i] > key[best])) best = i;
        if (best < 0) return;
        for (int32_t i = 0; i < n; i++) e[i] = key[i] > -3.0e38f ? x[i] - x[best] : -3.0e38f;
        SQM__CALL(kernels, activate)(e, e, (size_t)n, SQM_ACT_EXP);
        for (int32_t i = 0; i < n; i++) {
            const float size = x[i] < 0.0f ? -x[i] : x[i], factor = size > x[best] ? size : x[best];
            const int far = factor > 0.0f && (x[best] - x[i]) / factor > 2.0f * r->jitter;
            if (key[i] > -3.0e38f && !far) sum += e[i];
        }
        y[best] = 1.0f / sum;
        key[best] = -3.3e38f;
    }
}
static void sqm__run_route(sqm_session *s, const sqm__op *op)
{
    const sqm__route *r = &op->moe->route;
    const int32_t n = op->in_width;
    float *key = (float *)(void *)s->exec.scratch;
    for (int32_t t = 0; t < s->n_rows; t++) {
        const float *x = s->registers[op->src] + (size_t)t * (size_t)n;
        float *y = s->registers[op->dst] + (size_t)t * (size_t)n, sum = 0.0f;
        if (r->score == SQM__SCORE_SPARSEMIXER) {
            sqm__sparse_mixer(y, x, r, n, key, s->exec.kernels);
        } else {
            if (r->score == SQM__SCORE_SOFTMAX) SQM__CALL(s->exec.kernels, softmax)(y, x, n, 1.0f);
            else SQM__CALL(s->exec.kernels, activate)(y, x, (size_t)n, r->score == SQM__SCORE_SIGMOID
                                                      ? SQM_ACT_SIGMOID
                                           : SQM_ACT_NONE);
            for (int32_t i = 0; i < n; i++) key[i] = (r->raw ? x[i] : y[i]) + (op->bias ? op->bias[i] : 0.0f);
            if (r->group_k < r->groups) sqm__route_groups(key, r, n);
            sqm__route_take(key, n, r->k);
            for (int32_t i = 0; i < n; i++)
                if (key[i] < 3.2e38f) y[i] = 0.0f;
        }
        for (int32_t i = 0; i < n; i++) sum += r->renorm == 2 ? y[i] * y[i] : y[i];
        if (r->renorm == 2) sum = sqrtf(sum);
        if (sum < r->least) sum = r->least;
        for (int32_t i = 0; i < n; i++) y[i] = (r->renorm ? y[i] / (sum + r->eps) : y[i]) * r->scale;
    }
}

/* Limits, alpha and plus on n rows of [gate | up]: act(alpha gate) / alpha * up = act(alpha gate) * (up /
   alpha) */
static void sqm__apply_gating(float *hidden, size_t inner, size_t n, const sqm__gating *g)
{
    for (size_t t = 0; t < n; t++) {
        float *gate = hidden + t * 2 * inner, *up = gate + inner;
        for (size_t i = 0; i < inner; i++) {
            if (g->limit > 0.0f) {
                if (gate[i] > g->limit) gate[i] = g->limit;
                if (up[i] > g->limit) up[i] = g->limit;
                if (up[i] < -g->limit) up[i] = -g->limit;
            }
            gate[i] *= g->alpha;
            up[i] = (up[i] + g->plus) / g->alpha;
        }
    }
}

/* Rows in r->in through expert e */
static void sqm__run_expert(const sqm_exec *x, const sqm__op *op, const sqm__expert_rows *r, int32_t e,
                            int32_t n)
{
    const size_t hidden = (size_t)op->linear->weights[0].shape[0];
    const size_t inner = (size_t)op->moe->down.weights[0].shape[1];
    sqm__linear one = *op->linear;
    one.weights += e;
    if (one.biases) one.biases += e;
    one.n_weights = 1;
    sqm__linear_run(x, &one, r->hidden, hidden, r->in, (size_t)op->in_width, n);
    if (!op->moe->gating.is_plain) sqm__apply_gating(r->hidden, inner, (size_t)n, &op->moe->gating);
    for (size_t t = 0; t < (size_t)n; t++)
        SQM__CALL(x->kernels, glu)(r->inner + t * inner, r->hidden + t * hidden,
                        op->own ? NULL : r->hidden + t * hidden + inner, inner, op->choice);
    one = op->moe->down;
    one.weights += e;
    if (one.biases) one.biases += e;
    one.n_weights = 1;
    sqm__linear_run(x, &one, r->out, (size_t)op->out_width, r->inner, inner, n);
}
/* Slot of expert e among those with a weight w; -1: it has none. */
static int32_t sqm__expert_slot(const float *w, size_t e, int32_t slots)
{
    int32_t slot = 0;
    if (w[e] == 0.0f) return -1;
    for (size_t i = 0; i < e; i++) slot += w[i] != 0.0f;
    return slot < slots ? slot : -1;
}
/* Copies one slot of a row, whose blocks lie apart, from or to n floats. */
static void sqm__copy_slot(float *row, float *one, const sqm__gating *g, int32_t slot, size_t n, int to_row)
{
    const size_t each = n / (size_t)g->blocks;
    for (size_t i = 0; i < (size_t)g->blocks; i++) {
        float *at = row + (i * (size_t)g->slots + (size_t)slot) * each;
        if (to_row) memcpy(at, one + i * each, each * sizeof(float));
        else memcpy(one + i * each, at, each * sizeof(float));
    }
}
/* Rows of the batch that chose expert e to r->in, from their slots when results are merged. Counts them. */
static int32_t sqm__gather_slot(sqm_session *s, const sqm__op *op, const sqm__expert_rows *r, size_t e,
                                size_t in)
{
    const size_t n = (size_t)op->linear->n_weights;
    int32_t count = 0;
    for (int32_t t = 0; t < s->n_rows; t++) {
        const int32_t slot = sqm__expert_slot(s->registers[op->src2] + (size_t)t * n, e,
                                              op->moe->gating.slots);
        float *row = s->registers[op->src] + (size_t)t * (size_t)op->in_width;
        float *to = r->in + (size_t)count * in;
        if (slot < 0) continue;
        if (op->moe->gating.merges) sqm__copy_slot(row, to, &op->moe->gating, slot, in, 0);
        else memcpy(to, row, in * sizeof(float));
        r->row[count++] = t;
    }
    return count;
}
/* experts with slots; x: scratch of products only */
static void sqm__run_slots(sqm_session *s, const sqm__op *op, const sqm_exec *x, const sqm__expert_rows *r)
{
    const size_t n = (size_t)op->linear->n_weights, in = (size_t)op->linear->weights[0].shape[1];
    const size_t out = (size_t)op->linear->weights[0].shape[0], width = (size_t)op->out_width;
    float *y = s->registers[op->dst];
    memset(y, 0, (size_t)s->n_rows * width * sizeof(float));
    for (size_t e = 0; e < n; e++) {
        const int32_t count = sqm__gather_slot(s, op, r, e, in);
        sqm__linear one = *op->linear;
        if (!count) continue;
        one.weights += e;
        one.n_weights = 1;
        sqm__linear_run(x, &one, r->hidden, out, r->in, in, count);
        for (int32_t i = 0; i < count; i++) {
            const float *w = s->registers[op->src2] + (size_t)r->row[i] * n;
            float *to = y + (size_t)r->row[i] * width, *from = r->hidden + (size_t)i * out;
            if (!op->moe->gating.merges)
                sqm__copy_slot(to, from, &op->moe->gating, sqm__expert_slot(w, e, op->moe->gating.slots), out,
                               1);
            for (size_t k = 0; op->moe->gating.merges && k < out; k++) to[k] += w[e] * from[k];
        }
    }
}
/* Expert by expert in their order, each with the rows of the batch that chose it. */
static void sqm__run_experts(sqm_session *s, const sqm__op *op)
{
    const size_t in = (size_t)op->in_width, out = (size_t)op->out_width, n = (size_t)op->linear->n_weights;
    const float *x_rows = s->registers[op->src], *weights = s->registers[op->src2];
    float *y = s->registers[op->dst];
    sqm__expert_rows *r = (sqm__expert_rows *)(void *)s->exec.scratch;
    sqm_exec x = s->exec;
    (void)sqm__experts_scratch(op, &s->config, s->exec.scratch);
    x.scratch += sqm__align_up(sizeof(*r), 64);
    x.scratch_bytes = r->linear_bytes;
    if (op->moe->gating.slots) { sqm__run_slots(s, op, &x, r); return; }
    if (!op->add) memset(y, 0, (size_t)s->n_rows * out * sizeof(float));
    for (size_t e = 0; e < n; e++) {
        int32_t count = 0;
        for (int32_t t = 0; t < s->n_rows; t++)
            if (weights[(size_t)t * n + e] != 0.0f) {
                const float weight = op->moe->gating.on_input ? weights[(size_t)t * n + e] : 1.0f;
                const float *from = x_rows + (size_t)t * in;
                float *to = r->in + (size_t)count * in;
                for (size_t k = 0; k < in; k++) to[k] = weight * from[k];
                r->row[count++] = t;
            }
        if (!count) continue;
        sqm__run_expert(&x, op, r, (int32_t)e, count);
        for (int32_t i = 0; i < count; i++) {
            const float weight = op->moe->gating.on_input ? 1.0f : weights[(size_t)r->row[i] * n + e];
            float *to = y + (size_t)r->row[i] * out;
            const float *from = r->out + (size_t)i * out;
            for (size_t k = 0; k < out; k++) to[k] += weight * from[k];
        }
    }
}

/* Ops that treat rows one by one: rows are cut over threads. */
typedef void (*sqm__row_function)(const sqm_session *s, const sqm__op *op, size_t row);
typedef struct sqm__op_job {
    const sqm_session *s;
    const sqm__op     *op;
    sqm__row_function  run;
    int32_t            pieces;
} sqm__op_job;
static void sqm__op_task(void *arg, int32_t piece)
{
    const sqm__op_job *job = (const sqm__op_job *)arg;
    const int32_t n = job->s->n_rows, last = sqm__cut(n, piece + 1, job->pieces);
    for (int32_t t = sqm__cut(n, piece, job->pieces); t < last; t++) job->run(job->s, job->op, (size_t)t);
}
static void sqm__run_by_rows(const sqm_session *s, const sqm__op *op, sqm__row_function run)
{
    sqm__op_job job;
    job.s = s;
    job.op = op;
    job.run = run;
    job.pieces = sqm__min(s->n_rows, sqm__pieces(&s->exec, (size_t)s->n_rows * (size_t)op->out_width * 2));
    sqm__run(&s->exec, sqm__op_task, &job, job.pieces);
}

static void sqm__rope_row(const sqm_session *s, const sqm__op *op, size_t t)
{
    const sqm__rope_table *r = &s->model->ropes[op->rope];
    float *row = s->registers[op->dst] + t * (size_t)op->out_width + op->first;
    const float *table = s->rope_tables[op->rope] + t * (size_t)r->dims;
    for (int32_t h = 0; h < op->heads; h++)
        sqm__rope_rotate(row + (size_t)h * (size_t)op->head_dim, table, r->dims, (sqm_rope_style)op->choice);
}

/* Angles of every row of the batch, with frequencies that are fixed or, in scratch, those of a span. */
typedef const float *(*sqm__frequencies)(const sqm__rope_table *r, const sqm_span *span, float *scaled);
static void sqm__rope_prepare(sqm_session *s, const sqm__op *op, sqm__frequencies frequencies)
{
    const sqm__rope_table *r = &s->model->ropes[op->rope];
    for (int32_t j = 0; j < s->n_spans; j++) {
        const sqm_span *span = &s->spans[j];
        const float *freq = frequencies ? frequencies(r, span, (float *)(void *)s->exec.scratch) : r->freq;
        for (int32_t t = 0; t < span->rows; t++) {
            int32_t at = span->position + t;
            if (r->divide) at /= r->divide;
            if (r->period) at %= r->period;
            sqm__rope_angles(s->rope_tables[op->rope] + (size_t)(span->first_row + t) * (size_t)r->dims, at,
                             freq, r->dims, r->attn_factor);
        }
    }
}
static void sqm__run_rope(sqm_session *s, const sqm__op *op)
{
    if (op->own) sqm__rope_prepare(s, op, NULL);
    sqm__run_by_rows(s, op, sqm__rope_row);
}
/* Dynamic NTK and LongRoPE depend on the length the sequence reaches with this call. */
static const float *sqm__rope_frequencies(const sqm__rope_table *r, const sqm_span *span, float *scaled)
{
    const float *freq = r->freq_long && span->total > r->long_from ? r->freq_long : r->freq;
    if (r->ntk_factor > 0.0f && span->total > r->ntk_length) {
        const double growth =
            (double)r->ntk_factor * span->total / r->ntk_length - ((double)r->ntk_factor - 1.0);
        for (int32_t k = 0; k < r->dims / 2; k++)
            scaled[k] = (float)((double)freq[k] * pow(growth, -2.0 * k / (r->dims - 2)));
        freq = scaled;
    }
    return freq;
}
static void sqm__run_rope_dynamic(sqm_session *s, const sqm__op *op)
{
    if (op->own) sqm__rope_prepare(s, op, sqm__rope_frequencies);
    sqm__run_by_rows(s, op, sqm__rope_row);
}

/* a * gain + bias */
static void sqm__affine_row(const sqm_session *s, const sqm__op *op, size_t t)
{
    const size_t at = t * (size_t)op->out_width + (size_t)op->first;
    float *y = s->registers[op->dst] + at;
    const float *a = s->registers[op->src] + at;
    for (size_t i = 0; i < (size_t)op->count; i++) {
        const float product = op->gain ? a[i] * op->gain[i] : a[i];
        y[i] = op->bias ? product + op->bias[i] : product;
    }
}
/* two rows side by side, group by group */
static void sqm__cat_row(const sqm_session *s, const sqm__op *op, size_t t)
{
    const size_t n = (size_t)op->groups, left = (size_t)op->in_width / n, both = (size_t)op->out_width / n;
    const float *a = s->registers[op->src] + t * left * n;
    const float *b = s->registers[op->src2] + t * (both - left) * n;
    float *y = s->registers[op->dst] + t * both * n;
    for (size_t g = 0; g < n; g++, y += both, a += left, b += both - left) {
        memcpy(y, a, left * sizeof(float));
        memcpy(y + left, b, (both - left) * sizeof(float));
    }
}
/* a + b or a * b; b has a value for each block of columns */
static void sqm__pair_row(const sqm_session *s, const sqm__op *op, size_t t)
{
    const size_t width = (size_t)op->out_width, groups = (size_t)op->groups, each = width / groups;
    float *y = s->registers[op->dst] + t * width;
    const float *a = s->registers[op->src] + t * width, *b = s->registers[op->src2] + t * groups;
    if (each == 1) {
        if (op->kind == SQM__OP_ADD) for (size_t i = 0; i < width; i++) y[i] = a[i] + b[i];
        else for (size_t i = 0; i < width; i++) y[i] = a[i] * b[i];
        return;
    }
    for (size_t g = 0; g < groups; g++, y += each, a += each) {
        if (op->kind == SQM__OP_ADD) for (size_t i = 0; i < each; i++) y[i] = a[i] + b[g];
        else for (size_t i = 0; i < each; i++) y[i] = a[i] * b[g];
    }
}

/* group k of y = sum_j w[j][k] * group j of a */
static void sqm__combine_row(const sqm_session *s, const sqm__op *op, size_t t)
{
    const size_t in = (size_t)op->groups, out = (size_t)op->heads, each = (size_t)op->in_width / in;
    const float *a = s->registers[op->src] + t * (size_t)op->in_width;
    const float *w = s->registers[op->src2] + t * (size_t)op->count + op->first;
    float *y = s->registers[op->dst] + t * (size_t)op->out_width;
    if (!op->add) memset(y, 0, (size_t)op->out_width * sizeof(float));
    for (size_t k = 0; k < out; k++, y += each)
        for (size_t j = 0; j < in; j++) {
            const float weight = w[j * out + k];
            const float *x = a + j * each;
            for (size_t i = 0; i < each; i++) y[i] += weight * x[i];
        }
}
static void sqm__sinkhorn_row(const sqm_session *s, const sqm__op *op, size_t t)
{
    const int32_t n = op->heads;
    float *m = s->registers[op->dst] + t * (size_t)op->out_width + op->first;
    for (int32_t half = 1; half < 2 * op->own; half++)
        for (int32_t k = 0; k < n; k++) {              /* odd: column k, even: row k */
            const int32_t start = half % 2 ? k : k * n, step = half % 2 ? n : 1;
            float sum = 0.0f;
            for (int32_t i = 0; i < n; i++) sum += m[start + i * step];
            for (int32_t i = 0; i < n; i++) m[start + i * step] /= sum + op->number;
        }
}
static void sqm__pick_row(const sqm_session *s, const sqm__op *op, size_t t)
{
    const float *a = s->registers[op->src] + t * (size_t)op->in_width;
    const float *index = s->registers[op->src2] + t * (size_t)op->count;
    float *y = s->registers[op->dst] + t * (size_t)op->out_width;
    memset(y, 0, (size_t)op->out_width * sizeof(float));
    for (int32_t i = 0; i < op->count; i++)
        if (index[i] >= 0.0f && (double)index[i] < (double)op->in_width)
            y[(int32_t)index[i]] += a[(int32_t)index[i]];
}

static void sqm__run_gate(sqm_session *s, const sqm__op *op)
{
    const size_t width = (size_t)op->out_width;
    sqm__rows_job job = sqm__rows(&s->exec, s->registers[op->dst], width, s->registers[op->src], width,
                                  s->n_rows, op->out_width);
    job.kind = op->choice;
    job.gate = s->registers[op->src2] + op->first;
    job.gate_stride = (size_t)op->count;
    sqm__rows_run(&job, sqm__gate_task);
}

/* by, which may grow with the position of row t */
static float sqm__scale_of(const sqm_session *s, const sqm__op *op, size_t t)
{
    int32_t i = 0, row = (int32_t)t;
    if (op->low == 0.0f) return op->number;
    while (i + 1 < s->n_spans && row >= s->spans[i].first_row + s->spans[i].rows) i++;
    row += s->spans[i].position - s->spans[i].first_row;
    return (float)((double)op->number * (1.0 + (double)op->low *
                   log(1.0 + floor(((double)row + op->offset) / op->divide))));
}

static void sqm__scale_row(const sqm_session *s, const sqm__op *op, size_t t)
{
    const size_t at = t * (size_t)op->out_width + (size_t)op->first;
    const float *a = s->registers[op->src] + at, by = sqm__scale_of(s, op, t);
    float *y = s->registers[op->dst] + at;
    for (size_t i = 0; i < (size_t)op->count; i++) y[i] = a[i] * by;
}
static void sqm__clip_row(const sqm_session *s, const sqm__op *op, size_t t)
{
    const size_t at = t * (size_t)op->out_width + (size_t)op->first;
    const float *a = s->registers[op->src] + at;
    float *y = s->registers[op->dst] + at;
    for (size_t i = 0; i < (size_t)op->count; i++) {
        const float high = a[i] > op->high ? op->high : a[i];
        y[i] = high < op->low ? op->low : high;
    }
}
static void sqm__copy_row(const sqm_session *s, const sqm__op *op, size_t t)
{
    const float *a = s->registers[op->src] + t * (size_t)op->in_width + op->first;
    float *y = s->registers[op->dst] + t * (size_t)op->out_width;
    if (y != a) memcpy(y, a, (size_t)op->count * sizeof(float));
}

/* y = 1, x_i, x_i x_j for i <= j */
static void sqm__monomials(float *y, const float *x, size_t n)
{
    *y++ = 1.0f;
    for (size_t i = 0; i < n; i++) *y++ = x[i];
    for (size_t i = 0; i < n; i++)
        for (size_t j = i; j < n; j++) *y++ = x[i] * x[j];
}

/* monomials, reduce, mirror, blocks */
static void sqm__groups_task(void *arg, int32_t piece)
{
    const sqm__rows_job *job = (const sqm__rows_job *)arg;
    const sqm__op *op = job->op;
    const size_t groups = (size_t)op->groups, in = (size_t)op->in_width / groups;
    const size_t out = (size_t)op->out_width / groups;
    for (int32_t t = sqm__cut(job->n, piece, job->pieces); t < sqm__cut(job->n, piece + 1, job->pieces); t++)
        for (size_t g = 0; g < groups; g++) {
            const float *a = job->a + (size_t)t * job->a_stride + g * in;
            float *y = job->y + (size_t)t * job->y_stride + g * out;
            if (op->kind == SQM__OP_REDUCE) {
                *y = SQM__CALL(job->x->kernels, reduce)(a, (int32_t)in, op->choice);
            } else if (op->kind == SQM__OP_BLOCKS) {
                SQM__CALL(job->x->kernels, block)(y, a, op->gain + (op->own ? g * in * out : 0), NULL,
                                                  (int32_t)in,
                                       (int32_t)out);
            } else if (op->kind == SQM__OP_MONOMIALS) {
                sqm__monomials(y, a, in);
            } else {
                for (size_t i = 0; i < in; i++) { y[i] = a[i]; y[in + i] = -a[i]; }
            }
        }
}

/* What ops on the columns of their rows have in common */
static sqm__rows_job sqm__op_rows(sqm_session *s, const sqm__op *op)
{
    sqm__rows_job job = sqm__rows(&s->exec, s->registers[op->dst] + op->first, (size_t)op->out_width,
                                  s->registers[op->src] + op->first, (size_t)op->in_width, s->n_rows,
                                  op->count ? op->count : op->out_width);
    job.kind = op->choice;
    job.number = op->number;
    return job;
}
static void sqm__run_norm(sqm_session *s, const sqm__op *op)
{
    sqm__rows_job job = sqm__op_rows(s, op);
    job.dim = op->count / op->groups;
    job.groups = op->groups;
    job.own = op->own;
    job.gain = op->gain;
    job.bias = op->bias;
    sqm__rows_run(&job, sqm__normalize_task);
}
static void sqm__run_act(sqm_session *s, const sqm__op *op)
{
    sqm__rows_job job = sqm__op_rows(s, op);
    sqm__rows_run(&job, sqm__activate_task);
}
static void sqm__run_glu(sqm_session *s, const sqm__op *op)
{
    sqm__rows_job job = sqm__op_rows(s, op);
    sqm__rows_run(&job, sqm__glu_task);
}
static void sqm__run_softmax(sqm_session *s, const sqm__op *op)
{
    sqm__rows_job job = sqm__op_rows(s, op);
    job.dim = op->count / op->groups;
    job.groups = op->groups;
    sqm__rows_run(&job, sqm__softmax_task);
}
static void sqm__run_softcap(sqm_session *s, const sqm__op *op)
{
    sqm__rows_job job = sqm__op_rows(s, op);
    sqm__rows_run(&job, sqm__softcap_task);
}
static void sqm__run_groups_op(sqm_session *s, const sqm__op *op)
{
    sqm__rows_job job = sqm__op_rows(s, op);
    job.op = op;
    job.groups = op->groups;
    job.dim = sqm__max(op->in_width, op->out_width) / op->groups;
    if (op->kind == SQM__OP_BLOCKS) job.dim = op->in_width / op->groups * (op->out_width / op->groups);
    sqm__rows_run(&job, sqm__groups_task);
}
static void sqm__run_linear(sqm_session *s, const sqm__op *op)
{
    sqm__linear_run(&s->exec, op->linear, s->registers[op->dst], (size_t)op->out_width,
                    s->registers[op->src] + op->first, (size_t)op->in_width, s->n_rows);
}
static void sqm__run_pair(sqm_session *s, const sqm__op *op) { sqm__run_by_rows(s, op, sqm__pair_row); }
static void sqm__run_affine(sqm_session *s, const sqm__op *op) { sqm__run_by_rows(s, op, sqm__affine_row); }
static void sqm__run_cat(sqm_session *s, const sqm__op *op) { sqm__run_by_rows(s, op, sqm__cat_row); }
static void sqm__run_combine(sqm_session *s, const sqm__op *op) { sqm__run_by_rows(s, op, sqm__combine_row); }
static void sqm__run_sinkhorn(sqm_session *s, const sqm__op *op)
{
    sqm__run_by_rows(s, op, sqm__sinkhorn_row);
}
static void sqm__run_pick(sqm_session *s, const sqm__op *op) { sqm__run_by_rows(s, op, sqm__pick_row); }
static void sqm__run_scale(sqm_session *s, const sqm__op *op) { sqm__run_by_rows(s, op, sqm__scale_row); }
static void sqm__run_clip(sqm_session *s, const sqm__op *op) { sqm__run_by_rows(s, op, sqm__clip_row); }
static void sqm__run_copy(sqm_session *s, const sqm__op *op) { sqm__run_by_rows(s, op, sqm__copy_row); }

static void sqm__run_mix(sqm_session *s, const sqm__op *op)
{
    float *out = s->registers[op->dst];
    for (int32_t i = 0; i < s->n_spans; i++)
        s->spans[i].state = s->states + (size_t)s->span_seq[i] * s->state_bytes + s->slot_offset[op->slot];
    (void)op->mixer->forward(op->bound, &s->exec, out, s->registers[op->src], s->spans, s->n_spans);
}

/* Logits of n rows that follow one another, to n rows of logits that do. */
static void sqm__head_rows(sqm_session *s, const sqm__op *op, float *logits, const float *rows, int32_t n)
{
    if (op->linear->n_weights)
        sqm__linear_run(&s->exec, op->linear, logits, (size_t)op->out_width, rows, (size_t)op->in_width, n);
    else
        memcpy(logits, rows, (size_t)n * (size_t)op->out_width * sizeof(float));
    if (op->number > 0.0f)
        SQM__CALL(s->exec.kernels, softcap)(logits, logits, (size_t)n * (size_t)op->out_width, op->number);
}

/* The head runs only on rows whose logits someone can see; runs of consecutive sequences make one product. */
static void sqm__run_head(sqm_session *s, const sqm__op *op)
{
    const size_t width = (size_t)op->in_width;
    int32_t n = 0, first_seq = 0;
    if (s->all_logits) {
        sqm__head_rows(s, op, s->all_logits, s->registers[op->src], s->n_rows);
        return;
    }
    for (int32_t i = 0; i <= s->n_spans; i++) {
        const int wanted = i < s->n_spans && s->wants_logits[i];
        if (n > 0 && (!wanted || s->span_seq[i] != first_seq + n)) {
            sqm__head_rows(s, op, s->logits + (size_t)first_seq * (size_t)op->out_width, s->head_rows, n);
            n = 0;
        }
        if (!wanted) continue;
        if (n == 0) first_seq = s->span_seq[i];
        memcpy(s->head_rows + (size_t)n * width, s->registers[op->src] +
               (size_t)(s->spans[i].first_row + s->spans[i].rows - 1) * width, width * sizeof(float));
        n++;
    }
}

static void sqm__run_ops(void *session)
{
    sqm_session *s = (sqm_session *)session;
    const sqm_model *m = s->model;
    for (int32_t i = 0; i < m->n_ops; i++) m->ops[i].type->run(s, &m->ops[i]);
}

static void sqm__run_batch(sqm_session *s)
{
    sqm__with_team(&s->exec, sqm__run_ops, s);
    for (int32_t i = 0; i < s->n_spans; i++) s->position[s->span_seq[i]] += s->spans[i].rows;
    s->n_spans = 0;
    s->n_rows = 0;
}

/* ---- the kinds of ops ---------------------------------------------------------------------------------- */
static const sqm_op sqm__op_embed = {
    SQM__OP_EMBED, 1, 0, "embed", "w scale offset add divide period",
    sqm__bind_embed, sqm__run_embed, sqm__embed_op_scratch
};
SQMDEF const sqm_op *sqm_op_embed(void) { return &sqm__op_embed; }
static const sqm_op sqm__op_norm = {
    SQM__OP_NORM, 1, 0, "norm", "kind eps w b first count groups",
    sqm__bind_norm, sqm__run_norm, NULL
};
SQMDEF const sqm_op *sqm_op_norm(void) { return &sqm__op_norm; }
static const sqm_op sqm__op_linear = {
    SQM__OP_LINEAR, 1, SQM__PART_LINEAR, "linear", "w b scale add first apart precise",
    sqm__bind_linear, sqm__run_linear, sqm__linear_op_scratch
};
SQMDEF const sqm_op *sqm_op_linear(void) { return &sqm__op_linear; }
static const char sqm__rope_keys[] =
    "first heads head_dim dims style freq attn_factor freq_long long_from ntk_factor ntk_length divide "
    "period";
static const sqm_op sqm__op_rope = {
    SQM__OP_ROPE, 1, 0, "rope", sqm__rope_keys,
    sqm__bind_rope, sqm__run_rope, NULL
};
SQMDEF const sqm_op *sqm_op_rope(void) { return &sqm__op_rope; }
static const sqm_op sqm__op_rope_dynamic = {
    SQM__OP_ROPE, 1, 0, "rope", sqm__rope_keys,
    sqm__bind_rope_dynamic, sqm__run_rope_dynamic, sqm__rope_op_scratch
};
SQMDEF const sqm_op *sqm_op_rope_dynamic(void) { return &sqm__op_rope_dynamic; }
static const sqm_op sqm__op_mix = {                      /* the mixer knows its keys */
    SQM__OP_MIX, 1, 0, "mix", "",
    sqm__bind_mix, sqm__run_mix, sqm__mix_op_scratch
};
SQMDEF const sqm_op *sqm_op_mix(void) { return &sqm__op_mix; }
static const sqm_op sqm__op_act = {
    SQM__OP_ACT, 1, 0, "act", "kind first count",
    sqm__bind_act, sqm__run_act, NULL
};
SQMDEF const sqm_op *sqm_op_act(void) { return &sqm__op_act; }
static const sqm_op sqm__op_glu = {
    SQM__OP_GLU, 1, 0, "glu", "act",
    sqm__bind_glu, sqm__run_glu, NULL
};
SQMDEF const sqm_op *sqm_op_glu(void) { return &sqm__op_glu; }
static const sqm_op sqm__op_add = {
    SQM__OP_ADD, 2, 0, "add", "",
    sqm__bind_pair, sqm__run_pair, NULL
};
SQMDEF const sqm_op *sqm_op_add(void) { return &sqm__op_add; }
static const sqm_op sqm__op_mul = {
    SQM__OP_MUL, 2, 0, "mul", "",
    sqm__bind_pair, sqm__run_pair, NULL
};
SQMDEF const sqm_op *sqm_op_mul(void) { return &sqm__op_mul; }
static const sqm_op sqm__op_scale = {
    SQM__OP_SCALE, 1, 0, "scale", "by first count grow every shift",
    sqm__bind_scale, sqm__run_scale, NULL
};
SQMDEF const sqm_op *sqm_op_scale(void) { return &sqm__op_scale; }
static const sqm_op sqm__op_copy = {
    SQM__OP_COPY, 1, 0, "copy", "first count",
    sqm__bind_copy, sqm__run_copy, NULL
};
SQMDEF const sqm_op *sqm_op_copy(void) { return &sqm__op_copy; }
static const sqm_op sqm__op_softcap = {
    SQM__OP_SOFTCAP, 1, 0, "softcap", "cap first count",
    sqm__bind_softcap, sqm__run_softcap, NULL
};
SQMDEF const sqm_op *sqm_op_softcap(void) { return &sqm__op_softcap; }
static const sqm_op sqm__op_head = {
    SQM__OP_HEAD, 1, SQM__PART_LINEAR, "head", "w b scale softcap",
    sqm__bind_head, sqm__run_head, sqm__linear_op_scratch
};
SQMDEF const sqm_op *sqm_op_head(void) { return &sqm__op_head; }
static const sqm_op sqm__op_input = {
    SQM__OP_INPUT, 1, 0, "input", "width",
    sqm__bind_input, sqm__run_input, NULL
};
SQMDEF const sqm_op *sqm_op_input(void) { return &sqm__op_input; }
static const sqm_op sqm__op_affine = {
    SQM__OP_AFFINE, 1, 0, "affine", "w b first count",
    sqm__bind_affine, sqm__run_affine, NULL
};
SQMDEF const sqm_op *sqm_op_affine(void) { return &sqm__op_affine; }
static const sqm_op sqm__op_cat = {
    SQM__OP_CAT, 2, 0, "cat", "groups",
    sqm__bind_cat, sqm__run_cat, NULL
};
SQMDEF const sqm_op *sqm_op_cat(void) { return &sqm__op_cat; }
static const sqm_op sqm__op_gate = {
    SQM__OP_GATE, 2, 0, "gate", "act first",
    sqm__bind_gate, sqm__run_gate, NULL
};
SQMDEF const sqm_op *sqm_op_gate(void) { return &sqm__op_gate; }
static const sqm_op sqm__op_softmax = {
    SQM__OP_SOFTMAX, 1, 0, "softmax", "groups scale first count",
    sqm__bind_softmax, sqm__run_softmax, NULL
};
SQMDEF const sqm_op *sqm_op_softmax(void) { return &sqm__op_softmax; }
static const sqm_op sqm__op_monomials = {
    SQM__OP_MONOMIALS, 1, 0, "monomials", "groups",
    sqm__bind_groups, sqm__run_groups_op, NULL
};
SQMDEF const sqm_op *sqm_op_monomials(void) { return &sqm__op_monomials; }
static const sqm_op sqm__op_reduce = {
    SQM__OP_REDUCE, 1, 0, "reduce", "kind groups",
    sqm__bind_groups, sqm__run_groups_op, NULL
};
SQMDEF const sqm_op *sqm_op_reduce(void) { return &sqm__op_reduce; }
static const sqm_op sqm__op_mirror = {
    SQM__OP_MIRROR, 1, 0, "mirror", "groups",
    sqm__bind_groups, sqm__run_groups_op, NULL
};
SQMDEF const sqm_op *sqm_op_mirror(void) { return &sqm__op_mirror; }
static const sqm_op sqm__op_clip = {
    SQM__OP_CLIP, 1, 0, "clip", "low high first count",
    sqm__bind_clip, sqm__run_clip, NULL
};
SQMDEF const sqm_op *sqm_op_clip(void) { return &sqm__op_clip; }
static const sqm_op sqm__op_blocks = {
    SQM__OP_BLOCKS, 1, 0, "blocks", "w out groups shared",
    sqm__bind_groups, sqm__run_groups_op, NULL
};
SQMDEF const sqm_op *sqm_op_blocks(void) { return &sqm__op_blocks; }
static const sqm_op sqm__op_route = {
    SQM__OP_ROUTE, 1, SQM__PART_MOE, "route",
    "k score b raw groups group_k group_top renorm least eps scale jitter",
    sqm__bind_route, sqm__run_route, sqm__route_op_scratch
};
SQMDEF const sqm_op *sqm_op_route(void) { return &sqm__op_route; }
static const sqm_op sqm__op_experts = {
    SQM__OP_EXPERTS, 2, SQM__PART_LINEAR | SQM__PART_MOE, "experts",
    "up down up_b down_b act add input limit alpha plus slots blocks",
    sqm__bind_experts, sqm__run_experts, sqm__experts_op_scratch
};
SQMDEF const sqm_op *sqm_op_experts(void) { return &sqm__op_experts; }
static const sqm_op sqm__op_combine = {
    SQM__OP_COMBINE, 2, 0, "combine", "out groups first add",
    sqm__bind_combine, sqm__run_combine, NULL
};
SQMDEF const sqm_op *sqm_op_combine(void) { return &sqm__op_combine; }
static const sqm_op sqm__op_sinkhorn = {
    SQM__OP_SINKHORN, 1, 0, "sinkhorn", "n iterations first eps",
    sqm__bind_sinkhorn, sqm__run_sinkhorn, NULL
};
SQMDEF const sqm_op *sqm_op_sinkhorn(void) { return &sqm__op_sinkhorn; }
static const sqm_op sqm__op_pick = {
    SQM__OP_PICK, 2, 0, "pick", "",
    sqm__bind_pick, sqm__run_pick, NULL
};
SQMDEF const sqm_op *sqm_op_pick(void) { return &sqm__op_pick; }
/* in the order of their numbers */
static const sqm_op *const sqm__ops[SQM__OP_COUNT] = {
    &sqm__op_embed, &sqm__op_norm, &sqm__op_linear, &sqm__op_rope_dynamic, &sqm__op_mix, &sqm__op_act,
    &sqm__op_glu, &sqm__op_add, &sqm__op_mul, &sqm__op_scale, &sqm__op_copy, &sqm__op_softcap,
    &sqm__op_head, &sqm__op_input, &sqm__op_affine, &sqm__op_cat, &sqm__op_gate, &sqm__op_softmax,
    &sqm__op_monomials, &sqm__op_reduce, &sqm__op_mirror, &sqm__op_clip, &sqm__op_blocks, &sqm__op_route,
    &sqm__op_experts, &sqm__op_combine, &sqm__op_sinkhorn, &sqm__op_pick, NULL
};
SQMDEF const sqm_op *const *sqm_all_ops(void) { return sqm__ops; }

/* ---- feeding ------------------------------------------------------------------------------------------- */
static sqm_result sqm__check_seq(sqm_session *s, int32_t seq)
{
    if (seq < 0 || seq >= s->config.n_sequences)
        SQM__FAIL(&s->exec.error, SQM_E_ARGUMENT, seq, "sequence %d does not exist, the session has %d", seq,
                  s->config.n_sequences);
    return SQM_OK;
}

static sqm_result sqm__check_input(sqm_session *s, const sqm_input *in)
{
    SQM__TRY(sqm__check_seq(s, in->seq));
    if ((!in->tokens && !in->rows) || in->n < 1)
        SQM__FAIL(&s->exec.error, SQM_E_ARGUMENT, in->n, "sequence %d: nothing to feed (n = %d)", in->seq,
                  in->n);
    if (!in->tokens && s->model->n_tokens)
        SQM__FAIL(&s->exec.error, SQM_E_ARGUMENT, in->seq, "sequence %d: the model reads tokens", in->seq);
    if (!in->rows && s->model->input_width)
        SQM__FAIL(&s->exec.error, SQM_E_ARGUMENT, in->seq, "sequence %d: the model reads rows of %d values",
                  in->seq, s->model->input_width);
    if (in->n > s->config.max_context - s->position[in->seq])
        SQM__FAIL(&s->exec.error, SQM_E_LIMIT, in->n,
                  "sequence %d: %d tokens after %d do not fit the context of %d", in->seq,
                  in->n, s->position[in->seq], s->config.max_context);
    if ((s->model->mixer_flags & SQM_MIXER_WHOLE_ONLY) &&
        (s->position[in->seq] > 0 || in->n > s->config.max_batch))
        SQM__FAIL(&s->exec.error, SQM_E_LIMIT, in->n,
                  "sequence %d: the model reads whole sequences of up to max_batch = %d; %d more after %d",
                  in->seq, s->config.max_batch, in->n, s->position[in->seq]);
    for (int32_t t = 0; s->model->n_tokens && t < in->n; t++)
        if (in->tokens[t] < 0 || in->tokens[t] >= s->model->n_tokens)
            SQM__FAIL(&s->exec.error, SQM_E_ARGUMENT, (uint64_t)(int64_t)in->tokens[t],
                      "token %d at index %d is outside the "
                      "vocabulary of %d", in->tokens[t], t, s->model->n_tokens);
    return SQM_OK;
}

/* Cuts one input into the running batch; a full batch is run. */
static void sqm__feed_input(sqm_session *s, const sqm_input *in)
{
    const int32_t total = s->position[in->seq] + in->n;
    int32_t done = 0;
    s->has_logits[in->seq] = 0;
    while (done < in->n) {
        int32_t rows = sqm__min(in->n - done, s->config.max_batch - s->n_rows), i;
        sqm_span *span;
        if (rows < in->n && (s->model->mixer_flags & SQM_MIXER_WHOLE_ONLY)) {
            sqm__run_batch(s);          /* a whole sequence is not cut: checked to fit a batch of its own */
            rows = in->n;
        }
        i = s->n_spans++;
        span = &s->spans[i];
        span->state = NULL;
        span->first_row = s->n_rows;
        span->rows = rows;
        span->position = s->position[in->seq];
        span->total = total;
        s->span_seq[i] = in->seq;
        s->row_tokens[i] = in->tokens ? in->tokens + done : NULL;
        s->row_values[i] = in->rows ? in->rows + (size_t)done * (size_t)s->model->input_width : NULL;
        s->wants_logits[i] = (uint8_t)(done + rows == in->n);
        s->n_rows += rows;
        done += rows;
        if (s->n_rows == s->config.max_batch || done < in->n) sqm__run_batch(s);
    }
}

SQMDEF sqm_result sqm_feed_batch(sqm_session *s, const sqm_input *inputs, int32_t n_inputs)
{
    if (!inputs || n_inputs < 1) SQM__FAIL(&s->exec.error, SQM_E_ARGUMENT, n_inputs, "no inputs (n = %d)",
                                           n_inputs);
    for (int32_t i = 0; i < n_inputs; i++) {
        SQM__TRY(sqm__check_input(s, &inputs[i]));
        for (int32_t j = 0; j < i; j++)
            if (inputs[j].seq == inputs[i].seq)
                SQM__FAIL(&s->exec.error, SQM_E_ARGUMENT, inputs[i].seq,
                          "sequence %d stands twice in one batch", inputs[i].seq);
    }
    s->all_logits = NULL;
    for (int32_t i = 0; i < n_inputs; i++) sqm__feed_input(s, &inputs[i]);
    if (s->n_rows) sqm__run_batch(s);
    for (int32_t i = 0; i < n_inputs; i++) s->has_logits[inputs[i].seq] = 1;
    return SQM_OK;
}

static sqm_input sqm__input(int32_t seq, const int32_t *tokens, const float *rows, int32_t n)
{
    sqm_input in;
    in.seq = seq;
    in.tokens = tokens;
    in.rows = rows;
    in.n = n;
    return in;
}

SQMDEF sqm_result sqm_feed(sqm_session *s, int32_t seq, const int32_t *tokens, int32_t n)
{
    const sqm_input in = sqm__input(seq, tokens, NULL, n);
    return sqm_feed_batch(s, &in, 1);
}

SQMDEF sqm_result sqm_feed_rows(sqm_session *s, int32_t seq, const float *rows, int32_t n)
{
    const sqm_input in = sqm__input(seq, NULL, rows, n);
    return sqm_feed_batch(s, &in, 1);
}

static sqm_result sqm__feed_all(sqm_session *s, const sqm_input *in, float *logits)
{
    const size_t vocab = (size_t)s->model->vocab_size, columns = (size_t)s->model->input_width;
    const int32_t start = sqm_position(s, in->seq), seq = in->seq;
    if (!logits) SQM__FAIL(&s->exec.error, SQM_E_ARGUMENT, 0, "no room for the logits was given");
    SQM__TRY(sqm__check_input(s, in));
    for (int32_t done = 0; done < in->n; done += s->config.max_batch) {
        s->all_logits = logits + (size_t)done * vocab;
        s->spans[0].total = start + in->n;
        s->spans[0].state = NULL;
        s->spans[0].first_row = 0;
        s->spans[0].rows = sqm__min(s->config.max_batch, in->n - done);
        s->spans[0].position = s->position[seq];
        s->span_seq[0] = seq;
        s->row_tokens[0] = in->tokens ? in->tokens + done : NULL;
        s->row_values[0] = in->rows ? in->rows + (size_t)done * columns : NULL;
        s->n_spans = 1;
        s->n_rows = s->spans[0].rows;
        sqm__run_batch(s);
    }
    s->all_logits = NULL;
    memcpy(s->logits + (size_t)seq * vocab, logits + (size_t)(in->n - 1) * vocab, vocab * sizeof(float));
    s->has_logits[seq] = 1;
    return SQM_OK;
}

SQMDEF sqm_result sqm_feed_all(sqm_session *s, int32_t seq, const int32_t *tokens, int32_t n, float *logits)
{
    const sqm_input in = sqm__input(seq, tokens, NULL, n);
    return sqm__feed_all(s, &in, logits);
}

SQMDEF sqm_result sqm_feed_rows_all(sqm_session *s, int32_t seq, const float *rows, int32_t n, float *out)
{
    const sqm_input in = sqm__input(seq, NULL, rows, n);
    return sqm__feed_all(s, &in, out);
}

/* ---- states -------------------------------------------------------------------------------------------- */
SQMDEF sqm_result sqm_reset(sqm_session *s, int32_t seq)
{
    SQM__TRY(sqm__check_seq(s, seq));
    s->position[seq] = 0;
    s->has_logits[seq] = 0;
    for (int32_t i = 0; i < s->model->n_ops; i++) {
        const sqm__op *op = &s->model->ops[i];
        if (op->kind == SQM__OP_MIX)
            op->mixer->reset(op->bound, s->states + (size_t)seq * s->state_bytes + s->slot_offset[op->slot],
                             s->slot_offset[op->slot + 1] - s->slot_offset[op->slot], s->config.max_context,
                             s->config.max_batch, sqm__kv_dtype(&s->config));
    }
    return SQM_OK;
}

SQMDEF sqm_result sqm_fork(sqm_session *s, int32_t from, int32_t to)
{
    const size_t vocab = (size_t)s->model->vocab_size;
    SQM__TRY(sqm__check_seq(s, from));
    SQM__TRY(sqm__check_seq(s, to));
    if (from == to) return SQM_OK;
    for (int32_t i = 0; i < s->model->n_ops; i++) {
        const sqm__op *op = &s->model->ops[i];
        if (op->kind == SQM__OP_MIX) {
            const uint8_t *src = s->states + (size_t)from * s->state_bytes + s->slot_offset[op->slot];
            uint8_t *dst = s->states + (size_t)to * s->state_bytes + s->slot_offset[op->slot];
            memcpy(dst, src, op->mixer->used_bytes(op->bound, src, s->position[from]));
        }
    }
    s->position[to] = s->position[from];
    s->has_logits[to] = s->has_logits[from];
    memcpy(s->logits + (size_t)to * vocab, s->logits + (size_t)from * vocab, vocab * sizeof(float));
    return SQM_OK;
}

/* A saved state: this header, the logits, then what each slot holds behind its own header. */
typedef struct sqm__saved {
    uint8_t  magic[8];
    uint32_t model;                     /* checksum of the weight file's header: which model */
    int32_t  position, has_logits, kv;
    uint64_t bytes;
} sqm__saved;
static const uint8_t sqm__saved_magic[8] = { 'S', 'Q', 'M', 'S', 'T', 'A', 'T', '1' };

static uint8_t *sqm__slot(const sqm_session *s, const sqm__op *op, int32_t seq)
{
    return s->states + (size_t)seq * s->state_bytes + s->slot_offset[op->slot];
}

static size_t sqm__saved_bytes(const sqm_session *s, int32_t seq, int32_t position)
{
    size_t bytes = sizeof(sqm__saved) + (size_t)s->model->vocab_size * sizeof(float);
    for (int32_t i = 0; i < s->model->n_ops; i++) {
        const sqm__op *op = &s->model->ops[i];
        if (op->kind == SQM__OP_MIX)
            bytes += op->mixer->used_bytes(op->bound, sqm__slot(s, op, seq),
                                           position) - op->mixer->header_bytes;
    }
    return bytes;
}

SQMDEF size_t sqm_state_size(const sqm_session *s, int32_t seq)
{
    return seq < 0 || seq >= s->config.n_sequences ? 0 : sqm__saved_bytes(s, seq, s->position[seq]);
}

SQMDEF sqm_result sqm_state_save(sqm_session *s, int32_t seq, void *dst, size_t bytes)
{
    const size_t need = sqm_state_size(s, seq), logits_bytes = (size_t)s->model->vocab_size * sizeof(float);
    uint8_t *to = (uint8_t *)dst;
    sqm__saved header;
    SQM__TRY(sqm__check_seq(s, seq));
    if (!dst || bytes < need)
        SQM__FAIL(&s->exec.error, SQM_E_MEMORY, need, "the state needs %z bytes, was given %z",
                  (uint64_t)need, (uint64_t)bytes);
    memset(&header, 0, sizeof(header));
    memcpy(header.magic, sqm__saved_magic, sizeof(header.magic));
    header.model = sqm__load_u32(s->model->file.image + 44);
    header.position = s->position[seq];
    header.has_logits = s->has_logits[seq];
    header.kv = (int32_t)s->config.kv;
    header.bytes = (uint64_t)need;
    memcpy(to, &header, sizeof(header));
    to += sizeof(header);
    if (s->has_logits[seq]) memcpy(to, s->logits + (size_t)seq * (size_t)s->model->vocab_size, logits_bytes);
    else memset(to, 0, logits_bytes);
    to += logits_bytes;
    for (int32_t i = 0; i < s->model->n_ops; i++) {
        const sqm__op *op = &s->model->ops[i];
        if (op->kind == SQM__OP_MIX) {
            const uint8_t *slot = sqm__slot(s, op, seq);
            const size_t n = op->mixer->used_bytes(op->bound, slot,
                                                   s->position[seq]) - op->mixer->header_bytes;
            memcpy(to, slot + op->mixer->header_bytes, n);
            to += n;
        }
    }
    return SQM_OK;
}

SQMDEF sqm_result sqm_state_load(sqm_session *s, int32_t seq, const void *src, size_t bytes)
{
    const size_t logits_bytes = (size_t)s->model->vocab_size * sizeof(float);
    const uint8_t *from = (const uint8_t *)src;
    sqm__saved header;
    SQM__TRY(sqm__check_seq(s, seq));
    if (!src || bytes < sizeof(header))
        SQM__FAIL(&s->exec.error, SQM_E_FORMAT, bytes, "%z bytes are no saved state", (uint64_t)bytes);
    memcpy(&header, src, sizeof(header));
    if (memcmp(header.magic, sqm__saved_magic, sizeof(header.magic)) || header.bytes != (uint64_t)bytes)
        SQM__FAIL(&s->exec.error, SQM_E_FORMAT, bytes, "%z bytes are no whole saved state", (uint64_t)bytes);
    if (header.model != sqm__load_u32(s->model->file.image + 44))
        SQM__FAIL(&s->exec.error, SQM_E_FORMAT, header.model, "the state was saved with another model");
    if (header.position < 0 || header.position > s->config.max_context)
        SQM__FAIL(&s->exec.error, SQM_E_LIMIT, (uint64_t)(int64_t)header.position,
                  "a state of %d tokens does not fit the "
                  "context of %d", header.position, s->config.max_context);
    if (header.kv != (int32_t)s->config.kv || sqm__saved_bytes(s, seq, header.position) != bytes)
        SQM__FAIL(&s->exec.error, SQM_E_SHAPE, bytes,
                  "the state has %z bytes; a state of %d tokens has another size in this "
                  "session (kv, max_context or max_batch differ)", (uint64_t)bytes, header.position);
    s->position[seq] = header.position;
    s->has_logits[seq] = (uint8_t)(header.has_logits != 0);
    from += sizeof(header);
    memcpy(s->logits + (size_t)seq * (size_t)s->model->vocab_size, from, logits_bytes);
    from += logits_bytes;
    for (int32_t i = 0; i < s->model->n_ops; i++) {
        const sqm__op *op = &s->model->ops[i];
        if (op->kind == SQM__OP_MIX) {
            uint8_t *slot = sqm__slot(s, op, seq);
            const size_t n = op->mixer->used_bytes(op->bound, slot,
                                                   header.position) - op->mixer->header_bytes;
            memcpy(slot + op->mixer->header_bytes, from, n);
            from += n;
        }
    }
    return SQM_OK;
}

/* ==== [TEXT] Text and tokens of a model ====================================================================
   The public side of [TOK]. With SEQMODEL_NO_TOKENIZER, and for models without a tokenizer, every function
   says that there is none. Calls [TOK], [RECIPE]. Tested by tests/test_tok.c. */
#if !SQM__HAVE_TOKENIZER
static size_t sqm__tok_scratch(const sqm__tok *t, size_t bytes) { (void)t; (void)bytes; return 0; }
static int32_t sqm__tok_encode(const sqm__tok *t, const char *text, size_t bytes, uint32_t flags,
                               int32_t *ids, int32_t cap, void *scratch, size_t scratch_bytes,
                               sqm_error *err)
{
    (void)t; (void)text; (void)bytes; (void)flags; (void)ids; (void)cap; (void)scratch; (void)scratch_bytes;
    SQM__FAIL(err, SQM_E_UNSUPPORTED, 0, "tokenize: this build has no tokenizer");
}
static const uint8_t *sqm__tok_text(const sqm__tok *t, int32_t id, int with_special, uint32_t *n)
{
    (void)t; (void)id; (void)with_special;
    *n = 0;
    return NULL;
}
static int32_t sqm__tok_decode(const sqm__tok *t, const int32_t *ids, int32_t n, int with_special, char *dst,
                               int32_t cap)
{
    (void)t; (void)ids; (void)n; (void)with_special; (void)dst; (void)cap;
    return (int32_t)SQM_E_UNSUPPORTED;
}
static int32_t sqm__tok_find(const sqm__tok *t, const char *text) { (void)t; (void)text; return -1; }
static int sqm__tok_is_end(const sqm__tok *t, int32_t id) { (void)t; (void)id; return 0; }
#endif

SQMDEF size_t sqm_tokenize_size(const sqm_model *m, size_t bytes)
{
    const sqm__tok *t = sqm__model_tok(m);
    return t ? sqm__tok_scratch(t, bytes) : 0;
}

SQMDEF int32_t sqm_tokenize_in(const sqm_model *m, const char *text, size_t bytes, uint32_t flags,
                               int32_t *tokens, int32_t cap, void *memory, size_t memory_bytes,
                               sqm_error *err)
{
    const sqm__tok *t = sqm__model_tok(m);
    if (!t) SQM__FAIL(err, SQM_E_UNSUPPORTED, 0, "tokenize: the model has no tokenizer");
    return sqm__tok_encode(t, text, bytes, flags, tokens, cap, memory, memory_bytes, err);
}

#if SQM__HAVE_MALLOC
SQMDEF int32_t sqm_tokenize(const sqm_model *m, const char *text, size_t bytes, uint32_t flags,
                            int32_t *tokens, int32_t cap, sqm_error *err)
{
    uint64_t local[96];
    const size_t need = sqm_tokenize_size(m, bytes);
    void *memory = need > sizeof(local) ? malloc(need) : local;
    int32_t n;
    if (!memory)
        SQM__FAIL(err, SQM_E_MEMORY, need, "tokenize: no memory, %z bytes are needed", (uint64_t)need);
    n = sqm_tokenize_in(m, text, bytes, flags, tokens, cap, memory,
                        need > sizeof(local) ? need : sizeof(local), err);
    if (need > sizeof(local)) free(memory);
    return n;
}
#endif

SQMDEF int32_t sqm_token_text(const sqm_model *m, int32_t token, int with_special, char *dst, int32_t cap)
{
    const sqm__tok *t = sqm__model_tok(m);
    uint32_t n = 0;
    const uint8_t *text = t ? sqm__tok_text(t, token, with_special, &n) : NULL;
    if (text && dst && cap > 0) memcpy(dst, text, (size_t)(n < (uint32_t)cap ? n : (uint32_t)cap));
    return (int32_t)n;
}

SQMDEF int32_t sqm_detokenize(const sqm_model *m, const int32_t *tokens, int32_t n, int with_special,
                              char *dst, int32_t cap)
{
    const sqm__tok *t = sqm__model_tok(m);
    if (!t || n < 0 || (n && !tokens) || cap < 0 || (cap && !dst)) return (int32_t)SQM_E_ARGUMENT;
    return sqm__tok_decode(t, tokens, n, with_special, dst, cap);
}

SQMDEF int32_t sqm_token_find(const sqm_model *m, const char *role_or_text)
{
    const sqm__tok *t = sqm__model_tok(m);
    return t && role_or_text ? sqm__tok_find(t, role_or_text) : -1;
}

SQMDEF int sqm_token_is_end(const sqm_model *m, int32_t token)
{
    const sqm__tok *t = sqm__model_tok(m);
    return t && sqm__tok_is_end(t, token);
}
/* ==== [GEN] Sampling and generation ========================================================================
   Picks tokens from logits and turns them into a stream of text. Uses the public API of [SESS] and [TOK], the
   scratch of a session between two feeds, and no other memory (the prompt's ids: malloc where there is one).
   The sampler computes with integers after one subtraction and one product: a choice depends on logits,
   settings and seed alone, on every machine, compiler and flag.
   Tested by tests/test_gen.c. */

/* ---- random numbers ------------------------------------------------------------------------------------ */
/* splitmix64 (Steele, Lea, Flood 2014) spreads the seed; xoroshiro128++ (Blackman & Vigna 2019) draws. */
SQM__INLINE uint64_t sqm__rotate(uint64_t x, int n) { return x << n | x >> (64 - n); }

static uint64_t sqm__splitmix(uint64_t *x)
{
    uint64_t z = (*x += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

SQMDEF void sqm_sampler_seed(sqm_sampler *p, uint64_t seed)
{
    p->rng[0] = sqm__splitmix(&seed);
    p->rng[1] = sqm__splitmix(&seed);
}

static uint64_t sqm__random(uint64_t rng[2])
{
    const uint64_t a = rng[0], b = rng[1] ^ rng[0];
    const uint64_t result = sqm__rotate(a + rng[1], 17) + a;
    rng[0] = sqm__rotate(a, 49) ^ b ^ b << 21;
    rng[1] = sqm__rotate(b, 28);
    return result;
}

/* A number in [0, n): the upper half of random * n, without 128-bit types. */
static uint64_t sqm__random_below(uint64_t rng[2], uint64_t n)
{
    const uint64_t r = sqm__random(rng), low = 0xffffffffu;
    const uint64_t a = (r & low) * (n & low), b = (r >> 32) * (n & low), c = (r & low) * (n >> 32);
    return (r >> 32) * (n >> 32) + (b >> 32) + (c >> 32) + (((a >> 32) + (b & low) + (c & low)) >> 32);
}

/* ---- candidates -------------------------------------------------------------------------------------------
   A candidate is one uint64: rank in the upper half, token id in the lower. Smaller is better, and of equal
   ranks the lower id is better, so that comparing candidates is comparing integers. First the rank is the
   logit's bits, turned round to fall as the logit rises; then (sqm__sample_distances) the distance from the
   best logit in units of 2^-24 bits: distance d stands for a probability 2^-d times that of the best. */
#define SQM__RANK_NEVER 0xff800000u                    /* -inf; NaN ranks after it */
#define SQM__UNIT_BITS 24

SQM__INLINE uint64_t sqm__candidate(uint32_t rank, int32_t id) { return (uint64_t)rank << 32 | (uint32_t)id; }
SQM__INLINE uint32_t sqm__rank(uint64_t candidate) { return (uint32_t)(candidate >> 32); }
SQM__INLINE int32_t  sqm__candidate_id(uint64_t candidate) { return (int32_t)(candidate & 0x7fffffffu); }

SQM__INLINE uint32_t sqm__rank_of_logit(float logit)
{
    const uint32_t u = sqm__bits(logit);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0xffffffffu;                         /* NaN */
    if (u & 0x80000000u) return u == 0x80000000u ? 0x7fffffffu : u;                  /* -0 is 0 */
    return 0x7fffffffu - u;
}

SQM__INLINE float sqm__logit_of_rank(uint32_t rank)
{
    return sqm__float(rank & 0x80000000u ? rank : 0x7fffffffu - rank);
}

/* 2^38 * 2^-(distance / 2^24), distance < 38 * 2^24; relative error 4e-9 and the unit of the result.
   Polynomial of degree 6 for 2^-f, f in [0, 1), minimax with the ends held; coefficients times 2^32, their
   signs alternate. */
static uint64_t sqm__sample_weight(uint32_t distance)
{
    const uint64_t f = distance & ((1u << SQM__UNIT_BITS) - 1);
    uint64_t p = 466327u;
    p = 5469618u - (p * f >> SQM__UNIT_BITS);
    p = 41136673u - (p * f >> SQM__UNIT_BITS);
    p = 238328358u - (p * f >> SQM__UNIT_BITS);
    p = 1031755265u - (p * f >> SQM__UNIT_BITS);
    p = 2977043937u - (p * f >> SQM__UNIT_BITS);
    p = 4294967296u - (p * f >> SQM__UNIT_BITS);
    return p << 6 >> (distance >> SQM__UNIT_BITS);
}

static uint64_t sqm__sample_total(const uint64_t *c, int32_t n)
{
    uint64_t total = 0;                                /* at most 2^38 * 2^25: sqm_sample limits n */
    for (int32_t i = 0; i < n; i++) total += sqm__sample_weight(sqm__rank(c[i]));
    return total;
}

/* Heap step: moves entry i down to its place. flip 0: largest at the root; flip ~0: smallest at the root. */
static void sqm__heap_down(uint64_t *heap, int32_t n, int32_t i, uint64_t flip)
{
    const uint64_t moved = heap[i];
    while (i < n / 2) {
        int32_t child = 2 * i + 1;
        if (child + 1 < n && (heap[child + 1] ^ flip) > (heap[child] ^ flip)) child++;
        if ((heap[child] ^ flip) <= (moved ^ flip)) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moved;
}

/* Moves the k best of n candidates to the front, in any order: a heap
   of k, its worst at the root, meets the rest. */
static void sqm__sample_best(uint64_t *c, int32_t n, int32_t k)
{
    for (int32_t i = k / 2; i-- > 0;) sqm__heap_down(c, k, i, 0);
    for (int32_t i = k; i < n; i++) {
        if (c[i] >= c[0]) continue;
        c[0] = c[i];
        sqm__heap_down(c, k, 0, 0);
    }
}

/* Ranks become distances at this temperature. Drops what cannot be drawn: -inf, NaN, 38 bits or more from the
   best. Returns how many are left. */
static int32_t sqm__sample_distances(uint64_t *c, int32_t n, float temperature)
{
    const double scale = 1.4426950408889634 / (double)temperature * 16777216.0;
    const double limit = 38.0 * 16777216.0;
    uint32_t best = sqm__rank(c[0]);
    int32_t kept = 0;
    for (int32_t i = 1; i < n; i++) if (sqm__rank(c[i]) < best) best = sqm__rank(c[i]);
    if (best >= SQM__RANK_NEVER) return 0;
    const double top = (double)sqm__logit_of_rank(best);
    for (int32_t i = 0; i < n; i++) {
        const uint32_t rank = sqm__rank(c[i]);
        double distance = 0.0;                         /* of the best, even of +inf: inf - inf would be NaN */
        if (rank >= SQM__RANK_NEVER) continue;
        if (rank != best) distance = (top - (double)sqm__logit_of_rank(rank)) * scale;
        if (distance < limit) c[kept++] = sqm__candidate((uint32_t)distance, sqm__candidate_id(c[i]));
    }
    return kept;
}

/* Keeps the smallest set whose weights reach `share` of all, taking candidates nearest to `center` first.
   Returns how many it keeps. center 0 is top-p. In the heap, ranks are 2 * |distance - center| + (distance <
   center). */
static int32_t sqm__sample_share(uint64_t *c, int32_t n, float share, uint32_t center)
{
    const double wanted = (double)share * (double)sqm__sample_total(c, n);
    const uint64_t target = wanted >= 1.0 ? (uint64_t)wanted : 1;
    const uint64_t flip = ~(uint64_t)0;
    uint64_t sum = 0;
    int32_t left = n;
    for (int32_t i = 0; i < n; i++) {
        const uint32_t d = sqm__rank(c[i]);
        c[i] = sqm__candidate(d < center ? (center - d) * 2 + 1 : (d - center) * 2, sqm__candidate_id(c[i]));
    }
    for (int32_t i = n / 2; i-- > 0;) sqm__heap_down(c, n, i, flip);
    while (left > 0 && sum < target) {
        const uint64_t best = c[0];
        const uint32_t gap = sqm__rank(best) / 2, d = sqm__rank(best) & 1 ? center - gap : center + gap;
        c[0] = c[--left];
        if (left > 0) sqm__heap_down(c, left, 0, flip);
        c[left] = sqm__candidate(d, sqm__candidate_id(best));
        sum += sqm__sample_weight(d);
    }
    memmove(c, c + left, (size_t)(n - left) * sizeof(*c));
    return n - left;
}

/* Locally typical sampling (Meister et al. 2023): first those whose surprise is nearest to the entropy.
   Surprise minus entropy is distance minus mean distance, so no logarithm is needed. The mean is taken in
   units of 2^-16 bits: weight >> 14 times distance >> 8 is at most 2^39 (d 2^-d <= 0.54), the sum of 2^25 of
   them fits. */
static int32_t sqm__sample_typical(uint64_t *c, int32_t n, float share)
{
    uint64_t sum = 0, total = 0;
    for (int32_t i = 0; i < n; i++) {
        const uint64_t weight = sqm__sample_weight(sqm__rank(c[i])) >> 14;
        sum += weight * (sqm__rank(c[i]) >> 8);
        total += weight;
    }
    return sqm__sample_share(c, n, share, (uint32_t)(sum / (total ? total : 1)) << 8);
}

/* Drops candidates less probable than share times the most probable one that is left. */
static int32_t sqm__sample_min(uint64_t *c, int32_t n, float share)
{
    uint64_t best = c[0];
    int32_t kept = 0;
    for (int32_t i = 1; i < n; i++) if (c[i] < best) best = c[i];
    const double least = (double)(share < 1.0f ? share : 1.0f) * (double)sqm__sample_weight(sqm__rank(best));
    for (int32_t i = 0; i < n; i++)
        if ((double)sqm__sample_weight(sqm__rank(c[i])) >= least) c[kept++] = c[i];
    return kept;
}

/* ---- the sampler --------------------------------------------------------------------------------------- */
SQM__INLINE int sqm__sample_penalised(const sqm_sampler *p, int32_t n_recent)
{
    const int repeats = p->repeat_penalty > 0.0f && p->repeat_penalty != 1.0f;
    return n_recent > 0 && (repeats || p->frequency_penalty != 0.0f || p->presence_penalty != 0.0f);
}

/* Re-ranks the tokens of recent, each once: a positive logit is divided and a negative one multiplied by the
   repeat penalty (Keskar et al. 2019), then count * frequency + presence is subtracted. While it counts, the
   lower half of a candidate holds the count, marked by the bit that ids never have. */
static void sqm__sample_penalise(const sqm_sampler *p, uint64_t *c, const float *logits, int32_t n,
                                 const int32_t *recent, int32_t n_recent)
{
    const float repeat = p->repeat_penalty > 0.0f ? p->repeat_penalty : 1.0f;
    const uint32_t mark = 0x80000000u;
    for (int32_t i = 0; i < n_recent; i++) {
        if (recent[i] < 0 || recent[i] >= n) continue;
        if (c[recent[i]] & mark) c[recent[i]]++;
        else c[recent[i]] = mark | 1;
    }
    for (int32_t i = 0; i < n_recent; i++) {
        if (recent[i] < 0 || recent[i] >= n || !(c[recent[i]] & mark)) continue;
        const float count = (float)(c[recent[i]] & (mark - 1));
        float logit = logits[recent[i]];
        logit = logit > 0.0f ? logit / repeat : logit * repeat;
        logit = sqm__fma(-count, p->frequency_penalty, logit) - p->presence_penalty;
        c[recent[i]] = sqm__candidate(sqm__rank_of_logit(logit), recent[i]);
    }
}

static int32_t sqm__sample_draw(const uint64_t *c, int32_t n, uint64_t rng[2])
{
    uint64_t at = sqm__random_below(rng, sqm__sample_total(c, n));
    for (int32_t i = 0; i + 1 < n; i++) {
        const uint64_t weight = sqm__sample_weight(sqm__rank(c[i]));
        if (at < weight) return sqm__candidate_id(c[i]);
        at -= weight;
    }
    return sqm__candidate_id(c[n - 1]);
}

SQMDEF size_t sqm_sample_size(int32_t n)
{
    return n > 0 ? (size_t)n * sizeof(uint64_t) + sizeof(uint64_t) : 0;
}

SQMDEF int32_t sqm_sample(sqm_sampler *p, const float *logits, int32_t n, const int32_t *recent,
                          int32_t n_recent, void *scratch, size_t scratch_bytes)
{
    const size_t skip = (size_t)(0 - (uintptr_t)scratch) % sizeof(uint64_t);
    uint64_t best = sqm__candidate(0xffffffffu, 0);
    if (!p || !logits || n < 1 || n > 1 << 25) return SQM_E_ARGUMENT;
    if (n_recent < 0 || (n_recent > 0 && !recent)) return SQM_E_ARGUMENT;
    const int32_t window = p->penalty_window > 0 ? p->penalty_window : 64;
    const int32_t counted = sqm__min(window, n_recent);
    const int greedy = !(p->temperature > 0.0f), penalised = sqm__sample_penalised(p, counted);
    if (greedy && !penalised) {
        for (int32_t i = 0; i < n; i++) {
            const uint32_t rank = sqm__rank_of_logit(logits[i]);
            if (rank < sqm__rank(best)) best = sqm__candidate(rank, i);
        }
        return sqm__rank(best) < SQM__RANK_NEVER ? sqm__candidate_id(best) : (int32_t)SQM_E_ARGUMENT;
    }
    if (!scratch || scratch_bytes < (size_t)n * sizeof(uint64_t) + skip) return SQM_E_MEMORY;
    uint64_t *const c = (uint64_t *)(void *)((uint8_t *)scratch + skip);
    for (int32_t i = 0; i < n; i++) c[i] = sqm__candidate(sqm__rank_of_logit(logits[i]), i);
    if (penalised) sqm__sample_penalise(p, c, logits, n, recent + (n_recent - counted), counted);
    if (greedy) {
        for (int32_t i = 0; i < n; i++) if (c[i] < best) best = c[i];
        return sqm__rank(best) < SQM__RANK_NEVER ? sqm__candidate_id(best) : (int32_t)SQM_E_ARGUMENT;
    }
    if (p->top_k > 0 && p->top_k < n) { sqm__sample_best(c, n, p->top_k); n = p->top_k; }
    n = sqm__sample_distances(c, n, p->temperature);
    if (n == 0) return SQM_E_ARGUMENT;                 /* every logit is NaN or -inf */
    if (p->typical_p > 0.0f && p->typical_p < 1.0f) n = sqm__sample_typical(c, n, p->typical_p);
    if (p->top_p > 0.0f && p->top_p < 1.0f) n = sqm__sample_share(c, n, p->top_p, 0);
    if (p->min_p > 0.0f) n = sqm__sample_min(c, n, p->min_p);
    if (!(p->rng[0] | p->rng[1])) sqm_sampler_seed(p, 0);
    return sqm__sample_draw(c, n, p->rng);
}

/* ---- the text stream --------------------------------------------------------------------------------------
   Bytes of tokens go in, pieces of text come out: whole characters, U+FFFD for what is no UTF-8, and nothing
   that may still turn out to be the beginning of a stop text. */
#define SQM__STREAM_ROOM 256
#define SQM__STOP_LIMIT 128                            /* bytes of a stop text: half of the room */

typedef struct sqm__stream {
    sqm_on_text        on_text;                        /* may be NULL */
    void              *user;
    const char *const *stop;                           /* may be NULL */
    int32_t            ended;                          /* SQM_END_STOP_TEXT or _CALLBACK; -1: goes on */
    int32_t            used;                           /* bytes in text, not yet passed on */
    int32_t            missing;                        /* bytes that the character in `partial` still lacks */
    int32_t            partial_bytes;
    uint8_t            partial[4];
    uint8_t            low, high;                      /* range of its next byte */
    char               text[SQM__STREAM_ROOM];
} sqm__stream;

/* Passes on the first n bytes of text. */
static void sqm__stream_emit(sqm__stream *s, int32_t n)
{
    const char after = s->text[n];
    if (n <= 0) return;
    s->text[n] = 0;
    if (s->on_text && s->on_text(s->user, s->text, n) != 0) s->ended = SQM_END_CALLBACK;
    s->text[n] = after;
    s->used -= n;
    memmove(s->text, s->text + n, (size_t)s->used);
}

/* How many bytes at the end of text are the beginning of a stop text. */
static int32_t sqm__stream_undecided(const sqm__stream *s)
{
    int32_t most = 0;
    for (int32_t i = 0; s->stop && s->stop[i]; i++) {
        const int32_t length = (int32_t)strlen(s->stop[i]);
        for (int32_t n = sqm__min(length - 1, s->used); n > most; n--)
            if (memcmp(s->text + s->used - n, s->stop[i], (size_t)n) == 0) most = n;
    }
    return most;
}

/* Length of the longest stop text that text ends with; 0: none. */
static int32_t sqm__stream_stopped(const sqm__stream *s)
{
    int32_t most = 0;
    for (int32_t i = 0; s->stop && s->stop[i]; i++) {
        const int32_t length = (int32_t)strlen(s->stop[i]);
        if (length > most && length <= s->used &&
            memcmp(s->text + s->used - length, s->stop[i], (size_t)length) == 0) most = length;
    }
    return most;
}

/* Adds one whole character. */
static void sqm__stream_character(sqm__stream *s, const void *bytes, int32_t n)
{
    if (s->ended >= 0) return;
    if (s->used + n >= SQM__STREAM_ROOM) sqm__stream_emit(s, s->used - sqm__stream_undecided(s));
    memcpy(s->text + s->used, bytes, (size_t)n);
    s->used += n;
    const int32_t stop = sqm__stream_stopped(s);
    if (stop == 0) return;
    s->used -= stop;
    sqm__stream_emit(s, s->used);
    if (s->ended < 0) s->ended = SQM_END_STOP_TEXT;
}

static void sqm__stream_replace(sqm__stream *s)
{
    s->partial_bytes = 0;
    sqm__stream_character(s, "\xef\xbf\xbd", 3);
}

/* UTF-8 as in Unicode table 3-7; what cannot become a character is replaced, one U+FFFD a maximal subpart. */
static void sqm__stream_byte(sqm__stream *s, uint8_t byte)
{
    if (s->partial_bytes > 0) {
        if (byte >= s->low && byte <= s->high) {
            s->partial[s->partial_bytes++] = byte;
            s->low = 0x80;
            s->high = 0xbf;
            if (--s->missing > 0) return;
            const int32_t n = s->partial_bytes;
            s->partial_bytes = 0;
            sqm__stream_character(s, s->partial, n);
            return;
        }
        sqm__stream_replace(s);
    }
    if (byte < 0x80) { sqm__stream_character(s, &byte, 1); return; }
    if (byte < 0xc2 || byte > 0xf4) { sqm__stream_replace(s); return; }
    s->partial[0] = byte;
    s->partial_bytes = 1;
    s->missing = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
    s->low = byte == 0xe0 ? 0xa0 : byte == 0xf0 ? 0x90 : 0x80;
    s->high = byte == 0xed ? 0x9f : byte == 0xf4 ? 0x8f : 0xbf;
}

static void sqm__stream_push(sqm__stream *s, const char *bytes, int32_t n)
{
    for (int32_t i = 0; i < n && s->ended < 0; i++) sqm__stream_byte(s, (uint8_t)bytes[i]);
    if (s->ended < 0) sqm__stream_emit(s, s->used - sqm__stream_undecided(s));
}

/* Nothing more comes: passes on what was held back. */
static void sqm__stream_finish(sqm__stream *s)
{
    if (s->partial_bytes > 0) sqm__stream_replace(s);
    if (s->ended < 0) sqm__stream_emit(s, s->used);
}

/* ---- generation ---------------------------------------------------------------------------------------- */
#define SQM__RECENT_ROOM 64                            /* the tokens that penalties in sqm_generate see */

typedef struct sqm__gen {
    sqm_session                *session;
    const sqm_model            *model;
    const sqm_generate_options *options;
    sqm_error                  *err;
    int32_t                     seq;
    int32_t                     text_begins;           /* no text yet: the rule for the first space counts */
    int32_t                     n_recent;
    int32_t                     recent[SQM__RECENT_ROOM];
    sqm_generate_stats          stats;
} sqm__gen;

static void sqm__gen_remember(sqm__gen *g, int32_t token)
{
    if (g->n_recent == SQM__RECENT_ROOM) {
        g->n_recent--;
        memmove(g->recent, g->recent + 1, (size_t)g->n_recent * sizeof(*g->recent));
    }
    g->recent[g->n_recent++] = token;
}

/* A prompt and the memory to tokenize it in. The ids come to lie at the start of the memory. */
typedef struct sqm__prompt {
    const char *text;
    size_t      bytes;
    uint32_t    flags;                                 /* SQM_TOKENS_* */
    uint8_t    *memory;
    size_t      memory_bytes;
} sqm__prompt;

/* Returns the number of ids or a negative result. */
static int32_t sqm__gen_encode(const sqm__gen *g, const sqm__prompt *p)
{
    const size_t work = sqm__align_up(sqm_tokenize_size(g->model, p->bytes), 64);
    if (work > p->memory_bytes)
        SQM__FAIL(g->err, SQM_E_MEMORY, work, "the prompt of %z bytes needs %z bytes of memory, there are %z",
                  (uint64_t)p->bytes, (uint64_t)work, (uint64_t)p->memory_bytes);
    const size_t room = (p->memory_bytes - work) / sizeof(int32_t);
    const int32_t cap = room < 0x7fffffff ? (int32_t)room : 0x7fffffff;
    int32_t *const ids = (int32_t *)(void *)(p->memory + work);
    const int32_t n = sqm_tokenize_in(g->model, p->text, p->bytes, p->flags, ids, cap, p->memory, work,
                                      g->err);
    if (n > cap)
        SQM__FAIL(g->err, SQM_E_MEMORY, n, "the prompt has %d tokens, there is memory for %d", n, cap);
    if (n > 0) memmove(p->memory, ids, (size_t)n * sizeof(int32_t));
    return n;
}

/* Without a prompt: goes on from what the sequence holds, or feeds the token that begins texts. */
static sqm_result sqm__gen_no_prompt(sqm__gen *g)
{
    const int32_t position = sqm_position(g->session, g->seq);
    int32_t first = sqm_token_find(g->model, "bos");
    if (sqm_logits(g->session, g->seq)) return SQM_OK;
    if (position > 0)
        SQM__FAIL(g->err, SQM_E_ARGUMENT, position, "no prompt, and sequence %d has no logits yet", g->seq);
    if (first < 0) first = sqm_token_find(g->model, "eos");
    if (first < 0)
        SQM__FAIL(g->err, SQM_E_ARGUMENT, 0, "no prompt, and the model has no token that begins texts");
    sqm__gen_remember(g, first);
    g->stats.prompt_tokens = 1;
    return sqm_feed(g->session, g->seq, &first, 1);
}

static void sqm__gen_note_prompt(sqm__gen *g, const int32_t *ids, int32_t n)
{
    char none = 0;
    for (int32_t i = 0; i < n && g->text_begins; i++)
        if (sqm_token_text(g->model, ids[i], g->options->keep_special, &none, 0) > 0) g->text_begins = 0;
    for (int32_t i = sqm__max(0, n - SQM__RECENT_ROOM); i < n; i++) sqm__gen_remember(g, ids[i]);
}

/* A feed may use all of the scratch where the ids are, so they move away: to the heap, or without one a part
   at a time to the stack, and the prompt is tokenized again for the next part. */
static sqm_result sqm__gen_feed_prompt(sqm__gen *g, const sqm__prompt *p, int32_t n)
{
#if SQM__HAVE_MALLOC
    const size_t bytes = (size_t)n * sizeof(int32_t);
    int32_t *const ids = (int32_t *)malloc(bytes);
    if (!ids) SQM__FAIL(g->err, SQM_E_MEMORY, bytes, "no memory for the %d tokens of the prompt", n);
    memcpy(ids, p->memory, bytes);
    const sqm_result result = sqm_feed(g->session, g->seq, ids, n);
    free(ids);
    return result;
#else
    int32_t part[32];
    for (int32_t done = 0; done < n; done += SQM__COUNT(part)) {
        const int32_t count = sqm__min(n - done, SQM__COUNT(part));
        if (done > 0 && sqm__gen_encode(g, p) != n) return g->err->code;
        memcpy(part, p->memory + (size_t)done * sizeof(int32_t), (size_t)count * sizeof(int32_t));
        SQM__TRY(sqm_feed(g->session, g->seq, part, count));
    }
    return SQM_OK;
#endif
}

static sqm_result sqm__gen_prompt_in(sqm__gen *g, const sqm__prompt *p)
{
    const int32_t limit = sqm_max_context(g->session), room = limit - sqm_position(g->session, g->seq);
    const int32_t n = sqm__gen_encode(g, p);
    if (n < 0) return (sqm_result)n;
    if (n == 0) return sqm__gen_no_prompt(g);
    if (n > room)
        SQM__FAIL(g->err, SQM_E_LIMIT, n, "the prompt has %d tokens, the context of %d has room for %d", n,
                  limit, room);
    sqm__gen_note_prompt(g, (const int32_t *)(const void *)p->memory, n);
    g->stats.prompt_tokens = n;
    return sqm__gen_feed_prompt(g, p, n);
}

/* Tokenizes in the session's scratch, or if that is too small for the prompt, on the heap. */
static sqm_result sqm__gen_prompt(sqm__gen *g, const char *text)
{
    const int32_t position = sqm_position(g->session, g->seq);
    sqm__prompt p;
    p.text = text ? text : "";
    p.bytes = strlen(p.text);
    p.flags = g->options->token_flags | (position > 0 ? (uint32_t)SQM_TOKENS_BARE : 0u);
    p.memory = (uint8_t *)sqm__session_scratch(g->session, &p.memory_bytes);
    if (p.bytes == 0 && position > 0) return sqm__gen_no_prompt(g);
#if SQM__HAVE_MALLOC
    const size_t work = sqm__align_up(sqm_tokenize_size(g->model, p.bytes), 64);
    const size_t needed = work + 4096 + 2 * sizeof(int32_t) * p.bytes;   /* ids: two a byte */
    if (p.bytes < (size_t)-1 / 64 && needed > work && needed > p.memory_bytes) {
        p.memory_bytes = needed;
        p.memory = (uint8_t *)malloc(needed);
        if (!p.memory)
            SQM__FAIL(g->err, SQM_E_MEMORY, needed, "no memory to tokenize %z bytes", (uint64_t)p.bytes);
        const sqm_result result = sqm__gen_prompt_in(g, &p);
        free(p.memory);
        return result;
    }
#endif
    return sqm__gen_prompt_in(g, &p);
}

/* Gives the text of a token to the stream. The first token of a whole text loses the space that the model's
   decoder takes from the start of texts: that token alone is decoded shorter than inside running text. */
static void sqm__gen_text(sqm__gen *g, sqm__stream *stream, int32_t token, char *memory, size_t memory_bytes)
{
    const int special = g->options->keep_special != 0;
    const int32_t cap = memory_bytes < 0x40000000 ? (int32_t)memory_bytes : 0x40000000;
    const int32_t n = sqm__min(cap, sqm_token_text(g->model, token, special, memory, cap));
    int32_t skip = 0;
    if (n <= 0) return;
    if (g->text_begins) skip = n - sqm_detokenize(g->model, &token, 1, special, memory + n, cap - n);
    if (skip < 0 || skip > n || memory[0] != ' ') skip = 0;
    g->text_begins = 0;
    sqm__stream_push(stream, memory + skip, n - skip);
}

/* One step: sample, pass on the text, feed. *done: the reason is in stats. */
static sqm_result sqm__gen_step(sqm__gen *g, sqm_sampler *sampler, sqm__stream *stream, int *done)
{
    size_t room = 0;
    void *const scratch = sqm__session_scratch(g->session, &room);
    const float *const logits = sqm_logits(g->session, g->seq);
    sqm_model_info info;
    *done = 1;
    g->stats.reason = SQM_END_MAX_TOKENS;
    if (g->options->max_tokens > 0 && g->stats.new_tokens >= g->options->max_tokens) return SQM_OK;
    g->stats.reason = SQM_END_CONTEXT;
    if (sqm_position(g->session, g->seq) >= sqm_max_context(g->session)) return SQM_OK;
    sqm_model_get_info(g->model, &info);
    const int32_t token = sqm_sample(sampler, logits, info.vocab_size, g->recent, g->n_recent, scratch, room);
    if (token == SQM_E_MEMORY)
        SQM__FAIL(g->err, SQM_E_MEMORY, sqm_sample_size(info.vocab_size),
                  "scratch of %z bytes is too small to sample", (uint64_t)room);
    if (token < 0)
        SQM__FAIL(g->err, SQM_E_ARGUMENT, g->stats.new_tokens, "no logit of sequence %d is a number", g->seq);
    g->stats.reason = SQM_END_MODEL;
    if (sqm_token_is_end(g->model, token)) return SQM_OK;
    g->stats.new_tokens++;
    sqm__gen_remember(g, token);
    sqm__gen_text(g, stream, token, (char *)scratch, room);
    g->stats.reason = stream->ended;
    *done = stream->ended >= 0;
    return sqm_feed(g->session, g->seq, &token, 1);
}

static sqm_result sqm__gen_check(const sqm__gen *g)
{
    sqm_model_info info;
    sqm_model_get_info(g->model, &info);
    if (sqm_position(g->session, g->seq) < 0)
        SQM__FAIL(g->err, SQM_E_ARGUMENT, g->seq, "there is no sequence %d", g->seq);
    if (info.vocab_size < 1) SQM__FAIL(g->err, SQM_E_UNSUPPORTED, 0, "the model has no head");
    if (!info.has_tokenizer)
        SQM__FAIL(g->err, SQM_E_UNSUPPORTED, 0, "the model has no tokenizer, or this build");
    for (int32_t i = 0; g->options->stop && g->options->stop[i]; i++) {
        const size_t length = strlen(g->options->stop[i]);
        if (length < 1 || length > SQM__STOP_LIMIT)
            SQM__FAIL(g->err, SQM_E_ARGUMENT, length, "stop text %d has %z bytes, not 1 to %d", i,
                      (uint64_t)length, (int32_t)SQM__STOP_LIMIT);
    }
    return SQM_OK;
}

static sqm_result sqm__gen_run(sqm__gen *g, const char *prompt, sqm_on_text on_text, void *user)
{
    sqm_sampler greedy;
    sqm__stream stream;
    sqm_sampler *const sampler = g->options->sampler ? g->options->sampler : &greedy;
    int done = 0;
    memset(&greedy, 0, sizeof(greedy));
    memset(&stream, 0, sizeof(stream));
    stream.on_text = on_text;
    stream.user = user;
    stream.stop = g->options->stop;
    stream.ended = -1;
    SQM__TRY(sqm__gen_check(g));
    g->text_begins = sqm_position(g->session, g->seq) == 0;
    SQM__TRY(sqm__gen_prompt(g, prompt));
    while (!done) SQM__TRY(sqm__gen_step(g, sampler, &stream, &done));
    if (stream.ended < 0) sqm__stream_finish(&stream);
    if (stream.ended >= 0) g->stats.reason = stream.ended;
    return g->stats.reason == SQM_END_CALLBACK ? SQM_STOPPED : SQM_OK;
}

SQMDEF sqm_result sqm_generate(sqm_session *s, int32_t seq, const char *prompt, const sqm_generate_options *o,
                               sqm_on_text on_text, void *user, sqm_generate_stats *stats)
{
    sqm_generate_options defaults;
    sqm__gen gen;
    if (!s) return SQM_E_ARGUMENT;
    memset(&defaults, 0, sizeof(defaults));
    memset(&gen, 0, sizeof(gen));
    gen.session = s;
    gen.model = sqm_session_model(s);
    gen.options = o ? o : &defaults;
    gen.err = sqm__session_err(s);
    gen.seq = seq;
    const sqm_result result = sqm__gen_run(&gen, prompt, on_text, user);
    if (stats) *stats = gen.stats;
    return result;
}

/* ==== [WRITE] Weight file writer ===========================================================================
   For tools. Declarations and recipe text become the index sections of [FILE]; tensor data streams through to
   a temporary file with running checksums; closing writes the index and renames. Same calls, same bytes.
   Calls [PLAT], [TYPE], [FILE], [RECIPE]. Tested by tests/test_file.c.

   Recipe text, one op a line:  name dst src [src2] [mixer] {key=value}     # comment
   Registers: r0..r15 tokens positions logits. Values: integer, float, word, or a tensor list @name,@name,
   where - stands for an absent tensor. The writer checks the form, sqm_open whether keys and shapes fit. */
#if SQM__HAVE_WRITER
#include <errno.h>
/* ---- an op as recipe text ------------------------------------------------------------------------------ */
static void sqm__register_name(char *dst, uint8_t r)                      /* dst [12] */
{
    const char *name = r == SQM__REG_LOGITS ? "logits" : r == SQM__REG_TOKENS ? "tokens" : r == SQM__REG_ROWS
        ? "rows" :
                       r == SQM__REG_POSITIONS ? "positions" : r == SQM__REG_NONE ? "none" : NULL;
    if (name) { memcpy(dst, name, strlen(name) + 1); return; }
    snprintf(dst, 12, "r%d", (int)r);
}

/* Adds text at *used, never beyond room; *used counts what was wanted, as snprintf does. */
static void sqm__append_text(char *dst, size_t room, size_t *used, const char *text)
{
    for (; *text; text++, (*used)++) {
        if (*used + 1 < room) dst[*used] = *text;
    }
}

/* The shortest decimal that reads back as v, with a point or exponent so that it stays a float; dst [32]. The
   decimal point of the process's locale is undone. */
static void sqm__float_text(char *dst, double v)
{
    char point[8];
    snprintf(point, sizeof(point), "%.1f", 0.5);
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(dst, 32, "%.*g", digits, v);
        /* 30.0, not 3e+01 */
        if (strtod(dst, NULL) == v && !(strchr(dst, 'e') && v * v >= 1.0 && v * v < 1e12)) break;
    }
    const size_t width = strlen(point) - 2;            /* of the point between "0" and "5" */
    char *at = strstr(dst, "e") ? NULL : dst;
    for (char *p = dst; width > 0 && *p; p++) {
        if (strncmp(p, point + 1, width) != 0) continue;
        *p = '.';
        memmove(p + 1, p + width, strlen(p + width) + 1);
        at = NULL;
        break;
    }
    if (at) memcpy(dst + strlen(dst), ".0", 3);
}

static void sqm__append_value(char *dst, size_t room, size_t *used, const sqm__file *f,
                              const sqm__file_param *p)
{
    char number[32];
    if (p->type == SQM__PARAM_INT) {
        snprintf(number, sizeof(number), "%lld", (long long)sqm__file_param_int(p));
        sqm__append_text(dst, room, used, number);
    } else if (p->type == SQM__PARAM_FLOAT) {
        sqm__float_text(number, sqm__file_param_float(p));
        sqm__append_text(dst, room, used, number);
    } else if (p->type == SQM__PARAM_TEXT) {
        sqm__append_text(dst, room, used, sqm__file_text(f, (uint32_t)p->value));
    } else {
        for (uint32_t i = 0; i < p->count; i++) {
            const uint32_t tensor = f->lists[(uint32_t)p->value + i];
            if (i) sqm__append_text(dst, room, used, ",");
            sqm__append_text(dst, room, used, tensor == SQM__NO_TENSOR ? "-" : "@");
            if (tensor == SQM__NO_TENSOR) continue;
            sqm__append_text(dst, room, used, sqm__file_text(f, f->tensors[tensor].name));
        }
    }
}

/* Writes op i of an opened file as a recipe line without newline. Returns its length; what does not fit in
   room bytes (with the final 0) is cut. */
SQM__UNUSED static size_t sqm__op_text(const sqm__file *f, int32_t i, char *dst, size_t room)
{
    const sqm__file_op *o = &f->ops[i];
    const int known = o->op > 0 && o->op < SQM__OP_COUNT;
    const uint8_t registers[3] = { o->dst, o->src, o->src2 };
    char name[24];
    size_t used = 0;
    snprintf(name, sizeof(name), "op%d", (int)o->op);
    sqm__append_text(dst, room, &used, known ? sqm__ops[o->op - 1]->name : name);
    for (int32_t k = 0; k < (known ? 1 + sqm__ops[o->op - 1]->n_sources : 3); k++) {
        sqm__register_name(name, registers[k]);
        sqm__append_text(dst, room, &used, " ");
        sqm__append_text(dst, room, &used, name);
    }
    if (o->mixer) {
        sqm__append_text(dst, room, &used, " ");
        sqm__append_text(dst, room, &used, sqm__file_text(f, o->mixer));
    }
    for (uint32_t k = 0; k < o->n_params; k++) {
        const sqm__file_param *p = &f->params[o->first_param + k];
        sqm__append_text(dst, room, &used, " ");
        sqm__append_text(dst, room, &used, sqm__file_text(f, p->key));
        sqm__append_text(dst, room, &used, "=");
        sqm__append_value(dst, room, &used, f, p);
    }
    if (room) dst[used < room ? used : room - 1] = 0;
    return used;
}

/* ---- state --------------------------------------------------------------------------------------------- */
typedef struct sqm__buffer {
    uint8_t *data;
    size_t   used, capacity;
} sqm__buffer;

struct sqm_writer {
    sqm_error   error;                                 /* the first one; code SQM_OK: none so far */
    FILE       *stream;
    char       *path, *part;                           /* final and temporary name */
    sqm__buffer strs, meta, ops, params, lists, tensors, tokens;          /* sections in the making */
    sqm__buffer slots;                                 /* hash table over strs: uint32 offsets, 0 = free */
    uint32_t    n_texts;
    int32_t     has_tokens;
    int32_t     laid_out;                              /* offsets are fixed, data has begun */
    int32_t     tensor;                                /* the one whose data comes next */
    uint64_t    tensor_done;                           /* bytes of it written */
    uint64_t    file_bytes, at;                        /* final size; position of the stream */
    uint64_t    offsets[8], sizes[8];  /* of the sections, in the order of sqm__writer_types */
};

static const char *const sqm__writer_types[8] = { "STRS", "META", "RECP", "PARM", "TLST", "TENS", "TOKN",
                                                  "DATA" };

#define SQM__WRITER_FAIL(w, code, value, ...) \
    sqm__fail(&(w)->error, (code), __LINE__, (uint64_t)(value), __VA_ARGS__)

SQM__INLINE int sqm__writer_ok(const sqm_writer *w) { return w && w->error.code == SQM_OK; }

/* Appends bytes (zeros when src is NULL). Returns 0 and sets the error when memory is short. */
static int sqm__buffer_add(sqm_writer *w, sqm__buffer *b, const void *src, size_t bytes)
{
    if (bytes > b->capacity - b->used) {
        const size_t capacity = b->capacity / 2 * 3 + bytes + 256;
        uint8_t *data = NULL;
        if (capacity > bytes && capacity > b->capacity) data = (uint8_t *)realloc(b->data, capacity);
        if (!data) {
            SQM__WRITER_FAIL(w, SQM_E_MEMORY, bytes, "no memory for %z more bytes of the index",
                             (uint64_t)bytes);
            return 0;
        }
        b->data = data;
        b->capacity = capacity;
    }
    if (src) memcpy(b->data + b->used, src, bytes); else memset(b->data + b->used, 0, bytes);
    b->used += bytes;
    return 1;
}

/* ---- texts --------------------------------------------------------------------------------------------- */
SQM__INLINE const char *sqm__writer_text(const sqm_writer *w, uint32_t offset)
{
    return (const char *)(w->strs.data + offset);
}

/* Slot of a text in the hash table: where it is or should go. n: its length. */
static uint32_t *sqm__writer_slot(const sqm_writer *w, const char *text, size_t n)
{
    const size_t mask = w->slots.used / 4 - 1;
    uint32_t *slots = (uint32_t *)(void *)w->slots.data;
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < n; i++) hash = (hash ^ (uint32_t)(unsigned char)text[i]) * 16777619u;
    for (size_t at = hash & mask;; at = (at + 1) & mask) {
        const char *there = sqm__writer_text(w, slots[at]);
        if (!slots[at] || (strncmp(there, text, n) == 0 && there[n] == 0)) return &slots[at];
    }
}

/* Doubles the hash table. */
static int sqm__writer_grow_slots(sqm_writer *w)
{
    sqm__buffer old = w->slots;
    memset(&w->slots, 0, sizeof(w->slots));
    if (!sqm__buffer_add(w, &w->slots, NULL, old.used ? old.used * 2 : 4 * 1024)) {
        w->slots = old;
        return 0;
    }
    for (size_t i = 0; i < old.used; i += 4) {
        const uint32_t offset = sqm__load_u32(old.data + i);
        if (!offset) continue;
        *sqm__writer_slot(w, sqm__writer_text(w, offset), strlen(sqm__writer_text(w, offset))) = offset;
    }
    free(old.data);
    return 1;
}

/* STRS offset of a text of n bytes, each text once; 0 for the empty text or after an error. */
static uint32_t sqm__writer_intern(sqm_writer *w, const char *text, size_t n)
{
    if (n == 0 || !sqm__writer_ok(w)) return 0;
    if ((size_t)w->n_texts * 2 >= w->slots.used / 4 && !sqm__writer_grow_slots(w)) return 0;
    uint32_t *slot = sqm__writer_slot(w, text, n);
    if (*slot) return *slot;
    if (n > (size_t)INT32_MAX - 1 - w->strs.used) {
        SQM__WRITER_FAIL(w, SQM_E_LIMIT, n, "names and notes exceed 2 GiB");
        return 0;
    }
    const uint32_t offset = (uint32_t)w->strs.used;
    if (!sqm__buffer_add(w, &w->strs, text, n) || !sqm__buffer_add(w, &w->strs, NULL, 1)) return 0;
    w->n_texts++;
    *slot = offset;
    return offset;
}

/* ---- opening and declaring ----------------------------------------------------------------------------- */
static void sqm__writer_free(sqm_writer *w)
{
    sqm__buffer *buffers[8];
    buffers[0] = &w->strs;
    buffers[1] = &w->meta;
    buffers[2] = &w->ops;
    buffers[3] = &w->params;
    buffers[4] = &w->lists;
    buffers[5] = &w->tensors;
    buffers[6] = &w->tokens;
    buffers[7] = &w->slots;
    for (int32_t i = 0; i < 8; i++) free(buffers[i]->data);
    free(w->path);
    free(w->part);
    free(w);
}

SQMDEF sqm_writer *sqm_writer_open(const char *path, sqm_error *err)
{
    if (!path || !path[0]) {
        sqm__fail(err, SQM_E_ARGUMENT, __LINE__, 0, "path of the weight file is empty");
        return NULL;
    }
    const size_t n = strlen(path);
    sqm_writer *w = (sqm_writer *)calloc(1, sizeof(*w));
    if (w) {
        w->path = (char *)malloc(n + 1);
        w->part = (char *)malloc(n + 6);
    }
    if (!w || !w->path || !w->part || !sqm__buffer_add(w, &w->strs, NULL, 1)) {
        sqm__fail(err, SQM_E_MEMORY, __LINE__, n, "no memory for a weight file writer");
        if (w) sqm__writer_free(w);
        return NULL;
    }
    memcpy(w->path, path, n + 1);
    memcpy(w->part, path, n);
    memcpy(w->part + n, ".part", 6);
    w->stream = fopen(w->part, "wb");
    if (!w->stream) {
        sqm__fail(err, SQM_E_IO, __LINE__, (uint64_t)errno, "cannot create '%s': %s", w->part,
                  strerror(errno));
        sqm__writer_free(w);
        return NULL;
    }
    return w;
}

SQMDEF void sqm_writer_meta(sqm_writer *w, const char *key, const char *value)
{
    if (!sqm__writer_ok(w)) return;
    if (w->laid_out || !key || !key[0] || !value) {
        SQM__WRITER_FAIL(w, SQM_E_ARGUMENT, 0, "note '%s' is empty or comes after tensor data",
                         key ? key : "");
        return;
    }
    sqm__file_meta entry;
    entry.key = sqm__writer_intern(w, key, strlen(key));
    entry.value = sqm__writer_intern(w, value, strlen(value));
    for (size_t i = 0; i < w->meta.used; i += sizeof(entry)) {
        if (sqm__load_u32(w->meta.data + i) != entry.key) continue;
        SQM__WRITER_FAIL(w, SQM_E_ARGUMENT, 0, "note '%s' is given twice", key);
        return;
    }
    sqm__buffer_add(w, &w->meta, &entry, sizeof(entry));
}

SQMDEF void sqm_writer_tokenizer(sqm_writer *w, const void *blob, size_t bytes)
{
    if (!sqm__writer_ok(w)) return;
    if (w->laid_out || w->has_tokens || !blob || !bytes) {
        SQM__WRITER_FAIL(w, SQM_E_ARGUMENT, bytes,
                         "tokenizer is empty, given twice or comes after tensor data");
        return;
    }
    w->has_tokens = sqm__buffer_add(w, &w->tokens, blob, bytes);
}

SQM__INLINE int32_t sqm__writer_count(const sqm_writer *w)
{
    return (int32_t)(w->tensors.used / sizeof(sqm__file_tensor));
}

SQM__INLINE sqm__file_tensor *sqm__writer_entry(const sqm_writer *w, int32_t i)
{
    return (sqm__file_tensor *)(void *)w->tensors.data + i;
}

/* Index of the tensor whose name has this STRS offset; -1: none. */
static int32_t sqm__writer_find(const sqm_writer *w, uint32_t name)
{
    for (int32_t i = 0; i < sqm__writer_count(w); i++) {
        if (sqm__writer_entry(w, i)->name == name) return i;
    }
    return -1;
}

/* Names must survive recipe text: printable, no blank and none of , = # @ */
static int sqm__is_tensor_name(const char *name)
{
    if (!name || !name[0]) return 0;
    for (const char *c = name; *c; c++) {
        if ((unsigned char)*c <= ' ' || *c == 127 || strchr(",=#@", *c)) return 0;
    }
    return 1;
}

SQMDEF void sqm_writer_declare(sqm_writer *w, const char *name, sqm_dtype t, sqm_layout layout, int32_t ndim,
                               const int32_t *shape)
{
    sqm__file_tensor entry;
    if (!sqm__writer_ok(w)) return;
    if (w->laid_out || !sqm__is_tensor_name(name)) {
        SQM__WRITER_FAIL(w, SQM_E_ARGUMENT, 0, "tensor '%s' has a bad name or comes after tensor data",
                         name ? name : "");
        return;
    }
    memset(&entry, 0, sizeof(entry));
    entry.bytes = sqm__tensor_bytes64(t, layout, ndim, shape);
    if (!entry.bytes || entry.bytes > (uint64_t)1 << 62) {
        SQM__WRITER_FAIL(w, SQM_E_ARGUMENT, ndim,
                         "tensor '%s': dtype %d, layout %d, shape [%d, %d] do not go together",
                         name, (int32_t)t, (int32_t)layout, shape && ndim > 0 ? shape[0] : 0,
                         shape && ndim > 1 ? shape[1] : 1);
        return;
    }
    entry.name = sqm__writer_intern(w, name, strlen(name));
    entry.name_hash = sqm__hash_text(name);
    entry.dtype = (uint16_t)t;
    entry.layout = (uint8_t)layout;
    entry.ndim = (uint8_t)ndim;
    for (int32_t i = 0; i < SQM_MAX_DIMS; i++) entry.shape[i] = i < ndim ? shape[i] : 1;
    if (sqm__writer_find(w, entry.name) >= 0) {
        SQM__WRITER_FAIL(w, SQM_E_ARGUMENT, 0, "tensor '%s' is declared twice", name);
        return;
    }
    sqm__buffer_add(w, &w->tensors, &entry, sizeof(entry));
}

/* ---- recipe text --------------------------------------------------------------------------------------- */
typedef struct sqm__token {
    const char *text;
    size_t      n;
} sqm__token;

/* A token as text for messages and number parsing; dst [64], cut. */
static const char *sqm__token_text(char *dst, sqm__token token)
{
    const size_t n = token.n < 63 ? token.n : 63;
    memcpy(dst, token.text, n);
    dst[n] = 0;
    return dst;
}

/* Cuts the next token off [*at, end); n = 0: the line has no more. '#' starts a comment. */
static sqm__token sqm__next_token(const char **at, const char *end)
{
    sqm__token token;
    while (*at < end && (**at == ' ' || **at == '\t' || **at == '\r')) (*at)++;
    token.text = *at;
    while (*at < end && **at != ' ' && **at != '\t' && **at != '\r' && **at != '#') (*at)++;
    token.n = (size_t)(*at - token.text);
    return token;
}

static int sqm__token_is(sqm__token token, const char *text)
{
    return strlen(text) == token.n && memcmp(token.text, text, token.n) == 0;
}

/* Register number of a token; -1: it is none. */
static int32_t sqm__token_register(sqm__token token)
{
    if (sqm__token_is(token, "logits")) return SQM__REG_LOGITS;
    if (sqm__token_is(token, "tokens")) return SQM__REG_TOKENS;
    if (sqm__token_is(token, "rows")) return SQM__REG_ROWS;
    if (sqm__token_is(token, "positions")) return SQM__REG_POSITIONS;
    char name[16];
    for (int32_t r = 0; r < SQM__REGISTERS; r++) {
        snprintf(name, sizeof(name), "r%d", (int)r);
        if (sqm__token_is(token, name)) return r;
    }
    return -1;
}

/* Is the token [+-]digits? */
static int sqm__token_is_int(sqm__token token)
{
    size_t i = token.n > 1 && (token.text[0] == '-' || token.text[0] == '+') ? 1 : 0;
    if (i == token.n) return 0;
    for (; i < token.n; i++) {
        if (token.text[i] < '0' || token.text[i] > '9') return 0;
    }
    return 1;
}

/* Does the token begin like a number: [+-][.]digit? */
static int sqm__token_is_number(sqm__token token)
{
    size_t i = 0;
    if (i < token.n && (token.text[i] == '-' || token.text[i] == '+')) i++;
    if (i < token.n && token.text[i] == '.') i++;
    return i < token.n && token.text[i] >= '0' && token.text[i] <= '9';
}

/* Reads a decimal number in any locale; 0: malformed or not finite. */
static int sqm__parse_float(sqm__token token, double *value)
{
    char text[80], point[8];
    char *end;
    size_t used = 0;
    snprintf(point, sizeof(point), "%.1f", 0.5);
    point[strlen(point) - 1] = 0;                      /* "0" and the locale's decimal point */
    if (token.n > 63) return 0;
    for (size_t i = 0; i < token.n; i++) {
        const char c = token.text[i];
        if (!((c >= '0' && c <= '9') || c == '.' || c == '-' || c == '+' || c == 'e' || c == 'E')) return 0;
        if (c != '.') { text[used++] = c; continue; }
        memcpy(text + used, point + 1, strlen(point + 1));
        used += strlen(point + 1);
        if (memchr(token.text + i + 1, '.', token.n - i - 1)) return 0;
    }
    text[used] = 0;
    *value = strtod(text, &end);
    return *end == 0 && *value - *value == 0.0;
}

static int sqm__parse_int(sqm__token token, int64_t *value)
{
    const int negative = token.text[0] == '-';
    uint64_t v = 0;
    for (size_t i = token.text[0] == '-' || token.text[0] == '+'; i < token.n; i++) {
        const uint64_t digit = (uint64_t)(token.text[i] - '0');
        if (v > ((uint64_t)INT64_MAX - digit) / 10) return 0;
        v = v * 10 + digit;
    }
    *value = negative ? -(int64_t)v : (int64_t)v;
    return 1;
}

/* "@name,-,@name": appends tensor numbers to TLST. */
static void sqm__writer_list(sqm_writer *w, sqm__token value, sqm__file_param *p, int32_t line)
{
    char text[64];
    size_t at = 0;
    p->type = SQM__PARAM_TENSORS;
    p->value = w->lists.used / 4;
    for (;;) {
        sqm__token item;
        uint32_t index = SQM__NO_TENSOR;
        item.text = value.text + at;
        item.n = 0;
        while (at < value.n && value.text[at] != ',') { at++; item.n++; }
        if (!sqm__token_is(item, "-")) {
            int32_t found = -1;
            if (item.n > 1 && item.text[0] == '@') {
                const uint32_t *slot = w->n_texts ? sqm__writer_slot(w, item.text + 1, item.n - 1) : NULL;
                found = slot && *slot ? sqm__writer_find(w, *slot) : -1;
            }
            if (found < 0) {
                SQM__WRITER_FAIL(w, SQM_E_ARGUMENT, line, "recipe line %d: '%s' is no declared tensor", line,
                                 sqm__token_text(text, item));
                return;
            }
            index = (uint32_t)found;
        }
        if (p->count == UINT16_MAX) {
            SQM__WRITER_FAIL(w, SQM_E_LIMIT, line, "recipe line %d: tensor list is too long", line);
            return;
        }
        if (!sqm__buffer_add(w, &w->lists, &index, 4)) return;
        p->count++;
        if (at == value.n) return;
        at++;
    }
}

/* "key=value" of an op whose parameters begin at number `first`. */
static void sqm__writer_param(sqm_writer *w, sqm__token token, uint32_t first, int32_t line)
{
    char text[64];
    const char *equals = (const char *)memchr(token.text, '=', token.n);
    sqm__token key = token, value = token;
    sqm__file_param p;
    memset(&p, 0, sizeof(p));
    key.n = equals ? (size_t)(equals - token.text) : 0;
    value.text = token.text + key.n + 1;
    value.n = equals ? token.n - key.n - 1 : 0;
    if (key.n == 0 || value.n == 0) {
        SQM__WRITER_FAIL(w, SQM_E_ARGUMENT, line, "recipe line %d: '%s' is not key=value", line,
                         sqm__token_text(text, token));
        return;
    }
    if (w->params.used / sizeof(p) - first >= UINT16_MAX) {
        SQM__WRITER_FAIL(w, SQM_E_LIMIT, line, "recipe line %d has too many parameters", line);
        return;
    }
    p.key = sqm__writer_intern(w, key.text, key.n);
    for (size_t i = first; i < w->params.used / sizeof(p); i++) {
        if (sqm__load_u32(w->params.data + i * sizeof(p)) != p.key) continue;
        SQM__WRITER_FAIL(w, SQM_E_ARGUMENT, line, "recipe line %d: '%s' is given twice", line,
                         sqm__token_text(text, key));
        return;
    }
    int64_t integer = 0;
    double number = 0.0;
    int good = 1;
    if (value.text[0] == '@' || sqm__token_is(value, "-") ||
        (value.n > 1 && memcmp(value.text, "-,", 2) == 0)) {
        sqm__writer_list(w, value, &p, line);
    } else if (sqm__token_is_int(value)) {
        p.type = SQM__PARAM_INT;
        good = sqm__parse_int(value, &integer);
        memcpy(&p.value, &integer, 8);
    } else if (sqm__token_is_number(value)) {
        p.type = SQM__PARAM_FLOAT;
        good = sqm__parse_float(value, &number);
        memcpy(&p.value, &number, 8);
    } else {
        p.type = SQM__PARAM_TEXT;
        p.value = sqm__writer_intern(w, value.text, value.n);
    }
    if (!good) {
        SQM__WRITER_FAIL(w, SQM_E_ARGUMENT, line, "recipe line %d: '%s' is no usable number", line,
                         sqm__token_text(text, token));
    }
    if (sqm__writer_ok(w)) sqm__buffer_add(w, &w->params, &p, sizeof(p));
}

/* Number of an op's name; 0: there is none. */
static uint16_t sqm__op_number(sqm__token token)
{
    for (int32_t i = 1; i < SQM__OP_COUNT; i++) {
        if (sqm__token_is(token, sqm__ops[i - 1]->name)) return (uint16_t)i;
    }
    return 0;
}

static void sqm__writer_line(sqm_writer *w, const char *at, const char *end, int32_t line)
{
    char text[64];
    sqm__file_op op;
    sqm__token token = sqm__next_token(&at, end);
    if (token.n == 0) return;                          /* blank or comment */
    memset(&op, 0, sizeof(op));
    op.op = sqm__op_number(token);
    if (!op.op) {
        SQM__WRITER_FAIL(w, SQM_E_ARGUMENT, line, "recipe line %d: unknown op '%s'", line,
                         sqm__token_text(text, token));
        return;
    }
    const char *name = sqm__ops[op.op - 1]->name;
    const int32_t n_registers = 1 + sqm__ops[op.op - 1]->n_sources;
    uint8_t registers[3] = { SQM__REG_NONE, SQM__REG_NONE, SQM__REG_NONE };
    for (int32_t i = 0; i < n_registers; i++) {
        token = sqm__next_token(&at, end);
        const int32_t r = sqm__token_register(token);
        if (r < 0) {
            SQM__WRITER_FAIL(w, SQM_E_ARGUMENT, line,
                             "recipe line %d: '%s' is not a register; %s needs %d of them",
                             line, sqm__token_text(text, token), name, n_registers);
            return;
        }
        registers[i] = (uint8_t)r;
    }
    op.dst = registers[0];
    op.src = registers[1];
    op.src2 = registers[2];
    if (op.op == SQM__OP_MIX) {
        token = sqm__next_token(&at, end);
        if (token.n == 0 || memchr(token.text, '=', token.n)) {
            SQM__WRITER_FAIL(w, SQM_E_ARGUMENT, line,
                             "recipe line %d: %s needs the name of a mixer, not '%s'", line,
                             name, sqm__token_text(text, token));
            return;
        }
        op.mixer = sqm__writer_intern(w, token.text, token.n);
    }
    op.first_param = (uint32_t)(w->params.used / sizeof(sqm__file_param));
    for (token = sqm__next_token(&at, end); token.n && sqm__writer_ok(w); token = sqm__next_token(&at, end)) {
        sqm__writer_param(w, token, op.first_param, line);
    }
    op.n_params = (uint16_t)(w->params.used / sizeof(sqm__file_param) - op.first_param);
    if (sqm__writer_ok(w)) sqm__buffer_add(w, &w->ops, &op, sizeof(op));
}

SQMDEF void sqm_writer_recipe(sqm_writer *w, const char *text)
{
    if (!sqm__writer_ok(w)) return;
    if (w->laid_out || !text) {
        SQM__WRITER_FAIL(w, SQM_E_ARGUMENT, 0, "recipe is NULL or comes after tensor data");
        return;
    }
    for (int32_t line = 1; *text && sqm__writer_ok(w); line++) {
        const char *end = text;
        while (*end && *end != '\n') end++;
        sqm__writer_line(w, text, end, line);
        text = *end ? end + 1 : end;
    }
}

/* ---- output -------------------------------------------------------------------------------------------- */
/* Writes bytes, or zeros when data is NULL. */
static void sqm__writer_put(sqm_writer *w, const void *data, uint64_t bytes)
{
    static const uint8_t zeros[256] = { 0 };
    while (bytes && sqm__writer_ok(w)) {
        size_t n = data ? (size_t)bytes : (size_t)(bytes < sizeof(zeros) ? bytes : sizeof(zeros));
        if (fwrite(data ? data : zeros, 1, n, w->stream) != n) {
            SQM__WRITER_FAIL(w, SQM_E_IO, errno, "cannot write '%s': %s", w->part, strerror(errno));
            return;
        }
        bytes -= n;
        w->at += n;
    }
}

static const sqm__buffer *sqm__writer_section(const sqm_writer *w, int32_t i)
{
    switch (i) {
    case 0: return &w->strs;
    case 1: return &w->meta;
    case 2: return &w->ops;
    case 3: return &w->params;
    case 4: return &w->lists;
    case 5: return &w->tensors;
    case 6: return &w->tokens;
    default: return NULL;
    }
}

/* Fixes every offset, then writes zeros up to the first tensor: the
   index follows when checksums are known. */
static void sqm__writer_lay_out(sqm_writer *w)
{
    uint32_t n_sections = 0;
    w->laid_out = 1;
    for (int32_t i = 0; i < 8; i++) {
        w->sizes[i] = i < 7 ? sqm__writer_section(w, i)->used : w->sizes[5] ? 1 : 0;
        n_sections += w->sizes[i] != 0;
    }
    uint64_t at = 64 + (uint64_t)n_sections * 32;
    for (int32_t i = 0; i < 8; i++) {
        if (!w->sizes[i]) continue;
        at = (at + 63) / 64 * 64;
        w->offsets[i] = at;
        at += w->sizes[i];
    }
    at = w->sizes[7] ? w->offsets[7] : (at + 63) / 64 * 64;
    const uint64_t front = at;
    for (int32_t i = 0; i < sqm__writer_count(w); i++) {
        sqm__file_tensor *entry = sqm__writer_entry(w, i);
        if (entry->bytes > (uint64_t)INT64_MAX - 64 - at) {
            SQM__WRITER_FAIL(w, SQM_E_LIMIT, at, "the weight file would exceed 2^63 bytes");
            return;
        }
        entry->offset = at;
        at = (at + entry->bytes + 63) / 64 * 64;
    }
    w->file_bytes = at;
    w->sizes[7] = at - front;
    sqm__writer_put(w, NULL, front);
}

SQMDEF void sqm_writer_data(sqm_writer *w, const void *data, size_t bytes)
{
    if (!sqm__writer_ok(w)) return;
    if (!w->laid_out) sqm__writer_lay_out(w);
    if (!sqm__writer_ok(w) || !bytes) return;
    if (!data) { SQM__WRITER_FAIL(w, SQM_E_ARGUMENT, bytes, "tensor data is NULL"); return; }
    if (w->tensor >= sqm__writer_count(w)) {
        SQM__WRITER_FAIL(w, SQM_E_ARGUMENT, bytes, "%z bytes of data after the last tensor", (uint64_t)bytes);
        return;
    }
    sqm__file_tensor *entry = sqm__writer_entry(w, w->tensor);
    if (bytes > entry->bytes - w->tensor_done) {
        SQM__WRITER_FAIL(w, SQM_E_ARGUMENT, bytes, "tensor '%s' takes %z bytes, got %z",
                         sqm__writer_text(w, entry->name), entry->bytes, w->tensor_done + bytes);
        return;
    }
    entry->crc = sqm__crc32c(entry->crc, data, bytes);
    sqm__writer_put(w, data, bytes);
    w->tensor_done += bytes;
    if (w->tensor_done < entry->bytes) return;
    w->tensor++;
    w->tensor_done = 0;
    sqm__writer_put(w, NULL, (64 - w->at % 64) % 64);
}

/* Header, section table and index sections, over the zeros at the front. */
static void sqm__writer_index(sqm_writer *w)
{
    sqm__file_section table[8];
    sqm__file_header h;
    uint32_t n = 0;
    memset(table, 0, sizeof(table));
    memset(&h, 0, sizeof(h));
    for (int32_t i = 0; i < 8; i++) {
        static const uint32_t entry_bytes[8] = { 0, sizeof(sqm__file_meta), sizeof(sqm__file_op),
                                                 sizeof(sqm__file_param), 4, sizeof(sqm__file_tensor), 0, 0 };
        const sqm__buffer *b = sqm__writer_section(w, i);
        if (!w->sizes[i]) continue;
        table[n].type = sqm__section_type(sqm__writer_types[i]);
        table[n].flags = i != 1;                       /* META alone may be skipped */
        table[n].offset = w->offsets[i];
        table[n].bytes = w->sizes[i];
        table[n].count = entry_bytes[i] ? (uint32_t)(w->sizes[i] / entry_bytes[i]) : 0;
        table[n].crc = b ? sqm__crc32c(0, b->data, b->used) : 0;
        n++;
    }
    memcpy(h.magic, sqm__file_magic, 8);
    h.minor = SQM__FILE_MINOR;
    h.major = SQM__FILE_MAJOR;
    h.endian = SQM__FILE_ENDIAN;
    h.file_bytes = w->file_bytes;
    h.n_sections = n;
    h.alignment = 64;
    h.sections = 64;
    h.crc = sqm__crc32c(sqm__crc32c(0, &h, sizeof(h)), table, n * sizeof(table[0]));
    if (fseek(w->stream, 0, SEEK_SET) != 0) {
        SQM__WRITER_FAIL(w, SQM_E_IO, errno, "cannot seek in '%s': %s", w->part, strerror(errno));
        return;
    }
    w->at = 0;
    sqm__writer_put(w, &h, sizeof(h));
    sqm__writer_put(w, table, n * sizeof(table[0]));
    for (int32_t i = 0; i < 7; i++) {
        if (!w->sizes[i]) continue;
        sqm__writer_put(w, NULL, w->offsets[i] - w->at);
        sqm__writer_put(w, sqm__writer_section(w, i)->data, w->sizes[i]);
    }
}

/* Everything between the last call and a file under its final name. */
static void sqm__writer_finish(sqm_writer *w)
{
    if (sqm__writer_ok(w) && !w->laid_out) sqm__writer_lay_out(w);
    if (sqm__writer_ok(w) && w->tensor < sqm__writer_count(w)) {
        const sqm__file_tensor *entry = sqm__writer_entry(w, w->tensor);
        SQM__WRITER_FAIL(w, SQM_E_ARGUMENT, w->tensor_done,
                         "tensor '%s' takes %z bytes, got %z before closing",
                         sqm__writer_text(w, entry->name), entry->bytes, w->tensor_done);
    }
    if (sqm__writer_ok(w)) sqm__writer_index(w);
    if (fclose(w->stream) != 0 && sqm__writer_ok(w)) {
        SQM__WRITER_FAIL(w, SQM_E_IO, errno, "cannot write '%s': %s", w->part, strerror(errno));
    }
    w->stream = NULL;
    if (sqm__writer_ok(w)) {
#ifdef _WIN32
        remove(w->path);                               /* rename does not replace there */
#endif
        if (rename(w->part, w->path) != 0) {
            SQM__WRITER_FAIL(w, SQM_E_IO, errno, "cannot rename '%s': %s", w->part, strerror(errno));
        }
    }
    if (!sqm__writer_ok(w)) remove(w->part);
}

SQMDEF sqm_result sqm_writer_close(sqm_writer *w, sqm_error *err)
{
    if (!w) SQM__FAIL(err, SQM_E_ARGUMENT, 0, "writer is NULL");
    sqm__writer_finish(w);
    const sqm_result result = w->error.code;
    if (result != SQM_OK && err) *err = w->error;
    sqm__writer_free(w);
    return result;
}

SQMDEF void sqm_writer_abort(sqm_writer *w)
{
    if (!w) return;
    fclose(w->stream);
    remove(w->part);
    sqm__writer_free(w);
}
#endif
/* ---- end of the implementation: nothing of ours stays defined ------------------------------------------ */
#undef SQM__HAVE_MALLOC
#undef SQM__HAVE_STDIO
#undef SQM__HAVE_TOKENIZER
#undef SQM__HAVE_ERROR_TEXT
#undef SQM__HAVE_WRITER
#undef SQM__HAVE_MMAP
#undef SQM__HAVE_X86
#undef SQM__HAVE_NEON
#undef SQM__HAVE_HELIUM
#undef SQM__HAVE_DSP
#undef SQM__SMALL
#undef SQM__ONE_PASS
#undef SQM__CALL
#undef SQM__HAVE_TEAM
#undef SQM__PAUSE
#undef SQM__YIELD
#undef SQM__PREFETCH
#undef SQM__ASSERT
#undef SQM__INLINE
#undef SQM__UNUSED
#undef SQM__NOINLINE
#undef SQM__RESTRICT
#undef SQM__UNROLL
#undef SQM__COUNT
#undef SQM__FAIL
#undef SQM__TRY
#undef SQM__PANEL_ROWS
#undef SQM__TEXT2
#undef SQM__TEXT
#undef SQM__VERSION
#undef SQM__CAT2
#undef SQM__CAT
#undef SQM__NAME
#undef SQM__PASS_SCALAR
#undef SQM__PASS_AVX2
#undef SQM__PASS_AVX512
#undef SQM__PASS_NEON
#undef SQM__PASS_HELIUM
#undef SQM__PASS_NARROW
#undef SQM__LANEWISE
#undef SQM__SPECIAL
#undef SQM__WIDE
#undef SQM__EACH
#undef SQM__CODE_ZERO
#undef SQM__SUM_UNIT
#undef SQM__PAIRS
#undef SQM__BY_ROWS
#undef SQM__CODE_P
#undef SQM__CODE_T
#undef SQM__EACH_CODED
#undef SQM__TILE_P
#undef SQM__TILE_T
#undef SQM__TILE_STREAMS
#undef SQM__TILE_ROWS
#undef SQM__TILE_FEW
#undef SQM__TILE_SUMS
#undef SQM__SSD_P
#undef SQM__SSD_N
#undef SQM__SSD_STEP
#undef SQM__TILE_S
#undef SQM__TILE_A
#undef SQM__SET1
#undef SQM__ADD
#undef SQM__SUB
#undef SQM__MUL
#undef SQM__MADD
#undef SQM__MAX_WEIGHTS
#undef SQM__CHECK_ROWS
#undef SQM__FILE_MAJOR
#undef SQM__FILE_MINOR
#undef SQM__FILE_ENDIAN
#undef SQM__MAX_SECTIONS
#undef SQM__NO_TENSOR
#undef SQM__CRC_BIT
#undef SQM__CRC_1
#undef SQM__CRC_4
#undef SQM__CRC_16
#undef SQM__CRC_64
#undef SQM__TOK_NONE
#undef SQM__RANK_NEVER
#undef SQM__UNIT_BITS
#undef SQM__STREAM_ROOM
#undef SQM__STOP_LIMIT
#undef SQM__RECENT_ROOM
#undef SQM__WRITER_FAIL
#if defined(__clang__)
#  pragma clang diagnostic pop
#elif defined(__GNUC__)
#  pragma GCC pop_options
#endif
#undef SQM__IMPLEMENTING
#endif /* SQM__IMPLEMENTING */

/* ==== [LIC] Revisions and licence ==========================================================================
   0.1.0   first version.

   MIT License. Copyright (c) 2026 the seqmodel.h authors.
   Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
   associated documentation files (the "Software"), to deal in the Software without restriction, including
   without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
   copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the
   following conditions: The above copyright notice and this permission notice shall be included in all
   copies or substantial portions of the Software. THE SOFTWARE IS
   PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
   WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL
   THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN
   ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE
   USE OR OTHER DEALINGS IN THE SOFTWARE. */
