"""The way to an OpenID provider and back, where the settings name one (extras/openid.py)."""

import importlib
import time
from typing import Any

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from rowcast.web.access import cookie_name, is_https, note
from rowcast.web.requests import at, base_of
from rowcast.web.sign_in import demand_accounts, door, let_in, safe

WAY = 600  # seconds that one may be at the provider's
HERE = "/sign-in/openid"
BACK = f"{HERE}/back"


def demand_provider(req: Request) -> tuple[Any, Any]:
    """The extra, and the provider of the settings. Raises HTTPException where there is none."""
    demand_accounts(req)
    state = at(req)
    settings = state.settings
    if not settings.openid_url:
        raise HTTPException(404, "There is no other sign-in here.")
    openid: Any = importlib.import_module("rowcast.extras.openid")
    if state.provider is None:
        state.provider = openid.provider(settings.openid_url, settings.openid_client, settings.openid_secret)
    return openid, state.provider


async def leave(req: Request) -> Response:
    """Off to the provider. What it has to come back with is kept in a signed cookie, for a while."""
    openid, provider = demand_provider(req)
    then = safe(req.query_params.get("next", ""))
    req.scope["session"] = {}
    try:
        answer: Response = await openid.leave(provider, req, f"{origin_of(req)}{BACK}")
    except (*openid.FAILURES, *openid.AWAY) as error:
        return refused(req, then, error)
    kept = URLSafeTimedSerializer(at(req).secret, salt="openid").dumps([then, req.scope["session"]])
    set_way(req, answer, kept, WAY)
    return answer


async def come_back(req: Request) -> Response:
    """Back from the provider: let in whom there is an account for."""
    openid, provider = demand_provider(req)
    reader = URLSafeTimedSerializer(at(req).secret, salt="openid")
    then = "/"
    try:
        then, req.scope["session"] = reader.loads(req.cookies.get(way_name(req), ""), max_age=WAY)
        names = await openid.come_back(provider, req)
    except BadData:
        return refused(req, then, "this browser has not begun it, or took longer than ten minutes")
    except (*openid.FAILURES, *openid.AWAY) as error:
        return refused(req, then, error)
    for name in names:
        if found := await run_in_threadpool(at(req).accounts.account, name):
            answer = await run_in_threadpool(let_in, req, found.name, safe(then), False)
            set_way(req, answer, "", 0)
            return answer
    await run_in_threadpool(note, req, names[0], "sign-in refused")
    return door(req, "", then, f"There is no account for {names[0][:100]}: ask who runs this.", 403)


def refused(req: Request, then: str, why: object) -> Response:
    said = str(why)[:200].rstrip(".")
    return door(req, "", then, f"The sign-in there did not work: {said}.", 401)


def origin_of(req: Request) -> str:
    """Our own address, as the provider knows it."""
    public = at(req).settings.public_url.rstrip("/")
    return public or f"{req.url.scheme}://{req.url.netloc}{base_of(req)}"


def way_name(req: Request) -> str:
    return f"{cookie_name(at(req), req.scope)}-way"


def set_way(req: Request, answer: Response, value: str, seconds: int) -> None:
    """The cookie for the way there and back; it comes with a link of another site's, so it is Lax."""
    answer.set_cookie(
        way_name(req),
        value,
        max_age=seconds,
        expires=int(time.time()) + seconds,
        path=base_of(req) or "/",
        secure=is_https(at(req).settings, req.scope),
        httponly=True,
        samesite="lax",
    )
