"""One trial without Ray: hyper-parameters in, evaluations out."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from rayul.records import BASELINE, COMPLETED, FAILED, ORACLE, Evaluation
from rayul.spec import Spec, needs_oracle, violations
from rayul.unlearn.calibrate import calibrations, mixed
from rayul.unlearn.evaluate import Measurement, evaluate, pessimistic
from rayul.unlearn.measured import Measured
from rayul.unlearn.model import attach_lora, detach_lora, load_model
from rayul.unlearn.suite import evaluate_model
from rayul.unlearn.task import EVALUATED, Task
from rayul.unlearn.train import Diverged, train

REPORTED = (*EVALUATED, "retain_report")


class Snapshot(NamedTuple):
    """The evaluations of one step (several where mixing is on) and the model as it is at that step."""

    evaluations: list[Evaluation]
    model: Any


def run_trial(
    task: Task,
    spec: Spec,
    trial_id: str,
    seed: int,
    params: Mapping[str, Any],
    baseline: Mapping[str, float],
) -> Iterator[Snapshot]:
    """Unlearn with one configuration, evaluation by evaluation.

    spec: the sweep's spec with `params` filled in (`spec.at(params)`). baseline: metrics of the model before
    unlearning; step 0 is a row of these, since a fresh adapter changes nothing. A trial that diverges, runs out of
    memory or raises ends with one row of state FAILED that says why, at the step after its last evaluation.

    The first time that memory runs out it begins again, with half as many rows a forward: the same gradients, and so
    the same evaluations, in less memory. The rows from there on say so.
    """
    row = Evaluation(
        trial_id,
        0,
        seed=seed,
        params=dict(params),
        device=device_name(task.device),
        numerics=f"alone, {numerics(task)}",
    )
    started = time.perf_counter()
    reached, halved = -1, False
    while True:
        out_of_memory = False
        try:
            with closing(_attempt(task, spec, row, baseline, started)) as attempt:
                for snapshot in attempt:
                    reached = snapshot.evaluations[-1].step
                    yield snapshot
        except Exception as error:  # any failure of one trial is a row, never the end of a sweep
            out_of_memory = is_out_of_memory(error) and not halved
            failed = failed_row(replace(row, step=reached + 1), error)
        else:
            return
        # Only here: the frames of the error hold what did not fit.
        if not out_of_memory:
            yield Snapshot([replace(failed, train_seconds=time.perf_counter() - started)], None)
            return
        spec, halved = halved_forwards(spec), True
        rows = f"{spec.training.micro_batch_size} rows a forward"
        row = replace(row, reason=f"out of memory at step {reached + 1}: begun again with {rows}")
        if task.device.type == "cuda":
            torch.cuda.empty_cache()


def _attempt(
    task: Task, spec: Spec, shared: Evaluation, baseline: Mapping[str, float], started: float
) -> Generator[Snapshot, None, None]:
    model = None
    try:
        model = attach_lora(task.base, spec.lora, shared.seed)
        for step in train(model, task, spec, shared.seed):
            row = replace(shared, step=step)
            rows = [first_row(row, spec, baseline)] if step == 0 else _evaluated(model, task, spec, row, baseline)
            seconds = time.perf_counter() - started
            rows = [replace(r, train_seconds=seconds) for r in rows]
            if step == spec.training.steps:
                rows[-1] = replace(rows[-1], state=COMPLETED)
            yield Snapshot(rows, model)
    finally:
        if model is not None:
            detach_lora(model)


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
    return _with_metrics(row, final_measurement(task.base, task, spec))


def final_measurement(model: Any, task: Task, spec: Spec) -> dict[str, Measured]:
    """What the report says of a model: the metrics of every evaluation, on the report rows too, and evaluate.final.

    A metric of evaluate.final that lacks rows, columns or the oracle is absent; `rayul evaluate` says why.
    """
    measured = evaluate(model, task, spec.evaluate.metrics, spec.evaluate.batch_size, REPORTED).measured
    wanted = [name for name in spec.evaluate.final if name not in spec.evaluate.metrics]
    if not wanted:
        return measured
    oracle = load_model(spec.oracle)[0] if spec.oracle is not None and needs_oracle(wanted) else None
    suite = evaluate_model(
        model,
        task.tokenizer,
        task.sets,
        spec.model.template,
        oracle,
        wanted,
        spec.evaluate.batch_size,
        own=task.own,
    )
    return measured | suite.measured


def first_row(row: Evaluation, spec: Spec, baseline: Mapping[str, float]) -> Evaluation:
    """Step 0: the metrics of the model before unlearning."""
    return _judged(row, spec, dict(baseline), baseline, dict(baseline))


def failed_row(row: Evaluation, error: Exception) -> Evaluation:
    return replace(row, feasible=False, state=FAILED, reason=_reason(error))


def evaluation_rows(
    task: Task, spec: Spec, row: Evaluation, baseline: Mapping[str, float]
) -> Generator[Sequence[float], Sequence[Measurement], list[Evaluation]]:
    """Rows of one step: at mixing 1, and where mixing is on every coefficient tried, the calibrated one last (where
    control.tau is a list, that of its smallest share).

    Yields the mixing coefficients to measure and is sent their measurements, so that who has the model may measure
    several at once.
    """
    rows: dict[float, Evaluation] = {}
    targets = [spec.criteria_at(tau) for tau in spec.targets] or [spec.criteria]
    rounds = calibrations(len(targets))
    wanted = next(rounds)
    while True:
        beyond = []
        for a, measurement in zip(wanted, (yield wanted), strict=True):
            bad = [key for key, value in measurement.values.items() if math.isnan(value)]
            if bad:
                raise Diverged(f"step {row.step}: {', '.join(bad)} is not a number", "lower training.lr")
            judged_by = _criteria_values(measurement, task, spec)
            rows[a] = _judged(_with_metrics(replace(row, mixing=a), measurement.measured), spec, judged_by, baseline)
            broken = [violations(criteria, judged_by, baseline).values() for criteria in targets]
            beyond.append([sum(max(0.0, v) for v in of_target) for of_target in broken])
        if not spec.control.mixing:
            return list(rows.values())
        try:
            wanted = rounds.send(beyond)
        except StopIteration as end:
            found = end.value[-1]
            break
    if found.mixing in rows:
        best = rows.pop(found.mixing)
    else:  # nothing of the update may be kept: the baseline, which satisfies any criterion by definition
        best = replace(first_row(replace(row, mixing=0.0), spec, baseline), feasible=True)
    note = "" if found.monotone else "the violation does not grow steadily with the mixing"
    return [*rows.values(), replace(best, reason=note)]


def _evaluated(model: Any, task: Task, spec: Spec, row: Evaluation, baseline: Mapping[str, float]) -> list[Evaluation]:
    rounds = evaluation_rows(task, spec, row, baseline)
    wanted = next(rounds)
    while True:
        measurements = []
        for a in wanted:
            with mixed(model, a):
                measurements.append(evaluate(model, task, spec.evaluate.metrics, spec.evaluate.batch_size))
        try:
            wanted = rounds.send(measurements)
        except StopIteration as end:
            rows: list[Evaluation] = end.value
            return rows


def _criteria_values(measurement: Measurement, task: Task, spec: Spec) -> dict[str, float]:
    """What the criteria judge: the means, or with control.confidence the pessimistic bootstrap bounds."""
    values = measurement.values
    if spec.control.confidence is not None:
        keys = [c.metric for c in spec.criteria]
        bounds = pessimistic(measurement, task, keys, spec.control.confidence)
        for c in spec.criteria:
            values[c.metric] = bounds[c.metric].low if c.at_least is not None else bounds[c.metric].high
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


def _with_metrics(row: Evaluation, measured: Mapping[str, Measured]) -> Evaluation:
    return replace(
        row,
        metrics={key: m.value for key, m in measured.items()},
        stderr={key: m.stderr for key, m in measured.items()},
        rows={key.split(".")[0]: m.rows for key, m in measured.items()},
    )


def is_out_of_memory(error: Exception) -> bool:
    # On a CPU torch raises a plain RuntimeError.
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _reason(error: Exception) -> str:
    if is_out_of_memory(error):
        return "out of memory: lower training.batch_size, set training.micro_batch_size, or resources.trials_per_gpu"
    if isinstance(error, Diverged):
        return f"diverged: {error.message}"
    return f"{type(error).__name__}: {error}"


def numerics(task: Task) -> str:
    """Dtype of the base and threads of this process, in words."""
    threads = torch.get_num_threads()
    return f"{str(task.base.dtype).removeprefix('torch.')}, {threads} thread{'s' * (threads != 1)}"


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
