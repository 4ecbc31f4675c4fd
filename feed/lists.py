"""What who looks at the list of jobs is sent."""

import time
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from rowcast.components import counts_frame, jobs_frame, list_frame, of_now
from rowcast.feed.streams import Viewer
from rowcast.feed.watch import Feed, Frame, Piece, event, ident
from rowcast.tasks.accounts import LOCAL, Who, account
from rowcast.tasks.filters import MOVES, Filter, order_of
from rowcast.tasks.records import JOBS_PAGE, PAGE, Job

COUNTS_EVERY = 0.5  # seconds of a slot: how often what is counted beside the list's filters is
LOOK_EVERY = 2  # seconds between two looks for rows that say of now what is no longer so
NOBODY: frozenset[int] = frozenset()
Shown = Mapping[int, tuple[str, ...]]  # by job, what its row says of now
NOTHING: Shown = MappingProxyType({})


class ChangedRows(NamedTuple):
    """What has changed, drawn for all who are at one place."""

    frame: Frame | None
    cursor: int  # behind it
    second: int = 0  # in which it was drawn,
    told: frozenset[int] = NOBODY  # the jobs of which it tells,
    late: frozenset[int] = NOBODY  # and those of them of which it says what was known before they changed
    shown: Shown = NOTHING  # what rows say of now, of those that have not ended,
    is_whole: bool = False  # and whether these are all that there are


class ListViewer(Viewer):
    """The list of jobs: the rows that changed, or say of now what is no longer so, and the leave of those
    that its first page has no longer; the whole of that page where jobs were deleted, or others see them, of
    which no row says anything.

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
        self.late = NOBODY  # jobs whose rows are to be drawn once more when a second is over,
        self.second = 0  # and that second
        self.shown: dict[int, tuple[str, ...]] = {}  # what its rows say of now, of jobs that have not ended
        self.looked = this_look()  # when that was looked at last,
        self.is_first = True  # and whether it never was: nobody knows what its page said as it was opened

    def next(self) -> Sequence[Piece]:
        again = self.late if this_second() > self.second else NOBODY
        again |= self._outdated()
        rows = self._rows(seq, again) if (seq := self.feed.seq) > self.cursor or again else ()
        return (*self.banner(), *rows, *self._counts())

    def _rows(self, seq: int, again: frozenset[int]) -> Sequence[Piece]:
        """The rows that have changed, and those that are to be drawn again."""
        key = (self.place, self.cursor, seq, again, again and this_second())
        drawn = self.feed.drawn(key, lambda: self._draw(seq, again))
        if not self._messages_moved(seq) and drawn.frame is None and self.counted_seq >= self.cursor:
            self.counted_seq = drawn.cursor  # nor has what is counted changed, or what needs a person
        self.cursor = drawn.cursor
        self.late = (self.late - drawn.told) | drawn.late
        self.second = drawn.second
        self._note(drawn)
        return (drawn.frame,) if drawn.frame else ()

    def _note(self, drawn: ChangedRows) -> None:
        """Remember what the rows say by now, of no more jobs than a page has."""
        if drawn.is_whole:
            self.shown.clear()
        for job in drawn.told:
            self.shown.pop(job, None)
        self.shown.update(drawn.shown)
        if len(self.shown) > JOBS_PAGE:
            self.shown = {job: self.shown[job] for job in sorted(self.shown)[-JOBS_PAGE:]}

    def _outdated(self) -> frozenset[int]:
        """The jobs whose rows say of now what is no longer so, though nothing has changed in them: looked for
        every few seconds, once for all who show the same jobs, until these have ended."""
        look = this_look()
        if look <= self.looked:
            return NOBODY
        self.looked = look
        if self.is_first:
            self.is_first = False
            moving = self.feed.drawn(("moving", self.place, look), self._moving)
            self.shown = dict.fromkeys(moving, ()) | self.shown
        if not self.shown:
            return NOBODY
        jobs = frozenset(self.shown)
        shown = self.feed.drawn(("shown", jobs, look), lambda: self._read(jobs))
        return frozenset(job for job, said in self.shown.items() if shown.get(job) != said)

    def _moving(self) -> list[int]:
        """The jobs of its page that have not ended."""
        page = self.feed.jobs.orders(self.owner, self.wanted, JOBS_PAGE)
        return [order - MOVES for order in page if order > MOVES]

    def _read(self, jobs: Iterable[int]) -> Shown:
        """What the rows of these jobs would say of now."""
        return shown_of(self.feed.jobs.listed([MOVES + job for job in jobs]))

    def _messages_moved(self, seq: int) -> bool:
        """Whether messages have moved since this was asked last: no job changes when one is given up."""
        moves = self.feed.drawn(("messages", seq), self.feed.jobs.messages_moved)
        before = self.messages
        self.messages = moves
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
        due = [(self.slot + 1) * COUNTS_EVERY] if self.counted_seq < self.cursor else []
        if self.late:
            due.append(self.second + 1.0)
        if self.shown or self.is_first:
            due.append(float((self.looked + 1) * LOOK_EVERY))
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _draw(self, seq: int, again: frozenset[int]) -> ChangedRows:
        """What has changed, and once more the rows of these jobs."""
        jobs = self.feed.jobs
        second = this_second()
        is_whole = self.feed.drawn(("pruned", seq), jobs.pruned_seq) > self.cursor
        changed = [] if is_whole else jobs.changed_jobs(self.owner, self.cursor, PAGE)
        if len(changed) == PAGE:
            seq = changed[-1].seq
        if not (changed or again or is_whole):
            return ChangedRows(None, seq, second)
        page = jobs.orders(self.owner, self.wanted, JOBS_PAGE)
        last = page[-1] if len(page) == JOBS_PAGE else 0
        if is_whole:
            rows = jobs.listed(page, self.wanted)
            whole = Frame(event(list_frame(self.base, rows, last, self.wanted))[:-2] + ident(seq))
            return ChangedRows(whole, seq, second, again, NOBODY, shown_of(rows), True)
        found = jobs.matching(self.owner, self.wanted, changed)
        found = [job for job in found if order_of(job, self.wanted.by_end) >= last]
        gone = [job for job in changed if job not in found]
        told = frozenset(job.id for job in changed)
        late = NOBODY
        if gone and last:  # others have come up in their place
            rows = jobs.listed(page, self.wanted)
            told |= again
        else:
            late = frozenset(job.id for job in found if not self._see(job))
            rows = [*jobs.listed([order for order in page if order - MOVES in again - told]), *found]
        frame = Frame(event(jobs_frame(self.base, rows, gone, last, self.wanted))[:-2] + ident(seq))
        return ChangedRows(frame, seq, second, told | again, late, shown_of(rows))

    def _see(self, job: Job) -> bool:
        """Put to the job what holds it, its rate and when it ends, which is asked for once a second; whether
        that was since it has changed."""
        of_others = self.feed.known(self.feed.seq)
        key = ("whole", job.id, job.status, this_second())
        known = self.feed.drawn(key, lambda: self.feed.jobs.whole(job, of_others))
        job.held_by = known.held_by
        job.eta_range = known.eta_range
        job.eta_why = known.eta_why
        job.recent = known.recent
        job.window = known.window
        return bool(known.seq >= job.seq)


def shown_of(jobs: Iterable[Job]) -> Shown:
    """What the rows of jobs say of now, of those that have not ended."""
    return {job.id: of_now(job) for job in jobs if not job.finished_at}


def this_second() -> int:
    return int(time.monotonic())


def this_look() -> int:
    return int(time.monotonic() / LOOK_EVERY)


def this_slot() -> int:
    return int(time.monotonic() / COUNTS_EVERY)


def alike(owner: Who) -> tuple[str, ...]:
    """What of an account a list depends on: whoever sees the jobs of all sees the same as any other."""
    asks = account(owner)
    name = "" if asks.sees_all and asks != LOCAL else asks.name
    return (name, asks.role, asks.scope)
