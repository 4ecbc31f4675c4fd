"""News on every page: that a job has ended, or waits for a person.

A toast says it, and the browser where its user wants that; static/news.js makes both of what is told here.
"""

from typing import Any

from fasthtml.components import A, Button, Div, Input, Label, P, Span, Template

from rowcast.pages.skeleton import to_html, url
from rowcast.pages.values import in_words, look_of, status_icon
from rowcast.tasks.languages import in_each_language, tr
from rowcast.tasks.records import Job
from rowcast.tasks.sentences import translated

LOOKS = ("completed", "failed", "cancelled", "paused")
LONGEST = 200  # letters of a reason


def news_of(job: Job) -> dict[str, Any]:
    """What a page is told of a job that has ended, or waits; `key` is of this end alone."""
    return {
        "key": f"{job.id}-{job.news}",
        "job": job.id,
        "look": look_of(job),
        "title": f"{job.task} #{job.id}",
        "text": outcome(job),
        "url": url(f"/jobs/{job.id}"),
    }


def outcome(job: Job) -> str:
    """What came of a job, in a sentence."""
    kinds = [tr("{failed:,} failed", failed=job.failed)] if job.failed else []
    kinds += [tr("{unknown:,} unknown", unknown=job.unknown)] if job.unknown else []
    counts = ", ".join(
        [tr("{completed:,} of {total:,} done", completed=job.completed, total=job.total), *kinds]
    )
    reason = in_words(translated(job.reason)[:LONGEST]) or f"{counts}."
    if job.status == "paused":
        return tr("Waits for you: {reason}", reason=reason)
    if job.status == "failed":
        return tr("Failed: {reason}", reason=reason)
    if job.status == "cancelled":
        return tr("Cancelled: {counts}.", counts=counts)
    return tr("Ended: {counts}.", counts=counts) if job.total else tr("Ended: there was nothing to do.")


@in_each_language(9)
def toasts() -> str:
    """Where toasts stand, and what one is made of."""
    one = Div(
        *[status_icon(look, "") for look in LOOKS],
        P(A(), " ", Span()),
        Button("✕", type="button", aria_label=tr("Close")),
        cls="toast",
    )
    return to_html(Div(id="toasts", role="status", aria_live="polite"), Template(one, id="toast"))


def tell_box(job: int = 0) -> Any:
    """Whether this browser tells when a job is done: this one, or the one that a form will start (0). Without
    script there is nothing to choose.
    """
    return Div(
        Label(Input(type="checkbox", data_tell=str(job)), tr(" Tell me on this computer"), cls="check"),
        Label(
            Input(type="checkbox", data_push=str(job)),
            tr(" also when no page of Rowcast is open"),
            cls="check",
            hidden=True,
        ),
        P(cls="soft", role="status"),
        cls="tell-here",
        hidden=True,
    )


def tell_alone(job: Job) -> Any:
    """The same for who may look at a job and not say whom else it tells."""
    return tell_box(job.id)
