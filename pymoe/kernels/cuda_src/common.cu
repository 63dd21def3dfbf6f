// What every kernel uses.  The files of this folder are compiled as one translation unit (pymoe.kernels.cuda.source),
// this one first.  They include nothing, so that NVRTC needs no header and a host compiler can run them as they are
// (tests/gpu/host_shim.h).
//
// Rules: gather form, every output element is written by exactly one thread; no atomics; sums in a fixed order, so the
// bits do not depend on the run; offsets are 64 bits wide; a kernel loops over its grid, so any grid is right.
// An index outside its range cannot reach memory: it gives NaN (the host refuses it before; see cuda.py).

typedef long long i64;

const int WARP = 32;

// Sum over the 32 lanes, the same tree in every run.  a + b is commutative, so every lane holds the same bits.
template <typename T> __device__ T warp_sum(T v) {
    for (int step = WARP / 2; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

// The largest of the 32 lanes; a NaN may be lost here, callers meet it again in their sum.
template <typename T> __device__ T warp_max(T v) {
    for (int step = WARP / 2; step > 0; step /= 2) {
        T other = __shfl_xor_sync(0xffffffffu, v, step);
        v = other > v ? other : v;
    }
    return v;
}

// One warp owns one row: the first row of this warp, and how many warps the grid has.
__device__ i64 first_warp() { return ((i64)blockIdx.x * blockDim.x + threadIdx.x) / WARP; }
__device__ i64 all_warps() { return (i64)gridDim.x * (blockDim.x / WARP); }

template <typename T> __device__ T not_a_number() {
    T zero = 0;
    return zero / zero;
}

template <typename T> __device__ bool is_nan(T v) { return v != v; }
