from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mmiod.protocol.exit import NO_DEADLINE, Arrived, Hello, Map, ToDaemon, encode_completion, read
from mmiod.protocol.exit.header import c_members, c_name, render
from mmiod.protocol.exit.table import LAYOUTS, MAX_MESSAGE, MESSAGES, NUMBERS, VERSION
from mmiod.values import (
    Completion,
    DecodedExit,
    Delta,
    Direction,
    Done,
    Fault,
    Intent,
    RawExit,
    Segment,
    Space,
    Values,
    VcpuState,
)

ROOT = Path(__file__).parents[2]
HEADER = ROOT / "include" / "mmiod_exit.h"
C = ("gcc", "-std=c11")
CPLUSPLUS = ("g++", "-std=c++17", "-x", "c++")
STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic", "-I", str(HEADER.parent))

COMPILERS = [
    pytest.param(C, id="c11", marks=pytest.mark.needs("gcc")),
    pytest.param(CPLUSPLUS, id="c++17", marks=pytest.mark.needs("g++")),
]

Foreign = Callable[..., bytes]


def test_header_is_current() -> None:
    """The header in the repository is the one that the table gives."""
    assert render() == HEADER.read_text(), "python -m mmiod.protocol.exit.header > include/mmiod_exit.h"


def build(compiler: tuple[str, ...], source: Path, program: Path) -> Path:
    """Compile with every warning an error."""
    subprocess.run([*compiler, *STRICT, str(source), "-o", str(program)], check=True)
    return program


@pytest.mark.parametrize("compiler", COMPILERS)
def test_compiler_places_every_member_where_the_table_does(compiler: tuple[str, ...], tmp_path: Path) -> None:
    """Sizeof and offsetof of a program without our assertions equal the table's numbers."""
    structures = {f"{c_name(layout)}": layout.size for layout in LAYOUTS.values()}
    members = {
        f"{c_name(layout)} {name}": offset
        for layout in LAYOUTS.values()
        for name, offset in c_members(layout)
    }
    lines = [f'printf("%zu\\n", sizeof(struct {name}));' for name in structures]
    lines += [f'printf("%zu\\n", offsetof(struct {member.replace(" ", ", ")}));' for member in members]
    source = tmp_path / "layout.c"
    source.write_text(f'#include "mmiod_exit.h"\n#include <stdio.h>\nint main(void) {{ {"".join(lines)} }}\n')

    out = subprocess.run([build(compiler, source, tmp_path / "layout")], check=True, capture_output=True)

    assert [*structures.values(), *members.values()] == [int(line) for line in out.stdout.split()]


@pytest.mark.needs("gcc")
def test_layout_alone_needs_no_libc(tmp_path: Path) -> None:
    """Without the client's half the compiler's own headers suffice."""
    source = tmp_path / "paravisor.c"
    source.write_text(
        '#define MMIOD_EXIT_LAYOUT_ONLY\n#include "mmiod_exit.h"\nstruct mmiod_msg_exit_raw out;\n'
    )

    out = subprocess.run(
        [*C, *STRICT, "-ffreestanding", "-M", str(source)], check=True, capture_output=True, text=True
    )

    assert [] == [
        name for name in out.stdout.split() if "/include/" in name and name.startswith("/usr/include")
    ]


@pytest.mark.needs("gcc")
def test_numbers_are_the_tables(tmp_path: Path) -> None:
    """Every constant of the header has the table's value."""
    expected = {f"MMIOD_MSG_{layout.name}": type_ for type_, layout in MESSAGES.items()}
    expected |= {"MMIOD_EXIT_VERSION": VERSION, "MMIOD_EXIT_MAX_MESSAGE": MAX_MESSAGE}
    expected |= {
        f"MMIOD_{numbers.name.upper()}_{name}": numbers[name]
        for numbers in NUMBERS.values()
        for name, _, _ in numbers.members
    }
    source = tmp_path / "numbers.c"
    lines = [f'printf("%u\\n", (unsigned){name});' for name in expected]
    source.write_text(f'#include "mmiod_exit.h"\n#include <stdio.h>\nint main(void) {{ {"".join(lines)} }}\n')

    out = subprocess.run([build(C, source, tmp_path / "numbers")], check=True, capture_output=True)

    assert list(expected.values()) == [int(line) for line in out.stdout.split()]


# --- a client in C -------------------------------------------------------------------


@pytest.fixture(scope="module", params=COMPILERS)
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Foreign:
    """Runs foreign.c, built as C and as C++."""
    source = Path(__file__).parent / "foreign.c"
    program = build(request.param, source, tmp_path_factory.mktemp("foreign") / "foreign")

    def run(*arguments: str, data: bytes = b"") -> bytes:
        return subprocess.run([program, *arguments], input=data, check=True, capture_output=True).stdout

    return run


INTR, MSI, VECTORS = (NUMBERS["capability"][name] for name in ("INTR", "MSI", "VECTORS"))
STATE = VcpuState(
    gpr=[0x100 + n for n in range(16)], rip=0x401000, rflags=0x202, cpl=3, cr0=0x8000_0011, dr7=0x400,
    segments=[Segment(), Segment(attributes=0xA09B), *(Segment() for _ in range(4))],
    idtr=Segment(limit=0xFFF),
)  # fmt: skip


@pytest.mark.parametrize(
    ("message", "event"),
    [
        (
            "hello",
            Hello(
                1, 1, 2, INTR, MSI | VECTORS, bytes(16), 1 << 47, 0, 0, 64, 48, "vm0", "foreign", join=False
            ),
        ),
        ("map", Map(7, 1, 0xE0000, 0x20000, 0x1000, read_only=True, no_descriptor=False)),
        ("decoded", DecodedExit(1, 5, Space.PIO, Direction.WRITE, 0x3F8, 1, data=b"A")),
        ("raw", RawExit(0, 1, STATE, b"\x89\x07", gpa=0xFED4_0000, intent=Intent.WRITE)),
    ],
)
def test_what_a_c_client_sends_is_understood(
    foreign: Foreign, message: str, event: ToDaemon | DecodedExit | RawExit
) -> None:
    """A client that fills the header's structures means what the daemon reads."""
    arrived = read(foreign(message))

    assert event == (arrived.exit if isinstance(arrived, Arrived) else arrived)


@pytest.mark.parametrize(
    ("completion", "understood"),
    [
        (Values(b"\x34\x12"), "values 1 9 1234 2"),
        (Done(Delta(0x7C05, 0x46, {3: 0xBEEF})), "done 7c05 46 8 beef"),
        (Fault(14, 2, 0xDEAD_B000), "fault 14 1 2 deadb000"),
        (Fault(6), "fault 6 0 0 0"),
    ],
)
def test_what_the_daemon_answers_is_understood_in_c(
    foreign: Foreign, completion: Completion, understood: str
) -> None:
    """A C client finds value, registers and fault where the header says."""
    wire = encode_completion(
        completion, vcpu=1, sequence=9, posted=0, interrupt=False, guest_ns=0, deadline_ns=NO_DEADLINE
    )

    assert understood == foreign(data=wire).decode().strip()
