/* Is the structure of a sparse matrix in order?  Once for all types of values, for each type of index. */
#ifndef PYMOE_SORTED_H
#define PYMOE_SORTED_H

#include "simd.h"

/* Rows lo..hi: do the columns of each ascend strictly within [0, columns)?  Then the first and the last bound all others.
 * One pass over all entries, without a stop at each row: falls are allowed where a row begins, and nowhere else. */
#define ROWS_IN_ORDER(INT, SUFFIX)                                                                                     \
    INLINE int rows_in_order##SUFFIX(const INT *indices, const int64_t *indptr, ptrdiff_t columns, ptrdiff_t lo,       \
                                     ptrdiff_t hi) {                                                                   \
        const ptrdiff_t from = indptr[lo], to = indptr[hi];                                                            \
        INT falls = 0, allowed = 0;                                                                                    \
        int outside = 0;                                                                                               \
        for (ptrdiff_t e = from; e + 1 < to; e++)                                                                      \
            falls += indices[e] >= indices[e + 1];                                                                     \
        for (ptrdiff_t row = lo; row < hi; row++) {                                                                    \
            const ptrdiff_t first = indptr[row], end = indptr[row + 1];                                                \
            if (first == end)                                                                                          \
                continue;                                                                                              \
            outside |= (indices[first] < 0) | (indices[end - 1] >= columns);                                           \
            allowed += first > from && indices[first - 1] >= indices[first];                                           \
        }                                                                                                              \
        return !outside && falls == allowed;                                                                           \
    }                                                                                                                  \
    CLONES int sorted_columns##SUFFIX(const INT *indices, const int64_t *indptr, ptrdiff_t columns, ptrdiff_t lo,      \
                                      ptrdiff_t hi) {                                                                  \
        return rows_in_order##SUFFIX(indices, indptr, columns, lo, hi);                                                \
    }                                                                                                                  \
    /* cut[s, row] = the first entry of the row in column s · span or beyond, s = 0..spans; rows lo..hi of f */          \
    static inline void cut_rows##SUFFIX(int64_t *cut, const INT *indices, const int64_t *indptr, ptrdiff_t span,       \
                                        ptrdiff_t spans, ptrdiff_t f, ptrdiff_t lo, ptrdiff_t hi) {                    \
        for (ptrdiff_t row = lo; row < hi; row++) {                                                                    \
            ptrdiff_t e = indptr[row];                                                                                 \
            for (ptrdiff_t s = 0; s < spans; s++) {                                                                    \
                while (e < indptr[row + 1] && indices[e] < s * span)                                                   \
                    e++;                                                                                               \
                cut[s * f + row] = e;                                                                                  \
            }                                                                                                          \
            cut[spans * f + row] = indptr[row + 1];                                                                    \
        }                                                                                                              \
    }                                                                                                                  \
    /* count[j] += how many of the entries are in column j */                                                          \
    static inline void count_columns##SUFFIX(int64_t *count, const INT *indices, ptrdiff_t entries) {                    \
        for (ptrdiff_t e = 0; e < entries; e++)                                                                        \
            count[indices[e]]++;                                                                                       \
    }

ROWS_IN_ORDER(int32_t, _i32)
ROWS_IN_ORDER(int64_t, _i64)
#undef ROWS_IN_ORDER

#define sorted_columns(indices, ...)                                                                                   \
    _Generic((indices), const int32_t *: sorted_columns_i32, const int64_t *: sorted_columns_i64)(indices, __VA_ARGS__)

#define cut_rows(cut, indices, ...)                                                                                    \
    _Generic((indices), const int32_t *: cut_rows_i32, const int64_t *: cut_rows_i64)(cut, indices, __VA_ARGS__)
#define count_columns(count, indices, entries)                                                                         \
    _Generic((indices), const int32_t *: count_columns_i32, const int64_t *: count_columns_i64)(count, indices, entries)

/* n columns of every m: do the positions of each group ascend strictly within [0, m)?  n > 0. */
INLINE int groups_in_order(const uint8_t *position, ptrdiff_t groups, const int n, int m) {
    int wrong = 0;
    for (ptrdiff_t g = 0; g < groups; g++) {
        wrong |= position[g * n + n - 1] >= m;
        for (int s = 1; s < n; s++)
            wrong |= position[g * n + s - 1] >= position[g * n + s];
    }
    return !wrong;
}

CLONES int sorted_groups(const uint8_t *position, ptrdiff_t groups, int n, int m) {
    return n == 1   ? groups_in_order(position, groups, 1, m)
           : n == 2 ? groups_in_order(position, groups, 2, m)
           : n == 4 ? groups_in_order(position, groups, 4, m)
                    : groups_in_order(position, groups, n, m);
}

/* count[j] += how many of the rows lo..hi store column j */
static inline void count_groups(int64_t *count, const uint8_t *position, ptrdiff_t d, int n, int m, ptrdiff_t lo,
                                ptrdiff_t hi) {
    const ptrdiff_t groups = d / m;
    const uint8_t *at = position + lo * groups * n;
    for (ptrdiff_t row = lo; row < hi; row++)
        for (ptrdiff_t g = 0; g < groups; g++)
            for (int s = 0; s < n; s++)
                count[g * m + *at++]++;
}

/* The first row whose entries begin at or after `entry`: where to cut rows so that threads get equal numbers of entries. */
static inline ptrdiff_t row_at(const int64_t *indptr, ptrdiff_t rows, ptrdiff_t entry) {
    ptrdiff_t lo = 0, hi = rows;
    while (lo < hi) {
        const ptrdiff_t middle = lo + (hi - lo) / 2;
        if (indptr[middle] < entry)
            lo = middle + 1;
        else
            hi = middle;
    }
    return lo;
}

#endif
