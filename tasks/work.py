"""What passes between a ledger and a worker: items that are given out, results and
steps that come back, and how long a worker is believed to live.

Data alone: the tables, the runner and the same over HTTP share these
records. Moments are by `clock.steady`, 0 is none; `ms` are milliseconds.
"""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import msgspec

from rowcast.tasks.concurrency import Found
from rowcast.tasks.encoding import is_text, unpack
from rowcast.tasks.mail import Posted
from rowcast.tasks.records import Job, encode
from rowcast.tasks.sentences import worded

LEASE = 8.0  # seconds a worker is believed to live after its last heartbeat
SUSPECT = 3  # crashes after which an item is run apart: one that killed its worker counts as so many
HOPELESS = 9  # crashes after which a body task, or the reading of a job's items, is given up
CHUNK = 5_000  # rows written in one transaction
FIRST_CHUNK = (
    500  # items in the first chunk of a job that is written, so that runners soon have something to do
)
ERROR_LENGTH = 500
TROUBLE_LENGTH = 500
RESULT_LENGTH = 64_000
KEY_LENGTH = 300
NAMES = ("key", "email", "name", "id")  # by which an item is called, before any other of its values


class Due(NamedTuple):
    """A job that an engine has to look after: what is to be known to begin it, or not yet. Often there are
    hundreds, of which few begin.
    """

    id: int
    task: str
    entry: str
    engine: str
    status: str
    shape: str
    filled: bool
    concurrency: int | None


class Chunk(msgspec.Struct):
    """Items to be written, as SQLite takes them: a million of them
    ask for Python's lock some hundred times.
    """

    # a JSON array of [key, payload]: a payload is JSON as text, or null where the task gets the key itself
    rows: str
    keys: str  # the keys, one a line
    size: int
    last: bool = False  # nothing comes behind it

    @classmethod
    def of(cls, rows: Sequence[tuple[str, str | None]], last: bool = False) -> "Chunk":
        keys = "\n".join(" ".join(key.split("\n")) for key, _ in rows)
        return cls(encode(rows).decode(), keys, len(rows), last)


def chunk_size(there: int) -> int:
    """How many items the next chunk has at most: few at first, and none that keeps runners waiting that have
    few.
    """
    return min(max(FIRST_CHUNK, there // 4), CHUNK)


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
        return self.key if self.payload is None else unpack(self.payload)


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
    fingerprint: str | None = None  # the error group of one that has failed: the ledger says it
    begun: bool = True  # False: it was given back before the task was called
    excerpt: str | None = None  # JSON of a tries.Excerpt: what is kept of an answer that said no
    started_at: float = 0.0  # when the try began; 0: as long before now as it took


class LogPart(msgspec.Struct, gc=False, array_like=True):
    """Some lines that one try has logged or printed. The same part is told twice where an answer was lost."""

    item: int  # of a body task the position of the step
    attempt: int  # 0: the one that the step has now
    part: int  # rises
    at: float  # of the first of the lines
    lines: str  # JSON: [[seconds since then, level, text], ...]


class Step(msgspec.Struct):
    """A step that a body task reports: it is the item at `position`."""

    position: int
    key: str
    status: str
    error: str | None = None
    result: str | None = None
    ms: float | None = None
    run_at: float = 0.0
    once: bool = False  # it is running, and may not be repeated from here on


class Standing(msgspec.Struct):
    """How a job stands, for one of its workers."""

    status: str  # of a body job that another worker has taken over: cancelled
    concurrency: int | None = None
    least: int | None = None  # items at once, where a run finds how many; None: all that are allowed
    priority: int = 0
    queued: int = 0
    filled: bool = True
    hold_until: float = 0.0  # nothing of the task starts before then
    waiting: bool = False  # other jobs wait for a worker
    mine: list[int] = []  # to a look: the job's items that the worker has


class Work(Standing):
    """The answer to a report: items to run, and how the job stands."""

    items: list[Claimed] = []
    wait: float = 0.0  # seconds until it is worth asking again


class Hold(msgspec.Struct):
    """The API asked for a pause: nothing of the task before `until`."""

    until: float
    reason: str


class Ended(msgspec.Struct):
    """How a body task ended: error None means it returned; `again` that another try is worth it, `after` so
    many seconds; `unknown` that nobody knows what became of it.
    """

    error: str | None = None
    again: bool = False
    after: float | None = None
    unknown: bool = False


class Report(msgspec.Struct, omit_defaults=True):
    """What a worker tells of a job, and how many items it asks for."""

    results: list[Result] = []
    steps: list[Step] = []  # of a body task, each position once
    ended: Ended | None = None
    hold: Hold | None = None
    found: Found | None = None  # where that has changed
    log: list[LogPart] = []
    limit: int = 0  # items to give, at most
    in_flight: int = 0  # of the job's running items, those that the worker has
    shares: bool = False  # it shares out the places of the task among its jobs, if no other worker lives
    leftovers: int = 0  # calls that go on in the worker though their tries are over

    @property
    def only_asks(self) -> bool:
        return not (self.results or self.steps or self.ended or self.hold or self.found or self.log)

    @property
    def rows(self) -> int:
        """How many rows a transaction may have to write for it."""
        return len(self.results) + len(self.steps) + self.limit


def ended_in(report: Report) -> int:
    """How many items have ended by what is reported."""
    told: list[Result | Step] = [*report.results, *report.steps]
    return sum(one.status not in ("queued", "running") for one in told)


def shorten(key: str) -> str:
    """A key as it is shown: cut where it is very long. Half a surrogate pair, as a file's name may have one
    (PEP 383), is written out, so that two names stay two.
    """
    if not is_text(key):
        key = key.encode(errors="backslashreplace").decode()
    return key if len(key) <= KEY_LENGTH else f"{key[: KEY_LENGTH - 1]}…"


SLICE_SECONDS = 5.0  # seconds that a slice works on a job
WATCH_SECONDS = 2.0  # seconds that an answer to `watch` waits for news, at most

VERSION = version("rowcast")  # read once: it is looked up in files
VERSION_HEADER = "Rowcast-Version"
CLOCK_HEADER = "Rowcast-Clock"


class LedgerCall(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The body of any call about a job: who asks, and for which slice. What else there is, is of some
    calls.
    """

    worker: str
    job: int = 0
    slot: int = 0
    token: str = ""
    wait: float = 0.0
    reason: str = ""


class ReportCall(LedgerCall, kw_only=True, omit_defaults=True):
    """The body of `exchange`."""

    report: Report
    number: int = 0  # rises with each, and where one is repeated
    has: list[tuple[int, int]] | None = (
        None  # of a claim that is repeated: (item, attempt) of what the worker has
    )


class RoundCall(msgspec.Struct, kw_only=True):
    """The body of `round`: what several slices of one worker tell and ask for, each as by its own call."""

    reports: list[ReportCall] = []  # each as in `exchange`
    looks: list[LedgerCall] = []


class Answer(msgspec.Struct, omit_defaults=True):
    """The answer to one of them: the work, how its job stands, or why it was not taken, as by HTTP."""

    work: Work | None = None
    standing: Standing | None = None
    code: int = 200
    error: str = ""

    @classmethod
    def of_work(cls, work: Work) -> "Answer":
        return cls(work=work)

    @classmethod
    def of_standing(cls, standing: Standing) -> "Answer":
        return cls(standing=standing)


class MailCall(LedgerCall, kw_only=True, omit_defaults=True):
    """The body of `mail`: one for the built-in mailbox."""

    posted: Posted


class Beat(msgspec.Struct, kw_only=True):
    """The body of a heartbeat: who lives, how many items it has ended,
    and which slices it works on: (job, slot, token).
    """

    worker: str
    host: str
    pid: int
    engine: str
    version: str
    done: int = 0
    alive: bool = True
    slices: list[tuple[int, int, str]] = []
    trouble: str = ""  # what holds it up, or that its code was edited, in a sentence
    stalls: list[tuple[int, float, str]] = []  # jobs that hold up its others: for how long, and where


class WatchCall(msgspec.Struct, kw_only=True):
    """The body of `watch`, whose answer waits until there is news of one of these jobs, for some seconds at
    most."""

    worker: str
    slices: list[tuple[int, int, str]] = []  # (job, slot, token)
    seen: list[str] = []  # the version of each that the worker has seen; '' for none
    wait: float = 0.0


class Given(msgspec.Struct):
    """What a slice is given: its job, None where there is nothing to
    do for it, and the token by which it works.
    """

    job: Job | None = None
    token: str = ""
    api_url: str = ""
    opened: dict[str, str] = {}  # what the job's secrets are, by their seals


def in_doubt(error: str) -> str:
    """An error after which nobody knows what has become of the item."""
    return worded(f"{error}; it may or may not have arrived.")
