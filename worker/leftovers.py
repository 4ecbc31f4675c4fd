"""Leftovers: calls that go on in this process when their tries are over, as nobody can stop a thread, nor
what catches whatever comes. No item is one, and it may still end the process: whoever runs beside it then
is not to be blamed (tables/rescue.py).
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

_lock = threading.Lock()
_going: list[Callable[[], bool]] = []  # of each, whether it goes on


def leave(goes_on: Callable[[], bool]) -> None:
    """A try is over of which something may go on, as long as this says."""
    if goes_on():
        with _lock:
            _going.append(goes_on)


def leave_task(one: "asyncio.Task[Any]") -> None:
    """The same of an asyncio task."""
    leave(lambda: not one.done())


def number() -> int:
    """How many there are now."""
    with _lock:
        _going[:] = [goes_on for goes_on in _going if goes_on()]
        return len(_going)
