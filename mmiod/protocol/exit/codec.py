"""Messages of the exit protocol as bytes: what holds for every one of them.

`frame` checks a datagram as far as the table alone can judge it; `pack` and `unpack`
turn any message into bytes and back by the dotted names of its fields
("exit.vcpu", "vcpu.gpr[3]").  The messages of the fast path have functions of their
own in `exits` and `completions`, which start from the same `frame`.

Specification: docs/protocol.md, "Messages".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final

from attrs import field, frozen

from mmiod.errors import ProtocolError
from mmiod.protocol.exit.table import LAYOUTS, MAX_MESSAGE, MESSAGES, NUMBERS, Layout, Member

HEADER: Final = struct.Struct("<IHH")
ERROR: Final = NUMBERS["error"]
MALFORMED: Final = ERROR["MALFORMED"]
RANGE: Final = ERROR["RANGE"]
UNKNOWN_TYPE: Final = ERROR["UNKNOWN_TYPE"]


@frozen
class Leaf:
    """A field that nests nothing: its dotted name and its place in the message."""

    name: str
    offset: int
    size: int
    text: bool
    """NUL-padded ASCII."""
    octets: bool
    """Bytes, text or not, rather than a number."""


def leaves(layout: Layout, prefix: str = "", base: int = 0) -> Iterator[Leaf]:
    """The fields of a layout in wire order, nested structures and arrays opened up."""
    for member in layout.members:
        yield from _leaves_of(member, prefix + member.name, base + member.offset)


def _leaves_of(member: Member, name: str, offset: int) -> Iterator[Leaf]:
    octets = member.type == "char" or (member.type == "u8" and member.count > 1)
    if octets or (member.count == 1 and member.layout is None):
        yield Leaf(name, offset, member.size, member.type == "char", octets)
        return
    element = member.size // member.count
    for index in range(member.count):
        place = offset + index * element
        label = name if member.count == 1 else f"{name}[{index}]"
        if member.layout:
            yield from leaves(member.layout, label + ".", place)
        else:
            yield Leaf(label, place, element, text=False, octets=False)


def _is_reserved(leaf: Leaf) -> bool:
    return leaf.name.rpartition(".")[2].startswith("reserved")


@frozen
class Form:
    """A message's layout, made ready to check, pack and unpack datagrams."""

    name: str
    """In lower case, as error names begin."""
    layout: Layout
    type: int
    struct: struct.Struct
    """With the header, without the tail; reserved fields are padding."""
    leaves: tuple[Leaf, ...]
    reserved: tuple[tuple[str, int, int, bytes], ...]
    """(name, start, end, zeros) of each reserved field."""
    flags: int
    """All known flag bits."""
    subject: int
    """Where the sequence (u64) or serial (u32) is, 0 if nowhere."""
    subject_end: int


def _form(layout: Layout, type_: int) -> Form:
    every = tuple(leaves(layout))
    reserved = tuple(leaf for leaf in every if _is_reserved(leaf))
    subject = next((leaf for leaf in every if leaf.name.endswith(("sequence", "serial"))), None)
    bits = NUMBERS.get(f"{layout.name.lower()}_flag")
    return Form(
        name=layout.name.lower(),
        layout=layout,
        type=type_,
        struct=struct.Struct("<IHH" + layout.format),
        leaves=tuple(leaf for leaf in every if leaf not in reserved),
        reserved=tuple(
            (leaf.name, leaf.offset, leaf.offset + leaf.size, bytes(leaf.size)) for leaf in reserved
        ),
        flags=sum(1 << bit for _, bit, _ in bits.members) if bits else 0,
        subject=subject.offset if subject else 0,
        subject_end=subject.offset + subject.size if subject else 0,
    )


FORMS: Final = {type_: _form(layout, type_) for type_, layout in MESSAGES.items()}
BY_NAME: Final = {form.layout.name: form for form in FORMS.values()}


def check(holds: object, name: str, value: int, reason: str) -> None:
    """Raise a RANGE error that names the field unless `holds` is true."""
    if not holds:
        raise ProtocolError(RANGE, name, value, reason)


def frame(data: bytes) -> tuple[Form, int]:
    """Check size, type, flags and reserved fields of one datagram; give its form and flags.

    Raises:
        ProtocolError: MALFORMED or UNKNOWN_TYPE, naming the field.
    """
    length = len(data)
    if length < HEADER.size:
        raise ProtocolError(MALFORMED, "header", length, "the datagram is shorter than a header")
    if length > MAX_MESSAGE:
        raise ProtocolError(MALFORMED, "header", length, f"the datagram is longer than {MAX_MESSAGE}")
    size, type_, flags = HEADER.unpack_from(data)
    if size != length:
        raise ProtocolError(MALFORMED, "header.size", size, f"the datagram has {length} bytes")
    form = FORMS.get(type_)
    if form is None:
        raise ProtocolError(UNKNOWN_TYPE, "header.type", type_, "no such message in version 1")
    if size < form.struct.size or (size > form.struct.size and not form.layout.tail):
        raise _wrong_size(form, size)
    if flags & ~form.flags:
        raise ProtocolError(MALFORMED, "header.flags", flags, f"{form.layout.name} has flags {form.flags:#x}")
    for name, start, end, zeros in form.reserved:
        if data[start:end] != zeros:
            value = int.from_bytes(data[start:end], "little")
            raise ProtocolError(MALFORMED, f"{form.name}.{name}", value, "a reserved field is zero")
    return form, flags


def _wrong_size(form: Form, size: int) -> ProtocolError:
    least = "at least " if form.layout.tail else ""
    reason = f"{form.layout.name} has {least}{form.struct.size} bytes"
    return ProtocolError(MALFORMED, "header.size", size, reason)


def check_tail(form: Form, size: int, expected: int) -> None:
    """The tail of a datagram of `size` bytes must be `expected` bytes long."""
    if size - form.struct.size != expected:
        reason = f"{form.layout.name} needs {expected} bytes behind its fixed {form.struct.size}"
        raise ProtocolError(MALFORMED, "header.size", size, reason)


def subject_of(data: bytes) -> int:
    """The sequence or serial of a message, however broken; 0 if it has none."""
    if len(data) < HEADER.size:
        return 0
    form = FORMS.get(HEADER.unpack_from(data)[1])
    if form is None or len(data) < form.subject_end:
        return 0
    return int.from_bytes(data[form.subject : form.subject_end], "little")


@frozen
class Message:
    """Any message: `numbers` and `octets` map the dotted names of its fields to their values.

    Text arrives without its NUL padding, `u8` arrays arrive whole.
    """

    layout: Layout
    flags: int
    numbers: Mapping[str, int]
    octets: Mapping[str, bytes] = field(factory=dict[str, bytes])
    tail: bytes = b""

    @property
    def name(self) -> str:
        """As the table writes it: "MAP"."""
        return self.layout.name

    def __getitem__(self, name: str) -> int:
        """A number of the message."""
        return self.numbers[name]

    def has(self, flag: str) -> bool:
        """Whether the flag of this name in `enum <message>_flag` is set."""
        return bool(self.flags & NUMBERS[f"{self.name.lower()}_flag"][flag])

    def text(self, name: str) -> str:
        """A NUL-padded text of the message."""
        return self.octets[name].decode("ascii")


def unpack(data: bytes) -> Message:
    """Check a datagram with `frame` and take it apart.

    Raises:
        ProtocolError: also for text that is not NUL-padded printable ASCII.
    """
    form, flags = frame(data)
    numbers: dict[str, int] = {}
    octets: dict[str, bytes] = {}
    values = form.struct.unpack_from(data)[3:]
    for leaf, value in zip(form.leaves, values, strict=True):
        if leaf.text:
            octets[leaf.name] = text(f"{form.name}.{leaf.name}", value)
        elif leaf.octets:
            octets[leaf.name] = value
        else:
            numbers[leaf.name] = value
    return Message(form.layout, flags, numbers, octets, data[form.struct.size :])


def text(name: str, padded: bytes) -> bytes:
    """The text before the NUL padding of a `char` field."""
    shown, _, rest = padded.partition(b"\0")
    if rest.strip(b"\0") or not all(0x20 <= byte < 0x7F for byte in shown):
        raise ProtocolError(MALFORMED, name, padded[0], "text is printable ASCII, padded with NUL")
    return shown


def pack(name: str, flags: int = 0, tail: bytes = b"", /, **fields: int | bytes | str) -> bytes:
    """The bytes of message `name`; fields that are not given are zero.

    Text that is too long is cut.  Names that need a dot are passed as `**{"exit.vcpu": 1}`.

    Raises:
        KeyError: for a field that the message does not have.
        struct.error: for a number that does not fit its field.
        ValueError: if the message is larger than MAX_MESSAGE.
    """
    form = BY_NAME[name]
    values = [_wire(leaf, fields.pop(leaf.name, 0)) for leaf in form.leaves]
    if fields:
        raise KeyError(f"{name} has no {', '.join(fields)}")
    return finish(form, flags, tail, *values)


def finish(form: Form, flags: int, tail: bytes, *values: int | bytes) -> bytes:
    """Put the header before `values`, which are in wire order, and `tail` behind."""
    size = form.struct.size + len(tail)
    if size > MAX_MESSAGE:
        raise ValueError(f"{form.layout.name} of {size} bytes is longer than {MAX_MESSAGE}")
    return form.struct.pack(size, form.type, flags, *values) + tail


def _wire(leaf: Leaf, value: int | bytes | str) -> int | bytes:
    if isinstance(value, str):
        return value.encode("ascii", "backslashreplace")
    return b"" if leaf.octets and value == 0 else value


def structure(name: str) -> struct.Struct:
    """A structure that is no message, for use inside tails."""
    return struct.Struct("<" + LAYOUTS[name].format)
