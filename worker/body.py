"""The run of a body task, a function that is called once: what its `track` and `step` report becomes the
job's steps.

It is called again where it may be, as an item is; steps that are completed are not run again. While the job
is paused it waits between two steps, and it ends at the next one once the job is cancelled.
"""

import asyncio
import inspect
import math
import re
import threading
import time
import weakref
from typing import Any, cast

import anyio.to_thread

from rowcast.tasks.records import Job, decode
from rowcast.tasks.registry import Task
from rowcast.tasks.steps import Cancelled, Reporter, current_run
from rowcast.tasks.work import CHUNK, Ended, Report, Step, shorten
from rowcast.worker.attempt import asked_for, back_off, describe, encode_result, tell, worth_another_try
from rowcast.worker.context import FLUSH, GRACE, IDLE, Context

ADDRESS = re.compile(r"0x[0-9a-fA-F]+")


class Turn:
    """One try's way to its run, the Reporter: what goes on in the thread of a try that is over is
    Cancelled.
    """

    def __init__(self, run: "BodyRun"):
        self.run = run

    def __getattr__(self, name: str) -> Any:
        if self.run.turn is not self:
            raise Cancelled
        return getattr(self.run, name)


class BodyRun:
    """One run of a body task, and the Reporter that its `track` and `step` talk to (from a thread or from
    the loop).
    """

    def __init__(self, job: Job, task: Task, context: Context, clients: dict[str, Any]):
        self.job, self.task, self.context = job, task, context
        given = decode(job.args)
        self.positional = given.pop("*", [])
        self.arguments = {**task.typed(given), **clients}
        self.steps: list[Step] = []
        self.lock = threading.Lock()
        self.status = job.status
        self.position = 0
        self.current: Step | None = None  # the step that began last, until it is completed
        self.inside = False  # the code that runs is the current step's
        self.loop: weakref.ref[Any] | None = None  # the loop whose step it is
        self.failure: BaseException | None = None  # what the current step was left with
        self.began = 0.0
        self.completed: dict[int, Step] = {}
        self.skipped = Step(0, "", "completed")
        self.looked_at = 0.0
        self.turn: Turn | None = None  # the try that goes on

    async def run(self) -> None:
        held = await self.context.ledger.take_body(self.job.id, self.context.worker)
        if held is None:
            return
        self.completed = {step.position: step for step in held}
        tries = 0
        while not self._over and (ended := await self._try()) is not None:
            tries += 1
            if not (ended.again and tries < self.task.max_attempts):
                await self._flush(ended)
                return
            await self._back_off(tries, ended)

    @property
    def _over(self) -> bool:
        return self.status == "cancelled" or self.context.stopping.is_set()

    async def _try(self) -> Ended | None:
        """Call the function once; None where the job was cancelled or the worker stops."""
        self.position, self.current, self.inside = 0, None, False
        self.turn = Turn(self)
        token = current_run.set(cast(Reporter, self.turn))
        body = asyncio.ensure_future(self._body())
        current_run.reset(token)
        stop_by = math.inf
        while not body.done():
            await asyncio.wait([body], timeout=FLUSH)
            await self._flush()
            if self.context.stopping.is_set():
                stop_by = min(stop_by, time.monotonic() + GRACE)
            if self.status == "cancelled" or time.monotonic() > stop_by:
                body.cancel()
        await self._flush()
        return None if body.cancelled() else body.result()

    async def _back_off(self, tries: int, ended: Ended) -> None:
        pause = back_off(self.task, tries) if ended.after is None else ended.after
        step = self.current or Step(0, self.job.task, "queued")
        with self.lock:
            self.steps.append(
                Step(step.position, step.key, "queued", ended.error, run_at=time.time() + pause)
            )
        until = time.monotonic() + pause
        await self._flush()  # in any case, or the next try's first step would hide that this one has ended
        while (time.monotonic() < until or self.status == "paused") and not self._over:
            await asyncio.sleep(min(IDLE, pause))
            await self._flush()

    async def _body(self) -> Ended:
        try:
            async with asyncio.timeout(self.task.timeout):
                value = await self._call()
        except asyncio.CancelledError:
            if (this := asyncio.current_task()) and this.cancelling():
                raise
            return Ended("CancelledError")
        except Cancelled:
            raise asyncio.CancelledError from None
        except BaseException as error:
            tell(self.job, self.job.task, error)
            self.turn = None
            code, message = describe(error, self.task.timeout)
            message = f"{code} {message}" if code else message
            if self.current is None and self.position:
                self.begin(self.job.task)
            return Ended(message, worth_another_try(self.task, error, code), asked_for(error))
        if self.open or not self.position:
            self.end(value)
        self._settle()
        return Ended()

    async def _call(self) -> Any:
        if self.task.is_async:
            return await self.task.function(*self.positional, **self.arguments)
        value = await anyio.to_thread.run_sync(
            lambda: self.task.function(*self.positional, **self.arguments),
            abandon_on_cancel=True,
            limiter=anyio.CapacityLimiter(1),
        )
        return await value if inspect.isawaitable(value) else value

    async def _flush(self, ended: Ended | None = None) -> None:
        """Record the steps reported since the last time; where there are none, look at the job now and
        then.
        """
        ledger, job, worker = self.context.ledger, self.job.id, self.context.worker
        with self.lock:
            steps, self.steps = self.steps, []
        if not steps and not ended:
            if time.monotonic() > self.looked_at + IDLE:
                self.looked_at = time.monotonic()
                self.status = (await ledger.look(job, worker)).status
            return
        latest = list({step.position: step for step in steps}.values())
        while len(latest) > CHUNK:  # a loop may expect a million steps; others want to write meanwhile
            self.status = (await ledger.exchange(job, worker, Report(steps=latest[:CHUNK]))).status
            latest = latest[CHUNK:]
            await asyncio.sleep(FLUSH / 5)
        work = await ledger.exchange(job, worker, Report(steps=latest, ended=ended))
        if ended is None:
            self.status = work.status

    # ---- the Reporter ----------------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        if self.inside and self.loop and self.loop() is None:
            self.leave()  # the loop was broken out of
        return self.inside

    def expect(self, keys: list[str]) -> None:
        with self.lock:
            for n, key in enumerate(keys, self.position):
                if not self._is_completed(n, key):
                    # the first step takes the place of the function's own item, which is running
                    self.steps.append(Step(n, shorten(key), "running" if n == 0 else "queued"))

    def gate(self) -> None:
        while self.status == "paused" and not self.context.stopping.is_set():
            time.sleep(FLUSH)
        self._check()

    async def gate_async(self) -> None:
        while self.status == "paused" and not self.context.stopping.is_set():
            await asyncio.sleep(FLUSH)
        self._check()

    def _check(self) -> None:
        if self._over:
            raise Cancelled

    def begin(self, key: str, loop: "weakref.ref[Any] | None" = None) -> bool:
        self._settle()
        position, self.position = self.position, self.position + 1
        if self._is_completed(position, key):
            self.skipped = self.completed[position]
            return False
        self.current = Step(position, shorten(key), "running")
        self.began, self.inside, self.loop, self.failure = time.perf_counter(), True, loop, None
        with self.lock:
            self.steps.append(self.current)
        return True

    def _is_completed(self, position: int, key: str) -> bool:
        """Whether an earlier run has completed this very step: the same key at the same place, addresses
        in memory apart.
        """
        known = self.completed.get(position)
        return known is not None and ADDRESS.sub("", known.key) == ADDRESS.sub("", shorten(key))

    def end(self, result: Any = None) -> None:
        step = self.current or Step(0, self.job.task, "running")
        text = None if result is None else encode_result(result)
        done = Step(step.position, step.key, "completed", None, text, self._ms())
        self.completed[done.position] = done
        self._close(done)

    def leave(self, failure: BaseException | None = None) -> None:
        self.inside, self.failure = False, failure

    def _settle(self) -> None:
        """What became of a step that was left is known once the task goes on: it failed, or its loop was
        broken out of.
        """
        if self.current is None:
            return
        if self.failure is None:
            self.end()
        else:
            _, message = describe(self.failure, self.task.timeout)
            self._close(Step(self.current.position, self.current.key, "failed", message, None, self._ms()))

    def _close(self, done: Step) -> None:
        with self.lock:
            self.steps.append(done)
        self.inside, self.current, self.failure = False, None, None

    def _ms(self) -> float | None:
        return (time.perf_counter() - self.began) * 1000 if self.began else None

    def recorded(self) -> Any:
        return None if self.skipped.result is None else decode(self.skipped.result)
