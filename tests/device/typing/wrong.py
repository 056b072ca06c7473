"""What mypy must refuse: test_typing.py holds its remarks against the comments."""

from __future__ import annotations

from mmiod.device import Device, Register


class Wrong(Device):
    """Each marked line is a mistake."""

    length = 8
    control = Register(0, access="w1")  # arg-type
    data = Register(4)

    @data.on_write
    def _written(self, value: str) -> None:
        self.control = value  # assignment

    @data.on_read
    def _read(self) -> str:  # see below
        return self.control  # return-value
