// Softmax of each row and its backward (one warp per row), and the optimiser step (one thread per element).

// p = exp(x - max) / sum over the first limit[r] columns, 0 in the others; a row of nothing but -inf gives zeros.
template <typename T> __global__ void softmax(const T* x, const i64* limit, T* p, i64 rows, i64 columns) {
    int lane = threadIdx.x % WARP;
    for (i64 r = first_warp(); r < rows; r += all_warps()) {
        const T* in = x + r * columns;
        T* out = p + r * columns;
        i64 seen = limit[r] < columns ? limit[r] : columns;
        T top = seen > 0 ? in[0] : T(0);
        for (i64 c = lane; c < seen; c += WARP) top = in[c] > top ? in[c] : top;
        top = warp_max(top);
        if (isinf(top) && top < T(0)) top = T(0);  // all -inf: exp(-inf - 0) = 0
        T sum = T(0);
        for (i64 c = lane; c < columns; c += WARP) {
            T e = c < seen ? exp(in[c] - top) : T(0);
            out[c] = e;  // read again below by this lane only
            sum += e;
        }
        sum = warp_sum(sum);
        if (sum == T(0)) sum = T(1);
        for (i64 c = lane; c < columns; c += WARP) out[c] = out[c] / sum;
    }
}

// dx = p (dp - <p, dp>)
template <typename T> __global__ void softmax_backward(const T* dp, const T* p, T* dx, i64 rows, i64 columns) {
    int lane = threadIdx.x % WARP;
    for (i64 r = first_warp(); r < rows; r += all_warps()) {
        T dot = T(0);
        for (i64 c = lane; c < columns; c += WARP) dot += p[r * columns + c] * dp[r * columns + c];
        dot = warp_sum(dot);
        for (i64 c = lane; c < columns; c += WARP) dx[r * columns + c] = p[r * columns + c] * (dp[r * columns + c] - dot);
    }
}

// One AdamW step into new arrays; c1 = 1 - beta1, c2 = 1 - beta2, a = 1/(1 - beta1^t), b = 1/(1 - beta2^t).
template <typename T>
__global__ void adamw(const T* p, const T* g, const T* m, const T* v, T* new_p, T* new_m, T* new_v, i64 size,
                      T lr, T beta1, T c1, T beta2, T c2, T eps, T decay, T a, T b) {
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += (i64)gridDim.x * blockDim.x) {
        T first = beta1 * m[i] + c1 * g[i];
        T second = beta2 * v[i] + c2 * (g[i] * g[i]);
        new_p[i] = p[i] - lr * (first * a / (sqrt(second * b) + eps) + decay * p[i]);
        new_m[i] = first;
        new_v[i] = second;
    }
}
