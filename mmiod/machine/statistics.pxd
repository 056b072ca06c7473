# The types with which statistics.py is compiled (mmiod.compiled); the file itself says what is what.

cdef class Statistics:
    cdef public long long reads, writes, refused, faults
    cdef readonly list latency


cdef class Taken:
    cdef public long long decoded, raw
