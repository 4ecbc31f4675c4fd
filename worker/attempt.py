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
from datetime import timedelta
from functools import partial
from typing import Any

from rowcast.tasks import clock
from rowcast.tasks.encoding import as_text, pack, shown_text, to_json
from rowcast.tasks.records import Job, decode
from rowcast.tasks.registry import RETRY_CODES, Task
from rowcast.tasks.returned import VALUES, demand_all_done, settled
from rowcast.tasks.sentences import worded
from rowcast.tasks.steps import Call, DryRun, Retry, current_call
from rowcast.tasks.work import RESULT_LENGTH, Claimed, Hold, Result, in_doubt
from rowcast.worker.capture import RunLog, TryLog, end_log, note_error, on_its_way
from rowcast.worker.clients import retry_after
from rowcast.worker.excerpt import excerpt_of
from rowcast.worker.failures import (
    LOST,
    NEVER,
    Failure,
    describe,
    failure_of,
    is_mail,
    one_line,
    reasons,
)
from rowcast.worker.leftovers import leave
from rowcast.worker.threads import InThread, patience
from rowcast.worker.tracing import traced

log = logging.getLogger("rowcast")
_told: set[Any] = set()  # the places of which this process has logged a traceback
MOST_TOLD = 1000
LONGEST_AFTER = 366 * 86_400.0  # seconds: nobody waits longer, whatever a task says


def caller_of(
    job: Job, task: Task, clients: dict[str, Any], opened: dict[str, str] | None = None
) -> Callable[[Any], Awaitable[Any]]:
    """What is called with each item of a job; `clients` are those that the task asks for, by parameter,
    `opened` its secrets.
    """
    if job.dry_run and not clients:
        # without a client of ours nobody can see what the function would do, so a dry run does not call it
        return only_show(task)
    return traced(job, caller(task, {**task.call_arguments(decode(job.args), opened), **clients}))


def caller(task: Task, arguments: dict[str, Any]) -> Callable[[Any], Awaitable[Any]]:
    """The task's function as a coroutine function of one item; a plain `def` runs in a thread
    (threads.py).
    """
    call = partial(task.function, **arguments) if task.is_async else InThread(task.function, arguments)
    read = task.item_reader
    if read is None:
        return call

    async def call_with_value(item: Any) -> Any:
        return await call(read(item, False))

    return call_with_value


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
        self.stopped: set[asyncio.Task[Any]] = set()  # those that the run breaks off, whatever their time
        self.late: dict[asyncio.Task[Any], float] = {}  # those that were broken off, and since when
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
        late = self.late.pop(this, None) is not None
        if late:
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
            self.late[this] = now
            this.cancel()


async def attempt(
    job: Job,
    task: Task,
    call: Callable[[Any], Awaitable[Any]],
    item: Claimed,
    limit: TimeLimit,
    this: asyncio.Task[Any] | None = None,
    run_log: RunLog | None = None,
) -> tuple[Result, Hold | None]:
    """One try of one item. Whatever the task raises becomes the item's error; only our own cancelling passes.

    `this` is the asyncio task in which it runs: whoever knows it spares Python 3.11 a slow question. What is
    said meanwhile goes to `run_log`.
    """
    this = this or asyncio.current_task()
    assert this
    noted = Call(job.id, item.id, attempt=item.attempt, run_log=run_log)
    stops = this.cancelling()  # an earlier try may have swallowed a stop
    current_call.set(noted)  # in the context of `this`, where nothing else runs
    started = time.perf_counter()
    limit.begin(this, started)
    try:
        value = await call(item.value)
        if type(value) not in VALUES:
            value = await settled(value)
        if noted.beside:
            demand_all_done(value)
            await noted.beside.over(task.timeout)
        if noted.unawaited:
            raise TypeError(noted.unawaited)
        return completed(item, noted, value, started), None
    except DryRun as shown:
        return Result(item.id, item.attempt, "completed", None, None, encode_result(shown.would)), None
    except asyncio.CancelledError as error:
        late = limit.was_late(this)
        if this.cancelling() > stops and this in limit.stopped:
            raise
        while this.cancelling() > stops:  # by the task's own code, which is a failure of its own
            this.uncancel()
        if late and ((noted.thread is not None and noted.thread.has_begun) or noted.beside):
            return await last_word(task, item, noted, started)
        return outcome(task, item, noted, TimeoutError() if late else error, started)
    except BaseException as error:  # an exit() too is the task's error, not the worker's end
        limit.began.pop(this, None)  # its time is not what it has failed by, whatever it is waited for
        if noted.beside:  # no other try begins beside it
            await noted.beside.over_within(patience(task))
        tell(job, item.key, error)
        return outcome(task, item, noted, error, started)
    finally:
        if noted.beside:
            noted.beside.close()
        if noted.thread is not None and noted.thread.goes_on:
            leave(partial(getattr, noted.thread, "goes_on"))
        end_log(noted)
        limit.began.pop(this, None)
        if limit.late:
            limit.was_late(this)


def completed(item: Claimed, call: Call, value: Any, started: float) -> Result:
    """The result of a try that has returned."""
    result = None if value is None else encode_result(value)
    ms = (time.perf_counter() - started) * 1000
    done = Result(item.id, item.attempt, "completed", call.code, None, result, ms)
    if item.attempt > 1:  # else the item is its own record
        done.started_at = clock.steady() - ms / 1000
    return done


async def last_word(task: Task, item: Claimed, call: Call, started: float) -> tuple[Result, Hold | None]:
    """What became of a try whose time is over where a thread of it, which nobody can stop, may go on: it gets
    as long again to end by itself.

    Until then no other try begins beside it, and one that does not end is unknown.
    """
    left = call.beside.left if call.beside else []
    over = not call.beside or await call.beside.over_within(patience(task))
    if over and call.thread is not None and call.thread.has_begun:
        over = await call.thread.ended_within(patience(task))
    if not over:
        return still_runs(task, item, started, call.code), None
    return outcome(task, item, call, TimeoutError(), started, left[0].what if left else "")


def still_runs(task: Task, item: Claimed, started: float, code: int | None = None) -> Result:
    """The result of a try whose time is over, and that heeds no end of it."""
    ms = (time.perf_counter() - started) * 1000
    error = in_doubt(worded(f"Timed out after {task.timeout:g} s, and still runs"))
    return Result(item.id, item.attempt, "unknown", code, error, None, ms)


def interrupted(job: Job, item: Claimed) -> Result:
    """The result of a try that the stopping worker broke off: nobody knows whether it landed, unless it may
    be repeated.
    """
    if job.idempotent:
        return Result(item.id, item.attempt, "queued")
    return Result(
        item.id, item.attempt, "unknown", error=in_doubt(worded("The worker stopped while this ran"))
    )


def lost(task: Task, item: Claimed, error: BaseException) -> Result:
    """The result of a try of which a fault of ours has lost what came of it."""
    why = one_line(f"{type(error).__name__}: {as_said(error)}")
    said = worded(f"What came of this try was lost: {why}")
    if task.idempotent:
        return Result(item.id, item.attempt, "failed", error=said)
    return Result(item.id, item.attempt, "unknown", error=in_doubt(said))


def outcome(
    task: Task, item: Claimed, call: Call, error: BaseException, started: float, what: str = ""
) -> tuple[Result, Hold | None]:
    """What an exception makes of an item: queued for another try, unknown or failed; and the pause the API
    asked for. `what` of the try was not over in time.
    """
    ms = (time.perf_counter() - started) * 1000
    failure = failure_of(error)
    code = call.code if failure.code is None else failure.code
    tries = item.attempt - item.spent
    now = clock.steady()
    hold = None
    made = Result(item.id, item.attempt, "failed", code, describe(failure, task.timeout), None, ms)
    if what:
        made.error = worded(f"{made.error}: {what} was not over")
    made.excerpt = excerpt_of(failure, call.answer)
    made.started_at = now - ms / 1000
    if may_hold(task, code) and (pause := pause_asked(call, failure)) is not None:
        hold = Hold(now + pause, f"{code}, Retry-After")
    if not task.idempotent and (failure.may_have_arrived or call.has_arrived) and retry_in(error) is None:
        made.status = "unknown"
        made.error = in_doubt(str(made.error))
        return made, hold
    if tries < task.max_attempts and worth_another_try(task, error, failure, code):
        asked = asked_for(error)
        pause = back_off(task, tries) if asked is None else asked
        made.status = "queued"
        made.run_at = max(now + pause, hold.until if hold else 0.0)
    return made, hold


def may_hold(task: Task, code: int | None) -> bool:
    """Whether an answer with this code may hold the task back: one that means "not now" (RFC 6585, RFC 9110),
    or one that the task itself has listed among what is worth another try, as a 403 is at some APIs.
    """
    return code in (429, 503) or code in task.retry_codes - RETRY_CODES


def pause_asked(call: Call, failure: Failure) -> float | None:
    """The seconds that the API has asked to be left alone, of our own client or of another that tells it."""
    return call.retry_after if call.retry_after is not None else retry_after(*failure.retry_after)


def tell(job: Job, key: str, error: BaseException, log_of_try: TryLog | None = None) -> None:
    """Keep the traceback of what no API has answered with its try, and log it once for a job and a place:
    most likely it is a bug of the task.
    """
    if not isinstance(error, Exception) or failure_of(error).kind or retry_in(error) is not None:
        return
    note_error(error, log_of_try)
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = (job.id, type(error), trace and (trace.tb_frame.f_code, trace.tb_lineno))
    if place not in _told:
        if len(_told) >= MOST_TOLD:
            _told.clear()
        _told.add(place)
        with on_its_way():
            log.error("%s #%s, %s:", job.task, job.id, key, exc_info=error)


def back_off(task: Task, tries: int) -> float:
    """Seconds until the next try after so many: exponential, with a cap and full jitter."""
    return random.uniform(0, min(task.backoff_max, task.backoff * 2.0 ** min(tries, 100)))


def retry_in(error: BaseException) -> Retry | None:
    """The Retry that a task has raised, also in a group."""
    return next((one for one in reasons(error) if isinstance(one, Retry)), None)


def asked_for(error: BaseException) -> float | None:
    """The pause that a Retry asks for, in seconds; None where it asks for none."""
    retry = retry_in(error)
    if retry is None or retry.after is None:
        return None
    try:
        after = retry.after.total_seconds() if isinstance(retry.after, timedelta) else float(retry.after)
    except OverflowError:
        return LONGEST_AFTER
    except (TypeError, ValueError):
        return None
    return None if math.isnan(after) else min(max(0.0, after), LONGEST_AFTER)


def worth_another_try(task: Task, error: BaseException, failure: Failure, code: int | None) -> bool:
    """Retry, a code the task lists, or a connection that broke or timed out; a bug in the task is not.

    Where a request of this very try was answered, and the task may not be repeated, a later one that was not
    sent is no reason to send both.
    """
    if retry_in(error) is not None:
        return True
    if failure.kind == NEVER and not task.idempotent and code is not None:
        return False
    if failure.kind in (NEVER, LOST) or is_mail(failure.error):
        return failure.again
    return failure.again or code in task.retry_codes


def encode_result(value: Any) -> str:
    """A task's return value as JSON text; what cannot be kept is given as its text, what is too long is cut,
    and says so. Raises TypeError for what has work in it that is not done, and a failure that is in it.
    """
    if isinstance(value, str | bytes | bytearray) and len(value) > RESULT_LENGTH:
        some = value if isinstance(value, str) else value[:RESULT_LENGTH].decode(errors="replace")
        return cut(some, len(value))  # of a gigabyte nothing is made into JSON first
    try:
        text = pack(value)
    except (TypeError, RecursionError, MemoryError):
        text = ""
    if not text:
        demand_all_done(value)
        text = to_json(one_line(as_said(value))).decode()
    if len(text) > RESULT_LENGTH:
        text = shown_text(text)
    return text if len(text) <= RESULT_LENGTH else cut(text, len(text))


def cut(text: str, length: int) -> str:
    """The beginning of a result that is too long, as people read it."""
    return to_json(f"{as_text(text[:RESULT_LENGTH])}… (cut: it has {length:,} letters)").decode()


def as_said(value: Any) -> str:
    """A value as its text, whatever it is made of."""
    try:
        return str(value)
    except BaseException:  # a value has code of its own, which may raise anything
        return f"a {type(value).__name__}"
