from __future__ import annotations

import pytest

from mmiod.values import Delta, RegisterSet, VectorDelta
from mmiod.vmm.accelerator import Halted, Unable
from mmiod.vmm.guest import GuestMemory
from tests.vmm.fake import firmware

pytestmark = pytest.mark.needs("unicorn")

BOTH = RegisterSet.X87 | RegisterSet.SSE
SET_UP = "0f20e0 80cc02 0f22e0 dbe3 d9eb d9e8 d9ee"  # cr4.osfxsr = 1; fninit; fldpi; fld1; fldz
FXSAVE = "0fae060060 f4"
TOLD = (slice(0, 5), slice(24, 32), *(slice(32 + 16 * number, 42 + 16 * number) for number in range(8)))
"""What of FXSAVE's image is compared: not the last instruction's opcode and addresses."""


def test_the_registers_are_those_that_the_guests_own_fxsave_stores() -> None:
    """x87 with a stack that is not at its beginning, MXCSR and XMM: read and, changed, written back."""
    from mmiod.vmm.unicorn import UnicornCpu  # noqa: PLC0415 - the mark `needs` comes first

    memory = GuestMemory.create(1, firmware(SET_UP + "0f100e0070" + FXSAVE + FXSAVE))
    memory.write(0x7000, bytes(range(16)))
    cpu = UnicornCpu(memory, lambda *_: b"")

    assert Halted() == cpu.run()
    state, image = cpu.vectors(BOTH), memory.read(0x6000, 512)
    assert [image[part] for part in TOLD] == [state.x87[part] for part in TOLD]
    assert [image[160 + 16 * number :][:16] for number in range(8)] == [
        value.to_bytes(16, "little") for value in state.zmm[:8]
    ]

    x87 = bytearray(state.x87)
    x87[2:5] = bytes.fromhex("0038 c1")  # TOP is 7; registers 0, 6 and 7 are in use
    x87[32:42] = bytes(range(10))
    before = cpu.state()
    changed = VectorDelta(xmm={2: 0x1234}, zmm={3: 1 << 300 | 5}, x87=bytes(x87))
    cpu.apply(Delta(before.rip, before.rflags, vectors=changed))
    assert Halted() == cpu.run()
    image = memory.read(0x6000, 512)
    assert [x87[part] for part in TOLD] == [image[part] for part in TOLD]
    assert [bytes(range(16)), 0x1234, 5] == [
        image[176:192], *(int.from_bytes(image[at : at + 16], "little") for at in (192, 208))
    ]  # fmt: skip


def test_there_is_no_more_than_sse() -> None:
    """Who asks for AVX is told."""
    from mmiod.vmm.unicorn import UnicornCpu  # noqa: PLC0415 - the mark `needs` comes first

    cpu = UnicornCpu(GuestMemory.create(1, firmware("f4")), lambda *_: b"")

    with pytest.raises(Unable, match=r"Unicorn has no registers .*AVX"):
        cpu.vectors(RegisterSet.SSE | RegisterSet.AVX)
