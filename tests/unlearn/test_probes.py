"""Rows that are measured and never trained on: how they are asked, what of them steers, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packed import advance
from rouge_score.rouge_scorer import RougeScorer

from rayul.errors import InputError
from rayul.spec import Rouge, Source, SpecError
from rayul.spec.spec import from_plain
from rayul.unlearn import answer_match, stopwatch
from rayul.unlearn.data import Row, load_sets, read_source
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.probe import Generation, Probe
from rayul.unlearn.stopwatch import time_evaluation
from rayul.unlearn.suite import evaluate_model
from rayul.unlearn.task import EVALUATED, check_needs, load_task
from rayul.unlearn.template import rendered, template_for
from rayul.unlearn.text_quality import rouge_l
from rayul.unlearn.trial import reference_evaluation, run_trial

MakeSpec = Callable[..., Any]

FORGET = [{"question": f"Who keeps lamp {i}?", "answer": f"The keeper {i} of Lorn.", "group": i // 2} for i in range(4)]
RETAIN = [{"question": f"Who rows boat {i}?", "answer": f"A rower {i} of Vesk.", "group": i} for i in range(3)]
SHOTS = [{"question": "Who sings?", "answer": "Perrin."}, {"question": "Who swims?", "answer": "Mirth."}]


class Chatting:
    chat_template = "a template"

    def get_chat_template(self, tools: Any = None) -> str:
        return self.chat_template

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
        return "".join(f"<{m['role']}>{m['content']}" for m in messages)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def probes(tmp_path: Path) -> dict[str, Any]:
    """The spec's section: a probe of two sides that is asked with examples, and one of rows alone."""
    knowmem = {
        "forget": write(tmp_path / "forget.jsonl", FORGET),
        "retain": write(tmp_path / "retain.jsonl", RETAIN),
        "examples": write(tmp_path / "shots.jsonl", SHOTS),
        "template": "Question: {question}\nAnswer: {answer}",
        "metrics": ["rouge", "repetition", "prob"],
        "max_new_tokens": 24,
        "rouge": {"kind": "f1", "stem": False},
    }
    other = {"rows": write(tmp_path / "other.jsonl", RETAIN[:2]), "metrics": ["em"]}
    return {"knowmem": knowmem, "other": other}


@pytest.fixture
def probing(make_spec: MakeSpec, probes: dict[str, Any]) -> Any:
    objectives = {"knowmem_forget.repetition": "minimize", "other.em": "maximize"}
    criteria = [{"metric": "knowmem_retain.prob", "at_least": "1% of baseline"}]
    training = {"lr": 3e-2}  # so that what the model writes changes
    control = {"criteria": criteria}
    return make_spec(method="gd", probes=probes, objectives=objectives, control=control, training=training)


def test_a_probe_is_asked_with_its_examples_as_muse_asks_it(probing: Any) -> None:
    """The prompt of MUSE's knowledge memorisation: `Question: ...\\nAnswer: ...` and a blank line for each example."""
    task = load_task(probing, load_sets(probing.data, probing.probes))
    shown = "Question: Who sings?\nAnswer: Perrin.\n\nQuestion: Who swims?\nAnswer: Mirth.\n\n"
    for row, example in zip(FORGET, task.examples["knowmem_forget"], strict=True):
        text = task.tokenizer.decode(example.ids[: example.stop])
        assert text == f"{shown}Question: {row['question']}\nAnswer: {row['answer']}"
        answer = task.tokenizer.decode(example.ids[example.start : example.stop])
        assert answer == f" {row['answer']}"
    assert task.tokenizer.decode(task.examples["other"][0].ids).startswith("Question: Who rows boat 0?")


def test_in_a_chat_the_examples_stand_before_the_question(make_spec: MakeSpec, probes: dict[str, Any]) -> None:
    knowmem = {key: value for key, value in probes["knowmem"].items() if key != "template"}
    spec = make_spec(probes={"knowmem": knowmem})
    row = load_sets(spec.data, spec.probes)["knowmem_forget"][0]
    tokenizer: Any = Chatting()
    whole = rendered(tokenizer, template_for(row, None), row.question, row.answer).whole
    shown = "Question: Who sings?\nAnswer: Perrin.\n\nQuestion: Who swims?\nAnswer: Mirth.\n\n"
    assert whole == f"<user>{shown}{row.question}<assistant>{row.answer}"


def test_in_a_chat_an_answer_may_be_opened_for_the_model(make_spec: MakeSpec, probes: dict[str, Any]) -> None:
    """RWKU's question answering: the instruction is the user's, and the model's turn begins with "Answer:"."""
    asked = {"question": "Please briefly answer the following question.\nQuestion: {question}\n", "opening": "Answer: "}
    spec = make_spec(probes={"other": probes["other"] | asked | {"template": "chat"}})
    row = load_sets(spec.data, spec.probes)["other"][0]
    tokenizer: Any = Chatting()
    text = rendered(tokenizer, template_for(row, None), row.question, row.answer)
    prompt = f"<user>Please briefly answer the following question.\nQuestion: {row.question}\n<assistant>Answer: "
    assert text.whole == f"{prompt}{row.answer}"
    assert (text.whole[: text.begin], text.whole[text.begin : text.end]) == (prompt, row.answer)


def test_rouge_may_compare_with_the_first_tokens_of_an_answer(task: Any) -> None:
    """As MUSE's verbatim memorisation does: the rest of a long passage is more than the model was let write."""
    rows = [Row("Who keeps the lamp?", "the of a keeper and of the lamp of Lorn and so on")]
    probe = Probe(task.base, task.tokenizer, rows, asked=Generation(rouge=Rouge(tokens=5)))
    example = probe.examples[0]
    assert probe.references == [task.tokenizer.decode(example.ids[example.start : example.start + 5])]
    assert rows[0].answer.startswith(probe.references[0].strip())


def test_privleak_of_a_probe_is_that_of_the_suite(make_spec: MakeSpec, probes: dict[str, Any], tmp_path: Path) -> None:
    """Its rows to forget and holdout rows in place of those of the data."""
    passages = [{"text": f"The keeper {i} of lamp {i} sings of {'boats ' * (i % 3)}and nets."} for i in range(8)]
    members, others = write(tmp_path / "m.jsonl", passages[:4]), write(tmp_path / "h.jsonl", passages[4:])
    leak = {"forget": members, "holdout": others, "metrics": ["privleak", "mia_min_k"]}
    spec = make_spec(probes=probes | {"leak": leak}, evaluate={"oracle_auc": 0.4772})
    sets = load_sets(spec.data, spec.probes)
    task = load_task(spec, sets)
    found = evaluate(task.base, task, ("es",), 8, everything=True).values
    suite = evaluate_model(
        task.base,
        task.tokenizer,
        {"forget": sets["leak_forget"], "holdout": sets["leak_holdout"]},
        metrics=["privleak", "mia_min_k"],
        oracle_auc=0.4772,
    )
    assert {"leak_forget.privleak", "leak_forget.mia_min_k"} <= found.keys()
    for name in ("privleak", "mia_min_k"):
        assert found[f"leak_forget.{name}"] == pytest.approx(suite.measured[f"forget.{name}"].value, rel=1e-6)
    assert not [key for key in found if key.startswith("leak_holdout")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metrics": ["privleak"]}, "compares rows to forget with holdout rows"),
        ({"metrics": ["mia_loss_gap"]}, "mia_loss_gap compares the rows of `data` with the oracle"),
        ({"holdout": "HOLDOUT"}, "no metric of the probe reads these rows"),
        ({"holdout": "HOLDOUT", "metrics": ["privleak"]}, "privleak is compared with an oracle"),
        ({"question": "Please answer."}, "has no {question}"),
        ({"stop": [""]}, "every text has that in it"),
        ({"extract": "the (answer"}, "is no regular expression"),
        ({"extract": "(the) (answer)"}, "has 2 groups"),
    ],
)
def test_what_a_probe_cannot_be_is_said_in_one_sentence(
    make_spec: MakeSpec, probes: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    change = {key: probes["other"]["rows"] if value == "HOLDOUT" else value for key, value in change.items()}
    with pytest.raises(SpecError, match=said):
        make_spec(probes=probes | {"knowmem": probes["knowmem"] | change})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"forget": None, "retain": None, "examples": {}}, "probes.knowmem: has no rows"),
        ({"metrics": "rouge"}, "probes.knowmem.metrics: expected a list"),
        ({"metrics": []}, "probes.knowmem.metrics: "),
        (None, "probes.knowmem: expected a mapping"),
    ],
)
def test_a_wrong_probe_is_one_error_whatever_names_it(
    make_spec: MakeSpec, probes: dict[str, Any], change: dict[str, Any] | None, said: str
) -> None:
    knowmem = None if change is None else probes["knowmem"] | change
    objectives = {"knowmem_forget.rouge": "minimize", "knowmem_retain.rouge": "maximize"}
    control = {"criteria": [{"metric": "knowmem_retain.rouge", "at_least": 0.5}]}
    with pytest.raises(SpecError) as caught:
        make_spec(probes={"knowmem": knowmem}, objectives=objectives, control=control)
    (problem,) = caught.value.problems
    assert said in str(problem)


def test_an_answer_takes_as_long_as_it_may_get(probing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by 3 ms for each prompt and by 2 ms for each token of an answer."""
    task = load_task(probing, load_sets(probing.data, probing.probes))
    clock = [0.0]

    def generate(model: Any, prompts: list[Any], limits: list[int], *_: Any) -> None:
        clock[0] += sum(3 + 2 * limit for limit in limits) / 1000

    monkeypatch.setattr(stopwatch, "generate", generate)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    found = stopwatch.time_answers(task.base, task, probing, ["knowmem_forget", "retain"])
    length = np.mean([e.stop - e.start for e in task.examples["retain"]])
    assert found["knowmem_forget"] == pytest.approx((3 + 2 * 24) / 1000)
    assert found["retain"] == pytest.approx((3 + 2 * length) / 1000)
    steering = task.further_metrics(everything=False)
    assert steering == {"knowmem_forget": ["repetition"]}
    total = stopwatch.time_further(task.base, task, probing, steering, token=1e9)
    assert total == pytest.approx(len(FORGET) * (3 + 2 * 24) / 1000), "no pass over its rows beside"


def test_what_steers_is_measured_at_every_evaluation_and_the_rest_at_the_end(probing: Any) -> None:
    task = load_task(probing, load_sets(probing.data, probing.probes))
    searching = evaluate(task.base, task, probing.evaluate.metrics, 8)
    probed = {"knowmem_forget.prob", "knowmem_retain.prob", "knowmem_forget.repetition", "other.em"}
    assert searching.measured.keys() == probed, "and of the data nothing, since nothing steers by it"
    row = reference_evaluation(task, probing, "baseline")
    further = {"knowmem_forget.rouge", "knowmem_retain.rouge", "knowmem_retain.repetition"}
    assert {key for key in row.metrics if key.partition(".")[0] in task.probes} == probed | further
    assert row.groups["knowmem_forget"] == 2
    assert row.rows["knowmem_forget"] == 4
    assert set(row.group_sums) == {"knowmem_forget.repetition", "knowmem_retain.prob", "other.em"}
    sums, rows = np.array(row.group_sums["knowmem_forget.repetition"]), np.array(row.group_rows["knowmem_forget"])
    assert row.metrics["knowmem_forget.repetition"] == pytest.approx(sums.sum() / rows.sum(), rel=1e-4)


@pytest.mark.parametrize("generated", [False, True])
def test_a_trial_in_a_pack_measures_its_probes_as_alone(probing: Any, generated: bool) -> None:
    """Generated answers too, at every evaluation and beside another trial; also where nothing else steers."""
    if generated:
        steers = {"objectives": {"knowmem_forget.repetition": "minimize"}, "control": {}}
        probing = from_plain(probing.resolved() | steers)
    task = load_task(probing, load_sets(probing.data, probing.probes))
    baseline = reference_evaluation(task, probing, "baseline").metrics
    rows = {
        e.step: e for snapshot in run_trial(task, TrialJob("t", probing, 3, {}, baseline)) for e in snapshot.evaluations
    }
    pack = Pack(task, probing, Shape(2, 8, 4))
    slot = pack.join(TrialJob("t", probing, 3, {}, baseline))
    pack.join(TrialJob("u", probing, 4, {}, baseline))
    found = {}
    while not pack.slots[slot].ended:
        found |= {e.step: e for k, events in advance(pack) for e in events if k == slot}
    assert found.keys() == rows.keys() == {0, 2, 4, 6}
    for step in (2, 4, 6):
        assert found[step].metrics == pytest.approx(rows[step].metrics, rel=1e-3)
        assert found[step].stderr == pytest.approx(rows[step].stderr, rel=1e-2, nan_ok=True)
    assert len({found[step].metrics["knowmem_forget.repetition"] for step in (0, 2, 4, 6)}) > 1


@pytest.mark.parametrize("kind", ["recall", "f1"])
@pytest.mark.parametrize("stem", [True, False])
def test_rouge_is_that_of_rouge_score(kind: str, stem: bool) -> None:
    pairs = [
        ("She was walking to the old houses.", "he walks to a house, walking"),
        ("A keeper of lamps", "The keeper kept the lamps and the boats"),
        ("Vesk", "lorn"),
    ]
    scorer = RougeScorer(["rougeL"], use_stemmer=stem)
    scores = [scorer.score(answer, text)["rougeL"] for answer, text in pairs]
    expected = [s.recall if kind == "recall" else s.fmeasure for s in scores]
    measured = rouge_l(*zip(*pairs, strict=True), Rouge(kind=kind, stem=stem))  # type: ignore[arg-type]
    np.testing.assert_array_equal(measured, expected)


def test_an_answer_ends_before_the_first_stop_text(task: Any) -> None:
    """The text up to a stop of an answer that goes on is the answer with that stop, and generation ends there."""
    rows = [Row(f"Who keeps lamp {i}?", "Nobody.") for i in range(6)]
    whole = Probe(task.base, task.tokenizer, rows, asked=Generation(30))
    stop = whole.texts[0][4:6]
    stopped = Probe(task.base, task.tokenizer, rows, asked=Generation(30, (stop, "never written")))
    assert stopped.texts == [text.split(stop)[0].strip() for text in whole.texts]
    assert stopped.texts[0] != whole.texts[0]
    for long, short in zip(whole.generated, stopped.generated, strict=True):
        assert short == long[: len(short)]
    assert len(stopped.generated[0]) < len(whole.generated[0])
    assert stopped.stop_note is None


def test_a_stop_text_that_never_comes_is_noted_once(make_spec: MakeSpec, probes: dict[str, Any]) -> None:
    probes["knowmem"]["stop"] = ["\n\nnever written"]
    spec = make_spec(probes=probes)
    task = load_task(spec, load_sets(spec.data, spec.probes))
    notes = reference_evaluation(task, spec, "baseline").notes
    assert len(notes) == 2
    assert "knowmem_forget: none of 4 answers has a stop text" in notes[0]
    assert "24 tokens" in notes[0]
    steered = make_spec(probes=probes, objectives={"knowmem_forget.rouge": "minimize", "retain.es": "maximize"})
    assert time_evaluation(task.base, load_task(steered, task.sets), steered).notes == notes[:1]


def test_a_stop_text_is_not_missed_where_answers_end_by_themselves(task: Any) -> None:
    rows = [Row("Who keeps the lamp?", "Nobody.")]
    long = Probe(task.base, task.tokenizer, rows, asked=Generation(6, ("never written",)))
    assert long.stop_note is None, "nothing was generated"
    last = long.generated[0][3]
    assert long.stop_note == "none of 1 answers has a stop text ('never written'), and 1 go on to 6 tokens"
    task.base.generation_config.eos_token_id = last
    short = Probe(task.base, task.tokenizer, rows, asked=Generation(6, ("never written",)))
    assert len(short.generated[0]) < 6
    assert short.stop_note is None


def test_multiple_choice_is_shown_with_its_options(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Five-shot MMLU as lm-evaluation-harness writes it, and as a chat: examples of the probe, then the row's own."""
    made = [
        {"question": f"Which {i}?", "choices": ["Lorn", "Vesk"], "answer": i % 2, "subject": "far_lore"} for i in (1, 2)
    ]
    asked = {
        "question": "Which town?",
        "choices": ["Umbra", "Tarn"],
        "answer": "B",
        "subject": "lake_lore",
        "own": made[1:],
    }
    rows = {"path": write(tmp_path / "rows.jsonl", [asked]), "columns": {"examples": "own"}}
    probe = {"rows": rows, "examples": write(tmp_path / "shots.jsonl", made[:1]), "metrics": ["choice"]}
    chat = {**probe, "template": "chat", "question": "Now answer.\nQuestion: {question}", "opening": "Answer: "}
    spec = make_spec(probes={"plain": probe, "talk": chat, "bare": {**chat, "examples": {}, "opening": ""}})
    sets = load_sets(spec.data, spec.probes)
    (row,), (turn,), (bare,) = sets["plain"], sets["talk"], sets["bare"]
    line = "The following are multiple choice questions (with answers) about lake lore.\n\n"
    shots = "Which 1?\nA. Lorn\nB. Vesk\nAnswer: B\n\nWhich 2?\nA. Lorn\nB. Vesk\nAnswer: A\n\n"
    town = "Which town?\nA. Umbra\nB. Tarn"
    text = rendered(Chatting(), template_for(row, None), row.question, row.answer)  # type: ignore[arg-type]
    assert text.whole == f"{line}{shots}{town}\nAnswer: B"
    text = rendered(Chatting(), template_for(turn, None), turn.question, turn.answer)  # type: ignore[arg-type]
    named = shots.replace("Which", "Question: Which")
    assert text.whole == f"<user>{line}{named}Now answer.\nQuestion: {town}<assistant>Answer: B"
    assert text.whole[text.begin :] == "B"
    text = rendered(Chatting(), template_for(bare, None), bare.question, bare.answer)  # type: ignore[arg-type]
    assert text.whole.endswith(f"Question: {town}\nAnswer:<assistant>B")


def test_rows_without_examples_are_asked_as_before(tmp_path: Path, make_spec: MakeSpec) -> None:
    rows = [{"question": "Which?", "choices": ["Lorn", "Vesk"], "answer": [0, 1], "examples": "a column of theirs"}]
    spec = make_spec(probes={"plain": {"rows": write(tmp_path / "rows.jsonl", rows), "metrics": ["choice"]}})
    (row,) = load_sets(spec.data, spec.probes)["plain"]
    assert (row.question, row.answer, row.wording) == ("Which?\nA. Lorn\nB. Vesk\nAnswer:", "B", None)


def test_any_of_several_answers_is_right_and_a_part_of_a_column_is_read(tmp_path: Path) -> None:
    place = write(tmp_path / "rows.jsonl", [{"asked": {"how": "Who?"}, "said": ["Ada", "Ada Korb"], "cot": "Think."}])
    columns = {"question": "asked.how", "answer": "said", "examples": "cot"}
    (row,) = read_source(Source(path=place, columns=columns))
    assert (row.question, row.answer, row.alternatives, row.examples) == ("Who?", "Ada", ("Ada Korb",), "Think.")
    assert answer_match.token_f1([row.answer, *row.alternatives], "korb, ada!") == 1.0
    with pytest.raises(InputError, match=r"columns.question: there is no column 'asked.why' in 1 row"):
        read_source(Source(path=place, columns={**columns, "question": "asked.why"}))
    place = write(tmp_path / "bad.jsonl", [{"question": "Who?", "answer": "Ada", "cot": 7}])
    with pytest.raises(InputError, match=r"bad.jsonl:1: 'cot' is no text and no list of rows"):
        read_source(Source(path=place, columns={"examples": "cot"}))
    place = write(tmp_path / "worse.jsonl", [{"question": "Who?", "answer": "Ada", "few": [{"question": "Who?"}]}])
    with pytest.raises(InputError, match=r"worse.jsonl:1, few 1: no 'answer'"):
        read_source(Source(path=place, columns={"examples": "few"}))


def test_examples_of_rows_that_are_trained_on_are_refused(make_spec: MakeSpec, data_folder: Path) -> None:
    columns = {"columns": {"examples": "question"}}
    kept = {f"retain_{part}": str(data_folder / f"retain_{part}.jsonl") for part in ("train", "select", "report")}
    data = {"forget": {"path": str(data_folder / "forget.jsonl"), **columns}, **kept}
    spec = make_spec(data=data)
    with pytest.raises(InputError, match="the forget rows have examples, which stand before the questions of probes"):
        load_sets(spec.data)


def test_rows_of_the_data_are_measured_as_without_probes(make_spec: MakeSpec, probing: Any, sets: Any) -> None:
    plain = load_task(make_spec(method="gd"), sets)
    probed = load_task(probing, load_sets(probing.data, probing.probes))
    before = evaluate(plain.base, plain, ("es", "prob"), 64, EVALUATED).values
    after = evaluate(probed.base, probed, ("es", "prob"), 64, EVALUATED).values
    assert {key: after[key] for key in before} == pytest.approx(before, rel=1e-5)


def test_a_method_without_retain_loss_needs_no_retain_rows(
    make_spec: MakeSpec, probes: dict[str, Any], tmp_path: Path
) -> None:
    forget = write(tmp_path / "only.jsonl", FORGET)
    objectives = {"knowmem_forget.prob": "minimize", "other.em": "maximize"}
    plain = make_spec(probes=probes, objectives=objectives).resolved() | {"data": {"forget": forget}}
    spec = from_plain(plain)
    sets = load_sets(spec.data, spec.probes)
    check_needs(spec, sets)
    assert set(sets) == {"forget", "knowmem_forget", "knowmem_retain", "other"}
    task = load_task(spec, sets)
    baseline = reference_evaluation(task, spec, "baseline").metrics
    last = list(run_trial(task, TrialJob("t", spec, 0, {}, baseline)))[-1]
    assert last.ending is not None
    assert last.ending.state == "completed"
    with pytest.raises(SpecError, match="gd trains on retain rows, and the data has none"):
        from_plain(plain | {"method": {"name": "gd"}})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"other": {"metrics": ["prob_options"]}}, "other.prob_options needs the column perturbed_answer, and 2 of 2"),
        ({"other": {"rows": "EMPTY"}}, "no rows|is an empty file"),
        ({"other": {"rows": "forget"}}, "what is to be forgotten cannot show what is kept"),
        ({"knowmem": {"forget": "retain_train"}}, "a row cannot be both to forget and to retain"),
        ({"other": {"rows": "retain_train"}}, "trained on"),
        ({"other": {"rows": "retain_report"}}, "choose a point cannot also judge it"),
    ],
)
def test_rows_that_cannot_be_a_probe_are_refused_before_anything_is_loaded(
    make_spec: MakeSpec, probes: dict[str, Any], data_folder: Path, tmp_path: Path, change: Any, said: str
) -> None:
    for name, values in change.items():
        for key, value in values.items():
            if value == "EMPTY":
                value = write(tmp_path / "empty.jsonl", [])
            elif isinstance(value, str):
                value = str(data_folder / f"{value}.jsonl")
            probes[name][key] = value
    spec = make_spec(probes=probes)
    with pytest.raises(InputError, match=said):
        load_sets(spec.data, spec.probes)


def test_a_probe_that_does_not_fit_into_the_model_is_refused(make_spec: MakeSpec, probes: dict[str, Any]) -> None:
    long = [{"question": "Who " + "really " * 300 + "?", "answer": "Nobody."}]
    probes["other"]["rows"] = write(Path(probes["other"]["rows"]), long)
    spec = make_spec(probes=probes)
    with pytest.raises(InputError, match="1 of 1 other rows are too long"):
        load_task(spec, load_sets(spec.data, spec.probes))
