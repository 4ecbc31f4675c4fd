"""Rescue: what a worker held that died, or that leaves, is taken back. Called inside the ledger's
transactions.

Items become `unknown` where the job's task is not idempotent, also what killed its worker: nobody knows what
it had done by then. Others are queued again. Of what killed its worker an item that was held alone has
failed; of several each is a suspect, to be tried apart. So is one that was alone beside what may have run on:
what has just been cancelled, or what goes on in the worker when its try is over, as a thread does whose time
is. A body task, and a job whose items were being written, cannot be tried apart: they are given up when
HOPELESS.
"""

import os
import platform
from pathlib import Path

from rowcast.tables import pacing
from rowcast.tables.bodies import leave_body
from rowcast.tables.counts import TAKEN_BACK, close_if_done, move_items
from rowcast.tables.database import Connection
from rowcast.tables.sweeps import fail_job
from rowcast.tasks import clock
from rowcast.tasks.sentences import worded
from rowcast.tasks.work import HOPELESS, SUSPECT, in_doubt

HOST = platform.node()
LATELY = 60.0  # seconds in which a worker has heard what was cancelled, and says what of it goes on
FORGOTTEN = 3600  # seconds after the end of its lease that a worker is kept, and shown


def is_running(pid: int) -> bool:
    """Whether a process of this machine is there (kill(2), signal 0), and does not only wait to be seen dead
    (proc(5)).
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (OSError, IndexError):
        return Path(f"/proc/{pid}").exists() or not Path("/proc/self").exists()


def rescue(conn: Connection, dead: str | None, cause: str | None, me: str) -> int:
    """Take back what dead workers held; returns how many items. The parameters are those of Ledger.rescue."""
    now = clock.now()
    moved = 0
    for worker in [dead] if dead else sorted(_holders(conn) - _alive(conn, now) - {me}):
        moved += take_back(conn, worker, cause, SUSPECT if cause else 1)
        conn.execute("delete from workers where id = ? and engine = 'background'", (worker,))
    conn.execute("delete from workers where lease < ?", (now - FORGOTTEN,))
    return moved


def _alive(conn: Connection, now: float) -> set[str]:
    """The workers that are believed to live.

    An embedded worker of this machine whose process is gone is dead before its lease says so; of one
    elsewhere neither the host's name nor the process's number says anything.
    """
    rows = conn.execute(
        "select id, iif(engine = 'background', host, ''), pid from workers where lease > ?", (now,)
    )
    return {worker for worker, host, pid in rows if host != HOST or is_running(pid)}


def _holders(conn: Connection) -> set[str]:
    """The workers that hold something."""
    rows = conn.execute(
        """select distinct worker from items where status = 'running'
           union select worker from jobs where finished_at is null and worker is not null"""
    )
    return {worker for (worker,) in rows}


def take_back(conn: Connection, worker: str, cause: str | None, crash: int) -> int:
    """Take back all that a worker held; returns how many items. `crash` is added to their crashes."""
    running = conn.execute(
        """select job, idempotent, shape, count(*) from items join jobs on jobs.id = job
           where items.status = 'running' and items.worker = ? group by job""",
        (worker,),
    ).fetchall()
    held = conn.execute(
        """update jobs set worker = null, crashes = crashes + ? where worker = ? and finished_at is null
           returning id, idempotent, shape, crashes""",
        (crash, worker),
    ).fetchall()
    items = [(job, idempotent, number) for job, idempotent, shape, number in running if shape == "items"]
    alone = sum(number for *_, number in items) + len(held) == 1 and not _ran_others(conn, worker)
    guilty = cause if alone else None
    died = cause or worded(f"The worker {'died' if crash else 'stopped'} while this ran")
    became = {
        job: _release(conn, job, worker, idempotent, guilty, died, crash) for job, idempotent, _ in items
    }
    for job, idempotent, shape, crashes in held:
        given_up = guilty or (worded(f"{died}, as it did before") if crash and crashes >= HOPELESS else None)
        if shape == "body":
            leave_body(conn, job, idempotent, given_up, died)
        elif given_up:
            fail_job(conn, job, worded(f"The items could not be read. {given_up}."))
    for job, _, number in items:
        pacing.check_rules(conn, job, [became[job]] * number)
        close_if_done(conn, job)
    return sum(number for *_, number in running)


def _ran_others(conn: Connection, worker: str) -> bool:
    """Whether a worker may have run what no other table says any more: as it has told, or of a job that was
    cancelled so lately that it may not have heard of that.
    """
    return bool(
        conn.execute(
            """select 1 from workers where id = ?1 and leftovers > 0
               union all select 1 from jobs indexed by jobs_active
               where finished_at is null and status = 'cancelled'
               union all select 1 from jobs indexed by jobs_by_end
               where finished_at >= ?2 and status = 'cancelled'""",
            (worker, clock.now() - LATELY),
        ).fetchone()
    )


def _release(
    conn: Connection, job: int, worker: str, idempotent: int, guilty: str | None, died: str, crash: int
) -> str:
    """The items of a job that its worker is gone from; returns the status they enter."""
    enters = "queued" if idempotent else "unknown"
    error = None if idempotent else in_doubt(died)
    if guilty and idempotent:  # else it may have been done before that
        enters = "failed"
        error = guilty
    move_items(
        conn, job, "running", enters, "worker = :holder", TAKEN_BACK,
        holder=worker, error=error, said=died, crash=crash,
    )  # fmt: skip
    return enters
