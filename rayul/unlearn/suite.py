"""The full metric suite: every metric of every set of one model, with standard error and number of rows.

Keys are "<set>.<metric>". A metric is a function and a row: in PER_SET when it needs one set, in ACROSS when it needs
several or the oracle. What cannot be measured is named in `SuiteResult.skipped` with the reason, never left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayul.errors import InputError
from rayul.spec import metric_name
from rayul.unlearn import membership, text_quality, tofu
from rayul.unlearn.data import Sets
from rayul.unlearn.fits import check_fits, reworded
from rayul.unlearn.forward import Model
from rayul.unlearn.metrics import Measured, RowMetric, mean, measure
from rayul.unlearn.probe import MAX_NEW_TOKENS, Missing, Probe
from rayul.unlearn.template import AnyTemplate

if TYPE_CHECKING:
    from rich.table import Table

Floats = NDArray[np.float64]


class Probes(NamedTuple):
    """The model's probe by set, and the oracle's probe of the forget set."""

    sets: Mapping[str, Probe]
    oracle: Probe | None

    def of(self, key: str) -> Probe:
        if key not in self.sets:
            raise Missing(f"there are no {key} rows")
        return self.sets[key]


# --- metrics of one set ------------------------------------------------------------------------------------------


def option_probability(probe: Probe) -> Floats:
    return tofu.option_probability(probe.answer_logp, probe.perturbed_logp)


def log_truth_ratio(probe: Probe) -> Floats:
    return tofu.log_truth_ratio(probe.paraphrase_logp, probe.perturbed_logp)


def rouge(probe: Probe) -> Floats:
    return text_quality.rouge_l_recall([row.answer for row in probe.rows], probe.texts)


PER_SET: dict[str, Callable[[Probe], Measured]] = {
    "es": lambda probe: measure("es", probe.answers),
    "prob": lambda probe: measure("prob", probe.answers),
    "em": lambda probe: measure("em", probe.answers),
    "ppl": lambda probe: measure("ppl", probe.answers),
    "es_perturb": lambda probe: measure("es", probe.rephrased),
    "es_similar": lambda probe: mean(probe.similar),
    "prob_options": lambda probe: mean(option_probability(probe)),
    "truth_ratio": lambda probe: mean(tofu.truth_ratio(log_truth_ratio(probe))),
    "truthfulness": lambda probe: mean(tofu.truthfulness(log_truth_ratio(probe))),
    "rouge": lambda probe: mean(rouge(probe)),
    "empty": lambda probe: mean(text_quality.empty(probe.texts)),
    "repetition": lambda probe: mean(text_quality.repetition(probe.generated)),
    "distinct": lambda probe: text_quality.distinct(probe.generated),
}


# --- metrics that compare sets or models -------------------------------------------------------------------------

ATTACKS: dict[str, Callable[[Probe], Floats]] = {
    "mia_loss": lambda probe: membership.loss_score(probe.answers),
    "mia_zlib": lambda probe: membership.zlib_score(probe.answers, [row.answer for row in probe.rows]),
    "mia_min_k": lambda probe: membership.min_k_score([s.logp for s in probe.answers]),
    "mia_min_k_pp": lambda probe: membership.min_k_score(probe.standardised),
}
"""Membership scores of rows, higher for training data; the metric is the AUC of forget against holdout."""


def membership_auc(probes: Probes, attack: str) -> Measured:
    return membership.auc(ATTACKS[attack](probes.of("forget")), ATTACKS[attack](probes.of("holdout")))


def forget_quality(probes: Probes) -> Measured:
    """A p-value has no standard error: NaN."""
    forget = probes.of("forget")
    if probes.oracle is None:
        raise Missing("there is no oracle to compare with")
    value = tofu.forget_quality(log_truth_ratio(forget), log_truth_ratio(probes.oracle))
    return Measured(value, math.nan, len(forget.rows))


def model_utility(probes: Probes, retain: str) -> Measured:
    """TOFU's nine numbers with the sets real_authors and world_facts; six, of retain and general, without them."""
    kept = probes.of(retain)
    facts = ("real_authors", "world_facts")
    others = [probes.of(key) for key in (facts if set(facts) <= set(probes.sets) else ("general",))]
    return tofu.model_utility(
        [
            np.stack([rouge(kept), np.exp(kept.answer_logp), tofu.truthfulness(log_truth_ratio(kept))]),
            *(np.stack([rouge(p), option_probability(p), tofu.truthfulness(log_truth_ratio(p))]) for p in others),
        ]
    )


ACROSS: dict[str, Callable[[Probes], Measured]] = {
    "forget.forget_quality": forget_quality,
    "retain.model_utility": partial(model_utility, retain="retain"),
    "retain_report.model_utility": partial(model_utility, retain="retain_report"),
    **{f"forget.{attack}": partial(membership_auc, attack=attack) for attack in ATTACKS},
}

NAMES = (*PER_SET, *dict.fromkeys(key.split(".")[1] for key in ACROSS))
"""Every metric of the suite, in the order of its table."""

NOT_SCORED = ("retain_train",)
"""Rows that the unlearning loss keeps in place: a score on them measures the training, not the model."""


@dataclass(frozen=True)
class SuiteResult:
    """measured: by "<set>.<metric>"; skipped: why a key could not be measured."""

    measured: dict[str, Measured]
    skipped: dict[str, str]

    def to_json(self) -> str:
        """Strict JSON: {"measured": {key: {"value", "stderr", "rows"}}, "skipped": {key: reason}}.

        NaN and infinities are the strings "nan", "inf", "-inf", as in the journal.
        """
        measured = {
            key: {name: v if math.isfinite(v) else str(v) for name, v in m._asdict().items()}
            for key, m in self.measured.items()
        }
        return json.dumps({"measured": measured, "skipped": self.skipped}, indent=2, allow_nan=False)

    def table(self) -> Table:
        """A row a metric, a column a set, "value ± standard error"; what was skipped is a dash, explained below."""
        from rich.table import Table

        keys = [key.split(".") for key in (*self.measured, *self.skipped)]
        sets, names = dict.fromkeys(key[0] for key in keys), {key[1] for key in keys}
        reasons: dict[str, list[str]] = {}
        for key, reason in self.skipped.items():
            reasons.setdefault(reason, []).append(key)
        table = Table(caption="\n".join(f"- {', '.join(k)}: {reason}" for reason, k in reasons.items()) or None)
        table.add_column("metric")
        for key in sets:
            table.add_column(key, justify="right")
        for name in (*(n for n in NAMES if n in names), *sorted(names - set(NAMES))):
            table.add_row(name, *(self._cell(f"{key}.{name}") for key in sets))
        return table

    def _cell(self, key: str) -> str:
        if key not in self.measured:
            return "-" if key in self.skipped else ""
        value, stderr, _ = self.measured[key]
        return f"{value:.3g}" if math.isnan(stderr) else f"{value:.3g} ± {stderr:.1g}"


def evaluate_model(
    model: Model,
    tokenizer: Any,
    sets: Sets,
    template: AnyTemplate = None,
    oracle: Model | None = None,
    metrics: Collection[str] | None = None,
    batch_size: int = 64,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Callable[[str], None] | None = None,
    own: Mapping[str, RowMetric] | None = None,
) -> SuiteResult:
    """Measure `metrics` (default: all of NAMES) of a model, with or without adapters, on every set but retain_train.

    own: metrics of one's own, by name; in `metrics` they stand as in a spec, ./my_metric.py:fn.
    oracle: a model trained without the forget rows, for the forget quality; it shares tokenizer and template.
    sets may hold TOFU's real_authors and world_facts beside the usual keys. progress is told each key before it is
    measured. Costs a forward per answer, paraphrase and wrong answer, and one generation per question; es_similar
    generates once more per wrong token until a continuation is similar, so leave it out while searching.
    Raises InputError for an unknown metric, and for rows that do not fit into the model.
    """
    own = own or {}
    chosen = NAMES if metrics is None else tuple(map(metric_name, metrics))
    unknown = [name for name in chosen if name not in (*NAMES, *own)]
    if unknown:
        raise InputError(f"unknown metric {unknown[0]!r}", f"the metrics are {', '.join((*NAMES, *own))}")

    def probe(of: Model, key: str) -> Probe:
        return Probe(of, tokenizer, sets[key], template, batch_size, max_new_tokens)

    scored = {key: probe(model, key) for key, rows in sets.items() if rows and key not in NOT_SCORED}
    probes = Probes(scored, probe(oracle, "forget") if oracle is not None and "forget" in scored else None)
    check_fits(model, {key: one.examples for key, one in scored.items()})
    check_fits(model, {f"reworded {key}": reworded(tokenizer, template, sets[key]) for key in scored})
    result = SuiteResult({}, {})

    def record(key: str, measured: Callable[[], Measured]) -> None:
        if progress is not None:
            progress(key)
        try:
            result.measured[key] = measured()
        except Missing as missing:
            result.skipped[key] = missing.message

    for key, one in scored.items():
        for name, metric in PER_SET.items():
            if name in chosen:
                record(f"{key}.{name}", partial(metric, one))
        for name in (name for name in own if name in chosen):
            record(f"{key}.{name}", partial(measure, own[name], one.answers))
    for key, across in ACROSS.items():
        home, name = key.split(".")
        if name in chosen and home in scored:
            record(key, partial(across, probes))
    return result
