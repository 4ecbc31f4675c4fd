"""Plain functions run in threads, which nobody can stop: what runs on after its time is waited for, or said.

There are as many threads as there are items in flight, each for one call after the other; Starlette's pool of
forty is not used. What a call leaves in its thread the next one finds there (`threading.local`), but for the
thread's event loop.
"""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import math
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import anyio.to_thread

from rowcast.tasks.registry import Task
from rowcast.tasks.sentences import worded
from rowcast.tasks.steps import current_call, current_run
from rowcast.worker.beside import Started, heed_gathering, in_future, note, started_at
from rowcast.worker.context import LET_GO
from rowcast.worker.processes import heed_processes, heed_reading

NO_THREAD = "can't start new thread"  # as Python says it
AGAIN = 0.2  # seconds until one is asked for again
mapped = threading.local()  # `place`: where this thread has asked for a pool's `map`, as long as that gives


class Running:
    """One call of a plain function in a thread, and whether it is over."""

    def __init__(self, call: Callable[[], Any]):
        self.call = call
        self.loop = asyncio.get_running_loop()
        self.over = asyncio.Event()
        self.has_begun = False
        self.has_ended = False

    async def in_thread(self, limiter: anyio.CapacityLimiter) -> Any:
        """Run it, once the machine has a thread for it: that it has none is no failure of the call."""
        while True:
            try:
                value, error = await anyio.to_thread.run_sync(
                    self.run, abandon_on_cancel=True, limiter=limiter
                )
                break
            except RuntimeError as error:
                if self.has_begun or str(error) != NO_THREAD:
                    raise
            await asyncio.sleep(AGAIN)
        if error is not None:  # raised here: a future with a GeneratorExit would close all who wait for it
            raise error
        return value

    def run(self) -> tuple[Any, BaseException | None]:
        """In the thread."""
        self.has_begun = True
        try:
            return self.call(), None
        except BaseException as error:  # an exit() too is for who waits for the call
            return None, error
        finally:
            asyncio.set_event_loop(None)  # the next call's is not this one's, which may be closed
            self.has_ended = True
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self.loop.call_soon_threadsafe(self.over.set)

    @property
    def goes_on(self) -> bool:
        return self.has_begun and not self.has_ended

    async def ended_within(self, seconds: float) -> bool:
        """Wait for its end, so long at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.over.wait()
        return self.over.is_set()


class InThread:
    """A plain function as a coroutine function of one value."""

    def __init__(self, function: Callable[..., Any], arguments: dict[str, Any]):
        self.function = function
        self.arguments = arguments
        self.limiter = anyio.CapacityLimiter(math.inf)

    async def __call__(self, value: Any) -> Any:
        running = Running(lambda: self.function(value, **self.arguments))
        if call := current_call.get():
            call.thread = running
        return await running.in_thread(self.limiter)


def patience(task: Task) -> float:
    """Seconds that a plain function gets to end by itself once its time is over: as long again, and LET_GO at
    least.
    """
    return max(task.timeout or 0.0, LET_GO)


@functools.cache
def carry_context() -> None:
    """From now on a task's threads know whose item, or whose steps, they are for, as all do from Python 3.14
    on.

    A thread, and what a pool is given to do, then run in a copy of the context of who started it; only where
    that is a try of ours.
    """
    start = threading.Thread.start
    submit = concurrent.futures.ThreadPoolExecutor.submit
    submit_to_process = ProcessPoolExecutor.submit
    map_ = concurrent.futures.Executor.map
    to_loop = asyncio.run_coroutine_threadsafe
    heed_processes()
    heed_gathering()

    def start_in_context(thread: threading.Thread) -> None:
        future: concurrent.futures.Future[Any] | None = None
        if is_a_try() and not type(thread).__module__.startswith("anyio."):  # its calls bring theirs
            run: Callable[[], Any] = functools.partial(contextvars.copy_context().run, thread.run)
            if place := started_at():
                future = concurrent.futures.Future()
                future.set_running_or_notify_cancel()
                run = in_future(run, future)
            vars(thread)["run"] = run
        start(thread)
        if future is not None:
            note(Started(future, worded(f"a thread that it started ({place})"), thread.daemon))

    def submit_in_context(pool: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if not is_a_try():
            return submit(pool, function, *args, **kwargs)
        place = given_at()
        future = submit(pool, functools.partial(contextvars.copy_context().run, function), *args, **kwargs)
        if place:
            note_given(future, worded(f"what it gave to a pool of threads ({place})"))
        return future

    def submit_noted(pool: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        future = submit_to_process(pool, function, *args, **kwargs)
        if is_a_try() and (place := given_at()):
            note_given(future, worded(f"what it gave to a pool of processes ({place})"))
        return future

    def map_noted(pool: Any, *args: Any, **kwargs: Any) -> Any:
        """It asks for `submit` by itself, for whoever asks for this."""
        mapped.place = started_at() if is_a_try() else ""
        try:
            return map_(pool, *args, **kwargs)
        finally:
            mapped.place = ""

    def to_loop_noted(*args: Any, **kwargs: Any) -> Any:
        """A thread gives it a coroutine, of which asyncio makes a task in nobody's name."""
        future = to_loop(*args, **kwargs)
        if place := started_at():
            note_given(future, worded(f"an asyncio task that it started ({place})"))
        return future

    for kind, name, in_context in (
        (asyncio, to_loop.__name__, to_loop_noted),
        (asyncio.tasks, to_loop.__name__, to_loop_noted),
        (threading.Thread, "start", start_in_context),
        (concurrent.futures.ThreadPoolExecutor, "submit", submit_in_context),
        (ProcessPoolExecutor, "submit", submit_noted),
        (concurrent.futures.Executor, "map", map_noted),
    ):
        setattr(kind, name, in_context)


def given_at() -> str:
    """Where a pool is given something to call."""
    return getattr(mapped, "place", "") or started_at()


def note_given(future: "concurrent.futures.Future[Any]", what: str) -> None:
    one = Started(future, what)
    heed_reading(future, one)
    note(one)


def is_a_try() -> bool:
    """Whether this code runs as a try of ours."""
    return current_run.get() is not None or current_call.get() is not None
