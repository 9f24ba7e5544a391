"""The sweep as one writes it by hand: a Ray Tune Trainable, Optuna's search and PEFT, without rayul.

    python tests/gpu/by_hand.py TARGET SWEEP.yaml --processes 4 --seconds 60 [--output RESULT.json]
    python tests/gpu/by_hand.py TARGET SWEEP.yaml --processes 2 --reuse --points FOLDER

TARGET is what `target.py` wrote: model/ and rows as JSONL. SWEEP.yaml has the settings to search, the steps and the
evaluations, which are those of rayul's own sweep: after each `evaluate_every` steps, extraction strength of all rows
to forget and to keep by one forward pass over them. Trials share the card as Ray divides it, a process each, which
with --reuse goes on with the next trial; MPS is not started. --points saves the adapter of every evaluation that keeps
90% of what the model extracted of the rows to keep and has forgotten 5%, and all evaluations in points.jsonl.

With --seconds it stops after so many, which count from when the first trial has its model: neither Ray's start nor the
processes' is in them. How long all trials take is extrapolated from the steps that were trained, each with its share of
the evaluations, and the result says so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import ray
import torch
import yaml
from peft import LoraConfig, get_peft_model
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from transformers import AutoModelForCausalLM, AutoTokenizer

SETS = ("forget", "retain_select")
QUESTION = "Question: {question}\nAnswer:"


def encoded(tokenizer: Any, path: Path) -> list[tuple[list[int], int]]:
    """Token ids of each row and where its answer begins."""
    rows = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        question = QUESTION.format(question=row["question"])
        whole = [*tokenizer(f"{question} {row['answer']}").input_ids, tokenizer.eos_token_id]
        rows.append((whole, len(tokenizer(question).input_ids)))
    return rows


def padded(rows: list[tuple[list[int], int]], pad: int, device: str) -> dict[str, torch.Tensor]:
    width = max(len(ids) for ids, _ in rows)
    batch = {
        "input_ids": [ids + [pad] * (width - len(ids)) for ids, _ in rows],
        "attention_mask": [[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows],
        "labels": [[-100] * at + ids[at:] + [-100] * (width - len(ids)) for ids, at in rows],
    }
    return {name: torch.tensor(values, device=device) for name, values in batch.items()}


class Trial(tune.Trainable):  # type: ignore[misc]
    def setup(self, config: dict[str, Any], fixed: dict[str, Any]) -> None:
        self.fixed, target = fixed, Path(fixed["target"])
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.device == "cpu":
            torch.set_num_threads(1)
        tokenizer = AutoTokenizer.from_pretrained(target / "model")
        base = AutoModelForCausalLM.from_pretrained(target / "model", dtype=getattr(torch, fixed["dtype"]))
        self.base, self.pad = base.to(self.device), tokenizer.pad_token_id
        files = {name: target / f"{name}.jsonl" for name in (*SETS, "retain_train")}
        self.rows = {name: encoded(tokenizer, path) for name, path in files.items() if path.is_file()}
        self.begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.base = self.model.unload()
        self.begin(new_config)
        return True

    def begin(self, config: dict[str, Any]) -> None:
        adapter = LoraConfig(
            r=config["r"], lora_alpha=config["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
        )
        self.model = get_peft_model(self.base, adapter)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.data = parameter.data.float()
        self.optimizer = torch.optim.AdamW(trained, lr=config["lr"], fused=True)
        self.trained = trained
        self.config, self.random, self.step_number = config, random.Random(0), 0

    def loss(self, rows: list[tuple[list[int], int]]) -> torch.Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.fixed["dtype"] == "bfloat16"):
            return self.model(**padded(rows, self.pad, self.device)).loss

    def step(self) -> dict[str, Any]:
        """One `evaluate_every` of training, and its evaluation."""
        self.model.train()
        size, began = self.config["batch_size"], time.time()
        for _ in range(self.fixed["evaluate_every"]):
            loss = -self.loss(self.random.sample(self.rows["forget"], size))
            if self.config["method"] == "gd":
                kept = self.random.sample(self.rows["retain_train"], size)
                loss = loss + self.config["retain_weight"] * self.loss(kept)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.step_number += self.fixed["evaluate_every"]
        found = {name: strength(self.model, self.rows[name], self.pad) for name in SETS}
        if self.fixed["points"] and within(found, self.fixed["baseline"]):
            self.model.save_pretrained(f"{self.fixed['points']}/{self.trial_id}-{self.step_number}")
        ended = self.step_number >= self.fixed["steps"]
        return found | {"steps": self.step_number, "began": began, "at": time.time(), "done": ended}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self.model.save_pretrained(checkpoint_dir)


@torch.no_grad()
def strength(model: Any, rows: list[tuple[list[int], int]], pad: int) -> float:
    """Extraction strength: the longest end of an answer that one forward pass predicts token by token, as a share of
    the answer; the mean over rows."""
    model.eval()
    shares = []
    rows = sorted(rows, key=lambda row: len(row[0]))
    for i in range(0, len(rows), 64):
        batch = padded(rows[i : i + 64], pad, str(model.device))
        labels = batch.pop("labels")[:, 1:]
        with torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16):
            match = (model(**batch).logits[:, :-1].argmax(-1) == labels).cpu()
        for line, label in zip(match, labels.cpu(), strict=True):
            right = line[label != -100][:-1].tolist()  # without the end token
            missed = max((at + 1 for at, hit in enumerate(right) if not hit), default=0)
            shares.append(1 - missed / len(right))
    return sum(shares) / len(shares)


def within(found: dict[str, float], baseline: dict[str, float]) -> bool:
    """Whether an evaluation is worth keeping: 90% of what was to be kept, and 5% of what was to be forgotten gone."""
    kept, left = (found[name] / baseline[name] for name in ("retain_select", "forget"))
    return kept >= 0.9 and left <= 0.95


def before(target: Path, dtype: str) -> dict[str, float]:
    """The same of the model that is to forget."""
    tokenizer = AutoTokenizer.from_pretrained(target / "model")
    model = AutoModelForCausalLM.from_pretrained(target / "model", dtype=getattr(torch, dtype))
    rows = {name: encoded(tokenizer, target / f"{name}.jsonl") for name in SETS}
    return {name: strength(model, rows[name], tokenizer.pad_token_id) for name in SETS}


def space_of(sweep: dict[str, Any]) -> dict[str, Any]:
    """The settings that the YAML file searches, as Tune's."""

    def domain(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "choice" in value:
            return tune.choice(value["choice"])
        return tune.loguniform(*value["float"]) if value.get("log") else tune.uniform(*value["float"])

    method, lora, training = sweep["method"], sweep["lora"], sweep["training"]
    named = {"method": method["name"], "retain_weight": method["retain_weight"], "r": lora["r"]}
    named |= {"alpha": lora["alpha"], "lr": training["lr"], "batch_size": training["batch_size"]}
    return {name: domain(value) for name, value in named.items()}


class Results(tune.Callback, tune.Stopper):  # type: ignore[misc]
    """What every trial reported, and the end of the time. points: the folder of points.jsonl."""

    def __init__(self, seconds: float | None, points: Path | None) -> None:
        self.seconds, self.points, self.reports, self.first = seconds, points, [], 0.0

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        self.reports.append({name: result[name] for name in ("steps", "began", "at")} | {"trial": trial.trial_id})
        self.first = self.first or result["began"]
        if self.points is not None:
            point = {name: result[name] for name in ("steps", "at", *SETS)} | {"trial": trial.trial_id}
            with (self.points / "points.jsonl").open("a") as file:
                file.write(json.dumps(point | {"config": result["config"]}) + "\n")

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self.stop_all()

    def stop_all(self) -> bool:
        return bool(self.seconds and self.first) and time.time() - self.first >= self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--reuse", action="store_true")
    parser.add_argument("--points", type=Path)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    sweep = yaml.safe_load(arguments.sweep.read_text())
    training, trials = sweep["training"], sweep["search"]["trials"]
    fixed = {"target": str(arguments.target.resolve()), "dtype": sweep["model"]["dtype"]}
    fixed |= {name: training[name] for name in ("steps", "evaluate_every")}
    fixed |= {"points": arguments.points and str(arguments.points.resolve())}
    if arguments.points is not None:
        arguments.points.mkdir(parents=True, exist_ok=True)
        fixed |= {"baseline": before(arguments.target, fixed["dtype"])}

    gpus = torch.cuda.device_count()
    share = {"cpu": 1, "gpu": 1 / arguments.processes} if gpus else {"cpu": 1}
    ray.init("local", num_cpus=None if gpus else arguments.processes, include_dashboard=False, logging_level="ERROR")
    results = Results(arguments.seconds, arguments.points)
    with tempfile.TemporaryDirectory() as scratch:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(Trial, fixed=fixed), share),
            param_space=space_of(sweep),
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(metric=["forget", "retain_select"], mode=["min", "max"], seed=0),
                num_samples=trials,
                max_concurrent_trials=arguments.processes,
                reuse_actors=arguments.reuse,
            ),
            run_config=tune.RunConfig(storage_path=scratch, verbose=0, callbacks=[results], stop=results),
        )
        grid = tuner.fit()
    ray.shutdown()
    errors = [str(error) for error in grid.errors]
    assert results.reports, errors
    done: dict[str, int] = {}
    for report in results.reports:
        done[report["trial"]] = max(done.get(report["trial"], 0), report["steps"])
    seconds = max(report["at"] for report in results.reports) - results.first
    rate = sum(done.values()) / training["steps"] / seconds
    found = {
        "processes": arguments.processes,
        "seconds": seconds,
        "trials_finished": sum(steps >= training["steps"] for steps in done.values()),
        "trials_begun": len(done),
        "trial_steps": sum(done.values()),
        "trials_per_hour": 3600 * rate,
        "seconds_for_all_trials": trials / rate,
        "extrapolated": sum(done.values()) < trials * training["steps"],
        "errors": errors,
    }
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
