"""When a connection looks for the next message at once, without waiting to hear that it is there.

That pays with a client on our CPU, which runs as soon as it is answered.  With one that has a CPU of its
own the next message comes later, and each look is in vain.
"""

from __future__ import annotations

from typing import Final

IN_A_ROW: Final = 8
"""Messages that are taken before others have their turn, while each is there at once."""
MAX_PAUSE: Final = 63
"""Messages until it is looked for another one at once again: a look in vain takes 1 to 2 us."""


def pause(done: int, vain: int) -> int:
    """Messages that are taken one at a time from now on.

    Args:
        done: messages of this turn; 1 if the look behind it was in vain.
        vain: the last pause, if that was in vain again.
    """
    return 0 if done > 1 else min(2 * vain + 1, MAX_PAUSE)
