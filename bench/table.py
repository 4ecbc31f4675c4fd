"""The table that a run prints: a measure of ours, the peer's, their ratio and the target it is held against."""

from dataclasses import dataclass
from statistics import quantiles

HEAD = ("bench", "ours", "peer", "unit", "ratio", "target", "ok")
RIGHT = (1, 2, 4)  # columns of numbers


@dataclass(frozen=True)
class Row:
    """One line. The target is ">= x" or "< x" and means the ratio, or `ours` where there is none; "" for no target."""

    name: str
    ours: float
    peer: float | None
    unit: str
    ratio: float | None
    target: str

    @property
    def ok(self) -> bool:
        if not self.target:
            return True
        sign, _, bound = self.target.partition(" ")
        value = self.ours if self.ratio is None else self.ratio
        return value >= float(bound) if sign == ">=" else value < float(bound)

    @property
    def cells(self) -> tuple[str, ...]:
        held = "yes" if self.ok else "NO"
        return (
            self.name,
            number(self.ours),
            number(self.peer),
            self.unit,
            "" if self.ratio is None else f"{self.ratio:.2f}",
            self.target,
            held if self.target else "",
        )


def number(value: float | None) -> str:
    """A number with as many digits as matter."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def lines(rows: list[Row]) -> list[str]:
    """The rows below their head, in columns."""
    cells = [HEAD, *[row.cells for row in rows]]
    widths = [max(len(row[n]) for row in cells) for n in range(len(HEAD))]
    return [
        "  ".join(
            f"{cell:>{width}}" if n in RIGHT else f"{cell:<{width}}"
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def p99(values: list[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[-1]
