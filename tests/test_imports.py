"""Arrows of the data flow, read off the source: who may import whom, and what the light commands may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "rayul"
ARROWS = {
    "errors": set(),
    "cache": set(),
    "records": {"errors"},
    "audited": {"records"},
    "storage": {"cache", "errors", "records"},
    "spec": {"errors"},
    "unlearn": {"errors", "records", "audited", "spec"},
    "testbed": {"cache", "errors", "spec", "unlearn"},
    "pareto": {"errors", "records", "audited", "spec"},
    "sweep": {"cache", "errors", "records", "audited", "spec", "storage", "unlearn", "testbed", "pareto"},
    "plan": {"errors", "records", "spec", "unlearn", "testbed", "sweep"},
    "starter": {"errors", "spec", "unlearn"},
}
FORBIDDEN = {
    "errors": {"torch", "ray", "transformers", "peft", "optuna"},
    "records": {"torch", "ray", "transformers", "peft", "optuna"},
    "audited": {"torch", "ray", "transformers", "peft", "optuna"},
    "storage": {"torch", "ray", "transformers", "peft", "optuna"},
    "spec": {"torch", "ray", "transformers", "peft", "optuna"},
    "pareto": {"torch", "ray", "transformers", "peft", "optuna"},
    "unlearn": {"ray", "optuna"},
    "testbed": {"ray", "optuna"},
    "plan": {"torch", "ray", "transformers", "peft", "optuna"},
    "starter": {"torch", "ray", "transformers", "peft", "optuna"},
}


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def modules(part: str) -> list[Path]:
    return sorted((ROOT / part).rglob("*.py")) if (ROOT / part).is_dir() else [ROOT / f"{part}.py"]


@pytest.mark.parametrize("part", ARROWS)
def test_arrows_point_one_way(part: str) -> None:
    for path in modules(part):
        for name in imports(path):
            top, _, rest = name.partition(".")
            assert top not in FORBIDDEN.get(part, set()), f"{path} imports {name}"
            if top == "rayul" and rest.split(".")[0] not in ("", "__version__"):
                assert rest.split(".")[0] in ARROWS[part] | {part}, f"{path} imports {name}"


def test_every_module_is_under_an_arrow() -> None:
    parts = {p.relative_to(ROOT).parts[0].removesuffix(".py") for p in ROOT.rglob("*.py")}
    assert parts == set(ARROWS) | {"cli", "__init__", "__main__"}


@pytest.mark.parametrize("argv", [["--help"], ["validate", "search_spaces/ga.yaml"]])
def test_light_commands_load_nothing_heavy(argv: list[str]) -> None:
    code = f"""
import sys
from rayul.cli import main
sys.argv = ["rayul", *{argv!r}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = sorted({{"torch", "ray", "transformers", "peft", "optuna", "datasets", "pyarrow"}} & set(sys.modules))
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_clients_of_a_pack_load_no_torch() -> None:
    """They import their own module, and that of every actor whose handle they hold."""
    code = "import sys, rayul.sweep.packed_trial, rayul.sweep.broker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
