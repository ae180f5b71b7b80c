/* target_types.h - what a model and a session lay out in the caller's memory and what differs in size between
   machines: in the order of sqm__model_sizes and sqm__session_sizes, then the bound blocks of mixers.
   tests/target_sizes.sh asks each cross compiler for the sizes and writes target_sizes.h; tests/test_tools.sh
   compares those of this machine with what a session takes. */
#define TARGET_MODEL_TYPES(SIZE) \
    SIZE(void *) SIZE(sqm_model) SIZE(sqm__op) SIZE(sqm__linear) SIZE(sqm__moe) SIZE(sqm__rope_table) \
    SIZE(sqm_tensor) SIZE(sqm_param)
#define TARGET_SESSION_TYPES(SIZE) \
    SIZE(void *) SIZE(size_t) SIZE(sqm_session) SIZE(sqm_span)
#define TARGET_MIXERS(BOUND) \
    BOUND(attention, sqm__attention) BOUND(conv, sqm__conv) BOUND(conv_whole, sqm__conv) \
    BOUND(memory, sqm__memory) BOUND(memory_caching, sqm__caching) BOUND(memory_context, sqm__context) \
    BOUND(kernel_memory, sqm__kernel_memory) BOUND(codebook, sqm__codebook) BOUND(scan, sqm__selective) \
    BOUND(scan_whole, sqm__selective) BOUND(ssd, sqm__dual) BOUND(ssd_whole, sqm__dual) \
    BOUND(trapezoid, sqm__trapezoid) BOUND(linear_attention, sqm__linear_attention) \
    BOUND(linear_attention_whole, sqm__linear_attention) BOUND(running_softmax, sqm__running_softmax) \
    BOUND(slstm, sqm__slstm_layer) BOUND(shift, sqm__shift) BOUND(pool, sqm__pool) BOUND(ridge, sqm__ridge) \
    BOUND(lti, sqm__lti) BOUND(rnn, sqm__rnn) BOUND(legs, sqm__legs) BOUND(long_conv, sqm__long_conv) \
    BOUND(window, sqm__window) BOUND(reorder, sqm__reorder) BOUND(running_pool, sqm__running_pool) \
    BOUND(spike, sqm__spike) BOUND(select, sqm__select) BOUND(compress, sqm__compress) BOUND(lsh, sqm__lsh)
