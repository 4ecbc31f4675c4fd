"""The Celery engine. On any host: `ROWCAST_BROKER_URL=... celery -A rowcast.extras.engine_celery worker`.

A message is one slice of a job; Celery carries it, Rowcast does the rest, so its retries are off and it keeps no results.
"""

from celery import Celery

from rowcast import slices
from rowcast.settings import from_environment

settings = from_environment(worker=True)
app = Celery("rowcast", broker=settings.broker_url)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    task_default_queue="rowcast",
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 60},
)


@app.task(name="rowcast.slice", max_retries=0)
def work(job: int, slot: int, token: str) -> None:
    again = slices.work("celery", settings, job, slot, token)
    if again is not None:
        send(job, slot, token, again)


def send(job: int, slot: int, token: str, delay: float = 0) -> None:
    """See to it that a worker works on the job, `delay` seconds from now."""
    work.apply_async((job, slot, token), countdown=delay or None, retry=False)
