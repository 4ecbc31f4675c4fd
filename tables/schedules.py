"""Schedules: start a task every day at six. Owns its table; times are cron expressions in a time zone
(cronsim reads them).

A schedule has at most one run at a time: where the last one still goes on, this one is left out. Runs that
were missed, the server being down, are made up once.
"""

import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import apsw
from cronsim import CronSim, CronSimError

from rowcast.tables.database import OnDatabase, transaction
from rowcast.tables.shares import owned_by
from rowcast.tasks.accounts import Who
from rowcast.tasks.records import BadArguments, Job, NotFound, Options, Schedule, decode, encode
from rowcast.tasks.registry import Task, load

log = logging.getLogger("rowcast")
CRON_LENGTH = 100  # letters: with them a schedule can name every minute that it needs
SCHEDULE_COLUMNS = ", ".join(Schedule.__struct_fields__)
Submit = Callable[[Task, dict[str, Any], str, str, Options], tuple[Job, bool]]


def next_time(cron: str, zone: str, after: float) -> float:
    """The next moment, in unix seconds, that a cron expression names in a time zone. Raises BadArguments."""
    try:
        moment = datetime.fromtimestamp(after, ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadArguments(f"{zone[:40]!r} is no time zone: write one like Europe/Rome or UTC.") from None
    try:
        if len(cron) > CRON_LENGTH or len(cron.split()) != 5:  # cronsim would take seconds too
            raise CronSimError("Wrong number of fields")
        return next(CronSim(cron, moment)).timestamp()
    except (CronSimError, StopIteration):
        raise BadArguments(
            f"{cron[:40]!r} is no cron expression: five fields, like 0 6 * * * for every day at six."
        ) from None


class Schedules(OnDatabase):
    """The schedules of one database file."""

    def add(self, task: Task, args: dict[str, Any], owner: str, cron: str, zone: str = "UTC") -> Schedule:
        """Write a schedule. Raises BadArguments."""
        now = time.time()
        with transaction(self.conn) as conn:
            conn.execute(
                "insert into schedules (task, entry, args, owner, cron, zone, next_at, created_at)"
                " values (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    task.name,
                    task.entry,
                    encode(args).decode(),
                    owner,
                    cron,
                    zone,
                    next_time(cron, zone, now),
                    now,
                ),
            )
            return self.schedule(conn.last_insert_rowid(), owner)

    def schedule(self, schedule: int, who: Who) -> Schedule:
        """One schedule of those that one sees. Raises NotFound."""
        where, values = owned_by(who)
        sql = f"select {SCHEDULE_COLUMNS} from schedules where id = ? and {where}"
        row = self.conn.execute(sql, (schedule, *values)).fetchone()
        if not row:
            raise NotFound(f"There is no schedule {schedule}.")
        return Schedule(*row)

    def every(self, who: Who) -> list[Schedule]:
        """The schedules that one sees, the next to start first."""
        where, values = owned_by(who)
        rows = self.conn.execute(
            f"select {SCHEDULE_COLUMNS} from schedules where {where} order by paused, next_at", values
        )
        return [Schedule(*row) for row in rows]

    def set_paused(self, schedule: int, who: Who, paused: bool) -> Schedule:
        """Pause a schedule, or let it go on from now. Raises NotFound."""
        found = self.schedule(schedule, who)
        with transaction(self.conn) as conn:
            following = next_time(found.cron, found.zone, time.time())
            conn.execute(
                "update schedules set paused = ?, next_at = ? where id = ?",
                (int(paused), following, schedule),
            )
            return self.schedule(schedule, who)

    def delete(self, schedule: int, who: Who) -> None:
        """Raises NotFound."""
        self.schedule(schedule, who)
        with transaction(self.conn) as conn:
            conn.execute("delete from schedules where id = ?", (schedule,))

    def start_due(self, submit: Submit, engine: str = "background") -> list[int]:
        """Start what is due, each once, on this engine, and set the next time from now; returns the new jobs.

        `submit` is that of Jobs. The unique key names schedule and moment, so two processes that look at once
        start one job.
        """
        conn, now, started = self.conn, time.time(), []
        due = conn.execute(
            f"select {SCHEDULE_COLUMNS} from schedules where not paused and next_at <= ?", (now,)
        ).fetchall()
        for schedule in [Schedule(*row) for row in due]:
            try:
                following = next_time(schedule.cron, schedule.zone, now)
            except BadArguments as error:  # the zone has gone from this machine
                log.error("schedule %s is paused: %s", schedule.id, error)
                with transaction(conn):
                    conn.execute("update schedules set paused = 1 where id = ?", (schedule.id,))
                continue
            try:
                job, is_new = self._start(submit, schedule, engine)
            except apsw.Error:
                raise
            except Exception:
                log.exception("schedule %s cannot start %s", schedule.id, schedule.task)
                job, is_new = None, False
            with transaction(conn):
                conn.execute(
                    """update schedules set next_at = ?, last_job = coalesce(?, last_job)
                       where id = ? and next_at = ?""",
                    (following, job, schedule.id, schedule.next_at),
                )
            if job is not None and is_new:
                started.append(job)
        return started

    def _start(self, submit: Submit, schedule: Schedule, engine: str) -> tuple[int | None, bool]:
        sql = "select 1 from jobs where id = ? and finished_at is null"
        if self.conn.execute(sql, (schedule.last_job,)).fetchone():
            return None, False
        options = Options(
            unique_key=f"schedule {schedule.id} at {schedule.next_at:.0f}", schedule=schedule.id
        )
        job, is_new = submit(
            load(schedule.entry, schedule.task), decode(schedule.args), schedule.owner, engine, options
        )
        return job.id, is_new
