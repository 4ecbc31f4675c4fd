"""`rowcast top`: the jobs in a terminal, as they move, by rich. Install with `pip install 'rowcast[top]'`."""

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rowcast.tasks.settings import BadSetting
from rowcast.tasks.text import printable

EVERY = 1.0  # seconds between two looks
ONCE = 50  # jobs, where no terminal says how many
ABOVE = 3  # lines that are no job's
BAR = 24  # letters
NARROW = 100  # columns, below which it has half of them
WIDE = 200  # columns, where no terminal says how many
BAR_HEAD = ""
SPEED = "A second"
COLUMNS = ("Job", "Task", BAR_HEAD, "Done", "Failed", SPEED, "Left")
COLOURS = {"completed": "green", "failed": "red", "running": "blue", "paused": "yellow"}
PARTS = (("completed", "green"), ("failed", "red"), ("unknown", "magenta"), ("cancelled", "bright_black"))
Look = Callable[[int], list[dict[str, Any]]]  # the jobs, so many at most


def show(url: str, look: Look) -> None:
    """Until Ctrl-C; where the dashboard is away meanwhile, it says so, and goes on when that is back.

    Raises BadSetting where it is not there at first.
    """
    console = Console()
    if not console.is_terminal:
        Console(width=WIDE).print(drawn(look(ONCE), WIDE))  # nobody cuts what a program reads
        return
    jobs = look(console.height - ABOVE)
    head = Text()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                head = head or Text(f"{url}  {time.strftime('%H:%M:%S')}  Ctrl-C ends it", "dim")
                live.update(Group(head, drawn(jobs, console.width)), refresh=True)
                time.sleep(EVERY)
                try:
                    jobs = look(console.height - ABOVE)
                    head = Text()
                except BadSetting as error:
                    head = Text(printable(str(error)), "red")
        except KeyboardInterrupt:
            return


def drawn(jobs: list[dict[str, Any]], width: int) -> Table:
    """So wide: all but the status take what they need, and on a narrow terminal need less."""
    narrow = width < NARROW
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0), expand=True)
    for name in COLUMNS:
        if not (narrow and name == SPEED):
            numbers = name not in ("Task", BAR_HEAD)
            table.add_column(name, justify="right" if numbers else "left", no_wrap=True)
    table.add_column("Status", no_wrap=True, overflow="ellipsis", ratio=1)
    for job in jobs:
        cells = row(job, narrow)
        table.add_row(*(cell for name, cell in cells.items() if not (narrow and name == SPEED)))
    return table


def row(job: dict[str, Any], narrow: bool) -> dict[str, Text]:
    """A job as a row, by column; what others wrote is text, and no markup."""
    done = sum(job[name] for name, _ in PARTS)
    goes = job["finished_at"] is None
    held = job["held_by"] if goes else None
    what = f"{job['status']}: {held['sentence']}" if held else job["reason"] or job["status"]
    between = "/" if narrow else " of "
    return {
        "Job": Text(str(job["id"])),
        "Task": Text(printable(job["task"])[: 16 if narrow else 32]),
        BAR_HEAD: bar(job, BAR // 2 if narrow else BAR),
        "Done": Text(f"{done:,}{between}{job['total']:,}"),
        "Failed": Text(f"{job['failed']:,}" if job["failed"] else "", "red"),
        SPEED: Text(f"{job['rate']:,.1f}" if job["rate"] and goes else ""),
        "Left": Text(span(job["eta"]) if job["eta"] is not None and goes else ""),
        "Status": Text(printable(what), COLOURS.get(job["status"], "")),
    }


def bar(job: dict[str, Any], wide: int) -> Text:
    """How far it is, and how its items have ended: who has failed items sees one at least."""
    made = Text()
    total = max(job["total"], 1)
    for name, colour in PARTS:
        part = max(int(job[name] * wide / total), int(job[name] > 0))
        made.append("\u2501" * min(part, wide - len(made)), colour)
    made.append("\u2501" * (wide - len(made)), "grey30")
    return made


def span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
