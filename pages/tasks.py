"""A task's page: its words, and its last runs side by side. Was this one slower than usual?"""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from fasthtml.common import Safe
from fasthtml.components import H1, H2, A, Div, Li, Ol, P, Section, Small, Span

from rowcast.pages.charts import line_of
from rowcast.pages.skeleton import url
from rowcast.pages.values import done_of, duration, rate_text, visible
from rowcast.tasks.records import Job
from rowcast.tasks.registry import Task

TALL, FLAT = 44.0, 26.0  # heights of a row of bars
SLOWER = 1.5  # times as long as usual: it is said


def task_titles(name: str, task: Task | None) -> Any:
    """The task's name and where it is from, and what it says of itself."""
    where = f"in {task.entry}" if task else "not among the tasks of this server"
    help = task.help.partition("\n\n")[0] if task else ""
    return (
        Div(H1(visible(name)), Small(where), cls="titles"),
        P(help, cls="soft") if help else "",
    )


def last_runs(jobs: Sequence[Job]) -> Any:
    """The task's last runs that have ended, the oldest first: how long each took, how fast, what failed."""
    if not jobs:
        return Section(
            Div(H2("Its last runs"), cls="head"),
            P("None has ended yet. ", A("All jobs", href=url("/")), cls="soft pad"),
            cls="card",
            aria_label="Its last runs",
        )
    times = [job.elapsed for job in jobs]
    speeds = [done_of(job) / max(job.elapsed, 0.001) for job in jobs]
    done = sum(job.completed for job in jobs) / max(1, sum(job.total for job in jobs))
    usual = median(times)
    return Section(
        Div(
            H2("Its last run" if len(jobs) == 1 else f"Its last {len(jobs)} runs"),
            Small(f"median {duration(usual)} · {100 * done:.3g} % completed"),
            cls="row apart head",
        ),
        Div(
            *strip("Took", jobs, times, TALL, "c-running", lambda job: duration(job.elapsed)),
            *strip("Rate", jobs, speeds, FLAT, "c-cancelled", rate_text),
            *strip("Failed", jobs, [job.failed for job in jobs], FLAT, "c-failed", failed_text),
            Span("Job"),
            Ol(*[Li(A(f"#{job.id}", href=url(f"/jobs/{job.id}"))) for job in jobs], aria_label="Job"),
            cls="ten",
        ),
        P(*said_of(jobs, usual), cls="soft pad"),
        cls="card",
        aria_label="Its last runs",
        id="runs",
    )


def strip(
    name: str,
    jobs: Sequence[Job],
    values: Sequence[float],
    height: float,
    cls: str,
    text: Callable[[Job], str],
) -> tuple[Any, ...]:
    """A row of bars, and below it what they stand for, which is what a screen reader reads."""
    top = max([*values, 1e-9])
    bars = [Li(Safe(bar_svg(value / top, height, cls))) for value in values]
    words = [Li(text(job), cls="last" if job is jobs[-1] else None) for job in jobs]
    flat = "flat" if height < TALL else None
    return Span(name), Ol(*bars, cls=flat, aria_hidden="true"), Span(), Ol(*words, aria_label=name)


def bar_svg(part: float, height: float, cls: str) -> str:
    tall = max(2.0, part * (height - 2)) if part > 0 else 0.0
    return (
        f'<svg viewBox="0 0 40 {height:g}" preserveAspectRatio="none">'
        f'<rect class="{cls}" x="6" y="{height - tall:.1f}" width="28" height="{tall:.1f}"/>'
        f"{line_of(0, height, 40, height, 'base')}</svg>"
    )


def failed_text(job: Job) -> str:
    return f"{job.failed:,}" if job.failed else "–"


def said_of(jobs: Sequence[Job], usual: float) -> tuple[Any, ...]:
    """The last run beside the others, in a sentence."""
    last = jobs[-1]
    name = A(f"#{last.id}", href=url(f"/jobs/{last.id}"))
    if len(jobs) < 3:
        return (name, " is the last one; with more of them they can be held against each other.")
    if last.elapsed > SLOWER * usual:
        return (name, f" took {last.elapsed / usual:.1f} times as long as usual.")
    if last.elapsed * SLOWER < usual:
        return (name, f" took {usual / max(last.elapsed, 0.001):.1f} times less than usual.")
    return (name, " took about as long as usual.")
