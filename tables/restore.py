"""Restore: put a backup in the place of the database, and notice one that was put there by hand.

SQLite ties a write-ahead log to its database by the name alone: a backup that is copied to where a database
crashed would be mixed with the log that the crash has left, damaged, or silently undone.
"""

import fcntl
import os
from pathlib import Path
from typing import IO

import apsw
import msgspec

from rowcast.tables.database import (
    DatabaseRefused,
    database_in_use,
    demand_own_log,
    fill_from,
    read_again,
    reason_of,
    sync_folder,
)
from rowcast.tables.own_file import unmeasured
from rowcast.tables.schema import SCHEMA, own_keys


class Restored(msgspec.Struct, frozen=True):
    """What a restore has done: the size of the database, and where what was there is kept ('': nothing)."""

    size: int
    kept: str


def restore(path: str, file: str) -> Restored:
    """Put a copy of the backup `file` in the place of the database, and what is there aside, log and all.

    Raises DatabaseRefused where something uses the database, or the file is no whole backup of Rowcast's.
    """
    if not Path(file).is_file():
        raise DatabaseRefused(f"There is no file {file}.")
    if Path(path).exists() and Path(path).samefile(file):
        raise DatabaseRefused(f"{file} is the database itself: give the name of a backup.")
    _demand_whole(file)
    Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{path}.engine").open("a+b") as lock:
        _demand_rest(path, lock)
        part = Path(f"{path}.{os.getpid()}.part")
        try:
            fill_from(str(part), file)
            _make_own(str(part), _counter_of(path))
            kept = _put_aside(Path(path))
            part.rename(path)
            sync_folder(Path(path))
        except (OSError, apsw.Error) as error:
            raise DatabaseRefused(f"The backup could not be put in place: {reason_of(error)}.") from error
        finally:
            part.unlink(missing_ok=True)
    return Restored(Path(path).stat().st_size, kept)


def _demand_whole(file: str) -> None:
    demand_own_log(file)
    try:
        conn = apsw.Connection(file, flags=apsw.SQLITE_OPEN_READONLY)
        try:
            schema = int(str(conn.execute("select schema from rowcast").fetchall()[0][0]))
            whole = conn.execute("pragma integrity_check(1)").fetchall() == [("ok",)]
        finally:
            conn.close()
    except (apsw.Error, IndexError, ValueError) as error:
        raise DatabaseRefused(f"{file} is no backup of a Rowcast database: {reason_of(error)}.") from error
    if schema > SCHEMA:
        raise DatabaseRefused(
            f"{file} was written by a newer Rowcast (schema {schema}, this one knows {SCHEMA})."
        )
    if not whole:
        raise DatabaseRefused(f"{file} is damaged: take an older backup.")


def _demand_rest(path: str, lock: IO[bytes]) -> None:
    """Raises DatabaseRefused where a Rowcast, or anything else, has the database open."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        in_use = database_in_use(path)
    except BlockingIOError:
        in_use = True
    if in_use:
        raise DatabaseRefused(f"The database {path} is in use: stop Rowcast first.")


def _counter_of(path: str) -> int:
    """The counter of what is there, which pages and programs may have seen; 0 where it cannot be read."""
    try:
        conn = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return int(str(conn.execute("select seq from rowcast").fetchall()[0][0]))
        finally:
            conn.close()
    except (apsw.Error, IndexError, ValueError):
        return 0


def _make_own(path: str, counter: int) -> None:
    """What was numbered since the backup was made is lost: its Idempotency-Keys are known to the API, and its
    numbers to pages and programs, which read again."""
    with unmeasured():
        conn = apsw.Connection(path)
    try:
        conn.execute("begin immediate")
        own_keys(conn, path)
        conn.execute("update rowcast set seq = max(seq, ?)", (counter,))
        read_again(conn)
        conn.execute("commit")
    finally:
        conn.close()


def _put_aside(path: Path) -> str:
    """Move the database away with its log, which holds its newest changes; returns its name."""
    log = Path(f"{path}-wal")
    if not path.exists() and not log.exists():
        return ""
    number = 1
    kept = Path(f"{path}.before-restore")
    while kept.exists():
        number += 1
        kept = Path(f"{path}.before-restore-{number}")
    for ending in ("-wal", ""):  # the log first: whoever is broken off here finds no log beside the backup
        if Path(f"{path}{ending}").exists():
            Path(f"{path}{ending}").rename(f"{kept}{ending}")
    Path(f"{path}-shm").unlink(missing_ok=True)
    return str(kept)
