"""The pack of a sweep, and whether it is compiled: as the spec says, or as measurements do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import yaml
from driver import rows as records
from driver import sweep

from rayul.records.manifest import PackRecord, PackShape
from rayul.spec import load_spec
from rayul.sweep.driver_disk import DriverDisk
from rayul.sweep.packs import packing
from rayul.sweep.packs.allowance import estimated_rate, training_seconds
from rayul.sweep.packs.bench import Bench
from rayul.testbed import with_testbed
from rayul.unlearn import products
from rayul.unlearn.chunks import load_rows
from rayul.unlearn.pack.compiling import Compiled, measure_compiled
from rayul.unlearn.pack.known_rates import remember_compiled, remember_packs
from rayul.unlearn.pack.throughput import Throughput

MakeSpec = Callable[..., Any]


@pytest.mark.parametrize(("at_once", "slots"), [(None, 4), (8, 4), (6, 3), (3, 2), (2, 1)])
def test_no_slot_is_computed_that_no_trial_may_fill(
    at_once: int | None, slots: int, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "device_count", lambda resources: 2)
    monkeypatch.setattr(packing, "on_cpu", lambda resources: True)
    spec = make_spec(
        search={"sampler": "random", "trials": 12}, resources={"trials_per_gpu": 4, "concurrency": at_once}
    )
    found = packing.choose_packing(spec, {}, None, None)  # type: ignore[arg-type]
    assert found.slots == slots
    assert (found.shape is None) == (slots == 1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two cores whose processes keep their measurements in an empty cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYUL_CACHE", str(folder))
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield folder
        ray.shutdown()


@pytest.fixture
def disk(cache: Path, tmp_path: Path) -> DriverDisk:
    return DriverDisk(tmp_path, tmp_path / ".mark", "", {})


AUTO = {"trials_per_gpu": "auto", "compile": "auto"}
RATES = {1: 10.0, 2: 15.0, 4: 30.0}
"""Rows a second with which 64 trials of 600 steps of 4 rows on two devices take 2 hours one at a time, and 43 minutes
in packs of 4."""


@pytest.fixture
def auto(
    make_spec: MakeSpec, sets: Any, disk: DriverDisk, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., packing.Packing]:
    """auto(name, rates=..., compiled=..., **sections): what is chosen where a cache has these measurements; the name
    makes it another sweep of rows of its own. onednn: whether the processor is one where its products are faster."""

    def choose(
        name: str,
        rates: dict[int, float] | None = RATES,
        compiled: tuple[float, float] | str | None = None,
        before: PackRecord | None = None,
        onednn: bool = False,
        dtype: str = "float32",
        **sections: Any,
    ) -> packing.Packing:
        monkeypatch.setattr(products, "by_onednn", lambda: onednn)
        search = {"sampler": "random", "trials": 64}
        asked = {"search": search, "training": {"steps": 600}, "resources": AUTO} | sections
        spec = make_spec(**{"pruning": {"criteria": False, "dominance": False}} | asked)
        spec = spec.model_copy(update={"model": spec.model.model_copy(update={"dtype": dtype})})
        rows = {key: (*some, replace(some[0], question=name)) for key, some in sets.items()}
        torch.set_num_threads(1)
        bench = Bench(spec, rows, disk, 2)
        sizes = [1, 2, 4, 8, 16, 32]
        if rates is not None:
            found = [Throughput(k, rate, 1) for k, rate in rates.items()]
            remember_packs(spec, rows, sizes, bench.memory, found, one_packed=bench.one_packed)
        if isinstance(compiled, str):
            remember_compiled(spec, rows, 4, compiled)
        elif compiled is not None:
            remember_compiled(spec, rows, 4, Compiled(4, 30.0, *compiled))
        return packing.choose_packing(spec, rows, disk, before)

    return choose


def test_a_short_sweep_measures_nothing(auto: Callable[..., packing.Packing], cache: Path) -> None:
    before = sorted(cache.rglob("*.json"))
    found = auto("short", rates=None)
    assert "2 trials per device, unmeasured" in found.why
    assert found.slots == 2
    assert found.shape is not None
    assert not found.shape.compiled
    unknown = auto("short", rates=None, lora={"target_modules": ["q_proj"]})
    assert unknown.shape is None, "nobody has tried whether packs can train these modules"
    assert sorted(cache.rglob("*.json")) == before
    few = auto("short", rates=None, search={"sampler": "tpe", "trials": 12})
    assert (few.slots, few.why) == (
        1,
        "With 12 trials, one runs per device, so that the search can learn between them.",
    )
    assert not auto("short", rates=None, search={"sampler": "random", "trials": 2}).why


@pytest.mark.slow
def test_a_long_sweep_measures_and_remembers(auto: Callable[..., packing.Packing], cache: Path) -> None:
    before = len(list(cache.rglob("packs/*.json")))
    long = {"training": {"steps": 10**6}, "resources": AUTO | {"compile": False}}
    found = auto("long", rates=None, **long)
    assert "rows per second, by number of trials on a device: 1: " in found.why
    assert len(list(cache.rglob("packs/*.json"))) == before + 1
    assert auto("long", rates=None, **long) == found


def test_with_few_trials_each_core_has_a_pack_of_one(auto: Callable[..., packing.Packing]) -> None:
    """So that the search learns between them: PEFT alone would take half as long again for a step."""
    found = auto("few", search={"sampler": "tpe", "trials": 6})
    assert found.slots == 1
    assert found.shape is not None
    assert "one runs per device" in found.why
    alone = auto("untested", search={"sampler": "tpe", "trials": 6}, lora={"target_modules": ["q_proj"]})
    assert alone.shape is None


def test_what_was_measured_before_decides_also_a_short_sweep(auto: Callable[..., packing.Packing]) -> None:
    found = auto("known", {1: 1000.0, 2: 1500.0, 4: 1600.0, 8: 1700.0})
    assert found.slots == 8, "4 is no tenth faster than 2, and 8 is"
    assert "1: 1000, 2: 1500, 4: 1600, 8: 1700" in found.why
    assert "compiled" not in found.why


@pytest.mark.parametrize(
    ("compiled", "kept"),
    [((1.5, 60.0), True), ((1.2, 60.0), True), ((1.05, 60.0), False), ((0.9, 1.0), False), ((1.5, 3000.0), False)],
)
def test_a_pack_is_compiled_where_that_is_worth_its_seconds(
    compiled: tuple[float, float], kept: bool, auto: Callable[..., packing.Packing]
) -> None:
    found = auto(f"compiled {compiled}", compiled=compiled)
    assert found.shape is not None
    assert found.shape.slots == 4
    assert found.shape.compiled == kept
    assert ("which does not pay" in found.why) != kept


def test_compiling_is_not_even_tried_where_training_is_short(auto: Callable[..., packing.Packing]) -> None:
    """32 times as fast, so that a minute is more than 3% of the sweep."""
    found = auto("fast", {k: 32 * rate for k, rate in RATES.items()}, compiled=(9.0, 1.0))
    assert found.shape is not None
    assert not found.shape.compiled
    assert "compiled" not in found.why


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"method": "rmu"}, "rmu reads hidden states"),
        ({"method": {"name": "gd", "gradient": "latent"}}, "latent adds to hidden states"),
        ({"lora": {"dropout": 0.1}}, "dropout draws"),
    ],
)
def test_what_cannot_be_compiled_is_not_and_says_why(
    sections: dict[str, Any], reason: str, auto: Callable[..., packing.Packing]
) -> None:
    found = auto("refused", **sections)
    assert found.shape is not None
    assert not found.shape.compiled
    assert f"not compiled: {reason}" in found.why


def test_where_onednn_multiplies_nothing_is_compiled(auto: Callable[..., packing.Packing]) -> None:
    """Only in float32: it computes no other products."""
    found = auto("by oneDNN", compiled=(9.0, 1.0), onednn=True)
    assert found.shape is not None
    assert not found.shape.compiled
    assert "not compiled: on this processor oneDNN multiplies faster" in found.why
    half = auto("bfloat16", compiled=(9.0, 1.0), onednn=True, dtype="bfloat16")
    assert half.shape is not None
    assert half.shape.compiled
    own = auto("as the model has it", compiled=(9.0, 1.0), onednn=True, dtype="auto")
    assert "not compiled: on this processor oneDNN multiplies faster" in own.why


def test_a_compiler_that_failed_before_is_not_tried_again(auto: Callable[..., packing.Packing], cache: Path) -> None:
    failed = auto("fails", compiled="CppCompileError: C++ compile error")
    assert failed.shape is not None
    assert not failed.shape.compiled
    assert "not compiled: CppCompileError: C++ compile error (in an earlier sweep; to try again, delete " in failed.why
    (kept,) = [path for path in cache.rglob("compiled-packs/*.json") if str(path) in failed.why]
    kept.unlink()
    assert auto("fails", compiled=(1.5, 60.0)).shape.compiled  # type: ignore[union-attr]


def test_where_one_trial_at_a_time_is_fastest_it_has_a_pack_of_its_own(auto: Callable[..., packing.Packing]) -> None:
    found = auto("one", {1: 10.0, 2: 10.5, 4: 10.9})
    assert found.slots == 1
    assert found.shape is not None
    assert "1: 10, 2: 10, 4: 11" in found.why
    untested = auto("one untested", {1: 10.0, 2: 10.5}, lora={"target_modules": ["q_proj"]})
    assert untested.shape is None


def test_without_a_compiler_nothing_is_compiled(
    auto: Callable[..., packing.Packing], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with torch._inductor.config.patch({"cpp.cxx": (None, "none-of-this-name")}):
        found = auto("no compiler", compiled=(9.0, 1.0))
    assert found.shape is not None
    assert not found.shape.compiled
    assert "not compiled: there is no none-of-this-name here" in found.why


def test_true_false_and_a_number_are_what_they_say(auto: Callable[..., packing.Packing]) -> None:
    asked = auto("true", compiled=(0.5, 900.0), resources={"trials_per_gpu": "auto", "compile": True})
    assert asked.shape is not None
    assert asked.shape.compiled
    never = auto("false", compiled=(9.0, 1.0), resources={"trials_per_gpu": "auto", "compile": False})
    assert never.shape is not None
    assert not never.shape.compiled
    two = auto("two", resources={"trials_per_gpu": 2, "compile": "auto"})
    assert two.shape is not None
    assert (two.slots, two.shape.compiled) == (2, False)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_resume_keeps_what_the_manifest_records(compiled: bool, auto: Callable[..., packing.Packing]) -> None:
    record = PackRecord(shape=PackShape(slots=3, rank=8, rows=4, compiled=compiled), dtype="float32", threads=1)
    found = auto(f"resume {compiled}", compiled=(0.5, 900.0) if compiled else (9.0, 1.0), before=record)
    assert found.shape is not None
    assert (found.shape.slots, found.shape.compiled) == (3, compiled)


@pytest.mark.parametrize(
    ("search", "seconds"),
    [({}, 7680.0), ({"time_limit": "10m"}, 600.0), ({"max_device_hours": 1.0}, 1800.0), ({"trials": 32}, 3840.0)],
)
def test_how_long_a_sweep_trains(search: dict[str, Any], seconds: float, make_spec: MakeSpec) -> None:
    spec = make_spec(search={"trials": 64} | search, pruning={"criteria": False, "dominance": False})
    assert training_seconds(spec, rate=0.1, devices=2) == seconds
    pruned = make_spec(search={"trials": 64}, training={"steps": {"int": [3, 9]}, "batch_size": {"choice": [2, 6]}})
    assert training_seconds(pruned, rate=0.1, devices=2) == 3840.0


def test_the_rate_of_one_trial_follows_from_the_size_of_its_model(make_spec: MakeSpec, sets: Any) -> None:
    """Four operations a weight and token, forget and retain rows, on a core of 40 GFLOPS."""
    from transformers import AutoModelForCausalLM

    spec = make_spec(method="gd")
    model = AutoModelForCausalLM.from_pretrained(spec.model.path)
    weights = sum(one.weight.numel() for one in model.modules() if isinstance(one, torch.nn.Linear))
    tokens = sum(len(row.question) + len(row.answer) for row in sets["forget"]) / len(sets["forget"]) / 4
    rate = estimated_rate(spec, sets, on_gpu=False, threads=1)
    assert rate == pytest.approx(4e10 / (4 * weights * tokens * 2), rel=0.25)
    assert estimated_rate(make_spec(), sets, on_gpu=False, threads=2) == pytest.approx(4 * rate)
    nameless = spec.model_copy(update={"model": spec.model.model_copy(update={"path": "nobody/none"})})
    assert estimated_rate(nameless, sets, on_gpu=False, threads=1) is None


@pytest.mark.slow
def test_a_sweep_compiles_by_what_was_measured_and_resumes_so(
    make_spec_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / "cache"))
    file = make_spec_file(**AUTO, gpu=0)
    plain = yaml.safe_load(file.read_text())
    plain["training"] |= {"steps": 100, "evaluate_every": 50}
    plain["model"] = {"path": plain["model"], "dtype": "bfloat16"}  # in float32 its products may be oneDNN's
    file.write_text(yaml.safe_dump(plain))
    spec = with_testbed(load_spec(file))
    rows, devices = load_rows(spec), os.cpu_count() or 1
    torch.set_num_threads(1)
    most = -(-spec.search.trials // devices)
    sizes = [k for k in (1, 2, 4, 8, 16, 32) if k <= most]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // devices
    remember_packs(spec, rows, sizes, memory, [Throughput(k, 0.01 * k, 1) for k in sizes[:2]], one_packed=True)
    remember_compiled(spec, rows, 2, Compiled(2, 0.02, 2.0, 60.0))
    done = sweep(file, tmp_path / "results")
    assert done.returncode == 0, done.stderr
    assert "; compiled, 2: 0 after 60 s" in done.stderr
    folder = tmp_path / "results" / "tiny"
    recorded = json.loads((folder / "run.json").read_text())["pack"]["shape"]
    assert (recorded["slots"], recorded["compiled"]) == (2, True)
    assert all(", compiled, " in row["numerics"] for row in records(folder) if row["step"])


@pytest.mark.slow
def test_what_compiling_gains_is_measured_on_packs_that_train(make_spec: MakeSpec, sets: Any) -> None:
    found = measure_compiled(make_spec(method="gd"), sets, 2)
    assert found.slots == 2
    assert found.seconds > 0
    assert found.rows > 0
    assert found.gain > 0


@pytest.mark.slow
def test_where_the_compiler_fails_the_pack_is_not_compiled(
    make_spec: MakeSpec, sets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path))
    ray.shutdown()
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        bench = Bench(make_spec(method="gd"), sets, DriverDisk(tmp_path, tmp_path / ".mark", "", {}), 2)
        found = bench.compiled([2])
        (kept,) = tmp_path.rglob("compiled-packs/*")
        monkeypatch.setattr(bench, "_run", lambda *_: pytest.fail("the second sweep tries again"))
        again = bench.compiled([2])
    finally:
        ray.shutdown()
    assert isinstance(found, str)
    assert again == f"{found} (in an earlier sweep; to try again, delete {kept})"


@pytest.mark.parametrize(("gpu", "slots"), [(1, 4), (0, 2)])
def test_a_short_sweep_runs_more_trials_on_a_gpu_than_on_a_core(
    gpu: int, slots: int, make_spec: MakeSpec, sets: Any, tmp_path: Path
) -> None:
    ray.shutdown()
    ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        spec = make_spec(search={"sampler": "random", "trials": 64}, resources=AUTO | {"gpu": gpu})
        found = packing.choose_packing(spec, sets, DriverDisk(tmp_path, tmp_path / ".mark", "", {}), None)
    finally:
        ray.shutdown()
    assert found.slots == slots
    assert "unmeasured" in found.why
