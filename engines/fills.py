"""The writing of jobs' items: what a source yields goes into the table chunk by chunk, each in a thread."""

import asyncio
import threading
from functools import partial

import anyio

from rowcast.engines.local import PAUSE, LocalLedger
from rowcast.jobs import Jobs
from rowcast.tables.ledger import AWAY, FULL
from rowcast.tables.seals import NotOpened
from rowcast.tasks.records import Job, decode
from rowcast.tasks.registry import Task
from rowcast.tasks.sentences import worded
from rowcast.tasks.sources import chunks
from rowcast.tasks.trouble import Trouble
from rowcast.tasks.work import FIRST_CHUNK, Chunk
from rowcast.worker.capture import capture
from rowcast.worker.hiding import Hider, current_hider

READERS = 20  # item sources that are read at once,
LONG = 1.0  # but for those that have been read for more seconds than this


class Fills:
    """The fills of one worker, until it has `ended`."""

    def __init__(self, jobs: Jobs, local: LocalLedger, ended: threading.Event):
        self.jobs = jobs
        self.local = local
        self.ended = ended
        self.readers = anyio.CapacityLimiter(READERS)

    async def write(self, job: Job, task: Task, there: int) -> str:
        """Write the items that the task's source yields, going on behind those that are there already.

        Returns what kept them from being read, '' if nothing did. Many small jobs take turns; who takes long,
        as a source may that asks somebody, is not waited for.
        """
        loop = asyncio.get_running_loop()
        async with self.readers:
            aside = 0

            def step_aside() -> None:
                nonlocal aside
                aside = 1
                self.readers.total_tokens += aside

            after = loop.call_later(LONG, step_aside)
            try:
                last = await anyio.to_thread.run_sync(
                    partial(self._read, job, task, there),
                    limiter=anyio.CapacityLimiter(1),
                    abandon_on_cancel=True,
                )
            finally:
                after.cancel()
                self.readers.total_tokens -= aside
        if isinstance(last, str):
            return last
        await self.local.insist(job.id, self.jobs.add_items, job.id, *last)
        return ""

    def _read(self, job: Job, task: Task, there: int) -> str | tuple[Chunk, int]:
        """Write what the source yields; a small last chunk is given back with its place, as this thread has
        no more to do. What kept the items from being read is a text.
        """
        hider = Hider()
        try:
            assert task.items
            opened = self.jobs.opened(job)
            if hider := Hider(opened.values()):
                capture()
                current_hider.set(hider)  # what its source prints
            given = task.source_values(decode(job.args), opened)
            for chunk in chunks(task.items, given, there, job.dry_run or None):
                if hider and any(hider.is_in(text or "") for row in decode(chunk.rows) for text in row):
                    raise ValueError(worded("an item has a secret in it, and items are shown"))
                if chunk.last and chunk.size <= FIRST_CHUNK and not self.ended.is_set():
                    return chunk, there
                if self.ended.is_set() or not self._add(job.id, chunk, there):
                    break
                there += chunk.size
            return ""
        except NotOpened as error:
            return str(error)
        except BaseException as error:  # a source is the user's: an exit() in it is an error of its own
            return hider(worded(f"The items could not be read: {type(error).__name__}: {error}"))

    def _add(self, job: int, chunk: Chunk, at: int) -> bool:
        """One chunk into the table; while the disk is full it waits, and the job shows so.

        Where the process dies, the next one goes on here.
        """
        wait = Trouble(f"The writing of job {job}")
        while True:
            try:
                if chunk.size > FIRST_CHUNK:
                    added = self.jobs.add_items(job, chunk, at)
                else:  # of many small jobs at once
                    added = self.local.writer.wait(self.jobs.add_items, job, chunk, at, rows=chunk.size)
                self.local.blocked.discard(job)
                wait.over()
                return added
            except (*AWAY, *FULL) as error:
                wait.meet(error)
                if isinstance(error, FULL):
                    self.local.block(job)
                if self.ended.wait(PAUSE):
                    return False
