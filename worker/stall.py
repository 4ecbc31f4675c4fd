"""A stall: one call holds up the event loop, and with it all that its worker runs.

An `async def` that computes, or that waits without an `await`, lets nothing else come to its turn: no other
job, no timeout, no cancel. The worker's heartbeat has a thread of its own, so the worker looks alive; that
thread says what it waits for.
"""

import asyncio
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from rowcast.tasks.python_path import INSTALLED, is_own

HELD = 10.0  # seconds without a turn after which it is said
HERE = Path(__file__).parent


class Stall:
    """Of one loop; asked from another thread, again and again."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self.loop = loop
        self.thread = 0
        self.asked_at = time.monotonic()  # since when a turn is waited for; 0: for none
        loop.call_soon_threadsafe(self._turn)

    def _turn(self) -> None:
        self.thread = threading.get_ident()
        self.asked_at = 0.0

    def look(self) -> str:
        """What holds up the loop, in a sentence; '' while it comes round."""
        if not self.asked_at:
            self.asked_at = time.monotonic()
            self.loop.call_soon_threadsafe(self._turn)
            return ""
        held = time.monotonic() - self.asked_at
        frame = sys._current_frames().get(self.thread)
        if held < HELD or frame is None:
            return ""
        where = place_in(frame)
        return (
            f"Jobs wait: {where} has held up the worker for {held:.0f} s. Await what takes long, or make it a"
            " plain def; restart Rowcast to end this call."
        )


def place_in(frame: FrameType) -> str:
    """Where somebody's code is, the innermost of it: what that calls of Python, of ours, of a package is
    not.
    """
    inner = frame
    walk: FrameType | None = frame
    while walk is not None:
        if is_theirs(Path(walk.f_code.co_filename)):
            inner = walk
            break
        walk = walk.f_back
    code = inner.f_code
    return f"{code.co_name} ({Path(code.co_filename).name}, line {inner.f_lineno})"


def is_theirs(file: Path) -> bool:
    """Whether a file is neither Python's, nor installed, nor ours."""
    foreign = is_own(file) or file.parent == HERE or set(INSTALLED) & set(file.parts)
    return file.suffix == ".py" and not foreign
