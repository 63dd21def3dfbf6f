/* A linear map with a weight stored in blocks, and its two gradients.
 *
 * y and dx are one loop: an output block sums over the blocks that meet it, in their order, and within a block over its
 * `reduced` side, ascending.  Element (o, s) of a block, o along the output, is data[o · step_o + s · step_s], so that dx
 * reads the blocks of W where they lie, by a list of their numbers for each block column.  As in csr.h the vectors run
 * over tokens; a tile of rows x vectors stays in registers, each load of a token vector serving all rows of the tile.
 */

typedef struct {
    const T *data;
    const int64_t *number; /* of each block in data; NULL: 0, 1, ... */
    const int64_t *place;  /* of each block along the reduced side, in blocks */
    const int64_t *ptr;    /* blocks ptr[i]..ptr[i + 1] meet output block i */
    ptrdiff_t out, reduced, step_o, step_s;
} NAME(blocks);

/* tile[o, :] for o < rows (a constant): output rows from `o` of output block i, m (a constant) vectors of tokens. */
INLINE void NAME(bsr_tile)(T *tile, const T *xt, const NAME(blocks) * w, ptrdiff_t i, ptrdiff_t o, const int rows,
                           const int m) {
    const ptrdiff_t width = m * VL, step_o = w->step_o, step_s = w->step_s, reduced = w->reduced;
    V sum[4][4];
    memset(sum, 0, sizeof sum);
    for (ptrdiff_t e = w->ptr[i]; e < w->ptr[i + 1]; e++) {
        const T *q = w->data + (w->number ? w->number[e] : e) * w->out * reduced + o * step_o;
        const T *p = xt + w->place[e] * reduced * width;
        for (ptrdiff_t s = 0; s < reduced; s++, p += width, q += step_s) {
            V x[4];
            for (int k = 0; k < m; k++)
                x[k] = NAME(load)(p + k * VL);
            for (int r = 0; r < rows; r++) {
                const T a = q[r * step_o];
                for (int k = 0; k < m; k++)
                    sum[r][k] += a * x[k];
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int k = 0; k < m; k++)
            NAME(store)(tile + r * width + k * VL, sum[r][k]);
}

INLINE void NAME(bsr_block)(T *y, T *scratch, const T *x, const NAME(blocks) * w, ptrdiff_t tokens, ptrdiff_t d,
                            ptrdiff_t f, ptrdiff_t first, ptrdiff_t last, const int m) {
    const ptrdiff_t width = m * VL;
    T *xt = scratch, *tile = scratch + d * width;
    NAME(pack)(xt, x, tokens, d, d, width);
    for (ptrdiff_t i = first; i < last; i++)
        for (ptrdiff_t from = 0; from < w->out; from += 16) {
            const ptrdiff_t rows = w->out - from < 16 ? w->out - from : 16;
            ptrdiff_t o = 0;
            for (; o + 4 <= rows; o += 4)
                NAME(bsr_tile)(tile + o * width, xt, w, i, from + o, 4, m);
            for (; o < rows; o++)
                NAME(bsr_tile)(tile + o * width, xt, w, i, from + o, 1, m);
            NAME(unpack)(y + i * w->out + from, tile, tokens, rows, f, width);
        }
}

/* Blocks lo..hi of m VL tokens, m 1, 2 or 4, and output blocks first..last: their part of y (n, f) from x (n, d).
 * scratch (d + 16) m VL.  For dx: y is dx, x is dy, and the lists are those of the block columns. */
CLONES void NAME(bsr_blocks)(T *y, T *scratch, const T *x, const T *data, const int64_t *number, const int64_t *place,
                             const int64_t *ptr, ptrdiff_t n, ptrdiff_t d, ptrdiff_t f, ptrdiff_t out, ptrdiff_t reduced,
                             ptrdiff_t step_o, ptrdiff_t step_s, int m, ptrdiff_t lo, ptrdiff_t hi, ptrdiff_t first,
                             ptrdiff_t last) {
    const NAME(blocks) w = {data, number, place, ptr, out, reduced, step_o, step_s};
    const ptrdiff_t width = m * VL;
    for (ptrdiff_t t = lo * width; t < n && t < hi * width; t += width) {
        const ptrdiff_t tokens = n - t < width ? n - t : width;
        if (m == 4)
            NAME(bsr_block)(y + t * f, scratch, x + t * d, &w, tokens, d, f, first, last, 4);
        else if (m == 2)
            NAME(bsr_block)(y + t * f, scratch, x + t * d, &w, tokens, d, f, first, last, 2);
        else
            NAME(bsr_block)(y + t * f, scratch, x + t * d, &w, tokens, d, f, first, last, 1);
    }
}

/* One token, y = W x: rows a..a + `groups` HL (a constant) of block row i.  The sums of HL rows are one vector, whose
 * columns of W come from small transposes. */
INLINE void NAME(bsr_token_rows)(T *y, const T *x, const T *data, const int64_t *indices, ptrdiff_t from, ptrdiff_t to,
                                 ptrdiff_t r, ptrdiff_t c, ptrdiff_t a, const int groups) {
    H sum[4];
    memset(sum, 0, sizeof sum);
    for (ptrdiff_t e = from; e < to; e++) {
        const T *w = data + (e * r + a) * c, *p = x + indices[e] * c;
        ptrdiff_t b = 0;
        for (; b + HL <= c; b += HL)
            for (int g = 0; g < groups; g++) {
                H column[HL];
                for (int u = 0; u < HL; u++)
                    column[u] = NAME(load_h)(w + (g * HL + u) * c + b);
                NAME(turn)(column);
                for (int u = 0; u < HL; u++)
                    sum[g] += column[u] * p[b + u];
            }
        for (; b < c; b++)
            for (int g = 0; g < groups; g++) {
                T column[HL];
                for (int u = 0; u < HL; u++)
                    column[u] = w[(g * HL + u) * c + b];
                sum[g] += NAME(load_h)(column) * p[b];
            }
    }
    for (int g = 0; g < groups; g++)
        NAME(store_h)(y + a + g * HL, sum[g]);
}

CLONES void NAME(bsr_token)(T *y, const T *x, const T *data, const int64_t *indices, const int64_t *indptr, ptrdiff_t r,
                            ptrdiff_t c, ptrdiff_t lo, ptrdiff_t hi) {
    for (ptrdiff_t i = lo; i < hi; i++) {
        T *to = y + i * r;
        ptrdiff_t a = 0;
        for (; a + 4 * HL <= r; a += 4 * HL)
            NAME(bsr_token_rows)(to, x, data, indices, indptr[i], indptr[i + 1], r, c, a, 4);
        for (; a + HL <= r; a += HL)
            NAME(bsr_token_rows)(to, x, data, indices, indptr[i], indptr[i + 1], r, c, a, 1);
        for (; a < r; a++) {
            T sum = 0;
            for (ptrdiff_t e = indptr[i]; e < indptr[i + 1]; e++)
                for (ptrdiff_t b = 0; b < c; b++)
                    sum += data[(e * r + a) * c + b] * x[indices[e] * c + b];
            to[a] = sum;
        }
    }
}

/* One token, dx = Wᵀ dy: block columns lo..hi; blocks ptr[j]..ptr[j + 1] of `number` meet block column j in block rows `place`. */
CLONES void NAME(bsr_dx_token)(T *dx, const T *dy, const T *data, const int64_t *number, const int64_t *place,
                               const int64_t *ptr, ptrdiff_t r, ptrdiff_t c, ptrdiff_t lo, ptrdiff_t hi) {
    for (ptrdiff_t j = lo; j < hi; j++) {
        T *to = dx + j * c;
        memset(to, 0, (size_t)c * sizeof(T));
        for (ptrdiff_t e = ptr[j]; e < ptr[j + 1]; e++) {
            const T *w = data + number[e] * r * c, *g = dy + place[e] * r;
            ptrdiff_t a = 0;
            for (; a + 4 <= r; a += 4, w += 4 * c)
                INDEPENDENT for (ptrdiff_t b = 0; b < c; b++) {
                    T sum = to[b] + g[a] * w[b];
                    sum += g[a + 1] * w[c + b];
                    sum += g[a + 2] * w[2 * c + b];
                    to[b] = sum + g[a + 3] * w[3 * c + b];
                }
            for (; a < r; a++, w += c)
                INDEPENDENT for (ptrdiff_t b = 0; b < c; b++) to[b] += g[a] * w[b];
        }
    }
}

/* panels[p, t, l] = x[t, p VL + l] for panels lo..hi, 0 beyond column d: x (tokens, d) */
CLONES void NAME(pack_panels)(T *panels, const T *x, ptrdiff_t tokens, ptrdiff_t d, ptrdiff_t lo, ptrdiff_t hi) {
    for (ptrdiff_t p = lo; p < hi; p++) {
        const ptrdiff_t from = p * VL, columns = d - from < VL ? d - from : VL;
        T *to = panels + p * tokens * VL;
        for (ptrdiff_t t = 0; t < tokens; t++, to += VL)
            if (columns == VL)
                NAME(store)(to, NAME(load)(x + t * d + from));
            else
                for (ptrdiff_t l = 0; l < VL; l++)
                    to[l] = l < columns ? x[t * d + from + l] : 0;
    }
}

/* The tile of `rows` (a constant) rows and `wide` (a constant) panels of one block: Σ_t dy[t, row + i] xp[t, panel],
 * written to columns skip..skip + columns of out (·, c). */
INLINE void NAME(bsr_ddata_tile)(T *out, const T *dyp, const T *xp, ptrdiff_t n, ptrdiff_t row, ptrdiff_t skip,
                                 ptrdiff_t columns, ptrdiff_t c, const int rows, const int wide) {
    V sum[4][2];
    const T *g[4];
    memset(sum, 0, sizeof sum);
    for (int i = 0; i < rows; i++)
        g[i] = dyp + (row + i) / VL * n * VL + (row + i) % VL;
    for (ptrdiff_t from = 0; from < n; from += 256) { /* whole pieces are added to what came before */
        const ptrdiff_t to = n - from < 256 ? n : from + 256;
        V part[4][2];
        memset(part, 0, sizeof part);
        for (ptrdiff_t t = from; t < to; t++) {
            V x[2];
            for (int k = 0; k < wide; k++)
                x[k] = NAME(load)(xp + (k * n + t) * VL);
            for (int i = 0; i < rows; i++)
                for (int k = 0; k < wide; k++)
                    part[i][k] += g[i][t * VL] * x[k];
        }
        for (int i = 0; i < rows; i++)
            for (int k = 0; k < wide; k++)
                sum[i][k] = from ? sum[i][k] + part[i][k] : part[i][k];
    }
    for (int i = 0; i < rows; i++) {
        T whole[2 * VL];
        for (int k = 0; k < wide; k++)
            NAME(store)(whole + k * VL, sum[i][k]);
        memcpy(out + i * c, whole + skip, (size_t)columns * sizeof(T));
    }
}

/* Block rows lo..hi of ddata (·, r, c) from the panels of dy and of x; `wide`, 1 or 2: panels of a tile. */
CLONES void NAME(bsr_ddata_rows)(T *ddata, const T *dyp, const T *xp, const int64_t *indices, const int64_t *indptr,
                                 ptrdiff_t n, ptrdiff_t r, ptrdiff_t c, int wide, ptrdiff_t lo, ptrdiff_t hi) {
    for (ptrdiff_t i = lo; i < hi; i++)
        for (ptrdiff_t e = indptr[i]; e < indptr[i + 1]; e++) {
            const ptrdiff_t begin = indices[e] * c, end = begin + c;
            for (ptrdiff_t from = begin; from < end;) {
                const ptrdiff_t panel = from / VL, skip = from % VL;
                const int two = wide > 1 && end > (panel + 1) * VL;
                const ptrdiff_t room = (two ? 2 * VL : VL) - skip, columns = end - from < room ? end - from : room;
                const T *x = xp + panel * n * VL;
                T *to = ddata + e * r * c + from - begin;
                ptrdiff_t a = 0;
                for (; a + 4 <= r; a += 4)
                    if (two)
                        NAME(bsr_ddata_tile)(to + a * c, dyp, x, n, i * r + a, skip, columns, c, 4, 2);
                    else
                        NAME(bsr_ddata_tile)(to + a * c, dyp, x, n, i * r + a, skip, columns, c, 4, 1);
                for (; a < r; a++)
                    if (two)
                        NAME(bsr_ddata_tile)(to + a * c, dyp, x, n, i * r + a, skip, columns, c, 1, 2);
                    else
                        NAME(bsr_ddata_tile)(to + a * c, dyp, x, n, i * r + a, skip, columns, c, 1, 1);
                from += columns;
            }
        }
}
