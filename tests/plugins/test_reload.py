"""Reload: what follows to the next generation, what is rejected, and what is left of the old one."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mmiod.device import Pending
from mmiod.errors import MachineError
from mmiod.plugins import child, reload
from mmiod.plugins.meant import AmbiguousDevice, UnknownPlugin, plugin_meant
from mmiod.plugins.question import Question, Rejected, Verdict
from mmiod.values import Space
from tests.plugins.reloading import CELL, Reloading


@pytest.fixture(autouse=True)
def _modules() -> Iterator[None]:
    """What a test loads does not stay."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("mmiod_plugin_"):
            del sys.modules[name]


@pytest.fixture(name="rig")
def _rig(tmp_path: Path) -> Reloading:
    return Reloading(tmp_path)


def failed(rig: Reloading) -> list[str]:
    """The devices in quarantine."""
    return [host.name for host in rig.machine.hosts.values() if host.failure is not None]


async def test_edit_serves_all_instances_with_the_state_they_had(tmp_path: Path) -> None:
    """Two VMs, two devices each: registers, fields, levels and inputs are those of before."""
    rig = Reloading(tmp_path, vms=("one", "two"))
    rig.access(0x100, 7, "one")
    rig.access(0x200, 8, "two")
    rig.access(0x103, 1, "one")
    rig.change("& 0xFF", "& 0xFF | 0x80")

    with capture_logs() as logs:
        done = await rig.reloader.reload("cell")

    assert ("cell", 2, ["one/a", "one/b", "two/a", "two/b"]) == (done.plugin, done.generation, done.devices)
    assert [7, 0] == [rig.access(port, vm="one") for port in (0x100, 0x200)]
    assert [0x81, 0x81] == [rig.access(port, vm="one") for port in (0x101, 0x201)]  # b's: its input rose
    assert [0x80, 0x81] == [rig.access(port, vm="two") for port in (0x101, 0x201)]
    one = rig.machines["one"].hosts
    assert (True, True) == (one["a"].device.lines["irq"].level, one["b"].device.inputs["ack"])
    assert {2} == {host.generation for machine in rig.machines.values() for host in machine.hosts.values()}
    (event,) = (log for log in logs if log["event"] == "device_reloaded")
    assert (2, "info", done.pause_us) == (event["generation"], event["log_level"], event["pause_us"])


async def test_timer_fires_in_the_new_generation_at_the_old_time(rig: Reloading) -> None:
    """The deadline stays, also its place among equal ones."""
    rig.access(0x100, 1)
    rig.access(0x200, 1)
    before = list(rig.machine.clock.armed.items())
    rig.change("self.irq.set_level(not self.irq.level)", "self.value = 0xEE")
    await rig.reloader.reload("cell")
    assert [(key, entry[:2]) for key, entry in before] == [
        (key, entry[:2]) for key, entry in rig.machine.clock.armed.items()
    ]
    rig.machine.clock.advance_to(1999)
    assert 1 == rig.access(0x100)
    rig.machine.clock.advance_to(2000)
    assert (0xEE, 0xEE) == (rig.access(0x100), rig.access(0x200))


async def test_access_that_waits_is_answered_by_the_new_generation(rig: Reloading) -> None:
    """PENDING: the host owes it still, others are busy meanwhile, and the new code completes it."""
    assert isinstance(rig.access(0x102), Pending)
    rig.change("0x5A", "0xA5")
    await rig.reloader.reload("cell")
    host = rig.machine.hosts["a"]
    assert host.owes is not None
    rig.machine.clock.advance_to(500)
    assert [(host, 0xA5)] == rig.machine.settled


async def test_wire_reaches_the_new_generation(rig: Reloading) -> None:
    """An input's hook may have another name now."""
    rig.change("def _acked(self, level: bool)", "def _woken(self, level: bool)")
    rig.change("self.state.writes += level", "self.state.writes += 10 * level")
    await rig.reloader.reload("cell")
    rig.access(0x103, 1)
    assert 10 == rig.access(0x201)


async def test_device_in_quarantine_serves_again(rig: Reloading) -> None:
    """The bug is corrected, the plugin reloaded: lines and timers are as its state says."""
    rig.change("self.state.writes += 1\n", "self.state.writes += 1 // (value != 3)\n")
    await rig.reloader.reload("cell")
    rig.access(0x103, 1)
    rig.access(0x100, 9)
    rig.access(0x100, 3)
    assert ["a"] == failed(rig)
    assert not rig.machine.wires.sinks["b.ack"].high
    assert {} == dict(rig.machine.clock.armed)
    rig.edit(CELL)
    await rig.reloader.reload("vm/a")
    assert [] == failed(rig)
    assert {"a.irq"} == rig.machine.wires.sinks["b.ack"].high
    assert 10_000 == rig.machine.clock.armed["a", "tick"][0]
    assert 9 == rig.access(0x100)


async def test_new_register_and_field_get_their_defaults(rig: Reloading) -> None:
    """What only the new class has begins as after a reset."""
    rig.access(0x100, 5)
    rig.change("ports = Region(4)", "ports = Region(6)")
    rig.change(
        "    raised = Register(3)\n", "    raised = Register(3)\n    extra = Register(4, reset=0x42)\n"
    )
    rig.change("waiting: bool = False", "waiting: bool = False\n    more: int = 9")
    await rig.reloader.reload("cell")
    assert (5, 0x42) == (rig.access(0x100), rig.access(0x104))
    assert 9 == rig.machine.hosts["a"].device.state.more
    assert 0x106 == rig.machine.find(Space.PIO, 0x105).end


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ("    spare = Timer()\n", "vm/a: timers.spare: the new class has none"),
        ("    spare = IrqOutput()\n", "vm/a: lines.spare: the new class has none"),
        ("    spare = IrqInput()\n", "vm/a: inputs.spare: the new class has none"),
    ],
)
async def test_what_has_state_is_not_lost_silently(tmp_path: Path, added: str, reason: str) -> None:
    """A timer that is set, a line, an input that the new class lacks: rejected."""
    rig = Reloading(tmp_path, CELL.replace("    tick = Timer()\n", f"    tick = Timer()\n{added}"))
    alarms = rig.machine.hosts["a"].device.alarms
    if "spare" in alarms:
        alarms["spare"].set(1000)
    rig.change(added, "")
    assert reason == (await rig.refused()).reason


async def test_removed_register_and_field_need_migrate(tmp_path: Path) -> None:
    """Rejected without; with `migrate` the state takes another form, and takes it back in a rollback."""
    rig = Reloading(tmp_path)
    rig.access(0x100, 1)
    rig.access(0x103, 1)
    smaller = CELL.replace('    written = Register(1, access="r")\n', "").replace("writes", "count")
    smaller = smaller.replace("    @written.value\n    def _written", "    def _written")
    smaller = smaller.replace(
        "    raised = Register(3)\n", "    raised = Register(3)\n    lower = Register(1)\n"
    )
    rig.edit(smaller)
    refused = await rig.refused()
    assert "vm/a: registers.written, state.writes: the new class has none" == refused.reason
    assert "raise `schema` by 1 and override `migrate`" in refused.remedy

    migrate = '''
    schema = 2

    @classmethod
    def migrate(cls, saved: Saved, schema: int) -> None:
        """Between 1 and 2."""
        old, new = ("writes", "count") if schema == 2 else ("count", "writes")
        saved.state[new] = saved.state.pop(old)
        if schema == 2:
            del saved.registers["written"]
'''
    smaller = smaller.replace('    """A cell."""\n', f'    """A cell."""\n{migrate}')
    rig.edit(
        smaller.replace(
            "from mmiod.device import", "from mmiod.device import Saved\nfrom mmiod.device import"
        )
    )
    await rig.reloader.reload("cell")
    assert 1 == rig.machine.hosts["a"].device.state.count
    rig.access(0x100, 2)
    rig.access(0x101, 0x77)

    done = await rig.reloader.rollback("cell")
    assert (3, ["a: registers.lower", "b: registers.lower"]) == (done.generation, done.dropped)
    assert (2, 2) == (rig.access(0x100), rig.access(0x101))


async def test_rollback_brings_the_code_back_and_keeps_the_state(rig: Reloading) -> None:
    """The generation before serves again, with what happened since; a second one undoes that."""
    rig.change("& 0xFF", "& 0xFF | 0x80")
    await rig.reloader.reload("cell")
    rig.access(0x100, 3)
    assert 0x81 == rig.access(0x101)
    assert 3 == (await rig.reloader.rollback("cell")).generation
    assert (3, 1) == (rig.access(0x100), rig.access(0x101))
    await rig.reloader.rollback("cell")
    assert 0x81 == rig.access(0x101)


async def test_rollback_of_what_was_not_reloaded_is_rejected(rig: Reloading) -> None:
    """There is nothing to go back to."""
    with pytest.raises(Rejected, match="it was not reloaded yet"):
        await rig.reloader.rollback("a")


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("class Cell(Device):", "class Cell(Device:", 18, "SyntaxError: invalid syntax"),
        (
            "from attrs import define",
            "from attrs import defyne",
            5,
            "ImportError: cannot import name 'defyne'",
        ),
        (
            "    raised = Register(3)",
            "    raised = Register(2)",
            18,
            "DeclarationError: raised and late both claim reads at offset 0x2",
        ),
        (
            "    @written.value\n",
            "    def __init__(self, *rest: object) -> None:\n        1 / 0\n\n    @written.value\n",
            33,
            "vm/a: ZeroDivisionError: division by zero",
        ),
        (
            "    @written.value\n",
            "    def on_reload(self) -> None:\n        while True:\n            pass\n\n    @written.value\n",
            None,
            "vm/a: HookDeadlineExceeded: ",
        ),
        (
            "return self.state.writes & 0xFF",
            "return self.state.wrote",
            34,
            "vm/a: register written: AttributeError",
        ),
        (
            "    writes: int = 0",
            "    writes: str = ''",
            0,
            "vm/a: invalid value for type, expected str at state.writes",
        ),
        (
            "    ports = Region(4)",
            "    ports = Region(4)\n    other = Region(4)",
            18,
            "DeclarationError: value must",
        ),
        (
            "    irq = IrqOutput()",
            "    irqs = IrqOutput()",
            0,
            "vm/a: lines.irq: the new class has none",
        ),
        ("    ack = IrqInput()", "    ackn = IrqInput()", 51, "NameError"),
        (
            "\n\n@define",
            "\n\nfor n in range(10**10):\n    pass\n\n\n@define",
            None,
            "the check was not over after",
        ),
        (
            "\n\n@define",
            "\n\nheld = [bytes(1 << 28) for _ in range(1 << 20)]\n\n\n@define",
            10,
            "MemoryError: ",
        ),
        (
            "    @written.value\n",
            "    def on_reload(self) -> None:\n        bytearray(3 << 30)\n\n    @written.value\n",
            33,
            "vm/a: MemoryError: ",
        ),
        (
            "\n\n@define",
            "\n\nimport os\n\nos._exit(5)\n\n\n@define",
            0,
            "the check ended with status 5: no word",
        ),
    ],
    ids=lambda value: str(value).strip()[:20],
)
async def test_unfit_generation_is_rejected(
    rig: Reloading, monkeypatch: pytest.MonkeyPatch, old: str, new: str, line: int | None, reason: str
) -> None:
    """File, line and reason; the old generation serves on."""
    if "was not over" in reason:
        monkeypatch.setattr(child, "CHECK_S", 1.0)
    rig.access(0x100, 5)
    rig.change(old, new)
    with capture_logs() as logs:
        verdict = await rig.refused()
    assert verdict.reason is not None
    assert reason in verdict.reason
    assert verdict.remedy
    if line is not None:
        assert line == verdict.line
    if line:
        assert str(rig.directory / "cell.py") == verdict.file
    (event,) = (log for log in logs if log["event"] == "reload_rejected")
    assert (1, verdict.reason, "warning") == (event["generation"], event["reason"], event["log_level"])
    assert (5, 1) == (rig.access(0x100), rig.access(0x101))


async def test_clash_with_another_device_is_rejected(tmp_path: Path) -> None:
    """A region that has grown into another's place: both are named, with their ranges."""
    rig = Reloading(tmp_path, at={"a": 0x100, "b": 0x104})
    rig.change("ports = Region(4)", "ports = Region(5)")
    verdict = await rig.refused()
    assert "b.ports at 0x104..0x108 overlaps a.ports at 0x100..0x104 in PIO" in (verdict.reason or "")


async def test_failure_on_a_recent_access_is_rejected(rig: Reloading) -> None:
    """The child repeats what the guest did: a hook that fails on it is not let in."""
    rig.access(0x100, 5)
    rig.change("self.state.writes += 1\n", "self.state.writes += 1 // (value - 5)\n")
    verdict = await rig.refused()
    assert (
        "vm/a: write of 0x5, 1 bytes at ports+0x0: ZeroDivisionError: integer division or modulo by zero"
        == verdict.reason
    )
    assert 38 == verdict.line


async def test_difference_on_recent_accesses_is_told(rig: Reloading) -> None:
    """Values that differ are what an edit is for."""
    rig.access(0x100, 5)
    rig.access(0x101)
    rig.change("& 0xFF", "& 0xFF | 0x80")
    done = await rig.reloader.reload("cell")
    assert (2, ("vm/a: read, 1 bytes at ports+0x1: was 0x2, is 0x82",)) == (
        done.accesses, tuple(done.differences)
    )  # fmt: skip


def with_a_thing(kind: str) -> str:
    """The plugin, with a field of its state that is no plain data."""
    text = CELL.replace(
        "    waiting: bool = False", f"    waiting: bool = False\n    thing: {kind} = object()"
    )
    return text.replace("from attrs import define", "from typing import Any\n\nfrom attrs import define")


async def test_state_that_is_no_plain_data_is_rejected(tmp_path: Path) -> None:
    """It cannot be taken to another generation: why, and what helps."""
    verdict = await Reloading(tmp_path, with_a_thing("Any")).refused()
    assert (verdict.reason or "").startswith("a device's state or configuration: unmarshallable object")
    assert "numbers, texts, bytes, lists and tables" in verdict.remedy


async def test_state_of_which_no_snapshot_is_possible_is_refused_at_start(tmp_path: Path) -> None:
    """The journal needs snapshots: else the device would fail at the first of them."""
    with pytest.raises(MachineError, match="a: cell: StructureHandlerNotFoundError: Unsupported type"):
        Reloading(tmp_path, with_a_thing("object"))


async def test_host_without_processes_is_rejected(rig: Reloading, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon serves on."""
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    verdict = await rig.refused()
    assert "no child process can be started: [Errno 2]" in (verdict.reason or "")


async def test_unknown_name_is_refused(rig: Reloading) -> None:
    """Plugins, devices, devices of a VM are known; nothing else."""
    for name in ("cell", "a", "vm/b"):
        assert "cell" == plugin_meant(name, {"cell"}, [rig.machine])
    for name in ("c", "other/a", ""):
        with pytest.raises(UnknownPlugin, match="neither a plugin nor a device; plugins: cell"):
            await rig.reloader.reload(name)


async def test_name_of_devices_with_several_plugins_is_refused(tmp_path: Path) -> None:
    """With the names that say which; where all have one plugin, none needs to be said."""
    rig = Reloading(tmp_path, vms=("one", "two"))
    rig.machines["two"].hosts["a"].plugin = "other"
    with pytest.raises(AmbiguousDevice) as refused:
        await rig.reloader.reload("a")
    assert ["one/a", "two/a"] == refused.value.candidates
    meant = {name: plugin_meant(name, (), rig.machines.values()) for name in ("one/a", "two/a", "b")}
    assert {"one/a": "cell", "two/a": "other", "b": "cell"} == meant


async def test_file_that_is_gone_is_rejected(rig: Reloading) -> None:
    """The generation that serves needs no file."""
    (rig.directory / "cell.py").unlink()
    assert "plugin cell: not found in" in ((await rig.refused()).reason or "")
    assert [] == await rig.reloader.reload_changed()


async def test_only_what_changed_is_reloaded(rig: Reloading) -> None:
    """Once per change, also if that is rejected; a rollback is not undone."""
    assert [] == await rig.reloader.reload_changed()
    rig.change("& 0xFF", "& 0xFF | 0x80")
    assert ["cell"] == await rig.reloader.reload_changed()
    assert [] == await rig.reloader.reload_changed()
    await rig.reloader.rollback("cell")
    assert [] == await rig.reloader.reload_changed()
    rig.edit("(")
    assert ["cell"] == await rig.reloader.reload_changed()
    assert [] == await rig.reloader.reload_changed()
    assert 3 == rig.machine.hosts["a"].generation


async def test_old_classes_are_collected(rig: Reloading) -> None:
    """Of ten generations the one that serves and the one before are left, each with its module."""

    def classes() -> tuple[weakref.ref[type], weakref.ref[type]]:
        device = rig.machine.hosts["a"].device
        return weakref.ref(type(device)), weakref.ref(type(device.state))

    kinds = []
    before = set(sys.modules)
    for _ in range(10):
        rig.access(0x100, 1)
        await rig.reloader.reload("cell")
        kinds.append(classes())
    gc.collect()
    alive = [number for number, (kind, state) in enumerate(kinds) if kind() or state()]
    assert [8, 9] == alive
    assert 2 == len([name for name in set(sys.modules) - before if name.startswith("mmiod_plugin_cell_")])


async def test_what_was_checked_is_what_is_loaded(rig: Reloading, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save while the child works is another generation's: this one is as the child had it."""
    rig.change("& 0xFF", "& 0xFF | 0x80")

    async def overtaken(question: Question) -> Verdict:
        verdict = await child.ask(question)
        rig.edit("(")
        return verdict

    monkeypatch.setattr(reload, "ask", overtaken)
    await rig.reloader.reload("cell")
    assert 0x80 == rig.access(0x101)
    assert ["cell"] == rig.reloader.changed()


async def test_package_is_loaded_as_it_was_checked(tmp_path: Path) -> None:
    """The modules of a package are those that were read with it, whatever is on disk later."""
    (tmp_path / "cell").mkdir()
    rig = Reloading(tmp_path)
    (tmp_path / "cell.py").unlink()
    (tmp_path / "cell" / "__init__.py").write_text(CELL.replace("& 0xFF", "& MASK").replace(
        "from attrs import define\n", "from attrs import define\n\nfrom .mask import MASK\n"
    ))  # fmt: skip
    (tmp_path / "cell" / "mask.py").write_text("MASK = 0x0F\n")
    await rig.reloader.reload("cell")
    (tmp_path / "cell" / "mask.py").write_text("MASK = 0xF0\n")
    for _ in range(0x11):
        rig.access(0x100, 0)
    assert 0x01 == rig.access(0x101)
    await rig.reloader.reload("cell")
    assert 0x10 == rig.access(0x101)
