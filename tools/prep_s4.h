/* prep_s4.h: what linear state spaces, Legendre memories and long convolutions need before they run, all in
   double precision: HiPPO matrices, discretisation, matrix exponentials, eigenvalues, the forms of S4,
   kernels of DSS and Hyena. Functions on arrays; memory comes from a conv_env and goes with it. Mappings from
   checkpoints to recipes are in map_s4.h.

   Complex numbers are pairs { re, im }; matrices are row-major. */
#ifndef PREP_S4_H_INCLUDED
#define PREP_S4_H_INCLUDED
#include <math.h>
#include "conv_base.h"

/* ---- complex numbers ----------------------------------------------------------------------------------- */
typedef struct prep_complex { double re, im; } prep_complex;

static prep_complex prep_c(double re, double im) { prep_complex r; r.re = re; r.im = im; return r; }
static prep_complex prep_conj(prep_complex a) { return prep_c(a.re, -a.im); }
static prep_complex prep_add(prep_complex a, prep_complex b) { return prep_c(a.re + b.re, a.im + b.im); }
static prep_complex prep_sub(prep_complex a, prep_complex b) { return prep_c(a.re - b.re, a.im - b.im); }
static prep_complex prep_scale(prep_complex a, double f) { return prep_c(a.re * f, a.im * f); }
static prep_complex prep_mul(prep_complex a, prep_complex b)
{
    return prep_c(a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re);
}
static double prep_size(prep_complex a) { return hypot(a.re, a.im); }
static prep_complex prep_div(prep_complex a, prep_complex b)
{
    const double n = b.re * b.re + b.im * b.im;
    return prep_c((a.re * b.re + a.im * b.im) / n, (a.im * b.re - a.re * b.im) / n);
}
static CONV_UNUSED prep_complex prep_exp(prep_complex a)
{
    const double r = exp(a.re);
    return prep_c(r * cos(a.im), r * sin(a.im));
}
/* e^a - 1, exact for small a */
static CONV_UNUSED prep_complex prep_expm1(prep_complex a)
{
    const double half = sin(a.im / 2.0);
    return prep_c(expm1(a.re) * cos(a.im) - 2.0 * half * half, exp(a.re) * sin(a.im));
}
static prep_complex prep_sqrt(prep_complex a)
{
    const double r = prep_size(a), re = sqrt((r + fabs(a.re)) / 2.0), im = re > 0.0 ? a.im / (2.0 * re) : 0.0;
    if (a.re >= 0.0) return prep_c(re, im);
    return prep_c(fabs(im), a.im < 0.0 ? -re : re);
}

static prep_complex *prep_complexes(conv_env *env, int64_t n)
{
    return (prep_complex *)conv_alloc(env, (uint64_t)n, sizeof(prep_complex));
}
static double *prep_doubles(conv_env *env, int64_t n)
{
    return (double *)conv_alloc(env, (uint64_t)n, sizeof(double));
}

/* ---- real matrices ------------------------------------------------------------------------------------- */
static void prep_product(double *c, const double *a, const double *b, int32_t n)       /* c [n, n] = a b */
{
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < n; j++) {
            double sum = 0.0;
            for (int32_t k = 0; k < n; k++) sum += a[i * n + k] * b[k * n + j];
            c[i * n + j] = sum;
        }
}
/* b [n, columns] <- a^-1 b by elimination with row exchanges; a [n, n] is lost. 0: a is singular. */
static int prep_solve(double *a, double *b, int32_t n, int32_t columns)
{
    for (int32_t k = 0; k < n; k++) {
        int32_t pivot = k;
        for (int32_t i = k + 1; i < n; i++) if (fabs(a[i * n + k]) > fabs(a[pivot * n + k])) pivot = i;
        if (!(fabs(a[pivot * n + k]) > 0.0)) return 0;
        for (int32_t j = 0; pivot != k && j < n; j++) {
            const double t = a[k * n + j]; a[k * n + j] = a[pivot * n + j]; a[pivot * n + j] = t;
        }
        for (int32_t j = 0; pivot != k && j < columns; j++) {
            const double t = b[k * columns + j]; b[k * columns + j] = b[pivot * columns + j];
            b[pivot * columns + j] = t;
        }
        for (int32_t i = k + 1; i < n; i++) {
            const double f = a[i * n + k] / a[k * n + k];
            if (f == 0.0) continue;
            for (int32_t j = k; j < n; j++) a[i * n + j] -= f * a[k * n + j];
            for (int32_t j = 0; j < columns; j++) b[i * columns + j] -= f * b[k * columns + j];
        }
    }
    for (int32_t i = n - 1; i >= 0; i--)
        for (int32_t j = 0; j < columns; j++) {
            double sum = b[i * columns + j];
            for (int32_t k = i + 1; k < n; k++) sum -= a[i * n + k] * b[k * columns + j];
            b[i * columns + j] = sum / a[i * n + i];
        }
    return 1;
}
/* e [n, n] = exp(a): halved until its norm is at most 1/4, 16 terms of the series, squared again. */
static int prep_expm(conv_env *env, double *e, const double *a, int32_t n)
{
    const size_t size = (size_t)n * (size_t)n;
    double *x = prep_doubles(env, (int64_t)size), *term = prep_doubles(env, (int64_t)size);
    double *next = prep_doubles(env, (int64_t)size), norm = 0.0, f = 1.0;
    int halvings = 0;
    if (!x || !term || !next) return 0;
    for (int32_t j = 0; j < n; j++) {
        double sum = 0.0;
        for (int32_t i = 0; i < n; i++) sum += fabs(a[i * n + j]);
        if (sum > norm) norm = sum;
    }
    if (!(norm < 1e9)) return conv_fail(env, "the exponential of a matrix of norm %g was asked for", norm);
    while (norm * f > 0.25) { f /= 2.0; halvings++; }
    for (size_t i = 0; i < size; i++) x[i] = a[i] * f;
    for (size_t i = 0; i < size; i++) e[i] = term[i] = i % ((size_t)n + 1) == 0 ? 1.0 : 0.0;
    for (int k = 1; k <= 16; k++) {
        prep_product(next, term, x, n);
        for (size_t i = 0; i < size; i++) e[i] += term[i] = next[i] / k;
    }
    for (; halvings; halvings--) {
        prep_product(next, e, e, n);
        memcpy(e, next, size * sizeof(double));
    }
    return 1;
}

/* ---- HiPPO --------------------------------------------------------------------------------------------- */
/* a [n, n] and b [n] of x' = A x + B u. "legs", "legt", "fout" as state-spaces/s4 scales them, "lmu" without
   its 1 / theta. */
static CONV_UNUSED int prep_hippo(conv_env *env, double *a, double *b, const char *measure, int32_t n)
{
    const double pi = 3.14159265358979323846;
    const int legs = strcmp(measure, "legs") == 0, legt = strcmp(measure, "legt") == 0;
    const int lmu = strcmp(measure, "lmu") == 0, fout = strcmp(measure, "fout") == 0;
    if (!legs && !legt && !lmu && !fout) return conv_fail(env, "HiPPO measure %.40s is not known", measure);
    if (fout && n % 2) return conv_fail(env, "HiPPO-FouT of %d states: must be even", (int)n);
    for (int32_t i = 0; i < n; i++) {
        const double odd = 2.0 * i + 1.0;
        b[i] = legs ? sqrt(odd) : legt ? 0.5 * sqrt(odd) : lmu ? (i % 2 ? -odd : odd)
             : i % 2 ? 0.0 : i == 0 ? 1.0 : sqrt(2.0);
        for (int32_t k = 0; k < n; k++) {
            const double root = sqrt(odd * (2.0 * k + 1.0)), sign = (i - k) % 2 ? -1.0 : 1.0;
            a[i * n + k] = legs ? (i > k ? -root : i == k ? -(double)(i + 1) : 0.0)
                         : legt ? -0.5 * root * (i < k ? sign : 1.0)
                         : lmu ? odd * (i < k ? -1.0 : -sign) : 0.0;
        }
    }
    for (int32_t k = 1; fout && k < n / 2; k++) {       /* the pair (2k, 2k + 1) turns with pi k */
        a[2 * k * n + 2 * k + 1] = -pi * k;
        a[(2 * k + 1) * n + 2 * k] = pi * k;
    }
    for (int32_t i = 0; fout && i < n * n; i++) a[i] -= b[i / n] * b[i % n];
    return 1;
}

/* x_t = ad x_(t-1) + bd u_t from x' = a x + b u and a step dt: "zoh" (the exponential of [[a, b], [0, 0]]
   dt), or (I - i dt a)^-1 of (I + (1 - i) dt a, dt b): "bilinear" i = 1/2, "forward" and "euler" 0,
   "backward" 1. */
static CONV_UNUSED int prep_discretize(conv_env *env, double *ad, double *bd, const double *a,
                                       const double *b,
                                       int32_t n, double dt, const char *method)
{
    const double implicit = strcmp(method, "bilinear") == 0 ? 0.5
                          : strcmp(method, "backward") == 0 ? 1.0 : 0.0;
    const int32_t m = n + 1;
    double *big = prep_doubles(env, (int64_t)m * m), *e = prep_doubles(env, (int64_t)m * m);
    if (!big || !e) return 0;
    if (strcmp(method, "zoh") == 0) {
        for (int32_t r = 0; r < n; r++)
            for (int32_t k = 0; k <= n; k++) big[r * m + k] = dt * (k < n ? a[r * n + k] : b[r]);
        if (!prep_expm(env, e, big, m)) return 0;
        for (int32_t r = 0; r < n; r++) {
            for (int32_t k = 0; k < n; k++) ad[r * n + k] = e[r * m + k];
            bd[r] = e[r * m + n];
        }
        return 1;
    }
    if (implicit == 0.0 && strcmp(method, "forward") != 0 && strcmp(method, "euler") != 0)
        return conv_fail(env, "discretisation %.40s is not known", method);
    for (int32_t r = 0; r < n; r++)
        for (int32_t k = 0; k < n; k++) {
            big[r * n + k] = (r == k ? 1.0 : 0.0) - implicit * dt * a[r * n + k];
            e[r * m + k] = (r == k ? 1.0 : 0.0) + (1.0 - implicit) * dt * a[r * n + k];
        }
    for (int32_t r = 0; r < n; r++) e[r * m + n] = dt * b[r];
    if (!prep_solve(big, e, n, m)) return conv_fail(env, "discretisation %.40s: I - %g A is singular", method,
                         implicit * dt);
    for (int32_t r = 0; r < n; r++) {
        memcpy(ad + r * n, e + r * m, (size_t)n * sizeof(double));
        bd[r] = e[r * m + n];
    }
    return 1;
}

/* Legendre memory unit: a [order, order], b [order] of m_t = a m_(t-1) + b u_t, by "zoh" or "euler". */
static CONV_UNUSED int prep_lmu(conv_env *env, double *a, double *b, int32_t order, double theta,
                                const char *method)
{
    double *from = prep_doubles(env, (int64_t)order * order), *in = prep_doubles(env, order);
    if (!from || !in || !prep_hippo(env, from, in, "lmu", order)) return 0;
    if (!(theta > 0.0)) return conv_fail(env, "a Legendre memory of theta = %g steps", theta);
    for (int32_t i = 0; i < order * order; i++) from[i] /= theta;
    for (int32_t i = 0; i < order; i++) in[i] /= theta;
    return prep_discretize(env, a, b, from, in, order, 1.0, method);
}

/* ---- complex matrices ---------------------------------------------------------------------------------- */
static void prep_products(prep_complex *c, const prep_complex *a, const prep_complex *b, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        for (int32_t j = 0; j < n; j++) c[i * n + j] = prep_c(0.0, 0.0);
        for (int32_t k = 0; k < n; k++) {
            const prep_complex f = a[i * n + k];
            for (int32_t j = 0; j < n; j++) c[i * n + j] = prep_add(c[i * n + j], prep_mul(f, b[k * n + j]));
        }
    }
}
/* b [n, columns] <- a^-1 b; a is lost. 0: a is singular. */
static int prep_solves(prep_complex *a, prep_complex *b, int32_t n, int32_t columns)
{
    for (int32_t k = 0; k < n; k++) {
        int32_t pivot = k;
        for (int32_t i = k + 1; i < n; i++)
            if (prep_size(a[i * n + k]) > prep_size(a[pivot * n + k])) pivot = i;
        if (!(prep_size(a[pivot * n + k]) > 0.0)) return 0;
        for (int32_t j = 0; pivot != k && j < n; j++) {
            const prep_complex t = a[k * n + j]; a[k * n + j] = a[pivot * n + j]; a[pivot * n + j] = t;
        }
        for (int32_t j = 0; pivot != k && j < columns; j++) {
            const prep_complex t = b[k * columns + j]; b[k * columns + j] = b[pivot * columns + j];
            b[pivot * columns + j] = t;
        }
        for (int32_t i = k + 1; i < n; i++) {
            const prep_complex f = prep_div(a[i * n + k], a[k * n + k]);
            for (int32_t j = k; j < n; j++) a[i * n + j] = prep_sub(a[i * n + j], prep_mul(f, a[k * n + j]));
            for (int32_t j = 0; j < columns; j++)
                b[i * columns + j] = prep_sub(b[i * columns + j], prep_mul(f, b[k * columns + j]));
        }
    }
    for (int32_t i = n - 1; i >= 0; i--)
        for (int32_t j = 0; j < columns; j++) {
            prep_complex sum = b[i * columns + j];
            for (int32_t k = i + 1; k < n; k++)
                sum = prep_sub(sum, prep_mul(a[i * n + k], b[k * columns + j]));
            b[i * columns + j] = prep_div(sum, a[i * n + i]);
        }
    return 1;
}

/* Rotates rows (or columns, step apart) p and q: (x, y) <- (c x + s y, -conj(s) x + c y) */
static void prep_rotate(prep_complex *x, prep_complex *y, int32_t n, int32_t step, double c, prep_complex s)
{
    for (int32_t i = 0; i < n; i++, x += step, y += step) {
        const prep_complex a = *x, b = *y;
        *x = prep_add(prep_scale(a, c), prep_mul(s, b));
        *y = prep_sub(prep_scale(b, c), prep_mul(prep_conj(s), a));
    }
}
/* h = v^* a v with v unitary and h zero below its first subdiagonal, by rotations. h holds a. */
static void prep_hessenberg(prep_complex *h, prep_complex *v, int32_t n)
{
    for (int32_t i = 0; i < n * n; i++) v[i] = prep_c(i % (n + 1) == 0 ? 1.0 : 0.0, 0.0);
    for (int32_t k = 0; k < n - 2; k++)
        for (int32_t i = n - 1; i > k + 1; i--) {       /* h[i][k] <- 0 with row i - 1 */
            const prep_complex x = h[(i - 1) * n + k], y = h[i * n + k];
            const double r = hypot(prep_size(x), prep_size(y));
            double c;
            prep_complex s, phase = prep_c(1.0, 0.0);
            if (prep_size(y) == 0.0) continue;
            if (prep_size(x) > 0.0) phase = prep_scale(x, 1.0 / prep_size(x));
            c = prep_size(x) / r;
            s = prep_scale(prep_mul(phase, prep_conj(y)), 1.0 / r);
            prep_rotate(h + (i - 1) * n, h + i * n, n, 1, c, s);
            prep_rotate(h + i - 1, h + i, n, n, c, prep_conj(s));
            prep_rotate(v + i - 1, v + i, n, n, c, prep_conj(s));
            h[i * n + k] = prep_c(0.0, 0.0);
        }
}
/* The eigenvalue of the last 2 x 2 block of rows up to `last` that is nearer to its last entry */
static prep_complex prep_shift(const prep_complex *h, int32_t n, int32_t last)
{
    const prep_complex a = h[(last - 1) * n + last - 1], b = h[(last - 1) * n + last];
    const prep_complex c = h[last * n + last - 1], d = h[last * n + last];
    const prep_complex half = prep_scale(prep_sub(a, d), 0.5);
    prep_complex root = prep_sqrt(prep_add(prep_mul(half, half), prep_mul(b, c)));
    if (half.re * root.re + half.im * root.im < 0.0) root = prep_scale(root, -1.0);
    root = prep_add(half, root);
    return prep_size(root) > 0.0 ? prep_sub(d, prep_div(prep_mul(b, c), root)) : d;
}
/* One step of the QR iteration on rows first .. last */
static void prep_qr_step(prep_complex *h, prep_complex *v, int32_t n, int32_t first, int32_t last,
                         prep_complex shift)
{
    prep_complex x = prep_sub(h[first * n + first], shift), y = h[(first + 1) * n + first];
    for (int32_t k = first; k < last; k++) {
        const double size = prep_size(x), r = hypot(size, prep_size(y));
        const prep_complex phase = size > 0.0 ? prep_scale(x, 1.0 / size) : prep_c(1.0, 0.0);
        const double c = r > 0.0 ? size / r : 1.0;
        const prep_complex s = r > 0.0 ? prep_scale(prep_mul(phase, prep_conj(y)), 1.0 / r)
                             : prep_c(0.0, 0.0);
        const int32_t from = k > first ? k - 1 : first, rows = (k + 2 < last ? k + 2 : last) + 1;
        prep_rotate(h + k * n + from, h + (k + 1) * n + from, n - from, 1, c, s);
        prep_rotate(h + k, h + k + 1, rows, n, c, prep_conj(s));
        prep_rotate(v + k, v + k + 1, n, n, c, prep_conj(s));
        if (k + 1 == last) break;
        x = h[(k + 1) * n + k];
        y = h[(k + 2) * n + k];
    }
}
/* Eigenvalues [n] and, in the columns of vectors [n, n], eigenvectors of a [n, n]: Hessenberg form, QR with
   Wilkinson's shift, then back substitution in the triangle. Rows of `a` are lost. */
static int prep_eigen(conv_env *env, prep_complex *values, prep_complex *vectors, prep_complex *a, int32_t n)
{
    prep_complex *v = prep_complexes(env, (int64_t)n * n), *x = prep_complexes(env, n);
    int32_t last = n - 1;
    int tries = 0;
    if (!v || !x) return 0;
    prep_hessenberg(a, v, n);
    while (last > 0) {
        int32_t first = last;
        for (; first > 0; first--) {
            const double near_by = prep_size(a[first * n + first]) +
                                   prep_size(a[(first - 1) * n + first - 1]);
            if (prep_size(a[first * n + first - 1]) <= 2.3e-16 * near_by) break;
        }
        if (first > 0) a[first * n + first - 1] = prep_c(0.0, 0.0);
        if (first == last) { last--; tries = 0; continue; }
        if (++tries > 60)
            return conv_fail(env, "the eigenvalues of a matrix of %d rows do not settle", (int)n);
        prep_qr_step(a, v, n, first, last, tries % 12 ? prep_shift(a, n, last)
                     : prep_c(prep_size(a[last * n + last - 1]) + a[last * n + last].re, 0.0));
    }
    for (int32_t k = 0; k < n; k++) {
        values[k] = a[k * n + k];
        for (int32_t i = 0; i < n; i++) x[i] = prep_c(i == k ? 1.0 : 0.0, 0.0);
        for (int32_t i = k - 1; i >= 0; i--) {
            prep_complex sum = prep_c(0.0, 0.0), gap = prep_sub(values[k], a[i * n + i]);
            for (int32_t j = i + 1; j <= k; j++) sum = prep_add(sum, prep_mul(a[i * n + j], x[j]));
            if (prep_size(gap) < 1e-300) gap = prep_c(2.3e-16 * (prep_size(values[k]) + 1e-300), 0.0);
            x[i] = prep_div(sum, gap);
        }
        for (int32_t i = 0; i < n; i++) {
            prep_complex sum = prep_c(0.0, 0.0);
            for (int32_t j = 0; j <= k; j++) sum = prep_add(sum, prep_mul(v[i * n + j], x[j]));
            vectors[i * n + k] = sum;
        }
    }
    return 1;
}

/* ---- systems of the lti mixer -------------------------------------------------------------------------- */
/* [channels][states] each: x += da x + u (b given: b u + p Re sum conj(q) x), y = d u + Re sum conj(c) x. */
typedef struct prep_lti {
    int32_t       channels, states;
    prep_complex *da, *c, *b, *p, *q; /* c NULL: the states go out; b, p, q NULL: diagonal */
    double       *d;                  /* [channels] or NULL */
} prep_lti;

static int prep_lti_open(conv_env *env, prep_lti *l, int32_t channels, int32_t states, int rank1)
{
    const int64_t n = (int64_t)channels * states;
    memset(l, 0, sizeof *l);
    if (channels < 1 || states < 1)
        return conv_fail(env, "a state space of %d channels of %d states", (int)channels, (int)states);
    l->channels = channels;
    l->states = states;
    l->da = prep_complexes(env, n);
    l->c = prep_complexes(env, n);
    if (rank1) {
        l->b = prep_complexes(env, n);
        l->p = prep_complexes(env, n);
        l->q = prep_complexes(env, n);
    }
    return !env->failed;
}

/* a - 1 and b of one state: "zoh" a = e^(dt A), b = (a - 1) / A;  "bilinear"; times the given b */
static CONV_UNUSED void prep_diagonal(prep_complex *da, prep_complex *b, prep_complex a, double dt,
                                      int bilinear)
{
    const prep_complex step = prep_scale(a, dt);
    if (bilinear) {                                     /* (1 + s/2) / (1 - s/2) - 1 = s / (1 - s/2) */
        const prep_complex below = prep_sub(prep_c(1.0, 0.0), prep_scale(step, 0.5));
        *da = prep_div(step, below);
        *b = prep_mul(prep_div(prep_c(dt, 0.0), below), *b);
        return;
    }
    *da = prep_expm1(step);
    *b = prep_mul(prep_size(a) > 0.0 ? prep_div(*da, a) : prep_c(dt, 0.0), *b);
}

/* Does a float32 da lose what matters? Its rounding, 6e-8 |da|, acts once a step for as long as the state
   remembers: 1 / (1 - |a|) steps, at most `steps` (0: no limit). */
static int prep_lti_is_delicate(const prep_lti *l, double steps)
{
    for (int64_t i = 0; i < (int64_t)l->channels * l->states; i++) {
        const prep_complex da = l->da[i];
        const double fade = -(2.0 * da.re + da.re * da.re + da.im * da.im);          /* 1 - |a|^2 */
        double memory = fade > 0.0 ? 2.0 / fade : 1e30;
        if (steps > 0.0 && memory > steps) memory = steps;
        if (memory * prep_size(da) > 500.0) return 1;
    }
    return 0;
}

/* The first n taps of what a system does to an impulse: taps [n, channels], d included. */
static int prep_lti_taps(conv_env *env, double *taps, const prep_lti *l, int32_t n)
{
    prep_complex *x = prep_complexes(env, l->states);
    if (!x) return 0;
    for (int32_t h = 0; h < l->channels; h++) {
        const size_t at = (size_t)h * (size_t)l->states;
        memset(x, 0, (size_t)l->states * sizeof *x);
        for (int32_t t = 0; t < n; t++) {
            const double u = t == 0 ? 1.0 : 0.0;
            double along = 0.0, y = l->d ? l->d[h] * u : 0.0;
            for (int32_t i = 0; l->q && i < l->states; i++)
                along += l->q[at + (size_t)i].re * x[i].re + l->q[at + (size_t)i].im * x[i].im;
            for (int32_t i = 0; i < l->states; i++) {
                const size_t k = at + (size_t)i;
                const prep_complex in = l->b ? prep_add(prep_scale(l->b[k], u), prep_scale(l->p[k], along))
                                             : prep_c(u, 0.0);
                x[i] = prep_add(prep_add(x[i], prep_mul(l->da[k], x[i])), in);
                y += l->c[k].re * x[i].re + l->c[k].im * x[i].im;
            }
            taps[(int64_t)t * l->channels + h] = y;
        }
    }
    return 1;
}

/* ---- S4 ------------------------------------------------------------------------------------------------ */
/* One S4 kernel as its checkpoint describes it: diag(a) - p p^* for n states of conjugate pairs. */
typedef struct prep_s4 {
    int32_t       channels, states;
    prep_complex *a, *b, *p, *c;                        /* [channels][states]; c: plain or C~ */
    double       *dt;                                   /* [channels] */
    int64_t       l_kernel;                             /* > 0: c is C~ = C (I - Ab^l_kernel) */
} prep_s4;

/* Dense bilinear system of one channel on 2n states, the pairs written out: ab [2n, 2n], bb [2n]. */
static int prep_s4_dense(conv_env *env, prep_complex *ab, prep_complex *bb, prep_complex *work,
                         const prep_s4 *s, int32_t channel)
{
    const int32_t n = s->states, m = 2 * n;
    const size_t at = (size_t)channel * (size_t)n;
    const double half = s->dt[channel] / 2.0;
    prep_complex *right = work + m * m;                 /* [m, m + 1] */
    for (int32_t i = 0; i < m; i++)
        for (int32_t k = 0; k < m; k++) {
            const prep_complex a = i < n ? s->a[at + (size_t)i] : prep_conj(s->a[at + (size_t)(i - n)]);
            const prep_complex p = i < n ? s->p[at + (size_t)i] : prep_conj(s->p[at + (size_t)(i - n)]);
            const prep_complex q = k < n ? s->p[at + (size_t)k] : prep_conj(s->p[at + (size_t)(k - n)]);
            const prep_complex one = prep_c(i == k ? 1.0 : 0.0, 0.0);
            prep_complex f = prep_scale(prep_mul(p, prep_conj(q)), -half);
            if (i == k) f = prep_add(f, prep_scale(a, half));
            work[i * m + k] = prep_sub(one, f);
            right[i * (m + 1) + k] = prep_add(one, f);
        }
    for (int32_t i = 0; i < m; i++) {
        const prep_complex b = i < n ? s->b[at + (size_t)i] : prep_conj(s->b[at + (size_t)(i - n)]);
        right[i * (m + 1) + m] = prep_scale(b, 2.0 * half);
    }
    if (!prep_solves(work, right, m, m + 1))
        return conv_fail(env, "the state matrix of channel %d cannot be discretised", (int)channel);
    for (int32_t i = 0; i < m; i++) {
        memcpy(ab + i * m, right + i * (m + 1), (size_t)m * sizeof *ab);
        bb[i] = right[i * (m + 1) + m];
    }
    return 1;
}

/* c <- C of all channels: undoes C~ = C (I - Ab^l). */
static CONV_UNUSED int prep_s4_plain_c(conv_env *env, prep_s4 *s)
{
    const int32_t n = s->states, m = 2 * n;
    const int64_t size = (int64_t)m * m;
    prep_complex *ab = prep_complexes(env, size), *power = prep_complexes(env, size);
    prep_complex *c = prep_complexes(env, m);
    prep_complex *next = prep_complexes(env, size), *work = prep_complexes(env, 2 * size + m), *swap;
    if (s->l_kernel < 1) return !env->failed;
    if (!ab || !power || !c || !next || !work) return 0;
    for (int32_t h = 0; h < s->channels; h++) {
        prep_complex *ch = s->c + (size_t)h * (size_t)n;
        if (!prep_s4_dense(env, ab, c, work, s, h)) return 0;
        for (int32_t i = 0; i < m * m; i++) power[i] = prep_c(i % (m + 1) == 0 ? 1.0 : 0.0, 0.0);
        for (int64_t l = s->l_kernel; l; l /= 2) {
            if (l % 2) { prep_products(next, power, ab, m); swap = power; power = next; next = swap; }
            if (l > 1) { prep_products(next, ab, ab, m); swap = ab; ab = next; next = swap; }
        }
        for (int32_t i = 0; i < m; i++) c[i] = i < n ? ch[i] : prep_conj(ch[i - n]);
        for (int32_t i = 0; i < m; i++)                 /* (I - Ab^l)^T C = C~ */
            for (int32_t k = 0; k < m; k++)
                work[i * m + k] = prep_sub(prep_c(i == k ? 1.0 : 0.0, 0.0), power[k * m + i]);
        if (!prep_solves(work, c, m, 1))
            return conv_fail(env, "channel %d: I - A^%lld is singular", (int)h, (long long)s->l_kernel);
        memcpy(ch, c, (size_t)n * sizeof *c);
    }
    s->l_kernel = 0;
    return 1;
}

/* Diagonal plus rank one, in O(n): with D = 1 / (2/dt - A), r = 1 / (1 + 2 Re sum |P|^2 D) and
   k = 2 Re sum conj(P) D 2 B
     x = (1 + 2 A D) x + (2 D B - k r D P) u - D P (4 r / dt) 2 Re(sum conj(P) D x)
   which is the bilinear step of diag(A) - P P^* on the kept half of the pairs; y = 2 Re sum C x. */
static CONV_UNUSED int prep_s4_rank1(conv_env *env, prep_lti *l, const prep_s4 *s)
{
    if (!prep_lti_open(env, l, s->channels, s->states, 1)) return 0;
    for (int32_t h = 0; h < s->channels; h++) {
        const size_t first = (size_t)h * (size_t)s->states, end = first + (size_t)s->states;
        const double dt = s->dt[h];
        double r = 1.0, k = 0.0;
        for (size_t i = first; i < end; i++) {
            const prep_complex d = prep_div(prep_c(1.0, 0.0), prep_sub(prep_c(2.0 / dt, 0.0), s->a[i]));
            const prep_complex qd = prep_mul(prep_conj(s->p[i]), d);
            r += 2.0 * prep_mul(qd, s->p[i]).re;
            k += 4.0 * prep_mul(qd, s->b[i]).re;
        }
        r = 1.0 / r;
        for (size_t i = first; i < end; i++) {
            const prep_complex d = prep_div(prep_c(1.0, 0.0), prep_sub(prep_c(2.0 / dt, 0.0), s->a[i]));
            const prep_complex dp = prep_mul(d, s->p[i]);
            l->da[i] = prep_scale(prep_mul(s->a[i], d), 2.0);
            l->b[i] = prep_sub(prep_scale(prep_mul(d, s->b[i]), 2.0), prep_scale(dp, k * r));
            l->p[i] = prep_scale(dp, -1.0);
            l->q[i] = prep_scale(prep_conj(prep_mul(prep_conj(s->p[i]), d)), 8.0 * r / dt);
            l->c[i] = prep_scale(prep_conj(s->c[i]), 2.0);
        }
    }
    return 1;
}

/* Does float32 hold a diagonal system? Its taps after rounding against those of `exact`, and how much larger
   than its sum the terms are. */
static int prep_s4_judge(conv_env *env, int *good, const prep_lti *l, const prep_lti *exact, int32_t check)
{
    const int64_t n = (int64_t)l->channels * l->states;
    const int wide = prep_lti_is_delicate(l, 0.0);
    double *want = prep_doubles(env, (int64_t)check * l->channels);
    double *got = prep_doubles(env, (int64_t)check * l->channels);
    prep_lti rounded = *l;
    rounded.da = prep_complexes(env, n);
    rounded.c = prep_complexes(env, n);
    if (env->failed) return 0;
    for (int64_t i = 0; i < n; i++) {
        const prep_complex da = l->da[i], c = l->c[i];
        rounded.da[i] = wide ? da : prep_c((double)(float)da.re, (double)(float)da.im);
        rounded.c[i] = prep_c((double)(float)c.re, (double)(float)c.im);
    }
    if (!prep_lti_taps(env, want, exact, check) || !prep_lti_taps(env, got, &rounded, check)) return 0;
    for (int32_t h = 0; *good && h < l->channels; h++) {
        double largest = 0.0, worst = 0.0, terms = 0.0;
        for (int32_t t = 0; t < check; t++) {
            const size_t at = (size_t)t * (size_t)l->channels + (size_t)h;
            if (fabs(want[at]) > largest) largest = fabs(want[at]);
            if (!(fabs(want[at] - got[at]) <= worst)) worst = fabs(want[at] - got[at]);
        }
        for (int32_t i = 0; i < l->states; i++)
            terms += prep_size(l->c[(size_t)h * (size_t)l->states + (size_t)i]);
        *good = worst <= 2e-6 * largest && terms <= 50.0 * largest;
    }
    return 1;
}

/* The same system with a diagonal state matrix, Ab = V W V^-1, where float32 allows it: *good tells. Of the
   eigenvalues one of each pair stays. Compared with the rank-one form over `check` taps. */
static CONV_UNUSED int prep_s4_diagonal(conv_env *env, prep_lti *l, int *good, const prep_s4 *s,
                                        int32_t check)
{
    const int32_t n = s->states, m = 2 * n;
    const int64_t size = (int64_t)m * m;
    prep_complex *ab = prep_complexes(env, size), *v = prep_complexes(env, size), *w = prep_complexes(env, m);
    prep_complex *bb = prep_complexes(env, m), *work = prep_complexes(env, 2 * size + m);
    int32_t most = 1;
    prep_lti exact;
    *good = 1;
    if (env->failed || !prep_s4_rank1(env, &exact, s) || !prep_lti_open(env, l, s->channels, m, 0)) return 0;
    for (int32_t h = 0; h < s->channels; h++) {
        const prep_complex *ch = s->c + (size_t)h * (size_t)n;
        const size_t first = (size_t)h * (size_t)m;
        int32_t kept = 0;
        if (!prep_s4_dense(env, ab, bb, work, s, h) || !prep_eigen(env, w, v, ab, m)) return 0;
        memcpy(work, v, (size_t)size * sizeof *v);
        if (!prep_solves(work, bb, m, 1)) { *good = 0; return 1; }
        for (int32_t k = 0; k < m; k++) {
            const double weight = fabs(w[k].im) < 1e-9 ? 1.0 : w[k].im > 0.0 ? 2.0 : 0.0;
            prep_complex c = prep_c(0.0, 0.0);
            if (weight == 0.0) continue;
            for (int32_t i = 0; i < m; i++)
                c = prep_add(c, prep_mul(i < n ? ch[i] : prep_conj(ch[i - n]), v[i * m + k]));
            l->da[first + (size_t)kept] = prep_sub(w[k], prep_c(1.0, 0.0));
            l->c[first + (size_t)kept] = prep_scale(prep_conj(prep_mul(c, bb[k])), weight);
            kept++;
        }
        if (kept > most) most = kept;
        for (; kept < m; kept++) l->da[first + (size_t)kept] = prep_c(-1.0, 0.0);
    }
    for (size_t h = 0; h < (size_t)s->channels; h++) {
        memmove(l->da + h * (size_t)most, l->da + h * (size_t)m, (size_t)most * sizeof *l->da);
        memmove(l->c + h * (size_t)most, l->c + h * (size_t)m, (size_t)most * sizeof *l->c);
    }
    l->states = most;
    return prep_s4_judge(env, good, l, &exact, check);
}

/* n / 2 eigenvalues that S4D starts from: "lin" -1/2 + i pi k, "inv", "real" -(k + 1), "legs": the normal
   part of HiPPO-LegS, A + P P^T with P_n = sqrt(n + 1/2), by decreasing imaginary part. */
static CONV_UNUSED int prep_s4d_start(conv_env *env, prep_complex *a, const char *kind, int32_t n)
{
    const double pi = 3.14159265358979323846;
    double *legs = prep_doubles(env, (int64_t)n * n), *b = prep_doubles(env, n);
    prep_complex *m = prep_complexes(env, (int64_t)n * n), *v = prep_complexes(env, (int64_t)n * n);
    prep_complex *w = prep_complexes(env, n);
    if (env->failed) return 0;
    for (int32_t k = 0; k < n / 2; k++) {
        const double x = (double)n;
        if (strcmp(kind, "lin") == 0) a[k] = prep_c(-0.5, pi * k);
        else if (strcmp(kind, "inv") == 0) a[k] = prep_c(-0.5, x / pi * (x / (2.0 * k + 1.0) - 1.0));
        else a[k] = prep_c(-(double)(k + 1), 0.0);
    }
    if (strcmp(kind, "legs") != 0) return 1;
    if (!prep_hippo(env, legs, b, "legs", n)) return 0;
    for (int32_t i = 0; i < n * n; i++)
        m[i] = prep_c(legs[i] + sqrt(((double)(i / n) + 0.5) * ((double)(i % n) + 0.5)), 0.0);
    if (!prep_eigen(env, w, v, m, n)) return 0;
    for (int32_t k = 0; k < n / 2; k++) {
        int32_t top = 0;
        for (int32_t i = 1; i < n; i++) if (w[i].im > w[top].im) top = i;
        a[k] = prep_c(-0.5, w[top].im);
        w[top].im = -1e300;
    }
    return 1;
}

/* ---- DSS ----------------------------------------------------------------------------------------------- */
typedef struct prep_dss {
    int32_t       channels, states;
    prep_complex *lambda, *w;                           /* [states], [channels][states] */
    double       *step, *turn;                          /* [channels] steps of real and imaginary part */
    double        epsilon;
    int           softmax;            /* kernel rows are normalised over `length` */
    int64_t       length;
} prep_dss;

/* What multiplies e^(step l): weight and step of state n of channel h. *late: the exponent counts from the
   end (softmax with a growing state). */
static void prep_dss_state(prep_complex *weight, prep_complex *step, int *late, const prep_dss *s, int32_t h,
                           int32_t n)
{
    const prep_complex lambda = s->lambda[n], w = s->w[(size_t)h * (size_t)s->states + (size_t)n];
    const prep_complex dl = prep_c(lambda.re * s->step[h], lambda.im * s->turn[h]);
    *step = dl;
    *late = s->softmax && lambda.re > 0.0;
    if (s->softmax) {
        const prep_complex down = *late ? prep_scale(dl, -1.0) : dl;
        const prep_complex x = prep_mul(prep_expm1(prep_scale(down, (double)s->length)), lambda);
        const prep_complex top = prep_mul(prep_expm1(down), prep_conj(x));
        *weight = prep_scale(prep_mul(w, top), 1.0 / (x.re * x.re + x.im * x.im + s->epsilon));
    } else {
        const double size = lambda.re * lambda.re + lambda.im * lambda.im;
        *weight = prep_scale(prep_mul(w, prep_mul(prep_expm1(dl), prep_conj(lambda))),
                             1.0 / (size > s->epsilon ? size : s->epsilon));
    }
}
/* taps [n, channels]; every kind */
static CONV_UNUSED void prep_dss_taps(double *taps, const prep_dss *s, int32_t n)
{
    memset(taps, 0, (size_t)n * (size_t)s->channels * sizeof *taps);
    for (int32_t h = 0; h < s->channels; h++)
        for (int32_t k = 0; k < s->states; k++) {
            prep_complex weight, step;
            int late;
            prep_dss_state(&weight, &step, &late, s, h, k);
            for (int32_t t = 0; t < n; t++) {
                const double at = late ? (double)(t - (s->length - 1)) : (double)t;
                taps[(int64_t)t * s->channels + h] += prep_mul(weight, prep_exp(prep_scale(step, at))).re;
            }
        }
}
/* The recurrence; 0 without an error text: a state grows, there is none. */
static CONV_UNUSED int prep_dss_lti(conv_env *env, prep_lti *l, const prep_dss *s)
{
    if (!prep_lti_open(env, l, s->channels, s->states, 0)) return 0;
    for (int32_t h = 0; h < s->channels; h++)
        for (int32_t k = 0; k < s->states; k++) {
            const size_t at = (size_t)h * (size_t)s->states + (size_t)k;
            prep_complex weight, step;
            int late;
            prep_dss_state(&weight, &step, &late, s, h, k);
            if (late) return 0;
            l->da[at] = prep_expm1(step);
            l->c[at] = prep_conj(weight);
        }
    return 1;
}

/* ---- Hyena --------------------------------------------------------------------------------------------- */
/* Implicit filter: layers linear maps with sin(freq *) between them on the features z, times a window. */
typedef struct prep_hyena {
    const double *z, *t, *freq, *deltas;                /* [length, features], [length], [width], [outputs] */
    const double *weight[16], *bias[16];                /* of each layer; the last one has no bias */
    int32_t       layers, features, width, outputs, normalized;
    double        shift;
} prep_hyena;

/* filter [n, outputs] */
static CONV_UNUSED int prep_hyena_filter(conv_env *env, double *filter, const prep_hyena *f, int32_t n)
{
    double *x = prep_doubles(env, f->width), *y = prep_doubles(env, f->width);
    if (!x || !y) return 0;
    for (int32_t l = 0; l < n; l++) {
        const double *in = f->z + (size_t)l * (size_t)f->features;
        double *out = filter + (size_t)l * (size_t)f->outputs, total = 0.0;
        int32_t cols = f->features;
        for (int32_t k = 0; k < f->layers; k++) {
            const int last = k == f->layers - 1;
            double *to = last ? out : k % 2 ? y : x;
            for (int32_t i = 0; i < (last ? f->outputs : f->width); i++) {
                double sum = last ? 0.0 : f->bias[k][i];
                for (int32_t j = 0; j < cols; j++)
                    sum += f->weight[k][(size_t)i * (size_t)cols + (size_t)j] * in[j];
                to[i] = last ? sum : sin(f->freq[i] * sum);
            }
            in = to;
            cols = f->width;
        }
        for (int32_t i = 0; i < f->outputs; i++) {
            out[i] *= exp(-f->t[l] * fabs(f->deltas[i])) + f->shift;
            total += fabs(out[i]);
        }
        for (int32_t i = 0; f->normalized && i < f->outputs; i++) out[i] /= total;
    }
    return 1;
}

/* ---- batch normalisation ------------------------------------------------------------------------------- */
/* x scale + shift of a trained batch norm, eps 1e-5 */
static CONV_UNUSED void prep_batch_norm(double *scale, double *shift, const double *weight,
                                        const double *bias,
                                        const double *mean, const double *variance, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        scale[i] = weight[i] / sqrt(variance[i] + 1e-5);
        shift[i] = bias[i] - mean[i] * scale[i];
    }
}

#endif /* PREP_S4_H_INCLUDED */
