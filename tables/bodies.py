"""Body tasks in the ledger: a function that is called once holds its job, and its steps are the job's items.

Called inside the transactions of ledger.py and rescue.py, for many jobs at once: a statement for each thing
that is written, and not for each job, as there may be a job for each request. Steps have a statement of their
own: each says what becomes of it.
"""

from collections import Counter
from collections.abc import Sequence

from rowcast.tables import tries
from rowcast.tables.counts import (
    STOPPED,
    change_jobs,
    close_all,
    count_all,
    group,
    listed,
    move_items,
    ungroup,
)
from rowcast.tables.database import Connection, tick
from rowcast.tables.halts import HALTED
from rowcast.tables.measures import Measure, filed, note_all
from rowcast.tables.sweeps import fail_job, go_on
from rowcast.tasks import clock
from rowcast.tasks.groups import fingerprint
from rowcast.tasks.records import encode
from rowcast.tasks.work import Ended, Step, in_doubt

Told = tuple[int, str, Sequence[Step], Ended | None]  # a job, its worker, and what that tells of its steps
ONCE = "job = :job and status = 'running' and once"  # SQL of steps that run and are not to be repeated


def take_bodies(conn: Connection, worker: str, jobs: Sequence[int]) -> list[list[Step] | None]:
    """Hold body jobs for `worker`; None for one that is not to run, or that another worker holds.

    `rescue` ends that. Nor is it to run before a retry has queued all the steps that it is for. Gives the
    items that there are, the steps of earlier runs. The function's own item is written at the first take; the
    first step that it reports takes that item's place.
    """
    found = conn.execute(
        f"""select jobs.id, task from json_each(?) cross join jobs on jobs.id = value
            where status in ('queued', 'running') and finished_at is null
               and not {HALTED} and (worker is null or worker = ?)
               and not exists (select 1 from sweeps where job = jobs.id)""",
        (listed(jobs), worker),
    ).fetchall()
    taken = [job for job, _ in found]
    change_jobs(conn, taken, "start")
    conn.execute(
        """update jobs set worker = ?, filled = 1, seq = ? + key from json_each(?) where jobs.id = value""",
        (worker, tick(conn, len(taken)), listed(taken)),
    )
    firsts = conn.execute(
        """select job, key, status
           from (select value as taken from json_each(?)) cross join items on job = taken and position = 0""",
        (listed(taken),),
    ).fetchall()
    own = {job: (task, "queued") for job, task in found} | {job: (key, was) for job, key, was in firsts}
    begun = [
        (job, worker, [Step(0, key, "running")]) for job, (key, was) in own.items() if was != "completed"
    ]
    _write_steps(conn, begun)
    steps: dict[int, list[Step]] = {job: [] for job in taken}
    for job, *step in conn.execute(
        """select job, position, items.key, status, error, result, ms
           from (select value as taken from json_each(?)) cross join items on job = taken""",
        (listed(taken),),
    ).fetchall():
        steps[job].append(Step(*step))
    return [steps.get(job) for job in jobs]


def record(conn: Connection, told: Sequence[Told], keep_tries: int) -> None:
    """Write what workers report of the bodies that they hold; of those that they have lost, nothing."""
    if len({job for job, *_ in told}) < len(told):  # one after the other
        for one in told:
            record(conn, [one], keep_tries)
        return
    rows = conn.execute(
        """select jobs.id from json_each(?) cross join jobs on jobs.id = value ->> 0
           where worker = value ->> 1 and finished_at is null and status <> 'cancelled'""",
        (encode([(job, worker) for job, worker, *_ in told]).decode(),),
    ).fetchall()
    held = {job for (job,) in rows}
    _write_steps(
        conn, [(job, worker, steps) for job, worker, steps, _ in told if steps and job in held], keep_tries
    )
    over = []
    for job, _, _, ended in told:
        if ended and job in held:
            enters = "unknown" if ended.unknown else "failed"
            over.append((job, enters if ended.error else "completed", ended.error))
    _end_bodies(conn, over)


def leave_body(conn: Connection, job: int, idempotent: int, given_up: str | None, died: str) -> None:
    """A body task whose worker is gone: it will be called again, or it is over.

    Of one that was not called yet, all items are queued, and there is no try.
    """
    called = conn.execute(
        """select 1 from items where job = ?1 and (status <> 'queued' or error is not null)
           union all select 1 from tries where job = ?1""",
        (job,),
    ).fetchall()
    in_a_step = conn.execute("select 1 from items where job = ? and status = 'running'", (job,)).fetchone()
    doubtful = conn.execute(f"select 1 from items where {ONCE}", {"job": job}).fetchone()
    if (idempotent or not called) and not given_up and not doubtful:
        move_items(conn, job, "running", "queued", "true", STOPPED, said=died)
    elif given_up and not in_a_step:
        fail_job(conn, job, f"{given_up}.")  # there is no step to bear the error
    else:
        failed = given_up if idempotent and not doubtful else None
        error = failed or in_doubt(given_up or died)
        _end_bodies(conn, [(job, "failed" if failed else "unknown", error)])


def _end_bodies(conn: Connection, over: Sequence[tuple[int, str, str | None]]) -> None:
    """Body tasks are over, (job, what its open step becomes, the error) each: the job completes, or fails
    where the function has raised, and what it never reached is cancelled.
    """
    jobs = [job for job, *_ in over]
    left = "select jobs.id from json_each(?) cross join jobs on jobs.id = value where"
    running = {job for (job,) in conn.execute(f"{left} running > 0", (listed(jobs),)).fetchall()}
    for job, enters, error in over:
        if job in running:
            move_items(conn, job, "running", enters, "true", STOPPED, error=error)
    changed = change_jobs(conn, [job for job, enters, _ in over if enters != "failed"], "complete")
    changed += change_jobs(conn, [job for job, enters, _ in over if enters == "failed"], "fail")
    unreached = conn.execute(
        f"{left} queued > 0 or running > 0 or exists (select 1 from sweeps where job = jobs.id)",
        (listed(changed),),
    ).fetchall()
    for (job,) in unreached:
        go_on(conn, job)
    close_all(conn, changed)


def _write_steps(
    conn: Connection, told: Sequence[tuple[int, str, Sequence[Step]]], keep_tries: int = 0
) -> None:
    """Write the steps of jobs, each with its worker, in one statement: each step is the item at its position;
    and their tries.
    """
    if not told:
        return
    now = clock.now()
    first = seq = tick(conn, sum(len(steps) + 1 for *_, steps in told))
    kinds = [
        [fingerprint(None, step.error) if step.status == "failed" else None for step in steps]
        for *_, steps in told
    ]
    rows = []
    groups: list[tuple[int, dict[str, int], dict[str, str | None]]] = []
    for (job, worker, steps), kinds_of in zip(told, kinds, strict=True):
        group_of = filed(conn, job, filter(None, kinds_of)) if any(kinds_of) else {}
        of = [group_of.get(kind or "") for kind in kinds_of]
        for n, step in enumerate(steps):
            rows.append((
                job, step.position, step.key, step.status, step.error, step.result, step.ms,
                clock.moment(step.run_at), worker if step.status == "running" else None, of[n], step.once,
                seq + n,
            ))  # fmt: skip
        errors = {name: step.error for step, name in zip(steps[::-1], of[::-1], strict=True) if name}
        groups.append((job, Counter(filter(None, of)), errors))
        seq += len(steps) + 1
    text = encode(rows).decode()
    before = conn.execute(
        """select items.job, items.position, items.status, attempt, items.fingerprint is not null
           from json_each(?) cross join items on items.job = value ->> 0 and items.position = value ->> 1""",
        (text,),
    ).fetchall()
    for job in {job for job, *_, was_filed in before if was_filed}:
        there = "from items where job = :job and position in (select value ->> 1 from json_each(:rows))"
        ungroup(conn, there, {"job": job, "rows": encode([row for row in rows if row[0] == job]).decode()})
    conn.execute(
        """insert into items (job, position, key, status, attempt, error, result, ms, run_at, updated_at,
               worker, fingerprint, once, seq)
           select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 3 <> 'queued', value ->> 4,
               value ->> 5, value ->> 6, value ->> 7, ?1, value ->> 8, value ->> 9, value ->> 10, value ->> 11
           from jsonb_each(?2) where true
           on conflict (job, position) do update set key = excluded.key, status = excluded.status,
               attempt = attempt + (excluded.status <> 'queued'
                   and status not in ('running', excluded.status)),
               error = excluded.error, result = excluded.result, ms = excluded.ms,
               run_at = excluded.run_at, updated_at = excluded.updated_at, worker = excluded.worker,
               fingerprint = excluded.fingerprint, seq = excluded.seq, once = excluded.once""",
        (now, text),
    )
    was = {(job, position): (status, attempt) for job, position, status, attempt, _ in before}
    moved = []
    measured = []
    seq = first - 1
    for job, worker, steps in told:
        seq += len(steps) + 1
        befores = [was.get((job, step.position), (None, 0)) for step in steps]
        tried = [step for step, (status, n) in zip(steps, befores, strict=True) if is_try(step, status, n)]
        if tried:
            tries.add_steps(conn, job, worker, tried, now, keep_tries)
        changes = Counter(step.status for step in steps)
        changes.subtract(status for status, _ in befores if status)
        changes["total"] = sum(status is None for status, _ in befores)
        moved.append((job, seq, changes))
        ended = [
            step
            for step, (status, _) in zip(steps, befores, strict=True)
            if step.status in ("completed", "failed") and status != step.status
        ]
        if ended:
            times = [step.ms for step in ended if step.ms is not None]
            measured.append(Measure(job, len(ended), [(1, ms) for ms in times], sum(times)))
    for job, numbers, errors in groups:
        for name, number in numbers.items():
            group(conn, job, name, None, errors[name], now, number)
    count_all(conn, moved)
    note_all(conn, measured, now)


def is_try(step: Step, was: str | None, attempt: int) -> bool:
    """Whether a step reports the end of a try that is not its item's own record; `was` and `attempt` are its
    item's before.
    """
    if step.status == "queued":
        return step.error is not None or step.ms is not None
    if step.status == "completed":
        return was != step.status and (attempt > 1 or (attempt == 1 and was != "running"))
    return step.status in ("failed", "unknown") or (step.status == "cancelled" and step.error is not None)
