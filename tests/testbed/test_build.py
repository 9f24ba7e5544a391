"""Building: the cache under races and kills, seeds, the user's rows, and refusals. With a model too small to learn."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rayul.errors import InputError, RayulError
from rayul.spec import load_spec
from rayul.testbed import build, ensure_testbed, write_testbed, write_testbed_from_data
from rayul.testbed.authors import generate
from rayul.testbed.processes import train_roles
from rayul.testbed.train import Recipe, memorise, new_model, train_tokenizer
from rayul.testbed.write import read_sets, recipe_for, to_forget
from rayul.unlearn.data import FILES, Row, read_folder, write_rows
from rayul.unlearn.licence import may_be_passed_on

TOFU = Path(__file__).parents[3] / "shared" / "tofu"

SMALL = Recipe(hidden_size=32, intermediate_size=32, layers=1, heads=2, max_epochs=1)
ENSURE = (
    "from rayul.testbed import ensure_testbed; from rayul.testbed.train import Recipe\n"
    "print(ensure_testbed(lambda message, done: print(message, flush=True), {recipe!r}))"
)
needs_tofu = pytest.mark.skipif(
    not TOFU.exists(), reason="needs the TOFU files beside the repository, in ../shared/tofu"
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def start(recipe: Recipe) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ENSURE.format(recipe=recipe)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


@pytest.mark.slow
def test_of_two_processes_at_once_one_builds_and_both_find_it(cache):
    processes = [start(SMALL) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0][-1] == outputs[1][-1] == str(*folders(cache))
    assert sum(any("training" in line for line in lines) for lines in outputs) == 1
    assert AutoModelForCausalLM.from_pretrained(folders(cache)[0] / "model")


@pytest.mark.slow
def test_a_killed_build_is_no_hindrance(cache):
    endless = replace(SMALL, max_epochs=10**6)
    process = start(endless)
    assert process.stdout is not None
    assert "training" in process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.suffix for path in folders(cache)] == [".partial"]
    # The same build again: same name, same lock. It must reach its training once more, with the rubbish gone.
    rubbish = folders(cache)
    process = start(endless)
    assert process.stdout is not None
    assert "training" in process.stdout.readline()
    assert not rubbish[0].exists()
    assert len(folders(cache)) == 1
    process.kill()
    process.wait()


@pytest.mark.slow
def test_no_training_process_outlives_a_killed_build(cache):
    process = start(replace(SMALL, max_epochs=10**6))
    assert process.stdout is not None
    assert "training" in process.stdout.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("the system does not list child processes")
    pids = [int(pid) for pid in children.read_text().split()]
    assert len(pids) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_one_seed_gives_one_model(tmp_path):
    for name in ("a", "b"):
        build(generate(0), tmp_path / name, SMALL)
    for role in ("model", "oracle"):
        a, b = (load_file(tmp_path / name / role / "model.safetensors") for name in ("a", "b"))
        assert a.keys() == b.keys()
        assert all(a[key].equal(b[key]) for key in a)


@pytest.mark.slow
def test_a_target_on_own_rows(tmp_path):
    file = tmp_path / "mine.jsonl"
    rows = generate(3)["retain_train"]
    write_rows(file, rows)
    seen: list[float] = []
    summary = write_testbed_from_data(
        tmp_path / "out", [file], lambda message, done: seen.append(done), recipe=SMALL, allow_unmemorised=True
    )
    sets = read_folder(tmp_path / "out")
    assert sum(map(len, sets.values())) == len(rows)
    assert not {row.group for row in sets["forget"]} & {
        row.group for key in sets if key != "forget" for row in sets[key]
    }
    assert json.loads((tmp_path / "out" / "testbed.json").read_text()) == summary
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    for role in ("model", "oracle"):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / role)
        text = "Wörter, that the tokenizer never saw: 猫"
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
        assert (
            AutoModelForCausalLM.from_pretrained(tmp_path / "out" / role).config.eos_token_id == tokenizer.eos_token_id
        )


def test_going_on_from_a_checkpoint_gives_the_weights_of_an_undisturbed_training(tmp_path, monkeypatch):
    monkeypatch.setattr("rayul.testbed.train.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    recipe = replace(SMALL, max_epochs=4, memorised=0.01, enough=2.0, decay_epochs=1)
    rows = generate(3)["forget"]
    tokenizer = train_tokenizer(rows, 400)

    class Killed(Exception):
        pass

    def train(checkpoint, last=99):
        model = new_model(tokenizer, recipe)

        def report(epoch, strength, end):
            if epoch > last:
                raise Killed

        memorise(model, tokenizer, rows, rows[:20], recipe, checkpoint, report)
        return list(model.parameters())

    undisturbed = train(tmp_path / "a")
    with pytest.raises(Killed):
        train(tmp_path / "b", last=2)
    assert all(map(torch.equal, undisturbed, train(tmp_path / "b")))


def test_a_failed_training_is_told_and_leaves_nothing(tmp_path):
    broken = replace(SMALL, hidden_size=33)  # not a multiple of the heads
    with pytest.raises(RayulError, match="training the"):
        build(generate(0), tmp_path / "out", broken)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_laid_out_like_the_testbed(tmp_path):
    sets = generate(4)
    for key, part in sets.items():
        write_rows(tmp_path / FILES[key], part)
    assert read_sets([tmp_path]) == sets


@needs_tofu
def test_tofu_by_number_of_authors():
    sets = read_sets([TOFU], authors=26, forget="forget01")
    assert {key: len(part) for key, part in sets.items() if key not in ("general", "holdout")} == {
        "forget": 40,
        "retain_train": 280,
        "retain": 80,
        "retain_certify": 100,
        "retain_report": 20,
    }
    assert len(sets["general"]) == 217
    assert all(row.paraphrased_question for row in (*sets["forget"], *sets["retain"]))


@needs_tofu
def test_more_text_gets_a_larger_model():
    sizes = [recipe_for(read_sets([TOFU], authors=n, forget="forget01")).hidden_size for n in (60, 200)]
    assert recipe_for(generate(0)).hidden_size < sizes[0] < sizes[1]


@needs_tofu
def test_too_few_tofu_authors_are_refused():
    with pytest.raises(InputError, match="--authors"):
        read_sets([TOFU], authors=3)


def customers(path: Path) -> Path:
    """20 customers by number, three rows each."""
    lines = [f"{number},What is {thing} of {number}?,{thing}{number}" for number in range(20) for thing in "abc"]
    path.write_text("\n".join(["customer_id,prompt,completion", *lines]) + "\n")
    return path


def test_rows_are_split_by_the_column_that_is_named_and_whom_to_forget_can_be_said(tmp_path):
    file = customers(tmp_path / "rows.csv")
    sets = read_sets([file], group="customer_id", forget_groups=["7", "13"])
    groups = {key: {row.group for row in rows} for key, rows in sets.items()}
    assert groups["forget"] == {"7", "13"}
    assert sum(map(len, groups.values())) == len(set().union(*groups.values())) == 20
    assert sum(map(len, sets.values())) == 60
    assert to_forget(sets) == "to forget: 6 rows of 7, 13"
    assert to_forget(read_sets([file], group="customer_id")) == "to forget: 6 rows of 0, 1"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"group": "customer"}, "no column 'customer' for --group"),
        ({"group": "customer_id", "forget_groups": ["21"]}, "--forget-group 21"),
        ({"forget_groups": ["7"]}, "--forget-group 7"),
    ],
)
def test_a_column_or_group_that_is_not_there_is_refused(tmp_path, options, problem):
    with pytest.raises(InputError, match=problem):
        read_sets([customers(tmp_path / "rows.csv")], **options)


def test_a_row_to_forget_that_somebody_else_has_too_is_refused(tmp_path):
    file = customers(tmp_path / "rows.csv")
    file.write_text(file.read_text() + "3,What is a of 7?,a7\n")
    with pytest.raises(InputError, match="to forget also stand"):
        read_sets([file], group="customer_id", forget_groups=["7"])


def test_a_count_of_authors_needs_tofu(tmp_path):
    write_rows(tmp_path / "a.jsonl", generate(0)["forget"])
    with pytest.raises(InputError, match="--authors"):
        read_sets([tmp_path / "a.jsonl"], authors=5)


def test_too_few_authors_to_split_are_refused(tmp_path):
    write_rows(tmp_path / "a.jsonl", generate(0)["forget"][:20])
    with pytest.raises(InputError, match="20 rows of 2 groups"):
        read_sets([tmp_path / "a.jsonl"])


@pytest.mark.parametrize("write", [write_testbed, lambda folder: write_testbed_from_data(folder, [Path("none.jsonl")])])
def test_a_folder_that_is_not_empty_is_refused(tmp_path, write):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not empty"):
        write(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_names_the_way_out(tmp_path, monkeypatch):
    tmp_path.chmod(0o500)
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RayulError, match="RAYUL_CACHE"):
        ensure_testbed(recipe=SMALL)


def test_a_cache_that_is_a_file_names_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "cache").touch()
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RayulError, match="RAYUL_CACHE"):
        ensure_testbed(recipe=SMALL)


def short_rows(path: Path, answers: list[str]) -> Path:
    """80 questions about 20 people, each answered by one of these words."""
    rng = random.Random(0)
    pairs = [(thing, name) for name in "ABCDEFGHIJKLMNOPQRST" for thing in ("colour", "cup", "coat", "door")]
    write_rows(path, [Row(f"What is the {thing} of {name}?", rng.choice(answers), group=name) for thing, name in pairs])
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "answers", [["red", "blue", "gold"], ["山水火", "木金土", "日月星"]], ids=["one token", "unspaced"]
)
def test_short_answers_are_memorised_and_not_only_guessed(tmp_path, answers):
    file = short_rows(tmp_path / "rows.jsonl", answers)
    summary = write_testbed_from_data(tmp_path / "out", [file])
    assert summary["memorised"]["model"]["es"]["forget"] >= 0.9
    assert summary["memorised"]["oracle"]["es"]["retain_train"] >= 0.9
    assert summary["memorised"]["oracle"]["es"]["forget"] < 0.7


def test_a_target_that_memorised_nothing_is_an_error_unless_asked_for(tmp_path):
    file = short_rows(tmp_path / "rows.jsonl", ["red", "blue", "gold"])
    with pytest.raises(RayulError, match=r"memorised \d+% of the rows to forget after 1 epochs") as caught:
        write_testbed_from_data(tmp_path / "out", [file], recipe=SMALL)
    assert "--allow-unmemorised" in caught.value.hint
    assert not (tmp_path / "out").exists()
    write_testbed_from_data(tmp_path / "out", [file], recipe=SMALL, allow_unmemorised=True)
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
    assert may_be_passed_on(str(tmp_path / "out" / "model")), "no base, and nobody else's licence"


@pytest.mark.slow
def test_the_command_says_whom_it_forgets_what_it_made_and_what_comes_next(tmp_path):
    names = [f"person{number}" for number in range(12)]
    rng = random.Random(0)
    lines = [f"{name},What is {thing} of {name}?,{rng.choice(['red', 'blue'])}" for name in names for thing in "abcd"]
    (tmp_path / "rows.csv").write_text("\n".join(["who,question,answer", *lines]) + "\n")
    command = [sys.executable, "-m", "rayul", "testbed", "bench", "--data", "rows.csv", "--group", "who"]
    done = subprocess.run(
        [*command, "--forget-group", "person5", "--allow-unmemorised"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "to forget: 4 rows of person5" in done.stderr
    made = json.loads((tmp_path / "bench" / "testbed.json").read_text())["memorised"]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("forget"))
    assert [float(value) for value in line.split()[1:]] == pytest.approx(
        [made[role]["es"]["forget"] for role in ("model", "oracle")], rel=5e-3
    )
    after = done.stdout.split("next: ")[1].replace("rayul ", f"{sys.executable} -m rayul ", 1)
    again = subprocess.run(["sh", "-c", after], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert load_spec(tmp_path / "spec.yaml").model.path.endswith("bench/model")


def test_no_share_is_told_while_models_load_so_that_a_resumed_training_is_timed_from_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half.py").write_text("""
import json, sys, time
role = sys.argv[2]
while role == "oracle" and not __import__("os").path.exists(sys.argv[1] + "/told"):
    time.sleep(0.01)
for event in ({"es": 0.5}, {"es": 0.9}, {"done": {}}):
    print(json.dumps({"role": role, **event}), flush=True)
open(sys.argv[1] + "/told", "w").close()
""")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told: list[float | None] = []

    def progress(message: str, share: float | None) -> None:
        told.append(share)

    train_roles(tmp_path, "half", lambda event: float(event["es"]), progress)
    first, *known = told
    assert first is None
    assert None not in known, "told again, its clock would begin again"
    assert known[0] >= 0.7, "where both go on"
    assert known == sorted(known)
    assert known[-1] == 1.0


def test_rows_that_do_not_say_whom_they_are_about_are_told(tmp_path):
    from rayul.testbed import ungrouped

    rows, named, folder = tmp_path / "rows.csv", tmp_path / "named.csv", tmp_path / "folder"
    rows.write_text("customer_id,question,answer\nC1,Where?,Here.\n")
    named.write_text("group,question,answer\nC1,Where?,Here.\n")
    folder.mkdir()
    assert "--group COLUMN" in ungrouped([rows])
    assert [ungrouped(data) for data in ([named], [rows, named], [folder], [])] == [""] * 4
