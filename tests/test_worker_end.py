"""How a queue's worker tells its processes that they are to end: in a signal's handler, to whoever was forked from it; and that
its event loop ends by nothing else."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from rowcast.worker.loops import run_to_end
from rowcast.worker.process import WorkerEnd, new_loop

TWICE = """
import signal
from rowcast.worker.process import WorkerEnd

stopping = WorkerEnd()
signal.signal(signal.SIGALRM, lambda *_: stopping.set())
signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
for _ in range(200_000):
    stopping.set()
signal.setitimer(signal.ITIMER_REAL, 0)
print(stopping.is_set())
"""


def test_a_worker_that_is_told_to_end_in_the_midst_of_being_told_so_does_not_hang():
    said = subprocess.run(
        [sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=120, check=True
    )
    assert said.stdout == "True\n"


def test_whoever_was_forked_sees_the_flag_and_who_is_killed_leaves_nothing_locked():
    flag = WorkerEnd()
    child = os.fork()
    if not child:
        while not flag.is_set():
            pass
        os._exit(7)
    killed = os.fork()
    if not killed:
        while True:
            flag.is_set()
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)
    flag.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


async def raises(error: type[BaseException]) -> None:
    raise error


@pytest.mark.parametrize("make", [new_loop, asyncio.new_event_loop])
def test_a_loop_goes_on_whatever_one_of_its_tasks_or_calls_ends_by(
    make: Callable[[], asyncio.AbstractEventLoop],
):
    did: list[str] = []

    async def works() -> None:
        for error in (SystemExit, KeyboardInterrupt):
            with pytest.raises(error):
                await asyncio.gather(raises(error))
            did.append(error.__name__)
        asyncio.get_running_loop().call_soon(sys.exit, 1)
        await asyncio.sleep(0)
        did.append("a call")
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)
        did.append("a stop")
        raise ValueError("its own end")

    with contextlib.closing(make()) as loop, pytest.raises(ValueError, match="its own end"):
        run_to_end(loop, works())
    assert did == ["SystemExit", "KeyboardInterrupt", "a call", "a stop"]
