/* Every leaf for float (f32), double (f64), long double (f80) and double complex (c128), chosen by the type of the first
 * pointer.  A leaf computes rows lo..hi of its output and writes nothing else: threads share no row and no scratch. */
#ifndef PYMOE_KERNELS_H
#define PYMOE_KERNELS_H

#include "exp.h"
#include "sorted.h"

enum activation { SILU, GELU, GELU_TANH, RELU, RELU_SQUARED, SIGMOID, IDENTITY }; /* as in pymoe/kernels/cython.py */

#define TEMPLATES "templates.h"

typedef float vector_f32 __attribute__((vector_size(BYTES_OF_VECTOR)));
typedef double vector_f64 __attribute__((vector_size(BYTES_OF_VECTOR)));
typedef float four_f32 __attribute__((vector_size(16)));
typedef double two_f64 __attribute__((vector_size(16)));
typedef float half_f32 __attribute__((vector_size(BYTES_OF_VECTOR / 2))); /* as many numbers as a vector_f64 */

#define T float
#define R float
#define V vector_f32
#define VL 16
#define H four_f32
#define HL 4
#define BITS 32
#define NAME(leaf) leaf##_f32
#define REAL(x) (x)
#define SQRT sqrtf
#define ABS fabsf
#include TEMPLATES
#undef T
#undef R
#undef V
#undef H
#undef HL
#undef VL
#undef BITS
#undef NAME
#undef SQRT
#undef ABS

#define T double
#define R double
#define V vector_f64
#define VL 8
#define H two_f64
#define HL 2
#define BITS 64
#define NAME(leaf) leaf##_f64
#define SQRT sqrt
#define ABS fabs
#include TEMPLATES
#undef T
#undef V
#undef H
#undef HL
#undef VL
#undef BITS
#undef NAME
#undef REAL
#undef SQRT
#undef ABS

/* The last two are for the gradient check, not for speed: no vectors, no clones. */
#undef CLONES
#define CLONES

#define T double _Complex
#define V double _Complex
#define VL 1
#define H double _Complex
#define HL 1
#define BITS 64
#define NAME(leaf) leaf##_c128
#define REAL(x) creal(x)
#define SQRT csqrt
#define ABS cabs
#include TEMPLATES
#undef T
#undef R
#undef V
#undef H
#undef BITS
#undef NAME
#undef REAL
#undef SQRT
#undef ABS

#define T long double
#define R long double
#define V long double
#define H long double
#define BITS 80
#define NAME(leaf) leaf##_f80
#define REAL(x) (x)
#define SQRT sqrtl
#define ABS fabsl
#include TEMPLATES
#undef T
#undef R
#undef V
#undef H
#undef HL
#undef VL
#undef BITS
#undef NAME
#undef REAL
#undef SQRT
#undef ABS

#define BY_TYPE(leaf, p)                                                                                               \
    _Generic((p),                                                                                                      \
        float *: leaf##_f32,                                                                                           \
        const float *: leaf##_f32,                                                                                     \
        double *: leaf##_f64,                                                                                          \
        const double *: leaf##_f64,                                                                                    \
        long double *: leaf##_f80,                                                                                     \
        const long double *: leaf##_f80,                                                                               \
        double _Complex *: leaf##_c128,                                                                                \
        const double _Complex *: leaf##_c128)

#define combine_rows(p, ...) BY_TYPE(combine_rows, p)(p, __VA_ARGS__)
#define dot_rows(p, ...) BY_TYPE(dot_rows, p)(p, __VA_ARGS__)
#define sum_segments(p, ...) BY_TYPE(sum_segments, p)(p, __VA_ARGS__)
#define topk_rows(p, ...) BY_TYPE(topk_rows, p)(p, __VA_ARGS__)
#define nm_rows(p, ...) BY_TYPE(nm_rows, p)(p, __VA_ARGS__)
#define act_span(p, ...) BY_TYPE(act_span, p)(p, __VA_ARGS__)
#define act_backward_span(p, ...) BY_TYPE(act_backward_span, p)(p, __VA_ARGS__)
#define glu_rows(p, ...) BY_TYPE(glu_rows, p)(p, __VA_ARGS__)
#define glu_backward_rows(p, ...) BY_TYPE(glu_backward_rows, p)(p, __VA_ARGS__)
#define weighted_glu_rows(p, ...) BY_TYPE(weighted_glu_rows, p)(p, __VA_ARGS__)
#define weighted_act_rows(p, ...) BY_TYPE(weighted_act_rows, p)(p, __VA_ARGS__)
#define softmax_rows(p, ...) BY_TYPE(softmax_rows, p)(p, __VA_ARGS__)
#define softmax_backward_rows(p, ...) BY_TYPE(softmax_backward_rows, p)(p, __VA_ARGS__)
#define rotate_rows(p, ...) BY_TYPE(rotate_rows, p)(p, __VA_ARGS__)
#define rms_norm_rows(p, ...) BY_TYPE(rms_norm_rows, p)(p, __VA_ARGS__)
#define rms_norm_backward_blocks(p, ...) BY_TYPE(rms_norm_backward_blocks, p)(p, __VA_ARGS__)
#define sum_blocks(p, ...) BY_TYPE(sum_blocks, p)(p, __VA_ARGS__)
#define pack_columns(p, ...) BY_TYPE(pack_columns, p)(p, __VA_ARGS__)
#define pack_panels(p, ...) BY_TYPE(pack_panels, p)(p, __VA_ARGS__)
#define bsr_blocks(p, ...) BY_TYPE(bsr_blocks, p)(p, __VA_ARGS__)
#define bsr_token(p, ...) BY_TYPE(bsr_token, p)(p, __VA_ARGS__)
#define bsr_dx_token(p, ...) BY_TYPE(bsr_dx_token, p)(p, __VA_ARGS__)
#define bsr_ddata_rows(p, ...) BY_TYPE(bsr_ddata_rows, p)(p, __VA_ARGS__)
#define nm_forward_blocks(p, ...) BY_TYPE(nm_forward_blocks, p)(p, __VA_ARGS__)
#define nm_dx_blocks(p, ...) BY_TYPE(nm_dx_blocks, p)(p, __VA_ARGS__)
#define nm_place(p, ...) BY_TYPE(nm_place, p)(p, __VA_ARGS__)
#define nm_token(p, ...) BY_TYPE(nm_token, p)(p, __VA_ARGS__)
#define nm_dx_token(p, ...) BY_TYPE(nm_dx_token, p)(p, __VA_ARGS__)
#define nm_ddata_rows(p, ...) BY_TYPE(nm_ddata_rows, p)(p, __VA_ARGS__)
#define nm_ddata_token(p, ...) BY_TYPE(nm_ddata_token, p)(p, __VA_ARGS__)

/* those with an index, which comes second */
#define BY_INDEX(leaf, p, i)                                                                                           \
    _Generic((i),                                                                                                      \
        const int32_t *: BY_TYPE(leaf##_i32, p),                                                                       \
        const int64_t *: BY_TYPE(leaf##_i64, p))
#define csr_forward_blocks(p, i, ...) BY_INDEX(csr_forward_blocks, p, i)(p, i, __VA_ARGS__)
#define csr_forward_token(p, i, ...) BY_INDEX(csr_forward_token, p, i)(p, i, __VA_ARGS__)
#define csr_span_blocks(p, i, ...) BY_INDEX(csr_span_blocks, p, i)(p, i, __VA_ARGS__)
#define csr_dx_blocks(p, i, ...) BY_INDEX(csr_dx_blocks, p, i)(p, i, __VA_ARGS__)
#define csr_dx_token(p, i, ...) BY_INDEX(csr_dx_token, p, i)(p, i, __VA_ARGS__)
#define csr_place(p, i, ...) BY_INDEX(csr_place, p, i)(p, i, __VA_ARGS__)
#define csr_ddata_rows(p, i, ...) BY_INDEX(csr_ddata_rows, p, i)(p, i, __VA_ARGS__)
#define csr_ddata_token(p, i, ...) BY_INDEX(csr_ddata_token, p, i)(p, i, __VA_ARGS__)
#define prune_all(p, ...) BY_TYPE(prune_all, p)(p, __VA_ARGS__)
#define adamw_span(p, ...) BY_TYPE(adamw_span, p)(p, __VA_ARGS__)

#endif
