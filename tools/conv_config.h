/* conv_config.h: reading config.json and GGUF metadata so that nothing is guessed and nothing is
   overlooked: a missing key without a known default, a value out of range and a key that nobody read are
   errors that name the key.                                                                                */
#ifndef CONV_CONFIG_H_INCLUDED
#define CONV_CONFIG_H_INCLUDED
#include <math.h>
#include "conv_plan.h"

#define CONV_REQUIRED INT64_MIN        /* default of a key that must be there                               */

/* ---- config.json --------------------------------------------------------------------------------------- */
/* Value of a key of the configuration, marked as read; null counts as absent.                              */
static CONV_UNUSED const json_value *conv_key(conv *c, const char *key)
{
    const json_value *v = json_get(c->config, key);
    if (!v) return NULL;
    c->config_seen[(v - c->config->items - 1) / 2] = 1;
    return v->type == JSON_NULL ? NULL : v;
}

static CONV_UNUSED int conv_key_given(conv *c, const char *key) { return json_get(c->config, key) != NULL; }

/* A value as messages show it */
static CONV_UNUSED const char *conv_shown(conv *c, const json_value *v)
{
    if (json_is(v, JSON_NUMBER)) return conv_format(c->env, "%.9g", json_number(v, 0.0));
    return json_is(v, JSON_STRING) ? conv_format(c->env, "\"%.60s\"", json_text(v, "")) : "(no number)";
}

static CONV_UNUSED int64_t conv_int(conv *c, const char *key, int64_t otherwise, int64_t low, int64_t high)
{
    const json_value *v = conv_key(c, key);
    int64_t i;
    if (!v) {
        if (otherwise == CONV_REQUIRED) conv_fail(c->env, "config.json: key \"%s\" is missing", key);
        return otherwise == CONV_REQUIRED ? low : otherwise;
    }
    i = json_int(v, INT64_MIN);
    if (i == INT64_MIN || i < low || i > high) {
        conv_fail(c->env, "config.json: \"%s\" = %s is not a whole number from %lld to %lld", key,
                  conv_shown(c, v), (long long)low, (long long)high);
        return low;
    }
    return i;
}

/* A size: 1 ... 2^28.                                                                                      */
static CONV_UNUSED int32_t conv_size(conv *c, const char *key, int64_t otherwise)
{
    return (int32_t)conv_int(c, key, otherwise, 1, 1 << 28);
}

static CONV_UNUSED double conv_number(conv *c, const char *key, double otherwise)
{
    const json_value *v = conv_key(c, key);
    double d = otherwise;
    if (v && !json_is(v, JSON_NUMBER))
        conv_fail(c->env, "config.json: \"%s\" = %s is not a number", key, conv_shown(c, v));
    else if (v) d = json_number(v, otherwise);
    if (fabs(d) < 1e30) return d;
    conv_fail(c->env, "config.json: \"%s\" = %g is out of range", key, d);
    return 1.0;
}

/* A number > 0 without a default when otherwise is 0.                                                      */
static CONV_UNUSED double conv_positive(conv *c, const char *key, double otherwise)
{
    const double d = conv_number(c, key, otherwise);
    if (d > 0.0) return d;
    if (conv_key(c, key)) conv_fail(c->env, "config.json: \"%s\" = %g must be greater than 0", key, d);
    else conv_fail(c->env, "config.json: key \"%s\" is missing", key);
    return 1.0;
}

static CONV_UNUSED int conv_bool(conv *c, const char *key, int otherwise)
{
    const json_value *v = conv_key(c, key);
    if (v && json_bool(v, -1) < 0) conv_fail(c->env, "config.json: \"%s\" is neither true nor false", key);
    return json_bool(v, otherwise);
}

/* otherwise NULL: the key is required.                                                                     */
static CONV_UNUSED const char *conv_word(conv *c, const char *key, const char *otherwise)
{
    const json_value *v = conv_key(c, key);
    if (v && !json_is(v, JSON_STRING)) conv_fail(c->env, "config.json: \"%s\" is not a text", key);
    if (!v && !otherwise) conv_fail(c->env, "config.json: key \"%s\" is missing", key);
    return json_text(v, otherwise ? otherwise : "");
}

/* A key that the mapping knows only with this one value (or absent).                                       */
static CONV_UNUSED void conv_only_bool(conv *c, const char *key, int value)
{
    if (conv_bool(c, key, value) != value)
        conv_fail(c->env, "config.json: \"%s\": %s is not supported for architecture %.40s", key,
                  value ? "false" : "true", c->architecture);
}

/* Name of an activation in recipes.                                                                        */
static CONV_UNUSED const char *conv_activation(conv *c, const char *key, const char *otherwise)
{
    static const char *const names[][2] = {
        { "silu", "silu" }, { "swish", "silu" }, { "gelu", "gelu" }, { "gelu_python", "gelu" },
        { "gelu_new", "gelu_tanh" }, { "gelu_pytorch_tanh", "gelu_tanh" }, { "gelu_fast", "gelu_tanh" },
        { "gelu_accurate", "gelu_tanh" }, { "relu", "relu" }, { "relu2", "relu2" },
        { "relu_squared", "relu2" }, { "quick_gelu", "quick_gelu" }, { "sigmoid", "sigmoid" },
        { "tanh", "tanh" }
    };
    const char *name = conv_word(c, key, otherwise);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i][0], name) == 0) return names[i][1];
    }
    conv_fail(c->env, "config.json: \"%s\": activation \"%.40s\" is not known", key, name);
    return "silu";
}

/* Keys that cannot change what the model computes on text, for any architecture.                           */
static const char *const conv_ignored_keys[] = {
    "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "architectures", "attn_implementation",
    "auto_map", "attn_pdrop", "attention_dropout", "attention_probs_dropout_prob", "bad_words_ids",
    "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward", "classifier_dropout",
    "decoder_start_token_id", "diversity_penalty", "do_sample", "dropout", "dtype", "early_stopping",
    "embd_pdrop", "embed_dropout", "embedding_dropout", "encoder_no_repeat_ngram_size", "eos_token_id",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id",
    "from_tf", "gradient_checkpointing", "hidden_dropout", "hidden_dropout_prob", "id2label", "init_std",
    "initializer_range", "label2id", "layerdrop", "length_penalty", "max_length", "min_length",
    "model_type", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels",
    "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "pad_token_id",
    "predict_special_tokens", "prefix",
    "pretraining_tp", "problem_type", "remove_invalid_values", "repetition_penalty", "resid_dropout",
    "resid_pdrop", "residual_dropout", "return_dict", "return_dict_in_generate", "sep_token_id",
    "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss", "tie_encoder_decoder",
    "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript", "transformers_version", "typical_p",
    "unk_token_id", "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache", "use_mambapy",
    "xla_device", NULL
};

static CONV_UNUSED int conv_check_unread_keys(conv *c)
{
    conv_only_bool(c, "is_encoder_decoder", 0);
    conv_only_bool(c, "add_cross_attention", 0);
    conv_bool(c, "is_decoder", 1);
    if (json_count(conv_key(c, "pruned_heads")))
        conv_fail(c->env, "config.json: \"pruned_heads\" is not supported");
    for (uint32_t i = 0; !c->env->failed && i < json_count(c->config); i++) {
        const char *key = json_key_at(c->config, i)->text;
        int known = c->config_seen[i] || json_is(json_at(c->config, i), JSON_NULL);
        for (int k = 0; !known && conv_ignored_keys[k]; k++) known = strcmp(conv_ignored_keys[k], key) == 0;
        if (!known)
            return conv_fail(c->env, "config.json: key \"%.100s\" is not known for architecture %.40s "
                             "and might change the results", key, c->architecture);
    }
    return !c->env->failed;
}

/* ---- GGUF metadata ------------------------------------------------------------------------------------- */
/* Key "<architecture>.<name>".                                                                             */
static CONV_UNUSED gguf_kv *conv_gguf_key(conv *c, const char *name)
{
    return gguf_find(c->gguf, conv_format(c->env, "%s.%s", c->architecture, name));
}

/* otherwise NAN: the key is required.                                                                      */
static CONV_UNUSED double conv_gguf_number(conv *c, const char *name, double otherwise)
{
    const gguf_kv *kv = conv_gguf_key(c, name);
    double d;
    if (kv && !gguf_is_number(kv))
        conv_fail(c->env, "%s: key %s.%s is not one number", c->gguf->file->path, c->architecture, name);
    if (!kv && otherwise != otherwise)
        conv_fail(c->env, "%s: key %s.%s is missing", c->gguf->file->path, c->architecture, name);
    d = gguf_number(kv, otherwise);
    if (!c->env->failed && !(fabs(d) < 1e30))
        conv_fail(c->env, "%s: key %s.%s is out of range", c->gguf->file->path, c->architecture, name);
    return c->env->failed ? 1.0 : d;
}

/* A size: 1 ... 2^28. otherwise 0: required.                                                               */
static CONV_UNUSED int32_t conv_gguf_size(conv *c, const char *name, int32_t otherwise)
{
    const double d = conv_gguf_number(c, name, otherwise ? (double)otherwise : (double)NAN);
    if (d >= 1.0 && d <= 268435456.0 && floor(d) == d) return (int32_t)d;
    conv_fail(c->env, "%s: key %s.%s is not a whole number from 1 to 2^28", c->gguf->file->path,
              c->architecture, name);
    return 1;
}

/* All keys "<architecture>.*" must have been read by the mapping.                                          */
static CONV_UNUSED int conv_check_unread_gguf(conv *c)
{
    static const char *const ignored[] = { "vocab_size", "tensor_data_layout", NULL };
    const size_t n = strlen(c->architecture);
    if (!c->experts && conv_gguf_number(c, "expert_count", 0.0) != 0.0)
        return conv_fail(c->env, "%s: key %s.expert_count: experts are not supported", c->gguf->file->path,
                         c->architecture);
    if (!c->experts) conv_gguf_number(c, "expert_used_count", 0.0);
    for (uint64_t i = 0; !c->env->failed && i < c->gguf->n_kv; i++) {
        const gguf_kv *kv = &c->gguf->kv[i];
        int known = kv->used || strncmp(kv->key, c->architecture, n) != 0 || kv->key[n] != '.';
        for (int k = 0; !known && ignored[k]; k++) known = strcmp(kv->key + n + 1, ignored[k]) == 0;
        if (!known)
            return conv_fail(c->env, "%s: key %.100s is not known and might change the results",
                             c->gguf->file->path, kv->key);
    }
    return !c->env->failed;
}

/* A list of texts, one a line                                                                              */
static CONV_UNUSED const char *conv_lines(conv *c, const json_value *list)
{
    const char *text = "";
    for (uint32_t i = 0; i < json_count(list); i++)
        text = conv_format(c->env, "%s%s%s", text, i ? "\n" : "", json_text(json_at(list, i), "?"));
    return text;
}

#endif /* CONV_CONFIG_H_INCLUDED */
