"""`run.sh` at toy size: each of its steps runs to its end, and the summary has what each has left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # its scripts are no package

from steps import WORTH, Runner
from summary import Step, write_summary

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
    with tarfile.open(tmp_path / "records.tar.gz") as archive:
        names = set(archive.getnames())
    assert names >= {f"logs/{name}.txt" for name in steps} | {"tofu/report.html", "ga/report.html"}
    assert not [name for name in names if name.endswith(".safetensors")]
    assert {path.name for path in tmp_path.iterdir()} == {"summary.md", "summary.json", "records.tar.gz"}


def test_what_a_step_leaves_is_kept_before_the_next_begins(tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    (work / "tofu").mkdir(parents=True)
    out.mkdir()
    kept: list[dict[str, Any]] = []

    def keep(steps: list[Step]) -> None:
        write_summary(out, work, steps, toy=True)
        kept.append({step["name"]: step for step in json.loads((out / "summary.json").read_text())["steps"]})

    runner = Runner(work, time.time(), {}, ended=keep)
    # A sweep that is killed in the middle of a line, and files that are cut off.
    lines = json.dumps({"step": 0, "numerics": "plain"}) + "\n" + '{"step": 1, "nume'
    (work / "tests.xml").write_text("<testsuites><testsuite")
    (work / "evaluations.json").write_text('{"rows": ')
    broken = (
        f"print('about to break'); open({str(work / 'tofu' / 'evaluations.jsonl')!r}, 'w').write({lines!r}); exit(3)"
    )
    assert not runner.run("sweep", 600, [sys.executable, "-c", broken])
    assert not runner.run("late", WORTH / 2, [sys.executable, "-c", "pass"])
    assert runner.run("ga", 600, [sys.executable, "-c", "pass"])
    assert [list(steps) for steps in kept] == [["sweep"], ["sweep", "late"], ["sweep", "late", "ga"]]
    assert kept[-1]["sweep"]["code"] == 3
    assert kept[-1]["sweep"]["said"] == "about to break"
    assert "about to break" in (out / "summary.md").read_text()
    assert kept[-1]["late"]["skipped"] == "no time was left"
    found = json.loads((out / "summary.json").read_text())
    assert found["sweep"]["trials"] == 0
    assert found["sweep"]["numerics"] == []
    assert found["tests"] == found["evaluations"] == {}
