"""One try of one item: the task's function is called, and what it returned or raised becomes a result.

Decided in one place, `outcome`: completed, failed, or queued again, when, and whether the API has asked for a
pause.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio.to_thread
import httpx
import msgspec

from rowcast.tasks.records import Job, decode, encode
from rowcast.tasks.registry import Task
from rowcast.tasks.steps import Call, DryRun, Retry, current_call
from rowcast.tasks.work import RESULT_LENGTH, UNKNOWN, Claimed, Hold, Result

log = logging.getLogger("rowcast")
_told: set[Any] = set()  # the places of which this process has logged a traceback
MOST_TOLD = 1000
LONGEST_AFTER = 366 * 86_400.0  # seconds: nobody waits longer, whatever a task says


def caller_of(job: Job, task: Task, clients: dict[str, Any]) -> Callable[[Any], Awaitable[Any]]:
    """What is called with each item of a job; `clients` are those that the task asks for, by parameter."""
    if job.dry_run and not clients:
        # without a client of ours nobody can see what the function would do, so a dry run does not call it
        return only_show(task)
    return caller(task, {**task.call_arguments(decode(job.args)), **clients})


def caller(task: Task, arguments: dict[str, Any]) -> Callable[[Any], Awaitable[Any]]:
    """The task's function as a coroutine function of one item; a plain `def` runs in a thread that may be
    abandoned.
    """
    if task.is_async:
        return partial(task.function, **arguments)
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


class TimeLimit:
    """Breaks off, as `asyncio.timeout` does, each try that takes longer than `seconds` (None: as long as it
    likes).

    One timer serves all tries of a run: under one limit the oldest is over it first. A timer for each would
    take longer than all else that is done here for an item.
    """

    def __init__(self, seconds: float | None):
        self.seconds = seconds
        self.began: dict[
            asyncio.Task[Any], float
        ] = {}  # of each try under way, the oldest first, by time.perf_counter
        self.late: set[asyncio.Task[Any]] = set()
        self.timer: asyncio.TimerHandle | None = None

    def begin(self, this: asyncio.Task[Any], now: float) -> None:
        """A try begins in the asyncio task `this`, which takes itself out of `began`; it is `now`, by
        time.perf_counter.
        """
        if self.seconds:
            self.began[this] = now
            self.timer = self.timer or asyncio.get_running_loop().call_later(self.seconds, self._break_off)

    def was_late(self, this: asyncio.Task[Any]) -> bool:
        """Whether the try that is over was broken off, for which its asyncio task is no longer cancelled
        then.
        """
        if late := this in self.late:
            self.late.discard(this)
            this.uncancel()
        return late

    def _break_off(self) -> None:
        assert self.seconds
        self.timer = None
        now = time.perf_counter()
        for this, began in list(self.began.items()):
            if began + self.seconds > now:
                self.timer = asyncio.get_running_loop().call_later(
                    began + self.seconds - now, self._break_off
                )
                break
            del self.began[this]
            self.late.add(this)
            this.cancel()


async def attempt(
    job: Job,
    task: Task,
    call: Callable[[Any], Awaitable[Any]],
    item: Claimed,
    limit: TimeLimit,
    this: asyncio.Task[Any] | None = None,
) -> tuple[Result, Hold | None]:
    """One try of one item. Whatever the task raises becomes the item's error; only our own cancelling passes.

    `this` is the asyncio task in which it runs: whoever knows it spares Python 3.11 a slow question.
    """
    this = this or asyncio.current_task()
    assert this
    noted = Call(job.id, item.id)
    stops = this.cancelling()  # an earlier try may have swallowed a stop
    current_call.set(noted)  # in the context of `this`, where nothing else runs
    started = time.perf_counter()
    limit.begin(this, started)
    try:
        value = await call(item.value)
        result = None if value is None else encode_result(value)
        ms = (time.perf_counter() - started) * 1000
        return Result(item.id, item.attempt, "completed", noted.code, None, result, ms), None
    except DryRun as shown:
        return Result(item.id, item.attempt, "completed", None, None, encode_result(shown.would)), None
    except asyncio.CancelledError as error:
        late = limit.was_late(this)
        if this.cancelling() > stops:
            raise
        return outcome(task, item, noted, TimeoutError() if late else error, started)
    except BaseException as error:
        tell(job, item.key, error)
        return outcome(task, item, noted, error, started)
    finally:
        limit.began.pop(this, None)
        if limit.late:
            limit.was_late(this)


def outcome(
    task: Task, item: Claimed, call: Call, error: BaseException, started: float
) -> tuple[Result, Hold | None]:
    """What an exception makes of an item: queued for another try, or failed; and the pause the API asked
    for.
    """
    ms = (time.perf_counter() - started) * 1000
    code, message = describe(error, task.timeout)
    code = code if code is not None else call.code
    tries = item.attempt - item.spent
    now = time.time()
    hold = None
    if not task.idempotent and may_have_arrived(error, code):
        return Result(item.id, item.attempt, "unknown", code, f"{message}; {UNKNOWN}", None, ms), None
    if call.retry_after is not None and code in (429, 503):
        hold = Hold(now + call.retry_after, f"{code}, Retry-After")
    if tries < task.max_attempts and worth_another_try(task, error, code):
        pause = asked if (asked := asked_for(error)) is not None else back_off(task, tries)
        run_at = max(now + pause, hold.until if hold else 0.0)
        return Result(item.id, item.attempt, "queued", code, message, None, ms, run_at), hold
    return Result(item.id, item.attempt, "failed", code, message, None, ms), hold


def tell(job: Job, key: str, error: BaseException) -> None:
    """Log the traceback of what no API has answered, once for a job and a place: most likely it is a bug
    of the task.
    """
    if not isinstance(error, Exception) or isinstance(error, httpx.HTTPError | TimeoutError | Retry):
        return
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = (job.id, type(error), trace and (trace.tb_frame.f_code, trace.tb_lineno))
    if place not in _told:
        if len(_told) >= MOST_TOLD:
            _told.clear()
        _told.add(place)
        log.error("%s #%s, %s:", job.task, job.id, key, exc_info=error)


def may_have_arrived(error: BaseException, code: int | None) -> bool:
    """Whether nobody can say what became of it: it took too long, or a connection broke on which something
    was sent.
    """
    never_sent = httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.UnsupportedProtocol
    return (
        code is None
        and isinstance(error, TimeoutError | httpx.TransportError)
        and not isinstance(error, never_sent)
    )


def back_off(task: Task, tries: int) -> float:
    """Seconds until the next try after so many: exponential, with a cap and full jitter."""
    return random.uniform(0, min(task.backoff_max, task.backoff * 2.0 ** min(tries, 100)))


def asked_for(error: BaseException) -> float | None:
    """The pause that a Retry asks for, in seconds; None where it asks for none."""
    if not isinstance(error, Retry) or error.after is None:
        return None
    try:
        after = float(error.after)
    except OverflowError:
        return LONGEST_AFTER
    except (TypeError, ValueError):
        return None
    return None if math.isnan(after) else min(max(0.0, after), LONGEST_AFTER)


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
    """An exception as (HTTP code or None, one line for a person); it never raises, whatever the exception
    is made of.
    """
    try:
        code, text = _describe(error, timeout)
        return code, text.encode(errors="replace").decode()  # half a surrogate pair is no text for a database
    except Exception:
        return None, type(error).__name__


def _describe(error: BaseException, timeout: float | None) -> tuple[int | None, str]:
    if isinstance(error, httpx.HTTPStatusError):
        answer = error.response
        try:
            said = excerpt(answer.text)
        except httpx.StreamError:  # the task has not read the body
            said = ""
        return (
            answer.status_code,
            f"{answer.reason_phrase or 'Error'}: {said}" if said else answer.reason_phrase,
        )
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return None, f"Timed out after {timeout:g} s" if timeout else "Timed out"
    if isinstance(error, httpx.TransportError):
        return (
            None,
            f"{'Could not connect' if isinstance(error, httpx.ConnectError) else 'Connection lost'}: {error}",
        )
    if isinstance(error, SystemExit):
        return None, f"The task called exit({error.code if error.code is not None else ''})"
    text = " ".join(str(error).split())
    return None, f"{type(error).__name__}: {text}" if text else type(error).__name__


def excerpt(body: str) -> str:
    """What an error's body says, on one line: of a JSON object its error, message or detail, else its
    first 200 letters.
    """
    try:
        said = decode(body)
        text = next((said[k] for k in ("error", "message", "detail") if isinstance(said.get(k), str)), body)
    except (msgspec.DecodeError, AttributeError, RecursionError):
        text = body
    return " ".join(text[:2000].split())[:200]


def encode_result(value: Any) -> str:
    """A task's return value as JSON text; what JSON does not know is given as its text, what is too long
    is cut.
    """
    text = encode(value).decode()
    return text if len(text) <= RESULT_LENGTH else encode(text[:RESULT_LENGTH] + "…").decode()
