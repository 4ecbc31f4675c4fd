"""The pages: whole documents, made of components. A page knows where its live updates come from, and nothing of requests.

No inline style or script: the Content-Security-Policy allows neither. What the page does beyond htmx is in static/app.js.
"""

from typing import Any
from urllib.parse import urlencode

from fasthtml.components import (
    H1,
    H2,
    A,
    Button,
    Dd,
    Div,
    Dl,
    Dt,
    Form,
    Input,
    Label,
    Li,
    Option,
    P,
    Section,
    Select,
    Small,
    Table,
    Tbody,
    Td,
    Th,
    Thead,
    Tr,
    Ul,
)  # fmt: skip

from rowcast.pages.job import arguments_code
from rowcast.pages.values import cell, clock, day, status_icon
from rowcast.tasks.records import (
    ITEM_STATUSES,
    Imported,
    Item,
    Job,
    Schedule,
    WorkerRow,
)
from rowcast.tasks.records import User as User
from rowcast.tasks.registry import Task


def not_complete(job: Job) -> Any:
    return P(
        f"The job is {job.status}: {job.done:,} of {job.total:,} items have ended so far, and these results are not "
        "complete. ",
        A("Load them again", href=""),
        cls="note",
    )


def by_status(job: Job) -> Any:
    counts = {s: getattr(job, s) for s in ITEM_STATUSES}
    return Dl(*[Div(Dt(status_icon(s)), Dd(f"{n:,}", cls="num")) for s, n in counts.items() if n], cls="pairs")


def files(url: str) -> Any:
    """The results as files, for spreadsheets and for programs."""
    names = ("results.csv", "results.ndjson")
    return P(*[A(name, href=f"{url}/{name}", cls="button", download=True) for name in names], cls="row pad")


def results_table(items: list[Item]) -> Any:
    return Table(
        Thead(
            Tr(Th("Item", cls="key"), Th("Status", cls="is"), Th("Code", cls="num code"), Th("Result or error", cls="why"))
        ),
        Tbody(
            *[
                Tr(
                    Td(i.key, cls="key"),
                    Td(status_icon(i.status), cls="is"),
                    Td(str(i.code or ""), cls="num code"),
                    Td(i.error or (i.result or "")[:300], cls="why"),
                )
                for i in items
            ],
        ),
        cls="items whole",
        aria_label="Results",
    )


def find_user(base: str, text: str) -> Any:
    return Form(
        Input(type="search", name="q", value=text, placeholder="Find an address", aria_label="Find users"),
        Button("Find", type="submit"),
        action=f"{base}/users",
        method="get",
        role="search",
        cls="row",
    )


def import_form(base: str) -> Any:
    return Form(
        Label("Add from CSV", _for="file"),
        Input(type="file", name="file", id="file", accept=".csv,text/csv", required=True),
        Button("Import", type="submit"),
        action=f"{base}/users",
        method="post",
        enctype="multipart/form-data",
        cls="row",
    )


def imported_note(done: Imported) -> Any:
    """What came of a CSV: the good, and every bad line with its number and reason (the first hundred are shown)."""
    return Div(
        P(done.sentence),
        Ul(*[Li(f"Line {number}: {why}.") for number, why in done.refused[:100]]) if done.refused else "",
        cls="note",
        role="status",
    )


def _query(**values: Any) -> str:
    return urlencode({k: v for k, v in values.items() if v})


COLUMNS = (("Worker", "name"), ("Host", "host"), ("Engine", "engine"), ("Version", "version"), ("In flight", "num"),
           ("Done", "num"), ("Last sign of life", ""))  # fmt: skip
LOOK = 2  # seconds between two looks of an open page


def workers_body(base: str, workers: list[WorkerRow]) -> tuple[Any, ...]:
    """All workers, the dead last and grey; the table asks for itself again."""
    return (
        H1("Workers"),
        Div(
            Section(
                Table(
                    Thead(Tr(*[Th(word, cls=cls) for word, cls in COLUMNS])),
                    Tbody(*[worker_row(worker) for worker in workers]),
                    cls="workers",
                ),
                P("No worker has been heard of. The queue's workers are started by its own command: see docs/deploy.md.",
                  cls="empty"),
                cls="card",
                aria_label="All workers",
            ),
            id="workers",
            hx_get=f"{base}/workers",
            hx_trigger=f"every {LOOK}s",
            hx_select="#workers",
            hx_swap="outerHTML",
        ),
    )  # fmt: skip


def worker_row(worker: WorkerRow) -> Any:
    return Tr(
        cell(worker.name, "key"),
        cell(worker.host, "host"),
        Td(worker.engine, cls="engine"),
        Td(worker.version, cls="version"),
        Td(f"{worker.in_flight:,}", cls="num"),
        Td(f"{worker.done:,}", cls="num"),
        Td(status_icon("running" if worker.in_flight else "completed", "Working" if worker.in_flight else "Ready")
           if worker.alive else status_icon("cancelled", "Gone"), " ", Small(clock(worker.seen_at))),
        id=f"worker-{worker.name}",
        data_alive="yes" if worker.alive else "no",
        cls="" if worker.alive else "gone",
    )  # fmt: skip


EVERY_DAY = "0 6 * * *"


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
        Td(status_icon("paused") if schedule.paused else day(int(schedule.next_at))),
        Td(A(f"#{schedule.last_job}", href=f"{base}/jobs/{schedule.last_job}") if schedule.last_job else ""),
        Td(Div(*buttons, cls="row")),
        id=f"schedule-{schedule.id}",
    )
