"""Halts as data: nothing new of a task, or of all tasks, starts until somebody lifts it."""

import msgspec

from rowcast.tasks.text import printable


class Halt(msgspec.Struct):
    """One row of `halts`. `task`: '' for all."""

    task: str
    account: str  # who has stopped it
    reason: str
    at: float

    @property
    def sentence(self) -> str:
        what = f"The task {self.task}" if self.task else "Everything"
        why = f" ({printable(self.reason)})" if self.reason else ""
        return (
            f"{what} was stopped by {printable(self.account)}{why}: what runs ends, and nothing new starts."
        )
