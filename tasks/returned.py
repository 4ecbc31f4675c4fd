"""What a call returned, looked at: work that was only made, and not done, is no result; nor is a failure.

A coroutine is awaited. A generator, a request that was not sent, a thread that still runs are refused in one
sentence, also inside a list; an exception, or an answer that says no, is raised, as if it had not been
caught. A row that shows "completed" says that the work is done.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import io
import itertools
import urllib.error
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from rowcast.tasks.encoding import fields_of

VALUES = frozenset({str, int, float, bool, dict, list, type(None)})  # of these nothing is to be asked
INSIDE = (list, tuple, set, frozenset, deque)
MOST = 10_000  # values inside one that are looked at
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
    "contextlib": ("_GeneratorContextManager", "_AsyncGeneratorContextManager"),  # client.stream(...)
    "starlette": ("BackgroundTask", "BackgroundTasks"),
    "rowcast": ("Task", "track"),
    "celery": ("Signature",),
    "sqlalchemy": ("Executable",),
    "peewee": ("_WriteQuery",),
}
# of whose answers the code is looked at
ANSWERS = ("httpx", "httpx2", "requests", "aiohttp", "pyreqwest", "urllib3", "http")
# what stands for a process, and what its code is called there
PROCESSES = {
    ("subprocess", "CompletedProcess"): "returncode",
    ("subprocess", "Popen"): "returncode",
    ("asyncio", "Process"): "returncode",
    ("anyio", "Process"): "returncode",
    ("multiprocessing", "BaseProcess"): "exitcode",
}


async def settled(value: Any) -> Any:
    """What a call returned, awaited where it is to be awaited. Raises TypeError for work that was only
    made, and what is a failure.
    """
    if type(value) in VALUES:
        return value
    while inspect.isawaitable(value):
        value = await value
    if isinstance(value, concurrent.futures.Future):
        value = await given_by(value)
    demand_done(value)
    return value


async def given_by(future: "concurrent.futures.Future[Any]") -> Any:
    """What a pool's future gives, which is broken off with whoever waits for it."""
    try:
        await end_of(future)
    except asyncio.CancelledError:
        future.cancel()
        raise
    if future.cancelled():
        raise asyncio.CancelledError
    return future.result()


def end_of(future: "concurrent.futures.Future[Any]") -> "asyncio.Future[None]":
    """The end of a pool's future, whatever it ends by: asyncio's `wrap_future` hears of no StopIteration."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        if not over.done():
            over.set_result(None)

    def tell(_: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(end)

    future.add_done_callback(tell)
    return over


def demand_done(value: Any) -> None:
    """Raises TypeError, in one sentence, for what stands for work that is not done; and what is a failure."""
    if type(value) in VALUES:
        return
    if isinstance(value, BaseException):
        raise value
    if says_no(value):
        refuse = getattr(value, "raise_for_status", None) or getattr(value, "error_for_status", None)
        raise_for(value) if refuse is None else refuse()
    if code := failed_code(value):
        raise ChildProcessError(f"a process ended with code {code}")
    if why := not_done(value):
        raise TypeError(f"What was returned is not done: {why}.")


def demand_all_done(value: Any) -> None:
    """The same of all that is in a list, a dict and their like. What JSON cannot hold is to be asked so."""
    ahead = deque([value])
    for _ in range(MOST):
        if not ahead:
            break
        one = ahead.popleft()
        if isinstance(one, dict):
            ahead.extend(itertools.islice(one.values(), MOST))
        elif isinstance(one, INSIDE):
            ahead.extend(itertools.islice(one, MOST))
        elif fields := fields_of(one):
            ahead.extend(itertools.islice(fields.values(), MOST))
        elif isinstance(one, asyncio.Future | concurrent.futures.Future) and one.done():
            one.result()
        elif inspect.isawaitable(one) or isinstance(one, concurrent.futures.Future):
            kind = type(one).__name__
            raise TypeError(f"What was returned is not done: a {kind} in it was not waited for.")
        else:
            demand_done(one)


def says_no(value: Any) -> bool:
    """Whether it is the answer of an API that says no."""
    if type(value).__module__.partition(".")[0] not in ANSWERS:
        return False
    code = getattr(value, "status_code", None) or getattr(value, "status", None)
    return isinstance(code, int) and code >= 400 and "Response" in type(value).__name__


def raise_for(answer: Any) -> None:
    """Raises HTTPError, as urllib.request would have, for an answer of urllib3's or http.client's."""
    raise urllib.error.HTTPError(
        getattr(answer, "url", None) or "", answer.status, answer.reason or "", answer.headers, None
    )


def failed_code(value: Any) -> int:
    """The code that a process has ended with that has failed; 0 for none."""
    kinds = {(one.__module__.partition(".")[0], one.__name__) for one in type(value).__mro__}
    for kind, name in PROCESSES.items():
        if kind in kinds:
            code = getattr(value, name)
            return code if isinstance(code, int) else 0
    return 0


def not_done(value: Any) -> str:
    """Why what was returned is no result but work to be done, as half a sentence; '' where it is one."""
    kind = type(value)
    if isinstance(value, Iterator | AsyncIterator) and not has_begun(value):
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
    if (("asyncio", "Process") in names or ("anyio", "Process") in names) and value.returncode is None:
        return "a process was not waited for"
    if ("multiprocessing", "BaseProcess") in names and (value.pid is None or value.is_alive()):
        return "a process was not waited for"
    if ("multiprocessing", "ApplyResult") in names and not value.ready():
        return "a pool was not waited for"
    return ""


def has_begun(value: Any) -> bool:
    """Whether what can be looped over has done its work: a cursor of a database (PEP 249) has executed its
    statement, and a file is open.
    """
    return isinstance(value, io.IOBase) or hasattr(value, "description") or hasattr(value, "rowcount")


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
