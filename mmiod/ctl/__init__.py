"""`mmioctl`: look at a running mmiod, by its control socket.

Imports the standard library only, but for `explain`, which needs no daemon: it imports the
instruction engine and attrs.
"""
