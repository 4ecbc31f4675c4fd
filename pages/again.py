"""Again: a job is started once more with other values, from a form that has the old ones."""

from collections.abc import Sequence
from typing import Any

from fasthtml.components import H1, A, Div, Section, Small

from rowcast.pages.forms import once_field, start_form
from rowcast.pages.shell import page
from rowcast.pages.skeleton import below, url
from rowcast.tasks.languages import tr
from rowcast.tasks.notify import Receiver, Usual
from rowcast.tasks.records import Job
from rowcast.tasks.registry import Task


@below
def again_page(
    old: Job, task: Task, users: int, usual: Usual = Usual(), told: Sequence[Receiver] | None = None
) -> Any:
    """The form of a job's task, filled with what the job was started with. `told`: who was told of it, for
    who may know."""
    secret = any(argument.is_secret for argument in task.arguments)
    return page(
        tr("{name} with other values · Rowcast", name=task.name),
        Div(
            H1(A(task.name, href=url(f"/tasks/{task.name}")), tr(" with other values")),
            Small(A(tr("Job #{id}", id=old.id), href=url(f"/jobs/{old.id}"))),
            cls="titles",
        ),
        Section(
            Div(
                tr(
                    "The values are those of job #{id}. A start makes a new job, and leaves that one alone.",
                    id=old.id,
                ),
                tr(" Secrets are shown to nobody: type them anew.") if secret else "",
                cls="head soft",
            ),
            start_form(task, users, usual, words=False, old=old, told=told),
            once_field(f"start-{task.name}"),
            cls="card again",
            aria_label=tr("With other values"),
        ),
        here="Jobs",
    )
