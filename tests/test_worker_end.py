"""How a queue's worker tells its processes that they are to end: in a signal's handler, to whoever was forked from it."""

import os
import signal
import subprocess
import sys

from rowcast.worker.process import WorkerEnd

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
