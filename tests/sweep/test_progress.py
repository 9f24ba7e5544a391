"""What a person sees of a sweep without a terminal: a line for each trial that ends, counts by state and by rule."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from rayul.records import COMPLETED, FAILED, PRUNED, Ending, Evaluation
from rayul.sweep.progress import Progress, shown


def test_each_ending_is_a_line_and_is_counted_by_state_and_rule(
    make_spec: Callable[..., Any], row: Callable[..., Evaluation], baseline: Evaluation
) -> None:
    spec, said = make_spec(), io.StringIO()
    before = row(spec, 0, 5, 0.5, 0.4)
    progress = Progress(spec, baseline, [baseline, before, before.ended(PRUNED, "retain.es", "below")], total=6)
    assert progress.ended == 1
    assert progress.remaining is None
    with shown(progress, Console(file=said, width=200)):
        pruned, completed, broken = (row(spec, n, 10, 0.4, 0.3 + n / 100) for n in (1, 2, 3))
        for record in (
            pruned,
            pruned.ended(PRUNED, "retain.es", "retain.es 0.31 < 0.45 at step 10"),
            completed,
            completed.ended(COMPLETED),
            broken,
            broken.ended(FAILED, "diverged", "diverged: step 13: loss nan"),
            Ending("0004", FAILED, "diverged", "diverged: step 1: loss nan"),
            row(spec, 5, 5, 0.7, 0.5),
        ):
            progress.add(record)
    assert said.getvalue().splitlines()[:4] == [
        "trial 0001 pruned at step 10 (forget.es 0.400 retain.es 0.310): retain.es 0.31 < 0.45 at step 10",
        "trial 0002 completed at step 10 (forget.es 0.400 retain.es 0.320)",
        "trial 0003 failed after step 10 (forget.es 0.400 retain.es 0.330): diverged: step 13: loss nan",
        "trial 0004 failed before its first evaluation: diverged: step 1: loss nan",
    ]
    assert progress.done == pytest.approx(5 + 5 / spec.training.steps)
    assert progress.summary().startswith("5/6 trials | 1 running | 1 completed | 2 pruned | 2 failed | front ")
    view = io.StringIO()
    Console(file=view, width=80).print(progress.view())
    assert "2 pruned: retain.es" in view.getvalue()
    assert "2 failed: diverged" in view.getvalue()


def test_off_a_terminal_a_line_comes_by_the_clock_before_any_record(
    make_spec: Callable[..., Any], baseline: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayul.sweep.progress.FIRST_LINE", 0.01)
    said = Said()
    with shown(Progress(make_spec(), baseline, [], total=6), Console(file=said, width=200)):
        assert said.written.wait(30)
    assert said.getvalue().splitlines()[0].startswith("0/6 trials | front 0")


def test_time_left_is_told_as_soon_as_it_is_known_and_an_end_in_its_place(
    make_spec: Callable[..., Any],
    row: Callable[..., Evaluation],
    baseline: Evaluation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also of a sweep that is over before the second line by the clock is due."""
    monkeypatch.setattr("rayul.sweep.progress.FIRST_LINE", 0.01)
    monkeypatch.setattr("rayul.progress.NEXT_WORK", 0.01)
    spec, said = make_spec(), Said()
    progress = Progress(spec, baseline, [], total=6)
    with shown(progress, Console(file=said, width=200)):
        progress.add(row(spec, 0, 5, 0.9, 0.5))
        progress.add(row(spec, 0, 10, 0.8, 0.5))
        assert said.has(" left")
        progress.is_ending = lambda: True
        assert said.has("ending: no more trials start")
    lines = said.getvalue().splitlines()
    assert " left" not in next(line for line in lines if "ending" in line)
    assert "ending" not in lines[-1], "it has ended"


class Said(io.StringIO):
    """What is written, and when there is some."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, text: str) -> int:
        count = super().write(text)
        self.written.set()
        return count

    def has(self, text: str) -> bool:
        """Waits for it."""
        for _ in range(3000):
            if text in self.getvalue():
                return True
            self.written.clear()
            self.written.wait(0.01)
        return False
