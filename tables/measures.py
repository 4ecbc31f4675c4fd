"""Measures: how a job goes, kept with its counts, so that a page, a time left and a picture need no scan.

`throughput` has a row a second. `growth` has fewer the older the job is, some 400 for a day: what ended, and
what failed alike. `tallies` are two histograms of its tries: how long they took, and which of an item's they
were. Called inside the transactions that record results.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rowcast.tables.database import Connection
from rowcast.tasks.buckets import bucket_of, quantile, width_at
from rowcast.tasks.groups import KINDS, MOST_GROUPS, OTHERS
from rowcast.tasks.records import ErrorGroup, Job, Pictures, decode, encode


def filed(conn: Connection, job: int, fingerprints: Iterable[str]) -> dict[str, str]:
    """The group for each of these failures: its own, or OTHERS where the job has MOST_GROUPS already."""
    known = {one for (one,) in conn.execute("select fingerprint from error_groups where job = ?", (job,))}
    found = {}
    for one in fingerprints:
        found[one] = one if one in known or len(known) < MOST_GROUPS else OTHERS
        known.add(found[one])
    return found


class Measure(NamedTuple):
    """What has ended of a job in one transaction."""

    job: int
    items: int
    tries: Sequence[tuple[int, float | None]]  # which of its item's each was, and its milliseconds
    ms: float  # how long they took together: it says how fast the API is, also of items that go on


def note_all(conn: Connection, ended: Sequence[Measure], now: float) -> None:
    """Add what has ended, of many jobs, to their histograms, to this second, and to their growth: the rate,
    the time left and the plots are read from it.

    How many items had exactly n tries is what bucket n has beyond the next one: so nothing has to be taken
    back when an item is tried again.
    """
    if not ended:
        return
    tallies: list[tuple[int, str, int, int]] = []
    latencies: list[tuple[int, int, int, float]] = []
    for one in ended:
        attempts = Counter(attempt for attempt, _ in one.tries)
        tallies += [(one.job, "try", n, tries) for n, tries in attempts.items()]
        took: dict[int, list[float]] = {}
        for _, ms in one.tries:
            if ms is not None:
                took.setdefault(bucket_of(ms), []).append(ms)
        tallies += [(one.job, "ms", bucket, len(each)) for bucket, each in took.items()]
        latencies += [(one.job, bucket, len(each), sum(each)) for bucket, each in took.items()]
    conn.execute(
        """insert into tallies (job, measure, bucket, tries)
           select value ->> 0, value ->> 1, value ->> 2, value ->> 3 from json_each(?) where true
           on conflict (job, measure, bucket) do update set tries = tries + excluded.tries""",
        (encode(tallies).decode(),),
    )
    conn.execute(
        """insert into latencies (task, bucket, tries, ms)
           select jobs.task, value ->> 1, value ->> 2, value ->> 3
           from json_each(?) cross join jobs on jobs.id = value ->> 0 where true
           on conflict (task, bucket) do update set tries = tries + excluded.tries, ms = ms + excluded.ms""",
        (encode(latencies).decode(),),
    )
    conn.execute(
        """insert into throughput (job, second, items, tries, ms)
           select value ->> 0, ?2, value ->> 1, value ->> 2, value ->> 3 from json_each(?1) where true
           on conflict (job, second) do update set items = items + excluded.items,
               tries = tries + excluded.tries, ms = ms + excluded.ms""",
        (encode([(one.job, one.items, len(one.tries), one.ms) for one in ended]).decode(), int(now)),
    )
    grow_all(conn, now, [(one.job, one.items, "") for one in ended if one.items])


def grow_all(conn: Connection, now: float, grown: Sequence[tuple[int, int, str]]) -> None:
    """Add to the growth of jobs, (job, items, fingerprint) each: items that have ended, or that have failed
    alike.
    """
    if not grown:
        return
    (text,) = conn.execute(
        """select json_group_array(json_array(jobs.id,
               cast(max(coalesce(started_at, ?1), coalesce(begun_at, 0)) as integer)))
           from json_each(?2) cross join jobs on jobs.id = value""",
        (now, encode([job for job, *_ in grown]).decode()),
    ).fetchone()
    began = dict(decode(text, type=list[tuple[int, int]]))
    rows = []
    for job, items, fingerprint in grown:
        if job in began:
            since = began[job]
            width = width_at(now - since)
            rows.append((job, fingerprint, since + int(now - since) // width * width, items))
    conn.execute(
        """insert into growth (job, fingerprint, second, items)
           select value ->> 0, value ->> 1, value ->> 2, value ->> 3 from json_each(?) where true
           on conflict (job, fingerprint, second) do update set items = items + excluded.items""",
        (encode(rows).decode(),),
    )


# ---- what is read of it ------------------------------------------------------------------------------------


def tally_of(conn: Connection, job: int, measure: str) -> list[tuple[int, int]]:
    """One of the job's histograms: (bucket, tries), the smallest bucket first."""
    return conn.execute(
        "select bucket, tries from tallies where job = ? and measure = ? order by bucket", (job, measure)
    ).fetchall()


def growth_of(conn: Connection, job: int, began: float, fingerprint: str = "") -> list[tuple[int, int]]:
    """What has ended, or failed alike, since a job's run began: (second, items), the oldest first."""
    return conn.execute(
        """select second, items from growth where job = ? and fingerprint = ? and second >= ?
           order by second""",
        (job, fingerprint, int(began)),
    ).fetchall()


def groups_of(conn: Connection, job: int, limit: int) -> list[ErrorGroup]:
    """Why items of a job fail, the most frequent first."""
    rows = conn.execute(
        """select fingerprint, code, message, items, first_at, last_at, sample from error_groups
           where job = ? order by items desc, first_at limit ?""",
        (job, limit),
    )
    groups = [ErrorGroup(*row) for row in rows]
    for group in groups:
        group.growth = growth_of(conn, job, 0.0, group.fingerprint)
    return groups


def spent_by(conn: Connection, job: int) -> tuple[float, float] | None:
    """When a job has ended, and the seconds that it ran (Job.elapsed); None where it has not, or is gone."""
    found: tuple[float, float] | None = conn.execute(
        """select finished_at, worked + finished_at - max(started_at, coalesce(begun_at, 0)) from jobs
           where id = ? and finished_at is not null and started_at is not null""",
        (job,),
    ).fetchone()
    return found


def pictures_of(conn: Connection, job: Job, now: float) -> Pictures | None:
    """What the pictures of a job are drawn from; None before it has begun."""
    if job.began is None:
        return None
    began = job.began
    end = job.finished_at or now
    names = conn.execute(
        """select fingerprint, coalesce(code || ' ', '') || message from error_groups where job = ?
           order by items desc, first_at limit ?""",
        (job.id, KINDS + 1),
    ).fetchall()
    failures = [(name, growth_of(conn, job.id, began, key)) for key, name in names[:KINDS]]
    if len(names) > KINDS:
        rest = conn.execute(
            f"""select second, sum(items) from growth where job = ? and second >= ?
                  and fingerprint not in ('', {", ".join("?" * KINDS)}) group by second order by second""",
            (job.id, int(began), *[key for key, _ in names[:KINDS]]),
        )
        failures.append(("others", rest.fetchall()))
    times = tally_of(conn, job.id, "ms")
    reached = dict(tally_of(conn, job.id, "try"))
    return Pictures(
        began,
        end,
        spans_of(growth_of(conn, job.id, began), began),
        [(name, spans_of(rows, began)) for name, rows in failures if rows],
        times,
        [quantile(times, part / 100) for part in Pictures.PARTS],
        [(n, max(0, items - reached.get(n + 1, 0))) for n, items in reached.items()],
        conn.execute(
            """select max(started_at, ?2), min(until, ?3) from holds
               where task = ?1 and until > ?2 and started_at < ?3 order by started_at""",
            (job.task, began, end),
        ).fetchall(),
    )


def spans_of(rows: Sequence[tuple[int, int]], began: float) -> list[tuple[float, float, int]]:
    """Rows of growth as (from, to, items)."""
    return [(second, second + width_at(second - int(began)), items) for second, items in rows]
