/* The leaf templates, in the order of their use; included by kernels.h once for each type, so without a guard.
 *
 *   T element type    R its real type    V a vector of VL elements of T    BITS the width of R
 *   NAME(f) f with the suffix of the type    REAL(x) what decisions look at    SQRT, ABS
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
#include "csr.h"
#include "prune.h"
