"""Schedules: what starts by the clock, as people and programs add, edit, pause, run and end it; and the form
for what starts when a job has ended."""

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from rowcast.components import follower_page, schedule_page, schedules_page
from rowcast.tasks import answers
from rowcast.tasks.masking import MASK
from rowcast.tasks.notify import Receiver
from rowcast.tasks.records import BadArguments, NotFound, Options, decode, encode
from rowcast.tasks.registry import REGISTRY, Task
from rowcast.tasks.schedules import Schedule
from rowcast.tasks.secret import Secret
from rowcast.web.guard import for_program
from rowcast.web.receivers import told_to
from rowcast.web.requests import at, base_of, body_as, json_answer, owner_of, ring, see, told
from rowcast.web.start import Start, options_of, start_of_form, task_named

ONCE = (
    "run_at",
    "unique_key",
    "unique_for",
    "after",
    "condition",
    "again_job",
)  # of a start, what none that is repeated can have
LONGEST_NAME = 100  # letters
ACTIONS = ("pause", "resume", "run", "delete")


class NewSchedule(Start, kw_only=True):
    """A start, and when it is to be; but for what is once."""

    cron: Annotated[str, msgspec.Meta(description="five fields: minute hour day month weekday")]
    zone: str = "UTC"
    name: Annotated[str, msgspec.Meta(description="how people call it")] = ""


def show_schedules(req: Request) -> Any:
    """What starts by itself; for a person with the form for one more, of the task that the query names."""
    schedules = at(req).schedules.every(owner_of(req))
    if for_program(req.scope):
        return json_answer(answers.Schedules([answers.of(seen_by(req, one)) for one in schedules]))
    return schedules_page(base_of(req), schedules, *to_choose(req), at(req).settings.usual)


def to_choose(req: Request) -> tuple[list[Task], Task | None]:
    """The tasks by name, and the one that the query names, or the first that needs no arguments."""
    tasks = sorted(at(req).tasks, key=lambda task: task.name)
    ready = [task for task in tasks if not any(argument.required for argument in task.arguments)]
    name = req.query_params.get("task", "")
    return tasks, task_named(name, tasks) if name else next(iter([*ready, *tasks]), None)


def show_then(req: Request) -> Any:
    """What may be started when a job has ended."""
    job = at(req).jobs.job(req.path_params["job"], owner_of(req))
    tasks, chosen = to_choose(req)
    if chosen is None:
        raise NotFound("There is no task on this server.")
    return follower_page(base_of(req), job, tasks, chosen, at(req).settings.usual)


def show_schedule(req: Request) -> Any:
    """One schedule, to be edited."""
    found = at(req).schedules.schedule(req.path_params["schedule"], owner_of(req))
    return schedule_page(base_of(req), found, REGISTRY.get(found.task), at(req).settings.usual)


def seen_by(req: Request, schedule: Schedule) -> Schedule:
    """A schedule for a program: who is told as it was given, but for what who asks may not know."""
    told_of = schedule.how.notify
    if told_of is None:
        return schedule
    shown = [told_to(req, one, schedule.owner).given for one in told_of]
    options = encode(decode(schedule.options) | {"notify": shown}).decode()
    return msgspec.structs.replace(schedule, options=options)


async def given_schedule(req: Request, told_now: Iterable[Receiver] = ()) -> NewSchedule:
    """What is asked for, of a program or a form. `told_now`: whom the schedule tells. Raises BadArguments."""
    if for_program(req.scope):
        given: NewSchedule = await body_as(req, NewSchedule)
    else:
        form = await req.form()
        start = start_of_form(form, at(req).settings.usual, told_now, at(req).tasks)
        said = {name: str(form.get(name) or "").strip() for name in ("cron", "zone", "name")}
        whole: dict[str, Any] = {name: getattr(start, name) for name in Start.__struct_fields__}
        given = NewSchedule(**(whole | said))
        given.zone = given.zone or "UTC"
    if once := [name for name in ONCE if getattr(given, name) is not None]:
        raise BadArguments(f"A schedule has no {once[0]}: it starts again and again, when its cron says.")
    if len(given.name) > LONGEST_NAME:
        raise BadArguments(f"name has at most {LONGEST_NAME} letters.")
    return given


def read(
    req: Request, given: NewSchedule, old: Schedule | None = None
) -> tuple[Task, dict[str, Any], str, str, str, Options]:
    """What a schedule is made of, checked; secrets that are not said anew are those of the `old` one, for
    nobody is shown them. Raises BadArguments."""
    task = task_named(given.task, at(req).tasks)
    kept = sealed_in(old, task, given.args, for_program(req.scope))
    stand_in = dict.fromkeys(kept, Secret("kept"))
    args = task.check({**given.args, **stand_in}, for_program(req.scope)) | kept
    told_now = old.how.notify or () if old else ()
    options = options_of(task, given, at(req).settings, told_now)
    return task, args, given.cron, given.zone, given.name, options


def sealed_in(old: Schedule | None, task: Task, given: dict[str, Any], is_json: bool) -> dict[str, Any]:
    """The secrets of a schedule of that task, as they are written, which are not said anew."""
    if old is None or old.entry != task.entry:
        return {}
    had = {name: value for name, value in decode(old.args).items() if value is not None}
    none = (MASK,) if is_json else (None, "", MASK)  # a field that was left empty; JSON says null
    return {
        one.name: had[one.name]
        for one in task.arguments
        if one.is_secret and one.name in had and given.get(one.name, MASK) in none
    }


async def add_schedule(req: Request) -> Response:
    given = await given_schedule(req)

    def write() -> Schedule:
        task, args, cron, zone, name, options = read(req, given)
        made = at(req).schedules.add(task, args, owner_of(req).name, cron, zone, name, options)
        return seen_by(req, made)

    return told(req, await run_in_threadpool(write), "/schedules", 201)


async def edit_schedule(req: Request) -> Response:
    """From now on it is like this: all of it is said anew."""
    number = req.path_params["schedule"]
    who = owner_of(req)
    old = await run_in_threadpool(at(req).schedules.schedule, number, who)
    given = await given_schedule(req, old.how.notify or ())

    def write() -> Schedule:
        return seen_by(req, at(req).schedules.edit(number, who, *read(req, given, old)))

    return told(req, await run_in_threadpool(write), "/schedules")


async def act_on_schedule(req: Request) -> Response:
    """The action that the route names, or its verb."""
    action = req.path_params.get("action", req.method.lower())
    number = req.path_params["schedule"]
    who = owner_of(req)
    schedules = at(req).schedules
    if action not in ACTIONS:
        raise NotFound(f"There is no action {action[:40]!r}; there are {', '.join(ACTIONS)}.")
    if action == "run":
        job = await run_in_threadpool(schedules.start_now, number, who, at(req).engine.name)
        found = await run_in_threadpool(at(req).jobs.job, job, who)
        return told(req, found, f"/jobs/{job}", 201, ring(req))
    if action == "delete":
        await run_in_threadpool(schedules.delete, number, who)
        return Response(status_code=204) if for_program(req.scope) else see(req, "/schedules")
    made = await run_in_threadpool(schedules.set_paused, number, who, action == "pause")
    return told(req, seen_by(req, made), "/schedules")
