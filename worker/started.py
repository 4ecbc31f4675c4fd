"""What tasks start: processes of the group of the process that runs them, which end with it.

A process of ours that runs tasks leads a group (setpgid(2)). Whoever waits for it ends the group once the
process is gone, however that ended; where nobody is left to do so, the process does it itself, as its last
act. What a task has given a group or a session of its own is not found, and goes on.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rowcast.tasks.settings import WORKER

POLITE = 0.5  # seconds between SIGTERM and SIGKILL
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_group(leader: int) -> None:
    """End what is left of the group whose leader has ended and been waited for."""

    def left() -> bool:
        with contextlib.suppress(ChildProcessError):  # what is ours to wait for would be seen for ever
            while os.waitpid(-leader, os.WNOHANG)[0]:
                pass
        return _sent(os.killpg, leader, 0)

    if _sent(os.killpg, leader, signal.SIGTERM) and _lasts(left):
        _sent(os.killpg, leader, signal.SIGKILL)


def end_with_group() -> NoReturn:
    """End this process and what is left of its group, if it leads one: at once, for what runs here is taken
    up elsewhere.
    """
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def end_strays(worker: str, leader: int) -> None:
    """End what the tasks of a worker have left that died together with whoever would have ended its group.

    Its leader's number may be another's by now: what bears the worker's name is meant (proc(5), environ).
    """
    ours = f"{WORKER}={worker}".encode()
    found = []
    for process in processes():
        with contextlib.suppress(OSError):
            if os.getpgid(process) == leader and ours in Path(f"/proc/{process}/environ").read_bytes().split(
                b"\0"
            ):
                found.append(process)
    end_all(found)


def end_descendants() -> None:
    """End whatever this process has started, and what that has, where it leads no group of its own."""
    parents = {process: parent_of(process) for process in processes()}
    found: set[int] = set()
    more = {os.getpid()}
    while more := {process for process, parent in parents.items() if parent in more}:
        found |= more
    end_all(found)


def end_all(found: Iterable[int]) -> None:
    left = [process for process in found if _sent(os.kill, process, signal.SIGTERM)]
    if _lasts(lambda: any(_sent(os.kill, process, 0) for process in left)):
        for process in left:
            _sent(os.kill, process, signal.SIGKILL)


def processes() -> list[int]:
    """The processes of this machine; none where there is no /proc."""
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def parent_of(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _sent(send: Callable[[int, int], None], whom: int, sig: int) -> bool:
    try:
        send(whom, sig)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _lasts(there: Callable[[], bool]) -> bool:
    """Whether it is still so after a while."""
    give_up = time.monotonic() + POLITE
    while time.monotonic() < give_up:
        if not there():
            return False
        time.sleep(0.02)
    return there()


def heed_no_stop() -> None:
    """Ctrl-C, a terminal that closes and SIGTERM may reach all; it is the parent who says when to end.

    What is started from here heeds them as ever: no handler outlives exec(2), and a fork takes these off.
    """
    before = {sig: signal.getsignal(sig) for sig in STOPS}

    def heed(sig: int, frame: FrameType | None) -> None:
        pass

    def restore() -> None:
        for sig in STOPS:
            if signal.getsignal(sig) is heed:
                signal.signal(sig, before[sig])

    for sig in STOPS:
        if before[sig] is not signal.SIG_IGN:
            signal.signal(sig, heed)
    os.register_at_fork(after_in_child=restore)
