"""Signing in and out: a password is looked at slowly, and a new session's cookie is set.

A guess is counted before it is looked at, and hashes are made one after the other: each takes 64 MiB and a
tenth of a second, which strangers may ask for.
"""

import logging
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import quote, urlsplit

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from rowcast.components import sign_in_page, to_html
from rowcast.tables.sessions import LIFE_STAYING
from rowcast.tasks.passwords import fits
from rowcast.tasks.sentences import worded
from rowcast.web.access import Caller, caller_of, cookie_name, is_https, note, signs_in_here
from rowcast.web.proxies import address_of
from rowcast.web.requests import at, base_of, see

log = logging.getLogger("rowcast")
WRONG = worded("This name and password do not belong together.")
OPENID = worded("Go on with your company's account")
BROWSERS = {"Edg": "Edge", "OPR": "Opera", "Firefox": "Firefox", "Chrome": "Chrome", "Safari": "Safari"}
SYSTEMS = {"Android": "Android", "iPhone": "an iPhone", "iPad": "an iPad", "Windows": "Windows"}
SYSTEMS |= {"CrOS": "ChromeOS", "Mac OS": "a Mac", "Linux": "Linux"}
WAITING = 20  # sign-ins that wait for those before them, at most
_one_by_one: dict[int, anyio.CapacityLimiter] = {}  # by event loop


async def show(req: Request) -> Any:
    """The page where one signs in; whoever has, goes on."""
    demand_here(req)
    then = safe(req.query_params.get("next", ""))
    if await caller_of(req):
        return see(req, then)
    return door(req, "", then)


async def begin(req: Request) -> Response:
    """Sign in with a name and a password."""
    demand_accounts(req)
    form = await req.form()
    name, password, then = (str(form.get(field) or "") for field in ("name", "password", "next"))
    name = name.strip()[:200]
    then = safe(then)
    state = at(req)
    address = address_of(req.scope)
    if wait := await run_in_threadpool(state.guesses.begin, name, address):
        sentence = worded(f"Too many tries: the next one in {max(1, round(wait))} s.")
        return door(req, name, then, sentence, 429, {"Retry-After": str(max(1, round(wait)))})
    kept = await run_in_threadpool(state.accounts.password_of, name)
    if not await slowly(kept, password):
        await run_in_threadpool(note, req, name, "sign-in refused")
        log.warning("A sign-in as %r from %s was refused.", name, address)
        return door(req, name, then, WRONG, 401)
    await run_in_threadpool(state.guesses.right, name, address)
    return await run_in_threadpool(let_in, req, name, then, bool(form.get("stay")))


def let_in(req: Request, name: str, then: str, stay: bool) -> Response:
    """A new session, and the way on. A session that this browser had before ends."""
    state = at(req)
    address = address_of(req.scope)
    account = state.accounts.account(name)
    if not account:  # disabled just now
        return door(req, name, then, WRONG, 401)
    cookie = cookie_name(state, req.scope)
    if (before := req.cookies.get(cookie)) and (found := state.sessions.find(before)):
        state.sessions.end(found[1].name, found[0])
    token = state.sessions.begin(account.name, device_of(req.headers.get("User-Agent", "")), address, stay)
    note(req, account.name, "sign in")
    answer = see(req, then)
    set_cookie(req, answer, token, LIFE_STAYING if stay else None)
    return answer


async def end(req: Request) -> Response:
    """Sign out: the session is gone, and so is its cookie."""
    demand_accounts(req)
    caller: Caller | None = await caller_of(req)
    if caller and caller.session is not None:
        await run_in_threadpool(at(req).sessions.end, caller.account.name, caller.session)
        await run_in_threadpool(note, req, caller.account.name, "sign out")
    answer = see(req, "/sign-in")
    set_cookie(req, answer, "", 0)
    return answer


def demand_here(req: Request) -> None:
    """Raises HTTPException where one signs in elsewhere."""
    if not signs_in_here(at(req)):
        raise HTTPException(404, "One signs in elsewhere here: in the app, or at the proxy.")


def demand_accounts(req: Request) -> None:
    """Raises HTTPException where there are none, too."""
    demand_here(req)
    if not at(req).accounts.any():
        raise HTTPException(404, "There are no accounts here.")


def door(
    req: Request,
    name: str,
    then: str,
    wrong: str = "",
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    place = urlsplit(at(req).settings.public_url).netloc or req.url.netloc
    others = [(OPENID, f"/sign-in/openid?next={quote(then, safe='')}")] if at(req).settings.openid_url else []
    html = to_html(sign_in_page(base_of(req), place, name, then, wrong, others))
    return HTMLResponse(html, status, {"Cache-Control": "no-store"} | (headers or {}))


async def slowly(kept: str | None, password: str) -> bool:
    """Whether it is the password, one after the other. Raises HTTPException where too many wait."""
    loop = id(anyio.lowlevel.current_token())
    limiter = _one_by_one.setdefault(loop, anyio.CapacityLimiter(1))
    if limiter.statistics().tasks_waiting >= WAITING:
        raise HTTPException(503, "Too many sign in at once: try again in a moment.", {"Retry-After": "5"})
    return await anyio.to_thread.run_sync(fits, kept, password, limiter=limiter)


def set_cookie(req: Request, answer: Response, token: str, seconds: float | None) -> None:
    """The session's cookie, for this path alone and for no script; None: until the browser is closed."""
    name = cookie_name(at(req), req.scope)
    made: SimpleCookie = SimpleCookie({name: token})
    made[name] |= {"path": base_of(req) or "/", "httponly": True, "samesite": "Lax"}
    if seconds is not None:
        made[name]["max-age"] = int(seconds)
    if is_https(at(req).settings, req.scope):
        made[name]["secure"] = True
    answer.headers.append("Set-Cookie", made[name].OutputString())


def safe(then: str) -> str:
    """Where to go on to: a path of ours, and no other address however it is written."""
    try:
        parts = urlsplit(then) if then.isprintable() else None
    except ValueError:  # what looks like an address of IPv6 is none
        parts = None
    if not parts or parts.scheme or parts.netloc or not then.startswith("/") or then[1:2] in ("/", "\\"):
        return "/"
    return then[:2_000]


def device_of(said: str) -> str:
    """The browser and the system that a User-Agent names, for people to know it again."""
    browser = next((word for name, word in BROWSERS.items() if f"{name}/" in said), "")
    system = next((word for name, word in SYSTEMS.items() if name in said), "")
    if browser and system:
        return f"{browser} on {system}"
    return browser or system or said.partition("/")[0][:40] or "a browser"
