"""The shape of a sweep's packs where the spec names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayul.sweep.packs import packing


@pytest.mark.parametrize(("at_once", "slots"), [(None, 4), (8, 4), (6, 3), (3, 2), (2, 1)])
def test_no_slot_is_computed_that_no_trial_may_fill(
    at_once: int | None, slots: int, make_spec: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "device_count", lambda resources: 2)
    monkeypatch.setattr(packing, "on_cpu", lambda resources: True)
    spec = make_spec(
        search={"sampler": "random", "trials": 12}, resources={"trials_per_gpu": 4, "concurrency": at_once}
    )
    found = packing.choose_packing(spec, {}, None, None)  # type: ignore[arg-type]
    assert found.slots == slots
    assert (found.shape is None) == (slots == 1)
