"""A job after a job: when it starts, when it does not, and that nothing can come between."""

import pytest
from conftest import Api, Server
from place import OWNER, Place

from rowcast.tables import counts, sweeps
from rowcast.tables.bulk import Bulk
from rowcast.tables.database import close_databases
from rowcast.tables.maintenance import Keep, Maintenance
from rowcast.tasks.followers import CONDITIONS
from rowcast.tasks.records import BadArguments, Job, NotAllowed, NotFound, Options
from rowcast.tasks.registry import task
from rowcast.tasks.work import Chunk, Report, Result
from rowcast.web.start import Start, options_of


@task(name="first_of_two")
def work(item: str):
    pass


@task(name="second_of_two")
def once():
    pass


@pytest.fixture
def place(tmp_path):
    yield Place(str(tmp_path / "rowcast.db"))
    close_databases()


def submit(place: Place, after: int | None = None, condition: str = "green", **options) -> Job:
    how = Options(after_job=after, condition=condition if after else "", **options)
    return place.jobs.submit(work, {}, OWNER, "background", how)[0]


def run(place: Place, job: Job, *outcomes: str) -> Job:
    """The job has an item for each outcome, and is run to its end."""
    place.jobs.start(job.id)
    place.jobs.add_items(job.id, Chunk.of([(f"item {n}", None) for n in range(len(outcomes))], last=True))
    return end(place, job, *outcomes)


def end(place: Place, job: Job, *outcomes: str) -> Job:
    given = place.ledger.exchange(job.id, "one", Report(limit=len(outcomes))).items
    assert len(given) == len(outcomes)
    results = [Result(i.id, i.attempt, how) for i, how in zip(given, outcomes, strict=True)]
    place.ledger.exchange(job.id, "one", Report(results))
    return place.job(job)


def is_due(place: Place, job: Job) -> bool:
    return job.id in [one.id for one in place.jobs.due()]


OUTCOMES = {
    "green": (["completed"], {"green", "completed", "ended"}),
    "with failures": (["completed", "failed"], {"completed", "failed", "ended"}),
    "partly unknown": (["completed", "unknown"], {"completed", "failed", "ended"}),
    "failed": (["failed"], {"failed", "ended"}),
    "cancelled": ([], {"ended"}),
}


@pytest.mark.parametrize("how", OUTCOMES)
def test_it_starts_if_the_first_ended_as_its_condition_says(place: Place, how: str):
    outcomes, starts = OUTCOMES[how]
    first = submit(place)
    waiting = {condition: submit(place, first.id, condition) for condition in CONDITIONS}
    assert not any(is_due(place, one) for one in waiting.values())
    held = place.job(waiting["green"]).held_by
    assert (
        held
        and held.sentence == f"It starts when job {first.id} has ended, if all of its items have completed."
    )
    if outcomes:
        run(place, first, *outcomes)
    else:
        place.jobs.act(first.id, OWNER, "cancel")
    assert {name for name, one in waiting.items() if is_due(place, one)} == starts
    for name in set(CONDITIONS) - starts:
        turned_away = place.job(waiting[name])
        assert turned_away.ended and turned_away.status == "cancelled"
        assert turned_away.reason.startswith(f"Job {first.id} has ended otherwise than this waited for")


def test_one_that_was_turned_away_waits_again_where_the_first_is_retried(place: Place):
    first = submit(place)
    second = submit(place, first.id)
    third = submit(place, second.id)
    by_hand = submit(place, first.id)
    place.jobs.act(by_hand.id, OWNER, "cancel")
    run(place, first, "completed", "failed")
    assert place.job(second).status == place.job(third).status == "cancelled"
    place.jobs.act(first.id, OWNER, "retry")
    assert (place.job(second).status, place.job(third).status) == ("queued", "queued")
    assert not is_due(place, second) and place.job(by_hand).status == "cancelled"
    end(place, first, "completed")
    assert is_due(place, second) and not is_due(place, third)
    run(place, second, "completed")
    assert is_due(place, third)


def test_one_that_was_deleted_stays_so_where_the_first_is_retried(place: Place):
    first = submit(place)
    second = submit(place, first.id)
    run(place, first, "completed", "failed")
    assert Bulk(place.path).delete([second.id]) == 1
    place.jobs.act(first.id, OWNER, "retry")
    end(place, first, "completed")
    assert not is_due(place, second)
    assert Maintenance(place.path).prune(Keep()) == 1 and place.jobs.find(second.id) is None


def test_one_that_is_called_once_is_turned_away_and_waits_again_too(place: Place):
    first = submit(place)
    how = Options(after_job=first.id, condition="green")
    second, _ = place.jobs.submit(once, {}, OWNER, "background", how)
    third = submit(place, second.id)
    run(place, first, "completed", "failed")
    for job in place.jobs.unswept():
        place.jobs.sweep(job)
    assert place.job(second).ended and place.job(third).ended
    place.jobs.act(first.id, OWNER, "retry")
    assert not is_due(place, second)
    end(place, first, "completed")
    assert is_due(place, second) and not is_due(place, third)
    assert place.ledger.take_body(second.id, "one")
    assert (place.job(second).running, place.job(second).cancelled) == (1, 0)


def test_a_person_lets_it_start_whatever_it_waited_for(place: Place):
    first = submit(place)
    second = submit(place, first.id)
    place.jobs.act(second.id, OWNER, "pause")
    place.jobs.act(second.id, OWNER, "resume")
    assert place.job(second).status == "queued" and not is_due(place, second)
    place.jobs.act(second.id, OWNER, "cancel")
    place.jobs.act(second.id, OWNER, "retry")
    assert is_due(place, second)
    assert run(place, second, "completed").status == "completed"


def test_one_that_is_paused_as_the_first_ends_waits_for_its_person_alone(place: Place):
    first = submit(place)
    second = submit(place, first.id)
    place.jobs.act(second.id, OWNER, "pause")
    run(place, first, "completed")
    assert place.job(second).status == "paused"
    place.jobs.act(second.id, OWNER, "resume")
    assert is_due(place, second)


def test_what_follows_a_job_that_has_ended_starts_at_once_or_is_refused(place: Place):
    first = run(place, submit(place), "failed")
    assert is_due(place, submit(place, first.id, "failed"))
    with pytest.raises(NotAllowed, match=f"Job {first.id} has ended otherwise than this waited for"):
        submit(place, first.id)
    with pytest.raises(NotFound):
        submit(place, 999)


@pytest.mark.parametrize("condition", ["green", "failed"])
def test_what_follows_a_job_that_is_being_settled_hears_of_the_end_of_that(
    place: Place, monkeypatch: pytest.MonkeyPatch, condition: str
):
    monkeypatch.setattr(sweeps, "CHUNK", 1)
    first = run(place, submit(place), "completed", "unknown", "unknown")
    assert not place.jobs.act(first.id, OWNER, "settle").ended
    second = submit(place, first.id, condition)
    third = submit(place, second.id, "ended")
    assert not is_due(place, second) and not is_due(place, third)
    while place.jobs.sweep(first.id):
        pass
    assert place.job(first).ended
    assert (is_due(place, second), is_due(place, third)) == (condition == "green", condition == "failed")


def test_an_end_and_what_it_starts_are_one_write(place: Place, monkeypatch: pytest.MonkeyPatch):
    first = submit(place)
    second = submit(place, first.id)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken_off, pytest.raises(KeyboardInterrupt):
        broken_off.setattr(counts, "let_start", die)
        run(place, first, "completed")
    assert not place.job(first).ended and not is_due(place, second)
    place.ledger.exchange(
        first.id, "one", Report([Result(i.id, 1, "completed") for i in place.jobs.items(first.id)])
    )
    assert place.job(first).ended and is_due(place, second)


def test_its_page_names_those_that_are_its_owners_and_nobody_elses(place: Place):
    first = submit(place)
    own = submit(place, first.id)
    place.jobs.submit(work, {}, "bob", "background", Options(after_job=first.id, condition="green"))
    assert place.jobs.now(first.id, OWNER, 0).followers == [(own.id, own.task)]


def test_a_long_chain_ends_at_once(place: Place):
    chain = [submit(place)]
    for _ in range(300):
        chain.append(submit(place, chain[-1].id))
    place.jobs.act(chain[0].id, OWNER, "cancel")
    assert {place.job(one).status for one in chain} == {"cancelled"} and place.job(chain[-1]).ended


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"condition": "green"}, "condition says how the job `after` must have ended: there is none."),
        ({"after": 1, "condition": "red"}, "condition is one of green, completed, failed, ended, not 'red'."),
        ({"after": 1, "run_at": "90s"}, "A job starts at run_at, or after another one: not both."),
        ({"after": 0}, "after is a whole number from 1, not '0'."),
    ],
)
def test_what_a_follower_may_not_say(given, said: str):
    with pytest.raises(BadArguments) as refused:
        options_of(work, Start("first_of_two", **given))
    assert str(refused.value) == said


def test_the_form_of_then_start_begins_a_job_at_the_others_end(server: Server, api: Api):
    api.stall()
    first = server.begin(limit=1)
    page = server.client.get(f"/jobs/{first}/then", params={"task": "counter"}).text
    assert 'name="loops"' in page and "option-after" in page
    form = {"task": "counter", "loops": "1", "option-after": str(first), "option-condition": "green"}
    second = int(server.client.post("/jobs", data=form).headers["Location"].rpartition("/")[2])
    asked = server.client.post("/api/jobs", json={"task": "counter", "args": {"loops": 1}, "after": second})
    third = asked.json()
    assert (third["after_job"], third["condition"], third["status"]) == (second, "green", "queued")
    assert f"#{second} " in server.client.get(f"/jobs/{first}").text
    assert f"after job #{first}" in server.client.get(f"/jobs/{second}").text
    api.answer()
    assert server.ended(third["id"])["completed"] == 1
    assert server.job(second)["status"] == server.job(first)["status"] == "completed"
    refused = server.client.post("/api/jobs", json={"task": "counter", "after": first, "condition": "failed"})
    assert refused.status_code == 409
    assert server.client.post("/api/jobs", json={"task": "counter", "after": 10**9}).status_code == 404
