/* convert.h: a checkpoint in, a .sqm file out, as one function; sqm-convert and sqm-check are its users.
   Include after the implementation part of seqmodel.h.                                                     */
#ifndef CONVERT_H_INCLUDED
#define CONVERT_H_INCLUDED
#include "convert_api.h"
#include "conv_base.h"
#include "conv_safetensors.h"
#include "conv_torch.h"
#include "conv_gguf.h"
#include "conv_llama2c.h"
#include "conv_rwkv.h"
#include "conv_npz.h"
#include "conv_write.h"
#include "conv_fp8.h"
#include "tok_import.h"
#include "chat_template.h"
#include "arch/list.h"

typedef struct convert_input {        /* where things of a checkpoint are                                   */
    const char     *path, *directory; /* directory: of config.json and the tokenizer                        */
    const char     *format;
    const conv_file *file;            /* a single file, else NULL                                           */
    json_doc        config;
    gguf_file       gguf;
    conv_llama2c    llama2c;
    /* is_rwkv: of rwkv.cpp                                */
    int             is_gguf, is_llama2c, is_rwkv;
} convert_input;

/* ---- finding the parts of a checkpoint ----------------------------------------------------------------- */
static int convert__read_directory(conv *c, convert_input *in)
{
    static const struct { const char *name, *format; int sharded, torch; } known[] = {
        { "model.safetensors", "safetensors", 0, 0 },
            { "model.safetensors.index.json", "sharded safetensors", 1, 0 },
            { "pytorch_model.bin", "PyTorch", 0, 1 },
            { "pytorch_model.bin.index.json", "sharded PyTorch", 1, 1 }
    };
    in->directory = in->path;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const char *path = conv_join_path(c->env, in->path, known[i].name);
        if (!conv_file_exists(path)) continue;
        in->format = known[i].format;
        if (known[i].sharded)
            return conv_read_shards(&c->source, path,
                                    known[i].torch ? conv_read_torch : conv_read_safetensors);
        return known[i].torch ? conv_read_torch(&c->source, path) : conv_read_safetensors(&c->source, path);
    }
    return conv_fail(c->env,
                     "%s: there is neither model.safetensors nor pytorch_model.bin (nor their index.json)",
                     in->path);
}

/* The format of a single file shows in its first bytes.                                                    */
static int convert__read_file(conv *c, convert_input *in)
{
    const conv_file *f = conv_open(c->env, in->path);
    if (!f) return 0;
    in->file = f;
    in->directory = conv_directory(c->env, in->path);
    if (f->bytes >= 4 && memcmp(f->data, "GGUF", 4) == 0) {
        in->is_gguf = 1;
        in->format = "GGUF";
        return gguf_open(&in->gguf, c->env, in->path) && gguf_read_tensors(&in->gguf, &c->source);
    }
    if (conv_ends_with(in->path, ".index.json")) {
        in->format = strstr(in->path, "safetensors") ? "sharded safetensors" : "sharded PyTorch";
        return conv_read_shards(&c->source, in->path,
                                strstr(in->path, "safetensors") ? conv_read_safetensors : conv_read_torch);
    }
    if (f->bytes >= 4 && conv_u32(f->data) == 0x04034b50u && conv_ends_with(in->path, ".npz")) {
        in->format = "NumPy";
        return conv_read_npz(&c->source, f);
    }
    if ((f->bytes >= 4 && conv_u32(f->data) == 0x04034b50u) || f->data[0] == 0x80) {
        in->format = "PyTorch";
        return conv_read_torch(&c->source, in->path);
    }
    if (conv_ends_with(in->path, ".safetensors") ||
        (f->bytes > 8 && conv_u64(f->data) < f->bytes && f->data[8] == '{')) {
        in->format = "safetensors";
        return conv_read_safetensors(&c->source, in->path);
    }
    if (conv_is_rwkv(f)) {
        in->is_rwkv = 1;
        in->format = "rwkv.cpp";
        return conv_read_rwkv(&c->source, f);
    }
    if (conv_llama2c_header(&in->llama2c, f)) {
        in->is_llama2c = 1;
        in->format = "llama2.c";
        return conv_read_llama2c(&c->source, f, &in->llama2c);
    }
    return conv_fail(c->env, "%s: neither safetensors, PyTorch, GGUF, rwkv.cpp nor llama2.c (a llama2.c "
                     "file must have exactly the size that its header asks for)", in->path);
}

static int convert__is_directory(conv *c, const char *path)
{
    return !conv_file_exists(path) && conv_file_exists(conv_join_path(c->env, path, "config.json"));
}

static int convert__read_config(conv *c, convert_input *in, const char *other)
{
    const char *path = other ? other : conv_join_path(c->env, in->directory, "config.json");
    if (!other && strcmp(in->format, "NumPy") == 0 && !conv_file_exists(path))
        path = conv_join_path(c->env, in->directory, "manifest.json");
    if (!conv_file_exists(path))
        return conv_fail(c->env, "%s: there is no config.json beside the checkpoint", path);
    if (!json_read_file(&in->config, path)) return conv_fail(c->env, "%s: %s", path, in->config.error);
    c->config = in->config.root;
    if (!json_is(c->config, JSON_OBJECT)) return conv_fail(c->env, "%s: not a JSON object", path);
    c->config_seen = (uint8_t *)conv_alloc(c->env, (uint64_t)json_count(c->config) + 1, 1);
    c->architecture = conv_copy_text(c->env, json_text(json_get(c->config, "model_type"), ""),
                                     strlen(json_text(json_get(c->config, "model_type"), "")));
    if (!*c->architecture && json_get(c->config, "ssm_cfg")) c->architecture = "mamba_ssm";
    if (!*c->architecture && conv_has(c, "CheckpointMambaBlock1D_0__A_log")) c->architecture = "typeseg";
    if (!*c->architecture) return conv_fail(c->env, "%s: key \"model_type\" is missing", path);
    return !c->env->failed;
}

/* ---- mapping ------------------------------------------------------------------------------------------- */
static const conv_arch *convert__find_arch(conv *c, const conv_arch *archs, const char *class_name)
{
    char known[3800];
    const char *other = NULL;                          /* a class that is known for this architecture       */
    size_t used = 0;
    known[0] = 0;
    for (int i = 0; archs[i].name; i++) {
        if (strcmp(archs[i].name, c->architecture) == 0) {
            if (!class_name || !archs[i].class_name || strcmp(class_name, archs[i].class_name) == 0)
                return &archs[i];
            other = archs[i].class_name;
        }
        used += (size_t)snprintf(known + used, used < sizeof known ? sizeof known - used : 0, "%s%s",
                                 i ? " " : "", archs[i].name);
        if (used >= sizeof known) used = sizeof known - 1;
    }
    if (other)
        conv_fail(c->env, "class \"%.60s\" of architecture \"%.60s\" is not known, %s is", class_name,
                  c->architecture, other);
    else
        conv_fail(c->env, "architecture \"%.60s\" is not known; known are: %s", c->architecture, known);
    c->env->unknown = 1;
    return NULL;
}

static int convert__map(conv *c, convert_input *in, const convert_options *o)
{
    const conv_arch *arch;
    if (in->is_llama2c) {
        c->architecture = "llama2.c";
        arch_llama2c(c, &in->llama2c);
    } else if (in->is_gguf) {
        const char *name = gguf_text(&in->gguf, gguf_find(&in->gguf, "general.architecture"));
        if (!name) return conv_fail(c->env, "%s: key general.architecture is missing", in->path);
        c->architecture = name;
        c->gguf = &in->gguf;
        arch = convert__find_arch(c, conv_gguf_archs, NULL);
        if (!arch) return 0;
        arch->map(c);
        if (!c->env->failed) conv_check_unread_gguf(c);
    } else if (in->is_rwkv || (!o->config && arch_rwkv_is_original(c))) {
        arch_rwkv_original(c, in->is_rwkv);
    } else {
        if (!convert__read_config(c, in, o->config)) return 0;
        conv_fp8(c);
        arch = convert__find_arch(c, conv_hf_archs,
                                  json_text(json_at(json_get(c->config, "architectures"), 0), NULL));
        if (!arch) return 0;
        arch->map(c);
        if (!c->env->failed) conv_check_unread_keys(c);
    }
    return !c->env->failed && conv_check_unused_tensors(c);
}

/* ---- notes --------------------------------------------------------------------------------------------- */
/* The template as it is, and if it is known, what it comes to. */
static void convert__put_chat(conv *c, sqm_writer *w, const char *text)
{
    const char *family, *frame = chat_describe(c->env, text, &family);
    sqm_writer_meta(w, "chat_template", text);
    if (!frame) return;
    sqm_writer_meta(w, "chat_family", family);
    sqm_writer_meta(w, "chat", frame);
}

static void convert__put_template(conv *c, sqm_writer *w, const json_value *v)
{
    if (json_is(v, JSON_STRING)) { convert__put_chat(c, w, v->text); return; }
    for (uint32_t i = 0; json_is(v, JSON_ARRAY) && i < json_count(v); i++) {       /* several, by name      */
        const json_value *text = json_get(json_at(v, i), "template");
        if (json_text_is(json_get(json_at(v, i), "name"), "default") && json_is(text, JSON_STRING))
            convert__put_chat(c, w, text->text);
    }
}

/* chat_template.jinja wins over the key in tokenizer_config.json.                                          */
static void convert__chat_template(conv *c, const convert_input *in, sqm_writer *w)
{
    const char *jinja = conv_join_path(c->env, in->directory, "chat_template.jinja");
    const char *json = conv_join_path(c->env, in->directory, "tokenizer_config.json");
    json_doc doc;
    if (in->is_llama2c) return;
    if (in->is_gguf) {
        const char *text = gguf_text(&in->gguf, gguf_find(&in->gguf, "tokenizer.chat_template"));
        if (text) convert__put_chat(c, w, text);
    } else if (conv_file_exists(jinja)) {
        const conv_file *f = conv_open(c->env, jinja);
        if (f) convert__put_chat(c, w, conv_copy_text(c->env, f->data, (size_t)f->bytes));
    } else if (conv_file_exists(json)) {
        if (!json_read_file(&doc, json)) { conv_fail(c->env, "%s: %s", json, doc.error); return; }
        convert__put_template(c, w, json_get(doc.root, "chat_template"));
        json_free(&doc);
    }
}

static const char *convert__name(conv *c, const convert_input *in)
{
    const char *name = NULL;
    char *copy;
    size_t n;
    if (in->is_gguf) name = gguf_text(&in->gguf, gguf_find(&in->gguf, "general.name"));
    if (c->config) name = json_text(json_get(c->config, "_name_or_path"), NULL);
    if (name && *name && !strchr(name, '\\') && *name != '/' && *name != '.') return name;
    copy = (char *)(uintptr_t)conv_copy_text(c->env, in->path, strlen(in->path));
    for (n = strlen(copy); n > 1 && copy[n - 1] == '/'; n--) copy[n - 1] = 0;
    return conv_base_name(copy);
}

static void convert__notes(conv *c, const convert_input *in, sqm_writer *w)
{
    const char *license = in->is_gguf ? gguf_text(&in->gguf, gguf_find(&in->gguf, "general.license")) : NULL;
    sqm_writer_meta(w, "name", convert__name(c, in));
    sqm_writer_meta(w, "architecture", c->architecture);
    sqm_writer_meta(w, "source", in->format);
    if (license) sqm_writer_meta(w, "license", license);
    if (c->labels) sqm_writer_meta(w, "labels", c->labels);
    sqm_writer_meta(w, "max_context", conv_format(c->env, "%d", c->unlimited ? 0 : c->max_context));
    sqm_writer_meta(w, "converter", conv_format(c->env, "sqm-convert %s", sqm_version()));
    convert__chat_template(c, in, w);
}

/* ---- tokenizer ----------------------------------------------------------------------------------------- */
/* The file beside a checkpoint; NULL: there is none.                                                       */
static const char *convert__find_tokenizer(conv *c, const convert_input *in)
{
    static const char *const names[] = { "tokenizer.json", "tekken.json", "tokenizer.model", "spiece.model",
                                         "sentencepiece.bpe.model", "qwen.tiktoken",
                                         "rwkv_vocab_v20230424.txt" };
    const char *path;
    if (in->is_llama2c) {
        path = conv_join_path(c->env, in->directory, "tokenizer.bin");
        return conv_file_exists(path) ? path : NULL;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        path = conv_join_path(c->env, in->directory, names[i]);
        if (conv_file_exists(path)) return path;
    }
    return NULL;
}

/* The tokenizer that was asked for, or that is in or beside the checkpoint. None is fine.                  */
static int convert__tokenizer(conv *c, convert_input *in, sqm_writer *w, const convert_options *o,
                              convert_report *report)
{
    const char *path = o->tokenizer;
    tok_blob blob;
    int ok;
    memset(&blob, 0, sizeof blob);
    snprintf(report->tokenizer, sizeof report->tokenizer, "none");
    if (path && strcmp(path, "none") == 0) return 1;
    if (!path && in->is_gguf) {
        path = "GGUF";
        ok = tok_from_gguf(c->env, &in->gguf, &blob);
    } else {
        if (!path) {
            path = convert__find_tokenizer(c, in);
            if (!path) return 1;
        }
        ok = tok_from_file(c->env, path, &blob);
    }
    if (!ok) {
        const size_t n = strlen(c->env->error);
        snprintf(c->env->error + n, sizeof c->env->error - n, " (--tokenizer none leaves the tokenizer out)");
        return 0;
    }
    if (!blob.bytes) return 1;
    sqm_writer_tokenizer(w, blob.data, (size_t)blob.bytes);
    snprintf(report->tokenizer, sizeof report->tokenizer, "%.150s", conv_base_name(path));
    return 1;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */
/* What the runtime would refuse is not left behind.                                                        */
static int convert__open_again(conv *c, const char *out)
{
    sqm_error err;
    sqm_model *m = sqm_load_file(out, NULL, &err);
    if (!m) {
        remove(out);
        return conv_fail(c->env, "the result cannot be opened: %s", err.text);
    }
    sqm_model_free(m);
    return 1;
}

static int convert__write(conv *c, convert_input *in, const char *out, const convert_options *o,
                          convert_report *report)
{
    sqm_error err;
    conv_writer k;
    int ok;
    memset(&err, 0, sizeof err);
    memset(&k, 0, sizeof k);
    k.w = sqm_writer_open(out, &err);
    if (!k.w) return conv_fail(c->env, "%s", err.text);
    k.c = c;
    k.target = o->target;
    k.progress = o->progress;
    k.progress_user = o->progress_user;
    convert__notes(c, in, k.w);
    ok = !c->env->failed && convert__tokenizer(c, in, k.w, o, report) && conv_write_plan(&k);
    if (!ok) { sqm_writer_abort(k.w); return 0; }
    if (sqm_writer_close(k.w, &err) != SQM_OK) return conv_fail(c->env, "%s: %s", out, err.text);
    return convert__open_again(c, out);
}

int convert_parse_target(const char *text, conv_target *target)
{
    static const char *const names[] = { "f32", "f16", "bf16", "q8", "q4", "keep" };
    for (int i = 0; i <= (int)CONV_KEEP; i++) {
        if (strcmp(names[i], text) == 0) { *target = (conv_target)i; return 1; }
    }
    return 0;
}

int convert_checkpoint(const char *in_path, const char *out, const convert_options *o,
                       convert_report *report)
{
    conv_env env;
    conv c;
    convert_input in;
    int ok;
    conv_env_open(&env);
    memset(&c, 0, sizeof c);
    memset(&in, 0, sizeof in);
    memset(report, 0, sizeof *report);
    c.env = &env;
    c.source.env = &env;
    in.path = in_path;
    in.format = "";
    ok = convert__is_directory(&c, in_path) ? convert__read_directory(&c, &in) : convert__read_file(&c, &in);
    ok = ok && convert__map(&c, &in, o) && convert__write(&c, &in, out, o, report);
    if (ok && env.failed) ok = 0;
    report->unknown = env.unknown || strstr(env.error, "not supported") != NULL;
    report->tensors_in = c.source.n;
    report->tensors_out = c.n_outs;
    snprintf(report->error, sizeof report->error, "%s", ok ? "" : env.failed ? env.error : "unknown error");
    snprintf(report->architecture, sizeof report->architecture, "%.60s",
             c.architecture ? c.architecture : "");
    snprintf(report->format, sizeof report->format, "%s", in.format);
    conv_source_close(&c.source);
    json_free(&in.config);
    conv_env_close(&env);
    return ok;
}

#endif /* CONVERT_H_INCLUDED */
