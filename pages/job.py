"""A job's head as HTML: title, numbers, how it is run and what keeps it, and its buttons.

What a status allows is in the table ACTIONS; here it gets its word and its form.
"""

import contextlib
from typing import Any

from fasthtml.components import H1, A, Code, Div, Dl, P, Progress, Small, Span

from rowcast.pages.forms import action_form
from rowcast.pages.skeleton import may, may_move, url
from rowcast.pages.values import (
    WORDS,
    bar,
    clock,
    countdown,
    done_of,
    fact,
    icon_of,
    look_of,
    minute,
    percent,
    progress_text,
    rate_text,
    span_text,
    stopwatch,
    visible,
    word_of,
)
from rowcast.tasks.clock import now as this_moment
from rowcast.tasks.encoding import as_json, shown
from rowcast.tasks.held import stall_sentence
from rowcast.tasks.records import ACTIONS, Job, JobNow, Swept, decode
from rowcast.tasks.registry import REGISTRY, Task

# Retry comes and goes, so it stands first: the buttons are set from the right, the others keep their places.
BUTTONS = ("retry", "settle", "pause", "resume", "cancel")


def offered(job: Job, action: str) -> str:
    """The word on an action's button; '' where the job's status or its items leave nothing to do."""
    if job.status not in ACTIONS[action].leaves:
        return ""
    if action == "settle":
        return f"Mark unknown as done ({job.unknown:,})" if job.unknown else ""
    if action != "retry":
        return action.capitalize()
    ended_early = job.status == "cancelled" or (job.status == "failed" and job.shape == "body")
    rest = job.failed + job.unknown + (job.cancelled if ended_early else 0)
    if ended_early or (job.ended and not job.filled):
        unknown = f", of them {job.unknown:,} unknown" if job.unknown else ""
        if rest:
            return f"Run the rest ({rest:,}{unknown})"
        return "" if job.filled else "Run the rest"
    kinds = " and ".join(kind for kind in ("failed", "unknown") if getattr(job, kind))
    return f"Retry {kinds} ({rest:,})" if rest else ""


def job_actions(job: Job) -> Any:
    """The buttons of the job as it stands. Pause and Resume are one form: it keeps the focus."""
    idents = {"pause": "act-hold", "resume": "act-hold"}
    shown = [
        action_form(job, name, word, "danger" if name == "cancel" else "", idents.get(name, f"act-{name}"))
        for name in BUTTONS
        if may_move(job.owner) and (word := offered(job, name))
    ]
    if job.ended:
        if may_move(job.owner):
            shown.append(action_form(job, "again", "Run again", "", "act-again"))
            if job.task in REGISTRY and REGISTRY[job.task].entry == job.entry:
                other = url(f"/jobs/{job.id}/again")
                shown.append(A("With other values", href=other, cls="button", id="act-other-values"))
        shown.append(A("Results", href=url(f"/jobs/{job.id}/results"), cls="button", id="act-results"))
    return Div(*shown, cls="acts", id="acts")


def job_title(job: Job) -> str:
    """The page's title: how far, or how it ended."""
    name = f"{job.task} #{job.id} · Rowcast"
    if not job.ended:
        return f"{percent(job)} % · {name}" if job.status == "running" else f"{WORDS[job.status]} · {name}"
    if job.status == "completed":
        if job.failed:
            return f"✗ {job.failed:,} failed · {name}"
        return f"? {job.unknown:,} unknown · {name}" if job.unknown else f"✓ {name}"
    return f"{WORDS[job.status]} · {name}"


def job_head(now: JobNow) -> tuple[Any, ...]:
    """What stands above the rows; it is sent again with every frame."""
    job = now.job
    look = look_of(job)
    return (
        Div(
            H1(A(job.task, href=url(f"/tasks/{job.task}")), id="job-title", tabindex="-1"),
            Span(word_of(job), cls=f"chip k-{look}", data_status=job.status, id="job-status"),
            Span("Dry run", cls="chip k-paused", id="dry-run") if job.dry_run else "",
            preview_link(job),
            Small(
                f"#{job.id} · by {job.owner} · ",
                "started " if job.started_at else "created ",
                clock(job.started_at or job.created_at),
            ),
            came_from(job),
            follows(job),
            arguments_text(job),
            cls="titles",
        ),
        job_actions(job),
        bar(job),
        Dl(*job_facts(job), cls="facts"),
        hold_line(job),
        sweep_line(now.swept),
        ends_line(job),
        then_line(now),
        Span(
            id="summary",
            hidden=True,
            data_text=summary(job),
            data_icon=icon_of(look),
            data_rest=str(job.ended).lower(),
        ),
    )


def preview_link(job: Job) -> Any:
    """From a dry run of a task that sends mails to the mails, as they would be seen."""
    task = REGISTRY.get(job.task)
    if not (job.dry_run and task and task.mails):
        return ""
    return A("See the mails", href=url(f"/jobs/{job.id}/preview"), id="preview-link")


def job_facts(job: Job) -> list[Any]:
    """The numbers of a job: how much, how fast, how long."""
    facts = [
        fact((f"{done_of(job):,}", Small(f" of {job.total:,}{'' if job.filled else '…'}")), "done"),
        fact(f"{job.failed:,}", "failed", "s-failed" if job.failed else ""),
    ]
    if job.unknown:
        facts.append(fact(f"{job.unknown:,}", "unknown", "s-unknown"))
    if job.cancelled:
        facts.append(fact(f"{job.cancelled:,}", "cancelled"))
    if not job.ended:
        facts.append(fact(f"{job.running:,}", "running", "s-running" if job.running else ""))
    facts.append(fact(rate_text(job), "on average" if job.ended else "now"))
    facts.append(fact(stopwatch(job), "took" if job.ended else "elapsed"))
    if not job.ended:
        facts.append(fact(span_text(*job.eta_range) if job.eta_range else "–", "left"))
    return facts


def arguments_text(job: Job) -> Any:
    text = arguments_line(job)
    return Code(visible(text[:200]), cls="args") if text else ""


def arguments_line(job: Job) -> str:
    """The arguments that are not the task's defaults, on one line; of a list, how many were given."""
    usual = usual_arguments(REGISTRY[job.task]) if job.task in REGISTRY else {}
    args = {
        k: v
        for k, v in shown(decode(job.args)).items()
        if v is not None and (k not in usual or v != usual[k])
    }
    return ", ".join(f"{k}={f'{len(v):,} given' if isinstance(v, list) else v}" for k, v in args.items())


def usual_arguments(task: Task) -> dict[str, Any]:
    """The defaults of a task's arguments, as they are shown."""
    usual = {}
    for argument in task.arguments:
        with contextlib.suppress(TypeError):
            usual[argument.name] = None if argument.required else shown(as_json(argument.default))
    return usual


def arguments_code(text: str) -> Any:
    """Arguments given as JSON text, in short."""
    args = {k: v for k, v in shown(decode(text)).items() if v is not None}
    shortly = ", ".join(f"{k}={v}" for k, v in args.items())[:200]
    return Code(visible(shortly), cls="args") if args else ""


# What somebody may want to do something about: in amber. All else that holds a job is how it is run.
WAITS_FOR_PEOPLE = ("paused", "halted", "stop_rule", "disk", "retry_after", "no_worker")


def hold_line(job: Job) -> Any:
    """One sentence above the rows: what holds the job, in amber where it waits, or how it is run.

    A job that has not ended always has one, so that the rows do not jump when it waits and goes on.
    """
    held = job.held_by
    if held is None or job.ended:
        return note_of(job)
    until: tuple[Any, ...] = ()
    if held.cause == "starting" and held.until:
        text = ("It starts ", clock(job.run_at), ", ", countdown(job.run_at), ".")
        return P(*text, cls="note", id="note")
    if held.until:
        what = "Sending goes on" if held.cause == "retry_after" else "The next comes"
        until = (f" {what} ", countdown(held.until), ".")
    amber = held.cause in WAITS_FOR_PEOPLE or job.status == "paused"
    note = P(visible(held.sentence), *until, cls="note" if amber else "note quiet", id="note")
    if held.cause != "retry_after":
        return note
    return Div(note, action_form(job, "resume", "Resume now", "", "act-lift"), cls="row", id="hold")


def note_of(job: Job) -> Any:
    """What there is to know of a job that has ended, in amber, or how one is run that nothing holds."""
    text: tuple[Any, ...] = ()
    if job.reason:
        text = (visible(job.reason),)
    elif job.ended and not job.total:
        text = ("There was nothing to do: the task found no items.",)
    elif job.ended and job.dry_run:
        text = ("A dry run: the rows show what would have been sent. Nothing was sent.",)
    if text or job.ended:
        return P(*text, cls="note", id="note") if text else P(id="note", hidden=True)
    return P(how_it_runs(job), cls="note quiet", id="note")


def ends_line(job: Job) -> Any:
    """When it is done, from and to, or why nobody can say; and what it has done to the other jobs."""
    lines = []
    if job.eta_range and not job.ended:
        low, high = job.eta_range
        span = f" (in {span_text(low, high)})."
        since = this_moment() + low // 60 * 60 if high >= 120 else 0.0
        between = ("Done between ", minute(since), " and ", minute(this_moment() + high + 59), span)
        lines.append(P(*(between if since else (f"Done in {span_text(low, high)}.",)), cls="soft", id="ends"))
    elif job.eta_why and not job.ended:
        why = f"{job.eta_why[:1].lower()}{job.eta_why[1:]}"
        lines.append(P(f"When it is done nobody can say: {why}", cls="soft", id="ends"))
    if job.stalled:
        lines.append(
            P(visible(stall_sentence(job.task, job.stalled, job.stalled_in)), cls="note", id="stalled")
        )
    return Div(*lines, id="outlook")


def sweep_line(swept: Swept | None) -> Any:
    """How far a retry, or a settle, of many items is: they move chunk by chunk."""
    if swept is None:
        return Div(id="sweep", hidden=True)
    what = "queued again" if swept.enters == "queued" else "marked as done"
    said = f"{swept.done:,} of {swept.total:,} items are {what} so far."
    part = f"{100 * swept.done / max(swept.total, 1):.1f}"
    return Div(Progress(max="100", value=part, aria_label=said), P(said, cls="soft"), id="sweep")


def how_it_runs(job: Job) -> str:
    """How a job that has not ended is run, in one sentence."""
    if job.dry_run:
        return f"A dry run: what would be sent for the first {job.dry_run:,} items, and nothing is sent."
    if job.shape == "body":
        return "Called once; the steps it reports are the rows."
    tries = REGISTRY[job.task].max_attempts if job.task in REGISTRY else 1
    auto = f", found of {job.least:,} to {job.concurrency:,}" if job.least else ""
    parts = [f"{job.places:,} at a time{auto}"]
    parts += [f"at most {job.pace:,g} a second"] if job.pace else []
    parts += [f"up to {tries} tries each"] if tries > 1 else []
    return f"{', '.join(parts)}."


def came_from(job: Job) -> Any:
    """The job that this one runs once more, or the item of it."""
    if not job.again_job:
        return ""
    if job.again_item:
        item = url(f"/jobs/{job.again_job}/items/{job.again_item}")
        return Small(A("with other values", href=item))
    return Small(A(f"again, from job #{job.again_job}", href=url(f"/jobs/{job.again_job}")))


def follows(job: Job) -> Any:
    """The job that this one follows, in its head."""
    return (
        Small(A(f"after job #{job.after_job}", href=url(f"/jobs/{job.after_job}"))) if job.after_job else ""
    )


def then_line(now: JobNow) -> Any:
    """What starts when the job has ended, and the way to one more."""
    links = [
        A(f"#{follower} ", visible(task), href=url(f"/jobs/{follower}")) for follower, task in now.followers
    ]
    more: Any = ""
    if may("start") and not now.job.ended:
        more = A("Then start …", href=url(f"/jobs/{now.job.id}/then"))
    if not links and not more:
        return P(id="then", hidden=True)
    said = [part for link in links for part in (link, " · ")] if links else []
    return P("Then: " if links else "", *said, more, cls="soft", id="then")


def summary(job: Job) -> str:
    """The job in one spoken sentence."""
    amiss = "".join(
        f", {number:,} {name}" for name in ("failed", "unknown") if (number := getattr(job, name))
    )
    return f"{WORDS[job.status]}: {progress_text(job)}{amiss}."
