/* tok_gguf.h: the tokenizer in the metadata of a GGUF file (tokenizer.ggml.*). Part of tok_import.h.
   A GGUF names its pre-tokenizer instead of giving it; the expressions are those of the models' own
   tokenizers. */
#ifndef TOK_GGUF_H_INCLUDED
#define TOK_GGUF_H_INCLUDED

#define TOK_RE_END "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define TOK_RE_CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define TOK_RE_UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define TOK_RE_LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define TOK_RE_GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define TOK_RE_LLAMA3 TOK_RE_CONTRACTIONS \
    "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" TOK_RE_END
#define TOK_RE_QWEN2 TOK_RE_CONTRACTIONS \
    "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" TOK_RE_END
#define TOK_RE_QWEN35 TOK_RE_CONTRACTIONS \
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" TOK_RE_END
#define TOK_RE_O200K \
    "[^\\r\\n\\p{L}\\p{N}]?" TOK_RE_UPPER "*" TOK_RE_LOWER "+" TOK_RE_CONTRACTIONS "?" \
    "|[^\\r\\n\\p{L}\\p{N}]?" TOK_RE_UPPER "+" TOK_RE_LOWER "*" TOK_RE_CONTRACTIONS "?" \
    "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" TOK_RE_END
#define TOK_RE_TEKKEN \
    "[^\\r\\n\\p{L}\\p{N}]?" TOK_RE_UPPER "*" TOK_RE_LOWER "+" \
    "|[^\\r\\n\\p{L}\\p{N}]?" TOK_RE_UPPER "+" TOK_RE_LOWER "*" \
    "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" TOK_RE_END
#define TOK_RE_DEEPSEEK3 \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+" \
    "| ?[\\p{P}\\p{S}]+[\\r\\n]*" TOK_RE_END
#define TOK_RE_HAN_KANA "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+"
#define TOK_RE_BLOOM " ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{FF0C}\\x{3001}\\x{0964}\\x{06D4}\\x{060C})]+"

enum { TOK_PRE_NFC = 1, TOK_PRE_WHOLE = 2, TOK_PRE_BOS = 4 };  /* whole: ignore_merges */
typedef struct tok_pre { const char *names, *split[4]; uint32_t flags; } tok_pre;

static const tok_pre tok_pres[] = {
    { " gpt-2 phi-2 mpt olmo jais trillion granite-docling jina-es jina-de gigachat jina-v1-en jina-v2-es "
      "jina-v2-de a.x-4.0 mellum modern-bert ", { TOK_RE_GPT2, NULL, NULL, NULL }, 0 },
    { " smollm starcoder refact command-r codeshell exaone minerva-7b minerva ",
      { "\\p{N}", TOK_RE_GPT2, NULL, NULL }, 0 },
    { " llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 ",
      { TOK_RE_LLAMA3, NULL, NULL, NULL }, TOK_PRE_WHOLE | TOK_PRE_BOS },
    { " dbrx smaug-bpe chatglm-bpe glm4 llama4-scout-bpe ", { TOK_RE_LLAMA3, NULL, NULL, NULL }, 0 },
    { " qwen2 deepseek-r1-qwen ", { TOK_RE_QWEN2, NULL, NULL, NULL }, TOK_PRE_NFC },
    { " stablelm2 hunyuan megrez solar-open ", { TOK_RE_QWEN2, NULL, NULL, NULL }, 0 },
    { " qwen35 ", { TOK_RE_QWEN35, NULL, NULL, NULL }, TOK_PRE_NFC },
    { " gpt-4o llama4 minimax-m2 ", { TOK_RE_O200K, NULL, NULL, NULL }, 0 },
    { " tekken ", { TOK_RE_TEKKEN, NULL, NULL, NULL }, TOK_PRE_WHOLE },
    { " deepseek-v3 hunyuan-dense joyai-llm ",
      { "\\p{N}{1,3}", TOK_RE_HAN_KANA, TOK_RE_DEEPSEEK3, NULL }, 0 },
    { " falcon ", { "[\\p{P}\\$\\+<=>\\^~\\|`]+", TOK_RE_GPT2, "[0-9][0-9][0-9]", NULL }, 0 },
    { " bloom poro-chat gpt3-finnish ", { TOK_RE_BLOOM, NULL, NULL, NULL }, 0 },
    { " viking ", { TOK_RE_BLOOM, "\\p{N}", NULL, NULL }, 0 },
    /* "default", or no name: as llama.cpp does */
    { " default ", { "[\\p{P}\\$\\+<=>\\^~\\|]+", TOK_RE_GPT2, "\\p{N}+", "[0-9][0-9][0-9]" }, 0 }
};

static const tok_pre *tok_find_pre(const char *name)
{
    char spaced[80];
    snprintf(spaced, sizeof spaced, " %.70s ", name);
    for (size_t i = 0; i < sizeof tok_pres / sizeof *tok_pres; i++) {
        if (strstr(tok_pres[i].names, spaced)) return &tok_pres[i];
    }
    return NULL;
}

/* Special tokens with these texts end a chat turn or a text whatever the metadata says. */
static const char *const tok_end_names[] = {
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
    "<EOT>", "<end_of_utterance>", "<|return|>",
    "<\xEF\xBD\x9C\145nd\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"  /* \145: e, not part of \x9C */
};

static void tok_add_known_ends(tok_builder *b)
{
    for (uint32_t i = 0; i < b->n; i++) {
        if (b->type[i] != SQM__TOKEN_SPECIAL && b->type[i] != SQM__TOKEN_ADDED) continue;
        for (size_t k = 0; k < sizeof tok_end_names / sizeof *tok_end_names; k++) {
            if (tok_same(b->raw[i], tok_make_text(tok_end_names[k], strlen(tok_end_names[k]))))
                tok_add_id(b->env, &b->ends, (int64_t)i, b->n);
        }
    }
}

static double tok_gguf_number(const gguf_file *g, const char *key, double otherwise)
{
    return gguf_number(gguf_find(g, key), otherwise);
}

/* An array of n items of this type; NULL (an error when it must be there). */
static const gguf_kv *tok_gguf_array(const gguf_file *g, const char *key, uint32_t item_type, uint64_t n,
                                     int required)
{
    const gguf_kv *kv = gguf_find(g, key);
    if (!kv && !required) return NULL;
    if (!kv || kv->type != GGUF_ARRAY || kv->item_type != item_type || (n && kv->count != n)) {
        conv_fail(g->env, "%s: %s is missing or does not fit the other tokenizer arrays", g->file->path, key);
        return NULL;
    }
    return kv;
}

/* Types: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. */
static int tok_gguf_tokens(tok_builder *b, const gguf_file *g, int spm)
{
    const gguf_kv *tokens = tok_gguf_array(g, "tokenizer.ggml.tokens", GGUF_STRING, 0, 1), *types;
    const uint8_t *at;
    int16_t byte_of[512];
    if (!tokens || !tok_set_count(b, tokens->count, tokens->count)) return 0;
    types = tok_gguf_array(g, "tokenizer.ggml.token_type", GGUF_I32, tokens->count, 0);
    if (b->env->failed) return 0;
    for (int i = 0; i < 512; i++) byte_of[i] = (int16_t)tok_byte_of_char((uint32_t)i);
    at = tokens->data;
    for (uint32_t i = 0; i < b->n && !b->env->failed; i++) {
        uint64_t bytes;
        const char *text = gguf_next_string(&at, &bytes);
        const double type = types ? gguf_number_at(types, i) : 1.0;
        const int byte = bytes < 100 ? tok_byte_token(tok_make_text(text, (size_t)bytes)) : -1;
        if (bytes > 65535)
            return conv_fail(b->env, "%s: token %u has %llu bytes", g->file->path, i,
                             (unsigned long long)bytes);
        b->raw[i] = tok_make_text(text, (size_t)bytes);
        b->type[i] = (uint8_t)(type == 1.0 ? SQM__TOKEN_NORMAL : type == 4.0 ? SQM__TOKEN_ADDED
                             : type == 2.0 || type == 3.0 ? SQM__TOKEN_SPECIAL : SQM__TOKEN_UNUSED);
        if (spm) b->text[i] = tok_with_spaces(b->env, b->raw[i]);
        else if (b->type[i] == SQM__TOKEN_NORMAL) b->text[i] = tok_byte_level(b->env, b->raw[i], byte_of);
        else b->text[i] = b->raw[i];
        if (spm && type == 6.0 && byte >= 0) {
            const char c = (char)byte;
            b->text[i] = tok_make_text(conv_copy_text(b->env, &c, 1), 1);
            b->type[i] = SQM__TOKEN_BYTE;
            b->byte_fallback = 1;
        }
    }
    return !b->env->failed;
}

/* Tokens that are looked for in the text itself. A run of spaces must also be found where the text has space
   marks. */
static void tok_gguf_added(tok_builder *b, int spm)
{
    for (uint32_t i = 0; i < b->n && !b->env->failed; i++) {
        const int special = b->type[i] == SQM__TOKEN_SPECIAL;
        int spaces = spm && b->text[i].bytes > 0;
        if (!special && b->type[i] != SQM__TOKEN_ADDED) continue;
        for (uint32_t k = 0; k < b->text[i].bytes; k++) spaces = spaces && b->text[i].text[k] == ' ';
        tok_add_added(b, spaces ? b->text[i] : b->raw[i], (int32_t)i, special ? SQM__ADDED_SPECIAL : 0,
                      spaces ? TOK_AS_IS : 0);
    }
}

static int tok_gguf_merges(tok_builder *b, const gguf_file *g)
{
    const gguf_kv *merges = tok_gguf_array(g, "tokenizer.ggml.merges", GGUF_STRING, 0, 1);
    const uint8_t *at;
    char *joined = (char *)conv_alloc(b->env, 1 << 18, 1);
    if (!merges || !joined) return 0;
    tok_map_open(b->env, &b->map, b->raw, b->n);
    for (uint32_t i = 0; i < b->n && !b->env->failed; i++) {
        if (b->raw[i].bytes) tok_map_add(&b->map, (int32_t)i);
    }
    at = merges->data;
    for (uint64_t i = 0; i < merges->count && !b->env->failed; i++) {
        uint64_t bytes;
        const char *text = gguf_next_string(&at, &bytes);
        const char *space = NULL;
        if (bytes > 2 && bytes < 1 << 17) space = (const char *)memchr(text + 1, ' ', (size_t)bytes - 1);
        if (!space)
            return conv_fail(b->env, "%s: merge %llu has no space", g->file->path, (unsigned long long)i);
        if (!tok_add_text_merge(b, tok_make_text(text, (size_t)(space - text)),
                                tok_make_text(space + 1, (size_t)(text + bytes - space - 1)), (uint32_t)i,
                                joined))
            return 0;
    }
    return !b->env->failed;
}

static int tok_gguf_bpe(tok_builder *b, const gguf_file *g, int *add_bos)
{
    const char *name = gguf_text(g, gguf_find(g, "tokenizer.ggml.pre"));
    const tok_pre *pre = tok_find_pre(name ? name : "default");
    if (!pre)
        return conv_fail(b->env, "%s: the pre-tokenizer \"%.80s\" (tokenizer.ggml.pre) is not supported",
                         g->file->path, name);
    if (pre->flags & TOK_PRE_NFC)
        tok_add_normalizer(b, SQM__NORM_NFC, 0, tok_make_text("", 0), tok_make_text("", 0));
    b->ignore_merges = (pre->flags & TOK_PRE_WHOLE) != 0;
    *add_bos = (pre->flags & TOK_PRE_BOS) != 0;
    for (int i = 0; i < 4 && pre->split[i]; i++) {
        if (!tok_add_split(b, pre->split[i], strlen(pre->split[i]), SQM__SPLIT_ISOLATED)) return 0;
    }
    if (tok_gguf_number(g, "tokenizer.ggml.add_space_prefix", 0.0) > 0.0) tok_prepend_space(b, 1);
    return tok_gguf_merges(b, g);
}

static int tok_gguf_spm(tok_builder *b, const gguf_file *g)
{
    const gguf_kv *kv = tok_gguf_array(g, "tokenizer.ggml.scores", GGUF_F32, b->n, 1);
    float *scores = (float *)conv_alloc(b->env, b->n, sizeof *scores);
    if (!kv || !scores) return 0;
    for (uint32_t i = 0; i < b->n; i++) scores[i] = (float)gguf_number_at(kv, i);
    b->flags |= SQM__TOK_FUSE_UNK;
    b->model_unk = b->role[2];
    if (tok_gguf_number(g, "tokenizer.ggml.add_space_prefix", 1.0) > 0.0) {
        tok_prepend_space(b, 0);
        if (tok_add_step(b, &b->decoders, SQM__DECODE_STRIP, 1)) b->decoders.steps[0].a = ' ';
    }
    tok_marks_to_spaces(b);
    return tok_merges_from_scores(b, scores);
}

static void tok_gguf_roles(tok_builder *b, const gguf_file *g, int spm)
{
    static const char *const keys[4] = { "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                         "tokenizer.ggml.unknown_token_id",
                                         "tokenizer.ggml.padding_token_id" };
    for (int i = 0; i < 4; i++) {
        const double id = tok_gguf_number(g, keys[i], spm ? (double)((i + 1) % 3) : -1.0);
        b->role[i] = (i < 3 || gguf_find(g, keys[i])) && id >= 0.0 && id < (double)b->n ? (int32_t)id : -1;
    }
    tok_add_id(b->env, &b->ends, b->role[1], b->n);
    tok_add_id(b->env, &b->ends, (int64_t)tok_gguf_number(g, "tokenizer.ggml.eot_token_id", -1.0), b->n);
    tok_add_id(b->env, &b->ends, (int64_t)tok_gguf_number(g, "tokenizer.ggml.eom_token_id", -1.0), b->n);
    tok_add_known_ends(b);
}

static int tok_gguf_rwkv(tok_builder *b, const gguf_file *g);

static CONV_UNUSED int tok_from_gguf(conv_env *env, const gguf_file *g, tok_blob *out)
{
    const char *model = gguf_text(g, gguf_find(g, "tokenizer.ggml.model"));
    const int spm = model && strcmp(model, "llama") == 0, bpe = model && strcmp(model, "gpt2") == 0;
    const int rwkv = model && strcmp(model, "rwkv") == 0;
    tok_builder b;
    int add_bos = spm;
    out->data = NULL;
    out->bytes = 0;
    if (!model || strcmp(model, "no_vocab") == 0 || strcmp(model, "none") == 0) return 1;
    if (!spm && !bpe && !rwkv)
        return conv_fail(env, "%s: the tokenizer model \"%.80s\" is not supported", g->file->path, model);
    tok_open(&b, env, spm ? SQM__TOK_CHAR_BPE : bpe ? SQM__TOK_BYTE_BPE : SQM__TOK_LONGEST);
    if (!tok_gguf_tokens(&b, g, !bpe)) return 0;
    tok_gguf_roles(&b, g, spm);
    if (!rwkv) tok_gguf_added(&b, spm);
    if (rwkv ? !tok_gguf_rwkv(&b, g) : spm ? !tok_gguf_spm(&b, g) : !tok_gguf_bpe(&b, g, &add_bos)) return 0;
    if (tok_gguf_number(g, "tokenizer.ggml.add_bos_token", add_bos) > 0.0)
        tok_add_id(env, &b.prefix, b.role[0], b.n);
    if (tok_gguf_number(g, "tokenizer.ggml.add_eos_token", 0.0) > 0.0)
        tok_add_id(env, &b.suffix, b.role[1], b.n);
    return tok_finish(&b, out);
}

#endif /* TOK_GGUF_H_INCLUDED */
