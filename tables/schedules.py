"""Schedules: start a task every day at six. Owns its table; times are cron expressions in a time zone (cronsim reads them).

A schedule has at most one run at a time: where the last one still goes on, this one is left out. Runs that were missed, the
server being down, are made up once.
"""

import logging
import time
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import apsw
import msgspec
from cronsim import CronSim, CronSimError

from rowcast.jobs import Jobs, NotFound
from rowcast.tables.database import connection, transaction
from rowcast.tasks.records import Options, decode, encode, iso
from rowcast.tasks.registry import BadArguments, Task, load

log = logging.getLogger("rowcast")


class Schedule(msgspec.Struct):
    """One row of `schedules`."""

    id: int
    task: str
    entry: str
    args: str
    owner: str
    cron: str
    zone: str
    paused: int
    next_at: float
    last_job: int | None
    created_at: float

    def json(self) -> dict[str, Any]:
        """The schedule as the API gives it."""
        return {
            "id": self.id,
            "task": self.task,
            "args": decode(self.args),
            "owner": self.owner,
            "cron": self.cron,
            "zone": self.zone,
            "paused": bool(self.paused),
            "next_at": iso(self.next_at),
            "last_job": self.last_job,
            "created_at": iso(self.created_at),
        }


COLUMNS = ", ".join(Schedule.__struct_fields__)


def next_time(cron: str, zone: str, after: float) -> float:
    """The next moment, in unix seconds, that a cron expression names in a time zone. Raises BadArguments."""
    try:
        moment = datetime.fromtimestamp(after, ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadArguments(f"{zone!r} is no time zone: write one like Europe/Rome or UTC.") from None
    try:
        if len(cron.split()) != 5:  # cronsim would take seconds too
            raise CronSimError("Wrong number of fields")
        return next(CronSim(cron, moment)).timestamp()
    except (CronSimError, StopIteration):
        raise BadArguments(f"{cron!r} is no cron expression: five fields, like 0 6 * * * for every day at six.") from None


def add(path: str, task: Task, args: dict[str, Any], owner: str, cron: str, zone: str = "UTC") -> Schedule:
    """Write a schedule. Raises BadArguments."""
    conn, now = connection(path), time.time()
    with transaction(conn):
        conn.execute(
            "insert into schedules (task, entry, args, owner, cron, zone, next_at, created_at) values (?,?,?,?,?,?,?,?)",
            (task.name, task.entry, encode(args).decode(), owner, cron, zone, next_time(cron, zone, now), now),
        )
        return get(path, conn.last_insert_rowid(), owner)


def get(path: str, schedule: int, owner: str) -> Schedule:
    """One schedule of the owner's. Raises NotFound."""
    sql = f"select {COLUMNS} from schedules where id = ? and owner = ?"
    row = connection(path).execute(sql, (schedule, owner)).fetchone()
    if not row:
        raise NotFound(f"There is no schedule {schedule}.")
    return Schedule(*row)


def every(path: str, owner: str) -> list[Schedule]:
    """The owner's schedules, the next to start first."""
    rows = connection(path).execute(f"select {COLUMNS} from schedules where owner = ? order by paused, next_at", (owner,))
    return [Schedule(*row) for row in rows]


def set_paused(path: str, schedule: int, owner: str, paused: bool) -> Schedule:
    """Pause a schedule, or let it go on from now. Raises NotFound."""
    found = get(path, schedule, owner)
    with transaction(connection(path)) as conn:
        following = next_time(found.cron, found.zone, time.time())
        conn.execute("update schedules set paused = ?, next_at = ? where id = ?", (int(paused), following, schedule))
        return get(path, schedule, owner)


def delete(path: str, schedule: int, owner: str) -> None:
    """Raises NotFound."""
    get(path, schedule, owner)
    with transaction(connection(path)) as conn:
        conn.execute("delete from schedules where id = ?", (schedule,))


def start_due(jobs: Jobs, engine: str = "background") -> list[int]:
    """Start what is due, each once, on this engine, and set the next time from now; returns the new jobs.

    The unique key names schedule and moment, so two processes that look at once start one job.
    """
    conn, now, started = connection(jobs.path), time.time(), []
    due = [Schedule(*row) for row in conn.execute(
        f"select {COLUMNS} from schedules where not paused and next_at <= ?", (now,)
    ).fetchall()]  # fmt: skip
    for schedule in due:
        try:
            following = next_time(schedule.cron, schedule.zone, now)
        except BadArguments as error:  # the zone has gone from this machine
            log.error("schedule %s is paused: %s", schedule.id, error)
            with transaction(conn):
                conn.execute("update schedules set paused = 1 where id = ?", (schedule.id,))
            continue
        try:
            job, is_new = _start(jobs, schedule, engine)
        except apsw.Error:
            raise
        except Exception:
            log.exception("schedule %s cannot start %s", schedule.id, schedule.task)
            job, is_new = None, False
        with transaction(conn):
            conn.execute(
                "update schedules set next_at = ?, last_job = coalesce(?, last_job) where id = ? and next_at = ?",
                (following, job, schedule.id, schedule.next_at),
            )
        if job is not None and is_new:
            started.append(job)
    return started


def _start(jobs: Jobs, schedule: Schedule, engine: str) -> tuple[int | None, bool]:
    if schedule.last_job is not None:
        last = jobs.conn.execute("select finished_at from jobs where id = ?", (schedule.last_job,)).fetchone()
        if last and last[0] is None:
            return None, False
    options = Options(unique_key=f"schedule {schedule.id} at {schedule.next_at:.0f}", schedule=schedule.id)
    job, is_new = jobs.submit(load(schedule.entry), decode(schedule.args), schedule.owner, engine, options)
    return job.id, is_new
