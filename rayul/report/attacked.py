"""What attacks on certified weights brought back, in words and for the page: sentences, a table, the curves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rayul.audit.recovery import Recovery, recoveries, shares
from rayul.records import adapter_name
from rayul.records.attacked import FINE_TUNE, INTERPOLATE, Attacked
from rayul.records.certificate import certified_folder
from rayul.records.folder import SweepRecords
from rayul.report.axes import short
from rayul.report.certified import certified
from rayul.report.check import Check, Verdict
from rayul.words import percent, plural

ES = "forget.es"
ROWS = {
    "own": "a tenth of the forgotten rows",
    "related": "rows to keep",
    "unrelated": "unrelated text",
}
"""What an attacker fine-tunes on. Of the forgotten rows, the other nine tenths are judged."""
NAMES = {
    INTERPOLATE: "interpolation with the base",
    "jailbreak": "jailbreak prompts",
    "paraphrase": "paraphrased questions",
    "noise": "noise in the question",
    "logit_lens": "the logit lens",
    "quantise": "quantisation",
}


@dataclass(frozen=True)
class AttackedSection:
    """What the template shows of one certified point. rows: attack, its worst variant, how many were tried, forget.es
    before and after, the share returned, when half was back; mark: "broken" where half or more came back. untried:
    what could not be tried, and why."""

    model: str
    lines: list[str]
    rows: list[tuple[str, str, str, str, str, str, str]]
    untried: list[str]
    curves: bool


def section(results: SweepRecords) -> AttackedSection | None:
    """Of the certified point that forgot most and was attacked; None where none was."""
    model = attacked_model(results)
    if model is None:
        return None
    mine = of_model(results, model)
    return AttackedSection(
        model=model,
        lines=attacked_lines(results),
        rows=[_row(one) for one in recoveries(mine)],
        untried=untried(mine),
        curves=any(row.attack == FINE_TUNE and row.es for row in mine),
    )


COMES_BACK = 0.5
"""Share of what was forgotten beyond which an attack that brings it back is worth a warning."""


def attacked_model(results: SweepRecords) -> str | None:
    """The certified point that forgot most of those that were attacked."""
    attacked = {row.model for row in results.attacked}
    return next((name for one in certified(results) if (name := adapter_name(one.e)) in attacked), None)


def worst_of(results: SweepRecords, model: str) -> Recovery | None:
    """The attack that left most of what this certified model had forgotten back; None where none was tried. Not
    interpolation with the weights before, which ends there."""
    return next((one for one in recoveries(of_model(results, model)) if one.row.attack != INTERPOLATE), None)


def recovery_check(results: SweepRecords) -> Iterator[Check]:
    """Whether it stays forgotten, of the best certified point once it was attacked."""
    model = attacked_model(results)
    worst = None if model is None else worst_of(results, model)
    if worst is None:
        return
    title = "Does it stay forgotten under attack?"
    if not worst.returned > 0:
        yield Check(title, "good", "Yes: no attack that was tried brought any of it back.")
    else:
        verdict: Verdict = "warning" if worst.returned > COMES_BACK else "good"
        said = "No" if worst.returned > COMES_BACK else "For the most part"
        told = f"{_told(worst)} brings back {percent(worst.returned)} of what was forgotten"
        yield Check(title, verdict, f"{said}: {told}.")


def of_model(results: SweepRecords, model: str) -> list[Attacked]:
    return [row for row in results.attacked if row.model == model]


def attacked_lines(results: SweepRecords) -> list[str]:
    """How much comes back of what the certified point had forgotten, in sentences; what to do where nothing has been
    tried yet; nothing where nothing is certified."""
    if not certified(results):
        return []
    model = attacked_model(results)
    lines = [
        f"No attack was tried yet: `rayul certify {results.folder}` goes on with attacks on these weights, and reads "
        "the certify rows no second time."
    ]
    return [*(lines if model is None else told_of(results, model)), *removal(results)]


def removal(results: SweepRecords) -> list[str]:
    """That certified adapters are undone by not loading them; nothing where whole models are certified."""
    if any((certified_folder(results.folder, one.e) / "adapter_config.json").exists() for one in certified(results)):
        return [
            "It is an adapter: whoever loads the base without it has everything back. Weights that it is merged into "
            "(`rayul export --certified --merge`) have no adapter to leave out; training may still bring it back."
        ]
    return []


def told_of(results: SweepRecords, model: str) -> list[str]:
    """What attacks on one certified folder brought back, in sentences; none where none was tried."""
    found = recoveries(of_model(results, model))
    way = [one for one in found if one.row.attack == INTERPOLATE]
    lines = []
    if tried := [one for one in found if one not in way]:
        worst, *others = tried
        lines.append(
            f"The worst attack on {model}, {_told(worst)}, raises {ES} from {worst.row.before:.2f} to "
            f"{worst.after:.2f}{spread(worst)}: {percent(worst.returned)} of what was forgotten is back{_half(worst)}."
        )
        if others:
            told = "; ".join(f"{name_of(one.row)} {_returned(one)}" for one in others)
            lines.append(f"The worst variant of each other attack brings back of it: {told}.")
    lines += [
        f"Interpolated with the weights before unlearning, half of it is back at {one.half}% of the way."
        for one in way
        if one.half is not None
    ]
    return lines


def untried(rows: Sequence[Attacked]) -> list[str]:
    """What could not be tried, and why; once for all variants of an attack with one reason."""
    variants = Counter(map(name_of, rows))
    found = Counter((name_of(row), row.reason) for row in rows if row.reason)
    return [
        f"{name}: {reason}" + (f" ({count} of {variants[name]} variants)" if count < variants[name] else "")
        for (name, reason), count in found.items()
    ]


def name_of(row: Attacked) -> str:
    """What an attack is called in a sentence."""
    if row.attack == FINE_TUNE:
        return f"fine-tuning on {ROWS.get(row.variant.partition(' ')[0], row.variant.partition(',')[0])}"
    return NAMES.get(row.attack, row.attack)


def _told(one: Recovery) -> str:
    if one.row.attack == FINE_TUNE:
        return f"{name_of(one.row)} ({_how(one)}, after {plural(one.at, 'step')})"
    return name_of(one.row) + (f" ({one.row.variant})" if one.row.variant else "")


def _how(one: Recovery) -> str:
    """Of fine-tuning, "LoRA, adamw, linear, lr 0.0005": without its rows, and without the steps of the whole budget."""
    return one.row.variant.partition(", ")[2].rpartition(", ")[0]


def _returned(one: Recovery) -> str:
    return percent(one.returned) if not one.returned <= 0 else "nothing"


def spread(one: Recovery) -> str:
    """ " ± 0.13": the standard error after the attack."""
    error = one.row.stderr[one.row.at.index(one.at)]
    return f" ± {error:.2f}" if math.isfinite(error) else ""


def _half(one: Recovery) -> str:
    if one.row.attack == FINE_TUNE and one.half is not None:
        return f", half of it within {plural(one.half, 'step')}" if one.half else ""
    return ""


def _row(one: Recovery) -> tuple[str, str, str, str, str, str, str]:
    half = "–"
    if one.half is not None and one.row.attack in (FINE_TUNE, INTERPOLATE):
        half = plural(one.half, "step") if one.row.attack == FINE_TUNE else f"{one.half}% of the way"
    mark = "broken" if one.returned >= 0.5 else ""
    return (
        name_of(one.row),
        (f"{_how(one)}, after {plural(one.at, 'step')}" if one.row.attack == FINE_TUNE else one.row.variant) or "–",
        str(one.tried),
        f"{one.row.before:.2f} → {one.after:.2f}{spread(one)}",
        "–" if math.isnan(one.returned) else _returned(one),
        half,
        mark,
    )


def recovery_figure(results: SweepRecords) -> dict[str, Any] | None:
    """forget.es over the steps of fine-tuning: the line that ends worst of each kind of rows and of what is trained, in
    front of all others. None where there is none."""
    model = attacked_model(results)
    lines = [] if model is None else [r for r in of_model(results, model) if r.attack == FINE_TUNE and r.es]
    if not lines:
        return None
    worst: dict[tuple[str, str], Attacked] = {}
    for row in lines:
        rows, trains = (part.strip() for part in row.variant.split(",")[:2])
        if (rows, trains) not in worst or max(row.es) > max(worst[rows, trains].es):
            worst[rows, trains] = row
    others = [row for row in lines if row not in worst.values()]
    data = [_trace("recovery-other", "Every other setting", others)] if others else []
    for (rows, trains), row in worst.items():
        role = f"recovery-{rows.partition(' ')[0]}"
        dash = "solid" if trains == "LoRA" else "dot"
        data.append(_trace(role, f"{rows}, {trains}", [row]) | {"line": {"dash": dash}})
    marks = [("before unlearning", results.baseline)]
    marks += [("oracle", results.oracle)] if results.oracle is not None else []
    levels = [(name, e.metrics[ES]) for name, e in marks if ES in e.metrics]
    shapes = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": {"dash": "dash", "width": 1.5}}
        for _, y in levels
    ]
    notes = [
        {"text": name, "xref": "paper", "x": 1, "xanchor": "right", "y": y, "yanchor": "bottom", "showarrow": False}
        for name, y in levels
    ]
    layout = {
        "xaxis": {"title": {"text": "Steps of fine-tuning"}, "rangemode": "tozero", "zeroline": False},
        "yaxis": {"title": {"text": f"{ES} of forgotten rows"}, "range": [0, 1.08], "zeroline": False},
        "shapes": shapes,
        "annotations": notes,
        "hovermode": "closest",
    }
    return {"data": data, "layout": layout}


def _trace(role: str, name: str, rows: Sequence[Attacked]) -> dict[str, Any]:
    trace: dict[str, list[Any]] = {"x": [], "y": [], "text": []}
    for row in rows:
        gap = [None] if trace["x"] else []
        trace["x"] += [*gap, *row.at]
        trace["y"] += [*gap, *short(row.es)]
        back = [f"<br>{percent(share)} returned" if math.isfinite(share) else "" for share in shares(row)]
        trace["text"] += [
            *gap,
            *(f"{row.variant}<br>step {at}: {ES} {es:.3f}{b}" for at, es, b in zip(row.at, row.es, back, strict=True)),
        ]
    return {
        "type": "scatter",
        "meta": role,
        "name": name,
        "mode": "lines+markers",
        "connectgaps": False,
        "hoverinfo": "text",
        **trace,
    }
