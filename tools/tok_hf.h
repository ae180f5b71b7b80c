/* tok_hf.h: the tokenizer.json of Hugging Face tokenizers, and the configuration files beside it. Part of
   tok_import.h. What the file describes as a pipeline of objects becomes the steps of [TOK]; an object that
   is not known is an error that names it.

   Vocabularies that write the space as U+2581 ("space marks") are turned into vocabularies with spaces: the
   normalizer that replaces spaces becomes one that replaces marks by spaces, so text hardly changes. */
#ifndef TOK_HF_H_INCLUDED
#define TOK_HF_H_INCLUDED

typedef struct tok_hf {
    tok_builder      b;
    const char      *path;
    const json_value *root, *model, *vocab;
    json_doc         doc, tokenizer_config, special_map, generation, config;
    int              byte_level, marks, metaspace;   /* metaspace: it is one of the pre-tokenizers */
    int              replaces_spaces;  /* a normalizer or Metaspace turns spaces into marks */
    int              words;            /* WhitespaceSplit comes before Metaspace */
} tok_hf;

static int tok_hf_fail(tok_hf *h, const char *what, const json_value *object)
{
    return conv_fail(h->b.env, "%s: %s \"%.60s\" is not supported", h->path, what,
                     json_text(json_get(object, "type"), json_text(object, "(no type)")));
}

static tok_text tok_json_text(const json_value *v)
{
    return json_is(v, JSON_STRING) ? tok_make_text(v->text, v->n) : tok_make_text("", 0);
}

/* A part of the pipeline and, if it is a Sequence, its members: calls f for each that is no Sequence. */
typedef int (*tok_hf_visit)(tok_hf *h, const json_value *part);
static int tok_hf_each(tok_hf *h, const json_value *part, const char *members, tok_hf_visit f, int depth)
{
    const json_value *list;
    if (!part || json_is(part, JSON_NULL)) return 1;
    if (!json_text_is(json_get(part, "type"), "Sequence")) return f(h, part);
    list = json_get(part, members);
    if (depth > 8 || !json_is(list, JSON_ARRAY)) return tok_hf_fail(h, "a part of type", part);
    for (uint32_t i = 0; i < json_count(list); i++) {
        if (!tok_hf_each(h, json_at(list, i), members, f, depth + 1)) return 0;
    }
    return 1;
}

/* ---- what kind of vocabulary --------------------------------------------------------------------------- */
static int tok_hf_see_pre(tok_hf *h, const json_value *p)
{
    if (json_text_is(json_get(p, "type"), "ByteLevel")) h->byte_level = 1;
    if (json_text_is(json_get(p, "type"), "Metaspace")) h->marks = h->metaspace = 1;
    return 1;
}

static int tok_hf_see_decoder(tok_hf *h, const json_value *d)
{
    const json_value *pattern = json_get(json_get(d, "pattern"), "String");
    if (json_text_is(json_get(d, "type"), "Metaspace")) h->marks = 1;
    if (json_text_is(json_get(d, "type"), "Replace") && json_text_is(pattern, tok_space_mark) &&
        json_text_is(json_get(d, "content"), " ")) h->marks = 1;
    return 1;
}

static tok_text tok_hf_spaced(tok_hf *h, tok_text a) { return h->marks ? tok_with_spaces(h->b.env, a) : a; }

/* ---- normalizers --------------------------------------------------------------------------------------- */
/* Texts of a step: once spaces have become marks there (and marks spaces here), marks are spaces. */
static tok_text tok_hf_step_text(tok_hf *h, tok_text a)
{
    return h->replaces_spaces ? tok_hf_spaced(h, a) : a;
}

static int tok_hf_replace(tok_hf *h, const json_value *n)
{
    const json_value *pattern = json_get(json_get(n, "pattern"), "String");
    const json_value *regex = json_get(json_get(n, "pattern"), "Regex");
    const tok_text from = tok_json_text(pattern), to = tok_json_text(json_get(n, "content"));
    sqm__tok_step *s;
    uint32_t first, count;
    if (pattern && h->marks && json_text_is(pattern, " ") &&
        json_text_is(json_get(n, "content"), tok_space_mark)) {
        h->replaces_spaces = 1;
        tok_marks_to_spaces(&h->b);
        return 1;
    }
    if ((!pattern || from.bytes == 0) && !json_is(regex, JSON_STRING))
        return tok_hf_fail(h, "a normalizer without a pattern, type", n);
    if (h->replaces_spaces && (regex || tok_has(from, " ") || tok_has(to, " ")))
        return tok_hf_fail(h, "a normalizer of spaces, type", n);
    if (!regex) {
        tok_add_normalizer(&h->b, SQM__NORM_REPLACE, 0, tok_hf_step_text(h, from), tok_hf_step_text(h, to));
        return 1;
    }
    if (!tok_compile(&h->b.tables, regex->text, regex->n, &first, &count)) return 0;
    tok_add_normalizer(&h->b, SQM__NORM_REGEX, 0, to, tok_make_text("", 0));
    if (h->b.env->failed) return 0;
    s = &h->b.into->steps[h->b.into->n - 1];
    s->b = first;
    s->b_bytes = count;
    return 1;
}

static int tok_hf_bert_normalizer(tok_hf *h, const json_value *n)
{
    conv_env *env = h->b.env;
    const int lower = json_bool(json_get(n, "lowercase"), 1);
    if (json_bool(json_get(n, "clean_text"), 1)) {
        tok_set *blanks = TOK_SET_OF(env, tok_blanks);
        if (blanks) blanks->bits[0] &= ~((uint64_t)1 << ' ');
        tok_add_class_normalizer(&h->b, 0, TOK_SET_OF(env, tok_controls), "");
        tok_add_class_normalizer(&h->b, 0, blanks, " ");
    }
    if (json_bool(json_get(n, "handle_chinese_chars"), 1))
        tok_add_class_normalizer(&h->b, 1, TOK_SET_OF(env, tok_ideographs), " ");
    if (json_bool(json_get(n, "strip_accents"), lower)) {
        if (!tok_add_form(&h->b, 0, 1)) return 0;
        tok_add_class_normalizer(&h->b, 0, TOK_SET_OF(env, tok_plain_marks), "");
    }
    return lower ? tok_add_lower(&h->b) : !env->failed;
}

/* The value of one base64 digit, 64: none. */
static uint32_t tok__base64_digit(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (uint32_t)(at - digits) : 64;
}

/* Decodes base64; NULL with an error in env when it is none. */
static uint8_t *tok_base64(conv_env *env, const char *text, size_t n, uint64_t *bytes)
{
    uint8_t *out = (uint8_t *)conv_alloc(env, n / 4 * 3 + 3, 1);
    uint32_t bits = 0, n_bits = 0;
    *bytes = 0;
    while (n && text[n - 1] == '=') n--;
    for (size_t i = 0; out && i < n; i++) {
        const uint32_t digit = tok__base64_digit(text[i]);
        if (digit > 63) {
            conv_fail(env, "tokenizer: \"%.*s\" is no base64", (int)(n < 40 ? n : 40), text);
            return NULL;
        }
        bits = bits << 6 | digit;
        n_bits += 6;
        if (n_bits >= 8) { n_bits -= 8; out[(*bytes)++] = (uint8_t)(bits >> n_bits & 255); }
    }
    return out;
}

static int tok_hf_precompiled(tok_hf *h, const json_value *n)
{
    const json_value *map = json_get(n, "precompiled_charsmap");
    uint64_t bytes;
    uint8_t *data;
    if (!json_is(map, JSON_STRING)) return json_is(map, JSON_NULL) || tok_hf_fail(h, "this charsmap of", n);
    if (map->n == 0) return 1;
    data = tok_base64(h->b.env, map->text, map->n, &bytes);
    return data && tok_add_charsmap(&h->b, data, bytes, 1);
}

static int tok_hf_normalizer(tok_hf *h, const json_value *n)
{
    const json_value *type = json_get(n, "type");
    const char *name = json_text(type, "");
    const tok_text none = tok_make_text("", 0);
    if (strncmp(name, "NF", 2) == 0 && (strlen(name) == 3 || (strlen(name) == 4 && name[2] == 'K')) &&
        strchr("CD", name[strlen(name) - 1]))
        return tok_add_form(&h->b, name[2] == 'K', name[strlen(name) - 1] == 'D');
    if (json_text_is(type, "Lowercase")) return tok_add_lower(&h->b);
    if (json_text_is(type, "BertNormalizer")) return tok_hf_bert_normalizer(h, n);
    if (json_text_is(type, "Precompiled")) return tok_hf_precompiled(h, n);
    if (json_text_is(type, "Replace")) return tok_hf_replace(h, n);
    if (json_text_is(type, "StripAccents")) {
        tok_add_class_normalizer(&h->b, 0, TOK_SET_OF(h->b.env, tok_all_marks), "");
    } else if (json_text_is(type, "Prepend")) {
        const tok_text prefix = tok_json_text(json_get(n, "prepend"));
        tok_add_normalizer(&h->b, SQM__NORM_PREPEND, 0, tok_hf_step_text(h, prefix), none);
    } else if (json_text_is(type, "Strip") && !h->replaces_spaces) {
        const uint32_t left = (uint32_t)json_bool(json_get(n, "strip_left"), 1);
        const uint32_t right = (uint32_t)json_bool(json_get(n, "strip_right"), 1);
        tok_add_strip(&h->b, left | right << 1, NULL);
    } else {
        return tok_hf_fail(h, "the normalizer", n);
    }
    return !h->b.env->failed;
}

/* ---- pre-tokenizers ------------------------------------------------------------------------------------ */
static int tok_hf_behaviour(tok_hf *h, const json_value *p, uint32_t *flags)
{
    static const char *const names[5] = { "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext",
                                          "Contiguous" };
    for (uint32_t i = 0; i < 5; i++) {
        if (!json_text_is(json_get(p, "behavior"), names[i])) continue;
        *flags = i | (json_bool(json_get(p, "invert"), 0) ? (uint32_t)SQM__SPLIT_INVERT : 0);
        return 1;
    }
    return tok_hf_fail(h, "the split behaviour", json_get(p, "behavior"));
}

static int tok_hf_split(tok_hf *h, const json_value *p)
{
    const json_value *regex = json_get(json_get(p, "pattern"), "Regex");
    const json_value *text = json_get(json_get(p, "pattern"), "String");
    uint32_t flags;
    if (!tok_hf_behaviour(h, p, &flags)) return 0;
    if (json_is(regex, JSON_STRING)) {
        if (h->marks) return tok_hf_fail(h, "a regular expression together with U+2581, type", p);
        return tok_add_split(&h->b, regex->text, regex->n, flags);
    }
    if (!json_is(text, JSON_STRING) || text->n == 0)
        return tok_hf_fail(h, "a Split without a pattern, type", p);
    if (h->replaces_spaces && tok_has(tok_json_text(text), " ") && !(flags & SQM__SPLIT_INVERT))
        return 1;                                      /* no space is left to split at */
    if (h->marks && tok_has(tok_json_text(text), " ")) return tok_hf_fail(h, "a split at spaces, type", p);
    return tok_add_text_split(&h->b, tok_hf_spaced(h, tok_json_text(text)), flags);
}

static int tok_hf_byte_level(tok_hf *h, const json_value *p)
{
    if (json_bool(json_get(p, "add_prefix_space"), 1)) {
        if (h->b.splits.n) return tok_hf_fail(h, "add_prefix_space after another pre-tokenizer, type", p);
        tok_prepend_space(&h->b, 1);
    }
    return !json_bool(json_get(p, "use_regex"), 1) ||
           tok_add_split(&h->b, TOK_RE_GPT2, strlen(TOK_RE_GPT2), SQM__SPLIT_ISOLATED);
}

/* Words, each of which Metaspace begins with a mark unless it has one: white space becomes one space before
   each word, and none is left elsewhere. */
static int tok_hf_words_of_metaspace(tok_hf *h)
{
    tok_set *white = tok_set_new(h->b.env), *space = tok_set_new(h->b.env);
    if (!white || !space) return 0;
    if (h->replaces_spaces) return conv_fail(h->b.env, "%s: WhitespaceSplit after Metaspace is not supported",
                                             h->path);
    tok_set_add_escape(h->b.env, white, 's');
    tok_set_add(space, ' ', ' ');
    tok_add_class_normalizer(&h->b, 2, white, " ");
    tok_add_strip(&h->b, 3, space);
    tok_add_normalizer(&h->b, SQM__NORM_REPLACE, 0, tok_make_text(" \xE2\x96\x81", 4),
                       tok_make_text(tok_space_mark, 3));
    h->words = 1;
    return !h->b.env->failed;
}

static int tok_hf_metaspace(tok_hf *h, const json_value *p)
{
    const json_value *scheme = json_get(p, "prepend_scheme");
    const int prefix = json_bool(json_get(p, "add_prefix_space"), 1);
    if (h->b.splits.n || h->replaces_spaces || !json_text_is(json_get(p, "replacement"), tok_space_mark) ||
        (h->words && (scheme ? !json_text_is(scheme, "always") : !prefix)))
        return tok_hf_fail(h, "an unusual pre-tokenizer of type", p);
    tok_marks_to_spaces(&h->b);
    h->replaces_spaces = 1;
    if (json_text_is(scheme, "first")) tok_prepend_space(&h->b, 1 | 2);
    else if (json_text_is(scheme, "always") || (!scheme && prefix)) tok_prepend_space(&h->b, 1);
    return !json_bool(json_get(p, "split"), 1) || tok_add_split(&h->b, " ", 1, SQM__SPLIT_WITH_NEXT);
}

static int tok_hf_pre(tok_hf *h, const json_value *p)
{
    const json_value *type = json_get(p, "type");
    if (json_text_is(type, "ByteLevel")) return tok_hf_byte_level(h, p);
    if (json_text_is(type, "Metaspace")) return tok_hf_metaspace(h, p);
    if (json_text_is(type, "Split")) return tok_hf_split(h, p);
    if (json_text_is(type, "Digits"))
        return tok_add_split(&h->b, "\\p{N}", 5,
                             json_bool(json_get(p, "individual_digits"), 0) ? SQM__SPLIT_ISOLATED
                                                                             : SQM__SPLIT_CONTIGUOUS);
    if (json_text_is(type, "WhitespaceSplit"))
        return h->metaspace ? tok_hf_words_of_metaspace(h)
                            : tok_add_split(&h->b, "\\s", 2, SQM__SPLIT_REMOVED);
    if (json_text_is(type, "Whitespace"))
        return tok_add_split(&h->b, "\\w+|[^\\w\\s]+", 12, SQM__SPLIT_REMOVED | SQM__SPLIT_INVERT);
    if (json_text_is(type, "BertPreTokenizer")) return tok_add_bert_split(&h->b);
    if (json_text_is(type, "Punctuation")) {
        uint32_t flags = SQM__SPLIT_ISOLATED;
        if (json_get(p, "behavior") && !tok_hf_behaviour(h, p, &flags)) return 0;
        return tok_add_set_split(&h->b, TOK_SET_OF(h->b.env, tok_punctuation), flags);
    }
    return tok_hf_fail(h, "the pre-tokenizer", p);
}

/* ---- decoders ------------------------------------------------------------------------------------------ */
/* Does a word with this text come without a space before it? */
static int tok_hf_joins(tok_text a)
{
    static const char *const starts[] = { ".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re" };
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        const size_t n = strlen(starts[i]);
        if (a.bytes >= n && memcmp(a.text, starts[i], n) == 0) return 1;
    }
    return 0;
}

/* Words are parted by spaces, but not before some signs; what goes on inside a word comes without its prefix,
   which only shows where a text begins. */
static int tok_hf_word_decoder(tok_hf *h, const json_value *d)
{
    const tok_text prefix = tok_json_text(json_get(d, "prefix"));
    const int cleanup = json_bool(json_get(d, "cleanup"), 1);
    tok_builder *b = &h->b;
    sqm__tok_step *s;
    for (uint32_t i = 0; i < b->n && !b->env->failed; i++) {
        const tok_text raw = b->raw[i];
        char *spaced;
        if (raw.bytes >= prefix.bytes && prefix.bytes && memcmp(raw.text, prefix.text, prefix.bytes) == 0) {
            b->text[i] = tok_make_text(raw.text + prefix.bytes, raw.bytes - prefix.bytes);
            b->hidden[i] = 2;
            continue;
        }
        if (raw.bytes == 0 || (cleanup && tok_hf_joins(raw))) continue;
        spaced = (char *)conv_alloc(b->env, (uint64_t)raw.bytes + 2, 1);
        if (!spaced) return 0;
        spaced[0] = ' ';
        memcpy(spaced + 1, raw.text, raw.bytes);
        b->text[i] = tok_make_text(spaced, raw.bytes + 1);
    }
    s = tok_add_step(b, &b->decoders, SQM__DECODE_STRIP, 1);
    if (s) s->a = ' ';
    s = tok_add_step(b, &b->decoders, SQM__DECODE_INSIDE, 0);
    if (!s) return 0;
    s->a = tok_add_string(b, prefix);
    s->a_bytes = prefix.bytes;
    return !b->env->failed;
}

static int tok_hf_decoder(tok_hf *h, const json_value *d)
{
    const json_value *type = json_get(d, "type");
    sqm__tok_step *s;
    int64_t strip = 0;
    if (json_text_is(type, "ByteLevel"))
        return h->byte_level ? 1 : tok_hf_fail(h, "without its pre-tokenizer, the decoder", d);
    if (json_text_is(type, "ByteFallback") || json_text_is(type, "Fuse")) return 1;
    if (json_text_is(type, "WordPiece")) return tok_hf_word_decoder(h, d);
    if (json_text_is(type, "Replace"))
        return h->marks && json_text_is(json_get(json_get(d, "pattern"), "String"), tok_space_mark) &&
               json_text_is(json_get(d, "content"), " ") ? 1 : tok_hf_fail(h, "a decoder of type", d);
    if (json_text_is(type, "Strip") && json_text_is(json_get(d, "content"), " ") &&
        json_int(json_get(d, "stop"), 0) == 0)
        strip = json_int(json_get(d, "start"), 0);
    else if (json_text_is(type, "Metaspace"))
        strip = !json_text_is(json_get(d, "prepend_scheme"), "never") &&
                json_bool(json_get(d, "add_prefix_space"), 1);
    else
        return tok_hf_fail(h, "the decoder", d);
    if (strip < 0 || strip > 1000) return tok_hf_fail(h, "this count, decoder", d);
    if (strip == 0) return 1;
    s = tok_add_step(&h->b, &h->b.decoders, SQM__DECODE_STRIP, (uint32_t)strip);
    if (s) s->a = ' ';
    return 1;
}

/* ---- template ------------------------------------------------------------------------------------------ */
static int tok_hf_template(tok_hf *h, const json_value *p)
{
    const json_value *single = json_get(p, "single"), *specials = json_get(p, "special_tokens");
    int after = 0;
    for (uint32_t i = 0; i < json_count(single); i++) {
        const json_value *special = json_get(json_at(single, i), "SpecialToken"), *ids;
        if (json_get(json_at(single, i), "Sequence")) { after = 1; continue; }
        ids = json_get(json_get(specials, json_text(json_get(special, "id"), "")), "ids");
        if (!json_is(ids, JSON_ARRAY)) return tok_hf_fail(h, "a template with an unknown token, type", p);
        for (uint32_t k = 0; k < json_count(ids); k++)
            tok_add_id(h->b.env, after ? &h->b.suffix : &h->b.prefix, json_int(json_at(ids, k), -1), h->b.n);
    }
    return 1;
}

static int tok_hf_post(tok_hf *h, const json_value *p)
{
    const json_value *type = json_get(p, "type");
    if (json_text_is(type, "ByteLevel")) return 1;     /* only moves offsets */
    if (json_text_is(type, "TemplateProcessing")) return tok_hf_template(h, p);
    if (json_text_is(type, "RobertaProcessing") || json_text_is(type, "BertProcessing")) {
        tok_add_id(h->b.env, &h->b.prefix, json_int(json_at(json_get(p, "cls"), 1), -1), h->b.n);
        tok_add_id(h->b.env, &h->b.suffix, json_int(json_at(json_get(p, "sep"), 1), -1), h->b.n);
        return 1;
    }
    return tok_hf_fail(h, "the post-processor", p);
}

/* ---- vocabulary ---------------------------------------------------------------------------------------- */
static int tok_hf_count(tok_hf *h)
{
    const json_value *added = json_get(h->root, "added_tokens");
    int64_t most = -1;
    if (json_is(h->vocab, JSON_ARRAY)) most = (int64_t)json_count(h->vocab) - 1;
    for (uint32_t i = 0; json_is(h->vocab, JSON_OBJECT) && i < json_count(h->vocab); i++) {
        const int64_t id = json_int(json_at(h->vocab, i), -1);
        if (id < 0) return conv_fail(h->b.env, "%s: the id of token \"%.60s\" is no number", h->path,
                                     json_key_at(h->vocab, i)->text);
        if (id > most) most = id;
    }
    for (uint32_t i = 0; i < json_count(added); i++) {
        const int64_t id = json_int(json_get(json_at(added, i), "id"), -1);
        if (id < 0) return conv_fail(h->b.env, "%s: added token %u has no id", h->path, i);
        if (id > most) most = id;
    }
    if (most >= TOK_MAX_TOKENS)
        return conv_fail(h->b.env, "%s: token id %lld is too large", h->path, (long long)most);
    return tok_set_count(&h->b, (uint64_t)(most + 1), (uint64_t)json_count(h->vocab) + json_count(added));
}

static void tok_hf_set_text(tok_hf *h, uint32_t id, const int16_t *byte_of)
{
    tok_builder *b = &h->b;
    const int byte = b->byte_fallback ? tok_byte_token(b->raw[id]) : -1;
    if (b->type[id] != SQM__TOKEN_NORMAL && h->byte_level) b->text[id] = b->raw[id];
    else if (h->byte_level) b->text[id] = tok_byte_level(b->env, b->raw[id], byte_of);
    else b->text[id] = tok_hf_spaced(h, b->raw[id]);
    if (byte >= 0 && b->type[id] == SQM__TOKEN_NORMAL) {
        const char c = (char)byte;
        b->text[id] = tok_make_text(conv_copy_text(b->env, &c, 1), 1);
        b->type[id] = SQM__TOKEN_BYTE;
    }
    b->hidden[id] = h->marks && tok_has(b->raw[id], " ");
}

static int tok_hf_added(tok_hf *h)
{
    const json_value *added = json_get(h->root, "added_tokens");
    for (uint32_t i = 0; i < json_count(added); i++) {
        const json_value *a = json_at(added, i), *content = json_get(a, "content");
        const int64_t id = json_int(json_get(a, "id"), -1);
        const int special = json_bool(json_get(a, "special"), 0);
        const uint32_t flags = (special ? (uint32_t)SQM__ADDED_SPECIAL : 0) |
                               (json_bool(json_get(a, "lstrip"), 0) ? (uint32_t)SQM__ADDED_LSTRIP : 0) |
                               (json_bool(json_get(a, "rstrip"), 0) ? (uint32_t)SQM__ADDED_RSTRIP : 0) |
                               (json_bool(json_get(a, "single_word"), 0) ? (uint32_t)SQM__ADDED_WORD : 0);
        if (!json_is(content, JSON_STRING))
            return conv_fail(h->b.env, "%s: added token %u has no content", h->path, i);
        h->b.raw[id] = tok_json_text(content);
        h->b.type[id] = (uint8_t)(special ? SQM__TOKEN_SPECIAL : SQM__TOKEN_ADDED);
        tok_add_added(&h->b, tok_json_text(content), (int32_t)id, flags,
                      json_bool(json_get(a, "normalized"), !special));
    }
    return !h->b.env->failed;
}

/* Texts of the tokens from how they are written, once the types are known; also the added tokens. */
static int tok_hf_texts(tok_hf *h)
{
    int16_t byte_of[512];
    for (int i = 0; i < 512; i++) byte_of[i] = (int16_t)tok_byte_of_char((uint32_t)i);
    if (!tok_hf_added(h)) return 0;
    for (uint32_t i = 0; i < h->b.n && !h->b.env->failed; i++) tok_hf_set_text(h, i, byte_of);
    return !h->b.env->failed;
}

static int tok_hf_map(tok_hf *h)
{
    tok_builder *b = &h->b;
    tok_map_open(b->env, &b->map, b->raw, b->n);
    for (uint32_t i = 0; i < b->n && !b->env->failed; i++) {
        if (b->raw[i].bytes) tok_map_add(&b->map, (int32_t)i);
    }
    return !b->env->failed;
}

static int tok_hf_vocab(tok_hf *h)
{
    tok_builder *b = &h->b;
    if (!tok_hf_count(h)) return 0;
    for (uint32_t i = 0; i < json_count(h->vocab); i++) {
        const json_value *key = json_key_at(h->vocab, i), *value = json_at(h->vocab, i);
        const int64_t id = json_int(value, -1);
        if (json_get_bytes(h->vocab, key->text, key->n) != value) continue;    /* a later one has this key */
        if (b->type[id] == SQM__TOKEN_NORMAL)
            return conv_fail(b->env, "%s: tokens \"%.60s\" and \"%.60s\" have the same id", h->path,
                             b->raw[id].text, key->text);
        b->raw[id] = tok_json_text(key);
        b->type[id] = SQM__TOKEN_NORMAL;
    }
    return tok_hf_texts(h);
}

/* A merge is "left right" or [left, right]. */
static int tok_hf_merges(tok_hf *h)
{
    const json_value *merges = json_get(h->model, "merges");
    tok_builder *b = &h->b;
    char *joined = (char *)conv_alloc(b->env, 1 << 18, 1);
    if (!joined) return 0;
    for (uint32_t i = 0; i < json_count(merges) && !b->env->failed; i++) {
        const json_value *m = json_at(merges, i);
        tok_text left = tok_json_text(json_at(m, 0)), right = tok_json_text(json_at(m, 1));
        if (json_is(m, JSON_STRING)) {
            const char *space = (const char *)memchr(m->text, ' ', m->n);
            if (space) {
                left = tok_make_text(m->text, (size_t)(space - m->text));
                right = tok_make_text(space + 1, m->n - left.bytes - 1);
            }
        }
        if (left.bytes == 0 || right.bytes == 0 || left.bytes + (uint64_t)right.bytes > 1 << 17)
            return conv_fail(b->env, "%s: merge %u is not two texts", h->path, i);
        if (!tok_add_text_merge(b, left, right, i, joined)) return 0;
    }
    return !b->env->failed;
}

static int tok_hf_bpe(tok_hf *h)
{
    tok_builder *b = &h->b;
    if (!json_is(h->vocab, JSON_OBJECT) || !json_is(json_get(h->model, "merges"), JSON_ARRAY))
        return conv_fail(b->env, "%s: the model has no vocab or no merges", h->path);
    if (tok_json_text(json_get(h->model, "continuing_subword_prefix")).bytes)
        return conv_fail(b->env, "%s: a BPE model with continuing_subword_prefix is not supported", h->path);
    if (tok_json_text(json_get(h->model, "end_of_word_suffix")).bytes)
        return conv_fail(b->env, "%s: a BPE model with end_of_word_suffix is not supported", h->path);
    b->byte_fallback = json_bool(json_get(h->model, "byte_fallback"), 0);
    b->ignore_merges = json_bool(json_get(h->model, "ignore_merges"), 0);
    if (json_bool(json_get(h->model, "fuse_unk"), 0)) b->flags |= SQM__TOK_FUSE_UNK;
    b->kind = h->byte_level ? SQM__TOK_BYTE_BPE : SQM__TOK_CHAR_BPE;
    if (h->byte_level && (h->marks || b->byte_fallback))
        return conv_fail(b->env, "%s: ByteLevel with U+2581 or byte_fallback is not supported", h->path);
    return tok_hf_vocab(h) && tok_hf_map(h) && tok_hf_merges(h);
}

static int tok_hf_wordpiece(tok_hf *h)
{
    tok_builder *b = &h->b;
    const int64_t most = json_int(json_get(h->model, "max_input_chars_per_word"), 100);
    if (!json_is(h->vocab, JSON_OBJECT) || h->byte_level || h->marks || most < 0 || most > 1 << 20)
        return conv_fail(b->env, "%s: this WordPiece model is not supported (vocab, pre-tokenizer or "
                         "max_input_chars_per_word)", h->path);
    b->kind = SQM__TOK_WORDPIECE;
    b->inside = tok_json_text(json_get(h->model, "continuing_subword_prefix"));
    b->words[1] = (uint32_t)most;
    if (!tok_hf_vocab(h) || !tok_hf_map(h)) return 0;
    for (uint32_t i = 0; i < json_count(h->vocab); i++) {
        const tok_text key = tok_json_text(json_key_at(h->vocab, i));
        b->key[json_int(json_at(h->vocab, i), 0)] = key;
    }
    return !b->env->failed;
}

/* The vocabulary is a list of [text, score]; a character that no token begins with costs more than any. */
static int tok_hf_unigram(tok_hf *h)
{
    tok_builder *b = &h->b;
    double least = 0.0;
    const uint32_t n = json_count(h->vocab);
    b->kind = SQM__TOK_UNIGRAM;
    b->byte_fallback = json_bool(json_get(h->model, "byte_fallback"), 0);
    if (!json_is(h->vocab, JSON_ARRAY) || h->byte_level)
        return conv_fail(b->env, "%s: this Unigram model is not supported (vocab or pre-tokenizer)", h->path);
    if (!tok_hf_count(h)) return 0;
    b->scores = (double *)conv_alloc(b->env, (uint64_t)b->n + 1, sizeof *b->scores);
    for (uint32_t i = 0; b->scores && i < n; i++) {
        const json_value *text = json_at(json_at(h->vocab, i), 0), *score = json_at(json_at(h->vocab, i), 1);
        if (!json_is(text, JSON_STRING) || !json_is(score, JSON_NUMBER))
            return conv_fail(b->env, "%s: token %u is no text with a score", h->path, i);
        b->raw[i] = tok_json_text(text);
        b->type[i] = SQM__TOKEN_NORMAL;
        b->scores[i] = json_number(score, 0.0);
        if (!(b->scores[i] > -1e30 && b->scores[i] < 1e30))
            return conv_fail(b->env, "%s: the score of token %u is out of range", h->path, i);
        if (i == 0 || b->scores[i] < least) least = b->scores[i];
    }
    if (b->env->failed) return 0;
    b->scores[b->n] = least - 10.0;
    b->model_unk = (int32_t)json_int(json_get(h->model, "unk_id"), -1);
    if (b->model_unk < -1 || b->model_unk >= (int32_t)b->n)
        return conv_fail(b->env, "%s: unk_id %d is no token", h->path, b->model_unk);
    if (!tok_hf_texts(h) || !tok_hf_map(h)) return 0;
    for (uint32_t i = 0; i < n; i++) {
        const tok_text key = tok_json_text(json_at(json_at(h->vocab, i), 0));
        if (!h->marks || !tok_has(key, " ")) b->key[i] = tok_hf_spaced(h, key);
    }
    return !b->env->failed;
}

static int tok_hf_model(tok_hf *h)
{
    const json_value *type = json_get(h->model, "type"), *unk = json_get(h->model, "unk_token");
    tok_builder *b = &h->b;
    int ok;
    if (json_text_is(type, "Unigram") || (!type && json_is(h->vocab, JSON_ARRAY))) return tok_hf_unigram(h);
    if (json_text_is(type, "WordPiece") || (!type && !json_get(h->model, "merges"))) ok = tok_hf_wordpiece(h);
    else if (!type || json_text_is(type, "BPE")) ok = tok_hf_bpe(h);
    else return tok_hf_fail(h, "the model", h->model);
    if (!ok) return 0;
    if (json_is(unk, JSON_STRING)) {
        b->model_unk = tok_map_find(&b->map, tok_json_text(unk));
        if (b->model_unk < 0)
            return conv_fail(b->env, "%s: unk_token \"%.60s\" is no token", h->path, unk->text);
    }
    return 1;
}

/* ---- roles and ends ------------------------------------------------------------------------------------ */
/* Number of a token given as a text or as an object with content; -1: none. */
static int32_t tok_hf_token(const tok_hf *h, const json_value *v)
{
    if (json_is(v, JSON_OBJECT)) v = json_get(v, "content");
    return json_is(v, JSON_STRING) && v->n ? tok_map_find(&h->b.map, tok_json_text(v)) : -1;
}

/* Adds a number or a list of numbers to the ends; returns the first, -1: none. */
static int64_t tok_hf_add_ends(tok_hf *h, const json_value *v)
{
    if (json_is(v, JSON_NUMBER)) {
        tok_add_id(h->b.env, &h->b.ends, json_int(v, -1), h->b.n);
        return json_int(v, -1);
    }
    for (uint32_t i = 0; i < json_count(v); i++)
        tok_add_id(h->b.env, &h->b.ends, json_int(json_at(v, i), -1), h->b.n);
    return json_int(json_at(v, 0), -1);
}

static void tok_hf_roles(tok_hf *h)
{
    static const char *const names[4] = { "bos_token", "eos_token", "unk_token", "pad_token" };
    static const char *const numbers[4] = { "bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id" };
    tok_builder *b = &h->b;
    const json_value *text_config = json_get(h->config.root, "text_config");
    int64_t from_config;
    for (int i = 0; i < 4; i++) {
        b->role[i] = tok_hf_token(h, json_get(h->tokenizer_config.root, names[i]));
        if (b->role[i] < 0) b->role[i] = tok_hf_token(h, json_get(h->special_map.root, names[i]));
        if (b->role[i] < 0 && i == 2) b->role[i] = b->model_unk;
        if (b->role[i] < 0) {
            const json_value *v = json_get(h->config.root, numbers[i]);
            from_config = json_int(json_is(v, JSON_ARRAY) ? json_at(v, 0) : v, -1);
            if (from_config >= 0 && from_config < (int64_t)b->n) b->role[i] = (int32_t)from_config;
        }
    }
    if (b->role[1] >= 0) tok_add_id(b->env, &b->ends, b->role[1], b->n);
    if (tok_hf_add_ends(h, json_get(h->generation.root, "eos_token_id")) >= 0) return;
    tok_hf_add_ends(h, json_get(h->config.root, "eos_token_id"));
    tok_hf_add_ends(h, json_get(text_config, "eos_token_id"));
    tok_add_known_ends(b);
}

/* ---- the whole ----------------------------------------------------------------------------------------- */
static int tok_hf_build(tok_hf *h, tok_blob *out)
{
    const json_value *pre = json_get(h->root, "pre_tokenizer"), *decoder = json_get(h->root, "decoder");
    const json_value *post = json_get(h->root, "post_processor");
    h->model = json_get(h->root, "model");
    h->vocab = json_get(h->model, "vocab");
    tok_hf_each(h, pre, "pretokenizers", tok_hf_see_pre, 0);
    tok_hf_each(h, decoder, "decoders", tok_hf_see_decoder, 0);
    if (h->b.env->failed || !tok_hf_model(h) ||
        !tok_hf_each(h, json_get(h->root, "normalizer"), "normalizers", tok_hf_normalizer, 0)) return 0;
    h->b.into = &h->b.late;                            /* for pre-tokenizers: text between added tokens */
    if (!tok_hf_each(h, pre, "pretokenizers", tok_hf_pre, 0)) return 0;
    if (!decoder || json_is(decoder, JSON_NULL))
        return conv_fail(h->b.env, "%s: a tokenizer without a decoder is not supported", h->path);
    if (h->marks && !h->replaces_spaces)
        return conv_fail(h->b.env, "%s: U+2581 in the decoder only is not supported", h->path);
    if (!tok_hf_each(h, decoder, "decoders", tok_hf_decoder, 0) ||
        !tok_hf_each(h, post, "processors", tok_hf_post, 0))
        return 0;
    tok_hf_roles(h);
    return tok_finish(&h->b, out);
}

/* Files beside the tokenizer are optional, but must be readable when they are there. */
static int tok_hf_read(tok_hf *h, json_doc *doc, const char *directory, const char *name)
{
    const char *path = conv_join_path(h->b.env, directory, name);
    if (!conv_file_exists(path)) return 1;
    return json_read_file(doc, path) || conv_fail(h->b.env, "%s: %s", path, doc->error);
}

/* An empty one for the file `path`; NULL: no memory. */
static tok_hf *tok_hf_new(conv_env *env, const char *path)
{
    tok_hf *h = (tok_hf *)conv_alloc(env, 1, sizeof *h);
    if (!h) return NULL;
    tok_open(&h->b, env, SQM__TOK_BYTE_BPE);
    h->path = path;
    return h;
}

/* The configuration files in the directory of h->path. */
static int tok_hf_read_all(tok_hf *h)
{
    const char *directory = conv_directory(h->b.env, h->path);
    return tok_hf_read(h, &h->tokenizer_config, directory, "tokenizer_config.json") &&
           tok_hf_read(h, &h->special_map, directory, "special_tokens_map.json") &&
           tok_hf_read(h, &h->generation, directory, "generation_config.json") &&
           tok_hf_read(h, &h->config, directory, "config.json");
}

static void tok_hf_free(tok_hf *h)
{
    if (!h) return;
    json_free(&h->doc);
    json_free(&h->tokenizer_config);
    json_free(&h->special_map);
    json_free(&h->generation);
    json_free(&h->config);
}

static int tok_tekken_build(tok_hf *h, tok_blob *out);

/* A tokenizer.json, or a tekken.json: that one has its tokens in a list beside "config". */
static CONV_UNUSED int tok_from_hf(conv_env *env, const char *path, tok_blob *out)
{
    tok_hf *h = tok_hf_new(env, path);
    int ok;
    if (!h) return 0;
    ok = json_read_file(&h->doc, path) || conv_fail(env, "%s: %s", path, h->doc.error);
    h->root = h->doc.root;
    if (ok && json_is(json_get(json_get(h->root, "config"), "pattern"), JSON_STRING) &&
        json_is(json_get(h->root, "vocab"), JSON_ARRAY))
        ok = tok_tekken_build(h, out);
    else
        ok = ok && tok_hf_read_all(h) && tok_hf_build(h, out);
    tok_hf_free(h);
    return ok;
}

#endif /* TOK_HF_H_INCLUDED */
