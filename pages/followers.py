"""Followers as HTML: the form for what is to start when a job has ended."""

from typing import Any

from fasthtml.components import H2, Button, Div, Input, Noscript, Option, Select

from rowcast.pages.forms import once_field
from rowcast.pages.schedules import labelled, task_fields, task_picker
from rowcast.pages.skeleton import post_form, url
from rowcast.tasks.followers import USUAL, WHEN
from rowcast.tasks.languages import tr
from rowcast.tasks.notify import Usual as Told
from rowcast.tasks.records import Job, Options
from rowcast.tasks.registry import Task


def follower_form(job: Job, tasks: list[Task], task: Task, usual: Told) -> Any:
    """A task with its arguments and options, and how the job must have ended."""
    here = url(f"/jobs/{job.id}/then")
    picker, show = task_picker(here, tasks, task)
    conditions = [Option(tr(words), value=name, selected=name == USUAL) for name, words in WHEN.items()]
    condition = Select(*conditions, name="option-condition", id="s-condition")
    return post_form(
        url("/jobs"),
        H2(tr("Then start")),
        Input(type="hidden", name="option-after", value=str(job.id)),
        Div(labelled(tr("Task"), picker), Noscript(show), labelled(tr("If"), condition), cls="fields"),
        Div(*task_fields(task, task.arguments, Options(), usual), id="s-fields"),
        Button(tr("Then start it"), type="submit", cls="primary"),
        once_field("then-start"),
        id="then-start",
    )
