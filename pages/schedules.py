"""Schedules as HTML: those that there are, how each stands, and the form that adds or edits one."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from fasthtml.components import (
    H2,
    A,
    Br,
    Button,
    Code,
    Details,
    Div,
    Input,
    Label,
    Li,
    Noscript,
    Ol,
    Option,
    P,
    Select,
    Small,
    Span,
    Summary,
    Td,
    Tr,
)

from rowcast.pages.cron import cron_text
from rowcast.pages.forms import AT_ONCE, field, rate_of, with_value
from rowcast.pages.job import arguments_code
from rowcast.pages.messages import tell_fields, usual_receivers
from rowcast.pages.skeleton import may, post_form, table, url
from rowcast.pages.values import WORDS, day, in_words, status_icon, visible
from rowcast.tasks.arguments import Argument
from rowcast.tasks.languages import mark, tr
from rowcast.tasks.masking import MASK
from rowcast.tasks.notify import Usual, chosen
from rowcast.tasks.records import Options, decode
from rowcast.tasks.registry import Task
from rowcast.tasks.schedules import LastJob, Schedule
from rowcast.tasks.sentences import translated

HEAD = {mark("Schedule"): "", mark("When"): "", mark("Next start"): "", mark("Last runs"): "", "": ""}
EVERY_DAY = "0 6 * * *"


def called(schedule: Schedule) -> str:
    return schedule.name or schedule.task


def schedule_form(tasks: list[Task], task: Task, usual: Usual) -> Any:
    """A task with its arguments and options, and when it is to start; another task brings its own fields."""
    picker, show = task_picker(url("/schedules"), tasks, task)
    return post_form(
        url("/schedules"),
        H2(tr("Start a task by the clock")),
        Div(labelled(tr("Task"), picker), Noscript(show), *times("", EVERY_DAY, "UTC"), cls="fields"),
        Div(*task_fields(task, task.arguments, Options(), usual), id="s-fields", cls="aligned"),
        Button(tr("Add"), type="submit", cls="primary"),
    )


def task_picker(here: str, tasks: list[Task], task: Task) -> tuple[Any, Any]:
    """The tasks to choose from, of which each brings its own fields, and the button for that without script.

    `here`: the address of the page, which knows `?task=`.
    """
    picker = Select(
        *[Option(one.name, value=one.name, selected=one is task) for one in tasks],
        name="task",
        id="s-task",
        hx_get=here,
        hx_trigger="change",
        hx_target="#s-fields",
        hx_select="#s-fields",
        hx_swap="outerHTML",
    )
    return picker, Button(
        tr("Show its fields"), type="submit", formmethod="get", formaction=here, formnovalidate=True
    )


def edit_form(schedule: Schedule, task: Task, usual: Usual) -> Any:
    """All that is said of a schedule, to be said anew."""
    given = decode(schedule.args)
    filled = [with_mask(one, given) for one in task.arguments]
    return post_form(
        url(f"/schedules/{schedule.id}/edit"),
        Input(type="hidden", name="task", value=task.name),
        Div(*times(schedule.name, schedule.cron, schedule.zone), cls="fields"),
        Div(*task_fields(task, filled, schedule.how, usual), id="s-fields", cls="aligned"),
        Button(tr("Change"), type="submit", cls="primary"),
    )


def with_mask(argument: Argument, given: dict[str, Any]) -> Argument:
    """An argument whose field shows what was given for it; of a secret that there is one."""
    if argument.is_secret and given.get(argument.name) is not None:
        return replace(argument, default=MASK)
    return with_value(argument, given)


def times(name: str, cron: str, zone: str) -> tuple[Any, ...]:
    return (
        labelled(tr("Name"), text("name", name, placeholder=tr("as its task"))),
        labelled(tr("Cron"), text("cron", cron, required=True, title=tr("minute hour day month weekday"))),
        labelled(tr("Time zone"), text("zone", zone, required=True)),
    )


def task_fields(task: Task, arguments: Iterable[Argument], how: Options, usual: Usual) -> tuple[Any, ...]:
    """What its jobs are started with, how they are run, and who is told."""
    named = list(chosen((), Usual(), how.notify)) if how.notify is not None else None
    return (
        Div(*[field(task, argument) for argument in arguments], cls="fields"),
        Details(
            Summary(tr("Options")),
            Div(*[labelled(word, shown) for word, shown in option_fields(task, how)], cls="fields"),
            open=how.concurrency is not None or how.pace is not None or bool(how.tags) or None,
        ),
        tell_fields(
            "s-notify",
            usual_receivers((*task.notify, *usual.unless_said)) if named is None else named,
            usual_receivers(usual.always),
        ),
    )


def option_fields(task: Task, how: Options) -> list[tuple[str, Any]]:
    """The options that a schedule's jobs may have, with what is said of them."""
    at_once = {"placeholder": str(task.concurrency), "title": tr(AT_ONCE)}
    first = {"type": "number", "min": "-10", "max": "10", "placeholder": "0"}
    found = [
        (tr("At once"), option("concurrency", str(how.concurrency or ""), **at_once)),
        (tr("At most"), option("rate", rate_of(how.pace), placeholder=rate_of(task.pace) or "100/s")),
        (tr("Priority"), option("priority", str(how.priority or ""), **first)),
        (tr("Tags"), option("tags", " ".join(how.tags), placeholder=tr("crm, november"))),
    ]
    if task.shape == "items":
        hint = {
            "placeholder": task.stop_after or tr("5% or 20"),
            "title": tr("A share, or failures in a row"),
        }
        found.append((tr("Stop after"), option("stop_after", how.stop_after or "", **hint)))
    return found


def option(name: str, value: str, **extra: Any) -> Any:
    return Input(name=f"option-{name}", id=f"s-{name}", value=value, **({"type": "text"} | extra))


def labelled(word: str, shown: Any) -> Any:
    return Div(Label(word, _for=shown.id), shown, cls="field")


def text(name: str, value: str, **extra: Any) -> Any:
    return Input(type="text", name=name, id=f"s-{name}", value=value, **extra)


def schedules_table(schedules: list[Schedule], alone: bool = False) -> Any:
    """`alone`: on the page of the one schedule."""
    return table(HEAD, [schedule_row(schedule, alone) for schedule in schedules], cls="plans")


def schedule_row(schedule: Schedule, alone: bool = False) -> Any:
    name = visible(called(schedule))
    linked = A(name, href=url(f"/schedules/{schedule.id}")) if may("start") and not alone else name
    by_name = Small(f" {schedule.task}") if schedule.name else ""
    return Tr(
        Td(linked, by_name, " ", arguments_code(schedule.args), *trouble_of(schedule)),
        Td(*times_of(schedule)),
        Td(status_icon("paused") if schedule.paused else next_starts(schedule, alone)),
        Td(*[last_job(job) for job in schedule.last_jobs]),
        Td(Div(*buttons(schedule), cls="row")),
        id=f"schedule-{schedule.id}",
    )


def times_of(schedule: Schedule) -> tuple[Any, ...]:
    """In words, and as it was written."""
    words = cron_text(schedule.cron)
    return (words, Br() if words else "", Small(Code(schedule.cron), f" {schedule.zone}"))


def trouble_of(schedule: Schedule) -> tuple[Any, ...]:
    """Why it did not start at its last moment, and what keeps it now."""
    if not schedule.sentence:
        return ()
    when = (tr("Not started "), day(schedule.missed_at), ": ") if schedule.missed_at else ()
    job = schedule.waits_for
    more = ""
    if schedule.trouble and job:
        more = tr(" Job {id} is paused still.", id=job.id)
    return (P(*when, visible(translated(schedule.sentence)), more, cls="note", role="status"),)


def next_starts(schedule: Schedule, alone: bool = False) -> Any:
    """When it starts next, and the four times after that."""
    first, *others = schedule.moments or [schedule.next_at]
    if not others:
        return day(first)
    then = Ol(*[Li(day(at)) for at in others])
    return Details(Summary(day(first)), then, open=alone or None, cls="then")


def last_job(job: LastJob) -> Any:
    look = job.status
    if job.status == "completed" and (job.failed or job.unknown):
        look = "failed" if job.failed else "unknown"
    said = tr(", {failed:,} failed", failed=job.failed) if job.failed else ""
    title = (
        f"{WORDS[job.status].lower()}{said}{f': {in_words(translated(job.reason))}' if job.reason else ''}"
    )
    return A(
        status_icon(look, f"#{job.id}"),
        Span(f" {title}", cls="sr"),
        href=url(f"/jobs/{job.id}"),
        title=title,
    )


def buttons(schedule: Schedule) -> list[Any]:
    turn = "resume" if schedule.paused else "pause"
    words = {
        "run": tr("Run now"),
        turn: tr("Resume") if schedule.paused else tr("Pause"),
        "delete": tr("Delete"),
    }
    if not may("act"):
        return []
    return [
        post_form(
            url(f"/schedules/{schedule.id}/{action}"),
            Button(word, type="submit", cls="link"),
            data_ask=tr("Delete this schedule? It cannot be taken back.") if action == "delete" else None,
        )
        for action, word in words.items()
    ]
