"""Plots of the benches' rows as SVG, drawn here: bars of ours and the peer's, and a mark where the target is.

Rows have different units, so each row has a scale of its own. Colours are for light and dark: the picture asks the viewer's
system by a media query, wherever it is shown.
"""

from html import escape

from bench.table import Row, number

WIDTH = 860  # pixels of the whole
NAMES = 400  # of the names' column
BARS = 300  # of the bars' column
HEIGHT = 40  # of a row
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2430 }
.soft { fill: #5b6475; font-size: 12px }
.ours { fill: #2563eb } .peer { fill: #a3adc0 } .missed { fill: #d9480f }
.target { stroke: #1f2430; stroke-width: 1.5; stroke-dasharray: 3 2 }
.base { stroke: #c9d0dc }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e9f0 } .soft { fill: #9aa4b8 }
  .ours { fill: #6ea0ff } .peer { fill: #5a6478 } .missed { fill: #ff8a5c }
  .target { stroke: #e6e9f0 } .base { stroke: #3a4254 }
}
"""


def bars(title: str, rows: list[Row]) -> str:
    """One bar a row, two where there is a peer."""
    height = HEIGHT * len(rows) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(title)}"><style>{STYLE}</style>',
        *legend(rows),
    ]
    for n, row in enumerate(rows):
        parts += drawn(row, 30 + n * HEIGHT)
    parts.append(f'<line class="base" x1="{NAMES}" x2="{NAMES}" y1="28" y2="{height - 4}"/></svg>\n')
    return "\n".join(parts)


def legend(rows: list[Row]) -> list[str]:
    """What the colours mean, of those that are there."""
    found = [("ours", "ours")]
    found += [("peer", "the peer, or the other side")] if any(row.peer is not None for row in rows) else []
    found += [("missed", "misses its target")] if not all(row.ok for row in rows) else []
    parts = []
    x = NAMES - 60
    for cls, word in found:
        parts.append(f'<rect class="{cls}" x="{x}" y="6" width="10" height="10" rx="2"/>')
        parts.append(f'<text class="soft" x="{x + 15}" y="15">{word}</text>')
        x += 45 + 6 * len(word)
    if any(bound_of(row) for row in rows):
        parts.append(f'<line class="target" x1="{x}" x2="{x}" y1="4" y2="18"/>')
        parts.append(f'<text class="soft" x="{x + 7}" y="15">target</text>')
    return parts


def bound_of(row: Row) -> float | None:
    """Where the target is on the row's own scale."""
    if not row.target:
        return None
    bound = float(row.target.partition(" ")[2])
    return bound if row.ratio is None else bound * (row.peer or 0)


def drawn(row: Row, y: int) -> list[str]:
    bound = bound_of(row)
    top = max(abs(row.ours), row.peer or 0, bound or 0) or 1
    first, second = two_lines(row.name)
    rest = BARS / top
    parts = [
        f'<text x="{NAMES - 10}" y="{y + (17 if not second else 11)}" text-anchor="end">{escape(first)}</text>'
    ]
    if second:
        parts.append(f'<text x="{NAMES - 10}" y="{y + 26}" text-anchor="end">{escape(second)}</text>')
    sides = [(row.ours, "ours" if row.ok else "missed")] + (
        [(row.peer, "peer")] if row.peer is not None else []
    )
    thick = 22 / len(sides)
    for n, (value, cls) in enumerate(sides):
        at = y + 2 + n * thick
        width = max(1.5, max(0.0, value) * rest)
        parts.append(
            f'<rect class="{cls}" x="{NAMES}" y="{at:.1f}" width="{width:.1f}" height="{thick - 2:.1f}" rx="2"/>'
        )
        parts.append(
            f'<text class="soft" x="{NAMES + BARS + 12}" y="{at + thick / 2 + 3:.1f}">{number(value)} {row.unit}</text>'
        )
    if bound is not None:
        x = NAMES + bound * rest
        parts.append(f'<line class="target" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 1}" y2="{y + 25}"/>')
    return parts


def two_lines(name: str, longest: int = 58) -> tuple[str, str]:
    """A long name, broken behind its last comma or space that fits."""
    if len(name) <= longest:
        return name, ""
    at = max(name.rfind(", ", 0, longest), name.rfind(": ", 0, longest)) + 1 or name.rfind(" ", 0, longest)
    return name[:at].strip(), name[at:].strip()
