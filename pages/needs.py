"""What needs a person, as HTML: above the list of jobs, each a sentence with what can be done about it."""

from typing import Any

from fasthtml.components import H2, A, Details, Div, Li, Small, Span, Strong, Summary, Ul

from rowcast.pages.forms import action_form
from rowcast.pages.job import offered
from rowcast.pages.messages import lost_sentence
from rowcast.pages.skeleton import may_move, url
from rowcast.pages.values import clock, in_words, status_icon
from rowcast.tasks.languages import tr, trn
from rowcast.tasks.needs import Needs
from rowcast.tasks.records import Job
from rowcast.tasks.sentences import translated

SHOWN = 3  # needs that stand there; more are folded
LONGEST = 240  # letters of a reason


def needs_part(needs: Needs) -> list[Any]:
    """All that waits for a person; nothing where nothing does."""
    rows = [need_row(job) for job in needs.jobs]
    if needs.lost or needs.failing:
        rows.insert(0, lost_row(needs))
    if not rows:
        return []
    more = rows[SHOWN:]
    return [
        Div(
            H2(tr("Needs a person "), Small(str(len(rows)))),
            Small(tr("Everything else goes on by itself.")),
            cls="head",
        ),
        Ul(*rows[:SHOWN]),
        Details(Summary(tr("{number} more", number=len(more))), Ul(*more), id="more-needs") if more else "",
    ]


def need_row(job: Job) -> Any:
    """One job that waits, why, and what can be done."""
    is_paused = job.status == "paused"
    look = "paused" if is_paused else "unknown"
    return Li(
        status_icon(look, ""),
        Div(
            A(Strong(job.task), f" #{job.id}", href=url(f"/jobs/{job.id}")),
            Span(f" {sentence_of(job)} "),
            Small(clock(job.finished_at)) if job.finished_at else "",
            cls="said",
        ),
        Div(*need_buttons(job, is_paused), cls="acts"),
        id=f"need-{job.id}",
        cls="need",
    )


def sentence_of(job: Job) -> str:
    if job.status == "paused":
        return tr("has paused itself: {reason}", reason=in_words(translated(job.reason)[:LONGEST]))
    return trn(
        "{number:,} item is unknown: it may have arrived, or not.",
        "{number:,} items are unknown: they may have arrived, or not.",
        job.unknown,
    )


def need_buttons(job: Job, is_paused: bool) -> list[Any]:
    """To look at what is in question, and to decide."""
    view = "unknown"
    if is_paused:
        view = "failed" if job.failed else "completed"
    number = getattr(job, view)
    word = trn("Look at it", "Look at the {number:,}", number)
    shown = [A(word, href=url(f"/jobs/{job.id}", view=view), cls="button")] if number else []
    if may_move(job.owner):
        action = "resume" if is_paused else "settle"
        if word := offered(job, action):
            shown.append(action_form(job, action, word, ident=f"need-{action}-{job.id}"))
    return shown


def lost_row(needs: Needs) -> Any:
    """Messages that did not arrive."""
    return Li(
        status_icon("failed", ""),
        Div(Span(lost_sentence(needs.failing, needs.lost)), cls="said"),
        Div(A(tr("See the messages"), href=url("/messages", status="failed"), cls="button"), cls="acts"),
        id="failing",
        cls="need",
    )
