"""Coroutines that nobody awaits: `api.post(...)` without its `await` sends nothing, whatever is returned.

Python warns of one as it is let go of, in the context of the call that made it. That is heard here, also
where warnings are switched off, and noted on the call, which has failed then.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rowcast.tasks.steps import current_call, current_run

HERE = Path(__file__).parent
BEGINS = "coroutine "  # what Python says of it, with its name in between
ENDS = " was never awaited"
_before: Callable[..., Any] = warnings.showwarning


def heed_unawaited() -> None:
    """From now on they are noted; asked for again and again, as a module may say what it wants to hear."""
    global _before
    warnings.filterwarnings("always", f"{BEGINS}.*{ENDS}", RuntimeWarning)
    if warnings.showwarning is not _show:
        _before = warnings.showwarning
        warnings.showwarning = _show


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    said = str(message).partition("\n")[0]
    call = current_call.get()
    run = current_run.get()
    if category is RuntimeWarning and said.startswith(BEGINS) and said.endswith(ENDS):
        if Path(filename).parent != HERE:  # it was let go of where it was made
            said = f"{said} ({Path(filename).name}, line {lineno})"
        if call:
            call.unawaited = call.unawaited or said
        elif run:
            run.note_unawaited(said)
        if call or run:
            return
    _before(message, category, filename, lineno, file, line)
