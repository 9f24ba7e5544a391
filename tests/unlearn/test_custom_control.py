"""A control from a file: read without running it, searched as any other, and at work in every step of a trial."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packed import advance

from rayul.errors import InputError
from rayul.spec import Float, SpecError, difference, dump_yaml, load_spec, parse_spec

MINE = '''
"""Controls of my own."""
import torch


def capped(answers, *, cap: float = 4.0):
    """A token whose loss has reached the cap stops pushing."""
    return answers._replace(mask=answers.mask & (-answers.logp.detach() < cap))


def halved(answers):
    """Every token pushes half as hard."""
    return answers.with_logits(answers.logits / 2 + answers.logits.detach() / 2)


def flat(answers):
    return answers.with_logits(torch.zeros_like(answers.logits))


def everything(answers):
    return answers._replace(mask=torch.ones_like(answers.mask))


def nothing(answers):
    raise ValueError("not today")


def narrow(answers):
    return answers._replace(mask=answers.mask[:, 1:])


def weights(answers):
    return answers._replace(mask=answers.mask.float())


def bare(answers):
    return answers.mask
'''


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """write(source) -> ./mine.py in the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(source: str) -> Path:
        (tmp_path / "mine.py").write_text(source)
        return tmp_path / "mine.py"

    return write


def spec_of(own: str, *overrides: str) -> Any:
    text = "name: x\nmodel: testbed\ndata: testbed\nmethod: ga\ntraining: {lr: 1e-3}\n"
    return parse_spec(f"{text}control: {{own: {own}}}\n", overrides, source="x.yaml")


def problems(own: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        spec_of(own)
    return [str(p) for p in caught.value.problems]


def rows_of(task: Any, spec: Any) -> list[Any]:
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.trial import run_trial

    return [e for s in run_trial(task, TrialJob("0000", spec, 0, {}, {})) for e in s.evaluations]


def test_its_parameters_are_keys_of_the_spec_and_can_be_searched(write: Callable[[str], Path]) -> None:
    write(MINE)
    spec = spec_of("[./mine.py:halved, {name: ./mine.py:capped, cap: {float: [1, 8], log: true}}]")
    assert spec.space == {"control.own.1.cap": Float(1.0, 8.0, log=True)}
    assert [(own.name, own.parameters) for own in spec.at({"control.own.1.cap": 2.5}).control.own] == [
        ("./mine.py:halved", {}),
        ("./mine.py:capped", {"cap": 2.5}),
    ]
    assert spec_of("./mine.py:capped").control.own[0].parameters == {"cap": 4.0}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, 'no file "./mine.py"'),
        ("def mine(", "./mine.py:1: not Python"),
        ("def other(answers): ...", "has no function mine"),
        ("def mine(answers, mask): ...", "one positional argument without a default, got answers, mask"),
        ("def mine(answers, *, k): ...", "k has no default"),
        ("def mine(answers, *, name: str = 'x'): ...", "name cannot be a parameter"),
    ],
)
def test_what_breaks_the_contract_is_a_problem_of_the_spec(
    write: Callable[[str], Path], source: str | None, said: str
) -> None:
    if source is not None:
        write(source)
    (got,) = problems("[./mine.py:mine]")
    assert got.startswith("x.yaml:6: control.own.0.name: ")
    assert said in got
    assert "hint: " in got


def test_every_problem_is_named_at_its_place(write: Callable[[str], Path]) -> None:
    write(MINE)
    found = problems(
        "[{name: ./mine.py:capped, capp: 1, cap: high}, token_cap, {choice: [./mine.py:capped]}, "
        "{name: ./mine.py:capped, code: {./mine.py: [1]}}]"
    )
    assert [one.partition("\n")[0].removeprefix("x.yaml:6: control.own.") for one in found] == [
        '0.capp: ./mine.py:capped has no parameter "capp"',
        '0.cap: expected a number, got "high"',
        '1.name: expected a function such as ./my_control.py:fn, got "token_cap"',
        "2: expected a function such as ./my_control.py:fn, got a mapping",
        "3.code: expected a mapping of paths to source texts, got a mapping",
    ]


def test_the_resolved_spec_keeps_the_code_and_a_line_says_that_it_will_run(write: Callable[[str], Path]) -> None:
    file = write(MINE)
    spec = spec_of("[./mine.py:capped]")
    assert [line.partition(" (sha256")[0] for line in spec.notices] == ["code of ./mine.py will run"]
    (file.parent / "spec.yaml").write_text(dump_yaml(spec.resolved()))
    file.unlink()
    assert load_spec(file.parent / "spec.yaml") == spec
    write(MINE + "# changed\n")
    (line,) = difference(spec, spec_of("[./mine.py:capped]"))
    assert line.startswith("control.own.0.code../mine.py: ")
    assert "def capped" not in line


def test_validating_neither_runs_the_file_nor_loads_torch(write: Callable[[str], Path]) -> None:
    file = write("open('it_ran', 'w')\n" + MINE)
    (file.parent / "x.yaml").write_text(dump_yaml(spec_of("[./mine.py:capped]").resolved()))
    code = "import sys; from rayul.spec import load_spec; load_spec('x.yaml'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=file.parent, check=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert not (file.parent / "it_ran").exists()


def test_it_trains_as_the_built_in_control_of_the_same_rule(
    write: Callable[[str], Path], make_spec: Callable[..., Any], task: Any
) -> None:
    file = write(MINE)
    cap = 5.6  # between the losses of single tokens, some of which it takes out at every step
    sections = {"training": {"lr": 1e-2}}
    own = make_spec(**sections, control={"own": [{"name": "./mine.py:capped", "cap": cap}], "temperature": 2.0})
    file.unlink()  # a worker has the text, not the file
    built_in = make_spec(**sections, control={"token_cap": cap, "temperature": 2.0})
    without = make_spec(**sections, control={"temperature": 2.0})
    found = [[(e.step, e.metrics) for e in rows_of(task, spec)] for spec in (own, built_in, without)]
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_packs_apply_it_too_and_its_error_ends_its_trial_alone(
    write: Callable[[str], Path], make_spec: Callable[..., Any], task: Any
) -> None:
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.pack import Pack, Shape

    write(MINE)
    spec = make_spec(control={"own": [{"name": "./mine.py:capped", "cap": 5.6}]}, training={"lr": 1e-2})
    broken = make_spec(control={"own": ["./mine.py:nothing"]}, training={"lr": 1e-2})
    alone = rows_of(task, spec)
    pack = Pack(task, spec, Shape(slots=2, rank=8, rows=2))
    sound, failing = (pack.join(TrialJob(f"{n:04d}", s, 0, {}, alone[0].metrics)) for n, s in enumerate((spec, broken)))
    packed: list[Any] = []
    while events := advance(pack):
        packed += [row for slot, rows in events if slot == sound for row in rows]
    assert [e.step for e in packed] == [e.step for e in alone]
    for ours, theirs in zip(packed[1:], alone[1:], strict=True):
        assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-4)
    ended, other = pack.slots[failing].ending, pack.slots[sound].ending
    assert ended is not None
    assert other is not None
    assert (ended.state, ended.reason, other.state) == ("failed", "ValueError: not today", "completed")


def answers_of(losses: list[list[float]], mask: list[list[bool]]) -> Any:
    """Two classes; the label is class 0 with these losses."""
    import torch

    from rayul.unlearn.forward import Answers

    p = torch.exp(-torch.tensor(losses))
    logits = torch.stack([p.log(), (1 - p).log()], dim=-1).requires_grad_()
    return Answers(logits, torch.zeros(p.shape, dtype=torch.long), torch.tensor(mask))


def test_it_sees_what_the_built_in_controls_left_at_temperature_one(write: Callable[[str], Path]) -> None:
    from rayul.unlearn.controls import controlled

    write(MINE)
    answers = answers_of([[0.1, 2.0, 0.5, 3.0]], [[True, True, True, False]])
    control = spec_of("[{name: ./mine.py:capped, cap: 1.0}]", "control.select_fraction=0.5").control
    assert controlled(answers, control).mask.tolist() == [[True, False, True, False]]
    hotter = spec_of("[{name: ./mine.py:capped, cap: 1.0}]", "control.temperature=9.0").control
    assert controlled(answers, hotter).mask.tolist() == [[True, False, True, False]]
    grown = controlled(answers, spec_of("[./mine.py:everything]", "control.token_cap=1.0").control)
    assert grown.mask.tolist() == [[True, False, True, False]], "it takes tokens out and brings none back"


def test_changed_logits_are_what_the_loss_sees(write: Callable[[str], Path]) -> None:
    import torch

    from rayul.unlearn.controls import controlled
    from rayul.unlearn.forward import token_logp

    write(MINE)
    gradients = []
    for own in ("[]", "[./mine.py:halved]", "[./mine.py:halved, ./mine.py:halved]"):
        answers = answers_of([[0.1, 2.0]], [[True, True]])
        loss = token_logp(controlled(answers, spec_of(own).control)).sum()
        assert loss.item() == pytest.approx(-2.1)
        (gradient,) = torch.autograd.grad(loss, answers.logits)
        gradients.append(gradient)
    torch.testing.assert_close(gradients[1], gradients[0] / 2)
    torch.testing.assert_close(gradients[2], gradients[0] / 4)
    answers = answers_of([[0.1, 2.0]], [[True, True]])._replace(logp=torch.zeros(1, 2))  # known already, as in a pack
    seen = token_logp(controlled(answers, spec_of("[./mine.py:flat]").control))
    torch.testing.assert_close(seen, torch.full((1, 2), 0.5).log())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bare", "./mine.py:bare returned a Tensor"),
        ("narrow", "./mine.py:narrow returned logits"),
        ("weights", "of torch.float32"),
        ("nothing", "ValueError: not today"),
    ],
)
def test_what_is_no_batch_of_answers_fails_the_trial_with_its_name(
    write: Callable[[str], Path], make_spec: Callable[..., Any], task: Any, name: str, said: str
) -> None:
    write(MINE)
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.trial import run_trial

    spec = make_spec(control={"own": [f"./mine.py:{name}"]})
    *_, last = run_trial(task, TrialJob("0000", spec, 0, {}, {}))
    assert last.ending is not None
    assert last.ending.state == "failed"
    assert said in last.ending.reason


def test_a_module_that_cannot_be_run_is_named_before_a_trial_begins(
    write: Callable[[str], Path], make_spec: Callable[..., Any], sets: Any
) -> None:
    from rayul.unlearn.task import load_task

    write("import beside_me\ndef mine(answers): ...")
    with pytest.raises(InputError, match=r"\./mine\.py cannot be run: ModuleNotFoundError.*beside_me"):
        load_task(make_spec(control={"own": ["./mine.py:mine"]}), sets)
