"""Halts as data: nothing new of a task, or of all tasks, starts until somebody lifts it."""

import msgspec

from rowcast.tasks.sentences import worded
from rowcast.tasks.text import printable


class Halt(msgspec.Struct):
    """One row of `halts`. `task`: '' for all."""

    task: str
    account: str  # who has stopped it
    reason: str
    at: float

    @property
    def sentence(self) -> str:
        account = printable(self.account)
        reason = printable(self.reason)
        by = f"{account} ({reason})" if reason else account
        if not self.task:
            return worded(f"Everything was stopped by {by}: what runs ends, and nothing new starts.")
        return worded(f"The task {self.task} was stopped by {by}: what runs ends, and nothing new starts.")
