/* Shows one model shared by two threads: weights are read-only, each thread has a session of its own.
   Build  cc -O2 07_threads.c -o threads -lm -lpthread    (seqmodel.h is one directory up)
   Run    ./threads MODEL.sqm "Once upon a time" "One day, a cat"
   Prints both continuations, made at the same time. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>

typedef struct job {
    const sqm_model *model;
    const char      *prompt;
    char             text[4096];
    size_t           used;
    sqm_error        err;
} job;

static int keep(void *user, const char *text, int32_t bytes)
{
    job *j = (job *)user;
    if (j->used + (size_t)bytes >= sizeof(j->text)) return 1;
    memcpy(j->text + j->used, text, (size_t)bytes + 1);
    j->used += (size_t)bytes;
    return 0;
}

static void *work(void *arg)
{
    job *j = (job *)arg;
    sqm_session_config config;
    sqm_generate_options options;
    memset(&config, 0, sizeof(config));
    memset(&options, 0, sizeof(options));
    config.threads = 1;                                /* of this session: the two run side by side */
    options.max_tokens = 100;
    sqm_session *s = sqm_session_create(j->model, &config, &j->err);
    if (s && sqm_generate(s, 0, j->prompt, &options, keep, j, NULL) < 0) j->err = *sqm_session_error(s);
    sqm_session_free(s);
    return NULL;
}

int main(int argc, char **argv)
{
    static job jobs[2];
    pthread_t threads[2];
    int started[2] = {0, 0};
    sqm_error err;
    if (argc != 4) { fprintf(stderr, "usage: threads MODEL.sqm \"prompt 1\" \"prompt 2\"\n"); return 2; }
    sqm_model *model = sqm_load_file(argv[1], NULL, &err);
    if (!model) { fprintf(stderr, "threads: %s\n", err.text); return 1; }
    for (int i = 0; i < 2; i++) {
        jobs[i].model = model;
        jobs[i].prompt = argv[2 + i];
        started[i] = pthread_create(&threads[i], NULL, work, &jobs[i]) == 0;
    }
    for (int i = 0; i < 2; i++) {
        if (started[i]) pthread_join(threads[i], NULL);
        printf("%s%s\n\n", jobs[i].prompt, jobs[i].text);
        if (jobs[i].err.code != SQM_OK) fprintf(stderr, "threads: %s\n", jobs[i].err.text);
    }
    sqm_model_free(model);
    return jobs[0].err.code != SQM_OK || jobs[1].err.code != SQM_OK || !started[0] || !started[1];
}
