"""What people and programs do alike: start, act, tune, and look at who does the work.

One function each: a form or JSON comes in (`asked`), a page or JSON goes out (`told`), by who asks.
"""

from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec.structs import replace
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from rowcast.components import again_page, workers_page
from rowcast.tables.seals import has_secret
from rowcast.tasks import answers
from rowcast.tasks.accounts import Refused
from rowcast.tasks.masking import MASK, masked
from rowcast.tasks.notify import of_text
from rowcast.tasks.records import ACTIONS, BadArguments, Job, NotFound, Options, decode, encode
from rowcast.tasks.registry import load_or_say
from rowcast.tasks.sources import as_row
from rowcast.tasks.tries import ItemNow
from rowcast.tasks.work import Chunk
from rowcast.web.guard import for_program
from rowcast.web.requests import asked, at, base_of, body_as, json_answer, number, owner_of, ring, see, told
from rowcast.web.start import (
    AtOnce,
    Priority,
    Start,
    checked,
    concurrency_of,
    new_pace,
    once_of,
    priority_of,
    start_of_form,
    submit,
    told_of_again,
)


class Target(msgspec.Struct, forbid_unknown_fields=True):
    """What an action is for, where that is not the whole job: one item, or one error group."""

    item: Annotated[int | None, msgspec.Meta(description="for retry and settle")] = None
    group: Annotated[str | None, msgspec.Meta(description="for retry: a fingerprint")] = None


class Check(Target, kw_only=True):
    """An action that is not to be done: what would come of it."""

    action: Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(ACTIONS)})]


class Tune(msgspec.Struct, forbid_unknown_fields=True):
    """The pace that a job is to have from now on; what is left out stays, and a rate of 0 takes the limit
    away."""

    concurrency: AtOnce | None = None
    priority: Priority | None = None
    rate: Annotated[str | float | None, msgspec.Meta(description="0 takes the limit away")] = None


async def start(req: Request) -> Response:
    strict = for_program(req.scope)
    if strict:
        given = await body_as(req, Start)
    else:
        form = await req.form()
        told_of = await run_in_threadpool(told_of_again, req, form.get("option-again_job"))
        given = start_of_form(form, at(req).settings.usual, told_of, at(req).tasks)
    job, is_new = await submit(req, given, strict)
    shown = "/preview" if not strict and (await req.form()).get("option-preview") else ""
    return told(req, job, f"/jobs/{job.id}{shown}", 201 if is_new else 200, ring(req))


async def act(req: Request) -> Response:
    """The action that the route names, on its job, or on a part of it."""
    target = await asked(req, Target)
    job = await run_in_threadpool(do_action, req, target)
    return told(req, job, f"/jobs/{job.id}", background=ring(req), moves=True)


def do_action(req: Request, target: Target) -> Job:
    """Raises NotFound, NotAllowed, BadArguments."""
    action = req.path_params["action"]
    demand_action(action, target)
    return at(req).jobs.act(req.path_params["job"], owner_of(req), action, target.item, target.group)


def demand_action(action: str, target: Target) -> None:
    """That there is such an action, for what it is asked. Raises NotFound, BadArguments."""
    if action not in ACTIONS:
        raise NotFound(f"There is no action {action[:40]!r}; there are {', '.join(ACTIONS)}.")
    if target.item is not None:
        number(target.item, "item", 0)
    if target.group is not None and ("group" not in ACTIONS[action].takes or target.item is not None):
        raise BadArguments("group is for retry alone, and without item.")
    if target.item is not None and "item" not in ACTIONS[action].takes:
        raise BadArguments(f"{action} is for the whole job: it takes no item.")


async def check_start(req: Request) -> Response:
    """Say whether a job could be started so, and start none."""
    given = await body_as(req, Start)
    return json_answer(await run_in_threadpool(would_start, req, given))


def would_start(req: Request, given: Start) -> answers.Checked:
    """Raises as a start does."""
    task, args, options = checked(req, given)
    job = at(req).jobs.would_be(task, args, owner_of(req).name, options)
    what = f"a dry run of {options.dry_run:,} items of" if options.dry_run else "a job of"
    if job is not None:
        what = f"job {job}, which has that key already, of"
    return answers.Checked(f"It would be {what} {task.name}. Nothing was started.", None)


async def check_act(req: Request) -> Response:
    """Say what an action would do to a job, or to a part of it, and do nothing."""
    given = await body_as(req, Check)
    demand_action(given.action, given)
    jobs = at(req).jobs
    job = req.path_params["job"]
    items = await run_in_threadpool(jobs.would, job, owner_of(req), given.action, given.item, given.group)
    of_them = f", and {items:,} of its items with it" if items else ""
    past = ACTIONS[given.action].past
    return json_answer(answers.Checked(f"Job {job} would be {past}{of_them}. Nothing was done.", items))


async def tune(req: Request) -> Response:
    """Change a job's pace while it runs; a form's empty field for the rate takes the limit away."""
    given = await asked(req, Tune)
    nothing = None if for_program(req.scope) else "0"
    concurrency = concurrency_of(given.concurrency)
    pace = new_pace(nothing if given.rate is None else given.rate)
    priority = None if given.priority is None else priority_of(given.priority)
    tuned = partial(at(req).jobs.tune, req.path_params["job"], owner_of(req), concurrency, pace, priority)
    job = await run_in_threadpool(tuned)
    return told(req, job, f"/jobs/{job.id}", moves=True)


async def again(req: Request) -> Response:
    """Start the same function again, with the same arguments and options but for what is once: canary, delay
    and key. After a preview, in earnest."""
    form = await req.form()
    job = await run_in_threadpool(begin_again, req, once_of(form), bool(form.get("real")))
    return see(req, f"/jobs/{job.id}", ring(req))


class NewValues(msgspec.Struct, forbid_unknown_fields=True):
    """What one item is to be run with in place of what it had: JSON; a secret that is masked stays."""

    payload: str


async def again_with(req: Request) -> Response:
    """Run one item of a job once more, with other values, as a job of its own."""
    job = req.path_params["job"]
    item = req.path_params["item"]
    found = await run_in_threadpool(at(req).jobs.item_now, job, owner_of(req), item)
    given = await asked(req, NewValues)
    once = Options() if for_program(req.scope) else once_of(await req.form())
    made = await run_in_threadpool(begin_with, req, found, given.payload, once)
    return told(req, made, f"/jobs/{made.id}", 201, ring(req))


def holds_secret(value: Any) -> bool:
    """Whether something in a value is shown masked."""
    return has_secret(value) or MASK in encode(masked(value)).decode()


def demand_own(req: Request, job: Job, *values: Any) -> None:
    """That none of this has a secret in it, where its job is only shared with who asks: with a secret comes
    what it may be sent to. Raises Refused."""
    if not owner_of(req).moves(job.owner) and any(map(holds_secret, values)):
        raise Refused(
            f"Job {job.id} has secrets of {job.owner}'s, which are not shared with it: start the task with"
            " your own."
        )


def begin_with(req: Request, found: ItemNow, text: str, once: Options) -> Job:
    """The job of that one item, or the one that has the unique key already. Raises BadArguments, Refused."""
    old = found.job
    demand_own(req, old, decode(old.args), found.payload and decode(found.payload))
    task = load_or_say(old.entry, old.task)
    if isinstance(task, str):
        raise BadArguments(f"{old.entry} cannot be imported: {task}")
    if not found.may_be_edited:
        raise BadArguments("This item's values cannot be edited as JSON: they would not arrive as they are.")
    try:
        item = Chunk.of([as_row(found.edited(text))], last=True)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadArguments(f"The values are not JSON that a task can get: {error}.") from None
    how = replace(
        once,
        concurrency=old.concurrency_given,
        priority=old.priority,
        pace=old.pace or 0,
        again_item=found.item.id,
        again_job=old.id,
    )
    return at(req).jobs.submit_item(
        task, decode(old.args), owner_of(req).name, at(req).engine.name, how, item
    )


def begin_again(req: Request, once: Options, real: bool) -> Job:
    """The same job once more, or the one that has the unique key already; of a dry run, the one that it was
    a preview of, where that is `real`.

    Who is told of that job is its owner's affair: with whom it is shared has a job that tells as any new one.
    Raises NotFound, Refused; BadArguments for a function that cannot be imported any more.
    """
    old = at(req).jobs.job(req.path_params["job"], owner_of(req))
    demand_own(req, old, decode(old.args))
    told_of = of_text(old.notify) if owner_of(req).moves(old.owner) else None
    task = load_or_say(old.entry, old.task)
    if isinstance(task, str):
        raise BadArguments(f"{old.entry} cannot be imported: {task}")
    same = replace(
        once,
        concurrency=old.concurrency_given,
        priority=old.priority,
        pace=old.pace or 0,
        stop_after=old.stop_after or "",
        dry_run=0 if real else old.dry_run,
        notify=None if told_of is None else tuple(told_of),
        tags=tuple(decode(old.tags)),
        again_item=old.again_item,
        again_job=old.id,
    )
    jobs = at(req).jobs
    owner = owner_of(req).name
    engine = at(req).engine.name
    if old.again_item and (one := only_item(req, old)):
        payload = one.item.key if one.payload is None else decode(one.payload)
        demand_own(req, old, payload)
        return jobs.submit_item(
            task, decode(old.args), owner, engine, same, Chunk.of([as_row(payload)], last=True)
        )
    return jobs.submit(task, decode(old.args), owner, engine, same)[0]


def only_item(req: Request, job: Job) -> ItemNow | None:
    """The item of a job that runs one once more."""
    found = at(req).jobs.items(job.id, limit=1)
    return at(req).jobs.item_now(job.id, owner_of(req), found[0].id) if found else None


def show_again(req: Request) -> Any:
    """The form of a job's task, filled with what the job was started with; of a job that runs one item once
    more that item's page, which has its values."""
    old = at(req).jobs.job(req.path_params["job"], owner_of(req))
    task = next((one for one in at(req).tasks if (one.name, one.entry) == (old.task, old.entry)), None)
    if old.again_item and (one := only_item(req, old)):
        return see(req, f"/jobs/{old.id}/items/{one.item.id}")
    if task is None:
        raise NotFound(f"The task {old.task[:80]} is not among those of this server: it has no form here.")
    state = at(req)
    told_of = of_text(old.notify) if owner_of(req).moves(old.owner) else None
    users = state.users.count() if task.item == "user" else 0
    return again_page(base_of(req), old, task, users, state.settings.usual, told_of)


def show_workers(req: Request) -> Any:
    """Who does the work."""
    workers = at(req).slots.workers(at(req).engine.name)
    if for_program(req.scope):
        return json_answer(answers.Workers([answers.of(worker) for worker in workers]))
    return workers_page(base_of(req), workers)
