"""What a controller has while it is enabled: its queues, and who waits for what.

Numbers in comments are sections of NVM Express 1.4.
"""

from __future__ import annotations

import enum

from attrs import define, field

from mmiod.device.nvme.entries import Refused, Status, completion
from mmiod.device.nvme.queues import Command, CompletionQueue, SubmissionQueue


class Event(enum.IntEnum):
    """What an asynchronous event request may tell (5.2): type, information and log page."""

    INVALID_DOORBELL_REGISTER = 0x01_0000
    INVALID_DOORBELL_VALUE = 0x01_0100


@define
class Session:
    """All that disabling the controller takes away (7.3.2), but for registers."""

    submissions: list[SubmissionQueue] = field(factory=list)
    completions: list[CompletionQueue] = field(factory=list)
    flight: list[Command] = field(factory=list)
    """Commands that wait for the image."""
    done: list[Command] = field(factory=list)
    """Commands that wait for their completion to be posted."""
    held: list[Command] = field(factory=list)
    """Asynchronous event requests: one at most (5.2)."""
    event: int | None = None
    masked: bool = False
    """Error events are, from one's completion until the host reads their log."""
    served: int = 0
    """Which submission queue had its turn."""
    features: dict[str, int] = field(factory=dict)
    """What the host has set, by feature."""

    def submission(self, number: int) -> SubmissionQueue | None:
        """The queue of a number."""
        return next((queue for queue in self.submissions if queue.number == number), None)

    def completion(self, number: int) -> CompletionQueue | None:
        """The queue of a number."""
        return next((queue for queue in self.completions if queue.number == number), None)

    def ring(self, doorbell: int, value: int) -> None:
        """A doorbell was written: even ones are tails, odd ones heads (3.1.25)."""
        number, of_completions = divmod(doorbell, 2)
        queue = self.completion(number) if of_completions else self.submission(number)
        if queue is None:
            self.tell(Event.INVALID_DOORBELL_REGISTER)
        elif value >= queue.size:
            self.tell(Event.INVALID_DOORBELL_VALUE)
        else:
            queue.ring(value)

    def turn(self, most: int) -> SubmissionQueue | None:
        """The queue whose entry is next, round robin (4.13.1), if the completion will have room.

        While `most` commands are under way it can only be the admin queue: that asks nothing of
        the image.
        """
        full = len(self.flight) + len(self.done) >= most
        count = len(self.submissions)
        for index in range(self.served + 1, self.served + 1 + count):
            queue = self.submissions[index % count]
            if queue.head != queue.tail and self._has_room(queue.completions) and not (full and queue.number):
                self.served = index % count
                return queue
        return None

    def _has_room(self, number: int) -> bool:
        queue = self.completion(number)
        return queue is not None and queue.room > queue.due

    # --- a command's way

    def accept(self, command: Command) -> None:
        """Its completion has a place from now on."""
        queue = self.completion(command.completions)
        if queue is not None:
            queue.due += 1

    def answered(self, number: int) -> Command | None:
        """The command that a request was made for is not in flight any more; None if it was abandoned."""
        for command in self.flight:
            if command.request == number:
                self.flight.remove(command)
                return command
        return None

    def postable(self) -> tuple[Command, CompletionQueue] | None:
        """A command that is done and whose completion has room."""
        for command in self.done:
            queue = self.completion(command.completions)
            if queue is not None and queue.room:
                return command, queue
        return None

    def entry(self, command: Command, queue: CompletionQueue) -> bytes:
        """The command's completion."""
        submissions = self.submission(command.submissions)
        head = submissions.head if submissions else 0
        return completion(
            command.result, (head, command.submissions), command.identifier, command.status, queue.phase
        )

    def post(self, command: Command, queue: CompletionQueue) -> None:
        """The command's completion was written."""
        self.done.remove(command)
        queue.advance()

    def delete_submission(self, queue: SubmissionQueue) -> list[int]:
        """Its commands end now (7.4.3); numbers of requests whose answer nobody awaits any more."""
        ended = [command for command in self.flight if command.submissions == queue.number]
        for command in ended:
            self.flight.remove(command)
            command.status = Status.ABORTED_BY_QUEUE_DELETION
        self.done += ended
        self.submissions.remove(queue)
        return [command.request for command in ended]

    def delete_completion(self, queue: CompletionQueue) -> None:
        """What has not been posted there never is."""
        self.done = [command for command in self.done if command.completions != queue.number]
        self.completions.remove(queue)

    # --- asynchronous events (5.2)

    def hold(self, command: Command) -> None:
        """Keep a request for the next event.

        Raises:
            Refused: there is one already.
        """
        if self.held:
            raise Refused(Status.EVENT_REQUEST_LIMIT_EXCEEDED)
        self.held.append(command)
        self._deliver()

    def tell(self, event: Event) -> None:
        """Something happened; of several the first one is kept."""
        if self.event is None and not self.masked:
            self.event = int(event)
            self._deliver()

    def unmask(self) -> None:
        """The host has read the log."""
        self.masked = False

    def _deliver(self) -> None:
        if self.held and self.event is not None:
            command = self.held.pop()
            command.result, self.event, self.masked = self.event, None, True
            self.accept(command)
            self.done.append(command)
