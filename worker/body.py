"""The run of a body task, a function that is called once: what its `track` and `step` report are its items.

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
from typing import Any

import anyio.to_thread

from rowcast.tasks.records import Job, decode
from rowcast.tasks.registry import Task
from rowcast.tasks.steps import Cancelled, current_run
from rowcast.tasks.work import CHUNK, Ended, Report, Step, shorten
from rowcast.worker.attempt import asked_for, back_off, describe, encode_result, tell, worth_another_try
from rowcast.worker.context import FLUSH, GRACE, IDLE, Context

ADDRESS = re.compile(r"0x[0-9a-fA-F]+")


class BodyRun:
    """One worker's run of a body task: it calls the function, again where it may, and records the steps."""

    def __init__(self, job: Job, task: Task, context: Context, clients: dict[str, Any]):
        self.job = job
        self.task = task
        self.context = context
        given = decode(job.args)
        self.positional = given.pop("*", [])
        self.arguments = {**task.typed(given), **clients}
        self.status = job.status
        self.steps: list[Step] = []  # reported, and not yet recorded
        self.lock = threading.Lock()  # for `steps`
        self.completed: dict[int, Step] = {}
        self.looked_at = 0.0

    async def run(self) -> None:
        held = await self.context.ledger.take_body(self.job.id, self.context.worker)
        if held is None:
            return
        self.completed = {step.position: step for step in held}
        tries = 0
        while not self.over:
            this = Try(self)
            ended = await self._follow(this)
            if ended is None:
                return
            tries += 1
            if not (ended.again and tries < self.task.max_attempts):
                await self._flush(ended)
                return
            await self._back_off(this.current, tries, ended)

    @property
    def over(self) -> bool:
        """Whether the job was cancelled, or the worker stops."""
        return self.status == "cancelled" or self.context.stopping.is_set()

    @property
    def waits(self) -> bool:
        """Whether the job is paused, and what runs is to wait between two steps."""
        return self.status == "paused" and not self.context.stopping.is_set()

    def note(self, *steps: Step) -> None:
        """Have these recorded soon; from a thread or from the loop."""
        with self.lock:
            self.steps.extend(steps)

    async def _follow(self, this: "Try") -> Ended | None:
        """Make a try, and record its steps meanwhile; None where the job was cancelled or the worker
        stops.
        """
        token = current_run.set(this)
        body = asyncio.ensure_future(this.call())
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

    async def _back_off(self, left: Step | None, tries: int, ended: Ended) -> None:
        """Wait for the next try; the step that the last one has `left` shows it."""
        pause = back_off(self.task, tries) if ended.after is None else ended.after
        step = left or Step(0, self.job.task, "queued")
        self.note(Step(step.position, step.key, "queued", ended.error, run_at=time.time() + pause))
        until = time.monotonic() + pause
        await self._flush()  # in any case, or the next try's first step would hide that this one has ended
        while (time.monotonic() < until or self.status == "paused") and not self.over:
            await asyncio.sleep(min(IDLE, pause))
            await self._flush()

    async def _flush(self, ended: Ended | None = None) -> None:
        """Record the steps noted since the last time; where there are none, look at the job now and then."""
        ledger = self.context.ledger
        job = self.job.id
        worker = self.context.worker
        with self.lock:
            steps = self.steps
            self.steps = []
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


class Try:
    """One call of the function, and the Reporter of its `track` and `step`, in a thread or on the loop.

    What goes on in the thread of a try that is over is Cancelled.
    """

    def __init__(self, run: BodyRun):
        self.run = run
        self.position = 0  # of the next step
        self.current: Step | None = None  # the step that began last, until it is completed
        self.inside = False  # the code that runs is the current step's
        self.loop: weakref.ref[Any] | None = None  # the loop whose step it is
        self.failure: BaseException | None = None  # what the current step was left with
        self.began = 0.0
        self.skipped = Step(0, "", "completed")  # the step that `begin` has just refused
        self.over = False

    async def call(self) -> Ended:
        """Call the function, and say how it ended.

        Raises asyncio.CancelledError where the run breaks it off.
        """
        job = self.run.job
        task = self.run.task
        try:
            async with asyncio.timeout(task.timeout):
                value = await self._value()
        except asyncio.CancelledError:
            if (this := asyncio.current_task()) and this.cancelling():
                raise
            return Ended("CancelledError")
        except Cancelled:
            raise asyncio.CancelledError from None
        except BaseException as error:  # an exit() too is the task's error, not the worker's end
            self.over = True
            tell(job, job.task, error)
            code, message = describe(error, task.timeout)
            message = f"{code} {message}" if code else message
            if self.current is None and self.position:
                self._begin(job.task)
            return Ended(message, worth_another_try(task, error, code), asked_for(error))
        if self.open or not self.position:
            self.end(value)
        self._settle()
        return Ended()

    async def _value(self) -> Any:
        function = self.run.task.function
        positional = self.run.positional
        arguments = self.run.arguments
        if self.run.task.is_async:
            return await function(*positional, **arguments)
        value = await anyio.to_thread.run_sync(
            lambda: function(*positional, **arguments),
            abandon_on_cancel=True,
            limiter=anyio.CapacityLimiter(1),
        )
        return await value if inspect.isawaitable(value) else value

    # ---- the Reporter ----------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        self._check_try()
        if self.inside and self.loop and self.loop() is None:
            self.leave()  # the loop was broken out of
        return self.inside

    def expect(self, keys: list[str]) -> None:
        self._check_try()
        steps = [
            # the first step takes the place of the function's own item, which is running
            Step(n, shorten(key), "running" if n == 0 else "queued")
            for n, key in enumerate(keys, self.position)
            if not self._is_completed(n, key)
        ]
        self.run.note(*steps)

    def gate(self) -> None:
        while self.run.waits and not self.over:
            time.sleep(FLUSH)
        self._check_run()

    async def gate_async(self) -> None:
        while self.run.waits and not self.over:
            await asyncio.sleep(FLUSH)
        self._check_run()

    def begin(self, key: str, loop: "weakref.ref[Any] | None" = None) -> bool:
        self._check_try()
        return self._begin(key, loop)

    def end(self, result: Any = None) -> None:
        self._check_try()
        step = self.current or Step(0, self.run.job.task, "running")
        text = None if result is None else encode_result(result)
        done = Step(step.position, step.key, "completed", None, text, self._ms())
        self.run.completed[done.position] = done
        self._close(done)

    def leave(self, failure: BaseException | None = None) -> None:
        self._check_try()
        self.inside = False
        self.failure = failure

    def recorded(self) -> Any:
        self._check_try()
        return None if self.skipped.result is None else decode(self.skipped.result)

    def _check_try(self) -> None:
        if self.over:
            raise Cancelled

    def _check_run(self) -> None:
        if self.over or self.run.over:
            raise Cancelled

    def _begin(self, key: str, loop: "weakref.ref[Any] | None" = None) -> bool:
        self._settle()
        position = self.position
        self.position += 1
        if self._is_completed(position, key):
            self.skipped = self.run.completed[position]
            return False
        self.current = Step(position, shorten(key), "running")
        self.began = time.perf_counter()
        self.inside = True
        self.loop = loop
        self.failure = None
        self.run.note(self.current)
        return True

    def _is_completed(self, position: int, key: str) -> bool:
        """Whether an earlier run has completed this very step.

        It has the same key at the same place, addresses in memory apart.
        """
        known = self.run.completed.get(position)
        return known is not None and ADDRESS.sub("", known.key) == ADDRESS.sub("", shorten(key))

    def _settle(self) -> None:
        """Say what became of a step that was left, now that the task goes on.

        It failed, or its loop was broken out of.
        """
        if self.current is None:
            return
        if self.failure is None:
            self.end()
        else:
            _, message = describe(self.failure, self.run.task.timeout)
            failed = Step(self.current.position, self.current.key, "failed", message, None, self._ms())
            self._close(failed)

    def _close(self, done: Step) -> None:
        self.run.note(done)
        self.inside = False
        self.current = None
        self.failure = None

    def _ms(self) -> float | None:
        return (time.perf_counter() - self.began) * 1000 if self.began else None
