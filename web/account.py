"""An account's own page, and what admins see of all: where it is signed in, its tokens, its password; the
audit."""

import secrets
from collections.abc import Iterator
from itertools import islice
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from rowcast.components import account_page, accounts_page, audit_page, no_accounts_page
from rowcast.tasks.accounts import LOCAL
from rowcast.tasks.filters import LARGEST
from rowcast.tasks.records import PAGE, BadArguments, NotFound, encode
from rowcast.tasks.sentences import worded
from rowcast.web.access import CALLER, OF_WHAT, Caller, why_not
from rowcast.web.proxies import address_of
from rowcast.web.requests import at, base_of, number, owner_of, see
from rowcast.web.sign_in import slowly

LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # of a password that is made: none that looks like another
LINES = 500  # in one piece of the audit as NDJSON


def show(req: Request) -> Any:
    if owner_of(req) is LOCAL:
        return no_accounts_page(base_of(req))
    return drawn(req)


def drawn(req: Request, **said: Any) -> Any:
    """The page, with what has come of a form."""
    state = at(req)
    caller = caller_in(req)
    name = caller.account.name
    return account_page(
        base_of(req),
        caller.account,
        state.sessions.every(name),
        caller.session,
        state.tokens.every(name),
        state.accounts.password_of(name) is not None and caller.session is not None,
        **said,
    )


def caller_in(req: Request) -> Caller:
    """Who has signed in. Raises NotFound where there are no accounts."""
    caller: Caller = req.scope[CALLER]
    if caller.account is LOCAL:
        raise NotFound("There are no accounts here.")
    return caller


async def change_password(req: Request) -> Any:
    """A new password, for who knows the one now."""
    caller = caller_in(req)
    name = caller.account.name
    form = await req.form()
    now, new = (str(form.get(field) or "") for field in ("now", "new"))
    address = address_of(req.scope)
    if wait := await run_in_threadpool(at(req).guesses.begin, name, address):
        why = ("password", worded(f"Too many tries: the next one in {max(1, round(wait))} s."))
        return await run_in_threadpool(lambda: drawn(req, wrong=why))
    kept = await run_in_threadpool(at(req).accounts.password_of, name)
    if not await slowly(kept, now):
        return await run_in_threadpool(
            lambda: drawn(req, wrong=("password", worded("This is not the one now.")))
        )
    await run_in_threadpool(at(req).guesses.right, name, address)
    try:
        await run_in_threadpool(at(req).accounts.set_password, name, new, caller.session)
    except BadArguments as error:
        why = ("password", str(error))
        return await run_in_threadpool(lambda: drawn(req, wrong=why))
    done = worded("The password is changed. Everywhere else you are signed out.")
    return await run_in_threadpool(lambda: drawn(req, done=done))


def end_sessions(req: Request) -> Response:
    """Sign out everywhere else."""
    caller = caller_in(req)
    at(req).sessions.end_all(caller.account.name, caller.session)
    return see(req, "/account")


def end_session(req: Request) -> Response:
    caller = caller_in(req)
    at(req).sessions.end(caller.account.name, req.path_params["session"])
    return see(req, "/account")


async def add_token(req: Request) -> Any:
    """A token for a program: the page shows it this once."""
    caller = caller_in(req)
    form = await req.form()
    label, scope, days = (str(form.get(field) or "").strip() for field in ("label", "scope", "days"))
    try:
        lives = number(days, "days", 0, 1, 3_660) or None
        token, _ = await run_in_threadpool(at(req).tokens.add, caller.account.name, label, scope, lives)
    except BadArguments as error:
        why = ("token", str(error))
        return await run_in_threadpool(lambda: drawn(req, wrong=why))
    return await run_in_threadpool(lambda: drawn(req, made=(label or "a program", token)))


def revoke_token(req: Request) -> Response:
    caller = caller_in(req)
    at(req).tokens.revoke(caller.account.name, req.path_params["token"])
    return see(req, "/account")


# ---- all accounts, for admins ------------------------------------------------------------------------------


def show_accounts(req: Request) -> Any:
    if owner_of(req) is LOCAL:
        return no_accounts_page(base_of(req))
    return all_accounts(req)


def all_accounts(req: Request, **said: Any) -> Any:
    return accounts_page(base_of(req), at(req).accounts.every(), owner_of(req).name, **said)


def admin_in(req: Request) -> Caller:
    """The admin who has signed in: a token that leaked would open every other account. Raises NotFound where
    there are no accounts, HTTPException."""
    caller = caller_in(req)
    if caller.token is not None:
        raise HTTPException(403, why_not(caller.account, "self", "GET"))
    return caller


def made_password() -> str:
    """A new password, of 100 random bits, in groups that one can read out."""
    return "-".join("".join(secrets.choice(LETTERS) for _ in range(5)) for _ in range(4))


async def add_account(req: Request) -> Any:
    """An account, with a password that is shown this once, or one that signs in elsewhere."""
    admin_in(req)
    name, role, signs_in = await fields_of(req, "name", "role", "signs_in")
    password = None if signs_in else made_password()
    try:
        account = await run_in_threadpool(at(req).accounts.add, name, role, password)
    except BadArguments as error:
        why = str(error)
        return await run_in_threadpool(lambda: all_accounts(req, wrong=why))
    req.scope[OF_WHAT] = f"{account.name}, {account.role}"
    made = None if password is None else (account.name, password)
    return await run_in_threadpool(lambda: all_accounts(req, made=made))


async def set_role(req: Request) -> Response:
    name, role = await others_fields(req, "role")
    await run_in_threadpool(at(req).accounts.set_role, name, role)
    req.scope[OF_WHAT] = f"{name}, {role}"
    return see(req, "/accounts")


async def disable(req: Request) -> Response:
    (name,) = await others_fields(req)
    await run_in_threadpool(at(req).accounts.set_disabled, name)
    return see(req, "/accounts")


async def enable(req: Request) -> Response:
    (name,) = await others_fields(req)
    await run_in_threadpool(at(req).accounts.set_disabled, name, False)
    return see(req, "/accounts")


async def reset(req: Request) -> Any:
    """Another password for an account, which is shown this once; it is signed out everywhere."""
    (name,) = await others_fields(req)
    password = made_password()
    name = await run_in_threadpool(at(req).accounts.set_password, name, password)
    return await run_in_threadpool(lambda: all_accounts(req, made=(name, password)))


async def others_fields(req: Request, *more: str) -> list[str]:
    """The account that a form is about, and more of its fields. Raises BadArguments for one's own: nobody
    takes away what oneself may, as there might be no admin left."""
    asks = admin_in(req).account.name
    name, *rest = await fields_of(req, "name", *more)
    if name.casefold() == asks.casefold():
        raise BadArguments("This is your own account: another admin may change it, or `rowcast account`.")
    req.scope[OF_WHAT] = name
    return [name, *rest]


async def fields_of(req: Request, *names: str) -> list[str]:
    form = await req.form()
    return [str(form.get(name) or "").strip() for name in names]


# ---- the audit ---------------------------------------------------------------------------------------------


def show_audit(req: Request) -> Any:
    before = number(req.query_params.get("before"), "before", LARGEST)
    return audit_page(base_of(req), at(req).audit.rows(before, PAGE), PAGE, before < LARGEST)


def audit_ndjson(req: Request) -> Response:
    """All of the audit, the oldest first, a line of JSON each."""
    lines: Iterator[bytes] = (encode(row) + b"\n" for row in at(req).audit.every())
    pieces = iter(lambda: b"".join(islice(lines, LINES)), b"")
    headers = {"Content-Disposition": 'attachment; filename="audit.ndjson"', "Cache-Control": "no-store"}
    return StreamingResponse(pieces, media_type="application/x-ndjson", headers=headers)
