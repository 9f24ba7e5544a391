"""control.confidence: the bounds that criteria are judged by."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rayul.errors import InputError
from rayul.unlearn.data import Row
from rayul.unlearn.evaluate import Bounds, pessimistic
from rayul.unlearn.measured import Variance, jackknife, mean, t_margin
from rayul.unlearn.task import check_needs


def bounds(values: list[float], groups: list[str], confidence: float = 0.95) -> Bounds:
    return pessimistic(mean(np.array(values), np.unique(groups, return_inverse=True)[1]), confidence)


def test_with_a_row_per_group_they_are_those_of_students_t_test() -> None:
    values = [0.83, 0.71, 0.4, 1.0]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)  # two-sided: 95% at each end
    assert bounds(values, list("abcd")) == pytest.approx((expected.low, expected.high))


def test_copies_of_a_row_under_its_group_say_no_more() -> None:
    assert bounds([0.83, 0.71, 0.4] * 5, list("abc") * 5) == pytest.approx(bounds([0.83, 0.71, 0.4], list("abc")))


def test_parts_add_up_with_degrees_of_freedom_between_theirs() -> None:
    """Two equal variances with 4 degrees of freedom each are one with 8; nothing known has no margin."""
    assert t_margin([Variance(0.02, 4)] * 2, 0.95) == pytest.approx(stats.t.ppf(0.95, 8) * 0.2)
    assert t_margin([Variance(0.04, 4), Variance(0.0, 1)], 0.95) == pytest.approx(stats.t.ppf(0.95, 4) * 0.2)
    assert t_margin([Variance(0.0, 4)], 0.95) == 0
    assert math.isnan(t_margin([], 0.95))
    assert math.isnan(t_margin([Variance(math.nan, 4)], 0.95))
    assert jackknife([0.5, 0.7]) == (pytest.approx(0.01), 1)


@pytest.mark.parametrize(("groups", "max_rows", "refused"), [("aa", None, True), ("ab", None, False), ("ab", 1, True)])
def test_one_group_alone_is_refused_before_anything_is_trained(
    make_spec: Callable[..., Any], groups: str, max_rows: int | None, refused: bool
) -> None:
    control = {"criteria": [{"metric": "retain.es", "at_least": "90% of baseline"}], "confidence": 0.9}
    spec = make_spec(method="ga", control=control, evaluate={"max_rows": max_rows})
    rows = tuple(Row(f"Q{i}?", f"A{i}", group=group) for i, group in enumerate(groups))
    sets: Any = {"forget": rows[:1], "retain": rows}
    if refused:
        with pytest.raises(InputError, match="all retain rows that are evaluated belong to one group"):
            check_needs(spec, sets)
    else:
        check_needs(spec, sets)
    without: Any = {"forget": rows[:1], "retain": tuple(Row(row.question, row.answer) for row in rows)}
    if max_rows is None:
        check_needs(spec, without)  # rows without a group are each on their own
