"""The Celery engine. On any host, with ROWCAST_BROKER_URL, ROWCAST_DASHBOARD_URL, ROWCAST_WORKER_TOKEN and
ROWCAST_TASKS:

    celery -A rowcast.extras.engine_celery worker

A message is one slice of a job. Celery carries it and Rowcast does the rest, so Celery neither retries nor
keeps results.
"""

import os
from typing import Any

from celery import Celery, signals

from rowcast.tasks.installed import InstalledFirst

with InstalledFirst():  # Celery puts the working directory before all else while it imports this
    from rowcast.tasks.settings import worker_environment
    from rowcast.worker import process

settings = worker_environment()
app = Celery("rowcast", broker=settings.broker_url)
app.conf.update(
    task_default_queue="rowcast",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    # on RabbitMQ its queue is the host's and lets one worker in: a second one there would get no work
    worker_enable_remote_control=not settings.broker_url.startswith("amqp"),
    broker_transport_options={
        "max_retries": 2,
        "interval_start": 0,
        "interval_step": 0.2,
        "socket_connect_timeout": 3,
    },
)


@app.task(name="rowcast.slice", max_retries=0)
def work(job: int, slot: int, token: str) -> None:
    process.start("celery", settings, os.getpid()).work(job, slot, token, send)


def send(job: int, slot: int, token: str) -> None:
    """See to it that a worker works on this slice of the job."""
    work.apply_async((job, slot, token), retry=False)


def reach() -> None:
    """Raises where the broker cannot be reached."""
    with app.connection_for_write(connect_timeout=3) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)


@signals.worker_process_init.connect
def begin_in_pool(**_: Any) -> None:
    process.start("celery", settings, os.getppid())


@signals.worker_ready.connect
def begin_here(sender: Any, **_: Any) -> None:
    if "prefork" not in type(sender.pool).__module__:
        process.start("celery", settings, os.getpid())


signals.worker_shutting_down.connect(process.stop)
signals.worker_process_shutdown.connect(process.leave)
signals.worker_shutdown.connect(process.leave)
