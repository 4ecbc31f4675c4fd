"""The embedded engine's child process: it runs every active job of one database, side by side on one event loop.

It is started and watched by engine.py and ends with it: its standard input is a pipe, and end of file means that the parent
is gone. A line on the pipe is a ring: there is something new, or the address of the demo API. `--alone` runs one
suspect item, one whose worker died while it ran, in a process of its own.
"""

import argparse
import asyncio
import contextlib
import importlib
import itertools
import logging
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from typing import Any

import apsw
import msgspec

from rowcast import ledger as local
from rowcast.clients import Clients
from rowcast.database import set_default_database
from rowcast.jobs import Jobs
from rowcast.keeping import Keep, prune
from rowcast.records import CHUNK, CLAIMABLE, LEASE, Claimed, Ended, Hold, Job, Result, Step, Work, encode
from rowcast.registry import Task, load
from rowcast.runner import Context, attempt, caller, run
from rowcast.schedules import start_due

log = logging.getLogger("rowcast")
LOOK = 0.1  # seconds between two looks at the counter
RESCUE = 1.0  # seconds between two rescues
PRUNE = 3600  # seconds between two prunings
ALONE_AT_ONCE = 2
FULL = (apsw.FullError, apsw.IOError)
FULL_REASON = "The disk is full: the job goes on by itself when there is room."


class LocalLedger:
    """runner.Ledger over the database of this machine, its transactions on one thread of their own."""

    def __init__(self, path: str):
        self.ledger = local.Ledger(path)
        self.thread = ThreadPoolExecutor(1, "ledger")

    async def do(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.thread, function, *args)

    async def claim(self, job: int, worker: str, limit: int, held: int = 0) -> Work:
        return await self.insist(job, self.ledger.claim, job, worker, limit, held)

    async def finish(
        self,
        job: int,
        worker: str,
        results: list[Result],
        steps: list[Step],
        ended: Ended | None = None,
        hold: Hold | None = None,
    ) -> Work:
        return await self.insist(job, self.ledger.finish, job, worker, results, steps, ended, hold)

    async def take_body(self, job: int, worker: str) -> list[Step] | None:
        return await self.insist(job, self.ledger.take_body, job, worker)

    async def insist(self, job: int, function: Callable[..., Any], *args: Any) -> Any:
        """Do it; while the disk is full the job shows as paused, what is to be written waits, and it is tried again."""
        blocked = False
        while True:
            try:
                done = await self.do(function, *args)
                break
            except FULL as error:
                log.warning("job %s waits: %s", job, error)
                with contextlib.suppress(*FULL):
                    await self.do(self.ledger.block, job, FULL_REASON)
                blocked = True
                await asyncio.sleep(1)
        if blocked:
            await self.do(self.ledger.unblock, job, FULL_REASON)
        return done


class Worker:
    """The child's whole state: the jobs it runs, and the word to stop."""

    def __init__(self, path: str, name: str, api_url: str, keep: Keep = Keep()):
        self.path, self.name, self.api_url, self.keep = path, name, api_url, keep
        self.jobs = Jobs(path)
        self.clients = Clients(lambda: self.api_url)
        self.local = LocalLedger(path)
        self.context = Context(name, self.local, self.clients.open, self._run_alone)
        self.runs: dict[int, asyncio.Task[None]] = {}
        self.ring = asyncio.Event()
        self.alone = asyncio.Semaphore(ALONE_AT_ONCE)
        self.ended = threading.Event()

    async def serve(self) -> None:
        """Run what there is to run until the parent goes away, then put back what is in flight."""
        threading.Thread(target=self._stay_alive, name="heartbeat", daemon=True).start()
        listener = asyncio.create_task(self._listen())
        keeper = asyncio.create_task(self._keep_house())
        seen, looked_at = -1, 0.0
        while not self.context.stopping.is_set():
            seq = self.jobs.seq()
            if seq != seen or self.ring.is_set() or time.monotonic() > looked_at + 1:  # a job may have become due
                self.ring.clear()
                seen, looked_at = seq, time.monotonic()
                self._start_runs()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ring.wait(), LOOK)
        keeper.cancel()
        self.ended.set()
        await asyncio.gather(*self.runs.values(), return_exceptions=True)
        with contextlib.suppress(apsw.Error):
            self._beat(alive=False)
        await self.clients.close()
        listener.cancel()

    def _start_runs(self) -> None:
        for job in self.jobs.active():
            runnable = job.status in CLAIMABLE or (job.status == "paused" and not job.filled and job.shape == "items")
            if job.engine == "background" and job.id not in self.runs and runnable:
                made = self.runs[job.id] = asyncio.create_task(self._run(job))
                made.add_done_callback(partial(self._ran, job.id))

    def _ran(self, job: int, _: asyncio.Task[None]) -> None:
        del self.runs[job]
        self.ring.set()

    async def _run(self, job: Job) -> None:
        """Fill and run one job; whatever keeps it from running is its reason to fail."""
        try:
            task = await asyncio.to_thread(load, job.entry)
        except BaseException as error:
            self.jobs.fail(job.id, f"The task {job.entry} cannot be imported: {type(error).__name__}: {error}")
            return
        filler = None
        if job.shape == "items" and not job.filled:
            filler = asyncio.create_task(asyncio.to_thread(self._fill, job, task))
        try:
            if job.status in CLAIMABLE and (started := self.jobs.start(job.id)):
                await run(started, task, self.context)
            if filler:
                await filler
            await asyncio.sleep(LOOK)
        except Exception as error:
            log.exception("job %s", job.id)
            self.jobs.fail(job.id, f"The job could not run: {type(error).__name__}: {error}")

    def _fill(self, job: Job, task: Task) -> None:
        """Write the job's items from the task's source, in chunks, going on behind those that are there already."""
        try:
            rows = itertools.islice(map(as_row, task.source(job.json()["args"])), job.total, job.dry_run or None)
            while True:
                chunk = list(itertools.islice(rows, CHUNK))
                last = len(chunk) < CHUNK
                if self.context.stopping.is_set() or not self._add(job.id, chunk, last) or last:
                    return
        except Exception as error:
            self.jobs.fail(job.id, f"The items could not be read: {type(error).__name__}: {error}")

    def _add(self, job: int, chunk: list[tuple[str, str | None]], last: bool) -> bool:
        """One chunk into the table; while the disk is full it waits. Where the process dies, the next one goes on here."""
        while True:
            try:
                return self.jobs.add_items(job, chunk, last)
            except FULL as error:
                log.warning("job %s waits for room: %s", job, error)
                if self.ended.wait(1):
                    return False

    async def _keep_house(self) -> None:
        """Take back what dead workers held, cancel what is left of cancelled jobs, start what is scheduled, and prune."""
        ledger, pruned_at = self.local, 0.0
        while True:
            try:
                await ledger.do(partial(ledger.ledger.rescue, me=self.name))
                await ledger.do(start_due, self.jobs)
                while await ledger.do(self.jobs.sweep):
                    await asyncio.sleep(0)
                if time.monotonic() > pruned_at + PRUNE and (self.keep.days or self.keep.jobs):
                    await ledger.do(prune, self.path, self.keep)
                    pruned_at = time.monotonic()
            except FULL:
                log.warning("The disk is full.")
            except Exception:
                log.exception("keeping house")
            await asyncio.sleep(RESCUE)

    def _beat(self, alive: bool = True) -> None:
        local.Ledger(self.path).heartbeat(self.name, platform.node(), os.getpid(), "background", version("rowcast"), alive)

    def _stay_alive(self) -> None:
        """The heartbeat, on a thread: a task that holds up the event loop does not look dead."""
        while not self.ended.wait(LEASE / 4):
            with contextlib.suppress(apsw.Error):
                self._beat()

    async def _listen(self) -> None:
        """Follow the parent's pipe: each line a JSON object, end of file the end."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            self.api_url = msgspec.json.decode(line).get("api_url") or self.api_url
            self.ring.set()
        self.context.stopping.set()
        self.ring.set()

    async def _run_alone(self, job: Job, item: Claimed) -> Result:
        """Try a suspect item in a process of its own: what kills that process is this item and no other."""
        read, write = os.pipe()
        order = encode({"job": job, "item": item, "api_url": self.api_url})
        async with self.alone:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-u", "-m", "rowcast.worker", "--alone", str(write), "--database", self.path,
                stdin=asyncio.subprocess.PIPE, pass_fds=[write],
            )  # fmt: skip
            os.close(write)
            try:
                await child.communicate(order)
                with os.fdopen(read, "rb") as answer:
                    text = answer.read()
            finally:
                if child.returncode is None:
                    child.kill()
        if text:
            return msgspec.json.decode(text, type=Result)
        return Result(item.id, item.attempt, "failed", error=died(child.returncode))


def died(returncode: int | None) -> str:
    """How a process ended that should not have."""
    if returncode is not None and returncode < 0:
        return f"The process running this died: {signal.Signals(-returncode).name}"
    return f"The process running this ended itself with code {returncode}"


def as_row(value: Any) -> tuple[str, str | None]:
    """What an item source yielded as (key, payload): a string is its own key; a dict is named by its first plain value.

    Of a dict, `key`, `email`, `name` or `id` come first. Raises TypeError for what JSON does not know.
    """
    if isinstance(value, str):
        return value, None
    payload = msgspec.json.encode(value).decode()
    if isinstance(value, dict):
        for name in ("key", "email", "name", "id", *value):
            if isinstance(value.get(name), str | int):
                return str(value[name]), payload
    return payload[:200], payload


async def _alone(answer: int) -> None:
    order = msgspec.json.decode(sys.stdin.buffer.read())
    job, item = msgspec.convert(order["job"], Job), msgspec.convert(order["item"], Claimed)
    task = load(job.entry)
    clients = Clients(lambda: order["api_url"])
    opened = {name: await clients.open(hint) for name, hint in task.clients.items()}
    result, _ = await attempt(job, task, caller(task, {**task.call_arguments(job.json()["args"]), **opened}), item)
    await clients.close()
    with os.fdopen(answer, "wb") as pipe:
        pipe.write(encode(result))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", required=True)
    parser.add_argument("--name", default="")
    parser.add_argument("--api-url", default="")
    parser.add_argument("--tasks", default="")
    parser.add_argument("--keep-days", type=float, default=0)
    parser.add_argument("--keep-jobs", type=int, default=0)
    parser.add_argument("--alone", type=int)
    given = parser.parse_args()
    # Ctrl-C and a supervisor's SIGTERM reach the whole group; it is the parent who says, by the pipe, when to stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    set_default_database(given.database)
    for module in ["rowcast.tasks", *filter(None, given.tasks.split(","))]:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    try:
        import uvloop

        loop_factory: Any = uvloop.new_event_loop
    except ImportError:
        loop_factory = None
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        if given.alone is not None:
            runner.run(_alone(given.alone))
        else:
            worker = Worker(given.database, given.name, given.api_url, Keep(given.keep_days, given.keep_jobs))
            worker._beat()
            runner.run(worker.serve())
            # a thread that hangs in a task must not hold the exit
            sys.stdout.flush()
            os._exit(0)


if __name__ == "__main__":
    main()
