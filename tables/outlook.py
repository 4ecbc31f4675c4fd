"""Outlook: what a job may wait for, and how it went until now, read in some ten seeks and with no scan.

tasks/held.py says of it what holds the job, tasks/eta.py when it ends. Called inside or outside a
transaction; it writes nothing.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from rowcast.tables import measures, pacing
from rowcast.tables.counts import CLOSED
from rowcast.tables.database import Connection
from rowcast.tables.halts import halt_of
from rowcast.tasks.buckets import quantile, rest_of, variation, width_at
from rowcast.tasks.eta import eta_range
from rowcast.tasks.held import Outlook, Rival, held_by
from rowcast.tasks.records import ACTIVE, RATE_WINDOW, Job

T = TypeVar("T")
Known = dict[tuple[str, ...], Any]  # what was read of tasks and engines
KNOWN = 20  # tries from which on a part of them says something
_tails: dict[tuple[Any, ...], float] = {}  # of runs that have ended
MOST_TAILS = 1000
FEW = 200  # items that run, of which the first is looked for
MOST_RIVALS = 20
POINTS = 60  # of a growth that are looked at
WINDOWS = (RATE_WINDOW, 60, 600, 6000, 60_000)  # seconds over which a rate is taken, until enough have ended
ENOUGH = 10  # items
SHORTEST = 0.5  # seconds over which a rate is taken at least, of a job that goes on
ENDS = ("ends",)  # of what is known: when jobs end,
LASTS = 1.0  # seconds for which that holds, more or less,
MOST_ENDS = 2_000  # and of how many it is kept beyond that


def add_outlook(conn: Connection, job: Job, now: float, known: Known | None = None) -> Job:
    """The job, with what holds it, its rate and when it ends. What is `known` of other jobs' tasks is not
    read again: of a list.
    """
    if job.finished_at is None and job.status in ACTIVE:
        known = {} if known is None else known
        outlook = outlook_of(conn, job, now, known)
        widen(conn, job, now, outlook.goes_since)
        job.held_by = held_by(job, outlook, now)
        ends: dict[Any, Any] = once(known, ENDS, dict)
        key = _moment(job)
        if key not in ends or ends[key][0] < time.monotonic():
            _see_end(conn, job, now, outlook, known)
            # of many jobs not all in the same moment
            until = time.monotonic() + LASTS * (0.75 + job.id % 16 / 32)
            ends[key] = (until, *eta_range(job, outlook, now))
        _, job.eta_range, job.eta_why = ends[key]
    return job


def lasting(known: Known) -> Known:
    """What of it holds for a while, whatever changes meanwhile: when jobs end."""
    ends: dict[Any, Any] = once(known, ENDS, dict)
    if len(ends) > MOST_ENDS:
        now = time.monotonic()
        ends = {key: end for key, end in ends.items() if end[0] > now}
    return {ENDS: ends}


def _moment(job: Job) -> tuple[Any, ...]:
    """What a job's end depends on, but for what every second changes; of one of which little ends, that too:
    it is long until it is told of again.
    """
    ended = job.done if job.recent < ENOUGH else -1
    held = job.held_by.cause if job.held_by else ""
    return (job.id, job.status, job.filled, job.concurrency, job.tuned_at, job.begun_at, held, ended)


def widen(conn: Connection, job: Job, now: float, since: float = 0.0) -> None:
    """Take the rate of a job of which little has ended of late over a longer time: slow work has one, too; of
    one that was held up until lately over the time `since` then, once something of it has ended.
    """
    for window in WINDOWS[1:]:
        if job.recent >= ENOUGH or job.began is None or now - job.began <= job.window:
            break
        (job.recent,) = conn.execute(
            "select coalesce(sum(items), 0) from throughput where job = ? and second >= ?",
            (job.id, max(int(now - window), int(job.began))),
        ).fetchone()
        job.window = window
    if job.began is not None and since > max(job.began, now - job.window):
        items, _, _ = _ended_since(conn, job, since)
        if items:
            job.recent = items
            job.window = max(now - since, SHORTEST)


def _ended_since(conn: Connection, job: Job, moment: float) -> tuple[int, int, float]:
    """Items that have ended from this second on, tries of them, and how long these took together."""
    return cast(
        tuple[int, int, float],
        conn.execute(
            """select coalesce(sum(items), 0), coalesce(sum(tries), 0), coalesce(sum(ms), 0)
               from throughput where job = ? and second >= ?""",
            (job.id, int(moment)),
        ).fetchone(),
    )


def once(known: Known, key: tuple[str, ...], read: Callable[[], T]) -> T:
    """What `read` finds, read for the first who asks."""
    if key not in known:
        known[key] = read()
    return cast(T, known[key])


def outlook_of(conn: Connection, job: Job, now: float, known: Known) -> Outlook:
    """All that is known of what the job may wait for."""
    task = job.task
    found = Outlook(halt=once(known, ("halt", task), lambda: halt_of(conn, task)))
    hold = once(known, ("hold", task), lambda: _hold_of(conn, task))
    if hold and hold[0] > now:
        found.hold_until, found.hold_reason = hold
    found.workers = once(known, ("workers", job.engine), lambda: _workers_of(conn, job.engine, now))
    if job.shape == "body":
        found.calls = once(known, ("calls", job.entry), lambda: _calls_of(conn, job.entry))
    _see_queue(conn, job, now, found)
    if job.shape == "items":
        _see_others(conn, job, now, found, known)
    _see_pace(conn, job, now, found, known)
    found.goes_since = _going(conn, job, now, known)
    _see_times(conn, job, now, found)
    return found


def _going(conn: Connection, job: Job, now: float, known: Known) -> float:
    """Since when nothing has kept the job from starting items: its run's begin, the end of its last pause, or
    of the last hold of its task's.
    """
    held = "select until from holds where task = ? order by started_at desc limit 1"
    last = once(known, ("held", job.task), lambda: conn.execute(held, (job.task,)).fetchone())
    ends = (job.began, job.resumed_at, last and last[0])
    return max((end for end in ends if end is not None and end <= now), default=0.0)


def _hold_of(conn: Connection, task: str) -> tuple[float, str] | None:
    found: tuple[float, str] | None = conn.execute(
        "select hold_until, reason from paces where task = ?", (task,)
    ).fetchone()
    return found


def _workers_of(conn: Connection, engine: str, now: float) -> int:
    """How many are alive."""
    sql = "select count(*) from workers where engine = ? and lease > ?"
    return int(conn.execute(sql, (engine, now)).fetchone()[0])


def _calls_of(conn: Connection, entry: str) -> int:
    """How many jobs of a function that is called once run."""
    sql = """select count(*) from jobs
             where finished_at is null and entry = ? and shape = 'body' and worker is not null"""
    return int(conn.execute(sql, (entry,)).fetchone()[0])


def _see_queue(conn: Connection, job: Job, now: float, found: Outlook) -> None:
    """Whether an item may start, and when the tries are due that are waited for."""
    queued = "from items where job = ? and status = 'queued'"
    at_once = conn.execute(f"select 1 {queued} and run_at <= ? limit 1", (job.id, now)).fetchone()
    found.ready = bool(at_once)
    later = conn.execute(f"select min(run_at) {queued} and run_at > ?", (job.id, now)).fetchone()
    last = conn.execute(f"select max(run_at) {queued}", (job.id,)).fetchone()
    found.soonest = later[0] or 0.0
    found.latest = last[0] or 0.0
    if not found.ready and 0 < job.running <= FEW:
        (first,) = conn.execute(
            "select min(updated_at) from items where job = ? and status = 'running'", (job.id,)
        ).fetchone()
        found.longest = max(0.0, now - (first or now))


def _see_others(conn: Connection, job: Job, now: float, found: Outlook, known: Known) -> None:
    """The other jobs of its task, and its fair share: there may be thousands, which are looked at once."""
    task = job.task
    owner = job.owner
    rivals = once(known, ("rivals", task), lambda: pacing.rivals_of(conn, task, now)).but(owner)
    own = once(known, ("own", task, owner), lambda: pacing.own_of(conn, task, owner, now))
    if not rivals.owners and not own.keys() - {job.id}:
        return
    if job.id in own:
        found.room = once(known, ("shares", task, owner), lambda: pacing.shares(own, rivals))[job.id]
    else:
        found.room = pacing.shares(own | {job.id: pacing.side_of(conn, task, job.id, now)}, rivals)[job.id]
    first = once(known, ("first", task), lambda: _first_of(conn, task, now))
    found.rivals = [one for one in first if one.job != job.id][:MOST_RIVALS]


def _see_pace(conn: Connection, job: Job, now: float, found: Outlook, known: Known) -> None:
    """When its pace lets the next one start."""
    if not job.pace:
        return
    fastest = once(known, ("pace", job.task), lambda: pacing.fastest(conn, job.task))
    for line, pace in pacing.lines_of(job.task, job.pace, fastest):
        row = conn.execute("select arrival from paces where task = ?", (line,)).fetchone()
        found.wait = max(found.wait, pacing.by_rate(pace, row[0] if row else 0.0, 1, now)[1])
        found.pace = pace if line == job.task else found.pace


def _first_of(conn: Connection, task: str, now: float) -> list[Rival]:
    """The first jobs of a task that have something to run, one more than are told of."""
    of = """select * from (select id, queued, running from jobs indexed by jobs_now_of_task
        where task = ?1 and status = '{}' and finished_at is null and shape = 'items'
            and (running > 0 or queued > 0)
        order by id limit ?2)"""
    rows = conn.execute(
        f"""select id, queued + running, coalesce(sum(items), 0), coalesce(sum(tries), 0)
           from ({of.format("running")} union all {of.format("queued")} order by id limit ?2)
             left join throughput on job = id and second >= ?3
           group by id order by id""",
        (task, MOST_RIVALS + 1, int(now) - RATE_WINDOW),
    )
    return [Rival(job, left, recent / RATE_WINDOW, tries) for job, left, recent, tries in rows]


def tail_of(conn: Connection, task: str) -> float:
    """How many seconds the last fiftieth of a task's last run took longer than as many before it: it may have
    had an item that takes a minute, at which one that runs has not arrived."""
    row = conn.execute(
        f"""select id, max(started_at, coalesce(begun_at, 0)), finished_at
           from jobs indexed by jobs_by_task_and_status
           where task = ? and status = 'completed' and {CLOSED} and finished_at is not null
           order by id desc limit 1""",
        (task,),
    ).fetchone()
    if row is None:
        return 0.0
    key = (conn.filename, *row)
    if key not in _tails:
        if len(_tails) > MOST_TAILS:
            _tails.clear()
        _tails[key] = _tail(conn, *row)
    return _tails[key]


def _tail(conn: Connection, job: int, began: float, finished_at: float) -> float:
    rows = measures.growth_of(conn, job, began)
    total = sum(items for _, items in rows)
    seen = 0
    for second, items in rows:
        seen += items
        if seen >= 0.98 * total:
            usual = (second - began) / 49  # for as many
            return max(0.0, finished_at - second - 3 * usual - 1)
    return 0.0


def _see_times(conn: Connection, job: Job, now: float, found: Outlook) -> None:
    """How fast it was of late, and all along."""
    if job.began is None:
        return
    seconds = min(RATE_WINDOW, max(now - job.began, 1.0))
    _, tries, ms = _ended_since(conn, job, now - RATE_WINDOW)
    found.own_tries = tries / seconds
    times = measures.tally_of(conn, job.id, "ms")
    usual = quantile(times, 0.5)
    if found.goes_since > max(job.began, now - RATE_WINDOW):
        _, tries, ms = _ended_since(conn, job, found.goes_since)
        goes_for = now - found.goes_since
        found.own_tries = tries / max(goes_for, SHORTEST)
        if not tries and usual and goes_for < 2 * usual / 1000:  # the first are under way
            found.own_tries = job.running * 1000 / usual
    found.all_tries = found.own_tries + sum(rival.tries for rival in found.rivals) / seconds
    found.ms = ms / tries if tries else usual
    found.usual_ms = usual if sum(n for _, n in times) >= KNOWN else 0.0


def _see_end(conn: Connection, job: Job, now: float, found: Outlook, known: Known) -> None:
    """What else says when it ends: how long its slow items take, and how it went since it began."""
    if job.began is None:
        return
    times = measures.tally_of(conn, job.id, "ms")
    number = sum(n for _, n in times)
    found.slow_ms = quantile(times, 0.98)
    at_the_end = max(1, min(job.places, job.queued + job.running))
    found.rest_ms = rest_of(times, at_the_end, 0.5), rest_of(times, at_the_end, 0.95)
    found.varies = variation(times)
    rows = measures.growth_of(conn, job.id, job.began)
    ended = max(1, sum(items for _, items in rows))
    found.tries = max(1.0, number / ended) if number >= KNOWN else 1.0
    found.tail = once(known, ("tail", job.task), lambda: tail_of(conn, job.task))
    began = int(job.began)
    fold = -(-len(rows) // POINTS) or 1
    for at in range(0, len(rows), fold):
        second, _ = rows[min(at + fold, len(rows)) - 1]
        items = sum(items for _, items in rows[at : at + fold])
        found.growth.append((min(second + width_at(second - began), now), items))
