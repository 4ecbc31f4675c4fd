"""Rows as HTML: items, their filters, error groups and pages, and the list of jobs.

A row is drawn by the same function at the first load, at a reconnect and in a frame. What comes from users and APIs is
passed as text and escaped.
"""

from typing import Any
from urllib.parse import urlencode
from zlib import crc32

from fasthtml.common import Safe, to_xml
from fasthtml.components import H2, A, Button, Code, Div, Form, Input, Nav, P, Small, Span, Table, Tbody, Td, Th, Thead, Tr

from rowcast.pages.forms import action_form
from rowcast.pages.job import summary
from rowcast.pages.values import (
    LEAST,
    WORDS,
    bar,
    clock,
    countdown,
    done_of,
    look_of,
    rate_text,
    status_icon,
    stopwatch,
    text_cell,
    text_icon,
    word_of,
)
from rowcast.tasks.records import ACTIONS, JOBS_PAGE, PAGE, WITH_FAILURES, ErrorGroup, Item, Job, View, iso
from rowcast.tasks.registry import REGISTRY

RETRY_ONE = "retry-one"  # the form that the rows' buttons belong to


def retry_button(item: Item) -> str:
    """Another try for one item; it belongs to the page's form `retry-one`."""
    if item.status not in ("failed", "unknown"):
        return ""
    return to_xml(Button("Retry", type="submit", name="item", value=str(item.id), form=RETRY_ONE, cls="link",
                         aria_label=f"Retry {item.key}"), indent=False)  # fmt: skip


def filters(base: str, job: Job, view: View) -> list[Any]:
    """The counts, which are filters."""
    counts = [("moving", "Latest" if job.terminal else "Moving", -1), ("all", "All", job.total)]
    counts += [
        (s, WORDS[s], getattr(job, s))
        for s in ("failed", "unknown", "running", "queued", "completed", "cancelled")
        if getattr(job, s) or view.name == s or s in ("failed", "completed") or (s == "queued" and not job.terminal)
    ]
    return [
        A(
            word,
            Span(f" {n:,}", cls="n") if n >= 0 else "",
            href=f"{base}/jobs/{job.id}?{View(name).query()}",
            id=f"tab-{name}",
            **({"aria-current": "true"} if view.name == name and not view.fingerprint and not view.find else {}),
        )
        for name, word, n in counts
    ]


def search_form(base: str, job: Job, view: View) -> Any:
    return Form(
        Input(
            type="search",
            name="find",
            value=view.find,
            placeholder="Find a key",
            aria_label="Find items by key",
            id="find",
            autocomplete="off",
        ),
        Button("Find", type="submit"),
        action=f"{base}/jobs/{job.id}",
        method="get",
        role="search",
        id="search",
    )


def items_table(job: Job, view: View, items: list[Item]) -> Any:
    """The rows. Where rows come and go their height is fixed; a page of failures shows each error in full."""
    return Table(
        Thead(
            Tr(
                Th("Item", cls="key"),
                Th("Status", cls="is"),
                Th("Try", cls="num try"),
                Th("Code", cls="num code"),
                Th("ms", cls="num ms"),
                Th("What happened", cls="why"),
                Th("When", cls="num when"),
            )
        ),
        Tbody(*item_rows(items, view, job), id="items", data_max=str(PAGE), data_sort=view.sort),
        cls="items whole" if view.name in ("failed", "unknown") or view.find else "items",
        aria_label="Items",
    )


def empty_text(base: str, job: Job, view: View) -> tuple[Any, ...]:
    """What stands in place of the rows where there are none (app.css shows it), and what to do next."""
    everything = A("Show all items", href=f"{base}/jobs/{job.id}?view=all")
    if view.find:
        return (f"No item's key has “{view.find}” in it. ", everything)
    if not job.total and job.terminal:
        return ("This job had no items. ", A("Start another", href=f"{base}/"))
    if view.name == "moving":
        return ("Nothing moved. ", everything) if job.terminal else ("Nothing has moved yet; rows appear here as they do.",)
    said = {"failed": "Nothing has failed. ", "queued": "Nothing waits. ", "running": "Nothing runs at this moment. "}
    return (said.get(view.name, "There are none. "), everything) if view.status else ("The items come in a moment.",)


def item_rows(items: list[Item], view: View, job: Job) -> list[Any]:
    doing = REGISTRY[job.task].doing if job.task in REGISTRY else WORDS["running"]
    return [item_row(item, view.name == "moving", doing) for item in items]


def item_row(item: Item, by_change: bool, doing: str = "Running") -> Any:
    """One item. data-order is what the table is sorted by: the change in the moving view, else the position.

    Written as text, the only place where that is so: a frame has a hundred rows, ten times a second.
    """
    at = iso(item.updated_at) or ""
    return Safe(
        f'<tr id="item-{item.id}" data-status="{item.status}" data-order="{item.seq if by_change else item.position}">'
        f'{text_cell(item.key, "key")}<td class="is">{item_status(item, doing)}{retry_button(item)}</td>'
        f'<td class="num try">{item.attempt or ""}</td><td class="num code">{item.code or ""}</td>'
        f'<td class="num ms">{"" if item.ms is None else f"{item.ms:,.0f}"}</td>{text_cell(what_happened(item), "why")}'
        f'<td class="num when"><time datetime="{at}">{at[11:19]} UTC</time></td></tr>'
    )


def item_status(item: Item, doing: str) -> str:
    if item.retrying:
        return to_xml(status_icon("retrying", "Again ", countdown(item.run_at)), indent=False)
    return text_icon(item.status, doing if item.status == "running" else WORDS[item.status])


def what_happened(item: Item) -> str:
    if item.error:
        return item.error
    if item.status in ("completed", "running") and item.attempt > 1:
        return f"on try {item.attempt}" if item.status == "completed" else f"try {item.attempt}"
    return item.result[:120] if item.result and item.result != "null" else ""


def error_list(base: str, job: Job, groups: list[ErrorGroup], view: View) -> tuple[Any, ...]:
    """Failures that are alike, each with what can be done about it."""
    if not groups:
        return (H2("Why items fail"), P("Nothing has failed.", cls="soft pad"))
    may_retry = job.status in ACTIONS["retry"].leaves
    return (H2("Why items fail"), *[error_group(base, job, group, view, may_retry) for group in groups])


def error_group(base: str, job: Job, group: ErrorGroup, view: View, may_retry: bool) -> Any:
    """One kind of failure. Its id keeps a focused button at its own group when another one overtakes it."""
    here = {"aria-current": "true"} if view.fingerprint == group.fingerprint else {}
    return Div(
        P(Span(f"{group.items:,}", cls="count"), " ", f"{group.code} " if group.code else "", group.message),
        P("First ", clock(group.first_at), ", last ", clock(group.last_at), cls="soft when"),
        P(Code(group.sample), cls="sample") if group.sample not in ("", group.message) else "",
        Div(
            A("Show these", href=f"{base}/jobs/{job.id}?{View('failed', fingerprint=group.fingerprint).query()}", **here),
            action_form(base, job, "retry", "Retry these", "link", group=group.fingerprint) if may_retry else "",
            cls="row",
        ),
        cls="grp",
        id=f"group-{crc32(group.fingerprint.encode())}",
    )


def pager(base: str, job: Job, view: View, items: list[Item], back: int | None) -> tuple[Any, ...]:
    """Links to the pages before and after; `back` is the `after` of the page before. The moving view has none."""
    if view.find:
        return (Span(f"The first {PAGE} that were found.", cls="soft"),) if len(items) == PAGE else ()
    if view.name == "moving":
        return ()
    url, links = f"{base}/jobs/{job.id}?", []
    if view.after >= 0 and back is not None:
        links.append(A("← Earlier", href=url + view.query(after=back), rel="prev", id="earlier"))
    # all items stand without a gap, so there it is known without them
    last = view.after + PAGE if view.name == "all" else items[-1].position if len(items) == PAGE else job.total
    if last < job.total - 1:
        links.append(A("Later →", href=url + view.query(after=last), rel="next", id="later"))
    return tuple(links)


def job_row(base: str, job: Job) -> Any:
    """One job in the list."""
    return Tr(
        Td(A(job.task, href=f"{base}/jobs/{job.id}"), Small(f" #{job.id}{' dry run' if job.dry_run else ''}"), cls="name"),
        Td(status_icon(look_of(job), word_of(job)), cls="is"),
        Td(bar(job, "bar small", 3 * LEAST), cls="wide"),
        Td(f"{done_of(job):,}", Small(f" of {job.total:,}"), cls="num done"),
        Td(f"{job.failed:,}" if job.failed else "", cls="num fails s-failed"),
        Td(rate_text(job) if job.started_at else "", cls="num rate"),
        Td(clock(job.started_at or job.created_at), cls="num when"),
        Td(stopwatch(job) if job.started_at else "", cls="num took"),
        id=f"job-{job.id}",
        data_status=job.status,
        data_order=str(job.id),
    )


def earlier_jobs(base: str, last: int, status: str) -> Any:
    """The link to the jobs older than `last`, where the list is full; 0 for a list that is not."""
    query = urlencode({"before": last} | ({"status": status} if status else {}))
    return A("Earlier jobs →", href=f"{base}/?{query}", rel="next") if last else ""


def list_summary(changed: list[Job]) -> tuple[Any, ...]:
    """The jobs that moved last, in spoken sentences."""
    text = " ".join(f"{job.task} {job.id}, {summary(job)}" for job in changed[-3:])
    return (Span(id="summary", hidden=True, data_text=text),)


EMPTY = {
    "failed": "No job has failed: one whose items fail goes to its end, and is listed under With failures. ",
    WITH_FAILURES: "No job has failed items. ",
}


def jobs_filter(base: str, status: str) -> Any:
    words = {"": "All"} | {s: WORDS[s] for s in ("running", "paused", "completed", "failed", "cancelled")}
    words[WITH_FAILURES] = "With failures"
    return Div(
        Nav(
            *[
                A(word, href=f"{base}/" + (f"?status={s}" if s else ""), **({"aria-current": "true"} if s == status else {}))
                for s, word in words.items()
            ],
            aria_label="Filter the jobs",
        ),
        cls="tabs",
    )


def jobs_table(base: str, jobs: list[Job], status: str) -> tuple[Any, ...]:
    """The list, what it says when it is empty, and the link to what is older."""
    return (
        Table(
            Thead(
                Tr(
                    Th("Job", cls="name"),
                    Th("Status", cls="is"),
                    Th("Progress", cls="wide"),
                    Th("Done", cls="num done"),
                    Th("Failed", cls="num fails"),
                    Th("Per second", cls="num rate"),
                    Th("Started", cls="num when"),
                    Th("Took", cls="num took"),
                )
            ),
            Tbody(*[job_row(base, job) for job in jobs], id="jobs", data_max=str(JOBS_PAGE), data_sort="desc"),
            cls="jobs",
            aria_label="Jobs",
        ),
        P(EMPTY.get(status, f"No job is {status}. "), A("Show all jobs", href=f"{base}/"), cls="empty")
        if status
        else P("No jobs yet: start one above, and it appears here and moves.", cls="empty"),
        Div(earlier_jobs(base, jobs[-1].id if len(jobs) == JOBS_PAGE else 0, status), cls="pager", id="pager"),
    )
