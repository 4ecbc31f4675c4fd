"""Starts: a job's row is written, once for each unique key, and an engine takes jobs up. Called inside the
transactions of others.

A key is its job's own until the job is deleted, or for as long as was asked for; who comes with it meanwhile
is given that job, if it is the same start.
"""

from collections.abc import Sequence
from typing import Any

from rowcast.tables.counts import change_jobs, close_all, listed
from rowcast.tables.database import Connection, tick
from rowcast.tables.followers import begins_at
from rowcast.tables.rows import JOB
from rowcast.tables.seals import as_sealed, same
from rowcast.tasks import clock
from rowcast.tasks.concurrency import bounds_of
from rowcast.tasks.filters import checked_tags
from rowcast.tasks.notify import Receiver, Usual, as_text, chosen
from rowcast.tasks.records import Job, NotAllowed, Options, encode
from rowcast.tasks.registry import Task


def write_job(
    conn: Connection,
    path: str,
    task: Task,
    args: dict[str, Any],
    owner: str,
    engine: str,
    options: Options,
    usual: Usual,
) -> tuple[int, bool]:
    """Write a job of `task`, queued: of a function that is called once with its item, else without its items.
    Returns its id, and whether it is new.

    `path`: the database, beside which is the key of its secrets; `usual`: whom the settings tell of it.
    Raises NotAllowed for a unique key of another start, and with NotFound what a follower may not follow;
    BadArguments for secrets that cannot be kept.
    """
    now = clock.now()
    text = as_sealed(path, args)
    if bearer := _bearer(conn, path, task, text, owner, options, now):
        return bearer, False
    most, least = bounds_of(options.concurrency or task.concurrency)
    is_one = int(task.shape == "body")  # item, which is called as the task is until it has a step
    seq = tick(conn, 1 + is_one)
    values = {
        "id": conn.execute(
            "select 1 + max(last_job, coalesce((select max(id) from jobs), 0)) from rowcast"
        ).get,
        "task": task.name,
        "entry": task.entry,
        "shape": task.shape,
        "args": text,
        "owner": owner,
        "engine": engine,
        "idempotent": int(task.idempotent),
        "stamp": None if options.dry_run else task.stamp,
        "concurrency": most,
        "least": least,
        "priority": options.priority,
        "pace": task.pace if options.pace is None else options.pace or None,
        "stop_after": task.stop_after if options.stop_after is None else options.stop_after or None,
        "canary": options.canary,
        "dry_run": options.dry_run,
        "run_at": begins_at(conn, options),
        "after_job": options.after_job,
        "condition": options.condition,
        "unique_key": options.unique_key,
        "unique_until": now + options.unique_for if options.unique_for else None,
        "schedule": options.schedule,
        "background": int(options.background),
        "again_item": options.again_item,
        "again_job": options.again_job,
        "notify": as_text(receivers(task, options, usual)),
        "language": options.language,
        "tags": encode(checked_tags([*task.tags, *options.tags])).decode(),
        "total": is_one,
        "queued": is_one,
        "filled": is_one,
        "created_at": now,
        "seq": seq + is_one,
    }
    columns = ", ".join(values)
    conn.execute(
        f"insert into jobs ({columns}) values ({', '.join('?' * len(values))})", tuple(values.values())
    )
    if is_one:
        conn.execute(
            "insert into items (job, position, key, updated_at, seq) values (?, 0, ?, ?, ?)",
            (values["id"], task.name, now, seq),
        )
    return int(values["id"]), True


def take_up(conn: Connection, jobs: Sequence[int]) -> list[Job | None]:
    """An engine takes these jobs up: queued becomes running. Gives each, or None where there is none."""
    close_all(conn, change_jobs(conn, jobs, "start"))
    rows = conn.execute(f"{JOB} where jobs.id in (select value from json_each(?))", (listed(jobs),))
    found = {job.id: job for job in (Job(*row) for row in rows)}
    return [found.get(job) for job in jobs]


def receivers(task: Task, options: Options, usual: Usual) -> tuple[Receiver, ...]:
    """Who is told of a job: of a dry run nobody, whoever was named for the run that it is to show."""
    if options.dry_run:
        return ()
    return chosen(task.notify, usual, options.notify)


def _bearer(
    conn: Connection, path: str, task: Task, args: str, owner: str, options: Options, now: float
) -> int | None:
    """The job that has the unique key; None where it is free. Raises NotAllowed where that is another
    start."""
    key = options.unique_key
    if key is None:
        return None
    found = conn.execute(
        "select id, task, args, unique_until from jobs where owner = ? and unique_key = ?", (owner, key)
    ).fetchone()
    if not found:
        return None
    job, other, given, until = found
    if until is not None and until <= now:
        conn.execute("update jobs set unique_key = null, unique_until = null where id = ?", (job,))
        return None
    if other != task.name or not same(path, given, args):
        raise NotAllowed(
            f"The unique key {key[:80]!r} is job {job}'s, which was started with"
            f" {'another task' if other != task.name else 'other arguments'}."
        )
    return int(job)
