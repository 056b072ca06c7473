from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from bench.boot.steps import ALL_WAIT, BEST, NAIVE, STEPS, Counts, count, exits
from bench.boot.trace import SAMPLE, Access, load, read_log, save
from bench.boot.values import judge

THR, IER, FCR, LCR, MCR, LSR, SCR = 0x3F8, 0x3F9, 0x3FA, 0x3FB, 0x3FC, 0x3FD, 0x3FF
ETBEI, OUT2 = 2, 8


def serial(address: int, value: int | None = None) -> Access:
    """A read that gave 60h, or a write."""
    return Access("serial", address, 1, value is not None, 0x60 if value is None else value)


def tpm(address: int, value: int | None = None) -> Access:
    """The same to the TPM."""
    return Access("tpm-crb-mmio", 0xFED40000 + address, 4, value is not None, value or 0)


def test_a_published_read_waits_for_posted_writes_of_its_device() -> None:
    """Once: then they are done.  Another device's reads do not wait."""
    found = count([serial(LCR, 3), tpm(0x4C), serial(LCR), serial(LCR)], BEST)
    assert Counts(trips=0, waits=1, posts=1, loads=2) == found


def test_a_register_that_is_unaffected_does_not_wait() -> None:
    """LSR is not changed by a character that is on its way; which register is there is by LCR."""
    assert Counts(posts=1, loads=1) == count([serial(THR, 65), serial(LSR)], BEST)
    assert Counts(posts=2, waits=1) == count([serial(THR, 65), serial(LCR, 3), serial(IER)], BEST)


def test_a_register_that_keeps_what_is_written_does_not_wait() -> None:
    """What is on its way to it is what it holds; so with a BAR, by either way to configuration space."""
    assert Counts(posts=2, loads=1) == count([serial(THR, 65), serial(SCR, 1), serial(SCR)], BEST)
    index = Access("pci-conf-idx", 0xCF8, 4, True, 0x80001810)
    write = Access("pci-conf-data", 0xCFC, 4, True, 0xFFFFFFFF)
    read = Access("pcie-mmcfg-mmio", 0xB0018010, 4, False, 0xFFFFF000)
    assert Counts(posts=2, loads=1) == count([index, write, read], BEST)


def test_an_access_that_waits_finds_everything_done() -> None:
    """The ring is in order: behind an answer no posted write is left."""
    assert Counts(trips=1, posts=1, loads=1) == count([tpm(0x08, 0), serial(FCR, 0), tpm(0x4C)], BEST)


def test_a_write_that_changes_an_interrupt_is_waited_for() -> None:
    """A character, while the UART tells of an empty THR; IER, once OUT2 lets interrupts out."""
    assert Counts(trips=3) == count([serial(MCR, OUT2), serial(IER, ETBEI), serial(THR, 65)], BEST)
    assert Counts(trips=2, posts=1) == count([serial(MCR, OUT2), serial(IER, 0), serial(THR, 65)], BEST)
    assert Counts(posts=1) == count([serial(IER, 0)], BEST)


def test_the_naive_bound_knows_no_order() -> None:
    """Every write is posted, and no read waits."""
    assert Counts(posts=2, loads=1) == count([serial(IER, ETBEI), serial(SCR, 1), serial(SCR)], NAIVE)


def test_configuration_space_is_a_step_of_its_own() -> None:
    """CF8 is posted, and CFC is read from the page; a write of the command register waits."""
    write = Access("pci-conf-idx", 0xCF8, 4, True, 0x80000004)
    read = Access("pci-conf-data", 0xCFC, 2, False, 0)
    data = Access("pci-conf-data", 0xCFC, 2, True, 7)
    assert Counts(trips=2, posts=1) == count([write, read, data], STEPS[2])
    assert Counts(trips=1, posts=1, loads=1) == count([write, read, data], BEST)


def test_what_we_do_not_have_goes_by_a_table() -> None:
    """An AHCI's registers are read from a page; behind a write, which waits, at once."""
    read, write = (Access("ahci", 0xFEBFF128, 4, write, 0) for write in (False, True))
    assert Counts(trips=1, loads=2) == count([read, write, read], BEST)


def test_every_access_of_the_sample_is_counted_once() -> None:
    """Each step of a real boot saves messages, and none loses an access."""
    accesses = exits(load(SAMPLE).accesses)
    found = [count(accesses, step) for step in (*STEPS, NAIVE)]
    assert {len(accesses)} == {counts.accesses for counts in found}
    waiting = [counts.trips + counts.waits for counts in found]
    assert sorted(waiting, reverse=True) == waiting
    assert len(accesses) == count(accesses, ALL_WAIT).trips


def test_the_pages_of_the_sample_hold_what_was_read() -> None:
    """Our UART takes the same accesses and has the same values; of others no value changed by itself."""
    found = judge(exits(load(SAMPLE).accesses))
    assert {} == found.different
    assert found.device + found.same > 0


def test_a_value_that_nothing_explains_is_told() -> None:
    """SCR is what was written to it."""
    found = judge([serial(SCR, 0x55), Access("serial", SCR, 1, False, 0x54)])
    assert {"serial 0x3ff: 0x54, expected 0x55": 1} == found.different


def test_the_log_of_qemu_is_understood(tmp_path: Path) -> None:
    """What a device did by itself (cpu -1) is left out."""
    log = tmp_path / "log"
    log.write_text(
        "memory_region_ops_write cpu 0 mr 0x55d0 addr 0xfed40040 value 0x1 size 4 name 'tpm-crb-mmio'\n"
        "memory_region_ops_read cpu -1 mr 0x55d0 addr 0x70 value 0xff size 1 name 'rtc-index'\n"
        "qemu: something else\n"
        "memory_region_ops_read cpu 0 mr 0x55d0 addr 0x3fd value 0x60 size 1 name 'serial'\n"
    )
    assert [tpm(0x40, 1), serial(LSR)] == list(read_log(log))


@given(
    st.lists(
        st.builds(
            Access,
            region=st.sampled_from(["serial", "hpet", "pci-conf-idx"]),
            address=st.integers(0, (1 << 64) - 1),
            size=st.sampled_from([1, 2, 4, 8]),
            write=st.booleans(),
            value=st.integers(0, (1 << 64) - 1),
        ),
        max_size=20,
    )
)
@settings(max_examples=30)
def test_a_file_keeps_a_boot(accesses: list[Access]) -> None:
    """What is read is what was written."""
    with pytest.MonkeyPatch.context() as patch:
        kept = bytearray()
        patch.setattr(Path, "mkdir", lambda *_, **__: None)
        patch.setattr(Path, "write_bytes", lambda _path, data: kept.extend(data))
        patch.setattr(Path, "read_bytes", lambda _path: bytes(kept))
        assert len(accesses) == save(Path("boot"), "name", "source", accesses)
        boot = load(Path("boot"))
    assert ("name", "source", accesses) == (boot.name, boot.source, list(boot.accesses))
