/* sqm-eval: runs token ids through a .sqm file and writes the logits of every position or the perplexity.
   Build: cc -O2 tools/sqm-eval.c -o sqm-eval -lm                                                           */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include "eval_common.h"

static const char help[] =
    "usage: sqm-eval FILE.sqm --ids FILE [--logits OUT.f32] [--perplexity] [options]\n"
    "\n"
    "--ids FILE      token ids: decimal numbers between any of space , [ ]; \"-\" reads standard input\n"
    "--logits OUT    logits after every token, raw little-endian float32 [ids, vocabulary]\n"
    "--state OUT     what the session keeps after the last token, as sqm_state_save writes it: 32 bytes, "
      "the\n"
    "                logits, then the state of each mixer in the order of the recipe\n"
    "--perplexity    exp of the mean negative log-probability of all tokens but the first\n"
    "--exact         every product in float32 (default: fast, quantised products round activations)\n"
    "--split N       feed N tokens a call (default 512)\n"
    "--threads N     --isa auto|scalar|avx2|avx512|neon     --kv f32|f16|q8|q4\n"
    "Without --logits and --perplexity the five likeliest next tokens are printed.\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage.\n";

typedef struct eval_options {
    const char        *model, *ids, *logits, *state;
    int32_t            perplexity, split;
    sqm_session_config session;
} eval_options;

typedef struct eval_ids { int32_t *at; size_t n; } eval_ids;

/* ---- input --------------------------------------------------------------------------------------------- */
static int eval_fail(const char *what, const char *detail)
{
    fprintf(stderr, "sqm-eval: %s%s\n", what, detail);
    return 0;
}

static char *eval_read_text(const char *path)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    char *text = NULL;
    size_t used = 0, room = 1 << 16, got = 1;
    if (!f) { eval_fail("cannot open ", path); return NULL; }
    while (got) {
        char *more = (char *)realloc(text, room + 1);
        if (!more) { free(text); text = NULL; eval_fail("out of memory reading ", path); break; }
        text = more;
        got = fread(text + used, 1, room - used, f);
        used += got;
        if (used == room) room *= 2;
    }
    if (f != stdin) fclose(f);
    if (text) text[used] = 0;
    return text;
}

static int eval_parse_ids(eval_ids *ids, const char *text, const char *path)
{
    /* a number takes a digit and a separator */
    ids->at = (int32_t *)malloc((strlen(text) / 2 + 1) * sizeof *ids->at);
    if (!ids->at) return eval_fail("out of memory", "");
    while (*text) {
        char *end;
        long v;
        if (strchr(" \t\r\n,[]", *text)) { text++; continue; }
        v = strtol(text, &end, 10);
        if (end == text || (*end && !strchr(" \t\r\n,[]", *end)) || v < 0 || v > 2147483647L)
            return eval_fail("not a list of token ids: ", path);
        ids->at[ids->n++] = (int32_t)v;
        text = end;
    }
    return ids->n > 0 ? 1 : eval_fail("there are no token ids in ", path);
}

/* ---- work ---------------------------------------------------------------------------------------------- */
/* -log softmax(logits)[token], summed in double. */
static double eval_surprise(const float *logits, int32_t n, int32_t token)
{
    double sum = 0.0;
    float top = logits[0];
    for (int32_t i = 1; i < n; i++) {
        if (logits[i] > top) top = logits[i];
    }
    for (int32_t i = 0; i < n; i++) sum += exp((double)logits[i] - (double)top);
    return log(sum) - ((double)logits[token] - (double)top);
}

static void eval_print_best(const float *logits, int32_t n)
{
    int32_t best[5] = { -1, -1, -1, -1, -1 };
    for (int k = 0; k < 5; k++) {
        for (int32_t i = 0; i < n; i++) {
            int taken = 0;
            for (int j = 0; j < k; j++) taken |= best[j] == i;
            if (!taken && (best[k] < 0 || logits[i] > logits[best[k]])) best[k] = i;
        }
        if (best[k] >= 0) printf("%d %.6f\n", (int)best[k], (double)logits[best[k]]);
    }
}

/* Feeds all ids in pieces and uses each piece's logits before the next.                                    */
static int eval_pieces(const eval_options *o, sqm_session *s, const eval_ids *ids, int32_t vocab, FILE *out)
{
    const size_t step = (size_t)o->split < ids->n ? (size_t)o->split : ids->n;
    float *logits = (float *)malloc(step * (size_t)vocab * sizeof *logits);
    double surprise = 0.0;
    size_t last = 0;
    if (!logits) return eval_fail("out of memory for logits; give a smaller --split", "");
    for (size_t i = 0; i < ids->n; i += step) {
        const size_t n = ids->n - i < step ? ids->n - i : step;
        if (sqm_feed_all(s, 0, ids->at + i, (int32_t)n, logits) != SQM_OK) {
            free(logits);
            return eval_fail("", sqm_session_error(s)->text);
        }
        if (out && fwrite(logits, sizeof *logits, n * (size_t)vocab, out) != n * (size_t)vocab) {
            free(logits);
            return eval_fail("cannot write ", o->logits);
        }
        for (size_t k = 0; o->perplexity && k < n && i + k + 1 < ids->n; k++)
            surprise += eval_surprise(logits + k * (size_t)vocab, vocab, ids->at[i + k + 1]);
        last = n - 1;
    }
    if (o->perplexity && ids->n > 1)
        printf("perplexity %.6f over %zu tokens\n", exp(surprise / (double)(ids->n - 1)), ids->n - 1);
    if (!o->perplexity && !out && !o->state) eval_print_best(logits + last * (size_t)vocab, vocab);
    free(logits);
    return 1;
}

static int eval_write_state(sqm_session *s, const char *path)
{
    const size_t bytes = sqm_state_size(s, 0);
    void *state = malloc(bytes);
    FILE *f = state && sqm_state_save(s, 0, state, bytes) == SQM_OK ? fopen(path, "wb") : NULL;
    int ok = f && fwrite(state, 1, bytes, f) == bytes;
    if (f && fclose(f) != 0) ok = 0;
    free(state);
    return ok ? 1 : eval_fail("cannot write ", path);
}

static int eval_run(const eval_options *o, const sqm_model *m, const eval_ids *ids)
{
    sqm_model_info info;
    sqm_session_config config = o->session;
    sqm_session *s;
    sqm_error err;
    FILE *out = NULL;
    int32_t known;
    int ok;
    sqm_model_get_info(m, &info);
    known = info.n_tokens;
    if (o->perplexity && info.vocab_size < known) known = info.vocab_size;     /* the next id is looked up */
    for (size_t i = 0; i < ids->n; i++) {
        if (ids->at[i] >= known) return eval_fail("a token id is outside the vocabulary: ", o->ids);
    }
    if (ids->n > 0x3fffffff) return eval_fail("too many token ids: ", o->ids);
    config.max_context = (int32_t)ids->n;
    s = sqm_session_create(m, &config, &err);
    if (!s) return eval_fail("", err.text);
    if (o->logits && !(out = fopen(o->logits, "wb"))) {
        sqm_session_free(s);
        return eval_fail("cannot create ", o->logits);
    }
    ok = eval_pieces(o, s, ids, info.vocab_size, out);
    if (ok && o->state) ok = eval_write_state(s, o->state);
    if (out && fclose(out) != 0) ok = eval_fail("cannot write ", o->logits);
    sqm_session_free(s);
    return ok;
}

/* ---- command line -------------------------------------------------------------------------------------- */
static int parse_option(eval_options *o, const char *key, const char *value)
{
    if (strcmp(key, "--ids") == 0) o->ids = value;
    else if (strcmp(key, "--logits") == 0) o->logits = value;
    else if (strcmp(key, "--state") == 0) o->state = value;
    else if (strcmp(key, "--split") == 0) return eval_parse_int(value, 1, 1 << 20, &o->split);
    else if (strcmp(key, "--threads") == 0) return eval_parse_int(value, 1, 1024, &o->session.threads);
    else if (strcmp(key, "--isa") == 0) return eval_parse_isa(value, &o->session.isa);
    else if (strcmp(key, "--kv") == 0) return eval_parse_kv(value, &o->session.kv);
    else return 0;
    return 1;
}

static int usage_error(const char *what, const char *detail)
{
    eval_fail(what, detail);
    fputs("sqm-eval --help says more\n", stderr);
    return 2;
}

int main(int argc, char **argv)
{
    eval_options o;
    eval_ids ids = { NULL, 0 };
    sqm_error err;
    sqm_model *m;
    char *text;
    int ok;
    memset(&o, 0, sizeof o);
    o.split = 512;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) { fputs(help, stdout); return 0; }
        else if (strcmp(argv[i], "--perplexity") == 0) o.perplexity = 1;
        else if (strcmp(argv[i], "--exact") == 0) o.session.precision = SQM_EXACT;
        else if (argv[i][0] != '-' && !o.model) o.model = argv[i];
        else if (i + 1 < argc && parse_option(&o, argv[i], argv[i + 1])) i++;
        else return usage_error("option not known, or a wrong value: ", argv[i]);
    }
    if (!o.model || !o.ids) return usage_error(o.model ? "--ids is missing" : "the model is missing", "");
    text = eval_read_text(o.ids);
    if (!text) return 1;
    ok = eval_parse_ids(&ids, text, o.ids);
    free(text);
    m = ok ? sqm_load_file(o.model, NULL, &err) : NULL;
    if (ok && !m) ok = eval_fail("", err.text);
    if (ok) ok = eval_run(&o, m, &ids);
    sqm_model_free(m);
    free(ids.at);
    return ok ? 0 : 1;
}
