"""Trials that fail for a reason that is no setting's: few are tried, and the sweep does not pass for a good one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driver import ended, sweep, write_spec

from rayul.errors import RayulError
from rayul.records import COMPLETED, FAILED, Ending
from rayul.sweep.failures import FAILED_ALIKE, AlikeFailures, refuse_failures

MISSING = "ModuleNotFoundError: No module named 'nosuchmodule'"


def failed(number: int, reason: str = MISSING, rule: str = "ModuleNotFoundError", **params: Any) -> Ending:
    return Ending(f"{number:04d}", FAILED, rule, reason, params=params)


def stopped_after(spec: Any, *endings: Ending) -> list[bool]:
    """Whether the sweep would stop, after each ending."""
    alike, told = AlikeFailures(spec), []
    for ending in endings:
        alike.add(ending)
        told.append(bool(alike.stopped()))
    return told


def test_the_third_of_the_first_trials_that_fail_alike_is_the_last(make_spec: Callable[..., Any]) -> None:
    spec = make_spec()
    assert stopped_after(spec, *map(failed, range(3))) == [False, False, True]
    numbers = [f"ValueError: {n} rows at 0x7f{n}a, loss {n}.5e-3" for n in range(3)]
    assert stopped_after(spec, *(failed(i, reason, "ValueError") for i, reason in enumerate(numbers)))[-1]


def test_what_settings_explain_and_what_differs_stops_nothing(make_spec: Callable[..., Any]) -> None:
    spec = make_spec()
    for rule in ("diverged", "out of memory", "search.trial_time_limit"):
        assert not any(stopped_after(spec, *(failed(i, "the same", rule) for i in range(5))))
    assert not any(stopped_after(spec, Ending("0000", COMPLETED), *map(failed, range(1, 6))))
    assert not any(stopped_after(spec, failed(0, "KeyError: 'a'", "KeyError"), *map(failed, range(1, 6))))


def test_where_methods_are_searched_one_broken_method_stops_nothing(make_spec: Callable[..., Any]) -> None:
    spec = make_spec(method={"name": {"choice": ["ga", "gd"]}})
    drawn = [{"method.name": name} for name in ("ga", "ga", "ga", "ga", "gd")]
    endings = [failed(i, MISSING, "ModuleNotFoundError", **params) for i, params in enumerate(drawn)]
    assert stopped_after(spec, *endings) == [False, False, False, False, True]


def test_the_reason_that_most_trials_have_is_told(tmp_path: Path) -> None:
    endings = [failed(0, "KeyError: 'a'", "KeyError"), failed(1), failed(2)]
    with pytest.raises(RayulError) as told:
        refuse_failures(endings, "", 3, tmp_path)
    assert told.value.exit_code == 1
    assert told.value.message == f"all 3 trials that ended failed: 2 of them with {MISSING}"
    assert "--resume" not in told.value.hint
    with pytest.raises(RayulError, match="--resume"):
        refuse_failures(endings, "", 4, tmp_path)
    good = Ending("0003", COMPLETED)
    refuse_failures([*endings, good], "", 4, tmp_path)
    refuse_failures([], "", 4, tmp_path)
    with pytest.raises(RayulError, match="failed alike, so no more were started: ModuleNotFoundError"):
        refuse_failures([good, *endings], FAILED_ALIKE, 8, tmp_path)


@pytest.mark.slow
def test_a_loss_that_needs_a_missing_module_ends_the_sweep_at_once(
    tmp_path: Path, tiny_folder: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loss = Path("mine.py")
    loss.write_text("def fn(forget, retain, idk):\n    import nosuchmodule\n    return nosuchmodule.of(forget)\n")
    method = {"name": "./mine.py:fn"}
    spec = write_spec(tmp_path / "tiny.yaml", tiny_folder, data_folder, method=method, search={"trials": 16})
    done = sweep(spec, tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2].endswith(f"failed alike, so no more were started: {MISSING}")
    assert "Traceback" not in done.stderr
    assert "learning rate" not in done.stderr + done.stdout
    states = ended(tmp_path / "tiny")
    assert set(states.values()) == {FAILED}
    assert 3 <= len(states) < 8
    assert "Every trial" in (tmp_path / "tiny" / "report.html").read_text()
