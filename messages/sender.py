"""The sender: what is in the outbox is sent, tried again, and given up after `--notify-for`.

It is a thread of the embedded engine's child, which there is once for a database, with an event loop of its
own: no message slows a job. Many are sent at once, to one receiver few, so a receiver that hangs holds up
itself alone. Whatever dies, the row is there; what was under way is sent again, under the same id.

It sleeps until the next is due, a try has ended, or it is told that something came into the outbox (`look`).
What hangs costs next to nothing, however many there are: what is tried again becomes due at few moments, what
came of it is written with what is taken then, and to a receiver that has not answered goes one at once.
"""

import asyncio
import contextlib
import logging
import math
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from rowcast.messages.channels import Later, Means, Never, channel_named, current_limit
from rowcast.tables.outbox import Came, Free, Outbox
from rowcast.tasks import clock
from rowcast.tasks.records import Delivery
from rowcast.tasks.settings import Settings
from rowcast.tasks.trouble import Trouble

log = logging.getLogger("rowcast")
LOOK_EVERY = 0.05  # seconds between two looks for what is due, at least
LOOK_SELDOM = 5.0  # at most: whoever tells of what came in may be held up
LOOKS = 100  # times as long as a look takes are between two: it takes a hundredth of a processor
AT_ONCE = 128  # messages under way
FEW = 4  # of them, to one receiver, or as mail
LIMIT = 20.0  # seconds for a try (Standard Webhooks: 15 to 30)
FIRST = 5.0  # seconds before the second try at most: full jitter (Exponential Backoff And Jitter, M. Brooker)
TIMES = 2  # as long as it has been tried for, at most, before each further one
SLOWEST = 7200.0  # seconds between two tries at most
ALL_WAIT = 60.0  # seconds at most that all messages wait for a receiver that does not answer
SOON = 0.5  # seconds that are waited at least
GATHER = 1.0  # seconds until what has not arrived is written down at the latest, with all else that has not
MOMENTS = 2  # to so many moments, about, what is tried again is put in the time for which it has been tried
CLOSEST = 1.0  # seconds between two of these moments, at least
FARTHEST = 32.0  # and at most
GRACE = 2.0  # seconds that what is under way gets at a stop
LAST_WORDS = 0.5  # seconds that are left for what is under way when all else has ended
AGAIN = 1.0  # seconds until what the machine refused is tried again


def wait_after(tried: float) -> float:
    """Seconds until the next try of what has been tried for so long: random, that not all come back at once.

    So it doubles about with each try, whatever else has cut tries short or asked for one.
    """
    return random.uniform(SOON, min(SLOWEST, max(FIRST, TIMES * tried)))


def between_moments(tried: float) -> float:
    """Seconds between two moments at which what has been tried for so long may be due: a power of two, so
    that those of what was tried for longer are moments of all.
    """
    return min(max(CLOSEST, 2.0 ** math.floor(math.log2(max(tried, CLOSEST) / MOMENTS))), FARTHEST)


def wait_after_look(took: float) -> float:
    """Seconds until the next look. One takes long where thousands of receivers hang."""
    return min(max(LOOK_EVERY, LOOKS * took), LOOK_SELDOM)


class Sender:
    """Sends what is due, until it is stopped."""

    def __init__(self, path: str, settings: Settings):
        self.outbox = Outbox(path)
        self.settings = settings
        self.means = Means(path, settings)
        self.under_way: Counter[str] = Counter()  # messages, by lane
        self.silent: set[str] = set()  # lanes over which nobody has answered the last try
        self.tasks: set[asyncio.Task[None]] = set()
        self.came: list[Came] = []  # what came of tries and is not written yet
        self.phase = random.uniform(0, FARTHEST)  # of its moments: many dashboards do not have the same
        self.moves = -1  # what the outbox's number was when it was looked for last
        self.loop: asyncio.AbstractEventLoop | None = None
        self.rung = asyncio.Event()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, name="messages", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """Begin nothing more; what is under way gets its grace, what is left is sent at the next start."""
        self.stopping.set()
        self._ring()

    def join(self) -> None:
        """Wait for what is under way, for a moment."""
        self.thread.join(LAST_WORDS)

    def look(self) -> None:
        """The database has changed: if something has come into the outbox, it is sent."""
        if (moves := self.outbox.moves()) != self.moves:
            self.moves = moves
            self._ring()

    def _ring(self) -> None:
        if loop := self.loop:
            with contextlib.suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(self.rung.set)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self.serve())

    async def serve(self) -> None:
        """The loop. Whatever it meets with, it goes on."""
        self.loop = asyncio.get_running_loop()
        # names are looked up in threads: of as many as there may be, one that hangs holds up no other
        self.loop.set_default_executor(ThreadPoolExecutor(AT_ONCE, "names"))
        trouble = Trouble("The sending of messages")
        began = False
        async with self.means.stack:
            while not self.stopping.is_set():
                self.rung.clear()
                before = time.thread_time()
                try:
                    if not began:
                        self.outbox.take_back()
                        began = True
                    seconds = self._turn()
                    trouble.over()
                except Exception as error:
                    trouble.meet(error)
                    seconds = 0.0
                    await asyncio.sleep(AGAIN)
                least = wait_after_look(time.thread_time() - before)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.rung.wait(), max(seconds, least))
                    await asyncio.sleep(least)
            if self.tasks:
                await asyncio.wait(self.tasks, timeout=GRACE)
            for task in self.tasks:
                task.cancel()
            if self.came:
                try:
                    self._turn(last=True)
                except Exception as error:
                    trouble.meet(error)

    def _turn(self, last: bool = False) -> float:
        """Write what came of tries and begin to send what is due, as far as there is room; returns for how
        many seconds nothing will be due.
        """
        free = Free(0 if last else AT_ONCE - len(self.tasks), FEW, self.under_way, self.silent)
        told = self.came[:]
        taken, due_at = self.outbox.turn(told, free)
        del self.came[: len(told)]
        for delivery in taken:
            self.under_way[delivery.lane] += 1
            task = asyncio.create_task(self._send(delivery, delivery.asked_at - clock.start()))
            self.tasks.add(task)
            task.add_done_callback(partial(self._sent, delivery.lane))
        return min(max(due_at - clock.now(), 0.0), LOOK_SELDOM)

    def _sent(self, lane: str, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self.under_way[lane] -= 1
        if not self.under_way[lane]:
            del self.under_way[lane]

    async def _send(self, delivery: Delivery, asked_at: float) -> None:
        """One try, and what came of it into the outbox. `asked_at` is by `clock.steady`: the other may be set
        meanwhile.
        """
        try:
            async with asyncio.timeout(LIMIT) as limit:
                current_limit.set(limit)
                code = await channel_named(delivery.channel)(delivery, self.means)
        except Never as error:
            self._note(Came(delivery, "failed", error.code, str(error)))
        except Later as error:
            self._put_off(delivery, asked_at, error)
        except TimeoutError:
            self._put_off(delivery, asked_at, Later(f"no answer within {LIMIT:g} s"))
        except Exception as error:
            log.exception("message %s", delivery.id)
            self._put_off(delivery, asked_at, Later(f"{type(error).__name__}: {error}"))
        else:
            self._note(Came(delivery, "delivered", code))

    def _put_off(self, delivery: Delivery, asked_at: float, why: Later) -> None:
        """Try again later, or give it up where it has been tried for --notify-for."""
        now = clock.steady()
        tried = now - asked_at
        last = asked_at + self.settings.notify_for
        if now >= last:
            self._note(Came(delivery, "failed", why.code, str(why)), answered=why.code is not None)
            return
        due_at = min(self._moment(now + wait_after(tried), tried), last)
        others_at = 0.0
        if why.retry_after is not None:  # heeded, also where that is the last try
            due_at = others_at = max(due_at, now + why.retry_after)
        elif why.code is None:  # nobody is there: the others need not all find that out
            others_at = min(due_at, now + ALL_WAIT)
        self._note(
            Came(delivery, "queued", why.code, str(why), due_at, others_at), answered=why.code is not None
        )

    def _moment(self, at: float, tried: float) -> float:
        """The next moment, from then on, at which what has been tried for so long may be due."""
        apart = between_moments(tried)
        return math.ceil((at - self.phase) / apart) * apart + self.phase

    def _note(self, came: Came, answered: bool = True) -> None:
        """Have it written: at once, or where it is only put off, with the others of some moments."""
        if answered:
            self.silent.discard(came.delivery.lane)
        else:
            self.silent.add(came.delivery.lane)
        self.came.append(came)
        if came.status != "queued":
            self.rung.set()
        elif sum(one.status == "queued" for one in self.came) == 1:
            asyncio.get_running_loop().call_later(GATHER, self.rung.set)
