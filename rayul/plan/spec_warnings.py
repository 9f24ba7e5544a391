"""What looks wrong in a spec, without its model or rows: each a sentence."""

from __future__ import annotations

from collections.abc import Iterator

from rayul.plan.space import largest
from rayul.spec import Choice, Control, Criterion, Distribution, Float, Int, Search, Spec, is_custom
from rayul.spec.gradients import OWNER, SETTINGS

STRENGTHS, FAR = ("beta", "beta1", "beta2", "alpha"), 20
"""Parameters that say how hard a loss pushes, whose defaults differ a hundredfold between methods; and the factor
between one and its default from which it looks like another method's."""


def spec_warnings(spec: Spec) -> list[str]:
    """Of `validate` and `plan`: objectives that ask for the worse, settings without effect, and odd strengths."""
    return [*_directions(spec), *_unused(spec), *_unusual(spec), *_random(spec), *_targets(spec)]


def _random(spec: Spec) -> Iterator[str]:
    """A search too short for its sampler to propose anything."""
    search = spec.search
    if spec.is_random(search.trials):
        yield (
            f"search.trials {search.trials}: all of them are random, since {search.sampler} proposes settings only "
            f"after search.startup_trials ({search.startup_trials})"
        )


def _targets(spec: Spec) -> Iterator[str]:
    """Targets that a trial is not scaled to, or that a criterion makes pointless."""
    if spec.targets and not spec.control.mixing:
        yield "control.tau without control.mixing: trials are not scaled to the targets, each keeps what it keeps"
    for criterion in spec.control.criteria if spec.targets else ():
        if isinstance(criterion.at_least or criterion.at_most, Distribution):
            continue
        limit = criterion.limit
        if limit.at_least and limit.relative and limit.value > 100 * min(spec.targets):
            yield (
                f"control.tau {min(spec.targets):g}: the criterion {criterion.metric} at least {limit.to_yaml()} holds "
                "as well, and is stricter; remove it"
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


def _unusual(spec: Spec) -> Iterator[str]:
    """Strengths that are far from the default of a method that reads them."""
    asked = {key: spec.method.parameters.get(key) for key in STRENGTHS}
    for key, value in asked.items():
        if value is None or isinstance(value, Choice):
            continue
        ends = (value.low, value.high) if isinstance(value, Float | Int) else (value, value)
        for name in spec.method.names:
            parameter = spec.method.of(name).parameters.get(key)
            if parameter is None or is_custom(name):
                continue
            usual = parameter.default
            if 0 < ends[0] < usual / FAR or ends[1] > FAR * usual:
                shown = f"{ends[0]:g}" if ends[0] == ends[1] else f"{ends[0]:g} to {ends[1]:g}"
                yield (
                    f"method.{key} {shown} is far from {name}'s default of {usual:g}: one value seldom suits two "
                    "methods; narrow it, or leave it out"
                )
