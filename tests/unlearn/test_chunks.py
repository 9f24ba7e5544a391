"""Documents cut into chunks of tokens: which tokens, what is trained on, what is measured, and whose they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packed import TWENTY, assert_equal_trials, baseline_of, finish
from tokenizers_by_kind import KINDS
from typer.testing import CliRunner

from rayul.cli import app
from rayul.errors import InputError
from rayul.spec import SourceData, SpecError, dump_yaml, parse_spec
from rayul.spec.spec import from_plain
from rayul.unlearn.chunks import chunks, load_rows
from rayul.unlearn.data import Chunk, Row, Window, group_numbers, load_sets
from rayul.unlearn.forward import score
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.pack.base import PackedBase
from rayul.unlearn.pack.lines import lines
from rayul.unlearn.pack.reference import Reference
from rayul.unlearn.packing import check_apart_in, joined, training_rows
from rayul.unlearn.task import Task, load_task
from rayul.unlearn.tokens import collate, encode_rows

TEXT = " ".join(f"Ada Korb was born in Lorn in 19{i}7. She wrote {i} books, Vesk among them.\n" for i in range(7))
FAST = [kind for kind in KINDS if kind != "no fast tokenizer"]
MakeSpec = Callable[..., Any]


def document(text: str = TEXT, size: int = 16, stride: int | None = None, group: str = "") -> Row:
    half = len(text) // 2
    return Row(text[:half], text[half:], group=group, text=text, window=Window(size, stride or size))


def independent(tokenizer: Any, text: str, size: int, stride: int | None = None) -> list[list[int]]:
    """Windows of one tensor of ids, as torch unfolds them, and what is left at its end."""
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    with_special = tokenizer("a")["input_ids"]
    bos = [tokenizer.bos_token_id] if with_special[0] == tokenizer.bos_token_id else []
    room = size - len(bos)
    step = min(stride or room, room)
    whole = ids.unfold(0, room, step).tolist()
    covered = (len(whole) - 1) * step + room
    rest = [] if covered == len(ids) else [ids[len(whole) * step :].tolist()]
    return [[*bos, *window] for window in [*whole, *rest]]


@pytest.mark.parametrize("kind", FAST)
@pytest.mark.parametrize(("size", "stride"), [(16, None), (16, 16), (24, 10), (17, 3)])
def test_the_tokens_are_those_of_an_independent_chunking(kind: str, size: int, stride: int | None) -> None:
    tokenizer = KINDS[kind]()
    found = list(chunks(document(size=size, stride=stride), tokenizer))
    assert [list(row.chunk.ids) for row in found if row.chunk] == independent(tokenizer, TEXT, size, stride)
    assert all(len(row.chunk.ids) <= size for row in found if row.chunk)
    for row in found:
        assert row.question + row.answer == row.text
        assert row.text in TEXT
        assert row.question
        assert row.answer
    if stride is None:
        assert "".join(row.text for row in found) == TEXT


def test_the_second_half_begins_with_a_word_near_the_middle() -> None:
    tokenizer = KINDS["byte-level"]()
    for row in chunks(document(size=32), tokenizer):
        assert row.chunk is not None
        assert row.answer[0].isspace() or row.question[-1].isspace()
        assert abs(row.chunk.start - len(row.chunk.ids) / 2) <= 6
        assert tokenizer.decode(row.chunk.ids[row.chunk.start :]) == row.answer


def test_no_chunk_joins_two_documents_and_all_are_of_its_group() -> None:
    tokenizer = KINDS["byte-level"]()
    documents = [document(f"{name} {TEXT}", group=group) for name, group in (("One", ""), ("Two", ""), ("Three", "g"))]
    found = [list(chunks(one, tokenizer)) for one in documents]
    assert [{row.group for row in rows} for rows in found][2] == {"g"}
    assert len(set(group_numbers([row for rows in found for row in rows]))) == 3
    for one, rows in zip(documents, found, strict=True):
        assert "".join(row.text for row in rows) == one.text
    (again,) = {row.group for row in chunks(documents[0], KINDS["byte-level, BOS added"]())}
    assert again == found[0][0].group, "a document's own group depends on its text alone"


def test_short_texts_are_one_chunk_and_other_rows_stay() -> None:
    tokenizer = KINDS["byte-level"]()
    (one,) = chunks(document("Ada was here.", size=64), tokenizer)
    assert one.chunk is not None
    assert list(one.chunk.ids) == tokenizer("Ada was here.", add_special_tokens=False)["input_ids"]
    row = Row("q", "a")
    assert list(chunks(row, tokenizer)) == [row]


def test_a_tokenizer_without_places_is_refused() -> None:
    with pytest.raises(InputError, match="chunk needs a tokenizer that says where"):
        list(chunks(document(), KINDS["no fast tokenizer"]()))


# --- packed chunks -------------------------------------------------------------------------------------------------


def pieces(lengths: list[int], room: int = 20) -> list[Row]:
    return [Row("a", f"{i}", chunk=Chunk(tuple(range(n)), 1, room)) for i, n in enumerate(lengths)]


def test_chunks_fill_rows_best_fit_first() -> None:
    assert training_rows(pieces([20, 7, 12, 3, 8, 9])) == [[0], [1, 3, 5], [2, 4]]
    assert training_rows(pieces([5, 5], room=0)) == [[0], [1]]
    assert training_rows([Row("q", "a"), Row("r", "b")]) == [[0], [1]]
    assert training_rows([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_every_chunk_is_in_one_row_and_no_row_is_too_long(seed: int) -> None:
    lengths = torch.randint(2, 33, (60,), generator=torch.Generator().manual_seed(seed)).tolist()
    found = training_rows(pieces(lengths, room=32))
    assert sorted(i for row in found for i in row) == list(range(60))
    full = [sum(lengths[i] for i in row) for row in found]
    assert max(full) <= 32
    assert len(found) <= 1.1 * sum(lengths) / 32 + 1


# --- a spec with chunks -------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path, make_spec: MakeSpec) -> Callable[..., Any]:
    """corpus(chunk=..., stride=..., pack=..., method=..., ...) -> a spec on documents."""

    def make(chunk: int | None = 24, stride: int | None = None, pack: tuple[str, ...] = (), **sections: Any) -> Any:
        def write(name: str, count: int) -> dict[str, Any]:
            texts = [f"The {name} {i}: " + TEXT[20 * i : 20 * i + 150] for i in range(count)]
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
            return {"path": str(tmp_path / f"{name}.jsonl"), "chunk": chunk, "stride": stride, "pack": name in pack}

        split = {"certify": 0.0, "report": 0.3}
        data = {
            "forget": write("forget", 3),
            "retain": write("retain", 8),
            "general": write("general", 2),
            "split": split,
        }
        return make_spec(data=data, **sections)

    return make


def test_documents_are_split_and_then_cut(corpus: Callable[..., Any]) -> None:
    spec = corpus()
    sets, whole = load_rows(spec), load_sets(spec.data, spec.probes)
    assert sets.keys() == whole.keys()
    for name, rows in sets.items():
        assert len(rows) > 2 * len(whole[name])
        assert "".join(row.text for row in rows) == "".join(row.text for row in whole[name])
        assert len(set(group_numbers(rows))) == len(whole[name])


def test_training_asks_for_all_tokens_and_metrics_for_the_second_half(corpus: Callable[..., Any]) -> None:
    spec = corpus(method="gd")
    sets = load_rows(spec)
    task = load_task(spec, sets)
    some = list(range(5))
    batch = collate([task.training["forget"][i] for i in some], task.pad)
    with torch.no_grad():
        logits = task.base(input_ids=batch.ids, attention_mask=batch.attention).logits
        ours = score(task.base, [task.training["forget"][i] for i in some], task.pad)
        labels = torch.where(batch.attention.bool(), batch.ids, -100)
        theirs = task.base(input_ids=batch.ids, attention_mask=batch.attention, labels=labels).loss
    nll = -sum(float(one.logp.sum()) for one in ours) / sum(len(one.logp) for one in ours)
    assert nll == pytest.approx(float(theirs), rel=1e-5), "the loss of a language model on the same tokens"
    assert logits.shape[1] == batch.ids.shape[1]
    for row, example in zip(sets["forget"], task.examples["forget"], strict=True):
        assert task.tokenizer.decode(example.ids[example.start :]) == row.answer
        assert 1 < example.start < example.stop == len(example.ids)
    assert encode_rows(task.tokenizer, None, sets["forget"]) == task.examples["forget"]


def test_a_packed_row_scores_as_its_texts_alone(corpus: Callable[..., Any]) -> None:
    spec = corpus(chunk=250, pack=("forget",), method="gd")
    sets = load_rows(spec)
    task = load_task(spec, sets)
    alone = score(task.base, [e._replace(start=1) for e in task.examples["forget"]], task.pad)
    together = score(task.base, task.training["forget"], task.pad)
    shared = training_rows(sets["forget"])
    assert len(shared) < len(alone)
    for row, found in zip(shared, together, strict=True):
        expected = np.concatenate([alone[i].logp for i in row])
        np.testing.assert_allclose(found.logp, expected, atol=2e-5)
    seeing = score(task.base, [e._replace(breaks=()) for e in task.training["forget"]], task.pad)
    last = len(alone[shared[0][-1]].logp)
    assert np.abs(seeing[0].logp[-last:] - together[0].logp[-last:]).max() > 1e-3, "texts that see one another"
    lined = Reference(PackedBase(task.base, []), {"forget": lines(task.training["forget"], task.pad)})
    kept = lined.logp("forget", torch.arange(len(shared)))
    for row, logp, found in zip(range(len(shared)), kept, together, strict=True):
        own = logp[lined.sets["forget"].mask[row]]
        np.testing.assert_allclose(own, found.logp, atol=2e-5)


def test_what_is_measured_is_not_packed(corpus: Callable[..., Any]) -> None:
    plain, packed = (load_rows(corpus(chunk=250, pack=pack)) for pack in ((), ("forget",)))
    assert [row.chunk and row.chunk.ids for row in plain["forget"]] == [
        r.chunk and r.chunk.ids for r in packed["forget"]
    ]
    assert [row.group for row in plain["forget"]] == [row.group for row in packed["forget"]]
    first, second = (load_task(corpus(chunk=250), sets).examples for sets in (plain, packed))
    assert first["forget"] == second["forget"]


def test_a_model_that_would_mix_packed_texts_is_refused(corpus: Callable[..., Any]) -> None:
    spec = corpus(chunk=250, pack=("forget",))
    task = load_task(spec, load_rows(spec))
    forward = task.base.forward

    def blind(input_ids: Any, position_ids: Any = None, **more: Any) -> Any:
        """Reads the positions, and lets all texts of a row see one another."""
        return forward(input_ids=input_ids, **{"attention_mask": torch.ones_like(input_ids), **more})

    task.base.forward = blind
    with pytest.raises(InputError, match="does not keep packed texts apart"):
        check_apart_in(task.base, task.training["forget"])
    task.base.forward = lambda input_ids, attention_mask: forward(input_ids=input_ids)
    with pytest.raises(InputError, match="does not keep packed texts apart"):
        check_apart_in(task.base, task.training["forget"])
    check_apart_in(task.base, [joined([task.examples["forget"][0]])])


@pytest.mark.parametrize(
    ("method", "shared"),
    [*((method, ()) for method in ("ga", "npo", "gd", "po", "rmu")), *((m, ("forget",)) for m in ("npo", "po", "rmu"))],
)
def test_a_packed_trial_on_chunks_equals_the_trial_alone(
    method: str, shared: tuple[str, ...], corpus: Callable[..., Any]
) -> None:
    spec = corpus(chunk=250 if shared else 24, pack=shared, method=method, lora={"r": 4}, training=TWENTY)
    task = load_task(spec, load_rows(spec))
    pack = Pack(task, spec, Shape(slots=2, rank=8, rows=2, group=None, compiled=False))
    slot = pack.join(TrialJob("t", spec, 7, {}, baseline_of(task, spec)))
    assert_equal_trials(pack, slot, finish(pack, slot), task, spec, 7)


def test_a_rule_that_perturbs_what_comes_before_answers_is_refused(corpus: Callable[..., Any]) -> None:
    spec = corpus(method={"name": "gd", "gradient": "latent"})
    with pytest.raises(InputError, match="latent adds to the hidden states of questions, and chunks have none"):
        load_task(spec, load_rows(spec))


def test_a_chunk_longer_than_the_model_reads_is_refused_however_short_the_texts(corpus: Callable[..., Any]) -> None:
    spec = corpus(chunk=300)
    with pytest.raises(InputError, match=r"data\.forget\.chunk is 300, and the model has 256 positions") as caught:
        load_task(spec, load_rows(spec))
    assert "set 256 or less" in caught.value.hint
    assert isinstance(load_task(corpus(chunk=256), load_rows(corpus(chunk=256))), Task)


@pytest.mark.parametrize(
    "config",
    [{"max_position_embeddings": 256}, {"n_positions": 256}, {"text_config": {"max_position_embeddings": 256}}],
)
def test_of_a_model_on_this_machine_that_is_said_before_a_row_is_read(
    corpus: Callable[..., Any], tmp_path: Path, config: dict[str, Any]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    (tmp_path / "model/tokenizer.json").write_text("{}")
    spec = corpus(chunk=300)
    spec = from_plain(spec.resolved() | {"model": str(tmp_path / "model")})
    with pytest.raises(InputError, match=r"data\.forget\.chunk is 300, and the model has 256 positions"):
        load_rows(spec)
    (tmp_path / "spec.yaml").write_text(dump_yaml(spec.resolved()))
    argv = ["validate", str(tmp_path / "spec.yaml")]
    with pytest.raises(SpecError, match=r"data\.forget\.chunk is 300, and the model has 256 positions"):
        CliRunner().invoke(app, argv, catch_exceptions=False)
    (tmp_path / "spec.yaml").write_text(dump_yaml(spec.resolved()).replace("chunk: 300", "chunk: 256"))
    assert CliRunner().invoke(app, argv, catch_exceptions=False).exit_code == 0


@pytest.mark.parametrize("name", ["retain", "general"])
def test_rows_that_judge_are_not_packed(corpus: Callable[..., Any], name: str) -> None:
    with pytest.raises(InputError, match=f"pack: texts share rows of training, and {name} rows are not trained on"):
        load_rows(corpus(pack=(name,)))


def test_layers_are_not_of_packed_documents(corpus: Callable[..., Any]) -> None:
    training = {"lr": 1e-3, "steps": 6, "evaluate_every": 2, "batch_size": 2, "layered": 2}
    spec = corpus(pack=("forget",), method="gd", training=training)
    with pytest.raises(InputError, match="layered forgets group by group, and a packed row holds several"):
        load_task(spec, load_rows(spec))
    assert load_task(corpus(method="gd", training=training), load_rows(corpus()))


def test_rows_of_questions_are_not_cut(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text('{"question": "Who?", "answer": "Ada"}\n')
    path = {"path": str(tmp_path / "f.jsonl"), "chunk": 16}
    with pytest.raises(InputError, match=r"f\.jsonl:1: chunk is for texts"):
        load_sets(SourceData.model_validate({"forget": path, "retain": path}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("pack: true", "data.forget.pack: has no meaning without chunk"),
        ("stride: 4", "data.forget.stride: has no meaning without chunk"),
        ("chunk: 8, stride: 9", "data.forget.stride: 9 is more than chunk, 8"),
        ("chunk: 4", "data.forget.chunk: must be at least 8"),
        ("chunk: 8, stride: 0", "data.forget.stride: must be at least 1"),
    ],
)
def test_a_window_without_sense_is_refused(options: str, said: str) -> None:
    head = "name: x\nmodel: testbed\nmethod: ga\ntraining: {lr: 1}"
    with pytest.raises(SpecError) as caught:
        parse_spec(f"{head}\ndata: {{retain: a/b, forget: {{path: a/b, {options}}}}}")
    assert said in str(caught.value)


def test_the_hash_of_rows_has_the_chunks(corpus: Callable[..., Any]) -> None:
    from rayul.sweep.folder import _text

    row = load_rows(corpus())["forget"][0]
    assert row.chunk is not None
    other = replace(row, chunk=row.chunk._replace(start=row.chunk.start + 1))
    assert _text(row) != _text(other)
    assert "chunk" not in _text(Row("q", "a"))
