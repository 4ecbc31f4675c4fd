"""What handlers share: reading a request's query, writing a job, and the forms of an answer.

Handlers take `req` alone and read the query themselves: FastHTML would look for a parameter in cookies and
headers first.
"""

import asyncio
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, get_type_hints

import anyio.to_thread
import msgspec
from starlette.background import BackgroundTask
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response

from rowcast.feed.sse import Verdict, stream
from rowcast.feed.watch import Reader
from rowcast.tasks import answers
from rowcast.tasks.accounts import LOCAL, Account
from rowcast.tasks.filters import LARGEST
from rowcast.tasks.records import (
    ITEM_STATUSES,
    RETRYING,
    BadArguments,
    Delivery,
    Job,
    View,
    encode,
)
from rowcast.tasks.schedules import Schedule
from rowcast.web.access import CALLER, JOB, Caller, staying
from rowcast.web.guard import for_program
from rowcast.web.proxies import address_of
from rowcast.web.state import at

PING = 5  # seconds between two comments on a quiet stream
SEND_TIMEOUT = 30  # seconds after which a reader that takes nothing is dropped
FIRST_WORD = 10  # seconds that the client of a WebSocket has to say from where on
WHOLE = re.compile("-?[0-9]{1,18}")
Done = TypeVar("Done")


def owner_of(req: HTTPConnection) -> Account:
    """Who asks: the tables are asked with it for the jobs that it sees and may move; what it starts is its
    name's."""
    caller: Caller = req.scope[CALLER]
    return caller.account


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
    if most == LARGEST:
        raise BadArguments(f"{name} is a whole number from {least:,}, not {text[:40]!r}.")
    raise BadArguments(f"{name} is a whole number from {least:,} to {most:,}, not {text[:40]!r}.")


def one_of(query: QueryParams, name: str, allowed: tuple[str, ...]) -> str | None:
    raw = query.get(name, "")
    if raw and raw not in allowed:
        raise BadArguments(f"{name} is one of {', '.join(allowed)}, not {raw[:40]!r}.")
    return raw or None


def view_of(query: QueryParams) -> View:
    """The view that a URL's query names, for people as `view`, for programs as `status`.

    Raises BadArguments.
    """
    find = query.get("find", "")
    statuses = (*ITEM_STATUSES, RETRYING)
    name = one_of(query, "view", ("moving", "all", *statuses)) or one_of(query, "status", statuses)
    name = "all" if find and name in (None, "moving") else name or "moving"  # a search is of all
    after = number(query.get("after"), "after", -1, -1)
    opened = number(query.get("item"), "item", 0)
    return View(name, after, query.get("group", ""), find[:200], opened)


def results_view(req: Request) -> View:
    """Of which items the results are wanted: of all, where the query does not say."""
    view = view_of(req.query_params)
    return view if view.name != "moving" else replace(view, name="all")


def cursor_of(req: Request, name: str = "cursor") -> int:
    """Where a stream goes on: the header Last-Event-ID before the query, which a reconnecting page repeats
    unchanged."""
    if header := req.headers.get("Last-Event-ID"):
        return number(header, "Last-Event-ID", 0)
    return number(req.query_params.get(name), name, 0)


def viewer_in(req: HTTPConnection) -> str:
    """Whose streams are counted together: an account's, or an address's."""
    asks = owner_of(req)
    return address_of(req.scope) if asks is LOCAL else asks.name


def demand_room(req: HTTPConnection, viewer: str) -> str:
    """The viewer. 429 where they, or all together, have as many streams open as the settings allow."""
    dashboard = at(req)
    full = dashboard.feed.streams.total() >= dashboard.settings.streams
    if full or dashboard.feed.streams[viewer] >= dashboard.settings.streams_per_viewer:
        raise HTTPException(429, "Too many streams are open; poll, or try again later.", {"Retry-After": "5"})
    return viewer


def events(req: Request, reader: Reader, viewer: str | None = None, stays: Verdict | None = None) -> Response:
    """A stream, where there is room for one more: for who asks, or for a `viewer` who may listen as long as
    `stays` says so.
    """
    viewer = demand_room(req, viewer_in(req) if viewer is None else viewer)
    return stream(at(req).feed, viewer, reader, req.scope, PING, SEND_TIMEOUT, stays or staying(req))


def ring(req: Request) -> BackgroundTask:
    return BackgroundTask(at(req).engine.ring_soon)


def told(
    req: Request,
    row: Job | Schedule | Delivery,
    page: str,
    status: int = 200,
    background: BackgroundTask | None = None,
    moves: bool = False,
) -> Response:
    """What came of an act: for a program the row, for a person the page that shows it, which one that `moves`
    by itself need not leave."""
    if isinstance(row, Job):
        req.scope[JOB] = row.id
    if for_program(req.scope):
        return json_answer(answers.of(row), status, background)
    if moves and "HX-Request" in req.headers:
        return Response(status_code=204, background=background)
    return see(req, page, background)


def see(req: Request, path: str, background: BackgroundTask | None = None) -> Response:
    """Send the browser to a page: 303, or for htmx a header."""
    url = f"{base_of(req)}{path}"
    if "HX-Request" in req.headers:
        return Response(status_code=200, headers={"HX-Redirect": url}, background=background)
    return RedirectResponse(url, 303, background=background)


def json_answer(value: Any, status: int = 200, background: BackgroundTask | None = None) -> Response:
    return Response(encode(value), status, media_type="application/json", background=background)


async def while_there(req: Request, work: Callable[[Callable[[], bool]], Done]) -> Done:
    """Do long work in a thread, once the request's body has been read.

    What `work` is given says whether its asker has gone, or the server goes down: then it is to stop.
    """
    left = threading.Event()

    async def listen() -> None:
        while (await req.receive())["type"] != "http.disconnect":
            pass
        left.set()

    listener = asyncio.create_task(listen())
    try:
        return await anyio.to_thread.run_sync(work, left.is_set, abandon_on_cancel=True)
    finally:
        left.set()
        listener.cancel()


NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


async def body_as(req: Request, kind: Any) -> Any:
    """The body of a request as a record. Raises BadArguments, HTTPException."""
    try:
        return msgspec.json.decode(await req.body() or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise BadArguments(f"The body is not as it should be: {error}.") from None
    except NOT_JSON as error:
        raise HTTPException(400, f"The body is not JSON: {error}.") from None


async def asked(req: Request, kind: Any) -> Any:
    """What is asked for, as a record: JSON of a program, or a person's form, whose empty fields are left out.

    Raises BadArguments, HTTPException.
    """
    if for_program(req.scope):
        return await body_as(req, kind)
    form = await req.form()
    if not form and not is_form(req) and await req.body():  # what is not read is not what was left out
        raise BadArguments("This takes a form; a program sends its JSON to the same address under /api.")
    fields = {name: str(form.get(name) or "").strip() for name in kind.__struct_fields__}
    return form_as({name: text for name, text in fields.items() if text}, kind)


def is_form(req: Request) -> bool:
    """Whether the body says that it is a form's."""
    kind = req.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in ("application/x-www-form-urlencoded", "multipart/form-data")


def form_as(fields: dict[str, Any], kind: Any) -> Any:
    """A form's fields as a record. Raises BadArguments."""
    numbers = [name for name, hint in get_type_hints(kind).items() if hint == int | None and name in fields]
    checked = {name: number(fields[name], name, 0) for name in numbers}
    try:
        return msgspec.convert(fields | checked, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadArguments(f"The form is not as it should be: {error}.") from None
