"""Bookmarks: a view of the list kept by a name, for its account alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Server

from rowcast.tables.bookmarks import MOST, Bookmarks
from rowcast.tables.database import close_databases
from rowcast.tables.schema import prepare
from rowcast.tasks.filters import Filter
from rowcast.tasks.records import BadArguments, NotFound


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    made = str(tmp_path / "rowcast.db")
    prepare(made)
    yield made
    close_databases()


def test_a_filter_is_kept_by_its_name_for_who_kept_it(path: str):
    kept = Bookmarks(path)
    first = kept.keep("ann", " Mine ", Filter(status="failed", tag="crm"))
    assert (first.name, first.wanted) == ("Mine", Filter(status="failed", tag="crm"))
    assert kept.keep("ann", "Mine", Filter(q="march")).id == first.id, "the name is another filter's now"
    assert [one.wanted for one in kept.every("ann")] == [Filter(q="march")] and kept.every("ben") == []
    with pytest.raises(NotFound):
        kept.forget("ben", first.id)
    kept.forget("ann", first.id)
    assert kept.every("ann") == []


def test_what_cannot_be_kept(path: str):
    kept = Bookmarks(path)
    for name, wanted, said in (
        (" ", Filter(q="a"), "name has from 1 to 60"),
        ("x" * 61, Filter(q="a"), "name has from 1 to 60"),
        ("all", Filter(), "All jobs need no bookmark"),
    ):
        with pytest.raises(BadArguments, match=said):
            kept.keep("ann", name, wanted)
    for number in range(MOST):
        kept.keep("ann", f"view {number}", Filter(q="a"))
    kept.keep("ann", "view 1", Filter(q="b"))
    with pytest.raises(BadArguments, match=f"keeps {MOST} bookmarks at most"):
        kept.keep("ann", "one more", Filter(q="a"))


def test_it_is_kept_on_the_list_and_by_a_program(shared: Server):
    form = {"name": "Broken & odd", "status": "failed", "q": "march"}
    kept = shared.client.post("/bookmarks", data=form)
    assert kept.status_code == 303 and kept.headers["Location"] == "/?q=march&status=failed"
    page = shared.client.get("/", params={"q": "march", "status": "failed"}).text
    assert "Broken &amp; odd" in page and "Forget the view" in page and "Keep this view" not in page
    assert "Keep this view" in shared.client.get("/", params={"q": "april"}).text
    (one,) = shared.client.get("/api/bookmarks").json()["bookmarks"]
    assert (one["name"], one["filter"]) == ("Broken & odd", {"q": "march", "status": "failed"})
    assert shared.client.delete(f"/api/bookmarks/{one['id']}").status_code == 204
    assert shared.client.delete(f"/api/bookmarks/{one['id']}").status_code == 404
    made = shared.client.post("/api/bookmarks", json={"name": "n", "filter": {"task": "counter"}})
    assert made.status_code == 201
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"name": "n", "filter": {"colour": "red"}}, "A filter has no 'colour'."),
        ({"name": "n", "filter": {"status": "odd"}}, "status is one of "),
    ]
    for body, said in wrong:
        refused = shared.client.post("/api/bookmarks", json=body)
        assert refused.status_code == 422 and refused.json()["error"].startswith(said)
    gone = shared.client.post(f"/bookmarks/{made.json()['id']}/forget")
    assert gone.status_code == 303 and shared.client.get("/api/bookmarks").json() == {"bookmarks": []}
