"""The embedded engine's child process: it runs every active job of one database, side by side on one event
loop.

Where the engine is a queue it runs none: it writes their items, sends the slices that are due, and keeps
house.

It is started and watched by background.py and ends with it: its standard input is a pipe, and end of file
means that the parent is gone. A line on the pipe is a ring: there is something new, or the address of the
demo API. The pipe and the heartbeat have threads of their own, so a task that holds up the event loop neither
looks dead nor outlives the parent.
"""

import argparse
import asyncio
import contextlib
import gc
import logging
import math
import os
import platform
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from typing import Any, BinaryIO, NoReturn

import apsw
import msgspec

from rowcast.engines.chores import RESCUE, Chores, in_thread
from rowcast.engines.dispatch import Supply
from rowcast.engines.fills import Fills
from rowcast.engines.local import PAUSE, LocalLedger
from rowcast.jobs import Jobs
from rowcast.messages.sender import Sender
from rowcast.tables.database import DatabaseRefused
from rowcast.tables.ledger import Ledger
from rowcast.tables.mailbox import Mailbox
from rowcast.tables.maintenance import Keep
from rowcast.tables.seals import SIGN, NotOpened
from rowcast.tables.users import Users
from rowcast.tasks.log_format import set_log_format
from rowcast.tasks.mail import Mailer, Posted
from rowcast.tasks.python_path import warn_of_hidden
from rowcast.tasks.records import ACTIVE, CLAIMABLE, Job
from rowcast.tasks.registry import Task, import_modules, load, load_or_say
from rowcast.tasks.sentences import worded
from rowcast.tasks.settings import MESSAGES, Settings, read
from rowcast.tasks.trouble import Trouble
from rowcast.tasks.work import LEASE, Claimed, Due, Result
from rowcast.worker import leftovers, tracing
from rowcast.worker.attempt import as_said
from rowcast.worker.clients import Clients
from rowcast.worker.context import Context
from rowcast.worker.isolated import UP, keep_printing, run_alone, take_stdin
from rowcast.worker.loops import run_to_end
from rowcast.worker.runner import run
from rowcast.worker.stall import Stall, StallWatch
from rowcast.worker.started import end_with_group, heed_no_stop
from rowcast.worker.threads import carry_context

log = logging.getLogger("rowcast")
LOOK_EVERY = 0.1  # seconds between two looks at the counter
END = 1.5  # seconds beyond the grace from the parent's end until this process ends, whatever its tasks do
ALONE_AT_ONCE = 2
REST = 9  # times as long as a look for jobs has taken, until the next
SWITCH = 0.0003  # seconds until a thread that needs Python's lock gets it: the ledger's, behind a busy loop
# When Python looks for garbage: with a thousand items in flight it would look through all that is young again
# and again, a tenth of a worker's time
GARBAGE = (5_000, *gc.get_threshold()[1:])


class Worker:
    """The child's whole state: the jobs it runs, and the word to stop."""

    def __init__(
        self,
        path: str,
        name: str,
        api_url: str,
        parent: BinaryIO,
        keep: Keep = Keep(),
        engine: str = "background",
        grace: float = 2.0,
        settings: Settings = Settings(),
    ):
        self.path = path
        self.name = name
        self.api_url = api_url
        self.parent = parent
        self.keep = keep
        self.engine = engine
        self.jobs = Jobs(path, settings.usual)
        self.sender = Sender(path, settings)
        self.mailbox = Mailbox(path)
        self.local = LocalLedger(path)
        self.clients = Clients(lambda: self.api_url, self._keep_mail)
        self.context = Context(name, self.local, self.clients.open, self._run_alone, grace)
        self.runs: dict[int, asyncio.Task[None]] = {}
        self.written: set[int] = set()  # jobs that run and have all their items: no look is for them
        self.calls: Counter[str] = Counter()  # of functions that are called once, under way, by entry
        self.next: defaultdict[str, deque[Due]] = defaultdict(deque)  # calls without room
        self.fills: dict[int, asyncio.Task[None]] = {}
        self.ring = asyncio.Event()
        self.alone = asyncio.Semaphore(ALONE_AT_ONCE)
        self.imported: set[str] = set()  # entries whose modules are imported, as far as they were asked for
        self.known = asyncio.Event()  # that this worker lives
        self.ended = threading.Event()
        self.writing = Fills(self.jobs, self.local, self.ended)

    async def serve(self, ready: Callable[[], None]) -> None:
        """Run what there is to run until the parent goes away, then put back what is in flight.

        `ready` is called once it is known that this worker lives: what it holds would be taken back before.
        """
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, args=(loop,), name="parent", daemon=True).start()
        threading.Thread(target=self._stay_alive, args=(loop,), name="heartbeat", daemon=True).start()
        await self.known.wait()
        ready()
        self.sender.start()
        stalls = StallWatch(self.local.ledger.note_stall)
        chores = Chores(self.path, self.name, self.engine, self.keep, self.jobs, self.local)
        keeper = asyncio.create_task(chores.serve())
        supply = (
            asyncio.create_task(Supply(self.path, self.engine).serve())
            if self.engine != "background"
            else keeper
        )
        await self._look_for_jobs()
        self.sender.stop()
        stalls.end()
        keeper.cancel()
        supply.cancel()
        self.ended.set()
        await asyncio.gather(*self.runs.values(), return_exceptions=True)
        await in_thread(self.sender.join)
        await self.clients.close()
        # last: what it gives back another may take up, and a thread that hangs here must not go on beside it
        with contextlib.suppress(apsw.Error, DatabaseRefused):
            await self.local.do(self.local.ledger.leave, self.name)

    async def _rest(self, seconds: float) -> None:
        """Until the parent rings, so many seconds at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ring.wait(), seconds)

    async def _look_for_jobs(self) -> None:
        """Begin what is to be done: when the counter has moved or the parent rings, and every second, as a
        job may have become due.
        """
        trouble = Trouble("The look for jobs")
        seen = -1
        looked_at = -math.inf
        while not self.context.stopping.is_set():
            try:
                seq = self.jobs.seq()
                if seq != seen or self.ring.is_set() or time.monotonic() > looked_at + 1:
                    self.ring.clear()
                    if seq != seen:
                        self.sender.look()
                    seen = seq
                    looked_at = time.monotonic()
                    self._start_runs()
                    await asyncio.sleep(REST * (time.monotonic() - looked_at))
                trouble.over()
            except Exception as error:
                trouble.meet(error)
                self.ring.clear()
                await self._rest(PAUSE)
            await self._rest(LOOK_EVERY)

    def _start_runs(self) -> None:
        due = self.jobs.due(but=self.written)
        self.next.clear()
        for job in due:
            if job.engine == self.engine and job.status in ACTIVE:
                if job.shape == "items" and not job.filled:
                    self._begin(self._fill, job, self.fills)
                if job.status in CLAIMABLE and self.engine == "background":
                    if self._has_room(job):
                        self._begin(self._run, job, self.runs)
                    else:
                        self.next[job.entry].append(job)
                if job.id in self.runs and (job.filled or job.shape == "body"):
                    self.written.add(job.id)

    def _has_room(self, job: Due) -> bool:
        """Whether one more call of a function that is called once may run: as many at once as it has
        concurrency.
        """
        if job.shape == "items" or job.id in self.runs:
            return True
        most = job.concurrency or 1
        if self.calls[job.entry] >= most:
            return False
        self.calls[job.entry] += 1
        if self.calls[job.entry] == most:  # all have asked who may
            self.local.full.set()
        return True

    def _make_room(self, entry: str) -> None:
        """A call has ended: the next ones begin, without a look for jobs."""
        self.calls[entry] -= 1
        calls = self.next[entry]
        while calls and not self.context.stopping.is_set() and self._has_room(calls[0]):
            self._begin(self._run, calls.popleft(), self.runs)

    def _begin(
        self, work: Callable[[Due], Coroutine[Any, Any, None]], job: Due, going: dict[int, asyncio.Task[None]]
    ) -> None:
        """Do the work, unless it goes on already; look again when it has ended."""
        if job.id in going:
            return

        async def insist() -> None:
            try:
                await work(job)
            except Exception:
                log.exception("job %s", job.id)
                await asyncio.sleep(PAUSE)

        def ended(_: asyncio.Task[None]) -> None:
            del going[job.id]
            self.written.discard(job.id)
            self.ring.set()

        going[job.id] = asyncio.create_task(insist())
        going[job.id].add_done_callback(ended)

    async def _run(self, job: Due) -> None:
        """Run one job; whatever keeps it from running is its reason to fail."""
        calls = job.shape == "body"

        def leave() -> None:
            """The next call may begin: it is recorded with the end of this one, or after it."""
            nonlocal calls
            if calls:
                calls = False
                self._make_room(job.entry)
                self.ring.set()

        try:
            task = await self._load(job)
            while task and needs_api(task) and not (self.api_url or self.context.stopping.is_set()):
                await asyncio.sleep(
                    LOOK_EVERY
                )  # the first request tells a dashboard that is mounted where its demo API is
            if task and (started := await self._start(job)):
                sealed = SIGN in started.args
                opened = await in_thread(self.jobs.opened, started) if sealed else {}
                await run(started, task, self.context, opened, leave)
        except NotOpened as refused:
            await self._fail(job, str(refused))
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as fault:  # what a task has raised or returned may raise anything itself
            error = as_said(fault)
            await self._fail(job, worded(f"The job could not run: {type(fault).__name__}: {error}"))
            log.error("job %s", job.id, exc_info=fault)
        finally:
            leave()
        await asyncio.sleep(LOOK_EVERY)

    async def _start(self, job: Due) -> Job | None:
        """The job, which runs from now on; a function's call does once it is held (Ledger.take_body)."""
        if job.shape == "body":
            return await self.local.read(job.id, self.jobs.find, job.id)
        return await self.local.start(job.id, self.name)

    async def _load(self, job: Due) -> Task | None:
        if job.entry in self.imported:
            with contextlib.suppress(Exception):
                return load(job.entry, job.task)
        task = await in_thread(load_or_say, job.entry, job.task)
        if isinstance(task, Task):
            self.imported.add(job.entry)
            return task
        await self._fail(job, worded(f"The task {job.entry} cannot be imported: {task}"))
        return None

    async def _fail(self, job: Due, reason: str) -> None:
        await self.local.insist(job.id, self.jobs.fail, job.id, reason)

    async def _fill(self, job: Due) -> None:
        """Write the items of one job, unless another process does."""
        if task := await self._load(job):
            there = await self.local.take_fill(job.id, self.name)
            if there is None:
                await asyncio.sleep(RESCUE)
            elif found := self.jobs.find(job.id):
                if reason := await self.writing.write(found, task, there):
                    await self._fail(job, reason)
                if ask_again := self.context.runs.get(job.id):
                    ask_again()

    def beat(self, trouble: str = "") -> None:
        """Say that this worker lives, and what holds it up."""
        Ledger(self.path).heartbeat(
            self.name,
            platform.node(),
            os.getpid(),
            "background",
            version("rowcast"),
            done=self.local.done,
            trouble=trouble,
            leftovers=leftovers.number,
        )

    def _stay_alive(self, loop: asyncio.AbstractEventLoop) -> None:
        """The heartbeat, on a thread: a task that holds up the event loop does not look dead."""
        trouble = Trouble("The heartbeat")
        stall = Stall(loop)
        while True:
            try:
                self.beat(stall.look())
                trouble.over()
                if not self.known.is_set():
                    loop.call_soon_threadsafe(self.known.set)
            except Exception as error:
                trouble.meet(error)
            if self.ended.wait(LEASE / 4):
                break

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Follow the parent's pipe: each line a JSON object, end of file the end, soon also for a loop
        that is held up.
        """
        parent = os.getppid()
        with contextlib.suppress(OSError, RuntimeError):  # the pipe is gone, or the loop
            for line in self.parent:
                with contextlib.suppress(msgspec.DecodeError, AttributeError):
                    told = msgspec.json.decode(line)
                    self.api_url = told.get("api_url") or self.api_url
                    self.sender.means.here = told.get("here") or ""
                loop.call_soon_threadsafe(self.ring.set)
        with contextlib.suppress(RuntimeError):
            for told in (self.context.stopping, self.known, self.ring):
                loop.call_soon_threadsafe(told.set)
        time.sleep(self.context.grace + END)
        end(parent)

    async def _keep_mail(self, posted: Posted) -> None:
        """A mail into the mailbox, also if that has to wait for the disk or the database."""
        await self.local.insist(posted.job or 0, self.mailbox.put, posted)

    async def _run_alone(self, job: Job, item: Claimed, opened: dict[str, str]) -> Result:
        async with self.alone:
            return await run_alone(job, item, self.api_url, self._keep_mail, opened)


def end(parent: int) -> NoReturn:
    """End this process; where nobody is left who would, also what its tasks have started."""
    sys.stdout.flush()
    if os.getppid() != parent:
        end_with_group()
    os._exit(0)


def needs_api(task: Task) -> bool:
    """Whether it asks for a client of the API."""
    return any(hint is not Mailer for hint in task.clients.values())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--api-url", default="")
    parser.add_argument("--tasks", default="")
    parser.add_argument("--engine", default="background")
    parser.add_argument("--keep-days", type=float, default=0)
    parser.add_argument("--keep-jobs", type=int, default=0)
    parser.add_argument("--keep-background-days", type=float, default=0)
    parser.add_argument("--keep-tries", type=int, default=0)
    parser.add_argument("--log-format", default="text")
    parser.add_argument("--grace", type=float, default=2)
    parser.add_argument("--reload", type=int, default=0)
    parser.add_argument("--errors", type=int)
    given = parser.parse_args()
    set_log_format(given.log_format)
    heed_no_stop()
    keep_printing()
    starter = os.getppid()
    parent = take_stdin()

    def ready() -> None:
        """From now on what this process says goes straight to where its parent's goes."""
        if given.errors is not None:
            os.write(2, UP)
            os.dup2(given.errors, 2)
            os.close(given.errors)

    tracing.switch_on(read(argparse.Namespace(), "otel").otel)
    Users(given.database).as_source()
    carry_context()  # before anybody has `from asyncio import shield`
    gc.set_threshold(*GARBAGE)  # before their code, which may know better
    # what cannot be imported, the dashboard has said, and a job of its tasks will
    errors = import_modules(filter(None, given.tasks.split(",")))
    warn_of_hidden()
    if given.reload and errors:
        # somebody writes on it: the jobs wait, instead of ending for the half of a line
        sys.exit(str(errors[0]))
    try:
        import uvloop

        loop_factory: Any = uvloop.new_event_loop
    except ImportError:
        loop_factory = None
    sys.setswitchinterval(SWITCH)
    gc.freeze()  # what has been imported stays
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        keep = Keep(given.keep_days, given.keep_jobs, given.keep_background_days)
        worker = Worker(
            given.database,
            given.name,
            given.api_url,
            parent,
            keep,
            given.engine,
            given.grace,
            read(argparse.Namespace(), *MESSAGES),
        )
        worker.local.ledger.keep_tries = given.keep_tries
        run_to_end(runner.get_loop(), worker.serve(ready))
        tracing.end()
        end(starter)  # a thread that hangs in a task must not hold the exit


if __name__ == "__main__":
    main()
