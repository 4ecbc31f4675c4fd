"""Fields: an argument as a form has it, and what was typed as a value for it.

A form that is sent as it was shown gives each argument its default; a field that was cleared gives None where
the type allows that, else what is empty of its kind. The page draws these fields, and the start reads them.
"""

import contextlib
import dataclasses
import datetime
import enum
import math
import typing
from collections import abc
from typing import Any

import msgspec

from rowcast.tasks.annotations import is_union, named_kind
from rowcast.tasks.arguments import Argument
from rowcast.tasks.encoding import as_json, is_pydantic, shown, to_json
from rowcast.tasks.languages import tr
from rowcast.tasks.records import BadArguments

LISTS = (
    list, set, frozenset, tuple, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable, abc.Set,
    abc.MutableSet,
)  # fmt: skip
MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)
LEFT_OUT = msgspec.NODEFAULT  # nothing was typed: the argument has its default, or is missing
INPUTS = {
    datetime.date: "date",
    datetime.datetime: "datetime-local",
    datetime.time: "time",
    int: "number",
    float: "number",
}


def input_of(argument: Argument) -> str:
    """How it is typed: `choice`, `check`, `lines` (of a list), `json` (of a record), `long` (text), or an
    HTML input's type.
    """
    kind = argument.plain_type
    if argument.is_secret:
        return "password"
    if choices_of(argument):
        return "choice"
    if kind is bool:
        return "check"
    if kind in INPUTS and not is_odd(argument.default):
        return INPUTS[kind]
    if (typing.get_origin(kind) or kind) in LISTS:
        return "lines"
    if is_record(kind):
        return "json"
    return "long" if isinstance(argument.default, str) and set(argument.default) & {"\n", "\r"} else "text"


def is_odd(default: Any) -> bool:
    """Whether an HTML input of its type would not show this default: infinity, a time with its zone or with
    microseconds.
    """
    if isinstance(default, float):
        return not math.isfinite(default)
    return getattr(default, "tzinfo", None) is not None or getattr(default, "microsecond", 0) % 1000 > 0


def is_record(kind: Any) -> bool:
    """Whether values are objects with fields, or of any kind."""
    of = typing.get_origin(kind) or kind
    if kind is Any or not isinstance(of, type):
        return kind is Any
    return (
        of in (*MAPPINGS, object)
        or is_named_tuple(of)
        or dataclasses.is_dataclass(of)
        or issubclass(of, msgspec.Struct)
        or is_pydantic(of)
        or typing.is_typeddict(of)
    )


def is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def choices_of(argument: Argument) -> dict[str, Any]:
    """What can be chosen, by its label: of a Literal, an Enum, a bool that may be None; nothing for any other
    type.
    """
    kind = argument.plain_type
    found: dict[str, Any] = {}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        found = dict(kind.__members__)
    elif kind is bool and argument.optional:
        found = {"true": True, "false": False}
    elif argument.choices:
        among = [choice for choice in argument.choices if choice is not None]
        alike = len(set(map(str, among))) < len(among)
        found = {repr(one) if alike or not is_label(str(one)) else str(one): one for one in among}
    return {"": None, **found} if found and argument.optional else found


def is_label(text: str) -> bool:
    """Whether it can be told from nothing when it is sent."""
    return text == text.strip() != ""


def text_of(argument: Argument) -> str:
    """What stands in the field before anybody types: the default."""
    default = argument.default
    if argument.required or default is None:
        return ""
    if choices := choices_of(argument):
        return next(
            (label for label, choice in choices.items() if choice is default or choice == default), ""
        )
    if isinstance(default, str):
        return default
    plain = shown(as_json(default))
    if plain in ([], {}) and not argument.optional:  # where a cleared field means the same
        return ""
    if input_of(argument) == "lines" and plain and all(is_line(one) for one in plain):
        return "\n".join(map(str, plain))
    return plain if isinstance(plain, str) else to_json(plain).decode()


def is_line(value: Any) -> bool:
    """Whether an entry of a list may stand on a line of its own, and is read as it was."""
    text = str(value)
    is_one = isinstance(value, str | int) and len(text.splitlines()) == 1
    return is_one and text == text.strip() != "" and text[0] not in "[{"


def hint_of(argument: Argument) -> str:
    """What may be typed, where the field does not say it by itself."""
    kind = argument.plain_type
    if input_of(argument) == "lines":
        return tr("one per line, or JSON")
    if input_of(argument) == "json":
        return tr("JSON, like {kind}", kind=example_of(kind)) if fields_in(kind) else "JSON"
    if kind is bytes:
        return "base64"
    if kind is datetime.timedelta:
        return tr("like PT1H30M")
    return " or ".join(map(named_kind, typing.get_args(kind))) if is_union(kind) else ""


def example_of(kind: Any) -> str:
    if is_named_tuple(kind):
        return f"[{', '.join(f'{name}: {named_kind(of)}' for name, of in fields_in(kind).items())}]"
    return "{" + ", ".join(f'"{name}": {named_kind(of)}' for name, of in fields_in(kind).items()) + "}"


def fields_in(kind: Any) -> dict[str, Any]:
    """The fields of a record by name, with their types."""
    try:
        return (
            typing.get_type_hints(kind) if isinstance(kind, type) and kind not in (*MAPPINGS, object) else {}
        )
    except Exception:
        return {}


def value_of(argument: Argument, typed: str) -> Any:
    """What was typed as a value that the argument's reader takes; LEFT_OUT for nothing. Raises
    BadArguments.
    """
    text = lined(typed)
    if not argument.required and text == lined(text_of(argument)):
        return LEFT_OUT  # nobody has touched it
    how = input_of(argument)
    if not text.strip():
        return cleared(argument, how, text)
    if how == "choice":
        choices = choices_of(argument)
        return choices.get(text.strip(), text.strip())
    if how == "password":
        return typed
    if how in ("lines", "json") and text.lstrip()[:1] in ("[", "{"):
        return from_typed_json(argument, text)
    if how == "lines":
        return [line.strip() for line in text.splitlines() if line.strip()]
    if how == "json" and argument.plain_type not in (Any, object):
        return from_typed_json(argument, text)
    if argument.plain_type in (datetime.datetime, datetime.time):
        with contextlib.suppress(ValueError):  # a browser leaves out seconds that are none
            return argument.plain_type.fromisoformat(text.strip())
    return text if how in ("text", "long", "json") else text.strip()


def lined(text: str) -> str:
    """With line breaks of one kind: a browser sends two letters for each."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def cleared(argument: Argument, how: str, text: str) -> Any:
    """What an empty field means: nothing where the argument is required, else what is empty of its kind."""
    if argument.required:
        return LEFT_OUT
    if argument.optional:
        return None
    if argument.plain_type is str:
        return text
    if how == "lines":
        return []
    return {} if (typing.get_origin(argument.plain_type) or argument.plain_type) in MAPPINGS else LEFT_OUT


def from_typed_json(argument: Argument, text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadArguments(f"argument {argument.name} is not JSON: {error}.") from None
