"""Messages as HTML: who is told of a job, what came of what was told, and the secrets of webhooks."""

from collections.abc import Iterable, Sequence
from typing import Any

from fasthtml.components import (
    H1,
    H2,
    A,
    Button,
    Code,
    Details,
    Div,
    Fieldset,
    Form,
    Input,
    Label,
    Legend,
    Nav,
    P,
    Section,
    Small,
    Span,
    Summary,
    Td,
    Tr,
)

from rowcast.pages.news import tell_box
from rowcast.pages.shell import page
from rowcast.pages.skeleton import ASKS, below, may, may_move, post_form, table, url
from rowcast.pages.values import clock, countdown, day, in_words, status_icon, visible
from rowcast.tasks import clock as time_of
from rowcast.tasks.languages import Words, mark, tr, written
from rowcast.tasks.notify import EVENTS, USUAL, Notify, Receiver, masked
from rowcast.tasks.records import Delivery, Job, Webhook
from rowcast.tasks.sentences import translated

BESIDE = 20  # messages of a job that stand beside its rows
SOON = 90  # seconds that are counted down; a longer wait is told by its end
# An event, as the end of a sentence that begins with "When it".
WHEN = Words(
    {
        "completed": mark("is done"),
        "failed": mark("has failed"),
        "cancelled": mark("was cancelled"),
        "paused": mark("waits for a person"),
        "turned": mark("turns from well to failed, or back"),
    }
)
ABOUT = Words(
    {
        "completed": mark("done"),
        "failed": mark("failed"),
        "cancelled": mark("cancelled"),
        "paused": mark("waits for a person"),
        "turned": mark("has turned"),
    }
)
LOOKS = {"queued": "queued", "sending": "running", "delivered": "completed", "failed": "failed"}
FILTERS = Words(
    {
        "": mark("All"),
        "failed": mark("Not delivered"),
        "queued": mark("On their way"),
        "delivered": mark("Delivered"),
    }
)
LOG_HEAD = {
    mark("When"): "when",
    mark("About"): "name",
    mark("To"): "to",
    mark("What came of it"): "wide",
    mark("Act"): "num act",
}
WEBHOOKS_HEAD = {mark("Webhook"): "to", mark("Its secret"): "wide", mark("Act"): "num act"}


# ---- who is told -----------------------------------------------------------------------------------------


def tell_fields(
    ident: str, receivers: Sequence[Receiver], every: Iterable[Receiver] = (), job: int = 0
) -> Any:
    """Who is told of a job: this browser, those who are named already, each with a box to take it off, and
    more of them.

    `every`: who is told of every job; `job`: its number, 0 before there is one.
    """
    named = [one for one in receivers if not one.always]
    count = f" ({len(named)})" if named else ""
    others = [*every, *(one for one in receivers if one.always)]
    told = ", ".join(shortly(whither(one)) for one in others)
    return Details(
        Summary(tr("Tell me when this is done{count}", count=count)),
        Div(
            Input(type="hidden", name="notify-asked", value="1"),
            tell_box(job),
            *[kept_receiver(one) for one in named],
            told_field(ident, "email", tr("Mail to"), "ann@example.com"),
            told_field(ident, "webhook", tr("Webhook"), "https://…"),
            Fieldset(
                Legend(tr("When it")),
                *[
                    Label(
                        Input(type="checkbox", name="notify-on", value=event, checked=event in USUAL),
                        f" {words}",
                        cls="check",
                    )
                    for event, words in WHEN.items()
                ],
            ),
            Small(tr("Told of every job: {told}", told=in_words(told))) if told else "",
            cls="fields tell",
        ),
    )


def kept_receiver(one: Receiver) -> Any:
    """A receiver that is named already, which can be taken off."""
    return Label(
        Input(
            type="checkbox",
            name="notify-keep",
            value=one.given.digest,
            checked=True,
            data_browser=one.to if one.channel == "push" else None,
        ),
        " ",
        visible(shortly(whither(one))),
        Small(f" {one.channel}: {events_text(one.on)}"),
        cls="check kept",
        title=in_words(whither(one)),
    )


def told_field(ident: str, channel: str, word: str, hint: str) -> Any:
    name = f"{ident}-{channel}"
    shown = Input(
        type="text",
        name=f"notify-{channel}",
        id=name,
        placeholder=hint,
        inputmode="email" if channel == "email" else "url",
        autocomplete="email" if channel == "email" else "off",
        title=tr("Several: a space or a comma between them"),
    )
    return Div(Label(word, _for=name), shown, cls="field wide")


def tell_form(job: Job, receivers: Sequence[Receiver]) -> Any:
    """The same for a job that there is; hidden where it has ended, as its pace."""
    return post_form(
        url(f"/jobs/{job.id}/notify"),
        tell_fields("tell", receivers, job=job.id),
        Button(tr("Change"), type="submit"),
        id="tell",
        cls="card",
    )


def events_text(on: Iterable[str]) -> str:
    told = [event for event in EVENTS if event in set(on)]
    return tr("any end or pause") if tuple(told) == USUAL else ", ".join(ABOUT[event] for event in told)


def shortly(to: str) -> str:
    """An address without what all have."""
    return to.removeprefix("https://").removeprefix("http://")


def whither(one: Delivery | Receiver) -> str:
    """Where a message goes, for who looks; a form is drawn for who may move the job, or starts one."""
    asks = ASKS.get()
    known = asks is not None and asks.knows(getattr(one, "owner", asks.name), bool(one.trusted))
    return one.to if known else masked(one.channel, one.to)


# ---- what was told ---------------------------------------------------------------------------------------


def message_log(deliveries: Sequence[Delivery]) -> list[Any]:
    """What was told of one job, beside its rows: the newest first."""
    if not deliveries:
        return []
    more = len(deliveries) - BESIDE
    all_of_them = P(A(tr("{more:,} more", more=more), href=url("/messages")), cls="pad") if more > 0 else ""
    return [H2(tr("Messages")), *[message_entry(one) for one in deliveries[:BESIDE]], all_of_them]


def message_entry(one: Delivery) -> Any:
    return Div(
        Div(outcome(one), Small(clock(one.tried_at or one.created_at)), cls="row apart"),
        P(visible(shortly(whither(one))), title=in_words(whither(one))),
        P(f"{one.channel}: {ABOUT[one.event]}{tries_text(one)}", cls="soft when"),
        P(visible(translated(one.error)), cls="soft sample") if one.error else "",
        again_form(one),
        cls="grp message",
        id=f"delivery-{one.id}",
        data_status=one.status,
    )


def outcome(one: Delivery) -> Any:
    """What came of a message, with its icon."""
    if one.status == "delivered":
        return status_icon("completed", tr("Delivered"))
    if one.status == "failed":
        return status_icon("failed", tr("Given up"))
    if one.status == "sending":
        return status_icon("running", tr("Sending"))
    if not one.attempts:
        return status_icon("queued", tr("On its way"))
    if one.due_at - time_of.now() < SOON:
        return status_icon("retrying", tr("Again "), countdown(one.due_at))
    return status_icon("retrying", tr("Again at "), clock(one.due_at))


def tries_text(one: Delivery) -> str:
    return tr(", {attempts} tries", attempts=one.attempts) if one.attempts > 1 else ""


def again_form(one: Delivery) -> Any:
    """The button that sends it once more; while it is being sent there is none."""
    if one.status == "sending" or not one.attempts or not may_move(one.owner):
        return ""
    word = tr("Send now") if one.status == "queued" else tr("Send again")
    return post_form(
        url(f"/jobs/{one.job}/deliveries/{one.id}/retry"),
        Button(
            word,
            type="submit",
            cls="link",
            aria_label=tr("{word} to {receiver}", word=word, receiver=in_words(shortly(whither(one)))),
        ),
    )


def lost_sentence(failing: Sequence[Delivery], lost: Sequence[Delivery]) -> str:
    """That messages did not arrive: none of the last ones (`failing`), or some that were given up."""
    last = (failing or lost)[0]
    number = len(failing or lost)
    how_many = (
        tr("The last {number} messages were", number=number) if number > 1 else tr("The last message was")
    )
    if not failing:
        how_many = tr("{number} messages were", number=number) if number > 1 else tr("A message was")
    why = translated(last.error or "") or tr("no answer")
    where = f"{in_words(shortly(whither(last)))} ({in_words(why)})"
    return tr("{how_many} not delivered: {where}.", how_many=how_many, where=where)


# ---- the page of all messages --------------------------------------------------------------------------


def messages_filter(status: str, counts: dict[str, int]) -> Any:
    """The statuses, which are filters."""
    return Nav(
        *[
            A(
                word,
                Span(written(f" {counts.get(name, 0) if name else sum(counts.values()):,}"), cls="n"),
                href=url("/messages", status=name),
                aria_current="true" if name == status else None,
            )
            for name, word in FILTERS.items()
        ],
        aria_label=tr("Filter the messages"),
    )


def messages_table(deliveries: Sequence[Delivery]) -> Any:
    return table(
        LOG_HEAD, [message_row(one) for one in deliveries], cls="messages", aria_label=tr("Messages")
    )


def message_row(one: Delivery) -> Any:
    why = Span(visible(translated(one.error)), cls="soft") if one.error else ""
    tries = Span(tries_text(one).removeprefix(", "), cls="soft")
    return Tr(
        Td(clock(one.created_at), cls="when"),
        Td(A(f"{one.task} #{one.job}", href=url(f"/jobs/{one.job}")), f" {ABOUT[one.event]}", cls="name"),
        Td(visible(shortly(whither(one))), cls="to", title=f"{one.channel}: {in_words(whither(one))}"),
        Td(Div(outcome(one), tries, why, cls="row"), cls="wide"),
        Td(again_form(one), cls="num act"),
        id=f"delivery-{one.id}",
        data_status=one.status,
    )


def webhooks_part(webhooks: Sequence[Webhook], secret: tuple[str, str] | None) -> list[Any]:
    """The webhooks and their secrets, of which one that was just made is shown."""
    return [
        Div(
            H2(tr("Webhooks")),
            Small(tr("What is sent to each is signed with a secret of its own.")),
            cls="head",
        ),
        secret_note(*secret) if secret else "",
        table(
            WEBHOOKS_HEAD, [webhook_row(one) for one in webhooks], cls="messages", aria_label=tr("Webhooks")
        ),
        P(
            tr("None yet: one stands here from its first message on, or when you make its secret."),
            cls="empty",
        ),
        Form(
            Label(tr("Address "), Input(type="url", name="url", required=True, placeholder="https://…")),
            Button(tr("Make its secret"), type="submit"),
            action=url("/webhooks"),
            method="post",
            cls="row pad",
        )
        if may("start")
        else "",
    ]


def secret_note(to: str, secret: str) -> Any:
    """A secret, shown once."""
    return P(
        tr("The secret of {to}: ", to=in_words(shortly(to))),
        Code(secret, id="secret"),
        tr(" It is shown this once: copy it to the receiver now."),
        cls="note",
        role="status",
    )


def webhook_row(one: Webhook) -> Any:
    both = one.retired_at > time_of.now()
    known: tuple[Any, ...] = (
        (tr("shown "), day(one.shown_at)) if one.shown_at else (tr("nobody has seen it yet"),)
    )
    word = tr("Rotate") if one.shown_at else tr("Show it")
    return Tr(
        Td(visible(shortly(one.url)), cls="to", title=in_words(one.url)),
        Td(*known, *((Span(tr("; the one before is valid until "), day(one.retired_at)),) if both else ())),
        Td(
            Form(
                Button(word, type="submit", cls="link", aria_label=f"{word}: {in_words(shortly(one.url))}"),
                action=url(f"/webhooks/{one.id}/rotate"),
                method="post",
                data_ask=tr("The secret before this one is valid no more from then on. Do it?")
                if both
                else None,
            )
            if may("start")
            else "",
            cls="num act",
        ),
    )


def usual_receivers(rules: Iterable[Notify]) -> list[Receiver]:
    """Those whom task and server tell, for a form."""
    return [Receiver(rule.channel, rule.to, rule.on, trusted=True) for rule in rules]


@below
def messages_page(
    found: list[Delivery],
    counts: dict[str, int],
    status: str,
    webhooks: list[Webhook],
    secret: tuple[str, str] | None = None,
) -> Any:
    """What was told of all jobs, the newest first; webhooks, and the address and secret of a new one."""
    lost = counts.get("failed", 0)
    return page(
        tr("Messages · Rowcast"),
        Div(
            H1(tr("Messages")),
            Small(
                tr(
                    "{number:,} in the last seven days, {lost:,} not delivered",
                    number=sum(counts.values()),
                    lost=lost,
                )
            ),
            cls="titles",
        ),
        Section(
            Div(messages_filter(status, counts), cls="tabs"),
            messages_table(found),
            P(tr("There are none. Each job can tell people and programs when it is done."), cls="empty"),
            cls="card",
            aria_label=tr("What was told"),
        ),
        Section(*webhooks_part(webhooks, secret), cls="card side", aria_label=tr("Webhooks"), id="webhooks"),
        here="Messages",
    )
