"""The database: one SQLite file, opened once per thread.

Owns how a connection is opened (fastlite over apsw, WAL, synchronous FULL, a busy timeout, what is temporary in memory),
the numbered migrations, and the counter `seq`. Every write of Rowcast runs inside `transaction`, which takes SQLite's one
writer lock at once (`begin immediate`), so the order of `seq` is the order of commits and "the rows whose seq is greater
than mine" can miss nothing. The table `rowcast` marks a file as ours; a file with other tables and no `users` is somebody
else's and is left alone.
"""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
from fastlite import database

BUSY_MS = 10_000
# An apsw.Connection; its own types say of every value that it may be any of SQLite's.
Connection = Any
_local = threading.local()
_turns: dict[str, "Turns"] = {}  # whose it is to write, by database
os.register_at_fork(after_in_child=_turns.clear)  # the thread that held one is not there
_default = ""


class DatabaseRefused(Exception):
    """The file cannot be Rowcast's database; the message is one sentence for a person."""


MIGRATIONS: list[str] = [
    """
    create table jobs (
        id integer primary key,
        task text not null,
        entry text not null,              -- 'module:function', what a worker imports
        shape text not null,              -- 'items' (the function is called per item) or 'body' (called once)
        args text not null default '{}',  -- JSON
        owner text not null,
        engine text not null,
        status text not null default 'queued',
        reason text not null default '',  -- why it is paused, failed or waits
        total integer not null default 0,
        queued integer not null default 0,
        running integer not null default 0,
        completed integer not null default 0,
        failed integer not null default 0,
        cancelled integer not null default 0,
        unknown integer not null default 0,
        filled integer not null default 0,    -- all its items have been written
        idempotent integer not null default 1,
        stamp text,                           -- the column of users that a completed item stamps
        concurrency integer,                  -- null: the task's own
        pace real,                            -- items per second at most; null: the task's own
        created_at real not null,
        started_at real,
        finished_at real,
        worker text,                          -- who holds a 'body' job, or writes the items of another
        seq integer not null
    );
    create index jobs_by_seq on jobs (seq);
    create index jobs_active on jobs (id) where finished_at is null;

    create table items (
        id integer primary key,
        job integer not null,
        position integer not null,
        key text not null,
        payload text,                         -- JSON of what the task gets; null: the key itself
        status text not null default 'queued',
        attempt integer not null default 0,   -- tries used, ever; it also fences late results
        spent integer not null default 0,     -- tries used before the last retry by hand
        crashes integer not null default 0,   -- tries during which the worker died
        code integer,
        error text,
        result text,                          -- JSON
        ms real,
        run_at real not null default 0,       -- not before this time
        worker text,
        fingerprint text,                     -- the error group a failed item belongs to
        updated_at real not null,
        seq integer not null
    );
    create unique index items_by_position on items (job, position);
    create index items_by_status on items (job, status, position);
    create index items_by_seq on items (job, seq);
    create index items_recent on items (job, seq) where attempt > 0;
    create index items_to_claim on items (job, run_at, position) where status = 'queued';
    create index items_in_flight on items (worker) where status = 'running';

    create table error_groups (
        job integer not null,
        fingerprint text not null,
        code integer,
        message text not null,
        items integer not null,
        first_at real not null,
        last_at real not null,
        primary key (job, fingerprint)
    ) without rowid;

    create table throughput (
        job integer not null,
        second integer not null,
        items integer not null,
        primary key (job, second)
    ) without rowid;

    create table paces (
        task text primary key,
        arrival real not null default 0,      -- GCRA's theoretical arrival time
        hold_until real not null default 0,   -- Retry-After: nothing of this task before then
        reason text not null default ''
    ) without rowid;

    create table workers (
        id text primary key,
        host text not null,
        pid integer not null,
        engine text not null,
        version text not null,
        started_at real not null,
        lease real not null                   -- alive until then; a heartbeat moves it on
    ) without rowid;
    """,
    """
    alter table jobs add column stop_after text;                      -- '5%' or '20' failures in a row
    alter table jobs add column stop_base integer not null default 0; -- failures before the last resume
    alter table jobs add column streak integer not null default 0;    -- failures in a row, of late
    alter table jobs add column canary integer;                       -- pause after so many items; null: no or over
    alter table jobs add column dry_run integer not null default 0;   -- show what would be sent, send nothing
    alter table jobs add column run_at real not null default 0;       -- not before this time
    alter table jobs add column unique_key text;
    alter table jobs add column schedule integer;
    create unique index jobs_unique on jobs (owner, unique_key) where unique_key is not null;
    alter table rowcast add column pruned_seq integer not null default 0; -- the newest seq among deleted rows

    create table schedules (
        id integer primary key,
        task text not null,
        entry text not null,
        args text not null,
        owner text not null,
        cron text not null,
        zone text not null,
        paused integer not null default 0,
        next_at real not null,
        last_job integer,
        created_at real not null
    );
    """,
    """
    alter table rowcast add column secret text; -- signs links; made at the first start
    update rowcast set secret = lower(hex(randomblob(32)));

    create table keys (                         -- the keys of items as they were written, many in a row, for the search
        job integer not null,
        first integer not null,                 -- the position of the first of them
        lines text not null                     -- lower case, one key a line
    );
    create index keys_by_job on keys (job, first);
    alter table jobs add column crashes integer not null default 0; -- of its worker, while it was filled or a body ran
    """,
    """
    create index items_by_group on items (job, fingerprint, position) where fingerprint is not null;
    """,
    """
    create table slots (                        -- the slices of a job that a queue's workers are to work on
        job integer not null,
        slot integer not null,
        token text not null,                    -- a message, or a slice, with another one is left over; '': at rest
        due_at real not null,                   -- when the next message is to be sent, unless it is heard of before
        tries integer not null default 0,       -- messages sent since it was last heard of
        primary key (job, slot)
    ) without rowid;
    alter table workers add column done integer not null default 0; -- items it has ended
    """,
    """
    alter table error_groups add column sample text not null default ''; -- the first error of the group, as it was
    """,
    """
    alter table slots add column bound integer not null default 0;  -- items of its slice that may be in flight at most
    -- the largest id of a job that was deleted: none is given twice, or an Idempotency-Key would name other work
    alter table rowcast add column last_job integer not null default 0;
    """,
    """
    -- with items_recent, one index by seq for the items that have been tried and one for the others: each is in one of them
    create index items_fresh on items (job, seq) where attempt = 0;
    drop index items_by_seq;
    """,
    """
    -- a job that is retried after its end runs again, and what lay between counts for nothing
    alter table jobs add column begun_at real;                     -- when its last run began; null: when it started
    alter table jobs add column worked real not null default 0;    -- seconds that the runs before took
    """,
]
SCHEMA = len(MIGRATIONS)
OUR_TABLES = {"jobs", "items", "error_groups", "throughput", "paces", "workers", "schedules", "keys", "slots"}
USERS = "create table users (email text primary key, account_updated integer)"


def set_default_database(path: str) -> None:
    """Say which file is this process's database, for item sources, which get none passed."""
    global _default
    _default = path


def default_database() -> str:
    """This process's database file. Raises LookupError before there is one."""
    if not _default:
        raise LookupError("No database has been opened in this process.")
    return _default


def open_database(path: str) -> Any:
    """This thread's connection to the database file `path`: a fastlite Database, opened on first use."""
    opened = _local.__dict__.setdefault("opened", {})
    if path not in opened:
        opened[path] = _open(path)
    return opened[path]


def close_databases() -> None:
    """Close this thread's connections."""
    opened = _local.__dict__.pop("opened", {})
    for db in opened.values():
        db.conn.close()


def connection(path: str) -> Connection:
    """The apsw connection behind `open_database(path)`, for SQL that runs often."""
    return open_database(path).conn


class OnDatabase:
    """What works on one database file. Holds a path and no state: each thread has its own connection."""

    def __init__(self, path: str):
        self.path = path

    @property
    def conn(self) -> Connection:
        return connection(self.path)


def _open(path: str) -> Any:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        db = _patiently(lambda: database(path))
    except (OSError, apsw.Error) as error:
        raise DatabaseRefused(f"Cannot open the database {path}: {_reason(error)}.") from error
    try:
        db.conn.set_busy_timeout(BUSY_MS)
        db.conn.execute("pragma synchronous = full")
        db.conn.execute("pragma temp_store = memory")  # what an update changes is listed first: in a file, by default
        return db
    except apsw.Error as error:
        db.conn.close()
        raise DatabaseRefused(f"Cannot open the database {path}: {_reason(error)}.") from error


def _patiently(open_it: Callable[[], Any]) -> Any:
    """fastlite's own pragmas wait a tenth of a second for a lock; a database that is in use may need longer."""
    give_up = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            return open_it()
        except apsw.BusyError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)


def prepare(path: str) -> bool:
    """Create or migrate the schema in `path`. Returns True where there was no `users` table and an empty one was made.

    Raises DatabaseRefused for a file that is no database, is another program's, is newer than this Rowcast, or cannot
    be written.
    """
    look_first(path)
    try:
        _back_up_older(path)
        conn = connection(path)
        conn.execute("pragma temp_store = default")  # an index over millions of items is sorted in files
        try:
            return _migrate(conn, path)
        finally:
            conn.execute("pragma temp_store = memory")
    except apsw.Error as error:
        raise DatabaseRefused(f"Cannot use the database {path}: {_reason(error)}.") from error


def look_first(path: str) -> None:
    """Refuse another program's file before anything, even the journal's mode, is changed in it."""
    if not Path(path).is_file() or not Path(path).stat().st_size:
        return
    try:
        conn = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.Error:
        return
    try:
        conn.set_busy_timeout(BUSY_MS)
        tables = _tables(conn)
        if "rowcast" not in tables:
            _refuse_foreign(conn, path, tables)
    except apsw.Error:
        pass  # opening it in earnest says what is wrong
    finally:
        conn.close()


def _tables(conn: Connection) -> set[str]:
    names = {name for (name,) in conn.execute("select name from sqlite_schema where type in ('table', 'view')")}
    return {name for name in names if not name.startswith("sqlite_")}


def _back_up_older(path: str) -> None:
    """Before a schema is migrated, the database is copied beside itself."""
    conn = connection(path)
    if conn.execute("select 1 from sqlite_schema where name = 'rowcast'").fetchone():
        (schema,) = conn.execute("select schema from rowcast").fetchone()
        target = f"{path}.schema-{schema}"
        if 0 < schema < SCHEMA:
            with contextlib.suppress(FileExistsError):  # by another process that starts, or by a start that was broken off
                back_up(path, target)


def _migrate(conn: Connection, path: str) -> bool:
    with transaction(conn):
        tables = _tables(conn)
        if "rowcast" not in tables:
            _refuse_foreign(conn, path, tables)
            conn.execute("create table rowcast (schema integer not null, seq integer not null)")
            conn.execute("insert into rowcast values (0, 0)")
        (schema,) = conn.execute("select schema from rowcast").fetchone()
        if schema > SCHEMA:
            raise DatabaseRefused(
                f"The database {path} was written by a newer Rowcast (schema {schema}, this one knows {SCHEMA});"
                " install that version again, or give another --database."
            )
        for script in MIGRATIONS[schema:]:
            conn.execute(script)
        conn.execute("update rowcast set schema = ?", (SCHEMA,))
        if "users" not in tables:
            conn.execute(USERS)
        return "users" not in tables


def _refuse_foreign(conn: Connection, path: str, tables: set[str]) -> None:
    """A file Rowcast has never seen must be empty or bring a usable `users` table, and none of our names."""
    if taken := sorted(tables & OUR_TABLES):
        raise DatabaseRefused(
            f"The database {path} belongs to another program: it has a table `{taken[0]}` that is not Rowcast's."
        )
    if tables and "users" not in tables:
        raise DatabaseRefused(
            f"The database {path} belongs to another program: it has tables ({', '.join(sorted(tables)[:3])})"
            " and no `users` among them."
        )
    if "users" in tables and "email" not in {row[1] for row in conn.execute("pragma table_info(users)")}:
        raise DatabaseRefused(f"The `users` table in {path} has no column `email`, which Rowcast reads.")


class Turns:
    """Who may write, one thread after the other in the order in which they came.

    A lock of Python's is had again by the thread that lets it go: what fills a job would keep its runners waiting until all
    is written.
    """

    def __init__(self) -> None:
        self.lock, self.taken = threading.Lock(), False
        self.waiting: deque[threading.Lock] = deque()  # each held until it is its thread's turn

    def take(self, timeout: float) -> bool:
        """Wait for one's turn; False where it has not come after so many seconds."""
        with self.lock:
            if not self.taken:
                self.taken = True
                return True
            mine = threading.Lock()
            mine.acquire()
            self.waiting.append(mine)
        try:
            if mine.acquire(timeout=timeout):
                return True
        except BaseException:  # Ctrl-C, say
            if not self._leave(mine):
                self.pass_on()
            raise
        return not self._leave(mine)

    def _leave(self, mine: threading.Lock) -> bool:
        """Wait no longer; False where the turn has come just now."""
        with self.lock:
            if waits := mine in self.waiting:
                self.waiting.remove(mine)
            return waits

    def pass_on(self) -> None:
        """One's turn is over."""
        with self.lock:
            if self.waiting:
                self.waiting.popleft().release()
            else:
                self.taken = False


@contextlib.contextmanager
def transaction(conn: Connection) -> Iterator[Connection]:
    """One write transaction: begin immediate, commit, or roll back on any error.

    The threads of a process wait for each other here: SQLite would have each sleep, and ask again, for ever longer times.
    Raises apsw.BusyError where another thread, and then where another process, writes for BUSY_MS; RuntimeError inside
    another transaction.
    """
    if conn.in_transaction:
        raise RuntimeError("A transaction is under way in this thread.")
    turns = _turns.setdefault(conn.filename, Turns())
    if not turns.take(BUSY_MS / 1000):
        raise apsw.BusyError("another thread writes")
    try:
        conn.execute("begin immediate")
        try:
            yield conn
            conn.execute("commit")
        except BaseException:
            if conn.in_transaction:
                conn.execute("rollback")
            raise
    finally:
        turns.pass_on()


def tick(conn: Connection, rows: int = 1) -> int:
    """Advance the counter by `rows` and return the first of the numbers reserved. Call it inside a transaction."""
    (seq,) = conn.execute("update rowcast set seq = seq + ? returning seq", (rows,)).fetchone()
    return int(seq) - rows + 1


def back_up(path: str, target: str) -> int:
    """Copy the database to a new file while it is in use (SQLite's online backup); returns the copy's size in bytes.

    The copy has its name once it is whole. Raises FileExistsError, OSError, apsw.Error.
    """
    part = Path(f"{target}.{os.getpid()}.part")
    _refuse_existing(target)
    try:
        copy = apsw.Connection(str(part))
        try:
            with copy.backup("main", connection(path), "main") as backup:
                backup.step(-1)  # in one step: between two, each write to the source would start the copy anew
            copy.execute("pragma journal_mode = delete")
        finally:
            copy.close()
        _refuse_existing(target)
        return part.rename(target).stat().st_size
    except apsw.FullError as error:
        raise OSError(f"there is no room for {target}") from error
    finally:
        for left in (part, Path(f"{part}-journal")):
            left.unlink(missing_ok=True)


def _refuse_existing(target: str) -> None:
    if Path(target).exists():
        raise FileExistsError(f"{target} is there already.")


def current_seq(conn: Connection) -> int:
    """The counter's value: the seq of the newest change."""
    return int(conn.execute("select seq from rowcast").fetchone()[0])


def _reason(error: Exception) -> str:
    if isinstance(error, apsw.NotADBError):
        return "it is not a SQLite database"
    if isinstance(error, apsw.CantOpenError):
        return "the file cannot be opened or created there"
    if isinstance(error, apsw.ReadOnlyError):
        return "it cannot be written"
    if isinstance(error, apsw.FullError):
        return "the disk is full"
    if isinstance(error, apsw.CorruptError):
        return "it is damaged; restore a backup (`rowcast backup` makes them)"
    return str(getattr(error, "strerror", None) or error).rstrip(".")
