"""Annotations: what a parameter's type makes of a value that came as JSON, as a form's text, or as it is.

msgspec checks what it knows; what names pydantic (a model, a `Field` in an `Annotated`) is checked by
pydantic, which is there then; a union of types that one text may stand for is tried arm by arm. A value that
is of the type already stays what it is.
"""

import contextlib
import dataclasses
import datetime
import enum
import types
import typing
from collections import abc
from collections.abc import Callable
from typing import Any

import msgspec

from rowcast.tasks.encoding import TEXTS, is_pydantic
from rowcast.tasks.secret import is_secret_kind, names_secret, read_secret
from rowcast.tasks.sentences import theirs, worded

BY_PYDANTIC = ("pydantic", "pydantic_core", "annotated_types")
# What msgspec says of a value that does not fit; behind the name of an argument it begins in lower case.
MSGSPEC = (
    theirs("expected `{kind}`, got `{given}`"),
    theirs("Expected `{kind}`, got `{given}`"),
    theirs("expected `{kind}`"),
    theirs("invalid enum value {value}"),
    theirs("object contains unknown field `{name}`"),
    theirs("Object contains unknown field `{name}`"),
    theirs("object missing required field `{name}`"),
)
AS_THEY_ARE = (str, dict, list, object)  # an item of these is given as it came
Reader = Callable[[Any, bool], Any]  # of a value, and whether texts stay texts (strict); raises ValueError


def reader_of(kind: Any) -> Reader:
    """What reads a value as one of this annotation. Raises TypeError for one that nobody can check."""
    if names_secret(kind):
        return by_secret(kind)
    if asks_pydantic(kind):
        return by_pydantic(kind)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return by_member(kind)
    if typing.get_origin(kind) is typing.Literal:
        return by_choice(kind)
    if (typing.get_origin(kind) or kind) is abc.Iterable:
        return reader_of(types.GenericAlias(list, typing.get_args(kind) or (Any,)))
    if is_union(kind):
        try:
            msgspec.convert(None, kind, dec_hook=read_custom)
        except msgspec.ValidationError:
            pass
        except TypeError:
            return by_arms([reader_of(arm) for arm in typing.get_args(kind)], kind)
    else:
        with contextlib.suppress(msgspec.ValidationError):
            msgspec.convert(None, kind, dec_hook=read_custom)
    return lambda value, strict: msgspec.convert(
        value, kind, strict=strict, str_keys=True, dec_hook=read_custom
    )


def by_secret(kind: Any) -> Reader:
    """A secret, or none where the annotation has `| None`. Raises TypeError for one that is inside another
    value, where it could not be told from it.
    """
    arms = [one for one in typing.get_args(kind) if one is not type(None)] if is_union(kind) else [kind]
    if len(arms) != 1 or not is_secret_kind(arms[0]):
        raise TypeError("a secret is written Secret[str], or Secret[str] | None")
    if not is_union(kind):
        return read_secret
    return lambda value, strict: None if value is None else read_secret(value)


def by_pydantic(kind: Any) -> Reader:
    """pydantic's own check; its first complaint as one sentence."""
    import pydantic

    adapter = pydantic.TypeAdapter(kind)

    def read(value: Any, strict: bool) -> Any:
        try:
            return adapter.validate_python(value)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None

    return read


def by_member(kind: type[enum.Enum]) -> Reader:
    """A member of an Enum: itself, by its value, or by its name."""

    def read(value: Any, strict: bool) -> Any:
        if isinstance(value, kind):
            return value
        for member in kind:
            if member.value == value or (not strict and str(member.value) == value):
                return member
        if isinstance(value, str) and value in kind.__members__:
            return kind[value]
        known = ", ".join(kind.__members__)
        raise ValueError(worded(f"expected one of {known}, got {str(value)[:80]!r}"))

    return read


def by_choice(kind: Any) -> Reader:
    """One of a Literal's values: the very one where it is that, of "1" and 1, say."""
    choices = {(type(one), one) for one in typing.get_args(kind)}

    def read(value: Any, strict: bool) -> Any:
        if isinstance(value, str | int) and (type(value), value) in choices:
            return value
        return msgspec.convert(value, kind, strict=strict)

    return read


def by_arms(arms: list[Reader], kind: Any) -> Reader:
    """Of a union: the arm whose type the value has, else the first that can read it, texts as texts before
    all.
    """
    kinds = [typing.get_origin(arm) or arm for arm in typing.get_args(kind)]

    def read(value: Any, strict: bool) -> Any:
        if type(value) in kinds and not isinstance(value, str):
            return value
        for arm, of in sorted(zip(arms, kinds, strict=True), key=lambda pair: pair[1] is str):
            try:
                return arm(value, strict)
            except (ValueError, TypeError):
                if of is str and isinstance(value, str):
                    return value
        raise ValueError(worded(f"expected {named_kind(kind)}, got {type(value).__name__}"))

    return read


def read_custom(kind: Any, value: Any) -> Any:
    """What msgspec does not know: a value of the class, or one that is all in its text, a Path or an address,
    say.
    """
    if (typing.get_origin(kind) or kind) is abc.Iterable:
        return reader_of(kind)(value, True)
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    known = [one for one in TEXTS if isinstance(kind, type) and issubclass(one, kind)]
    if known and isinstance(value, str):
        return TEXTS[known[0]][2](value)
    raise ValueError(f"Expected `{named_kind(kind)}`, got `{type(value).__name__}`")


def asks_pydantic(kind: Any, seen: tuple[Any, ...] = ()) -> bool:
    """Whether an annotation names pydantic somewhere: a model, or a constraint that msgspec would not see."""
    if kind in seen:
        return False
    seen = (*seen, kind)
    if is_pydantic(kind):
        return True
    added = getattr(kind, "__metadata__", ())
    if any(type(one).__module__.partition(".")[0] in BY_PYDANTIC for one in added):
        return True
    inside = list(typing.get_args(kind))
    if dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        if hasattr(kind, "__pydantic_validator__"):
            return True
        try:
            inside += typing.get_type_hints(kind, include_extras=True).values()
        except Exception:
            return False  # it names what is not there: msgspec says so
    return any(asks_pydantic(one, seen) for one in inside if not isinstance(one, str | int))


def converts(kind: Any) -> bool:
    """Whether items of this annotation are to be read by it: not what is given as it came, a text or a
    dict.
    """
    if typing.get_origin(kind) is typing.Annotated:
        return True
    if (of := getattr(kind, "__supertype__", None)) is not None:  # a NewType
        return converts(of)
    if is_union(kind):
        return any(converts(arm) for arm in typing.get_args(kind) if arm is not type(None))
    if typing.get_origin(kind) in (tuple, set, frozenset, typing.Literal):
        return True
    if typing.get_origin(kind) is not None:  # a list or a dict, of what is to be read
        return any(converts(inside) for inside in typing.get_args(kind))
    return (
        isinstance(kind, type) and kind not in AS_THEY_ARE and not typing.is_typeddict(kind) and known(kind)
    )


def item_reader_of(kind: Any) -> Reader | None:
    """What makes of an item a value of this annotation; None where it is given as it came.

    Raises TypeError for an annotation that nobody can check.
    """
    if typing.is_typeddict(kind):
        return by_fields(kind)
    return reader_of(kind) if converts(kind) else None


def by_fields(kind: Any) -> Reader | None:
    """A TypedDict: those of its fields that are to be read; what else a row has, it keeps, or has not."""
    hints = typing.get_type_hints(kind, include_extras=True).items()
    bare = {name: typing.get_args(of)[0] if is_wrapped(of) else of for name, of in hints}
    readers = {name: reader_of(of) for name, of in bare.items() if converts(of)}
    if not readers:
        return None

    def read(value: Any, strict: bool) -> Any:
        if not isinstance(value, dict):
            raise ValueError(worded(f"expected an object, got {type(value).__name__}"))
        done = dict(value)
        for name, reader in readers.items():
            if name in value:
                try:
                    done[name] = reader(value[name], strict)
                except (ValueError, TypeError) as error:
                    raise ValueError(f"{name}: {error}") from None
        return done

    return read


def is_wrapped(kind: Any) -> bool:
    """Whether it says no more of a field than that it may be left out, or not be changed."""
    return getattr(typing.get_origin(kind), "_name", "") in ("Required", "NotRequired", "ReadOnly")


def known(kind: type) -> bool:
    """Whether there is a way to read such a class: of any other a value is given as it came."""
    scalars = (int, float, bool, bytes, bytearray, tuple, set, frozenset, datetime.timedelta, *TEXTS)
    return (
        issubclass(kind, scalars)
        or any(issubclass(one, kind) for one in TEXTS)
        or hasattr(kind, "__members__")
        or dataclasses.is_dataclass(kind)
        or hasattr(kind, "__attrs_attrs__")
        or issubclass(kind, msgspec.Struct)
        or is_pydantic(kind)
    )


def is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def named_kind(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
