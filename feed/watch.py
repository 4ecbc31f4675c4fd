"""The feed: who waits for changes, and what they are sent, drawn once for all of them.

One watcher per process reads the counter `seq` (a few microseconds) and wakes the streams that wait. A stream
holds a cursor and nothing else: it asks the table for the rows whose seq is greater, so a client that slept,
was cut off or is slow gets each row once, in its latest state. What is drawn for one viewer at a cursor, a
Frame, is kept for the next one at the same cursor. How frames get on the wire is in sse.py.
"""

import asyncio
import time
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeVar

from rowcast.jobs import Jobs, Known, lasting
from rowcast.tasks.accounts import Who, account
from rowcast.tasks.languages import language
from rowcast.tasks.records import Changes, encode
from rowcast.tasks.trouble import Trouble

LOOK_EVERY = 0.05  # seconds between two looks at the counter
FRAME_EVERY = 0.1  # seconds between two frames of a stream: at most ten a second
EARLY = 0.045  # seconds by which a frame may come before it is due; the next one is due as much later,
LATER = FRAME_EVERY / 2  # and one that came late is not waited for again: the next may come after this
LOOK_OFTEN = 0.005  # seconds between two looks while changes come
ROWS_AT_ONCE = 500  # rows asked of the table at once,
MOST_AT_ONCE = 5000  # and at most where it is asked for many streams
LATE = 5.0  # seconds after which a counter that was not read is told of
LONG = 60.0  # seconds that a page is open at most before its stream is
FRAMES_KEPT = 128  # frames kept for other viewers
CURSORS_KEPT = 16  # of streams that have come so far
RETRY_MS = 1000
# Proxies and browsers that hold back the first bytes let go after two kilobytes.
OPENING = f"retry: {RETRY_MS}\r\n: {' ' * 2048}\r\n\r\n".encode()
DONE = "done"
NOWHERE = -1  # a cursor of a page of which nothing may be left: what it shows is sent anew
SHUTDOWN = b"event: shutdown\r\ndata: {}\r\n\r\n"
TEXT_END = b"}\r\n\r\n"  # of a message whose text is its last part
T = TypeVar("T")


class Frame:
    """Bytes that many viewers are sent. What they need besides, each of them as it is wanted, is also made
    once."""

    def __init__(self, plain: bytes):
        self.plain = plain

    @cached_property
    def text(self) -> "Frame":
        """The frame as a JSON string that ends a message: the last of its parts."""
        return Frame(encode(self.plain.decode()) + TEXT_END)

    @cached_property
    def messages(self) -> list[str]:
        """The frame's events, each as a message of a WebSocket."""
        return messages_in(self.plain)

    @cached_property
    def packed(self) -> bytes:
        """The frame as deflate's blocks, which refer to nothing before them: so they fit into any stream."""
        packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        return packer.compress(self.plain) + packer.flush(zlib.Z_FULL_FLUSH)

    @cached_property
    def adler(self) -> int:
        return zlib.adler32(self.plain)


Piece = bytes | Frame  # of what is sent: bytes of one viewer's own, or a frame


class Reader(Protocol):
    """What a stream sends: `next` is what is new, () for nothing; `ended` once nothing more will come."""

    @property
    def cursor(self) -> int: ...

    @property
    def ended(self) -> bool: ...

    def next(self) -> Sequence[Piece]: ...

    def patience(self) -> float | None:
        """Seconds after which `next` is worth asking although nothing has changed; None for never."""

    def farewell(self, last: bytes = SHUTDOWN) -> Sequence[Piece]:
        """What is sent last: that the server goes down, or another event."""


class Feed:
    """This process's watcher over one database, and the frames it has drawn."""

    def __init__(self, jobs: Jobs, trouble: Callable[[], str] = lambda: ""):
        self.jobs = jobs
        self.trouble = trouble  # what keeps the dashboard from working now; '' for nothing
        self.seq = 0
        self.closing = False
        self.streams: Counter[str] = Counter()  # open streams of each viewer, by address
        self.looked_at = -LATE
        self.troubled_at = -LONG
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []  # until when at most, and who
        self._frames: OrderedDict[Any, Any] = OrderedDict()
        self._moves: dict[int, tuple[Any, Any, Sequence[Piece]]] = {}  # of this moment, from and to where
        self._ends: dict[Any, Any] = {}  # where they lead, each once
        self._known: tuple[tuple[int, int], Known] = ((0, 0), {})
        self._standing: dict[int, set[int]] = {}  # by cursor, the jobs whose streams have come so far
        self._changes: tuple[tuple[int, int], dict[int, Changes]] = ((0, 0), {})

    async def watch(self) -> None:
        """Read the counter, and wake whoever waits when it has moved, at most ten times a second, all at
        once.

        That all wake at the same moments is what lets them share what is drawn. A frame may come somewhat
        early, and while changes come the counter is read often, so that what is sent is what was committed
        just now.
        """
        trouble = Trouble("The look for changes")
        due = time.monotonic()
        while True:
            now = time.monotonic()
            try:
                seen = self.jobs.seq()
                self.looked_at = now
                if seen != self.seq and now >= due - EARLY:
                    due = max(due + FRAME_EVERY, now + LATER + EARLY)
                    self._moved(seen)
                trouble.over()
            except Exception as error:
                trouble.meet(error)
            if self.trouble():
                self.troubled_at = now
            self._wake(now)
            quiet = now > due + FRAME_EVERY
            await asyncio.sleep(LOOK_EVERY if quiet else max(LOOK_OFTEN, min(due - EARLY - now, LOOK_EVERY)))

    @property
    def was_troubled(self) -> bool:
        """Whether a page that was drawn lately may say what is no longer so."""
        return time.monotonic() < self.troubled_at + LONG

    @property
    def looks(self) -> bool:
        """Whether the counter is read."""
        return time.monotonic() < self.looked_at + LATE

    def look(self) -> None:
        """Read the counter, and wake whoever waits if it has moved."""
        if (seq := self.jobs.seq()) != self.seq:
            self._moved(seq)

    def _moved(self, seq: int) -> None:
        self.seq = seq
        self._wake()

    def close(self) -> None:
        """The server is going down: every stream says so and ends."""
        self.closing = True
        self._wake()

    def _wake(self, due: float = float("inf")) -> None:
        """Wake those who wait no longer than until `due`: another moment begins."""
        self._moves.clear()
        self._ends.clear()
        waiting = self._waiting
        self._waiting = []
        for until, waiter in waiting:
            if until > due and not waiter.done():
                self._waiting.append((until, waiter))
            elif not waiter.done():
                waiter.set_result(None)

    async def changed(self, cursor: int, until: float = float("inf")) -> bool:
        """Return once something newer than `cursor` is in the table, it is `until`, or the server goes down;
        whether that had to be waited for.

        One list of who waits, looked through with each look at the counter, costs less than a timer for each
        of them.
        """
        waited = False
        while self.seq <= cursor and not self.closing and time.monotonic() < until:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append((until, waiter))
            await waiter
            waited = True
        return waited

    def drawn(self, key: Any, draw: Callable[[], T]) -> T:
        """What `draw` makes for `key`, made once and kept for the viewers who come to the same place."""
        key = (language(), key)
        found = self._frames.get(key)
        if found is None:
            found = draw()
            self._frames[key] = found
            if len(self._frames) > FRAMES_KEPT:
                self._frames.popitem(last=False)
        return found

    def go_on(self, at: T, take: Callable[[T], tuple[T, Sequence[Piece]]]) -> tuple[T, Sequence[Piece]]:
        """What comes next for who is at this place, and where that leads: taken once in a moment for all who
        are there, who have the same thing in their hands. Those who come to the same place meet there."""
        found = self._moves.get(id(at))
        if found is None:
            to, sent = take(at)
            found = self._moves[id(at)] = (at, self._ends.setdefault(to, to), sent)
        return found[1], found[2]

    def known(self, seq: int) -> Known:
        """What frames up to this `seq`, of this second, have read of more jobs than the one they were drawn
        for."""
        of = (seq, int(time.monotonic()))
        before, known = self._known
        if before != of:
            self._known = (of, lasting(known))
        return self._known[1]

    def stand(self, job: int, cursor: int) -> None:
        """A stream of this job's has come to here: what changes next is read for all who stand here."""
        self._standing.setdefault(cursor, set()).add(job)
        if len(self._standing) > CURSORS_KEPT:
            del self._standing[next(iter(self._standing))]

    def changes(self, owner: Who, job: int, after: int, seq: int) -> Changes:
        """A job's rows that have changed between two moments, read once for all streams of jobs that stand
        where this one does. Raises NotFound."""
        if not account(owner).sees_all:
            self.jobs.job_seen(job, owner)
        standing = self._standing.get(after, set())
        if job in standing and len(standing) > 1 and seq - after <= MOST_AT_ONCE:
            if self._changes[0] != (after, seq):
                found = self.jobs.changes_of_each(standing, after, seq, self.known(seq))
                self._changes = ((after, seq), found)
            if job in self._changes[1]:
                return self._changes[1][job]
        self.jobs.job_seen(job, owner)
        return self.jobs.changes(owner, after, job, ROWS_AT_ONCE, seq, self.known(seq))


def event(data: str | bytes = b"", name: str = "", ident: int | None = None) -> bytes:
    """One server-sent event as bytes; line breaks in `data` do not matter (JSON and HTML here have none)."""
    body = data.encode() if isinstance(data, str) else data
    if b"\n" in body or b"\r" in body:
        body = b"\r\ndata: ".join(body.splitlines())
    head = (b"id: %d\r\n" % ident if ident is not None else b"") + (
        b"event: %s\r\n" % name.encode() if name else b""
    )
    return b"%sdata: %s\r\n\r\n" % (head, body)


def ident(seq: int) -> bytes:
    """The end of an event that says up to where its page is now."""
    return b"id: %d\r\n\r\n" % seq


def messages_in(events: bytes) -> list[str]:
    """Server-sent events whose data are JSON as a WebSocket has them, `{"id", "event", "data"}`; comments are
    left out."""
    found = []
    for lines in events.split(b"\r\n\r\n"):
        fields = dict(line.partition(b": ")[::2] for line in lines.split(b"\r\n"))
        if b"data" in fields:
            head = b'{"id":%s,"event":"%s"' % (fields.get(b"id", b"null"), fields[b"event"])
            found.append(b'%s,"data":%s}' % (head, fields[b"data"]))
    return [message.decode() for message in found]
