# Part of _cython.pyx: root-mean-square normalisation of rows.


def rms_norm(const T[:, ::1] x, const T[::1] weight, double eps, T[:, ::1] y, T[::1] r, int threads):
    """IN x (N, D), weight (D,); OUT y (N, D), r (N,)."""
    cdef Py_ssize_t rows = x.shape[0], d = x.shape[1], i
    cdef const T* px = &x[0, 0]
    cdef const T* pw = &weight[0]
    cdef T* po = &y[0, 0]
    cdef T* pr = &r[0]
    cdef void* outs[2]
    cdef Py_ssize_t sizes[2]
    cdef int c
    outs[0], outs[1] = po, pr
    sizes[0], sizes[1] = rows * d * sizeof(T), rows * sizeof(T)
    for i in range(2):
        apart(outs[i], sizes[i], px, rows * d * sizeof(T))
        apart(outs[i], sizes[i], pw, d * sizeof(T))
    apart(po, sizes[0], pr, sizes[1])
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        rms_norm_rows(po, pr, px, pw, eps, d, rows * c // threads, rows * (c + 1) // threads)


def rms_norm_backward(
    const T[:, ::1] dy, const T[:, ::1] x, const T[::1] weight, const T[::1] r, T[:, ::1] dx, T[:, ::1] part, T[::1] dweight,
    int threads
):
    """IN dy, x (N, D), weight (D,), r (N,); OUT dx (N, D), part (⌈N/64⌉, D), dweight (D,).

    part[b] is the share of the rows of block b in dweight, whoever computes it: the threads change no order.
    """
    cdef Py_ssize_t n = x.shape[0], d = x.shape[1], blocks = part.shape[0], groups = (d + 63) // 64, i, j
    cdef const T* pd = &dy[0, 0]
    cdef const T* px = &x[0, 0]
    cdef const T* pw = &weight[0]
    cdef const T* pr = &r[0]
    cdef T* po = &dx[0, 0]
    cdef T* pp = &part[0, 0]
    cdef T* pg = &dweight[0]
    cdef const void* ins[4]
    cdef Py_ssize_t in_sizes[4]
    cdef void* outs[3]
    cdef Py_ssize_t sizes[3]
    cdef int c
    ins[0], ins[1], ins[2], ins[3] = pd, px, pw, pr
    in_sizes[0], in_sizes[1], in_sizes[2], in_sizes[3] = n * d * sizeof(T), n * d * sizeof(T), d * sizeof(T), n * sizeof(T)
    outs[0], outs[1], outs[2] = po, pp, pg
    sizes[0], sizes[1], sizes[2] = n * d * sizeof(T), blocks * d * sizeof(T), d * sizeof(T)
    for i in range(3):
        apart(outs[i], sizes[i], outs[(i + 1) % 3], sizes[(i + 1) % 3])
        for j in range(4):
            apart(outs[i], sizes[i], ins[j], in_sizes[j])
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        rms_norm_backward_blocks(po, pp, pd, px, pw, pr, n, d, blocks * c // threads, blocks * (c + 1) // threads)
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        sum_blocks(pg, pp, blocks, d, groups * c // threads, groups * (c + 1) // threads)
