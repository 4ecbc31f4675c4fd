"""The Dramatiq engine. On any host: `ROWCAST_BROKER_URL=... dramatiq rowcast.extras.engine_dramatiq`.

A message is one slice of a job; Dramatiq carries it, Rowcast does the rest, so its retries are off.
"""

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from rowcast import slices
from rowcast.settings import from_environment

settings = from_environment(worker=True)


def broker_for(url: str) -> dramatiq.Broker:
    """Redis or Valkey, or RabbitMQ for amqp://."""
    if url.startswith("amqp"):
        from dramatiq.brokers.rabbitmq import RabbitmqBroker

        return RabbitmqBroker(url=url)
    return RedisBroker(url=url)


dramatiq.set_broker(broker_for(settings.broker_url))


@dramatiq.actor(actor_name="rowcast_slice", queue_name="rowcast", max_retries=0, time_limit=float("inf"))
def work(job: int, slot: int, token: str) -> None:
    again = slices.work("dramatiq", settings, job, slot, token)
    if again is not None:
        send(job, slot, token, again)


def send(job: int, slot: int, token: str, delay: float = 0) -> None:
    """See to it that a worker works on the job, `delay` seconds from now."""
    work.send_with_options(args=(job, slot, token), delay=int(delay * 1000) or None)
