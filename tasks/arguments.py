"""One argument of a job: what a parameter of a task, or of its source of items, asks of whoever starts it."""

import copy
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import msgspec

from rowcast.tasks.annotations import Reader, is_union, reader_of
from rowcast.tasks.secret import LEAST, is_secret_kind


@dataclass(frozen=True)
class Argument:
    """One argument of a job, as the form shows it."""

    name: str
    type: Any
    default: Any = msgspec.NODEFAULT

    @property
    def required(self) -> bool:
        return self.default is msgspec.NODEFAULT

    @property
    def choices(self) -> tuple[Any, ...]:
        kind = self.plain_type
        return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()

    @property
    def plain_type(self) -> Any:
        """The type without `| None`, and without what is noted on it: int for `Annotated[int, ...] |
        None`.
        """
        kinds = [self.type]
        if is_union(self.type):
            kinds = [kind for kind in typing.get_args(self.type) if kind is not type(None)]
        if len(kinds) != 1:
            return self.type
        return typing.get_args(kinds[0])[0] if typing.get_origin(kinds[0]) is typing.Annotated else kinds[0]

    @property
    def optional(self) -> bool:
        """Whether None is one of its values."""
        return is_union(self.type) and type(None) in typing.get_args(self.type)

    @property
    def is_secret(self) -> bool:
        """Whether nobody is shown its values."""
        return is_secret_kind(self.plain_type)

    @property
    def described(self) -> Any:
        """Its type as JSON has it, for a description."""
        if not self.is_secret:
            return self.type
        more = {"format": "password", "writeOnly": True}
        text = typing.Annotated[str, msgspec.Meta(min_length=LEAST, extra_json_schema=more)]
        return text | None if self.optional else text

    @cached_property
    def reader(self) -> Reader:
        """What reads a value given for it. Raises TypeError for an annotation that nobody can check."""
        return reader_of(self.type)

    def of_default(self) -> Any:
        """Its default: of a list or a dict each start gets its own."""
        return copy.deepcopy(self.default) if isinstance(self.default, list | dict | set) else self.default


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Those that have a name of their own."""
    many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one for one in inspect.signature(function).parameters.values() if one.kind not in many]


def argument_of(parameter: inspect.Parameter, hints: dict[str, Any]) -> Argument:
    """The argument that a parameter is; without an annotation its default says the type, or it is a text."""
    kind = hints.get(
        parameter.name, str if parameter.default is inspect.Parameter.empty else type(parameter.default)
    )
    default = msgspec.NODEFAULT if parameter.default is inspect.Parameter.empty else parameter.default
    return Argument(parameter.name, kind if kind is not type(None) else Any, default)
