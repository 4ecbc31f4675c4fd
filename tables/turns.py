"""Whose turn it is to write: the threads of a process, one after the other as they came."""

import threading
from collections import deque


class Turns:
    """Who may write, one thread after the other in the order in which they came.

    A lock of Python's is had again by the thread that lets it go: what fills a job would keep its runners
    waiting until all is written.
    """

    def __init__(self) -> None:
        self.lock, self.taken = threading.Lock(), False
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
