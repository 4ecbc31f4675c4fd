"""The Dramatiq engine. On any host, with ROWCAST_BROKER_URL, ROWCAST_DASHBOARD_URL, ROWCAST_WORKER_TOKEN and
ROWCAST_TASKS:

    dramatiq rowcast.extras.engine_dramatiq

A message is one slice of a job. Dramatiq carries it and Rowcast does the rest, so Dramatiq does not retry.
"""

import os
from typing import Any

import dramatiq

from rowcast.tasks.installed import InstalledFirst

with InstalledFirst():  # Dramatiq has the working directory before all else
    from rowcast.tasks.settings import worker_environment
    from rowcast.worker import process

settings = worker_environment()


class Life(dramatiq.Middleware):
    """What Rowcast wants to know of a worker process."""

    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        worker.queue_prefetch = (
            worker.worker_threads
        )  # no message waits here while another worker has nothing to do
        worker.worker_timeout = 100  # milliseconds at most between two looks into an empty queue

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        process.start("dramatiq", settings, os.getppid())

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        process.stop()

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
        process.leave()


def broker_for(url: str) -> Any:
    """Redis or Valkey, or RabbitMQ for amqp://."""
    if url.startswith("amqp"):
        from dramatiq.brokers.rabbitmq import RabbitmqBroker

        return RabbitmqBroker(url=url)
    from dramatiq.brokers.redis import RedisBroker

    return RedisBroker(url=url, socket_connect_timeout=3)


with InstalledFirst():
    broker = broker_for(settings.broker_url)
broker.add_middleware(Life())
dramatiq.set_broker(broker)


# a queue of its own name: on RabbitMQ it has arguments that Celery's queue `rowcast` has not
@dramatiq.actor(
    actor_name="rowcast_slice", queue_name="rowcast-dramatiq", max_retries=0, time_limit=float("inf")
)
def work(job: int, slot: int, token: str) -> None:
    process.start("dramatiq", settings, os.getppid()).work(job, slot, token, send)


def send(job: int, slot: int, token: str) -> None:
    """See to it that a worker works on this slice of the job."""
    work.send(job, slot, token)


def reach() -> None:
    """Raises where the broker cannot be reached."""
    broker.client.ping() if hasattr(broker, "client") else broker.connection
