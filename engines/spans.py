"""The spans of jobs, told of each once it has ended; those of runs and tries are told where they run."""

from collections.abc import Callable

from rowcast.jobs import Jobs
from rowcast.tasks import clock
from rowcast.tasks.records import Job

MOST_TOLD = 10_000  # jobs that have ended, of which it is remembered that their spans were sent


class Spans:
    """Tells of each job that ends, once; with `otel`, whose spans of jobs these are."""

    def __init__(self, jobs: Jobs, tell: Callable[[Job], None]):
        self.jobs = jobs
        self.tell = tell
        self.seq = jobs.seq()
        self.since = clock.now()
        self.told: dict[int, float | None] = {}  # the end of each that was told of, by its number

    def look(self) -> None:
        while ended := self.jobs.ended_since(self.seq, self.since):
            for job in ended:
                if self.told.pop(job.id, None) != job.finished_at:
                    self.tell(job)
                self.told[job.id] = job.finished_at
            self.seq = ended[-1].seq
        for job_id in list(self.told)[:-MOST_TOLD]:
            del self.told[job_id]
