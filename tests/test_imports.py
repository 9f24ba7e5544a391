"""Arrows of the data flow, read off the source: who may import whom, and what the light commands may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "rayul"
FLOORS = (
    ("errors", "files", "words", "cache", "console", "background", "cores", "pace", "progress"),
    ("spec",),
    ("records",),
    ("pareto", "unlearn"),
    ("audit", "testbed"),
    ("report",),
    ("sweep",),
    ("plan",),
    ("__init__",),
    ("cli",),
    ("__main__",),
)
"""The rooms by floor, from the ground up: a room imports from the floors below its own (and ground from ground)."""

MODEL_STACK = {"torch", "transformers", "peft"}
FORBIDDEN = {
    **dict.fromkeys(
        ("errors", "files", "words", "cache", "console", "background", "cores", "pace", "progress", "spec"),
        MODEL_STACK | {"ray", "optuna", "pyarrow"},
    ),
    **dict.fromkeys(("records", "pareto", "audit", "report", "plan"), MODEL_STACK | {"ray", "optuna"}),
    **dict.fromkeys(
        ("records", "pareto", "audit"), MODEL_STACK | {"ray", "optuna", "jinja2", "plotly", "rich", "typer"}
    ),
    "unlearn": {"ray", "optuna"},
    "testbed": {"ray", "optuna"},
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


@pytest.mark.parametrize("part", [part for floor in FLOORS for part in floor])
def test_arrows_point_one_way(part: str) -> None:
    below = {part}
    for floor in FLOORS:
        if part in floor:
            break
        below |= set(floor)
    below |= set(FLOORS[0])
    for path in modules(part):
        for name in imports(path):
            top, _, rest = name.partition(".")
            assert top not in FORBIDDEN.get(part, set()), f"{path} imports {name}"
            if top == "rayul" and rest.split(".")[0] not in ("", "__version__"):
                assert rest.split(".")[0] in below, f"{path} imports {name}"


def test_every_module_is_on_a_floor() -> None:
    parts = {p.relative_to(ROOT).parts[0].removesuffix(".py") for p in ROOT.rglob("*.py")}
    assert parts == {part for floor in FLOORS for part in floor}


def test_no_modules_import_each_other() -> None:
    """Not in a circle of any length, nor for type checkers only, nor inside functions."""
    files = {".".join(p.relative_to(ROOT.parent).with_suffix("").parts): p for p in ROOT.rglob("*.py")}
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}

    def module_of(name: str) -> str | None:
        return name if name in files else module_of(name.rpartition(".")[0]) if "." in name else None

    arrows = {}
    for name, path in files.items():
        found = {module_of(imported) for imported in imports(path) if imported.startswith("rayul")}
        # `from rayul.spec import Spec` inside rayul.spec.load would be an arrow to its own package: those count too.
        arrows[name] = {target for target in found if target not in (None, name, "rayul")}
    order = TopologicalSorter(arrows)
    try:
        order.prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


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


def test_no_two_classes_have_one_name() -> None:
    trees = [ast.parse(path.read_text()) for path in ROOT.rglob("*.py")]
    names = Counter(node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef))
    assert not [name for name, count in names.items() if count > 1]


@pytest.mark.parametrize("module", ["packs.packed_trial", "packs.device", "trainable", "audit_trial"])
def test_workers_load_nothing_that_renders(module: str) -> None:
    code = f"""
import sys, ray.tune
before = set(sys.modules)
import rayul.sweep.{module}
drawn = sorted({{"jinja2", "plotly", "rich", "typer"}} & (set(sys.modules) - before))
assert not drawn, drawn
assert not [name for name in sys.modules if name.startswith("rayul.report")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_clients_of_a_pack_load_no_torch() -> None:
    """They import their own module, and that of every actor whose handle they hold. So do tasks that ask a device."""
    modules = ", ".join(f"rayul.sweep.packs.{name}" for name in ("packed_trial", "broker", "measurer"))
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
