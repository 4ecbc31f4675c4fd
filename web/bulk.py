"""Acts on many jobs at once: how many they are is said first, then they are done, in chunks."""

from typing import Annotated, Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from rowcast.components import bulk_page, bulk_progress_page, to_html
from rowcast.jobs import NotAllowed, NotFound
from rowcast.tables.bulk import BULK, DELETE, SOON
from rowcast.tables.maintenance import Keep, Maintenance
from rowcast.tasks import answers
from rowcast.tasks.accounts import Account, Refused
from rowcast.tasks.filters import LARGEST, Filter, filter_of
from rowcast.tasks.records import BadArguments
from rowcast.web.guard import for_program
from rowcast.web.requests import at, base_of, body_as, json_answer, owner_of, see
from rowcast.web.state import State


class Act(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be done, and to which jobs: a filter as of `GET /api/jobs`, empty for all."""

    action: Annotated[str, msgspec.Meta(extra_json_schema={"enum": BULK})]
    filter: dict[str, str | int | float] = {}
    dry_run: Annotated[bool, msgspec.Meta(description="change nothing, and say how many it would be")] = False


async def act_on_all(req: Request) -> Response:
    """Of a program: what comes of it. Of a person, who has not said that they are sure: the question."""
    if for_program(req.scope):
        asked = await body_as(req, Act)
        wanted = wanted_of(asked)
        done = await run_in_threadpool(do_to_all, at(req), owner_of(req), wanted, asked.action, asked.dry_run)
        return json_answer(answers.Acted(*done[:2], msgspec.UNSET if done[2] is None else done[2]))
    form = {name: str(value) for name, value in (await req.form()).items()}
    given = {name: value for name, value in form.items() if name in Filter.__dataclass_fields__}
    asked = Act(form.get("action", ""), dict(given), not form.get("sure"))
    wanted = wanted_of(asked)
    done = await run_in_threadpool(do_to_all, at(req), owner_of(req), wanted, asked.action, asked.dry_run)
    if done[2] is not None:
        return see(req, f"/bulks/{done[2]}")
    return HTMLResponse(to_html(bulk_page(base_of(req), asked.action, wanted, *done[:2], not asked.dry_run)))


def show_bulk(req: Request) -> Any:
    """How far an act on many jobs is."""
    found = at(req).bulk.bulk(req.path_params["bulk"], owner_of(req))
    if for_program(req.scope):
        return json_answer(answers.of(found))
    return bulk_progress_page(base_of(req), found, Filter(**msgspec.json.decode(found.filter)))


def wanted_of(asked: Act) -> Filter:
    """Raises BadArguments."""
    if asked.action not in BULK:
        raise BadArguments(f"action is one of {', '.join(BULK)}, not {asked.action[:40]!r}.")
    if unknown := asked.filter.keys() - Filter.__dataclass_fields__.keys():
        raise BadArguments(f"A filter has no {min(unknown)[:40]!r}.")
    return filter_of(asked.filter)


def do_to_all(
    state: State, who: Account, wanted: Filter, action: str, dry_run: bool
) -> tuple[int, int, int | None]:
    """Do it, each job in a short transaction of its own: how many jobs the filter had, and how many were
    changed. Of many they are being changed: the number of that act."""
    matched, changed = state.bulk.count(who, wanted, action)
    if dry_run:
        return matched, changed, None
    if changed > SOON:
        return matched, changed, state.bulk.begin(who, wanted, action, matched, changed)
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
    return matched, changed, None


def do_to_one(state: State, who: Account, job: int, action: str) -> Any:
    """Whether it was done: a job may have ended in between."""
    try:
        state.jobs.act_as_one_of_many(job, who, action)
    except (NotAllowed, NotFound, Refused):
        return False
    state.engine.ring()
    return True
