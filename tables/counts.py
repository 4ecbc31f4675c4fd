"""Counts: what keeps a job's row true to its items. Called inside the transactions of jobs.py and ledger.py.

Whoever changes the status of items moves the counts by as many, files failures in their group and takes them
out again, and asks at the end whether the job is done. Nobody counts a large table.
"""

import time
from collections import Counter
from collections.abc import Iterable

from rowcast.tables.database import Connection, tick
from rowcast.tasks.records import TRANSITIONS, fingerprint, message_of
from rowcast.tasks.work import CHUNK, UNKNOWN

ENDING = "(status in ('cancelled', 'failed') and finished_at is null)"  # SQL of Job.ending


def count(conn: Connection, job: int, seq: int, changes: dict[str, int], added: int = 0) -> None:
    """Move the counts on the job's row by `changes`, and stamp it."""
    moved = {status: n for status, n in changes.items() if n}
    sets = "".join(f", {status} = {status} + {n}" for status, n in moved.items())
    conn.execute(f"update jobs set total = total + ?, seq = ?{sets} where id = ?", (added, seq, job))


def end_items(
    conn: Connection, job: int, leaves: tuple[str, ...], enters: str, error: str | None, limit: int = -1
) -> int:
    """Move up to `limit` of the job's items from the statuses `leaves` to `enters`; returns how many.

    What runs and may not be repeated is not cancelled but becomes unknown.
    """
    moved, (idempotent,) = 0, conn.execute("select idempotent from jobs where id = ?", (job,)).fetchone()
    for status in leaves:
        if status == "running" and enters == "cancelled" and not idempotent:
            moved += end_items(
                conn, job, ("running",), "unknown", f"Cancelled while this ran; {UNKNOWN}", limit
            )
            continue
        rows = conn.execute(
            "select id from items where job = ? and status = ? order by position limit ?",
            (job, status, limit),
        ).fetchall()
        if not rows:
            continue
        now, seq = time.time(), tick(conn, len(rows) + 1)
        mark = fingerprint(None, error) if enters == "failed" else None
        said = error or (
            "Cancelled while this ran" if status == "running" and enters == "cancelled" else None
        )
        conn.executemany(
            "update items set status = ?, error = coalesce(?, error), fingerprint = ?, worker = null, run_at = 0,"
            " updated_at = ?, seq = ? where id = ?",
            [(enters, said, mark, now, seq + n, row[0]) for n, row in enumerate(rows)],
        )
        count(conn, job, seq + len(rows), {status: -len(rows), enters: len(rows)})
        if mark:
            group(conn, job, mark, None, error, now, len(rows))
        moved += len(rows)
    return moved


def change_job(conn: Connection, job: int, action: str, reason: str = "") -> bool:
    """Move a job from one status to another by the table TRANSITIONS: no other statement writes jobs.status.

    False, writing nothing, where its status does not allow it. What people let run before its time waits for
    it.
    """
    rule, now = TRANSITIONS[action], time.time()
    found = conn.execute(
        "select status, reason, started_at, run_at from jobs where id = ?", (job,)
    ).fetchone()
    if found is None or found[0] not in rule.leaves:
        return False
    status, before, started_at, run_at = found
    enters = rule.enters or status
    if rule.past and enters == "running" and started_at is None and run_at > now:
        enters = "queued"
    conn.execute(
        """update jobs set status = ?1, reason = ?2, seq = ?3,
               started_at = iif(?1 = 'running', coalesce(started_at, ?4), started_at),
               worker = iif(?1 in ('cancelled', 'failed'), null, worker)
           where id = ?5""",
        (enters, reason if rule.enters else before, tick(conn), now, job),
    )
    return True


def close_if_done(conn: Connection, job: int) -> None:
    """A job whose items have all ended gets its finished_at: completed, or what it was ended as."""
    found = conn.execute(
        f"""select status from jobs where id = ? and finished_at is null and queued = 0 and running = 0
                and ({ENDING} or (status = 'running' and filled and shape = 'items'))""",
        (job,),
    ).fetchone()
    if found and (found[0] != "running" or change_job(conn, job, "complete")):
        end_job(conn, job)


def end_job(conn: Connection, job: int) -> None:
    """Nothing of the job is left to do."""
    conn.execute(
        "update jobs set finished_at = ?, worker = null, seq = ? where id = ?", (time.time(), tick(conn), job)
    )


def fail_job(conn: Connection, job: int, reason: str) -> None:
    """The job could not run: it fails with a reason. What has not ended is cancelled, by `sweep` where it is
    much.
    """
    change_job(conn, job, "fail", reason)
    end_items(conn, job, ("running", "queued"), "cancelled", None, CHUNK)
    close_if_done(conn, job)


def group(
    conn: Connection, job: int, mark: str, code: int | None, error: str | None, now: float, items: int = 1
) -> None:
    """Add failures to their error group."""
    conn.execute(
        """insert into error_groups (job, fingerprint, code, message, items, first_at, last_at, sample)
               values (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7)
           on conflict (job, fingerprint) do update set items = items + ?5, last_at = max(last_at, ?6)""",
        (job, mark, code, message_of(error), items, now, error or ""),
    )


def ungroup(conn: Connection, job: int, marks: Iterable[str]) -> None:
    """Take failures, each by its fingerprint, out of their error groups."""
    gone = [(number, job, mark) for mark, number in Counter(marks).items()]
    conn.executemany("update error_groups set items = items - ? where job = ? and fingerprint = ?", gone)
    conn.execute("delete from error_groups where job = ? and items <= 0", (job,))


def note_throughput(conn: Connection, job: int, items: int, now: float) -> None:
    """Add to the items that ended in this second: the plot, the rate and the time left are read from it."""
    conn.execute(
        """insert into throughput (job, second, items) values (?1, ?2, ?3)
           on conflict (job, second) do update set items = items + ?3""",
        (job, int(now), items),
    )
