"""Halts as HTML: what is stopped, and the buttons that stop it and let it go on."""

from collections.abc import Iterable
from typing import Any

from fasthtml.components import (
    H1,
    H2,
    Button,
    Details,
    Div,
    Input,
    Label,
    Option,
    P,
    Section,
    Select,
    Small,
    Span,
    Summary,
)

from rowcast.pages.shell import page
from rowcast.pages.skeleton import below, post_form, url
from rowcast.pages.values import day, visible
from rowcast.tasks.halts import Halt
from rowcast.tasks.languages import tr
from rowcast.tasks.sentences import translated


def halt_row(halt: Halt) -> Any:
    """What is stopped, since when, and the button that ends that."""
    return post_form(
        url("/halts/lift"),
        Div(P(visible(translated(halt.sentence))), Small(tr("since "), day(halt.at)), cls="grow"),
        Input(type="hidden", name="task", value=halt.task),
        Button(tr("Let it go on"), type="submit", cls="primary"),
        cls="say",
    )


def task_halt(task: str, halt: Halt | None) -> Any:
    """On a task's page, for who may: stop it, and say why, or let it go on. That it is stopped, by whom and
    why, stands above every page."""
    named = Input(type="hidden", name="task", value=task), Input(type="hidden", name="at-task", value="1")
    if halt:
        return post_form(
            url("/halts/lift"),
            Span(tr("Stopped since "), day(halt.at)),
            *named,
            Button(tr("Let it go on"), type="submit", cls="primary"),
            cls="row",
            id="task-halt",
        )
    why = {"type": "text", "name": "reason", "maxlength": "300", "placeholder": tr("for the others")}
    stop = post_form(
        url("/halts"),
        *named,
        Label(tr("Why "), Input(**why)),
        Button(tr("Stop it"), type="submit", cls="danger"),
        Small(tr("What runs ends, and nothing new of it starts until it is let go on.")),
        cls="row",
    )
    return Details(Summary(tr("Stop this task")), stop, id="task-halt")


def halt_form(tasks: Iterable[str]) -> Any:
    """One task, or all."""
    return post_form(
        url("/halts"),
        H2(tr("Stop")),
        Div(
            Div(
                Label(tr("What"), _for="h-task"),
                Select(
                    Option(tr("everything"), value=""),
                    *[Option(name, value=name) for name in tasks],
                    name="task",
                    id="h-task",
                ),
                cls="field",
            ),
            Div(
                Label(tr("Why"), _for="h-reason"),
                Input(
                    type="text",
                    name="reason",
                    id="h-reason",
                    maxlength="300",
                    placeholder=tr("for the others"),
                ),
                cls="field",
            ),
            Button(tr("Stop it"), type="submit", cls="danger"),
            cls="fields",
        ),
        P(tr("What runs ends, and nothing new starts until it is let go on. Nothing is lost."), cls="soft"),
    )


@below
def halts_page(halts: list[Halt], tasks: list[str]) -> Any:
    """What is stopped, and what may be."""
    return page(
        tr("Stopped · Rowcast"),
        H1(tr("Stopped")),
        Section(
            *[halt_row(halt) for halt in halts],
            "" if halts else P(tr("Nothing is stopped."), cls="soft pad"),
            cls="card",
            aria_label=tr("What is stopped"),
        ),
        Section(halt_form(tasks), cls="card start", aria_label=tr("Stop something")),
    )
