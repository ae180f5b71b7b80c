/* conv_rope.h: inverse frequencies of rotary positions for every scaling that checkpoints use, computed in
   double. Formulas and names of the kinds: modeling_rope_utils.py of transformers 5.                       */
#ifndef CONV_ROPE_H_INCLUDED
#define CONV_ROPE_H_INCLUDED
#include "conv_config.h"

typedef struct conv_rope_spec {       /* what a configuration says                                          */
    const char  *type;                /* default linear dynamic llama3 yarn longrope factors proportional   */
    /* attn_factor 0: as the type computes it; attn_long: of longrope's long factors */
    double       theta, factor, attn_factor, attn_long, original, max_position;
    double       beta_fast, beta_slow, mscale, mscale_all_dim, low_freq, high_freq;
    int32_t      truncate, dims;      /* dims odd: exponents over it, dims + 1 channels turn                */
    int32_t      turned;              /* proportional: so many of the dims / 2 pairs turn, as if all did    */
    /* [(dims + 1) / 2]: longrope; factors: short_factor only */
    const float *short_factor, *long_factor;
} conv_rope_spec;

typedef struct conv_rope {            /* what the recipe needs                                              */
    const char *name;                 /* of the output tensor                                               */
    const char *style;                /* "half" or "interleaved"                                            */
    int32_t     dims;                 /* 0: no rotary positions                                             */
    float      *freq, *freq_long;
    double      attn_factor, attn_long, ntk_factor;    /* attn_long 0: the same                             */
    int32_t     long_from, ntk_length;
} conv_rope;

static double conv__rope_theta(const conv_rope_spec *s, int32_t i)
{
    return pow(s->theta, -2.0 * i / s->dims);
}

/* Wavelengths beyond old / low are slowed by factor, those below old / high stay, between them a blend.    */
static double conv__rope_llama3(const conv_rope_spec *s, double theta)
{
    const double wavelength = 2.0 * 3.14159265358979323846 / theta;
    double smooth;
    if (wavelength > s->original / s->low_freq) return theta / s->factor;
    if (wavelength < s->original / s->high_freq) return theta;
    smooth = (s->original / wavelength - s->low_freq) / (s->high_freq - s->low_freq);
    return (1.0 - smooth) * theta / s->factor + smooth * theta;
}

/* Index of the frequency that turns `rotations` times over the original length.                            */
static double conv__rope_yarn_index(const conv_rope_spec *s, double rotations)
{
    return s->dims * log(s->original / (rotations * 2.0 * 3.14159265358979323846)) / (2.0 * log(s->theta));
}

static void conv__rope_yarn(const conv_rope_spec *s, float *freq)
{
    double low = conv__rope_yarn_index(s, s->beta_fast), high = conv__rope_yarn_index(s, s->beta_slow);
    if (s->truncate) { low = floor(low); high = ceil(high); }
    if (low < 0.0) low = 0.0;
    if (high > s->dims - 1) high = s->dims - 1;
    if (low == high) high += 0.001;
    for (int32_t i = 0; i < (s->dims + 1) / 2; i++) {
        const double theta = conv__rope_theta(s, i), at = (i - low) / (high - low);
        const double ramp = at < 0.0 ? 0.0 : at > 1.0 ? 1.0 : at;
        freq[i] = (float)(theta / s->factor * ramp + theta * (1.0 - ramp));
    }
}

static double conv__rope_mscale(double factor, double mscale)
{
    return factor <= 1.0 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

static int conv__rope_check(conv *c, const conv_rope_spec *s, int32_t head_dim)
{
    const int scaled = strcmp(s->type, "default") != 0 && strcmp(s->type, "factors") != 0 &&
                       strcmp(s->type, "proportional") != 0;
    if (c->env->failed) return 0;
    if (s->dims < 1 || s->dims > 65536 || s->dims + s->dims % 2 > head_dim)      /* a pow for each pair     */
        return conv_fail(c->env, "rotary positions over %d of %d channels of a head are not possible",
                         s->dims, head_dim);
    if (!(s->theta > 1.0)) return conv_fail(c->env, "rope_theta must be greater than 1");
    if (scaled && !(s->factor > 0.0))
        return conv_fail(c->env, "rope type \"%.20s\" needs a factor greater than 0", s->type);
    if (scaled && strcmp(s->type, "linear") != 0 && !(s->original >= 1.0 && s->original <= 1073741824.0))
        return conv_fail(c->env, "rope type \"%.20s\" needs original_max_position_embeddings", s->type);
    return 1;
}

static int conv__rope_longrope(conv *c, const conv_rope_spec *s, conv_rope *r)
{
    if (!s->short_factor || !s->long_factor)
        return conv_fail(c->env, "rope type \"longrope\" needs short_factor and long_factor");
    r->freq_long = (float *)conv_alloc(c->env, (uint64_t)r->dims / 2, sizeof(float));
    if (!r->freq_long) return 0;
    for (int32_t i = 0; i < r->dims / 2; i++) {
        r->freq[i] = (float)(conv__rope_theta(s, i) / (double)s->short_factor[i]);
        r->freq_long[i] = (float)(conv__rope_theta(s, i) / (double)s->long_factor[i]);
    }
    r->long_from = (int32_t)s->original;
    if (s->factor > 1.0) r->attn_factor = sqrt(1.0 + log(s->factor) / log(s->original));
    return 1;
}

/* Fills *r (name and style are the caller's).                                                              */
static CONV_UNUSED int conv_rope_make(conv *c, conv_rope *r, const conv_rope_spec *s, int32_t head_dim)
{
    int ok = 1;
    r->dims = s->dims + s->dims % 2;
    r->attn_factor = 1.0;
    if (!conv__rope_check(c, s, head_dim)) return 0;
    r->freq = (float *)conv_alloc(c->env, (uint64_t)r->dims / 2, sizeof(float));
    if (!r->freq) return 0;
    for (int32_t i = 0; i < r->dims / 2; i++) r->freq[i] = (float)conv__rope_theta(s, i);
    if (strcmp(s->type, "linear") == 0) {
        for (int32_t i = 0; i < r->dims / 2; i++) r->freq[i] = (float)(conv__rope_theta(s, i) / s->factor);
    } else if (strcmp(s->type, "proportional") == 0) {
        for (int32_t i = 0; i < r->dims / 2; i++)
            r->freq[i] = i < s->turned ? (float)(conv__rope_theta(s, i) / (s->factor > 0.0 ? s->factor
                                                                           : 1.0)) : 0.0f;
    } else if (strcmp(s->type, "dynamic") == 0) {
        r->ntk_factor = s->factor;
        r->ntk_length = (int32_t)s->max_position;
        c->unlimited = 1;
    } else if (strcmp(s->type, "llama3") == 0) {
        for (int32_t i = 0; i < r->dims / 2; i++)
            r->freq[i] = (float)conv__rope_llama3(s, conv__rope_theta(s, i));
    } else if (strcmp(s->type, "yarn") == 0) {
        conv__rope_yarn(s, r->freq);
        r->attn_factor = conv__rope_mscale(s->factor, 1.0);
        if (s->mscale != 0.0 && s->mscale_all_dim != 0.0)
            r->attn_factor = conv__rope_mscale(s->factor, s->mscale) /
                             conv__rope_mscale(s->factor, s->mscale_all_dim);
    } else if (strcmp(s->type, "longrope") == 0) {
        ok = conv__rope_longrope(c, s, r);
    } else if (strcmp(s->type, "factors") == 0 && s->short_factor) {       /* of GGUF files only */
        for (int32_t i = 0; i < r->dims / 2; i++)
            r->freq[i] = (float)(conv__rope_theta(s, i) / (double)s->short_factor[i]);
    } else if (strcmp(s->type, "default") != 0) {
        return conv_fail(c->env, "rope type \"%.40s\" is not known", s->type);
    }
    if (s->attn_factor > 0.0) r->attn_factor = s->attn_factor;
    if (s->attn_factor > 0.0 && s->attn_long != s->attn_factor) r->attn_long = s->attn_long;
    for (int32_t i = 0; ok && i < r->dims / 2; i++) {
        if (!(fabs((double)r->freq[i]) < 1e6)) ok = conv_fail(c->env, "rope frequency %d is out of range", i);
    }
    return ok;
}

/* ---- config.json --------------------------------------------------------------------------------------- */
typedef struct conv_rope_keys {       /* names and defaults that differ between architectures               */
    const char *theta_key, *partial_key;
    double      theta, partial;
} conv_rope_keys;

static double conv__rope_number(conv *c, const json_value *params, const char *key, double otherwise)
{
    const json_value *v = json_get(params, key);
    if (!v || v->type == JSON_NULL) return otherwise;
    if (!json_is(v, JSON_NUMBER) || !(fabs(json_number(v, 0.0)) < 1e30))
        conv_fail(c->env, "config.json: rope parameter \"%s\" is not a number", key);
    return json_number(v, otherwise);
}

static const float *conv__rope_list(conv *c, const json_value *params, const char *key, int32_t n)
{
    const json_value *list = json_get(params, key);
    float *values;
    if (!list || list->type == JSON_NULL) return NULL;
    values = (float *)conv_alloc(c->env, (uint64_t)n, sizeof *values);
    if (!values) return NULL;
    if (!json_is(list, JSON_ARRAY) || json_count(list) != (uint32_t)n) {
        conv_fail(c->env, "config.json: rope parameter \"%s\" is not a list of %d numbers", key, n);
        return NULL;
    }
    for (int32_t i = 0; i < n; i++) {
        values[i] = (float)json_number(json_at(list, (uint32_t)i), 0.0);
        if (!(values[i] > 0.0f))
            conv_fail(c->env, "config.json: rope parameter \"%s\": item %d is not greater than 0", key, i);
    }
    return values;
}

static void conv__rope_known_keys(conv *c, const json_value *params)
{
    static const char *const known[] = {
        "rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "attention_factor",
        "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
        "truncate", "low_freq_factor", "high_freq_factor", "short_factor", "long_factor", "finetuned",
        "alpha", "short_mscale", "long_mscale",
        "mrope_interleaved", "mrope_section", NULL     /* positions in pictures: on text the plain rope     */
    };
    for (uint32_t i = 0; i < json_count(params); i++) {
        const char *key = json_key_at(params, i)->text;
        int found = json_is(json_at(params, i), JSON_NULL);
        for (int k = 0; !found && known[k]; k++) found = strcmp(known[k], key) == 0;
        if (c->rope_extra && strcmp(c->rope_extra, key) == 0) found = 1;
        if (!found)
            conv_fail(c->env, "config.json: rope parameter \"%.60s\" is not known and might change "
                      "the results", key);
    }
}

/* Two older ways to say things: "dynamic" with alpha is a fixed growth of theta (HunYuan); short_mscale and
   long_mscale are factors of attention for either length (Phi-3.5-MoE).                                    */
static void conv__rope_variants(conv *c, const json_value *params, conv_rope_spec *s)
{
    const double alpha = conv__rope_number(c, params, "alpha", 0.0);
    const double shorter = conv__rope_number(c, params, "short_mscale", 0.0);
    if (strcmp(s->type, "dynamic") == 0 && alpha > 0.0 && s->dims > 2) {
        s->theta *= pow(alpha, (double)s->dims / (s->dims - 2));
        s->type = "default";
    }
    if (strcmp(s->type, "default") == 0) return;
    s->attn_factor = shorter;
    s->attn_long = conv__rope_number(c, params, "long_mscale", shorter);
    if (s->attn_long != shorter &&
        (strcmp(s->type, "longrope") != 0 || shorter <= 0.0 || s->attn_long <= 0.0))
        conv_fail(c->env, "config.json: different short_mscale and long_mscale must be of rope type "
                  "\"longrope\" and greater than 0");
}

/* Reads one set of rope parameters; params may be NULL: unscaled. max_position and original (0: not given)
   are the values outside the set, which win over it for the types that use the original length
   (transformers' rule).                                                                                    */
static CONV_UNUSED void conv_hf_rope_read(conv *c, conv_rope *r, const json_value *params,
                                          const conv_rope_keys *keys, double theta, double partial,
                                          int32_t head_dim, double max_position, double original)
{
    conv_rope_spec s;
    const char *type = json_text(json_get(params, "rope_type"),
                                 json_text(json_get(params, "type"), "default"));
    const double part = conv__rope_number(c, params, "partial_rotary_factor",
                                          partial > 0.0 ? partial : keys->partial);
    memset(&s, 0, sizeof s);
    if (strcmp(type, "su") == 0 || (strcmp(type, "yarn") == 0 && json_get(params, "short_factor")))
        type = "longrope";                             /* names in the first releases of Phi-3              */
    if (params && !json_is(params, JSON_OBJECT))
        conv_fail(c->env, "config.json: rope parameters are not an object");
    conv__rope_known_keys(c, params);
    s.type = conv_copy_text(c->env, type, strlen(type));
    s.theta = conv__rope_number(c, params, "rope_theta", theta > 0.0 ? theta : keys->theta);
    s.dims = part > 0.0 && part <= 1.0 ? (int32_t)(head_dim * part) : 0;
    if (strcmp(type, "proportional") == 0) {
        s.turned = (int32_t)floor(part * head_dim / 2.0);
        s.dims = head_dim;
    }
    s.max_position = max_position;
    s.original = original > 0.0 ? original
        : conv__rope_number(c, params, "original_max_position_embeddings", max_position);
    s.factor = conv__rope_number(c, params, "factor", 0.0);
    conv__rope_variants(c, params, &s);
    if (s.factor == 0.0 && (strcmp(type, "yarn") == 0 || strcmp(type, "longrope") == 0) && s.original > 0.0)
        s.factor = max_position / s.original;
    if (s.attn_factor == 0.0) s.attn_factor = conv__rope_number(c, params, "attention_factor", 0.0);
    s.beta_fast = conv__rope_number(c, params, "beta_fast", 32.0);
    s.beta_slow = conv__rope_number(c, params, "beta_slow", 1.0);
    s.mscale = conv__rope_number(c, params, "mscale", 0.0);
    s.mscale_all_dim = conv__rope_number(c, params, "mscale_all_dim", 0.0);
    s.low_freq = conv__rope_number(c, params, "low_freq_factor", 1.0);
    s.high_freq = conv__rope_number(c, params, "high_freq_factor", 4.0);
    s.truncate = json_bool(json_get(params, "truncate"), 1);
    if (s.dims >= 2 && s.dims <= head_dim && strcmp(type, "longrope") == 0) {
        s.short_factor = conv__rope_list(c, params, "short_factor", (s.dims + 1) / 2);
        s.long_factor = conv__rope_list(c, params, "long_factor", (s.dims + 1) / 2);
    }
    if (s.beta_fast <= 0.0) s.beta_fast = 32.0;
    if (s.beta_slow <= 0.0) s.beta_slow = 1.0;
    conv_rope_make(c, r, &s, head_dim);
}

/* The rope of a configuration in the new style ("rope_parameters", possibly one set for each layer type)
   or the old one ("rope_theta", "rope_scaling"). layer_type NULL: the set is not split.                    */
static CONV_UNUSED void conv_hf_rope(conv *c, conv_rope *r, const char *name, const char *layer_type,
                                     const conv_rope_keys *keys, int32_t head_dim)
{
    const json_value *params = conv_key(c, "rope_parameters"), *old = conv_key(c, "rope_scaling");
    const double theta = conv_number(c, keys->theta_key, 0.0);
    const double partial = keys->partial_key ? conv_number(c, keys->partial_key, 0.0) : 0.0;
    const double max_position = c->max_context;
    const double original = conv_number(c, "original_max_position_embeddings", 0.0);
    if (!params) params = old;
    if (layer_type && json_is(json_get(params, layer_type), JSON_OBJECT))
        params = json_get(params, layer_type);
    r->name = name;
    if (!r->style) r->style = "half";
    conv_hf_rope_read(c, r, params, keys, theta, partial, head_dim, max_position, original);
}

/* The rope of layers with a window where it is another than that of the full layers. In the old style it
   has a key of its own for the base and is never scaled.                                                   */
static CONV_UNUSED void conv_hf_sliding_rope(conv *c, conv_rope *r, const char *name,
                                             const conv_rope_keys *keys, int32_t head_dim)
{
    const json_value *params = conv_key(c, "rope_parameters");
    const double theta = conv_number(c, keys->theta_key, 0.0);
    if (json_is(json_get(params, "sliding_attention"), JSON_OBJECT))
        params = json_get(params, "sliding_attention");
    r->name = name;
    if (!r->style) r->style = "half";
    conv_hf_rope_read(c, r, params, keys, theta, 0.0, head_dim, c->max_context, 0.0);
}

/* ---- GGUF ---------------------------------------------------------------------------------------------- */
/* n float32 values of a small tensor, read now.                                                            */
static CONV_UNUSED const float *conv_read_vector(conv *c, const char *name, int32_t n)
{
    const conv_view v = conv_take(c, name, n, 0);
    float *values = (float *)conv_alloc(c->env, (uint64_t)n, sizeof *values);
    const uint8_t *data = v.tensor ? conv_tensor_data(&c->source, v.tensor) : NULL;
    if (!data || !values) return NULL;
    if (v.tensor->type == CONV_GGML) { conv_fail(c->env, "tensor %.100s is quantised", name); return NULL; }
    conv_values(values, data, n, (int64_t)conv_types[v.tensor->type].bytes * v.tensor->stride[0],
                v.tensor->type);
    for (int32_t i = 0; i < n; i++) {
        if (!(values[i] > 0.0f)) conv_fail(c->env, "tensor %.100s: value %d is not greater than 0", name, i);
    }
    return values;
}

static CONV_UNUSED void conv_gguf_rope(conv *c, conv_rope *r, const char *name, const char *style,
                                       int32_t head_dim)
{
    conv_rope_spec s;
    const char *type = gguf_text(c->gguf, conv_gguf_key(c, "rope.scaling.type"));
    memset(&s, 0, sizeof s);
    r->name = name;
    r->style = style;
    s.type = !type || strcmp(type, "none") == 0 ? "default" : type;
    s.dims = conv_gguf_size(c, "rope.dimension_count", head_dim);
    s.theta = conv_gguf_number(c, "rope.freq_base", 10000.0);
    s.factor = conv_gguf_number(c, "rope.scaling.factor", conv_gguf_number(c, "rope.scale_linear", 0.0));
    s.attn_factor = conv_gguf_number(c, "rope.scaling.attn_factor", 0.0);
    s.max_position = c->max_context;
    s.original = conv_gguf_number(c, "rope.scaling.original_context_length", s.max_position);
    s.beta_fast = conv_gguf_number(c, "rope.scaling.yarn_beta_fast", 32.0);
    s.beta_slow = conv_gguf_number(c, "rope.scaling.yarn_beta_slow", 1.0);
    s.truncate = 1;
    conv_gguf_key(c, "rope.scaling.finetuned");
    if (s.factor > 0.0 && !type) s.type = s.factor == 1.0 ? "default" : "linear";
    if (strcmp(s.type, "yarn") == 0 && s.attn_factor > 0.0) s.attn_factor *= conv__rope_mscale(s.factor, 1.0);
    if (conv_has(c, "rope_freqs.weight")) {
        s.type = "factors";
        s.short_factor = conv_read_vector(c, "rope_freqs.weight", (s.dims + 1) / 2);
    } else if (conv_has(c, "rope_factors_long.weight") || conv_has(c, "rope_factors_short.weight")) {
        s.type = "longrope";
        s.short_factor = conv_read_vector(c, "rope_factors_short.weight", (s.dims + 1) / 2);
        s.long_factor = conv_read_vector(c, "rope_factors_long.weight", (s.dims + 1) / 2);
        s.factor = s.original > 0.0 ? s.max_position / s.original : 1.0;
    }
    if (!c->env->failed) conv_rope_make(c, r, &s, head_dim);
}

/* The unscaled rotation of layers with a window, beside that of the others                                */
static CONV_UNUSED void conv_gguf_sliding_rope(conv *c, conv_rope *r, const conv_rope *others,
                                               const char *theta_key, int32_t head_dim)
{
    conv_rope_spec s;
    memset(&s, 0, sizeof s);
    s.type = "default";
    s.theta = conv_gguf_number(c, theta_key, 10000.0);
    s.dims = others->dims;
    r->name = "rope.freq_sliding";
    r->style = "half";
    conv_rope_make(c, r, &s, head_dim);
}

#endif /* CONV_ROPE_H_INCLUDED */
