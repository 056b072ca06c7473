"""Registers whose policies contradict what they do: refused when the class is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mmiod.errors import DeclarationError

if TYPE_CHECKING:
    from mmiod.device.registers import Register


def check_policies(declared: Mapping[str, Register]) -> None:
    """Refuse declarations that contradict what the registers do.

    Raises:
        DeclarationError: naming the register and what is wrong.
    """
    for register in declared.values():
        for wrong in _wrong(register, declared):
            raise DeclarationError(f"{register.name}: {wrong}")


def _wrong(register: Register, declared: Mapping[str, Register]) -> Iterator[str]:
    if register.published is True and register.reads_change:
        yield "published, but a read has a side effect; say when it has none: published=lambda device: ..."
    if register.posted is not False and not (register.writer or register.writable):
        yield "posted, but it is not written"
    if register.constant and not register.getter:
        yield "constant, but it is not derived"
    for name in register.unaffected_by:
        if name not in declared or declared[name].posted is False:
            yield f"unaffected_by names {name}, which is not posted"
    needless = register.published is False and register.posted is False and register.counter is None
    if register.unaffected_by and needless:
        yield "unaffected_by, but it is neither published nor posted"
