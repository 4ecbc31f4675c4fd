"""Health: what is wrong with the database while it is in use, one sentence, looked for again and again.

Whoever deletes the file, puts another in its place, fills the disk or damages a page does not say so: a
process that has it open goes on reading what was. A thread looks every few seconds as somebody would who
comes new, and writes; the sentence is on every page, and in /healthz.
"""

import contextlib
import logging
import shutil
import threading
import time
from pathlib import Path

import apsw

from rowcast.tables.database import (
    BUSY_MS,
    Connection,
    DatabaseGone,
    DatabaseRefused,
    OnDatabase,
    current_seq,
    demand_kept,
    demand_same,
    keep_reserve,
    read_only,
    reason_of,
    transaction,
)
from rowcast.tasks.clock import now
from rowcast.tasks.sentences import worded

log = logging.getLogger("rowcast")
LOOK = 2.0  # seconds between two looks
LATE = (
    LOOK + 2 * BUSY_MS / 1000 + 5.0
)  # seconds after which the thread that looks is stuck: it waits for two locks at most
LEAST_ROOM = 1_000_000  # bytes that must be free: SQLite needs some for its log, whatever is written
CHECKED = (
    64_000_000  # bytes of a file whose every page is read again and again; of a larger one by the doctor
)
PASSING = (apsw.FullError, apsw.BusyError)  # what was read is true all the same
LOST = (DatabaseGone, apsw.CorruptError, apsw.NotADBError)
PART = 100  # of all the time, reading every page may take one part in so many


class Health(OnDatabase):
    """The health of one database file: `trouble`, empty for none; `lost` where nothing true can be read."""

    def __init__(self, path: str):
        super().__init__(path)
        self.trouble = ""
        self.lost = False
        self.met = 0  # how often something was wrong
        self.workers = ""  # what holds up one of those that live, in a sentence
        self.looked_at = time.monotonic()
        self.check_at = 0.0  # when every page is read again, by time.monotonic
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        self.ended.clear()
        self.looked_at = time.monotonic()
        self.thread = threading.Thread(target=self._look_on, name="health", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.ended.set()
        self.thread = None

    @property
    def stuck(self) -> bool:
        """Whether the thread has not come back from a look, or has ended."""
        return self.thread is not None and time.monotonic() > self.looked_at + LATE

    def seq(self) -> int:
        """The counter, of the file that is there now. Raises apsw.Error, DatabaseRefused."""
        demand_same(self.path)
        return current_seq(self.conn)

    def _look_on(self) -> None:
        while True:
            self.look()
            if self.ended.wait(LOOK):
                break

    def look(self) -> None:
        """Look the database over; an error of any kind is what is wrong with it."""
        reading = True
        met = self.met
        try:
            demand_same(self.path)
            demand_kept(self.conn)
            self._read()
            self.workers = trouble_of_workers(self.conn)
            reading = False
            self._write()
            if self.met == met:  # else somebody has met with something since this look began
                self._note("", False)
        except Exception as error:
            self.meet(error, reading)
        self.looked_at = time.monotonic()

    def meet(self, error: Exception, reading: bool = True) -> None:
        """Somebody met with this when reading or writing."""
        self.met += 1
        why = error.__cause__ if isinstance(error, DatabaseRefused) and error.__cause__ else error
        lost = isinstance(why, LOST) or (reading and not isinstance(why, PASSING))
        self._note(self._sentence(why, reading), lost)

    def _note(self, trouble: str, lost: bool) -> None:
        before = self.trouble
        self.trouble = trouble
        self.lost = lost
        if trouble and trouble != before:
            log.error("%s", trouble)
        elif before and not trouble:
            log.warning("The database %s is well again.", self.path)

    def _sentence(self, error: BaseException, reading: bool) -> str:
        if isinstance(error, DatabaseRefused):
            return str(error)
        if isinstance(error, apsw.FullError):
            return worded(
                f"The disk is full: what is to be written to {self.path} waits until there is room."
            )
        if isinstance(error, apsw.BusyError):
            return worded(f"The database {self.path} waits: another program holds it.")
        reason = reason_of(error, self.path)
        return worded(f"The database {self.path} cannot be {'read' if reading else 'written'}: {reason}.")

    def _read(self) -> None:
        """As one who comes new: pages that this process has in memory prove nothing."""
        conn = apsw.Connection(self.path, flags=apsw.SQLITE_OPEN_READONLY)
        try:
            conn.set_busy_timeout(BUSY_MS)
            conn.execute("select seq from rowcast").fetchone()
            if time.monotonic() > self.check_at and Path(self.path).stat().st_size <= CHECKED:
                began = time.monotonic()
                if conn.execute("pragma integrity_check(1)").fetchall() != [("ok",)]:
                    raise apsw.CorruptError
                self.check_at = time.monotonic() + PART * (time.monotonic() - began)
        finally:
            conn.close()

    def _write(self) -> None:
        """Raises what keeps the database from being written."""
        folder = Path(self.path).absolute().parent
        if read_only(self.path):
            raise apsw.ReadOnlyError
        if shutil.disk_usage(folder).free < LEAST_ROOM:
            raise apsw.FullError
        with transaction(self.conn) as conn:
            conn.execute("update rowcast set seq = seq")
        with contextlib.suppress(OSError):
            keep_reserve(self.path)


def trouble_of_workers(conn: Connection) -> str:
    """What one of the workers says that holds it up; of those on a queue, which one."""
    found = conn.execute(
        """select iif(engine = 'background', trouble, 'Worker ' || id || ': ' || trouble) from workers
           where trouble <> '' and lease > ? order by id""",
        (now(),),
    ).fetchone()
    return str(found[0]) if found else ""
