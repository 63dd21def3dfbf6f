/* Decisions: the k largest of a row, and the n largest of each block of m.  BITS is the width of R: 32, 64 or 80. */

/* Is a ranked before b, if both had the same index?  NaN is below everything. */
INLINE int NAME(above)(R a, R b) { return (a > b) | ((b != b) & (a == a)); }

/* topk_row: ids of the k largest of s[0:e], descending, ties to the lowest id, NaN last, -0 = +0.
 *
 * 32 bits: each number becomes an integer in the same order, with the complement of its id below it in one int64, so
 *     that a maximum is value and id at once.  The row is laid out in 16 columns with the maximum of each beside it;
 *     a choice takes the largest of the 16 and renews the maximum of its column: O(E + k (E/16 + 16)).
 * 64 bits: the integer and the id do not fit together; contiguous blocks of 16, and the first block that has the
 *     maximum, then the first place in it, is looked up: the same cost, more steps.
 * 80 bits: a sorted list of k, by insertion.
 */
#if BITS == 32
#define SCRATCH(e) (((e) + 15) / 16 * 16)

INLINE void NAME(topk_row)(int64_t *idx, const T *s, int64_t *key, ptrdiff_t e, ptrdiff_t k) {
    const ptrdiff_t rounds = (e + 15) / 16;
    int64_t top[16];
    for (ptrdiff_t i = 0; i < e; i++) {
        float x = s[i] + 0.0f; /* -0 becomes 0 */
        int32_t v = (int32_t)bits_f32(x);
        v ^= (v >> 31) & INT32_MAX;
        v = x == x ? v : INT32_MIN + 1;
        key[i] = (int64_t)((uint64_t)(int64_t)v << 32 | (uint32_t)~(uint32_t)i);
    }
    for (ptrdiff_t i = e; i < 16 * rounds; i++)
        key[i] = INT64_MIN;
    for (int l = 0; l < 16; l++)
        top[l] = key[l];
    for (ptrdiff_t r = 1; r < rounds; r++)
        for (int l = 0; l < 16; l++)
            top[l] = key[16 * r + l] > top[l] ? key[16 * r + l] : top[l];
    for (ptrdiff_t j = 0; j < k; j++) {
        int64_t best = top[0];
        for (int l = 1; l < 16; l++)
            best = top[l] > best ? top[l] : best;
        const ptrdiff_t i = (ptrdiff_t)(uint32_t)~(uint32_t)best, column = i % 16;
        CHECK(i < e);
        idx[j] = i;
        key[i] = INT64_MIN;
        best = INT64_MIN;
        for (ptrdiff_t r = 0; r < rounds; r++)
            best = key[16 * r + column] > best ? key[16 * r + column] : best;
        for (int l = 0; l < 16; l++) /* not top[column] = best: a narrow store before a wide load stalls */
            top[l] = l == column ? best : top[l];
    }
}

#elif BITS == 64
#define SCRATCH(e) (((e) + 15) / 16 * 16 + ((e) + 255) / 256 * 16)

INLINE int64_t NAME(top_of_16)(const int64_t *p) {
    int64_t best = p[0];
    for (int l = 1; l < 16; l++)
        best = p[l] > best ? p[l] : best;
    return best;
}

INLINE ptrdiff_t NAME(first_of_16)(const int64_t *p, int64_t wanted) {
    int64_t first = 16;
    for (int l = 0; l < 16; l++) {
        int64_t here = p[l] == wanted ? l : 16;
        first = here < first ? here : first;
    }
    return (ptrdiff_t)first;
}

INLINE void NAME(topk_row)(int64_t *idx, const T *s, int64_t *key, ptrdiff_t e, ptrdiff_t k) {
    const ptrdiff_t blocks = (e + 15) / 16, tops = (blocks + 15) / 16 * 16;
    int64_t *top = key + 16 * blocks;
    for (ptrdiff_t i = 0; i < e; i++) {
        double x = REAL(s[i]) + 0.0;
        int64_t v = (int64_t)bits_f64(x);
        v ^= v < 0 ? INT64_MAX : 0;
        key[i] = x == x ? v : INT64_MIN + 1;
    }
    for (ptrdiff_t i = e; i < 16 * blocks; i++)
        key[i] = INT64_MIN;
    for (ptrdiff_t b = 0; b < blocks; b++)
        top[b] = NAME(top_of_16)(key + 16 * b);
    for (ptrdiff_t b = blocks; b < tops; b++)
        top[b] = INT64_MIN;
    for (ptrdiff_t j = 0; j < k; j++) {
        int64_t best = top[0];
        for (ptrdiff_t b = 1; b < tops; b++)
            best = top[b] > best ? top[b] : best;
        ptrdiff_t b = 0, place = NAME(first_of_16)(top, best);
        while (place == 16) {
            b += 16;
            place = NAME(first_of_16)(top + b, best);
        }
        b += place;
        const ptrdiff_t i = 16 * b + NAME(first_of_16)(key + 16 * b, best);
        CHECK(i < e);
        idx[j] = i;
        key[i] = INT64_MIN;
        top[b] = NAME(top_of_16)(key + 16 * b);
    }
}

#else
#define SCRATCH(e) 0

INLINE void NAME(topk_row)(int64_t *idx, const T *s, int64_t *key, ptrdiff_t e, ptrdiff_t k) {
    (void)key;
    for (ptrdiff_t i = 0; i < e; i++) {
        if (i >= k && !NAME(above)(s[i], s[idx[k - 1]]))
            continue;
        ptrdiff_t j = i < k ? i : k - 1;
        for (; j > 0 && NAME(above)(s[i], s[idx[j - 1]]); j--)
            idx[j] = idx[j - 1];
        idx[j] = i;
    }
}
#endif

/* Rows lo..hi of idx (·, k) from s (·, e).  Returns -1 without memory. */
CLONES int NAME(topk_rows)(const T *s, int64_t *idx, ptrdiff_t e, ptrdiff_t k, ptrdiff_t lo, ptrdiff_t hi) {
    int64_t on_stack[1024 + 64];
    int64_t *key = on_stack;
    if (SCRATCH(e) > 1024 + 64) {
        key = malloc((size_t)SCRATCH(e) * sizeof(int64_t));
        if (key == NULL)
            return -1;
    }
    for (ptrdiff_t t = lo; t < hi; t++)
        NAME(topk_row)(idx + t * k, s + t * e, key, e, k);
    if (key != on_stack)
        free(key);
    return 0;
}
#undef SCRATCH

/* mask[r, c] = is |w[r, c]| among the n largest of its block of m columns?  Ties keep the lowest column.  O(R C m). */
INLINE void NAME(nm_blocks)(const T *w, uint8_t *mask, ptrdiff_t n, const ptrdiff_t m, ptrdiff_t lo, ptrdiff_t hi) {
    R size[64];
    for (ptrdiff_t block = lo; block < hi; block++) {
        for (ptrdiff_t i = 0; i < m; i++)
            size[i] = ABS(w[block * m + i]);
        for (ptrdiff_t i = 0; i < m; i++) {
            int rank = 0;
            for (ptrdiff_t j = 0; j < m; j++)
                rank += j < i ? !NAME(above)(size[i], size[j]) : NAME(above)(size[j], size[i]);
            mask[block * m + i] = rank < n;
        }
    }
}

CLONES void NAME(nm_rows)(const T *w, uint8_t *mask, ptrdiff_t n, ptrdiff_t m, ptrdiff_t lo, ptrdiff_t hi) {
    CHECK(m <= 64); /* cython.py sends wider blocks to the definition */
    if (m == 4)
        NAME(nm_blocks)(w, mask, n, 4, lo, hi);
    else if (m == 8)
        NAME(nm_blocks)(w, mask, n, 8, lo, hi);
    else
        NAME(nm_blocks)(w, mask, n, m, lo, hi);
}
