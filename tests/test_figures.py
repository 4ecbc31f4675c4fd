"""The page of figures: a section for each bench, and a bench that is run writes its own alone."""

from pathlib import Path

import pytest
from conftest import ROOT

from bench import report
from bench.__main__ import BENCHES
from bench.table import Row

PAGE = (ROOT / "docs" / "figures.md").read_text()


def test_each_bench_has_a_head_on_the_page():
    assert set(report.HEADS) == set(BENCHES)
    assert set(report.SAID) <= set(BENCHES)
    assert set(report.sections(PAGE)) <= set(report.HEADS.values())


def test_the_page_is_what_would_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "KEPT", tmp_path / "nothing")
    (tmp_path / "figures.md").write_text(PAGE)
    report.write(tmp_path, [])
    assert (tmp_path / "figures.md").read_text() == PAGE


def test_on_a_fresh_checkout_a_bench_writes_its_own_section_and_keeps_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(report, "KEPT", tmp_path / "kept")
    (tmp_path / "figures.md").write_text(PAGE)
    report.keep("page", [Row("a page", 1.0, 2.0, "ms", 0.5, "")], quick=True)
    report.keep("dom", [Row("an old one", 1.0, 2.0, "ms", 0.5, "")], quick=True)
    report.write(tmp_path, ["page"])
    before = report.sections(PAGE)
    now = report.sections((tmp_path / "figures.md").read_text())
    mine = report.HEADS["page"]
    assert "| a page |" in now[mine] and now[mine].endswith(
        f"`python -m bench --quick page`, {report.machine()}."
    )
    assert list(now) == list(before)
    assert {head: text for head, text in now.items() if head != mine} == {
        head: text for head, text in before.items() if head != mine
    }
    assert [file.name for file in (tmp_path / "figures").iterdir()] == ["page.svg"]
