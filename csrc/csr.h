/* A linear map with a weight (f, d) stored by rows (data, indices, indptr), and its two gradients; INT is the type of an index.
 *
 * The vectors run over tokens: a block of tokens is laid out column by column, packed[j, t], zeros beyond the last
 * token, so that each stored entry is one broadcast and a few contiguous loads.  The order of every sum is that of the
 * stored entries (y, dx) or the lanes and tree of lanes.h over pieces of a fixed number of tokens (ddata).
 */

/* out[i, :] = the sums of rows row..row+rows over one block of m vectors of tokens; several rows side by side, since one
 * row alone would wait for each of its additions. */
INLINE void INAME(csr_rows)(T *out, const T *xt, const T *data, const INT *indices, const int64_t *ptr, ptrdiff_t d,
                            const int rows, const int m) {
    const ptrdiff_t width = m * VL;
    V sum[4][4];
    memset(sum, 0, sizeof sum);
    ptrdiff_t shared = ptr[1] - ptr[0];
    for (int i = 1; i < rows; i++)
        shared = ptr[i + 1] - ptr[i] < shared ? ptr[i + 1] - ptr[i] : shared;
    for (ptrdiff_t s = 0; s < shared; s++)
        for (int i = 0; i < rows; i++) {
            const ptrdiff_t e = ptr[i] + s;
            CHECK(0 <= indices[e] && indices[e] < d);
            const T w = data[e], *p = xt + indices[e] * width;
            for (int k = 0; k < m; k++)
                sum[i][k] += w * NAME(load)(p + k * VL);
        }
    for (int i = 0; i < rows; i++) {
        for (ptrdiff_t e = ptr[i] + shared; e < ptr[i + 1]; e++) {
            CHECK(0 <= indices[e] && indices[e] < d);
            const T w = data[e], *p = xt + indices[e] * width;
            for (int k = 0; k < m; k++)
                sum[i][k] += w * NAME(load)(p + k * VL);
        }
        for (int k = 0; k < m; k++)
            NAME(store)(out + i * width + k * VL, sum[i][k]);
    }
    (void)d;
}

/* Rows lo..hi of y for one block of m vectors of tokens, 16 rows of W at a time; m is a constant. */
INLINE void INAME(csr_forward_block)(T *y, T *scratch, const T *x, const T *data, const INT *indices,
                                     const int64_t *indptr, ptrdiff_t tokens, ptrdiff_t d, ptrdiff_t f, ptrdiff_t lo,
                                     ptrdiff_t hi, const int m) {
    const ptrdiff_t width = m * VL;
    const int together = 4 / m;
    T *xt = scratch, *tile = scratch + d * width;
    NAME(pack)(xt, x, tokens, d, d, width);
    for (ptrdiff_t from = lo; from < hi; from += 16) {
        const ptrdiff_t rows = hi - from < 16 ? hi - from : 16;
        ptrdiff_t i = 0;
        for (; i + together <= rows; i += together)
            INAME(csr_rows)(tile + i * width, xt, data, indices, indptr + from + i, d, together, m);
        for (; i < rows; i++)
            INAME(csr_rows)(tile + i * width, xt, data, indices, indptr + from + i, d, 1, m);
        NAME(unpack)(y + from, tile, tokens, rows, f, width);
    }
}

/* Blocks lo..hi of m VL tokens, m 1, 2 or 4, and rows first..last of W: their part of y (n, f) from x (n, d).
 * scratch (d + 16) m VL */
CLONES void INAME(csr_forward_blocks)(T *y, const INT *indices, T *scratch, const T *x, const T *data,
                                      const int64_t *indptr, ptrdiff_t n, ptrdiff_t d, ptrdiff_t f, int m, ptrdiff_t lo,
                                      ptrdiff_t hi, ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t width = m * VL;
    for (ptrdiff_t t = lo * width; t < n && t < hi * width; t += width) {
        const ptrdiff_t tokens = n - t < width ? n - t : width;
        T *to = y + t * f;
        const T *from = x + t * d;
        if (m == 4)
            INAME(csr_forward_block)(to, scratch, from, data, indices, indptr, tokens, d, f, first, last, 4);
        else if (m == 2)
            INAME(csr_forward_block)(to, scratch, from, data, indices, indptr, tokens, d, f, first, last, 2);
        else
            INAME(csr_forward_block)(to, scratch, from, data, indices, indptr, tokens, d, f, first, last, 1);
    }
}

/* The same where an output has many entries: the columns go in spans, whose packed tokens stay in the first cache while
 * 32 outputs use them.  Output o has the entries cut[s f + o] to cut[s f + o + next] in span s, so that the lists
 * may be those of W (next = f) or those of its transpose, span by span (next = 1); m is a constant. */
INLINE void INAME(csr_span_block)(T *y, T *scratch, const T *x, const T *data, const INT *indices, const int64_t *cut,
                                  ptrdiff_t spans, ptrdiff_t next, ptrdiff_t tokens, ptrdiff_t d, ptrdiff_t f,
                                  ptrdiff_t lo, ptrdiff_t hi, const int m) {
    const ptrdiff_t width = m * VL;
    T *xt = scratch, *tile = scratch + d * width;
    NAME(pack)(xt, x, tokens, d, d, width);
    for (ptrdiff_t from = lo; from < hi; from += 32) {
        const ptrdiff_t outputs = hi - from < 32 ? hi - from : 32;
        memset(tile, 0, (size_t)(outputs * width) * sizeof(T));
        for (ptrdiff_t s = 0; s < spans; s++)
            for (ptrdiff_t i = 0; i < outputs; i++) {
                const int64_t *at = cut + s * f + from + i;
                V sum[4];
                for (int k = 0; k < m; k++)
                    sum[k] = NAME(load)(tile + i * width + k * VL);
                if (next > 1 && i + 2 < outputs)
                    for (int line = 0; line < 32; line += 16) { /* of the row after the next one: rows lie far apart */
                        __builtin_prefetch(data + at[2] + line);
                        __builtin_prefetch(indices + at[2] + line);
                    }
                for (ptrdiff_t e = at[0]; e < at[next]; e++) {
                    CHECK(0 <= indices[e] && indices[e] < d);
                    const T w = data[e], *p = xt + indices[e] * width;
                    for (int k = 0; k < m; k++)
                        sum[k] += w * NAME(load)(p + k * VL);
                }
                for (int k = 0; k < m; k++)
                    NAME(store)(tile + i * width + k * VL, sum[k]);
            }
        NAME(unpack)(y + from, tile, tokens, outputs, f, width);
    }
}

/* Blocks lo..hi of m VL tokens, m 1, 2 or 4, and outputs first..last; scratch (d + 32) m VL. */
CLONES void INAME(csr_span_blocks)(T *y, const INT *indices, T *scratch, const T *x, const T *data, const int64_t *cut,
                                   ptrdiff_t spans, ptrdiff_t next, ptrdiff_t n, ptrdiff_t d, ptrdiff_t f, int m,
                                   ptrdiff_t lo, ptrdiff_t hi, ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t width = m * VL;
    for (ptrdiff_t t = lo * width; t < n && t < hi * width; t += width) {
        const ptrdiff_t tokens = n - t < width ? n - t : width;
        T *to = y + t * f;
        const T *from = x + t * d;
        if (m == 4)
            INAME(csr_span_block)(to, scratch, from, data, indices, cut, spans, next, tokens, d, f, first, last, 4);
        else if (m == 2)
            INAME(csr_span_block)(to, scratch, from, data, indices, cut, spans, next, tokens, d, f, first, last, 2);
        else
            INAME(csr_span_block)(to, scratch, from, data, indices, cut, spans, next, tokens, d, f, first, last, 1);
    }
}

/* y[row] of one token for rows..rows+`rows`, side by side. */
INLINE void INAME(csr_token_rows)(T *y, const T *x, const T *data, const INT *indices, const int64_t *ptr,
                                  const int rows) {
    T sum[4] = {0};
    ptrdiff_t shared = ptr[1] - ptr[0];
    for (int i = 1; i < rows; i++)
        shared = ptr[i + 1] - ptr[i] < shared ? ptr[i + 1] - ptr[i] : shared;
    for (ptrdiff_t s = 0; s < shared; s++) {
        SCALAR;
        for (int i = 0; i < rows; i++)
            sum[i] += data[ptr[i] + s] * x[indices[ptr[i] + s]];
    }
    for (int i = 0; i < rows; i++) {
        for (ptrdiff_t e = ptr[i] + shared; e < ptr[i + 1]; e++) {
            SCALAR;
            sum[i] += data[e] * x[indices[e]];
        }
        y[i] = sum[i];
    }
}

/* Rows lo..hi of y = W x for one token.  16 rows are checked when they are about to be used, since at one token a pass of
 * its own over the structure would cost as much as the product.  Returns 1 if some were out of order. */
CLONES int INAME(csr_forward_token)(T *y, const INT *indices, const T *x, const T *data, const int64_t *indptr,
                                    ptrdiff_t d, ptrdiff_t lo, ptrdiff_t hi) {
    for (ptrdiff_t row = lo; row < hi;) {
        const ptrdiff_t end = hi - row < 16 ? hi : row + 16;
        if (!ORDERED(indices, indptr, d, row, end))
            return 1;
        for (; row + 4 <= end; row += 4)
            INAME(csr_token_rows)(y + row, x, data, indices, indptr + row, 4);
        for (; row < end; row++)
            INAME(csr_token_rows)(y + row, x, data, indices, indptr + row, 1);
    }
    return 0;
}

/* How many of the n ascending indices are below `bound`. */
INLINE ptrdiff_t INAME(below)(const INT *indices, ptrdiff_t n, ptrdiff_t bound) {
    if (sizeof(INT) == 4 && bound > INT32_MAX)
        return n;
    const INT b = (INT)bound;
    INT count = 0;
    for (ptrdiff_t e = 0; e < n; e++)
        count += indices[e] < b;
    return (ptrdiff_t)count;
}

/* Columns first..last of dx = dy W for one block of m vectors of tokens, 16 rows of W at a time. */
INLINE void INAME(csr_dx_block)(T *dx, T *scratch, const T *dy, const T *data, const INT *indices, const int64_t *indptr,
                                ptrdiff_t tokens, ptrdiff_t d, ptrdiff_t f, ptrdiff_t first, ptrdiff_t last,
                                const int m) {
    const ptrdiff_t width = m * VL, columns = last - first;
    T *dxt = scratch, *tile = scratch + d * width;
    memset(dxt, 0, (size_t)(columns * width) * sizeof(T));
    for (ptrdiff_t from = 0; from < f; from += 16) {
        const ptrdiff_t rows = f - from < 16 ? f - from : 16;
        NAME(pack)(tile, dy + from, tokens, rows, f, width);
        for (ptrdiff_t i = 0; i < rows; i++) {
            ptrdiff_t begin = indptr[from + i], end = indptr[from + i + 1];
            if (last < d)
                end = begin + INAME(below)(indices + begin, end - begin, last);
            if (first > 0)
                begin += INAME(below)(indices + begin, end - begin, first);
            V g[4];
            for (int k = 0; k < m; k++)
                g[k] = NAME(load)(tile + i * width + k * VL);
            for (ptrdiff_t e = begin; e < end; e++) {
                CHECK(first <= indices[e] && indices[e] < last);
                const T w = data[e];
                T *p = dxt + (indices[e] - first) * width;
                for (int k = 0; k < m; k++)
                    NAME(store)(p + k * VL, NAME(load)(p + k * VL) + w * g[k]);
            }
        }
    }
    NAME(unpack)(dx + first, dxt, tokens, columns, d, width);
}

/* Blocks lo..hi of m VL tokens and columns first..last: their part of dx (n, d) from dy (n, f); scratch (d + 16) m VL. */
CLONES void INAME(csr_dx_blocks)(T *dx, const INT *indices, T *scratch, const T *dy, const T *data, const int64_t *indptr,
                                 ptrdiff_t n, ptrdiff_t d, ptrdiff_t f, int m, ptrdiff_t lo, ptrdiff_t hi,
                                 ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t width = m * VL;
    for (ptrdiff_t t = lo * width; t < n && t < hi * width; t += width) {
        const ptrdiff_t tokens = n - t < width ? n - t : width;
        T *to = dx + t * d;
        const T *from = dy + t * f;
        if (m == 4)
            INAME(csr_dx_block)(to, scratch, from, data, indices, indptr, tokens, d, f, first, last, 4);
        else if (m == 2)
            INAME(csr_dx_block)(to, scratch, from, data, indices, indptr, tokens, d, f, first, last, 2);
        else
            INAME(csr_dx_block)(to, scratch, from, data, indices, indptr, tokens, d, f, first, last, 1);
    }
}

/* Columns first..last of dx = Wᵀ dy for one token; returns 1 if some rows were out of order. */
CLONES int INAME(csr_dx_token)(T *dx, const INT *indices, const T *dy, const T *data, const int64_t *indptr, ptrdiff_t d,
                               ptrdiff_t f, ptrdiff_t first, ptrdiff_t last) {
    memset(dx + first, 0, (size_t)(last - first) * sizeof(T));
    for (ptrdiff_t row = 0; row < f; row++) {
        if (row % 16 == 0 && !ORDERED(indices, indptr, d, row, f - row < 16 ? f : row + 16))
            return 1;
        ptrdiff_t begin = indptr[row], end = indptr[row + 1];
        if (last < d)
            end = begin + INAME(below)(indices + begin, end - begin, last);
        if (first > 0)
            begin += INAME(below)(indices + begin, end - begin, first);
        const T g = dy[row];
        for (ptrdiff_t e = begin; e < end; e++) {
            SCALAR;
            dx[indices[e]] += data[e] * g;
        }
    }
    return 0;
}

/* Rows lo..hi of W into its transpose: entry by entry to where the cursor of its column stands, which moves on.  Rows
 * ascend within a column, so the order of every sum of dx is kept. */
CLONES void INAME(csr_place)(T *values, const INT *indices, int32_t *rows, int64_t *cursor, const T *data,
                             const int64_t *indptr, ptrdiff_t lo, ptrdiff_t hi) {
    for (ptrdiff_t row = lo; row < hi; row++)
        for (ptrdiff_t e = indptr[row]; e < indptr[row + 1]; e++) {
            const int64_t at = cursor[indices[e]]++;
            values[at] = data[e];
            rows[at] = (int32_t)row;
        }
}

/* out[i] (+)= the sum over one piece of `vectors` (a constant) vectors of tokens of g ⊙ xt[columns[i]], i < count <= HL:
 * two vectors of lanes in turn, then the tree. */
INLINE void INAME(ddata_batch)(T *out, const V *g, const T *xt, const INT *columns, ptrdiff_t count, ptrdiff_t width,
                               int more, const int vectors) {
    V s[HL];
    for (ptrdiff_t i = 0; i < HL; i++) {
        const T *p = xt + columns[i < count ? i : 0] * width; /* beyond count: a sum nobody looks at */
        V a = g[0] * NAME(load)(p), b = a;
        if (vectors > 1)
            b = g[1] * NAME(load)(p + VL);
        for (int k = 2; k < vectors; k += 2) {
            a += g[k] * NAME(load)(p + k * VL);
            b += g[k + 1] * NAME(load)(p + (k + 1) * VL);
        }
        s[i] = vectors > 1 ? a + b : a;
    }
    const H part = NAME(trees)(s);
    if (count == HL)
        NAME(store_h)(out, more ? NAME(load_h)(out) + part : part);
    else {
        T each[HL];
        NAME(store_h)(each, part);
        for (ptrdiff_t i = 0; i < count; i++)
            out[i] = more ? out[i] + each[i] : each[i];
    }
}

INLINE void INAME(ddata_row)(T *out, const T *g, const T *xt, const INT *columns, ptrdiff_t count, ptrdiff_t width,
                             int more, const int vectors) {
    V own[8];
    for (int k = 0; k < vectors; k++)
        own[k] = NAME(load)(g + k * VL);
    ptrdiff_t i = 0;
    for (; i + HL <= count; i += HL)
        INAME(ddata_batch)(out + i, own, xt, columns + i, HL, width, more, vectors);
    if (i < count)
        INAME(ddata_batch)(out + i, own, xt, columns + i, count - i, width, more, vectors);
}

/* ddata[e] = Σ_t dy[t, row] x[t, indices[e]] for rows lo..hi, from dy and x packed in pieces of `vectors` vectors. */
CLONES void INAME(csr_ddata_rows)(T *ddata, const INT *indices, const T *dyt, const T *xt, const int64_t *indptr,
                                  ptrdiff_t pieces, int vectors, ptrdiff_t d, ptrdiff_t f, ptrdiff_t lo, ptrdiff_t hi) {
    const ptrdiff_t width = vectors * VL;
    for (ptrdiff_t b = 0; b < pieces; b++, dyt += f * width, xt += d * width)
        for (ptrdiff_t row = lo; row < hi; row++) {
            const ptrdiff_t e = indptr[row], count = indptr[row + 1] - e;
            const T *g = dyt + row * width;
            if (vectors == 8)
                INAME(ddata_row)(ddata + e, g, xt, indices + e, count, width, b > 0, 8);
            else if (vectors == 6)
                INAME(ddata_row)(ddata + e, g, xt, indices + e, count, width, b > 0, 6);
            else if (vectors == 4)
                INAME(ddata_row)(ddata + e, g, xt, indices + e, count, width, b > 0, 4);
            else if (vectors == 2)
                INAME(ddata_row)(ddata + e, g, xt, indices + e, count, width, b > 0, 2);
            else
                INAME(ddata_row)(ddata + e, g, xt, indices + e, count, width, b > 0, 1);
        }
}

/* The same for one token: ddata[e] = dy[row] x[indices[e]]; returns 1 if some rows were out of order. */
CLONES int INAME(csr_ddata_token)(T *ddata, const INT *indices, const T *dy, const T *x, const int64_t *indptr,
                                  ptrdiff_t d, ptrdiff_t lo, ptrdiff_t hi) {
    for (ptrdiff_t row = lo; row < hi; row++) {
        if ((row - lo) % 16 == 0 && !ORDERED(indices, indptr, d, row, hi - row < 16 ? hi : row + 16))
            return 1;
        const T g = dy[row];
        INDEPENDENT for (ptrdiff_t e = indptr[row]; e < indptr[row + 1]; e++) ddata[e] = g * x[indices[e]];
    }
    return 0;
}
