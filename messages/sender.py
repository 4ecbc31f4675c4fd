"""The sender: what is in the outbox is sent, tried again, and given up after `--notify-for`.

It is a thread of the embedded engine's child, which there is once for a database, with an event loop of its
own: no message slows a job. Many are sent at once, to one receiver few, so a receiver that hangs holds up
itself alone. Whatever dies, the row is there; what was under way is sent again, under the same id.
"""

import asyncio
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from rowcast.messages.channels import Later, Means, Never, channel_named
from rowcast.tables.outbox import Outbox
from rowcast.tasks import clock
from rowcast.tasks.records import Delivery
from rowcast.tasks.settings import Settings
from rowcast.tasks.trouble import Trouble

log = logging.getLogger("rowcast")
LOOK_EVERY = 0.25  # seconds between two looks for what is due, at least
LOOK_SELDOM = 5.0  # at most
LOOKS = 100  # times as long as a look takes are between two: it takes a hundredth of a processor
AT_ONCE = 128  # messages under way
FEW = 4  # of them, to one receiver, or as mail
LIMIT = 20.0  # seconds for a try (Standard Webhooks: 15 to 30)
FIRST = 5.0  # seconds before the second try at most: full jitter (Exponential Backoff And Jitter, M. Brooker)
TIMES = 2  # as long as it has been tried for, at most, before each further one
SLOWEST = 7200.0  # seconds between two tries at most
ALL_WAIT = 60.0  # seconds at most that all messages wait for a receiver that does not answer
SOON = 0.5  # seconds that are waited at least
GRACE = 2.0  # seconds that what is under way gets at a stop
LAST_WORDS = 0.5  # seconds that are left for what is under way when all else has ended
AGAIN = 1.0  # seconds until what the machine refused is tried again


def wait_after(tried: float) -> float:
    """Seconds until the next try of what has been tried for so long: random, that not all come back at once.

    So it doubles about with each try, whatever else has cut tries short or asked for one.
    """
    return random.uniform(SOON, min(SLOWEST, max(FIRST, TIMES * tried)))


def wait_after_look(took: float) -> float:
    """Seconds until the next look. One takes long where thousands are due to receivers that hang."""
    return min(max(LOOK_EVERY, LOOKS * took), LOOK_SELDOM)


class Sender:
    """Sends what is due, until it is stopped."""

    def __init__(self, path: str, settings: Settings):
        self.outbox = Outbox(path)
        self.settings = settings
        self.means = Means(path, settings)
        self.under_way: Counter[str] = Counter()  # messages, by lane
        self.tasks: set[asyncio.Task[None]] = set()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, name="messages", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """Begin nothing more; what is under way gets its grace, what is left is sent at the next start."""
        self.stopping.set()

    def join(self) -> None:
        """Wait for what is under way, for a moment."""
        self.thread.join(LAST_WORDS)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self.serve())

    async def serve(self) -> None:
        """The loop. Whatever it meets with, it goes on."""
        loop = asyncio.get_running_loop()
        # names are looked up in threads: of as many as there may be, one that hangs holds up no other
        loop.set_default_executor(ThreadPoolExecutor(AT_ONCE, "names"))
        trouble = Trouble("The sending of messages")
        began = False
        async with self.means.stack:
            while not self.stopping.is_set():
                took = 0.0
                try:
                    if not began:
                        self.outbox.take_back()
                        began = True
                    took = self._begin_due()
                    trouble.over()
                except Exception as error:
                    trouble.meet(error)
                    await asyncio.sleep(AGAIN)
                await asyncio.sleep(wait_after_look(took))
            if self.tasks:
                await asyncio.wait(self.tasks, timeout=GRACE)
            for task in self.tasks:
                task.cancel()

    def _begin_due(self) -> float:
        """Begin to send what is due, as far as there is room; returns how long it took to look for that."""
        room = AT_ONCE - len(self.tasks)
        full = [lane for lane, number in self.under_way.items() if number >= FEW]
        before = time.thread_time()
        is_due = room > 0 and self.outbox.is_due(full)
        took = time.thread_time() - before
        if not is_due:
            return took
        for delivery in self.outbox.claim(room, FEW, self.under_way):
            self.under_way[delivery.lane] += 1
            task = asyncio.create_task(self._send(delivery))
            self.tasks.add(task)
            task.add_done_callback(partial(self._sent, delivery.lane))
        return took

    def _sent(self, lane: str, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self.under_way[lane] -= 1
        if not self.under_way[lane]:
            del self.under_way[lane]

    async def _send(self, delivery: Delivery) -> None:
        """One try, and what came of it into the outbox."""
        try:
            async with asyncio.timeout(LIMIT):
                code = await channel_named(delivery.channel)(delivery, self.means)
        except Never as error:
            await self._write(self.outbox.give_up, delivery, error.code, str(error))
        except Later as error:
            await self._put_off(delivery, error)
        except TimeoutError:
            await self._put_off(delivery, Later(f"no answer within {LIMIT:g} s"))
        except Exception as error:
            log.exception("message %s", delivery.id)
            await self._put_off(delivery, Later(f"{type(error).__name__}: {error}"))
        else:
            await self._write(self.outbox.deliver, delivery, code)

    async def _put_off(self, delivery: Delivery, why: Later) -> None:
        """Try again later, or give it up where it has been tried for --notify-for."""
        now = clock.now()
        last = delivery.asked_at + self.settings.notify_for
        if now >= last:
            await self._write(self.outbox.give_up, delivery, why.code, str(why))
            return
        due_at = min(now + wait_after(now - delivery.asked_at), last)
        others_at = 0.0
        if why.retry_after is not None:  # heeded, also where that is the last try
            due_at = others_at = max(due_at, now + why.retry_after)
        elif why.code is None:  # nobody is there: the others need not all find that out
            others_at = min(due_at, now + ALL_WAIT)
        await self._write(self.outbox.put_off, delivery, why.code, str(why), due_at, others_at)

    async def _write(self, write: Callable[..., None], *values: Any) -> None:
        """Write what came of a try; while the database cannot be written, the message is under way."""
        trouble = Trouble("The outbox")
        while not self.stopping.is_set() or not trouble.said:
            try:
                write(*values)
                trouble.over()
                return
            except Exception as error:
                trouble.meet(error)
                await asyncio.sleep(AGAIN)
