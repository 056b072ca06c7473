"""The control socket, spoken to by raw bytes and by foreign clients."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE

import pytest
import trio
from attrs import define, field
from hypothesis import given, settings, strategies as st
from structlog.testing import capture_logs
from trio.testing import MockClock

from mmiod.control.server import MAX_CLIENTS, POLL_S, Server
from mmiod.control.varlink import MAX_FRAME
from tests.control.small_daemon import SmallDaemon, served

Reply = dict[str, object]
PATIENCE_S = 40
"""For a reply that must come; a test with a clock of its own never waits so long."""


def call(method: str, *, more: bool = False, **parameters: object) -> bytes:
    """A call's frame."""
    return json.dumps({"method": method, "parameters": parameters, "more": more}).encode() + b"\0"


@define
class Peer:
    """A client that speaks bytes."""

    stream: trio.SocketStream
    received: bytearray = field(factory=bytearray)

    async def reply(self) -> Reply | None:
        """The next reply; None at the end."""
        while b"\0" not in self.received:
            try:
                with trio.fail_after(PATIENCE_S):
                    data = await self.stream.receive_some()
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self.received += data
        frame, _, rest = self.received.partition(b"\0")
        self.received = rest
        reply: Reply = json.loads(frame)
        return reply

    async def ask(self, frame: bytes) -> Reply | None:
        """One call, one reply."""
        await self.stream.send_all(frame)
        return await self.reply()


@define
class Serving:
    """A server and the clients that the test has connected to it."""

    server: Server
    path: Path
    peers: list[Peer] = field(factory=list)

    async def connect(self) -> Peer:
        """One more client."""
        self.peers.append(Peer(await trio.open_unix_socket(self.path)))
        return self.peers[-1]

    async def until_clients(self, number: int) -> None:
        """Wait until the server has seen that clients left."""
        with trio.fail_after(PATIENCE_S):
            while len(self.server.clients) != number:  # noqa: ASYNC110  # the server tells nobody
                await trio.sleep(POLL_S)


@asynccontextmanager
async def serving(daemon: SmallDaemon, path: Path) -> AsyncIterator[Serving]:
    """Serve a daemon; close what was connected at the end."""
    async with served(daemon, path) as server:
        found = Serving(server, path)
        try:
            yield found
        finally:
            for peer in found.peers:
                await trio.aclose_forcefully(peer.stream)


async def test_info_and_description(tmp_path: Path) -> None:
    """A client finds out what there is by the service interface."""
    async with serving(SmallDaemon(), tmp_path / "control") as here:
        peer = await here.connect()

        info = await peer.ask(call("org.varlink.service.GetInfo"))
        name = "org.varlink.service.GetInterfaceDescription"
        own = await peer.ask(call(name, interface="io.mmiod"))
        service = await peer.ask(call(name, interface="org.varlink.service"))

    assert info is not None
    assert own is not None
    assert service is not None
    assert {"interfaces": ["org.varlink.service", "io.mmiod"], "product": "mmiod"}.items() <= dict(
        info["parameters"]  # type: ignore[call-overload]
    ).items()
    assert "\nmethod Watch(filter: ?string, start: ?string) -> (" in str(own["parameters"]).replace(
        "\\n", "\n"
    )
    assert "error MethodNotImplemented (method: string)" in str(service["parameters"])


@pytest.mark.parametrize(
    ("frame", "error", "parameters"),
    [
        (call("io.nobody.Do"), "org.varlink.service.InterfaceNotFound", {"interface": "io.nobody"}),
        (call("Do"), "org.varlink.service.InterfaceNotFound", {"interface": ""}),
        (call("io.mmiod.Do"), "org.varlink.service.MethodNotFound", {"method": "io.mmiod.Do"}),
        (call("io.mmiod.Watch"), "org.varlink.service.ExpectedMore", {}),
        (call("io.mmiod.GetMap", vm=3), "org.varlink.service.InvalidParameter", {"parameter": "vm"}),
        (call("io.mmiod.GetMap", wm=""), "org.varlink.service.InvalidParameter", {"parameter": "wm"}),
        (call("io.mmiod.ReadRegisters"), "org.varlink.service.InvalidParameter", {"parameter": "device"}),
        (call("io.mmiod.GetMap", vm="vm9"), "io.mmiod.UnknownVm", {"vm": "vm9", "known": ["vm0", "vm1"]}),
        (
            call("org.varlink.service.GetInterfaceDescription", interface="io.nobody"),
            "org.varlink.service.InterfaceNotFound",
            {"interface": "io.nobody"},
        ),
    ],
)
async def test_errors_by_name(
    tmp_path: Path, frame: bytes, error: str, parameters: dict[str, object]
) -> None:
    """A call that cannot be answered gets one error, and the connection goes on."""
    async with serving(SmallDaemon(), tmp_path / "control") as here:
        peer = await here.connect()

        assert {"error": error, "parameters": parameters} == await peer.ask(frame)
        again = await peer.ask(call("io.mmiod.ListExits"))

    assert {"parameters": {"exits": [], "totals": []}} == again


async def test_framing_does_not_matter(tmp_path: Path) -> None:
    """Calls in one piece, byte by byte, or several at once get the same replies in order."""
    frames = [call("io.mmiod.ListExits"), call("io.mmiod.Do"), call("io.mmiod.GetStatistics", vm="vm0")]
    async with serving(SmallDaemon(), tmp_path / "control") as here:
        whole, bytewise, together = [await here.connect() for _ in range(3)]
        expected = [await whole.ask(frame) for frame in frames]

        for byte in b"".join(frames):
            await bytewise.stream.send_all(bytes([byte]))
        await together.stream.send_all(b"".join(frames))

        assert expected == [await bytewise.reply() for _ in frames]
        assert expected == [await together.reply() for _ in frames]


async def test_oneway_gets_no_reply(tmp_path: Path) -> None:
    """After a oneway call, right or wrong, the next reply is the next call's."""
    oneway = [
        json.dumps({"method": method, "oneway": True}).encode() + b"\0"
        for method in ("io.mmiod.ListDevices", "io.mmiod.Do")
    ]
    async with serving(SmallDaemon(), tmp_path / "control") as here:
        peer = await here.connect()

        reply = await peer.ask(b"".join(oneway) + call("io.mmiod.ListExits"))

    assert {"parameters": {"exits": [], "totals": []}} == reply


async def test_watch_streams(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Replies continue for as long as there is traffic; a client that leaves frees its place."""
    del autojump_clock
    daemon = SmallDaemon()
    async with serving(daemon, tmp_path / "control") as here:
        peer = await here.connect()
        first = await peer.ask(call("io.mmiod.Watch", more=True, filter="device==uart0"))
        daemon.access("vm0", 0x3FB, 0x83)
        daemon.access("vm0", 0x500)
        second = await peer.reply()
        assert 1 == len(here.server.clients)
        await peer.stream.aclose()
        await here.until_clients(0)

    assert first is not None
    assert second is not None
    assert first["continues"] is second["continues"] is True
    accesses = dict(second["parameters"])["accesses"]  # type: ignore[call-overload]
    assert [("lcr", 0x83)] == [(found["register"], found["value"]) for found in accesses]


async def test_slow_reader_loses_with_a_count(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A watcher that does not read holds nobody up; afterwards it knows exactly what it missed."""
    del autojump_clock
    daemon = SmallDaemon()
    async with serving(daemon, tmp_path / "control") as here:
        slow, other = [await here.connect() for _ in range(2)]
        await slow.stream.send_all(call("io.mmiod.Watch", more=True))
        await trio.sleep(2 * POLL_S)
        for _ in range(20):
            for _ in range(500):
                daemon.access("vm0", 0x3FD)
            await trio.sleep(2 * POLL_S)
        assert await other.ask(call("io.mmiod.ListExits")) is not None

        seen = dropped = 0
        while seen + dropped < 20 * 500:
            reply = await slow.reply()
            assert reply is not None
            parameters = dict(reply["parameters"])  # type: ignore[call-overload]
            seen += len(parameters["accesses"])
            dropped += parameters["dropped"]

    assert 20 * 500 == seen + dropped
    assert dropped > 0


async def test_clients_are_bounded(tmp_path: Path) -> None:
    """One client too many gets an error that says so, the others stay, and a free place is given again."""
    async with serving(SmallDaemon(), tmp_path / "control") as here:
        peers = [await here.connect() for _ in range(MAX_CLIENTS)]
        for peer in peers:
            await peer.ask(call("io.mmiod.ListExits"))

        with capture_logs() as events:
            late = await here.connect()
            refusal = await late.reply()
        assert await late.reply() is None
        assert await peers[0].ask(call("io.mmiod.ListExits")) is not None
        await peers[0].stream.aclose()
        await here.until_clients(MAX_CLIENTS - 1)
        again = await here.connect()
        answer = await again.ask(call("io.mmiod.ListExits"))

    assert {"error": "io.mmiod.TooManyClients", "parameters": {"limit": MAX_CLIENTS}} == refusal
    assert [("control_client_refused", MAX_CLIENTS)] == [(event["event"], event["limit"]) for event in events]
    assert answer is not None
    assert "parameters" in answer


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n\0", "a call is a JSON object: "),
        (b"x" * (MAX_FRAME + 1), f"more than {MAX_FRAME} bytes of calls are waiting"),
    ],
)
async def test_what_is_no_call_ends_that_connection(tmp_path: Path, sent: bytes, reason: str) -> None:
    """Garbage, or a call without end, costs its sender the connection and is logged."""
    async with serving(SmallDaemon(), tmp_path / "control") as here:
        bad, good = [await here.connect() for _ in range(2)]
        with capture_logs() as events:
            assert await bad.ask(sent) is None
        assert await good.ask(call("io.mmiod.ListExits")) is not None

    assert ["control_call_refused"] == [event["event"] for event in events]
    assert events[0]["reason"].startswith(reason)


METHODS = ["io.mmiod.ListDevices", "io.mmiod.GetMap", "io.mmiod.ReadRegisters", "io.mmiod.Watch", "x", ""]
VALUES = st.none() | st.booleans() | st.integers() | st.sampled_from(["vm0", "uart0", "oldest", "size==1"])
CALLS = st.fixed_dictionaries(
    {"method": st.sampled_from(METHODS)},
    optional={
        "parameters": st.dictionaries(
            st.sampled_from(["vm", "device", "filter", "start", "pattern"]), VALUES
        ),
        "more": st.booleans() | st.just(1),
        "oneway": st.booleans(),
    },
).map(lambda value: json.dumps(value).encode() + b"\0")


@settings(max_examples=60)
@given(st.lists(CALLS | st.binary(max_size=20), max_size=6))
def test_garbage_disturbs_nobody(tmp_path_factory: pytest.TempPathFactory, frames: Iterable[bytes]) -> None:
    """Whatever a client sends and however it leaves, the next one is served and no place is lost."""

    async def scenario() -> None:
        async with serving(SmallDaemon(), path) as here:
            bad = await here.connect()
            with capture_logs():
                with contextlib.suppress(trio.BrokenResourceError):  # it was thrown out already
                    await bad.stream.send_all(b"".join(frames))
                await bad.stream.aclose()
                good = await here.connect()
                answer = await good.ask(call("io.mmiod.ListExits"))
                await here.until_clients(1)
        assert {"parameters": {"exits": [], "totals": []}} == answer

    path = tmp_path_factory.mktemp("garbage") / "control"
    trio.run(scenario, clock=MockClock(autojump_threshold=0))


# --- foreign clients -----------------------------------------------------------------------


async def run(*command: str) -> tuple[int, str, str]:
    """Run a Python program; its status, output and errors."""
    done = await trio.run_process(
        [sys.executable, *command], capture_stdout=True, capture_stderr=True, check=False
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_varlink_cli_agrees(tmp_path: Path) -> None:
    """The reference client of varlink.org reads our definition, calls, and shows our errors."""
    daemon = SmallDaemon()
    daemon.access("vm0", 0x3FB, 0x83)
    address = f"unix:{tmp_path}/control"
    cli = ("-W", "ignore", "-m", "varlink.cli")
    async with serving(daemon, tmp_path / "control"):
        _, info, _ = await run(*cli, "info", address)
        _, text, _ = await run(*cli, "help", f"{address}/io.mmiod")
        _, answer, _ = await run(
            *cli,
            "call",
            f"{address}/io.mmiod.ReadRegisters",
            '{"device": "uart0", "vm": "vm0", "pattern": "lcr"}',
        )
        _, _, error = await run(*cli, "call", f"{address}/io.mmiod.GetMap", '{"vm": "vm9"}')

    assert "Product: mmiod" in info
    assert "  io.mmiod" in info
    assert "method ReadRegisters(" in text
    (register,) = json.loads(answer)["registers"]
    assert {"WLS": 3, "STB": 0, "DLAB": 1} == register["fields"]
    assert "io.mmiod.UnknownVm" in error


async def test_varlink_cli_watches(tmp_path: Path) -> None:
    """The reference client follows our stream."""
    daemon = SmallDaemon()
    daemon.access("vm0", 0x3FB, 0x83)
    command = [sys.executable, "-W", "ignore", "-u", "-m", "varlink.cli", "call", "-m"]
    target = [f"unix:{tmp_path}/control/io.mmiod.Watch", '{"start": "oldest"}']
    async with serving(daemon, tmp_path / "control"), trio.open_nursery() as nursery:
        start = partial(trio.run_process, stdout=PIPE, stderr=PIPE, check=False)
        process = await nursery.start(start, [*command, *target])
        text = ""
        while '"WLS": 3' not in text:
            data = await process.stdout.receive_some()
            assert data, "the client ended"
            text += data.decode()
        process.terminate()

    assert "every access that reaches mmiod" in text


ASYNC_CLIENT = """
import asyncio, json, sys
from asyncvarlink import VarlinkClientProtocol, VarlinkMethodCall, connect_unix_varlink
from asyncvarlink.serviceerrors import InterfaceNotFound
from asyncvarlink.serviceinterface import VarlinkServiceInterface

async def main(path):
    transport, protocol = await connect_unix_varlink(VarlinkClientProtocol, path)
    service = protocol.make_proxy(VarlinkServiceInterface)
    print(json.dumps((await service.GetInfo())["interfaces"]))
    try:
        await service.GetInterfaceDescription(interface="io.nobody")
    except InterfaceNotFound as error:
        print(json.dumps(error.paramstojson()["interface"]))
    call = VarlinkMethodCall("io.mmiod.Watch", {"start": "oldest"}, more=True)
    replies = protocol.call_more(call)
    for _ in range(2):
        reply, _ = await anext(replies)
        print(json.dumps(reply.parameters))
    await replies.aclose()
    transport.close()

asyncio.run(main(sys.argv[1]))
"""


async def test_asyncvarlink_agrees(tmp_path: Path) -> None:
    """An independent client library talks to our service interface and follows our stream."""
    daemon = SmallDaemon()
    daemon.access("vm0", 0x3FB, 0x83)
    async with serving(daemon, tmp_path / "control"):
        status, output, error = await run("-c", ASYNC_CLIENT, str(tmp_path / "control"))

    assert status == 0, error
    interfaces, missing, first, second = [json.loads(line) for line in output.splitlines()]
    assert ["org.varlink.service", "io.mmiod"] == interfaces
    assert "io.nobody" == missing
    assert "every access that reaches mmiod" == first["covers"]
    assert [0x83] == [access["value"] for access in second["accesses"]]
