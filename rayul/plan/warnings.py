"""What a careful colleague would say about a spec before it runs; each a sentence with its numbers and a way out."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rayul.errors import InputError
from rayul.plan.estimate import Estimate
from rayul.plan.space import largest
from rayul.spec import Control, Criterion, Search, Spec, check_baseline_keeps, check_objectives, is_custom, known_limits
from rayul.spec.gradients import OWNER, SETTINGS
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
        *_directions(spec),
        *_unused(spec),
        *_baseline(plan),
        *_resolution(plan),
        *_experts(plan),
        *_fits(plan),
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


def _directions(spec: Spec) -> Iterator[str]:
    """Objectives that ask for the worse."""
    for key, direction in spec.objectives.items():
        set_name, _, name = key.partition(".")
        metric = spec.evaluate.of(name)
        assert metric is not None  # or it would not be measured
        if direction == {"higher": "minimize", "lower": "maximize"}.get(metric.better_on(set_name)):
            yield (
                f"objectives.{key}: {direction} asks for the worse: {name} is better {metric.direction_on_utility} on "
                f"rows that are to be kept{', and these are to be forgotten' if set_name == 'forget' else ''}"
            )


def _unused(spec: Spec) -> Iterator[str]:
    """Keys that were set and change nothing."""
    control, names = spec.control, spec.method.names
    default = Control()
    if not any(is_custom(name) for name in names):  # what an own loss does with its forget batch is not known
        for key in ("loss_cap", "token_cap", "select_fraction", "own", "temperature"):
            # po never looks at forget answers; rmu and cb look at hidden states, which no temperature scales
            deaf = {"po", "rmu", "cb"} if key == "temperature" else {"po"}
            if getattr(control, key) != getattr(default, key) and set(names) <= deaf:
                yield f"control.{key} has no effect on {', '.join(names)}: it acts on the forget answers' predictions"
    for key, of in (("loss_cap_of", "loss_cap"), ("select_by", "select_fraction"), ("ball_norm", "ball")):
        if getattr(control, key) != getattr(default, key) and getattr(control, of) == getattr(default, of):
            yield f"control.{key} has no effect without control.{of}"
    if not spec.criteria:
        for key in ("mixing", "confidence"):
            if getattr(control, key) != getattr(default, key):
                yield f"control.{key} has no effect without criteria"
    if control.mixing is True:
        for i, criterion in enumerate(control.criteria):
            for key in ("patience", "grace"):
                if getattr(criterion, key) != Criterion.model_fields[key].default:
                    yield f"control.criteria.{i}.{key} has no effect with control.mixing, which repairs a violation"
    parameters = spec.method.parameters
    for key, rule in OWNER.items():
        if rule not in spec.method.gradients and parameters.get(key, SETTINGS[key].default) != SETTINGS[key].default:
            yield f"method.{key} has no effect without method.gradient: {rule}"
    if parameters.get("retain_weight") == 0 and parameters.get("retain_loss", "nll") != "nll":
        yield "method.retain_loss has no effect with method.retain_weight 0"
    micro, batch = spec.training.micro_batch_size, largest(spec.training.batch_size)
    if isinstance(micro, int) and micro >= batch:
        yield f"training.micro_batch_size {micro} has no effect on batches of at most {batch}"
    if spec.search.traits.learns == "nothing" and spec.search.startup_trials != Search().startup_trials:
        yield f"search.startup_trials has no effect on sampler {spec.search.sampler}"
    if spec.priors and (spec.search.traits.learns == "nothing" or is_custom(spec.search.sampler)):
        yield f"the prior of {', '.join(spec.priors)} has no effect on sampler {spec.search.sampler}"


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
