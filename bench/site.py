"""The app of the bench of starts: a request starts one function that does nothing, and is answered. `BENCH_SITE` says
what starts it: rowcast, starlette (which keeps nothing), huey (on SQLite) or dramatiq (on Redis).

`uvicorn bench.site:app`; beside it `huey_consumer bench.site.queue`, `dramatiq bench.site`.
"""

import os
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

SITE = os.environ.get("BENCH_SITE", "")
ended = [0]  # functions of Starlette's own, of which nobody else knows


def nothing() -> None:
    """What is started."""


def counted() -> None:
    ended[0] += 1


async def say_ended(request: Request) -> Response:
    return PlainTextResponse(str(ended[0]))


def sent(send: Callable[[], object]) -> Callable[[Request], object]:
    """A route that sends a message in a thread, as both clients block."""

    async def start(request: Request) -> Response:
        await run_in_threadpool(send)
        return PlainTextResponse("on its way")

    return start


if SITE == "rowcast":
    import rowcast

    async def start(request: Request) -> Response:
        return PlainTextResponse("on its way", background=rowcast.BackgroundTask(nothing))

elif SITE == "huey":
    from huey import SqliteHuey

    queue = SqliteHuey(filename=os.environ["BENCH_QUEUE"], fsync=True)
    start = sent(queue.task()(nothing))

elif SITE == "dramatiq":
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_QUEUE"]))
    start = sent(dramatiq.actor(nothing).send)

else:

    async def start(request: Request) -> Response:
        return PlainTextResponse("on its way", background=BackgroundTask(counted))


app = Starlette(routes=[Route("/start", start, methods=["POST"]), Route("/ended", say_ended)])

if SITE == "rowcast":
    rowcast.mount(app, "/jobs")
