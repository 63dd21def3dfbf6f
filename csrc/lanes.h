/* Sums in a fixed order that vectorises: 2 VL lanes, lane l adds the terms l, l + 2VL, l + 4VL, ..., then a fixed tree.
 * Fewer than 16 terms are added left to right.  The order depends on the number of terms and on nothing else. */

typedef struct {
    V a, b;
} NAME(lanes);

INLINE V NAME(load)(const T *p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE T NAME(tree)(const NAME(lanes) * s) {
    T t[VL];
    V v = s->a + s->b;
    memcpy(t, &v, sizeof v);
    for (int width = VL / 2; width > 0; width /= 2)
        for (int l = 0; l < width; l++)
            t[l] += t[l + width];
    return t[0];
}

/* s += x[0:n] lane by lane; a call for all but the last piece of a row must have n a multiple of 2 VL. */
INLINE void NAME(lanes_add)(NAME(lanes) * s, const T *x, ptrdiff_t n) {
    ptrdiff_t i = 0;
    V a = s->a, b = s->b;
    for (; i + 2 * VL <= n; i += 2 * VL) {
        a += NAME(load)(x + i);
        b += NAME(load)(x + i + VL);
    }
    if (i < n) {
        T rest[2 * VL] = {0};
        memcpy(rest, x + i, (size_t)(n - i) * sizeof(T));
        a += NAME(load)(rest);
        b += NAME(load)(rest + VL);
    }
    s->a = a;
    s->b = b;
}

INLINE T NAME(sum)(const T *x, ptrdiff_t n) {
    if (n < 16) {
        T total = 0;
        for (ptrdiff_t i = 0; i < n; i++)
            total += x[i];
        return total;
    }
    NAME(lanes) s = {0};
    NAME(lanes_add)(&s, x, n);
    return NAME(tree)(&s);
}

INLINE T NAME(dot)(const T *x, const T *y, ptrdiff_t n) {
    if (n < 16) {
        T total = 0;
        for (ptrdiff_t i = 0; i < n; i++)
            total += x[i] * y[i];
        return total;
    }
    NAME(lanes) s = {0};
    ptrdiff_t i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL) {
        s.a += NAME(load)(x + i) * NAME(load)(y + i);
        s.b += NAME(load)(x + i + VL) * NAME(load)(y + i + VL);
    }
    if (i < n) {
        T xs[2 * VL] = {0}, ys[2 * VL] = {0};
        memcpy(xs, x + i, (size_t)(n - i) * sizeof(T));
        memcpy(ys, y + i, (size_t)(n - i) * sizeof(T));
        s.a += NAME(load)(xs) * NAME(load)(ys);
        s.b += NAME(load)(xs + VL) * NAME(load)(ys + VL);
    }
    return NAME(tree)(&s);
}
