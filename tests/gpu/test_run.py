"""`run.sh` at toy size: each of its steps runs to its end, and the summary has what each has left."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOFU = ROOT.parent / "shared" / "tofu"


@pytest.mark.slow
@pytest.mark.skipif(not TOFU.exists(), reason="needs the TOFU files beside the repository, in ../shared/tofu")
def test_every_step_runs_at_toy_size(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "tests" / "gpu" / "run.sh"), "--toy"],
        env=os.environ | {"OUT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "summary.json").read_text())
    steps = {step["name"]: step["code"] for step in found["steps"]}
    assert steps == dict.fromkeys(("tests", "target", "sweep", "attacks", "evaluations", "by-hand-2", "ga"), 0)
    assert found["tests"]["failures"] == found["tests"]["errors"] == 0
    assert found["tests"]["tests"] > found["tests"]["skipped"]
    perplexity = {role: one["ppl"]["forget"] for role, one in found["target"].items()}
    assert perplexity["model"] < perplexity["oracle"], "of rows that the oracle has not seen"
    assert (found["sweep"]["trials"], found["ga"]["trials"]) == (6, 4)
    assert found["sweep"]["report"]
    assert found["ga"]["report"]
    assert found["sweep"]["readings"] == 1
    assert found["evaluations"]["adapters_per_second"].keys() == {"plain"}
    assert [arm["trial_steps"] > 0 for arm in found["by_hand"]] == [True]
    assert not found["by_hand"][0]["errors"]
    assert (tmp_path / "records.tar.gz").stat().st_size > 0
