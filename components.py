"""Records to HTML: the pages, the rows, the progress, and the fragments that the stream sends.

A page and its live update use the same component: `item_row` draws a row at the first load, at a reconnect and in a frame.
Nothing here reads a database or a request. What comes from users and APIs is passed as text and escaped by FastHTML.
No inline style or script: widths are SVG attributes, behaviour is in static/app.js.
"""

import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from fasthtml.common import to_xml
from fasthtml.components import (
    H1,
    H2,
    A,
    Button,
    Code,
    Dd,
    Div,
    Dl,
    Dt,
    Form,
    Input,
    Nav,
    P,
    Small,
    Span,
    Table,
    Tbody,
    Td,
    Th,
    Thead,
    Time,
    Title,
    Tr,
)  # fmt: skip
from fasthtml.svg import Circle, Path, Polyline, Rect, Svg
from fasthtml.svg import Line as SvgLine

from rowcast.jobs import ErrorGroup
from rowcast.records import ACTIONS, ITEM_STATUSES, Item, Job, decode, iso
from rowcast.registry import REGISTRY

PAGE = 100  # rows on a page of items, of jobs or of users
WORDS = {
    "queued": "Queued",
    "running": "Running",
    "paused": "Paused",
    "completed": "Completed",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "unknown": "Unknown",
    "retrying": "Again",
}


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

    def query(self, **changes: Any) -> str:
        """The view as the query of a URL."""
        values = {"view": self.name, "after": self.after, "group": self.mark, "find": self.find} | changes
        return urlencode({k: v for k, v in values.items() if v not in ("", -1, None)})


# ---- small parts ---------------------------------------------------------------------------------------------------

ICONS: dict[str, Any] = {
    "completed": lambda: Path(d="M2 7.5 5.5 11 12 3.5"),
    "failed": lambda: Path(d="M3 3 11 11M11 3 3 11"),
    "running": lambda: Circle(cx=7, cy=7, r=5, stroke_dasharray="22 9"),
    "retrying": lambda: (Circle(cx=7, cy=7, r=5.2), Path(d="M7 4v3.4l2 1.4")),
    "queued": lambda: Circle(cx=7, cy=7, r=4.5, stroke_dasharray="1.5 2.2"),
    "paused": lambda: Path(d="M4.5 3v8M9.5 3v8"),
    "cancelled": lambda: (Circle(cx=7, cy=7, r=5.2), Path(d="M3.4 10.6 10.6 3.4")),
    "unknown": lambda: Path(d="M4.5 5a2.5 2.5 0 1 1 3.6 2.3c-.8.4-1.1.8-1.1 1.6M7 11.4v.4"),
}


def status_mark(status: str, *word: Any) -> Any:
    """Icon, word and colour of a status."""
    drawn = ICONS[status]()
    icon = Svg(*(drawn if isinstance(drawn, tuple) else (drawn,)), viewBox="0 0 14 14", aria_hidden="true")
    return Span(icon, *(word or (WORDS[status],)), cls=f"st s-{status}")


def clock(at: float | None) -> Any:
    """A moment; app.js puts it into the viewer's own time."""
    stamp = iso(at)
    return Time(stamp[11:19], datetime=stamp) if stamp else ""


def duration(seconds: float) -> str:
    """3.4 s, 0:42, 1:02:03."""
    whole = int(seconds)
    if whole < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def bar(job: Job, cls: str = "bar") -> Any:
    """The job's progress in segments: completed, failed, unknown, cancelled, running; the rest is queued."""
    total, x, parts = max(job.total, 1), 0.0, []
    for status in ("completed", "failed", "unknown", "cancelled", "running"):
        width = 100 * getattr(job, status) / total
        parts.append(Rect(x=f"{x:.2f}%", y=0, width=f"{width:.2f}%", height="100%", cls=f"c-{status}"))
        x += width
    return Div(
        Svg(*parts, aria_hidden="true"),
        role="progressbar",
        aria_valuemin="0",
        aria_valuenow=str(job.done),
        aria_valuemax=str(total),
        aria_label=f"{job.task} number {job.id}",
        aria_valuetext=f"{job.done:,} of {job.total:,} done",
        cls=cls,
    )


def plot(points: list[float], label: str) -> Any:
    """Items per second as a small line; the newest is on the right."""
    top = max([*points, 1.0])
    step = 240 / max(len(points) - 1, 1)
    line = " ".join(f"{n * step:.1f},{42 - 38 * p / top:.1f}" for n, p in enumerate(points))
    area = f"0,43 {line} {(len(points) - 1) * step:.1f},43" if points else ""
    return Svg(
        Polyline(points=area, cls="area"),
        Polyline(points=line, cls="line"),
        SvgLine(x1=0, y1=43.5, x2=240, y2=43.5, cls="base"),
        viewBox="0 0 240 44",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
        cls="plot",
    )


def fact(value: Any, word: str, cls: str = "") -> Any:
    return Div(Dt(word), Dd(value, cls=cls), cls="fact")


def action_form(base: str, job: Job, action: str, word: str, cls: str = "", ident: str = "", **fields: Any) -> Any:
    """A button that posts an action; it works without script, and with it the page stays where it is."""
    url = f"{base}/jobs/{job.id}/{action}"
    extra: dict[str, Any] = {"id": ident} if ident else {}
    return Form(
        *[Input(type="hidden", name=name, value=str(value)) for name, value in fields.items()],
        Button(word, type="submit", cls=cls),
        method="post",
        action=url,
        hx_post=url,
        hx_swap="none",
        **extra,
    )


def job_actions(base: str, job: Job) -> Any:
    """The buttons that the job's status allows, by the same table as the database's guard."""
    words = {
        "pause": "Pause",
        "resume": "Resume",
        "cancel": "Cancel",
        "retry": retry_word(job),
        "settle": f"Mark unknown as done ({job.unknown:,})" if job.unknown else "",
    }
    shown = [
        action_form(base, job, name, words[name], "danger" if name == "cancel" else "", f"act-{name}")
        for name, action in ACTIONS.items()
        if job.status in action.leaves and words[name]
    ]
    if job.terminal:
        shown.append(A("Results", href=f"{base}/jobs/{job.id}/results", cls="button", id="act-results"))
    return Div(*shown, cls="acts")


def retry_word(job: Job) -> str:
    """What the button for another try says; nothing where there is nothing to retry."""
    if job.status == "cancelled" and job.cancelled:
        return "Run the rest"
    again = job.failed + job.unknown
    return f"Retry failed ({again:,})" if again else ""


def job_title(job: Job) -> str:
    """The page's title: how far, or how it ended."""
    name = f"{job.task} #{job.id} · Rowcast"
    if not job.terminal:
        return f"{percent(job)} % · {name}" if job.status == "running" else f"{WORDS[job.status]} · {name}"
    if job.status == "completed":
        return f"✗ {job.failed:,} failed · {name}" if job.failed else f"✓ {name}"
    return f"{WORDS[job.status]} · {name}"


def percent(job: Job) -> int:
    """Done in whole per cent; 100 only when all is done."""
    return int(100 * job.done / job.total) if job.total else 0


def word_of(job: Job) -> str:
    """The job's status for a person."""
    return "Completed with failures" if job.status == "completed" and job.failed else WORDS[job.status]


def look_of(job: Job) -> str:
    """The status whose colour and icon stand for the job."""
    return "failed" if job.status == "completed" and job.failed else job.status


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
    rate = f"{job.rate:,.1f}" if job.rate < 100 else f"{job.rate:,.0f}"
    facts = [
        fact((f"{job.done:,}", Small(f" of {job.total:,}{'' if job.filled else '…'}")), "done"),
        fact(f"{job.failed:,}", "failed", "s-failed" if job.failed else ""),
        fact(f"{job.running:,}", "running", "s-running" if job.running else ""),
        fact(f"{rate}/s", "on average" if job.terminal else "now"),
        fact(Span(duration(job.elapsed), **_ticking(job)), "took" if job.terminal else "elapsed"),
    ]
    if job.unknown:
        facts.insert(2, fact(f"{job.unknown:,}", "unknown", "s-unknown"))
    if not job.terminal:
        facts.append(fact("–" if job.eta is None else f"about {duration(job.eta)}", "left"))
    return (
        H1(
            Span(job.task),
            Span(word_of(job), cls=f"chip k-{look}", data_status=job.status, id="job-status"),
            Small(f"#{job.id} · by {job.owner} · ", "started " if job.started_at else "created ",
                  clock(job.started_at or job.created_at), arguments_text(job)),
            id="job-title",
        ),
        job_actions(base, job),
        bar(job),
        Div(
            Dl(*facts, cls="facts"),
            plot(now.points, f"items per second, at most {max([*now.points, 0]):.0f}"),
            cls="numbers",
        ),
        note_of(job, now.held),
        Span(
            id="summary",
            hidden=True,
            data_text=summary(job),
            data_icon=icon_of(look),
            data_rest=str(job.terminal).lower(),
        ),
    )  # fmt: skip


def _ticking(job: Job) -> dict[str, str]:
    running = job.started_at and not job.terminal
    return {"data_since": f"{job.started_at:.3f}"} if running else {}


def arguments_text(job: Job) -> Any:
    args = {k: v for k, v in decode(job.args).items() if v is not None}
    shown = ", ".join(f"{k}={v}" for k, v in args.items())
    return Code(shown[:120], cls="args") if shown else ""


def note_of(job: Job, held: tuple[float, str]) -> Any:
    """One sentence above the rows where there is something to know; else an empty place for it."""
    text: tuple[Any, ...] = ()
    if job.reason:
        text = (job.reason,)
    elif held[0] and not job.terminal:
        text = (f"The API asked for a pause ({held[1]}). Sending goes on in ", *countdown(held[0]), ".")
    elif not job.filled and not job.terminal:
        text = (f"Items are being written: {job.total:,} so far.",)
    elif job.status == "paused":
        text = ("Paused: what was in flight ends, and nothing new starts until you resume it.",)
    elif job.terminal and not job.total:
        text = ("There was nothing to do: the task found no items.",)
    return P(*text, cls="note", id="note") if text else P(id="note", hidden=True)


def countdown(until: float) -> tuple[Any, ...]:
    return (Span(f"{max(0, round(until - time.time()))} s", data_until=f"{until:.3f}"),)


def summary(job: Job) -> str:
    """The job in one spoken sentence."""
    text = f"{WORDS[job.status]}: {job.done:,} of {job.total:,} done"
    return text + (f", {job.failed:,} failed." if job.failed else ".")


def tabs(base: str, job: Job, view: View) -> tuple[Any, ...]:
    """The counts, which are filters."""
    counts = [("moving", "Moving", -1), ("all", "All", job.total)]
    counts += [
        (s, WORDS[s], getattr(job, s))
        for s in ("failed", "unknown", "running", "queued", "completed", "cancelled")
        if getattr(job, s) or view.name == s or s in ("failed", "queued", "completed")
    ]
    links = [
        A(
            word,
            Span(f" {n:,}", cls="n") if n >= 0 else "",
            href=f"{base}/jobs/{job.id}?{View(name).query()}",
            id=f"tab-{name}",
            **({"aria-current": "true"} if view.name == name and not view.mark and not view.find else {}),
        )
        for name, word, n in counts
    ]
    search = Form(
        Input(
            type="search",
            name="find",
            value=view.find,
            placeholder="Find a key",
            aria_label="Find items by key",
            id="find",
        ),
        action=f"{base}/jobs/{job.id}",
        method="get",
        role="search",
        id="search",
    )
    return (Nav(*links, aria_label="Filter the items"), search)


def items_table(job: Job, view: View, items: list[Item]) -> Any:
    return Table(
        Thead(
            Tr(
                Th("Item"),
                Th("Status"),
                Th("Try", cls="num h"),
                Th("Code", cls="num"),
                Th("ms", cls="num h"),
                Th("What happened", cls="h"),
                Th("When", cls="num h"),
            )
        ),
        Tbody(*item_rows(items, view, job), id="items", data_max=str(PAGE), data_empty=empty_text(job, view)),
        cls="items",
    )


def empty_text(job: Job, view: View) -> str:
    """What an empty table says (app.css shows it)."""
    if view.find:
        return f"No item's key has “{view.find}” in it."
    if view.name == "moving":
        return "Nothing has moved yet." if not job.terminal else "Nothing moved."
    return {"failed": "Nothing has failed.", "queued": "Nothing waits."}.get(view.name, "None.")


def item_rows(items: list[Item], view: View, job: Job) -> list[Any]:
    doing = REGISTRY[job.task].doing if job.task in REGISTRY else WORDS["running"]
    return [item_row(item, view.name == "moving", doing) for item in items]


def item_row(item: Item, by_change: bool, doing: str = "Running") -> Any:
    """One item. data-order is what the table is sorted by: the change in the moving view, else the position."""
    return Tr(
        Td(item.key, cls="key"),
        Td(item_status(item, doing)),
        Td(str(item.attempt) if item.attempt else "", cls="num h"),
        Td(str(item.code) if item.code else "", cls="num"),
        Td(f"{item.ms:,.0f}" if item.ms is not None else "", cls="num h"),
        Td(what_happened(item), cls="why h"),
        Td(clock(item.updated_at), cls="num h"),
        id=f"item-{item.id}",
        data_status=item.status,
        data_order=str(item.seq if by_change else item.position),
    )


def item_status(item: Item, doing: str) -> Any:
    if item.retrying:
        return status_mark("retrying", "Again in ", *countdown(item.run_at))
    return status_mark(item.status, doing) if item.status == "running" else status_mark(item.status)


def what_happened(item: Item) -> str:
    if item.error:
        return item.error
    if item.status == "completed" and item.attempt > 1:
        return f"on try {item.attempt}"
    if item.status == "running" and item.attempt > 1:
        return f"try {item.attempt}"
    return item.result[:120] if item.result and item.result != "null" else ""


def error_list(base: str, job: Job, groups: list[ErrorGroup], view: View) -> tuple[Any, ...]:
    """Failures that are alike, each with what can be done about it."""
    if not groups:
        return (H2("Why items fail"), P("Nothing has failed.", cls="soft pad"))
    return (
        H2("Why items fail"),
        *[
            Div(
                P(Span(f"{g.items:,}", cls="count"), " ", f"{g.code} " if g.code else "", Span(g.message)),
                Div(
                    A("Show these", href=f"{base}/jobs/{job.id}?{View('failed', mark=g.fingerprint).query()}",
                      **({"aria-current": "true"} if view.mark == g.fingerprint else {})),
                    action_form(base, job, "retry", "Retry these", "link", group=g.fingerprint)
                    if job.status in ACTIONS["retry"].leaves else "",
                    cls="row",
                ),
                cls="grp",
            )
            for g in groups
        ],
    )  # fmt: skip


def pager(base: str, job: Job, view: View, items: list[Item], back: int | None) -> tuple[Any, ...]:
    """Links to the pages before and after; the moving view has none."""
    if view.name == "moving" or view.find:
        return ()
    url = f"{base}/jobs/{job.id}?"
    links = []
    if view.after >= 0 and back is not None:
        links.append(A("← Earlier", href=url + view.query(after=back), rel="prev"))
    if len(items) == PAGE:
        links.append(A("Later →", href=url + view.query(after=items[-1].position), rel="next"))
    return tuple(links)


# ---- frames: what the stream sends ---------------------------------------------------------------------------------


def job_frame(base: str, now: JobNow, view: View, rows: list[Item], whole: bool) -> str:
    """One update of a job's page: title, head, counts, errors; and rows, upserted, or the whole page of them."""
    parts = [
        to_xml(Title(job_title(now.job)), indent=False),
        partial("#head", job_head(base, now)),
        partial("#tabs", tabs(base, now.job, view)),
        partial("#errors", error_list(base, now.job, now.groups, view)),
    ]
    drawn = item_rows(rows, view, now.job)
    if whole:
        parts.append(partial("#items", tuple(drawn)))
    elif drawn:
        parts.append(upsert("#items", drawn, "desc" if view.name == "moving" else "asc"))
    return "".join(parts)


def jobs_frame(base: str, jobs: list[Job]) -> str:
    """One update of the list of jobs."""
    return upsert("#jobs", [job_row(base, job) for job in jobs], "desc")


def partial(target: str, content: tuple[Any, ...]) -> str:
    html = "".join(to_xml(c, indent=False) for c in content)
    return f'<hx-partial hx-target="{target}" hx-swap="innerMorph">{html}</hx-partial>'


def upsert(target: str, rows: list[Any], order: str) -> str:
    html = "".join(to_xml(row, indent=False) for row in rows)
    return f'<hx-upsert hx-target="{target}" key="data-order" sort="{order}">{html}</hx-upsert>'


# ---- the list of jobs ----------------------------------------------------------------------------------------------


def job_row(base: str, job: Job) -> Any:
    """One job in the list."""
    return Tr(
        Td(A(job.task, href=f"{base}/jobs/{job.id}"), Small(f" #{job.id}")),
        Td(status_mark(look_of(job), word_of(job))),
        Td(bar(job, "bar small"), cls="wide"),
        Td(f"{job.done:,}", Small(f" of {job.total:,}"), cls="num"),
        Td(f"{job.failed:,}" if job.failed else "", cls="num s-failed"),
        Td(f"{job.rate:,.1f}" if job.started_at else "", cls="num h"),
        Td(clock(job.started_at or job.created_at), cls="num h"),
        Td(duration(job.elapsed) if job.terminal else Span(duration(job.elapsed), **_ticking(job)), cls="num h"),
        id=f"job-{job.id}",
        data_status=job.status,
        data_order=str(job.id),
    )


def icon_of(status: str) -> str:
    return status if status in ("running", "completed", "failed") else "idle"


def day(at: int | None) -> Any:
    stamp = iso(at)
    return Time(stamp[:16].replace("T", " "), datetime=stamp, data_day=True) if stamp else Span("never", cls="soft")
