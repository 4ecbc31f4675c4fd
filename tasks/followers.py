"""Followers: a job that starts when another one has ended, if that ended as its condition says.

A follower is written when it is asked for, and waits: whatever ends the first one lets it start, or cancels
it, in the same transaction. A follower follows a job that is there, so they never go in a circle.
"""

from rowcast.tasks.languages import mark, tr
from rowcast.tasks.sentences import worded

WAITING = 253_402_300_799.0  # the `run_at` of one that waits: nothing is due then
CONDITIONS = {  # of each, what must have become of the first one
    "green": worded("all of its items have completed"),
    "completed": worded("it has completed, whatever of it failed"),
    "failed": worded("something of it has failed or is unknown"),
    "ended": worded("it has ended, however"),
}
USUAL = "green"
WHEN = {  # the same, for a form
    "green": mark("all of it has completed"),
    "completed": mark("it has completed, also with failures"),
    "failed": mark("something has failed"),
    "ended": mark("it has ended, however"),
}


def is_met(condition: str, status: str, failed: int, unknown: int) -> bool:
    """Whether a job that has ended so is what a follower waits for."""
    is_green = status == "completed" and not failed and not unknown
    return {
        "green": is_green,
        "completed": status == "completed",
        "failed": status != "cancelled" and not is_green,
        "ended": True,
    }[condition]


def waits_for(job: int, condition: str) -> str:
    return tr(
        "It starts when job {job} has ended, if {condition}.", job=job, condition=tr(CONDITIONS[condition])
    )


def not_so(job: int, condition: str) -> str:
    """Why a follower does not start."""
    return worded(f"Job {job} has ended otherwise than this waited for: {CONDITIONS[condition]}.")
