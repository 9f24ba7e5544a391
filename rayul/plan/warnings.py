"""What a careful colleague would say about a spec before it runs; each a sentence with its numbers and a way out."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rayul.errors import InputError
from rayul.plan.estimate import Estimate
from rayul.plan.space import largest
from rayul.plan.spec_warnings import spec_warnings
from rayul.spec import Spec, check_baseline_keeps, check_objectives, known_limits
from rayul.words import plural

SATURATED = 0.9


def warnings(plan: Estimate) -> list[str]:
    spec = plan.spec
    return [
        *plan.text_notices,
        *plan.row_notices,
        *plan.cost.notes,
        *_batch(spec, plan.rows["forget"]),
        *_search(spec, plan.trials, plan.slots),
        *spec_warnings(spec),
        *_baseline(plan),
        *_resolution(plan),
        *_experts(plan),
        *_fits(plan),
        *filter(None, [plan.allocation.unseen(plan.cost.device)]),
    ]


def _batch(spec: Spec, forget: int) -> Iterator[str]:
    size = largest(spec.training.batch_size)
    if size > forget:
        yield (
            f"training.batch_size up to {size} is larger than the forget set of {forget} rows: a step takes all "
            f"{forget}, and a larger batch changes nothing"
        )


def _search(spec: Spec, trials: int, slots: int) -> Iterator[str]:
    search, sampler = spec.search, spec.search.traits
    if sampler.learns == "nothing" or not spec.space:
        return
    if sampler.startup and search.startup_trials >= trials:
        yield (
            f"search.startup_trials is {search.startup_trials} of {trials} trials: all are drawn at random and sampler "
            f"{search.sampler} never models anything; lower it to about {max(1, trials // 5)}, or run more trials"
        )
    if slots > trials / 8:
        yield (
            f"{slots} of {trials} trials run at a time, more than an eighth: most are drawn before any has ended, and "
            f"the search learns little; raise search.trials to {8 * slots}, or run fewer at a time"
        )
    if not sampler.conditional and spec.conditional:
        yield (
            f"sampler {search.sampler} has no model for {', '.join(spec.conditional)}, which not every method of the "
            "search has: they are drawn at random; use tpe, or a sweep for each method"
        )


def _baseline(plan: Estimate) -> Iterator[str]:
    values = {key: measured.value for key, measured in plan.cost.baseline.items()}
    unknown = [key for key in plan.steering if key not in values]
    if unknown:
        yield (
            f"{', '.join(unknown)} of the model before unlearning took too long to measure here: whether it keeps the "
            "limits, and whether there is anything to forget, is checked when the sweep begins, before any trial"
        )
    try:
        check_objectives([key for key in plan.spec.objectives if key in values], values)
    except InputError as error:
        yield f"{error.message}; {error.hint}"
    for criterion in plan.spec.criteria:
        if criterion.metric not in values:
            continue
        try:
            check_baseline_keeps([criterion], values)
        except InputError as error:
            yield f"{error.message}; {error.hint}"
    for key, direction in plan.spec.objectives.items():
        if key.startswith("forget.") and direction == "minimize" and 0 < values.get(key, math.nan) < 0.1:
            yield (
                f"the model before unlearning has {key} {values[key]:.3g}: there is little to forget; are these the "
                "rows that it was trained on, with the template that it was trained with?"
            )


def _resolution(plan: Estimate) -> Iterator[str]:
    """The error that matters is that of a model at the limit. A baseline below SATURATED has much the same; above it a
    memorised set has no spread until something is lost, and the bound of a mean m of values in [0, 1] takes its place:
    sqrt(m (1 - m) / n) on n groups, reached where each is wholly kept or wholly lost."""
    for asked in known_limits(plan.spec.criteria):
        measured = plan.cost.baseline.get(asked.metric)
        if measured is None or not measured.value > 0:
            continue
        limit = asked.fixed({asked.metric: measured.value})
        room = abs(measured.value - limit.value)
        metric = plan.spec.evaluate.of(limit.metric.partition(".")[2])
        assert metric is not None  # or it would not be measured
        saturated = metric.bounded and measured.value > SATURATED and 0 < limit.value < 1
        error = math.sqrt(limit.value * (1 - limit.value) / measured.groups) if saturated else measured.stderr
        if error > room > 0:
            size = f"{'up to' if saturated else 'about'} {error:.3g}"
            noun = "rows" if measured.groups == measured.rows else "groups"
            yield (
                f"{limit} lies {room:.3g} from the baseline's {measured.value:.4g}, and on "
                f"{measured.groups} {noun} a model at the limit has a standard error of {size}: "
                f"{math.ceil(measured.groups * (error / room) ** 2):,} {noun} would resolve it, or a wider limit"
            )


def _experts(plan: Estimate) -> Iterator[str]:
    routed = [one for one in plan.cost.untouched if one.routed]
    if routed:
        yield (
            f"the routed experts ({', '.join(one.name for one in routed)}, {sum(one.parameters for one in routed):,} "
            "weights) get no adapter: what they know stays as it is, and only the modules around them unlearn"
        )


def _fits(plan: Estimate) -> Iterator[str]:
    if plan.at_once_on_a_device > plan.fit_on_a_device:
        yield (
            f"{plural(plan.at_once_on_a_device, 'trial')} at a time on {plan.cost.device} need "
            f"{plan.memory_of_a_device / 2**30:.1f} of {plan.cost.device_memory / 2**30:.1f} GiB; "
            f"lower {'resources.trials_per_gpu' if plan.on_gpu else 'the number of cores that trials get'} to run "
            f"{plan.fit_on_a_device}"
        )
    if plan.disk > plan.disk_free:
        yield (
            f"up to {plan.disk / 2**30:.1f} GiB are needed in {plan.results}, and {plan.disk_free / 2**30:.1f} are free"
        )
