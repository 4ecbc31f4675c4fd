"""Entries: how a function or a class is called so that another process finds it, 'module:name'.

What has no such name (a lambda, a nested function, a bound method, a partial, an object that is called), or
whose name means something else, is refused where it is written: a worker would run that other thing, or
nothing.
"""

import functools
import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

MAINS = ("__main__", "__mp_main__")  # the latter: the same file in a reloader's child


def named(entry: str) -> Any:
    """What is behind 'module:name', importing its module. Raises ImportError or AttributeError."""
    module, _, path = entry.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def entry_of(function: Any) -> str:
    """'module:name' of a function or class that another process can import.

    What stands in __main__ is named by its module where it was started as one, else by its file. Raises
    TypeError, in one sentence, for what cannot be found by its name alone.
    """
    if reason := why_not_named(function):
        raise TypeError(f"{called(function)} cannot be run as a job: {reason}.")
    module = function.__module__
    if module in MAINS:
        module = module_of_main(function)
    return f"{module}:{function.__qualname__}"


def why_not_named(function: Any) -> str:
    """Why a function cannot be found by its name alone, as half a sentence; '' where it can."""
    if isinstance(function, functools.partial):
        return (
            "a partial has values that its name does not say; give the function, and the values as arguments"
        )
    module = getattr(function, "__module__", None)
    path = getattr(function, "__qualname__", None)
    owner = getattr(function, "__self__", None)
    if owner is not None and not isinstance(owner, ModuleType | type):
        return (
            "it is bound to an object; define a function at the top level of a module that makes the object"
        )
    if not isinstance(module, str) or not isinstance(path, str):
        return "an object has no name to import; define a function at the top level of a module"
    if "<" in path:
        return "define it at the top level of a module"
    if module in MAINS and not is_found(module_of_main(function), function):
        return "what was started is no module that a worker can import; define it in a file that ends in .py"
    return ""


def is_found(module: str, function: Any) -> bool:
    """Whether a module of this name is the file in which a function stands."""
    file = getattr(inspect.getmodule(function), "__file__", None)
    try:
        spec = importlib.util.find_spec(module) if module not in MAINS else None
        return bool(spec and spec.origin and file and Path(spec.origin).samefile(file))
    except (ImportError, ValueError, OSError):
        return False


def demand_itself(function: Any) -> None:
    """Raises TypeError where the name of a function means something else, as of one that stands under another
    name.

    To be asked once its module has been imported: while it is, names are not yet what they will be.
    """
    module = sys.modules.get(function.__module__)
    found: Any = module
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    is_task = not inspect.isroutine(found) and getattr(found, "function", None) is function
    if module is not None and found != function and not is_task:
        raise TypeError(
            f"{called(function)} cannot be run as a job: {function.__module__}.{function.__qualname__} is"
            " something else; define a function of that name that calls it."
        )


def module_of_main(function: Any) -> str:
    """The module that was started: by its name where that was said (`python -m`), else by its file's."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name not in MAINS:
        return str(spec.name)
    file = getattr(inspect.getmodule(function), "__file__", None) or "__main__"
    return re.sub(r"\.py$", "", file.replace("\\", "/").rsplit("/", 1)[-1])


def called(function: Any) -> str:
    """What a function is called in a sentence about it."""
    return str(getattr(function, "__qualname__", None) or repr(function)[:80])
