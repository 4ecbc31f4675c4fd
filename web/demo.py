"""The demo API: what `update_users` and `setup_account` ask until they are pointed at a real one. It answers
as a tired but honest service.

Latencies are those of a service far away. Which answer an address gets is decided by a hash of it, so a run
looks alike each time: most say 200, a few were never accounts (404), some are busy at the first try (503, 429
with Retry-After), and very few are busy for good.
"""

import asyncio
import math
import random
import zlib
from collections import OrderedDict

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rowcast.web.requests import body_as

TRIES_KEPT = 10_000  # addresses whose tries are remembered
KEY_LENGTH = 300  # letters of what they are known by
_tries: OrderedDict[str, int] = OrderedDict()


async def update_user(request: Request) -> Response:
    """POST /update-user/{email}"""
    email = request.path_params["email"]
    key = request.headers.get("Idempotency-Key", email)
    tried = note_try(key)
    await tired()
    lot = zlib.crc32(email.encode()) % 1000
    if lot < 22:
        return JSONResponse({"error": "no such account"}, 404)
    if lot < 25:
        return JSONResponse({"error": "the service is down for maintenance"}, 503)
    if lot < 60 and tried == 1:
        return JSONResponse({"error": "service unavailable"}, 503)
    if lot < 63 and tried == 1:
        return JSONResponse({"error": "too many requests"}, 429, {"Retry-After": "2"})
    return JSONResponse({"email": email, "updated": True})


# ---- what `setup_account` asks -----------------------------------------------------------------------------


class NewAccount(msgspec.Struct):
    """The body of POST /accounts."""

    email: str
    name: str = ""


async def create_account(request: Request) -> Response:
    """POST /accounts: an account for an address, the same one for the same."""
    asked = await body_as(request, NewAccount)
    await tired()
    return JSONResponse(
        {"account": 1000 + zlib.crc32(asked.email.encode()) % 9000, "email": asked.email}, 201
    )


async def provision(request: Request) -> Response:
    """POST /accounts/{account}/workspace: busy at the first try, as whoever has much to prepare."""
    account = request.path_params["account"]
    if note_try(request.headers.get("Idempotency-Key", str(account))) == 1:
        await tired()
        return JSONResponse({"error": "the workspace is being prepared"}, 503)
    await tired()
    return JSONResponse({"account": account, "workspace": f"https://app.example.com/{account}"}, 201)


async def fill_profile(request: Request) -> Response:
    """PUT /accounts/{account}/profile"""
    await tired()
    return JSONResponse({"account": request.path_params["account"]})


def note_try(key: str) -> int:
    """Which try of this key it is, from 1."""
    key = key[:KEY_LENGTH]
    tried = _tries.pop(key, 0) + 1
    _tries[key] = tried
    if len(_tries) > TRIES_KEPT:
        _tries.popitem(last=False)
    return tried


async def tired() -> None:
    """The latency of a service far away."""
    await asyncio.sleep(min(2.0, random.lognormvariate(math.log(0.2), 0.5)))


ROUTES = [
    ("/update-user/{email:path}", "POST", update_user),
    ("/accounts", "POST", create_account),
    ("/accounts/{account:number}/workspace", "POST", provision),
    ("/accounts/{account:number}/profile", "PUT", fill_profile),
]
