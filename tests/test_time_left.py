"""How far work is: the time left, shares of work of several kinds, and lines where there is no terminal."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from rayul import progress
from rayul.pace import TimeLeft, Work
from rayul.progress import ProgressBar
from rayul.spec import Attack
from rayul.sweep.attack import work_of
from rayul.unlearn.attacks.certified import Try, tries
from rayul.unlearn.data import Row


def test_the_time_left_is_that_of_even_work_and_leaves_out_what_an_earlier_run_did() -> None:
    left = TimeLeft()
    assert left.at(0.0) is None
    left.add(100.0, 0.5)
    assert left.at(101.0) is None
    left.add(110.0, 0.6)
    assert left.at(110.0) == pytest.approx(40.0)
    assert left.at(115.0) == pytest.approx(35.0)
    assert left.at(1000.0) is None


def test_the_share_of_work_of_two_kinds_goes_by_what_they_cost_once_both_are_known() -> None:
    work = Work({"short": 10, "long": 2}, {"short": 1.0, "long": 1.0})
    assert work.share == 0.0
    work.add("short", 5, 5.0)
    assert work.share == pytest.approx(5 / 12), "a long one is taken for a short one"
    work.add("long", 1, 45.0)
    assert work.share == pytest.approx(50 / 100)
    work.add("short", 5, 5.0)
    work.add("long", 1, 45.0)
    assert work.share == 1.0


def test_without_a_terminal_long_work_says_what_it_does_and_short_work_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    with ProgressBar(Console(file=said)) as bar:
        bar.update("measuring", 0.0)
    assert said.getvalue() == ""
    monkeypatch.setattr(progress, "FIRST_LINE", 0.01)
    with ProgressBar(Console(file=said, width=20)) as bar:
        bar.update("measuring \x1b[2J the forget rows", 0.25)
        while not said.getvalue():
            time.sleep(0.01)
    (line,) = said.getvalue().splitlines()
    assert line == r"measuring \x1b[2J the forget rows (25%): 0:00 elapsed"


def test_on_a_terminal_a_bar_is_shown_and_nothing_is_left_of_it() -> None:
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=100)
    with ProgressBar(console) as bar:
        bar.update("measuring", 0.5)
    assert "measuring" in said.getvalue()
    assert "0:00 elapsed" in said.getvalue()
    assert said.getvalue().endswith("\x1b[2K"), "the line is erased"


def test_without_a_terminal_each_piece_of_work_is_named_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_LINE", 0.01)
    monkeypatch.setattr(progress, "NEXT_WORK", 0.01)
    said = io.StringIO()
    with ProgressBar(Console(file=said)) as bar:
        for message in ("reading the rows", "measuring 1 of 2", "measuring 2 of 2"):
            before = len(said.getvalue())
            bar.update(message)
            while message != "measuring 2 of 2" and len(said.getvalue()) == before:
                time.sleep(0.01)
    told = [line.partition(":")[0] for line in said.getvalue().splitlines()]
    assert told == ["reading the rows", "measuring 1 of 2"], "the second point is no other work"


def test_attacks_that_cannot_run_for_want_of_rows_take_no_time() -> None:
    """They come last, so that nothing has told yet how fast they are passed over."""
    left = tries("m", Attack(rows=("own", "unrelated"), attacks=()))
    own = [one for one in left if one.cell is not None and one.cell.rows == "own"]
    (way_back,) = (one for one in left if one.cell is None)
    work = work_of(left, {"forget": (Row("Who?", "She."),)})
    for one in [way_back, *own[: len(own) // 2]]:
        work.add(next(kind for kind in work.units if belongs(one, kind)), 1, 1.0)
    assert work.share == pytest.approx((1 + len(own) // 2) / (1 + len(own)))


def belongs(one: Try, kind: str) -> bool:
    return kind.startswith(one.attack) if one.cell is None else one.cell.rows in kind.split()
