"""Messages as HTML: who is told of a job, what came of what was told, and the secrets of webhooks."""

from collections.abc import Iterable, Sequence
from typing import Any

from fasthtml.components import (
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
    Small,
    Span,
    Summary,
    Td,
    Tr,
)

from rowcast.pages.news import tell_box
from rowcast.pages.skeleton import ASKS, may, may_move, post_form, table, url
from rowcast.pages.values import clock, countdown, day, in_words, status_icon, visible
from rowcast.tasks import clock as time_of
from rowcast.tasks.notify import EVENTS, USUAL, Notify, Receiver, masked
from rowcast.tasks.records import Delivery, Job, Webhook

BESIDE = 20  # messages of a job that stand beside its rows
SOON = 90  # seconds that are counted down; a longer wait is told by its end
# An event, as the end of a sentence that begins with "When it".
WHEN = {
    "completed": "is done",
    "failed": "has failed",
    "cancelled": "was cancelled",
    "paused": "waits for a person",
    "turned": "turns from well to failed, or back",
}
ABOUT = {
    "completed": "done",
    "failed": "failed",
    "cancelled": "cancelled",
    "paused": "waits for a person",
    "turned": "has turned",
}
LOOKS = {"queued": "queued", "sending": "running", "delivered": "completed", "failed": "failed"}
FILTERS = {"": "All", "failed": "Not delivered", "queued": "On their way", "delivered": "Delivered"}
LOG_HEAD = {
    "When": "when",
    "About": "name",
    "To": "to",
    "What came of it": "wide",
    "Act": "num act",
}
WEBHOOKS_HEAD = {"Webhook": "to", "Its secret": "wide", "Act": "num act"}


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
        Summary(f"Tell me when this is done{count}"),
        Div(
            Input(type="hidden", name="notify-asked", value="1"),
            tell_box(job),
            *[kept_receiver(one) for one in named],
            told_field(ident, "email", "Mail to", "ann@example.com"),
            told_field(ident, "webhook", "Webhook", "https://…"),
            Fieldset(
                Legend("When it"),
                *[
                    Label(
                        Input(type="checkbox", name="notify-on", value=event, checked=event in USUAL),
                        f" {words}",
                        cls="check",
                    )
                    for event, words in WHEN.items()
                ],
            ),
            Small(f"Told of every job: {in_words(told)}") if told else "",
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
        title="Several: a space or a comma between them",
    )
    return Div(Label(word, _for=name), shown, cls="field wide")


def tell_form(job: Job, receivers: Sequence[Receiver]) -> Any:
    """The same for a job that has not ended."""
    if job.ended:
        return ""
    return post_form(
        url(f"/jobs/{job.id}/notify"),
        tell_fields("tell", receivers, job=job.id),
        Button("Change", type="submit"),
        id="tell",
        cls="card",
    )


def events_text(on: Iterable[str]) -> str:
    told = [event for event in EVENTS if event in set(on)]
    return "any end or pause" if tuple(told) == USUAL else ", ".join(ABOUT[event] for event in told)


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
    all_of_them = P(A(f"{more:,} more", href=url("/messages")), cls="pad") if more > 0 else ""
    return [H2("Messages"), *[message_entry(one) for one in deliveries[:BESIDE]], all_of_them]


def message_entry(one: Delivery) -> Any:
    return Div(
        Div(outcome(one), Small(clock(one.tried_at or one.created_at)), cls="row apart"),
        P(visible(shortly(whither(one))), title=in_words(whither(one))),
        P(f"{one.channel}: {ABOUT[one.event]}{tries_text(one)}", cls="soft when"),
        P(visible(one.error), cls="soft sample") if one.error else "",
        again_form(one),
        cls="grp message",
        id=f"delivery-{one.id}",
        data_status=one.status,
    )


def outcome(one: Delivery) -> Any:
    """What came of a message, with its icon."""
    if one.status == "delivered":
        return status_icon("completed", "Delivered")
    if one.status == "failed":
        return status_icon("failed", "Given up")
    if one.status == "sending":
        return status_icon("running", "Sending")
    if not one.attempts:
        return status_icon("queued", "On its way")
    if one.due_at - time_of.now() < SOON:
        return status_icon("retrying", "Again ", countdown(one.due_at))
    return status_icon("retrying", "Again at ", clock(one.due_at))


def tries_text(one: Delivery) -> str:
    return f", {one.attempts} tries" if one.attempts > 1 else ""


def again_form(one: Delivery) -> Any:
    """The button that sends it once more; while it is being sent there is none."""
    if one.status == "sending" or not one.attempts or not may_move(one.owner):
        return ""
    word = "Send now" if one.status == "queued" else "Send again"
    return post_form(
        url(f"/jobs/{one.job}/deliveries/{one.id}/retry"),
        Button(word, type="submit", cls="link", aria_label=f"{word} to {in_words(shortly(whither(one)))}"),
    )


def lost_sentence(failing: Sequence[Delivery], lost: Sequence[Delivery]) -> str:
    """That messages did not arrive: none of the last ones (`failing`), or some that were given up."""
    last = (failing or lost)[0]
    number = len(failing or lost)
    how_many = f"The last {number} messages were" if number > 1 else "The last message was"
    if not failing:
        how_many = f"{number} messages were" if number > 1 else "A message was"
    where = f"{in_words(shortly(whither(last)))} ({in_words(last.error or 'no answer')})"
    return f"{how_many} not delivered: {where}."


# ---- the page of all messages --------------------------------------------------------------------------


def messages_filter(status: str, counts: dict[str, int]) -> Any:
    """The statuses, which are filters."""
    return Nav(
        *[
            A(
                word,
                Span(f" {counts.get(name, 0) if name else sum(counts.values()):,}", cls="n"),
                href=url("/messages", status=name),
                aria_current="true" if name == status else None,
            )
            for name, word in FILTERS.items()
        ],
        aria_label="Filter the messages",
    )


def messages_table(deliveries: Sequence[Delivery]) -> Any:
    return table(LOG_HEAD, [message_row(one) for one in deliveries], cls="messages", aria_label="Messages")


def message_row(one: Delivery) -> Any:
    why = Span(visible(one.error), cls="soft") if one.error else ""
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
        Div(H2("Webhooks"), Small("What is sent to each is signed with a secret of its own."), cls="head"),
        secret_note(*secret) if secret else "",
        table(WEBHOOKS_HEAD, [webhook_row(one) for one in webhooks], cls="messages", aria_label="Webhooks"),
        P("None yet: one stands here from its first message on, or when you make its secret.", cls="empty"),
        Form(
            Label("Address ", Input(type="url", name="url", required=True, placeholder="https://…")),
            Button("Make its secret", type="submit"),
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
        f"The secret of {in_words(shortly(to))}: ",
        Code(secret, id="secret"),
        " It is shown this once: copy it to the receiver now.",
        cls="note",
        role="status",
    )


def webhook_row(one: Webhook) -> Any:
    both = one.retired_at > time_of.now()
    known: tuple[Any, ...] = ("shown ", day(one.shown_at)) if one.shown_at else ("nobody has seen it yet",)
    word = "Rotate" if one.shown_at else "Show it"
    return Tr(
        Td(visible(shortly(one.url)), cls="to", title=in_words(one.url)),
        Td(*known, *((Span("; the one before is valid until ", day(one.retired_at)),) if both else ())),
        Td(
            Form(
                Button(word, type="submit", cls="link", aria_label=f"{word}: {in_words(shortly(one.url))}"),
                action=url(f"/webhooks/{one.id}/rotate"),
                method="post",
                data_ask="The secret before this one is valid no more from then on. Do it?" if both else None,
            )
            if may("start")
            else "",
            cls="num act",
        ),
    )


def usual_receivers(rules: Iterable[Notify]) -> list[Receiver]:
    """Those whom task and server tell, for a form."""
    return [Receiver(rule.channel, rule.to, rule.on, trusted=True) for rule in rules]
