"""A plan as a page of text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from rayul.pareto.replicates import NEW
from rayul.plan.estimate import FRONT
from rayul.plan.plan import SAMPLES, Plan
from rayul.plan.space import settings
from rayul.spec import METRICS, RESERVE, SEARCH_SETS, Spec, dump_yaml, is_certify_set, is_forget_set
from rayul.spec.probes import ProbeRows
from rayul.words import plural

_WIDTH = 100


def plan_text(plan: Plan) -> str:
    parts = {
        "Spec": _spec(plan),
        "Space": _space(plan),
        "Rows": _rows(plan),
        "Certificate": _certificate(plan),
        **({"Adapters": _adapters(plan)} if plan.cost.adapted else {}),
        "Cost": _cost(plan),
        f"Warnings ({len(plan.warnings)})": _warnings(plan),
    }
    return "\n\n".join("\n".join([title, *lines]) for title, lines in parts.items())


def _spec(plan: Plan) -> Iterator[str]:
    for key, value in plan.spec.resolved().items():
        if key in ("method", "evaluate"):
            value = {name: one for name, one in value.items() if name != "code"}
        if key in ("data", "probes"):
            value = _given(value)
        yield from _item(key, dump_yaml(value, flow=True))
    for line in plan.spec.notices:
        yield f"  {line}"


def _given(value: Any) -> Any:
    """Without the keys that hold nothing: a source has a dozen."""
    if not isinstance(value, dict):
        return value
    return {key: _given(one) for key, one in value.items() if one not in (None, "", [], {})}


def _space(plan: Plan) -> Iterator[str]:
    searched = len(plan.spec.space)
    if not searched:
        yield "  nothing is searched: trials differ only in their seeds"
    elif plan.continuous:
        number = f"{plural(plan.combinations, 'combination')} of the other values"
        yield from _item(
            "size", f"{plural(searched, 'hyper-parameter')}, continuous in {', '.join(plan.continuous)}, times {number}"
        )
    else:
        yield from _item("size", f"{plural(searched, 'hyper-parameter')}, {plan.combinations:,} cells")
    again = plan.trials - math.ceil(NEW * plan.trials) if plan.spec.search.replicates else 0
    seeds = f"; the last {again} train the settings that lead again, with fresh seeds" if again else ""
    yield from _item("search", f"{plural(plan.trials, 'trial')} of sampler {plan.spec.search.sampler}{seeds}")


def _rows(plan: Plan) -> Iterator[str]:
    width = max(map(len, plan.rows))
    for key, count in plan.rows.items():
        groups = plan.groups.get(key)
        where = ", each taken as independent"
        where = "" if groups is None else f" in {plural(groups, 'group')}" if groups < count else where
        said = f"  {key:{width}} {count:>5,} row{'s' if count != 1 else ''}{where}"
        if key not in plan.samples:
            yield f"{said} ({_read_by(key)})"
            continue
        yield f"{said}, {len(plan.samples[key])} of them:"
        for sample in plan.samples[key]:
            lines = sample.split("\n")
            yield from (f"    {'|' if i else '>'} {textwrap.shorten(line, 90)}" for i, line in enumerate(lines) if line)
    if plan.boundary:
        yield "  Tokens of a row: prompt | answer, the only part that is scored | closing tokens"
        wrapped = textwrap.wrap(plan.boundary, _WIDTH - 4, break_long_words=False)
        yield textwrap.indent("\n".join(wrapped), "    ")


def _read_by(key: str) -> str:
    """Why no row of a set is shown."""
    if key == RESERVE:
        return "read by nothing: kept back for the certificates of later requests"
    if is_certify_set(key):
        return "read by the certificate alone"
    return f"samples with {'--show-forget' if is_forget_set(key) else f'--samples {SAMPLES}'}"


def _certificate(plan: Plan) -> Iterator[str]:
    for line in plan.certificate or ("none: certify is false",):
        yield textwrap.fill(line, _WIDTH, initial_indent="  ", subsequent_indent="  ")


def _adapters(plan: Plan) -> Iterator[str]:
    cost = plan.cost
    for key, modules in (("adapted", cost.adapted), ("not adapted", cost.untouched)):
        listed = ", ".join(f"{one.number} {one.name} ({one.parameters:,})" for one in modules)
        yield from _item(key, f"{listed or 'nothing'}; parameters in brackets")


def _evaluated(plan: Plan) -> Iterator[str]:
    """What an evaluation measures: the rows in its forwards, and what of the probes takes more and yet steers."""
    probes, read = plan.spec.probe_sets, plan.spec.read_sets
    names = [name for name in (*SEARCH_SETS, *probes) if plan.rows.get(name) and (read is None or name in read)]
    yield f"{' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))} rows"
    further = [said for key in plan.spec.steering if (said := _beyond_forward(key, probes))]
    if further:
        yield f"and beyond one forward pass {', '.join(further)}"


def _beyond_forward(key: str, probes: Mapping[str, ProbeRows]) -> str:
    """A probe's metric that takes more than a forward pass, with the length of its answers; "" for any other."""
    name, _, metric = key.partition(".")
    needs = METRICS[metric].needs if name in probes and metric in METRICS else "forward"
    if needs == "generate":
        return f"{key} (answers of up to {probes[name].max_new_tokens} tokens)"
    return "" if needs == "forward" else key


def _cost(plan: Plan) -> Iterator[str]:
    cost, allocation = plan.cost, plan.allocation
    unit = "GPU-hours" if plan.on_gpu else "core-hours"
    yield from _item("measured", f"on {cost.device}, at the largest settings ({settings(plan.probed) or 'no search'})")
    steps, rows = cost.timed
    yield from _item("step", _seconds(cost.step) + _extrapolated(*steps))
    scored = ", ".join(_evaluated(plan))
    yield from _item("evaluation", f"{_seconds(cost.evaluation)} ({scored}){_extrapolated(*rows)}")
    yield from _item("baseline", _baseline(plan))
    mixing = bool(plan.spec.control.mixing)
    often = f"{plan.measurements} evaluations" + " with calibration" * mixing
    usual = f"; usually {_seconds(plan.usual_trial_seconds)}, about {plan.usual_measurements:.0f} evaluations" * mixing
    took = f"{_seconds(plan.trial_seconds)}: {cost.steps} steps, {often}, with a device to itself"
    yield from _item("trial", "at most " * mixing + took + usual)
    further = f", {_bytes(plan.further_memory)} each further one of a pack" if plan.allocation.pack > 1 else ""
    bound = plan.fit_on_a_device < 2 * plan.slots  # else it limits nothing
    fit = f"; {plan.fit_on_a_device} fit into {_bytes(cost.device_memory)}" if bound else ""
    yield from _item("memory", f"{_bytes(cost.memory)} a trial with its model{further}{fit}")
    yield from _item(
        "of that",
        f"{_bytes(4 * cost.trained)} for what update: {plan.spec.update} trains (weights, gradient and Adam's two "
        f"moments, {_bytes(cost.trained)} each), {_bytes(cost.base)} for the model before unlearning",
    )
    yield from _item("at a time", allocation.line)
    sharing = allocation.gpu and allocation.gpu < 1
    best = f" ({_seconds(plan.seconds() * allocation.gpu)} if sharing a GPU slowed no trial down)" if sharing else ""
    yield from _item(
        plural(plan.trials, "trial"), f"{_search(plan)}{best}, {plan.device_hours():.3g} {unit} without pruning"
    )
    if plan.saved is None:
        yield from _item("", f"with pruning: unknown, {plan.results} has no earlier sweep of this space")
    else:
        share_saved, sweeps, trials = plan.saved
        yield from _item(
            "",
            f"{_search(plan, share_saved)}, {plan.device_hours(share_saved):.3g} {unit} with the pruning of "
            f"{plural(sweeps, 'earlier sweep')} ({share_saved:.0%} of the steps of {trials} trials saved)",
        )
    yield from _item(
        "besides",
        f"{_seconds(plan.ending_seconds)}: the references, about "
        f"{plural(min(FRONT, plan.trials), 'point')} measured again"
        + (", the certificate" if plan.spec.certify is not None else "")
        + _answers(plan.spec)
        + ("; the tasks of evaluate.lm_eval come on top, unmeasured" if plan.spec.evaluate.lm_eval else ""),
    )
    if plan.retrained:
        yield from _item(
            "finalists",
            f"{plan.retrained} models trained again, {_seconds(plan.retraining_seconds)} more; attacks on "
            "them and metrics that generate come on top, unmeasured",
        )
    yield from _item(
        "disk",
        f"up to {_bytes(plan.disk)} ({'an adapter' if plan.spec.update_kind.adapter else 'a saved model'} has "
        f"{_bytes(cost.saved)}); {_bytes(plan.disk_free)} are free",
    )
    yield "  Upper bounds: every trial is assumed to cost as much as the most expensive one."


def _answers(spec: Spec) -> str:
    """Whose answers are generated at the end."""
    of_probes = [metric for probe in spec.probes.values() for metric in probe.metrics]
    asked = {"probes": of_probes, "evaluate.final": spec.evaluate.final}
    named = [key for key, names in asked.items() if any(METRICS[n].needs == "generate" for n in names if n in METRICS)]
    return f", with the answers that {' and '.join(named)} ask for" if named else ""


def _search(plan: Plan, saved: float = 0.0) -> str:
    usual = f"usually {_seconds(plan.usual_seconds(saved))}, at most " if plan.spec.control.mixing else ""
    return f"{usual}{_seconds(plan.seconds(saved))}"


def _extrapolated(timed: int, of: int) -> str:
    return "" if timed == of else f", extrapolated from {timed} of {of:,} rows"


def _baseline(plan: Plan) -> str:
    """The metrics that limits and objectives read, as far as they were measured."""
    known, rows = plan.cost.baseline, plan.rows
    found = [f"{key} {known[key].value:.3g}" for key in plan.steering if key in known]
    lost = {key.partition(".")[0] for key in plan.steering if key not in known}
    takes = _seconds(sum(rows[name] for name in lost) * plan.cost.evaluation / plan.cost.timed[1][1])
    left = [f"{', '.join(sorted(lost))} rows not measured: that takes {takes}"] if lost else []
    return "; ".join([", ".join(found)] * bool(found) + left)


def _warnings(plan: Plan) -> Iterator[str]:
    if not plan.warnings:
        yield "  none"
    for warning in plan.warnings:
        yield textwrap.fill(warning, _WIDTH, initial_indent="  - ", subsequent_indent="    ")


def _item(key: str, text: str) -> Iterator[str]:
    lines = textwrap.wrap(text, _WIDTH - 15, break_long_words=False, break_on_hyphens=False) or [""]
    yield from (f"  {key if i == 0 else '':13}{line}" for i, line in enumerate(lines))


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.3g} {unit}" if size < 1000 else f"{size:.0f} {unit}"
        size /= 1024
    raise AssertionError
