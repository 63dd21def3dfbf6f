// Linear maps whose weight is stored in blocks of r x c (CSR: 1 x 1) or as n of every m columns, and their gradients.
// One thread per output element, sums in the order of the stored entries; only what is stored is read.
//
// bsr: block row i has the blocks indptr[i] <= e < indptr[i+1]; block e covers the columns indices[e] c ...

template <typename T, typename I>
__global__ void bsr_linear(const T* x, const T* data, const I* indices, const I* indptr, T* y, i64 n, i64 d, i64 f, i64 nb,
                           i64 r, i64 c) {
    for (i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x; k < n * f; k += (i64)gridDim.x * blockDim.x) {
        i64 t = k / f, row = k % f, i = row / r, a = row % r;
        i64 lo = indptr[i] > 0 ? (i64)indptr[i] : 0, hi = indptr[i + 1] < nb ? (i64)indptr[i + 1] : nb;
        T sum = T(0);
        for (i64 e = lo; e < hi; e++) {
            i64 first = (i64)indices[e] * c;
            if (first < 0 || first + c > d) {
                sum = not_a_number<T>();
                break;
            }
            for (i64 b = 0; b < c; b++) sum += x[t * d + first + b] * data[(e * r + a) * c + b];
        }
        y[k] = sum;
    }
}

// order lists the blocks by block column (ascending rows within), column j has start[j] .. start[j+1]; row[e] is the
// block row of block e.  The three are made from the structure on the device, so they are in range.
template <typename T>
__global__ void bsr_linear_dx(const T* dy, const T* data, const i64* order, const i64* start, const i64* row, T* dx, i64 n,
                              i64 d, i64 f, i64 r, i64 c) {
    for (i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x; k < n * d; k += (i64)gridDim.x * blockDim.x) {
        i64 t = k / d, column = k % d, j = column / c, b = column % c;
        T sum = T(0);
        for (i64 q = start[j]; q < start[j + 1]; q++) {
            i64 e = order[q];
            const T* from = dy + t * f + row[e] * r;
            for (i64 a = 0; a < r; a++) sum += from[a] * data[(e * r + a) * c + b];
        }
        dx[k] = sum;
    }
}

// ddata[e, a, b] = sum over t, ascending, of dy[t, row[e] r + a] x[t, indices[e] c + b].
template <typename T, typename I>
__global__ void bsr_linear_ddata(const T* dy, const T* x, const I* indices, const i64* row, T* ddata, i64 size, i64 n,
                                 i64 d, i64 f, i64 r, i64 c) {
    for (i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x; k < size; k += (i64)gridDim.x * blockDim.x) {
        i64 e = k / (r * c), a = k / c % r, b = k % c, column = (i64)indices[e] * c + b;
        bool inside = column >= 0 && column < d;
        T sum = inside ? T(0) : not_a_number<T>();
        for (i64 t = 0; inside && t < n; t++) sum += dy[t * f + row[e] * r + a] * x[t * d + column];
        ddata[k] = sum;
    }
}

// n of m: entry q of row i is column (q / n) m + position[i, q], positions ascend within a group; s entries a row.

template <typename T>
__global__ void nm_linear(const T* x, const T* data, const unsigned char* position, T* y, i64 rows, i64 d, i64 f, i64 s,
                          i64 n, i64 m) {
    for (i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x; k < rows * f; k += (i64)gridDim.x * blockDim.x) {
        i64 t = k / f, i = k % f;
        const T* from = x + t * d;
        T sum = T(0);
        for (i64 q = 0; q < s; q++) {
            i64 column = q / n * m + position[i * s + q];
            sum += (column < d ? from[column] : not_a_number<T>()) * data[i * s + q];
        }
        y[k] = sum;
    }
}

// dx[t, j] = sum over the rows, ascending, that store column j: at most one of the n entries of its group is it.
template <typename T>
__global__ void nm_linear_dx(const T* dy, const T* data, const unsigned char* position, T* dx, i64 rows, i64 d, i64 f,
                             i64 s, i64 n, i64 m) {
    for (i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x; k < rows * d; k += (i64)gridDim.x * blockDim.x) {
        i64 t = k / d, j = k % d, first = j / m * n;
        T sum = T(0);
        for (i64 i = 0; i < f; i++) {
            for (i64 q = first; q < first + n; q++) {
                if (position[i * s + q] == j % m) sum += dy[t * f + i] * data[i * s + q];
            }
        }
        dx[k] = sum;
    }
}

// ddata[i, q] = sum over t, ascending, of dy[t, i] x[t, column of q].
template <typename T>
__global__ void nm_linear_ddata(const T* dy, const T* x, const unsigned char* position, T* ddata, i64 rows, i64 d, i64 f,
                                i64 s, i64 n, i64 m) {
    for (i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x; k < f * s; k += (i64)gridDim.x * blockDim.x) {
        i64 i = k / s, column = k % s / n * m + position[k];
        bool inside = column < d;
        T sum = inside ? T(0) : not_a_number<T>();
        for (i64 t = 0; inside && t < rows; t++) sum += dy[t * f + i] * x[t * d + column];
        ddata[k] = sum;
    }
}
