"""Schedules as data: a task that is started by the clock, with its last jobs and its next moments."""

import msgspec

from rowcast.tasks.records import Options
from rowcast.tasks.sentences import worded


class LastJob(msgspec.Struct):
    """One of the jobs that a schedule has started last."""

    id: int
    status: str
    failed: int
    unknown: int
    reason: str


class Schedule(msgspec.Struct):
    """One row of `schedules`, with its last jobs and its next moments."""

    id: int
    name: str
    task: str
    entry: str
    args: str
    options: str  # JSON of Options
    owner: str
    cron: str
    zone: str
    paused: int
    next_at: float
    last_job: int | None
    trouble: str  # why it did not start at its last moment; '': it did
    missed_at: float | None  # which that was
    created_at: float
    last_jobs: list[LastJob] = []  # the newest first
    moments: list[float] = []  # when it starts next, and then

    @property
    def how(self) -> Options:
        """How its jobs are run."""
        return msgspec.json.decode(self.options, type=Options)

    @property
    def waits_for(self) -> LastJob | None:
        """Its last job, where that is paused: it starts nothing until that has ended."""
        last = [job for job in self.last_jobs if job.id == self.last_job]
        return last[0] if last and last[0].status == "paused" else None

    @property
    def sentence(self) -> str:
        """What keeps it from starting, or kept it, in one sentence; '' for nothing."""
        if self.trouble:
            return self.trouble
        job = self.waits_for
        if not job:
            return ""
        return worded(f"Its last run, job {job.id}, is paused: nothing starts until that has ended.")
