"""The largest share of an update that keeps the criteria, on known violation curves."""

from __future__ import annotations

import pytest

from rayul.unlearn.calibrate import BISECTIONS, GRID, calibrate, calibrations


@pytest.mark.parametrize("edge", [0.01, 0.1, 0.25, 0.3, 0.374, 0.5, 0.62, 0.74, 0.75, 0.9, 0.999])
def test_a_growing_violation_is_met_from_below_and_closely(edge: float) -> None:
    found = calibrate(lambda a: max(0.0, a - edge))
    assert edge - 1 / 32 <= found.mixing <= edge
    assert found.monotone
    assert len(found.tried) == 1 + len(GRID) + BISECTIONS == 7
    assert all(violation == max(0.0, a - edge) for a, violation in found.tried)


def test_an_update_that_keeps_the_criteria_is_taken_whole_at_one_evaluation() -> None:
    found = calibrate(lambda a: 0.0)
    assert found.mixing == 1.0
    assert found.tried == ((1.0, 0.0),)
    assert found.monotone


def test_nothing_may_be_kept() -> None:
    found = calibrate(lambda a: 1.0)
    assert found.mixing == 0.0
    assert min(a for a, _ in found.tried) > 0, "the baseline satisfies any criterion by definition"


def test_a_curve_that_falls_again_is_called_so_and_its_largest_feasible_point_on_the_grid_is_found() -> None:
    def violation(a: float) -> float:
        return 0.0 if a <= 0.3 or 0.7 <= a <= 0.8 else 1.0

    found = calibrate(violation)
    assert not found.monotone
    assert 0.75 <= found.mixing <= 0.8


@pytest.mark.parametrize("edges", [(0.2, 0.4, 0.9), (0.3,), (0.62, 0.63), (0.0, 1.0)])
def test_several_targets_are_each_met_and_share_what_is_measured(edges: tuple[float, ...]) -> None:
    measured: list[float] = []
    rounds = calibrations(len(edges))
    wanted = next(rounds)
    while True:
        measured += wanted
        try:
            wanted = rounds.send([[max(0.0, a - edge) for edge in edges] for a in wanted])
        except StopIteration as end:
            found = end.value
            break
    alone = [calibrate(lambda a, edge=edge: max(0.0, a - edge)) for edge in edges]  # type: ignore[misc]
    assert found == alone
    assert len(measured) == len(set(measured))
    assert set(measured) == {a for one in alone for a, _ in one.tried}
