"""Pictures of how a job goes, as SVG: items a second, times, failures over time, tries per item.

Each bar says its figures in a title, which a mouse finds; static/charts.js says them on the line below the
picture too, to a keyboard by the arrow keys. A table that only a screen reader sees has the same figures. No
inline style: heights are SVG attributes, colours are classes of app.css.
"""

import time
from collections.abc import Sequence
from html import escape
from typing import Any

from fasthtml.common import Safe
from fasthtml.components import H2, Div, P, Section, Small, Span
from fasthtml.svg import Svg

from rowcast.pages.values import duration, minute, visible
from rowcast.tasks.buckets import bounds_of, place_of
from rowcast.tasks.groups import KINDS
from rowcast.tasks.held import length, rate
from rowcast.tasks.languages import tr, trn, written
from rowcast.tasks.records import Job, Pictures
from rowcast.tasks.sentences import translated

WIDTH = 320.0  # of a picture, in its own units
HEIGHT = 66.0
COLUMNS = 60  # of time
ROWS = 12  # of time, in a table
LEAST = 1.5  # height of a bar that stands for anything
TALLEST = 62.0


def charts(job: Job, pictures: Pictures | None) -> tuple[Any, ...]:
    """The pictures of a job; nothing before something of it has ended."""
    if pictures is None or not pictures.growth:
        return ()
    drawn = [
        speed_chart(job, pictures),
        time_chart(pictures),
        failure_chart(pictures, job.ended),
        try_chart(pictures),
    ]
    return tuple(one for one in drawn if one)


def chart(
    name: str,
    small: Any,
    said: str,
    bars: Sequence[str],
    axis: Sequence[Any],
    table: Any,
    keys: Sequence[Any] = (),
) -> Any:
    """One picture with its heading, its axis, and the line that says what is pointed at."""
    return Div(
        Div(H2(name), Small(small), cls="row apart"),
        Svg(
            Safe("".join(bars) + line_of(0, HEIGHT, WIDTH, HEIGHT, "base")),
            viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
            preserveAspectRatio="none",
            role="img",
            aria_label=said,
            tabindex="0",
        ),
        Div(*[Span(mark) for mark in axis], cls="axis"),
        P(*keys, cls="keys") if keys else "",
        P(cls="figure", aria_live="polite"),
        table,
        cls="chart",
        id=f"chart-{name.split()[0].lower()}",
    )


def bar_of(
    x: float, width: float, height: float, cls: str, said: str, base: float = HEIGHT, at: float = 0.0
) -> str:
    """A bar of a height from 0 to 1, standing on `base`, of the moment `at`. Text, for a page has two hundred
    of them."""
    tall = max(LEAST, height * TALLEST)
    moment = f' data-at="{at:.0f}"' if at else ""
    return (
        f'<rect class="{cls}"{moment} x="{x:.1f}" y="{base - tall:.1f}" width="{max(0.6, width):.1f}"'
        f' height="{tall:.1f}">'
        f"<title>{escape(said)}</title></rect>"
    )


def line_of(x1: float, y1: float, x2: float, y2: float, cls: str) -> str:
    return f'<line class="{cls}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def hidden_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """What a picture shows, for who does not see it. Text, as its bars are."""
    lines = "".join("<tr>" + "".join([f"<td>{escape(cell)}</td>" for cell in row]) + "</tr>" for row in rows)
    words = "".join([f'<th scope="col">{escape(cell)}</th>' for cell in head])
    return Safe(
        f'<table class="sr"><caption>{escape(caption)}</caption><thead><tr>{words}</tr></thead>'
        f"<tbody>{lines}</tbody></table>"
    )


# ---- over time ---------------------------------------------------------------------------------------------


def in_columns(
    rows: Sequence[tuple[float, float, float]], began: float, end: float, columns: int
) -> list[float]:
    """What ended in each column of time, of rows (from, to, number) that lie across them."""
    found = [0.0] * columns
    size = max(end - began, 1.0) / columns
    for since, until, number in rows:
        until = max(min(until, end), since + 1e-3)
        first = min(columns - 1, max(0, int((since - began) / size)))
        last = min(columns - 1, max(first, int((until - began - 1e-6) / size)))
        for n in range(first, last + 1):
            inside = min(until, began + (n + 1) * size) - max(since, began + n * size)
            part = max(0.0, inside) / (until - since) if first < last else 1.0
            found[n] += number * part
    return found


def clock_text(at: float) -> str:
    return time.strftime("%H:%M:%S UTC", time.gmtime(at))


def time_axis(pictures: Pictures, over: bool, band: str = "") -> list[Any]:
    """From when until when; `band` says what the coloured one stands for."""
    ends = minute(pictures.began), minute(pictures.end) if over else tr("now")
    return [ends[0], *([Span(band, cls="key band")] if band else []), ends[1]]


def pauses_of(pictures: Pictures) -> str:
    number = len(pictures.holds)
    return trn("a pause", "{number:,} pauses", number)


def speed_chart(job: Job, pictures: Pictures) -> Any:
    """Items a second over the job's last run; the pace is a line, and the API's pauses stand behind."""
    began = pictures.began
    end = pictures.end
    columns = max(1, min(COLUMNS, int(end - began)))
    size = max(end - began, 1.0) / columns
    values = [n / size for n in in_columns(pictures.growth, began, end, columns)]
    top = max([*values, job.pace or 0.0, 1e-9])
    step = WIDTH / columns
    bars = holds_of(pictures, columns)
    bars += [
        bar_of(
            n * step,
            step - 0.4,
            value / top,
            "c-running",
            f"{clock_text(began + n * size)}: {rate(value)}",
            at=began + n * size,
        )
        for n, value in enumerate(values)
        if value > 0
    ]
    key: Any = tr("at most {rate}", rate=rate(max(values)))
    if job.pace:
        y = HEIGHT - job.pace / top * TALLEST
        bars.append(line_of(0, y, WIDTH, y, "limit"))
        key = Span(tr("pace {pace}", pace=rate(job.pace)), cls="key lim")
    mean = sum(n for *_, n in pictures.growth) / max(end - began, 1.0)
    said = tr(
        "Items a second since {began}: {mean} on average, {most} at most",
        began=clock_text(began),
        mean=rate(mean),
        most=rate(max(values)),
    )
    few = in_columns(pictures.growth, began, end, min(ROWS, columns))
    part = max(end - began, 1.0) / len(few)
    rows: list[tuple[str, ...]] = [
        (clock_text(began + n * part), rate(number / part)) for n, number in enumerate(few)
    ]
    head: tuple[str, ...] = (tr("From"), tr("Rate"))
    if held := held_in(pictures, len(few)):
        whole = duration(sum(held))
        said += tr("; the API asked for {pauses}, {whole} in all", pauses=pauses_of(pictures), whole=whole)
        head = (*head, tr("The API asked for a pause"))
        rows = [(*row, duration(seconds)) for row, seconds in zip(rows, held, strict=True)]
    table = hidden_table(tr("Items a second"), head, rows)
    axis = time_axis(
        pictures,
        job.ended,
        tr("{pauses} of its API, {whole}", pauses=pauses_of(pictures), whole=whole) if held else "",
    )
    return chart(tr("Items a second"), key, said, bars, axis, table)


def held_in(pictures: Pictures, columns: int) -> list[float]:
    """The seconds of each column of time in which the API had asked for a pause; [] where it never did."""
    spans = [(since, until, until - since) for since, until in pictures.holds if until > since]
    return in_columns(spans, pictures.began, pictures.end, columns) if spans else []


def holds_of(pictures: Pictures, columns: int) -> list[str]:
    """The pauses that the API had asked for, behind what ended; those that lie in one column, and the next,
    are one."""
    began = pictures.began
    end = pictures.end
    size = max(end - began, 1.0) / columns
    spans: list[list[float]] = []
    for since, until in pictures.holds:
        if spans and since - spans[-1][1] < size:
            spans[-1][1] = max(spans[-1][1], until)
            spans[-1][2] += 1
        else:
            spans.append([since, until, 1])
    scale = WIDTH / max(end - began, 1.0)
    drawn = []
    for since, until, number in spans:
        pauses = trn("a pause", "{number:,} pauses", round(number))
        said = tr(
            "{since}: the API asked for {pauses}, over after {until}",
            since=clock_text(since),
            pauses=pauses,
            until=duration(until - since),
        )
        x = min(max(0.0, (since - began) * scale), WIDTH - 1)
        width = min(max(1.0, (until - since) * scale), WIDTH - x)
        drawn.append(bar_of(x, width, 1.0, "c-held", said, at=since))
    return drawn


def failure_chart(pictures: Pictures, over: bool) -> Any:
    """Failures over time, those of a group in a colour of their own."""
    if not pictures.failures:
        return ""
    began = pictures.began
    end = pictures.end
    columns = max(1, min(COLUMNS, int(end - began)))
    size = max(end - began, 1.0) / columns
    failures = [(said_of(name), rows) for name, rows in pictures.failures]
    stacks = [(name, in_columns(rows, began, end, columns)) for name, rows in failures]
    top = max([sum(values[n] for _, values in stacks) for n in range(columns)] + [1e-9])
    step = WIDTH / columns
    bars = holds_of(pictures, columns)
    for n in range(columns):
        base = HEIGHT
        for kind, (name, values) in enumerate(stacks):
            if values[n] < 0.005:
                continue
            number = written(f"{max(1, round(values[n])):,}")
            said = f"{clock_text(began + n * size)}: {number} × {name}"
            of_kind = f"g{min(kind, KINDS)}"
            bars.append(bar_of(n * step, step - 0.4, values[n] / top, of_kind, said, base, began + n * size))
            base -= max(LEAST, values[n] / top * TALLEST)
    total = sum(number for _, rows in pictures.failures for *_, number in rows)
    keys = [
        Span(visible(name), cls=f"key k{min(n, KINDS)}") for n, (name, _) in enumerate(stacks[: KINDS + 1])
    ]
    groups = trn("{number:,} group", "{number:,} groups", len(stacks))
    said = tr(
        "Failures since {began}: {total:,} in {groups}", began=clock_text(began), total=total, groups=groups
    )
    parts = min(ROWS, columns)
    few = [(name, in_columns(rows, began, end, parts)) for name, rows in failures]
    part = max(end - began, 1.0) / parts
    table = hidden_table(
        tr("Failures over time, by group"),
        (tr("From"), *[name for name, _ in few]),
        [
            (clock_text(began + n * part), *[written(f"{values[n]:,.0f}") for _, values in few])
            for n in range(parts)
        ],
    )
    held = held_in(pictures, columns)
    around = round(sum(values[n] for _, values in stacks for n, seconds in enumerate(held) if seconds))
    band = trn(
        "{around:,} of {total:,} around the pause",
        "{around:,} of {total:,} around pauses",
        len(pictures.holds),
        around=around,
        total=total,
    )
    axis = time_axis(pictures, over, band if held and around else "")
    said += tr(", {band} that the API asked for", band=band) if held and around else ""
    return chart(tr("Failures"), tr("{total:,} over time", total=total), said, bars, axis, table, keys)


# ---- by how long, by how often -----------------------------------------------------------------------------


def time_chart(pictures: Pictures) -> Any:
    """How long tries took, on a scale that doubles; lines for the half, 95 and 99 of 100."""
    if not pictures.times:
        return ""
    first = pictures.times[0][0]
    last = max(pictures.times[-1][0], first + 7)
    step = WIDTH / (last - first + 1)
    most = max(number for _, number in pictures.times)
    bars = [
        bar_of(
            (bucket - first) * step,
            step - 1,
            number / most,
            "c-running",
            of_bucket(bucket) + trn(": {number:,} try", ": {number:,} tries", number),
        )
        for bucket, number in pictures.times
    ]
    key = []
    for part, ms in zip(Pictures.PARTS, pictures.parts, strict=True):
        x = min(max((place_of(ms) - first) * step, 0.5), WIDTH - 0.5)
        bars.append(line_of(x, 0, x, HEIGHT, f"part p{part}"))
        key.append(Span(f"p{part} {length(ms)}", cls=f"key p{part}"))
    half, most_of, nearly_all = [length(ms) for ms in pictures.parts]
    said = tr(
        "How long tries took: half under {half}, 95 of 100 under {most_of}, 99 of 100 under {nearly_all}",
        half=half,
        most_of=most_of,
        nearly_all=nearly_all,
    )
    table = hidden_table(
        tr("How long tries took"),
        (tr("Time"), tr("Tries")),
        [(of_bucket(bucket), written(f"{number:,}")) for bucket, number in pictures.times],
    )
    axis = [length(bounds_of(bucket)[0]) for bucket in (first, (first + last + 1) // 2, last + 1)]
    return chart(tr("Time per try"), tr("half in {half}", half=half), said, bars, axis, table, key)


def of_bucket(bucket: int) -> str:
    low, high = bounds_of(bucket)
    return tr("{low} to {high}", low=length(low), high=length(high))


def try_chart(pictures: Pictures) -> Any:
    """How many items needed one try, two, and so on; nothing where each had one."""
    if not pictures.tries or pictures.tries[-1][0] < 2:
        return ""
    last = max(5, pictures.tries[-1][0])
    step = WIDTH / last
    most = max(items for _, items in pictures.tries)
    names = {n: trn("{number} try", "{number} tries", n) for n, _ in pictures.tries}
    rows = [(names[n], written(f"{items:,}")) for n, items in pictures.tries]
    bars = [
        bar_of(
            (n - 0.9) * step,
            step * 0.8,
            items / most,
            "c-completed" if n == 1 else "c-retrying",
            f"{names[n]}: " + trn("{number:,} item", "{number:,} items", items),
        )
        for n, items in pictures.tries
        if items
    ]
    again = sum(items for n, items in pictures.tries if n > 1)
    said = tr("Tries per item: {again:,} needed more than one", again=again)
    table = hidden_table(tr("Tries per item"), (tr("Tries"), tr("Items")), rows)
    return chart(
        tr("Tries per item"), tr("{again:,} more than one", again=again), said, bars, ["1", f"{last}"], table
    )


def charts_inside(job: Job, pictures: Pictures | None) -> tuple[Any, ...]:
    """The pictures, and what stands in their place beside an open item: their figures in a line."""
    drawn = charts(job, pictures)
    return (*drawn, figures(pictures)) if pictures and drawn else ()


def figures(pictures: Pictures) -> Any:
    mean = sum(n for *_, n in pictures.growth) / max(pictures.end - pictures.began, 1.0)
    parts = zip(Pictures.PARTS, pictures.parts, strict=True)
    said = [
        tr("{mean} on average", mean=rate(mean)),
        " · ".join(f"p{part} {length(ms)}" for part, ms in parts) if pictures.times else "",
        tr("the API asked for {pauses}", pauses=pauses_of(pictures)) if pictures.holds else "",
    ]
    return P(*[Span(one) for one in said if one], cls="figures")


def charts_section(job: Job, pictures: Pictures | None) -> Any:
    inside = charts_inside(job, pictures)
    return Section(*inside, id="charts", cls="card charts", aria_label=tr("How it goes"))


# ---- an error group ----------------------------------------------------------------------------------------


def said_of(group: str) -> str:
    """A group's name: its code, where it has one, and the error."""
    code, _, error = group.partition(" ")
    return f"{code} {translated(error)}" if code.isdecimal() else translated(group)


def growth_line(rows: Sequence[tuple[int, int]], began: float, end: float) -> str:
    """How the count of an error group grew since the job began, as a small picture."""
    columns = 40
    counts = in_columns([(second, second + 1, n) for second, n in rows], began, max(end, began + 1), columns)
    top = max(sum(counts), 1e-9)
    so_far = 0.0
    points = []
    for n, more in enumerate(counts):
        so_far += more
        points.append(f"{n * 100 / (columns - 1):.1f},{19 - 17 * so_far / top:.1f}")
    said = escape(
        tr("grew to {value:,} in {end}", value=sum((n for _, n in rows)), end=duration(end - began))
    )
    return (
        f'<svg class="grew" viewBox="0 0 100 20" preserveAspectRatio="none" role="img" aria-label="{said}">'
        f'<title>{said}</title><polyline points="{" ".join(points)}"/></svg>'
    )
