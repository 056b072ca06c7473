"""The daemon's command line: `mmiod serve | check-config | demo | demo-reload`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mmiod import __version__

if TYPE_CHECKING:
    from mmiod.building import Daemon
    from mmiod.errors import ConfigError

DEFAULT_CONFIG: Final = Path("/etc/mmiod/mmiod.toml")
INTERRUPTED: Final = 130
MAX_MEMORY_MIB: Final = 3072


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; the exit status: 0 if all is well, 1 if not, 2 for a wrong call, 130 after Ctrl-C."""
    parsed = _parser().parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mmiod", description="Device models for virtual machines, in Python."
    )
    parser.add_argument("--version", action="version", version=f"mmiod {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="answer the exits of the configured VMs")
    serve.set_defaults(run=_serve)
    serve.add_argument("--watch", action="store_true", help="reload plugins when they are saved")
    check = commands.add_parser("check-config", help="say what is wrong with a configuration")
    check.set_defaults(run=_check)
    for command in (serve, check):
        command.add_argument(
            "--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s"
        )
    demo = commands.add_parser("demo", help="boot SeaBIOS on Python devices and show the traffic")
    demo.add_argument(
        "--memory", type=_mib, default=128, metavar="MIB", help="guest memory (default: %(default)s)"
    )
    demo.add_argument("--json", action="store_true", help="print the final figures as JSON only")
    demo.set_defaults(run=_demo)
    text = "edit and reload a device while SeaBIOS runs on it"
    commands.add_parser("demo-reload", help=text, description=text).set_defaults(run=_demo_reload)
    text = "boot a stock Linux in a stock QEMU on Python devices, and reload one"
    linux = commands.add_parser("demo-linux", help=text, description=text)
    linux.add_argument("stock", type=Path, metavar="DIRECTORY", help="what .ci/stock prints")
    linux.set_defaults(run=_demo_linux)
    return parser


def _mib(text: str) -> int:
    """Guest memory; from 3 GiB on are the addresses of PCI devices."""
    if not text.isdecimal() or not 1 <= int(text) <= MAX_MEMORY_MIB:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {MAX_MEMORY_MIB}")
    return int(text)


def _serve(arguments: argparse.Namespace) -> int:
    import faulthandler
    from functools import partial

    import trio

    from mmiod import config, daemon
    from mmiod.errors import ConfigError, RestoreError
    from mmiod.plugins import watch
    from mmiod.service import activation, inheritance, log, memory, notify, succession
    from mmiod.upgrade import heir

    faulthandler.enable()  # the service manager's watchdog aborts us: say where we hang
    memory.leave_out_of_cores()
    memory.keep_freed()
    try:
        tried, inherited = (inheritance.take(name) for name in (inheritance.TRIAL, inheritance.VARIABLE))
        if tried is not None:
            return _try(arguments, tried)
        notifier, passed = notify.from_environment(), activation.passed_sockets()
        successor = None if inherited is None else heir.of(inherited)
    except (OSError, ValueError, RestoreError) as error:
        return _refuse(ConfigError([str(error)]))
    try:
        found = config.examine_config(arguments.config)
        loaded = found.rest()
        limiter = log.configure(loaded.daemon.log_level)
        saved = watch.changes() if arguments.watch else None
        built = daemon.build(loaded, found.problems)
        succeed = partial(succession.succeed, loaded.daemon.control, built.machines, built.watchdog)
        if successor is not None:
            heir.check(built.upgrader, successor.estate)
        trio.run(daemon.serve, built, notifier, limiter, passed, succeed, saved, successor)
    except ConfigError as error:
        return _refuse(error)
    return 0


def _try(arguments: argparse.Namespace, inherited: bytes) -> int:
    """Whether this program, executed anew, would serve on with what is inherited."""
    from mmiod.errors import ConfigError
    from mmiod.upgrade import estate, heir

    try:
        built = _build(arguments.config)
        try:
            heir.check(built.upgrader, estate.load(inherited))
        finally:
            built.close()
    except ConfigError as error:
        return _refuse(error)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from mmiod.errors import ConfigError

    try:
        built = _build(arguments.config)
    except ConfigError as error:
        return _refuse(error)
    print(f"{arguments.config}: {built.status()}")
    return 0


def _build(path: Path) -> Daemon:
    """What would serve; every problem of every file is in the ConfigError that may be raised."""
    from mmiod import config, daemon

    found = config.examine_config(path)
    return daemon.build(found.rest(), found.problems)


def _refuse(error: ConfigError) -> int:
    print("\n".join(error.problems), file=sys.stderr)
    return 1


def _demo(arguments: argparse.Namespace) -> int:
    from mmiod.demo import boot

    return boot.run(memory_mib=arguments.memory, as_json=arguments.json)


def _demo_reload(_arguments: argparse.Namespace) -> int:
    from mmiod.demo import reload

    return reload.run()


def _demo_linux(arguments: argparse.Namespace) -> int:
    from mmiod.demo import linux
    from mmiod.errors import ConfigError

    missing = [name for name in linux.NEEDED if not (arguments.stock / name).exists()]
    if missing:
        lacks = f"{arguments.stock} has no {', '.join(missing)}"
        return _refuse(ConfigError([f"DIRECTORY: {lacks}; .ci/stock makes one and prints where"]))
    return linux.run(arguments.stock)


if __name__ == "__main__":
    sys.exit(main())
