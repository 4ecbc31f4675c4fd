"""Steps: how a task that is called once reports what it does, as items. A loop says `track`, a call says
`step`.

They talk to the run of the job, the Reporter in `current_run`. Where there is none, or inside another step,
they are the plain loop and the plain call. Steps may overlap, in tasks of asyncio or in threads. A step that
an earlier run of the job has completed, known by its key, is not run again.
"""

import contextlib
import contextvars
import datetime
import inspect
import itertools
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sized
from typing import Any, Protocol

import msgspec

from rowcast.tasks.returned import demand_done
from rowcast.tasks.walk import Walk

AHEAD = 10_000  # steps of a loop that are shown as queued before they begin


class Cancelled(BaseException):
    """Raised inside a loop by `track` and `step` once the job has been cancelled."""


class OpenStep:
    """One step from its beginning to its end."""

    def __init__(self, position: int, key: str, walk: Walk | None = None):
        self.position = position
        self.key = key
        self.walk = walk  # of `track`: its loop, with which it ends
        self.task: Any = None  # the asyncio task in which it runs
        self.began = 0.0  # by time.perf_counter
        self.failure: BaseException | None = None  # what it was left with
        self.done = False  # an earlier run has completed it
        self.result: Any = None  # of one that is done
        self.awaited = False  # whether that came from a function that is awaited
        self.idle = False  # what it returned is to be awaited, and is not yet
        self.key_sent = ""  # its Idempotency-Key
        self.mails = 0  # that it has sent in this try
        self.once = False  # it is not to be repeated, and has not ended
        self.log: Any = None  # what it has said: worker.capture.TryLog

    @property
    def left(self) -> bool:
        """Whether it was left without an end: by an exception, or as its loop was broken out of."""
        return self.failure is not None or (self.walk is not None and self.walk.is_left)


class Reporter(Protocol):
    """What `track` and `step` talk to: the run of a body task, from any thread or task of asyncio that it has
    started.
    """

    job: int
    key_sent: str  # the Idempotency-Key of the call itself
    mails: int  # that it has sent outside its steps

    def check(self) -> None:
        """Raise Cancelled where the call that reports is over."""

    def expect(self, keys: list[str]) -> None:
        """Show these steps as queued."""

    def gate(self) -> None:
        """Wait while the job is paused; raise Cancelled once it is cancelled."""

    async def gate_async(self) -> None:
        """`gate` for code on the event loop."""

    def begin(self, key: str, walk: Walk | None = None) -> OpenStep:
        """Open a step, or give the one that an earlier run has completed. A step of a loop ends with it."""

    def end(self, opened: OpenStep, result: Any = None, awaited: bool = False) -> None:
        """The step is completed. Raises TypeError for a result that could not be given back at another
        try.
        """

    def leave(self, opened: OpenStep, failure: BaseException | None = None) -> None:
        """The step was left, by an exception or by a break; what became of it is known when the task goes
        on.
        """

    def promise(self, name: str) -> Callable[[], None]:
        """A step of a coroutine was made; what is returned is called as it begins."""

    def note_unawaited(self, said: str) -> None:
        """A coroutine that this has made was let go of before anybody awaited it, as Python `said`."""

    async def once(self, opened: OpenStep | None) -> None:
        """From here on a step, or the call itself, is not to be repeated: return once that is on the disk.
        Raises Cancelled where the call that reports is over.
        """


current_run: contextvars.ContextVar[Reporter | None] = contextvars.ContextVar("rowcast_run", default=None)
current_step: contextvars.ContextVar[OpenStep | None] = contextvars.ContextVar("rowcast_step", default=None)


def reporter() -> Reporter | None:
    """Whom a step is to be told; None outside a job, and inside another step."""
    run = current_run.get()
    if run is None:
        return None
    run.check()
    opened = current_step.get()
    if opened is None:
        return run
    error = opened.walk.left_by() if opened.walk else None
    if opened.left or error:  # its loop was broken out of, or by an exception
        run.leave(opened, error)
        current_step.set(None)
        return run
    return None


class track:
    """Report a loop's steps as items: `for i in track(range(loops)):`, or `async for` in a coroutine.

    key: the text that stands for one element on the page, and by which it is known again. What has a length
    is shown as queued beforehand. After a crash, steps that were completed are skipped, in whatever order
    they come then. Outside a job, and inside another step, it is the plain loop. `async for` takes what is
    async itself, too.
    """

    def __init__(self, iterable: Iterable[Any] | AsyncIterable[Any], key: Callable[[Any], str] = str):
        self.iterable = iterable
        self.key = key

    def __iter__(self) -> Iterator[Any]:
        if not isinstance(self.iterable, Iterable):
            raise TypeError(f"track: a {type(self.iterable).__name__} is looped over by `async for`.")
        run = reporter()
        if run is None:
            return iter(self.iterable)
        walk = Walk()
        steps = self._steps(run, walk)
        walk.follow(steps)
        return steps

    def _steps(self, run: Reporter, walk: Walk) -> Iterator[Any]:
        assert isinstance(self.iterable, Iterable)
        ahead = self._ahead(run)
        for element in self.iterable:
            next(ahead, None)
            run.gate()
            opened = run.begin(str(self.key(element)), walk)
            if not opened.done:
                current_step.set(opened)
                walk.note(sys._getframe(1))
                yield element
                current_step.set(None)
                run.end(opened)

    def __aiter__(self) -> AsyncIterator[Any]:
        run = reporter()
        if run is None:
            return self._elements()
        walk = Walk()
        steps = self._steps_async(run, walk)
        walk.follow(steps)
        return steps

    async def _steps_async(self, run: Reporter, walk: Walk) -> AsyncIterator[Any]:
        ahead = self._ahead(run)
        async for element in self._elements():
            next(ahead, None)
            await run.gate_async()
            opened = run.begin(str(self.key(element)), walk)
            if not opened.done:
                current_step.set(opened)
                walk.note(sys._getframe(1))
                yield element
                current_step.set(None)
                run.end(opened)

    async def _elements(self) -> AsyncIterator[Any]:
        if isinstance(self.iterable, AsyncIterable):
            async for element in self.iterable:
                yield element
        else:
            for element in self.iterable:
                yield element

    def _ahead(self, run: Reporter) -> Iterator[None]:
        """Show what is to come, AHEAD steps at most: asked once for each element."""
        if not isinstance(self.iterable, Sized) or not isinstance(self.iterable, Iterable):
            return
        elements = iter(self.iterable)
        while keys := [str(self.key(element)) for element in itertools.islice(elements, AHEAD)]:
            run.expect(keys)
            yield from itertools.repeat(None, len(keys))


def step(name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Run `function(*args, **kwargs)` as one named item and return its result (await it if the function is
    async).

    A step that an earlier run of the job completed is not run again: its recorded result is returned. Raises
    TypeError for a result that cannot be recorded, and for a name that is no text.
    """
    if not isinstance(name, str):
        raise TypeError(f"A step's name is a text, not {repr(name)[:80]}.")
    if is_async(function):
        run = reporter()
        return _async_step(run, run.promise(name) if run else None, name, function, args, kwargs)
    run = reporter()
    if run is None:
        return function(*args, **kwargs)
    run.gate()
    opened = run.begin(name)
    if opened.done:
        return _ready(opened.result) if opened.awaited else opened.result
    with inside(run, opened):
        result = function(*args, **kwargs)
        if inspect.isawaitable(result):
            opened.idle = True
            return _awaited(run, run.promise(name), opened, result)
        demand_done(result)
        run.end(opened, result)
    return result


@contextlib.contextmanager
def inside(run: Reporter, opened: OpenStep) -> Iterator[None]:
    """What is done in it is the step's: what it reports is no step, and what it raises is what the step was
    left with.
    """
    token = current_step.set(opened)
    try:
        yield
    except BaseException as error:  # the step was left, by a cancellation too
        run.leave(opened, error)
        raise
    finally:
        current_step.reset(token)


async def _async_step(
    run: Reporter | None,
    begins: Callable[[], None] | None,
    name: str,
    function: Callable[..., Any],
    args: Any,
    kwargs: Any,
) -> Any:
    if run is None or begins is None:
        return await function(*args, **kwargs)
    begins()
    await run.gate_async()
    opened = run.begin(name)
    if opened.done:
        return opened.result
    with inside(run, opened):
        result = await function(*args, **kwargs)
        demand_done(result)
        run.end(opened, result)
    return result


async def _awaited(run: Reporter, begins: Callable[[], None], opened: OpenStep, result: Any) -> Any:
    """The rest of a step whose function was not async, and whose result is to be awaited."""
    begins()
    opened.idle = False
    with inside(run, opened):
        value = await result
        demand_done(value)
        run.end(opened, value, awaited=True)
    return value


async def _ready(value: Any) -> Any:
    return value


def is_async(function: Callable[..., Any]) -> bool:
    """Whether what it returns is to be awaited, as far as that can be seen."""
    return (
        inspect.iscoroutinefunction(function)
        or inspect.iscoroutinefunction(inspect.unwrap(function))
        or inspect.iscoroutinefunction(type(function).__call__)
    )


class Retry(Exception):
    """Raise it in a task to have this item tried again, `after` so many seconds from now, or a timedelta
    (None: the task's backoff).
    """

    def __init__(
        self, reason: str = "the task asked for another try", after: float | datetime.timedelta | None = None
    ):
        super().__init__(reason)
        self.after = after


class DryRun(BaseException):
    """Raised in a dry run in place of sending; `would` says what would have been sent."""

    def __init__(self, would: Any):
        super().__init__("dry run")
        self.would = would


class Call(msgspec.Struct, gc=False):
    """One call of a task for one item: what its client and its code may know and note."""

    job: int
    item: int
    code: int | None = None
    retry_after: float | None = None
    has_arrived: bool = False  # a request of it that changes something was answered, and not with a no
    unawaited: str = ""  # what Python said of a coroutine that it made and did not await
    mails: int = 0  # that it has sent
    thread: Any = None  # the plain function's run in a thread: worker.threads.Running
    beside: Any = None  # what it has started that goes on by itself: worker.beside.Beside
    answer: Any = None  # the last answer that said no, as the client has it
    attempt: int = 0
    run_log: Any = None  # where what it says is kept, as long as it goes on: worker.capture.RunLog
    log: Any = None  # what it has said: worker.capture.TryLog

    @property
    def key(self) -> str:
        """The item's `Idempotency-Key`, the same on every attempt."""
        return f"{self.job}-{self.item}"


current_call: contextvars.ContextVar[Call | None] = contextvars.ContextVar("rowcast_call", default=None)


def idempotency_key() -> str:
    """The key of the item being run, `<job>-<item>`, or of the step: the same on every attempt.

    Raises LookupError outside a job.
    """
    if key := key_here():
        return key
    raise LookupError("idempotency_key() is for code that runs as an item or a step of a job.")


def key_here() -> str | None:
    """The same; None outside a job."""
    call = current_call.get()
    if call is not None:
        return call.key
    here = current_step.get() or current_run.get()
    return here.key_sent if here else None


def job_here() -> int | None:
    """The job that is being run; None outside one."""
    here = current_call.get() or current_run.get()
    return here.job if here else None


def count_mail() -> int:
    """Which mail of its item or step this is, from 1. Raises LookupError outside a job."""
    here = current_call.get() or current_step.get() or current_run.get()
    if here is None:
        raise LookupError("A mail that no item and no step sends has to have an `id` of its own.")
    here.mails += 1
    return here.mails


async def not_again() -> None:
    """What comes now is not to be repeated: said by a mailer before a mail's text. A step that was in it when
    its worker died is unknown, and not run again; of items the setting `idempotent` says that.
    """
    run = current_run.get()
    if run is not None and current_call.get() is None:
        await run.once(current_step.get())
