/* sqm-plot: speed and memory of models against the length of the context, as a picture (SVG).
   Build: cc -O2 tools/sqm-plot.c -o sqm-plot -lm */
#define SEQMODEL_IMPLEMENTATION
#include "../seqmodel.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const char help[] =
    "usage: sqm-plot OUT.svg [LABEL=]MODEL.sqm...\n"
    "\n"
    "Measures every model on one processor: tokens a second and bytes of state when 1, 3, 10, 30 ... 10,000\n"
    "tokens have been read, as far as the model was made for. Writes two panels, both axes logarithmic, in\n"
    "colours for light and dark pages, and prints the numbers. At most 8 models.\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage.\n";

enum { LENGTHS = 9, MODELS = 8, ROUNDS = 5, TIMED = 16 };
static const int32_t lengths[LENGTHS] = { 1, 3, 10, 30, 100, 300, 1000, 3000, 10000 };

typedef struct series {
    char   name[40];
    int    n;                                          /* lengths that were measured, from the first on */
    double speed[LENGTHS], state[LENGTHS];             /* tokens a second, bytes */
} series;

/* ---- measuring ----------------------------------------------------------------------------------------- */
/* Reads on until sequence seq has `length` tokens. */
static sqm_result feed_until(sqm_session *s, int32_t seq, int32_t length, int32_t n_tokens)
{
    sqm_result r = SQM_OK;
    while (r == SQM_OK && sqm_position(s, seq) < length) {
        const uint32_t at = (uint32_t)sqm_position(s, seq);
        int32_t tokens[128], n = 0;
        for (; n < 128 && (int32_t)at + n < length; n++)
            tokens[n] = (int32_t)((at + (uint32_t)n) * 7919u % (uint32_t)n_tokens);
        r = sqm_feed(s, seq, tokens, n);
    }
    return r;
}

/* Sequence 0 grows from length to length; copies of it read on for the clock. */
static sqm_result measure_session(series *out, sqm_session *s, const sqm_model_info *m)
{
    sqm_result r = SQM_OK;
    for (int i = 0; i < LENGTHS && lengths[i] + TIMED <= sqm_max_context(s) && r == SQM_OK; i++) {
        double best = 1e30;                            /* ticks, the fewest of all rounds */
        r = feed_until(s, 0, lengths[i], m->n_tokens);
        out->state[i] = (double)sqm_state_size(s, 0) - (double)sizeof(float) * m->vocab_size;
        for (int round = 0; round < ROUNDS && r == SQM_OK; round++) {
            r = sqm_fork(s, 0, 1);
            const clock_t start = clock();
            for (int32_t t = 1; t <= TIMED && r == SQM_OK; t++)
                r = feed_until(s, 1, lengths[i] + t, m->n_tokens);
            best = fmin(best, (double)(clock() - start) + 1.0);
        }
        out->speed[i] = TIMED * (double)CLOCKS_PER_SEC / best;
        out->n = i + 1;
    }
    return r;
}

/* what: "label=path" or a path, whose file name is the label then */
static int measure(series *out, const char *what)
{
    const char *const equals = strchr(what, '='), *path = equals ? equals + 1 : what;
    const char *const slash = strrchr(path, '/'), *label = equals ? what : slash ? slash + 1 : path;
    const int32_t most = lengths[LENGTHS - 1] + TIMED;
    sqm_session_config config;
    sqm_model_info info;
    sqm_error err;
    sqm_result r = SQM_OK;
    sqm_model *m = sqm_load_file(path, NULL, &err);
    sqm_session *s = NULL;
    memset(&config, 0, sizeof config);
    memset(out, 0, sizeof *out);
    snprintf(out->name, sizeof out->name, "%.*s", (int)strcspn(label, equals ? "=<&" : ".<&"), label);
    if (m) {
        sqm_model_get_info(m, &info);
        config.threads = 1;
        config.n_sequences = 2;
        config.max_context = info.max_context && info.max_context < most ? info.max_context : most;
        s = sqm_session_create(m, &config, &err);
        if (s && info.n_tokens > 0) r = measure_session(out, s, &info);
        if (s && r != SQM_OK) err = *sqm_session_error(s);
    }
    if (!s || r != SQM_OK) fprintf(stderr, "sqm-plot: %s: %s\n", path, err.text);
    else if (out->n == 0) fprintf(stderr, "sqm-plot: %s reads no tokens\n", path);
    sqm_session_free(s);
    sqm_model_free(m);
    return r == SQM_OK && out->n > 0;
}

/* ---- drawing ------------------------------------------------------------------------------------------- */
/* A panel's place in pixels and what its edges stand for                                                   */
typedef struct panel { double left, right, top, bottom, low, high; } panel;

/* The largest of ... 1, 2, 5, 10, 20, 50 ... that is at most v, or with up the smallest that is at least v */
static double step_of(double v, int up)
{
    const double decade = pow(10.0, floor(log10(v)));
    const double steps[] = { 1.0, 2.0, 5.0, 10.0 };
    int i = 0;
    while (i < 3 && steps[i + 1] * decade <= v * 1.000001) i++;
    return decade * (up && steps[i] * decade < v * 0.999999 ? steps[i + 1] : steps[i]);
}

static double at_x(const panel *p, double length)
{
    return p->left + (p->right - p->left) * log10(length) / log10((double)lengths[LENGTHS - 1]);
}
static double at_y(const panel *p, double v)
{
    return p->bottom - (p->bottom - p->top) * log10(v / p->low) / log10(p->high / p->low);
}

static void write_number(FILE *f, double x, double y, const char *anchor, double v, const char *unit)
{
    const char *const prefix = v >= 1e6 ? "M" : v >= 1e3 ? "k" : "";
    fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%g%s%s</text>\n", x, y, anchor,
            v >= 1e6 ? v * 1e-6 : v >= 1e3 ? v * 1e-3 : v, prefix, unit);
}

static void draw_axes(FILE *f, const panel *p, const char *title, const char *unit)
{
    for (double v = p->low; v <= p->high * 1.01; v = step_of(v * 1.5, 1)) {
        fprintf(f, "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>", p->left, at_y(p, v), p->right);
        write_number(f, p->left - 8, at_y(p, v) + 4, "end", v, unit);
    }
    for (int i = 0; i < LENGTHS; i += 2)
        write_number(f, at_x(p, lengths[i]), p->bottom + 20, "middle", lengths[i], "");
    fprintf(f, "<text class=\"title\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", p->left, p->top - 14, title);
    fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">tokens read</text>\n",
            (p->left + p->right) / 2, p->bottom + 40);
}

static void draw_panel(FILE *f, panel *p, const series *models, int n, int state)
{
    p->low = 1e30;
    p->high = 0.0;
    for (int m = 0; m < n; m++)
        for (int i = 0; i < models[m].n; i++) {
            const double v = state ? models[m].state[i] : models[m].speed[i];
            p->low = fmin(p->low, v);
            p->high = fmax(p->high, v);
        }
    p->low = step_of(p->low, 0);
    p->high = step_of(p->high * 1.01, 1);
    draw_axes(f, p, state ? "State of a sequence" : "Tokens a second, one processor", state ? "B" : "");
    for (int m = 0; m < n; m++) {
        fprintf(f, "<polyline class=\"line c%d\" points=\"", m);
        for (int i = 0; i < models[m].n; i++)
            fprintf(f, "%.1f,%.1f ", at_x(p, lengths[i]),
                    at_y(p, state ? models[m].state[i] : models[m].speed[i]));
        fprintf(f, "\"/>\n");
    }
}

static int write_svg(const char *path, const series *models, int n)
{
    static const char *const light[MODELS] = { "#0072b2", "#56b4e9", "#7b3fa0", "#d55e00", "#009e73",
                                               "#b8860b", "#c2478f", "#555555" };
    static const char *const dark[MODELS] = { "#4aa8e8", "#9ad4f7", "#b98be0", "#ff8a3c", "#2fd0a0",
                                              "#f0c040", "#f08cc4", "#bbbbbb" };
    panel speed = { 70, 390, 50, 300, 0, 0 }, state = { 470, 790, 50, 300, 0, 0 };
    FILE *f = fopen(path, "w");
    if (!f) return 0;
    fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1000 350\">\n<style>"
               "text{font:12px sans-serif;fill:#333}.title{font-size:14px;font-weight:bold}"
               ".back{fill:#fff}.grid{stroke:#ddd}.line{fill:none;stroke-width:2.5}\n");
    for (int m = 0; m < n; m++) fprintf(f, ".c%d{stroke:%s}", m, light[m]);
    fprintf(f, "\n@media(prefers-color-scheme:dark){text{fill:#ccc}.back{fill:#0d1117}"
               ".grid{stroke:#30363d}");
    for (int m = 0; m < n; m++) fprintf(f, ".c%d{stroke:%s}", m, dark[m]);
    fprintf(f, "}</style>\n<rect class=\"back\" width=\"1000\" height=\"350\"/>\n");
    draw_panel(f, &speed, models, n, 0);
    draw_panel(f, &state, models, n, 1);
    for (int m = 0; m < n; m++)
        fprintf(f, "<path class=\"line c%d\" d=\"M810 %dh18\"/><text x=\"834\" y=\"%d\">%s</text>\n", m,
                70 + 24 * m, 74 + 24 * m, models[m].name);
    fprintf(f, "</svg>\n");
    return fclose(f) == 0;
}

int main(int argc, char **argv)
{
    series models[MODELS];
    const int n = argc - 2;
    if (argc > 1 && strcmp(argv[1], "--help") == 0) { fputs(help, stdout); return 0; }
    if (n < 1 || n > MODELS) { fputs(help, stderr); return 2; }
    printf("%-26s %8s %12s %12s\n", "model", "tokens", "tokens/s", "state bytes");
    for (int m = 0; m < n; m++) {
        if (!measure(&models[m], argv[m + 2])) return 1;
        for (int i = 0; i < models[m].n; i++)
            printf("%-26s %8d %12.0f %12.0f\n", models[m].name, (int)lengths[i], models[m].speed[i],
                   models[m].state[i]);
    }
    if (write_svg(argv[1], models, n)) return 0;
    fprintf(stderr, "sqm-plot: cannot write %s\n", argv[1]);
    return 1;
}
