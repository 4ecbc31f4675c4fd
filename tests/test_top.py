"""`rowcast top` in a terminal of its own, and where there is none."""

import io
import os
import pty
import select
import signal
import subprocess
import sys
from typing import Any

from rich.console import Console

from rowcast.extras.top import BAR, bar, drawn, row, span
from tests.conftest import Server, free_port, rowcast, until


def job_as(**changes: Any) -> dict[str, Any]:
    counts = dict.fromkeys(("completed", "failed", "cancelled", "unknown", "queued", "running"), 0)
    plain = {"id": 1, "task": "post", "status": "running", "reason": "", "total": 0, "rate": 0, "eta": None}
    return plain | counts | {"held_by": None, "finished_at": None} | changes


def test_where_there_is_no_terminal_it_is_printed_once(server: Server):
    job = server.begin("counter", loops=2)
    server.ended(job)
    done = rowcast("top", "--url", server.url, "--task", "counter")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.split()[:1] == [str(job)])
    assert "counter" in line and "2 of 2" in line and line.rstrip().endswith("completed")
    gone = rowcast("top", "--port", str(free_port()))
    assert (gone.returncode, gone.stderr.count("\n")) == (2, 1) and "cannot be reached" in gone.stderr


def test_in_a_terminal_it_follows_until_ctrl_c(server: Server):
    ours, theirs = pty.openpty()  # of 80 columns
    env = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(
        [sys.executable, "-m", "rowcast", "top", "--url", server.url],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=env,
    )
    os.close(theirs)
    seen = ""

    def shows(text: str) -> bool:
        nonlocal seen
        if select.select([ours], [], [], 0)[0]:
            seen += os.read(ours, 65_536).decode(errors="replace")
        return text in seen

    try:
        until(lambda: shows("Ctrl-C ends it"))
        job = server.begin("counter", loops=3)
        until(lambda: shows("3/3") and server.job(job)["finished_at"])
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0
    finally:
        process.kill()
        process.wait(60)
        os.close(ours)


def test_a_row_is_what_the_job_is_and_nothing_in_it_is_markup():
    paused = job_as(
        status="paused",
        task="[red]a\x1b[31m",
        completed=3,
        failed=1,
        total=100_000,
        rate=1234.5,
        eta=3700.0,
        held_by={"cause": "paused", "sentence": "Nothing new starts.", "until": None},
    )
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(drawn([paused], 160))
    text = console.export_text()
    for part in ("[red]a\\x1b[31m", "4 of 100,000", "1,234.5", "1:01:40", "paused: Nothing new starts."):
        assert part in text, text
    ended = row(job_as(status="completed", finished_at="then", rate=5.0, eta=1.0), narrow=False)
    assert [cell.plain for cell in ended.values()][5:] == ["", "", "completed"]
    small = Console(width=80, record=True, file=io.StringIO())
    small.print(drawn([paused], 80))
    for part in ("4/100,000", "1:01:40", "paused: N"):
        assert part in small.export_text(clear=False), part


def test_a_bar_is_as_long_as_it_is_and_shows_one_failure_among_many():
    for counts in ({}, {"completed": 7}, {"completed": 6, "failed": 1}, {"cancelled": 3, "unknown": 4}):
        assert len(bar(job_as(total=7, **counts), BAR)) == BAR
    one = bar(job_as(total=100_000, completed=50_000, failed=1), BAR)
    assert [str(part.style) for part in one.spans] == ["green", "red", "grey30"]
    assert span(59.9) == "0:59"
