"""What who looks at the list of jobs is sent."""

import time
from collections.abc import Sequence

from rowcast.components import counts_frame, jobs_frame, list_frame
from rowcast.feed.streams import Viewer
from rowcast.feed.watch import Feed, Frame, Piece, event, ident
from rowcast.tasks.accounts import LOCAL, Who, account
from rowcast.tasks.filters import Filter, order_of
from rowcast.tasks.records import JOBS_PAGE, PAGE, Job

COUNTS_EVERY = 0.5  # seconds of a slot: how often what is counted beside the list's filters is


class ListViewer(Viewer):
    """The list of jobs: the rows that changed, and the leave of those that its first page has no longer; the
    whole of that page where jobs were deleted, of which nothing is left that could be told.

    Nothing of it is of one viewer's own: all who see the same jobs, and may do the same, share each frame.
    """

    ended = False

    def __init__(self, feed: Feed, base: str, owner: Who, wanted: Filter, cursor: int):
        self.feed = feed
        self.owner = owner
        self.base = base
        self.wanted = wanted
        self.cursor = cursor
        self.place = repr((base, alike(owner), wanted))
        self.counted: Frame | None = None  # of what is counted and needed, what was sent last
        self.counted_seq = cursor
        self.slot = 0  # in which it was
        self.messages = -1  # how often messages had moved then

    def next(self) -> Sequence[Piece]:
        rows = self._rows(seq) if (seq := self.feed.seq) > self.cursor else ()
        return (*self.banner(), *rows, *self._counts())

    def _rows(self, seq: int) -> Sequence[Piece]:
        """The rows that have changed."""
        key = (self.place, self.cursor, seq)
        frame, seq = self.feed.drawn(key, lambda: self._draw(seq))
        if not self._messages_moved(seq) and frame is None and self.counted_seq >= self.cursor:
            self.counted_seq = seq  # nor has what is counted changed, or what needs a person
        self.cursor = seq
        return (frame,) if frame else ()

    def _messages_moved(self, seq: int) -> bool:
        """Whether messages have moved since this was asked last: no job changes when one is given up."""
        moves = self.feed.drawn(("messages", seq), self.feed.jobs.messages_moved)
        before, self.messages = self.messages, moves
        return moves != before

    def _counts(self) -> Sequence[Piece]:
        """How many jobs each filter has, and what needs a person, where that may have changed: asked for
        once in each slot of time, for all."""
        slot = this_slot()
        if self.counted_seq >= self.cursor or slot <= self.slot:
            return ()
        self.slot = slot
        frame, self.counted_seq = self.feed.drawn(("counts", self.place, slot), self._count)
        if self.counted is not None and self.counted.plain == frame.plain:
            return ()
        self.counted = frame
        return (frame,)

    def _count(self) -> tuple[Frame, int]:
        """What is counted and needed, and the counter that it holds for."""
        seq = self.feed.seq
        jobs = self.feed.jobs
        counted = jobs.counted(self.owner, self.wanted)
        needs = jobs.needs(self.owner)
        return Frame(event(counts_frame(self.base, self.wanted, counted, needs))), seq

    def patience(self) -> float | None:
        if self.cursor < self.feed.seq:
            return 0.0
        if self.counted_seq >= self.cursor:
            return None
        return max(0.0, (self.slot + 1) * COUNTS_EVERY - time.monotonic())

    def _draw(self, seq: int) -> tuple[Frame | None, int]:
        """The frame of what has changed, and the cursor behind it."""
        jobs = self.feed.jobs
        by_end = self.wanted.by_end
        is_whole = self.feed.drawn(("pruned", seq), jobs.pruned_seq) > self.cursor
        changed = [] if is_whole else jobs.changed_jobs(self.owner, self.cursor, PAGE)
        if len(changed) == PAGE:
            seq = changed[-1].seq
        if not changed and not is_whole:
            return None, seq
        page = jobs.orders(self.owner, self.wanted, JOBS_PAGE)
        last = page[-1] if len(page) == JOBS_PAGE else 0
        if is_whole:
            whole = list_frame(self.base, jobs.listed(page, self.wanted), last, self.wanted)
            return Frame(event(whole)[:-2] + ident(seq)), seq
        found = jobs.matching(self.owner, self.wanted, changed)
        found = [job for job in found if order_of(job, by_end) >= last]
        rows = [self._whole(job) for job in found]
        gone = [job for job in changed if job not in found]
        if gone and last:  # others have come up in their place
            rows = jobs.listed(page, self.wanted)
        return Frame(event(jobs_frame(self.base, rows, gone, last, self.wanted))[:-2] + ident(seq)), seq

    def _whole(self, job: Job) -> Job:
        """The job with what holds it and when it ends, which is asked for once a second."""
        second = int(time.monotonic())
        of_others = self.feed.known(self.feed.seq)
        key = ("whole", job.id, job.status, second)
        known = self.feed.drawn(key, lambda: self.feed.jobs.whole(job, of_others))
        job.held_by, job.eta_range = known.held_by, known.eta_range
        return job


def this_slot() -> int:
    return int(time.monotonic() / COUNTS_EVERY)


def alike(owner: Who) -> tuple[str, ...]:
    """What of an account a list depends on: whoever sees the jobs of all sees the same as any other."""
    asks = account(owner)
    name = "" if asks.sees_all and asks != LOCAL else asks.name
    return (name, asks.role, asks.scope)
