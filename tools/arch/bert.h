/* arch/bert.h: BERT as a causal language model and ModernBERT's decoder: a norm of the embedding, a dense
   layer and a norm before the head.                                                                        */
#ifndef ARCH_BERT_H_INCLUDED
#define ARCH_BERT_H_INCLUDED
#include "gpt.h"

/* The position table with the first row of the segment table added: all text is segment 0.                 */
static const float *arch_bert_positions(conv *c, int32_t rows, int32_t dim, int32_t types, const char *prefix)
{
    float *p = conv_read(c, conv_format(c->env, "%sposition_embeddings.weight", prefix), (int64_t)rows * dim);
    const float *t = conv_read(c, conv_format(c->env, "%stoken_type_embeddings.weight", prefix),
                               (int64_t)types * dim);
    for (int64_t i = 0; p && t && i < (int64_t)rows * dim; i++) p[i] += t[i % dim];
    return p;
}

static void arch_bert_names(conv *c, conv_decoder *d, const char *prefix)
{
    static const char *const unused[] = { "*embeddings.position_ids", "*embeddings.token_type_ids",
                                          "*pooler.*",
                                          "cls.seq_relationship.*", "cls.predictions.decoder.bias",
                                          "cls.predictions.bias", NULL };
    c->ignored = unused;
    d->norm = "layer";
    d->norm_on_sum = 1;
    d->norm_bias = d->qkv_bias = d->o_bias = d->ffn_bias = d->head_bias = CONV_BIAS;
    d->embed = conv_format(c->env, "%sembeddings.word_embeddings", prefix);
    d->embed_norm_name = conv_format(c->env, "%sembeddings.LayerNorm", prefix);
    d->layer_prefix = conv_format(c->env, "%sencoder.layer.", prefix);
    d->q = "attention.self.query"; d->k = "attention.self.key"; d->v = "attention.self.value";
    d->o = "attention.output.dense";
    d->attn_norm = "attention.output.LayerNorm"; d->ffn_norm = "output.LayerNorm";
    d->gate = NULL; d->up = "intermediate.dense"; d->down = "output.dense";
    d->final_norm = NULL;
    d->head = "cls.predictions.decoder";
    /* with a head of its own the head's bias is one of its own too                                         */
    d->head_bias_name = "cls.predictions.bias";
    if (!d->tied && conv_has(c, "cls.predictions.decoder.bias"))
        d->head_bias_name = "cls.predictions.decoder.bias";
    d->head_dense = "cls.predictions.transform.dense";
    d->head_norm_name = "cls.predictions.transform.LayerNorm";
    d->head_act = d->act;
}

static void arch_bert_lm(conv *c)
{
    const char *prefix = conv_prefix(c, "bert.", "embeddings.word_embeddings.weight");
    const char *kind = conv_word(c, "position_embedding_type", "absolute");
    conv_decoder d;
    int32_t types;
    if (!conv_hf_decoder(c, &d, 1)) return;
    if (!conv_bool(c, "is_decoder", 0))
        conv_fail(c->env, "config.json: \"is_decoder\" is not true: only BERT as a causal language model is "
                  "supported for this class");
    if (strcmp(kind, "absolute") != 0)
        conv_fail(c->env, "config.json: \"position_embedding_type\" is not supported");
    types = conv_size(c, "type_vocab_size", 2);
    d.norm_eps = conv_positive(c, "layer_norm_eps", 1e-12);
    if (!conv_key(c, "hidden_act")) d.act = "gelu";
    arch_bert_names(c, &d, prefix);
    d.position_values = arch_bert_positions(c, c->max_context, d.dim, types,
                                            conv_format(c->env, "%sembeddings.", prefix));
    conv_emit_decoder(c, &d);
}

/* Each n-th layer sees everything, the others a window of half of local_attention, with ropes of their own.
   The first layer has no norm before attention.                                                            */
static void arch_modernbert_decoder(conv *c)
{
    static const conv_rope_keys full = { "global_rope_theta", NULL, 160000.0, 1.0 };
    static const conv_rope_keys sliding = { "local_rope_theta", NULL, 10000.0, 1.0 };
    static const char *const unused[] = { "classifier_pooling", "cls_token_id", "initializer_cutoff_factor",
                                          "mlp_dropout", "norm_bias", "decoder_bias", "sliding_window",
                                          "classifier_bias", "causal_mask", "is_causal", NULL };
    const int32_t each = (int32_t)conv_int(c, "global_attn_every_n_layers", 3, 1, 1 << 28);
    const char *prefix = conv_prefix(c, "model.", "embeddings.tok_embeddings.weight");
    conv_decoder d;
    int32_t window;
    if (!conv_hf_decoder(c, &d, 1)) return;
    window = conv_size(c, "local_attention", 128) / 2;
    d.qkv_bias = arch_bias(conv_bool(c, "attention_bias", 0));
    d.ffn_bias = arch_bias(conv_bool(c, "mlp_bias", 0));
    if (conv_key(c, "sliding_window")) window = conv_size(c, "sliding_window", 1);
    for (int i = 0; unused[i]; i++) conv_key(c, unused[i]);
    d.norm = "layer";
    d.norm_eps = conv_positive(c, "norm_eps", 1e-5);
    d.norm_bias = d.head_bias = CONV_BIAS_IF_PRESENT;
    d.o_bias = d.qkv_bias;
    d.act = conv_activation(c, "hidden_activation", "gelu");
    d.embed = conv_format(c->env, "%sembeddings.tok_embeddings", prefix);
    d.embed_norm_name = conv_format(c->env, "%sembeddings.norm", prefix);
    d.final_norm = conv_format(c->env, "%sfinal_norm", prefix);
    d.layer_prefix = conv_format(c->env, "%slayers.", prefix);
    d.attn_norm = "attn_norm"; d.ffn_norm = "mlp_norm";
    d.first_attn_norm = 1;
    d.q = "attn.q_proj"; d.k = "attn.k_proj"; d.v = "attn.v_proj"; d.o = "attn.Wo";
    d.gate = d.up = NULL;
    d.gate_up = "mlp.Wi"; d.down = "mlp.Wo";
    d.head = "decoder";
    d.head_dense = "lm_head.dense"; d.head_norm_name = "lm_head.norm";
    d.head_act = conv_activation(c, "classifier_activation", "gelu");
    conv_hf_rope(c, &d.ropes[0], "rope.freq", "full_attention", &full, d.head_dim);
    conv_hf_sliding_rope(c, &d.ropes[1], "rope.freq_sliding", &sliding, d.head_dim);
    for (int32_t i = 0; !c->env->failed && i < d.layers; i++) {
        d.layer_window[i] = i % each ? window : 0;
        d.layer_rope[i] = i % each ? 1 : 0;
    }
    conv_hf_layer_types(c, &d, window, 0, 1);
    conv_emit_decoder(c, &d);
}

#endif /* ARCH_BERT_H_INCLUDED */
