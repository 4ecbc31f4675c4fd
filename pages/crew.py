"""The workers as HTML: who they are, what each has in flight, and when it was last heard of. A part of pages.py."""

from typing import Any

from fasthtml.components import H1, Div, P, Section, Small, Table, Tbody, Td, Th, Thead, Tr

from rowcast.pages.values import cell, clock, status_mark
from rowcast.tables.slots import Hand

COLUMNS = (("Worker", "name"), ("Host", "host"), ("Engine", "engine"), ("Version", "version"), ("In flight", "num"),
           ("Done", "num"), ("Last sign of life", ""))  # fmt: skip
LOOK = 2  # seconds between two looks of an open page


def workers_body(base: str, hands: list[Hand]) -> tuple[Any, ...]:
    """All workers, the dead last and grey; the table asks for itself again."""
    return (
        H1("Workers"),
        Div(
            Section(
                Table(
                    Thead(Tr(*[Th(word, cls=cls) for word, cls in COLUMNS])),
                    Tbody(*[worker_row(hand) for hand in hands]),
                    cls="workers",
                ),
                P("No worker has been heard of. The queue's workers are started by its own command: see docs/deploy.md.",
                  cls="empty"),
                cls="card",
                aria_label="All workers",
            ),
            id="workers",
            hx_get=f"{base}/workers",
            hx_trigger=f"every {LOOK}s",
            hx_select="#workers",
            hx_swap="outerHTML",
        ),
    )  # fmt: skip


def worker_row(hand: Hand) -> Any:
    return Tr(
        cell(hand.name, "key"),
        cell(hand.host, "host"),
        Td(hand.engine, cls="engine"),
        Td(hand.version, cls="version"),
        Td(f"{hand.in_flight:,}", cls="num"),
        Td(f"{hand.done:,}", cls="num"),
        Td(status_mark("running" if hand.in_flight else "completed", "Working" if hand.in_flight else "Ready")
           if hand.alive else status_mark("cancelled", "Gone"), " ", Small(clock(hand.seen_at))),
        id=f"worker-{hand.name}",
        data_alive="yes" if hand.alive else "no",
        cls="" if hand.alive else "gone",
    )  # fmt: skip
