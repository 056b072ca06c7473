# The types with which flat.py is compiled (mmiod.compiled); the file itself says what is what.

import cython

from mmiod.attach.loads cimport Load
from mmiod.core.lane cimport Lane
from mmiod.core.places cimport Place
from mmiod.machine.statistics cimport Taken
from mmiod.protocol.exit.book cimport Book


cdef class Flat:
    cdef readonly Lane lane
    cdef readonly object flights, ledger, flush
    cdef readonly dict asked, loads, current, interrupts
    cdef readonly Taken taken
    cdef readonly list settled
    cdef list _books
    cdef object _moved
    cdef dict _kinds, _posted, _moving

    cpdef object settle(self)
    cpdef unsigned long long who(self, object vcpu) except? 0

    @cython.locals(book=Book, place=Place)
    cpdef bytes decoded(self, object vcpu, bytes body, object reply_to)

    @cython.locals(book=Book, place=Place, load=Load, rip=cython.ulonglong, rflags=cython.ulonglong)
    cpdef bytes raw(self, object vcpu, bytes body, object reply_to)

    @cython.locals(book=Book, place=Place)
    cpdef bint posted(self, object vcpu, object sequence, bytes entry) except *

    @cython.locals(book=Book)
    cdef bytes _load_again(
        self, Load load, object vcpu, bytes body, unsigned long long rip, unsigned long long rflags,
        object reply_to,
    )

    cdef object _learn(self, object kind, object address)
