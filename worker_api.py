"""HTTP in for workers elsewhere: the ledger's calls, with a token. remote.py is the other end."""

import hmac
from importlib.metadata import version
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from rowcast.guard import json_error
from rowcast.jobs import Jobs
from rowcast.ledger import Ledger
from rowcast.records import ACTIVE, encode
from rowcast.remote import VERSION_HEADER, Assignment, Call, body_of

MOST = 50_000_000  # bytes of a body, uncompressed


async def answer(req: Request, path: str, token: str, api_url: str) -> Response:
    """One call of a worker, by the route's `{call}`; refused without the token, or from another version."""
    name = req.path_params["call"]
    given = req.headers.get("Authorization", "")
    if not token or not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        return json_error(401, "The worker's token is not the dashboard's: give both the same --worker-token.")
    theirs, ours = req.headers.get(VERSION_HEADER, "unknown"), version("rowcast")
    if theirs != ours:
        return json_error(409, f"This worker is Rowcast {theirs}, the dashboard is {ours}: install the same version.")
    if name not in CALLS:
        return json_error(404, f"There is no call {name[:40]!r}.")
    try:
        body = body_of(await req.body(), req.headers.get("Content-Encoding", ""), MOST)
        call = msgspec.json.decode(body, type=Call)
    except (ValueError, msgspec.DecodeError) as error:
        return json_error(400, f"The call cannot be read: {error}.")
    result = await run_in_threadpool(CALLS[name], path, call, api_url)
    return Response(encode(result), media_type="application/json")


def assignment(path: str, call: Call, api_url: str) -> Assignment:
    """The job of a slice, or None where the message is left over: the job has ended, or the slot has another token."""
    job = Jobs(path).start(call.job)
    wanted = job is not None and job.status in ACTIVE and Ledger(path).touch_slot(call.job, call.slot, call.token)
    return Assignment(job if wanted else None, api_url)


def claim(path: str, call: Call, _: str) -> Any:
    ledger = Ledger(path)
    if call.limit and not ledger.touch_slot(call.job, call.slot, call.token):
        return ledger.claim(call.job, call.worker, 0)
    return ledger.claim(call.job, call.worker, call.limit, call.held)


def finish(path: str, call: Call, _: str) -> Any:
    return Ledger(path).finish(call.job, call.worker, call.results, call.steps, call.ended, call.hold)


def take_body(path: str, call: Call, _: str) -> Any:
    return Ledger(path).take_body(call.job, call.worker)


def cannot(path: str, call: Call, _: str) -> None:
    Ledger(path).block(call.job, call.reason[:500])


def heartbeat(path: str, call: Call, _: str) -> None:
    Ledger(path).heartbeat(call.worker, call.host, call.pid, call.engine, call.version, call.alive)


CALLS: dict[str, Any] = {
    "job": assignment,
    "claim": claim,
    "finish": finish,
    "body": take_body,
    "cannot": cannot,
    "heartbeat": heartbeat,
}
