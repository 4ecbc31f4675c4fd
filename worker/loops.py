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


IDLE = 10.0  # seconds after which anyio lets go of a thread that has nothing to do, once it is asked for one


def run_to_end(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, None] | None = None) -> None:
    """Run what a worker does until that is over, or as long as this process lives. Raises what it has failed
    by, and RuntimeError where the loop cannot go on.
    """
    task = loop.create_task(_first(main))
    while not task.done():
        turned = asyncio.Event()
        loop.call_soon(turned.set)
        try:
            loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            log.debug("A task has ended by %s, and its worker goes on.", type(error).__name__)
        except RuntimeError:  # the loop was stopped, or it cannot begin
            if not turned.is_set():
                raise
    task.result()


async def _first(main: Coroutine[Any, Any, None] | None) -> None:
    await _ask_for_thread()
    keeper = asyncio.create_task(_keep_threads())
    try:
        await (main or asyncio.Event().wait())
    finally:
        keeper.cancel()
        await asyncio.wait([keeper])


async def _ask_for_thread() -> None:
    """anyio keeps its threads as long as the task lasts that the loop runs for, once it has seen that task;
    later it is hidden (beside.py), and a thread would be made for each call.
    """
    with contextlib.suppress(RuntimeError):  # the machine has no thread left
        await anyio.to_thread.run_sync(bool)


async def _keep_threads() -> None:
    while True:
        await asyncio.sleep(IDLE)
        await _ask_for_thread()
