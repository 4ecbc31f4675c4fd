"""The feed: who waits for changes, and the bytes that they are sent.

One watcher per process reads the counter `seq` (a few microseconds) and wakes the streams that wait. A stream holds a cursor
and nothing else: it asks the table for the rows whose seq is greater, so a client that slept, was cut off or is slow gets
each row once, in its latest state. What is drawn for one viewer at a cursor is kept for the next one at the same cursor.
"""

import asyncio
import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import apsw

from rowcast.jobs import Jobs
from rowcast.records import Item, Job, encode

LOOK = 0.05  # seconds between two looks at the counter
FRAME = 0.1  # seconds between two frames of a stream: at most ten a second
SLICE = 500  # rows asked of the table at once
KEPT = 256  # frames kept for other viewers
RETRY_MS = 1000
# Proxies and browsers that hold back the first bytes let go after two kilobytes.
OPENING = f"retry: {RETRY_MS}\r\n: {' ' * 2048}\r\n\r\n".encode()
DONE = "done"
SHUTDOWN = b"event: shutdown\r\ndata: {}\r\n\r\n"
T = TypeVar("T")


class Feed:
    """This process's watcher over one database, and the frames it has drawn."""

    def __init__(self, jobs: Jobs):
        self.jobs = jobs
        self.seq = 0
        self.closing = False
        self.streams: Counter[str] = Counter()  # open streams of each viewer, by address
        self.looked_at = self.woken_at = 0.0
        self._moved = asyncio.Event()
        self._frames: OrderedDict[Any, Any] = OrderedDict()

    async def watch(self) -> None:
        """Read the counter, and wake whoever waits when it has moved, at most ten times a second, all at once.

        That all wake at the same moments is what lets them share what is drawn.
        """
        while True:
            if time.monotonic() >= self.woken_at + FRAME:
                with contextlib.suppress(apsw.Error):
                    self.look()
            await asyncio.sleep(LOOK)

    def look(self) -> None:
        """Read the counter, and wake whoever waits if it has moved."""
        seq, self.looked_at = self.jobs.seq(), time.time()
        if seq != self.seq:
            self.seq, self.woken_at = seq, time.monotonic()
            self._wake()

    def close(self) -> None:
        """The server is going down: every stream says so and ends."""
        self.closing = True
        self._wake()

    set = close  # sse-starlette's shutdown_event is "set" when it sees the server stop

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def changed(self, cursor: int) -> None:
        """Return once something newer than `cursor` is in the table, or the server goes down."""
        while self.seq <= cursor and not self.closing:
            await self._moved.wait()

    def drawn(self, key: Any, draw: Callable[[], T]) -> T:
        """What `draw` makes for `key`, made once and kept for the viewers who come to the same place."""
        found = self._frames.get(key)
        if found is None:
            found = self._frames[key] = draw()
            if len(self._frames) > KEPT:
                self._frames.popitem(last=False)
        return found


def event(data: str | bytes = b"", name: str = "", ident: int | None = None) -> bytes:
    """One server-sent event as bytes; `data` has no line breaks that matter (JSON and HTML here have none)."""
    body = data.encode() if isinstance(data, str) else data
    head = (b"id: %d\r\n" % ident if ident is not None else b"") + (f"event: {name}\r\n".encode() if name else b"")
    return head + b"".join(b"data: " + line + b"\r\n" for line in body.splitlines() or [b""]) + b"\r\n"


async def json_stream(feed: Feed, owner: str, after: int, job: int | None) -> AsyncIterator[bytes]:
    """The consumers' stream: `item` and `job` events in the order of seq, then `done` for a job that has ended."""
    yield OPENING
    cursor = after
    if (job is None and 0 < cursor < feed.jobs.pruned_seq()) or cursor > feed.jobs.seq():
        # what it has seen is not what is kept: rows were deleted since, or this is another database
        cursor = feed.jobs.seq()
        yield event(encode({"after": cursor}), "resync")
    while not feed.closing:
        changes = feed.jobs.changes(owner, cursor, job, SLICE)
        rows: list[Item | Job] = sorted([*changes.items, *changes.jobs], key=lambda row: row.seq)
        if rows:
            yield b"".join(event(encode(row.json()), "item" if isinstance(row, Item) else "job", row.seq) for row in rows)
        cursor = max(cursor, changes.cursor)
        if changes.more:
            continue
        if job is not None and (ended := feed.jobs.job(job, owner)).terminal and ended.seq <= cursor:
            yield event(encode({"status": ended.status}), DONE)
            return
        await feed.changed(cursor)
    yield SHUTDOWN
