"""Every type that a task may have is given by a form: it starts untouched, and a cleared field means what the type allows."""

import dataclasses
import datetime
import decimal
import enum
import fractions
import math
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import pydantic
import pytest
from starlette.datastructures import FormData

from rowcast.components import to_html
from rowcast.pages.forms import field, start_form
from rowcast.tasks.arguments import Argument
from rowcast.tasks.fields import hint_of, input_of, lined
from rowcast.tasks.notify import Usual
from rowcast.tasks.records import BadArguments
from rowcast.tasks.registry import REGISTRY, Task, task
from rowcast.web.start import start_of_form

pytestmark = pytest.mark.quick


class Size(enum.Enum):
    SMALL = 1
    LARGE = "l"
    ODD = (1, 2)


@dataclasses.dataclass
class Invoice:
    number: int
    tags: list[str] = dataclasses.field(default_factory=list)


class Order(pydantic.BaseModel):
    id: int
    when: datetime.date | None = None


class Pair(NamedTuple):
    first: int
    second: str = "x"


class Point(msgspec.Struct):
    x: int = 1


DAY = datetime.date(2026, 2, 3)
NOON = datetime.datetime(2026, 2, 3, 12, 0, 1, 5)
# a type, a default of it, and what is typed in its place with what that is
TYPES: list[tuple[Any, Any, str, Any]] = [
    (str, "hi", "there", "there"), (str, "two\nlines\n", "a\r\nb", "a\nb"), (str, "\n x ", " y ", " y "), (int, 5, "7", 7),
    (int, 2**70, "7", 7), (float, 0.5, "1e3", 1000.0), (float, math.inf, "2", 2.0), (bool, True, "false", False),
    (bool, False, "true", True), (bool | None, None, "true", True), (bool | None, False, "true", True),
    (datetime.date, DAY, "2027-01-01", datetime.date(2027, 1, 1)), (datetime.datetime, NOON, "2026-02-03T10:00", datetime.datetime(2026, 2, 3, 10)),
    (datetime.datetime, NOON.replace(tzinfo=datetime.UTC), "2026-02-03T10:00:00Z", datetime.datetime(2026, 2, 3, 10, tzinfo=datetime.UTC)),
    (datetime.time, datetime.time(9, 30), "10:00", datetime.time(10)), (datetime.timedelta, datetime.timedelta(hours=1), "PT2H", datetime.timedelta(hours=2)),
    (decimal.Decimal, decimal.Decimal("1.10"), "2.20", decimal.Decimal("2.20")), (uuid.UUID, uuid.UUID(int=1), str(uuid.UUID(int=2)), uuid.UUID(int=2)),
    (Path, Path("/a b"), "/c", Path("/c")), (bytes, b"\xff", "YWI=", b"ab"), (Size, Size.LARGE, "ODD", Size.ODD),
    (Size | None, None, "SMALL", Size.SMALL), (Literal["a", "b"], "b", "a", "a"), (Literal[1, 2], 2, "1", 1),
    (Literal["a", "b"] | None, None, "a", "a"), (int | None, None, "3", 3), (str | None, "x", "y", "y"), (datetime.date | None, DAY, "2027-01-01", datetime.date(2027, 1, 1)),
    (str | datetime.date, DAY, "soon", "soon"), (str | datetime.date, "today", "2027-01-01", datetime.date(2027, 1, 1)),
    (list[str], ["a", "b"], "c\r\n d ", ["c", "d"]), (list[int], [1, 2], "3\n4", [3, 4]), (list[int], [1, 2], "[5]", [5]), (set[int], {1}, "2\n2", {2}),
    (tuple[int, str], (1, "a"), '[2, "b"]', (2, "b")), (list[datetime.date], [DAY], "2027-01-01", [datetime.date(2027, 1, 1)]),
    (dict[str, int], {"a": 1}, '{"b": 2}', {"b": 2}), (dict[int, str], {1: "a"}, '{"2": "b"}', {2: "b"}),
    (Invoice, Invoice(1, ["a"]), '{"number": 2}', Invoice(2)), (Order, Order(id=1, when=DAY), '{"id": 2}', Order(id=2)),
    (Point, Point(4), '{"x": 5}', Point(5)), (list[Invoice], [Invoice(1)], '[{"number": 2}]', [Invoice(2)]),
    (Invoice | None, None, '{"number": 2}', Invoice(2)), (Annotated[int, msgspec.Meta(le=9)], 5, "6", 6), (Annotated[int, pydantic.Field(le=9)], 5, "6", 6),
    (Sequence[int], [1], "3\n4", [3, 4]), (Iterable[str], ["a"], "b", ["b"]), (Mapping[str, int], {"a": 1}, '{"b": 2}', {"b": 2}),
    (Pair, Pair(1), '[2, "y"]', Pair(2, "y")), (dict[str, Iterable[int]], {}, '{"a": [1]}', {"a": [1]}),
    (Any, {"a": 1}, "free", "free"), (datetime.datetime | None, NOON, "2026-02-03T10:00", datetime.datetime(2026, 2, 3, 10)),
    (str, "a\rb", "c", "c"), (str, "a\r\nb", "c", "c"), (Literal[1, "1"], 1, "'1'", "1"), (Literal["", "a"], "", "a", "a"),
    (Literal["", "a"], "a", "''", ""), (decimal.Decimal, decimal.Decimal("1E+2"), "7", decimal.Decimal(7)),
    (fractions.Fraction, fractions.Fraction(1, 3), "0.5", fractions.Fraction(1, 2)),
]  # fmt: skip


def a_task(kind: Any, *default: Any, name: str = "value") -> Task:
    """A registered task with one argument."""
    argument = Argument(name, kind, *default)
    made = Task(function=lambda: None, name="of_one", entry="m:of_one", arguments=[argument])
    REGISTRY["of_one"] = made
    return made


@pytest.fixture(autouse=True)
def nothing_registered() -> Any:
    yield
    REGISTRY.pop("of_one", None)


class Typed(HTMLParser):
    """What a browser would send of a form that nobody has touched."""

    def __init__(self, html: str):
        super().__init__()
        self.sent: list[tuple[str, str]] = []
        self.area: str | None = None
        self.options: list[tuple[str, bool]] = []
        self.select = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = dict(attrs)
        name = has.get("name") or ""
        if tag == "input" and name and (has.get("type") != "checkbox" or "checked" in has):
            self.sent.append(
                (
                    name,
                    re.sub("[\r\n]", "", has.get("value") or "")
                    if has.get("type") == "text"
                    else has.get("value") or "",
                )
            )
        elif tag == "textarea":
            self.area = name
            self.sent.append((name, ""))
        elif tag == "select":
            self.select = name
            self.options = []
        elif tag == "option":
            self.options.append((has.get("value") or "", "selected" in has))

    def handle_data(self, data: str) -> None:
        if self.area is not None:
            name, text = self.sent[-1]
            self.sent[-1] = (name, text + data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            name, text = self.sent[-1]
            self.sent[-1] = (name, lined(text).removeprefix("\n").replace("\n", "\r\n"))
            self.area = None
        elif tag == "select":
            chosen = [value for value, selected in self.options if selected] or [
                value for value, _ in self.options[:1]
            ]
            self.sent.append((self.select, chosen[0]))


def started(made: Task, sent: list[tuple[str, str]]) -> dict[str, Any]:
    start = start_of_form(FormData(sent), Usual())
    return made.typed(made.check(start.args, strict=False))


@pytest.mark.parametrize(("kind", "default", "typed", "value"), TYPES, ids=lambda one: repr(one)[:40])
def test_a_form_starts_untouched_and_with_what_was_typed(kind: Any, default: Any, typed: str, value: Any):
    made = a_task(kind, default)
    sent = Typed(to_html(start_form(made, 0))).sent
    untouched = started(made, sent)["value"]
    assert untouched == default and type(untouched) is type(default)
    changed = started(made, [*[pair for pair in sent if pair[0] != "value"], ("value", typed)])["value"]
    assert changed == value and type(changed) is type(value)


@pytest.mark.parametrize(("kind", "default", "typed", "value"), TYPES, ids=lambda one: repr(one)[:40])
def test_so_does_one_of_a_required_argument(kind: Any, default: Any, typed: str, value: Any):
    made = a_task(kind)
    assert started(made, [("task", "of_one"), ("value", typed)])["value"] == value
    for sent in ([], [("value", "")]):
        with pytest.raises(BadArguments, match="of_one: missing argument `value`"):
            started(made, [("task", "of_one"), *sent])


@pytest.mark.parametrize(
    ("kind", "default", "value"),
    [
        (str, "hi", ""), (str | None, "hi", None), (int | None, 5, None), (datetime.date | None, DAY, None), (Size | None, Size.SMALL, None),
        (list[str], ["a"], []), (set[int], {1}, set()), (dict[str, int], {"a": 1}, {}), (list[str] | None, ["a"], None), (int, 5, 5),
        (bool | None, True, None),
    ],
)  # fmt: skip
def test_a_field_that_was_cleared_is_empty_or_none_where_the_type_allows(kind: Any, default: Any, value: Any):
    made = a_task(kind, default)
    assert started(made, [("task", "of_one"), ("value", "")])["value"] == value


@pytest.mark.parametrize("name", ["task", "concurrency", "rate", "run_at", "args", "item"])
def test_an_argument_may_have_the_name_of_what_the_form_has_itself(name: str):
    made = a_task(str, "x", name=name)
    sent = Typed(to_html(start_form(made, 0))).sent
    assert started(made, sent) == {name: "x"}
    assert started(made, [("task", "of_one"), (name, "mine")]) == {name: "mine"}
    assert started(made, [("task", "of_one")]) == {name: "x"}


@pytest.mark.parametrize(
    ("kind", "how", "hint"),
    [
        (datetime.date, "date", ""), (datetime.datetime, "datetime-local", ""), (decimal.Decimal, "text", ""), (Size, "choice", ""),
        (Invoice, "json", 'JSON, like {"number": int, "tags": list[str]}'), (Order, "json", 'JSON, like {"id": int, "when": datetime.date | None}'),
        (list[int], "lines", "one per line, or JSON"), (Pair, "json", "JSON, like [first: int, second: str]"), (str | datetime.date, "text", "str or date"), (bytes, "text", "base64"),
    ],
)  # fmt: skip
def test_a_field_says_how_it_is_typed(kind: Any, how: str, hint: str):
    argument = Argument("value", kind)
    assert (input_of(argument), hint_of(argument)) == (how, hint)
    assert to_html(field(a_task(kind), argument))


@pytest.mark.parametrize(
    ("kind", "typed", "why"),
    [
        (Size, "HUGE", "argument `value`: expected one of SMALL, LARGE, ODD, got 'HUGE'."),
        (Invoice, "no", "of_one: argument value is not JSON: "),
        (Invoice, "{}", "object missing required field `number`"),
        (datetime.date, "never", "argument `value`: "),
        (decimal.Decimal, "1,5", "argument `value`: "),
        (Literal["a", "b"], "c", "argument `value`: "),
        (list[int], "1\nx", "argument `value[1]`: expected `int`, got `str`."),
    ],
)
def test_what_cannot_be_read_is_told_at_the_field(kind: Any, typed: str, why: str):
    made = a_task(kind)
    with pytest.raises(BadArguments) as said:
        started(made, [("task", "of_one"), ("value", typed)])
    assert why in str(said.value)


def test_a_tasks_own_signature_makes_such_a_form():
    def many(when: datetime.date, size: Size = Size.SMALL, **more: Any) -> None: ...

    many.__qualname__ = "many"
    made = task(many)
    assert [argument.name for argument in made.arguments] == ["when", "size"]
    assert 'type="date"' in to_html(start_form(made, 0))
