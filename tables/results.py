"""The results of tries, of many jobs at once: a statement for each thing that is written, and not for each
job, as a worker has many small ones side by side. Called inside the ledger's transactions.
"""

from collections import Counter
from collections.abc import Sequence

from rowcast.tables import pacing, tries
from rowcast.tables.counts import count_all, group
from rowcast.tables.database import Connection, tick
from rowcast.tables.measures import Measure, filed, note_all
from rowcast.tasks import clock
from rowcast.tasks.groups import fingerprint
from rowcast.tasks.records import encode
from rowcast.tasks.work import ERROR_LENGTH, Result

Told = tuple[int, str, list[Result]]  # a job, its worker, and the results that this one tells
Row = tuple[int, str, int, list[Result]]  # and the seq of the first of them
MANY = 50  # results of a job for which a statement of their own pays
READ = """value ->> 0 as id, value ->> 1 as attempt, value ->> 2 as status, value ->> 3 as code,
    value ->> 4 as error, value ->> 5 as result, value ->> 6 as ms, value ->> 7 as run_at,
    value ->> 8 as fingerprint"""
WRITE = """update items set status = r.status, code = r.code, error = r.error, result = r.result,
        ms = r.ms, run_at = iif(r.run_at, r.run_at + {start}, 0),
        spent = spent + (r.status = 'queued' and not r.run_at),
        worker = iif(r.status = 'completed', items.worker, null), updated_at = ?2,
        fingerprint = r.fingerprint, seq = {seq}
    from {results} as r
    where items.id = r.id and items.attempt = r.attempt and +items.job = {job} and +items.worker = {worker}
        and +items.status = 'running'"""
OF_ONE = WRITE.format(
    seq="?5 + r.n",
    results=f"(select key as n, {READ} from jsonb_each(?1))",
    job="?3",
    worker="?4",
    start="?6",
)
# materialized, so that the items are looked up by it, and not the other way round
OF_ALL = f"""with told as materialized (
        select t.job, t.worker, t.first + key as seq, {READ}
        from (select value ->> 0 as job, value ->> 1 as worker, value ->> 2 as first, value -> 3 as results
              from jsonb_each(?1)) as t
        cross join jsonb_each(t.results))
    {WRITE.format(seq="r.seq", results="told", job="r.job", worker="r.worker", start="?3")}"""
ACCEPTED = "from items where job = ? and attempt > 0 and seq between ? and ?"


def record(conn: Connection, told: Sequence[Told], keep_tries: int) -> None:
    """Write results in one statement, a JSON array: a statement per row would ask for Python's lock at each.

    Each counts only for the worker and the attempt that hold its item; any other is refused silently.
    """
    now = clock.now()
    first = seq = tick(conn, sum(len(results) + 1 for *_, results in told))
    rows = []
    all_of: dict[int, list[Result]] = {}
    for job, worker, results in told:
        all_of.setdefault(job, []).extend(results)
        rows.append((job, worker, seq, results))
        seq += len(results) + 1  # the last is the job's
    for job, results in all_of.items():
        _file(conn, job, results)
    all_accepted = _write(conn, rows, now) == seq - first - len(told)
    moved: dict[int, Counter[str]] = {}
    seq_of: dict[int, int] = {}
    outcomes_of: dict[int, list[str]] = {}
    ended = []
    for job, worker, at, results in rows:
        kept = [tries.as_told(one, now) for one in results if one.begun and not tries.is_own(one)]
        outcomes = [result.status for result in results]
        timed = [(result.attempt, result.ms) for result in results if result.begun]
        span = (job, at, at + len(results) - 1)
        if not all_accepted:
            there = conn.execute(f"select id, attempt, status, ms {ACCEPTED} order by seq", span).fetchall()
            if len(there) < len(results):
                outcomes = [status for *_, status, _ in there]
                timed = [(attempt, ms) for _, attempt, _, ms in there]
                taken = {(item, attempt) for item, attempt, *_ in there}
                kept = [one for one in kept if one[:2] in taken]
                late = [result for result in results if (result.id, result.attempt) not in taken]
                tries.correct(conn, job, worker, late, now)
        if kept:
            tries.add(conn, job, worker, kept, keep_tries)
        if not outcomes:
            continue
        changes = Counter(outcomes)
        if changes["failed"]:
            _group_failures(conn, job, span, now)
        outcomes_of.setdefault(job, []).extend(outcomes)
        seq_of[job] = at + len(results)
        all_of_job = moved.setdefault(job, Counter())
        all_of_job.update(changes)
        all_of_job["running"] -= len(outcomes)
        if timed:
            took = sum(ms or 0.0 for _, ms in timed)
            ended.append(Measure(job, len(outcomes) - changes["queued"], timed, took))
    if not moved:
        return
    count_all(conn, [(job, seq_of[job], changes) for job, changes in moved.items()])
    stamped, ruled = _settings(conn, list(moved))
    for job, _, at, results in rows:
        if job in stamped:
            _stamp(conn, job, (job, at, at + len(results) - 1))
    for job in ruled:
        pacing.check_rules(conn, job, outcomes_of[job])
    note_all(conn, ended, now)


def _write(conn: Connection, rows: Sequence[Row], now: float) -> int:
    """Those of the results that count; returns how many. Many of one job are cheaper by themselves."""
    many = [row for row in rows if len(row[3]) >= MANY]
    few = [row for row in rows if len(row[3]) < MANY]
    written = 0
    for job, worker, first, results in many:
        conn.execute(OF_ONE, (encode(results).decode(), now, job, worker, first, clock.start()))
        written += int(conn.changes())
    if few:
        conn.execute(OF_ALL, (encode(few).decode(), now, clock.start()))
        written += int(conn.changes())
    return written


def _settings(conn: Connection, jobs: list[int]) -> tuple[set[int], set[int]]:
    """Of these jobs those that stamp users, and those that have a rule or a canary."""
    found = conn.execute(
        """select jobs.id, stamp is not null, stop_after is not null or canary is not null
           from json_each(?) cross join jobs on jobs.id = value
           where stamp is not null or stop_after is not null or canary is not null""",
        (encode(jobs).decode(),),
    ).fetchall()
    return {job for job, stamps, _ in found if stamps}, {job for job, _, rules in found if rules}


def _file(conn: Connection, job: int, results: Sequence[Result]) -> None:
    """Say of each failure which of the job's error groups it belongs to."""
    for result in results:
        failed = result.status == "failed"
        result.fingerprint = fingerprint(result.code, result.error) if failed else None
        result.error = result.error[:ERROR_LENGTH] if result.error else None
    if kinds := {result.fingerprint: None for result in results if result.fingerprint}:
        group_of = filed(conn, job, kinds)
        for result in results:
            result.fingerprint = group_of.get(result.fingerprint or "")


def _group_failures(conn: Connection, job: int, span: tuple[int, int, int], now: float) -> None:
    failures = conn.execute(
        f"""select fingerprint, code, error, count(*) {ACCEPTED} and status = 'failed'
            group by fingerprint""",
        span,
    ).fetchall()
    for key, code, error, items in failures:
        group(conn, job, key, code, error, now, items)


def _stamp(conn: Connection, job: int, span: tuple[int, int, int]) -> None:
    """Note the time on the users whose items have completed, in the same transaction; `users` may be
    anybody's table.
    """
    there = conn.execute(
        """select stamp from jobs, pragma_table_info('users') as c, pragma_table_list('users') as t
           where jobs.id = ? and c.name = stamp and t.type = 'table'""",
        (job,),
    ).fetchone()
    if there:
        keys = f"select key {ACCEPTED} and status = 'completed'"
        conn.execute(f'update users set "{there[0]}" = unixepoch() where email in ({keys})', span)
