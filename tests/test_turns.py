"""Whose turn it is to write, and how one waits for other processes; of threads see test_ledger.py."""

from types import SimpleNamespace

import pytest

from rowcast.tables import turns


def test_who_waits_for_another_process_misses_no_short_moment_and_gives_up_in_time(
    monkeypatch: pytest.MonkeyPatch,
):
    now = 100.0
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        slept.append(seconds)

    monkeypatch.setattr(turns, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now))
    wait = turns.patience(lambda: 10.0)
    for _ in range(2):  # the second wait has all its time again
        slept.clear()
        tries = 0
        while wait(tries):
            tries += 1
        assert sum(slept) == pytest.approx(10.0, abs=0.01)
        assert max(slept[:50]) < 0.001 and max(slept) < 0.01
