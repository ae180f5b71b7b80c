/* tok_spm.h: SentencePiece's .model files (a protocol buffer, ModelProto). Part of tok_import.h.
   Kinds unigram, bpe and char. Without a tokenizer_config.json beside it the file means what it means to
   SentencePiece itself: control symbols are not found in texts, and texts begin with the begin symbol. */
#ifndef TOK_SPM_H_INCLUDED
#define TOK_SPM_H_INCLUDED

enum { TOK_SPM_UNIGRAM = 1, TOK_SPM_BPE = 2, TOK_SPM_WORD = 3, TOK_SPM_CHAR = 4 };
enum { TOK_SPM_NORMAL = 1, TOK_SPM_UNKNOWN = 2, TOK_SPM_CONTROL = 3, TOK_SPM_USER = 4, TOK_SPM_UNUSED = 5,
       TOK_SPM_BYTE = 6 };

/* ---- protocol buffers ---------------------------------------------------------------------------------- */
typedef struct tok_proto { const uint8_t *at, *end; int damaged; } tok_proto;

typedef struct tok_field {
    uint32_t  number, wire;           /* 0: integer, 1: 8 bytes, 2: bytes, 5: 4 bytes */
    uint64_t  value;                  /* integers; 4 bytes as they are */
    tok_proto bytes;                  /* wire 2 */
} tok_field;

static uint64_t tok__proto_varint(tok_proto *p)
{
    uint64_t v = 0;
    for (uint32_t shift = 0; shift < 64 && p->at < p->end; shift += 7) {
        const uint8_t c = *p->at++;
        v |= (uint64_t)(c & 127u) << shift;
        if (c < 128) return v;
    }
    p->damaged = 1;
    return 0;
}

/* The next field of a message; 0: there is none, or p->damaged. */
static int tok_proto_next(tok_proto *p, tok_field *f)
{
    uint64_t tag, n;
    memset(f, 0, sizeof *f);
    if (p->damaged || p->at >= p->end) return 0;
    tag = tok__proto_varint(p);
    f->number = (uint32_t)(tag >> 3 & 0x1fffffffu);
    f->wire = (uint32_t)(tag & 7);
    if (f->wire == 0) {
        f->value = tok__proto_varint(p);
        return !p->damaged;
    }
    n = f->wire == 1 ? 8 : f->wire == 5 ? 4 : f->wire == 2 ? tok__proto_varint(p) : UINT64_MAX;
    if (p->damaged || n > (uint64_t)(p->end - p->at)) { p->damaged = 1; return 0; }
    f->bytes.at = p->at;
    f->bytes.end = p->at + n;
    p->at += n;
    if (f->wire == 5) f->value = conv_u32(f->bytes.at);
    return 1;
}

/* ---- the model ----------------------------------------------------------------------------------------- */
typedef struct tok_spm {
    tok_hf        *h;                 /* the builder, and the configuration files beside the model */
    const char    *path;
    float         *scores;            /* [n_pieces] */
    uint8_t       *kinds;             /* [n_pieces] TOK_SPM_* */
    uint32_t       n_pieces;
    uint64_t       model_type;
    int            prefix_space, squeeze, suffix_space, byte_fallback;
    const uint8_t *charsmap;
    uint64_t       charsmap_bytes;
    int64_t        id[4];             /* bos eos unk pad */
    tok_text       unknown;           /* what the unknown token decodes to */
} tok_spm;

static int tok_spm_piece(tok_spm *m, tok_proto p, uint32_t i)
{
    tok_builder *b = &m->h->b;
    tok_field f;
    m->kinds[i] = TOK_SPM_NORMAL;
    while (tok_proto_next(&p, &f)) {
        if (f.number == 1 && f.wire == 2)
            b->raw[i] = tok_make_text((const char *)f.bytes.at, (size_t)(f.bytes.end - f.bytes.at));
        if (f.number == 2 && f.wire == 5) m->scores[i] = conv_f32(f.bytes.at);
        if (f.number == 3 && f.wire == 0) m->kinds[i] = (uint8_t)(f.value < 7 ? f.value : 0);
    }
    if (p.damaged || m->kinds[i] < 1 || b->raw[i].bytes == 0 || b->raw[i].bytes > 65535 ||
        !(m->scores[i] > -1e30f && m->scores[i] < 1e30f))
        return conv_fail(b->env, "%s: piece %u is damaged", m->path, i);
    b->raw[i].text = conv_copy_text(b->env, b->raw[i].text, b->raw[i].bytes);
    b->text[i] = tok_with_spaces(b->env, b->raw[i]);
    b->type[i] = (uint8_t)(m->kinds[i] == TOK_SPM_NORMAL ? SQM__TOKEN_NORMAL
                         : m->kinds[i] == TOK_SPM_USER ? SQM__TOKEN_ADDED
                         : m->kinds[i] == TOK_SPM_UNUSED ? SQM__TOKEN_UNUSED
                         : m->kinds[i] == TOK_SPM_BYTE ? SQM__TOKEN_BYTE : SQM__TOKEN_SPECIAL);
    if (m->kinds[i] == TOK_SPM_UNKNOWN) b->text[i] = m->unknown;
    if (m->kinds[i] == TOK_SPM_BYTE) {
        const int byte = tok_byte_token(b->raw[i]);
        const char c = (char)byte;
        if (byte < 0) return conv_fail(b->env, "%s: piece %u is a byte, but not written <0xNN>", m->path, i);
        b->text[i] = tok_make_text(conv_copy_text(b->env, &c, 1), 1);
    }
    return !b->env->failed;
}

/* Trainer and normalizer settings; refuses what changes texts in ways that are not known here. */
static int tok_spm_settings(tok_spm *m, tok_proto all)
{
    tok_field part, f;
    for (; tok_proto_next(&all, &part); m->n_pieces += part.number == 1 && part.wire == 2) {
        tok_proto p = part.bytes;
        if (part.wire != 2 || part.number == 1) continue;
        while (tok_proto_next(&p, &f)) {
            const int on = f.value != 0;
            if (part.number == 2 && f.wire == 0) {
                if (f.number == 3) m->model_type = f.value;
                if (f.number == 24) m->suffix_space = on;
                if (f.number == 35) m->byte_fallback = on;
                if (f.number == 41) m->id[0] = (int64_t)f.value;
                if (f.number == 42) m->id[1] = (int64_t)f.value;
                if (f.number == 40) m->id[2] = (int64_t)f.value;
                if (f.number == 43) m->id[3] = (int64_t)f.value;
            }
            if (part.number == 2 && f.wire == 2 && f.number == 44)
                m->unknown = tok_make_text((const char *)f.bytes.at, (size_t)(f.bytes.end - f.bytes.at));
            if (part.number == 3 && f.wire == 0 && f.number == 3) m->prefix_space = on;
            if (part.number == 3 && f.wire == 0 && f.number == 4) m->squeeze = on;
            if (f.wire == 2 && f.number == 2 && (part.number == 3 || part.number == 5)) {
                m->charsmap = f.bytes.at;
                m->charsmap_bytes = (uint64_t)(f.bytes.end - f.bytes.at);
                if (part.number == 5 && m->charsmap_bytes)
                    return conv_fail(m->h->b.env, "%s: a denormalizer is not supported", m->path);
            }
        }
        all.damaged |= p.damaged;
    }
    if (all.damaged || m->n_pieces == 0)
        return conv_fail(m->h->b.env, "%s: not a SentencePiece model, or damaged", m->path);
    if (m->model_type == TOK_SPM_WORD || m->model_type > TOK_SPM_CHAR || m->suffix_space)
        return conv_fail(m->h->b.env, "%s: SentencePiece models of type %llu%s are not supported", m->path,
                         (unsigned long long)m->model_type, m->suffix_space ? ", spaces behind words" : "");
    return 1;
}

/* Tokens that only the configuration knows: "added_tokens_decoder", number -> token. */
static int tok_config_tokens(tok_hf *h, uint64_t n_own, uint64_t *n)
{
    const json_value *more = json_get(h->tokenizer_config.root, "added_tokens_decoder");
    for (uint32_t i = 0; i < json_count(more); i++) {
        const int64_t id = (int64_t)strtol(json_text(json_key_at(more, i), "-1"), NULL, 10);
        if (id < 0 || id >= TOK_MAX_TOKENS)
            return conv_fail(h->b.env, "%s: added token \"%.40s\" in tokenizer_config.json", h->path,
                             json_text(json_key_at(more, i), ""));
        if ((uint64_t)id >= *n) *n = (uint64_t)id + 1;
    }
    for (uint32_t i = 0; h->b.raw && i < json_count(more); i++) {
        const uint64_t id = (uint64_t)strtol(json_text(json_key_at(more, i), "0"), NULL, 10);
        const json_value *a = json_at(more, i), *content = json_get(a, "content");
        const int special = json_bool(json_get(a, "special"), 0);
        if (id < n_own || !json_is(content, JSON_STRING) || content->n == 0) continue;
        h->b.raw[id] = h->b.text[id] = tok_json_text(content);
        h->b.type[id] = (uint8_t)(special ? SQM__TOKEN_SPECIAL : SQM__TOKEN_ADDED);
        tok_add_added(&h->b, tok_json_text(content), (int32_t)id,
                      special ? (uint32_t)SQM__ADDED_SPECIAL : 0, 0);
    }
    return !h->b.env->failed;
}

static int tok_spm_pieces(tok_spm *m, tok_proto all)
{
    tok_builder *b = &m->h->b;
    tok_field part;
    uint64_t n = m->n_pieces;
    uint32_t i = 0;
    if (!tok_config_tokens(m->h, n, &n) || !tok_set_count(b, n, m->n_pieces)) return 0;
    m->scores = (float *)conv_alloc(b->env, n, sizeof *m->scores);
    m->kinds = (uint8_t *)conv_alloc(b->env, n, 1);
    while (m->scores && m->kinds && tok_proto_next(&all, &part)) {
        if (part.number == 1 && part.wire == 2 && !tok_spm_piece(m, part.bytes, i++)) return 0;
    }
    return tok_config_tokens(m->h, m->n_pieces, &n) && tok_hf_map(m->h);
}

/* Control symbols and, for merging, symbols of the user; these hold in normalised text. */
static void tok_spm_added(tok_spm *m)
{
    tok_builder *b = &m->h->b;
    const uint32_t bare = m->h->tokenizer_config.root ? 0 : (uint32_t)SQM__ADDED_CONTROL;
    for (uint32_t i = 0; i < m->n_pieces; i++) {
        if (m->kinds[i] == TOK_SPM_CONTROL || m->kinds[i] == TOK_SPM_UNKNOWN)
            tok_add_added(b, b->raw[i], (int32_t)i, SQM__ADDED_SPECIAL | bare, 0);
        if (m->kinds[i] == TOK_SPM_USER && m->model_type != TOK_SPM_UNIGRAM)
            tok_add_added(b, b->text[i], (int32_t)i, 0, TOK_AS_IS);
    }
}

static int tok_spm_normalizers(tok_spm *m)
{
    tok_builder *b = &m->h->b;
    tok_set *space = tok_set_new(b->env);
    sqm__tok_step *s;
    if (!space) return 0;
    tok_set_add(space, ' ', ' ');
    if (m->charsmap_bytes && !tok_add_charsmap(b, m->charsmap, m->charsmap_bytes, 0)) return 0;
    if (m->squeeze) {
        tok_add_class_normalizer(b, 2, space, " ");
        tok_add_strip(b, 1, space);
    }
    tok_marks_to_spaces(b);
    if (m->squeeze) tok_add_strip(b, 2, space);
    if (m->prefix_space) tok_prepend_space(b, 0);
    if (m->prefix_space || m->squeeze) {
        s = tok_add_step(b, &b->decoders, SQM__DECODE_STRIP, m->squeeze ? 1000 : 1);
        if (s) { s->a = ' '; s->b = 1; }
    }
    return !b->env->failed;
}

static int tok_spm_unigram(tok_spm *m)
{
    tok_builder *b = &m->h->b;
    float least = 0.0f, most = 0.0f;
    int any = 0;
    b->flags |= SQM__TOK_FLOAT_SUMS;
    b->scores = (double *)conv_alloc(b->env, (uint64_t)b->n + 1, sizeof *b->scores);
    if (!b->scores) return 0;
    for (uint32_t i = 0; i < m->n_pieces; i++) {
        if (m->kinds[i] != TOK_SPM_NORMAL) continue;
        if (!any || m->scores[i] < least) least = m->scores[i];
        if (!any || m->scores[i] > most) most = m->scores[i];
        any = 1;
    }
    for (uint32_t i = 0; i < m->n_pieces; i++) {
        b->scores[i] = (double)m->scores[i];
        if (m->kinds[i] == TOK_SPM_USER)
            b->scores[i] = (double)(float)((double)((float)b->text[i].bytes * most) - 0.1);
        if (m->kinds[i] == TOK_SPM_NORMAL || m->kinds[i] == TOK_SPM_USER) b->key[i] = b->text[i];
    }
    b->scores[b->n] = (double)(least - 10.0f);
    return 1;
}

/* What stands before and after texts. Families that renumber the pieces need their tokenizer.json. */
static int tok_spm_template(tok_spm *m)
{
    static const char *const renumbered[] = { "XLMRoberta", "Camembert", "MBart", "Pegasus", "Nllb", "M2M100",
                                              "Barthez", "BigBirdPegasus", "XGLM", "Speech2Text", "XLNet" };
    tok_hf *h = m->h;
    const json_value *root = h->tokenizer_config.root;
    const char *family = json_text(json_get(root, "tokenizer_class"), "");
    const int is_t5 = strncmp(family, "T5", 2) == 0 || strncmp(family, "MT5", 3) == 0;
    for (size_t i = 0; i < sizeof renumbered / sizeof *renumbered; i++) {
        if (strncmp(family, renumbered[i], strlen(renumbered[i])) == 0)
            return conv_fail(h->b.env, "%s: the tokenizer class %.60s renumbers its pieces, which is not "
                             "supported: give its tokenizer.json", m->path, family);
    }
    if (json_bool(json_get(root, "add_bos_token"), !is_t5))
        tok_add_id(h->b.env, &h->b.prefix, h->b.role[0], h->b.n);
    if (json_bool(json_get(root, "add_eos_token"), is_t5))
        tok_add_id(h->b.env, &h->b.suffix, h->b.role[1], h->b.n);
    return 1;
}

static int tok_spm_build(tok_spm *m, tok_proto all, tok_blob *out)
{
    tok_builder *b = &m->h->b;
    if (!tok_spm_settings(m, all)) return 0;
    b->kind = m->model_type == TOK_SPM_UNIGRAM ? SQM__TOK_UNIGRAM : SQM__TOK_CHAR_BPE;
    b->flags |= SQM__TOK_FUSE_UNK;
    b->byte_fallback = m->byte_fallback;
    if (!tok_spm_pieces(m, all)) return 0;
    tok_spm_added(m);
    for (uint32_t i = 0; i < m->n_pieces && b->model_unk < 0; i++) {
        if (m->kinds[i] == TOK_SPM_UNKNOWN) b->model_unk = (int32_t)i;
    }
    tok_hf_roles(m->h);
    for (int i = 0; i < 4; i++) {
        const int64_t id = m->id[i];
        if (b->role[i] < 0 && id >= 0 && id < (int64_t)m->n_pieces && b->type[id] == SQM__TOKEN_SPECIAL)
            b->role[i] = (int32_t)id;
    }
    if (b->role[1] >= 0) tok_add_id(b->env, &b->ends, b->role[1], b->n);
    if (!tok_spm_normalizers(m) || !tok_spm_template(m)) return 0;
    if (m->model_type == TOK_SPM_UNIGRAM && !tok_spm_unigram(m)) return 0;
    if (m->model_type == TOK_SPM_BPE && !tok_merges_from_scores(b, m->scores)) return 0;
    return tok_finish(b, out);
}

static CONV_UNUSED int tok_from_spm(conv_env *env, const conv_file *f, tok_blob *out)
{
    tok_spm m;
    tok_proto all;
    int ok;
    memset(&m, 0, sizeof m);
    memset(&all, 0, sizeof all);
    m.h = tok_hf_new(env, f->path);
    if (!m.h) return 0;
    m.path = f->path;
    m.model_type = TOK_SPM_UNIGRAM;                    /* the defaults of ModelProto */
    m.prefix_space = m.squeeze = 1;
    m.id[0] = 1;
    m.id[1] = 2;
    m.id[2] = 0;
    m.id[3] = -1;
    m.unknown = tok_make_text(" \xE2\x81\x87 ", 5);
    all.at = f->data;
    all.end = f->data + f->bytes;
    ok = tok_hf_read_all(m.h) && tok_spm_build(&m, all, out);
    tok_hf_free(m.h);
    return ok;
}

#endif /* TOK_SPM_H_INCLUDED */
