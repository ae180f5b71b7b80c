/* Shows a stream without end at constant memory: audio goes sample by sample through a bank of resonators, a
   state space whose weights are a formula; every 10 ms their energies go, as one row, through an LMUFormer (a
   Legendre memory instead of attention) that knows ten words.
   Build  cc -O2 stream.c -o stream -lm      (seqmodel.h is one directory up)
   Run    ./stream models/keywords.sqm models/words.wav
          arecord -q -f S16_LE -r 16000 -t wav | ./stream models/keywords.sqm -
   Prints each word, when it began and how much of it was heard; then memory and time. The model was trained
   on a speech synthesiser only (tools/train/README.md): it has never heard a human voice. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RATE = 16000, HOP = 160, BANDS = 24, STAGES = 3,        /* as in tools/train/train_keywords.py */
       BEFORE = 8, LEAST = 45, MOST = 105, SURE = 4,           /* frames: before a word, of it, to be sure */
       PANELS = (BANDS + 15) / 16 };

static void stop_if(int wrong, const char *what, const char *text)
{
    if (!wrong) return;
    fprintf(stderr, "stream: %s: %s\n", what, text);
    exit(1);
}

/* ---- sample by sample: x = a x + gain * sample, STAGES times in a row, for BANDS frequencies ----------- */
typedef struct ears {
    float    da[PANELS * 32], gain[BANDS], energy[BANDS];      /* a - 1 in panels: 16 real, 16 imaginary */
    double   bound[16], state[STAGES][PANELS * 16];            /* of the mixer: its parameters and states */
    sqm_exec exec;
} ears;

static void ears_open(ears *e)
{
    const double low = 21.4 * log10(1 + 0.00437 * 100), high = 21.4 * log10(1 + 0.00437 * 7000);
    const double turn = 6.283185307179586 / RATE;
    const sqm_mixer *lti = sqm_mixer_lti();
    const sqm_tensor da = sqm_tensor_2d(e->da, SQM_F32, SQM_PANELS, BANDS, 2), *list = &da;
    sqm_param p;
    sqm_error err;
    int32_t width;
    memset(e, 0, sizeof *e);
    for (int b = 0; b < BANDS; b++) {                          /* even on the ERB scale, as wide as an ERB */
        const double f = (pow(10, (low + (high - low) * b / (BANDS - 1)) / 21.4) - 1) / 0.00437;
        const double radius = exp(-turn * 24.7 * (0.00437 * f + 1)), angle = turn * f;
        e->da[b / 16 * 32 + b % 16] = (float)(radius * cos(angle) - 1);
        e->da[b / 16 * 32 + 16 + b % 16] = (float)(radius * sin(angle));
        e->gain[b] = (float)pow(1 - radius, STAGES);
    }
    memset(&p, 0, sizeof p);
    p.key = "da";
    p.tensors = &list;
    p.n_tensors = 1;
    stop_if(lti->bound_bytes > sizeof e->bound, "resonators", "no room for the mixer");
    stop_if(lti->bind(e->bound, &p, 1, 2 * BANDS, &width, &err) != SQM_OK, "resonators", err.text);
    for (int s = 0; s < STAGES; s++) lti->reset(e->bound, e->state[s], sizeof e->state[s], 0, 0, SQM_F32);
    sqm_exec_init(&e->exec, SQM_ISA_AUTO, 1, NULL, 0);
}
static void ears_hear(ears *e, float sample)
{
    float row[2][2 * BANDS];                                   /* real parts, then imaginary parts */
    for (int b = 0; b < 2 * BANDS; b++) row[0][b] = b < BANDS ? e->gain[b] * sample : 0.0f;
    for (int s = 0; s < STAGES; s++) {
        const sqm_span span = { e->state[s], 0, 1, 0, 1 };
        sqm_mixer_lti()->forward(e->bound, &e->exec, row[(s + 1) % 2], row[s % 2], &span, 1);
    }
    for (int b = 0; b < 2 * BANDS; b++) e->energy[b % BANDS] += row[STAGES % 2][b] * row[STAGES % 2][b];
}
/* The frame that ends here; its mean. The last column says that this is signal. */
static float ears_frame(ears *e, float *frame)
{
    float mean = 0.0f;
    for (int b = 0; b < BANDS; b++) {
        frame[b] = (logf(e->energy[b] / HOP + 1e-7f) + 12) / 3;
        mean += frame[b] / BANDS;
        e->energy[b] = 0.0f;
    }
    frame[BANDS] = 1.0f;
    return mean;
}

/* ---- frame by frame ------------------------------------------------------------------------------------ */
static int best_of(const float *logits, int n, float *probability)
{
    float sum = 0.0f;
    int best = 0;
    for (int i = 1; i < n; i++) if (logits[i] > logits[best]) best = i;
    for (int i = 0; i < n; i++) sum += expf(logits[i] - logits[best]);
    *probability = 1.0f / sum;
    return best;
}
static void print_word(const char *labels, int k, double start, double heard, float probability)
{
    for (; k > 0 && *labels; labels++) k -= *labels == '\n';
    printf("%7.2f s  %-8.*s  sure %3.0f %%  after %.2f s\n", start, (int)strcspn(labels, "\n"), labels,
           (double)probability * 100, heard);
    fflush(stdout);
}

/* Opens a canonical WAV file; returns the bytes of a sample. */
static int open_wav(const char *path, FILE **f)
{
    unsigned char h[44];
    *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    stop_if(!*f || fread(h, 1, 44, *f) != 44 || memcmp(h, "RIFF", 4) || memcmp(h + 36, "data", 4), path,
            "no WAV file");
    stop_if(h[22] != 1 || h[24] + 256 * h[25] != RATE || (h[34] != 8 && h[34] != 16), path,
            "must be mono, 16 kHz, 8 or 16 bits");
    return h[34] / 8;
}

int main(int argc, char **argv)
{
    static ears e;
    static float frames[BEFORE][BANDS + 1];                    /* a ring */
    float floor_level = 0.0f, probability;
    int heard = 0, quiet = 0, sure = 0, said = 0, last = -1;   /* heard: frames of this word; 0: none yet */
    long n = 0;
    unsigned char raw[2];
    sqm_error err;
    FILE *wav;
    stop_if(argc != 3, "usage", "stream KEYWORDS.sqm FILE.wav|-");
    sqm_model *model = sqm_load_file(argv[1], NULL, &err);
    sqm_session *session = model ? sqm_session_create(model, NULL, &err) : NULL;
    stop_if(!session, argv[1], err.text);
    const char *labels = sqm_model_meta(model, "labels");
    sqm_model_info info;
    sqm_model_get_info(model, &info);
    stop_if(!labels || info.input_width != BANDS + 1 || info.vocab_size < 3, argv[1], "no keyword model");
    const int bytes = open_wav(argv[2], &wav), words = info.vocab_size - 2;    /* then: unknown, silence */
    const clock_t begin = clock();
    for (ears_open(&e); fread(raw, 1, (size_t)bytes, wav) == (size_t)bytes;) {
        const int value = bytes == 1 ? (raw[0] - 128) * 256 : (int16_t)(raw[0] | raw[1] << 8);
        ears_hear(&e, (float)value / 32768);
        if (++n % HOP) continue;
        float *frame = frames[n / HOP % BEFORE];
        const float level = ears_frame(&e, frame);
        if (n / HOP <= BEFORE) { floor_level = level; continue; }
        if (!heard) {
            if (level < floor_level + 0.3f) { floor_level += 0.05f * (level - floor_level); continue; }
            sqm_reset(session, 0);                             /* a word begins */
            for (heard = BEFORE - 1; heard > 0; heard--)
                sqm_feed_rows(session, 0, frames[(n / HOP - heard) % BEFORE], 1);
            heard = BEFORE - 1;
            said = quiet = sure = 0;
        }
        stop_if(sqm_feed_rows(session, 0, frame, 1) != SQM_OK, argv[1], sqm_session_error(session)->text);
        const int best = best_of(sqm_logits(session, 0), info.vocab_size, &probability);
        sure = best == last && probability > 0.9f ? sure + 1 : 0;
        last = best;
        quiet = level < floor_level + 0.2f ? quiet + 1 : 0;
        heard++;
        if (!said && ((sure >= SURE && heard >= LEAST) || heard == MOST)) {
            const double seconds = (double)HOP / RATE, start = (double)(n / HOP - heard) * seconds;
            if (best < words) print_word(labels, best, start, heard * seconds, probability);
            said = 1;
        }
        if ((said && quiet > 10) || heard > 2 * MOST) heard = 0;
    }
    printf("%.1f s of audio in %.2f s; memory, however long it lasts: %lu + %lu bytes\n", (double)n / RATE,
           (double)(clock() - begin) / CLOCKS_PER_SEC, (unsigned long)sizeof e,
           (unsigned long)sqm_session_size(model, NULL, NULL));
    sqm_session_free(session);
    sqm_model_free(model);
    return 0;
}
