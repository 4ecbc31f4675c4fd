"""Schedules: start a task every day at six. Owns its table; times are cron expressions in a time zone
(cronsim reads them).

A schedule has at most one run at a time: where the last one still goes on, this one is left out, and its row
says so. Runs that were missed, the server being down, are made up once. A job is written in the transaction
that sets the next moment, with what the schedule says then: whoever edits it meanwhile is heard, or is too
late.
"""

import contextlib
import logging
import math
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import apsw
import msgspec
from cronsim import CronSim, CronSimError

from rowcast.tables.database import Connection, OnDatabase, transaction
from rowcast.tables.seals import as_sealed, seals_in
from rowcast.tables.shares import owned_by
from rowcast.tables.starts import write_job
from rowcast.tasks.accounts import Who
from rowcast.tasks.notify import Usual
from rowcast.tasks.records import (
    BadArguments,
    NotAllowed,
    NotFound,
    Options,
    decode,
    encode,
)
from rowcast.tasks.registry import Task, load_or_say
from rowcast.tasks.schedules import LastJob, Schedule
from rowcast.tasks.sentences import worded

log = logging.getLogger("rowcast")
CRON_LENGTH = 100  # letters: with them a schedule can name every minute that it needs
MADE = ("last_jobs", "moments")  # what no column has
SCHEDULE_COLUMNS = ", ".join(name for name in Schedule.__struct_fields__ if name not in MADE)
SHOWN = 5  # of its last jobs, and of its next moments


def next_time(cron: str, zone: str, after: float) -> float:
    """The next moment, in unix seconds, that a cron expression names in a time zone. Raises BadArguments."""
    try:
        moment = datetime.fromtimestamp(after, ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadArguments(f"{zone[:40]!r} is no time zone: write one like Europe/Rome or UTC.") from None
    try:
        if len(cron) > CRON_LENGTH or len(cron.split()) != 5:  # cronsim would take seconds too
            raise CronSimError("Wrong number of fields")
        found = (one.timestamp() for one in CronSim(cron, moment))
        return next(one for one in found if one > after)  # in an hour that comes twice the first may be gone
    except (CronSimError, StopIteration):
        raise BadArguments(
            f"{cron[:40]!r} is no cron expression: five fields, like 0 6 * * * for every day at six."
        ) from None


def moments_of(schedule: Schedule, number: int = SHOWN) -> list[float]:
    """When it starts next, and then; none of one that is paused, or whose zone has gone from this machine."""
    found: list[float] = []
    try:
        while not schedule.paused and len(found) < number:
            found.append(
                next_time(schedule.cron, schedule.zone, found[-1]) if found else max(schedule.next_at, 0.0)
            )
    except BadArguments:
        pass
    return found


def loaded(schedule: Schedule) -> Task | str:
    """Its task, if that can be started with the schedule's arguments; else why it cannot, in a sentence."""
    task = load_or_say(schedule.entry, schedule.task)
    if isinstance(task, str):
        return f"The task {schedule.entry} cannot be imported: {task}"
    try:
        args = decode(schedule.args)
        # what its secrets are its job is told
        values = task.typed(args, dict.fromkeys(seals_in(args), "sealed"))
        known = {argument.name: argument for argument in task.arguments}
        for name, value in values.items():
            if name not in known:
                raise BadArguments(f"there is no `{name}`")
            known[name].reader(value, True)
        for name in [name for name, argument in known.items() if argument.required and name not in values]:
            raise BadArguments(f"`{name}` is missing")
    except Exception as error:  # of a reader, or of a class that has gone
        return f"Its arguments do not fit the task any more: {str(error).rstrip('.')}."
    return task


class Schedules(OnDatabase):
    """The schedules of one database file. `usual`: whom the settings tell of its jobs."""

    def __init__(self, path: str, usual: Usual = Usual()):
        super().__init__(path)
        self.usual = usual
        self.looked_at = math.inf  # when it was looked for what is due, by the machine's clock

    def add(
        self,
        task: Task,
        args: dict[str, Any],
        owner: str,
        cron: str,
        zone: str = "UTC",
        name: str = "",
        options: Options = Options(),
    ) -> Schedule:
        """Write a schedule. Raises BadArguments."""
        now = time.time()
        following = next_time(cron, zone, now)
        with transaction(self.conn) as conn:
            said = self._said(task, args, cron, zone, name, options)
            values = {**said, "owner": owner, "next_at": following, "created_at": now}
            columns = ", ".join(values)
            conn.execute(
                f"insert into schedules ({columns}) values ({', '.join('?' * len(values))})",
                tuple(values.values()),
            )
            return self.schedule(conn.last_insert_rowid(), owner)

    def edit(
        self,
        schedule: int,
        who: Who,
        task: Task,
        args: dict[str, Any],
        cron: str,
        zone: str,
        name: str,
        options: Options,
    ) -> Schedule:
        """From now on it is like this. A moment that is due stays so, unless the times are others.

        Raises NotFound, BadArguments.
        """
        following = next_time(cron, zone, time.time())
        with transaction(self.conn) as conn:
            values = self._said(task, args, cron, zone, name, options)
            old = self.schedule(schedule, who)
            if (old.cron, old.zone) == (cron, zone):
                following = old.next_at
            sets = ", ".join(f"{name} = ?" for name in values)
            conn.execute(
                f"update schedules set {sets}, next_at = ?, trouble = '', missed_at = null where id = ?",
                (*values.values(), following, schedule),
            )
            return self.schedule(schedule, who)

    def _said(
        self, task: Task, args: dict[str, Any], cron: str, zone: str, name: str, options: Options
    ) -> dict[str, str]:
        """What people say of a schedule, by column; of the options those that say something."""
        how = {
            option: value
            for option, value in msgspec.structs.asdict(options).items()
            if value != getattr(Options(), option)
        }
        return {
            "name": name,
            "task": task.name,
            "entry": task.entry,
            "args": as_sealed(self.path, args),
            "options": encode(how).decode(),
            "cron": cron,
            "zone": zone,
        }

    def schedule(self, schedule: int, who: Who) -> Schedule:
        """One schedule of those that one sees. Raises NotFound."""
        where, values = owned_by(who)
        row = self.conn.execute(
            f"select {SCHEDULE_COLUMNS} from schedules where id = ? and {where}", (schedule, *values)
        ).fetchone()
        if not row:
            raise NotFound(f"There is no schedule {schedule}.")
        return self._whole(Schedule(*row))

    def every(self, who: Who) -> list[Schedule]:
        """The schedules that one sees, the next to start first."""
        where, values = owned_by(who)
        rows = self.conn.execute(
            f"select {SCHEDULE_COLUMNS} from schedules where {where} order by paused, next_at", values
        )
        return [self._whole(Schedule(*row)) for row in rows.fetchall()]

    def _whole(self, schedule: Schedule) -> Schedule:
        """With its last jobs, and its next moments."""
        rows = self.conn.execute(
            """select id, status, failed, unknown, reason from jobs indexed by jobs_by_schedule
               where schedule = ? and +owner <> '' order by id desc limit ?""",
            (schedule.id, SHOWN),
        )
        schedule.last_jobs = [LastJob(*row) for row in rows]
        schedule.moments = moments_of(schedule)
        return schedule

    def set_paused(self, schedule: int, who: Who, paused: bool) -> Schedule:
        """Pause a schedule, or let it go on from now. Raises NotFound."""
        found = self.schedule(schedule, who)
        with transaction(self.conn) as conn:
            following = next_time(found.cron, found.zone, time.time())
            conn.execute(
                """update schedules set paused = ?1, next_at = ?2, trouble = iif(?1, trouble, ''),
                       missed_at = iif(?1, missed_at, null)
                   where id = ?3""",
                (int(paused), following, schedule),
            )
            return self.schedule(schedule, who)

    def delete(self, schedule: int, who: Who) -> None:
        """Raises NotFound."""
        self.schedule(schedule, who)
        with transaction(self.conn) as conn:
            conn.execute("delete from schedules where id = ?", (schedule,))

    def start_now(self, schedule: int, who: Who, engine: str = "background") -> int:
        """Start its job now, besides what the clock says; returns the job.

        Raises NotFound; BadArguments where it cannot start, NotAllowed where its last run still goes on.
        """
        task = loaded(self.schedule(schedule, who))
        if isinstance(task, str):
            raise BadArguments(task)
        with transaction(self.conn) as conn:
            found = self.schedule(schedule, who)
            if why := still_runs(conn, found, "is"):
                raise NotAllowed(f"{why} Another one can start when that has ended.")
            job, _ = self._write(conn, found, task, engine, None)
            conn.execute(
                "update schedules set last_job = ?, trouble = '', missed_at = null where id = ?",
                (job, schedule),
            )
            return job

    def start_due(self, engine: str = "background") -> list[int]:
        """Start what is due, each once, on this engine, and set the next time from now; returns the new jobs.

        Two processes that look at once start one job: the second finds another moment.
        """
        now = time.time()
        if now < self.looked_at:  # the first look, or the clock was set back
            self._heed_the_clock(now)
        self.looked_at = now
        due = self.conn.execute(
            f"select {SCHEDULE_COLUMNS} from schedules where not paused and next_at <= ?", (now,)
        ).fetchall()
        started: list[int] = []
        for schedule in [Schedule(*row) for row in due]:
            try:
                started += self._start(schedule, engine)
            except apsw.Error:
                raise
            except Exception as error:
                log.exception("schedule %s cannot start %s", schedule.id, schedule.task)
                with transaction(self.conn) as conn:
                    said = worded(f"It could not start: {type(error).__name__}: {error}")
                    _note(conn, schedule, time.time(), said)
        return started

    def _heed_the_clock(self, now: float) -> None:
        """What waits for a later moment than its next one waits for that: it was set by a clock that was
        ahead."""
        found = "select id, cron, zone, next_at from schedules where not paused"
        late: list[tuple[float, int, str, str, float]] = []
        for schedule, cron, zone, next_at in self.conn.execute(found).fetchall():
            with contextlib.suppress(BadArguments):  # its zone has gone from this machine
                if (following := next_time(cron, zone, now)) < next_at:
                    late.append((following, schedule, cron, zone, next_at))
        if late:
            with transaction(self.conn) as conn:
                conn.executemany(
                    """update schedules set next_at = ?
                       where id = ? and cron = ? and zone = ? and next_at = ? and not paused""",
                    late,
                )

    def _start(self, due: Schedule, engine: str) -> Sequence[int]:
        """Write the job that is due, and its next moment; none where it is not to, or another was quicker."""
        task = loaded(due)  # before the transaction: an import may take its time
        with transaction(self.conn) as conn:
            row = conn.execute(
                f"select {SCHEDULE_COLUMNS} from schedules where id = ? and next_at = ? and not paused",
                (due.id, due.next_at),
            ).fetchone()
            if not row or (row := Schedule(*row)).entry != due.entry or row.args != due.args:
                return ()
            now = time.time()
            if isinstance(task, str):
                log.error("schedule %s cannot start %s: %s", row.id, row.task, task)
                _note(conn, row, now, task)
            elif why := still_runs(conn, row, "was"):
                _note(conn, row, now, why)
            elif following := _following(conn, row, now):
                key = f"schedule {row.id} at {row.next_at:.0f}"
                job, is_new = self._write(conn, row, task, engine, key)
                conn.execute(
                    """update schedules set next_at = ?, last_job = ?, trouble = '', missed_at = null
                       where id = ?""",
                    (following, job, row.id),
                )
                return [job] if is_new else ()
        return ()

    def _write(
        self, conn: Connection, schedule: Schedule, task: Task, engine: str, key: str | None
    ) -> tuple[int, bool]:
        options = msgspec.structs.replace(schedule.how, unique_key=key, schedule=schedule.id)
        args = decode(schedule.args)
        return write_job(conn, self.path, task, args, schedule.owner, engine, options, self.usual)


def still_runs(conn: Connection, schedule: Schedule, is_or_was: str) -> str:
    """That its last run has not ended, in a sentence; '' where it has."""
    sql = "select status, reason from jobs where id = ? and finished_at is null"
    found = conn.execute(sql, (schedule.last_job,)).fetchone()
    if not found:
        return ""
    status, reason = found
    job = schedule.last_job
    why = reason.rstrip(".")
    is_so = is_or_was == "is"
    if status == "paused" and reason:
        return worded(f"Its last run, job {job}, {'is' if is_so else 'was'} paused ({why}).")
    return worded(f"Its last run, job {job}, {'is' if is_so else 'was'} {status}.")


def _following(conn: Connection, schedule: Schedule, now: float) -> float | None:
    """Its next moment; None for one whose zone has gone from this machine, which is paused, and says so."""
    try:
        return next_time(schedule.cron, schedule.zone, now)
    except BadArguments as error:
        log.error("schedule %s is paused: %s", schedule.id, error)
        conn.execute(
            "update schedules set paused = 1, trouble = ?, missed_at = ? where id = ?",
            (str(error), schedule.next_at, schedule.id),
        )
        return None


def _note(conn: Connection, schedule: Schedule, now: float, why: str) -> None:
    """It has not started at this moment: its row says why, and the next one is tried."""
    if following := _following(conn, schedule, now):
        conn.execute(
            "update schedules set next_at = ?, trouble = ?, missed_at = ? where id = ? and next_at = ?",
            (following, why, schedule.next_at, schedule.id, schedule.next_at),
        )
