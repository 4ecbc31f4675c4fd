"""The dashboard: HTTP in. The app, its routes, what it answers when something is wrong, and its life.

`create` makes the app from settings, `mount` puts it under a path of somebody else's app, `serving` is what
the command `rowcast` serves. The lifespan prepares the database, starts the engine and the feed's watcher,
and ends them. The handlers are in the folder web.
"""

import asyncio
import contextlib
import gc
import inspect
import logging
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import Token
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import apsw
from fasthtml.core import FastHTML
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.datastructures import URL
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from rowcast.components import error_page, note_account, note_newest, note_trouble, to_html
from rowcast.jobs import NotAllowed, NotFound
from rowcast.tables.database import DatabaseGone, DatabaseRefused
from rowcast.tables.schema import prepare
from rowcast.tables.users import Users
from rowcast.tasks import answers, edits
from rowcast.tasks.accounts import RIGHTS, Refused
from rowcast.tasks.log_format import set_log_format
from rowcast.tasks.python_path import see_working_directory
from rowcast.tasks.records import BadArguments
from rowcast.tasks.registry import REGISTRY, import_modules
from rowcast.tasks.settings import Settings, address, api_of, demand_broker, from_environment
from rowcast.web import (
    account,
    acts,
    api,
    browser,
    bulk,
    cards,
    demo,
    files,
    mailbox,
    metrics,
    openid,
    progress,
    push,
    receivers,
    shares,
    sign_in,
    sockets,
    worker_api,
)
from rowcast.web.access import OUTER, entered, lets_in
from rowcast.web.guard import Guard, for_program, json_error
from rowcast.web.openapi import (
    AFTER,
    CREDENTIALS,
    ITEMS,
    LIMIT,
    OF_JOB,
    OF_JOBS,
    RESUME,
    STREAM,
    WRITES,
    Described,
    Routed,
    Said,
    openapi,
)
from rowcast.web.proxies import Proxies, is_own_machine
from rowcast.web.requests import at, base_of, json_answer
from rowcast.web.start import Start
from rowcast.web.state import State

log = logging.getLogger("rowcast")
# When Python looks for garbage: among the young as ever, through all there is ten times more rarely. With a
# thousand streams that is a pause of 150 ms for each of them.
GARBAGE = (gc.get_threshold()[0], 10, 100)
CLOSED_EVERY = 0.3  # seconds between two looks whether the server still takes somebody in
STATIC = Path(__file__).parent / "static"
SERVED = (".css", ".js", ".svg", ".png", ".woff2")


class Number(IntegerConvertor):
    """The number of a job in a path: one that SQLite can hold. Anything longer is no such page."""

    regex = "[0-9]{1,18}"


register_url_convertor("number", Number())


class Static(StaticFiles):
    """What the page is made of, and nothing else of the directory: what npm installs it from stays inside."""

    def lookup_path(self, path: str) -> Any:
        folder, _, name = path.rpartition("/")
        if folder not in ("", "vendor") or Path(name).suffix not in SERVED:
            return "", None
        return super().lookup_path(path)


class Dashboard(State):
    """One dashboard: what its routes work with, and the app."""

    def __init__(self, settings: Settings, owner: Callable[[Any], Any] | None = None):
        demand_broker(settings)
        push.demand_pywebpush(settings)
        load_tasks(settings)
        super().__init__(settings)
        self.owner = owner
        self.is_begun = False  # by its lifespan
        self.starting = threading.Lock()  # without it
        self.late: asyncio.Task[None] | None = None  # its watcher, where that is not run
        self.app = FastHTML(
            default_hdrs=False,
            sess_cls=None,
            secret_key="no sessions",
            exception_handlers=HANDLERS,
            lifespan=self._lifespan_generator,
        )
        self.app.state.dashboard = self
        add_routes(self.app)
        workers = urlsplit(settings.dashboard_url).hostname or ""
        guard = Guard(
            self._answer,
            settings.public_url,
            refuse,
            workers,
            lambda scope: lets_in(self, scope),
            bool(owner),
        )
        self.asgi = Proxies(guard, settings)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app's answer. Where we are mounted, only a request knows at which address that is."""
        if not self.is_begun and scope["type"] in ("http", "websocket"):
            await self._begin_late()
        if not self.engine.here and scope["type"] == "http":
            self.engine.here = address_in(scope)
            self.engine.api_url = self.engine.api_url or api_of(self.settings, self.engine.here)
            self.engine.ring()
        noted: tuple[Token[Any], ...] = (
            note_trouble(self.trouble),
            note_newest(self._newest),
            note_account(None),
        )
        if self.owner:
            scope[OUTER] = HTTPConnection(dict(scope))  # with the app around us as its app
        try:
            await self.app(scope, receive, send)
        finally:
            for token in noted:
                token.var.reset(token)

    def _newest(self) -> int | None:
        """The counter; None where the database cannot be read."""
        with contextlib.suppress(apsw.Error, DatabaseRefused, OSError):
            return self.jobs.seq()
        return None

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Prepare the database, run the engine and the watcher, and end them."""
        self.prepare()
        self.is_begun = True
        State.here = self
        self.feed.closing = False
        self.engine.start()
        self.health.start()
        self.edits.start()
        watchers = [asyncio.create_task(watch) for watch in (self.feed.watch(), self._end_with_server())]
        try:
            yield
        finally:
            self.feed.close()
            for watcher in watchers:
                watcher.cancel()
            self.health.stop()
            self.edits.stop()
            await asyncio.to_thread(self.engine.stop)
            self.is_begun = False
            State.here = None

    async def _begin_late(self) -> None:
        """What the lifespan would have done, at a request: nobody runs it of a sub-app, or in a bare
        TestClient.

        Each event loop has a watcher of its own then; the engine ends with this process.
        """
        await asyncio.to_thread(self._start_late)
        loop = asyncio.get_running_loop()
        if self.late is None or self.late.done() or self.late.get_loop() is not loop:
            self.late = loop.create_task(self.feed.watch())

    def _start_late(self) -> None:
        """Once, whoever asks first. What keeps the database from being prepared, the request will say
        itself.
        """
        with self.starting:
            if not self.is_prepared:
                try:
                    self.prepare()
                except (DatabaseRefused, apsw.Error) as error:
                    log.warning("The database %s cannot be prepared: %s", self.settings.database, error)
                    return
            if self.health.thread is None:  # also where a BackgroundTask has prepared the database first
                self.health.start()
                self.edits.start()
            self.engine.start()

    async def _end_with_server(self) -> None:
        """Once the server takes nobody in any more, streams end: it waits for them, and after
        `--limit-max-requests` without a word to anybody.
        """
        while not closes(uvicorn_here()):
            await asyncio.sleep(CLOSED_EVERY)
        self.feed.close()

    async def _lifespan_generator(self, _: Any) -> AsyncIterator[None]:
        async with self.lifespan():
            yield


def uvicorn_here() -> Any:
    """The uvicorn that serves this process, if one does: it is who handles SIGTERM."""
    return getattr(signal.getsignal(signal.SIGTERM), "__self__", None)


def closes(server: Any) -> bool:
    """Whether a uvicorn has listened, and does so no longer."""
    listeners = getattr(server, "servers", None) or ()
    return bool(listeners) and not any(listener.is_serving() for listener in listeners)


def create(settings: Settings | None = None, owner: Callable[[Any], Any] | None = None) -> Dashboard:
    """A dashboard from `settings`, or from the environment; `owner` as of `mount`.

    Raises BadSetting, DatabaseRefused, ImportError.
    """
    return Dashboard(settings or from_environment(), owner)


def serving() -> Dashboard:
    """The dashboard of a process that serves it alone, from the environment."""
    see_working_directory()
    heed_hangup()
    made = create()
    set_log_format(made.settings.log_format)
    made.engine.api_url = api_of(made.settings, address(made.settings))
    # what has been imported stays: to look through it for garbage would hold up every stream
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE)
    return made


def heed_hangup() -> None:
    """A terminal that closes stops us as SIGTERM does, unless nohup says that it is not to."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda sig, frame: signal.raise_signal(signal.SIGTERM))


def application() -> ASGIApp:
    """The app of one of several serving processes: uvicorn's factory."""
    return serving().asgi


def mount(
    app: Starlette,
    path: str = "/jobs",
    settings: Settings | None = None,
    owner: Callable[[Any], Any] | None = None,
    **values: Any,
) -> Dashboard:
    """Put the dashboard under `path` of a FastHTML, Starlette or FastAPI app; it lives and ends with that
    app.

    `owner(request)` gives the name of who asks, None for nobody, as a function or a coroutine: its jobs are
    theirs alone, and the app's sign-in is the dashboard's. Without an owner, and without accounts, the
    dashboard answers only the machine that it runs on.

    Settings come from the environment, or as keywords: `mount(app, "/jobs", database="data/jobs.db")`. A
    BackgroundTask of that app is a job of this dashboard, of an app with several one of the first.
    """
    dashboard = create(settings or (Settings(**values) if values else None), owner)
    dashboard.edits.remedy = "restart this app"
    dashboard.base = path.rstrip("/")
    State.mounted.append(dashboard)
    app.add_middleware(Within, state=dashboard)
    # first in line: FastHTML's own route for files would take the page's scripts
    app.router.routes.insert(0, Mount(path, app=dashboard.asgi))
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(outer: Any) -> AsyncIterator[Any]:
        async with dashboard.lifespan(), inner(outer) as state:
            yield state

    app.router.lifespan_context = lifespan
    return dashboard


class Within:
    """An app in which a dashboard is mounted: what it answers, it answers with that one's state at hand."""

    def __init__(self, app: ASGIApp, state: State):
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # its tasks outlive it
            await self.app(scope, receive, send)
            return
        token = State.current.set(self.state)
        asking = State.asking.set(HTTPConnection(scope) if scope["type"] in ("http", "websocket") else None)
        try:
            await self.app(scope, receive, send)
        finally:
            State.current.reset(token)
            State.asking.reset(asking)


def load_tasks(settings: Settings) -> None:
    """Import the built-in tasks and the user's modules. Raises ImportError with one sentence."""
    edits.note(settings.modules)
    for error in import_modules(settings.modules):
        raise error


def prepare_database(settings: Settings) -> None:
    """Create or migrate the database, with its first users where there was no such table.

    Raises DatabaseRefused.
    """
    users = Users(settings.database)
    if prepare(settings.database):
        users.seed()
    users.as_source()


def address_in(scope: Scope) -> str:
    """Our own address by a request to us: at the port of the server, under the path where we are mounted."""
    host, port = scope.get("server") or ("", None)
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"{scope['scheme']}://{place if port else URL(scope=scope).netloc}{scope.get('root_path', '')}"


# ---- errors ------------------------------------------------------------------------------------------------


def refuse(scope: Scope, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error in the form its asker reads: JSON for programs, one line for htmx, a page for people."""
    if for_program(scope):
        return json_error(status, sentence, None, headers)
    if b"hx-request" in dict(scope.get("headers", [])):
        return PlainTextResponse(sentence, status, headers)
    return HTMLResponse(to_html(error_page(scope.get("root_path", ""), status, sentence)), status, headers)


def answer_http_error(req: Request, exc: HTTPException) -> Response:
    said = {
        "Not Found": "There is no such page.",
        "Method Not Allowed": f"This address does not answer {req.method}.",
    }
    return refuse(req.scope, exc.status_code, said.get(exc.detail, exc.detail), exc.headers)


# What is raised, and how it is answered: the status, and the sentence where it brings none of its own.
BUSY = (503, "The database is busy; try again in a moment.")
DAMAGED = (503, "The database is damaged: restore a backup (`rowcast restore`).")
LOST = (DatabaseGone, apsw.CorruptError, apsw.NotADBError)
ANSWERED: dict[type[Exception], tuple[int, str]] = {
    NotFound: (404, ""),
    NotAllowed: (409, ""),
    Refused: (403, ""),
    BadArguments: (422, ""),
    apsw.BusyError: BUSY,
    DatabaseRefused: BUSY,
    DatabaseGone: (503, ""),
    apsw.CorruptError: DAMAGED,
    apsw.NotADBError: DAMAGED,
    apsw.FullError: (507, "The disk is full: nothing was changed. Make room, and try again."),
    Exception: (500, "Something went wrong here; the server's log says what."),
}


def answer_error(req: Request, exc: Exception) -> Response:
    status, sentence = next(ANSWERED[kind] for kind in type(exc).__mro__ if kind in ANSWERED)
    if isinstance(exc, LOST):
        at(req).health.meet(exc)
    elif status in (503, 507):
        log.warning("%s: %s", req.url.path, exc)
    return refuse(req.scope, status, sentence or str(exc), {"Retry-After": "2"} if status == 503 else None)


HANDLERS: dict[Any, Any] = {HTTPException: answer_http_error, 404: answer_http_error}
HANDLERS |= dict.fromkeys(ANSWERED, answer_error)


# ---- routes ------------------------------------------------------------------------------------------------


async def static_file(req: Request) -> Response:
    answer = await STATIC_FILES.get_response(req.path_params["path"], req.scope)
    answer.headers["Cache-Control"] = (
        "no-cache"  # ask again, and be told 304: an upgrade shows at the next load
    )
    return answer


STATIC_FILES = Static(directory=STATIC)
# What people see, and what their pages ask for: path, verb, the right that it takes (access.py), handler.
PAGES: list[Routed] = [
    ("/", "get", "look", browser.index),
    ("/jobs", "post", "start", acts.start),
    ("/jobs/act", "post", "act", bulk.act_on_all),
    ("/jobs/{job:number}", "get", "look", browser.show_job),
    ("/jobs/{job:number}/items/{item:number}", "get", "look", browser.show_item),
    ("/jobs/{job:number}/items/{item:number}/again", "post", "start", acts.again_with),
    ("/jobs/{job:number}/results", "get", "look", browser.results),
    ("/jobs/{job:number}/card", "get", "look", cards.show_card),
    ("/card/{token}", "get", "open", cards.show_signed_card),
    ("/events/card/{token}", "get", "open", cards.signed_card_events),
    ("/jobs/{job:number}/progress", "get", "look", progress.show_progress),
    ("/events/progress/{job:number}", "get", "look", progress.progress_events),
    ("/jobs/{job:number}/results.csv", "get", "look", files.results_csv),
    ("/jobs/{job:number}/results.ndjson", "get", "look", files.results_ndjson),
    ("/jobs/{job:number}/tune", "post", "act", acts.tune),
    ("/jobs/{job:number}/again", "post", "start", acts.again),
    ("/jobs/{job:number}/notify", "post", "act", receivers.change_receivers),
    ("/jobs/{job:number}/deliveries/{delivery}/retry", "post", "act", receivers.send_again),
    ("/jobs/{job:number}/shares", "post", "act", shares.share),
    ("/jobs/{job:number}/shares/end", "post", "act", shares.unshare),
    ("/jobs/{job:number}/{action}", "post", "act", acts.act),
    ("/messages", "get", "look", receivers.show_messages),
    ("/webhooks", "post", "start", receivers.add_webhook),
    ("/webhooks/{webhook:number}/rotate", "post", "start", receivers.rotate),
    ("/tasks/{name}", "get", "look", browser.show_task),
    ("/schedules", "get", "look", acts.show_schedules),
    ("/schedules", "post", "start", acts.add_schedule),
    ("/schedules/{schedule:number}/{action}", "post", "act", acts.act_on_schedule),
    ("/workers", "get", "look", acts.show_workers),
    ("/users", "get", "start", browser.show_users),
    ("/users", "post", "start", browser.import_users),
    ("/jobs/{job:number}/preview", "get", "look", mailbox.show_preview),
    ("/jobs/{job:number}/preview/{item:number}", "get", "look", mailbox.show_previewed),
    ("/mailbox", "get", "look", mailbox.show_mailbox),
    ("/mailbox/clear", "post", "start", mailbox.clear),
    ("/mailbox/{mail:number}", "get", "look", mailbox.show_mail),
    ("/mailbox/{mail:number}/html", "get", "look", mailbox.show_html),
    ("/events", "get", "look", browser.page_events),
    ("/sign-in", "get", "open", sign_in.show),
    ("/sign-in", "post", "open", sign_in.begin),
    ("/sign-in/openid", "get", "open", openid.leave),
    ("/sign-in/openid/back", "get", "open", openid.come_back),
    ("/sign-out", "post", "open", sign_in.end),
    ("/account", "get", "self", account.show),
    ("/account/password", "post", "self", account.change_password),
    ("/account/sessions/end", "post", "self", account.end_sessions),
    ("/account/sessions/{session:number}/end", "post", "self", account.end_session),
    ("/account/tokens", "post", "self", account.add_token),
    ("/account/tokens/{token:number}/revoke", "post", "self", account.revoke_token),
    ("/audit", "get", "admin", account.show_audit),
    ("/audit.ndjson", "get", "admin", account.audit_ndjson),
    ("/static/{path:path}", "get", "open", static_file),
]
# What programs may ask, with what openapi.py says of it.
JOB = ("the job", answers.Job)
SHARED = ("with whom it is shared now", answers.Shares)
API: list[Described] = [
    ("/api/jobs", "get", "look", api.show_jobs, Said(
        "Jobs, newest first", {200: ("a page of jobs", answers.JobsPage)}, (422,),
        (*OF_JOBS, AFTER, LIMIT))),
    ("/api/jobs", "post", "start", acts.start, Said(
        "Start a job", {200: ("the job that bears this unique_key already", answers.Job), 201: JOB},
        WRITES, (), Start)),
    ("/api/jobs/act", "post", "act", bulk.act_on_all, Said(
        "Do one thing to every job that a filter has", {200: ("how many jobs it was", answers.Acted)},
        WRITES, (), bulk.Act)),
    ("/api/jobs/{job:number}", "get", "look", api.show_job, Said("One job", {200: JOB}, (404,))),
    ("/api/jobs/{job:number}", "patch", "act", acts.tune, Said(
        "Change how fast a job may go while it runs", {200: JOB}, (*WRITES, 404, 409), (), acts.Tune)),
    ("/api/jobs/{job:number}/items", "get", "look", api.show_items, Said(
        "A job's items, by position", {200: ("a page of items", answers.ItemsPage)}, (404, 422),
        (*ITEMS, AFTER, LIMIT))),
    ("/api/jobs/{job:number}/items/{item:number}", "get", "look", api.show_item, Said(
        "One item, with what it was given, all its tries and what they said",
        {200: ("the item", answers.WholeItem)}, (404,))),
    ("/api/jobs/{job:number}/errors", "get", "look", api.show_errors, Said(
        "A job's failures in groups of those that are alike, the largest first",
        {200: ("the groups", answers.ErrorGroups)}, (404,))),
    ("/api/jobs/{job:number}/card", "post", "act", cards.share, Said(
        "A signed link to the job's progress card, for frames in pages of other origins",
        {201: ("the link", answers.Link)}, (*WRITES, 404), (), cards.Share)),
    ("/api/jobs/{job:number}/card", "delete", "act", cards.take_back, Said(
        "Take back all links to the job's card: they open nothing more", {204: ("they do not", None)},
        (403, 404))),
    ("/api/jobs/{job:number}/events", "get", "look", api.job_events, Said(
        "One job and its items, as they change", {200: STREAM, 204: ("ended, and all of it was seen", None)},
        (404, 422, 429), RESUME)),
    ("/api/jobs/{job:number}/notify", "get", "look", receivers.show_receivers, Said(
        "Who is told of a job", {200: ("all of them", answers.Receivers)}, (404,))),
    ("/api/jobs/{job:number}/notify", "put", "act", receivers.change_receivers, Said(
        "Change who is told of a job that has not ended", {200: ("all of them", answers.Receivers)},
        (*WRITES, 404, 409), (), receivers.Tell)),
    ("/api/jobs/{job:number}/deliveries", "get", "look", receivers.show_deliveries, Said(
        "What was told of a job, the newest first", {200: ("all of it", list[answers.Delivery])}, (404,))),
    ("/api/jobs/{job:number}/deliveries/{delivery}/retry", "post", "act", receivers.send_again, Said(
        "Send a message again, under its id", {200: ("the message", answers.Delivery)}, (403, 404, 409))),
    ("/api/push", "get", "look", push.show_push, Said(
        "Whether browsers are told by Web Push, and the key that they are asked with",
        {200: ("the key", answers.Push)})),
    ("/api/push", "post", "look", push.add_browser, Said(
        "Have a browser told that has said yes", {201: ("how it is called", answers.Browser)},
        (*WRITES, 404), (), push.Yes)),
    ("/api/push/{browser}", "delete", "look", push.forget_browser, Said(
        "A browser is told nothing more", {204: ("it is not", None)}, (403, 404))),
    ("/api/webhooks", "get", "look", receivers.show_webhooks, Said(
        "Webhooks, by address", {200: ("all of them", list[answers.Webhook])})),
    ("/api/webhooks", "post", "start", receivers.add_webhook, Said(
        "Make the secret of a webhook", {201: ("the webhook and its secret", answers.NewSecret)},
        (*WRITES, 409), (), receivers.NewWebhook)),
    ("/api/webhooks/{webhook:number}/rotate", "post", "start", receivers.rotate, Said(
        "Exchange the secret of a webhook; the one before is valid for a day more",
        {200: ("the webhook and its secret", answers.NewSecret)}, (403, 404))),
    ("/api/jobs/{job:number}/shares", "get", "look", shares.show, Said(
        "With whom a job is shared", {200: SHARED}, (404,))),
    ("/api/jobs/{job:number}/shares", "post", "act", shares.share, Said(
        "Let an account, or all of a role, look at a job",
        {200: SHARED}, (*WRITES, 404), (), shares.NewShare)),
    ("/api/jobs/{job:number}/shares", "delete", "act", shares.unshare, Said(
        "Take that back", {200: SHARED}, (*WRITES, 404), (), shares.NewShare)),
    ("/api/jobs/{job:number}/{action}", "post", "act", acts.act, Said(
        "Pause, resume, cancel, or retry what failed", {200: JOB}, (*WRITES, 404, 409), (), acts.Target)),
    ("/api/events", "get", "look", api.all_events, Said(
        "All jobs and items, as they change", {200: STREAM}, (422, 429), RESUME)),
    ("/api/ws", "get", "open", sockets.upgrade_needed, Said(
        'The same over a WebSocket; the client begins with the message {"after": SEQ}',
        {101: ("a WebSocket", None)}, (403, 426), (OF_JOB,))),
    ("/api/schedules", "get", "look", acts.show_schedules, Said(
        "Schedules, the next to start first", {200: ("all of them", answers.Schedules)})),
    ("/api/schedules", "post", "start", acts.add_schedule, Said(
        "Start a task again and again", {201: ("the schedule", answers.Schedule)},
        WRITES, (), acts.NewSchedule)),
    ("/api/schedules/{schedule:number}", "delete", "act", acts.act_on_schedule, Said(
        "End a schedule", {204: ("it is gone", None)}, (403, 404))),
    ("/api/workers", "get", "look", acts.show_workers, Said(
        "Who does the work, the dead last", {200: ("all of them", answers.Workers)})),
    ("/api/ledger/{call}", "post", "open", worker_api.answer, Said(
        "For the workers of a queue, with their token and their version: what they take and report",
        {200: ("of its own for each call", Any)}, (400, 401, 403, 404, 409, 413), CREDENTIALS, Any)),
    (
        "/healthz",
        "get",
        "open",
        api.healthz,
        Said("Whether it serves what is true", {200: ("it does", Any), 503: ("the database is lost", Any)}),
    ),
]  # fmt: skip


def description(req: Request) -> Response:
    """The API described."""
    return json_answer(openapi(base_of(req), list(REGISTRY.values()), API))


ROUTES: list[Routed] = [
    *PAGES,
    ("/metrics", "get", "admin", metrics.show_metrics),
    *[(path, verb, right, handler) for path, verb, right, handler, _ in API],
    ("/api/openapi.json", "get", "look", description),
]


def demo_here(asked: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """A part of the demo API, for this machine alone: what runs here asks it."""

    async def answer(req: Request) -> Response:
        if not is_own_machine(req.scope):
            raise HTTPException(404)
        return await asked(req)

    return answer


def add_routes(app: FastHTML) -> None:
    """As plain routes: FastHTML's own would read a body, and take it for JSON or a form, before its handler
    can say whose it wants, or none.
    """
    for path, verb, right, handler in ROUTES:
        assert right in RIGHTS
        name = handler.__name__.replace("_", " ")
        route = Route(path, entered(right, name, drawn(handler)), methods=[verb.upper()])
        app.router.routes.append(route)
    app.router.routes.append(WebSocketRoute("/api/ws", sockets.all_events))
    for path, verb, asked in demo.ROUTES:
        app.router.routes.append(Route(f"/demo{path}", demo_here(asked), methods=[verb]))


def drawn(handler: Callable[[Request], Any]) -> Callable[[Request], Awaitable[Response]]:
    """A handler whose answer is the page that it gives, where it gives no answer."""

    async def answer(req: Request) -> Response:
        if inspect.iscoroutinefunction(handler):
            found = await handler(req)
        else:
            found = await run_in_threadpool(handler, req)
        return found if isinstance(found, Response) else HTMLResponse(to_html(found))

    return answer


if __name__ == "__main__":
    from rowcast.__main__ import main

    main()
