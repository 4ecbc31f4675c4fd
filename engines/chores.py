"""Chores: what an engine does beside its jobs, for nobody who asks. It takes back what dead workers held,
starts what is scheduled, goes on with what was asked of many items or of many jobs, and prunes.

What may take long waits for itself alone: a retry of a million items, an act on as many jobs and a prune have
a loop of their own each, and in none of them does who asks later wait for who asked first to be done.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from rowcast.engines.local import PAUSE, LocalLedger
from rowcast.engines.spans import Spans
from rowcast.jobs import Jobs
from rowcast.tables.bulk import Bulk
from rowcast.tables.clock import keep_clock
from rowcast.tables.ledger import AWAY, FULL
from rowcast.tables.maintenance import Keep, Maintenance
from rowcast.tables.schedules import Schedules
from rowcast.tables.slots import Slots
from rowcast.tasks import clock
from rowcast.tasks.trouble import Trouble
from rowcast.tasks.work import CHUNK, LEASE
from rowcast.worker import tracing

RESCUE = 1.0  # seconds between two rescues, and two looks at what else is to be done
SPANS = "The spans of jobs"
PRUNE = 3600  # seconds between two prunings


class Chores:
    """The chores of one engine's child, which is the worker `name`."""

    def __init__(self, path: str, name: str, engine: str, keep: Keep, jobs: Jobs, local: LocalLedger):
        self.path = path
        self.name = name
        self.engine = engine
        self.keep = keep
        self.jobs = jobs
        self.local = local
        self.bulk = Bulk(path)
        self.deleted = asyncio.Event()  # there are jobs of nobody, for a prune
        self.spans: Spans | None = None
        self.troubles: dict[str, Trouble] = {}

    async def serve(self) -> None:
        """Do them until this is cancelled."""
        await asyncio.gather(
            self._look_around(),
            self._again("The sweep of jobs", self._sweep),
            self._again("The acts on many jobs", self._act_on_many),
            self._prune(),
        )

    async def _look_around(self) -> None:
        """What is over in a moment, all of it once a second."""
        do = self.local.do
        slots = Slots(self.path)
        schedules = Schedules(self.path, self.jobs.usual)
        looked_at = -math.inf
        chores: dict[str, Callable[[], Awaitable[Any]]] = {
            "The keeping of the clock": partial(in_thread, keep_clock, self.path),
            "The engine's adoption of jobs": partial(do, slots.adopt, self.engine),
            "The rescue of items": partial(do, partial(self.local.ledger.rescue, me=self.name)),
            "The start of schedules": partial(in_thread, schedules.start_due, self.engine),
            "The end of a full disk": self.local.unblock,
        }
        if tracing.on:
            chores[SPANS] = partial(in_thread, self._tell_spans, tracing.on)
            await self._attend_to(SPANS, chores[SPANS])  # from now on they are told
        while True:
            if clock.steady() > looked_at + LEASE / 2:  # nobody could reach us
                await self._attend_to("The belief in workers", partial(do, slots.believe))
            for name, chore in chores.items():
                await self._attend_to(name, chore)
            looked_at = clock.steady()
            await asyncio.sleep(RESCUE)

    async def _again(self, name: str, chore: Callable[[], Awaitable[bool]]) -> None:
        """Do it again and again; with a rest where there is no more of it."""
        while True:
            if not await self._attend_to(name, chore):
                await asyncio.sleep(RESCUE)

    async def _attend_to(self, name: str, chore: Callable[[], Awaitable[Any]]) -> Any:
        """Do it; None where that could not be done."""
        trouble = self.troubles.setdefault(name, Trouble(name))
        try:
            done = await chore()
            trouble.over()
        except Exception as error:
            trouble.meet(error)
            return None
        return done

    def _tell_spans(self, tell: tracing.Tracing) -> None:
        self.spans = self.spans or Spans(self.jobs, tell.of_job)
        self.spans.look()

    async def _sweep(self) -> bool:
        """Go on with what was asked of many items, a chunk of each job in turn; whether there may be more.

        Who asks meanwhile has the next turn. A job that cannot be swept holds up no other.
        """
        nothing: set[int] = set()  # is to be done of these now
        fault: Exception | None = None
        until = time.monotonic() + RESCUE
        more = True
        while more and time.monotonic() < until:
            more = False
            for job in await self.local.do(self.jobs.unswept):
                if job in nothing:
                    continue
                try:
                    did = await self.local.do(self.jobs.sweep, job, rows=CHUNK)
                except (*AWAY, *FULL):
                    raise
                except Exception as error:
                    did = False
                    fault = fault or error
                if not did:
                    nothing.add(job)
                more = more or did
        if fault:
            raise fault
        return more

    async def _act_on_many(self) -> bool:
        """Go on with what was asked of many jobs, for a part of each second."""
        if await in_thread(self.bulk.go_on, self.jobs.act_as_one_of_many):
            self.deleted.set()
        return False

    async def _prune(self) -> None:
        """Delete what is kept no longer, each hour, and what was deleted, soon: also what a prune has left
        that was broken off."""
        pruned_at = -math.inf
        while True:
            is_due = self.keep != Keep() and time.monotonic() > pruned_at + PRUNE
            self.deleted.clear()
            prune = partial(in_thread, Maintenance(self.path).prune, self.keep if is_due else Keep())
            if await self._attend_to("The pruning", prune) is None:
                await asyncio.sleep(PAUSE)
                continue
            if is_due:
                pruned_at = time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PRUNE):
                    await self.deleted.wait()


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Call it in a thread: one of its own, as an import may take its time."""
    return await anyio.to_thread.run_sync(
        partial(function, *args), limiter=anyio.CapacityLimiter(1), abandon_on_cancel=True
    )
