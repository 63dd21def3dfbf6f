// Value f and derivative df of each activation: the formulas of pymoe/kernels/activations.py.

template <typename T> __device__ T logistic(T x) {  // from e = exp(-|x|), which cannot overflow
    T e = exp(x >= T(0) ? -x : x);
    return (x >= T(0) ? T(1) : e) / (T(1) + e);
}

struct Sigmoid {
    template <typename T> static __device__ T f(T x) { return logistic(x); }
    template <typename T> static __device__ T df(T x) {
        T s = logistic(x);
        return s * (T(1) - s);
    }
};

struct Silu {
    template <typename T> static __device__ T f(T x) { return x * logistic(x); }
    template <typename T> static __device__ T df(T x) {
        T s = logistic(x);
        return s * (T(1) + x * (T(1) - s));
    }
};

struct Gelu {
    template <typename T> static __device__ T cdf(T x) { return (T(1) + erf(x * T(0.70710678118654752440))) * T(0.5); }
    template <typename T> static __device__ T f(T x) { return x * cdf(x); }
    template <typename T> static __device__ T df(T x) {
        return cdf(x) + x * (exp(-x * x * T(0.5)) * T(0.39894228040143267794));  // 1/sqrt(2 pi)
    }
};

struct GeluTanh {  // c = sqrt(2/pi), a = 0.044715
    template <typename T> static __device__ T t(T x) {
        return tanh(T(0.79788456080286535588) * (x + T(0.044715) * x * x * x));
    }
    template <typename T> static __device__ T f(T x) { return x * ((T(1) + t(x)) * T(0.5)); }
    template <typename T> static __device__ T df(T x) {
        T u = t(x);
        T inner = (T(0.5) * T(0.79788456080286535588)) * (T(1) + T(3) * T(0.044715) * x * x);
        return (T(1) + u) * T(0.5) + x * ((T(1) - u * u) * inner);
    }
};

struct Relu {  // NaN > 0 is false: relu(NaN) is 0, as in the definition
    template <typename T> static __device__ T f(T x) { return x > T(0) ? x : T(0); }
    template <typename T> static __device__ T df(T x) { return x > T(0) ? T(1) : T(0); }
};

struct ReluSquared {
    template <typename T> static __device__ T f(T x) {
        T r = Relu::f(x);
        return r * r;
    }
    template <typename T> static __device__ T df(T x) { return T(2) * Relu::f(x); }
};

struct Identity {
    template <typename T> static __device__ T f(T x) { return x; }
    template <typename T> static __device__ T df(T) { return T(1); }
};
