/* Shows a stream without end at constant memory: audio goes sample by sample through resonators, a state
   space whose weights are a formula; every 10 ms their energies go, as one row, through an LMUFormer (a
   Legendre memory instead of attention) that knows ten words of a synthesiser's (tools/train/README.md).
   Build  cc -O2 09_stream.c -o stream -lm   (seqmodel.h is one directory up)
   Run    ./stream models/keywords.sqm models/words.wav          or, from a microphone:
          arecord -q -f S16_LE -r 16000 -t wav | ./stream models/keywords.sqm -
   Prints each word, when it began and how much of it was heard; then the memory that it took. */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
enum { RATE = 16000, HOP = 160, BANDS = 24, STAGES = 3,        /* as in tools/train/train_keywords.py */
       BEFORE = 8, LEAST = 45, MOST = 105, SURE = 4 };         /* frames: before a word, of it, to be sure */
typedef struct stream {
    float        da[2 * 32], gain[BANDS], energy[BANDS];  /* a - 1 in panels: 16 real, 16 imaginary */
    double       bound[16], state[STAGES][2 * 16];        /* of the mixer: its parameters and states */
    sqm_exec     exec;
    sqm_session *session;
    sqm_model_info info;
    const char  *labels;                                       /* a line for each word */
    float        frames[BEFORE][BANDS + 1], room;              /* the latest, a ring; level without words */
    int          heard, quiet, sure, said, last;      /* heard: frames of this word; 0: none yet */
} stream;

static void stop_if(int wrong, const char *what, const char *text)
{
    if (wrong) { fprintf(stderr, "stream: %s: %s\n", what, text); exit(1); }
}

/* Sample by sample: x = a x + gain * sample, STAGES times in a row, for BANDS frequencies. */
static void make_bank(stream *s)
{
    const double low = 21.4 * log10(1 + 0.00437 * 100), high = 21.4 * log10(1 + 0.00437 * 7000);
    const sqm_mixer *lti = sqm_mixer_lti();
    const sqm_tensor da = sqm_tensor_2d(s->da, SQM_F32, SQM_PANELS, BANDS, 2), *list = &da;
    const sqm_param p = { "da", 0, NULL, &list, 1 };
    int32_t width;
    for (int b = 0; b < BANDS; b++) {                          /* even on the ERB scale, as wide as an ERB */
        const double f = (pow(10, (low + (high - low) * b / (BANDS - 1)) / 21.4) - 1) / 0.00437;
        const double turn = 6.283185307179586 / (double)RATE, radius = exp(-turn * 24.7 * (0.00437 * f + 1));
        s->da[b / 16 * 32 + b % 16] = (float)(radius * cos(turn * f) - 1);
        s->da[b / 16 * 32 + 16 + b % 16] = (float)(radius * sin(turn * f));
        s->gain[b] = (float)pow(1 - radius, STAGES);
    }
    stop_if(lti->bound_bytes > sizeof s->bound || lti->bind(s->bound, &p, 1, 2 * BANDS, &width, NULL) < 0,
            "resonators", "the mixer does not take them");
    for (int i = 0; i < STAGES; i++) lti->reset(s->bound, s->state[i], sizeof s->state[i], 0, 0, SQM_F32);
    sqm_exec_init(&s->exec, SQM_ISA_AUTO, 1, NULL, 0);
}
static void hear(stream *s, float sample)
{
    float row[2][2 * BANDS];                                   /* real parts, then imaginary parts */
    for (int b = 0; b < 2 * BANDS; b++) row[0][b] = b < BANDS ? s->gain[b] * sample : 0.0f;
    for (int i = 0; i < STAGES; i++) {
        const sqm_span span = { s->state[i], 0, 1, 0, 1 };
        sqm_mixer_lti()->forward(s->bound, &s->exec, row[(i + 1) % 2], row[i % 2], &span, 1);
    }
    for (int b = 0; b < 2 * BANDS; b++) s->energy[b % BANDS] += row[STAGES % 2][b] * row[STAGES % 2][b];
}
/* Frame by frame: number n ends here. A word begins where the level rises above that of the room. */
static void listen(stream *s, long n)
{
    float *frame = s->frames[n % BEFORE], level = 0.0f, sum = 0.0f;
    int best = 0;
    for (int b = 0; b < BANDS; s->energy[b++] = 0.0f)
        level += frame[b] = (logf(s->energy[b] / (float)HOP + 1e-7f) + 12) / 3;
    level /= (float)BANDS;
    frame[BANDS] = 1.0f;                                       /* says that this is signal */
    if (n <= BEFORE) { s->room = level; return; }
    if (!s->heard && level < s->room + 0.3f) { s->room += 0.05f * (level - s->room); return; }
    if (!s->heard) { sqm_reset(s->session, 0); s->said = s->quiet = s->sure = 0; }
    for (long i = s->heard ? n : n - BEFORE + 1; i <= n; i++, s->heard++)
        stop_if(sqm_feed_rows(s->session, 0, s->frames[i % BEFORE], 1) < 0, "model", "it reads no rows");
    const float *logits = sqm_logits(s->session, 0);
    for (int i = 1; i < s->info.vocab_size; i++) if (logits[i] > logits[best]) best = i;
    for (int i = 0; i < s->info.vocab_size; i++) sum += expf(logits[i] - logits[best]);
    s->sure = best == s->last && sum < 1 / 0.9f ? s->sure + 1 : 0;
    s->last = best;
    s->quiet = level < s->room + 0.2f ? s->quiet + 1 : 0;
    if (!s->said && ((s->sure >= SURE && s->heard >= LEAST) || s->heard == MOST)) {
        const char *label = s->labels;
        for (int k = best; k > 0 && *label; label++) k -= *label == '\n';
        if (best < s->info.vocab_size - 2)                             /* the last two: unknown, silence */
            printf("%7.2f s  %-8.*s  sure %3.0f %%  after %.2f s\n", (double)(n - s->heard) * HOP / RATE,
                   (int)strcspn(label, "\n"), label, 100 / (double)sum, (double)s->heard * HOP / RATE);
        s->said = fflush(stdout) == 0;
    }
    if ((s->said && s->quiet > 10) || s->heard > 2 * MOST) s->heard = 0;
}

int main(int argc, char **argv)
{
    static stream s;                                           /* all zero */
    unsigned char h[44];                                       /* of a canonical WAV file, then samples */
    long n = 0;
    sqm_error err;
    stop_if(argc != 3, "usage", "stream KEYWORDS.sqm FILE.wav|-");
    sqm_model *model = sqm_load_file(argv[1], NULL, &err);
    s.session = model ? sqm_session_create(model, NULL, &err) : NULL;
    stop_if(!s.session, argv[1], err.text);
    sqm_model_get_info(model, &s.info);
    s.labels = sqm_model_meta(model, "labels");
    stop_if(!s.labels || s.info.input_width != BANDS + 1, argv[1], "no keyword model");
    FILE *wav = strcmp(argv[2], "-") == 0 ? stdin : fopen(argv[2], "rb");
    stop_if(!wav || fread(h, 1, 44, wav) != 44 || memcmp(h + 36, "data", 4) || h[22] != 1 || (h[34] != 8 &&
            h[34] != 16) || h[24] + 256 * h[25] != RATE, argv[2], "no WAV file, mono, 16 kHz, 8 or 16 bits");
    const size_t bytes = h[34] / 8u;
    for (make_bank(&s); fread(h, 1, bytes, wav) == bytes;) {
        hear(&s, (float)(bytes == 1 ? (h[0] - 128) * 256 : (int16_t)(h[0] | h[1] << 8)) / 32768);
        if (++n % HOP == 0) listen(&s, n / HOP);
    }
    printf("%.1f s of audio; memory, however long it lasts: %lu + %lu bytes\n", (double)n / RATE,
           (unsigned long)sizeof s, (unsigned long)sqm_session_size(model, NULL, NULL));
    sqm_session_free(s.session);
    sqm_model_free(model);
    return 0;
}
