/* The leaf templates, in the order of their use; included by kernels.h once for each type, so without a guard.
 *
 *   T element type    R its real type    V a vector of VL elements of T    H one of HL, 16 bytes    BITS the width of R
 *   NAME(f) f with the suffix of the type    REAL(x) what decisions look at    SQRT, ABS
 *   of those with an index: INT its type    INAME(f) f with both suffixes    ORDERED(indices, indptr, columns, lo, hi) rows
 */
#include "lanes.h"
#include "rows.h"
#include "select.h"
#include "activations.h"
#include "experts.h"
#include "softmax.h"
#include "rotate.h"
#include "adamw.h"
#include "norm.h"
#include "turn.h"

#define INT int32_t
#define INAME(leaf) NAME(leaf##_i32)
#define ORDERED rows_in_order_i32
#include "csr.h"
#undef INT
#undef INAME
#undef ORDERED

#define INT int64_t
#define INAME(leaf) NAME(leaf##_i64)
#define ORDERED rows_in_order_i64
#include "csr.h"
#undef INT
#undef INAME
#undef ORDERED

#include "bsr.h"
#include "nm.h"
#include "prune.h"
