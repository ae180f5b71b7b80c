/* tok_tiktoken.h: tiktoken's vocabularies: lines "BASE64 RANK" (.tiktoken, tokenizer.model of Llama 3), and
   Mistral's tekken.json. Part of tok_import.h. Any two neighbours merge whose bytes together are a token,
   lowest rank first; a piece that is a token is taken whole. Special tokens are not found in plain text.
   A .tiktoken file does not say its regular expression: those of published vocabularies are known by size. */
#ifndef TOK_TIKTOKEN_H_INCLUDED
#define TOK_TIKTOKEN_H_INCLUDED

/* ---- merges -------------------------------------------------------------------------------------------- */
/* Tokens first .. n have the ranks 0, 1, ...; merges of all pairs of tokens that make one. */
static int tok_merges_from_ranks(tok_builder *b, uint32_t first)
{
    tok_map map;
    tok_map_open(b->env, &map, b->text, b->n);
    for (uint32_t i = first; i < b->n && !b->env->failed; i++) {
        if (b->type[i] == SQM__TOKEN_NORMAL) tok_map_add(&map, (int32_t)i);
    }
    for (uint32_t i = first; i < b->n && !b->env->failed; i++) {
        const tok_text whole = b->text[i];
        if (b->type[i] != SQM__TOKEN_NORMAL || tok_map_find(&map, whole) != (int32_t)i) continue;
        for (uint32_t k = 1; k < whole.bytes; k++) {
            const int32_t left = tok_map_find(&map, tok_make_text(whole.text, k));
            const int32_t right = left < 0 ? -1 : tok_map_find(&map, tok_make_text(whole.text + k,
                                                                                   whole.bytes - k));
            if (right >= 0) tok_add_merge(b, left, right, i, (int32_t)i);
        }
    }
    return !b->env->failed;
}

static int tok_add_ranked(tok_builder *b, uint32_t id, const char *base64, size_t n, const char *path)
{
    uint64_t bytes;
    const uint8_t *text = tok_base64(b->env, base64, n, &bytes);
    if (!text) return 0;
    if (bytes == 0 || bytes > 65535 || id >= b->n || b->type[id] == SQM__TOKEN_NORMAL)
        return conv_fail(b->env, "%s: the token of rank %u is empty, too long, or there twice", path, id);
    b->raw[id] = b->text[id] = tok_make_text((const char *)text, (size_t)bytes);
    b->type[id] = SQM__TOKEN_NORMAL;
    return 1;
}

static void tok_add_special(tok_builder *b, uint32_t id, const char *text, uint32_t flags)
{
    if (id >= b->n || !text || !*text) return;
    b->raw[id] = b->text[id] = tok_make_text(text, strlen(text));
    b->type[id] = SQM__TOKEN_SPECIAL;
    tok_add_added(b, b->raw[id], (int32_t)id, SQM__ADDED_SPECIAL | flags, 0);
}

/* ---- tekken.json --------------------------------------------------------------------------------------- */
/* The first special tokens of files that do not list them. */
static const char *const tok_tekken_specials[] = {
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"
};

static void tok_tekken_special_tokens(tok_builder *b, const json_value *list, uint32_t n)
{
    const uint32_t n_known = (uint32_t)(sizeof tok_tekken_specials / sizeof *tok_tekken_specials);
    for (uint32_t i = 0; i < n; i++) {
        const char *text = i < n_known ? tok_tekken_specials[i] : NULL;
        for (uint32_t k = 0; json_is(list, JSON_ARRAY) && k < json_count(list); k++) {
            const json_value *a = json_at(list, k);
            if (json_int(json_get(a, "rank"), -1) == (int64_t)i)
                text = json_text(json_get(a, "token_str"), NULL);
        }
        if (!text) text = conv_format(b->env, "<SPECIAL_%u>", i);
        tok_add_special(b, i, conv_copy_text(b->env, text, strlen(text)), SQM__ADDED_CONTROL);
    }
}

static int tok_tekken_build(tok_hf *h, tok_blob *out)
{
    tok_builder *b = &h->b;
    const json_value *config = json_get(h->root, "config"), *vocab = json_get(h->root, "vocab");
    const json_value *pattern = json_get(config, "pattern");
    const int64_t n = json_int(json_get(config, "default_vocab_size"), -1);
    const int64_t n_special = json_int(json_get(config, "default_num_special_tokens"), -1);
    if (!json_is(pattern, JSON_STRING) || n < 1 || n_special < 3 || n_special >= n ||
        json_count(vocab) < n - n_special)
        return conv_fail(b->env, "%s: the configuration of tekken.json is damaged", h->path);
    if (!tok_set_count(b, (uint64_t)n, json_count(vocab))) return 0;
    for (uint32_t i = 0; i < (uint32_t)(n - n_special); i++) {
        const json_value *t = json_at(vocab, i), *bytes = json_get(t, "token_bytes");
        const int64_t rank = json_int(json_get(t, "rank"), -1);
        if (!json_is(bytes, JSON_STRING) || rank < 0 || rank >= n - n_special)
            return conv_fail(b->env, "%s: token %u has no token_bytes or rank", h->path, i);
        if (!tok_add_ranked(b, (uint32_t)(rank + n_special), bytes->text, bytes->n, h->path)) return 0;
    }
    tok_tekken_special_tokens(b, json_get(h->root, "special_tokens"), (uint32_t)n_special);
    if (!tok_add_split(b, pattern->text, pattern->n, SQM__SPLIT_ISOLATED)) return 0;
    b->ignore_merges = 1;
    b->role[0] = 1;
    b->role[1] = 2;
    b->role[2] = 0;
    tok_add_id(b->env, &b->prefix, 1, b->n);
    tok_add_id(b->env, &b->ends, 2, b->n);
    return tok_merges_from_ranks(b, (uint32_t)n_special) && tok_finish(b, out);
}

/* ---- lines of base64 ----------------------------------------------------------------------------------- */
typedef struct tok_tiktoken {
    const char *name;
    uint32_t    n;                    /* ranks */
    const char *pattern;
    const char *specials[8];          /* from token n on; "" leaves a number out */
    const char *begin;                /* token that texts begin with */
    uint32_t    more;                 /* names of more special tokens: Llama 3 has 256 */
} tok_tiktoken;

#define TOK_RE_CL100K "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}" \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" TOK_RE_END

static const tok_tiktoken tok_tiktokens[] = {
    { "r50k", 50256, TOK_RE_GPT2, { "<|endoftext|>" }, NULL, 0 },
    { "p50k", 50280, TOK_RE_GPT2, { "" }, NULL, 0 },
    { "cl100k", 100256, TOK_RE_CL100K, { "", "<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>",
                                         "<|fim_suffix|>" }, NULL, 0 },
    { "o200k", 199998, TOK_RE_O200K, { "", "<|endoftext|>" }, NULL, 0 },
    { "qwen", 151643, TOK_RE_QWEN2, { "<|endoftext|>", "<|im_start|>", "<|im_end|>" }, NULL, 0 },
    { "llama3", 128000, TOK_RE_LLAMA3, { "<|begin_of_text|>", "<|end_of_text|>",
                                         "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
                                         "<|finetune_right_pad_id|>", "<|step_id|>",
                                         "<|start_header_id|>", "<|end_header_id|>" },
      "<|begin_of_text|>", 256 }
};

/* "BASE64 RANK" at l->at; 0: the line is something else. */
static int tok__tiktoken_line(tok_line *l, const char **text, size_t *n, int64_t *rank)
{
    *text = l->at;
    while (l->at < l->end && *l->at != ' ' && *l->at != '\n') l->at++;
    *n = (size_t)(l->at - *text);
    if (*n == 0 || l->at == l->end || *l->at++ != ' ') return 0;
    *rank = tok__literal_number(l);
    if (l->at < l->end && *l->at == '\r') l->at++;
    return *rank >= 0 && (l->at == l->end || *l->at++ == '\n');
}

static CONV_UNUSED int tok_is_tiktoken(const conv_file *f)
{
    tok_line l;
    const char *text;
    size_t n;
    int64_t rank;
    memset(&l, 0, sizeof l);
    l.at = (const char *)f->data;
    l.end = l.at + (f->bytes < 4096 ? f->bytes : 4096);
    return tok__tiktoken_line(&l, &text, &n, &rank) && rank == 0;
}

/* Llama 3 has 256 special tokens; the ninth and what follows. */
static void tok_llama3_specials(tok_builder *b, uint32_t n)
{
    tok_add_special(b, n + 8, "<|eom_id|>", SQM__ADDED_CONTROL);
    tok_add_special(b, n + 9, "<|eot_id|>", SQM__ADDED_CONTROL);
    tok_add_special(b, n + 10, "<|python_tag|>", SQM__ADDED_CONTROL);
    for (uint32_t i = 11; i < 256; i++)
        tok_add_special(b, n + i, conv_format(b->env, "<|reserved_special_token_%u|>", i - 9),
                        SQM__ADDED_CONTROL);
}

static const tok_tiktoken *tok_tiktoken_kind(uint64_t n)
{
    for (size_t i = 0; i < sizeof tok_tiktokens / sizeof *tok_tiktokens; i++) {
        if (n == tok_tiktokens[i].n) return &tok_tiktokens[i];
    }
    return NULL;
}

static int tok_tiktoken_build(tok_hf *h, const conv_file *f, tok_blob *out)
{
    tok_builder *b = &h->b;
    const tok_tiktoken *k = NULL;
    const char *text;
    tok_line l;
    size_t bytes;
    int64_t rank;
    uint64_t n = 0, all, most = 0;
    memset(&l, 0, sizeof l);
    for (int pass = 0; pass < 2; pass++) {
        l.end = (const char *)f->data + f->bytes;
        for (l.at = (const char *)f->data, l.number = 1; l.at < l.end; l.number++) {
            if (!tok__tiktoken_line(&l, &text, &bytes, &rank) || rank >= TOK_MAX_TOKENS)
                return conv_fail(b->env, "%s: line %llu is not \"BASE64 RANK\"", f->path,
                                 (unsigned long long)l.number);
            if (pass && !tok_add_ranked(b, (uint32_t)rank, text, bytes, f->path)) return 0;
            if ((uint64_t)rank >= most) most = (uint64_t)rank + 1;
            n += !pass;
        }
        k = tok_tiktoken_kind(n);
        if (!k)
            return conv_fail(b->env, "%s: the regular expression of a vocabulary of %llu tokens is not "
                             "known: give its tokenizer.json", f->path, (unsigned long long)n);
        all = most + (k->more ? k->more : 8);
        if (!pass && (!tok_config_tokens(h, most, &all) || !tok_set_count(b, all, n))) return 0;
    }
    for (uint32_t i = 0; i < 8; i++)
        tok_add_special(b, (uint32_t)most + i, k->specials[i], SQM__ADDED_CONTROL);
    if (k->more) tok_llama3_specials(b, (uint32_t)most);
    b->ignore_merges = 1;
    all = b->n;
    if (!tok_config_tokens(h, most, &all) || !tok_hf_map(h)) return 0;
    tok_hf_roles(h);
    if (k->begin) {
        b->role[0] = tok_map_find(&b->map, tok_make_text(k->begin, strlen(k->begin)));
        tok_add_id(b->env, &b->prefix, b->role[0], b->n);
    }
    return tok_add_split(b, k->pattern, strlen(k->pattern), SQM__SPLIT_ISOLATED) &&
           tok_merges_from_ranks(b, 0) && tok_finish(b, out);
}

static CONV_UNUSED int tok_from_tiktoken(conv_env *env, const conv_file *f, tok_blob *out)
{
    tok_hf *h = tok_hf_new(env, f->path);
    const int ok = h && tok_hf_read_all(h) && tok_tiktoken_build(h, f, out);
    tok_hf_free(h);
    return ok;
}

#endif /* TOK_TIKTOKEN_H_INCLUDED */
