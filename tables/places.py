"""The places of a task: what a job may start now, beside the others of its task and those that ask with it.
Called inside the ledger's transactions.
"""

from collections import Counter
from collections.abc import Collection

import msgspec

from rowcast.tables.database import Connection
from rowcast.tables.halts import HALTED
from rowcast.tables.pacing import (
    RANK,
    Other,
    burst,
    by_rate,
    even_part,
    lines,
    parts_of,
    side_by_side,
    waiting,
)
from rowcast.tasks import clock
from rowcast.tasks.records import decode, encode
from rowcast.tasks.work import Work

FIRST = 11  # above any priority
# whether a job's own line (lines_of in pacing.py) lets one start now
DUE = """pace is null or coalesce(
    (select arrival from paces where paces.task = printf('%s at %g/s', side.task, pace)), 0)
        <= ?1 + (max(1.0, pace / 10) - 1) / pace"""


class Row(msgspec.Struct, array_like=True):
    """A job as it stands in the table, with what its task may have to wait for."""

    id: int
    task: str
    shape: str
    worker: str | None
    status: str
    queued: int
    running: int
    filled: int
    concurrency: int
    least: int | None
    priority: int
    hold_until: float
    canary: int | None
    pace: float | None

    def standing(self, worker: str) -> Work:
        """How the job stands, for a worker of it."""
        lost = self.shape == "body" and self.worker != worker
        return Work(
            "cancelled" if lost else self.status,
            queued=self.queued,
            filled=bool(self.filled),
            concurrency=self.concurrency or None,
            least=self.least,
            priority=self.priority,
            hold_until=clock.told(self.hold_until),
        )


ROWS = msgspec.json.Decoder(list[Row])


def rows_of(conn: Connection, jobs: Collection[int]) -> dict[int, Row]:
    """How these jobs stand, but for those that are gone."""
    (text,) = conn.execute(
        f"""select json_group_array(json_array(jobs.id, jobs.task, shape, worker,
               iif(status in ('queued', 'running') and {HALTED}, 'paused', status), queued,
               running, filled, coalesce(concurrency, 0), least, priority, coalesce(hold_until, 0), canary,
               pace))
           from json_each(?) cross join jobs on jobs.id = value left join paces on paces.task = jobs.task""",
        (encode(list(jobs)).decode(),),
    ).fetchone()
    return {row.id: row for row in ROWS.decode(text)}


def allowed(
    conn: Connection,
    row: Row,
    wanted: int,
    in_flight: int | None,
    now: float,
    rivals: "TaskPlaces",
    shares: bool = False,
) -> tuple[int, float]:
    """How many of `wanted` starts are allowed now, and the seconds to wait where it is none for a known time.

    `in_flight` of the job's running items are the asking worker's own; None where what others have has been
    counted. `rivals` are the jobs of its task: what they leave it, unless its worker, which has all of
    them to itself, `shares` the places out (worker/places.py).
    """
    wanted = min(wanted, waiting(conn, row.id, row.canary) if row.canary else row.queued)
    if rivals.beside(row.id):
        wanted = wanted if shares else min(wanted, rivals.share(row.id))
    elif in_flight is not None and row.running > in_flight:
        wanted = min(wanted, (row.concurrency or 1) - row.running)
    if wanted < 1:
        return 0, 0.0
    if row.hold_until > now:
        return 0, row.hold_until - now
    wait = 0.0
    for line, pace in lines(conn, row.id) if row.pace else []:
        # an arrival that a slower pace has put off is brought forward
        conn.execute(
            "update paces set arrival = min(arrival, ?) where task = ?", (now + burst(pace) / pace, line)
        )
        found = conn.execute("select arrival from paces where task = ?", (line,)).fetchone()
        wanted, this_wait = by_rate(pace, found[0] if found else 0.0, wanted, now)
        wait = max(wait, this_wait)
    return wanted, wait


class Rival(msgspec.Struct):
    """A job that wants places of its task."""

    owner: str
    ready: int  # of its items, what could start now
    running: int
    concurrency: int
    priority: int = 0
    starved: bool = False
    due: bool = True  # its pace lets one start
    part: int = 0  # of what its owner has
    kept: int = 0  # what it may still have of that
    wanted: int = 0  # what it would take

    @property
    def as_other(self) -> Other:
        return Other(self.ready, self.running, self.concurrency, self.priority, self.starved)

    @property
    def rank(self) -> int:
        """Its priority, where it waits for its first item."""
        return FIRST if self.starved else self.priority


class Owner(msgspec.Struct):
    """What an owner's jobs of a task have, and want, together."""

    running: int = 0
    kept: int = 0
    wanted: int = 0
    # by rank, the jobs that have something to run and nothing in flight, and do not ask now
    idle: Counter[int] = msgspec.field(default_factory=Counter[int])


class TaskPlaces:
    """The jobs of one task that have something to run, which share its concurrency, and what each may start.

    The task's concurrency is the largest among its jobs. Each owner gets an equal part of it, and of that
    each of its jobs by its priority; what others leave of theirs may be had too. Nobody goes over the whole,
    so a job that starts late gets its part as items of the others end. What is added up here once serves all
    that ask in one transaction.
    """

    def __init__(self, jobs: dict[int, Rival], asking: Collection[int] = ()):
        self.asking = asking
        self.jobs = jobs
        self.whole = max((one.concurrency for one in jobs.values()), default=1)
        self.running = 0
        own: dict[str, list[int]] = {}
        for job, one in jobs.items():
            own.setdefault(one.owner, []).append(job)
        self.owners = {owner: Owner() for owner in own}
        self.each = max(1, even_part(self.whole, max(1, len(own))))
        for theirs in own.values():
            for job, part in zip(
                theirs, parts_of(self.each, [jobs[job].as_other for job in theirs]), strict=True
            ):
                self.jobs[job].part = part
                self._add(job, 1)

    @classmethod
    def of(cls, conn: Connection, task: str, now: float, asking: Collection[int] = ()) -> "TaskPlaces":
        """Those of a task, of which some are `asking` in the same transaction."""
        (text,) = conn.execute(
            f"""{side_by_side("jobs_now_of_task", f", {RANK}, task, pace")}
                select json_group_array(json_array(id, owner, ready, running, concurrency, priority, starved,
                    {DUE})) from side""",
            (now, task),
        ).fetchone()
        return cls({job: Rival(*one) for job, *one in decode(text)}, asking)

    def _add(self, job: int, sign: int) -> None:
        """Count a job in, or, with -1, out."""
        one = self.jobs[job]
        of = self.owners[one.owner]
        if sign > 0:
            one.kept = min(one.ready, max(0, min(one.part, one.concurrency) - one.running))
            one.wanted = min(one.ready, max(0, one.concurrency - one.running))
        of.kept += sign * one.kept
        of.wanted += sign * one.wanted
        of.running += sign * one.running
        if one.ready > 0 and one.due and not one.running and job not in self.asking:
            of.idle[one.rank] += sign
        self.running += sign * one.running

    def gave(self, job: int, items: int) -> None:
        """The job has got so many items."""
        if one := self.jobs.get(job):
            self._add(job, -1)
            one.ready -= items
            one.running += items
            self._add(job, 1)

    def beside(self, job: int) -> bool:
        """Whether there is another job."""
        return job in self.jobs and len(self.jobs) > 1

    def turn(self, job: int) -> tuple[bool, int, int]:
        """Which of those that ask is first: who is starved, who has least, who comes first."""
        one = self.jobs.get(job)
        return (not one.starved, one.running, -one.priority) if one else (True, 0, 0)

    def others_have_nothing(self, job: int) -> bool:
        """Whether another job, which does not ask now, waits for its first item, as it does where there are
        more jobs than concurrency. Of another owner's only where that one has nothing in flight at all; of a
        lower priority only where it is starved.
        """
        me = self.jobs.get(job)
        own = self.owners[me.owner] if me else None
        if me and own and any(n and rank >= me.priority for rank, n in own.idle.items()):
            return True
        return any(of.idle.total() and not of.running for of in self.owners.values() if of is not own)

    def share(self, job: int) -> int:
        """How many more items the job may start beside the others."""
        me = self.jobs[job]
        own = self.owners[me.owner]
        free = self.whole - self.running
        room = max(0, self.each - own.running)  # of the owner's part
        mine = min(room, max(0, min(me.part, me.concurrency) - me.running))
        kept = own.kept - me.kept
        if len(self.owners) > 1:
            kept = min(kept, room - mine)
        for of in self.owners.values():
            if of is not own:
                kept += min(of.wanted, max(0, self.each - of.running))
        return min(me.concurrency - me.running, min(mine, free) + max(0, free - mine - kept))
