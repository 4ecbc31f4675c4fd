"""Measures: how a job goes, kept with its counts, so that a page, a time left and a picture need no scan.

`throughput` has a row a second. `growth` has fewer the older the job is, some 400 for a day: what ended, and
what failed alike. `tallies` are two histograms of its tries: how long they took, and which of an item's they
were. Called inside the transactions that record results.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from rowcast.tables.database import Connection
from rowcast.tasks.buckets import bucket_of, quantile, width_at
from rowcast.tasks.groups import MOST_GROUPS, OTHERS
from rowcast.tasks.records import ErrorGroup, Job, Pictures, encode


def filed(conn: Connection, job: int, fingerprints: Iterable[str]) -> dict[str, str]:
    """The group for each of these failures: its own, or OTHERS where the job has MOST_GROUPS already."""
    known = {one for (one,) in conn.execute("select fingerprint from error_groups where job = ?", (job,))}
    found = {}
    for one in fingerprints:
        found[one] = one if one in known or len(known) < MOST_GROUPS else OTHERS
        known.add(found[one])
    return found


def note_tries(conn: Connection, job: int, tries: Sequence[tuple[int, float | None]]) -> None:
    """Add tries that have ended to the histograms: of each which of its item's it was, and its milliseconds.

    How many items had exactly n tries is what bucket n has beyond the next one: so nothing has to be taken
    back when an item is tried again.
    """
    rows = [("try", n, tries) for n, tries in Counter(attempt for attempt, _ in tries).items()]
    rows += [
        ("ms", bucket, n) for bucket, n in Counter(bucket_of(ms) for _, ms in tries if ms is not None).items()
    ]
    conn.execute(
        """insert into tallies (job, measure, bucket, tries)
           select ?1, value ->> 0, value ->> 1, value ->> 2 from json_each(?2) where true
           on conflict (job, measure, bucket) do update set tries = tries + excluded.tries""",
        (job, encode(rows).decode()),
    )
    took: dict[int, list[float]] = {}
    for _, ms in tries:
        if ms is not None:
            took.setdefault(bucket_of(ms), []).append(ms)
    conn.execute(
        """insert into latencies (task, bucket, tries, ms)
           select jobs.task, value ->> 0, value ->> 1, value ->> 2 from json_each(?2), jobs where jobs.id = ?1
           on conflict (task, bucket) do update set tries = tries + excluded.tries, ms = ms + excluded.ms""",
        (job, encode([(bucket, len(each), sum(each)) for bucket, each in took.items()]).decode()),
    )


def note_ended(conn: Connection, job: int, now: float, items: int, tries: int = 0, ms: float = 0.0) -> None:
    """Add to what ended in this second: the rate, the time left and the plots are read from it.

    `tries`, some of items that go on, and how long they took together, say how fast the API is.
    """
    conn.execute(
        """insert into throughput (job, second, items, tries, ms) values (?1, ?2, ?3, ?4, ?5)
           on conflict (job, second) do update set items = items + ?3, tries = tries + ?4, ms = ms + ?5""",
        (job, int(now), items, tries, ms),
    )
    if items:
        grow(conn, job, now, items)


def grow(conn: Connection, job: int, now: float, items: int, fingerprint: str = "") -> None:
    """Add to the job's growth: items that have ended, or that have failed alike."""
    (began,) = conn.execute(
        "select cast(max(coalesce(started_at, ?), coalesce(begun_at, 0)) as integer) from jobs where id = ?",
        (now, job),
    ).fetchone()
    width = width_at(now - began)
    second = began + int(now - began) // width * width
    conn.execute(
        """insert into growth (job, fingerprint, second, items) values (?1, ?2, ?3, ?4)
           on conflict (job, fingerprint, second) do update set items = items + ?4""",
        (job, fingerprint, second, items),
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


KINDS = 4  # error groups that a picture tells apart


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
