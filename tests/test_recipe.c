/* test_recipe.c - wrong recipes are refused with the right code and a message that names the op and the
   numbers;
   the published size of a model is exact; shortened files are refused. */
#define SEQMODEL_IMPLEMENTATION
#include "toy.h"
#include "check.h"
#ifndef TEST_TMP
#define TEST_TMP ""
#endif

static const char *const path = TEST_TMP "recipe.sqm";

/* ---- small models with a recipe of choice -------------------------------------------------------------- */
enum { DIM = 8, VOCAB = 11 };
typedef struct made { const char *name; sqm_dtype dtype; sqm_layout layout; int32_t ndim, rows, cols; } made;
static const made tensors[] = {
    { "embed",  SQM_F32, SQM_PANELS, 2, VOCAB, DIM },
    { "table",  SQM_F32, SQM_ROWS,   2, VOCAB, DIM },
    { "pos",    SQM_F32, SQM_ROWS,   2, 5, DIM },
    { "square", SQM_F32, SQM_PANELS, 2, DIM, DIM },
    { "qkv",    SQM_F32, SQM_PANELS, 2, 3 * DIM, DIM },
    { "odd",    SQM_F32, SQM_PANELS, 2, 7, DIM },
    { "narrow", SQM_F32, SQM_PANELS, 2, DIM, 6 },
    { "v2",     SQM_F32, SQM_ROWS,   1, 2, 1 },
    { "v4",     SQM_F32, SQM_ROWS,   1, 4, 1 },
    { "w4",     SQM_F32, SQM_ROWS,   1, 4, 1 },
    { "v8",     SQM_F32, SQM_ROWS,   1, DIM, 1 },
    { "h8",     SQM_F16, SQM_ROWS,   1, DIM, 1 },
    { "ids",    SQM_I32, SQM_ROWS,   2, VOCAB, DIM }
};
enum { N_TENSORS = sizeof(tensors) / sizeof(tensors[0]) };

/* Writes the tensors and this recipe; the numbers are any that are not all the same. */
static sqm_result write_recipe(const char *recipe, sqm_error *err)
{
    float numbers[1024 + N_TENSORS];
    sqm_writer *w = sqm_writer_open(path, err);
    int32_t shapes[N_TENSORS][2];
    CHECK(w != NULL);
    if (!w) return SQM_E_IO;
    for (int i = 0; i < 1024 + N_TENSORS; i++) numbers[i] = (float)(i * 7 % 23) / 16.0f;
    for (int i = 0; i < N_TENSORS; i++) {
        shapes[i][0] = tensors[i].rows;
        shapes[i][1] = tensors[i].cols;
        sqm_writer_declare(w, tensors[i].name, tensors[i].dtype, tensors[i].layout, tensors[i].ndim,
                           shapes[i]);
    }
    sqm_writer_recipe(w, recipe);
    for (int i = 0; i < N_TENSORS; i++)
        sqm_writer_data(w, numbers + i,
                        sqm_tensor_bytes(tensors[i].dtype, tensors[i].layout, tensors[i].ndim, shapes[i]));
    return sqm_writer_close(w, err);
}

static uint8_t *read_image(const char *name, size_t *bytes)
{
    FILE *f = fopen(name, "rb");
    uint8_t *image = NULL;
    long size = -1;
    *bytes = 0;
    if (f && fseek(f, 0, SEEK_END) == 0) size = ftell(f);
    if (size > 0 && fseek(f, 0, SEEK_SET) == 0) image = (uint8_t *)malloc((size_t)size);
    if (image) *bytes = fread(image, 1, (size_t)size, f);
    if (f) fclose(f);
    CHECK(image && *bytes == (size_t)size);
    return image;
}

/* Every word, separated by '|', stands in the text. */
static int has_words(const char *text, const char *words)
{
    char word[120];
    while (*words) {
        size_t n = 0;
        for (; *words && *words != '|'; words++)
            if (n + 1 < sizeof(word)) word[n++] = *words;
        word[n] = 0;
        if (*words) words++;
        if (!strstr(text, word)) return 0;
    }
    return 1;
}

static void verdict(int line, const sqm_error *err, sqm_result code, const char *words)
{
    const int ok = err->code == code && has_words(err->text, words) && err->line > 0;
    if (!ok) printf("line %d: %s \"%s\", expected %s with \"%s\"\n", line, sqm_result_name(err->code),
                    err->text,
                    sqm_result_name(code), words);
    CHECK(ok);
}

/* The writer takes the recipe, the loaders refuse it, all with the same words. */
static void refuse(int line, const char *recipe, sqm_result code, const char *words)
{
    sqm_error err;
    uint8_t *image;
    size_t bytes;
    sqm_model *m;
    memset(&err, 0, sizeof(err));
    if (write_recipe(recipe, &err) != SQM_OK) {
        printf("line %d: the writer refuses: %s\n", line, err.text);
        CHECK(0);
        return;
    }
    memset(&err, 0, sizeof(err));
    m = sqm_load_file(path, NULL, &err);
    CHECK(m == NULL);
    verdict(line, &err, code, words);
    sqm_model_free(m);
    image = read_image(path, &bytes);
    memset(&err, 0, sizeof(err));
    m = sqm_load_memory(image, bytes, NULL, &err);
    CHECK(m == NULL);
    verdict(line, &err, code, words);
    sqm_model_free(m);
    CHECK(sqm_load_memory(image, bytes, NULL, NULL) == NULL);      /* errors are optional                   */
    free(image);
}
#define EMBED "embed r0 tokens w=@embed\n"
#define HEAD "head logits r0 w=@embed\n"
#define REFUSE(body, code, words) refuse(__LINE__, EMBED body HEAD, code, words)
#define REFUSE_WHOLE(recipe, code, words) refuse(__LINE__, recipe, code, words)

static void accept(int line, const char *recipe)
{
    const int32_t tokens[3] = { 1, 5, 10 };
    sqm_session_config config;
    sqm_error err;
    sqm_model *m;
    sqm_session *s;
    memset(&err, 0, sizeof(err));
    memset(&config, 0, sizeof(config));
    config.max_context = 4;
    config.max_batch = 4;
    m = write_recipe(recipe, &err) == SQM_OK ? sqm_load_file(path, NULL, &err) : NULL;
    s = m ? sqm_session_create(m, &config, &err) : NULL;
    if (!s) printf("line %d: refused: %s\n", line, err.text);
    CHECK(s && sqm_feed(s, 0, tokens, 3) == SQM_OK);
    sqm_session_free(s);
    sqm_model_free(m);
}
#define ACCEPT(body) accept(__LINE__, EMBED body HEAD)

/* ---- wrong recipes ------------------------------------------------------------------------------------- */
static void test_good(void)
{
    ACCEPT("");
    ACCEPT("# a comment\n\nembed r1 positions w=@pos\nadd r0 r0 r1\n");
    ACCEPT("embed r0 positions w=@pos add=1 offset=1\n");
    ACCEPT("norm r0 r0 kind=rms groups=4 w=@v2 eps=1e-5\nnorm r0 r0 kind=l2 groups=4 w=@v8\n");
    ACCEPT("norm r0 r0 kind=layer first=2 count=4 w=@v4 b=@v4\n");
    ACCEPT("linear r1 r0 w=@square,@square b=-,@v8\nglu r2 r1 act=silu\nlinear r0 r2 w=@square add=1\n");
    ACCEPT("rope r0 r0 first=0 heads=1 head_dim=8 style=half freq=@v4\n");
    ACCEPT("linear r1 r0 w=@qkv\nmix r2 r1 attention heads=2 head_dim=4\ncopy r0 r2\n");
    ACCEPT("copy r1 r0 first=2 count=6\nlinear r0 r1 w=@narrow add=1\n");
    ACCEPT("act r0 r0 kind=gelu\nscale r0 r0 by=2\nsoftcap r0 r0 cap=3\nmul r0 r0 r0\n");
    ACCEPT("embed r1 tokens w=@table scale=0.5\nadd r0 r0 r1\n");
    ACCEPT("linear r1 r0 w=@qkv\nlinear r2 r1 w=@narrow first=18\nlinear r0 r1 w=@square add=1 first=0\n");
    ACCEPT("linear r1 r0 w=@qkv\ngate r0 r0 r1 act=silu first=16\ngate r0 r0 r0 act=none\n");
    ACCEPT("softmax r1 r0\nsoftmax r1 r1 groups=2\nmonomials r2 r1 groups=4\nsoftmax r2 r2 groups=24\n");
}

static void test_registers(void)
{
    REFUSE("add r0 r0 r7\n", SQM_E_FORMAT, "op 1 (add)|register 7|nothing has written");
    REFUSE("norm r1 r3 kind=rms\n", SQM_E_FORMAT, "op 1 (norm)|register 3");
    REFUSE("linear r1 r15 w=@square\n", SQM_E_FORMAT, "op 1 (linear)|register 15");
    REFUSE("mix r2 r4 attention heads=1 head_dim=1\n", SQM_E_FORMAT, "op 1 (mix)|register 4");
    REFUSE("norm logits r0 kind=rms\n", SQM_E_FORMAT, "op 1 (norm)|cannot write");
    REFUSE("copy tokens r0\n", SQM_E_FORMAT, "op 1 (copy)|cannot write");
    REFUSE("copy r1 tokens\n", SQM_E_FORMAT, "op 1 (copy)|reads register");
    REFUSE("copy r1 logits\n", SQM_E_FORMAT, "op 1 (copy)|reads register");
    REFUSE("embed r1 r0 w=@embed\n", SQM_E_FORMAT, "op 1|tokens or positions|register 0");
    REFUSE("linear r0 r0 w=@square\n", SQM_E_FORMAT, "op 1|linear cannot work in place");
    REFUSE("mix r0 r0 attention heads=1 head_dim=1\n", SQM_E_FORMAT, "op 1|in place");
    REFUSE("copy r0 r0 first=1\n", SQM_E_FORMAT, "op 1|copy onto itself");
    REFUSE_WHOLE("head logits r0 w=@embed\n", SQM_E_FORMAT, "op 0 (head)|register 0");
    REFUSE_WHOLE(EMBED "head r1 r0 w=@embed\n", SQM_E_FORMAT, "op 1 (head)|register 1");
}

static void test_whole_recipes(void)
{
    REFUSE_WHOLE("", SQM_E_FORMAT, "no embed");
    REFUSE_WHOLE(EMBED, SQM_E_FORMAT, "no head");
    REFUSE_WHOLE("embed r0 positions w=@pos\n" HEAD, SQM_E_FORMAT, "no embed of tokens");
    REFUSE_WHOLE(EMBED HEAD "scale r0 r0 by=2\n", SQM_E_FORMAT, "op 2|follow the head");
    REFUSE_WHOLE(EMBED HEAD HEAD, SQM_E_FORMAT, "op 2|follow the head");
}

static void test_options(void)
{
    REFUSE("norm r0 r0 kind=rms gain=@v8\n", SQM_E_UNSUPPORTED, "op 1 (norm)|unknown option 'gain'");
    REFUSE("linear r1 r0 w=@square bias=@v8\n", SQM_E_UNSUPPORTED, "op 1 (linear)|'bias'");
    REFUSE("copy r1 r0 add=1\n", SQM_E_UNSUPPORTED, "op 1 (copy)|'add'");
    REFUSE("linear r1 r0 w=@qkv\nmix r2 r1 attention heads=2 head_dim=4 alibi=1\n", SQM_E_UNSUPPORTED,
           "op 2 (mix)|'alibi'");
    REFUSE("norm r0 r0 kind=batch\n", SQM_E_UNSUPPORTED, "op 1|kind = 'batch'");
    REFUSE("norm r0 r0 eps=1e-5\n", SQM_E_UNSUPPORTED, "op 1|kind = '(missing)'");
    REFUSE("act r0 r0 kind=swish\n", SQM_E_UNSUPPORTED, "op 1|kind = 'swish'");
    REFUSE("act r0 r0 kind=1\n", SQM_E_UNSUPPORTED, "op 1|kind");
    REFUSE("glu r1 r0 act=@v8\n", SQM_E_UNSUPPORTED, "op 1|act");
    REFUSE("rope r0 r0 head_dim=8 style=neox freq=@v4\n", SQM_E_UNSUPPORTED, "op 1|style = 'neox'");
    REFUSE("mix r1 r0 mamba dim=8\n", SQM_E_UNSUPPORTED, "op 1|mixer 'mamba'");
    REFUSE("linear r1 r0 w=@square add=2\n", SQM_E_SHAPE, "op 1 (linear)|add = 2|from 0 to 1");
    REFUSE("copy r1 r0 count=2.5\n", SQM_E_SHAPE, "op 1 (copy)|count = 2|whole number");
    REFUSE("softcap r0 r0\n", SQM_E_SHAPE, "op 1|cap > 0");
    REFUSE("softcap r0 r0 cap=-1\n", SQM_E_SHAPE, "op 1|cap > 0");
    REFUSE("scale r0 r0 by=1e300\n", SQM_E_SHAPE, "op 1 (scale)|by = 1e300 is out of range");
}

static void test_shapes(void)
{
    REFUSE("linear r1 r0 w=@narrow\n", SQM_E_SHAPE, "op 1|weight 0 is [8, 6]|8 columns");
    ACCEPT("cat r1 r0 r0\nlinear r2 r1 w=@square,@square apart=1 b=-,@v8\nglu r3 r2 act=silu\n"
           "add r0 r0 r3\n");
    REFUSE("linear r1 r0 w=@square,@square apart=1\n", SQM_E_SHAPE, "op 1|weight 0 is [8, 8]|8 columns");
    REFUSE("linear r1 r0 w=@narrow first=3\n", SQM_E_SHAPE, "op 1|weight 0 is [8, 6]|5 columns");
    REFUSE("linear r1 r0 w=@narrow first=8\n", SQM_E_SHAPE, "op 1|first = 8");
    REFUSE("linear r1 r0 w=@square,@narrow\n", SQM_E_SHAPE, "op 1|weight 1 is [8, 6]");
    REFUSE("linear r1 r0 w=@square,- b=@v8,@v8\n", SQM_E_SHAPE, "op 1 (linear)|panels");
    REFUSE("linear r1 r0 w=@table\n", SQM_E_SHAPE, "op 1 (linear)|panels");
    REFUSE("linear r1 r0 w=@v8\n", SQM_E_SHAPE, "op 1 (linear)|panels");
    REFUSE("linear r1 r0\n", SQM_E_SHAPE, "op 1|weights in w=");
    REFUSE("linear r1 r0 w=3\n", SQM_E_SHAPE, "op 1|weights in w=");
    REFUSE("linear r1 r0 w=@square b=@v4\n", SQM_E_SHAPE, "op 1|bias 0|8 float32|has 4");
    REFUSE("linear r1 r0 w=@square b=@h8\n", SQM_E_SHAPE, "op 1|bias 0");
    REFUSE("linear r1 r0 w=@square b=@v8,@v8\n", SQM_E_SHAPE, "op 1|1 weights but 2 biases");
    REFUSE("linear r1 r0 w=@odd\nlinear r1 r0 w=@square add=1\n", SQM_E_SHAPE,
           "op 2|adds 8 columns|r1|has 7");
    REFUSE("linear r1 r0 w=@square add=1\n", SQM_E_SHAPE, "op 1|adds 8 columns|r1|has 0");
    REFUSE("embed r1 tokens w=@table add=1\n", SQM_E_SHAPE, "op 1|adds 8|r1|has 0");
    REFUSE("linear r1 r0 w=@odd\nadd r0 r0 r1\n", SQM_E_SHAPE, "op 2|r0 has 8|r1 has 7");
    REFUSE("linear r1 r0 w=@odd\nmul r2 r1 r0\n", SQM_E_SHAPE, "op 2|r1 has 7|r0 has 8");
    REFUSE("linear r1 r0 w=@odd\nglu r2 r1 act=silu\n", SQM_E_SHAPE, "op 2|odd width 7");
    REFUSE("copy r1 r0 first=8\n", SQM_E_SHAPE, "op 1 (copy)|first = 8|from 0 to 7");
    REFUSE("copy r1 r0 first=3 count=6\n", SQM_E_SHAPE, "op 1 (copy)|count = 6|from 1 to 5");
    REFUSE("copy r1 r0 first=-1\n", SQM_E_SHAPE, "op 1 (copy)|first = -1");
    REFUSE("embed r1 tokens w=@v8\n", SQM_E_SHAPE, "op 1|two-dimensional");
    REFUSE("embed r1 tokens w=@ids\n", SQM_E_SHAPE, "op 1|embed");
    REFUSE("embed r1 tokens\n", SQM_E_SHAPE, "op 1|w=");
    REFUSE("embed r1 positions w=@pos offset=5\n", SQM_E_SHAPE, "op 1 (embed)|offset = 5|from 0 to 4");
    REFUSE("linear r1 r0 w=@qkv\ngate r0 r0 r1 act=silu first=17\n", SQM_E_SHAPE, "op 2|8 columns|17 of 24");
    REFUSE("linear r1 r0 w=@qkv\ngate r1 r0 r1 act=silu\n", SQM_E_SHAPE, "op 2|gated by r1");
    REFUSE("softmax r1 r0 groups=3\n", SQM_E_SHAPE, "op 1|8 columns|3 groups");
    REFUSE("monomials r0 r0\n", SQM_E_FORMAT, "op 1|in place");
    REFUSE("gate r1 r0 r0 act=silly\n", SQM_E_UNSUPPORTED, "op 1|act = 'silly'");
    REFUSE_WHOLE(EMBED "copy r1 r0 count=6\ncopy r0 r1\n" HEAD, SQM_E_SHAPE, "op 3|[11, 8]|6 columns");
}

static void test_norms(void)
{
    REFUSE("norm r0 r0 kind=rms groups=3\n", SQM_E_SHAPE, "op 1|8 columns|3 groups");
    REFUSE("norm r0 r0 kind=rms groups=0\n", SQM_E_SHAPE, "op 1 (norm)|groups = 0|from 1 to 8");
    REFUSE("norm r0 r0 kind=rms groups=9\n", SQM_E_SHAPE, "op 1 (norm)|groups = 9");
    REFUSE("norm r0 r0 kind=rms first=4 count=3 groups=2\n", SQM_E_SHAPE, "op 1|3 columns|2 groups");
    REFUSE("norm r1 r0 kind=rms first=4\n", SQM_E_SHAPE, "op 1|in place only");
    REFUSE("norm r0 r0 kind=rms w=@v4\n", SQM_E_SHAPE, "op 1 (norm)|w must be 8|has 4");
    REFUSE("norm r0 r0 kind=rms w=@h8\n", SQM_E_SHAPE, "op 1 (norm)|w must be 8");
    REFUSE("norm r0 r0 kind=layer b=@v2\n", SQM_E_SHAPE, "op 1 (norm)|b must be 8|has 2");
    REFUSE("norm r0 r0 kind=rms groups=2 w=@v2\n", SQM_E_SHAPE, "op 1 (norm)|w must be 4|has 2");
    REFUSE("norm r0 r0 kind=rms w=@v8,@v8\n", SQM_E_SHAPE, "op 1 (norm)|w must be one tensor");
    REFUSE("norm r0 r0 kind=rms first=5 count=4\n", SQM_E_SHAPE, "op 1 (norm)|count = 4|from 1 to 3");
}

static void test_ropes(void)
{
    REFUSE("rope r0 r0 heads=2 head_dim=8 style=half freq=@v4\n", SQM_E_SHAPE, "op 1|2 heads of 8|rows of 8");
    REFUSE("rope r0 r0 first=1 head_dim=8 style=half freq=@v4\n", SQM_E_SHAPE, "op 1|column 1|rows of 8");
    REFUSE("rope r0 r0 heads=65536 head_dim=65536 style=half freq=@v4\n", SQM_E_SHAPE,
           "op 1|65536 heads of 65536");
    REFUSE("rope r1 r0 head_dim=8 style=half freq=@v4\n", SQM_E_SHAPE, "op 1|in place");
    REFUSE("rope r0 r0 head_dim=8 dims=3 style=half freq=@v4\n", SQM_E_SHAPE, "op 1");
    REFUSE("rope r0 r0 head_dim=4 dims=6 style=half freq=@v4\n", SQM_E_SHAPE,
           "op 1 (rope)|dims = 6|from 2 to 4");
    REFUSE("rope r0 r0 style=half freq=@v4\n", SQM_E_SHAPE, "op 1 (rope)|head_dim = 0");
    REFUSE("rope r0 r0 head_dim=8 style=half freq=@v2\n", SQM_E_SHAPE, "op 1 (rope)|freq must be 4|has 2");
    REFUSE("rope r0 r0 head_dim=8 style=half\n", SQM_E_SHAPE, "op 1|needs freq=");
    REFUSE("rope r0 r0 head_dim=8 style=half freq=@v4 freq_long=@v2\n", SQM_E_SHAPE, "op 1 (rope)|freq_long");
    REFUSE("rope r0 r0 head_dim=8 style=half freq=@v4 ntk_factor=2\n", SQM_E_SHAPE, "op 1|ntk_length");
    REFUSE("rope r0 r0 head_dim=8 style=half freq=@v4 long_from=-1\n", SQM_E_SHAPE,
           "op 1 (rope)|long_from = -1");
}

/* Logits of n tokens after the last one */
static void rope_logits(float *out, const char *recipe, int32_t n)
{
    static const int32_t tokens[3] = { 1, 5, 10 };
    sqm_session_config config;
    sqm_error err;
    sqm_model *m = write_recipe(recipe, &err) == SQM_OK ? sqm_load_file(path, NULL, &err) : NULL;
    sqm_session *s;
    memset(&config, 0, sizeof(config));
    config.max_context = 4;
    s = m ? sqm_session_create(m, &config, &err) : NULL;
    CHECK(s && sqm_feed(s, 0, tokens, n) == SQM_OK);
    if (s) memcpy(out, sqm_logits(s, 0), VOCAB * sizeof(float));
    sqm_session_free(s);
    sqm_model_free(m);
}
/* Beyond long_from both the frequencies and the factor are the long ones. */
static void test_rope_lengths(void)
{
    static const char both[] = EMBED "rope r0 r0 head_dim=8 style=half freq=@v4 attn_factor=0.5 "
        "freq_long=@w4 attn_long=2 long_from=2\n" HEAD;
    static const char shorter[] = EMBED "rope r0 r0 head_dim=8 style=half freq=@v4 attn_factor=0.5\n" HEAD;
    static const char longer[] = EMBED "rope r0 r0 head_dim=8 style=half freq=@w4 attn_factor=2\n" HEAD;
    float a[VOCAB], b[VOCAB];
    rope_logits(a, both, 2);
    rope_logits(b, shorter, 2);
    CHECK(memcmp(a, b, sizeof(a)) == 0);
    rope_logits(a, both, 3);
    rope_logits(b, longer, 3);
    CHECK(memcmp(a, b, sizeof(a)) == 0);
    rope_logits(b, shorter, 3);
    CHECK(memcmp(a, b, sizeof(a)) != 0);
}

#define QKV "linear r1 r0 w=@qkv\n"
static void test_mixers(void)
{
    REFUSE(QKV "mix r2 r1 attention heads=3 kv_heads=2 head_dim=4\n", SQM_E_SHAPE,
           "op 2 (mix)|3 heads|2 key");
    REFUSE(QKV "mix r2 r1 attention heads=2 head_dim=5\n", SQM_E_SHAPE, "op 2 (mix)|heads of 5|rows of 24");
    REFUSE(QKV "mix r2 r1 attention heads=2 kv_heads=4 head_dim=4\n", SQM_E_SHAPE, "op 2 (mix)|kv_heads = 4");
    REFUSE(QKV "mix r2 r1 attention head_dim=4\n", SQM_E_SHAPE, "op 2 (mix)|heads = 0");
    REFUSE(QKV "mix r2 r1 attention heads=2 head_dim=4 window=-3\n", SQM_E_SHAPE, "op 2 (mix)|window = -3");
    REFUSE(QKV "mix r2 r1 attention heads=2 head_dim=4 softcap=-3\n", SQM_E_SHAPE, "op 2 (mix)|softcap");
    REFUSE(QKV "mix r2 r1 attention heads=2 head_dim=4 sinks=@v4\n", SQM_E_SHAPE,
           "op 2 (mix)|sinks must be 2|has 4");
    REFUSE(QKV "mix r2 r1 attention heads=2 head_dim=4 scale=1e200\n", SQM_E_SHAPE, "op 2 (mix)|scale");
}

/* What the writer already sees. */
static void refuse_text(int line, const char *body, sqm_result code, const char *words)
{
    char recipe[400];
    sqm_error err;
    FILE *f;
    memset(&err, 0, sizeof(err));
    snprintf(recipe, sizeof(recipe), "%s%s%s", EMBED, body, HEAD);
    CHECK(write_recipe(recipe, &err) == code);
    verdict(line, &err, code, words);
    f = fopen(path, "rb");
    CHECK(f == NULL);                                   /* nothing is left behind                           */
    if (f) fclose(f);
}
#define REFUSE_TEXT(body, words) refuse_text(__LINE__, body, SQM_E_ARGUMENT, words)

static void test_text(void)
{
    remove(path);
    REFUSE_TEXT("convolve r1 r0 w=@square\n", "recipe line 2|unknown op 'convolve'");
    REFUSE_TEXT("linear r1 r0 w=@sqare\n", "recipe line 2|'@sqare' is no declared tensor");
    REFUSE_TEXT("linear r1 r0 w=@square,\n", "recipe line 2|no declared tensor");
    REFUSE_TEXT("linear r1 r16 w=@square\n", "recipe line 2|'r16' is not a register|linear");
    REFUSE_TEXT("\nadd r0 r0\n", "recipe line 3|add needs 3");
    REFUSE_TEXT("copy r1 r0 first\n", "recipe line 2|'first' is not key=value");
    REFUSE_TEXT("copy r1 r0 first=1 first=2\n", "recipe line 2|'first' is given twice");
    REFUSE_TEXT("mix r1 r0 heads=2\n", "recipe line 2|name of a mixer");
    REFUSE_TEXT("scale r0 r0 by=1e999\n", "recipe line 2|no usable number");
    REFUSE_TEXT("copy r1 r0 first=99999999999999999999\n", "recipe line 2|no usable number");
}

/* ---- opening in memory of the caller ------------------------------------------------------------------- */
static sqm_model *open_at(const uint8_t *image, size_t bytes, const sqm_open_options *o, void *memory,
                          size_t room,
                          sqm_error *err)
{
    sqm_model *m = NULL;
    return sqm_open(&m, image, bytes, o, memory, room, err) == SQM_OK ? m : NULL;
}

static void test_open(const uint8_t *image, size_t bytes)
{
    static const sqm_mixer *const none[] = { NULL };
    const sqm_op *const few[] = { sqm_op_embed(), sqm_op_head(), NULL };
    sqm_open_options options;
    sqm_model_info info;
    sqm_error err;
    sqm_model *m;
    uint8_t *raw, *memory;
    size_t need;
    memset(&options, 0, sizeof(options));
    options.mixers = none;
    options.ops = few;
    CHECK(sqm_open_size(image, bytes, &options, &err) == 0);
    verdict(__LINE__, &err, SQM_E_UNSUPPORTED, "op 1|number 2|not among those given");
    options.ops = sqm_all_ops();
    CHECK(sqm_open_size(image, bytes, &options, &err) == 0);
    verdict(__LINE__, &err, SQM_E_UNSUPPORTED, "op 6|mixer 'attention'|not among those given");
    CHECK(sqm_open_size(image, bytes, NULL, &err) == 0);
    verdict(__LINE__, &err, SQM_E_UNSUPPORTED, "op 0|not among those given");
    options.mixers = sqm_all_mixers();
    need = sqm_open_size(image, bytes, &options, &err);
    CHECK(need > 0);
    raw = (uint8_t *)malloc(need + 64);
    memory = raw + (16 - (uintptr_t)raw % 16) % 16;
    memset(raw, 0xa5, need + 64);
    CHECK(open_at(image, bytes, &options, memory, need - 1, &err) == NULL && err.value == need);
    verdict(__LINE__, &err, SQM_E_MEMORY, "aligned to 8");
    CHECK(open_at(image, bytes, &options, memory + 4, need, &err) == NULL && err.code == SQM_E_MEMORY);
    CHECK(open_at(image, bytes, &options, NULL, need, &err) == NULL && err.code == SQM_E_MEMORY);
    CHECK(open_at(image, bytes, NULL, memory, need, &err) == NULL && err.code == SQM_E_UNSUPPORTED);
    CHECK(open_at(image, bytes, NULL, memory, need, NULL) == NULL);
    CHECK(sqm_open(NULL, image, bytes, &options, memory, need, &err) == SQM_E_ARGUMENT);
    CHECK(open_at(image + 1, bytes - 1, &options, memory, need, &err) == NULL);
    CHECK(open_at(NULL, bytes, &options, memory, need, &err) == NULL);
    /* refusals write nothing */
    for (size_t i = 0; i < need + 16; i++) CHECK(memory[i] == 0xa5);
    m = open_at(image, bytes, &options, memory, need, &err);
    CHECK(m != NULL);
    for (size_t i = need; i < need + 16; i++) CHECK(memory[i] == 0xa5);
    sqm_model_get_info(m, &info);
    CHECK(info.dim == TOY_DIM && info.vocab_size == TOY_VOCAB && info.max_context == TOY_CONTEXT);
    CHECK(info.n_ops == 3 + 3 * 11 && info.n_mixers == 3 && info.n_tensors == 2 + 3 * 14 &&
          !info.has_tokenizer);
    CHECK_TEXT(info.name, "toy");
    free(raw);
}

/* Exact copies, so that sanitizers see any read behind the end. */
static void test_truncated(const uint8_t *image, size_t bytes)
{
    sqm_error err;
    sqm_model *m;
    FILE *f;
    for (size_t n = 0; n < bytes; n += n < 4096 || bytes - n < 4096 ? 3 : 1021) {
        uint8_t *copy = (uint8_t *)malloc(n + (n == 0));
        memcpy(copy, image, n);
        memset(&err, 0, sizeof(err));
        m = sqm_load_memory(copy, n, NULL, &err);
        CHECK(m == NULL && err.code == SQM_E_FORMAT && err.text[0]);
        sqm_model_free(m);
        free(copy);
    }
    f = fopen(path, "wb");
    CHECK(f && fwrite(image, 1, bytes / 2, f) == bytes / 2);
    if (f) fclose(f);
    CHECK(sqm_load_file(path, NULL, &err) == NULL && err.code == SQM_E_FORMAT);
    remove(path);
    CHECK(sqm_load_file(path, NULL, &err) == NULL);
    verdict(__LINE__, &err, SQM_E_IO, "recipe.sqm");
    CHECK(sqm_load_file(NULL, NULL, &err) == NULL && err.code == SQM_E_ARGUMENT);
}

int main(void)
{
    sqm_error err;
    uint8_t *image;
    size_t bytes;
    test_text();
    test_good();
    test_registers();
    test_whole_recipes();
    test_options();
    test_shapes();
    test_norms();
    test_ropes();
    test_rope_lengths();
    test_mixers();
    CHECK(toy_write(path, SQM_F32, &err) == SQM_OK);
    image = read_image(path, &bytes);
    test_open(image, bytes);
    test_truncated(image, bytes);
    free(image);
    remove(path);
    return check_report("test_recipe");
}
