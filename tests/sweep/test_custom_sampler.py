"""Samplers by their rows, and one from a file: read without running it, tried before anything is spent."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console

from rayul.errors import InputError
from rayul.plan import make_plan
from rayul.records import read_journal
from rayul.spec import SAMPLERS, SpecError, difference, dump_yaml, load_spec, parse_spec
from rayul.sweep.run import run_sweep
from rayul.sweep.search.samplers import check_sampler, sampler, suggest
from rayul.sweep.search.trajectory.sampler import Evidence

Make = Callable[..., Any]

MINE = '''
"""Samplers of my own."""
import optuna


def even(seed, startup_trials):
    """Any draw as likely as any other."""
    return optuna.samplers.RandomSampler(seed=seed)


def parzen(seed, startup_trials):
    return optuna.samplers.TPESampler(
        n_startup_trials=startup_trials, multivariate=True, group=True, constant_liar=True, seed=seed
    )


def one_objective(seed, startup_trials):
    return optuna.samplers.CmaEsSampler(seed=seed)


def number(seed, startup_trials):
    return 7


def broken(seed, startup_trials):
    raise ValueError("not today")


class Third(optuna.samplers.RandomSampler):
    def sample_independent(self, study, trial, name, distribution):
        if trial.number == 2:
            raise ValueError("not the third")
        return super().sample_independent(study, trial, name, distribution)


def third(seed, startup_trials):
    return Third(seed=seed)
'''
SPACE = {
    "training": {"lr": {"float": [1e-4, 1e-2], "log": True}},
    "lora": {"r": {"int": [2, 8]}},
}


def spec_of(name: str, more: str = "") -> Any:
    text = "name: x\nmodel: testbed\ndata: testbed\nmethod: ga\ntraining: {lr: {float: [1e-4, 1e-2]}}\n"
    return parse_spec(f"{text}search: {{sampler: {name}{more}}}\n", source="x.yaml")


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_row_says_whether_its_sampler_learns(name: str, make_spec: Make, row: Any, baseline: Any) -> None:
    """Two courses of one study, the same but for what the trials came to: the draws part where a sampler learns."""

    def draws(sign: int) -> list[dict[str, Any]]:
        spec = make_spec(**SPACE, search={"sampler": "random" if SAMPLERS[name].grid else name, "startup_trials": 3})
        named = spec.model_copy(update={"search": spec.search.model_copy(update={"sampler": name})})
        study = optuna.create_study(directions=["minimize", "maximize"])
        found: list[dict[str, Any]] = []
        rows: dict[str, list[Any]] = {}
        evidence = Evidence(spec, baseline, lambda trial_id: rows.get(trial_id, []))
        for number in range(12):
            study.sampler = sampler(named, number, evidence)
            trial = study.ask()
            found.append(suggest(trial, spec))
            lr = found[-1]["training.lr"]
            study.tell(trial, [sign * lr, -sign * lr])
            forget, retain = 0.4 + sign * 20 * lr, 0.3 - sign * 10 * lr
            rows[f"{number:04d}"] = [row(spec, number, 5, forget, retain, params=found[-1])]
        return found

    assert (draws(1) != draws(-1)) == (SAMPLERS[name].learns != "nothing")
    assert draws(1) == draws(1)


@pytest.mark.parametrize(("own", "built_in"), [("even", "random"), ("parzen", "tpe")])
def test_it_draws_as_the_built_in_one_of_the_same_rule(
    write: Callable[[str], Path], make_spec: Make, begin: Any, own: str, built_in: str
) -> None:
    """It is given seed and startup trials of the spec, and sees the trials that ended; closing changes nothing."""
    file = write(MINE)
    specs = [make_spec(**SPACE, search={"sampler": s, "startup_trials": 4}) for s in (f"./mine.py:{own}", built_in)]
    file.unlink()  # the spec has the text
    whole, theirs = (begin(spec).run(9) for spec in specs)
    assert whole == theirs
    closed = begin(specs[0])
    assert [closed.open().run(1)[0] for _ in range(9)] == whole


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, 'no file "./mine.py"'),
        ("def mine(", "./mine.py:1: not Python"),
        ("def other(seed, startup_trials): ...", "has no function mine"),
        ("def mine(seed): ...", "two positional arguments without defaults, got seed"),
        ("def mine(seed, startup_trials, *, space): ...", "space has no default"),
        ("def mine(*given): ...", "* or **"),
    ],
)
def test_what_breaks_the_contract_is_a_problem_of_the_spec(
    write: Callable[[str], Path], source: str | None, said: str
) -> None:
    if source is not None:
        write(source)
    with pytest.raises(SpecError) as caught:
        spec_of("./mine.py:mine")
    (got,) = map(str, caught.value.problems)
    assert got.startswith("x.yaml:6: search.sampler: ")
    assert said in got
    assert "hint: " in got


def test_the_spec_carries_it_without_running_it(write: Callable[[str], Path]) -> None:
    file = write("open('it_ran', 'w')\n" + MINE)
    spec = spec_of("./mine.py:parzen", ", warm_start: earlier")  # it may learn from another sweep
    assert [line.partition(" (sha256")[0] for line in spec.notices] == ["code of ./mine.py will run"]
    (file.parent / "spec.yaml").write_text(dump_yaml(spec.resolved()))
    file.unlink()
    assert load_spec(file.parent / "spec.yaml") == spec
    assert not (file.parent / "it_ran").exists()
    write(MINE)
    (line,) = difference(spec, spec_of("./mine.py:parzen", ", warm_start: earlier"))
    assert line.startswith("search.code../mine.py: ")
    assert "code" not in spec_of("tpe").resolved()["search"]


def test_a_file_without_a_function_says_how_to_name_one() -> None:
    with pytest.raises(SpecError, match=r"\./my_sampler\.py:function"):
        spec_of("./mine.py")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("number", "./mine.py:number returned a int"),
        ("broken", "./mine.py:broken failed to draw trial 0: ValueError: not today"),
        ("one_objective", "./mine.py:one_objective failed to draw trial 0"),
    ],
)
def test_what_cannot_draw_is_refused_before_anything_is_spent(
    write: Callable[[str], Path], make_spec: Make, tmp_path: Path, name: str, said: str
) -> None:
    write(MINE)
    for start in (run_sweep, make_plan):
        with pytest.raises(InputError) as caught:
            start(make_spec(**SPACE, search={"sampler": f"./mine.py:{name}"}), tmp_path / "results")
        assert caught.value.message.startswith(said)
    assert not (tmp_path / "results" / "evaluations.jsonl").exists()


def test_one_that_can_draw_passes(write: Callable[[str], Path], make_spec: Make) -> None:
    write(MINE)
    check_sampler(make_spec(**SPACE, search={"sampler": "./mine.py:parzen"}))


@pytest.mark.slow
def test_one_that_fails_in_the_middle_ends_the_sweep_with_its_name_and_loses_no_row(
    write: Callable[[str], Path], make_spec: Make, tmp_path: Path
) -> None:
    write(MINE)
    spec = make_spec(
        **SPACE,
        objectives={"forget.prob": "minimize", "retain.prob": "maximize"},  # an untrained model has no es to lose
        search={"sampler": "./mine.py:third", "trials": 4},
        resources={"concurrency": 1},
    )
    said = io.StringIO()
    with pytest.raises(InputError, match=r"\./mine\.py:third failed to draw trial 2: ValueError: not the third"):
        run_sweep(spec, tmp_path / "results", console=Console(file=said, width=200))
    assert "code of ./mine.py will run" in said.getvalue()
    assert set(read_journal(tmp_path / "results" / "evaluations.jsonl").endings) == {"0000", "0001"}
