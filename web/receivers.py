"""Receivers: who is to be told of a job, as a form or a program gives it, checked before anything is started;
and what people and programs do with the messages.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from rowcast.components import messages_page, to_html
from rowcast.tasks import answers
from rowcast.tasks.notify import (
    Notify,
    Receiver,
    checked,
    chosen,
    masked,
    trusted_of,
    unmasked,
    what_is_wrong_with_webhook,
)
from rowcast.tasks.reach import Reach
from rowcast.tasks.records import DELIVERY_STATUSES, OWNER, BadArguments, Delivery, Job, Webhook
from rowcast.tasks.registry import REGISTRY
from rowcast.tasks.settings import Settings
from rowcast.web.guard import for_program
from rowcast.web.requests import asked, at, base_of, body_as, json_answer, one_of, owner_of, see, told

LATEST = 200  # messages on the page of all
Kind = TypeVar("Kind", Receiver, Delivery)


class Tell(msgspec.Struct, forbid_unknown_fields=True):
    """Who is told of a job from now on."""

    notify: list[Notify]


class NewWebhook(msgspec.Struct, forbid_unknown_fields=True):
    """A webhook whose secret is wanted before the first message."""

    url: str


# ---- what is given ---------------------------------------------------------------------------------------


def receivers_of(
    given: Iterable[Notify] | None, own: Iterable[Notify], settings: Settings, kept: Sequence[Receiver] = ()
) -> tuple[Receiver, ...] | None:
    """Receivers given by a form or a program, checked; None where nothing is said.

    What the settings or the task name themselves (`own`), or have named for the job or schedule at hand
    (`kept`), may be anywhere; of what was kept also a masked address will do. Raises BadArguments.
    """
    if given is None:
        return None
    try:
        found = checked(unmasked(given, kept))
    except ValueError as error:
        raise BadArguments(str(error)) from None
    usual = settings.usual
    known = {one.address for one in (*own, *usual.unless_said, *usual.always)} | trusted_of(kept)
    reach = Reach(settings.notify_hosts)
    for rule in found:
        if rule.address not in known and (why := what_is_refused(rule, reach)):
            raise BadArguments(why)
    return tuple(Receiver(rule.channel, rule.to, rule.on, rule.address in known) for rule in found)


def what_is_refused(rule: Notify, reach: Reach) -> str:
    """Why an address that was typed or sent is not told, as one sentence; '' for nothing that is plain by
    now.
    """
    if rule.channel == "apprise":
        return (
            "notify: addresses of apprise are for whoever runs Rowcast: --notify, or @task(notify=...), and"
            " a job may name those."
        )
    host = urlsplit(rule.to).hostname or ""
    if rule.channel == "webhook" and reach.refuses(host):
        return f"notify: {host} is not public; --notify-hosts says which hosts may be told all the same."
    return ""


def receivers_of_form(form: Any, shown: Iterable[Notify]) -> list[Notify] | None:
    """What the fields of pages/messages.py say; None for a form that has none of them.

    `shown`: the receivers that it had a box for. Raises BadArguments.
    """
    if not form.get("notify-asked"):
        return None
    named = {rule.digest: rule for rule in shown}
    on = [str(event) for event in form.getlist("notify-on")]
    rules: list[Any] = []
    for digest in form.getlist("notify-keep"):
        if digest not in named:
            raise BadArguments("Who is told was changed since this page was loaded: reload it.")
        rules.append(named[digest])
    rules += [{"channel": "push", "to": str(browser)} for browser in form.getlist("notify-push")]
    for channel in ("email", "webhook"):
        words = str(form.get(f"notify-{channel}") or "").replace(",", " ").split()
        rules += [{"channel": channel, "to": word, "on": on} for word in words]
    try:
        return list(checked(rules))
    except ValueError as error:
        raise BadArguments(str(error)) from None


# ---- who is told -----------------------------------------------------------------------------------------


def show_receivers(req: Request) -> Response:
    """Who is told of a job, for a program."""
    return json_answer(receivers_answer(req, owned(req)))


async def change_receivers(req: Request) -> Response:
    """From now on others are told of a job: a program's list, or what a person's form says."""
    if for_program(req.scope):
        given = (await body_as(req, Tell)).notify
    else:
        job = await run_in_threadpool(at(req).jobs.job_to_move, req.path_params["job"], owner_of(req))
        shown = await run_in_threadpool(at(req).outbox.receivers, job.id)
        given = receivers_of_form(await req.form(), [one.given for one in shown]) or []
    job = await run_in_threadpool(tell, req, given)
    if for_program(req.scope):
        return json_answer(await run_in_threadpool(receivers_answer, req, job))
    return see(req, f"/jobs/{job.id}")


def tell(req: Request, given: list[Notify]) -> Job:
    """Raises NotFound, Refused, NotAllowed, BadArguments."""
    state = at(req)
    job = at(req).jobs.job_to_move(req.path_params["job"], owner_of(req))
    own = REGISTRY[job.task].notify if job.task in REGISTRY else ()
    found = receivers_of(given, own, state.settings, state.outbox.receivers(job.id))
    state.outbox.tell(job.id, chosen(own, state.settings.usual, found))
    return job


def owned(req: Request) -> Job:
    """The job that the route names, if who asks sees it. Raises NotFound."""
    return at(req).jobs.job(req.path_params["job"], owner_of(req))


def receivers_answer(req: Request, job: Job) -> answers.Receivers:
    found = [told_to(req, one, job.owner) for one in at(req).outbox.receivers(job.id)]
    return answers.Receivers([one.given for one in found])


def told_to(req: Request, one: Kind, owner: str) -> Kind:
    """A receiver or a message, for who asks: of the settings' own addresses only admins see the whole."""
    if owner_of(req).knows(owner, bool(one.trusted)):
        return one
    return msgspec.structs.replace(one, to=masked(one.channel, one.to))


# ---- what was told ---------------------------------------------------------------------------------------


def show_deliveries(req: Request) -> Response:
    """What was told of a job, for a program: the newest first."""
    job = owned(req)
    found = [told_to(req, one, job.owner) for one in at(req).outbox.of_job(job.id)]
    return json_answer([answers.of(one) for one in found])


def send_again(req: Request) -> Response:
    """Send a message of a job's once more, under its id."""
    job = at(req).jobs.job_to_move(req.path_params["job"], owner_of(req))
    delivery = at(req).outbox.send_again(job.id, req.path_params["delivery"])
    return told(req, told_to(req, delivery, job.owner), f"/jobs/{job.id}", moves=True)


def show_messages(req: Request) -> Any:
    """What was told of all jobs of the asker's, and the secrets of webhooks."""
    return drawn(req)


def drawn(req: Request, secret: tuple[str, str] | None = None) -> Any:
    """The page of messages; with a webhook's address and secret, which are shown this once."""
    state = at(req)
    owner = owner_of(req)
    status = one_of(req.query_params, "status", DELIVERY_STATUSES)
    found = state.outbox.lately(owner, LATEST, status)
    counts = state.outbox.counts(owner)
    return messages_page(base_of(req), found, counts, status or "", state.webhooks.every(owner), secret)


# ---- webhooks --------------------------------------------------------------------------------------------


def show_webhooks(req: Request) -> Response:
    return json_answer([answers.of(one) for one in at(req).webhooks.every(owner_of(req))])


async def add_webhook(req: Request) -> Any:
    """Make the secret of a webhook, and show it."""
    given = await asked(req, NewWebhook)
    if wrong := what_is_wrong_with_webhook(given.url):
        raise BadArguments(wrong)
    made, secret = await run_in_threadpool(at(req).webhooks.add, keeper_of(req, given.url), given.url)
    return await run_in_threadpool(shown_once, req, made, secret, 201)


def keeper_of(req: Request, url: str) -> str:
    """In whose name the secret of a webhook is made: an admin makes that of all for one that settings or code
    name.
    """
    asks = owner_of(req)
    usual = at(req).settings.usual
    named = [rule for task in REGISTRY.values() for rule in task.notify]
    theirs = {rule.address for rule in (*named, *usual.unless_said, *usual.always)}
    return OWNER if asks.sees_all and ("webhook", url) in theirs else asks.name


def rotate(req: Request) -> Any:
    """Another secret for a webhook, shown this once; for a day the one before is valid too."""
    made, secret = at(req).webhooks.rotate(req.path_params["webhook"], owner_of(req))
    return shown_once(req, made, secret)


def shown_once(req: Request, webhook: Webhook, secret: str, status: int = 200) -> Any:
    if for_program(req.scope):
        told = {name: getattr(answers.of(webhook), name) for name in answers.Webhook.__struct_fields__}
        answer = json_answer(answers.NewSecret(**told, secret=secret), status)
        answer.headers["Cache-Control"] = "no-store"
        return answer
    return HTMLResponse(to_html(drawn(req, (webhook.url, secret))), status, {"Cache-Control": "no-store"})
