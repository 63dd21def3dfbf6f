/* Rotary positions: [a c - b s | b c + a s] for each row [a | b] of x (B, H, S, 2n), whose rows may lie anywhere. */

CLONES void NAME(rotate_rows)(T *out, const T *x, const T *cos, const T *sin, const ptrdiff_t *shape,
                              const ptrdiff_t *stride, ptrdiff_t lo, ptrdiff_t hi) {
    const ptrdiff_t heads = shape[1], length = shape[2], n = shape[3] / 2;
    for (ptrdiff_t r = lo; r < hi; r++) {
        const ptrdiff_t b = r / (heads * length), h = r / length % heads, s = r % length;
        const T *a = x + b * stride[0] + h * stride[1] + s * stride[2], *c = cos + b * stride[3] + s * n;
        const T *z = sin + b * stride[3] + s * n;
        T *o = out + r * 2 * n;
        INDEPENDENT for (ptrdiff_t i = 0; i < n; i++) {
            o[i] = a[i] * c[i] - a[n + i] * z[i];
            o[n + i] = a[n + i] * c[i] + a[i] * z[i];
        }
    }
}
