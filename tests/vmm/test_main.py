from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmiod.vmm.__main__ import main
from tests.vmm.fake import PATIENCE_S, VM, FakeDaemon, firmware, runs_out

NOBODY = f"no session within {PATIENCE_S} s: [Errno 2] No such file or directory"


def arguments(directory: Path, *more: str) -> list[str]:
    """A command line for a guest that asks for exit code 42."""
    image = directory / "firmware.bin"
    image.write_bytes(firmware("b02a e6f4 f4"))
    paths = ["--socket", str(directory / "vm.exit"), "--firmware", str(image)]
    return [*paths, "--vm", VM, "--memory", "1", "--patience", str(PATIENCE_S), *more]


@contextmanager
def serving(directory: Path) -> Iterator[FakeDaemon]:
    """A daemon of one connection behind the socket of `arguments`."""
    daemon = FakeDaemon()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(directory / "vm.exit"))
        listener.listen()
        thread = threading.Thread(target=lambda: daemon.serve(listener.accept()[0]), daemon=True)
        thread.start()
        yield daemon
        thread.join(PATIENCE_S)


@pytest.mark.parametrize(
    ("more", "bitness", "required"),
    [
        pytest.param((), 64, 2, marks=pytest.mark.needs("unicorn")),
        pytest.param(("--icount", "shift=3"), 64, 3, marks=pytest.mark.needs("unicorn")),
        pytest.param(("--accel", "kvm"), 64, 2, marks=pytest.mark.needs("kvm")),
        pytest.param(("--accel", "kvm", "--vectors"), 64, 2, marks=pytest.mark.needs("kvm")),
        pytest.param(("--accel", "kvm", "--irqchip", "kernel"), 64, 12, marks=pytest.mark.needs("kvm")),
    ],
)
def test_the_exit_status_is_what_the_guest_asks_for(
    tmp_path: Path, more: tuple[str, ...], bitness: int, required: int
) -> None:
    """Over a real socket: REQUEST EXIT 42 ends the program with 42; HELLO asks for what the options need."""
    with serving(tmp_path) as daemon:
        assert main(arguments(tmp_path, *more)) == 42

    (hello,) = daemon.hellos
    assert ("mmiod-vmm", 1, bitness, required) == (
        hello.vendor,
        hello.vcpus,
        hello.bitness,
        hello.required,
    )


@pytest.mark.needs("unicorn")
def test_no_daemon_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 1 and a sentence."""
    runs_out(monkeypatch, PATIENCE_S)
    assert main(arguments(tmp_path)) == 1
    assert f"mmiod-vmm: {NOBODY}: '{tmp_path}/vm.exit'\n" == capsys.readouterr().err


def test_a_missing_accelerator_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says what to install."""
    for name in [*sys.modules]:
        if name.startswith(("mmiod.vmm.unicorn", "mmiod.vmm.vcpu", "unicorn")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "unicorn", None)

    assert main(arguments(tmp_path)) == 1
    assert "pip install 'mmiod[vmm]'" in capsys.readouterr().err


def test_bad_firmware_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there, and one of a size that has no place."""
    odd = tmp_path / "odd.bin"
    odd.write_bytes(bytes(100))

    assert main(arguments(tmp_path, "--firmware", str(tmp_path / "none"))) == 1
    assert main(arguments(tmp_path, "--firmware", str(odd))) == 1

    words = capsys.readouterr().err
    assert "No such file" in words
    assert "firmware has 0x64 bytes" in words


@pytest.mark.parametrize(
    ("option", "text", "words"),
    [
        ("--memory-fd", "-1", "'-1' is no descriptor"),
        ("--memory-fd", "99999999999", "'99999999999' is no descriptor"),
        ("--memory-fd", "x", "'x' is no descriptor"),
        ("--patience", "-1", "'-1' is no number from 0 to 86400"),
        ("--patience", "nan", "'nan' is no number from 0 to 86400"),
        ("--patience", "inf", "'inf' is no number from 0 to 86400"),
        ("--patience", "soon", "'soon' is no number from 0 to 86400"),
    ],
)
def test_numbers_that_no_system_call_takes_are_refused(
    tmp_path: Path, option: str, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything starts, with the value; status 2."""
    with pytest.raises(SystemExit, match="2"):
        main(arguments(tmp_path, f"{option}={text}"))
    assert words in capsys.readouterr().err


@pytest.mark.needs("unicorn")
def test_a_path_that_is_too_long_for_a_socket_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python says so itself, without a number."""
    path = "a" * 200
    assert 1 == main(arguments(tmp_path, "--socket", path))
    assert f"AF_UNIX path too long: '{path}'\n" in capsys.readouterr().err


@pytest.mark.parametrize("icount", ["3", "shift=x", "shift=11", "shift=-1", "shift=", "align=1"])
def test_bad_icount_is_refused(tmp_path: Path, icount: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The message has the value and the bounds; status 2."""
    with pytest.raises(SystemExit) as caught:
        main(arguments(tmp_path, "--icount", icount))

    assert 2 == caught.value.code
    assert f"{icount!r} is not shift=0 .. shift=10" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "x" * 33, "nä"])
def test_bad_names_are_refused(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A VM's name fits its field of HELLO."""
    with pytest.raises(SystemExit):
        main(arguments(tmp_path, "--vm", name))

    assert f"{name!r} is not 1..32 printable ASCII characters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ("--accel", "kvm", "--icount", "shift=3"),
            "--icount needs --accel unicorn: KVM counts no instructions",
        ),
        (("--irqchip", "kernel"), "--irqchip kernel needs --accel kvm: the kernel's controllers are KVM's"),
        (("--vectors",), "--vectors needs --accel kvm: Unicorn has SSE at most"),
    ],
)
def test_what_an_accelerator_has_not_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], words: str
) -> None:
    """The message says why; status 2."""
    with pytest.raises(SystemExit) as caught:
        main(arguments(tmp_path, *more))

    assert 2 == caught.value.code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("text", ["300", "x:/run/b", "300:", ":/run/b", "-1:/run/b"])
def test_a_bad_hand_over_is_refused(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The message has the value and the form; status 2."""
    with pytest.raises(SystemExit) as caught:
        main(arguments(tmp_path, f"--hand-over={text}"))

    assert 2 == caught.value.code
    assert f"{text!r} is not EXITS:SOCKET or EXITS:SOCKET:VM" in capsys.readouterr().err


@pytest.mark.needs("unicorn")
def test_a_hand_over_to_nobody_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SAVE is asked for in HELLO; without a second daemon the run ends with a sentence."""
    runs_out(monkeypatch, PATIENCE_S)
    with serving(tmp_path) as daemon:
        assert main(arguments(tmp_path, "--hand-over", f"0:{tmp_path}/none:other")) == 1

    assert 2 | 64 == daemon.hellos[0].required
    assert f"mmiod-vmm: {NOBODY}: '{tmp_path}/none'\n" == capsys.readouterr().err
