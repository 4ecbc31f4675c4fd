"""The embedded engine, seen from the dashboard: one child process that runs the jobs, watched and started
again.

`submit` rings the child; that is all. A job at full speed, a task that computes, blocks, leaks or crashes is
in the child and never touches the page. When the child dies, what it held is taken back at once: if it held
one item alone, that item is what killed it; if several, they are tried apart.

`BackgroundTask` is the way in: Starlette's class with the same signature, whose call submits a job and
returns.
"""

import atexit
import contextlib
import fcntl
import logging
import os
import platform
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import apsw
import msgspec

from rowcast.jobs import Jobs
from rowcast.tables.ledger import Ledger
from rowcast.tasks.settings import Settings, for_workers
from rowcast.tasks.work import LEASE
from rowcast.worker.isolated import died

log = logging.getLogger("rowcast")
STOP = 4.0  # seconds the child gets to put things back
FATAL = (
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
)  # what a process does to itself


class Holder(msgspec.Struct):
    """Who has the child of a database: its process, the process of its siblings (0 for none), and where
    its jobs post.
    """

    pid: int
    parent: int
    api_url: str


def read_holder(lock: IO[bytes]) -> Holder | None:
    """What the holder of the lock has written into it."""
    try:
        lock.seek(0)
        return msgspec.json.decode(lock.read(), type=Holder)
    except (OSError, msgspec.DecodeError):
        return None


class Engine:
    """Starts, rings, watches and stops the child process."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.name = settings.engine
        self.jobs = Jobs(settings.database)
        self.api_url = settings.api_url
        self.child: subprocess.Popen[bytes] | None = None
        self.stopping = threading.Event()
        self.watcher: threading.Thread | None = None
        self.lock = threading.Lock()

    def start(self) -> None:
        """Start the child, unless it is running.

        Of several processes that serve one database, one has the child.
        """
        with self.lock:
            if self.watcher is None:
                self.stopping.clear()
                self.watcher = threading.Thread(target=self._watch, name="engine", daemon=True)
                self.watcher.start()
                atexit.register(self.stop)

    def _has_turn(self, lock: IO[bytes]) -> bool:
        """Wait for the lock that lets this process have the child; False once it is to stop.

        It goes with the process.
        """
        mine = Holder(os.getpid(), os.getppid() if self.settings.workers > 1 else 0, self.api_url)
        told = False
        while not self.stopping.is_set():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lock.truncate(0)
                lock.write(msgspec.json.encode(mine))
                lock.flush()
                return True
            except OSError:
                if (
                    not told
                    and (holder := read_holder(lock))
                    and not (holder.parent and holder.parent == mine.parent)
                ):
                    told = True
                    where = holder.api_url or "its own demo API"
                    log.warning(
                        "Another Rowcast (process %s) runs the jobs of %s and posts to %s; this one takes over when it ends",
                        holder.pid, self.settings.database, where,
                    )  # fmt: skip
                self.stopping.wait(0.2)
        return False

    def submit(self, job: int, delay: float = 0) -> None:
        """See to it that the job is run: the child reads it from the table; the ring only saves it the
        wait.
        """
        self.ring()

    def ring(self) -> None:
        child = self.child
        if child and child.stdin:
            with contextlib.suppress(OSError, ValueError):
                child.stdin.write(msgspec.json.encode({"api_url": self.api_url}) + b"\n")
                child.stdin.flush()

    def hang_up(self) -> None:
        """Tell the child to end: it gives what is in flight a short grace, and puts it back."""
        self.stopping.set()
        if self.child and self.child.stdin:
            with contextlib.suppress(OSError):
                self.child.stdin.close()

    def stop(self) -> None:
        """End the child; after STOP seconds it is killed."""
        self.hang_up()
        with self.lock:
            child = self.child
            watcher = self.watcher
            self.child = None
            self.watcher = None
        if child:
            try:
                child.wait(STOP)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if watcher and watcher is not threading.current_thread():
            watcher.join(1)
        atexit.unregister(self.stop)

    @property
    def state(self) -> str:
        """running; standing by, while another process has the child; stopped."""
        if self.child is not None and self.child.poll() is None:
            return "running"
        return "stopped" if self.watcher is None else "standing by"

    def _spawn(self) -> None:
        self.worker = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(3)}"
        # -m puts the child's working directory first; what the parent could import, the child can too
        path = os.pathsep.join(dict.fromkeys(str(Path(entry or ".").absolute()) for entry in sys.path))
        flags = {
            "--database": Path(self.settings.database).absolute(),
            "--name": self.worker,
            "--api-url": self.api_url,
            "--tasks": self.settings.tasks,
            "--engine": self.name,
            "--keep-days": self.settings.keep_days,
            "--keep-jobs": self.settings.keep_jobs,
        }
        self.child = subprocess.Popen(
            [
                sys.executable,
                "-u",
                "-m",
                "rowcast.engines.child",
                *(str(word) for pair in flags.items() for word in pair),
            ],
            stdin=subprocess.PIPE,
            env=os.environ | for_workers(self.settings) | {"PYTHONPATH": path},
        )

    def _watch(self) -> None:
        """Have the child when it is this process's turn; when it dies, take back what it held, and start
        another.
        """
        with Path(f"{self.settings.database}.engine").open("a+b") as lock:
            if not self._has_turn(lock):
                return
            with self.lock:
                if self.stopping.is_set():
                    return
                self._spawn()
            self._mind()

    def _mind(self) -> None:
        young = 0  # children in a row that died soon
        while True:
            child = self.child
            started = time.monotonic()
            if child is None:
                return
            code = self._wait(child)
            if self.stopping.is_set():
                return
            log.warning("The worker process ended (%s); starting another.", died(code))
            try:
                fatal = code > 0 or -code in FATAL
                Ledger(self.settings.database).rescue(self.worker, died(code) if fatal else None)
            except Exception:
                log.exception("rescue")
            young = young + 1 if time.monotonic() - started < 5 else 0
            if young and self.stopping.wait(min(5.0, 0.1 * 2 ** min(young, 6))):
                return
            if not self._spawn_again():
                return

    def _spawn_again(self) -> bool:
        """Start another child, and insist while the machine will not have one; False where the engine has
        been stopped.
        """
        while True:
            with self.lock:
                if self.stopping.is_set():
                    return False
                try:
                    self._spawn()
                    return True
                except OSError as error:
                    log.error("The worker process cannot be started: %s", error)
            self.stopping.wait(5)

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        """Until the child has ended; one that has not been alive for two leases hangs, and is killed."""
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(LEASE / 2)
            with contextlib.suppress(apsw.Error):
                if not self.stopping.is_set() and Ledger(self.settings.database).silent(self.worker, LEASE):
                    log.warning("The worker process hangs; ending it.")
                    child.kill()
