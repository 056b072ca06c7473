"""The opcode table of integer instructions: one line of text per opcode.

Columns: opcode, mnemonic, shape (the function that executes it), operands in the
manual's order (`mmiod.x86.letters`), attributes.

An opcode is its bytes in hex, `/n` where ModRM.reg belongs to it.  A prefix before it
with a dot (`66.`, `F2.`, `F3.`, `NP.` for none) is part of the opcode; without one the
prefixes that no other line asks for mean what they mean everywhere.

Attributes: lock (LOCK is legal), locked (atomic with or without it), aligned (#GP on an
operand that is not aligned to its size; aligned16: only if that is 16 or more), i64
(undefined in 64-bit code), o64 (another instruction outside 64-bit code), d64 (8 bytes
wide in 64-bit code, 2 with 66).
Only E forms in memory are executed; instructions on registers alone do not exit, but for
those whose stack may be in a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_MOVES: Final = """
88         mov        store         Eb,Gb
89         mov        store         Ev,Gv
8A         mov        load          Gb,Eb
8B         mov        load          Gv,Ev
8C         mov        store         Ew,Sw
8E         mov        load_segment  Lw,Ew
A0         mov        load          rAXb,Ob
A1         mov        load          rAXv,Ov
A2         mov        store         Ob,rAXb
A3         mov        store         Ov,rAXv
C6/0       mov        store         Eb,Ib
C7/0       mov        store         Ev,sIz
D7         xlat       load          rAXb,Tb
63         movsxd     load_signed   Gv,Ez      o64
0FB6       movzx      load          Gv,Eb
0FB7       movzx      load          Gv,Ew
0FBE       movsx      load_signed   Gv,Eb
0FBF       movsx      load_signed   Gv,Ew
NP.0FC3    movnti     store         Ey,Gy
NP.0F38F0  movbe      load_swapped  Gv,Ev
66.0F38F0  movbe      load_swapped  Gv,Ev
NP.0F38F1  movbe      store_swapped Ev,Gv
66.0F38F1  movbe      store_swapped Ev,Gv
NP.0F38F9  movdiri    store         Ey,Gy
66.0F38F8  movdir64b  move_direct   Aq,Em      aligned
F2.0F38F8  enqcmd     enqueue       Aq,Em      aligned
F3.0F38F8  enqcmds    enqueue       Aq,Em      aligned
0F0D       prefetch   nothing       Eb
0F18       prefetch   nothing       Eb
0F19       nop        nothing       Eb
0F1C       nop        nothing       Eb
0F1D       nop        nothing       Eb
0F1E       nop        nothing       Eb
0F1F       nop        nothing       Eb
NP.0FAE/7  clflush    touch         Eb
66.0FAE/7  clflushopt touch         Eb
66.0FAE/6  clwb       touch         Eb
"""

_ARITHMETIC: Final = """
84         test       compare       Eb,Gb
85         test       compare       Ev,Gv
F6/2       not        modify        Eb         lock
F6/3       neg        modify        Eb         lock
F7/2       not        modify        Ev         lock
F7/3       neg        modify        Ev         lock
FE/0       inc        modify        Eb         lock
FE/1       dec        modify        Eb         lock
FF/0       inc        modify        Ev         lock
FF/1       dec        modify        Ev         lock
86         xchg       exchange      Eb,Gb      lock locked
87         xchg       exchange      Ev,Gv      lock locked
0FC0       xadd       exchange_add  Eb,Gb      lock
0FC1       xadd       exchange_add  Ev,Gv      lock
0FB0       cmpxchg    exchange_if   Eb,Gb      lock
0FB1       cmpxchg    exchange_if   Ev,Gv      lock
0FC7/1     cmpxchg8b  exchange_pair Ep         lock aligned16
0FA4       shld       shift_double  Ev,Gv,Ib
0FA5       shld       shift_double  Ev,Gv,CLb
0FAC       shrd       shift_double  Ev,Gv,Ib
0FAD       shrd       shift_double  Ev,Gv,CLb
0FAF       imul       combine       Gv,Ev
69         imul       combine_two   Gv,Ev,sIz
6B         imul       combine_two   Gv,Ev,sIb
F6/4       mul        multiply      Eb
F7/4       mul        multiply      Ev
F6/5       imul       multiply      Eb
F7/5       imul       multiply      Ev
F6/6       div        divide        Eb
F7/6       div        divide        Ev
F6/7       idiv       divide        Eb
F7/7       idiv       divide        Ev
0FBC       bsf        find          Gv,Ev
0FBD       bsr        find          Gv,Ev
F3.0FBC    tzcnt      combine       Gv,Ev
F3.0FBD    lzcnt      combine       Gv,Ev
F3.0FB8    popcnt     combine       Gv,Ev
66.0F38F6  adcx       combine       Gy,Ey
F3.0F38F6  adox       combine       Gy,Ey
F2.0F38F0  crc32      combine       Gy,Eb
F2.0F38F1  crc32      combine       Gy,Ev
NP.0F38FC  aadd       modify        Ey,Gy      locked aligned
66.0F38FC  aand       modify        Ey,Gy      locked aligned
F2.0F38FC  aor        modify        Ey,Gy      locked aligned
F3.0F38FC  axor       modify        Ey,Gy      locked aligned
"""

_STRINGS: Final = """
A4         movs       movs          Yb,Xb
A5         movs       movs          Yv,Xv
A6         cmps       cmps          Xb,Yb
A7         cmps       cmps          Xv,Yv
AA         stos       stos          Yb,rAXb
AB         stos       stos          Yv,rAXv
AC         lods       lods          rAXb,Xb
AD         lods       lods          rAXv,Xv
AE         scas       scas          rAXb,Yb
AF         scas       scas          rAXv,Yv
6C         ins        ins           Yb,DXw
6D         ins        ins           Yz,DXw
6E         outs       outs          DXw,Xb
6F         outs       outs          DXw,Xz
"""

_PORTS: Final = """
E4         in         port_in       rAXb,Ib
E5         in         port_in       rAXz,Ib
E6         out        port_out      Ib,rAXb
E7         out        port_out      Ib,rAXz
EC         in         port_in       rAXb,DXw
ED         in         port_in       rAXz,DXw
EE         out        port_out      DXw,rAXb
EF         out        port_out      DXw,rAXz
0F32       rdmsr      msr_read      -
0F30       wrmsr      msr_write     -
"""

_STACK: Final = """
FF/6       push       push          Ev         d64
68         push       push          sIz        d64
6A         push       push          sIb        d64
8F/0       pop        pop_memory    Ev         d64
60         pusha      push_all      -          i64
61         popa       pop_all       -          i64
9C         pushf      push_flags    -          d64
9D         popf       pop_flags     -          d64
C8         enter      enter         Iw,Ib      d64
C9         leave      leave         -          d64
FF/2       call       call          Ev         d64
FF/4       jmp        jump          Ev         d64
FF/3       call       call_far      Ef
FF/5       jmp        jump_far      Ef
E8         call       call_relative Jz         d64
C2         ret        ret           Iw         d64
C3         ret        ret           -          d64
"""

_ALU: Final = ("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp")
_SHIFTS: Final = ("rol", "ror", "rcl", "rcr", "shl", "shr", "shl", "sar")  # /6 is an alias
_CONDITIONS: Final = "o no b ae e ne be a s ns p np l ge le g".split()
_BIT_TESTS: Final = ("bt", "bts", "btr", "btc")


def lines() -> Iterator[str]:
    """The whole table."""
    for text in (_MOVES, _ARITHMETIC, _STRINGS, _PORTS, _STACK):
        yield from text.strip().splitlines()
    for family in (_alu, _tests, _shifts, _conditions, _bits, _registers_on_stack, _undefined):
        yield from family()


def _alu() -> Iterator[str]:
    for number, name in enumerate(_ALU):
        to_memory, lock = ("compare", "") if name == "cmp" else ("modify", "lock")
        to_register = "compare" if name == "cmp" else "combine"
        yield f"{8 * number:02X} {name} {to_memory} Eb,Gb {lock}"
        yield f"{8 * number + 1:02X} {name} {to_memory} Ev,Gv {lock}"
        yield f"{8 * number + 2:02X} {name} {to_register} Gb,Eb"
        yield f"{8 * number + 3:02X} {name} {to_register} Gv,Ev"
        yield f"80/{number} {name} {to_memory} Eb,Ib {lock}"
        yield f"81/{number} {name} {to_memory} Ev,sIz {lock}"
        yield f"82/{number} {name} {to_memory} Eb,Ib {lock} i64"
        yield f"83/{number} {name} {to_memory} Ev,sIb {lock}"


def _tests() -> Iterator[str]:
    for number in (0, 1):  # /1 is an alias that AMD documents and Intel executes
        yield f"F6/{number} test compare Eb,Ib"
        yield f"F7/{number} test compare Ev,sIz"


def _shifts() -> Iterator[str]:
    for opcode, count in (("C0", "Ib"), ("D0", "1b"), ("D2", "CLb")):
        for number, name in enumerate(_SHIFTS):
            yield f"{opcode}/{number} {name} modify Eb,{count}"
            yield f"{int(opcode, 16) + 1:02X}/{number} {name} modify Ev,{count}"


def _conditions() -> Iterator[str]:
    for number, condition in enumerate(_CONDITIONS):
        yield f"0F4{number:X} cmov{condition} load_if Gv,Ev"
        yield f"0F9{number:X} set{condition} store_condition Eb"


def _bits() -> Iterator[str]:
    for number, name in enumerate(_BIT_TESTS):
        shape, lock = ("compare", "") if name == "bt" else ("modify", "lock")
        yield f"0F{0xA3 + 8 * number:02X} {name} {shape} Bv,Gv {lock}"
        yield f"0FBA/{4 + number} {name} {shape} Ev,Ib {lock}"


def _registers_on_stack() -> Iterator[str]:
    for number in range(8):
        yield f"5{number:X} push push Zv d64"
        yield f"5{8 + number:X} pop pop_register Zv d64"
    for opcode, segment in (("06", "ES"), ("0E", "CS"), ("16", "SS"), ("1E", "DS")):
        yield f"{opcode} push push {segment}w i64"
    for opcode, segment in (("07", "ES"), ("17", "SS"), ("1F", "DS")):
        yield f"{opcode} pop pop_segment {segment}w i64"
    for opcode, segment in (("0FA0", "FS"), ("0FA8", "GS")):
        yield f"{opcode} push push {segment}w d64"
        yield f"{opcode[:3]}{int(opcode[3], 16) + 1:X} pop pop_segment {segment}w d64"


def _undefined() -> Iterator[str]:
    """What no processor executes; 7 of C6 and C7 has register forms, XABORT and XBEGIN."""
    for opcode in ("C6", "C7"):
        yield from (f"{opcode}/{number} - undefined -" for number in range(1, 7))
        yield f"{opcode}/7 - undefined Eb"
    yield from (f"FE/{number} - undefined -" for number in range(2, 8))
    yield "FF/7 - undefined -"
