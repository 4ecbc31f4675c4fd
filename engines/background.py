"""The embedded engine, seen from the dashboard: one child process that runs the jobs, watched and started
again.

`ring` tells the child; that is all. A job at full speed, a task that computes, blocks, leaks or crashes is
in the child and never touches the page. When the child dies, what its tasks had started is ended and what it
held is taken back at once: if it held one item alone, that item is what killed it; if several, they are tried
apart. Nothing that goes wrong ends the watcher; `trouble` is what keeps jobs from running, in a sentence.
"""

import asyncio
import atexit
import contextlib
import fcntl
import logging
import os
import platform
import secrets
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import IO

import msgspec

from rowcast.jobs import Jobs
from rowcast.tables.database import reason_of
from rowcast.tables.ledger import Ledger
from rowcast.tasks.python_path import command
from rowcast.tasks.sentences import worded
from rowcast.tasks.settings import DATABASE, WORKER, Settings, for_messages, for_workers
from rowcast.tasks.trouble import Trouble
from rowcast.tasks.work import LEASE
from rowcast.worker.isolated import UP, died, signal_name
from rowcast.worker.started import end_group, end_strays

log = logging.getLogger("rowcast")
STOP = 2.0  # seconds that the child gets to put things back, beyond the grace of what runs in it
YOUNG = 5.0  # seconds that a child has to live, or its end was no accident
SLOW = 60.0  # seconds after which a child that has not come up is told of: an import may take its time
AGAIN = 5.0  # seconds at most until what did not succeed is tried again
TURN = 0.2  # seconds between two looks whether it is this process's turn
LINE = 300  # letters of what a child said last
FATAL = (
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
)  # what a process does to itself


class Holder(msgspec.Struct):
    """Who has the child of a database: its process, the process of its siblings (0 for none), where
    its jobs post, and what keeps them from running.
    """

    pid: int
    parent: int
    api_url: str
    trouble: str = ""


def read_holder(lock: IO[bytes]) -> Holder | None:
    """What the holder of the lock has written into it."""
    try:
        lock.seek(0)
        return msgspec.json.decode(lock.read(), type=Holder)
    except (OSError, msgspec.DecodeError):
        return None


class Child:
    """One child process: how it is called, since when it lives, and what it said until it was up.

    Its standard error is a pipe until it is up and takes ours: the last line says why it did not come so far.
    """

    def __init__(self, settings: Settings, name: str, api_url: str):
        self.name = name
        self.started_at = time.monotonic()
        self.up = threading.Event()
        self.line = ""
        self.lease = 0.0  # as it was seen last, and when it was first seen so
        self.lease_at = time.monotonic()
        flags = {
            "--database": Path(settings.database).absolute(),
            "--name": name,
            "--api-url": api_url,
            "--tasks": settings.tasks,
            "--engine": settings.engine,
            "--keep-days": settings.keep_days,
            "--keep-jobs": settings.keep_jobs,
            "--keep-background-days": settings.keep_background_days,
            "--keep-tries": settings.keep_tries,
            "--log-format": settings.log_format,
            "--grace": settings.grace,
            "--reload": int(settings.reload),
        }
        try:
            errors = os.dup(2)
        except OSError:  # a daemon may have closed it
            errors = os.open(os.devnull, os.O_WRONLY)
        try:
            self.process = subprocess.Popen(
                [
                    *command("rowcast.engines.child"),
                    *(str(word) for pair in flags.items() for word in pair),
                    "--errors",
                    str(errors),
                ],
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[errors],
                process_group=0,
                env=os.environ
                | for_workers(settings)
                | for_messages(settings)
                | {WORKER: name, DATABASE: str(flags["--database"]), "ROWCAST_ENGINE": settings.engine},
            )
        finally:
            os.close(errors)
        assert self.process.stdin
        os.set_blocking(self.process.stdin.fileno(), False)  # full, it has enough that was not heard yet
        self.reader = threading.Thread(target=self._read, name="errors", daemon=True)
        self.reader.start()

    def _read(self) -> None:
        """Pass on what it says, and remember the last line, until it says UP or has ended."""
        assert self.process.stderr
        said = b""
        with self.process.stderr as errors, contextlib.suppress(OSError, ValueError):
            while piece := os.read(errors.fileno(), 1 << 16):
                if piece.endswith(UP):
                    self.up.set()
                with contextlib.suppress(OSError):
                    os.write(2, piece.removesuffix(UP))
                said = (said + piece)[-4 * LINE :]
                lines = said.decode(errors="replace").split("\n")
                self.line = next((plain(line) for line in reversed(lines) if plain(line)), "")[:LINE]

    @property
    def age(self) -> float:
        return time.monotonic() - self.started_at

    def tell(self, line: bytes) -> None:
        if self.process.stdin:
            with contextlib.suppress(OSError, ValueError):
                self.process.stdin.write(line + b"\n")
                self.process.stdin.flush()

    def hang_up(self) -> None:
        """Also from a signal's handler, which may come in the middle of `tell`: `stop` closes it then."""
        if self.process.stdin:
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                self.process.stdin.close()

    def ended(self) -> str:
        """How it ended, and what it said last."""
        self.reader.join(1)
        code = self.process.returncode or 0
        how = (
            worded(f"killed by {signal_name(-code)}")
            if code < 0
            else worded(f"it ended itself with code {code}")
        )
        return f"{how}: {self.line}" if self.line and not self.up.is_set() else how


def plain(line: str) -> str:
    """A line without what steers a terminal."""
    return "".join(letter for letter in line if letter.isprintable()).strip()


class Engine:
    """Starts, rings, watches and stops the child process."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.name = settings.engine
        self.jobs = Jobs(settings.database)
        self.ledger = Ledger(settings.database)
        self.api_url = settings.api_url
        self.here = ""  # the address of the dashboard, where it is mounted
        self.child: Child | None = None
        self.dead: Child | None = None  # whose items are to be taken back
        self.young = 0  # children in a row that died soon
        self.spawn_at = 0.0  # when the next one is started, by time.monotonic
        self.stopping = threading.Event()
        self.watcher: threading.Thread | None = None
        self.lock = threading.Lock()
        self.rings_in: asyncio.AbstractEventLoop | None = None  # the loop that is to ring in a moment
        self.trouble = ""
        self.watch = Trouble("The engine's watcher")

    def start(self) -> None:
        """Start the child, unless it is running.

        Of several processes that serve one database, one has the child.
        """
        with self.lock:
            if self.watcher is None or not self.watcher.is_alive():
                self.stopping.clear()
                self.watcher = threading.Thread(target=self._watch, name="engine", daemon=True)
                self.watcher.start()
                atexit.register(self.stop)

    def ring(self) -> None:
        """Say that there is something to run: the child reads it from the table; this only saves it the
        wait.
        """
        if child := self.child:
            child.tell(msgspec.json.encode({"api_url": self.api_url, "here": self.here}))

    async def ring_soon(self) -> None:
        """Ring from an event loop: once for all who ask for it in this turn of the loop."""
        loop = asyncio.get_running_loop()
        if self.rings_in is not loop:
            self.rings_in = loop
            loop.call_soon(self._ring_now)

    def _ring_now(self) -> None:
        self.rings_in = None
        self.ring()

    def hang_up(self) -> None:
        """Tell the child to end: it gives what is in flight its grace, and puts it back."""
        self.stopping.set()
        if child := self.child:
            child.hang_up()

    def stop(self) -> None:
        """End the child, and what its tasks have started; after its grace and STOP seconds it is killed."""
        self.hang_up()
        with self.lock:
            child = self.child
            watcher = self.watcher
            self.child = None
            self.watcher = None
        if child:
            child.hang_up()  # it may have been started since
            try:
                child.process.wait(self.settings.grace + STOP)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            end_group(child.process.pid)
        if watcher and watcher is not threading.current_thread():
            watcher.join(1)
        atexit.unregister(self.stop)

    @property
    def is_watched(self) -> bool:
        """Whether it is started, and looked after."""
        return self.watcher is not None and self.watcher.is_alive()

    @property
    def state(self) -> str:
        """running; failing, where something keeps it from running; standing by, while another process has the
        child; stopped.
        """
        if not self.is_watched:
            return "stopped"
        if self.trouble:
            return "failing"
        return "running" if self.child else "standing by"

    # ---- the watcher ---------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Have the child when it is this process's turn, and see to it that there is one."""
        while not self.stopping.is_set():
            try:
                with self._lock_file().open("r+b") as lock:
                    self._stand_by(lock)
                    while not self.stopping.is_set():
                        self._attend_to(lock)
            except OSError as error:
                self._say(
                    None, worded(f"Jobs do not run: {self._lock_file()} cannot be opened ({error.strerror}).")
                )
                self.watch.meet(error)
            except Exception as error:
                self.watch.meet(error)
            self.stopping.wait(AGAIN / 5)

    def _lock_file(self) -> Path:
        """The file whose lock lets one process have the child; made in a folder that is there."""
        path = Path(f"{self.settings.database}.engine")
        if not path.exists():
            path.touch()
        return path

    def _stand_by(self, lock: IO[bytes]) -> None:
        """Wait for the lock, which goes with the process; meanwhile what its holder says is said here."""
        told = False
        mine = self._holder()
        while not self.stopping.is_set():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._say(lock, "")
                return
            except BlockingIOError:
                holder = read_holder(lock)
                self.trouble = holder.trouble if holder else ""
                if holder and not told and not (holder.parent and holder.parent == mine.parent):
                    told = True
                    where = holder.api_url or "its own demo API"
                    log.warning(
                        "Another Rowcast (process %s) runs the jobs of %s and posts to %s;"
                        " this one takes over when it ends",
                        holder.pid, self.settings.database, where,
                    )  # fmt: skip
                self.stopping.wait(TURN)

    def _holder(self) -> Holder:
        siblings = os.getppid() if self.settings.workers > 1 else 0
        return Holder(os.getpid(), siblings, self.api_url, self.trouble)

    def _say(self, lock: IO[bytes] | None, trouble: str) -> None:
        """Note what keeps jobs from running, '' for nothing, here and for those who stand by."""
        changed = trouble != self.trouble
        self.trouble = trouble
        if lock and (changed or not trouble):
            with contextlib.suppress(OSError):  # the disk may be full
                lock.seek(0)
                lock.write(msgspec.json.encode(self._holder()))
                lock.truncate()
                lock.flush()

    def _attend_to(self, lock: IO[bytes]) -> None:
        """One round: take back what a dead child held, start one where there is none, or look after it."""
        child = self.child
        try:
            if self.dead:
                self._bury(self.dead)
                self.dead = None
            if child is None:
                if not self.stopping.wait(max(0.0, self.spawn_at - time.monotonic())):
                    self._spawn()
            elif self._has_ended(child):
                self._note_end(lock, child)
            else:
                self._look_after(lock, child)
        except Exception as error:
            # SQLite's, the machine's: the round is made again
            self._say(lock, worded(f"Jobs do not run: {self._hindered()} ({reason_of(error)})."))
            self.watch.meet(error)
            self.stopping.wait(AGAIN)
        else:
            self.watch.over()

    def _hindered(self) -> str:
        what = worded("the worker process cannot be watched")
        if self.dead:
            what = worded("what the last worker process held cannot be taken back")
        elif self.child is None:
            what = worded("no worker process can be started")
        return what

    def _bury(self, dead: Child) -> None:
        code = dead.process.returncode
        fatal = code > 0 or -code in FATAL
        self.ledger.rescue(dead.name, died(code) if fatal else None)

    def _spawn(self) -> None:
        for worker, leader in self.ledger.left_behind():
            end_strays(worker, leader)
        with self.lock:
            if not self.stopping.is_set():
                name = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(3)}"
                self.child = Child(self.settings, name, self.api_url)
                self.ring()

    def _has_ended(self, child: Child) -> bool:
        try:
            child.process.wait(LEASE / 8)
            return True
        except subprocess.TimeoutExpired:
            return False

    def _note_end(self, lock: IO[bytes], child: Child) -> None:
        if self.stopping.is_set():
            return
        end_group(child.process.pid)
        how = child.ended()
        log.warning("The worker process ended (%s); starting another.", how)
        self.dead = child
        self.child = None
        self.young = self.young + 1 if child.age < YOUNG else 0
        if not child.up.is_set():
            self._say(lock, worded(f"Jobs do not run: the worker process dies at every start ({how})."))
        elif self.young > 2:
            self._say(lock, worded(f"Jobs hardly run: the worker process dies again and again ({how})."))
        if self.young:
            self.spawn_at = time.monotonic() + min(AGAIN, 0.1 * 2 ** min(self.young, 6))

    def _look_after(self, lock: IO[bytes], child: Child) -> None:
        """A child that is well is no trouble; one that has not said for two leases that it lives hangs."""
        if child.up.is_set() and child.age > YOUNG and self.trouble:
            self._say(lock, "")
        if not child.up.is_set() and child.age > SLOW:
            said = f": {child.line}" if child.line else ""
            self._say(
                lock,
                worded(f"Jobs do not run: the worker process has not come up for {child.age:.0f} s{said}."),
            )
        lease = self.ledger.lease_of(child.name)
        if lease != child.lease:
            child.lease = lease
            child.lease_at = time.monotonic()
        elif lease and time.monotonic() > child.lease_at + 2 * LEASE:
            self._end_if_it_hangs(child)

    def _end_if_it_hangs(self, child: Child) -> None:
        """Where nobody can write, that it has not been heard of is not its fault."""
        self.ledger.touch()
        if not self.stopping.wait(LEASE / 2) and self.ledger.lease_of(child.name) == child.lease:
            log.warning("The worker process hangs; ending it.")
            child.process.kill()
