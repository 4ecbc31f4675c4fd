"""What a try starts and does not wait for: a row is green once that is over too, and well."""

import asyncio
import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
from conftest import PATIENCE, Server
from place import Place, seen

from rowcast import step
from rowcast.tables.database import close_databases
from rowcast.tasks.steps import Cancelled
from rowcast.worker import beside
from rowcast.worker.context import Context
from rowcast.worker.process import new_loop

did: list[Any] = []
pool = concurrent.futures.ThreadPoolExecutor(2)
stop = threading.Event()
kept: set[Any] = set()


@functools.cache
def of_futures() -> concurrent.futures.ProcessPoolExecutor:
    return concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


@functools.cache
def of_processes() -> Any:
    return multiprocessing.get_context("spawn").Pool(1)


@pytest.fixture(scope="module", autouse=True)
def no_pool_is_left() -> Iterator[None]:
    """Made before two threads ask for it at once."""
    with of_futures(), of_processes():
        yield
    of_processes().join()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    did.clear()
    stop.clear()
    yield Place(str(tmp_path / "rowcast.db"))
    stop.set()
    close_databases()


async def send(item: str) -> None:
    for _ in range(20):
        await asyncio.sleep(0)
    did.append(item)


async def refuses(item: str) -> None:
    for _ in range(20):
        await asyncio.sleep(0)
    raise ValueError(f"no {item}")


def send_slowly(item: str) -> None:
    threading.Event().wait(0.1)
    did.append(item)


def refuses_slowly(item: str) -> None:
    threading.Event().wait(0.1)
    raise ValueError(f"no {item}")


def waits_for_a_stop() -> None:
    stop.wait(PATIENCE)


# ---- what goes on is waited for ----------------------------------------------------------------------------


async def lets_a_task_go(item: str) -> None:
    kept.add(asyncio.create_task(send(item)))


async def lets_a_gathering_go(item: str) -> None:
    kept.add(asyncio.gather(send(item)))


async def lets_a_task_of_a_task_go(item: str) -> None:
    kept.add(asyncio.create_task(lets_a_task_go(item)))


async def lets_an_executor_go(item: str) -> None:
    asyncio.get_running_loop().run_in_executor(None, send_slowly, item)


def lets_a_thread_go(item: str) -> None:
    threading.Thread(target=send_slowly, args=(item,)).start()


def lets_a_daemon_go(item: str) -> None:
    threading.Thread(target=send_slowly, args=(item,), daemon=True).start()


def lets_a_pool_go(item: str) -> None:
    pool.submit(send_slowly, item)


def lets_a_timer_go(item: str) -> None:
    threading.Timer(0.05, send_slowly, [item]).start()


async def lets_the_loop_call_soon(item: str) -> None:
    asyncio.get_running_loop().call_soon(did.append, item)


async def lets_the_loop_call_later(item: str) -> None:
    asyncio.get_running_loop().call_later(0.1, lambda: did.append(item))


async def lets_the_loop_call_a_call(item: str) -> None:
    loop = asyncio.get_running_loop()
    loop.call_at(loop.time() + 0.05, lambda: loop.call_soon_threadsafe(functools.partial(did.append, item)))


def lets_a_process_go(item: str) -> None:
    of_futures().submit(time.sleep, 0.1).add_done_callback(lambda _: did.append(item))


def lets_processes_go(item: str) -> None:
    of_processes().map_async(time.sleep, [0.1, 0.1], callback=lambda _: did.append(item))


def writes(path: str) -> None:
    threading.Event().wait(0.1)
    Path(path).touch()


def lets_a_process_of_python_go(item: str) -> None:
    multiprocessing.get_context("fork").Process(target=writes, args=(item,)).start()


def lets_a_program_go(item: str) -> None:
    subprocess.Popen(["/bin/sh", "-c", f"sleep 0.1; : > {item}"])


def lets_a_program_go_that_reads(item: str) -> None:
    program = subprocess.Popen(["/bin/sh", "-c", f"cat; : > {item}"], stdin=subprocess.PIPE)
    assert program.stdin
    program.stdin.write(b"all")
    program.stdin.flush()


async def lets_a_program_of_the_loop_go(item: str) -> None:
    await asyncio.create_subprocess_exec("/bin/sh", "-c", f"sleep 0.1; : > {item}")


def lets_a_fork_go(item: str) -> None:
    if not os.fork():
        writes(item)
        os._exit(0)


def lets_reading_go(item: str) -> None:
    of_processes().imap_unordered(writes, [item])


def lets_reading_in_chunks_go(item: str) -> None:
    of_processes().imap(writes, [item, item], chunksize=2)


def lets_a_map_go(item: str) -> None:
    pool.map(writes, [item])


PROCESSES = [
    lets_a_process_of_python_go,
    lets_a_program_go,
    lets_a_program_go_that_reads,
    lets_a_program_of_the_loop_go,
    lets_a_fork_go,
    lets_reading_go,
    lets_reading_in_chunks_go,
    lets_a_map_go,
]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("function", PROCESSES)
def test_what_a_process_of_a_try_does_is_done_when_its_row_is_green(
    place: Place, function: Any, tmp_path: Path
):
    item = str(tmp_path / "written")
    job = place.begin(function, [item])
    place.run(job)
    assert place.found(job) == [(item, "completed")] and Path(item).exists()


async def body_lets_a_task_go() -> None:
    kept.add(asyncio.create_task(send("body")))


def body_lets_a_thread_go() -> None:
    threading.Thread(target=send_slowly, args=("body",)).start()


GO = [
    lets_a_task_go,
    lets_a_gathering_go,
    lets_a_task_of_a_task_go,
    lets_an_executor_go,
    lets_a_thread_go,
    lets_a_daemon_go,
    lets_a_pool_go,
    lets_a_timer_go,
    lets_the_loop_call_soon,
    lets_the_loop_call_later,
    lets_the_loop_call_a_call,
    lets_a_process_go,
    lets_processes_go,
    body_lets_a_task_go,
    body_lets_a_thread_go,
]


def items_of(function: Any) -> list[str]:
    return [] if function.__name__.startswith("body") else ["a", "b"]


@pytest.mark.parametrize("function", GO)
def test_what_a_try_has_started_is_done_when_its_row_is_green(place: Place, function: Any):
    job = place.begin(function, items_of(function))
    place.run(job)
    assert {status for _, status in place.found(job)} == {"completed"}
    assert sorted(did) == (items_of(function) or ["body"])


def test_a_busy_door_of_the_loop_is_watched_where_their_code_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Without that no client that has a thread of its own pays for it."""
    tmp_path /= "package"
    tmp_path.mkdir()
    for name, code in {
        "calls": "loop.call_soon(x)",
        "hands": "Thread(target=loop.call_soon_threadsafe)",
    }.items():
        (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / "neither.py").write_text("loop.call_later(1, x)")
    found = [beside._names_in(str(tmp_path / f"{name}.py")) for name in ("calls", "hands", "neither")]
    assert found == [{"call_soon"}, {"call_soon_threadsafe"}, set()]
    assert beside._names_near(str(tmp_path)) == set(beside.BUSY)
    assert beside._names_near(str(tmp_path.parent)) == set(), "a folder with something else"
    (tmp_path / "__init__.py").touch()
    beside._names_near.cache_clear()
    assert beside._names_near(str(tmp_path.parent)) == set(beside.BUSY), "a package beside them"

    async def watched() -> set[str]:
        beside.heed_beside(Mock(function=lets_the_loop_call_later))
        return vars(asyncio.get_running_loop()).keys() & set(beside.BUSY)

    for named in (set(), {"call_soon"}, set(beside.BUSY)):
        monkeypatch.setattr(beside, "names_of_theirs", lambda *_, named=named: frozenset(named))
        assert asyncio.run(watched()) == set(named)


@pytest.mark.parametrize(
    "function", [lets_the_loop_call_soon, lets_the_loop_call_later, lets_the_loop_call_a_call]
)
def test_what_a_workers_own_loop_is_to_call_is_done_too(
    place: Place, function: Any, monkeypatch: pytest.MonkeyPatch
):
    def run(main: Any) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main)

    monkeypatch.setattr(asyncio, "run", run)
    job = place.begin(function, ["a", "b"])
    place.run(job)
    assert sorted(did) == ["a", "b"] and {status for _, status in place.found(job)} == {"completed"}


def stops_slowly() -> None:
    threading.Event().wait(0.1)
    next(iter(()))


def a_thread_stops(item: str) -> None:
    threading.Thread(target=stops_slowly).start()


def a_thread_says_no(item: str) -> None:
    threading.Thread(target=sys.exit, args=("no",)).start()


def a_thread_says_well(item: str) -> None:
    threading.Thread(target=sys.exit).start()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("function", "status", "error"),
    [
        (a_thread_stops, "failed", "RuntimeError: coroutine raised StopIteration"),
        (a_thread_says_no, "failed", "The task called exit(no)"),
        (a_thread_says_well, "completed", None),
    ],
)
def test_however_a_thread_ends_its_row_hears_of_it(
    place: Place, function: Any, status: str, error: str | None
):
    job = place.begin(function, ["a"], timeout=PATIENCE)
    place.run(job)
    (item,) = place.jobs.items(job.id)
    assert (item.status, item.error) == (status, error)


# ---- what of it fails is a failure ---------------------------------------------------------------------------


async def a_task_fails(item: str) -> None:
    kept.add(asyncio.create_task(refuses(item)))


async def a_task_has_failed(item: str) -> None:
    kept.add(one := asyncio.create_task(refuses(item)))
    await asyncio.wait([one])


async def a_gathering_fails(item: str) -> None:
    kept.add(asyncio.gather(send(item), asyncio.gather(refuses(item), asyncio.sleep(0))))


async def a_gathering_has_failed(item: str) -> None:
    asyncio.gather(one := asyncio.create_task(refuses(item)))
    await asyncio.wait([one])


async def a_shield_fails(item: str) -> None:
    kept.add(asyncio.shield(asyncio.shield(refuses(item))))


async def what_a_thread_gives_the_loop_fails(item: str) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(refuses(item), loop))


def a_task_of_its_own_loop_has_failed(item: str) -> None:
    asyncio.run(a_task_has_failed(item))


def a_gathering_of_its_own_loop_has_failed(item: str) -> None:
    threading.Thread(target=asyncio.run, args=[a_gathering_has_failed(item)]).start()


async def a_task_has_failed_before_many(item: str) -> None:
    await a_task_has_failed(item)
    await asyncio.gather(*(asyncio.sleep(0) for _ in range(beside.MANY)))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def a_thread_fails(item: str) -> None:
    threading.Thread(target=refuses_slowly, args=(item,)).start()


def a_thread_has_failed(item: str) -> None:
    thread = threading.Thread(target=refuses_slowly, args=(item,))
    thread.start()
    thread.join()


async def a_call_of_the_loop_fails(item: str) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    loop.call_soon(lambda: refuses_slowly(item))


def a_pool_fails(item: str) -> None:
    pool.submit(refuses_slowly, item)


async def body_lets_one_fail() -> None:
    kept.add(asyncio.create_task(refuses("body")))


FAIL = [
    a_task_fails,
    a_gathering_fails,
    a_gathering_has_failed,
    a_shield_fails,
    what_a_thread_gives_the_loop_fails,
    a_task_of_its_own_loop_has_failed,
    a_gathering_of_its_own_loop_has_failed,
    a_task_has_failed,
    a_task_has_failed_before_many,
    a_thread_fails,
    a_thread_has_failed,
    a_pool_fails,
    a_call_of_the_loop_fails,
    body_lets_one_fail,
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("function", FAIL)
def test_what_of_it_fails_fails_its_row(place: Place, function: Any):
    job = place.begin(function, items_of(function)[:1])
    place.run(job)
    (item,) = place.jobs.items(job.id)
    assert (item.status, item.error) == ("failed", f"ValueError: no {(items_of(function) or ['body'])[0]}")


def a_process_fails(item: str) -> None:
    of_futures().submit(int, item)


def a_pools_process_fails(item: str) -> None:
    of_processes().apply_async(int, [item])


def a_pools_process_fails_of_which_is_read_little(item: str) -> None:
    next(of_processes().imap(int, ["1", item]))


def a_map_fails(item: str) -> None:
    with concurrent.futures.ThreadPoolExecutor() as own:
        own.map(int, ["1", item])


@pytest.mark.parametrize(
    "function",
    [a_process_fails, a_pools_process_fails, a_pools_process_fails_of_which_is_read_little, a_map_fails],
)
def test_what_a_process_of_a_pool_fails_by_fails_its_row(place: Place, function: Any):
    job = place.begin(function, ["a"])
    place.run(job)
    (item,) = place.jobs.items(job.id)
    assert item.status == "failed" and item.error == "ValueError: invalid literal for int() with base 10: 'a'"


def a_program_fails(item: str) -> None:
    subprocess.Popen(["/bin/sh", "-c", "exit 3"])


def a_process_of_python_fails(item: str) -> None:
    multiprocessing.get_context("fork").Process(target=os._exit, args=(3,)).start()


def a_fork_fails(item: str) -> None:
    if not os.fork():
        os._exit(3)


async def a_program_of_the_loop_fails(item: str) -> None:
    await asyncio.create_subprocess_shell("sleep 0.1; exit 3")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    "function", [a_program_fails, a_process_of_python_fails, a_fork_fails, a_program_of_the_loop_fails]
)
def test_a_process_that_fails_unheard_fails_its_row(
    place: Place, function: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delattr(os, "waitid")  # which macOS has since Python 3.13
    job = place.begin(function, ["a"])
    place.run(job)
    (item,) = place.jobs.items(job.id)
    assert item.status == "failed"
    assert item.error.startswith("ChildProcessError: a process that it started (test_beside.py, line ")
    assert item.error.endswith("ended with code 3")


def leaves_a_pool_before_it_is_done(item: str) -> None:
    with multiprocessing.get_context("fork").Pool(1) as own:
        own.imap(time.sleep, [30])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_a_pool_was_given_that_is_ended_before_was_not_done(place: Place):
    job = place.begin(leaves_a_pool_before_it_is_done, ["a"])
    place.run(job)
    (item,) = place.jobs.items(job.id)
    assert item.status == "failed" and "was not done: its pool has been ended." in item.error


def starts_what_serves(item: str) -> None:
    kept.add(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL))
    own = subprocess.Popen(["sleep", "60"], start_new_session=True)
    kept.add(own)
    daemon = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    daemon.start()
    kept.add(daemon)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_that_is_kept_to_serve_lives_on(place: Place):
    kept.clear()
    with patch.object(beside, "A_LITTLE", 0.1):
        job = place.begin(starts_what_serves, ["a"])
        place.run(job)
    try:
        assert place.found(job) == [("a", "completed")]
        assert [one.is_alive() if hasattr(one, "is_alive") else one.poll() is None for one in kept] == [
            True
        ] * 3
    finally:
        for one in kept:
            one.kill()
            one.communicate() if hasattr(one, "communicate") else one.join()
        kept.clear()


def ends_one_itself(item: str) -> None:
    subprocess.Popen(["sleep", "60"]).kill()
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()


def hears_of_processes(item: str) -> None:
    subprocess.run(["/bin/sh", "-c", "exit 3"])
    os.waitpid(subprocess.Popen(["/bin/sh", "-c", "exit 3"]).pid, 0)
    with contextlib.suppress(ValueError):
        of_processes().apply_async(int, ["a"]).get()
    list(concurrent.futures.ThreadPoolExecutor.map(pool, str, [item]))


def hangs_in_a_program(item: str) -> None:
    subprocess.Popen(["sleep", "60"])


def test_a_program_that_is_not_over_within_the_time_limit_is_ended_and_named(place: Place):
    job = place.begin(hangs_in_a_program, ["a"], timeout=1.5, max_attempts=1)
    place.run(job)
    (item,) = place.jobs.items(job.id)
    assert item.status == "failed" and item.error.endswith("was not over")
    assert item.error.startswith("Timed out after 1.5 s: a process that it started (")


def gives_a_pool_too_much(item: str) -> None:
    pool.submit(waits_for_a_stop)


def test_what_may_not_be_repeated_is_in_doubt_and_named_too(place: Place):
    over_within = beside.Beside.over_within

    async def it_ends_then(self: beside.Beside, seconds: float) -> bool:
        stop.set()  # not before its time is over, and not long after
        return await over_within(self, PATIENCE)

    with patch.object(beside.Beside, "over_within", it_ends_then):
        job = place.begin(gives_a_pool_too_much, ["a"], timeout=1.5, idempotent=False)
        place.run(job)
    (item,) = place.jobs.items(job.id)
    assert (
        item.status == "unknown" and "what it gave to a pool of threads (test_beside.py, line " in item.error
    )
    assert item.error.endswith("was not over; it may or may not have arrived.")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("function", [hears_of_processes, ends_one_itself])
def test_what_the_function_has_heard_of_a_process_is_its_own_affair(place: Place, function: Any):
    job = place.begin(function, ["a"])
    place.run(job)
    assert place.found(job) == [("a", "completed")]


async def hears_of_it(item: str) -> None:
    with contextlib.suppress(ValueError):
        await asyncio.create_task(refuses(item))
    await asyncio.gather(refuses(item), refuses(item), return_exceptions=True)
    with contextlib.suppress(ValueError):
        await asyncio.gather(refuses(item), asyncio.gather(refuses(item), asyncio.shield(refuses(item))))
    with contextlib.suppress(ValueError):
        await asyncio.wait_for(asyncio.shield(refuses(item)), PATIENCE)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(send(item)), 0)
    gathering = asyncio.gather(asyncio.sleep(30))
    gathering.cancel()
    asyncio.gather(one := asyncio.create_task(asyncio.sleep(30)))
    one.cancel()
    given = asyncio.run_coroutine_threadsafe(refuses(item), asyncio.get_running_loop())
    with contextlib.suppress(ValueError):
        await asyncio.wrap_future(given)
    with contextlib.suppress(ValueError):
        pool.submit(refuses_slowly, item).result()
    one = asyncio.create_task(refuses(item))
    await asyncio.wait([one])
    await asyncio.gather(*(asyncio.sleep(0) for _ in range(2 * beside.MANY)))  # of many, some are forgotten
    assert one.exception()
    asyncio.create_task(asyncio.sleep(30)).cancel()
    asyncio.get_running_loop().call_later(30, send_slowly, item).cancel()


def hears_of_it_on_its_own_loop(item: str) -> None:
    asyncio.run(hears_of_it(item))
    with contextlib.suppress(ValueError):
        asyncio.run(refuses(item))


@pytest.mark.parametrize("function", [hears_of_it, hears_of_it_on_its_own_loop])
def test_what_the_function_has_heard_of_and_what_it_has_cancelled_is_its_own_affair(
    place: Place, function: Any
):
    job = place.begin(function, ["a"])
    place.run(job)
    assert place.found(job) == [("a", "completed")]


# ---- what does not end ----------------------------------------------------------------------------------------


async def never_ends(item: str) -> None:
    kept.add(asyncio.create_task(asyncio.sleep(1000)))


def a_thread_goes_on(item: str) -> None:
    threading.Thread(target=waits_for_a_stop).start()


def test_what_is_not_over_within_the_time_limit_is_broken_off_and_named(place: Place):
    job = place.begin(never_ends, ["a"], timeout=1.5, max_attempts=1)
    place.run(job)
    (item,) = place.jobs.items(job.id)
    assert item.status == "failed" and item.error.startswith(
        "Timed out after 1.5 s: an asyncio task that it started ("
    )
    assert item.error.endswith("was not over") and "test_beside.py, line " in item.error
    assert all(one.cancelled() for one in kept if isinstance(one, asyncio.Task) and "sleep" in repr(one))


def test_a_thread_that_heeds_no_end_leaves_its_row_unknown(place: Place):
    with patch.object(beside, "LONG", 0.2):
        job = place.begin(a_thread_goes_on, ["a"], timeout=1.5, max_attempts=3)
        place.run(job)
    (item,) = place.jobs.items(job.id)
    assert (item.status, item.attempt) == ("unknown", 1)
    assert item.error.startswith("Timed out after 1.5 s, and still runs")


async def fails_beside_a_thread(item: str) -> None:
    did.append(item)
    threading.Thread(target=stop.wait, args=(PATIENCE,)).start()
    raise ValueError("no")


@pytest.mark.parametrize("idempotent", [True, False])
def test_what_a_try_fails_by_counts_also_where_a_thread_of_it_goes_on_past_the_time_limit(
    place: Place, idempotent: bool
):
    with patch("rowcast.worker.attempt.patience", lambda task: 1.0):
        job = place.begin(fails_beside_a_thread, ["a"], timeout=0.2, max_attempts=1, idempotent=idempotent)

        async def at_most_three(context: Context) -> None:
            await seen(lambda: place.job(job).finished_at or len(did) > 3)
            context.stopping.set()

        place.run(job, meanwhile=at_most_three)
    assert did == ["a"]
    (failed,) = place.jobs.items(job.id)
    assert (failed.status, failed.error) == ("failed", "ValueError: no")


def test_without_a_time_limit_what_serves_for_ever_is_named(place: Place):
    with patch.object(beside, "LONG", 0.2):
        job = place.begin(never_ends, ["a"])
        place.run(job)
    (item,) = place.jobs.items(job.id)
    assert item.status == "failed" and "was not over 0.2 s after the function: wait for it." in item.error


def a_daemon_serves(item: str) -> None:
    threading.Thread(target=waits_for_a_stop, daemon=True).start()


def test_a_daemon_that_serves_for_long_is_waited_for_a_little(place: Place):
    with patch.object(beside, "A_LITTLE", 0.1):
        job = place.begin(a_daemon_serves, ["a"])
        place.run(job)
    assert place.found(job) == [("a", "completed")]


async def fails_with_one_beside(item: str) -> None:
    kept.add(asyncio.create_task(lasting(item)))
    raise ValueError(f"no {item}")


async def lasting(item: str) -> None:
    try:
        await asyncio.sleep(1000)
    finally:
        did.append("ended")


def test_what_was_started_ends_with_a_try_that_fails(place: Place):
    job = place.begin(fails_with_one_beside, ["a"])
    place.run(job)
    assert [item.error for item in place.jobs.items(job.id)] == ["ValueError: no a"]
    assert did in ([], ["ended"])  # it had not begun, or was broken off


async def breaks_itself_off(item: str = "") -> None:
    current = asyncio.current_task()
    assert current
    current.cancel()
    await asyncio.sleep(0)


async def is_broken_off_by_another(item: str = "") -> None:
    current = asyncio.current_task()
    assert current
    asyncio.get_running_loop().call_later(0.01, current.cancel)
    await asyncio.Event().wait()


async def body_breaks_itself_off() -> None:
    await breaks_itself_off()


@pytest.mark.parametrize("function", [breaks_itself_off, is_broken_off_by_another, body_breaks_itself_off])
def test_a_try_that_breaks_itself_off_has_failed_and_goes_round_for_nobody(place: Place, function: Any):
    job = place.begin(function, items_of(function)[:1])
    place.run(job)
    (item,) = place.jobs.items(job.id)
    assert (item.status, item.error) == ("failed", "CancelledError") and item.attempt <= 1
    assert place.job(job).status == "failed"


async def body_says_cancelled() -> None:
    did.append("called")
    raise Cancelled


async def body_is_broken_off_at_its_end() -> None:
    did.append("called")
    loop = asyncio.get_running_loop()
    current = asyncio.current_task()
    assert current

    def breaks_off() -> None:
        time.sleep(0.1)
        loop.call_soon_threadsafe(current.cancel)
        time.sleep(0.1)

    threading.Thread(target=breaks_off).start()
    raise ValueError("no")


@pytest.mark.parametrize("function", [body_says_cancelled, body_is_broken_off_at_its_end])
def test_a_body_that_nobody_has_cancelled_has_failed_by_saying_so_and_is_not_called_again(
    place: Place, function: Any
):
    job = place.begin(function, max_attempts=1)
    place.run(job)
    (item,) = place.jobs.items(job.id)
    assert item.status == "failed" and item.error in ("Cancelled", "CancelledError")
    assert place.job(job).status == "failed" and did == ["called"]


async def cancels_all_others(item: str = "") -> None:
    this = asyncio.current_task()
    await asyncio.sleep(0)
    running = asyncio.all_tasks()
    running.remove(this)
    for one in running:
        one.cancel()
    await asyncio.sleep(0)


async def body_cancels_all_others() -> None:
    await cancels_all_others()


@pytest.mark.parametrize("function", [cancels_all_others, body_cancels_all_others])
def test_a_try_that_cancels_all_other_tasks_hurts_neither_its_worker_nor_other_tries(
    place: Place, function: Any
):
    job = place.begin(function, items_of(function), concurrency=2)
    place.run(job)
    assert {status for _, status in place.found(job)} == {"completed"}


def ends_its_thread(item: str) -> None:
    threading.Thread(target=sys.exit).start()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_says_that_it_is_done_has_not_failed(place: Place):
    job = place.begin(ends_its_thread, ["a"])
    place.run(job)
    assert place.found(job) == [("a", "completed")]


# ---- what is not its own -----------------------------------------------------------------------------------------


async def steps_beside() -> None:
    async def one(name: str) -> None:
        await step(name, send, name)

    kept.add(asyncio.create_task(one("first")))


def test_steps_that_overlap_are_waited_for_as_before(place: Place):
    job = place.begin(steps_beside)
    place.run(job)
    assert place.found(job)[0] == ("first", "completed") and did == ["first"]


def test_what_a_library_starts_for_itself_is_the_librarys(place: Place):
    started: list[Any] = []
    with patch.object(beside, "whose", lambda file: "a library's" if file == __file__ else "between"):
        job = place.begin(never_ends, ["a"])
        place.run(job)
    assert place.found(job) == [("a", "completed")] and started == []


BY_NAME = """
from asyncio import gather, run_coroutine_threadsafe, shield, get_running_loop, to_thread
from rowcast import task

async def refuses():
    raise ValueError("no")

async def gathers():
    gather(refuses())

async def shields():
    shield(refuses())

async def gives_the_loop():
    loop = get_running_loop()
    await to_thread(lambda: run_coroutine_threadsafe(refuses(), loop))

for function in (gathers, shields, gives_the_loop):
    task(function)
"""


def test_it_is_known_by_whatever_name_its_module_has_it(serve: Callable[..., Server], tmp_path: Path):
    (tmp_path / "mine.py").write_text(BY_NAME)
    server = serve("--tasks", "mine")
    jobs = [server.begin(name) for name in ("gathers", "shields", "gives_the_loop")]
    assert [server.ended(job)["status"] for job in jobs] == ["failed"] * 3
