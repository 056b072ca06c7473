"""`mmiod demo-reload`: a device is edited and reloaded while stock firmware runs on it.

The debug console's plugin is copied to a temporary directory, which hides the bundled one.
SeaBIOS writes its log through it, and waits some seconds at its boot menu: there the copy is
edited twice.  The first edit is broken, and refused; the second one shouts.  What is shown is
what the device sends to its backend, a socket of ours, and the daemon's own answers.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from attrs import define

from mmiod.ctl.client import Client, Refused
from mmiod.ctl.commands import show_reloaded
from mmiod.demo.boot import FIRMWARE, LAST_LINES, config_folder, guest_ram, serve, start_hypervisor
from mmiod.plugins.loader import bundled_directories

MEMORY_MIB: Final = 128
PATIENCE_S: Final = 30.0
MENU_MS: Final = 2500
"""How long the firmware waits for a key."""
MENU: Final = "Press ESC for boot menu."
PLUGIN: Final = "pseudo/debugcon"
SENT: Final = "self.console.send(bytes((value,)))"
BROKEN: Final = "self.console.send(bytes((value,))"
SHOUTED: Final = "self.console.send(bytes((value,)).upper())"
ENDED: Final = "The same boot, the same device, another generation."
FAILED: Final = "The firmware's last line did not come from the new generation."
LOG_WIDTH: Final = 100
CONFIG: Final = """\
[daemon]
control = "{directory}/control"
log_level = "error"
plugins = ["{directory}/plugins"]
[[vm]]
name = "demo"
machine = "{directory}/machines/demo.toml"
socket = "{directory}/demo.exit"
"""
MACHINE: Final = """\
extends = "pc.toml"
[devices.debugcon.streams]
console = "unix-connect:{directory}/console"
[devices.fw_cfg.config.files]
"etc/boot-menu-wait" = {{ integer = {menu_ms} }}
"""


def run() -> int:
    """Boot, edit, reload, print; 0 if the new generation spoke the firmware's last line."""
    firmware = next((path for path in FIRMWARE if path.is_file()), None)
    if firmware is None:
        print("SeaBIOS is not installed: apt-get install seabios")
        return 1
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmiod-demo-")))
        plugin = _copy(directory)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(directory / "console"))
        listener.listen()
        listener.settimeout(PATIENCE_S)
        control = serve(stack, directory, CONFIG.format(directory=directory))
        client = Client(str(control))
        stack.callback(client.close)
        memory = guest_ram(stack, MEMORY_MIB)
        start_hypervisor(stack, directory, firmware, MEMORY_MIB, memory)
        console = Console.accept(stack, listener)
        print(f"Booting {firmware} on Unicorn; its log, as {plugin} sends it:\n")
        console.show(MENU)
        _edit(client, plugin, SENT, BROKEN)
        _edit(client, plugin, BROKEN, SHOUTED)
        ended = console.show(LAST_LINES[0].upper())
    print(f"\n{ENDED if ended else FAILED}")
    return 0 if ended else 1


def _copy(directory: Path) -> Path:
    """A plugin directory with the one plugin, and machine files."""
    plugin = directory / "plugins" / f"{PLUGIN}.py"
    plugin.parent.mkdir(parents=True)
    shutil.copy(bundled_directories()[0] / f"{PLUGIN}.py", plugin)
    shutil.copytree(config_folder() / "machines", directory / "machines")
    machine = MACHINE.format(directory=directory, menu_ms=MENU_MS)
    (directory / "machines" / "demo.toml").write_text(machine)
    return plugin


def _edit(client: Client, plugin: Path, old: str, new: str) -> None:
    """Change the plugin and reload it; tell what came of it."""
    plugin.write_text(plugin.read_text().replace(old, new))
    print(f"\n    -        {old}\n    +        {new}\n    $ mmioctl reload {PLUGIN}")
    try:
        told = list(show_reloaded(client.call("Reload", name=PLUGIN)))
    except Refused as refused:
        found = refused.parameters
        told = [f"rejected: {found['file']}:{found['line']}: {found['reason']}", str(found["remedy"])]
    print("\n".join(f"    {line}" for text in told for line in text.splitlines()), flush=True)


@define
class Console:
    """The far end of the device's stream."""

    stream: socket.socket
    _text: str = ""

    @classmethod
    def accept(cls, stack: ExitStack, listener: socket.socket) -> Console:
        """The daemon connects when it starts."""
        stream, _ = listener.accept()
        stream.settimeout(PATIENCE_S)
        return cls(stack.enter_context(stream))

    def show(self, last: str) -> bool:
        """Print lines until one begins with `last`; whether it came in time."""
        for line in self._lines():
            print(line[:LOG_WIDTH], flush=True)
            if line.startswith(last):
                return True
        return False

    def _lines(self) -> Iterator[str]:
        while True:
            line, end, rest = self._text.partition("\n")
            if end:
                self._text = rest
                yield line
                continue
            try:
                data = self.stream.recv(4096)
            except TimeoutError:
                return
            if not data:
                return
            self._text += data.decode(errors="replace")
