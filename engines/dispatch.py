"""Supply: the messages that the dashboard itself sends to a queue. slots.py says which; the engine's file
says how.

It runs in the embedded child beside the filling of items, on a thread of its own: a broker that hangs holds
up nothing.
"""

import asyncio
import importlib
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rowcast.tables.slots import Slots
from rowcast.tasks.trouble import Trouble

log = logging.getLogger("rowcast")
SEND_EVERY = 0.1  # seconds between two looks at what is due


def engine_module(engine: str) -> Any:
    """The file of an engine. Raises ImportError with a sentence where what it needs is not installed."""
    try:
        return importlib.import_module(f"rowcast.extras.engine_{engine}")
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == "rowcast":
            raise
        raise ImportError(
            f"The engine {engine} is not installed: pip install 'rowcast[{engine}]'."
        ) from error


class Supply:
    """Sends what is due, until it is cancelled."""

    def __init__(self, path: str, engine: str):
        self.slots = Slots(path)
        self.engine = engine
        self.thread = ThreadPoolExecutor(1, "supply")
        self.broken = False

    async def serve(self) -> None:
        trouble = Trouble("The supply of the queue")
        while True:
            try:
                await asyncio.get_running_loop().run_in_executor(self.thread, self.send_due)
                trouble.over()
            except Exception as error:
                trouble.meet(error)
            await asyncio.sleep(SEND_EVERY)

    def send_due(self) -> None:
        for message in self.slots.supply(self.engine):
            try:
                engine_module(self.engine).send(*message)
                self.broken = False
            except (Exception, SystemExit) as error:  # each broker has its own
                if not self.broken:
                    log.error(
                        "The broker cannot be reached; trying again: %s: %s", type(error).__name__, error
                    )
                self.broken = True
                self.slots.unsent(*message)
