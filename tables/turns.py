"""Whose turn it is to write: the threads of a process, one after the other as they came; and how one waits
for other processes.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

NEXT_LOOK = 0.0003  # seconds until it is tried again to write where another process does,
LOOKS = 100  # so often; then
LATER_LOOK = 0.005


def patience(most: Callable[[], float]) -> Callable[[int], bool]:
    """A connection's busy handler: it waits while another process writes, and gives up after `most` seconds.

    SQLite's own waits are longer each time, up to 100 ms, and miss the moments between two transactions of
    one who writes all the time.
    """
    since = 0.0

    def wait(tries: int) -> bool:
        nonlocal since
        if not tries:
            since = time.monotonic()
        time.sleep(NEXT_LOOK if tries < LOOKS else LATER_LOOK)
        return time.monotonic() < since + most()

    return wait


class Turns:
    """Who may write, one thread after the other in the order in which they came.

    A lock of Python's is had again by the thread that lets it go: what fills a job would keep its runners
    waiting until all is written.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.taken = False
        self.waiting: deque[threading.Lock] = deque()  # each held until it is its thread's turn

    def take(self, timeout: float) -> bool:
        """Wait for one's turn; False where it has not come after so many seconds."""
        with self.lock:
            if not self.taken:
                self.taken = True
                return True
            mine = threading.Lock()
            mine.acquire()
            self.waiting.append(mine)
        try:
            if mine.acquire(timeout=timeout):
                return True
        except BaseException:  # Ctrl-C, say
            if not self._leave(mine):
                self.pass_on()
            raise
        return not self._leave(mine)

    def _leave(self, mine: threading.Lock) -> bool:
        """Wait no longer; False where the turn has come just now."""
        with self.lock:
            if waits := mine in self.waiting:
                self.waiting.remove(mine)
            return waits

    def pass_on(self) -> None:
        """One's turn is over."""
        with self.lock:
            if self.waiting:
                self.waiting.popleft().release()
            else:
                self.taken = False
