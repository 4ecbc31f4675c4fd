"""Event loops of workers, which end by nothing that a task does.

asyncio lets a SystemExit and a KeyboardInterrupt of one of its tasks, or of a callback, out of the loop, also
where who waits for that task has heard of it, and anybody may stop the loop; all else that runs there would
end with it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

import anyio.to_thread

log = logging.getLogger("rowcast")


def run_to_end(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, None] | None = None) -> None:
    """Run what a worker does until that is over, or as long as this process lives. Raises what it has failed
    by.
    """
    task = loop.create_task(_first(main))
    while not task.done():
        try:
            loop.run_until_complete(task)
        except BaseException as error:  # what it has failed by itself is raised below
            if not task.done():
                log.debug("A task has ended the loop by %r, and its worker goes on.", error)
    task.result()


async def _first(main: Coroutine[Any, Any, None] | None) -> None:
    # anyio keeps its threads as long as the task lasts that the loop runs for, once it has seen that task;
    # later it is hidden (beside.py), and a thread would be made for each call
    with contextlib.suppress(RuntimeError):  # the machine has no thread left
        await anyio.to_thread.run_sync(bool)
    await (main or asyncio.Event().wait())
