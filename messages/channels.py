"""Channels: how a message goes out, by the name of its channel, and what a channel says of a message.

A channel is a function that sends one delivery and returns the answer's code, if there is one. It raises
Later for what may be tried again, Never for what may not; whatever else it raises is tried again. It gets a
limit of time from the sender, which it may put off by `take`, and what it opens it keeps in `Means`. Its
module is imported when it is first needed.
"""

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from rowcast.tasks.languages import ENGLISH
from rowcast.tasks.records import Delivery
from rowcast.tasks.settings import Settings, address

T = TypeVar("T")


class Later(Exception):
    """It did not arrive, and may if it is tried again; `retry_after`: not before so many seconds."""

    def __init__(self, error: str, code: int | None = None, retry_after: float | None = None):
        super().__init__(error)
        self.code = code
        self.retry_after = retry_after


class Never(Exception):
    """It did not arrive, and to try again would change nothing."""

    def __init__(self, error: str, code: int | None = None):
        super().__init__(error)
        self.code = code


current_limit: ContextVar[asyncio.Timeout | None] = ContextVar("current_limit", default=None)  # of a try


def take(seconds: float) -> None:
    """The try that is under way here may go on for so long from now on."""
    if limit := current_limit.get():
        limit.reschedule(asyncio.get_running_loop().time() + seconds)


@dataclass
class Means:
    """What channels send with: the database's file, the settings, where the dashboard is, what they keep
    open.
    """

    path: str
    settings: Settings
    here: str = ""  # the dashboard's address, where a request had to tell it
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    opened: dict[Any, Any] = field(default_factory=dict)

    async def keep(self, make: Callable[["Means"], AbstractAsyncContextManager[T]]) -> T:
        """What `make` opens, opened once and closed with the sender."""
        if make not in self.opened:
            self.opened[make] = await self.stack.enter_async_context(make(self))
        return cast(T, self.opened[make])

    def language(self, delivery: Delivery) -> str:
        """In which a message is told: that of who started the job, else the setting's, else English."""
        return self.settings.language or delivery.language or ENGLISH

    def link(self, job: int) -> str:
        """The address of a job's page, for people."""
        base = self.settings.public_url or self.here or address(self.settings)
        return f"{base.rstrip('/')}/jobs/{job}"


Channel = Callable[[Delivery, Means], Awaitable[int | None]]
# Each is a module with a function `send`.
CHANNELS = {
    "webhook": "rowcast.messages.webhook",
    "email": "rowcast.messages.mail",
    "apprise": "rowcast.messages.chat",
    "push": "rowcast.messages.push",
}


def channel_named(name: str) -> Channel:
    """Raises Never where there is no such channel, or what it needs is not installed."""
    try:
        return cast(Channel, importlib.import_module(CHANNELS[name]).send)
    except (KeyError, ImportError) as error:
        raise Never(f"Messages cannot be sent by {name} here: {error}.") from error
