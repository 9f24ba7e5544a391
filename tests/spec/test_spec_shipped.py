"""The YAML files in search_spaces/ are valid, and a comment above each key explains it; the package imports light."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from rayul.spec import load_spec

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "search_spaces").glob("*.yaml"))


def keys(node: yaml.Node) -> Iterator[tuple[str, int]]:
    """Every key with its line (from 0), distributions' own keys left out."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value not in ("float", "int", "choice", "log", "step"):
                yield key.value, key.start_mark.line
            yield from keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from keys(child)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_specs_are_valid_and_explain_every_key(file: Path) -> None:
    assert load_spec(file).name == file.stem
    lines = file.read_text().splitlines()
    found = list(keys(yaml.compose(file.read_text(), Loader=yaml.SafeLoader)))
    assert len(found) > 10
    bare = [f"{file.name}:{line + 1}: {key}" for key, line in found if not lines[line - 1].lstrip().startswith("# ")]
    assert not bare


def test_ga_is_the_sweep_of_the_readme() -> None:
    spec = load_spec(ROOT / "search_spaces" / "ga.yaml")
    assert spec.method.names == ("ga", "gd")
    assert (spec.search.sampler, spec.search.trials, spec.training.steps, spec.training.evaluate_every) == (
        "tpe", 64, 60, 5,
    )  # fmt: skip
    assert [c.metric for c in spec.control.criteria] == ["retain.es"]
    assert spec.control.criteria[0].limit({"retain.es": 1.0}) == pytest.approx(0.9)


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
