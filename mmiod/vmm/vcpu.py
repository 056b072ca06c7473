"""The vCPU's loop: run, send what stopped it as an exit, apply the completion, go on.

There is no decoder, no timer and no interrupt controller here.  An access that the
accelerator decoded goes out as it is; any other instruction that touches a device goes
out with its bytes and registers and comes back as a delta.  HLT ends when mmiod says
that an interrupt is pending; the interrupt's vector is asked for.

The CPU runs in slices, so that messages which no exit waits for (INTR, REQUEST) are
seen within a millisecond or two; an accelerator that counts nothing is woken by them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from attrs import define, evolve, field

from mmiod.errors import MmiodError
from mmiod.protocol.exit.sourced import Reply
from mmiod.protocol.exit.table import NUMBERS
from mmiod.values import (
    READ,
    AcknowledgeExit,
    Completion,
    DecodedExit,
    Direction,
    Done,
    Exit,
    Fault,
    Forward,
    HaltExit,
    NeedBytes,
    NeedMemory,
    NeedRegisters,
    NeedTranslation,
    RawExit,
    Refused,
    Retry,
    Space,
    TickExit,
    Unsupported,
    Values,
)
from mmiod.vmm.accelerator import (
    MAX_CODE,
    Accelerator,
    Halted,
    Paused,
    Stop,
    Touched,
    TripleFault,
    Unable,
    fetch,
)
from mmiod.vmm.clock import Clock
from mmiod.vmm.guest import GuestMemory
from mmiod.vmm.link import HandOver, Link

SLICE: Final = 50_000
"""Instructions between two looks at the socket."""
NUMBER: Final = 0
"""Of the only vCPU."""
_PAGE: Final = ~0xFFF


class Stuck(MmiodError):
    """The guest cannot go on; the message says where and why."""


@define
class Vcpu:
    """One vCPU of a session that is open."""

    link: Link
    memory: GuestMemory
    clock: Clock
    accelerator: Callable[[Vcpu], Accelerator]
    hand_over: HandOver | None = None
    cpu: Accelerator = field(init=False)

    @cpu.default
    def _built(self) -> Accelerator:
        return self.accelerator(self)

    def guest_ns(self) -> int:
        """Guest time."""
        return self.clock.now(self.cpu.count)

    def run(self) -> int:
        """Run until a request ends the machine; the exit code.

        Raises:
            Stuck: the guest does something that nobody here can execute.
            LinkLost: the daemon is gone for good.
            Refused: the daemon answered with an error.
        """
        while True:
            self.link.poll()
            if self._moves():
                self._move()
            while self.link.requests:
                code = self._request()
                if code is not None:
                    return code
            try:
                self._turn()
            except TripleFault as fault:
                self._say(f"triple fault, the machine is reset: {fault}")
                self._reset()
            except Unable as unable:
                raise Stuck(f"{unable} ({self._place()})") from unable

    def _turn(self) -> None:
        if self.link.interrupt and self.cpu.interruptible:
            self._interrupt()
            return
        self._arm()
        stop = self.cpu.run()
        _STOPS[type(stop)](self, stop)

    def _moves(self) -> bool:
        return self.hand_over is not None and self.link.exits >= self.hand_over.exits

    def _move(self) -> None:
        assert self.hand_over is not None
        self.link.hand_over(self.hand_over)
        self.hand_over = None

    def _arm(self) -> None:
        """Tell the CPU what is known now; also called while it runs."""
        pauses = self.link.requests or self._moves()
        limit = 0 if pauses else min(self.cpu.count + SLICE, self.clock.limit())
        self.cpu.arm(limit, interrupt=self.link.interrupt)

    def _exchange(self, exit_: Exit) -> Completion | None:
        sent_ns = self.guest_ns()
        done = self.link.exchange(exit_, sent_ns)
        if done is None:
            return None
        self.clock.completed(sent_ns, done)
        self._arm()
        assert not isinstance(done.completion, Reply), "no source's exit was sent"
        return done.completion

    # --- stops of the CPU ----------------------------------------------------------------

    def on_paused(self, _stop: Stop) -> None:
        """A slice is over, an interrupt can be taken, or a timer of the daemon is due."""
        if self.cpu.count >= self.clock.limit():
            self._exchange(TickExit(NUMBER, 0))

    def on_halted(self, _stop: Stop) -> None:
        """HLT: with interrupts off only a request ends it."""
        if self.cpu.interrupts_enabled:
            self._exchange(HaltExit(NUMBER, 0))
            return
        self._say(f"halted with interrupts off: only a reset helps ({self._place()})")
        while not self.link.requests:
            self.link.wait()

    def on_touched(self, stop: Touched) -> None:
        """A raw exit: the instruction is executed in mmiod."""
        state, code = self.cpu.state(), self.cpu.code()
        exit_ = RawExit(NUMBER, 0, state=state, code=code, gpa=stop.gpa, intent=stop.intent)
        completion = self._exchange(exit_)
        while (supplement := _SUPPLEMENTS.get(type(completion))) is not None:
            exit_ = supplement(self, exit_, completion)
            completion = self._exchange(exit_)
        if completion is not None:
            self._complete(exit_, completion)

    def _interrupt(self) -> None:
        vector = self._exchange(AcknowledgeExit(NUMBER, 0))
        assert isinstance(vector, Values), vector
        self.cpu.interrupt(vector.data[0])

    def perform(
        self, space: Space, direction: Direction, address: int, size: int, count: int, data: bytes
    ) -> bytes:
        """An access of `count` elements that the CPU decoded, called while it runs.

        Elements of a port's string all go to the port, others to ascending addresses.

        Raises:
            Stuck: the address is nobody's and its range says `forward`.
        """
        if count == 1:
            answer = self._unsent(space, direction, address, size, data)
            if answer is not None:
                return answer
        stride = 1 if count > 1 and space is Space.MMIO else 0
        exit_ = DecodedExit(NUMBER, 0, space, direction, address, size, count, stride, data)
        completion = self._exchange(exit_)
        assert completion is not None, "only a halt ends without a completion"
        if not isinstance(completion, Values):
            what = f"{direction.name} of {space.name} {address:#x}, {size} bytes"
            raise Stuck(f"{what}: {_verdict(completion)} ({self._place()})")
        return completion.data

    def _unsent(
        self, space: Space, direction: Direction, address: int, size: int, data: bytes
    ) -> bytes | None:
        """The answer to an access that needs no message, else None."""
        if direction == READ:
            return self.link.load(space, address, size)
        return b"" if self.link.store(space, address, data) else None

    # --- completions of raw exits ----------------------------------------------------------

    def _complete(self, exit_: RawExit, completion: Completion) -> None:
        if isinstance(completion, Done):
            self.cpu.apply(completion.delta)
            if completion.delta.debug:
                self.cpu.trap(completion.delta.debug)
        elif isinstance(completion, Fault):
            if completion.delta is not None:
                self.cpu.apply(completion.delta)
            self.cpu.fault(completion.vector, completion.error_code, completion.cr2)
        elif not isinstance(completion, Retry):
            raise Stuck(f"{_verdict(completion)}; instruction bytes {exit_.code.hex(' ')} ({self._place()})")

    def on_more_bytes(self, exit_: RawExit, asked: NeedBytes) -> RawExit:
        """The exit with more instruction bytes."""
        more = fetch(self.cpu, self.memory, asked.address, asked.count)
        if not more:
            raise Stuck(f"no instruction bytes at linear address {asked.address:#x}")
        return evolve(exit_, code=(exit_.code + more)[:MAX_CODE])

    def on_more_memory(self, exit_: RawExit, asked: NeedMemory) -> RawExit:
        """The exit with guest RAM."""
        data = self.memory.read(asked.gpa, asked.size)
        if len(data) < asked.size:
            raise Stuck(f"no guest RAM of {asked.size} bytes at {asked.gpa:#x}")
        return evolve(exit_, memory=[*exit_.memory, (asked.gpa, data)])

    def on_translation(self, exit_: RawExit, asked: NeedTranslation) -> RawExit:
        """The exit with a translation."""
        gpa = self.cpu.translate(asked.gva, asked.intent)
        if gpa is None:
            raise Stuck(f"linear address {asked.gva:#x} is not mapped for {asked.intent.name}")
        page = {(asked.gva & _PAGE, asked.intent): gpa & _PAGE}
        return evolve(exit_, translations=exit_.translations | page)

    def on_registers(self, exit_: RawExit, asked: NeedRegisters) -> RawExit:
        """The exit with vector registers."""
        return evolve(exit_, state=evolve(exit_.state, extended=self.cpu.vectors(asked.registers)))

    # --- requests --------------------------------------------------------------------------

    def _request(self) -> int | None:
        """Do what the daemon asks first; an exit code if that ends the run."""
        request = self.link.requests.popleft()
        kinds = NUMBERS["request_kind"]
        if request.kind == kinds["RESET"]:
            self._reset()
            return None
        if request.kind == kinds["SHUTDOWN"]:
            return 0
        if request.kind == kinds["EXIT"]:
            return request.value & 0xFF
        raise Stuck(f"the daemon requests {request.kind}, which this hypervisor does not do")

    def _reset(self) -> None:
        self.link.reset()
        self.cpu.reset()

    # --- words -----------------------------------------------------------------------------

    def _place(self) -> str:
        state = self.cpu.state()
        return f"at {state.segments[1].selector:04x}:{state.rip:08x}"

    def _say(self, words: str) -> None:
        print(f"mmiod-vmm: {words}", file=sys.stderr)


def _verdict(completion: Completion) -> str:
    if isinstance(completion, Unsupported):
        return f"mmiod does not execute this instruction (it looked at {completion.code.hex(' ')})"
    if isinstance(completion, Refused):
        return f"mmiod refuses the exit: {completion.reason.name}"
    assert isinstance(completion, Forward), completion
    return "nobody claims this address, and its range says `forward`"


_STOPS: Final[dict[type[Stop], Callable[[Vcpu, Any], None]]] = {
    Paused: Vcpu.on_paused,
    Halted: Vcpu.on_halted,
    Touched: Vcpu.on_touched,
}
_SUPPLEMENTS: Final[dict[type[Any], Callable[[Vcpu, RawExit, Any], RawExit]]] = {
    NeedBytes: Vcpu.on_more_bytes,
    NeedMemory: Vcpu.on_more_memory,
    NeedTranslation: Vcpu.on_translation,
    NeedRegisters: Vcpu.on_registers,
}
