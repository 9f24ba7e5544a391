"""TensorBoard, MLflow and Weights & Biases: each read back with its own reader, and equal to the journal."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rayul.errors import InputError
from rayul.records import Evaluation, read_journal
from rayul.spec import SpecError, load_spec, parse_spec

PLANTED = "zyxqv-4711-planted"
TEXT = "name: x\nmodel: testbed\ndata: testbed\nmethod: ga\ntraining: {lr: 1e-3}\n"


def needs(package: str) -> Any:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


# --- the spec ----------------------------------------------------------------------------------------------------


def test_a_list_names_them_and_a_mapping_says_more() -> None:
    plain = parse_spec(TEXT + "tracking: [tensorboard, mlflow]").tracking
    assert (plain.tensorboard, plain.mlflow is not None, plain.wandb) == (True, True, None)
    more = parse_spec(TEXT + "tracking: {mlflow: {uri: 'sqlite:///x.db', experiment: e}, wandb: {project: p}}").tracking
    assert more.mlflow is not None
    assert more.wandb is not None
    assert (more.mlflow.uri, more.mlflow.experiment, more.wandb.project) == ("sqlite:///x.db", "e", "p")
    assert parse_spec(TEXT).tracking.names == []
    assert more.names == ["mlflow", "wandb"]


@pytest.mark.parametrize(
    ("tracking", "said"),
    [
        ("[tensorbord]", "did you mean tensorboard?"),
        ("{wandb: {api_key: secret}}", "tracking.wandb.api_key: unknown key"),
        ("{mlflow: {uri: 'https://me:secret@host'}}", "MLFLOW_TRACKING_PASSWORD"),
        ("tensorboard", "expected a mapping"),
    ],
)
def test_what_is_not_understood_is_refused(tracking: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(TEXT + f"tracking: {tracking}")
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


# --- before anything is spent ------------------------------------------------------------------------------------


def test_a_tracker_that_is_not_installed_is_refused_with_its_package(
    make_spec: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayul.sweep.run import run_sweep

    real = importlib.util.find_spec
    monkeypatch.setattr("rayul.sweep.tracking.find_spec", lambda name: None if name == "mlflow" else real(name))
    with pytest.raises(InputError) as caught:
        run_sweep(make_spec(tracking=["mlflow"]), tmp_path / "r")
    assert "tracking.mlflow: mlflow is not installed" in str(caught.value)
    assert "pip install mlflow" in str(caught.value)
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
@needs("mlflow")
def test_a_server_that_does_not_answer_is_refused_before_a_trial(
    make_spec: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayul.sweep.run import run_sweep

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with pytest.raises(InputError, match=r"tracking\.mlflow: (.|\n)*Connection refused(.|\n)*is tracking\.mlflow\.uri"):
        run_sweep(make_spec(tracking={"mlflow": {"uri": "http://127.0.0.1:9"}}), tmp_path / "r")
    assert not (tmp_path / "r").exists()


@needs("wandb")
def test_wandb_without_a_key_is_refused_before_a_trial(
    make_spec: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayul.sweep.run import run_sweep

    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"tracking\.wandb: .*key(.|\n)*WANDB_MODE=offline"):
        run_sweep(make_spec(tracking=["wandb"]), tmp_path / "r")
    assert not (tmp_path / "r").exists()


# --- while it runs -----------------------------------------------------------------------------------------------


@pytest.fixture
def planted(make_spec: Callable[..., Any], sets: Any, tmp_path: Path) -> Callable[..., Any]:
    """planted(tracking, **sections) -> a spec of three trials whose forget rows hold the planted token."""
    from dataclasses import replace

    from rayul.unlearn.data import FILES, write_rows

    for key, rows in sets.items():
        hidden = [replace(row, answer=f"{row.answer} {PLANTED}") for row in rows] if key == "forget" else rows
        (tmp_path / "data").mkdir(exist_ok=True)
        write_rows(tmp_path / "data" / FILES[key], hidden)

    def make(tracking: Any, **sections: Any) -> Any:
        criteria = [{"metric": "retain.prob", "at_least": "90% of baseline"}]
        return make_spec(
            **{
                "data": str(tmp_path / "data"),
                "training": {"lr": {"float": [1e-3, 3e-2], "log": True}},
                "control": {"criteria": criteria, "mixing": True},
                "objectives": {"forget.prob": "minimize", "retain.prob": "maximize"},
                "search": {"trials": 3},
                "tracking": tracking,
            }
            | sections
        )

    return make


def run(spec: Any, folder: Path) -> tuple[dict[str, dict[int, Evaluation]], str]:
    """The last row of each step by trial, and what was said."""
    from rayul.sweep.run import run_sweep

    said = io.StringIO()
    run_sweep(spec, folder, console=Console(file=said, width=300))
    rows: dict[str, dict[int, Evaluation]] = {}
    for e in read_journal(folder / "evaluations.jsonl").evaluations:
        if not e.is_reference and e.metrics:
            rows.setdefault(e.trial_id, {})[e.step] = e
    return rows, said.getvalue()


def assert_without_text(place: Path, spec: Any) -> None:
    forget = [line for line in (Path(spec.data.folder) / "forget.jsonl").read_text().splitlines() if line]
    answers = [line.split('"answer": "')[1].split('"')[0] for line in forget]
    assert all(PLANTED in answer for answer in answers)
    files = [p for p in place.rglob("*") if p.is_file()]
    assert files
    for file in files:
        data = file.read_bytes()
        for text in (PLANTED, *answers):
            assert text.encode() not in data, file


def numbers(rows: dict[int, Evaluation], metric: str) -> dict[int, float]:
    return {step: e.metrics[metric] for step, e in rows.items()}


@pytest.mark.slow
@needs("tensorboardX")
def test_tensorboard_has_the_numbers_of_the_journal(planted: Callable[..., Any], tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    spec = planted(["tensorboard"])
    rows, _ = run(spec, tmp_path / "r")
    assert len(rows) == 3
    for trial, steps in rows.items():
        found: dict[str, dict[int, float]] = {}
        hyper = ""
        for file in (tmp_path / "r" / "tensorboard" / trial).glob("events.out.tfevents.*"):
            for record in tf_records(file):
                event = Event.FromString(record)
                hyper += str(event.summary)
                for value in event.summary.value:
                    if value.HasField("simple_value"):
                        found.setdefault(value.tag, {})[event.step] = value.simple_value
        for metric in ("forget.prob", "retain.prob", "forget.ppl"):
            assert found[f"ray/tune/{metric}"] == pytest.approx(numbers(steps, metric), rel=1e-6), trial
        assert found["ray/tune/violation/retain.prob"].keys() == steps.keys()
        assert found["ray/tune/mixing"] == {step: e.mixing for step, e in steps.items()}
        assert "training.lr" in hyper
    assert_without_text(tmp_path / "r" / "tensorboard", spec)


@pytest.mark.slow
@needs("mlflow")
def test_mlflow_has_a_run_for_each_trial_with_the_numbers_of_the_journal(
    planted: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    uri = f"sqlite:///{tmp_path}/store/mlflow.db"
    spec = planted({"mlflow": {"uri": uri}})
    rows, _ = run(spec, tmp_path / "r")
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == rows.keys()
    for trial, steps in rows.items():
        assert runs[trial].info.status == "FINISHED"
        history = {m.step: m.value for m in client.get_metric_history(runs[trial].info.run_id, "forget.prob")}
        assert history == pytest.approx(numbers(steps, "forget.prob"), rel=1e-12)
        params = next(iter(steps.values())).params
        assert float(runs[trial].data.params["params/training.lr"]) == pytest.approx(params["training.lr"])
    assert_without_text(tmp_path / "store", spec)


@pytest.mark.slow
@needs("wandb")
def test_wandb_offline_keeps_a_run_for_each_trial_in_the_results(
    planted: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.proto import wandb_internal_pb2 as proto

    monkeypatch.setenv("WANDB_MODE", "offline")
    spec = planted({"wandb": {"project": "p"}})
    rows, _ = run(spec, tmp_path / "r")
    found: dict[str, dict[int, float]] = {}
    for file in (tmp_path / "r" / "wandb").glob("offline-run-*/run-*.wandb"):
        name = ""
        for data in leveldb_records(file):
            record = proto.Record.FromString(data)
            name = record.run.display_name or name
            values = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
            if "forget.prob" in values:
                found.setdefault(name, {})[int(values["_step"])] = float(values["forget.prob"])
    assert found.keys() == rows.keys()
    for trial, steps in rows.items():
        assert found[trial] == pytest.approx(numbers(steps, "forget.prob"), rel=1e-12)
    assert_without_text(tmp_path / "r" / "wandb", spec)


@pytest.mark.slow
@needs("tensorboardX")
def test_a_tracker_that_fails_ends_alone(
    planted: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk fills up, so to say: the second value that TensorBoard writes raises."""
    from tensorboardX import SummaryWriter

    written = []

    def full(self: Any, *arguments: Any, **more: Any) -> None:
        written.append(arguments)
        if len(written) > 1:
            raise OSError("No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    rows, said = run(planted(["tensorboard"]), tmp_path / "r")
    assert len(written) == 2
    assert said.count("tracking.tensorboard ended: No space left on device") == 1
    assert len(rows) == 3
    assert all(math.isfinite(e.metrics["forget.prob"]) for steps in rows.values() for e in steps.values())


@pytest.mark.slow
def test_a_resume_may_change_who_is_told(planted: Callable[..., Any], tmp_path: Path) -> None:
    from rayul.sweep.run import run_sweep

    run(planted([]), tmp_path / "r")
    told = planted(["tensorboard"], search={"trials": 4})
    run_sweep(told, str(tmp_path / "r"), resume=True, console=Console(file=io.StringIO()))
    assert load_spec(tmp_path / "r" / "spec.yaml").tracking.names == ["tensorboard"]
    assert [p.parent.name for p in (tmp_path / "r" / "tensorboard").glob("*/events.out.tfevents.*")] == ["0003"]


def leveldb_records(file: Path, block: int = 32_768) -> Iterator[bytes]:
    """LevelDB's log format after W&B's header of 7 bytes: CRC (4), length (2), kind (1: whole, 2, 3, 4: its parts)."""
    data, record, at = file.read_bytes(), b"", 7
    while at + 7 <= len(data):
        left = block - at % block
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def tf_records(file: Path) -> Iterator[bytes]:
    """TFRecord framing: length (8 bytes, little endian), its CRC (4), data, CRC (4)."""
    data = file.read_bytes()
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        yield data[at + 12 : at + 12 + length]
        at += length + 16
