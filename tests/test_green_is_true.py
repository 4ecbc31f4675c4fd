"""A row that shows "completed" is done: what a call returns is looked at, and what is called is what was meant."""

import dataclasses
import datetime
import decimal
import enum
import functools
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, NotRequired, TypedDict

import attrs
import green_tasks
import msgspec
import pydantic
import pytest
from green_tasks import Fast, Mail, did
from place import Place

from rowcast import BackgroundTask, task
from rowcast.tables.database import close_databases
from rowcast.tasks import answers
from rowcast.tasks.encoding import from_json
from rowcast.tasks.records import BadArguments, decode, encode
from rowcast.tasks.registry import REGISTRY, import_modules, load


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    did.clear()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield Place(str(tmp_path / "rowcast.db"))
    close_databases()


# ---- what a call returns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function", [green_tasks.wrapped, green_tasks.in_a_pool, green_tasks.returns_a_coroutine]
)
def test_what_is_to_be_waited_for_is_waited_for(place: Place, function: Any):
    job = place.begin(function, ["a", "b"])
    place.run(job)
    assert place.found(job) == [("a", "completed"), ("b", "completed")]
    assert sorted(did) == ["a", "b"]


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (green_tasks.generates, "a generator does nothing until it is looped over"),
        (green_tasks.generates_async, "a async_generator does nothing until it is looped over"),
        (green_tasks.maps, "a map does nothing until it is looped over"),
        (green_tasks.in_a_dataclass, "a generator does nothing until it is looped over"),
        (green_tasks.in_a_model, "a map does nothing until it is looped over"),
        (green_tasks.not_called, "the function was not called"),
        (green_tasks.the_function, "the function wrapped was not called"),
        (green_tasks.the_class, "the function Mail was not called"),
        (green_tasks.thread, "a thread was not waited for"),
        (green_tasks.request, "a Request was made, and not sent or run"),
    ],
)
def test_what_was_only_made_is_a_failure_that_says_so(place: Place, function: Any, why: str):
    job = place.begin(function, ["a", "b"])
    place.run(job)
    assert [status for _, status in place.found(job)] == ["failed", "failed"]
    assert {item.error for item in place.jobs.items(job.id)} == {
        f"TypeError: What was returned is not done: {why}."
    }
    assert did == []


@pytest.mark.parametrize("function", [green_tasks.counts, green_tasks.counts_async])
def test_a_generator_is_refused_where_it_is_written(function: Any):
    for make in (task, BackgroundTask):
        with pytest.raises(
            TypeError, match="is a generator, and calling it does nothing: loop inside it with track"
        ):
            make(function)


def test_a_class_is_refused_where_it_is_written():
    for make in (task, BackgroundTask):
        with pytest.raises(TypeError, match="Mail is a class, and calling it only makes an object"):
            make(Mail)


# ---- what is called -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (Mail("smtp").send, "Mail.send cannot be run as a job: it is bound to an object; define a function"),
        ([].append, "list.append cannot be run as a job: it is bound to an object"),
        (Mail("smtp"), "cannot be run as a job: an object has no name to import"),
        (green_tasks.nested(), "inner cannot be run as a job: define it at the top level of a module"),
        (lambda: None, "define it at the top level of a module"),
        (green_tasks.elsewhere, "original cannot be run as a job: green_tasks.original is something else"),
        (Fast.send_all, "send_all cannot be run as a job: green_tasks.Mail.send_all is something else"),
    ],
)
def test_what_a_worker_would_not_find_is_refused_where_it_is_written(function: Any, why: str):
    with pytest.raises(TypeError) as said:
        BackgroundTask(function, 3)
    assert why in str(said.value)


@pytest.mark.parametrize(
    "function", [Mail("smtp").send, functools.partial(green_tasks.plain, 1), Mail("smtp")]
)
def test_so_it_is_by_the_decorator(function: Any):
    with pytest.raises(TypeError, match="cannot be run as a job"):
        task(function, name="bound")


@pytest.mark.parametrize(
    ("function", "args", "does"),
    [
        (green_tasks.plain, (3,), (3, "x")),
        (green_tasks.decorated, (3,), 3),
        (Mail.send_one, (3,), 3),
        (Mail.send_all, (3,), ("Mail", 3)),
        (functools.partial(green_tasks.plain, 4), (), (4, "x")),
        (functools.partial(functools.partial(green_tasks.plain, name="y"), 4), (), (4, "y")),
    ],
)
def test_what_is_found_by_its_name_is_what_is_run(
    place: Place, function: Any, args: tuple[Any, ...], does: Any
):
    made = BackgroundTask(function, *args)
    again = load(made.task.entry)
    assert again.function == made.task.function
    job, _ = place.jobs.submit(again, made.job_args, "local", "background")
    place.made = again
    place.run(job)
    assert did == [does]
    assert place.job(job).completed == 1


def test_a_method_is_refused_where_it_is_written():
    with pytest.raises(TypeError, match="send is a method, and a job has no object to call it on"):
        task(Mail.send)


def of_two_tasks(item: str) -> None: ...


def test_a_function_may_be_two_tasks_and_a_job_has_the_settings_of_its_own():
    task(name="the_first", concurrency=1)(of_two_tasks)
    task(name="the_second", concurrency=2)(of_two_tasks)
    entry = f"{__name__}:of_two_tasks"
    assert [load(entry, name).concurrency for name in ("the_first", "the_second")] == [1, 2]


def test_two_functions_of_one_name_are_not_taken_for_each_other():
    def first(item: str) -> None: ...
    def second(item: str) -> None: ...

    for function in (first, second):
        function.__qualname__ = "of_one_name"
    task(name="one_name")(first)
    with pytest.raises(
        ValueError, match="of_one_name would be two functions, of the tasks 'one_name' and 'other'"
    ):
        task(name="other")(second)


WRAPPED = """
import functools
from rowcast import task

def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

@logged
@task
def note(item: str): ...
"""


def test_a_task_whose_name_means_something_else_is_refused_at_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "wrapped_task.py").write_text(WRAPPED)
    monkeypatch.syspath_prepend(tmp_path)
    (error,) = import_modules(["wrapped_task"])
    REGISTRY.pop("note")
    assert "note cannot be run as a job: wrapped_task.note is something else" in str(error)


STARTED = """
from rowcast import BackgroundTask
def work(number=1): ...
try:
    print(BackgroundTask(work, 3).task.entry)
except TypeError as error:
    print(error)
"""
REFUSED = (
    "work cannot be run as a job: what was started is no module that a worker can import; define it in a"
    " file that ends in .py.\n"
)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["app.py"], "app:work\n"),
        (["my-app.py"], "my-app:work\n"),
        (["-m", "pkg"], "pkg.__main__:work\n"),
        (["-c", STARTED], REFUSED),
        (["script"], REFUSED),
        (["my.app.py"], REFUSED),
        (["pkg"], REFUSED),
        (["-"], REFUSED),
    ],
)
def test_what_was_started_is_named_as_a_worker_finds_it_or_refused(
    tmp_path: Path, words: list[str], said: str
):
    (tmp_path / "pkg").mkdir()
    for name in ("app.py", "my-app.py", "script", "my.app.py", "pkg/__main__.py"):
        (tmp_path / name).write_text(STARTED)
    ran = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, input=STARTED, capture_output=True, text=True, check=True
    )
    assert ran.stdout == said


# ---- what it is called with -----------------------------------------------------------------------------------------


class Size(enum.Enum):
    SMALL = 1


@dataclasses.dataclass
class Invoice:
    number: int
    amount: decimal.Decimal = decimal.Decimal("0")


class Order(pydantic.BaseModel):
    number: Annotated[int, pydantic.Field(le=5)]


class Point(msgspec.Struct):
    x: int


got: list[Any] = []

VALUES = [
    datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), decimal.Decimal("1.10"), b"\xff", {1, 2}, (1, (2,)),
    uuid.UUID(int=1), Size.SMALL, Invoice(1, decimal.Decimal("2.50")), Order(number=3), Point(1), {1: "a"}, 2**70, "plain", 5, None,
    [1.5, True], {"a": {"b": datetime.timedelta(hours=1)}}, Path("/a"),
]  # fmt: skip


def keeps(value: Any = None, *more: Any, **named: Any) -> None:
    got.append((value, more, named))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:40])
def test_a_background_task_gets_the_very_values(place: Place, value: Any):
    got.clear()
    made = BackgroundTask(keeps, value, value, name=value)
    job, _ = place.jobs.submit(load(made.task.entry), made.job_args, "local", "background")
    place.made = load(made.task.entry)
    place.run(job)
    assert got == [(value, (value,), {"name": value})]
    assert type(got[0][0]) is type(value)
    assert decode(encode(answers.of(place.job(job))))["args"]


def yields_them() -> Iterator[Any]:
    yield from VALUES


def keeps_item(value: Any) -> Any:
    got.append(value)
    return value


def test_an_item_is_the_very_value_that_was_yielded(place: Place):
    got.clear()
    job = place.begin(keeps_item, source=yields_them)
    place.run(job)
    assert place.job(job).completed == len(VALUES)
    assert sorted(map(repr, got)) == sorted(map(repr, VALUES))
    keys = [item.key for item in place.jobs.items(job.id)]
    assert keys[:3] == ["2026-01-02", "2026-01-02T00:00:00+00:00", "1.10"]
    assert keys[8:12] == ["1", "3", "1", "a"]
    assert all(encode(answers.of(item)) for item in place.jobs.items(job.id))


def of_int(item: int) -> None: ...
def of_invoice(item: Invoice) -> None: ...
def of_order(item: Order) -> None: ...
def of_size(item: Size) -> None: ...
def of_small(item: Annotated[int, pydantic.Field(le=5)]) -> None: ...
def of_small_too(item: Annotated[int, msgspec.Meta(le=5)]) -> None: ...
def of_date(item: datetime.date | None) -> None: ...


UserId = NewType("UserId", int)


class Bill(TypedDict):
    due: datetime.date
    amount: NotRequired[decimal.Decimal]


def of_days(item: list[datetime.date]) -> None: ...
def of_amounts(item: dict[str, decimal.Decimal]) -> None: ...
def of_id(item: UserId) -> None: ...
def of_bill(item: Bill) -> None: ...
def of_time(item: datetime.timedelta) -> None: ...
def of_times(item: list[datetime.timedelta] | None) -> None: ...


@attrs.define
class Parcel:
    due: datetime.date


def of_parcel(item: Parcel) -> None: ...


@pytest.mark.parametrize(
    ("function", "came", "is_read"),
    [
        (of_days, ["2026-01-02"], [datetime.date(2026, 1, 2)]),
        (of_amounts, {"a": "1.10"}, {"a": decimal.Decimal("1.10")}),
        (of_id, "5", 5),
        (of_bill, {"due": "2026-01-02", "to": "a"}, {"due": datetime.date(2026, 1, 2), "to": "a"}),
        (of_bill, {"amount": "1.10"}, {"amount": decimal.Decimal("1.10")}),
        (of_time, "PT5S", datetime.timedelta(seconds=5)),
        (of_times, ["PT5S"], [datetime.timedelta(seconds=5)]),
        (of_parcel, {"due": "2026-01-02"}, Parcel(datetime.date(2026, 1, 2))),
    ],
)
def test_what_is_inside_an_item_is_of_the_annotation_too(function: Any, came: Any, is_read: Any):
    read = task(function).item_reader
    assert read and read(came, False) == is_read


def test_a_row_that_does_not_fit_says_which_of_its_fields():
    read = task(of_bill).item_reader
    assert read
    with pytest.raises(ValueError, match=r"due: .*date"):
        read({"due": "soon"}, False)


@pytest.mark.parametrize(
    ("function", "given", "items"),
    [
        (of_int, ["5", 6], [5, 6]),
        (of_invoice, [{"number": 1, "amount": "2.50"}], [Invoice(1, decimal.Decimal("2.50"))]),
        (of_order, [{"number": 3}], [Order(number=3)]),
        (of_size, [1], [Size.SMALL]),
        (of_small, [5], [5]),
        (of_small_too, [5], [5]),
        (of_date, ["2026-01-02"], [datetime.date(2026, 1, 2)]),
    ],
)
def test_items_given_at_the_start_are_of_the_annotation(function: Any, given: list[Any], items: list[Any]):
    made = task(function)
    assert from_json(made.check({"items": given}, strict=False)["items"]) == items


@pytest.mark.parametrize(
    ("function", "given", "why"),
    [
        (of_int, ["x"], "of_int: argument `items[0]`: expected `int`, got `str`."),
        (
            of_invoice,
            [{"amount": "1"}],
            "of_invoice: argument `items[0]`: object missing required field `number`.",
        ),
        (
            of_order,
            [{"number": 6}],
            "of_order: argument `items`: 0.number: Input should be less than or equal to 5.",
        ),
        (of_small, [6], "of_small: argument `items`: 0: Input should be less than or equal to 5."),
        (of_small_too, [6], "of_small_too: argument `items[0]`: expected `int` <= 5."),
    ],
)
def test_and_refused_where_they_are_not(function: Any, given: list[Any], why: str):
    with pytest.raises(BadArguments) as said:
        task(function).check({"items": given})
    assert str(said.value) == why


def raw() -> Iterator[Any]:
    yield from [{"number": 1, "amount": "2.50"}, {"number": "x"}]


def test_what_a_source_yields_is_made_what_the_annotation_says(place: Place):
    got.clear()

    def keeps_invoice(value: Invoice) -> None:
        got.append(value)

    keeps_invoice.__qualname__ = "keeps_invoice"
    job = place.begin(keeps_invoice, source=raw)
    place.run(job)
    assert got == [Invoice(1, decimal.Decimal("2.50"))]
    assert [status for _, status in place.found(job)] == ["completed", "failed"]
    assert "Expected `int`" in str(place.jobs.items(job.id)[1].error)


def typed(
    day: datetime.date, amount: decimal.Decimal, size: Size, invoice: Invoice, order: Order,
    few: Annotated[int, pydantic.Field(le=5)] = 1, when: str | datetime.date = "today", kind: Literal["a", "b"] = "a", path: Path = Path("x"),
) -> None:  # fmt: skip
    got.append((day, amount * 2, size, invoice, order, few, when, kind, path))


def test_arguments_from_json_arrive_in_their_types():
    made = task(typed)
    given = {
        "day": "2026-01-02",
        "amount": "1.10",
        "size": 1,
        "invoice": {"number": 1},
        "order": {"number": 2},
        "few": 5,
        "path": "/a",
    }
    args = made.call_arguments(made.check(given))
    assert args == {
        "day": datetime.date(2026, 1, 2), "amount": decimal.Decimal("1.10"), "size": Size.SMALL, "invoice": Invoice(1),
        "order": Order(number=2), "few": 5, "when": "today", "kind": "a", "path": Path("/a"),
    }  # fmt: skip
    assert args["amount"] * 2 == decimal.Decimal("2.20")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"few": 6}, "argument `few`: input should be less than or equal to 5."),
        ({"order": {"number": 9}}, "argument `order`: number: Input should be less than or equal to 5."),
        ({"amount": "much"}, "argument `amount`: "),
        ({"path": 5}, "argument `path`: expected `Path`, got `int`."),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changed: dict[str, Any], why: str):
    given = {
        "day": "2026-01-02",
        "amount": "1.10",
        "size": 1,
        "invoice": {"number": 1},
        "order": {"number": 2},
    } | changed
    with pytest.raises(BadArguments) as said:
        task(typed).check(given)
    assert why in str(said.value)


def test_an_annotation_that_nobody_can_check_is_refused_at_import():
    def unreadable(by: dict[str, datetime.date | datetime.datetime]) -> None: ...

    with pytest.raises(
        TypeError, match="unreadable: the annotation of `by` cannot be used: Type unions may not contain"
    ):
        unreadable.__qualname__ = "unreadable"
        task(unreadable)
