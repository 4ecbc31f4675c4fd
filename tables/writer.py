"""The writer: one thread of a process that writes what was asked of it meanwhile, all in one transaction.

The way to the disk is most of a small transaction, and SQLite has one writer. So those who come in the same
moment share one (group commit), as many as write some rows together, and each is answered once that is
committed: who writes few waits behind no more than one who writes many. What one of them did is rolled
back by itself where it fails. Where SQLite rolls back all (the disk is full), or the commit fails, each is
done again, alone.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rowcast.tables.database import Connection, OnDatabase, close_databases, together
from rowcast.tasks.work import CHUNK

GATHER = 0.001  # seconds that the first who comes waits for others,
APART = 0.01  # and between the beginnings of two groups where several come at once
MOST = 100  # who are written together, of CHUNK rows at most
IDLE = 30.0  # seconds without work after which the thread ends
Many = Callable[[list[Any]], list[Any]]  # of the arguments of each what it gives for them, or its error


@dataclass
class Asked:
    """What is to be done in the transaction, and whom to tell what came of it."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    done: "asyncio.Future[Any] | Future[Any]"
    rows: int  # that it writes, more or less
    loop: asyncio.AbstractEventLoop | None = None
    many: Many | None = None  # what does the function for several at once
    found: Any = None
    error: BaseException | None = None

    def do(self) -> None:
        try:
            self.found = self.function(*self.args)
            self.error = None
        except BaseException as error:  # it is for who has asked: the writer goes on
            self.found = None
            self.error = error

    def tell(self) -> None:
        """Say what came of it to who has not gone meanwhile."""
        if self.done.cancelled() or self.done.done():
            return
        if self.error is None:
            self.done.set_result(self.found)
        else:
            self.done.set_exception(self.error)


def do_all(alike: list[Asked]) -> None:
    """Do what several have asked of one function that does it for all of them."""
    many = alike[0].many
    if len(alike) == 1 or many is None:
        for one in alike:
            one.do()
        return
    try:
        found = many([one.args for one in alike])
    except BaseException as error:  # as Asked.do
        found = [error] * len(alike)
    for one, came in zip(alike, found, strict=True):
        one.error = came if isinstance(came, BaseException) else None
        one.found = came if one.error is None else None


def tell_all(told: list[Asked]) -> None:
    for one in told:
        one.tell()


class Writer(OnDatabase):
    """The writer of one database file in this process.

    It does functions whose writing is in `transaction`s, so that they may be done again from the start.
    """

    def __init__(self, path: str):
        super().__init__(path)
        self.changed = threading.Condition()
        self.waiting: deque[Asked] = deque()
        self.thread: threading.Thread | None = None

    async def do(
        self, function: Callable[..., Any], *args: Any, rows: int = 1, many: Many | None = None
    ) -> Any:
        """Do it, and give what it gives once that is on the disk. It writes so many rows, more or less; where
        several come in the same moment, `many` does it for all of them."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._put(Asked(function, args, done, rows, loop, many))
        return await done

    def wait(self, function: Callable[..., Any], *args: Any, rows: int = 1) -> Any:
        """The same for a thread without an event loop."""
        done: Future[Any] = Future()
        self._put(Asked(function, args, done, rows))
        return done.result()

    def _put(self, asked: Asked) -> None:
        with self.changed:
            self.waiting.append(asked)
            if self.thread is None or not self.thread.is_alive():  # it is idle, or was not forked with us
                self.thread = threading.Thread(target=self._serve, name="writer", daemon=True)
                self.thread.start()
            elif len(self.waiting) == 1:
                self.changed.notify()

    def _serve(self) -> None:
        due = 0.0  # time.monotonic
        while self._has_work():
            time.sleep(max(GATHER, due - time.monotonic()))
            began = time.monotonic()
            with self.changed:
                group = self._take()
            due = began + APART if len(group) > 1 else 0.0
            self._write(group)
            by_loop: dict[asyncio.AbstractEventLoop | None, list[Asked]] = {}
            for asked in group:
                by_loop.setdefault(asked.loop, []).append(asked)
            for loop, told in by_loop.items():
                if loop is None:
                    tell_all(told)
                    continue
                with suppress(RuntimeError):  # the loop has ended, and nobody waits
                    loop.call_soon_threadsafe(tell_all, told)

    def _take(self) -> list[Asked]:
        """Who is written next: the first who waits, and of the others, as they came, those that fit."""
        taken: list[Asked] = []
        left: deque[Asked] = deque()
        rows = 0
        for one in self.waiting:
            fits = not taken or (len(taken) < MOST and rows + one.rows <= CHUNK)
            (taken if fits else left).append(one)
            rows += one.rows * fits
        self.waiting = left
        return taken

    def _has_work(self) -> bool:
        """Wait for work; False where none came for long, and this thread is to end."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting, IDLE)
            if self.waiting:
                return True
            self.thread = None
        close_databases()
        return False

    def _write(self, group: list[Asked]) -> None:
        """Do all of them in one transaction; where that comes to nothing, each in one of its own."""
        try:
            conn = self.conn
        except Exception as error:
            for asked in group:
                asked.error = error
            return
        if not write_together(conn, group, careful=len(group) > 1):
            for asked in group:
                write_together(conn, [asked], careful=True)


def write_together(conn: Connection, group: list[Asked], careful: bool) -> bool:
    """Do them in one transaction, `careful` as `together` is. False where nothing is written of any of
    them.
    """
    try:
        with together(conn, careful) as gathered:
            kinds: dict[Any, list[Asked]] = {}
            for asked in group:
                kinds.setdefault(asked.many or id(asked), []).append(asked)
            for alike in kinds.values():
                do_all(alike)
                gathered.look()
                if gathered.lost:  # whatever they gave
                    for asked in group:
                        asked.error = asked.error or gathered.error
                    return False
    except Exception as error:
        group[0].error = error
        return False
    return True
