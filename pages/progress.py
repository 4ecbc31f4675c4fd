"""Progress: one job in a page of somebody else's, in the words, the font and the colours of that page.

Its parts are drawn anew as the job moves; static/progress.js puts them in place, by their `data-part`.
"""

import re
from collections.abc import Sequence
from typing import Any

from fasthtml.components import Button, Div, Li, Link, Script, Span, Ul
from fasthtml.svg import Rect, Svg

from rowcast.pages.skeleton import url
from rowcast.pages.values import LEAST_WIDTH, WORDS, duration, span_text, visible
from rowcast.tasks.languages import Words, mark, tr, written
from rowcast.tasks.records import Item, Job, ProgressView
from rowcast.tasks.sentences import translated

ENDED = Words({"completed": mark("done"), "failed": mark("failed"), "cancelled": mark("stopped")})
PYTHONS = re.compile(r"^(?:\w+\.)*\w+(?:Error|Exception): ")  # a name that says nothing there
BAD = ("failed", "unknown")


def framed(source: str, *parts: Any) -> Any:
    """The whole of it. `source`: where its stream is; '' where there is nothing to follow."""
    return Div(
        Div(
            *parts,
            cls="rowcast-progress",
            data_source=source or None,
            data_gone=tr("This is not followed any more: reload the page."),
            role="group",
            aria_label=tr("Progress"),
        ),
        Link(rel="stylesheet", href=url("/static/progress.css")),
        Script(src=url("/static/progress.js")),
    )


def progress_parts(
    job: Job, view: ProgressView, rows: Sequence[Item] = (), problems: Sequence[Item] = ()
) -> tuple[Any, ...]:
    """What is drawn anew: counts and how long, the bar, pace and failures, and what has failed."""
    lost = sum(getattr(job, status) for status in BAD)
    return (
        line("now", Span(counts(job, view.noun), cls="r-count"), Span(how_long(job), cls="r-soft")),
        bar(job, view.noun),
        line("pace", Span(pace(job), cls="r-soft"), stop_button(job) if view.stop else "", failures(lost)),
        Ul(*[row(item) for item in rows], data_part="rows", hidden=not rows, cls="r-rows"),
        Ul(*[problem(item) for item in problems], data_part="problems", hidden=not problems),
        Span(said(job, view.noun), data_part="said", data_ended=job.ended, role="status", cls="r-said"),
    )  # fmt: skip


def row(item: Item) -> Any:
    word = WORDS["retrying" if item.retrying else item.status]
    return Li(Span(visible(item.key)), Span(word, cls="r-bad" if item.status in BAD else "r-soft"))


def problem(item: Item) -> Any:
    return Li(Span(visible(item.key)), " ", visible(PYTHONS.sub("", translated(item.error or ""))))


def line(part: str, *content: Any) -> Any:
    return Div(*content, cls="r-line", data_part=part)


def counts(job: Job, noun: str) -> str:
    if not job.total and not job.filled:
        return tr("no {noun} yet", noun=noun)
    total = written(f"{job.total:,}{'' if job.filled else '…'}")
    return tr("{completed:,} of {total} {noun}", completed=job.completed, total=total, noun=noun)


def how_long(job: Job) -> str:
    """What is left of its time, or how it stands."""
    if job.ended:
        how = ENDED[job.status]
        return tr("{how} after {span}", how=how, span=duration(job.elapsed)) if job.started_at else how
    if job.status == "paused":
        return tr("paused")
    if job.eta is not None:
        low, high = job.eta_range or (job.eta, job.eta)
        return tr("{span} left", span=span_text(low, high))
    return tr("waits for its start") if job.status == "queued" else ""


def pace(job: Job) -> str:
    """How fast it goes, in the unit that reads well."""
    if job.ended or job.rate <= 0:
        return ""
    if job.rate >= 1:
        return tr("{rate:,.0f} a second", rate=job.rate)
    if job.rate * 60 >= 1:
        return tr("{rate:,.0f} a minute", rate=job.rate * 60)
    return tr("{rate:,.0f} an hour", rate=job.rate * 3600)


def failures(lost: int) -> Any:
    return Span(tr("{lost:,} failed", lost=lost) if lost else "", cls="r-bad")


def stop_button(job: Job) -> Any:
    """Cancels the job, by script alone: without it the answer would be a page of the dashboard."""
    if job.ended:
        return ""
    return Button(tr("Stop"), type="button", data_post=url(f"/jobs/{job.id}/cancel"), hidden=True)


def bar(job: Job, noun: str) -> Any:
    """The bar: what is done, and what has failed."""
    done, lost = (100 * number / max(job.total, 1) for number in (job.completed, job.done - job.completed))
    lost = max(lost, LEAST_WIDTH) if lost else 0.0
    done = min(done, 100 - lost)
    return Div(
        Svg(
            Rect(x=0, y=0, width=f"{done:.2f}%", height="100%", cls="r-done"),
            Rect(x=f"{done:.2f}%", y=0, width=f"{lost:.2f}%", height="100%", cls="r-lost"),
            aria_hidden="true",
        ),
        role="progressbar",
        aria_valuemin="0",
        aria_valuenow=str(job.done),
        aria_valuemax=str(max(job.total, 1)),
        aria_valuetext=counts(job, noun),
        aria_label=noun.capitalize(),
        data_part="bar",
    )


def said(job: Job, noun: str) -> str:
    """Its end, for who hears the page."""
    if not job.ended:
        return ""
    lost = sum(getattr(job, status) for status in BAD)
    more = tr(", {lost:,} failed", lost=lost) if lost else ""
    return f"{ENDED[job.status].capitalize()}: {counts(job, noun)}{more}."
