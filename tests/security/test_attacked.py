"""What a second attack found: folders that are written to, saved updates, certificates, the ends of records."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "pareto"))
from synthetic import SPEC, sweep, write_folder
from test_certified_answer import passed, reading

from rayul.cli.specs import check_code
from rayul.errors import InputError, RayulError
from rayul.records import Evaluation, Journal, to_json
from rayul.records.certificate import CERTIFICATE, Certificates, write_certificates
from rayul.records.evaluations import CHECKPOINTS, from_json
from rayul.records.folder import load_records
from rayul.records.manifest import Manifest, RowSet, Run, read_manifest, write_manifest
from rayul.records.storage import Storage, local
from rayul.records.text_note import noted_text
from rayul.records.trusted import check_trusted, trust
from rayul.spec import parse_spec
from rayul.spec.config import Model
from rayul.sweep.driver_disk import DriverDisk, marked
from rayul.sweep.lock import is_held
from rayul.sweep.repair import repair
from rayul.sweep.run import run_sweep
from rayul.unlearn.model import load_model, load_tokenizer
from rayul.unlearn.template import Template, rendered
from rayul.unlearn.tokens import encode_sets
from rayul.unlearn.update.saved import load_adapter, loaded


@pytest.fixture
def received(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "received" / "s", sweep(8))


# --- what is written to ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["evaluations.jsonl", "study.journal", "checkpoints/0001.safetensors"])
def test_a_resume_writes_through_no_link(name: str, tmp_path: Path, tiny_folder: Path, data_folder: Path) -> None:
    """A file without a line end is half a line to a journal, which cuts it off."""
    secret = tmp_path / "id_ed25519"
    secret.write_text("the reader's own key")
    folder = tmp_path / "received" / "tiny"
    (folder / CHECKPOINTS).mkdir(parents=True)
    (folder / name).symlink_to(secret)
    plain = {"name": "tiny", "model": str(tiny_folder), "data": str(data_folder), "method": "ga"}
    text = yaml.safe_dump(plain | {"training": {"lr": 1e-3}, "search": {"sampler": "random", "trials": 1}})
    (folder / "spec.yaml").write_text(text)
    with pytest.raises(RayulError, match=f"{name} is a link"):
        run_sweep(parse_spec(text, (), source="spec.yaml"), folder, resume=True)
    assert secret.read_text() == "the reader's own key"


@pytest.mark.parametrize("kind", ["pipe", "device", "link"])
@pytest.mark.parametrize("name", [".s.lock", ".s.owner"])
def test_what_lies_beside_a_received_folder_neither_stops_its_reader_nor_is_written_to(
    kind: str, name: str, received: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the reader's own")
    place = received.parent / name
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/zero" if kind == "device" else secret)
    assert not is_held(received)
    if kind == "pipe" or name == ".s.owner":
        assert not repair(received, str)
    else:
        with pytest.raises(RayulError, match="cannot write to"):
            repair(received, str)
    assert secret.read_text() == "the reader's own"


def test_the_mark_for_other_nodes_is_not_written_through_a_link(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the reader's own")
    mark = tmp_path / ".s.driver"
    mark.symlink_to(secret)
    with marked(DriverDisk(tmp_path / "s", mark, "word", {}, server=True, uploads_adapters=True)):
        assert (mark.is_symlink(), mark.read_text()) == (False, "word")
    assert secret.read_text() == "the reader's own"


def test_a_url_that_ends_in_no_name_is_refused(tmp_path: Path) -> None:
    """Its work folder would be the folder of all of them, which a fetch empties."""
    with pytest.raises(InputError, match=r"ends in \.\."):
        Storage(f"file://{tmp_path}/..")


@pytest.mark.parametrize("before", ["", "missing_compiler();", "cache_dir();"])
def test_a_compiled_program_is_not_kept_where_others_may_lay_one(before: str, tmp_path: Path) -> None:
    """Whatever was asked of torch's compiler before."""
    code = (
        "import os; from rayul.unlearn.compiled import compile_once, missing_compiler;"
        "from torch._inductor.runtime.cache_dir_utils import cache_dir;"
        f"{before} compile_once(abs); print(cache_dir())"
    )
    environ = {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environ | {"RAYUL_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


# --- where metrics go --------------------------------------------------------------------------------------------


def test_a_received_folder_does_not_choose_where_metrics_and_a_token_go(received: Path) -> None:
    text = SPEC + "tracking: {mlflow: {uri: 'https://collect.example'}}\n"
    (received / "spec.yaml").write_text(text)
    spec = parse_spec(text, (), source="spec.yaml", check_files=False)
    with pytest.raises(InputError, match=r"would send metrics, and your MLflow token, to https://collect\.example"):
        run_sweep(spec, received, resume=True)
    with pytest.raises(InputError, match=r"collect\.example"):
        check_code(received / "spec.yaml", spec, trust=False, sends=True)
    check_trusted(spec, received, trusted=False)  # an export sends nothing
    trust(spec)
    with pytest.raises(InputError, match=r"collect\.example"):
        check_trusted(spec, received, trusted=False, sends=True)
    trust(spec, sends=True)
    check_trusted(spec, received, trusted=False, sends=True)


# --- saved updates -----------------------------------------------------------------------------------------------


def change(adapter: Path, **keys: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"layer_replication": [[0, 2]] * 5000}, "repeats layers of its base"),
        ({"target_modules": r"(([a-z_]+\.?)+)+X"}, "takes more than"),
        ({"rank_pattern": {r"(([a-z_]+\.?)+)+X": 4}}, "takes more than"),
    ],
    ids=["layers", "targets", "ranks"],
)
def test_an_adapter_that_would_take_for_ever_is_one_error(
    keys: dict[str, Any], said: str, task: Any, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayul.unlearn.update.received.PATTERN_SECONDS", 1.0)
    change(adapter, **keys)
    with pytest.raises(InputError, match=said):
        load_adapter(task.base, adapter)


def test_a_pattern_that_is_sound_is_taken(task: Any, adapter: Path) -> None:
    change(adapter, target_modules=r".*\.(self_attn|mlp)\..*_proj")
    with loaded(task.base, adapter) as model:
        assert any("lora_A" in name for name, _ in model.named_parameters())


def test_an_adapter_of_another_kind_has_its_weights_too_or_is_an_error(task: Any, adapter: Path) -> None:
    change(adapter, peft_type="LOHA", target_modules=["q_proj"], alpha=8)
    with pytest.raises(InputError, match=r"lacks [0-9]+ weights"):
        load_adapter(task.base, adapter)


def test_an_adapter_that_is_its_own_base_is_one_error(adapter: Path) -> None:
    change(adapter, base_model_name_or_path=str(adapter))
    for load in (load_model, load_tokenizer):
        with pytest.raises(InputError, match="adapter on an adapter"):
            load(Model(path=str(adapter)))


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "model-2.safetensors"])
def test_a_pipe_or_a_device_in_a_model_folder_is_an_error(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    (tmp_path / "model" / name).unlink(missing_ok=True)
    if name == "tokenizer.json":
        os.mkfifo(tmp_path / "model" / name)
    else:
        (tmp_path / "model" / name).symlink_to("/dev/zero")
    for load in (load_model, load_tokenizer):
        with pytest.raises(InputError, match="is not a plain file"):
            load(Model(path=str(tmp_path / "model")))


@pytest.mark.parametrize("kind", ["none", "some", "pickle", "elsewhere"])
def test_a_whole_model_that_a_sweep_saved_has_all_weights_in_safetensors_or_is_an_error(
    kind: str, task: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "outer" / "0001-5-1"
    task.base.save_pretrained(folder)
    path = folder / "model.safetensors"
    state = load_file(path)
    if kind in ("none", "some"):
        kept = {} if kind == "none" else {k: v for k, v in state.items() if "layers.1" not in k}
        save_file(kept, path, metadata={"format": "pt"})
    else:
        name = "pytorch_model.bin" if kind == "pickle" else "../model.safetensors"
        path.rename(folder / name)
        index = {"metadata": {}, "weight_map": dict.fromkeys(state, name)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"lacks|no safetensors file beside it"), loaded(task.base, folder):
        pass


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[1]"])
def test_a_broken_text_note_is_one_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "rayul.json").write_text(text)
    with pytest.raises(RayulError, match=r"rayul\.json cannot be read"):
        noted_text(tmp_path)


def test_a_pipe_is_no_text_note(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rayul.json")
    assert noted_text(tmp_path) == {}


# --- programs within a tokenizer ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "{{ 1 / 0 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    ],
    ids=["divides", "recurs", "loops"],
)
def test_a_chat_template_that_fails_or_never_ends_is_one_error(
    source: str, task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayul.unlearn.template.TEMPLATE_SECONDS", 0.5)
    monkeypatch.setattr(task.tokenizer, "chat_template", source)
    with pytest.raises(InputError, match="the chat template cannot be rendered"):
        rendered(task.tokenizer, Template("chat"), "Who?", "Ada.")


def test_a_pattern_of_a_tokenizer_that_never_ends_is_one_error(tiny_folder: Path, sets: Any, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    plain = json.loads(path.read_text())
    split = {"type": "Split", "pattern": {"Regex": r"([A-Za-z .?:]+)+\d"}, "behavior": "Isolated", "invert": False}
    plain["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, plain["pre_tokenizer"]]}
    path.write_text(json.dumps(plain))
    tokenizer = load_tokenizer(Model(path=str(tmp_path / "model")))
    with pytest.raises(InputError, match="forget row 1: the tokenizer gave up"):
        encode_sets(tokenizer, Template(), {"forget": sets["forget"]})


# --- certificates ------------------------------------------------------------------------------------------------


@pytest.fixture
def certified(received: Path) -> Path:
    row = next(e for e in load_records(received).evaluations if e.trial_id == "0001")
    dial = passed("0001", 10, 0.6)
    assert dial.certified is not None
    dial = replace(dial, certified=replace(dial.certified, seed=row.seed, params=row.params))
    write_certificates(received, Certificates((reading(dial),)))
    return received


WRONG: dict[str, tuple[tuple[Any, ...], Any]] = {
    "date": (("date",), 5),
    "groups": (("read", 0, "groups"), "x"),
    "alpha": (("alpha",), 10**400),
    "finished": (("finished",), "no"),
    "no dials": (("dials",), []),
    "trial": (("dials", 0, "trial_id"), "../../x"),
    "passed": (("dials", 0, "passed"), 0),
    "free": (("dials", 0, "passed_free"), 99),
    "scale": (("dials", 0, "scales", 0), "a"),
    "metric": (("dials", 0, "walked", 0, "margins", 0, "metric"), 5),
    "other trial": (("dials", 0, "certified", "trial_id"), "0002"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_certificate_that_was_changed_is_one_error(what: str, certified: Path) -> None:
    place, value = WRONG[what]
    path = certified / CERTIFICATE
    plain = json.loads(path.read_text())
    one = plain["readings"][0]
    for key in place[:-1]:
        one = one[key]
    one[place[-1]] = value
    path.write_text(json.dumps(plain))
    with pytest.raises(RayulError, match=r"certificate\.json is not as rayul writes it"):
        load_records(certified)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"readings": 1}'])
def test_a_broken_certificate_is_set_aside_by_repair_and_its_rows_are_not_read_again(
    text: str, certified: Path, make_spec: Callable[..., Any]
) -> None:
    from rayul.sweep.certify import cannot_certify

    (certified / CERTIFICATE).write_text(text)
    with pytest.raises(RayulError, match="is not as rayul writes it"):
        load_records(certified)
    said: list[str] = []
    assert repair(certified, said.append)
    assert (certified / f"{CERTIFICATE}.rejected").read_text() == text
    results = load_records(certified)
    why_not = cannot_certify(make_spec(), {}, results)
    assert why_not is not None
    assert "how much was spent on the certify rows is not known" in why_not[0]
    (certified / CERTIFICATE).write_text("again")
    repair(certified, said.append)
    assert (certified / f"{CERTIFICATE}.rejected").read_text() == text, "what was set aside before stays"


def test_a_certificate_of_another_sweep_is_an_error(certified: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", sweep(8, seed=5))
    shutil.copy(certified / CERTIFICATE, other)
    with pytest.raises(RayulError, match=r"is of another sweep: no such trial 0001"):
        load_records(other)
    write_manifest(certified, Manifest(data={"retain_certify": RowSet(rows=100, sha256="cd" * 32)}))
    with pytest.raises(RayulError, match=r"is of another sweep: it read other certify rows"):
        load_records(certified)


# --- the end of a journal ----------------------------------------------------------------------------------------


def test_a_journal_that_lost_its_end_is_told_without_the_study_and_repaired(received: Path) -> None:
    path = received / "evaluations.jsonl"
    path.unlink()
    journal = Journal(path)
    journal.append(*sweep(8))
    now = datetime(2026, 11, 28, tzinfo=UTC)
    count = len(list(journal.records))
    write_manifest(received, Manifest(runs=(Run(began=now, ended=now, records=count),)))
    whole = load_records(received)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-3]))
    with pytest.raises(RayulError, match=rf"has {count - 3} records, but {count} by run\.json"):
        load_records(received)
    said: list[str] = []
    assert repair(received, said.append)
    assert read_manifest(received).records == 0
    left = load_records(received)
    assert len(left.evaluations) < len(whole.evaluations)
    assert not repair(received, said.append)


def test_repair_at_a_url_repairs_what_is_there(received: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / "cache"))
    path = received / "evaluations.jsonl"
    path.unlink()
    Journal(path).append(*sweep(8))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5], lines[5].replace(b"0.", b"1.", 1), *lines[6:]]))
    url = f"file://{received}"
    with local(url) as folder, pytest.raises(RayulError, match="its checksum differs"):
        load_records(folder)
    said: list[str] = []
    assert repair(url, said.append)
    assert any("--resume runs again" in line for line in said)
    assert (received / "evaluations.jsonl.rejected").exists(), "it is copied back"
    with local(url, write=True) as folder:
        assert load_records(folder).evaluations == load_records(received).evaluations


def test_more_names_than_a_table_can_have_columns_are_refused(received: Path) -> None:
    """3 MB of them kept the report busy for longer than anybody waits."""
    rows = [e for e in sweep(8) if isinstance(e, Evaluation)]
    wide = [replace(e, metrics=e.metrics | {f"m{i}x{j}": 0.5 for j in range(100)}) for i, e in enumerate(rows)]
    (received / "evaluations.jsonl").write_text("".join(to_json(e) + "\n" for e in wide))
    with pytest.raises(RayulError, match=r"more than 2000 settings and metrics"):
        load_records(received)


@pytest.mark.parametrize("rows", [{}, {"retain": (1, 2, 3)}, {"retain": (0, 5)}])
def test_sums_over_groups_have_rows_for_each_group(rows: dict[str, tuple[int, ...]]) -> None:
    e = Evaluation("0001", 5, group_sums={"retain.es": (1.0, 2.0)}, group_rows=rows)
    with pytest.raises(ValueError, match=r"group_sums\.retain\.es has 2 groups"):
        from_json(to_json(e))
