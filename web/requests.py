"""What handlers share: reading a request's query, writing a job, and the forms of an answer.

Handlers take `req` alone and read the query themselves: FastHTML would look for a parameter in cookies and
headers first.
"""

import re
from typing import Any

import msgspec
from starlette.background import BackgroundTask
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from rowcast.feed.sse import stream
from rowcast.feed.watch import Reader
from rowcast.jobs import NotFound
from rowcast.tasks.records import ACTIONS, ITEM_STATUSES, OWNER, BadArguments, Job, View, encode
from rowcast.web.state import State

PING = 5  # seconds between two comments on a quiet stream
SEND_TIMEOUT = 30  # seconds after which a reader that takes nothing is dropped
LARGEST = 10**18 - 1  # of the numbers of jobs, items and changes: eighteen digits, which SQLite can hold
WHOLE = re.compile("-?[0-9]{1,18}")


def at(req: Request) -> State:
    """The state of the dashboard that the request is for."""
    return req.app.state.dashboard


def base_of(req: Request) -> str:
    return str(req.scope.get("root_path", ""))


def number(given: str | int | None, name: str, default: int, least: int = 0, most: int = LARGEST) -> int:
    """A whole number of a query, a header, a form or a body; the default where none is given.

    Raises BadArguments.
    """
    text = "" if given is None else str(given)
    if not text:
        return default
    if WHOLE.fullmatch(text) and least <= int(text) <= most:
        return int(text)
    limits = f"from {least:,}" if most == LARGEST else f"from {least:,} to {most:,}"
    raise BadArguments(f"{name} is a whole number {limits}, not {text[:40]!r}.")


def one_of(query: QueryParams, name: str, allowed: tuple[str, ...]) -> str | None:
    raw = query.get(name, "")
    if raw and raw not in allowed:
        raise BadArguments(f"{name} is one of {', '.join(allowed)}, not {raw[:40]!r}.")
    return raw or None


def view_of(query: QueryParams) -> View:
    """The view that a URL's query names. Raises BadArguments."""
    find, fingerprint = query.get("find", ""), query.get("group", "")
    name = one_of(query, "view", ("moving", "all", *ITEM_STATUSES)) or ("all" if find else "moving")
    return View(name, number(query.get("after"), "after", -1, -1), fingerprint, find[:200])


def cursor_of(req: Request, name: str = "cursor") -> int:
    """Where a stream goes on: the header Last-Event-ID before the query, which a reconnecting page repeats unchanged."""
    if header := req.headers.get("Last-Event-ID"):
        return number(header, "Last-Event-ID", 0)
    return number(req.query_params.get(name), name, 0)


def events(req: Request, reader: Reader) -> Response:
    """A stream. 429 where this viewer, or all together, have as many open as the settings allow."""
    dashboard, viewer = at(req), req.client.host if req.client else ""
    full = dashboard.feed.streams.total() >= dashboard.settings.streams
    if full or dashboard.feed.streams[viewer] >= dashboard.settings.streams_per_viewer:
        raise HTTPException(429, "Too many streams are open; poll, or try again later.", {"Retry-After": "5"})
    return stream(dashboard.feed, viewer, reader, req.scope, PING, SEND_TIMEOUT)


def ring(req: Request, job: Job) -> BackgroundTask:
    return BackgroundTask(at(req).engine.submit, job.id)


def see(req: Request, path: str, background: BackgroundTask | None = None) -> Response:
    """Send the browser to a page: 303, or for htmx a header."""
    url = f"{base_of(req)}{path}"
    if "HX-Request" in req.headers:
        return Response(status_code=200, headers={"HX-Redirect": url}, background=background)
    return RedirectResponse(url, 303, background=background)


def json_answer(value: Any, status: int = 200, background: BackgroundTask | None = None) -> Response:
    return Response(encode(value), status, media_type="application/json", background=background)


def do_action(req: Request, item: int | None, fingerprint: str | None) -> Job:
    """The action that the route names, on its job. Raises NotFound, NotAllowed, BadArguments."""
    action = req.path_params["action"]
    if action not in ACTIONS:
        raise NotFound(f"There is no action {action[:40]!r}; there are {', '.join(ACTIONS)}.")
    if item is not None:
        item = number(item, "item", 0)
    if fingerprint is not None and ("group" not in ACTIONS[action].takes or item is not None):
        raise BadArguments("group is for retry alone, and without item.")
    if item is not None and "item" not in ACTIONS[action].takes:
        raise BadArguments(f"{action} is for the whole job: it takes no item.")
    return at(req).jobs.act(req.path_params["job"], OWNER, action, item, fingerprint)


NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


async def body_as(req: Request, kind: Any) -> Any:
    """The body of a request as a record. Raises BadArguments, HTTPException."""
    try:
        return msgspec.json.decode(await req.body() or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise BadArguments(f"The body is not as it should be: {error}.") from None
    except NOT_JSON as error:
        raise HTTPException(400, f"The body is not JSON: {error}.") from None
