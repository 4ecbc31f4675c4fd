"""`BackgroundTask` is the way in: Starlette's class with the same signature, whose call submits a job and
returns."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from starlette.background import BackgroundTask as StarletteBackgroundTask
from starlette.concurrency import run_in_threadpool

from rowcast.tables import users
from rowcast.tables.schema import prepare
from rowcast.tasks.encoding import as_json
from rowcast.tasks.records import OWNER, BadArguments, Job
from rowcast.tasks.registry import Task, function_task
from rowcast.tasks.settings import demand_broker, from_environment
from rowcast.web.state import State


def here() -> State:
    """The state of this process's dashboard, its engine started; one is made from the environment where
    nobody has mounted a dashboard."""
    with State.making:
        if State.here is None:
            settings = from_environment()
            demand_broker(settings)
            prepare(settings.database)
            users.read_from(settings.database)
            State.here = State(settings)
        State.here.engine.start()
        return State.here


class BackgroundTask(StarletteBackgroundTask):
    """Starlette's BackgroundTask, whose call submits a job that runs in the engine, and returns at once.

    The function is importable by name (of a partial, what it was bound to are the first arguments). Raises
    TypeError where it is not, and for arguments that would not arrive as they are.
    """

    def __init__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        while isinstance(func, functools.partial):
            args = (*func.args, *args)
            kwargs = {**func.keywords, **kwargs}
            func = func.func
        self.task = function_task(func)
        self.job: Job | None = None
        self.job_args = job_arguments(self.task, args, kwargs)
        super().__init__(self.task.function, *args, **kwargs)

    async def __call__(self) -> None:
        await run_in_threadpool(self._submit)

    def _submit(self) -> None:
        state = here()
        self.job, _ = state.jobs.submit(self.task, self.job_args, OWNER, state.engine.name)
        state.engine.submit(self.job.id)


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


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """None for what has none, as some functions of C have."""
    try:
        return inspect.signature(function)
    except ValueError:
        return None
