"""The schema: the tables, how a file becomes Rowcast's, and which files it refuses."""

import contextlib
from pathlib import Path

import apsw

from rowcast.tables.database import BUSY_MS, Connection, DatabaseRefused, back_up, connection, reason_of, transaction

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
        raise DatabaseRefused(f"Cannot use the database {path}: {reason_of(error)}.") from error


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
