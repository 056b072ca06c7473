"""`mmioctl`: the command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Any, Final

from mmiod.ctl import actions, breaks, qemu
from mmiod.ctl.attach import NotAttachable
from mmiod.ctl.client import Client, Ended, NotRunning, Refused, Unsayable
from mmiod.ctl.commands import COMMANDS, nothing, of_device, of_plugin
from mmiod.ctl.ends import GONE, INTERRUPTED, REFUSED, WRONG, complain
from mmiod.ctl.refusals import sentence

Action = Callable[..., int]
Declare = Callable[[argparse.ArgumentParser], None]
Other = tuple[str, str, str | None, dict[str, Action], Declare]

ALL: Final = ("socket", "json", "vm")
SOCKET_AND_JSON: Final = ("socket", "json")
JSON: Final = ("json",)

SOCKET: Final = "/run/mmiod/control"

EPILOG: Final = """\
exit codes:
  0  done; a watch or break was ended by Ctrl-C, or by its reader; attach by Ctrl-] or the
     end of its input
  1  the daemon refused: no such VM, device or register, a filter that cannot be read,
     a plugin or a program that is not fit to serve; nothing to attach to, nowhere to write to
  2  the command line is wrong
  3  no daemon: it does not run, may not be reached, or went away meanwhile
130  Ctrl-C, before there was an answer
"""

FILTER_HELP: Final = """\
a filter is conditions joined by 'and', each KEY OPERATOR VALUE:
  device==uart* and register==LCR and direction==write and address>=0x3f8
a name that nobody has is refused; with * or ? it may be one that a reload will bring
keys: vm device register status (names: == !=, with * and ?)
      direction (read write r w), space (mmio pio pci_config msr)
      vcpu address size value (numbers: == != < <= > >=)
quote it, or the shell takes < > and * for itself
"""
ATTACH_HELP: Final = """\
what is no terminal may be piped in: half a second after its end the command ends
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
        complain(f"no mmiod answers at {options.socket}: {error}; {error.remedy}")
        return GONE
    except Ended:
        complain("the daemon has closed the connection")
        return GONE
    except Refused as error:
        complain(sentence(error))
        return REFUSED
    except (NotAttachable, qemu.NoFunctions) as error:
        complain(str(error))
        return REFUSED
    except Unsayable as error:
        complain(str(error))
        return WRONG
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _unread(0)
    except OSError as error:
        complain(f"what was asked for cannot be written: {error.strerror}")
        return _unread(REFUSED)


def _unread(status: int) -> int:
    """Nobody reads on: what is left to be written must not fail once more when Python ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "mmioctl",
        description="Look at a running mmiod, stop accesses, reload its plugins, and upgrade it.",
        epilog=EPILOG,
        formatter_class=_RAW,
    )
    parser.set_defaults(alone=None)
    _add_common(parser, ALL, socket=SOCKET, json=False, vm=None)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, text, method, parameters, paragraphs in COMMANDS:
        command = commands.add_parser(name, help=text, description=text)
        _add_common(command, SOCKET_AND_JSON if parameters is nothing else ALL)
        command.set_defaults(run=partial(actions.ask, method, parameters, paragraphs))
        if parameters is of_device:
            command.add_argument("device", metavar="DEVICE[.REGISTER]", help="its name, or VM/NAME")
            command.add_argument("pattern", nargs="?", metavar="PATTERN", help="register names, with * and ?")
        if parameters is of_plugin:
            command.add_argument("name", metavar="NAME", help="the plugin's, or DEVICE or VM/DEVICE of one")
    for name, text, epilog, does, declare in OTHERS:
        command = commands.add_parser(name, help=text, description=text, epilog=epilog, formatter_class=_RAW)
        _add_common(command, JSON if "alone" in does else ALL)
        command.set_defaults(**does)
        declare(command)
    _add_plugin(commands)
    return parser


def _declare_watch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("filter", nargs="*", metavar="FILTER", help="which accesses; all if left out")
    parser.add_argument("--oldest", action="store_true", help="begin with the oldest access that is kept")


def _declare_continue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", metavar="DEVICE", help="its name, or VM/NAME")
    parser.add_argument("value", nargs="?", metavar="VALUE", help="a read gives that, a write is dropped")


def _declare_attach(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stream", metavar="DEVICE[.STREAM]", help="a device's name, or VM/NAME")


def _declare_qemu(parser: argparse.ArgumentParser) -> None:
    size = "of the guest; default: 512M"
    parser.add_argument("--memory", type=qemu.size, default="512M", metavar="SIZE", help=size)


def _declare_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("code", nargs="+", metavar="BYTES", help="in hex, in one word or several")
    parser.add_argument("--mode", type=int, choices=[16, 32, 64], default=64, help="default: 64-bit code")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=NUMBER", help="registers that are not 0"
    )


OTHERS: Final[tuple[Other, ...]] = (
    (
        "watch",
        "live traffic with register and field names",
        FILTER_HELP,
        {"run": actions.watch},
        _declare_watch,
    ),
    ("break", breaks.TEXT, breaks.HELP, {"run": actions.break_}, breaks.declare),
    (
        "continue",
        "let go on what `break` has stopped at a device, or answer it",
        None,
        {"run": actions.continue_},
        _declare_continue,
    ),
    (
        "attach",
        "your terminal on a device's stream, whose backend is pty or unix:PATH; Ctrl-] ends",
        ATTACH_HELP,
        {"run": actions.attach_},
        _declare_attach,
    ),
    (
        "qemu-args",
        "what a stock QEMU is started with to have the functions of a VM",
        None,
        {"run": actions.qemu_arguments},
        _declare_qemu,
    ),
    (
        "explain",
        "an instruction: how it is decoded and what it accesses; no daemon is needed",
        None,
        {"alone": actions.explain_instruction},
        _declare_explain,
    ),
)
"""Each that is more than one question: name, help, epilog, what does it (`alone`: no daemon), arguments."""


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
    created.set_defaults(alone=actions.new_plugin)


def _add_common(parser: argparse.ArgumentParser, names: Sequence[str], **defaults: object) -> None:
    """What may stand before and behind the command; there it has no default, to override nothing."""
    for name in names:
        default = defaults.get(name, argparse.SUPPRESS)
        parser.add_argument(f"--{name}", default=default, **_COMMON[name])


_RAW: Final = argparse.RawDescriptionHelpFormatter
_COMMON: Final[dict[str, dict[str, Any]]] = {
    "socket": {"metavar": "PATH", "help": f"control socket, {SOCKET} if left out"},
    "json": {"action": "store_true", "help": "JSON for programs; watch gives an object per line"},
    "vm": {"metavar": "NAME", "help": "of one VM only"},
}


if __name__ == "__main__":
    sys.exit(main())
