"""A walk: a loop of `track` that is under way, and how it was left.

Python does not tell a generator why nobody asks it for more. After `break` and `return` an instruction of the
frame that loops takes it off the stack, and so does the end of what is around it, as of a `zip`; an exception
takes it off while that frame carries out one that can raise, or once the frame is gone and nobody keeps the
exception. A variable is gone with its frame while who has called that still does. (CPython; elsewhere every
loop that is left counts as broken out of.)
"""

import dis
import inspect
import sys
import weakref
from types import CodeType, FrameType
from typing import Any

# instructions (dis) that cannot raise, and one that takes it off at its end
TAKES_OFF = ("POP_TOP", "POP_ITER", "END_FOR", "RETURN_VALUE", "STORE_FAST", "DELETE_FAST", "FOR_ITER")
CALLS = ("PRECALL", "CALL", "CALL_KW", "CALL_FUNCTION_EX", "SEND", "FOR_ITER")
WAITS = ("YIELD_VALUE", "RESUME")  # where a generator stands while somebody else runs
ITERATES = ("FOR_ITER", "SEND", "GET_ANEXT", "YIELD_VALUE")
YIELDS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class Walk:
    """One loop: `is_left` once it is over before its end, `has_raised` where that was by an exception."""

    def __init__(self) -> None:
        self.is_left = False
        self.has_raised = False
        self.code: CodeType | None = None  # what loops, where that is a `for`
        self.is_noted = False
        self.steps: Any = None

    def follow(self, steps: Any) -> None:
        """Of this generator, which is let go of when the loop is left."""
        self.steps = weakref.ref(steps, self._let_go)

    def note(self, frame: FrameType) -> None:
        """The loop is in this frame."""
        if not self.is_noted:
            self.is_noted = True
            self.code = frame.f_code if instruction(frame) in ITERATES else None

    def _let_go(self, _: Any) -> None:
        self.is_left = True
        if self.code is None or sys.implementation.name != "cpython":
            return
        frame = sys._getframe(1)
        yields = bool(self.code.co_flags & YIELDS)
        if frame.f_code is self.code:
            self.has_raised = instruction(frame) not in (*TAKES_OFF, *(WAITS if yields else ()))
        else:
            self.has_raised = not yields and instruction(frame) not in CALLS

    def left_by(self) -> BaseException | None:
        """The exception that is handled just now, where the loop was left by it."""
        error = sys.exc_info()[1]
        trace = error.__traceback__ if error else None
        while trace and trace.tb_frame.f_code is not self.code:
            trace = trace.tb_next
        if trace is None or not (self.is_left or not is_running(self.code)):
            return None
        return error


def instruction(frame: FrameType) -> str:
    """What a frame carries out; behind some instructions is room that is their own."""
    at = frame.f_lasti
    while at > 0 and dis.opname[frame.f_code.co_code[at]] == "CACHE":
        at -= 2
    return dis.opname[frame.f_code.co_code[at]] if at >= 0 else ""


def is_running(code: CodeType | None) -> bool:
    """Whether this code is on the stack."""
    frame: FrameType | None = sys._getframe(1)
    while frame and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None
