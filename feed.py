"""The feed: who waits for changes, and the bytes that they are sent.

One watcher per process reads the counter `seq` (a few microseconds) and wakes the streams that wait. A stream holds a cursor
and nothing else: it asks the table for the rows whose seq is greater, so a client that slept, was cut off or is slow gets
each row once, in its latest state. What is drawn for one viewer at a cursor is kept for the next one at the same cursor.
"""

import asyncio
import contextlib
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
SEARCHED = 5000  # changed rows looked through for those that a search has found
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
    """The job page's own stream: HTML for htmx to put in place, at most ten frames a second, then `done`.

    Where rows only change or come, the rows that changed are sent. Where they also leave (a filter by status), and for a
    search as it begins and ends, the whole page of them is sent, at most twice a second.
    """
    yield OPENING
    shown, stale, drawn_at = b"", view.redrawn, 0.0
    while not feed.closing:
        seq = max(feed.seq, cursor)
        now = read_job(feed.jobs, job, owner)
        if now.job.terminal:
            seq = feed.jobs.seq()
        stale = stale or (view.leaves and seq > cursor) or (view.redrawn and now.job.terminal)
        redraw = stale and (now.job.terminal or time.monotonic() >= drawn_at + PAGE_FRAME)
        # at the same place the frame still changes every second: the rate and the time left move by themselves
        second = int(time.monotonic()) if seq == cursor else 0
        key = (base, owner, job, view, cursor, seq, redraw, second)
        frame = feed.drawn(key, lambda c=cursor, n=now, r=redraw: _job_bytes(feed, base, n, view, c, r))  # type: ignore[misc]
        if redraw:
            stale, drawn_at = False, time.monotonic()
        if frame != shown:
            yield frame + b"id: %d\r\n\r\n" % seq
            shown = frame
        if now.job.terminal and now.job.seq <= seq:
            yield event(encode({"status": now.job.status}), DONE)
            return
        cursor = seq
        pause = max(0.0, drawn_at + PAGE_FRAME - time.monotonic()) if stale else 1.0
        await _next(feed, cursor, pause if stale or now.job.status == "running" else None)
    yield event(b"{}", "shutdown")


async def _next(feed: Feed, cursor: int, pause: float | None) -> None:
    """Wait for a change, for at most `pause` seconds (None: for as long as it takes), and then for the next frame's turn."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(pause):
            await feed.changed(cursor)
    await asyncio.sleep(FRAME)


def _job_bytes(feed: Feed, base: str, now: JobNow, view: View, cursor: int, redraw: bool) -> bytes:
    jobs, job = feed.jobs, now.job
    if redraw:
        rows = view_items(jobs, job.id, view)
        back = jobs.items_back(job.id, view.status, view.after + 1, PAGE, view.mark or None) if view.after >= 0 else None
        return event(job_frame(base, now, view, rows, True, back))[:-2]
    if view.name == "moving":
        rows = jobs.moving(job.id, PAGE, cursor)
        if len(rows) == PAGE:  # there may be more: a row that is shown and not among these would stay as it was
            return event(job_frame(base, now, view, rows, True))[:-2]
        rows.reverse()
    elif view.find:
        rows = [item for item in jobs.moving(job.id, SEARCHED, cursor) if view.find.lower() in item.key.lower()]
    elif view.leaves:
        rows = []
    else:
        rows = [item for item in jobs.items(job.id, after=view.after, limit=PAGE) if item.seq > cursor]
    return event(job_frame(base, now, view, rows))[:-2]


async def jobs_stream(feed: Feed, base: str, owner: str, status: str, cursor: int) -> AsyncIterator[bytes]:
    """The list page's own stream: the rows of jobs that changed, and the leave of those that the filter has no longer."""
    yield OPENING
    while not feed.closing:
        seq = feed.seq
        changed = feed.jobs.changed_jobs(owner, cursor, PAGE) if seq > cursor else []
        if len(changed) == PAGE:
            seq = changed[-1].seq

        def draw(changed: list[Job] = changed) -> bytes:
            rows = [job for job in changed if status in ("", job.status)]
            return event(jobs_frame(base, rows, [job for job in changed if job not in rows]))[:-2]

        if changed:
            yield feed.drawn((base, owner, status, cursor, seq), draw) + b"id: %d\r\n\r\n" % seq
        cursor = max(cursor, seq)
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
