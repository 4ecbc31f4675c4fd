"""The buttons that do something to a job or to an item, as HTML. A part of components.py.

What a status allows is in the table ACTIONS; here it gets its word, its form, and a question where one is due.
"""

from typing import Any

from fasthtml.common import to_xml
from fasthtml.components import A, Button, Div, Form, Input

from rowcast.tasks.records import ACTIONS, Item, Job

# Retry comes and goes, so it stands first: the buttons are set from the right, and the others keep their places.
ORDER = ("retry", "settle", "pause", "resume", "cancel")

RETRY_ONE = "retry-one"  # the form that the rows' buttons belong to


def action_form(base: str, job: Job, action: str, word: str, cls: str = "", ident: str = "", **fields: Any) -> Any:
    """A button that posts an action; it works without script, and with it the page stays where it is.

    Where a retry would do again what may not be repeated and may have been done, a person is asked first.
    """
    url = f"{base}/jobs/{job.id}/{action}"
    extra: dict[str, Any] = {"id": ident} if ident else {}
    if action == "retry" and job.unknown and not job.idempotent and "group" not in fields:
        extra["hx_confirm"] = f"{job.unknown:,} of these items may have arrived, and this would send them once more. Do it?"
    return Form(
        *[Input(type="hidden", name=name, value=str(value)) for name, value in fields.items()],
        Button(word, type="submit", cls=cls),
        method="post",
        action=url,
        hx_post=url,
        hx_swap="none",
        **extra,
    )


def offered(job: Job, action: str) -> str:
    """The word on an action's button; '' where the job's status (by ACTIONS) or its items leave it nothing to do."""
    if job.status not in ACTIONS[action].leaves:
        return ""
    if action == "settle":
        return f"Mark unknown as done ({job.unknown:,})" if job.unknown else ""
    if action != "retry":
        return action.capitalize()
    ended_early = job.status == "cancelled" or (job.status == "failed" and job.shape == "body")
    rest = job.failed + job.unknown + (job.cancelled if ended_early else 0)
    if ended_early or (job.terminal and not job.filled):
        unknown = f", of them {job.unknown:,} unknown" if job.unknown else ""
        return f"Run the rest ({rest:,}{unknown})" if rest else "Run the rest" if not job.filled else ""
    kinds = " and ".join(kind for kind in ("failed", "unknown") if getattr(job, kind))
    return f"Retry {kinds} ({rest:,})" if rest else ""


def job_actions(base: str, job: Job) -> Any:
    """The buttons that do something to the job as it stands. Pause and Resume are one form, which so keeps the focus."""
    idents = {"pause": "act-hold", "resume": "act-hold"}
    shown = [
        action_form(base, job, name, word, "danger" if name == "cancel" else "", idents.get(name, f"act-{name}"))
        for name in ORDER
        if (word := offered(job, name))
    ]
    if job.terminal:
        shown.append(action_form(base, job, "again", "Run again", "", "act-again"))
        shown.append(A("Results", href=f"{base}/jobs/{job.id}/results", cls="button", id="act-results"))
    return Div(*shown, cls="acts", id="acts")


def retry_button(item: Item) -> str:
    """Another try for one item; it belongs to the page's form `retry-one`."""
    if item.status not in ("failed", "unknown"):
        return ""
    return to_xml(Button("Retry", type="submit", name="item", value=str(item.id), form=RETRY_ONE, cls="link",
                         aria_label=f"Retry {item.key}"), indent=False)  # fmt: skip
