"""Steps that overlap are rows of their own, and each is known by its key when the job is taken up again."""

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from place import OWNER, Place

from rowcast import step, track
from rowcast.tables.database import close_databases
from rowcast.tasks import steps
from rowcast.tasks.encoding import pack

sent: list[str] = []  # what the tasks below have done, in order
breaks: set[str] = set()  # names at which a task raises
order: list[str] = []  # in which a task goes through its names
both = threading.Barrier(2)


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    sent.clear()
    breaks.clear()
    order[:] = ["a", "b", "c", "d"]
    both.reset()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield Place(str(tmp_path / "rowcast.db"))
    close_databases()


async def mail(name: str) -> str:
    await asyncio.sleep(0.02 * (len(sent) % 3))
    if name in breaks:
        raise ValueError(f"no {name}")
    sent.append(name)
    return name.upper()


def post(name: str) -> str:
    if name in breaks:
        raise ValueError(f"no {name}")
    sent.append(name)
    return name.upper()


async def gathers() -> list[str]:
    return list(await asyncio.gather(*(step(f"mail {name}", mail, name) for name in order)))


async def groups() -> None:
    async with asyncio.TaskGroup() as group:
        for name in order:
            group.create_task(step(f"mail {name}", mail, name))


async def gathers_threads() -> None:
    await asyncio.gather(*(asyncio.to_thread(step, f"mail {name}", post, name) for name in order))


def pools() -> list[str]:
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda name: step(f"mail {name}", post, name), order))


def threads() -> None:
    ran = [threading.Thread(target=step, args=(f"mail {name}", post, name)) for name in order]
    for thread in ran:
        thread.start()
    for thread in ran:
        thread.join()


ALL = [gathers, groups, gathers_threads, pools, threads]


@pytest.mark.parametrize("function", ALL)
def test_each_is_a_row_of_its_own(place: Place, function: Any):
    job = place.begin(function)
    place.run(job)
    assert sorted(sent) == ["a", "b", "c", "d"]
    assert sorted(place.found(job)) == [(f"mail {name}", "completed") for name in "abcd"]
    assert {i.key: i.result for i in place.jobs.items(job.id)} == {
        f"mail {n}": f'"{n.upper()}"' for n in "abcd"
    }


@pytest.mark.parametrize("function", [gathers, groups, pools])
def test_what_is_done_is_not_done_again_in_whatever_order_it_comes_then(place: Place, function: Any):
    breaks.add("b")
    job = place.begin(function)
    place.run(job)
    done = [key for key, status in place.found(job) if status == "completed"]
    assert ("mail b", "failed") in place.found(job)
    assert sorted(done) == sorted(f"mail {name}" for name in sent)
    breaks.clear()
    order[:] = ["new", "d", "c", "b", "a"]
    place.jobs.act(job.id, OWNER, "retry")
    place.run(job)
    assert sorted(sent) == ["a", "b", "c", "d", "new"], "each once"
    assert sorted(place.found(job)) == [(f"mail {name}", "completed") for name in ("a", "b", "c", "d", "new")]
    assert place.job(job).total == 5


def names_of_files() -> None:
    """As a listing gives those that are no UTF-8 (PEP 383)."""
    for name in track(["\udcff", "\udcfe"]):
        post(name)
    step("\udcfd", post, "last")


def test_a_key_that_is_no_text_is_written_out_and_known_again(place: Place):
    breaks.add("\udcfe")
    job = place.begin(names_of_files)
    place.run(job)
    assert place.found(job)[:2] == [("\\udcff", "completed"), ("\\udcfe", "failed")]
    breaks.clear()
    place.jobs.act(job.id, OWNER, "retry")
    place.run(job)
    assert {status for _, status in place.found(job)} == {"completed"}
    assert sent == ["\udcff", "\udcfe", "last"]


def two_at_once() -> None:
    def meet(name: str) -> None:
        both.wait(60)
        sent.append(name)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: step(name, meet, name), ["x", "y"]))


def test_two_steps_are_under_way_at_the_same_time(place: Place):
    job = place.begin(two_at_once)
    place.run(job)
    assert sorted(place.found(job)) == [("x", "completed"), ("y", "completed")]


def over_a_set() -> None:
    for name in track(set(order)):
        if name in breaks:
            raise ValueError(f"no {name}")
        sent.append(name)


def over_a_listing() -> None:
    for name in track(sorted(order)):
        if name in breaks:
            raise ValueError(f"no {name}")
        sent.append(name)


@pytest.mark.parametrize("function", [over_a_set, over_a_listing])
def test_a_new_name_in_front_sends_nothing_again(place: Place, function: Callable[[], None]):
    breaks.add("c")
    job = place.begin(function)
    place.run(job)
    breaks.clear()
    order.insert(0, "0 new")
    place.jobs.act(job.id, OWNER, "retry")
    place.run(job)
    assert sorted(sent) == ["0 new", "a", "b", "c", "d"]
    assert sorted(place.found(job)) == [(name, "completed") for name in ("0 new", "a", "b", "c", "d")]


def twice_the_same() -> None:
    for name in track(["a", "a", "b"]):
        if len(sent) in (1, 5):
            sent.append("!")
            raise ValueError("here it stops")
        sent.append(name)


def test_the_same_key_twice_is_two_steps(place: Place):
    job = place.begin(twice_the_same)
    place.run(job)
    assert sent == ["a", "!"]
    place.jobs.act(job.id, OWNER, "retry")
    place.run(job)
    assert sent == ["a", "!", "a", "b"]
    assert place.found(job) == [("a", "completed"), ("a", "completed"), ("b", "completed")]


async def numbers() -> AsyncIterator[int]:
    for n in range(3):
        await asyncio.sleep(0)
        yield n


async def over_what_is_async() -> None:
    async for n in track(numbers()):
        sent.append(str(n))


def test_an_async_iterable_is_looped_over(place: Place):
    job = place.begin(over_what_is_async)
    place.run(job)
    assert place.found(job) == [("0", "completed"), ("1", "completed"), ("2", "completed")]


async def over_it_plainly() -> None:
    for _ in track(numbers()):
        pass


def test_a_plain_loop_over_it_says_how_it_is_done(place: Place):
    job = place.begin(over_it_plainly)
    place.run(job)
    assert "looped over by `async for`" in str(place.jobs.items(job.id)[0].error)


def a_billion() -> None:
    for n in track(range(10**9)):
        if n == 2:
            break


def test_of_a_billion_only_so_many_are_shown_ahead(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(steps, "AHEAD", 7)
    job = place.begin(a_billion)
    place.run(job)
    assert place.job(job).total == 7


def far() -> None:
    for n in track(range(20)):
        sent.append(str(n))


def test_what_is_shown_ahead_goes_on_with_the_loop(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(steps, "AHEAD", 7)
    job = place.begin(far)
    place.run(job)
    assert place.found(job) == [(str(n), "completed") for n in range(20)]


# ---- what a step returns --------------------------------------------------------------------------------------------


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def hidden(name: str) -> Any:
    return mail(name)


async def wrapped() -> list[str]:
    first = await step("first", logged(mail), "a")
    second = await step("second", hidden, "b")
    if "stop" in breaks:
        raise ValueError("here it stops")
    return [first, second]


def test_a_coroutine_from_a_decorated_function_is_the_step_and_its_result_is_there_again(place: Place):
    breaks.add("stop")
    job = place.begin(wrapped)
    place.run(job)
    breaks.clear()
    place.jobs.act(job.id, OWNER, "retry")
    place.run(job)
    assert sent == ["a", "b"]
    assert place.job(job).status == "completed"
    assert dict(place.found(job)) == {
        "first": "completed", "second": "completed", place.made.name: "completed",
    }  # fmt: skip


async def forgets() -> None:
    step("mail a", mail, "a")


async def forgets_what_it_returned() -> None:
    step("mail a", hidden, "a")


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("function", [forgets, forgets_what_it_returned])
def test_a_step_that_was_never_awaited_is_no_completed_job(place: Place, function: Any):
    job = place.begin(function)
    place.run(job)
    ((_, status),) = place.found(job)
    assert status == "failed"
    assert "The step 'mail a' was made, and never awaited" in str(place.jobs.items(job.id)[0].error)


background: set[asyncio.Task[Any]] = set()


async def does_not_wait() -> None:
    background.add(asyncio.create_task(step("mail a", mail, "a")))
    background.add(asyncio.create_task(step("mail b", hidden, "b")))


def test_steps_that_still_run_at_the_end_are_waited_for(place: Place):
    job = place.begin(does_not_wait)
    place.run(job)
    assert sorted(place.found(job)) == [("mail a", "completed"), ("mail b", "completed")]
    assert sorted(sent) == ["a", "b"]


def generates(name: str) -> Iterator[str]:
    sent.append(name)
    yield name


def returns(what: str) -> None:
    step("much", {"much": lambda: "x" * 100_000, "open": lambda: open, "some": lambda: generates("a")}[what])


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("much", "TypeError: The result of the step 'much' cannot be recorded: it has 100,002 letters, and 64,000 are kept"),
        ("some", "TypeError: What was returned is not done: a generator does nothing until it is looped over."),
        ("open", "TypeError: What was returned is not done: the function open was not called."),
    ],
)  # fmt: skip
def test_a_result_that_could_not_be_given_back_is_refused(place: Place, what: str, why: str):
    job = place.begin(returns, args={"what": what})
    place.run(job)
    assert place.found(job) == [("much", "failed")]
    assert str(place.jobs.items(job.id)[0].error).startswith(why)
    assert sent == []


async def sibling_fails() -> None:
    await asyncio.gather(step("quick", mail, "x"), step("slow", asyncio.sleep, 30))


def test_what_ran_beside_the_step_that_failed_is_broken_off_and_said(place: Place):
    breaks.add("x")
    job = place.begin(sibling_fails)
    place.run(job)
    assert sorted(place.found(job)) == [("quick", "failed"), ("slow", "cancelled")]
    errors = {item.key: item.error for item in place.jobs.items(job.id)}
    assert errors == {"quick": "ValueError: no x", "slow": "Broken off, for the task ended while this ran"}


async def plain_steps_in_a_coroutine() -> None:
    for name in order:
        step(name, post, name)
        await asyncio.sleep(0.2)


def test_a_pause_does_not_hold_the_workers_loop(place: Place):
    job = place.begin(plain_steps_in_a_coroutine)

    async def pause_and_resume(_: Any) -> None:
        while not sent:
            await asyncio.sleep(0.01)
        place.jobs.act(job.id, OWNER, "pause")
        await asyncio.sleep(0.6)
        with contextlib.suppress(Exception):
            place.jobs.act(job.id, OWNER, "resume")

    place.run(job, "one", pause_and_resume)
    assert place.found(job) == [(name, "completed") for name in "abcd"]


def test_a_results_words_are_plain_on_the_page(place: Place):
    assert pack({"a": (1, 2)}) == '{"a":{"$rowcast":"tuple","value":[1,2]}}'
