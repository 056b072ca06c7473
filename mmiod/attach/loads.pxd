# The types with which loads.py is compiled (mmiod.compiled); the file itself says what is what.

from mmiod.core.places cimport Place


cdef class Load:
    cdef readonly object move
    cdef readonly Place place
    cdef readonly bytes environment
    cdef readonly unsigned long long header, held, low, high, cr0, length, rip_mask, changed
    cdef readonly Py_ssize_t base, target
    cdef object _reply

    cpdef bint holds(
        self, const unsigned long long[::1] words, Py_ssize_t at, unsigned long long vcpu,
        unsigned long long sequence, unsigned long long rip, unsigned long long rflags, bytes environment,
    ) except *
    cpdef unsigned long long behind(self, unsigned long long rip) except? 0
