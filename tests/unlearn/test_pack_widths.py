"""Forwards of a pack on a CPU have as many lanes as there are rows for, where the bits of a lane are the same then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from packed import assert_same, baseline_of, finish, with_nobody

from rayul.unlearn import products
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.pack.lanes import forwards

MakeSpec = Callable[..., Any]
SHAPE = Shape(slots=6, rank=8, rows=4, group=2)


def test_forwards_are_as_wide_as_there_are_rows_and_no_lane_is_empty() -> None:
    wanted = {0: list(range(16)), 2: [1, 2, 3], 5: list(range(4, 12))}
    found = forwards(wanted, SHAPE, (4, 2, 1))
    assert [len(lanes) for lanes in found] == [4, 2, 1]
    assert all(chunk for lanes in found for _, chunk in lanes)
    for k, rows in wanted.items():
        assert [row for lanes in found for slot, chunk in lanes if slot == k for row in chunk] == rows


@pytest.mark.parametrize("method", ["npo", "rmu"])
def test_a_trial_is_the_same_at_every_width(method: str, task: Any, make_spec: MakeSpec) -> None:
    """Alone, in narrow forwards, and in wide ones with neighbours that come and go."""
    spec = make_spec(method=method, training={"steps": 4, "batch_size": 8})
    baseline = baseline_of(task, spec)
    expected = with_nobody(task, spec, baseline, SHAPE)
    pack = Pack(task, spec, SHAPE)
    assert pack.widths == (8, 4, 2, 1)
    for number, batch in enumerate((16, 4, 12)):
        other = make_spec(method="gd", training={"steps": 1 + number, "batch_size": batch})
        pack.join(TrialJob(str(number), other, number, {}, baseline))
    slot = pack.join(TrialJob("t", spec, 3, {}, baseline))
    assert_same(expected, (finish(pack, slot), pack.state(slot)))


def test_where_rounding_depends_on_the_number_of_rows_a_forward_keeps_its_shape(
    task: Any, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = products._product

    def rounded(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """As a library does that sums in another order where a product is large."""
        found = exact(x, weight, bias)
        return found if x.numel() < 8 * x.shape[-1] * 40 else found * (1 + 2**-22)

    monkeypatch.setattr(products, "_product", rounded)
    pack = Pack(task, make_spec(), SHAPE)
    assert pack.widths == ()


@pytest.mark.parametrize("change", [{"group": None}, {"compiled": True}], ids=["places", "compiled"])
def test_forwards_of_one_shape_stay_so(change: dict[str, Any], task: Any, make_spec: MakeSpec) -> None:
    assert Pack(task, make_spec(), SHAPE._replace(**change)).widths == ()
