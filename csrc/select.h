/* Decisions: the k largest of a row, and the n largest of each block of m. */

/* Is a ranked before b, if both had the same index?  NaN is below everything. */
INLINE int NAME(above)(R a, R b) { return a > b || (b != b && a == a); }

/* idx[t] = ids of the k largest of s[t], descending, ties to the lowest id, NaN last.  Returns -1 without memory.
 *
 * Each row becomes integers in the same order (NaN the lowest but one, "already chosen" the lowest) with the maximum of
 * each block of 16 beside them; a choice looks for the first block that has the maximum, then for its place in it:
 * O(E + k (E/16 + 16)) comparisons, all vectorised.  Long double has no such integer: it keeps a sorted list of k.
 */
#define CHOSEN NAME(chosen_key)
enum { NAME(is_wide) = sizeof(R) > 8 };
static const KEY CHOSEN = sizeof(KEY) == 4 ? (KEY)INT32_MIN : (KEY)INT64_MIN;

INLINE KEY NAME(key)(R x) {
    const int top = 8 * (int)sizeof(KEY) - 1;
    KEY i = 0;
    R y = x + (R)0; /* -0 becomes 0 */
    memcpy(&i, &y, sizeof i);
    i ^= (i >> top) & ~((KEY)1 << top);
    return x == x ? i : CHOSEN + 1;
}

INLINE KEY NAME(top_of_16)(const KEY *p) {
    KEY best = p[0];
    for (int l = 1; l < 16; l++)
        best = p[l] > best ? p[l] : best;
    return best;
}

INLINE ptrdiff_t NAME(first_of_16)(const KEY *p, KEY wanted) {
    KEY first = 16;
    for (int l = 0; l < 16; l++) {
        KEY here = p[l] == wanted ? (KEY)l : (KEY)16;
        first = here < first ? here : first;
    }
    return (ptrdiff_t)first;
}

INLINE void NAME(topk_of_keys)(int64_t *idx, KEY *key, KEY *top, ptrdiff_t blocks, ptrdiff_t k) {
    const ptrdiff_t supers = (blocks + 15) / 16;
    for (ptrdiff_t j = 0; j < k; j++) {
        KEY best = CHOSEN;
        for (ptrdiff_t b = 0; b < 16 * supers; b++)
            best = top[b] > best ? top[b] : best;
        ptrdiff_t b = 0, place = 16;
        for (; place == 16; b += 16)
            place = NAME(first_of_16)(top + b, best);
        b += place - 16;
        place = NAME(first_of_16)(key + 16 * b, best);
        idx[j] = 16 * b + place;
        key[16 * b + place] = CHOSEN;
        top[b] = NAME(top_of_16)(key + 16 * b);
    }
}

INLINE void NAME(topk_by_insertion)(int64_t *idx, const T *s, ptrdiff_t e, ptrdiff_t k) {
    ptrdiff_t n = 0;
    for (ptrdiff_t i = 0; i < e; i++) {
        ptrdiff_t j = n < k ? n : k;
        if (j == k && !NAME(above)(REAL(s[i]), REAL(s[idx[k - 1]])))
            continue;
        n = n < k ? n + 1 : k;
        j = n - 1;
        for (; j > 0 && NAME(above)(REAL(s[i]), REAL(s[idx[j - 1]])); j--)
            idx[j] = idx[j - 1];
        idx[j] = i;
    }
}

CLONES int NAME(topk_rows)(const T *s, int64_t *idx, ptrdiff_t e, ptrdiff_t k, ptrdiff_t lo, ptrdiff_t hi) {
    if (NAME(is_wide)) {
        for (ptrdiff_t t = lo; t < hi; t++)
            NAME(topk_by_insertion)(idx + t * k, s + t * e, e, k);
        return 0;
    }
    const ptrdiff_t blocks = (e + 15) / 16, tops = (blocks + 15) / 16 * 16;
    KEY on_stack[1024 + 64];
    KEY *key = on_stack;
    if (16 * blocks + tops > 1024 + 64) {
        key = malloc((size_t)(16 * blocks + tops) * sizeof(KEY));
        if (key == NULL)
            return -1;
    }
    KEY *top = key + 16 * blocks;
    for (ptrdiff_t t = lo; t < hi; t++) {
        const T *row = s + t * e;
        for (ptrdiff_t i = 0; i < e; i++)
            key[i] = NAME(key)(REAL(row[i]));
        for (ptrdiff_t i = e; i < 16 * blocks; i++)
            key[i] = CHOSEN;
        for (ptrdiff_t b = 0; b < blocks; b++)
            top[b] = NAME(top_of_16)(key + 16 * b);
        for (ptrdiff_t b = blocks; b < tops; b++)
            top[b] = CHOSEN;
        NAME(topk_of_keys)(idx + t * k, key, top, blocks, k);
    }
    if (key != on_stack)
        free(key);
    return 0;
}

/* mask[r, c] = is |w[r, c]| among the n largest of its block of m columns?  Ties keep the lowest column. O(R C m). */
CLONES void NAME(nm_rows)(const T *w, uint8_t *mask, ptrdiff_t n, ptrdiff_t m, ptrdiff_t lo, ptrdiff_t hi) {
    R size[64]; /* cython.py: m <= 64 */
    CHECK(m <= 64);
    for (ptrdiff_t block = lo; block < hi; block++) {
        const T *p = w + block * m;
        for (ptrdiff_t i = 0; i < m; i++)
            size[i] = ABS(p[i]);
        for (ptrdiff_t i = 0; i < m; i++) {
            ptrdiff_t rank = 0;
            for (ptrdiff_t j = 0; j < m; j++)
                rank += j < i ? !NAME(above)(size[i], size[j]) : NAME(above)(size[j], size[i]);
            mask[block * m + i] = rank < n;
        }
    }
}
#undef CHOSEN
