"""The built-in task setup_account: four steps, a kill anywhere, and one mail."""

import random
import time
from collections.abc import Callable, Iterator

import pytest
from conftest import PATIENCE, Server, until
from post_office import PostOffice
from test_durability import kill_all

STEPS = ["Create the record", "Provision the workspace", "Fill the profile", "Send the welcome mail"]


@pytest.fixture
def office() -> Iterator[PostOffice]:
    made = PostOffice()
    yield made
    made.stop()


@pytest.fixture
def sending(serve: Callable[..., Server], office: PostOffice) -> Server:
    return serve("--smtp-url", office.url(), "--mail-from", "Accounts <accounts@example.org>")


def steps(server: Server, job: int) -> list[tuple[str, str]]:
    return [(item["key"], item["status"]) for item in server.items(job)]


def test_an_account_is_set_up_in_four_steps_and_its_owner_is_told(sending: Server, office: PostOffice):
    job = sending.begin("setup_account", email="ada@example.com", name="Ada <b>")
    done = sending.ended(job)
    assert done["status"] == "completed" and steps(sending, job) == [(step, "completed") for step in STEPS]
    (mail,) = office.mails
    assert (mail["To"], mail["Subject"]) == ("ada@example.com", "Your account is ready")
    assert "Hello Ada <b>," in mail.get_body(("plain",)).get_content()
    assert "Hello Ada &lt;b&gt;," in mail.get_body(("html",)).get_content()


@pytest.mark.kills
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_it_goes_on_there_and_mails_once(sending: Server, office: PostOffice, step: str):
    job = sending.begin("setup_account", email="ada@example.com", name="Ada")
    until(lambda: dict(steps(sending, job)).get(step) in ("running", "completed"), every=0.01)
    done_before = [key for key, status in steps(sending, job) if status == "completed"]
    sending.process.kill()
    sending.process.wait()
    sending.start()
    done = sending.ended(job)
    rows = dict(steps(sending, job))
    assert list(rows) == STEPS and all(rows[key] == "completed" for key in done_before)
    # where it died in the very moment of the mail, nobody knows, and a person is asked
    assert rows[STEPS[3]] in ("completed", "unknown") and done["failed"] == 0
    assert len(office.mails) == 1 if rows[STEPS[3]] == "completed" else len(office.mails) <= 1


@pytest.mark.kills
@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again_at_any_moment_it_mails_once(sending: Server, office: PostOffice, seed: int):
    job = sending.begin("setup_account", email="ada@example.com", name="Ada")
    chance = random.Random(seed)
    for _ in range(5):  # after nine a task is given up
        time.sleep(chance.uniform(0.0, 0.9))
        kill_all(sending)
        sending.start()
    sending.ended(job)
    rows = steps(sending, job)
    assert [key for key, _ in rows] == STEPS and [status for _, status in rows[:3]] == ["completed"] * 3
    if rows[3][1] == "completed":
        assert len(office.mails) == 1
    else:
        assert rows[3][1] == "unknown" and len(office.mails) <= 1


@pytest.mark.kills
def test_killed_while_the_server_has_the_mail_it_is_unknown_and_not_sent_again(
    sending: Server, office: PostOffice
):
    job = sending.begin("setup_account", email="wait-1@example.com", name="Ada")
    assert office.desk.waiting.wait(PATIENCE)
    sending.process.kill()
    sending.process.wait()
    sending.start()
    done = sending.ended(job)
    office.desk.may_go.set()
    assert steps(sending, job) == [*((step, "completed") for step in STEPS[:3]), (STEPS[3], "unknown")]
    assert (done["completed"], done["unknown"]) == (3, 1)
    time.sleep(0.5)  # long enough for a second mail
    assert len(office.mails) == 1


def test_a_line_that_breaks_after_the_mails_text_is_unknown_and_not_sent_again(
    sending: Server, office: PostOffice
):
    job = sending.begin("setup_account", email="lost-1@example.com", name="Ada")
    sending.ended(job)
    assert steps(sending, job)[3] == (STEPS[3], "unknown") and len(office.mails) == 1
    assert "may or may not have arrived" in sending.items(job)[3]["error"]


def test_a_greylisted_welcome_comes_at_the_next_try_and_what_was_done_is_not_done_again(
    sending: Server, office: PostOffice
):
    job = sending.begin("setup_account", email="grey-1@example.com", name="Ada")
    sending.ended(job)
    rows = sending.items(job)
    assert [row["status"] for row in rows] == ["completed"] * 4 and len(office.mails) == 1
    # the first two were tried once more for the workspace's 503, and not for the mail's 451
    assert [row["attempt"] for row in rows] == [1, 2, 1, 2]


def test_a_cancel_while_the_server_has_the_mail_leaves_it_unknown(sending: Server, office: PostOffice):
    job = sending.begin("setup_account", email="wait-1@example.com", name="Ada")
    assert office.desk.waiting.wait(PATIENCE)
    sending.act(job, "cancel")
    done = sending.ended(job)
    assert done["status"] == "cancelled" and steps(sending, job)[3] == (STEPS[3], "unknown")
