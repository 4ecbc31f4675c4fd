"""A job's head as HTML: title, numbers, how it is run and what keeps it, and its buttons.

What a status allows is in the table ACTIONS; here it gets its word and its form.
"""

import contextlib
from typing import Any

from fastcore.xml import H1, A, Code, Div, Dl, P, Small, Span
from fasthtml.components import Progress

from rowcast.pages.forms import action_form
from rowcast.pages.skeleton import kept, may, may_move, to_html, url
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
from rowcast.tasks.languages import ENGLISH, Words, language, mark, tr, trn, written
from rowcast.tasks.records import ACTIONS, Job, JobNow, Swept, decode
from rowcast.tasks.registry import REGISTRY, Task
from rowcast.tasks.sentences import translated

# Retry comes and goes, so it stands first: the buttons are set from the right, the others keep their places.
ACTS = Words({"pause": mark("Pause"), "resume": mark("Resume"), "cancel": mark("Cancel")})
BUTTONS = ("retry", "settle", "pause", "resume", "cancel")


def offered(job: Job, action: str) -> str:
    """The word on an action's button; '' where the job's status or its items leave nothing to do."""
    if job.status not in ACTIONS[action].leaves:
        return ""
    if action == "settle":
        return tr("Mark unknown as done ({unknown:,})", unknown=job.unknown) if job.unknown else ""
    if action != "retry":
        return ACTS[action]
    ended_early = job.status == "cancelled" or (job.status == "failed" and job.shape == "body")
    rest = job.failed + job.unknown + (job.cancelled if ended_early else 0)
    if ended_early or (job.ended and not job.filled):
        unknown = tr(", of them {unknown:,} unknown", unknown=job.unknown) if job.unknown else ""
        if rest:
            return tr("Run the rest ({rest:,}{unknown})", rest=rest, unknown=unknown)
        return "" if job.filled else tr("Run the rest")
    if not rest:
        return ""
    if job.failed and job.unknown:
        return tr("Retry failed and unknown ({rest:,})", rest=rest)
    return (
        tr("Retry failed ({rest:,})", rest=rest) if job.failed else tr("Retry unknown ({rest:,})", rest=rest)
    )


def job_actions(job: Job) -> Any:
    """The buttons of the job as it stands. Pause and Resume are one form: it keeps the focus."""
    moves = may_move(job.owner)
    words = tuple((name, word) for name in BUTTONS if moves and (word := offered(job, name)))
    again = job.ended and moves
    with_values = again and job.task in REGISTRY and REGISTRY[job.task].entry == job.entry
    of = ("acts", job.id, words, job.unknown, job.idempotent, job.ended, again, with_values)
    return kept(of, lambda: acts(job, words, again, with_values))


def acts(job: Job, words: tuple[tuple[str, str], ...], again: bool, with_values: bool) -> Any:
    idents = {"pause": "act-hold", "resume": "act-hold"}
    shown = [
        action_form(job, name, word, "danger" if name == "cancel" else "", idents.get(name, f"act-{name}"))
        for name, word in words
    ]
    if again:
        shown.append(action_form(job, "again", tr("Run again"), "", "act-again"))
    if with_values:
        other = url(f"/jobs/{job.id}/again")
        shown.append(A(tr("With other values"), href=other, cls="button", id="act-other-values"))
    if job.ended:
        shown.append(A(tr("Results"), href=url(f"/jobs/{job.id}/results"), cls="button", id="act-results"))
    return Div(*shown, cls="acts", id="acts")


def job_title(job: Job) -> str:
    """The page's title: how far, or how it ended."""
    name = f"{job.task} #{job.id} · Rowcast"
    if not job.ended:
        return f"{percent(job)} % · {name}" if job.status == "running" else f"{WORDS[job.status]} · {name}"
    if job.status == "completed":
        if job.failed:
            return tr("✗ {failed:,} failed · {name}", failed=job.failed, name=name)
        return (
            tr("? {unknown:,} unknown · {name}", unknown=job.unknown, name=name)
            if job.unknown
            else f"✓ {name}"
        )
    return f"{WORDS[job.status]} · {name}"


def job_head(now: JobNow) -> tuple[Any, ...]:
    """What stands above the rows; it is sent again with every frame."""
    job = now.job
    look = look_of(job)
    task = REGISTRY.get(job.task)
    what = (job.id, job.task, task and task.entry, job.owner, job.args, job.dry_run)
    whence = (job.started_at, job.created_at, job.again_job, job.again_item, job.after_job)
    return (
        kept(("titles", *what, *whence, job.status, look, word_of(job)), lambda: titles(job, look)),
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


def titles(job: Job, look: str) -> Any:
    """What the job is, and whose."""
    return Div(
        H1(A(job.task, href=url(f"/tasks/{job.task}")), id="job-title", tabindex="-1"),
        Span(word_of(job), cls=f"chip k-{look}", data_status=job.status, id="job-status"),
        Span(tr("Dry run"), cls="chip k-paused", id="dry-run") if job.dry_run else "",
        preview_link(job),
        Small(
            tr("#{id} · by {owner} · ", id=job.id, owner=job.owner),
            tr("started ") if job.started_at else tr("created "),
            clock(job.started_at or job.created_at),
        ),
        came_from(job),
        follows(job),
        arguments_text(job),
        cls="titles",
    )


def preview_link(job: Job) -> Any:
    """From a dry run of a task that sends mails to the mails, as they would be seen."""
    task = REGISTRY.get(job.task)
    if not (job.dry_run and task and task.mails):
        return ""
    return A(tr("See the mails"), href=url(f"/jobs/{job.id}/preview"), id="preview-link")


def job_facts(job: Job) -> list[Any]:
    """The numbers of a job: how much, how fast, how long."""
    facts = [
        fact(
            to_html(
                written(f"{done_of(job):,}"),
                Small(tr(" of {total:,}", total=job.total), "" if job.filled else "…"),
            ),
            tr("done"),
        ),
        fact(written(f"{job.failed:,}"), tr("failed"), "s-failed" if job.failed else ""),
    ]
    if job.unknown:
        facts.append(fact(written(f"{job.unknown:,}"), tr("unknown"), "s-unknown"))
    if job.cancelled:
        facts.append(fact(written(f"{job.cancelled:,}"), tr("cancelled")))
    if not job.ended:
        facts.append(fact(written(f"{job.running:,}"), tr("running"), "s-running" if job.running else ""))
    facts.append(fact(rate_text(job), tr("on average") if job.ended else tr("now")))
    facts.append(fact(stopwatch(job), tr("took") if job.ended else tr("elapsed")))
    if not job.ended:
        facts.append(fact(span_text(*job.eta_range) if job.eta_range else "–", tr("left")))
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
    return ", ".join(f"{k}={in_short(v)}" for k, v in args.items())


def in_short(value: Any) -> Any:
    return tr("{number:,} given", number=len(value)) if isinstance(value, list) else value


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
        text = (tr("It starts "), clock(job.run_at), ", ", countdown(job.run_at), ".")
        return P(*text, cls="note", id="note")
    if held.until:
        what = tr("Sending goes on") if held.cause == "retry_after" else tr("The next comes")
        until = (f" {what} ", countdown(held.until), ".")
    amber = held.cause in WAITS_FOR_PEOPLE or job.status == "paused"
    note = P(visible(translated(held.sentence)), *until, cls="note" if amber else "note quiet", id="note")
    if held.cause != "retry_after" or not may_move(job.owner):
        return note
    return Div(note, action_form(job, "resume", tr("Resume now"), "", "act-lift"), cls="row", id="hold")


def note_of(job: Job) -> Any:
    """What there is to know of a job that has ended, in amber, or how one is run that nothing holds."""
    text: tuple[Any, ...] = ()
    if job.reason:
        text = (visible(translated(job.reason)),)
    elif job.ended and not job.total:
        text = (tr("There was nothing to do: the task found no items."),)
    elif job.ended and job.dry_run:
        text = (tr("A dry run: the rows show what would have been sent. Nothing was sent."),)
    if text or job.ended:
        return P(*text, cls="note", id="note") if text else P(id="note", hidden=True)
    return P(how_it_runs(job), cls="note quiet", id="note")


def ends_line(job: Job) -> Any:
    """When it is done, from and to, or why nobody can say; and what it has done to the other jobs."""
    lines = []
    if job.eta_range and not job.ended:
        low, high = job.eta_range
        span = tr(" (in {span}).", span=span_text(low, high))
        since = this_moment() + low // 60 * 60 if high >= 120 else 0.0
        between = (tr("Done between "), minute(since), tr(" and "), minute(this_moment() + high + 59), span)
        lines.append(
            P(
                *(between if since else (tr("Done in {span}.", span=span_text(low, high)),)),
                cls="soft",
                id="ends",
            )
        )
    elif job.eta_why and not job.ended:
        why = job.eta_why  # which begins a sentence: a noun of another language stays as it is
        why = f"{why[:1].lower()}{why[1:]}" if language() == ENGLISH else why
        lines.append(P(tr("When it is done nobody can say: {why}", why=why), cls="soft", id="ends"))
    if job.stalled:
        lines.append(
            P(visible(stall_sentence(job.task, job.stalled, job.stalled_in)), cls="note", id="stalled")
        )
    return Div(*lines, id="outlook")


def sweep_line(swept: Swept | None) -> Any:
    """How far a retry, or a settle, of many items is: they move chunk by chunk."""
    if swept is None:
        return Div(id="sweep", hidden=True)
    what = tr("queued again") if swept.enters == "queued" else tr("marked as done")
    said = tr("{done:,} of {total:,} items are {what} so far.", done=swept.done, total=swept.total, what=what)
    part = f"{100 * swept.done / max(swept.total, 1):.1f}"
    return Div(Progress(max="100", value=part, aria_label=said), P(said, cls="soft"), id="sweep")


def how_it_runs(job: Job) -> str:
    """How a job that has not ended is run, in one sentence."""
    if job.dry_run:
        return trn(
            "A dry run: what would be sent for the first item, and nothing is sent.",
            "A dry run: what would be sent for the first {number:,} items, and nothing is sent.",
            job.dry_run,
        )
    if job.shape == "body":
        return tr("Called once; the steps it reports are the rows.")
    tries = REGISTRY[job.task].max_attempts if job.task in REGISTRY else 1
    auto = (
        tr(", found of {least:,} to {concurrency:,}", least=job.least, concurrency=job.concurrency)
        if job.least
        else ""
    )
    parts = [tr("{places:,} at a time{auto}", places=job.places, auto=auto)]
    parts += [tr("at most {pace:,g} a second", pace=job.pace)] if job.pace else []
    parts += [tr("up to {tries} tries each", tries=tries)] if tries > 1 else []
    return f"{', '.join(parts)}."


def came_from(job: Job) -> Any:
    """The job that this one runs once more, or the item of it."""
    if not job.again_job:
        return ""
    if job.again_item:
        item = url(f"/jobs/{job.again_job}/items/{job.again_item}")
        return Small(A(tr("with other values"), href=item))
    return Small(
        A(tr("again, from job #{again_job}", again_job=job.again_job), href=url(f"/jobs/{job.again_job}"))
    )


def follows(job: Job) -> Any:
    """The job that this one follows, in its head."""
    return (
        Small(A(tr("after job #{after_job}", after_job=job.after_job), href=url(f"/jobs/{job.after_job}")))
        if job.after_job
        else ""
    )


def then_line(now: JobNow) -> Any:
    """What starts when the job has ended, and the way to one more."""
    links = [
        A(f"#{follower} ", visible(task), href=url(f"/jobs/{follower}")) for follower, task in now.followers
    ]
    more: Any = ""
    if may("start") and not now.job.ended:
        more = A(tr("Then start …"), href=url(f"/jobs/{now.job.id}/then"))
    if not links and not more:
        return P(id="then", hidden=True)
    said = [part for link in links for part in (link, " · ")] if links else []
    return P(tr("Then: ") if links else "", *said, more, cls="soft", id="then")


def summary(job: Job) -> str:
    """The job in one spoken sentence."""
    amiss = tr(", {failed:,} failed", failed=job.failed) if job.failed else ""
    amiss += tr(", {unknown:,} unknown", unknown=job.unknown) if job.unknown else ""
    return f"{WORDS[job.status]}: {progress_text(job)}{amiss}."
