"""Jobs that have ended, by the hundred thousand: the list with its filters, one who follows it, a prune, and a start."""

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from statistics import median, quantiles

import apsw

from bench.many import ask
from bench.memory import APART, ENDED_AT_ONCE, copy
from bench.processes import Dashboard, GaveUp, Reader, api, dashboard, until
from bench.table import Row

SIZES = (300_000, 1_000_000)
QUICK = (100_000,)
PRUNED = 100_000  # jobs, also beside how many one starts
LOOKS = 30  # at each page
FILTERS = {
    "the plain list": "/",
    "filter completed": "/?status=completed",
    "filter failed": "/?status=failed",
    "filter of a task and status": "/?task=moment&status=completed",
    "search": "/?q=moment",
    "search, nothing": "/?q=nowhere",
    "the list, further back": "/?after=500",
}
FOLLOWED = 8.0  # seconds for which others' pages are timed, with one who follows the list and without
STARTS = 5
PAUSE = 0.02  # seconds between two of their looks
OWN = ("items", "keys", "throughput", "growth", "tallies")  # tables that have rows of a job with one item


def archive(quick: bool) -> Iterator[Row]:
    """The list at each size, and what one who follows it costs others; then prune and start beside a hundred thousand."""
    with api() as url:
        for size in QUICK if quick else SIZES:
            with dashboard(url, 1) as ours:
                job = ended(ours)
                one = {name: looked(ours, path) for name, path in FILTERS.items()}
                archived(ours, job, size)
                for name, path in FILTERS.items():
                    title = f"{name}, beside {size:,} ended jobs, beside one"
                    yield Row(title, looked(ours, path), one[name], "ms", None, "< 20")
                yield from followed(ours, job, size)
        yield from pruned(url)
        yield from started(url)


def ended(ours: Dashboard) -> int:
    job = ours.begin("moment", count=1, milliseconds=1)
    until(lambda: ours.job(job)["finished_at"])
    return job


def archived(ours: Dashboard, job: int, jobs: int, whole: bool = False) -> None:
    """Write the job so many times; `whole`: with its item and what else is written of it."""
    for there in range(0, jobs, ENDED_AT_ONCE):
        some = min(ENDED_AT_ONCE, jobs - there)
        copy(ours, job, some, (there - jobs) * APART)
        if whole:
            complete(ours, job, some)


def complete(ours: Dashboard, job: int, jobs: int) -> None:
    """Give the newest so many jobs what this one has in other tables."""
    conn = apsw.Connection(ours.path)
    conn.set_busy_timeout(60_000)
    conn.execute("begin immediate")
    for table in OWN:
        columns = [row[1] for row in conn.execute(f"pragma table_info({table})")]
        names = ", ".join(name for name in columns if name not in ("id", "job"))
        conn.execute(
            f"""insert into {table} (job, {names}) select copies.id, {names}
                from (select id from jobs order by id desc limit ?) as copies
                cross join {table} where {table}.job = ?""",
            (jobs, job),
        )
    conn.execute("commit")
    conn.close()


def looked(ours: Dashboard, path: str) -> float:
    """The median of the milliseconds of an answer."""
    return median(timed(ours, path) for _ in range(LOOKS))


def timed(ours: Dashboard, path: str) -> float:
    began = time.perf_counter()
    ours.client.get(path).raise_for_status()
    return (time.perf_counter() - began) * 1000


def looked_at(ours: Dashboard, path: str) -> float:
    """Milliseconds that a page takes a person, who waits between two looks."""
    time.sleep(PAUSE)
    return timed(ours, path)


def followed(ours: Dashboard, job: int, size: int) -> Iterator[Row]:
    """Others' pages while a job runs, with one who follows the filtered list and without."""
    running = ours.begin("moment", 50, count=100_000, milliseconds=20)
    until(lambda: ours.job(running)["completed"])
    found: dict[bool, list[float]] = {False: [], True: []}
    for follows in (False, True, True, False):
        with follower(ours) if follows else contextlib.nullcontext():
            end = time.monotonic() + FOLLOWED / 2
            while time.monotonic() < end:
                found[follows].append(looked_at(ours, f"/jobs/{job}"))
    if ours.job(running)["status"] != "running":
        raise GaveUp("the job that runs beside it has ended too early")
    ours.act(running, "cancel")
    mine, others = (quantiles(found[one], n=20)[-1] for one in (True, False))
    name = f"another's page while one follows a filtered list, beside {size:,} ended jobs, nobody does"
    yield Row(f"{name}, p95", mine, others, "ms", None, "")
    medians = [median(found[one]) for one in (True, False)]
    yield Row(f"{name}, median", *medians, "ms", medians[0] / medians[1], "< 1.1")


@contextlib.contextmanager
def follower(ours: Dashboard) -> Iterator[None]:
    """A page that follows the list of the jobs that have a word."""
    after = ask(ours, "select seq from rowcast")[0][0]
    reader = Reader(ours, f"/events?view=jobs&q=moment&cursor={after}")
    reader.start()
    try:
        yield
    finally:
        reader.done = True


def pruned(url: str) -> Iterator[Row]:
    """A prune of so many jobs with an item each, and others' pages meanwhile."""
    with dashboard(url, 1) as ours:
        archived(ours, ended(ours), PRUNED, whole=True)
        last = ended(ours)
        before = [looked_at(ours, f"/jobs/{last}") for _ in range(100)]
        took: list[float] = []
        pruning = threading.Thread(target=lambda: took.append(prune(ours)))
        pruning.start()
        meanwhile = []
        while pruning.is_alive():
            meanwhile.append(looked_at(ours, f"/jobs/{last}"))
        pruning.join()
        if ask(ours, "select count(*) from jobs")[0][0] != 1:
            raise GaveUp("not all jobs were pruned")
    name = f"prune of {PRUNED:,} jobs"
    yield Row(name, took[0], None, "s", None, "< 10")
    medians = median(meanwhile), median(before)
    yield Row(
        f"{name}: a page meanwhile, before it, median", *medians, "ms", medians[0] / medians[1], "< 1.1"
    )


def prune(ours: Dashboard) -> float:
    """The seconds that the command takes, its own start with them."""
    began = time.perf_counter()
    command = [ours.python, "-m", "rowcast", "--database", ours.path, "prune", "--keep", "1"]
    subprocess.run(command, cwd=ours.root, check=True, capture_output=True)
    return time.perf_counter() - began


def started(url: str) -> Iterator[Row]:
    """From the start of the process to its first answer, beside so many jobs and beside one."""
    found = []
    for jobs in (PRUNED, 1):
        with dashboard(url, 1) as ours:
            archived(ours, ended(ours), jobs - 1, whole=True)
            found.append(median(ours.restart(url) for _ in range(STARTS)))
    name = f"a start beside {PRUNED:,} jobs, beside one"
    yield Row(name, *found, "ms", None, "")
    yield Row(f"{name}: difference", found[0] - found[1], None, "ms", None, "< 1000")
