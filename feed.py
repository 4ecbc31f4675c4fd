"""The feed: who waits for changes, and the bytes that they are sent.

One watcher per process reads the counter `seq` (a few microseconds) and wakes the streams that wait. A stream holds a cursor
and nothing else: it asks the table for the rows whose seq is greater, so a client that slept, was cut off or is slow gets
each row once, in its latest state. What is drawn for one viewer at a cursor is kept for the next one at the same cursor.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any

from rowcast.components import PAGE, JobNow, View, job_frame, jobs_frame
from rowcast.jobs import Jobs
from rowcast.records import Item, Job, encode

LOOK = 0.05  # seconds between two looks at the counter
FRAME = 0.1  # seconds between two frames of a stream: at most ten a second
PAGE_FRAME = 0.5  # seconds between two frames that redraw a whole page of rows
SLICE = 500  # rows asked of the table at once
KEPT = 256  # frames kept for other viewers
RETRY_MS = 1000
# Proxies and browsers that hold back the first bytes let go after two kilobytes.
OPENING = f"retry: {RETRY_MS}\r\n: {' ' * 2048}\r\n\r\n".encode()
DONE = "done"


class Feed:
    """This process's watcher over one database, and the frames it has drawn."""

    def __init__(self, jobs: Jobs):
        self.jobs = jobs
        self.seq = 0
        self.closing = False
        self.streams = 0
        self.looked_at = 0.0
        self._moved = asyncio.Event()
        self._frames: OrderedDict[Any, bytes] = OrderedDict()

    async def watch(self) -> None:
        """Read the counter, and wake whoever waits when it has moved."""
        while True:
            seq = self.jobs.seq()
            self.looked_at = time.time()
            if seq != self.seq:
                self.seq = seq
                self._wake()
            await asyncio.sleep(LOOK)

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

    def drawn(self, key: Any, draw: Callable[[], bytes]) -> bytes:
        """The frame for `key`, drawn once and kept for the viewers who come to the same place."""
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
        await asyncio.sleep(FRAME)
    yield event(b"{}", "shutdown")


async def page_stream(feed: Feed, base: str, owner: str, job: int, view: View, cursor: int) -> AsyncIterator[bytes]:
    """The job page's own stream: HTML for htmx to put in place, at most ten frames a second, then `done`."""
    yield OPENING
    whole = view.name not in ("moving", "all") or bool(view.mark)
    shown, redrawn_at = None, 0.0
    while not feed.closing:
        seq = feed.seq
        key = (base, owner, job, view, cursor, seq)
        redraw = whole and time.monotonic() >= redrawn_at + PAGE_FRAME
        now = read_job(feed.jobs, job, owner)
        if now.job.terminal:
            seq, redraw = feed.jobs.seq(), whole
            key = (*key[:-1], seq)
        frame = feed.drawn((*key, redraw), lambda c=cursor, n=now, r=redraw: _job_bytes(feed, base, n, view, c, r))  # type: ignore[misc]
        if redraw:
            redrawn_at = time.monotonic()
        if frame != shown:
            yield frame + b"id: %d\r\n\r\n" % seq
            shown = frame
        if now.job.terminal and now.job.seq <= seq:
            yield event(encode({"status": now.job.status}), DONE)
            return
        cursor = seq
        await _next(feed, cursor, whole and time.monotonic() < redrawn_at + PAGE_FRAME, now)
    yield event(b"{}", "shutdown")


async def _next(feed: Feed, cursor: int, redraw_due: bool, now: JobNow) -> None:
    """Wait for a change, at most a second while the job runs: the rate and the time left move by themselves."""
    try:
        async with asyncio.timeout(PAGE_FRAME if redraw_due else 1.0 if now.job.status == "running" else None):
            await feed.changed(cursor)
    except TimeoutError:
        pass
    await asyncio.sleep(FRAME)


def _job_bytes(feed: Feed, base: str, now: JobNow, view: View, cursor: int, redraw: bool) -> bytes:
    jobs, job = feed.jobs, now.job
    if view.name == "moving":
        rows = jobs.moving(job.id, PAGE, cursor)[::-1]
    elif view.name == "all" and not view.find:
        rows = [item for item in jobs.items(job.id, after=view.after, limit=PAGE) if item.seq > cursor]
    else:
        rows = view_items(jobs, job.id, view) if redraw else []
    return event(job_frame(base, now, view, rows, redraw))[:-2]


async def jobs_stream(feed: Feed, base: str, owner: str, status: str, cursor: int) -> AsyncIterator[bytes]:
    """The list page's own stream: the rows of jobs that changed."""
    yield OPENING
    while not feed.closing:
        seq = feed.seq

        def draw(cursor: int = cursor) -> bytes:
            rows = [job for job in feed.jobs.changed_jobs(owner, cursor, PAGE) if not status or job.status == status]
            return event(jobs_frame(base, rows))[:-2] if rows else b""

        if frame := feed.drawn((base, owner, status, cursor, seq), draw):
            yield frame + b"id: %d\r\n\r\n" % seq
        cursor = seq
        await feed.changed(cursor)
        await asyncio.sleep(FRAME)
    yield event(b"{}", "shutdown")


def read_job(jobs: Jobs, job: int, owner: str) -> JobNow:
    """All that the head of a job's page shows. Raises NotFound."""
    found = jobs.job(job, owner)
    return JobNow(found, jobs.throughput(found), jobs.error_groups(job), jobs.held(found.task))


def view_items(jobs: Jobs, job: int, view: View) -> list[Item]:
    """The rows of a view, one page of them."""
    if view.find:
        return jobs.find_items(job, view.find, PAGE)
    if view.name == "moving":
        return jobs.moving(job, PAGE)
    return jobs.items(job, view.status, view.after, PAGE, view.mark or None)
