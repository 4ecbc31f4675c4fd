"""run(job): claim items, call the task on each, finish them. Knows a ledger and a task; no SQL, no HTML, no web.

A fixed number of runner coroutines (the job's concurrency) take claimed items from a local queue; one keeper coroutine
records their results in batches and claims more, so that a database or a network is asked a few times a second and not
once per item. What a try became is decided in outcomes.py.

A body task (a function called once) runs in body.py.
"""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from rowcast.tasks.records import CLAIMABLE, Job
from rowcast.tasks.registry import Task
from rowcast.tasks.steps import Call
from rowcast.tasks.work import LEASE, SUSPECT, UNKNOWN, Claimed, Hold, Result, Work
from rowcast.worker.attempt import TimeLimit, attempt, caller_of, outcome
from rowcast.worker.body import BodyRun
from rowcast.worker.context import FLUSH, GRACE, IDLE, Context

BATCH = 1_500  # results at most in one transaction
EVERY = 0.09  # seconds between two transactions while items are in flight: one for each frame that a page is sent
AHEAD = 200.0  # milliseconds of work to claim beyond what is in flight
MOST = 3_000  # items to claim beyond what is in flight
SLOW = 90.0  # milliseconds that an item takes of which none is claimed ahead
SOON = 0.02  # seconds at least between two claims of which the first was in vain
LONGEST_WAIT = 0.5  # a wait for pace or backoff is looked at again after this, so that pause and cancel are seen
TURN = 0.5  # seconds that a slice works on its job where other jobs wait for a worker


async def run(job: Job, task: Task, context: Context) -> None:
    """Run a job until it has ended, is paused, or the worker stops. Results are in the ledger when this returns."""
    clients = {name: await context.open_client(hint, bool(job.dry_run)) for name, hint in task.clients.items()}
    if task.shape == "body":
        await BodyRun(job, task, context, clients).run()
    else:
        await ItemRun(job, task, context, clients).run()


class ItemRun:
    """One worker's run of a job with items."""

    def __init__(self, job: Job, task: Task, context: Context, clients: dict[str, Any]):
        self.job, self.task, self.context = job, task, context
        self.limit = job.concurrency or task.concurrency
        self.call = caller_of(job, task, clients)
        self.time_limit = TimeLimit(task.timeout)
        self.queue: deque[Claimed] = deque()
        self.results: list[Result] = []
        self.hold: Hold | None = None
        self.flying: dict[int, asyncio.Task[None]] = {}  # the runner of each item in flight
        self.runners: set[asyncio.Task[None]] = set()
        self.kick, self.landed = asyncio.Event(), asyncio.Event()  # for the keeper: do something; nothing is in flight
        self.status = job.status
        self.looked_at = 0.0
        self.began = time.monotonic()
        self.asked_at = time.monotonic()  # when the last call began that was answered
        self.took = SLOW  # milliseconds that an item took, of late; before one has ended, none is claimed ahead

    async def run(self) -> None:
        try:
            await self._keep()
        finally:
            await self._stop(self.runners)

    async def _keep(self) -> None:
        """Record results and claim more, until there is nothing left to do here."""
        claim_at, soon = 0.0, SOON / 8  # the first items are written in a moment
        every, stop_by = EVERY, math.inf
        while True:
            self.kick.clear()
            now = time.monotonic()
            stopping = self.context.stopping.is_set()
            if stopping and stop_by == math.inf:
                stop_by = now + GRACE
            if (stopping and now > stop_by) or self.status == "cancelled":
                self._return_unstarted()
                await self._stop(self.runners)
            going = self.status in CLAIMABLE and not stopping
            active = going and now < self.context.until
            if not going or self.held:
                self._return_unstarted()
            self._measure()
            if self.queue and not self._heard:
                await self._look(now)
            room = self.limit + self._ahead() - len(self.flying) - len(self.queue)
            limit = room if active and room > 0 and now >= claim_at else 0
            if limit or self.results or self.hold:
                work = await self._exchange(limit)
                every = self._until_half() if 0 < len(work.items) < limit and not work.filled else EVERY
                if limit and not work.items:
                    if self._idle and not work.queued and work.filled:
                        return
                    claim_at = now + max(soon, min(work.wait or (FLUSH if work.filled else 0.0), LONGEST_WAIT))
                    soon = min(2 * soon, SOON)
            if not active and self._idle:
                return
            self._staff()
            look_at = now + every if self.flying or self.queue or self.results else min(now + LONGEST_WAIT, claim_at)
            wait = max(look_at - time.monotonic(), 0.0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):  # wait_for takes two more turns of the loop, which has long ones
                    await self.kick.wait()
                await self._gather()
            if not self.results and self.flying:
                await self._look(now)

    async def _gather(self) -> None:
        """Let what ends in the same moment come into one transaction; wait for nothing where nothing is in flight."""
        if self.flying and len(self.results) < BATCH:
            self.landed.clear()
            async with asyncio.timeout(FLUSH / 5):
                await self.landed.wait()

    @property
    def _idle(self) -> bool:
        return not self.flying and not self.queue and not self.results

    @property
    def held(self) -> bool:
        """Whether the API has asked for a pause that is not over."""
        until = self.context.held.get(self.task.name, 0.0)
        return until > 0 and until > time.time()

    def _measure(self) -> None:
        """How long an item takes, on average over as many as are in flight at once: for how far to claim ahead."""
        if times := [result.ms for result in self.results if result.ms is not None]:
            self.took += (sum(times) / len(times) - self.took) * min(1.0, len(times) / self.limit)

    def _until_half(self) -> float:
        """Seconds until half of what waits here has begun: while a job is being written, there is more of it by then."""
        return min(max(SOON, len(self.queue) / 2 * self.took / 1000 / self.limit), EVERY)

    def _ahead(self) -> int:
        """Items to claim beyond the limit, so that no runner waits for a transaction.

        None where a claim is a risk, or an item takes so long that the wait is little beside it. Few where a stop rule may
        be hit: what has been claimed may begin before the rule's word is heard.
        """
        if not self.job.idempotent or self.took >= SLOW:
            return 0
        # Little's law: as many at once, for so long each
        ahead = min(math.ceil(self.limit / max(self.took, 0.1) * AHEAD), MOST)
        return min(ahead, self.limit) if self.job.stop_after else ahead

    def _stand(self, work: Work) -> None:
        self.status = work.status
        self.limit = work.concurrency or self.limit
        self._hold(work.hold_until)
        if work.waiting:
            self.context.until = min(self.context.until, self.began + TURN)

    def _hold(self, until: float) -> None:
        self.context.held[self.task.name] = max(until, self.context.held.get(self.task.name, 0.0))

    async def _accept(self, items: list[Claimed]) -> None:
        """Queue what was claimed. What is in flight here already was given up and claimed again: that try ends first."""
        if again := {item.id for item in items if item.attempt > 1}:
            self.queue = deque(item for item in self.queue if item.id not in again)
            if stale := [runner for item, runner in self.flying.items() if item in again]:
                await self._stop(stale)
        self.queue.extend(items)

    def _staff(self) -> None:
        """As many runners as items may be in flight, and no more than there is something to do for."""
        wanted = min(self.limit, len(self.queue) + len(self.flying))
        for _ in range(wanted - len(self.runners)):
            runner = asyncio.create_task(self._runner())
            self.runners.add(runner)
            runner.add_done_callback(self.runners.discard)  # one that was cancelled before it began cannot do it itself

    async def _runner(self) -> None:
        this = asyncio.current_task()
        assert this
        try:
            while self.queue and len(self.runners) <= self.limit and not self.held and self._heard:
                item = self.queue.popleft()
                self.flying[item.id] = this
                try:
                    if item.crashes >= SUSPECT and self.context.run_alone:
                        result = await self._run_alone(item, self.context.run_alone)
                    else:
                        result, hold = await attempt(self.job, self.task, self.call, item, self.time_limit, this)
                        if hold:
                            self._ask_for(hold)
                except asyncio.CancelledError:
                    self.results.append(self._interrupted(item))
                    raise
                finally:
                    if self.flying.get(item.id) is this:  # it may have been given to another runner meanwhile
                        del self.flying[item.id]
                    if not self.flying:
                        self.landed.set()
                self.results.append(result)
                if not self.queue or len(self.results) >= BATCH:
                    self.kick.set()
        finally:
            self.runners.discard(this)

    def _ask_for(self, hold: Hold) -> None:
        """The API asks for a pause: nothing begins here from now on, and the ledger is told."""
        self.hold = max(hold, self.hold or hold, key=lambda h: h.until)
        self._hold(hold.until)
        self.kick.set()

    async def _run_alone(self, item: Claimed, run_alone: Callable[[Job, Claimed], Awaitable[Result]]) -> Result:
        try:
            return await run_alone(self.job, item)
        except Exception as error:  # the machine has no process left for it, say
            return outcome(self.task, item, Call(self.job.id, item.id), error, time.perf_counter())[0]

    def _interrupted(self, item: Claimed) -> Result:
        """A try that the stopping worker broke off: nobody knows whether it landed, unless it may be repeated."""
        if self.job.idempotent:
            return Result(item.id, item.attempt, "queued")
        return Result(item.id, item.attempt, "unknown", error=f"The worker stopped while this ran; {UNKNOWN}")

    async def _exchange(self, limit: int) -> Work:
        """Record what has ended, and claim up to `limit` items, in one call."""
        ledger, job, worker = self.context.ledger, self.job.id, self.context.worker
        results, self.results, hold, self.hold = self.results, [], self.hold, None
        held = len(self.flying) + len(self.queue)
        if results or hold:
            work = await self._ask(ledger.finish(job, worker, results, [], None, hold, limit, held))
        else:
            work = await self._ask(ledger.claim(job, worker, limit, held))
        self._stand(work)
        await self._accept(work.items)
        return work

    async def _ask(self, call: Awaitable[Work]) -> Work:
        asked_at = time.monotonic()
        work = await call
        self.asked_at = asked_at
        return work

    @property
    def _heard(self) -> bool:
        """Whether the ledger was heard of lately. Where not, for this process slept, say, what waits here may have been
        taken back meanwhile, and nothing of it begins before a look."""
        return time.monotonic() < self.asked_at + LEASE / 2

    async def _look(self, now: float) -> None:
        """Learn of a pause or a cancel while every item is in flight, and of items that were taken away from here."""
        if now >= self.looked_at + IDLE:
            self.looked_at = now
            flying = dict(self.flying)
            work = await self._ask(self.context.ledger.claim(self.job.id, self.context.worker, 0))
            self._stand(work)
            if work.mine is not None:
                self.queue = deque(item for item in self.queue if item.id in work.mine)
                lost = [item for item in flying if item not in work.mine and self.flying.get(item) is flying[item]]
                await self._stop([flying[item] for item in lost])

    def _return_unstarted(self) -> None:
        """Give back what was claimed and has not begun."""
        self.results += [Result(item.id, item.attempt, "queued") for item in self.queue]
        self.queue.clear()

    async def _stop(self, runners: Collection[asyncio.Task[None]]) -> None:
        """Break off what these runners have in flight; a call that will not be broken off is left to itself."""
        runners = list(runners)
        for runner in runners:
            runner.cancel()
        if runners:
            await asyncio.wait(runners, timeout=GRACE)
