"""The pages' routes: read the request, ask jobs.py, users.py or schedules.py, and answer with a page."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from rowcast.components import job_page, jobs_page, results_page, schedules_page, users_page, workers_page
from rowcast.feed.sse import plain
from rowcast.feed.streams import Gone, JobViewer, ListViewer, Tabs
from rowcast.feed.watch import Feed, Reader
from rowcast.jobs import NotFound
from rowcast.tables import users
from rowcast.tasks.records import (
    JOB_STATUSES,
    JOBS_PAGE,
    OWNER,
    PAGE,
    WITH_FAILURES,
    BadArguments,
    Item,
    Job,
    Options,
    View,
    encode,
)
from rowcast.tasks.registry import REGISTRY, load_or_say
from rowcast.web.requests import (
    LARGEST,
    at,
    base_of,
    cursor_of,
    do_action,
    events,
    number,
    one_of,
    ring,
    see,
    view_of,
)  # fmt: skip
from rowcast.web.start import concurrency_of, new_pace, start_of_form, submit, task_named

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
LISTS = (*JOB_STATUSES, WITH_FAILURES)
MOST_WANTS = 200  # tabs that one stream serves at most
RESULT_COLUMNS = ("position", "key", "status", "attempt", "code", "error", "result", "ms", "updated_at")


def index(req: Request) -> Any:
    status = one_of(req.query_params, "status", LISTS) or ""
    before = number(req.query_params.get("before"), "before", LARGEST)
    cursor = at(req).jobs.seq()
    jobs = at(req).jobs.jobs(OWNER, status or None, before, JOBS_PAGE)
    return jobs_page(
        base_of(req),
        jobs,
        list(REGISTRY.values()),
        users.count(at(req).settings.database),
        status,
        before < LARGEST,
        cursor,
    )


async def start(req: Request) -> Response:
    form = await req.form()
    job, _ = await run_in_threadpool(lambda: submit(req, start_of_form(form), strict=False))
    return see(req, f"/jobs/{job.id}", ring(req, job))


def show_job(req: Request) -> Any:
    return job_page(base_of(req), at(req).jobs.look(req.path_params["job"], OWNER, view_of(req.query_params)))


async def act(req: Request) -> Response:
    form = await req.form()
    item = str(form.get("item") or "")
    fingerprint = str(form.get("group") or "")
    target = number(item, "item", 0) if item else None
    job = await run_in_threadpool(do_action, req, target, fingerprint or None)
    if "HX-Request" in req.headers:
        return Response(status_code=204, background=ring(req, job))
    return see(req, f"/jobs/{job.id}", ring(req, job))


async def tune(req: Request) -> Response:
    """Change a running job's pace; an empty field for the rate takes the limit away."""
    form = await req.form()
    concurrency = concurrency_of(str(form.get("concurrency") or "").strip())
    pace = new_pace(str(form.get("rate") or "").strip() or "0")
    job = await run_in_threadpool(at(req).jobs.tune, req.path_params["job"], OWNER, concurrency, pace)
    return Response(status_code=204) if "HX-Request" in req.headers else see(req, f"/jobs/{job.id}")


async def again(req: Request) -> Response:
    """Start the same function again with the same arguments and options, but for what is once: canary, delay
    and key.
    """
    job = await run_in_threadpool(begin_again, req)
    return see(req, f"/jobs/{job.id}", ring(req, job))


def begin_again(req: Request) -> Job:
    """The same job once more. Raises NotFound; BadArguments for a function that cannot be imported any more."""
    old = at(req).jobs.job(req.path_params["job"], OWNER)
    task = load_or_say(old.entry)
    if isinstance(task, str):
        raise BadArguments(f"{old.entry} cannot be imported: {task}")
    same = Options(
        concurrency=old.concurrency, pace=old.pace or 0, stop_after=old.stop_after or "", dry_run=old.dry_run
    )
    job, _ = at(req).jobs.submit(task, old.json()["args"], OWNER, at(req).engine.name, same)
    return job


def show_schedules(req: Request) -> Any:
    return schedules_page(base_of(req), at(req).schedules.every(OWNER), list(REGISTRY.values()))


async def add_schedule(req: Request) -> Response:
    form = await req.form()
    task = task_named(str(form.get("task") or ""))
    cron, zone = str(form.get("cron") or ""), str(form.get("zone") or "UTC")
    await run_in_threadpool(at(req).schedules.add, task, task.check({}), OWNER, cron, zone)
    return see(req, "/schedules")


async def act_on_schedule(req: Request) -> Response:
    schedule, action = req.path_params["schedule"], req.path_params["action"]
    if action == "delete":
        await run_in_threadpool(at(req).schedules.delete, schedule, OWNER)
    elif action in ("pause", "resume"):
        await run_in_threadpool(at(req).schedules.set_paused, schedule, OWNER, action == "pause")
    else:
        raise NotFound(f"There is no action {action[:40]!r}; there are pause, resume, delete.")
    return see(req, "/schedules")


def results(req: Request) -> Any:
    after = number(req.query_params.get("after"), "after", -1, -1)
    return results_page(base_of(req), at(req).jobs.look(req.path_params["job"], OWNER, View("all", after)))


def results_csv(req: Request) -> Response:
    job = at(req).jobs.job(req.path_params["job"], OWNER)
    return download(job, "csv", "text/csv; charset=utf-8", csv_lines(at(req).jobs.every_item(job.id)))


def results_ndjson(req: Request) -> Response:
    job = at(req).jobs.job(req.path_params["job"], OWNER)
    lines = (encode(item.json()) + b"\n" for item in at(req).jobs.every_item(job.id))
    return download(job, "ndjson", "application/x-ndjson", lines)


def download(job: Job, ending: str, kind: str, lines: Iterator[bytes]) -> Response:
    """A file that is written as it is read, some hundred lines at a time."""

    def blocks() -> Iterator[bytes]:
        block: list[bytes] = []
        for line in lines:
            block.append(line)
            if len(block) == 500:
                yield b"".join(block)
                block.clear()
        yield b"".join(block)

    name = f"job-{job.id}-results{'' if job.terminal else '-not-complete'}.{ending}"
    return StreamingResponse(blocks(), media_type=kind, headers={
        "Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store",
    })  # fmt: skip


def csv_lines(items: Iterator[Item]) -> Iterator[bytes]:
    """Items as CSV. No cell can start a formula in a spreadsheet (OWASP, "CSV injection"): it gets an
    apostrophe.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(RESULT_COLUMNS)
    for item in items:
        row = item.json() | {"result": item.result}
        writer.writerow([harmless(row[name]) for name in RESULT_COLUMNS])
        yield buffer.getvalue().encode()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue().encode()


def harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def show_workers(req: Request) -> Any:
    return workers_page(base_of(req), at(req).slots.workers(at(req).engine.name))


def show_users(req: Request) -> Any:
    text = req.query_params.get("q", "").strip()[:200]
    page = number(req.query_params.get("page"), "page", 1, 1, 1_000_000)
    path = at(req).settings.database
    return users_page(base_of(req), users.search(path, text, page, PAGE), users.count(path, text), text, page)


async def import_users(req: Request) -> Any:
    form = await req.form()
    file = form.get("file")
    if file is None or isinstance(file, str):
        raise BadArguments("Choose a CSV file to import.")
    try:
        text = (await file.read()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadArguments(f"The file is not UTF-8 text: byte {error.start:,} cannot be read.") from None
    path = at(req).settings.database
    done = await run_in_threadpool(users.import_csv, path, text)
    return users_page(base_of(req), users.search(path), users.count(path), "", 1, done)


async def page_events(req: Request) -> Response:
    """The pages' own stream: of one job with ?job=, of the list with ?view=jobs, of several tabs with
    ?want=...&want=...

    With ?poll=1 it answers at once with what is new, or 304: the same frames for who cannot have a stream.
    """
    feed, base = at(req).feed, base_of(req)
    if wants := req.query_params.getlist("want"):
        if len(wants) > MOST_WANTS:
            raise BadArguments(f"A stream serves at most {MOST_WANTS} tabs, not {len(wants):,}.")
        return events(req, Tabs(dict(wanted(feed, base, want) for want in wants)))
    viewer = viewer_of(feed, base, req.query_params, cursor_of(req))
    if "poll" not in req.query_params:
        return events(req, viewer)
    feed.look()
    fresh = plain(viewer.next()) if viewer.cursor < feed.seq else b""
    if not fresh:
        return Response(status_code=304)
    headers = {"Cache-Control": "no-store"} | ({"Rowcast-Ended": "1"} if viewer.ended else {})
    return Response(fresh, headers=headers, media_type="text/plain")


def wanted(feed: Feed, base: str, want: str) -> tuple[str, Reader]:
    """One tab's part of a shared stream, as static/stream.js writes it: `name.cursor.query`."""
    name, _, rest = want.partition(".")
    cursor, _, query = rest.partition(".")
    seen = number(cursor, "the cursor in want=name.cursor.query", 0)
    try:
        return name, viewer_of(feed, base, QueryParams(query), seen)
    except (NotFound, BadArguments):  # the other tabs go on
        return name, Gone()


def viewer_of(feed: Feed, base: str, query: QueryParams, cursor: int) -> Reader:
    """Who looks at what, by a stream's query. Raises NotFound, BadArguments."""
    if query.get("view") == "jobs":
        return ListViewer(feed, base, OWNER, one_of(query, "status", LISTS) or "", cursor)
    job = number(query.get("job"), "job", 0)
    feed.jobs.job(job, OWNER)
    return JobViewer(feed, base, OWNER, job, view_of(query), cursor)
