"""What a page of somebody else's is sent of one job: its parts, drawn anew as it moves, then `done`."""

import time
from collections.abc import Sequence

from rowcast.components import progress_frame
from rowcast.feed.watch import DONE, SHUTDOWN, Feed, Frame, Piece, event
from rowcast.jobs import Jobs
from rowcast.tasks.accounts import Who
from rowcast.tasks.records import Item, Job, ProgressView, encode

EVERY = 0.25  # seconds between two frames: a bar needs no more


def looked_at(jobs: Jobs, job: int, who: Who, view: ProgressView) -> tuple[Job, list[Item], list[Item]]:
    """What is drawn: the job, the newest of its rows and the first of its failures. Raises NotFound."""
    found = jobs.job(job, who)
    rows = jobs.moving(job, view.rows) if view.rows else []
    return found, rows, jobs.items(job, "failed", limit=view.problems) if view.problems else []


class ProgressViewer:
    """One job for one such page. It is drawn once for all who look at it in the same way."""

    cursor: int  # up to where it has heard of changes; what they came to is drawn as its time comes

    def __init__(self, feed: Feed, base: str, owner: Who, job: int, view: ProgressView):
        self.feed = feed
        self.base = base
        self.owner = owner
        self.job = job
        self.view = view
        self.cursor = -1
        self.drawn_at = 0.0
        self.drawn_seq = -1
        self.shown = b""
        self.is_running = False
        self.ended = False

    def next(self) -> Sequence[Piece]:
        self.cursor = seq = max(self.feed.seq, self.cursor)
        if time.monotonic() < self.drawn_at + EVERY:
            return ()
        self.drawn_at = time.monotonic()
        # the time left moves by itself
        second = int(time.monotonic()) if seq == self.drawn_seq else 0
        key = ("progress", self.base, self.owner, self.job, self.view, seq, second)
        job, frame = self.feed.drawn(key, self._draw)
        self.drawn_seq = seq
        self.is_running = job.status == "running"
        self.ended = job.ended
        sent = [frame] if frame.plain != self.shown else []
        self.shown = frame.plain
        return [*sent, event(encode({"status": job.status}), DONE)] if job.ended else sent

    def _draw(self) -> tuple[Job, Frame]:
        jobs = self.feed.jobs
        job, rows, problems = looked_at(jobs, self.job, self.owner, self.view)
        return job, Frame(event(progress_frame(self.base, job, self.view, rows, problems)))

    def patience(self) -> float | None:
        if self.drawn_seq < self.cursor:
            return max(0.0, self.drawn_at + EVERY - time.monotonic())
        return 1.0 if self.is_running else None

    def farewell(self, last: bytes = SHUTDOWN) -> Sequence[Piece]:
        return (last,)
