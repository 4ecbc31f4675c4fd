"""The keys of a job's items, some thousands in a row: a million of them are looked through in tens of
milliseconds.
"""

from rowcast.tables.database import Connection
from rowcast.tasks.work import CHUNK


def find(conn: Connection, job: int, text: str, limit: int, after: int) -> list[int] | None:
    """The positions, `limit` at most, of items behind position `after` whose key has `text`, in any case;
    None where a job's keys are not kept so: the steps of a body task are written one by one.
    """
    wanted = text.lower()
    positions: list[int] = []
    rows = conn.execute(
        "select first, lines from keys where job = ? and instr(lines, ?) and first > ? order by first",
        (job, wanted, after - CHUNK),
    )
    for first, lines in rows:
        found = [first + n for n, key in enumerate(lines.split("\n")) if wanted in key]
        positions += [position for position in found if position > after]
        if len(positions) >= limit:
            break
    if positions or conn.execute("select 1 from keys where job = ? limit 1", (job,)).fetchone():
        return positions[:limit]
    return None
