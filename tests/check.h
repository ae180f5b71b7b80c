/* The test harness. A test is a program: it includes this once, calls CHECK*, and its main ends with
       return check_report("test_gen");
   A failed check prints file:line and the test goes on; after 20 they are only counted. */
#ifndef SQM_TESTS_CHECK_H
#define SQM_TESTS_CHECK_H
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static long check_count, check_failed;

static inline int check_note(int ok, const char *file, int line)
{
    check_count++;
    if (ok || ++check_failed > 20) return 0;
    printf("%s:%d: ", file, line);
    return 1;
}

static inline uint32_t check_bits(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }

/* How far a is from b, as CHECK_CLOSE counts it. NaN, inf by bits: tests also run under -ffast-math. */
static inline double check_gap(float a, float b)
{
    const uint32_t ua = check_bits(a), ub = check_bits(b), inf = 0x7f800000u;
    const int a_nan = (ua & ~(1u << 31)) > inf, b_nan = (ub & ~(1u << 31)) > inf;
    if (ua == ub || (a_nan && b_nan)) return 0;
    if ((ua & inf) == inf || (ub & inf) == inf) return 1e300;
    const double gap = a < b ? (double)b - (double)a : (double)a - (double)b;
    const double size = b < 0 ? -(double)b : (double)b;
    return gap / (size > 1 ? size : 1);
}

/* |a[i] - b[i]| <= tol * max(1, |b[i]|) for all i: absolute for small values, relative for large ones; b is
   the reference. NaN equals only NaN. tol 0: equal values (-0 == 0). Prints the worst index. */
static inline void check_close(const float *a, const float *b, size_t n, double tol, const char *what,
                               const char *file, int line)
{
    size_t worst = 0, bad = 0;
    for (size_t i = 0; i < n; i++) {
        if (check_gap(a[i], b[i]) > tol) bad++;
        if (check_gap(a[i], b[i]) > check_gap(a[worst], b[worst])) worst = i;
    }
    if (check_note(bad == 0, file, line))
        printf("%s: %lu of %lu differ, worst [%lu]: %.9g, expected %.9g (error %.3g > %.3g)\n", what,
               (unsigned long)bad, (unsigned long)n, (unsigned long)worst, (double)a[worst], (double)b[worst],
               check_gap(a[worst], b[worst]), tol);
}

static inline void check_text(const char *a, const char *b, const char *file, int line)
{
    if (check_note(a && b ? strcmp(a, b) == 0 : a == b, file, line))
        printf("text \"%s\", expected \"%s\"\n", a ? a : "(null)", b ? b : "(null)");
}

#define CHECK(cond) \
    do { if (check_note((cond) ? 1 : 0, __FILE__, __LINE__)) printf("%s\n", #cond); } while (0)
#define CHECK_CLOSE(a, b, n, tol, what) \
    check_close((a), (b), (size_t)(n), (double)(tol), (what), __FILE__, __LINE__)
#define CHECK_TEXT(a, b) check_text((a), (b), __FILE__, __LINE__)

static inline int check_report(const char *name)
{
    printf("%s: %ld checks, %ld failed\n", name, check_count, check_failed);
    return check_failed != 0;
}
#endif
