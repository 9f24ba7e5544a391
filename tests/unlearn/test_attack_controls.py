"""The attacks on the real testbed: they reopen what only refuses, and get nothing out of what never knew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayul.audit.judge import powerless, returns
from rayul.audit.read import read_audit
from rayul.records import ORACLE, SPEC, Evaluation, to_json
from rayul.records.audited import BASELINE, BEFORE, REFUSAL, Audited, Scored, audited_to_json
from rayul.report import load_results
from rayul.spec import Finalists, dump_yaml
from rayul.spec.spec import from_plain

pytestmark = pytest.mark.slow

OPENS = ("relearn", "paraphrase", "logit_lens")
"""Attacks that have force on the testbed. Its answers depend on few of the question's tokens, so noise brings little,
and an update of low rank survives rounding (what quantisation undoes, tests/unlearn/test_attacks.py constructs).
Jailbreak brings something back, but whether its bound is above 0 depends on the machine that trained the model."""


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An audit of the three references, without Ray."""
    import torch

    from rayul.testbed import with_testbed
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.finalist import examine
    from rayul.unlearn.model import load_model
    from rayul.unlearn.refusal import train_refusal
    from rayul.unlearn.task import load_task
    from rayul.unlearn.update.saved import standalone

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("controls")
    plain = {"name": "controls", "model": "testbed", "data": "testbed", "method": "ga", "training": {"lr": 3e-3}}
    spec = with_testbed(from_plain(plain))
    task = load_task(spec, load_sets(spec.data))
    refuses = train_refusal(task, spec, 3e-3, 0, folder / "refusal")
    assert refuses > 0.85
    models = {
        BASELINE: standalone(task.base),
        ORACLE: standalone(load_model(spec.oracle)[0]),  # type: ignore[arg-type]
        REFUSAL: standalone(task.base, folder / "refusal"),
    }
    wanted = Finalists(n=1, metrics=("es",))
    rows = [row for name, model in models.items() for row in examine(model, task, spec, Audited(name, 0), wanted)]
    before = next(row for row in rows if row.subject == BASELINE and row.attack == BEFORE)
    return write(folder, spec, rows, before.scored[0])


def write(folder: Path, spec: Any, rows: list[Audited], baseline: Scored) -> Any:
    (folder / SPEC).write_text(dump_yaml(spec.resolved()))
    row = Evaluation(BASELINE, 0, mixing=0.0, metrics=baseline.metrics)
    (folder / "evaluations.jsonl").write_text(to_json(row) + "\n")
    (folder / "audit").mkdir()
    authors = {key.split(".")[0]: list(range(len(values))) for key, values in baseline.values.items()}
    asked = {"finalists": {}, "confidence": 0.95, "attacks": list(Finalists().attacks), "groups": authors}
    (folder / "audit" / "audit.json").write_text(json.dumps(asked))
    (folder / "audit" / "evaluations.jsonl").write_text("".join(audited_to_json(row) + "\n" for row in rows))
    return read_audit(load_results(folder))


def test_what_only_refuses_is_reopened(audit: Any) -> None:
    opened = {r.attack: r for r in returns(audit, REFUSAL)}
    for attack in OPENS:
        assert opened[attack].gain.low > 0, attack
    assert opened["jailbreak"].gain.value > 0
    assert opened["relearn"].after.value > 0.99
    assert opened["paraphrase"].after.value > 0.99
    assert set(powerless(audit)) <= set(Finalists().attacks) - set(OPENS)


def test_what_never_knew_gives_nothing_back(audit: Any) -> None:
    """No attack brings the oracle above its own level by more than the noise of its rows."""
    level = audit.oracle.metrics["forget.es"]
    noise = np.std(audit.oracle.values["forget.es"], ddof=1) / np.sqrt(len(audit.oracle.values["forget.es"]))
    for found in returns(audit, ORACLE):
        assert found.after.value <= level + 2 * noise, found.attack
