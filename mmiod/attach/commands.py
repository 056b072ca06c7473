"""What a client's messages do to its function, each in turn."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Final, cast

from attrs import define, field

from mmiod.attach.accesses import Accesses
from mmiod.attach.dma import DmaMaps
from mmiod.attach.dma_messages import DmaMessages
from mmiod.attach.interrupts import Interrupts
from mmiod.attach.migration import Migration
from mmiod.attach.waits import Flight, Visit, Waits
from mmiod.errors import ProtocolError
from mmiod.protocol.vfio_user import (
    MSIX,
    Answer,
    Complaint,
    Event,
    GetState,
    MapMemory,
    Read,
    ReadState,
    ReportLog,
    Reset,
    SetIrqs,
    SetState,
    ShareRegion,
    StartLog,
    StopLog,
    UnmapMemory,
    Write,
    WriteState,
    read_reply,
)
from mmiod.protocol.vfio_user.requests import refused


@define(eq=False)
class Commands:
    """Those of one function."""

    accesses: Accesses
    maps: DmaMaps
    interrupts: Interrupts
    waits: Waits
    complain: Callable[[str, ProtocolError], None]
    """Tells people of a message that was refused."""
    messages: DmaMessages | None = None
    """To a client that takes them."""
    migration: Migration = field(init=False)

    def __attrs_post_init__(self) -> None:
        """The function can be migrated."""
        self.migration = Migration(self.accesses, self.maps.memory, self._drop_messages, self._mask_vectors)

    def _drop_messages(self) -> None:
        if self.messages is not None:
            self.messages.forget()

    def do(self, visit: Visit, event: Event) -> None:
        """Do one message; it is answered, or `visit` has its flight."""
        _HANDLERS[type(event)](self, visit, event)

    def _on_complaint(self, _visit: Visit, complaint: Complaint) -> None:
        self.complain(complaint.request.name, complaint.error)

    def _on_map(self, visit: Visit, asked: MapMemory) -> None:
        try:
            self.maps.map(asked)
        except ProtocolError as error:
            self.complain(asked.request.name, error)
            visit.session.fail(asked.request, error.code)
        else:
            visit.session.answer(asked.request)

    def _on_unmap(self, visit: Visit, asked: UnmapMemory) -> None:
        try:
            self.maps.unmap(asked)
        except ProtocolError as error:  # no error goes back: rust-vmm would wait for the rest of a reply
            self.complain(asked.request.name, error)
        visit.session.answer(asked.request, asked.echo)

    def _on_answer(self, _visit: Visit, answer: Answer) -> None:
        if self.messages is not None:
            self.messages.answered(answer)

    def _on_set_irqs(self, visit: Visit, asked: SetIrqs) -> None:
        self.interrupts.set(asked)
        if asked.index == MSIX:
            self._mask_vectors()
        visit.session.answer(asked.request)

    def _on_share(self, visit: Visit, asked: ShareRegion) -> None:
        """The descriptor goes with the first byte of its reply, which so begins a `sendmsg`."""
        session, stream = visit.session, visit.stream
        stream.send(session.outgoing)
        session.outgoing.clear()
        session.answer(asked.request, asked.reply)
        stream.send(session.outgoing, self.accesses.descriptor_of(asked.region))
        session.outgoing.clear()

    def _on_reset(self, visit: Visit, asked: Reset) -> None:
        self.migration.drop()
        self.accesses.reset()
        self._mask_vectors()
        visit.session.answer(asked.request)

    def _mask_vectors(self) -> None:
        assigned = {number for index, number in self.interrupts.eventfds if index == MSIX}
        self.accesses.mask_vectors(assigned)

    def _on_read(self, visit: Visit, asked: Read) -> None:
        nothing = read_reply(asked.region, asked.offset, b"\xff" * asked.size)
        self.waits.start(visit, Flight(asked.request, self.accesses.read(asked), nothing))

    def _on_write(self, visit: Visit, asked: Write) -> None:
        writing = self.accesses.write(self.migration.allowed(asked))
        self.waits.start(visit, Flight(asked.request, writing, asked.reply))

    def _on_state(self, visit: Visit, asked: SetState) -> None:
        late = refused("device_state.state", asked.state, "backends still work for it", errno.EBUSY)
        self.waits.start(visit, Flight(asked.request, self.migration.change(asked), late))

    def _on_feature(self, visit: Visit, asked: Feature) -> None:
        try:
            reply = _ANSWERS[type(asked)](self.migration, asked)
        except ProtocolError as error:
            self.complain(asked.request.name, error)
            visit.session.fail(asked.request, error.code)
        else:
            visit.session.answer(asked.request, reply)


Feature = GetState | ReadState | WriteState | StartLog | StopLog | ReportLog
_ANSWERS: Final = cast(
    "dict[type[Feature], Callable[[Migration, Feature], bytes]]",
    {
        GetState: Migration.get,
        ReadState: Migration.read,
        WriteState: Migration.write,
        StartLog: Migration.start_log,
        StopLog: Migration.stop_log,
        ReportLog: Migration.report_log,
    },
)


Handler = Callable[[Commands, Visit, Any], None]
_HANDLERS: Final = cast(
    "dict[type[Event], Handler]",
    {
        Complaint: Commands._on_complaint,  # noqa: SLF001
        MapMemory: Commands._on_map,  # noqa: SLF001
        UnmapMemory: Commands._on_unmap,  # noqa: SLF001
        Answer: Commands._on_answer,  # noqa: SLF001
        SetIrqs: Commands._on_set_irqs,  # noqa: SLF001
        Reset: Commands._on_reset,  # noqa: SLF001
        ShareRegion: Commands._on_share,  # noqa: SLF001
        Read: Commands._on_read,  # noqa: SLF001
        Write: Commands._on_write,  # noqa: SLF001
        SetState: Commands._on_state,  # noqa: SLF001
    }
    | dict.fromkeys(_ANSWERS, Commands._on_feature),  # noqa: SLF001
)
