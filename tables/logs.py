"""What tries have said, in the tables: written in the transaction that records results, or between them while
the tries go on. It changes no row of an item; the counter's tick is what wakes those who look at it.
"""

from collections.abc import Sequence

import msgspec

from rowcast.tables.database import Connection, tick
from rowcast.tasks import clock
from rowcast.tasks.records import encode
from rowcast.tasks.tries import LogLine
from rowcast.tasks.work import LogPart

LINES = msgspec.json.Decoder(list[tuple[float, str, str]])


def keep_lines(conn: Connection, job: int, logged: Sequence[LogPart]) -> None:
    """Keep these lines of tries of the job's items; what is told twice is there once."""
    tick(conn)
    conn.execute(
        """insert or ignore into item_log (job, item, attempt, part, at, lines)
           select ?1, items.id, iif(l.attempt, l.attempt, items.attempt), l.part, l.at + ?3, l.lines
           from (select value ->> 0 as item, value ->> 1 as attempt, value ->> 2 as part, value ->> 3 as at,
                     value ->> 4 as lines
                 from jsonb_each(?2)) as l
           -- by its id alone: the job's other items are not to be looked through for each line
           cross join items on +items.job = ?1 and items.id = iif(
               l.attempt, l.item, (select id from items where job = ?1 and position = l.item))""",
        (job, encode(logged).decode(), clock.start()),
    )


def lines_of(conn: Connection, job: int, item: int) -> list[LogLine]:
    """What the tries of an item have said, the oldest try first."""
    rows = conn.execute(
        "select attempt, at, lines from item_log where job = ? and item = ? order by attempt, part",
        (job, item),
    )
    return [
        LogLine(began + since, attempt, level, text)
        for attempt, began, lines in rows
        for since, level, text in LINES.decode(lines)
    ]
