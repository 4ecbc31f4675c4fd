"""Records to HTML: the pages, the rows, the progress, and the fragments that the stream sends.

A page and its live update use the same component: `item_row` draws a row at the first load, at a reconnect and in a frame.
Nothing here reads a database or a request. What comes from users and APIs is passed as text and escaped by FastHTML.
No inline style or script: widths are SVG attributes, behaviour is in static/app.js.
"""

import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from zlib import crc32

from fasthtml.common import Safe, to_xml
from fasthtml.components import (
    H1,
    H2,
    A,
    Button,
    Code,
    Div,
    Dl,
    Form,
    Input,
    P,
    Small,
    Span,
    Table,
    Tbody,
    Td,
    Th,
    Thead,
    Title,
    Tr,
)  # fmt: skip

from rowcast.jobs import ErrorGroup
from rowcast.pages.buttons import action_form, job_actions, retry_button
from rowcast.pages.values import (
    LEAST,
    WORDS,
    about,
    bar,
    clock,
    countdown,
    done_of,
    fact,
    icon_of,
    look_of,
    marked,
    percent,
    plot,
    progress_text,
    rate_text,
    status_mark,
    stopwatch,
    text_cell,
    word_of,
)  # fmt: skip
from rowcast.tasks.records import ACTIONS, ITEM_STATUSES, Item, Job, decode, iso
from rowcast.tasks.registry import REGISTRY

PAGE = 100  # rows on a page of items or of users
JOBS_PAGE = PAGE // 2


@dataclass(frozen=True)
class View:
    """Which items of a job are looked at: `moving`, `all`, a status, or one error group; and behind which position."""

    name: str = "moving"
    after: int = -1
    mark: str = ""
    find: str = ""

    @property
    def status(self) -> str | None:
        return self.name if self.name in ITEM_STATUSES else None

    @property
    def leaves(self) -> bool:
        """Whether rows leave this view as they change."""
        return self.name not in ("moving", "all") or bool(self.mark)

    @property
    def sort(self) -> str:
        """How the rows are sorted by their `data-order`: the newest change first, or by position."""
        return "desc" if self.name == "moving" else "asc"

    @property
    def redrawn(self) -> bool:
        """Whether changed rows alone do not say what the view has: its page has to be drawn anew."""
        return self.leaves or bool(self.find)

    def query(self, **changes: Any) -> str:
        """The view as the query of a URL."""
        values = {"view": self.name, "after": self.after, "group": self.mark, "find": self.find} | changes
        return urlencode({k: v for k, v in values.items() if v not in ("", -1, None)})


def job_title(job: Job) -> str:
    """The page's title: how far, or how it ended."""
    name = f"{job.task} #{job.id} · Rowcast"
    if not job.terminal:
        return f"{percent(job)} % · {name}" if job.status == "running" else f"{WORDS[job.status]} · {name}"
    if job.status == "completed":
        return f"✗ {job.failed:,} failed · {name}" if job.failed else f"✓ {name}"
    return f"{WORDS[job.status]} · {name}"


# ---- the job's page ------------------------------------------------------------------------------------------------


@dataclass
class JobNow:
    """All that the head of a job's page shows, read at one moment."""

    job: Job
    points: list[float]
    groups: list[ErrorGroup]
    held: tuple[float, str]


def job_head(base: str, now: JobNow) -> tuple[Any, ...]:
    """What stands above the rows; it is sent again with every frame."""
    job = now.job
    look = look_of(job)
    return (
        Div(
            H1(job.task, id="job-title", tabindex="-1"),
            Span(word_of(job), cls=f"chip k-{look}", data_status=job.status, id="job-status"),
            Span("Dry run", cls="chip k-paused", id="dry-run") if job.dry_run else "",
            Small(f"#{job.id} · by {job.owner} · ", "started " if job.started_at else "created ",
                  clock(job.started_at or job.created_at)),
            arguments_text(job),
            cls="titles",
        ),
        job_actions(base, job),
        bar(job),
        Div(Dl(*job_facts(job), cls="facts"), plot(now.points), cls="numbers"),
        note_of(job, now.held),
        Span(
            id="summary",
            hidden=True,
            data_text=summary(job),
            data_icon=icon_of(look),
            data_rest=str(job.terminal).lower(),
        ),
    )  # fmt: skip


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
    if not job.terminal:
        facts.append(fact(f"{job.running:,}", "running", "s-running" if job.running else ""))
    facts.append(fact(f"{rate_text(job)}/s", "on average" if job.terminal else "now"))
    facts.append(fact(stopwatch(job), "took" if job.terminal else "elapsed"))
    if not job.terminal:
        facts.append(fact("–" if job.eta is None else about(job.eta), "left"))
    return facts


def arguments_code(text: str) -> Any:
    """Arguments given as JSON text, in short."""
    args = {k: v for k, v in decode(text).items() if v is not None}
    return Code(", ".join(f"{k}={v}" for k, v in args.items())[:200], cls="args") if args else ""


def arguments_text(job: Job) -> Any:
    """The arguments that are not the task's defaults; of a list, how many were given."""
    usual = {a.name: a.default for a in REGISTRY[job.task].arguments} if job.task in REGISTRY else {}
    args = {k: v for k, v in decode(job.args).items() if v is not None and v != usual.get(k)}
    shown = ", ".join(f"{k}={f'{len(v):,} given' if isinstance(v, list) else v}" for k, v in args.items())
    return Code(shown[:200], cls="args") if shown else ""


def note_of(job: Job, held: tuple[float, str]) -> Any:
    """One sentence above the rows: what there is to know, in amber, or how the job is run.

    A job that has not ended always has one, so that the rows do not jump when it waits and goes on.
    """
    text: tuple[Any, ...] = ()
    if job.reason:
        text = (job.reason,)
    elif job.status == "queued" and job.run_at > time.time():
        text = ("It starts ", clock(job.run_at), ", ", countdown(job.run_at), ".")
    elif job.status == "paused":
        text = ("Paused: what was in flight ends, and nothing new starts until you resume it.",)
    elif held[0] and not job.terminal:
        text = (f"The API asked for a pause ({held[1]}). Sending goes on ", countdown(held[0]), ".")
    elif job.terminal and not job.total:
        text = ("There was nothing to do: the task found no items.",)
    elif job.terminal and job.dry_run:
        text = ("A dry run: the rows show what would have been sent. Nothing was sent.",)
    if text or job.terminal:
        return P(*text, cls="note", id="note") if text else P(id="note", hidden=True)
    return P(how_it_runs(job), cls="note quiet", id="note")


def how_it_runs(job: Job) -> str:
    """How a job that has not ended is run, in one sentence."""
    if not job.filled and job.total:
        return f"Items are being written: {job.total:,} so far."
    if job.status == "queued":
        return "It starts as soon as the engine takes it up."
    if job.dry_run:
        return f"A dry run: what would be sent for the first {job.dry_run:,} items, and nothing is sent."
    if job.shape == "body":
        return "Called once; the steps it reports are the rows."
    tries = REGISTRY[job.task].max_attempts if job.task in REGISTRY else 1
    parts = [f"{job.concurrency or 1:,} at a time"]
    parts += [f"at most {job.pace:,g} a second"] if job.pace else []
    parts += [f"up to {tries} tries each"] if tries > 1 else []
    return f"{', '.join(parts)}."


def summary(job: Job) -> str:
    """The job in one spoken sentence."""
    return f"{WORDS[job.status]}: {progress_text(job)}" + (f", {job.failed:,} failed." if job.failed else ".")


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
            **({"aria-current": "true"} if view.name == name and not view.mark and not view.find else {}),
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
        return to_xml(status_mark("retrying", "Again ", countdown(item.run_at)), indent=False)
    return marked(item.status, doing if item.status == "running" else WORDS[item.status])


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
    here = {"aria-current": "true"} if view.mark == group.fingerprint else {}
    return Div(
        P(Span(f"{group.items:,}", cls="count"), " ", f"{group.code} " if group.code else "", group.message),
        P("First ", clock(group.first_at), ", last ", clock(group.last_at), cls="soft when"),
        P(Code(group.sample), cls="sample") if group.sample not in ("", group.message) else "",
        Div(
            A("Show these", href=f"{base}/jobs/{job.id}?{View('failed', mark=group.fingerprint).query()}", **here),
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


# ---- frames: what the stream sends ---------------------------------------------------------------------------------


def job_frame(base: str, now: JobNow, view: View, rows: list[Item], whole: bool = False, back: int | None = None) -> str:
    """One update of a job's page: title, head, counts, errors; and rows, upserted, or the whole page of them."""
    parts = [
        to_xml(Title(job_title(now.job)), indent=False),
        partial("#head", job_head(base, now)),
        partial("#filters", filters(base, now.job, view)),
        partial("#errors", error_list(base, now.job, now.groups, view)),
        partial("#empty", empty_text(base, now.job, view)),
    ]
    drawn = item_rows(rows, view, now.job)
    if whole:
        parts += [partial("#items", drawn), partial("#pager", pager(base, now.job, view, rows, back))]
    elif drawn:
        parts.append(upsert("#items", drawn, view.sort))
    if view.name == "all" and not view.redrawn:
        parts.append(partial("#pager", pager(base, now.job, view, rows, back)))  # items that come make another page
    return "".join(parts)


def jobs_frame(base: str, jobs: list[Job], gone: list[Job], last: int, status: str) -> str:
    """One update of the list of jobs: rows that changed, those that the list's filter has no longer, and the link to what
    is older than `last`."""
    parts = [f'<hx-partial hx-target="#job-{job.id}" hx-swap="delete"></hx-partial>' for job in gone]
    if jobs:
        parts.append(upsert("#jobs", [job_row(base, job) for job in jobs], "desc"))
    parts.append(partial("#pager", [earlier_jobs(base, last, status)]))
    parts.append(partial("#summary", list_summary([*jobs, *gone]), "outerMorph"))
    return "".join(parts)


def partial(target: str, content: Any, swap: str = "innerMorph") -> str:
    html = "".join(to_xml(c, indent=False) for c in content)
    return f'<hx-partial hx-target="{target}" hx-swap="{swap}">{html}</hx-partial>'


def upsert(target: str, rows: list[Any], order: str) -> str:
    html = "".join(to_xml(row, indent=False) for row in rows)
    return f'<hx-upsert hx-target="{target}" key="data-order" sort="{order}">{html}</hx-upsert>'


# ---- the list of jobs ----------------------------------------------------------------------------------------------


def job_row(base: str, job: Job) -> Any:
    """One job in the list."""
    return Tr(
        Td(A(job.task, href=f"{base}/jobs/{job.id}"), Small(f" #{job.id}{' dry run' if job.dry_run else ''}"), cls="name"),
        Td(status_mark(look_of(job), word_of(job)), cls="is"),
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
