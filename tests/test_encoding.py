"""Values arrive as they were sent: the same again, or a TypeError where they are sent."""

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import ipaddress
import math
import pathlib
import threading
import uuid
import zoneinfo
from typing import Any, NamedTuple

import hypothesis.strategies as st
import msgspec
import pydantic
import pytest
from hypothesis import given

from rowcast.tasks.encoding import (
    TAG,
    as_json,
    fraction_of,
    from_json,
    pack,
    shown,
    shown_text,
    to_json,
    unpack,
)

pytestmark = pytest.mark.quick


class Colour(enum.Enum):
    RED = "red"
    BLUE = ("b", 1)


class Size(enum.IntEnum):
    SMALL = 1


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Place(NamedTuple):
    city: str
    zone: int = 0


@dataclasses.dataclass
class Line:
    amount: decimal.Decimal
    due: datetime.date


@dataclasses.dataclass(frozen=True, slots=True)
class Fixed:
    name: str


@dataclasses.dataclass
class Invoice:
    lines: list[Line]
    colour: Colour = Colour.RED
    number: int = dataclasses.field(init=False, default=7)

    def __post_init__(self) -> None:
        self.total = sum(line.amount for line in self.lines)

    @functools.cached_property
    def lock(self) -> Any:
        return threading.Lock()


class Point(msgspec.Struct):
    x: int
    y: tuple[int, ...] = ()


class Order(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    id: int
    when: datetime.datetime | None = None


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Crossed(pydantic.BaseModel):
    """Each of its fields is sent under the other's name."""

    first: int = pydantic.Field(alias="second")
    second: int = pydantic.Field(alias="first")


class Secretive(pydantic.BaseModel):
    _key: str = pydantic.PrivateAttr("none")


class Email(str):
    @property
    def domain(self) -> str:
        return self.partition("@")[2]


class Bag(list[int]):
    pass


class NotMine:
    def __init__(self, path: str):
        self.path = path


MANY = [
    None, True, 0, -1, 2**63, 2**64, -(2**70), 1.5, math.inf, -math.inf, "", "täxt", "\ud800x", b"\x00\xff", bytearray(b"ab"),
    [], {}, (), (1, (2,)), {1, 2}, frozenset({"a"}), {1: "a", "1": "b"}, {(1, 2): [3]}, {None: 1}, {TAG: "date", "value": "x"},
    {"a": {TAG: 1}}, {"\ud800": 1}, datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, 3, 4, 5, 6),
    datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), datetime.datetime(2026, 7, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    datetime.time(1, 2), datetime.timedelta(days=-1, seconds=5, microseconds=3), decimal.Decimal("1.10"), decimal.Decimal("NaN"),
    fractions.Fraction(1, 3), 1 + 2j, uuid.UUID(int=5), pathlib.Path("/a/b"), pathlib.PurePosixPath("a"),
    ipaddress.ip_address("::1"), ipaddress.ip_network("10.0.0.0/8"), Colour.RED, Colour.BLUE, Size.SMALL, Right.READ,
    Right.READ | Right.WRITE, Place("Rome"), Fixed("a"), Point(1, (2, 3)), Order(id=1), Email("a@b.c"), Bag([1, 2]),
    Numbers([1, 2]), Crossed(first=1, second=2), pathlib.Path("/a/\udcff"),
    collections.OrderedDict(a=1), collections.Counter("aab"), Line(decimal.Decimal("2.50"), datetime.date(2026, 5, 1)),
    [{"deep": [(datetime.date(2026, 1, 1), {Colour.RED: {1}})]}],
]  # fmt: skip


@pytest.mark.parametrize("value", MANY, ids=lambda value: ascii(value)[:60])
def test_a_value_arrives_as_it_was_sent(value: Any):
    again = unpack(pack(value))
    assert type(again) is type(value)
    assert again == value or repr(again) == repr(value)
    assert repr(again) == repr(value)


@dataclasses.dataclass
class Tax:
    amount: int
    rate = 19


class Doubled(msgspec.Struct):
    amount: int

    def __post_init__(self) -> None:
        self.amount *= 2


@dataclasses.dataclass
class Labels(list[str]):
    owner: str


BERLIN = datetime.timezone(datetime.timedelta(hours=1), "CET")


def test_what_its_equality_does_not_see_arrives_too():
    """The second of two moments of a day, a zone's name, what hides a value of the class, what was made of it once."""
    later = datetime.datetime(2026, 10, 25, 2, 30, fold=1)
    assert unpack(pack(later)).fold == 1 and shown(as_json(later)) == "2026-10-25T02:30:00"
    assert unpack(pack(datetime.time(2, 30, fold=1))).fold == 1
    named = datetime.datetime(2026, 1, 1, tzinfo=BERLIN, fold=1)
    again = unpack(pack(named))
    assert (again, again.tzname(), again.fold) == (named, "CET", 1)
    assert shown(as_json(named)) == "2026-01-01T00:00:00+01:00"
    assert unpack(pack(datetime.time(1, tzinfo=BERLIN))).tzname() == "CET"
    reduced = Tax(1)
    reduced.rate = 7
    assert unpack(pack(reduced)).rate == 7
    assert unpack(pack(Doubled(2))) == Doubled(2)
    with pytest.raises(TypeError, match="Labels cannot be sent as it is"):
        pack(Labels("me"))


def test_a_fraction_of_a_billion_noughts_is_refused_before_they_are_written():
    with pytest.raises(ValueError, match="Expected a fraction like 1/3"):
        fraction_of("1e999999999")
    assert fraction_of("0.5") == fractions.Fraction(1, 2)


def test_nan_is_nan_again():
    assert math.isnan(unpack(pack(math.nan)))
    assert [type(one) for one in unpack(pack([1, 1.0, True]))] == [int, float, bool]


def test_a_record_is_made_without_doing_again_what_its_making_did():
    invoice = Invoice([Line(decimal.Decimal("1.10"), datetime.date(2026, 1, 1))] * 2)
    assert invoice.lock
    again = unpack(pack(invoice))
    assert again == invoice and again.total == decimal.Decimal("2.20") and again.number == 7
    assert "lock" not in vars(again)


def test_a_model_knows_which_of_its_fields_were_given():
    order = Order.model_validate({"id": 3, "more": [1]})
    again = unpack(pack(order))
    assert again == order and again.more == [1]
    assert again.model_dump(exclude_unset=True) == {"id": 3, "more": [1]}


secretive = Secretive()
secretive._key = "mine"


def nested() -> Any:
    class Inner(enum.Enum):
        A = 1

    return Inner.A


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (NotMine("/a"), "test_encoding.NotMine cannot be sent as it is to another process"),
        (threading.Lock(), "a _thread.lock cannot be sent"),
        (nested(), "nested.<locals>.Inner cannot be sent"),
        (secretive, "Secretive cannot be sent"),
        (collections.defaultdict(list, a=[1]), "a collections.defaultdict cannot be sent"),
        ([{"x": object()}], "a builtins.object cannot be sent"),
        (datetime.time(1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")), "a datetime.time cannot be sent"),
        (iter([1]), "list_iterator cannot be sent"),
        (len, "cannot be sent"),
    ],
)
def test_what_could_not_be_given_back_is_refused_where_it_is_sent(value: Any, why: str):
    with pytest.raises(TypeError, match=why.replace(".", r"\.").replace("<", r"\<")):
        pack(value)


def test_what_is_too_deep_or_goes_round_in_a_circle_is_refused_in_a_sentence():
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(TypeError, match="more than 200 lists and objects deep"):
        pack(circle)


def test_nobody_writes_a_tagged_object_by_hand():
    forged = {TAG: "of", "type": "os:system", "value": "true"}
    assert from_json(as_json(forged)) == forged
    assert shown(as_json(forged)) == forged


def test_a_number_that_is_too_long_for_decimal_digits_is_shown_all_the_same():
    long = pack(-(10**1000))
    longer = pack(10**5000)
    assert shown_text(long) == to_json(str(-(10**1000))).decode()
    assert shown_text(longer) == to_json(hex(10**5000)).decode()
    assert unpack(longer) == 10**5000


def test_people_and_programs_read_plain_json():
    value = {
        "when": datetime.date(2026, 1, 2), "amount": decimal.Decimal("1.10"), "colour": Colour.BLUE, "to": {"b"},
        "order": Order(id=1), "by": {1: "a"}, "big": 2**70, "for": datetime.timedelta(hours=1), "none": math.nan,
    }  # fmt: skip
    assert shown(as_json(value)) == {
        "when": "2026-01-02", "amount": "1.10", "colour": ["b", 1], "to": ["b"], "order": {"id": 1, "when": None},
        "by": {"1": "a"}, "big": str(2**70), "for": "PT3600S", "none": "nan",
    }  # fmt: skip
    assert shown_text(pack({"a": (1,)})) == '{"a":[1]}'
    assert shown_text('{"a": 1}') == '{"a": 1}'


PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec=None))
    | st.binary() | st.dates() | st.decimals(allow_nan=False) | st.uuids() | st.timedeltas() | st.sampled_from(Colour)
)  # fmt: skip
KEYS = st.text() | st.integers() | st.sampled_from([TAG, "value", "type"])


def inside(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Not a lambda: hypothesis parses the source of those, for which a deep stack has no room left."""
    return st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=4)


VALUES = st.recursive(PLAIN, inside, max_leaves=12)


@given(VALUES)
def test_any_value_of_these_kinds_arrives_as_it_was_sent(value: Any):
    assert unpack(pack(value)) == value
    msgspec.json.encode(shown(as_json(value)))
