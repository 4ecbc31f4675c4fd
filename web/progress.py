"""`progress(job)`: one job's progress in a page of one's own app, and the routes behind it.

It is for who may see the job: whom a page goes to is what `mount(app, owner=f)` says of the request that it
answers. Where that cannot be said at once, for `f` is a coroutine, the frame is empty until its stream comes.
"""

import asyncio
import inspect
from typing import Any

import anyio.from_thread
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from rowcast.components import progress_box, to_html
from rowcast.feed.progress import ProgressViewer, looked_at
from rowcast.jobs import NotFound
from rowcast.tasks.accounts import LOCAL, Who
from rowcast.tasks.records import OWNER, ProgressView
from rowcast.web.access import asked_of_app
from rowcast.web.background_task import BackgroundTask, here, note_written, write_jobs
from rowcast.web.requests import at, base_of, events, number, owner_of
from rowcast.web.state import State

NOUN = 40  # letters
MOST = 100  # rows, and failures, that are listed


def progress(
    job: int | BackgroundTask, noun: str = "items", rows: int = 0, problems: int = 0, stop: bool = False
) -> Any:
    """A component for a page of one's own: a job's bar, counts and time left, which follow it.

    `noun`: what its items are called there; `rows`: how many of them are listed, the newest change first;
    `problems`: how many of its failures; `stop`: whether there is a button that cancels it. A BackgroundTask
    is written by this, where it is not yet. Of a job that is not theirs to whom the page goes, it says that
    there is none.
    """
    state = here()
    asks = who_asks(state)
    ident = written(job, asks, state) if isinstance(job, BackgroundTask) else job
    rows, problems = (max(0, min(many, MOST)) for many in (rows, problems))
    view = ProgressView(noun[:NOUN], rows, problems, stop)
    asking = State.asking.get()
    base = f"{asking.scope.get('root_path', '') if asking else ''}{state.base}"
    try:
        found = None if asks is None else looked_at(state.jobs, ident, asks, view)
    except NotFound as error:
        return progress_box(base, ident, view, None, str(error))
    return progress_box(base, ident, view, found)


def written(task: BackgroundTask, asks: Who | None, state: State) -> int:
    """The number of a BackgroundTask's job. Raises RuntimeError where nobody can say whose it is to be."""
    if task.job is None:
        if asks is None:
            raise RuntimeError(
                "Whose job this is, a coroutine says: send the BackgroundTask with a response first."
            )
        owner = asks if isinstance(asks, str) and asks else OWNER
        note_written([task], write_jobs([task], owner, state))
    assert task.job
    return task.job.id


def who_asks(state: State) -> Who | None:
    """To whom the page goes that is being drawn; '' for nobody who is known, None where nobody can say that
    at once.
    """
    asking = State.asking.get()
    if not state.owner:
        return None if state.accounts.any() else LOCAL
    if asking is None:
        return None
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # a handler's own thread, which may wait
        return known(anyio.from_thread.run(asked_of_app, state, asking))
    if inspect.iscoroutinefunction(state.owner):
        return None
    return known(str(state.owner(asking) or "").strip())


def known(name: str) -> str:
    """A name that the app gives; '' for nobody who is known, to whom that of what is nobody's belongs."""
    return "" if name == OWNER else name


def view_in(query: QueryParams) -> ProgressView:
    """How progress is shown, by a URL's query. Raises BadArguments."""
    rows, problems = (number(query.get(name), name, 0, 0, MOST) for name in ("rows", "problems"))
    return ProgressView(query.get("noun", "")[:NOUN] or "items", rows, problems, bool(query.get("stop")))


def show_progress(req: Request) -> Response:
    """The component alone, for a page that another program makes."""
    job = req.path_params["job"]
    view = view_in(req.query_params)
    found = looked_at(at(req).jobs, job, owner_of(req), view)
    return HTMLResponse(to_html(progress_box(base_of(req), job, view, found)))


async def progress_events(req: Request) -> Response:
    """What follows it."""
    job = at(req).jobs.job(req.path_params["job"], owner_of(req))
    view = view_in(req.query_params)
    return events(req, ProgressViewer(at(req).feed, base_of(req), owner_of(req), job.id, view))
