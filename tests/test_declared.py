"""What the program imports of others is declared: for who installs it, and for who checks its types without the extras."""

import ast
import re
import sys
import tomllib
from importlib import metadata

from conftest import ROOT
from packaging.requirements import Requirement
from trees import FILES, TREES

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEPENDENCIES = PYPROJECT["project"]["dependencies"]
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
TOOLS = {"test", "bench", "lint"}
THEIRS = {"pydantic"}  # what a user's annotation names is there by that


def imported() -> dict[str, set[str]]:
    """The packages of others, and the files that import them."""
    found: dict[str, set[str]] = {}
    for path in FILES:
        for node in ast.walk(TREES[path]):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"rowcast"}:
                found.setdefault(name, set()).add(str(path))
    return found


IMPORTED = imported()
DISTRIBUTIONS = metadata.packages_distributions()


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def sources(package: str) -> set[str]:
    """The distributions that a package may come from."""
    return {plain(name) for name in DISTRIBUTIONS.get(package, [package])}


def brought(requirements: list[str]) -> set[str]:
    """All distributions that these bring."""
    done: set[tuple[str, str]] = set()
    left = [
        (Requirement(text).name, extra) for text in requirements for extra in ("", *Requirement(text).extras)
    ]
    while left:
        name, extra = left.pop()
        if (plain(name), extra) in done:
            continue
        done.add((plain(name), extra))
        for need in map(Requirement, metadata.requires(name) or []):
            if not need.marker or need.marker.evaluate({"extra": extra}):
                left += [(need.name, wanted) for wanted in ("", *need.extras)]
    return {name for name, _ in done}


def test_the_types_of_a_package_that_make_lint_does_not_install_are_not_asked_for():
    may_miss = {
        module.partition(".")[0]
        for override in PYPROJECT["tool"]["mypy"]["overrides"]
        if override.get("ignore_missing_imports")
        for module in override["module"]
    }
    there = brought(DEPENDENCIES)
    missing = {package for package in IMPORTED if not sources(package) & there}
    assert {"celery", "dramatiq", "rich"} <= missing  # which are extras
    assert sorted(missing - may_miss) == []


def declared(requirements: list[str]) -> set[str]:
    return {plain(Requirement(text).name) for text in requirements}


def test_what_is_imported_outside_of_the_extras_is_a_dependency_by_its_own_name():
    there = declared(DEPENDENCIES)
    outside = {
        package
        for package, files in IMPORTED.items()
        if any(not file.startswith("extras/") for file in files)
    }
    assert sorted(package for package in outside - THEIRS if not sources(package) & there) == []


def test_what_an_extra_imports_is_declared_by_an_extra_or_a_dependency():
    there = declared(
        [*DEPENDENCIES, *(need for name, needs in EXTRAS.items() if name not in TOOLS for need in needs)]
    )
    assert sorted(package for package in IMPORTED if not sources(package) & there) == []


def test_of_each_package_that_is_declared_it_is_said_how_old_it_may_be():
    needs = [
        *map(Requirement, DEPENDENCIES),
        *(Requirement(need) for needs in EXTRAS.values() for need in needs),
    ]
    assert [str(need) for need in needs if not need.specifier and need.name != "rowcast"] == []
