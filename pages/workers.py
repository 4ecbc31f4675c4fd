"""The workers as HTML: a table that asks for itself again."""

from typing import Any

from fasthtml.components import Div, P, Section, Small, Td, Tr

from rowcast.pages.skeleton import table, url
from rowcast.pages.values import cell, clock, status_icon
from rowcast.tasks.languages import mark, tr, written
from rowcast.tasks.records import WorkerRow
from rowcast.tasks.sentences import translated

HEAD = {
    mark("Worker"): "name",
    mark("Host"): "host",
    mark("Engine"): "engine",
    mark("Version"): "version",
    mark("In flight"): "num",
    mark("Done"): "num",
    mark("Last sign of life"): "",
}
SHOWN = 4  # columns on a narrow screen
ASKS_EVERY = 2  # seconds
NOBODY = mark(
    "No worker has been heard of. The queue's workers are started by its own command: see docs/deploy.md."
)


def workers_table(workers: list[WorkerRow]) -> Any:
    """All workers, the dead last and grey."""
    return Div(
        Section(
            table(HEAD, [row for worker in workers for row in worker_rows(worker)], cls="workers"),
            P(tr(NOBODY), cls="empty"),
            cls="card",
            aria_label=tr("All workers"),
        ),
        id="workers",
        hx_get=url("/workers"),
        hx_trigger=f"every {ASKS_EVERY}s",
        hx_select="#workers",
        hx_swap="outerHTML",
    )


def worker_rows(worker: WorkerRow) -> list[Any]:
    """A worker, and below it what holds it up."""
    if not (worker.alive and worker.trouble):
        return [worker_row(worker)]
    return [worker_row(worker), Tr(Td(translated(worker.trouble), colspan=SHOWN, cls="trouble"))]


def worker_row(worker: WorkerRow) -> Any:
    return Tr(
        cell(worker.name, "key"),
        cell(worker.host, "host"),
        Td(worker.engine, cls="engine"),
        Td(worker.version, cls="version"),
        Td(written(f"{worker.in_flight:,}"), cls="num"),
        Td(written(f"{worker.done:,}"), cls="num"),
        Td(state(worker), " ", Small(clock(worker.seen_at))),
        id=f"worker-{worker.name}",
        data_alive="yes" if worker.alive else "no",
        cls="" if worker.alive else "gone",
    )


def state(worker: WorkerRow) -> Any:
    if not worker.alive:
        return status_icon("cancelled", tr("Gone"))
    return (
        status_icon("running", tr("Working")) if worker.in_flight else status_icon("completed", tr("Ready"))
    )
