"""Bookmarks: a filter of the list is kept by a name, for who has kept it."""

from typing import Annotated, Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from rowcast.tasks import answers
from rowcast.tasks.filters import Bookmark, Filter, filter_of
from rowcast.tasks.records import BadArguments
from rowcast.web.guard import for_program
from rowcast.web.requests import at, body_as, json_answer, owner_of, see


class NewBookmark(msgspec.Struct, forbid_unknown_fields=True):
    """A filter as of `GET /api/jobs`, and how it is called."""

    name: Annotated[str, msgspec.Meta(description="another one by that name takes its place")]
    filter: dict[str, str | float]


def show_bookmarks(req: Request) -> Any:
    found = at(req).bookmarks.every(owner_of(req).name)
    return json_answer(answers.Bookmarks([answers.of(one) for one in found]))


async def keep(req: Request) -> Response:
    if for_program(req.scope):
        given = await body_as(req, NewBookmark)
        if unknown := given.filter.keys() - Filter.__dataclass_fields__.keys():
            raise BadArguments(f"A filter has no {min(unknown)[:40]!r}.")
        name = given.name
        wanted = filter_of(given.filter)
    else:
        form = {key: str(value) for key, value in (await req.form()).items()}
        name = form.pop("name", "")
        wanted = filter_of(form)
    made: Bookmark = await run_in_threadpool(at(req).bookmarks.keep, owner_of(req).name, name, wanted)
    return json_answer(answers.of(made), 201) if for_program(req.scope) else see(req, f"/?{wanted.query()}")


async def forget(req: Request) -> Response:
    await run_in_threadpool(at(req).bookmarks.forget, owner_of(req).name, req.path_params["bookmark"])
    return Response(status_code=204) if for_program(req.scope) else see(req, "/")
