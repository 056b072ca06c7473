"""Vector instructions on devices: what is asked of the hypervisor, and how wide accesses arrive."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mmiod.core.run import Platform
from mmiod.device import Device, Region
from mmiod.machine.description import DeviceDescription, Placement
from mmiod.values import Done, ExtendedState, NeedRegisters, RegisterSet, Space, Unsupported, VectorDelta
from mmiod.x86 import Mode
from tests.core.guests import DEVICE, PAGE, Guest, Log
from tests.machine.machines import Rig
from tests.x86.states import flat

OSFXSR, OSXSAVE = 1 << 9, 1 << 18
LOAD_YMM, LOAD_ZMM, STORE_ZMM = "c5fe6f03", "62f17f486f03", "62f17f487f03"
EVERYTHING = RegisterSet.SSE | RegisterSet.AVX | RegisterSet.AVX512
PATTERN = int.from_bytes(bytes(range(64)), "little")


@pytest.fixture(name="guest")
def _guest() -> Iterator[Guest]:
    guest = Guest(platform=Platform(vectors=True))
    yield guest
    guest.close()


def at(guest: Guest, code: str, address: int) -> Guest:
    """The guest is about to execute this with RBX pointing at `address`; no vector is known."""
    guest.state = flat(Mode.CODE64, rip=0x7000, rbx=address, cr4=OSFXSR | OSXSAVE, xcr0=0xE7)
    guest.code = bytes.fromhex(code).ljust(15, b"\x90")
    return guest


def supplied(guest: Guest) -> Guest:
    """The hypervisor supplies zmm0 = `PATTERN`."""
    guest.state.extended = ExtendedState(EVERYTHING)
    guest.state.extended.zmm[0] = PATTERN
    return guest


def test_a_hypervisor_without_vectors_gets_unsupported(guest: Guest) -> None:
    """Even a load that needs no register cannot be given back: nothing is accessed."""
    guest.platform = Platform()
    for code in (LOAD_YMM, STORE_ZMM):
        completion = at(guest, code, DEVICE).once()
        assert Unsupported(guest.code) == completion
    assert [] == guest.log.accesses


def test_registers_are_asked_for_before_the_device_is_touched(guest: Guest) -> None:
    """A store needs all parts of its register; sent again with them it is done, once."""
    assert NeedRegisters(EVERYTHING) == at(guest, STORE_ZMM, DEVICE).once()
    assert [] == guest.log.accesses

    completion = supplied(guest).once()
    assert isinstance(completion, Done)
    assert completion.delta.vectors is None
    expected = [("mmio write", n, 8, PATTERN >> 8 * n & (1 << 64) - 1) for n in range(0, 64, 8)]
    assert expected == guest.log.accesses


def test_a_load_across_ram_and_a_device(guest: Guest) -> None:
    """The low half from RAM, the high one from the device, eight bytes at a time."""
    guest.map(2, DEVICE - PAGE, PAGE)
    guest.poke(DEVICE - 16, bytes(range(16)))
    completion = at(guest, LOAD_YMM, DEVICE - 16).once()

    assert isinstance(completion, Done)
    assert [("mmio read", 0, 8), ("mmio read", 8, 8)] == [access[:3] for access in guest.log.accesses]
    parts = [int.from_bytes(bytes(range(16)), "little"), *(access[3] for access in guest.log.accesses)]
    value = parts[0] | parts[1] << 128 | parts[2] << 192
    assert VectorDelta(zmm={0: value}) == completion.delta.vectors


def test_a_device_that_takes_64_bytes_gets_them_at_once(guest: Guest) -> None:
    """A region says up to which size it is accessed (QEMU's rule: low to high in its largest size)."""
    log = Log()

    class Wide(Device):
        region = Region(PAGE, valid=(1, 64), implemented=(1, 64), unaligned=True)

        @region.on_read
        def _read(self, offset: int, size: int) -> int:
            return log.answer("mmio", offset, size)

        @region.on_write
        def _write(self, offset: int, size: int, value: int) -> None:
            log.take("mmio", offset, size, value)

    guest.rig = Rig(
        {"dev": (Wide, DeviceDescription("test/wide", at={"region": Placement(Space.MMIO, DEVICE)}))}
    )
    assert isinstance(supplied(at(guest, STORE_ZMM, DEVICE + 1)).once(), Done)
    assert [("mmio write", 1, 64, PATTERN)] == log.accesses
