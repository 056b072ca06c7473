"""Traffic for people: the ring of accesses, the filter language and field names."""

from mmiod.trace.fields import decode
from mmiod.trace.filter import Filter, FilterError, parse
from mmiod.trace.record import Record
from mmiod.trace.recorder import Recorder

__all__ = ["Filter", "FilterError", "Record", "Recorder", "decode", "parse"]
