"""`search.replicate`: the last third of the trials trains the leading configurations again, with fresh seeds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rayul.pareto.replicates import lower_bounds, next_replicate
from rayul.spec.problems import SpecError

Make = Callable[..., Any]

SPACE = {"training": {"lr": {"float": [1e-4, 1e-2], "log": True}}, "method": "ga"}


def configurations(asked: list[tuple[int, dict[str, Any]]]) -> Counter[str]:
    return Counter(json.dumps(params, sort_keys=True) for _, params in asked)


@pytest.mark.parametrize("sampler", ["tpe", "trajectory", "random"])
def test_the_last_third_trains_those_that_lead_again(make_spec: Make, begin: Any, sampler: str) -> None:
    spec = make_spec(**SPACE, search={"sampler": sampler, "startup_trials": 4, "replicate": True})
    asked = begin(spec, limit=24).run(24)
    new, again = asked[:16], asked[16:]
    assert max(configurations(new).values()) == 1
    # What forgets most within the limit of 90% is at a fixed rate; trials beside it keep less or forget less.
    assert set(configurations(again)) <= set(configurations(new))
    assert len(configurations(again)) == 5
    assert max(configurations(asked).values()) == 3


def test_a_killed_search_goes_on_as_if_it_had_not_been(make_spec: Make, begin: Any) -> None:
    spec = make_spec(**SPACE, search={"replicate": True, "startup_trials": 4})
    whole = begin(spec, limit=18).run(18)
    sweep = begin(spec, limit=18)
    first = sweep.run(14)
    sweep.ask()
    assert first + sweep.open().run(4) == whole


def test_a_trial_cut_off_without_its_settings_counts_among_those_that_it_gets(make_spec: Make, begin: Any) -> None:
    """The driver is killed between `ask` and the last `suggest`, at each of the new configurations."""
    spec = make_spec(**SPACE, search={"replicate": True, "startup_trials": 4})
    whole = begin(spec, limit=18).run(18)
    for cut in range(4, 12):
        sweep = begin(spec, limit=18)
        first = sweep.run(cut)
        sweep.study.ask()
        assert first + sweep.open().run(18 - cut) == whole, cut


def test_auto_is_for_larger_sweeps_and_a_grid_refuses(make_spec: Make) -> None:
    assert make_spec(**SPACE, search={"trials": 48}).search.replicates
    assert not make_spec(**SPACE, search={"trials": 47}).search.replicates
    assert not make_spec(**SPACE, search={"trials": 64, "sampler": "nsga2"}).search.replicates
    assert not make_spec(**SPACE, search={"trials": 64, "replicate": False}).search.replicates
    with pytest.raises(SpecError, match="a grid trains each of its cells once"):
        make_spec(method="ga", training={"lr": {"choice": [1e-3, 1e-2]}}, search={"sampler": "grid", "replicate": True})


def test_a_configuration_that_falls_back_makes_room() -> None:
    scores: dict[str, list[float | None]] = {"lucky": [0.9], "good": [0.7], "ruined": [0.0]}
    assert next_replicate(scores) == "lucky"
    scores["lucky"].append(None)  # running
    assert next_replicate(scores) == "good"
    scores["lucky"][1] = 0.1
    assert next_replicate(scores | {f"other {i}": [0.6] for i in range(5)}) == "good"
    crowded = scores | {f"other {i}": [0.6, 0.6] for i in range(4)}
    assert next_replicate(crowded) == "good"  # and lucky, at 0.5, is not among the five any more
    assert next_replicate({"ruined": [0.0]}) is None


def test_bounds_are_those_of_a_pooled_t_test() -> None:
    chance = np.random.default_rng(0)
    scores = {
        key: chance.normal(mean, 0.1, n).tolist() for key, mean, n in (("a", 0.5, 4), ("b", 0.6, 3), ("c", 0.7, 1))
    }
    residuals = np.concatenate([np.array(scores[key]) - np.mean(scores[key]) for key in "ab"])
    deviation = np.sqrt((residuals**2).sum() / 5)
    found = lower_bounds(scores)
    for key, some in scores.items():
        wanted = stats.t.interval(0.8, 5, loc=np.mean(some), scale=deviation / np.sqrt(len(some)))[0]
        assert found[key] == pytest.approx(wanted)
    assert lower_bounds({"a": [0.5]}) == {"a": -np.inf}


def test_bounds_hold_as_often_as_they_say() -> None:
    chance = np.random.default_rng(1)
    held = [lower_bounds({k: chance.normal(0.5, 0.2, 3).tolist() for k in range(4)})[0] <= 0.5 for _ in range(2000)]
    assert 0.88 < np.mean(held) < 0.92
