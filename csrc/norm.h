/* Root-mean-square normalisation of rows and its gradients.  Sums run in A: double for float, else T. */

#if BITS == 32
#define A double
#define AV vector_f64
#define AL 8
#define ASQRT sqrt
INLINE AV NAME(widen)(const T *p) {
    half_f32 h;
    memcpy(&h, p, sizeof h);
    return __builtin_convertvector(h, vector_f64);
}
#else
#define A T
#define AV V
#define AL VL
#define ASQRT SQRT
INLINE AV NAME(widen)(const T *p) { return NAME(load)(p); }
#endif

INLINE A NAME(wide_tree)(AV v) {
    A t[AL];
    memcpy(t, &v, sizeof v);
    for (int width = AL / 2; width > 0; width /= 2)
        for (int l = 0; l < width; l++)
            t[l] += t[l + width];
    return t[0];
}

/* Σ x², the squares already in A, over 2 AL lanes */
INLINE A NAME(squares)(const T *x, ptrdiff_t n) {
    AV a = {0}, b = {0};
    ptrdiff_t i = 0;
    for (; i + 2 * AL <= n; i += 2 * AL) {
        AV u = NAME(widen)(x + i), v = NAME(widen)(x + i + AL);
        a += u * u;
        b += v * v;
    }
    if (i < n) {
        T rest[2 * AL] = {0};
        memcpy(rest, x + i, (size_t)(n - i) * sizeof(T));
        AV u = NAME(widen)(rest), v = NAME(widen)(rest + AL);
        a += u * u;
        b += v * v;
    }
    return NAME(wide_tree)(a + b);
}

/* Σ x (dy w): products in T, the sum in A, over 2 AL lanes */
INLINE A NAME(along)(const T *x, const T *dy, const T *w, ptrdiff_t n) {
    AV a = {0}, b = {0};
    T p[2 * AL];
    ptrdiff_t i = 0;
    for (; i + 2 * AL <= n; i += 2 * AL) {
        for (int l = 0; l < 2 * AL; l++)
            p[l] = x[i + l] * (dy[i + l] * w[i + l]);
        a += NAME(widen)(p);
        b += NAME(widen)(p + AL);
    }
    if (i < n) {
        for (int l = 0; l < 2 * AL; l++)
            p[l] = i + l < n ? x[i + l] * (dy[i + l] * w[i + l]) : 0;
        a += NAME(widen)(p);
        b += NAME(widen)(p + AL);
    }
    return NAME(wide_tree)(a + b);
}

/* y = x r w, r = (mean(x²) + eps)^-1/2: x (·, d), w (d,), r (·,) */
CLONES void NAME(rms_norm_rows)(T *y, T *r, const T *x, const T *w, double eps, ptrdiff_t d, ptrdiff_t lo, ptrdiff_t hi) {
    for (ptrdiff_t row = lo; row < hi; row++) {
        const T *p = x + row * d;
        T *o = y + row * d;
        const T s = (T)(1 / ASQRT(NAME(squares)(p, d) / (R)d + (R)eps));
        r[row] = s;
        INDEPENDENT for (ptrdiff_t i = 0; i < d; i++) o[i] = p[i] * s * w[i];
    }
}

/* dx = r (dn - x c), dn = dy w, c = r² mean(x dn); part[b] = Σ dy x r over the 64 rows of block b.  A task is a block. */
CLONES void NAME(rms_norm_backward_blocks)(T *dx, T *part, const T *dy, const T *x, const T *w, const T *r, ptrdiff_t n,
                                           ptrdiff_t d, ptrdiff_t lo, ptrdiff_t hi) {
    for (ptrdiff_t block = lo; block < hi; block++) {
        T *sum = part + block * d;
        memset(sum, 0, (size_t)d * sizeof(T));
        for (ptrdiff_t row = 64 * block; row < n && row < 64 * block + 64; row++) {
            const T *p = x + row * d, *g = dy + row * d;
            T *o = dx + row * d;
            const T s = r[row], c = (T)((A)s * (A)s * NAME(along)(p, g, w, d) / (R)d);
            INDEPENDENT for (ptrdiff_t i = 0; i < d; i++) {
                o[i] = s * (g[i] * w[i] - p[i] * c);
                sum[i] += g[i] * (p[i] * s);
            }
        }
    }
}

/* out[i] = Σ_b part[b, i], b ascending, in A: part (blocks, d).  A task is one group of 64 columns. */
CLONES void NAME(sum_blocks)(T *out, const T *part, ptrdiff_t blocks, ptrdiff_t d, ptrdiff_t lo, ptrdiff_t hi) {
    for (ptrdiff_t task = lo; task < hi; task++) {
        const ptrdiff_t column = 64 * task, width = d - column < 64 ? d - column : 64;
        A sum[64] = {0};
        for (ptrdiff_t b = 0; b < blocks; b++)
            INDEPENDENT for (ptrdiff_t i = 0; i < width; i++) sum[i] += part[b * d + column + i];
        for (ptrdiff_t i = 0; i < width; i++)
            out[column + i] = (T)sum[i];
    }
}
#undef A
#undef AV
#undef AL
#undef ASQRT
