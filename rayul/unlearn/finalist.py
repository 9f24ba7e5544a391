"""A finalist without Ray: trained again with another seed, measured with everything, and attacked."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from rayul.errors import RayulError
from rayul.records.audited import BEFORE, Audited, Scored
from rayul.spec import CHEAP, Finalists, Spec, needs_oracle
from rayul.unlearn.attacks.table import ATTACKS
from rayul.unlearn.attacks.target import Attempt, Target
from rayul.unlearn.evaluate import evaluate, measurement
from rayul.unlearn.forward import Model
from rayul.unlearn.job import TrialJob
from rayul.unlearn.measured import Measurement, rounded
from rayul.unlearn.probe import Missing
from rayul.unlearn.suite import evaluate_model
from rayul.unlearn.task import Task, spaced
from rayul.unlearn.template import Template
from rayul.unlearn.trial import REPORTED, device_name, run_trial


def retrain(task: Task, job: TrialJob, step: int, mixing: float | None, target: float | None, folder: Path) -> float:
    """Train a finalist's configuration until its step and save what it trained; returns the mixing baked into it.

    job: of its trial, with a seed of its own. mixing: fixed, or None to find the largest that keeps the job's criteria
    on the retain-select rows anew; where it has several utility targets, those of `target`.
    Raises RayulError with the reason where the training fails.
    """
    training = job.spec.training.model_copy(update={"steps": step, "evaluate_every": step})
    tau = {} if target is None else {"tau": target}
    control = job.spec.control.model_copy(update={"mixing": mixing is None} | tau)
    spec = job.spec.model_copy(update={"training": training, "control": control})
    with closing(run_trial(task, replace(job, spec=spec))) as snapshots:  # type: ignore[type-var]
        for snapshot in snapshots:
            if not snapshot.evaluations and snapshot.ending is not None:
                raise RayulError(snapshot.ending.reason)
            last = snapshot.evaluations[-1]
            if last.step == step:
                kept = last.mixing if mixing is None else mixing
                assert snapshot.update is not None
                snapshot.update.save(kept, folder)
                return kept
    raise AssertionError(f"a trial of {step} steps ends at that step or with a failure")


def examine(
    model: Model,
    task: Task,
    spec: Spec,
    row: Audited,
    wanted: Finalists,
    done: Collection[str] = (),
    oracle: Callable[[], Model | None] = lambda: None,
) -> Iterator[Audited]:
    """Measure a standalone model with everything, then attack it; a line for each, but for those already `done`.

    row: whose subject, seed and mixing the lines carry. oracle: loads the oracle, where a metric compares with it.
    """
    row = replace(row, device=device_name(task.device))
    if BEFORE not in done:
        started = time.perf_counter()
        scored = measure_everything(model, task, spec, wanted.metrics, oracle)
        yield replace(row, scored=(scored,), seconds=row.seconds + time.perf_counter() - started)
    sets = {**task.sets, "forget": tuple(spaced(list(task.sets["forget"]), spec.evaluate.max_rows))}
    target = Target(model, task.tokenizer, sets, Template.of(spec.model), spec.evaluate.batch_size)
    for name in (name for name in wanted.attacks if name not in done):
        started = time.perf_counter()
        attacked = replace(row, attack=name)
        try:
            tries = tuple(_attempt(a, task, spec) for a in ATTACKS[name](target))
            attacked = replace(attacked, scored=tries)
        except Missing as missing:
            attacked = replace(attacked, reason=missing.message)
        except Exception as error:  # an attack that fails (out of memory) is a line, never the end of an audit
            attacked = replace(attacked, reason=f"{type(error).__name__}: {error}")
        yield replace(attacked, seconds=time.perf_counter() - started)


def measure_everything(
    model: Model, task: Task, spec: Spec, names: Collection[str], oracle: Callable[[], Model | None]
) -> Scored:
    """Every metric of every set: what a search measures, and the rest of the suite."""
    cheap = evaluate(model, task, cheaply(spec), spec.evaluate.batch_size, REPORTED, everything=True)
    further = [name for name in names if name not in CHEAP]
    measured = dict(cheap.measured)
    if further:
        compared = oracle() if needs_oracle(further) else None
        options = (Template.of(spec.model), compared, further, spec.evaluate.batch_size)
        suite = evaluate_model(model, task.tokenizer, task.data_sets, *options, oracle_auc=spec.evaluate.oracle_auc)
        measured |= suite.measured
    return Scored(
        metrics={key: m.value for key, m in measured.items()},
        stderr={key: m.stderr for key, m in measured.items()},
        values=_values(cheap, spec),
    )


def cheaply(spec: Spec) -> list[str]:
    """What one forward gives: the metrics that rayul knows, and custom ones."""
    return [*CHEAP, *spec.evaluate.own.values()]


def _attempt(attempt: Attempt, task: Task, spec: Spec) -> Scored:
    groups = task.groups(["forget"])["forget"]
    judged = groups[list(attempt.judged)] if attempt.judged else groups
    found = measurement(attempt.scores, {"forget": judged}, {"forget": cheaply(spec)}, task.own)
    return Scored(
        attempt.variant,
        attempt.judged,
        {key: m.value for key, m in found.measured.items()},
        {key: m.stderr for key, m in found.measured.items()},
        _values(found, spec),
    )


def _values(found: Measurement, spec: Spec) -> dict[str, tuple[float, ...]]:
    """Of metrics that are a mean over rows, so that rows can be drawn anew."""
    known = {key: spec.evaluate.of(key.partition(".")[2]) for key in found.per_row}
    means = [key for key, metric in known.items() if metric is not None and metric.mean_of_rows]
    return {key: rounded(found.per_row[key]) for key in means}
