"""Acts on many jobs at once: how many they are is said first, then they are done, in chunks."""

from typing import Annotated, Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from rowcast.components import bulk_page, to_html
from rowcast.jobs import NotAllowed, NotFound
from rowcast.tables.bulk import BULK, DELETE
from rowcast.tables.maintenance import Keep, Maintenance
from rowcast.tasks import answers
from rowcast.tasks.accounts import Account, Refused
from rowcast.tasks.filters import LARGEST, Filter, filter_of
from rowcast.tasks.records import BadArguments
from rowcast.web.guard import for_program
from rowcast.web.requests import at, base_of, body_as, json_answer, owner_of
from rowcast.web.state import State


class Act(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be done, and to which jobs: a filter as of `GET /api/jobs`, empty for all."""

    action: Annotated[str, msgspec.Meta(extra_json_schema={"enum": BULK})]
    filter: dict[str, str | float] = {}
    dry_run: Annotated[bool, msgspec.Meta(description="change nothing, and say how many it would be")] = False


async def act_on_all(req: Request) -> Response:
    """Of a program: what comes of it. Of a person, who has not said that they are sure: the question."""
    if for_program(req.scope):
        asked = await body_as(req, Act)
        wanted = wanted_of(asked)
        done = await run_in_threadpool(do_to_all, at(req), owner_of(req), wanted, asked.action, asked.dry_run)
        return json_answer(answers.Acted(*done))
    form = {name: str(value) for name, value in (await req.form()).items()}
    given = {name: value for name, value in form.items() if name in Filter.__dataclass_fields__}
    asked = Act(form.get("action", ""), dict(given), not form.get("sure"))
    wanted = wanted_of(asked)
    done = await run_in_threadpool(do_to_all, at(req), owner_of(req), wanted, asked.action, asked.dry_run)
    return HTMLResponse(to_html(bulk_page(base_of(req), asked.action, wanted, *done, not asked.dry_run)))


def wanted_of(asked: Act) -> Filter:
    """Raises BadArguments."""
    if asked.action not in BULK:
        raise BadArguments(f"action is one of {', '.join(BULK)}, not {asked.action[:40]!r}.")
    if unknown := asked.filter.keys() - Filter.__dataclass_fields__.keys():
        raise BadArguments(f"A filter has no {min(unknown)[:40]!r}.")
    return filter_of(asked.filter)


def do_to_all(state: State, who: Account, wanted: Filter, action: str, dry_run: bool) -> tuple[int, int]:
    """Do it, each job in a short transaction of its own: how many jobs the filter had, and how many were
    changed."""
    matched, changed = state.bulk.count(who, wanted, action)
    if dry_run:
        return matched, changed
    changed = 0
    before = LARGEST
    while jobs := state.bulk.chunk(who, wanted, action, before):
        before = jobs[-1]
        if action == DELETE:
            changed += state.bulk.delete(jobs)
        else:
            changed += sum(do_to_one(state, who, job, action) for job in jobs)
    if action == DELETE and changed:
        Maintenance(state.settings.database).prune(Keep())
    return matched, changed


def do_to_one(state: State, who: Account, job: int, action: str) -> Any:
    """Whether it was done: a job may have ended in between."""
    try:
        state.jobs.act(job, who, action)
    except (NotAllowed, NotFound, Refused):
        return False
    state.engine.submit(job)
    return True
