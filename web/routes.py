"""The routes: each address, its verb, the right that it takes, and who answers; for programs also what
openapi.py says of it.

A page's handler gives a page, or an answer of its own; `add_routes` puts all of them into an app.
"""

import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fasthtml.core import FastHTML
from starlette.concurrency import run_in_threadpool
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from rowcast.components import to_html
from rowcast.tasks import answers
from rowcast.tasks.accounts import RIGHTS
from rowcast.web import (
    account,
    acts,
    api,
    bookmarks,
    browser,
    bulk,
    cards,
    demo,
    files,
    halts,
    mailbox,
    metrics,
    openid,
    progress,
    push,
    receivers,
    schedules,
    shares,
    sign_in,
    sockets,
    worker_api,
)
from rowcast.web.access import entered
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
from rowcast.web.proxies import is_own_machine
from rowcast.web.requests import at, base_of, json_answer
from rowcast.web.start import Start

STATIC = Path(__file__).parents[1] / "static"
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
    ("/bulks/{bulk:number}", "get", "look", bulk.show_bulk),
    ("/bookmarks", "post", "look", bookmarks.keep),
    ("/bookmarks/{bookmark:number}/forget", "post", "look", bookmarks.forget),
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
    ("/jobs/{job:number}/then", "get", "start", schedules.show_then),
    ("/jobs/{job:number}/tune", "post", "act", acts.tune),
    ("/jobs/{job:number}/again", "get", "start", acts.show_again),
    ("/jobs/{job:number}/again", "post", "start", acts.again),
    ("/jobs/{job:number}/notify", "post", "act", receivers.change_receivers),
    ("/jobs/{job:number}/deliveries/{delivery}/retry", "post", "act", receivers.send_again),
    ("/jobs/{job:number}/shares", "post", "act", shares.share),
    ("/jobs/{job:number}/shares/end", "post", "act", shares.unshare),
    ("/jobs/{job:number}/card/end", "post", "act", cards.end_links),
    ("/jobs/{job:number}/{action}", "post", "act", acts.act),
    ("/messages", "get", "look", receivers.show_messages),
    ("/webhooks", "post", "start", receivers.add_webhook),
    ("/webhooks/{webhook:number}/rotate", "post", "start", receivers.rotate),
    ("/tasks", "get", "look", browser.show_tasks),
    ("/tasks/{name}", "get", "look", browser.show_task),
    ("/schedules", "get", "look", schedules.show_schedules),
    ("/schedules", "post", "start", schedules.add_schedule),
    ("/schedules/{schedule:number}", "get", "start", schedules.show_schedule),
    ("/schedules/{schedule:number}/edit", "post", "start", schedules.edit_schedule),
    ("/schedules/{schedule:number}/{action}", "post", "act", schedules.act_on_schedule),
    ("/halts", "get", "admin", halts.show_halts),
    ("/halts", "post", "admin", halts.stop),
    ("/halts/lift", "post", "admin", halts.lift),
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
    ("/accounts", "get", "admin", account.show_accounts),
    ("/accounts", "post", "admin", account.add_account),
    ("/accounts/role", "post", "admin", account.set_role),
    ("/accounts/disable", "post", "admin", account.disable),
    ("/accounts/enable", "post", "admin", account.enable),
    ("/accounts/reset", "post", "admin", account.reset),
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
        (*WRITES, 404, 409), (), Start)),
    ("/api/jobs/act", "post", "act", bulk.act_on_all, Said(
        "Do one thing to every job that a filter has", {200: ("how many jobs it was", answers.Acted)},
        WRITES, (), bulk.Act)),
    ("/api/jobs/check", "post", "start", acts.check_start, Said(
        "Whether a job could be started so; none is", {200: ("what it would be", answers.Checked)},
        (*WRITES, 404, 409), (), Start)),
    ("/api/jobs/{job:number}/check", "post", "act", acts.check_act, Said(
        "What an action would do to a job, or a part of it; nothing is done",
        {200: ("what would come of it", answers.Checked)}, (*WRITES, 404, 409), (), acts.Check)),
    ("/api/bookmarks", "get", "look", bookmarks.show_bookmarks, Said(
        "The filters of jobs that who asks has kept", {200: ("all of them", answers.Bookmarks)})),
    ("/api/bookmarks", "post", "look", bookmarks.keep, Said(
        "Keep a filter of jobs by a name", {201: ("the bookmark", answers.Bookmark)},
        WRITES, (), bookmarks.NewBookmark)),
    ("/api/bookmarks/{bookmark:number}", "delete", "look", bookmarks.forget, Said(
        "Forget it", {204: ("it is gone", None)}, (403, 404))),
    ("/api/bulks/{bulk:number}", "get", "look", bulk.show_bulk, Said(
        "How far an act on many jobs is", {200: ("the act", answers.Bulk)}, (404,))),
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
    ("/api/schedules", "get", "look", schedules.show_schedules, Said(
        "Schedules, the next to start first", {200: ("all of them", answers.Schedules)})),
    ("/api/schedules", "post", "start", schedules.add_schedule, Said(
        "Start a task again and again", {201: ("the schedule", answers.Schedule)},
        WRITES, (), schedules.NewSchedule)),
    ("/api/schedules/{schedule:number}", "put", "start", schedules.edit_schedule, Said(
        "Change a schedule: all of it is said anew", {200: ("the schedule", answers.Schedule)},
        (*WRITES, 404), (), schedules.NewSchedule)),
    ("/api/schedules/{schedule:number}", "delete", "act", schedules.act_on_schedule, Said(
        "End a schedule", {204: ("it is gone", None)}, (403, 404))),
    ("/api/schedules/{schedule:number}/{action}", "post", "act", schedules.act_on_schedule, Said(
        "Pause, resume or delete a schedule, or run it now",
        {200: ("the schedule", answers.Schedule), 201: JOB, 204: ("it is gone", None)}, (*WRITES, 404, 409),
        actions=schedules.ACTIONS)),
    ("/api/halts", "get", "look", halts.show_halts, Said(
        "What is stopped: tasks of which nothing new starts", {200: ("all of them", answers.Halts)})),
    ("/api/halts", "post", "admin", halts.stop, Said(
        "Stop a task, or everything: what runs ends, and nothing new starts",
        {200: ("what is stopped", answers.Halt)}, WRITES, (), halts.NewHalt)),
    ("/api/halts/lift", "post", "admin", halts.lift, Said(
        "Let it go on", {204: ("it does", None)}, WRITES, (), halts.Lift)),
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
    return json_answer(openapi(base_of(req), at(req).tasks, API))


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
