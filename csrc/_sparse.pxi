# Part of _cython.pyx: what the linear maps with a sparse weight share.  Structures are in order: the door sees to it.  Where a
# kernel for one token returns a number, it has looked at the structure on its way: not 0 means that the output is void.
#
# The work is cut into more tasks than there are threads, blocks of tokens times `pieces` of the rows (or columns) of the output,
# and a thread that is done takes the next one: a core that others use too does not hold up the rest.

ctypedef fused I:
    int32_t
    int64_t


cdef inline T* aligned(T* p) noexcept nogil:
    """The next address from which a vector touches one cache line only; scratch has 64 bytes to spare for it."""
    return <T*> ((<size_t> p + 63) & ~<size_t> 63)


cdef int fresh(const void** array, const Py_ssize_t* size, int outputs, int arrays) except -1:
    """Does each of the first `outputs` arrays share no memory with any other array?  Sizes in bytes."""
    cdef int i, j
    for i in range(outputs):
        for j in range(i + 1, arrays):
            apart(array[i], size[i], array[j], size[j])
    return 0
