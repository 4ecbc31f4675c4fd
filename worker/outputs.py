"""Outputs: what the processes print that a try starts, kept in its log and on the terminal as before.

A process has no context, so whose words its are is known by who has started it: what would have this
process's own standard output and error gets pipes instead, which a thread reads. A process of a pool works
for many tries: each call says on its pipes whose it is, by a label.

Left as it is, and so on the terminal alone, is what Python does not start or may outlive this process: a
bare fork, what a C library starts, a process with a session or group of its own. So is what code writes to
this process's own descriptors past sys.stdout, for many tries have these.
"""

import contextlib
import contextvars
import functools
import inspect
import itertools
import os
import re
import select
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from rowcast.tasks.steps import current_call, current_run
from rowcast.tasks.trouble import Trouble
from rowcast.worker.hiding import CUT, Hider, current_hider

STREAMS = {1: "stdout", 2: "stderr"}
AT_ONCE = 1 << 16  # bytes: a pipe holds no more
LONGEST = 1 << 16  # bytes of a line that has no end yet
LABEL = re.compile(rb"\0rowcast:(\d{0,18})\n")  # from here on it is the words of this try, or of none
LABEL_LENGTH = 40  # bytes at most
STARTED_AS = (None, "fork", "spawn", "forkserver")  # processes of Python's own multiprocessing
live: set["Output"] = set()
labelled: "weakref.WeakValueDictionary[int, Any]" = weakref.WeakValueDictionary()  # logs of tries
numbers = itertools.count(1)
trouble = Trouble("The reading of what a process prints")
in_child = threading.Event()  # this process is one whose output is read


class Output:
    """One stream of a process, as it comes from its pipe. `shared`: the process works for many tries."""

    def __init__(self, stream: int, log: Any, shared: bool):
        self.stream = stream
        self.log = log
        self.shared = shared
        self.hider = current_hider.get() or Hider()
        self.lock = threading.Lock()
        self.line = b""  # that has no end yet
        self.unseen = b""  # of a line that may have a secret in it, and is not on the terminal
        self.half = b""  # of a label
        self.closed = False
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        live.add(self)

    def read(self) -> bool:
        """Take what is there; False at its end."""
        with self.lock:
            if self.closed:  # the number of its end may be another file's by now
                return False
            try:
                data = os.read(self.read_end, AT_ONCE)
            except BlockingIOError:
                return True
            try:
                self._take(data)
            except Exception as error:  # whoever writes must not wait for a reader that is gone
                trouble.meet(error)
            return bool(data)

    def _take(self, data: bytes) -> None:
        if not self.shared:
            self._say(data)
            return
        data = self.half + data
        self.half = b""
        begun = data.rfind(b"\0")
        if begun >= 0 and len(data) - begun < LABEL_LENGTH and b"\n" not in data[begun:]:
            self.half = data[begun:]
            data = data[:begun]
        said, *rest = LABEL.split(data)
        self._say(said)
        for number, said in zip(rest[::2], rest[1::2], strict=True):
            self._end_line()
            self.log = labelled.get(int(number)) if number else None
            self._say(said)

    def _say(self, data: bytes) -> None:
        self._show(data)
        if self.log is None:
            return
        whole, end, rest = data.rpartition(b"\n")
        if end:
            lines = (self.line + whole).decode(errors="replace").split("\n")
            self.log.add_all(STREAMS[self.stream], lines)
            self.line = b""
        self.line = (self.line + rest).rpartition(b"\r")[2][:LONGEST]

    def _show(self, data: bytes) -> None:
        """On the terminal, as it comes; where there are secrets, line by line, a long one cut."""
        if self.hider:
            if len(self.unseen) > LONGEST:
                data = b"".join(data.partition(b"\n")[1:])
            whole, end, self.unseen = (self.unseen + data).rpartition(b"\n")
            if len(self.unseen) > LONGEST:
                self.unseen = self.unseen[:LONGEST] + CUT.encode()
            data = self.hider((whole + end).decode(errors="surrogateescape")).encode(errors="surrogateescape")
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self.stream, data) :]

    def _end_line(self) -> None:
        if self.log is not None and self.line:
            self.log.add_all(STREAMS[self.stream], [self.line.decode(errors="replace")])
        self.line = b""

    def end_line_of(self, log: Any) -> None:
        """The try is over: what it has begun to say is all of it."""
        with self.lock:
            if self.log is log:
                self._end_line()

    def close(self) -> None:
        """Its process has closed it."""
        with self.lock:
            self._say(self.half)
            self._end_line()
            if self.unseen:
                self._show(b"\n")
            live.discard(self)
            self.closed = True
            os.close(self.read_end)


def forget() -> None:
    """In a forked process: what is read here is read by the process that it was forked from, and what it
    prints itself is nobody's words.
    """
    for one in live:
        os.close(one.read_end)
    live.clear()
    current_call.set(None)
    current_run.set(None)


def read_all(log: Any, over: bool = False) -> None:
    """What the processes of a try have said until now comes before what it says itself, or its end."""
    for one in [one for one in list(live) if one.log is log or one.shared]:
        one.read()
        if over:
            one.end_line_of(log)


def listen(outputs: list[Output]) -> None:
    """In a thread, until all are at their end."""
    ready = select.poll()
    left = {one.read_end: one for one in outputs}
    for end in left:
        ready.register(end, select.POLLIN)
    while left:
        for end, _ in ready.poll():
            if not left[end].read():
                ready.unregister(end)
                left.pop(end).close()


@contextlib.contextmanager
def outputs_of(log: Any, streams: dict[str, int], shared: bool = False) -> Iterator[dict[str, int]]:
    """Where a process that is started here is to print, by the name of its stream; nowhere else than before
    where the machine has no more pipes or threads.
    """
    if not streams:
        yield {}
        return
    made: list[Output] = []
    try:
        for stream in streams.values():
            made.append(Output(stream, log, shared))
        listener = threading.Thread(target=listen, args=(made,), name="rowcast-outputs", daemon=True)
        contextvars.Context().run(listener.start)
    except (OSError, RuntimeError):
        for one in made:
            os.close(one.write_end)
            one.close()
        made = []
    try:
        yield dict(zip(streams, [one.write_end for one in made], strict=False))
    finally:
        for one in made:
            os.close(one.write_end)


@functools.cache
def hear_processes(log_here: Callable[[], Any]) -> None:
    """From now on what processes print that a try starts is kept. `log_here` is the log of the try that this
    code runs for; None where it runs for none.
    """
    os.register_at_fork(after_in_child=forget)
    hear_programs(log_here)
    hear_python(log_here)


# ---- programs ----------------------------------------------------------------------------------------------


def hear_programs(log_here: Callable[[], Any]) -> None:
    """Those of subprocess, of asyncio and of os.system."""
    init = subprocess.Popen.__init__
    system = os.system
    signature = inspect.signature(init)

    def init_heard(popen: Any, *args: Any, **how: Any) -> None:
        log = log_here()
        if log is None:
            return init(popen, *args, **how)
        bound = signature.bind(popen, *args, **how)
        with outputs_of(log, inherited(bound.arguments)) as ends:
            bound.arguments.update(ends)
            return init(*bound.args, **bound.kwargs)

    def system_heard(command: Any) -> int:
        if log_here() is None:
            return system(command)
        code = subprocess.call(["/bin/sh", "-c", command])
        return -code if code < 0 else code << 8  # as waitpid(2) has it

    put(subprocess.Popen, "__init__", init_heard)
    put(os, "system", system_heard)
    if loop := getattr(sys.modules.get("uvloop"), "Loop", None):  # it starts processes by itself
        for name in ("subprocess_exec", "subprocess_shell"):
            put(loop, name, heard_of_loop(getattr(loop, name), log_here))


def put(place: Any, name: str, made: Callable[..., Any]) -> None:
    """In place of what has this name there."""
    setattr(place, name, functools.wraps(getattr(place, name))(made))


def inherited(given: dict[str, Any]) -> dict[str, int]:
    """Which of its streams a process would have from this one; none where it may outlive this one."""
    if given.get("preexec_fn") or given.get("start_new_session"):
        return {}
    if given.get("process_group") not in (None, -1):
        return {}
    found = {name: number_of(given.get(name), stream) for stream, name in STREAMS.items()}
    return {name: stream for name, stream in found.items() if stream in STREAMS}


def number_of(given: Any, own: int) -> int:
    """The descriptor that is given for a stream."""
    if given is None or isinstance(given, int):
        return own if given is None else given
    with contextlib.suppress(Exception):
        return int(given.fileno())
    return -1


def heard_of_loop(start: Any, log_here: Callable[[], Any]) -> Any:
    async def start_heard(loop: Any, *args: Any, **how: Any) -> Any:
        log = log_here()
        streams = inherited({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how})
        if log is None or not streams:
            return await start(loop, *args, **how)
        with outputs_of(log, streams) as ends:
            return await start(loop, *args, **{**how, **ends})

    return start_heard


# ---- Python's own processes --------------------------------------------------------------------------------


class Heard:
    """What a process of multiprocessing runs: it prints to these pipes from then on."""

    def __init__(self, process: Any, *ends: Any):
        self.process = process
        self.ends = ends

    def __reduce__(self) -> Any:
        from multiprocessing.reduction import DupFd

        return Heard, (self.process, *map(DupFd, self.ends))

    def __call__(self) -> None:
        for stream, end in zip(STREAMS, self.ends, strict=True):
            number = end if isinstance(end, int) else end.detach()
            os.dup2(number, stream)
            os.close(number)
        for name in STREAMS.values():
            with contextlib.suppress(AttributeError, ValueError):
                getattr(sys, name).reconfigure(line_buffering=True)
        in_child.set()
        type(self.process).run(self.process)


class Labelled:
    """A call of a pool's, and the number of whose it is."""

    def __init__(self, function: Callable[..., Any], number: int):
        self.function = function
        self.number = number

    def __call__(self, *args: Any, **how: Any) -> Any:
        if not in_child.is_set():
            return self.function(*args, **how)
        label(self.number)
        try:
            return self.function(*args, **how)
        finally:
            label("")


def label(number: int | str) -> None:
    """Say whose the words are that come now."""
    for stream, name in STREAMS.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):
            getattr(sys, name).flush()
        with contextlib.suppress(OSError):
            os.write(stream, b"\0rowcast:%s\n" % str(number).encode())


def hear_python(log_here: Callable[[], Any]) -> None:
    """Processes of multiprocessing, and what its pools and those of concurrent.futures are given to do."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing.pool import Pool, ThreadPool
    from multiprocessing.process import BaseProcess

    start = BaseProcess.start

    def start_heard(process: Any) -> None:
        for_a_try = current_call.get() is not None or current_run.get() is not None
        if not for_a_try or getattr(process, "_start_method", "") not in STARTED_AS:
            return start(process)
        with outputs_of(log_here(), inherited({}), shared=True) as ends:
            if ends:
                vars(process)["run"] = Heard(process, *ends.values())
            try:
                start(process)
            finally:
                vars(process).pop("run", None)

    put(BaseProcess, "start", start_heard)

    def of_this_try(pool: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        log = log_here()
        if log is None:
            return function
        if isinstance(pool, ThreadPool):
            context = contextvars.copy_context()
            return lambda *args, **how: context.copy().run(function, *args, **how)
        log.number = log.number or next(numbers)
        labelled[log.number] = log
        return Labelled(function, log.number)

    def given(kind: Any, name: str) -> None:
        give = getattr(kind, name)

        def give_marked(pool: Any, *args: Any, **how: Any) -> Any:
            if "func" in how:
                return give(pool, *args, **{**how, "func": of_this_try(pool, how["func"])})
            return give(pool, *[of_this_try(pool, one) for one in args[:1]], *args[1:], **how)

        put(kind, name, give_marked)

    given(ProcessPoolExecutor, "submit")
    for name in ("apply_async", "_map_async", "imap", "imap_unordered"):
        given(Pool, name)
