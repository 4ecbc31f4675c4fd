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
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from typing import Any, BinaryIO

import anyio
import anyio.to_thread
import apsw
import msgspec

from rowcast.engines.dispatch import Supply
from rowcast.jobs import Jobs
from rowcast.tables import ledger, users
from rowcast.tables.maintenance import Keep, prune
from rowcast.tables.schedules import Schedules
from rowcast.tables.slots import Slots
from rowcast.tasks.records import ACTIVE, CLAIMABLE, Job, decode
from rowcast.tasks.registry import Task, import_modules, load_or_say
from rowcast.tasks.sources import chunks
from rowcast.tasks.work import LEASE, Chunk, Claimed, Report, Result, Standing, Step, Work, ended_in
from rowcast.worker.clients import Clients
from rowcast.worker.context import GRACE, Context, Has
from rowcast.worker.isolated import run_alone, take_stdin
from rowcast.worker.runner import run

log = logging.getLogger("rowcast")
LOOK_EVERY = 0.1  # seconds between two looks at the counter
RESCUE = 1.0  # seconds between two rescues
PRUNE = 3600  # seconds between two prunings
END = GRACE + 1.5  # seconds from the parent's end until this process ends, whatever its tasks do
ALONE_AT_ONCE = 2
SWITCH = 0.0003  # seconds after which a thread that needs Python's lock gets it: the ledger's, behind a busy event loop
FULL = (apsw.FullError, apsw.IOError)
FULL_REASON = "The disk is full: the job goes on by itself when there is room."


class LocalLedger:
    """runner.Ledger over the database of this machine, its transactions on one thread of their own."""

    def __init__(self, path: str):
        self.ledger = ledger.Ledger(path)
        self.thread = ThreadPoolExecutor(1, "ledger")
        self.blocked: set[int] = set()  # jobs that wait for room on the disk
        self.done = 0  # items that have ended

    async def do(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.thread, function, *args)

    async def exchange(self, job: int, worker: str, report: Report, has: Has | None = None) -> Work:
        self.done += ended_in(report)
        return await self.insist(job, self.ledger.exchange, job, worker, report)

    async def look(self, job: int, worker: str) -> Standing:
        return await self.insist(job, self.ledger.look, job, worker)

    async def take_body(self, job: int, worker: str) -> list[Step] | None:
        return await self.insist(job, self.ledger.take_body, job, worker)

    async def insist(self, job: int, function: Callable[..., Any], *args: Any) -> Any:
        """Do it; while the disk is full the job shows as paused, what is to be written waits, and it is tried
        again.

        So it is, without a word, while somebody else holds the database for long.
        """
        while True:
            try:
                done = await self.do(function, *args)
                break
            except apsw.BusyError:
                log.warning("job %s waits: the database is busy", job)
            except FULL as error:
                log.warning("job %s waits: %s", job, error)
                self.blocked.add(job)
                with contextlib.suppress(apsw.Error):
                    await self.do(self.ledger.block, job, FULL_REASON)
                await asyncio.sleep(1)
        self.blocked.discard(job)
        return done

    async def unblock(self) -> None:
        """Let the jobs go on that waited for room, also those whose worker died meanwhile."""
        await self.do(self.ledger.unblock, FULL_REASON, self.blocked)


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
    ):
        self.path = path
        self.name = name
        self.api_url = api_url
        self.parent = parent
        self.keep = keep
        self.engine = engine
        self.jobs = Jobs(path)
        self.clients = Clients(lambda: self.api_url)
        self.local = LocalLedger(path)
        self.context = Context(name, self.local, self.clients.open, self._run_alone)
        self.runs: dict[int, asyncio.Task[None]] = {}
        self.calls: Counter[str] = Counter()  # of functions that are called once, under way, by entry
        self.fills: dict[int, asyncio.Task[None]] = {}
        self.ring = asyncio.Event()
        self.alone = asyncio.Semaphore(ALONE_AT_ONCE)
        self.ended = threading.Event()

    async def serve(self) -> None:
        """Run what there is to run until the parent goes away, then put back what is in flight."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._stay_alive, name="heartbeat", daemon=True).start()
        threading.Thread(target=self._listen, args=(loop,), name="parent", daemon=True).start()
        keeper = asyncio.create_task(self._keep_house())
        supply = (
            asyncio.create_task(Supply(self.path, self.engine).serve())
            if self.engine != "background"
            else keeper
        )
        seen = -1
        looked_at = 0.0
        while not self.context.stopping.is_set():
            try:
                seq = self.jobs.seq()
                if (
                    seq != seen or self.ring.is_set() or time.monotonic() > looked_at + 1
                ):  # a job may have become due
                    self.ring.clear()
                    seen = seq
                    looked_at = time.monotonic()
                    self._start_runs()
            except apsw.Error as error:
                log.warning("the database cannot be read: %s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ring.wait(), LOOK_EVERY)
        keeper.cancel()
        supply.cancel()
        self.ended.set()
        await asyncio.gather(*self.runs.values(), return_exceptions=True)
        with contextlib.suppress(apsw.Error):
            await self.local.do(self.local.ledger.leave, self.name)
        await self.clients.close()

    def _start_runs(self) -> None:
        for job in self.jobs.active():
            if job.engine == self.engine and job.status in ACTIVE:
                if job.shape == "items" and not job.filled:
                    self._begin(self._fill, job, self.fills)
                if job.status in CLAIMABLE and self.engine == "background" and self._has_room(job):
                    self._begin(self._run, job, self.runs)

    def _has_room(self, job: Job) -> bool:
        """Whether one more call of a function that is called once may run: as many at once as it has
        concurrency.
        """
        if job.shape == "items" or job.id in self.runs:
            return True
        if self.calls[job.entry] >= (job.concurrency or 1):
            return False
        self.calls[job.entry] += 1
        return True

    def _begin(
        self, work: Callable[[Job], Coroutine[Any, Any, None]], job: Job, going: dict[int, asyncio.Task[None]]
    ) -> None:
        """Do the work, unless it goes on already; look again when it has ended."""
        if job.id in going:
            return

        def ended(_: asyncio.Task[None]) -> None:
            del going[job.id]
            self.ring.set()

        going[job.id] = asyncio.create_task(work(job))
        going[job.id].add_done_callback(ended)

    async def _run(self, job: Job) -> None:
        """Run one job; whatever keeps it from running is its reason to fail."""
        try:
            task = await self._load(job)
            while task and task.clients and not (self.api_url or self.context.stopping.is_set()):
                await asyncio.sleep(
                    LOOK_EVERY
                )  # the first request tells a dashboard that is mounted where its demo API is
            if task and (started := await self.local.insist(job.id, self.jobs.start, job.id)):
                await run(started, task, self.context)
        except Exception as error:
            log.exception("job %s", job.id)
            await self._fail(job, f"The job could not run: {type(error).__name__}: {error}")
        finally:
            if job.shape == "body":
                self.calls[job.entry] -= 1
                self.ring.set()
        await asyncio.sleep(LOOK_EVERY)

    async def _load(self, job: Job) -> Task | None:
        task: Task | str = await in_thread(load_or_say, job.entry)
        if isinstance(task, Task):
            return task
        await self._fail(job, f"The task {job.entry} cannot be imported: {task}")
        return None

    async def _fail(self, job: Job, reason: str) -> None:
        await self.local.insist(job.id, self.jobs.fail, job.id, reason)

    async def _fill(self, job: Job) -> None:
        """Write the items of one job, unless another process does."""
        if task := await self._load(job):
            there = await self.local.insist(job.id, self.local.ledger.take_fill, job.id, self.name)
            if there is None:
                await asyncio.sleep(RESCUE)
            elif reason := await in_thread(self._read, job, task, there):
                await self._fail(job, reason)

    def _read(self, job: Job, task: Task, there: int) -> str:
        """Write the items that the task's source yields, in chunks, going on behind those that are there
        already.

        Returns what kept them from being read, '' if nothing did.
        """
        try:
            assert task.items
            for chunk in chunks(task.items, task.source_values(decode(job.args)), there, job.dry_run or None):
                if self.ended.is_set() or not self._add(job.id, chunk, there):
                    break
                there += chunk.size
            return ""
        except BaseException as error:
            return f"The items could not be read: {type(error).__name__}: {error}"

    def _add(self, job: int, chunk: Chunk, at: int) -> bool:
        """One chunk into the table; while the disk is full it waits.

        Where the process dies, the next one goes on here.
        """
        while True:
            try:
                return self.jobs.add_items(job, chunk, at)
            except (apsw.BusyError, *FULL) as error:
                log.warning("job %s waits: %s", job, error)
                if self.ended.wait(1):
                    return False

    async def _keep_house(self) -> None:
        """Take back what dead workers held, start what is scheduled, and more of what nobody asks for."""
        do = self.local.do
        slots = Slots(self.path)
        schedules = Schedules(self.path)
        pruned_at = -math.inf
        looked_at = -math.inf
        chores: list[Callable[[], Awaitable[Any]]] = [
            partial(do, slots.adopt, self.engine),
            partial(do, partial(self.local.ledger.rescue, me=self.name)),
            partial(in_thread, schedules.start_due, self.jobs.submit, self.engine),
            self.local.unblock,
            self._sweep,
        ]
        while True:
            if time.time() > looked_at + LEASE / 2:  # nobody could reach us, or our clock was moved
                await self._attend_to(partial(do, slots.believe))
            for chore in chores:
                await self._attend_to(chore)
            looked_at = time.time()
            if time.monotonic() > pruned_at + PRUNE and (self.keep.days or self.keep.jobs):
                await self._attend_to(partial(in_thread, prune, self.path, self.keep))
                pruned_at = time.monotonic()
            await asyncio.sleep(RESCUE)

    async def _attend_to(self, chore: Callable[[], Awaitable[Any]]) -> None:
        try:
            await chore()
        except (apsw.BusyError, *FULL) as error:
            log.warning("Keeping house waits: %s", error)
        except Exception:
            log.exception("keeping house")

    async def _sweep(self) -> None:
        """Go on with what was asked of many items, a chunk of each job in turn."""
        left = await self.local.do(self.jobs.unswept)
        while left:
            left = [job for job in left if await self.local.do(self.jobs.sweep, job)]

    def beat(self) -> None:
        """Say that this worker lives."""
        ledger.Ledger(self.path).heartbeat(
            self.name, platform.node(), os.getpid(), "background", version("rowcast"), done=self.local.done
        )

    def _stay_alive(self) -> None:
        """The heartbeat, on a thread: a task that holds up the event loop does not look dead."""
        while not self.ended.wait(LEASE / 4):
            with contextlib.suppress(apsw.Error):
                self.beat()

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Follow the parent's pipe: each line a JSON object, end of file the end, soon also for a loop
        that is held up.
        """
        for line in self.parent:
            self.api_url = msgspec.json.decode(line).get("api_url") or self.api_url
            loop.call_soon_threadsafe(self.ring.set)
        loop.call_soon_threadsafe(self.context.stopping.set)
        loop.call_soon_threadsafe(self.ring.set)
        time.sleep(END)
        os._exit(1)

    async def _run_alone(self, job: Job, item: Claimed) -> Result:
        async with self.alone:
            return await run_alone(job, item, self.api_url)


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Call it in a thread: one of its own, as an item source or an import may take its time."""
    return await anyio.to_thread.run_sync(
        partial(function, *args), limiter=anyio.CapacityLimiter(1), abandon_on_cancel=True
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--api-url", default="")
    parser.add_argument("--tasks", default="")
    parser.add_argument("--engine", default="background")
    parser.add_argument("--keep-days", type=float, default=0)
    parser.add_argument("--keep-jobs", type=int, default=0)
    given = parser.parse_args()
    # Ctrl-C and a supervisor's SIGTERM reach the whole group; it is the parent who says, by the pipe, when to
    # stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = take_stdin()
    users.read_from(given.database)
    # what cannot be imported, the dashboard has said, and a job of its tasks will
    import_modules(filter(None, given.tasks.split(",")))
    try:
        import uvloop

        loop_factory: Any = uvloop.new_event_loop
    except ImportError:
        loop_factory = None
    sys.setswitchinterval(SWITCH)
    gc.freeze()  # what has been imported stays
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        keep = Keep(given.keep_days, given.keep_jobs)
        worker = Worker(given.database, given.name, given.api_url, parent, keep, given.engine)
        worker.beat()
        runner.run(worker.serve())
        # a thread that hangs in a task must not hold the exit
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
