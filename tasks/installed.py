"""What is Python's own, what is installed, and what is theirs, the user's: by where it lies.

This is the first of Rowcast's files that is imported, and it imports nothing that a user's module could be in
the place of: while Rowcast imports what it needs, Python's own modules and those that are installed come
before the user's, also where the working directory comes first (`python -m rowcast`, `celery -A`, a script
beside a module `click`). What is in the way all the same is said in one sentence.
"""

import os
import sys

LIBRARY = (os.__file__ or "").rpartition(os.sep)[0]  # where Python's own modules are
INSTALLED = ("site-packages", "dist-packages")  # folders below it that are not its own
OURS = __file__.rpartition(os.sep)[0].rpartition(os.sep)[0]  # where Rowcast is
ZIPPED = f"python{sys.version_info.major}{sys.version_info.minor}.zip"


def is_installed(place: "str | os.PathLike[str]") -> bool:
    """Whether a folder or file is where packages are installed."""
    text = f"{os.fspath(place)}{os.sep}"
    return any(f"{os.sep}{folder}{os.sep}" in text for folder in INSTALLED)


def is_own(place: "str | os.PathLike[str]") -> bool:
    """Whether a folder or file is of Python's own library."""
    text = os.fspath(place)
    within = text == LIBRARY or text.startswith(LIBRARY + os.sep)
    return (within and not is_installed(text)) or text == LIBRARY.rpartition(os.sep)[0] + os.sep + ZIPPED


def order(place: str) -> int:
    """Python's own is looked at first, then what is installed, then what is theirs."""
    if is_own(place):
        return 0
    return 1 if is_installed(place) else 2


class InstalledFirst:
    """While this is entered nothing of theirs is imported in the place of what is installed."""

    def __enter__(self) -> None:
        self.path = sys.path[:]
        sys.path.sort(key=order)

    def __exit__(self, kind: object, error: "BaseException | None", trace: object) -> None:
        if error is not None and (found := in_the_way(error)):
            raise ImportError(f"{found}, which Rowcast needs: rename it.") from error
        if sys.argv[:1] != ["-m"]:  # else this is `python -m rowcast`, and goes on like that
            sys.path[:] = self.path


def in_the_way(error: BaseException) -> str:
    """The module of theirs that an import failed by, for it had been imported in the place of another."""
    files = set()
    trace = error.__traceback__
    while trace:
        files.add(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or "." in name or order(file) < 2 or not (whose := whose_name(name)):
            continue
        if file in files or file in str(error) or f"'{name}'" in str(error):
            return f"{file} was imported in the place of {whose} {name!r}"
    return ""


def whose_name(name: str) -> str:
    """Who else has a module of that name; '' where nobody has."""
    if name in sys.stdlib_module_names:
        return "Python's own"
    here = (
        f"{entry}/{name}{end}" for entry in sys.path if is_installed(entry) for end in (".py", "/__init__.py")
    )
    return "the package" if any(os.access(file, os.F_OK) for file in here) else ""
