"""The dashboard: HTTP in. The app, what it answers when something is wrong, and its life.

`create` makes the app from settings, `mount` puts it under a path of somebody else's app, `serving` is what
the command `rowcast` serves. The lifespan prepares the database, starts the engine and the feed's watcher,
and ends them. Its routes are in web/routes.py.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import Token
from typing import Any
from urllib.parse import urlsplit

import apsw
from fasthtml.core import FastHTML
from starlette.applications import Starlette
from starlette.datastructures import URL
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from rowcast.components import error_page, note_account, note_language, note_newest, note_trouble, to_html
from rowcast.jobs import NotAllowed, NotFound
from rowcast.tables.database import DatabaseGone, DatabaseRefused
from rowcast.tables.health import LOST
from rowcast.tables.schema import prepare
from rowcast.tables.users import Users
from rowcast.tasks import edits
from rowcast.tasks.accounts import Refused
from rowcast.tasks.languages import ENGLISH
from rowcast.tasks.log_format import set_log_format
from rowcast.tasks.python_path import see_working_directory
from rowcast.tasks.records import BadArguments
from rowcast.tasks.registry import import_modules
from rowcast.tasks.sentences import translated, worded
from rowcast.tasks.settings import Settings, address, api_of, demand_broker, from_environment
from rowcast.web import push, worker_api
from rowcast.web.access import OUTER, asks_who, lets_in
from rowcast.web.guard import Guard, for_program, json_error, path_in
from rowcast.web.proxies import Proxies
from rowcast.web.requests import at
from rowcast.web.routes import add_routes
from rowcast.web.state import State

log = logging.getLogger("rowcast")
# When Python looks for garbage: among the young as ever, through all there is ten times more rarely. With a
# thousand streams that is a pause of 150 ms for each of them.
GARBAGE = (gc.get_threshold()[0], 10, 100)
CLOSED_EVERY = 0.3  # seconds between two looks whether the server still takes somebody in


def language_in(scope: Scope, fixed: str) -> tuple[str, str]:
    """The languages that a browser takes, as its header has them, and the one that is fixed; programs are
    told all in English."""
    if scope["type"] != "http" or (for_program(scope) and not path_in(scope).startswith("/events")):
        return "", ENGLISH
    said = [text for name, text in scope["headers"] if name == b"accept-language"]
    return b",".join(said).decode("latin-1"), fixed


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
            self._refuse,
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
        if worker_api.is_call(scope):
            await self._answer_worker(scope, receive, send)
            return
        noted: tuple[Token[Any], ...] = (
            note_trouble("" if asks_who(self) else self.banner),
            note_newest(self._newest),
            note_account(None),
            note_language(*language_in(scope, self.settings.language)),
        )
        if self.owner:
            scope[OUTER] = HTTPConnection(dict(scope))  # with the app around us as its app
        try:
            await self.app(scope, receive, send)
        finally:
            for token in noted:
                token.var.reset(token)

    def _refuse(self, scope: Scope, status: int, sentence: str) -> Response:
        """A refusal of the guard's, who stands before the language of who asks is known."""
        noted = note_language(*language_in(scope, self.settings.language))
        try:
            return refuse(scope, status, sentence)
        finally:
            noted.var.reset(noted)

    async def _answer_worker(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The answer to a worker's call, of which the app knows nothing."""
        scope["app"] = self.app
        req = Request(scope, receive)
        try:
            answer = await worker_api.answer(req)
        except ClientDisconnect:
            return
        except HTTPException as error:
            answer = answer_http_error(req, error)
        except Exception as error:
            if next(kind for kind in type(error).__mro__ if kind in ANSWERED) is Exception:
                log.exception("A call of a worker, %s", req.url.path)
            answer = answer_error(req, error)
        await answer(scope, receive, send)

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
    dashboard.edits.remedy = worded("restart this app")
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
        return PlainTextResponse(translated(sentence), status, headers)
    return HTMLResponse(to_html(error_page(scope.get("root_path", ""), status, sentence)), status, headers)


def answer_http_error(req: Request, exc: HTTPException) -> Response:
    said = {
        "Not Found": worded("There is no such page."),
        "Method Not Allowed": worded(f"This address does not answer {req.method}."),
    }
    return refuse(req.scope, exc.status_code, said.get(exc.detail, exc.detail), exc.headers)


# What is raised, and how it is answered: the status, and the sentence where it brings none of its own.
BUSY = (503, worded("The database is busy; try again in a moment."))
DAMAGED = (503, worded("The database is damaged: restore a backup (`rowcast restore`)."))
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
    apsw.FullError: (507, worded("The disk is full: nothing was changed. Make room, and try again.")),
    Exception: (500, worded("Something went wrong here; the server's log says what.")),
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


if __name__ == "__main__":
    from rowcast.__main__ import main

    main()
