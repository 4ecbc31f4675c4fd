"""Halts: an admin stops a task, or everything, and lets it go on."""

from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from rowcast.components import halts_page
from rowcast.tasks import answers
from rowcast.tasks.records import BadArguments
from rowcast.tasks.registry import REGISTRY
from rowcast.web.guard import for_program
from rowcast.web.requests import asked, at, base_of, json_answer, owner_of, see
from rowcast.web.start import task_named

LONGEST = 300  # letters of a reason


class NewHalt(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be stopped, and why."""

    task: Annotated[str, msgspec.Meta(description="its name; left out or empty: everything")] = ""
    reason: Annotated[str, msgspec.Meta(description="for the others, who see it")] = ""


class Lift(msgspec.Struct, forbid_unknown_fields=True):
    """What is to go on."""

    task: Annotated[str, msgspec.Meta(description="its name; left out or empty: everything")] = ""


def show_halts(req: Request) -> Any:
    found = at(req).halts.every()
    if for_program(req.scope):
        return json_answer(answers.Halts([answers.of(halt) for halt in found]))
    return halts_page(base_of(req), found, sorted(task.name for task in at(req).tasks))


async def stop(req: Request) -> Response:
    given = await asked(req, NewHalt)
    demand_task(req, given.task)
    if len(given.reason) > LONGEST:
        raise BadArguments(f"reason has at most {LONGEST} letters.")
    halt = await run_in_threadpool(at(req).halts.stop, given.task, owner_of(req).name, given.reason)
    at(req).note_halts()
    return json_answer(answers.of(halt)) if for_program(req.scope) else see(req, await back(req, given.task))


async def lift(req: Request) -> Response:
    given = await asked(req, Lift)
    if not await run_in_threadpool(at(req).halts.lift, given.task):
        demand_task(req, given.task)  # one that has gone can be let go on, one that never was cannot
    at(req).note_halts()
    at(req).engine.ring()
    return Response(status_code=204) if for_program(req.scope) else see(req, await back(req, given.task))


def demand_task(req: Request, name: str) -> None:
    """That there is such a task, or a hidden one: of that jobs may be there. Raises BadArguments."""
    if name and name not in REGISTRY:
        task_named(name, at(req).tasks)


async def back(req: Request, task: str) -> str:
    """The page whose button it was: of all that is stopped, or the task's own."""
    form = await req.form()
    return f"/tasks/{quote(task, safe='')}" if task and form.get("at-task") else "/halts"
