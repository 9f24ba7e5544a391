"""The full metric suite: every metric of every set of one model, with standard error and numbers of rows and groups.

Keys are "<set>.<metric>". What cannot be measured is named in `SuiteResult.skipped` with the reason, never left out.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rayul import spec as specs
from rayul.errors import InputError
from rayul.pace import Work
from rayul.spec import METRICS, is_certify_set, is_forget_set, metric_name
from rayul.spec.probes import holdout_of
from rayul.unlearn import suite_metrics
from rayul.unlearn.data import Sets
from rayul.unlearn.evaluate import measure
from rayul.unlearn.fits import check_fits, reworded
from rayul.unlearn.forward import Model
from rayul.unlearn.measured import Measured, mean
from rayul.unlearn.metrics import RowMetric
from rayul.unlearn.probe import Generation, Missing, Probe, Probes
from rayul.unlearn.template import AnyTemplate
from rayul.words import one_digit

if TYPE_CHECKING:
    from rich.table import Table


def is_scored(name: str) -> bool:
    """Whether the suite reads a set: not the rows that the unlearning loss keeps in place, where a score measures the
    training and not the model, and not those that the certificate alone may read."""
    return name != "retain_train" and not is_certify_set(name)


_NO_PROBES: Mapping[str, specs.ProbeRows] = MappingProxyType({})


@dataclass(frozen=True)
class SuiteResult:
    """measured: by "<set>.<metric>"; skipped: why a key could not be measured; notes: what is to be known of the
    numbers."""

    measured: dict[str, Measured]
    skipped: dict[str, str]
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Strict JSON: {"measured": {key: {"value", "stderr", "rows", "groups"}}, "skipped": {key: reason},
        "notes": [...]}.

        NaN and infinities are the strings "nan", "inf", "-inf", as in the journal.
        """
        measured = {
            key: {name: v if math.isfinite(v) else str(v) for name, v in m._asdict().items()}
            for key, m in self.measured.items()
        }
        found = {"measured": measured, "skipped": self.skipped, "notes": self.notes}
        return json.dumps(found, indent=2, allow_nan=False)

    def table(self) -> Table:
        """A row a metric, a column a set, "value ± standard error"; what was skipped is a dash, explained below."""
        from rich.table import Table

        keys = [key.split(".") for key in (*self.measured, *self.skipped)]
        sets, names = dict.fromkeys(key[0] for key in keys), {key[1] for key in keys}
        reasons: dict[str, list[str]] = {}
        for key, reason in self.skipped.items():
            reasons.setdefault(reason, []).append(key)
        below = [*self.notes, *(f"- {', '.join(k)}: {reason}" for reason, k in reasons.items())]
        table = Table(caption="\n".join(below) or None)
        table.add_column("metric")
        for key in sets:
            table.add_column(key, justify="right")
        for name in (*(n for n in METRICS if n in names), *sorted(names - METRICS.keys())):
            table.add_row(name, *(self._cell(f"{key}.{name}") for key in sets))
        return table

    def _cell(self, key: str) -> str:
        if key not in self.measured:
            return "-" if key in self.skipped else ""
        value, stderr, *_ = self.measured[key]
        return f"{value:.3g}" if math.isnan(stderr) else f"{value:.3g} ± {one_digit(stderr)}"


def evaluate_model(
    model: Model,
    tokenizer: Any,
    sets: Sets,
    template: AnyTemplate = None,
    oracle: Model | None = None,
    metrics: Collection[str] | None = None,
    batch_size: int = 64,
    max_new_tokens: int = specs.MAX_NEW_TOKENS,
    progress: Callable[[str, float], None] | None = None,
    own: Mapping[str, RowMetric] | None = None,
    oracle_auc: float | None = None,
    probes: Mapping[str, specs.ProbeRows] = _NO_PROBES,
) -> SuiteResult:
    """Measure `metrics` (default: all of METRICS) of a model, with or without adapters, on every set that `is_scored`.

    own: custom metrics, by name; in `metrics` they stand as in a spec, ./my_metric.py:fn. probes: by their sets, which
    are measured with their own metrics and lengths.
    oracle: a model trained without the forget rows, for forget_quality, mia_*_gap and privleak; it shares tokenizer
    and template. oracle_auc: in its place, for privleak alone (`evaluate.oracle_auc`).
    sets may hold TOFU's real_authors and world_facts beside the usual keys. progress is told each key before it is
    measured, and which share of the work is done. Costs a forward per answer, paraphrase and wrong
    answer, and one generation per question; es_similar generates once more per wrong token until a continuation is
    similar, so leave it out while searching.
    Raises InputError for an unknown metric, and for rows that do not fit into the model.
    """
    own = own or {}
    chosen = tuple(METRICS if metrics is None else map(metric_name, metrics))
    unknown = [name for name in chosen if name not in (*METRICS, *own)]
    if unknown:
        raise InputError(f"unknown metric {unknown[0]!r}", f"the metrics are {', '.join((*METRICS, *own))}")

    def probe(of: Model, key: str) -> Probe:
        asked = Generation.of(probes[key]) if key in probes else Generation(max_new_tokens)
        return Probe(of, tokenizer, sets[key], template, batch_size, asked)

    scored = {key: probe(model, key) for key, rows in sets.items() if rows and is_scored(key)}
    others = Probes(scored, None if oracle is None else {key: probe(oracle, key) for key in scored}, oracle_auc)
    check_fits(model, {key: one.examples for key, one in scored.items()})
    check_fits(model, {f"reworded {key}": reworded(tokenizer, template, sets[key]) for key in scored})
    result = SuiteResult({}, {})

    beside = {key: holdout_of(key) for key in probes if is_forget_set(key)}
    asked = []
    for key in [key for key in scored if key not in beside.values()]:
        wanted = probes[key].metrics_of(key) if key in probes else chosen
        names = [name for name in (*METRICS, *own) if name in wanted]
        only = {name: name not in own and key not in probes and METRICS[name].only for name in names}
        asked += [(key, name) for name in names if key in (only[name] or scored)]
    passes = _passes(asked, {key: len(one.rows) for key, one in scored.items()})
    work = Work(_by_kind(passes.values()), _SECONDS)
    for key, name in asked:
        if progress is not None:
            progress(f"{key}.{name}", work.share)
        holdout = beside.get(key, "")
        compared = Probes({"holdout": scored[holdout]}, None, oracle_auc) if holdout in scored else others
        started = time.perf_counter()
        try:
            result.measured[f"{key}.{name}"] = _measure(own.get(name, name), scored[key], compared)
        except Missing as missing:
            result.skipped[f"{key}.{name}"] = missing.message
        if (key, name) in passes:
            work.add(*passes[key, name], time.perf_counter() - started)
    notes = tuple(f"{key}: {one.stop_note}" for key, one in scored.items() if one.stop_note is not None)
    return replace(result, notes=notes)


_SECONDS = {"forward": 1.0, "passes": 4.0, "generate": 60.0, "es_similar": 200.0, "oracle": 4.0}
"""What a row costs beside others before any was measured: an answer is generated token by token."""


def _passes(asked: Sequence[tuple[str, str]], rows: Mapping[str, int]) -> dict[tuple[str, str], tuple[str, int]]:
    """By set and metric the kind of the passes that it makes, and their rows: the first metric of a kind makes those of
    its set, and the next ones find them made."""
    found: dict[tuple[str, str], tuple[str, int]] = {}
    for key, name in asked:
        kind = "es_similar" if name == "es_similar" else METRICS[name].needs if name in METRICS else "forward"
        if not any(k == key and of == kind for (k, _), (of, _) in found.items()):
            found[key, name] = (kind, rows[key])
    return found


def _by_kind(passes: Iterable[tuple[str, int]]) -> Counter[str]:
    total = Counter[str]()
    for kind, rows in passes:
        total[kind] += rows
    return total


def _measure(metric: str | RowMetric, probe: Probe, probes: Probes) -> Measured:
    if not isinstance(metric, str):
        return measure(metric, probe.answers, groups=probe.groups)
    row = METRICS[metric]
    probe = probe.having(row.column) if row.column else probe
    if row.needs == "forward":
        if row.column:
            probe.require(row.column)
        return measure(metric, probe.answers, groups=probe.groups)
    function = getattr(suite_metrics, metric)
    found = function(probe, probes) if row.only else function(probe)
    return mean(found, probe.groups) if row.mean_of_rows else found
