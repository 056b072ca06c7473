# The types with which places.py is compiled (mmiod.compiled); the file itself says what is what.

from mmiod.machine.statistics cimport Statistics


cdef class Place:
    cdef readonly object host, device, journal, hook, settle, banks
    cdef readonly str region, name, register, stored_as
    cdef readonly object offset, size, direction, space, address, stored, ones
    cdef readonly object space_number, direction_number
    cdef readonly bint reading
    cdef readonly tuple entry
    cdef readonly Statistics statistics
