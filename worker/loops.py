"""Event loops of workers, which end by nothing that a task does.

asyncio lets a SystemExit and a KeyboardInterrupt of one of its tasks, or of a callback, out of the loop, also
where who waits for that task has heard of it, and anybody may stop the loop; all else that runs there would
end with it.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger("rowcast")


def turn(loop: asyncio.AbstractEventLoop, main: "asyncio.Task[None] | None" = None) -> None:
    """Run it until that is over, or as long as this process lives."""
    while not (main and main.done()):
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:
            log.debug("A task has ended by %s, and its worker goes on.", type(error).__name__)


def run_to_end(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, None]) -> None:
    """Run what a worker does until that is over. Raises what it has failed by."""
    task = loop.create_task(main)
    task.add_done_callback(lambda _: loop.stop())
    turn(loop, task)
    task.result()
