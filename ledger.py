"""The ledger: the three calls by which a worker works, claim, finish and heartbeat, and what keeps them honest.

Each call is one short transaction that changes items, stamps them with `seq` and keeps the counts on the job's row. A
claim hands out items with an attempt number; a result counts only for the worker and the attempt that hold the item
(fencing). A worker lives as long as its lease; `rescue` takes back what a dead one held. Pace is kept here, in the claim,
so it holds across all jobs and processes of a task.

This is SQL for workers; what people and pages ask is in jobs.py.
"""

import os
import platform
import time
from collections.abc import Sequence

from rowcast import pacing
from rowcast.database import Connection, connection, tick, transaction
from rowcast.records import (
    CLAIMABLE,
    ERROR_LENGTH,
    ITEM_STATUSES,
    LEASE,
    SUSPECT,
    Claimed,
    Ended,
    Hold,
    Result,
    Step,
    Work,
    fingerprint,
    message_of,
)

HOST = platform.node()
UNKNOWN = "The worker died while this ran; it may or may not have arrived."


def count(conn: Connection, job: int, seq: int, changes: dict[str, int], added: int = 0) -> None:
    """Move the counts on the job's row by `changes`, and stamp it."""
    moved = {status: n for status, n in changes.items() if n}
    sets = "".join(f", {status} = {status} + {n}" for status, n in moved.items())
    conn.execute(f"update jobs set total = total + ?, seq = ?{sets} where id = ?", (added, seq, job))


def end_items(conn: Connection, job: int, leaves: tuple[str, ...], enters: str, error: str | None, limit: int = -1) -> int:
    """Move up to `limit` of the job's items from the statuses `leaves` to `enters`; returns how many."""
    moved = 0
    for status in leaves:
        rows = conn.execute(
            "select id from items where job = ? and status = ? order by position limit ?", (job, status, limit)
        ).fetchall()
        if not rows:
            continue
        now, seq = time.time(), tick(conn, len(rows) + 1)
        mark = fingerprint(None, error) if enters == "failed" else None
        conn.executemany(
            "update items set status = ?, error = coalesce(?, error), fingerprint = ?, worker = null, run_at = 0,"
            " updated_at = ?, seq = ? where id = ?",
            [(enters, error, mark, now, seq + n, row[0]) for n, row in enumerate(rows)],
        )
        count(conn, job, seq + len(rows), {status: -len(rows), enters: len(rows)})
        if mark:
            group(conn, job, mark, None, error, now, len(rows))
        moved += len(rows)
    return moved


def close_if_done(conn: Connection, job: int) -> None:
    """A job whose items have all ended gets its finished_at: completed, or what it was ended as."""
    done = conn.execute(
        """select 1 from jobs where id = ? and finished_at is null and queued = 0 and running = 0
             and (status in ('cancelled', 'failed') or status = 'running' and filled and shape = 'items')""",
        (job,),
    ).fetchone()
    if done:
        conn.execute(
            """update jobs set status = iif(status in ('cancelled', 'failed'), status, 'completed'), finished_at = ?,
                   worker = null, seq = ? where id = ?""",
            (time.time(), tick(conn), job),
        )


def group(conn: Connection, job: int, mark: str, code: int | None, error: str | None, now: float, items: int = 1) -> None:
    """Add failures to their error group; negative `items` takes them out."""
    conn.execute(
        """insert into error_groups (job, fingerprint, code, message, items, first_at, last_at)
               values (?1, ?2, ?3, ?4, ?5, ?6, ?6)
           on conflict (job, fingerprint) do update set items = items + ?5, last_at = max(last_at, ?6)""",
        (job, mark, code, message_of(error), items, now),
    )


def note_throughput(conn: Connection, job: int, items: int, now: float) -> None:
    """Add to the items that ended in this second: the plot, the rate and the time left are read from it."""
    conn.execute(
        """insert into throughput (job, second, items) values (?1, ?2, ?3)
           on conflict (job, second) do update set items = items + ?3""",
        (job, int(now), items),
    )


def is_running(pid: int) -> bool:
    """Whether a process of this machine is there (kill(2), signal 0)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Ledger:
    """The ledger over one database file. Holds a path and no state: each thread has its own connection."""

    def __init__(self, path: str):
        self.path = path

    @property
    def conn(self) -> Connection:
        return connection(self.path)

    def claim(self, job: int, worker: str, limit: int, held: int = 0) -> Work:
        """Take up to `limit` items of a running job: they become running, attempt + 1, held by `worker`.

        `held`: how many of the job's running items this worker has already. What the task's pace, its fair share, a
        canary or a Retry-After forbid is not given (pacing.py); `wait` then says when to ask again.
        """
        if limit < 1:
            return self._stand(self.conn, job)
        with transaction(self.conn) as conn:
            work = self._stand(conn, job)
            if work.status not in CLAIMABLE or not work.queued:
                return work
            now = time.time()
            allowed, work.wait = pacing.allowed(conn, job, limit, held, now)
            if allowed > 0:
                work.items = self._take(conn, job, worker, allowed, now)
                pacing.spend(conn, job, len(work.items), now)
            if not work.items and not work.wait:
                (soonest,) = conn.execute(
                    "select min(run_at) from items where job = ? and status = 'queued'", (job,)
                ).fetchone()
                work.wait = max(0.0, (soonest or now) - now)
            return work

    def _take(self, conn: Connection, job: int, worker: str, limit: int, now: float) -> list[Claimed]:
        ready = conn.execute(
            "select 1 from items where job = ? and status = 'queued' and run_at <= ? limit 1", (job, now)
        ).fetchone()
        if not ready:
            return []
        seq = tick(conn, limit + 1)
        taken = [
            Claimed(*row)
            for row in conn.execute(
                """update items set status = 'running', attempt = attempt + 1, worker = ?1, run_at = 0, updated_at = ?2,
                       seq = ?3 + pick.n
                   from (select id as pick_id, row_number() over () - 1 as n from (
                         select id from (select id from items where job = ?4 and status = 'queued'
                             and run_at > 0 and run_at <= ?2 order by run_at limit ?5)
                         union all
                         select id from (select id from items where job = ?4 and status = 'queued'
                             and run_at = 0 order by position limit ?5)
                         limit ?5)) as pick
                   where items.id = pick.pick_id returning id, key, payload, attempt, spent, crashes""",
                (worker, now, seq, job, limit),
            )
        ]
        if taken:
            count(conn, job, seq + limit, {"queued": -len(taken), "running": len(taken)})
        return taken

    def finish(
        self,
        job: int,
        worker: str,
        results: Sequence[Result] = (),
        steps: Sequence[Step] = (),
        ended: Ended | None = None,
        hold: Hold | None = None,
    ) -> Work:
        """Record results of items that `worker` holds; a result for any other attempt is refused silently.

        `steps` are what a body task reports; `ended` says that it is over; `hold` that the whole task has to wait.
        Returns how the job stands.
        """
        with transaction(self.conn) as conn:
            if hold:
                pacing.hold(conn, job, hold)
            if results:
                self._record(conn, job, worker, results)
            if steps or ended:
                self._record_steps(conn, job, worker, steps, ended)
            close_if_done(conn, job)
            return self._stand(conn, job)

    def _stand(self, conn: Connection, job: int) -> Work:
        """How the job stands, for its worker."""
        found = conn.execute("select status, queued, filled, concurrency from jobs where id = ?", (job,)).fetchone()
        if found is None:
            return Work("cancelled")
        return Work(found[0], queued=found[1], filled=bool(found[2]), concurrency=found[3])

    def _record(self, conn: Connection, job: int, worker: str, results: Sequence[Result]) -> None:
        now, seq, changes = time.time(), tick(conn, len(results) + 1), dict.fromkeys(ITEM_STATUSES, 0)
        rows = [
            (
                r.status,
                r.code,
                r.error[:ERROR_LENGTH] if r.error else None,
                r.result,
                r.ms,
                r.run_at,
                now,
                seq + n,
                fingerprint(r.code, r.error) if r.status == "failed" else None,
                int(r.status == "queued" and not r.run_at),
                r.id,
                r.attempt,
                worker,
            )
            for n, r in enumerate(results)
        ]
        accepted = conn.executemany(
            """update items set status = ?, code = ?, error = ?, result = ?, ms = ?, run_at = ?, updated_at = ?, seq = ?,
                   fingerprint = ?, worker = null, spent = spent + ?
               where id = ? and attempt = ? and worker = ? and status = 'running'
               returning status, code, error, fingerprint, key""",
            rows,
        )
        ended, completed, outcomes = 0, [], []
        for status, code, error, mark, key in accepted:
            changes[status] += 1
            changes["running"] -= 1
            ended += status != "queued"
            outcomes.append(status)
            if status == "completed":
                completed.append(key)
            if mark:
                group(conn, job, mark, code, error, now)
        self._stamp(conn, job, completed, now)
        if any(changes.values()):
            count(conn, job, seq + len(results), changes)
            pacing.check_rules(conn, job, outcomes)
        if ended:
            note_throughput(conn, job, ended, now)

    def _stamp(self, conn: Connection, job: int, keys: list[str], now: float) -> None:
        """Note the time on the users whose items have completed, in the same transaction."""
        (column,) = conn.execute("select stamp from jobs where id = ?", (job,)).fetchone()
        if column and keys and column in {row[1] for row in conn.execute("pragma table_info(users)")}:
            conn.executemany(f'update users set "{column}" = ? where email = ?', [(int(now), key) for key in keys])

    def heartbeat(self, worker: str, host: str, pid: int, engine: str, version: str, alive: bool = True) -> None:
        """A worker says that it lives: its lease is moved on. alive=False: it leaves, and its lease ends now."""
        now = time.time()
        with transaction(self.conn) as conn:
            conn.execute(
                """insert into workers (id, host, pid, engine, version, started_at, lease) values (?, ?, ?, ?, ?, ?, ?)
                   on conflict (id) do update set lease = excluded.lease""",
                (worker, host, pid, engine, version, now, now + LEASE if alive else now),
            )

    def silent(self, worker: str, seconds: float) -> bool:
        """Whether the worker's lease ran out more than so many seconds ago, on a database that can be written."""
        with transaction(self.conn) as conn:
            conn.execute("update rowcast set seq = seq")
            row = conn.execute("select lease from workers where id = ?", (worker,)).fetchone()
            return bool(row) and row[0] + seconds < time.time()

    # ---- the machine's troubles ------------------------------------------------------------------------------------

    def block(self, job: int, reason: str) -> None:
        """The job cannot go on for a reason of the machine's (the disk is full): it shows as paused until `unblock`."""
        with transaction(self.conn) as conn:
            conn.execute(
                "update jobs set status = 'paused', reason = ?, seq = ? where id = ? and status = 'running'",
                (reason, tick(conn), job),
            )

    def unblock(self, job: int, reason: str) -> None:
        """What `block` said is over."""
        with transaction(self.conn) as conn:
            conn.execute(
                "update jobs set status = 'running', reason = '', seq = ? where id = ? and status = 'paused' and reason = ?",
                (tick(conn), job, reason),
            )
            close_if_done(conn, job)

    # ---- body tasks: a function called once that reports steps -----------------------------------------------------

    def take_body(self, job: int, worker: str) -> list[Step] | None:
        """Hold a body job for `worker`; None if another living worker holds it or it is not to run.

        Returns the steps that earlier runs have completed. The function's own item is written at the first take; the
        first step that it reports takes that item's place.
        """
        with transaction(self.conn) as conn:
            now = time.time()
            held = conn.execute(
                """update jobs set worker = ?1, seq = ?2, filled = 1, status = 'running',
                       started_at = coalesce(started_at, ?3)
                   where id = ?4 and status in ('queued', 'running')
                     and (worker is null or worker not in (select id from workers where lease > ?3)) returning task""",
                (worker, tick(conn), now, job),
            ).fetchall()
            if not held:
                return None
            ((task,),) = held
            first = conn.execute("select key, status from items where job = ? and position = 0", (job,)).fetchone()
            key, status = first or (task, "queued")
            if status != "completed":
                self._write_steps(conn, job, worker, [Step(0, key, "running")])
            rows = conn.execute(
                "select position, key, status, error, result, ms from items where job = ? and status = 'completed'",
                (job,),
            )
            return [Step(*row) for row in rows]

    def _record_steps(self, conn: Connection, job: int, worker: str, steps: Sequence[Step], ended: Ended | None) -> None:
        held = conn.execute(
            "select task from jobs where id = ? and worker = ? and finished_at is null and status <> 'cancelled'",
            (job, worker),
        ).fetchone()
        if not held:
            return
        if steps:
            self._write_steps(conn, job, worker, steps)
        if ended:
            self._end_body(conn, job, "failed" if ended.error else "completed", ended.error)

    def _write_steps(self, conn: Connection, job: int, worker: str, steps: Sequence[Step]) -> None:
        now, seq = time.time(), tick(conn, len(steps) + 1)
        changes, ended = dict.fromkeys(ITEM_STATUSES, 0), 0
        for n, s in enumerate(steps):
            old = conn.execute("select status from items where job = ? and position = ?", (job, s.position)).fetchone()
            before = old[0] if old else None
            if before:
                changes[before] -= 1
            begins = s.status != "queued" and before in (None, "queued")
            mark = fingerprint(None, s.error) if s.status == "failed" else None
            conn.execute(
                """insert into items (job, position, key, status, attempt, error, result, ms, run_at, updated_at, worker,
                       fingerprint, seq) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
                   on conflict (job, position) do update set key = ?3, status = ?4, attempt = attempt + ?5, error = ?6,
                       result = ?7, ms = ?8, run_at = ?9, updated_at = ?10, worker = ?11, fingerprint = ?12, seq = ?13""",
                (job, s.position, s.key, s.status, int(begins), s.error, s.result, s.ms, s.run_at, now,
                 worker if s.status == "running" else None, mark, seq + n),
            )  # fmt: skip
            changes[s.status] += 1
            ended += s.status in ("completed", "failed")
            if mark:
                group(conn, job, mark, None, s.error, now)
        count(conn, job, seq + len(steps), changes, added=sum(changes.values()))
        if ended:
            note_throughput(conn, job, ended, now)

    # ---- what a dead worker held -----------------------------------------------------------------------------------

    def rescue(self, dead: str | None = None, cause: str | None = None, me: str = "") -> int:
        """Take back the items whose worker's lease ran out, or those of the worker `dead`; returns how many.

        A worker of this machine whose process is gone is dead before its lease says so; `me`, who asks, is alive.

        They are queued again, or become `unknown` where the job's task is not idempotent. `cause` says that the worker was
        killed by what it ran: an item it held alone has failed for that cause; of several, each is a suspect, to be tried
        apart.
        """
        moved = 0
        with transaction(self.conn) as conn:
            now = time.time()
            workers = conn.execute("select id, host, pid from workers where lease > ?", (now,))
            alive = {me} | {worker for worker, host, pid in workers if host != HOST or is_running(pid)} - {dead}
            holders = {
                worker
                for (worker,) in conn.execute(
                    "select distinct worker from items where status = 'running'"
                    " union select worker from jobs where finished_at is null and worker is not null"
                )
            }
            for worker in sorted({dead} if dead else holders - alive):
                moved += self._take_back(conn, worker, cause, now)
                conn.execute("delete from workers where id = ?", (worker,))
            conn.execute("delete from workers where lease < ?", (now - 3600,))
        return moved

    def _take_back(self, conn: Connection, worker: str, cause: str | None, now: float) -> int:
        rows = conn.execute(
            """select items.id, job, idempotent from items join jobs on jobs.id = job
               where items.status = 'running' and items.worker = ? order by items.id""",
            (worker,),
        ).fetchall()
        guilty = cause if len(rows) == 1 else None
        unknown = f"{cause}; {UNKNOWN[0].lower()}{UNKNOWN[1:]}" if cause else UNKNOWN
        for item, job, again in rows:
            seq = tick(conn, 2)
            enters, error = ("queued", None) if again else ("unknown", unknown)
            if guilty:
                enters, error = "failed", guilty
                group(conn, job, fingerprint(None, guilty), None, guilty, now)
            conn.execute(
                """update items set status = ?, worker = null, error = ?, crashes = crashes + ?, fingerprint = ?,
                       updated_at = ?, seq = ? where id = ?""",
                (enters, error, SUSPECT if cause else 1, fingerprint(None, guilty) if guilty else None, now, seq, item),
            )
            count(conn, job, seq + 1, {"running": -1, enters: 1})
        bodies = conn.execute(
            "update jobs set worker = null where worker = ? and finished_at is null returning id, idempotent", (worker,)
        ).fetchall()
        for job, again in bodies:
            if guilty or not again:
                self._end_body(conn, job, "unknown", unknown)
        for job in {job for _, job, _ in rows}:
            close_if_done(conn, job)
        return len(rows)

    def _end_body(self, conn: Connection, job: int, enters: str, error: str | None) -> None:
        """A body task is over: its open step becomes `enters`, what it never reached is cancelled, the job completes."""
        end_items(conn, job, ("running",), enters, error)
        end_items(conn, job, ("queued",), "cancelled", "not reached")
        conn.execute(
            "update jobs set status = 'completed', finished_at = ?, worker = null, seq = ? where id = ?",
            (time.time(), tick(conn), job),
        )
