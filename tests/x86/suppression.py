"""Which masked vector instructions fault on this CPU, where their operand reaches beyond all memory.

Each is tried in a process of its own.  Prints JSON: [form, elements that the mask selects, faults].
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

import iced_x86 as iced

from mmiod.x86 import Mode
from tests.x86.forms import BEYOND, CODES, REGISTERS, TARGET, Judge, judge, mnemonic, operand_kinds
from tests.x86.layout import ENTRY, WINDOW
from tests.x86.native import Native
from tests.x86.predicted import element_bytes, operand_bytes
from tests.x86.situations import Case, aligned

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Code

ONES = (1 << 512) - 1


def masked_forms() -> Iterator[Code]:
    """Those that may have an opmask, and need no alignment that would keep them within a page."""
    for code in chain.from_iterable((TARGET | BEYOND).values()):
        form = iced.OpCodeInfo(code)
        if judge(code) is Judge.NATIVE and form.can_use_op_mask_register and not aligned(mnemonic(code)):
            yield code


def cases(code: Code) -> Iterator[tuple[int, Case]]:
    """The operand ends beyond memory behind its first n elements, and only these are selected."""
    size, element = operand_bytes(code), element_bytes(code)
    for selected in {0, 1, size // element // 2} - {size // element}:
        address = WINDOW.stop - selected * element
        gpr = [address, *[0] * 15]
        mask = (1 << selected) - 1
        yield (
            selected,
            Case(CODES[code], Mode.CODE64, encoded(code), 0, gpr, 2, [ONES] * 32, [mask] * 8, [0] * 8),
        )


def encoded(code: Code) -> bytes:
    """The form with register 1, [rax] and k1."""
    instruction = iced.Instruction()
    instruction.code = code
    for number, kind in enumerate(operand_kinds(code)):
        if "MEM" in kind:
            instruction.set_op_kind(number, iced.OpKind.MEMORY)
            instruction.memory_base = REGISTERS["RAX"]
        else:
            instruction.set_op_kind(number, iced.OpKind.REGISTER)
            instruction.set_op_register(number, REGISTERS[f"{kind.partition('_')[0]}1"])
    instruction.op_mask = REGISTERS["K1"]
    encoder = iced.Encoder(64)
    encoder.encode(instruction, ENTRY[Mode.CODE64])
    return bytes(encoder.take_buffer())


def faults(native: Native, case: Case) -> bool:
    """Whether the process dies of it."""
    child = os.fork()
    if not child:
        native.run(case)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return bool(status)


def main() -> None:
    """Try all."""
    native = Native()
    found = [
        (CODES[code], selected, faults(native, case))
        for code in masked_forms()
        for selected, case in cases(code)
    ]
    os.write(1, json.dumps(found).encode())


if __name__ == "__main__":
    main()
