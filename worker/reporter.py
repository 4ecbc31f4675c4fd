"""A try of a body task: one call of its function, and what `track` and `step` talk to meanwhile."""

import asyncio
import contextlib
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import anyio

from rowcast.tasks.records import Job, decode
from rowcast.tasks.registry import Task
from rowcast.tasks.returned import settled
from rowcast.tasks.sentences import worded
from rowcast.tasks.steps import Cancelled, OpenStep
from rowcast.tasks.walk import Walk
from rowcast.tasks.work import Ended, Step, in_doubt, shorten
from rowcast.worker.attempt import asked_for, encode_result, may_hold, retry_in, tell, worth_another_try
from rowcast.worker.capture import RunLog, TryLog, close_log, log_of
from rowcast.worker.clients import retry_after
from rowcast.worker.context import Context
from rowcast.worker.failures import describe, failure_of, reasons
from rowcast.worker.hiding import Hider, current_hider
from rowcast.worker.leftovers import leave
from rowcast.worker.plan import FLUSH
from rowcast.worker.step_results import kept, recorded
from rowcast.worker.steps import is_doubt, key_of, ms_of, on_a_loop, plain, taken
from rowcast.worker.threads import Running, carry_context, patience
from rowcast.worker.tracing import traced

MOST_STEPS = 1_000_000  # of a job; its worker keeps what became of each, some 500 bytes
LEFT = worded("The loop was left by an exception")


class Body:
    """A body task that is under way, as its tries know it."""

    def __init__(
        self, job: Job, task: Task, context: Context, clients: dict[str, Any], opened: dict[str, str]
    ):
        self.job = job
        self.task = task
        self.context = context
        self.hider = current_hider.get() or Hider()
        given = task.typed(decode(job.args), opened)
        self.positional = given.pop("*", [])
        self.arguments = {**given, **clients}
        self.status = job.status
        self.stopped = False  # whether its try is broken off
        self.steps: list[Step] = []  # reported, and not yet recorded
        self.rows: dict[int, Step] = {}  # what each item of the job is now, by position
        self.lock = threading.RLock()  # for both
        self.noted = 0  # steps that were ever noted,
        self.recorded = 0  # and those that are on the disk
        self.log = RunLog(self.hider)

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
            self.noted += len(steps)
            self.rows.update({step.position: step for step in steps})


class TimeLimit:
    """That of one try, which stands still while a person has paused the job and a step waits for that."""

    def __init__(self, seconds: float | None):
        self.seconds = seconds
        self.timeout = asyncio.timeout(seconds)
        self.loop = asyncio.get_running_loop()
        self.waiting = 0  # so many steps
        self.since = 0.0  # by time.monotonic
        self.stood = 0.0  # seconds, before that
        self.left = 0.0  # seconds, when they began to wait

    @property
    def stands(self) -> float:
        """For how many seconds it has stood still."""
        return self.stood + (time.monotonic() - self.since if self.waiting else 0.0)

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        """In a thread, or on any loop."""
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self.loop.call_soon_threadsafe(self._begin)
        try:
            yield
        finally:
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._end)

    def _begin(self) -> None:
        self.waiting += 1
        if self.waiting == 1:
            self.since = time.monotonic()
            self.left = (self.timeout.when() or 0.0) - self.loop.time()
            self._move(None)

    def _end(self) -> None:
        if self.waiting == 1:
            self.stood = self.stands
            self._move(self.loop.time() + self.left)
        self.waiting -= 1

    def _move(self, when: float | None) -> None:
        if self.seconds:
            with contextlib.suppress(RuntimeError):  # it is over
                self.timeout.reschedule(when)


class Try:
    """One call of the function, and the Reporter of its `track` and `step`, in threads or on the loop.

    A step is known by its key: the n-th of a key is the n-th item of that key, whatever ran before it or
    beside it. A new one stands behind all others; the first takes the place of the call's own item. What goes
    on once the try is over is Cancelled.
    """

    def __init__(self, run: Body):
        self.run = run
        self.job = run.job.id
        self.limit = TimeLimit(run.task.timeout)
        self.key_sent = key_of(run.job, "", 0)
        self.mails = 0
        self.over = False
        self.thread: Running | None = None  # in which a plain function runs
        self.open: dict[int, OpenStep] = {}  # steps that have begun and not ended, by position
        self.failed: list[OpenStep] = []  # those whose error the task has gone on from
        self.promised: dict[object, str] = {}  # the names of coroutines of steps that have not begun
        self.unawaited = ""  # what Python said of a coroutine that nobody awaited
        self.beside: Any = None  # what it has started that goes on by itself: beside.Beside
        self.begun: Counter[str] = Counter()  # how often a step of a key has begun
        self.marked: list[OpenStep] = []  # steps that are not to be repeated
        self.bearer: Step | None = None  # what shows the error that the call has ended with
        self.next = max(run.rows, default=-1) + 1
        self.alone = len(run.rows) == 1  # there is none but the call's own item
        self.own = next((row for row in run.rows.values() if self._is_own(row)), None)
        self.known: dict[str, deque[Step]] = {}  # items that no step of this try has taken, by key
        for _, row in sorted(run.rows.items()):
            if row is not self.own:
                self.known.setdefault(plain(row.key), deque()).append(row)
        self.expected: dict[str, deque[Step]] = {}  # those of them that were said to come
        self.log = TryLog(run.log, 0)  # of what is said outside of steps

    def _is_own(self, row: Step) -> bool:
        return row.key == shorten(self.run.job.task) and row.status != "completed"

    async def call(self) -> Ended:
        """Call the function, and say how it ended. Raises asyncio.CancelledError where the run breaks it
        off.
        """
        try:
            async with self.limit.timeout:
                value = await settled(await traced(self.run.job, self._value)())
                await self._rest()
                text = None if value is None else encode_result(value)
                if self.beside:
                    await self.beside.over(self.run.task.timeout)
        except asyncio.CancelledError as error:
            this = asyncio.current_task()
            if self.run.stopped:
                self._break_off()
                raise
            while this and this.cancelling():  # by the task's own code, which is a failure of its own
                this.uncancel()
            return await self.end_with(error)
        except Cancelled as error:
            if self.over or self.run.over or self.run.stopped:
                raise asyncio.CancelledError from None
            return await self.end_with(error)  # of a step of another try, or by the task's own code
        except BaseException as error:  # an exit() too is the task's error, not the worker's end
            return await self.end_with(error)
        else:
            return self._return(text)
        finally:
            self.log.close()
            if self.beside:
                self.beside.close()
            if self.thread:
                leave(partial(getattr, self.thread, "goes_on"))
            for opened in list(self.open.values()):
                close_log(opened)

    async def _value(self) -> Any:
        function = self.run.task.function
        positional = self.run.positional
        arguments = self.run.arguments
        if self.run.task.is_async:
            return await function(*positional, **arguments)
        carry_context()
        self.thread = Running(lambda: function(*positional, **arguments))
        return await self.thread.in_thread(anyio.CapacityLimiter(1))

    async def _rest(self) -> None:
        """The function has returned: wait for the steps that still run. Raises TypeError for one that never
        began.
        """
        await asyncio.sleep(0)  # what was scheduled begins
        while any(one.walk is None and not (one.left or one.idle) for one in list(self.open.values())):
            await asyncio.sleep(FLUSH)
        if self.promised:
            name = next(iter(self.promised.values()))
            raise TypeError(f"The step {name!r} was made, and never awaited.")
        if self.unawaited:
            raise TypeError(self.unawaited)

    def _return(self, text: str | None) -> Ended:
        """The function has returned, and all its steps have ended but those of loops that were left."""
        with self.run.lock:
            self._settle()
            for opened in list(self.open.values()):
                self._close(opened, "completed", result=text)
                text = None
            if self.own:
                self.run.note(Step(self.own.position, self.own.key, "completed", None, text))
            else:
                self._let_go_of_first(-1)
            self.over = True
        return Ended()

    def give_up(self) -> Ended:
        """The call goes on when its time is over, as one does that catches whatever comes."""
        self._break_off()
        self.bearer = self._bearer(TimeoutError())
        return self._still_runs()

    def _still_runs(self) -> Ended:
        return Ended(
            in_doubt(worded(f"Timed out after {self.run.task.timeout:g} s, and still runs")), unknown=True
        )

    async def end_with(self, error: BaseException) -> Ended:
        """The function has raised, or its time is over: what that means, once nothing of it runs any more."""
        task = self.run.task
        self._break_off()
        thread = self.thread
        over = not self.beside or await self.beside.over_within(patience(task))
        if not over or (
            thread and not thread.over.is_set() and not await thread.ended_within(patience(task))
        ):
            self.bearer = self._bearer(error)
            return self._still_runs()
        self.bearer = bearer = self._bearer(error)
        tell(self.run.job, self.run.job.task, error, self._log_at(bearer.position))
        failure = failure_of(error)
        message = describe(failure, task.timeout)
        message = f"{failure.code} {message}" if failure.code else message
        doubtful = self._in_doubt() or (not task.idempotent and failure.may_have_arrived)
        if doubtful and retry_in(error) is None:
            return Ended(in_doubt(message), unknown=True)
        after = asked_for(error)
        wait = retry_after(*failure.retry_after) if may_hold(task, failure.code) else None
        if wait:
            after = max(wait, after or 0.0)
        return Ended(message, worth_another_try(task, error, failure, failure.code), after)

    def _break_off(self) -> None:
        """Nothing of this try goes on: its threads end at their next step, its asyncio tasks now."""
        self.over = True
        this = asyncio.current_task()
        for opened in list(self.open.values()):
            if opened.task is not None and opened.task is not this:
                opened.task.cancel()

    def _log_at(self, position: int) -> TryLog:
        """Where what is said of a step is kept whose own log is closed."""
        return self.log if position == self.log.item else TryLog(self.run.log, position)

    def _bearer(self, error: BaseException) -> Step:
        """The step that shows what the call has ended with: that which raised it, also where it has failed
        with it already, else the one that is open.
        """
        with self.run.lock:
            inside = reasons(error)
            raised = [
                one for one in (*self.failed, *self.open.values()) if any(one.failure is e for e in inside)
            ]
            if any(one in self.failed for one in raised):
                return Step(raised[0].position, raised[0].key, "failed")
            opened = next(iter(raised), None) or next(iter(reversed(self.open.values())), None)
            if opened is None:
                row = self._row_of(self.run.job.task, more=1)
                opened = OpenStep(row.position, row.key)
                self._let_go_of_first(row.position)
                self.run.note(Step(row.position, row.key, "running"))
            self.open.pop(opened.position, None)
            close_log(opened)
            return Step(opened.position, opened.key, "running")

    def broken_off(self) -> list[Step]:
        """What becomes of the other steps that were open when the call ended for good."""
        with self.run.lock:
            for opened in list(self.open.values()):
                if opened.failure is not None and isinstance(
                    opened.failure, asyncio.CancelledError | Cancelled
                ):
                    opened.failure = None
            self._settle()
            error = worded("Broken off, for the task ended while this ran")
            became = ("unknown", "cancelled")  # by whether it may be repeated
            may = self.run.task.idempotent
            ended = [(one, became[may and not one.once]) for one in self.open.values()]
            return [Step(one.position, one.key, is_now, error, None, ms_of(one)) for one, is_now in ended]

    def put_back(self) -> list[Step]:
        """The same, where the function will be called again."""
        return [
            Step(opened.position, opened.key, "queued", ms=ms_of(opened)) for opened in self.open.values()
        ]

    # ---- the Reporter --------------------------------------------------------------------------------------

    def check(self) -> None:
        if self.over:
            raise Cancelled

    def expect(self, keys: list[str]) -> None:
        with self.run.lock:
            self.check()
            rows = []
            for key in itertools.takewhile(lambda _: self.next < MOST_STEPS, keys):
                row = self._row_of(key)
                self.expected.setdefault(plain(key), deque()).append(row)
                if row.status != "completed":
                    # the first step takes the place of the call's own item, which is running
                    rows.append(Step(row.position, shorten(key), row.status))
            self.run.note(*rows)

    def gate(self) -> None:
        if self.run.waits and not on_a_loop():
            with self.limit.standing():
                while self.run.waits and not self.over:
                    time.sleep(FLUSH)
        self._check_run()

    async def gate_async(self) -> None:
        if self.run.waits:
            with self.limit.standing():
                while self.run.waits and not self.over:
                    await asyncio.sleep(FLUSH)
        self._check_run()

    def begin(self, key: str, walk: Walk | None = None) -> OpenStep:
        with self.run.lock:
            self.check()
            self._settle()
            row = taken(self.expected, key) or self._row_of(key)
            opened = OpenStep(row.position, shorten(key), walk)
            self.begun[plain(key)] += 1
            opened.key_sent = key_of(self.run.job, plain(key), self.begun[plain(key)])
            if row.status == "completed":
                opened.done = True
                opened.awaited, opened.result = recorded(row)
                return opened
            self._let_go_of_first(row.position)
            opened.task = asyncio.current_task() if on_a_loop() else None
            opened.began = time.perf_counter()
            self.open[opened.position] = opened
            self.run.note(Step(opened.position, opened.key, "running"))
            return opened

    def end(self, opened: OpenStep, result: Any = None, awaited: bool = False) -> None:
        text = None if result is None and not awaited else kept(opened.key, result, awaited)
        with self.run.lock:
            self.check()
            self._close(opened, "completed", result=text)

    def leave(self, opened: OpenStep, failure: BaseException | None = None) -> None:
        opened.failure = failure

    def promise(self, name: str) -> Callable[[], None]:
        token = object()
        self.promised[token] = name
        return lambda: self.promised.__delitem__(token)

    def note_unawaited(self, said: str) -> None:
        self.unawaited = self.unawaited or said

    async def once(self, opened: OpenStep | None) -> None:
        with self.run.lock:
            self.check()
            this = opened
            if this is None:
                if self.own is None:
                    return  # between steps: none of them is to bear it
                this = OpenStep(self.own.position, self.own.key)
                self.alone = False  # the call keeps its own item
            this.once = True
            self.marked.append(this)
            self.run.note(Step(this.position, this.key, "running", once=True))
            upto = self.run.noted
        try:
            while self.run.recorded < upto:
                await asyncio.sleep(FLUSH / 5)
                self.check()
            self._check_run()
        except BaseException:  # it does not begin
            this.once = False
            self.run.note(Step(this.position, this.key, "running"))
            raise

    def _in_doubt(self) -> bool:
        """Whether something that is not to be repeated may have been done, and nobody knows."""
        return any(one.once and (one.failure is None or is_doubt(one.failure)) for one in self.marked)

    def log_of(self, opened: OpenStep | None) -> TryLog:
        """Where what is said in a step is kept, or outside of one."""
        return self.log if opened is None else log_of(opened, self.run.log, opened.position)

    def _check_run(self) -> None:
        if self.over or self.run.over:
            raise Cancelled

    def _row_of(self, key: str, more: int = 0) -> Step:
        """The item that a step of this key is: one that is there, the call's own, or a new one.

        Raises ValueError for one too many.
        """
        if row := taken(self.known, key):
            return row if row.status == "completed" else Step(row.position, row.key, "queued")
        own = self.own
        if own and (self.alone or own.key == shorten(key)):
            self.own = None
            self.alone = False
            return Step(own.position, shorten(key), "running")
        if self.next >= MOST_STEPS + more:
            raise ValueError(
                f"A task that is called once has {MOST_STEPS:,} steps at most: track a part of a longer loop,"
                " or give its work as items."
            )
        self.next += 1
        return Step(self.next - 1, shorten(key), "queued")

    def _let_go_of_first(self, begins: int) -> None:
        """The first item was shown as running when the call began: where another step begins first, it
        waits.
        """
        first = self.run.rows.get(0)
        if (
            begins != 0
            and first
            and first.status == "running"
            and 0 not in self.open
            and first is not self.own
        ):
            self.run.note(Step(0, first.key, "queued"))

    def _settle(self) -> None:
        """Say what became of steps that were left, now that the task goes on: failed, or their loop was
        broken out of.
        """
        for opened in list(self.open.values()):
            if not opened.left:
                continue
            if opened.walk and opened.failure is None:
                opened.failure = opened.walk.left_by()
            if opened.failure is None and opened.walk and opened.walk.has_raised:
                self._close(opened, "failed", LEFT)
            elif opened.failure is None:
                self._close(opened, "completed")
            else:
                self.failed.append(opened)
                failure = failure_of(opened.failure)
                self._close(opened, "failed", describe(failure, self.run.task.timeout))

    def _close(
        self, opened: OpenStep, status: str, error: str | None = None, result: str | None = None
    ) -> None:
        opened.once = False
        self.open.pop(opened.position, None)
        close_log(opened)
        self.run.note(Step(opened.position, opened.key, status, error, result, ms_of(opened)))
