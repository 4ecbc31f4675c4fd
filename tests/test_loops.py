"""A worker's loop: nothing that a task does ends it, and its threads are for one call after the other."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from rowcast.worker.beside import heed_beside
from rowcast.worker.loops import run_to_end
from rowcast.worker.process import new_loop
from rowcast.worker.threads import InThread

pytestmark = pytest.mark.quick


def run(main: Any) -> None:
    with contextlib.closing(new_loop()) as loop:
        run_to_end(loop, main)


@pytest.mark.parametrize("kind", [asyncio.new_event_loop, new_loop])
def test_one_thread_makes_one_call_after_the_other(kind: Callable[[], asyncio.AbstractEventLoop]):
    threads: list[threading.Thread] = []

    async def calls() -> None:
        heed_beside(Mock(function=run))
        call = InThread(lambda _: threads.append(threading.current_thread()), {})
        for _ in range(20):
            await asyncio.create_task(call(None))

    with contextlib.closing(kind()) as loop:
        run_to_end(loop, calls())
    assert len(threads) == 20 and len(set(threads)) == 1


def test_a_loop_goes_on_that_somebody_stops_or_leaves_by_an_exit():
    done = []

    async def leaves() -> None:
        raise SystemExit(3)

    async def works() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)
        with contextlib.suppress(SystemExit):
            await asyncio.create_task(leaves())
        done.append("all")

    run(works())
    assert done == ["all"]


def test_what_the_work_fails_by_is_raised():
    async def fails() -> None:
        await asyncio.sleep(0)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        run(fails())
