"""`mmioctl`: the command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

from mmiod.ctl import breaks, qemu
from mmiod.ctl.attach import NotAttachable, attach, locate
from mmiod.ctl.client import Client, Ended, NotRunning, Refused
from mmiod.ctl.commands import COMMANDS, Parameters, Show, of_device, of_plugin
from mmiod.ctl.watch import show
from mmiod.errors import PluginError

SOCKET: Final = "/run/mmiod/control"

REFUSED, WRONG, GONE = 1, 2, 3

EPILOG: Final = """\
exit codes:
  0  done; a watch or break was ended by Ctrl-C, or by its reader; attach by Ctrl-]
  1  the daemon refused: no such VM, device or register, a filter that cannot be read,
     a plugin or a program that is not fit to serve; nothing to attach to
  2  the command line is wrong
  3  no daemon: it does not run, may not be reached, or went away meanwhile
"""

FILTER_HELP: Final = """\
a filter is conditions joined by 'and', each KEY OPERATOR VALUE:
  device==uart* and register==LCR and direction==write and address>=0x3f8
keys: vm device register status (names: == !=, with * and ?)
      direction (read write r w), space (mmio pio pci_config msr)
      vcpu address size value (numbers: == != < <= > >=)
quote it, or the shell takes < > and * for itself
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code."""
    options = _parser().parse_args(arguments)
    if options.alone is not None:
        return int(options.alone(options))
    try:
        with closing(Client(options.socket)) as client:
            status: int = options.run(client, options)
            return status
    except NotRunning as error:
        _complain(
            f"no mmiod answers at {options.socket}: {error}\n"
            "start it with `systemctl start mmiod` or `mmiod serve --config FILE`, "
            "or name its control socket with --socket"
        )
        return GONE
    except Ended:
        _complain("the daemon has closed the connection")
        return GONE
    except Refused as error:
        _complain(_explain(error))
        return REFUSED
    except (NotAttachable, qemu.NoFunctions) as error:
        _complain(str(error))
        return REFUSED
    except BrokenPipeError:
        return 0  # nobody reads on


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "mmioctl",
        description="Look at a running mmiod, stop accesses, reload its plugins, and upgrade it.",
        epilog=EPILOG,
        formatter_class=_RAW,
    )
    parser.set_defaults(alone=None)
    _add_common(parser, socket=SOCKET, json=False, vm=None)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, text, method, parameters, paragraphs in COMMANDS:
        command = commands.add_parser(name, help=text, description=text)
        _add_common(command)
        command.set_defaults(run=partial(_ask, method, parameters, paragraphs))
        if parameters is of_device:
            command.add_argument("device", metavar="DEVICE", help="its name, or VM/NAME")
            command.add_argument("pattern", nargs="?", metavar="PATTERN", help="register names, with * and ?")
        if parameters is of_plugin:
            command.add_argument("name", metavar="NAME", help="the plugin's, or DEVICE or VM/DEVICE")
    text = "live traffic with register and field names"
    watch = commands.add_parser(
        "watch", help=text, description=text, epilog=FILTER_HELP, formatter_class=_RAW
    )
    _add_common(watch)
    watch.add_argument("filter", nargs="*", metavar="FILTER", help="which accesses; all if left out")
    watch.add_argument("--oldest", action="store_true", help="begin with the oldest access that is kept")
    watch.set_defaults(run=_watch)
    _add_break(commands)
    text = "your terminal on a device's stream, whose backend is pty or unix:PATH; Ctrl-] ends"
    attached = commands.add_parser("attach", help=text, description=text)
    _add_common(attached)
    attached.add_argument("stream", metavar="DEVICE[.STREAM]", help="a device's name, or VM/NAME")
    attached.set_defaults(run=_attach)
    text = "what a stock QEMU is started with to have the functions of a VM"
    started = commands.add_parser("qemu-args", help=text, description=text)
    _add_common(started)
    started.add_argument("--memory", default="512M", metavar="SIZE", help="of the guest; default: 512M")
    started.set_defaults(run=_qemu_arguments)
    text = "an instruction: how it is decoded and what it accesses; no daemon is needed"
    explained = commands.add_parser("explain", help=text, description=text)
    _add_common(explained)
    explained.add_argument("code", nargs="+", metavar="BYTES", help="in hex, in one word or several")
    explained.add_argument("--mode", type=int, choices=[16, 32, 64], default=64, help="default: 64-bit code")
    explained.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=NUMBER", help="registers that are not 0"
    )
    explained.set_defaults(alone=_explain_instruction)
    _add_plugin(commands)
    return parser


def _add_break(commands: Any) -> None:  # noqa: ANN401  # argparse has no public name for it
    stopping = commands.add_parser(
        "break", help=breaks.TEXT, description=breaks.TEXT, epilog=breaks.HELP, formatter_class=_RAW
    )
    _add_common(stopping)
    breaks.declare(stopping)
    stopping.set_defaults(run=_break)
    text = "let go on what `break` has stopped at a device, or answer it"
    resumed = commands.add_parser("continue", help=text, description=text)
    _add_common(resumed)
    resumed.add_argument("device", metavar="DEVICE", help="its name, or VM/NAME")
    resumed.add_argument("value", nargs="?", metavar="VALUE", help="a read gives that, a write is dropped")
    resumed.set_defaults(run=_continue)


def _add_plugin(commands: Any) -> None:  # noqa: ANN401  # argparse has no public name for it
    text = "a plugin's files; no daemon is needed"
    plugin = commands.add_parser("plugin", help=text, description=text)
    text = "write a device that runs, with its test, to begin with"
    created = plugin.add_subparsers(metavar="ACTION", required=True).add_parser(
        "new", help=text, description=text
    )
    created.add_argument("name", metavar="NAME", help="of the plugin: NAME.py and test_NAME.py are written")
    created.add_argument("--pci", action="store_true", help="a PCI function, with its registers in BAR 0")
    created.add_argument("--directory", default=".", help="where to; here if left out")
    created.set_defaults(alone=_new_plugin)


def _add_common(parser: argparse.ArgumentParser, **defaults: object) -> None:
    """What may stand before and behind the command; there it has no default, to override nothing."""
    for flags, options in _COMMON.items():
        name = flags.removeprefix("--")
        parser.add_argument(flags, default=defaults.get(name, argparse.SUPPRESS), **options)


_RAW: Final = argparse.RawDescriptionHelpFormatter
_COMMON: Final[dict[str, dict[str, Any]]] = {
    "--socket": {"metavar": "PATH", "help": f"control socket, {SOCKET} if left out"},
    "--json": {"action": "store_true", "help": "JSON for programs; watch gives an object per line"},
    "--vm": {"metavar": "NAME", "help": "of one VM only"},
}


def _ask(
    method: str, parameters: Parameters, paragraphs: Show, client: Client, options: argparse.Namespace
) -> int:
    answer = client.call(method, **parameters(options))
    print(json.dumps(answer) if options.json else "\n\n".join(paragraphs(answer)), flush=True)
    return 0


def _watch(client: Client, options: argparse.Namespace) -> int:
    conditions = [f"vm=={options.vm}"] * (options.vm is not None) + [" ".join(options.filter)] * bool(
        options.filter
    )
    replies = client.stream(
        "Watch", filter=" and ".join(conditions), start="oldest" if options.oldest else "now"
    )
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    try:
        show(replies, as_json=options.json, colour=colour)
    except KeyboardInterrupt:
        return 0
    raise Ended


def _break(client: Client, options: argparse.Namespace) -> int:
    try:
        wanted = breaks.request(options.target, options.words, options.vm, options.timeout)
    except breaks.Unreadable as error:
        _complain(str(error))
        return WRONG
    with closing(Client(options.socket)) as orders:
        try:
            breaks.Breaking(client, orders, options.json, options.count).run(wanted)
        except (breaks.NoMoreLines, KeyboardInterrupt):
            return 0
    return 0


def _continue(client: Client, options: argparse.Namespace) -> int:
    vm, _, device = options.device.rpartition("/")
    try:
        value = None if options.value is None else int(options.value, 0)
    except ValueError:
        _complain(f"{options.value!r} is no number, such as 16 or 0x10")
        return WRONG
    answer = client.call("Continue", vm=vm or options.vm, device=device, value=value)
    print(json.dumps(answer) if options.json else " ".join(f"#{number}" for number in answer["numbers"]))
    return 0


def _attach(client: Client, options: argparse.Namespace) -> int:
    name, path = locate(client.call("ListDevices", vm=options.vm), options.stream)
    client.close()
    if attach(name, path):
        return 0
    _complain(f"{name} has ended: somebody else is attached, or the daemon has gone")
    return GONE


def _qemu_arguments(client: Client, options: argparse.Namespace) -> int:
    answer = client.call("ListFunctions", vm=options.vm)
    found = qemu.arguments(answer["functions"], options.memory)
    print(json.dumps(found) if options.json else qemu.command_line(found), flush=True)
    return 0


def _explain_instruction(options: argparse.Namespace) -> int:
    from mmiod.ctl import explain

    try:
        print(explain.answer(options.code, options.mode, options.set, as_json=options.json), flush=True)
    except ValueError as error:
        _complain(str(error))
        return WRONG
    return 0


def _new_plugin(options: argparse.Namespace) -> int:
    from mmiod.ctl import skeleton

    try:
        for path in skeleton.create(options.name, Path(options.directory), pci=options.pci):
            print(path)
    except PluginError as error:
        _complain(str(error))
        return WRONG
    return 0


def _explain(refused: Refused) -> str:
    """An error of the daemon in words."""
    name, parameters = refused.error.rpartition(".")[2], refused.parameters
    text = _REFUSALS.get(name)
    if text is None:
        return f"the daemon refused: {refused.error} {json.dumps(parameters)}"
    known = ", ".join(parameters.get("known", ())) or "none"
    place = ":".join(str(part) for part in (parameters.get("file"), parameters.get("line")) if part)
    return text.format_map({**parameters, "known": known, "place": f"{place}: " if place else ""})


_REFUSALS: Final = {
    "UnknownVm": "there is no VM {vm}; there are: {known}",
    "UnknownDevice": "{device} is not the name of one device; there are: {known}",
    "UnknownPlugin": "{name} is neither a plugin nor the name of one device; there are: {known}",
    "ReloadRejected": "{plugin} is not reloaded: {place}{reason}\n{remedy}",
    "UpgradeRejected": "the daemon is not upgraded, and serves on:\n{reason}",
    "InvalidFilter": "the filter cannot be read: {reason}",
    "UnknownRegister": "{device} has no register {register}; there are: {known}",
    "NotStopped": "nothing stands at {device}",
    "TooManyClients": "the daemon serves {limit} control clients already",
}


def _complain(text: str) -> None:
    print(f"mmioctl: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
