"""The YAML files in search_spaces/ are valid, and a comment above each key explains it; the package imports light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from yaml_comments import bare_keys

from rayul.spec import load_spec

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "search_spaces").glob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_specs_are_valid_and_explain_every_key(file: Path) -> None:
    assert load_spec(file).name == file.stem
    bare, count = bare_keys(file.read_text())
    assert count > 10
    assert not bare


def test_ga_is_the_sweep_of_the_readme() -> None:
    spec = load_spec(ROOT / "search_spaces" / "ga.yaml")
    assert spec.method.names == ("ga", "gd")
    assert (spec.search.sampler, spec.search.trials, spec.training.steps, spec.training.evaluate_every) == (
        "tpe", 48, 60, "auto",
    )  # fmt: skip
    assert spec.control.mixing is True
    assert [c.metric for c in spec.control.criteria] == ["retain.es"]
    assert spec.control.criteria[0].limit.on({"retain.es": 1.0}) == pytest.approx(0.9)


def test_tofu_can_be_pointed_at_local_files(tmp_path: Path) -> None:
    overrides = [f"data.tofu={tmp_path}", "data.forget=forget01", "data.authors=60", "model=testbed", "oracle=null"]
    spec = load_spec(ROOT / "search_spaces" / "tofu.yaml", overrides)
    assert spec.oracle is None
    assert spec.model.path == "testbed"


def test_importing_the_spec_imports_nothing_heavy() -> None:
    script = "import sys, rayul.spec; print(*{m.partition('.')[0] for m in sys.modules})"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"torch", "ray", "transformers", "peft", "numpy", "scipy", "optuna", "pyarrow", "datasets"}
    assert not heavy & set(run.stdout.split())
