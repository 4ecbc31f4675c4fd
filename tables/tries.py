"""Tries in the tables: a row for each call of a task that is not its item's own record. Written in the very
transaction that records what became of it, so none is missing, and none is there twice.

A first try that succeeds writes nothing here. What a worker had when it was lost is a try too, of which
nobody knows what became, until the worker itself says it after all: a result that came too late counts for
nothing, and still tells the truth about its try.
"""

from collections.abc import Collection, Sequence
from typing import Any

from rowcast.tables.database import Connection
from rowcast.tables.logs import lines_of
from rowcast.tasks import clock
from rowcast.tasks.records import Item, Job, NotFound, encode
from rowcast.tasks.tries import ItemNow, TryRow, tries_of
from rowcast.tasks.work import Result, Step

BROKEN_OFF = "The worker stopped while this ran"
BROKEN_OFF_STEP = "Broken off, for the task ended while this ran"
COLUMNS = ", ".join(TryRow.__struct_fields__)
# as what a try is shown whose item was moved while it ran, by the status that the item enters
LEFT = {"queued": "unknown"}
Told = tuple[int, int, str, int | None, str | None, str | None, float, float | None]


def is_own(result: Result) -> bool:
    """Whether the item itself is the record of this try."""
    return result.status == "completed" and result.attempt == 1


def as_told(result: Result, now: float) -> Told:
    """A result as its try is kept. One that is queued again has failed, or was broken off."""
    status = result.status
    error = result.error
    if status == "queued":
        status = "failed" if error else "unknown"
        error = error or BROKEN_OFF
    began = clock.moment(result.started_at) or now - (result.ms or 0.0) / 1000
    return result.id, result.attempt, status, result.code, error, result.excerpt, began, result.ms


def add(conn: Connection, job: int, worker: str, told: Sequence[Told], most: int) -> None:
    """Keep these tries of items that `worker` held, of each item the newest `most`; 0 keeps all."""
    conn.execute(
        f"""insert or replace into tries (job, item, {COLUMNS})
            select ?1, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5,
                value ->> 6, value ->> 7, ?2 from jsonb_each(?3)""",
        (job, worker, encode(told).decode()),
    )
    if most and (beyond := [(job, item, attempt - most) for item, attempt, *_ in told if attempt > most]):
        forget(conn, beyond)


def correct(conn: Connection, job: int, worker: str, late: Collection[Result], now: float) -> None:
    """What a worker says of tries that had been taken from it: what it had not begun was none."""
    not_begun = [(job, result.id, result.attempt, worker) for result in late if not result.begun]
    conn.executemany("delete from tries where job = ? and item = ? and attempt = ? and worker = ?", not_begun)
    known = [result for result in late if result.begun and (result.error or result.status != "queued")]
    conn.executemany(
        """update tries set status = ?3, code = ?4, error = ?5, excerpt = ?6, started_at = ?7, ms = ?8
           where job = ?9 and item = ?1 and attempt = ?2 and worker = ?10""",
        [(*as_told(result, now), job, worker) for result in known],
    )


def leave(conn: Connection, where: str, enters: str, error: str | None, values: dict[str, Any]) -> None:
    """Items of :job that run are taken from their workers, those of the SQL `where`, from its from on: their
    tries are over, and were not seen to end.
    """
    conn.execute(
        f"""insert or replace into tries (job, item, attempt, status, error, started_at, ms, worker)
            select job, id, attempt, :became, :said, updated_at,
                iif(:became = 'failed', 1000 * (:now - updated_at), null), worker {where}""",
        values | {"became": LEFT.get(enters, enters), "said": error or BROKEN_OFF},
    )


def add_steps(conn: Connection, job: int, worker: str, steps: Sequence[Step], now: float, most: int) -> None:
    """Keep the tries that these steps report, which have been written; but for first ones that succeeded."""
    rows = encode([(step.position, *as_ended(step), step.ms) for step in steps]).decode()
    conn.execute(
        f"""insert or replace into tries (job, item, {COLUMNS})
            select ?1, id, attempt, t.status, null, t.error, null, ?2 - coalesce(t.ms, 0) / 1000, t.ms, ?3
            from (select value ->> 0 as position, value ->> 1 as status, value ->> 2 as error,
                      value ->> 3 as ms
                  from jsonb_each(?4)) as t
            -- by its place: the job's other items are not to be looked through for each step
            cross join items on items.job = ?1 and items.position = t.position
            where t.status <> 'completed' or items.attempt > 1""",
        (job, now, worker, rows),
    )
    if most:
        beyond = conn.execute(
            """select ?1, id, attempt - ?2 from items where job = ?1 and attempt > ?2
                   and position in (select value ->> 0 from json_each(?3))""",
            (job, most, rows),
        ).fetchall()
        forget(conn, beyond)


def as_ended(step: Step) -> tuple[str, str | None]:
    """The status and error of a step's try; one that is to be called again has failed, or was broken off."""
    if step.status != "queued":
        return step.status, step.error
    return ("failed", step.error) if step.error else ("cancelled", BROKEN_OFF_STEP)


def forget(conn: Connection, beyond: Sequence[tuple[int, int, int]]) -> None:
    """Delete of these items, (job, item, attempt) each, the tries up to that attempt and what they said."""
    for table in ("tries", "item_log"):
        conn.executemany(f"delete from {table} where job = ? and item = ? and attempt <= ?", beyond)


def item_now(conn: Connection, job: Job, item: Item) -> ItemNow:
    """All that an item's page shows."""
    found = conn.execute(
        "select payload, worker from items where id = ? and job = ?", (item.id, job.id)
    ).fetchone()
    if found is None:
        raise NotFound(f"Job {job.id} has no item {item.id}.")
    payload, worker = found
    rows = conn.execute(
        f"select {COLUMNS} from tries where job = ? and item = ? order by attempt", (job.id, item.id)
    )
    tries = tries_of(item, worker, [TryRow(*row) for row in rows])
    beside = conn.execute(
        """select (select id from items where job = ?1 and position = ?2 - 1),
                  (select id from items where job = ?1 and position = ?2 + 1)""",
        (job.id, item.position),
    ).fetchone()
    return ItemNow(job, item, payload, tries, lines_of(conn, job.id, item.id), *beside)
