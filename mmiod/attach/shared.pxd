# The types with which shared.py is compiled (mmiod.compiled); the file itself says what is what.

from mmiod.attach.vcpu_slot cimport Shared, Slot


cdef class SharedMemory(Shared):
    cdef readonly object kick, pump, spin, slots
    cdef readonly bint ordered
    cdef slice _bells
    cdef bytes _heard

    cpdef object look(self)
    cpdef bint poll(self, Py_ssize_t looks) except *
    cdef bint _poll(self) except *
    cdef object _make_sure(self)
