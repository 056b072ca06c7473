# The types with which book.py is compiled (mmiod.compiled); the file itself says what is what.

cdef class Book:
    cdef public unsigned long long sequence, posted
    cdef public bint in_flight
    cdef bytes _body, _reply
    cdef tuple _told

    cpdef object tell(self, unsigned long long sequence, tuple told)
