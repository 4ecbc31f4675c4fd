"""The API's routes: JSON, and the streams for programs. openapi.py describes them."""

import asyncio
from itertools import islice

import apsw
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from rowcast.feed.streams import Rows
from rowcast.tables.database import DatabaseRefused
from rowcast.tasks import answers
from rowcast.tasks.filters import LARGEST, filter_of
from rowcast.tasks.records import ITEM_STATUSES, RETRYING, View
from rowcast.tasks.work import VERSION
from rowcast.web.access import caller_of
from rowcast.web.metrics import why_not_ready
from rowcast.web.requests import (
    at,
    cursor_of,
    events,
    json_answer,
    number,
    one_of,
    owner_of,
)  # fmt: skip


async def job_events(req: Request) -> Response:
    dashboard = at(req)
    cursor = cursor_of(req, "after")
    job = dashboard.jobs.job(req.path_params["job"], owner_of(req))
    if job.ended and "Last-Event-ID" in req.headers and cursor >= job.seq:
        return Response(status_code=204)
    return events(req, Rows(dashboard.feed, owner_of(req), cursor, job.id))


async def all_events(req: Request) -> Response:
    return events(req, Rows(at(req).feed, owner_of(req), cursor_of(req, "after"), None))


def show_jobs(req: Request) -> Response:
    query = req.query_params
    limit = number(query.get("limit"), "limit", 50, 1, 1000)
    before = number(query.get("after"), "after", LARGEST)
    jobs = at(req).jobs.jobs(owner_of(req), filter_of(query), before, limit + 1)
    more = jobs[limit - 1].id if len(jobs) > limit else None
    return json_answer(answers.JobsPage([answers.of(job) for job in jobs[:limit]], more))


def show_job(req: Request) -> Response:
    return json_answer(answers.of(at(req).jobs.job(req.path_params["job"], owner_of(req))))


def show_items(req: Request) -> Response:
    query = req.query_params
    limit = number(query.get("limit"), "limit", 100, 1, 1000)
    after = number(query.get("after"), "after", -1, -1)
    job = at(req).jobs.job(req.path_params["job"], owner_of(req))
    status = one_of(query, "status", (*ITEM_STATUSES, RETRYING))
    find = query.get("find", "")[:200]
    group = query.get("group") or None
    if find and not (status or group):
        items = at(req).jobs.find_items(job.id, find, limit + 1, after)
    elif find:
        view = View(status or "all", after, group or "", find)
        items = list(islice(at(req).jobs.every_item(job.id, view), limit + 1))
    else:
        items = at(req).jobs.items(job.id, status, after, limit + 1, group)
    more = items[limit - 1].position if len(items) > limit else None
    return json_answer(answers.ItemsPage([answers.of(item) for item in items[:limit]], more))


def show_item(req: Request) -> Response:
    found = at(req).jobs.item_now(req.path_params["job"], owner_of(req), req.path_params["item"])
    return json_answer(answers.whole_item(found))


def show_errors(req: Request) -> Response:
    jobs = at(req).jobs
    job = jobs.job(req.path_params["job"], owner_of(req))
    groups = [answers.of(group) for group in jobs.error_groups(job.id, 1000)]
    return json_answer(answers.ErrorGroups(groups))


async def is_known(req: Request) -> bool:
    """Whether it is known who asks. Where the database does not say, as is told in a moment, they may hear
    why, unless there are accounts."""
    try:
        return await caller_of(req) is not None
    except HTTPException:  # the app has named whom it may not
        return False
    except (apsw.Error, DatabaseRefused, OSError):
        return not (at(req).accounts.there_are or at(req).owner)


async def healthz(req: Request) -> Response:
    """How it is: 200 while what is served is true, 503 where the database cannot be read or is gone. To
    strangers it says no more than that. With `ready` also 503 while the engine cannot start jobs."""
    dashboard = at(req)
    health = dashboard.health
    seq = None
    try:
        seq = await run_in_threadpool(health.seq)
    except (apsw.Error, DatabaseRefused, OSError) as error:
        health.meet(error)
    lost = health.lost or health.stuck
    engine = dashboard.engine.state
    looks = dashboard.feed.looks
    status = "ok"
    if lost or health.trouble:
        status = "database"
    elif engine in ("failing", "stopped"):
        status = "engine"
    elif not looks:
        status = "watcher"
    elif health.workers:
        status = "workers"
    if "ready" in req.query_params:
        lost = lost or bool(why_not_ready(dashboard))
    if not await is_known(req):
        return json_answer({"status": status}, 503 if lost else 200)
    return json_answer({
        "status": status,
        "trouble": dashboard.trouble or None,
        "version": VERSION,
        "database": health.trouble or "ok",
        "seq": seq,
        "engine": engine,
        "watcher": "running" if looks else "stopped",
        "streams": dashboard.feed.streams.total(),
        "loop_tasks": len(asyncio.all_tasks()),
    }, 503 if lost else 200)  # fmt: skip
