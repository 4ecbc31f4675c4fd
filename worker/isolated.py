"""Alone: one suspect item, one whose worker died while it ran, tried in a process of its own.

What kills that process is this item and no other. The order goes in by standard input; what the try says
comes back by a pipe as it is said, a line of JSON each, and the result at last; before all of it, where a try
has a time limit, how many seconds this one has until the process is killed. The input stays open, so the
process ends with the worker that started it, however that ended.
"""

import argparse
import asyncio
import contextlib
import io
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from typing import Any, BinaryIO

import anyio
import anyio.to_thread
import msgspec

from rowcast.tasks.mail import Keep, Posted
from rowcast.tasks.python_path import command
from rowcast.tasks.records import Job, encode
from rowcast.tasks.registry import load
from rowcast.tasks.sentences import worded
from rowcast.tasks.settings import read
from rowcast.tasks.work import Claimed, Result, in_doubt
from rowcast.worker import tracing
from rowcast.worker.capture import TryLog, log_here
from rowcast.worker.started import end_group, end_with_group, heed_no_stop

TOLD_EVERY = 0.05  # seconds between two looks at what the try has said
UP = b"\0"  # what a child says last on its parent's pipe, before it takes the parent's own standard error


class Returned(msgspec.Struct):
    """What came of it: the result, and mails for the mailbox, which that process cannot reach."""

    result: Result
    mails: list[Posted] = []


class Order(msgspec.Struct):
    """What the process is to do."""

    job: Job
    item: Claimed
    api_url: str
    opened: dict[str, str] = {}  # what its secrets are


async def run_alone(
    job: Job, item: Claimed, api_url: str, keep: Keep | None = None, opened: dict[str, str] | None = None
) -> Result:
    """One try of the item in a process of its own, which is killed when the caller is cancelled, or once it
    goes on though the time of its try is over: then this raises TimeoutError.
    """
    child, read = _spawn()
    order = encode(Order(job, item, api_url, opened or {})) + b"\n"
    try:
        answer, late = await anyio.to_thread.run_sync(
            _converse, child, order, read, limiter=anyio.CapacityLimiter(1), abandon_on_cancel=True
        )
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        await asyncio.to_thread(end_group, child.pid)
    if answer:
        came = msgspec.json.decode(answer, type=Returned)
        for posted in came.mails:
            assert keep
            await keep(posted)
        return came.result
    if late:
        raise TimeoutError
    error = died(child.returncode)
    if job.idempotent:
        return Result(item.id, item.attempt, "failed", error=error)
    return Result(item.id, item.attempt, "unknown", error=in_doubt(error))


def _spawn() -> tuple[subprocess.Popen[bytes], int]:
    """The process, and the end of a pipe on which it will answer."""
    read, write = os.pipe()
    try:
        # not the event loop's own way: uvloop runs Python between fork and exec, where another thread's lock
        # stays locked
        words = [*command("rowcast.worker.isolated"), str(write)]
        return subprocess.Popen(words, stdin=subprocess.PIPE, pass_fds=[write], process_group=0), read
    except OSError:
        os.close(read)
        raise
    finally:
        os.close(write)


def _converse(child: subprocess.Popen[bytes], order: bytes, read: int) -> tuple[bytes, bool]:
    """Give the order and take the answer, until the process has ended; what it has started may hold the
    pipe for longer. What the try says is kept as it comes. The second is whether the process was killed, as
    one is that heeds no end of its time.
    """
    assert child.stdin
    log = log_here()
    answer = b""
    rest = b""
    late = False
    give_up = math.inf
    ready = select.poll()
    ready.register(read, select.POLLIN)
    os.set_blocking(read, False)
    with (
        os.fdopen(read, "rb", buffering=0) as pipe,
        contextlib.suppress(BrokenPipeError),
        child.stdin as orders,
    ):
        orders.write(order)
        orders.flush()
        while True:
            gone = child.poll() is not None
            if time.monotonic() > give_up and not (gone or late):
                late = True
                child.kill()
            ready.poll(0 if gone else 200)
            said = pipe.read(1 << 16)  # None while there is nothing, b"" at the end
            *lines, rest = (rest + (said or b"")).split(b"\n")
            for line in lines:
                if line.startswith(b"["):
                    pass_on(log, line)
                elif line.startswith(b"{"):
                    answer = line
                else:  # the try begins, which has so many seconds
                    give_up = time.monotonic() + float(line)
            if not said and (gone or said is not None):
                break
    child.wait()
    return answer, late


def pass_on(log: TryLog | None, line: bytes) -> None:
    """What the process says of its try, to the log of the try here."""
    if log is not None:
        at, level, text = msgspec.json.decode(line, type=tuple[float, str, str])
        log.add(level, text, at)


def died(returncode: int | None) -> str:
    """How a process ended that should not have."""
    if returncode is not None and returncode < 0:
        return worded(f"The process running this died: {signal_name(-returncode)}")
    return worded(f"The process running this ended itself with code {returncode}")


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the real-time signals, which have no names
        return f"signal {number}"


def take_stdin() -> BinaryIO:
    """Standard input, for this process's own use: a task that reads it, or starts what does, finds it
    empty.
    """
    own = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return own


class Stream(io.FileIO):
    """Standard output or error: that nobody reads it any more, or that the disk is full, is no failure of who
    prints.
    """

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def keep_printing() -> None:
    """What this process prints from now on is there at once, or nowhere."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if stream := getattr(sys, name):
            output = Stream(number, "w", closefd=False)
            setattr(
                sys,
                name,
                io.TextIOWrapper(output, stream.encoding, stream.errors, write_through=True),
            )


def _end_with(parent: BinaryIO) -> None:
    parent.read()
    end_with_group()


async def _try(order: Order, pipe: BinaryIO) -> Returned:
    # here, for those who start this process are to start fast: aiohttp takes a fifth of a second
    from rowcast.worker.attempt import TimeLimit, attempt, caller_of
    from rowcast.worker.beside import heed_beside
    from rowcast.worker.body import time_of
    from rowcast.worker.capture import RunLog, capture
    from rowcast.worker.clients import Clients
    from rowcast.worker.hiding import Hider, current_hider
    from rowcast.worker.unawaited import heed_unawaited

    capture()
    current_hider.set(Hider(order.opened.values()))
    log = RunLog(current_hider.get())
    task = load(order.job.entry, order.job.task)
    heed_unawaited()
    heed_beside(task)
    mails: list[Posted] = []

    async def keep(posted: Posted) -> None:
        mails.append(posted)

    clients = Clients(lambda: order.api_url, keep)
    opened = {name: await clients.open(hint, bool(order.job.dry_run)) for name, hint in task.clients.items()}
    call = caller_of(order.job, task, opened, order.opened)
    if task.timeout:
        pipe.write(encode(time_of(task)) + b"\n")
    over = threading.Event()
    teller = threading.Thread(target=_tell, args=(log.lines, pipe, over), daemon=True)
    teller.start()
    result, _ = await attempt(order.job, task, call, order.item, TimeLimit(task.timeout), run_log=log)
    await clients.close()
    over.set()
    await asyncio.to_thread(teller.join)
    return Returned(result, mails)


def _tell(lines: deque[Any], pipe: BinaryIO, over: threading.Event) -> None:
    """Pass on what the try says, in a thread: it may hold the loop up."""
    last = False
    while not last:
        last = over.wait(TOLD_EVERY)
        while lines:
            pipe.write(encode(lines.popleft()[2:]) + b"\n")


def main() -> None:
    heed_no_stop()
    keep_printing()
    parent = take_stdin()
    tracing.switch_on(read(argparse.Namespace(), "otel").otel)
    order = msgspec.json.decode(parent.readline(), type=Order)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with os.fdopen(int(sys.argv[1]), "wb", buffering=0) as pipe:
        pipe.write(encode(asyncio.run(_try(order, pipe))) + b"\n")
    tracing.end()
    sys.stdout.flush()
    os._exit(0)  # a thread that hangs in the task must not hold the exit


if __name__ == "__main__":
    main()
