"""The run of a body task, a function that is called once: what its `track` and `step` report are its items.

It is called again where it may be, as an item is; steps that are completed, known by their keys, are not run
again. While the job is paused it waits between two steps, and it ends at the next one once the job is
cancelled.
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

from rowcast.tasks import clock
from rowcast.tasks.registry import Task
from rowcast.tasks.steps import current_run
from rowcast.tasks.work import CHUNK, Ended, Report, Step
from rowcast.worker.attempt import back_off
from rowcast.worker.beside import hide
from rowcast.worker.context import IDLE, LET_GO
from rowcast.worker.leftovers import leave_task, number
from rowcast.worker.plan import FLUSH
from rowcast.worker.reporter import Body, TimeLimit, Try
from rowcast.worker.threads import patience


class BodyRun(Body):
    """One worker's run of a body task: it calls the function, again where it may, and records the steps."""

    looked_at = 0.0

    async def run(self, leave: Callable[[], None]) -> None:
        """`leave` is called when the function is called no more, before its end is recorded."""
        known = await self.context.ledger.take_body(self.job.id, self.context.worker)
        if known is None:
            return
        self.rows = {step.position: step for step in known}
        tries = 0
        while not self.over:
            this = Try(self)
            if tries and this.own and this.alone:  # called again: nobody is to take it for one that waits
                self.note(Step(this.own.position, this.own.key, "running"))
                await self._flush()
                if self.over:
                    break
            ended = await self._follow(this)
            if ended is None:
                return
            tries += 1
            if not (ended.again and tries < self.task.max_attempts):
                self.note(*this.broken_off())
                leave()
                await self._flush(ended)
                return
            await self._flush()  # what this try did, before the next one is told of
            self.note(*this.put_back())
            await self._back_off(this.bearer, tries, ended)
        if not tries:  # the worker stops: what was never called may be called
            held = [step for step in known if step.status == "running"]
            self.note(*(Step(step.position, step.key, "queued") for step in held))
            await self._flush()

    async def _follow(self, this: Try) -> Ended | None:
        """Make a try, and record its steps meanwhile; None where the job was cancelled or the worker
        stops.
        """
        token = current_run.set(this)
        body = asyncio.ensure_future(this.call())
        current_run.reset(token)
        hide(body)
        try:
            gave_up = await self._await(body, this.limit)
        except BaseException:  # its job goes on elsewhere, or not at all: nothing more is done here
            self._break_off(body)
            body.add_done_callback(hear)
            raise
        finally:
            leave_task(body)
        ended = None
        if not body.done():
            body.add_done_callback(hear)
            ended = None if gave_up else this.give_up()
        elif not body.cancelled():
            ended = body.result()
        elif not (self.stopped or self.over):  # by the task's own code, at its very end
            ended = await this.end_with(asyncio.CancelledError())
        if ended is None:
            await self._flush()
        return ended

    async def _await(self, body: "asyncio.Task[Any]", limit: TimeLimit) -> bool:
        """Record what a call does until it has ended, or will not; whether it was broken off."""
        stop_by = math.inf
        give_up = math.inf  # on a call that will not be broken off
        over_by = time.monotonic() + time_of(self.task)
        while time.monotonic() < min(give_up, over_by + limit.stands):
            await asyncio.wait([body], timeout=FLUSH)
            if body.done():  # its last steps are recorded with what it has ended with
                break
            await self._flush()
            if self.context.stopping.is_set():
                stop_by = min(stop_by, time.monotonic() + self.context.grace)
            if self.status == "cancelled" or time.monotonic() > stop_by:
                self._break_off(body)
                give_up = min(give_up, time.monotonic() + LET_GO)
        return give_up < math.inf

    def _break_off(self, body: "asyncio.Task[Any]") -> None:
        self.stopped = True
        body.cancel()

    async def _back_off(self, left: Step | None, tries: int, ended: Ended) -> None:
        """Wait for the next try; the step that the last one has `left` shows it."""
        pause = back_off(self.task, tries) if ended.after is None else ended.after
        step = left or Step(0, self.job.task, "queued")
        self.note(Step(step.position, step.key, "queued", ended.error, run_at=clock.steady() + pause))
        until = time.monotonic() + pause
        await self._flush()  # in any case, or the next try's first step would hide that this one has ended
        while ((left_for := until - time.monotonic()) > 0 or await self._is_paused()) and not self.over:
            await asyncio.sleep(min(IDLE, left_for) if left_for > 0 else IDLE)
            await self._flush()

    async def _is_paused(self) -> bool:
        """Whether a person has paused the job up to now."""
        self.looked_at = 0.0
        await self._flush()
        return self.status == "paused"

    async def _flush(self, ended: Ended | None = None) -> None:
        """Record the steps noted since the last time; where there are none, look at the job now and then."""
        ledger = self.context.ledger
        job = self.job.id
        worker = self.context.worker
        with self.lock:
            steps = self.steps
            self.steps = []
            upto = self.noted
        if not steps and not ended and not self.log.lines:
            if time.monotonic() > self.looked_at + IDLE:
                self.looked_at = time.monotonic()
                self.status = (await ledger.look(job, worker)).status
            return
        latest = self.hider.in_steps(list({step.position: step for step in steps}.values()))
        while len(latest) > CHUNK:  # a loop may expect a million steps; others want to write meanwhile
            self.status = (await ledger.exchange(job, worker, Report(steps=latest[:CHUNK]))).status
            latest = latest[CHUNK:]
            await asyncio.sleep(FLUSH / 5)
        ended = self.hider.in_end(ended)
        work = await ledger.exchange(
            job, worker, Report(steps=latest, ended=ended, log=self.log.take(), leftovers=number())
        )
        while self.log.lines:
            await ledger.exchange(job, worker, Report(log=self.log.take()))
        self.recorded = upto
        if ended is None:
            self.status = work.status


def time_of(task: Task) -> float:
    """Seconds after which a call has ended by itself, or will not."""
    return task.timeout + patience(task) + LET_GO if task.timeout else math.inf


def hear(call: "asyncio.Task[Any]") -> None:
    """Of a call that was given up nobody asks any more what it has ended with."""
    if not call.cancelled():
        call.exception()
