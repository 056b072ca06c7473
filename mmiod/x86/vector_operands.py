"""What vector instructions work on: registers of four files, and lanes under an opmask.

The set names what has to be known of a register before it can be read.
"""

from __future__ import annotations

from attrs import frozen

from mmiod.values import ExtendedState, RegisterSet


@frozen
class Vector:
    """The low `size` bytes of zmm `number`; more than 32 are zmm, more than 16 ymm."""

    number: int
    size: int

    @property
    def sets(self) -> RegisterSet:
        """Where its bytes are."""
        if self.number >= 16:
            return RegisterSet.AVX512
        upper = RegisterSet.AVX512 if self.size > 32 else RegisterSet(0)
        return upper | RegisterSet.SSE | (RegisterSet.AVX if self.size > 16 else RegisterSet(0))

    def read(self, vectors: ExtendedState) -> int:
        """Its bytes as a number."""
        return vectors.zmm[self.number] & (1 << 8 * self.size) - 1


@frozen
class Opmask:
    """k `number`."""

    number: int

    @property
    def sets(self) -> RegisterSet:
        """Where it is."""
        return RegisterSet.AVX512

    def read(self, vectors: ExtendedState) -> int:
        """Its 64 bits."""
        return vectors.k[self.number]


@frozen
class Mmx:
    """mm `number`, which is the low half of an x87 register."""

    number: int

    @property
    def sets(self) -> RegisterSet:
        """Where it is."""
        return RegisterSet.X87


@frozen
class Lanes:
    """`count` elements of `element` bytes each that an instruction moves.

    Those whose bit in the opmask is clear stay as they are, or with `zeroing` become 0;
    without an opmask (None) all are moved.
    """

    element: int
    count: int
    opmask: Opmask | None = None
    zeroing: bool = False

    @property
    def all(self) -> int:
        """A bit for every element."""
        return (1 << self.count) - 1

    def active(self, vectors: ExtendedState) -> int:
        """A bit for every element that is moved."""
        return self.all if self.opmask is None else self.opmask.read(vectors) & self.all


VectorOperand = Vector | Opmask | Mmx | Lanes
