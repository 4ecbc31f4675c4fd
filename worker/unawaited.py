"""Coroutines that nobody awaits: `api.post(...)` without its `await` sends nothing, whatever is returned.

Python says so of one as it is let go of, in the context of the call that made it. That is heard here, before
anybody's filters of warnings, and noted on the call, which has failed then.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

from rowcast.tasks.steps import current_call, current_run

HERE = Path(__file__).parent
_warnings: Any = warnings
_before = _warnings._warn_unawaited_coroutine  # which Python asks to warn of one


def heed_unawaited() -> None:
    """From now on they are noted."""
    _warnings._warn_unawaited_coroutine = _heard


def _heard(coroutine: Any) -> None:
    said = f"coroutine '{coroutine.__qualname__}' was never awaited"
    call = current_call.get()
    run = current_run.get()
    if not (call or run):
        if coroutine.cr_origin:
            _before(coroutine)
        else:
            warnings.warn(said, RuntimeWarning, stacklevel=2, source=coroutine)
        return
    frame = sys._getframe().f_back
    if frame and Path(frame.f_code.co_filename).parent != HERE:  # it was let go of where it was made
        said = f"{said} ({Path(frame.f_code.co_filename).name}, line {frame.f_lineno})"
    if call:
        call.unawaited = call.unawaited or said
    elif run:
        run.note_unawaited(said)
