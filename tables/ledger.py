"""The ledger: the calls by which a worker works, exchange, look and heartbeat, and what keeps them honest.

Each exchange is one short transaction that changes items, stamps them with `seq` and keeps the counts on the
job's row. A claim hands out items with an attempt number; a result counts only for the worker and the attempt
that hold the item (fencing). A worker lives as long as its lease; `rescue` takes back what a dead one held.
Pace is kept here, in the claim, so it holds across all jobs and processes of a task.

This is SQL for workers; what people and pages ask is in jobs.py.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import apsw

from rowcast.tables import bodies, claims, pacing, places, rescue, results, sweeps
from rowcast.tables.claims import Claim
from rowcast.tables.counts import change_job, close_all, close_if_done
from rowcast.tables.database import Connection, DatabaseRefused, OnDatabase, tick, transaction
from rowcast.tables.logs import keep_lines
from rowcast.tables.starts import take_up
from rowcast.tasks import clock
from rowcast.tasks.records import ACTIVE, Job, decode, encode
from rowcast.tasks.sentences import worded
from rowcast.tasks.work import ERROR_LENGTH, LEASE, Report, Result, Standing, Step, Work, in_doubt

FULL = (apsw.FullError, apsw.IOError)
AWAY = (  # what may be over in a while: the database is in use, is not there, cannot be written
    DatabaseRefused,
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.CorruptError,
    apsw.NotADBError,
)


class Exchange(NamedTuple):
    """What a worker tells of a job, and asks for. `counted`: as in `Ledger.exchange`."""

    job: int
    worker: str
    report: Report
    counted: bool = False


class Ledger(OnDatabase):
    """The ledger over one database file. Of each item so many tries are kept, the newest; 0 keeps all."""

    def __init__(self, path: str, keep_tries: int = 0):
        super().__init__(path)
        self.keep_tries = keep_tries

    def exchange(self, job: int, worker: str, report: Report, counted: bool = False) -> Work:
        """Record what a worker tells of a job, and give it up to `report.limit` items, in one transaction.

        Items that are given become running, attempt + 1, held by `worker`. What the task's pace, its fair
        share, a canary or a Retry-After forbid is not given (places.py, pacing.py); `wait` then says when to
        ask again.
        After results nothing is given while another job of the task has nothing in flight: it may come first.

        A result for any other attempt than the one that `worker` holds is refused silently. `counted`: what
        other workers have of the job has been taken off the limit.
        """
        (work,) = self.exchange_all([Exchange(job, worker, report, counted)])
        if isinstance(work, Exception):
            raise work
        return work

    def exchange_all(self, exchanges: Sequence["Exchange"]) -> list[Work | Exception]:
        """The same for many jobs in one transaction, each answered in its place.

        First all is recorded, then items are given, to who has least first. What one of them is refused
        with, as its error, is no other's: then each is done by itself. Raises where nothing could be written
        of any of them.
        """
        if all(one.report.only_asks and one.report.limit < 1 for one in exchanges):
            rows = places.rows_of(self.conn, {one.job for one in exchanges})
            return [
                rows[one.job].standing(one.worker) if one.job in rows else Work("cancelled")
                for one in exchanges
            ]
        try:
            with transaction(self.conn) as conn:
                return [*self._exchange_all(conn, exchanges)]
        except AWAY:
            raise
        except FULL:  # one may be too large for the room that others have enough of
            if len(exchanges) == 1:
                raise
        except Exception as error:
            if len(exchanges) == 1:
                return [error]
        found: list[Work | Exception] = []
        for one in exchanges:
            try:
                found += self.exchange_all([one])
            except (*AWAY, *FULL) as error:  # what the others were given is theirs
                found.append(error)
        return found

    def _exchange_all(self, conn: Connection, exchanges: Sequence["Exchange"]) -> list[Work]:
        telling = [one for one in exchanges if not one.report.only_asks]
        if telling:
            there = places.rows_of(conn, {one.job for one in telling})
            self._note(conn, [one for one in telling if one.job in there])
        return claims.give(
            conn,
            [
                Claim(
                    one.job,
                    one.worker,
                    one.report.limit,
                    not one.report.only_asks,
                    None if one.counted else one.report.in_flight,
                    one.report.shares and not one.counted,
                )
                for one in exchanges
            ],
        )

    def look(self, job: int, worker: str) -> Standing:
        """How the job stands, and which of its items the worker holds."""
        return self.look_all(worker, [job])[0]

    def look_all(self, worker: str, jobs: Sequence[int]) -> list[Standing]:
        """The same of many jobs."""
        rows = places.rows_of(self.conn, jobs)
        mine: dict[int, list[int]] = {job: [] for job in jobs}
        (text,) = self.conn.execute(
            """select json_group_array(json_array(job, items.id))
               from json_each(?2) cross join items indexed by items_in_flight
                   on worker = ?1 and job = value and status = 'running'""",
            (worker, encode(list(jobs)).decode()),
        ).fetchone()
        for job, item in decode(text):
            mine[job].append(item)
        found: list[Standing] = []
        for job in jobs:
            standing = rows[job].standing(worker) if job in rows else Standing("cancelled")
            standing.mine = mine[job]
            found.append(standing)
        return found

    def _note(self, conn: Connection, telling: Sequence["Exchange"]) -> None:
        """Record what is told of jobs that there are."""
        for worker, leftovers in {one.worker: one.report.leftovers for one in telling}.items():
            if leftovers:  # from here on what runs beside them is blamed for nothing; a heartbeat says fewer
                conn.execute(
                    "update workers set leftovers = max(leftovers, ?) where id = ?", (leftovers, worker)
                )
        for one in telling:
            if one.report.hold:
                pacing.put_off(conn, one.job, one.report.hold)
            if one.report.found:
                pacing.note_found(conn, one.job, one.report.found)
        if told := [(one.job, one.worker, one.report.results) for one in telling if one.report.results]:
            results.record(conn, told, self.keep_tries)
        if bodied := [one for one in telling if one.report.steps or one.report.ended]:
            reports = [(one.job, one.worker, one.report.steps, one.report.ended) for one in bodied]
            bodies.record(conn, reports, self.keep_tries)
        for one in telling:
            job = one.job
            report = one.report
            if report.results:
                sweeps.not_begun(conn, job, report.results)
            if report.log:
                keep_lines(conn, job, report.log)
        close_all(conn, {one.job for one in telling})

    def give_back(
        self, job: int, worker: str, but: Collection[tuple[int, int]] = (), begun: bool = False
    ) -> None:
        """What the worker holds of a job, `but` what it says it has, by item and attempt: that never reached
        it.

        `begun`: it may have, and what may not be repeated becomes unknown.
        """
        rows = self.conn.execute(
            """select items.id, attempt, idempotent from items join jobs on jobs.id = job
               where items.worker = ? and items.status = 'running' and job = ? and shape = 'items'""",
            (worker, job),
        ).fetchall()
        lost = [
            Result(item, attempt, "queued", begun=begun)
            if idempotent or not begun
            else Result(
                item, attempt, "unknown", error=in_doubt(worded("The worker could not go on while this ran"))
            )
            for item, attempt, idempotent in rows
            if (item, attempt) not in but
        ]
        if lost:
            self.exchange(job, worker, Report(lost))

    def heartbeat(
        self,
        worker: str,
        host: str,
        pid: int,
        engine: str,
        version: str,
        alive: bool = True,
        done: int = 0,
        trouble: str = "",
        leftovers: Callable[[], int] = int,
    ) -> None:
        """A worker says that it lives: its lease is moved on. alive=False: it leaves, and its lease ends now.

        `done`: the items that it has ended so far; `trouble`: what holds it up, in a sentence; `leftovers`:
        asked in the transaction, as a report may have told of more meanwhile.
        """
        with transaction(self.conn) as conn:
            now = clock.now()  # in the transaction: the clock may be set while one waits for it
            conn.execute(
                """insert into workers (id, host, pid, engine, version, started_at, lease, done, trouble,
                       leftovers)
                   values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                   on conflict (id) do update set lease = excluded.lease, done = excluded.done,
                       trouble = excluded.trouble, leftovers = excluded.leftovers""",
                (
                    worker,
                    host,
                    pid,
                    engine,
                    version,
                    now,
                    now + LEASE if alive else now,
                    done,
                    trouble,
                    leftovers(),
                ),
            )

    def note_stall(self, job: int, seconds: float, where: str) -> None:
        """The job has held up its worker's others for so long; the longest time is kept."""
        with transaction(self.conn) as conn:
            conn.execute(
                """update jobs set stalled = ?1, stalled_in = ?2, seq = ?3 where id = ?4 and stalled < ?1""",
                (seconds, where[:ERROR_LENGTH], tick(conn), job),
            )

    def lease_of(self, worker: str) -> float:
        """Until when a worker is believed to live; 0 for one that was not heard of."""
        found = self.conn.execute("select lease from workers where id = ?", (worker,)).fetchone()
        return float(found[0]) if found else 0.0

    def touch(self) -> None:
        """Write nothing new. Raises what keeps the database from being written."""
        with transaction(self.conn) as conn:
            conn.execute("update rowcast set seq = seq")

    def left_behind(self) -> list[tuple[str, int]]:
        """(name, process) of this machine's embedded workers whose process is gone."""
        rows = self.conn.execute(
            "select id, pid from workers where engine = 'background' and host = ?", (rescue.HOST,)
        )
        return [(worker, pid) for worker, pid in rows if not rescue.is_running(pid)]

    # ---- the machine's troubles ----------------------------------------------------------------------------

    def block(self, job: int, reason: str, cause: str = "disk") -> None:
        """The job cannot go on for a reason of the machine's (the disk is full): it shows as paused until
        `unblock`.
        """
        with transaction(self.conn) as conn:
            change_job(conn, job, "block", reason, cause)

    def unblock(self, reason: str, but: Collection[int] = ()) -> None:
        """What `block` said is over, of all jobs `but` those that still wait."""
        sql = "select id from jobs where finished_at is null and status = 'paused' and reason = ?"
        for (job,) in self.conn.execute(sql, (reason,)).fetchall():
            if job not in but:
                with transaction(self.conn) as conn:
                    if conn.execute(
                        "select 1 from jobs where id = ? and reason = ?", (job, reason)
                    ).fetchone():
                        change_job(conn, job, "unblock")
                        close_if_done(conn, job)

    # ---- a job begins --------------------------------------------------------------------------------------

    def start_all(self, worker: str, jobs: Sequence[int]) -> list[Job | None]:
        """The worker takes these jobs up: as `Jobs.start`."""
        with transaction(self.conn) as conn:
            return take_up(conn, jobs)

    def take_fill(self, job: int, worker: str) -> int | None:
        """Hold the writing of a job's items for `worker`: how many there are already, None if it is not to
        write them.

        It is not where another worker does (`rescue` frees the job of a dead one), or all have been written,
        or the job has ended.
        """
        return self.take_fills(worker, [job])[0]

    def take_fills(self, worker: str, jobs: Sequence[int]) -> list[int | None]:
        """The same of many jobs."""
        with transaction(self.conn) as conn:
            taken = conn.execute(
                f"""update jobs set worker = ?1
                   where id in (select value from json_each(?2)) and not filled and shape = 'items'
                     and finished_at is null and status in {ACTIVE}
                     and (worker is null or worker = ?1)
                   returning id, total""",
                (worker, encode(list(jobs)).decode()),
            ).fetchall()
        there = dict(taken)
        return [there.get(job) for job in jobs]

    # ---- tasks that are called once, and what a dead worker held -------------------------------------------

    def take_body(self, job: int, worker: str) -> list[Step] | None:
        """Hold a body job for `worker`; None if it is not to run now, or another worker holds it.

        Returns the items that there are, the steps of earlier runs.
        """
        return self.take_bodies(worker, [job])[0]

    def take_bodies(self, worker: str, jobs: Sequence[int]) -> list[list[Step] | None]:
        """The same of many jobs, in one transaction."""
        with transaction(self.conn) as conn:
            return bodies.take_bodies(conn, worker, jobs)

    def rescue(self, dead: str | None = None, cause: str | None = None, me: str = "") -> int:
        """Take back what workers held whose lease ran out, or what the worker `dead` held.

        Returns how many items. `cause` says that the worker was killed by what it ran; `me`, who asks, is
        alive.
        """
        with transaction(self.conn) as conn:
            return rescue.rescue(conn, dead, cause, me)

    def leave(self, worker: str) -> None:
        """A worker ends in good order: what it could not finish is taken back, and nothing is suspected."""
        with transaction(self.conn) as conn:
            rescue.take_back(conn, worker, None, 0)
            conn.execute("delete from workers where id = ?", (worker,))
