"""Circuit breakers on several layers with orth, in packs: the same to the bit whoever the neighbours are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from packed import advance, assert_same, finish, with_nobody
from test_pack_independence import SHAPES

from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack import Pack, Shape

MakeSpec = Callable[..., Any]


@pytest.mark.parametrize("shape", SHAPES, ids=["all slots", "groups"])
@pytest.mark.parametrize("rule", ["plain", "sam", "mask"])
def test_independent_of_neighbours(rule: str, shape: Shape, task: Any, make_spec: MakeSpec) -> None:
    method = {"name": "cb", "layers": [1, 2], "orth_weight": 1.0, "gradient": rule}
    spec = make_spec(method=method, training={"steps": 4})
    baseline = evaluate(task.base, task, spec.evaluate.metrics, 64).values
    expected = with_nobody(task, spec, baseline, shape)
    pack = Pack(task, spec, shape)
    for number, other in enumerate(({"name": "rmu", "layer": 2}, {"name": "jensun"}, {"name": "cb", "layer": 1})):
        pack.join(TrialJob(str(number), make_spec(method=other, training={"steps": 9}), number, {}, baseline))
    advance(pack)
    slot = pack.join(TrialJob("t", spec, 3, {}, baseline))
    assert_same(expected, (finish(pack, slot), pack.state(slot)))
