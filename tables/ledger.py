"""The ledger: the calls by which a worker works, exchange, look and heartbeat, and what keeps them honest.

Each exchange is one short transaction that changes items, stamps them with `seq` and keeps the counts on the
job's row. A claim hands out items with an attempt number; a result counts only for the worker and the attempt
that hold the item (fencing). A worker lives as long as its lease; `rescue` takes back what a dead one held.
Pace is kept here, in the claim, so it holds across all jobs and processes of a task.

This is SQL for workers; what people and pages ask is in jobs.py.
"""

from collections import Counter
from collections.abc import Collection, Sequence

import apsw
import msgspec

from rowcast.tables import bodies, pacing, rescue, sweeps, tries
from rowcast.tables.counts import change_job, close_if_done, count, group
from rowcast.tables.database import Connection, OnDatabase, tick, transaction
from rowcast.tables.halts import HALTED
from rowcast.tables.logs import keep_lines
from rowcast.tables.measures import filed, note_ended, note_tries
from rowcast.tasks import clock
from rowcast.tasks.groups import fingerprint
from rowcast.tasks.records import CLAIMABLE, encode
from rowcast.tasks.work import (
    ERROR_LENGTH,
    LEASE,
    UNKNOWN,
    Claimed,
    Report,
    Result,
    Standing,
    Step,
    Work,
)

CLAIMED = msgspec.json.Decoder(list[Claimed])
# the position before which a job's items may start: its canary, or all
REACH = f"coalesce(canary, {1 << 62})"


class Ledger(OnDatabase):
    """The ledger over one database file. Of each item so many tries are kept, the newest; 0 keeps all."""

    def __init__(self, path: str, keep_tries: int = 0):
        super().__init__(path)
        self.keep_tries = keep_tries

    def exchange(self, job: int, worker: str, report: Report, counted: bool = False) -> Work:
        """Record what a worker tells of a job, and give it up to `report.limit` items, in one transaction.

        Items that are given become running, attempt + 1, held by `worker`. What the task's pace, its fair
        share, a canary or a Retry-After forbid is not given (pacing.py); `wait` then says when to ask again.
        After results nothing is given while another job of the task has nothing in flight: it may come first.

        A result for any other attempt than the one that `worker` holds is refused silently. `counted`: what
        other workers have of the job has been taken off the limit.
        """
        if report.only_asks and report.limit < 1:
            return self._stand(self.conn, job, worker)
        with transaction(self.conn) as conn:
            gives = report.limit > 0
            if not report.only_asks:
                if not conn.execute("select 1 from jobs where id = ?", (job,)).fetchone():
                    return Work("cancelled")
                self._note(conn, job, worker, report)
                gives = gives and not pacing.others_have_nothing(conn, job)
            if not gives:
                return self._stand(conn, job, worker)
            return self._claim(conn, job, worker, report, counted)

    def look(self, job: int, worker: str) -> Standing:
        """How the job stands, and which of its items the worker holds."""
        standing = self._stand(self.conn, job, worker)
        rows = self.conn.execute(
            "select id from items where worker = ? and status = 'running' and job = ?", (worker, job)
        )
        standing.mine = [item for (item,) in rows]
        return standing

    def _note(self, conn: Connection, job: int, worker: str, report: Report) -> None:
        if report.hold:
            pacing.put_off(conn, job, report.hold)
        if report.found:
            pacing.note_found(conn, job, report.found)
        if report.results:
            self._record(conn, job, worker, report.results)
            sweeps.not_begun(conn, job, report.results)
        if report.steps or report.ended:
            bodies.record_steps(conn, job, worker, report.steps, report.ended, self.keep_tries)
        if report.log:
            keep_lines(conn, job, report.log)
        close_if_done(conn, job)

    def _claim(self, conn: Connection, job: int, worker: str, report: Report, counted: bool) -> Work:
        work = self._stand(conn, job, worker)
        if work.status not in CLAIMABLE or not work.queued:
            return work
        now = clock.now()
        in_flight = None if counted else report.in_flight
        allowed, work.wait = pacing.allowed(conn, job, report.limit, in_flight, now)
        if allowed > 0:
            work.items = self._take(conn, job, worker, allowed, now)
            pacing.spend(conn, job, len(work.items), now)
        if not work.items and not work.wait:
            (soonest,) = conn.execute(
                f"""select min(run_at) from items
                    where job = ?1 and status = 'queued'
                      and position < (select {REACH} from jobs where id = ?1)""",
                (job,),
            ).fetchone()
            work.wait = max(0.0, (soonest or now) - now)
        return work

    def _take(self, conn: Connection, job: int, worker: str, limit: int, now: float) -> list[Claimed]:
        ready = conn.execute(
            f"""select {REACH} as reach from jobs where id = ?1 and exists (
                    select 1 from items
                    where job = ?1 and status = 'queued' and run_at <= ?2 and position < reach)""",
            (job, now),
        ).fetchone()
        if not ready:
            return []
        seq = tick(conn, limit + 1)
        conn.execute(
            """update items set status = 'running', attempt = attempt + 1, worker = ?1, run_at = 0,
                       updated_at = ?2, seq = ?3 + pick.n
                   from (select id as pick_id, row_number() over () - 1 as n from (
                         select id from (select id from items where job = ?4 and status = 'queued'
                             and run_at > 0 and run_at <= ?2 and position < ?6 order by run_at limit ?5)
                         union all
                         select id from (select id from items where job = ?4 and status = 'queued'
                             and run_at = 0 and position < ?6 order by position limit ?5)
                         limit ?5)) as pick
                   where items.id = pick.pick_id""",
            (worker, now, seq, job, limit, ready[0]),
        )
        columns = "id, key, payload, attempt, spent, crashes"
        span = (job, seq, seq + limit - 1)
        sql = "select {} from items where job = ? and attempt > 0 and seq between ? and ?"
        try:
            (text,) = conn.execute(
                sql.format(f"json_group_array(json_array({columns}) order by seq)"), span
            ).fetchone()
            taken = CLAIMED.decode(text)
        except apsw.TooBigError:
            taken = [Claimed(*row) for row in conn.execute(f"{sql.format(columns)} order by seq", span)]
        if taken:
            count(conn, job, seq + limit, {"queued": -len(taken), "running": len(taken)})
        return taken

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
                item, attempt, "unknown", error=f"The worker could not go on while this ran; {UNKNOWN}"
            )
            for item, attempt, idempotent in rows
            if (item, attempt) not in but
        ]
        if lost:
            self.exchange(job, worker, Report(lost))

    def _stand(self, conn: Connection, job: int, worker: str) -> Work:
        """How the job stands, for its worker."""
        found = conn.execute(
            f"""select iif(shape = 'body' and worker is not ?, 'cancelled',
                       iif(status in ('queued', 'running') and {HALTED}, 'paused', status)), queued, filled,
                   concurrency, least, coalesce((select hold_until from paces where task = jobs.task), 0)
               from jobs where id = ?""",
            (worker, job),
        ).fetchone()
        if found is None:
            return Work("cancelled")
        return Work(
            found[0],
            queued=found[1],
            filled=bool(found[2]),
            concurrency=found[3],
            least=found[4],
            hold_until=found[5],
        )

    def _record(self, conn: Connection, job: int, worker: str, results: Sequence[Result]) -> None:
        """Write results in one statement, a JSON array: a statement per row would ask for Python's lock at
        each.
        """
        now, seq = clock.now(), tick(conn, len(results) + 1)
        for result in results:
            failed = result.status == "failed"
            result.fingerprint = fingerprint(result.code, result.error) if failed else None
            result.error = result.error[:ERROR_LENGTH] if result.error else None
        told = [tries.as_told(one, now) for one in results if one.begun and not tries.is_own(one)]
        if kinds := {result.fingerprint: None for result in results if result.fingerprint}:
            group_of = filed(conn, job, kinds)
            for result in results:
                result.fingerprint = group_of.get(result.fingerprint or "")
        conn.execute(
            """update items set status = r.status, code = r.code, error = r.error, result = r.result,
                   ms = r.ms, run_at = r.run_at, spent = spent + (r.status = 'queued' and not r.run_at),
                   worker = iif(r.status = 'completed', items.worker, null), updated_at = ?2,
                   fingerprint = r.fingerprint, seq = ?3 + r.n
               from (select key as n, value ->> 0 as id, value ->> 1 as attempt, value ->> 2 as status,
                         value ->> 3 as code, value ->> 4 as error, value ->> 5 as result, value ->> 6 as ms,
                         value ->> 7 as run_at, value ->> 8 as fingerprint
                     from jsonb_each(?1)) as r
               where items.id = r.id and items.attempt = r.attempt and +items.job = ?4 and +items.worker = ?5
                   and +items.status = 'running'""",
            (encode(results).decode(), now, seq, job, worker),
        )
        accepted = "from items where job = ? and attempt > 0 and seq between ? and ?"
        span = (job, seq, seq + len(results) - 1)
        outcomes = [result.status for result in results]
        timed = [(result.attempt, result.ms) for result in results if result.begun]
        if conn.changes() < len(results):
            rows = conn.execute(f"select id, attempt, status, ms {accepted} order by seq", span).fetchall()
            outcomes = [status for *_, status, _ in rows]
            timed = [(attempt, ms) for _, attempt, _, ms in rows]
            taken = {(item, attempt) for item, attempt, *_ in rows}
            told = [one for one in told if one[:2] in taken]
            late = [result for result in results if (result.id, result.attempt) not in taken]
            tries.correct(conn, job, worker, late, now)
        if told:
            tries.add(conn, job, worker, told, self.keep_tries)
        if not outcomes:
            return
        changes = Counter(outcomes)
        if changes["failed"]:
            failures = conn.execute(
                f"""select fingerprint, code, error, count(*) {accepted} and status = 'failed'
                    group by fingerprint""",
                span,
            ).fetchall()
            for key, code, error, items in failures:
                group(conn, job, key, code, error, now, items)
        if changes["completed"]:
            self._stamp(conn, job, f"select key {accepted} and status = 'completed'", span)
        count(conn, job, seq + len(results), {"running": -len(outcomes), **changes})
        pacing.check_rules(conn, job, outcomes)
        if timed:
            note_tries(conn, job, timed)
            took = sum(ms or 0.0 for _, ms in timed)
            note_ended(conn, job, now, len(outcomes) - changes["queued"], len(timed), took)

    def _stamp(self, conn: Connection, job: int, keys: str, span: tuple[int, ...]) -> None:
        """Note the time on the users whose items have completed, in the same transaction; `users` may be
        anybody's table.
        """
        there = conn.execute(
            """select stamp from jobs, pragma_table_info('users') as c, pragma_table_list('users') as t
               where jobs.id = ? and c.name = stamp and t.type = 'table'""",
            (job,),
        ).fetchone()
        if there:
            conn.execute(f'update users set "{there[0]}" = unixepoch() where email in ({keys})', span)

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
    ) -> None:
        """A worker says that it lives: its lease is moved on. alive=False: it leaves, and its lease ends now.

        `done`: the items that it has ended so far; `trouble`: what holds it up, in a sentence.
        """
        with transaction(self.conn) as conn:
            now = clock.now()  # in the transaction: the clock may be set while one waits for it
            conn.execute(
                """insert into workers (id, host, pid, engine, version, started_at, lease, done, trouble)
                   values (?, ?, ?, ?, ?, ?, ?, ?, ?)
                   on conflict (id) do update set lease = excluded.lease, done = excluded.done,
                       trouble = excluded.trouble""",
                (worker, host, pid, engine, version, now, now + LEASE if alive else now, done, trouble),
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

    # ---- the writing of a job's items ----------------------------------------------------------------------

    def take_fill(self, job: int, worker: str) -> int | None:
        """Hold the writing of a job's items for `worker`: how many there are already, None if it is not to
        write them.

        It is not where another worker does (`rescue` frees the job of a dead one), or all have been written,
        or the job has ended.
        """
        with transaction(self.conn) as conn:
            taken = conn.execute(
                """update jobs set worker = ?1
                   where id = ?2 and not filled and shape = 'items' and finished_at is null
                     and status in ('queued', 'running', 'paused') and (worker is null or worker = ?1)
                   returning total""",
                (worker, job),
            ).fetchall()
            return int(taken[0][0]) if taken else None

    # ---- tasks that are called once, and what a dead worker held -------------------------------------------

    def take_body(self, job: int, worker: str) -> list[Step] | None:
        """Hold a body job for `worker`; None if it is not to run now, or another worker holds it.

        Returns the items that there are, the steps of earlier runs.
        """
        with transaction(self.conn) as conn:
            return bodies.take_body(conn, job, worker)

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
