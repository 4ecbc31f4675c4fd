"""Steps: how a task that is called once reports what it does, as
items. A loop says `track`, a call says `step`.

They talk to the run of the job, the Reporter in `current_run`. Where there is none, or inside another step,
they are the plain loop and the plain call. A step that an earlier run of the job has completed is not run
again.
"""

import contextvars
import inspect
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sized
from typing import Any, Protocol

import msgspec


class Cancelled(BaseException):
    """Raised inside a loop by `track` and `step` once the job has been cancelled."""


class Reporter(Protocol):
    """What `track` and `step` talk to: the run of a body task.

    Steps are numbered in the order in which they begin.
    """

    @property
    def open(self) -> bool:
        """Whether the code that asks is inside a step; what it reports is then no step of its own."""

    def expect(self, keys: list[str]) -> None:
        """Show these steps as queued."""

    def gate(self) -> None:
        """Wait while the job is paused; raise Cancelled once it is cancelled."""

    async def gate_async(self) -> None:
        """`gate` for code on the event loop."""

    def begin(self, key: str, loop: "weakref.ref[Any] | None" = None) -> bool:
        """Open the next step; False if an earlier run of this job has completed it.

        A step of a `loop` ends with it.
        """

    def end(self, result: Any = None) -> None:
        """The open step is completed."""

    def leave(self, failure: BaseException | None = None) -> None:
        """The open step was left, by an exception or by a break; what
        became of it is known when the task goes on.
        """

    def recorded(self) -> Any:
        """The result of the step that `begin` has just refused."""


current_run: contextvars.ContextVar[Reporter | None] = contextvars.ContextVar("rowcast_run", default=None)


class track:
    """Report a loop's steps as items: `for i in track(range(loops)):`, or `async for` in a coroutine.

    key: the text that stands for one element on the page. What has a length is shown as queued beforehand.
    After a crash, steps that were completed are skipped. Outside a job, and inside another step, it is the
    plain loop.
    """

    def __init__(self, iterable: Iterable[Any], key: Callable[[Any], str] = str):
        self.iterable, self.key = iterable, key

    def __iter__(self) -> Iterator[Any]:
        run = current_run.get()
        if run is None or run.open:
            return iter(self.iterable)
        loop: list[weakref.ref[Any]] = []
        steps = self._steps(run, loop)
        loop.append(weakref.ref(steps))
        return steps

    def _steps(self, run: Reporter, loop: list["weakref.ref[Any]"]) -> Iterator[Any]:
        self._expect(run)
        for element in self.iterable:
            run.gate()
            if run.begin(str(self.key(element)), loop[0]):
                yield element
                run.end()

    def __aiter__(self) -> AsyncIterator[Any]:
        run = current_run.get()
        if run is None or run.open:
            return self._plainly()
        loop: list[weakref.ref[Any]] = []
        steps = self._steps_async(run, loop)
        loop.append(weakref.ref(steps))
        return steps

    async def _steps_async(self, run: Reporter, loop: list["weakref.ref[Any]"]) -> AsyncIterator[Any]:
        self._expect(run)
        for element in self.iterable:
            await run.gate_async()
            if run.begin(str(self.key(element)), loop[0]):
                yield element
                run.end()

    async def _plainly(self) -> AsyncIterator[Any]:
        for element in self.iterable:
            yield element

    def _expect(self, run: Reporter) -> None:
        if isinstance(self.iterable, Sized):
            run.expect([str(self.key(element)) for element in self.iterable])


def step(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run `function(*args, **kwargs)` as one named item and return its
    result (await it if the function is async).

    A step that an earlier run of the job completed is not run again: its recorded result is returned.
    """
    if inspect.iscoroutinefunction(function):
        return _async_step(name, function, args, kwargs)
    run = current_run.get()
    if run is None or run.open:
        return function(*args, **kwargs)
    run.gate()
    if not run.begin(name):
        return run.recorded()
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        run.leave(error)
        raise
    run.end(result)
    return result


async def _async_step(name: str, function: Callable[..., Awaitable[Any]], args: Any, kwargs: Any) -> Any:
    run = current_run.get()
    if run is None or run.open:
        return await function(*args, **kwargs)
    await run.gate_async()
    if not run.begin(name):
        return run.recorded()
    try:
        result = await function(*args, **kwargs)
    except BaseException as error:
        run.leave(error)
        raise
    run.end(result)
    return result


class Retry(Exception):
    """Raise it in a task to have this item tried again, `after`
    seconds from now (None: the task's backoff).
    """

    def __init__(self, reason: str = "the task asked for another try", after: float | None = None):
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

    @property
    def key(self) -> str:
        """The item's `Idempotency-Key`, the same on every attempt."""
        return f"{self.job}-{self.item}"


current_call: contextvars.ContextVar[Call | None] = contextvars.ContextVar("rowcast_call", default=None)


def idempotency_key() -> str:
    """The key of the item being run, `<job>-<item>`, the same on every attempt.

    Raises LookupError outside an item.
    """
    call = current_call.get()
    if call is None:
        raise LookupError("idempotency_key() is for code that runs as an item of a job.")
    return call.key
