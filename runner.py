"""run(job): claim items, call the task on each, finish them. Knows a ledger and a task; no SQL, no HTML, no web.

A fixed number of runner coroutines (the job's concurrency) take claimed items from a local queue; one keeper coroutine
records their results in batches and claims more, so that a database or a network is asked a few times a second and not
once per item. What a try became is decided in one place, `outcome`: completed, failed, or queued again.

A body task (a function called once) runs in `BodyRun`, which is what `track` and `step` report to.
"""

import asyncio
import contextlib
import email.utils
import inspect
import math
import random
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import anyio.to_thread
import httpx
import msgspec

from rowcast.records import (
    CLAIMABLE,
    RESULT_LENGTH,
    SUSPECT,
    Claimed,
    Ended,
    Hold,
    Job,
    Result,
    Step,
    Work,
    decode,
    encode,
)
from rowcast.registry import Call, Cancelled, DryRun, Retry, Task, current_call, current_run

FLUSH = 0.05  # seconds at most between a result and its transaction
BATCH = 500  # results at most in one transaction
IDLE = 0.25  # seconds between two looks at a job whose items are all in flight
LONGEST_WAIT = 0.5  # a wait for pace or backoff is looked at again after this, so that pause and cancel are seen
GRACE = 2.0  # seconds that calls in flight get to end when the worker stops


class Ledger(Protocol):
    """The three calls a run needs, of ledger.Ledger or of the same over HTTP."""

    async def claim(self, job: int, worker: str, limit: int, held: int = 0) -> Work: ...

    async def finish(
        self,
        job: int,
        worker: str,
        results: list[Result],
        steps: list[Step],
        ended: Ended | None = None,
        hold: Hold | None = None,
    ) -> Work: ...

    async def take_body(self, job: int, worker: str) -> list[Step] | None: ...


class Context:
    """What every run of one worker shares: its name, its ledger, how clients are opened, and the word to stop."""

    def __init__(
        self,
        worker: str,
        ledger: Ledger,
        open_client: Callable[[Any, bool], Awaitable[Any]],
        run_alone: Callable[[Job, Claimed], Awaitable[Result]] | None = None,
    ):
        self.worker, self.ledger, self.open_client, self.run_alone = worker, ledger, open_client, run_alone
        self.stopping = asyncio.Event()


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
        self.arguments = {**task.call_arguments(_args(job)), **clients}
        # without a client of ours nobody can see what the function would do, so a dry run does not call it
        self.call = only_show(task) if job.dry_run and not clients else caller(task, self.arguments)
        self.queue: asyncio.Queue[Claimed | None] = asyncio.Queue()
        self.results: list[Result] = []
        self.hold: Hold | None = None
        self.in_flight = 0
        self.runners: set[asyncio.Task[None]] = set()
        self.kick = asyncio.Event()
        self.rate = 0.0  # items per second of late, for how far to claim ahead
        self.status = job.status
        self.looked_at = 0.0
        self.counted, self.counted_from = 0, time.monotonic()

    async def run(self) -> None:
        try:
            await self._keep()
        finally:
            for runner in self.runners:
                runner.cancel()
            await asyncio.gather(*self.runners, return_exceptions=True)

    async def _keep(self) -> None:
        """Record results and claim more, until there is nothing left to do here."""
        claim_at = 0.0
        stop_by = math.inf
        while True:
            self.kick.clear()
            now = time.monotonic()
            stopping = self.context.stopping.is_set()
            if stopping and stop_by == math.inf:
                stop_by = now + GRACE
            if (stopping and now > stop_by) or self.status == "cancelled":
                await self._abandon()
            if self.results or self.hold:
                await self._flush()
            active = self.status in CLAIMABLE and not stopping
            if not active:
                self._return_unstarted()
            held = self.in_flight + self.queue.qsize()
            room = self.limit + math.ceil(self.rate * FLUSH * 2) - held
            if active and room > 0 and now >= claim_at:
                work = await self.context.ledger.claim(self.job.id, self.context.worker, room, held)
                self._stand(work)
                for item in work.items:
                    self.queue.put_nowait(item)
                if not work.items:
                    if self._idle and not work.queued and work.filled:
                        return
                    claim_at = now + max(0.02, min(work.wait or FLUSH, LONGEST_WAIT))
            if not active and self._idle:
                return
            self._staff()
            wait = FLUSH if self.in_flight or self.results else max(0.0, min(LONGEST_WAIT, claim_at - now))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.kick.wait(), wait)
                # gather what ends in the same moment into one transaction
                await asyncio.sleep(0 if len(self.results) >= BATCH else FLUSH / 5)
            if not self.results and self.in_flight:
                await self._look(now)

    @property
    def _idle(self) -> bool:
        return not self.in_flight and not self.queue.qsize() and not self.results

    def _stand(self, work: Work) -> None:
        self.status = work.status
        self.limit = work.concurrency or self.limit

    def _staff(self) -> None:
        """As many runners as items may be in flight, and no more than there is something to do for."""
        wanted = min(self.limit, self.queue.qsize() + self.in_flight)
        for _ in range(wanted - len(self.runners)):
            runner = asyncio.create_task(self._runner())
            self.runners.add(runner)
            runner.add_done_callback(self.runners.discard)
        for _ in range(len(self.runners) - self.limit):
            self.queue.put_nowait(None)

    async def _runner(self) -> None:
        while (item := await self.queue.get()) is not None:
            self.in_flight += 1
            try:
                if item.crashes >= SUSPECT and self.context.run_alone:
                    result = await self.context.run_alone(self.job, item)
                else:
                    result, hold = await attempt(self.job, self.task, self.call, item)
                    self.hold = hold or self.hold
            except asyncio.CancelledError:
                self.results.append(self._interrupted(item))
                raise
            finally:
                self.in_flight -= 1
            self.results.append(result)
            if self.queue.empty() or len(self.results) >= BATCH:
                self.kick.set()

    def _interrupted(self, item: Claimed) -> Result:
        """A try that the stopping worker broke off: nobody knows whether it landed, unless it may be repeated."""
        if self.task.idempotent:
            return Result(item.id, item.attempt, "queued")
        return Result(item.id, item.attempt, "unknown", error="The worker stopped while this ran; it may have arrived.")

    async def _flush(self) -> None:
        results, self.results, hold, self.hold = self.results, [], self.hold, None
        self.counted += len(results)
        if (window := time.monotonic() - self.counted_from) > 0.5:
            self.rate, self.counted, self.counted_from = self.counted / window, 0, time.monotonic()
        work = await self.context.ledger.finish(self.job.id, self.context.worker, results, [], None, hold)
        self._stand(work)

    async def _look(self, now: float) -> None:
        """Learn of a pause or a cancel while every item is in flight."""
        if now >= self.looked_at + IDLE:
            self.looked_at = now
            self._stand(await self.context.ledger.claim(self.job.id, self.context.worker, 0))

    def _return_unstarted(self) -> None:
        """Give back what was claimed and has not begun."""
        while not self.queue.empty():
            if (item := self.queue.get_nowait()) is not None:
                self.results.append(Result(item.id, item.attempt, "queued"))

    async def _abandon(self) -> None:
        """Stop what is in flight; the runners put their items back as they are cancelled."""
        self._return_unstarted()
        for runner in list(self.runners):
            runner.cancel()
        await asyncio.gather(*self.runners, return_exceptions=True)


def caller(task: Task, arguments: dict[str, Any]) -> Callable[[Any], Awaitable[Any]]:
    """The task's function as a coroutine function of one item; a plain `def` runs in a thread that may be abandoned."""
    if task.is_async:
        function = task.function

        async def call_async(value: Any) -> Any:
            return await function(value, **arguments)

        return call_async if arguments else function
    limiter = anyio.CapacityLimiter(math.inf)

    async def call_in_thread(value: Any) -> Any:
        def call() -> Any:
            return task.function(value, **arguments)

        return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=limiter)

    return call_in_thread


def only_show(task: Task) -> Callable[[Any], Awaitable[Any]]:
    """In place of a task in a dry run: what it would be called with."""

    async def show(value: Any) -> Any:
        raise DryRun({"would call": task.name, "with": value})

    return show


async def attempt(job: Job, task: Task, call: Callable[[Any], Awaitable[Any]], item: Claimed) -> tuple[Result, Hold | None]:
    """One try of one item. Whatever the task raises becomes the item's error; only our own cancelling passes."""
    noted = Call(job.id, item.id)
    token = current_call.set(noted)
    started = time.perf_counter()
    try:
        if task.timeout:
            async with asyncio.timeout(task.timeout):
                value = await call(item.value)
        else:
            value = await call(item.value)
        result = None if value is None else encode_result(value)
        ms = (time.perf_counter() - started) * 1000
        return Result(item.id, item.attempt, "completed", noted.code, None, result, ms), None
    except DryRun as shown:
        return Result(item.id, item.attempt, "completed", None, None, encode_result(shown.would)), None
    except asyncio.CancelledError as error:
        if (this := asyncio.current_task()) and this.cancelling():
            raise
        return outcome(task, item, noted, error, started)
    except BaseException as error:
        return outcome(task, item, noted, error, started)
    finally:
        current_call.reset(token)


def outcome(task: Task, item: Claimed, call: Call, error: BaseException, started: float) -> tuple[Result, Hold | None]:
    """What an exception makes of an item: queued for another try, or failed; and the pause the API asked for."""
    ms = (time.perf_counter() - started) * 1000
    code, message = describe(error, task.timeout)
    code = code if code is not None else call.code
    tries = item.attempt - item.spent
    now, hold = time.time(), None
    if call.retry_after is not None and code in (429, 503):
        hold = Hold(now + call.retry_after, f"{code}, Retry-After")
    if tries < task.max_attempts and worth_another_try(task, error, code):
        pause = random.uniform(0, min(task.backoff_max, task.backoff * 2**tries))
        if isinstance(error, Retry) and error.after is not None:
            pause = error.after
        run_at = max(now + pause, hold.until if hold else 0.0)
        return Result(item.id, item.attempt, "queued", code, message, None, ms, run_at), hold
    return Result(item.id, item.attempt, "failed", code, message, None, ms), hold


def worth_another_try(task: Task, error: BaseException, code: int | None) -> bool:
    """Retry, a code the task lists, or a connection that broke or timed out; a bug in the task is not."""
    if isinstance(error, Retry):
        return True
    if isinstance(error, httpx.HTTPStatusError) or code is not None:
        return code in task.retry_codes
    if isinstance(error, httpx.UnsupportedProtocol):
        return False
    return isinstance(error, httpx.TransportError | TimeoutError | ConnectionError)


def describe(error: BaseException, timeout: float | None) -> tuple[int | None, str]:
    """An exception as (HTTP code or None, one line for a person)."""
    if isinstance(error, httpx.HTTPStatusError):
        answer = error.response
        said = excerpt(answer.text)
        return answer.status_code, f"{answer.reason_phrase or 'Error'}: {said}" if said else answer.reason_phrase
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return None, f"Timed out after {timeout:g} s" if timeout else "Timed out"
    if isinstance(error, httpx.TransportError):
        return None, f"{'Could not connect' if isinstance(error, httpx.ConnectError) else 'Connection lost'}: {error}"
    if isinstance(error, SystemExit):
        return None, f"The task called exit({error.code if error.code is not None else ''})"
    text = " ".join(str(error).split())
    return None, f"{type(error).__name__}: {text}" if text else type(error).__name__


def excerpt(body: str) -> str:
    """What an error's body says, on one line: of a JSON object its error, message or detail, else its first 200 letters."""
    try:
        said = decode(body)
        text = next((said[k] for k in ("error", "message", "detail") if isinstance(said.get(k), str)), body)
    except (msgspec.DecodeError, AttributeError):
        text = body
    return " ".join(text[:2000].split())[:200]


def retry_after(header: str | None) -> float | None:
    """The seconds that a Retry-After header asks for (RFC 9110, 10.2.3: seconds or an HTTP date); None if unusable."""
    if not header:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def encode_result(value: Any) -> str:
    """A task's return value as JSON text; what JSON does not know is given as its text, what is too long is cut."""
    text = encode(value).decode()
    return text if len(text) <= RESULT_LENGTH else encode(text[:RESULT_LENGTH] + "…").decode()


def _args(job: Job) -> dict[str, Any]:
    return job.json()["args"]


class BodyRun:
    """One run of a body task, and the Reporter that its `track` and `step` talk to (from a thread or from the loop)."""

    def __init__(self, job: Job, task: Task, context: Context, clients: dict[str, Any]):
        self.job, self.task, self.context = job, task, context
        given = _args(job)
        self.positional = given.pop("*", [])
        self.arguments = {**given, **clients}
        self.steps: list[Step] = []
        self.lock = threading.Lock()
        self.status = job.status
        self.position = 0
        self.open = False
        self.current: Step | None = None
        self.began = 0.0
        self.completed: dict[int, Step] = {}
        self.skipped = Step(0, "", "completed")
        self.looked_at = 0.0

    async def run(self) -> None:
        held = await self.context.ledger.take_body(self.job.id, self.context.worker)
        if held is None:
            return
        self.completed = {step.position: step for step in held}
        tries = 0
        while (ended := await self._try()) is not None:
            tries += 1
            again = ended.again and tries < self.task.max_attempts
            if not again:
                await self._flush(ended)
                return
            await self._back_off(tries, ended)

    async def _try(self) -> Ended | None:
        """Call the function once; None where the job was cancelled or the worker stops."""
        self.position = 0
        token = current_run.set(self)
        body = asyncio.ensure_future(self._body())
        current_run.reset(token)
        while not body.done():
            await asyncio.wait([body], timeout=FLUSH)
            await self._flush()
            if self.status == "cancelled" or self.context.stopping.is_set():
                body.cancel()
        return None if body.cancelled() else body.result()

    async def _back_off(self, tries: int, ended: Ended) -> None:
        pause = random.uniform(0, min(self.task.backoff_max, self.task.backoff * 2**tries))
        step = self.current or Step(0, self.job.task, "queued")
        self.steps.append(Step(step.position, step.key, "queued", ended.error, run_at=time.time() + pause))
        self.open, self.current = False, None
        until = time.monotonic() + pause
        while time.monotonic() < until and self.status != "cancelled" and not self.context.stopping.is_set():
            await self._flush()
            await asyncio.sleep(min(IDLE, pause))

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
            code, message = describe(error, self.task.timeout)
            message = f"{code} {message}" if code else message
            if not self.open and self.position:
                self.begin(self.job.task)
            return Ended(message, worth_another_try(self.task, error, code))
        if self.open or not self.position:
            self.end(value)
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
        """Record the steps reported since the last time; where there are none, look at the job's status now and then."""
        with self.lock:
            steps, self.steps = self.steps, []
        if not steps and not ended:
            if time.monotonic() > self.looked_at + IDLE:
                self.looked_at = time.monotonic()
                self.status = (await self.context.ledger.claim(self.job.id, self.context.worker, 0)).status
            return
        latest = list({step.position: step for step in steps}.values())
        work = await self.context.ledger.finish(self.job.id, self.context.worker, [], latest, ended)
        if ended is None:
            self.status = work.status

    # ---- the Reporter ----------------------------------------------------------------------------------------------

    def expect(self, keys: list[str]) -> None:
        with self.lock:
            for n, key in enumerate(keys, self.position):
                if n not in self.completed:
                    # the first step takes the place of the function's own item, which is running
                    self.steps.append(Step(n, key, "running" if n == 0 else "queued"))

    def gate(self) -> None:
        while self.status == "paused" and not self.context.stopping.is_set():
            time.sleep(FLUSH)
        self._check()

    async def gate_async(self) -> None:
        while self.status == "paused" and not self.context.stopping.is_set():
            await asyncio.sleep(FLUSH)
        self._check()

    def _check(self) -> None:
        if self.status == "cancelled" or self.context.stopping.is_set():
            raise Cancelled

    def begin(self, key: str) -> bool:
        position, self.position = self.position, self.position + 1
        if position in self.completed:
            self.skipped = self.completed[position]
            return False
        self.current = Step(position, key, "running")
        self.began, self.open = time.perf_counter(), True
        with self.lock:
            self.steps.append(self.current)
        return True

    def end(self, result: Any = None) -> None:
        step = self.current or Step(0, self.job.task, "running")
        ms = (time.perf_counter() - self.began) * 1000 if self.began else None
        text = None if result is None else encode_result(result)
        done = Step(step.position, step.key, "completed", None, text, ms)
        self.completed[done.position] = done
        with self.lock:
            self.steps.append(done)
        self.open, self.current = False, None

    def recorded(self) -> Any:
        return None if self.skipped.result is None else decode(self.skipped.result)
