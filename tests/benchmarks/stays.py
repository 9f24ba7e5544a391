"""Which losses and gradient rules keep forgotten what they forgot: certified points of each, under attack.

    python tests/benchmarks/stays.py --work DIR [--draws 10] [--methods npo,rmu] [--until 20:15]

On the testbed, in one process of one thread. A cell is a loss with a gradient rule: PASSES forward and backward passes
over 4 rows each (so rules that take more of them a step have fewer steps, at a learning rate that is higher by as
much), scaled back to 90% of retain.es on the select rows, certified by a dial as `rayul certify` does it, and attacked
as `rayul certify` attacks. Draw after draw: other authors to forget, to certify on and to report on, and another seed.
A finished cell is a line of cells.jsonl in the folder; what has a line is not run again. `stays_tables.py` makes the
tables.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rayul.files import json_line
from rayul.pareto.certificate import dial
from rayul.records import Evaluation
from rayul.records.attacked import INTERPOLATE
from rayul.records.certificate import Dial
from rayul.records.objectives import MIN_FORGOTTEN
from rayul.spec import GRADIENTS, Attack, Certify, Limit, Spec
from rayul.spec.spec import from_plain
from rayul.sweep.dial_tests import DialTests, DialWalk
from rayul.testbed import with_testbed
from rayul.unlearn.attacks.certified import Try, Victim, tries
from rayul.unlearn.attacks.target import Target
from rayul.unlearn.data import Row, Sets, load_sets
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.forward import score
from rayul.unlearn.gradients.contract import FORGET
from rayul.unlearn.job import TrialJob
from rayul.unlearn.task import Task, load_task
from rayul.unlearn.train import accumulate_gradient, steering_direction
from rayul.unlearn.trial import run_trial
from rayul.unlearn.update import attach
from rayul.unlearn.update.saved import save_scaled, scalable, standalone

PASSES, BATCH = 96, 4
"""Of a trial; rows of each."""

AUTHORS = 4
"""To be forgotten, with ten rows each."""

METHODS = {"npo": 4e-3, "wga": 4e-3, "gd": 4e-3, "rmu": 4e-3, "cb": 4e-3, "jensun": 1.6e-2}
"""Learning rates over 48 steps: of 1e-3, 4e-3 and 1.6e-2 the one at which the plain rule leaves least on the
testbed's own split, with 8 rows a batch; but rmu is as good at 1.6e-2."""

SETTINGS: dict[str, dict[str, Any]] = {"cb": {"retain_weight": 0.03}}
"""At the default of 1, a distance holds all hidden states where they were."""

RULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "gru": {},
    "sam": {"sam_rho": 0.5},
    "mask": {},
    "adversary": {"adversary_lr": 0.01},
    "latent": {"latent_norm": 5.0, "latent_steps": 2},
}
"""With settings at which what the rule adds moves the loss of a trial that is half done: sam_rho's and latent_norm's
defaults hardly do here."""

LIMIT = "retain.es>=0.9*baseline"
ATTACKS = Attack.model_validate(
    {
        "budget": 20,
        "every": 20,
        "optimizers": ["adamw"],
        "schedules": ["linear"],
        "lr": {"lora": [2e-3], "full": [5e-4]},
        "attacks": ["quantise"],
    }
)
"""Relearning on own, related and unrelated rows, of an adapter and of all weights, at the rates that bring back most in
20 steps; and quantisation."""

MEASURED = ("forget", "retain", "retain_report")
EVERY_ATTACK = 1
"""Draws, the first ones, in which the attacker also fine-tunes on related and on unrelated rows."""

COEFFICIENTS = 10
"""Of a dial; `rayul certify` has twice as many."""


class Cell(NamedTuple):
    method: str
    rule: str


class Subject(NamedTuple):
    """Who has to forget, and how. spec: what is the same for all trials; passes: of a trial, forward and backward; lr:
    of a cell, by its steps; drawn: the rows of a draw; certified: by a dial, or as scaled back on the select rows."""

    spec: dict[str, Any]
    passes: int
    lr: Callable[[Cell, int], float]
    settings: dict[str, dict[str, Any]]
    rules: dict[str, dict[str, Any]]
    drawn: Callable[[Sets, int], Sets]
    attacks: Attack
    certified: bool = True

    def steps(self, cell: Cell) -> int:
        latent = cell.rule == "latent"
        return self.passes // (2 + self.rules["latent"]["latent_steps"] if latent else GRADIENTS[cell.rule].passes)

    def of(self, cell: Cell) -> Spec:
        steps = self.steps(cell)
        method = {"name": cell.method, "gradient": cell.rule} | self.settings.get(cell.method, {})
        plain = {
            "name": "stays",
            "method": method | self.rules[cell.rule],
            "training": {"lr": self.lr(cell, steps), "batch_size": BATCH, "steps": steps, "evaluate_every": steps},
            "lora": {"r": 8, "alpha": 16},
            "control": {"criteria": [{"metric": "retain.es", "at_least": "90% of baseline"}], "mixing": True},
            "evaluate": {"metrics": ["es"]},
        }
        return with_testbed(from_plain(plain | self.spec))


def drawn(sets: Sets, draw: int) -> Sets:
    """The rows of a draw: authors to forget that the testbed retains in training, and authors to certify and to report
    on that it does not read. So no judged row has chosen a learning rate."""
    found = {name: tuple(rows) for name, rows in sets.items() if name != "holdout"}
    chance = random.Random(draw)
    trained = (*sets["forget"], *sets["retain_train"])
    forget = set(chance.sample(sorted(by_author(sets["retain_train"])), AUTHORS))
    unread = by_author((*sets["retain_certify"], *sets["retain_report"]))
    certify = set(chance.sample(sorted(unread), len(unread) // 2))
    found["forget"] = tuple(row for row in trained if row.group in forget)
    found["retain_train"] = tuple(row for row in trained if row.group not in forget)
    found["retain_certify"] = tuple(row for name in sorted(certify) for row in unread[name])
    found["retain_report"] = tuple(row for name in sorted(unread.keys() - certify) for row in unread[name])
    return found


def by_author(rows: tuple[Row, ...]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.group, []).append(row)
    return found


def seed_of(draw: int) -> int:
    """Of a draw's trials. `relearned.es` trains on every tenth row from the fifth on, and the attacks from row 0."""
    return 1000 + 10 * draw + 5


TESTBED = Subject(
    {
        "model": "testbed",
        "data": "testbed",
        "objectives": {"forget.es": "minimize", "relearned.es": "minimize", "retain.es": "maximize"},
    },
    PASSES,
    lambda cell, steps: METHODS[cell.method] * (PASSES // 2) / steps,
    SETTINGS,
    RULES,
    drawn,
    ATTACKS,
)


class Bench:
    """A draw's rows with the model. task: without the general rows, which are the attacker's alone."""

    def __init__(self, subject: Subject, draw: int, sets: Sets) -> None:
        self.subject, self.draw, self.seed, self.sets = subject, draw, seed_of(draw), subject.drawn(sets, draw)
        spec = subject.of(Cell("npo", "plain"))
        self.task: Task = load_task(spec, {name: rows for name, rows in self.sets.items() if name != "general"})
        self.baseline = self.measured(self.task.base)
        if subject.certified:
            limits = [Limit.parse(LIMIT)]
            self.tests = DialTests(self.task, spec, [limits], 1 - Certify().confidence, self.baseline)
            self.walk = partial(DialWalk, limits=limits, tests=self.tests)
        target = Target(self.task.base, self.task.tokenizer, self.sets)
        self.known = target.before

    def measured(self, model: Any) -> dict[str, float]:
        return dict(evaluate(model, self.task, ("es",), 64, MEASURED).values)

    def trained(self, cell: Cell, folder: Path) -> dict[str, Any]:
        """A trial as a sweep runs it, its adapter scaled back and saved; what a search would read of it."""
        started = time.process_time()
        job = TrialJob("0000", self.subject.of(cell), self.seed, {}, self.baseline | {"relearned.es": 1.0})
        last: Evaluation | None = None
        for snapshot in run_trial(self.task, job):
            if snapshot.update is not None and snapshot.evaluations[-1].step == self.subject.steps(cell):
                last = snapshot.evaluations[-1]
                snapshot.update.save(last.mixing, folder)
            ending = snapshot.ending
        assert ending is not None
        if last is None:
            return {"ending": ending.reason}
        found = {"mixing": last.mixing, "terms": dict(last.terms), "searched": dict(last.metrics)}
        return {"ending": ending.state, **found, "train_cpu": time.process_time() - started}

    def certified(self, folder: Path) -> dict[str, Any]:
        """The largest coefficient that the certify rows allow, 0 for none; what the model measures there."""
        if not self.subject.certified:
            with scalable(self.task.base, folder) as at, at(1.0) as model:
                return {"scale": 1.0, "certified": self.measured(model)}
        walk = self.walk(Dial("0000", 1, 1.0, tuple(dial(points=COEFFICIENTS).tolist())))
        with scalable(self.task.base, folder) as at:
            while not walk.ended:
                (scale,) = walk.next(1)
                with at(scale) as model:
                    walk.add(score(model, self.tests.examples, self.task.pad))
            scale = walk.dial.scales[walk.passed - 1] if walk.passed else 0.0
            with at(scale) as model:
                return {"scale": scale, "certified": self.measured(model)}

    def attacked(self, folder: Path) -> list[dict[str, Any]]:
        """Rows of certified/attacks.jsonl, one for each attack's attempt."""
        target = Target(standalone(self.task.base, folder), self.task.tokenizer, self.sets)
        victim = Victim(self.task, target, self.task.base, self.known)
        attacks = self.subject.attacks
        wanted = [one for one in tries("0000", attacks) if one.attack != INTERPOLATE and not self.is_left_out(one)]
        return [asdict(replace(row, seconds=0.0)) for one in wanted for row in victim.attacked(one, attacks)]

    def is_left_out(self, one: Try) -> bool:
        """Fine-tuning on rows of others, where it can be spared: of an adapter, and after the first draws."""
        others = one.cell is not None and one.cell.rows != "own"
        return others and (self.draw > EVERY_ATTACK or one.cell.trains == "lora")

    def row(self, cell: Cell) -> dict[str, Any]:
        """The line of a cell. What has not forgotten is not attacked."""
        started = time.process_time()
        found: dict[str, Any] = {
            **cell._asdict(),
            "lr": self.subject.of(cell).training.lr,
            "seed": self.seed,
            "baseline": self.baseline,
        }
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "adapter"
            found |= self.trained(cell, folder)
            if folder.exists():
                found |= self.certified(folder)
                forgotten = 1 - found["certified"]["forget.es"] / self.baseline["forget.es"]
                if forgotten >= MIN_FORGOTTEN:
                    scaled = Path(temporary) / "certified"
                    save_scaled(lambda: self.task.base, folder, found["scale"], scaled)
                    found["attacks"] = self.attacked(scaled)
        return found | {"cpu": time.process_time() - started}


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, without a last one that was cut off."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def start_of(method: str, bench: Bench) -> str:
    """The forget gradient of a loss at the first step, where the adapter still does nothing: a row of a table."""
    spec = bench.subject.of(Cell(method, "plain"))
    update = attach(bench.task, spec, bench.seed)
    rows, direction = list(range(BATCH)), steering_direction(bench.task, spec, bench.seed)
    terms = accumulate_gradient(update, bench.task, spec, rows, rows, direction, of=FORGET)
    norm = sum(float(p.grad.square().sum()) for p in update.parameters if p.grad is not None) ** 0.5
    update.detach()
    return f"| {method} | {terms['forget']:.3g} | {norm:.1e} |"


def run(subject: Subject, work: Path, draws: int, wanted: Sequence[Cell], until: str) -> None:
    """The cells that have no line yet, each a line of cells.jsonl in the folder."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / "cells.jsonl"
    path.write_text("".join(json_line(row) + "\n" for row in read(path)), encoding="utf-8")
    sets = load_sets(subject.of(wanted[0]).data)
    for draw in range(1, draws + 1):
        done = {(row["draw"], row["method"], row["rule"]) for row in read(path)}
        left = [cell for cell in wanted if (draw, *cell) not in done]
        bench = Bench(subject, draw, sets) if left else None
        for cell in left:
            if datetime.now().strftime("%H:%M") >= until:
                return
            assert bench is not None
            row = {"draw": draw} | bench.row(cell)
            with path.open("a", encoding="utf-8") as file:
                file.write(json_line(row) + "\n")
            print(f"draw {draw}, {cell.method} {cell.rule}: {row['cpu']:.1f} s", flush=True)


def asked() -> argparse.ArgumentParser:
    """What each subject's command is asked."""
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--until", default="23:59", help="start no cell after this time of the day")
    return parser


def main() -> None:
    parser = asked()
    parser.description = __doc__
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--starts", action="store_true", help="only the gradients of the losses at the first step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    methods = options.methods.split(",")
    if options.starts:
        bench = Bench(TESTBED, 1, load_sets(TESTBED.of(Cell("npo", "plain")).data))
        print("| loss | at the first step | norm of its gradient |", "| --- | --- | --- |", sep="\n")
        print("\n".join(start_of(method, bench) for method in METHODS))
        return
    cells = [Cell(method, rule) for method in methods for rule in RULES]
    run(TESTBED, options.work, options.draws, cells, options.until)


if __name__ == "__main__":
    main()
