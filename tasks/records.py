"""The words of Rowcast as data: Job and Item, what passes between a ledger and a worker, and the table of actions.

Nothing here reads or writes: the page, the streams, the API, a worker on another machine and the tests all share these
records. Times are unix seconds, `ms` milliseconds, JSON columns hold text.
"""

import re
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal

import msgspec

JobStatus = Literal["queued", "running", "paused", "completed", "failed", "cancelled"]
ItemStatus = Literal["queued", "running", "completed", "failed", "cancelled", "unknown"]
JOB_STATUSES = ("queued", "running", "paused", "completed", "failed", "cancelled")
ITEM_STATUSES = ("queued", "running", "completed", "failed", "cancelled", "unknown")
ACTIVE = ("queued", "running", "paused")
CLAIMABLE = ("queued", "running")
TERMINAL = ("completed", "failed", "cancelled")
WITH_FAILURES = "with-failures"  # in place of a status, where jobs are listed: those with failed items, however they ended

LEASE = 8.0  # seconds a worker is believed to live after its last heartbeat
SUSPECT = 3  # crashes after which an item is run apart: one that killed its worker counts as so many
HOPELESS = 9  # crashes after which a body task, or the reading of a job's items, is given up
CHUNK = 5_000  # rows written in one transaction
FIRST = 500  # items in the first chunk of a job that is written, so that runners soon have something to do
RATE_WINDOW = 10  # seconds over which "items per second" is taken
ERROR_LENGTH = 500
UNKNOWN = "it may or may not have arrived."
RESULT_LENGTH = 64_000
KEY_LENGTH = 300
NAMES = ("key", "email", "name", "id")  # by which an item is called, before any other of its values

encode = msgspec.json.Encoder(enc_hook=str).encode
decode = msgspec.json.decode


class Action(msgspec.Struct, frozen=True):
    """What a person may do to a job: the statuses it may leave, and the one it enters ('' for the same)."""

    name: str
    leaves: tuple[str, ...]
    enters: str


ACTIONS = {
    "pause": Action("pause", ("queued", "running"), "paused"),
    "resume": Action("resume", ("paused",), "running"),
    "cancel": Action("cancel", ("queued", "running", "paused"), "cancelled"),
    "retry": Action("retry", ("running", "paused", "completed", "failed", "cancelled"), "running"),
    "settle": Action("settle", ("running", "paused", "completed", "failed", "cancelled"), ""),
}


class NotFound(Exception):
    """No such job or item, or not yours."""


class NotAllowed(Exception):
    """The job's status does not allow this action; the message is one sentence."""


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
    seq: int
    recent: int  # items finished in the last RATE_WINDOW seconds

    @property
    def done(self) -> int:
        """Items that have ended."""
        return self.completed + self.failed + self.cancelled + self.unknown

    @property
    def terminal(self) -> bool:
        return self.finished_at is not None

    def listed(self, status: str) -> bool:
        """Whether a list of the jobs with this status has it: one of JOB_STATUSES, WITH_FAILURES, or '' for all."""
        return self.failed > 0 if status == WITH_FAILURES else status in ("", self.status)

    @property
    def rate(self) -> float:
        """Items per second: of late while it runs, over all when it has ended."""
        if self.began is None or (self.status == "paused" and not self.running):
            return 0.0
        if self.finished_at is not None:
            return (self.done - self.cancelled) / max(self.elapsed, 0.001)
        return self.recent / min(max(time.time() - self.began, 1.0), RATE_WINDOW)

    @property
    def began(self) -> float | None:
        """When its last run began: its start, or a retry after its end."""
        return None if self.started_at is None else max(self.started_at, self.begun_at or 0.0)

    @property
    def eta(self) -> float | None:
        """Seconds left at the present rate; None where that cannot be said."""
        if self.status != "running" or self.rate <= 0 or not self.filled:
            return None
        return (self.queued + self.running) / self.rate

    @property
    def elapsed(self) -> float:
        """Seconds that it has run or, at its end, that it took; the time from an end to a retry is not in it."""
        return 0.0 if self.began is None else self.worked + (self.finished_at or time.time()) - self.began

    def json(self) -> dict[str, Any]:
        """The job as the API and the streams give it."""
        return {
            "id": self.id,
            "task": self.task,
            "args": decode(self.args),
            "owner": self.owner,
            "engine": self.engine,
            "status": self.status,
            "reason": self.reason,
            "total": self.total,
            "queued": self.queued,
            "running": self.running,
            "completed": self.completed,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "unknown": self.unknown,
            "rate": round(self.rate, 2),
            "eta": None if self.eta is None else round(self.eta, 1),
            "created_at": iso(self.created_at),
            "started_at": iso(self.started_at),
            "finished_at": iso(self.finished_at),
            "seq": self.seq,
        }


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

    def json(self) -> dict[str, Any]:
        """The item as the API and the streams give it."""
        return {
            "id": self.id,
            "job": self.job,
            "position": self.position,
            "key": self.key,
            "status": self.status,
            "attempt": self.attempt,
            "code": self.code,
            "error": self.error,
            "result": None if self.result is None else decode(self.result),
            "ms": None if self.ms is None else round(self.ms, 1),
            "run_at": iso(self.run_at or None),
            "updated_at": iso(self.updated_at),
            "seq": self.seq,
        }

    @property
    def retrying(self) -> bool:
        """Queued again after a try that did not succeed."""
        return self.status == "queued" and self.attempt > 0 and self.run_at > 0


class Chunk(msgspec.Struct):
    """Items to be written, as SQLite takes them: a million of them ask for Python's lock some hundred times."""

    rows: str  # a JSON array of [key, payload]: a payload is JSON as text, or null where the task gets the key itself
    keys: str  # the keys, one a line
    size: int
    last: bool = False  # nothing comes behind it

    @classmethod
    def of(cls, rows: Sequence[tuple[str, str | None]], last: bool = False) -> "Chunk":
        keys = "\n".join(" ".join(key.split("\n")) for key, _ in rows)
        return cls(encode(rows).decode(), keys, len(rows), last)


def chunk_size(there: int) -> int:
    """How many items the next chunk has at most: few at first, and none that keeps runners waiting that have few."""
    return min(max(FIRST, there // 4), CHUNK)


class Claimed(msgspec.Struct, gc=False, array_like=True):
    """An item as a worker gets it: what to run, and the attempt its result must name."""

    id: int
    key: str
    payload: str | None
    attempt: int
    spent: int
    crashes: int

    @property
    def value(self) -> Any:
        """What the task's function is called with."""
        return self.key if self.payload is None else decode(self.payload)


class Result(msgspec.Struct, gc=False, array_like=True):
    """What became of one try of an item. status 'queued' with a run_at means: try again, not before then."""

    id: int
    attempt: int
    status: str
    code: int | None = None
    error: str | None = None
    result: str | None = None
    ms: float | None = None
    run_at: float = 0.0
    mark: str | None = None  # the error group of one that has failed: the ledger says it


class Step(msgspec.Struct):
    """A step that a body task reports: it is the item at `position`."""

    position: int
    key: str
    status: str
    error: str | None = None
    result: str | None = None
    ms: float | None = None
    run_at: float = 0.0


def ended_in(results: Iterable[Result], steps: Iterable[Step]) -> int:
    """How many items have ended by what is reported."""
    return sum(status not in ("queued", "running") for status in [*(r.status for r in results), *(s.status for s in steps)])


class Work(msgspec.Struct):
    """The ledger's answer to a worker: items to run, and how the job stands."""

    status: str  # of a body job that another worker has taken over: cancelled
    items: list[Claimed] = []
    concurrency: int | None = None
    wait: float = 0.0  # seconds until it is worth asking again
    queued: int = 0
    filled: bool = True
    hold_until: float = 0.0  # nothing of the task starts before then
    waiting: bool = False  # other jobs wait for a worker
    mine: list[int] | None = None  # to a claim of none: the job's items that the worker holds


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How one job is to be run, where it differs from its task. Each is checked by `rowcast.starting`."""

    concurrency: int | None = None
    pace: float | None = None  # items per second at most
    stop_after: str | None = None
    canary: int | None = None  # pause after so many items
    dry_run: int = 0  # of the first so many items, show what would be sent
    run_at: float = 0.0  # not before
    unique_key: str | None = None
    schedule: int | None = None


class Hold(msgspec.Struct):
    """The API asked for a pause: nothing of the task before `until`."""

    until: float
    reason: str


class Ended(msgspec.Struct):
    """How a body task ended: error None means it returned; `again` that another try is worth it, `after` so many seconds."""

    error: str | None = None
    again: bool = False
    after: float | None = None


def shorten(key: str) -> str:
    """A key as it is shown: cut where it is very long."""
    return key if len(key) <= KEY_LENGTH else f"{key[: KEY_LENGTH - 1]}…"


@lru_cache(maxsize=1024)  # the rows of a transaction have one time
def iso(at: float | None) -> str | None:
    """Unix seconds as ISO 8601 UTC with milliseconds."""
    if at is None:
        return None
    seconds, milliseconds = divmod(round(at * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z"


def fingerprint(code: int | None, error: str | None) -> str:
    """The group a failure belongs to: its code and its message with numbers, addresses and quoted texts taken out."""
    return f"{code or ''} {message_of(error)}".strip()


def message_of(error: str | None) -> str:
    """An error without what differs from item to item, for showing a group."""
    text = (error or "failed").splitlines()[0] if (error or "").strip() else "failed"
    text = re.sub(r"\S+@\S+", "…", text)
    text = re.sub(r"\b0x[0-9a-f]+\b|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "…", text, flags=re.I)
    return re.sub(r"\d+(?:\.\d+)?", "…", text)[:200]
