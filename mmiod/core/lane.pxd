# The types with which lane.py is compiled (mmiod.compiled); the file itself says what is what.

import cython

from mmiod.core.places cimport Place


cdef class Lane:
    cdef readonly object machine
    cdef readonly dict places
    cdef public tuple learnt
    cdef Py_ssize_t _count
    cdef object _clock, _monotonic, _cause, _mark, _record, _name
    cdef list _settled

    cpdef object read(self, Place place, object vcpu, object sequence, object pc)
    cdef bint _serves(self, Place place, object now) except *
    cpdef object read_stored(self, Place place, object vcpu, object sequence, object pc)

    @cython.locals(noted=Py_ssize_t)
    cpdef object access(self, Place place, object value, object vcpu, object sequence, object pc)

    cdef object _note(self, Place place, object value, object noted)
    cdef object _run(self, Place place, object hook, object value, object started)
    cdef object _end(self, Place place)
    cdef object _answer(self, Place place, object value, str register, object answer, object started)
    cdef object _bank(self, Place place)
    cdef object _odd(self, Place place, object answer)
