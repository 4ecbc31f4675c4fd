"""The dashboard: HTTP in. Routes read the request, call jobs.py or users.py, and answer with components or JSON.

`create` makes the app from settings, `mount` puts it under a path of somebody else's app, `main` is the command `rowcast`.
The lifespan prepares the database, starts the engine and the feed's watcher, and ends them. Handlers take `req` alone
and read the query themselves: FastHTML would look for a parameter in cookies and headers first.
"""

import asyncio
import contextlib
import csv
import importlib
import io
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import apsw
import msgspec
from fasthtml.core import FastHTML
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from rowcast import demo, pages, users
from rowcast.components import PAGE, View
from rowcast.database import DatabaseRefused, prepare, set_default_database
from rowcast.engine import OWNER, Engine, use_engine
from rowcast.feed import Feed, jobs_stream, json_stream, page_stream, read_job, view_items
from rowcast.guard import Guard, is_machine, json_error
from rowcast.jobs import Jobs, NotAllowed, NotFound
from rowcast.openapi import openapi
from rowcast.records import ACTIONS, ITEM_STATUSES, JOB_STATUSES, Item, Job, encode
from rowcast.registry import REGISTRY, BadArguments
from rowcast.settings import Settings, from_environment
from rowcast.starting import Start, options_of, start_of_form, task_named

log = logging.getLogger("rowcast")
STATIC = Path(__file__).parent / "static"
SERVED = (".css", ".js", ".svg", ".png", ".woff2")
PING = 15  # seconds between two comments on a quiet stream
SEND_TIMEOUT = 30  # seconds after which a reader that takes nothing is dropped
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
RESULT_COLUMNS = ("position", "key", "status", "attempt", "code", "error", "result", "ms", "updated_at")


class Number(Convertor[int]):
    """The number of a job in a path: one that SQLite can hold. Anything longer is no such page."""

    regex = "[0-9]{1,18}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("number", Number())


class Static(StaticFiles):
    """What the page is made of, and nothing else of the directory: what npm needs to install it stays inside."""

    def lookup_path(self, path: str) -> Any:
        folder, _, name = path.rpartition("/")
        if folder not in ("", "vendor") or Path(name).suffix not in SERVED:
            return "", None
        return super().lookup_path(path)


class Dashboard:
    """One dashboard: its settings, tables, feed, engine and app."""

    def __init__(self, settings: Settings):
        self.settings = settings
        load_tasks(settings)
        self.jobs = Jobs(settings.database)
        self.feed = Feed(self.jobs)
        self.engine = Engine(settings)
        self.app = FastHTML(
            default_hdrs=False,
            sess_cls=None,
            secret_key="no sessions",
            exception_handlers={
                HTTPException: answer_http_error,
                404: answer_http_error,
                NotFound: answer_not_found,
                NotAllowed: answer_not_allowed,
                BadArguments: answer_bad_arguments,
                apsw.BusyError: answer_busy,
                DatabaseRefused: answer_busy,
                Exception: answer_bug,
            },
            lifespan=self._lifespan_generator,
        )
        self.app.state.dashboard = self
        add_routes(self.app)
        hosts = (urlsplit(settings.public_url).hostname or "",) if settings.public_url else ()
        self.asgi = Guard(self.app, hosts, refuse)

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Prepare the database, run the engine and the watcher, and end them."""
        prepare_database(self.settings)
        use_engine(self.engine)
        self.feed.closing = False
        self.engine.start()
        watcher = asyncio.create_task(self.feed.watch())
        try:
            yield
        finally:
            self.feed.close()
            watcher.cancel()
            await asyncio.to_thread(self.engine.stop)
            use_engine(None)

    async def _lifespan_generator(self, _: Any) -> AsyncIterator[None]:
        async with self.lifespan():
            yield


def create(settings: Settings | None = None) -> Dashboard:
    """A dashboard from `settings`, or from the environment. Raises BadSetting, DatabaseRefused, ImportError."""
    return Dashboard(settings or from_environment())


def mount(app: Starlette, path: str = "/jobs", settings: Settings | None = None, **values: Any) -> Dashboard:
    """Put the dashboard under `path` of a FastHTML, Starlette or FastAPI app; it lives and ends with that app.

    Settings come from the environment, or as keywords: `mount(app, "/jobs", database="data/app.db")`.
    """
    dashboard = create(settings or (Settings(**values) if values else None))
    # first in line: FastHTML's own route for files would take the page's scripts
    app.router.routes.insert(0, Mount(path, app=dashboard.asgi))
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(outer: Any) -> AsyncIterator[Any]:
        async with dashboard.lifespan(), inner(outer) as state:
            yield state

    app.router.lifespan_context = lifespan
    return dashboard


def load_tasks(settings: Settings) -> None:
    """Import the built-in tasks and the user's modules. Raises ImportError with one sentence."""
    for name in ["rowcast.tasks", *settings.modules]:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            raise ImportError(f"The tasks in {name!r} cannot be imported: {type(error).__name__}: {error}") from error


def prepare_database(settings: Settings) -> None:
    """Create or migrate the database, with its first users where there was no such table. Raises DatabaseRefused."""
    if prepare(settings.database):
        users.seed(settings.database)
    set_default_database(settings.database)


# ---- errors --------------------------------------------------------------------------------------------------------


def refuse(scope: Scope, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error in the form its asker reads: JSON for programs, one line for htmx, a page for people."""
    base = scope.get("root_path", "")
    if is_machine(scope["path"].removeprefix(base)):
        return json_error(status, sentence, None, headers)
    if b"hx-request" in dict(scope.get("headers", [])):
        return PlainTextResponse(sentence, status, headers)
    return HTMLResponse(pages.to_html(pages.error_page(base, status, sentence)), status, headers)


def answer_http_error(req: Request, exc: HTTPException) -> Response:
    said = {"Not Found": "There is no such page.", "Method Not Allowed": f"This address does not answer {req.method}."}
    return refuse(req.scope, exc.status_code, said.get(exc.detail, exc.detail), exc.headers)


def answer_not_found(req: Request, exc: Exception) -> Response:
    return refuse(req.scope, 404, str(exc))


def answer_not_allowed(req: Request, exc: Exception) -> Response:
    return refuse(req.scope, 409, str(exc))


def answer_bad_arguments(req: Request, exc: Exception) -> Response:
    return refuse(req.scope, 422, str(exc))


def answer_busy(req: Request, exc: Exception) -> Response:
    log.warning("%s: %s", req.url.path, exc)
    return refuse(req.scope, 503, "The database is busy; try again in a moment.", {"Retry-After": "2"})


def answer_bug(req: Request, exc: Exception) -> Response:
    return refuse(req.scope, 500, "Something went wrong here; the server's log says what.")


# ---- what handlers share -------------------------------------------------------------------------------------------


def at(req: Request) -> Dashboard:
    return req.app.state.dashboard


def base_of(req: Request) -> str:
    return str(req.scope.get("root_path", ""))


def whole_number(req: Request, name: str, default: int | None, least: int = 0, most: int | None = None) -> int | None:
    """A whole number from the query. Raises BadArguments."""
    raw = req.query_params.get(name, "")
    if not raw:
        return default
    if not raw.removeprefix("-").isdecimal() or len(raw) > 18 or int(raw) < least or (most and int(raw) > most):
        limits = f"from {least:,} to {most:,}" if most else f"from {least:,}"
        raise BadArguments(f"{name} is a whole number {limits}, not {raw[:40]!r}.")
    return int(raw)


def one_of(req: Request, name: str, allowed: tuple[str, ...]) -> str | None:
    raw = req.query_params.get(name, "")
    if raw and raw not in allowed:
        raise BadArguments(f"{name} is one of {', '.join(allowed)}, not {raw[:40]!r}.")
    return raw or None


def view_of(req: Request) -> View:
    """The view that a URL's query names. Raises BadArguments."""
    find, mark = req.query_params.get("find", ""), req.query_params.get("group", "")
    name = one_of(req, "view", ("moving", "all", *ITEM_STATUSES)) or ("all" if find else "moving")
    return View(name, whole_number(req, "after", -1, -1) or 0, mark, find[:200])


def cursor_of(req: Request, name: str = "cursor") -> int:
    """Where a stream goes on: the header Last-Event-ID before the query, which a reconnecting page repeats unchanged."""
    raw = req.headers.get("Last-Event-ID", "")
    if raw and not (raw.isdecimal() and len(raw) <= 18):
        raise BadArguments(f"Last-Event-ID is a whole number, not {raw[:40]!r}.")
    return int(raw) if raw else whole_number(req, name, 0) or 0


async def counted(feed: Feed, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    feed.streams += 1
    try:
        async for frame in frames:
            yield frame
    finally:
        feed.streams -= 1


def events(req: Request, frames: AsyncIterator[bytes]) -> Response:
    """A stream: sse-starlette's response, which pings, notices who has left, and drops who reads nothing."""
    return EventSourceResponse(
        counted(at(req).feed, frames),
        ping=PING,
        send_timeout=SEND_TIMEOUT,
        shutdown_event=at(req).feed,  # type: ignore[arg-type]
        shutdown_grace_period=1,
    )


def submit(req: Request, start: Start, strict: bool = True) -> tuple[Job, bool]:
    """Write the job, and say whether it is new; whoever calls attaches the ring to the answer. Raises BadArguments."""
    dashboard, task = at(req), task_named(start.task)
    args, options = task.check(start.args, strict), options_of(task, start)
    if not dashboard.engine.api_url:
        dashboard.engine.api_url = demo_url(req)
    return dashboard.jobs.submit(task, args, OWNER, dashboard.engine.name, options)


def demo_url(req: Request) -> str:
    """Where the demo API is for a dashboard that is mounted: in the app around it, and only a request knows its port."""
    host, port = req.scope.get("server") or ("", None)
    place = f"{f'[{host}]' if ':' in host else host}:{port}" if port else req.url.netloc
    return f"{req.url.scheme}://{place}{base_of(req)}/demo"


def ring(req: Request, job: Job) -> BackgroundTask:
    return BackgroundTask(at(req).engine.submit, job.id)


# ---- pages ---------------------------------------------------------------------------------------------------------


def index(req: Request) -> Any:
    status = one_of(req, "status", JOB_STATUSES) or ""
    before = whole_number(req, "before", None)
    cursor = at(req).jobs.seq()
    jobs = at(req).jobs.jobs(OWNER, status or None, before, PAGE // 2)
    return pages.jobs_page(
        base_of(req), jobs, list(REGISTRY.values()), users.count(at(req).settings.database), status, before, cursor
    )


async def start(req: Request) -> Response:
    form = await req.form()
    job, _ = await run_in_threadpool(lambda: submit(req, start_of_form(form), strict=False))
    return see(req, f"/jobs/{job.id}", ring(req, job))


def see(req: Request, path: str, background: BackgroundTask | None = None) -> Response:
    """Send the browser to a page: 303, or for htmx a header."""
    url = f"{base_of(req)}{path}"
    if "HX-Request" in req.headers:
        return Response(status_code=200, headers={"HX-Redirect": url}, background=background)
    return RedirectResponse(url, 303, background=background)


def show_job(req: Request) -> Any:
    job, view, jobs = req.path_params["job"], view_of(req), at(req).jobs
    cursor = jobs.seq()
    now = read_job(jobs, job, OWNER)
    items = view_items(jobs, job, view)
    back = jobs.items_back(job, view.status, view.after + 1, PAGE, view.mark or None) if view.after >= 0 else None
    return pages.job_page(base_of(req), now, view, items, back, cursor)


async def act(req: Request) -> Response:
    form = await req.form()
    job = await run_in_threadpool(_act, req, str(form.get("item") or ""), str(form.get("group") or ""))
    if req.path_params["action"] == "retry" and "HX-Request" in req.headers:
        # a page at rest has no stream left that would show the job going on
        return Response(status_code=200, headers={"HX-Refresh": "true"}, background=ring(req, job))
    if "HX-Request" in req.headers:
        return Response(status_code=204, background=ring(req, job))
    return see(req, f"/jobs/{job.id}", ring(req, job))


def _act(req: Request, item: str, mark: str) -> Job:
    action = req.path_params["action"]
    if action not in ACTIONS:
        raise NotFound(f"There is no action {action[:40]!r}; there are {', '.join(ACTIONS)}.")
    if item and not (item.isdecimal() and len(item) <= 18):
        raise BadArguments(f"item is the number of an item, not {item[:40]!r}.")
    return at(req).jobs.act(req.path_params["job"], OWNER, action, int(item) if item else None, mark or None)


def results(req: Request) -> Any:
    job = req.path_params["job"]
    now = read_job(at(req).jobs, job, OWNER)
    after = whole_number(req, "after", -1, -1)
    assert after is not None
    return pages.results_page(base_of(req), now, at(req).jobs.items(job, after=after, limit=PAGE), after)


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
    """Items as CSV. No cell can start a formula in a spreadsheet (OWASP, "CSV injection"): it gets an apostrophe."""
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


def show_users(req: Request) -> Any:
    text = req.query_params.get("q", "").strip()[:200]
    number = whole_number(req, "page", 1, 1, 1_000_000) or 1
    path = at(req).settings.database
    return pages.users_page(base_of(req), users.search(path, text, number, PAGE), users.count(path, text), text, number)


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
    return pages.users_page(base_of(req), users.search(path), users.count(path), "", 1, done)


# ---- streams -------------------------------------------------------------------------------------------------------


async def page_events(req: Request) -> Response:
    """The page's own stream: of one job with ?job=, or of the list."""
    dashboard, base = at(req), base_of(req)
    if req.query_params.get("view") == "jobs":
        status = one_of(req, "status", JOB_STATUSES) or ""
        return events(req, jobs_stream(dashboard.feed, base, OWNER, status, cursor_of(req)))
    job = whole_number(req, "job", 0) or 0
    dashboard.jobs.job(job, OWNER)
    return events(req, page_stream(dashboard.feed, base, OWNER, job, view_of(req), cursor_of(req)))


async def job_events(req: Request) -> Response:
    dashboard, cursor = at(req), cursor_of(req, "after")
    job = dashboard.jobs.job(req.path_params["job"], OWNER)
    if job.terminal and "Last-Event-ID" in req.headers and cursor >= job.seq:
        return Response(status_code=204)
    return events(req, json_stream(dashboard.feed, OWNER, cursor, job.id))


async def all_events(req: Request) -> Response:
    return events(req, json_stream(at(req).feed, OWNER, cursor_of(req, "after"), None))


# ---- JSON ----------------------------------------------------------------------------------------------------------


def json_answer(value: Any, status: int = 200, background: BackgroundTask | None = None) -> Response:
    return Response(encode(value), status, media_type="application/json", background=background)


def api_jobs(req: Request) -> Response:
    limit = whole_number(req, "limit", 50, 1, 1000) or 50
    jobs = at(req).jobs.jobs(OWNER, one_of(req, "status", JOB_STATUSES), whole_number(req, "after", None), limit + 1)
    more = jobs[limit - 1].id if len(jobs) > limit else None
    return json_answer({"jobs": [job.json() for job in jobs[:limit]], "next": more})


async def api_start(req: Request) -> Response:
    try:
        body = msgspec.json.decode(await req.body(), type=Start)
    except msgspec.ValidationError as error:
        raise BadArguments(f"The body is not as it should be: {error}.") from None
    except NOT_JSON as error:
        return json_error(400, f"The body is not JSON: {error}.")

    job, is_new = await run_in_threadpool(submit, req, body)
    return json_answer(job.json(), 201 if is_new else 200, ring(req, job))


def api_job(req: Request) -> Response:
    return json_answer(at(req).jobs.job(req.path_params["job"], OWNER).json())


async def api_act(req: Request) -> Response:
    try:
        body = msgspec.json.decode(await req.body() or b"{}", type=dict[str, Any])
    except NOT_JSON as error:
        return json_error(400, f"The body is not a JSON object: {error}.")
    job = await run_in_threadpool(_act, req, str(body.get("item") or ""), str(body.get("group") or ""))
    return json_answer(job.json(), background=ring(req, job))


def api_items(req: Request) -> Response:
    limit = whole_number(req, "limit", 100, 1, 1000) or 100
    after = whole_number(req, "after", -1, -1)
    job = at(req).jobs.job(req.path_params["job"], OWNER)
    items = at(req).jobs.items(job.id, one_of(req, "status", ITEM_STATUSES), -1 if after is None else after, limit + 1)
    more = items[limit - 1].position if len(items) > limit else None
    return json_answer({"items": [item.json() for item in items[:limit]], "next": more})


def api_description(req: Request) -> Response:
    return json_answer(openapi(base_of(req), list(REGISTRY.values())))


def healthz(req: Request) -> Response:
    dashboard = at(req)
    watcher = time.time() - dashboard.feed.looked_at < 5
    try:
        seq, database = dashboard.jobs.seq(), "ok"
    except (apsw.Error, DatabaseRefused) as error:
        seq, database = None, str(error)
    return json_answer({
        "status": "ok" if seq is not None else "database",
        "version": version("rowcast"),
        "database": database,
        "seq": seq,
        "engine": "running" if dashboard.engine.alive else "stopped",
        "watcher": "running" if watcher else "stopped",
        "streams": dashboard.feed.streams,
    })  # fmt: skip


async def static_file(req: Request) -> Response:
    answer = await FILES.get_response(req.path_params["path"], req.scope)
    answer.headers["Cache-Control"] = "no-cache"  # ask again, and be told 304: an upgrade shows at the next load
    return answer


FILES = Static(directory=STATIC)
ROUTES = [
    ("/", "get", index),
    ("/jobs", "post", start),
    ("/jobs/{job:number}", "get", show_job),
    ("/jobs/{job:number}/results", "get", results),
    ("/jobs/{job:number}/results.csv", "get", results_csv),
    ("/jobs/{job:number}/results.ndjson", "get", results_ndjson),
    ("/jobs/{job:number}/{action}", "post", act),
    ("/users", "get", show_users),
    ("/users", "post", import_users),
    ("/events", "get", page_events),
    ("/api/jobs", "get", api_jobs),
    ("/api/jobs", "post", api_start),
    ("/api/jobs/{job:number}", "get", api_job),
    ("/api/jobs/{job:number}/items", "get", api_items),
    ("/api/jobs/{job:number}/events", "get", job_events),
    ("/api/jobs/{job:number}/{action}", "post", api_act),
    ("/api/events", "get", all_events),
    ("/api/openapi.json", "get", api_description),
    ("/healthz", "get", healthz),
    ("/static/{path:path}", "get", static_file),
]


def add_routes(app: FastHTML) -> None:
    for path, verb, handler in ROUTES:
        app.route(path, methods=[verb])(handler)
    app.router.routes.append(Route("/demo/update-user/{email:path}", demo.update_user, methods=["POST"]))


def main() -> None:
    """The command `rowcast`."""
    from rowcast.commands import main as command

    command()


if __name__ == "__main__":
    from rowcast.dashboard import main as main_of_package

    main_of_package()
