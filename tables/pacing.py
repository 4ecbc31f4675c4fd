"""Pacing: what keeps a job from starting more items now. Called inside the ledger's transactions.

Pace is GCRA over rows of `paces`, so it holds across all jobs and processes; Retry-After holds the whole task
back; jobs of one task share its concurrency, by their priority; a canary stops after its first items; a stop
rule pauses a job that fails too much.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rowcast.tables.counts import change_job, move_items
from rowcast.tables.database import Connection, tick
from rowcast.tasks import clock
from rowcast.tasks.concurrency import Found
from rowcast.tasks.records import Job, encode
from rowcast.tasks.sentences import worded
from rowcast.tasks.work import CHUNK, Hold

MOST_HOLDS = 1_000  # of a task that are kept for pictures
STARVED = 10  # seconds after which a job gets a place, whatever its priority
# Which job is first: the one of the highest priority, of which each minute of waiting counts as a step.
BEFORE = "min(priority + max(0, ? - max(created_at, run_at)) / 60, 10) desc, id"


class Other(NamedTuple):
    """A job of a task as it stands among the others of its owner."""

    ready: int
    running: int
    concurrency: int
    priority: int = 0
    starved: bool = False  # nothing of it has run for a while

    @property
    def wants(self) -> int:
        return min(self.ready, max(0, self.concurrency - self.running))


class Rivals(NamedTuple):
    """Who wants places of a task beside an owner."""

    owners: dict[str, tuple[int, int]] = {}  # how many more each of them wants, and how many they have
    most: int = 0  # the largest concurrency of a job of the task

    def but(self, owner: str) -> "Rivals":
        return Rivals({name: its for name, its in self.owners.items() if name != owner}, self.most)


REACH = (
    f"coalesce(canary, {1 << 62})"  # the position before which a job's items may start: its canary, or all
)
OF_TASK = "finished_at is null and task = ?2 and status in ('queued', 'running')"  # those that may go on
MOST = f"(select max(concurrency) from jobs indexed by jobs_now_of_task where {OF_TASK})"
OF_ITEMS = "from items where job = jobs.id and status = 'queued'"
STARTS = f"(select count(*) from (select 1 {OF_ITEMS} and {{}} and position < {REACH} limit {MOST}))"
# of a job's items those that could start now: none that waits for another try, or behind the canary, and no
# more than a burst of its pace lets start at once; of most jobs all that are queued
READY = f"""min(
    iif(canary is null and not exists (select 1 {OF_ITEMS} and run_at > ?1), queued,
        {STARTS.format("run_at = 0")} + {STARTS.format("run_at > 0 and run_at <= ?1")}),
    iif(pace is null, queued, max(1, cast(pace / 10 as integer))))"""
# whether one could
COULD_START = f"""(exists (select 1 {OF_ITEMS} and run_at = 0 and position < {REACH})
    or exists (select 1 {OF_ITEMS} and run_at > 0 and run_at <= {{now}} and position < {REACH}))"""
RANK = f"""priority,
    running = 0 and coalesce((select max(second) from throughput where job = jobs.id), created_at)
        < ?1 - {STARVED} as starved"""


def side_by_side(index: str, more: str = "", of: str = "") -> str:
    """A table `side`, of the jobs of the task ?2 that run something at the moment ?1, or could start it; with
    `more` columns. They are found by an index."""
    return f"""with found as materialized (
            select id, owner, {READY} as ready, running, concurrency{more} from jobs indexed by {index}
            where {OF_TASK} and (running > 0 or queued > 0) and shape = 'items' {of}),
        side as (select * from found where running > 0 or ready > 0)"""


def rivals_of(conn: Connection, task: str, now: float) -> Rivals:
    """All owners whose jobs of a task have something to run; of thousands of jobs SQLite makes the sums."""
    rows = conn.execute(
        f"""{side_by_side("jobs_now_of_task")}
            select owner, sum(min(ready, max(0, concurrency - running))), sum(running), max(concurrency)
            from side group by owner""",
        (now, task),
    ).fetchall()
    owners = {owner: (wanted, has) for owner, wanted, has, _ in rows}
    return Rivals(owners, max((most for *_, most in rows), default=0))


def own_of(conn: Connection, task: str, owner: str, now: float) -> dict[int, Other]:
    """The jobs of a task that an owner has and that have something to run, by their numbers."""
    rows = conn.execute(
        f"""{side_by_side("jobs_now", f", {RANK}", "and owner = ?3")}
            select id, ready, running, concurrency, priority, starved from side""",
        (now, task, owner),
    )
    return {job: Other(*row) for job, *row in rows}


def side_of(conn: Connection, task: str, job: int, now: float) -> Other:
    """The job as others see it."""
    sql = f"select {READY}, running, concurrency, {RANK} from jobs where id = ?3"
    ((*side,),) = conn.execute(sql, (now, task, job)).fetchall()
    return Other(*side)


def even_part(whole: int, holders: int, place: int | None = None) -> int:
    """The part of a whole that one of so many holders has, that at this place from 0.

    The parts of all make the whole: the first have what is left over. Without a place the least that one has.
    """
    each, over = divmod(whole, holders)
    return each + (place is not None and place < over)


def parts_of(whole: int, jobs: Sequence[Other]) -> list[int]:
    """The parts of a whole that jobs of one owner have: each step of priority doubles it.

    Those of the highest have one place at the least; another with less than one has it while it is starved.
    """
    highest = max(one.priority for one in jobs)
    weights = [2.0 ** (one.priority - highest) for one in jobs]
    each = whole / sum(weights)
    return [
        max(int(each * weight + 1e-9), weight == 1 or one.starved)
        for one, weight in zip(jobs, weights, strict=True)
    ]


def shares(own: Mapping[int, Other], rivals: Rivals) -> dict[int, int]:
    """How many more items each of an owner's jobs of a task may start, beside each other and `rivals`.

    The task's concurrency is the largest among its jobs. Each owner gets an equal part of it, and of that
    each of its jobs by its priority; what others leave of theirs may be had too. Nobody goes over the whole,
    so a job that starts late gets its part as items of the others end.
    """
    whole = max(rivals.most, *(one.concurrency for one in own.values()))
    each = max(1, even_part(whole, len(rivals.owners) + 1))
    parts = parts_of(each, [*own.values()])
    running = sum(one.running for one in own.values())
    theirs = Counter(rivals.owners.values())  # of a thousand owners most want alike
    free = whole - running - sum(has * owners for (_, has), owners in theirs.items())
    room = max(0, each - running)  # of the owner's part
    kept_for_them = sum(min(wanted, max(0, each - has)) * owners for (wanted, has), owners in theirs.items())
    due = [
        max(0, min(part, one.concurrency) - one.running)
        for one, part in zip(own.values(), parts, strict=True)
    ]
    kept_by = [min(one.ready, its) for one, its in zip(own.values(), due, strict=True)]
    kept_by_all = sum(kept_by)
    found = {}
    for (job, one), its, kept in zip(own.items(), due, kept_by, strict=True):
        got = min(room, its)
        kept = kept_by_all - kept
        if rivals.owners:
            kept = min(kept, room - got)
        kept += kept_for_them
        found[job] = min(one.concurrency - one.running, min(got, free) + max(0, free - got - kept))
    return found


def waiting(conn: Connection, job: int, canary: int) -> int:
    """How many of a job's canary, its first items, are queued."""
    return int(conn.execute(
        "select count(*) from items where job = ? and status = 'queued' and position < ?", (job, canary)
    ).fetchone()[0])  # fmt: skip


def lines(conn: Connection, job: int) -> list[tuple[str, float]]:
    """The lines in which a start of the job has to wait, each a key of `paces` and its starts per second."""
    task, pace = conn.execute("select task, pace from jobs where id = ?", (job,)).fetchone()
    return lines_of(task, pace, fastest(conn, task)) if pace else []


def lines_of(task: str, pace: float, fastest: float) -> list[tuple[str, float]]:
    """The task's own line goes at the pace of its fastest job. Each job waits in a second one too, with those
    of its pace, so that what it has started counts when a faster one joins.
    """
    return [*([(task, fastest)] if fastest else []), (f"{task} at {pace:g}/s", pace)]


def fastest(conn: Connection, task: str) -> float:
    """The pace of a task's fastest job; 0 where one has none."""
    found, limited = conn.execute(
        """select max(pace), count(*) = count(pace) from jobs indexed by jobs_now_of_task
           where finished_at is null and task = ? and status in ('queued', 'running')
             and (running > 0 or queued > 0)""",
        (task,),
    ).fetchone()
    return float(found or 0) if limited else 0.0


def burst(pace: float) -> float:
    """Starts that may come at once: a tenth of a second's worth, at least one."""
    return max(1.0, pace / 10)


def by_rate(pace: float, arrival: float, wanted: int, now: float) -> tuple[int, float]:
    """GCRA, the generic cell rate algorithm (ITU-T I.371): how many of `wanted` may start now, and the wait
    if none.

    `arrival` is the theoretical arrival time of the next start.
    """
    spacing = 1 / pace
    most = burst(pace)
    free = (now - max(arrival, now)) / spacing + most
    if free < 1 - 1e-6:
        return 0, (1 - free) * spacing
    return min(wanted, int(free + 1e-6)), 0.0


def spend(conn: Connection, job: int, starts: int, now: float) -> None:
    """Count starts in the lines in which they had to wait; fewer than none were counted and did not come."""
    for line, pace in lines(conn, job) if starts else []:
        conn.execute(
            """insert into paces (task, arrival) values (?1, ?2 + ?3)
               on conflict (task) do update set arrival = max(arrival, ?2) + ?3""",
            (line, now, starts / pace),
        )


def put_off(conn: Connection, job: int, hold: Hold) -> None:
    """Nothing of the job's task starts before `hold.until` (Retry-After); the later of two holds counts."""
    ((task,),) = conn.execute("select task from jobs where id = ?", (job,)).fetchall()
    until = clock.moment(hold.until)
    conn.execute(
        """insert into paces (task, hold_until, reason) values (?1, ?2, ?3)
           on conflict (task) do update set reason = iif(?2 > hold_until, ?3, reason),
               hold_until = max(hold_until, ?2)""",
        (task, until, hold.reason),
    )
    _keep_hold(conn, task, until)
    _stamp_all(conn, task)


def _keep_hold(conn: Connection, task: str, until: float) -> None:
    """Pictures show when nothing was to start: of a task its newest holds are kept."""
    now = clock.now()
    conn.execute(
        "update holds set until = max(until, ?2) where task = ?1 and until >= ?3", (task, until, now)
    )
    if conn.changes() or until <= now:
        return
    conn.execute(
        "insert or replace into holds (task, started_at, until) values (?, ?, ?)", (task, now, until)
    )
    conn.execute(
        """delete from holds where task = ?1 and started_at < (
               select started_at from holds where task = ?1 order by started_at desc limit 1 offset ?2)""",
        (task, MOST_HOLDS - 1),
    )


def note_found(conn: Connection, job: int, found: Found) -> None:
    """What a job's runs have found that its API bears; told with results, which stamp the job."""
    conn.execute(
        "update jobs set found = ? where id = ? and least is not null", (encode(found).decode(), job)
    )


def lift(conn: Connection, job: Job) -> bool:
    """A person lets the job's task go on now, though its API has asked for a pause; False where it has not.

    What was told to wait by such an answer is tried again at once, of all jobs of the task.
    """
    now = clock.now()
    held = conn.execute(
        "select reason from paces where task = ? and hold_until > ?", (job.task, now)
    ).fetchone()
    if job.ended or not held:
        return False
    conn.execute("update paces set hold_until = 0, reason = '' where task = ?", (job.task,))
    conn.execute("update holds set until = ?2 where task = ?1 and until > ?2", (job.task, now))
    told = "run_at > :at and code in (429, 503, cast(:reason as integer))"
    for waiting in _stamp_all(conn, job.task):
        move_items(conn, waiting, "queued", "queued", told, "code = code", at=now, reason=held[0])
    return True


def _stamp_all(conn: Connection, task: str) -> list[int]:
    """Whoever follows a job of the task that has not ended is to see that something changed; returns them."""
    active = "select id from jobs indexed by jobs_now_of_task where task = ? and finished_at is null"
    rows = conn.execute(active, (task,)).fetchall()
    for (job,) in rows:
        conn.execute("update jobs set seq = ? where id = ?", (tick(conn), job))
    return [job for (job,) in rows]


def check_rules(conn: Connection, job: int, outcomes: Sequence[str] = ()) -> None:
    """After results, `outcomes` their statuses in order, or after more items were written: is the job to be
    paused?

    It is where its canary is over or its stop rule is hit, also where others that were told of in the same
    moment have completed since.
    """
    status, total, queued, completed, failed, filled, canary, rule, base, streak = conn.execute(
        """select status, total, queued, completed, failed, filled, canary, stop_after, stop_base, streak
           from jobs where id = ?""",
        (job,),
    ).fetchone()
    longest = streak
    if rule and outcomes:
        for outcome in outcomes:
            if outcome == "completed":
                streak = 0
            streak += outcome == "failed"
            longest = max(longest, streak)
        conn.execute("update jobs set streak = ? where id = ?", (streak, job))
    if status != "running" or not queued:
        return
    if rule and breaks(rule, failed - base, total if filled else max(total, CHUNK), longest):
        why = worded(f"Stopped by its rule ({rule_text(rule)}): {failed:,} of {total:,} items have failed.")
        change_job(conn, job, "stop", why)
    elif canary and total > canary and not _canary_runs(conn, job, canary):
        over = worded(
            f"The canary is over: {completed:,} completed, {failed:,} failed."
            f" Resume to run the other {queued:,}."
        )
        change_job(conn, job, "canary", over)


def _canary_runs(conn: Connection, job: int, canary: int) -> bool:
    """Whether any of the first `canary` items has not ended."""
    sql = "select 1 from items where job = ? and status = ? and position < ? limit 1"
    return any(conn.execute(sql, (job, status, canary)).fetchone() for status in ("running", "queued"))


def breaks(rule: str, failed: int, total: int, streak: int) -> bool:
    """Whether a stop rule is hit: "5%" of all items failed, or "20" failures in a row."""
    if rule.endswith("%"):
        return failed > 0 and failed * 100 >= float(rule[:-1]) * total
    return streak >= int(rule)


def rule_text(rule: str) -> str:
    return worded(f"{rule} failed") if rule.endswith("%") else worded(f"{rule} failures in a row")
