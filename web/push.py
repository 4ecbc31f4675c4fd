"""Web Push: a browser that has said yes is kept, and told of the jobs that name it as their receiver."""

import base64
import importlib
import importlib.util
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from rowcast.jobs import NotFound
from rowcast.tasks import answers
from rowcast.tasks.notify import LONGEST
from rowcast.tasks.reach import Reach
from rowcast.tasks.records import BadArguments
from rowcast.tasks.settings import BadSetting, Settings
from rowcast.web.requests import at, body_as, json_answer, owner_of

POINT = 65  # bytes of a browser's key: a point of P-256 (RFC 8291)
SECRET = 16  # bytes of its secret
NOT_ONE = "This is not what a browser says that lets itself be told: an https address, and two keys."


class Keys(msgspec.Struct):
    """A browser's own."""

    p256dh: str
    auth: str


class Yes(msgspec.Struct):
    """What a browser says that lets itself be told: its PushSubscription as JSON."""

    endpoint: str
    keys: Keys


def show_push(req: Request) -> Response:
    """Whether browsers can be told, and the key that they are asked with."""
    settings = at(req).settings
    return json_answer(answers.Push(key_of(settings.database) if settings.push else None))


def key_of(database: str) -> str:
    push: Any = importlib.import_module("rowcast.extras.push")
    return str(push.public_key(database))


def demand_pywebpush(settings: Settings) -> None:
    """Raises BadSetting where browsers are to be told, and what that needs is not installed."""
    if settings.push and importlib.util.find_spec("pywebpush") is None:
        raise BadSetting("--push needs pywebpush too: pip install 'rowcast[push]'.")


async def add_browser(req: Request) -> Response:
    """Keep a browser that has said yes."""
    said = await body_as(req, Yes)
    settings = at(req).settings
    if not settings.push:
        raise NotFound("Web Push is off here.")
    demand_well(said, Reach(settings.notify_hosts))
    owner = owner_of(req).name
    keys = said.keys
    name = await run_in_threadpool(at(req).browsers.add, owner, said.endpoint, keys.p256dh, keys.auth)
    return json_answer(answers.Browser(name), 201)


def demand_well(said: Yes, reach: Reach) -> None:
    """Raises BadArguments for what no browser says, and for addresses where nobody may be told."""
    try:
        parts = urlsplit(said.endpoint)
        host = parts.hostname or ""
        well = parts.scheme == "https" or (parts.scheme == "http" and reach.names_it(host))
    except ValueError:
        host = ""
        well = False
    lengths = (bytes_in(said.keys.p256dh), bytes_in(said.keys.auth))
    push: Any = importlib.import_module("rowcast.extras.push")
    well = well and lengths == (POINT, SECRET) and push.is_point(said.keys.p256dh)
    if not well or not host or len(said.endpoint) > LONGEST:
        raise BadArguments(NOT_ONE)
    if reach.refuses(host):
        raise BadArguments(
            f"{host[:80]} is not public; --notify-hosts says which hosts may be told all the same."
        )


def bytes_in(text: str) -> int:
    """How many bytes a text of base64 has, of those that are short; 0 for what is none."""
    try:
        return len(base64.urlsafe_b64decode(text[:200] + "=" * (-len(text) % 4)))
    except ValueError:
        return 0


async def forget_browser(req: Request) -> Response:
    """A browser is told nothing more."""
    name = req.path_params["browser"]
    if not await run_in_threadpool(at(req).browsers.forget, owner_of(req).name, name):
        raise NotFound(f"There is no browser {name[:40]!r}.")
    return Response(status_code=204)
