"""The API's routes: JSON, and the streams for programs. openapi.py describes them."""

import asyncio
import time
from importlib.metadata import version
from typing import Any

import apsw
import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from rowcast.feed.streams import Rows
from rowcast.tables.database import DatabaseRefused
from rowcast.tasks.records import ITEM_STATUSES, JOB_STATUSES, OWNER
from rowcast.tasks.registry import REGISTRY
from rowcast.web.openapi import openapi
from rowcast.web.requests import (
    LARGEST,
    at,
    base_of,
    body_as,
    cursor_of,
    do_action,
    events,
    json_answer,
    number,
    one_of,
    ring,
)  # fmt: skip
from rowcast.web.start import Start, concurrency_of, new_pace, submit, task_named


async def job_events(req: Request) -> Response:
    dashboard, cursor = at(req), cursor_of(req, "after")
    job = dashboard.jobs.job(req.path_params["job"], OWNER)
    if job.terminal and "Last-Event-ID" in req.headers and cursor >= job.seq:
        return Response(status_code=204)
    return events(req, Rows(dashboard.feed, OWNER, cursor, job.id))


async def all_events(req: Request) -> Response:
    return events(req, Rows(at(req).feed, OWNER, cursor_of(req, "after"), None))


def show_jobs(req: Request) -> Response:
    query = req.query_params
    limit = number(query.get("limit"), "limit", 50, 1, 1000)
    before = number(query.get("after"), "after", LARGEST)
    jobs = at(req).jobs.jobs(OWNER, one_of(query, "status", JOB_STATUSES), before, limit + 1)
    more = jobs[limit - 1].id if len(jobs) > limit else None
    return json_answer({"jobs": [job.json() for job in jobs[:limit]], "next": more})


async def start(req: Request) -> Response:
    body = await body_as(req, Start)
    job, is_new = await run_in_threadpool(submit, req, body)
    return json_answer(job.json(), 201 if is_new else 200, ring(req, job))


def show_job(req: Request) -> Response:
    return json_answer(at(req).jobs.job(req.path_params["job"], OWNER).json())


class Target(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an action: what it is for, where that is not the whole job."""

    item: int | None = None
    group: str | None = None


async def act(req: Request) -> Response:
    target = await body_as(req, Target)
    job = await run_in_threadpool(do_action, req, target.item, target.group)
    return json_answer(job.json(), background=ring(req, job))


def show_items(req: Request) -> Response:
    query = req.query_params
    limit = number(query.get("limit"), "limit", 100, 1, 1000)
    after = number(query.get("after"), "after", -1, -1)
    job = at(req).jobs.job(req.path_params["job"], OWNER)
    items = at(req).jobs.items(job.id, one_of(query, "status", ITEM_STATUSES), after, limit + 1)
    more = items[limit - 1].position if len(items) > limit else None
    return json_answer({"items": [item.json() for item in items[:limit]], "next": more})


def show_errors(req: Request) -> Response:
    jobs = at(req).jobs
    job = jobs.job(req.path_params["job"], OWNER)
    return json_answer({"errors": [group.json() for group in jobs.error_groups(job.id, 1000)]})


def show_workers(req: Request) -> Response:
    workers = at(req).slots.workers(at(req).engine.name)
    return json_answer({"workers": [worker.json() for worker in workers]})


def description(req: Request) -> Response:
    return json_answer(openapi(base_of(req), list(REGISTRY.values())))


async def healthz(req: Request) -> Response:
    dashboard = at(req)
    watcher = time.time() - dashboard.feed.looked_at < 5
    try:
        seq, database = await run_in_threadpool(dashboard.jobs.seq), "ok"
    except (apsw.Error, DatabaseRefused) as error:
        seq, database = None, str(error)
    return json_answer({
        "status": "ok" if seq is not None else "database",
        "version": version("rowcast"),
        "database": database,
        "seq": seq,
        "engine": dashboard.engine.state,
        "watcher": "running" if watcher else "stopped",
        "streams": dashboard.feed.streams.total(),
        "loop_tasks": len(asyncio.all_tasks()),
    })  # fmt: skip


class Tune(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PATCH /api/jobs/{job}: a rate of 0 takes the limit away."""

    concurrency: int | None = None
    rate: str | float | None = None


class Plan(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /api/schedules."""

    task: str
    cron: str
    zone: str = "UTC"
    args: dict[str, Any] = {}


async def tune(req: Request) -> Response:
    body = await body_as(req, Tune)
    job = await run_in_threadpool(
        at(req).jobs.tune,
        req.path_params["job"],
        OWNER,
        concurrency_of(body.concurrency),
        new_pace(body.rate),
    )
    return json_answer(job.json())


def show_schedules(req: Request) -> Response:
    found = at(req).schedules.every(OWNER)
    return json_answer({"schedules": [schedule.json() for schedule in found]})


async def add_schedule(req: Request) -> Response:
    plan = await body_as(req, Plan)
    task = task_named(plan.task)
    made = await run_in_threadpool(
        at(req).schedules.add, task, task.check(plan.args), OWNER, plan.cron, plan.zone
    )
    return json_answer(made.json(), 201)


def delete_schedule(req: Request) -> Response:
    at(req).schedules.delete(req.path_params["schedule"], OWNER)
    return Response(status_code=204)
