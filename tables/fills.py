"""The writing of a job's items, a chunk in one transaction; and of a job whose one item is given with it."""

from rowcast.tables import pacing
from rowcast.tables.counts import close_if_done
from rowcast.tables.database import Connection, tick
from rowcast.tasks import clock
from rowcast.tasks.work import Chunk


def add_chunk(conn: Connection, job: int, chunk: Chunk, at: int | None = None) -> bool:
    """Append items to a job that is being filled; the last chunk ends the filling.

    Returns False, writing nothing, where the job is not to be filled any more (it was cancelled), or has
    other than `at` items: another worker has gone on with it.
    """
    found = conn.execute(
        """select total from jobs where id = ? and finished_at is null and not filled
               and status not in ('cancelled', 'failed')""",
        (job,),
    ).fetchone()
    if found is None or at not in (None, found[0]):
        return False
    total = found[0]
    now = clock.now()
    seq = tick(conn, chunk.size + 1)
    conn.execute(
        """insert into items (job, position, key, payload, updated_at, seq)
           select ?1, ?2 + key, value ->> 0, value ->> 1, ?3, ?4 + key from jsonb_each(?5)""",
        (job, total, now, seq, chunk.rows),
    )
    if chunk.size:
        conn.execute(
            "insert into keys (job, first, lines) values (?, ?, ?)", (job, total, chunk.keys.lower())
        )
    conn.execute(
        """update jobs set total = total + ?1, queued = queued + ?1, filled = ?2, seq = ?3,
               worker = iif(?2, null, worker) where id = ?4""",
        (chunk.size, int(chunk.last), seq + chunk.size, job),
    )
    pacing.check_rules(conn, job)
    if chunk.last:
        close_if_done(conn, job)
    return True
