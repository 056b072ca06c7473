"""Configuration: everything that is wrong, at once, with path and reason."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import attrs
import pytest

from mmiod import __main__, config, daemon
from mmiod.config import Config, DaemonConfig, MachineFile, VmConfig
from mmiod.errors import ConfigError
from mmiod.machine.address_map import Policy
from mmiod.machine.description import DeviceDescription, ImageDescription, Placement
from mmiod.machine.host import InlineHost
from mmiod.values import Space

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "config" / "mmiod.toml"
MACHINES = sorted((ROOT / "config" / "machines").glob("*.toml"))

VM = '[[vm]]\nname = "one"\nmachine = "one.toml"\nsocket = "one.exit"\n'


def written(directory: Path, text: str, name: str = "mmiod.toml") -> Path:
    """A file with this text."""
    path = directory / name
    path.write_text(text)
    return path


def problems(path: Path, loader: str = "load") -> list[str]:
    """What a loader says about a file, without the file's name."""
    with pytest.raises(ConfigError) as raised:
        getattr(config, loader)(path)
    assert all(problem.startswith(f"{path}: ") for problem in raised.value.problems)
    return [problem.removeprefix(f"{path}: ") for problem in raised.value.problems]


# --- mmiod.toml ----------------------------------------------------------------------------


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    """Types, bounds, choices, missing and unknown keys of all tables: one line each."""
    path = written(
        tmp_path,
        """
        [[vm]]
        name = "a b"
        socket = 1
        protocol = "vfio"
        color = "blue"
        [daemon]
        plugins = "devices"
        hook_deadline_ms = 1.5
        rep_bound = 0
        max_vcpus = true
        max_slots = "many"
        log_level = "loud"
        bar = 1
        """,
    )
    known = ", ".join(field.name for field in attrs.fields(DaemonConfig))
    assert {
        "vm[0].name: 'a b': a VM's name is 1 to 31 letters, digits, _ . -",
        "vm[0].machine: is missing",
        "vm[0].socket: 1 is not a path",
        "vm[0].protocol: 'vfio': there are exit, vfio-user",
        "vm[0]: unknown color; known are name, machine, socket, protocol",
        "daemon.plugins: 'devices' is not an array",
        "daemon.hook_deadline_ms: 1.5 is no integer",
        "daemon.rep_bound: 0 is not within 1..1024",
        "daemon.max_vcpus: True is no integer",
        "daemon.max_slots: 'many' is no number",
        "daemon.log_level: 'loud': there are debug, info, warning, error",
        f"daemon: unknown bar; known are {known}",
    } == set(problems(path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["vm: is missing"]),
        ("vm = []", ["no VM"]),
        ("vm = 5", ["vm: 5 is not an array"]),
        ("vm = [1]", ["vm[0]: 1 is not a table"]),
        (f"{VM}[daemon]\nplugins = ['x', 5]", ["daemon.plugins[1]: 5 is not a path"]),
        (f"daemon = 5\n{VM}", ["daemon: 5 is not a table"]),
        (f"{VM}[demon]", ["unknown demon; known are vm, daemon"]),
    ],
)
def test_wrong_shapes(tmp_path: Path, text: str, expected: list[str]) -> None:
    """What is no table, no array, or not there."""
    assert expected == problems(written(tmp_path, text))


def test_names_and_sockets_are_unique(tmp_path: Path) -> None:
    """Two VMs of one name or one socket; a VM on the control socket."""
    text = VM + VM + VM.replace("one.exit", "control") + '[daemon]\ncontrol = "control"\n'
    (problem,) = problems(written(tmp_path, text))
    sockets = [f"{tmp_path}/{name} is the socket of two" for name in ("control", "one.exit")]
    assert "; ".join(["two VMs are called one", *sockets]) == problem


BOUNDS = {
    "hook_deadline_ms": (1, 60_000),
    "access_deadline_ms": (1, 4000),
    "reconnect_grace_s": (0, 86_400),
    "recorder_capacity": (1, 1 << 24),
    "rep_bound": (1, 1024),
    "spin_us": (0, 1000),
    "max_vcpus": (1, 1024),
    "max_slots": (1, 4096),
}


@pytest.mark.parametrize(("name", "bounds"), BOUNDS.items())
def test_numbers_have_bounds(tmp_path: Path, name: str, bounds: tuple[int, int]) -> None:
    """The first and the last are taken, what is next to them is not; hex text is a number too."""
    low, high = bounds
    for value in (low, f'"{high:#x}"'):
        loaded = config.load(written(tmp_path, f"{VM}[daemon]\n{name} = {value}\n"))
        assert (low if value == low else high) == getattr(loaded.daemon, name)
    for value in (low - 1, high + 1):
        path = written(tmp_path, f"{VM}[daemon]\n{name} = {value}\n")
        assert [f"daemon.{name}: {value} is not within {low}..{high}"] == problems(path)


def test_every_number_is_bounded() -> None:
    """No number of the configuration is left out above."""
    assert set(BOUNDS) == {field.name for field in attrs.fields(DaemonConfig) if field.type in {int, "int"}}


def test_paths_are_relative_to_their_file(tmp_path: Path) -> None:
    """Wherever the daemon is started."""
    loaded = config.load(written(tmp_path, f'{VM}[daemon]\nplugins = ["mine", "/theirs"]\ncontrol = "c"\n'))
    machine = MachineFile(tmp_path / "one.toml", tmp_path)
    assert [VmConfig("one", machine, tmp_path / "one.exit")] == list(loaded.vm)
    assert (tmp_path / "mine", Path("/theirs")) == loaded.daemon.plugins
    assert tmp_path / "c" == loaded.daemon.control


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[daemon]\ncontrol = \n", "Invalid value (at line 2, column 11)"),
        (b"a = 1\na = 2\n", "Cannot overwrite a value (at line 2, column 6)"),
        (b"\xff", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"a = " + b"[" * 100_000, "its arrays or tables are nested too deep"),
    ],
)
def test_file_that_is_no_toml(tmp_path: Path, content: bytes, reason: str) -> None:
    """With the line."""
    path = tmp_path / "mmiod.toml"
    path.write_bytes(content)
    assert [reason] == problems(path)


def test_number_that_python_does_not_read_is_told(tmp_path: Path) -> None:
    """One of thousands of digits, which is no mistake of TOML's."""
    (problem,) = problems(written(tmp_path, f"a = {'9' * 5000}\n"))
    assert problem.startswith("Exceeds the limit")


def test_text_that_no_system_call_takes_is_told(tmp_path: Path) -> None:
    """A NUL ends a path, and a command, for the kernel; Python refuses it only when it is used."""
    nul = r"a\u0000b"
    text = f"""
        [daemon]
        control = "{nul}"
        plugins = ["{nul}"]
        [[vm]]
        name = "one"
        machine = "{nul}.toml"
        socket = "{nul}"
        """
    assert {
        "daemon.control: 'a\\x00b' holds a NUL",
        "daemon.plugins[0]: 'a\\x00b' holds a NUL",
        "vm[0].machine: 'a\\x00b.toml' holds a NUL",
        "vm[0].socket: 'a\\x00b' holds a NUL",
    } == set(problems(written(tmp_path, text)))
    streams = f's = "process:{nul}"\nt = {{ kind = "block", path = "{nul}" }}'
    machine = f'[devices.a]\nplugin = "x"\n[devices.a.streams]\n{streams}\n'
    assert {
        "devices['a'].streams['s']: 'process:a\\x00b' holds a NUL",
        "devices['a'].streams['t'].path: 'a\\x00b' holds a NUL",
    } == set(problems(written(tmp_path, machine, "one.toml"), "load_machine"))
    assert ["embedded null byte"] == problems(tmp_path / "a\0b")


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, or a directory."""
    assert ["No such file or directory"] == problems(tmp_path / "none.toml")
    assert ["Is a directory"] == problems(tmp_path)


# --- machine files -------------------------------------------------------------------------------


def test_everything_wrong_in_a_machine_file_is_told_at_once(tmp_path: Path) -> None:
    """Places, slots, policies, types: each with its path."""
    path = written(
        tmp_path,
        """
        wires = { "a.b" = 5, "a.c" = ["x", 6] }
        [devices]
        b = 5
        [devices.a]
        plugin = 5
        at = { main = "foo:1", b = "pio", c = "pio:zz", d = "pio:0x10000", e = "mmio:-1" }
        slot = "0:0"
        config = 5
        streams = { a = 1, b = { kind = "pty", path = "x" }, c = { kind = "block", read_only = 1, size = 2 } }
        foo = 1
        [[unclaimed]]
        space = "xyz"
        base = "a"
        length = 1
        policy = "q"
        """,
    )
    assert {
        "wires['a.b']: 5 is not a text",
        "wires['a.c'][1]: 6 is not a text",
        "devices['b']: 5 is not a table",
        "devices['a'].plugin: 5 is not a text",
        "devices['a'].at['main']: 'foo' is no address space; there are mmio, pio, pci_config, msr",
        "devices['a'].at['b']: 'pio': a place is \"pio:0x3f8\" or \"mmio:0xfed40000\"",
        "devices['a'].at['c']: 'zz' is no number",
        "devices['a'].at['d']: 0x10000 is outside pio, which ends at 0xffff",
        "devices['a'].at['e']: -1 is outside mmio, which ends at 0xffffffffffffffff",
        "devices['a'].slot: '0:0': a slot is \"00:01.0\", bus:device.function",
        "devices['a'].config: 5 is not a table",
        "devices['a'].streams['a']: 1: a backend is a text (\"pty\") or a table ({ kind = \"block\", ... })",
        "devices['a'].streams['b'].kind: 'pty': a table is a backend of kind 'block'; others are a text",
        "devices['a'].streams['c'].read_only: 1 is not true or false",
        "devices['a'].streams['c'].path: is missing",
        "devices['a'].streams['c']: unknown size; known are kind, path, read_only",
        "unclaimed[0].space: 'xyz' is no address space; there are mmio, pio, pci_config, msr",
        "unclaimed[0].base: 'a' is no number",
        "unclaimed[0].policy: 'q' is no policy; there are ones, zeros, ignore, forward",
    } < set(problems(path, "load_machine"))


def test_wires_have_one_sink_or_several(tmp_path: Path) -> None:
    """A text, or an array of texts."""
    path = written(tmp_path, '[devices]\n[wires]\n"a.irq" = "b.ir0"\n"c.irq" = ["b.ir1", "hypervisor.3"]\n')
    assert {"a.irq": "b.ir0", "c.irq": ("b.ir1", "hypervisor.3")} == config.load_machine(path).wires


def test_backends_are_texts_or_tables(tmp_path: Path) -> None:
    """A table is for an image, which has options."""
    text = """
        [devices.disk]
        plugin = "x"
        streams = { a = "pty", b = { kind = "block", path = "i", read_only = true } }
        """
    streams = config.load_machine(written(tmp_path, text)).devices["disk"].streams
    assert {"a": "pty", "b": ImageDescription("block", "i", read_only=True)} == streams
    assert ["pty", "block:i (read only)"] == [str(spec) for spec in streams.values()]


def test_isolation_is_one_of_two(tmp_path: Path) -> None:
    """Inline, if nothing is said; a wrong word is told with the right ones."""
    text = '[devices.a]\nplugin = "x"\n[devices.b]\nplugin = "x"\nisolation = "process"\n'
    devices = config.load_machine(written(tmp_path, text)).devices
    assert ["inline", "process"] == [device.isolation for device in devices.values()]
    assert ["devices['a'].isolation: 'thread': there are inline, process"] == problems(
        written(tmp_path, '[devices.a]\nplugin = "x"\nisolation = "thread"\n'), "load_machine"
    )


def test_device_names_are_checked(tmp_path: Path) -> None:
    """A name with a dot would be a wire's end."""
    (problem,) = problems(written(tmp_path, '[devices."a.b"]\nplugin = "x"\n'), "load_machine")
    assert problem.startswith("devices: 'a.b': a device's name is 1 to 31 letters, digits, _ -")


def test_machine_file_becomes_a_description(tmp_path: Path) -> None:
    """Slots are offsets into configuration space; numbers may be text."""
    path = written(
        tmp_path,
        """
        [devices.nic]
        plugin = "net/e1000"
        slot = "01:1f.7"
        at = { rom = "mmio:0xfeb00000" }
        config = { anything = [1] }
        [[unclaimed]]
        space = "pio"
        base = "0x80"
        length = 1
        policy = "zeros"
        """,
    )
    description = config.load_machine(path)
    assert (
        DeviceDescription(
            "net/e1000", {"rom": Placement(Space.MMIO, 0xFEB0_0000)}, 0x1FF000, {"anything": [1]}
        )
        == description.devices["nic"]
    )
    (unclaimed,) = description.unclaimed
    assert (Space.PIO, 0x80, 1, Policy.ZEROS) == attrs.astuple(unclaimed)


# --- whole configurations ---------------------------------------------------------------------------


def built(directory: Path, *machines: str) -> list[str]:
    """The problems of a configuration with these machine files."""
    text = ""
    for number, machine in enumerate(machines):
        written(directory, machine, f"m{number}.toml")
        text += f'[[vm]]\nname = "vm{number}"\nmachine = "m{number}.toml"\nsocket = "vm{number}.exit"\n'
    with pytest.raises(ConfigError) as raised:
        daemon.build(config.load(written(directory, text)))
    return [problem.replace(f"{directory}/", "") for problem in raised.value.problems]


UART = '[devices.{name}]\nplugin = "legacy/uart16550"\nat = {{ ports = "pio:{port}" }}\n'


def test_overlap_of_two_devices_names_both(tmp_path: Path) -> None:
    """Owners and ranges in hex, and the wrong wire of the same file beside it."""
    machine = UART.format(name="uart0", port="0x3f8") + UART.format(name="uart1", port="0x3ff")
    assert [
        "m0.toml: uart1.ports at 0x3ff..0x406 overlaps uart0.ports at 0x3f8..0x3ff in PIO",
        "m0.toml: wire uart0.int -> vcpu0.intr: no output uart0.int; there is uart0.irq",
    ] == built(tmp_path, machine + '[wires]\n"uart0.int" = "vcpu0.intr"\n')


def test_problems_of_all_machines_and_devices_are_told(tmp_path: Path) -> None:
    """Unknown plugins, streams, backends and configuration, in two files."""
    first = """
        [devices.a]
        plugin = "legacy/none"
        [devices.b]
        plugin = "../etc/passwd"
        [devices.c]
        plugin = "legacy/uart16550"
        at = { ports = "pio:0x3f8" }
        streams = { console = "log" }
        [devices.d]
        plugin = "legacy/uart16550"
        at = { ports = "pio:0x2f8" }
        streams = { serial = "tcp:1" }
        [devices.e]
        plugin = "legacy/uart16550"
        at = { ports = "pio:0x2e8" }
        config = { speed = 1 }
        """
    second = '[devices.f]\nplugin = "legacy/uart16550"\nat = { main = "pio:0x3f8" }\n'
    told = built(tmp_path, first, second)
    assert 6 == len(told)
    for problem, expected in zip(
        told,
        [
            r"m0.toml: devices.a: plugin legacy/none: not found in /.*/devices",
            r"m0.toml: devices.b: plugin '../etc/passwd': a name is words of letters, digits and _ .*",
            r"m0.toml: devices.c: streams.console: the device has serial",
            r"m0.toml: devices.d: stream serial = 'tcp:1': a backend is null, log, .*",
            r"m0.toml: devices.e.config: unknown speed; known are .*",
            r"m1.toml: f: legacy/uart16550 has no region main; it has ports",
        ],
        strict=True,
    ):
        assert re.fullmatch(expected, problem), problem


KEYS = "plugin, at, slot, config, streams, isolation, mmap, dma"


def told(directory: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What check-config says of mmiod.toml."""
    assert 1 == __main__.main(["check-config", "--config", str(directory / "mmiod.toml")])
    return capsys.readouterr().err.replace(f"{directory}/", "").splitlines()


def test_one_mistake_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown keys and wrong values of mmiod.toml, of machine files, devices and their configuration."""
    vm = '[[vm]]\nname = "{0}"\nmachine = "{0}.toml"\nsocket = "{0}.exit"\n'
    head = "[daemon]\nrep_bound = 0\n[demon]\n"
    written(tmp_path, head + vm.format("a") + 'color = "blue"\n' + vm.format("b") + vm.format("c"))
    written(
        tmp_path,
        """
        wires = { "u.irq" = "v.ir0" }
        [devices.u]
        plugin = "legacy/uart16550"
        colour = 1
        config = { speed = 1 }
        streams = { console = "log", other = "log" }
        [devices.v]
        plugin = 5
        [devices.w]
        plugin = "legacy/uart1655"
        slot = "0"
        """,
        "a.toml",
    )
    written(tmp_path, UART.format(name="u", port="0x3f8") + UART.format(name="v", port="0x3f8"), "c.toml")
    here = str(ROOT / "devices")
    assert [
        "mmiod.toml: vm[0]: unknown color; known are name, machine, socket, protocol",
        "mmiod.toml: daemon.rep_bound: 0 is not within 1..1024",
        "mmiod.toml: unknown demon; known are vm, daemon",
        f"a.toml: devices['u']: unknown colour; known are {KEYS}",
        "a.toml: devices['v'].plugin: 5 is not a text",
        "a.toml: devices['w'].slot: '0': a slot is \"00:01.0\", bus:device.function",
        "a.toml: devices.u.config: unknown speed; known are none",
        "a.toml: devices.u: streams.console, streams.other: the device has serial",
        f"a.toml: devices.w: plugin legacy/uart1655: not found in {here}; there is legacy/uart16550",
        "b.toml: No such file or directory",
        "c.toml: v.ports at 0x3f8..0x3ff overlaps u.ports at 0x3f8..0x3ff in PIO",
    ] == told(tmp_path, capsys)


def test_unknown_key_does_not_keep_a_machine_from_being_assembled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of mmiod.toml, a device or its configuration: what overlaps and what is wired nowhere is told, too."""
    one = UART.format(name="u", port="0x3f8") + "config = { speed = 1 }\n"
    other = UART.format(name="v", port="0x3f8") + "colour = 1\n"
    written(tmp_path, f"{VM}[demon]\n")
    written(tmp_path, f'{one}{other}[wires]\n"u.int" = "vcpu0.intr"\n', "one.toml")
    assert [
        "mmiod.toml: unknown demon; known are vm, daemon",
        f"one.toml: devices['v']: unknown colour; known are {KEYS}",
        "one.toml: devices.u.config: unknown speed; known are none",
        "one.toml: v.ports at 0x3f8..0x3ff overlaps u.ports at 0x3f8..0x3ff in PIO",
        "one.toml: wire u.int -> vcpu0.intr: no output u.int; there is u.irq",
    ] == told(tmp_path, capsys)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ("plugin = 5", r"devices\['pic'\]\.plugin: 5 is not a text"),
        ('plugin = "none"', "devices.pic: plugin none: not found in .*"),
        ('plugin = "legacy/pic8259"\nat = 5', r"devices\['pic'\]\.at: 5 is not a table"),
    ],
)
def test_what_follows_from_a_mistake_is_not_told(tmp_path: Path, wrong: str, problem: str) -> None:
    """A wire to a device that cannot be read, or whose plugin is not there, is no mistake of its own."""
    machine = f"[devices.pic]\n{wrong}\n{UART.format(name='u', port='0x3f8')}"
    (told,) = built(tmp_path, f'{machine}[wires]\n"u.irq" = "pic.ir4"\n')
    assert re.fullmatch(f"m0.toml: {problem}", told), told


def test_two_vms_of_one_name_are_told_beside_an_unknown_key(tmp_path: Path) -> None:
    """What holds for all tables together is looked at without the key."""
    assert [
        "unknown demon; known are vm, daemon",
        f"two VMs are called one; {tmp_path}/one.exit is the socket of two",
    ] == problems(written(tmp_path, f"{VM}{VM}[demon]\n"))


def test_machines_that_were_made_are_closed_where_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device may have a process of its own, which nobody else would end."""
    closed: list[str] = []
    monkeypatch.setattr(InlineHost, "close", lambda host: closed.append(host.name))
    (problem,) = built(tmp_path, UART.format(name="u", port="0x3f8"), "[devices]\na = 5\n")
    assert ("m1.toml: devices['a']: 5 is not a table", ["u"]) == (problem, closed)


def test_missing_machine_file_is_told(tmp_path: Path) -> None:
    """By its path, once for each VM's own file."""
    path = written(tmp_path, VM)
    with pytest.raises(ConfigError) as raised:
        daemon.build(config.load(path))
    assert [f"{tmp_path}/one.toml: No such file or directory"] == raised.value.problems


@pytest.mark.parametrize("machine", MACHINES, ids=lambda path: path.stem)
def test_bundled_machines_are_right(tmp_path: Path, machine: Path) -> None:
    """Each can be built, with the image that it names."""
    shutil.copytree(machine.parent, tmp_path / "machines")
    (tmp_path / "machines" / "disk.img").write_bytes(bytes(512))
    path = written(tmp_path, VM.replace("one.toml", f"machines/{machine.name}"))
    assert {"one"} == set(daemon.build(config.load(path)).machines)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda path: path.stem)
def test_a_bare_name_is_a_bundled_machine(tmp_path: Path, machine: Path) -> None:
    """From any folder; images that it names are beside mmiod.toml, as there is where one may write."""
    (tmp_path / "disk.img").write_bytes(bytes(512))
    path = written(tmp_path, VM.replace("one.toml", machine.stem))
    assert MachineFile(machine, tmp_path) == config.load(path).vm[0].machine
    assert {"one"} == set(daemon.build(config.load(path)).machines)


def test_a_bare_name_of_none_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    """Of a VM and behind `extends`; a path stays a path."""
    names = ", ".join(machine.stem for machine in sorted(MACHINES))
    told = f"'pcc' is no machine that comes with mmiod; there are {names}; a file of your own is named with"
    with pytest.raises(ConfigError) as raised:
        config.load(written(tmp_path, VM.replace("one.toml", "pcc")))
    assert [f"{tmp_path}/mmiod.toml: vm[0].machine: {told} its .toml"] == raised.value.problems
    with pytest.raises(ConfigError) as raised:
        config.load_machine(written(tmp_path, 'extends = "pcc"', "one.toml"))
    assert [f"{tmp_path}/one.toml: extends: {told} its .toml"] == raised.value.problems
    loaded = config.load(written(tmp_path, VM.replace("one.toml", "./pc")))
    assert MachineFile(tmp_path / "pc", tmp_path) == loaded.vm[0].machine


def test_a_bundled_machine_is_extended_from_anywhere(tmp_path: Path) -> None:
    """By its bare name; what is changed of it is beside the file that does."""
    written(tmp_path, 'extends = "pc-disk"\n[devices.uart0]\nstreams = { serial = "null" }', "one.toml")
    (tmp_path / "disk.img").write_bytes(bytes(512))
    built = daemon.build(config.load(written(tmp_path, VM)))
    assert {"disk", "uart0", "pic"} <= built.machines["one"].hosts.keys()


def test_demo_of_a_directory_that_is_not_the_stock_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what it lacks, and what would make it."""
    (tmp_path / "qemu").touch()
    assert 1 == __main__.main(["demo-linux", str(tmp_path)])
    lacks = f"DIRECTORY: {tmp_path} has no vmlinuz, busybox, modules; .ci/stock makes one and prints where\n"
    assert lacks == capsys.readouterr().err


@pytest.mark.parametrize("memory", ["-1", "0", "3073", "x", ""])
def test_demo_refuses_memory_that_a_guest_cannot_have(
    memory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything starts, with what it can have."""
    with pytest.raises(SystemExit, match="2"):
        __main__.main(["demo", f"--memory={memory}"])
    assert f"{memory!r} is no number from 1 to 3072" in capsys.readouterr().err


def test_interrupted_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the daemon answers to signals itself: 130, as a shell has it."""

    def interrupt(_path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "examine_config", interrupt)
    assert 130 == __main__.main(["check-config"])


def test_check_config_accepts_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    """config/mmiod.toml is right, and check-config says what it would start."""
    assert 0 == __main__.main(["check-config", "--config", str(REFERENCE)])
    assert capsys.readouterr().out.startswith(f"{REFERENCE}: 1 VMs, 0 attached, ")


def test_reference_has_every_key_with_its_default() -> None:
    """Nothing is left out of config/mmiod.toml, and it changes nothing."""
    loaded = config.load(REFERENCE)
    text = REFERENCE.read_text()
    assert DaemonConfig() == loaded.daemon
    for kind in (Config, DaemonConfig, VmConfig):
        for field in attrs.fields(kind):
            assert re.search(rf"^(\[+{field.name}\]+|{field.name} = .*)$", text, re.MULTILINE), field.name


def test_reference_explains_every_key() -> None:
    """Each key or group of keys has a comment above it."""
    groups = [group for group in REFERENCE.read_text().split("\n\n") if " = " in group]
    assert all(group.startswith("#") for group in groups), groups


# --- a machine file that extends another one ----------------------------------------------------


BASE = """
[devices.one]
plugin = "a/b"
at = { main = "pio:0x10" }
config = { deep = { x = 1, y = 2 }, list = [1, 2] }
[wires]
"one.irq" = "two.ir0"
[[unclaimed]]
space = "mmio"
base = 0
length = 16
policy = "ones"
"""


def test_extension_is_laid_over_its_base(tmp_path: Path) -> None:
    """Tables key by key, however deep; arrays are joined, values replaced."""
    written(tmp_path, BASE, "base.toml")
    path = written(
        tmp_path,
        """
        extends = "base.toml"
        [devices.one]
        at = { main = "pio:0x20" }
        [devices.one.config]
        deep = { y = 3 }
        list = [4]
        [devices.two]
        plugin = "c/d"
        [[unclaimed]]
        space = "mmio"
        base = 16
        length = 16
        policy = "zeros"
        """,
        "over.toml",
    )
    machine = config.load_machine(path)
    assert list(machine.devices) == ["one", "two"]
    one = machine.devices["one"]
    assert one.at == {"main": Placement(Space.PIO, 0x20)}
    assert one.config == {"deep": {"x": 1, "y": 3}, "list": [1, 2, 4]}
    assert machine.wires == {"one.irq": "two.ir0"}
    assert [found.policy for found in machine.unclaimed] == [Policy.ONES, Policy.ZEROS]


def test_extension_takes_out_what_is_false(tmp_path: Path) -> None:
    """A device or a wire of the base is not there; a value that is false is a value."""
    written(tmp_path, BASE + "[devices.two]\nplugin = 'c/d'\n[devices.two.config]\nx = true\n", "base.toml")
    path = written(
        tmp_path,
        """
        extends = "base.toml"
        [devices]
        one = false
        two = { config = { x = false } }
        [wires]
        "one.irq" = false
        """,
        "over.toml",
    )
    machine = config.load_machine(path)
    assert ["two"] == list(machine.devices)
    assert {"x": False} == machine.devices["two"].config
    assert {} == machine.wires


@pytest.mark.parametrize(
    ("extends", "problem"),
    [
        ('"../base.toml"', "extends: '../base.toml' is no file beside this one"),
        ("1", "extends: 1 is no file beside this one"),
        ('"over.toml"', "extends: over.toml is extended by itself"),
    ],
)
def test_extension_of_what_cannot_be_a_base_is_refused(tmp_path: Path, extends: str, problem: str) -> None:
    """One folder, no circle: what a machine consists of stays findable."""
    path = written(tmp_path, f"extends = {extends}\n[devices]\n", "over.toml")
    assert [problem] == problems(path, "load_machine")


def test_a_circle_of_extensions_is_refused(tmp_path: Path) -> None:
    """With the file that closes it."""
    path = written(tmp_path, 'extends = "two.toml"\n[devices]\n', "one.toml")
    written(tmp_path, 'extends = "one.toml"\n[devices]\n', "two.toml")
    with pytest.raises(ConfigError, match=r"two\.toml: extends: one\.toml is extended by itself"):
        config.load_machine(path)


def test_extensions_have_an_end(tmp_path: Path) -> None:
    """16 files above the last one are read; the next one is told."""
    for number in range(18):
        written(tmp_path, f'extends = "m{number + 1}.toml"\n', f"m{number}.toml")
    written(tmp_path, '[devices.a]\nplugin = "x"\n', "m18.toml")
    assert ["a"] == list(config.load_machine(tmp_path / "m2.toml").devices)
    with pytest.raises(ConfigError, match=r"m17\.toml: extends: 16 files extend one another already"):
        config.load_machine(tmp_path / "m1.toml")


def test_tables_that_are_too_deep_to_be_laid_over_others_are_told(tmp_path: Path) -> None:
    """Read they can be: a key with dots is no recursion for TOML."""
    deep = f"devices.a{'.a' * 5000} = 1\n"
    written(tmp_path, deep, "base.toml")
    path = written(tmp_path, f'extends = "base.toml"\n{deep}')
    assert ["its arrays or tables are nested too deep"] == problems(path, "load_machine")


def test_a_plugin_that_is_not_there_is_told_with_what_may_be_meant(tmp_path: Path) -> None:
    """The right name in another folder, or one that is misspelt a little; nothing far-fetched."""
    names = ("serial/uart16550", "legacy/pit8253", "legacy/none")
    machine = "".join(f'[devices.d{index}]\nplugin = "{name}"\n' for index, name in enumerate(names))
    hints = ["; there is legacy/uart16550", "; there is legacy/pit8254", ""]
    assert hints == [problem.partition("/devices")[2] for problem in built(tmp_path, machine)]


def test_base_that_is_not_there_is_named(tmp_path: Path) -> None:
    """By its path."""
    path = written(tmp_path, 'extends = "gone.toml"\n[devices]\n', "over.toml")
    with pytest.raises(ConfigError, match=r"gone\.toml: No such file or directory"):
        config.load_machine(path)
