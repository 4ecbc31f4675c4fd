"""The giving out of items, to many jobs at once, and how these jobs stand. Called inside the ledger's
transactions; what keeps a job from starting more is in places.py and pacing.py.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import apsw
import msgspec

from rowcast.tables import pacing
from rowcast.tables.counts import count_all
from rowcast.tables.database import Connection, tick
from rowcast.tables.pacing import REACH
from rowcast.tables.places import Row, TaskPlaces, allowed, rows_of
from rowcast.tasks import clock
from rowcast.tasks.records import CLAIMABLE, decode, encode
from rowcast.tasks.work import Claimed, Work

COLUMNS = "id, key, payload, attempt, spent, crashes"
GIVEN = msgspec.json.Decoder(list[tuple[int, list[Claimed]]])
# the items of a job that may start, those that wait for another try first
TO_TAKE = """select id from (select id from items where job = {job} and status = 'queued'
        and run_at > 0 and run_at <= ?2 and position < {reach} order by run_at limit {some})
    union all
    select id from (select id from items where job = {job} and status = 'queued'
        and run_at = 0 and position < {reach} order by position limit {some})
    limit {some}"""
TAKE = """update items set status = 'running', attempt = attempt + 1, worker = {worker}, run_at = 0,
        updated_at = ?2, seq = pick.seq
    from pick where items.id = pick.id"""
OF_ONE = f"""with pick as materialized (
        select id, ?3 + row_number() over () - 1 as seq
        from ({TO_TAKE.format(job="?4", reach="?6", some="?5")}))"""
TAKE_OF_ONE = f"{OF_ONE} {TAKE.format(worker='?1')}"
TAKE_FOR_MANY = f"{OF_ONE} {TAKE.format(worker='?1 ->> (pick.seq - ?3)')}"  # the worker of each item
# an inner limit cannot be a claim's own
TAKE_OF_ALL = f"""with pick as materialized (
        select p.value as id, c.value ->> 4 + p.key as seq, c.value ->> 0 as worker
        from json_each(?1) as c cross join json_each((
            select json_group_array(id) from (
                {TO_TAKE.format(job="c.value ->> 1", reach="c.value ->> 3", some="?3")}))) as p
        where p.key < c.value ->> 2)
    {TAKE.format(worker="pick.worker")}"""
MANY = 50  # items of a job for which a statement of their own pays


class Claim(msgspec.Struct):
    """A worker's word that it would take so many items of a job."""

    job: int
    worker: str
    limit: int
    told: bool = False  # it has told results with it: who has nothing in flight comes first
    in_flight: int | None = None  # of the job's running items its own; None: what others have was counted
    shares: bool = False  # its worker shares out the task's places


def give(conn: Connection, claims: Sequence[Claim]) -> list[Work]:
    """Give out items to each; in which order they have come does not matter, who has least comes first."""
    rows = rows_of(conn, {claim.job for claim in claims})
    works = [
        rows[claim.job].standing(claim.worker) if claim.job in rows else Work("cancelled") for claim in claims
    ]
    asking = [
        n for n, work in enumerate(works) if claims[n].limit > 0 and work.queued and work.status in CLAIMABLE
    ]
    if asking:
        _give_out(conn, [(claims[n], works[n], rows[claims[n].job]) for n in asking])
    return works


def _give_out(conn: Connection, asking: Sequence[tuple[Claim, Work, Row]]) -> None:
    now = clock.now()
    jobs = {row.id for *_, row in asking}
    alone = _only_worker(conn, now) if any(claim.shares for claim, *_ in asking) else None
    # of a task whose one worker shares its places out, nothing is to be known of the others
    tasks = {row.task: None for claim, _, row in asking if not (claim.shares and claim.worker == alone)}
    rivals = {task: TaskPlaces.of(conn, task, now, jobs) for task in tasks}
    nobody = TaskPlaces({})
    asking = sorted(asking, key=lambda one: (*rivals.get(one[2].task, nobody).turn(one[0].job), one[0].told))
    wanted: list[tuple[Claim, Work, int]] = []
    heard: list[tuple[Claim, Work]] = []
    paced: list[tuple[int, Work, int]] = []
    reach = _ready(conn, jobs, now)
    for claim, work, row in asking:
        in_turn = claim.shares and claim.worker == alone
        beside = rivals.get(row.task, nobody)
        if claim.told and not in_turn and beside.others_have_nothing(row.id):
            continue
        heard.append((claim, work))
        if row.id not in reach:
            continue
        some, work.wait = allowed(conn, row, claim.limit, claim.in_flight, now, beside, in_turn)
        if some > 0:
            beside.gave(row.id, some)
            row.queued -= some
            row.running += some
            wanted.append((claim, work, some))
            if row.pace:  # now, as the next in this transaction waits in the same line
                pacing.spend(conn, row.id, some, now)
                paced.append((row.id, work, some))
    _take(conn, wanted, reach, now)
    gone: Counter[int] = Counter()
    for claim, work, _ in asking:  # who comes later finds no more waiting than the others have left
        work.queued -= gone[claim.job]
        gone[claim.job] += len(work.items)
    for job, work, some in paced:
        pacing.spend(conn, job, len(work.items) - some, now)  # what waits for a retry has not started
    for claim, work in heard:
        if not work.items and not work.wait:
            (soonest,) = conn.execute(
                f"""select min(run_at) from items
                    where job = ?1 and status = 'queued'
                      and position < (select {REACH} from jobs where id = ?1)""",
                (claim.job,),
            ).fetchone()
            work.wait = max(0.0, (soonest or now) - now)


def _only_worker(conn: Connection, now: float) -> str | None:
    """The one worker that lives; None where there are others."""
    living = conn.execute("select id from workers where lease > ? limit 2", (now,)).fetchall()
    return str(living[0][0]) if len(living) == 1 else None


def _ready(conn: Connection, jobs: Collection[int], now: float) -> dict[int, int]:
    """Those of the jobs that have an item which may start now, and the position before which it may."""
    (ready,) = conn.execute(
        f"""select json_group_array(json_array(jobs.id, {REACH}))
            from json_each(?1) cross join jobs on jobs.id = value
            where exists (select 1 from items where job = jobs.id and status = 'queued' and run_at <= ?2
                and position < {REACH})""",
        (encode(list(jobs)).decode(), now),
    ).fetchone()
    return dict(decode(ready, type=list[tuple[int, int]]))


def _take(
    conn: Connection, takes: Sequence[tuple[Claim, Work, int]], reach: Mapping[int, int], now: float
) -> None:
    """The items become running, attempt + 1, held by the worker that gets them."""
    if not takes:
        return
    of_job: dict[int, list[int]] = {}
    for n, (claim, *_) in enumerate(takes):
        of_job.setdefault(claim.job, []).append(n)
    seq = tick(conn, sum(some for *_, some in takes) + len(of_job))
    spans = [(0, 0, 0)] * len(takes)
    seqs: dict[int, int] = {}  # the job's own, behind those of its items
    few: dict[int, list[tuple[str, int, int, int, int]]] = {}  # by the most that one of them may get
    for job, those in of_job.items():
        first = seq
        for n in those:
            some = takes[n][2]
            spans[n] = (job, seq, seq + some - 1)
            seq += some
        worker = takes[those[0]][0].worker
        some = seq - first
        if len(those) > 1:
            workers = [takes[n][0].worker for n in those for _ in range(takes[n][2])]
            conn.execute(TAKE_FOR_MANY, (encode(workers).decode(), now, first, job, some, reach[job]))
        elif some >= MANY:
            conn.execute(TAKE_OF_ONE, (worker, now, first, job, some, reach[job]))
        else:
            few.setdefault(1 << (some - 1).bit_length(), []).append((worker, job, some, reach[job], first))
        seqs[job] = seq
        seq += 1
    for most, ones in few.items():
        conn.execute(TAKE_OF_ALL, (encode(ones).decode(), now, most))
    counts = []
    for (claim, work, _), items in zip(takes, _taken(conn, spans), strict=True):
        work.items = items
        if items:
            counts.append((claim.job, seqs[claim.job], {"queued": -len(items), "running": len(items)}))
    if counts:
        count_all(conn, counts)


def _taken(conn: Connection, spans: Sequence[tuple[int, int, int]]) -> list[list[Claimed]]:
    """The items of each of these jobs whose seq is between two others, as workers get them."""
    where = "from items where job = {} and attempt > 0 and seq between {} and {}"
    of_job = where.format("value ->> 0", "value ->> 1", "value ->> 2")
    try:
        (text,) = conn.execute(
            f"""select json_group_array(json_array(key, json((
                    select json_group_array(json_array({COLUMNS}) order by seq) {of_job}))))
                from json_each(?)""",
            (encode(spans).decode(),),
        ).fetchone()
        return [items for _, items in GIVEN.decode(text)]
    except apsw.TooBigError:
        sql = f"select {COLUMNS} {where.format('?', '?', '?')} order by seq"
        return [[Claimed(*row) for row in conn.execute(sql, span)] for span in spans]
