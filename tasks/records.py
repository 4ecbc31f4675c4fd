"""The words of Rowcast as data: Job and Item, what passes between a
ledger and a worker, and the table of actions.

Nothing here reads or writes: the page, the streams, the API, a worker on another machine and the tests all
share these records. Times are unix seconds, `ms` milliseconds, JSON columns hold text.
"""

import time
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import Any, ClassVar
from urllib.parse import urlencode

import msgspec

from rowcast.tasks import clock
from rowcast.tasks.concurrency import FIRST_AT_ONCE, Found, as_given
from rowcast.tasks.languages import mark
from rowcast.tasks.notify import Receiver

JOB_STATUSES = ("queued", "running", "paused", "completed", "failed", "cancelled")
ITEM_STATUSES = ("queued", "running", "completed", "failed", "cancelled", "unknown")
DELIVERY_STATUSES = ("queued", "sending", "delivered", "failed")
ACTIVE = ("queued", "running", "paused")
CLAIMABLE = ("queued", "running")
# in place of a status, where jobs are listed: those with failed items, however they ended
WITH_FAILURES = "with-failures"
# in place of a status, where items are listed: those that are queued for another try
RETRYING = "retrying"

PRIORITIES = (-10, 10)  # the lowest and the highest
RATE_WINDOW = 10  # seconds over which "items per second" is taken

encode = msgspec.json.Encoder(enc_hook=str).encode
decode = msgspec.json.decode
OWNER = "local"
PAGE = 100  # rows on a page of items or of users
JOBS_PAGE = PAGE // 2
RUNS = 10  # of a task, side by side


class Action(msgspec.Struct, frozen=True):
    """What is done to a job: the statuses it may leave, and the one it enters ('' for the same).

    What people do has a `past`, for the sentence that refuses it, and may be for an item or an error group
    alone.
    """

    leaves: tuple[str, ...]
    enters: str
    past: str = ""
    takes: tuple[str, ...] = ()


BEGUN = ("running", "paused", "completed", "failed", "cancelled")
# Each way from one status of a job to another: first what people do, then what the engine does.
TRANSITIONS = {
    "pause": Action(("queued", "running"), "paused", mark("paused")),
    "resume": Action(("paused",), "running", mark("resumed")),
    "cancel": Action(ACTIVE, "cancelled", mark("cancelled")),
    "retry": Action(BEGUN, "running", mark("retried"), ("item", "group")),
    "settle": Action(BEGUN, "", mark("settled"), ("item",)),
    "start": Action(("queued",), "running"),  # a worker takes it up
    "stop": Action(("running",), "paused"),  # its stop rule is hit
    "canary": Action(("running",), "paused"),  # the canary is over
    "block": Action(("running",), "paused"),  # the disk is full
    "unblock": Action(("paused",), "running"),  # there is room again
    "complete": Action(
        ("running", "paused"), "completed"
    ),  # paused, where a task that is called once returns
    "fail": Action(ACTIVE, "failed"),  # it could not run
}
ACTIONS = {name: action for name, action in TRANSITIONS.items() if action.past}


class NotFound(Exception):
    """No such job or item, or not yours."""


class NotAllowed(Exception):
    """The job's status does not allow this action; the message is one sentence."""


class BadArguments(ValueError):
    """A job's arguments do not fit the task's signature; the message is one sentence."""


class Held(msgspec.Struct):
    """What holds a job: its cause, a sentence, and until when, 0 where nobody knows."""

    cause: str
    sentence: str
    until: float = 0.0


class Job(msgspec.Struct):
    """One run of a task: a row of `jobs`, with its items per second."""

    id: int
    task: str
    entry: str
    shape: str
    args: str
    owner: str
    engine: str
    status: str
    reason: str
    total: int
    queued: int
    running: int
    completed: int
    failed: int
    cancelled: int
    unknown: int
    filled: int
    idempotent: int
    stamp: str | None
    concurrency: int | None
    least: int | None  # items at once, where a run finds how many up to its concurrency; None: it does not
    found: str | None  # JSON: what was found
    priority: int
    pace: float | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    worker: str | None
    stop_after: str | None
    canary: int | None
    dry_run: int
    run_at: float
    unique_key: str | None
    schedule: int | None
    begun_at: float | None
    worked: float
    news: int  # the seq when it ended last, or began to wait for a person; 0: neither
    seq: int
    recent: int  # items finished in the last RATE_WINDOW seconds
    again_item: int | None = None  # of a job with one item: the one that it runs once more, with other values
    again_job: int | None = None  # whose that is, or the job that it runs once more
    swept: int = 0  # 1: a retry or a settle goes through its items
    notify: str | None = None  # JSON: who is told of it
    cause: str = ""  # of a pause: one of tasks/held.py
    tuned_at: float | None = None
    paused_at: float | None = None  # the last time
    resumed_at: float | None = None  # the last time that it went on after a pause
    stalled: float = 0.0  # seconds that it has held up its worker's other jobs
    stalled_in: str = ""
    tags: str = "[]"  # JSON
    after_job: int | None = None  # the one at whose end it starts
    condition: str = ""  # if that ended so: one of tasks/followers.py
    window: float = RATE_WINDOW  # seconds in which the `recent` finished: more for slow work
    # what tables/outlook.py adds
    held_by: Held | None = None
    eta_range: tuple[float, float] | None = None
    eta_why: str = ""  # why there is none

    @property
    def places(self) -> int:
        """Items that may be in flight now."""
        most = self.concurrency or 1
        if self.least is None:
            return most
        found = self.found_read
        return found.limit if found else min(max(FIRST_AT_ONCE, self.least), most)

    @property
    def found_read(self) -> Found | None:
        """What its runs have found that its API bears."""
        return None if self.found is None else msgspec.json.decode(self.found, type=Found)

    @property
    def concurrency_given(self) -> int | str | None:
        """Its concurrency as an option: a number, or auto."""
        return as_given(self.concurrency, self.least)

    @property
    def done(self) -> int:
        """Items that have ended."""
        return self.completed + self.failed + self.cancelled + self.unknown

    @property
    def ended(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.finished_at is not None and not self.swept

    @property
    def rate(self) -> float:
        """Items per second: of late while it runs, over all when it has ended. What was cancelled, and what
        nobody knows of, is not counted then."""
        if self.began is None or (self.status == "paused" and not self.running):
            return 0.0
        if self.finished_at is not None:
            return (self.completed + self.failed) / max(self.elapsed, 0.001)
        return self.recent / min(max(clock.now() - self.began, 1.0), self.window)

    @property
    def began(self) -> float | None:
        """When its last run began: its start, or a retry after its end."""
        return None if self.started_at is None else max(self.started_at, self.begun_at or 0.0)

    @property
    def eta(self) -> float | None:
        """Seconds left: the middle of the range, or at the present rate; None where that cannot be said."""
        if self.eta_range:
            return sum(self.eta_range) / 2
        if self.eta_why:
            return None
        if self.status != "running" or self.rate <= 0 or not self.filled or self.swept:
            return None
        return (self.queued + self.running) / self.rate

    @property
    def elapsed(self) -> float:
        """Seconds that it has run or, at its end, that it took; the
        time from an end to a retry is not in it.
        """
        return 0.0 if self.began is None else self.worked + (self.finished_at or clock.now()) - self.began


class Item(msgspec.Struct):
    """One unit of a job: a row of `items`."""

    id: int
    job: int
    position: int
    key: str
    status: str
    attempt: int
    code: int | None
    error: str | None
    result: str | None
    ms: float | None
    run_at: float
    updated_at: float
    seq: int

    @property
    def retrying(self) -> bool:
        """Queued again after a try that did not succeed."""
        return self.status == "queued" and self.attempt > 0 and self.run_at > 0


class ErrorGroup(msgspec.Struct):
    """Failures of one job that are alike."""

    fingerprint: str
    code: int | None
    message: str
    items: int
    first_at: float
    last_at: float
    sample: str  # the first of their errors, as it was
    growth: list[tuple[int, int]] = []  # (second, how many have failed so from then on)


class Delivery(msgspec.Struct):
    """A message to one receiver, about one end or pause of a job: a row of `deliveries`."""

    id: str
    job: int
    task: str
    owner: str
    channel: str
    to: str
    trusted: int
    event: str
    body: str
    status: str
    attempts: int
    code: int | None
    error: str | None
    created_at: float
    asked_at: float
    due_at: float
    tried_at: float | None
    delivered_at: float | None
    language: str = ""  # of whoever started the job

    @property
    def lane(self) -> str:
        """Over what few are sent at once."""
        return self.channel if self.channel == "email" else self.to

    @property
    def pending(self) -> bool:
        """Whether it is sent, or will be, without being asked to."""
        return self.status in ("queued", "sending")


class Webhook(msgspec.Struct):
    """An address that messages are posted to, as it is shown: its secret is not."""

    id: int
    url: str
    retired_at: float  # until when the secret before is valid too; 0: there is none
    shown_at: float | None  # when its secret was shown; None: nobody knows it
    created_at: float


class Changes(msgspec.Struct):
    """What has changed since a cursor: rows in the order of their seq, and the cursor to go on from."""

    jobs: list[Job]
    items: list[Item]
    cursor: int
    more: bool


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How one job is to be run, where it differs from its task. Each is checked in web/start.py."""

    concurrency: int | str | None = None  # as tasks/concurrency.py reads it
    priority: int = 0
    pace: float | None = None  # items per second at most
    stop_after: str | None = None
    canary: int | None = None  # pause after so many items
    dry_run: int = 0  # of the first so many items, show what would be sent
    run_at: float = 0.0  # not before
    unique_key: str | None = None
    unique_for: float = 0.0  # seconds from now on that the key is its own; 0: for ever
    after_job: int | None = None  # start when that one has ended,
    condition: str = ""  # if it ended so
    schedule: int | None = None
    background: bool = False  # of a BackgroundTask
    again_item: int | None = None  # the item that it runs once more, with other values
    again_job: int | None = None  # whose that is, or the job that it runs once more
    notify: tuple[Receiver, ...] | None = None  # who is told; None: whom task and server tell
    tags: tuple[str, ...] = ()  # besides those of its task
    language: str = ""  # of whoever starts it, by a page that is not English


@dataclass(frozen=True)
class View:
    """Which items of a job are looked at: `moving`, `all`, a status,
    or one error group; and behind which position.
    """

    name: str = "moving"
    after: int = -1
    fingerprint: str = ""  # of the error group; the URL and the API call it `group`
    find: str = ""
    item: int = 0  # the one that is open beside them; 0: none

    @property
    def status(self) -> str | None:
        return self.name if self.name in (*ITEM_STATUSES, RETRYING) else None

    @property
    def leaves(self) -> bool:
        """Whether rows leave this view as they change."""
        return self.name not in ("moving", "all") or bool(self.fingerprint)

    @property
    def sort(self) -> str:
        """How the rows are sorted by their `data-order`: the newest change first, or by position."""
        return "desc" if self.name == "moving" else "asc"

    @property
    def redrawn(self) -> bool:
        """Whether changed rows alone do not say what the view has: its page has to be drawn anew."""
        return self.leaves or bool(self.find)

    def query(self, **changes: Any) -> str:
        """The view as the query of a URL."""
        values = {
            "view": self.name,
            "after": self.after,
            "group": self.fingerprint,
            "find": self.find,
            "item": self.item or None,
        } | changes
        return urlencode({k: v for k, v in values.items() if v not in ("", -1, None)})


@dataclass
class Pictures:
    """What the pictures of a job's last run are drawn from, `began` to `end`."""

    PARTS: ClassVar = (50, 95, 99)  # of a hundred tries

    began: float
    end: float
    growth: list[tuple[float, float, int]]  # (from, to, items that ended)
    failures: list[tuple[str, list[tuple[float, float, int]]]]  # the same by error group, the largest first
    times: list[tuple[int, int]]  # (bucket, tries)
    parts: list[float]  # milliseconds in which so many of a hundred tries had ended
    tries: list[tuple[int, int]]  # (n, items that had so many)
    holds: list[tuple[float, float]] = field(default_factory=list)  # (from, to): the API had asked for it


@dataclass(frozen=True)
class ProgressView:
    """How one job's progress is shown in a page of somebody else's."""

    noun: str = "items"  # what its items are called there
    rows: int = 0  # of its newest rows, those that are listed
    problems: int = 0  # failures that are listed
    stop: bool = False  # whether there is a button that cancels it

    @property
    def query(self) -> dict[str, str]:
        """The same as the query of a URL, where nothing is the usual."""
        stop = "1" if self.stop else ""
        numbers = {name: str(getattr(self, name) or "") for name in ("rows", "problems")}
        return {"noun": self.noun, **numbers, "stop": stop}


class Swept(msgspec.Struct, frozen=True):
    """How far a retry, or a settle, of many items is: they enter a status, so many of all that are meant."""

    enters: str
    total: int
    done: int


@dataclass
class JobNow:
    """All that the head of a job's page shows, read at one moment."""

    job: Job
    groups: list[ErrorGroup]
    cursor: int  # the counter before it was read: whatever changed later has a greater seq
    deliveries: list[Delivery] = field(default_factory=list, kw_only=True)  # what was told of it
    followers: list[tuple[int, str]] = field(default_factory=list, kw_only=True)  # job and task
    swept: Swept | None = field(default=None, kw_only=True)  # what is done to its items now

    @property
    def at_rest(self) -> bool:
        """Whether nothing of it moves any more by itself, and nothing is told of it."""
        return self.job.ended and not any(one.pending for one in self.deliveries)


@dataclass
class JobView(JobNow):
    """A job as its page shows it: the head, and the items of a view."""

    view: View
    items: list[Item]
    back: int | None  # the `after` of the page before; None on the first
    pictures: Pictures | None = None  # None: they are not drawn this time


class WorkerRow(msgspec.Struct):
    """A worker as it is shown: one row of `workers`, and what it has in flight."""

    name: str
    host: str
    engine: str
    version: str
    in_flight: int
    done: int
    started_at: float
    seen_at: float
    alive: bool
    trouble: str = ""


seq_of = attrgetter("seq")  # of rows, by which they are sorted


@lru_cache(maxsize=1024)  # the rows of a transaction have one time
def iso(at: float | None) -> str | None:
    """Unix seconds as ISO 8601 UTC with milliseconds."""
    if at is None:
        return None
    seconds, milliseconds = divmod(round(at * 1000), 1000)
    year, month, day, hour, minute, second = time.gmtime(seconds)[:6]
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}.{milliseconds:03d}Z"
