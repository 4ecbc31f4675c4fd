"""Access: who asks, and whether they may. Every route of the dashboard passes here (`entered`), which asks
for the right that stands beside it in the table of routes; no handler asks anything itself.

Who asks is known by what they show: a token, a session's cookie, what a listed proxy or the app around us
says of them; where there are no accounts, by sitting at this machine. Whose jobs they see, the tables are
asked with their Account.
"""

import contextlib
import hashlib
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote

import apsw
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Scope

from rowcast.components import note_account, note_trouble
from rowcast.tables.database import DatabaseRefused
from rowcast.tasks.accounts import LOCAL, MAY, SAFE, Account
from rowcast.tasks.checks import is_listed
from rowcast.tasks.records import OWNER
from rowcast.tasks.sentences import worded
from rowcast.tasks.settings import Settings
from rowcast.web.guard import for_program, path_in
from rowcast.web.proxies import PEER, address_of, is_here
from rowcast.web.state import State, at

log = logging.getLogger("rowcast")
CALLER = "rowcast.caller"  # in a scope: the Caller
OF_WHAT = "rowcast.of_what"  # in a scope: what an act was for, where that is no job
JOB = "rowcast.job"  # in a scope: the job that an act was for, where the path does not say
OUTER = "rowcast.outer"  # in a scope: the request as the app around us has it
AUTH = b"event: auth\r\ndata: {}\r\n\r\n"  # a stream's last event where one is signed out
VISIT = 25.0  # seconds after which a stream ends whose app or proxy alone knows who is signed in: ask again
SIGNED_OUT = worded("You are not signed in.")
WITHOUT = worded(
    "This dashboard has no accounts, so it answers only the machine it runs on:"
    " `rowcast account add NAME --role admin` makes one."
)
WITHOUT_OWNER = worded(
    "This dashboard is mounted without an owner and has no accounts, so it answers only the machine it runs"
    " on: mount(app, path, owner=...) says who asks."
)
NOBODYS = worded(f"{OWNER} is no name for a user of an app: it owns what nobody who is known has started.")


@dataclass(frozen=True)
class Caller:
    """Who asks, by what they show: a session or a token, by its number, or what others say of them."""

    account: Account
    session: int | None = None
    token: int | None = None

    @property
    def is_vouched_for(self) -> bool:
        """Whether the app around us, or a proxy, says who this is."""
        return self.session is None and self.token is None and self.account is not LOCAL


def lets_in(state: State, scope: Scope) -> str:
    """Why a request is not let in from where it comes; '' where it is. Asked of each, before who asks."""
    if is_here(scope) or state.owner:
        return ""
    with contextlib.suppress(apsw.Error, DatabaseRefused):  # what is not there has no accounts
        if state.accounts.any():
            return ""
    return WITHOUT_OWNER if state in State.mounted else WITHOUT


def asks_who(state: State) -> bool:
    """Whether one has to say who one is. What troubles the dashboard, strangers are not told then."""
    with contextlib.suppress(apsw.Error, DatabaseRefused, OSError):  # what is not there has no accounts
        state.accounts.any()
    return state.accounts.there_are or state.owner is not None


def entered(
    right: str, name: str, answer: Callable[[Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """A route that asks for a right. What changes something is noted in the audit by its `name`."""

    async def enter(req: Request) -> Response:
        if right == "open":
            return await answer(req)
        caller = await demand(req, right)
        if isinstance(caller, Response):
            return caller
        found = await answer(req)
        if caller.account is not LOCAL:
            found.headers.setdefault("Cache-Control", "no-store")
            if req.method not in SAFE and found.status_code < 400:
                await run_in_threadpool(note, req, caller.account.name, name)
        return found

    return enter


async def demand(req: HTTPConnection, right: str) -> "Caller | Response":
    """Who asks, if they may; a page that is opened by who has not signed in leads to where one does.

    Raises HTTPException with 401 and 403.
    """
    caller = await caller_of(req)
    method = req.scope.get("method", "GET")
    if caller is None:
        if signs_in_here(at(req)) and is_opened(req) and "Authorization" not in req.headers:
            where = f"{path_in(req.scope)}?{req.url.query}".rstrip("?")
            place = f"{req.scope.get('root_path', '')}/sign-in?next={quote(where, safe='')}"
            return Response(status_code=303, headers={"Location": place, "Cache-Control": "no-store"})
        raise HTTPException(401, SIGNED_OUT, {"WWW-Authenticate": "Bearer"})
    if not caller.account.may(right, method):
        raise HTTPException(403, why_not(caller.account, right, method))
    return caller


def why_not(account: Account, right: str, method: str) -> str:
    if account.scope == "read" and method not in SAFE:
        return worded("This token is for reading: it changes nothing.")
    if right == "self":
        return worded("This is for who has signed in, and not for a token.")
    may = MAY.get(account.role) or worded("may do nothing")
    return worded(f"This takes more than your role: as {account.role} you {may}.")


async def caller_of(req: HTTPConnection) -> Caller | None:
    """Who asks; None for nobody who is known. Looked up once for a request."""
    if CALLER not in req.scope:
        found = await _known(req)
        req.scope[CALLER] = found
        note_account(found.account if found else None)
        if found:
            note_trouble(at(req).banner)
    caller: Caller | None = req.scope[CALLER]
    return caller


async def _known(req: HTTPConnection) -> Caller | None:
    state = at(req)
    if not state.owner and not state.accounts.any():
        return Caller(LOCAL)  # the guard has seen to it that it is this machine
    kind, _, shown = req.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return await run_in_threadpool(_by_token, req, shown.strip())
    if state.owner:
        return await _by_app(req)
    if state.settings.user_header and is_listed(req.scope.get(PEER, ""), state.settings.proxies):
        return await run_in_threadpool(_by_proxy, req)
    if cookie := req.cookies.get(cookie_name(state, req.scope)):
        return await run_in_threadpool(_by_session, req, cookie)
    return None


def _by_token(req: HTTPConnection, shown: str) -> Caller | None:
    state = at(req)
    if found := state.tokens.find(shown):
        state.tokens.seen(found[0], address_of(req.scope))
        return Caller(found[1], token=found[0])
    return None


def _by_session(req: HTTPConnection, cookie: str) -> Caller | None:
    state = at(req)
    if found := state.sessions.find(cookie):
        state.sessions.seen(found[0], address_of(req.scope))
        return Caller(found[1], session=found[0])
    return None


def _by_proxy(req: HTTPConnection) -> Caller | None:
    """Who has signed in at the proxy, if there is an account of that name."""
    state = at(req)
    said = req.headers.get(state.settings.user_header, "").strip()
    found = state.accounts.account(said) if said else None
    return Caller(found) if found else None


async def _by_app(req: HTTPConnection) -> Caller | None:
    """Whom the app around us says it is: an account of that name has its role, others may start and stop
    what is their own. Raises HTTPException."""
    state = at(req)
    name = await asked_of_app(state, req.scope.get(OUTER) or req)
    if name == OWNER:
        raise HTTPException(403, NOBODYS)
    if not name or await run_in_threadpool(state.accounts.is_disabled, name):
        return None
    found = await run_in_threadpool(state.accounts.account, name)
    if found and found.name == name:  # to an app `Ann` and `ann` may be two people
        return Caller(found)
    return Caller(Account(name, "operator"))


async def asked_of_app(state: State, req: HTTPConnection) -> str:
    """What the owner that `mount` was given says of a request; '' for nobody."""
    assert state.owner
    said = state.owner(req) if inspect.iscoroutinefunction(state.owner) else None
    if said is None:
        said = await run_in_threadpool(state.owner, req)
    if inspect.isawaitable(said):
        said = await said
    return "" if said is None else str(said).strip()[:200]


def signs_in_here(state: State) -> bool:
    """Whether one signs in on a page of ours."""
    return not state.owner and not state.settings.user_header


def is_opened(req: HTTPConnection) -> bool:
    """Whether a person opens a page, and it is no script or program that asks."""
    if req.scope.get("method") not in SAFE or for_program(req.scope) or "HX-Request" in req.headers:
        return False
    return req.headers.get("Sec-Fetch-Mode", "navigate") == "navigate"


def cookie_name(state: State, scope: Scope) -> str:
    """The name of the session's cookie: another for each database and path, as a browser sends the cookies of
    a host to all its ports, and those of a path to all below it."""
    base = str(scope.get("root_path", ""))
    suffix = hashlib.sha256(f"{state.secret} cookie {base}".encode()).hexdigest()[:8]
    if not is_https(state.settings, scope):
        return f"rowcast-{suffix}"
    return f"__Secure-rowcast-{suffix}" if base else f"__Host-rowcast-{suffix}"


def is_https(settings: Settings, scope: Scope) -> bool:
    return scope.get("scheme") in ("https", "wss") or settings.public_url.startswith("https://")


def staying(req: HTTPConnection) -> Callable[[], bytes | None]:
    """What a stream asks now and then: None while its caller may see it, else its last event: AUTH for who
    is signed out, and nothing where only a new request says who asks."""
    state = at(req)
    caller: Caller = req.scope[CALLER]
    until = time.monotonic() + VISIT

    def verdict() -> bytes | None:
        if caller.account is LOCAL:
            return AUTH if state.accounts.any() else None
        if caller.is_vouched_for:
            return b"" if time.monotonic() > until else None
        if caller.session is not None:
            found = state.sessions.account(caller.session)
        else:
            found = state.tokens.account(caller.token or 0)
        return None if found == caller.account else AUTH

    return verdict


def note(req: HTTPConnection, account: str, action: str, detail: str = "") -> None:
    """Note in the audit what was done. It has been: where that cannot be written, the log says so."""
    state = at(req)
    params = req.scope.get("path_params", {})
    job = params.get("job") or req.scope.get(JOB)
    detail = detail or req.scope.get(OF_WHAT) or path_in(req.scope)
    try:
        state.audit.note(account, params.get("action", action), address_of(req.scope), job, detail)
    except (apsw.Error, DatabaseRefused) as error:
        log.error("The audit cannot be written: %s by %s: %s", path_in(req.scope), account, error)
