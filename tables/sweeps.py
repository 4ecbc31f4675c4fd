"""Sweeps: what is asked of a job's items is done chunk by chunk, however many they are.

Who retries or settles writes down here which items that is for: a row for each status that they leave. The
first chunk is moved in the same transaction, and the engine goes on until no row is left; it finds them after
a kill too. Items that have changed since are left alone, so that one that has failed again is not retried
again. A job that is ending needs no row: whatever it still has is cancelled, chunk by chunk.
"""

from collections.abc import Iterable

from rowcast.tables import pacing
from rowcast.tables.counts import (
    ENDING,
    RETRIED,
    SETTLED,
    STOPPED,
    begin_if_settled,
    change_job,
    close_if_done,
    items_in,
    move_items,
)
from rowcast.tables.database import Connection, current_seq, tick
from rowcast.tables.followers import let_start, turned_away
from rowcast.tasks import clock
from rowcast.tasks.followers import WAITING
from rowcast.tasks.records import ACTIONS, Item, Job, NotAllowed, Swept, encode
from rowcast.tasks.sentences import worded
from rowcast.tasks.work import CHUNK, Result, in_doubt

WHILE_IT_RAN = worded("Cancelled while this ran")
WRITTEN = {"queued": RETRIED, "completed": SETTLED}  # by the status that a sweep's items enter


def unswept(conn: Connection) -> list[int]:
    """The jobs that have something left to be swept."""
    rows = conn.execute(
        f"select id from jobs indexed by jobs_active where {ENDING} union select job from sweeps"
    )
    return [job for (job,) in rows]


def go_on(conn: Connection, job: int) -> bool:
    """Do the next chunk of what is left to do to the job's items; False where there was nothing."""
    ending = conn.execute(
        f"""select idempotent, shape = 'body' and status <> 'cancelled' from jobs
            where id = ? and {ENDING}""",
        (job,),
    ).fetchone()
    did = bool(ending and _cancel(conn, job, *ending)) or _sweep(conn, job)
    close_if_done(conn, job)
    if did:
        begin_if_settled(conn, job)
    return did


def fail_job(conn: Connection, job: int, reason: str) -> None:
    """The job could not run: it fails with a reason, and what has not ended is cancelled."""
    change_job(conn, job, "fail", reason)
    go_on(conn, job)


def begin(conn: Connection, job: Job, action: str, item: Item | None, fingerprint: str | None) -> None:
    """Do to a job, or to a part of it, what a person asks for, but for what its items are swept for.

    Raises NotAllowed; KeyError for an unknown action.
    """
    rule = ACTIONS[action]
    if action == "retry" and job.run_at == WAITING:  # a person lets it start, whatever it waited for
        let_start(conn, job.id)
    lifted = action == "resume" and pacing.lift(conn, job)
    changed = change_job(conn, job.id, action)
    if not changed and not lifted:
        raise NotAllowed(f"Job {job.id} is {job.status}: it cannot be {rule.past}.")
    if action == "resume" and changed:
        conn.execute("update jobs set canary = null, stop_base = failed, streak = 0 where id = ?", (job.id,))
    if action == "retry":
        retry(conn, job, item, fingerprint)
    if action == "settle":
        settle(conn, job, item)


def retry(conn: Connection, job: Job, item: Item | None, fingerprint: str | None) -> None:
    """Queue the job's failed and unknown items again, where it was broken off the cancelled ones too.

    Or `item` alone, or those of the error group with this fingerprint. `job` is as it was before. Raises
    NotAllowed.
    """
    broken_off = job.status in ("cancelled", "failed")
    if job.shape == "body" and not job.ended:
        raise NotAllowed(
            f"Job {job.id} is {job.status}: a task that is called once can be retried when it has ended."
        )
    leaves = ["failed", "unknown", "cancelled"]
    if item:
        found = int(item.status in leaves)
        failures = int(item.status == "failed")
    elif fingerprint is not None:
        leaves = ["failed"]
        found = failures = _failures(conn, job.id, fingerprint)
    else:
        leaves = leaves if broken_off or job.shape == "body" else leaves[:2]
        found = sum(getattr(job, status) for status in leaves) or broken_off
        failures = job.failed
    if not found:
        raise NotAllowed(f"Job {job.id} has nothing to retry.")
    # Whoever retries has seen the failures: they count no more for the stop rule. While the job runs those
    # alone that are taken back do not; as each is moved it is no failure any more, and is taken off here.
    conn.execute(
        """update jobs set finished_at = null, crashes = 0, streak = iif(?1, streak, 0),
               stop_base = iif(?1, min(stop_base + ?2, failed), failed),
               begun_at = iif(finished_at is null, begun_at, ?3),
               worked = worked + coalesce(finished_at - max(started_at, coalesce(begun_at, 0)), 0)
           where id = ?4""",
        (job.status == "running", failures, clock.now(), job.id),
    )
    if item:
        move_items(conn, job.id, item.status, "queued", "id = :item", RETRIED, item=item.id)
    else:
        _ask(conn, job, leaves, "queued", fingerprint)
    _have_wait(conn, job.id)


def _have_wait(conn: Connection, job: int) -> None:
    """The job goes on: what its end has cancelled waits for it again, with what that has cancelled."""
    ended = [job]
    while ended:
        for follower in turned_away(conn, ended.pop()):
            change_job(conn, follower, "retry")
            conn.execute("update jobs set finished_at = null where id = ?", (follower,))
            ended.append(follower)


def settle(conn: Connection, job: Job, item: Item | None) -> None:
    """The job's unknown items, or `item` alone, did arrive: they are completed. Raises NotAllowed."""
    if not (item.status == "unknown" if item else job.unknown):
        raise NotAllowed(f"Job {job.id} has no unknown items to settle.")
    if item:
        move_items(conn, job.id, "unknown", "completed", "id = :item", SETTLED, item=item.id)
    else:
        _ask(conn, job, ["unknown"], "completed", None)


def reached(conn: Connection, job: Job, action: str, item: Item | None, fingerprint: str | None) -> int:
    """How many items an act moves that is allowed; `job` is as it is before."""
    if item:
        return 1
    if action == "retry" and fingerprint is not None:
        return _failures(conn, job.id, fingerprint)
    broken_off = job.status in ("cancelled", "failed") or job.shape == "body"
    moved = {
        "cancel": job.queued + job.running,
        "retry": job.failed + job.unknown + (job.cancelled if broken_off else 0),
        "settle": job.unknown,
    }
    return moved.get(action, 0)


def _failures(conn: Connection, job: int, fingerprint: str) -> int:
    """How many items have failed so."""
    row = conn.execute(
        "select items from error_groups where job = ? and fingerprint = ?", (job, fingerprint)
    ).fetchone()
    return row[0] if row else 0


def _ask(conn: Connection, job: Job, leaves: list[str], enters: str, fingerprint: str | None) -> None:
    """Write down what is to be done to the items that are in these statuses now.

    A job's sweeps are done in the order in which they were asked for, so that what was settled is not
    retried. Whoever asks again for what has not begun moves its moment on.
    """
    seq = current_seq(conn)
    for status in leaves:
        if not getattr(job, status):
            continue
        conn.execute(
            """update sweeps set seq = ?1, total = ?6 where enters = ?4 and fingerprint is ?5 and position < 0
                   and id = (select max(id) from sweeps where job = ?2 and leaves = ?3)""",
            (seq, job.id, status, enters, fingerprint, total := _meant(conn, job, status, fingerprint)),
        )
        if not conn.changes():
            conn.execute(
                "insert into sweeps (job, leaves, enters, fingerprint, seq, total) values (?, ?, ?, ?, ?, ?)",
                (job.id, status, enters, fingerprint, seq, total),
            )


def _meant(conn: Connection, job: Job, status: str, fingerprint: str | None) -> int:
    """How many items are meant; `job` is as it was before."""
    return int(getattr(job, status)) if fingerprint is None else _failures(conn, job.id, fingerprint)


def how_far(conn: Connection, job: int) -> Swept | None:
    """How far what is done to many items of a job is; None where that is over."""
    row = conn.execute(
        """select enters, sum(total), sum(min(done, total)) from sweeps
           where job = ?1 and enters = (select enters from sweeps where job = ?1 order by id limit 1)""",
        (job,),
    ).fetchone()
    return Swept(*row) if row[0] else None


def _sweep(conn: Connection, job: int) -> bool:
    """Look at the next chunk of items that the job's sweeps are for, and move those that have not changed.

    False where it has no sweeps.
    """
    room = CHUNK
    moved = 0
    begun = False
    while room > 0:
        row = conn.execute(
            """select id, leaves, enters, fingerprint, seq, position from sweeps
               where job = ? order by id limit 1""",
            (job,),
        ).fetchone()
        if not row:
            break
        begun = True
        sweep, leaves, enters, fingerprint, seq, position = row
        only = {} if fingerprint is None else {"group": fingerprint}
        looked, last = _chunk(conn, job, leaves, room, position, **only)
        if looked:
            which = "position > :after and position <= :last and seq <= :asked"
            span = {"after": position, "last": last, "asked": seq}
            moved += move_items(conn, job, leaves, enters, which, WRITTEN[enters], **span, **only)
        if looked < room:
            _hand_on(conn, sweep)
        else:
            conn.execute(
                "update sweeps set position = ?, done = done + ? where id = ?", (last, looked, sweep)
            )
        room -= looked
    if begun and not moved:  # whoever follows the job is to see that a sweep is over
        conn.execute("update jobs set seq = ? where id = ?", (tick(conn), job))
    return begun


def _hand_on(conn: Connection, sweep: int) -> None:
    """A sweep is over: what it has done counts with the next one of the same act."""
    conn.execute(
        """update sweeps set total = sweeps.total + over.total, done = sweeps.done + over.total
           from (select job, enters, total from sweeps where id = ?1) as over
           where sweeps.id = (select min(id) from sweeps where job = over.job and id > ?1)
               and sweeps.enters = over.enters""",
        (sweep,),
    )
    conn.execute("delete from sweeps where id = ?", (sweep,))


def not_begun(conn: Connection, job: int, results: Iterable[Result]) -> None:
    """Of what was cancelled while a worker had it: the worker says what it had not begun.

    That is just cancelled, and never unknown. Its attempt says that nobody else has had it since.
    """
    given_back = [(result.id, result.attempt) for result in results if not result.begun]
    cancelled = "select 1 from jobs where id = ? and status = 'cancelled'"
    if not given_back or not conn.execute(cancelled, (job,)).fetchone():
        return
    which = f"""error like '{WHILE_IT_RAN}%' and (id, attempt) in (
                    select value ->> 0, value ->> 1 from json_each(:given_back))"""
    for status in ("cancelled", "unknown"):
        move_items(
            conn, job, status, "cancelled", which, "error = null", given_back=encode(given_back).decode()
        )


def _chunk(
    conn: Connection, job: int, status: str, most: int, after: int = -1, **only: str
) -> tuple[int, int]:
    """How many of the items of a status, behind a position, a chunk has, and the position of its last."""
    found = conn.execute(
        f"""select count(*), max(position) from (
                select position from items where {items_in(status, bool(only))} and position > :after
                order by position limit :most)""",
        {"job": job, "after": after, "most": most, **only},
    ).fetchone()
    return found[0], found[1]


def _cancel(conn: Connection, job: int, idempotent: int, returned: int) -> int:
    """Cancel a chunk of what a job that ends has not done; returns how many items.

    What runs and may not be repeated becomes unknown. What a body that has `returned`, or raised, never
    reached says so.
    """
    moved = 0
    for leaves in ("running", "queued"):
        looked, last = _chunk(conn, job, leaves, CHUNK)
        if not looked:
            continue
        enters = "cancelled"
        error = worded("not reached") if returned else None
        if leaves == "running":
            doubt = in_doubt(WHILE_IT_RAN)
            moved += move_items(
                conn, job, leaves, "unknown", "position <= :last and once", STOPPED, last=last, error=doubt
            )
            enters = "cancelled" if idempotent else "unknown"
            error = WHILE_IT_RAN if idempotent else doubt
        moved += move_items(conn, job, leaves, enters, "position <= :last", STOPPED, last=last, error=error)
    return moved
