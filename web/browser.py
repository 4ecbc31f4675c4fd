"""The pages' routes: read the request, ask jobs.py, users.py or schedules.py, and answer with a page."""

from dataclasses import replace
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from rowcast.components import job_page, jobs_page, results_page, task_page, tasks_page, users_page
from rowcast.feed.lists import ListViewer
from rowcast.feed.sse import plain
from rowcast.feed.streams import SOMETHING, Gone, JobViewer, News, Tabs
from rowcast.feed.watch import NOWHERE, Feed, Reader
from rowcast.jobs import NotFound
from rowcast.tables.users import GoneAway
from rowcast.tasks.accounts import LOCAL, Account
from rowcast.tasks.filters import LARGEST, filter_of
from rowcast.tasks.records import (
    JOBS_PAGE,
    PAGE,
    RUNS,
    BadArguments,
    View,
)
from rowcast.web.requests import (
    at,
    base_of,
    cursor_of,
    events,
    number,
    owner_of,
    results_view,
    view_of,
    while_there,
)  # fmt: skip

MOST_WANTS = 400  # that one stream serves at most: each tab has two


def index(req: Request) -> Any:
    wanted = filter_of(req.query_params)
    before = number(req.query_params.get("before"), "before", LARGEST)
    dashboard = at(req)
    who = owner_of(req)
    cursor = dashboard.jobs.seq()
    jobs = dashboard.jobs.listed(dashboard.jobs.orders(who, wanted, JOBS_PAGE, before), wanted)
    tasks = dashboard.tasks
    return jobs_page(
        base_of(req),
        jobs,
        tasks,
        dashboard.users.count(),
        wanted,
        dashboard.jobs.counted(who, wanted),
        before < LARGEST,
        cursor,
        dashboard.settings.keep_background_days if dashboard.jobs.has_background() else 0,
        dashboard.settings.usual,
        dashboard.jobs.needs(who),
        dashboard.jobs.lately(who.name, [task.name for task in tasks]),
        dashboard.bookmarks.every(who.name),
    )


def show_job(req: Request) -> Any:
    return job_beside(req, view_of(req.query_params))


def show_item(req: Request) -> Any:
    return job_beside(req, replace(view_of(req.query_params), item=req.path_params["item"]))


def job_beside(req: Request, view: View) -> Any:
    """A job's page in a view, and beside it the item that is open."""
    jobs = at(req).jobs
    found = jobs.look(req.path_params["job"], owner_of(req), view)
    opened = jobs.item_now(found.job.id, owner_of(req), view.item) if view.item else None
    asks = owner_of(req)
    shares = (
        None if asks is LOCAL or not asks.moves(found.job.owner) else at(req).shares.of(found.job.id, asks)
    )
    return job_page(base_of(req), found, opened, shares)


def show_task(req: Request) -> Any:
    name = req.path_params["name"]
    dashboard = at(req)
    who = owner_of(req)
    runs = dashboard.jobs.runs(name, who, RUNS)
    task = next((one for one in dashboard.tasks if one.name == name), None)
    if task is None and not runs:
        raise NotFound(f"There is no task {name[:100]}.")
    return task_page(
        base_of(req),
        name,
        task,
        runs,
        dashboard.users.count() if task and task.item == "user" else 0,
        dashboard.settings.usual,
        dashboard.jobs.lately(who.name, [name]).get(name),
        [one for one in dashboard.schedules.every(who) if one.task == name],
        dashboard.jobs.hold(name),
        next((halt for halt in dashboard.halts.every() if halt.task == name), None),
    )


def show_tasks(req: Request) -> Any:
    dashboard = at(req)
    tasks = dashboard.tasks
    last = dashboard.jobs.lately(owner_of(req).name, [task.name for task in tasks])
    return tasks_page(base_of(req), tasks, dashboard.users.count(), last)


def results(req: Request) -> Any:
    found = at(req).jobs.look(req.path_params["job"], owner_of(req), results_view(req))
    return results_page(base_of(req), found)


def show_users(req: Request) -> Any:
    text = req.query_params.get("q", "").strip()[:200]
    page = number(req.query_params.get("page"), "page", 1, 1, 1_000_000)
    users = at(req).users
    return users_page(base_of(req), users.search(text, page, PAGE), users.count(text), text, page)


async def import_users(req: Request) -> Any:
    """Add the users of a CSV file, as long as its sender waits for what comes of it."""
    users = at(req).users
    async with req.form(max_files=1, max_fields=10) as form:
        file = form.get("file")
        if file is None or isinstance(file, str):
            raise BadArguments("Choose a CSV file to import.")
        dry_run = bool(form.get("dry_run"))
        encoding = str(form.get("encoding") or "")
        try:
            done = await while_there(req, lambda gone: users.import_csv(file.file, dry_run, gone, encoding))
        except GoneAway:
            return Response(status_code=400)  # for nobody
    return users_page(base_of(req), users.search(), users.count(), "", 1, done)


async def page_events(req: Request) -> Response:
    """The pages' own stream: of one job with ?job=, of the list with ?view=jobs, of news with
    ?view=news, of several tabs with ?want=...&want=...

    With ?poll=1 it answers at once with what is new, or 304: the same frames for who cannot have a stream.
    """
    feed = at(req).feed
    base = base_of(req)
    if wants := req.query_params.getlist("want"):
        if len(wants) > MOST_WANTS:
            raise BadArguments(f"A stream serves at most {MOST_WANTS} wants, not {len(wants):,}.")
        return events(req, Tabs(dict(wanted(feed, base, owner_of(req), want) for want in wants)))
    viewer = viewer_of(feed, base, owner_of(req), req.query_params, cursor_of(req))
    if "poll" not in req.query_params:
        return events(req, viewer)
    feed.look()
    news = viewer.cursor < feed.seq or feed.trouble() or feed.was_troubled or "said" in req.query_params
    fresh = plain(viewer.next()) if news else b""
    if not fresh:
        return Response(status_code=304)
    headers = {"Cache-Control": "no-store"} | ({"Rowcast-Ended": "1"} if viewer.ended else {})
    return Response(fresh, headers=headers, media_type="text/plain")


def wanted(feed: Feed, base: str, owner: Account, want: str) -> tuple[str, Reader]:
    """One tab's part of a shared stream, as static/stream.js writes it: `name.cursor.query`."""
    name, _, rest = want.partition(".")
    cursor, _, query = rest.partition(".")
    seen = number(cursor, "the cursor in want=name.cursor.query", 0)
    try:
        return name, viewer_of(feed, base, owner, QueryParams(query), seen)
    except (NotFound, BadArguments):  # the other tabs go on
        return name, Gone()


def viewer_of(feed: Feed, base: str, owner: Account, query: QueryParams, cursor: int) -> Reader:
    """Who looks at what, by a stream's query. Raises NotFound, BadArguments."""
    viewer: ListViewer | JobViewer | News
    if cursor > feed.seq and cursor > feed.jobs.seq():  # a backup was put in place of what the page has seen
        cursor = NOWHERE
    if query.get("view") == "news":
        viewer = News(feed, base, owner, cursor)
    elif query.get("view") == "jobs":
        viewer = ListViewer(feed, base, owner, filter_of(query), cursor)
    else:
        job = number(query.get("job"), "job", 0)
        feed.jobs.job(job, owner)
        viewer = JobViewer(feed, base, owner, job, view_of(query), cursor)
    if "said" in query:
        viewer.shows(SOMETHING)
    return viewer
