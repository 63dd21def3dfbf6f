// The nonlinear part of an expert, forward and backward.  x = [g | u] in the gated kernels.

template <typename T, typename Act> __global__ void act_forward(const T* x, T* out, i64 size) {
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += (i64)gridDim.x * blockDim.x)
        out[i] = Act::f(x[i]);
}

template <typename T, typename Act> __global__ void act_backward(const T* dh, const T* x, T* dx, i64 size) {
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += (i64)gridDim.x * blockDim.x)
        dx[i] = dh[i] * Act::df(x[i]);
}

// h = act(g) u
template <typename T, typename Act> __global__ void glu_forward(const T* x, T* h, i64 n, i64 f) {
    for (i64 r = blockIdx.x; r < n; r += gridDim.x)
        for (i64 c = threadIdx.x; c < f; c += blockDim.x)
            h[r * f + c] = Act::f(x[r * 2 * f + c]) * x[r * 2 * f + f + c];
}

// dx = [dh u act'(g) | dh act(g)]
template <typename T, typename Act> __global__ void glu_backward(const T* dh, const T* x, T* dx, i64 n, i64 f) {
    for (i64 r = blockIdx.x; r < n; r += gridDim.x) {
        const T* row = x + r * 2 * f;
        for (i64 c = threadIdx.x; c < f; c += blockDim.x) {
            T g = row[c], u = row[f + c], d = dh[r * f + c];
            dx[r * 2 * f + c] = d * u * Act::df(g);
            dx[r * 2 * f + f + c] = d * Act::f(g);
        }
    }
}

// With h = act(g) u: dx = glu_backward(weight dh, x), wh = weight h, dweight = <dh, h>.  One warp per row.
template <typename T, typename Act>
__global__ void weighted_glu_backward(const T* dh, const T* x, const T* weight, T* dx, T* wh, T* dweight, i64 n, i64 f) {
    int lane = threadIdx.x % WARP;
    for (i64 r = first_warp(); r < n; r += all_warps()) {
        const T* row = x + r * 2 * f;
        T w = weight[r], dot = T(0);
        for (i64 c = lane; c < f; c += WARP) {
            T g = row[c], u = row[f + c], d = dh[r * f + c];
            T a = Act::f(g), h = a * u, wd = w * d;
            dx[r * 2 * f + c] = wd * u * Act::df(g);
            dx[r * 2 * f + f + c] = wd * a;
            wh[r * f + c] = w * h;
            dot += d * h;
        }
        dot = warp_sum(dot);
        if (lane == 0) dweight[r] = dot;
    }
}

// The same for h = act(x).
template <typename T, typename Act>
__global__ void weighted_act_backward(const T* dh, const T* x, const T* weight, T* dx, T* wh, T* dweight, i64 n, i64 f) {
    int lane = threadIdx.x % WARP;
    for (i64 r = first_warp(); r < n; r += all_warps()) {
        T w = weight[r], dot = T(0);
        for (i64 c = lane; c < f; c += WARP) {
            T v = x[r * f + c], d = dh[r * f + c], h = Act::f(v);
            dx[r * f + c] = w * d * Act::df(v);
            wh[r * f + c] = w * h;
            dot += d * h;
        }
        dot = warp_sum(dot);
        if (lane == 0) dweight[r] = dot;
    }
}
