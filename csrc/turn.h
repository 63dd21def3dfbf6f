/* Small transposes in 16-byte vectors H of HL numbers, which every SIMD level has, and what is built of them. */

#if HL == 4
#if defined(__clang__) || __GNUC__ >= 12
#define PICK(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define PICK(a, b, i, j, k, l) __builtin_shuffle(a, b, (int32_t __attribute__((vector_size(16)))){i, j, k, l})
#endif
#elif HL == 2
#if defined(__clang__) || __GNUC__ >= 12
#define PICK(a, b, i, j) __builtin_shufflevector(a, b, i, j)
#else
#define PICK(a, b, i, j) __builtin_shuffle(a, b, (int64_t __attribute__((vector_size(16)))){i, j})
#endif
#endif

INLINE void NAME(store)(T *p, V v) { memcpy(p, &v, sizeof v); }

INLINE H NAME(load_h)(const T *p) {
    H v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void NAME(store_h)(T *p, H v) { memcpy(p, &v, sizeof v); }

/* r[i][j] becomes r[j][i], i, j < HL */
INLINE void NAME(turn)(H r[HL]) {
#if HL == 4
    const H a = PICK(r[0], r[1], 0, 4, 1, 5), b = PICK(r[0], r[1], 2, 6, 3, 7);
    const H c = PICK(r[2], r[3], 0, 4, 1, 5), d = PICK(r[2], r[3], 2, 6, 3, 7);
    r[0] = PICK(a, c, 0, 1, 4, 5);
    r[1] = PICK(a, c, 2, 3, 6, 7);
    r[2] = PICK(b, d, 0, 1, 4, 5);
    r[3] = PICK(b, d, 2, 3, 6, 7);
#elif HL == 2
    const H a = PICK(r[0], r[1], 0, 2);
    r[1] = PICK(r[0], r[1], 1, 3);
    r[0] = a;
#else
    (void)r;
#endif
}

/* out[j, t] = x[t, j] for t < rows, j < columns: x (·, stride), out (·, width).  All columns of HL rows, then the next. */
INLINE void NAME(transpose)(T *out, const T *x, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t stride, ptrdiff_t width) {
    ptrdiff_t t = 0;
    for (; t + HL <= rows; t += HL) {
        ptrdiff_t j = 0;
        for (; j + HL <= columns; j += HL) {
            H r[HL];
            for (int i = 0; i < HL; i++)
                r[i] = NAME(load_h)(x + (t + i) * stride + j);
            NAME(turn)(r);
            for (int i = 0; i < HL; i++)
                NAME(store_h)(out + (j + i) * width + t, r[i]);
        }
        for (; j < columns; j++)
            for (int i = 0; i < HL; i++)
                out[j * width + t + i] = x[(t + i) * stride + j];
    }
    for (; t < rows; t++)
        for (ptrdiff_t j = 0; j < columns; j++)
            out[j * width + t] = x[t * stride + j];
}

/* packed[j, t] = x[t, j] for j < d, t < tokens; 0 for tokens <= t < width: x (·, stride).  Line by line of x. */
INLINE void NAME(pack)(T *packed, const T *x, ptrdiff_t tokens, ptrdiff_t d, ptrdiff_t stride, ptrdiff_t width) {
    for (ptrdiff_t from = 0; from < d; from += 16) {
        const ptrdiff_t to = d - from < 16 ? d : from + 16;
        NAME(transpose)(packed + from * width, x + from, tokens, to - from, stride, width);
        for (ptrdiff_t j = from; j < to; j++)
            for (ptrdiff_t t = tokens; t < width; t++)
                packed[j * width + t] = 0;
    }
}

/* x[t, j] = packed[j, t] for j < d, t < tokens: x (·, stride).  A few tokens at a time: their lines of x are often a page
 * apart and share one set of the cache, which would lose them before they are full. */
INLINE void NAME(unpack)(T *x, const T *packed, ptrdiff_t tokens, ptrdiff_t d, ptrdiff_t stride, ptrdiff_t width) {
    for (ptrdiff_t from = 0; from < d; from += 16) {
        const ptrdiff_t columns = d - from < 16 ? d - from : 16;
        for (ptrdiff_t t = 0; t < tokens; t += HL)
            NAME(transpose)(x + t * stride + from, packed + from * width + t, columns, tokens - t < HL ? tokens - t : HL, width,
                            stride);
    }
}

/* Columns lo..hi of x (n, d), packed in pieces of `width` tokens: (·, d, width). */
CLONES void NAME(pack_columns)(T *packed, const T *x, ptrdiff_t n, ptrdiff_t d, ptrdiff_t width, ptrdiff_t lo,
                               ptrdiff_t hi) {
    for (ptrdiff_t t = 0; t < n; t += width, packed += d * width)
        NAME(pack)(packed + lo * width, x + t * d + lo, n - t < width ? n - t : width, hi - lo, d, width);
}

/* The lanes l, l + HL, l + 2 HL, l + 3 HL of v added as the tree of lanes.h adds them. */
INLINE H NAME(fold)(V v) {
#if VL > 1
    H t[4];
    memcpy(t, &v, sizeof v);
    return (t[0] + t[2]) + (t[1] + t[3]);
#else
    return v;
#endif
}

/* trees[i] = the tree of s[i], for HL vectors at once */
INLINE H NAME(trees)(const V s[HL]) {
    H h[HL];
    for (int i = 0; i < HL; i++)
        h[i] = NAME(fold)(s[i]);
    NAME(turn)(h);
#if HL == 4
    return (h[0] + h[2]) + (h[1] + h[3]);
#elif HL == 2
    return h[0] + h[1];
#else
    return h[0];
#endif
}

#undef PICK
