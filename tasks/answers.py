"""What programs are given: a job, an item and the other rows as the API and the streams tell them, and as
openapi.py describes them. Times are ISO 8601 in UTC, arguments and results the JSON that they are."""

from collections.abc import Callable
from itertools import accumulate
from operator import attrgetter
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from rowcast.tasks import concurrency, filters, halts, records, schedules
from rowcast.tasks.encoding import shown_text, to_json
from rowcast.tasks.filters import BulkRow
from rowcast.tasks.held import CAUSES
from rowcast.tasks.notify import CHANNELS, EVENTS, Notify
from rowcast.tasks.records import DELIVERY_STATUSES, ITEM_STATUSES, JOB_STATUSES, iso
from rowcast.tasks.tries import TRY_STATUSES, ItemNow, TryRow

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Count = Annotated[int, Meta(ge=0)]
Arguments = Annotated[Raw, Meta(extra_json_schema={"type": "object"})]
JobStatus = Annotated[str, Meta(extra_json_schema={"enum": JOB_STATUSES})]
ItemStatus = Annotated[str, Meta(extra_json_schema={"enum": ITEM_STATUSES})]
TryStatus = Annotated[str, Meta(extra_json_schema={"enum": TRY_STATUSES})]

Next = Annotated[int | None, Meta(description="the `after` of the next page; null on the last")]


class Answer(msgspec.Struct, forbid_unknown_fields=True):
    """What is told. Of a row each field is what the row has by that name, or what `MADE` makes of it."""


class Held(Answer):
    """What holds a job."""

    cause: Annotated[str, Meta(extra_json_schema={"enum": CAUSES})]
    sentence: str
    until: Annotated[Time | None, Meta(description="when it is over by itself, where that is known")]


class Found(Answer):
    """What a job has found that its API bears."""

    limit: Annotated[int, Meta(description="items in flight at once")]
    settled: Annotated[bool, Meta(description="found; no more is looked for but now and then")]
    slows: Annotated[int, Meta(description="with so many at once the API was slower; 0: with none yet")]
    pace: Annotated[float, Meta(description="items per second, where it refuses more; 0: it has not")]


class Job(Answer):
    """One run of a task."""

    id: int
    task: str
    args: Annotated[Arguments | None, Meta(description="null in a message where they are large")]
    owner: str
    tags: list[str]
    engine: str
    status: JobStatus
    reason: Annotated[str, Meta(description="why it is paused or has failed, else empty")]
    total: Count
    queued: Count
    running: Count
    completed: Count
    failed: Count
    cancelled: Count
    unknown: Count
    priority: Annotated[int, Meta(description="of its owner's jobs those with a higher one come first")]
    concurrency: Annotated[int | str | None, Meta(description="items in flight at once, or auto")]
    found: Annotated[Found | None, Meta(description="where that is auto: what its API bears")]
    rate: Annotated[float, Meta(description="items per second: of late, or on average once it has ended")]
    eta: Annotated[float | None, Meta(description="seconds left")]
    eta_range: Annotated[
        tuple[float, float] | None, Meta(description="seconds left, from and to; a hold is in it")
    ]
    eta_why: Annotated[str, Meta(description="why there is no eta_range, else empty")]
    held_by: Annotated[Held | None, Meta(description="why it goes no faster, or not at all")]
    after_job: Annotated[int | None, Meta(description="the job at whose end it starts")]
    condition: Annotated[str, Meta(description="if that has ended so; empty where it follows none")]
    again_job: Annotated[int | None, Meta(description="the job that it runs once more, or an item of it")]
    again_item: Annotated[int | None, Meta(description="that item; null where it is the whole job")]
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    seq: int


class Item(Answer):
    """One unit of a job."""

    id: int
    job: int
    position: int
    key: str
    status: ItemStatus
    attempt: Count
    code: int | None
    error: str | None
    result: Annotated[Raw | None, Meta(description="what the task returned, any JSON")]
    ms: float | None
    run_at: Time | None
    updated_at: Time
    seq: int


class Excerpt(Answer):
    """What is kept of an answer of the API that said no; secrets are masked."""

    text: Annotated[str, Meta(description="the beginning of its body")]
    content_type: str | None
    request_id: Annotated[str | None, Meta(description="by which the API calls this answer")]
    retry_after: str | None


class Try(Answer):
    """One call of the task for an item."""

    attempt: Count
    status: TryStatus
    code: int | None
    error: str | None
    answer: Excerpt | None
    started_at: Time
    ms: Annotated[float | None, Meta(description="null while it runs, and where its end was not seen")]
    worker: str | None


class LogLine(Answer):
    """One line that a try has logged or printed."""

    at: Time
    attempt: Count
    level: Annotated[str, Meta(description="of logging; stdout or stderr; note, of what was cut")]
    text: str


class WholeItem(Item):
    """An item with what it was given, and all its tries."""

    payload: Annotated[Raw | None, Meta(description="what the task gets, any JSON; secrets are masked")]
    attempts: Annotated[list[Try], Meta(description="the oldest first")]
    log: Annotated[list[LogLine], Meta(description="what the tries have said, the oldest try first")]


class ErrorGroup(Answer):
    """Failures of a job that are alike."""

    fingerprint: Annotated[str, Meta(description="what `retry` takes as its group")]
    code: int | None
    message: str
    items: int
    first_at: Time
    last_at: Time
    sample: str
    growth: Annotated[
        list[tuple[Time, int]], Meta(description="how many had failed so by then, the oldest first")
    ]


class Delivery(Answer):
    """A message about a job, to one receiver."""

    id: Annotated[str, Meta(description="what the receiver knows it by: the same on every try")]
    channel: Annotated[str, Meta(extra_json_schema={"enum": CHANNELS})]
    to: str
    event: Annotated[str, Meta(extra_json_schema={"enum": EVENTS})]
    status: Annotated[str, Meta(extra_json_schema={"enum": DELIVERY_STATUSES})]
    attempts: Count
    code: Annotated[int | None, Meta(description="of the last answer; null: there was none")]
    error: Annotated[str | None, Meta(description="why it did not arrive")]
    created_at: Time
    due_at: Annotated[Time, Meta(description="when it is tried next, or was last")]
    tried_at: Time | None
    delivered_at: Time | None


class LastJob(Answer):
    """A job that a schedule has started."""

    id: int
    status: JobStatus
    failed: Count
    unknown: Count
    reason: str


class Schedule(Answer):
    """A task that is started by the clock."""

    id: int
    name: Annotated[str, Meta(description="how people call it; empty: by its task")]
    task: str
    args: Arguments
    options: Annotated[
        dict[str, Any],
        Meta(description="how its jobs are run, as of a start, where that is not the task's own"),
    ]
    owner: str
    cron: Annotated[str, Meta(description="five fields, in `zone`")]
    zone: Annotated[str, Meta(description="a name of the time zone database")]
    paused: bool
    next_at: Time
    moments: Annotated[list[Time], Meta(description="the next five; none while it is paused")]
    last_job: int | None
    last_jobs: Annotated[list[LastJob], Meta(description="the last five, the newest first")]
    sentence: Annotated[
        str, Meta(description="what keeps it from starting, or has kept it at `missed_at`; empty: nothing")
    ]
    missed_at: Annotated[
        Time | None, Meta(description="when it should have started and did not, since its last start")
    ]
    created_at: Time


class Halt(Answer):
    """A task of which nothing new starts."""

    task: Annotated[str, Meta(description="its name; empty: all tasks")]
    account: str
    reason: str
    at: Time
    sentence: str


class Halts(Answer):
    """What is stopped."""

    halts: list[Halt]


class Worker(Answer):
    """A process that runs items."""

    name: str
    host: str
    engine: str
    version: str
    in_flight: Count
    done: Count
    started_at: Time
    seen_at: Time
    alive: bool
    trouble: str


class Checked(Answer):
    """What would come of an act or a start; nothing was done."""

    sentence: str
    items: Annotated[int | None, Meta(description="how many items would be moved; null where unknown")]


class Acted(Answer):
    """What came of an act on many jobs."""

    matched: Annotated[Count, Meta(description="jobs that the filter had")]
    changed: Annotated[Count, Meta(description="of them, those that were changed, or would be")]
    bulk: Annotated[
        int | msgspec.UnsetType,
        Meta(description="of many jobs: they are being changed, `GET /api/bulks/{bulk}` says how far"),
    ] = msgspec.UNSET


class Bookmark(Answer):
    """A filter of jobs that was kept."""

    id: int
    name: str
    filter: Annotated[Raw, Meta(extra_json_schema={"type": "object"})]


class Bookmarks(Answer):
    """The filters that who asks has kept."""

    bookmarks: list[Bookmark]


class Bulk(Answer):
    """An act on many jobs."""

    id: int
    account: str
    action: str
    filter: Annotated[Raw, Meta(extra_json_schema={"type": "object"})]
    found: Annotated[Count, Meta(description="jobs that the filter had")]
    total: Annotated[Count, Meta(description="of them, those that it was to change")]
    done: Annotated[Count, Meta(description="of them, those that are changed")]
    created_at: Time
    finished_at: Annotated[Time | None, Meta(description="null while it goes on")]


class JobsPage(Answer):
    """A page of jobs."""

    jobs: list[Job]
    next: Next


class ItemsPage(Answer):
    """A page of items."""

    items: list[Item]
    next: Next


class ErrorGroups(Answer):
    """Why items fail."""

    errors: list[ErrorGroup]


class Receivers(Answer):
    """Who is told of a job."""

    notify: list[Notify]


class Shares(Answer):
    """With whom a job is shared, to look at: accounts, and roles."""

    accounts: list[str]
    roles: list[str]


class Webhook(Answer):
    """An address that messages are posted to."""

    id: int
    url: str
    retired_at: Annotated[Time | None, Meta(description="until when the secret before is valid too")]
    shown_at: Annotated[Time | None, Meta(description="when its secret was shown")]
    created_at: Time


class Push(Answer):
    """Whether browsers are told by Web Push."""

    key: Annotated[str | None, Meta(description="what a browser is asked with; null where that is off")]


class Browser(Answer):
    """A browser that is told."""

    to: Annotated[str, Meta(description="how it is called as a receiver")]


class NewSecret(Answer):
    """A webhook, and its secret, which is shown this once."""

    id: int
    url: str
    retired_at: Time | None
    shown_at: Time | None
    created_at: Time
    secret: Annotated[str, Meta(description="whsec_ and base64")]


class Schedules(Answer):
    """What starts by the clock."""

    schedules: list[Schedule]


class Workers(Answer):
    """Who does the work."""

    workers: list[Worker]


class Link(Answer):
    """A signed link."""

    url: str
    expires_at: Time


KINDS: dict[type, type[Answer]] = {
    records.Job: Job,
    records.Item: Item,
    records.ErrorGroup: ErrorGroup,
    schedules.Schedule: Schedule,
    schedules.LastJob: LastJob,
    halts.Halt: Halt,
    BulkRow: Bulk,
    filters.Bookmark: Bookmark,
    records.Delivery: Delivery,
    records.Webhook: Webhook,
    records.WorkerRow: Worker,
}


def as_raw(text: str) -> Raw:
    return Raw(shown_text(text).encode())


def as_held(held: records.Held) -> Held:
    return Held(held.cause, held.sentence, moment(held.until))


def as_growth(rows: list[tuple[int, int]]) -> list[tuple[str | None, int]]:
    """Of what was counted in some seconds each, how many there were by then."""
    so_far = accumulate(items for _, items in rows)
    return [(iso(second), number) for (second, _), number in zip(rows, so_far, strict=True)]


def as_found(text: str) -> Found:
    found = msgspec.json.decode(text, type=concurrency.Found)
    return Found(found.limit, found.settled, found.slows, found.pace)


def as_options(text: str) -> dict[str, Any]:
    """How a schedule's jobs are run, by the names that a start has for it."""
    found: dict[str, Any] = records.decode(text)
    return {NAMES.get(name, name): value for name, value in found.items()}


READ = {"Job.concurrency": "concurrency_given"}  # of a row, by the name of what is told of it
NAMES = {"pace": "rate"}  # of what options a start calls otherwise


def moment(at: float) -> str | None:
    """A time as it is told; 0 is none."""
    return iso(at) if at else None


# What is not told as the row has it, besides the times, by its name or by that of its answer too.
MADE: dict[str, Callable[[Any], Any]] = {
    "args": as_raw,
    "tags": records.decode,
    "result": as_raw,
    "rate": lambda rate: round(rate, 2) if rate >= 1 else float(f"{rate:.3g}"),
    "eta": lambda seconds: round(seconds, 1),
    "ms": lambda ms: round(ms, 1),
    "paused": bool,
    "held_by": as_held,
    "Job.found": as_found,
    "growth": as_growth,
    "options": as_options,
    "filter": lambda text: Raw(text.encode()),
    "moments": lambda moments: [iso(at) for at in moments],
    "last_jobs": lambda jobs: [of(job) for job in jobs],
}


def _how(
    kind: type[Answer],
) -> tuple[type[Answer], Callable[[Any], Any], list[tuple[int, Callable[[Any], Any]]]]:
    """How a row is told: as what, what is read of it, and what of that is made into something else."""
    names = kind.__struct_fields__
    owns = [f"{kind.__name__}.{name}" for name in names]
    read = [READ.get(own, name) for own, name in zip(owns, names, strict=True)]
    made = [
        moment if name == "at" or name.endswith("_at") else MADE.get(own, MADE.get(name))
        for own, name in zip(owns, names, strict=True)
    ]
    return kind, attrgetter(*read), [(n, make) for n, make in enumerate(made) if make]


HOW = {row: _how(kind) for row, kind in KINDS.items()}


def of(row: Any) -> Any:
    """A row as programs are given it."""
    kind, read, made = HOW[type(row)]
    values = list(read(row))
    for n, make in made:
        if values[n] is not None:
            values[n] = make(values[n])
    return kind(*values)


def of_try(row: TryRow) -> Try:
    kept = row.excerpt_read
    answer = kept and Excerpt(kept.text, kept.content_type, kept.request_id, kept.retry_after)
    ms = None if row.ms is None else round(row.ms, 1)
    began = iso(row.started_at) or ""
    return Try(row.attempt, row.status, row.code, row.error, answer or None, began, ms, row.worker)


def whole_item(now: ItemNow) -> WholeItem:
    """An item with all that there is of it."""
    plain = of(now.item)
    payload = None if now.given is None else Raw(to_json(now.given))
    values = {name: getattr(plain, name) for name in Item.__struct_fields__}
    log = [LogLine(iso(line.at) or "", line.attempt, line.level, line.text) for line in now.log]
    attempts = [of_try(row) for row in now.tries]
    return WholeItem(**values, payload=payload, attempts=attempts, log=log)
