/* f(x) and f'(x) of pymoe/kernels/activations.py, the same formulas.  ``act`` is a constant wherever these are inlined. */

typedef struct {
    T f, df;
} NAME(pair);

INLINE NAME(pair) NAME(activation)(const int act, T x) {
    const R c = (R)0.7978845608028654, a = (R)0.044715; /* √(2/π); in double, as in the definition */
    NAME(pair) out = {x, 1};
    if (act == RELU || act == RELU_SQUARED) {
        T r = REAL(x) > 0 ? x : 0;
        out.f = act == RELU ? r : r * r;
        out.df = act == RELU ? (T)(REAL(x) > 0 ? 1 : 0) : 2 * r;
    } else if (act == GELU) {
        T p = (1 + NAME(erf)(x * (R)0.7071067811865476)) * (R)0.5;
        out.f = x * p;
        out.df = p + x * (NAME(exp)(-x * x * (R)0.5) * (R)0.3989422804014327); /* 1/√(2π) */
    } else if (act == SIGMOID || act == SILU || act == GELU_TANH) {
        T z = act == GELU_TANH ? 2 * (c * (x + a * x * x * x)) : x; /* (1 + tanh(y))/2 = σ(2y): nothing cancels */
        int positive = REAL(z) >= 0;
        T e = NAME(exp)(positive ? -z : z); /* in (0, 1]: cannot overflow */
        T s = (positive ? 1 : e) / (1 + e), q = (positive ? e : 1) / (1 + e); /* σ and 1 - σ */
        if (act == SIGMOID) {
            out.f = s;
            out.df = s * q;
        } else if (act == SILU) {
            out.f = x * s;
            out.df = s * (1 + x * q);
        } else {
            out.f = x * s;
            out.df = s + x * (s * q * (2 * c) * (1 + 3 * a * x * x));
        }
    }
    return out;
}

/* One copy of a loop for each activation, so that ``act`` is a constant in it. */
#define FOR_EACH_ACTIVATION(body)                                                                                      \
    switch (act) {                                                                                                     \
    case SILU: body(SILU); break;                                                                                      \
    case GELU: body(GELU); break;                                                                                      \
    case GELU_TANH: body(GELU_TANH); break;                                                                            \
    case RELU: body(RELU); break;                                                                                      \
    case RELU_SQUARED: body(RELU_SQUARED); break;                                                                      \
    case SIGMOID: body(SIGMOID); break;                                                                                \
    default: body(IDENTITY); break;                                                                                    \
    }
