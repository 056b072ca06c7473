# The types with which vcpu_slot.py is compiled (mmiod.compiled); the file itself says what is what.

import cython

from mmiod.attach.flat cimport Flat
from mmiod.attach.loads cimport Load
from mmiod.core.lane cimport Lane
from mmiod.core.places cimport Place
from mmiod.protocol.exit.book cimport Book


cdef class Shared:
    cdef readonly object mapping, ledger, take, failed, words, flags
    cdef public Flat flat
    cdef public bint open
    cdef public list unsure


cdef class Slot:
    cdef readonly Shared owner
    cdef readonly object vcpu
    cdef public int wake
    cdef readonly Py_ssize_t page
    cdef Book _book
    cdef object _mapping
    cdef unsigned int[::1] _flags
    cdef unsigned long long[::1] _words
    cdef Py_ssize_t _state, _sleeps, _posted, _applied, _exit, _completion, _rip
    cdef slice _decoded, _raw, _asked, _registers
    cdef bytearray _copy
    cdef unsigned long long[::1] _copied
    cdef Load _last

    @cython.locals(owner=Shared, book=Book, state=cython.uint, posted=cython.ulonglong)
    cpdef object look(self)

    cpdef object take_posted(self)

    @cython.locals(owner=Shared, book=Book)
    cdef object _drain(self, object posted)

    @cython.locals(owner=Shared, flat=Flat, size=cython.ulonglong)
    cdef object _do(self)

    cdef object _done(self, Flat flat, bytes body, bytes reply)
    cdef object _complete(self, Flat flat)

    @cython.locals(
        words="unsigned long long[::1]", at=cython.Py_ssize_t, to=cython.Py_ssize_t,
        book=Book, lane=Lane, place=Place,
        sequence=cython.ulonglong, posted=cython.ulonglong, who=cython.ulonglong,
    )
    cdef bint _ask_again(self, Flat flat) except *

    @cython.locals(
        words="unsigned long long[::1]", exit_="unsigned long long[::1]", body=bytes, to=cython.Py_ssize_t,
        book=Book, lane=Lane, place=Place, load=Load,
        sequence=cython.ulonglong, posted=cython.ulonglong, who=cython.ulonglong,
        rip=cython.ulonglong, rflags=cython.ulonglong,
    )
    cdef bint _load_again(self, Flat flat) except *

    cdef object _end(self, object state)
    cpdef object wake_up(self)
