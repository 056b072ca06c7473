"""What each subcommand asks and how its answer looks."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from typing import Final

from mmiod.ctl.client import Object
from mmiod.ctl.text import duration, fields, hexadecimal, table

Parameters = Callable[[argparse.Namespace], dict[str, str | None]]
Show = Callable[[Object], Iterator[str]]
"""An answer's paragraphs, for people."""

_HITS = frozenset({"HITS"})


def of_vm(options: argparse.Namespace) -> dict[str, str | None]:
    """About one VM or all."""
    return {"vm": options.vm}


def nothing(_options: argparse.Namespace) -> dict[str, str | None]:
    """About the daemon."""
    return {}


def of_device(options: argparse.Namespace) -> dict[str, str | None]:
    """About one device, given as DEVICE or VM/DEVICE; .REGISTER is as in `break`."""
    vm, _, place = options.device.rpartition("/")
    device, _, register = place.partition(".")
    return {"vm": vm or options.vm, "device": device, "pattern": options.pattern or register or None}


def of_plugin(options: argparse.Namespace) -> dict[str, str | None]:
    """About one plugin, given by its name or a device's."""
    told = options.vm is None or "/" in options.name
    return {"name": options.name if told else f"{options.vm}/{options.name}"}


def show_devices(answer: Object) -> Iterator[str]:
    """One line per device, one per backend, and why some do not serve."""
    yield table(
        ("VM", "DEVICE", "PLUGIN", "GEN", "STATE", "WHERE", "LINES HIGH", "READS", "WRITES", "ERRORS"),
        (
            (
                found["vm"],
                found["name"],
                found["plugin"],
                str(found["generation"]),
                found["state"],
                " ".join(_where(region) for region in found["regions"]) or "-",
                " ".join(name for name, level in found["outputs"].items() if level) or "-",
                str(found["reads"]),
                str(found["writes"]),
                str(found["errors"]),
            )
            for found in answer["devices"]
        ),
        right=frozenset({"GEN", "READS", "WRITES", "ERRORS"}),
    )
    backends = [(found, backend) for found in answer["devices"] for backend in found["backends"]]
    if backends:
        yield table(
            ("STREAM", "BACKEND", "WHERE", "LOST", "FAILURE"),
            (
                (
                    f"{found['vm']}/{found['name']}.{backend['name']}",
                    backend["backend"],
                    backend["where"] or "-",
                    str(backend["lost"]),
                    backend["failure"] or "-",
                )
                for found, backend in backends
            ),
            frozenset({"LOST"}),
        )
    for found in answer["devices"]:
        if found["reason"] is not None:
            yield f"{found['vm']}/{found['name']} is out of service: {found['reason']}"


def _where(region: Object) -> str:
    if region["base"] is None:
        return f"{region['name']}:unplaced"
    return f"{region['space']}:{region['base']:#x}+{region['length']:#x}"


def show_functions(answer: Object) -> Iterator[str]:
    """One line per function behind vfio-user."""
    if not answer["functions"]:
        yield 'no VM has protocol = "vfio-user"'
        return
    yield table(
        ("VM", "DEVICE", "SLOT", "CLIENT", "MEMORY", "SOCKET"),
        (
            (
                found["vm"],
                found["device"],
                found["slot"] or "-",
                "-" if found["client"] is None else f"pid {found['client']}",
                f"{found['memory'] >> 20} MiB",
                found["socket"],
            )
            for found in answer["functions"]
        ),
        frozenset({"MEMORY"}),
    )


def show_map(answer: Object) -> Iterator[str]:
    """A table per VM and space."""
    by_space = itertools.groupby(answer["ranges"], lambda found: (found["vm"], found["space"]))
    for (vm, space), ranges in by_space:
        yield f"{vm} {space}\n" + table(
            ("FROM", "TO", "OWNER", "REGION", "PLACED BY", "HITS"), (_range(found) for found in ranges), _HITS
        )


def _range(found: Object) -> tuple[str, ...]:
    ends = (hexadecimal(found["start"]), hexadecimal(found["last"]))
    if found["owner"] is None:
        return (*ends, "-", f"({found['policy']})", "-", str(found["hits"]))
    return (*ends, found["owner"], found["region"], "machine" if found["fixed"] else "guest", "")


def show_exits(answer: Object) -> Iterator[str]:
    """What is in flight, then what was."""
    if answer["exits"]:
        yield table(
            ("VM", "VCPU", "SEQUENCE", "KIND", "AGE", "ADDRESS", "PC", "WAITS FOR"),
            (_exit(found) for found in answer["exits"]),
            frozenset({"VCPU", "SEQUENCE", "AGE"}),
        )
    else:
        yield "no exit is in flight"
    for totals in answer["totals"]:
        rows = [("exit", *row) for row in totals["exits"].items()]
        rows += [("completion", *row) for row in totals["completions"].items()]
        rows += [("unsupported", found["code"], found["count"]) for found in totals["unsupported"]]
        yield f"{totals['vm']} since its hypervisor came\n" + table(
            ("", "KIND", "COUNT"),
            ((what, kind, str(count)) for what, kind, count in rows),
            frozenset({"COUNT"}),
        )


def _exit(found: Object) -> tuple[str, ...]:
    return (
        found["vm"],
        str(found["vcpu"]),
        str(found["sequence"]),
        found["kind"],
        duration(found["age_ns"]),
        "-" if found["address"] is None else f"{found['space']}:{found['address']:#x}",
        "-" if found["pc"] is None else hexadecimal(found["pc"]),
        found["waits_for"] or "-",
    )


def show_registers(answer: Object) -> Iterator[str]:
    """One line per register."""
    if not answer["registers"]:
        yield f"{answer['vm']}/{answer['device']} declares no registers"
        return
    yield table(
        ("REGISTER", "WHERE", "SIZE", "ACCESS", "VALUE", "FIELDS"),
        (
            (
                found["name"].upper(),
                f"{found['region']}+{found['offset']:#x}",
                str(found["size"]),
                found["access"],
                "?" if found["value"] is None else hexadecimal(found["value"], found["size"]),
                found["error"] or fields(found["fields"]),
            )
            for found in answer["registers"]
        ),
        frozenset({"SIZE"}),
    )


def show_statistics(answer: Object) -> Iterator[str]:
    """Devices with their share, then what nobody claims."""
    rows = [
        (f"{found['vm']}/{found['device']}", *_counts(found), *_latency(found)) for found in answer["devices"]
    ]
    sums = [str(sum(found[name] for found in answer["devices"])) for name in _COUNTERS]
    rows.append(("all", *sums, *_latency(answer)))
    head = ("DEVICE", *(name.upper() for name in _COUNTERS), "P50", "P99")
    yield table(head, rows, frozenset(head[1:]))
    if answer["unclaimed"]:
        yield "nobody claims\n" + table(
            ("VM", "FROM", "TO", "ANSWERED", "HITS"),
            (
                (
                    found["vm"],
                    f"{found['space']}:{found['start']:#x}",
                    hexadecimal(found["last"]),
                    found["policy"],
                    str(found["hits"]),
                )
                for found in answer["unclaimed"]
            ),
            _HITS,
        )


def show_reloaded(answer: Object) -> Iterator[str]:
    """What serves now, and what it does otherwise."""
    yield (
        f"{answer['plugin']}: generation {answer['generation']} serves {', '.join(answer['devices'])}; "
        f"the pause was {answer['pause_us']} us"
    )
    if answer["accesses"]:
        more = answer["differing"] - len(answer["differences"])
        repeated = f"the last {answer['accesses']} accesses, repeated by both generations"
        lines = [f"{repeated}: {answer['differing']} differences"]
        lines += [f"  {difference}" for difference in answer["differences"]]
        yield "\n".join(lines + [f"  and {more} more"] * bool(more))
    if answer["dropped"]:
        yield "dropped, as this class has none: " + ", ".join(answer["dropped"])


_COUNTERS = ("reads", "writes", "refused", "faults")


def _counts(found: Object) -> list[str]:
    return [str(found[name]) for name in _COUNTERS]


def _latency(found: Object) -> tuple[str, str]:
    return duration(found["p50_ns"]), duration(found["p99_ns"])


def show_upgraded(answer: Object) -> Iterator[str]:
    """One line."""
    pause = duration(1000 * answer["pause_us"])
    yield f"mmiod {answer['version']} serves, upgrade {answer['upgrades']}; the pause was {pause}"


COMMANDS: Final[tuple[tuple[str, str, str, Parameters, Show], ...]] = (
    ("devices", "devices: where they are, what they did", "ListDevices", of_vm, show_devices),
    ("map", "the address map, holes included", "GetMap", of_vm, show_map),
    ("functions", "PCI functions for QEMU: sockets, clients", "ListFunctions", of_vm, show_functions),
    ("exits", "exits in flight, and how many there were", "ListExits", of_vm, show_exits),
    ("registers", "a device's registers, without side effect", "ReadRegisters", of_device, show_registers),
    ("statistics", "accesses and latencies of each device", "GetStatistics", of_vm, show_statistics),
    ("reload", "let a plugin's edited files serve, while guests run", "Reload", of_plugin, show_reloaded),
    ("rollback", "let a plugin's generation before serve again", "Rollback", of_plugin, show_reloaded),
    ("upgrade", "execute the daemon anew, while guests run", "Upgrade", nothing, show_upgraded),
)
"""Each but `watch`: name, help, method, its parameters, its answer for people."""
