"""Keeping house: what a database needs over the years. Prune old jobs, back up while it runs, and say what is
wrong.

`check` is what `rowcast doctor` prints: each finding is a sentence, and what to do about it.
"""

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import apsw
import msgspec

from rowcast.tables.database import (
    Connection,
    OnDatabase,
    current_seq,
    read_again,
    read_only,
    reserve_of,
    transaction,
)
from rowcast.tables.outbox import LATELY
from rowcast.tables.schema import SCHEMA, look_first, made_as, own_keys
from rowcast.tasks import clock
from rowcast.tasks.records import ITEM_STATUSES, encode
from rowcast.tasks.work import CHUNK

GIVEN_UP = 500  # jobs that are taken from their owners in one transaction
TOGETHER = 300  # jobs that are deleted together: small ones share their transactions
BREATH = 0.0005  # seconds between two transactions, for who waits to write
SHIFT = 0.05  # seconds of deleting, and
REST = 0.06  # of rest: a page is as quick in most moments, while each transaction makes others read anew
# What a job has, with what tells the rows of each table apart.
ROWS = {
    "item_log": "rowid",
    "tries": "job, item, attempt",
    "items": "id",
    "error_groups": "job, fingerprint",
    "throughput": "job, second",
    "growth": "job, fingerprint, second",
    "tallies": "job, measure, bucket",
    "keys": "rowid",
    "deliveries": "rowid",
    "shares": "job, kind, name",
    "mails": "rowid",
}
PAGES = 500  # pages given back in one transaction
INCREMENTAL = 2  # of auto_vacuum: free pages are given back when that is asked for
DAY = 86_400
T = TypeVar("T")
CHECKED = 2_000_000_000  # bytes of a file of which everything is checked: half a minute
WAL_LARGE = 256_000_000  # bytes
ROOM_SMALL = 200_000_000


class Keep(msgspec.Struct, frozen=True):
    """How long ended jobs are kept: so many days, and at most so many; 0 is no limit."""

    days: float = 0
    jobs: int = 0
    background: float = 0  # days that those of BackgroundTask are kept


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: whether it is well, what was seen, and what to do if it is not."""

    well: bool
    what: str
    seen: str
    todo: str = ""


class Shifts:
    """Who has much to do lets others do theirs now and then."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def pause(self) -> None:
        """Between two transactions."""
        is_over = time.monotonic() > self.began + SHIFT
        time.sleep(REST if is_over else BREATH)
        if is_over:
            self.began = time.monotonic()


class Maintenance(OnDatabase):
    """The care of one database file."""

    def prune(self, keep: Keep) -> int:
        """Delete ended jobs with their items, by age and by number, a chunk at a time, and give the room back
        to the disk; returns how many jobs went.

        A job that is being deleted belongs to nobody, so nobody can take it up again; what a prune that was
        broken off has left is deleted by the next. Raises apsw.FullError where the disk has no room for as
        much as that takes.
        """
        conn = self.conn
        shifts = Shifts()
        if keep != Keep():
            _where_it_is_full(conn, 1, lambda _: _give_up(conn, keep, shifts))
        of_nobody = "select id from jobs where owner = '' and finished_at is not null"
        old = [job for (job,) in conn.execute(of_nobody).fetchall()]
        for at in range(0, len(old), TOGETHER):
            _delete(conn, old[at : at + TOGETHER], shifts)
        if old:
            _give_room_back(conn, shifts)
        return len(old)

    def check(self) -> list[Finding]:
        """Look the database over: integrity, schema, counts, leases, write-ahead log, room on the disk."""
        look_first(self.path)
        integrity = _integrity(self.conn, self.path)
        # what is damaged cannot be counted on
        rows = [look(self.conn) for look in (_schema, _counts, _leases, _messages)] if integrity.well else []
        if integrity.well:
            rows.append(_keys(self.conn, self.path))
        return [integrity, *rows, _log(self.path), _writing(self.path), _room(self.path)]

    def own_keys(self) -> None:
        """This file is a copy, and the original goes on: from now on its items have keys of their own."""
        with transaction(self.conn) as conn:
            own_keys(conn, self.path)


def _give_up(conn: Connection, keep: Keep, shifts: Shifts) -> None:
    """Say of the jobs that are kept no longer that they belong to nobody."""
    now = clock.now()
    ended = "select id from jobs indexed by jobs_by_end where finished_at is not null"
    old: set[int] = set()
    if keep.days > 0:
        rows = conn.execute(f"{ended} and finished_at < ?", (now - keep.days * DAY,))
        old.update(job for (job,) in rows)
    if keep.jobs > 0:
        kept = "id not in (select id from jobs where owner = '')"  # what is being deleted is none of them
        sql = f"{ended} and {kept} order by finished_at desc, id desc limit -1 offset ?"
        rows = conn.execute(sql, (keep.jobs,))
        old.update(job for (job,) in rows)
    if keep.background > 0:
        rows = conn.execute(
            """select id from jobs indexed by jobs_of_background where background and finished_at < ?""",
            (now - keep.background * DAY,),
        )
        old.update(job for (job,) in rows)
    jobs = sorted(old)
    for at in range(0, len(jobs), GIVEN_UP):
        with transaction(conn):
            give_up(conn, jobs[at : at + GIVEN_UP])
        shifts.pause()


def give_up(conn: Connection, jobs: list[int]) -> int:
    """Say of those of these jobs that have ended that they belong to nobody: then they are deleted.

    The counter moves, so whoever shows them hears of it. Returns how many they are.
    """
    these = encode(jobs).decode()
    conn.execute(
        """update jobs set owner = '', unique_key = null
           where finished_at is not null and owner <> '' and id in (select value from json_each(?))
               and not exists (select 1 from sweeps where job = jobs.id)""",
        (these,),
    )
    given_up = int(conn.changes())
    if given_up:
        read_again(conn)
    return given_up


def _delete(conn: Connection, jobs: list[int], shifts: Shifts) -> None:
    """What the jobs have first, in chunks, so that no transaction is long; then the jobs."""
    while _where_it_is_full(conn, CHUNK, lambda chunk: _delete_chunk(conn, jobs, chunk)):
        shifts.pause()
    shifts.pause()


def _delete_chunk(conn: Connection, jobs: list[int], chunk: int) -> bool:
    """Delete so many rows of these jobs, and at the end their own; whether there may be more."""
    these = encode(jobs).decode()
    left = chunk
    with transaction(conn):
        for table, key in ROWS.items():
            conn.execute(
                f"""delete from {table} where ({key}) in (
                        select {", ".join(f"{table}.{name}" for name in key.split(", "))}
                        from json_each(?) cross join {table} on {table}.job = value limit ?)""",
                (these, left),
            )
            left -= int(conn.changes())
            if not left:
                return True
        conn.execute("update rowcast set last_job = max(last_job, ?)", (max(jobs),))
        conn.execute(
            """delete from jobs where id in (
                   select jobs.id from json_each(?) cross join jobs on jobs.id = value limit ?)""",
            (these, left),
        )
        return int(conn.changes()) == left


def _give_room_back(conn: Connection, shifts: Shifts) -> None:
    """Make the file smaller by the pages that are free. A file that another program made keeps its size."""
    if conn.execute("pragma auto_vacuum").fetchone() != (INCREMENTAL,):
        return
    while conn.execute("pragma freelist_count").fetchone() != (0,):
        _where_it_is_full(conn, PAGES, lambda pages: _give_pages_back(conn, pages))
        shifts.pause()
    with contextlib.suppress(apsw.BusyError):  # whoever reads just now: the next checkpoint does it
        conn.execute("pragma wal_checkpoint(truncate)").fetchall()


def _give_pages_back(conn: Connection, pages: int) -> None:
    with transaction(conn):
        conn.execute(f"pragma incremental_vacuum({pages})").fetchall()


def _where_it_is_full(conn: Connection, most: int, do: Callable[[int], T]) -> T:
    """Do it with `most`, and where the disk is full with less and less, in the room that the log has already.

    Raises apsw.FullError where even 1 is too much.
    """
    while True:
        try:
            return do(most)
        except apsw.FullError:
            _begin_log_anew(conn)
            if most == 1:
                return do(1)
            most = max(1, most // 4)


def _begin_log_anew(conn: Connection) -> None:
    """Have what is in the write-ahead log written to the database, so that its room can be used again; where
    there is none for that either, in the room that was kept for it.
    """
    try:
        conn.execute("pragma wal_checkpoint(restart)").fetchall()
    except apsw.FullError:
        reserve_of(conn.filename).unlink(missing_ok=True)
        conn.execute("pragma wal_checkpoint(restart)").fetchall()


def _integrity(conn: Connection, path: str) -> Finding:
    """Every page, and of a file that is not too large every index against its table."""
    size = Path(path).stat().st_size
    whole = size <= CHECKED
    faults = [row[0] for row in conn.execute(f"pragma {'integrity_check' if whole else 'quick_check'}(5)")]
    skipped = f"; indexes were not compared with their tables, as the file has {size / 1e9:,.1f} GB"
    return Finding(
        faults == ["ok"],
        "integrity",
        "; ".join(faults) + ("" if whole else skipped),
        "Stop Rowcast and restore a backup (`rowcast restore FILE`; `rowcast backup` makes them).",
    )


def _schema(conn: Connection) -> Finding:
    (schema,) = conn.execute("select schema from rowcast").fetchone()
    todo = (
        "Start Rowcast once: it migrates after a backup."
        if schema < SCHEMA
        else "Install the newer Rowcast that wrote it."
    )
    return Finding(schema == SCHEMA, "schema", f"version {schema}", todo)


def _keys(conn: Connection, path: str) -> Finding:
    """Whether this is the file that gives these Idempotency-Keys, and no copy of it."""
    (known,) = conn.execute("select made_as from rowcast").fetchone()
    here = made_as(path)
    return Finding(
        known in (None, here),
        "Idempotency-Keys",
        "its own"
        if known in (None, here)
        else "this file is a copy, and the next items' keys are those of the original's",
        "Tell it, lest an API takes one person's item for another's: rowcast doctor --own-keys.",
    )


def _counts(conn: Connection) -> Finding:
    """The counts on the jobs' rows against the items themselves; no item newer than its job, no job than the
    counter.
    """
    sums = ", ".join(f"coalesce(sum(status = '{s}'), 0)" for s in ITEM_STATUSES)
    wrong = []
    conn.execute("begin")  # while the server writes, a job and its items are seen at one moment
    try:
        jobs = conn.execute(
            f"select id, seq, total, {', '.join(ITEM_STATUSES)} from jobs where owner <> ''"
        ).fetchall()
        for job, seq, total, *kept in jobs:
            newest, *counted = conn.execute(
                f"select max(seq), {sums} from items where job = ?", (job,)
            ).fetchone()
            if kept != counted or total != sum(kept) or seq < (newest or 0) or seq > current_seq(conn):
                wrong.append(job)
    finally:
        conn.execute("commit")
    seen = f"wrong on job {wrong[0]} and {len(wrong) - 1} more" if wrong else "all add up"
    return Finding(not wrong, "counts", seen, "Please report this: the counts are kept with every change.")


def _leases(conn: Connection) -> Finding:
    (orphans,) = conn.execute(
        """select count(*) from items where status = 'running'
           and worker not in (select id from workers where lease > ?)""",
        (clock.now(),),
    ).fetchone()
    return Finding(
        not orphans, "leases", f"{orphans:,} items are held by workers that are gone",
        "Start Rowcast: it takes them back within seconds.",
    )  # fmt: skip


def _messages(conn: Connection) -> Finding:
    """What was told of jobs of late and did not arrive."""
    lost, receivers, last = conn.execute(
        """select count(*), count(distinct receiver), max(tried_at) from deliveries
           where status = 'failed' and created_at > ?""",
        (clock.now() - LATELY,),
    ).fetchone()
    sql = "select receiver, coalesce(error, '') from deliveries where status = 'failed' and tried_at = ?"
    to, error = conn.execute(sql, (last,)).fetchone() or ("", "")
    more = f" and {receivers - 1} more" if receivers > 1 else ""
    seen = f"{lost:,} not delivered in seven days, to {to}{more}; the last one: {error}"
    return Finding(
        not lost,
        "messages",
        seen if lost else "all of seven days were delivered, or are on their way",
        "See the page Messages: what is put right can be sent again there.",
    )


def _log(path: str) -> Finding:
    wal = Path(f"{path}-wal")
    size = wal.stat().st_size if wal.exists() else 0
    return Finding(
        size < WAL_LARGE, "write-ahead log", f"{size / 1e6:,.1f} MB",
        "Something holds a read transaction open; close it, or restart Rowcast.",
    )  # fmt: skip


def _writing(path: str) -> Finding:
    file = read_only(path)
    return Finding(
        not file, "writing", f"{file} is read-only" if file else "allowed",
        "Let who runs Rowcast write the database, the files beside it and their folder.",
    )  # fmt: skip


def _room(path: str) -> Finding:
    free = shutil.disk_usage(Path(path).absolute().parent).free
    return Finding(
        free > ROOM_SMALL, "room on the disk", f"{free / 1e9:,.1f} GB free", "Make room: see `rowcast prune`."
    )
