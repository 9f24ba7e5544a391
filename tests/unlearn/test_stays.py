"""The benchmark of what stays forgotten: a cell of it against what `rayul certify` runs, and its tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from scipy.stats import ttest_rel

from rayul.records import Evaluation, adapter_folder
from rayul.records.certificate import Dial, Reading, RowsRead
from rayul.spec import Attack
from rayul.sweep.attack import attack_here
from rayul.sweep.dials import walk_dials
from rayul.sweep.driver_disk import DriverDisk
from rayul.unlearn.attacks.certified import tries
from rayul.unlearn.data import Row, load_sets
from rayul.unlearn.update.saved import save_scaled


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    for name in ("stays", "stays_tables", "stays_smollm2"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import stays
    import stays_tables

    return stays, stays_tables


def test_a_cell_is_certified_and_attacked_as_rayul_certify_does_it(
    benchmarks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stays, tables = benchmarks
    torch.set_num_threads(1)
    short = {"budget": 3, "every": 3, "rows": ["own"], "trains": ["lora"], "optimizers": ["adamw"]}
    wanted = Attack.model_validate({**short, "schedules": ["linear"], "lr": {"lora": [2e-3]}, "attacks": []})
    monkeypatch.setitem(stays.METHODS, "wga", 1.6e-2 / 3)
    subject = stays.TESTBED._replace(attacks=wanted, passes=32)
    cell = stays.Cell("wga", "plain")
    spec = subject.of(cell)
    assert (spec.training.steps, spec.training.lr) == (16, pytest.approx(1.6e-2))
    bench = stays.Bench(subject, 1, load_sets(spec.data))
    task, point = bench.task, Evaluation("0000", spec.training.steps)
    place = adapter_folder(tmp_path, point)
    found = bench.trained(cell, place)
    found |= bench.certified(place)

    scales = tuple(i / 10 for i in range(1, 11))
    read = RowsRead("retain_certify", 20, True, 100, "")
    reading = Reading("", 0.1, (read,), ("retain.es>=0.9*baseline",), dials=(Dial("0000", 16, 1.0, scales),))
    disk = DriverDisk(tmp_path, tmp_path, "", {})
    ((dial, _),) = walk_dials(spec, task.sets, disk, reading, [point], bench.baseline, task)
    assert dial.certified is not None
    assert 0 < found["scale"] == scales[dial.passed - 1]
    assert found["certified"].items() <= dial.certified.metrics.items()

    save_scaled(lambda: task.base, place, found["scale"], tmp_path / "certified")
    (one,) = (one for one in tries("0000", wanted) if one.cell is not None)
    ((row,),) = attack_here(1, spec, bench.sets, disk, {"0000": tmp_path / "certified"}, wanted, [one], None)
    (line,) = bench.attacked(tmp_path / "certified")
    assert (list(row.es), row.before, row.variant) == (list(line["es"]), line["before"], line["variant"])
    flat = tables.flat(
        {"draw": 1, **cell._asdict(), "lr": 0, "cpu": 0, "baseline": bench.baseline, **found, "attacks": [line]}
    )
    assert (flat["worst"], flat["own rows, LoRA"]) == (max(row.es), max(row.es))
    assert flat["returned"] == pytest.approx((max(row.es) - row.before) / (row.baseline - row.before))


def test_a_draw_judges_no_author_that_chose_a_rate_and_shares_none_between_its_sets(benchmarks: Any) -> None:
    stays, _ = benchmarks
    sets = load_sets(stays.TESTBED.of(stays.Cell("npo", "plain")).data)
    read = {row.group for name in ("forget", "retain") for row in sets[name]}
    drawn = [stays.drawn(sets, draw) for draw in (1, 2)]
    for one in drawn:
        authors = {name: {row.group for row in rows} for name, rows in one.items() if name != "general"}
        assert sum(map(len, authors.values())) == len(set.union(*authors.values()))
        assert not read & (authors["forget"] | authors["retain_certify"] | authors["retain_report"])
        assert (len(one["forget"]), len(authors["retain_certify"])) == (40, 20)
    for name in ("forget", "retain_certify"):
        assert {row.group for row in drawn[0][name]} != {row.group for row in drawn[1][name]}


def test_a_draw_of_the_pretrained_model_parts_all_authors_that_it_knows(benchmarks: Any) -> None:
    import stays_smollm2

    names = ("forget", "retain_train", "retain", "retain_certify", "retain_report")
    sets = {name: tuple(Row(f"{i}?", "a", group=f"{name} {i % 3}") for i in range(6)) for name in names}
    drawn = [stays_smollm2.drawn(sets, draw) for draw in (1, 2)]
    for one in drawn:
        authors = [{row.group for row in rows} for rows in one.values()]
        assert list(map(len, authors)) == [3, 3, 3, 3]
        assert len(set.union(*authors)) == 12
    assert {row.group for row in drawn[0]["forget"]} != {row.group for row in drawn[1]["forget"]}


def frame(worst: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    rows = [
        {"draw": draw, "method": method, "rule": rule, "worst": value, "returned": value / 2, "forget": 0.1}
        | {"searched": value, "relearned": 1 - value, "kept": 1.0}
        for (method, rule), values in worst.items()
        for draw, value in enumerate(values, 1)
    ]
    return pd.DataFrame(rows)


def test_the_best_cells_are_chosen_on_the_other_draws(benchmarks: Any) -> None:
    _, tables = benchmarks
    # gd with plain is lucky in the last draw, and is not chosen there.
    rows = frame(
        {
            ("npo", "plain"): [0.8, 0.8, 0.8],
            ("gd", "plain"): [0.9, 0.9, 0.1],
            ("npo", "sam"): [0.4, 0.5, 0.6],
            ("gd", "sam"): [0.7, 0.7, 0.7],
        }
    )
    found = tables.plain_and_robust(rows)
    assert found.theirs.method.tolist() == ["gd", "gd", "npo"]
    assert found.theirs.worst.tolist() == [0.9, 0.9, 0.8]
    assert found.ours.worst.tolist() == [0.4, 0.5, 0.6]
    assert found.ratio == pytest.approx(1.5 / 2.6)


def test_rules_are_paired_with_plain_by_draw(benchmarks: Any) -> None:
    _, tables = benchmarks
    sam, plain = [0.4, 0.5, 0.3, 0.45], [0.8, 0.7, 0.75, 0.6]
    rows = frame({("npo", "plain"): plain, ("npo", "sam"): sam})
    line = next(line for line in tables.against_plain(rows) if line.startswith("| npo | sam"))
    interval = ttest_rel(sam, plain).confidence_interval(0.95)
    middle, half = (interval.high + interval.low) / 2, (interval.high - interval.low) / 2
    assert f"| {middle:+.2f}* ± {half:.2f} |" in line


def test_only_whole_draws_that_all_losses_have_are_compared(benchmarks: Any) -> None:
    _, tables = benchmarks
    cells = {(loss, rule): [0.5] * 7 for loss in ("npo", "rmu") for rule in ("plain", "sam")}
    cells["rmu", "sam"] = cells["rmu", "sam"][:6]  # the run was ended in the seventh draw
    rows = tables.complete(frame(cells | {("gd", rule): [0.1] * 4 for rule in ("plain", "sam")}))
    assert rows.groupby("method").draw.nunique().to_dict() == {"npo": 7, "rmu": 6}
    assert sorted(tables.balanced(rows).draw.unique()) == [1, 2, 3, 4, 5, 6]


def test_a_search_by_relearned_es_takes_the_cell_that_it_ranks_first(benchmarks: Any) -> None:
    _, tables = benchmarks
    rows = frame({("npo", "plain"): [0.8, 0.2], ("npo", "sam"): [0.4, 0.5]})
    found = tables.searches(rows)
    assert found.theirs.rule.tolist() == ["sam", "plain"]  # the lowest forget.es
    assert found.ours.rule.tolist() == ["plain", "sam"]  # the lowest relearned.es, here 1 - worst
    assert tables.again(rows, found).ours.worst.tolist() == [0.2, 0.4]
