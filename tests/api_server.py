"""A real API for the tests, in a process of its own: `python api_server.py PORT`.

POST /update-user/{email} answers by the first word of the address: gone- 404, heals- 404 at the first try, busy- 503 always,
once- 503 at the first try, limit- 429 with Retry-After: 1 at the first try, date- the same with an HTTP date, rest- 429 with
Retry-After: 3, until- 503 with an HTTP date in 3 to 4 seconds, nap- 429 and sleep- 503 the same of ten minutes,
day- 429 of a day, forbid- 403 of ten minutes, html- 500 with markup, slow- 200 after a second, hang- 200
after half a minute; every other address 200 after the latency set by POST /latency?ms=.
POST /stall: from now on no post is answered. POST /answer?posts=5: so many are, in the order in which they came; without a
number all are, from now on, and with posts=waiting those that have come. GET /turn is answered when a post would be.
GET /log gives every post that arrived, in order: [path as sent, Idempotency-Key, User-Agent, unix seconds].
GET /peak gives how many posts were being answered at once, at most.
"""

import asyncio
import collections
import email.utils
import math
import sys
import time

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

log: list[list[object]] = []
tries: collections.Counter[str] = collections.Counter()
latency = 0.0
at_once = peak = 0
may_be_answered = math.inf  # so many posts, from now on
stalled: collections.deque[asyncio.Future[None]] = collections.deque()  # those that wait until they may


def let(posts: float) -> None:
    """So many more may be answered."""
    global may_be_answered
    may_be_answered += posts
    while stalled and may_be_answered:
        may_be_answered -= 1
        stalled.popleft().set_result(None)


async def turn(request: Request) -> None:
    """Wait until this post may be answered; one whose client has gone meanwhile leaves its turn to the next."""
    global may_be_answered
    if may_be_answered:
        may_be_answered -= 1
        return
    await request.body()
    mine = asyncio.get_running_loop().create_future()
    stalled.append(mine)
    await mine
    if await request.is_disconnected():
        let(1)


async def update_user(request: Request) -> Response:
    global at_once, peak
    at_once += 1
    peak = max(peak, at_once)
    try:
        return await answer(request)
    finally:
        at_once -= 1


async def answer(request: Request) -> Response:
    address = request.path_params["email"]
    key = request.headers.get("Idempotency-Key", "")
    log.append([request.scope["raw_path"].decode(), key, request.headers.get("User-Agent", ""), time.time()])
    tries[key] += 1
    first = tries[key] == 1
    await turn(request)
    kind = address.partition("-")[0]
    if kind == "gone" or (kind == "heals" and first):
        return JSONResponse({"error": "no such account"}, 404)
    if kind == "html":
        return Response("<script>alert(1)</script><b>broken</b>", 500, media_type="text/html")
    if kind == "busy" or (kind == "once" and first):
        return JSONResponse({"error": "service unavailable"}, 503)
    if kind == "limit" and first:
        return JSONResponse({"error": "too many requests"}, 429, {"Retry-After": "1"})
    if kind == "date" and first:
        return JSONResponse({}, 429, {"Retry-After": email.utils.formatdate(time.time() + 2, usegmt=True)})
    if kind == "rest" and first:
        return JSONResponse({}, 429, {"Retry-After": "3"})
    if kind == "nap" and first:
        return JSONResponse({}, 429, {"Retry-After": "600"})
    if kind == "day" and first:
        return JSONResponse({}, 429, {"Retry-After": "86400"})
    if kind == "forbid" and first:
        return JSONResponse({"error": "too often"}, 403, {"Retry-After": "600"})
    if kind == "until" and first:
        return JSONResponse({}, 503, {"Retry-After": email.utils.formatdate(time.time() + 4, usegmt=True)})
    if kind == "sleep" and first:
        return JSONResponse({}, 503, {"Retry-After": email.utils.formatdate(time.time() + 600, usegmt=True)})
    await asyncio.sleep({"slow": 1.0, "hang": 30.0}.get(kind, latency))
    return JSONResponse({"email": address})


async def set_latency(request: Request) -> Response:
    global latency
    latency = float(request.query_params["ms"]) / 1000
    return JSONResponse({"ms": latency * 1000})


async def stall(request: Request) -> Response:
    global may_be_answered
    may_be_answered = 0
    return JSONResponse({})


async def answer_some(request: Request) -> Response:
    posts = request.query_params.get("posts", "inf")
    let(len(stalled) if posts == "waiting" else float(posts))
    return JSONResponse({})


async def take_turn(request: Request) -> Response:
    await turn(request)
    return JSONResponse({})


async def show_log(request: Request) -> Response:
    return JSONResponse(log)


async def show_peak(request: Request) -> Response:
    return JSONResponse(peak)


async def clear(request: Request) -> Response:
    global latency, peak
    peak = at_once
    log.clear()
    let(math.inf)
    tries.clear()
    latency = 0.0
    return JSONResponse({})


app = Starlette(
    routes=[
        Route("/update-user/{email:path}", update_user, methods=["POST"]),
        Route("/latency", set_latency, methods=["POST"]),
        Route("/stall", stall, methods=["POST"]),
        Route("/answer", answer_some, methods=["POST"]),
        Route("/turn", take_turn),
        Route("/log", show_log),
        Route("/peak", show_peak),
        Route("/clear", clear, methods=["POST"]),
    ]
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", access_log=False)
