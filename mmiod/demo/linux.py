"""`mmiod demo-linux`: a stock QEMU boots a stock Linux on three PCI devices that are Python files.

`.ci/stock` fetched QEMU, kernel and busybox.  The guest's console is a 16550A of ours, its disk
and its source of entropy are virtio devices of ours; everything else is QEMU's.  What is shown
is the guest's console, beside each line what its drivers did with our devices since the line
before.  While the guest reads its entropy, the device is edited and reloaded.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from attrs import define, field

from mmiod.ctl.client import Client
from mmiod.ctl.commands import show_reloaded
from mmiod.ctl.qemu import arguments
from mmiod.demo.boot import Lines, serve
from mmiod.demo.initrd import compressed
from mmiod.plugins.loader import bundled_directories

PATIENCE_S: Final = 180.0
MEMORY: Final = "256M"
PLUGIN: Final = "virtio/rng"
DOCUMENTATION: Final = '"""1AF4h:1044h."""'
WORSE: Final = '''"""1AF4h:1044h."""

    def serve(self, number, chain):
        self.state.entropy[:] = (b"mmiod! " * 10)[:64]
        yield from super().serve(number, chain)'''
"""What the edit makes of the line."""
WORSE_SHOWN: Final = "m   m   i   o   d   !"
"""In a line of entropy behind it; the guest may have drawn several before, and they may come late."""
GREETING: Final = b"Hello from a file on the host."
SAMPLES: Final = 4
"""Lines of entropy before the edit, and of what the edited device gives."""
SAMPLE: Final = "entropy:"
LAST_LINE: Final = "guest: good night"
MODULES: Final = ("virtio-rng", "virtio_blk")
GUEST: Final = f"""\
exec </dev/console >/dev/console 2>&1
stty -echo
echo "guest: $(uname -sr) on $(grep -c ^processor /proc/cpuinfo) CPU"
echo "guest: $(grep -h -o '16550A.*\\|uart:16550A.*' /proc/tty/driver/serial | head -n 1)"
echo "disk:  $(head -c {len(GREETING)} /dev/vda)"
dd if=/dev/urandom of=/tmp.bin bs=64k count=64 2>/dev/null
dd if=/tmp.bin of=/dev/vda bs=64k seek=1 conv=fsync 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
dd if=/dev/vda bs=64k skip=1 count=64 2>/dev/null | cmp - /tmp.bin && echo "disk:  4 MiB written, read, equal"
while ! read -t 1 word; do
    echo "{SAMPLE} $(head -c 12 /dev/hwrng | od -A n -c)"
done
echo "guest: was told $word"
grep -h virtio /proc/interrupts
echo "{LAST_LINE}"
"""
INTRODUCTION: Final = "Stock QEMU and Debian's kernel, on a UART, a disk and an entropy source in Python:"
ENDED: Final = "The same guest, the same device, another generation."
FAILED: Final = "The guest did not reach its end."
CONFIG: Final = """\
[daemon]
control = "{directory}/control"
log_level = "error"
plugins = ["{directory}/plugins"]
[[vm]]
name = "linux"
machine = "{directory}/machine.toml"
protocol = "vfio-user"
socket = "{directory}/functions"
"""
MACHINE: Final = """\
[devices.uart]
plugin = "pci/uart"
slot = "00:10.0"
streams = {{ serial = "unix-connect:{directory}/console" }}
[devices.rng]
plugin = "virtio/rng"
slot = "00:11.0"
streams = {{ source = "random" }}
[devices.blk]
plugin = "virtio/blk"
slot = "00:12.0"
streams = {{ image = "block:{directory}/disk" }}
"""


NEEDED: Final = ("qemu", "vmlinuz", "busybox", "modules")
"""In the directory that .ci/stock makes."""


def run(stock: Path) -> int:
    """Boot, show, edit, reload; 0 if the guest came to its end on the edited device."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmiod-demo-")))
        plugin = _prepare(directory)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(directory / "console"))
        listener.listen()
        listener.settimeout(PATIENCE_S)
        client = Client(str(serve(stack, directory, CONFIG.format(directory=directory))))
        stack.callback(client.close)
        console = stack.enter_context(listener.accept()[0])
        options = arguments(client.call("ListFunctions")["functions"], MEMORY)
        print(
            "Stock QEMU and Debian's kernel, on a UART, a disk and an entropy source in Python:\n", flush=True
        )
        _start_qemu(stack, directory, stock, options)
        watching = Client(str(directory / "control"))
        stack.callback(watching.close)
        show = Show(console, client, plugin, shutil.get_terminal_size((134, 40)).columns)
        ended = show.follow(watching)
    print(
        "\nThe same guest, the same device, another generation."
        if ended
        else "\nThe guest did not reach its end."
    )
    return 0 if ended else 1


def _prepare(directory: Path) -> Path:
    """A machine file, a disk, and a plugin directory with the one plugin, which is given."""
    (directory / "machine.toml").write_text(MACHINE.format(directory=directory))
    with (directory / "disk").open("wb") as disk:
        disk.write(GREETING)
        disk.truncate(16 << 20)
    plugin = directory / "plugins" / f"{PLUGIN}.py"
    plugin.parent.mkdir(parents=True)
    shutil.copy(bundled_directories()[0] / f"{PLUGIN}.py", plugin)
    return plugin


def _start_qemu(stack: ExitStack, directory: Path, stock: Path, options: Sequence[str]) -> None:
    """QEMU without any device that is not asked for; its errors are shown."""
    image = directory / "initrd"
    image.write_bytes(compressed(stock, GUEST, MODULES))
    command = [str(stock / "qemu"), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    line = "console=ttyS0 loglevel=4 tsc=unstable no_timer_check panic=-1"
    guest = ["-kernel", str(stock / "vmlinuz"), "-initrd", str(image), "-append", line]
    process = subprocess.Popen([*command, *options, *guest], stdin=subprocess.DEVNULL)

    def end() -> None:
        process.kill()
        process.wait()

    stack.callback(end)


@define
class Show:
    """The guest's console, what is done beside it, and when."""

    console: socket.socket
    client: Client
    plugin: Path
    columns: int
    samples: int = 0
    edited: int = 0
    """Samples that are the edited device's."""
    lines: Lines = field(init=False)

    def __attrs_post_init__(self) -> None:
        """The guest's console is what it writes to the UART's THR."""
        self.lines = Lines(self.columns, console="uart", register="thr", last=(LAST_LINE,))

    def follow(self, client: Client) -> bool:
        """Show lines until the last; whether it came in time."""
        deadline = time.monotonic() + PATIENCE_S
        for reply in client.stream("Watch", start="oldest"):
            for access in reply["accesses"] if reply else ():
                for line in self.lines.take(access):
                    print(line, flush=True)
                    if line.startswith(SAMPLE):
                        self._sampled(line)
            if self.lines.ended or time.monotonic() > deadline:
                break
        return self.lines.ended and self.edited >= SAMPLES

    def _sampled(self, line: str) -> None:
        self.samples += 1
        if self.samples == SAMPLES:
            self._edit()
        elif WORSE_SHOWN in line:
            self.edited += 1
            if self.edited == SAMPLES:
                self.console.sendall(b"goodbye\n")

    def _edit(self) -> None:
        """Change the plugin and reload it."""
        self.plugin.write_text(self.plugin.read_text().replace(DOCUMENTATION, WORSE))
        print("\n".join(f"    +{line}" for line in WORSE.splitlines()[2:]))
        print(f"    $ mmioctl reload {PLUGIN}")
        told = show_reloaded(self.client.call("Reload", name=PLUGIN))
        print("\n".join(f"    {line}" for text in told for line in text.splitlines()), flush=True)
