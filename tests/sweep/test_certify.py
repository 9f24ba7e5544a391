"""A reading of certify rows on a tiny model, without Ray: what passes, what is saved, and what it spends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from scipy import stats

from rayul.errors import InputError, RayulError
from rayul.files import json_line
from rayul.pareto.front import front_of
from rayul.progress import ProgressBar
from rayul.records import BASELINE, SPEC, Evaluation, Journal, adapter_folder, adapter_name
from rayul.records.attacked import FINE_TUNE, INTERPOLATE
from rayul.records.certificate import (
    CERTIFICATE,
    Certificates,
    Dial,
    Reading,
    RowsRead,
    certified_folder,
    read_certificates,
)
from rayul.records.folder import load_records
from rayul.records.manifest import Manifest, write_manifest
from rayul.records.recall import Found
from rayul.report.answer import answer
from rayul.report.attacked import attacked_lines, untried
from rayul.report.certified import best_certified, certified, sentence
from rayul.report.write import summarise
from rayul.spec import Attack, Certify, Spec, dump_yaml, known_limits
from rayul.spec.probes import ProbeSplit
from rayul.sweep.certify import alpha_of, cannot_certify, certify_at_end, certify_sweep, chosen, read_certify_rows
from rayul.sweep.dial_tests import DialTests, DialWalk
from rayul.sweep.dials import walk_dials, walk_together
from rayul.sweep.driver_disk import DriverDisk
from rayul.sweep.export import export
from rayul.sweep.folder import checked_rows
from rayul.sweep.repair import repair
from rayul.sweep.run import run_sweep
from rayul.unlearn.data import FILES, load_sets, write_rows
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.export import measure_reported
from rayul.unlearn.job import TrialJob
from rayul.unlearn.task import Task, load_task
from rayul.unlearn.trial import reference_evaluation, run_trial
from rayul.unlearn.update.saved import loaded, scalable
from tests.conftest import rows_of, small_sets

STEPS = 6
SILENT = ProgressBar(Console(quiet=True))
GROUPS = tuple(f"Author {first}{last}" for first in "ABCD" for last in "xyz")
SCALES = tuple(i / 20 for i in range(1, 21))
LIMIT = {"metric": "retain.prob", "at_least": "90% of baseline"}


def written(certificates: Certificates) -> str:
    """A standard error over a single group is NaN, and equals nothing."""
    return json_line(asdict(certificates))


class Here:
    """A `Measurer` in this process."""

    def __init__(self, spec: Spec, task: Task, folder: Path) -> None:
        self.spec, self.task, self.disk = spec, task, DriverDisk(folder, folder, "", {})
        self.read = 0

    def walk(self, reading: Reading, points: Sequence[Evaluation], baseline: Mapping[str, float]) -> tuple[Found, ...]:
        self.read += 1
        assert read_certificates(self.disk.folder).begun == reading, "the reading is on disk before its rows are read"
        return walk_dials(self.spec, self.task.sets, self.disk, reading, points, baseline, self.task)


class Sweep:
    """A results folder with one trial of gradient ascent, every evaluation of which is on the front."""

    def __init__(self, folder: Path, spec: Spec) -> None:
        self.spec, self.folder = spec, folder
        self.sets = load_sets(spec.data, spec.probes)
        self.task = load_task(spec, self.sets)
        self.rows = checked_rows(self.sets, Manifest())
        write_manifest(folder, Manifest(data=self.rows))
        (folder / SPEC).write_text(dump_yaml(spec.resolved()))
        journal = Journal(folder / "evaluations.jsonl")
        baseline = reference_evaluation(self.task, spec, BASELINE)
        journal.append(baseline)
        for snapshot in run_trial(self.task, TrialJob("0000", spec, 0, {}, baseline.metrics)):
            for e in snapshot.evaluations:
                journal.append(replace(e, feasible=True))
                if e.step and snapshot.update is not None:
                    snapshot.update.save(e.mixing, adapter_folder(folder, e))
        self.measurer = Here(spec, self.task, folder)
        self.said: list[str] = []

    def certify(self, wanted: Certify | None = None, measurer: Any = None) -> Reading:
        results = load_records(self.folder)
        where = measurer or self.measurer
        asked = wanted or Certify()
        return read_certify_rows(self.spec, self.sets, self.rows, results, asked, where, self.said.append, SILENT)

    def at_end(self) -> None:
        results = load_records(self.folder)
        certify_at_end(self.spec, self.sets, self.rows, results, self.measurer, self.said.append, SILENT)

    def kept(self, model: Any) -> Any:
        """retain_certify.prob of each author, each measured as a set of its own."""
        found = []
        for name in GROUPS:
            own = tuple(row for row in self.sets["retain_certify"] if row.group == name)
            task = Task(self.task.base, self.task.tokenizer, self.sets | {"retain_certify": own}, None, None, {})
            found.append(evaluate(model, task, ["prob"], 8, ["retain_certify"]).values["retain_certify.prob"])
        return np.array(found)


@pytest.fixture
def made(make_spec: Callable[..., Any], tmp_path: Path) -> Callable[..., Sweep]:
    def make(without: tuple[str, ...] = (), **sections: Any) -> Sweep:
        defaults: dict[str, Any] = {
            "training": {"lr": 2e-2, "steps": STEPS, "evaluate_every": 3},
            "control": {"criteria": [LIMIT]},
            "objectives": {"forget.prob": "minimize", "retain.prob": "maximize"},
            "evaluate": {"metrics": ["es", "prob"]},
            "certify": True,
        }
        folder, data = tmp_path / "sweep", tmp_path / "data"
        for place in (folder, data):
            place.mkdir()
        for key, rows in (small_sets() | {"retain_certify": tuple(rows_of(GROUPS))}).items():
            if key not in without:
                write_rows(data / FILES[key], rows)
        return Sweep(folder, make_spec(**(defaults | sections | {"data": {"folder": str(data)}})))

    return make


def test_a_dial_is_certified_up_to_the_last_coefficient_that_passes_a_t_test(made: Callable[..., Sweep]) -> None:
    sweep = made()
    reading = sweep.certify()
    before = sweep.kept(sweep.task.base)
    assert reading.groups == len(GROUPS)
    assert any(0 < dial.passed < len(dial.scales) for dial in reading.dials)
    for dial in reading.dials:
        point = dial_source(load_records(sweep.folder), dial)
        with scalable(sweep.task.base, adapter_folder(sweep.folder, point)) as at:
            for place, one in enumerate(dial.walked):
                with at(one.scale) as model:
                    d = sweep.kept(model) - 0.9 * before
                expected = stats.ttest_1samp(d, 0, alternative="greater")
                assert one.p_value == pytest.approx(expected.pvalue, rel=1e-4, abs=1e-12)
                assert (one.p_value <= 0.1 / len(reading.dials)) is (place < dial.passed)
                (margin,) = one.margins
                assert margin.kept == pytest.approx(0.9 + d.mean() / before.mean())
                low = expected.confidence_interval(1 - 0.1 / len(reading.dials)).low
                assert margin.low == pytest.approx(0.9 + low / before.mean(), rel=1e-4)


def test_of_several_targets_each_has_a_dial_that_is_tested_against_its_own_limit(made: Callable[..., Sweep]) -> None:
    sweep = made(control={"tau": [0.6, 0.9], "mixing": True})
    reading = sweep.certify()
    results = load_records(sweep.folder)
    assert [dial.target for dial in reading.dials] == [0.9, 0.6]
    assert reading.level == pytest.approx(0.1 / 2), "the confidence is shared"
    assert reading.limits == ("retain.prob ≥ 90% of baseline", "retain.prob ≥ 60% of baseline")
    before, base = sweep.kept(sweep.task.base), results.baseline.metrics
    for dial in reading.dials:
        assert dial.target is not None
        within = [e for e in front_of(results) if e.metrics["retain.prob"] >= dial.target * base["retain.prob"]]
        assert dial.source == min(within, key=lambda e: e.metrics["forget.prob"]).key
        with scalable(sweep.task.base, adapter_folder(sweep.folder, dial_source(results, dial))) as at:
            for place, one in enumerate(dial.walked):
                with at(one.scale) as model:
                    d = sweep.kept(model) - dial.target * before
                assert one.p_value == pytest.approx(
                    stats.ttest_1samp(d, 0, alternative="greater").pvalue, rel=1e-4, abs=1e-12
                )
                assert (one.p_value <= 0.05) is (place < dial.passed)
        if dial.certified is not None:
            assert set(dial.certified.violation) == {"retain.prob"}
            kept = dial.certified.metrics["retain.prob"] / base["retain.prob"]
            assert dial.certified.feasible is (kept >= dial.target)
    strict, loose = (dial.certified for dial in reading.dials)
    assert strict is not None
    assert loose is not None
    assert strict.mixing < loose.mixing
    said = " ".join(summarise(sweep.folder).certified)
    assert "keeps at least 60% of retain.prob" in said
    assert "keeps at least 90% of retain.prob" in said
    sweep.at_end()
    assert sweep.measurer.read == 1, "each target has been read for"


def dial_source(results: Any, dial: Dial) -> Evaluation:
    return next(e for e in results.evaluations if e.key == dial.source)


@pytest.mark.parametrize(("update", "lr"), [("lora", 2e-2), ("full", 2e-3)])
def test_the_certified_model_is_saved_with_its_scale_and_scores_as_its_record(
    made: Callable[..., Sweep], update: str, lr: float
) -> None:
    sweep = made(update=update, training={"lr": lr, "steps": STEPS, "evaluate_every": 3})
    certified = [dial for dial in sweep.certify().dials if dial.certified is not None]
    assert certified
    for dial in certified:
        e = dial.certified
        assert e is not None
        assert e.mixing == pytest.approx(dial.mixing * dial.scales[dial.passed - 1])
        with loaded(sweep.task.base, certified_folder(sweep.folder, e)) as model:
            found = measure_reported(sweep.task, sweep.spec, model)
        assert {key: m.value for key, m in found.items()} == pytest.approx(e.metrics, abs=1e-5)


def test_the_records_read_back_what_was_found(made: Callable[..., Sweep]) -> None:
    sweep = made()
    reading = sweep.certify()
    assert written(read_certificates(sweep.folder)) == written(Certificates((reading,)))
    assert reading.read[0].sha256 == sweep.rows["retain_certify"].sha256
    path = sweep.folder / "certificate.json"
    path.write_text(path.read_text().replace('"passed": ', '"passed": 99'))
    with pytest.raises(RayulError, match=r"certificate\.json is not as rayul writes it"):
        load_records(sweep.folder)


FEW = Attack(budget=2, every=1, trains=("lora",), optimizers=("adamw",), schedules=("linear",), attacks=("noise",))


def test_reading_again_is_refused_or_paid_with_half_of_alpha(made: Callable[..., Sweep]) -> None:
    sweep = made(certify={"attack": False})
    first = sweep.certify()
    said = StringIO()
    again = certify_sweep(sweep.folder, console=Console(file=said, width=200))
    assert "nothing is left to do: the certify rows were read on" in said.getvalue()
    assert read_certificates(sweep.folder).readings == (first,), "nothing was read"
    assert again.certified
    second, third = sweep.certify(), sweep.certify()
    assert [r.alpha for r in (first, second, third)] == pytest.approx([0.1, 0.05, 0.025])
    assert [d.passed for d in second.dials] <= [d.passed for d in first.dials]
    assert alpha_of(Certify(), read_certificates(sweep.folder)) == pytest.approx(0.0125)


def test_what_is_certified_is_attacked_once_and_lost_lines_are_tried_again(made: Callable[..., Sweep]) -> None:
    sweep = made()
    sweep.certify()
    certify_sweep(sweep.folder, attack=FEW)
    results = load_records(sweep.folder)
    best = certified(results)[0]
    assert {row.model for row in results.attacked} == {adapter_name(best.e)}
    assert sum(row.attack == FINE_TUNE for row in results.attacked) == 3 * 3
    assert {row.attack for row in results.attacked} == {FINE_TUNE, INTERPOLATE, "noise"}
    assert "The certified weights under attack" in (sweep.folder / "report.html").read_text()
    assert any("The worst attack on" in line for line in attacked_lines(results))
    said = StringIO()
    certify_sweep(sweep.folder, attack=FEW, console=Console(file=said, width=200))
    assert "and every attack was tried" in said.getvalue()
    assert load_records(sweep.folder).attacked == results.attacked

    path = sweep.folder / "certified" / "attacks.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0].replace(b"own rows", b"odd rows"), *lines[1:]]))
    with pytest.raises(RayulError, match="checksum"):
        load_records(sweep.folder)
    assert repair(sweep.folder, lambda line: None)
    certify_sweep(sweep.folder, attack=FEW)
    again = load_records(sweep.folder)
    assert {row.key: row.es for row in again.attacked} == {row.key: row.es for row in results.attacked}


def test_what_cannot_be_tried_is_said_once(made: Callable[..., Sweep]) -> None:
    sweep, said = made(without=("general",)), StringIO()
    sweep.certify()
    certify_sweep(sweep.folder, attack=FEW, console=Console(file=said, width=200))
    cells = [row for row in load_records(sweep.folder).attacked if row.reason]
    assert len(cells) == 3, "a line of the record for each learning rate"
    told = "fine-tuning on unrelated text: there are no general rows to train on"
    lines = [line for line in said.getvalue().splitlines() if "rows to train on" in line]
    assert [line.partition("not tried: ")[2] for line in lines] == [told]
    assert (sweep.folder / "report.html").read_text().count(f"Not tried: {told}.") == 1
    some = [replace(cells[0], variant=f"unrelated rows, {i}", reason="out of memory" if i else "") for i in range(3)]
    assert untried(some) == ["fine-tuning on unrelated text: out of memory (2 of 3 variants)"]


def test_a_reading_that_was_cut_off_is_on_record_and_goes_on_with_its_dials(made: Callable[..., Sweep]) -> None:
    sweep = made()

    class Lost(Here):
        def walk(self, *arguments: Any) -> Any:
            raise RayulError("the device was lost")

    with pytest.raises(RayulError, match="the device was lost"):
        sweep.certify(measurer=Lost(sweep.spec, sweep.task, sweep.folder))
    begun = read_certificates(sweep.folder).begun
    assert begun is not None
    reading = sweep.certify(Certify(points=1))
    assert reading.alpha == begun.alpha == pytest.approx(0.1)
    assert [d.scales for d in reading.dials] == [d.scales for d in begun.dials]
    assert written(read_certificates(sweep.folder)) == written(Certificates((reading,)))


def test_a_resumed_sweep_reads_again_only_for_points_that_it_has_not_read(made: Callable[..., Sweep]) -> None:
    sweep = made()
    sweep.at_end()
    sweep.at_end()
    assert sweep.measurer.read == 1
    results = load_records(sweep.folder)
    best, _ = chosen(results, Certify())[0]
    new = replace(best, trial_id="0001", metrics=best.metrics | {"forget.prob": best.metrics["forget.prob"] / 2})
    Journal(sweep.folder / "evaluations.jsonl").append(new)
    shutil.copytree(adapter_folder(sweep.folder, best), adapter_folder(sweep.folder, new))
    sweep.at_end()
    assert sweep.measurer.read == 2
    assert any("read again" in line and "0.05" in line for line in sweep.said)


def test_what_cannot_be_certified_is_named(made: Callable[..., Sweep]) -> None:
    sweep = made()
    results = load_records(sweep.folder)

    def why(spec: Spec = sweep.spec, **sets: Any) -> str:
        return (cannot_certify(spec, sweep.sets | sets, results) or ("",))[0]

    assert why() == ""
    assert "no certify rows" in why(retain_certify=())
    assert "4 groups of certify rows, and a certificate takes 5" in why(retain_certify=tuple(rows_of(GROUPS[:4])))
    bare = sweep.spec.model_copy(update={"control": sweep.spec.control.model_copy(update={"criteria": ()})})
    assert "no limit on rows to keep" in why(bare)


def test_a_sweep_refuses_too_few_groups_before_it_begins(make_spec: Callable[..., Any], tmp_path: Path) -> None:
    data, results = tmp_path / "data", tmp_path / "results" / "tiny"
    data.mkdir()
    for key, rows in (small_sets() | {"retain_certify": tuple(rows_of(GROUPS[:4]))}).items():
        write_rows(data / FILES[key], rows)
    spec = make_spec(data={"folder": str(data)}, control={"criteria": [LIMIT]}, certify=True)
    with pytest.raises(InputError, match="4 groups of certify rows, and a certificate takes 5") as caught:
        run_sweep(spec, results)
    assert "certify: false" in caught.value.hint
    assert not results.exists()


def test_without_a_certified_point_the_way_out_is_one_that_is_open(made: Callable[..., Sweep]) -> None:
    sweep = made(control={"criteria": [LIMIT | {"at_least": "99.99% of baseline"}]})
    with pytest.raises(InputError, match="have not been read") as caught:
        best_certified(load_records(sweep.folder))
    assert "rayul certify" in caught.value.hint
    assert not sweep.certify().certified
    with pytest.raises(InputError, match="Even at scale") as caught:
        best_certified(load_records(sweep.folder))
    assert "--knee" in caught.value.hint
    said = answer(load_records(sweep.folder), summarise(sweep.folder))
    assert said[0] == "Nothing is certified."
    assert any("The search's own best on the select rows" in line for line in said)


def test_a_limit_on_other_rows_stops_the_walk_where_they_break_it(made: Callable[..., Sweep]) -> None:
    other = {"metric": "general.prob", "at_least": "99.9% of baseline"}
    sweep = made(control={"criteria": [LIMIT, other]})
    reading = sweep.certify()
    assert reading.others == ("general.prob ≥ 99.9% of baseline",)
    base = load_records(sweep.folder).baseline.metrics["general.prob"]
    for dial in reading.dials:
        if dial.certified is not None:
            assert dial.certified.metrics["general.prob"] >= 0.999 * base
    assert any(one.p_value == 1.0 for dial in reading.dials for one in dial.walked)


def test_the_certified_adapter_is_exported_with_its_certificate_on_the_card(
    made: Callable[..., Sweep], tmp_path: Path
) -> None:
    sweep = made()
    reading = sweep.certify()
    results = load_records(sweep.folder)
    e = best_certified(results)
    assert export(results, e, tmp_path / "out") <= 1e-3
    card = (tmp_path / "out" / "README.md").read_text()
    assert "keeps at least 90% of retain.prob on new groups (90% confidence, 12 groups: " in card
    for said in (
        reading.read[0].sha256,
        reading.date,
        "drawn alike",
        "retain.prob ≥ 90% of baseline",
        "says nothing about",
    ):
        assert said in card
    (margin,) = next(
        d.last.margins
        for d in reading.certified
        if d.certified is not None and d.certified.key == e.key and d.last is not None
    )
    assert f"{margin.kept:.1%}, at least {margin.low:.1%}" in card
    front = front_of(results)[0]
    export(results, front, tmp_path / "front")
    assert "## Certificate" not in (tmp_path / "front" / "README.md").read_text()


def ranks(sweep: Sweep) -> tuple[Reading, list[Evaluation]]:
    """Adapters of several ranks and alphas, saved, and a reading of theirs that has not been made."""
    points: list[Evaluation] = []
    baseline = load_records(sweep.folder).baseline.metrics
    for number, (r, alpha) in enumerate([(2, 8), (8, 32), (4, 4)]):
        spec = sweep.spec.model_copy(update={"lora": sweep.spec.lora.model_copy(update={"r": r, "alpha": alpha})})
        job = TrialJob(f"{number:04d}", spec, number, {}, baseline)
        for snapshot in run_trial(sweep.task, job):
            if snapshot.update is not None and (e := snapshot.evaluations[-1]).step == STEPS:
                snapshot.update.save(e.mixing, adapter_folder(sweep.folder, e))
                points.append(e)
    dials = tuple(Dial(e.trial_id, e.step, e.mixing, SCALES) for e in points)
    return Reading("", 0.1, (RowsRead("retain_certify", len(GROUPS), True, 36, ""),), (), dials=dials), points


OTHER = {"metric": "general.prob", "at_least": "97% of baseline"}


LOOSE = {"metric": "retain.prob", "at_least": "75% of baseline"}
"""A limit that e-values can pass."""

MERGED, SHARED = torch.float32, torch.float64
"""Adapters are merged into a float32 base, and share forwards of any other."""


@pytest.mark.parametrize(
    ("criteria", "batch", "dtype"),
    [
        pytest.param([LIMIT], 64, MERGED, id="a limit"),
        pytest.param([LOOSE], 7, MERGED, id="a limit that e-values can pass"),
        pytest.param([LIMIT, OTHER], 64, MERGED, id="a limit on other rows"),
        pytest.param([LOOSE], 7, SHARED, id="shared forwards of few rows"),
        pytest.param([LIMIT, OTHER], 2000, SHARED, id="shared forwards of many coefficients"),
    ],
)
def test_dials_walked_by_forwards_of_a_pack_are_those_walked_through_peft(
    made: Callable[..., Sweep], criteria: list[dict[str, str]], batch: int, dtype: torch.dtype
) -> None:
    evaluate = {"metrics": ["es", "prob", "ppl"], "batch_size": batch}
    sweep = made(control={"criteria": criteria}, evaluate=evaluate)
    reading, points = ranks(sweep)
    sweep.task.base.to(dtype)
    apart = sweep.spec.model_copy(update={"resources": sweep.spec.resources.model_copy(update={"packs": False})})
    before = load_records(sweep.folder).baseline.metrics
    together, alone = (
        [one for one, _ in walk_dials(spec, sweep.sets, sweep.measurer.disk, reading, points, before, sweep.task)]
        for spec in (sweep.spec, apart)
    )
    for one, other in zip(together, alone, strict=True):
        assert (one.passed, one.passed_free) == (other.passed, other.passed_free)
        assert [w.scale for w in one.walked] == [w.scale for w in other.walked]
        assert [w.p_value for w in one.walked] == pytest.approx([w.p_value for w in other.walked], abs=1e-6, rel=1e-5)
        for w, v in zip(one.walked, other.walked, strict=True):
            assert (w.e_value is None) is (v.e_value is None)
            assert w.e_value is None or w.e_value == pytest.approx(v.e_value, rel=1e-3)
        assert (one.certified is None) is (other.certified is None)
        assert one.certified is None or one.certified.metrics == pytest.approx(other.certified.metrics, rel=1e-4)
    assert any(one.passed < len(SCALES) for one in together) or "75%" in criteria[0]["at_least"]
    assert (together[0].walked[0].e_value is not None) is ("75%" in criteria[0]["at_least"])
    walks = [DialWalk(d, known_limits(sweep.spec.criteria), asked_of(sweep, reading, before)) for d in reading.dials]
    walk_together(sweep.task, walks, [adapter_folder(sweep.folder, e) for e in points], batch)
    assert all(walk.ended for walk in walks), "they were not walked together"


def test_devices_that_share_the_dials_of_a_reading_find_what_one_does(made: Callable[..., Sweep]) -> None:
    """Each at the level of the whole reading, which is the confidence divided by all of its dials."""
    sweep = made(control={"criteria": [LIMIT]})
    reading, points = ranks(sweep)
    assert len(points) > 2
    before = load_records(sweep.folder).baseline.metrics
    where = (sweep.spec, sweep.sets, sweep.measurer.disk, reading, points, before, sweep.task)
    whole = [one for one, _ in walk_dials(*where)]
    parts = [[one for one, _ in walk_dials(*where, part=slice(i, None, 2))] for i in range(2)]
    assert [len(part) for part in parts] == [len(points[::2]), len(points[1::2])]
    for i, one in enumerate(whole):
        other = parts[i % 2][i // 2]
        assert (one.source, one.passed) == (other.source, other.passed)
        assert [w.p_value for w in one.walked] == pytest.approx([w.p_value for w in other.walked], abs=1e-6, rel=1e-3)
    assert any(0 < one.passed < len(SCALES) for one in whole), "the level decides"


@pytest.mark.parametrize(("side", "keeps"), [({"at_most": 1.0}, True), ({"at_least": 1.0}, False)])
def test_a_limit_on_generated_answers_to_a_probe_is_checked_at_every_coefficient(
    made: Callable[..., Sweep], tmp_path: Path, side: dict[str, float], keeps: bool
) -> None:
    """Shared forwards have no answers, so the dials are walked one at a time. repetition is at most 1, and never 1."""
    write_rows(tmp_path / "probe.jsonl", rows_of(("Ivo Xal",)))
    probe = {"rows": str(tmp_path / "probe.jsonl"), "metrics": ["repetition"], "max_new_tokens": 8}
    criteria = [LIMIT, {"metric": "other.repetition", **side}]
    sweep = made(probes={"other": probe}, control={"criteria": criteria})
    reading, points = ranks(sweep)
    before = load_records(sweep.folder).baseline.metrics
    dials = [one for one, _ in walk_dials(sweep.spec, sweep.sets, sweep.measurer.disk, reading, points, before)]
    assert any(dial.passed for dial in dials) is keeps
    assert keeps or all([one.p_value for one in dial.walked] == [1.0] for dial in dials)
    assert all("other.repetition" in dial.certified.metrics for dial in dials if dial.certified is not None)


def asked_of(sweep: Sweep, reading: Reading, baseline: Mapping[str, float]) -> DialTests:
    limits = [known_limits(sweep.spec.criteria)] * len(reading.dials)
    return DialTests(sweep.task, sweep.spec, limits, reading.level, baseline)


def test_an_adapter_with_more_than_its_pairs_is_walked_alone(made: Callable[..., Sweep]) -> None:
    sweep = made()
    reading, points = ranks(sweep)
    before = load_records(sweep.folder).baseline.metrics
    place = adapter_folder(sweep.folder, points[1])
    config, weights = place / "adapter_config.json", place / "adapter_model.safetensors"

    def walked() -> list[int]:
        disk = sweep.measurer.disk
        return [one.passed for one, _ in walk_dials(sweep.spec, sweep.sets, disk, reading, points, before, sweep.task)]

    plain = walked()
    found = load_file(weights)
    bias = {k.replace("lora_B.weight", "lora_B.bias"): 0 * v[:, 0] for k, v in found.items() if "lora_B" in k}
    save_file(found | bias, weights)
    config.write_text(config.read_text().replace('"lora_bias": false', '"lora_bias": true'))
    walks = [DialWalk(d, known_limits(sweep.spec.criteria), asked_of(sweep, reading, before)) for d in reading.dials]
    walk_together(sweep.task, walks, [adapter_folder(sweep.folder, e) for e in points], 64)
    assert not any(walk.walked for walk in walks)
    assert walked() == plain


def probing(tmp_path: Path, metrics: list[str], **more: Any) -> dict[str, Any]:
    """A probe of other people's rows, half of whom are held back to certify."""
    people = tuple(f"Person {first}{last}" for first in "EFGHI" for last in "uvwx")
    rows = [{"question": row.question, "answer": row.answer, "person": row.group} for row in rows_of(people)]
    (tmp_path / "people.jsonl").write_text("".join(json_line(row) + "\n" for row in rows))
    source = {"path": str(tmp_path / "people.jsonl"), "columns": {"group": "person"}}
    shares = {"select": 0.3, "certify": 0.5, "report": 0.2}
    return {"people": {"rows": source, "metrics": metrics, "max_new_tokens": 6, "split": shares} | more}


@pytest.mark.parametrize(
    "limit",
    [
        pytest.param({"metric": "people.prob", "at_least": "90% of baseline"}, id="of one forward"),
        pytest.param({"metric": "people.fluency", "at_least": "90% of baseline"}, id="of generated answers"),
    ],
)
def test_a_limit_on_a_probe_is_tested_on_the_groups_that_it_holds_back(
    made: Callable[..., Sweep], tmp_path: Path, limit: dict[str, Any]
) -> None:
    """Against SciPy's t test on what each group measures as a probe of its own."""
    metric = limit["metric"].partition(".")[2]
    sweep = made(probes=probing(tmp_path, [metric]), control={"criteria": [limit]})
    reading = sweep.certify()
    (read,) = reading.read
    held = sweep.sets["people_certify"]
    assert (read.certify, read.groups, read.by, read.rows) == ("people_certify", 10, "person", len(held))

    def of_groups(model: Any) -> Any:
        found = []
        for name in dict.fromkeys(row.group for row in held):
            own = tuple(row for row in held if row.group == name)
            task = Task(
                sweep.task.base,
                sweep.task.tokenizer,
                {"forget": own[:1], "people": own},
                None,
                None,
                {},
                probes=sweep.spec.probe_sets,
                steering=sweep.spec.steering,
            )
            found.append(evaluate(model, task, ["prob"], 8, []).values[f"people.{metric}"])
        return np.array(found)

    before = of_groups(sweep.task.base)
    tested = 0
    for dial in reading.dials:
        point = dial_source(load_records(sweep.folder), dial)
        with scalable(sweep.task.base, adapter_folder(sweep.folder, point)) as at:
            for one in dial.walked[::6]:
                with at(one.scale) as model:
                    d = of_groups(model) - 0.9 * before
                expected = stats.ttest_1samp(d, 0, alternative="greater").pvalue
                assert one.p_value == pytest.approx(expected, rel=1e-3, abs=1e-12)
                tested += 1
    assert tested >= 2
    results = load_records(sweep.folder)
    (best, *_) = certified(results)
    said = f"at least 90% of {limit['metric']}"
    assert f"keeps {said} on new groups of the probe people, by person (90% confidence, 10 groups: " in sentence(best)
    assert "people_report" in {key.partition(".")[0] for key in best.e.metrics}
    export(results, best.e, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"keeps {said} on new groups of the probe people, by person" in card
    assert read.sha256 in card
    assert f"{said} on new groups of the probe people" in " ".join(answer(results, summarise(sweep.folder)))


def test_limits_on_several_sets_are_tested_together_at_the_whole_level(
    made: Callable[..., Sweep], tmp_path: Path
) -> None:
    """Both have to pass at a coefficient: its p-value is the larger one, and no confidence is shared between them."""
    other = {"metric": "people.prob", "at_least": "80% of baseline"}
    sweep = made(probes=probing(tmp_path, ["prob"]), control={"criteria": [LIMIT, other]})
    reading = sweep.certify()
    assert [read.certify for read in reading.read] == ["retain_certify", "people_certify"]
    assert reading.limits == ("retain.prob ≥ 90% of baseline", "people.prob ≥ 80% of baseline")
    assert reading.others == ()
    assert reading.level == pytest.approx(0.1 / len(reading.dials))
    for limit in (LIMIT, other):
        spec = sweep.spec.model_copy(update={"control": made_control(sweep.spec, limit)})
        before = load_records(sweep.folder).baseline.metrics
        points = [dial_source(load_records(sweep.folder), dial) for dial in reading.dials]
        alone = replace(
            reading, dials=tuple(replace(d, walked=(), passed=0, passed_free=0, certified=None) for d in reading.dials)
        )
        for dial, (found, _) in zip(
            reading.dials,
            walk_dials(spec, sweep.sets, sweep.measurer.disk, alone, points, before, sweep.task),
            strict=True,
        ):
            assert found.passed >= dial.passed
            for both, one in zip(dial.walked, found.walked, strict=False):
                assert both.p_value >= one.p_value * (1 - 1e-3)
                (margin,) = one.margins
                assert margin.metric in [m.metric for m in both.margins]
    said = sentence(certified(load_records(sweep.folder))[0])
    assert "keeps at least 90% of retain.prob on new groups and at least 80% of people.prob on new groups of" in said
    assert "90% confidence for all together, 12 groups and 10 groups" in said
    assert read_certificates(sweep.folder).readings[0].groups == 10


def made_control(spec: Spec, limit: dict[str, Any]) -> Any:
    criteria = tuple(c for c in spec.control.criteria if c.metric == limit["metric"])
    return spec.control.model_copy(update={"criteria": criteria})


def test_a_certificate_from_before_probes_had_certify_rows_is_read(made: Callable[..., Sweep]) -> None:
    sweep = made()
    reading = sweep.certify()
    path = sweep.folder / CERTIFICATE
    plain = json.loads(path.read_text())
    for one in plain["readings"]:
        (read,) = one.pop("read")
        one |= {key: read[key] for key in ("groups", "named", "rows", "sha256")}
    path.write_text(json.dumps(plain))
    (again,) = read_certificates(sweep.folder).readings
    assert again.read == reading.read
    assert best_certified(load_records(sweep.folder)) is not None


def test_a_probe_that_holds_nothing_back_has_no_certificate_and_says_how(
    made: Callable[..., Sweep], tmp_path: Path
) -> None:
    probe = probing(tmp_path, ["prob"], split=None)
    limit = {"metric": "people.prob", "at_least": "80% of baseline"}
    sweep = made(probes=probe, control={"criteria": [limit]})
    why, way_out = cannot_certify(sweep.spec, sweep.sets, load_records(sweep.folder)) or ("", "")
    assert "hold no rows back" in why
    assert "a split in probes.people" in way_out
    few = sweep.spec.model_copy(update={"probes": made_split(sweep.spec)})
    why, way_out = cannot_certify(few, sweep.sets, load_records(sweep.folder)) or ("", "")
    assert "the probe set people has no certify rows" in why
    assert "raise its split.certify" in way_out


def made_split(spec: Spec) -> dict[str, Any]:
    return {name: probe.model_copy(update={"split": ProbeSplit()}) for name, probe in spec.probes.items()}
