"""What has changed since a cursor, for the streams of programs: rows in the order of their seq."""

from collections.abc import Collection
from typing import Any

from rowcast.tables.database import Connection, current_seq
from rowcast.tables.outlook import Known, add_outlook
from rowcast.tables.rows import ITEM, ITEM_COLUMNS, JOB
from rowcast.tables.shares import seen_by
from rowcast.tasks import clock
from rowcast.tasks.accounts import Who
from rowcast.tasks.records import Changes, Item, Job, encode, seq_of

KINDS = ("attempt > 0", "attempt = 0")  # of items, each with an index of its own by seq
BY_SEQ = "jobs indexed by jobs_by_seq"
FAR = 5_000  # jobs that have changed: who is farther behind reads the rows anew
MANY = 100  # changed jobs beyond which more rows are read at once, as each look asks all of them
MORE = 10  # times as many


def is_far(conn: Connection, who: Who, after: int) -> bool:
    """Whether so many jobs that one sees have changed since then that their rows are better read anew."""
    where, values = seen_by(conn, who)
    changed = f"select 1 from {BY_SEQ} where {where} and jobs.seq > ? limit {FAR + 1}"
    (number,) = conn.execute(f"select count(*) from ({changed})", (*values, after)).fetchone()
    return int(number) > FAR


def changes_of(
    conn: Connection, who: Who, after: int, job: int | None, limit: int, upto: int | None, known: Known
) -> Changes:
    """As `Jobs.changes` says, read in one transaction."""
    conn.execute("begin")
    try:
        newest = current_seq(conn)
        newest = bound = newest if upto is None else min(newest, upto)
        ids = [job] if job is not None else _changed(conn, who, after)
        if len(ids) > MANY:
            limit *= MORE
        rows: list[tuple[Any, ...]] = []
        for one in ids:
            for kind in KINDS:
                sql = f"{ITEM} where job = ? and {kind} and seq > ? and seq <= ? order by seq limit ?"
                found = conn.execute(sql, (one, after, bound, limit)).fetchall()
                rows += found
                if found and len(rows) >= limit:
                    rows = sorted(rows, key=lambda row: row[-1])[:limit]
                    bound = rows[-1][-1]
        among = "jobs.id in (select value from json_each(?)) and jobs.owner <> ''"
        sql = f"{JOB} not indexed where {among} and jobs.seq > ? and jobs.seq <= ? order by jobs.seq limit ?"
        found = conn.execute(sql, (encode(ids).decode(), after, bound, limit)).fetchall()
        now = clock.now()
        jobs = [add_outlook(conn, Job(*row), now, known) for row in found]
    finally:
        conn.execute("commit")
    if len(jobs) == limit:
        bound = jobs[-1].seq
    items = sorted((Item(*row) for row in rows if row[-1] <= bound), key=seq_of)
    return Changes(jobs, items, bound, bound < newest)


def _changed(conn: Connection, who: Who, after: int) -> list[int]:
    """The jobs that have changed: a job's seq is never behind its items', so those of these jobs are all that
    can have."""
    where, values = seen_by(conn, who)
    sql = f"select id from {BY_SEQ} where {where} and jobs.seq > ? order by id"
    return [job for (job,) in conn.execute(sql, (*values, after))]


def changes_of_each(
    conn: Connection, jobs: Collection[int], after: int, upto: int, known: Known
) -> dict[int, Changes]:
    """The same of each of these jobs between two moments that are not far apart, by some statements for all;
    without those that are gone.
    """
    among = "(select value from json_each(?1))"
    values = (encode(list(jobs)).decode(), after, upto)
    conn.execute("begin")
    try:
        there = conn.execute(f"select id from jobs where id in {among} and owner <> ''", values[:1])
        found = {job: Changes([], [], upto, False) for (job,) in there}
        for kind in KINDS:
            for row in conn.execute(
                f"""select {ITEM_COLUMNS} from (select value as which from json_each(?1))
                    cross join items on job = which where {kind} and seq > ?2 and seq <= ?3""",
                values,
            ):
                item = Item(*row)
                if item.job in found:
                    found[item.job].items.append(item)
        sql = f"{JOB} where jobs.id in {among} and jobs.seq > ?2 and jobs.seq <= ?3"
        now = clock.now()
        for row in conn.execute(sql, values).fetchall():
            job = add_outlook(conn, Job(*row), now, known)
            found[job.id].jobs.append(job)
    finally:
        conn.execute("commit")
    for changes in found.values():
        changes.items.sort(key=seq_of)
    return found
