"""A task's page: its words, its form, what starts it by the clock, and its last runs side by side. Was this
one slower than usual?"""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from fasthtml.common import Safe
from fasthtml.components import H1, H2, A, Code, Div, Li, Ol, P, Pre, Section, Small, Span, Td, Tr

from rowcast.pages.charts import line_of
from rowcast.pages.cron import cron_text
from rowcast.pages.forms import docstring, needs_text, once_field, start_form
from rowcast.pages.halts import task_halt
from rowcast.pages.job import arguments_code
from rowcast.pages.picker import as_last_time
from rowcast.pages.shell import page
from rowcast.pages.skeleton import below, may, table, url
from rowcast.pages.values import (
    clock,
    countdown,
    day,
    done_of,
    duration,
    look_of,
    rate_text,
    status_icon,
    visible,
)
from rowcast.tasks.halts import Halt
from rowcast.tasks.held import rate
from rowcast.tasks.languages import mark, tr, trn, written
from rowcast.tasks.notify import Usual
from rowcast.tasks.records import Job
from rowcast.tasks.registry import Task
from rowcast.tasks.schedules import Schedule
from rowcast.tasks.sentences import translated

TALL = 44.0  # height of a row of bars,
FLAT = 26.0  # and of a low one
SLOWER = 1.5  # times as long as usual: it is said


def task_titles(name: str, task: Task | None, held: tuple[float, str]) -> tuple[Any, ...]:
    """The task's name and where it is from, what it says of itself, and how it is run."""
    where = tr("in {entry}", entry=task.entry) if task else tr("not among the tasks of this server")
    first, more = docstring(task) if task else ("", "")
    return (
        Div(
            H1(visible(name)),
            Small(where),
            Small(A(tr("its jobs"), href=url("/", task=name))),
            cls="titles",
        ),
        P(first, cls="does") if first else "",
        Pre(more, cls="soft more") if more else "",
        P(how_run(task), cls="soft", id="how-run") if task else "",
        P(
            tr("Its API has asked for a pause: it goes on "),
            countdown(held[0]),
            ".",
            cls="note",
            title=held[1],
        )
        if held[0]
        else "",
    )


def how_run(task: Task) -> str:
    """The pace and the patience of a task, in one sentence."""
    at_once = tr("As many at a time as its API bears")
    if isinstance(task.concurrency, int):
        at_once = tr("{concurrency:,} at a time", concurrency=task.concurrency)
    parts = [tr("Called once, in steps") if task.shape == "body" else at_once]
    parts += [tr("at most {pace}", pace=rate(task.pace)) if task.pace else tr("as fast as the API answers")]
    parts += [
        tr("up to {tries} tries each", tries=task.max_attempts)
        if task.max_attempts > 1
        else tr("one try each")
    ]
    parts += [tr("{timeout:g} s for each", timeout=task.timeout)] if task.timeout else []
    if task.stop_after:
        kind = tr("failed") if "%" in task.stop_after else tr("failures in a row")
        parts.append(tr("paused after {stop_after} {kind}", stop_after=task.stop_after, kind=kind))
    return f"{', '.join(parts)}."


def task_start(task: Task, users: int, usual: Usual, last: Job | None) -> Any:
    """The task's form."""
    return Section(
        Div(H2(tr("Start a job")), cls="head"),
        start_form(task, users, usual, words=False),
        once_field(f"start-{task.name}"),
        Div(as_last_time(last), cls="again-line") if last else "",
        cls="card",
        aria_label=tr("Start a job"),
    )


def linked(schedule: Schedule) -> Any:
    name = schedule.name or tr("Schedule {id}", id=schedule.id)
    return A(visible(name), href=url(f"/schedules/{schedule.id}")) if may("start") else visible(name)


def task_schedules(schedules: Sequence[Schedule]) -> Any:
    """What starts the task by the clock."""
    rows = [
        Div(
            P(
                linked(schedule),
                " ",
                cron_text(schedule.cron),
                " ",
                Small(Code(schedule.cron), f" {schedule.zone} "),
                status_icon("paused") if schedule.paused else "",
            ),
            P(
                arguments_code(schedule.args),
                "" if schedule.paused else Small(tr(" next "), day(int(schedule.next_at))),
                Small(tr(" last "), A(f"#{schedule.last_job}", href=url(f"/jobs/{schedule.last_job}")))
                if schedule.last_job
                else "",
            ),
            P(visible(translated(schedule.sentence)), cls="s-retrying") if schedule.sentence else "",
            cls="grp",
        )
        for schedule in schedules
    ]
    return Section(
        Div(H2(tr("By the clock")), A(tr("Schedules"), href=url("/schedules")), cls="head"),
        *(rows or [P(tr("Nothing starts it by the clock."), cls="soft pad")]),
        cls="card",
        aria_label=tr("By the clock"),
        id="clocked",
    )


def last_job(job: Job) -> tuple[Any, ...]:
    name = A(f"#{job.id}", href=url(f"/jobs/{job.id}"))
    return (status_icon(look_of(job), name), " ", Small(clock(job.created_at)))


TASKS_HEAD = {
    mark("Task"): "name",
    mark("What it does"): "why",
    mark("Needs"): "needs",
    mark("Last job"): "last",
}


def tasks_table(tasks: Sequence[Task], users: int, last: Mapping[str, Job]) -> Any:
    """All tasks by name, each with what it needs and the job that who asks has started last."""
    rows = []
    for task in sorted(tasks, key=lambda task: task.name):
        job = last.get(task.name)
        rows.append(
            Tr(
                Td(A(task.name, href=url(f"/tasks/{task.name}")), cls="name"),
                Td(docstring(task)[0], cls="why"),
                Td(needs_text(task, users), cls="needs"),
                Td(*last_job(job) if job else "", cls="last"),
                id=f"task-{task.name}",
            )
        )
    return table(TASKS_HEAD, rows, cls="tasks", aria_label=tr("Tasks"))


def last_runs(jobs: Sequence[Job]) -> Any:
    """The task's last runs that have ended, the oldest first: how long each took, how fast, what failed."""
    if not jobs:
        return Section(
            Div(H2(tr("Its last runs")), cls="head"),
            P(tr("None has ended yet. "), A(tr("All jobs"), href=url("/")), cls="soft pad"),
            cls="card",
            aria_label=tr("Its last runs"),
        )
    times = [job.elapsed for job in jobs]
    speeds = [done_of(job) / max(job.elapsed, 0.001) for job in jobs]
    done = sum(job.completed for job in jobs) / max(1, sum(job.total for job in jobs))
    usual = median(times)
    return Section(
        Div(
            H2(trn("Its last run", "Its last {number} runs", len(jobs))),
            Small(tr("median {usual} · {done:.3g} % completed", usual=duration(usual), done=100 * done)),
            cls="row apart head",
        ),
        Div(
            *strip(tr("Took"), jobs, times, TALL, "c-running", lambda job: duration(job.elapsed)),
            *strip(tr("Rate"), jobs, speeds, FLAT, "c-cancelled", rate_text),
            *strip(tr("Failed"), jobs, [job.failed for job in jobs], FLAT, "c-failed", failed_text),
            Span(tr("Job")),
            Ol(*[Li(A(f"#{job.id}", href=url(f"/jobs/{job.id}"))) for job in jobs], aria_label=tr("Job")),
            cls="ten",
        ),
        P(*said_of(jobs, usual), cls="soft pad"),
        cls="card",
        aria_label=tr("Its last runs"),
        id="runs",
    )


def strip(
    name: str,
    jobs: Sequence[Job],
    values: Sequence[float],
    height: float,
    cls: str,
    text: Callable[[Job], str],
) -> tuple[Any, ...]:
    """A row of bars, and below it what they stand for, which is what a screen reader reads."""
    top = max([*values, 1e-9])
    bars = [Li(Safe(bar_svg(value / top, height, cls))) for value in values]
    words = [Li(text(job), cls="last" if job is jobs[-1] else None) for job in jobs]
    flat = "flat" if height < TALL else None
    return Span(name), Ol(*bars, cls=flat, aria_hidden="true"), Span(), Ol(*words, aria_label=name)


def bar_svg(part: float, height: float, cls: str) -> str:
    tall = max(2.0, part * (height - 2)) if part > 0 else 0.0
    return (
        f'<svg viewBox="0 0 40 {height:g}" preserveAspectRatio="none">'
        f'<rect class="{cls}" x="6" y="{height - tall:.1f}" width="28" height="{tall:.1f}"/>'
        f"{line_of(0, height, 40, height, 'base')}</svg>"
    )


def failed_text(job: Job) -> str:
    return written(f"{job.failed:,}") if job.failed else "–"


def said_of(jobs: Sequence[Job], usual: float) -> tuple[Any, ...]:
    """The last run beside the others, in a sentence."""
    last = jobs[-1]
    name = A(f"#{last.id}", href=url(f"/jobs/{last.id}"))
    if len(jobs) < 3:
        return (name, tr(" is the last one; with more of them they can be held against each other."))
    if last.elapsed > SLOWER * usual:
        return (name, tr(" took {elapsed:.1f} times as long as usual.", elapsed=last.elapsed / usual))
    if last.elapsed * SLOWER < usual:
        return (name, tr(" took {usual:.1f} times less than usual.", usual=usual / max(last.elapsed, 0.001)))
    return (name, tr(" took about as long as usual."))


# ---- whole pages ---------------------------------------------------------------------------------------


@below
def tasks_page(tasks: list[Task], users: int, last: Mapping[str, Job]) -> Any:
    """All tasks, each with the way to its page."""
    return page(
        tr("Tasks · Rowcast"),
        H1(tr("Tasks")),
        Section(
            tasks_table(tasks, users, last),
            P(tr("There are no tasks. --tasks MODULE names yours."), cls="empty"),
            cls="card",
            aria_label=tr("All tasks"),
        ),
        here="Tasks",
    )


@below
def task_page(
    name: str,
    task: Task | None,
    runs: list[Job],
    users: int = 0,
    usual: Usual = Usual(),
    last: Job | None = None,
    schedules: Sequence[Schedule] = (),
    held: tuple[float, str] = (0.0, ""),
    halt: Halt | None = None,
) -> Any:
    """A task: what it does, its form, how it is run, what starts it, and its last runs side by side.

    `last`: the job of it that who asks has started last; `held`: until when an API has asked it to pause, and
    why; `halt`: that it is stopped."""
    starts = task is not None and may("start")
    return page(
        tr("{name} · Rowcast", name=name),
        *task_titles(name, task, held),
        task_halt(name, halt) if may("admin") and (task or halt) else "",
        Div(
            task_start(task, users, usual, last) if task and starts else "",
            Div(last_runs(runs), task_schedules(schedules), cls="stack"),
            cls="halves task" if starts else "",
        ),
        here="Tasks",
    )
