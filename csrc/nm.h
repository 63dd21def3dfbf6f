/* A linear map with a weight (f, d) that stores n of every m columns, and its two gradients.
 *
 * Entry q of a row lies in group q / n, at column (q / n) m + position[q].  As in csr.h the vectors run over tokens.  What
 * is stored is spread evenly, so the loops go over spans of `span` groups: their columns of the packed tokens stay in
 * the first cache while many rows use them, and the order of every sum is still that of the entries.
 */

#define NM_ROWS 32 /* of a tile; as in pymoe/kernels/cython_nm.py */

/* Rows lo..hi of y for one block of `vectors` (a constant) vectors of tokens. */
INLINE void NAME(nm_forward_block)(T *y, T *scratch, const T *x, const T *data, const uint8_t *position, ptrdiff_t tokens,
                                   ptrdiff_t d, ptrdiff_t f, int n, int m, ptrdiff_t span, ptrdiff_t lo, ptrdiff_t hi,
                                   const int vectors) {
    const ptrdiff_t width = vectors * VL, groups = d / m, stored = groups * n;
    T *xt = scratch, *tile = scratch + d * width;
    NAME(pack)(xt, x, tokens, d, d, width);
    for (ptrdiff_t from = lo; from < hi; from += NM_ROWS) {
        const ptrdiff_t rows = hi - from < NM_ROWS ? hi - from : NM_ROWS;
        memset(tile, 0, (size_t)(rows * width) * sizeof(T));
        for (ptrdiff_t g = 0; g < groups; g += span) {
            const ptrdiff_t end = groups - g < span ? groups : g + span;
            for (ptrdiff_t i = 0; i < rows; i++) {
                const T *w = data + (from + i) * stored + g * n;
                const uint8_t *at = position + (from + i) * stored + g * n;
                if (i + 2 < rows) { /* the row after the next one: rows lie far apart */
                    __builtin_prefetch(w + 2 * stored);
                    __builtin_prefetch(w + 2 * stored + 16);
                    __builtin_prefetch(at + 2 * stored);
                }
                V sum[4];
                for (int k = 0; k < vectors; k++)
                    sum[k] = NAME(load)(tile + i * width + k * VL);
                for (const T *group = xt + g * m * width; group < xt + end * m * width; group += m * width)
                    for (int s = 0; s < n; s++, w++, at++) {
                        CHECK(*at < m);
                        const T *p = group + *at * width;
                        for (int k = 0; k < vectors; k++)
                            sum[k] += *w * NAME(load)(p + k * VL);
                    }
                for (int k = 0; k < vectors; k++)
                    NAME(store)(tile + i * width + k * VL, sum[k]);
            }
        }
        NAME(unpack)(y + from, tile, tokens, rows, f, width);
    }
}

/* Blocks lo..hi of `vectors` VL tokens, 1, 2 or 4, and rows first..last; scratch (d + NM_ROWS) vectors VL. */
CLONES void NAME(nm_forward_blocks)(T *y, T *scratch, const T *x, const T *data, const uint8_t *position, ptrdiff_t tokens,
                                    ptrdiff_t d, ptrdiff_t f, int n, int m, ptrdiff_t span, int vectors, ptrdiff_t lo,
                                    ptrdiff_t hi, ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t width = vectors * VL;
    for (ptrdiff_t t = lo * width; t < tokens && t < hi * width; t += width) {
        const ptrdiff_t here = tokens - t < width ? tokens - t : width;
        T *to = y + t * f;
        const T *from = x + t * d;
        if (vectors == 4)
            NAME(nm_forward_block)(to, scratch, from, data, position, here, d, f, n, m, span, first, last, 4);
        else if (vectors == 2)
            NAME(nm_forward_block)(to, scratch, from, data, position, here, d, f, n, m, span, first, last, 2);
        else
            NAME(nm_forward_block)(to, scratch, from, data, position, here, d, f, n, m, span, first, last, 1);
    }
}

/* Groups first..last of dx for one block of `vectors` (a constant) vectors of tokens; dyt is dy, packed. */
INLINE void NAME(nm_dx_block)(T *dx, T *scratch, const T *dy, const T *data, const uint8_t *position, ptrdiff_t tokens,
                              ptrdiff_t d, ptrdiff_t f, int n, int m, ptrdiff_t span, ptrdiff_t first, ptrdiff_t last,
                              const int vectors) {
    const ptrdiff_t width = vectors * VL, stored = d / m * n;
    T *dyt = scratch, *dxt = scratch + f * width;
    NAME(pack)(dyt, dy, tokens, f, f, width);
    for (ptrdiff_t from = first; from < last; from += span) {
        const ptrdiff_t groups = last - from < span ? last - from : span;
        memset(dxt, 0, (size_t)(groups * m * width) * sizeof(T));
        for (ptrdiff_t row = 0; row < f; row++) {
            const T *w = data + row * stored + from * n;
            const uint8_t *at = position + row * stored + from * n;
            V g[4];
            for (int k = 0; k < vectors; k++)
                g[k] = NAME(load)(dyt + row * width + k * VL);
            for (T *group = dxt; group < dxt + groups * m * width; group += m * width)
                for (int s = 0; s < n; s++, w++, at++) {
                    CHECK(*at < m);
                    T *p = group + *at * width;
                    for (int k = 0; k < vectors; k++)
                        NAME(store)(p + k * VL, NAME(load)(p + k * VL) + *w * g[k]);
                }
        }
        NAME(unpack)(dx + from * m, dxt, tokens, groups * m, d, width);
    }
}

/* Blocks lo..hi of `vectors` VL tokens and groups first..last of dx; scratch (f + span m) vectors VL. */
CLONES void NAME(nm_dx_blocks)(T *dx, T *scratch, const T *dy, const T *data, const uint8_t *position, ptrdiff_t tokens,
                               ptrdiff_t d, ptrdiff_t f, int n, int m, ptrdiff_t span, int vectors, ptrdiff_t lo,
                               ptrdiff_t hi, ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t width = vectors * VL;
    for (ptrdiff_t t = lo * width; t < tokens && t < hi * width; t += width) {
        const ptrdiff_t here = tokens - t < width ? tokens - t : width;
        T *to = dx + t * d;
        const T *from = dy + t * f;
        if (vectors == 4)
            NAME(nm_dx_block)(to, scratch, from, data, position, here, d, f, n, m, span, first, last, 4);
        else if (vectors == 2)
            NAME(nm_dx_block)(to, scratch, from, data, position, here, d, f, n, m, span, first, last, 2);
        else
            NAME(nm_dx_block)(to, scratch, from, data, position, here, d, f, n, m, span, first, last, 1);
    }
}

/* Rows lo..hi into the transpose: each entry to where the cursor of its column stands, which moves on. */
CLONES void NAME(nm_place)(T *values, int32_t *rows, int64_t *cursor, const T *data, const uint8_t *position, ptrdiff_t d,
                           int n, int m, ptrdiff_t lo, ptrdiff_t hi) {
    const ptrdiff_t groups = d / m;
    const uint8_t *at = position + lo * groups * n;
    const T *w = data + lo * groups * n;
    for (ptrdiff_t row = lo; row < hi; row++)
        for (ptrdiff_t g = 0; g < groups; g++)
            for (int s = 0; s < n; s++) {
                const int64_t e = cursor[g * m + *at++]++;
                values[e] = *w++;
                rows[e] = (int32_t)row;
            }
}

/* One token, y = W x: rows `row`..row + `rows` (a constant), side by side; n is a constant where it is small. */
INLINE void NAME(nm_token_rows)(T *y, const T *x, const T *data, const uint8_t *position, ptrdiff_t groups, const int n,
                                int m, const int rows) {
    T sum[4] = {0};
    const ptrdiff_t stored = groups * n;
    for (ptrdiff_t g = 0; g < groups; g++, x += m)
        for (int s = 0; s < n; s++) {
            SCALAR;
            for (int i = 0; i < rows; i++)
                sum[i] += data[i * stored + g * n + s] * x[position[i * stored + g * n + s]];
        }
    for (int i = 0; i < rows; i++)
        y[i] = sum[i];
}

CLONES void NAME(nm_token)(T *y, const T *x, const T *data, const uint8_t *position, ptrdiff_t d, int n, int m,
                           ptrdiff_t lo, ptrdiff_t hi) {
    const ptrdiff_t groups = d / m, stored = groups * n;
    ptrdiff_t row = lo;
    for (; row + 4 <= hi; row += 4)
        if (n == 2)
            NAME(nm_token_rows)(y + row, x, data + row * stored, position + row * stored, groups, 2, m, 4);
        else
            NAME(nm_token_rows)(y + row, x, data + row * stored, position + row * stored, groups, n, m, 4);
    for (; row < hi; row++)
        NAME(nm_token_rows)(y + row, x, data + row * stored, position + row * stored, groups, n, m, 1);
}

/* One token, dx = Wᵀ dy: groups first..last. */
CLONES void NAME(nm_dx_token)(T *dx, const T *dy, const T *data, const uint8_t *position, ptrdiff_t d, ptrdiff_t f, int n,
                              int m, ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t stored = d / m * n;
    memset(dx + first * m, 0, (size_t)((last - first) * m) * sizeof(T));
    for (ptrdiff_t row = 0; row < f; row++) {
        const T g = dy[row], *w = data + row * stored;
        const uint8_t *at = position + row * stored;
        for (ptrdiff_t group = first; group < last; group++)
            for (ptrdiff_t q = group * n; q < group * n + n; q++)
                dx[group * m + at[q]] += w[q] * g;
    }
}

/* ddata[row, q] = Σ_t dy[t, row] x[t, column of q] for rows lo..hi, from dy and x packed in pieces of `vectors` vectors. */
CLONES void NAME(nm_ddata_rows)(T *ddata, const T *dyt, const T *xt, const uint8_t *position, ptrdiff_t pieces, int vectors,
                                ptrdiff_t d, ptrdiff_t f, int n, int m, ptrdiff_t span, ptrdiff_t lo, ptrdiff_t hi) {
    const ptrdiff_t width = vectors * VL, groups = d / m, stored = groups * n;
    int32_t base[256], columns[256]; /* n <= m <= 256 */
    if (span * n > 256)
        span = 256 / n;
    for (ptrdiff_t b = 0; b < pieces; b++, dyt += f * width, xt += d * width)
        for (ptrdiff_t first = 0; first < groups; first += span) {
            const ptrdiff_t here = groups - first < span ? groups - first : span, count = here * n;
            for (ptrdiff_t g = 0; g < here; g++)
                for (int s = 0; s < n; s++)
                    base[g * n + s] = (int32_t)((first + g) * m);
            for (ptrdiff_t row = lo; row < hi; row++) {
                const T *g = dyt + row * width;
                const uint8_t *at = position + row * stored + first * n;
                T *out = ddata + row * stored + first * n;
                for (ptrdiff_t q = 0; q < count; q++) {
                    CHECK(at[q] < m);
                    columns[q] = base[q] + at[q];
                }
                if (vectors == 8)
                    NAME(ddata_row_i32)(out, g, xt, columns, count, width, b > 0, 8);
                else if (vectors == 6)
                    NAME(ddata_row_i32)(out, g, xt, columns, count, width, b > 0, 6);
                else if (vectors == 4)
                    NAME(ddata_row_i32)(out, g, xt, columns, count, width, b > 0, 4);
                else if (vectors == 2)
                    NAME(ddata_row_i32)(out, g, xt, columns, count, width, b > 0, 2);
                else
                    NAME(ddata_row_i32)(out, g, xt, columns, count, width, b > 0, 1);
            }
        }
}

/* The same for one token. */
CLONES void NAME(nm_ddata_token)(T *ddata, const T *dy, const T *x, const uint8_t *position, ptrdiff_t d, int n, int m,
                                 ptrdiff_t lo, ptrdiff_t hi) {
    const ptrdiff_t groups = d / m;
    for (ptrdiff_t row = lo; row < hi; row++) {
        const T g = dy[row];
        T *out = ddata + row * groups * n;
        const uint8_t *at = position + row * groups * n;
        for (ptrdiff_t group = 0; group < groups; group++, out += n, at += n)
            for (int s = 0; s < n; s++)
                out[s] = g * x[group * m + at[s]];
    }
}
