/* What every leaf loop shares: attributes, checks, and the bits of a number.
 *
 * Leaf loops are compiled three times (x86-64-v4, -v3, baseline) and chosen when the library is loaded.  The bits they
 * compute do not depend on the choice: no contraction (-ffp-contract=off), no reassociation, reductions over a fixed
 * number of lanes summed as a fixed tree (lanes.h), exp as a polynomial of plain multiplications and additions (exp.h).
 */
#ifndef PYMOE_SIMD_H
#define PYMOE_SIMD_H

#include <complex.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef PYMOE_TARGET_CLONES /* setup.py: the compiler and the C library can choose at load time */
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

#define INLINE static inline __attribute__((always_inline))
#define BYTES_OF_VECTOR 64 /* of the widest SIMD level; narrower ones use several registers for one such vector */

/* The iterations of the next loop touch different memory: outputs are fresh arrays (checked in _cython.pyx). */
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define INDEPENDENT _Pragma("GCC ivdep")
#else
#define INDEPENDENT
#endif

/* In a loop body: leave it scalar.  Gathering single numbers into vectors, and scattering them, costs more than it saves. */
#define SCALAR __asm__ volatile("")

#ifdef PYMOE_DEBUG /* PYMOE_DEBUG_BUILD=1: the callers have checked, and this shows it */
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "pymoe: %s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);                       \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)
#else
#define CHECK(condition) ((void)0)
#endif

INLINE uint32_t bits_f32(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

INLINE uint64_t bits_f64(double x) {
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

INLINE float from_bits_f32(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

INLINE double from_bits_f64(uint64_t u) {
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

#endif
