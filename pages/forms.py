"""Forms: a task's start made from its signature, how a job is to be run, its pace while it runs, and schedules."""

from typing import Any

from fasthtml.components import (
    H1,
    H2,
    A,
    Button,
    Details,
    Div,
    Form,
    Input,
    Label,
    Option,
    P,
    Pre,
    Section,
    Select,
    Small,
    Summary,
    Table,
    Tbody,
    Td,
    Textarea,
    Th,
    Thead,
    Tr,
)  # fmt: skip

from rowcast.components import arguments_code
from rowcast.pages.values import day, status_mark
from rowcast.tables.schedules import Schedule
from rowcast.tasks.records import Job, encode
from rowcast.tasks.registry import Argument, Task

EVERY_DAY = "0 6 * * *"


def start_form(base: str, task: Task, users: int) -> Any:
    """A task as a form made from its signature: types, defaults, and the docstring as help."""
    help, _, more = task.help.partition("\n\n")
    return Form(
        Div(H2(task.name), users_note(base, users) if task.item == "user" else "", cls="row apart"),
        P(help, cls="soft"),
        Details(Summary("More"), Pre(more)) if more else "",
        Input(type="hidden", name="task", value=task.name),
        Div(
            *[field(task, argument) for argument in task.arguments],
            Button("Start", type="submit", cls="primary"),
            cls="fields",
        ),
        options(task),
        P(cls="error", role="alert"),
        method="post",
        action=f"{base}/jobs",
        hx_post=f"{base}/jobs",
        hx_swap="none",
        hx_sync="drop",
        cls="card start",
        aria_label=f"Start {task.name}",
    )


def users_note(base: str, users: int) -> Any:
    """How many users a task would run over."""
    if users:
        return Small(f"{users:,} users")
    return Small("No users yet: ", A("add some", href=f"{base}/users"))


def field(task: Task, argument: Argument) -> Any:
    """One argument of a task as a labelled field."""
    name, ident = argument.name, f"{task.name}-{argument.name}"
    kind, default = argument.plain_type, None if argument.required else argument.default
    common = {"name": name, "id": ident, **({"required": True} if argument.required else {})}
    shown: Any
    if argument.choices:
        shown = Select(*[Option(str(c), value=str(c), selected=c == default) for c in argument.choices], **common)
    elif kind is bool:
        return Label(
            Input(type="hidden", name=name, value="false"),
            Input(type="checkbox", name=name, id=ident, value="true", checked=bool(default)),
            f" {label_of(name)}",
            cls="check",
        )
    elif kind in (int, float):
        shown = Input(type="number", step="any" if kind is float else "1", value="" if default is None else str(default),
                      placeholder="all" if default is None and name == "limit" else "", **common)  # fmt: skip
    elif kind is str:
        shown = Input(type="text", value=str(default or ""), **common)
    else:
        text = "" if default is None else encode(default).decode()
        shown = Textarea(text, rows=3, placeholder="one per line, or JSON", **common)
    return Div(Label(label_of(name), _for=ident), shown, cls="field wide" if kind not in (int, float) else "field")


def label_of(name: str) -> str:
    return name.replace("_", " ").capitalize()


def options(task: Task) -> Any:
    """How this one job is to be run, where it differs from its task: closed until it is wanted."""
    fields = [
        option(task, "concurrency", "At once", str(task.concurrency), type="number", min="1", max="1000"),
        option(task, "rate", "At most", rate_of(task.pace) or "100/s"),
        option(task, "run_at", "Start in", "90s, or a time", title="Seconds, or a time like 2026-12-31T06:00Z"),
    ]
    if task.shape == "items":
        fields += [
            option(task, "stop_after", "Stop after", task.stop_after or "5% or 20", title="A share, or failures in a row"),
            option(task, "canary", "Canary", "5", type="number", min="1", title="Run so many, then wait for a go"),
            option(task, "dry_run", "Dry run", "5", type="number", min="1", title="Show what would be sent, send nothing"),
        ]
    return Details(Summary("Options"), Div(*fields, cls="fields"))


def option(task: Task, name: str, label: str, hint: str, **extra: Any) -> Any:
    ident = f"{task.name}-option-{name}"
    shown = Input(name=f"option-{name}", id=ident, placeholder=hint, **({"type": "text"} | extra))
    return Div(Label(label, _for=ident), shown, cls="field")


def rate_of(pace: float | None) -> str:
    return f"{pace:g}/s" if pace else ""


def pace_form(base: str, job: Job) -> Any:
    """The pace of a job, to be changed while it runs."""
    if job.terminal or job.shape == "body":
        return ""
    url = f"{base}/jobs/{job.id}/tune"
    return Details(
        Summary("Pace"),
        Form(
            Label("At once ", Input(type="number", name="concurrency", value=str(job.concurrency), min="1", max="1000",
                                    id="tune-concurrency")),
            Label("at most ", Input(type="text", name="rate", value=rate_of(job.pace), placeholder="no limit",
                                    id="tune-rate", size="8")),
            Button("Change", type="submit"),
            P(cls="error", role="alert"),
            method="post",
            action=url,
            hx_post=url,
            hx_swap="none",
            cls="row",
        ),
        id="pace",
    )  # fmt: skip


def schedules_body(base: str, schedules: list[Schedule], tasks: list[Task]) -> tuple[Any, ...]:
    """All schedules, the next to start first, and a form for one more."""
    return (
        H1("Schedules"),
        Section(schedule_form(base, tasks), cls="card start", aria_label="Add a schedule"),
        Section(
            Table(
                Thead(Tr(Th("Task"), Th("When"), Th("Next start"), Th("Last job"), Th(""))),
                Tbody(*[schedule_row(base, s) for s in schedules]),
                cls="plans",
            ),
            P(
                "Nothing is scheduled. Add a task above, and it starts by the clock, every day at six for example.",
                cls="empty",
            ),
            cls="card",
            aria_label="All schedules",
        ),
    )


def schedule_form(base: str, tasks: list[Task]) -> Any:
    ready = [task for task in tasks if not any(argument.required for argument in task.arguments)]
    return Form(
        H2("Start a task by the clock"),
        Div(
            Div(Label("Task", _for="s-task"),
                Select(*[Option(t.name, value=t.name) for t in ready], name="task", id="s-task"), cls="field"),
            Div(Label("Cron", _for="s-cron"), Input(type="text", name="cron", id="s-cron", value=EVERY_DAY, required=True,
                                                    title="minute hour day month weekday"), cls="field"),
            Div(Label("Time zone", _for="s-zone"), Input(type="text", name="zone", id="s-zone", value="UTC", required=True),
                cls="field"),
            Button("Add", type="submit", cls="primary"),
            cls="fields",
        ),
        P(cls="error", role="alert"),
        method="post",
        action=f"{base}/schedules",
        hx_post=f"{base}/schedules",
        hx_swap="none",
    )  # fmt: skip


def schedule_row(base: str, schedule: Schedule) -> Any:
    url = f"{base}/schedules/{schedule.id}"
    turn = "resume" if schedule.paused else "pause"
    buttons = [
        Form(Button(word, type="submit", cls="link"), method="post", action=f"{url}/{action}", hx_post=f"{url}/{action}",
             hx_swap="none")
        for action, word in ((turn, turn.capitalize()), ("delete", "Delete"))
    ]  # fmt: skip
    return Tr(
        Td(schedule.task, " ", arguments_code(schedule.args)),
        Td(f"{schedule.cron} ", Small(schedule.zone), cls="key"),
        Td(status_mark("paused") if schedule.paused else day(int(schedule.next_at))),
        Td(A(f"#{schedule.last_job}", href=f"{base}/jobs/{schedule.last_job}") if schedule.last_job else ""),
        Td(Div(*buttons, cls="row")),
        id=f"schedule-{schedule.id}",
    )
