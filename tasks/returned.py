"""What a call returned, looked at: work that was only made, and not done, is no result.

A coroutine is awaited. A generator, a request that was not sent, a thread that still runs are refused in one
sentence: a row that shows "completed" says that the work is done.
"""

import asyncio
import concurrent.futures
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

VALUES = (str, int, float, dict, list, type(None))  # of these nothing is to be asked
# what stands for work to be done, by the first part of its module and its name
NOT_SENT = {
    "httpx": ("Request",),
    "httpx2": ("Request",),
    "requests": ("Request", "PreparedRequest"),
    "urllib": ("Request",),
    "pyreqwest": (
        "RequestBuilder",
        "SyncRequestBuilder",
        "Request",
        "ConsumedRequest",
        "StreamRequest",
        "SyncConsumedRequest",
    ),
    "starlette": ("BackgroundTask", "BackgroundTasks"),
    "rowcast": ("Task", "track"),
}


async def settled(value: Any) -> Any:
    """What a call returned, awaited where it is to be awaited. Raises TypeError for work that was only
    made.
    """
    if isinstance(value, VALUES):
        return value
    while inspect.isawaitable(value):
        value = await value
    if isinstance(value, concurrent.futures.Future):
        value = await asyncio.wrap_future(value)
    demand_done(value)
    return value


def demand_done(value: Any) -> None:
    """Raises TypeError, in one sentence, for what stands for work that is not done."""
    if not isinstance(value, VALUES) and (why := not_done(value)):
        raise TypeError(f"What was returned is not done: {why}.")


def not_done(value: Any) -> str:
    """Why what was returned is no result but work to be done, as half a sentence; '' where it is one."""
    kind = type(value)
    if isinstance(value, Iterator | AsyncIterator) or inspect.isasyncgen(value):
        return f"a {kind.__name__} does nothing until it is looped over"
    if inspect.isroutine(value) or isinstance(value, functools.partial | type):
        return f"the function {getattr(value, '__name__', '')} was not called".replace("  ", " ")
    names = [(one.__module__.partition(".")[0], one.__name__) for one in kind.__mro__]
    if any(name in NOT_SENT.get(module, ()) for module, name in names):
        return f"a {kind.__name__} was made, and not sent or run"
    if ("threading", "Thread") in names and (value.ident is None or value.is_alive()):
        return "a thread was not waited for"
    if ("subprocess", "Popen") in names and value.poll() is None:
        return "a process was not waited for"
    if ("multiprocessing", "BaseProcess") in names and (value.pid is None or value.is_alive()):
        return "a process was not waited for"
    if ("multiprocessing", "ApplyResult") in names and not value.ready():
        return "a pool was not waited for"
    return ""


def demand_runs(function: Callable[..., Any]) -> None:
    """Raises TypeError for a function whose call does nothing but make a generator or an object."""
    name = getattr(function, "__qualname__", repr(function))
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{name} is a generator, and calling it does nothing:"
            " loop inside it with track, or give it as items=."
        )
    if inspect.isclass(function):
        raise TypeError(
            f"{name} is a class, and calling it only makes an object: give a function that uses one."
        )
