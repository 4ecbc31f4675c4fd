"""A stall: one call holds up the event loop, and with it all that its worker runs.

An `async def` that computes, or that waits without an `await`, lets nothing else come to its turn: no other
job, no timeout, no cancel. The worker's heartbeat has a thread of its own, so the worker looks alive; that
thread says what it waits for. A second one names the task after a second, and notes it on its job: the frames
of ours on the loop's thread say whose try it is in.
"""

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from rowcast.tasks.held import stall_sentence
from rowcast.tasks.installed import INSTALLED, is_own
from rowcast.tasks.records import Job
from rowcast.tasks.text import printable
from rowcast.tasks.trouble import Trouble
from rowcast.worker.attempt import attempt
from rowcast.worker.reporter import Try

HELD = 10.0  # seconds without a turn after which it is said
HERE = Path(__file__).parent
log = logging.getLogger("rowcast")
BEAT = 0.1  # seconds between two words of the loop
STALLED = 1.0  # seconds without one after which a task is named
LOOKS = 5  # in a row that have to see the same try: a machine that has no time for us accuses nobody
Note = Callable[[int, float, str], None]  # what is told of a stall: the job, for how long, where


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


class StallWatch:
    """Watches one event loop, in which it is made. `note` is called in the watching thread, perhaps more than
    once for a stall, with the seconds that it has lasted so far."""

    def __init__(self, note: Note):
        self.note = note
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.native = threading.get_native_id()
        self.heard = time.monotonic()
        self.ended = threading.Event()
        self.loop.call_soon(self._beat)
        threading.Thread(target=self._watch, name="stall", daemon=True).start()

    def end(self) -> None:
        self.ended.set()

    def _beat(self) -> None:
        self.heard = time.monotonic()
        if not self.ended.is_set():
            self.loop.call_later(BEAT, self._beat)

    def _watch(self) -> None:
        trouble = Trouble("The watch for tasks that block")
        while not self.ended.wait(BEAT):
            try:
                if time.monotonic() > self.heard + 2 * BEAT:
                    self._follow()
                trouble.over()
            except Exception as error:
                trouble.meet(error)

    def _follow(self) -> None:
        """The loop is late: look whose try it is in, until it turns again.

        In one turn it may be in one try after the other: each is named for what is its own.
        """
        since = began = self.heard
        waited = self._waited()
        last: Culprit | None = None
        looks = 0
        told = 0.0
        while self.heard == since and not self.ended.wait(BEAT):
            found = culprit(sys._current_frames().get(self.thread))
            if found and last and found.attempt is not last.attempt:
                now = time.monotonic()
                if told:
                    self._tell(last, now - began, aloud=True)
                began = now
                waited = self._waited()
                looks = 0
                told = 0.0
            last = found or last
            looks = looks + 1 if found else 0
            late = time.monotonic() - began
            has_time = self._waited() - waited < late / 2
            if found and has_time and looks >= LOOKS and late >= told + STALLED:
                self._tell(found, late, aloud=not told)
                told = late
        if told and last:
            self._tell(last, self.heard - began, aloud=True)

    def _waited(self) -> float:
        """Seconds that the loop's thread has waited for a processor, as Linux counts them (schedstat): where
        the machine has no time for it, no task is to blame. 0 where nobody knows."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(Path(f"/proc/self/task/{self.native}/schedstat").read_text().split()[1]) / 1e9
        return 0.0

    def _tell(self, found: "Culprit", seconds: float, aloud: bool) -> None:
        if aloud:
            said = printable(stall_sentence(found.task, seconds, found.place))
            log.warning("job %s: %s", found.job.id, said)
        self.note(found.job.id, seconds, found.place)


class Culprit(NamedTuple):
    """Whose try holds up the loop, and where in its code it is."""

    attempt: object  # the same for all of a try
    job: Job
    task: str
    place: str


def culprit(frame: FrameType | None) -> Culprit | None:
    """Whose try a thread is in by its innermost frame; None where it is in none, or in a plain function's."""
    inner = frame
    while frame is not None and inner is not None:
        known = frame.f_locals
        if frame.f_code is attempt.__code__:
            return Culprit(known.get("noted"), known["job"], known["task"].name, place_in(inner))
        if frame.f_code is Try.call.__code__:
            run = known["self"].run
            return Culprit(known["self"], run.job, run.task.name, place_in(inner))
        frame = frame.f_back
    return None
