# Part of _cython.pyx: activations with their products, softmax, rotation, the step of AdamW.


def act_forward(const T[::1] x, int act, T[::1] out, int threads):
    """IN x (n,); OUT out (n,)."""
    cdef Py_ssize_t n = x.shape[0]
    cdef const T* px = &x[0]
    cdef T* po = &out[0]
    cdef int c
    apart(po, n * sizeof(T), px, n * sizeof(T))
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        act_span(po, px, act, n * c // threads, n * (c + 1) // threads)


def act_backward(const T[::1] dh, const T[::1] x, int act, T[::1] dx, int threads):
    """IN dh (n,), x (n,); OUT dx (n,)."""
    cdef Py_ssize_t n = x.shape[0]
    cdef const T* pd = &dh[0]
    cdef const T* px = &x[0]
    cdef T* po = &dx[0]
    cdef int c
    apart(po, n * sizeof(T), pd, n * sizeof(T))
    apart(po, n * sizeof(T), px, n * sizeof(T))
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        act_backward_span(po, pd, px, act, n * c // threads, n * (c + 1) // threads)


def glu_forward(const T[:, ::1] x, int act, T[:, ::1] h, int threads):
    """IN x (N, 2F); OUT h (N, F)."""
    cdef Py_ssize_t rows = h.shape[0], f = h.shape[1]
    cdef const T* px = &x[0, 0]
    cdef T* po = &h[0, 0]
    cdef int c
    apart(po, rows * f * sizeof(T), px, 2 * rows * f * sizeof(T))
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        glu_rows(po, px, act, f, rows * c // threads, rows * (c + 1) // threads)


def glu_backward(const T[:, ::1] dh, const T[:, ::1] x, int act, T[:, ::1] dx, int threads):
    """IN dh (N, F), x (N, 2F); OUT dx (N, 2F)."""
    cdef Py_ssize_t rows = dh.shape[0], f = dh.shape[1]
    cdef const T* pd = &dh[0, 0]
    cdef const T* px = &x[0, 0]
    cdef T* po = &dx[0, 0]
    cdef int c
    apart(po, 2 * rows * f * sizeof(T), pd, rows * f * sizeof(T))
    apart(po, 2 * rows * f * sizeof(T), px, 2 * rows * f * sizeof(T))
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        glu_backward_rows(po, pd, px, act, f, rows * c // threads, rows * (c + 1) // threads)


def weighted_backward(
    const T[:, ::1] dh, const T[:, ::1] x, const T[::1] weight, int act, T[:, ::1] dx, T[:, ::1] wh, T[::1] dweight, int threads
):
    """IN dh (N, F), x (N, 2F) or, for an expert without a gate, (N, F), weight (N,); OUT dx like x, wh (N, F), dweight (N,)."""
    cdef Py_ssize_t rows = dh.shape[0], f = dh.shape[1], width = x.shape[1], i
    cdef bint gated = width == 2 * f
    cdef const T* pd = &dh[0, 0]
    cdef const T* px = &x[0, 0]
    cdef const T* pw = &weight[0]
    cdef T* po = &dx[0, 0]
    cdef T* ph = &wh[0, 0]
    cdef T* pg = &dweight[0]
    cdef void* outs[3]
    cdef Py_ssize_t sizes[3]
    cdef int c
    outs[0], outs[1], outs[2] = po, ph, pg
    sizes[0], sizes[1], sizes[2] = rows * width * sizeof(T), rows * f * sizeof(T), rows * sizeof(T)
    for i in range(3):
        apart(outs[i], sizes[i], pd, rows * f * sizeof(T))
        apart(outs[i], sizes[i], px, rows * width * sizeof(T))
        apart(outs[i], sizes[i], pw, rows * sizeof(T))
        apart(outs[i], sizes[i], outs[(i + 1) % 3], sizes[(i + 1) % 3])
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        if gated:
            weighted_glu_rows(po, ph, pg, pd, px, pw, act, f, rows * c // threads, rows * (c + 1) // threads)
        else:
            weighted_act_rows(po, ph, pg, pd, px, pw, act, f, rows * c // threads, rows * (c + 1) // threads)


def softmax(const T[:, ::1] x, const int64_t[::1] limit, T[:, ::1] out, int threads):
    """IN x (R, C), limit (R,) or empty for none; OUT out (R, C)."""
    cdef Py_ssize_t rows = x.shape[0], c_ = x.shape[1]
    cdef const T* px = &x[0, 0]
    cdef T* po = &out[0, 0]
    cdef const int64_t* pl = &limit[0] if limit.shape[0] else NULL
    cdef int c
    apart(po, rows * c_ * sizeof(T), px, rows * c_ * sizeof(T))
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        softmax_rows(po, px, pl, c_, rows * c // threads, rows * (c + 1) // threads)


def softmax_backward(const T[:, ::1] dp, const T[:, ::1] p, T[:, ::1] dx, int threads):
    """IN dp (R, C), p (R, C); OUT dx (R, C)."""
    cdef Py_ssize_t rows = p.shape[0], width = p.shape[1]
    cdef const T* pd = &dp[0, 0]
    cdef const T* pp = &p[0, 0]
    cdef T* po = &dx[0, 0]
    cdef int c
    apart(po, rows * width * sizeof(T), pd, rows * width * sizeof(T))
    apart(po, rows * width * sizeof(T), pp, rows * width * sizeof(T))
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        softmax_backward_rows(po, pd, pp, width, rows * c // threads, rows * (c + 1) // threads)


def rotate(const T[:, :, :, :] x, const T[:, :, ::1] cos, const T[:, :, ::1] sin, T[:, :, :, ::1] out, int threads):
    """IN x (B, H, S, 2n) with contiguous rows, cos, sin (1 or B, S, n); OUT out (B, H, S, 2n)."""
    cdef Py_ssize_t rows = x.shape[0] * x.shape[1] * x.shape[2], i
    cdef Py_ssize_t[4] shape
    cdef Py_ssize_t[4] stride  # in elements: of x, and of the batch axis of cos and sin
    cdef const T* px = &x[0, 0, 0, 0]
    cdef const T* pc = &cos[0, 0, 0]
    cdef const T* ps = &sin[0, 0, 0]
    cdef T* po = &out[0, 0, 0, 0]
    cdef Py_ssize_t size = rows * x.shape[3] * sizeof(T)
    cdef Py_ssize_t first = 0, last = sizeof(T), reach  # the bytes between which x lies
    cdef int c
    for i in range(4):
        shape[i] = x.shape[i]
        reach = (x.shape[i] - 1) * x.strides[i]
        first += reach if reach < 0 else 0
        last += reach if reach > 0 else 0
    for i in range(3):
        stride[i] = x.strides[i] // <Py_ssize_t> sizeof(T)
    stride[3] = cos.shape[1] * cos.shape[2] if cos.shape[0] > 1 else 0
    apart(po, size, <const char*> px + first, last - first)
    apart(po, size, pc, cos.shape[0] * cos.shape[1] * cos.shape[2] * sizeof(T))
    apart(po, size, ps, cos.shape[0] * cos.shape[1] * cos.shape[2] * sizeof(T))
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        rotate_rows(po, px, pc, ps, &shape[0], &stride[0], rows * c // threads, rows * (c + 1) // threads)


def adamw(
    const T[::1] p, const T[::1] g, const T[::1] m, const T[::1] v, const double[::1] setting,
    T[::1] p_new, T[::1] m_new, T[::1] v_new, int threads
):
    """IN p, g, m, v (n,), setting (9,): lr, β₁, 1-β₁, β₂, 1-β₂, 1/(1-β₁ᵗ), 1/(1-β₂ᵗ), ε, decay; OUT p_new, m_new, v_new (n,)."""
    cdef Py_ssize_t n = p.shape[0], size = n * sizeof(T), i, j
    cdef const void* ins[4]
    cdef void* outs[3]
    cdef const T* p0 = &p[0]
    cdef const T* p1 = &g[0]
    cdef const T* p2 = &m[0]
    cdef const T* p3 = &v[0]
    cdef T* o0 = &p_new[0]
    cdef T* o1 = &m_new[0]
    cdef T* o2 = &v_new[0]
    cdef const double* ps = &setting[0]
    cdef int c
    ins[0], ins[1], ins[2], ins[3] = p0, p1, p2, p3
    outs[0], outs[1], outs[2] = o0, o1, o2
    for i in range(3):
        apart(outs[i], size, outs[(i + 1) % 3], size)
        for j in range(4):
            apart(outs[i], size, ins[j], size)
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        adamw_span(o0, o1, o2, p0, p1, p2, p3, ps, n * c // threads, n * (c + 1) // threads)
