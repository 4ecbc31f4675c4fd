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
from fasthtml.components import H2, Caption, Div, P, Section, Small, Span, Table, Tbody, Td, Th, Thead, Tr
from fasthtml.svg import Svg

from rowcast.pages.values import duration, minute, visible
from rowcast.tasks.buckets import bounds_of, place_of
from rowcast.tasks.held import length, rate
from rowcast.tasks.records import Job, Pictures

WIDTH, HEIGHT = 320.0, 66.0  # of a picture, in its own units
COLUMNS = 60  # of time
ROWS = 12  # of time, in a table
KINDS = 4  # error groups with a colour of their own; the others share one
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
    """What a picture shows, for who does not see it."""
    return Table(
        Caption(caption),
        Thead(Tr(*[Th(cell, scope="col") for cell in head])),
        Tbody(*[Tr(*[Td(cell) for cell in row]) for row in rows]),
        cls="sr",
    )


# ---- over time ---------------------------------------------------------------------------------------------


def in_columns(
    rows: Sequence[tuple[float, float, int]], began: float, end: float, columns: int
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


def time_axis(pictures: Pictures, over: bool) -> list[Any]:
    return [minute(pictures.began), minute(pictures.end) if over else "now"]


def speed_chart(job: Job, pictures: Pictures) -> Any:
    """Items a second over the job's last run; the pace is a line."""
    began, end = pictures.began, pictures.end
    columns = max(1, min(COLUMNS, int(end - began)))
    size = max(end - began, 1.0) / columns
    values = [n / size for n in in_columns(pictures.growth, began, end, columns)]
    top = max([*values, job.pace or 0.0, 1e-9])
    step = WIDTH / columns
    bars = [
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
    key: Any = f"at most {rate(max(values))}"
    if job.pace:
        y = HEIGHT - job.pace / top * TALLEST
        bars.append(line_of(0, y, WIDTH, y, "limit"))
        key = Span(f"pace {rate(job.pace)}", cls="key lim")
    mean = sum(n for *_, n in pictures.growth) / max(end - began, 1.0)
    said = f"Items a second since {clock_text(began)}: {rate(mean)} on average, {rate(max(values))} at most"
    few = in_columns(pictures.growth, began, end, min(ROWS, columns))
    part = max(end - began, 1.0) / len(few)
    table = hidden_table(
        "Items a second",
        ("From", "Rate"),
        [(clock_text(began + n * part), rate(number / part)) for n, number in enumerate(few)],
    )
    return chart("Items a second", key, said, bars, time_axis(pictures, job.ended), table)


def failure_chart(pictures: Pictures, over: bool) -> Any:
    """Failures over time, those of a group in a colour of their own."""
    if not pictures.failures:
        return ""
    began, end = pictures.began, pictures.end
    columns = max(1, min(COLUMNS, int(end - began)))
    size = max(end - began, 1.0) / columns
    stacks = [(name, in_columns(rows, began, end, columns)) for name, rows in pictures.failures]
    top = max([sum(values[n] for _, values in stacks) for n in range(columns)] + [1e-9])
    step = WIDTH / columns
    bars = []
    for n in range(columns):
        base = HEIGHT
        for kind, (name, values) in enumerate(stacks):
            if values[n] < 0.005:
                continue
            said = f"{clock_text(began + n * size)}: {max(1, round(values[n])):,} × {name}"
            of_kind = f"g{min(kind, KINDS)}"
            bars.append(bar_of(n * step, step - 0.4, values[n] / top, of_kind, said, base, began + n * size))
            base -= max(LEAST, values[n] / top * TALLEST)
    total = sum(number for _, rows in pictures.failures for *_, number in rows)
    keys = [
        Span(visible(name), cls=f"key k{min(n, KINDS)}") for n, (name, _) in enumerate(stacks[: KINDS + 1])
    ]
    groups = f"{len(stacks):,} {'group' if len(stacks) == 1 else 'groups'}"
    said = f"Failures since {clock_text(began)}: {total:,} in {groups}"
    parts = min(ROWS, columns)
    few = [(name, in_columns(rows, began, end, parts)) for name, rows in pictures.failures]
    part = max(end - began, 1.0) / parts
    table = hidden_table(
        "Failures over time, by group",
        ("From", *[name for name, _ in few]),
        [(clock_text(began + n * part), *[f"{values[n]:.0f}" for _, values in few]) for n in range(parts)],
    )
    return chart("Failures", f"{total:,} over time", said, bars, time_axis(pictures, over), table, keys)


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
            f"{of_bucket(bucket)}: {number:,} {'try' if number == 1 else 'tries'}",
        )
        for bucket, number in pictures.times
    ]
    key = []
    for part, ms in zip(Pictures.PARTS, pictures.parts, strict=True):
        x = min(max((place_of(ms) - first) * step, 0.5), WIDTH - 0.5)
        bars.append(line_of(x, 0, x, HEIGHT, f"part p{part}"))
        key.append(Span(f"p{part} {length(ms)}", cls=f"key p{part}"))
    half, most_of, nearly_all = [length(ms) for ms in pictures.parts]
    said = f"How long tries took: half under {half}, 95 of 100 under {most_of}, 99 of 100 under {nearly_all}"
    table = hidden_table(
        "How long tries took",
        ("Time", "Tries"),
        [(of_bucket(bucket), f"{number:,}") for bucket, number in pictures.times],
    )
    axis = [length(bounds_of(bucket)[0]) for bucket in (first, (first + last + 1) // 2, last + 1)]
    return chart("Time per try", f"half in {half}", said, bars, axis, table, key)


def of_bucket(bucket: int) -> str:
    low, high = bounds_of(bucket)
    return f"{length(low)} to {length(high)}"


def try_chart(pictures: Pictures) -> Any:
    """How many items needed one try, two, and so on; nothing where each had one."""
    if not pictures.tries or pictures.tries[-1][0] < 2:
        return ""
    last = max(5, pictures.tries[-1][0])
    step = WIDTH / last
    most = max(items for _, items in pictures.tries)
    rows = [(f"{n} {'try' if n == 1 else 'tries'}", f"{items:,}") for n, items in pictures.tries]
    bars = [
        bar_of(
            (n - 0.9) * step,
            step * 0.8,
            items / most,
            "c-completed" if n == 1 else "c-retrying",
            f"{n} {'try' if n == 1 else 'tries'}: {items:,} {'item' if items == 1 else 'items'}",
        )
        for n, items in pictures.tries
        if items
    ]
    again = sum(items for n, items in pictures.tries if n > 1)
    said = f"Tries per item: {again:,} needed more than one"
    table = hidden_table("Tries per item", ("Tries", "Items"), rows)
    return chart("Tries per item", f"{again:,} more than one", said, bars, ["1", f"{last}"], table)


def charts_section(job: Job, pictures: Pictures | None) -> Any:
    return Section(*charts(job, pictures), id="charts", cls="card charts", aria_label="How it goes")


# ---- an error group ----------------------------------------------------------------------------------------


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
    said = f"grew to {sum(n for _, n in rows):,} in {duration(end - began)}"
    return (
        f'<svg class="grew" viewBox="0 0 100 20" preserveAspectRatio="none" role="img" aria-label="{said}">'
        f'<title>{said}</title><polyline points="{" ".join(points)}"/></svg>'
    )
