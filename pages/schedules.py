"""Schedules as HTML: those that there are, and a form for one more."""

from typing import Any

from fasthtml.components import H2, A, Button, Div, Input, Label, Option, Select, Small, Td, Tr

from rowcast.pages.job import arguments_code
from rowcast.pages.skeleton import post_form, table, url
from rowcast.pages.values import day, status_icon
from rowcast.tasks.records import Schedule
from rowcast.tasks.registry import Task

HEAD = {"Task": "", "When": "", "Next start": "", "Last job": "", "": ""}
EVERY_DAY = "0 6 * * *"


def schedule_form(tasks: list[Task]) -> Any:
    """A task that needs no arguments, and when it is to start."""
    ready = [task.name for task in tasks if not any(argument.required for argument in task.arguments)]
    return post_form(
        url("/schedules"),
        H2("Start a task by the clock"),
        Div(
            field("Task", Select(*[Option(name, value=name) for name in ready], name="task", id="s-task")),
            field("Cron", text("cron", EVERY_DAY, title="minute hour day month weekday")),
            field("Time zone", text("zone", "UTC")),
            Button("Add", type="submit", cls="primary"),
            cls="fields",
        ),
    )


def field(word: str, shown: Any) -> Any:
    return Div(Label(word, _for=shown.id), shown, cls="field")


def text(name: str, value: str, title: str | None = None) -> Any:
    return Input(type="text", name=name, id=f"s-{name}", value=value, required=True, title=title)


def schedules_table(schedules: list[Schedule]) -> Any:
    return table(HEAD, [schedule_row(schedule) for schedule in schedules], cls="plans")


def schedule_row(schedule: Schedule) -> Any:
    turn = "resume" if schedule.paused else "pause"
    last = schedule.last_job
    buttons = [
        post_form(
            url(f"/schedules/{schedule.id}/{action}"), Button(action.capitalize(), type="submit", cls="link")
        )
        for action in (turn, "delete")
    ]
    return Tr(
        Td(schedule.task, " ", arguments_code(schedule.args)),
        Td(f"{schedule.cron} ", Small(schedule.zone), cls="key"),
        Td(status_icon("paused") if schedule.paused else day(int(schedule.next_at))),
        Td(A(f"#{last}", href=url(f"/jobs/{last}")) if last else ""),
        Td(Div(*buttons, cls="row")),
        id=f"schedule-{schedule.id}",
    )
