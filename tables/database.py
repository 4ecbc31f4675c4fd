"""The database: one SQLite file, opened once per thread.

Owns how a connection is opened (fastlite over apsw, WAL, synchronous FULL, a busy timeout, what is temporary
in memory), the numbered migrations, and the counter `seq`. Every write of Rowcast runs inside `transaction`,
which takes SQLite's one writer lock at once (`begin immediate`), so the order of `seq` is the order of
commits and "the rows whose seq is greater than mine" can miss nothing. The table `rowcast` marks a file as
ours; a file with other tables and no `users` is somebody else's and is left alone.
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


class DatabaseRefused(Exception):
    """The file cannot be Rowcast's database; the message is one sentence for a person."""


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
        raise DatabaseRefused(f"Cannot open the database {path}: {reason_of(error)}.") from error
    try:
        db.conn.set_busy_timeout(BUSY_MS)
        db.conn.execute("pragma synchronous = full")
        # what an update changes is listed first: in a file, by default
        db.conn.execute("pragma temp_store = memory")
        return db
    except apsw.Error as error:
        db.conn.close()
        raise DatabaseRefused(f"Cannot open the database {path}: {reason_of(error)}.") from error


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


class Turns:
    """Who may write, one thread after the other in the order in which they came.

    A lock of Python's is had again by the thread that lets it go: what fills a job would keep its runners
    waiting until all is written.
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

    The threads of a process wait for each other here: SQLite would have each sleep, and ask again, for ever
    longer times. Raises apsw.BusyError where another thread, and then where another process, writes for
    BUSY_MS; RuntimeError inside another transaction.
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
    """Advance the counter by `rows` and return the first of the numbers reserved.

    Call it inside a transaction.
    """
    (seq,) = conn.execute("update rowcast set seq = seq + ? returning seq", (rows,)).fetchone()
    return int(seq) - rows + 1


def back_up(path: str, target: str) -> int:
    """Copy the database to a new file while it is in use (SQLite's online backup); returns the copy's size in
    bytes.

    The copy has its name once it is whole. Raises FileExistsError, OSError, apsw.Error.
    """
    part = Path(f"{target}.{os.getpid()}.part")
    _refuse_existing(target)
    try:
        copy = apsw.Connection(str(part))
        try:
            with copy.backup("main", connection(path), "main") as backup:
                # in one step: between two, each write to the source would start the copy anew
                backup.step(-1)
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


def reason_of(error: Exception) -> str:
    """What SQLite complains of, for a person."""
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
