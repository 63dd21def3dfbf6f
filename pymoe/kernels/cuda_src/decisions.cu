// Choices: top-k of each row, N:M masks.  Both use one order: larger first, NaN last, ties to the lower index.

template <typename T> __device__ bool before(T a, i64 ia, T b, i64 ib) {
    bool na = is_nan(a), nb = is_nan(b);
    if (na != nb) return nb;
    if (!na && a != b) return a > b;  // -0 == +0: a tie
    return ia < ib;
}

// idx[t, :] = ids of the k first of s[t, :] in that order.  One warp per row; round j looks for the first entry that comes
// after the entry chosen in round j - 1, so nothing has to be marked as taken.
template <typename T> __global__ void topk(const T* s, i64* idx, i64 tokens, i64 experts, i64 k) {
    int lane = threadIdx.x % WARP;
    for (i64 t = first_warp(); t < tokens; t += all_warps()) {
        const T* row = s + t * experts;
        T last = T(0);
        i64 last_id = -1;  // none yet
        for (i64 j = 0; j < k; j++) {
            T best = T(0);
            i64 best_id = -1;
            for (i64 e = lane; e < experts; e += WARP) {
                T v = row[e];
                bool open = last_id < 0 || before(last, last_id, v, e);
                if (open && (best_id < 0 || before(v, e, best, best_id))) {
                    best = v;
                    best_id = e;
                }
            }
            for (int step = WARP / 2; step > 0; step /= 2) {
                T v = __shfl_xor_sync(0xffffffffu, best, step);
                i64 e = __shfl_xor_sync(0xffffffffu, best_id, step);
                if (e >= 0 && (best_id < 0 || before(v, e, best, best_id))) {
                    best = v;
                    best_id = e;
                }
            }
            if (lane == 0) idx[t * k + j] = best_id;
            last = best;
            last_id = best_id;
        }
    }
}

// mask[i]: is |w[i]| among the n first of its block of m?  One thread per element counts who comes before it.
template <typename T> __global__ void nm_mask(const T* w, bool* mask, i64 size, i64 n, i64 m) {
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += (i64)gridDim.x * blockDim.x) {
        i64 lo = i - i % m, rank = 0;
        T mine = w[i] < T(0) ? -w[i] : w[i];
        for (i64 c = lo; c < lo + m; c++) {
            T other = w[c] < T(0) ? -w[c] : w[c];
            rank += before(other, c, mine, i);
        }
        mask[i] = rank < n;
    }
}
