"""`BackgroundTask` is the way in: Starlette's class with the same signature, which is a job.

It is written before the response that it stands behind is sent, and runs in the engine.
"""

import functools
import inspect
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from starlette.background import BackgroundTask as StarletteBackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rowcast.tasks.annotations import reader_of
from rowcast.tasks.encoding import as_json
from rowcast.tasks.filters import checked_tags
from rowcast.tasks.notify import Notify, Receiver, checked
from rowcast.tasks.records import OWNER, BadArguments, Job, Options
from rowcast.tasks.registry import Task, function_task, hints_of
from rowcast.tasks.secret import names_secret
from rowcast.tasks.settings import DATABASE, WORKER, demand_broker, from_environment
from rowcast.web.access import asked_of_app
from rowcast.web.state import State

log = logging.getLogger("rowcast")


def here() -> State:
    """The state of the dashboard that is mounted in the app which answers, or of this process's; its engine
    is started.

    In a worker it is that of the worker's own database, which the dashboard's engine looks after. Where
    nobody has mounted a dashboard one is made from the environment.
    """
    state = State.current.get() or State.here
    with State.making:
        state = state or State.here or next(iter(State.mounted), None)
        if state is None:
            settings = from_environment()
            if WORKER not in os.environ:
                demand_broker(settings)
            elif DATABASE not in os.environ:
                raise RuntimeError(
                    "A task that runs on a queue's worker has no database in which to start a job."
                )
            state = State.here = State(settings)
        if not state.is_prepared:
            state.prepare()
        if WORKER not in os.environ:
            state.engine.start()
        return state


class BackgroundTask(StarletteBackgroundTask):
    """Starlette's BackgroundTask as a job that runs in the engine: written before its response is sent.

    The function is importable by name (of a partial, what it was bound to are the first arguments). `notify`:
    who is told, `tags`: what it is found by, unless the function itself has an argument of that name. Raises
    TypeError where it is not importable, and for arguments that would not arrive as they are.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        *args: Any,
        notify: Iterable[dict[str, Any] | Notify] | None = None,
        tags: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        while isinstance(func, functools.partial):
            args = (*func.args, *args)
            kwargs = {**func.keywords, **kwargs}
            func = func.func
        self.task = function_task(func)
        self.job: Job | None = None
        if notify is not None and takes(self.task.function, "notify"):
            kwargs["notify"] = notify
            notify = None
        if tags is not None and takes(self.task.function, "tags"):
            kwargs["tags"] = tags
            tags = None
        args, kwargs = with_secrets(self.task, args, kwargs)
        self.options = Options(background=True, notify=told_of(notify), tags=tags_of(tags or ()))
        self.job_args = job_arguments(self.task, args, kwargs)
        write_before_sending()  # also kinds that were defined since the last one
        super().__init__(self.task.function, *args, **kwargs)

    async def __call__(self) -> None:
        if self.job is None:
            await write([self])
        await (await here_now()).engine.ring_soon()


async def here_now() -> State:
    """The same, in a thread where it is not at hand."""
    state = State.current.get() or State.here
    if state and state.is_prepared and state.engine.is_watched:
        return state
    return await run_in_threadpool(here)


async def write(tasks: list[BackgroundTask]) -> None:
    """Write the jobs of these, in one transaction: they belong to whom the app around us says asks."""
    asking = State.asking.get()
    state = State.current.get()
    owner = await asked_of_app(state, asking) if state and state.owner and asking else ""
    state = await here_now()
    note_written(tasks, await state.writer.do(write_jobs, tasks, owner or OWNER, state))


def write_jobs(tasks: list[BackgroundTask], owner: str, state: State) -> list[Job]:
    calls = [(one.task, one.job_args, one.options) for one in tasks]
    return state.jobs.write_all(calls, owner, state.engine.name)


def note_written(tasks: list[BackgroundTask], jobs: list[Job]) -> None:
    """Their jobs are on the disk; what was not committed is written where it is called again."""
    for one, job in zip(tasks, jobs, strict=True):
        one.job = job


def ours_in(background: Any) -> list[BackgroundTask]:
    """The jobs that a response has behind it, alone, in Starlette's BackgroundTasks, or given to
    `add_task`.
    """
    if isinstance(background, BackgroundTask):
        return [] if background.job else [background]
    inside = [*getattr(background, "tasks", ()), getattr(background, "func", None)]
    return [found for one in inside if one is not None for found in ours_in(one)]


def written_first(call: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """A response's way out that writes its jobs before the first byte: who reads "on its way" has one.

    Where they cannot be written, the answer is an error, and none of them is.
    """

    @functools.wraps(call)
    async def send_response(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        if tasks := ours_in(response.background):
            try:
                await write(tasks)
            except Exception as error:
                log.exception("A response's background tasks could not be written.")
                raise HTTPException(
                    503, "This could not be taken on just now; nothing was started."
                ) from error
        await call(response, scope, receive, send)

    vars(send_response)["writes_jobs"] = True
    return send_response


def write_before_sending(kind: type[Response] = Response) -> None:
    """Have each kind of response that sends itself its own way write its jobs first.

    Starlette calls a background task once its response is sent, and has no hook before that.
    """
    own = vars(kind).get("__call__")
    if own and "writes_jobs" not in vars(own):
        type.__setattr__(kind, "__call__", written_first(own))
    for more in kind.__subclasses__():
        write_before_sending(more)


def job_arguments(task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call as a job's arguments: by name where the function names them, else a list under
    "*".

    Raises TypeError for a call that does not fit the function, or arguments that would not arrive as they
    are.
    """
    given = dict(kwargs)
    if task.shape == "items" or task.arguments:
        if args:
            raise TypeError(f"Give the arguments of {task.name} by name.")
        try:
            return task.check(given)
        except BadArguments as error:
            raise TypeError(str(error)) from None
    if (signature := signature_of(task.function)) is not None:
        signature.bind(*args, **kwargs)
    if args:
        given["*"] = list(args)
    packed = {}
    for name, value in given.items():
        try:
            packed[name] = as_json(value)
        except TypeError as error:
            which = f"argument `{name}` of {task.name}" if name != "*" else f"arguments of {task.name}"
            raise TypeError(f"The {which} cannot be sent: {error}.") from None
    return packed


def with_secrets(
    task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call of a function that is no task, with a Secret for each that it annotates so.
    Raises TypeError.
    """
    if task.arguments or task.shape == "items" or (signature := signature_of(task.function)) is None:
        return args, kwargs
    if not any("Secret" in str(one.annotation) for one in signature.parameters.values()):
        return args, kwargs
    hints = hints_of(task.function)
    bound = signature.bind(*args, **kwargs)
    for name, value in bound.arguments.items():
        if names_secret(hints.get(name)):
            try:
                bound.arguments[name] = reader_of(hints[name])(value, True)
            except ValueError as error:
                raise TypeError(f"argument `{name}` of {task.name}: {error}.") from None
    return bound.args, bound.kwargs


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether the function has an argument of its own by that name."""
    signature = signature_of(function)
    return signature is not None and name in signature.parameters


def tags_of(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags, as a response gives them. Raises TypeError."""
    try:
        return checked_tags(tags)
    except BadArguments as error:
        raise TypeError(str(error)) from None


def told_of(notify: Any) -> tuple[Receiver, ...] | None:
    """Who is told, as a response gives it. Raises TypeError."""
    if notify is None:
        return None
    try:
        return tuple(Receiver(rule.channel, rule.to, rule.on) for rule in checked(notify))
    except ValueError as error:
        raise TypeError(str(error)) from None


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """None for what has none, as some functions of C have."""
    try:
        return inspect.signature(function)
    except ValueError:
        return None
