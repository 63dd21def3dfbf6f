"""The compiled kernels: buffers in, buffers out.  ``pymoe/kernels/cython.py`` is the door that validates and allocates.

Every function computes its output rows in ``threads`` equal pieces (prange, static), each row by one thread, with the
leaf loops of ``kernels.h``.  Inputs are const.  An output that shares memory with an input is a ValueError.  Arrays are
not empty and indices are in range: the door sees to both.  Compiler directives are in setup.py, nowhere else.
"""

from cython.parallel cimport prange, threadid
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memcpy, memset

ctypedef fused T:
    float
    double
    long double
    double complex

cdef extern from "threads.h":
    int pymoe_watch_forks() nogil
    int pymoe_max_threads() nogil
    int pymoe_forked
    int pymoe_openmp() nogil
    const char* pymoe_simd() nogil

# (...) because each name is a macro that picks the leaf by the type of its first pointer
cdef extern from "kernels.h":
    void combine_rows(...) noexcept nogil
    void dot_rows(...) noexcept nogil
    void sum_segments(...) noexcept nogil
    int topk_rows(...) noexcept nogil
    void nm_rows(...) noexcept nogil
    void act_span(...) noexcept nogil
    void act_backward_span(...) noexcept nogil
    void glu_rows(...) noexcept nogil
    void glu_backward_rows(...) noexcept nogil
    void weighted_glu_rows(...) noexcept nogil
    void weighted_act_rows(...) noexcept nogil
    void softmax_rows(...) noexcept nogil
    void softmax_backward_rows(...) noexcept nogil
    void rotate_rows(...) noexcept nogil
    void adamw_span(...) noexcept nogil
    void rms_norm_rows(...) noexcept nogil
    void rms_norm_backward_blocks(...) noexcept nogil
    void sum_blocks(...) noexcept nogil
    void pack_columns(...) noexcept nogil
    void pack_panels(...) noexcept nogil
    void csr_forward_blocks(...) noexcept nogil
    int csr_forward_token(...) noexcept nogil
    void csr_span_blocks(...) noexcept nogil
    void csr_dx_blocks(...) noexcept nogil
    int csr_dx_token(...) noexcept nogil
    void csr_place(...) noexcept nogil
    void csr_ddata_rows(...) noexcept nogil
    int csr_ddata_token(...) noexcept nogil
    void bsr_blocks(...) noexcept nogil
    void bsr_token(...) noexcept nogil
    void bsr_dx_token(...) noexcept nogil
    void bsr_ddata_rows(...) noexcept nogil
    void nm_forward_blocks(...) noexcept nogil
    void nm_dx_blocks(...) noexcept nogil
    void nm_place(...) noexcept nogil
    void nm_token(...) noexcept nogil
    void nm_dx_token(...) noexcept nogil
    void nm_ddata_rows(...) noexcept nogil
    void nm_ddata_token(...) noexcept nogil
    void prune_all(...) noexcept nogil
    int sorted_columns(...) noexcept nogil
    void count_columns(...) noexcept nogil
    void cut_rows(...) noexcept nogil
    void count_groups(int64_t*, const uint8_t*, Py_ssize_t, int, int, Py_ssize_t, Py_ssize_t) noexcept nogil
    int sorted_groups(const uint8_t*, Py_ssize_t, int, int) noexcept nogil
    Py_ssize_t row_at(const int64_t*, Py_ssize_t, Py_ssize_t) noexcept nogil

if pymoe_watch_forks() != 0:
    raise ImportError("pthread_atfork failed: the compiled kernels could hang after a fork")


def max_threads():
    """Threads that OpenMP would use here: OMP_NUM_THREADS, or 1 in a forked child and without OpenMP."""
    return pymoe_max_threads()


def forked():
    """Is this process a fork of the one that loaded the module?"""
    return pymoe_forked != 0


def openmp():
    """The OpenMP version this was compiled with, 0 without."""
    return pymoe_openmp()


def simd():
    """The SIMD level of the leaf loops on this processor."""
    return pymoe_simd().decode()


cdef int apart(const void* out, Py_ssize_t out_bytes, const void* x, Py_ssize_t x_bytes) except -1:
    if <const char*> out < <const char*> x + x_bytes and <const char*> x < <const char*> out + out_bytes:
        raise ValueError("an output shares memory with an input: kernels write only into arrays of their own")
    return 0


# --- indices ---------------------------------------------------------------------------------------------------------


def bounds(const int64_t[::1] ids):
    """(lowest, highest) of ids, at least one."""
    cdef int64_t low = ids[0], high = ids[0]
    cdef Py_ssize_t i
    with nogil:
        for i in range(ids.shape[0]):
            low = ids[i] if ids[i] < low else low
            high = ids[i] if ids[i] > high else high
    return low, high


def ascending(const int64_t[::1] start):
    """Is start[e] <= start[e + 1] for every e?"""
    cdef Py_ssize_t i
    cdef bint yes = True
    for i in range(start.shape[0] - 1):
        yes = yes and start[i] <= start[i + 1]
    return yes


def count(const int64_t[::1] ids, int64_t[::1] start):
    """IN ids (S,) in [-1, n); OUT start (n+1,): start[e] = how many ids are in [0, e).  O(S + n)."""
    cdef Py_ssize_t i
    cdef int64_t total = 0, here
    with nogil:
        for i in range(start.shape[0]):
            start[i] = 0
        for i in range(ids.shape[0]):
            if ids[i] >= 0:
                start[ids[i]] += 1
        for i in range(start.shape[0]):  # counts -> offsets; start[n] counted nothing
            here = start[i]
            start[i] = total
            total += here


def place(const int64_t[::1] ids, int64_t[::1] cursor, int64_t[::1] order):
    """IN ids (S,), cursor (n+1,) = start (used up); OUT order (N,): positions by id, ascending within an id.  O(S)."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(ids.shape[0]):
            if ids[i] >= 0:
                order[cursor[ids[i]]] = i
                cursor[ids[i]] += 1


# --- decisions -------------------------------------------------------------------------------------------------------


def topk(const T[:, ::1] s, int64_t[:, ::1] idx, int threads):
    """IN s (T, E); OUT idx (T, k).  O(T (E + k E/16))."""
    cdef Py_ssize_t rows = s.shape[0], e = s.shape[1], k = idx.shape[1]
    cdef const T* ps = &s[0, 0]
    cdef int64_t* pi = &idx[0, 0]
    cdef int c, failed = 0
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        failed += topk_rows(ps, pi, e, k, rows * c // threads, rows * (c + 1) // threads)
    if failed:
        raise MemoryError(f"topk: no memory for one row of {e} experts")


def nm_mask(const T[:, ::1] w, uint8_t[:, ::1] mask, Py_ssize_t n, Py_ssize_t m, int threads):
    """IN w (R, C), C a multiple of m <= 64; OUT mask (R, C) of 0 and 1.  O(R C m)."""
    cdef Py_ssize_t blocks = w.shape[0] * (w.shape[1] // m)
    cdef const T* pw = &w[0, 0]
    cdef uint8_t* pm = &mask[0, 0]
    cdef int c
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        nm_rows(pw, pm, n, m, blocks * c // threads, blocks * (c + 1) // threads)


def prune_mask(const T[::1] w, const T[::1] edge, uint8_t[::1] mask, Py_ssize_t n):
    """IN w (S,), edge (1,): the n-th smallest magnitude, n >= 1; OUT mask (S,) of 0 and 1.  O(S), one thread: ties have an order."""
    cdef Py_ssize_t size = w.shape[0]
    cdef const T* pw = &w[0]
    cdef const T* pe = &edge[0]
    cdef uint8_t* pm = &mask[0]
    with nogil:
        prune_all(pw, pe, pm, n, size)


# --- data movement ---------------------------------------------------------------------------------------------------


cdef void copy_rows(uint8_t* out, const uint8_t* x, const int64_t* rows, Py_ssize_t width, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(lo, hi):
        memcpy(out + i * width, x + rows[i] * width, width)


cdef void expand_rows(
    uint8_t* out, const uint8_t* v, const int64_t* idx, Py_ssize_t n, Py_ssize_t k, Py_ssize_t width, Py_ssize_t lo, Py_ssize_t hi
) noexcept nogil:
    cdef Py_ssize_t t, j
    for t in range(lo, hi):
        memset(out + t * n * width, 0, n * width)
        for j in range(t * k, (t + 1) * k):
            memcpy(out + (t * n + idx[j]) * width, v + j * width, width)


def gather(const uint8_t[:, ::1] x, const int64_t[::1] rows, uint8_t[:, ::1] out, int threads):
    """IN x (T, bytes of a row), rows (N,); OUT out (N, bytes of a row).  O(N D)."""
    cdef Py_ssize_t n = rows.shape[0], width = x.shape[1]
    cdef const uint8_t* px = &x[0, 0]
    cdef const int64_t* pr = &rows[0]
    cdef uint8_t* po = &out[0, 0]
    cdef int c
    apart(po, n * width, px, x.shape[0] * width)
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        copy_rows(po, px, pr, width, n * c // threads, n * (c + 1) // threads)


def combine(const T[:, ::1] ys, const T[:, ::1] weight, const int64_t[:, ::1] slot, T[:, ::1] out, int threads):
    """IN ys (N, D), weight (T, K) or None, slot (T, K); OUT out (T, D).  O(T K D)."""
    cdef Py_ssize_t n = ys.shape[0], d = ys.shape[1], rows = slot.shape[0], k = slot.shape[1]
    cdef const T* py = &ys[0, 0]
    cdef const T* pw = NULL
    cdef const int64_t* ps = &slot[0, 0]
    cdef T* po = &out[0, 0]
    cdef int c
    apart(po, rows * d * sizeof(T), py, n * d * sizeof(T))
    if weight is not None:
        pw = &weight[0, 0]
        apart(po, rows * d * sizeof(T), pw, rows * k * sizeof(T))
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        combine_rows(po, py, pw, ps, n, k, d, rows * c // threads, rows * (c + 1) // threads)


def combine_dweight(const T[:, ::1] dy, const T[:, ::1] ys, const int64_t[:, ::1] slot, T[:, ::1] out, int threads):
    """IN dy (T, D), ys (N, D), slot (T, K); OUT out (T, K).  O(T K D)."""
    cdef Py_ssize_t n = ys.shape[0], d = ys.shape[1], rows = slot.shape[0], k = slot.shape[1]
    cdef const T* pd = &dy[0, 0]
    cdef const T* py = &ys[0, 0]
    cdef const int64_t* ps = &slot[0, 0]
    cdef T* po = &out[0, 0]
    cdef int c
    apart(po, rows * k * sizeof(T), pd, rows * d * sizeof(T))
    apart(po, rows * k * sizeof(T), py, n * d * sizeof(T))
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        dot_rows(po, pd, py, ps, n, k, d, rows * c // threads, rows * (c + 1) // threads)


def segment_sum(const T[:, ::1] x, const int64_t[::1] start, T[:, ::1] out, int threads):
    """IN x (N, D), start (E+1,); OUT out (E, D).  O(N D)."""
    cdef Py_ssize_t d = x.shape[1], tasks = out.shape[0] * ((d + 511) // 512)
    cdef const T* px = &x[0, 0]
    cdef const int64_t* ps = &start[0]
    cdef T* po = &out[0, 0]
    cdef int c
    apart(po, out.shape[0] * d * sizeof(T), px, x.shape[0] * d * sizeof(T))
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        sum_segments(po, px, ps, d, tasks * c // threads, tasks * (c + 1) // threads)


def expand(const uint8_t[:, :, ::1] v, const int64_t[:, ::1] idx, uint8_t[:, :, ::1] out, int threads):
    """IN v (T, K, bytes of a number), idx (T, K); OUT out (T, n, bytes of a number).  O(T n)."""
    cdef Py_ssize_t rows = v.shape[0], k = v.shape[1], width = v.shape[2], n = out.shape[1]
    cdef const uint8_t* pv = &v[0, 0, 0]
    cdef const int64_t* pi = &idx[0, 0]
    cdef uint8_t* po = &out[0, 0, 0]
    cdef int c
    apart(po, rows * n * width, pv, rows * k * width)
    for c in prange(threads, nogil=True, num_threads=threads, schedule="static", use_threads_if=threads > 1):
        expand_rows(po, pv, pi, n, k, width, rows * c // threads, rows * (c + 1) // threads)


include "_elementwise.pxi"
include "_norm.pxi"
include "_sparse.pxi"
include "_csr.pxi"
include "_bsr.pxi"
include "_nm.pxi"
