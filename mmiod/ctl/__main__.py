"""`mmioctl`: the command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any, Final

from mmiod.ctl.attach import NotAttachable, attach, locate
from mmiod.ctl.client import Client, Ended, NotRunning, Refused
from mmiod.ctl.commands import COMMANDS, Parameters, Show, of_device
from mmiod.ctl.watch import show

SOCKET: Final = "/run/mmiod/control"

REFUSED, GONE = 1, 3

EPILOG: Final = """\
exit codes:
  0  done; a watch was ended by Ctrl-C, or by its reader; attach by Ctrl-]
  1  the daemon refused: no such VM, device or register, a filter that cannot be read;
     nothing to attach to
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
    except NotAttachable as error:
        _complain(str(error))
        return REFUSED
    except BrokenPipeError:
        return 0  # nobody reads on


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "mmioctl", description="Look at a running mmiod.", epilog=EPILOG, formatter_class=_RAW
    )
    _add_common(parser, socket=SOCKET, json=False, vm=None)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, text, method, parameters, paragraphs in COMMANDS:
        command = commands.add_parser(name, help=text, description=text)
        _add_common(command)
        command.set_defaults(run=partial(_ask, method, parameters, paragraphs))
        if parameters is of_device:
            command.add_argument("device", metavar="DEVICE", help="its name, or VM/NAME")
            command.add_argument("pattern", nargs="?", metavar="PATTERN", help="register names, with * and ?")
    text = "live traffic with register and field names"
    watch = commands.add_parser(
        "watch", help=text, description=text, epilog=FILTER_HELP, formatter_class=_RAW
    )
    _add_common(watch)
    watch.add_argument("filter", nargs="*", metavar="FILTER", help="which accesses; all if left out")
    watch.add_argument("--oldest", action="store_true", help="begin with the oldest access that is kept")
    watch.set_defaults(run=_watch)
    text = "your terminal on a device's stream, whose backend is unix:PATH; Ctrl-] ends"
    attached = commands.add_parser("attach", help=text, description=text)
    _add_common(attached)
    attached.add_argument("stream", metavar="DEVICE[.STREAM]", help="a device's name, or VM/NAME")
    attached.set_defaults(run=_attach)
    return parser


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


def _attach(client: Client, options: argparse.Namespace) -> int:
    name, path = locate(client.call("ListDevices", vm=options.vm), options.stream)
    client.close()
    if attach(name, path):
        return 0
    _complain(f"{name} has ended: somebody else is attached, or the daemon has gone")
    return GONE


def _explain(refused: Refused) -> str:
    """An error of the daemon in words."""
    name, parameters = refused.error.rpartition(".")[2], refused.parameters
    text = _REFUSALS.get(name)
    if text is None:
        return f"the daemon refused: {refused.error} {json.dumps(parameters)}"
    known = ", ".join(parameters.get("known", ())) or "none"
    return text.format_map({**parameters, "known": known})


_REFUSALS: Final = {
    "UnknownVm": "there is no VM {vm}; there are: {known}",
    "UnknownDevice": "{device} is not the name of one device; there are: {known}",
    "InvalidFilter": "the filter cannot be read: {reason}",
    "TooManyClients": "the daemon serves {limit} control clients already",
}


def _complain(text: str) -> None:
    print(f"mmioctl: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
