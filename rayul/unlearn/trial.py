"""One trial without Ray: hyper-parameters in, evaluations out."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from rayul.records import BASELINE, COMPLETED, FAILED, ORACLE, UNSTEADY, Ending, Evaluation
from rayul.records.groups import pooled
from rayul.records.objectives import MIN_FORGOTTEN, score
from rayul.spec import Criterion, Spec, is_forgetting, needs_oracle, plainly, violations
from rayul.unlearn.attacks.relearn import LORA
from rayul.unlearn.attacks.steering import Trained, under_attack
from rayul.unlearn.cadence import Watch
from rayul.unlearn.calibrate import calibrations
from rayul.unlearn.evaluate import evaluate, pessimistic
from rayul.unlearn.harness import harness_metrics
from rayul.unlearn.job import TrialJob
from rayul.unlearn.measured import Measurement, rounded, sums
from rayul.unlearn.model import load_model
from rayul.unlearn.suite import evaluate_model
from rayul.unlearn.task import EVALUATED, Task
from rayul.unlearn.template import Template
from rayul.unlearn.train import Diverged, train
from rayul.unlearn.update import Update, attach
from rayul.unlearn.update.lora import LoraUpdate, attach_lora

REPORTED = (*EVALUATED, "retain_report")


class Snapshot(NamedTuple):
    """The evaluations of one step (several where mixing is on), the update as it is at that step, and at the end of the
    trial how it ended. Where it failed there are no evaluations and no update."""

    evaluations: list[Evaluation]
    update: Update | None
    ending: Ending | None = None


def run_trial(task: Task, job: TrialJob) -> Iterator[Snapshot]:
    """Unlearn with one configuration, evaluation by evaluation.

    A trial that diverges, runs out of memory or raises ends with an ending of state FAILED that says why.

    The first time that memory runs out it begins again, with half as many rows a forward: the same gradients, and so
    the same evaluations, in less memory. The notes of those from there on say so.
    """
    spec, row = job.spec, job.row(device_name(task.device), f"alone, {numerics(task)}")
    started = time.perf_counter()
    reached, halved = -1, False
    while True:
        out_of_memory = False
        try:
            with closing(_attempt(task, spec, row, job.baseline, started)) as attempt:
                for snapshot in attempt:
                    reached = snapshot.evaluations[-1].step
                    yield snapshot
        except Exception as error:  # any failure of one trial is a row, never the end of a sweep
            out_of_memory = is_out_of_memory(error) and not halved
            failed = failure(replace(row, train_seconds=time.perf_counter() - started), error)
        else:
            return
        # Only here: the frames of the error hold what did not fit.
        if not out_of_memory:
            yield Snapshot([], None, failed)
            return
        spec, halved = halved_forwards(spec), True
        rows = f"{spec.training.micro_batch_size} rows per forward pass"
        row = replace(row, notes=(f"out of memory after step {max(reached, 0)}: started again with {rows}",))
        if task.device.type == "cuda":
            torch.cuda.empty_cache()


def _attempt(
    task: Task, spec: Spec, shared: Evaluation, baseline: Mapping[str, float], started: float
) -> Generator[Snapshot, None, None]:
    update = None
    try:
        update = attach(task, spec, shared.seed)
        terms: dict[str, float] = {}
        watch = Watch(spec)
        for step in train(update, task, spec, shared.seed, terms, watch):
            row = replace(shared, step=step, terms=dict(terms))
            if step == 0:
                rows = [first_row(row, spec, baseline)]
            elif watch.repeats(step):
                rows = [watch.repeated(row)]
            else:
                rows = _evaluated(update, task, spec, row, baseline)
            watch.reported(rows, baseline)
            seconds = time.perf_counter() - started
            rows = [replace(r, train_seconds=seconds) for r in rows]
            yield Snapshot(rows, update, rows[-1].ended(COMPLETED) if step == spec.training.steps else None)
    finally:
        if update is not None:
            update.detach()


def halved_forwards(spec: Spec) -> Spec:
    """The spec with half as many rows in a forward, in training (the gradient is accumulated) and in evaluation."""
    training, evaluation = spec.training, spec.evaluate
    rows = training.micro_batch_size or training.batch_size
    return spec.model_copy(
        update={
            "training": training.model_copy(update={"micro_batch_size": max(1, rows // 2)}),
            "evaluate": evaluation.model_copy(update={"batch_size": max(1, evaluation.batch_size // 2)}),
        }
    )


def reference_evaluation(task: Task, spec: Spec, trial_id: str) -> Evaluation:
    """The row of the baseline or the oracle: `task.base` as it is, the report sets included."""
    assert trial_id in (BASELINE, ORACLE)
    row = Evaluation(trial_id, 0, mixing=0.0, seed=spec.search.seed, device=device_name(task.device))
    found = final_measurement(task.base, task, spec)
    if spec.under_attack:
        update = LoraUpdate(attach_lora(task.base, LORA, spec.search.seed))
        try:
            found = found.joined(under_attack(_trained(update), task, spec, spec.search.seed))
        finally:
            update.detach()
    return replace(_with_metrics(row, found, spec), notes=found.notes)


def final_measurement(model: Any, task: Task, spec: Spec) -> Measurement:
    """What the report says of a model: the metrics of every evaluation and es, on the report rows too, all of the
    probes, evaluate.final and evaluate.lm_eval.

    A metric of evaluate.final that lacks rows, columns or the oracle is absent; `rayul evaluate` says why.
    """
    measurement = _with_suite(model, task, spec)
    found = harness_metrics(model, task.tokenizer, spec.evaluate.lm_eval, spec.evaluate.batch_size)
    return measurement._replace(measured=measurement.measured | found.measured, notes=measurement.notes + found.notes)


def _with_suite(model: Any, task: Task, spec: Spec) -> Measurement:
    measurement = evaluate(model, task, spec.evaluate.reported, spec.evaluate.batch_size, REPORTED, everything=True)
    wanted = [name for name in spec.evaluate.final if name not in spec.evaluate.reported]
    if not wanted:
        return measurement
    oracle = load_model(spec.oracle)[0] if spec.oracle is not None and needs_oracle(wanted) else None
    suite = evaluate_model(
        model,
        task.tokenizer,
        task.data_sets,
        Template.of(spec.model),
        oracle,
        wanted,
        spec.evaluate.batch_size,
        own=task.own,
        oracle_auc=spec.evaluate.oracle_auc,
    )
    return measurement._replace(measured=measurement.measured | suite.measured)


def first_row(row: Evaluation, spec: Spec, baseline: Mapping[str, float]) -> Evaluation:
    """Step 0: the metrics of the model before unlearning."""
    return _judged(row, spec, dict(baseline), baseline, dict(baseline))


def failure(row: Evaluation, error: Exception) -> Ending:
    """The ending of a trial that this error broke. row: what all its evaluations share, with its seconds so far."""
    if is_out_of_memory(error):
        way_out = "lower training.batch_size, set training.micro_batch_size, or resources.trials_per_gpu"
        return row.ended(FAILED, "out of memory", f"out of memory: {way_out}")
    if isinstance(error, Diverged):
        return row.ended(FAILED, "diverged", f"diverged: {error.message}")
    kind = type(error).__name__
    return row.ended(FAILED, kind, f"{kind}: {error}")


class Wanted(NamedTuple):
    """Mixing coefficients to measure: the metrics of every evaluation, or what `spec.under_attack` asks for. sets: only
    the metrics of these; None: of all that an evaluation reads."""

    mixings: Sequence[float]
    under_attack: bool = False
    sets: tuple[str, ...] | None = None


def evaluation_rows(
    task: Task, spec: Spec, row: Evaluation, baseline: Mapping[str, float]
) -> Generator[Wanted, Sequence[Measurement], list[Evaluation]]:
    """Rows of one step: at mixing 1, and where mixing is on every coefficient tried, the calibrated one last (where
    control.tau is a list, that of its smallest share). Below 1, one that breaks a limit is partial: it has the metrics
    of the sets that the limits are on, since it can neither be on the front nor be told to a search.

    Yields what to measure and is sent the measurements, so that who has the model may measure several at once. Attacks
    are tried on rows that may come onto the front: the one at mixing 1, or the calibrated ones, where they keep all
    limits and have forgotten something. Others have no metrics under attack, and are judged by the plain ones.
    """
    rows: dict[float, Evaluation] = {}
    found: dict[float, Measurement] = {}
    targets = [spec.criteria_at(tau) for tau in spec.targets] or [spec.criteria]
    limiting, rest = _split_by_limits(task, spec, targets)

    def judged(a: float, measurement: Measurement) -> dict[str, float]:
        """Makes the row of a coefficient; returns what its limits judge."""
        bad = [key for key, value in measurement.values.items() if math.isnan(value)]
        if bad:
            raise Diverged(f"step {row.step}: {', '.join(bad)} is not a number", "lower training.lr")
        found[a], judged_by = measurement, _criteria_values(measurement, spec)
        rows[a] = _judged(_with_metrics(replace(row, mixing=a), measurement, spec), spec, judged_by, baseline)
        return judged_by

    rounds = calibrations(len(targets))
    wanted = next(rounds)
    while True:
        beyond = []
        sets = limiting if rows else None  # at mixing 1 all: what the trial itself is
        for a, measurement in zip(wanted, (yield Wanted(wanted, sets=sets)), strict=True):
            judged_by = judged(a, measurement)
            broken = [violations(criteria, judged_by, baseline).values() for criteria in targets]
            beyond.append([sum(max(0.0, v) for v in of_target) for of_target in broken])
        if not spec.control.mixing:
            break
        try:
            wanted = rounds.send(beyond)
        except StopIteration as end:
            calibrated = end.value
            break
    partial = [a for a, one in rows.items() if rest and a < 1 and one.feasible]
    if partial:
        for a, measurement in zip(partial, (yield Wanted(partial, sets=rest)), strict=True):
            judged(a, found[a].joined(measurement))
    may_win = [c.mixing for c in calibrated] if spec.control.mixing else list(rows)
    attacked = [a for a in dict.fromkeys(may_win) if a in rows and _may_win(rows[a], spec, baseline)]
    if attacked:
        for a, measurement in zip(attacked, (yield Wanted(attacked, under_attack=True)), strict=True):
            whole = found[a].joined(measurement)
            judged_by = _criteria_values(whole, spec)
            rows[a] = _judged(_with_metrics(replace(row, mixing=a), whole, spec), spec, judged_by, baseline)
    if not spec.control.mixing:
        return list(rows.values())
    last = calibrated[-1]
    if last.mixing in rows:
        best = rows.pop(last.mixing)
    else:  # nothing of the update may be kept: the baseline, which satisfies any criterion by definition
        best = replace(first_row(replace(row, mixing=0.0), spec, baseline), feasible=True)
    return [*rows.values(), best if last.monotone else replace(best, notes=(*best.notes, UNSTEADY))]


def _split_by_limits(
    task: Task, spec: Spec, targets: Sequence[Sequence[Criterion]]
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """The sets that limits are on, and the others that an evaluation reads; None for both where they are not read
    apart: there are no others, the answers of a probe are generated, or a pruning rule of the user's own may look at
    any."""
    limited = {plainly(c.metric).partition(".")[0] for criteria in targets for c in criteria}
    read = task.forward_metrics(spec.evaluate.metrics)
    if spec.pruning.rules or task.further_metrics(everything=False) or not limited < set(read):
        return None, None
    return tuple(name for name in read if name in limited), tuple(name for name in read if name not in limited)


def _may_win(row: Evaluation, spec: Spec, baseline: Mapping[str, float]) -> bool:
    """Whether an evaluation is to be attacked: it may come onto the front, as far as its plain metrics tell."""
    if not spec.under_attack or not row.feasible:
        return False
    forgets = [(plainly(key), direction) for key, direction in spec.objectives.items() if is_forgetting(key)]
    gone = [float(score(key, direction, row.metrics[key], baseline[key])) for key, direction in forgets]
    return all(share >= MIN_FORGOTTEN or math.isnan(share) for share in gone)


def _evaluated(
    update: Update, task: Task, spec: Spec, row: Evaluation, baseline: Mapping[str, float]
) -> list[Evaluation]:
    rounds = evaluation_rows(task, spec, row, baseline)
    wanted = next(rounds)
    while True:
        measurements = []
        for a in wanted.mixings:
            with update.mixed(a):
                if wanted.under_attack:
                    measurements.append(under_attack(_trained(update), task, spec, row.seed))
                else:
                    measurements.append(
                        evaluate(update.model, task, spec.evaluate.metrics, spec.evaluate.batch_size, only=wanted.sets)
                    )
        try:
            wanted = rounds.send(measurements)
        except StopIteration as end:
            rows: list[Evaluation] = end.value
            return rows


def _trained(update: Update) -> Trained:
    return Trained(lambda: nullcontext(update.model), update.parameters, update.unadapted)


def _criteria_values(measurement: Measurement, spec: Spec) -> dict[str, float]:
    """What the criteria judge: the means, or with control.confidence their pessimistic bounds."""
    values, measured = measurement.values, measurement.measured
    for c in spec.criteria:
        of = c.metric if c.metric in measured else plainly(c.metric)
        values[c.metric] = values[of]
        if spec.control.confidence is not None:
            bounds = pessimistic(measured[of], spec.control.confidence)
            values[c.metric] = bounds.low if c.limit.at_least else bounds.high
    return values


def _judged(
    row: Evaluation,
    spec: Spec,
    judged_by: Mapping[str, float],
    baseline: Mapping[str, float],
    metrics: dict[str, float] | None = None,
) -> Evaluation:
    violation = violations(spec.criteria, judged_by, baseline)
    return replace(
        row,
        metrics=row.metrics if metrics is None else metrics,
        violation=violation,
        feasible=all(v <= 0 for v in violation.values()),
    )


def _with_metrics(row: Evaluation, measurement: Measurement, spec: Spec) -> Evaluation:
    measured = measurement.measured
    known = {key: spec.evaluate.of(key.partition(".")[2]) for key in spec.steering}
    summed = {
        key: sums(measurement.per_row[key], measurement.groups[key.partition(".")[0]])
        for key, metric in known.items()
        if metric is not None and metric.mean_of_rows and key in measurement.per_row
    }
    return replace(
        row,
        metrics={key: m.value for key, m in measured.items()},
        stderr={key: m.stderr for key, m in measured.items()},
        rows={key.split(".")[0]: m.rows for key, m in measured.items()},
        groups={key.split(".")[0]: m.groups for key, m in measured.items()},
        group_sums={key: rounded(pooled(total)) for key, (total, _) in summed.items()},
        group_rows={key.partition(".")[0]: tuple(map(int, pooled(rows))) for key, (_, rows) in summed.items()},
    )


def is_out_of_memory(error: Exception) -> bool:
    # On a CPU torch raises a plain RuntimeError.
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def numerics(task: Task) -> str:
    """Dtype of the base and threads of this process, in words."""
    threads = torch.get_num_threads()
    return f"{str(task.base.dtype).removeprefix('torch.')}, {threads} thread{'s' * (threads != 1)}"


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
