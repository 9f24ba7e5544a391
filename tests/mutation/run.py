"""Which small changes to the arithmetic do the tests not notice?

    python tests/mutation/run.py                              60 mutants drawn with seed 0: minutes
    python tests/mutation/run.py --sample 200 --seed 7        others
    python tests/mutation/run.py --all --jobs 2               all: about half an hour on two cores
    python tests/mutation/run.py --all --only rayul/pareto/front.py
    python tests/mutation/run.py --again LOG                  those that survived a run whose output is in LOG

Every mutant is the package with one change (mutants.py), against the tests that are nearest to its file. It is
killed when one of those fails, or hangs. A survivor is either something that a test should see, or a change that
nobody can see, which `survivors.txt` then says in one line. Exit code 1 when over 5% of the mutants tried survive
without such a line.

Why not mutmut or cosmic-ray (tried on rayul/pareto/held_out.py): mutmut 3.8 changes only plain functions, so no
property, no class attribute and no constant of a module such as MIN_FORGOTTEN; names its mutants by a running number,
so that an argument about one is lost at the next edit; and took 8 minutes. cosmic-ray 8.7 rewrites the files of the
checkout in place and starts pytest afresh for each of 174 mutants of that file, most of them such as `/` to `<<`, which
any test kills, or a changed annotation, which none can. Here a process with the libraries loaded is forked per mutant.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

ROOT = Path(__file__).resolve().parents[2]
for folder in (Path(__file__).parent, ROOT):
    sys.path.insert(0, str(folder))

import pytest  # noqa: E402
from mutants import Mutant, mutants  # noqa: E402

ARGUED = Path(__file__).with_name("survivors.txt")
ALLOWED = 0.05
"""Share of the mutants tried that may survive without an argument."""
PATIENCE = 120
"""Seconds after which the tests of one mutant hang."""

PARETO, AUDIT = "tests/pareto/test_{}.py", "tests/pareto/test_audit_{}.py"
OWN_CONTROL = "tests/unlearn/test_custom_control.py::test_{}"
RULES = ("tests/sweep/test_scheduler.py", "tests/sweep/test_rules.py")
NEAREST: dict[str, tuple[str, ...]] = {
    "rayul/spec/limits.py": ("tests/spec/test_limit.py", "tests/spec/test_spec_criteria.py", PARETO.format("choose")),
    "rayul/records/objectives.py": (PARETO.format("pareto_front"), PARETO.format("pareto_hypervolume")),
    "rayul/pareto/attainment.py": (PARETO.format("compare"),),
    "rayul/pareto/best.py": (PARETO.format("choose"), PARETO.format("pareto_summary")),
    "rayul/pareto/certificate.py": ("tests/pareto/test_certificate.py",),
    "rayul/pareto/power.py": ("tests/pareto/test_power.py",),
    "rayul/pareto/spread.py": ("tests/pareto/test_certified_answer.py",),
    "rayul/records/groups.py": ("tests/test_groups.py",),
    "rayul/pareto/choose.py": (PARETO.format("choose"), AUDIT.format("choice")),
    "rayul/pareto/front.py": (PARETO.format("pareto_front"), PARETO.format("pareto_hypervolume")),
    "rayul/pareto/held_out.py": (PARETO.format("held_out"), PARETO.format("limit_on_other_rows")),
    "rayul/pareto/hypervolume.py": (PARETO.format("pareto_hypervolume"),),
    "rayul/pareto/targets.py": (PARETO.format("pareto_summary"),),
    "rayul/audit/choice.py": (AUDIT.format("choice"),),
    "rayul/audit/intervals.py": (AUDIT.format("judge"),),
    "rayul/audit/judge.py": (PARETO.format("limit_on_other_rows"), AUDIT.format("judge")),
    "rayul/audit/read.py": (AUDIT.format("judge"),),
    "rayul/audit/robustness.py": (AUDIT.format("judge"),),
    "rayul/audit/tables.py": (AUDIT.format("judge"),),
    "rayul/audit/verdict.py": (AUDIT.format("judge"),),
    "rayul/unlearn/losses.py": ("tests/unlearn/test_losses.py", "tests/unlearn/test_representation.py"),
    "rayul/unlearn/metrics.py": ("tests/unlearn/test_tokens_and_scores.py",),
    "rayul/unlearn/controls.py": (
        "tests/unlearn/test_controls.py",
        OWN_CONTROL.format("it_sees_what_the_built_in_controls_left_at_temperature_one"),
        OWN_CONTROL.format("changed_logits_are_what_the_loss_sees"),
        OWN_CONTROL.format("what_is_no_batch_of_answers_fails_the_trial_with_its_name"),
    ),
    "rayul/unlearn/calibrate.py": ("tests/unlearn/test_calibrate.py",),
    "rayul/unlearn/measured.py": ("tests/unlearn/test_confidence.py", "tests/unlearn/test_tokens_and_scores.py"),
    "rayul/sweep/pruning/criteria.py": RULES,
    "rayul/sweep/pruning/dominance.py": ("tests/sweep/test_dominance.py", "tests/sweep/test_rules.py"),
    "rayul/sweep/pruning/halving.py": ("tests/sweep/test_halving.py", "tests/sweep/test_rules.py"),
    "rayul/sweep/pruning/history.py": RULES,
    "rayul/sweep/pruning/stall.py": RULES,
}
"""The files whose arithmetic is changed, each with the tests that should notice."""
ELSEWHERE = ("tests/sweep/test_rules.py::test_no_rule_knows_ray",)
"""Tests in processes of their own, which no mutant reaches."""
PRELOADED = ("scipy.stats", "pyarrow.parquet", "transformers.models.llama.modeling_llama", "peft")


@dataclass(frozen=True)
class Outcome:
    mutant: Mutant
    survived: bool
    seconds: float


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every mutant, not a sample")
    parser.add_argument("--sample", type=int, default=60, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", metavar="FILE", help="of this file; repeat it for several")
    parser.add_argument("--again", type=Path, metavar="LOG", help="those that survived, by what a run printed")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at a time")
    wanted = parser.parse_args(argv)

    everything = [m for path in wanted.only or NEAREST for m in mutants(ROOT, path)]
    arguments = read_arguments(ARGUED)
    tried = everything
    if wanted.again is not None:
        lines = wanted.again.read_text(encoding="utf-8").splitlines()
        before = {line.partition("survived: ")[2] for line in lines}
        tried = [m for m in everything if m.name in before]
    elif not wanted.all and wanted.sample < len(everything):
        tried = random.Random(wanted.seed).sample(everything, wanted.sample)
    files = list(dict.fromkeys(m.path.relative_to(ROOT).as_posix() for m in tried))
    _preload(files)
    _check_that_tests_pass(files)

    killed, argued, unargued = 0, 0, []
    for done, outcome in enumerate(outcomes(tried, wanted.jobs), 1):
        name = outcome.mutant.name
        argued += outcome.survived and name in arguments
        killed += not outcome.survived
        if outcome.survived and name not in arguments:
            unargued.append(name)
            print(f"[{done}/{len(tried)}] survived: {name}", flush=True)
        if done % 25 == 0:
            print(f"[{done}/{len(tried)}] {killed} killed", flush=True)
    stale = [name for name in arguments if name not in {m.name for m in everything}] if not wanted.only else []
    for name in stale:
        print(f"argued in {ARGUED.name}, but no mutant any more: {name}")
    print(f"{len(tried)} mutants: {killed} killed, {argued} argued, {len(unargued)} unargued")
    return int(len(unargued) > ALLOWED * len(tried))


def read_arguments(path: Path) -> dict[str, str]:
    """{mutant: why nobody can see it}: two lines each, the second one indented; # begins a comment."""
    found: dict[str, str] = {}
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("    "):
            found[name] = line.strip()
        elif line and not line.startswith("#"):
            name = line
    return found


def outcomes(tried: Sequence[Mutant], jobs: int) -> Iterator[Outcome]:
    """Each mutant's, as they come, this number of processes at a time."""
    waiting = list(reversed(tried))
    running: dict[int, tuple[Mutant, float, Path]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            place = Path(tempfile.mkdtemp(prefix="mutant-"))
            running[_start(mutant.path.relative_to(ROOT).as_posix(), mutant, place)] = mutant, time.monotonic(), place
        for pid, (mutant, began, place) in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            hangs = not ended and time.monotonic() - began > PATIENCE
            if hangs:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            if ended or hangs:
                del running[pid]
                shutil.rmtree(place, ignore_errors=True)
                survived = bool(ended) and os.waitstatus_to_exitcode(status) == 0
                yield Outcome(mutant, survived, time.monotonic() - began)
        time.sleep(0.02)


def _start(file: str, mutant: Mutant | None, place: Path) -> int:
    """The process that runs the tests nearest to a file, on the mutant or on the package as it is."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    with contextlib.suppress(BaseException):  # whatever a mutant does ends here, and counts as killed
        os.setsid()  # what it starts can be ended with it
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silent, stream)
        if mutant is not None:
            _forget(dependents(mutant.module))
            sys.meta_path.insert(0, _Finder(mutant))
        options = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={place / 'tests'}", f"--rootdir={ROOT}"]
        options += [f"--deselect={test}" for test in ELSEWHERE]
        code = int(pytest.main([*options, *(str(ROOT / test) for test in NEAREST[file])]))
    os._exit(code)


def dependents(module: str) -> set[str]:
    """The loaded modules of the package that import this one, directly or not, and itself."""
    imported = {name: _imports(loaded) for name, loaded in sys.modules.items() if name.partition(".")[0] == "rayul"}
    found = {module}
    while new := {name for name, names in imported.items() if names & found} - found:
        found |= new
    return found


def _imports(module: ModuleType) -> set[str]:
    """Names of the modules that a module imports, inside of functions too; of `from a import b` both a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def _forget(names: set[str]) -> None:
    """So that they are imported again; a package also keeps its modules as attributes."""
    for name in names:
        sys.modules.pop(name, None)
        package, _, last = name.rpartition(".")
        if package in sys.modules and hasattr(sys.modules[package], last):
            delattr(sys.modules[package], last)


class _Finder(importlib.abc.MetaPathFinder):
    """Imports one module from the mutant's tree, all others as ever."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.mutant.module:
            return None
        loader = _Loader(fullname, str(self.mutant.path))
        loader.tree = self.mutant.tree
        return importlib.util.spec_from_file_location(fullname, self.mutant.path, loader=loader)


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self.tree, self.path, "exec")
        return code


def _preload(files: Sequence[str]) -> None:
    """Load all that the tests import once; each process to come loads anew only what its mutant can reach."""
    os.chdir(ROOT)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for name in PRELOADED:
        importlib.import_module(name)
    tests = dict.fromkeys(str(ROOT / test) for file in files for test in NEAREST[file])
    with open(os.devnull, "w") as silent, contextlib.redirect_stdout(silent):
        pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", *tests])
    _forget({name for name, module in sys.modules.items() if _is_below(module, ROOT / "tests") and name != "mutants"})
    gc.collect()
    gc.freeze()  # or each process would copy the pages of all libraries at its first collection


def _is_below(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and Path(file).is_relative_to(folder) and module.__name__ != "__main__"


def _check_that_tests_pass(files: Sequence[str]) -> None:
    for file in files:
        place = Path(tempfile.mkdtemp(prefix="mutant-"))
        _, status = os.waitpid(_start(file, None, place), 0)
        shutil.rmtree(place, ignore_errors=True)
        if os.waitstatus_to_exitcode(status) != 0:
            sys.exit(f"without any change the tests of {file} fail: {', '.join(NEAREST[file])}")


if __name__ == "__main__":
    sys.exit(main())
