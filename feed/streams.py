"""What one viewer of a page is sent: a viewer holds a view and a cursor, and each `next` is its newest frame.

Frames are drawn once per process for all who look at the same view from the same cursor (Feed.drawn); the
feed wakes all streams at the same moments, so most do. One stream may serve several viewers (Tabs): a
browser's tabs share one.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

from rowcast.components import (
    banner_frame,
    charts_frame,
    item_frame,
    job_frame,
    news_frame,
)
from rowcast.feed.watch import (
    DONE,
    NOWHERE,
    ROWS_AT_ONCE,
    SHUTDOWN,
    TEXT_END,
    Feed,
    Frame,
    Piece,
    Reader,
    event,
    ident,
)
from rowcast.jobs import Jobs, NotFound
from rowcast.tasks import answers
from rowcast.tasks.accounts import Who, account
from rowcast.tasks.languages import language
from rowcast.tasks.records import PAGE, Item, Job, JobNow, View, encode, seq_of

PAGE_EVERY = 0.5  # seconds between two frames that redraw a whole page of rows
SEEN_EVERY = 5.0  # seconds between two looks whether a job is still shared with who looks at it
CHARTS_EVERY = 2.0  # seconds between two frames of pictures, which are as large as all else together
NAMES = {Item: b"item", Job: b"job"}  # what a changed row is called
SEARCHED = 5000  # changed rows that are looked through for those that a search finds

SOMETHING = "?"  # a page says some trouble, perhaps that of a server before this one


def banner_of(feed: Feed, said: str | None) -> tuple[str | None, Sequence[Piece]]:
    """What keeps the dashboard from working, and how a page that says what was `said` is told of it."""
    trouble = feed.trouble()
    if trouble == said or (said is None and not trouble and not feed.was_troubled):
        return said, ()
    return trouble, (event(banner_frame(trouble)),)


class Viewer:
    """One page's part of a stream. What keeps the dashboard from working is sent as it begins and ends."""

    feed: Feed
    said: str | None = None  # of that, what the page shows; None: nobody knows

    def shows(self, said: str) -> None:
        self.said = said

    def banner(self) -> Sequence[Piece]:
        self.said, sent = banner_of(self.feed, self.said)
        return sent

    def farewell(self, last: bytes = SHUTDOWN) -> Sequence[Piece]:
        return (last,)


class At(NamedTuple):
    """Where a viewer of a job is, and what it was sent last. Those who are at the same go on together."""

    place: str  # what it looks at, and as whom
    cursor: int
    said: str | None = None
    shown: Frame | None = None
    item: Frame | None = None  # of the item that is open
    stale: bool = False
    drawn_at: float = 0.0  # when its page of rows was drawn last
    charted: Frame | None = None  # the pictures
    charted_seq: int = 0
    status: str = ""
    ended: bool = False


class JobViewer(Viewer):
    """A job's page: HTML for htmx to put in place, then `done`.

    Where rows only change or come, the rows that changed are sent, of more than the page holds the newest:
    app.js takes off the oldest that it shows. Where they also leave (a filter by status), and for a search as
    it begins and ends, the whole page of them is sent, at most twice a second.
    """

    def __init__(self, feed: Feed, base: str, owner: Who, job: int, view: View, cursor: int):
        self.feed = feed
        self.base = base
        self.owner = owner
        self.job = job
        self.view = view
        # text, for it is looked up with every frame, and a text knows its hash
        place = repr((base, owner, job, view, language()))
        self.read = repr((owner, job))
        self.at = At(place, cursor, stale=view.redrawn or cursor == NOWHERE, charted_seq=cursor)

    @property
    def cursor(self) -> int:
        return self.at.cursor

    @property
    def ended(self) -> bool:
        return self.at.ended

    def shows(self, said: str) -> None:
        self.at = self.at._replace(said=said)

    def next(self) -> Sequence[Piece]:
        self.at, sent = self.feed.go_on(self.at, self._go_on)
        return sent

    def _go_on(self, at: At) -> tuple[At, Sequence[Piece]]:
        seq = max(self.feed.seq, at.cursor)
        # at the same place the frame still changes every second: the rate and the time left move by
        # themselves
        second = int(time.monotonic()) if seq == at.cursor else 0
        demand_seen(self.feed, self.owner, self.job)
        known = self.feed.known(seq)
        now = self.feed.drawn(
            (self.read, seq, second), lambda: self.feed.jobs.now(self.job, self.owner, seq, known)
        )
        if now.job.ended:
            seq = max(seq, now.job.seq)
        over = now.at_rest
        stale = at.stale or (self.view.leaves and seq > at.cursor) or (self.view.redrawn and over)
        redraw = stale and (over or time.monotonic() >= at.drawn_at + PAGE_EVERY)
        key = (at.place, at.cursor, seq, redraw, second)
        frame = self.feed.drawn(
            key, lambda: Frame(self._draw(now, redraw, at.cursor) + b"id: %d\r\n\r\n" % seq)
        )
        said, banner = banner_of(self.feed, at.said)
        item = self.feed.drawn((at.place, "item", seq), self._draw_item) if self.view.item else None
        charts = self._charts(at, now, seq)
        sent: list[Piece] = [*banner]
        if item is not None and (at.item is None or item.plain != at.item.plain):
            sent.append(item)
        if at.shown is None or frame.plain != at.shown.plain:
            sent.append(frame)
        if charts is not at.charted and charts is not None:
            sent.append(charts)
        if over:
            sent.append(event(encode({"status": now.job.status}), DONE))
        return (
            At(
                at.place,
                seq,
                said,
                frame,
                item,
                stale and not redraw,
                time.monotonic() if redraw else at.drawn_at,
                charts,
                at.charted_seq if charts is at.charted else seq,
                now.job.status,
                over,
            ),
            sent,
        )

    def _charts(self, at: At, now: JobNow, seq: int) -> Frame | None:
        """The pictures, those that were sent last where they are the same; at the job's end in any case."""
        if seq == at.charted_seq:
            return at.charted
        moment = now.job.seq if now.job.ended else int(time.monotonic() / CHARTS_EVERY)
        key = ("charts", at.place, now.job.ended, moment)
        frame = self.feed.drawn(
            key, lambda: Frame(event(charts_frame(self.base, now.job, self.feed.jobs.pictures(now.job))))
        )
        return at.charted if at.charted is not None and at.charted.plain == frame.plain else frame

    def patience(self) -> float | None:
        if self.at.stale:
            return max(0.0, self.at.drawn_at + PAGE_EVERY - time.monotonic())
        return 1.0 if self.at.status == "running" else None

    def _draw(self, now: JobNow, redraw: bool, cursor: int) -> bytes:
        items = None if redraw else self._changed(self.feed.jobs, self.view, cursor)
        look = self.feed.jobs.look(self.job, self.owner, self.view, now, items)
        return event(job_frame(self.base, look, redraw))[:-2]

    def _draw_item(self) -> Frame:
        found = self.feed.jobs.item_now(self.job, self.owner, self.view.item)
        return Frame(event(item_frame(self.base, found, self.view)))

    def _changed(self, jobs: Jobs, view: View, cursor: int) -> list[Item]:
        if view.find:
            found = jobs.changed_items(self.job, SEARCHED, cursor)
            if len(found) >= SEARCHED:  # there may be more
                found = [item for item in jobs.find_items(self.job, view.find, PAGE) if item.seq > cursor]
            return [item for item in found if view.find.lower() in item.key.lower()]
        if view.name == "moving":
            return jobs.moving(self.job, PAGE, cursor)[::-1]
        if view.leaves:
            return []
        return [item for item in jobs.items(self.job, after=view.after, limit=PAGE) if item.seq > cursor]


class News(Viewer):
    """What every page of an owner's is told, whatever it shows: which jobs have ended, or wait for a person.

    A job's `news` is the counter when it did: so each end is told once, and never to a page opened later.
    Whoever may see the jobs of others is not told of theirs.
    """

    ended = False

    def __init__(self, feed: Feed, base: str, owner: Who, cursor: int):
        self.feed = feed
        self.base = base
        self.owner = account(owner).name
        self.cursor = cursor

    def next(self) -> Sequence[Piece]:
        if self.cursor == NOWHERE:  # the page goes on from what there is
            self.cursor = self.feed.jobs.seq()
            return (ident(self.cursor),)
        seq = self.feed.seq
        if seq <= self.cursor:
            return ()
        key = ("news", self.base, self.owner, self.cursor, seq)
        frame, self.cursor = self.feed.drawn(key, lambda: self._read(seq))
        return (frame,) if frame else ()

    def patience(self) -> float | None:
        return 0.0 if self.cursor < self.feed.seq else None

    def _read(self, seq: int) -> tuple[Frame | None, int]:
        """What is new, and the cursor behind it."""
        jobs = self.feed.jobs.news(self.owner, self.cursor, PAGE)
        told = [job for job in jobs if job.finished_at or job.status == "paused"]
        news = zip(news_frame(self.base, told), told, strict=True)
        frame = b"".join(event(encode(said), "news", job.news) for said, job in news)
        cursor = jobs[-1].news if len(jobs) == PAGE else max([seq, *(job.news for job in jobs)])
        return Frame(frame) if frame else None, cursor


class Gone(Viewer):
    """A tab whose job is no more: it is told that nothing more will come."""

    cursor = 0
    ended = False

    def next(self) -> Sequence[Piece]:
        self.ended = True
        return (event(b"{}", DONE),)

    def patience(self) -> float | None:
        return None


class Tabs:
    """Several viewers over one stream: each message is `{"want", "ended", "text"}`, the text what that viewer
    is sent."""

    ended = False

    def __init__(self, viewers: dict[str, Reader]):
        self.left = viewers
        self.heads = {name: head_of(name, False) for name in viewers}
        self.cursor = 0

    def next(self) -> Sequence[Piece]:
        sent: list[Piece] = []
        for name, viewer in list(self.left.items()):
            try:
                pieces = viewer.next()
                ended = viewer.ended
            except NotFound:  # a viewer whose job is gone ends, and the others go on
                pieces = (event(b"{}", DONE),)
                ended = True
            for piece in pieces:
                last = ended and piece is pieces[-1]
                sent += (head_of(name, True) if last else self.heads[name], text_of(piece))
            if ended:
                del self.left[name]
        self.ended = not self.left
        self.cursor = min((viewer.cursor for viewer in self.left.values()), default=self.cursor)
        return sent

    def patience(self) -> float | None:
        return min(
            (pause for viewer in self.left.values() if (pause := viewer.patience()) is not None), default=None
        )

    def farewell(self, last: bytes = SHUTDOWN) -> Sequence[Piece]:
        return [piece for name in self.left for piece in (self.heads[name], text_of(last))]


def head_of(name: str, ended: bool) -> Frame:
    """The beginning of one viewer's messages in a stream of several: its name is its own."""
    return Frame(b"data: " + encode({"want": name, "ended": ended})[:-1] + b',"text":')


def text_of(piece: Piece) -> Piece:
    """The rest of such a message, which may be everybody's."""
    return piece.text if isinstance(piece, Frame) else encode(piece.decode()) + TEXT_END


def demand_seen(feed: Feed, owner: Who, job: int) -> None:
    """Whether who looks may still see the job, asked every few seconds: nothing changes in a job that is not
    shared any more. Raises NotFound."""
    if not account(owner).sees_all:
        feed.drawn(
            ("seen", owner, job, int(time.monotonic() / SEEN_EVERY)), lambda: feed.jobs.job_seen(job, owner)
        )


class Rows:
    """The consumers' stream: `item` and `job` events in the order of seq, then `done` for a job that has
    ended."""

    def __init__(self, feed: Feed, owner: Who, after: int, job: int | None):
        self.feed = feed
        self.owner = owner
        self.cursor = after
        self.job = job
        self.begun = False
        self.ended = False

    def next(self) -> Sequence[Piece]:
        seq = self.feed.seq
        lost = b""
        if self.job is not None:
            demand_seen(self.feed, self.owner, self.job)
        first = not self.begun
        if first:
            # whoever comes first sees all there is, also what the watcher has not seen yet
            self.begun = True
            seq = self.feed.jobs.seq()
            if self.cursor > seq or (self.job is None and self._has_missed()):
                # what it has seen is not what is kept: rows were deleted since, or this is another database
                self.cursor = seq
                lost = event(encode({"after": seq}), "resync")
        frame, self.cursor, done = self.feed.drawn(
            (self.owner, self.job, self.cursor, seq), lambda: self._read(seq, first)
        )
        self.ended = bool(done)
        return [piece for piece in (lost, frame, done) if piece]

    def _has_missed(self) -> bool:
        """Whether rows were deleted since, or so much has changed that it is not told row by row."""
        jobs = self.feed.jobs
        return 0 < self.cursor < jobs.pruned_seq() or jobs.is_far(self.owner, self.cursor)

    def _read(self, seq: int, first: bool) -> tuple[Frame | None, int, bytes]:
        """The next slice of rows, the cursor behind it, and `done` if that was the last.

        None of them is newer than `seq`, of which what is known of other jobs is: what has changed by then
        comes with the next.
        """
        feed = self.feed
        if self.job is None:
            changes = feed.jobs.changes(self.owner, self.cursor, None, ROWS_AT_ONCE, seq, feed.known(seq))
        else:
            changes = feed.changes(self.owner, self.job, self.cursor, seq)
        rows: list[Item | Job] = sorted([*changes.items, *changes.jobs], key=seq_of)
        frame = b"".join(
            # an `event`, made at once: there are ten thousand a second, and JSON has no line breaks here
            b"id: %d\r\nevent: %s\r\ndata: %s\r\n\r\n" % (row.seq, NAMES[type(row)], encode(answers.of(row)))
            for row in rows
        )
        cursor = max(self.cursor, changes.cursor)
        done = b""
        if self.job is not None and not changes.more:
            of = [feed.jobs.job_seen(self.job, self.owner)] if first else changes.jobs
            if of and of[-1].ended and of[-1].seq <= cursor:
                done = event(encode({"status": of[-1].status}), DONE)
            feed.stand(self.job, cursor)
        return Frame(frame) if frame else None, cursor, done

    def patience(self) -> float | None:
        return None

    def farewell(self, last: bytes = SHUTDOWN) -> Sequence[Piece]:
        return (last,)
