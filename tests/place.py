"""A worker inside the test's own process: the real ledger, the real runner, and no server around them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from conftest import until

from rowcast.engines.local import LocalLedger
from rowcast.jobs import Jobs
from rowcast.tables.ledger import Ledger
from rowcast.tables.schema import prepare
from rowcast.tasks.records import Job, Options
from rowcast.tasks.registry import task
from rowcast.tasks.sources import Source, chunks
from rowcast.tasks.work import Chunk, Standing
from rowcast.worker.clients import Clients
from rowcast.worker.context import Context
from rowcast.worker.runner import run

OWNER = "local"


async def seen(condition: Callable[[], Any]) -> None:
    """Return once it is so, without holding up the loop."""
    await asyncio.to_thread(until, condition)


async def it_has_looked(context: Context) -> None:
    """Return when the run has heard, and heeded, how its job stands by now."""
    look = context.ledger.look
    looks = list[int]()

    async def noted(job: int, worker: str) -> Standing:
        standing = await look(job, worker)
        looks.append(job)
        return standing

    context.ledger.look = noted
    # the first may have been asked before; the second is once the first was heeded, and so is the third
    await seen(lambda: len(looks) >= 3)
    context.ledger.look = look


class Place:
    """One database, and a worker in this process that runs one job of it."""

    def __init__(self, path: str):
        prepare(path)
        self.path = path
        self.jobs = Jobs(path)
        self.ledger = Ledger(path)

    def begin(
        self,
        function: Callable[..., Any],
        items: Sequence[str] = (),
        source: Source | None = None,
        options: Options = Options(),
        **how: Any,
    ) -> Job:
        """A running job of a task that is made of the function, with these settings of the task; its items
        are given, or those of a source.
        """
        args = how.pop("args", {})
        if source:
            how["items"] = source
        made = task(name=f"{function.__module__}_{function.__name__}", **how)(function)
        job, _ = self.jobs.submit(made, args, OWNER, "background", options)
        self.jobs.start(job.id)
        if items:
            self.jobs.add_items(job.id, Chunk.of([(key, None) for key in items], last=True))
        if source:
            for chunk in chunks(source, {}, 0, None):
                self.jobs.add_items(job.id, chunk)
        self.made = made
        return self.job(job)

    def run(
        self, job: Job, worker: str = "one", meanwhile: Callable[[Context], Awaitable[None]] | None = None
    ) -> None:
        """Run the job here until it ends, or is stopped by `meanwhile`; then the worker leaves in good order."""

        async def all_of_it() -> None:
            context = Context(worker, LocalLedger(self.path), Clients(lambda: "").open)
            self.ledger.heartbeat(worker, "elsewhere", 1, "background", "1")
            running = asyncio.create_task(run(self.jobs.job(job.id, OWNER), self.made, context))
            if meanwhile:
                await meanwhile(context)
            await running
            self.ledger.leave(worker)

        asyncio.run(all_of_it())

    def found(self, job: Job) -> list[tuple[str, str]]:
        return [(item.key, item.status) for item in self.jobs.items(job.id)]

    def job(self, job: Job) -> Job:
        return self.jobs.job(job.id, OWNER)
