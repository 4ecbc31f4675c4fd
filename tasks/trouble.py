"""Trouble: what keeps a loop that must not end from its work, said in the log once, and once that it is over.

Such loops, each a thread or an asyncio task that others depend on, meet with whatever a machine has: a
database that is locked, no descriptor left, a folder that is gone. They catch every Exception, note it
here, and go on.
"""

import logging

log = logging.getLogger("rowcast")


class Trouble:
    """The trouble of one loop: `said` is what it met with last, '' while all is well."""

    def __init__(self, loop: str):
        self.loop = loop
        self.said = ""

    def meet(self, error: BaseException) -> str:
        """Note what went wrong; returns it as a sentence's end."""
        said = f"{type(error).__name__}: {error}"
        if said != self.said:
            log.warning("%s is held up: %s", self.loop, said, exc_info=error if unexpected(error) else None)
        self.said = said
        return said

    def over(self) -> None:
        if self.said:
            log.warning("%s goes on.", self.loop)
        self.said = ""


def unexpected(error: BaseException) -> bool:
    """Whether an error is the program's rather than the machine's: then the log is told where it came up."""
    return isinstance(error, (TypeError, ValueError, LookupError, AttributeError, AssertionError))
