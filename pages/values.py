"""What a value looks like: a status with its icon and colour, a moment, a duration, the bar.

No inline style: widths are SVG attributes, colours are classes of app.css.
"""

import math
from functools import lru_cache
from html import escape
from typing import Any

from fastcore.xml import Span, Td
from fasthtml.common import Safe
from fasthtml.components import Time
from fasthtml.svg import Circle, Path, Svg

from rowcast.pages.skeleton import to_html
from rowcast.tasks.clock import now
from rowcast.tasks.held import rate
from rowcast.tasks.languages import Words, mark, tr, written
from rowcast.tasks.records import Job, iso
from rowcast.tasks.text import ODD, reveal

LEAST_WIDTH = 0.4  # per cent of the bar that even one item gets, so that nothing that happened is invisible
SHORT_TEXT = 30  # letters that a cell shows in any case; a longer text is also its tooltip
BAR = ("completed", "failed", "unknown", "cancelled", "running", "queued")
WORDS = Words(
    {
        "queued": mark("Queued"),
        "running": mark("Running"),
        "paused": mark("Paused"),
        "completed": mark("Completed"),
        "failed": mark("Failed"),
        "cancelled": mark("Cancelled"),
        "unknown": mark("Unknown"),
        "retrying": mark("Again"),
    }
)
ICONS: dict[str, Any] = {
    "completed": lambda: (Path(d="M2 7.5 5.5 11 12 3.5"),),
    "failed": lambda: (Path(d="M3 3 11 11M11 3 3 11"),),
    "running": lambda: (Circle(cx=7, cy=7, r=5, stroke_dasharray="22 9"),),
    "retrying": lambda: (Circle(cx=7, cy=7, r=5.2), Path(d="M7 4v3.4l2 1.4")),
    "queued": lambda: (Circle(cx=7, cy=7, r=4.5, stroke_dasharray="1.5 2.2"),),
    "paused": lambda: (Path(d="M4.5 3v8M9.5 3v8"),),
    "cancelled": lambda: (Circle(cx=7, cy=7, r=5.2), Path(d="M3.4 10.6 10.6 3.4")),
    "unknown": lambda: (Path(d="M4.5 5a2.5 2.5 0 1 1 3.6 2.3c-.8.4-1.1.8-1.1 1.6M7 11.4v.4"),),
}


def status_icon(status: str, *word: Any) -> Any:
    """Icon, word and colour of a status."""
    icon = Svg(*ICONS[status](), viewBox="0 0 14 14", aria_hidden="true")
    words = word or (WORDS[status],)
    return Span(icon, Span(*words) if len(words) > 1 else words[0], cls=f"st s-{status}")


def cell(text: str, cls: str) -> Any:
    """A table cell whose text may be cut by the column's width; then the whole of it is the tooltip."""
    return Td(visible(text), cls=cls, title=in_words(text) if len(text) > SHORT_TEXT else None)


def visible(text: str) -> Any:
    """What others wrote, for a page: a character that nobody would see stands there by its name."""
    return Safe(as_html(text)) if ODD.search(text) else text


def as_html(text: str) -> str:
    """What `visible` is, as text."""
    return reveal(escape(text), lambda name: f'<small class="odd">{name}</small>')


def in_words(text: str) -> str:
    """The same for an attribute, which has no tags in it."""
    return reveal(text, lambda name: f"[{name}]")


@lru_cache(256)
def text_icon(status: str, word: str) -> str:
    """What `status_icon` is, as text."""
    return to_html(status_icon(status, word))


def text_cell(text: str, cls: str, href: str = "") -> str:
    """What `cell` is, as text; with an address it is a link."""
    tip = f' title="{escape(in_words(text))}"' if len(text) > SHORT_TEXT else ""
    inside = f'<a href="{href}">{as_html(text)}</a>' if href else as_html(text)
    return f'<td class="{cls}"{tip}>{inside}</td>'


def clock(at: float | None) -> Any:
    """A moment; app.js puts it into the viewer's own time."""
    stamp = iso(at)
    return Time(tr("{stamp} UTC", stamp=stamp[11:19]), datetime=stamp) if stamp else ""


def moment(at: float) -> Any:
    """A moment to its milliseconds."""
    stamp = iso(at) or ""
    return Time(stamp[11:23], datetime=stamp, data_fine=True)


def day(at: float | None) -> Any:
    """A day with its time."""
    stamp = iso(at)
    if stamp is None:
        return Span(tr("never"), cls="soft")
    return Time(tr("{stamp} UTC", stamp=stamp[:16].replace("T", " ")), datetime=stamp, data_day=True)


def duration(seconds: float) -> str:
    """3.4 s, 0:42, 1:02:03."""
    whole = int(seconds)
    if whole < 10:
        return written(f"{int(seconds * 10) / 10:.1f} s")
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def countdown(until: float, in_row: bool = False) -> Any:
    """In how long a moment comes; app.js counts it down, in rows while the job is not paused."""
    return Span(wait_text(until - now(), in_row), data_until=f"{until:.3f}")


def wait_text(seconds: float, in_row: bool = False) -> str:
    """In 42 s, in 12 min 5 s, in 23 h 59 min; in a row, which has less room, in 42 s, in 12 min, in 23 h."""
    whole = max(0, round(seconds))
    if whole < 100:
        return tr("in {whole} s", whole=whole)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if in_row:
        return tr("in {hours} h", hours=hours) if hours else tr("in {minutes} min", minutes=minutes)
    return (
        tr("in {hours} h {minutes} min", hours=hours, minutes=minutes)
        if hours
        else tr("in {minutes} min {rest} s", minutes=minutes, rest=rest)
    )


# Units, their seconds, and up to how many a span is told in them.
SPANS = (
    (mark("s"), 1, 100),
    (mark("min"), 60, 6_000),
    (mark("h"), 3_600, 172_800),
    (mark("days"), 86_400, math.inf),
)


def span_text(low: float, high: float) -> str:
    """A guessed span in the unit that reads well: 12 to 27 min. Rounded outward, it moves in steps."""
    unit, size = next((unit, size) for unit, size, most in SPANS if high < most)
    step = 5 if size == 1 and high >= 30 else 1
    least = math.floor(low / size / step) * step
    most = max(1, math.ceil(high / size / step) * step)
    if least < most:
        return tr("{least:,} to {most:,} {unit}", least=least, most=most, unit=tr(unit))
    return tr("about {most:,} {unit}", most=most, unit=tr(unit))


def minute(at: float) -> Any:
    """A moment to the minute; app.js puts it into the viewer's own time."""
    stamp = str(iso(at))
    return Time(tr("{stamp} UTC", stamp=stamp[11:16]), datetime=stamp, data_minute=True)


def stopwatch(job: Job) -> Any:
    """How long the job takes or took; app.js lets it run."""
    since = f"{job.began - job.worked:.3f}" if job.began and not job.finished_at else None
    return Span(duration(job.elapsed), data_since=since)


def done_of(job: Job) -> int:
    """Items that were done, for a person: those that were cancelled have ended, of the unknown nobody knows,
    and neither are called done.
    """
    return job.done - job.cancelled - job.unknown


def progress_text(job: Job) -> str:
    return tr("{done:,} of {total:,} done", done=done_of(job), total=job.total)


def rate_text(job: Job) -> str:
    """Items a second, a minute or an hour: of late, and over all that was done once it has ended."""
    per_second = done_of(job) / max(job.elapsed, 0.001) if job.ended else job.rate
    return rate(per_second) if per_second else "–"


def percent(job: Job) -> int:
    """Done in whole per cent; 100 only when all is done."""
    return int(100 * job.done / job.total) if job.total else 0


def word_of(job: Job) -> str:
    """The job's status for a person."""
    if job.status != "completed" or not (job.failed or job.unknown):
        return WORDS[job.status]
    if job.failed:
        return tr("Completed with failures")
    return tr("Completed, partly unknown") if job.completed else WORDS["unknown"]


def look_of(job: Job) -> str:
    """The status whose colour and icon stand for the job."""
    if job.status == "completed" and (job.failed or job.unknown):
        return "failed" if job.failed else "unknown"
    return job.status


def icon_of(status: str) -> str:
    return status if status in ("running", "completed", "failed") else "idle"


def segments(job: Job, least: float) -> dict[str, float]:
    """The widths of the bar's segments in per cent, the queued rest included.

    Whatever there is gets at least `least`, taken from the widest: one failure in a million shows, and the
    bar is full only when all is done.
    """
    widths = {s: 100 * getattr(job, s) / max(job.total, 1) for s in BAR}
    shown = {s: max(w, least) if w else 0.0 for s, w in widths.items()}
    widest = max(shown, key=lambda s: shown[s])
    shown[widest] -= max(0.0, sum(shown.values()) - 100)
    return shown


def bar(job: Job, cls: str = "bar", least: float = LEAST_WIDTH) -> Any:
    """The job's progress in segments; what is queued is the ground. It is written as text: each frame of the
    list has many."""
    x = 0.0
    parts = []
    for status, width in segments(job, least).items():
        if status != "queued":
            where = f'x="{x:.2f}%" y="0" width="{width:.2f}%" height="100%"'
            parts.append(f'<rect {where} class="c-{status}"></rect>')
            x += width
    name = escape(tr("{task} number {id}", task=job.task, id=job.id))
    return Safe(
        f'<div role="progressbar" aria-valuemin="0" aria-valuenow="{job.done}"'
        f' aria-valuemax="{max(job.total, 1)}" aria-label="{name}"'
        f' aria-valuetext="{escape(progress_text(job))}" class="{cls}">'
        f'<svg aria-hidden="true">{"".join(parts)}</svg></div>'
    )


def fact(value: Any, word: str, cls: str = "") -> Any:
    """A number with what it counts. Written as text: each frame of a job has seven."""
    cls = "none" if value == "–" else cls
    return Safe(f'<div class="fact"><dt>{escape(word)}</dt><dd class="{cls}">{to_html(value)}</dd></div>')
