"""`python -m bench`: what an exit costs, and where.

A C program that does nothing but exit talks to a real `mmiod serve`, and to a C server
that only echoes: the floor that the socket itself sets.  Both are asked in turn, round
by round, so that whatever else the computer does meets all of them alike.  A figure is
the median over the rounds, a ratio the median of what each round gives; absolute
figures of two runs do not compare.  The same accesses in one process, without sockets,
tell our own part of it.
"""
