"""The database: one SQLite file, opened once per thread.

Owns how a connection is opened (fastlite over apsw, WAL, synchronous FULL, a busy timeout, what is temporary
in memory), the numbered migrations, and the counter `seq`. Every write of Rowcast runs inside `transaction`,
which takes SQLite's one writer lock at once (`begin immediate`), so the order of `seq` is the order of
commits and "the rows whose seq is greater than mine" can miss nothing. The table `rowcast` marks a file as
ours; a file with other tables and no `users` is somebody else's and is left alone.
"""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
from fastlite import database

from rowcast.tables.own_file import File, hold, let_go, unmeasured, was_forked
from rowcast.tables.turns import Turns, patience
from rowcast.tasks import clock

BUSY_MS = 10_000
RESERVE = (
    5_000_000  # bytes: of as many SQLite lets its log be, before it writes what is in it to the database
)
# An apsw.Connection; its own types say of every value that it may be any of SQLite's.
Connection = Any
_local = threading.local()
_turns: dict[str, Turns] = {}  # whose it is to write, by database
_files: dict[str, File] = {}  # the file that this process has opened, by the database's path
_forsaken: list[Any] = []  # the connections of before a fork


class DatabaseRefused(Exception):
    """The file cannot be Rowcast's database; the message is one sentence for a person."""


class DatabaseGone(DatabaseRefused):
    """The file that was opened is not what is there any more: what would be written would go nowhere."""


def open_database(path: str) -> Any:
    """This thread's connection to the database file `path`: a fastlite Database, opened on first use."""
    opened = _local.__dict__.setdefault("opened", {})
    if path not in opened:
        opened[path] = _open(path)
    return opened[path]


def close_databases() -> None:
    """Close this thread's connections."""
    opened = _local.__dict__.pop("opened", {})
    kept = _local.__dict__.pop("kept", {})
    for db in opened.values():
        _, file, *_ = kept.get(db.conn.filename, (None, None))
        db.conn.close()
        if file:
            let_go(file)


def _begin_forked() -> None:
    """In a forked process: the thread that had a turn is not there, and a connection may not be carried over,
    nor closed here (sqlite.org/howtocorrupt.html, 2.6).
    """
    _turns.clear()
    _forsaken.append(dict(_local.__dict__))
    _local.__dict__.clear()


os.register_at_fork(after_in_child=_begin_forked)


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


def create(path: str) -> None:
    """See to it that there is a file to open, be it an empty one; from now on this process knows it.

    Nothing else makes one, so that a database which is gone is missed. Raises DatabaseRefused.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # not opened where it is there: to close it would drop all locks of this process on it (fcntl(2))
        with contextlib.suppress(FileExistsError):
            Path(path).open("xb").close()
            _lay_out(path)
    except (OSError, apsw.Error) as error:
        raise DatabaseRefused(f"Cannot open the database {path}: {reason_of(error, path)}.") from error
    if not _local.__dict__.get("opened", {}).get(path):
        _files.pop(path_of(path), None)


def _lay_out(path: str) -> None:
    """A new file can give back the room of what is deleted, which has to be said before anything is in it."""
    conn = apsw.Connection(path)
    try:
        conn.execute("pragma auto_vacuum = incremental")
        conn.execute("vacuum")  # else it would be forgotten with this connection
    finally:
        conn.close()


def file_at(path: Path) -> File | None:
    """Which file has this name now; None for none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _open(path: str) -> Any:
    demand_same(path)
    if was_forked(path):
        raise DatabaseRefused(
            f"The database {path} cannot be opened in a process that was forked from one that has it open:"
            " start the process by 'spawn' (multiprocessing.get_context)."
        )
    try:
        with unmeasured():
            db = _patiently(lambda: database(path, flags=apsw.SQLITE_OPEN_READWRITE))
    except (OSError, apsw.Error) as error:
        raise DatabaseRefused(f"Cannot open the database {path}: {reason_of(error, path)}.") from error
    try:
        db.conn.authorizer = None  # it has seen to that
        db.conn.set_busy_handler(patience(lambda: BUSY_MS / 1000))
        db.conn.execute("pragma synchronous = full")
        # what an update changes is listed first: in a file, by default
        db.conn.execute("pragma temp_store = memory")
        follow_clock(db.conn)  # from now on there is a write-ahead log
        file = Path(db.conn.filename)
        log = Path(f"{db.conn.filename}-wal")
        known = _files.setdefault(path_of(path), file_at(file) or (0, 0))
        _local.__dict__.setdefault("kept", {})[db.conn.filename] = (file, known, log, file_at(log))
        hold(known)
        return db
    except apsw.Error as error:
        db.conn.close()
        raise DatabaseRefused(f"Cannot open the database {path}: {reason_of(error, path)}.") from error


def path_of(path: str) -> str:
    """The one name of a file that has several."""
    return str(Path(path).resolve())


def demand_same(path: str) -> None:
    """Raises DatabaseGone where there is no such file, or not the one that this process has opened before."""
    there = file_at(Path(path))
    if there is None:
        where = "was deleted" if Path(path).parent.is_dir() else "is gone with its folder"
        raise DatabaseGone(
            f"The database {path} {where}: stop Rowcast, put the file back or restore a backup, and start it."
        )
    if _files.get(path_of(path), there) != there:
        raise DatabaseGone(
            f"The database {path} was replaced by another file: start Rowcast again, and it uses that one."
        )


def demand_kept(conn: Connection) -> None:
    """Raises DatabaseGone where the database or its write-ahead log is not what this connection writes to."""
    kept = _local.__dict__.get("kept", {}).get(conn.filename)
    if kept is None:
        return
    file, known, log, its_log = kept
    if file_at(file) != known:
        demand_same(conn.filename)
    if its_log is not None and file_at(log) != its_log:
        raise DatabaseGone(
            f"Another program has deleted {log}, where the newest changes are: stop Rowcast, then"
            " `rowcast doctor`."
        )


def _patiently(open_it: Callable[[], Any]) -> Any:
    """fastlite's own pragmas wait a tenth of a second for a lock; a database in use may need longer."""
    give_up = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            return open_it()
        except apsw.BusyError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)


@dataclass
class Gathered:
    """What a thread writes `together`: its connection, and how far that is."""

    conn: Connection
    careful: bool = True  # where one of them fails, that one alone is rolled back
    turns: Turns | None = None  # once it is our turn to write
    inside: bool = False  # one of the transactions is under way
    lost: bool = False  # SQLite has rolled back all of them: the disk is full, say
    error: BaseException | None = None  # why none of them can begin

    def look(self) -> None:
        """See whether SQLite has rolled back what was written, as it also may where something is only
        read."""
        if self.turns and not self.lost and not self.conn.in_transaction:
            self.lost = True
            self.error = apsw.FullError("SQLite has rolled back what was written together")


@contextlib.contextmanager
def transaction(conn: Connection) -> Iterator[Connection]:
    """One write transaction: begin immediate, commit, or roll back on any error.

    The threads of a process wait for each other here: SQLite would have each sleep, and ask again, for ever
    longer times. Raises apsw.BusyError where another thread, and then where another process, writes for
    BUSY_MS; DatabaseGone where the file is not there any more; RuntimeError inside another transaction, or
    while a look goes on.
    """
    gathered = _local.__dict__.get("gathered")
    if gathered is not None and gathered.conn is conn:
        with _one_of(gathered):
            yield conn
        return
    if conn.in_transaction:
        raise RuntimeError("A transaction is under way in this thread.")
    turns = _begin(conn)
    try:
        yield conn
        conn.execute("commit")
    except BaseException:  # Ctrl-C too leaves no transaction open
        if conn.in_transaction:
            conn.execute("rollback")
        raise
    finally:
        turns.pass_on()


def _begin(conn: Connection) -> Turns:
    """Begin to write; whose turn it is passes on once that is over."""
    _demand_no_look(conn)
    turns = _turns.setdefault(conn.filename, Turns())
    if not turns.take(BUSY_MS / 1000):
        raise apsw.BusyError("another thread writes")
    try:
        demand_kept(conn)
        conn.execute("begin immediate")
        follow_clock(conn)
        return turns
    except BaseException:  # Ctrl-C too leaves no turn taken
        if conn.in_transaction:
            conn.execute("rollback")
        turns.pass_on()
        raise


def _demand_no_look(conn: Connection) -> None:
    """A look that was not read to its end, by `fetchone` say, keeps what it has seen: after that SQLite lets
    nobody write while somebody else does, or once they have, and waits for nothing (SQLITE_BUSY_SNAPSHOT).
    That would come once in thousands of times, so it is an error each time.
    """
    if conn.txn_state("main"):
        raise RuntimeError("A look goes on in this thread: it is read to its end, or let go, before a write.")


@contextlib.contextmanager
def together(conn: Connection, careful: bool = True) -> Iterator[Gathered]:
    """Make one of all transactions of this thread in here: it begins with the first, and is committed at the
    end. One that fails is rolled back alone, unless SQLite rolls back all: then they are `lost`. So they are
    in any case where this is not `careful`, which spares a copy of each page that is written (a savepoint).
    """
    if conn.in_transaction:
        raise RuntimeError("A transaction is under way in this thread.")
    gathered = _local.gathered = Gathered(conn, careful)
    try:
        yield gathered
        if conn.in_transaction:
            conn.execute("commit")
    finally:
        _local.gathered = None
        if conn.in_transaction:
            conn.execute("rollback")
        if gathered.turns:
            gathered.turns.pass_on()


@contextlib.contextmanager
def _one_of(gathered: Gathered) -> Iterator[None]:
    """One transaction of those that are written together."""
    conn = gathered.conn
    if gathered.inside:
        raise RuntimeError("A transaction is under way in this thread.")
    gathered.look()
    if gathered.error:
        raise gathered.error
    if gathered.turns is None:
        try:
            gathered.turns = _begin(conn)
        except Exception as error:  # the others need not wait for as long
            gathered.error = error
            raise
    if gathered.careful:
        conn.execute("savepoint one")
    gathered.inside = True
    try:
        yield
        if gathered.careful:
            conn.execute("release one")
    except BaseException as error:  # what was done for this one alone is undone
        if conn.in_transaction and not gathered.careful:
            conn.execute("rollback")
        if conn.in_transaction:
            conn.execute("rollback to one")
            conn.execute("release one")
        else:  # what is written from here on would be by itself, and is done again
            gathered.lost = True
            gathered.error = error
        raise
    finally:
        gathered.inside = False


def tick(conn: Connection, rows: int = 1) -> int:
    """Advance the counter by `rows` and return the first of the numbers reserved.

    Call it inside a transaction.
    """
    (seq,) = conn.execute("update rowcast set seq = seq + ? returning seq", (rows,)).fetchone()
    return int(seq) - rows + 1


def read_again(conn: Connection) -> None:
    """Have whoever shows jobs read them again: some are no more, or are seen by others than before. It moves
    the counter; no row of a job says so.
    """
    conn.execute("update rowcast set pruned_seq = ?", (tick(conn),))


def back_up(path: str, target: str) -> int:
    """Copy the database to a new file while it is in use (SQLite's online backup); returns the copy's size in
    bytes.

    The copy has its name once it is whole. Raises FileExistsError, OSError, apsw.Error.
    """
    part = Path(f"{target}.{os.getpid()}.part")
    _refuse_existing(target)
    try:
        _copy(connection(path), str(part))
        _refuse_existing(target)
        part.rename(target)
        sync_folder(Path(target))
        return Path(target).stat().st_size
    except apsw.FullError as error:
        raise OSError(f"there is no room for {target}") from error
    finally:
        for left in (part, Path(f"{part}-journal")):
            left.unlink(missing_ok=True)


def fill_from(target: str, source: str) -> None:
    """Copy a database that nobody writes to a new file. Raises apsw.Error."""
    conn = apsw.Connection(source, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        _copy(conn, target)
    finally:
        conn.close()


def _copy(conn: Connection, target: str) -> None:
    """A copy, with a journal that is deleted: so it says that it has no write-ahead log (demand_own_log)."""
    copy = apsw.Connection(target)
    try:
        with copy.backup("main", conn, "main") as backup:
            backup.step(-1)  # in one step: between two, each write to the source would start the copy anew
        copy.execute("pragma journal_mode = delete")
    finally:
        copy.close()


def _refuse_existing(target: str) -> None:
    if Path(target).exists():
        raise FileExistsError(f"{target} is there already.")


def sync_folder(file: Path) -> None:
    """See to it that a file's name is on the disk (fsync(2))."""
    folder = os.open(file.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


JOURNAL_AT = 18  # where a file says how it is written: two bytes, 1 with a rollback journal, 2 with a WAL
ROLLBACK = b"\1\1"  # (https://www.sqlite.org/fileformat.html, 1.3)


def has_left_log(path: str) -> bool:
    """Whether there is a write-ahead log that this process has not made: of a crash, or of others who run.

    What this process has open is not looked at: to open it once more and close it would drop its locks.
    """
    log = Path(f"{path}-wal")
    return path_of(path) not in _files and log.exists() and log.stat().st_size > 0


def demand_own_log(path: str) -> None:
    """Raises DatabaseRefused for a backup beside the write-ahead log of another database.

    A database that Rowcast has opened says that it has such a log, a backup that it has none.
    """
    log = Path(f"{path}-wal")
    if not has_left_log(path):
        return
    with Path(path).open("rb") as file:
        file.seek(JOURNAL_AT)
        if file.read(2) == ROLLBACK:
            raise DatabaseRefused(
                f"{path} is a backup, and {log} beside it belongs to another database: they were not mixed."
                " Move that file away, and next time use `rowcast restore`."
            )


def reserve_of(path: str) -> Path:
    """The file that keeps room for a prune on a full disk."""
    return Path(f"{path}.reserve")


def keep_reserve(path: str) -> None:
    """Take the room that a prune needs on a disk that is full, while it is not. Raises OSError."""
    reserve = reserve_of(path)
    if not reserve.exists() and shutil.disk_usage(reserve.absolute().parent).free > 4 * RESERVE:
        reserve.write_bytes(bytes(RESERVE))


def database_in_use(path: str) -> bool:
    """Whether a connection of any process is open on the database; it stays as it is."""
    if not Path(path).exists():
        return False
    try:
        demand_own_log(path)
        with unmeasured():
            conn = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
    except (DatabaseRefused, apsw.Error):
        return False
    try:
        conn.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        conn.execute("pragma locking_mode = exclusive")
        conn.execute("begin exclusive")
        conn.execute("rollback")
        return False
    except apsw.BusyError:
        return True
    except apsw.Error:
        return False
    finally:
        conn.close()


def current_seq(conn: Connection) -> int:
    """The counter's value: the seq of the newest change. Whoever follows it follows the database's clock."""
    seq, start, booted = conn.execute("select seq, clock, boot from rowcast").fetchone()
    if booted == clock.BOOT:
        clock.follow(start)
    return int(seq)


def follow_clock(conn: Connection) -> None:
    """From now on this process goes by the database's clock, if it has one that holds on this machine."""
    columns = {name for (name,) in conn.execute("select name from pragma_table_info('rowcast')")}
    if columns >= {"clock", "boot"}:  # another schema's file may have none
        start, booted = conn.execute("select clock, boot from rowcast").fetchone()
        if booted == clock.BOOT:
            clock.follow(start)


def read_only(path: str) -> str:
    """Which of a database's files may only be read, or their folder; '' for none."""
    files = [Path(path).parent, *(Path(f"{path}{end}") for end in ("", "-wal", "-shm"))]
    return next((str(file) for file in files if file.exists() and not os.access(file, os.W_OK)), "")


def reason_of(error: BaseException, path: str = "") -> str:
    """What SQLite complains of, for a person; `path`: of which database."""
    if isinstance(error, apsw.NotADBError):
        return "it is not a SQLite database"
    if isinstance(error, apsw.CantOpenError):
        return "the file cannot be opened or created there"
    if isinstance(error, apsw.ReadOnlyError):
        return f"{(path and read_only(path)) or 'it'} is read-only"
    if isinstance(error, apsw.FullError):
        return "the disk is full"
    if isinstance(error, apsw.BusyError):
        return "another program holds it"
    if isinstance(error, apsw.CorruptError):
        return "it is damaged; restore a backup (`rowcast backup` makes them)"
    return str(getattr(error, "strerror", None) or error).rstrip(".")
