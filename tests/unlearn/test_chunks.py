"""Documents cut into chunks of tokens: which tokens, what is trained on, what is measured, and whose they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from packed import TWENTY, assert_equal_trials, baseline_of, finish
from tokenizers_by_kind import KINDS

from rayul.errors import InputError
from rayul.spec import SourceData, SpecError, parse_spec
from rayul.unlearn.chunks import chunks, load_rows, packed
from rayul.unlearn.data import Row, Window, group_numbers, load_sets
from rayul.unlearn.forward import score
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack import Pack, Shape
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


# --- packed documents ---------------------------------------------------------------------------------------------

EXACT = [kind for kind in FAST if kind.startswith("byte-level")]
"""Kinds that encode a text alike wherever it stands."""


@pytest.mark.parametrize("kind", EXACT)
def test_packed_documents_are_their_tokens_with_end_tokens_between(kind: str) -> None:
    tokenizer = KINDS[kind]()
    texts = [TEXT[: 90 * (i + 1)] for i in range(4)]
    window = Window(20, 20, True)
    rows = [replace(document(text, group=f"g{i}"), window=window) for i, text in enumerate(texts)]
    whole: list[int] = []
    for i, text in enumerate(texts):
        whole += [tokenizer.eos_token_id] * (i > 0) + tokenizer(text, add_special_tokens=False)["input_ids"]
    bos = [tokenizer.bos_token_id] if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else []
    room = 20 - len(bos)
    found = [row for one in packed(rows, tokenizer) for row in chunks(one, tokenizer)]
    expected = [[*bos, *whole[i : i + room]] for i in range(0, len(whole), room)]
    assert [list(row.chunk.ids) for row in found if row.chunk] == [ids for ids in expected if len(ids) > len(bos) + 1]
    assert {len(row.chunk.ids) for row in found[:-1] if row.chunk} == {20}
    assert {row.group for row in found} == {""}, "each is a group of its own: it is of no one document"


def test_without_pack_documents_stay_apart() -> None:
    rows = [document("One " + TEXT), document("Two " + TEXT)]
    assert packed(rows, KINDS["byte-level"]()) == rows


def test_a_tokenizer_without_an_end_token_cannot_pack() -> None:
    tokenizer = KINDS["byte-level"]()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="pack writes an end token between texts, and the tokenizer has none"):
        packed([replace(document(), window=Window(16, 16, True))], tokenizer)


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


@pytest.mark.parametrize("joined", [(), ("forget",)], ids=["documents", "joined"])
@pytest.mark.parametrize("method", ["ga", "npo", "gd", "po", "rmu"])
def test_a_packed_trial_on_chunks_equals_the_trial_alone(
    method: str, joined: tuple[str, ...], corpus: Callable[..., Any]
) -> None:
    spec = corpus(pack=joined, method=method, lora={"r": 4}, training=TWENTY)
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


@pytest.mark.parametrize("name", ["retain", "general"])
def test_rows_that_judge_are_not_packed(corpus: Callable[..., Any], name: str) -> None:
    with pytest.raises(InputError, match=f"pack: a packed chunk holds several documents, and {name} rows are judged"):
        load_rows(corpus(pack=(name,)))


def test_layers_are_not_of_packed_documents(corpus: Callable[..., Any]) -> None:
    training = {"lr": 1e-3, "steps": 6, "evaluate_every": 2, "batch_size": 2, "layered": 2}
    spec = corpus(pack=("forget",), method="gd", training=training)
    with pytest.raises(InputError, match="layered forgets group by group, and packed chunks hold several"):
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
