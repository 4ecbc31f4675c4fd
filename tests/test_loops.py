"""A worker's loop: nothing that a task does ends it, and its threads are for one call after the other."""

import asyncio
import contextlib
import contextvars
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from rowcast.tasks.steps import Call, current_call
from rowcast.worker import loops
from rowcast.worker.beside import heed_beside
from rowcast.worker.loops import run_to_end
from rowcast.worker.process import new_loop
from rowcast.worker.threads import InThread, carry_context

pytestmark = pytest.mark.quick


def run(main: Any) -> None:
    with contextlib.closing(new_loop()) as loop:
        run_to_end(loop, main)


@pytest.mark.parametrize("kind", [asyncio.new_event_loop, new_loop])
def test_one_thread_makes_one_call_after_the_other(kind: Callable[[], asyncio.AbstractEventLoop]):
    threads: list[threading.Thread] = []

    async def calls() -> None:
        heed_beside(Mock(function=run))
        call = InThread(lambda _: threads.append(threading.current_thread()), {})
        for _ in range(20):
            await asyncio.create_task(call(None))

    with contextlib.closing(kind()) as loop:
        run_to_end(loop, calls())
    assert len(threads) == 20 and len(set(threads)) == 1


def test_a_loop_goes_on_that_somebody_stops_or_leaves_by_an_exit():
    done = []

    async def leaves() -> None:
        raise SystemExit(3)

    async def works() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)
        with contextlib.suppress(SystemExit):
            await asyncio.create_task(leaves())
        done.append("all")

    run(works())
    assert done == ["all"]


@pytest.mark.parametrize("kind", [asyncio.new_event_loop, new_loop])
def test_a_loop_goes_on_that_several_leave_at_once(kind: Callable[[], asyncio.AbstractEventLoop]):
    done = []

    async def leaves() -> None:
        raise SystemExit(3)

    async def works() -> None:
        left = [asyncio.create_task(leaves()) for _ in range(5)]
        await asyncio.wait(left)
        done.append([one.exception().code for one in left])

    with contextlib.closing(kind()) as loop:
        run_to_end(loop, works())
    assert done == [[3] * 5]


def test_what_the_work_fails_by_is_raised():
    async def fails() -> None:
        await asyncio.sleep(0)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        run(fails())


def test_what_a_call_leaves_behind_is_not_in_the_way_of_the_next_in_its_thread():
    def with_a_loop_of_its_own(_: Any) -> bool:
        try:
            loop = asyncio.get_event_loop()
        except RuntimeError:
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        return True

    async def calls() -> None:
        call = InThread(with_a_loop_of_its_own, {})
        assert [await asyncio.create_task(call(None)) for _ in range(3)] == [True] * 3

    run(calls())


def test_a_thread_keeps_nothing_of_the_try_for_which_it_was_made():
    class Big: ...

    kept = contextvars.ContextVar[Big]("kept")
    seen: list[weakref.ref[Big]] = []

    async def one(call: InThread) -> None:
        current_call.set(Call(1, 1))
        big = Big()
        seen.append(weakref.ref(big))
        kept.set(big)
        await call(None)

    async def calls() -> None:
        carry_context()
        together = threading.Barrier(5)
        await asyncio.gather(*[one(InThread(lambda _: together.wait(30), {})) for _ in range(5)])
        while any(ref() for ref in seen):
            await asyncio.sleep(0.01)
            gc.collect()

    run(calls())


def test_threads_of_a_burst_are_let_go_of(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loops, "IDLE", 0.02)
    monkeypatch.setattr("anyio._backends._asyncio.WorkerThread.MAX_IDLE_TIME", 0.0)
    names: set[str] = set()

    def left() -> int:
        return sum(one.name in names for one in threading.enumerate())

    async def calls() -> None:
        together = threading.Barrier(20)

        def call(_: Any) -> None:
            threading.current_thread().name = f"burst {together.wait(30)}"
            names.add(threading.current_thread().name)

        one = InThread(call, {})
        await asyncio.gather(*[one(None) for _ in range(20)])
        while left() > 1:
            await asyncio.sleep(0.01)

    run(calls())
    assert len(names) == 20


def test_a_worker_runs_also_where_the_machine_has_no_thread_left(monkeypatch: pytest.MonkeyPatch):
    async def refuses(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("anyio.to_thread.run_sync", refuses)
    done = []

    async def works() -> None:
        done.append("all")

    run(works())
    assert done == ["all"]


class Broken(asyncio.SelectorEventLoop):
    def run_until_complete(self, _: Any) -> None:
        raise RuntimeError("it is closed, say")


def test_a_loop_that_cannot_go_on_is_over():
    async def cancel_all() -> None:
        for one in asyncio.all_tasks() - {asyncio.current_task()}:
            one.cancel()

    with contextlib.closing(Broken()) as loop:
        with pytest.raises(RuntimeError, match="closed"):
            run_to_end(loop)
        super(Broken, loop).run_until_complete(cancel_all())
