"""Wake-ups that are lost between Python and a peer in C, with and without the barrier.

python -m tests.attach.litmus [ROUNDS]
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mmiod.barrier import barrier

SOURCE = Path(__file__).with_name("litmus.c")
CELLS = 2048
WORDS = 8
"""Of a cell: it fills a cache line."""
DONE = 2 * CELLS * WORDS
SAW = 8 * (DONE + WORDS)
AHEAD = CELLS // 4
"""Rounds that Python may be ahead: a cell must not be used again too soon."""
TRIES = 20
"""Of the run without the barrier."""
LOOKS = 500
"""Before the other side is given the CPU, should both have one: other programs may be busy."""


def compiled(directory: Path) -> Path:
    """The peer."""
    program = directory / "litmus"
    subprocess.run(
        ["gcc", "-std=c11", "-O1", "-Wall", "-Werror", str(SOURCE), "-o", str(program)], check=True
    )
    return program


def lost(program: Path, directory: Path, rounds: int, *, barrier: bool) -> int:
    """In how many of `rounds` both sides missed each other."""
    path = directory / f"memory-{barrier}"
    with path.open("w+b") as file:
        file.truncate(SAW + rounds)
        memory = mmap.mmap(file.fileno(), SAW + rounds)
    with subprocess.Popen([str(program), str(path), str(rounds)]) as peer:
        play = _with_barrier if barrier else _without_barrier
        words = memoryview(memory).cast("Q")
        while not words[DONE]:
            assert peer.poll() is None
        mine = play(memory, words, rounds)
        assert peer.wait() == 0
    path.unlink()
    return sum(not (one or other) for one, other in zip(mine[1:], memory[SAW + 1 :], strict=True))


def _with_barrier(memory: mmap.mmap, words: memoryview, rounds: int) -> bytearray:
    """Store, barrier, load: as the slots do it."""
    mine, done = bytearray(rounds), 0
    for number in range(1, rounds):
        cell = number % CELLS * WORDS
        theirs, last = 8 * (CELLS * WORDS + cell), number & 0xFF
        words[cell] = number
        barrier()
        mine[number] = memory[theirs] == last
        looks = 0
        while done < number - AHEAD:
            done, looks = words[DONE], looks + 1
            if not looks % LOOKS:
                os.sched_yield()
    return mine


def _without_barrier(memory: mmap.mmap, words: memoryview, rounds: int) -> bytearray:
    """The same, but for the barrier."""
    mine, done = bytearray(rounds), 0
    for number in range(1, rounds):
        cell = number % CELLS * WORDS
        theirs, last = 8 * (CELLS * WORDS + cell), number & 0xFF
        words[cell] = number
        mine[number] = memory[theirs] == last
        looks = 0
        while done < number - AHEAD:
            done, looks = words[DONE], looks + 1
            if not looks % LOOKS:
                os.sched_yield()
    return mine


def main(rounds: int) -> int:
    """0 if none was lost with the barrier, and some without: in a while, as the host may have its reasons."""
    with tempfile.TemporaryDirectory() as place:
        program = compiled(Path(place))

        def told(*, barrier: bool) -> int:
            missed = lost(program, Path(place), rounds, barrier=barrier)
            how = "with" if barrier else "without"
            sys.stdout.write(f"{how} the barrier: {missed} of {rounds} lost\n")
            return missed

        some = any(told(barrier=False) for _ in range(TRIES))
        return int(told(barrier=True) > 0 or not some)


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000))
