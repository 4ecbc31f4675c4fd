"""Edits: files of the tasks' modules that have changed since they were imported, and their reload.

Looked at are the modules that have tasks, and what these import from the directory where they are found; what
is installed is not. The bytes are compared, so a file that was only touched is no edit. What was edited is
said in a sentence. With --reload a Python of its own tries the new code first; where that can be imported,
whoever serves takes it up, and where it cannot, what was there before goes on.
"""

import contextlib
import dis
import hashlib
import importlib.util
import logging
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import msgspec

from rowcast.tasks.installed import INSTALLED, is_own
from rowcast.tasks.python_path import command, is_file
from rowcast.tasks.registry import REGISTRY, import_modules, is_built_in
from rowcast.tasks.sentences import worded
from rowcast.tasks.trouble import Trouble

log = logging.getLogger("rowcast")
LOOK = 0.5  # seconds between two looks; what is edited has to be the same at two of them
TRIAL = 120  # seconds that the new code may take to be imported
MOST = 300  # files that are read for what they import: of some hundred lines each, two seconds
SHOWN = 3  # files that are named in a sentence
Stamp = tuple[int, int, int, int]  # by which a file that has changed is told without reading it


class Edited(msgspec.Struct):
    """A file as it was when it was imported: its stamp, and what was in it."""

    stamp: Stamp
    digest: bytes


IMPORTED: dict[Path, Edited] = {}  # by this process
Import = tuple[int, tuple[str, ...], str]  # how many folders up, which names come from there, the module's
READ: dict[Path, tuple[Stamp, list[Import]]] = {}  # what a file imports, as it was then


def note(names: Iterable[str]) -> None:
    """Note the files of modules that are about to be imported."""
    for file in files_of(names):
        note_file(file)


def note_file(file: Path) -> None:
    if file not in IMPORTED and (now := as_it_is(file)):
        IMPORTED[file] = now


def as_it_is(file: Path) -> Edited | None:
    """None where there is no such file that can be read."""
    try:
        return Edited(stamp_of(file), hashlib.sha256(file.read_bytes()).digest())
    except OSError:
        return None


def stamp_of(file: Path) -> Stamp:
    """Its time and size, and what tells it from another that has the same, as `cp -p` makes one.

    Raises OSError.
    """
    found = file.stat()
    return found.st_mtime_ns, found.st_size, found.st_ctime_ns, found.st_ino


# ---- which files -------------------------------------------------------------------------------------------


def roots_of(names: Iterable[str]) -> dict[str, Path]:
    """Where each of the modules is found: an entry of Python's path, unless it is for what is installed."""
    entries = [Path(entry or ".").absolute() for entry in sys.path]
    entries = [entry for entry in entries if not is_own(entry) and not set(INSTALLED) & set(entry.parts)]
    found = {}
    for name in names:
        for entry in entries:
            if files_named(entry, name):
                found[name] = entry
                break
    return found


def files_named(root: Path, name: str) -> list[Path]:
    """The files of a module and of the packages that it is in."""
    path = root
    found = []
    for part in name.split("."):
        path = path / part
        found += [file for file in (path / "__init__.py", path.with_suffix(".py")) if is_file(file)]
    return found


def files_of(names: Iterable[str]) -> set[Path]:
    """The files of these modules, and of what they import from where they are found, also later; the nearest
    so many."""
    found: set[Path] = set()
    left = deque((root, file) for name, root in roots_of(names).items() for file in files_named(root, name))
    while left and len(found) < MOST:
        root, file = left.popleft()
        if file not in found:
            found.add(file)
            left += [(root, other) for name in imports_of(root, file) for other in files_named(root, name)]
    return found


def imports_of(root: Path, file: Path) -> Iterator[str]:
    """The names of all that a file may import, wherever in it; none where it cannot be read."""
    package = file.parent.relative_to(root).parts
    for level, names, name in imports_read(file):
        above = package[: len(package) - level + 1] if level else ()
        module = ".".join([*above, *([name] if name else [])])
        if not names:  # import a.b
            yield module
        yield from (f"{module}.{other}" if module else other for other in names)


def imports_read(file: Path) -> list[Import]:
    """The imports in a file, which is read again where it has changed; none where it cannot be read.

    By its compiled code: to parse it in a thread would break another thread's parsing (CPython 3.11 counts
    the depth of `ast`'s trees once for all threads).
    """
    try:
        stamp = stamp_of(file)
        if file not in READ or READ[file][0] != stamp:
            code = compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
            READ[file] = (stamp, [*imports_in(code)])
        return READ[file][1]
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def imports_in(code: CodeType) -> Iterator[Import]:
    """The imports in compiled code. Folders and names are what was loaded last before the instruction
    (docs.python.org/3/library/dis.html).
    """
    level: Any = 0
    names: Any = None
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            yield level, names or (), instruction.argval
        elif instruction.opname.startswith("LOAD_"):
            level = names
            names = instruction.argval
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from imports_in(inner)


def imported_from(roots: set[Path]) -> Iterator[Path]:
    """The files of modules that this process has imported from there, however it was asked to."""
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "")
        if file.suffix == ".py" and name.partition(".")[0] != "rowcast":
            file = file.absolute()
            if any(is_within(file, root) for root in roots):
                yield file


def is_within(file: Path, root: Path) -> bool:
    return file.is_relative_to(root) and not set(INSTALLED) & set(file.relative_to(root).parts)


# ---- who looks ---------------------------------------------------------------------------------------------


class Edits:
    """The edits since one dashboard's tasks were imported: `trouble` says which, '' for none.

    `take_up`, where there is one, ends this process's work so that another begins with the new code.
    """

    def __init__(self, modules: list[str]):
        self.modules = modules
        self.remedy = worded("restart Rowcast, or start it with --reload")
        self.take_up: Callable[[], None] | None = None
        self.trouble = ""
        self.seen: dict[Path, bytes | None] = {}  # what was edited at the last look: its digest, None if gone
        self.told: dict[Path, bytes | None] = {}  # what was edited as it was said last
        self.files: set[Path] = set()
        self.known: tuple[set[str], int] = (set(), 0)  # by which these were found: names, modules there are
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        self.ended.clear()
        with contextlib.suppress(Exception):  # the look says what keeps it from that
            self._find()  # what is edited from now on is seen, however late the first look comes
        self.thread = threading.Thread(target=self._look_on, name="edits", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.ended.set()

    def _look_on(self) -> None:
        trouble = Trouble("The look for edits")
        while not self.ended.is_set():
            try:
                self.look()
                trouble.over()
            except Exception as error:
                trouble.meet(error)
            self.ended.wait(LOOK)

    def look(self) -> None:
        """Look once; what is still being written is waited for."""
        self._find()
        edited = self.edited()
        rests = edited == self.seen
        self.seen = edited
        if edited == self.told or not (rests or not edited):
            return
        self.told = edited
        forget_compiled(edited)
        if not edited:
            self.trouble = ""
        elif self.take_up is None:
            self._say(worded(f"{described(edited)} since the worker imported it: {self.remedy}."))
        else:
            self._reload(self.take_up, edited)

    def _reload(self, take_up: Callable[[], None], edited: Iterable[Path]) -> None:
        if why := tried(self.modules):
            why = why.rstrip(".")
            self._say(worded(f"{described(self.told)}, and what was there before goes on: {why}."))
        else:
            log.warning("%s: the new code is taken up.", described(self.told))
            forget_compiled(edited)
            take_up()

    def _say(self, trouble: str) -> None:
        log.warning("%s", trouble)
        self.trouble = trouble

    def _find(self) -> None:
        """Look for files that are not known yet: a task of an app may be registered at any time."""
        entries = [task.entry for task in list(REGISTRY.values()) if not is_built_in(task)]
        names = {*self.modules, *(entry.partition(":")[0] for entry in entries)}
        known = (names, len(sys.modules))
        if known == self.known:
            return
        self.files |= files_of(names) | set(imported_from(set(roots_of(names).values())))
        for file in self.files:
            note_file(file)
        self.known = known  # what breaks this off is met at the next look again

    def edited(self) -> dict[Path, bytes | None]:
        found: dict[Path, bytes | None] = {}
        for file in sorted(self.files & IMPORTED.keys()):
            was = IMPORTED[file]
            try:
                stamp = stamp_of(file)
            except OSError:
                found[file] = None
                continue
            if stamp != was.stamp:
                now = as_it_is(file)
                if now is None or now.digest != was.digest:
                    found[file] = now.digest if now else None
                else:
                    was.stamp = now.stamp
        return found


def described(edited: dict[Path, bytes | None]) -> str:
    """Which files, and what became of them: the beginning of a sentence."""
    names = [
        file.name if file.name != "__init__.py" else f"{file.parent.name}/{file.name}" for file in edited
    ]
    one = len(names) == 1
    if len(names) > SHOWN:
        names = [*names[:SHOWN], f"{len(names) - SHOWN:,} more"]
    which = " and ".join([", ".join(names[:-1]), names[-1]]) if names[1:] else names[0]
    if all(digest is None for digest in edited.values()):
        return worded(f"{which} {'is gone' if one else 'are gone'}")
    return worded(f"{which} {'has changed' if one else 'have changed'}")


def forget_compiled(files: Iterable[Path]) -> None:
    """Python takes what it has compiled for the file where both are of one second and one size."""
    for file in files:
        with contextlib.suppress(OSError):
            Path(importlib.util.cache_from_source(str(file))).unlink()


# ---- the new code, tried -----------------------------------------------------------------------------------


def tried(modules: list[str]) -> str:
    """Why modules cannot be imported as they are now, in a sentence; '' where they can."""
    done, end = os.pipe()
    with os.fdopen(done, "rb") as answer:
        try:
            process = subprocess.Popen(
                [*command("rowcast.tasks.edits"), str(end), *modules],
                stdin=subprocess.DEVNULL,
                pass_fds=[end],
            )
        finally:
            os.close(end)
        try:
            code = process.wait(TRIAL)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return worded(f"it was not imported within {TRIAL} s")
        os.set_blocking(answer.fileno(), False)  # what it has started may hold the pipe
        said = (answer.read(1 << 16) or b"").decode(errors="replace")
    return said or ("" if code == 0 else worded(f"the Python that imported it ended with code {code}"))


def main() -> None:
    answer = int(sys.argv[1])
    errors = import_modules(sys.argv[2:])
    if errors:
        os.write(answer, " ".join(str(errors[0]).split())[: 1 << 12].encode())
    os._exit(1 if errors else 0)  # a thread that a module has started must not hold the exit


if __name__ == "__main__":
    main()
