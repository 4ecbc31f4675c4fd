"""Body tasks in the ledger: a function that is called once holds its job, and its steps are the job's items.

Called inside the transactions of ledger.py and rescue.py. Steps have a statement of their own: each says what
becomes of it.
"""

from collections import Counter
from collections.abc import Sequence

from rowcast.tables import tries
from rowcast.tables.counts import (
    STOPPED,
    change_job,
    count,
    group,
    move_items,
    ungroup,
)
from rowcast.tables.database import Connection, tick
from rowcast.tables.halts import HALTED
from rowcast.tables.measures import Measure, filed, note_all
from rowcast.tables.sweeps import fail_job, go_on
from rowcast.tasks import clock
from rowcast.tasks.groups import fingerprint
from rowcast.tasks.records import ITEM_STATUSES, encode
from rowcast.tasks.work import Ended, Step, in_doubt

ONCE = "job = :job and status = 'running' and once"  # SQL of steps that run and are not to be repeated


def take_body(conn: Connection, job: int, worker: str) -> list[Step] | None:
    """Hold a body job for `worker`; None if it is not to run, or another worker holds it.

    `rescue` ends that. Nor is it to run before a retry has queued all the steps that it is for. Returns the
    items that there are, the steps of earlier runs. The function's own item is written at the first take; the
    first step that it reports takes that item's place.
    """
    found = conn.execute(
        f"""select task from jobs where id = ? and status in ('queued', 'running') and finished_at is null
               and not {HALTED} and (worker is null or worker = ?)
               and not exists (select 1 from sweeps where job = jobs.id)""",
        (job, worker),
    ).fetchone()
    if not found:
        return None
    (task,) = found
    change_job(conn, job, "start")
    conn.execute("update jobs set worker = ?, filled = 1, seq = ? where id = ?", (worker, tick(conn), job))
    first = conn.execute("select key, status from items where job = ? and position = 0", (job,)).fetchone()
    key, status = first or (task, "queued")
    if status != "completed":
        _write_steps(conn, job, worker, [Step(0, key, "running")])
    rows = conn.execute("select position, key, status, error, result, ms from items where job = ?", (job,))
    return [Step(*row) for row in rows]


def record_steps(
    conn: Connection, job: int, worker: str, steps: Sequence[Step], ended: Ended | None, keep_tries: int
) -> None:
    """Write what the worker reports of the body that it holds; of one that it has lost, nothing."""
    has_it = conn.execute(
        """select 1 from jobs where id = ? and worker = ? and finished_at is null
               and status <> 'cancelled'""",
        (job, worker),
    ).fetchone()
    if not has_it:
        return
    if steps:
        _write_steps(conn, job, worker, steps, keep_tries)
    if ended:
        enters = "unknown" if ended.unknown else "failed"
        _end_body(conn, job, enters if ended.error else "completed", ended.error)


def leave_body(conn: Connection, job: int, idempotent: int, given_up: str | None, died: str) -> None:
    """A body task whose worker is gone: it will be called again, or it is over."""
    in_a_step = conn.execute("select 1 from items where job = ? and status = 'running'", (job,)).fetchone()
    doubtful = conn.execute(f"select 1 from items where {ONCE}", {"job": job}).fetchone()
    if idempotent and not given_up and not doubtful:
        move_items(conn, job, "running", "queued", "true", STOPPED, said=died)
    elif given_up and not in_a_step:
        fail_job(conn, job, f"{given_up}.")  # there is no step to bear the error
    else:
        _end_body(conn, job, "failed" if given_up else "unknown", given_up or in_doubt(died))


def _end_body(conn: Connection, job: int, enters: str, error: str | None) -> None:
    """A body task is over: its open step becomes `enters`, the job completes, or fails where the function has
    raised, and what it never reached is cancelled.
    """
    move_items(conn, job, "running", enters, "true", STOPPED, error=error)
    if change_job(conn, job, "fail" if enters == "failed" else "complete"):
        go_on(conn, job)


def _write_steps(conn: Connection, job: int, worker: str, steps: Sequence[Step], keep_tries: int = 0) -> None:
    """Write steps in one statement, each the item at its position; and their tries."""
    now, seq = clock.now(), tick(conn, len(steps) + 1)
    kinds = [fingerprint(None, step.error) if step.status == "failed" else None for step in steps]
    group_of = filed(conn, job, filter(None, kinds)) if any(kinds) else {}
    fingerprints = [group_of.get(kind or "") for kind in kinds]
    rows = encode([
        (
            step.position,
            step.key,
            step.status,
            step.error,
            step.result,
            step.ms,
            clock.moment(step.run_at),
            of,
            step.once,
        )
        for step, of in zip(steps, fingerprints, strict=True)
    ]).decode()  # fmt: skip
    there = "from items where job = :job and position in (select value ->> 0 from json_each(:rows))"
    values = {"job": job, "rows": rows}
    before = conn.execute(f"select position, status, attempt {there}", values).fetchall()
    was = {position: status for position, status, _ in before}
    ungroup(conn, there, values)
    conn.execute(
        """insert into items (job, position, key, status, attempt, error, result, ms, run_at, updated_at,
               worker, fingerprint, seq, once)
           select ?1, value ->> 0, value ->> 1, value ->> 2, value ->> 2 <> 'queued', value ->> 3,
               value ->> 4, value ->> 5, value ->> 6, ?2, iif(value ->> 2 = 'running', ?3, null),
               value ->> 7, ?4 + key, value ->> 8
           from jsonb_each(?5) where true
           on conflict (job, position) do update set key = excluded.key, status = excluded.status,
               attempt = attempt + (excluded.status <> 'queued'
                   and status not in ('running', excluded.status)),
               error = excluded.error, result = excluded.result, ms = excluded.ms,
               run_at = excluded.run_at, updated_at = excluded.updated_at, worker = excluded.worker,
               fingerprint = excluded.fingerprint, seq = excluded.seq, once = excluded.once""",
        (job, now, worker, seq, rows),
    )
    attempts = {position: attempt for position, _, attempt in before}
    if told := [one for one in steps if is_try(one, was.get(one.position), attempts.get(one.position, 0))]:
        tries.add_steps(conn, job, worker, told, now, keep_tries)
    first_errors = {of: step.error for step, of in zip(steps[::-1], fingerprints[::-1], strict=True) if of}
    for of, number in Counter(filter(None, fingerprints)).items():
        group(conn, job, of, None, first_errors[of], now, number)
    after = Counter(step.status for step in steps)
    after.subtract(was.values())
    changes = {status: after[status] for status in ITEM_STATUSES}
    count(conn, job, seq + len(steps), changes, added=len(steps) - len(was))
    ended = [
        step
        for step in steps
        if step.status in ("completed", "failed") and was.get(step.position) != step.status
    ]
    if ended:
        times = [step.ms for step in ended if step.ms is not None]
        note_all(conn, [Measure(job, len(ended), [(1, ms) for ms in times], sum(times))], now)


def is_try(step: Step, was: str | None, attempt: int) -> bool:
    """Whether a step reports the end of a try that is not its item's own record; `was` and `attempt` are its
    item's before.
    """
    if step.status == "queued":
        return step.error is not None or step.ms is not None
    if step.status == "completed":
        return was != step.status and (attempt > 1 or (attempt == 1 and was != "running"))
    return step.status in ("failed", "unknown") or (step.status == "cancelled" and step.error is not None)
