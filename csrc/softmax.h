/* Softmax of rows and its backward.  Several short rows share one pass of exp, so that it runs on full vectors. */

INLINE R NAME(maximum)(const T *x, ptrdiff_t n) {
    R lane[16];
    for (int l = 0; l < 16; l++)
        lane[l] = -(R)INFINITY;
    ptrdiff_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++)
            lane[l] = REAL(x[i + l]) > lane[l] ? REAL(x[i + l]) : lane[l]; /* NaN is passed over; exp keeps it */
    for (; i < n; i++)
        lane[0] = REAL(x[i]) > lane[0] ? REAL(x[i]) : lane[0];
    for (int width = 8; width > 0; width /= 2)
        for (int l = 0; l < width; l++)
            lane[l] = lane[l + width] > lane[l] ? lane[l + width] : lane[l];
    return lane[0];
}

/* limit: how many leading columns of each row take part; NULL: all */
CLONES void NAME(softmax_rows)(T *out, const T *x, const int64_t *limit, ptrdiff_t c, ptrdiff_t lo, ptrdiff_t hi) {
    const ptrdiff_t rows = c < 2048 ? 2048 / c : 1;
    for (ptrdiff_t from = lo; from < hi; from += rows) {
        const ptrdiff_t to = hi - from < rows ? hi : from + rows;
        for (ptrdiff_t r = from; r < to; r++) {
            const T *p = x + r * c;
            T *o = out + r * c;
            const ptrdiff_t n = limit ? limit[r] : c;
            R m = NAME(maximum)(p, n);
            m = m == -(R)INFINITY ? 0 : m;
            INDEPENDENT for (ptrdiff_t i = 0; i < n; i++) o[i] = p[i] - m;
            for (ptrdiff_t i = n; i < c; i++) o[i] = -(R)INFINITY; /* e^-inf is exactly 0 */
        }
        T *o = out + from * c;
        INDEPENDENT for (ptrdiff_t i = 0; i < (to - from) * c; i++) o[i] = NAME(exp)(o[i]);
        for (ptrdiff_t r = from; r < to; r++) {
            T *q = out + r * c;
            T total = NAME(sum)(q, c);
            total = REAL(total) == 0 ? 1 : total; /* every key masked: the row stays 0 */
            INDEPENDENT for (ptrdiff_t i = 0; i < c; i++) q[i] = q[i] / total;
        }
    }
}

/* dx = p (dp - ⟨p, dp⟩) */
CLONES void NAME(softmax_backward_rows)(T *dx, const T *dp, const T *p, ptrdiff_t c, ptrdiff_t lo, ptrdiff_t hi) {
    for (ptrdiff_t r = lo; r < hi; r++) {
        const T *q = p + r * c, *d = dp + r * c;
        T *o = dx + r * c;
        T mean = NAME(dot)(q, d, c);
        INDEPENDENT for (ptrdiff_t i = 0; i < c; i++) o[i] = q[i] * (d[i] - mean);
    }
}
