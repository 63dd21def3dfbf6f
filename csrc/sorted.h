/* Are the columns of a sparse matrix in order?  One check for all types. */
#ifndef PYMOE_SORTED_H
#define PYMOE_SORTED_H

#include "simd.h"

/* Do the columns of each row ascend strictly within [0, columns)?  Then the first and the last bound all others. */
CLONES int sorted_columns(const int64_t *indices, const int64_t *indptr, ptrdiff_t columns, ptrdiff_t lo, ptrdiff_t hi) {
    int64_t wrong = 0;
    for (ptrdiff_t row = lo; row < hi; row++) {
        const ptrdiff_t from = indptr[row], to = indptr[row + 1];
        if (from == to)
            continue;
        wrong |= (indices[from] < 0) | (indices[to - 1] >= columns);
        for (ptrdiff_t e = from; e + 1 < to; e++)
            wrong |= indices[e] >= indices[e + 1];
    }
    return !wrong;
}

#endif
