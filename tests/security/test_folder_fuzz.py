"""Results folders that a disk, an editor or a stranger has changed: one clear error or the same results, never a
traceback; and after `rayul repair` and a resume, the front of the sweep that nothing happened to."""

from __future__ import annotations

import json
import math
import random
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pareto"))
sys.path.insert(0, str(Path(__file__).parents[1] / "sweep"))
from audits import audit_folder, lines
from study import Sweep

from rayul.audit.judge import judge
from rayul.audit.read import read_audit
from rayul.audit.verdict import as_json
from rayul.errors import RayulError
from rayul.files import write_json
from rayul.records import BASELINE, COMPLETED, FAILED, PRUNED, Evaluation, Journal, adapter_folder, to_json
from rayul.records.audited import audit_journal
from rayul.records.folder import load_records
from rayul.records.json_lines import unsealed
from rayul.records.manifest import Manifest, Run, write_manifest
from rayul.report.status import read_status, status_lines
from rayul.spec import SpecError, parse_spec, violations
from rayul.sweep.repair import repair

TEXT = """\
name: fuzzed
model: testbed
data: testbed
method: {name: {choice: [ga, gd]}, retain_weight: {float: [0.1, 4.0]}}
training: {lr: {float: [1e-4, 1e-2], log: true}, steps: 10, evaluate_every: 5}
objectives: {forget.es: minimize, retain.es: maximize}
control: [{metric: retain.es, at_least: 75% of baseline}]
search: {sampler: random, trials: 9, seed: 3}
"""
SPEC = parse_spec(TEXT, (), source="spec.yaml")
BASE = {"forget.es": 0.8, "retain.es": 0.5}
SLOTS = 3
"""Trials whose rows stand between each other's in the journal, as those of a pack do."""


def row(number: int, params: dict[str, Any], step: int) -> Evaluation:
    """A fixed function of settings, number and step."""
    strength = (math.log10(params["training.lr"]) + 4) / 2 * step / 10
    weight = params.get("method.retain_weight", 0.0) / 4
    metrics = {
        "forget.es": 0.8 * (1 - strength * (1 - 0.3 * weight)),
        "retain.es": 0.5 * (1 - (0.6 - 0.4 * weight) * strength**2),
    }
    violation = violations(SPEC.at(params).criteria, metrics, BASE)
    return Evaluation(
        f"{number:04d}",
        step,
        seed=3 + number,
        params=params,
        metrics=metrics,
        violation=violation,
        feasible=all(v <= 0 for v in violation.values()),
        train_seconds=float(step),
    )


def resume(folder: Path) -> None:
    """What a sweep does with a folder, without training: the baseline where it is missing, then every trial that has no
    ending, SLOTS at a time, told to Optuna when it has ended."""
    journal = Journal(folder / "evaluations.jsonl")
    baseline = Evaluation(BASELINE, 0, mixing=0.0, metrics=BASE)
    journal.append(baseline)
    sweep = Sweep(folder, SPEC, None, baseline, SPEC.search.trials)  # type: ignore[arg-type]
    while sweep.searcher.remaining:
        asked = [sweep.ask() for _ in range(min(SLOTS, sweep.searcher.remaining))]
        for step in (0, 5, 10):
            sweep.journal.append(*(row(number, params, step) for number, params in asked if number != 5))
        for number, params in asked:
            last = row(number, params, 10)
            state = (FAILED, "diverged") if number == 5 else (COMPLETED,) if last.feasible else (PRUNED, "retain.es")
            sweep.journal.append(last.ended(*state))
            sweep.searcher.tell(number)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep: records, study, manifest, and adapters with their notes."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = tmp_path_factory.mktemp("whole") / "fuzzed"
    folder.mkdir()
    (folder / "spec.yaml").write_text(TEXT)
    now = datetime(2026, 11, 28, tzinfo=UTC)
    write_manifest(folder, Manifest(command="rayul sweep", date=now, runs=(Run(began=now, ended=now),)))
    resume(folder)
    for point in results(folder)["front"]:
        adapter = adapter_folder(folder, point)
        adapter.mkdir(parents=True)
        note = {"evaluation": json.loads(to_json(point)), "report_metrics": {"retain_report.es": 0.4}}
        write_json(adapter / "rayul.json", note | {"report_stderr": {"retain_report.es": 0.1}, "verified": True})
        (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
        (adapter / "adapter_model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    return folder


def results(folder: Path) -> dict[str, Any]:
    """What every reader takes from a folder."""
    status = read_status(folder, held=False)
    found = status.results
    assert status_lines(status)
    return {
        "front": status.summary.front,
        "states": found.states,
        "rows": sorted(found.evaluations, key=lambda e: e.key),
    }


# --- mutations ---------------------------------------------------------------------------------------------------

VALUES = [
    *("null", "true", "[]", "{}", '""', '"x"', "-1", "1e999", "NaN", "Infinity", '"inf"', '"nan"', "0.123", "2", "1.0"),
    *("9" * 30, "9" * 5000, "[" * 2000 + "]" * 2000, '{"a":' * 2000 + "1" + "}" * 2000, '"\\ud800"', '"\\u0000"'),
]
WHOLE = [b"", b"\n", b"[]", b"null", b"7\n", b"{}\n", b"\xff\xfe\0\0", b"[" * 5000, b'"\\ud800"\n', b"\0" * 100]


def mutate(draw: random.Random, content: bytes) -> bytes:
    """One change of a file."""
    rows = content.splitlines(keepends=True)
    at = draw.randrange(len(rows)) if rows else 0
    match draw.choice(
        ["flip", "cut", "remove", "insert", "double", "drop", "swap", "value", "value", "whole", "garbage"]
    ):
        case "flip":
            place = draw.randrange(len(content))
            return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
        case "cut":
            return content[: draw.randrange(len(content))]
        case "remove":
            place = draw.randrange(len(content))
            return content[:place] + content[place + draw.randrange(1, 400) :]
        case "insert":
            place = draw.randrange(len(content))
            return content[:place] + draw.randbytes(draw.randrange(1, 9)) + content[place:]
        case "double":
            rows.insert(draw.randrange(len(rows) + 1), rows[at])
        case "drop":
            del rows[at : at + draw.randrange(1, 4)]
        case "swap":
            rows.insert(draw.randrange(len(rows)), rows.pop(at))
        case "value":
            rows[at] = with_other_value(draw, rows[at])
        case "whole":
            return draw.choice(WHOLE)
        case "garbage":
            rows.insert(at, draw.choice([b"garbage\n", b"{}\n", b"\xff\n", b"[1, 2]\n", b"\n", b'{"op_code": 99}\n']))
    return b"".join(rows)


def with_other_value(draw: random.Random, line: bytes) -> bytes:
    """The line with another value behind one of its colons."""
    colons = [i for i, byte in enumerate(line) if byte == ord(":")]
    if not colons:
        return line
    start = draw.choice(colons) + 1
    end = next((i for i in range(start, len(line)) if line[i] in b",}\n"), len(line))
    return line[:start] + b" " + draw.choice(VALUES).encode() + line[end:]


def mutant(draw: random.Random, folder: Path) -> str:
    """Change one file of a folder; returns its name."""
    names = ["evaluations.jsonl"] * 4 + ["study.journal"] * 3 + ["run.json", "rayul.json", "adapter"]
    name = draw.choice(names)
    adapters = sorted((folder / "adapters").iterdir())
    if name == "adapter":
        files = ["adapter_config.json", "adapter_model.safetensors"]
        path = draw.choice(adapters) / draw.choice(files)
    else:
        path = draw.choice(adapters) / name if name == "rayul.json" else folder / name
    match draw.randrange(12):
        case 0:
            path.unlink()
        case 1 if path.parent in adapters:
            path.parent.rename(
                path.parent.with_name(draw.choice(["0001-²-1", "x-1-1", "0002-5-1e99", "a-b-c", "-1--"]))
            )
        case 1:
            path.unlink()
            path.mkdir()
        case _:
            path.write_bytes(mutate(draw, path.read_bytes()))
    return name


def changed(draw: random.Random, whole: Path, place: Path) -> tuple[Path, str]:
    """A copy of a folder with one change, and the name of the changed file."""
    folder = place / whole.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    return folder, mutant(draw, folder)


def reading(read: Callable[[Path], Any], folder: Path) -> Any:
    """What a reader makes of a folder, or its error."""
    try:
        return read(folder)
    except RayulError as error:
        return error


def check(seed: int, whole: Path, expected: dict[str, Any], place: Path, resumes: bool) -> str:
    """One mutant, read, and repaired and resumed; returns what became of it."""
    folder, name = changed(random.Random(seed), whole, place)
    which = f"mutant {seed} of {name}"
    found = reading(results, folder)
    if isinstance(found, RayulError):
        assert str(folder) in found.message, f"{which}: {found}"
        assert found.hint
    else:
        assert found == expected, f"{which}: other results, without a word"
    if resumes:
        said: list[str] = []
        refused = reading(lambda folder: repair(folder, said.append), folder)
        if isinstance(refused, RayulError):
            assert "is a folder, where a file belongs" in refused.message, f"{which}: {refused}"
            return "refused"
        assert repair(folder, said.append) is False, f"{which}: repaired twice"
        resume(folder)
        assert results(folder) == expected, f"{which}: other results after {said}"
    return "refused" if isinstance(found, RayulError) else "the same"


@pytest.mark.parametrize("part", range(3))
def test_a_changed_folder_is_an_error_or_the_same_results(part: int, whole: Path, tmp_path: Path) -> None:
    expected = results(whole)
    seeds = range(part * 100, part * 100 + 100)
    assert {check(seed, whole, expected, tmp_path, resumes=seed % 10 == 8) for seed in seeds} == {"refused", "the same"}


@pytest.mark.slow
@pytest.mark.parametrize("part", range(50))
def test_five_thousand_changed_folders_are_repaired(part: int, whole: Path, tmp_path: Path) -> None:
    expected = results(whole)
    for seed in range(1000 + part * 100, 1000 + part * 100 + 100):
        check(seed, whole, expected, tmp_path, resumes=True)


def test_a_changed_folder_of_an_earlier_version_is_an_error_or_can_be_read(whole: Path, tmp_path: Path) -> None:
    """Without checksums a changed number cannot be told from a measured one, nor a setting outside of the space from an
    older space; whatever it is, nothing ends in a traceback."""
    shutil.copytree(whole, tmp_path / "old")
    journal = tmp_path / "old" / "evaluations.jsonl"
    journal.write_bytes(b"".join(unsealed(line) + b"\n" for line in journal.read_bytes().splitlines()))
    assert results(tmp_path / "old") == results(whole)
    for seed in range(60):
        folder, _ = changed(random.Random(seed), tmp_path / "old", tmp_path / "changed")
        reading(results, folder)
        if seed % 6 == 0 and not isinstance(reading(lambda folder: repair(folder, str), folder), RayulError):
            went_on = reading(resume, folder)
            assert isinstance(went_on, SpecError) or "running" not in results(folder)["states"], f"mutant {seed}"


def verdict(folder: Path) -> Any:
    audit = read_audit(load_records(folder))
    return None if audit is None else as_json(audit, judge(audit))


def test_a_changed_audit_is_an_error_or_the_same_verdict(tmp_path: Path) -> None:
    """Lines that are lost at the end are those of an audit that was cut off: it is continued, and says less."""
    whole = audit_folder(tmp_path / "whole", rows=[])
    (whole / "audit" / "evaluations.jsonl").unlink()
    audit_journal(whole).append(*lines())
    expected = verdict(whole)
    assert expected["verdicts"]
    names = ["audit.json", "evaluations.jsonl", "evaluations.jsonl"]
    seen = set()
    for seed in range(80):
        draw, folder = random.Random(seed), tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        path = folder / "audit" / draw.choice(names)
        path.write_bytes(mutate(draw, path.read_bytes()))
        found = reading(verdict, folder)
        seen.add(type(found))
        if isinstance(found, RayulError):
            assert str(folder) in found.message
            assert isinstance(reading(lambda folder: repair(folder, str), folder), bool), f"mutant {seed}"
            assert not isinstance(reading(verdict, folder), RayulError) or path.name == "audit.json", f"mutant {seed}"
    assert RayulError in seen
