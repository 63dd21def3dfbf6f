// Dispatch, combine and the sums over groups.  gather and combine: one block per output row, one thread per column.

// out[i, :] = x[rows[i], :]
template <typename T> __global__ void gather(const T* x, const i64* rows, T* out, i64 n, i64 tokens, i64 d) {
    for (i64 i = blockIdx.x; i < n; i += gridDim.x) {
        i64 row = rows[i];
        bool inside = row >= 0 && row < tokens;
        for (i64 c = threadIdx.x; c < d; c += blockDim.x) out[i * d + c] = inside ? x[row * d + c] : not_a_number<T>();
    }
}

// y[t, :] = sum over j, ascending, of weight[t, j] ys[slot[t, j], :]; a negative slot is a dropped choice and adds nothing.
template <typename T, bool WEIGHTED>
__global__ void combine(const T* ys, const T* weight, const i64* slot, T* y, i64 tokens, i64 k, i64 n, i64 d) {
    for (i64 t = blockIdx.x; t < tokens; t += gridDim.x) {
        for (i64 c = threadIdx.x; c < d; c += blockDim.x) {
            T sum = T(0);
            for (i64 j = 0; j < k; j++) {
                i64 row = slot[t * k + j];
                if (row < 0) continue;
                T v = row < n ? ys[row * d + c] : not_a_number<T>();
                sum += WEIGHTED ? weight[t * k + j] * v : v;
            }
            y[t * d + c] = sum;
        }
    }
}

// dweight[t, j] = <dy[t, :], ys[slot[t, j], :]>, 0 where dropped.  One warp per pair (t, j).
template <typename T>
__global__ void combine_dweight(const T* dy, const T* ys, const i64* slot, T* dweight, i64 tokens, i64 k, i64 n, i64 d) {
    int lane = threadIdx.x % WARP;
    for (i64 pair = first_warp(); pair < tokens * k; pair += all_warps()) {
        i64 row = slot[pair], t = pair / k;
        T sum = T(0);
        if (row >= n) sum = not_a_number<T>();
        if (row >= 0 && row < n)
            for (i64 c = lane; c < d; c += WARP) sum += dy[t * d + c] * ys[row * d + c];
        sum = warp_sum(sum);
        if (lane == 0) dweight[pair] = sum;
    }
}

// out[t, idx[t, j]] = v[t, j], 0 elsewhere: each element looks for itself among the K ids of its row.
template <typename T> __global__ void expand(const T* v, const i64* idx, T* out, i64 tokens, i64 k, i64 n) {
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < tokens * n; i += (i64)gridDim.x * blockDim.x) {
        i64 t = i / n, column = i % n;
        T found = T(0);
        for (i64 j = 0; j < k; j++)
            if (idx[t * k + j] == column) found = v[t * k + j];
        out[i] = found;
    }
}

// out[e, :] = sum of x[r, :] over r in [start[e], start[e + 1]), ascending.  Threads over columns (x), groups over y.
template <typename T> __global__ void segment_sum(const T* x, const i64* start, T* out, i64 groups, i64 n, i64 d) {
    for (i64 e = blockIdx.y; e < groups; e += gridDim.y) {
        i64 lo = start[e] > 0 ? start[e] : 0, hi = start[e + 1] < n ? start[e + 1] : n;
        for (i64 c = (i64)blockIdx.x * blockDim.x + threadIdx.x; c < d; c += (i64)gridDim.x * blockDim.x) {
            T sum = T(0);
            for (i64 r = lo; r < hi; r++) sum += x[r * d + c];
            out[e * d + c] = sum;
        }
    }
}
