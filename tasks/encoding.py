"""Encoding: values as JSON and back, so that what a task gets is what was sent.

What JSON knows stands as it is. A date, a Decimal, bytes, a set, a tuple, an Enum, a dataclass, a pydantic
model, a dict with other keys than texts, NaN and their like stand in an object with the key TAG, which says
what they are; a dict that has that key itself is put into such an object too, so nobody can write one by
hand. What cannot be given back as it was is refused. `shown` is the plain JSON that people and programs read.
"""

import base64
import dataclasses
import datetime
import enum
import fractions
import ipaddress
import math
import pathlib
import uuid
import zoneinfo
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from rowcast.tasks.entries import demand_itself, entry_of, named
from rowcast.tasks.masking import MASK
from rowcast.tasks.secret import SEALED, Secret

TAG = "$rowcast"
DEEPEST = 200  # lists and objects inside each other; Python's stack ends at about a thousand
LEAST = -(2**63)  # of the whole numbers that every reader of JSON here takes
MOST = 2**64 - 1  # of them
LONGEST_INT = 1_000  # hexadecimal digits that are shown in decimal ones, of which Python writes 4,300 at most


def fraction_of(text: str) -> fractions.Fraction:
    """Raises ValueError for one with an exponent too: Fraction writes out all its noughts."""
    if "e" in text.lower():
        raise ValueError("Expected a fraction like 1/3 or 0.5")
    return fractions.Fraction(text)


to_json = msgspec.json.Encoder().encode
# what is written as one text, and how that is read again
TEXTS: dict[type, tuple[str, Callable[[Any], str], Callable[[str], Any]]] = {
    datetime.datetime: ("datetime", datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    datetime.date: ("date", datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.time: ("time", datetime.time.isoformat, datetime.time.fromisoformat),
    Decimal: ("decimal", str, Decimal),
    uuid.UUID: ("uuid", str, uuid.UUID),
    bytes: ("bytes", lambda value: base64.b64encode(value).decode(), base64.b64decode),
    bytearray: (
        "bytearray",
        lambda value: base64.b64encode(value).decode(),
        lambda text: bytearray(base64.b64decode(text)),
    ),
    complex: ("complex", str, complex),
    fractions.Fraction: ("fraction", str, fraction_of),
    pathlib.PosixPath: ("path", str, pathlib.Path),
    pathlib.PurePosixPath: ("pure path", str, pathlib.PurePosixPath),
    pathlib.PureWindowsPath: ("windows path", str, pathlib.PureWindowsPath),
    ipaddress.IPv4Address: ("ip", str, ipaddress.ip_address),
    ipaddress.IPv6Address: ("ip", str, ipaddress.ip_address),
    ipaddress.IPv4Network: ("network", str, ipaddress.ip_network),
    ipaddress.IPv6Network: ("network", str, ipaddress.ip_network),
}
READERS = {name: read for name, _, read in TEXTS.values()}
LISTS: dict[type, str] = {tuple: "tuple", set: "set", frozenset: "frozenset"}
MAKERS: dict[str, Callable[[list[Any]], Any]] = {name: kind for kind, name in LISTS.items()}
PLAIN = (str, int, float, list, dict)


def pack(value: Any) -> str:
    """A value as JSON text that `unpack` gives back. Raises TypeError, in one sentence, for what it could
    not.
    """
    return to_json(as_json(value)).decode()


def unpack(text: str) -> Any:
    """The value behind what `pack` has written."""
    value = msgspec.json.decode(text)
    return from_json(value) if TAG in text else value


def as_json(value: Any, depth: int = 0) -> Any:
    """A value of what JSON knows, with TAGs for all else. Raises TypeError for what could not be given
    back.
    """
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        return value if value.isascii() or is_text(value) else tagged("text", list(map(ord, value)))
    if kind is int:
        return value if LEAST <= value <= MOST else tagged("int", hex(value))
    if kind is float:
        return value if math.isfinite(value) else tagged("float", repr(value))
    if depth > DEEPEST:
        raise TypeError(f"it is more than {DEEPEST} lists and objects deep")
    if kind is list:
        return [as_json(one, depth + 1) for one in value]
    if kind is dict:
        if TAG not in value and all(type(key) is str and is_text(key) for key in value):
            return {key: as_json(one, depth + 1) for key, one in value.items()}
        return tagged(
            "dict", [[as_json(key, depth + 1), as_json(one, depth + 1)] for key, one in value.items()]
        )
    if kind in TEXTS:
        zone = getattr(value, "tzinfo", None)
        if isinstance(zone, zoneinfo.ZoneInfo) and zone.key and kind is datetime.datetime:
            return tagged("zoned", [value.replace(tzinfo=None).isoformat(), zone.key, value.fold])
        if not (zone is None or isinstance(zone, datetime.timezone)):
            return refuse(value)  # its rules would be lost
        if zone is not None and (said := zone.tzname(None)) != unnamed(zone).tzname(None):
            return tagged("named", [as_json(value.replace(tzinfo=unnamed(zone))), said])
        name, write, _ = TEXTS[kind]
        text = tagged(name, as_json(write(value)))  # a path's may be no text: its letters are a file's
        return tagged("later", text) if getattr(value, "fold", 0) else text
    if kind in LISTS:
        return tagged(LISTS[kind], [as_json(one, depth + 1) for one in value])
    if kind is datetime.timedelta:
        return tagged("timedelta", [value.days, value.seconds, value.microseconds])
    if kind is Secret:
        return value  # who writes it seals it; for any other JSON it is MASK
    return as_object(value, depth)


def as_object(value: Any, depth: int) -> Any:
    """A value of a class: an Enum's member by its name, a record by its fields, an int, a text or a list by
    its base.
    """
    kind = type(value)
    try:
        demand_itself(kind)
        entry = entry_of(kind)
    except TypeError:
        return refuse(value)
    if isinstance(value, enum.Enum):
        inside = as_json(value.value, depth + 1)
        if kind.__members__.get(value.name) is value:
            return tagged("member", [value.name, inside], entry)
        return tagged("of", inside, entry)  # flags that have no name together
    if is_pydantic(kind):
        if value.__pydantic_private__ and kind.model_construct(**model_fields(value)) != value:
            return refuse(value)  # it has more than its fields
        inside = {name: as_json(one, depth + 1) for name, one in model_fields(value).items()}
        return tagged("model", [inside, sorted(value.model_fields_set)], entry)
    if (fields := fields_of(value)) is not None:
        if isinstance(value, (*PLAIN, *LISTS, *TEXTS, BaseException)):
            return refuse(value)  # it is more than its fields
        return tagged("record", {name: as_json(one, depth + 1) for name, one in fields.items()}, entry)
    base = next((one for one in (tuple, set, frozenset, *PLAIN) if isinstance(value, one)), None)
    if base is not None:
        inside = as_json(base(value), depth + 1)
        try:
            again = kind(*value) if base is tuple and hasattr(kind, "_fields") else kind(base(value))
        except Exception:
            return refuse(value)
        if (
            type(again) is kind
            and again == value
            and getattr(again, "__dict__", None) == getattr(value, "__dict__", None)
        ):
            return tagged("of", inside, entry)
    return refuse(value)


def from_json(value: Any) -> Any:
    """What `as_json` has made, as it was before."""
    if type(value) is list:
        return [from_json(one) for one in value]
    if type(value) is not dict:
        return value
    if not is_tagged(value):
        return {key: from_json(one) for key, one in value.items()}
    name = value[TAG]
    inside = value["value"]
    if name in READERS:
        return READERS[name](from_json(inside))
    if name in MAKERS:
        return MAKERS[name]([from_json(one) for one in inside])
    if name == "dict":
        return {from_json(key): from_json(one) for key, one in inside}
    if name == "text":
        return "".join(map(chr, inside))
    if name == "int":
        return int(inside, 16)
    if name == "float":
        return float(inside)
    if name == "timedelta":
        return datetime.timedelta(*inside)
    if name == "later":  # of the two moments of a day on which the clock is set back
        return from_json(inside).replace(fold=1)
    if name == "named":
        moment = from_json(inside[0])
        return moment.replace(tzinfo=datetime.timezone(moment.utcoffset(), inside[1]))
    if name == SEALED:
        raise ValueError("a secret has not been opened")
    if name == "zoned":
        zone = zoneinfo.ZoneInfo(inside[1])
        return datetime.datetime.fromisoformat(inside[0]).replace(tzinfo=zone, fold=inside[2])
    return of_class(name, named(value["type"]), inside)


def of_class(name: str, kind: Any, inside: Any) -> Any:
    """A value of a class: see as_object."""
    if name == "member":
        return kind[inside[0]]
    if name == "model":
        fields, fields_set = inside
        values = {field: from_json(one) for field, one in fields.items()}
        made = kind.model_construct(_fields_set=set(fields_set), **values)
        # it takes a value by its alias first, which may be another field's name
        vars(made).update({field: one for field, one in values.items() if field in kind.model_fields})
        return made
    if name == "record":
        return record_of(kind, {field: from_json(one) for field, one in inside.items()})
    base = from_json(inside)
    return (
        kind(*base) if name == "of" and issubclass(kind, tuple) and hasattr(kind, "_fields") else kind(base)
    )


def shown(value: Any) -> Any:
    """What `as_json` has made as plain JSON, for people and programs: of a date its text, of a record its
    fields.
    """
    if type(value) is list:
        return [shown(one) for one in value]
    if type(value) is not dict:
        return value
    if not is_tagged(value):
        return {key: shown(one) for key, one in value.items()}
    name = value[TAG]
    inside = value["value"]
    if name == SEALED:
        return MASK
    if name == "dict":
        return {key_shown(key): shown(one) for key, one in inside}
    if name == "text":
        return as_text("".join(map(chr, inside)))
    if name == "int":
        return str(int(inside, 16)) if len(inside) <= LONGEST_INT else inside
    if name == "timedelta":
        return msgspec.to_builtins(datetime.timedelta(*inside))
    if name == "zoned":
        return f"{inside[0]}[{inside[1]}]"
    if name == "member":
        return shown(inside[1])
    if name in ("model", "named"):
        return shown(inside[0])
    return shown(inside)


def shown_text(text: str) -> str:
    """JSON text as `pack` writes it, as plain JSON text."""
    return to_json(shown(msgspec.json.decode(text))).decode() if TAG in text else text


def key_shown(key: Any) -> str:
    plain = shown(key)
    return plain if isinstance(plain, str) else to_json(plain).decode()


def tagged(name: str, value: Any, entry: str | None = None) -> dict[str, Any]:
    return {TAG: name, "value": value} if entry is None else {TAG: name, "type": entry, "value": value}


def is_tagged(value: dict[str, Any]) -> bool:
    """Whether an object stands for a value that JSON does not know. One that a person wrote has been put into
    another.
    """
    return TAG in value and value.keys() <= {TAG, "type", "value"}


def fields_of(value: Any) -> dict[str, Any] | None:
    """The fields of a dataclass, a msgspec.Struct, a pydantic or an attrs object by name; None for anything
    else.

    What its own code has set beside them is among them.
    """
    kind = type(value)
    if is_pydantic(kind):
        return model_fields(value)
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name) for name in kind.__struct_fields__}
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    elif hasattr(kind, "__attrs_attrs__"):
        names = [one.name for one in kind.__attrs_attrs__]
    else:
        return None
    fields = {name: getattr(value, name) for name in names if hasattr(value, name)}
    own = getattr(value, "__dict__", {}).items()
    # what a descriptor of its class has put there, as a cached property does, it will put there again
    return {name: one for name, one in own if not hasattr(static(kind, name), "__get__")} | fields


def static(kind: type, name: str) -> Any:
    """What a class has under a name, as it stands there; None for nothing."""
    return next((vars(of)[name] for of in kind.__mro__ if name in vars(of)), None)


def unnamed(zone: datetime.timezone) -> datetime.timezone:
    """The same offset, under the name that Python gives it."""
    return datetime.timezone(zone.utcoffset(None))


def model_fields(model: Any) -> dict[str, Any]:
    """The fields of a pydantic model, those too that its class does not name."""
    return {name: getattr(model, name) for name in type(model).model_fields} | (
        model.__pydantic_extra__ or {}
    )


def record_of(kind: Any, fields: dict[str, Any]) -> Any:
    """A record with these fields, made without its __init__, which would do again what it did: as copy.copy
    does it.
    """
    if issubclass(kind, msgspec.Struct):
        struct = kind(**fields)
        for name, one in fields.items():  # also where its __post_init__ has made others of them
            msgspec.structs.force_setattr(struct, name, one)
        return struct
    made = kind.__new__(kind)
    for name, one in fields.items():
        object.__setattr__(made, name, one)
    return made


def is_pydantic(kind: Any) -> bool:
    return (
        isinstance(kind, type) and hasattr(kind, "model_fields") and hasattr(kind, "__pydantic_validator__")
    )


def is_text(text: str) -> bool:
    """Whether a text is one for a database: half a surrogate pair is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_text(text: str) -> str:
    """A text that a database takes: half a surrogate pair is a question mark in it."""
    return text if is_text(text) else text.encode(errors="replace").decode()


def refuse(value: Any) -> Any:
    kind = type(value)
    raise TypeError(f"a {kind.__module__}.{kind.__qualname__} cannot be sent as it is to another process")
