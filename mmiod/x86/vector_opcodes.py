"""The table of vector moves and BMI: one line of text per instruction, all its encodings.

Columns: opcode, mnemonic (VEX and EVEX put a v before it), shape (the function that
executes it), operands in the manual's order, bytes of the operand in memory, bytes of an
element that an opmask chooses, encodings, attributes.

Opcode: the mandatory prefix (NP for none), the map, the number, `/n` where ModRM.reg
belongs to it.  Operands, the letters of SDM vol. 2, appendix A.2.1: M memory of ModRM,
V vector of ModRM.reg, H vector of VEX.vvvv (legacy: V), U vector of ModRM.rm, P and N
the same for MMX as V and U, G and B general registers as V and H, I an immediate byte,
Y memory at DS:rDI; and of our own K opmask of ModRM.reg.
Bytes in memory: `v` the vector, `v/2` .. `v/8` a part of it, `d` 8 bytes for the shortest
vector, else all of it, `y` 8 with W in 64-bit code, else 4.
Encodings: sse, mmx, vex, evex; W0 or W1 where W matters; L0 (128 bits only), L1 (256
only), L12 (not 128), L2 (512 only), LIG (ignored: a scalar).
Attributes: aligned (#GP on memory that is not aligned to its size), aligned_sse (only in
that encoding), unmasked (no opmask chooses), whole (memory is read whatever the opmask
says), opmask (needs AVX-512 in spite of VEX).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final

from attrs import frozen

from mmiod.x86.encoding import MANDATORY, opcode_number
from mmiod.x86.table import Opcode

_MOVES: Final = """
NP.0F.10     movups         load         V,M    v   4   sse vex evex.W0
NP.0F.11     movups         store        M,V    v   4   sse vex evex.W0
66.0F.10     movupd         load         V,M    v   8   sse vex evex.W1
66.0F.11     movupd         store        M,V    v   8   sse vex evex.W1
F3.0F.10     movss          load         V,M    4   4   sse vex.LIG evex.W0.LIG
F3.0F.11     movss          store        M,V    4   4   sse vex.LIG evex.W0.LIG
F2.0F.10     movsd          load         V,M    8   8   sse vex.LIG evex.W1.LIG
F2.0F.11     movsd          store        M,V    8   8   sse vex.LIG evex.W1.LIG
F3.5.10      movsh          load         V,M    2   2   evex.W0.LIG
F3.5.11      movsh          store        M,V    2   2   evex.W0.LIG
NP.0F.12     movlps         load_low     V,H,M  8   8   sse vex.L0 evex.W0.L0 unmasked
66.0F.12     movlpd         load_low     V,H,M  8   8   sse vex.L0 evex.W1.L0 unmasked
NP.0F.13     movlps         store        M,V    8   8   sse vex.L0 evex.W0.L0 unmasked
66.0F.13     movlpd         store        M,V    8   8   sse vex.L0 evex.W1.L0 unmasked
NP.0F.16     movhps         load_high    V,H,M  8   8   sse vex.L0 evex.W0.L0 unmasked
66.0F.16     movhpd         load_high    V,H,M  8   8   sse vex.L0 evex.W1.L0 unmasked
NP.0F.17     movhps         store_high   M,V    8   8   sse vex.L0 evex.W0.L0 unmasked
66.0F.17     movhpd         store_high   M,V    8   8   sse vex.L0 evex.W1.L0 unmasked
F3.0F.12     movsldup       load_even    V,M    v   4   sse vex evex.W0 whole aligned_sse
F3.0F.16     movshdup       load_odd     V,M    v   4   sse vex evex.W0 whole aligned_sse
F2.0F.12     movddup        load_even    V,M    d   8   sse vex evex.W1 whole
NP.0F.28     movaps         load         V,M    v   4   sse vex evex.W0 aligned
NP.0F.29     movaps         store        M,V    v   4   sse vex evex.W0 aligned
66.0F.28     movapd         load         V,M    v   8   sse vex evex.W1 aligned
66.0F.29     movapd         store        M,V    v   8   sse vex evex.W1 aligned
NP.0F.2B     movntps        store        M,V    v   4   sse vex evex.W0 aligned unmasked
66.0F.2B     movntpd        store        M,V    v   8   sse vex evex.W1 aligned unmasked
F3.0F.2B     movntss        store        M,V    4   4   sse
F2.0F.2B     movntsd        store        M,V    8   8   sse
66.0F.6E     movd           load         V,M    4   4   sse.W0 vex.W0.L0 evex.W0.L0 unmasked
66.0F.6E     movq           load         V,M    y   8   sse.W1 vex.W1.L0 evex.W1.L0 unmasked
66.0F.7E     movd           store        M,V    4   4   sse.W0 vex.W0.L0 evex.W0.L0 unmasked
66.0F.7E     movq           store        M,V    y   8   sse.W1 vex.W1.L0 evex.W1.L0 unmasked
66.5.6E      movw           load         V,M    2   2   evex.L0 unmasked
66.5.7E      movw           store        M,V    2   2   evex.L0 unmasked
F3.0F.7E     movq           load         V,M    8   8   sse vex.L0 evex.W1.L0 unmasked
66.0F.D6     movq           store        M,V    8   8   sse vex.L0 evex.W1.L0 unmasked
66.0F.6F     movdqa         load         V,M    v   4   sse vex aligned
66.0F.7F     movdqa         store        M,V    v   4   sse vex aligned
66.0F.6F     movdqa32       load         V,M    v   4   evex.W0 aligned
66.0F.7F     movdqa32       store        M,V    v   4   evex.W0 aligned
66.0F.6F     movdqa64       load         V,M    v   8   evex.W1 aligned
66.0F.7F     movdqa64       store        M,V    v   8   evex.W1 aligned
F3.0F.6F     movdqu         load         V,M    v   4   sse vex
F3.0F.7F     movdqu         store        M,V    v   4   sse vex
F3.0F.6F     movdqu32       load         V,M    v   4   evex.W0
F3.0F.7F     movdqu32       store        M,V    v   4   evex.W0
F3.0F.6F     movdqu64       load         V,M    v   8   evex.W1
F3.0F.7F     movdqu64       store        M,V    v   8   evex.W1
F2.0F.6F     movdqu8        load         V,M    v   1   evex.W0
F2.0F.7F     movdqu8        store        M,V    v   1   evex.W0
F2.0F.6F     movdqu16       load         V,M    v   2   evex.W1
F2.0F.7F     movdqu16       store        M,V    v   2   evex.W1
F2.0F.F0     lddqu          load         V,M    v   4   sse vex
66.0F.E7     movntdq        store        M,V    v   4   sse vex evex.W0 aligned unmasked
66.0F38.2A   movntdqa       load         V,M    v   4   sse vex evex.W0 aligned unmasked
NP.0F.6E     movd           load_mm      P,M    4   -   mmx.W0
NP.0F.6E     movq           load_mm      P,M    y   -   mmx.W1
NP.0F.7E     movd           store_mm     M,P    4   -   mmx.W0
NP.0F.7E     movq           store_mm     M,P    y   -   mmx.W1
NP.0F.6F     movq           load_mm      P,M    8   -   mmx
NP.0F.7F     movq           store_mm     M,P    8   -   mmx
NP.0F.E7     movntq         store_mm     M,P    8   -   mmx
NP.0F.F7     maskmovq       store_bytes  Y,P,N  8   1   mmx
66.0F.F7     maskmovdqu     store_bytes  Y,V,U  v   1   sse vex.L0
"""

_MASKED: Final = """
66.0F38.2C   maskmovps      load_signed  V,H,M  v   4   vex.W0
66.0F38.2D   maskmovpd      load_signed  V,H,M  v   8   vex.W0
66.0F38.2E   maskmovps      store_signed M,H,V  v   4   vex.W0
66.0F38.2F   maskmovpd      store_signed M,H,V  v   8   vex.W0
66.0F38.8C   pmaskmovd      load_signed  V,H,M  v   4   vex.W0
66.0F38.8C   pmaskmovq      load_signed  V,H,M  v   8   vex.W1
66.0F38.8E   pmaskmovd      store_signed M,H,V  v   4   vex.W0
66.0F38.8E   pmaskmovq      store_signed M,H,V  v   8   vex.W1
"""

_BROADCASTS: Final = """
66.0F38.18   broadcastss    broadcast    V,M    4   4   vex.W0 evex.W0
66.0F38.19   broadcastsd    broadcast    V,M    8   8   vex.W0.L1 evex.W1.L12
66.0F38.19   broadcastf32x2 broadcast    V,M    8   4   evex.W0.L12
66.0F38.1A   broadcastf128  broadcast    V,M    16  16  vex.W0.L1
66.0F38.58   pbroadcastd    broadcast    V,M    4   4   vex.W0 evex.W0
66.0F38.59   pbroadcastq    broadcast    V,M    8   8   vex.W0 evex.W1
66.0F38.59   broadcasti32x2 broadcast    V,M    8   4   evex.W0
66.0F38.5A   broadcasti128  broadcast    V,M    16  16  vex.W0.L1
66.0F38.78   pbroadcastb    broadcast    V,M    1   1   vex.W0 evex.W0
66.0F38.79   pbroadcastw    broadcast    V,M    2   2   vex.W0 evex.W0
"""

_EXTENSIONS: Final = (("bw", 2, 2), ("bd", 4, 4), ("bq", 8, 8), ("wd", 2, 4), ("wq", 4, 8), ("dq", 2, 8))
"""Name, how much narrower the source is, bytes of a result."""
_OPMASKS: Final = (("b", "66", 0, 1), ("w", "NP", 0, 2), ("d", "66", 1, 4), ("q", "NP", 1, 8))
"""Name, prefix, W, bytes."""

_BIT_MANIPULATION: Final = """
NP.0F38.F2   andn           bits         G,B,M  y   -   vex.L0
NP.0F38.F3/1 blsr           bits         B,M    y   -   vex.L0
NP.0F38.F3/2 blsmsk         bits         B,M    y   -   vex.L0
NP.0F38.F3/3 blsi           bits         B,M    y   -   vex.L0
NP.0F38.F5   bzhi           bits         G,M,B  y   -   vex.L0
NP.0F38.F7   bextr          bits         G,M,B  y   -   vex.L0
F3.0F38.F5   pext           bits         G,B,M  y   -   vex.L0
F2.0F38.F5   pdep           bits         G,B,M  y   -   vex.L0
F2.0F38.F6   mulx           multiply_bits G,B,M  y   -   vex.L0
F2.0F3A.F0   rorx           bits         G,M,I  y   -   vex.L0
F3.0F38.F7   sarx           bits         G,M,B  y   -   vex.L0
66.0F38.F7   shlx           bits         G,M,B  y   -   vex.L0
F2.0F38.F7   shrx           bits         G,M,B  y   -   vex.L0
"""


def _lines() -> Iterator[str]:
    for text in (_MOVES, _MASKED, _BROADCASTS, _BIT_MANIPULATION):
        yield from text.strip().splitlines()
    for base, kind in ((0x1A, "f"), (0x5A, "i")):
        for w, element in ((0, 4), (1, 8)):
            name = f"broadcast{kind}{8 * element}x"
            yield f"66.0F38.{base:X} {name}{16 // element} broadcast V,M 16 {element} evex.W{w}.L12"
            yield f"66.0F38.{base + 1:X} {name}{32 // element} broadcast V,M 32 {element} evex.W{w}.L2"
    for number, (name, part, element) in enumerate(_EXTENSIONS):
        evex = "evex.W0" if name == "dq" else "evex"
        yield f"66.0F38.{0x20 + number:X} pmovsx{name} extend_signed V,M v/{part} {element} sse vex {evex}"
        yield f"66.0F38.{0x30 + number:X} pmovzx{name} extend V,M v/{part} {element} sse vex {evex}"
    for name, prefix, w, size in _OPMASKS:
        yield f"{prefix}.0F.90 kmov{name} load_k K,M {size} - vex.W{w}.L0 opmask"
        yield f"{prefix}.0F.91 kmov{name} store_k M,K {size} - vex.W{w}.L0 opmask"


_LENGTHS: Final = {"L0": (16,), "L1": (32,), "L12": (32, 64), "L2": (64,), "LIG": (16, 32, 64)}
_ALL_LENGTHS: Final = {"mmx": (16,), "sse": (16,), "vex": (16, 32), "evex": (16, 32, 64)}
_ESCAPES: Final = {"0F": 0x0F, "0F38": 0x0F38, "0F3A": 0x0F3A, "5": 5}


@frozen
class Form:
    """One encoding of one line of the table."""

    opcode: Opcode
    space: str
    """mmx, sse, vex or evex."""
    extension: int | None
    w: int | None
    lengths: tuple[int, ...]
    """Of the vector, in bytes."""
    scalar: bool
    """The vector's length is ignored."""
    operands: tuple[str, ...]
    memory: str
    element: int
    """0 where there are none."""
    vvvv: bool
    """VEX.vvvv is an operand."""
    masked: bool
    """An opmask may choose."""
    stores: bool

    def memory_size(self, length: int, *, wide: bool) -> int:
        """Bytes of the operand in memory of a vector of `length` bytes."""
        match self.memory:
            case "v":
                return length
            case "d":
                return 8 if length == 16 else length
            case "y":
                return 8 if wide else 4
            case part if part.startswith("v/"):
                return length // int(part[2:])
        return int(self.memory)


def _forms(line: str) -> Iterator[tuple[int, Form]]:
    where, mnemonic, shape, operands, memory, element, *words = line.split()
    prefix, escape, number = where.split(".")
    number, _, extension = number.partition("/")
    encodings = [word.split(".") for word in words if word.partition(".")[0] in _ALL_LENGTHS]
    attributes = frozenset(word for word in words if word.partition(".")[0] not in _ALL_LENGTHS)
    key = opcode_number(_ESCAPES[escape], int(number, 16), MANDATORY[prefix])
    for space, *constraints in encodings:
        lengths = [_LENGTHS[word] for word in constraints if word in _LENGTHS]
        letters = tuple(operands.split(","))
        form = Form(
            opcode=_opcode(mnemonic, shape, space, attributes),
            space=space,
            extension=int(extension) if extension else None,
            w=next((int(word[1]) for word in constraints if word[0] == "W"), None),
            lengths=lengths[0] if lengths else _ALL_LENGTHS[space],
            scalar="LIG" in constraints,
            operands=letters,
            memory=memory,
            element=int(element.replace("-", "0")),
            vvvv="H" in letters or "B" in letters,
            masked="unmasked" not in attributes,
            stores=letters[0] == "M",
        )
        yield key, form


def _opcode(mnemonic: str, shape: str, space: str, attributes: frozenset[str]) -> Opcode:
    general = shape.endswith("bits")
    named = space in ("vex", "evex") and not general and "opmask" not in attributes
    aligned = "aligned" in attributes or (space == "sse" and "aligned_sse" in attributes)
    return Opcode(
        mnemonic="v" + mnemonic if named else mnemonic,
        shape=shape if general else f"vector_{shape}",
        operands=(),
        attributes=attributes | {space} | (set() if general else {"vector"}),
        modrm=True,
        lockable=False,
        locked=False,
        aligned=int(aligned),
        plain=True,
    )


def _table() -> dict[tuple[str, int], list[Form]]:
    table: dict[tuple[str, int], list[Form]] = {}
    for number, form in chain.from_iterable(map(_forms, _lines())):
        space = form.space if form.space in ("vex", "evex") else "legacy"
        table.setdefault((space, number), []).append(form)
    return table


FORMS: Final = _table()
"""By encoding (legacy, vex or evex) and opcode number; W, length and ModRM.reg choose among several."""
