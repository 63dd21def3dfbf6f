/* A linear map with a weight (f, d) stored by rows (data, indices, indptr), and its two gradients.
 *
 * The vectors run over tokens: a block of tokens is laid out column by column, packed[j, t], zeros beyond the last
 * token, so that each stored entry is one broadcast and a few contiguous loads.  The order of every sum is that of the
 * stored entries (y, dx) or the lanes and tree of lanes.h over blocks of a fixed number of tokens (ddata).
 */

/* packed[j, t] = x[t, from + j] for j < d, t < tokens; 0 for tokens <= t < width: x (·, stride) */
INLINE void NAME(pack)(T *packed, const T *x, ptrdiff_t tokens, ptrdiff_t d, ptrdiff_t stride, ptrdiff_t width) {
    for (ptrdiff_t from = 0; from < d; from += 16) {
        const ptrdiff_t to = d - from < 16 ? d : from + 16;
        for (ptrdiff_t t = 0; t < tokens; t++)
            for (ptrdiff_t j = from; j < to; j++)
                packed[j * width + t] = x[t * stride + j];
        for (ptrdiff_t j = from; j < to; j++)
            for (ptrdiff_t t = tokens; t < width; t++)
                packed[j * width + t] = 0;
    }
}

/* x[t, j] = packed[j, t] for j < d, t < tokens: x (·, stride) */
INLINE void NAME(unpack)(T *x, const T *packed, ptrdiff_t tokens, ptrdiff_t d, ptrdiff_t stride, ptrdiff_t width) {
    for (ptrdiff_t from = 0; from < d; from += 16) {
        const ptrdiff_t to = d - from < 16 ? d : from + 16;
        for (ptrdiff_t t = 0; t < tokens; t++)
            for (ptrdiff_t j = from; j < to; j++)
                x[t * stride + j] = packed[j * width + t];
    }
}

INLINE void NAME(store)(T *p, V v) { memcpy(p, &v, sizeof v); }

/* One block of tokens of y = x Wᵀ, 16 rows of W at a time; m vectors of tokens, a constant. */
INLINE void NAME(csr_forward_block)(T *y, T *scratch, const T *x, const T *data, const int64_t *indices,
                                    const int64_t *indptr, ptrdiff_t tokens, ptrdiff_t d, ptrdiff_t f, const int m) {
    const ptrdiff_t width = m * VL;
    T *xt = scratch, *tile = scratch + d * width;
    NAME(pack)(xt, x, tokens, d, d, width);
    for (ptrdiff_t from = 0; from < f; from += 16) {
        const ptrdiff_t rows = f - from < 16 ? f - from : 16;
        for (ptrdiff_t i = 0; i < rows; i++) {
            V sum[4];
            memset(sum, 0, sizeof sum);
            for (ptrdiff_t e = indptr[from + i]; e < indptr[from + i + 1]; e++) {
                CHECK(0 <= indices[e] && indices[e] < d);
                const T w = data[e], *p = xt + indices[e] * width;
                for (int k = 0; k < m; k++)
                    sum[k] += w * NAME(load)(p + k * VL);
            }
            for (int k = 0; k < m; k++)
                NAME(store)(tile + i * width + k * VL, sum[k]);
        }
        NAME(unpack)(y + from, tile, tokens, rows, f, width);
    }
}

/* One block of tokens of dx = dy W, 16 rows of W at a time. */
INLINE void NAME(csr_dx_block)(T *dx, T *scratch, const T *dy, const T *data, const int64_t *indices,
                               const int64_t *indptr, ptrdiff_t tokens, ptrdiff_t d, ptrdiff_t f, const int m) {
    const ptrdiff_t width = m * VL;
    T *dxt = scratch, *tile = scratch + d * width;
    memset(dxt, 0, (size_t)(d * width) * sizeof(T));
    for (ptrdiff_t from = 0; from < f; from += 16) {
        const ptrdiff_t rows = f - from < 16 ? f - from : 16;
        NAME(pack)(tile, dy + from, tokens, rows, f, width);
        for (ptrdiff_t i = 0; i < rows; i++) {
            V g[4];
            for (int k = 0; k < m; k++)
                g[k] = NAME(load)(tile + i * width + k * VL);
            for (ptrdiff_t e = indptr[from + i]; e < indptr[from + i + 1]; e++) {
                CHECK(0 <= indices[e] && indices[e] < d);
                const T w = data[e];
                T *p = dxt + indices[e] * width;
                for (int k = 0; k < m; k++)
                    NAME(store)(p + k * VL, NAME(load)(p + k * VL) + w * g[k]);
            }
        }
    }
    NAME(unpack)(dx, dxt, tokens, d, d, width);
}

/* One token of both, for batches too small to fill a vector: the same sums in the same order. */
INLINE void NAME(csr_forward_token)(T *y, const T *x, const T *data, const int64_t *indices, const int64_t *indptr,
                                    ptrdiff_t d, ptrdiff_t f) {
    for (ptrdiff_t row = 0; row < f; row++) {
        T sum = 0;
        for (ptrdiff_t e = indptr[row]; e < indptr[row + 1]; e++) {
            CHECK(0 <= indices[e] && indices[e] < d);
            sum += data[e] * x[indices[e]];
        }
        y[row] = sum;
    }
    (void)d;
}

INLINE void NAME(csr_dx_token)(T *dx, const T *dy, const T *data, const int64_t *indices, const int64_t *indptr,
                               ptrdiff_t d, ptrdiff_t f) {
    memset(dx, 0, (size_t)d * sizeof(T));
    for (ptrdiff_t row = 0; row < f; row++) {
        const T g = dy[row];
        INDEPENDENT for (ptrdiff_t e = indptr[row]; e < indptr[row + 1]; e++) {
            CHECK(0 <= indices[e] && indices[e] < d);
            dx[indices[e]] += data[e] * g;
        }
    }
}

/* Blocks lo..hi of m VL tokens (m is 1, 2 or 4; 0: of one token) of y (n, f) from x (n, d); scratch (d + 16) m VL. */
CLONES void NAME(csr_forward_blocks)(T *y, T *scratch, const T *x, const T *data, const int64_t *indices,
                                     const int64_t *indptr, ptrdiff_t n, ptrdiff_t d, ptrdiff_t f, int m, ptrdiff_t lo,
                                     ptrdiff_t hi) {
    const ptrdiff_t width = m > 0 ? m * VL : 1;
    for (ptrdiff_t t = lo * width; t < n && t < hi * width; t += width) {
        const ptrdiff_t tokens = n - t < width ? n - t : width;
        if (m == 4)
            NAME(csr_forward_block)(y + t * f, scratch, x + t * d, data, indices, indptr, tokens, d, f, 4);
        else if (m == 2)
            NAME(csr_forward_block)(y + t * f, scratch, x + t * d, data, indices, indptr, tokens, d, f, 2);
        else if (m == 1)
            NAME(csr_forward_block)(y + t * f, scratch, x + t * d, data, indices, indptr, tokens, d, f, 1);
        else
            NAME(csr_forward_token)(y + t * f, x + t * d, data, indices, indptr, d, f);
    }
}

/* The same of dx (n, d) from dy (n, f). */
CLONES void NAME(csr_dx_blocks)(T *dx, T *scratch, const T *dy, const T *data, const int64_t *indices,
                                const int64_t *indptr, ptrdiff_t n, ptrdiff_t d, ptrdiff_t f, int m, ptrdiff_t lo,
                                ptrdiff_t hi) {
    const ptrdiff_t width = m > 0 ? m * VL : 1;
    for (ptrdiff_t t = lo * width; t < n && t < hi * width; t += width) {
        const ptrdiff_t tokens = n - t < width ? n - t : width;
        if (m == 4)
            NAME(csr_dx_block)(dx + t * d, scratch, dy + t * f, data, indices, indptr, tokens, d, f, 4);
        else if (m == 2)
            NAME(csr_dx_block)(dx + t * d, scratch, dy + t * f, data, indices, indptr, tokens, d, f, 2);
        else if (m == 1)
            NAME(csr_dx_block)(dx + t * d, scratch, dy + t * f, data, indices, indptr, tokens, d, f, 1);
        else
            NAME(csr_dx_token)(dx + t * d, dy + t * f, data, indices, indptr, d, f);
    }
}

/* Blocks lo..hi of `width` tokens of x (n, d), packed: (·, d, width). */
CLONES void NAME(pack_blocks)(T *packed, const T *x, ptrdiff_t n, ptrdiff_t d, ptrdiff_t width, ptrdiff_t lo,
                              ptrdiff_t hi) {
    for (ptrdiff_t b = lo; b < hi; b++) {
        const ptrdiff_t tokens = n - b * width < width ? n - b * width : width;
        NAME(pack)(packed + b * d * width, x + b * width * d, tokens, d, d, width);
    }
}

/* ddata[e] = Σ_t dy[t, row] x[t, indices[e]] for rows lo..hi, from dy and x packed in blocks of `width` tokens. */
CLONES void NAME(csr_ddata_rows)(T *ddata, const T *dyt, const T *xt, const int64_t *indices, const int64_t *indptr,
                                 ptrdiff_t blocks, ptrdiff_t width, ptrdiff_t d, ptrdiff_t f, ptrdiff_t lo,
                                 ptrdiff_t hi) {
    for (ptrdiff_t b = 0; b < blocks; b++, dyt += f * width, xt += d * width)
        for (ptrdiff_t row = lo; row < hi; row++)
            for (ptrdiff_t e = indptr[row]; e < indptr[row + 1]; e++) {
                CHECK(0 <= indices[e] && indices[e] < d);
                const T part = NAME(dot)(dyt + row * width, xt + indices[e] * width, width);
                ddata[e] = b > 0 ? ddata[e] + part : part;
            }
}
