"""The opcode table: one line of text per opcode, parsed at import.

Columns: opcode (`0F` map included, `/n` ModRM.reg), mnemonic, shape (the function that
executes it), operands in the manual's order, attributes.

Operands are a letter and a size, as in the opcode map of SDM vol. 2, appendix A.2:
  E memory of ModRM              G register of ModRM       S segment register of ModRM
  I immediate, sign-extended     U immediate, unsigned     rAX, DX fixed registers
  O moffs                        X source string           Y destination string
  b 1 byte    w 2 bytes    v operand size    z operand size, at most 4
Only E forms in memory are executed; instructions on registers alone do not exit.
Attributes: lock (LOCK is legal), i64 (undefined in 64-bit code), o64 (another
instruction outside 64-bit code).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from attrs import frozen

_TABLE: Final = """
88      mov     store         Eb,Gb
89      mov     store         Ev,Gv
8A      mov     load          Gb,Eb
8B      mov     load          Gv,Ev
8C      mov     store         Ew,Sw
A0      mov     load          rAXb,Ob
A1      mov     load          rAXv,Ov
A2      mov     store         Ob,rAXb
A3      mov     store         Ov,rAXv
C6/0    mov     store         Eb,Ib
C7/0    mov     store         Ev,Iz
63      movsxd  load_signed   Gv,Ez     o64
0FB6    movzx   load          Gv,Eb
0FB7    movzx   load          Gv,Ew
0FBE    movsx   load_signed   Gv,Eb
0FBF    movsx   load_signed   Gv,Ew
84      test    compare       Eb,Gb
85      test    compare       Ev,Gv
86      xchg    exchange      Eb,Gb     lock
87      xchg    exchange      Ev,Gv     lock
A4      movs    movs          Yb,Xb
A5      movs    movs          Yv,Xv
A6      cmps    cmps          Xb,Yb
A7      cmps    cmps          Xv,Yv
AA      stos    stos          Yb,rAXb
AB      stos    stos          Yv,rAXv
AC      lods    lods          rAXb,Xb
AD      lods    lods          rAXv,Xv
AE      scas    scas          rAXb,Yb
AF      scas    scas          rAXv,Yv
6C      ins     ins           Yb,DXw
6D      ins     ins           Yz,DXw
6E      outs    outs          DXw,Xb
6F      outs    outs          DXw,Xz
E4      in      port_in       rAXb,Ub
E5      in      port_in       rAXz,Ub
E6      out     port_out      Ub,rAXb
E7      out     port_out      Ub,rAXz
EC      in      port_in       rAXb,DXw
ED      in      port_in       rAXz,DXw
EE      out     port_out      DXw,rAXb
EF      out     port_out      DXw,rAXz
"""

_ALU: Final = ("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp")


def _families() -> Iterator[str]:
    """Lines of the families that the manual numbers regularly."""
    for number, name in enumerate(_ALU):
        to_memory, lock = ("compare", "") if name == "cmp" else ("modify", "lock")
        to_register = "compare" if name == "cmp" else "combine"
        yield f"{8 * number:02X} {name} {to_memory} Eb,Gb {lock}"
        yield f"{8 * number + 1:02X} {name} {to_memory} Ev,Gv {lock}"
        yield f"{8 * number + 2:02X} {name} {to_register} Gb,Eb"
        yield f"{8 * number + 3:02X} {name} {to_register} Gv,Ev"
        yield f"80/{number} {name} {to_memory} Eb,Ib {lock}"
        yield f"81/{number} {name} {to_memory} Ev,Iz {lock}"
        yield f"82/{number} {name} {to_memory} Eb,Ib {lock} i64"
        yield f"83/{number} {name} {to_memory} Ev,Ib {lock}"
    for number in (0, 1):  # /1 is an alias that AMD documents and Intel executes
        yield f"F6/{number} test compare Eb,Ib"
        yield f"F7/{number} test compare Ev,Iz"
    for opcode in ("C6", "C7"):
        yield from (f"{opcode}/{number} - undefined -" for number in range(1, 7))
        yield f"{opcode}/7 - undefined Eb"  # the register form is XABORT, XBEGIN


@frozen
class Opcode:
    """One line of the table; `operands` are (letter or fixed register, size letter)."""

    mnemonic: str
    shape: str
    operands: tuple[tuple[str, str], ...]
    attributes: frozenset[str]


Group = dict[int, Opcode]
"""The opcodes that share one byte, by ModRM.reg."""


def _parse(line: str) -> tuple[int, int | None, Opcode]:
    number, mnemonic, shape, operands, *attributes = line.split()
    opcode, _, extension = number.partition("/")
    specifications = [] if operands == "-" else [(item[:-1], item[-1]) for item in operands.split(",")]
    parsed = Opcode(mnemonic, shape, tuple(specifications), frozenset(attributes))
    return int(opcode, 16), int(extension) if extension else None, parsed


def _table() -> dict[int, Opcode | Group]:
    table: dict[int, Opcode | Group] = {}
    for line in (*_TABLE.strip().splitlines(), *_families()):
        number, extension, opcode = _parse(line)
        if extension is None:
            assert number not in table, line
            table[number] = opcode
        else:
            group = table.setdefault(number, {})
            assert isinstance(group, dict), line
            assert extension not in group, line
            group[extension] = opcode
    return table


OPCODES: Final = _table()
"""By opcode; two-byte opcodes are 0x0Fxx.  What is missing is not supported."""
