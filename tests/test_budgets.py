"""What a task may take of its worker: a loop without an end costs no more than its budget."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from place import Place

from rowcast import track
from rowcast.tables.database import close_databases
from rowcast.worker import reporter

MOST = 2_000
seen: list[int] = []


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(reporter, "MOST_STEPS", MOST)
    seen.clear()
    yield Place(str(tmp_path / "rowcast.db"))
    close_databases()


def counts_for_ever() -> None:
    for n in track(range(10**12)):
        seen.append(n)


def goes_on_without_steps() -> None:
    for n in range(10**12):
        try:
            for _ in track([n]):
                seen.append(n)
        except ValueError:
            return


def test_a_loop_that_is_too_long_fails_at_its_last_step_with_the_reason(place: Place):
    job = place.begin(counts_for_ever)
    place.run(job)
    ended = place.job(job)
    assert (ended.completed, ended.failed, ended.total) == (MOST, 1, MOST + 1)
    assert seen == list(range(MOST))
    (failed,) = place.jobs.items(job.id, "failed")
    assert failed.error is not None
    assert f"A task that is called once has {MOST:,} steps at most" in failed.error


def test_a_task_that_goes_on_from_the_last_of_its_steps_is_not_failed(place: Place):
    job = place.begin(goes_on_without_steps)
    place.run(job)
    assert (place.job(job).status, place.job(job).completed) == ("completed", MOST)
