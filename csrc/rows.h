/* Sums of rows: combine, its gradient in the weight, and the sum of each segment. */

/* out = (fresh ? 0 : out) + Σ_{j<m} w[j] row[j], ascending j; m is a constant of at most 4. */
INLINE void NAME(add_rows)(T *out, const int fresh, const int m, const T *const *row, const T *w, ptrdiff_t d) {
    const T *r0 = row[0], *r1 = row[m > 1], *r2 = row[m > 2 ? 2 : 0], *r3 = row[m > 3 ? 3 : 0];
    const int weighted = w != NULL;
    T w0 = weighted ? w[0] : 1, w1 = weighted && m > 1 ? w[1] : 1;
    T w2 = weighted && m > 2 ? w[2] : 1, w3 = weighted && m > 3 ? w[3] : 1;
    INDEPENDENT
    for (ptrdiff_t i = 0; i < d; i++) {
        T sum = fresh ? 0 : out[i];
        sum += weighted ? w0 * r0[i] : r0[i];
        if (m > 1)
            sum += weighted ? w1 * r1[i] : r1[i];
        if (m > 2)
            sum += weighted ? w2 * r2[i] : r2[i];
        if (m > 3)
            sum += weighted ? w3 * r3[i] : r3[i];
        out[i] = sum;
    }
}

INLINE void NAME(add_up_to_4)(T *out, int fresh, int m, const T *const *row, const T *w, ptrdiff_t d) {
    switch (m + (fresh ? 4 : 0)) {
    case 1: NAME(add_rows)(out, 0, 1, row, w, d); break;
    case 2: NAME(add_rows)(out, 0, 2, row, w, d); break;
    case 3: NAME(add_rows)(out, 0, 3, row, w, d); break;
    case 4: NAME(add_rows)(out, 0, 4, row, w, d); break; /* fresh and m = 0 cannot be: callers keep m >= 1 */
    case 5: NAME(add_rows)(out, 1, 1, row, w, d); break;
    case 6: NAME(add_rows)(out, 1, 2, row, w, d); break;
    case 7: NAME(add_rows)(out, 1, 3, row, w, d); break;
    case 8: NAME(add_rows)(out, 1, 4, row, w, d); break;
    }
}

/* out[t] = Σ_j weight[t, j] ys[slot[t, j]] over the kept slots (>= 0): ys (n, d), weight (·, k) or NULL, slot (·, k). */
CLONES void NAME(combine_rows)(T *out, const T *ys, const T *weight, const int64_t *slot, ptrdiff_t n, ptrdiff_t k,
                               ptrdiff_t d, ptrdiff_t lo, ptrdiff_t hi) {
    for (ptrdiff_t t = lo; t < hi; t++) {
        T *o = out + t * d;
        int fresh = 1, m = 0;
        const T *row[4];
        T w[4];
        for (ptrdiff_t j = t * k; j < (t + 1) * k; j++) {
            ptrdiff_t r = slot[j];
            if (r >= 0) {
                CHECK(r < n);
                row[m] = ys + r * d;
                w[m] = weight != NULL ? weight[j] : 1;
                m++;
            }
            if (m == 4 || (m > 0 && j == (t + 1) * k - 1)) {
                if (weight != NULL)
                    NAME(add_up_to_4)(o, fresh, m, row, w, d);
                else
                    NAME(add_up_to_4)(o, fresh, m, row, NULL, d);
                fresh = 0;
                m = 0;
            }
        }
        if (fresh)
            memset(o, 0, (size_t)d * sizeof(T));
    }
    (void)n;
}

/* out[t, j] = ⟨dy[t], ys[slot[t, j]]⟩, 0 where dropped: dy (·, d), ys (n, d), slot (·, k). */
CLONES void NAME(dot_rows)(T *out, const T *dy, const T *ys, const int64_t *slot, ptrdiff_t n, ptrdiff_t k,
                           ptrdiff_t d, ptrdiff_t lo, ptrdiff_t hi) {
    for (ptrdiff_t t = lo; t < hi; t++)
        for (ptrdiff_t j = t * k; j < (t + 1) * k; j++) {
            ptrdiff_t r = slot[j];
            CHECK(r < n);
            out[j] = r >= 0 ? NAME(dot)(dy + t * d, ys + r * d, d) : 0;
        }
    (void)n;
}

/* out[e] = Σ x[r], start[e] <= r < start[e+1], ascending.  A task is one block of 512 columns of one e. */
CLONES void NAME(sum_segments)(T *out, const T *x, const int64_t *start, ptrdiff_t d, ptrdiff_t lo, ptrdiff_t hi) {
    const ptrdiff_t blocks = (d + 511) / 512;
    for (ptrdiff_t task = lo; task < hi; task++) {
        ptrdiff_t e = task / blocks, column = task % blocks * 512;
        ptrdiff_t width = d - column < 512 ? d - column : 512;
        T *o = out + e * d + column;
        const T *p = x + column;
        if (start[e] == start[e + 1])
            memset(o, 0, (size_t)width * sizeof(T));
        for (ptrdiff_t r = start[e]; r < start[e + 1]; r += 4) {
            const T *row[4];
            int m = start[e + 1] - r < 4 ? (int)(start[e + 1] - r) : 4;
            for (int i = 0; i < m; i++)
                row[i] = p + (r + i) * d;
            NAME(add_up_to_4)(o, r == start[e], m, row, NULL, width);
        }
    }
}
