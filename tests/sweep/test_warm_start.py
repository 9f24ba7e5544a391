"""A search that begins with what earlier sweeps of the same space found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driver import rows, sweep, write_spec
from study import Sweep

from rayul.errors import InputError
from rayul.records import FAILED, Ending
from rayul.records.manifest import Manifest, RowSet, write_manifest
from rayul.spec import SpecError, dump_yaml
from rayul.sweep.search.searcher import open_study
from rayul.sweep.search.warm_start import earlier_trials

Make = Callable[..., Any]
Begin = Callable[..., Sweep]

SPACE: dict[str, Any] = {
    "method": {"name": {"choice": ["ga", "gd"]}, "retain_weight": {"float": [0.0, 4.0]}},
    "lora": {"r": {"int": [2, 8], "log": True}},
    "training": {"lr": {"float": [1e-4, 1e-2], "log": True}},
    "control": {"criteria": [{"metric": "retain.es", "at_least": "90% of baseline"}]},
}


def finished(begin: Begin, make_spec: Make, trials: int = 12, **sections: Any) -> Sweep:
    """An earlier sweep's folder: spec, baseline, journal and study, with one trial cut off."""
    spec = make_spec(**(SPACE | sections))
    done = begin(spec)
    done.journal.append(done.baseline)
    (done.folder / "spec.yaml").write_text(dump_yaml(spec.resolved()))
    done.run(trials)
    number, params = done.ask()
    done.journal.append(done.row(spec, number, 0, 0.8, 0.5, params=params))
    return done


def same_text(manifest: Manifest) -> None:
    """Every earlier sweep was measured on the tokens of this one."""


def continuing(make_spec: Make, *earlier: Sweep, search: Any = (), **sections: Any) -> Any:
    search = {"warm_start": [str(one.folder) for one in earlier]} | dict(search)
    return make_spec(**(SPACE | sections), search=search)


def told(trial: Any) -> tuple[Any, ...]:
    return (trial.params, trial.values, trial.constraints, trial.user_attrs["step"], trial.user_attrs["state"])


def test_the_study_begins_with_every_trial_that_ended_as_the_earlier_study_knew_it(
    make_spec: Make, begin: Begin
) -> None:
    before = finished(begin, make_spec)
    found = earlier_trials(continuing(make_spec, before), {}, same_text)
    assert [told(t) for t in found] == [told(t) for t in before.study.trials[:12]]
    assert [t.distributions for t in found] == [t.distributions for t in before.study.trials[:12]]
    assert found[3].user_attrs["warm_start"] == f"{before.folder}/0003"


@pytest.mark.parametrize("sampler", ["tpe", "trajectory"])
def test_they_do_not_count_and_closing_the_sweep_changes_nothing(make_spec: Make, begin: Begin, sampler: str) -> None:
    spec = continuing(make_spec, finished(begin, make_spec), search={"sampler": sampler})
    earlier = earlier_trials(spec, {}, same_text)
    whole = begin(spec, limit=7, earlier=earlier)
    assert whole.searcher.remaining == whole.searcher.total == 7
    asked = whole.run(7)
    assert [number for number, _ in asked] == list(range(12, 19))
    assert whole.searcher.remaining == 0
    interrupted = begin(spec, limit=7, earlier=earlier)
    interrupted.earlier = ()  # a resume finds them in the study
    assert [interrupted.open().run(1)[0] for _ in range(7)] == asked
    assert len(interrupted.study.trials) == 19


@pytest.mark.parametrize("sampler", ["tpe", "trajectory"])
def test_the_sampler_draws_nothing_at_random_that_it_could_know(make_spec: Make, begin: Begin, sampler: str) -> None:
    """Of 60 earlier trials the feasible ones have small rates: from its first proposal on the search stays there."""
    strict = {"method": "ga", "control": {"criteria": [{"metric": "retain.es", "at_least": "98% of baseline"}]}}
    before = finished(begin, make_spec, trials=60, **strict)
    feasible = [t.params["training.lr"] for t in before.study.trials[:60] if max(t.constraints.values()) <= 0]
    spec = continuing(make_spec, before, **strict, search={"sampler": sampler, "startup_trials": 10, "seed": 5})
    cold = begin(spec).run(10)
    warm = begin(spec, earlier=earlier_trials(spec, {}, same_text)).run(10)

    def kept(asked: list[tuple[int, dict[str, Any]]]) -> int:
        return sum(params["training.lr"] <= max(feasible) for _, params in asked)

    assert kept(warm) > kept(cold)


def test_half_of_them_is_none(make_spec: Make, begin: Begin) -> None:
    """The driver was killed while they were written: the study's file appears whole or not at all."""
    spec = continuing(make_spec, finished(begin, make_spec))
    earlier = earlier_trials(spec, {}, same_text)
    new = begin(spec)  # for its folder
    path = new.folder / "again.journal"
    path.with_name("again.journal.tmp").write_bytes((new.folder / "study.journal").read_bytes()[:50])
    assert len(open_study(path, spec, earlier).trials) == 12
    assert len(open_study(path, spec, earlier).trials) == 12


def test_several_earlier_sweeps_and_what_may_differ_in_them(make_spec: Make, begin: Begin) -> None:
    one = finished(
        begin, make_spec, search={"sampler": "random", "trials": 100, "seed": 9}, pruning={"dominance": False}
    )
    two = finished(begin, make_spec, trials=3, name="other", search={"tell": "last_feasible"})
    assert len(earlier_trials(continuing(make_spec, one, two), {}, same_text)) == 15
    lr = two.spec.space["training.lr"].to_yaml() | {"prior": {"center": 1e-3, "spread": 2}}
    assert len(earlier_trials(continuing(make_spec, two, training={"lr": lr}), {}, same_text)) == 3


def test_what_is_told_follows_this_sweeps_choice(make_spec: Make, begin: Begin) -> None:
    before = finished(begin, make_spec, search={"tell": "best"})
    steps = {
        tell: [
            t.user_attrs["step"]
            for t in earlier_trials(continuing(make_spec, before, search={"tell": tell}), {}, same_text)
        ]
        for tell in ("best", "last_feasible")
    }
    assert steps["best"] != steps["last_feasible"]


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        (
            {"training": {"lr": {"float": [1e-4, 1e-1], "log": True}}},
            "training.lr: {float: [0.0001, 0.01], log: true} -> ",
        ),
        ({"lora": {"r": 4}}, "lora.r: "),
        (
            {"lora": {"r": {"int": [2, 8], "log": True}, "alpha": {"choice": [8, 16]}}},
            "lora.alpha: 16 -> {choice: [8, 16]}",
        ),
        ({"control": {"criteria": [{"metric": "retain.es", "at_least": 0.4}]}}, "control.criteria.0.at_least: "),
        (
            {"objectives": {"forget.prob": "minimize", "retain.es": "maximize"}},
            "objectives.forget.es: minimize -> absent",
        ),
        ({"method": "ga"}, 'method.name: {choice: ["ga", "gd"]} -> ga'),
        ({"model": "elsewhere"}, "model.path: "),
    ],
)
def test_another_space_is_refused_with_each_difference(
    make_spec: Make, begin: Begin, sections: dict[str, Any], named: str
) -> None:
    before = finished(begin, make_spec)
    with pytest.raises(InputError) as refused:
        earlier_trials(continuing(make_spec, before, **sections), {}, same_text)
    assert str(before.folder) in refused.value.message
    assert named in refused.value.message


def test_other_rows_are_refused(make_spec: Make, begin: Begin) -> None:
    facts = {"forget": RowSet(rows=6, sha256="a"), "retain": RowSet(rows=6, sha256="b")}
    before = finished(begin, make_spec)
    now = continuing(make_spec, before)
    for sha, refused in (("b", False), ("c", True)):
        write_manifest(before.folder, Manifest(data=facts | {"retain": RowSet(rows=6, sha256=sha)}))
        if refused:
            with pytest.raises(InputError, match="rows of retain have changed"):
                earlier_trials(now, facts, same_text)
        else:
            assert len(earlier_trials(now, facts, same_text)) == 12


def test_a_sweep_that_was_measured_on_other_tokens_is_refused(make_spec: Make, begin: Begin) -> None:
    before = finished(begin, make_spec)
    write_manifest(before.folder, Manifest(tokens={"forget": "a"}))

    def other_text(manifest: Manifest) -> None:
        raise InputError(f"forget had the tokens {manifest.tokens['forget']}")

    with pytest.raises(InputError, match=rf"search.warm_start: {before.folder}: forget had the tokens a"):
        earlier_trials(continuing(make_spec, before), {}, other_text)


def test_a_folder_without_a_sweep_or_without_an_ended_trial_is_refused(
    make_spec: Make, begin: Begin, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="not the folder of a sweep"):
        earlier_trials(make_spec(**SPACE, search={"warm_start": str(tmp_path / "nowhere")}), {}, same_text)
    with pytest.raises(InputError, match="no trial to learn from"):
        earlier_trials(continuing(make_spec, finished(begin, make_spec, trials=0)), {}, same_text)


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3", "random", "grid"])
def test_a_sampler_that_would_not_listen_is_refused(make_spec: Make, sampler: str) -> None:
    with pytest.raises(SpecError, match=r"search\.warm_start: sampler"):
        make_spec(lora={"r": {"choice": [4, 8]}}, search={"sampler": sampler, "warm_start": "results/x"})


def test_trials_that_failed_are_left_out(make_spec: Make, begin: Begin) -> None:
    before = finished(begin, make_spec, trials=4)
    number, params = before.ask()
    before.journal.append(Ending(f"{number:04d}", FAILED, "out of memory", params=params))
    assert len(earlier_trials(continuing(make_spec, before), {}, same_text)) == 4


@pytest.mark.slow
def test_a_real_sweep_begins_with_another_and_resumes_without_it(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    first = write_spec(tmp_path / "first.yaml", tiny_folder, data_folder, name="first")
    assert sweep(first, tmp_path).returncode == 0
    search = {"sampler": "tpe", "trials": 2, "warm_start": str(tmp_path / "first")}
    second = write_spec(tmp_path / "second.yaml", tiny_folder, data_folder, name="second", search=search)
    done = sweep(second, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"the search begins with 6 trials of {tmp_path / 'first'}" in done.stderr
    trials = {row["trial_id"] for row in rows(tmp_path / "second") if row["params"]}
    assert trials == {"0006", "0007"}
    (tmp_path / "first").rename(tmp_path / "gone")
    more = sweep(second, tmp_path, "--resume", "--trials", "3")
    assert more.returncode == 0, more.stderr
    assert {row["trial_id"] for row in rows(tmp_path / "second") if row["params"]} == {"0006", "0007", "0008"}
