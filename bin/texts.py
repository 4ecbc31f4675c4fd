"""What there is to translate, for Babel (`make texts`): the texts that Babel finds by itself, and sentences
that are kept, or told to programs too, with blanks in place of their values (tasks/sentences.py)."""

import ast
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from babel.messages.extract import extract_python

# What is raised with a sentence that pages show.
SHOWN = {"BadArguments", "NotFound", "NotAllowed", "Refused", "HTTPException", "NotOpened", "BadMail"}
SHOWN |= {"DatabaseGone", "Later", "Never"}
LEAST = 6  # letters of a sentence without its values: one with fewer could not be found again
NOTE = "kept"  # by which languages.py knows a sentence of these


def extract(
    file: Any, keywords: Any, comments: Any, options: Any
) -> Iterator[tuple[int, Any, Any, list[str]]]:
    """Babel's own finds, and ours."""
    yield from (found for found in extract_python(file, keywords, comments, options) if found[2])
    file.seek(0)
    for node in ast.walk(ast.parse(file.read())):
        for text in sentences_in(node):
            yield node.lineno, "tr", text, [NOTE]


def sentences_in(node: ast.AST) -> Iterable[str]:
    """The sentences of a `worded(...)`, or of what is raised."""
    call = node.exc if isinstance(node, ast.Raise) else node
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return
    if call.func.id == "theirs":
        yield from (given.value for given in call.args if isinstance(given, ast.Constant))
    is_shown = isinstance(node, ast.Raise) and call.func.id in SHOWN
    if is_shown or call.func.id == "worded":
        for given in call.args:
            yield from (text for text in templates(given) if len(re.sub(r"{\w+}", "", text)) >= LEAST)


def templates(node: ast.expr) -> Iterator[str]:
    """A text, or an f-string, as templates: one for each way in which the words in it can turn out."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield escaped(node.value)
    elif isinstance(node, ast.IfExp):
        yield from templates(node.body)
        yield from templates(node.orelse)
    elif isinstance(node, ast.JoinedStr):
        names: dict[str, str] = {}
        parts = [list(part_of(part, names)) for part in node.values]
        yield from map("".join, itertools.product(*parts))


def part_of(part: ast.expr, names: dict[str, str]) -> Iterator[str]:
    """What may stand at a place of an f-string: words, or a blank."""
    if isinstance(part, ast.Constant):
        yield escaped(str(part.value))
    elif isinstance(part, ast.FormattedValue):
        value = part.value
        if isinstance(value, ast.IfExp) and all(
            isinstance(one, ast.Constant) and isinstance(one.value, str) for one in (value.body, value.orelse)
        ):
            yield from templates(value)
            return
        yield f"{{{blank(value, names)}}}"


def blank(value: ast.expr, names: dict[str, str]) -> str:
    """The name of a blank: what its value is called, and no other's."""
    said = ast.unparse(value)
    name = called(value)
    while names.setdefault(name, said) != said:
        name += "_"
    return name


def called(value: ast.expr) -> str:
    if isinstance(value, ast.Name):
        return value.id.strip("_").lower()
    if isinstance(value, ast.Attribute):
        owner = value.value.id if isinstance(value.value, ast.Name) else "self"
        if value.attr in ("id", "name") and owner != "self":
            return owner.lower()
        return "kind" if value.attr == "__name__" else value.attr.strip("_").lower()
    if isinstance(value, ast.Call):
        return called(value.args[0] if value.args else value.func)
    if isinstance(value, ast.Subscript):
        return called(value.value)
    inner = next((one for one in ast.walk(value) if isinstance(one, ast.Name)), None)
    return inner.id.lower() if inner else "value"


def escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
