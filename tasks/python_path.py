"""Where another Python of ours looks for modules: wherever this one does, and for Python's own modules first.

A user's module in the working directory that is named like one of them (`email`, `queue`), or like one of a
package that Rowcast needs (`httpx`, `click`), takes no place of theirs, and that is said; every other is
found before what is installed. The path is told in the command and not by PYTHONPATH, which would reach every
program that a task starts.
"""

import logging
import re
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

from rowcast.tasks.installed import is_installed, is_own, order, whose_name

log = logging.getLogger("rowcast")
MOST_SAID = 10  # modules of which the log says that nobody finds them
REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[([^]]*)\])?")  # as the metadata of a package has it
EXTRA = re.compile(r"extra\s*==\s*[\"']([^\"']+)")
OTHERS = ("test", "lint")  # extras of ours that no process of ours needs
ROOT = Path(__file__).parent.parent.parent  # where Rowcast is found
MODULE = re.compile(r"(\w+)(\.py|\..*so)?")  # the name of a file or folder that may be a module


def see_working_directory() -> None:
    """Have modules of the working directory found, before those that are installed."""
    look_in([str(Path.cwd()), *sys.path])


def look_in(path: Iterable[str]) -> None:
    """Look for modules in this path from now on."""
    entries = list(dict.fromkeys(str(Path(entry or ".").absolute()) for entry in path))
    theirs = [entry for entry in entries if order(entry) == 2]
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Theirs)]
    if needed := needed_of(theirs, [entry for entry in entries if is_installed(entry)]):
        sys.meta_path.insert(0, Theirs(theirs, needed))
        sys.path[:] = sorted(
            entries, key=order
        )  # also for what takes the path alone over, as multiprocessing
    else:
        sys.path[:] = sorted(entries, key=lambda entry: not is_own(entry))


class Theirs:
    """Finds what is theirs before what is installed, but for the names of what Rowcast needs."""

    def __init__(self, entries: list[str], needed: set[str]):
        self.entries = entries
        self.needed = needed | sys.stdlib_module_names

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or name in self.needed:
            return None
        found = PathFinder.find_spec(name, self.entries)
        return found if found and found.loader else None  # a folder that has no code is none of theirs


def needed_of(theirs: Iterable[str], installed: Iterable[str]) -> set[str]:
    """The names that modules of theirs have, and packages that are installed, and that Rowcast needs."""
    both = set(modules_in(theirs)) & set(modules_in(installed))
    return both & needs() if both else set()


def modules_in(entries: Iterable[str]) -> dict[str, Path]:
    """The modules of some entries of a path: by their names the files, of two the first."""
    found: dict[str, Path] = {}
    for entry in map(Path, entries):
        for file in files_in(entry):
            named = MODULE.fullmatch(file.name)
            if named and (named[2] or is_file(file / "__init__.py")):
                found.setdefault(named[1], file)
    return found


def files_in(entry: Path) -> list[Path]:
    """What an entry of a path has; nothing where that is no folder, or may not be looked into: neither does
    Python find anything there."""
    try:
        return list(entry.iterdir())
    except OSError:
        return []


def is_file(file: Path) -> bool:
    """The same of a file: none where that may not be asked."""
    try:
        return file.is_file()
    except OSError:
        return False


@cache
def needs() -> set[str]:
    """The names of the modules of all packages that Rowcast needs, with all that those need."""
    names: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    extras = distribution("rowcast").metadata.get_all("Provides-Extra") or []
    left = [("rowcast", frozenset(extra for extra in extras if extra not in OTHERS))]
    while left:
        package = left.pop()
        if package in seen:
            continue
        seen.add(package)
        try:
            there = distribution(package[0])
        except PackageNotFoundError:  # an extra that is not installed, or what other machines need
            continue
        names |= {Path(file.parts[0]).name.partition(".")[0] for file in there.files or ()}
        for one in there.requires or ():
            extra = EXTRA.search(one)
            named = REQUIREMENT.match(one)
            if named and (not extra or extra[1] in package[1]):
                left.append((named[1], frozenset((named[2] or "").replace(" ", "").split(","))))
    return names


def hidden() -> list[str]:
    """What is said of modules of theirs that are found by nobody, for their name is another's."""
    theirs = modules_in(entry for entry in sys.path if order(entry) == 2 and Path(entry) != ROOT)
    needed = {name for finder in sys.meta_path if isinstance(finder, Theirs) for name in finder.needed}
    return [
        f"{file} is not imported: `import {name}` gives {whose_name(name)} {name!r}. Give it another name."
        for name, file in sorted(theirs.items())
        if name in needed or name in sys.stdlib_module_names
    ]


def warn_of_hidden() -> None:
    """Say in the log what is hidden: once, where tasks are run."""
    said = hidden()
    for why in said[:MOST_SAID]:
        log.warning("%s", why)
    if len(said) > MOST_SAID:
        log.warning("and %s more like these", f"{len(said) - MOST_SAID:,}")


def why_hidden(name: str, error: Exception | None = None) -> str:
    """What `hidden` says of a module, or of one that an error speaks of; '' where that is not the reason."""
    names = {name.partition(".")[0], *re.findall(r"'(\w+)[.\w]*'", str(error))}
    return next((said for said in hidden() if said.partition("`import ")[2].partition("`")[0] in names), "")


def command(module: str) -> list[str]:
    """What starts another Python that runs `main()` of a module of ours; arguments come behind."""
    path = [str(Path(entry or ".").absolute()) for entry in sys.path]
    # of all that is theirs nothing is taken for Rowcast itself
    first = [*sorted((entry for entry in path if order(entry) < 2), key=order), str(ROOT)]
    code = (
        f"import sys; sys.path[:] = {first!r}; from rowcast.tasks import python_path; import {module};"
        f" python_path.look_in({path!r}); {module}.main()"
    )
    return [sys.executable, "-u", "-c", code]
