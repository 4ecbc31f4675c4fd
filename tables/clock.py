"""The database's clock (tasks/clock.py): kept in the one row of `rowcast`, and set when the machine's was.

Then all that waits and all that began and has not ended is moved with it, in one transaction: whoever reads a
moment reads it by the clock that it was written by, also within the second until the move.
"""

from rowcast.tables.database import Connection, connection, tick, transaction
from rowcast.tasks.clock import BOOT, FAR, follow, measured, start

UNENDED = "select id from jobs where finished_at is null"
# What is moved with the clock. A job's `run_at` and schedules are not: they go by the machine's.
MOMENTS = (
    "update workers set lease = lease + :by, started_at = started_at + :by",
    "update slots set due_at = due_at + :by where due_at > 0",
    "update paces set arrival = arrival + :by where arrival > 0",
    "update paces set hold_until = hold_until + :by where hold_until > 0",
    f"""update items set run_at = run_at + :by, seq = :seq + place.n from (
            select id as item, row_number() over () - 1 as n from items
            where status = 'queued' and run_at > 0 and job in ({UNENDED})
        ) as place where items.id = place.item""",
    f"""update jobs set created_at = created_at + :by, started_at = started_at + :by,
            begun_at = begun_at + :by, tuned_at = tuned_at + :by, paused_at = paused_at + :by,
            resumed_at = resumed_at + :by, seq = :last where id in ({UNENDED})""",
    """update jobs set unique_until = unique_until + :by
       where unique_key is not null and unique_until is not null""",
    """update deliveries set due_at = due_at + :by, asked_at = asked_at + :by
       where status in ('queued', 'sending')""",
    "update webhooks set retired_at = retired_at + :by where retired_at > 0",
    # by way of the negative numbers, as no two may be the same on the way
    f"update throughput set second = -(second + cast(round(:by) as integer)) where job in ({UNENDED})",
    "update throughput set second = -second where second < 0",
    f"update growth set second = -(second + cast(round(:by) as integer)) where job in ({UNENDED})",
    "update growth set second = -second where second < 0",
    """update holds set started_at = -(started_at + :by), until = until + :by
       where task in (select task from jobs where finished_at is null)""",
    "update holds set started_at = -started_at where started_at < 0",
)


def set_clock(path: str) -> None:
    """At a start: set the database's clock by the machine's where it is off, or of another start of it.

    What was written before a restart of the machine stays as it is: nobody knows by how much to move it.
    """
    conn = connection(path)
    kept, booted = conn.execute("select clock, boot from rowcast").fetchone()
    if kept is None or not BOOT or booted != BOOT:
        set_to = measured()
        with transaction(conn):
            conn.execute("update rowcast set clock = ?, boot = ?", (set_to, BOOT))
        follow(set_to)
    keep_clock(path)


def keep_clock(path: str) -> None:
    """Where the machine's clock was set since, the database's is set too, with all that waits."""
    if abs(measured() - start()) < FAR:
        return
    conn = connection(path)
    with transaction(conn):
        set_to = measured()
        by = set_to - start()
        if abs(by) > FAR:  # else another process has done it
            sql = "update rowcast set clock = ?, boot = ?, clock_changed = clock_changed + ?"
            conn.execute(sql, (set_to, BOOT, abs(by)))
            move(conn, by)
    if abs(by) > FAR:
        follow(set_to)


def move(conn: Connection, by: float) -> None:
    """Move every moment that is still to come, or from which something is measured that goes on."""
    queued = f"select count(*) from items where status = 'queued' and run_at > 0 and job in ({UNENDED})"
    (waiting,) = conn.execute(queued).fetchone()
    seq = tick(conn, waiting + 1)
    for statement in MOMENTS:
        conn.execute(statement, {"by": by, "seq": seq, "last": seq + waiting})
