"""What jobs cost the memory: a thousand that run, in the worker, and a hundred thousand that have ended, in the server.

Memory is a process's own: of what it shares with others it has its part (PSS, proc_pid_smaps(5)).
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw

from bench.many import ask, worker_of
from bench.processes import Dashboard, GaveUp, Reader, api, dashboard, until
from bench.table import Row

RUNNING = 1_000
AT_ONCE = 1_000
KINDS: dict[str, dict[str, Any]] = {  # of jobs that run: what each waits for
    "an item that sleeps": {"task": "moment", "count": 1, "milliseconds": 600_000},
    "an item that waits for an API": {"task": "update_users", "limit": 1},
    "a call of a function": {"task": "rest"},
}
SLOW = 600_000.0  # milliseconds after which that API answers
ENDED = 100_000
FEWER = 20_000
ENDED_AT_ONCE = 5_000
APART = 10.0  # seconds between two of them
MOMENTS = ("created_at", "started_at", "finished_at", "begun_at", "tuned_at")
STREAMS = 5  # of all jobs, meanwhile
LOOKS = 30  # at each of the pages
PAGES = (
    "/",
    "/?status=completed",
    "/?q=moment",
    "/?after=500",
    "/api/jobs?limit=100",
    "/metrics",
    "/healthz",
)
SETTLED = 2.0  # seconds until a process has what it takes


def memory(quick: bool) -> Iterator[Row]:
    """Both; a quick run has one kind of running jobs."""
    for what, how in list(KINDS.items())[: 1 if quick else None]:
        one, thousand = (while_running(how, jobs) for jobs in (1, RUNNING))
        name = f"memory of the worker, {RUNNING:,} running jobs with {what}, one of them"
        yield Row(name, thousand, one, "MB", None, "")
        yield Row(f"{name}: difference", thousand - one, None, "MB", None, "< 60")
    many = beside_ended(ENDED)
    for there, target in ((1, "< 10"), (FEWER, "< 5")):  # SQLite's caches of pages are full beside the latter
        for who, mine, others in zip(("the server", "its worker"), many, beside_ended(there), strict=True):
            name = f"memory of {who} beside {ENDED:,} ended jobs, beside {there:,}"
            yield Row(name, mine, others, "MB", None, "")
            yield Row(f"{name}: difference", mine - others, None, "MB", None, target)


def own(pid: int) -> float:
    """The megabytes of a process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.partition("\nPss:")[2].split()[0]) / 1024


def while_running(how: dict[str, Any], jobs: int) -> float:
    """The megabytes of the worker while so many jobs run."""
    with api(SLOW) as url, dashboard(url, 100) as ours:
        for _ in range(jobs):
            ours.begin(concurrency=AT_ONCE, **how)
        running = "select count(*) from jobs where running > 0"
        until(lambda: ask(ours, running)[0][0] == jobs)
        time.sleep(SETTLED)
        if ask(ours, running)[0][0] != jobs:
            raise GaveUp("a job has ended")
        return own(worker_of(ours))


def beside_ended(jobs: int) -> tuple[float, float]:
    """The megabytes of the server and of its worker beside so many ended jobs, once all pages have been looked at."""
    with api() as url, dashboard(url, 1) as ours:
        job = ours.begin("moment", count=1, milliseconds=1)
        until(lambda: ours.job(job)["finished_at"])
        for there in range(1, jobs, ENDED_AT_ONCE):
            copy(ours, job, min(ENDED_AT_ONCE, jobs - there), (there - jobs) * APART)
        after = ask(ours, "select seq from rowcast")[0][0]
        readers = [Reader(ours, f"/api/events?after={after}") for _ in range(STREAMS)]
        for reader in readers:
            reader.start()
        for _ in range(LOOKS):
            for page in PAGES:
                ours.client.get(page).raise_for_status()
        again = ours.begin("moment", count=500, milliseconds=1)
        until(lambda: ours.job(again)["finished_at"])
        until(lambda: all(reader.items for reader in readers))
        if ask(ours, "select count(*) from jobs where finished_at is not null")[0][0] != jobs + 1:
            raise GaveUp("there are not as many jobs as there should be")
        time.sleep(SETTLED)
        return own(ours.process.pid), own(worker_of(ours))


def copy(ours: Dashboard, job: int, times: int, later: float) -> None:
    """Write an ended job so many times more, as if it had been `later`, and each of the next somewhat after that.

    What is counted and found of jobs is kept by the file itself.
    """
    conn = apsw.Connection(ours.path)
    conn.set_busy_timeout(60_000)
    columns = [row[1] for row in conn.execute("pragma table_info(jobs)") if row[1] not in ("id", "seq")]
    names = ", ".join(columns)
    moved = {name: f"{name} + ?4 + n * ?5" for name in MOMENTS} | {"news": "?2 - ?1 + 1 + n"}
    values = ", ".join(moved.get(name, name) for name in columns)
    with conn:
        (seq,) = conn.execute("update rowcast set seq = seq + ? returning seq", (times,)).fetchall()[0]
        conn.execute(
            f"""with recursive copies (n) as (select 0 union all select n + 1 from copies where n + 1 < ?1)
                insert into jobs (seq, {names}) select ?2 - ?1 + 1 + n, {values} from copies cross join jobs
                where jobs.id = ?3""",
            (times, seq, job, later, APART),
        )
    conn.close()
