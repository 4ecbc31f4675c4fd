"""One item as HTML: its tries to scale, with the waits between them, what it was given and gave back, what it
has said, and what can be done about it. It stands beside the rows, and on a phone in their place.
"""

import json
from http import HTTPStatus
from typing import Any

from fasthtml.components import (
    H2,
    H3,
    A,
    Button,
    Details,
    Div,
    Dl,
    Input,
    Label,
    Li,
    Ol,
    P,
    Pre,
    Section,
    Small,
    Span,
    Summary,
    Textarea,
)
from fasthtml.svg import Rect, Svg

from rowcast.pages.forms import TO_SETTLE
from rowcast.pages.skeleton import may, may_move, post_form, url
from rowcast.pages.values import WORDS, countdown, duration, fact, in_words, moment, status_icon, visible
from rowcast.tasks import clock
from rowcast.tasks.languages import tr, trn, written
from rowcast.tasks.masking import MASK
from rowcast.tasks.records import ACTIONS, Job, View, decode
from rowcast.tasks.registry import REGISTRY
from rowcast.tasks.sentences import translated
from rowcast.tasks.tries import ItemNow, TryRow

SCALE = 440  # units of the scale's width
LEAST = 4  # of them that a try gets in any case
SHOWN = 64_000  # letters of a value
LINES = 600  # of the log
# the levels that stand out
LOUD = {"WARNING": "warn", "ERROR": "bad", "CRITICAL": "bad", "stderr": "warn", "note": "note-line"}


def now() -> float:
    """This second: what is drawn of it stays the same for as long, and is not sent again."""
    return float(int(clock.now()))


def item_title(look: ItemNow) -> str:
    return tr(
        "{key} · {task} #{id} · Rowcast", key=in_words(look.item.key), task=look.job.task, id=look.job.id
    )


def item_url(job: int, item: int, view: View) -> str:
    """The page of an item, beside the rows of a view."""
    return url(f"/jobs/{job}/items/{item}?{view.query(item=None)}")


def item_panel(look: ItemNow, view: View) -> tuple[Any, ...]:
    """All that there is to say of an item."""
    return (
        Div(
            H2(visible(look.item.key), id="item-title", tabindex="-1"),
            A(
                tr("Close"),
                href=url(f"/jobs/{look.job.id}?{view.query(item=None)}"),
                cls="close button",
                id="close",
            ),
            cls="titles",
        ),
        P(*item_status(look), cls="row", id="item-status", data_status=look.item.status),
        Section(H3(tr("Tries"), Small(tries_note(look))), *tries_list(look), id="tries"),
        Div(*values_of(look), cls="both"),
        *log_of(look),
        item_foot(look, view),
    )


def item_status(look: ItemNow) -> list[Any]:
    """How it stands, and how long it took of which it was at work."""
    item = look.item
    word = status_icon(item.status)
    if item.retrying:
        word = status_icon("retrying", tr("Again "), countdown(item.run_at))
    elif item.status == "running" and look.tries:
        since = Span(
            duration(max(0.0, now() - look.tries[-1].started_at)), data_since=look.tries[-1].started_at
        )
        return [word, Span(tr("{tries}, for ", tries=tries_text(look)), since, cls="soft")]
    said = [tries_text(look)] if look.tries else []
    spans = [one for one in look.tries if one.ended_at is not None]
    if len(look.tries) > 1 and spans and not item.retrying:
        whole = max(one.ended_at or 0.0 for one in spans) - look.tries[0].started_at
        worked = sum(one.ms or 0.0 for one in spans) / 1000
        said.append(
            tr("{whole} in all, {worked} of it at work", whole=span_text(whole), worked=span_text(worked))
        )
    return [word, Span(" · ".join(said), cls="soft")]


def tries_text(look: ItemNow) -> str:
    """At which try it is; of how many is left out where it had more, by a retry by hand."""
    task = REGISTRY.get(look.job.task)
    number = len(look.tries)
    total = task.max_attempts if task else 1
    if max(number, total) == 1:
        return tr("at the first try")
    most = tr(" of {total}", total=total) if number <= total else ""
    return tr("on try {number}{most}", number=number, most=most)


def tries_note(look: ItemNow) -> str:
    return tr("to scale") if len(look.tries) > 1 else ""


def span_text(seconds: float) -> str:
    """212 ms, 3.4 s, 1:02:03."""
    return written(f"{1000 * seconds:,.0f} ms") if seconds < 1 else duration(seconds)


def tries_list(look: ItemNow) -> list[Any]:
    """The tries, and what was waited for between them."""
    if not look.tries:
        return [P(tr("It has not been tried yet."), cls="soft")]
    rows: list[Any] = []
    before: TryRow | None = None
    for one in look.tries:
        if before:
            rows.append(wait_row(before, one.started_at))
        rows.append(try_row(one))
        before = one
    if look.item.retrying and before:
        rows.append(wait_row(before, None, look.item.run_at))
    return [*scale(look), Ol(*rows, cls="tries")]


def try_row(one: TryRow) -> Any:
    took = "" if one.ms is None else span_text(one.ms / 1000)
    if one.status == "running":
        took = Span(duration(max(0.0, now() - one.started_at)), data_since=f"{one.started_at:.3f}")
    return Li(
        status_icon(one.status, Span(WORDS[one.status], cls="sr")),
        moment(one.started_at),
        Div(Span(visible(try_text(one))), answer_of(one)),
        Span(took, cls="num soft"),
        data_status=one.status,
    )


def try_text(one: TryRow) -> str:
    """What became of a try, in words: its code with its name, and the error."""
    code = f"{one.code} {phrase_of(one.code)}".strip() if one.code else ""
    if not one.error:
        return code or {"running": tr("runs now"), "completed": tr("done")}.get(one.status, WORDS[one.status])
    phrase = phrase_of(one.code)
    error = translated(one.error.removeprefix(f"{phrase}: ") if code else one.error)
    return code if code and error.lower() == phrase.lower() else ": ".join(filter(None, (code, error)))


def phrase_of(code: int | None) -> str:
    """What a code is called (RFC 9110, 15)."""
    try:
        return HTTPStatus(code).phrase if code else ""
    except ValueError:
        return ""


def answer_of(one: TryRow) -> Any:
    """What is kept of an answer that said no, closed until it is wanted."""
    kept = one.excerpt_read
    if kept is None:
        return ""
    told = {
        tr("Request"): kept.request_id,
        "Retry-After": kept.retry_after,
        tr("Type"): kept.content_type,
    }
    facts = [fact(visible(value), name) for name, value in told.items() if value]
    return Details(
        Summary(tr("Its answer")),
        Dl(*facts, cls="told") if facts else "",
        Pre(visible(kept.text), cls="code-box") if kept.text else "",
        cls="answer",
        id=f"answer-{one.attempt}",
    )


def wait_row(before: TryRow, begins: float | None, at: float = 0.0) -> Any:
    """What passed between the end of a try and the next one."""
    kept = before.excerpt_read
    asked = (
        visible(tr(": the API asked for it (Retry-After: {retry_after})", retry_after=kept.retry_after))
        if kept and kept.retry_after
        else ""
    )
    if begins is None:
        return Li(Span(), Span(tr("the next one "), countdown(at), asked), cls="wait")
    if before.ended_at is None:
        return Li(
            Span(),
            Span(tr("taken up again {begins} after it began", begins=span_text(begins - before.started_at))),
            cls="wait",
        )
    return Li(
        Span(),
        Span(tr("waited {span}", span=span_text(max(0.0, begins - before.ended_at))), asked),
        cls="wait",
    )


def scale(look: ItemNow) -> list[Any]:
    """The tries and the waits between them as one bar, to scale."""
    tries = look.tries
    first = tries[0].started_at
    end = look.item.run_at if look.item.retrying else max(one.ended_at or one.started_at for one in tries)
    if tries[-1].status == "running":
        end = max(end, now())
    whole = end - first
    if whole <= 0 or (len(tries) == 1 and not look.item.retrying):
        return []
    parts = [Rect(x=0, y=5, width=SCALE, height=6, cls="w")]
    for one in tries:
        x = min(SCALE * (one.started_at - first) / whole, SCALE - LEAST)
        width = max(SCALE * ((one.ended_at or one.started_at) - one.started_at) / whole, LEAST)
        parts.append(
            Rect(x=f"{x:.1f}", y=1, width=f"{min(width, SCALE - x):.1f}", height=14, cls=f"c-{one.status}")
        )
    words = trn("{number} try in {whole}", "{number} tries in {whole}", len(tries), whole=span_text(whole))
    bar = Svg(*parts, viewBox=f"0 0 {SCALE} 16", preserveAspectRatio="none", role="img", aria_label=words)
    return [Div(bar, cls="scale")]


def values_of(look: ItemNow) -> list[Any]:
    """What the task got, and what it returned."""
    shown = [] if look.given is None else [value_box(tr("Payload"), look.given)]
    result = look.item.result
    if result and result != "null":
        shown.append(value_box(tr("Result"), decode(result)))
    return shown


def value_box(name: str, value: Any) -> Any:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    cut = tr("\n… (cut: it has {number:,} letters)", number=len(text)) if len(text) > SHOWN else ""
    copy = Button(
        tr("Copy"),
        type="button",
        cls="link",
        data_copy=True,
        aria_label=tr("Copy the {name}", name=name.lower()),
    )
    return Section(H3(name, copy), Pre(visible(text[:SHOWN] + cut), cls="code-box"), aria_label=name)


def log_of(look: ItemNow) -> list[Any]:
    """What the tries have said, the newest try last; nothing where they have said nothing."""
    if not look.log:
        return []
    lines = look.log[-LINES:]
    rows: list[Any] = []
    attempt = look.log[0].attempt
    several = any(line.attempt != attempt for line in lines)
    for line in lines:
        if several and (line.attempt != attempt or not rows):
            rows.append(Li(tr("Try {attempt}", attempt=line.attempt), cls="whose"))
        attempt = line.attempt
        rows.append(Li(moment(line.at), Span(visible(line.text)), cls=LOUD.get(line.level), title=line.level))
    cut = tr("the last {LINES:,} of ", LINES=LINES) if len(look.log) > LINES else ""
    number = cut + trn("{number:,} line", "{number:,} lines", len(look.log))
    return [Section(H3(tr("Log"), Small(number)), Ol(*rows, cls="log"), id="log")]


def item_foot(look: ItemNow, view: View) -> Any:
    """Where it stands in its job, what can be done about it, and its neighbours."""
    job = look.job
    item = look.item
    worker = look.tries[-1].worker if look.tries else None
    facts = [tr("Row {position:,} of {total:,}", position=item.position + 1, total=job.total)]
    facts += [tr("Idempotency-Key {job}-{item}", job=job.id, item=item.id)] if job.shape == "items" else []
    facts += [tr("worker {worker}", worker=worker)] if worker else []
    beside = [(tr("← Before"), look.back, "prev"), (tr("After →"), look.next, "next")]
    ways = [
        A(word, href=item_url(job.id, ident, view), cls="button", rel=rel)
        for word, ident, rel in beside
        if ident is not None
    ]
    return Section(
        P(visible(" · ".join(facts)), cls="soft sub"),
        Div(*ways, *item_actions(job, look), cls="row acts"),
        aria_label=tr("What can be done"),
    )


def item_actions(job: Job, look: ItemNow) -> list[Any]:
    """The buttons of an item as it stands."""
    item = look.item
    shown: list[Any] = []
    if not may_move(job.owner):
        return shown
    if look.may_be_edited and may("start"):
        shown.append(edit_form(look))
    if item.status in ("failed", "unknown") and job.status in ACTIONS["retry"].leaves:
        risky = item.status == "unknown" and not job.idempotent
        question = (
            tr("This item may have arrived, and this would send it once more. Do it?") if risky else None
        )
        shown.append(one_button(job, item.id, "retry", tr("Retry"), question))
    if item.status == "unknown" and job.status in ACTIONS["settle"].leaves:
        shown.append(one_button(job, item.id, "settle", tr("Mark as done"), tr(TO_SETTLE)))
    return shown


def edit_form(look: ItemNow) -> Any:
    """What the task got, to be changed and run as a job of its own."""
    text = look.given if isinstance(look.given, str) else json.dumps(look.given, indent=2, ensure_ascii=False)
    ident = "other-values"
    fields = (
        Label(tr("What the task gets"), _for=ident),
        Textarea(
            f"\n{text}", name="payload", id=ident, rows=min(text.count("\n") + 2, 16), spellcheck="false"
        ),
        P(tr("A secret that stays masked is sent as it was."), cls="soft") if MASK in text else "",
        Button(tr("Run this"), type="submit"),
    )
    form = post_form(
        url(f"/jobs/{look.job.id}/items/{look.item.id}/again"),
        *fields,
        hx_sync="drop",
        cls="edit",
        id="run-edited",
    )
    return Details(Summary(tr("Run with other values")), form, id="edit")


def one_button(job: Job, item: int, action: str, word: str, question: str | None = None) -> Any:
    return post_form(
        url(f"/jobs/{job.id}/{action}"),
        Input(type="hidden", name="item", value=str(item)),
        Button(word, type="submit"),
        id=f"one-{action}",
        data_ask=question,
    )
