"""The list of jobs as HTML: its filters with their counts, its rows, and what can be done to all of it.

A filter is an address. What comes from users is passed as text and escaped.
"""

from collections.abc import Iterable
from html import escape
from typing import Any

from fasthtml.common import Safe
from fasthtml.components import (
    A,
    Button,
    Div,
    Form,
    Input,
    Nav,
    Option,
    P,
    Progress,
    Select,
    Small,
    Span,
    Th,
    Tr,
)

from rowcast.pages.hotkeys import hotkey
from rowcast.pages.job import arguments_line, summary
from rowcast.pages.skeleton import ASKS, table, to_html, url
from rowcast.pages.values import (
    LEAST_WIDTH,
    WORDS,
    as_html,
    bar,
    done_of,
    in_words,
    look_of,
    rate_text,
    span_text,
    stopwatch,
    text_icon,
    visible,
    word_of,
)
from rowcast.tasks.accounts import LOCAL
from rowcast.tasks.filters import ACTIVE_JOBS, MOVES, BulkRow, Counted, Filter, order_of
from rowcast.tasks.languages import Words, mark, tr, trn, written
from rowcast.tasks.records import JOBS_PAGE, RETRYING, WITH_FAILURES, Job, decode, iso
from rowcast.tasks.registry import Task
from rowcast.tasks.sentences import translated

HEAD = {
    mark("Job"): "name",
    mark("Status"): "is",
    mark("Progress"): "wide",
    mark("Done"): "num done",
    mark("Failed"): "num fails",
    mark("Rate"): "num rate",
    mark("Started"): "num when",
    mark("Took"): "num took",
}
# The filters by status, with their words; those that are seldom are shown where there are such jobs.
BY_STATUS = Words(
    {
        "": mark("All"),
        ACTIVE_JOBS: mark("Active"),
        "queued": WORDS["queued"],
        "running": WORDS["running"],
        "paused": WORDS["paused"],
        RETRYING: mark("Retrying"),
        "completed": WORDS["completed"],
        WITH_FAILURES: mark("With failures"),
        "failed": WORDS["failed"],
        "cancelled": WORDS["cancelled"],
    }
)
SELDOM = ("queued", RETRYING)
SINCE = Words(
    {
        "": mark("Any time"),
        "1h": mark("Last hour"),
        "24h": mark("Last day"),
        "7d": mark("Last week"),
        "30d": mark("Last month"),
    }
)
BULK = {  # of each act on many jobs its word, the class of its button, and what is said of the jobs then
    "pause": (mark("Pause"), "", mark("paused")),
    "resume": (mark("Resume"), "", mark("resumed")),
    "retry": (mark("Retry"), "", mark("retried")),
    "cancel": (mark("Cancel"), "danger", mark("cancelled")),
    "delete": (mark("Delete"), "danger", mark("deleted")),
}
DO_IT = Words(  # and of the button that does it
    {
        "pause": mark("Pause {jobs}"),
        "resume": mark("Resume {jobs}"),
        "retry": mark("Retry {jobs}"),
        "cancel": mark("Cancel {jobs}"),
        "delete": mark("Delete {jobs}"),
    }
)
MEANT = Words(
    {
        "q": mark("with the words {value}"),
        "task": mark("of {value}"),
        "tag": mark("with the tag {value}"),
        "since": mark("since {value}"),
        "until": mark("until {value}"),
        "failures": mark("with failures: {value}"),
    }
)
FIRST = 9 * MOVES  # the order of what stands before all jobs
ARGUMENTS_SHOWN = 80  # letters of a job's arguments in its row
TAGS_SHOWN = 4
NO_JOBS = Words(
    {
        "failed": mark(
            "No job has failed: one whose items fail goes to its end, and is listed under With failures. "
        ),
        WITH_FAILURES: mark("No job has failed items. "),
        RETRYING: mark("No job has an item that waits for another try. "),
    }
)


def list_url(wanted: Filter, **more: Any) -> str:
    return url("/", **wanted.values, **more)


def jobs_filter(wanted: Filter, counted: Counted, tasks: Iterable[Task]) -> Any:
    """What the list shows: by status, by words, by task, by time, by tag."""
    return Div(
        Nav(*by_job_status(wanted, counted), id="jobs-filter", aria_label=tr("Filter the jobs")),
        find_form(wanted, [task.name for task in tasks]),
        cls="tabs jobs-tabs",
    )


def by_job_status(wanted: Filter, counted: Counted) -> list[Any]:
    """The filters by status, each with how many jobs it has."""
    return [
        A(
            word,
            Span(written(f" {counted.jobs[name]:,}"), cls="n") if name in counted.jobs else "",
            href=list_url(wanted.but(status=name)),
            id=f"jobs-{name or 'all'}",
            aria_current="true" if name == wanted.status else None,
            data_none=counted.jobs.get(name, 1) == 0 and name not in ("", wanted.status),
        )
        for name, word in BY_STATUS.items()
        if name not in SELDOM or counted.jobs.get(name) or name == wanted.status
    ]


def find_form(wanted: Filter, names: Iterable[str]) -> Any:
    """Words, task and time; what else the filter says goes with them."""
    since = SINCE.copy()
    if wanted.since not in since:
        since[wanted.since] = tr("Since {since}", since=wanted.since)
    tasks = sorted({*names, *filter(None, [wanted.task])})
    kept = wanted.but(q="", task="", since="").values
    return Form(
        *[Input(type="hidden", name=name, value=value) for name, value in kept.items()],
        tag_chip(wanted),
        Input(
            type="search",
            name="q",
            value=wanted.q,
            placeholder=tr("Find in names, arguments, tags …"),
            aria_label=tr("Find jobs by words of their name, arguments, tags, reason or owner"),
            id="find",
            autocomplete="off",
            data_hotkey=hotkey("find"),
        ),
        Select(
            Option(tr("All tasks"), value=""),
            *[Option(name, value=name, selected=name == wanted.task) for name in tasks],
            name="task",
            id="find-task",
            aria_label=tr("Of which task"),
        ),
        Select(
            *[Option(word, value=name, selected=name == wanted.since) for name, word in since.items()],
            name="since",
            id="find-since",
            aria_label=tr("Since when"),
        ),
        Button(tr("Find"), type="submit"),
        A(tr("Clear"), href=url("/"), id="find-clear") if not wanted.but(status="").is_all else "",
        action=url("/"),
        method="get",
        role="search",
        cls="find-jobs",
    )


def bulk_bar(wanted: Filter) -> Any:
    """What can be done to all that the filter has; how many that is, is said before it is done."""
    return Form(
        *[Input(type="hidden", name=name, value=value) for name, value in wanted.values.items()],
        Span(tr("All of these:") if not wanted.is_all else tr("All jobs:"), id="bulk-of"),
        *[
            Button(tr(word), " …", type="submit", name="action", value=action, cls=cls)
            for action, (word, cls, _) in BULK.items()
        ],
        action=url("/jobs/act"),
        method="post",
        cls="bulk",
        id="bulk",
        aria_labelledby="bulk-of",
    )


def bulk_question(action: str, wanted: Filter, matched: int, changed: int) -> tuple[Any, ...]:
    """How many jobs an act is for, and the button that does it."""
    _, cls, past = BULK[action]
    past = tr(past)
    back = A(tr("Back to the list"), href=list_url(wanted), cls="button")
    if not changed:
        return (
            P(tr("Of {matched}, none can be {past}.", matched=jobs_text(matched), past=past)),
            P(back, cls="row"),
        )
    left = matched - changed
    rest = (
        trn(" The other one stays as it is.", " The other {number:,} stay as they are.", left) if left else ""
    )
    return (
        P(
            tr(
                "{changed} of {matched:,} will be {past}.{rest}",
                changed=jobs_text(changed),
                matched=matched,
                past=past,
                rest=rest,
            ),
            id="bulk-number",
        ),
        Form(
            *[Input(type="hidden", name=name, value=value) for name, value in wanted.values.items()],
            Input(type="hidden", name="action", value=action),
            Button(
                DO_IT[action].format(jobs=jobs_text(changed)),
                type="submit",
                name="sure",
                value="1",
                cls=cls or "primary",
            ),
            back,
            action=url("/jobs/act"),
            method="post",
            cls="row",
        ),
    )


def bulk_done(action: str, wanted: Filter, matched: int, changed: int) -> tuple[Any, ...]:
    """What came of it."""
    past = tr(BULK[action][2])
    said = trn(
        "{number:,} job of {matched:,} was {past}.",
        "{number:,} jobs of {matched:,} were {past}.",
        changed,
        matched=matched,
        past=past,
    )
    return (
        P(said, role="status"),
        P(A(tr("Back to the list"), href=list_url(wanted), cls="button"), cls="row"),
    )


def bulk_progress(bulk: BulkRow, wanted: Filter) -> tuple[Any, ...]:
    """How far an act on many jobs is; while it goes on the page asks again by itself."""
    past = tr(BULK[bulk.action][2])
    part = 100 * bulk.done / max(bulk.total, 1)
    if bulk.finished_at is not None:
        said = trn(
            "{number:,} job of {matched:,} was {past}.",
            "{number:,} jobs of {matched:,} were {past}.",
            bulk.done,
            matched=bulk.found,
            past=past,
        )
        part = 100.0
    else:
        said = trn(
            "{number:,} of {total} is {past} so far.",
            "{number:,} of {total} are {past} so far.",
            bulk.done,
            total=jobs_text(bulk.total),
            past=past,
        )
    again = {"hx_get": url(f"/bulks/{bulk.id}"), "hx_trigger": "every 1s", "hx_target": "#bulk-act",
        "hx_select": "#bulk-act", "hx_swap": "outerHTML"}  # fmt: skip
    return (
        Progress(max="100", value=f"{part:.1f}", aria_label=said, id="bulk-bar"),
        P(said, role="status", id="bulk-number"),
        P(A(tr("Back to the list"), href=list_url(wanted), cls="button"), cls="row"),
        "" if bulk.finished_at is not None else Div(**again),
    )


def bulk_title(action: str) -> str:
    return tr(BULK[action][0])


def what_is_meant(wanted: Filter) -> str:
    """The filter in words."""
    parts = [MEANT[name].format(value=value) for name, value in wanted.values.items() if name in MEANT]
    return ", ".join([tr("{status} jobs", status=BY_STATUS.get(wanted.status, tr("All"))), *parts])


def jobs_text(number: int) -> str:
    return trn("{number:,} job", "{number:,} jobs", number)


def tag_chip(wanted: Filter) -> Any:
    """The tag that is looked for, and the way out of it."""
    if not wanted.tag:
        return ""
    return A(
        visible(wanted.tag),
        " ×",
        href=list_url(wanted.but(tag="")),
        cls="tag",
        aria_label=tr("Not only those with the tag {tag}", tag=in_words(wanted.tag)),
    )


def tag_links(tags: list[str]) -> list[Any]:
    """Each tag leads to the jobs that bear it."""
    return [
        A(visible(tag), href=url("/", tag=tag), cls="tag", title=tr("Jobs with this tag")) for tag in tags
    ]


def job_row(job: Job, by_end: bool = True) -> Any:
    """One job in the list; below its name what it is told from other runs of its task by.

    Written as text: a frame has up to fifty, ten times a second.
    """
    number = f" #{job.id}" + (tr(" dry run") if job.dry_run else "")
    of_all = tr(" of {total:,}", total=job.total)
    word = tr("failed") if job.failed else ""
    said = f' data-said="{escape(word)}"' if word else ""
    over = ' class="over"' if job.finished_at else ""
    at = iso(job.started_at or job.created_at) or ""
    took = to_html(stopwatch(job)) if job.started_at else ""
    return Safe(
        f'<tr id="job-{job.id}" data-status="{job.status}" data-order="{order_of(job, by_end)}"{over}>'
        f'<td class="name"><a href="{url(f"/jobs/{job.id}")}">{as_html(job.task)}</a>'
        f"<small>{escape(number)}</small>{told_apart(job)}</td>"
        f'<td class="is">{text_icon(look_of(job), word_of(job))}{held_text(job)}</td>'
        f'<td class="wide">{bar(job, "bar small", 3 * LEAST_WIDTH)}{left_text(job)}</td>'
        f'<td class="num done">{written(f"{done_of(job):,}")}<small>{escape(of_all)}</small></td>'
        f'<td class="num fails s-failed"{said}>{written(f"{job.failed:,}") if job.failed else ""}</td>'
        f'<td class="num rate">{escape(rate_text(job)) if job.started_at else ""}</td>'
        f'<td class="num when"><time datetime="{at}">{at[11:19]} UTC</time></td>'
        f'<td class="num took">{took}</td></tr>'
    )


def of_now(job: Job) -> tuple[str, ...]:
    """What a row says that becomes otherwise by itself, while nothing changes in its job."""
    return (rate_text(job), left_text(job), job.held_by.sentence if job.held_by else "")


def held_text(job: Job) -> str:
    """What holds a job that has not ended, below its status."""
    return "" if job.held_by is None or job.finished_at else second_line(translated(job.held_by.sentence))


def left_text(job: Job) -> str:
    """In how long it is done, below its bar."""
    if not job.eta_range or job.finished_at:
        return ""
    left = tr("{span} left", span=span_text(*job.eta_range))
    return f'<div class="apart-by">{escape(left)}</div>'


def second_line(text: str) -> str:
    return f'<div class="apart-by" title="{escape(in_words(text))}">{as_html(text)}</div>'


def group_row(name: str, word: str, more: str, order: int) -> Any:
    """The head of a part of the list, before its rows by their order; app.css hides one that has none."""
    return Tr(
        Th(word, Small(f" {more}"), scope="rowgroup", colspan=str(len(HEAD))),
        id=f"part-{name}",
        data_order=str(order),
        cls="part",
    )


def told_apart(job: Job) -> str:
    """Tags, arguments, and the owner: for who sees the jobs of all in any case, so that what is drawn for one
    of them is good for all."""
    tags = decode(job.tags)
    asks = ASKS.get()
    text = arguments_line(job)
    text = text if len(text) <= ARGUMENTS_SHOWN else f"{text[:ARGUMENTS_SHOWN]} …"
    if asks and (job.owner != asks.name or (asks.sees_all and asks != LOCAL)):
        text = f"{text} · {job.owner}" if text else job.owner
    if not tags and not text:
        return ""
    words = f'<span title="{escape(in_words(text))}">{as_html(text)}</span>'
    return f'<div class="apart-by">{to_html(*tag_links(tags[:TAGS_SHOWN]))}{words}</div>'


def earlier_jobs(last: int, wanted: Filter) -> Any:
    """The link to the jobs behind the order `last`, where the list is full; 0 for a list that is not."""
    return A(tr("Earlier jobs →"), href=list_url(wanted, before=last), rel="next") if last else ""


def list_summary(changed: list[Job]) -> tuple[Any, ...]:
    """The jobs that moved last, in spoken sentences."""
    text = " ".join(f"{job.task} {job.id}, {summary(job)}" for job in changed[-3:])
    return (Span(id="summary", hidden=True, data_text=text),)


def list_rows(jobs: list[Job], wanted: Filter) -> list[Any]:
    """The rows of the list, with the heads of its parts."""
    rows = [job_row(job, wanted.by_end) for job in jobs]
    moving = sum(not job.finished_at for job in jobs)
    how = tr("the last to end first") if wanted.by_end else tr("the newest first")
    rows.insert(moving, group_row("over", tr("Ended"), how, MOVES))
    rows.insert(0, group_row("now", tr("Now"), tr("what has not ended"), FIRST))
    return rows


def jobs_table(jobs: list[Job], wanted: Filter) -> tuple[Any, ...]:
    """The list, what it says when it is empty, and the link to what is older."""
    last = order_of(jobs[-1], wanted.by_end) if len(jobs) == JOBS_PAGE else 0
    body = {"id": "jobs", "data_max": str(JOBS_PAGE + 2), "data_sort": "desc", "data_moves": True}
    return (
        table(HEAD, list_rows(jobs, wanted), body, cls="jobs", aria_label=tr("Jobs")),
        P(*no_jobs(wanted), cls="empty"),
        Div(earlier_jobs(last, wanted), cls="pager", id="pager"),
    )


def kept_note(days: float) -> Any:
    """For how long background tasks are kept; nothing where that is for ever."""
    if not days:
        return ""
    return P(
        trn(
            "Background tasks are deleted {days:g} day after they have ended.",
            "Background tasks are deleted {days:g} days after they have ended.",
            1 if days == 1 else 2,
            days=days,
        ),
        cls="soft pad",
        id="kept",
    )


def no_jobs(wanted: Filter) -> tuple[Any, ...]:
    if wanted.is_all:
        return (tr("No jobs yet: start one above, and it appears here and moves."),)
    if wanted == Filter(status=wanted.status):
        said = NO_JOBS.get(
            wanted.status, tr("No job is {status}. ", status=BY_STATUS.get(wanted.status, "").lower())
        )
    else:
        said = tr("No job is like that. ")
    return (said, A(tr("Show all jobs"), href=url("/")))
