"""What `@task` reads from a function: its items, its arguments, its clients; and what it refuses."""

import asyncio
import datetime
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from rowcast import BackgroundTask, Retry, idempotency_key, step, task, track
from rowcast.tasks import built_in, registry
from rowcast.tasks.encoding import shown
from rowcast.tasks.entries import entry_of
from rowcast.tasks.records import BadArguments
from rowcast.tasks.registry import import_modules, load, load_or_say, parse_rate
from rowcast.tasks.sources import user as each_user

BUILT_IN = [name for name, made in registry.REGISTRY.items() if made.function.__module__ == built_in.__name__]


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "REGISTRY", {})


# the functions stand at the top level, as a user's do; each test makes a task of one


async def send(user: dict, subject: str = "hi"): ...


def each(item: Any, factor: float = 1.0): ...


def report(month: int = 1): ...


def rows(upto: int, start: int = 0) -> Iterator[int]:
    yield from range(start, upto)


def square(n: int, add: int = 0): ...


async def fetch(item: str, api: httpx.AsyncClient): ...


async def late(item: "str", api: "httpx.AsyncClient", many: "int | None" = None): ...


def farewell(item: Any): ...


def greet(item: str):
    """Say hello.

    At length.
    """


def double(item: int) -> int:
    return item * 2


TAGS = ["a"]
OPTIONS = {"x": 1}


def tagged(tags: list[str] = TAGS, options: dict[str, int] = OPTIONS): ...


def choose(
    kind: Literal["small", "large"], many: int | None = None, deep: bool = False, share: float = 0.5
): ...


def nothing(): ...


def plain(loops: int, name: str = "x") -> None: ...


def anything(*args: Any, **kwargs: Any) -> None: ...


class Group:
    @staticmethod
    def inside() -> int:
        return 5


# ---- the signature -------------------------------------------------------------------------------------------------


def test_a_first_parameter_named_user_is_each_row_of_the_table_of_users():
    made = task(send)
    assert (made.items, made.item, made.shape) == (each_user, "user", "items")
    assert [(a.name, a.default) for a in made.arguments] == [("limit", None), ("subject", "hi")]


def test_a_first_parameter_named_item_is_each_of_a_list_given_at_the_start():
    made = task(each)
    assert made.item == "item"
    assert [(a.name, a.required) for a in made.arguments] == [("items", True), ("factor", False)]


def test_any_other_task_is_called_once():
    made = task(report)
    assert (made.items, made.item, made.shape) == (None, None, "body")
    assert [a.name for a in made.arguments] == ["month"]


def test_a_function_for_items_gives_its_own_parameters_to_the_job():
    made = task(items=rows)(square)
    assert [a.name for a in made.arguments] == ["upto", "start", "add"]
    assert list(made.items(**made.source_values({"upto": 3, "start": 1, "add": 5}))) == [1, 2]
    assert made.call_arguments({"upto": 3, "start": 1, "add": 5}) == {"add": 5}


def test_a_parameter_annotated_with_a_client_is_injected_and_no_argument():
    made = task(fetch)
    assert made.clients == {"api": httpx.AsyncClient}
    assert [a.name for a in made.arguments] == ["items"]


def test_annotations_as_text_are_understood():
    made = task(late)
    assert list(made.clients) == ["api"] and made.arguments[-1].plain_type is int


def test_the_docstring_and_the_name_are_the_functions_own():
    assert (task(greet).name, task(greet).help) == ("greet", "Say hello.\n\nAt length.")
    assert (task(name="goodbye")(farewell).name, task(each).help) == ("goodbye", "")


def test_a_task_can_still_be_called_as_the_function_it_is():
    assert task(double)(21) == 42


@pytest.mark.parametrize(
    ("hint", "plain", "choices"),
    [
        (int, int, ()),
        (int | None, int, ()),
        (Literal["a", "b"], Literal["a", "b"], ("a", "b")),
        (list[int], list[int], ()),
    ],
)
def test_an_argument_knows_its_plain_type_and_its_choices(hint: Any, plain: Any, choices: tuple[Any, ...]):
    argument = registry.Argument("x", hint)
    assert (argument.plain_type, argument.choices) == (plain, choices)


def test_a_mutable_default_is_a_default_like_any_other():
    made = task(tagged)
    first = made.check({})
    assert first == {"tags": ["a"], "options": {"x": 1}}
    first["tags"].append("b")
    assert made.check({})["tags"] == ["a"]


# ---- arguments -----------------------------------------------------------------------------------------------------


def test_arguments_are_checked_and_defaults_filled_in():
    assert task(choose).check({"kind": "small"}) == {
        "kind": "small",
        "many": None,
        "deep": False,
        "share": 0.5,
    }


def test_a_forms_text_becomes_numbers_and_truth():
    given = {"kind": "large", "many": "7", "deep": "true", "share": "0.25"}
    assert task(choose).check(given, strict=False) == {
        "kind": "large",
        "many": 7,
        "deep": True,
        "share": 0.25,
    }


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "choose: missing argument `kind`."),
        ({"kind": "huge"}, "choose: argument `kind`: "),
        ({"kind": "small", "many": "7"}, "choose: argument `many`: expected `int | null`, got `str`."),
        ({"kind": "small", "size": 5}, "choose: unknown argument `size`."),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(given: dict[str, Any], says: str):
    with pytest.raises(BadArguments) as error:
        task(choose).check(given)
    assert str(error.value).startswith(says)


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([], "items is empty: give at least one."),
        (["a", "b", "a"], "items: 'a' is listed twice."),
        ([{"x": 1}, {"x": 1}], "is listed twice"),
    ],
)
def test_a_list_of_items_that_is_empty_or_names_one_twice_is_refused(items: list[Any], says: str):
    with pytest.raises(BadArguments, match=says):
        task(each).check({"items": items})


HERE = object()


def reads(path: Any = HERE) -> None: ...


def moves(day: datetime.date, kinds: set[str], where: Literal["here", "there"] = "here") -> None: ...


def test_arguments_that_have_been_json_are_of_the_signatures_types_again():
    made = task(moves)
    args = made.check({"day": "2026-02-28", "kinds": ["a"]})
    assert shown(args) == {"day": "2026-02-28", "kinds": ["a"], "where": "here"}
    assert made.call_arguments(args) == {"day": datetime.date(2026, 2, 28), "kinds": {"a"}, "where": "here"}


def days(since: datetime.date) -> list[str]:
    return [since.isoformat()]


def test_a_source_gets_its_arguments_in_their_types():
    made = task(name="of_days", items=days)(each)
    assert list(made.items(**made.source_values(made.check({"since": "2026-02-28"})))) == ["2026-02-28"]


def test_a_default_that_cannot_be_sent_is_refused_at_import():
    with pytest.raises(
        TypeError, match=r"reads: the default of `path` cannot be used: a builtins.object cannot be sent"
    ):
        task(reads)


def by_position(item: str, /, much: int) -> None: ...
def by_position_too(item: str, much: int, /) -> None: ...
def not_there(item) -> None: ...


not_there.__annotations__["item"] = "NotThere"


def test_a_signature_that_cannot_be_used_is_refused_at_import_with_the_reason():
    assert task(by_position).item == "item"
    with pytest.raises(
        TypeError, match=r"by_position_too: `much` can only be given by position, and a job gives it by"
    ):
        task(by_position_too)
    with pytest.raises(
        TypeError, match="not_there: its annotations cannot be read where it is run: name 'NotThere'"
    ):
        task(not_there)


def test_a_source_by_name_is_found_by_a_process_that_has_imported_nothing_of_it(tmp_path: Path):
    (tmp_path / "mine.py").write_text("from rowcast import task\n\n@task\ndef greet(user: dict): ...\n")
    code = "from rowcast.tasks.registry import load; print(load('mine:greet').shape)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "items\n"


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", [{"concurrency": 0}, {"max_attempts": 0}, {"rate": "fast"}, {"rate": "-1/s"}, {"rate": "0/s"}]
)
def test_a_setting_that_cannot_be_is_refused(how: dict[str, Any]):
    with pytest.raises(ValueError):
        task(**how)(plain)


def test_items_for_a_function_that_takes_none_are_refused():
    with pytest.raises(TypeError, match="has items but no parameter that takes one"):
        task(items=rows)(nothing)


def test_two_tasks_of_one_name_are_refused():
    task(name="same")(plain)
    with pytest.raises(ValueError, match="Two tasks are named 'same'"):
        task(name="same")(anything)


def test_ones_own_task_stands_in_place_of_a_built_in_one_whichever_is_read_first():
    task(built_in.counter.function)
    mine = task(name="counter")(plain)
    assert {"counter": mine} == registry.REGISTRY
    task(built_in.counter.function)
    assert {"counter": mine} == registry.REGISTRY and load(
        "rowcast.tasks.built_in:counter"
    ) is built_in.counter


def test_the_same_task_read_again_is_no_second_one():
    task(name="same")(plain)
    task(name="same")(plain)
    assert list(registry.REGISTRY) == ["same"]


RATES = [
    ("100/s", 100),
    ("60/m", 1),
    ("3600/h", 1),
    (5, 5),
    (0.5, 0.5),
    ("2.5", 2.5),
    ("10 / sec", 10),
    (None, None),
    ("", None),
]


@pytest.mark.parametrize(("rate", "per_second"), RATES)
def test_a_rate_is_a_number_per_time(rate: Any, per_second: float | None):
    assert parse_rate(rate) == per_second


@pytest.mark.parametrize("rate", ["fast", "0", "-5/s", "5/d", "/s", "1e999", "nan", "5/s/s"])
def test_what_is_no_rate_is_refused(rate: str):
    with pytest.raises(ValueError, match="is no rate: write it like 100/s, 60/m or 1000/h"):
        parse_rate(rate)


# ---- by name -------------------------------------------------------------------------------------------------------


def test_a_function_is_found_again_by_its_module_and_name():
    assert load(entry_of(plain)).function is plain
    assert load(entry_of(Group.inside)).function is Group.inside


@pytest.mark.parametrize("function", [lambda: None, (lambda: lambda: None)()])
def test_a_function_without_a_name_cannot_be_a_job(function: Callable[[], None]):
    with pytest.raises(TypeError, match="define it at the top level of a module"):
        task(function)


# ---- BackgroundTask ------------------------------------------------------------------------------------------------


def test_background_task_has_the_signature_of_starlettes():
    made = BackgroundTask(plain, 3, name="y")
    assert (made.func, made.args, made.kwargs) == (plain, (3,), {"name": "y"})
    assert made.job_args == {"*": [3], "name": "y"}
    assert BackgroundTask(plain, loops=5).job_args == {"loops": 5}


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "missing a required argument: 'loops'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((), {"loops": 1, "speed": 2}, "unexpected keyword argument 'speed'"),
        (
            (object(),),
            {},
            r"^The arguments of plain cannot be sent: a builtins.object cannot be sent as it is",
        ),
    ],
)
def test_a_call_that_cannot_be_made_is_refused_where_it_is_written(
    args: tuple[Any, ...], kwargs: dict[str, Any], says: str
):
    with pytest.raises(TypeError, match=says):
        BackgroundTask(plain, *args, **kwargs)


def test_a_function_without_a_name_is_refused_too():
    with pytest.raises(TypeError, match="define it at the top level of a module"):
        BackgroundTask(lambda: None)


# ---- outside a job -------------------------------------------------------------------------------------------------


def test_outside_a_job_track_is_the_plain_loop():
    async def walk() -> list[int]:
        return [n async for n in track(range(3))]

    assert list(track(range(3))) == asyncio.run(walk()) == [0, 1, 2]


def test_outside_a_job_step_is_the_plain_call():
    async def double(n: int) -> int:
        return n * 2

    async def walk() -> int:
        return await step("double", double, 4)

    assert step("len", len, "abc") == 3
    assert asyncio.run(walk()) == 8


def test_outside_a_job_there_is_no_idempotency_key():
    with pytest.raises(LookupError, match="for code that runs as an item or a step of a job"):
        idempotency_key()


def test_retry_bears_its_reason_and_its_pause():
    error = Retry("the printer is warm", after=5)
    assert (str(error), error.after) == ("the printer is warm", 5)


def test_the_built_in_tasks_are_registered_by_their_module():
    assert {"update_users", "counter"} <= set(BUILT_IN)


# ---- what cannot be imported ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("", "AttributeError: module 'odd_tasks' has no attribute 'greet'"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("def greet(:", "SyntaxError: invalid syntax"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
    ],
)
def test_why_a_task_cannot_be_imported_is_said_and_once_it_can_be_it_is_there(
    tmp_path, monkeypatch, code, says
):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "odd_tasks.py").write_text(code)
    assert str(load_or_say("odd_tasks:greet")).startswith(says)
    sys.modules.pop("odd_tasks", None)
    (tmp_path / "odd_tasks.py").write_text("# put right meanwhile\ndef greet(): ...\n")
    found = load_or_say("odd_tasks:greet")
    assert isinstance(found, registry.Task) and found.name == "greet"
    sys.modules.pop("odd_tasks")


def test_jobs_that_begin_in_the_same_moment_all_find_their_task(monkeypatch):
    # what is no absolute path is forgotten at each look, as the path of an editable install is
    relative = dict.fromkeys((f"__editable__{n}" for n in range(3_000)), None)
    monkeypatch.setattr(sys, "path_importer_cache", sys.path_importer_cache | relative)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    found = []
    try:
        with ThreadPoolExecutor(8) as threads:
            for _ in range(20):
                sys.path_importer_cache.update(relative)
                found += threads.map(lambda _: load_or_say("rowcast.tasks.built_in:counter"), range(8))
    finally:
        sys.setswitchinterval(interval)
    assert {getattr(task, "name", task) for task in found} == {"counter"}


def test_of_modules_that_cannot_be_imported_each_is_one_sentence_and_the_others_are_imported(
    tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "bad_tasks.py").write_text("\n\nraise ValueError('not today')\n")
    (tmp_path / "good_tasks.py").write_text("GREETING = 'hello'\n")
    said = [str(error) for error in import_modules(["bad_tasks", "good_tasks.py", "good_tasks"])]
    assert (
        said[0] == "The tasks in 'bad_tasks' cannot be imported: ValueError: not today (bad_tasks.py, line 3)"
    )
    assert said[1].startswith("The tasks in 'good_tasks.py' cannot be imported: ModuleNotFoundError: ")
    assert said[1].endswith(". A module is named without its .py.") and len(said) == 2
    assert sys.modules.pop("good_tasks").GREETING == "hello"
