# The types with which recorder.py is compiled (mmiod.compiled); the file itself says what is what.

cdef class Recorder:
    cdef readonly Py_ssize_t capacity, serial
    cdef list _ring

    cpdef object add(self, tuple record)
