"""The demo API: what `update_users` posts to until it is pointed at a real one. It answers as a tired but
honest service.

Latencies are those of a service far away. Which answer an address gets is decided by a hash of it, so a run
looks alike each time: most say 200, a few were never accounts (404), some are busy at the first try (503, 429
with Retry-After), and very few are busy for good.
"""

import asyncio
import math
import random
import zlib
from collections import OrderedDict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

TRIES_KEPT = 10_000  # addresses whose tries are remembered
_tries: OrderedDict[str, int] = OrderedDict()


async def update_user(request: Request) -> Response:
    """POST /update-user/{email}"""
    email = request.path_params["email"]
    key = request.headers.get("Idempotency-Key", email)
    tried = _tries.pop(key, 0) + 1
    _tries[key] = tried
    if len(_tries) > TRIES_KEPT:
        _tries.popitem(last=False)
    await asyncio.sleep(min(2.0, random.lognormvariate(math.log(0.2), 0.5)))
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
