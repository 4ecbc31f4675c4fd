"""Sharing a job: with an account, or with all that have a role, to look at."""

from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from rowcast.tasks import answers
from rowcast.tasks.accounts import ROLES, ShareRow
from rowcast.tasks.records import BadArguments
from rowcast.web.guard import for_program
from rowcast.web.requests import asked, at, json_answer, owner_of, see


class NewShare(msgspec.Struct, forbid_unknown_fields=True):
    """With whom a job is shared from now on, or no longer: an account, or all of a role. Of a form one field:
    a name, or a role with the word `role` before it."""

    account: str | None = None
    role: str | None = None


def show(req: Request) -> Response:
    """With whom a job is shared."""
    return json_answer(answer_of(at(req).shares.of(req.path_params["job"], owner_of(req))))


async def share(req: Request) -> Response:
    """Let an account or a role look at a job, for a program or by the form on its page."""
    return await change(req, at(req).shares.add)


async def unshare(req: Request) -> Response:
    """Take that back."""
    return await change(req, at(req).shares.remove)


async def change(req: Request, act: Any) -> Response:
    given = await asked(req, NewShare)
    if (given.account is None) == (given.role is None):
        raise BadArguments(f"Say either an account, or a role of {', '.join(ROLES)}.")
    kind, name = ("account", given.account) if given.role is None else ("role", given.role)
    job = req.path_params["job"]
    rows = await run_in_threadpool(act, job, owner_of(req), kind, name)
    return json_answer(answer_of(rows)) if for_program(req.scope) else see(req, f"/jobs/{job}")


def answer_of(rows: list[ShareRow]) -> answers.Shares:
    named = {kind: [row.name for row in rows if row.kind == kind] for kind in ("account", "role")}
    return answers.Shares(named["account"], named["role"])
