"""Rowcast: a live dashboard for background jobs. Every item of a job is a row that moves on the page.

from rowcast import task            one function with one decorator is a task
from rowcast import track, step     a loop or a function reports its steps as items
from rowcast import rows            a table of one's own application as items
from rowcast import Mail, Mailer    what a task sends to people, and what sends it
from rowcast import Secret          an argument that nobody is shown, kept encrypted
from rowcast import BackgroundTask  Starlette's, whose runs are jobs on the dashboard
from rowcast import progress        a job's bar and counts in a page of one's own, which follow it
from rowcast import mount           the dashboard under a path of one's own app
"""

from rowcast.tasks.installed import InstalledFirst

with InstalledFirst():
    from typing import TYPE_CHECKING, Any

    from rowcast.tasks.mail import Mail, Mailer
    from rowcast.tasks.registry import task
    from rowcast.tasks.rows import rows
    from rowcast.tasks.secret import Secret
    from rowcast.tasks.steps import Retry, idempotency_key, step, track

if TYPE_CHECKING:
    from rowcast.dashboard import mount
    from rowcast.web.background_task import BackgroundTask
    from rowcast.web.progress import progress

__all__ = [
    "BackgroundTask",
    "Mail",
    "Mailer",
    "Retry",
    "Secret",
    "idempotency_key",
    "mount",
    "progress",
    "rows",
    "step",
    "task",
    "track",
]


def __getattr__(name: str) -> Any:
    """`mount` and `BackgroundTask` bring the web with them, which a worker does not need."""
    with InstalledFirst():
        if name == "mount":
            from rowcast.dashboard import mount

            return mount
        if name == "BackgroundTask":
            from rowcast.web.background_task import BackgroundTask

            return BackgroundTask
        if name == "progress":
            from rowcast.web.progress import progress

            return progress
    raise AttributeError(f"module 'rowcast' has no attribute {name!r}")
