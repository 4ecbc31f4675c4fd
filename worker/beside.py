"""What a try sets going beside itself: asyncio tasks, threads, processes, what a pool or the loop is to call.
A row is green once that is over too, and well.

Counted is what the task's own code starts; what a library starts for itself, as a pool of connections does,
is the library's. It is waited for once the function has returned, within the try's time limit (LONG where
there is none), and broken off with the try where it can be. A daemon thread, which is one that serves for
long, is waited for a little. Each is known from the moment at which it is started, so a try that starts
nothing pays for nothing.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import itertools
import re
import sys
import time
import types
import weakref
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from rowcast.tasks.installed import LIBRARY, OURS, is_installed, is_own
from rowcast.tasks.registry import Task
from rowcast.tasks.returned import end_of
from rowcast.tasks.sentences import worded
from rowcast.tasks.steps import current_call, current_run
from rowcast.worker.leftovers import leave

ROOMS = tuple(f"{OURS}/{room}/" for room in ("tasks", "worker", "messages", "extras", "tables", "engines"))
PASSED = (
    __file__,
    *(str(Path(__file__).parent / name) for name in ("threads.py", "outputs.py", "processes.py")),
)  # who passes it on
POOLS = (f"{LIBRARY}/concurrent/", f"{LIBRARY}/multiprocessing/")  # whose threads serve for long
LONG = 60.0  # seconds after the return for what has no time limit
LOOK_EVERY = 0.02  # seconds between two looks whether what tells nobody of its end is over
A_LITTLE = 10.0  # seconds for a daemon thread, or a quarter of the time limit
MANY = 1_000  # that are kept; then those that have ended well are forgotten
_folders: set[str] = set()  # of tasks that are installed, as packages


class Beside(msgspec.Struct):
    """What one try has started that may go on by itself."""

    going: list["Started"] = []
    closed: bool = False  # the try is over, and what is started from now on is nobody's

    def add(self, one: "Started") -> None:
        if self.closed:
            return
        self.going.append(one)
        if len(self.going) % MANY == 0:
            self.going = [other for other in self.going if not other.future.done() or other.failure]

    @property
    def left(self) -> list["Started"]:
        """What of it has to end, and has not."""
        return [one for one in list(self.going) if not (one.daemon or one.future.done())]

    async def over(self, limit: float | None) -> None:
        """Wait for all of it, and for what that starts; the try has so many seconds in all, and is broken off
        then. Raises what one of it has failed by.
        """
        give_up = time.monotonic() + LONG
        while left := self.left:
            for one in left:
                one.asked = False  # what it fails by now, the function has not heard of
                one.unhook()
            await waited(left, None if limit else give_up - time.monotonic())
            if not limit and time.monotonic() >= give_up and (left := self.left):
                raise TypeError(f"{left[0].what} was not over {LONG:g} s after the function: wait for it.")
        daemons = [one for one in self.going if one.daemon and not (one.future.done() or one.is_elsewhere)]
        await waited(daemons, min(A_LITTLE, limit / 4) if limit else A_LITTLE)
        for one in self.going:
            if failure := one.failed:
                raise failure
            one.demand_awaited()
        self.going = []

    async def over_within(self, seconds: float) -> bool:
        """Break off what can be, and wait for the end of all of it, so long at most."""
        self.break_off()
        await waited(self.left, seconds)
        return not self.left

    def close(self) -> None:
        self.break_off()
        for one in self.going:
            if not (isinstance(one.future, Polled) or one.is_around or one.future.done()):
                leave(partial(goes_on, one.future))
        self.closed = True
        self.going = []  # what it holds holds the try, and would be kept with it

    def break_off(self) -> None:
        """Have its asyncio tasks end, and what a pool has not begun; a thread cannot be."""
        for one in self.going:
            if not one.future.done() and not (one.daemon or one.future is asyncio.current_task()):
                one.future.cancel()
                one.future.add_done_callback(hear)


class Polled(concurrent.futures.Future[Any]):
    """The end of what tells nobody of it: `look` says once it is over, whenever that is asked. It cannot be
    broken off.
    """

    def look(self) -> None:
        raise TypeError("said by each kind")

    def done(self) -> bool:
        if not super().done():
            self.look()
        return super().done()

    def cancel(self) -> bool:
        return False


def goes_on(future: Any) -> bool:
    return not future.done()


class Started(msgspec.Struct):
    """An asyncio task, or a future that tells of a thread, or of what has processes."""

    future: Any
    what: str  # it is, and where it was started
    daemon: bool = False
    asked: bool = False  # whether the task's code has been told how it ended, as far as anybody can know

    @property
    def is_around(self) -> bool:
        """Whether it only tells how others have ended, which are known by themselves."""
        return self.daemon and isinstance(self.future, asyncio.Future)

    @property
    def is_elsewhere(self) -> bool:
        """Whether it runs on a loop that the task has in a thread of its own, with which it ends."""
        return isinstance(self.future, asyncio.Future) and (
            self.future.get_loop() is not asyncio.get_running_loop()
        )

    @property
    def failed(self) -> BaseException | None:
        """What it has failed by, that was told to nobody, and is now."""
        if failure := self.failure:
            self.unhook()
            self.future.exception()
        return failure

    @property
    def failure(self) -> BaseException | None:
        """The same, while the task's code may yet ask."""
        if self.asked or not self.future.done() or self.future.cancelled():
            return None
        failure: BaseException | None
        if not isinstance(self.future, asyncio.Future):
            failure = concurrent.futures.Future.exception(self.future)
            return failure
        if not getattr(self.future, "_log_traceback", True):  # asyncio's own word for "nobody has asked"
            return None
        failure = getattr(self.future, "_exception", None)
        # a gathering that somebody has cancelled has ended so, and is not `cancelled`
        return None if isinstance(failure, asyncio.CancelledError) else failure

    def demand_awaited(self) -> None:
        """Raises TypeError where a coroutine came of what a pool has called, and nobody awaited that."""
        if isinstance(self.future, Polled | asyncio.Future) or not self.future.done():
            return
        future = concurrent.futures.Future
        if self.future.cancelled() or future.exception(self.future):
            return
        made = future.result(self.future)
        if inspect.iscoroutine(made) and inspect.getcoroutinestate(made) == inspect.CORO_CREATED:
            made.close()
            raise TypeError(f"coroutine '{made.__qualname__}' was never awaited: it came of {self.what}")

    def unhook(self) -> None:
        """It is we who ask from here on (processes.py)."""
        if isinstance(self.future, concurrent.futures.Future):
            for name in ("result", "exception"):
                vars(self.future).pop(name, None)


def hear(future: Any) -> None:
    """How it ends is asked for by nobody."""
    if not future.cancelled():
        future.exception()


async def waited(left: Iterable[Started], seconds: float | None) -> None:
    futures = [one.future for one in left]
    looks = []
    for n, one in enumerate(futures):
        if isinstance(one, Polled):
            futures[n] = asyncio.create_task(ended(one))
            looks.append(futures[n])
        elif isinstance(one, concurrent.futures.Future):
            futures[n] = end_of(one)
    try:
        if futures:
            await asyncio.wait(futures, timeout=seconds)
    finally:
        for look in looks:
            look.cancel()


async def ended(one: Polled) -> None:
    while not one.done():
        await asyncio.sleep(LOOK_EVERY)


# ---- who starts it -----------------------------------------------------------------------------------------


def heed_beside(task: Task) -> None:
    """From now on what this task starts on this loop is known; threads.py says what it starts elsewhere."""
    show_own()
    function = inspect.unwrap(task.function)
    if code := getattr(function, "__code__", None):
        _note_folder(code.co_filename, function.__module__)
    loop = asyncio.get_running_loop()
    if loop.get_task_factory() is None:
        for one in asyncio.all_tasks(loop):  # no try has begun
            hide(one)
        factory: Any = made  # Python's own types know none that passes on what 3.14 will say besides
        loop.set_task_factory(factory)
        put = vars(loop)
        put["call_at"] = heeding(loop.call_at, 1)
        put["call_later"] = heeding(loop.call_later, 1)  # which of uvloop's asks nobody
    for name in names_of_theirs(len(sys.modules), len(_folders)) - vars(loop).keys():
        vars(loop)[name] = heeding(getattr(loop, name), 0)


def made(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **how: Any) -> Any:
    """The loop's factory of asyncio tasks."""
    one: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **how)
    if place := started_at():
        note(Started(one, worded(f"an asyncio task that it started ({place})")))
    elif current_call.get() is None and current_run.get() is None:
        hide(one)
    return one


def made_elsewhere(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **how: Any) -> Any:
    """The same of a loop that a try runs by itself, as by `asyncio.run` in a thread."""
    one: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **how)
    if place := started_at():
        note(Started(one, worded(f"an asyncio task that it started ({place})"), daemon=True))
    return one


def hide(one: "asyncio.Task[Any]") -> None:
    """It is the worker's: of who cancels, or waits for, all tasks that run, it is not meant."""
    asyncio.tasks._unregister_task(one)


@functools.cache
def show_own() -> None:
    """From now on who asks for all tasks that run finds itself among them, also where that is hidden."""
    all_tasks = asyncio.all_tasks

    @functools.wraps(all_tasks)
    def all_and_own(loop: asyncio.AbstractEventLoop | None = None) -> "set[asyncio.Task[Any]]":
        tasks = all_tasks(loop)
        with contextlib.suppress(RuntimeError):  # no loop runs here
            this = asyncio.current_task()
            if this and loop in (None, this.get_loop()):
                tasks.add(this)
        return tasks

    asyncio.all_tasks = all_and_own


@functools.cache
def heed_gathering() -> None:
    """From now on `gather` and `shield` are known, and how they end: these ask each of what they are around,
    so that has told somebody, and they may have nobody who asks them. And so is what a try starts on a loop
    that it runs by itself.
    """
    gathering: Any = asyncio.tasks
    gathering._GatheringFuture = around(gathering._GatheringFuture)  # `gather` makes one, however imported
    asyncio.shield = asyncio.tasks.shield = around(asyncio.shield)
    get_loop = asyncio.Runner.get_loop
    run = asyncio.Runner.run

    @functools.wraps(run)
    def run_noted(runner: asyncio.Runner, *args: Any, **how: Any) -> Any:
        is_a_try = current_call.get() is not None or current_run.get() is not None
        if is_a_try and (loop := get_loop(runner)).get_task_factory() is None:
            factory: Any = made_elsewhere
            loop.set_task_factory(factory)
        return run(runner, *args, **how)

    runner: Any = asyncio.Runner
    runner.run = run_noted


FACTORIES = (made, made_elsewhere)


def around(make: Callable[..., Any]) -> Any:
    @functools.wraps(make, updated=())
    def made_around(*args: Any, **how: Any) -> Any:
        outer = make(*args, **how)
        if outer not in args and (place := started_at()) and outer.get_loop().get_task_factory() in FACTORIES:
            note(Started(outer, worded(f"an asyncio task that it started ({place})"), daemon=True))
        return outer

    return made_around


def heeding(give: Callable[..., Any], at: int) -> Callable[..., Any]:
    """What gives a loop something to call, later or soon: at that place of its arguments."""

    def given(*args: Any, **how: Any) -> Any:
        # a client does this with each request: what is a library's is known at once
        code = getattr(args[at], "__code__", None) if len(args) > at else None
        if code is not None and whose(code.co_filename) != "theirs":
            return give(*args, **how)
        if len(args) <= at or not is_theirs(args[at]) or not (place := started_at()):
            return give(*args, **how)
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        run = in_future(functools.partial(args[at], *args[at + 1 :]), future)

        def running() -> None:
            if future.set_running_or_notify_cancel():
                run()

        weakref.finalize(running, future.cancel).atexit = False  # its handle was cancelled
        handle = give(*args[:at], running, **how)
        future.add_done_callback(lambda over: handle.cancel() if over.cancelled() else None)
        note(Started(future, worded(f"what it had the loop call ({place})")))
        return handle

    return given


@functools.cache
def _note_folder(file: str, module: str) -> None:
    """Note the folder of a task that is installed, as a package: its code is theirs."""
    package = Path(file).parents[module.count(".")]
    if is_installed(package.parent) and str(package) != OURS:
        _folders.add(f"{package}/")
        whose.cache_clear()


# A loop's doors through which others go all the time: each step of each asyncio task through the first, and a
# client that has a thread of its own through the second, where Python would make and unmake all that a thread
# needs for each call of ours.
BUSY = ("call_soon", "call_soon_threadsafe")
MOST_NEAR = 500  # files of a folder, and of those in it, in which they are looked for


@functools.lru_cache(maxsize=1)
def names_of_theirs(modules: int, folders: int) -> frozenset[str]:
    """Which of BUSY their code has somewhere, in so many modules and folders: it is looked for when these are
    more. Where nobody else asks for one, it stays as fast as it is.
    """
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    theirs = [file for file in files if file and whose(file) == "theirs"]
    near = {str(Path(file).parent) for file in theirs} - {OURS}
    return frozenset[str]().union(*map(_names_in, theirs), *map(_names_near, near))


@functools.cache
def _names_near(folder: str) -> frozenset[str]:
    """The same of the modules and packages there, which a function may import only once it is called."""
    packages = [file.parent for file in Path(folder).glob("*/__init__.py")]
    files = itertools.chain.from_iterable(one.glob("*.py") for one in (Path(folder), *packages))
    return frozenset[str]().union(*(_names_in(str(file)) for file in itertools.islice(files, MOST_NEAR)))


@functools.cache
def _names_in(file: str) -> frozenset[str]:
    try:
        code = Path(file).read_bytes()
    except OSError:
        return frozenset()
    return frozenset(name for name in BUSY if re.search(rf"\b{name}\b".encode(), code))


def is_theirs(callback: Any) -> bool:
    """Whether a try's own code has this called: asyncio calls much by itself, as what a task waits for is
    there."""
    while isinstance(callback, functools.partial):
        callback = callback.func
    if isinstance(callback, types.BuiltinFunctionType):
        return not isinstance(callback.__self__, asyncio.Future)
    code = getattr(callback, "__code__", None)
    return code is not None and whose(code.co_filename) == "theirs"


def note(one: Started) -> None:
    """Keep it with the try that this is."""
    holder: Any = current_call.get() or current_run.get()
    if holder is not None:
        holder.beside = holder.beside or Beside()
        holder.beside.add(one)


def started_at() -> str:
    """Where a try's own code starts something; '' where no try does, or a library for itself."""
    frame = sys._getframe(1) if current_call.get() is not None or current_run.get() is not None else None
    while frame is not None and (whose_is := whose(frame.f_code.co_filename)) != "theirs":
        if whose_is == "a library's":
            return ""
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}" if frame else ""


@functools.lru_cache(10_000)
def whose(file: str) -> str:
    """Whose code a file has: Python's own stands between who starts something and what starts it."""
    if file.startswith(POOLS):
        return "a library's"
    if file in PASSED or file.startswith("<") or is_own(file):
        return "between"
    if file.startswith(tuple(_folders)):
        return "theirs"
    return "a library's" if is_installed(file) or file.startswith(ROOMS) else "theirs"


def in_future(run: Callable[[], Any], future: "concurrent.futures.Future[Any]") -> Callable[[], None]:
    """A thread's `run`, of whose end and failure a future tells."""

    def running() -> None:
        try:
            run()
        except SystemExit as error:  # so a thread says that it is done, or that it could not be
            future.set_exception(error) if error.code else future.set_result(None)
            raise
        except BaseException as error:  # who waits for the thread is told of any end
            future.set_exception(error)
            raise
        else:
            future.set_result(None)

    return running
