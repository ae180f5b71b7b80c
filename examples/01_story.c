/* Shows the whole way from a weight file to text in one small program.
   Build  cc -O2 01_story.c -o story -lm        (seqmodel.h is one directory up; -fopenmp: all processors)
   Run    ./story MODEL.sqm ["Once upon a time"]
   Prints the beginning and the model's continuation as it comes. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <stdio.h>

static int show(void *user, const char *text, int32_t bytes)
{
    fwrite(text, 1, (size_t)bytes, (FILE *)user);
    return fflush((FILE *)user);                       /* not 0 (nobody reads any more) stops the story */
}

int main(int argc, char **argv)
{
    const char *prompt = argc > 2 ? argv[2] : "Once upon a time";
    sqm_error err = {SQM_OK, 0, 0, ""};
    sqm_model *model = sqm_load_file(argc > 1 ? argv[1] : "model.sqm", NULL, &err);
    sqm_session *session = model ? sqm_session_create(model, NULL, &err) : NULL;
    if (session) {
        fputs(prompt, stdout);
        if (sqm_generate(session, 0, prompt, NULL, show, stdout, NULL) < 0) err = *sqm_session_error(session);
        putchar('\n');
    }
    if (err.code != SQM_OK) fprintf(stderr, "story: %s\n", err.text);
    sqm_session_free(session);
    sqm_model_free(model);
    return err.code != SQM_OK;
}
