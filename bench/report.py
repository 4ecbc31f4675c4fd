"""The page of figures: what a bench found is kept in build/, and its section of docs/figures.md is written from that. The
sections of the others stay as they are."""

import platform
import re
from collections.abc import Collection
from pathlib import Path

import msgspec

from bench.plot import bars
from bench.table import HEAD, RIGHT, Row

KEPT = Path(__file__).parent.parent / "build" / "figures"
HEADS = {
    "update_users": "The job's speed against the bare loop",
    "fast_lane": "The fast lane",
    "page": "The page while a job runs",
    "filling": "Starting a job, and writing its items",
    "starts": "One empty function for each request",
    "messages": "Receivers that hang",
    "many": "Many jobs at once",
    "memory": "Memory: jobs that run, and jobs that have ended",
    "archive": "The list, beside jobs that have ended",
    "tries": "What it costs to keep every try",
    "eta": "When a job ends, as a range",
    "auto": "Concurrency that is found",
    "retry": "A retry of 1,000,000 items",
    "size": "Size: 1,000 items and 1,000,000",
    "viewers": "A thousand viewers",
    "dom": "From a commit to the DOM",
    "soak": "Clients that are cut and come back",
    "workers": "Several processes",
    "engines": "Slices against messages, and the ledger under many workers",
}
SAID = {
    "update_users": """The bare loop is httpx over httpx-aiohttp's transport, as their packages have them, with nothing
around the requests: the fastest that one would write with httpx. A task gets the same client without what httpx does twice
or in vain for each request. Beside a bare loop over that one, which records nothing, a job shows what it costs to record
and stream every row.""",
    "fast_lane": """Without latency the bare loop alone fills both cores: a request costs some 33 µs of them, of which the
client's own thread has 16, Python 9 and the API 8. An item that is written, claimed and recorded costs 16 µs besides, and a
program that reads each of its changes 10. An API that takes some milliseconds, as any does over a network, leaves room for
both.""",
    "size": """Two jobs in one database; the page, its filters and its search over HTTP, one after the other. The
memory is that of the serving process, and of its worker, at its most while jobs of that size run and are watched.""",
    "starts": """1,000 requests, 20 at once, each of which starts one function that does nothing; the client and all
processes of a side share the two cores. Ours and Huey's are on the disk before the answer, Dramatiq's message is in a
Redis that keeps nothing, Starlette keeps nothing at all. The processor's time is that of all processes of a side but the
client and Redis. The client, httpx as it comes, has 1.6 ms a request, so all are near what it can ask for; what a side
takes of the processor itself is what is left to lose. Ours writes more than a queue does: the job with its words and its
item, that it runs, and its end with its measures, some thirty pages of SQLite in three writes that starts of the same
moment share.""",
    "many": """Jobs of one task, side by side in one worker. The instant items are those of jobs that become due in the same
moment, from then to the end of the last, the writing of their items in it; the peer is one job with all of them, which
waits for its first items where many jobs have theirs at once. Two hundred jobs of 50 items have 17 µs of the worker's
processor an item more than one: 0.9 ms for each job, its start, its first claim and its end, which others share, and what
the worker sets up for it. Of the slow items each of 300 jobs has three at once and claims three ahead, so some 130 of them
tell of one or two items in each of eleven transactions a second: that is 0.24 ms of this machine's processor an item.""",
    "memory": """A process's own memory, and its part of what it shares with others (PSS). The running jobs wait; beside the
ended ones each page of the list, a search, `/metrics` and five streams have been asked for. What the server has beside
twenty thousand more than beside one is SQLite's cache of pages, 2 MB a connection at most.""",
    "archive": """Ended jobs are copies of one. Others' pages are those of a job, while another one runs and a program
follows the list of the jobs that have a word, which all have. The pruned jobs have an item each, and the prune is the command,
its start with it; a start is from the process's begin to its first answer.""",
    "retry": """All items of a job that is paused have failed; another job runs beside it. The peer is the same
machine for five seconds before the retry is pressed. The wait to write is that of another process, which asks every
millisecond.""",
    "viewers": """One serving process, its worker, the API and all viewers on the same two cores. The peer is an app
with sse-starlette that sends events of the same length, made once, ten times a second, while the same job runs. A
frame's delay is from when its making begins, with the reading of what has changed, to its last byte at the viewer (the
peer's: from when the event was made). The delay from the database has besides the wait for the frame's turn, of up to
a tenth of a second. The peer sends whether something has happened or not. Ours sends what the worker has committed, some 10.6
times a second here: of two commits in the 70 ms in which a thousand viewers are sent a frame, nobody is sent the first alone.""",
    "dom": """A real Chromium. Each row says when it was changed; a MutationObserver says when it was in its place.
The pause of a tenth of a second between two frames is in it.""",
    "soak": """Half of the clients are pages and half programs; each is cut after up to two seconds, at any byte, and
comes back with its last id, while a job runs.""",
    "engines": """A queue's workers, two processes on either side. The peer is what one would write first: a message for each
user, its result kept. Ours is one job, from the click to its last row on the stream. What follows from the ledger's figures
is in [scale](scale.md).""",
    "workers": """Pause and resume, each asked of any of the processes; sixteen streams over all of them hear of it.""",
}
INTRODUCTION = """What `make bench` measures, both sides in one run, on a machine with two cores and everything on
loopback; the last run of each bench, by the command below its table. Trust the ratios: the absolute figures are the
machine's. With `--quick` there is one pair of runs and no median: a ratio then wanders by a tenth or more, and a p99
near its target meets it in one run and misses it in another. `python -m bench --write docs` measures again and writes
this page."""


class Found(msgspec.Struct):
    """What one bench found, and where."""

    rows: list[Row]
    machine: str
    how: str  # the command


def machine() -> str:
    return f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"


def keep(name: str, rows: list[Row], quick: bool) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{name}.json").write_bytes(
        msgspec.json.encode(Found(rows, machine(), f"python -m bench {'--quick ' if quick else ''}{name}"))
    )


def write(folder: Path, measured: Collection[str]) -> None:
    """Write figures.md: what was measured now and its plots anew, what was not as it stands there."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    page = folder / "figures.md"
    there = sections(page.read_text()) if page.exists() else {}
    parts = ["# Figures", INTRODUCTION]
    for name, head in HEADS.items():
        file = KEPT / f"{name}.json"
        figures = there.get(head, "")
        if file.exists() and (name in measured or not figures):
            found = msgspec.json.decode(file.read_bytes(), type=Found)
            (folder / "figures" / f"{name}.svg").write_text(bars(head, found.rows))
            plot = f"![{head}](figures/{name}.svg)"
            figures = "\n\n".join([plot, table(found.rows), f"`{found.how}`, {found.machine}."])
        if figures:
            parts += [f"## {head}", *([SAID[name]] if name in SAID else []), figures]
    page.write_text("\n\n".join(parts) + "\n")


def sections(page: str) -> dict[str, str]:
    """Of each head its figures: from the plot on, for what is said above them is here."""
    found = (part.partition("\n") for part in re.split("^## ", page, flags=re.MULTILINE)[1:])
    return {head: "".join(text.partition("![")[1:]).strip() for head, _, text in found}


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    head = "| " + " | ".join(HEAD) + " |"
    line = "|" + "|".join("--:" if n in RIGHT else "---" for n in range(len(HEAD))) + "|"
    return "\n".join([head, line, *("| " + " | ".join(row.cells) + " |" for row in rows)])
