"""run(job): claim items, call the task on each, report them. Knows a ledger and a task; no SQL, no web.

A fixed number of runner coroutines (the job's concurrency) take claimed items from a local queue; one keeper
coroutine records their results in batches and claims more, so that a database or a network is asked a few
times a second and not once per item. When it does so is said in plan.py, what a try became in attempt.py.

A body task (a function called once) runs in body.py.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from typing import Any

from rowcast.tasks import clock
from rowcast.tasks.concurrency import Found
from rowcast.tasks.records import Job
from rowcast.tasks.registry import Task
from rowcast.tasks.steps import Call, current_call
from rowcast.tasks.work import LEASE, SUSPECT, Claimed, Hold, Report, Result, Standing, Work
from rowcast.worker.attempt import (
    TimeLimit,
    attempt,
    caller_of,
    interrupted,
    lost,
    may_hold,
    outcome,
    still_runs,
)
from rowcast.worker.beside import heed_beside
from rowcast.worker.body import BodyRun
from rowcast.worker.capture import RunLog, capture, end_log, on_its_way
from rowcast.worker.context import IDLE, LET_GO, Context, RunAlone
from rowcast.worker.finder import Finder
from rowcast.worker.hiding import Hider, current_hider
from rowcast.worker.leftovers import leave_task, number
from rowcast.worker.plan import FLUSH, REPORT_EVERY, State, ahead, average, learn, look_at, plan
from rowcast.worker.threads import patience
from rowcast.worker.tracing import run_of
from rowcast.worker.unawaited import heed_unawaited

log = logging.getLogger("rowcast")
BATCH = 1_500  # results at most in one transaction
SURE = 1.0  # seconds between two looks at a job of which the ledger says often how it stands
SHORT_SLICE = 0.5  # seconds that a slice works on its job where other jobs wait for a worker


async def run(
    job: Job,
    task: Task,
    context: Context,
    opened: dict[str, str] | None = None,
    leave: Callable[[], None] = lambda: None,
) -> None:
    """Run a job until it has ended, is paused, or the worker stops. `opened`: what its secrets are; `leave`
    is called when a function that is called once has ended, before that is recorded.

    Results are in the ledger when this returns.
    """
    heed_unawaited()
    heed_beside(task)
    capture()
    current_hider.set(Hider((opened or {}).values()))
    clients = {
        name: await context.open_client(hint, bool(job.dry_run)) for name, hint in task.clients.items()
    }
    with run_of(job):
        if task.shape == "body":
            await BodyRun(job, task, context, clients, opened or {}).run(leave)
        else:
            await ItemRun(job, task, context, clients, opened or {}).run()


class ItemRun:
    """One worker's run of a job with items."""

    def __init__(
        self, job: Job, task: Task, context: Context, clients: dict[str, Any], opened: dict[str, str]
    ):
        self.job = job
        self.task = task
        self.context = context
        self.opened = opened
        self.hider = current_hider.get() or Hider()
        self.call = caller_of(job, task, clients, opened)
        self.time_limit = TimeLimit(task.timeout)
        self.most = job.concurrency or 1
        self.priority = job.priority
        self.finder = Finder(job.least, self.most, job.found_read) if job.least else None
        self.told = job.found_read  # of what it has found
        limit = self.finder.limit if self.finder else self.most
        self.state = State(job.status, limit, idempotent=bool(job.idempotent), stop_rule=bool(job.stop_after))
        self.queue: deque[Claimed] = deque()
        self.results: list[Result] = []
        self.hold: Hold | None = None
        self.log = RunLog(self.hider)
        self.flying: dict[int, tuple[Claimed, asyncio.Task[None]]] = {}  # what is in flight, and its runner
        self.runners: set[asyncio.Task[None]] = set()
        self.places = context.places[task.name]
        self.fault: BaseException | None = None  # by which a runner has ended
        self.kick = asyncio.Event()  # the keeper is to do something
        self.landed = asyncio.Event()  # nothing is in flight
        self.turn = 0.0  # when it was to look again
        self.looked_at = 0.0
        self.began = time.monotonic()
        self.asked_at = time.monotonic()  # when the last call began that was answered

    async def run(self) -> None:
        self.places.join(self)
        self.context.runs[self.job.id] = self.ask_again
        try:
            await self._keep()
        finally:
            self.context.runs.pop(self.job.id, None)
            self.queue.clear()  # nothing more begins
            await self._stop(self.runners)
            self.places.leave(self)

    async def _keep(self) -> None:
        """Plan, exchange, staff, wait, until there is nothing left to do here."""
        while True:
            self.kick.clear()
            if self.fault:
                raise self.fault
            self._give_up()
            now = time.monotonic()
            if self.queue and not self._heard:
                await self._look(now)
            if self.results and self in self.places.in_vain:
                self.state.claim_at = now  # for what has ended there may be other items
            todo = plan(self._note(now), now)
            if todo.give_back:
                self._return_unstarted()
            if todo.break_off:
                await self._stop(self.runners)
            tells = bool(todo.claim or self.results or self.hold or self.log.lines)
            if tells:
                ended = len(self.results)
                work = await self._exchange(todo.claim)
                learn(self._count(), todo.claim, work, now)
                self._share(todo.claim, ended, work, now)
                none = (work.filled and not work.queued) or now + work.wait >= self.context.until
                if todo.claim and not work.items and none and self._nothing_left:
                    return
            if todo.last and self._nothing_left:
                return
            self.staff()
            # by the moment that was meant, not by how late it came: so there is a report for each frame
            meant = self.turn if self.turn <= now < self.turn + self.state.every else now
            self.turn = self._next_turn(look_at(self._count(), meant))
            if not tells or self.turn > time.monotonic():  # a wait takes turns of the loop, which may be long
                await self._wait(self.turn)
            if not self.results and self.flying:
                await self._look(now)

    def _note(self, now: float) -> State:
        """The state of this moment, with what the tries that have ended say."""
        state = self._count()
        self._measure()
        state.on_hold = self.on_hold
        state.until = self.context.until
        if self.context.stopping.is_set() and not state.stopping:
            state.stopping = True
            state.stop_by = now + self.context.grace
        return state

    def _measure(self) -> None:
        """How long its items take, before one of them has ended by what others of the task know."""
        state = self.state
        times = [r.ms for r in self.results if r.ms is not None]
        if not times and not state.measured and not self.places.alone and self.places.took is not None:
            state.took = self.places.took
        state.took = average(state.took, times, state.limit)
        if times:
            self.places.took = state.took
            state.measured = True

    def _share(self, claimed: int, ended: int, work: Work, now: float) -> None:
        """Who could start nothing leaves others of its task its places; who got none asks again once theirs
        end."""
        if claimed:
            self.places.rest(self, bool(work.wait) and not (self.flying or self.queue))
        if self.places.alone:
            return
        if claimed and not work.items and work.queued and not work.wait:
            self.places.in_vain[self] = None
            self.state.claim_at = max(self.state.claim_at, now + IDLE)
        elif claimed:
            self.places.in_vain.pop(self, None)
        self.places.wake(ended - len(work.items))

    def ask_again(self) -> None:
        """There may be items by now for who got none."""
        self.state.claim_at = 0.0
        self.kick.set()

    def _next_turn(self, moment: float) -> float:
        """The runs of a worker report in the same moments, so that they share their transactions."""
        if self.state.idle or self.places.alone:
            return moment
        return moment // REPORT_EVERY * REPORT_EVERY if self.state.every == REPORT_EVERY else moment

    def _count(self) -> State:
        """The state, with what is here now."""
        self.state.flying = len(self.flying)
        self.state.waiting = len(self.queue)
        self.state.ended = len(self.results)
        self.state.limit = min(self.finder.limit, self.most) if self.finder else self.most
        self.state.part = 0 if self.places.alone else max(1, min(self.places.part(self), self.state.limit))
        self.state.runs = len(self.places.runs)
        self.state.shares = self.places.shares_out(self, ahead(self.state) > 0)
        return self.state

    @property
    def _nothing_left(self) -> bool:
        """Whether there is nothing here that is to be tried, awaited or recorded."""
        return self._count().idle and not self.log.lines

    async def _wait(self, moment: float) -> None:
        """Until this moment, or until there is something to do."""
        with contextlib.suppress(TimeoutError):
            # wait_for takes two more turns of the loop, which has long ones
            async with asyncio.timeout(max(moment - time.monotonic(), 0.0)):
                await self.kick.wait()
            await self._gather()

    async def _gather(self) -> None:
        """Let what ends in the same moment come into one transaction, as long as anything is in flight."""
        if self.flying and len(self.results) < BATCH and self.places.alone:
            self.landed.clear()
            async with asyncio.timeout(FLUSH / 5):
                await self.landed.wait()

    @property
    def on_hold(self) -> bool:
        """Whether the API has asked for a pause that is not over."""
        until = self.context.hold_until.get(self.task.name, 0.0)
        return until > time.monotonic()

    def _stand(self, standing: Standing) -> None:
        self.state.status = standing.status
        tuned = (standing.concurrency or self.most, standing.priority)
        if tuned != (self.most, self.priority):
            self.most, self.priority = tuned
            self.places.tune()
        if standing.least is None:
            self.finder = None
        else:
            self.finder = self.finder or Finder(standing.least, self.most)
            self.finder.heed(standing.least, self.most)
        self._count()
        if self.task.name not in self.context.holds_untold:  # else the ledger does not know it yet
            self.context.hold_until.pop(self.task.name, None)
        self._hold(standing.hold_until)
        if standing.waiting:
            self.context.until = min(self.context.until, self.began + SHORT_SLICE)

    def _hold(self, until: float) -> None:
        """Begin nothing until that moment, here by the clock of the loop."""
        known = self.context.hold_until.get(self.task.name, 0.0)
        if until:
            self.context.hold_until[self.task.name] = max(known, time.monotonic() + until - clock.steady())

    async def _accept(self, items: list[Claimed]) -> None:
        """Queue what was claimed.

        What is in flight here already was given up and claimed again: that try ends first.
        """
        if again := {item.id for item in items if item.attempt > 1}:
            self.queue = deque(item for item in self.queue if item.id not in again)
            if stale := [runner for item, runner in self.flying.values() if item.id in again]:
                await self._stop(stale)
        self.queue.extend(items)

    def staff(self) -> None:
        """As many runners as items may be in flight, and no more than there is something to do for."""
        if self.on_hold or not self._heard:  # they would end at once
            self.places.wait(self, False)
            return
        wanted = min(self.state.limit, len(self.queue) + len(self.flying))
        while len(self.runners) < wanted and self.places.may_add(self):
            runner = asyncio.create_task(self._runner())
            self.runners.add(runner)
            self.places.taken += 1
            runner.add_done_callback(self._heed_end)
        self.places.wait(self, len(self.runners) < wanted)

    def _dismiss(self, runner: asyncio.Task[None]) -> None:
        """A runner is none of this run's any more: its place is free."""
        if runner in self.runners:
            self.runners.discard(runner)
            self.places.wait(self, bool(self.queue))
            self.places.vacate(self)

    def _heed_end(self, runner: asyncio.Task[None]) -> None:
        """A runner is over: also one that was cancelled before it began, which cannot say so itself. Where a
        fault has ended it, so is the run: the next one would meet with the same."""
        self._dismiss(runner)
        if not runner.cancelled() and (error := runner.exception()):
            self.fault = self.fault or error
            self.kick.set()

    async def _runner(self) -> None:
        this = asyncio.current_task()
        assert this
        began = time.monotonic()
        try:
            while self.queue and self._goes_on(this, began) and not self.on_hold and self._heard:
                if self.finder and not await self._its_turn(self.finder, this):
                    break
                item = self.queue.popleft()
                flight = (item, this)
                self.flying[item.id] = flight
                try:
                    result = await self._try(item, this)
                except asyncio.CancelledError:
                    self.results.append(interrupted(self.job, item))
                    raise
                finally:
                    if self.flying.get(item.id) is flight:  # else another runner has it by now
                        del self.flying[item.id]
                    if not self.flying:
                        self.landed.set()
                if this not in self.runners:  # given up: what became of it has been said
                    return
                self.results.append(result)
                if not self.queue or len(self.results) >= BATCH:
                    self.kick.set()
        finally:
            self._dismiss(this)
            self.time_limit.stopped.discard(this)

    async def _try(self, item: Claimed, this: asyncio.Task[None]) -> Result:
        """Try an item once. A fault of ours around the task's call loses no item: what is known of the try
        counts, and where nothing is, the item says that.
        """
        result = None
        try:
            if item.crashes >= SUSPECT and self.context.run_alone:
                return await self._run_alone(item, self.context.run_alone)
            result, hold = await attempt(
                self.job, self.task, self.call, item, self.time_limit, this, self.log
            )
            if hold:
                self._ask_for(hold)
            if self.finder:
                self._learn(self.finder, result)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # what a task has raised or returned may raise anything itself
            with on_its_way():
                log.exception("job %s, %s", self.job.id, item.key)
            return result or lost(self.task, item, error)
        return result

    async def _its_turn(self, finder: Finder, runner: asyncio.Task[None]) -> bool:
        """Wait until the next may begin at the pace that was found; whether there is still one that may."""
        if wait := finder.begin(time.monotonic(), len(self.flying)):
            await asyncio.sleep(wait)
        return bool(self.queue) and self._is_kept(runner) and not self.on_hold and self._heard

    def _learn(self, finder: Finder, result: Result) -> None:
        """What an answer says of what the API bears; where there was none, only that it took long. What was
        only shown says nothing.
        """
        if result.ms is None:
            return
        took = result.ms / 1000
        done = result.status == "completed"
        if done or result.code is not None or took > finder.usual > 0:
            refused = not done and may_hold(self.task, result.code)
            code = 429 if result.code == 429 else 503
            finder.end(time.monotonic(), took, code if refused else 0)

    def _news(self) -> Found | None:
        """What was found, where it is told with results and is not known yet."""
        found = self.finder.found if self.finder and self.results else None
        if found is None or found == self.told:
            return None
        self.told = found
        return found

    def _is_kept(self, runner: asyncio.Task[None]) -> bool:
        return runner in self.runners and len(self.runners) <= self.state.limit

    def _goes_on(self, runner: asyncio.Task[None], began: float) -> bool:
        return self._is_kept(runner) and not self.places.gives_way(self, began)

    def _give_up(self) -> None:
        """A try that goes on when its time is over, as it does where it catches whatever comes, gets as long
        as a plain function. Then it is left to itself, and its runner with it.
        """
        for runner, since in list(self.time_limit.late.items()):
            if time.perf_counter() < since + patience(self.task):
                continue
            for item, held_by in list(self.flying.values()):
                if held_by is runner:
                    del self.flying[item.id]
                    began = since - (self.task.timeout or 0.0)
                    self.results.append(still_runs(self.task, item, began))
            leave_task(runner)
            del self.time_limit.late[runner]
            self._dismiss(runner)
        if not self.flying:
            self.landed.set()

    def _ask_for(self, hold: Hold) -> None:
        """The API asks for a pause: nothing begins here from now on, and the ledger is told."""
        if self.hold is None:
            self.context.holds_untold[self.task.name] += 1
        self.hold = max(hold, self.hold or hold, key=lambda h: h.until)
        self._hold(hold.until)
        self.kick.set()

    async def _run_alone(self, item: Claimed, run_alone: RunAlone) -> Result:
        noted = Call(self.job.id, item.id, attempt=item.attempt, run_log=self.log)
        current_call.set(noted)  # what it says comes back with the result
        started = time.perf_counter()
        try:
            return await run_alone(self.job, item, self.opened)
        except Exception as error:  # its time is over, or the machine has no process left for it, say
            return outcome(self.task, item, noted, error, started)[0]
        finally:
            end_log(noted)

    async def _exchange(self, limit: int) -> Work:
        """Record what has ended, and claim up to `limit` items, in one call."""
        report = Report(
            self.hider.in_results(self.results),
            hold=self.hold,
            found=self._news(),
            log=self.log.take(),
            limit=limit,
            in_flight=len(self.flying) + len(self.queue),
            shares=self._count().shares,
            leftovers=number(),
        )
        self.results = []
        self.hold = None
        asked_at = time.monotonic()

        def has() -> list[tuple[int, int]]:
            """What is here of what was claimed before, also if it has ended meanwhile."""
            ended = [(result.id, result.attempt) for result in (*report.results, *self.results)]
            flying = [(item.id, item.attempt) for item, _ in self.flying.values()]
            return [*ended, *flying, *((item.id, item.attempt) for item in self.queue)]

        try:
            work = await self.context.ledger.exchange(self.job.id, self.context.worker, report, has)
        finally:
            if report.hold:
                self.context.holds_untold -= Counter({self.task.name: 1})
        self.asked_at = asked_at
        self._stand(work)
        await self._accept(work.items)
        return work

    @property
    def _heard(self) -> bool:
        """Whether the ledger was heard of lately. Where not (this process slept, say), what waits here may
        have been taken back, and nothing of it begins before a look."""
        return time.monotonic() < self.asked_at + LEASE / 2

    async def _look(self, now: float) -> None:
        """While every item is in flight, learn of a pause, a cancel, and of items that were taken away."""
        if now >= self.looked_at + (IDLE if now >= self.asked_at + IDLE else SURE):
            self.looked_at = now
            before = dict(self.flying)
            asked_at = time.monotonic()
            standing = await self.context.ledger.look(self.job.id, self.context.worker)
            self.asked_at = asked_at
            self._stand(standing)
            mine = set(standing.mine)
            if standing.status != "cancelled":  # else it is said of them that they have not begun
                self.queue = deque(item for item in self.queue if item.id in mine)
            lost = [item for item in before if item not in mine and self.flying.get(item) is before[item]]
            await self._stop([before[item][1] for item in lost])

    def _return_unstarted(self) -> None:
        """Give back what was claimed and has not begun."""
        self.results += [Result(item.id, item.attempt, "queued", begun=False) for item in self.queue]
        self.queue.clear()

    async def _stop(self, runners: Collection[asyncio.Task[None]]) -> None:
        """Break off what these runners have in flight; a call that will not be broken off is left to
        itself.
        """
        runners = list(runners)
        self.time_limit.stopped.update(runners)
        for runner in runners:
            runner.cancel()
        if runners:
            _, left = await asyncio.wait(runners, timeout=LET_GO)
            for runner in left:
                leave_task(runner)
