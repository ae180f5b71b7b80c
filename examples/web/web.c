/* Shows a model in a web page: what the page calls, as a WebAssembly module of its own.
   Build  make web                            (needs zig: python3 -m pip install ziglang)
   Run    python3 -m http.server -d build/web, or open build/web/index.html as a file
   The page feeds a prompt in pieces and asks for one token at a time, so that it stays alive in between.
   Functions that fail say so by their result; web_error is the reason. */
#define SEQMODEL_NO_STDIO
#define SEQMODEL_IMPLEMENTATION
#include "../../seqmodel.h"
#include <stdlib.h>
#include <string.h>

#define EXPORT(name) __attribute__((export_name(#name))) name

static struct {
    void           *file, *scratch;             /* the model reads the weight file where it lies */
    sqm_model      *model;
    sqm_session    *session;
    sqm_sampler     sampler;
    int32_t        *prompt, n_prompt, fed;      /* tokens, and how many of them were fed */
    char            text[1024];                 /* of the last token */
    sqm_model_info  info;
    sqm_error       err;
} web;

/* Memory for a weight file or a text. web_open and web_begin free what they are given. */
void *EXPORT(web_alloc)(size_t bytes)
{
    return bytes < (size_t)-64 ? aligned_alloc(64, (bytes + 63) / 64 * 64) : NULL;
}

/* Opens a weight file in place of the one before. Returns 1 or 0. */
int EXPORT(web_open)(void *file, size_t bytes, int32_t most_context)
{
    sqm_session_config config;
    sqm_session_free(web.session);
    sqm_model_free(web.model);
    free(web.file);
    free(web.scratch);
    free(web.prompt);
    memset(&web, 0, sizeof(web));
    memset(&config, 0, sizeof(config));
    web.file = file;
    web.model = sqm_load_memory(file, bytes, NULL, &web.err);
    if (!web.model) return 0;
    sqm_model_get_info(web.model, &web.info);
    config.max_context = web.info.max_context;
    if (config.max_context < 1 || config.max_context > most_context) config.max_context = most_context;
    web.session = sqm_session_create(web.model, &config, &web.err);
    web.scratch = malloc(sqm_sample_size(web.info.vocab_size));
    return web.session && web.scratch;
}

/* Begins a new text. Returns the number of tokens of its prompt, < 1 if it has none. */
int32_t EXPORT(web_begin)(char *prompt, size_t bytes, float temperature, float top_p, uint32_t seed)
{
    int32_t n = web.session ? sqm_tokenize(web.model, prompt, bytes, 0, NULL, 0, &web.err) : 0;
    free(web.prompt);
    web.fed = web.n_prompt = 0;
    web.prompt = n > 0 ? (int32_t *)malloc((size_t)n * sizeof(int32_t)) : NULL;
    if (web.prompt) n = sqm_tokenize(web.model, prompt, bytes, 0, web.prompt, n, &web.err);
    free(prompt);
    memset(&web.sampler, 0, sizeof(web.sampler));
    web.sampler.temperature = temperature;
    web.sampler.top_p = top_p;
    sqm_sampler_seed(&web.sampler, seed);
    if (web.prompt && sqm_reset(web.session, 0) == SQM_OK) web.n_prompt = n;
    return web.n_prompt;
}

/* Feeds up to n more tokens of the prompt. Returns how many are left, < 0 on failure. */
int32_t EXPORT(web_feed)(int32_t n)
{
    const int32_t left = web.n_prompt - web.fed;
    if (n > left) n = left;
    if (n < 1) return left;
    if (sqm_feed(web.session, 0, web.prompt + web.fed, n) != SQM_OK) {
        web.err = *sqm_session_error(web.session);
        return -1;
    }
    web.fed += n;
    return left - n;
}

/* Makes one token. Returns the bytes of its text, at web_text; -1 when the text ends here, -2 on failure. */
int32_t EXPORT(web_next)(void)
{
    const float *logits = web.session ? sqm_logits(web.session, 0) : NULL;
    const int32_t n = web.info.vocab_size;
    const int32_t token = sqm_sample(&web.sampler, logits, n, NULL, 0, web.scratch, sqm_sample_size(n));
    if (token < 0) return -2;
    if (sqm_token_is_end(web.model, token)) return -1;
    if (sqm_feed(web.session, 0, &token, 1) != SQM_OK) {
        web.err = *sqm_session_error(web.session);
        return -2;
    }
    return sqm_token_text(web.model, token, 0, web.text, sizeof(web.text));
}

const char  *EXPORT(web_error)(void)      { return web.err.text; }
const char  *EXPORT(web_text)(void)       { return web.text; }
const char  *EXPORT(web_name)(void)       { return web.info.name ? web.info.name : ""; }
double       EXPORT(web_parameters)(void) { return (double)web.info.parameters; }
int32_t      EXPORT(web_context)(void)    { return web.session ? sqm_max_context(web.session) : 0; }
int32_t      EXPORT(web_vocabulary)(void) { return web.info.vocab_size; }
const float *EXPORT(web_logits)(void)     { return web.session ? sqm_logits(web.session, 0) : NULL; }
