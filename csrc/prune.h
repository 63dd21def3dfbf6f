/* mask = 0 for the n of the `size` entries of w with the smallest magnitude, ties by the lowest place first, given that
 * edge_of[0] is the n-th smallest.  The magnitude of NaN is -1, below every number; complex: that of the real part. */
INLINE R NAME(magnitude)(T w) {
    const R x = REAL(w);
    return x != x ? -1 : x < 0 ? -x : x;
}

CLONES void NAME(prune_all)(const T *w, const T *edge_of, uint8_t *mask, ptrdiff_t n, ptrdiff_t size) {
    const R edge = REAL(edge_of[0]);
    for (ptrdiff_t i = 0; i < size; i++) {
        mask[i] = NAME(magnitude)(w[i]) >= edge;
        n -= !mask[i];
    }
    for (ptrdiff_t i = 0; n > 0; i++) { /* n of the equal ones are left to prune */
        CHECK(i < size);
        const int equal = NAME(magnitude)(w[i]) == edge;
        mask[i] = mask[i] & !equal;
        n -= equal;
    }
}
