"""Where another Python of ours looks for modules: wherever this one does, and for Python's own modules first.

A user's module in the working directory that is named like one of them (`email`, `queue`) takes no place of
theirs. The path is told in the command and not by PYTHONPATH, which would reach every program that a task
starts.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

LIBRARY = Path(os.__file__).parent  # where Python's own modules are
INSTALLED = ("site-packages", "dist-packages")  # folders below it that are not its own
ZIPPED = f"python{sys.version_info.major}{sys.version_info.minor}.zip"


def own_first(path: Iterable[str]) -> list[str]:
    """The entries of a path, absolute and each once, with those of Python's own modules before all others."""
    entries = dict.fromkeys(str(Path(entry or ".").absolute()) for entry in path)
    return sorted(entries, key=lambda entry: not is_own(Path(entry)))


def is_own(entry: Path) -> bool:
    within = entry.is_relative_to(LIBRARY) and not set(INSTALLED) & set(entry.relative_to(LIBRARY).parts)
    return within or (entry.name == ZIPPED and entry.parent == LIBRARY.parent)


def see_working_directory() -> None:
    """Have modules of the working directory found, before those that are installed."""
    sys.path[:] = own_first([str(Path.cwd()), *sys.path])


def command(module: str) -> list[str]:
    """What starts another Python that runs `main()` of a module of ours; arguments come behind."""
    path = own_first(sys.path)
    # of all that is in the working directory nothing is taken for Rowcast itself
    ours = [entry for entry in path if is_own(Path(entry)) or set(INSTALLED) & set(Path(entry).parts)]
    first = [*ours, str(Path(__file__).parent.parent.parent)]
    code = (
        f"import sys; sys.path[:] = {first!r}; import rowcast; sys.path[:] = {path!r};"
        f" from {module} import main; main()"
    )
    return [sys.executable, "-u", "-c", code]
