"""The terms of the loss at every evaluation, alone and in packs, and what they add up to."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import pyarrow as pa
import pytest
from float64 import SEED, SHAPES, Reference
from packed import advance

from rayul.records import Evaluation, from_json, to_json
from rayul.records.evaluations import to_table
from rayul.unlearn.job import TrialJob
from rayul.unlearn.order import row_order
from rayul.unlearn.pack import Pack
from rayul.unlearn.trial import run_trial

MakeSpec = Callable[..., Any]
W = 0.3
NAMES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "gd": ({"name": "gd", "retain_weight": W}, {"forget", "retain"}),
    "without a retain term": ({"name": "gd", "retain_weight": 0.0}, {"forget"}),
    "ga": ({"name": "ga"}, {"forget"}),
    "cb": ({"name": "cb", "orth_weight": 0.5}, {"forget", "orth", "retain"}),
    "gru": ({"name": "gd", "gradient": "gru"}, {"forget", "retain", "retain_nll"}),
    "sam": ({"name": "cb", "orth_weight": 0.5, "gradient": "sam"}, {"forget", "forget_nearby", "orth", "retain"}),
    "mask": ({"name": "ga", "gradient": "mask"}, {"forget", "retain_nll"}),
    "adversary": ({"name": "gd", "gradient": "adversary"}, {"forget", "retain", "adversary_nll"}),
}


def packed_rows(task: Any, spec: Any, shape: Any) -> list[Evaluation]:
    pack = Pack(task, spec, shape)
    k = pack.join(TrialJob("0000", spec, SEED, {}, {}))
    rows = []
    while not pack.slots[k].ended:
        rows += [row for _, found in advance(pack) for row in found]
    return rows


@pytest.mark.parametrize("case", NAMES)
def test_every_evaluation_after_the_first_has_the_terms(case: str, task: Any, make_spec: MakeSpec) -> None:
    method, names = NAMES[case]
    spec = make_spec(method=method, training={"lr": 1e-4})
    alone = [e for s in run_trial(task, TrialJob("0000", spec, SEED, {}, {})) for e in s.evaluations]
    for rows in [alone, *(packed_rows(task, spec, shape) for shape in SHAPES)]:
        assert [r.step for r in rows] == [0, 2, 4, 6]
        assert rows[0].terms == {}
        for ours, row in zip(alone[1:], rows[1:], strict=True):
            assert set(row.terms) == names
            assert row.terms == pytest.approx(ours.terms, rel=1e-3, abs=1e-6)


def test_they_are_those_of_the_last_step_with_their_weights(task: Any, make_spec: MakeSpec) -> None:
    training = {"steps": 1, "evaluate_every": 1}
    spec = make_spec(method={"name": "gd", "retain_weight": W}, training=training)
    reference = Reference(task, spec)
    (forget, retain) = next(islice(row_order(task, spec, SEED), 1))
    expected = {
        "forget": -reference.nll("forget", forget, adapted=False).item(),
        "retain": W * reference.nll("retain_train", retain, adapted=False).item(),
    }
    rows = [e for s in run_trial(task, TrialJob("0000", spec, SEED, {}, {})) for e in s.evaluations]
    assert rows[-1].terms == pytest.approx(expected, rel=1e-4)
    assert packed_rows(task, spec, SHAPES[0])[-1].terms == pytest.approx(expected, rel=1e-4)


def test_they_are_in_the_journal_and_the_table() -> None:
    row = Evaluation("0000", 5, terms={"forget": -1.5, "orth": 0.0})
    assert from_json(to_json(row)) == row
    table = to_table([row, Evaluation("0001", 5, terms={"forget": -2.0})])
    assert table.schema.field("terms.orth").type == pa.float64()
    assert table.column("terms.orth").to_pylist() == [0.0, None]
