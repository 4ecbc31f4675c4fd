"""What a try starts that is no thread and no asyncio task, and goes on by itself: processes, and what a pool
of them was given. Whether that is over is asked for, as nothing tells of it (beside.py waits).

A process that has a session or a group of its own is meant to live on, and so is one that somebody keeps and
has an open pipe to the standard input of, which serves for long.
"""

import asyncio
import contextlib
import functools
import multiprocessing.pool
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.process import BaseProcess
from typing import Any

from rowcast.worker.beside import PASSED, Polled, Started, note, started_at

A_PROCESS = "a process that it started"


class ProcessEnd(Polled):
    """The end of a process, of which `code` says how it ended, and None while it runs. One that has failed,
    of which nobody has heard yet, fails the try.
    """

    def __init__(self, what: str, process: Any, pid: int):
        super().__init__()
        self.what = what
        self.process = process
        self.pid = pid
        self.stopped = False  # the task's code has ended it itself

    def code(self) -> tuple[int | None, bool]:
        """How it ended, and whether the task's code has heard of that."""
        raise TypeError("said by each kind")

    @property
    def is_kept(self) -> bool:
        """Whether it is meant to live on."""
        return False

    def look(self) -> None:
        code, heard = self.code()
        if code is None:
            if self.is_kept or has_own_group(self.pid):
                self.set_result(None)
        elif heard or code == 0 or self.stopped:
            self.set_result(None)
        else:
            self.set_exception(ChildProcessError(f"{self.what} ended with code {code}"))

    def cancel(self) -> bool:
        """Have it end, which it may not heed."""
        with contextlib.suppress(OSError, ValueError):
            self.terminate()
        return False

    def terminate(self) -> None:
        self.process.terminate()


class ProgramEnd(ProcessEnd):
    def code(self) -> tuple[int | None, bool]:
        known = self.process.returncode
        return (self.process.poll(), False) if known is None else (known, True)

    @property
    def is_kept(self) -> bool:
        stdin = self.process.stdin
        if stdin is None or stdin.closed:
            return False
        if sys.getrefcount(self.process) > 2:  # who else holds it than this
            return True
        with contextlib.suppress(OSError):
            stdin.close()  # as Python would have, but for this
        return False


class PythonEnd(ProcessEnd):
    """Of multiprocessing."""

    def code(self) -> tuple[int | None, bool]:
        popen = getattr(self.process, "_popen", None)
        if popen is None:  # it was closed
            return 0, True
        known = popen.returncode
        return (popen.poll(), False) if known is None else (known, True)


class LoopEnd(ProcessEnd):
    """Of an event loop, which knows the end of each."""

    first = True

    def code(self) -> tuple[int | None, bool]:
        heard = self.first
        self.first = False
        code = self.process.get_returncode()
        # whoever ends one asks uvloop, which has no place to note that
        return code, heard or code in (-signal.SIGTERM, -signal.SIGKILL)


class ForkEnd(ProcessEnd):
    """Of a bare fork: it is waited for at last, if nobody else has."""

    def code(self) -> tuple[int | None, bool]:
        try:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            return (os.waitstatus_to_exitcode(status) if ended else None), False
        except ChildProcessError:
            return 0, True

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


class PoolEnd(Polled):
    """The end of what a pool of multiprocessing was given."""

    def __init__(self, what: str, given: Any, heard: bool):
        super().__init__()
        self.what = what
        self.given = given
        self.pool = given._pool
        self.heard = heard

    def look(self) -> None:
        over, error = self.state()
        if over and (error is None or self.heard):
            self.set_result(None)
        elif over:
            self.set_exception(error)
        elif self.pool is not None and self.pool._state == multiprocessing.pool.TERMINATE:
            why = f"{self.what} was not done: its pool has been ended. Read it, or wait for it, before."
            self.set_exception(TypeError(why))

    def state(self) -> tuple[bool, BaseException | None]:
        """Whether it is over, and what it has failed by."""
        if not self.given.ready():
            return False, None
        return True, None if self.given._success else self.given._value


class ReadEnd(PoolEnd):
    """Of an iterator over what comes of it: what was read of that, the task has heard of."""

    def state(self) -> tuple[bool, BaseException | None]:
        if self.given._length is None or self.given._index < self.given._length:
            return False, None
        return True, next((value for good, value in list(self.given._items) if not good), None)


def has_own_group(pid: int) -> bool:
    """Whether a process of ours has a group, and perhaps a session, of its own."""
    with contextlib.suppress(OSError):
        return bool(pid) and os.getpgid(pid) != os.getpgrp()
    return False


@functools.cache
def heed_processes() -> None:
    """From now on what a try starts of these is known."""
    start = BaseProcess.start
    init = subprocess.Popen.__init__
    fork = os.fork

    def start_noted(process: BaseProcess) -> None:
        start(process)
        if (place := started_at()) and process.pid:
            what = f"{A_PROCESS} ({place})"
            end = PythonEnd(what, process, process.pid)
            heed_stop(process, end, "terminate", "kill")
            note(Started(end, what, bool(process.daemon)))

    def init_noted(popen: Any, *args: Any, **how: Any) -> None:
        init(popen, *args, **how)
        if (place := started_at()) and not asked_by().startswith("asyncio"):
            what = f"{A_PROCESS} ({place})"
            end = ProgramEnd(what, popen, popen.pid)
            heed_stop(popen, end, "send_signal")  # by which the others do it
            note(Started(end, what))

    def fork_noted() -> int:
        pid = fork()
        if pid and (place := started_at()):
            what = f"{A_PROCESS} ({place})"
            note(Started(ForkEnd(what, None, pid), what))
        return pid

    put(BaseProcess, "start", start_noted)
    put(subprocess.Popen, "__init__", init_noted)
    if hasattr(os, "waitid"):
        put(os, "fork", fork_noted)
    loops = [asyncio.base_events.BaseEventLoop, getattr(sys.modules.get("uvloop"), "Loop", None)]
    for loop in filter(None, loops):
        for name in ("subprocess_exec", "subprocess_shell"):
            put(loop, name, noted_by_loop(getattr(loop, name)))
    pool = multiprocessing.pool.Pool
    for name in ("apply_async", "map_async", "starmap_async"):
        put(pool, name, noted_by_pool(getattr(pool, name)))
    for name in ("imap", "imap_unordered"):
        put(pool, name, noted_as_read(getattr(pool, name)))


def heed_stop(process: Any, end: ProcessEnd, *names: str) -> None:
    """Note that the task's code has ended it, which is no failure."""
    for name in names:
        vars(process)[name] = functools.partial(stopping, weakref.ref(process), type(process), name, end)


def stopping(process: Any, kind: Any, name: str, end: ProcessEnd, *args: Any) -> Any:
    end.stopped = True
    return getattr(kind, name)(process(), *args)


def put(kind: Any, name: str, made: Callable[..., Any]) -> None:
    setattr(kind, name, functools.wraps(getattr(kind, name))(made))


def asked_by() -> str:
    """The name of the module that asks for what one of ours passes on."""
    frame: Any = sys._getframe(2)
    while frame and frame.f_code.co_filename in PASSED:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "")) if frame else ""


def noted_by_loop(start: Callable[..., Any]) -> Callable[..., Any]:
    async def start_noted(loop: Any, *args: Any, **how: Any) -> Any:
        place = started_at()
        transport, protocol = await start(loop, *args, **how)
        if place:
            what = f"{A_PROCESS} ({place})"
            note(Started(LoopEnd(what, transport, transport.get_pid() or 0), what))
        return transport, protocol

    return start_noted


def noted_by_pool(give: Callable[..., Any]) -> Callable[..., Any]:
    """`apply_async` and its like."""

    def given(pool: Any, *args: Any, **how: Any) -> Any:
        result = give(pool, *args, **how)
        if place := started_at():
            what = f"{to(pool)} ({place})"
            end = PoolEnd(what, result, result._error_callback is not None)
            for name in ("get", "successful"):
                vars(result)[name] = heard_by(end, getattr(result, name))
            note(Started(end, what))
        return result

    return given


def to(pool: Any) -> str:
    of = "threads" if isinstance(pool, multiprocessing.pool.ThreadPool) else "processes"
    return f"what it gave to a pool of {of}"


def noted_as_read(give: Callable[..., Any]) -> Callable[..., Any]:
    """`imap` and its like. With a chunk size what they return is around the iterator that is meant."""

    def given(pool: Any, *args: Any, **how: Any) -> Any:
        read = give(pool, *args, **how)
        inner = getattr(read, "gi_frame", None)
        result = inner.f_locals.get(".0") if inner else read
        if isinstance(result, multiprocessing.pool.IMapIterator) and (place := started_at()):
            what = f"{to(pool)} ({place})"
            note(Started(ReadEnd(what, result, False), what))
        return read

    return given


def heard_by(end: PoolEnd, get: Callable[..., Any]) -> Callable[..., Any]:
    def told(*args: Any, **how: Any) -> Any:
        try:
            return get(*args, **how)
        finally:
            end.heard = end.heard or end.given.ready()

    return told


def heed_reading(future: "Future[Any]", one: Started) -> None:
    """Note on `one` that the task's code has been told how a pool's future has ended."""
    for name in ("result", "exception"):
        vars(future)[name] = functools.partial(told_of, one, future, getattr(future, name))


def told_of(one: Started, future: "Future[Any]", ask: Callable[..., Any], *args: Any, **how: Any) -> Any:
    try:
        return ask(*args, **how)
    finally:
        one.asked = one.asked or future.done()
