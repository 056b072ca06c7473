"""Debug console, by QEMU's isa-debugcon."""

from __future__ import annotations

from devices.pseudo.debugcon import DebugCon
from mmiod.testing.harness import Harness


def test_a_read_tells_that_it_is_there() -> None:
    """Firmware takes E9h for a debug console (SeaBIOS src/fw/paravirt.c, qemu_debug_preinit)."""
    assert Harness(DebugCon).read_at(0) == 0xE9


def test_bytes_go_to_the_console() -> None:
    """Each byte written arrives, in order, and changes nothing that is read."""
    port = Harness(DebugCon)
    for byte in b"SeaBIOS\n":
        port.write_at(0, byte)
    assert port.sent("console") == b"SeaBIOS\n"
    assert port.read("port") == 0xE9


def test_a_string_goes_in_one_piece() -> None:
    """REP OUTSB arrives as its bytes would have."""
    port = Harness(DebugCon)
    assert port.write_batch("port", b"SeaBIOS\n") == 8
    assert port.sent("console") == b"SeaBIOS\n"
