"""Several sweeps on one scale: hypervolume, domination and attainment against their definitions, and what is said of
everything that is not the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from synthetic import BASE, SPEC, baseline, evaluation, oracle, sweep, write_folder

from rayul.errors import InputError
from rayul.pareto.attainment import attainment, outline
from rayul.records import Evaluation
from rayul.report.compare import Comparison, load_comparison
from rayul.report.compare_text import comparison_lines, headline, merged_front, sentences
from rayul.report.leads import holm, margin_over_groups
from rayul.report.settings import settings_of
from rayul.spec import parse_spec


def spec(name: str, seed: int = 0, **changes: str) -> str:
    text = SPEC.replace("name: synthetic", f"name: {name}").replace(
        "trials: 64, seed: 0}", f"trials: 64, seed: {seed}}}"
    )
    for before, after in changes.values():
        assert before in text
        text = text.replace(before, after)
    return text


def points(*pairs: tuple[float, float], base: Evaluation | None = None) -> list[Evaluation]:
    """A sweep whose front is these (forget.es, retain.es), a trial each."""
    return [base or baseline(), oracle(), *(evaluation(f"{i:04d}", 5, f, r) for i, (f, r) in enumerate(pairs))]


def comparison(folder: Path, **sweeps: tuple[list[Evaluation], str]) -> Comparison:
    return load_comparison([write_folder(folder / name, rows, text) for name, (rows, text) in sweeps.items()])


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    place = tmp_path_factory.mktemp("compare")
    return comparison(
        place,
        **{f"ga-{i}": (sweep(30, seed=i), spec(f"ga-{i}", i)) for i in range(3)},
        npo=(sweep(40, seed=7), spec("npo", method=("choice: [ga, gd]", "choice: [gd, npo]"))),
    )


def dominated_area(corners: list[tuple[float, float]]) -> float:
    """Area below a staircase by summing its columns."""
    area, left = 0.0, 0.0
    for x in sorted({x for x, _ in corners}):
        area += (x - left) * max(y for px, y in corners if px >= x)
        left = x
    return area


def test_hypervolume_is_on_the_first_baseline_and_the_tighter_limit(tmp_path: Path) -> None:
    half = baseline(BASE | {"forget.es": 0.49})
    c = comparison(
        tmp_path,
        a=(points((0.3, 0.95), (0.2, 0.90)), spec("a")),
        b=(points((0.1, 0.88), (0.25, 0.94), base=half), spec("b", limit=("90% of", "95% of"))),
    )
    limit = 0.95
    for entry, kept in zip(c.entries, ([(0.3, 0.95)], [(0.25, 0.94)]), strict=True):
        corners = [(1 - f / BASE["forget.es"], (r / BASE["retain.es"] - limit) / (1 - limit)) for f, r in kept]
        assert entry.hypervolume == pytest.approx(dominated_area(corners))
        assert [(e.metrics["forget.es"], e.metrics["retain.es"]) for e in entry.front] == kept
    said = " ".join(c.notes)
    assert "limits on retain.es differ" in said
    assert "held to retain.es ≥ 0.912" in said
    assert "baselines differ in forget.es (a: 0.98, b: 0.49)" in said
    assert "measured by that of a" in said


def test_what_is_the_same_everywhere_is_not_noted(tmp_path: Path) -> None:
    c = comparison(tmp_path, a=(sweep(20), spec("a")), b=(sweep(20, seed=1), spec("b")))
    assert c.notes == []
    assert [key for key, _ in c.settings] == []


def test_different_rows_and_budgets_are_noted(tmp_path: Path) -> None:
    other = replace(baseline(), rows={"forget": 20, "retain": 120})
    c = comparison(
        tmp_path, a=(points((0.3, 0.95)), spec("a")), b=(points((0.3, 0.95), (0.2, 0.9), base=other), spec("b"))
    )
    assert any("different rows (a: 80 forget, 120 retain, b: 20 forget" in note for note in c.notes)
    assert any("a: 1 trial, b: 2 trials" in note for note in c.notes)


def test_objectives_that_not_all_have_are_left_out(tmp_path: Path) -> None:
    three = ("retain.es: maximize}", "retain.es: maximize, general.es: maximize}")
    c = comparison(tmp_path, a=(sweep(4), spec("a", objectives=three)), b=(sweep(4), spec("b")))
    assert list(c.objectives) == ["forget.es", "retain.es"]
    assert any("not by general.es" in note for note in c.notes)

    prob = ("{forget.es: minimize, retain.es: maximize}", "{forget.prob: minimize, retain.prob: maximize}")
    with pytest.raises(InputError, match=r"no objective in common: a: minimize forget\.es"):
        comparison(tmp_path / "x", a=(sweep(4), spec("a")), b=(sweep(4), spec("b", objectives=prob)))


def test_an_unmeasured_limit_is_noted(tmp_path: Path) -> None:
    extra = ("  - {metric: retain.es", "  - {metric: general.es, at_least: 0.5}\n  - {metric: retain.es")
    c = comparison(tmp_path, a=(sweep(4), spec("a", extra=extra)), b=(points((0.3, 0.95)), spec("b")))
    assert any(note.startswith("b did not measure general.es") for note in c.notes)
    assert len(c.entries[1].front) == 1


def test_one_sweep_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one sweep"):
        comparison(tmp_path, a=(sweep(4), spec("a")))


def test_non_dominated_points_and_coverage_are_those_of_the_definition(seeds: Comparison) -> None:
    fronts = [[(e.metrics["forget.es"], e.metrics["retain.es"]) for e in entry.front] for entry in seeds.entries]

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and a[1] >= b[1]

    for i, ours in enumerate(fronts):
        ahead = {p for p in ours if not any(beats(q, p) for j, theirs in enumerate(fronts) if j != i for q in theirs)}
        entry = seeds.entries[i]
        assert {
            (e.metrics["forget.es"], e.metrics["retain.es"]) for e in entry.front if e.key in entry.non_dominated
        } == ahead
        for j, theirs in enumerate(fronts):
            share = sum(any(beats(p, q) for p in ours) for q in theirs) / len(theirs)
            assert seeds.coverage[i, j] == pytest.approx(share)


def test_who_is_ahead_at_which_forgetting(seeds: Comparison) -> None:
    assert seeds.levels
    for level in seeds.levels:
        for entry, kept in zip(seeds.entries, level.kept, strict=True):
            inside = [
                e.metrics["retain.es"] / BASE["retain.es"]
                for e in entry.front
                if 1 - e.metrics["forget.es"] / BASE["forget.es"] >= level.forgotten
            ]
            assert (math.isnan(kept) and not inside) or kept == pytest.approx(max(inside))
        assert level.kept[level.winner] == np.nanmax(level.kept)


def grouped(forget: float, retain: Sequence[float], trial: str = "0000", rows: int = 5) -> list[Evaluation]:
    """A sweep of one point whose retain.es is known by group."""
    sums = tuple(rows * share for share in retain)
    e = evaluation(trial, 5, forget, float(np.mean(retain)))
    known = {"group_sums": {"retain.es": sums}, "group_rows": {"retain": (rows,) * len(sums)}}
    return [baseline(), oracle(), replace(e, groups={"retain": len(sums)}, **known)]


@pytest.mark.parametrize(("lead", "clear"), [(0.03, True), (0.0, False)])
def test_a_lead_is_clear_where_its_t_interval_over_groups_is_above_zero(
    tmp_path: Path, lead: float, clear: bool
) -> None:
    """Groups differ much more from each other than the two sweeps do on any of them, so only pairing shows it."""
    draw = np.random.default_rng(3)
    theirs = 0.94 + draw.normal(0, 0.05, 20)
    ours = theirs + lead + draw.normal(0, 0.02, 20)
    ours += 0.001 - min(0.0, float((ours - theirs).mean()))  # ahead, by however little
    c = comparison(tmp_path, a=(grouped(0.3, ours), spec("a")), b=(grouped(0.3, theirs), spec("b")))
    level = c.levels[0]
    assert (level.winner, level.clear) == (0, clear)
    paired = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert clear == (paired.low > 0)
    assert c.axes is not None
    y = c.axes[1]
    (first,), (second,) = (e.front for e in c.entries)
    assert margin_over_groups(y, first, second) == pytest.approx((paired.high - paired.low) / 2 / BASE["retain.es"])
    alone = [
        replace(e, group_sums={}, stderr={"retain.es": float(stats.sem(v))})
        for e, v in ((first, ours), (second, theirs))
    ]
    welch = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert margin_over_groups(y, *alone) == pytest.approx((welch.high - welch.low) / 2 / BASE["retain.es"])
    assert math.isnan(margin_over_groups(y, *(replace(e, stderr={}) for e in alone)))


def recipes_of(folder: Path, seeds: dict[str, int], step: int = 1000) -> Comparison:
    """Sweeps of each method (gd, npo, undial, ...) with that many seeds, `step` apart."""
    folders = {}
    for number, (method, count) in enumerate(seeds.items()):
        for i in range(count):
            text = spec(f"{method}-{step * i}", step * i, m=("name: {choice: [ga, gd]}", f"name: {method}"))
            folders[f"{method}-{step * i}"] = (sweep(12, seed=50 * number + i), text)
    return comparison(folder, **folders)


def test_recipes_with_seeds_are_compared_over_them(tmp_path: Path) -> None:
    c = recipes_of(tmp_path, {"gd": 3, "npo": 4})
    assert [(one.label, one.sweeps) for one in c.recipes] == [("gd", (0, 1, 2)), ("npo", (3, 4, 5, 6))]
    volumes = [e.hypervolume for e in c.entries]
    welch = stats.ttest_ind(volumes[:3], volumes[3:], equal_var=False)
    interval = welch.confidence_interval(0.95)
    (lead,) = c.pairs
    assert lead == c.over_seeds
    assert abs(lead.difference) == pytest.approx(abs(np.mean(volumes[:3]) - np.mean(volumes[3:])))
    assert lead.margin == pytest.approx((interval.high - interval.low) / 2)
    assert lead.p == lead.corrected == pytest.approx(welch.pvalue)
    assert lead.clear == (abs(lead.difference) > lead.margin)
    said = " ".join(sentences(c))
    assert f"by {lead.difference:.3f} ± {lead.margin:.3f} (95% t interval over seeds)" in said
    assert "is one seed" not in said
    assert lead.second.label in headline(c)


def test_two_seeds_have_no_interval_and_it_says_so(tmp_path: Path) -> None:
    c = recipes_of(tmp_path, {"gd": 2, "npo": 3})
    (lead,) = c.pairs
    assert (math.isnan(lead.margin), lead.clear) == (True, False)
    said = " ".join([headline(c), *sentences(c)])
    assert "too few seeds to tell" in headline(c)
    assert "are too few to say whether that is more than seeds differ" in said
    assert "takes three of each. Run five." in said
    assert "±" not in said
    assert "gd-0, gd-1000 are 2 seeds of one recipe" in said
    assert "median" not in said.split("are 2 seeds")[1].split(". ")[0], "half of two is no middle"


def test_each_pair_of_three_recipes_is_tested_with_holms_correction(tmp_path: Path) -> None:
    c = recipes_of(tmp_path, {"gd": 3, "npo": 4, "undial": 3, "simnpo": 1})
    volumes = {one.label: [c.entries[i].hypervolume for i in one.sweeps] for one in c.recipes}
    means = {label: np.mean(values) for label, values in volumes.items() if len(values) > 1}
    order = sorted(means, key=lambda label: -means[label])
    assert [(one.first.label, one.second.label) for one in c.pairs] == [
        (order[0], order[1]),
        (order[0], order[2]),
        (order[1], order[2]),
    ]
    for one in c.pairs:
        pair = volumes[one.first.label], volumes[one.second.label]
        assert one.p == pytest.approx(stats.ttest_ind(*pair, equal_var=False).pvalue)
    # Step down: the smallest p against alpha / 3, the next against alpha / 2, the last against alpha, until one fails.
    rejected, going = set(), True
    for rank, one in enumerate(sorted(c.pairs, key=lambda one: one.p)):
        going = going and one.p < 0.05 / (3 - rank)
        rejected |= {one} if going else set()
    assert {one for one in c.pairs if one.clear} == rejected
    lines = comparison_lines(c)
    start = next(i for i, line in enumerate(lines) if "Holm's correction for all pairs" in line)
    assert [line.split()[:2] for line in lines[start + 2 : start + 5]] == [
        [a.first.label, a.second.label] for a in c.pairs
    ]
    assert "after Holm's correction for 3 pairs" in " ".join(sentences(c))


def test_holm_is_that_of_the_published_example() -> None:
    """p.adjust(c(.01, .04, .03, .005), "holm") of R; a test that was not made is none of those corrected for."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, math.nan, 0.04]) == pytest.approx([0.02, math.nan, 0.04], nan_ok=True)


def test_a_lead_is_over_the_best_of_another_recipe(tmp_path: Path) -> None:
    """The two best are seeds of one recipe, and far enough ahead of the third."""
    other = ("name: {choice: [ga, gd]}", "name: npo")
    known = {
        "a-0": (grouped(0.3, [0.99] * 20), spec("a-0")),
        "a-1": (grouped(0.3, [0.985] * 20), spec("a-1", 1000)),
        "b": (grouped(0.3, list(np.linspace(0.9, 0.92, 20))), spec("b", m=other)),
    }
    c = comparison(tmp_path / "three", **known)
    assert [(level.winner, level.clear, level.is_reached_by_one) for level in c.levels] == [(0, True, False)] * len(
        c.levels
    )
    assert "a-0 has the best overall trade-off of these runs" in headline(c)
    assert headline(c).endswith("for b.")
    far = known | {"b": (grouped(0.9, [0.99] * 20), spec("b", m=other))}
    c = comparison(tmp_path / "far", **far)
    assert (c.levels[-1].winner, c.levels[-1].is_reached_by_one) == (0, True), "two seeds get there, of one recipe"
    assert any("only a-0 gets there" in line for line in sentences(c))


def test_seeds_of_one_recipe_are_not_compared(tmp_path: Path) -> None:
    c = recipes_of(tmp_path, {"gd": 3})
    assert {level.winner for level in c.levels} == {None}
    assert not any(level.clear for level in c.levels)
    assert headline(c).startswith("3 seeds of one recipe: hypervolume ")
    assert sentences(c)[0].startswith("These are seeds of one recipe, so nothing is compared")
    lines = comparison_lines(c)
    assert not [line for line in lines if "is ahead" in line or "keeps most" in line]
    assert "no marks: these are seeds of one recipe" in lines


def test_what_a_comparison_owes_to_chance_is_noted(tmp_path: Path) -> None:
    close = recipes_of(tmp_path / "close", {"gd": 3, "npo": 2}, step=1)
    (note,) = [note for note in close.notes if "share training seeds" in note]
    assert "(gd-0, gd-1, gd-2; npo-0, npo-1)" in note
    assert "0, 1000, 2000" in note
    edge = recipes_of(tmp_path / "edge", {"gd": 2, "npo": 1}, step=64)
    assert edge.notes == [], "trials 0 to 63, and 64 to 127"
    few = comparison(
        tmp_path / "few",
        a=(sweep(10), spec("a")),
        b=(sweep(11), spec("b")),
        c=(sweep(10), spec("c", s=("sampler: tpe", "sampler: random"))),
    )
    (note,) = [note for note in few.notes if "at random" in note]
    assert note.startswith("All trials of a were drawn at random: tpe proposes settings only after 10 trials")


def test_a_comparison_of_one_seed_each_says_what_it_cannot_say(tmp_path: Path) -> None:
    c = comparison(tmp_path, a=(sweep(8), spec("a")), b=(sweep(8, seed=1), spec("b", m=("[ga, gd]", "[gd]"))))
    assert c.over_seeds is None
    assert any(line.startswith("Each sweep is one seed") for line in sentences(c))
    assert "of these runs" in headline(c)


def test_a_default_that_the_other_does_not_have_is_no_difference(tmp_path: Path) -> None:
    found = {}
    for value in ("0.8", "0.5"):
        text = spec(
            "b", m=("name: {choice: [ga, gd]}", f"name: {{choice: [ga, gd]}}, gradient: gru, gru_gamma: {value}")
        )
        c = comparison(tmp_path / value, a=(sweep(4), spec("a")), b=(sweep(4), text))
        found[value] = dict(c.settings)
    assert "method.gru_gamma" not in found["0.8"]
    assert found["0.5"]["method.gru_gamma"] == ["–", "0.5"]
    assert found["0.8"]["method.gradient"] == ["plain", "gru"]


def test_sweeps_of_one_name_are_told_apart_by_as_little_of_their_folders_as_does(tmp_path: Path) -> None:
    for place in ("one/ga", "two/ga"):
        write_folder(tmp_path / place, sweep(4), spec("ga"))
    assert [e.label for e in load_comparison([tmp_path / "one" / "ga", tmp_path / "two" / "ga"]).entries] == [
        "one/ga",
        "two/ga",
    ]


@pytest.mark.parametrize("count", [4, 5])
def test_attainment_is_how_many_runs_reach_a_place(count: int) -> None:
    draw = np.random.default_rng(0)
    runs = [draw.random((6, 2)) for _ in range(count)]
    runs = [r[[not ((r >= p).all(1) & (r > p).any(1)).any() for p in r]] for r in runs]
    found = attainment(runs)
    places = draw.random((500, 2))
    reached = sum((r[None] >= places[:, None]).all(2).any(1).astype(int) for r in runs)
    for name, needed in (("best", 1), ("median", {4: 2, 5: 3}[count]), ("worst", count)):
        inside = (found[name][None] >= places[:, None]).all(2).any(1) if len(found[name]) else np.zeros(500, bool)
        assert (inside == (reached >= needed)).all(), name
        assert (np.diff(found[name][:, 0]) > 0).all(), "left to right"


def test_a_run_that_found_nothing_leaves_no_worst() -> None:
    one = np.array([[0.5, 0.5]])
    found = attainment([one, np.empty((0, 2)), one])
    assert found["best"].tolist() == found["median"].tolist() == [[0.5, 0.5]]
    assert found["worst"].shape == (0, 2)
    assert len(attainment([np.empty((0, 2))] * 2)["best"]) == 0


def test_an_outline_goes_from_edge_to_edge() -> None:
    line = outline(np.array([[0.2, 0.9], [0.6, 0.4]]), 0.0, 0.1)
    assert line.tolist() == [[0.0, 0.9], [0.2, 0.9], [0.2, 0.4], [0.6, 0.4], [0.6, 0.1]]
    assert outline(np.empty((0, 2)), 0.0, 0.0).shape == (0, 2)


def test_seeds_of_one_search_are_found_and_their_spread_is_said(seeds: Comparison) -> None:
    assert seeds.seeds == [[0, 1, 2]]
    volumes = [seeds.entries[i].hypervolume for i in range(3)]
    said = " ".join(sentences(seeds))
    assert f"hypervolume {min(volumes):.3f} to {max(volumes):.3f}, median {sorted(volumes)[1]:.3f}" in said


def test_settings_that_differ(seeds: Comparison) -> None:
    assert dict(seeds.settings)["search.seed"] == ["0", "1", "2", "0"]
    assert dict(seeds.settings)["method.name"][3] == "{choice: [gd, npo]}"
    assert "training.lr" not in dict(seeds.settings)
    settings = settings_of(parse_spec(SPEC, check_files=False))
    assert settings["training.lr"] == "{float: [0.0001, 0.005], log: true}"
    assert settings["control.criteria.0.at_least"] == "90% of baseline"
    assert "name" not in settings


def test_the_lines_have_the_numbers(seeds: Comparison) -> None:
    lines = comparison_lines(seeds)
    table = [line.split() for line in lines[lines.index("") :]]
    for entry in seeds.entries:
        row = next(row for row in table if row[:1] == [entry.label])
        assert row[1] == str(len(entry.results.trials))
        assert row[4:6] == [str(len(entry.front)), str(len(entry.non_dominated))]
        assert row[7] == f"{entry.hypervolume:.4f}"
    order = [gone for *_, gone, _ in merged_front(seeds)]
    assert order == sorted(order, reverse=True)


def test_nothing_found_and_equal_names(tmp_path: Path) -> None:
    c = comparison(tmp_path, a=([baseline()], spec("same")), b=(points((0.3, 0.95)), spec("same")))
    assert [e.label for e in c.entries] == ["a", "b"]
    assert math.isnan(c.entries[0].best)
    assert c.entries[0].hypervolume == 0
    assert np.isnan(c.coverage[1, 0])
    assert comparison_lines(c)
    empty = comparison(tmp_path / "x", a=([baseline()], spec("a")), b=([baseline()], spec("b")))
    assert headline(empty) == "None of the sweeps has found a solution."
    assert comparison_lines(empty)


def test_one_objective_and_no_limit_is_compared_all_the_same(tmp_path: Path) -> None:
    changes = {
        "objectives": ("{forget.es: minimize, retain.es: maximize}", "{forget.es: minimize}"),
        "control": ("control:\n  - {metric: retain.es, at_least: 90% of baseline, patience: 1}\n", ""),
    }
    c = comparison(tmp_path, a=(sweep(4), spec("a", **changes)), b=(sweep(5, seed=3), spec("b", **changes)))
    assert c.axes is None
    assert all(len(e.front) == 1 for e in c.entries)
    assert "without any limit" in " ".join(sentences(c))


def test_a_folder_named_twice_is_refused_and_a_copy_is_no_second_seed(tmp_path: Path) -> None:
    first, second = (write_folder(tmp_path / name, sweep(12)) for name in ("one", "two"))
    with pytest.raises(InputError, match="named twice"):
        load_comparison([first, second, first / ".." / "one"])
    copied = load_comparison([first, second])
    assert copied.seeds == []
    assert {len(entry.non_dominated) for entry in copied.entries} == {len(copied.entries[0].front)}, (
        "neither is dominated"
    )
