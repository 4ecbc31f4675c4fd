"""What one viewer of a page is sent: a viewer holds a view and a cursor, and each `next` is its newest frame.

Frames are drawn once per process for all who look at the same view from the same cursor (Feed.drawn); the feed wakes all
streams at the same moments, so most do. One stream may serve several viewers: a browser's tabs share one.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Protocol

from rowcast.components import PAGE, JobNow, View, job_frame, jobs_frame
from rowcast.feed import DONE, OPENING, SHUTDOWN, Feed, event
from rowcast.jobs import Jobs, NotFound
from rowcast.records import Item, Job, encode

PAGE_FRAME = 0.5  # seconds between two frames that redraw a whole page of rows
SEARCHED = 5000  # changed rows looked through for those that a search has found


class Viewer(Protocol):
    """One page's wish: `next` is what is new for it (b"" for nothing), `ended` once nothing more will come."""

    cursor: int
    ended: bool

    def next(self) -> bytes: ...

    def patience(self) -> float | None:
        """Seconds after which `next` is worth asking although nothing has changed; None for never."""


class JobViewer:
    """A job's page: HTML for htmx to put in place, then `done`.

    Where rows only change or come, the rows that changed are sent. Where they also leave (a filter by status), and for a
    search as it begins and ends, the whole page of them is sent, at most twice a second.
    """

    def __init__(self, feed: Feed, base: str, owner: str, job: int, view: View, cursor: int):
        self.feed, self.base, self.owner, self.job, self.view, self.cursor = feed, base, owner, job, view, cursor
        self.shown, self.stale, self.drawn_at, self.status = b"", view.redrawn, 0.0, ""
        self.ended = False

    def next(self) -> bytes:
        seq = max(self.feed.seq, self.cursor)
        # at the same place the frame still changes every second: the rate and the time left move by themselves
        second = int(time.monotonic()) if seq == self.cursor else 0
        now = self.feed.drawn((self.job, self.owner, seq, second), lambda: read_job(self.feed.jobs, self.job, self.owner))
        if now.job.terminal:
            seq = max(seq, now.job.seq)
        self.status, over = now.job.status, now.job.terminal
        self.stale = self.stale or (self.view.leaves and seq > self.cursor) or (self.view.redrawn and over)
        redraw = self.stale and (over or time.monotonic() >= self.drawn_at + PAGE_FRAME)
        key = (self.base, self.owner, self.job, self.view, self.cursor, seq, redraw, second)
        frame = self.feed.drawn(key, lambda: self._draw(now, redraw) + b"id: %d\r\n\r\n" % seq)
        if redraw:
            self.stale, self.drawn_at = False, time.monotonic()
        sent = b"" if frame == self.shown else frame
        self.shown, self.cursor, self.ended = frame, seq, over
        return sent + event(encode({"status": now.job.status}), DONE) if over else sent

    def patience(self) -> float | None:
        if self.stale:
            return max(0.0, self.drawn_at + PAGE_FRAME - time.monotonic())
        return 1.0 if self.status == "running" else None

    def _draw(self, now: JobNow, redraw: bool) -> bytes:
        jobs, view = self.feed.jobs, self.view
        if redraw:
            back = page_before(jobs, self.job, view)
            return event(job_frame(self.base, now, view, view_items(jobs, self.job, view), True, back))[:-2]
        rows = self._changed(jobs, view)
        # there may be more than these: a row that is shown and not among them would stay as it was
        flood = view.name == "moving" and len(rows) == PAGE
        return event(job_frame(self.base, now, view, rows[::-1] if flood else rows, flood))[:-2]

    def _changed(self, jobs: Jobs, view: View) -> list[Item]:
        if view.name == "moving":
            return jobs.moving(self.job, PAGE, self.cursor)[::-1]
        if view.find:
            found = jobs.moving(self.job, SEARCHED, self.cursor)
            return [item for item in found if view.find.lower() in item.key.lower()]
        if view.leaves:
            return []
        return [item for item in jobs.items(self.job, after=view.after, limit=PAGE) if item.seq > self.cursor]


class ListViewer:
    """The list of jobs: the rows of jobs that changed, and the leave of those that the filter has no longer."""

    ended = False

    def __init__(self, feed: Feed, base: str, owner: str, status: str, cursor: int):
        self.feed, self.base, self.owner, self.status, self.cursor = feed, base, owner, status, cursor

    def next(self) -> bytes:
        seq = self.feed.seq
        if seq <= self.cursor:
            return b""
        changed = self.feed.drawn(
            (self.owner, self.cursor, seq), lambda: self.feed.jobs.changed_jobs(self.owner, self.cursor, PAGE)
        )
        if len(changed) == PAGE:
            seq = changed[-1].seq
        key = (self.base, self.owner, self.status, self.cursor, seq)
        frame = self.feed.drawn(key, lambda: self._draw(changed) + b"id: %d\r\n\r\n" % seq) if changed else b""
        self.cursor = seq
        return frame

    def patience(self) -> float | None:
        return 0.0 if self.cursor < self.feed.seq else None

    def _draw(self, changed: list[Job]) -> bytes:
        rows = [job for job in changed if self.status in ("", job.status)]
        return event(jobs_frame(self.base, rows, [job for job in changed if job not in rows]))[:-2]


async def stream(feed: Feed, viewer: Viewer) -> AsyncIterator[bytes]:
    """One viewer's stream, at most ten frames a second."""
    yield OPENING
    while not feed.closing:
        if sent := viewer.next():
            yield sent
        if viewer.ended:
            return
        await wait(feed, [viewer])
    yield SHUTDOWN


async def shared_stream(feed: Feed, viewers: dict[str, Viewer]) -> AsyncIterator[bytes]:
    """Several viewers over one stream: each message is `{"want", "text", "ended"}`, the text what that viewer is sent."""
    yield OPENING
    left = dict(viewers)
    while left and not feed.closing:
        parts = []
        for name, viewer in list(left.items()):
            text = _next(viewer)
            if viewer.ended:
                del left[name]
            if text or viewer.ended:
                parts.append(_part(name, text, viewer.ended))
        if parts:
            yield b"".join(parts)
        await wait(feed, list(left.values()))
    yield b"".join(_part(name, SHUTDOWN, False) for name in left)


def _next(viewer: Viewer) -> bytes:
    """A viewer whose job is gone ends, and the others go on."""
    try:
        return viewer.next()
    except NotFound:
        viewer.ended = True
        return event(b"{}", DONE)


def _part(name: str, text: bytes, ended: bool) -> bytes:
    return event(encode({"want": name, "text": text.decode(), "ended": ended}))


async def wait(feed: Feed, viewers: list[Viewer]) -> None:
    """Until something has changed, or a viewer's patience is over."""
    if not viewers:
        return
    pauses = [pause for viewer in viewers if (pause := viewer.patience()) is not None]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.02, min(pauses)) if pauses else None):
            await feed.changed(min(viewer.cursor for viewer in viewers))


def read_job(jobs: Jobs, job: int, owner: str) -> JobNow:
    """All that the head of a job's page shows. Raises NotFound."""
    found = jobs.job(job, owner)
    return JobNow(found, jobs.throughput(found), jobs.error_groups(job), jobs.held(found.task))


def page_before(jobs: Jobs, job: int, view: View) -> int | None:
    """The `after` of the page before a view's, None on its first page."""
    if view.after < 0:
        return None
    return jobs.items_back(job, view.status, view.after + 1, PAGE, view.mark or None)


def view_items(jobs: Jobs, job: int, view: View) -> list[Item]:
    """The rows of a view, one page of them."""
    if view.find:
        return jobs.find_items(job, view.find, PAGE)
    if view.name == "moving":
        return jobs.moving(job, PAGE)
    return jobs.items(job, view.status, view.after, PAGE, view.mark or None)
