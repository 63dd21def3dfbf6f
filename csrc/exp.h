/* exp as a polynomial that vectorises (libm's does not without -ffast-math) and has the same bits at every SIMD level.
 *
 *     e^x = 2^n e^r,   n = round(x / ln 2),   r = x - n ln 2,   e^r = 1 + r + r² q(r)
 *
 * ln 2 is split in two so that n·HIGH is exact (Cody and Waite); q interpolates (e^r - 1 - r)/r² at Chebyshev nodes of
 * |r| <= ln 2 / 2 (computed with 60 digits): relative error 1.1e-8 in float, 1.7e-17 in double, before rounding.
 * n is rounded by adding 1.5·2^(mantissa bits); 2^n is built in two factors, so that results below the smallest normal
 * number are rounded once and overflow gives infinity.  -inf -> 0, inf -> inf, NaN -> NaN.
 */
#ifndef PYMOE_EXP_H
#define PYMOE_EXP_H

#include "simd.h"

INLINE float exp_f32(float x) {
    x = x < -104.0f ? -104.0f : x; /* e^-104 rounds to 0; NaN passes both */
    x = x > 89.0f ? 89.0f : x;     /* e^89 overflows */
    float shifted = x * 0x1.715476p+0f + 0x1.8p+23f;
    float n = shifted - 0x1.8p+23f;
    uint32_t i = bits_f32(shifted) - 0x4B400000u + 512u; /* n + 512 > 0 */
    float r = (x - n * 0x1.63p-1f) - n * -0x1.bd0106p-13f;
    float q = 0x1.6d110ap-10f;
    q = q * r + 0x1.120b6ep-7f;
    q = q * r + 0x1.55551ap-5f;
    q = q * r + 0x1.5554dcp-3f;
    q = q * r + 0.5f;
    float y = (r * r) * q + r + 1.0f;
    uint32_t half = i >> 1; /* floor(n/2) + 256 */
    return y * from_bits_f32((half - 256u + 127u) << 23) * from_bits_f32((i - half - 256u + 127u) << 23);
}

INLINE double exp_f64(double x) {
    x = x < -746.0 ? -746.0 : x;
    x = x > 710.0 ? 710.0 : x;
    double shifted = x * 0x1.71547652b82fep+0 + 0x1.8p+52;
    double n = shifted - 0x1.8p+52;
    uint64_t i = bits_f64(shifted) - 0x4338000000000000u + 4096u;
    double r = (x - n * 0x1.62e42fefa2p-1) - n * 0x1.9ef35793c7673p-41;
    double q = 0x1.af38a9b0ec855p-26;
    q = q * r + 0x1.289185613a3d6p-22;
    q = q * r + 0x1.71de0dae63bb3p-19;
    q = q * r + 0x1.a019b90d2ae7ap-16;
    q = q * r + 0x1.a01a01a7c41d5p-13;
    q = q * r + 0x1.6c16c1788bd90p-10;
    q = q * r + 0x1.11111111109b3p-7;
    q = q * r + 0x1.5555555553d63p-5;
    q = q * r + 0x1.5555555555556p-3;
    q = q * r + 0x1.0000000000001p-1;
    double y = (r * r) * q + r + 1.0;
    uint64_t half = i >> 1;
    return y * from_bits_f64((half - 2048u + 1023u) << 52) * from_bits_f64((i - half - 2048u + 1023u) << 52);
}

#define exp_f80 expl
#define exp_c128 cexp
#define erf_f32 erff
#define erf_f64 erf
#define erf_f80 erfl
INLINE double _Complex erf_c128(double _Complex z) { return z + NAN; } /* never called: cython.py asks the definition */

#endif
