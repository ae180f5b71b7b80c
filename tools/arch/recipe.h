/* arch/recipe.h: models that say themselves what they are. config.json holds the recipe, the checkpoint its
   tensors by the names that the recipe gives them, as any framework exports them:
     { "model_type": "recipe", "max_context": 0, "labels": ["..."],
       "recipe": ["input r0 rows width=8", "mix r1 r0 lti da=@da c=@c", "head logits r1"] }
   Weights of linear maps are [out, in], convolution kernels [taps, channels]. What form a tensor takes in the
   file follows from the key that names it. */
#ifndef ARCH_RECIPE_H_INCLUDED
#define ARCH_RECIPE_H_INCLUDED
#include "llama.h"

typedef enum recipe_form {
    RECIPE_VECTOR, RECIPE_MATRIX, RECIPE_TABLE, RECIPE_PANELS, RECIPE_ROWS
} recipe_form;

/* op, or mixer of a mix line; keys of it that are not plain float32 vectors */
static recipe_form recipe_form_of(const char *word, const char *key)
{
    static const struct { const char *word, *keys; recipe_form form; } forms[] = {
        { "embed", " w ", RECIPE_TABLE }, { "head", " w ", RECIPE_TABLE }, { "linear", " w ", RECIPE_MATRIX },
        { "experts", " up down ", RECIPE_MATRIX }, { "rnn", " w ", RECIPE_MATRIX },
        { "memory_context", " attend learn ", RECIPE_MATRIX },
        { "memory_context", " persistent start ", RECIPE_ROWS },
        { "scan", " a decay b c ", RECIPE_PANELS }, { "scan_whole", " a decay b c ", RECIPE_PANELS },
        { "scan", " init ", RECIPE_ROWS }, { "scan_whole", " init ", RECIPE_ROWS },
        { "lti", " da da_low b c p q ", RECIPE_PANELS }, { "codebook", " codebook relative ", RECIPE_PANELS },
        { "conv", " w ", RECIPE_ROWS }, { "conv_whole", " w ", RECIPE_ROWS },
        { "long_conv", " w ", RECIPE_ROWS },
        { "ssd", " init ", RECIPE_ROWS }, { "ssd_whole", " init ", RECIPE_ROWS },
        { "memory", " start ", RECIPE_ROWS }, { "memory_caching", " start ", RECIPE_ROWS }
    };
    char padded[80];
    snprintf(padded, sizeof padded, " %.70s ", key);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (strcmp(forms[i].word, word) == 0 && strstr(forms[i].keys, padded)) return forms[i].form;
    return RECIPE_VECTOR;
}

static void recipe_tensor(conv *c, const char *name, recipe_form form)
{
    const conv_tensor *t = conv_source_find(&c->source, name);
    int64_t n = 1;
    if (conv_made(c, name)) return;                    /* an embedding that is the head, a shared block */
    if (!t) { conv_fail(c->env, "tensor %.200s of the recipe is missing in the checkpoint", name); return; }
    for (int32_t i = 0; i < t->ndim; i++) n = (int64_t)conv_times((uint64_t)n, (uint64_t)t->shape[i]);
    if (form != RECIPE_VECTOR && t->ndim != 2) {
        conv_fail(c->env, "tensor %.200s has shape %s, the recipe needs a matrix", name,
                  conv_shape_text(c->env, t->shape, t->ndim));
        return;
    }
    if (n < 1 || n > INT32_MAX) { conv_fail(c->env, "tensor %.200s is empty or too large", name); return; }
    if (form == RECIPE_MATRIX || form == RECIPE_TABLE)
        conv_make(c, name, form == RECIPE_TABLE ? CONV_TABLE : CONV_MATRIX,
                  conv_take(c, name, t->shape[0], t->shape[1]));
    else if (form == RECIPE_PANELS)
        conv_make_panels(c, name, conv_read(c, name, n), (int32_t)t->shape[0], (int32_t)t->shape[1]);
    else if (form == RECIPE_ROWS)
        conv_make_rows(c, name, conv_read(c, name, n), (int32_t)t->shape[0], (int32_t)t->shape[1]);
    else
        conv_make_values(c, name, conv_read(c, name, n), (int32_t)n);
}

/* The tensors of key=@a,@b,- */
static void recipe_list(conv *c, const char *word, const char *key, const char *list)
{
    while (*list == '@' || *list == '-') {
        const size_t n = strcspn(list, ",");
        if (*list == '@')
            recipe_tensor(c, conv_copy_text(c->env, list + 1, n - 1), recipe_form_of(word, key));
        list += n + (list[n] == ',');
    }
}
static void recipe_line(conv *c, const char *line)
{
    const char *op = NULL, *word = "";
    int32_t place = 0;
    for (const char *at = line + strspn(line, " \t"); *at && *at != '#'; at += strspn(at, " \t"), place++) {
        const size_t n = strcspn(at, " \t");
        const char *part = conv_copy_text(c->env, at, n), *equals = part ? strchr(part, '=') : NULL;
        if (!part) return;
        if (place == 0) op = word = part;
        if (place == 3 && strcmp(op, "mix") == 0) word = part;
        if (equals)
            recipe_list(c, word, conv_copy_text(c->env, part, (size_t)(equals - part)), equals + 1);
        at += n;
    }
    conv_line(c, "%s", line);
}

static void arch_recipe(conv *c)
{
    const json_value *lines = conv_key(c, "recipe"), *labels = conv_key(c, "labels");
    if (!json_is(lines, JSON_ARRAY) || json_count(lines) == 0) {
        conv_fail(c->env, "config.json: \"recipe\" is not a list of lines");
        return;
    }
    c->max_context = (int32_t)conv_int(c, "max_context", 0, 0, INT32_MAX);
    if (labels) c->labels = conv_lines(c, labels);
    for (uint32_t i = 0; i < json_count(lines) && !c->env->failed; i++) {
        const char *line = json_text(json_at(lines, i), NULL);
        if (line && !strpbrk(line, "\r\n")) recipe_line(c, line);
        else conv_fail(c->env, "config.json: \"recipe\": line %d is no line", (int)i);
    }
}

#endif /* ARCH_RECIPE_H_INCLUDED */
