"""What each subcommand does; the exit code."""

from __future__ import annotations

import argparse
import json
import os
from contextlib import closing
from pathlib import Path

from mmiod.ctl import breaks, qemu
from mmiod.ctl.attach import attach, locate
from mmiod.ctl.client import Client, Ended, Refused
from mmiod.ctl.commands import Parameters, Show
from mmiod.ctl.ends import GONE, REFUSED, WRONG, complain
from mmiod.ctl.text import number
from mmiod.ctl.watch import show
from mmiod.errors import PluginError


def ask(
    method: str, parameters: Parameters, paragraphs: Show, client: Client, options: argparse.Namespace
) -> int:
    """Any that is one question."""
    answer = client.call(method, **parameters(options))
    print(json.dumps(answer) if options.json else "\n\n".join(paragraphs(answer)), flush=True)
    return 0


def watch(client: Client, options: argparse.Namespace) -> int:
    """`watch`."""
    conditions = [" ".join(options.filter)] * bool(options.filter)
    if options.vm is not None:
        client.call("ListFunctions", vm=options.vm)  # refused if there is no such VM; a filter may name any
        conditions.insert(0, f"vm=={options.vm}")
    replies = client.stream(
        "Watch", filter=" and ".join(conditions), start="oldest" if options.oldest else "now"
    )
    colour = os.isatty(1) and "NO_COLOR" not in os.environ
    try:
        show(replies, as_json=options.json, colour=colour)
    except KeyboardInterrupt:
        return 0
    raise Ended


def break_(client: Client, options: argparse.Namespace) -> int:
    """`break`: one connection for what it is told, one for what it orders."""
    try:
        wanted = breaks.request(options.target, options.words, options.vm, options.timeout)
    except breaks.Unreadable as error:
        complain(str(error))
        return WRONG
    with closing(Client(options.socket)) as orders:
        try:
            breaks.Breaking(client, orders, options.json, options.count).run(wanted)
        except (breaks.NoMoreLines, KeyboardInterrupt):
            return 0
    return 0


def continue_(client: Client, options: argparse.Namespace) -> int:
    """`continue`."""
    vm, _, device = options.device.rpartition("/")
    try:
        value = None if options.value is None else number(options.value)
    except ValueError as error:
        complain(str(error))
        return WRONG
    try:
        answer = client.call("Continue", vm=vm or options.vm, device=device, value=value)
    except Refused as refused:
        if not breaks.does_not_fit(refused):
            raise
        complain(f"{options.value} does not fit into the access that stands at {options.device}")
        return REFUSED
    print(json.dumps(answer) if options.json else " ".join(f"#{number}" for number in answer["numbers"]))
    return 0


def attach_(client: Client, options: argparse.Namespace) -> int:
    """`attach`: the daemon only says where the stream is."""
    name, path = locate(client.call("ListDevices", vm=options.vm), options.stream)
    client.close()
    if attach(name, path):
        return 0
    complain(f"{name} has ended: somebody else is attached, or the daemon has gone")
    return GONE


def qemu_arguments(client: Client, options: argparse.Namespace) -> int:
    """`qemu-args`."""
    answer = client.call("ListFunctions", vm=options.vm)
    found = qemu.arguments(answer["functions"], options.memory)
    print(json.dumps(found) if options.json else qemu.command_line(found), flush=True)
    return 0


def explain_instruction(options: argparse.Namespace) -> int:
    """`explain`, without a daemon."""
    from mmiod.ctl import explain

    try:
        print(explain.answer(options.code, options.mode, options.set, as_json=options.json), flush=True)
    except ValueError as error:
        complain(str(error))
        return WRONG
    return 0


def new_plugin(options: argparse.Namespace) -> int:
    """`plugin new`, without a daemon."""
    from mmiod.ctl import skeleton

    try:
        for path in skeleton.create(options.name, Path(options.directory), pci=options.pci):
            print(path)
    except PluginError as error:
        complain(str(error))
        return WRONG
    return 0
