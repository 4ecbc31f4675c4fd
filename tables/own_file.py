"""Rowcast's own file: in a process that has it open, nothing else opens it.

SQLite locks a file by fcntl(2), whose locks are the process's: whoever closes the file, in the same process,
drops them all (sqlite.org/howtocorrupt.html, 2.2). Two copies of SQLite in one process do that to each other,
Python's `sqlite3` and ours, say, even where one only reads, or attaches it; so does `open`, of the file or of
the `-shm` beside it. The write-ahead log is then deleted under who writes to it. Python says beforehand what
is to be opened (PEP 578), and here it is refused. Other processes may open the file as they like.
"""

import contextlib
import functools
import importlib
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import apsw

log = logging.getLogger("rowcast")
File = tuple[int, int]  # which file it is, whatever its name: device and inode (stat(2))
OPENS = ("sqlite3.connect", "open")  # what Python says, and the path with it
LOCKS = "-shm"  # of a database with a write-ahead log, as its name ends (sqlite.org/walformat.html, 2)
ATTACH = 24  # as SQLite numbers them
ALLOWED = 0
DENIED = 1
ATTACHED = (
    "Rowcast's own file may not be attached where Rowcast has it open; any other may, with its name as text"
    " in the statement."
)
_held: Counter[File] = Counter()  # connections of this process, by their file
_lock = threading.Lock()
_forked: set[File] = set()  # what this process had open when it was forked
_watching = False
_opening = threading.local()  # `unmeasured`: ours


def _begin_forked() -> None:
    """In a forked process: its locks are its own, and SQLite does not know that
    (sqlite.org/howtocorrupt.html, 2.6).
    """
    _forked.update(_held)
    _held.clear()


os.register_at_fork(after_in_child=_begin_forked)


class OpenedTwice(RuntimeError):
    """This process has the file open as Rowcast's: to open it by other means would damage it."""


def hold(file: File) -> None:
    """A connection to this file was opened here."""
    global _watching
    with _lock:
        _held[file] += 1
        if not _watching:
            sys.addaudithook(_refuse)
            _watch_attach()
            _watching = True


def let_go(file: File) -> None:
    """A connection to it was closed."""
    with _lock:
        _held[file] -= 1
        if _held[file] <= 0:
            del _held[file]


def is_held_by_others(path: str) -> bool:
    """Whether this process has the file open, and not by a connection of ours."""
    try:
        found = Path(path).stat()
        opened = [int(one.name) for one in Path("/dev/fd").iterdir()]
    except OSError:
        return False
    file = (found.st_dev, found.st_ino)
    return file not in _held and any(file == file_of(descriptor) for descriptor in opened)


def was_forked(path: str) -> bool:
    """Whether this process was forked from one that has the file open: Rowcast's SQLite takes that one's
    locks for its own.
    """
    return file_of(path) in _forked


def is_held(path: Any) -> bool:
    """Whether it is such a file, or what SQLite keeps its locks in beside it."""
    if file_of(path) in _held:
        return True
    try:
        name = os.fsdecode(path)
    except TypeError:
        return False
    return name.endswith(LOCKS) and file_of(name.removesuffix(LOCKS)) in _held


def named(database: Any) -> Any:
    """The path of a database, which may be named by an address (sqlite.org/uri.html)."""
    is_address = isinstance(database, str) and database.startswith("file:")
    return unquote(urlsplit(database).path) if is_address else database


def file_of(path: Any) -> File | None:
    """Which file a path or a descriptor names; None for none."""
    try:
        found = os.fstat(path) if isinstance(path, int) else Path(os.fsdecode(path)).stat()
    except (OSError, ValueError, TypeError):
        return None
    return found.st_dev, found.st_ino


def _refuse(
    event: str,
    args: tuple[Any, ...],
    opens: tuple[str, ...] = OPENS,
    is_ending: Callable[[], bool] = sys.is_finalizing,
) -> None:
    if event not in opens or is_ending():  # as Python ends, the names of modules, as those below, are none
        return
    if not _held or not args or isinstance(args[0], int):
        return
    if event == "open" and isinstance(args[2], int) and args[2] & os.O_EXCL:
        return  # it opens nothing that is there
    path = args[0] if event == "open" else named(args[0])
    if is_held(path):
        raise OpenedTwice(
            f"{os.fsdecode(path)} is Rowcast's own file, and this process has it open: to open it otherwise"
            " would damage it. Keep tables of your own in a file of your own, which a task may read by"
            " @task(items=rowcast.rows(...))."
        )


def _watch_attach() -> None:
    """Python does not say what is attached: each connection of its `sqlite3` is made to ask."""
    dbapi = importlib.import_module("sqlite3.dbapi2")
    connect = dbapi.connect

    @functools.wraps(connect)
    def connect_asking(*args: Any, **kwargs: Any) -> Any:
        conn = connect(*args, **kwargs)
        conn.set_authorizer(_may)
        return conn

    for module in (dbapi, sys.modules["sqlite3"]):
        setattr(module, connect.__name__, connect_asking)


def _may(action: int, name: str | None, *_: str | None) -> int:
    """Whether a connection may do this: all but attach such a file (sqlite3_set_authorizer).

    A name that is a parameter is not told, and so refused.
    """
    if action != ATTACH or not _held or (name is not None and not is_held(named(name))):
        return ALLOWED
    log.error("%s was not attached. %s", name or "A database whose name is a parameter", ATTACHED)
    return DENIED


# ---- what SQLite counts of it --------------------------------------------------------------------------


@contextlib.contextmanager
def unmeasured() -> Iterator[None]:
    """What this thread opens in here is ours: nothing is counted of its tables.

    apswutils has each new connection count what is in a database (`pragma optimize`), and SQLite then plans
    by the numbers of that moment: where there was one item, it looked through all that came later, for each
    result. Our statements say themselves how they are to be done.
    """
    _opening.unmeasured = True
    try:
        yield
    finally:
        _opening.unmeasured = False


def _refuse_counting(conn: Any) -> None:
    """Before apswutils's own hook, of a connection that is just being opened, by an application of fastlite's
    too."""
    if getattr(_opening, "unmeasured", False) or _is_held(conn.filename):
        conn.authorizer = _counts_nothing


def _is_held(name: str) -> bool:
    """Whether this process has the file open."""
    try:
        found = Path(name).stat()
    except (OSError, ValueError):
        return False
    return bool(name) and (found.st_dev, found.st_ino) in _held


def _counts_nothing(action: int, name: str | None, *_: Any) -> int:
    counts = action == apsw.SQLITE_PRAGMA and name == "optimize"
    return apsw.SQLITE_IGNORE if counts else apsw.SQLITE_OK


apsw.connection_hooks.insert(0, _refuse_counting)
